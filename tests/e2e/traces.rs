//! One trace from the login's call to the phone's answer, as a collector gets it.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex},
    time::Duration,
};

use countersign_envelope::Algorithm;
use countersign_proto::v1::{
    ApprovalUpdate, Issued, OutcomeKind, RequestApprovalRequest, approval_update::Update,
};
use countersign_tests::{
    Result, World,
    world::{EnrolledPhone, PATIENCE, outcome},
};
use device_sim::{
    phone::{Decision, PushKind},
    push_services::Service,
};
use opentelemetry_proto::tonic::{
    collector::trace::v1::{
        ExportTraceServiceRequest, ExportTraceServiceResponse,
        trace_service_server::{TraceService, TraceServiceServer},
    },
    common::v1::any_value::Value,
    trace::v1::Span,
};
use tokio::net::TcpListener;
use tonic::{
    Request, Response, Status, Streaming,
    transport::{Identity, Server, ServerTlsConfig, server::TcpIncoming},
};

use crate::support::{
    challenge_of, killed_and_started,
    pki::{Authority, Certified},
    push_of,
};

/// Keeps what it is sent.
#[derive(Debug, Clone, Default)]
struct Collector(Arc<Mutex<Vec<ExportTraceServiceRequest>>>);

#[tonic::async_trait]
impl TraceService for Collector {
    async fn export(
        &self,
        request: Request<ExportTraceServiceRequest>,
    ) -> Result<Response<ExportTraceServiceResponse>, Status> {
        self.0.lock().unwrap().push(request.into_inner());
        Ok(Response::new(ExportTraceServiceResponse::default()))
    }
}

impl Collector {
    /// One that listens, and its address.
    async fn start() -> Result<(Self, String)> {
        let (collector, port) = Self::serve(Server::builder()).await?;
        Ok((collector, format!("http://127.0.0.1:{port}")))
    }

    /// The same over TLS, with this certificate.
    async fn secured(certified: &Certified) -> Result<(Self, String)> {
        let tls = ServerTlsConfig::new().identity(Identity::from_pem(&certified.pem, &certified.key));
        let (collector, port) = Self::serve(Server::builder().tls_config(tls)?).await?;
        Ok((collector, format!("https://localhost:{port}")))
    }

    async fn serve(mut server: Server) -> Result<(Self, u16)> {
        let (collector, listener) = (Self::default(), TcpListener::bind("127.0.0.1:0").await?);
        let port = listener.local_addr()?.port();
        let server = server.add_service(TraceServiceServer::new(collector.clone()));
        tokio::spawn(server.serve_with_incoming(TcpIncoming::from(listener)));
        Ok((collector, port))
    }

    fn spans(&self) -> Vec<Span> {
        let requests = self.0.lock().unwrap().clone();
        let scopes = requests.into_iter().flat_map(|one| one.resource_spans).flat_map(|one| one.scope_spans);
        scopes.flat_map(|one| one.spans).collect()
    }

    fn everything(&self) -> String {
        format!("{:?}", self.0.lock().unwrap())
    }
}

/// The trace and the span of a caller who has his sign-in traced, and how he says so.
const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";
const CALLER: &str = "00f067aa0ba902b7";
const TRACED: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

const CALL: &str = "countersign.v1.Approvals/RequestApproval";

fn hex(bytes: &[u8]) -> String {
    data_encoding::HEXLOWER.encode(bytes)
}

/// The name of each span, and that of its parent; of one whose parent is not among them, its id.
fn story(spans: &[Span]) -> Vec<(&str, String)> {
    let by_id: BTreeMap<_, _> = spans.iter().map(|span| (hex(&span.span_id), span)).collect();
    let parent_of = |span: &Span| match by_id.get(&hex(&span.parent_span_id)) {
        Some(parent) => parent.name.clone(),
        None => hex(&span.parent_span_id),
    };
    let mut story: Vec<_> = spans.iter().map(|span| (span.name.as_str(), parent_of(span))).collect();
    story.sort();
    story
}

/// Asks for a sign-in with this trace context.
async fn asked(world: &World, traceparent: Option<&str>) -> Result<(Streaming<ApprovalUpdate>, Issued)> {
    let message: RequestApprovalRequest = world.sign_in("alice").from_ip("192.0.2.7").to_message();
    let mut request = Request::new(message);
    request.metadata_mut().insert("authorization", format!("Bearer {}", world.sign_in_key).parse()?);
    if let Some(traceparent) = traceparent {
        request.metadata_mut().insert("traceparent", traceparent.parse()?);
    }
    let mut updates = world.transport.approvals().request_approval(request).await?.into_inner();
    let Some(Update::Issued(issued)) = updates.message().await?.unwrap().update else { panic!("no number") };
    Ok((updates, issued))
}

/// One sign-in, asked for with this trace context, approved as a phone does it: its number.
async fn approved(world: &World, alice: &EnrolledPhone, traceparent: Option<&str>) -> Result<String> {
    let (mut updates, issued) = asked(world, traceparent).await?;
    let (_, push) = push_of(alice, PushKind::Challenge).await?;
    alice.phone.acknowledge_delivered(&world.transport, &push).await?;
    let challenge = challenge_of(world, &alice.phone, &push.id).await?;
    alice.phone.acknowledge_opened(&world.transport, &push).await?;
    let number = issued.match_number.clone();
    let decision = Decision::Approve { number: &number };
    assert_eq!(alice.phone.answer(&world.transport, &challenge, decision).await?, OutcomeKind::Approved);
    while updates.message().await?.is_some() {}
    Ok(number)
}

