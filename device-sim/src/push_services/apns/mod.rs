//! An APNs as Apple documents it: HTTP/2 over TLS, one push a stream.
//!
//! In the order of a request: [`token`] (who may push over this connection), [`request`] (what is to be pushed),
//! the device (in `devices`), [`reply`]. [`frames`] gives HTTP/2 the two habits of Apple's servers that the `h2`
//! crate does not have.
//!
//! Sources, all by Apple and cited where they are used: 'Establishing a token-based connection to APNs', 'Sending
//! notification requests to APNs', 'Handling notification responses from APNs'.

mod frames;
mod reply;
mod request;
mod token;

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use bytes::{Bytes, BytesMut};
use h2::{RecvStream, server::SendResponse};
use http::{HeaderMap, HeaderValue, Method, Request, StatusCode, Uri, header, request::Parts};
use serde::de::IgnoredAny;
use tokio::time::timeout;
use tokio_rustls::server::TlsStream;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

pub use self::reply::Reason;
use self::{
    frames::{Tap, TapControl},
    reply::Reply,
    request::Notification,
    token::ConnectionAuth,
};
use super::{
    Core, Environment, Service,
    devices::{Death, Push, Target},
    faults::{Effect, Place, Strike},
    identity::ProviderKey,
    listener::{HANDSHAKE_MAX, Order, Orders, Serve, Wire},
    store::Held,
    tally::Received,
};
use crate::clock::Timestamp;

/// What a connection may have at a time once a valid provider token was seen. Apple gives no number; this is the one
/// that its servers are known to send.
const STREAMS_MAX: u32 = 1000;
/// What is left to streams that are open when the connection ends.
const DRAIN_MAX: Duration = Duration::from_secs(2);
/// A provider token, a dozen headers, and room: more is refused by HTTP/2 itself.
const HEADERS_MAX: u32 = 16 * 1024;

/// The simulated APNs.
#[derive(Debug)]
pub(crate) struct Apns {
    pub(crate) core: Arc<Core>,
    pub(crate) environment: Environment,
    pub(crate) keys: Vec<Arc<ProviderKey>>,
    /// The bundle identifiers of the team's apps.
    pub(crate) topics: Vec<String>,
}

impl Serve for Apns {
    async fn serve(self: Arc<Self>, stream: TlsStream<Wire>, orders: Orders, stop: CancellationToken) {
        self.core.tally.connections.one();
        let tap = TapControl::default();
        let handshake = h2::server::Builder::new()
            .max_concurrent_streams(STREAMS_MAX)
            .max_header_list_size(HEADERS_MAX)
            .handshake::<_, Bytes>(Tap::new(stream, tap.clone()));
        let connection = match timeout(HANDSHAKE_MAX, handshake).await {
            Ok(Ok(connection)) => connection,
            Ok(Err(error)) => return tracing::debug!(%error, "a client did not begin HTTP/2"),
            Err(_) => return tracing::debug!("a client took too long to begin HTTP/2"),
        };
        Provider {
            auth: ConnectionAuth::new(self.environment),
            apns: self,
            connection,
            tap,
            orders,
            open_streams: Arc::default(),
            streams: TaskTracker::new(),
        }
        .run(stop)
        .await;
    }
}

/// One provider's connection.
struct Provider {
    apns: Arc<Apns>,
    connection: h2::server::Connection<Tap<TlsStream<Wire>>, Bytes>,
    tap: TapControl,
    orders: Orders,
    auth: ConnectionAuth,
    open_streams: Arc<AtomicUsize>,
    streams: TaskTracker,
}

impl Provider {
    async fn run(mut self, stop: CancellationToken) {
        loop {
            tokio::select! {
                accepted = self.connection.accept() => match accepted {
                    Some(Ok((request, respond))) => self.accept(request, respond),
                    Some(Err(error)) => return tracing::debug!(%error, "a connection to APNs broke"),
                    None => return,
                },
                order = self.orders.next() => match order {
                    // Dropping the connection sends the reset: nothing is flushed, nothing is said.
                    Order::Reset => return,
                    Order::GoAway(reason) => self.go_away(reason),
                },
                () = stop.cancelled() => {
                    self.go_away(Reason::Shutdown);
                    // Streams that a fault keeps silent must not keep the process.
                    return drop(timeout(DRAIN_MAX, self.drain()).await);
                }
            }
        }
    }

    fn go_away(&mut self, reason: Reason) {
        self.tap.explain_goaway(reason.json(None));
        self.connection.graceful_shutdown();
    }

