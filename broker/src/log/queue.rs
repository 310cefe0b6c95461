//! The queue of appends that wait for the disk. The writer takes all of them at once, whenever it is free:
//! that is the group commit.
//!
//! Who appends writes the entry's bytes here, behind those of the others, where they are already the body of
//! the record that they will be: the writer has nothing to encode and nothing to gather.

use std::ops::Range;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use tokio::sync::oneshot;

use super::entry::{Appended, Entry, Expected};
use super::error::{AppendError, Fault};
use super::format::{ENTRY_LENGTH_BYTES, encode};
use super::journal::writer::Batch;
use super::limits::RIDE_ALONG_MAX;
use crate::telemetry::metrics;

/// What an append is answered.
pub(crate) type Answer = Result<Appended, AppendError>;

/// An append that waits.
#[derive(Debug)]
pub(crate) struct Waiting {
    /// The entry that it will be. Position, version and previous are the writer's to set.
    pub(crate) entry: Arc<Entry>,
    pub(crate) expected: Expected,
    /// Where its bytes are in the batch.
    pub(crate) at: Range<usize>,
    pub(crate) answer: oneshot::Sender<Answer>,
}

impl Waiting {
    /// Answers. Whoever dropped the future does not want to know.
    pub(crate) fn answer(self, answer: Answer) {
        let _ = self.answer.send(answer);
    }
}

/// Those that wait, and their bytes.
#[derive(Debug)]
pub(crate) struct Taken {
    pub(crate) appends: Vec<Waiting>,
    pub(crate) batch: Batch,
    /// Those who append nothing, and wait as long as if they did.
    pub(crate) decoys: Vec<oneshot::Sender<Result<(), AppendError>>>,
}

impl Taken {
    pub(crate) fn new() -> Self {
        Self { appends: Vec::new(), batch: Batch::new(), decoys: Vec::new() }
    }

    fn count(&self) -> usize {
        self.appends.len() + self.decoys.len()
    }
}

#[derive(Debug)]
pub(crate) struct Queue {
    state: Mutex<State>,
    /// Wakes the writer.
    arrived: Condvar,
    appends_max: usize,
    batch_bytes_max: usize,
}

#[derive(Debug)]
struct State {
    waiting: Taken,
    /// Whether one of them does not want to wait for company.
    urgent: bool,
    /// Whether the writer sleeps.
    writer_waits: bool,
    stopped: Option<Fault>,
}

impl Queue {
    /// Holds so many appends, which make a batch of at most so many bytes.
    pub(crate) fn new(appends_max: usize, batch_bytes_max: usize) -> Self {
        let state = State { waiting: Taken::new(), urgent: false, writer_waits: false, stopped: None };
        Self { state: Mutex::new(state), arrived: Condvar::new(), appends_max, batch_bytes_max }
    }

    /// Adds an append of so many bytes at the end, if there is room.
    pub(crate) fn push(
        &self,
        entry: Arc<Entry>,
        bytes: usize,
        expected: Expected,
        urgent: bool,
        answer: oneshot::Sender<Answer>,
    ) -> Result<(), AppendError> {
        let mut state = self.lock();
        if let Some(fault) = &state.stopped {
            return Err(AppendError::Stopped(fault.clone()));
        }
        let waiting = state.waiting.count();
        let Taken { appends, batch, .. } = &mut state.waiting;
        let start = batch.end();
        let end = start + ENTRY_LENGTH_BYTES + bytes;
        if waiting >= self.appends_max || end > self.batch_bytes_max {
            return Err(AppendError::Busy { waiting });
        }
        batch.push(|out| encode(&entry, out));
        debug_assert_eq!(batch.end(), end);
        appends.push(Waiting { entry, expected, at: start..end, answer });
        metrics().log.waiting.set((), appends.len() as u64);
        self.wake(state, waiting == 0, urgent);
        Ok(())
    }

    /// Adds one who appends nothing, if there is room for an append.
    pub(crate) fn push_decoy(
        &self,
        answer: oneshot::Sender<Result<(), AppendError>>,
    ) -> Result<(), AppendError> {
        let mut state = self.lock();
        if let Some(fault) = &state.stopped {
            return Err(AppendError::Stopped(fault.clone()));
        }
        let waiting = state.waiting.count();
        if waiting >= self.appends_max {
            return Err(AppendError::Busy { waiting });
        }
        state.waiting.decoys.push(answer);
        self.wake(state, waiting == 0, true);
        Ok(())
    }

    /// The writer is woken to take what is urgent, or to begin to wait for company.
    fn wake(&self, mut state: MutexGuard<'_, State>, first: bool, urgent: bool) {
        let wake = state.writer_waits && (first || (urgent && !state.urgent));
        state.urgent |= urgent;
        drop(state);
        if wake {
            self.arrived.notify_one();
        }
    }

    /// Waits for appends and exchanges all that wait for `taken`, which is empty. False when there will be
    /// none any more.
    pub(crate) fn take(&self, taken: &mut Taken) -> bool {
        let mut state = self.lock();
        state.writer_waits = true;
        let idle = |state: &mut State| state.waiting.count() == 0 && state.stopped.is_none();
        state = self.arrived.wait_while(state, idle).unwrap_or_else(PoisonError::into_inner);
        let leisurely = |state: &mut State| !state.urgent && state.stopped.is_none();
        let waited = self.arrived.wait_timeout_while(state, RIDE_ALONG_MAX, leisurely);
        state = waited.unwrap_or_else(PoisonError::into_inner).0;
        state.writer_waits = false;
        std::mem::swap(&mut state.waiting, taken);
        metrics().log.waiting.set((), 0);
        state.urgent = false;
        taken.count() > 0
    }

    /// From now on appends are refused with this. Those that wait can still be taken.
    pub(crate) fn stop(&self, fault: Fault) {
        self.lock().stopped.get_or_insert(fault);
        self.arrived.notify_one();
    }

    /// Takes out what waits, without waiting for more.
    pub(crate) fn drain(&self) -> Taken {
        std::mem::replace(&mut self.lock().waiting, Taken::new())
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
