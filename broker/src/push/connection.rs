//! One connection to a service over HTTPS: a reqwest client each, since a client keeps one HTTP/2 connection to a
//! host. One that has gone silent is left, and the next request opens a new one.

use std::{
    error::Error as _,
    path::{Path, PathBuf},
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use bytes::Bytes;
use reqwest::{Certificate, Client, Method, Request, Response, Url, header::HeaderMap};

use super::{
    Error,
    settings::{SetupError, read_ca_file},
};
use crate::telemetry::metrics;

/// Longer to connect than this is a failed attempt.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// A connection is asked for a sign of life so often, used or not: Apple wants connections kept open, and a broken
/// one should be found before a push is.
const PING_INTERVAL: Duration = Duration::from_secs(30);
/// No sign of life within this time: the connection is closed.
const PING_TIMEOUT: Duration = Duration::from_secs(10);
/// What push services answer is a few hundred bytes.
const BODY_BYTES_MAX: usize = 16 * 1024;
/// Causes are for logs and events: longer ones are cut.
const CAUSE_BYTES_MAX: usize = 160;

/// What all connections to a service have in common.
#[derive(Debug, Clone)]
pub(super) struct Recipe {
    protocol: Protocol,
    trusted: Option<Trusted>,
}

/// The only authorities to trust, and where they were read.
#[derive(Debug, Clone)]
struct Trusted {
    file: PathBuf,
    certificates: Vec<Certificate>,
}

/// Which HTTP is spoken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Protocol {
    /// HTTP/2 and nothing else: TLS offers `h2` alone.
    Http2,
    /// HTTP/2 if the server has it, else HTTP/1.1.
    Any,
}

impl Recipe {
    /// Trusts the authorities in `ca_file` alone; without it, those of the operating system. The other choice would
    /// be Mozilla's list compiled in: nobody could then add or withdraw an authority without a new release, and
    /// reqwest's platform verifier comes with `rustls-no-provider` anyway.
    pub(super) fn new(protocol: Protocol, ca_file: Option<&Path>) -> Result<Self, SetupError> {
        if rustls::crypto::CryptoProvider::get_default().is_none() {
            // Does nothing if somebody else was faster; without any, reqwest panics.
            let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
        }
        let read = |file: &Path| {
            Ok::<_, SetupError>(Trusted { file: file.to_owned(), certificates: read_ca_file(file)? })
        };
        Ok(Self { protocol, trusted: ca_file.map(read).transpose()? })
    }

    /// A client without a connection: the first request opens it.
    pub(super) fn client(&self) -> Result<Client, SetupError> {
        let mut builder = Client::builder()
            .user_agent(concat!("countersign/", env!("CARGO_PKG_VERSION")))
            .https_only(true)
            .redirect(reqwest::redirect::Policy::none())
            .connect_timeout(CONNECT_TIMEOUT)
            .pool_idle_timeout(None)
            .http2_keep_alive_interval(PING_INTERVAL)
            .http2_keep_alive_timeout(PING_TIMEOUT)
            .http2_keep_alive_while_idle(true);
        if self.protocol == Protocol::Http2 {
            builder = builder.http2_prior_knowledge();
        }
        if let Some(trusted) = &self.trusted {
            builder = builder.tls_certs_only(trusted.certificates.iter().cloned());
        }
        builder.build().map_err(|error| match (describe(error), &self.trusted) {
            (reason, Some(trusted)) => SetupError::unusable(&trusted.file, reason),
            (reason, None) => SetupError::Tls { reason },
        })
    }
}

/// A connection.
#[derive(Debug)]
pub(super) struct Connection {
    recipe: Recipe,
    current: Mutex<Current>,
}

#[derive(Debug)]
struct Current {
    client: Client,
    /// Counts clients, so that all requests that wait on a silent one replace it once.
    generation: u64,
    silent: bool,
}

/// No answer: what happened, in words without address, header or body.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Unanswered(pub(super) String);

