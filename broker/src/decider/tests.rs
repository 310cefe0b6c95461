//! A state that is kept beside the log: it is what the events make, costs a bounded number of them, and is nothing that
//! anyone would miss.

use bytes::Bytes;
use countersign_domain::{
    Account, AccountId, Command, EnrolmentId, RelyingPartyId,
    command::Refusal,
    event::Identity,
    text::{DisplayText, Realm},
};
use countersign_envelope::EnrolmentCode;

use super::{codec::AccountCodec, *};
use crate::{clock::ManualClock, entropy::OsEntropy, keys::folder, log::MemoryLog};

const ACCOUNT: AccountId = AccountId::from_bytes([1; 16]);
const RELYING_PARTY: RelyingPartyId = RelyingPartyId::from_bytes([6; 16]);

#[derive(Debug, thiserror::Error)]
enum Never {
    #[error(transparent)]
    Decider(#[from] Error),
    #[error("{0:?}")]
    Refused(Refusal),
}

impl From<Refusal> for Never {
    fn from(refusal: Refusal) -> Self {
        Self::Refused(refusal)
    }
}

struct Stage {
    log: MemoryLog,
    clock: Arc<ManualClock>,
    codec: AccountCodec,
    decider: Decider<AccountCodec>,
    begun: u64,
}

impl Stage {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let keys = dir.path().join("keys");
        folder::create(&keys, &OsEntropy).unwrap();
        let keys = Arc::new(folder::load(&keys).unwrap());
        let codec = AccountCodec::new(keys, Arc::new(OsEntropy));
        let (log, clock) = (MemoryLog::new(), Arc::new(ManualClock::default()));
        let decider = decider(&log, &clock, &codec);
        Self { log, clock, codec, decider, begun: 0 }
    }

    /// One that has nothing in memory.
    fn newcomer(&self) -> Decider<AccountCodec> {
        decider(&self.log, &self.clock, &self.codec)
    }

    /// An enrolment begins and is withdrawn: two entries.
    async fn happen(&mut self) {
        self.begun += 1;
        self.clock.set(Timestamp::from_millis(self.begun * 1_000));
        let enrolment = EnrolmentId::new(ACCOUNT, self.begun.to_be_bytes());
        let identity = Identity { realm: Realm::recorded("staff"), name: DisplayText::recorded("alice") };
        let code = EnrolmentCode::from_random(&[5; 12]);
        let begin = Command::BeginEnrolment { identity, enrolment, code, relying_party: RELYING_PARTY };
        for command in [begin, Command::CancelEnrolment(enrolment)] {
            self.decider.decide(ACCOUNT, |_, _| Ok::<_, Never>(command.clone())).await.unwrap();
        }
    }

    /// The state of all events up to a version, and how many entries are behind it.
    async fn folded(&self, version: Option<Version>) -> (Account, usize) {
        let entries = self.log.read(self.codec.stream(ACCOUNT), None).await.unwrap();
        let until = entries.iter().position(|entry| Some(entry.version) == version).unwrap() + 1;
        let mut account = Account::default();
        for entry in &entries[..until] {
            for event in self.decider.decode(entry).unwrap().1 {
                account.evolve(&event, Timestamp::from_millis(entry.recorded_at_ms));
            }
        }
        (account, entries.len() - until)
    }

    async fn head(&self) -> Account {
        self.folded(self.log.version(self.codec.stream(ACCOUNT)).await.unwrap()).await.0
    }

    async fn kept(&self) -> Option<(Version, Bytes)> {
        self.log.fold(self.codec.stream(ACCOUNT)).await
    }
}

fn decider(log: &MemoryLog, clock: &Arc<ManualClock>, codec: &AccountCodec) -> Decider<AccountCodec> {
    let clock = Arc::clone(clock) as Arc<dyn Clock>;
    Decider::new(Arc::new(log.clone()), clock, codec.clone(), NonZeroUsize::MIN)
}

