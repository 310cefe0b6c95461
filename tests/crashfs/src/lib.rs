//! A file system in memory that forgets, on command, what a power cut would forget.
//!
//! It is mounted with FUSE by the test harness itself. The program under test runs on it as on any other file
//! system. Every file and directory has two views: the **volatile** one that the running system sees, and the
//! **durable** one that a power cut leaves. Only fsync, fdatasync and `O_DSYNC` move things from one to the
//! other, and only those that POSIX and ext4 call for:
//!
//! | what | becomes durable by |
//! |---|---|
//! | bytes and size of a file | fsync or fdatasync of the file |
//! | mode, owner, times | fsync of the file |
//! | a name: created, linked, removed, renamed | fsync of the directory ([`Options::strict_dirs`]) |
//!
//! A rename is atomic: there is never neither name. What never reaches a FUSE file system makes nothing
//! durable: `sync_file_range(2)`, and also `sync(2)` and `syncfs(2)`, which answer success all the same.
//!
//! # A round
//!
//! ```no_run
//! use std::{process::Command, time::Duration};
//! use crashfs::{Crash, CrashFs, CutMode, Kind, Options, Trigger};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let fs = CrashFs::mount("/tmp/disk", Options::default())?;
//! fs.freeze_at(Trigger::after(3, Kind::Sync, "journal/*"));
//! let mut broker = Command::new("broker").arg("/tmp/disk").spawn()?;
//! let stopped = fs.wait_frozen(Duration::from_secs(10));
//! assert!(stopped.is_some(), "three syncs within ten seconds");
//! let crash = Crash::PowerCut { mode: CutMode::ForgetAll, seed: 7 };
//! let crashed = fs.crash(&mut broker, crash)?;
//! println!("{:?}", crashed.report);
//! // The broker can be started again, on the same mount.
//! # Ok(())
//! # }
//! ```
//!
//! [`CrashFs::crash`] does in the right order what can also be done step by step: kill the process, but do
//! **not** wait for it; [`cut`](CrashFs::cut) or [`release`](CrashFs::release), which answers what is held
//! with EIO; wait for the process; [`thaw`](CrashFs::thaw). To wait first would be to wait for ever: a
//! process does not die while the kernel waits for an answer on its behalf.
//!
//! # The crate
//!
//! [`CrashFs`] here is the harness' side. Every operation of the kernel comes in by `fuse`, goes through
//! `gate`, which holds and fails what `watch` looks out for, and takes effect in `tree`, which knows
//! nothing of FUSE. `mount` puts it in place and takes it away, and `leftover` what a killed harness left.

mod fuse;
mod gate;
mod leftover;
mod mount;
mod tree;
mod watch;

use std::{
    io,
    path::Path,
    process::{Child, ExitStatus},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

pub use crate::{
    gate::Frozen,
    mount::{Error, Reason},
    tree::{CutMode, CutReport, DirOrder, Entry, Snapshot, Torn},
    watch::{Counters, Fault, FaultId, Glob, Kind, Match, Moment, Times, Trigger},
};

use crate::{
    gate::Gate,
    mount::Mount,
    tree::{Rules, Tree, View},
};

/// What a file system is like from the start.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// Whether names become durable only by fsync of their directory. If not, every fsync of a file makes all
    /// directory operations before it durable, as the one journal of ext4 does in practice and no standard
    /// promises. `true` by default.
    pub strict_dirs: bool,
    /// How many bytes fit, counted in pages of 4 KiB of file data; no limit by default.
    pub capacity_bytes: Option<u64>,
}

impl Default for Options {
    fn default() -> Self {
        Self { strict_dirs: true, capacity_bytes: None }
    }
}

/// How a process is ended by [`CrashFs::crash`].
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Crash {
    /// `kill -9` only: what the process wrote stays, fsynced or not.
    Kill,
    /// The process is killed, and the power goes.
    PowerCut {
        /// What happens to what was not fsynced.
        mode: CutMode,
        /// Decides what is random; the same seed decides the same way about the same state.
        seed: u64,
    },
}

/// What [`CrashFs::crash`] did.
#[derive(Clone, Debug)]
pub struct Crashed {
    /// How the process ended.
    pub status: ExitStatus,
    /// What the power cut kept and forgot; `None` after [`Crash::Kill`].
    pub report: Option<CutReport>,
}

/// A mounted file system. Dropping it unmounts it, also while it is in use.
#[derive(Debug)]
pub struct CrashFs {
    // Before the mount, so that nothing is held any more when that goes.
    _switch: OffSwitch,
    mount: Mount,
    gate: Arc<Gate>,
}

impl CrashFs {
    /// Whether FUSE can be used here, found out by using it.
    pub fn available() -> Result<(), Reason> {
        static PROBES: AtomicU64 = AtomicU64::new(0);
        let probe = PROBES.fetch_add(1, Ordering::Relaxed);
        let name = format!("crashfs-probe-{}-{probe}", std::process::id());
        let dir = std::env::temp_dir().join(name);
        let mounted = Self::mount(&dir, Options::default()).map(drop);
        // It is empty and ours; where it could not be made, there is nothing to remove.
        let _ = std::fs::remove_dir(&dir);
        mounted.map_err(|error| match error {
            Error::Unavailable(reason) => reason,
            other => Reason::NotPermitted(io::Error::other(other)),
        })
    }

