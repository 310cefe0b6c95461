//! The one door through which every operation goes: it lets pass, holds, fails or refuses.

use std::{
    ffi::OsStr,
    sync::{Condvar, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use fuser::Errno;

use crate::{
    tree::{CutMode, CutReport, Ino, Tree},
    watch::{FaultId, Kind, Moment, Subject, Trigger, Verdict, Watch},
};

/// Where and by what the file system was stopped.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Frozen {
    /// The trigger, or nothing if [`CrashFs::freeze`](crate::CrashFs::freeze) was called.
    pub trigger: Option<Trigger>,
    /// The path of the operation that it stopped at; of a rename the old one.
    pub path: String,
}

/// The state and the lock around it. One lock is enough: what is done under it takes a microsecond or two,
/// and the way through the kernel ten times that.
#[derive(Debug)]
pub(crate) struct Gate {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug)]
pub(crate) struct State {
    pub(crate) tree: Tree,
    pub(crate) watch: Watch,
    phase: Phase,
    /// How often the machine went off. An operation that was held while it did belongs to a process that is
    /// dead, and must not take effect even if everything runs again by the time it wakes up.
    outages: u64,
}

#[derive(Debug)]
enum Phase {
    Running,
    /// Every operation is held.
    Frozen(Frozen),
    /// Every operation is answered with EIO.
    Off,
}

/// What an operation is about, as far as it is counted, held or failed.
#[derive(Debug)]
pub(crate) enum Act<'a> {
    /// Neither changes what a cut leaves nor reads from a file.
    Other,
    Read(Ino),
    Write {
        ino: Ino,
        offset: u64,
        data: &'a [u8],
    },
    Sync {
        ino: Ino,
        handle: u64,
    },
    SyncDir {
        ino: Ino,
        handle: u64,
    },
    Truncate(Ino),
    Create(Ino, &'a OsStr),
    Unlink(Ino, &'a OsStr),
    Rename {
        from: (Ino, &'a OsStr),
        to: (Ino, &'a OsStr),
    },
}

/// For the threads that serve the kernel.
impl Gate {
    pub(crate) fn new(tree: Tree) -> Self {
        let state = State { tree, watch: Watch::default(), phase: Phase::Running, outages: 0 };
        Self { state: Mutex::new(state), changed: Condvar::new() }
    }

    /// Lets an operation take effect when nothing speaks against it.
    pub(crate) fn run<T>(
        &self,
        act: &Act<'_>,
        apply: impl FnOnce(&mut Tree) -> Result<T, Errno>,
    ) -> Result<T, Errno> {
        // A thread that panicked may have left anything: a dead disk is the honest answer.
        let state = self.state.lock().map_err(|_| Errno::EIO)?;
        let mut state = self.admit(state)?;
        let Some((kind, subject)) = act.observed(&state.tree) else { return apply(&mut state.tree) };
        let Verdict { stop, fail } = state.watch.observe(kind, &subject);
        let (stop_before, stop_after) = match stop {
            Some(trigger) if trigger.moment == Moment::Before => (Some(trigger), None),
            trigger => (None, trigger),
        };
        if fail {
            self.changed.notify_all();
        }
        if stop_before.is_some() {
            if let Act::Write { ino, offset, data } = act {
                state.tree.note_write(*ino, *offset, data);
            }
            state = self.hold(state, Frozen { trigger: stop_before, path: subject.path.clone() })?;
        }
        let result = if fail { Err(act.fail(&mut state.tree)) } else { apply(&mut state.tree) };
        if stop_after.is_some() {
            drop(self.hold(state, Frozen { trigger: stop_after, path: subject.path })?);
        }
        result
    }

    /// For what the kernel only tells: it is never held, and works on any state.
    pub(crate) fn tell(&self, apply: impl FnOnce(&mut Tree)) {
        apply(&mut self.state.lock().unwrap_or_else(PoisonError::into_inner).tree);
    }

    fn hold<'a>(
        &'a self,
        mut state: MutexGuard<'a, State>,
        frozen: Frozen,
    ) -> Result<MutexGuard<'a, State>, Errno> {
        state.phase = Phase::Frozen(frozen);
        self.changed.notify_all();
        self.admit(state)
    }

    fn admit<'a>(&'a self, state: MutexGuard<'a, State>) -> Result<MutexGuard<'a, State>, Errno> {
        let outages = state.outages;
        let held = |state: &mut State| matches!(state.phase, Phase::Frozen(_)) && state.outages == outages;
        let state = self.changed.wait_while(state, held).map_err(|_| Errno::EIO)?;
        let refused = matches!(state.phase, Phase::Off) || state.outages != outages;
        if refused { Err(Errno::EIO) } else { Ok(state) }
    }
}

/// For the harness.
impl Gate {
    pub(crate) fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no thread of the file system panics; if one did, its message stands above")
    }

    pub(crate) fn freeze(&self) {
        let mut state = self.state();
        if matches!(state.phase, Phase::Running) {
            state.phase = Phase::Frozen(Frozen { trigger: None, path: String::new() });
            self.changed.notify_all();
        }
    }

    pub(crate) fn wait_frozen(&self, timeout: Duration) -> Option<Frozen> {
        let running = |state: &mut State| !matches!(state.phase, Phase::Frozen(_));
        let waited = self.changed.wait_timeout_while(self.state(), timeout, running);
        let (state, _) = waited.expect("no thread of the file system panics");
        if let Phase::Frozen(frozen) = &state.phase { Some(frozen.clone()) } else { None }
    }

    /// Waits until a fault has struck so often; `false` when the time is over first.
    pub(crate) fn wait_struck(&self, id: FaultId, strikes: u64, timeout: Duration) -> bool {
        let fewer = |state: &mut State| state.watch.strikes(id) < strikes;
        let waited = self.changed.wait_timeout_while(self.state(), timeout, fewer);
        let (_state, result) = waited.expect("no thread of the file system panics");
        !result.timed_out()
    }

    /// Switches off. Also used when everything ends, so it minds no panic.
    pub(crate) fn release(&self) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.phase = Phase::Off;
        state.outages += 1;
        state.watch.disarm();
        self.changed.notify_all();
    }

    pub(crate) fn cut(&self, mode: CutMode, seed: u64) -> CutReport {
        self.release();
        self.state().tree.cut(mode, seed)
    }

    pub(crate) fn thaw(&self) {
        self.state().phase = Phase::Running;
        self.changed.notify_all();
    }
}

