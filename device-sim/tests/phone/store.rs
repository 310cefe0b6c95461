//! A phone that outlives its process.

use std::{fs, os::unix::fs::PermissionsExt as _, time::Duration};

use countersign_envelope::Algorithm;
use countersign_proto::v1::OutcomeKind;
use device_sim::phone::{Decision, Phone, StoreError};

use crate::{active_phone, broker::Broker, only_challenge};

#[tokio::test]
async fn a_phone_that_was_saved_signs_as_before() {
    let broker = Broker::start().await;
    for algorithm in [Algorithm::Ed25519, Algorithm::Es256] {
        let folder = tempfile::tempdir().expect("a folder");
        let (saved, transport) = active_phone(&broker, algorithm).await;
        saved.set_counter(7);
        saved.save(folder.path()).expect("saved");
        let phone = Phone::load(folder.path()).expect("read").expect("it is there");
        assert_eq!(phone.key().public_key(), saved.key().public_key());
        assert_eq!(phone.authenticator_id(), saved.authenticator_id());
        assert_eq!(phone.broker(), saved.broker());
        assert_eq!(
            (phone.name(), phone.account_name(), phone.realm()),
            ("Åsa's phone", "åsa", "example.org")
        );
        assert_eq!((phone.counter(), phone.is_active()), (7, true));
        assert_eq!(phone.push_target(), saved.push_target());

        let (_, number) = broker.ask(Duration::from_secs(60));
        let challenge = only_challenge(&phone, &transport, &broker).await;
        let decision = Decision::Approve { number: number.expose() };
        assert_eq!(phone.answer(&transport, &challenge, decision).await, Ok(OutcomeKind::Approved));
    }
}

#[tokio::test]
async fn the_file_is_its_owners_alone() {
    let broker = Broker::start().await;
    let (phone, _) = active_phone(&broker, Algorithm::Es256).await;
    let parent = tempfile::tempdir().expect("a folder");
    let folder = parent.path().join("phone");
    // Twice: what is there is replaced, with the same permissions.
    phone.save(&folder).expect("saved");
    phone.save(&folder).expect("saved");
    let mode = |path: &std::path::Path| fs::metadata(path).expect("there").permissions().mode() & 0o777;
    let file = folder.join("phone.json");
    assert_eq!((mode(&folder), mode(&file)), (0o700, 0o600));
    assert_eq!(fs::read_dir(&folder).expect("there").count(), 1, "nothing else is left behind");

    fs::set_permissions(&file, fs::Permissions::from_mode(0o640)).expect("set");
    assert!(matches!(Phone::load(&folder), Err(StoreError::Open { mode: 0o640, .. })));
}

#[tokio::test]
async fn what_is_no_phone_is_said_to_be_none() {
    let folder = tempfile::tempdir().expect("a folder");
    assert!(Phone::load(folder.path()).expect("nothing there is no error").is_none());
    let file = folder.path().join("phone.json");
    for content in ["", "{}", r#"{"version":1}"#, "\u{0}"] {
        fs::write(&file, content).expect("written");
        fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).expect("set");
        let refused = Phone::load(folder.path()).expect_err("no phone");
        assert!(matches!(refused, StoreError::Damaged { .. }), "{content}");
    }
    Phone::forget(folder.path()).expect("forgotten");
    assert!(Phone::load(folder.path()).expect("gone").is_none());
}

#[tokio::test]
async fn a_phone_does_not_print_its_key() {
    let broker = Broker::start().await;
    let (phone, _) = active_phone(&broker, Algorithm::Ed25519).await;
    let folder = tempfile::tempdir().expect("a folder");
    phone.save(folder.path()).expect("saved");
    let text = fs::read_to_string(folder.path().join("phone.json")).expect("there");
    let stored: serde_json::Value = serde_json::from_str(&text).expect("JSON");
    let seed = stored["key"]["seed"].as_str().expect("it is kept").to_owned();
    assert!(!format!("{phone:?} {:?}", phone.key()).contains(&seed));
}
