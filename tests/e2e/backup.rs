//! Backups: made while the broker works, checked byte by byte, and put back.

use std::{
    fs,
    os::unix::{
        fs::{MetadataExt as _, PermissionsExt as _},
        process::ExitStatusExt as _,
    },
    path::{Path, PathBuf},
    process::Command,
    sync::{Arc, Mutex},
};

use countersign::{
    keys,
    log::{Append, EventLog as _, EventRecord, Expected, StreamId, StreamKind, Urgency, backup},
};
use countersign_envelope::Algorithm;
use countersign_proto::v1::OutcomeKind;
use countersign_tests::{
    Broker, Result, World,
    programs::countersign,
    world::{PATIENCE, REALM, outcome, register},
};
use device_sim::{
    login::{ApiKey, LoginServer},
    phone::{Asked, Decision},
    push_services::Service,
    wire::Transport,
};
use tempfile::TempDir;
use tokio_util::sync::CancellationToken;

use crate::support::{approve, ask, past::open_log, set, started, world_with};

/// Folders for a backup's log and its keys.
struct Apart {
    folder: TempDir,
}

impl Apart {
    fn new() -> Result<Self> {
        Ok(Self { folder: tempfile::tempdir()? })
    }

    fn log(&self) -> PathBuf {
        self.folder.path().join("log")
    }

    fn keys(&self) -> PathBuf {
        self.folder.path().join("keys")
    }
}

/// Runs `countersign`: whether it succeeded, what it printed, what it said.
fn run(broker: &Broker, arguments: &[&str], paths: &[(&str, &Path)]) -> Result<(bool, String, String)> {
    let mut command = Command::new(countersign());
    command.args(arguments).arg("--config").arg(broker.config_file());
    for (option, path) in paths {
        command.arg(option).arg(path);
    }
    let done = command.output()?;
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    Ok((done.status.success(), text(&done.stdout), text(&done.stderr)))
}

fn create(broker: &Broker, to: &Path) -> Result<(bool, String, String)> {
    run(broker, &["backup", "create"], &[("--to", to)])
}

fn restore(broker: &Broker, from: &Path) -> Result<(bool, String, String)> {
    run(broker, &["restore"], &[("--from", from)])
}

/// Approves one sign-in after the other, and notes each of which the login was told.
async fn sign_in_until(
    world: Arc<World>,
    stop: CancellationToken,
    told: Arc<Mutex<Vec<String>>>,
) -> Result<()> {
    let alice = world.enrol("alice", Service::Fcm, Algorithm::Ed25519).await?;
    while !stop.is_cancelled() {
        let (mut updates, issued) = ask(&world.login, &world.sign_in("alice")).await?;
        approve(&world, &alice.phone, &issued).await?;
        outcome(&mut updates).await?;
        told.lock().unwrap().push(issued.approval_id);
    }
    Ok(())
}

