//! Peers that are slow, silent or hostile. Each of them costs the broker so much memory and no more, and meanwhile others
//! sign in.

use std::{
    collections::HashSet,
    future::Future,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use anyhow::Context as _;
use countersign_envelope::Algorithm;
use countersign_proto::v1::{OutcomeKind, WatchApprovalRequest, progress::Kind};
use countersign_tests::{
    Broker, Result, World,
    world::{EnrolledPhone, PATIENCE, REALM, issued, outcome, received},
};
use device_sim::{
    login::{ApiKey, EnrollingPage, Issued, LoginServer, Step, Updates},
    push_services::{Effect, Fault, Place, Service},
    wire::{Refusal, Transport},
};
use futures::{StreamExt as _, stream};
use prost::Message as _;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use rustls::{ClientConfig, RootCertStore, pki_types::pem::PemObject as _};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpSocket, TcpStream},
    time::timeout,
};
use tokio_rustls::{TlsConnector, client::TlsStream};
use tonic::Code;
use tonic_reflection::pb::v1::{ServerReflectionRequest, server_reflection_request::MessageRequest};

use crate::support::{
    approve, ask, assert_refused,
    frames::{
        CONTINUATION, DATA, END_HEADERS, END_STREAM, HEADERS, INITIAL_WINDOW, PING, RST_STREAM, SETTINGS,
        call, frame, header, message, next, preface,
    },
    party,
    pki::{Authority, tls_section},
    world_with,
};

/// Whatever somebody else does, a sign-in takes no longer than this. Alone it takes some hundredths of a second; the
/// machine of the tests is busy with other tests.
const SERVED_WITHIN: Duration = Duration::from_secs(20);

const MIB: u64 = 1024 * 1024;

const WATCH: &str = "/countersign.v1.Approvals/WatchApproval";
const SUBMIT: &str = "/countersign.v1.Authenticators/SubmitAnswer";

/// One whole sign-in, from the number to the outcome.
async fn signs_in(world: &World, account: &str, phone: &EnrolledPhone) -> Result<()> {
    let whole = async {
        let (mut updates, issued) = asked(world, account).await?;
        approve(world, &phone.phone, &issued).await?;
        assert_eq!(outcome(&mut updates).await?.kind(), OutcomeKind::Approved);
        Ok(())
    };
    timeout(SERVED_WITHIN, whole).await.context("others must be served meanwhile")?
}

/// Asks, and again where the broker has said to: so busy can these machines be that it is the truth.
async fn asked(world: &World, account: &str) -> Result<(Updates, Issued)> {
    loop {
        match world.login.request(&world.sign_in(account)).await {
            Ok(mut updates) => {
                let issued = issued(&mut updates).await?;
                return Ok((updates, issued));
            }
            Err(refusal) if matches!(refusal.reason(), Some("OVERLOADED" | "TOO_MANY_STREAMS")) => {
                tokio::time::sleep(refusal.retry_after().context("it says when to come again")?).await;
            }
            Err(refusal) => return Err(refusal.into()),
        }
    }
}

/// The same of an enrolment.
async fn enrolled(
    world: &World,
    account: &str,
    service: Service,
    algorithm: Algorithm,
) -> Result<EnrolledPhone> {
    loop {
        match world.enrol(account, service, algorithm).await {
            Err(error) => match error.downcast_ref::<Refusal>() {
                Some(refusal) if refusal.reason() == Some("OVERLOADED") => {
                    tokio::time::sleep(refusal.retry_after().context("it says when to come again")?).await;
                }
                _ => return Err(error),
            },
            enrolled => return enrolled,
        }
    }
}

/// What the broker has more than before, in bytes.
fn grown(broker: &Broker, before: u64) -> Result<u64> {
    Ok(broker.memory_bytes()?.saturating_sub(before))
}

async fn connect(broker: &Broker) -> Result<TcpStream> {
    Ok(TcpStream::connect(("127.0.0.1", broker.port())).await?)
}