impl Act<'_> {
    fn observed(&self, tree: &Tree) -> Option<(Kind, Subject)> {
        let (kind, path) = match self {
            Self::Other => return None,
            Self::Read(ino) => (Kind::Read, tree.path(*ino)),
            Self::Write { ino, .. } => (Kind::Write, tree.path(*ino)),
            Self::Sync { ino, .. } => (Kind::Sync, tree.path(*ino)),
            Self::SyncDir { ino, .. } => (Kind::SyncDir, tree.path(*ino)),
            Self::Truncate(ino) => (Kind::Truncate, tree.path(*ino)),
            Self::Create(parent, name) => (Kind::Create, tree.path_of_name(*parent, name)),
            Self::Unlink(parent, name) => (Kind::Unlink, tree.path_of_name(*parent, name)),
            Self::Rename { from, .. } => (Kind::Rename, tree.path_of_name(from.0, from.1)),
        };
        let new_path = match self {
            Self::Rename { to, .. } => Some(tree.path_of_name(to.0, to.1)),
            _ => None,
        };
        Some((kind, Subject { path, new_path }))
    }

    /// What remains of an operation that reports EIO.
    fn fail(&self, tree: &mut Tree) -> Errno {
        let result = match self {
            Self::Sync { handle, .. } => tree.fail_sync(*handle),
            Self::SyncDir { handle, .. } => tree.fail_sync_dir(*handle),
            _ => Ok(()),
        };
        result.err().unwrap_or(Errno::EIO)
    }
}
