//! How phones come to an account, and how they leave it.

use std::{collections::HashSet, sync::Arc, time::Duration};

use countersign_envelope::{Algorithm, EnrolmentCode, payload_type};
use countersign_proto::{
    event::v1::EventType,
    v1::{self, EnrolmentEnd, OutcomeKind, authenticator::State, notice},
};
use countersign_tests::{
    Result, World,
    world::{PATIENCE, received},
};
use device_sim::{
    login::EnrolmentStep,
    phone::{
        self, AnswerBuilder, Decision, EnrolError, Invitation, NewPhone, NotTheBroker, Number, Phone,
        PushKind, PushTarget, TrialAnswerBuilder,
    },
    push_services::Service,
    wire::Refusal,
};
use prost::Message as _;
use tonic::Code;

use crate::support::{
    OnTrial, answer, approve, ask, assert_refused, bind, challenge_of, killed_and_started, ledger::Ledger,
    listed, new_phone, party, past::Past, phone_refusal, push_of, refusal, refused, started, told,
};

/// The steps of an enrolment up to its end, as its page is told them.
async fn steps(world: &World, enrolment_id: &str, after: u32) -> Result<Vec<EnrolmentStep>> {
    let read = async {
        let mut updates = world.page.watch(enrolment_id, after).await?;
        let mut steps = Vec::new();
        while let Some(update) = updates.next().await? {
            steps.push(update.step);
            assert_eq!(update.sequence as usize, after as usize + steps.len(), "dense from 1");
        }
        Ok::<_, anyhow::Error>(steps)
    };
    tokio::time::timeout(PATIENCE, read).await?
}

async fn ends(world: &World, enrolment_id: &str, reason: EnrolmentEnd) -> Result<()> {
    let steps = steps(world, enrolment_id, 0).await?;
    assert_eq!(steps.last(), Some(&EnrolmentStep::Ended { reason }), "{steps:?}");
    Ok(())
}

/// A broker and a code of it, as a phone knows them that was shown a QR code.
async fn scanned(world: &World, uri: &str) -> Result<(Arc<phone::Broker>, EnrolmentCode)> {
    let invitation = Invitation::scanned(uri)?;
    Ok((invitation.broker(&world.transport).await?, invitation.code().clone()))
}

/// Claims with a message that was changed before it was signed.
async fn claim(
    world: &World,
    new: &NewPhone,
    (broker, code): (&phone::Broker, &EnrolmentCode),
    change: impl FnOnce(&mut v1::EnrolmentClaim),
) -> Result<v1::CompleteEnrolmentReply, Refusal> {
    let mut message = new.claim_message(broker, code);
    change(&mut message);
    let locator = message.locator.clone();
    send(world, new.key().envelope(&locator, payload_type::ENROLMENT_CLAIM, message.encode_to_vec())).await
}

async fn send(world: &World, claim: v1::Envelope) -> Result<v1::CompleteEnrolmentReply, Refusal> {
    let request = v1::CompleteEnrolmentRequest { claim: Some(claim) };
    Ok(world.transport.authenticators().complete_enrolment(request).await?.into_inner())
}

/// A claim of somebody who knows the locator and not the secret.
fn guess(claim: &mut v1::EnrolmentClaim) {
    let mut mac = claim.secret_mac.to_vec();
    mac[0] ^= 1;
    claim.secret_mac = mac.into();
}

