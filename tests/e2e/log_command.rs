//! `countersign log`: what an operator sees of the log, and how a damaged one is mended.

use std::{
    fs,
    io::{BufRead as _, BufReader, Write as _},
    path::PathBuf,
    process::{Command, ExitStatus, Stdio},
};

use countersign_envelope::Algorithm;
use countersign_tests::{Broker, Result, World, programs, world::register};
use device_sim::push_services::Service;
use serde_json::Value;

use crate::support::{approve, ask};

/// How a command ended, and what it said.
struct Said {
    status: ExitStatus,
    out: String,
    err: String,
}

fn said(broker: &Broker, arguments: &[&str]) -> Result<Said> {
    let (status, out, err) = broker.command(&[&["log"], arguments].concat())?;
    Ok(Said { status, out, err })
}

/// The same, with an answer for who asks.
fn answered(broker: &Broker, arguments: &[&str], answer: &str) -> Result<Said> {
    let mut command = log_command(broker, arguments);
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()?;
    child.stdin.take().unwrap().write_all(answer.as_bytes())?;
    let done = child.wait_with_output()?;
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    Ok(Said { status: done.status, out: text(&done.stdout), err: text(&done.stderr) })
}

fn log_command(broker: &Broker, arguments: &[&str]) -> Command {
    let mut command = Command::new(programs::countersign());
    command.arg("log").args(arguments).arg("--config").arg(broker.config_file());
    command
}

impl Said {
    #[track_caller]
    fn succeeds(self, parts: &[&str]) -> Self {
        assert!(self.status.success(), "{}{}", self.out, self.err);
        assert!(self.err.is_empty(), "{}", self.err);
        self.contains(parts)
    }

    #[track_caller]
    fn fails(self, parts: &[&str]) -> Self {
        assert_eq!(self.status.code(), Some(1), "{}{}", self.out, self.err);
        self.contains(parts)
    }

    #[track_caller]
    fn contains(self, parts: &[&str]) -> Self {
        let all = format!("{}{}", self.out, self.err);
        for part in parts {
            assert!(all.contains(part), "{part:?} is not in: {all}");
        }
        self
    }

    fn last_line(&self) -> &str {
        self.out.lines().last().unwrap_or_default()
    }

    fn json(&self) -> Vec<Value> {
        self.out.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }
}

/// A broker that has written so many entries and runs.
async fn with_entries(entries: usize) -> Result<Broker> {
    let mut broker = Broker::make("")?;
    broker.start()?;
    // One for its key; then three for each relying party.
    for number in 0..(entries - 1) / 3 {
        register(&broker, &format!("Service {number}"), "example.org").await?;
    }
    assert_eq!(said(&broker, &["show"])?.out.lines().count(), entries);
    Ok(broker)
}

fn segment(broker: &Broker) -> Result<PathBuf> {
    let mut files = fs::read_dir(broker.home().join("log/journal"))?;
    let file = files.next().unwrap()?.path();
    assert!(files.next().is_none(), "one segment");
    Ok(file)
}

/// Flips a bit in the body of a record, counted from 1.
fn flip(broker: &Broker, record: usize) -> Result<Vec<u8>> {
    let file = segment(broker)?;
    let mut bytes = fs::read(&file)?;
    let at = (0..bytes.len() - 4).filter(|at| &bytes[*at..*at + 4] == b"ENTR").nth(record - 1).unwrap();
    bytes[at + 50] ^= 0x10;
    fs::write(file, &bytes)?;
    Ok(bytes)
}

fn hint(broker: &Broker) -> String {
    format!("`countersign log repair --config {}` says what can be done", broker.config_file().display())
}

