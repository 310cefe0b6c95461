//! What is live, and how to find it by something else than its id: enrolments by locator, credentials by
//! certificate. It finds; what it finds is then asked.

use std::{
    collections::{BTreeMap, HashMap},
    sync::{PoisonError, RwLock, RwLockReadGuard},
};

use countersign_domain::{
    ApprovalId, CredentialId, EnrolmentId, RelyingPartyId, Timestamp,
    event::Event as AccountEvent,
    relying_party::{CredentialSecret, Event as RelyingPartyEvent},
};
use serde::{Deserialize, Serialize};
use tokio::sync::watch;

use crate::log::Position;

/// The name of its snapshot in the log.
pub const SNAPSHOT: &str = "index-v1";

/// What is live, and how to find it.
#[derive(Debug, Default)]
pub struct Index {
    contents: RwLock<Contents>,
    /// The number of the newest position that it knows.
    known: watch::Sender<u64>,
}

#[derive(Debug, Default, Clone, PartialEq, Eq)]
struct Contents {
    approvals: BTreeMap<ApprovalId, Timestamp>,
    enrolments: BTreeMap<EnrolmentId, (String, Timestamp)>,
    by_locator: HashMap<String, EnrolmentId>,
    by_certificate: HashMap<[u8; 32], CredentialId>,
    relying_parties: Vec<RelyingPartyId>,
}

/// As it is kept beside the log.
#[derive(Serialize, Deserialize)]
struct Stored {
    approvals: Vec<(String, u64)>,
    enrolments: Vec<(String, String, u64)>,
    certificates: Vec<([u8; 32], String)>,
    relying_parties: Vec<String>,
}

impl Index {
    /// The enrolment whose code has this locator, while it is live.
    pub fn enrolment(&self, locator: &str) -> Option<EnrolmentId> {
        self.read().by_locator.get(locator).copied()
    }

    /// The credential that is this client certificate (by the SHA-256 of its DER), revoked or not.
    pub fn credential(&self, certificate: &[u8; 32]) -> Option<CredentialId> {
        self.read().by_certificate.get(certificate).copied()
    }

    /// Every relying party, oldest first.
    pub fn relying_parties(&self) -> Vec<RelyingPartyId> {
        self.read().relying_parties.clone()
    }

    /// Approvals that wait, and until when.
    pub fn live_approvals(&self) -> Vec<(ApprovalId, Timestamp)> {
        self.read().approvals.iter().map(|(id, expires_at)| (*id, *expires_at)).collect()
    }

    /// Whether an approval waits.
    pub fn is_live(&self, approval: ApprovalId) -> bool {
        self.read().approvals.contains_key(&approval)
    }

    /// How many approvals wait.
    pub fn live_approvals_count(&self) -> usize {
        self.read().approvals.len()
    }

    /// Enrolments that wait, and until when.
    pub fn live_enrolments(&self) -> Vec<(EnrolmentId, Timestamp)> {
        self.read().enrolments.iter().map(|(id, (_, expires_at))| (*id, *expires_at)).collect()
    }

    /// Waits until it knows the entry at this position: whoever is answered after that finds what he has made. It is made
    /// by the follower, which comes after the append has been acknowledged.
    pub async fn knows(&self, position: Option<Position>) {
        let number = position.map_or(0, Position::number);
        // Its sender is this index's own, and cannot be gone.
        let _ = self.known.subscribe().wait_for(|known| *known >= number).await;
    }

    pub(super) fn know(&self, position: Position) {
        self.known.send_replace(position.number());
    }

    pub(super) fn account_event(&self, event: &AccountEvent) {
        let mut contents = self.contents.write().unwrap_or_else(PoisonError::into_inner);
        match event {
            AccountEvent::EnrolmentBegun(begun) => {
                let locator = begun.code.locator().to_owned();
                contents.by_locator.insert(locator.clone(), begun.enrolment);
                contents.enrolments.insert(begun.enrolment, (locator, begun.expires_at));
            }
            AccountEvent::EnrolmentEnded { enrolment, .. }
            | AccountEvent::AuthenticatorActivated { enrolment, .. } => {
                if let Some((locator, _)) = contents.enrolments.remove(enrolment) {
                    contents.by_locator.remove(&locator);
                }
            }
            AccountEvent::ApprovalRequested(requested) => {
                contents.approvals.insert(requested.request.approval, requested.expires_at);
            }
            AccountEvent::ApprovalApproved { approval, .. }
            | AccountEvent::ApprovalDenied { approval, .. }
            | AccountEvent::NumberWrong { approval, .. }
            | AccountEvent::ApprovalExpired { approval }
            | AccountEvent::ApprovalCancelled { approval, .. }
            | AccountEvent::ApprovalSuperseded { approval, .. } => {
                contents.approvals.remove(approval);
            }
            _ => {}
        }
    }

