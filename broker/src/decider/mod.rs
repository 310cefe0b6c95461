//! The one way from a command to an event: load the stream, fold it, decide, append; and again when somebody else was
//! first.
//!
//! - [`Decider`]: that way, for any aggregate; what it has folded is kept in memory, and now and then beside the log, so
//!   that it costs little however long a history is;
//! - [`codec`]: the domain's events as the log keeps them, sealed fields sealed.

pub mod codec;

use std::{
    num::NonZeroUsize,
    sync::{Arc, Mutex, PoisonError},
};

use countersign_domain::{Aggregate, Timestamp};
use lru::LruCache;
use tracing::{Instrument as _, info_span};

use crate::{
    clock::Clock,
    log::{Append, AppendError, Entry, EventLog, Expected, Position, ReadError, StreamId, Urgency, Version},
    telemetry::{
        metrics::{labels::Remembered, metrics},
        traces::{self, STORY},
    },
};
use codec::Codec;

/// How often a decision is made anew because somebody else was first. Each time somebody was, so this is not reached
/// but by an account that is being hammered.
const ATTEMPTS_MAX: usize = 64;

/// A state is kept beside the log when so many entries have come since it was kept last...
const KEPT_EVERY_ENTRIES: u64 = 16;
/// ... and so many bytes of it for each of them at most, about what an entry has: what is kept must not outgrow the log,
/// however much an account holds. So a state that is in no cache is made of one that was kept and few entries, however long
/// its history: a state is bounded.
const KEPT_BYTES_AN_ENTRY: u64 = 256;

/// The cache is split, so that accounts rarely wait for one another.
const SHARDS: usize = 64;

/// Decides for aggregates of one kind.
pub struct Decider<C: Codec> {
    log: Arc<dyn EventLog>,
    clock: Arc<dyn Clock>,
    codec: C,
    cache: Vec<Mutex<Cache<C>>>,
}

type Cache<C> = LruCache<<C as Codec>::Id, Folded<<C as Codec>::Aggregate>>;
type EventOf<C> = <<C as Codec>::Aggregate as Aggregate>::Event;

/// A state, and the version of the stream that it is the fold of.
struct Folded<A> {
    version: Option<Version>,
    state: Arc<A>,
    /// How many entries came since it was kept beside the log, and how many bytes it had then.
    unkept_entries: u64,
    kept_bytes: u64,
}

impl<A> Clone for Folded<A> {
    fn clone(&self) -> Self {
        Self { state: Arc::clone(&self.state), ..*self }
    }
}

impl<A: Default> Default for Folded<A> {
    fn default() -> Self {
        Self { version: None, state: Arc::default(), unkept_entries: 0, kept_bytes: 0 }
    }
}

/// What came of a command. It is durable.
#[derive(Debug)]
pub struct Decided<A: Aggregate> {
    /// The events; none if what was asked for stood already.
    pub events: Vec<A::Event>,
    /// The state with them.
    pub state: Arc<A>,
    /// When it was decided, by the broker's clock.
    pub at: Timestamp,
    /// Where the entry stands; none without events.
    pub position: Option<Position>,
}

/// Why nothing could be decided.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// The log does not take it. Its own error says if a retry helps.
    #[error(transparent)]
    Append(#[from] AppendError),
    /// The log cannot be read.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// The stream has an event that this release cannot read: it refuses to decide rather than to skip.
    #[error("stream {stream}, position {position}: {error}")]
    Undecidable {
        /// Which stream.
        stream: StreamId,
        /// Where.
        position: Position,
        /// What is wrong with the event.
        error: codec::Error,
    },
    /// Somebody else was first, again and again.
    #[error("the account is too busy")]
    Contended,
}

impl<C: Codec> Decider<C> {
    /// Decides on the log, keeping at most so many states in memory.
    pub fn new(log: Arc<dyn EventLog>, clock: Arc<dyn Clock>, codec: C, cached_max: NonZeroUsize) -> Self {
        let per_shard = NonZeroUsize::new(cached_max.get().div_ceil(SHARDS)).unwrap_or(NonZeroUsize::MIN);
        let cache = (0..SHARDS).map(|_| Mutex::new(LruCache::new(per_shard))).collect();
        Self { log, clock, codec, cache }
    }

    /// How events are read and written.
    pub fn codec(&self) -> &C {
        &self.codec
    }

    /// The log that it decides on.
    pub fn log(&self) -> &Arc<dyn EventLog> {
        &self.log
    }

    /// The state as the log has it now.
    pub async fn load(&self, id: C::Id) -> Result<Arc<C::Aggregate>, Error> {
        Ok(self.fold(id).await?.state)
    }

    /// Asks the aggregate. `command` is made from the state that decides, anew at each attempt: what it draws or signs
    /// fits that state. Answers once the events are durable.
    pub async fn decide<E>(
        &self,
        id: C::Id,
        mut command: impl FnMut(&C::Aggregate, Timestamp) -> Result<<C::Aggregate as Aggregate>::Command, E>,
    ) -> Result<Decided<C::Aggregate>, E>
    where
        E: From<Error> + From<<C::Aggregate as Aggregate>::Refusal>,
    {
        for _ in 0..ATTEMPTS_MAX {
            let folded = self.fold(id).await?;
            let at = self.clock.now();
            let events = folded.state.decide(&command(&folded.state, at)?, at)?;
            if events.is_empty() {
                return Ok(Decided { events, state: folded.state, at, position: None });
            }
            let expected = folded.version.map_or(Expected::Empty, Expected::At);
            let append = traces::part(|| info_span!(target: STORY, "append"));
            match self.log.append(self.append_of(id, expected, at, &events)).instrument(append).await {
                Ok(appended) => {
                    let state = self.take_in(id, folded, &events, at, appended.version);
                    return Ok(Decided { events, state, at, position: Some(appended.position) });
                }
                Err(AppendError::Conflict { .. }) => metrics().log.conflicts.count(()),
                Err(error) => return Err(Error::from(error).into()),
            }
        }
        Err(Error::Contended.into())
    }

