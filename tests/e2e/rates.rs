//! How often somebody may call: each limit is reached, meets nobody else, and is over after the time that was told.

use std::{net::IpAddr, time::Duration};

use bytes::Bytes;
use countersign_envelope::{Algorithm, EnrolmentCode, payload_type};
use countersign_proto::v1::{self, authenticators_client::AuthenticatorsClient};
use countersign_tests::{Result, World, process::free_port, world::PATIENCE};
use device_sim::{
    login::{ApiKey, LoginServer, Step},
    phone::{Invitation, PushKind, enrol::Claim},
    push_services::Service,
    wire::Refusal,
};
use tonic::{
    Code,
    transport::{Channel, Endpoint},
};

use crate::support::{
    approve, ask, assert_refused, exposition::Exposition, new_phone, party, push_of, refusal, refused, set,
    told, world_with,
};

/// So many a second, and ten at once.
const ONE: &str = "1";

/// It was told which limit it is, and that the next call is taken within a second.
#[track_caller]
fn limited(refusal: &Refusal, limit: &str) -> Duration {
    assert_refused(refusal, Code::ResourceExhausted, "RATE_LIMITED");
    assert_eq!(refusal.metadata("limit"), Some(limit));
    let after = refusal.retry_after().expect("it says when to come again");
    assert!(after <= Duration::from_secs(1), "{refusal:?}");
    after
}

/// Calls until there is a limit: on a slow machine one more may be taken meanwhile.
async fn until_limited(mut call: impl AsyncFnMut() -> std::result::Result<(), Refusal>) -> Refusal {
    for _ in 0..100 {
        match call().await {
            Err(refusal) if refusal.reason() == Some("RATE_LIMITED") => return refusal,
            _ => {}
        }
    }
    panic!("a hundred calls were taken")
}

/// The way to the broker from another address of this machine.
async fn phones_at(world: &World, address: [u8; 4]) -> Result<AuthenticatorsClient<Channel>> {
    let endpoint = Endpoint::from_shared(world.broker.address())?.local_address(Some(IpAddr::from(address)));
    Ok(AuthenticatorsClient::new(endpoint.connect().await?))
}

#[tokio::test]
async fn a_relying_party_that_asks_too_often_is_sent_away_and_no_other_is() -> Result<()> {
    let port = free_port()?;
    let metrics = format!("[metrics]\nlisten = \"127.0.0.1:{port}\"\n");
    let slow = [("requests_per_s_of_relying_party", ONE)];
    let world = World::with_edited(&metrics, |text| set(&text, &slow)).await?;
    let other = party(&world, "Other College", "other.example").await?;
    // An account that nobody has enrolled: nothing but the party's own limit can be met.
    let ask = async || world.login.open(&world.sign_in("nobody")).await.map(drop);
    let after = limited(&until_limited(ask).await, "relying_party");
    let limited_requests = [("result", "rate_limited")];
    assert!(Exposition::of(port).await?.sum("countersign_approval_requests_total", &limited_requests) > 0.0);
    // The same limit, whatever it begins and by whichever credential.
    let begin = async || world.page.begin("alice").await.map(drop);
    limited(&until_limited(begin).await, "relying_party");
    refused(other.login.open(&world.sign_in("nobody")).await, Code::NotFound, "ACCOUNT_NOT_FOUND");
    other.page.begin("alice").await?;
    // What reads or ends something is taken.
    refused(world.page.list("alice").await, Code::NotFound, "ACCOUNT_NOT_FOUND");
    tokio::time::sleep(after.max(Duration::from_secs(1))).await;
    world.page.begin("alice").await?;
    Ok(())
}

/// Whoever has this id, signed by nobody.
fn forged(authenticator_id: &str) -> v1::ListWaitingRequest {
    let envelope = v1::Envelope {
        payload_type: payload_type::LIST_WAITING.to_owned(),
        payload: Bytes::from_static(b"\x0a\x01x"),
        key_id: authenticator_id.to_owned(),
        signature: Bytes::from_static(&[1; 64]),
    };
    v1::ListWaitingRequest { call: Some(envelope) }
}

