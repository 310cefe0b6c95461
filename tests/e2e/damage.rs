//! A log, a configuration or a push service that is not as it should be.

use std::{fs, path::PathBuf, time::Duration};

use anyhow::Context as _;
use bytes::Bytes;
use countersign::log::{Append, EventLog as _, EventRecord, Expected, StreamId, Urgency};
use countersign_envelope::Algorithm;
use countersign_proto::v1::{OutcomeKind, progress};
use countersign_tests::{
    Broker, Result, World,
    world::{PATIENCE, outcome},
};
use device_sim::{
    login::{Opened, Step, Update},
    push_services::Service,
};
use tonic::Code;

use crate::support::{approve, ask, ledger::Ledger, past::open_log, phone_refusal, refused, set, started};

/// An event of a type that this release does not know.
fn unknown_event(may_ignore: bool) -> EventRecord {
    EventRecord {
        kind: 9_999,
        version: 1,
        may_ignore,
        body: Bytes::from_static(b"\x08\x01"),
        sealed: Bytes::new(),
    }
}

async fn append(stopped: &Broker, stream: &str, event: EventRecord) -> Result<()> {
    let log = open_log(stopped)?;
    let append = Append {
        stream: stream.parse::<StreamId>()?,
        expected: Expected::Any,
        urgency: Urgency::Now,
        recorded_at_ms: 1,
        events: vec![event],
    };
    log.append(append).await?;
    log.close().await;
    Ok(())
}

#[tokio::test]
async fn nothing_is_decided_on_an_account_that_a_newer_release_has_written_to_and_all_others_go_on()
-> Result<()> {
    let mut world = World::new().await?;
    let alice = world.enrol("alice", Service::Fcm, Algorithm::Ed25519).await?;
    let bob = world.enrol("bob", Service::Fcm, Algorithm::Ed25519).await?;
    let carol = world.enrol("carol", Service::Fcm, Algorithm::Ed25519).await?;
    // Both have a sign-in that waits while the broker is away.
    let long = |account: &str| world.sign_in(account).lasting(Duration::from_secs(300));
    let (_, of_alice) = ask(&world.login, &long("alice")).await?;
    let (_, of_bob) = ask(&world.login, &long("bob")).await?;
    let ledger = Ledger::read(&world.broker).await?;
    let [alices, _, carols] = ledger.accounts()[..] else { panic!("three accounts") };
    assert!(world.broker.stopped().await?.success());
    append(&world.broker, alices, unknown_event(false)).await?;
    append(&world.broker, carols, unknown_event(true)).await?;
    started(&mut world).await?;

    let newer = (Code::FailedPrecondition, "STREAM_FROM_NEWER_RELEASE");
    refused(world.login.open(&world.sign_in("alice")).await, newer.0, newer.1);
    refused(world.login.get(&of_alice.approval_id).await, newer.0, newer.1);
    refused(world.login.watch(&of_alice.approval_id, 0).await, newer.0, newer.1);
    refused(world.login.cancel(&of_alice.approval_id).await, newer.0, newer.1);
    refused(world.page.begin("alice").await, newer.0, newer.1);
    refused(world.page.list("alice").await, newer.0, newer.1);
    let fetched = alice.phone.fetch(&world.transport, &of_alice.approval_id, world.now()).await;
    crate::support::assert_refused(&phone_refusal(fetched), newer.0, newer.1);
    refused(alice.phone.unenrol(&world.transport).await, newer.0, newer.1);
    assert!(world.broker.said().contains("event type 9999 version 1 is unknown"), "{}", world.broker.said());

    approve(&world, &bob.phone, &of_bob).await?;
    // What may be passed over is.
    let (_, of_carol) = ask(&world.login, &world.sign_in("carol")).await?;
    approve(&world, &carol.phone, &of_carol).await?;
    let entries = Ledger::read(&world.broker).await?;
    assert!(entries.of_accounts().len() > ledger.of_accounts().len());
    Ok(())
}

/// The newest segment of the journal.
fn segment(broker: &Broker) -> Result<PathBuf> {
    let files = fs::read_dir(broker.home().join("log/journal"))?;
    let mut files: Vec<_> = files.map(|file| Ok(file?.path())).collect::<Result<_>>()?;
    files.sort();
    files.pop().ok_or_else(|| anyhow::anyhow!("the journal has no segment"))
}

#[tokio::test]
async fn a_flipped_bit_in_the_journal_is_named_and_nothing_starts_on_it() -> Result<()> {
    let mut world = World::new().await?;
    let alice = world.enrol("alice", Service::Fcm, Algorithm::Ed25519).await?;
    let (_, issued) = ask(&world.login, &world.sign_in("alice")).await?;
    approve(&world, &alice.phone, &issued).await?;
    let before = Ledger::read(&world.broker).await?.decisions();
    assert!(world.broker.stopped().await?.success());
    let file = segment(&world.broker)?;
    let sound = fs::read(&file)?;
    // In the header of the segment, in the middle, and in the last record before the end.
    let end = sound.iter().rposition(|byte| *byte != 0).unwrap();
    for at in [20, 60, end / 2, end - 30] {
        let mut damaged = sound.clone();
        damaged[at] ^= 0x10;
        fs::write(&file, &damaged)?;
        let (status, said) = world.broker.start_in_vain()?;
        assert!(!status.success(), "byte {at}: started on a damaged log");
        let named = ["the log does not start", file.to_str().unwrap(), ", byte ", "position "];
        assert!(named.iter().all(|part| said.contains(part)), "byte {at}: {said}");
        assert_eq!(fs::read(&file)?, damaged, "byte {at}: nothing was changed");
    }
    fs::write(&file, &sound)?;
    started(&mut world).await?;
    assert_eq!(Ledger::read(&world.broker).await?.decisions(), before, "nothing is lost");
    assert_eq!(world.login.get(&issued.approval_id).await?.outcome.unwrap().kind(), OutcomeKind::Approved);
    Ok(())
}

