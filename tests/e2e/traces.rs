//! One trace from the login's call to the phone's answer, as a collector gets it.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex},
};

use countersign_envelope::Algorithm;
use countersign_proto::v1::{OutcomeKind, RequestApprovalRequest, approval_update::Update};
use countersign_tests::{Result, World, world::EnrolledPhone};
use device_sim::{phone::Decision, push_services::Service};
use opentelemetry_proto::tonic::{
    collector::trace::v1::{
        ExportTraceServiceRequest, ExportTraceServiceResponse,
        trace_service_server::{TraceService, TraceServiceServer},
    },
    common::v1::any_value::Value,
    trace::v1::Span,
};
use tokio::net::TcpListener;
use tonic::{Request, Response, Status, transport::server::TcpIncoming};

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
        let (collector, listener) = (Self::default(), TcpListener::bind("127.0.0.1:0").await?);
        let address = format!("http://{}", listener.local_addr()?);
        let server =
            tonic::transport::Server::builder().add_service(TraceServiceServer::new(collector.clone()));
        tokio::spawn(server.serve_with_incoming(TcpIncoming::from(listener)));
        Ok((collector, address))
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

/// One sign-in, asked for with this trace context, approved: its number.
async fn approved(world: &World, alice: &EnrolledPhone, traceparent: Option<&str>) -> Result<String> {
    let message: RequestApprovalRequest = world.sign_in("alice").from_ip("192.0.2.7").to_message();
    let mut request = Request::new(message);
    request.metadata_mut().insert("authorization", format!("Bearer {}", world.sign_in_key).parse()?);
    if let Some(traceparent) = traceparent {
        request.metadata_mut().insert("traceparent", traceparent.parse()?);
    }
    let mut updates = world.transport.approvals().request_approval(request).await?.into_inner();
    let Some(Update::Issued(issued)) = updates.message().await?.unwrap().update else { panic!("no number") };
    let challenge = world.challenge(alice).await?;
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

    let (trace, caller) = ("4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7");
    let number = approved(&world, &alice, Some(&format!("00-{trace}-{caller}-01"))).await?;
    // Of these the caller says that they are not traced, or nobody says anything and none are.
    approved(&world, &alice, Some("00-11111111111111111111111111111111-2222222222222222-00")).await?;
    approved(&world, &alice, None).await?;
    assert!(world.broker.stopped().await?.success());

    let spans = collector.spans();
    let hex = |bytes: &[u8]| data_encoding::HEXLOWER.encode(bytes);
    let by_id: BTreeMap<_, _> = spans.iter().map(|span| (hex(&span.span_id), span)).collect();
    let parent_of = |span: &Span| match by_id.get(&hex(&span.parent_span_id)) {
        Some(parent) => parent.name.clone(),
        None => hex(&span.parent_span_id),
    };
    let mut story: Vec<_> = spans.iter().map(|span| (span.name.as_str(), parent_of(span))).collect();
    story.sort();
    let call = "countersign.v1.Approvals/RequestApproval";
    let of = |name: &str| name.to_owned();
    assert_eq!(
        story,
        [
            ("answer", of(call)),
            ("append", of("answer")),
            ("append", of(call)),
            (call, of(caller)),
            ("push", of(call)),
            ("tell the login", of(call)),
        ]
    );
    for span in &spans {
        assert_eq!(hex(&span.trace_id), trace, "{}", span.name);
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
