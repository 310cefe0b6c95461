//! The services of `countersign.v1`. Each method checks the form of what came, asks the room that tells the story, and
//! puts the answer into messages.

mod administration;
mod approvals;
mod authenticators;
mod counted;
mod enrolments;
mod fields;
mod front;
mod messages;
mod often;
#[doc(hidden)]
pub mod read;
mod receive;
mod status;

use std::{pin::Pin, sync::Arc, time::Duration};

use axum::{middleware::Next, response::IntoResponse};
use countersign_domain::{AccountId, RelyingPartyId, event::Identity, relying_party::Scope};
use countersign_proto::v1;
use futures::{Stream, StreamExt, stream};
use prost::Message;
use prost_types::{FileDescriptorProto, FileDescriptorSet};
use tokio_util::sync::CancellationToken;
use tonic::{Request, Status};

pub use administration::archive_report;
pub use counted::Counted;
pub use front::Front;

use super::{
    admission::Admission,
    auth::{self, Authenticator, Caller, Shown},
    listen::Peer,
};
use crate::{
    clock::Clock,
    decider::{Decider, codec::RelyingPartyCodec},
    enrol::Enrol,
    entropy::Entropy,
    live::AllLive,
    log::EventLog,
    projection::Index,
    rates::Rates,
    shares::{Pool, Share},
    signin::SignIn,
};

/// Bytes of a request: an envelope with a payload of 16 KiB, and room for what may be added to messages.
const REQUEST_BYTES_MAX: usize = 32 * 1024;

/// The same for health and reflection: the name of a service, or of a symbol.
const QUESTION_BYTES_MAX: usize = 4 * 1024;

type Updates<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

/// What the services share.
#[derive(Debug, Clone)]
pub struct Services {
    /// The story of a sign-in.
    pub sign_in: SignIn,
    /// Its sibling.
    pub enrol: Enrol,
    /// Who calls.
    pub authenticator: Authenticator,
    /// Whether there is room for new work.
    pub admission: Arc<Admission>,
    /// How often each may call.
    pub rates: Arc<Rates>,
    /// How many calls of a relying party may wait at a time for what happens.
    pub waiting: Arc<Pool<RelyingPartyId>>,
    /// Place and browser may be sent to phones as free text.
    pub free_text: bool,
    /// The broker is about to end.
    pub stopping: CancellationToken,
}

impl Services {
    /// The public services: health and reflection with them.
    pub async fn public(self) -> Front {
        let (health, health_service) = tonic_health::server::health_reporter();
        health.set_serving::<v1::approvals_server::ApprovalsServer<Self>>().await;
        health.set_serving::<v1::authenticators_server::AuthenticatorsServer<Self>>().await;
        health.set_serving::<v1::enrolments_server::EnrolmentsServer<Self>>().await;
        let stopping = self.stopping.clone();
        tokio::spawn(async move {
            stopping.cancelled().await;
            // Load balancers look at the service without a name.
            health.set_service_status("", tonic_health::ServingStatus::NotServing).await;
            health.set_not_serving::<v1::approvals_server::ApprovalsServer<Self>>().await;
            health.set_not_serving::<v1::authenticators_server::AuthenticatorsServer<Self>>().await;
            health.set_not_serving::<v1::enrolments_server::EnrolmentsServer<Self>>().await;
        });
        let others = router(
            tonic::service::Routes::from(axum::Router::new())
                .add_service(health_service.max_decoding_message_size(QUESTION_BYTES_MAX))
                .add_service(reflection(|file| !is_administration(file))),
        );
        Front::new(&self, others)
    }

    async fn caller<T>(&self, request: &Request<T>, scope: Scope) -> Result<Caller, Status> {
        let peer = request.extensions().get::<Peer>();
        let from = self.somebody(request)?;
        let authorization = match request.metadata().get("authorization") {
            Some(value) => Some(value.to_str().map_err(|_| self.not_let_in(from, auth::Error::Invalid))?),
            None => None,
        };
        let shown = Shown { authorization, certificate_hash: peer.and_then(|peer| peer.certificate_hash) };
        let authenticated = self.authenticator.authenticate(shown, scope).await;
        authenticated.map_err(|error| self.not_let_in(from, error))
    }

    /// The account of whoever this is.
    fn account_id(&self, identity: &Identity) -> AccountId {
        self.sign_in.keys.account_id(&identity.realm, &identity.name)
    }

    /// A call of this relying party is about to wait; not if as many do as may. It does so until this is dropped, whether
    /// or not its caller reads.
    fn waits(&self, caller: &Caller) -> Result<Share<RelyingPartyId>, Status> {
        self.waiting.take(caller.id).map_err(status::too_many_streams)
    }

