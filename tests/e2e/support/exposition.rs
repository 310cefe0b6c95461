//! Metrics as Prometheus reads them (text format, version 0.0.4), and the names in expressions that ask for them.

use std::collections::{BTreeMap, BTreeSet};

use countersign_tests::Result;

/// One scrape.
#[derive(Debug)]
pub(crate) struct Exposition {
    pub(crate) text: String,
    pub(crate) families: BTreeMap<String, Family>,
}

#[derive(Debug, Default)]
pub(crate) struct Family {
    pub(crate) help: String,
    pub(crate) kind: String,
    pub(crate) samples: Vec<Sample>,
}

#[derive(Debug)]
pub(crate) struct Sample {
    pub(crate) name: String,
    pub(crate) labels: BTreeMap<String, String>,
    pub(crate) value: f64,
}

impl Exposition {
    /// What the listener on this port exports.
    pub(crate) async fn of(port: u16) -> Result<Self> {
        let response = reqwest::get(format!("http://127.0.0.1:{port}/metrics")).await?;
        assert_eq!(response.headers()["content-type"], "text/plain; version=0.0.4; charset=utf-8");
        Ok(Self::parse(response.text().await?))
    }

    fn parse(text: String) -> Self {
        let mut families = BTreeMap::<String, Family>::new();
        let mut current = String::new();
        for line in text.lines() {
            if let Some((name, help)) = line.strip_prefix("# HELP ").and_then(|rest| rest.split_once(' ')) {
                name.clone_into(&mut current);
                let family = Family { help: help.to_owned(), ..Family::default() };
                assert!(families.insert(current.clone(), family).is_none(), "{name}: twice");
            } else if let Some((name, kind)) =
                line.strip_prefix("# TYPE ").and_then(|rest| rest.split_once(' '))
            {
                assert_eq!(name, current, "HELP and TYPE stand together");
                kind.clone_into(&mut families.get_mut(name).unwrap().kind);
            } else {
                let sample = Sample::parse(line);
                assert!(sample.name.starts_with(&current), "{line}: stands under {current}");
                families.get_mut(&current).unwrap().samples.push(sample);
            }
        }
        Self { text, families }
    }

    /// The sum of the series of this name that have these labels; 0 where there is none.
    pub(crate) fn sum(&self, name: &str, labels: &[(&str, &str)]) -> f64 {
        let samples = self.families.values().flat_map(|family| &family.samples);
        let has = |sample: &&Sample| {
            sample.name == name
                && labels.iter().all(|(key, value)| sample.labels.get(*key).is_some_and(|it| it == value))
        };
        samples.filter(has).map(|sample| sample.value).sum()
    }

    /// Whether a series of this name has this label.
    pub(crate) fn has(&self, name: &str, label: &str, value: &str) -> bool {
        let mut samples = self.families.values().flat_map(|family| &family.samples);
        samples.any(|sample| sample.name == name && sample.labels.get(label).is_some_and(|it| it == value))
    }

    /// The names of all series.
    pub(crate) fn names(&self) -> BTreeSet<&str> {
        self.families.values().flat_map(|family| &family.samples).map(|sample| sample.name.as_str()).collect()
    }
}

impl Family {
    /// The names of its labels, but that of a histogram's buckets.
    pub(crate) fn labels(&self) -> BTreeSet<&str> {
        let labels = self.samples.iter().flat_map(|sample| sample.labels.keys());
        labels.map(String::as_str).filter(|name| *name != "le").collect()
    }
}

impl Sample {
    /// Values here have no quotes, commas or braces in them.
    fn parse(line: &str) -> Self {
        let (series, value) = line.rsplit_once(' ').unwrap();
        let (name, labels) = series.split_once('{').unwrap_or((series, "}"));
        let labels = labels.trim_end_matches('}').split(',').filter_map(|pair| pair.split_once('='));
        let labels = labels.map(|(key, value)| (key.to_owned(), value.trim_matches('"').to_owned()));
        Self { name: name.to_owned(), labels: labels.collect(), value: value.parse().unwrap() }
    }
}