impl From<Unanswered> for Error {
    fn from(Unanswered(reason): Unanswered) -> Self {
        Self::Unreachable { reason }
    }
}

impl Connection {
    pub(super) fn new(recipe: &Recipe) -> Result<Self, SetupError> {
        let client = recipe.client()?;
        let current = Current { client, generation: 0, silent: false };
        Ok(Self { recipe: recipe.clone(), current: Mutex::new(current) })
    }

    /// Sends a POST and waits for the head of the answer.
    ///
    /// reqwest sends a request again by itself if the server said that it never looked at it (a refused stream, a
    /// graceful GOAWAY), and only then. Dropping the future before the answer means that the connection is silent:
    /// the next request opens another.
    pub(super) async fn post(
        &self,
        url: Url,
        headers: HeaderMap,
        body: Bytes,
    ) -> Result<Response, Unanswered> {
        let (client, generation) = self.client();
        let mut request = Request::new(Method::POST, url);
        *request.headers_mut() = headers;
        *request.body_mut() = Some(body.into());
        let mut patience = Patience { connection: self, generation, over: false };
        let answer = client.execute(request).await;
        patience.over = true;
        answer.map_err(unanswered)
    }

    /// The client to use, and which it is. One that has gone silent is replaced; requests that still wait on it go
    /// on doing so.
    fn client(&self) -> (Client, u64) {
        let mut current = self.lock();
        if current.silent {
            match self.recipe.client() {
                Ok(client) => {
                    tracing::debug!("a push connection has gone silent, or is left: opening another");
                    metrics().push.connections_left.count(());
                    let generation = current.generation + 1;
                    *current = Current { client, generation, silent: false };
                }
                // What worked at the start fails now (the system's certificates are gone, say): better the old one.
                Err(error) => tracing::warn!(%error, "no new push connection"),
            }
        }
        (current.client.clone(), current.generation)
    }

    /// The next request opens another connection; requests that are under way go on.
    pub(super) fn leave(&self) {
        self.lock().silent = true;
    }

    fn lock(&self) -> MutexGuard<'_, Current> {
        self.current.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Notices that somebody stopped waiting.
struct Patience<'a> {
    connection: &'a Connection,
    generation: u64,
    over: bool,
}

impl Drop for Patience<'_> {
    fn drop(&mut self) {
        if !self.over {
            let mut current = self.connection.lock();
            if current.generation == self.generation {
                current.silent = true;
            }
        }
    }
}

/// The body of an answer, as far as it is of a sensible length.
pub(super) async fn body(mut response: Response) -> Result<Vec<u8>, Unanswered> {
    let mut bytes = Vec::new();
    while let Some(chunk) = response.chunk().await.map_err(unanswered)? {
        if bytes.len() + chunk.len() > BODY_BYTES_MAX {
            break;
        }
        bytes.extend_from_slice(&chunk);
    }
    Ok(bytes)
}

/// What happened, and its innermost cause. Without the address: APNs' contains the device token.
pub(super) fn unanswered(error: reqwest::Error) -> Unanswered {
    Unanswered(describe(error))
}

fn describe(error: reqwest::Error) -> String {
    let error = error.without_url();
    let what = if error.is_connect() {
        "cannot connect"
    } else if error.is_timeout() {
        "timed out"
    } else if error.is_builder() {
        "cannot be used"
    } else {
        "the connection broke"
    };
    let mut cause = error.source();
    while let Some(deeper) = cause.and_then(std::error::Error::source) {
        cause = Some(deeper);
    }
    match cause {
        Some(cause) => format!("{what}: {}", printable(&cause.to_string(), CAUSE_BYTES_MAX)),
        None => what.to_owned(),
    }
}

/// At most `bytes_max` bytes of what somebody else wrote, fit for a log line.
pub(super) fn printable(text: &str, bytes_max: usize) -> String {
    text.chars()
        .take(bytes_max)
        .map(|letter| if letter == ' ' || letter.is_ascii_graphic() { letter } else { '?' })
        .collect()
}
