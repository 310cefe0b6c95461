//! A broker is told to stop, and another takes over; what it says of itself meanwhile.

use std::time::Duration;

use bytes::Bytes;
use countersign_envelope::Algorithm;
use countersign_proto::v1::{self, OutcomeKind, administration_client::AdministrationClient};
use countersign_tests::{
    Result, World,
    world::{PATIENCE, outcome},
};
use device_sim::{
    login::{ApiKey, LoginServer},
    push_services::Service,
    wire::{Refusal, Transport},
};
use futures::{StreamExt as _, stream};
use prost::Message as _;
use rustix::process::Signal;
use tokio::{net::TcpStream, sync::oneshot};
use tonic::Code;
use tonic_health::pb::{
    HealthCheckRequest, health_check_response::ServingStatus, health_client::HealthClient,
};
use tonic_reflection::pb::v1::{
    ServerReflectionRequest, server_reflection_client::ServerReflectionClient,
    server_reflection_request::MessageRequest, server_reflection_response::MessageResponse,
};

use crate::support::{approve, ask, assert_refused, raw, refusal, started, world_with};

/// The services of the public port, with that of health and that which lists them.
const PUBLIC: [&str; 5] = [
    "countersign.v1.Approvals",
    "countersign.v1.Authenticators",
    "countersign.v1.Enrolments",
    "grpc.health.v1.Health",
    "grpc.reflection.v1.ServerReflection",
];

#[track_caller]
fn sent_elsewhere(refusal: &Refusal) {
    assert_refused(refusal, Code::Unavailable, "STOPPING");
    assert!(refusal.retry_after().is_some_and(|after| after <= Duration::from_secs(1)), "{refusal:?}");
}

#[tokio::test]
async fn a_broker_that_stops_sends_all_who_wait_elsewhere_and_ends_with_status_0() -> Result<()> {
    let mut world = World::new().await?;
    let alice = world.enrol("alice", Service::Fcm, Algorithm::Ed25519).await?;
    let (mut updates, issued) = ask(&world.login, &world.sign_in("alice")).await?;
    world.challenge(&alice).await?;
    let poll = tokio::spawn({
        let (login, id) = (world.login.clone(), issued.approval_id.clone());
        async move { login.wait(&id, Duration::from_secs(60)).await }
    });
    let mut health = health(&world.transport).watch(HealthCheckRequest::default()).await?.into_inner();
    assert_eq!(health.message().await?.unwrap().status(), ServingStatus::Serving);
    // One whose call the broker has seen when it is told to stop, and whose message comes after that.
    let (begun, has_begun) = oneshot::channel();
    let (go_on, goes_on) = oneshot::channel::<()>();
    let message = Bytes::from(world.sign_in("alice").to_message().encode_to_vec());
    let messages = stream::once(async move {
        let _ = begun.send(());
        let _ = goes_on.await;
        message
    });
    let (channel, key) = (world.transport.channel(), world.sign_in_key.clone());
    let late = tokio::spawn(async move {
        raw::call_slowly(channel, "/countersign.v1.Approvals/OpenApproval", Some(&key), messages).await
    });
    has_begun.await?;
    // A reply on the same connection: what was sent before it has arrived.
    world.login.get(&issued.approval_id).await?;

    world.broker.signal(Signal::TERM)?;
    loop {
        match updates.next().await {
            Ok(Some(_)) => {}
            Ok(None) => panic!("the stream ended as if the approval had"),
            Err(refusal) => break sent_elsewhere(&refusal),
        }
    }
    sent_elsewhere(&refusal(poll.await?));
    assert_eq!(health.message().await?.unwrap().status(), ServingStatus::NotServing);
    drop(health);
    go_on.send(()).unwrap();
    sent_elsewhere(&refusal(late.await?));
    let status = world.broker.ended().await?;
    assert!(status.success(), "{status}: {}", world.broker.said());

    started(&mut world).await?;
    let mut updates = world.login.watch(&issued.approval_id, 1).await?;
    approve(&world, &alice.phone, &issued).await?;
    assert_eq!(outcome(&mut updates).await?.kind(), OutcomeKind::Approved);
    Ok(())
}

#[tokio::test]
async fn whoever_holds_on_to_a_stopping_broker_keeps_nobody_else_waiting() -> Result<()> {
    let mut world = world_with(&[("drain_s", "3")]).await?;
    // A stream that has no end of its own, as load balancers have it.
    let mut health = health(&world.transport).watch(HealthCheckRequest::default()).await?.into_inner();
    assert_eq!(health.message().await?.unwrap().status(), ServingStatus::Serving);
    world.broker.signal(Signal::TERM)?;
    assert_eq!(health.message().await?.unwrap().status(), ServingStatus::NotServing);

    // Whoever has come in the very moment is cut off; from then on nobody is let in.
    let closed = async { while TcpStream::connect(("127.0.0.1", world.broker.port())).await.is_ok() {} };
    tokio::time::timeout(Duration::from_secs(20), closed).await.expect("it lets nobody in");
    let newcomer = Transport::to(world.broker.address()).open()?;
    let login = LoginServer::new(&newcomer, Some(ApiKey::new(&world.sign_in_key)));
    let sign_in = world.sign_in("alice");
    let asked = tokio::time::timeout(Duration::from_secs(20), login.open(&sign_in)).await;
    let turned_away = refusal(asked.expect("it is told at once"));
    assert_eq!(turned_away.code(), Code::Unavailable, "{turned_away:?}");
    assert!(turned_away.retry_helps());
    let status = world.broker.ended().await?;
    assert!(status.success(), "{status}: {}", world.broker.said());
    Ok(())
}

