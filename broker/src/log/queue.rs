//! The queue of appends that wait for the disk. The writer takes all of them at once, whenever it is free: that
//! is the group commit.

use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use tokio::sync::oneshot;

use super::entry::{Appended, Entry, Expected};
use super::error::{AppendError, Fault};
use super::limits::RIDE_ALONG_MAX;

/// What an append is answered.
pub(crate) type Answer = Result<Appended, AppendError>;

/// An append that waits.
#[derive(Debug)]
pub(crate) struct Waiting {
    /// The entry that it will be. Position, version and previous are the writer's to set.
    pub(crate) entry: Arc<Entry>,
    /// The same as bytes, behind their length, but for the previous one's position.
    pub(crate) encoded: Vec<u8>,
    pub(crate) expected: Expected,
    pub(crate) answer: oneshot::Sender<Answer>,
}

impl Waiting {
    /// Answers. Whoever dropped the future does not want to know.
    pub(crate) fn answer(self, answer: Answer) {
        let _ = self.answer.send(answer);
    }
}

#[derive(Debug)]
pub(crate) struct Queue {
    state: Mutex<State>,
    /// Wakes the writer.
    arrived: Condvar,
    appends_max: usize,
    bytes_max: usize,
}

#[derive(Debug, Default)]
struct State {
    waiting: Vec<Waiting>,
    bytes: usize,
    /// Whether one of them does not want to wait for company.
    urgent: bool,
    /// Whether the writer sleeps.
    writer_waits: bool,
    stopped: Option<Fault>,
}

impl Queue {
    pub(crate) fn new(appends_max: usize, bytes_max: usize) -> Self {
        Self { state: Mutex::default(), arrived: Condvar::new(), appends_max, bytes_max }
    }

    /// Adds an append at the end, if there is room.
    pub(crate) fn push(&self, waiting: Waiting, urgent: bool) -> Result<(), AppendError> {
        let mut state = self.lock();
        if let Some(fault) = &state.stopped {
            return Err(AppendError::Stopped(fault.clone()));
        }
        let bytes = state.bytes + waiting.encoded.len();
        if state.waiting.len() >= self.appends_max || bytes > self.bytes_max {
            return Err(AppendError::Busy { waiting: state.waiting.len() });
        }
        // The writer is woken to take what is urgent, or to begin to wait for company.
        let first = state.waiting.is_empty() || (urgent && !state.urgent);
        state.waiting.push(waiting);
        state.bytes = bytes;
        state.urgent |= urgent;
        let wake = first && state.writer_waits;
        drop(state);
        if wake {
            self.arrived.notify_one();
        }
        Ok(())
    }

    /// Waits for appends and takes all that wait, into an empty `taken`. False when there will be none any more.
    pub(crate) fn take(&self, taken: &mut Vec<Waiting>) -> bool {
        let mut state = self.lock();
        state.writer_waits = true;
        let idle = |state: &mut State| state.waiting.is_empty() && state.stopped.is_none();
        state = self.arrived.wait_while(state, idle).unwrap_or_else(PoisonError::into_inner);
        let leisurely = |state: &mut State| !state.urgent && state.stopped.is_none();
        let waited = self.arrived.wait_timeout_while(state, RIDE_ALONG_MAX, leisurely);
        state = waited.unwrap_or_else(PoisonError::into_inner).0;
        state.writer_waits = false;
        std::mem::swap(&mut state.waiting, taken);
        (state.bytes, state.urgent) = (0, false);
        !taken.is_empty()
    }

    /// From now on appends are refused with this. Gives those that wait if they are not to be written.
    pub(crate) fn stop(&self, fault: Fault) {
        self.lock().stopped.get_or_insert(fault);
        self.arrived.notify_one();
    }

    /// Takes out what waits, without waiting for more.
    pub(crate) fn drain(&self) -> Vec<Waiting> {
        std::mem::take(&mut self.lock().waiting)
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
