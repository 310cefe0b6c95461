//! The writer thread: it decides which appends of a batch become entries, has the journal make the batch
//! durable, and tells everyone. It does as little else as it can.

use std::sync::Arc;

use tokio::sync::watch;

use super::decoy::Decoy;
use super::entry::{Appended, Entry, Expected, Position, Version};
use super::error::{AppendError, Fault};
use super::heads::{ByStream, Heads};
use super::journal::writer::{Batch, CommitError, Journal};
use super::queue::{Queue, Taken, Waiting};
use super::recent::Recent;
use crate::telemetry::metrics;

/// What the writer thread works on.
#[derive(Debug)]
pub(crate) struct Committer {
    pub(crate) queue: Arc<Queue>,
    pub(crate) journal: Journal,
    pub(crate) decoy: Decoy,
    pub(crate) heads: Arc<Heads>,
    pub(crate) recent: Arc<Recent>,
    /// The number of the last durable position, for those who follow.
    pub(crate) head: watch::Sender<u64>,
}

/// What becomes of the appends of one batch.
#[derive(Debug, Default)]
struct Round {
    /// In the batch, in order.
    accepted: Vec<Waiting>,
    /// Refused because of one that is in the batch: told when that is durable.
    losers: Vec<Waiting>,
    /// Where the streams of the batch will stand with it.
    heads: ByStream<Position>,
}

impl Committer {
    /// Commits batch after batch until the queue is stopped and empty, then closes the journal. An error is
    /// why nothing can be acknowledged any more.
    pub(crate) fn run(&mut self) -> Result<(), Fault> {
        let (mut taken, mut round) = (Taken::new(), Round::default());
        while self.queue.take(&mut taken) {
            self.admit(&mut taken, &mut round);
            if round.accepted.is_empty() && !taken.decoys.is_empty() {
                self.decoy.write();
            }
            let committed = self.commit(&mut taken.batch, &mut round);
            for decoy in taken.decoys.drain(..) {
                // Whoever dropped the future does not want to know.
                let _ = decoy.send(committed.clone().map_err(AppendError::Stopped));
            }
            committed?;
            taken.batch.clear();
        }
        match self.journal.close() {
            Err(CommitError::Fault(fault)) => Err(fault),
            Err(CommitError::NoRoom) => {
                tracing::warn!("no room for a closing record: the next start will take this for a crash");
                Ok(())
            }
            Ok(()) => Ok(()),
        }
    }

    /// Decides which appends become entries, and gives those their places. The bytes of the others leave the
    /// batch.
    fn admit(&self, taken: &mut Taken, round: &mut Round) {
        let mut position = self.journal.next();
        // Where there are decoys only, the batch stays as it is: with room for the next record's header.
        let mut end = taken.appends.first().map_or(taken.batch.end(), |append| append.at.start);
        for mut append in taken.appends.drain(..) {
            let stream = append.entry.stream;
            let in_batch = round.heads.get(&stream).copied();
            let head = in_batch.or_else(|| self.heads.get(stream));
            let as_expected = match append.expected {
                Expected::Any => true,
                Expected::Empty => head.is_none(),
                Expected::At(version) => head.map(version_at) == Some(version),
            };
            if as_expected {
                taken.batch.settle(append.at.clone(), end, head);
                end += append.at.len();
                let entry = Arc::get_mut(&mut append.entry).expect("nobody else has what is not durable");
                (entry.position, entry.version, entry.previous) = (position, version_at(position), head);
                round.heads.insert(stream, position);
                round.accepted.push(append);
                position = position.next();
            } else if in_batch.is_some() {
                round.losers.push(append);
            } else {
                append.answer(Err(AppendError::Conflict { current: head.map(version_at) }));
            }
        }
        taken.batch.end_at(end);
    }

    /// Makes the batch durable and tells everyone.
    fn commit(&mut self, batch: &mut Batch, round: &mut Round) -> Result<(), Fault> {
        let count = u32::try_from(round.accepted.len()).expect("a batch has no more entries than bytes");
        if count == 0 {
            return Ok(());
        }
        match self.journal.commit(batch, count) {
            Ok(()) => {
                let log = &metrics().log;
                log.batch_entries.observe((), count.into());
                log.disk_full.set((), 0);
                self.publish(round);
                Ok(())
            }
            Err(CommitError::NoRoom) => {
                metrics().log.disk_full.set((), 1);
                // Losers too: what they conflict with is not there.
                round.refuse_all(&AppendError::NoRoom);
                Ok(())
            }
            Err(CommitError::Fault(fault)) => {
                round.refuse_all(&AppendError::Stopped(fault.clone()));
                Err(fault)
            }
        }
    }

    /// Shows what is durable now. First the entries, then what leads to them, then to those who wait for it:
    /// nobody is sent to something that is not there.
    fn publish(&self, round: &mut Round) {
        let Some(last) = round.accepted.last().map(|append| append.entry.position) else { return };
        self.recent.push(round.accepted.iter().map(|append| Arc::clone(&append.entry)));
        for (stream, position) in round.heads.drain() {
            self.heads.advance(stream, position);
        }
        self.head.send_replace(last.number());
        metrics().log.head.set((), last.number());
        for append in round.accepted.drain(..) {
            let Entry { position, version, .. } = *append.entry;
            append.answer(Ok(Appended { position, version }));
        }
        for append in round.losers.drain(..) {
            let current = self.heads.get(append.entry.stream).map(version_at);
            append.answer(Err(AppendError::Conflict { current }));
        }
    }
}

impl Round {
    fn refuse_all(&mut self, error: &AppendError) {
        self.heads.clear();
        for append in self.accepted.drain(..).chain(self.losers.drain(..)) {
            append.answer(Err(error.clone()));
        }
    }
}

/// This log's version of a stream is the position of the stream's last entry.
pub(crate) fn version_at(position: Position) -> Version {
    Version::from_token(position.number())
}
