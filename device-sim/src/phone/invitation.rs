//! How a phone learns where to enrol: a scanned QR code's URI, or an address and a code that a person typed.

use std::{fmt, sync::Arc};

use countersign_envelope::{
    Algorithm, EnrolmentCode, EnrolmentUri, PublicKey,
    enrolment_code::{InvalidCode, InvalidUri},
};
use countersign_proto::v1;

use crate::wire::{Refusal, Transport};

/// A broker as a phone knows it: learnt at enrolment, never changed by anything that is not signed.
#[derive(Clone, PartialEq, Eq)]
pub struct Broker {
    id: Box<str>,
    address: Box<str>,
    key: PublicKey,
    fingerprint: Box<str>,
}

impl Broker {
    /// The broker of these parts.
    pub fn new(id: &str, address: &str, key: PublicKey) -> Self {
        let fingerprint = key.fingerprint().into();
        Self { id: id.into(), address: address.into(), key, fingerprint }
    }

    /// Its id, which stands in everything that is signed.
    pub fn id(&self) -> &str {
        &self.id
    }

    /// Where it is.
    pub fn address(&self) -> &str {
        &self.address
    }

    /// The key that signs what it says.
    pub fn key(&self) -> &PublicKey {
        &self.key
    }

    /// The key's fingerprint.
    pub fn fingerprint(&self) -> &str {
        &self.fingerprint
    }
}

impl fmt::Debug for Broker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Broker({} at {})", self.id, self.address)
    }
}

/// What a person scanned or typed. It holds the code's secret, and prints without it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Invitation {
    /// The QR code's URI: it says which key the broker must have.
    Scanned(EnrolmentUri),
    /// Address and code: the TLS certificate of the address vouches for the broker's key.
    Typed {
        /// The broker's address.
        address: String,
        /// The code.
        code: EnrolmentCode,
    },
}

/// Why the broker at the address is not believed.
#[derive(Debug, thiserror::Error)]
pub enum NotTheBroker {
    /// It did not describe itself.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// It described itself by what is no Ed25519 key.
    #[error("what answers at the address gives no usable Ed25519 key: it is no Countersign broker")]
    Key,
    /// Another broker than the QR code is from.
    #[error(
        "what answers at the address is not the broker of the QR code: its key is {found}, the QR code says {expected}; \
         enrol nothing, and tell whoever runs the broker"
    )]
    Fingerprint {
        /// What the QR code says.
        expected: String,
        /// What the address gave.
        found: String,
    },
}

impl Invitation {
    /// Reads what a QR code holds.
    pub fn scanned(uri: &str) -> Result<Self, InvalidUri> {
        uri.parse().map(Self::Scanned)
    }

    /// Reads what a person typed.
    pub fn typed(address: impl Into<String>, code: &str) -> Result<Self, InvalidCode> {
        Ok(Self::Typed { address: address.into(), code: code.parse()? })
    }

    /// Where the broker is.
    pub fn address(&self) -> &str {
        match self {
            Self::Scanned(uri) => &uri.address,
            Self::Typed { address, .. } => address,
        }
    }

    /// The code.
    pub fn code(&self) -> &EnrolmentCode {
        match self {
            Self::Scanned(uri) => &uri.code,
            Self::Typed { code, .. } => code,
        }
    }

    /// Asks the broker who it is, and checks that against the QR code.
    pub async fn broker(&self, transport: &Transport) -> Result<Arc<Broker>, NotTheBroker> {
        let request = v1::DescribeBrokerRequest {};
        let reply =
            transport.authenticators().describe_broker(request).await.map_err(Refusal::from)?.into_inner();
        let key = broker_key(reply.broker_key.as_ref()).ok_or(NotTheBroker::Key)?;
        let broker = Broker::new(&reply.broker_id, self.address(), key);
        match self {
            Self::Scanned(uri) if uri.broker_fingerprint != *broker.fingerprint => {
                Err(NotTheBroker::Fingerprint {
                    expected: uri.broker_fingerprint.clone(),
                    found: broker.fingerprint.into(),
                })
            }
            Self::Scanned(_) | Self::Typed { .. } => Ok(Arc::new(broker)),
        }
    }
}

/// A broker's key in a message: Ed25519 and nothing else.
pub(super) fn broker_key(key: Option<&v1::PublicKey>) -> Option<PublicKey> {
    let key = key.filter(|key| key.algorithm() == v1::SignatureAlgorithm::Ed25519)?;
    PublicKey::parse(Algorithm::Ed25519, &key.key).ok()
}
