//! Bytes and fields that no well-meaning client would send: each is refused with a sentence that says what is wrong, and
//! the broker goes on.

use std::time::Duration;

use bytes::Bytes;
use countersign_envelope::Algorithm;
use countersign_proto::v1;
use countersign_tests::{Result, World, world::PATIENCE};
use device_sim::{login::SignIn, phone::Decision, push_services::Service, wire::Refusal};
use prost::Message as _;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};
use tonic::{Code, Status};

use crate::support::{
    answer, approve, ask, bind, challenge_of, fields, ledger::Ledger, new_phone, raw, refusal, refused,
    world_with,
};

const OPEN: &str = "/countersign.v1.Approvals/OpenApproval";
const SUBMIT: &str = "/countersign.v1.Authenticators/SubmitAnswer";

#[tokio::test]
async fn garbage_instead_of_http_2_ends_its_own_connection_and_nothing_else() -> Result<()> {
    let world = World::new().await?;
    let alice = world.enrol("alice", Service::Fcm, Algorithm::Ed25519).await?;
    let (_, issued) = ask(&world.login, &world.sign_in("alice")).await?;
    let preface = "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
    let settings = b"\0\0\0\x04\0\0\0\0\0";
    let garbage: [Vec<u8>; 7] = [
        vec![0; 4_096],
        (0..=255).cycle().take(65_536).collect(),
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03".to_vec(),
        b"GET / HTTP/9.9\r\n\r\n".to_vec(),
        // The preface is right, and what follows it is no frame.
        [preface.as_bytes(), &[0xff; 256]].concat(),
        // A frame of 16 MiB, which nobody has allowed.
        [preface.as_bytes(), settings, b"\xff\xff\xff\0\0\0\0\0\x01"].concat(),
        // Headers that are no HPACK.
        [preface.as_bytes(), settings, b"\0\0\x05\x01\x05\0\0\0\x01", &[0xff; 5]].concat(),
    ];
    for bytes in garbage {
        let mut connection = TcpStream::connect(("127.0.0.1", world.broker.port())).await?;
        // The broker may hang up before it has read everything.
        let _ = connection.write_all(&bytes).await;
        let mut said = Vec::new();
        let _ = tokio::time::timeout(PATIENCE, connection.read_to_end(&mut said)).await?;
    }
    approve(&world, &alice.phone, &issued).await
}

#[tokio::test]
async fn what_is_no_grpc_is_told_so_in_http() -> Result<()> {
    let world = World::new().await?;
    let client = reqwest::Client::builder().build()?;
    let at = |path: &str| format!("{}{path}", world.broker.address());
    let page = client.get(at("/")).send().await?;
    assert_eq!(page.status(), 404);
    assert!(page.text().await?.contains("gRPC"));
    for (path, content_type) in
        [(OPEN, "application/json"), (OPEN, "text/plain"), (SUBMIT, "application/json")]
    {
        let said = client.post(at(path)).header("content-type", content_type).body("{}").send().await?;
        assert_eq!(said.status(), 415, "{path} {content_type}");
    }
    assert_eq!(client.get(at(OPEN)).send().await?.status(), 415);
    assert_eq!(client.post(at("/x")).header("content-type", "application/json").send().await?.status(), 404);
    Ok(())
}

#[tokio::test]
async fn a_method_that_there_is_not_is_unknown() -> Result<()> {
    let world = World::new().await?;
    for path in [
        "/countersign.v1.Approvals/ApproveEverything",
        "/countersign.v1.Authenticators/Approve",
        "/countersign.v2.Approvals/OpenApproval",
        "/countersign.v1.Administration/ReadLog",
        "/x",
    ] {
        let said = raw::call(world.transport.channel(), path, Some(&world.sign_in_key), Bytes::new()).await;
        assert_eq!(said.unwrap_err().code(), Code::Unimplemented, "{path}");
    }
    Ok(())
}

