//! Phones, login servers and enrolling pages against a small broker that can be told to lie, by the library and by the
//! program. Against the real broker they are tested end to end, in `tests/`.

mod broker;
mod checks;
mod enrolment;
mod login;
mod profiles;
mod program;
mod reads_and_changes;
mod services;
mod store;
mod tls;

use countersign_envelope::Algorithm;
use device_sim::{
    phone::{Challenge, Invitation, NewPhone, Phone, PushTarget},
    wire::Transport,
};

use crate::broker::Broker;

/// A phone that is not enrolled.
fn new_phone(algorithm: Algorithm) -> NewPhone {
    NewPhone::new("Åsa's phone", PushTarget::Apns("0a".repeat(32)), algorithm)
}

/// An active phone of this broker.
async fn active_phone(broker: &Broker, algorithm: Algorithm) -> (Phone, Transport) {
    let transport = broker.transport();
    let (_, uri) = broker.begin();
    let invitation = Invitation::scanned(&uri).expect("the broker's own");
    let (phone, trial) = new_phone(algorithm)
        .enrol(&transport, &invitation, broker.clock.now())
        .await
        .expect("the code is good");
    let number = trial_number(broker, phone.authenticator_id());
    phone.answer_trial(&transport, &trial, &number).await.expect("the number is right");
    assert!(phone.is_active());
    (phone, transport)
}

/// What the enrolling page shows.
fn trial_number(broker: &Broker, authenticator_id: &str) -> String {
    let state = broker.state();
    let trial = state.phones[authenticator_id].trial.as_ref();
    trial.expect("the phone is on trial").1.clone()
}

/// The only challenge that waits.
async fn only_challenge(phone: &Phone, transport: &Transport, broker: &Broker) -> Challenge {
    let mut waiting = phone.list_waiting(transport, broker.clock.now()).await.expect("listed");
    assert_eq!(waiting.not_shown, []);
    assert_eq!(waiting.challenges.len(), 1);
    waiting.challenges.remove(0)
}