    pub(super) fn relying_party_event(&self, event: &RelyingPartyEvent) {
        let mut contents = self.contents.write().unwrap_or_else(PoisonError::into_inner);
        match event {
            RelyingPartyEvent::Registered { id, .. } => contents.relying_parties.push(*id),
            RelyingPartyEvent::CredentialIssued {
                id,
                secret: CredentialSecret::ClientCertificate(hash),
                ..
            } => {
                contents.by_certificate.insert(*hash, *id);
            }
            _ => {}
        }
    }

    /// To keep beside the log.
    pub(super) fn to_bytes(&self) -> Vec<u8> {
        let contents = self.read();
        let stored = Stored {
            approvals: contents.approvals.iter().map(|(id, at)| (id.to_string(), at.as_millis())).collect(),
            enrolments: contents
                .enrolments
                .iter()
                .map(|(id, (locator, at))| (id.to_string(), locator.clone(), at.as_millis()))
                .collect(),
            certificates: contents.by_certificate.iter().map(|(hash, id)| (*hash, id.to_string())).collect(),
            relying_parties: contents.relying_parties.iter().map(ToString::to_string).collect(),
        };
        serde_json::to_vec(&stored).expect("strings and numbers make JSON")
    }

    /// As it was kept; none if it cannot be read, which costs a fold from the beginning.
    pub(super) fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let stored: Stored = serde_json::from_slice(bytes).ok()?;
        let mut contents = Contents::default();
        for (id, at) in stored.approvals {
            contents.approvals.insert(id.parse().ok()?, Timestamp::from_millis(at));
        }
        for (id, locator, at) in stored.enrolments {
            let id = id.parse().ok()?;
            contents.by_locator.insert(locator.clone(), id);
            contents.enrolments.insert(id, (locator, Timestamp::from_millis(at)));
        }
        for (hash, id) in stored.certificates {
            contents.by_certificate.insert(hash, id.parse().ok()?);
        }
        for id in stored.relying_parties {
            contents.relying_parties.push(id.parse().ok()?);
        }
        Some(Self { contents: RwLock::new(contents), known: watch::Sender::default() })
    }

    fn read(&self) -> RwLockReadGuard<'_, Contents> {
        self.contents.read().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use countersign_domain::AccountId;
    use countersign_envelope::EnrolmentCode;

    use super::*;

    #[tokio::test]
    async fn who_waits_for_what_he_has_made_goes_on_when_it_is_known() {
        let index = std::sync::Arc::new(Index::default());
        index.knows(None).await;
        let waiting = tokio::spawn({
            let index = std::sync::Arc::clone(&index);
            async move { index.knows(Position::new(2)).await }
        });
        index.know(Position::FIRST);
        tokio::task::yield_now().await;
        assert!(!waiting.is_finished());
        index.know(Position::FIRST.next());
        waiting.await.unwrap();
        index.knows(Some(Position::FIRST)).await;
    }

    #[test]
    fn a_snapshot_is_read_as_it_was_kept() {
        let index = Index::default();
        let account = AccountId::from_bytes([1; 16]);
        let code = EnrolmentCode::from_random(&[5; 12]);
        let enrolment = EnrolmentId::new(account, [2; 8]);
        index.account_event(&AccountEvent::EnrolmentBegun(countersign_domain::event::EnrolmentBegun {
            enrolment,
            code: code.clone(),
            expires_at: Timestamp::from_millis(7),
            relying_party: RelyingPartyId::from_bytes([3; 16]),
        }));
        let kept = Index::from_bytes(&index.to_bytes()).unwrap();
        assert_eq!(*kept.read(), *index.read());
        assert_eq!(kept.enrolment(code.locator()), Some(enrolment));
        kept.account_event(&AccountEvent::EnrolmentEnded {
            enrolment,
            reason: countersign_domain::event::EnrolmentEnd::Expired,
            answer_hash: None,
        });
        assert_eq!(kept.enrolment(code.locator()), None);
    }
}