#[tokio::test]
async fn a_login_server_that_reads_nothing_is_waited_for_by_nobody() -> Result<()> {
    const CONNECTIONS: u64 = 4;
    const STREAMS: u64 = 900;
    let world = World::new().await?;
    let alice = enrolled(&world, "alice", Service::Fcm, Algorithm::Ed25519).await?;
    let bob = enrolled(&world, "bob", Service::Fcm, Algorithm::Ed25519).await?;
    let (mut updates, issued) = asked(&world, "alice").await?;
    signs_in(&world, "bob", &bob).await?;
    let before = world.broker.memory_bytes()?;

    let watch = WatchApprovalRequest { approval_id: issued.approval_id.clone(), after_sequence: 0 };
    let watch = message(&watch.encode_to_vec());
    let mut deaf = Vec::new();
    for _ in 0..CONNECTIONS {
        let mut connection = connect(&world.broker).await?;
        connection.write_all(&preface(&[(INITIAL_WINDOW, 0)])).await?;
        for stream in (1..).step_by(2).take(usize::try_from(STREAMS)?) {
            let head = frame(HEADERS, END_HEADERS, stream, &call(WATCH, Some(&world.sign_in_key)));
            connection.write_all(&[head, frame(DATA, END_STREAM, stream, &watch)].concat()).await?;
        }
        // The heads of the replies need no window. Once they are there, all of these streams wait.
        let mut begun = 0;
        while begun < STREAMS {
            let (kind, ..) = timeout(PATIENCE, next(&mut connection)).await??;
            begun += u64::from(kind == HEADERS);
        }
        deaf.push(connection);
    }
    // From here on nothing is read there. All of them are told the outcome at once, and the one who reads has it.
    approve(&world, &alice.phone, &issued).await?;
    let told = timeout(SERVED_WITHIN, outcome(&mut updates)).await?;
    assert_eq!(told?.kind(), OutcomeKind::Approved);
    for _ in 0..5 {
        signs_in(&world, "bob", &bob).await?;
    }
    let each = grown(&world.broker, before)? / (CONNECTIONS * STREAMS);
    println!("{each} bytes for each stream that nobody reads");
    assert!(each < 32 * 1024, "{each} bytes for each stream that nobody reads");
    drop(deaf);
    Ok(())
}

/// A connection, and how many of the streams that were opened on it go on.
struct Opened {
    _connection: TcpStream,
    open: usize,
}

/// Opens so many streams on a connection of its own, and waits until each has been answered or refused.
async fn open_streams(world: &World, count: usize, head: &[u8], request: &[u8]) -> Result<Opened> {
    let mut connection = connect(&world.broker).await?;
    connection.write_all(&preface(&[])).await?;
    for stream in (1..).step_by(2).take(count) {
        let head = frame(HEADERS, END_HEADERS, stream, head);
        connection.write_all(&[head, frame(DATA, END_STREAM, stream, request)].concat()).await?;
    }
    // The first head of a stream is its answer, and its end, too, if it is refused.
    let (mut open, mut answered) = (0, HashSet::new());
    while answered.len() < count {
        let (kind, flags, stream, _) = timeout(PATIENCE, next(&mut connection)).await??;
        if kind == HEADERS && answered.insert(stream) {
            open += usize::from(flags & END_STREAM == 0);
        }
    }
    Ok(Opened { _connection: connection, open })
}

