//! Events of relying parties. Nothing in them is personal.

use countersign_domain::{
    CredentialId, RelyingParty, RelyingPartyId,
    relying_party::{CredentialSecret, Event, Scope},
    text::{DisplayText, Realm},
};
use countersign_proto::event::v1::{self as stored, EventType, credential_issued::Secret};

use super::{Codec, Error, body, kind_of, record, unknown};
use crate::log::{EventRecord, StreamId, StreamKind};

/// Reads and writes events of relying parties.
#[derive(Debug, Clone, Copy, Default)]
pub struct RelyingPartyCodec;

impl Codec for RelyingPartyCodec {
    type Aggregate = RelyingParty;
    type Id = RelyingPartyId;

    fn stream(&self, id: RelyingPartyId) -> StreamId {
        StreamId::new(StreamKind::RelyingParty, *id.as_bytes())
    }

    fn id(&self, stream: StreamId) -> RelyingPartyId {
        RelyingPartyId::from_bytes(stream.id())
    }

    fn encode(&self, _: RelyingPartyId, event: &Event) -> EventRecord {
        match event {
            Event::Registered { id, name, applications, realm } => record(
                EventType::RelyingPartyRegistered,
                &stored::RelyingPartyRegistered {
                    relying_party: id.as_bytes().to_vec().into(),
                    name: name.to_string(),
                    applications: applications.iter().map(ToString::to_string).collect(),
                    realm: realm.to_string(),
                },
            ),
            Event::CredentialIssued { id, scope, secret } => record(
                EventType::CredentialIssued,
                &stored::CredentialIssued {
                    credential: id.as_bytes().to_vec().into(),
                    scope: match scope {
                        Scope::SignIn => stored::CredentialScope::SignIn,
                        Scope::Enrolment => stored::CredentialScope::Enrolment,
                    }
                    .into(),
                    secret: Some(match secret {
                        CredentialSecret::ApiKey(hash) => Secret::ApiKeyHash(hash.to_vec().into()),
                        CredentialSecret::ClientCertificate(hash) => {
                            Secret::CertificateHash(hash.to_vec().into())
                        }
                    }),
                },
            ),
            Event::CredentialRevoked(id) => record(
                EventType::CredentialRevoked,
                &stored::CredentialRevoked { credential: id.as_bytes().to_vec().into() },
            ),
        }
    }

    fn decode(&self, _: RelyingPartyId, record: &EventRecord) -> Result<Option<Event>, Error> {
        let Some(kind) = kind_of(record)? else { return Ok(None) };
        let malformed = |what| Error::Malformed { kind, what };
        let credential = |bytes: &[u8]| {
            CredentialId::from_slice(bytes).map_err(|_| malformed("credential is no credential id"))
        };
        Ok(Some(match kind {
            EventType::RelyingPartyRegistered => {
                let event: stored::RelyingPartyRegistered = body(kind, &record.body)?;
                Event::Registered {
                    id: RelyingPartyId::from_slice(&event.relying_party)
                        .map_err(|_| malformed("relying_party is no relying party id"))?,
                    name: DisplayText::recorded(&event.name),
                    applications: event.applications.iter().map(|name| DisplayText::recorded(name)).collect(),
                    realm: Realm::recorded(&event.realm),
                }
            }
            EventType::CredentialIssued => {
                let event: stored::CredentialIssued = body(kind, &record.body)?;
                Event::CredentialIssued {
                    id: credential(&event.credential)?,
                    scope: match event.scope() {
                        stored::CredentialScope::SignIn => Scope::SignIn,
                        stored::CredentialScope::Enrolment => Scope::Enrolment,
                        stored::CredentialScope::Unspecified => return Err(malformed("scope is unknown")),
                    },
                    secret: match &event.secret {
                        Some(Secret::ApiKeyHash(hash)) => CredentialSecret::ApiKey(
                            (&**hash).try_into().map_err(|_| malformed("api_key_hash is not 32 bytes"))?,
                        ),
                        Some(Secret::CertificateHash(hash)) => CredentialSecret::ClientCertificate(
                            (&**hash)
                                .try_into()
                                .map_err(|_| malformed("certificate_hash is not 32 bytes"))?,
                        ),
                        None => return Err(malformed("secret is missing")),
                    },
                }
            }
            EventType::CredentialRevoked => {
                let event: stored::CredentialRevoked = body(kind, &record.body)?;
                Event::CredentialRevoked(credential(&event.credential)?)
            }
            _ => return Err(unknown(record)),
        }))
    }
}
