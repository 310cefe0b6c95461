//! Answers that are not what they must be. None of them ends anything, counts against anybody, or leaves an event.

use std::time::Duration;

use countersign_envelope::{Algorithm, payload_type};
use countersign_proto::{
    event::v1::EventType,
    v1::{self, OutcomeKind},
};
use countersign_tests::{Result, World, world::outcome};
use device_sim::{
    login::Issued,
    phone::{
        AnswerBuilder, Challenge, Decision, Key, Phone,
        answer::{tampered, with_bad_signature, with_high_s},
        profile::forgeries,
    },
    push_services::Service,
};
use futures::future::try_join_all;
use tonic::Code;

use crate::support::{
    approve, ask, assert_ended, bind, challenge_of, fields, ledger::Ledger, new_phone, refusal, refused,
};

/// A sign-in that waits, and the phone that should answer it.
struct Scene {
    world: World,
    alice: Phone,
    bob: Phone,
    issued: Issued,
    challenge: Challenge,
}

impl Scene {
    async fn set(algorithm: Algorithm) -> Result<Self> {
        let world = World::new().await?;
        let alice = world.enrol("alice", Service::Fcm, algorithm).await?.phone;
        let bob = world.enrol("bob", Service::Apns, algorithm).await?.phone;
        let (_, issued) = ask(&world.login, &world.sign_in("alice")).await?;
        let challenge = challenge_of(&world, &alice, &issued.approval_id).await?;
        Ok(Self { world, alice, bob, issued, challenge })
    }

    /// The honest approval, to be spoiled.
    fn honest(&self) -> AnswerBuilder<'_> {
        AnswerBuilder::new(
            &self.alice,
            &self.challenge,
            Decision::Approve { number: self.issued.number.expose() },
        )
    }

    async fn submit(&self, answer: v1::Envelope) -> Result<OutcomeKind, device_sim::wire::Refusal> {
        self.alice.submit(&self.world.transport, answer).await
    }

    /// After all that was tried, the sign-in waits as before, nothing was counted, and the honest answer ends it.
    async fn is_unharmed(&self) -> Result<()> {
        let (world, issued) = (&self.world, &self.issued);
        assert!(world.login.get(&issued.approval_id).await?.outcome.is_none());
        approve(world, &self.alice, issued).await?;
        let ledger = Ledger::read(&world.broker).await?;
        let since_asked: Vec<_> = ledger
            .of_accounts()
            .into_iter()
            .skip_while(|kind| *kind != EventType::ApprovalRequested)
            .collect();
        let harmless = |kind: &EventType| {
            !matches!(kind, EventType::ApprovalDenied | EventType::NumberWrong | EventType::PushPaused)
        };
        assert!(since_asked.iter().all(harmless), "{since_asked:?}");
        assert_eq!(ledger.count(EventType::ApprovalApproved), 1);
        Ok(())
    }
}

#[tokio::test]
async fn a_forged_answer_is_refused_and_ends_nothing_ed25519() -> Result<()> {
    forged(Scene::set(Algorithm::Ed25519).await?).await
}

#[tokio::test]
async fn a_forged_answer_is_refused_and_ends_nothing_es256() -> Result<()> {
    let scene = Scene::set(Algorithm::Es256).await?;
    // Good to the curve, and a second signature for the same bytes.
    let high = with_high_s(scene.honest().sign());
    refused(scene.submit(high).await, Code::Unauthenticated, "SIGNATURE_INVALID");
    forged(scene).await
}