#[tokio::test]
async fn a_relying_party_has_so_many_streams_at_a_time_and_no_other_is_kept_from_its_own() -> Result<()> {
    let limits = [("live_approvals", "20"), ("live_approvals_of_relying_party", "10")];
    let world = world_with(&limits).await?;
    let other = party(&world, "Other", REALM).await?;
    let alice = enrolled(&world, "alice", Service::Fcm, Algorithm::Ed25519).await?;
    let (mut updates, issued) = asked(&world, "alice").await?;
    let watch = WatchApprovalRequest { approval_id: issued.approval_id.clone(), after_sequence: 0 };
    let (head, watch) = (call(WATCH, Some(&world.sign_in_key)), message(&watch.encode_to_vec()));
    let flood = open_streams(&world, 990, &head, &watch).await?;
    // One of twenty is that of who asked.
    assert_eq!(flood.open, 19);
    let refusals = [
        world.login.watch(&issued.approval_id, 0).await.map(drop).unwrap_err(),
        world.login.request(&world.sign_in("alice")).await.map(drop).unwrap_err(),
        world.login.wait(&issued.approval_id, Duration::from_secs(1)).await.map(drop).unwrap_err(),
        world.page.watch("anything", 0).await.map(drop).unwrap_err(),
    ];
    for refusal in refusals {
        assert_refused(&refusal, Code::ResourceExhausted, "TOO_MANY_STREAMS");
        assert_eq!(refusal.metadata("limit"), Some("relying_party"), "{refusal:?}");
        assert!(refusal.retry_after().is_some(), "{refusal:?}");
    }
    assert!(world.login.get(&issued.approval_id).await?.outcome.is_none(), "who does not wait is answered");
    let (mut others, of_other) = ask(&other.login, &world.sign_in("alice")).await?;
    other.login.cancel(&of_other.approval_id).await?;
    assert_eq!(outcome(&mut others).await?.kind(), OutcomeKind::Cancelled);
    approve(&world, &alice.phone, &issued).await?;
    assert_eq!(outcome(&mut updates).await?.kind(), OutcomeKind::Approved);
    // All of them were told, and so have ended.
    signs_in(&world, "alice", &alice).await?;
    Ok(())
}

#[tokio::test]
async fn a_phone_that_sends_a_byte_a_second_is_let_go() -> Result<()> {
    const CONNECTIONS: usize = 64;
    let world = world_with(&[("request_s", "2")]).await?;
    let alice = enrolled(&world, "alice", Service::Fcm, Algorithm::Ed25519).await?;
    signs_in(&world, "alice", &alice).await?;
    let before = world.broker.memory_bytes()?;
    let head = [preface(&[]), frame(HEADERS, END_HEADERS, 1, &call(SUBMIT, None))].concat();
    let data = frame(DATA, 0, 1, &[0; 1_000]);
    let slow = (0..CONNECTIONS).map(|n| {
        // In the middle of a message, of the head of the first call, of the preface.
        let (at_once, slowly) = match n % 3 {
            0 => (head.clone(), data.clone()),
            1 => (head[..60].to_vec(), head[60..].to_vec()),
            _ => (Vec::new(), head.clone()),
        };
        let broker = &world.broker;
        async move {
            let mut connection = connect(broker).await?;
            connection.write_all(&at_once).await?;
            timeout(PATIENCE, trickle(&mut connection, &slowly, n % 3 == 0)).await?
        }
    });
    let slow = stream::iter(slow).buffer_unordered(CONNECTIONS).collect::<Vec<_>>();
    let others = async {
        for _ in 0..5 {
            signs_in(&world, "alice", &alice).await?;
        }
        let grown = grown(&world.broker, before)?;
        assert!(grown < 16 * MIB, "{grown} bytes");
        Ok::<_, anyhow::Error>(())
    };
    let (ended, others) = tokio::join!(slow, others);
    others?;
    ended.into_iter().collect()
}

