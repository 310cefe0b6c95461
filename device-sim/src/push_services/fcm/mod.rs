//! An FCM HTTP v1 as Google documents it, over HTTP/2 or HTTP/1.1 and TLS, with its token endpoint beside it.
//!
//! In the order of a sender's first message: [`oauth`] (an access token for a signed assertion), [`schema`] and
//! [`message`] (whether the request is one), the device (in `devices`), [`errors`].
//!
//! | request | answer |
//! |---|---|
//! | `POST /token` | an access token, or RFC 6749's error |
//! | `POST /v1/projects/{project}/messages:send` | `{"name": "projects/{project}/messages/{id}"}`, or `google.rpc.Status` as JSON |

mod errors;
mod json;
mod message;
mod oauth;
mod schema;

use std::{
    convert::Infallible,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, UNIX_EPOCH},
};

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode, header};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::{body::Incoming, service::service_fn};
use hyper_util::{
    rt::{TokioExecutor, TokioIo},
    server::conn::auto,
};
use serde_json::json;
use tokio::time::timeout;
use tokio_rustls::server::TlsStream;
use tokio_util::sync::CancellationToken;

pub use self::errors::ErrorCode;
pub(crate) use self::oauth::TokenEndpoint;
use self::{
    errors::{Refusal, json_response},
    message::{Message, Recipient},
};
use super::{
    Core, Service,
    devices::{Death, FID_LENGTH, Push, Target},
    faults::{Effect, Place, Strike},
    listener::{Order, Orders, Serve, Wire},
    store::{Held, Window},
    tally::Received,
};
use crate::clock::Timestamp;

/// More than this of a body is not read.
const BODY_MAX: usize = 64 * 1024;
/// What is left to requests that are open when the connection ends.
const DRAIN_MAX: Duration = Duration::from_secs(2);
/// The registration tokens that FCM issues are longer than this.
const REGISTRATION_TOKEN_MIN: usize = 100;

/// The simulated FCM.
#[derive(Debug)]
pub(crate) struct Fcm {
    pub(crate) core: Arc<Core>,
    pub(crate) tokens: TokenEndpoint,
    /// The Android package that registration tokens are issued to.
    pub(crate) package_name: String,
    /// Messages of one project in a minute; `None` takes any number.
    pub(crate) quota: Option<Mutex<Window>>,
}

impl Serve for Fcm {
    async fn serve(self: Arc<Self>, stream: TlsStream<Wire>, orders: Orders, stop: CancellationToken) {
        self.core.tally.connections.one();
        let service = service_fn(|request| Arc::clone(&self).answer(request, orders.clone()));
        let builder = auto::Builder::new(TokioExecutor::new());
        let mut connection = std::pin::pin!(builder.serve_connection(TokioIo::new(stream), service));
        loop {
            tokio::select! {
                ended = connection.as_mut() => {
                    if let Err(error) = ended {
                        tracing::debug!(%error, "a connection to FCM broke");
                    }
                    return;
                }
                order = orders.next() => match order {
                    // Dropping the connection sends the reset.
                    Order::Reset => return,
                    Order::GoAway(_) => connection.as_mut().graceful_shutdown(),
                },
                () = stop.cancelled() => {
                    connection.as_mut().graceful_shutdown();
                    return drop(timeout(DRAIN_MAX, connection).await);
                }
            }
        }
    }
}

/// No answer, but the end of the stream; hyper resets it with the reason that stands in the error.
type NoAnswer = Box<dyn std::error::Error + Send + Sync>;

impl Fcm {
    /// Every answer says what the service's clock shows (RFC 9110 section 6.6.1), as Google's do.
    async fn answer(
        self: Arc<Self>,
        request: Request<Incoming>,
        orders: Orders,
    ) -> Result<Response<Full<Bytes>>, NoAnswer> {
        let clock = self.core.clock.clone();
        let mut response = self.handle(request, orders).await?;
        response.headers_mut().insert(header::DATE, http_date(clock.now()));
        Ok(response)
    }

