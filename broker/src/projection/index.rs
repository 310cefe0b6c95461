//! What is live, and how to find it by something else than its id: enrolments by locator, credentials by
//! certificate. It finds; what it finds is then asked.

use std::{
    collections::{BTreeMap, HashMap, VecDeque},
    sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard},
    time::Duration,
};

use countersign_domain::{
    ApprovalId, AuthenticatorId, CredentialId, EnrolmentId, RelyingPartyId, Timestamp,
    event::Event as AccountEvent,
    relying_party::{CredentialSecret, Event as RelyingPartyEvent},
};
use serde::{Deserialize, Serialize};
use tokio::sync::watch;

use super::Places;
use crate::log::Position;

/// The name of its snapshot in the log.
pub const SNAPSHOT: &str = "index-v2";

/// What a phone shows of an approval that has ended is replaced within this time, or not at all.
pub const REPLACED_WITHIN: Duration = Duration::from_secs(10 * 60);

/// What is live, and how to find it.
#[derive(Debug, Default)]
pub struct Index {
    contents: RwLock<Contents>,
    /// What its live approvals take, and those that are about to be.
    places: Arc<Places>,
    /// The number of the newest position that it knows.
    known: watch::Sender<u64>,
}

/// What it knows.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub(super) struct Contents {
    approvals: BTreeMap<ApprovalId, Live>,
    ended: HashMap<ApprovalId, Ended>,
    /// Those of `ended`, and some that are not there any more, in the order in which they ended.
    ended_in_order: VecDeque<(Timestamp, ApprovalId)>,
    enrolments: BTreeMap<EnrolmentId, (String, Timestamp)>,
    by_locator: HashMap<String, EnrolmentId>,
    by_certificate: HashMap<[u8; 32], CredentialId>,
    relying_parties: Vec<RelyingPartyId>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Live {
    relying_party: RelyingPartyId,
    expires_at: Timestamp,
    /// On which phones it is shown: those whose push was accepted.
    shown: Vec<AuthenticatorId>,
}

/// An approval that ended lately, and that phones may still show.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Ended {
    relying_party: RelyingPartyId,
    at: Timestamp,
    /// The phone that ended it. It knows.
    by: Option<AuthenticatorId>,
    shown: Vec<(AuthenticatorId, Shown)>,
}

/// How far a phone has come that shows an approval that has ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Shown {
    /// Its replacement is not under way.
    Still,
    /// It is.
    Replacing,
    /// Nothing more is to be done. Kept as long as the others: that its push was accepted may still be on its way
    /// through the log.
    Replaced,
}

/// What must be replaced on phones.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Replacing {
    /// From then on it need not be.
    pub until: Timestamp,
    /// On which phones.
    pub phones: Vec<AuthenticatorId>,
}

/// As it is kept beside the log.
#[derive(Serialize, Deserialize)]
struct Stored {
    approvals: Vec<StoredApproval>,
    ended: Vec<StoredApproval>,
    enrolments: Vec<(String, String, u64)>,
    certificates: Vec<([u8; 32], String)>,
    relying_parties: Vec<String>,
}

