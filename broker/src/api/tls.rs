//! TLS that can change while the broker runs (`live`): certificate, key and authorities of clients.
//!
//! Connections that are open go on with what they began with; the next ones get what was read last. Sessions are
//! resumed only with what they were begun with, so that whoever an authority was withdrawn from cannot come back by
//! one.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

use rustls::{
    RootCertStore, ServerConfig,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
    server::{WebPkiClientVerifier, danger::ClientCertVerifier},
};
use tokio_rustls::TlsAcceptor;

use super::listen::Error;
use crate::{
    key_file,
    live::{self, Fingerprint, Live, Source},
    telemetry::metrics::{labels::Listener, metrics},
};

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

/// The TLS of one listener, as it was read last: for a connection that begins.
pub type LiveTls = Live<TlsFiles>;

/// The files of one listener.
#[derive(Debug)]
pub struct TlsFiles {
    section: &'static str,
    files: Tls,
}

impl TlsFiles {
    /// Those that `[section]` of the configuration names.
    pub fn new(section: &'static str, files: Tls) -> Self {
        Self { section, files }
    }
}

impl Source for TlsFiles {
    type Made = TlsAcceptor;
    type Error = Error;

    fn section(&self) -> &'static str {
        self.section
    }

    fn fingerprint(&self) -> Fingerprint {
        let Tls { certificate_file, key_file, client_ca_file, client_certificate_required: _ } = &self.files;
        let named = [Some(certificate_file), Some(key_file), client_ca_file.as_ref()];
        live::fingerprint(named.into_iter().flatten().map(PathBuf::as_path), "")
    }

    fn read(&self) -> Result<TlsAcceptor, Error> {
        let (acceptor, expires_s) = acceptor(&self.files)?;
        tell_expiry(&self.files, expires_s);
        Ok(acceptor)
    }
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
    // No more of it than a file of certificates can have: it is read again while the broker runs.
    let (pem, _) = key_file::read_any(path)?;
    let read: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&pem).collect();
    let certificates = read.map_err(|error| bad(path, format!("cannot be read as PEM: {error}")))?;
    if certificates.is_empty() { Err(bad(path, "holds no certificate".to_owned())) } else { Ok(certificates) }
}

fn bad(path: &Path, problem: String) -> Error {
    Error::Tls { path: path.to_owned(), problem }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_of_certificates_without_an_end_is_refused() {
        let error = certificates(Path::new("/dev/zero")).unwrap_err();
        assert!(error.to_string().contains("/dev/zero: is longer than"), "{error}");
    }
}