/// The names of series in a PromQL expression: what is left of it without strings, matchers, ranges and label lists, and
/// is neither called nor a word of the language.
pub(crate) fn names_in(expression: &str) -> BTreeSet<String> {
    const WORDS: [&str; 11] = [
        "and",
        "bool",
        "by",
        "group_left",
        "group_right",
        "ignoring",
        "offset",
        "on",
        "or",
        "unless",
        "without",
    ];
    const BEFORE_LABELS: [&str; 6] = ["by", "without", "on", "ignoring", "group_left", "group_right"];
    let mut names = BTreeSet::new();
    let mut rest = expression;
    let mut word_before = String::new();
    while let Some(first) = rest.chars().next() {
        let is_in_name = |letter: char| letter.is_ascii_alphanumeric() || letter == '_' || letter == ':';
        match first {
            '"' | '\'' => rest = behind(&rest[1..], first),
            '[' => rest = behind(&rest[1..], ']'),
            '{' => {
                // A brace in a matcher's string does not end the matchers.
                rest = &rest[1..];
                while !rest.starts_with('}') {
                    let next = rest.find(['"', '}']).expect("matchers end");
                    rest = if rest[next..].starts_with('"') {
                        behind(&rest[next + 1..], '"')
                    } else {
                        &rest[next..]
                    };
                }
                rest = &rest[1..];
            }
            '(' if BEFORE_LABELS.contains(&word_before.as_str()) => rest = behind(&rest[1..], ')'),
            // A number, with the unit of a duration or not.
            '0'..='9' => rest = rest.trim_start_matches(is_in_name),
            letter if is_in_name(letter) => {
                let end = rest.find(|letter| !is_in_name(letter)).unwrap_or(rest.len());
                let (word, after) = rest.split_at(end);
                let called = after.trim_start().starts_with('(');
                let aggregates =
                    ["by", "without"].iter().any(|one| after.trim_start().starts_with(&format!("{one} (")));
                if !called && !aggregates && !WORDS.contains(&word) {
                    names.insert(word.to_owned());
                }
                word.clone_into(&mut word_before);
                rest = after;
                continue;
            }
            other => rest = &rest[other.len_utf8()..],
        }
        if !first.is_whitespace() {
            word_before.clear();
        }
    }
    names
}

/// The values that an expression's matchers ask for: metric, label and value of each, without those that a dashboard's
/// variable stands for.
pub(crate) fn matched_in(expression: &str) -> Vec<(String, String, String)> {
    let mut found = Vec::new();
    for (before, matchers) in expression.match_indices('{').map(|(at, _)| expression.split_at(at)) {
        let is_in_name = |letter: char| letter.is_ascii_alphanumeric() || letter == '_';
        let metric = &before[before.trim_end_matches(is_in_name).len()..];
        // A brace in a matcher's string is in front of no name.
        if metric.is_empty() || metric.starts_with(|first: char| first.is_ascii_digit()) {
            continue;
        }
        for matcher in matchers[1..].split_once('}').map_or("", |(inside, _)| inside).split(',') {
            let (label, values) = matcher.split_once('=').expect("a matcher has a value");
            let values = values.trim_start_matches('~').trim_matches('"');
            for value in values.split('|').filter(|value| !value.starts_with('$')) {
                found.push((metric.to_owned(), label.trim_end_matches('!').to_owned(), value.to_owned()));
            }
        }
    }
    found
}

fn behind(text: &str, end: char) -> &str {
    text.split_once(end).map_or("", |(_, rest)| rest)
}

#[test]
fn names_are_found_in_expressions_and_nothing_else_is() {
    let found = |expression| Vec::from_iter(names_in(expression));
    assert_eq!(
        found(r#"sum by (instance, le) (rate(a_bucket{x=~"b{2}|c", y="d"}[5m])) > 0.1"#),
        ["a_bucket"]
    );
    assert_eq!(
        found("histogram_quantile(0.99, sum(rate(a[$__rate_interval])) by (le)) / on(job) group_left(v) b"),
        ["a", "b"]
    );
    assert_eq!(
        found(r#"(a_seconds > 0) - time() < 14 * 24 * 3600 or up{job="x"} offset 1h unless c:d"#),
        ["a_seconds", "c:d", "up"]
    );
    assert_eq!(found("topk(5, x) > bool 1e3"), ["x"]);
}

#[test]
fn values_are_found_in_matchers() {
    let found = matched_in(r#"sum(rate(a_total{x=~"b|c",y="$d"}[5m])) / a{z!="e"} > 2"#);
    let expected = [("a_total", "x", "b"), ("a_total", "x", "c"), ("a", "z", "e")];
    assert_eq!(found, expected.map(|(a, b, c)| (a.to_owned(), b.to_owned(), c.to_owned())));
}
