//! The benchmarks, small: that they measure what they say, and say what they measured.

use std::process::Command;

use countersign_tests::{Result, programs};
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
    for ratio in ["rate", "memory", "memory_of_writer", "disk"] {
        assert!(figures["ratios"][ratio].as_f64() > Some(0.0), "{figures}");
    }
    for (age, events) in [("young", 300), ("old", 3_000)] {
        let age = &figures[age];
        assert_eq!(age["seeded"]["authenticators"], 40);
        let seeded = age["seeded"]["events"].as_u64();
        assert!(seeded >= Some(events) && seeded < Some(events + 60), "{age}");
        assert!(age["start_seconds"].as_f64() > Some(0.0) && age["rebuild_seconds"].as_f64() > Some(0.0));
    }
    Ok(())
}
