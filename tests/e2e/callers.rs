//! Who calls: every way not to be believed.

use std::{os::unix::fs::PermissionsExt as _, time::Duration};

use bytes::Bytes;
use countersign_envelope::{Algorithm, payload_type};
use countersign_proto::v1::{self, CredentialScope, acknowledge_request::Kind, progress};
use countersign_tests::{
    Result, World,
    world::{REALM, received},
};
use device_sim::{
    login::{ApiKey, EnrollingPage, LoginServer, SignIn, Step},
    phone::{Phone, Push},
    push_services::Service,
    wire::Refusal,
};
use tonic::Code;

use crate::support::{
    approve, ask, assert_refused, bind, ledger::Ledger, new_phone, party, phone_refusal, refusal, refused,
    told,
};

/// What every method of `Approvals` says to this caller.
async fn approvals(login: &LoginServer, sign_in: &SignIn, id: &str) -> Vec<(&'static str, Refusal)> {
    vec![
        ("RequestApproval", refusal(login.request(sign_in).await)),
        ("OpenApproval", refusal(login.open(sign_in).await)),
        ("WatchApproval", refusal(login.watch(id, 0).await)),
        ("WaitApproval", refusal(login.wait(id, Duration::ZERO).await)),
        ("GetApproval", refusal(login.get(id).await)),
        ("CancelApproval", refusal(login.cancel(id).await)),
    ]
}

/// What every method of `Enrolments` says to this caller.
async fn enrolments(page: &EnrollingPage, account: &str, id: &str) -> Vec<(&'static str, Refusal)> {
    vec![
        ("BeginEnrolment", refusal(page.begin(account).await)),
        ("WatchEnrolment", refusal(page.watch(id, 0).await)),
        ("CancelEnrolment", refusal(page.cancel(id).await)),
        ("ListAuthenticators", refusal(page.list(account).await)),
        ("RevokeAuthenticator", refusal(page.revoke(account, &"0".repeat(39)).await)),
    ]
}