#[tokio::test]
async fn garbage_instead_of_a_message_is_refused_whatever_the_method() -> Result<()> {
    let world = World::new().await?;
    let alice = world.enrol("alice", Service::Fcm, Algorithm::Ed25519).await?;
    let (_, issued) = ask(&world.login, &world.sign_in("alice")).await?;
    let before = Ledger::read(&world.broker).await?.decisions();
    let methods = [
        ("/countersign.v1.Approvals/RequestApproval", &world.sign_in_key),
        (OPEN, &world.sign_in_key),
        ("/countersign.v1.Approvals/WatchApproval", &world.sign_in_key),
        ("/countersign.v1.Approvals/WaitApproval", &world.sign_in_key),
        ("/countersign.v1.Approvals/GetApproval", &world.sign_in_key),
        ("/countersign.v1.Approvals/CancelApproval", &world.sign_in_key),
        ("/countersign.v1.Enrolments/BeginEnrolment", &world.enrolment_key),
        ("/countersign.v1.Enrolments/WatchEnrolment", &world.enrolment_key),
        ("/countersign.v1.Enrolments/ListAuthenticators", &world.enrolment_key),
        ("/countersign.v1.Authenticators/CompleteEnrolment", &world.sign_in_key),
        ("/countersign.v1.Authenticators/ListWaiting", &world.sign_in_key),
        ("/countersign.v1.Authenticators/FetchChallenge", &world.sign_in_key),
        (SUBMIT, &world.sign_in_key),
        ("/countersign.v1.Authenticators/ReplacePushTarget", &world.sign_in_key),
        ("/countersign.v1.Authenticators/Acknowledge", &world.sign_in_key),
        ("/countersign.v1.Authenticators/Unenrol", &world.sign_in_key),
    ];
    // No tag; a length that leads beyond the end; a text that is not UTF-8; a group that nobody ends.
    let garbage: [&[u8]; 4] =
        [&[0xff; 64], &[0x0a, 0x7f, 0x01], &[0x0a, 0x02, 0xc3, 0x28], &[0x0b, 0x0b, 0x0b]];
    for (path, key) in methods {
        for bytes in garbage {
            let said =
                raw::call(world.transport.channel(), path, Some(key), Bytes::copy_from_slice(bytes)).await;
            let status = said.expect_err(path);
            // tonic's own decoder says Internal; what it could decode is refused by its fields.
            assert!(
                matches!(status.code(), Code::Internal | Code::InvalidArgument | Code::NotFound),
                "{path}: {status}"
            );
            assert!(!status.message().is_empty(), "{path}");
        }
    }
    assert_eq!(Ledger::read(&world.broker).await?.decisions(), before);
    approve(&world, &alice.phone, &issued).await
}

#[tokio::test]
async fn a_message_or_a_header_that_is_too_long_is_refused_before_it_is_read() -> Result<()> {
    let world = World::new().await?;
    let alice = world.enrol("alice", Service::Fcm, Algorithm::Ed25519).await?;
    let (_, issued) = ask(&world.login, &world.sign_in("alice")).await?;
    let mut long = world.sign_in("alice").to_message();
    long.application = "x".repeat(32 * 1024);
    for message in [long.encode_to_vec(), vec![0; 8 * 1024 * 1024]] {
        let said = raw::call(world.transport.channel(), OPEN, Some(&world.sign_in_key), message).await;
        let status: Status = said.unwrap_err();
        assert_eq!(status.code(), Code::OutOfRange, "{status}");
        assert!(status.message().contains("32768"), "{status}");
    }
    // Envelopes have a limit of their own, below that of messages.
    let payload = vec![0; 16_385].into();
    let answer = v1::Envelope { payload, ..alice.phone.sign("x", &v1::Answer::default()) };
    let said = alice.phone.submit(&world.transport, answer).await;
    refused(said, Code::InvalidArgument, "MALFORMED_ENVELOPE");

    let key = "x".repeat(20 * 1024);
    let said = raw::call(world.transport.channel(), OPEN, Some(&key), Bytes::new()).await;
    assert!(said.is_err_and(|status| !status.message().is_empty()));
    let many = raw::call(world.transport.channel(), OPEN, Some(&world.sign_in_key), Bytes::new()).await;
    assert_eq!(many.unwrap_err().code(), Code::InvalidArgument, "the connection goes on, or a new one does");
    approve(&world, &alice.phone, &issued).await
}

