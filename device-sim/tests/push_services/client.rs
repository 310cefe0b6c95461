//! The clients that the tests use.

use std::{
    io,
    pin::Pin,
    sync::{Arc, OnceLock},
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use device_sim::push_services::{Config, Identity, PushServices};
use h2::client::{ResponseFuture, SendRequest};
use http::{HeaderMap, Method, Request};
use jsonwebtoken::{Algorithm, EncodingKey, Header};
use rustls::{
    ClientConfig, RootCertStore,
    crypto::aws_lc_rs,
    pki_types::{CertificateDer, ServerName, pem::PemObject as _},
};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
    task::JoinHandle,
};
use tokio_rustls::{TlsConnector, client::TlsStream};

/// What takes longer than this on a loopback interface will not come.
const PATIENCE: Duration = Duration::from_secs(20);

/// The keys of all tests: an RSA key takes a while to make.
pub(crate) fn identity() -> Identity {
    static IDENTITY: OnceLock<Identity> = OnceLock::new();
    IDENTITY.get_or_init(|| Identity::generate("test-project").expect("keys")).clone()
}

pub(crate) fn config() -> Config {
    Config::with_identity(identity())
}

pub(crate) async fn start() -> PushServices {
    start_with(config()).await
}

pub(crate) async fn start_with(config: Config) -> PushServices {
    PushServices::start(config).await.expect("the services start")
}

/// Waits, but not for ever.
pub(crate) async fn soon<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(PATIENCE, future).await.expect("it happens soon")
}

/// A provider token of the services' key and clock.
pub(crate) fn provider_token(services: &PushServices) -> String {
    let key = services.provider_key();
    sign(key.p8_pem(), key.key_id(), key.team_id(), services.clock().now().seconds())
}

pub(crate) fn sign(p8_pem: &str, key_id: &str, team_id: &str, issued_at: u64) -> String {
    let mut header = Header::new(Algorithm::ES256);
    header.kid = Some(key_id.to_owned());
    let key = EncodingKey::from_ec_pem(p8_pem.as_bytes()).expect("a key");
    jsonwebtoken::encode(&header, &json!({ "iss": team_id, "iat": issued_at }), &key).expect("signed")
}

async fn tls(services: &PushServices) -> TlsStream<TcpStream> {
    let port = services.apns_url().rsplit(':').next().and_then(|port| port.parse().ok()).expect("a port");
    let mut roots = RootCertStore::empty();
    let ca = CertificateDer::from_pem_slice(services.ca_pem().as_bytes()).expect("PEM");
    roots.add(ca).expect("a certificate");
    let mut config = ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_safe_default_protocol_versions()
        .expect("TLS")
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = vec![b"h2".to_vec()];
    let tcp = TcpStream::connect(("127.0.0.1", port)).await.expect("it listens");
    let name = ServerName::try_from("localhost").expect("a name");
    let tls = TlsConnector::from(Arc::new(config)).connect(name, tcp).await.expect("TLS");
    assert_eq!(tls.get_ref().1.alpn_protocol(), Some(&b"h2"[..]));
    tls
}

/// One provider's connection to APNs.
pub(crate) struct Apns {
    pub(crate) requests: SendRequest<Bytes>,
    connection: JoinHandle<Result<(), h2::Error>>,
    topic: String,
}

/// An answer of APNs.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Value,
}

impl Answer {
    pub(crate) fn reason(&self) -> &str {
        self.body["reason"].as_str().unwrap_or_default()
    }
}

impl Apns {
    pub(crate) async fn connect(services: &PushServices) -> Self {
        let tls = tls(services).await;
        let (requests, connection) = h2::client::handshake(tls).await.expect("HTTP/2");
        Self { requests, connection: tokio::spawn(connection), topic: services.topic().to_owned() }
    }

    /// A request that is good but for what the test does to it.
    pub(crate) fn request(&self, target: &str, token: &str) -> Push {
        Push {
            method: Method::POST,
            path: format!("/3/device/{target}"),
            headers: vec![
                ("authorization".to_owned(), format!("bearer {token}")),
                ("apns-topic".to_owned(), self.topic.clone()),
                ("apns-push-type".to_owned(), "alert".to_owned()),
            ],
            payload: br#"{"aps":{"alert":"Hello"}}"#.to_vec(),
        }
    }

