//! Entries as people read them: a line for each event, or all of it.

use std::io::{self, Write};

use serde_json::Value;

use super::Shaped;

/// What an event is about, the most telling first: that one is shown in full, to be copied.
const IDS: [&str; 7] =
    ["approval", "subject", "enrolment", "credential", "authenticator", "relying_party", "by"];
/// What else tells most of what happened.
const FACTS: [&str; 9] =
    ["realm", "name", "application", "because", "reason", "reported", "scope", "platform", "broker_id"];
/// Of what is personal, if it is opened.
const PERSONAL: [&str; 6] = ["name", "device_name", "number", "source_ip", "place", "browser"];

/// So many digits tell ids apart, for people.
const SHORT_DIGITS: usize = 8;
/// An id has so many digits at least; what is shorter is a word.
const ID_DIGITS_MIN: usize = 26;

/// A line for each event: position, time, stream, type, what it is about.
pub(super) fn short(out: &mut impl Write, entry: &Shaped, events: &[Value]) -> io::Result<()> {
    let stream = entry.stream.to_string();
    let stream =
        stream.split_once('/').map_or_else(String::new, |(kind, id)| format!("{kind}/{}", first(id)));
    for event in events {
        let kind = event["type"].as_str().unwrap_or("?");
        write!(out, "{:>8}  {:<24}  {stream:<22}  {kind}", entry.position, entry.recorded_at)?;
        let mut in_full = true;
        for (name, value) in IDS.iter().filter_map(|name| Some((name, event[name].as_str()?))) {
            match value {
                word if word.len() < ID_DIGITS_MIN => write!(out, "  {name}={}", quoted(word))?,
                id if in_full => write!(out, "  {name}={id}")?,
                // What belongs to an account begins with the account's id, so the end tells more.
                id => write!(out, "  {name}=…{}", last(id))?,
            }
            in_full = false;
        }
        let facts = FACTS.iter().map(|name| (name, &event[name]));
        let personal = PERSONAL.iter().map(|name| (name, &event["personal"][name]));
        let number = [(&"number", &event["number_sealed"]["number"])];
        for (name, value) in facts.chain(personal).chain(number) {
            match value {
                Value::Null => {}
                value => write!(out, "  {name}={}", quoted(&plain(value)))?,
            }
        }
        writeln!(out)?;
    }
    Ok(())
}

/// Each event's type on a line of its own, its fields below.
pub(super) fn long(out: &mut impl Write, entry: &Shaped, events: &[Value]) -> io::Result<()> {
    writeln!(out, "{:>8}  {}  {}", entry.position, entry.recorded_at, entry.stream)?;
    for event in events {
        writeln!(out, "          {}", event["type"].as_str().unwrap_or("?"))?;
        for (name, value) in event.as_object().into_iter().flatten().filter(|(name, _)| *name != "type") {
            field(out, name, value)?;
        }
    }
    Ok(())
}

fn field(out: &mut impl Write, name: &str, value: &Value) -> io::Result<()> {
    if let Value::Object(inner) = value {
        for (inner_name, value) in inner {
            field(out, &format!("{name}.{inner_name}"), value)?;
        }
        return Ok(());
    }
    // A time is stored in milliseconds, and written as people write it.
    let is_time = value.is_string() && (name.ends_with("_at_ms") || name.ends_with("until_ms"));
    let name = if is_time { name.trim_end_matches("_ms") } else { name };
    writeln!(out, "            {name}: {}", plain(value))
}

fn plain(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Array(values) => values.iter().map(plain).collect::<Vec<_>>().join(", "),
        other => other.to_string(),
    }
}

/// One word, whatever it is: what is in the log may have been chosen by somebody.
fn quoted(text: &str) -> String {
    let plain = |symbol: char| symbol.is_alphanumeric() || "-_.:@/+…".contains(symbol);
    if !text.is_empty() && text.chars().all(plain) { text.to_owned() } else { format!("{text:?}") }
}

fn first(id: &str) -> &str {
    id.get(..SHORT_DIGITS).unwrap_or(id)
}

fn last(id: &str) -> &str {
    id.len().checked_sub(SHORT_DIGITS).and_then(|from| id.get(from..)).unwrap_or(id)
}