#[tokio::test]
async fn verify_and_repair_say_who_has_the_log_and_whether_it_is_sound() -> Result<()> {
    let mut broker = Broker::make("")?;
    for command in ["tail", "show", "archive", "verify", "repair"] {
        said(&broker, &[command])?.fails(&["there is no log yet in ", ": `countersign serve` makes it"]);
    }
    assert!(!broker.home().join("log/lock").exists(), "nothing was made");

    broker.start()?;
    let running = said(&broker, &["verify"])?.succeeds(&["a broker is running on it"]);
    assert_eq!(running.last_line(), "Sound.");
    let in_use = format!(
        "{} is in use by another process: stop the broker first",
        broker.home().join("log").display()
    );
    said(&broker, &["repair"])?.fails(&[&in_use]);

    broker.kill()?;
    let killed = said(&broker, &["verify"])?.succeeds(&["it was not closed properly"]);
    assert_eq!(killed.last_line(), "Sound.");

    broker.start()?;
    assert!(broker.stopped().await?.success());
    let closed = said(&broker, &["verify"])?.succeeds(&["it was closed"]);
    assert_eq!(closed.last_line(), "Sound.");
    said(&broker, &["repair"])?.succeeds(&["nothing needs to be repaired"]);

    let report: Value = serde_json::from_str(&said(&broker, &["verify", "--json"])?.out)?;
    assert_eq!((&report["entries"], &report["in_use"]), (&1.into(), &false.into()));
    assert_eq!(
        (&report["findings"], &report["contradictions"]),
        (&Value::Array(vec![]), &Value::Array(vec![]))
    );
    let plan: Value = serde_json::from_str(&said(&broker, &["repair", "--json"])?.out)?;
    assert_eq!(plan["lost"], Value::Null);
    Ok(())
}

#[tokio::test]
async fn a_flipped_bit_that_the_store_can_fill_costs_nothing() -> Result<()> {
    let mut broker = with_entries(91).await?;
    let before = said(&broker, &["show", "--json"])?.out;
    assert!(broker.stopped().await?.success());
    let damaged = flip(&broker, 10)?;

    let (status, refused) = broker.start_in_vain()?;
    assert!(!status.success() && refused.contains("the log does not start"), "{refused}");
    assert!(refused.trim_end().ends_with(&hint(&broker)), "{refused}");
    let verified =
        said(&broker, &["verify"])?.fails(&["DAMAGED", "the body of a record is damaged", &hint(&broker)]);
    assert_eq!(verified.last_line(), "NOT SOUND: the finding is above.");

    let says = [
        "What is wrong:",
        "position 10",
        "with positions 1 to 91, 1 of them from the store",
        "Nothing would be lost.",
    ];
    answered(&broker, &["repair"], "no\n")?.succeeds(&says).contains(&["Nothing was done."]);
    answered(&broker, &["repair"], "\n")?.succeeds(&["Nothing was done."]);
    said(&broker, &["repair"])?.fails(&["nobody has answered: nothing was done"]);
    assert_eq!(fs::read(segment(&broker)?)?, damaged);

    answered(&broker, &["repair"], "y\n")?.succeeds(&says).contains(&["Done."]);
    let kept = broker.home().join("log/replaced/00000000000000000001.seg.0");
    assert_eq!(fs::read(kept)?, damaged);
    assert_eq!(said(&broker, &["show", "--json"])?.out, before);
    broker.start()?;
    assert_eq!(said(&broker, &["show", "--json"])?.out, before);
    Ok(())
}

#[tokio::test]
async fn intact_entries_behind_damage_that_nothing_can_fill_are_not_dropped_without_a_word() -> Result<()> {
    let mut broker = with_entries(7).await?;
    // Neither snapshot nor store knows anything.
    broker.kill()?;
    let damaged = flip(&broker, 3)?;
    let lost = "LOST FOR GOOD: positions 3 to 7; positions 4 to 7 can be read but not kept";
    answered(&broker, &["repair"], "y\n")?.succeeds(&[lost, "Nothing was done."]);
    let refused =
        "something would be lost for good: nothing was done; --yes does it only together with --accept-loss";
    let said_so = said(&broker, &["repair", "--yes"])?.fails(&[lost, refused]);
    assert!(!said_so.out.contains("Nothing would be lost"), "{}", said_so.out);
    assert_eq!(fs::read(segment(&broker)?)?, damaged);

    let plan: Value = serde_json::from_str(&said(&broker, &["repair", "--json"])?.out)?;
    assert_eq!((&plan["lost"]["first"], &plan["lost"]["last"]), (&3.into(), &7.into()));
    assert_eq!(plan["lost"]["readable"], serde_json::json!([[4, 7]]));

    let kept = broker.home().join("log/replaced/00000000000000000001.seg.0");
    said(&broker, &["repair", "--yes", "--accept-loss"])?.succeeds(&["Done.", kept.to_str().unwrap()]);
    assert_eq!(fs::read(kept)?, damaged);
    said(&broker, &["verify"])?.succeeds(&["2 entries", "Sound."]);
    broker.start()
}