    /// Sends a request without waiting for its answer.
    pub(crate) async fn begin(&self, push: Push) -> ResponseFuture {
        let mut requests = soon(self.requests.clone().ready()).await.expect("the connection is open");
        let mut request =
            Request::builder().method(push.method).uri(format!("https://localhost{}", push.path));
        for (name, value) in push.headers {
            request = request.header(name, value);
        }
        let request = request.body(()).expect("a request");
        let (answer, mut body) = requests.send_request(request, push.payload.is_empty()).expect("sent");
        if !push.payload.is_empty() {
            body.send_data(Bytes::from(push.payload), true).expect("sent");
        }
        answer
    }

    pub(crate) async fn send(&self, push: Push) -> Result<Answer, h2::Error> {
        let (head, mut body) = soon(self.begin(push).await).await?.into_parts();
        let mut text = Vec::new();
        while let Some(piece) = soon(body.data()).await {
            text.extend_from_slice(&piece?);
        }
        let body = if text.is_empty() { Value::Null } else { serde_json::from_slice(&text).expect("JSON") };
        Ok(Answer { status: head.status.as_u16(), headers: head.headers, body })
    }

    pub(crate) async fn answer(&self, push: Push) -> Answer {
        self.send(push).await.expect("an answer")
    }

    /// What ended the connection.
    pub(crate) async fn ended(self) -> Result<(), h2::Error> {
        drop(self.requests);
        soon(self.connection).await.expect("no panic")
    }
}

/// A request for a push.
#[derive(Clone)]
pub(crate) struct Push {
    pub(crate) method: Method,
    pub(crate) path: String,
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) payload: Vec<u8>,
}

impl Push {
    /// With this header, in the place of any of its name.
    pub(crate) fn with(mut self, name: &str, value: &str) -> Self {
        self = self.without(name);
        self.headers.push((name.to_owned(), value.to_owned()));
        self
    }

    pub(crate) fn without(mut self, name: &str) -> Self {
        self.headers.retain(|(given, _)| given != name);
        self
    }

    pub(crate) fn payload(mut self, payload: impl Into<Vec<u8>>) -> Self {
        self.payload = payload.into();
        self
    }

    pub(crate) fn path(mut self, path: &str) -> Self {
        path.clone_into(&mut self.path);
        self
    }
}

/// A client for FCM and the control API that believes the services' certificate.
pub(crate) fn http(services: &PushServices, http2: bool) -> reqwest::Client {
    let _ = aws_lc_rs::default_provider().install_default();
    let ca = reqwest::Certificate::from_pem(services.ca_pem().as_bytes()).expect("PEM");
    let builder = reqwest::Client::builder().tls_certs_only([ca]).timeout(PATIENCE);
    let builder = if http2 { builder.http2_prior_knowledge() } else { builder.http1_only() };
    builder.build().expect("a client")
}

/// A sender with an access token.
pub(crate) struct Fcm {
    pub(crate) http: reqwest::Client,
    pub(crate) url: String,
    pub(crate) access_token: String,
}

impl Fcm {
    pub(crate) async fn new(services: &PushServices) -> Self {
        Self::over(services, true).await
    }

    pub(crate) async fn over(services: &PushServices, http2: bool) -> Self {
        let http = http(services, http2);
        let reply = grant(&http, services, assertion(services)).await;
        Self {
            http,
            url: format!("{}/v1/projects/{}/messages:send", services.fcm_url(), services.project_id()),
            access_token: reply.body["access_token"].as_str().expect("an access token").to_owned(),
        }
    }

    pub(crate) async fn post(&self, body: impl Into<reqwest::Body>) -> Result<Reply, reqwest::Error> {
        let request = self.http.post(&self.url).bearer_auth(&self.access_token);
        Reply::of(request.header("content-type", "application/json").body(body).send().await?).await
    }

    pub(crate) async fn message(&self, message: Value) -> Reply {
        self.post(json!({ "message": message }).to_string()).await.expect("an answer")
    }
}

/// An answer of FCM or the control API.
#[derive(Debug)]
pub(crate) struct Reply {
    pub(crate) status: u16,
    pub(crate) version: http::Version,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Value,
}

impl Reply {
    pub(crate) async fn of(response: reqwest::Response) -> Result<Self, reqwest::Error> {
        let (status, version) = (response.status().as_u16(), response.version());
        let headers = response.headers().clone();
        let text = response.text().await?;
        Ok(Self {
            status,
            version,
            headers,
            body: serde_json::from_str(&text).unwrap_or(Value::String(text)),
        })
    }

