//! TLS that can change while the broker runs: certificate, key and authorities of clients are read again when they
//! have changed, or when an operator asks. What cannot be used changes nothing.
//!
//! Connections that are open go on with what they began with; the next ones get what was read last. Sessions are
//! resumed only with what they were begun with, so that whoever an authority was withdrawn from cannot come back by
//! one.

use std::{
    fs,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError, RwLock},
    time::Duration,
};

use countersign_envelope::sha256;
use rustls::{
    RootCertStore, ServerConfig,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
    server::{WebPkiClientVerifier, danger::ClientCertVerifier},
};
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;
use zeroize::Zeroizing;

use super::listen::Error;
use crate::{
    key_file,
    telemetry::metrics::{labels::Listener, metrics},
};

/// Files are looked at so often. They are a few kilobytes, and whoever renews a certificate does so days ahead.
const LOOK_EVERY: Duration = Duration::from_secs(10);

/// Where TLS gets its certificate, and whose clients' certificates it takes.
#[derive(Debug, Clone)]
pub struct Tls {
    /// The certificate chain (PEM).
    pub certificate_file: PathBuf,
    /// Its private key (PEM).
    pub key_file: PathBuf,
    /// Authorities of client certificates (PEM); none are asked for without.
    pub client_ca_file: Option<PathBuf>,
    /// Nobody is let in without a client certificate.
    pub client_certificate_required: bool,
}

/// The TLS of one listener, as it was read last.
pub struct LiveTls {
    section: &'static str,
    files: Tls,
    current: RwLock<TlsAcceptor>,
    last: Mutex<Last>,
}

/// How the files were seen last. Held while they are read; nobody who connects waits for that.
struct Last {
    seen: Fingerprint,
    /// Why what was seen is not what is in use.
    problem: Option<String>,
}

/// SHA-256 over what the files hold.
type Fingerprint = [u8; 32];

/// What came of reading a listener's files again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reloaded {
    /// They hold what they held.
    Unchanged,
    /// New connections get what they hold now.
    Changed,
    /// They cannot be used. New connections get what was read before.
    Kept {
        /// Which file, and what is wrong with it.
        problem: String,
    },
}

impl LiveTls {
    /// Reads the files that `[section]` of the configuration names.
    pub fn read(section: &'static str, files: Tls) -> Result<Self, Error> {
        // Before they are read: what changes in between is seen by the next look.
        let seen = fingerprint(&files);
        let (acceptor, expires_s) = acceptor(&files)?;
        tell_expiry(&files, expires_s);
        let last = Mutex::new(Last { seen, problem: None });
        Ok(Self { section, files, current: RwLock::new(acceptor), last })
    }

    /// The section of the configuration that names the files.
    pub fn section(&self) -> &'static str {
        self.section
    }

    /// For a connection that begins now.
    pub fn acceptor(&self) -> TlsAcceptor {
        self.current.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Reads the files again, if they hold something else than when they were read last, and says so in the log.
    pub fn reload(&self) -> Reloaded {
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        let seen = fingerprint(&self.files);
        if last.seen == seen {
            return match &last.problem {
                None => Reloaded::Unchanged,
                Some(problem) => Reloaded::Kept { problem: problem.clone() },
            };
        }
        let read = acceptor(&self.files);
        *last = Last { seen, problem: read.as_ref().err().map(ToString::to_string) };
        match read {
            Ok((acceptor, expires_s)) => {
                tell_expiry(&self.files, expires_s);
                *self.current.write().unwrap_or_else(PoisonError::into_inner) = acceptor;
                tracing::info!(
                    section = self.section,
                    certificate_file = %self.files.certificate_file.display(),
                    "TLS was read again: new connections get it"
                );
                Reloaded::Changed
            }
            Err(error) => {
                let problem = error.to_string();
                tracing::warn!(
                    section = self.section,
                    problem,
                    "TLS has changed and cannot be used: new connections get what was read before"
                );
                Reloaded::Kept { problem }
            }
        }
    }
}

impl std::fmt::Debug for LiveTls {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("LiveTls")
            .field("section", &self.section)
            .field("files", &self.files)
            .finish_non_exhaustive()
    }
}

/// The TLS of all listeners.
#[derive(Debug, Clone, Default)]
pub struct AllTls(Arc<[Arc<LiveTls>]>);

impl AllTls {
    /// Of these.
    pub fn new(listeners: impl IntoIterator<Item = Arc<LiveTls>>) -> Self {
        Self(listeners.into_iter().collect())
    }