    async fn handle(
        self: Arc<Self>,
        request: Request<Incoming>,
        orders: Orders,
    ) -> Result<Response<Full<Bytes>>, NoAnswer> {
        let (parts, body) = request.into_parts();
        let path = parts.uri.path();
        if parts.method != Method::POST {
            return Ok(not_found());
        }
        if path == "/token" {
            let body = read(body).await.unwrap_or_default();
            return self.issue_token(&body, &orders).await;
        }
        let project = path
            .strip_prefix("/v1/projects/")
            .and_then(|rest| rest.strip_suffix("/messages:send"))
            .filter(|project| !project.is_empty() && !project.contains('/'));
        match project {
            Some(project) => {
                let body = read(body).await;
                let project = project.to_owned();
                self.send(&project, parts.headers, body, &orders).await
            }
            None => Ok(not_found()),
        }
    }

    async fn issue_token(&self, body: &[u8], orders: &Orders) -> Result<Response<Full<Bytes>>, NoAnswer> {
        let strike = self.core.faults.strike(Place::FcmToken, None);
        pause(&strike).await;
        let grant = || match self.tokens.grant(body, self.core.clock.now()) {
            Ok(response) => {
                self.core.tally.access_tokens.one();
                response
            }
            Err(error) => error.into_response(),
        };
        match Instead::of(&strike) {
            None => Ok(grant()),
            Some(Instead::Refusal(refusal)) => {
                self.core.tally.struck_by_faults.one();
                Ok(token_fault(&refusal, strike.retry_after_s))
            }
            Some(Instead::NoAnswer(way)) => {
                self.core.tally.struck_by_faults.one();
                Err(way.go(orders).await)
            }
        }
    }

    async fn send(
        &self,
        project: &str,
        mut headers: HeaderMap,
        body: Option<Bytes>,
        orders: &Orders,
    ) -> Result<Response<Full<Bytes>>, NoAnswer> {
        let core = &self.core;
        core.tally.requests.one();
        let authorization = headers.remove(header::AUTHORIZATION);
        let headers = Arc::new(headers);
        let request = match &body {
            Some(body) => message::parse(body),
            None => Err(Refusal::invalid(
                "",
                format!("Request payload size exceeds the limit: {BODY_MAX} bytes."),
                "the request is too large",
            )),
        };
        let body = body.unwrap_or_default();
        let target: Option<Arc<str>> = request.as_ref().ok().and_then(message::named_target).map(Arc::from);

        let outcome = self
            .outcome(target.as_deref(), || {
                let authorization = authorization.as_ref().and_then(|value| value.to_str().ok());
                self.tokens.authorize(authorization, core.clock.now())?;
                self.push(project, &headers, request.as_ref().map_err(Refusal::clone)?, &body)
            })
            .await;
        core.log.note(|| Received {
            service: Service::Fcm,
            at: core.clock.now(),
            target: target.clone(),
            headers: Arc::clone(&headers),
            body: body.clone(),
            status: outcome.status(),
            reason: outcome.reason(),
        });
        match outcome {
            Outcome::Accepted(name) => {
                core.tally.accepted.one();
                Ok(json_response(StatusCode::OK, &json!({ "name": name })))
            }
            Outcome::Refused(refusal) => {
                core.tally.refused.one();
                Ok(refusal.into_response())
            }
            Outcome::NoAnswer(way) => Err(way.go(orders).await),
        }
    }