#[tokio::test]
async fn a_phone_is_enrolled_by_a_code_that_was_typed_carelessly() -> Result<()> {
    let world = World::new().await?;
    let begun = world.page.begin("alice").await?;
    assert_eq!(begun.address, world.broker.address());
    let typed = begun.code.to_lowercase().replace('-', " ").replace('0', "o").replace('1', "l");
    let invitation = Invitation::typed(begun.address.clone(), &typed)?;
    let new = new_phone(&world, "Alice's phone", Algorithm::Es256)?;
    let (alice, trial) = new.enrol(&world.transport, &invitation, world.now()).await?;
    let number = world.trial_number(&begun.enrolment_id).await?;
    assert_eq!(alice.answer_trial(&world.transport, &trial, number.expose()).await?, OutcomeKind::Approved);
    assert_eq!((alice.account_name(), alice.realm(), alice.counter()), ("alice", "example.org", 0));

    let steps = steps(&world, &begun.enrolment_id, 0).await?;
    let authenticator_id = alice.authenticator_id().to_owned();
    let [EnrolmentStep::Begun { expires_at }, trial_step, active] = &steps[..] else { panic!("{steps:?}") };
    assert_eq!(*expires_at, begun.expires_at);
    let EnrolmentStep::Trial { authenticator_id: id, device_name, platform, expires_at, .. } = trial_step
    else {
        panic!("{trial_step:?}")
    };
    assert_eq!(
        (id, device_name.as_str(), *platform),
        (&authenticator_id, "Alice's phone", v1::Platform::Android)
    );
    assert_eq!(*expires_at, begun.expires_at, "code and trial have ten minutes together");
    assert_eq!(*active, EnrolmentStep::Active { authenticator_id: authenticator_id.clone() });

    let [phone] = &world.page.list("alice").await?[..] else { panic!("one phone") };
    assert_eq!((phone.authenticator_id.as_str(), phone.state()), (authenticator_id.as_str(), State::Active));
    assert_eq!((phone.algorithm(), phone.platform()), (v1::SignatureAlgorithm::Es256, v1::Platform::Android));
    assert!(phone.push_target_alive && phone.last_used_at.is_none() && phone.bound_at.is_some());
    let (_, issued) = ask(&world.login, &world.sign_in("alice")).await?;
    approve(&world, &alice, &issued).await?;
    assert!(listed(&world, "alice", &authenticator_id).await?.last_used_at.is_some());
    Ok(())
}

#[tokio::test]
async fn a_phone_enrols_with_no_other_broker_than_that_of_the_qr_code() -> Result<()> {
    let world = World::new().await?;
    let begun = world.page.begin("alice").await?;
    let (start, fingerprint) = begun.uri.rsplit_once("k=").unwrap();
    let turned: String = fingerprint.chars().map(|digit| if digit == 'a' { 'b' } else { 'a' }).collect();
    let invitation = Invitation::scanned(&format!("{start}k={turned}"))?;
    let new = new_phone(&world, "phone", Algorithm::Ed25519)?;
    let refused = new.enrol(&world.transport, &invitation, world.now()).await.unwrap_err();
    assert!(matches!(refused, EnrolError::NotTheBroker(NotTheBroker::Fingerprint { .. })), "{refused}");
    Ok(())
}

#[tokio::test]
async fn the_fifth_wrong_secret_ends_the_code() -> Result<()> {
    let world = World::new().await?;
    let begun = world.page.begin("alice").await?;
    let (broker, code) = scanned(&world, &begun.uri).await?;
    let new = new_phone(&world, "phone", Algorithm::Ed25519)?;
    for _ in 0..5 {
        let said = claim(&world, &new, (&broker, &code), guess).await;
        refused(said, Code::Unauthenticated, "ENROLMENT_CODE_INVALID");
    }
    let said = claim(&world, &new, (&broker, &code), |_| {}).await;
    refused(said, Code::Unauthenticated, "ENROLMENT_CODE_INVALID");
    let steps = steps(&world, &begun.enrolment_id, 1).await?;
    let left = (0..5).rev().map(|attempts_left| EnrolmentStep::CodeRefused { attempts_left });
    let ended = EnrolmentStep::Ended { reason: EnrolmentEnd::CodeRefused };
    assert_eq!(steps, left.chain([ended]).collect::<Vec<_>>());
    Ok(())
}

#[tokio::test]
async fn four_wrong_secrets_do_not_keep_out_who_knows_the_right_one() -> Result<()> {
    let world = World::new().await?;
    let begun = world.page.begin("alice").await?;
    let (broker, code) = scanned(&world, &begun.uri).await?;
    let new = new_phone(&world, "phone", Algorithm::Ed25519)?;
    for _ in 0..4 {
        refusal(claim(&world, &new, (&broker, &code), guess).await);
    }
    let (alice, trial) = new.enrol_with(&world.transport, &broker, &code, world.now()).await?;
    let number = world.trial_number(&begun.enrolment_id).await?;
    assert_eq!(alice.answer_trial(&world.transport, &trial, number.expose()).await?, OutcomeKind::Approved);
    Ok(())
}

