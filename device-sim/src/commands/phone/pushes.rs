//! The phone's line to its push service: the device stream of the simulators' control API.

use std::time::Duration;

use anyhow::{Context as _, bail};
use bytes::{Bytes, BytesMut};
use clap::ValueEnum;
use device_sim::phone::{Push, PushTarget};
use http_body_util::{BodyExt as _, Full};
use hyper::{Method, Request, Response, StatusCode, Uri, body::Incoming};
use hyper_util::rt::TokioIo;
use serde::Deserialize;
use serde_json::value::RawValue;
use tokio::{net::TcpStream, sync::mpsc, task::JoinHandle};

/// A push service that went away is asked again so often.
const BETWEEN_TRIES: Duration = Duration::from_secs(2);
/// A line is a push of 4 KiB with its headers; a longer one is none.
const LINE_BYTES_MAX: usize = 64 * 1024;
const ANSWER_BYTES_MAX: usize = 64 * 1024;
/// Pushes that came and were not looked at yet.
const WAITING_MAX: usize = 64;

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum ServiceName {
    /// An iPhone
    Apns,
    /// An Android phone
    Fcm,
}

impl ServiceName {
    fn as_str(self) -> &'static str {
        match self {
            Self::Apns => "apns",
            Self::Fcm => "fcm",
        }
    }

    pub(super) fn target(self, target: String) -> PushTarget {
        match self {
            Self::Apns => PushTarget::Apns(target),
            Self::Fcm => PushTarget::Fcm(target),
        }
    }

    pub(super) fn of(target: &PushTarget) -> Self {
        match target {
            PushTarget::Apns(_) => Self::Apns,
            PushTarget::Fcm(_) => Self::Fcm,
        }
    }
}

/// The control API of simulated push services.
#[derive(Clone, Debug)]
pub(super) struct Control {
    url: String,
    authority: String,
}

/// What comes over the line.
#[derive(Debug)]
pub(super) enum FromService {
    /// The device is connected.
    Connected,
    /// A push.
    Push(Push),
    /// Something that is no push of ours.
    Unreadable(String),
    /// The line is broken; it is tried again.
    Lost(String),
}

impl Control {
    pub(super) fn new(url: &str) -> anyhow::Result<Self> {
        let url = url.trim_end_matches('/');
        let uri: Uri = url.parse().with_context(|| format!("{url:?} is no URL"))?;
        match (uri.scheme_str(), uri.authority()) {
            (Some("http"), Some(authority)) => {
                Ok(Self { url: url.to_owned(), authority: authority.to_string() })
            }
            _ => bail!("--push-control takes the control API's URL, as device-sim push-services prints it"),
        }
    }

    /// Makes a push target.
    pub(super) async fn new_target(&self, service: ServiceName) -> anyhow::Result<PushTarget> {
        #[derive(Deserialize)]
        struct Made {
            target: String,
        }
        let body = serde_json::json!({ "service": service.as_str() }).to_string();
        let (status, answer) = self.ask(Method::POST, "/devices", body).await?;
        if status != StatusCode::CREATED {
            bail!("the push services at {} make no device: {}", self.url, String::from_utf8_lossy(&answer));
        }
        let made: Made = serde_json::from_slice(&answer)
            .with_context(|| format!("{} is no control API of device-sim push-services", self.url))?;
        Ok(service.target(made.target))
    }

    /// Whether pushes to this target would arrive.
    pub(super) async fn is_good(&self, target: &PushTarget) -> anyhow::Result<bool> {
        #[derive(Deserialize)]
        struct State {
            dead: Option<serde::de::IgnoredAny>,
        }
        let (status, answer) =
            self.ask(Method::GET, &format!("/devices/{}", target.as_str()), String::new()).await?;
        match status {
            StatusCode::OK => Ok(serde_json::from_slice::<State>(&answer)?.dead.is_none()),
            StatusCode::NOT_FOUND => Ok(false),
            _ => bail!("the push services at {} say {status}", self.url),
        }
    }

    /// Connects the device, again and again, until the receiver is dropped.
    pub(super) fn connect(&self, target: PushTarget) -> (mpsc::Receiver<FromService>, JoinHandle<()>) {
        let (give, take) = mpsc::channel(WAITING_MAX);
        let this = self.clone();
        let task = tokio::spawn(async move {
            loop {
                let why = match this.stream(&target, &give).await {
                    Ok(()) => "the push service ended the connection".to_owned(),
                    Err(error) => format!("{error:#}"),
                };
                if give.send(FromService::Lost(why)).await.is_err() {
                    return;
                }
                tokio::time::sleep(BETWEEN_TRIES).await;
            }
        });
        (take, task)
    }

    async fn stream(&self, target: &PushTarget, give: &mpsc::Sender<FromService>) -> anyhow::Result<()> {
        let path = format!("/devices/{}/pushes", target.as_str());
        let answer = self.send(Method::GET, &path, String::new()).await?;
        if answer.status() != StatusCode::OK {
            bail!("the push service does not know this device ({})", answer.status());
        }
        if give.send(FromService::Connected).await.is_err() {
            return Ok(());
        }
        let mut body = answer.into_body();
        let mut buffer = BytesMut::new();
        while let Some(frame) = body.frame().await {
            // How it broke is of no interest to anybody: it is tried again.
            let Ok(frame) = frame else { return Ok(()) };
            if let Ok(data) = frame.into_data() {
                buffer.extend_from_slice(&data);
            }
            while let Some(end) = buffer.iter().position(|byte| *byte == b'\n') {
                let line = buffer.split_to(end + 1);
                if give.send(read(&line)).await.is_err() {
                    return Ok(());
                }
            }
            if buffer.len() > LINE_BYTES_MAX {
                bail!("the push service sent a line of more than {LINE_BYTES_MAX} bytes");
            }
        }
        Ok(())
    }

    async fn ask(&self, method: Method, path: &str, body: String) -> anyhow::Result<(StatusCode, Bytes)> {
        let answer = self.send(method, path, body).await?;
        let status = answer.status();
        let body = http_body_util::Limited::new(answer.into_body(), ANSWER_BYTES_MAX).collect().await;
        let body = body.map_err(|error| anyhow::anyhow!("the push services' answer broke off: {error}"))?;
        Ok((status, body.to_bytes()))
    }

    async fn send(&self, method: Method, path: &str, body: String) -> anyhow::Result<Response<Incoming>> {
        let unreachable =
            || format!("cannot reach the push services' control API at {}; do they run?", self.url);
        let stream = TcpStream::connect(&self.authority).await.with_context(unreachable)?;
        let (mut sender, connection) =
            hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.with_context(unreachable)?;
        // It ends when the answer has been read, or dropped.
        tokio::spawn(connection);
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header("host", &self.authority)
            .header("content-type", "application/json")
            .body(Full::new(Bytes::from(body)))?;
        sender.send_request(request).await.with_context(unreachable)
    }
}

fn read(line: &[u8]) -> FromService {
    #[derive(Deserialize)]
    struct Line<'a> {
        #[serde(borrow)]
        body: &'a RawValue,
    }
    let push = serde_json::from_slice::<Line<'_>>(line)
        .map_err(|error| error.to_string())
        .and_then(|line| Push::parse(line.body.get().as_bytes()).map_err(|error| error.to_string()));
    match push {
        Ok(push) => FromService::Push(push),
        Err(why) => FromService::Unreadable(why),
    }
}
