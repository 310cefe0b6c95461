//! The command `tests/soak`, for half a minute: too short to say what grows, and long enough for each fault twice.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on should say where")]

use std::{collections::BTreeMap, fs, process::Command};

use countersign_tests::programs;
use serde_json::Value;

const SECONDS: u32 = 31;

#[test]
fn every_fault_comes_twice_and_page_phone_and_log_agree_about_every_sign_in() {
    let folder = tempfile::tempdir().unwrap();
    let (json, plot) = (folder.path().join("soak.json"), folder.path().join("soak.svg"));
    // Built before the command looks for it.
    assert!(programs::countersign().exists());
    let run = Command::new(env!("CARGO_BIN_EXE_soak"))
        .args([
            "--minutes",
            &format!("{}", f64::from(SECONDS) / 60.0),
            "--phones",
            "40",
            "--rate",
            "25",
            "--seed",
            "1",
        ])
        .args(["--json".as_ref(), json.as_os_str(), "--plot".as_ref(), plot.as_os_str()])
        .env("NEXTEST", "built")
        .output()
        .unwrap();
    let said = format!("{}{}", String::from_utf8_lossy(&run.stdout), String::from_utf8_lossy(&run.stderr));
    assert!(run.status.success(), "{said}");
    assert!(said.contains("page, phone and log agree about all of them"), "{said}");
    assert!(said.contains("nothing is wrong"), "{said}");

    let report: Value = serde_json::from_str(&fs::read_to_string(json).unwrap()).unwrap();
    assert_eq!(report["load"]["mismatches"], 0);
    assert_eq!(report["load"]["approvals"], SECONDS * 25);
    assert!(report["unforeseen"].as_array().unwrap().is_empty(), "{said}");
    let faults = report["faults"].as_array().unwrap();
    let mut times = BTreeMap::<_, u64>::new();
    for fault in faults {
        assert_eq!(fault["has_come"], true, "{fault}");
        *times.entry(fault["ill"].as_str().unwrap()).or_default() += 1;
    }
    assert_eq!(times.keys().copied().collect::<Vec<_>>(), ["full", "read", "store", "sync", "write"]);
    assert!(times.values().all(|times| *times >= 2), "{times:?}");
    // By design a broker whose journal has failed ends: no other fault has ended one.
    let ends = report["ends"].as_u64().unwrap();
    assert!(ends >= times["sync"] + times["write"], "{ends}");
    let seconds = report["seconds"].as_array().unwrap();
    let lives = seconds.last().unwrap()["life"].as_u64().unwrap();
    assert!(lives > 1 && lives <= ends + 1, "{lives} lives, {ends} ends");
    let looks = u32::try_from(seconds.len()).unwrap();
    assert!((SECONDS - 3..=SECONDS + 1).contains(&looks), "{looks}");
    let sent_away = |reason: &str| seconds.iter().any(|second| second["sent_away"][reason].is_u64());
    assert!(sent_away("page: DISK_FULL"), "{said}");
    // So short a run says nothing about growth, and does not say that it does.
    assert!(
        report["flat"]["resident_bytes"].is_null() || report["flat"]["resident_bytes"]["is_flat"].is_null()
    );

    let plot = fs::read_to_string(plot).unwrap();
    for part in ["<svg", "resident memory", "open files", "latency", "full disk", "EIO at fsync"] {
        assert!(plot.contains(part), "{part}: {plot}");
    }
    let bands = plot.matches("fill-opacity").count();
    assert_eq!(bands, 5 + 3 * faults.len(), "a legend, and each fault behind each panel");
}