#[tokio::test]
async fn unknown_used_expired_cancelled_and_wrong_codes_are_refused_alike() -> Result<()> {
    let mut world = World::new().await?;
    world.broker.stopped().await?;
    let past = Past::start(&world.broker, Duration::from_secs(11 * 60)).await?;
    let expired = world.page.begin("expired").await?;
    let (broker, expired_code) = scanned(&world, &expired.uri).await?;
    past.stop().await;
    started(&mut world).await?;

    let used = world.page.begin("used").await?;
    let (_, used_code) = scanned(&world, &used.uri).await?;
    new_phone(&world, "phone", Algorithm::Ed25519)?
        .enrol_with(&world.transport, &broker, &used_code, world.now())
        .await?;
    let cancelled = world.page.begin("cancelled").await?;
    let (_, cancelled_code) = scanned(&world, &cancelled.uri).await?;
    world.page.cancel(&cancelled.enrolment_id).await?;
    let wrong = world.page.begin("wrong").await?;
    let (_, wrong_code) = scanned(&world, &wrong.uri).await?;
    let unknown_code = EnrolmentCode::from_random(&[0x5a; 12]);

    let new = new_phone(&world, "phone", Algorithm::Es256)?;
    let mut all = HashSet::new();
    for code in [&expired_code, &used_code, &cancelled_code, &unknown_code] {
        all.insert(told(&refusal(claim(&world, &new, (&broker, code), |_| {}).await)));
    }
    all.insert(told(&refusal(claim(&world, &new, (&broker, &wrong_code), guess).await)));
    let all: Vec<_> = all.into_iter().collect();
    let [(code, _, reason, _)] = &all[..] else { panic!("nobody can tell them apart: {all:#?}") };
    assert_eq!((*code, reason.as_deref()), (Code::Unauthenticated, Some("ENROLMENT_CODE_INVALID")));

    ends(&world, &expired.enrolment_id, EnrolmentEnd::Expired).await?;
    ends(&world, &cancelled.enrolment_id, EnrolmentEnd::Cancelled).await
}

#[tokio::test]
async fn a_trial_that_nobody_passes_in_time_takes_its_phone_with_it() -> Result<()> {
    let mut world = World::new().await?;
    world.broker.stopped().await?;
    let ago = Duration::from_secs(11 * 60);
    let past = Past::start(&world.broker, ago).await?;
    let then = device_sim::clock::Timestamp(world.now().0 - u64::try_from(ago.as_millis())?);
    let begun = world.page.begin("alice").await?;
    let (broker, code) = scanned(&world, &begun.uri).await?;
    let new = new_phone(&world, "phone", Algorithm::Ed25519)?;
    let (alice, trial) = new.enrol_with(&world.transport, &broker, &code, then).await?;
    let number = world.trial_number(&begun.enrolment_id).await?;
    past.stop().await;
    started(&mut world).await?;

    ends(&world, &begun.enrolment_id, EnrolmentEnd::Expired).await?;
    is_of_no_use(&world, &OnTrial { enrolment_id: begun.enrolment_id, phone: alice, trial }, &number).await
}

#[tokio::test]
async fn a_claim_that_is_sent_again_gets_the_receipt_that_was_lost() -> Result<()> {
    let world = World::new().await?;
    let begun = world.page.begin("alice").await?;
    let (broker, code) = scanned(&world, &begun.uri).await?;
    let new = new_phone(&world, "phone", Algorithm::Ed25519)?;
    let claim = new.claim(&broker, &code);
    let (first, _) = claim.check(&claim.complete(&world.transport).await?, world.now())?;
    let (second, trial) = claim.check(&claim.complete(&world.transport).await?, world.now())?;
    assert_eq!(first.authenticator_id(), second.authenticator_id());
    let number = world.trial_number(&begun.enrolment_id).await?;
    let answer = TrialAnswerBuilder::new(&second, &trial, number.expose()).sign();
    for _ in 0..2 {
        let said = second.submit_trial(&world.transport, answer.clone()).await?;
        assert_eq!(said, OutcomeKind::Approved, "and so does a trial's answer");
    }
    assert_eq!(world.page.list("alice").await?.len(), 1);
    Ok(())
}

#[tokio::test]
async fn a_wrong_number_ends_the_enrolment_and_the_phone_is_of_no_use() -> Result<()> {
    let world = World::new().await?;
    let failed = bind(&world, "alice", &new_phone(&world, "phone", Algorithm::Es256)?).await?;
    let number = world.trial_number(&failed.enrolment_id).await?;
    let wrong = TrialAnswerBuilder::new(&failed.phone, &failed.trial, number.other().expose()).sign();
    for _ in 0..2 {
        let said = failed.phone.submit_trial(&world.transport, wrong.clone()).await?;
        assert_eq!(said, OutcomeKind::WrongNumber, "sent again, the same answer gets the same reply");
    }
    ends(&world, &failed.enrolment_id, EnrolmentEnd::WrongNumber).await?;
    is_of_no_use(&world, &failed, &number).await
}

