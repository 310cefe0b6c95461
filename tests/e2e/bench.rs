//! The benchmarks, small: that they measure what they say, and say what they measured.

use std::{collections::BTreeSet, process::Command, time::Duration};

use countersign_tests::{Result, programs};
use device_sim::{
    load::{self, Mix, Pace, Past, People, Plan, Progress, Size, Stage, compare::compare, logged::Logged},
    phone::Profile,
};
use serde_json::Value;

fn bench(arguments: &[&str]) -> Result<(i32, String)> {
    let done = Command::new(programs::device_sim()).arg("bench").args(arguments).output()?;
    let said = [done.stdout, done.stderr].concat();
    Ok((done.status.code().unwrap_or(-1), String::from_utf8(said)?))
}

fn json(file: &std::path::Path) -> Result<Value> {
    Ok(serde_json::from_str(&std::fs::read_to_string(file)?)?)
}

#[test]
fn the_ceiling_is_measured_beside_the_broker_in_one_run() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let (file, plot) = (folder.path().join("ceiling.json"), folder.path().join("ceiling.svg"));
    let (status, said) = bench(&[
        "ceiling",
        "--phones=4",
        "--approvals=20",
        "--in-flight=4",
        "--rounds=1",
        "--seconds=1",
        "--json",
        &file.display().to_string(),
        "--plot",
        &plot.display().to_string(),
    ])?;
    assert_eq!(status, 0, "{said}");
    let picture = std::fs::read_to_string(&plot)?;
    for name in
        ["its bare parts", "the broker", "5 × calls", "appends, 1,024 waiting", "outcome p99, flushes"]
    {
        assert!(picture.contains(name), "{name}: {picture}");
    }
    for row in ["gRPC calls, bare", "pushes, bare", "checks, Ed25519 and ES256", "1024 waiting"] {
        assert!(said.contains(row), "{said}");
    }
    let figures = json(&file)?;
    let positive = |figure: &Value| assert!(figure.as_f64() > Some(0.0), "{figures}");
    for ratio in [
        "cpu_per_approval",
        "append_1",
        "append_64",
        "append_1024",
        "outcome_p50_flushes",
        "outcome_p99_flushes",
    ] {
        positive(&figures["ratios"][ratio]);
    }
    let round = &figures["rounds"][0];
    assert_eq!((&figures["pushes"]["accepted"], &round["whole"]["approvals"]), (&20.into(), &20.into()));
    for cost in [&round["calls"], &figures["pushes"], &round["whole"]] {
        positive(&cost["cpu_us"]);
    }
    Ok(())
}

#[test]
fn logins_that_wait_are_weighed_and_all_are_told_in_the_end() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let file = folder.path().join("waiting.json");
    let written = file.display().to_string();
    let (status, said) =
        bench(&["waiting", "--logins=20", "--phones=4", "--rate=20", "--think=5", "--json", &written])?;
    assert_eq!(status, 0, "{said}");
    let figures = json(&file)?;
    assert_eq!(
        (&figures["logins"], &figures["approved"], &figures["connections"]),
        (&20.into(), &20.into(), &1.into())
    );
    assert!(figures["waiting_bytes"].as_u64() >= figures["before_bytes"].as_u64(), "{figures}");
    assert!(figures["idle_cpu_us"].as_f64() >= Some(0.0), "{figures}");

    let (status, said) = bench(&["waiting", "--logins=1000", "--rate=5"])?;
    assert_eq!(status, 2, "{said}");
    assert!(said.contains("--rate 5: in 146 seconds 1000 logins cannot have come"), "{said}");
    Ok(())
}

#[test]
fn more_than_the_broker_can_do_is_asked_for_and_nothing_that_it_took_is_lost() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let file = folder.path().join("overload.json");
    let written = file.display().to_string();
    // It compares page, phone and log of each that was taken: one that is lost ends it with another status.
    let (status, said) = bench(&[
        "overload",
        // So many that no account is asked for more often than one may be, however fast the machine is.
        "--phones=128",
        "--approvals=100",
        "--share=0.2",
        "--times=2",
        "--seconds=1",
        "--json",
        &written,
    ])?;
    assert_eq!(status, 0, "{said}");
    assert!(said.contains("requests were taken, and all of them approved"), "{said}");
    let figures = json(&file)?;
    let number = |name: &str| figures[name].as_f64().unwrap_or_else(|| panic!("{name}: {figures}"));
    assert!(number("highest_per_second") > 0.0 && number("approved") > 0.0, "{figures}");
    let twice = number("asked_per_second") / number("highest_per_second");
    assert!((twice - 2.0).abs() < 0.01, "{figures}");
    let all = number("asked_per_second").ceil();
    let each = number("approved") + number("shed");
    assert!((each - all).abs() < 0.5, "each was approved or sent away: {figures}");
    let goodput = number("approved_per_second") / number("highest_per_second");
    assert!((number("goodput") - goodput).abs() < 0.01, "{figures}");
    assert!(figures["request_to_number_us"]["p99"].as_u64() > Some(0), "{figures}");
    assert_eq!(figures["cpu"].as_array().map(Vec::len), Some(2), "{figures}");
    Ok(())
}

