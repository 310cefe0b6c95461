//! Rules broken on purpose, at the seams of the broker and nowhere in it: the log that it appends to and reads, the push
//! service, the way in. A run with one of them must be found to be wrong; else the runs without prove nothing.
//!
//! Most of them put other events into the log than were decided, and answer with a conflict: the decider reads what is
//! there, and goes on as if it had decided so itself.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex},
};

use async_trait::async_trait;
use bytes::Bytes;
use clap::ValueEnum;
use countersign::{
    clock::Clock,
    decider::codec::{AccountCodec, Codec as _},
    keys::Keys,
    log::{
        Append, AppendError, Appended, Entry, EntryStream, EventLog, EventRecord, Expected, Fault, MemoryLog,
        Position, ReadError, StreamId, StreamKind, Version,
    },
};
use countersign_domain::{
    Account, Aggregate as _, ApprovalId, AuthenticatorId, Event, Timestamp,
    approval::Approval,
    event::{Question, RecordedAnswer},
    number::MatchNumber,
};
use countersign_envelope::{commitment, payload_type};
use countersign_proto::v1;
use futures::StreamExt as _;
use prost::Message as _;

use crate::ledger::answer_hash;

/// A rule that does not hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Mutation {
    /// Rule 1: an append is acknowledged before it is durable.
    ToldEarly,
    /// Rule 2: the number goes out with a push.
    NumberInPush,
    /// Rule 2: the number stands in a line of the broker's log.
    NumberInLog,
    /// Rule 2: the number stands in the challenge.
    NumberInChallenge,
    /// Rule 3: two answers at once are both taken.
    SecondOutcome,
    /// An answer that comes after its time is taken.
    LateAnswer,
    /// Any number will do.
    NumberNotCompared,
    /// An answer is taken whoever signed it.
    SignatureNotChecked,
    /// Rule 4: what phones are given is not what was signed.
    ChallengeChanged,
    /// A newer sign-in of the same session leaves the older one alive.
    SupersededLives,
    /// The same request again is another approval.
    IdempotencyForgotten,
    /// What is over is never ended.
    ExpiryForgotten,
    /// Who waits is not woken by some endings.
    WakesNobody,
    /// Rule 5: the state that is served lacks an event that the log has.
    EventSkipped,
    /// The outcome lacks the session that it was asked for.
    SessionForgotten,
    /// A yes is good for ever.
    ValidTooLong,
    /// Of the right numbers, half are refused as wrong.
    RightNumberRefused,
    /// A number is shown while another page of the account shows it.
    NumberShownTwice,
    /// A number that was shown lately is shown again.
    NumberNotRested,
    /// An enrolment's number is shown again by a sign-in.
    TrialNumberShown,
    /// Rule 2: the number stands in an event in the clear.
    NumberInEvent,
    /// No challenge is pushed: phones have to ask.
    NotPushed,
    /// Wrong numbers pause nothing.
    PauseForgotten,
    /// A read is answered whatever its nonce is.
    OldNonceTaken,
    /// What a phone has signed counts after it has left.
    LeftPhoneAnswers,
}

impl Mutation {
    /// All of them.
    pub fn all() -> &'static [Self] {
        Self::value_variants()
    }
}

/// Answers as they come in, before the broker has looked at them.
pub(crate) type Captured = Arc<Mutex<BTreeMap<[u8; 32], v1::Envelope>>>;

/// The broker's log, and what a mutation makes of it.
#[derive(Clone)]
pub(crate) struct Tampered {
    pub(crate) inner: MemoryLog,
    pub(crate) mutation: Option<Mutation>,
    pub(crate) codec: AccountCodec,
    pub(crate) keys: Arc<Keys>,
    pub(crate) captured: Captured,
    pub(crate) clock: Arc<dyn Clock>,
    /// Acknowledged and not durable yet, by stream.
    early: Arc<Mutex<BTreeMap<StreamId, u64>>>,
}

impl Tampered {
    pub(crate) fn new(
        inner: MemoryLog,
        mutation: Option<Mutation>,
        codec: AccountCodec,
        keys: Arc<Keys>,
        captured: Captured,
        clock: Arc<dyn Clock>,
    ) -> Self {
        Self { inner, mutation, codec, keys, captured, clock, early: Arc::default() }
    }

