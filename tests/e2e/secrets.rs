//! What the broker says of what it does, at its most talkative, holds no secret.

use std::fs;

use countersign_envelope::Algorithm;
use countersign_proto::v1::OutcomeKind;
use countersign_tests::{Result, world::received};
use data_encoding::{BASE64URL_NOPAD, HEXLOWER};
use device_sim::{
    login::{ApiKey, LoginServer},
    phone::{AnswerBuilder, Decision, Invitation, PushTarget, answer::with_bad_signature},
    push_services::{Death, Effect, Fault, Service},
};

use crate::support::{
    answer, approve, ask, bind, challenge_of, new_phone, refusal, set, started, world_with,
};

/// Words that must not be said, each with what it is.
#[derive(Default)]
struct Unspeakable(Vec<(&'static str, String)>);

impl Unspeakable {
    fn add(&mut self, what: &'static str, word: impl Into<String>) {
        let word = word.into();
        assert!(word.len() >= 6, "{what} is so short that it would be found by accident");
        self.0.push((what, word));
    }

    fn are_not_in(&self, said: &str) {
        for line in said.lines() {
            // A moment has six digits of its own.
            let told = line.split_once("Z ").map_or(line, |(_, told)| told);
            for (what, word) in &self.0 {
                assert!(!told.contains(word.as_str()), "{what} stands in the log: {line}");
            }
        }
    }
}

#[tokio::test]
async fn the_brokers_own_words_hold_no_secret_however_much_it_is_asked_to_say() -> Result<()> {
    let mut world = world_with(&[("filter", "\"trace\""), ("digits", "6")]).await?;
    let mut secrets = Unspeakable::default();
    for key in [&world.sign_in_key, &world.enrolment_key] {
        secrets.add("an API key", &key[40..]);
    }
    for file in fs::read_dir(world.broker.home().join("keys"))? {
        let bytes = fs::read(file?.path())?;
        match std::str::from_utf8(&bytes) {
            Ok(text) => {
                let lines = text.lines().filter(|line| line.len() >= 20 && !line.starts_with("---"));
                lines.for_each(|line| secrets.add("a key of the broker", line));
            }
            Err(_) => secrets.add("a key of the broker", HEXLOWER.encode(&bytes)),
        }
    }
    // A JWT's header and an access token, with what stands before either.
    secrets.add("a token of the provider", "bearer eyJ");
    secrets.add("a token of the provider", "Bearer ");
    secrets.add("a token of the provider", "eyJhbGciOi");

    // An enrolment by a typed code, with a wrong number; and two that work.
    let begun = world.page.begin("alice-the-person").await?;
    secrets.add("a code", begun.code.as_str());
    secrets.add("a code", begun.code.replace('-', ""));
    secrets.add("a code's secret", &begun.code.replace('-', "")[8..18]);
    let new = new_phone(&world, "Alice's very own phone", Algorithm::Ed25519)?;
    let invitation = Invitation::typed(begun.address.clone(), &begun.code)?;
    let (failed, trial) = new.enrol(&world.transport, &invitation, world.now()).await?;
    let number = world.trial_number(&begun.enrolment_id).await?;
    secrets.add("the number of a trial", number.expose());
    secrets.add("what was typed", number.other().expose());
    secrets.add("a push target", failed.push_target().as_str());
    failed.answer_trial(&world.transport, &trial, number.other().expose()).await?;
    let iphone = world.enrol("alice-the-person", Service::Apns, Algorithm::Es256).await?;
    let android = world.enrol("alice-the-person", Service::Fcm, Algorithm::Ed25519).await?;
    secrets.add("a push target", iphone.device.target());
    secrets.add("a push target", android.device.target());

    // Sign-ins of every kind, with pushes that fail, answers that are forged, callers that are not known.
    let sign_in = || world.sign_in("alice-the-person").from_ip("198.51.100.77");
    secrets.add("the person's name", "alice-the-person");
    secrets.add("the person's device", "Alice's very own phone");
    secrets.add("where the person is", "198.51.100.77");
    let (_, issued) = ask(&world.login, &sign_in()).await?;
    secrets.add("a match number", issued.number.expose());
    let push = loop {
        let push = received(&android.device).await?;
        if push.id == issued.approval_id {
            break push;
        }
    };
    secrets.add("a token of an acknowledgement", BASE64URL_NOPAD.encode(&push.token));
    secrets.add("a token of an acknowledgement", HEXLOWER.encode(&push.token));
    android.phone.acknowledge_opened(&world.transport, &push).await?;
    let challenge = challenge_of(&world, &android.phone, &issued.approval_id).await?;
    let yes = Decision::Approve { number: issued.number.expose() };
    let forged = with_bad_signature(AnswerBuilder::new(&android.phone, &challenge, yes).sign());
    refusal(android.phone.submit(&world.transport, forged).await);
    approve(&world, &android.phone, &issued).await?;
    let (_, issued) = ask(&world.login, &sign_in()).await?;
    let wrong = issued.number.other();
    secrets.add("a match number", issued.number.expose());
    secrets.add("what was typed", wrong.expose());
    let typed = Decision::Approve { number: wrong.expose() };
    assert_eq!(answer(&world, &iphone.phone, &issued.approval_id, typed).await?, OutcomeKind::WrongNumber);
    let stranger = LoginServer::new(&world.transport, Some(ApiKey::new("csk_a-key-that-nobody-has-issued")));
    refusal(stranger.open(&sign_in()).await);
    secrets.add("what passed for an API key", "a-key-that-nobody-has-issued");
    let unknown = world.sign_in("mallory-whom-nobody-knows");
    refusal(world.login.open(&unknown).await);
    secrets.add("the name of nobody", "mallory-whom-nobody-knows");
    let mut malformed = world.sign_in("bob\u{202e}who-is-refused");
    malformed.session_binding = b"a session that waits!".to_vec().into();
    refusal(world.login.open(&malformed).await);
    secrets.add("a name that is refused", "who-is-refused");
    secrets.add("a session binding", "a session that waits!");

    world.push.faults().arm(Fault::new(Effect::Status(500)).times(2))?;
    world.push.kill(iphone.device.target(), Death::Unregistered);
    let (mut updates, issued) = ask(&world.login, &sign_in()).await?;
    secrets.add("a match number", issued.number.expose());
    // Both pushes have come to their ends: one is refused for good, the other gets through.
    for _ in 0..2 {
        updates.next().await?.unwrap();
    }
    let moved = PushTarget::Fcm(world.push.new_target(Service::Fcm, None)?.to_string());
    secrets.add("a push target", moved.as_str());
    iphone.phone.replace_push_target(&world.transport, moved).await?;
    bind(&world, "bob", &new_phone(&world, "phone", Algorithm::Ed25519)?).await?;
    world.page.revoke("alice-the-person", iphone.phone.authenticator_id()).await?;

    secrets.are_not_in(&world.broker.said());
    assert!(world.broker.said().lines().count() > 100, "it was talkative: {}", world.broker.said());
    assert!(world.broker.said().contains(&issued.approval_id), "what happens is told by the approval's id");

    // The same as JSON, from another start on.
    world.broker.edit_configuration(|text| set(&text, &[("format", "\"json\"")]))?;
    world.broker.kill()?;
    let lines = world.broker.said().lines().count();
    started(&mut world).await?;
    approve(&world, &android.phone, &issued).await?;
    world.broker.stopped().await?;
    let said = world.broker.said();
    for line in said.lines().skip(lines) {
        let line: serde_json::Value = serde_json::from_str(line)?;
        // What libraries trace has fields only, now and then.
        let is_ours = line["target"].as_str().is_none_or(|target| target.starts_with("countersign"));
        assert!(
            line["level"].is_string()
                && line["timestamp"].is_string()
                && (line["message"].is_string() || !is_ours),
            "{line}"
        );
        let told = line.as_object().unwrap().iter().filter(|(name, _)| *name != "timestamp");
        let told: Vec<_> = told.map(|(_, value)| value.to_string()).collect();
        secrets.are_not_in(&told.join("\n"));
    }
    Ok(())
}