#[tokio::test]
async fn a_log_that_was_cut_short_after_it_was_closed_is_not_cut_further() -> Result<()> {
    let mut broker = with_entries(7).await?;
    assert!(broker.stopped().await?.success());
    let file = segment(&broker)?;
    let sound = fs::read(&file)?;
    let cut = &sound[..sound.iter().rposition(|byte| *byte != 0).unwrap() - 100];
    fs::write(&file, cut)?;
    let finding =
        "snapshots/heads knows of position 7, but the journal ends at position 6: it has lost entries";

    let (status, refused) = broker.start_in_vain()?;
    assert!(!status.success() && refused.contains(finding) && !refused.contains("cut off"), "{refused}");
    assert!(refused.trim_end().ends_with(&hint(&broker)), "{refused}");
    let verified = said(&broker, &["verify"])?.fails(&[finding, "cannot be read", &hint(&broker)]);
    assert_eq!(verified.last_line(), "NOT SOUND: the finding is above.");
    answered(&broker, &["repair"], "no\n")?.succeeds(&[
        finding,
        "LOST FOR GOOD: position 7",
        "Nothing was done.",
    ]);
    assert_eq!(fs::read(&file)?, cut, "nothing was changed");

    answered(&broker, &["repair"], "yes\n")?.succeeds(&["set the snapshot heads aside", "Done."]);
    said(&broker, &["verify"])?.succeeds(&["6 entries", "Sound."]);
    broker.start()
}

#[tokio::test]
async fn a_log_whose_journal_has_vanished_is_no_new_one() -> Result<()> {
    let mut broker = with_entries(7).await?;
    assert!(broker.stopped().await?.success());
    let (file, aside) = (segment(&broker)?, broker.home().join("aside"));
    fs::rename(&file, &aside)?;
    let finding =
        ["log/journal is empty, but ", "log/snapshots/heads knows of 7 entries: is the volume mounted"];

    let (status, refused) = broker.start_in_vain()?;
    assert!(!status.success() && finding.iter().all(|part| refused.contains(part)), "{refused}");
    said(&broker, &["verify"])?.fails(&finding).contains(&["NOT SOUND"]);
    said(&broker, &["repair", "--yes"])?.fails(&finding).contains(&["nothing here that a repair could do"]);
    said(&broker, &["show"])?.fails(&["is missing"]);
    assert_eq!(fs::read_dir(broker.home().join("log/journal"))?.count(), 0);

    fs::rename(aside, file)?;
    broker.start()?;
    said(&broker, &["verify"])?.succeeds(&["Sound."]);
    Ok(())
}