#[tokio::test]
async fn who_declines_an_enrolment_on_the_phone_ends_it() -> Result<()> {
    let world = World::new().await?;
    let declined = bind(&world, "alice", &new_phone(&world, "phone", Algorithm::Ed25519)?).await?;
    let number = world.trial_number(&declined.enrolment_id).await?;
    assert_eq!(
        declined.phone.answer_trial(&world.transport, &declined.trial, "").await?,
        OutcomeKind::Denied
    );
    ends(&world, &declined.enrolment_id, EnrolmentEnd::Declined).await?;
    is_of_no_use(&world, &declined, &number).await
}

#[tokio::test]
async fn the_page_withdraws_an_enrolment_at_any_time_before_its_end_and_never_after() -> Result<()> {
    let world = World::new().await?;
    let on_trial = bind(&world, "alice", &new_phone(&world, "phone", Algorithm::Ed25519)?).await?;
    let number = world.trial_number(&on_trial.enrolment_id).await?;
    world.page.cancel(&on_trial.enrolment_id).await?;
    ends(&world, &on_trial.enrolment_id, EnrolmentEnd::Cancelled).await?;
    is_of_no_use(&world, &on_trial, &number).await?;
    world.page.cancel(&on_trial.enrolment_id).await?;

    let done = bind(&world, "bob", &new_phone(&world, "phone", Algorithm::Ed25519)?).await?;
    let number = world.trial_number(&done.enrolment_id).await?;
    done.phone.answer_trial(&world.transport, &done.trial, number.expose()).await?;
    world.page.cancel(&done.enrolment_id).await?;
    let steps = steps(&world, &done.enrolment_id, 0).await?;
    assert!(matches!(steps.last(), Some(EnrolmentStep::Active { .. })), "{steps:?}");
    let (_, issued) = ask(&world.login, &world.sign_in("bob")).await?;
    approve(&world, &done.phone, &issued).await
}

#[tokio::test]
async fn a_phone_that_is_revoked_during_its_trial_ends_its_enrolment() -> Result<()> {
    let world = World::new().await?;
    let revoked = bind(&world, "alice", &new_phone(&world, "phone", Algorithm::Ed25519)?).await?;
    let number = world.trial_number(&revoked.enrolment_id).await?;
    world.page.revoke("alice", revoked.phone.authenticator_id()).await?;
    ends(&world, &revoked.enrolment_id, EnrolmentEnd::Revoked).await?;
    is_of_no_use(&world, &revoked, &number).await
}

/// A phone whose enrolment has failed: its key opens nothing, and the account does not have it.
async fn is_of_no_use(world: &World, failed: &OnTrial, number: &Number) -> Result<()> {
    let OnTrial { phone, trial, .. } = failed;
    let account = phone.account_name();
    is_nobody(world, phone).await;
    let late = phone.answer_trial(&world.transport, trial, number.expose()).await;
    refused(late, Code::Unauthenticated, "SIGNATURE_INVALID");
    assert_eq!(listed(world, account, phone.authenticator_id()).await?.state(), State::Revoked);
    let outcome = world.login.request(&world.sign_in(account)).await?;
    let updates = crate::support::all(outcome).await?;
    assert_eq!(updates.len(), 1, "nobody can be asked: {updates:?}");
    Ok(())
}

/// A phone whose key is refused, whatever it asks.
async fn is_nobody(world: &World, phone: &Phone) {
    let transport = &world.transport;
    refused(phone.list_waiting(transport, world.now()).await, Code::Unauthenticated, "SIGNATURE_INVALID");
    let target = PushTarget::Fcm("another".to_owned());
    refused(phone.replace_push_target(transport, target).await, Code::Unauthenticated, "SIGNATURE_INVALID");
    refused(phone.unenrol(transport).await, Code::Unauthenticated, "SIGNATURE_INVALID");
}

#[tokio::test]
async fn the_steps_of_an_enrolment_are_the_same_from_any_point_and_after_a_crash() -> Result<()> {
    let mut world = World::new().await?;
    let begun = world.page.begin("alice").await?;
    let (broker, code) = scanned(&world, &begun.uri).await?;
    let new = new_phone(&world, "phone", Algorithm::Ed25519)?;
    let mut updates = world.page.watch(&begun.enrolment_id, 0).await?;
    assert!(matches!(updates.next().await?.unwrap().step, EnrolmentStep::Begun { .. }));
    refusal(claim(&world, &new, (&broker, &code), guess).await);
    assert!(matches!(updates.next().await?.unwrap().step, EnrolmentStep::CodeRefused { attempts_left: 4 }));
    killed_and_started(&mut world).await?;

    let mut updates = world.page.watch(&begun.enrolment_id, 2).await?;
    let (alice, trial) = new.enrol_with(&world.transport, &broker, &code, world.now()).await?;
    let update = updates.next().await?.unwrap();
    assert_eq!(update.sequence, 3);
    let EnrolmentStep::Trial { number, .. } = update.step else { panic!("{update:?}") };
    killed_and_started(&mut world).await?;
    assert_eq!(world.trial_number(&begun.enrolment_id).await?, number, "the page shows what it showed");
    assert_eq!(alice.answer_trial(&world.transport, &trial, number.expose()).await?, OutcomeKind::Approved);
    let all = steps(&world, &begun.enrolment_id, 0).await?;
    assert_eq!(all.len(), 4);
    for after in 1..=4 {
        assert_eq!(steps(&world, &begun.enrolment_id, after).await?, all[after as usize..]);
    }
    Ok(())
}