#[tokio::test]
async fn no_second_broker_starts_on_the_same_log() -> Result<()> {
    let mut world = World::new().await?;
    world.enrol("alice", Service::Fcm, Algorithm::Ed25519).await?;
    let (status, said) = world.broker.start_in_vain()?;
    assert!(!status.success());
    assert!(said.contains("a broker runs with this configuration already"), "{said}");
    // With a socket and a port of its own, it is the log that says no.
    let (socket, port) = (world.broker.home().join("other.sock"), countersign_tests::process::free_port()?);
    let config = std::fs::read_to_string(world.broker.config_file())?;
    let other = config.replace("\"admin.sock\"", &format!("\"{}\"", socket.display()));
    let other = other.replace(&format!("127.0.0.1:{}", world.broker.port()), &format!("127.0.0.1:{port}"));
    world.broker.edit_configuration(|_| other)?;
    let (_, said) = world.broker.start_in_vain()?;
    assert!(said.contains("in use by another process"), "{said}");
    // With a socket of its own alone, it is the port.
    let other = config.replace("\"admin.sock\"", &format!("\"{}\"", socket.display()));
    world.broker.edit_configuration(|_| other)?;
    let (_, said) = world.broker.start_in_vain()?;
    let port = world.broker.port();
    let says =
        format!("127.0.0.1:{port} is in use: is another broker running? Stop it, or change server.listen");
    assert!(said.contains(&says) && !said.contains("os error"), "{said}");
    ask(&world.login, &world.sign_in("alice")).await?;
    Ok(())
}

#[tokio::test]
async fn the_public_port_says_what_it_serves_and_that_it_serves() -> Result<()> {
    let world = World::new().await?;
    let mut health = health(&world.transport);
    for service in ["", PUBLIC[0], PUBLIC[1], PUBLIC[2]] {
        let request = HealthCheckRequest { service: service.to_owned() };
        assert_eq!(health.check(request).await?.into_inner().status(), ServingStatus::Serving, "{service:?}");
    }
    let unknown = HealthCheckRequest { service: "countersign.v1.Administration".to_owned() };
    assert_eq!(health.check(unknown).await.unwrap_err().code(), Code::NotFound);

    assert_eq!(services(&world.transport).await?, PUBLIC);
    let file =
        ask_reflection(&world.transport, MessageRequest::FileContainingSymbol(PUBLIC[0].to_owned())).await?;
    assert!(matches!(file, MessageResponse::FileDescriptorResponse(_)), "{file:?}");
    Ok(())
}

#[tokio::test]
async fn nothing_of_administration_is_on_the_public_port_and_nothing_else_on_its_own() -> Result<()> {
    let world = World::new().await?;
    let mut outside = AdministrationClient::new(world.transport.channel());
    let refused = outside.list_relying_parties(v1::ListRelyingPartiesRequest {}).await.unwrap_err();
    assert_refused(&refused.into(), Code::Unimplemented, "METHOD_UNKNOWN");
    // Not even its description.
    for symbol in ["countersign.v1.Administration", "countersign.v1.RegisterRelyingPartyRequest"] {
        let found =
            ask_reflection(&world.transport, MessageRequest::FileContainingSymbol(symbol.to_owned())).await;
        assert!(
            found.is_err() || matches!(found, Ok(MessageResponse::ErrorResponse(_))),
            "{symbol}: {found:?}"
        );
    }
    let relying_parties = world.broker.administration().await?;
    let listed =
        relying_parties.clone().list_relying_parties(v1::ListRelyingPartiesRequest {}).await?.into_inner();
    assert_eq!(listed.relying_parties.len(), 1);
    Ok(())
}

fn health(transport: &Transport) -> HealthClient<tonic::transport::Channel> {
    HealthClient::new(transport.channel())
}

async fn services(transport: &Transport) -> Result<Vec<String>> {
    match ask_reflection(transport, MessageRequest::ListServices(String::new())).await? {
        MessageResponse::ListServicesResponse(list) => {
            let mut names: Vec<_> = list.service.into_iter().map(|service| service.name).collect();
            names.sort();
            Ok(names)
        }
        other => anyhow::bail!("{other:?}"),
    }
}

async fn ask_reflection(transport: &Transport, message: MessageRequest) -> Result<MessageResponse> {
    let request = ServerReflectionRequest { host: String::new(), message_request: Some(message) };
    let mut client = ServerReflectionClient::new(transport.channel());
    let mut replies = client.server_reflection_info(stream::once(async { request })).await?.into_inner();
    let reply = tokio::time::timeout(PATIENCE, replies.next()).await?;
    let reply = reply.ok_or_else(|| anyhow::anyhow!("reflection says nothing"))??;
    reply.message_response.ok_or_else(|| anyhow::anyhow!("reflection says nothing"))
}