    /// Reads what has changed: each section of the configuration, and what came of it.
    pub async fn reload(&self) -> Vec<(&'static str, Reloaded)> {
        let listeners = Arc::clone(&self.0);
        // Files may be on a volume that takes its time.
        let read = tokio::task::spawn_blocking(move || {
            listeners.iter().map(|listener| (listener.section(), listener.reload())).collect()
        });
        read.await.unwrap_or_default()
    }

    /// Reads what has changed whenever something has, until told to stop.
    pub async fn watch(self, stopping: CancellationToken) {
        while !self.0.is_empty() {
            tokio::select! {
                () = tokio::time::sleep(LOOK_EVERY) => {}
                () = stopping.cancelled() => return,
            }
            self.reload().await;
        }
    }
}

/// What the files hold now; what cannot be read is something, too.
fn fingerprint(files: &Tls) -> Fingerprint {
    let Tls { certificate_file, key_file, client_ca_file, client_certificate_required: _ } = files;
    let named = [Some(certificate_file), Some(key_file), client_ca_file.as_ref()];
    let mut all = Zeroizing::new(Vec::new());
    for file in named.into_iter().flatten() {
        let held = match key_file::read_any(file) {
            // Its mode is part of whether it can be used.
            Ok((bytes, mode)) => {
                let bytes = Zeroizing::new(bytes);
                all.extend_from_slice(&mode.to_be_bytes());
                sha256(&bytes)
            }
            Err(error) => sha256(error.to_string().as_bytes()),
        };
        all.extend_from_slice(&held);
    }
    sha256(&all)
}

/// Whoever watches the broker sees when the certificate that is in use expires.
fn tell_expiry(files: &Tls, expires_s: i64) {
    let listener = if files.client_certificate_required { Listener::Admin } else { Listener::Public };
    metrics().calls.certificate_expires.set(listener, u64::try_from(expires_s).unwrap_or(0));
}

/// TLS as the files have it, and when its certificate expires, in seconds since 1970.
fn acceptor(tls: &Tls) -> Result<(TlsAcceptor, i64), Error> {
    let certificates = certificates(&tls.certificate_file)?;
    // rustls takes one that it cannot read, too: nobody can tell then when it expires.
    let expires = certificates.first().and_then(|own| x509_parser::parse_x509_certificate(own).ok());
    let expires_s = expires.map_or(0, |(_, own)| own.validity().not_after.timestamp());
    let key = key_file::read(&tls.key_file)?;
    let key = PrivateKeyDer::from_pem_slice(&key)
        .map_err(|error| bad(&tls.key_file, format!("holds no private key in PEM: {error}")))?;
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let builder = ServerConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()
        .map_err(|error| bad(&tls.certificate_file, error.to_string()))?;
    let builder = match &tls.client_ca_file {
        None => builder.with_no_client_auth(),
        Some(path) => builder.with_client_cert_verifier(client_verifier(path, tls, provider)?),
    };
    let mut config = builder.with_single_cert(certificates, key).map_err(|error| {
        bad(&tls.certificate_file, format!("does not go with {}: {error}", tls.key_file.display()))
    })?;
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok((TlsAcceptor::from(Arc::new(config)), expires_s))
}

fn client_verifier(
    path: &Path,
    tls: &Tls,
    provider: Arc<rustls::crypto::CryptoProvider>,
) -> Result<Arc<dyn ClientCertVerifier>, Error> {
    let mut roots = RootCertStore::empty();
    for certificate in certificates(path)? {
        roots.add(certificate).map_err(|error| bad(path, error.to_string()))?;
    }
    let mut verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider);
    if !tls.client_certificate_required {
        verifier = verifier.allow_unauthenticated();
    }
    verifier.build().map_err(|error| bad(path, error.to_string()))
}

/// All certificates of a file in PEM; at least one.
pub fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, Error> {
    let pem = fs::read(path).map_err(|error| bad(path, format!("cannot be read: {error}")))?;
    let read: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&pem).collect();
    let certificates = read.map_err(|error| bad(path, format!("cannot be read as PEM: {error}")))?;
    if certificates.is_empty() { Err(bad(path, "holds no certificate".to_owned())) } else { Ok(certificates) }
}

fn bad(path: &Path, problem: String) -> Error {
    Error::Tls { path: path.to_owned(), problem }
}
