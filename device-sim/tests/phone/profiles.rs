//! Each profile, and what the broker must say to it.

use std::time::Duration;

use countersign_envelope::{Algorithm, commitment};
use countersign_proto::v1::OutcomeKind;
use device_sim::phone::{
    AnswerBuilder, Asked, Decision, HandOver, Number, Profile,
    answer::{tampered, with_high_s},
};

use crate::{active_phone, broker::Broker, only_challenge};

#[tokio::test]
async fn every_profile_leads_to_its_outcome_with_either_algorithm() {
    for algorithm in [Algorithm::Ed25519, Algorithm::Es256] {
        let broker = Broker::start().await;
        let (phone, transport) = active_phone(&broker, algorithm).await;
        for profile in Profile::ALL {
            let (id, number) = broker.ask(Duration::from_secs(60));
            let challenge = only_challenge(&phone, &transport, &broker).await;
            if profile == Profile::Late {
                // It waits for the clock, which need not be waited for.
                broker.clock.advance(Duration::from_secs(61));
            }
            let played = profile.play(&phone, &transport, &challenge, &number, &broker.clock).await;
            assert!(played.is_as_it_must_be(), "{algorithm:?}: {played:?}");
            // Who did nothing that was taken leaves it to the clock.
            assert_eq!(broker.end(&id, OutcomeKind::Expired), profile.outcome(), "{algorithm:?} {profile}");
        }
    }
}

#[tokio::test]
async fn phones_answer_from_tasks_of_their_own() {
    let broker = Broker::start().await;
    let (phone, transport) = active_phone(&broker, Algorithm::Ed25519).await;
    let (_, number) = broker.ask(Duration::from_secs(60));
    let clock = broker.clock.clone();
    // One of a hundred thousand: listing, fetching and answering are futures that any worker can run.
    let played = tokio::spawn(async move {
        let waiting = phone.list_waiting(&transport, clock.now()).await.expect("listed");
        let id = waiting.challenges[0].approval_id();
        let Asked::SignIn(challenge) = phone.fetch(&transport, id, clock.now()).await.expect("fetched").asked
        else {
            panic!("a sign-in was asked for")
        };
        Profile::Replayed.play(&phone, &transport, &challenge, &number, &clock).await
    });
    assert!(played.await.expect("no panic").is_as_it_must_be());
}

#[tokio::test]
async fn a_broker_that_believes_forgeries_is_found_out() {
    let broker = Broker::start().await;
    let (phone, transport) = active_phone(&broker, Algorithm::Ed25519).await;
    let (_, number) = broker.ask(Duration::from_secs(60));
    let challenge = only_challenge(&phone, &transport, &broker).await;
    broker.state().is_gullible = true;
    let played = Profile::Forged.play(&phone, &transport, &challenge, &number, &broker.clock).await;
    assert!(!played.is_as_it_must_be());
}

#[tokio::test]
async fn the_number_goes_from_the_page_to_the_phone_and_not_through_the_broker() {
    let broker = Broker::start().await;
    let (phone, transport) = active_phone(&broker, Algorithm::Es256).await;
    let hands = HandOver::new();
    let (id, number) = broker.ask(Duration::from_secs(60));
    hands.give(&id, number);
    let challenge = only_challenge(&phone, &transport, &broker).await;
    let typed = hands.take(challenge.approval_id()).await.expect("the page shows it");
    let outcome = phone.answer(&transport, &challenge, Decision::Approve { number: typed.expose() }).await;
    assert_eq!(outcome, Ok(OutcomeKind::Approved));
    hands.forget(&id);
}

#[tokio::test]
async fn a_captured_answer_cannot_be_used_with_another_number() {
    let broker = Broker::start().await;
    let (phone, transport) = active_phone(&broker, Algorithm::Ed25519).await;
    let (id, number) = broker.ask(Duration::from_secs(60));
    let challenge = only_challenge(&phone, &transport, &broker).await;
    let wrong = number.other();
    let decision = Decision::Approve { number: wrong.expose() };
    let captured = AnswerBuilder::new(&phone, &challenge, decision).sign();
    let changed = tampered(captured, |answer| number.expose().clone_into(&mut answer.number));
    let refused = phone.submit(&transport, changed).await.expect_err("the signature is over the number");
    assert_eq!(refused.reason(), Some("SIGNATURE_INVALID"));
    assert!(broker.state().approvals[&id].outcome.is_none(), "nothing has happened to it");
}

#[tokio::test]
async fn the_other_form_of_an_es256_signature_is_refused() {
    let broker = Broker::start().await;
    let (phone, transport) = active_phone(&broker, Algorithm::Es256).await;
    let (_, number) = broker.ask(Duration::from_secs(60));
    let challenge = only_challenge(&phone, &transport, &broker).await;
    let honest = AnswerBuilder::new(&phone, &challenge, Decision::Approve { number: number.expose() }).sign();
    let refused = phone.submit(&transport, with_high_s(honest.clone())).await.expect_err("high s");
    assert_eq!(refused.reason(), Some("SIGNATURE_INVALID"));
    assert_eq!(phone.submit(&transport, honest).await, Ok(OutcomeKind::Approved));
}

#[tokio::test]
async fn the_commitment_proves_afterwards_what_was_asked_for() {
    let broker = Broker::start().await;
    let (phone, transport) = active_phone(&broker, Algorithm::Ed25519).await;
    let (id, number) = broker.ask(Duration::from_secs(60));
    let challenge = only_challenge(&phone, &transport, &broker).await;
    assert_eq!(challenge.commitment(), commitment(&id, &[5; 32], number.expose()));
    assert_ne!(challenge.commitment(), commitment(&id, &[5; 32], number.other().expose()));
}

#[test]
fn profiles_are_known_by_their_names() {
    for profile in Profile::ALL {
        assert_eq!(profile.as_str().parse(), Ok(profile));
    }
    assert!("rubber-stamp".parse::<Profile>().is_err());
}

#[test]
fn nothing_of_an_answer_prints_the_number() {
    let number = Number::new("4711");
    assert!(!format!("{number:?} {:?}", Decision::Approve { number: "4711" }).contains("4711"));
}
