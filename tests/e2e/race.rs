//! An attacker signs in while the victim does, and hopes that the victim's phone approves the wrong one.
//!
//! Two sign-ins of one account live together, again and again, with a fresh account each time. They never show the same
//! number, and an answer to one never ends the other, whatever order things happen in.

use std::{env, sync::Arc};

use countersign_envelope::{Algorithm, EnrolmentCode};
use countersign_proto::{event::v1::EventType, v1::OutcomeKind};
use countersign_tests::{Result, World};
use device_sim::{
    login::{EnrolmentStep, Issued, Opened},
    phone::{Broker, Decision, Invitation, NewPhone, Phone, PushTarget},
    push_services::Service,
};
use futures::{StreamExt as _, TryStreamExt as _, stream};

use crate::support::{assert_ended, challenge_of, ledger::Ledger, refusal};

/// As many as the work order asks for; fewer, or more, on request.
fn pairs() -> usize {
    env::var("COUNTERSIGN_RACE_PAIRS").map_or(1_000, |pairs| pairs.parse().expect("a number of pairs"))
}

/// Pairs that are under way at a time.
const CONCURRENT: usize = 24;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_attackers_sign_in_never_shows_the_victims_number_and_never_shares_its_end() -> Result<()> {
    let world = Arc::new(World::new().await?);
    let begun = world.page.begin("the first").await?;
    let broker = Invitation::scanned(&begun.uri)?.broker(&world.transport).await?;
    let pairs = pairs();
    stream::iter(0..pairs)
        .map(|pair| {
            let (world, broker) = (Arc::clone(&world), Arc::clone(&broker));
            tokio::spawn(async move { race(&world, &broker, pair).await })
        })
        .buffer_unordered(CONCURRENT)
        .map(|done| done.map_err(anyhow::Error::from)?)
        .try_collect::<()>()
        .await?;
    let ledger = Ledger::read(&world.broker).await?;
    assert_eq!(ledger.count(EventType::ApprovalRequested), 2 * pairs);
    let ends = [
        EventType::ApprovalApproved,
        EventType::ApprovalDenied,
        EventType::NumberWrong,
        EventType::ApprovalCancelled,
    ];
    assert_eq!(ends.map(|kind| ledger.count(kind)).iter().sum::<usize>(), 2 * pairs, "each has one end");
    Ok(())
}

async fn race(world: &World, broker: &Arc<Broker>, pair: usize) -> Result<()> {
    let account = format!("person {pair}");
    let phone = enrol(world, broker, &account, pair).await?;
    let (victim, attacker) = tokio::try_join!(open(world, &account), open(world, &account))?;
    assert_ne!(victim.approval_id, attacker.approval_id);
    assert_ne!(
        victim.number, attacker.number,
        "pair {pair}: the victim types the attacker's number without knowing"
    );

    let (victims, attackers) = tokio::try_join!(
        challenge_of(world, &phone, &victim.approval_id),
        challenge_of(world, &phone, &attacker.approval_id)
    )?;
    let typed = Decision::Approve { number: victim.number.expose() };
    match pair % 4 {
        // The person answers the right one, and the attacker's goes on until it is denied.
        0 => {
            assert_eq!(phone.answer(&world.transport, &victims, typed).await?, OutcomeKind::Approved);
            waits(world, &attacker).await?;
            assert_eq!(
                phone.answer(&world.transport, &attackers, Decision::Report).await?,
                OutcomeKind::Reported
            );
        }
        // The person takes the attacker's for their own, and types the number on the page.
        1 => {
            assert_eq!(phone.answer(&world.transport, &attackers, typed).await?, OutcomeKind::WrongNumber);
            waits(world, &victim).await?;
            assert_eq!(phone.answer(&world.transport, &victims, typed).await?, OutcomeKind::Approved);
        }
        // Both are answered at once.
        2 => {
            let (of_victim, of_attacker) = tokio::join!(
                phone.answer(&world.transport, &victims, typed),
                phone.answer(&world.transport, &attackers, Decision::Deny)
            );
            assert_eq!((of_victim?, of_attacker?), (OutcomeKind::Approved, OutcomeKind::Denied));
        }
        // The attacker gives up while the person answers.
        _ => {
            let (of_victim, of_attacker) = tokio::join!(
                phone.answer(&world.transport, &victims, typed),
                world.login.cancel(&attacker.approval_id)
            );
            assert_eq!((of_victim?, of_attacker?.kind()), (OutcomeKind::Approved, OutcomeKind::Cancelled));
            let late = phone.answer(&world.transport, &attackers, typed).await;
            assert_ended(&refusal(late), OutcomeKind::Cancelled);
        }
    }
    let (of_victim, of_attacker) =
        tokio::try_join!(world.login.get(&victim.approval_id), world.login.get(&attacker.approval_id))?;
    let kind = |standing: device_sim::login::Standing| standing.outcome.map(|outcome| outcome.kind());
    assert_eq!(kind(of_victim), Some(OutcomeKind::Approved));
    let lets_in = kind(of_attacker);
    assert!(
        lets_in.is_some() && lets_in != Some(OutcomeKind::Approved),
        "pair {pair}: the attacker is {lets_in:?}"
    );
    Ok(())
}

async fn open(world: &World, account: &str) -> Result<Issued> {
    match world.login.open(&world.sign_in(account)).await? {
        Some(Opened::Issued(issued)) => Ok(issued),
        other => anyhow::bail!("not issued: {other:?}"),
    }
}

async fn waits(world: &World, issued: &Issued) -> Result<()> {
    let standing = world.login.get(&issued.approval_id).await?;
    anyhow::ensure!(standing.outcome.is_none(), "ended by an answer to the other: {:?}", standing.outcome);
    Ok(())
}

/// A new account with one phone, which lists its trial instead of waiting for the push.
async fn enrol(world: &World, broker: &Arc<Broker>, account: &str, pair: usize) -> Result<Phone> {
    let (service, algorithm) = if pair.is_multiple_of(2) {
        (Service::Fcm, Algorithm::Ed25519)
    } else {
        (Service::Apns, Algorithm::Es256)
    };
    let target = world.push.new_target(service, None)?.to_string();
    let target = match service {
        Service::Fcm => PushTarget::Fcm(target),
        Service::Apns => PushTarget::Apns(target),
    };
    let begun = world.page.begin(account).await?;
    let code: EnrolmentCode = begun.code.parse()?;
    let new = NewPhone::new("phone", target, algorithm);
    let (phone, trial) = new.enrol_with(&world.transport, broker, &code, world.now()).await?;
    let mut updates = world.page.watch(&begun.enrolment_id, 1).await?;
    let Some(EnrolmentStep::Trial { number, .. }) = updates.next().await?.map(|update| update.step) else {
        anyhow::bail!("the trial comes first");
    };
    phone.answer_trial(&world.transport, &trial, number.expose()).await?;
    Ok(phone)
}