    /// What is put into the log instead; none where the mutation leaves it as it is.
    fn instead(&self, events: &[Event], before: &History) -> Option<Vec<Event>> {
        match (self.mutation?, events) {
            (Mutation::LateAnswer, [Event::ApprovalExpired { approval }]) => {
                let answer = self.approving(*approval)?;
                Some(vec![Event::ApprovalApproved { approval: *approval, answer, user_verified: true }])
            }
            (Mutation::NumberNotCompared, [Event::NumberWrong { approval, answer_hash, .. }, ..]) => {
                let answer = recorded(self.captured.lock().expect("nobody panics").get(answer_hash)?)?;
                Some(vec![Event::ApprovalApproved { approval: *approval, answer, user_verified: true }])
            }
            (Mutation::RightNumberRefused, [Event::ApprovalApproved { approval, answer, .. }])
                if approval.as_bytes().last().is_some_and(|last| last & 1 == 0) =>
            {
                let (authenticator, answer_hash) = (answer.authenticator, answer.answer_hash);
                Some(vec![Event::NumberWrong { approval: *approval, authenticator, answer_hash }])
            }
            (Mutation::SupersededLives, [Event::ApprovalSuperseded { .. }, rest @ ..]) => Some(rest.to_vec()),
            (Mutation::IdempotencyForgotten, [.., Event::ApprovalRequested(asked)]) => {
                asked.request.idempotency.as_ref()?;
                let mut events = events.to_vec();
                let Some(Event::ApprovalRequested(asked)) = events.last_mut() else { return None };
                asked.request.idempotency = None;
                Some(events)
            }
            (Mutation::PauseForgotten, [wrong @ Event::NumberWrong { .. }, Event::PushPaused { .. }]) => {
                Some(vec![wrong.clone()])
            }
            (mutation, [.., Event::ApprovalRequested(_)]) => {
                let mut events = events.to_vec();
                let Some(Event::ApprovalRequested(asked)) = events.last_mut() else { return None };
                self.spoil(&mut asked.question, mutation, before)?;
                Some(events)
            }
            _ => None,
        }
    }

    /// None where the mutation leaves it as it is.
    fn spoil(&self, question: &mut Question, mutation: Mutation, before: &History) -> Option<()> {
        let mut said = v1::Challenge::decode(question.challenge.payload.clone()).ok()?;
        let another = match mutation {
            Mutation::NumberInChallenge => {
                said.context.get_or_insert_default().browser = question.number.to_text();
                question.number
            }
            Mutation::NumberShownTwice => before.number_of(|approval| approval.ending.is_none())?,
            Mutation::NumberNotRested => before.number_of(|approval| approval.ending.is_some())?,
            Mutation::TrialNumberShown => before.trial?,
            Mutation::ChallengeChanged => {
                "Another application".clone_into(&mut said.application_name);
                question.challenge.payload = said.encode_to_vec().into();
                return Some(());
            }
            _ => return None,
        };
        question.number = another;
        question.commitment = commitment(&said.approval_id, question.salt.expose(), &another.to_text());
        said.commitment = question.commitment.to_vec().into();
        question.challenge = self.keys.sign(payload_type::CHALLENGE, said.encode_to_vec());
        Some(())
    }

    /// What the log has of an account.
    async fn history(&self, stream: StreamId) -> History {
        let mut history = History::default();
        let entries = self.inner.read(stream, None).await.unwrap_or_default();
        for entry in entries {
            for event in self.decoded(stream, &entry.events) {
                match &event {
                    Event::TrialRequested(trial) => history.trial = Some(trial.question.number),
                    Event::ApprovalRequested(asked) => history.asked.push(asked.request.approval),
                    _ => {}
                }
                history.account.evolve(&event, Timestamp::from_millis(entry.recorded_at_ms));
            }
        }
        history
    }

    /// An answer that approves this approval, as it came in.
    fn approving(&self, approval: ApprovalId) -> Option<RecordedAnswer> {
        let captured = self.captured.lock().expect("nobody panics");
        captured.values().find_map(|envelope| {
            let said = v1::Answer::decode(envelope.payload.clone()).ok()?;
            let approves = said.decision() == v1::Decision::Approve;
            (approves && said.approval_id == approval.to_string()).then(|| recorded(envelope))?
        })
    }

