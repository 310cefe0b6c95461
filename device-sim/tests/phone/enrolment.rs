//! A phone takes nothing from the broker that does not fit what it sent.

use countersign_envelope::{Algorithm, EnrolmentCode, EnrolmentUri, SigningKey, payload_type};
use countersign_proto::v1::{self, OutcomeKind};
use device_sim::{
    login::{EnrollingPage, EnrolmentStep},
    phone::{EnrolError, Invitation, NotShown, NotTheBroker},
};
use prost::Message as _;

use crate::{
    active_phone,
    broker::{ACCOUNT, Broker, sign},
    new_phone, trial_number,
};

#[tokio::test]
async fn a_phone_of_either_algorithm_enrols_and_passes_its_trial() {
    let broker = Broker::start().await;
    for algorithm in [Algorithm::Ed25519, Algorithm::Es256] {
        let (phone, _) = active_phone(&broker, algorithm).await;
        assert_eq!(phone.account_name(), ACCOUNT);
        assert_eq!(phone.key().public_key().algorithm(), algorithm);
        assert_eq!(phone.broker().address(), &*broker.address);
        assert!(broker.state().phones[phone.authenticator_id()].is_active);
    }
}

#[tokio::test]
async fn a_code_that_was_typed_is_as_good_as_one_that_was_scanned() {
    let broker = Broker::start().await;
    let page = EnrollingPage::new(&broker.transport(), Some(Broker::api_key()));
    let begun = page.begin(ACCOUNT).await.expect("begun");
    let typed = begun.code.to_lowercase().replace('-', " ");
    let invitation = Invitation::typed(begun.address.clone(), &typed).expect("as people type");
    let transport = broker.transport();
    let enrolled = new_phone(Algorithm::Es256).enrol(&transport, &invitation, broker.clock.now()).await;
    let (phone, trial) = enrolled.expect("enrolled");

    let number = trial_number(&broker, phone.authenticator_id());
    phone.answer_trial(&transport, &trial, &number).await.expect("the number is right");
    let mut steps = Vec::new();
    let last = page.until_done(&begun.enrolment_id, &broker.clock, |update| steps.push(update.clone())).await;
    assert!(matches!(last, Ok(EnrolmentStep::Active { .. })));
    assert!(matches!(&steps[1].step, EnrolmentStep::Trial { number: shown, .. } if shown.expose() == number));
    assert_eq!(steps.iter().map(|step| step.sequence).collect::<Vec<_>>(), [1, 2, 3]);
}

#[tokio::test]
async fn a_broker_whose_key_is_not_the_qr_codes_gets_no_claim() {
    let broker = Broker::start().await;
    let (_, uri) = broker.begin();
    let mut uri: EnrolmentUri = uri.parse().expect("a URI");
    uri.broker_fingerprint = SigningKey::ed25519(&[9; 32]).public_key().fingerprint();
    let transport = broker.transport();
    let invitation = Invitation::Scanned(uri);
    let refused = new_phone(Algorithm::Ed25519).enrol(&transport, &invitation, broker.clock.now()).await;
    assert!(matches!(refused, Err(EnrolError::NotTheBroker(NotTheBroker::Fingerprint { .. }))));
    assert!(broker.state().phones.is_empty());
}

#[tokio::test]
async fn a_code_that_nobody_gave_out_is_refused() {
    let broker = Broker::start().await;
    broker.begin();
    let code = EnrolmentCode::from_random(&[200; 12]);
    let invitation = Invitation::Typed { address: broker.address.to_string(), code };
    let transport = broker.transport();
    let refused = new_phone(Algorithm::Ed25519).enrol(&transport, &invitation, broker.clock.now()).await;
    let Err(EnrolError::Refused(refusal)) = refused else { panic!("enrolled") };
    assert_eq!(refusal.reason(), Some("ENROLMENT_CODE_INVALID"));
}

/// What becomes of an enrolment at a broker that changes its receipt.
async fn with_receipt(change: fn(&Broker, v1::EnrolmentReceipt) -> v1::Envelope) -> EnrolError {
    let broker = Broker::start().await;
    let (_, uri) = broker.begin();
    broker.lies(move |broker, envelope| {
        if envelope.payload_type != payload_type::ENROLMENT_RECEIPT {
            return envelope;
        }
        change(broker, v1::EnrolmentReceipt::decode(envelope.payload).expect("its own"))
    });
    let invitation = Invitation::scanned(&uri).expect("the broker's own");
    let transport = broker.transport();
    new_phone(Algorithm::Es256)
        .enrol(&transport, &invitation, broker.clock.now())
        .await
        .expect_err("the receipt is not to be believed")
}

#[tokio::test]
async fn a_receipt_that_does_not_fit_the_claim_makes_no_phone() {
    let other_claim = with_receipt(|broker, mut receipt| {
        receipt.claim_hash = vec![0; 32].into();
        broker.envelope(payload_type::ENROLMENT_RECEIPT, &receipt)
    });
    assert!(matches!(other_claim.await, EnrolError::Receipt(NotShown::OtherSubject)));

    let other_signer = with_receipt(|_, receipt| {
        sign(&SigningKey::ed25519(&[9; 32]), payload_type::ENROLMENT_RECEIPT, receipt.encode_to_vec())
    });
    assert!(matches!(other_signer.await, EnrolError::Receipt(NotShown::OtherKey)));

    let other_key = with_receipt(|broker, mut receipt| {
        let key = SigningKey::ed25519(&[9; 32]).public_key().as_bytes().to_vec();
        receipt.broker_key.as_mut().expect("there is one").key = key.into();
        broker.envelope(payload_type::ENROLMENT_RECEIPT, &receipt)
    });
    assert!(matches!(other_key.await, EnrolError::Receipt(NotShown::OtherKey)));

    let other_broker = with_receipt(|broker, mut receipt| {
        receipt.broker_id = "another".to_owned();
        broker.envelope(payload_type::ENROLMENT_RECEIPT, &receipt)
    });
    assert!(matches!(other_broker.await, EnrolError::Receipt(NotShown::OtherBroker { .. })));

    let other_enrolment = with_receipt(|broker, mut receipt| {
        receipt.enrolment_id = "another".to_owned();
        broker.envelope(payload_type::ENROLMENT_RECEIPT, &receipt)
    });
    assert!(matches!(other_enrolment.await, EnrolError::Trial(NotShown::OtherSubject)));

    let other_phone = with_receipt(|broker, mut receipt| {
        receipt.authenticator_id = "another".to_owned();
        broker.envelope(payload_type::ENROLMENT_RECEIPT, &receipt)
    });
    assert!(matches!(other_phone.await, EnrolError::Trial(NotShown::OtherAuthenticator)));

    let disguised = with_receipt(|broker, mut receipt| {
        receipt.account_name = "åsa\u{202e}".to_owned();
        broker.envelope(payload_type::ENROLMENT_RECEIPT, &receipt)
    });
    assert!(matches!(disguised.await, EnrolError::Receipt(NotShown::Disguise { .. })));
}

#[tokio::test]
async fn a_wrong_number_leaves_the_phone_inactive() {
    let broker = Broker::start().await;
    let transport = broker.transport();
    let (_, uri) = broker.begin();
    let invitation = Invitation::scanned(&uri).expect("the broker's own");
    let enrolled = new_phone(Algorithm::Es256).enrol(&transport, &invitation, broker.clock.now()).await;
    let (phone, trial) = enrolled.expect("enrolled");
    let outcome = phone.answer_trial(&transport, &trial, "00").await;
    assert_eq!(outcome, Ok(OutcomeKind::WrongNumber));
    assert!(!phone.is_active());
}