#[tokio::test]
async fn an_accounts_other_phones_are_told_of_one_that_comes_and_of_one_that_goes() -> Result<()> {
    let world = World::new().await?;
    let first = world.enrol("alice", Service::Apns, Algorithm::Es256).await?;
    let second = world.enrol("alice", Service::Fcm, Algorithm::Ed25519).await?;
    let (_, push) = push_of(&first, PushKind::Notice).await?;
    assert_eq!(push.id, second.phone.authenticator_id());
    let notices = first.phone.list_waiting(&world.transport, world.now()).await?.notices;
    let [added] = &notices[..] else { panic!("{notices:?}") };
    assert_eq!(added.kind, notice::Kind::AuthenticatorAdded);
    assert_eq!(added.subject_authenticator_id, second.phone.authenticator_id());
    assert_eq!(added.subject_device_name, "alice's phone");
    let of_second = second.phone.list_waiting(&world.transport, world.now()).await?;
    assert_eq!(
        (of_second.notices, of_second.not_shown),
        (vec![], vec![]),
        "what was there before is no news"
    );

    // One that never passes its trial is never announced.
    let failed = bind(&world, "alice", &new_phone(&world, "third", Algorithm::Ed25519)?).await?;
    failed.phone.answer_trial(&world.transport, &failed.trial, "").await?;
    second.phone.unenrol(&world.transport).await?;
    let (_, push) = push_of(&first, PushKind::Notice).await?;
    assert_eq!(push.id, second.phone.authenticator_id());
    let notices = first.phone.list_waiting(&world.transport, world.now()).await?.notices;
    let [removed] = &notices[..] else { panic!("{notices:?}") };
    assert_eq!(removed.kind, notice::Kind::AuthenticatorRemoved);
    assert_eq!(removed.subject_authenticator_id, second.phone.authenticator_id());
    Ok(())
}

#[tokio::test]
async fn a_revoked_phone_is_nobody_and_what_waited_for_it_goes_on_without_it() -> Result<()> {
    let world = World::new().await?;
    let lost = world.enrol("alice", Service::Fcm, Algorithm::Es256).await?.phone;
    let kept = world.enrol("alice", Service::Fcm, Algorithm::Ed25519).await?.phone;
    let bob = world.enrol("bob", Service::Fcm, Algorithm::Ed25519).await?.phone;
    let (_, issued) = ask(&world.login, &world.sign_in("alice")).await?;
    let challenge = challenge_of(&world, &lost, &issued.approval_id).await?;

    for unknown in [bob.authenticator_id(), &"0".repeat(39)] {
        let said = world.page.revoke("alice", unknown).await;
        refused(said, Code::NotFound, "AUTHENTICATOR_NOT_FOUND");
    }
    let said = refused(world.page.revoke("alice", "x").await, Code::InvalidArgument, "INVALID_ARGUMENT");
    assert_eq!(said.fields()[0].0, "authenticator_id");
    for _ in 0..2 {
        world.page.revoke("alice", lost.authenticator_id()).await?;
    }
    let events = Ledger::read(&world.broker).await?.count(EventType::AuthenticatorRevoked);
    assert_eq!(events, 1, "revoked twice is revoked once");
    let yes = Decision::Approve { number: issued.number.expose() };
    let late = lost.answer(&world.transport, &challenge, yes).await;
    refused(late, Code::Unauthenticated, "SIGNATURE_INVALID");
    is_nobody(&world, &lost).await;
    approve(&world, &kept, &issued).await?;
    let states: Vec<_> = world.page.list("alice").await?.iter().map(v1::Authenticator::state).collect();
    assert_eq!(states, [State::Revoked, State::Active], "oldest first");
    Ok(())
}

