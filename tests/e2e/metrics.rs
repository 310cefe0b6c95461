//! What Prometheus is told, and what dashboard, rules and documentation say of it.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
};

use countersign_envelope::Algorithm;
use countersign_tests::{
    Result, World,
    process::free_port,
    world::{PATIENCE, issued, outcome},
};
use device_sim::{phone::Decision, push_services::Service};
use serde_json::Value;

use crate::support::exposition::{Exposition, Family, matched_in, names_in};

/// A broker that is asked for metrics, and sends traces to where nobody is.
struct Seen {
    world: World,
    port: u16,
}

impl Seen {
    async fn new() -> Result<Self> {
        let (port, nobody) = (free_port()?, free_port()?);
        let sections = format!(
            "[metrics]\nlisten = \"127.0.0.1:{port}\"\n[traces]\nendpoint = \"http://127.0.0.1:{nobody}\"\n"
        );
        Ok(Self { world: World::with(&sections).await?, port })
    }

    async fn scrape(&self) -> Result<Exposition> {
        Exposition::of(self.port).await
    }

    /// One sign-in that is approved, one that is denied, one for nobody.
    async fn sign_ins(&self) -> Result<Vec<String>> {
        let world = &self.world;
        let alice = world.enrol("alice", Service::Fcm, Algorithm::Ed25519).await?;
        let mut approvals = Vec::new();
        for approves in [true, false] {
            let mut updates = world.login.request(&world.sign_in("alice").from_ip("192.0.2.7")).await?;
            let issued = issued(&mut updates).await?;
            let challenge = world.challenge(&alice).await?;
            let decision =
                if approves { Decision::Approve { number: issued.number.expose() } } else { Decision::Deny };
            alice.phone.answer(&world.transport, &challenge, decision).await?;
            outcome(&mut updates).await?;
            assert!(updates.next().await?.is_none());
            approvals.push(issued.approval_id);
        }
        assert!(world.login.request(&world.sign_in("nobody")).await.is_err());
        Ok(approvals)
    }

    /// Scrapes until this is so: what a call is counted as, is known when its last byte has gone.
    async fn scrape_until(&self, so: impl Fn(&Exposition) -> bool) -> Result<Exposition> {
        let scraped = async {
            loop {
                let exposition = self.scrape().await?;
                if so(&exposition) {
                    return Ok(exposition);
                }
                tokio::time::sleep(std::time::Duration::from_millis(20)).await;
            }
        };
        tokio::time::timeout(PATIENCE, scraped).await?
    }
}

#[tokio::test]
async fn each_step_of_a_sign_in_is_counted_once_and_nothing_personal_with_it() -> Result<()> {
    let mut seen = Seen::new().await?;
    let approvals = seen.sign_ins().await?;
    let of_request = [("method", "countersign.v1.Approvals/RequestApproval")];
    let now = seen
        .scrape_until(|now| {
            now.sum("countersign_grpc_requests_total", &of_request) >= 3.0
                && now.sum("countersign_pushes_total", &[("ending", "accepted")]) >= 3.0
                && now.sum("countersign_push_progress_total", &[("step", "accepted")]) >= 3.0
        })
        .await?;

    for (name, labels, count) in [
        ("countersign_approval_requests_total", &[("result", "issued")][..], 2.0),
        ("countersign_approval_requests_total", &[("result", "unknown_account")], 1.0),
        ("countersign_approval_requests_total", &[], 3.0),
        ("countersign_approval_request_duration_seconds_count", &[], 2.0),
        ("countersign_approvals_total", &[("outcome", "approved")], 1.0),
        ("countersign_approvals_total", &[("outcome", "denied")], 1.0),
        ("countersign_approvals_total", &[], 2.0),
        ("countersign_approval_duration_seconds_count", &[("outcome", "approved")], 1.0),
        ("countersign_answers_total", &[("result", "approved")], 1.0),
        ("countersign_answer_duration_seconds_count", &[], 2.0),
        ("countersign_outcome_told_duration_seconds_count", &[], 2.0),
        ("countersign_approvals_live", &[], 0.0),
        ("countersign_logins_waiting", &[], 0.0),
        ("countersign_enrolments_total", &[("ending", "active")], 1.0),
        ("countersign_enrolment_steps_total", &[("step", "trial")], 1.0),
        ("countersign_authenticators_bound_total", &[], 1.0),
        // The trial, two challenges; nobody else shows an approval that ended.
        ("countersign_pushes_total", &[("service", "fcm"), ("ending", "accepted")], 3.0),
        ("countersign_push_attempts_total", &[("service", "apns")], 0.0),
        ("countersign_push_attempts_in_flight", &[], 0.0),
        ("countersign_push_token_renewals_total", &[("service", "fcm"), ("result", "made")], 1.0),
        ("countersign_push_queue_depth", &[], 0.0),
        ("countersign_grpc_requests_total", &[of_request[0], ("code", "OK")], 2.0),
        ("countersign_grpc_requests_total", &[of_request[0], ("code", "NOT_FOUND")], 1.0),
        ("countersign_errors_total", &[("reason", "ACCOUNT_NOT_FOUND")], 1.0),
        ("countersign_log_disk_full", &[], 0.0),
        ("countersign_log_segments", &[], 1.0),
        ("countersign_follower_lag_entries", &[], 0.0),
    ] {
        assert!((now.sum(name, labels) - count).abs() < 0.1, "{name} {labels:?}: not {count}\n{}", now.text);
    }
    for name in [
        "countersign_log_head_position",
        "countersign_log_journal_bytes",
        "countersign_log_disk_free_bytes",
        "countersign_log_flush_duration_seconds_count",
        "countersign_log_written_bytes_total",
        "countersign_state_cache_lookups_total",
        "countersign_connections_open",
        "process_resident_memory_bytes",
        "process_open_fds",
    ] {
        assert!(now.sum(name, &[]) > 0.0, "{name} is 0");
    }
    let secrets = [seen.world.sign_in_key.as_str(), "alice", "nobody", "192.0.2.7", "Webmail", "example.org"];
    for secret in approvals.iter().map(String::as_str).chain(secrets) {
        assert!(!now.text.contains(secret), "{secret} stands in the metrics");
    }

    // Nobody was at the other end of the traces, and nobody but the operator has noticed.
    assert!(seen.world.broker.stopped().await?.success());
    let said = seen.world.broker.said();
    assert_eq!(said.matches("the collector of traces takes no spans").count(), 1, "{said}");
    Ok(())
}