/// A byte a second, until the broker has ended the connection or, where that is what is slow, the call.
async fn trickle(connection: &mut TcpStream, bytes: &[u8], call_is_enough: bool) -> Result<()> {
    let (mut reads, mut writes) = connection.split();
    let ended = async {
        while let Ok((kind, flags, stream, _)) = next(&mut reads).await {
            if call_is_enough && (kind, stream) == (HEADERS, 1) && flags & END_STREAM != 0 {
                break;
            }
        }
    };
    let sends = async {
        for byte in bytes {
            if writes.write_all(&[*byte]).await.is_err() {
                break;
            }
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
        std::future::pending::<()>().await;
    };
    tokio::select! {
        () = ended => Ok(()),
        () = sends => Ok(()),
    }
}

#[tokio::test]
async fn an_apns_that_accepts_and_never_answers_delays_its_own_pushes_only() -> Result<()> {
    let quick = "\n[push.apns.queue]\nattempt_timeout_ms = 1000\nretry_first_ms = 50\nretry_max_ms = 200\n";
    let world = World::with(quick).await?;
    let bob = enrolled(&world, "bob", Service::Fcm, Algorithm::Ed25519).await?;
    let mut people = Vec::new();
    for n in 0..20 {
        let name = format!("apple-{n}");
        let phone = enrolled(&world, &name, Service::Apns, Algorithm::Es256).await?;
        people.push((name, phone));
    }
    let before = world.broker.memory_bytes()?;
    world.push.faults().arm(Fault::new(Effect::Silence).at(Place::Apns))?;
    let mut waiting = Vec::new();
    for (name, phone) in &people {
        waiting.push((asked(&world, name).await?, phone));
    }
    // The push to the other service comes, although those wait.
    let (mut updates, issued) = asked(&world, "bob").await?;
    assert_eq!(timeout(SERVED_WITHIN, received(&bob.device)).await??.id, issued.approval_id);
    approve(&world, &bob.phone, &issued).await?;
    assert_eq!(outcome(&mut updates).await?.kind(), OutcomeKind::Approved);
    // The pages hear that the push is late; who opens the app sees what waits.
    for ((mut updates, issued), person) in waiting {
        let told = timeout(PATIENCE, updates.next()).await??.context("the stream goes on")?;
        assert!(matches!(told.step, Step::Progress(progress) if progress.kind == Kind::PushDelayed));
        let listed = person.phone.list_waiting(&world.transport, world.now()).await?;
        assert_eq!(listed.challenges.len(), 1);
        approve(&world, &person.phone, &issued).await?;
        assert_eq!(outcome(&mut updates).await?.kind(), OutcomeKind::Approved);
    }
    let grown = grown(&world.broker, before)?;
    assert!(grown < 16 * MIB, "{grown} bytes");
    Ok(())
}

/// What became of a flood.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Flooded {
    /// The broker closed the connection.
    Closed,
    /// It reads no more.
    Stopped,
    /// It has read all of it.
    Taken,
}

/// Connections that flood at a time, and what each sends at most.
const FLOODS: usize = 8;
const FLOOD_BYTES: usize = 8 * 1024 * 1024;

/// Sends what `more` makes, over and over, and reads what comes or does not. Others sign in meanwhile.
async fn flooded(reads: bool, more: impl Fn(u32) -> Vec<u8> + Copy) -> Result<Vec<Flooded>> {
    let world = World::new().await?;
    let alice = enrolled(&world, "alice", Service::Fcm, Algorithm::Ed25519).await?;
    signs_in(&world, "alice", &alice).await?;
    let before = world.broker.memory_bytes()?;
    let floods = (0..FLOODS).map(|_| flood(&world.broker, reads, more));
    let floods = stream::iter(floods).buffer_unordered(FLOODS).collect::<Vec<_>>();
    let others = async {
        let mut most = 0;
        for _ in 0..10 {
            signs_in(&world, "alice", &alice).await?;
            most = most.max(grown(&world.broker, before)?);
        }
        Ok::<_, anyhow::Error>(most)
    };
    let (ended, most) = tokio::join!(floods, others);
    let most = most?.max(grown(&world.broker, before)?);
    signs_in(&world, "alice", &alice).await?;
    println!("{} KiB more, at most, with {FLOODS} floods", most / 1024);
    assert!(most < MIB * u64::try_from(FLOODS)?, "{most} bytes for {FLOODS} floods");
    ended.into_iter().collect()
}