#[tokio::test]
async fn a_phone_that_has_left_is_nobody() -> Result<()> {
    let world = World::new().await?;
    let alice = world.enrol("alice", Service::Fcm, Algorithm::Ed25519).await?.phone;
    alice.unenrol(&world.transport).await?;
    is_nobody(&world, &alice).await;
    assert_eq!(listed(&world, "alice", alice.authenticator_id()).await?.state(), State::Revoked);
    Ok(())
}

#[tokio::test]
async fn pushes_go_where_the_phone_was_last_said_to_be() -> Result<()> {
    let world = World::new().await?;
    let mut alice = world.enrol("alice", Service::Apns, Algorithm::Es256).await?;
    let new_home = world.push.new_device(Service::Fcm)?;
    let target = PushTarget::Fcm(new_home.target().to_owned());
    alice.phone.replace_push_target(&world.transport, target.clone()).await?;
    let old_home = std::mem::replace(&mut alice.device, new_home);
    let (_, issued) = ask(&world.login, &world.sign_in("alice")).await?;
    assert_eq!(received(&alice.device).await?.id, issued.approval_id);
    assert!(old_home.try_next_push().is_none());

    // A call of before is no change: its counter has been used.
    let call = v1::ReplacePushTargetCall {
        broker_id: alice.phone.broker().id().to_owned(),
        authenticator_id: alice.phone.authenticator_id().to_owned(),
        counter: 1,
        push_target: Some(PushTarget::Apns(old_home.target().to_owned()).to_message()),
    };
    let call = alice.phone.sign(payload_type::REPLACE_PUSH_TARGET, &call);
    let request = v1::ReplacePushTargetRequest { call: Some(call) };
    let said = world.transport.authenticators().replace_push_target(request).await;
    let said = refused(said, Code::FailedPrecondition, "COUNTER_NOT_RISING");
    assert_eq!(said.metadata("last"), Some("1"));
    // A phone that was restored from an old copy is told how far it was, and goes on from there.
    alice.phone.set_counter(0);
    alice.phone.replace_push_target(&world.transport, PushTarget::Apns(old_home.target().to_owned())).await?;
    assert_eq!(alice.phone.counter(), 2);
    let (_, issued) = ask(&world.login, &world.sign_in("alice")).await?;
    assert_eq!(received(&old_home).await?.id, issued.approval_id);
    Ok(())
}

#[tokio::test]
async fn a_key_is_bound_to_an_account_once() -> Result<()> {
    let world = World::new().await?;
    let new = new_phone(&world, "phone", Algorithm::Es256)?;
    let first = bind(&world, "alice", &new).await?;
    let begun = world.page.begin("alice").await?;
    let (broker, code) = scanned(&world, &begun.uri).await?;
    refused(claim(&world, &new, (&broker, &code), |_| {}).await, Code::AlreadyExists, "KEY_ALREADY_BOUND");
    // Nor by a phone that does not know the secret, which is told nothing of it.
    let said = claim(&world, &new, (&broker, &code), guess).await;
    refused(said, Code::Unauthenticated, "ENROLMENT_CODE_INVALID");
    // The enrolment still waits for another key.
    let other = new_phone(&world, "other", Algorithm::Es256)?;
    other.enrol_with(&world.transport, &broker, &code, world.now()).await?;
    world.page.cancel(&first.enrolment_id).await?;
    Ok(())
}