async fn forged(scene: Scene) -> Result<()> {
    let Scene { alice, bob, issued, challenge, .. } = &scene;
    let stranger = Key::generate(Algorithm::Es256);
    let honest = || scene.honest();
    let other = issued.number.other();
    // What somebody does who has captured an answer with a wrong number, and would like to try another one.
    let paired = tampered(
        AnswerBuilder::new(alice, challenge, Decision::Approve { number: other.expose() }).sign(),
        |answer| issued.number.expose().clone_into(&mut answer.number),
    );
    let bobs = AnswerBuilder::new(bob, challenge, Decision::Approve { number: issued.number.expose() });
    let mut cut = honest().sign();
    cut.signature = cut.signature.slice(..63);
    let mut long = honest().sign();
    long.signature = [&long.signature[..], &[0]].concat().into();
    let mut empty = honest().sign();
    empty.signature = bytes::Bytes::new();
    let mut all = forgeries(alice, challenge, &issued.number);
    all.extend([
        ("the number changed after it was signed", paired),
        ("another decision after it was signed", tampered(honest().sign(), |answer| answer.decision = 2)),
        ("the check of the person added after it was signed", {
            tampered(honest().user_verified(false).sign(), |answer| answer.user_verified = true)
        }),
        ("one bit of the signature", with_bad_signature(honest().sign())),
        ("a signature too short", cut),
        ("a signature too long", long),
        ("no signature", empty),
        (
            "another phone's bytes under this phone's id",
            bobs.clone().authenticator_outside(alice.authenticator_id()).sign(),
        ),
        (
            "this phone's bytes under another phone's id",
            honest().authenticator_outside(bob.authenticator_id()).sign(),
        ),
        ("another phone inside", honest().authenticator_inside(bob.authenticator_id()).sign()),
        ("another phone's key and id outside, this phone inside", {
            bobs.authenticator_inside(alice.authenticator_id()).sign()
        }),
        (
            "nobody's id",
            honest().authenticator_outside(&"0".repeat(39)).authenticator_inside(&"0".repeat(39)).sign(),
        ),
        ("a stranger's key", honest().signed_with(&stranger).sign()),
        ("another broker's", honest().broker_id("countersign-elsewhere").sign()),
        ("no broker's", honest().broker_id("").sign()),
    ]);
    let mut seen = std::collections::HashSet::new();
    for (what, answer) in all {
        let said = scene.submit(answer).await;
        let said = refusal(said);
        assert_eq!(
            (said.code(), said.reason()),
            (Code::Unauthenticated, Some("SIGNATURE_INVALID")),
            "{what}: {said:?}"
        );
        assert!(said.next_nonce().is_some(), "{what}");
        seen.insert(said.message().to_owned());
    }
    assert_eq!(seen.len(), 1, "nobody is told what was wrong: {seen:?}");
    scene.is_unharmed().await
}

#[tokio::test]
async fn an_answer_that_is_signed_and_still_wrong_is_told_what_is_wrong() -> Result<()> {
    let scene = Scene::set(Algorithm::Es256).await?;
    let Scene { world, alice, bob, challenge, .. } = &scene;
    let (_, of_bob) = ask(&world.login, &world.sign_in("bob")).await?;
    let for_bob = challenge_of(world, bob, &of_bob.approval_id).await?;
    let (_, second) = ask(&world.login, &world.sign_in("alice")).await?;
    let for_second = challenge_of(world, alice, &second.approval_id).await?;
    let honest = || scene.honest();

    let mismatches = [
        ("another challenge of this account", honest().challenge_hash(for_second.hash())),
        ("no challenge at all", honest().challenge_hash([])),
        ("a hash of the wrong length", honest().challenge_hash([0; 31])),
        ("the other approval with this challenge", honest().approval_id(for_second.approval_id())),
    ];
    for (what, answer) in mismatches {
        let said = refusal(scene.submit(answer.sign()).await);
        let expected = (Code::InvalidArgument, Some("CHALLENGE_MISMATCH"));
        assert_eq!((said.code(), said.reason()), expected, "{what}: {said:?}");
    }
    // Another account's approval is none of this phone's.
    let of_other_account = honest().approval_id(for_bob.approval_id()).challenge_hash(for_bob.hash()).sign();
    refused(scene.submit(of_other_account).await, Code::NotFound, "APPROVAL_NOT_FOUND");
    let of_nobody =
        honest().approval_id(&format!("{}{}", &challenge.approval_id()[..26], "0".repeat(26))).sign();
    refused(scene.submit(of_nobody).await, Code::NotFound, "APPROVAL_NOT_FOUND");

    type Change = fn(&mut v1::Answer);
    let fields_wrong: [(&str, Change); 11] = [
        ("nonce", |answer| answer.nonce = vec![0; 15].into()),
        ("nonce", |answer| answer.nonce = bytes::Bytes::new()),
        ("decision", |answer| answer.decision = 0),
        ("decision", |answer| answer.decision = 99),
        ("number", |answer| answer.number.clear()),
        ("number", |answer| answer.number = "x".to_owned()),
        ("number", |answer| answer.number = "-1".to_owned()),
        ("number", |answer| answer.number = "1234567".to_owned()),
        ("number", |answer| answer.number = "٤٢".to_owned()),
        ("number", |answer| answer.decision = v1::Decision::Deny.into()),
        ("approval_id", |answer| answer.approval_id = "garbage".to_owned()),
    ];
    for (field, change) in fields_wrong {
        let said = scene.submit(honest().change(change).sign()).await;
        let said = refused(said, Code::InvalidArgument, "INVALID_ARGUMENT");
        assert_eq!(fields(&said), [field], "{said:?}");
    }

    let key_id = alice.authenticator_id();
    let garbage = alice.key().envelope(key_id, payload_type::ANSWER, vec![0xff; 40]);
    let malformed = [
        ("signed as a trial's answer of another payload", honest().payload_type("text/plain").sign()),
        ("as a challenge", honest().payload_type(payload_type::CHALLENGE).sign()),
        ("as an unenrolment", honest().payload_type(payload_type::UNENROL).sign()),
        ("no type", honest().payload_type("").sign()),
        ("garbage, well signed", garbage),
        ("an id that is none", honest().authenticator_outside("alice").sign()),
        ("no id", honest().authenticator_outside("").sign()),
    ];
    for (what, answer) in malformed {
        let said = refusal(scene.submit(answer).await);
        assert_eq!(
            (said.code(), said.reason()),
            (Code::InvalidArgument, Some("MALFORMED_ENVELOPE")),
            "{what}: {said:?}"
        );
    }
    // A trial's answer where no trial is.
    let as_trial = honest().payload_type(payload_type::TRIAL_ANSWER).sign();
    assert!(matches!(refusal(scene.submit(as_trial).await).code(), Code::InvalidArgument | Code::NotFound));
    let request = v1::SubmitAnswerRequest { answer: None };
    let nothing = world.transport.authenticators().submit_answer(request).await;
    assert_eq!(fields(&refused(nothing, Code::InvalidArgument, "INVALID_ARGUMENT")), ["answer"]);

    for issued in [&second, &of_bob] {
        assert!(
            world.login.get(&issued.approval_id).await?.outcome.is_none(),
            "nothing else was ended either"
        );
    }
    scene.is_unharmed().await
}