#[tokio::test]
async fn a_trace_goes_from_the_callers_context_to_the_phones_answer_and_holds_no_secret() -> Result<()> {
    let (collector, address) = Collector::start().await?;
    let sections = format!("[traces]\nendpoint = \"{address}\"\nsample_ratio = 0.0\n");
    let mut world = World::with(&sections).await?;
    let alice = world.enrol("alice", Service::Apns, Algorithm::Ed25519).await?;

    let number = approved(&world, &alice, Some(TRACED)).await?;
    // Of these the caller says that they are not traced, or nobody says anything and none are.
    approved(&world, &alice, Some("00-11111111111111111111111111111111-2222222222222222-00")).await?;
    approved(&world, &alice, None).await?;
    assert!(world.broker.stopped().await?.success());

    let spans = collector.spans();
    let of = |name: &str| name.to_owned();
    assert_eq!(
        story(&spans),
        [
            ("answer", of(CALL)),
            ("append", of("answer")),
            ("append", of(CALL)),
            (CALL, of(CALLER)),
            ("delivered", of(CALL)),
            ("fetch", of(CALL)),
            ("opened", of(CALL)),
            ("push", of(CALL)),
            ("tell the login", of(CALL)),
        ]
    );
    for span in &spans {
        assert_eq!(hex(&span.trace_id), TRACE, "{}", span.name);
        assert!(span.start_time_unix_nano <= span.end_time_unix_nano && span.events.is_empty(), "{span:?}");
    }

    let attributes = spans.iter().flat_map(|span| &span.attributes);
    let values: Vec<_> = attributes.clone().filter_map(|one| one.value.clone()?.value).collect();
    assert!(!values.contains(&Value::StringValue(number.clone())), "the number is told to nobody");
    let keys: BTreeSet<_> = attributes.map(|one| one.key.as_str()).collect();
    let known = ["approval", "relying_party", "result", "rpc.method", "rpc.system", "service"];
    assert_eq!(keys, known.into_iter().collect());
    let sent = collector.everything();
    assert!(sent.contains("\"service.name\"") && sent.contains("\"countersign\""));
    for secret in ["alice", "192.0.2.7", "Webmail", &world.sign_in_key, alice.device.target()] {
        assert!(!sent.contains(secret), "{secret} was sent to the collector");
    }
    Ok(())
}

#[tokio::test]
async fn after_a_restart_the_rest_of_a_trace_is_missing_and_nothing_else_is() -> Result<()> {
    let (collector, address) = Collector::start().await?;
    let sections = format!("[traces]\nendpoint = \"{address}\"\nsample_ratio = 1.0\n");
    let mut world = World::with(&sections).await?;
    let alice = world.enrol("alice", Service::Apns, Algorithm::Ed25519).await?;
    let (_updates, issued) = asked(&world, Some(TRACED)).await?;
    push_of(&alice, PushKind::Challenge).await?;
    // What has not been sent yet is lost with the process: it is sent every few seconds.
    let sent = async {
        while collector.spans().len() < 3 {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(PATIENCE, sent).await?;
    killed_and_started(&mut world).await?;
    let mut watching = world.login.watch(&issued.approval_id, 0).await?;
    let challenge = challenge_of(&world, &alice.phone, &issued.approval_id).await?;
    let decision = Decision::Approve { number: &issued.match_number };
    assert_eq!(alice.phone.answer(&world.transport, &challenge, decision).await?, OutcomeKind::Approved);
    assert_eq!(outcome(&mut watching).await?.kind(), OutcomeKind::Approved);
    assert!(world.broker.stopped().await?.success());
    let spans = collector.spans();
    let of = |name: &str| name.to_owned();
    // Nothing begins a trace of its own: what is there is the caller's.
    assert_eq!(story(&spans), [("append", of(CALL)), (CALL, of(CALLER)), ("push", of(CALL))]);
    assert!(spans.iter().all(|span| hex(&span.trace_id) == TRACE));
    Ok(())
}

#[tokio::test]
async fn a_collector_behind_tls_is_believed_by_the_configured_authority_alone() -> Result<()> {
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    let (authority, other) = (Authority::new()?, Authority::new()?);
    let (collector, address) = Collector::secured(&authority.server()?).await?;
    let folder = tempfile::tempdir()?;
    for (trusted, is_believed) in [(&authority, true), (&other, false)] {
        let file = folder.path().join("collector.pem");
        std::fs::write(&file, &trusted.pem)?;
        let sections = format!("[traces]\nendpoint = \"{address}\"\nca_file = {file:?}\n");
        let mut world = World::with(&sections).await?;
        let alice = world.enrol("alice", Service::Fcm, Algorithm::Es256).await?;
        let before = collector.spans().len();
        approved(&world, &alice, Some(TRACED)).await?;
        assert!(world.broker.stopped().await?.success());
        assert_eq!(collector.spans().len() - before, if is_believed { 9 } else { 0 });
        let said = world.broker.said();
        assert_ne!(said.contains("the collector of traces takes no spans"), is_believed, "{said}");
    }
    Ok(())
}