#[tokio::test]
async fn a_phone_on_trial_sees_its_trial_and_nothing_else() -> Result<()> {
    let world = World::new().await?;
    let first = world.enrol("alice", Service::Fcm, Algorithm::Ed25519).await?;
    let device = world.push.new_device(Service::Fcm)?;
    let target = PushTarget::Fcm(device.target().to_owned());
    let new = bind(&world, "alice", &NewPhone::new("new phone", target, Algorithm::Ed25519)).await?;
    let (_, issued) = ask(&world.login, &world.sign_in("alice")).await?;
    assert_eq!(issued.authenticators_addressed, 1);
    let waiting = new.phone.list_waiting(&world.transport, world.now()).await?;
    assert_eq!((waiting.challenges, waiting.notices), (vec![], vec![]));
    assert_eq!(waiting.trial.as_ref(), Some(&new.trial));
    let fetched = new.phone.fetch(&world.transport, &new.enrolment_id, world.now()).await?;
    assert_eq!(fetched.waiting, 0, "how many sign-ins wait is none of its business");
    let fetched = new.phone.fetch(&world.transport, &issued.approval_id, world.now()).await;
    assert_refused(&phone_refusal(fetched), Code::NotFound, "APPROVAL_NOT_FOUND");
    // It learns the challenge otherwise, and signs a faultless answer.
    let challenge = challenge_of(&world, &first.phone, &issued.approval_id).await?;
    let yes = Decision::Approve { number: issued.number.expose() };
    let answer_of = |phone| AnswerBuilder::new(phone, &challenge, yes).sign();
    let said = new.phone.submit(&world.transport, answer_of(&new.phone)).await;
    refused(said, Code::Unauthenticated, "SIGNATURE_INVALID");
    // Nor is another phone's trial any of its business, nor its own any of the other's.
    let fetched = first.phone.fetch(&world.transport, &new.enrolment_id, world.now()).await;
    assert_refused(&phone_refusal(fetched), Code::NotFound, "ENROLMENT_NOT_FOUND");

    let number = world.trial_number(&new.enrolment_id).await?;
    new.phone.answer_trial(&world.transport, &new.trial, number.expose()).await?;
    let said = new.phone.submit(&world.transport, answer_of(&new.phone)).await;
    refused(said, Code::Unauthenticated, "SIGNATURE_INVALID");
    assert_eq!(answer(&world, &first.phone, &issued.approval_id, yes).await?, OutcomeKind::Approved);
    let (_, issued) = ask(&world.login, &world.sign_in("alice")).await?;
    assert_eq!(issued.authenticators_addressed, 2, "what is asked from now on, it may answer");
    // Its pushes so far: its trial, and this.
    assert_eq!(received(&device).await?.kind, PushKind::Trial);
    assert_eq!(received(&device).await?.id, issued.approval_id);
    approve(&world, &new.phone, &issued).await
}

#[tokio::test]
async fn a_trial_is_passed_by_its_own_phone_alone() -> Result<()> {
    let world = World::new().await?;
    let first = bind(&world, "alice", &new_phone(&world, "first", Algorithm::Ed25519)?).await?;
    let second = bind(&world, "alice", &new_phone(&world, "second", Algorithm::Ed25519)?).await?;
    let number = world.trial_number(&first.enrolment_id).await?;
    let foreign = TrialAnswerBuilder::new(&second.phone, &first.trial, number.expose()).sign();
    let said = second.phone.submit_trial(&world.transport, foreign).await;
    refused(said, Code::NotFound, "APPROVAL_NOT_FOUND");
    let mixed = TrialAnswerBuilder::new(&first.phone, &first.trial, number.expose());
    let mixed = mixed.change(|answer| answer.challenge_hash = second.trial.hash().to_vec().into()).sign();
    refused(
        first.phone.submit_trial(&world.transport, mixed).await,
        Code::InvalidArgument,
        "CHALLENGE_MISMATCH",
    );
    let said = first.phone.answer_trial(&world.transport, &first.trial, number.expose()).await?;
    assert_eq!(said, OutcomeKind::Approved);
    Ok(())
}

#[tokio::test]
async fn an_account_has_only_so_many_enrolments_that_wait_and_so_many_phones() -> Result<()> {
    let world = World::new().await?;
    let mut phones = Vec::new();
    for _ in 0..10 {
        phones.push(world.enrol("alice", Service::Fcm, Algorithm::Ed25519).await?.phone);
    }
    refused(world.page.begin("alice").await, Code::ResourceExhausted, "TOO_MANY_AUTHENTICATORS");
    world.page.revoke("alice", phones[0].authenticator_id()).await?;
    let mut begun = Vec::new();
    for _ in 0..3 {
        begun.push(world.page.begin("alice").await?);
    }
    refused(world.page.begin("alice").await, Code::ResourceExhausted, "TOO_MANY_ENROLMENTS");
    let (broker, code) = scanned(&world, &begun[0].uri).await?;
    let new = new_phone(&world, "the tenth", Algorithm::Ed25519)?;
    new.enrol_with(&world.transport, &broker, &code, world.now()).await?;
    let (_, code) = scanned(&world, &begun[1].uri).await?;
    let new = new_phone(&world, "one too many", Algorithm::Ed25519)?;
    let said = claim(&world, &new, (&broker, &code), |_| {}).await;
    refused(said, Code::ResourceExhausted, "TOO_MANY_AUTHENTICATORS");
    Ok(())
}