#[tokio::test]
async fn what_is_kept_is_the_fold_of_the_events_before_and_few_come_after_it() {
    let mut stage = Stage::new();
    let mut kept_at = Vec::new();
    for _ in 0..200 {
        stage.happen().await;
        let Some((version, bytes)) = stage.kept().await else { continue };
        let (folded, behind) = stage.folded(Some(version)).await;
        assert_eq!(stage.codec.kept(ACCOUNT, version, &bytes).unwrap(), folded);
        assert!(behind < 16 + bytes.len() / 256, "{behind} entries behind");
        assert_eq!(*stage.newcomer().load(ACCOUNT).await.unwrap(), stage.head().await);
        if kept_at.last() != Some(&version) {
            kept_at.push(version);
        }
    }
    assert!((10..=25).contains(&kept_at.len()), "{} times of 400 entries", kept_at.len());
}

#[tokio::test]
async fn who_has_nothing_in_memory_reads_what_came_after_what_was_kept_and_nothing_before() {
    let mut stage = Stage::new();
    for _ in 0..20 {
        stage.happen().await;
    }
    // A state that no history makes: who folds all of it has another.
    let mut other = stage.head().await;
    let version = stage.log.version(stage.codec.stream(ACCOUNT)).await.unwrap().unwrap();
    other.evolve(
        &countersign_domain::Event::PushPaused { until: Timestamp::from_millis(u64::MAX) },
        stage.clock.now(),
    );
    let bytes = stage.codec.keep(ACCOUNT, version, &other).unwrap();
    stage.log.keep_fold(stage.codec.stream(ACCOUNT), version, bytes);
    assert_eq!(*stage.newcomer().load(ACCOUNT).await.unwrap(), other);
    stage.decider = stage.newcomer();
    stage.happen().await;
    let loaded = stage.newcomer().load(ACCOUNT).await.unwrap();
    assert!(loaded.throttle().paused_until(stage.clock.now()).is_some());
    let last = EnrolmentId::new(ACCOUNT, stage.begun.to_be_bytes());
    assert_eq!(loaded.enrolment(last).map(|one| one.begun_at), Some(stage.clock.now()));
}

#[tokio::test]
async fn what_cannot_be_read_is_folded_from_the_events_and_kept_anew() {
    let mut stage = Stage::new();
    for _ in 0..20 {
        stage.happen().await;
    }
    let (stream, head) = (stage.codec.stream(ACCOUNT), stage.head().await);
    let version = stage.log.version(stream).await.unwrap().unwrap();
    let good = stage.codec.keep(ACCOUNT, version, &head).unwrap();
    let mut damaged = good.to_vec();
    *damaged.last_mut().unwrap() ^= 1;
    let another = AccountId::from_bytes([2; 16]);
    let earlier = Version::from_token(version.to_token() - 1);
    for useless in [
        damaged.into(),
        Bytes::new(),
        stage.codec.keep(another, version, &head).unwrap(),
        stage.codec.keep(ACCOUNT, earlier, &head).unwrap(),
    ] {
        stage.log.keep_fold(stream, version, useless.clone());
        assert_eq!(*stage.newcomer().load(ACCOUNT).await.unwrap(), head);
        let (at, anew) = stage.kept().await.unwrap();
        assert_ne!(anew, useless);
        assert_eq!(stage.codec.kept(ACCOUNT, at, &anew).unwrap(), head);
    }
}

/// It has what the events have sealed: the account's name, numbers, the secrets of codes.
#[tokio::test]
async fn what_is_kept_tells_nothing_to_who_has_no_key() {
    let mut stage = Stage::new();
    for _ in 0..10 {
        stage.happen().await;
    }
    let (version, bytes) = stage.kept().await.unwrap();
    for plain in [&b"alice"[..], b"staff", EnrolmentCode::from_random(&[5; 12]).secret().expose().as_bytes()]
    {
        assert!(!bytes.windows(plain.len()).any(|window| window == plain));
    }
    let stranger = Stage::new();
    assert_eq!(stranger.codec.kept(ACCOUNT, version, &bytes), None);
}