    /// Waiting streams are told to go on elsewhere when the broker stops.
    fn until_stopping<T: Send + 'static>(
        &self,
        waits: Share<RelyingPartyId>,
        updates: impl Stream<Item = Result<T, Status>> + Send + 'static,
    ) -> Updates<T> {
        let state = Some((waits, Box::pin(updates), Box::pin(self.stopping.clone().cancelled_owned())));
        Box::pin(stream::unfold(state, |state| async move {
            let (waits, mut updates, mut stopping) = state?;
            tokio::select! {
                biased;
                update = updates.next() => Some((update?, Some((waits, updates, stopping)))),
                () = &mut stopping => Some((Err(status::stopping()), None)),
            }
        }))
    }

    fn accepting(&self) -> Result<(), Status> {
        if self.stopping.is_cancelled() { Err(status::stopping()) } else { Ok(()) }
    }
}

/// What administration needs.
#[derive(Debug, Clone)]
pub struct Administration {
    /// Relying parties.
    pub relying_parties: Arc<Decider<RelyingPartyCodec>>,
    /// Finds them.
    pub index: Arc<Index>,
    /// To read it.
    pub log: Arc<dyn EventLog>,
    /// For new ids and keys.
    pub entropy: Arc<dyn Entropy>,
    /// For nothing but the time.
    pub clock: Arc<dyn Clock>,
    /// Held by who issues a credential: a certificate is good for one, and whether it is one already is looked up
    /// before it is decided. One node has one of these; on several, the log itself would have to say no.
    pub issuing: Arc<tokio::sync::Mutex<()>>,
    /// Files that may be replaced.
    pub live: AllLive,
    /// For how long entries stay in the log's store.
    pub retention: Duration,
    /// The broker is about to end.
    pub stopping: CancellationToken,
}

impl Administration {
    /// The administration service, for its own listener.
    pub fn router(self) -> axum::Router {
        let service = v1::administration_server::AdministrationServer::new(self)
            .max_decoding_message_size(REQUEST_BYTES_MAX);
        router(
            tonic::service::Routes::from(axum::Router::new())
                .add_service(reflection(is_administration))
                .add_service(service),
        )
    }
}

/// Describes what a listener serves, and nothing of what the other one does.
fn reflection(
    serves: impl Fn(&FileDescriptorProto) -> bool,
) -> tonic_reflection::server::v1::ServerReflectionServer<impl tonic_reflection::server::v1::ServerReflection>
{
    let ours = FileDescriptorSet::decode(v1::FILE_DESCRIPTOR_SET)
        .expect("the compiler of this build made the descriptors");
    let health = FileDescriptorSet::decode(tonic_health::pb::FILE_DESCRIPTOR_SET)
        .expect("the compiler of that crate made the descriptors");
    let served = |file: &FileDescriptorProto| file.service.is_empty() || serves(file);
    let file = ours.file.into_iter().chain(health.file).filter(served).collect();
    tonic_reflection::server::Builder::configure()
        .register_file_descriptor_set(FileDescriptorSet { file })
        .build_v1()
        .expect("each file's imports are there: those with services are imported by none but each other")
        .max_decoding_message_size(QUESTION_BYTES_MAX)
}

fn is_administration(file: &FileDescriptorProto) -> bool {
    file.service.iter().any(|service| service.name() == "Administration")
}

/// tonic's own fallback would answer every unknown path with 200, and it would take any bytes for a message, whatever
/// they are said to be: gRPC asks for 415 (PROTOCOL-HTTP2, Requests, Content-Type).
fn router(routes: tonic::service::Routes) -> axum::Router {
    let only_grpc = axum::middleware::from_fn(|request: axum::extract::Request, next: Next| async move {
        if is_grpc(&request) {
            let call = counted::Call::begin(request.uri().path());
            let answer = next.run(in_time(request).map(axum::body::Body::new)).await;
            call.answered(answer.map(tonic::body::Body::new)).map(axum::body::Body::new)
        } else {
            no_grpc(http::StatusCode::UNSUPPORTED_MEDIA_TYPE)
        }
    });
    routes.into_axum_router().route_layer(only_grpc).fallback(|request: axum::extract::Request| async move {
        if is_grpc(&request) {
            status::unknown_method(request.uri().path()).into_http::<axum::body::Body>().into_response()
        } else {
            no_grpc(http::StatusCode::NOT_FOUND)
        }
    })
}

/// Its message must come whole within what its connection allows.
fn in_time<B>(mut request: http::Request<B>) -> http::Request<receive::Received<B>> {
    let receiving = request.extensions_mut().remove().expect("every connection gives it to its requests");
    request.map(|body| receive::Received::new(body, receiving))
}

fn is_grpc<B>(request: &http::Request<B>) -> bool {
    let content_type = request.headers().get(http::header::CONTENT_TYPE);
    content_type.is_some_and(|value| value.as_bytes().starts_with(b"application/grpc"))
}

fn no_grpc(status: http::StatusCode) -> axum::response::Response {
    (status, "this port speaks gRPC; see proto/countersign/v1\n").into_response()
}

/// Whose approval or enrolment it is, and nobody else's: what a caller may see.
fn owner(caller: &Caller) -> RelyingPartyId {
    caller.id
}