#[derive(Serialize, Deserialize)]
struct StoredApproval {
    id: String,
    relying_party: String,
    /// When it expires, or ended.
    at: u64,
    by: Option<String>,
    shown: Vec<String>,
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
        self.read().approvals.iter().map(|(id, live)| (*id, live.expires_at)).collect()
    }

    /// Whether an approval waits.
    pub fn is_live(&self, approval: ApprovalId) -> bool {
        self.read().approvals.contains_key(&approval)
    }

    /// Who asked for an approval that waits, or that has just ended.
    pub(super) fn relying_party(&self, approval: ApprovalId) -> Option<RelyingPartyId> {
        let contents = self.read();
        let live = contents.approvals.get(&approval).map(|live| live.relying_party);
        live.or_else(|| contents.ended.get(&approval).map(|ended| ended.relying_party))
    }

    /// A push service has taken the challenge: the phone shows it. Whether the approval waits.
    pub fn shows(&self, approval: ApprovalId, phone: AuthenticatorId) -> bool {
        let mut contents = self.write();
        if let Some(live) = contents.approvals.get_mut(&approval) {
            if !live.shown.contains(&phone) {
                live.shown.push(phone);
            }
            return true;
        }
        if let Some(ended) = contents.ended.get_mut(&approval)
            && ended.by != Some(phone)
            && ended.shown.iter().all(|(known, _)| *known != phone)
        {
            ended.shown.push((phone, Shown::Still));
        }
        false
    }

    /// Approvals that have ended and that phones still show.
    pub(super) fn to_replace(&self) -> Vec<ApprovalId> {
        self.read().ended.keys().copied().collect()
    }

    /// The phones that show an approval that has ended. Who asks replaces it there, and says so: see
    /// [`replaced`](Self::replaced).
    pub fn replace(&self, approval: ApprovalId) -> Option<Replacing> {
        let mut contents = self.write();
        let ended = contents.ended.get_mut(&approval)?;
        let still = ended.shown.iter_mut().filter(|(_, shown)| *shown == Shown::Still);
        let phones = still.map(|(phone, shown)| {
            *shown = Shown::Replacing;
            *phone
        });
        let phones = phones.collect();
        Some(Replacing { until: ended.at.plus(REPLACED_WITHIN), phones })
    }

    /// Nothing more is to be done about this on that phone.
    pub fn replaced(&self, approval: ApprovalId, phone: AuthenticatorId) {
        let mut contents = self.write();
        let Some(ended) = contents.ended.get_mut(&approval) else { return };
        ended.shown.iter_mut().filter(|(known, _)| *known == phone).for_each(|(_, shown)| {
            *shown = Shown::Replaced;
        });
        if ended.is_done() {
            contents.ended.remove(&approval);
        }
    }

    /// Forgets it where no phone shows it. Not while the past is read: there a push may have been accepted after the end
    /// of its approval.
    pub(super) fn settle(&self, approval: ApprovalId) {
        let mut contents = self.write();
        if contents.ended.get(&approval).is_some_and(Ended::is_done) {
            contents.ended.remove(&approval);
        }
    }

    /// The same for all of them.
    pub(super) fn settle_all(&self) {
        self.write().ended.retain(|_, ended| !ended.is_done());
    }

    /// The places for approvals that wait.
    pub fn places(&self) -> &Arc<Places> {
        &self.places
    }

    /// How many approvals wait.
    pub fn live_approvals_count(&self) -> usize {
        self.read().approvals.len()
    }

    /// Enrolments that wait, and until when.
    pub fn live_enrolments(&self) -> Vec<(EnrolmentId, Timestamp)> {
        self.read().enrolments.iter().map(|(id, (_, expires_at))| (*id, *expires_at)).collect()
    }

    /// How many enrolments are not over.
    pub fn live_enrolments_count(&self) -> usize {
        self.read().enrolments.len()
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

    pub(super) fn account_event(&self, event: &AccountEvent, at: Timestamp) {
        let mut contents = self.write();
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
                let (approval, relying_party) = (requested.request.approval, requested.request.relying_party);
                let live = Live { relying_party, expires_at: requested.expires_at, shown: Vec::new() };
                if contents.approvals.insert(approval, live).is_none() {
                    self.places.is_live(approval, relying_party);
                }
            }
            AccountEvent::ApprovalApproved { approval, answer, .. }
            | AccountEvent::ApprovalDenied { approval, answer, .. } => {
                self.end(&mut contents, *approval, Some(answer.authenticator), at);
            }
            AccountEvent::NumberWrong { approval, authenticator, .. } => {
                self.end(&mut contents, *approval, Some(*authenticator), at);
            }
            AccountEvent::ApprovalExpired { approval } | AccountEvent::ApprovalCancelled { approval, .. } => {
                self.end(&mut contents, *approval, None, at);
            }
            AccountEvent::ApprovalSuperseded { approval, by } => {
                if let Some(relying_party) = contents.end(*approval, None, at) {
                    self.places.is_superseded(relying_party, *by);
                }
            }
            _ => {}
        }
    }

    fn end(&self, contents: &mut Contents, id: ApprovalId, by: Option<AuthenticatorId>, at: Timestamp) {
        if let Some(relying_party) = contents.end(id, by, at) {
            self.places.has_ended(relying_party);
        }
    }

    pub(super) fn relying_party_event(&self, event: &RelyingPartyEvent) {
        let mut contents = self.write();
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

    /// As it is at this moment.
    pub(super) fn copy(&self) -> Contents {
        self.read().clone()
    }

    /// Whether what is read from these bytes, once it has been written and read, stays as it is; none if they cannot be
    /// read. For the fuzzer, which meets a disk's bytes here.
    #[doc(hidden)]
    pub fn is_read_again(bytes: &[u8]) -> Option<bool> {
        let again = |index: &Self| Self::from_bytes(&index.copy().to_bytes());
        let kept = again(&Self::from_bytes(bytes)?);
        Some(kept.is_some_and(|kept| again(&kept).is_some_and(|twice| *twice.read() == *kept.read())))
    }

    /// As it was kept; none if it cannot be read, which costs a fold from the beginning.
    pub(super) fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let stored: Stored = serde_json::from_slice(bytes).ok()?;
        let mut contents = Contents::default();
        for StoredApproval { id, relying_party, at, shown, .. } in stored.approvals {
            let live = Live {
                relying_party: relying_party.parse().ok()?,
                expires_at: Timestamp::from_millis(at),
                shown: shown.iter().map(|phone| phone.parse().ok()).collect::<Option<_>>()?,
            };
            contents.approvals.insert(id.parse().ok()?, live);
        }
        for StoredApproval { id, relying_party, at, by, shown } in stored.ended {
            let (id, at) = (id.parse().ok()?, Timestamp::from_millis(at));
            // What was under way then may not have come to its end: it is done again.
            let shown = shown.iter().map(|phone| Some((phone.parse().ok()?, Shown::Still)));
            let ended = Ended {
                relying_party: relying_party.parse().ok()?,
                at,
                by: by.map(|by| by.parse()).transpose().ok()?,
                shown: shown.collect::<Option<_>>()?,
            };
            contents.ended.insert(id, ended);
            contents.ended_in_order.push_back((at, id));
        }
        contents.ended_in_order.make_contiguous().sort_unstable();
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
        let places = Arc::new(Places::default());
        for (id, live) in &contents.approvals {
            places.is_live(*id, live.relying_party);
        }
        Some(Self { contents: RwLock::new(contents), places, known: watch::Sender::default() })
    }

    fn read(&self) -> RwLockReadGuard<'_, Contents> {
        self.contents.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, Contents> {
        self.contents.write().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Ended {
    fn is_done(&self) -> bool {
        self.shown.iter().all(|(_, shown)| *shown == Shown::Replaced)
    }
}

impl Contents {
    /// To keep beside the log.
    pub(super) fn to_bytes(&self) -> Vec<u8> {
        let stored = Stored {
            approvals: self
                .approvals
                .iter()
                .map(|(id, live)| StoredApproval {
                    id: id.to_string(),
                    relying_party: live.relying_party.to_string(),
                    at: live.expires_at.as_millis(),
                    by: None,
                    shown: live.shown.iter().map(ToString::to_string).collect(),
                })
                .collect(),
            ended: self
                .ended
                .iter()
                .map(|(id, ended)| {
                    let shown = ended.shown.iter().filter(|(_, shown)| *shown != Shown::Replaced);
                    StoredApproval {
                        id: id.to_string(),
                        relying_party: ended.relying_party.to_string(),
                        at: ended.at.as_millis(),
                        by: ended.by.map(|by| by.to_string()),
                        shown: shown.map(|(phone, _)| phone.to_string()).collect(),
                    }
                })
                .collect(),
            enrolments: self
                .enrolments
                .iter()
                .map(|(id, (locator, at))| (id.to_string(), locator.clone(), at.as_millis()))
                .collect(),
            certificates: self.by_certificate.iter().map(|(hash, id)| (*hash, id.to_string())).collect(),
            relying_parties: self.relying_parties.iter().map(ToString::to_string).collect(),
        };
        serde_json::to_vec(&stored).expect("strings and numbers make JSON")
    }

    /// Whose it was, if it was live.
    fn end(&mut self, id: ApprovalId, by: Option<AuthenticatorId>, at: Timestamp) -> Option<RelyingPartyId> {
        let Live { relying_party, shown, .. } = self.approvals.remove(&id)?;
        while let Some((ended_at, id)) = self.ended_in_order.front().copied()
            && ended_at.plus(REPLACED_WITHIN) <= at
        {
            self.ended_in_order.pop_front();
            self.ended.remove(&id);
        }
        let shown = shown.into_iter().filter(|phone| Some(*phone) != by);
        let shown = shown.map(|phone| (phone, Shown::Still)).collect();
        self.ended.insert(id, Ended { relying_party, at, by, shown });
        self.ended_in_order.push_back((at, id));
        Some(relying_party)
    }
}

#[cfg(test)]
mod tests {
    use countersign_domain::AccountId;
    use countersign_envelope::EnrolmentCode;

    use super::*;

    #[tokio::test]
    async fn who_waits_for_what_he_has_made_goes_on_when_it_is_known() {
        let index = Arc::new(Index::default());
        index.knows(None).await;
        let waiting = tokio::spawn({
            let index = Arc::clone(&index);
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
        let begun = AccountEvent::EnrolmentBegun(countersign_domain::event::EnrolmentBegun {
            enrolment,
            code: code.clone(),
            expires_at: Timestamp::from_millis(7),
            relying_party: RelyingPartyId::from_bytes([3; 16]),
        });
        index.account_event(&begun, Timestamp::from_millis(6));
        let kept = Index::from_bytes(&index.copy().to_bytes()).unwrap();
        assert_eq!(*kept.read(), *index.read());
        assert_eq!(kept.enrolment(code.locator()), Some(enrolment));
        let ended = AccountEvent::EnrolmentEnded {
            enrolment,
            reason: countersign_domain::event::EnrolmentEnd::Expired,
            answer_hash: None,
        };
        kept.account_event(&ended, Timestamp::from_millis(7));
        assert_eq!(kept.enrolment(code.locator()), None);
    }

    const ACCOUNT: AccountId = AccountId::from_bytes([1; 16]);
    const RELYING_PARTY: RelyingPartyId = RelyingPartyId::from_bytes([3; 16]);
    const FIRST: AuthenticatorId = AuthenticatorId::from_bytes([4; 24]);
    const SECOND: AuthenticatorId = AuthenticatorId::from_bytes([5; 24]);

    fn at(seconds: u64) -> Timestamp {
        Timestamp::from_millis(seconds * 1_000)
    }

    /// With one approval that waits.
    fn waiting(id: ApprovalId) -> Index {
        let live = Live { relying_party: RELYING_PARTY, expires_at: at(60), shown: Vec::new() };
        let index = Index::default();
        index.write().approvals.insert(id, live);
        index
    }

    #[test]
    fn what_phones_show_of_an_approval_is_replaced_after_its_end_and_not_on_the_phone_that_ended_it() {
        let id = ApprovalId::new(ACCOUNT, [2; 16]);
        let index = waiting(id);
        assert!(index.shows(id, FIRST) && index.shows(id, FIRST) && index.shows(id, SECOND));
        let kept = Index::from_bytes(&index.copy().to_bytes()).unwrap();
        for index in [index, kept] {
            assert_eq!(index.replace(id), None, "it waits");
            index.account_event(
                &AccountEvent::NumberWrong { approval: id, authenticator: FIRST, answer_hash: [0; 32] },
                at(1),
            );
            assert_eq!(index.relying_party(id), Some(RELYING_PARTY));
            index.settle(id);
            // What was under way when a snapshot was made is done again by whoever reads that.
            for index in [&Index::from_bytes(&index.copy().to_bytes()).unwrap(), &index] {
                assert_eq!(index.to_replace(), [id]);
                let replacing = index.replace(id).unwrap();
                assert_eq!((replacing.until, &replacing.phones[..]), (at(601), &[SECOND][..]));
                assert_eq!(index.replace(id).unwrap().phones, [], "once");
            }
            index.replaced(id, SECOND);
            assert_eq!((index.to_replace(), index.relying_party(id)), (vec![], None));
        }
    }

    #[test]
    fn a_push_that_is_accepted_after_the_end_is_replaced_too_and_nothing_after_ten_minutes() {
        let ids = [2, 3].map(|id| ApprovalId::new(ACCOUNT, [id; 16]));
        let index = waiting(ids[0]);
        index.account_event(&AccountEvent::ApprovalExpired { approval: ids[0] }, at(1));
        assert!(!index.shows(ids[0], FIRST));
        assert_eq!(index.replace(ids[0]).unwrap().phones, [FIRST]);
        let live = waiting(ids[1]).read().approvals[&ids[1]].clone();
        index.write().approvals.insert(ids[1], live);
        index.account_event(&AccountEvent::ApprovalExpired { approval: ids[1] }, at(601));
        assert_eq!(index.to_replace(), [ids[1]]);
        index.settle_all();
        assert_eq!(index.to_replace(), []);
    }
}