    fn decoded(&self, stream: StreamId, records: &[EventRecord]) -> Vec<Event> {
        let account = self.codec.id(stream);
        let records = records.iter();
        records.filter_map(|record| self.codec.decode(account, record).ok().flatten()).collect()
    }

    /// Whether who signed this is no authenticator any more.
    pub(crate) async fn has_left(&self, envelope: &v1::Envelope) -> bool {
        let Ok(id) = envelope.key_id.parse::<AuthenticatorId>() else { return false };
        let history = self.history(self.codec.stream(id.account())).await;
        history.account.authenticator(id).is_some_and(|phone| !phone.is_bound())
    }

    /// Takes an answer as good that nobody has checked.
    pub(crate) async fn take_unchecked(&self, envelope: &v1::Envelope) {
        let made = (|| {
            let said = v1::Answer::decode(envelope.payload.clone()).ok()?;
            let approval: ApprovalId = said.approval_id.parse().ok()?;
            let answer = recorded(envelope)?;
            Some(Event::ApprovalApproved { approval, answer, user_verified: true })
        })();
        let Some(event @ Event::ApprovalApproved { approval, .. }) = made else { return };
        let account = approval.account();
        let append = Append {
            stream: self.codec.stream(account),
            expected: Expected::Any,
            urgency: countersign::log::Urgency::Now,
            recorded_at_ms: self.clock.now().as_millis(),
            events: vec![self.codec.encode(account, &event)],
        };
        let _ = self.inner.append(append).await;
    }

    /// The position and version that it will have, told before it has them.
    async fn append_early(&self, append: Append) -> Result<Appended, AppendError> {
        let stream = append.stream;
        let durable = self.inner.version(stream).await.ok().flatten().map_or(0, Version::to_token);
        let ahead = {
            let mut early = self.early.lock().expect("nobody panics");
            let ahead = early.entry(stream).or_insert(durable);
            *ahead = durable.max(*ahead) + 1;
            *ahead
        };
        let this = self.clone();
        tokio::spawn(async move { this.inner.append(Append { expected: Expected::Any, ..append }).await });
        Ok(Appended { position: Position::after(self.inner.head()), version: Version::from_token(ahead) })
    }
}

/// What the log has of an account so far.
#[derive(Default)]
struct History {
    account: Account,
    asked: Vec<ApprovalId>,
    /// The number of its last trial.
    trial: Option<MatchNumber>,
}

impl History {
    /// The number of the first approval that is so.
    fn number_of(&self, is_so: impl Fn(&Approval) -> bool) -> Option<MatchNumber> {
        let mut asked = self.asked.iter().filter_map(|id| self.account.approval(*id));
        Some(asked.find(|approval| is_so(approval))?.issued.as_ref()?.number)
    }
}

fn recorded(envelope: &v1::Envelope) -> Option<RecordedAnswer> {
    Some(RecordedAnswer {
        authenticator: envelope.key_id.parse().ok()?,
        answer_hash: answer_hash(envelope),
        payload: envelope.payload.clone(),
        signature: envelope.signature.clone(),
    })
}

fn ends(event: &Event) -> bool {
    matches!(
        event,
        Event::ApprovalApproved { .. }
            | Event::ApprovalDenied { .. }
            | Event::NumberWrong { .. }
            | Event::ApprovalExpired { .. }
            | Event::ApprovalCancelled { .. }
    )
}