async fn flood(broker: &Broker, reads: bool, more: impl Fn(u32) -> Vec<u8>) -> Result<Flooded> {
    let socket = TcpSocket::new_v4()?;
    if !reads {
        // The operating system should not read megabytes in its stead.
        socket.set_recv_buffer_size(4 * 1024)?;
    }
    let mut connection = socket.connect(SocketAddr::from(([127, 0, 0, 1], broker.port()))).await?;
    connection.write_all(&preface(&[])).await?;
    let (mut from, mut to) = connection.split();
    let drained = async {
        let mut read = vec![0; 64 * 1024];
        while reads && from.read(&mut read).await.is_ok_and(|count| count > 0) {}
        if !reads {
            std::future::pending::<()>().await;
        }
        Flooded::Closed
    };
    let sent = async {
        let (mut sent, mut stream) = (0, 1);
        while sent < FLOOD_BYTES {
            let part: Vec<u8> = (0..100).flat_map(|n| more(stream + 2 * n)).collect();
            stream += 200;
            match timeout(Duration::from_secs(5), to.write_all(&part)).await {
                Ok(Ok(())) => sent += part.len(),
                Ok(Err(_)) => return Flooded::Closed,
                Err(_) => return Flooded::Stopped,
            }
        }
        Flooded::Taken
    };
    Ok(tokio::select! {
        ended = drained => ended,
        ended = sent => ended,
    })
}

#[track_caller]
fn all_are(ended: &[Flooded], expected: Flooded) {
    assert!(ended.iter().all(|one| *one == expected), "{ended:?}");
}

#[tokio::test]
async fn calls_that_are_reset_as_soon_as_they_are_made_end_their_connection() -> Result<()> {
    let ended = flooded(true, |stream| {
        let head = frame(HEADERS, END_HEADERS | END_STREAM, stream, &call(SUBMIT, None));
        [head, frame(RST_STREAM, 0, stream, &8_u32.to_be_bytes())].concat()
    });
    all_are(&ended.await?, Flooded::Closed);
    Ok(())
}

#[tokio::test]
async fn headers_without_an_end_end_their_connection() -> Result<()> {
    // The first is the call's head, and whatever follows goes on with it.
    for part in [header("x-more", &"x".repeat(1_000)), header("x", ""), Vec::new()] {
        let ended = flooded(true, |stream| match stream {
            1 => frame(HEADERS, END_STREAM, 1, &call(SUBMIT, None)),
            _ => frame(CONTINUATION, 0, 1, &part),
        });
        all_are(&ended.await?, Flooded::Closed);
    }
    Ok(())
}

#[tokio::test]
async fn giant_headers_are_not_kept() -> Result<()> {
    let one = [call(SUBMIT, None), header("x-giant", &"x".repeat(12 * 1024))].concat();
    let many = [call(SUBMIT, None), header("x", "").repeat(4_000)].concat();
    for head in [one, many] {
        assert!(head.len() < 16 * 1024, "it fits into one frame");
        flooded(true, |stream| frame(HEADERS, END_HEADERS | END_STREAM, stream, &head)).await?;
    }
    Ok(())
}

#[tokio::test]
async fn who_asks_for_signs_of_life_and_reads_none_is_not_read_any_more() -> Result<()> {
    let ended = flooded(false, |_| frame(PING, 0, 0, &[0; 8])).await?;
    assert!(!ended.contains(&Flooded::Taken), "{ended:?}");
    let ended = flooded(false, |_| frame(SETTINGS, 0, 0, &[])).await?;
    assert!(!ended.contains(&Flooded::Taken), "{ended:?}");
    Ok(())
}

