//! Connections to a broker, shared by as many callers as there are.

use std::{
    fmt,
    net::IpAddr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use countersign_proto::v1::{
    approvals_client::ApprovalsClient, authenticators_client::AuthenticatorsClient,
    enrolments_client::EnrolmentsClient,
};
use rustls::pki_types::{CertificateDer, pem::PemObject as _};
use tonic::transport::{Certificate, Channel, ClientTlsConfig, Endpoint, Identity};

/// A broker that takes so long to accept a connection is not there.
const CONNECT_MAX: Duration = Duration::from_secs(5);
/// A connection is asked for a sign of life after so much silence, and given up when it gives none for as long.
const KEEP_ALIVE: Duration = Duration::from_secs(10);
/// Replies are small: this much of one connection's may be on its way.
const CONNECTION_WINDOW_BYTES: u32 = 1024 * 1024;

/// A way to one broker: a few HTTP/2 connections, made when they are first needed and again when they break, shared by
/// all who hold a clone.
#[derive(Clone)]
pub struct Transport {
    channels: Arc<[Channel]>,
    next: Arc<AtomicUsize>,
    address: Arc<str>,
}

/// How to reach a broker. See [`Transport::to`].
#[derive(Clone)]
pub struct Builder {
    address: String,
    authorities_pem: Option<String>,
    identity: Option<Identity>,
    connections: usize,
}

/// Why an address, or what is trusted there, cannot be used. It says what to do.
#[derive(Debug, thiserror::Error)]
pub enum AddressError {
    /// Not a URL of scheme, host and port.
    #[error("{0:?} is no broker's address; it looks like https://approve.example.org:8443")]
    Malformed(String),
    /// Plain HTTP to another machine: whoever sits between would read numbers and API keys.
    #[error(
        "{0} is not encrypted and not on this machine; take https (http is good for 127.0.0.1, [::1] and localhost)"
    )]
    NotEncrypted(String),
    /// TLS, and nobody to vouch for the certificate.
    #[error(
        "{0} needs a certificate authority to trust: name its PEM file with --ca-file (this machine's are often in \
         /etc/ssl/certs/ca-certificates.crt)"
    )]
    NoAuthority(String),
    /// The authorities are not PEM.
    #[error("the file of certificate authorities holds no certificate in PEM")]
    NotPem,
    /// The TLS library refused what it was given.
    #[error("TLS cannot be set up: {0}")]
    Tls(tonic::transport::Error),
}

impl Transport {
    /// A way to the broker at `address`: `https://host:port`, or `http://` on this machine.
    pub fn to(address: impl Into<String>) -> Builder {
        Builder { address: address.into(), authorities_pem: None, identity: None, connections: 1 }
    }

    /// Where it leads.
    pub fn address(&self) -> &str {
        &self.address
    }

    /// One of the connections, in turn.
    pub fn channel(&self) -> Channel {
        let at = match self.channels.len() {
            1 => 0,
            connections => self.next.fetch_add(1, Ordering::Relaxed) % connections,
        };
        self.channels[at].clone()
    }

    /// What phones call, as generated: for input that no phone would send.
    pub fn authenticators(&self) -> AuthenticatorsClient<Channel> {
        AuthenticatorsClient::new(self.channel())
    }

    /// What login servers call, without a credential.
    pub fn approvals(&self) -> ApprovalsClient<Channel> {
        ApprovalsClient::new(self.channel())
    }

    /// What enrolling pages call, without a credential.
    pub fn enrolments(&self) -> EnrolmentsClient<Channel> {
        EnrolmentsClient::new(self.channel())
    }
}

impl Builder {
    /// Trusts these certificate authorities, one or more in PEM, and no others.
    #[must_use]
    pub fn trusting(mut self, authorities_pem: impl Into<String>) -> Self {
        self.authorities_pem = Some(authorities_pem.into());
        self
    }

    /// Shows this client certificate (PEM).
    #[must_use]
    pub fn as_client(mut self, certificate_pem: impl AsRef<[u8]>, key_pem: impl AsRef<[u8]>) -> Self {
        self.identity = Some(Identity::from_pem(certificate_pem, key_pem));
        self
    }