async fn until_told(told: &Mutex<Vec<String>>, more: usize) -> Result<Vec<String>> {
    let enough = told.lock().unwrap().len() + more;
    let waiting = async {
        while told.lock().unwrap().len() < enough {
            tokio::time::sleep(std::time::Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(PATIENCE, waiting).await?;
    Ok(told.lock().unwrap().clone())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backup_under_load_holds_all_that_was_told_before_it_and_the_same_phone_signs_in_after_a_restore()
-> Result<()> {
    let settings = [("requests_per_5_min", "1000"), ("calls_per_s_of_device", "0"), ("digits", "6")];
    let world = Arc::new(world_with(&settings).await?);
    let bob = world.enrol("bob", Service::Apns, Algorithm::Es256).await?;
    let (stop, told) = (CancellationToken::new(), Arc::default());
    let load = tokio::spawn(sign_in_until(Arc::clone(&world), stop.clone(), Arc::clone(&told)));
    let apart = Apart::new()?;
    let paths = [("--to", apart.log()), ("--keys-to", apart.keys())];
    let mut before = Vec::new();
    for round in 0..3 {
        before = until_told(&told, 5).await?;
        let paths = paths.each_ref().map(|(option, path)| (*option, path.as_path()));
        let (well, said, error) =
            tokio::task::block_in_place(|| run(&world.broker, &["backup", "create"], &paths))?;
        assert!(well && said.contains("all up to position "), "round {round}: {said} {error}");
    }
    until_told(&told, 5).await?;
    stop.cancel();
    load.await??;
    let after = told.lock().unwrap().len();

    // The machine is lost: log and keys with it.
    let mut world = Arc::into_inner(world).unwrap();
    world.broker.kill()?;
    let home = world.broker.home();
    for folder in ["log", "keys"] {
        fs::rename(home.join(folder), home.join(format!("{folder}.lost")))?;
    }
    let paths = [("--from", apart.log()), ("--keys-from", apart.keys())];
    let paths = paths.each_ref().map(|(option, path)| (*option, path.as_path()));
    let (well, said, error) = run(&world.broker, &["restore"], &paths)?;
    assert!(well && said.contains("all up to position ") && error.contains("Going back"), "{said} {error}");
    let (status, said, _) = world.broker.command(&["log", "verify"])?;
    assert!(status.success() && said.contains("Sound."), "{said}");
    started(&mut world).await?;
    for approval in &before {
        let outcome = world.login.get(approval).await?.outcome.unwrap();
        assert_eq!(outcome.kind(), OutcomeKind::Approved, "{approval}");
    }
    assert!(before.len() < after, "the load went on behind the last backup");
    let (mut updates, issued) = ask(&world.login, &world.sign_in("bob")).await?;
    approve(&world, &bob.phone, &issued).await?;
    assert_eq!(outcome(&mut updates).await?.kind(), OutcomeKind::Approved);
    Ok(())
}

/// A broker that has run once, with small segments and so many entries of 300 bytes.
fn with_entries(entries: usize) -> Result<Broker> {
    let mut broker = Broker::make("")?;
    broker.edit_configuration(|text| text.replace("# segment_bytes = 67108864", "segment_bytes = 4096"))?;
    broker.start()?;
    broker.stop()?;
    append(&broker, entries, 0)?;
    Ok(broker)
}

fn append(stopped: &Broker, entries: usize, byte: u8) -> Result<()> {
    let append = |_| Append {
        stream: StreamId::new(StreamKind::Delivery, [7; 16]),
        expected: Expected::Any,
        urgency: Urgency::Now,
        recorded_at_ms: 1,
        events: vec![EventRecord {
            kind: 9_999,
            version: 1,
            may_ignore: true,
            body: vec![byte; 300].into(),
            sealed: bytes::Bytes::new(),
        }],
    };
    let log = open_log(stopped)?;
    let appending = async {
        for one in (0..entries).map(append) {
            log.append(one).await?;
        }
        log.close().await;
        Ok(())
    };
    tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(appending)
}

#[test]
fn a_changed_byte_anywhere_in_a_backup_is_found() -> Result<()> {
    let mut broker = Broker::make("")?;
    broker.start()?;
    let apart = Apart::new()?;
    let paths = [("--to", apart.log()), ("--keys-to", apart.keys())];
    run(&broker, &["backup", "create"], &paths.each_ref().map(|(option, path)| (*option, path.as_path())))?;
    broker.stop()?;
    backup::check(&apart.log())?;
    keys::backup::check(&apart.keys())?;
    let mut changed = 0;
    let of_log = || backup::check(&apart.log()).is_err();
    let of_keys = || keys::backup::check(&apart.keys()).is_err();
    let each = files(&apart.log())?.into_iter().map(|file| (file, &of_log as &dyn Fn() -> bool));
    for (file, found) in each.chain(files(&apart.keys())?.into_iter().map(|file| (file, &of_keys as _))) {
        let sound = fs::read(&file)?;
        // Every third, to be done in time; which bit, is another each time.
        for at in (0..sound.len()).step_by(3) {
            let mut bytes = sound.clone();
            bytes[at] ^= 1 << (at % 8);
            fs::write(&file, bytes)?;
            assert!(found(), "{} at {at}", file.display());
            changed += 1;
        }
        for shorter in [&sound[..sound.len() - 1], &[]] {
            fs::write(&file, shorter)?;
            assert!(found(), "{} cut", file.display());
        }
        fs::write(&file, &sound)?;
    }
    assert!(changed > 500, "all of it: {changed} bytes");

    // And as operators see it.
    let segment =
        files(&apart.log())?.into_iter().find(|file| file.extension().is_some_and(|end| end == "seg"));
    let segment = segment.unwrap();
    let mut bytes = fs::read(&segment)?;
    let last = bytes.len() - 1;
    bytes[last] ^= 1;
    fs::write(&segment, bytes)?;
    let verify = Command::new(countersign()).args(["backup", "verify"]).arg(apart.log()).output()?;
    let said = String::from_utf8_lossy(&verify.stderr).into_owned();
    assert!(!verify.status.success() && said.contains(".seg: is not what was written"), "{said}");
    let home = broker.home();
    fs::rename(home.join("log"), home.join("log.lost"))?;
    let (well, _, said) = restore(&broker, &apart.log())?;
    assert!(!well && said.contains("cannot be relied on"), "{said}");
    assert!(!home.join("log").exists(), "nothing was put into place");
    Ok(())
}

fn files(folder: &Path) -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        if path.is_dir() {
            found.extend(files(&path)?);
        } else if fs::metadata(&path)?.len() > 0 {
            found.push(path);
        }
    }
    Ok(found)
}

#[test]
fn the_next_backup_copies_only_what_is_new_and_what_an_interrupted_one_has_left_is_still_the_last()
-> Result<()> {
    let broker = with_entries(60)?;
    let apart = Apart::new()?;
    let to = apart.log();
    assert!(create(&broker, &to)?.0);
    let first = backup::check(&to)?;
    let inodes = || -> Result<Vec<(PathBuf, u64)>> {
        let mut all: Vec<_> = files(&to.join("journal"))?;
        all.sort();
        all.into_iter().map(|file| Ok((file.clone(), fs::metadata(file)?.ino()))).collect()
    };
    let (before, manifest) = (inodes()?, fs::read(to.join("manifest.json"))?);
    append(&broker, 40, 0)?;
    let (well, said, error) = create(&broker, &to)?;
    assert!(well, "{said} {error}");
    let second = backup::check(&to)?;
    assert_eq!(second.of.head, first.of.head.map(|head| head + 40));
    let kept = before[..before.len() - 2].to_vec();
    assert!(inodes()?.starts_with(&kept) && kept.len() > 2, "what was whole is not copied again");
    let written: usize = said.lines().nth(1).unwrap().split_whitespace().next().unwrap().parse()?;
    assert_eq!(written, second.files.len() - kept.len(), "{said}");

    // As if the second had been interrupted before its end.
    let newer = fs::read(to.join("manifest.json"))?;
    fs::write(to.join("manifest.json"), &manifest)?;
    assert_eq!(backup::check(&to)?, first);
    let elsewhere = Broker::make("")?;
    fs::remove_dir_all(elsewhere.home().join("keys"))?;
    let (well, said, error) = restore(&elsewhere, &to)?;
    assert!(well && error.contains("There are no keys in "), "{said} {error}");
    let (_, said, _) = elsewhere.command(&["log", "verify", "--json"])?;
    let report: serde_json::Value = serde_json::from_str(&said)?;
    assert_eq!(report["head"].as_u64(), first.of.head, "{report}");
    fs::write(to.join("manifest.json"), &newer)?;
    assert!(create(&broker, &to)?.0);
    Ok(())
}

/// The log's settings, so small that there is something to archive.
const SMALL_LOG: &str =
    "[log]\nsegment_bytes = 4096\nretention_days = 0\nretention_entries = 256\narchive_every_s = 86400\n";

/// How many segments of a log are archived.
fn archived(broker: &Broker) -> Result<usize> {
    let segments = files(&broker.home().join("log/journal"))?;
    Ok(segments.iter().filter(|file| file.extension().is_some_and(|end| end == "arc")).count())
}

#[tokio::test(flavor = "multi_thread")]
async fn an_archived_log_is_backed_up_while_it_serves_and_where_it_is_restored_old_sign_ins_are_shown_and_new_ones_approved()
-> Result<()> {
    let small = |text: String| {
        let text = text.replace("[log]\n", SMALL_LOG);
        set(&text, &[("requests_per_5_min", "1000"), ("calls_per_s_of_device", "0"), ("digits", "6")])
    };
    let world = Arc::new(World::with_edited("", small).await?);
    let bob = world.enrol("bob", Service::Fcm, Algorithm::Es256).await?;
    let (mut updates, old) = ask(&world.login, &world.sign_in("bob")).await?;
    approve(&world, &bob.phone, &old).await?;
    outcome(&mut updates).await?;
    for number in 0..100 {
        register(&world.broker, &format!("Service {number}"), REALM).await?;
    }
    let apart = Apart::new()?;
    let paths = [("--to", apart.log()), ("--keys-to", apart.keys())];
    let back_up = || {
        let paths = paths.each_ref().map(|(option, path)| (*option, path.as_path()));
        let (well, said, error) =
            tokio::task::block_in_place(|| run(&world.broker, &["backup", "create"], &paths))?;
        assert!(well, "{said} {error}");
        backup::check(&apart.log()).map_err(anyhow::Error::from)
    };
    // What the first one has copied as it was written, the second one meets compressed.
    let before = back_up()?;
    let (stop, told) = (CancellationToken::new(), Arc::default());
    let load = tokio::spawn(sign_in_until(Arc::clone(&world), stop.clone(), Arc::clone(&told)));
    until_told(&told, 5).await?;
    assert!(world.broker.command(&["log", "archive"])?.0.success());
    let at_first = archived(&world.broker)?;
    assert!(at_first > 3, "{at_first}");
    until_told(&told, 30).await?;
    back_up()?;
    assert!(world.broker.command(&["log", "archive"])?.0.success());
    assert!(archived(&world.broker)? > at_first, "what was last and open the last time is compressed, too");
    until_told(&told, 5).await?;
    let after = back_up()?;
    // And a first one of a log that has always been compressed.
    let afresh = Apart::new()?;
    let (well, said, error) = tokio::task::block_in_place(|| create(&world.broker, &afresh.log()))?;
    assert!(well, "{said} {error}");
    stop.cancel();
    load.await??;
    assert!(before.of.head < after.of.head && after.of.head <= backup::check(&afresh.log())?.of.head);
    assert!(after.files.starts_with(&before.files[..before.files.len() - 2]), "what was whole is as it was");
    let verify = Command::new(countersign()).args(["backup", "verify"]).arg(apart.log()).output()?;
    assert!(verify.status.success(), "{}", String::from_utf8_lossy(&verify.stderr));

    for from in [apart.log(), afresh.log()] {
        let mut elsewhere = Broker::make("")?;
        fs::remove_dir_all(elsewhere.home().join("keys"))?;
        let keys = apart.keys();
        let (well, said, error) =
            run(&elsewhere, &["restore"], &[("--from", &from), ("--keys-from", &keys)])?;
        assert!(well, "{said} {error}");
        assert_eq!(archived(&elsewhere)?, 0, "it is plain, and grows old again");
        let show = ["log", "show", "--json", "--approval", &old.approval_id];
        let (status, shown, error) = elsewhere.command(&show)?;
        assert!(status.success() && shown == world.broker.command(&show)?.1, "{shown} {error}");
        assert!(shown.lines().count() >= 2 && shown.contains("ApprovalApproved"), "{shown}");
        elsewhere.start()?;
        let (status, said, _) = elsewhere.command(&["log", "verify"])?;
        assert!(status.success() && said.contains("Sound."), "{said}");
        let there = Transport::to(elsewhere.address()).open()?;
        let login = LoginServer::new(&there, Some(ApiKey::new(&world.sign_in_key)));
        assert_eq!(login.get(&old.approval_id).await?.outcome.unwrap().kind(), OutcomeKind::Approved);
        let (mut updates, issued) = ask(&login, &world.sign_in("bob")).await?;
        let Asked::SignIn(challenge) = bob.phone.fetch(&there, &issued.approval_id, world.now()).await?.asked
        else {
            panic!("a trial came where a challenge should");
        };
        let yes = Decision::Approve { number: issued.number.expose() };
        bob.phone.answer(&there, &challenge, yes).await?;
        assert_eq!(outcome(&mut updates).await?.kind(), OutcomeKind::Approved);
    }
    Ok(())
}

#[test]
fn no_log_begins_where_a_restore_was_killed_until_it_is_done() -> Result<()> {
    let mut broker = with_entries(60)?;
    let apart = Apart::new()?;
    let paths = [("--to", apart.log()), ("--keys-to", apart.keys())];
    let paths = paths.each_ref().map(|(option, path)| (*option, path.as_path()));
    assert!(run(&broker, &["backup", "create"], &paths)?.0);
    let home = broker.home();
    for folder in ["log", "keys"] {
        fs::rename(home.join(folder), home.join(format!("{folder}.lost")))?;
    }
    // The operating system kills it in the middle of the first segment, which is longer.
    let killed = Command::new("sh")
        .args(["-c", "ulimit -c 0; ulimit -f 2; exec \"$@\"", "sh"])
        .arg(countersign())
        .args(["restore", "--config"])
        .arg(broker.config_file())
        .arg("--from")
        .arg(apart.log())
        .arg("--keys-from")
        .arg(apart.keys())
        .output()?;
    assert_eq!(killed.status.signal(), Some(25), "SIGXFSZ: {}", String::from_utf8_lossy(&killed.stderr));
    let left = home.join("log/journal.restoring");
    assert!(left.read_dir()?.next().is_some() && home.join("keys/broker-id").exists());

    let names = left.to_str().unwrap();
    let (status, said) = broker.start_in_vain()?;
    assert!(
        !status.success() && said.contains(names) && said.contains("run `countersign restore` again"),
        "{said}"
    );
    let (_, said, _) = broker.command(&["doctor", "--offline"])?;
    assert!(said.contains(names), "{said}");
    let (_, _, said) = broker.command(&["log", "show"])?;
    assert!(said.contains(names), "{said}");
    assert!(!home.join("log/journal").exists(), "nothing has begun there");

    let paths = [("--from", apart.log()), ("--keys-from", apart.keys())];
    let paths = paths.each_ref().map(|(option, path)| (*option, path.as_path()));
    let (well, said, error) = run(&broker, &["restore"], &paths)?;
    assert!(well && !left.exists(), "{said} {error}");
    broker.start()
}

#[test]
fn another_log_or_one_that_went_back_is_not_mixed_into_a_backup() -> Result<()> {
    let broker = with_entries(30)?;
    let apart = Apart::new()?;
    let to = apart.log();
    let older = broker.home().join("older");
    let copy = |from: &Path, to: &Path| Command::new("cp").arg("-a").arg(from).arg(to).status();
    let log = broker.home().join("log");
    copy(&log, &older)?;
    append(&broker, 5, 1)?;
    assert!(create(&broker, &to)?.0);
    let whole = backup::check(&to)?;
    let (well, _, said) = create(&with_entries(1)?, &to)?;
    assert!(!well && said.contains("holds the backup of another log"), "{said}");
    fs::remove_dir_all(&log)?;
    copy(&older, &log)?;
    let (well, _, said) = create(&broker, &to)?;
    assert!(!well && said.contains("and the log ends at "), "{said}");
    // It has gone on, and has as many entries again, others.
    append(&broker, 9, 2)?;
    let (well, _, said) = create(&broker, &to)?;
    assert!(!well && said.contains("before it was restored and went on"), "{said}");
    assert_eq!(backup::check(&to)?, whole, "the backup is what it was");
    // Damage does not get into it.
    let first = files(&log.join("journal"))?.into_iter().min().unwrap();
    let mut bytes = fs::read(&first)?;
    bytes[100] ^= 1;
    fs::write(&first, bytes)?;
    let (well, _, said) = create(&broker, &Apart::new()?.log())?;
    assert!(!well && said.contains("damage is not copied"), "{said}");
    Ok(())
}

#[test]
fn nothing_is_overwritten_and_keys_are_nobody_elses() -> Result<()> {
    let broker = with_entries(3)?;
    let home = broker.home();
    let apart = Apart::new()?;
    let to = apart.log();
    let inside = to.join("keys");
    let paths = [("--to", to.as_path()), ("--keys-to", inside.as_path())];
    let (well, _, said) = run(&broker, &["backup", "create"], &paths)?;
    assert!(!well && said.contains("say --with-keys") && !to.exists(), "{said}");
    let (well, _, said) = run(&broker, &["backup", "create", "--with-keys"], &[("--to", &to)])?;
    assert!(well && said.contains("whoever has this folder"), "{said}");
    for file in files(&to)? {
        assert_eq!(fs::metadata(&file)?.permissions().mode() & 0o777, 0o600, "{}", file.display());
    }
    for folder in [&to, &inside] {
        assert_eq!(fs::metadata(folder)?.permissions().mode() & 0o777, 0o700, "{}", folder.display());
    }
    for taken in [&home.join("log"), &home] {
        let (well, _, said) = create(&broker, taken)?;
        assert!(!well && said.contains("is not empty and holds no backup"), "{said}");
    }

    let journal = files(&home.join("log/journal"))?;
    let before: Vec<_> = journal.iter().map(|file| fs::read(file).unwrap()).collect();
    let (well, _, said) = restore(&broker, &to)?;
    assert!(!well && said.contains("nothing is overwritten"), "{said}");
    assert_eq!(before, journal.iter().map(|file| fs::read(file).unwrap()).collect::<Vec<_>>());

    // Another broker's keys are in the way.
    let other = Broker::make("")?;
    let (well, _, said) = restore(&other, &to)?;
    assert!(!well && said.contains("nothing is overwritten"), "{said}");
    fs::rename(&inside, apart.keys())?;
    let (well, _, said) = restore(&other, &to)?;
    assert!(!well && said.contains("nothing was done") && !other.home().join("log").exists(), "{said}");
    // The right ones that have survived are left alone.
    fs::remove_dir_all(home.join("log"))?;
    let (well, said, _) = restore(&broker, &to)?;
    assert!(well && said.contains("all up to position "), "{said}");
    let (status, said, _) = broker.command(&["log", "verify"])?;
    assert!(status.success(), "{said}");
    Ok(())
}