    /// Mounts an empty file system; the directory is made if need be. Mounts that killed harnesses left,
    /// there or elsewhere, are removed; one that is alive is an error.
    pub fn mount(dir: impl AsRef<Path>, options: Options) -> Result<Self, Error> {
        let Options { strict_dirs, capacity_bytes } = options;
        let gate =
            Arc::new(Gate::new(Tree::new(Rules { strict_dirs, capacity_bytes, syncs_ignored: false })));
        let mount = Mount::new(dir.as_ref(), Arc::clone(&gate))?;
        Ok(Self { _switch: OffSwitch(Arc::clone(&gate)), mount, gate })
    }

    /// The mount point, as an absolute path.
    pub fn dir(&self) -> &Path {
        self.mount.dir()
    }
}

/// Crashing.
impl CrashFs {
    /// Sets a trigger: when it fires, the file system is frozen, and the operation that it stopped and all
    /// later ones are held. Several can be set; each fires once. [`release`](Self::release) and
    /// [`cut`](Self::cut) take away those that have not fired.
    pub fn freeze_at(&self, trigger: Trigger) {
        self.gate.state().watch.arm(trigger);
    }

    /// Freezes at once, between two operations.
    pub fn freeze(&self) {
        self.gate.freeze();
    }

    /// Waits until a trigger has fired or [`freeze`](Self::freeze) was called. `None` when the time is over.
    pub fn wait_frozen(&self, timeout: Duration) -> Option<Frozen> {
        self.gate.wait_frozen(timeout)
    }

    /// Switches off and forgets nothing: what is held is answered with EIO without taking effect (a write
    /// stopped *after* it took effect has), and so is what follows, until [`thaw`](Self::thaw).
    pub fn release(&self) {
        self.gate.release();
    }

    /// The power cut. Switches off as [`release`](Self::release) does, forgets what the mode says, and
    /// makes the volatile view equal to the durable one. Files that are still open answer EIO from now on,
    /// even after [`thaw`](Self::thaw).
    pub fn cut(&self, mode: CutMode, seed: u64) -> CutReport {
        self.gate.cut(mode, seed)
    }

    /// Runs again after [`release`](Self::release) or [`cut`](Self::cut). After a freeze alone, what was held
    /// takes effect and is answered, as by a disk that had stalled.
    pub fn thaw(&self) {
        self.gate.thaw();
    }

    /// Ends a process that runs on this file system, and everything that goes with it, in the right order:
    /// freeze, kill, cut or release, wait, thaw. Whether it was frozen before makes no difference.
    pub fn crash(&self, process: &mut Child, crash: Crash) -> io::Result<Crashed> {
        self.freeze();
        process.kill().inspect_err(|_| self.thaw())?;
        let report = match crash {
            Crash::Kill => {
                self.release();
                None
            }
            Crash::PowerCut { mode, seed } => Some(self.cut(mode, seed)),
        };
        let status = process.wait()?;
        self.thaw();
        Ok(Crashed { status, report })
    }
}

/// Looking.
impl CrashFs {
    /// How many operations there were since the mount.
    pub fn counters(&self) -> Counters {
        self.gate.state().watch.counters.clone()
    }

    /// What a power cut would leave now with [`CutMode::ForgetAll`].
    pub fn durable_snapshot(&self) -> Snapshot {
        self.gate.state().tree.snapshot(View::Durable)
    }

    /// What the running system sees, also while it is frozen.
    pub fn volatile_snapshot(&self) -> Snapshot {
        self.gate.state().tree.snapshot(View::Volatile)
    }

    /// Makes everything durable, whatever the faults: for what was there before the test begins.
    pub fn sync_all(&self) {
        self.gate.state().tree.sync_all();
    }

    /// What a disk does to those who use it.
    pub fn faults(&self) -> Faults<'_> {
        Faults { gate: &self.gate }
    }
}

/// The faults of one file system. They stay over cuts until they are cleared.
#[derive(Clone, Copy, Debug)]
pub struct Faults<'a> {
    gate: &'a Gate,
}

impl Faults<'_> {
    /// Makes operations fail with EIO.
    pub fn inject(self, fault: Fault) -> FaultId {
        self.gate.state().watch.add_fault(fault)
    }

    /// Ends a fault.
    pub fn clear(self, id: FaultId) {
        self.gate.state().watch.clear_fault(id);
    }

    /// Ends all faults that were injected.
    pub fn clear_all(self) {
        self.gate.state().watch.clear_faults();
    }

    /// How many operations a fault has failed.
    pub fn strikes(self, id: FaultId) -> u64 {
        self.gate.state().watch.strikes(id)
    }

    /// Waits until a fault has failed that many operations; `false` when the time is over first.
    pub fn wait_strikes(self, id: FaultId, strikes: u64, timeout: Duration) -> bool {
        self.gate.wait_struck(id, strikes, timeout)
    }

    /// Sets how many bytes fit; `None` is no limit. A limit below what is used deletes nothing: overwriting
    /// works, and whatever needs a new page of 4 KiB gets ENOSPC. A write of which a part fits is cut short.
    pub fn set_capacity(self, bytes: Option<u64>) {
        self.gate.state().tree.rules.capacity_bytes = bytes;
    }

    /// How many bytes are used, in whole pages of 4 KiB of file data; holes take no room, names neither.
    pub fn used_bytes(self) -> u64 {
        self.gate.state().tree.used_bytes()
    }

    /// Turns fsync off and on: while it is off, every fsync, fdatasync and `O_DSYNC` answers success and
    /// makes nothing durable. With this a test must find losses, or it cannot find any.
    pub fn ignore_syncs(self, ignored: bool) {
        self.gate.state().tree.rules.syncs_ignored = ignored;
    }
}

/// Lets everything go that is held when the file system goes.
#[derive(Debug)]
struct OffSwitch(Arc<Gate>);

impl Drop for OffSwitch {
    fn drop(&mut self) {
        self.0.release();
    }
}