    async fn drain(&mut self) {
        while let Some(Ok((_, mut respond))) = self.connection.accept().await {
            respond.send_reset(h2::Reason::REFUSED_STREAM);
        }
    }

    /// Checks the token at once, since it decides how many streams the connection may have, and leaves the rest to
    /// a task.
    fn accept(&mut self, request: Request<RecvStream>, mut respond: SendResponse<Bytes>) {
        let is_first_only = !self.auth.is_established();
        if is_first_only && self.open_streams.load(Ordering::SeqCst) > 0 {
            self.apns.core.tally.streams_refused.one();
            // RFC 9113 section 5.1.2; the client may send it again (section 8.7).
            return respond.send_reset(h2::Reason::REFUSED_STREAM);
        }
        let now = self.apns.core.clock.now();
        let key = self.auth.authorize(request.headers(), &self.apns.keys, now);
        if is_first_only && self.auth.is_established() {
            self.tap.raise_streams(STREAMS_MAX);
        }

        let (parts, body) = request.into_parts();
        let stream = Stream {
            apns: Arc::clone(&self.apns),
            orders: self.orders.clone(),
            key,
            respond,
            _open: OpenStream::new(&self.open_streams),
        };
        self.streams.spawn(stream.serve(parts, body));
    }
}

/// Counts a stream as open for as long as it lives.
struct OpenStream(Arc<AtomicUsize>);

impl OpenStream {
    fn new(count: &Arc<AtomicUsize>) -> Self {
        count.fetch_add(1, Ordering::SeqCst);
        Self(Arc::clone(count))
    }
}

impl Drop for OpenStream {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

/// One request.
struct Stream {
    apns: Arc<Apns>,
    orders: Orders,
    key: Result<Arc<ProviderKey>, Reason>,
    respond: SendResponse<Bytes>,
    _open: OpenStream,
}

/// What a request says, without its credentials.
struct Asked {
    method: Method,
    uri: Uri,
    headers: Arc<HeaderMap>,
    body: Bytes,
    /// The request's own, or else one made for it.
    apns_id: HeaderValue,
}

impl Stream {
    async fn serve(mut self, parts: Parts, body: RecvStream) {
        let Some(body) = read(body).await else { return };
        let core = &self.apns.core;
        core.tally.requests.one();
        let Parts { method, uri, mut headers, .. } = parts;
        headers.remove(header::AUTHORIZATION);
        let apns_id = request::apns_id(&headers).ok().flatten().unwrap_or_else(|| uuid_header(core));
        let asked = Asked { method, uri, headers: Arc::new(headers), body, apns_id };

        let outcome = self.outcome(&asked).await;
        core.log.note(|| Received {
            service: Service::Apns,
            at: core.clock.now(),
            target: request::device_token(&asked.uri).ok().map(Arc::from),
            headers: asked.headers,
            body: asked.body,
            status: outcome.reply().map(|reply| reply.status().as_u16()),
            reason: outcome.reply().and_then(Reply::reason).map(Reason::as_str),
        });
        self.answer(outcome, asked.apns_id).await;
    }

    /// What comes of a request: APNs' own reply, or what a fault puts in its place.
    async fn outcome(&self, asked: &Asked) -> Outcome {
        let core = &self.apns.core;
        let token = request::device_token(&asked.uri).ok();
        let strike = core.faults.strike(Place::Apns, token.as_deref());
        if !strike.latency.is_zero() {
            tokio::time::sleep(strike.latency).await;
        }
        if strike.effect == Some(Effect::DeadTarget)
            && let Some(target) = token.and_then(|token| core.registry.find(&token))
        {
            target.kill(Death::Unregistered, core.clock.now());
        }
        let Some(instead) = Outcome::of_fault(&strike, core.clock.now()) else {
            return Outcome::Reply(self.push(asked));
        };
        core.tally.struck_by_faults.one();
        if strike.delivered_first {
            // The provider does not learn what came of it.
            let _ = self.push(asked);
        }
        instead
    }

    /// What APNs does with a request when nothing goes wrong on its side.
    fn push(&self, asked: &Asked) -> Reply {
        let tally = &self.apns.core.tally;
        let now = self.apns.core.clock.now();
        let (notification, target) = match self.judge(asked, now) {
            Ok(good) => good,
            Err(refusal) => return refusal,
        };
        if serde_json::from_slice::<IgnoredAny>(&asked.body).is_err() {
            // Apple documents no reason for it: the request is accepted, and no device can read it.
            tally.discarded.one();
            return Reply::Accepted;
        }
        let push = Push {
            service: Service::Apns,
            id: asked.apns_id.to_str().unwrap_or_default().into(),
            headers: Arc::clone(&asked.headers),
            body: asked.body.clone(),
            accepted_at: now,
            was_stored: false,
        };
        target.hand_over(Held { push, keep: notification.keep, collapse_key: None }, now, tally);
        Reply::Accepted
    }