#[tokio::test]
async fn the_log_is_shown_alike_whether_a_broker_runs_or_not() -> Result<()> {
    let mut broker = with_entries(7).await?;
    let ways: [&[&str]; 6] = [
        &["show"],
        &["show", "--long"],
        &["show", "--json"],
        &["show", "--from", "3", "--limit", "2"],
        &["tail", "-n", "3"],
        &["tail", "-n", "3", "--json"],
    ];
    let shown = |broker: &Broker| -> Result<Vec<String>> {
        ways.iter().map(|way| Ok(said(broker, way)?.succeeds(&[]).out)).collect()
    };
    let running = shown(&broker)?;
    for running in [true, false] {
        let beyond = said(&broker, &["show", "--from", "9999"])?;
        assert!(beyond.status.success() && beyond.out.is_empty(), "{running}");
        assert_eq!(beyond.err, "the log ends at position 7\n", "{running}");
        assert_eq!(said(&broker, &["show", "--from", "7"])?.succeeds(&[]).out.lines().count(), 1);
        if running {
            assert!(broker.stopped().await?.success());
        }
    }
    assert_eq!(shown(&broker)?, running);

    let lines = |way: usize| running[way].lines().collect::<Vec<_>>();
    assert_eq!((lines(0).len(), lines(3).len(), lines(4).len()), (7, 2, 3));
    assert_eq!((&lines(0)[2..4], &lines(0)[4..]), (&lines(3)[..], &lines(4)[..]));
    assert!(
        lines(0)[0].contains("KeyIntroduced") && lines(0)[1].contains(r#"name="Service 0""#),
        "{}",
        running[0]
    );
    let entries = said(&broker, &["show", "--json"])?.json();
    for (at, entry) in entries.iter().enumerate() {
        assert_eq!(entry["position"], at + 1);
        let stream = entry["stream"].as_str().unwrap();
        let of_stream = said(&broker, &["show", "--json", "--stream", stream])?.json();
        assert!(of_stream.contains(entry) && of_stream.iter().all(|other| other["stream"] == stream));
    }
    let registered = entries[1]["events"][0]["relying_party"].as_str().unwrap();
    assert_eq!(entries[1]["stream"], format!("relying-party/{registered}"));
    said(&broker, &["tail", "--follow"])?.fails(&["there is nothing to follow"]);
    Ok(())
}

#[tokio::test]
async fn an_approval_is_found_by_its_account_and_what_is_personal_is_shown_only_with_the_key() -> Result<()> {
    let mut world = World::new().await?;
    let alice = world.enrol("alice", Service::Fcm, Algorithm::Ed25519).await?;
    let (_, issued) = ask(&world.login, &world.sign_in("alice")).await?;
    approve(&world, &alice.phone, &issued).await?;
    for running in [true, false] {
        let of_approval = ["show", "--approval", &issued.approval_id];
        let lines = said(&world.broker, &of_approval)?.succeeds(&[
            "ApprovalRequested",
            "ApprovalApproved",
            &format!("approval={}", issued.approval_id),
        ]);
        assert!(lines.out.lines().all(|line| line.contains(&issued.approval_id)), "{}", lines.out);
        let json = said(&world.broker, &[&of_approval[..], &["--json"]].concat())?.json();
        let account = json[0]["stream"].as_str().unwrap().strip_prefix("account/").unwrap();
        // Two bits of the account's last digit are something else's in the longer id.
        assert!(issued.approval_id.starts_with(&account[..25]), "{account}");

        let long = said(&world.broker, &["show", "--long"])?.succeeds(&[
            "policy.digits: 2",
            "expires_at: 2",
            "personal: sealed, ",
            "number_sealed: sealed, ",
        ]);
        assert!(!long.out.contains('{') && !long.out.contains("_at_ms"), "{}", long.out);
        let sealed = said(&world.broker, &["show", "--json"])?.succeeds(&[]);
        let short = said(&world.broker, &["show"])?.succeeds(&[]);
        for shown in [&long, &sealed, &short] {
            assert!(!shown.out.contains("alice"), "{}", shown.out);
        }
        said(&world.broker, &["show", "--open"])?.succeeds(&["name=alice", r#"device_name="alice's phone""#]);
        said(&world.broker, &["show", "--open", "--long"])?
            .succeeds(&["personal.name: alice", "number_sealed.number: "]);
        let open = said(&world.broker, &["show", "--open", "--json"])?.json();
        assert_eq!(
            open.iter().map(|entry| &entry["position"]).collect::<Vec<_>>(),
            sealed.json().iter().map(|entry| &entry["position"]).collect::<Vec<_>>()
        );
        if running {
            assert!(world.broker.stopped().await?.success());
        }
    }
    fs::rename(world.broker.home().join("keys"), world.broker.home().join("no-keys"))?;
    said(&world.broker, &["show"])?.succeeds(&["ApprovalRequested"]);
    said(&world.broker, &["show", "--open"])?.fails(&["keys"]);
    Ok(())
}

/// A broker with segments and parts of its store that are small, which archives when it is told to.
async fn with_old_entries() -> Result<(Broker, usize)> {
    let mut broker = Broker::make("")?;
    broker.edit_configuration(|text| {
        let small = "[log]\nsegment_bytes = 4096\nretention_days = 0\nretention_entries = 256\n\
                     archive_every_s = 86400\n";
        text.replace("[log]\n", small)
    })?;
    broker.start()?;
    for number in 0..100 {
        register(&broker, &format!("Service {number}"), "example.org").await?;
    }
    Ok((broker, 301))
}

fn archived_files(broker: &Broker) -> Result<usize> {
    let mut archived = 0;
    for file in fs::read_dir(broker.home().join("log/journal"))? {
        archived += usize::from(file?.path().extension().is_some_and(|extension| extension == "arc"));
    }
    Ok(archived)
}

#[tokio::test]
async fn an_archived_log_is_shown_and_verified_as_before_whether_a_broker_archives_it_or_nobody_runs()
-> Result<()> {
    for running in [true, false] {
        let (mut broker, entries) = with_old_entries().await?;
        let before = said(&broker, &["show", "--json"])?.succeeds(&[]).out;
        assert_eq!((before.lines().count(), archived_files(&broker)?), (entries, 0));
        if !running {
            assert!(broker.stopped().await?.success());
        }
        let report: Value = serde_json::from_str(&said(&broker, &["archive", "--json"])?.succeeds(&[]).out)?;
        let compressed = report["archived"].as_array().unwrap().len();
        assert!(compressed > 3, "{report}");
        assert_eq!(archived_files(&broker)?, compressed);
        assert_eq!((&report["left_store"][0], &report["damaged"]), (&1.into(), &Value::Array(vec![])));
        let bytes = |name: &str| report[name].as_u64().unwrap();
        assert!(bytes("journal_bytes_after") < bytes("journal_bytes_before"), "{report}");
        // sled may be writing while it runs.
        assert!(running || bytes("store_bytes_after") < bytes("store_bytes_before"), "{report}");
        said(&broker, &["archive"])?.succeeds(&["no segment was compressed", "nothing has left sled"]);
        for starts in [false, true] {
            if starts && running {
                assert!(broker.stopped().await?.success());
            } else if starts {
                broker.start()?;
            }
            assert_eq!(said(&broker, &["show", "--json"])?.succeeds(&[]).out, before, "{running}");
            let verified = said(&broker, &["verify"])?.succeeds(&[".arc", "301 entries"]);
            assert_eq!(verified.last_line(), "Sound.");
        }
        assert!(broker.home().join("log/journal/00000000000000000001.arc").exists());
    }
    Ok(())
}

#[tokio::test]
async fn a_damaged_archive_is_said_with_its_place_and_mended_from_nothing_but_what_there_is() -> Result<()> {
    let (mut broker, _) = with_old_entries().await?;
    said(&broker, &["archive"])?.succeeds(&[
        "00000000000000000001.arc  positions 1 to ",
        "have left sled",
        "journal: ",
        "sled: ",
    ]);
    assert!(broker.stopped().await?.success());
    let file = broker.home().join("log/journal/00000000000000000001.arc");
    let mut bytes = fs::read(&file)?;
    bytes[100] ^= 1;
    fs::write(&file, &bytes)?;
    let finding = [
        "00000000000000000001.arc, byte 48: the body of a record is damaged",
        "cannot read on from position 1",
    ];
    said(&broker, &["verify"])?.fails(&finding).contains(&["DAMAGED", &hint(&broker)]);
    said(&broker, &["show"])?.fails(&finding);
    said(&broker, &["repair", "--yes"])?.fails(&["LOST FOR GOOD: positions 1 to 301"]);
    assert_eq!(fs::read(&file)?, bytes, "nothing was changed");
    Ok(())
}

#[tokio::test]
async fn a_broker_archives_by_itself() -> Result<()> {
    let (mut broker, _) = with_old_entries().await?;
    assert!(broker.stopped().await?.success());
    broker.edit_configuration(|text| text.replace("archive_every_s = 86400", "archive_every_s = 1"))?;
    broker.start()?;
    let archived = async {
        while archived_files(&broker)? == 0 || !broker.said().contains("archived") {
            tokio::task::yield_now().await;
        }
        Ok(())
    };
    tokio::time::timeout(std::time::Duration::from_secs(60), archived).await?
}

#[tokio::test]
async fn who_follows_the_log_sees_what_comes() -> Result<()> {
    let broker = with_entries(4).await?;
    let mut command = log_command(&broker, &["tail", "-n", "1", "--follow"]);
    let mut child = command.stdout(Stdio::piped()).spawn()?;
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    assert!(lines.next().unwrap()?.contains("CredentialIssued"));
    register(&broker, "Another", "example.org").await?;
    let next = lines.next().unwrap()?;
    assert!(next.contains("RelyingPartyRegistered") && next.contains("name=Another"), "{next}");
    // Whoever has read enough goes away; the next entry tells the program so.
    drop(lines);
    register(&broker, "One more", "example.org").await?;
    register(&broker, "And one more", "example.org").await?;
    assert!(tokio::task::spawn_blocking(move || child.wait()).await??.success());
    Ok(())
}

#[tokio::test]
async fn who_reads_only_the_beginning_is_no_error() -> Result<()> {
    let mut broker = with_entries(7).await?;
    for running in [true, false] {
        for arguments in [&["show"][..], &["show", "--long"], &["show", "--json"], &["tail"], &["verify"]] {
            let mut command = log_command(&broker, arguments);
            let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()?;
            drop(child.stdout.take());
            let done = child.wait_with_output()?;
            let err = String::from_utf8_lossy(&done.stderr);
            assert!(done.status.success() && err.is_empty(), "{arguments:?}, {running}: {err}");
        }
        if running {
            assert!(broker.stopped().await?.success());
        }
    }
    Ok(())
}
