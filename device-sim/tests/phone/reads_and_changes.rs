//! Nonces, counters, pushes that come twice.

use std::time::Duration;

use bytes::Bytes;
use countersign_envelope::{Algorithm, payload_type};
use countersign_proto::v1;
use device_sim::phone::{Push, PushKind, PushTarget, Received};
use prost::Message as _;

use crate::{
    active_phone,
    broker::{ACCOUNT, BROKER_ID, Broker, NONCE},
};

#[tokio::test]
async fn a_phone_with_an_old_nonce_reads_with_the_one_that_the_refusal_gives() {
    let broker = Broker::start().await;
    let (phone, transport) = active_phone(&broker, Algorithm::Ed25519).await;
    phone.set_nonce(Bytes::from_static(b"an old one"));
    phone.list_waiting(&transport, broker.clock.now()).await.expect("at the second try");
    assert_eq!(phone.nonce(), NONCE);
}

#[tokio::test]
async fn a_counter_rises_with_each_change_and_past_what_the_broker_has_seen() {
    let broker = Broker::start().await;
    let (phone, transport) = active_phone(&broker, Algorithm::Es256).await;
    let target = |digit: &str| PushTarget::Apns(digit.repeat(64));
    phone.replace_push_target(&transport, target("b")).await.expect("replaced");
    phone.replace_push_target(&transport, target("c")).await.expect("replaced");
    assert_eq!(broker.state().phones[phone.authenticator_id()].counter, 2);
    // The phone's state comes from an old copy.
    phone.set_counter(0);
    phone.replace_push_target(&transport, target("d")).await.expect("at the second try");
    assert_eq!(phone.counter(), 3);
    assert_eq!(phone.push_target(), target("d"));
    let known = broker.state().phones[phone.authenticator_id()].push_target.clone();
    assert_eq!(known, Some(target("d").to_message()));
}

#[tokio::test]
async fn a_phone_that_has_left_is_not_known_any_more() {
    let broker = Broker::start().await;
    let (phone, transport) = active_phone(&broker, Algorithm::Ed25519).await;
    phone.unenrol(&transport).await.expect("left");
    assert!(!phone.is_active());
    let refused = phone.list_waiting(&transport, broker.clock.now()).await.expect_err("unknown");
    assert_eq!(refused.reason(), Some("SIGNATURE_INVALID"));
}

fn push(kind: PushKind, id: &str, authenticator_id: &str) -> Push {
    Push {
        kind,
        id: id.to_owned(),
        authenticator_id: authenticator_id.to_owned(),
        expires_at: device_sim::clock::Timestamp::from_seconds(1),
        token: Bytes::from_static(b"token"),
        nonce: Bytes::from_static(b"a new one"),
    }
}

#[tokio::test]
async fn a_push_that_comes_again_is_known() {
    let broker = Broker::start().await;
    let (phone, _) = active_phone(&broker, Algorithm::Ed25519).await;
    let me = phone.authenticator_id().to_owned();
    assert_eq!(phone.receive(&push(PushKind::Challenge, "a", &me)), Received::New);
    assert_eq!(phone.nonce(), b"a new one"[..]);
    assert_eq!(phone.receive(&push(PushKind::Challenge, "a", &me)), Received::Again);
    assert_eq!(phone.receive(&push(PushKind::Challenge, "b", "somebody")), Received::NotForThisPhone);
    assert_eq!(phone.receive(&push(PushKind::Challenge, "b", &me)), Received::New);
    for _ in 0..2 {
        assert_eq!(phone.receive(&push(PushKind::Ended, "a", &me)), Received::New);
        assert_eq!(phone.receive(&push(PushKind::Notice, "phone-9", &me)), Received::New);
    }
}

#[tokio::test]
async fn an_acknowledgement_carries_the_token_of_its_push() {
    let broker = Broker::start().await;
    let (phone, transport) = active_phone(&broker, Algorithm::Ed25519).await;
    let mut push = push(PushKind::Challenge, "a", phone.authenticator_id());
    phone.acknowledge_delivered(&transport, &push).await.expect("taken");
    phone.acknowledge_opened(&transport, &push).await.expect("taken");
    push.token = Bytes::from_static(b"another");
    let refused = phone.acknowledge_opened(&transport, &push).await.expect_err("not its token");
    assert_eq!(refused.reason(), Some("ACKNOWLEDGEMENT_INVALID"));
    assert_eq!(broker.state().acknowledged, [(1, "a".to_owned()), (2, "a".to_owned())]);
}

#[tokio::test]
async fn a_notice_is_told_once() {
    let broker = Broker::start().await;
    let (phone, transport) = active_phone(&broker, Algorithm::Ed25519).await;
    broker.state().notices.push(v1::Notice {
        broker_id: BROKER_ID.to_owned(),
        authenticator_id: phone.authenticator_id().to_owned(),
        account_name: ACCOUNT.to_owned(),
        kind: v1::notice::Kind::AuthenticatorAdded.into(),
        subject_authenticator_id: "phone-9".to_owned(),
        subject_device_name: "Another phone".to_owned(),
        at: Some(broker.in_seconds(0)),
    });
    let told = async || phone.list_waiting(&transport, broker.clock.now()).await.expect("listed").notices;
    let first = told().await;
    assert_eq!(first.len(), 1);
    assert_eq!(first[0].subject_device_name, "Another phone");
    assert_eq!(told().await, []);
}

#[tokio::test]
async fn any_message_can_be_signed_as_the_phone() {
    let broker = Broker::start().await;
    let (phone, transport) = active_phone(&broker, Algorithm::Es256).await;
    broker.ask(Duration::from_secs(60));
    // A call for another phone, under this one's name outside.
    let call = v1::ListWaitingCall {
        broker_id: BROKER_ID.to_owned(),
        authenticator_id: "phone-77".to_owned(),
        nonce: Bytes::from_static(NONCE),
    };
    let envelope = phone.sign(payload_type::UNENROL, &call);
    assert_eq!(v1::ListWaitingCall::decode(envelope.payload.clone()), Ok(call));
    let request = v1::ListWaitingRequest { call: Some(envelope) };
    let refused =
        transport.authenticators().list_waiting(request).await.expect_err("signed as something else");
    assert_eq!(refused.code(), tonic::Code::Unauthenticated);
}
