//! TLS: who vouches for the broker is said once, and nobody else is believed.

use countersign_envelope::Algorithm;
use device_sim::{
    phone::{EnrolError, Invitation, NotTheBroker},
    wire::Transport,
};

use crate::{
    broker::Broker,
    new_phone,
    program::{Program, folder, text},
    trial_number,
};

#[tokio::test]
async fn a_phone_enrols_only_where_its_authority_vouches_for_the_address() {
    let broker = Broker::start().await;
    let (address, pem) = broker.serve_tls().await;
    let (_, pem_of_another) = broker.serve_tls().await;
    let code = broker.begin_code();
    let invitation = Invitation::typed(&address, &code).expect("as the page shows it");

    let trusting = |pem: &str| Transport::to(&address).trusting(pem).open().expect("usable");
    let phone = new_phone(Algorithm::Ed25519);
    let refused = phone.enrol(&trusting(&pem_of_another), &invitation, broker.clock.now()).await;
    let Err(EnrolError::NotTheBroker(NotTheBroker::Refused(refusal))) = refused else { panic!("believed") };
    assert!(refusal.is_lost());
    assert!(refusal.message().contains("certificate"), "{refusal}");
    phone.enrol(&trusting(&pem), &invitation, broker.clock.now()).await.expect("vouched for");
}

#[tokio::test]
async fn the_program_remembers_who_vouches_for_its_broker() {
    let broker = Broker::start().await;
    let (address, pem) = broker.serve_tls().await;
    let folder = folder();
    let (state, ca) = (folder.path().join("phone"), folder.path().join("ca.pem"));
    std::fs::write(&ca, pem).expect("written");
    let code = broker.begin_code();
    let arguments = ["phone", "--json", "--state", text(&state), "--code", "-", "--address", &address];

    let mut nobody = Program::start(arguments);
    nobody.types(&code).await;
    let errors = nobody.errors().await;
    assert!(errors.contains("name its PEM file with --ca-file"), "{errors}");

    let mut phone = Program::start(arguments.into_iter().chain(["--ca-file", text(&ca)]));
    phone.types(&code).await;
    let enrolled = phone.event("enrolled").await;
    phone.event("trial").await;
    let id = enrolled["authenticator_id"].as_str().expect("it has one");
    phone.types(&trial_number(&broker, id)).await;
    phone.event("ready").await;
    phone.rest().await;

    let mut again = Program::start(["phone", "--json", "--state", text(&state)]);
    again.event("ready").await;
    let (approval, _) = broker.ask(std::time::Duration::from_secs(60));
    assert_eq!(again.event("challenge").await["approval_id"], *approval);
}