    /// What comes of a push to `target`: its own result, or what a fault puts in its place.
    async fn outcome(
        &self,
        target: Option<&str>,
        push: impl Fn() -> Result<String, Refusal> + Send,
    ) -> Outcome {
        let core = &self.core;
        let strike = core.faults.strike(Place::Fcm, target);
        pause(&strike).await;
        if strike.effect == Some(Effect::DeadTarget)
            && let Some(target) = target.and_then(|token| core.registry.find(token))
        {
            target.kill(Death::Unregistered, core.clock.now());
        }
        let Some(instead) = Instead::of(&strike) else {
            return push().map_or_else(Outcome::Refused, Outcome::Accepted);
        };
        core.tally.struck_by_faults.one();
        if strike.delivered_first {
            // The sender does not learn what came of it.
            let _ = push();
        }
        match instead {
            Instead::Refusal(refusal) => Outcome::Refused(refusal),
            Instead::NoAnswer(way) => Outcome::NoAnswer(way),
        }
    }

    /// What FCM does with an authorized request when nothing goes wrong on its side: project, shape, rules, quota,
    /// recipient, in this order. Gives the message's name.
    fn push(
        &self,
        project: &str,
        headers: &Arc<HeaderMap>,
        request: &json::Json,
        body: &Bytes,
    ) -> Result<String, Refusal> {
        if project != self.tokens.project_id() {
            return Err(Refusal::ProjectDenied { project: project.to_owned() });
        }
        let now = self.core.clock.now();
        if let Some(quota) = &self.quota {
            quota
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .admit(now)
                .map_err(Refusal::quota_exceeded)?;
        }
        let message = Message::check(request, body, &self.package_name, now)?;
        let target = self.device(&message.recipient)?;
        if message.validate_only {
            // What Google's servers answer to it.
            return Ok(format!("projects/{project}/messages/fake_message_id"));
        }
        let micros = now.millis().saturating_mul(1000);
        let name = format!("projects/{project}/messages/0:{micros}%{:016x}", self.core.names.next());
        let Some(target) = target else { return Ok(name) };
        target.with_shelf(|shelf| shelf.admit(now)).map_err(Refusal::quota_exceeded)?;
        let push = Push {
            service: Service::Fcm,
            id: name.as_str().into(),
            headers: Arc::clone(headers),
            body: message.body,
            accepted_at: now,
            was_stored: false,
        };
        let held = Held { push, keep: message.keep, collapse_key: message.collapse_key };
        target.hand_over(held, now, &self.core.tally);
        Ok(name)
    }

    /// The device of a recipient; `None` for a topic, which nobody subscribes to here.
    fn device(&self, recipient: &Recipient) -> Result<Option<Arc<Target>>, Refusal> {
        let (field, name, is_well_formed) = match recipient {
            Recipient::Topic => return Ok(None),
            Recipient::Token(token) => ("message.token", token, is_registration_token(token)),
            Recipient::Fid(fid) => ("message.fid", fid, is_fid(fid)),
        };
        let invalid = || {
            Refusal::invalid(
                field,
                "The registration token is not a valid FCM registration token",
                "Invalid registration token",
            )
        };
        if !is_well_formed {
            return Err(invalid());
        }
        let Some(target) = self.core.registry.find(name) else {
            return Err(ErrorCode::Unregistered.into());
        };
        if matches!(recipient, Recipient::Token(token) if **token != *target.token) {
            // The right installation, but the rest was cut off or changed.
            return Err(invalid());
        }
        if *target.app != *self.tokens.project_id() {
            return Err(ErrorCode::SenderIdMismatch.into());
        }
        match target.death() {
            Some(_) => Err(ErrorCode::Unregistered.into()),
            None => Ok(Some(target)),
        }
    }
}

fn is_registration_token(token: &str) -> bool {
    token.len() >= REGISTRATION_TOKEN_MIN
        && token.split_once(':').is_some_and(|(fid, rest)| is_fid(fid) && is_base64url(rest))
}

fn is_fid(fid: &str) -> bool {
    fid.len() == FID_LENGTH && is_base64url(fid)
}

fn is_base64url(text: &str) -> bool {
    text.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_')
}

/// What came of a request for a push.
enum Outcome {
    /// The message's name.
    Accepted(String),
    Refused(Refusal),
    NoAnswer(Way),
}

