//! The load tool, as somebody runs it; and that it sees what should not be.

use std::{path::PathBuf, process::Command, time::Duration};

use countersign_proto::v1::OutcomeKind;
use countersign_tests::{Result, programs};
use device_sim::{
    load::{self, Mix, Pace, People, Plan, Progress, Report, Stage, compare::compare, logged::Logged},
    phone::Profile,
};
use serde_json::Value;

fn load(arguments: &[&str]) -> Result<(i32, String)> {
    let done = Command::new(programs::device_sim()).arg("load").args(arguments).output()?;
    let said = [done.stdout, done.stderr].concat();
    Ok((done.status.code().unwrap_or(-1), String::from_utf8(said)?))
}

#[test]
fn a_load_of_all_profiles_agrees_on_all_sides_through_a_kill_and_is_reported() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let file = |name: &str| folder.path().join(name).display().to_string();
    std::fs::write(
        file("mix"),
        "[profiles]\napprove = 4\ndeny = 1\nreport = 1\nignore = 1\nwrong-number = 1\nlate = 1\ntwice = 1\n\
         replayed = 1\nforged = 1\n[think]\nmedian_ms = 20\np95_ms = 100\n",
    )?;
    let (json, plot) = (file("json"), file("svg"));
    let (status, said) = load(&[
        "--phones",
        "12",
        "--approvals",
        "60",
        "--in-flight",
        "12",
        "--kill-broker",
        "1",
        "--seed",
        "7",
        "--mix",
        &file("mix"),
        "--json",
        &json,
        "--plot",
        &plot,
    ])?;
    assert_eq!(status, 0, "{said}");
    assert!(said.contains("page, phone and log agree about all of them"), "{said}");

    let report: Value = serde_json::from_str(&std::fs::read_to_string(json)?)?;
    assert_eq!(
        (&report["approvals"], &report["mismatches"], &report["kills"]),
        (&60.into(), &0.into(), &1.into())
    );
    let page = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/load.md"))?;
    for key in report.as_object().unwrap().keys() {
        assert!(page.contains(&format!("`{key}`")), "docs/load.md does not describe {key}");
    }
    let sent_away = report["sent_away"].as_object().unwrap();
    assert!(!sent_away.is_empty(), "pages came while the broker was away");
    let outcomes = report["outcomes"].as_object().unwrap();
    assert_eq!(outcomes.values().filter_map(Value::as_u64).sum::<u64>(), 60, "{outcomes:?}");
    for times in ["request_to_number", "answer_to_outcome", "login_to_outcome"] {
        let times = &report["latency_us"][times];
        assert!(
            times["count"].as_u64() > Some(0) && times["p50"].as_u64() <= times["max"].as_u64(),
            "{times}"
        );
    }
    assert!(report["broker"]["cpu_us_per_approval"].as_f64() > Some(0.0));
    assert!(report["broker"]["peak_bytes"].as_u64() > Some(1024 * 1024));
    let plot = std::fs::read_to_string(plot)?;
    assert!(plot.starts_with("<svg") && plot.matches("<polyline").count() == 3, "{plot}");
    Ok(())
}

/// Open loop, and a wrong outcome planted on each of the three sides.
#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_outcome_is_counted() -> Result<()> {
    let program: PathBuf = programs::countersign();
    let mut stage = Stage::make(&program).await?;
    let progress = Progress::default();
    let people = People::enrol(&stage, 4, &progress).await?;
    assert_eq!((people.len(), progress.enrolled()), (4, 4));
    let plan = Plan::of(8, Pace::Rate(20.0), Mix::only(Profile::Approve), Duration::from_secs(15));
    let mut records = load::run(&plan, &mut stage, &people, &progress).await?;
    assert_eq!((progress.begun(), progress.ended()), (8, 8));
    let logged = Logged::read(&stage).await?;
    let honest = compare(records.all(), &logged, &[]);
    assert_eq!(honest.mismatches, []);

    let [first, second, third, ..] = records.all_mut() else { panic!("eight sign-ins") };
    first.login = Ok(OutcomeKind::Denied);
    second.phone.as_mut().unwrap().said[0].reply = Ok(OutcomeKind::Denied);
    let id = third.approval_id.clone().unwrap();
    let mut logged = logged;
    logged.add(&format!(r#"{{"events":[{{"type":"ApprovalExpired","approval":"{id}"}}]}}"#))?;

    let planted = compare(records.all(), &logged, &[]);
    let report = Report::new(&records, &planted, stage.usage(), progress.sent_away());
    assert_eq!(report.mismatches, 3, "{report}");
    assert!(report.to_string().contains("the log says approved"), "{report}");
    Ok(())
}

#[test]
fn what_cannot_be_done_is_said_before_anything_is_done() -> Result<()> {
    let running = [
        &["--phones", "1", "--approvals", "1", "--rate", "1", "--broker", "http://127.0.0.1:1"][..],
        &["--sign-in-key-file", "/nowhere", "--enrolment-key-file", "/nowhere", "--push-dir", "/nowhere"],
    ]
    .concat();
    for (arguments, says) in [
        (&["--phones", "1", "--approvals", "1"][..], "--rate <R>|--in-flight <K>"),
        (&["--phones", "1", "--approvals", "1", "--rate", "0"], "--rate must be more than 0"),
        (&["--phones", "0", "--approvals", "1", "--rate", "1"], "0 is not in 1..=1000000"),
        (&["--phones", "1", "--approvals", "1", "--rate", "1", "--mix", "/nowhere"], "/nowhere"),
        (&["--phones", "1", "--approvals", "1", "--rate", "1", "--countersign", "/nowhere"], "build it with"),
        (
            &["--phones", "1", "--approvals", "1", "--rate", "1", "--json", "/nowhere/json"],
            "cannot be written",
        ),
        (
            &["--phones", "1", "--approvals", "1", "--rate", "1", "--plot", "/nowhere/svg"],
            "cannot be written",
        ),
        (&[&running[..], &["--config", "/nowhere"]].concat(), "/nowhere: is not there"),
        (&[&running[..], &["--config", "/"]].concat(), "make them: device-sim push-services --dir /nowhere"),
    ] {
        let (status, said) = load(arguments)?;
        assert_eq!(status, 2, "{said}");
        assert!(said.contains(says) && !said.contains("reading the log"), "{arguments:?}: {said}");
    }
    Ok(())
}