    /// Spreads calls over so many connections; 1 if not asked for.
    #[must_use]
    pub fn connections(mut self, connections: usize) -> Self {
        self.connections = connections.max(1);
        self
    }

    /// The way, if its parts can be used. Nothing is connected yet.
    ///
    /// Must be called where a tokio runtime is: the connections' tasks run there.
    pub fn open(self) -> Result<Transport, AddressError> {
        let malformed = || AddressError::Malformed(self.address.clone());
        let address = self.address.trim_end_matches('/').to_owned();
        let endpoint = Endpoint::from_shared(address.clone()).map_err(|_| malformed())?;
        let uri = endpoint.uri();
        let host = uri.host().filter(|host| !host.is_empty()).ok_or_else(malformed)?;
        if uri.path() != "/" || uri.query().is_some() {
            return Err(malformed());
        }
        let is_encrypted = match uri.scheme_str() {
            Some("https") => true,
            Some("http") if is_loopback(host) => false,
            Some("http") => return Err(AddressError::NotEncrypted(address)),
            _ => return Err(malformed()),
        };
        let endpoint = endpoint
            .connect_timeout(CONNECT_MAX)
            .tcp_nodelay(true)
            .http2_keep_alive_interval(KEEP_ALIVE)
            .keep_alive_timeout(KEEP_ALIVE)
            .initial_connection_window_size(CONNECTION_WINDOW_BYTES);
        let endpoint = if is_encrypted {
            let pem = self.authorities_pem.ok_or_else(|| AddressError::NoAuthority(address.clone()))?;
            let found = CertificateDer::pem_slice_iter(pem.as_bytes()).collect::<Result<Vec<_>, _>>();
            if found.is_ok_and(|certificates| certificates.is_empty()) {
                return Err(AddressError::NotPem);
            }
            let mut tls = ClientTlsConfig::new().ca_certificate(Certificate::from_pem(pem));
            if let Some(identity) = self.identity {
                tls = tls.identity(identity);
            }
            endpoint.tls_config(tls).map_err(AddressError::Tls)?
        } else {
            endpoint
        };
        let channels = (0..self.connections).map(|_| endpoint.connect_lazy()).collect();
        Ok(Transport { channels, next: Arc::default(), address: address.into() })
    }
}

fn is_loopback(host: &str) -> bool {
    let bare = host.trim_start_matches('[').trim_end_matches(']');
    bare.eq_ignore_ascii_case("localhost")
        || bare.parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
}

impl fmt::Debug for Transport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Transport")
            .field("address", &self.address)
            .field("connections", &self.channels.len())
            .finish_non_exhaustive()
    }
}

impl fmt::Debug for Builder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Builder")
            .field("address", &self.address)
            .field("connections", &self.connections)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn plain_http_is_for_this_machine_alone() {
        for address in ["http://127.0.0.1:1", "http://[::1]:1", "http://localhost:1/"] {
            assert!(Transport::to(address).open().is_ok(), "{address}");
        }
        for address in ["http://192.0.2.1:1", "http://approve.example.org"] {
            let refused = Transport::to(address).open().expect_err("not encrypted");
            assert!(matches!(refused, AddressError::NotEncrypted(_)), "{address}: {refused}");
        }
    }

    #[tokio::test]
    async fn an_address_is_scheme_host_and_port() {
        for address in ["", "127.0.0.1:1", "ftp://127.0.0.1", "https://", "https://a.example/path?x=1", "a b"]
        {
            let refused = Transport::to(address).trusting("").open().expect_err("malformed");
            assert!(matches!(refused, AddressError::Malformed(_)), "{address}: {refused}");
        }
    }

    #[tokio::test]
    async fn tls_needs_somebody_to_trust() {
        let refused = Transport::to("https://a.example").open().expect_err("nobody vouches");
        assert!(matches!(refused, AddressError::NoAuthority(_)));
        let refused =
            Transport::to("https://a.example").trusting("no PEM at all").open().expect_err("not PEM");
        assert!(matches!(refused, AddressError::NotPem));
    }
}