#[tokio::test]
async fn who_guesses_keys_or_signatures_is_sent_away_unread_and_no_other_address_is() -> Result<()> {
    let world = world_with(&[("failures_per_s_of_address", ONE)]).await?;
    let alice = world.enrol("alice", Service::Fcm, Algorithm::Ed25519).await?.phone;
    let stranger = LoginServer::new(&world.transport, Some(ApiKey::new("csk_x")));
    for _ in 0..10 {
        refused(stranger.open(&world.sign_in("alice")).await, Code::Unauthenticated, "CREDENTIAL_INVALID");
    }
    let guess = async || stranger.open(&world.sign_in("alice")).await.map(drop);
    limited(&until_limited(guess).await, "failures");
    // From that address nobody's proof is looked at, good or not; what needs none is answered.
    let good = async || {
        until_limited(guess).await;
        world.login.open(&world.sign_in("nobody")).await.map(drop)
    };
    limited(&until_limited(good).await, "failures");
    let good = async || {
        until_limited(guess).await;
        alice.list_waiting(&world.transport, world.now()).await.map(drop)
    };
    let after = limited(&until_limited(good).await, "failures");
    world.transport.authenticators().describe_broker(v1::DescribeBrokerRequest {}).await?;
    // A known authenticator's bad signature and an unknown one are told the same, under the limit as without it.
    let known = alice.authenticator_id().to_owned();
    let other = if known[5..].starts_with('a') { "b" } else { "a" };
    let unknown = format!("{}{other}{}", &known[..5], &known[6..]);
    let elsewhere = phones_at(&world, [127, 0, 0, 2]).await?;
    for limited in [false, true] {
        let mut said = Vec::new();
        for id in [&known, &unknown] {
            let call = async || Ok(elsewhere.clone().list_waiting(forged(id)).await.map(drop)?);
            let refusal = if limited { until_limited(call).await } else { refusal(call().await) };
            assert_eq!(refusal.reason(), Some(if limited { "RATE_LIMITED" } else { "SIGNATURE_INVALID" }));
            let (code, message, reason, fields) = told(&refusal);
            // The time until the next is another a moment later.
            said.push((code, message.split(':').next().map(str::to_owned), reason, fields));
        }
        assert_eq!(said[0], said[1]);
    }
    tokio::time::sleep(after.max(Duration::from_secs(1))).await;
    let (_, issued) = ask(&world.login, &world.sign_in("alice")).await?;
    approve(&world, &alice, &issued).await
}