#[test]
fn a_broker_with_a_long_past_is_measured_beside_one_with_a_short_one() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let file = folder.path().join("aged.json");
    let written = file.display().to_string();
    let (status, said) = bench(&[
        "aged",
        "--accounts=20",
        "--young=300",
        "--old=3000",
        "--phones=4",
        "--approvals=20",
        "--rounds=1",
        "--json",
        &written,
    ])?;
    assert_eq!(status, 0, "{said}");
    let figures = json(&file)?;
    for ratio in ["rate", "rate_cold", "memory", "memory_of_writer", "disk"] {
        assert!(figures["ratios"][ratio].as_f64() > Some(0.0), "{figures}");
    }
    for (age, events) in [("young", 300), ("old", 3_000)] {
        let age = &figures[age];
        assert_eq!(age["seeded"]["authenticators"], 40);
        let seeded = age["seeded"]["events"].as_u64();
        assert!(seeded >= Some(events) && seeded < Some(events + 60), "{age}");
        assert!(age["start_seconds"].as_f64() > Some(0.0) && age["rebuild_seconds"].as_f64() > Some(0.0));
        // Each of the four had to be read, since none had signed in after the start. Who has no past needs no reading.
        assert!(age["states_read"].as_u64() >= Some(4), "{age}");
    }
    let disk = said.lines().find(|line| line.starts_with("disk after archiving")).unwrap_or_default();
    assert!(
        disk.ends_with(&format!("{:.2}", figures["ratios"]["disk"].as_f64().unwrap_or_default())),
        "{said}"
    );
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn people_of_the_past_sign_in_to_the_very_accounts_that_the_log_has_had_since() -> Result<()> {
    let past = Past { accounts: 6, events: 300, people: 4 };
    let mut stage =
        Stage::sized(&programs::countersign(), Size { past: Some(past), ..Size::default() }).await?;
    let seeded: Value = serde_json::from_slice(stage.seeded())?;
    let last_position = seeded["last_position"].as_u64().expect("it is in the figures");
    let people = People::of_the_past(&stage)?;
    assert_eq!(people.len(), 4);
    let plan = Plan::of(8, Pace::InFlight(4), Mix::only(Profile::Approve), Duration::from_secs(15));
    let records = load::run(&plan, &mut stage, &people, &Progress::default()).await?;
    let logged = Logged::read_from(&stage, last_position + 1).await?;
    assert_eq!(compare(records.all(), &logged, &[]).mismatches, []);
    assert_eq!(logged.accounts_opened(), 0);

    let shown = Command::new(programs::countersign())
        .args(["log", "show", "--json", "--config"])
        .arg(stage.config_file())
        .output()?;
    let (mut opened, mut approved) = (BTreeSet::new(), BTreeSet::new());
    for entry in String::from_utf8(shown.stdout)?.lines() {
        let entry: Value = serde_json::from_str(entry)?;
        let is_past = entry["position"].as_u64() <= Some(last_position);
        for event in entry["events"].as_array().into_iter().flatten() {
            match event["type"].as_str() {
                Some("AccountOpened") if is_past => opened.insert(entry["stream"].to_string()),
                Some("ApprovalApproved") if !is_past => approved.insert(entry["stream"].to_string()),
                _ => continue,
            };
        }
    }
    assert_eq!((opened.len(), approved.len()), (6, 4));
    assert!(approved.is_subset(&opened), "{approved:?} {opened:?}");

    // Who enrols now is seen as that.
    People::enrol(&stage, 1, &Progress::default()).await?;
    assert_eq!(Logged::read_from(&stage, last_position + 1).await?.accounts_opened(), 1);
    Ok(())
}