#[tokio::test]
async fn metrics_follow_the_conventions_and_dashboard_rules_and_documentation_name_no_other() -> Result<()> {
    let seen = Seen::new().await?;
    seen.sign_ins().await?;
    let now = seen
        .scrape_until(|now| now.sum("countersign_grpc_requests_total", &[("code", "NOT_FOUND")]) > 0.0)
        .await?;
    for (name, family) in &now.families {
        follows_conventions(name, family);
    }
    assert_eq!(documented()?, now.families.iter().map(of_family).collect());

    // Of Prometheus itself.
    let of_others = "up";
    let exported = now.names();
    let (dashboard, rules) = (dashboard()?, rules()?);
    assert!(dashboard.len() > 50 && rules.len() > 10, "they were found");
    for expression in dashboard.iter().chain(&rules) {
        let names = names_in(expression);
        assert!(!names.is_empty(), "{expression}: names nothing");
        for name in names.iter().filter(|name| *name != of_others) {
            assert!(exported.contains(name.as_str()), "{expression}: no broker exports {name}");
        }
        for (name, label, value) in matched_in(expression) {
            // Prometheus' own, as the rules' head says.
            let is_there = label == "job" && value == "countersign" || now.has(&name, &label, &value);
            assert!(is_there, "{expression}: no {label} of {name} is ever {value}");
        }
    }

    // And only on its own listener.
    let public = reqwest::get(format!("{}/metrics", seen.world.broker.address())).await?;
    assert_eq!(public.status(), 404);
    assert_eq!(reqwest::get(format!("http://127.0.0.1:{}/", seen.port)).await?.status(), 404);
    Ok(())
}

/// Those of Prometheus ("Metric and label naming"): base units last in a name, `_total` after what only rises.
fn follows_conventions(name: &str, family: &Family) {
    const OTHER_UNITS: [&str; 10] =
        ["_ms", "_us", "_ns", "_millis", "_minutes", "_hours", "_kib", "_mib", "_kb", "_percent"];
    let Family { help, kind, samples } = family;
    assert!(name.starts_with("countersign_") || name.starts_with("process_"), "{name}: whose is it?");
    assert!(name.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'_'), "{name}");
    assert!(help.len() > 10, "{name}: what is it?");
    assert_eq!(kind == "counter", name.ends_with("_total"), "{name} is a {kind}");
    assert!(["counter", "gauge", "histogram"].contains(&kind.as_str()), "{name} is a {kind}");
    let bare = name.trim_end_matches("_total");
    assert!(!OTHER_UNITS.iter().any(|unit| bare.ends_with(unit)), "{name}: seconds and bytes");
    assert!(!bare.contains("duration") || bare.ends_with("_seconds"), "{name}: a duration is in seconds");
    assert!(!bare.contains("bytes") || bare.ends_with("_bytes"), "{name}: the unit comes last");
    assert!(!samples.is_empty(), "{name}: has no series");
    for sample in samples {
        let suffixes = if kind == "histogram" { &["_bucket", "_sum", "_count"][..] } else { &[""] };
        let suffix = &sample.name[name.len()..];
        assert!(suffixes.contains(&suffix), "{}: is no part of {name}", sample.name);
        assert_eq!(suffix == "_bucket", sample.labels.contains_key("le"), "{}", sample.name);
        for label in sample.labels.keys() {
            let ids = ["id", "ip", "account", "approval", "relying_party", "token", "name"];
            assert!(!ids.contains(&label.as_str()), "{name}: has as many series as there are of {label}");
        }
    }
}