#[tokio::test]
async fn phones_of_one_address_call_so_often_and_those_of_another_are_none_the_worse() -> Result<()> {
    let world = world_with(&[("calls_per_s_of_address", ONE)]).await?;
    let describe = v1::DescribeBrokerRequest {};
    let mut here = phones_at(&world, [127, 0, 0, 1]).await?;
    let mut calls = 0;
    let said = loop {
        match here.describe_broker(describe).await {
            Ok(_) => calls += 1,
            Err(status) => break Refusal::from(status),
        }
        assert!(calls < 100, "a hundred calls were taken");
    };
    assert!(calls >= 10, "{calls}");
    let after = limited(&said, "address");
    phones_at(&world, [127, 0, 0, 2]).await?.describe_broker(describe).await?;
    // Login servers are no phones.
    refused(world.login.open(&world.sign_in("nobody")).await, Code::NotFound, "ACCOUNT_NOT_FOUND");
    let again = async {
        tokio::time::sleep(after).await;
        while here.describe_broker(describe).await.is_err() {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    tokio::time::timeout(PATIENCE, again).await?;
    Ok(())
}

#[tokio::test]
async fn a_device_calls_so_often_and_nobody_can_use_that_up_for_it() -> Result<()> {
    let world = world_with(&[("calls_per_s_of_device", ONE), ("failures_per_s_of_address", "0")]).await?;
    let alice = world.enrol("alice", Service::Fcm, Algorithm::Ed25519).await?.phone;
    let bob = world.enrol("bob", Service::Fcm, Algorithm::Es256).await?.phone;
    let mut stranger = phones_at(&world, [127, 0, 0, 1]).await?;
    let list = async || alice.list_waiting(&world.transport, world.now()).await;
    let mut calls = 0;
    let said = loop {
        // Whatever others send under its name.
        for _ in 0..5 {
            let said = stranger.list_waiting(forged(alice.authenticator_id())).await;
            refused(said, Code::Unauthenticated, "SIGNATURE_INVALID");
        }
        match list().await {
            Ok(_) => calls += 1,
            said => break refusal(said),
        }
        assert!(calls < 100, "a hundred calls were taken");
    };
    // One of the ten was the answer to its trial.
    assert!(calls >= 9, "{calls}");
    let after = limited(&said, "device");
    bob.list_waiting(&world.transport, world.now()).await?;
    let again = async {
        tokio::time::sleep(after).await;
        while list().await.is_err() {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    tokio::time::timeout(PATIENCE, again).await?;
    Ok(())
}

#[tokio::test]
async fn who_guesses_enrolment_codes_is_sent_away_unread_and_the_right_one_is_taken_from_elsewhere()
-> Result<()> {
    let world = world_with(&[("failures_per_s_of_address", ONE)]).await?;
    let begun = world.page.begin("alice").await?;
    let invitation = Invitation::scanned(&begun.uri)?;
    let broker = invitation.broker(&world.transport).await?;
    let new = new_phone(&world, "phone", Algorithm::Ed25519)?;
    let guess = new.claim(&broker, &EnrolmentCode::from_random(&[0x5a; 12]));
    let right = new.claim(&broker, invitation.code());
    let there = phones_at(&world, [127, 0, 0, 3]).await?;
    let claim = async |claim: &Claim| {
        let request = v1::CompleteEnrolmentRequest { claim: Some(claim.envelope().clone()) };
        Ok(there.clone().complete_enrolment(request).await.map(drop)?)
    };
    for _ in 0..10 {
        refused(claim(&guess).await, Code::Unauthenticated, "ENROLMENT_CODE_INVALID");
    }
    limited(&until_limited(async || claim(&guess).await).await, "failures");
    let claim_right = async || {
        until_limited(async || claim(&guess).await).await;
        claim(&right).await
    };
    limited(&until_limited(claim_right).await, "failures");
    right.complete(&world.transport).await?;
    Ok(())
}

#[tokio::test]
async fn who_guesses_push_tokens_is_sent_away_unread_and_the_phone_is_heard_from_elsewhere() -> Result<()> {
    let world = world_with(&[("failures_per_s_of_address", ONE)]).await?;
    let alice = world.enrol("alice", Service::Fcm, Algorithm::Ed25519).await?;
    let (mut updates, issued) = ask(&world.login, &world.sign_in("alice")).await?;
    let (_, push) = push_of(&alice, PushKind::Challenge).await?;
    let there = phones_at(&world, [127, 0, 0, 4]).await?;
    let acknowledge = async |token: &[u8]| {
        let request = v1::AcknowledgeRequest {
            kind: v1::acknowledge_request::Kind::Delivered.into(),
            approval_id: push.id.clone(),
            authenticator_id: push.authenticator_id.clone(),
            token: Bytes::copy_from_slice(token),
        };
        Ok(there.clone().acknowledge(request).await.map(drop)?)
    };
    let mut forged = push.token.to_vec();
    forged[0] ^= 1;
    for _ in 0..10 {
        refused(acknowledge(&forged).await, Code::Unauthenticated, "ACKNOWLEDGEMENT_INVALID");
    }
    limited(&until_limited(async || acknowledge(&forged).await).await, "failures");
    let right = async || {
        until_limited(async || acknowledge(&forged).await).await;
        acknowledge(&push.token).await
    };
    limited(&until_limited(right).await, "failures");
    alice.phone.acknowledge_delivered(&world.transport, &push).await?;
    let delivered = async {
        while let Some(update) = updates.next().await? {
            match update.step {
                Step::Progress(progress) if progress.kind == v1::progress::Kind::Delivered => return Ok(()),
                _ => {}
            }
        }
        anyhow::bail!("the page is not told")
    };
    tokio::time::timeout(PATIENCE, delivered).await??;
    approve(&world, &alice.phone, &issued).await
}
