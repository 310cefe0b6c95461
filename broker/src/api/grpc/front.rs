//! Where a call goes. The three services that phones, login servers and enrolling pages call are found by their names
//! and called at once: a router that can do more would make a service, two futures and a body anew for each call. What is
//! asked for seldom (health, reflection, mistakes) goes through axum's router.

use std::sync::{Arc, LazyLock};

use axum::BoxError;
use bytes::Bytes;
use countersign_proto::v1::{
    approvals_server::ApprovalsServer, authenticators_server::AuthenticatorsServer,
    enrolments_server::EnrolmentsServer,
};
use http::{HeaderMap, Request, Response, StatusCode};
use hyper::body::{Body as HttpBody, Incoming};
use tonic::{body::Body, server::NamedService};
use tower::{Service as _, ServiceExt as _};

use super::{
    REQUEST_BYTES_MAX, Services,
    counted::{self, Counted},
    in_time, is_grpc, no_grpc, status,
};
use crate::{
    api::{
        admission::{Admission, Shed},
        listen::{Answers, Peer, Receiving},
    },
    rates::Rates,
    telemetry::metrics::{labels, metrics},
};

/// The public services.
#[derive(Debug, Clone)]
pub struct Front {
    approvals: ApprovalsServer<Services>,
    authenticators: AuthenticatorsServer<Services>,
    enrolments: EnrolmentsServer<Services>,
    admission: Arc<Admission>,
    rates: Arc<Rates>,
    others: axum::Router,
}

/// One of the services that are called at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Named {
    Approvals,
    Authenticators,
    Enrolments,
}

impl Named {
    /// The service of a path, `/package.Service/Method`.
    fn of(path: &str) -> Option<Self> {
        let (service, _method) = path.strip_prefix('/')?.split_once('/')?;
        match service {
            ApprovalsServer::<Services>::NAME => Some(Self::Approvals),
            AuthenticatorsServer::<Services>::NAME => Some(Self::Authenticators),
            EnrolmentsServer::<Services>::NAME => Some(Self::Enrolments),
            _ => None,
        }
    }
}

/// Calls that begin something, and are sent away where there is no room: before anything is read of them.
const NEW_WORK: [&str; 3] = [
    "/countersign.v1.Approvals/RequestApproval",
    "/countersign.v1.Approvals/OpenApproval",
    "/countersign.v1.Enrolments/BeginEnrolment",
];

impl Front {
    /// In front of these services and of what is asked for seldom.
    pub(super) fn new(services: &Services, others: axum::Router) -> Self {
        let limit = REQUEST_BYTES_MAX;
        Self {
            approvals: ApprovalsServer::new(services.clone()).max_decoding_message_size(limit),
            authenticators: AuthenticatorsServer::new(services.clone()).max_decoding_message_size(limit),
            enrolments: EnrolmentsServer::new(services.clone()).max_decoding_message_size(limit),
            admission: Arc::clone(&services.admission),
            rates: Arc::clone(&services.rates),
            others,
        }
    }

    fn admit(&self, path: &str) -> Result<(), Shed> {
        if !NEW_WORK.contains(&path) {
            return Ok(());
        }
        self.admission.admit().inspect_err(|Shed| {
            if path.contains(".Approvals/") {
                metrics().story.requests.count(labels::Requested::Overloaded);
            }
        })
    }
}

impl Front {
    /// Answers a request.
    pub async fn call<B>(self, request: Request<B>) -> Response<Counted>
    where
        B: HttpBody<Data = Bytes, Error: Into<BoxError>> + Send + Unpin + 'static,
    {
        let path = request.uri().path();
        let Some(named) = Named::of(path) else {
            return self.aside(request).await;
        };
        if !is_grpc(&request) {
            let answer = no_grpc(StatusCode::UNSUPPORTED_MEDIA_TYPE);
            return answer.map(|body| Counted::not(Body::new(body)));
        }
        let call = counted::Call::begin(path);
        if let Err(Shed) = self.admit(path) {
            return call.answered(sent_away());
        }
        let request = in_time(request);
        let answered = match named {
            Named::Approvals => self.approvals.clone().call(request),
            Named::Authenticators => self.authenticators.clone().call(request),
            Named::Enrolments => self.enrolments.clone().call(request),
        };
        let Ok(answer) = answered.await;
        call.answered(answer)
    }
}

impl Front {
    /// What everybody may ask, who he is or not: so often, and so much of it at a time.
    async fn aside<B>(self, request: Request<B>) -> Response<Counted>
    where
        B: HttpBody<Data = Bytes, Error: Into<BoxError>> + Send + Unpin + 'static,
    {
        let from = request.extensions().get::<Peer>().and_then(Peer::network);
        if let Err(error) = from.map_or(Ok(()), |from| self.rates.calls(from)) {
            return status::too_often(&error).into_http().map(Counted::not);
        }
        let receiving =
            request.extensions().get::<Receiving>().expect("every connection gives it to its requests");
        let Ok(place) = Arc::clone(&receiving.asides).try_acquire_owned() else {
            return status::too_many_at_once().into_http().map(Counted::not);
        };
        let Ok(answer) = self.others.oneshot(request.map(axum::body::Body::new)).await;
        answer.map(|body| Counted::not(Body::new(body)).keeping(place))
    }
}

impl Answers for Front {
    type Body = Counted;

    fn answer(self, request: Request<Incoming>) -> impl Future<Output = Response<Counted>> + Send + 'static {
        self.call(request)
    }
}

impl Answers for axum::Router {
    type Body = Body;

    async fn answer(self, request: Request<Incoming>) -> Response<Body> {
        let Ok(answer) = self.oneshot(request).await;
        answer.map(Body::new)
    }
}

/// Made once: it must cost next to nothing when it is needed.
fn sent_away() -> Response<Body> {
    static HEADERS: LazyLock<HeaderMap> =
        LazyLock::new(|| status::overloaded(Shed).into_http::<Body>().into_parts().0.headers);
    status::count_overloaded();
    let mut response = Response::new(Body::empty());
    *response.headers_mut() = HEADERS.clone();
    response
}