#[track_caller]
fn each(calls: Vec<(&'static str, Refusal)>, code: Code, reason: &str) {
    for (method, refusal) in calls {
        assert_eq!((refusal.code(), refusal.reason()), (code, Some(reason)), "{method}: {refusal:?}");
    }
}

async fn issue(world: &World, scope: CredentialScope) -> Result<v1::IssueCredentialReply> {
    let request = v1::IssueCredentialRequest {
        relying_party_id: world.relying_party_id.clone(),
        scope: scope.into(),
        client_certificate: Bytes::new(),
    };
    Ok(world.broker.administration().await?.issue_credential(request).await?.into_inner())
}

#[tokio::test]
async fn without_a_good_credential_no_method_does_anything() -> Result<()> {
    let world = World::new().await?;
    let alice = world.enrol("alice", Service::Fcm, Algorithm::Ed25519).await?;
    let (_, issued) = ask(&world.login, &world.sign_in("alice")).await?;
    let on_trial = bind(&world, "alice", &new_phone(&world, "phone", Algorithm::Ed25519)?).await?;
    let sign_in = world.sign_in("alice");
    let before = Ledger::read(&world.broker).await?.decisions();

    // The same id, and other random bits: the key of somebody who has seen the id in a list.
    let (start, last) = world.sign_in_key.split_at(world.sign_in_key.len() - 4);
    let forged = format!("{start}{}", if last == "AAAA" { "BBBB" } else { "AAAA" });
    // Of the right form, and nobody's.
    let unknown = format!("csk_{}", "A".repeat(75));
    let bad = [
        "",
        "csk_",
        "garbage",
        &unknown,
        &forged,
        &world.sign_in_key[1..],
        &format!("{}A", world.sign_in_key),
    ];
    let mut seen = std::collections::HashSet::new();
    for key in bad {
        let key = Some(ApiKey::new(key));
        let login = LoginServer::new(&world.transport, key.clone());
        let page = EnrollingPage::new(&world.transport, key);
        let mut calls = approvals(&login, &sign_in, &issued.approval_id).await;
        calls.extend(enrolments(&page, "alice", &on_trial.enrolment_id).await);
        seen.extend(calls.iter().map(|(_, refusal)| told(refusal)));
        each(calls, Code::Unauthenticated, "CREDENTIAL_INVALID");
    }
    assert_eq!(seen.len(), 1, "nobody can tell unknown from malformed: {seen:#?}");
    let login = LoginServer::new(&world.transport, None);
    let page = EnrollingPage::new(&world.transport, None);
    each(approvals(&login, &sign_in, &issued.approval_id).await, Code::Unauthenticated, "CREDENTIAL_MISSING");
    each(
        enrolments(&page, "alice", &on_trial.enrolment_id).await,
        Code::Unauthenticated,
        "CREDENTIAL_MISSING",
    );
    for header in ["Basic dXNlcjpwYXNz", "Bearer", "bearer", world.sign_in_key.as_str(), "Bearer  "] {
        let mut request =
            tonic::Request::new(v1::GetApprovalRequest { approval_id: issued.approval_id.clone() });
        request.metadata_mut().insert("authorization", header.parse()?);
        let said = world.transport.approvals().get_approval(request).await;
        refused(said, Code::Unauthenticated, "CREDENTIAL_INVALID");
    }

    assert_eq!(Ledger::read(&world.broker).await?.decisions(), before, "none of it has left anything behind");
    approve(&world, &alice.phone, &issued).await
}

#[tokio::test]
async fn a_key_for_sign_ins_binds_no_phones_and_a_key_for_enrolments_asks_for_no_approval() -> Result<()> {
    let world = World::new().await?;
    world.enrol("alice", Service::Fcm, Algorithm::Ed25519).await?;
    let (_, issued) = ask(&world.login, &world.sign_in("alice")).await?;
    let begun = world.page.begin("alice").await?;
    let login = LoginServer::new(&world.transport, Some(ApiKey::new(&world.enrolment_key)));
    let page = EnrollingPage::new(&world.transport, Some(ApiKey::new(&world.sign_in_key)));
    let sign_in = world.sign_in("alice");
    each(approvals(&login, &sign_in, &issued.approval_id).await, Code::PermissionDenied, "SCOPE_MISSING");
    each(enrolments(&page, "alice", &begun.enrolment_id).await, Code::PermissionDenied, "SCOPE_MISSING");
    Ok(())
}

#[tokio::test]
async fn a_revoked_key_is_refused_at_once_and_after_a_restart_and_no_other_is() -> Result<()> {
    let mut world = World::new().await?;
    world.enrol("alice", Service::Fcm, Algorithm::Ed25519).await?;
    let issued = issue(&world, CredentialScope::SignIn).await?;
    assert_eq!(issued.api_key.len(), 79, "csk_ and 75 characters");
    let login = LoginServer::new(&world.transport, Some(ApiKey::new(&issued.api_key)));
    let (_, waits) = ask(&login, &world.sign_in("alice")).await?;
    let mut administration = world.broker.administration().await?;
    for _ in 0..2 {
        let request = v1::RevokeCredentialRequest { credential_id: issued.credential_id.clone() };
        administration.revoke_credential(request).await?;
    }
    let sign_in = world.sign_in("alice");
    each(approvals(&login, &sign_in, &waits.approval_id).await, Code::Unauthenticated, "CREDENTIAL_INVALID");
    crate::support::killed_and_started(&mut world).await?;
    each(approvals(&login, &sign_in, &waits.approval_id).await, Code::Unauthenticated, "CREDENTIAL_INVALID");
    // The same relying party goes on with its other key, and with what the revoked one asked for.
    assert!(world.login.get(&waits.approval_id).await?.outcome.is_none());
    let request = v1::ListRelyingPartiesRequest {};
    let listed = world.broker.administration().await?.list_relying_parties(request).await?.into_inner();
    let credentials = &listed.relying_parties[0].credentials;
    let revoked: Vec<_> = credentials.iter().filter(|one| one.revoked_at.is_some()).collect();
    assert_eq!((credentials.len(), revoked.len()), (3, 1));
    assert_eq!(revoked[0].credential_id, issued.credential_id);
    Ok(())
}

#[tokio::test]
async fn an_approval_of_another_relying_party_is_as_unknown_as_one_that_never_was() -> Result<()> {
    let world = World::new().await?;
    let other = party(&world, "Other", REALM).await?;
    let alice = world.enrol("alice", Service::Fcm, Algorithm::Ed25519).await?;
    let (_, issued) = ask(&world.login, &world.sign_in("alice")).await?;
    let unknown = format!("{}{}", &issued.approval_id[..26], "0".repeat(26));
    let mut all = std::collections::HashSet::new();
    for id in [issued.approval_id.as_str(), &unknown, &"0".repeat(52), "", "garbage", &"z".repeat(5_000)] {
        let said = [
            refusal(other.login.watch(id, 0).await),
            refusal(other.login.get(id).await),
            refusal(other.login.wait(id, Duration::from_secs(60)).await),
            refusal(other.login.cancel(id).await),
        ];
        all.extend(said.iter().map(told));
    }
    let all: Vec<_> = all.into_iter().collect();
    let [(code, _, reason, _)] = &all[..] else { panic!("nobody can tell them apart: {all:#?}") };
    assert_eq!((*code, reason.as_deref()), (Code::NotFound, Some("APPROVAL_NOT_FOUND")));
    approve(&world, &alice.phone, &issued).await?;
    refused(other.login.get(&issued.approval_id).await, Code::NotFound, "APPROVAL_NOT_FOUND");
    Ok(())
}

#[tokio::test]
async fn a_relying_party_asks_for_the_accounts_of_its_realm_and_for_no_others() -> Result<()> {
    let world = World::new().await?;
    let elsewhere = party(&world, "Elsewhere", "elsewhere.test").await?;
    world.enrol("alice", Service::Fcm, Algorithm::Ed25519).await?;
    for realm in [REALM, "nobodys.test"] {
        let sign_in = world.sign_in("alice").in_realm(realm);
        refused(elsewhere.login.open(&sign_in).await, Code::PermissionDenied, "REALM_NOT_ALLOWED");
        refused(elsewhere.login.request(&sign_in).await, Code::PermissionDenied, "REALM_NOT_ALLOWED");
        let page = elsewhere.page.clone().in_realm(realm);
        refused(page.begin("alice").await, Code::PermissionDenied, "REALM_NOT_ALLOWED");
        refused(page.list("alice").await, Code::PermissionDenied, "REALM_NOT_ALLOWED");
        let said = page.revoke("alice", &"0".repeat(39)).await;
        refused(said, Code::PermissionDenied, "REALM_NOT_ALLOWED");
    }
    // Its own alice is somebody else, whether or not it names its realm.
    for sign_in in [world.sign_in("alice"), world.sign_in("alice").in_realm("elsewhere.test")] {
        refused(elsewhere.login.open(&sign_in).await, Code::NotFound, "ACCOUNT_NOT_FOUND");
    }
    ask(&world.login, &world.sign_in("alice").in_realm(REALM)).await?;
    Ok(())
}

#[tokio::test]
async fn a_phone_that_has_no_good_nonce_is_given_one() -> Result<()> {
    let world = World::new().await?;
    let alice = world.enrol("alice", Service::Fcm, Algorithm::Es256).await?.phone;
    let (_, issued) = ask(&world.login, &world.sign_in("alice")).await?;
    let good = alice.nonce();
    let old = [&0u64.to_be_bytes()[..], &good[8..]].concat();
    let mut turned = good.to_vec();
    *turned.last_mut().unwrap() ^= 1;
    let stranger = World::new().await?;
    let of_stranger =
        stranger.transport.authenticators().describe_broker(v1::DescribeBrokerRequest {}).await?.into_inner();
    let foreign = of_stranger.next_nonce;
    for nonce in [Bytes::new(), old.into(), turned.into(), foreign, vec![0; 4_096].into()] {
        let call = |nonce: Bytes| v1::ListWaitingCall {
            broker_id: alice.broker().id().to_owned(),
            authenticator_id: alice.authenticator_id().to_owned(),
            nonce,
        };
        let list = async |nonce: Bytes| {
            let call = Some(alice.sign(payload_type::LIST_WAITING, &call(nonce)));
            world.transport.authenticators().list_waiting(v1::ListWaitingRequest { call }).await
        };
        let said = refused(list(nonce.clone()).await, Code::Unauthenticated, "NONCE_EXPIRED");
        let next = said.next_nonce().expect("the next one comes with the refusal").clone();
        assert_eq!(list(next).await?.into_inner().challenges.len(), 1);
        // A phone that does as it should needs one more call, and nobody notices.
        alice.set_nonce(nonce);
        assert_eq!(alice.fetch(&world.transport, &issued.approval_id, world.now()).await?.waiting, 1);
    }
    Ok(())
}

#[tokio::test]
async fn a_phone_reads_what_is_its_own_and_signs_for_nobody_else() -> Result<()> {
    let world = World::new().await?;
    let alice = world.enrol("alice", Service::Fcm, Algorithm::Ed25519).await?.phone;
    let bob = world.enrol("bob", Service::Fcm, Algorithm::Es256).await?.phone;
    let (_, of_alice) = ask(&world.login, &world.sign_in("alice")).await?;
    assert!(bob.list_waiting(&world.transport, world.now()).await?.challenges.is_empty());
    let unknown = format!("{}{}", &of_alice.approval_id[..26], "0".repeat(26));
    let foreign = phone_refusal(bob.fetch(&world.transport, &of_alice.approval_id, world.now()).await);
    assert_refused(&foreign, Code::NotFound, "APPROVAL_NOT_FOUND");
    for id in [unknown.as_str(), "", "garbage"] {
        let said = phone_refusal(bob.fetch(&world.transport, id, world.now()).await);
        assert_eq!(told(&said), told(&foreign), "nobody can tell them apart");
    }

    let call = |of: &Phone, broker: &str, nonce: Bytes| v1::ListWaitingCall {
        broker_id: broker.to_owned(),
        authenticator_id: of.authenticator_id().to_owned(),
        nonce,
    };
    let broker = bob.broker().id();
    let (nonce, of_bob) = (bob.nonce(), bob.authenticator_id());
    let sign = |key: &Phone, key_id: &str, payload_type: &str, call: &v1::ListWaitingCall| {
        key.key().envelope(key_id, payload_type, prost::Message::encode_to_vec(call))
    };
    let ours = call(&bob, broker, nonce.clone());
    let mut tampered = sign(&bob, of_bob, payload_type::LIST_WAITING, &ours);
    tampered.payload = prost::Message::encode_to_vec(&call(&alice, broker, nonce.clone())).into();
    let unauthentic = [
        ("in the name of another", sign(&bob, alice.authenticator_id(), payload_type::LIST_WAITING, &ours)),
        ("for another", sign(&bob, of_bob, payload_type::LIST_WAITING, &call(&alice, broker, nonce.clone()))),
        ("by a key that nobody has", sign(&bob, &"0".repeat(39), payload_type::LIST_WAITING, &ours)),
        ("to another broker", sign(&bob, of_bob, payload_type::LIST_WAITING, &call(&bob, "another", nonce))),
        ("changed on the way", tampered),
    ];
    let mut seen = std::collections::HashSet::new();
    for (what, envelope) in unauthentic {
        let said = list(&world, Some(envelope)).await;
        let said = refused(said, Code::Unauthenticated, "SIGNATURE_INVALID");
        assert!(said.next_nonce().is_some(), "{what}: it may have been asleep for too long");
        seen.insert(told(&said));
    }
    assert_eq!(seen.len(), 1, "nobody can tell them apart: {seen:#?}");

    let malformed = [
        sign(&bob, of_bob, payload_type::UNENROL, &ours),
        sign(&bob, "not an id", payload_type::LIST_WAITING, &ours),
        v1::Envelope {
            payload: vec![0; 16_385].into(),
            ..sign(&bob, of_bob, payload_type::LIST_WAITING, &ours)
        },
        bob.key().envelope(of_bob, payload_type::LIST_WAITING, vec![0xff; 20]),
    ];
    for envelope in malformed {
        refused(list(&world, Some(envelope)).await, Code::InvalidArgument, "MALFORMED_ENVELOPE");
    }
    let said = refused(list(&world, None).await, Code::InvalidArgument, "INVALID_ARGUMENT");
    assert_eq!(said.fields()[0].0, "call");
    Ok(())
}

async fn list(world: &World, call: Option<v1::Envelope>) -> Result<v1::ListWaitingReply, Refusal> {
    Ok(world.transport.authenticators().list_waiting(v1::ListWaitingRequest { call }).await?.into_inner())
}

#[tokio::test]
async fn only_who_had_the_push_can_say_that_it_came() -> Result<()> {
    let world = World::new().await?;
    let first = world.enrol("alice", Service::Fcm, Algorithm::Ed25519).await?;
    let second = world.enrol("alice", Service::Fcm, Algorithm::Ed25519).await?;
    crate::support::push_of(&first, device_sim::phone::PushKind::Notice).await?;
    let (mut updates, issued) = ask(&world.login, &world.sign_in("alice")).await?;
    let push = received(&first.device).await?;
    let of_second = received(&second.device).await?;
    let (_, other) = ask(&world.login, &world.sign_in("alice")).await?;
    let of_other = received(&first.device).await?;
    assert_eq!(of_other.id, other.approval_id);

    let mut turned = push.token.to_vec();
    *turned.last_mut().unwrap() ^= 1;
    let mut prolonged = push.token.to_vec();
    prolonged[0] = 0xff;
    let mut over = push.token.to_vec();
    over[..8].copy_from_slice(&1u64.to_be_bytes());
    let with = |token: Vec<u8>| Push { token: token.into(), ..push.clone() };
    let forged = [
        ("no token", with(Vec::new())),
        ("a turned bit", with(turned)),
        ("another end", with(prolonged)),
        ("an end that is past", with(over)),
        ("nothing but zeros", with(vec![0; 24])),
        ("of another approval", with(of_other.token.to_vec())),
        ("of another phone", with(of_second.token.to_vec())),
        ("for another approval", Push { id: other.approval_id.clone(), ..push.clone() }),
        (
            "in another phone's name",
            Push { authenticator_id: of_second.authenticator_id.clone(), ..push.clone() },
        ),
    ];
    for (what, push) in &forged {
        let said = first.phone.acknowledge_opened(&world.transport, push).await;
        let said = refused(said, Code::Unauthenticated, "ACKNOWLEDGEMENT_INVALID");
        assert!(said.next_nonce().is_some(), "{what}");
    }
    let request = v1::AcknowledgeRequest {
        kind: Kind::Unspecified.into(),
        approval_id: "x".to_owned(),
        authenticator_id: String::new(),
        token: push.token.clone(),
    };
    let said = world.transport.authenticators().acknowledge(request).await;
    let said = refused(said, Code::InvalidArgument, "INVALID_ARGUMENT");
    assert_eq!(crate::support::fields(&said), ["kind", "approval_id", "authenticator_id"]);

    // Nothing of it was told to the page; what is true is.
    first.phone.acknowledge_opened(&world.transport, &push).await?;
    let mut opened = Vec::new();
    while opened.is_empty() {
        let Step::Progress(progress) = updates.next().await?.unwrap().step else { panic!("it waits") };
        if progress.kind != progress::Kind::AcceptedByPushService {
            opened.push(progress);
        }
    }
    assert_eq!(opened[0].kind, progress::Kind::Opened);
    assert_eq!(opened[0].authenticator_id, first.phone.authenticator_id());
    approve(&world, &second.phone, &issued).await
}

#[tokio::test]
async fn administration_is_behind_the_permissions_of_its_socket() -> Result<()> {
    let world = World::new().await?;
    let socket = std::fs::metadata(world.broker.home().join("admin.sock"))?;
    assert_eq!(socket.permissions().mode() & 0o777, 0o600);
    let keys = world.broker.home().join("keys");
    assert_eq!(std::fs::metadata(&keys)?.permissions().mode() & 0o777, 0o700);
    for key in std::fs::read_dir(keys)? {
        assert_eq!(key?.metadata()?.permissions().mode() & 0o077, 0, "a key is its owner's alone");
    }
    Ok(())
}

#[tokio::test]
async fn an_operator_is_told_what_is_wrong_with_a_request() -> Result<()> {
    let world = World::new().await?;
    let mut administration = world.broker.administration().await?;
    let request = v1::RegisterRelyingPartyRequest {
        name: "a\u{202e}b".to_owned(),
        applications: vec![String::new(), "x".repeat(65)],
        realm: "Not a realm".to_owned(),
    };
    let said = administration.register_relying_party(request).await;
    let said = refused(said, Code::InvalidArgument, "INVALID_ARGUMENT");
    assert_eq!(crate::support::fields(&said), ["name", "realm", "applications[0]", "applications[1]"]);
    let none = v1::RegisterRelyingPartyRequest {
        realm: REALM.to_owned(),
        name: "x".to_owned(),
        applications: vec![],
    };
    let said =
        refused(administration.register_relying_party(none).await, Code::InvalidArgument, "INVALID_ARGUMENT");
    assert_eq!(crate::support::fields(&said), ["applications"]);

    let mut request = v1::IssueCredentialRequest {
        relying_party_id: "0".repeat(26),
        scope: CredentialScope::SignIn.into(),
        client_certificate: Bytes::new(),
    };
    let said = administration.issue_credential(request.clone()).await;
    refused(said, Code::NotFound, "RELYING_PARTY_NOT_FOUND");
    request = v1::IssueCredentialRequest {
        relying_party_id: "x".to_owned(),
        scope: 0,
        client_certificate: Bytes::from_static(b"no DER"),
    };
    let said =
        refused(administration.issue_credential(request).await, Code::InvalidArgument, "INVALID_ARGUMENT");
    assert_eq!(crate::support::fields(&said), ["relying_party_id", "scope", "client_certificate"]);
    for (id, code, reason) in [
        ("x".to_owned(), Code::InvalidArgument, "INVALID_ARGUMENT"),
        ("0".repeat(39), Code::NotFound, "RELYING_PARTY_NOT_FOUND"),
    ] {
        let said = administration.revoke_credential(v1::RevokeCredentialRequest { credential_id: id }).await;
        refused(said, code, reason);
    }
    for _ in 0..30 {
        issue(&world, CredentialScope::SignIn).await?;
    }
    let one_more = issue(&world, CredentialScope::SignIn).await.unwrap_err();
    let one_more = Refusal::from(one_more.downcast::<tonic::Status>()?);
    assert_refused(&one_more, Code::ResourceExhausted, "TOO_MANY_CREDENTIALS");
    Ok(())
}
