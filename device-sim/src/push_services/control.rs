//! The control API: what a test in another language, or a person with curl, does with the services.
//!
#![doc = include_str!("control.md")]

use std::{convert::Infallible, sync::Arc, time::Duration};

use axum::{
    Json, Router,
    body::Body,
    extract::{
        Path, Query, State,
        rejection::{JsonRejection, PathRejection, QueryRejection},
    },
    http::{StatusCode, header},
    response::{IntoResponse, Response},
    routing::{delete, get, post},
};
use bytes::Bytes;
use data_encoding::BASE64;
use futures::{Stream, stream};
use http::HeaderMap;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json, value::RawValue};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use super::{
    Death, Device, Fault, FaultId, Push, Received, Service, Shared, TargetState, scenario::FaultSpec,
};
use crate::clock::Timestamp;

type App = State<Arc<Shared>>;

/// Serves the control API until `stop`.
pub(crate) async fn serve(listener: TcpListener, shared: Arc<Shared>, stop: CancellationToken) {
    let served = axum::serve(listener, router(shared));
    // Streams of pushes never end by themselves: they are cut off.
    tokio::select! {
        ended = served => if let Err(error) = ended {
            tracing::error!(%error, "the control API ended");
        },
        () = stop.cancelled() => {}
    }
}

fn router(shared: Arc<Shared>) -> Router {
    Router::new()
        .route("/", get(help))
        .route("/info", get(info))
        .route("/devices", post(new_device))
        .route("/devices/{target}", get(device).delete(kill))
        .route("/devices/{target}/pushes", get(pushes))
        .route("/received", get(received).delete(forget))
        .route("/faults", get(faults).post(arm).delete(disarm_all))
        .route("/faults/{id}", delete(disarm))
        .route("/counters", get(counters))
        .route("/clock", post(advance))
        .route("/provider-token", get(provider_token))
        .route("/access-token", get(access_token))
        .fallback(nothing_here)
        .with_state(shared)
}

/// The page that documents this module, too.
async fn help() -> &'static str {
    include_str!("control.md")
}

/// What a client needs to know, but for the files.
#[derive(Clone, Debug, Serialize)]
pub struct Info {
    /// APNs, an URL without a path.
    pub apns_url: String,
    /// FCM, an URL without a path.
    pub fcm_url: String,
    /// FCM's token endpoint.
    pub token_uri: String,
    /// The control API.
    pub control_url: Option<String>,
    /// The provider key's identifier.
    pub key_id: String,
    /// The team's identifier.
    pub team_id: String,
    /// The app's bundle identifier and package name.
    pub topic: String,
    /// FCM's project.
    pub project_id: String,
}

impl Shared {
    /// What a client needs to know, but for the files.
    pub(crate) fn info(&self) -> Info {
        let key = self.identity.provider_key();
        Info {
            apns_url: self.apns_url(),
            fcm_url: self.fcm_url(),
            token_uri: self.token_uri(),
            control_url: self.control_url(),
            key_id: key.key_id().to_owned(),
            team_id: key.team_id().to_owned(),
            topic: self.topic().to_owned(),
            project_id: self.identity.service_account.project_id.clone(),
        }
    }
}