#[tokio::test]
async fn an_enrolment_is_its_own_relying_partys_affair() -> Result<()> {
    let world = World::new().await?;
    let neighbour = party(&world, "Neighbour", "example.org").await?;
    let begun = world.page.begin("alice").await?;
    let unknown = "0".repeat(39);
    for id in [&begun.enrolment_id, &unknown, &"x".to_owned()] {
        refused(neighbour.page.watch(id, 0).await, Code::NotFound, "ENROLMENT_NOT_FOUND");
        refused(neighbour.page.cancel(id).await, Code::NotFound, "ENROLMENT_NOT_FOUND");
    }
    let of_other = told(&refusal(neighbour.page.watch(&begun.enrolment_id, 0).await));
    assert_eq!(
        of_other,
        told(&refusal(neighbour.page.watch(&unknown, 0).await)),
        "nobody can tell them apart"
    );
    bind(&world, "alice", &new_phone(&world, "phone", Algorithm::Ed25519)?).await?;
    Ok(())
}

#[tokio::test]
async fn a_claim_is_refused_for_each_thing_that_is_wrong_with_it() -> Result<()> {
    let world = World::new().await?;
    let begun = world.page.begin("alice").await?;
    let (broker, code) = scanned(&world, &begun.uri).await?;
    let new = new_phone(&world, "phone", Algorithm::Ed25519)?;
    type Change = fn(&mut v1::EnrolmentClaim);
    let wrong_fields: [(&str, Change); 10] = [
        ("nonce", |claim| claim.nonce = vec![0; 15].into()),
        ("platform", |claim| claim.platform = 0),
        ("push_target", |claim| claim.push_target = None),
        ("push_target", |claim| claim.push_target = Some(PushTarget::Apns("ABC".to_owned()).to_message())),
        ("push_target", |claim| claim.push_target = Some(PushTarget::Fcm("a b".to_owned()).to_message())),
        ("device_name", |claim| claim.device_name.clear()),
        ("device_name", |claim| claim.device_name = "x".repeat(65)),
        ("device_name", |claim| claim.device_name = "a\u{202e}b".to_owned()),
        ("authenticator_key", |claim| claim.authenticator_key = None),
        ("authenticator_key.algorithm", |claim| claim.authenticator_key.as_mut().unwrap().algorithm = 0),
    ];
    for (field, change) in wrong_fields {
        let said = claim(&world, &new, (&broker, &code), change).await;
        let said = refused(said, Code::InvalidArgument, "INVALID_ARGUMENT");
        assert_eq!(said.fields()[0].0, field, "{said:?}");
    }
    // Ed25519 keys of small order sign anything; the point at infinity is no key.
    for bad in [vec![0; 32], vec![1; 31], [vec![1], vec![0; 31]].concat()] {
        let said = claim(&world, &new, (&broker, &code), |claim| {
            claim.authenticator_key.as_mut().unwrap().key = bad.into();
        });
        let said = refused(said.await, Code::InvalidArgument, "INVALID_ARGUMENT");
        assert_eq!(said.fields()[0].0, "authenticator_key.key", "{said:?}");
    }
    let not_believed: [(&str, Change); 2] = [
        ("another broker's", |claim| claim.broker_id = "another".to_owned()),
        ("another key's", |claim| {
            claim.authenticator_key = Some(phone::Key::generate(Algorithm::Ed25519).public_message());
        }),
    ];
    for (what, change) in not_believed {
        let said = claim(&world, &new, (&broker, &code), change).await;
        let said = refused(said, Code::Unauthenticated, "SIGNATURE_INVALID");
        assert!(said.next_nonce().is_some(), "{what}");
    }
    let message = new.claim_message(&broker, &code).encode_to_vec();
    let typed = new.key().envelope(code.locator(), payload_type::ANSWER, message.clone());
    refused(send(&world, typed).await, Code::InvalidArgument, "MALFORMED_ENVELOPE");
    let elsewhere = new.key().envelope("00000000", payload_type::ENROLMENT_CLAIM, message);
    refused(send(&world, elsewhere).await, Code::Unauthenticated, "SIGNATURE_INVALID");
    // A key that means another broker does not prove that it knows the secret: it counts as a wrong one.
    let said = claim(&world, &new, (&broker, &code), |claim| claim.broker_key = vec![7; 32].into()).await;
    refused(said, Code::Unauthenticated, "ENROLMENT_CODE_INVALID");
    // None of it but the last has cost the code an attempt.
    new.enrol_with(&world.transport, &broker, &code, world.now()).await?;
    world.page.cancel(&begun.enrolment_id).await?;
    let refusals = steps(&world, &begun.enrolment_id, 0).await?.into_iter();
    assert_eq!(refusals.filter(|step| matches!(step, EnrolmentStep::CodeRefused { .. })).count(), 1);
    Ok(())
}