#[tokio::test]
async fn each_field_of_a_request_that_is_wrong_is_named() -> Result<()> {
    let world = World::new().await?;
    let alice = world.enrol("alice", Service::Fcm, Algorithm::Ed25519).await?;
    let before = Ledger::read(&world.broker).await?.decisions();
    type Change = fn(&mut v1::RequestApprovalRequest);
    let wrong: [(&str, &str, Change); 31] = [
        ("account", "missing", |request| request.account = None),
        ("account.name", "empty", |request| name(request, String::new())),
        ("account.name", "empty", |request| name(request, " \t ".to_owned())),
        ("account.name", "257 characters", |request| name(request, "ä".repeat(257))),
        ("account.name", "U+0000", |request| name(request, "al\0ice".to_owned())),
        ("account.name", "U+000A", |request| name(request, "al\nice".to_owned())),
        ("account.name", "U+202E", |request| name(request, "alice\u{202e}moc".to_owned())),
        ("account.name", "U+2066", |request| name(request, "\u{2066}alice".to_owned())),
        ("account.name", "U+200B", |request| name(request, "ali\u{200b}ce".to_owned())),
        ("account.realm", "'E'", |request| realm(request, "Example.org".to_owned())),
        ("account.realm", "'_'", |request| realm(request, "example_org".to_owned())),
        ("account.realm", "65", |request| realm(request, "a".repeat(65))),
        ("application", "registered", |request| request.application = "Payroll".to_owned()),
        ("application", "registered", |request| request.application = String::new()),
        ("application", "registered", |request| request.application = "webmail".to_owned()),
        ("context.source_ip", "not an IPv4 or IPv6", |request| {
            context(request).source_ip = "example.org".to_owned();
        }),
        ("context.source_ip", "not an IPv4 or IPv6", |request| {
            context(request).source_ip = "192.0.2.256".to_owned();
        }),
        ("context.source_ip", "not an IPv4 or IPv6", |request| {
            context(request).source_ip = "192.0.2.1:443".to_owned();
        }),
        ("context.place", "is free text, which this broker", |request| {
            context(request).place = "Gothenburg".to_owned();
        }),
        ("context.browser", "is free text, which this broker", |request| {
            context(request).browser = "Firefox".to_owned();
        }),
        ("session_binding", "not 0", |request| request.session_binding = Bytes::new()),
        ("session_binding", "not 15", |request| request.session_binding = vec![7; 15].into()),
        ("session_binding", "not 65", |request| request.session_binding = vec![7; 65].into()),
        ("idempotency_key", "visible ASCII", |request| request.idempotency_key = "x".repeat(65)),
        ("idempotency_key", "visible ASCII", |request| request.idempotency_key = "with space".to_owned()),
        ("idempotency_key", "visible ASCII", |request| request.idempotency_key = "schlüssel".to_owned()),
        ("lifetime", "15 s to 300 s", |request| request.lifetime = seconds(14)),
        ("lifetime", "15 s to 300 s", |request| request.lifetime = seconds(301)),
        ("lifetime", "15 s to 300 s", |request| request.lifetime = seconds(0)),
        ("lifetime", "15 s to 300 s", |request| request.lifetime = seconds(-60)),
        ("lifetime", "15 s to 300 s", |request| request.lifetime = seconds(i64::MAX)),
    ];
    for (field, problem, change) in wrong {
        let mut request = world.sign_in("alice").to_message();
        change(&mut request);
        let opened = world.login.client().approvals().open_approval(request.clone()).await;
        let said = refused(opened, Code::InvalidArgument, "INVALID_ARGUMENT");
        let [(named, described)] = said.fields() else { panic!("{field}: {said:?}") };
        assert!(named == field && described.contains(problem), "{field}: {named} {described}");
        assert!(said.message().contains(field), "{said:?}");
        let requested = world.login.client().approvals().request_approval(request).await;
        assert_eq!(fields(&refused(requested, Code::InvalidArgument, "INVALID_ARGUMENT")), [field]);
    }

    let all_at_once = v1::RequestApprovalRequest {
        account: Some(v1::AccountName { realm: "NOT A REALM".to_owned(), name: "\u{202e}".to_owned() }),
        application: "Payroll".to_owned(),
        context: Some(v1::Context {
            source_ip: "nowhere".to_owned(),
            place: "here".to_owned(),
            browser: "this".to_owned(),
        }),
        session_binding: Bytes::new(),
        idempotency_key: "\u{7f}".to_owned(),
        lifetime: seconds(1),
    };
    let said = world.login.client().approvals().open_approval(all_at_once).await;
    let said = refused(said, Code::InvalidArgument, "INVALID_ARGUMENT");
    let named = [
        "account.name",
        "account.realm",
        "application",
        "context.source_ip",
        "context.place",
        "context.browser",
        "session_binding",
        "idempotency_key",
        "lifetime",
    ];
    assert_eq!(fields(&said), named, "one answer names all");

    assert_eq!(Ledger::read(&world.broker).await?.decisions(), before, "none of it has left anything behind");
    let (_, issued) = ask(&world.login, &world.sign_in("alice")).await?;
    approve(&world, &alice.phone, &issued).await
}