#[tokio::test]
async fn a_journal_that_has_lost_its_end_does_not_start_either() -> Result<()> {
    let mut world = World::new().await?;
    world.enrol("alice", Service::Fcm, Algorithm::Ed25519).await?;
    assert!(world.broker.stopped().await?.success());
    let file = segment(&world.broker)?;
    let sound = fs::read(&file)?;
    let end = sound.iter().rposition(|byte| *byte != 0).unwrap();
    fs::write(&file, &sound[..end / 2])?;
    let (status, said) = world.broker.start_in_vain()?;
    assert!(!status.success(), "{said}");
    assert!(said.contains("the log does not start") && said.contains("position"), "{said}");
    fs::write(&file, &sound)?;
    started(&mut world).await
}

#[test]
fn a_typo_in_the_configuration_is_named_with_key_and_line() -> Result<()> {
    let mut broker = Broker::make("")?;
    let good = fs::read_to_string(broker.config_file())?;
    let line_of = |text: &str, key: &str| text.lines().position(|line| line.starts_with(key)).unwrap() + 1;
    let typos = [
        ("lifetime_s", "liftime_s", "unknown field `liftime_s`"),
        ("socket", "sockt", "unknown field `sockt`"),
        ("[telemetry]", "[telemtry]", "unknown field `telemtry`"),
        ("digits = 2", "digits = \"two\"", "must be a number, 2 to 6"),
        ("digits = 2", "digits = 2 2", "digits = 2 2"),
    ];
    for (right, wrong, says) in typos {
        let text = good.replacen(&format!("\n{right}"), &format!("\n{wrong}"), 1);
        broker.edit_configuration(|_| text.clone())?;
        let (status, _, said) = broker.command(&["config", "check"])?;
        let line = format!("line {}", line_of(&text, wrong));
        assert!(!status.success() && said.contains(says) && said.contains(&line), "{wrong}, {line}: {said}");
        let (status, said) = broker.start_in_vain()?;
        assert!(
            !status.success() && said.contains(says) && said.contains(&line),
            "serve says the same: {said}"
        );
    }
    let senseless =
        [("lifetime_s", "14", "must be a number, 15 to 300"), ("digits", "1", "must be a number, 2 to 6")];
    for (key, value, says) in senseless {
        let text = set(&good, &[(key, value)]);
        let line = line_of(&text, key);
        broker.edit_configuration(|_| text)?;
        let (status, _, said) = broker.command(&["config", "check"])?;
        let named = format!("line {line}");
        assert!(
            !status.success() && said.contains(&named) && said.contains(key) && said.contains(says),
            "{named}: {said}"
        );
    }
    broker.edit_configuration(|_| good)?;
    let (status, said, _) = broker.command(&["config", "check"])?;
    assert!(status.success() && said.contains("good"), "{said}");
    Ok(())
}

#[tokio::test]
async fn who_cannot_be_pushed_to_lists_what_waits_and_approves_all_the_same() -> Result<()> {
    let mut world = World::new().await?;
    let alice = world.enrol("alice", Service::Fcm, Algorithm::Ed25519).await?;
    let bob = world.enrol("bob", Service::Apns, Algorithm::Es256).await?;
    assert!(world.broker.stopped().await?.success());
    // Nobody listens there.
    let (apns, fcm) = (world.push.apns_url(), world.push.fcm_url());
    world.broker.edit_configuration(|text| {
        text.replace(&format!("endpoint = \"{apns}\""), "endpoint = \"https://localhost:1\"")
            .replace(&format!("endpoint = \"{fcm}\""), "endpoint = \"https://localhost:1\"")
    })?;
    started(&mut world).await?;
    for person in [&alice, &bob] {
        let account = person.phone.account_name();
        let Some(Opened::Issued(issued)) = world.login.open(&world.sign_in(account)).await? else {
            panic!("a push service that is away ends nothing");
        };
        let waiting = person.phone.list_waiting(&world.transport, world.now()).await?.challenges;
        assert_eq!(waiting[0].approval_id(), issued.approval_id);
        // Told while the approval waits, not when it is over.
        let mut updates = world.login.watch(&issued.approval_id, 1).await?;
        let next = tokio::time::timeout(PATIENCE, updates.next()).await.context("no progress comes")??;
        match next.context("the stream ended")?.step {
            Step::Progress(told) => {
                assert_eq!((told.kind, told.reason.as_str()), (progress::Kind::PushDelayed, "UNREACHABLE"));
            }
            other => panic!("not progress: {other:?}"),
        }
        approve(&world, &person.phone, &issued).await?;
        assert_eq!(outcome(&mut updates).await?.kind(), OutcomeKind::Approved);
    }
    Ok(())
}

#[tokio::test]
async fn a_push_service_that_is_not_configured_is_said_to_be_so() -> Result<()> {
    let mut world = World::new().await?;
    let alice = world.enrol("alice", Service::Fcm, Algorithm::Ed25519).await?;
    assert!(world.broker.stopped().await?.success());
    world.broker.edit_configuration(|text| text.rsplit_once("[push.fcm]").unwrap().0.to_owned())?;
    started(&mut world).await?;
    let (mut updates, issued) = ask(&world.login, &world.sign_in("alice")).await?;
    let Some(Update { step: Step::Progress(progress), .. }) = updates.next().await? else {
        panic!("it fails")
    };
    assert_eq!(progress.kind, progress::Kind::PushFailed);
    assert!(!progress.reason.is_empty());
    approve(&world, &alice.phone, &issued).await
}