#[async_trait]
impl EventLog for Tampered {
    async fn append(&self, mut append: Append) -> Result<Appended, AppendError> {
        let of_account = append.stream.kind() == StreamKind::Account;
        let Some(mutation) = self.mutation.filter(|_| of_account) else {
            return self.inner.append(append).await;
        };
        let events = self.decoded(append.stream, &append.events);
        let before = self.history(append.stream).await;
        if let Some(instead) = self.instead(&events, &before) {
            let account = self.codec.id(append.stream);
            append.events = instead.iter().map(|event| self.codec.encode(account, event)).collect();
            self.inner.append(append).await?;
            return Err(AppendError::Conflict { current: None });
        }
        match mutation {
            Mutation::ToldEarly if events.iter().any(ends) => self.append_early(append).await,
            Mutation::SecondOutcome if events.iter().any(ends) => {
                self.inner.append(Append { expected: Expected::Any, ..append }).await
            }
            Mutation::ExpiryForgotten if matches!(events[..], [Event::ApprovalExpired { .. }]) => {
                Err(AppendError::NoRoom)
            }
            Mutation::NumberInLog => {
                if let Some(Event::ApprovalRequested(asked)) = events.last() {
                    let number = asked.question.number.to_text();
                    tracing::info!(target: "countersign::signin", number, "requested");
                }
                self.inner.append(append).await
            }
            Mutation::NumberInEvent => {
                let number = before.number_of(|_| true).map(MatchNumber::to_text).unwrap_or_default();
                // What is sealed vouches for what is not.
                for record in append.events.iter_mut().filter(|record| record.sealed.is_empty()) {
                    let mut body = record.body.to_vec();
                    // A field that no reader knows.
                    prost::encoding::string::encode(500, &number, &mut body);
                    record.body = body.into();
                }
                self.inner.append(append).await
            }
            _ => self.inner.append(append).await,
        }
    }

    async fn append_nothing(&self) -> Result<(), AppendError> {
        self.inner.append_nothing().await
    }

    async fn version(&self, stream: StreamId) -> Result<Option<Version>, ReadError> {
        let durable = self.inner.version(stream).await?;
        let early = self.early.lock().expect("nobody panics").get(&stream).copied();
        let ahead = early.filter(|early| durable.is_none_or(|durable| durable.to_token() < *early));
        Ok(ahead.map(Version::from_token).or(durable))
    }

    async fn read(&self, stream: StreamId, after: Option<Version>) -> Result<Vec<Arc<Entry>>, ReadError> {
        let mut entries = self.inner.read(stream, after).await?;
        if self.mutation == Some(Mutation::EventSkipped) && stream.kind() == StreamKind::Account {
            let account = self.codec.id(stream);
            entries.retain(|entry| {
                let records = entry.events.iter();
                let mut events = records.filter_map(|one| self.codec.decode(account, one).ok().flatten());
                !events.any(|event| matches!(event, Event::ApprovalDenied { .. }))
            });
        }
        Ok(entries)
    }

    fn read_back(&self, stream: StreamId) -> EntryStream {
        self.inner.read_back(stream)
    }

    fn read_all(&self, from: Position) -> EntryStream {
        self.inner.read_all(from)
    }

    fn follow(&self, from: Position) -> EntryStream {
        let entries = self.inner.follow(from);
        if self.mutation != Some(Mutation::WakesNobody) {
            return entries;
        }
        let codec = self.codec.clone();
        let wakes = move |entry: &Result<Arc<Entry>, ReadError>| {
            let Ok(entry) = entry else { return true };
            if entry.stream.kind() != StreamKind::Account {
                return true;
            }
            let account = codec.id(entry.stream);
            let records = entry.events.iter();
            let mut events = records.filter_map(|record| codec.decode(account, record).ok().flatten());
            !events.any(|event| matches!(event, Event::ApprovalDenied { .. }))
        };
        entries.filter(move |entry| futures::future::ready(wakes(entry))).boxed()
    }

    async fn entry(&self, position: Position) -> Result<Option<Arc<Entry>>, ReadError> {
        self.inner.entry(position).await
    }

    fn head(&self) -> Option<Position> {
        self.inner.head()
    }

    async fn cursor(&self, name: &str) -> Option<Position> {
        self.inner.cursor(name).await
    }

    async fn save_cursor(&self, name: &str, position: Position) {
        self.inner.save_cursor(name, position).await;
    }

    async fn snapshot(&self, name: &str) -> Option<(Position, Bytes)> {
        self.inner.snapshot(name).await
    }

    async fn save_snapshot(&self, name: &str, position: Position, bytes: Bytes) {
        self.inner.save_snapshot(name, position, bytes).await;
    }

    async fn stopped(&self) -> Fault {
        self.inner.stopped().await
    }

    async fn close(&self) {
        self.inner.close().await;
    }
}