    /// The events of an entry of one of these aggregates' streams, with their aggregate's id.
    pub fn decode(&self, entry: &Entry) -> Result<(C::Id, Vec<EventOf<C>>), Error> {
        let id = self.codec.id(entry.stream);
        let decoded: Result<Vec<_>, _> =
            entry.events.iter().filter_map(|record| self.codec.decode(id, record).transpose()).collect();
        match decoded {
            Ok(events) => Ok((id, events)),
            Err(error) => Err(Error::Undecidable { stream: entry.stream, position: entry.position, error }),
        }
    }

    fn append_of(&self, id: C::Id, expected: Expected, at: Timestamp, events: &[EventOf<C>]) -> Append {
        Append {
            stream: self.codec.stream(id),
            expected,
            urgency: Urgency::Now,
            recorded_at_ms: at.as_millis(),
            events: events.iter().map(|event| self.codec.encode(id, event)).collect(),
        }
    }

    async fn fold(&self, id: C::Id) -> Result<Folded<C::Aggregate>, Error> {
        let stream = self.codec.stream(id);
        let version = self.log.version(stream).await?;
        let (mut folded, how) = match self.remembered(id) {
            Some(folded) if folded.version == version => (folded, Remembered::Hit),
            Some(folded) => (folded, Remembered::Stale),
            None if version.is_none() => (Folded::default(), Remembered::Hit),
            None => match self.kept(id).await {
                Some(folded) => (folded, Remembered::Kept),
                None => (Folded::default(), Remembered::Miss),
            },
        };
        metrics().log.remembered.count(how);
        if how == Remembered::Hit {
            return Ok(folded);
        }
        for entry in self.log.read(stream, folded.version).await? {
            let (_, events) = self.decode(&entry)?;
            let state = Arc::make_mut(&mut folded.state);
            for event in &events {
                state.evolve(event, Timestamp::from_millis(entry.recorded_at_ms));
            }
            folded.version = Some(entry.version);
            folded.unkept_entries += 1;
        }
        self.keep(id, &mut folded);
        self.remember(id, folded.clone());
        Ok(folded)
    }

    /// What has become durable is in the state, and remembered.
    fn take_in(
        &self,
        id: C::Id,
        mut folded: Folded<C::Aggregate>,
        events: &[EventOf<C>],
        at: Timestamp,
        version: Version,
    ) -> Arc<C::Aggregate> {
        let mut cache = self.shard(id).lock().unwrap_or_else(PoisonError::into_inner);
        // What is remembered is let go first: a state that nobody else holds need not be copied, and that of an account that
        // signs in often is large.
        let newer = cache.pop(&id).filter(|other| order(other.version) > order(Some(version)));
        let evolving = Arc::make_mut(&mut folded.state);
        for event in events {
            evolving.evolve(event, at);
        }
        folded.version = Some(version);
        folded.unkept_entries += 1;
        self.keep(id, &mut folded);
        let state = Arc::clone(&folded.state);
        cache.put(id, newer.unwrap_or(folded));
        state
    }

    fn remembered(&self, id: C::Id) -> Option<Folded<C::Aggregate>> {
        self.shard(id).lock().unwrap_or_else(PoisonError::into_inner).get(&id).cloned()
    }

    /// The state that was kept beside the log.
    async fn kept(&self, id: C::Id) -> Option<Folded<C::Aggregate>> {
        let (version, bytes) = self.log.fold(self.codec.stream(id)).await?;
        let state = Arc::new(self.codec.kept(id, version, &bytes)?);
        Some(Folded { version: Some(version), state, unkept_entries: 0, kept_bytes: bytes.len() as u64 })
    }

    /// Keeps the state beside the log, where enough has come since. All of it is durable.
    fn keep(&self, id: C::Id, folded: &mut Folded<C::Aggregate>) {
        let due = KEPT_EVERY_ENTRIES.max(folded.kept_bytes / KEPT_BYTES_AN_ENTRY);
        let Some(version) = folded.version.filter(|_| folded.unkept_entries >= due) else { return };
        if let Some(bytes) = self.codec.keep(id, version, &folded.state) {
            (folded.unkept_entries, folded.kept_bytes) = (0, bytes.len() as u64);
            self.log.keep_fold(self.codec.stream(id), version, bytes);
        }
    }

    /// Whoever remembers an older state than another only makes the next one read a little more.
    fn remember(&self, id: C::Id, folded: Folded<C::Aggregate>) {
        self.shard(id).lock().unwrap_or_else(PoisonError::into_inner).put(id, folded);
    }

    fn shard(&self, id: C::Id) -> &Mutex<Cache<C>> {
        let [.., last] = self.codec.stream(id).id();
        &self.cache[usize::from(last) % SHARDS]
    }
}

/// Versions of a stream in their order.
fn order(version: Option<Version>) -> u64 {
    version.map_or(0, Version::to_token)
}

impl<C: Codec> std::fmt::Debug for Decider<C> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Decider").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