    /// FCM's error code, from the details.
    pub(crate) fn error_code(&self) -> &str {
        self.detail("type.googleapis.com/google.firebase.fcm.v1.FcmError")["errorCode"]
            .as_str()
            .unwrap_or_default()
    }

    /// The first field that was found wrong.
    pub(crate) fn violation(&self) -> (&str, &str) {
        let violation = &self.detail("type.googleapis.com/google.rpc.BadRequest")["fieldViolations"][0];
        (
            violation["field"].as_str().unwrap_or_default(),
            violation["description"].as_str().unwrap_or_default(),
        )
    }

    pub(crate) fn detail(&self, type_url: &str) -> &Value {
        let details = self.body["error"]["details"].as_array();
        details.and_then(|all| all.iter().find(|detail| detail["@type"] == type_url)).unwrap_or(&Value::Null)
    }
}

/// The claims of an assertion that is good now.
pub(crate) fn assertion(services: &PushServices) -> Value {
    let now = services.clock().now().seconds();
    json!({
        "iss": account(services)["client_email"],
        "scope": "https://www.googleapis.com/auth/firebase.messaging",
        "aud": services.token_uri(),
        "iat": now,
        "exp": now + 3600,
    })
}

pub(crate) fn account(services: &PushServices) -> Value {
    serde_json::from_str(&services.service_account_json()).expect("JSON")
}

pub(crate) fn sign_assertion(services: &PushServices, claims: &Value) -> String {
    let account = account(services);
    let mut header = Header::new(Algorithm::RS256);
    header.kid = account["private_key_id"].as_str().map(str::to_owned);
    let key = account["private_key"].as_str().expect("PEM");
    let key = EncodingKey::from_rsa_pem(key.as_bytes()).expect("a key");
    jsonwebtoken::encode(&header, claims, &key).expect("signed")
}

pub(crate) async fn grant(http: &reqwest::Client, services: &PushServices, claims: Value) -> Reply {
    let assertion = sign_assertion(services, &claims);
    let form =
        [("grant_type", "urn:ietf:params:oauth:grant-type:jwt-bearer"), ("assertion", assertion.as_str())];
    let response = http.post(services.token_uri()).form(&form).send().await.expect("an answer");
    Reply::of(response).await.expect("a body")
}

/// The debug data of the GOAWAY frame that a connection ends with: read from the bytes, since h2 gives them to nobody
/// when the end is an orderly one.
pub(crate) async fn goaway_debug_data(services: &PushServices, target: &str) -> Vec<u8> {
    use device_sim::push_services::{Effect, Fault, Place, Reason};

    let fault = Fault::new(Effect::GoAway(Reason::IdleTimeout)).at(Place::Apns).times(1);
    services.faults().arm(fault).expect("room");
    let recorded = Arc::<std::sync::Mutex<Vec<u8>>>::default();
    let tls = tls(services).await;
    let (requests, connection) =
        h2::client::handshake(Recorder { inner: tls, read: Arc::clone(&recorded) }).await.expect("HTTP/2");
    let apns = Apns { requests, connection: tokio::spawn(connection), topic: services.topic().to_owned() };
    apns.send(apns.request(target, &provider_token(services))).await.expect_err("refused");
    apns.ended().await.expect("an orderly end");

    const HEAD: usize = 9;
    const GOAWAY: u8 = 7;
    let bytes = recorded.lock().expect("no panic").clone();
    let mut rest = &bytes[..];
    while rest.len() >= HEAD {
        let length = usize::from(rest[0]) << 16 | usize::from(rest[1]) << 8 | usize::from(rest[2]);
        if rest[3] == GOAWAY {
            // Last stream and error code come first.
            return rest[HEAD + 8..HEAD + length].to_vec();
        }
        rest = &rest[HEAD + length..];
    }
    panic!("no GOAWAY came");
}

/// Keeps what was read.
struct Recorder<S> {
    inner: S,
    read: Arc<std::sync::Mutex<Vec<u8>>>,
}

impl<S: AsyncRead + Unpin> AsyncRead for Recorder<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        let polled = Pin::new(&mut self.inner).poll_read(cx, buf);
        self.read.lock().expect("no panic").extend_from_slice(&buf.filled()[before..]);
        polled
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Recorder<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.inner).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(cx)
    }
}
