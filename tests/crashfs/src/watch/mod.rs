//! What a harness looks out for: operations by kind and path, to count them, stop at them or fail them.

mod counters;
mod faults;
mod glob;

pub use self::{
    counters::Counters,
    faults::{Fault, FaultId, Times},
    glob::Glob,
};

use self::faults::ArmedFault;

/// Kinds of operations.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub enum Kind {
    /// Reading from a file. Not part of [`Kind::Any`]: a cut before or after it leaves the same.
    Read,
    /// Writing to a file. One `write(2)` of more than 1 MiB arrives as several.
    Write,
    /// fsync or fdatasync of a file. A write with `O_DSYNC` is a [`Kind::Write`].
    Sync,
    /// fsync of a directory; its path is the directory's own, and that of the root is empty.
    SyncDir,
    /// A new name for a new or an existing inode: create, mkdir, mknod, symlink, link.
    Create,
    /// Renaming; a pattern matches it by the old or by the new path.
    Rename,
    /// Removing a name: unlink, rmdir.
    Unlink,
    /// Changing a file's size or room other than by writing: truncate, `O_TRUNC`, fallocate.
    Truncate,
    /// All of the above but [`Kind::Read`].
    Any,
}

/// A kind of operations on some paths.
#[derive(Clone, Debug, Eq, Hash, PartialEq)]
pub struct Match {
    /// The kind.
    pub kind: Kind,
    /// The paths, below the mount point. A file that has no name any more keeps its last.
    pub path: Glob,
}

impl Match {
    /// Operations of a kind on paths that fit a pattern.
    pub fn new(kind: Kind, path: impl Into<Glob>) -> Self {
        Self { kind, path: path.into() }
    }

    fn fits(&self, kind: Kind, subject: &Subject) -> bool {
        (self.kind == kind || self.kind == Kind::Any && kind != Kind::Read)
            && (self.path.matches(&subject.path)
                || subject.new_path.as_deref().is_some_and(|path| self.path.matches(path)))
    }
}

/// Where the file system stops.
#[derive(Clone, Debug, Eq, Hash, PartialEq)]
pub struct Trigger {
    /// The operations that count.
    pub on: Match,
    /// At which of them, counted from 1 when the trigger is set.
    pub nth: u64,
    /// Before or after it took effect.
    pub moment: Moment,
}

/// On which side of an operation a [`Trigger`] stops.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum Moment {
    /// The operation has not taken effect.
    Before,
    /// It has, but nobody was told.
    After,
}

impl Trigger {
    /// Stops before the n-th operation of a kind on a path takes effect.
    pub fn before(nth: u64, kind: Kind, path: impl Into<Glob>) -> Self {
        Self { on: Match::new(kind, path), nth, moment: Moment::Before }
    }

    /// Stops after the n-th operation of a kind on a path took effect, and before anybody is told.
    pub fn after(nth: u64, kind: Kind, path: impl Into<Glob>) -> Self {
        Self { on: Match::new(kind, path), nth, moment: Moment::After }
    }
}

/// The path or paths of one operation.
#[derive(Clone, Debug, Eq, Hash, PartialEq)]
pub(crate) struct Subject {
    pub(crate) path: String,
    /// Of a rename.
    pub(crate) new_path: Option<String>,
}

/// All that is looked out for, and what was seen.
#[derive(Debug, Default)]
pub(crate) struct Watch {
    pub(crate) counters: Counters,
    triggers: Vec<ArmedTrigger>,
    faults: Vec<ArmedFault>,
    next_fault: u64,
}

#[derive(Debug)]
struct ArmedTrigger {
    trigger: Trigger,
    seen: u64,
}

/// What shall happen to one operation.
#[derive(Debug, Default)]
pub(crate) struct Verdict {
    pub(crate) stop: Option<Trigger>,
    pub(crate) fail: bool,
}

impl Watch {
    pub(crate) fn observe(&mut self, kind: Kind, subject: &Subject) -> Verdict {
        let mut verdict = Verdict::default();
        self.triggers.retain_mut(|armed| {
            let fires = armed.trigger.on.fits(kind, subject) && {
                armed.seen += 1;
                armed.seen == armed.trigger.nth
            };
            if fires {
                verdict.stop = Some(armed.trigger.clone());
            }
            !fires
        });
        for fault in &mut self.faults {
            verdict.fail |= fault.hits(kind, subject);
        }
        self.counters.count(kind, subject);
        verdict
    }

    pub(crate) fn arm(&mut self, trigger: Trigger) {
        self.triggers.push(ArmedTrigger { trigger, seen: 0 });
    }

    pub(crate) fn disarm(&mut self) {
        self.triggers.clear();
    }

    pub(crate) fn add_fault(&mut self, fault: Fault) -> FaultId {
        self.next_fault += 1;
        let id = FaultId(self.next_fault);
        self.faults.push(ArmedFault::new(id, fault));
        id
    }

    pub(crate) fn clear_fault(&mut self, id: FaultId) {
        self.faults.retain(|fault| fault.id != id);
    }

    pub(crate) fn clear_faults(&mut self) {
        self.faults.clear();
    }

    /// How often a fault has struck; 0 once it is cleared.
    pub(crate) fn strikes(&self, id: FaultId) -> u64 {
        self.faults.iter().find(|fault| fault.id == id).map_or(0, |fault| fault.strikes)
    }
}