async fn info(State(shared): App) -> Json<Info> {
    Json(shared.info())
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct NewDevice {
    service: Service,
    app: Option<String>,
}

async fn new_device(
    State(shared): App,
    body: Result<Json<NewDevice>, JsonRejection>,
) -> Result<Response, Error> {
    let Json(NewDevice { service, app }) = body?;
    let target = shared
        .register(service, app.as_deref())
        .map_err(|error| Error { status: StatusCode::CONFLICT, why: error.to_string() })?;
    let body = json!({ "service": service, "app": target.app, "target": target.token });
    Ok((StatusCode::CREATED, Json(body)).into_response())
}

async fn device(
    State(shared): App,
    target: Result<Path<String>, PathRejection>,
) -> Result<Json<TargetState>, Error> {
    let Path(target) = target?;
    let found = shared.core.registry.find(&target).ok_or_else(|| Error::no_target(&target))?;
    Ok(Json(found.state()))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Killing {
    reason: Option<Death>,
}

async fn kill(
    State(shared): App,
    target: Result<Path<String>, PathRejection>,
    query: Result<Query<Killing>, QueryRejection>,
) -> Result<StatusCode, Error> {
    let (Path(target), Query(Killing { reason })) = (target?, query?);
    if shared.kill(&target, reason.unwrap_or(Death::Unregistered)) {
        Ok(StatusCode::NO_CONTENT)
    } else {
        Err(Error::no_target(&target))
    }
}

async fn pushes(State(shared): App, target: Result<Path<String>, PathRejection>) -> Result<Response, Error> {
    let Path(target) = target?;
    let found = shared.core.registry.find(&target).ok_or_else(|| Error::no_target(&target))?;
    let device = shared.core.registry.connect(found);
    let body = Body::from_stream(lines(device));
    Ok(([(header::CONTENT_TYPE, "application/x-ndjson")], body).into_response())
}

/// The pushes of a device for as long as it is connected; the device lives in the stream.
fn lines(device: Device) -> impl Stream<Item = Result<Bytes, Infallible>> {
    stream::unfold(device, |device| async {
        let push = device.next_push().await?;
        Some((Ok(line(&push, device.target())), device))
    })
}

/// A push as one line of JSON.
#[derive(Serialize)]
struct PushLine<'a> {
    service: Service,
    target: &'a str,
    id: &'a str,
    headers: Map<String, Value>,
    body: &'a RawValue,
    accepted_at_ms: Timestamp,
    was_stored: bool,
}

fn line(push: &Push, target: &str) -> Bytes {
    // Only JSON is delivered; a body with line breaks between its tokens is put on one line.
    let body: Box<RawValue> = serde_json::from_slice(&push.body)
        .and_then(|body: Value| serde_json::value::to_raw_value(&body))
        .unwrap_or_else(|_| RawValue::NULL.to_owned());
    let line = PushLine {
        service: push.service,
        target,
        id: &push.id,
        headers: header_object(&push.headers),
        body: &body,
        accepted_at_ms: push.accepted_at,
        was_stored: push.was_stored,
    };
    let mut line = serde_json::to_vec(&line).expect("strings and numbers are JSON");
    line.push(b'\n');
    Bytes::from(line)
}

/// Headers as an object; a name that stands twice has its values in a list.
fn header_object(headers: &HeaderMap) -> Map<String, Value> {
    let text =
        |value: &http::HeaderValue| Value::from(String::from_utf8_lossy(value.as_bytes()).into_owned());
    headers
        .keys()
        .map(|name| {
            let mut values: Vec<Value> = headers.get_all(name).iter().map(text).collect();
            let value = if values.len() == 1 { values.remove(0) } else { Value::from(values) };
            (name.to_string(), value)
        })
        .collect()
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Which {
    target: Option<String>,
}

async fn received(
    State(shared): App,
    query: Result<Query<Which>, QueryRejection>,
) -> Result<Json<Vec<Value>>, Error> {
    let Query(Which { target }) = query?;
    let latest = shared.core.log.latest();
    let wanted =
        latest.iter().filter(|received| target.is_none() || received.target.as_deref() == target.as_deref());
    Ok(Json(wanted.map(|received| received_object(received)).collect()))
}

fn received_object(received: &Received) -> Value {
    let mut object = json!({
        "service": received.service,
        "at_ms": received.at,
        "target": received.target,
        "headers": header_object(&received.headers),
        "status": received.status,
        "reason": received.reason,
    });
    // What a client sent need not be JSON, nor text.
    let body = serde_json::from_slice::<Value>(&received.body);
    let (name, body) = match body {
        Ok(body) => ("body", body),
        Err(_) => ("body_base64", Value::from(BASE64.encode(&received.body))),
    };
    object[name] = body;
    object
}

async fn forget(State(shared): App) -> StatusCode {
    shared.core.log.clear();
    StatusCode::NO_CONTENT
}

async fn faults(State(shared): App) -> Json<Vec<Value>> {
    let list = shared.core.faults.list();
    let objects = list.iter().map(|armed| {
        let mut object = json!(FaultSpec::from(armed));
        object["id"] = armed.id.into();
        object["struck"] = armed.struck.into();
        object
    });
    Json(objects.collect())
}

async fn arm(State(shared): App, body: Result<Json<FaultSpec>, JsonRejection>) -> Result<Response, Error> {
    let Json(spec) = body?;
    let fault = Fault::try_from(spec).map_err(|error| Error::bad(error.to_string()))?;
    let id = shared
        .core
        .faults
        .arm(fault)
        .map_err(|error| Error { status: StatusCode::CONFLICT, why: error.to_string() })?;
    Ok((StatusCode::CREATED, Json(json!({ "id": id }))).into_response())
}

async fn disarm_all(State(shared): App) -> StatusCode {
    shared.core.faults.clear();
    StatusCode::NO_CONTENT
}

async fn disarm(State(shared): App, id: Result<Path<FaultId>, PathRejection>) -> Result<StatusCode, Error> {
    let Path(id) = id?;
    if shared.core.faults.disarm(id) {
        Ok(StatusCode::NO_CONTENT)
    } else {
        Err(Error { status: StatusCode::NOT_FOUND, why: format!("no fault {id} is armed") })
    }
}

async fn counters(State(shared): App) -> Json<super::Counters> {
    Json(shared.core.tally.counters())
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Advance {
    advance_s: u64,
}

async fn advance(
    State(shared): App,
    body: Result<Json<Advance>, JsonRejection>,
) -> Result<Json<Value>, Error> {
    let Json(Advance { advance_s }) = body?;
    shared.core.clock.advance(Duration::from_secs(advance_s));
    Ok(Json(json!({ "now_ms": shared.core.clock.now() })))
}

async fn provider_token(State(shared): App) -> String {
    shared.provider_token()
}

async fn access_token(State(shared): App) -> String {
    shared.access_token()
}

async fn nothing_here() -> Error {
    Error { status: StatusCode::NOT_FOUND, why: "nothing is here; GET / shows what there is".to_owned() }
}

/// Why a request was refused.
struct Error {
    status: StatusCode,
    why: String,
}

impl Error {
    fn bad(why: String) -> Self {
        Self { status: StatusCode::BAD_REQUEST, why }
    }

    fn no_target(target: &str) -> Self {
        Self { status: StatusCode::NOT_FOUND, why: format!("no device has the target {target}") }
    }
}

impl From<JsonRejection> for Error {
    fn from(rejection: JsonRejection) -> Self {
        Self::bad(rejection.body_text())
    }
}

impl From<PathRejection> for Error {
    fn from(rejection: PathRejection) -> Self {
        Self::bad(rejection.body_text())
    }
}

impl From<QueryRejection> for Error {
    fn from(rejection: QueryRejection) -> Self {
        Self::bad(rejection.body_text())
    }
}

impl IntoResponse for Error {
    fn into_response(self) -> Response {
        (self.status, Json(json!({ "error": self.why }))).into_response()
    }
}