#[tokio::test]
async fn a_phone_that_may_not_answer_is_nobody_however_well_it_signs() -> Result<()> {
    let scene = Scene::set(Algorithm::Ed25519).await?;
    let Scene { world, issued, challenge, .. } = &scene;
    let yes = Decision::Approve { number: issued.number.expose() };
    let revoked = world.enrol("alice", Service::Fcm, Algorithm::Ed25519).await?.phone;
    world.page.revoke("alice", revoked.authenticator_id()).await?;
    let left = world.enrol("alice", Service::Fcm, Algorithm::Es256).await?.phone;
    left.unenrol(&world.transport).await?;
    let failed = bind(world, "alice", &new_phone(world, "failed", Algorithm::Ed25519)?).await?;
    failed.phone.answer_trial(&world.transport, &failed.trial, "").await?;
    let on_trial = bind(world, "alice", &new_phone(world, "on trial", Algorithm::Ed25519)?).await?;
    let younger = world.enrol("alice", Service::Fcm, Algorithm::Ed25519).await?.phone;
    let nobodies = [
        ("revoked", &revoked),
        ("left", &left),
        ("failed its trial", &failed.phone),
        ("on trial", &on_trial.phone),
        ("enrolled after the request", &younger),
    ];
    for (who, phone) in nobodies {
        for decision in [yes, Decision::Deny, Decision::Report] {
            let said = refusal(phone.answer(&world.transport, challenge, decision).await);
            let expected = (Code::Unauthenticated, Some("SIGNATURE_INVALID"));
            assert_eq!((said.code(), said.reason()), expected, "{who}: {said:?}");
        }
    }
    scene.is_unharmed().await
}

#[tokio::test]
async fn who_answers_too_late_is_told_what_was_first() -> Result<()> {
    let world = World::new().await?;
    let alice = world.enrol("alice", Service::Fcm, Algorithm::Ed25519).await?.phone;
    let mut endings = Vec::new();
    for kind in [OutcomeKind::Expired, OutcomeKind::Cancelled, OutcomeKind::Denied] {
        endings.push(late(&world, &alice, kind));
    }
    try_join_all(endings).await?;
    let ledger = Ledger::read(&world.broker).await?;
    assert_eq!((ledger.count(EventType::ApprovalApproved), ledger.count(EventType::NumberWrong)), (0, 0));
    Ok(())
}

async fn late(world: &World, alice: &Phone, kind: OutcomeKind) -> Result<()> {
    let sign_in = world.sign_in("alice").lasting(Duration::from_secs(15));
    let (mut updates, issued) = ask(&world.login, &sign_in).await?;
    let challenge = challenge_of(world, alice, &issued.approval_id).await?;
    match kind {
        OutcomeKind::Expired => {}
        OutcomeKind::Denied => {
            alice.answer(&world.transport, &challenge, Decision::Deny).await?;
        }
        _ => {
            world.login.cancel(&issued.approval_id).await?;
        }
    }
    let first = outcome(&mut updates).await?;
    assert_eq!(first.kind(), kind);
    let wrong = issued.number.other();
    for decision in [
        Decision::Approve { number: issued.number.expose() },
        Decision::Approve { number: wrong.expose() },
        Decision::Deny,
        Decision::Report,
    ] {
        assert_ended(&refusal(alice.answer(&world.transport, &challenge, decision).await), kind);
    }
    // A forged one learns nothing of it.
    let forged = with_bad_signature(AnswerBuilder::new(alice, &challenge, Decision::Deny).sign());
    refused(alice.submit(&world.transport, forged).await, Code::Unauthenticated, "SIGNATURE_INVALID");
    assert_eq!(world.login.get(&issued.approval_id).await?.outcome, Some(first), "one outcome, for ever");
    Ok(())
}
