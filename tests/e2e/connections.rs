//! What a connection may cost: silence, bodies that do not come, more connections than anybody needs, files.

use std::{
    fs,
    io::{BufRead as _, BufReader},
    process::{Command, Stdio},
    time::Duration,
};

use bytes::Bytes;
use countersign_proto::v1;
use countersign_tests::{
    Broker, Result,
    programs::countersign,
    world::{PATIENCE, REALM, register},
};
use device_sim::{
    login::{ApiKey, LoginServer, SignIn},
    wire::{Refusal, Transport},
};
use futures::{StreamExt as _, stream};
use prost::Message as _;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};
use tonic::Code;
use tonic_health::pb::{HealthCheckRequest, health_client::HealthClient};
use tonic_reflection::pb::v1::{ServerReflectionRequest, server_reflection_request::MessageRequest};

use crate::support::{assert_refused, raw, refused, set};

fn broker(settings: &[(&str, &str)]) -> Result<Broker> {
    let mut broker = Broker::make("")?;
    broker.edit_configuration(|text| set(&text, settings))?;
    broker.start()?;
    Ok(broker)
}

/// All that the broker says on a connection on which so much is sent, up to its end.
async fn until_closed(broker: &Broker, sent: &[u8]) -> Result<Vec<u8>> {
    let mut stream = TcpStream::connect(("127.0.0.1", broker.port())).await?;
    stream.write_all(sent).await?;
    let mut said = Vec::new();
    let _ = tokio::time::timeout(PATIENCE, stream.read_to_end(&mut said)).await?;
    Ok(said)
}

#[tokio::test]
async fn who_says_nothing_or_not_enough_is_let_go() -> Result<()> {
    let broker = broker(&[("request_s", "1")])?;
    let preface = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";
    let post = b"POST /countersign.v1.Approvals/OpenApproval HTTP/1.1\r\nHost: x\r\n\
        Content-Type: application/grpc\r\nAuthorization: Bearer csk_x\r\nContent-Length: 100\r\n\r\n\0";
    let idle = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n";
    for sent in [&b""[..], &preface[..10], &preface[..], &post[..40], &post[..], &idle[..]] {
        let said = until_closed(&broker, sent).await;
        assert!(said.is_ok(), "{:?} is kept for ever", String::from_utf8_lossy(sent));
    }
    // Whoever has called is not asked to call again.
    let transport = Transport::to(broker.address()).open()?;
    for _ in 0..2 {
        transport.authenticators().describe_broker(v1::DescribeBrokerRequest {}).await?;
        tokio::time::sleep(Duration::from_millis(1_500)).await;
    }
    Ok(())
}

#[tokio::test]
async fn a_message_that_does_not_come_in_time_is_refused_and_a_stream_that_lasts_is_not_cut() -> Result<()> {
    let broker = broker(&[("request_s", "1")])?;
    let (_, key, _) = register(&broker, "Example College", REALM).await?;
    let transport = Transport::to(broker.address()).open()?;
    let mut health = HealthClient::new(transport.channel());
    let mut watch = health.watch(HealthCheckRequest::default()).await?.into_inner();
    watch.message().await?;
    for path in ["/countersign.v1.Approvals/OpenApproval", "/grpc.health.v1.Health/Check"] {
        let call = raw::call_slowly(transport.channel(), path, Some(&key), stream::pending());
        let said = tokio::time::timeout(PATIENCE, call).await?;
        let refusal = Refusal::from(said.unwrap_err());
        assert_refused(&refusal, Code::DeadlineExceeded, "MESSAGE_LATE");
        assert!(refusal.retry_helps(), "a broker that was too slow to read it is not the caller's fault");
    }
    let more = tokio::time::timeout(Duration::from_millis(200), watch.message()).await;
    assert!(more.is_err(), "the reply has lasted longer than a message may take: {more:?}");
    Ok(())
}

#[tokio::test]
async fn health_and_reflection_take_no_long_messages() -> Result<()> {
    let broker = broker(&[])?;
    let transport = Transport::to(broker.address()).open()?;
    // Sound messages, but for their length.
    let check = HealthCheckRequest { service: "x".repeat(5_000) };
    for path in ["/grpc.health.v1.Health/Check", "/grpc.health.v1.Health/Watch"] {
        let said = raw::call(transport.channel(), path, None, check.encode_to_vec()).await;
        let status = said.unwrap_err();
        assert_eq!(status.code(), Code::OutOfRange, "{path}: {status}");
    }
    let path = "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo";
    let list = |host: String| {
        let message_request = Some(MessageRequest::ListServices(String::new()));
        ServerReflectionRequest { host, message_request }.encode_to_vec()
    };
    raw::call(transport.channel(), path, None, list("x".repeat(4_000))).await?;
    assert!(raw::call(transport.channel(), path, None, list("x".repeat(5_000))).await.is_err());
    Ok(())
}