    /// Whether a request is good: path and method, token, headers, payload, device, in this order. Apple documents
    /// no order.
    fn judge(&self, asked: &Asked, now: Timestamp) -> Result<(Notification, Arc<Target>), Reply> {
        let token = request::device_token(&asked.uri)?;
        request::check_method(&asked.method)?;
        let key = self.key.as_ref().map_err(|reason| *reason)?;
        let notification = Notification::parse(&asked.headers, key, &self.apns.topics, now)?;
        notification.check_payload(&asked.body)?;
        let target = self.device(&token, &notification)?;
        Ok((notification, target))
    }

    fn device(&self, token: &str, notification: &Notification) -> Result<Arc<Target>, Reply> {
        let found = self.apns.core.registry.find(token);
        let target = found.filter(|target| target.service == Service::Apns).ok_or(Reason::BadDeviceToken)?;
        if *target.app != *notification.bundle_id {
            return Err(Reason::DeviceTokenNotForTopic.into());
        }
        match target.death() {
            None => Ok(target),
            Some((death, since)) => Err(Reply::Refused {
                reason: match death {
                    Death::Unregistered => Reason::Unregistered,
                    Death::Expired => Reason::ExpiredToken,
                },
                timestamp: Some(since),
                retry_after_s: None,
            }),
        }
    }

    async fn answer(&mut self, outcome: Outcome, apns_id: HeaderValue) {
        let tally = &self.apns.core.tally;
        match outcome {
            Outcome::Reply(reply) => {
                let answered = if reply == Reply::Accepted { &tally.accepted } else { &tally.refused };
                answered.one();
                let is_sandbox = self.apns.environment == Environment::Sandbox;
                let unique_id = is_sandbox.then(|| uuid_header(&self.apns.core));
                let (response, body) = reply.into_response(apns_id, unique_id);
                // A client that has gone away is no concern of a server.
                let sent = self.respond.send_response(response, body.is_none());
                if let (Ok(mut stream), Some(body)) = (sent, body) {
                    let _ = stream.send_data(body, true);
                }
            }
            Outcome::Reset => self.orders.reset(),
            Outcome::GoAway(reason) => {
                self.orders.go_away(reason);
                self.respond.send_reset(h2::Reason::REFUSED_STREAM);
            }
            Outcome::Silence => {
                let _ = std::future::poll_fn(|cx| self.respond.poll_reset(cx)).await;
            }
        }
    }
}

/// What a provider gets: a reply, or one of the ways to get none.
#[derive(Clone, Copy, Debug)]
enum Outcome {
    Reply(Reply),
    Reset,
    GoAway(Reason),
    Silence,
}

impl Outcome {
    /// What a fault puts in the place of APNs' own reply.
    fn of_fault(strike: &Strike, now: Timestamp) -> Option<Self> {
        let reason = match strike.effect? {
            Effect::Latency(_) | Effect::Fcm(_) | Effect::DeadTarget => return None,
            Effect::Reset => return Some(Self::Reset),
            Effect::GoAway(reason) => return Some(Self::GoAway(reason)),
            Effect::Silence => return Some(Self::Silence),
            Effect::Apns(reason) => reason,
            Effect::Status(status) => Reason::of_status(status)?,
        };
        let timestamp = (reason.status() == StatusCode::GONE).then_some(now);
        Some(Self::Reply(Reply::Refused { reason, timestamp, retry_after_s: strike.retry_after_s }))
    }

    fn reply(self) -> Option<Reply> {
        match self {
            Self::Reply(reply) => Some(reply),
            Self::Reset | Self::GoAway(_) | Self::Silence => None,
        }
    }
}

/// The body, or as much as is needed to see that it is too large. `None` if the client gave up.
async fn read(mut body: RecvStream) -> Option<Bytes> {
    let mut whole = BytesMut::new();
    while let Some(piece) = body.data().await {
        let piece = piece.ok()?;
        body.flow_control().release_capacity(piece.len()).ok()?;
        if whole.is_empty() && body.is_end_stream() {
            return Some(piece);
        }
        whole.extend_from_slice(&piece);
        if whole.len() >= request::BODY_READ_MAX {
            break;
        }
    }
    Some(whole.freeze())
}

fn uuid_header(core: &Core) -> HeaderValue {
    HeaderValue::from_str(&core.names.uuid()).expect("a UUID is ASCII")
}