/// Health can be watched for ever and reflection's replies are long; neither asks who calls.
#[tokio::test]
async fn replies_that_nobody_has_to_prove_anything_for_do_not_pile_up_unread() -> Result<()> {
    const CONNECTIONS: u64 = 10;
    const STREAMS: usize = 200;
    let world = World::new().await?;
    let alice = enrolled(&world, "alice", Service::Fcm, Algorithm::Ed25519).await?;
    signs_in(&world, "alice", &alice).await?;
    let symbol = ServerReflectionRequest {
        host: String::new(),
        message_request: Some(MessageRequest::FileContainingSymbol("countersign.v1.Approvals".to_owned())),
    };
    let calls = [
        ("/grpc.health.v1.Health/Watch", Vec::new()),
        ("/grpc.reflection.v1.ServerReflection/ServerReflectionInfo", symbol.encode_to_vec()),
    ];
    for (path, asked) in calls {
        let before = world.broker.memory_bytes()?;
        let mut deaf = Vec::new();
        for _ in 0..CONNECTIONS {
            let mut connection = connect(&world.broker).await?;
            connection.write_all(&preface(&[(INITIAL_WINDOW, 0)])).await?;
            // One after the other: what is measured is what is kept, and not what many take at the same moment.
            let mut go_on = 0;
            for stream in (1..).step_by(2).take(STREAMS) {
                let head = frame(HEADERS, END_HEADERS, stream, &call(path, None));
                let asked = frame(DATA, END_STREAM, stream, &message(&asked));
                connection.write_all(&[head, asked].concat()).await?;
                let flags = loop {
                    match timeout(PATIENCE, next(&mut connection)).await?? {
                        (HEADERS, flags, of, _) if of == stream => break flags,
                        _ => {}
                    }
                };
                go_on += u32::from(flags & END_STREAM == 0);
            }
            assert!((1..=16).contains(&go_on), "{path}: {go_on} go on");
            deaf.push(connection);
        }
        signs_in(&world, "alice", &alice).await?;
        let each = grown(&world.broker, before)? / CONNECTIONS;
        println!("{path}: {each} bytes for each connection");
        assert!(each < MIB, "{path}: {each} bytes for each connection");
    }
    Ok(())
}

#[tokio::test]
async fn of_a_path_that_nobody_knows_little_is_said_back() -> Result<()> {
    let world = World::new().await?;
    let mut connection = connect(&world.broker).await?;
    let head = call(&format!("/{}", "%".repeat(7_000)), None);
    let called = [preface(&[]), frame(HEADERS, END_HEADERS | END_STREAM, 1, &head)].concat();
    connection.write_all(&called).await?;
    let said = loop {
        let (kind, _, _, payload) = timeout(PATIENCE, next(&mut connection)).await??;
        if kind == HEADERS {
            break payload;
        }
    };
    assert!(said.len() < 2_000, "{} bytes", said.len());
    Ok(())
}

#[tokio::test]
async fn a_giant_head_of_http_1_is_not_kept() -> Result<()> {
    const CONNECTIONS: u64 = 100;
    let world = World::new().await?;
    let alice = enrolled(&world, "alice", Service::Fcm, Algorithm::Ed25519).await?;
    signs_in(&world, "alice", &alice).await?;
    let before = world.broker.memory_bytes()?;
    let head = [b"POST / HTTP/1.1\r\nHost: x\r\nX-Giant: ".to_vec(), vec![b'x'; 300 * 1024]].concat();
    let mut giants = Vec::new();
    for _ in 0..CONNECTIONS {
        let mut connection = connect(&world.broker).await?;
        // The broker may have ended it before all is sent.
        let _ = timeout(PATIENCE, connection.write_all(&head)).await?;
        giants.push(connection);
    }
    signs_in(&world, "alice", &alice).await?;
    let each = grown(&world.broker, before)? / CONNECTIONS;
    println!("{each} bytes for each giant head");
    assert!(each < 64 * 1024, "{each} bytes for each giant head");
    for mut connection in giants {
        let mut said = Vec::new();
        let _ = timeout(PATIENCE, connection.read_to_end(&mut said)).await?;
    }
    Ok(())
}