fn name(request: &mut v1::RequestApprovalRequest, name: String) {
    request.account.as_mut().unwrap().name = name;
}

fn realm(request: &mut v1::RequestApprovalRequest, realm: String) {
    request.account.as_mut().unwrap().realm = realm;
}

fn context(request: &mut v1::RequestApprovalRequest) -> &mut v1::Context {
    request.context.as_mut().unwrap()
}

fn seconds(seconds: i64) -> Option<prost_types::Duration> {
    Some(prost_types::Duration { seconds, nanos: 0 })
}

#[tokio::test]
async fn what_is_at_the_edge_of_what_is_allowed_is_taken() -> Result<()> {
    let world = World::new().await?;
    let longest = "ä".repeat(256);
    let alice = world.enrol(&longest, Service::Fcm, Algorithm::Ed25519).await;
    // The device's name is the account's with something behind it, and has a limit of its own.
    assert!(alice.is_err());
    let new = new_phone(&world, &"x".repeat(64), Algorithm::Ed25519)?;
    let on_trial = bind(&world, &longest, &new).await?;
    let number = world.trial_number(&on_trial.enrolment_id).await?;
    on_trial.phone.answer_trial(&world.transport, &on_trial.trial, number.expose()).await?;
    for (binding, key, lifetime) in [(16, 1, 15), (64, 64, 300)] {
        let sign_in = SignIn { idempotency_key: "~".repeat(key), ..world.sign_in(&longest) }
            .in_session(vec![7; binding])
            .from_ip("2001:db8::1")
            .lasting(Duration::from_secs(lifetime));
        let (_, issued) = ask(&world.login, &sign_in).await?;
        let challenge = challenge_of(&world, &on_trial.phone, &issued.approval_id).await?;
        assert_eq!(challenge.context().source_ip, "2001:db8::1");
        assert_eq!(challenge.expires_at().since(challenge.issued_at()), Duration::from_secs(lifetime));
        approve(&world, &on_trial.phone, &issued).await?;
    }
    Ok(())
}