impl Outcome {
    fn status(&self) -> Option<u16> {
        match self {
            Self::Accepted(_) => Some(StatusCode::OK.as_u16()),
            Self::Refused(refusal) => Some(refusal.status().as_u16()),
            Self::NoAnswer(_) => None,
        }
    }

    fn reason(&self) -> Option<&'static str> {
        match self {
            Self::Refused(refusal) => Some(refusal.name()),
            Self::Accepted(_) | Self::NoAnswer(_) => None,
        }
    }
}

/// What a client gets in the place of FCM's own answer.
enum Instead {
    Refusal(Refusal),
    NoAnswer(Way),
}

/// A way to get no answer.
#[derive(Clone, Copy)]
enum Way {
    Reset,
    GoAway(super::Reason),
    Silence,
}

impl Instead {
    fn of(strike: &Strike) -> Option<Self> {
        let code = match strike.effect? {
            Effect::Latency(_) | Effect::Apns(_) | Effect::DeadTarget => return None,
            Effect::Reset => return Some(Self::NoAnswer(Way::Reset)),
            Effect::GoAway(reason) => return Some(Self::NoAnswer(Way::GoAway(reason))),
            Effect::Silence => return Some(Self::NoAnswer(Way::Silence)),
            Effect::Fcm(code) => code,
            // The sender's own credentials are the likelier cause than those for APNs or Web Push.
            Effect::Status(401) => return Some(Self::Refusal(Refusal::TokenInvalid)),
            Effect::Status(status) => ErrorCode::of_status(status)?,
        };
        Some(Self::Refusal(Refusal::Code { code, retry_after_s: strike.retry_after_s }))
    }
}

impl Way {
    async fn go(self, orders: &Orders) -> NoAnswer {
        match self {
            Self::Reset => orders.reset(),
            Self::GoAway(reason) => {
                orders.go_away(reason);
                return h2::Error::from(h2::Reason::REFUSED_STREAM).into();
            }
            Self::Silence => {}
        }
        // Until the client gives up or the connection is gone; then this future is dropped.
        match std::future::pending::<Infallible>().await {}
    }
}

/// What a fault makes the token endpoint answer: RFC 6749's errors where it has one, and Google's words where not.
fn token_fault(refusal: &Refusal, retry_after_s: Option<u64>) -> Response<Full<Bytes>> {
    let status = refusal.status();
    let error = match status {
        StatusCode::BAD_REQUEST => "invalid_grant",
        StatusCode::UNAUTHORIZED => "invalid_client",
        StatusCode::FORBIDDEN => "access_denied",
        StatusCode::TOO_MANY_REQUESTS => "rate_limit_exceeded",
        StatusCode::SERVICE_UNAVAILABLE => "temporarily_unavailable",
        _ => "internal_failure",
    };
    let mut response = json_response(status, &json!({ "error": error }));
    if let Some(seconds) = retry_after_s {
        response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from(seconds));
    }
    response
}

async fn pause(strike: &Strike) {
    if !strike.latency.is_zero() {
        tokio::time::sleep(strike.latency).await;
    }
}

/// The body; `None` if it is too large or the client gave up.
async fn read(body: Incoming) -> Option<Bytes> {
    Limited::new(body, BODY_MAX).collect().await.ok().map(http_body_util::Collected::to_bytes)
}

/// An HTTP-date (RFC 9110 section 5.6.7).
fn http_date(now: Timestamp) -> HeaderValue {
    let date = httpdate::fmt_http_date(UNIX_EPOCH + Duration::from_millis(now.millis()));
    HeaderValue::try_from(date).expect("a date is visible ASCII")
}

/// Google answers unknown addresses in HTML.
fn not_found() -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::from_static(
        b"<!DOCTYPE html><html lang=en><title>Error 404 (Not Found)</title><p>There is nothing at this address.\n",
    )));
    *response.status_mut() = StatusCode::NOT_FOUND;
    let content_type = HeaderValue::from_static("text/html; charset=UTF-8");
    response.headers_mut().insert(header::CONTENT_TYPE, content_type);
    response
}
