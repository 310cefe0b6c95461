//! The broker on a disk that is full, or that fails: nothing is told that is not durable, and what the broker does is
//! what its log's design says.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on should say where")]

use std::time::Duration;

use anyhow::Result;
use countersign_proto::v1::OutcomeKind;
use countersign_tests::world::{APPLICATION, outcome};
use crashes::Stage;
use crashfs::{Crash, CutMode, Fault, Kind, Match, Trigger};
use device_sim::{
    login::{Opened, SignIn},
    phone::{Asked, Decision, Error, Number},
    wire::Refusal,
};

const PATIENCE: Duration = Duration::from_secs(60);

/// An approval of one of the accounts, which waits.
struct Waiting<'a> {
    stage: &'a Stage,
    account: usize,
    id: String,
    number: Number,
}

async fn waiting(stage: &Stage, account: usize) -> Result<Waiting<'_>> {
    let sign_in = SignIn::new(&stage.phones[account].0, APPLICATION).lasting(Duration::from_secs(120));
    match stage.world.login.open(&sign_in).await? {
        Some(Opened::Issued(issued)) => {
            Ok(Waiting { stage, account, id: issued.approval_id, number: issued.number })
        }
        other => anyhow::bail!("not issued: {other:?}"),
    }
}

impl Waiting<'_> {
    async fn approve(&self) -> Result<OutcomeKind, Error> {
        approve(self.stage, self.account, &self.id, &self.number).await
    }
}

async fn approve(stage: &Stage, account: usize, id: &str, number: &Number) -> Result<OutcomeKind, Error> {
    let (_, phone) = &stage.phones[account];
    let transport = &stage.world.transport;
    let fetched = phone.fetch(transport, id, stage.world.now()).await?;
    let Asked::SignIn(challenge) = &fetched.asked else { panic!("a trial came where a challenge should") };
    Ok(phone.answer(transport, challenge, Decision::Approve { number: number.expose() }).await?)
}

fn refused(error: &Error) -> &Refusal {
    match error {
        Error::Refused(refusal) => refusal,
        Error::NotShown(why) => panic!("not shown: {why}"),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn on_a_full_disk_everybody_is_told_to_come_again_and_nothing_is_lost() -> Result<()> {
    let stage = Stage::new().await?;
    let mut all = Vec::new();
    for account in 0..stage.phones.len() {
        for _ in 0..3 {
            all.push(waiting(&stage, account).await?);
        }
    }
    // What is left of the last page still fits.
    stage.fs.faults().set_capacity(Some(stage.fs.faults().used_bytes()));
    let (full, error) = 'full: {
        for one in &all {
            if let Err(error) = one.approve().await {
                break 'full (one, error);
            }
        }
        panic!("the disk is not full");
    };
    assert_eq!(refused(&error).reason(), Some("DISK_FULL"), "{error}");
    assert!(refused(&error).retry_after().is_some());
    let asked = stage.world.login.open(&SignIn::new(&stage.phones[1].0, APPLICATION)).await.unwrap_err();
    assert_eq!(asked.reason(), Some("DISK_FULL"), "{asked}");
    let standing = stage.world.login.get(&full.id).await?;
    assert!(standing.outcome.is_none(), "an outcome was told that is not durable");

    let mut updates = stage.world.login.watch(&full.id, 0).await?;
    stage.fs.faults().set_capacity(None);
    let said = loop {
        match full.approve().await {
            Err(error) if error.retry_helps() => tokio::time::sleep(Duration::from_millis(50)).await,
            other => break other,
        }
    };
    assert_eq!(said.unwrap(), OutcomeKind::Approved);
    assert_eq!(outcome(&mut updates).await?.kind(), OutcomeKind::Approved);
    Ok(())
}

/// Else the time that an answer takes would say who has enrolled a phone.
#[tokio::test(flavor = "multi_thread")]
async fn an_account_that_nobody_has_enrolled_waits_for_the_disk_as_one_does_that_cannot_be_reached()
-> Result<()> {
    let stage = Stage::new().await?;
    stage.fs.freeze_at(Trigger::before(1, Kind::Sync, "log/decoy"));
    let login = stage.world.login.clone();
    let asked = tokio::spawn(async move { login.open(&SignIn::new("nobody", APPLICATION)).await });
    assert!(stage.wait_frozen(PATIENCE).is_some(), "it is answered without a wait for the disk");
    assert!(!asked.is_finished());
    stage.fs.thaw();
    assert_eq!(asked.await?.unwrap_err().reason(), Some("ACCOUNT_NOT_FOUND"));
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_write_that_fails_ends_the_broker_and_nothing_is_told() -> Result<()> {
    failing_disk(Kind::Write, Crash::Kill).await
}

/// As Linux has it: the fsync fails once, the data can still be read, the next one succeeds and makes nothing durable,
/// and the power cut takes it.
#[tokio::test(flavor = "multi_thread")]
async fn an_fsync_that_fails_ends_the_broker_and_what_it_left_in_the_cache_is_never_told() -> Result<()> {
    failing_disk(Kind::Sync, Crash::PowerCut { mode: CutMode::ForgetAll, seed: 1 }).await
}

async fn failing_disk(kind: Kind, crash: Crash) -> Result<()> {
    let mut stage = Stage::new().await?;
    let Waiting { id, number, .. } = waiting(&stage, 0).await?;
    let fault = stage.fs.faults().inject(Fault::once(Match::new(kind, "log/journal/*")));

    let answered = approve(&stage, 0, &id, &number).await;
    assert!(answered.is_err(), "an answer was acknowledged that is not durable: {answered:?}");
    assert_eq!(stage.fs.faults().strikes(fault), 1);
    let ended = tokio::time::timeout(PATIENCE, stage.broker().ended()).await??;
    assert!(!ended.success(), "{ended}");
    let said = stage.world.broker.said();
    assert!(said.contains("can acknowledge nothing more") && said.contains("log/journal/"), "{said}");

    if let Crash::PowerCut { mode, seed } = crash {
        stage.fs.cut(mode, seed);
        stage.fs.thaw();
    }
    stage.broker().start()?;
    // The login has heard nothing; it and the phone go on, and hear the same.
    let said = match approve(&stage, 0, &id, &number).await {
        Ok(outcome) => outcome,
        Err(error) => error.has_ended().flatten().expect("the approval waits, or has ended"),
    };
    let mut updates = stage.world.login.watch(&id, 0).await?;
    assert_eq!(outcome(&mut updates).await?.kind(), said);
    Ok(())
}