/// So many connections do nothing.
const IDLE: u64 = 10_000;
/// Files that the test opens beside them, at the most.
const OTHER_FILES: u64 = 1_000;

#[tokio::test]
async fn idle_tls_connections_are_cheap_and_keep_nobody_out() -> Result<()> {
    let files = getrlimit(Resource::Nofile);
    setrlimit(Resource::Nofile, Rlimit { current: files.maximum, ..files })?;
    assert!(
        files.maximum.is_none_or(|most| most >= IDLE + OTHER_FILES),
        "this test opens {} files, and may open {:?}: raise the hard limit (ulimit -Hn)",
        IDLE + OTHER_FILES,
        files.maximum
    );
    let authority = Authority::new()?;
    let server = authority.server()?;
    let mut world = World::with_edited("", |text| {
        text.replace("public_url = \"http://127.0.0.1", "public_url = \"https://localhost")
            .replace("\nrequest_s = 10\n", "\nrequest_s = 300\n")
            .replace("\nconnections = 10000\n", "\nconnections = 12000\n")
    })
    .await?;
    let section = tls_section("server.tls", &world.broker.home(), &server, &authority)?;
    world.broker.edit_configuration(|text| text + &section)?;
    world.broker.stopped().await?;
    world.broker.start()?;
    let address = format!("https://localhost:{}", world.broker.port());
    world.transport = Transport::to(address).trusting(&authority.pem).open()?;
    world.login = LoginServer::new(&world.transport, Some(ApiKey::new(&world.sign_in_key)));
    world.page = EnrollingPage::new(&world.transport, Some(ApiKey::new(&world.enrolment_key)));
    let alice = enrolled(&world, "alice", Service::Fcm, Algorithm::Ed25519).await?;
    signs_in(&world, "alice", &alice).await?;

    let connector = trusting(&authority)?;
    let before = world.broker.memory_bytes()?;
    let port = world.broker.port();
    let opened =
        stream::iter(0..IDLE).map(|n| idle(&connector, port, n)).buffer_unordered(64).collect::<Vec<_>>();
    let (opened, meanwhile) = tokio::join!(opened, signs_in(&world, "alice", &alice));
    meanwhile?;
    let opened: Vec<_> = opened.into_iter().collect::<Result<_>>()?;
    let each = grown(&world.broker, before)? / IDLE;
    println!("{each} bytes for each of {IDLE} idle TLS connections");
    assert!(each < 64 * 1024, "{each} bytes for each of {IDLE} idle TLS connections");
    signs_in(&world, "alice", &alice).await?;
    drop(opened);
    Ok(())
}

fn trusting(authority: &Authority) -> Result<TlsConnector> {
    let mut roots = RootCertStore::empty();
    roots.add(rustls::pki_types::CertificateDer::from_pem_slice(authority.pem.as_bytes())?)?;
    let mut config = ClientConfig::builder().with_root_certificates(roots).with_no_client_auth();
    config.alpn_protocols = vec![b"h2".to_vec()];
    Ok(TlsConnector::from(Arc::new(config)))
}

/// A handshake and no more, from one of twenty addresses: one alone may not have so many.
fn idle(
    connector: &TlsConnector,
    port: u16,
    n: u64,
) -> impl Future<Output = Result<TlsStream<TcpStream>>> + use<> {
    let connector = connector.clone();
    async move {
        let socket = TcpSocket::new_v4()?;
        let from = Ipv4Addr::new(127, 0, 1, u8::try_from(n % 20)? + 1);
        socket.bind(SocketAddr::new(IpAddr::V4(from), 0))?;
        let stream = socket.connect(SocketAddr::from(([127, 0, 0, 1], port))).await?;
        Ok(connector.connect("localhost".try_into()?, stream).await?)
    }
}