#[tokio::test]
async fn an_address_has_so_many_connections_and_gets_a_place_back_with_each_that_ends() -> Result<()> {
    let broker = broker(&[("connections_per_address", "3"), ("request_s", "30")])?;
    let address = ("127.0.0.1", broker.port());
    let mut open = Vec::new();
    for _ in 0..3 {
        open.push(TcpStream::connect(address).await?);
    }
    let closed = until_closed(&broker, b"").await?;
    assert!(closed.is_empty(), "the fourth is closed at once");
    assert!(broker.said().contains("limits.connections_per_address"), "{}", broker.said());
    drop(open.pop());
    let transport = Transport::to(broker.address()).open()?;
    let asked = async {
        while transport.authenticators().describe_broker(v1::DescribeBrokerRequest {}).await.is_err() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(PATIENCE, asked).await?;
    Ok(())
}

#[tokio::test]
async fn a_broker_raises_its_limit_of_open_files_and_takes_no_more_connections_than_fit() -> Result<()> {
    let broker = Broker::make("")?;
    broker.edit_configuration(|text| set(&text, &[("request_s", "300")]))?;
    let serve = |soft: u32, hard: u32| {
        Command::new("sh")
            .arg("-c")
            .arg(format!("ulimit -Sn {soft} && ulimit -Hn {hard} && exec \"$0\" serve --config \"$1\""))
            .arg(countersign())
            .arg(broker.config_file())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
    };
    let mut child = serve(100, 400)?;
    let mut first = String::new();
    BufReader::new(child.stdout.take().unwrap()).read_line(&mut first)?;
    assert!(first.starts_with("countersign serves "), "{first}");
    let limits = fs::read_to_string(format!("/proc/{}/limits", child.id()))?;
    let files: Vec<_> =
        limits.lines().find(|line| line.starts_with("Max open files")).unwrap().split_whitespace().collect();
    assert_eq!((files[3], files[4]), ("400", "400"), "soft and hard");
    // Far more than there are files for: the journal has still got its own.
    let mut idle = Vec::new();
    for _ in 0..300 {
        idle.push(TcpStream::connect(("127.0.0.1", broker.port())).await?);
    }
    register(&broker, "Example College", REALM).await?;
    child.kill()?;
    let said = String::from_utf8_lossy(&child.wait_with_output()?.stderr).into_owned();
    assert!(said.contains("10000") && said.contains("144") && said.contains("limits.connections"), "{said}");

    let refused = serve(100, 260)?.wait_with_output()?;
    let said = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(!refused.status.success() && said.contains("260 files may be open"), "{said}");
    Ok(())
}

#[tokio::test]
async fn one_certificate_is_one_credential_however_many_ask_at_once() -> Result<()> {
    let broker = broker(&[])?;
    let (relying_party_id, ..) = register(&broker, "Example College", REALM).await?;
    let administration = broker.administration().await?;
    let request = v1::IssueCredentialRequest {
        relying_party_id,
        scope: v1::CredentialScope::SignIn.into(),
        client_certificate: Bytes::from_static(&[0x30, 0x03, 0x02, 0x01, 0x01]),
    };
    let calls = (0..16).map(|_| {
        let (mut administration, request) = (administration.clone(), request.clone());
        async move { administration.issue_credential(request).await }
    });
    let replies: Vec<_> = stream::iter(calls).buffer_unordered(16).collect().await;
    assert_eq!(replies.iter().filter(|reply| reply.is_ok()).count(), 1);
    for refusal in replies.into_iter().filter(std::result::Result::is_err) {
        refused(refusal, Code::AlreadyExists, "CERTIFICATE_IN_USE");
    }
    Ok(())
}

#[tokio::test]
async fn no_span_of_time_ends_the_broker_or_a_call() -> Result<()> {
    let broker = broker(&[])?;
    let (_, key, _) = register(&broker, "Example College", REALM).await?;
    let transport = Transport::to(broker.address()).open()?;
    let login = LoginServer::new(&transport, Some(ApiKey::new(&key)));
    for (seconds, nanos) in [(i64::MIN, 0), (i64::MIN, i32::MIN), (-1, 0), (i64::MAX, i32::MAX)] {
        let mut request = SignIn::new("alice", "Webmail").to_message();
        request.lifetime = Some(prost_types::Duration { seconds, nanos });
        let said = login.client().approvals().open_approval(request).await;
        let refusal = refused(said, Code::InvalidArgument, "INVALID_ARGUMENT");
        assert_eq!(crate::support::fields(&refusal), ["lifetime"]);
        let wait = v1::WaitApprovalRequest {
            approval_id: "0".repeat(52),
            max_wait: Some(prost_types::Duration { seconds, nanos }),
        };
        let said = login.client().approvals().wait_approval(wait).await;
        let refusal = refused(said, Code::InvalidArgument, "INVALID_ARGUMENT");
        assert_eq!(crate::support::fields(&refusal), ["max_wait"]);
    }
    Ok(())
}