/// A metric's name, type and labels, as the documentation and a broker say them.
type Described = BTreeMap<String, (String, BTreeSet<String>)>;

fn of_family((name, family): (&String, &Family)) -> (String, (String, BTreeSet<String>)) {
    (name.clone(), (family.kind.clone(), family.labels().into_iter().map(ToOwned::to_owned).collect()))
}

/// The rows of the page's tables: name, type, labels (each name in backticks before its colon), meaning.
fn documented() -> Result<Described> {
    let page = read("metrics.md")?;
    let rows = page.lines().filter_map(|line| line.strip_prefix("| `")?.strip_suffix(" |"));
    let described = rows.map(|row| {
        let cells: Vec<_> = row.split(" | ").collect();
        let [name, kind, labels, meaning] = cells[..] else { panic!("{row}: has not four cells") };
        assert!(meaning.len() > 10, "{name}: what does it say?");
        let labels = labels.split("; ").filter_map(|label| label.trim().strip_prefix('`')?.split_once("`:"));
        let labels = labels.map(|(label, _)| label.to_owned()).collect();
        (name.trim_end_matches('`').to_owned(), (kind.to_owned(), labels))
    });
    Ok(described.collect())
}

/// The expressions of all panels.
fn dashboard() -> Result<Vec<String>> {
    fn collect(value: &Value, found: &mut Vec<String>) {
        match value {
            Value::Object(fields) => {
                found.extend(fields.get("expr").and_then(Value::as_str).map(ToOwned::to_owned));
                fields.values().for_each(|inner| collect(inner, found));
            }
            Value::Array(items) => items.iter().for_each(|inner| collect(inner, found)),
            _ => {}
        }
    }
    let mut found = Vec::new();
    collect(&serde_json::from_str(&read("grafana-dashboard.json")?)?, &mut found);
    Ok(found)
}

/// The expressions of all rules: each on one line. Each rule also says what happened, and what to do.
fn rules() -> Result<Vec<String>> {
    let text = read("alerts.yml")?;
    let after = |key: &str| {
        let values =
            text.lines().filter_map(|line| line.trim_start().trim_start_matches("- ").strip_prefix(key));
        values.map(|value| value.trim().to_owned()).collect::<Vec<_>>()
    };
    let (rules, expressions) = (after("alert:"), after("expr:"));
    for said in ["expr:", "summary:", "what_to_do:", "labels:"] {
        assert_eq!(after(said).len(), rules.len(), "each rule has its {said}");
    }
    Ok(expressions)
}

fn read(file: &str) -> Result<String> {
    let folder: PathBuf = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/observability");
    Ok(fs::read_to_string(folder.join(file))?)
}

#[tokio::test]
async fn lines_are_json_where_that_is_asked_for_and_each_about_an_approval_has_its_id() -> Result<()> {
    let as_json = |text: String| text.replace("format = \"text\"", "format = \"json\"");
    let mut world = World::with_edited("", as_json).await?;
    world.enrol("alice", Service::Fcm, Algorithm::Ed25519).await?;
    let mut updates = world.login.request(&world.sign_in("alice")).await?;
    let approval = issued(&mut updates).await?.approval_id;
    world.login.cancel(&approval).await?;
    outcome(&mut updates).await?;
    drop(updates);
    assert!(world.broker.stopped().await?.success());
    let said = world.broker.said();
    let lines: Vec<Value> = said.lines().map(serde_json::from_str).collect::<Result<_, _>>()?;
    for message in ["requested", "approval ended"] {
        let line = lines.iter().find(|line| line["message"] == message).unwrap();
        assert_eq!(line["approval"], *approval, "{line}");
    }
    Ok(())
}