#[tokio::test]
async fn free_text_is_bounded_and_undisguised_where_it_is_allowed() -> Result<()> {
    let world = world_with(&[("free_text", "true")]).await?;
    let alice = world.enrol("alice", Service::Fcm, Algorithm::Ed25519).await?;
    for (place, problem) in [
        ("x".repeat(81), "81 characters"),
        ("London\u{202e}hcirüZ".to_owned(), "U+202E"),
        ("two\nlines".to_owned(), "U+000A"),
        ("\u{feff}here".to_owned(), "U+FEFF"),
    ] {
        let mut sign_in = world.sign_in("alice");
        sign_in.context.place = place.clone();
        sign_in.context.browser = place;
        let said = refused(world.login.open(&sign_in).await, Code::InvalidArgument, "INVALID_ARGUMENT");
        assert_eq!(fields(&said), ["context.place", "context.browser"]);
        assert!(said.fields().iter().all(|(_, described)| described.contains(problem)), "{said:?}");
    }
    let mut sign_in = world.sign_in("alice");
    sign_in.context.place = format!(" {} ", "å".repeat(80));
    sign_in.context.browser = "Firefox on Linux".to_owned();
    let (_, issued) = ask(&world.login, &sign_in).await?;
    let challenge = challenge_of(&world, &alice.phone, &issued.approval_id).await?;
    assert_eq!(
        (&challenge.context().place, challenge.context().browser.as_str()),
        (&"å".repeat(80), "Firefox on Linux")
    );
    Ok(())
}

#[tokio::test]
async fn a_refusal_gives_no_number_away() -> Result<()> {
    let world = world_with(&[("digits", "6")]).await?;
    let alice = world.enrol("alice", Service::Fcm, Algorithm::Ed25519).await?;
    let sign_in = world.sign_in("alice");
    let (_, issued) = ask(&world.login, &sign_in).await?;
    assert_eq!(issued.number.expose().len(), 6);
    let number = issued.number.expose().as_bytes();
    let shows = |bytes: &[u8]| bytes.windows(number.len()).any(|window| window == number);

    // To the login server that asked, and to nobody else.
    let get = v1::GetApprovalRequest { approval_id: issued.approval_id.clone() }.encode_to_vec();
    let path = "/countersign.v1.Approvals/GetApproval";
    let own = raw::call(world.transport.channel(), path, Some(&world.sign_in_key), get).await?;
    assert!(shows(&own));
    let push = alice.device.next_push().await.unwrap();
    assert!(!shows(&push.body), "in a push");
    let nonce = alice.phone.nonce();
    let list = v1::ListWaitingCall {
        broker_id: alice.phone.broker().id().to_owned(),
        authenticator_id: alice.phone.authenticator_id().to_owned(),
        nonce: nonce.clone(),
    };
    let fetch = v1::FetchChallengeCall {
        broker_id: list.broker_id.clone(),
        authenticator_id: list.authenticator_id.clone(),
        nonce,
        id: issued.approval_id.clone(),
    };
    use countersign_envelope::payload_type::{FETCH_CHALLENGE, LIST_WAITING};
    let list = v1::ListWaitingRequest { call: Some(alice.phone.sign(LIST_WAITING, &list)) }.encode_to_vec();
    let fetch =
        v1::FetchChallengeRequest { call: Some(alice.phone.sign(FETCH_CHALLENGE, &fetch)) }.encode_to_vec();
    for (path, call) in [
        ("/countersign.v1.Authenticators/ListWaiting", list),
        ("/countersign.v1.Authenticators/FetchChallenge", fetch),
    ] {
        let reply = raw::call(world.transport.channel(), path, None, call).await?;
        assert!(reply.len() > 100 && !shows(&reply), "{path}");
    }
    let other_body = sign_in.clone().from_ip("192.0.2.9");
    let told: Refusal = refusal(world.login.open(&other_body).await);
    assert!(!shows(format!("{told:?}{}", told.message()).as_bytes()));
    let wrong = issued.number.other();
    let wrong = Decision::Approve { number: wrong.expose() };
    assert_eq!(answer(&world, &alice.phone, &issued.approval_id, wrong).await?, v1::OutcomeKind::WrongNumber);
    let mut entries =
        world.broker.administration().await?.read_log(v1::ReadLogRequest::default()).await?.into_inner();
    while let Some(entry) = entries.message().await? {
        assert!(!shows(&entry.encode_to_vec()), "in the log, unsealed, at {}", entry.position);
    }
    Ok(())
}
