//! One directory twice, and the operations on directories that no fsync has made durable yet.

use std::{
    collections::{BTreeMap, BTreeSet},
    ffi::OsString,
};

use super::Ino;

/// Names as the running system sees them, and as a power cut would leave them.
#[derive(Clone, Debug, Default)]
pub(crate) struct Dir {
    pub(crate) now: BTreeMap<OsString, Ino>,
    pub(crate) durable: BTreeMap<OsString, Ino>,
}

/// What one name of one directory led to before and after an operation.
#[derive(Clone, Debug)]
pub(crate) struct Change {
    pub(crate) dir: Ino,
    pub(crate) name: OsString,
    pub(crate) before: Option<Ino>,
    pub(crate) after: Option<Ino>,
}

/// One operation: all of its changes become durable, or none. A rename that lost one half would leave a file
/// under two names or, worse, under none; no journaling file system does that.
#[derive(Clone, Debug)]
pub(crate) struct DirOp(pub(crate) Vec<Change>);

impl DirOp {
    /// The directories that it touches, each once.
    pub(crate) fn dirs(&self) -> impl Iterator<Item = Ino> + '_ {
        let repeats = |at: usize| self.0[..at].iter().any(|change| change.dir == self.0[at].dir);
        (0..self.0.len()).filter(move |at| !repeats(*at)).map(|at| self.0[at].dir)
    }

    pub(crate) fn mentions(&self, ino: Ino) -> bool {
        self.0.iter().any(|change| change.before == Some(ino) || change.after == Some(ino))
    }
}

/// Splits off what an fsync of `dir` makes durable: its own operations, and before them every operation of a
/// directory that one of them also touches. A rename into `dir` cannot stand on the disk without what
/// happened to its source before.
pub(crate) fn take_with_dependencies(pending: &mut Vec<DirOp>, dir: Ino) -> Vec<DirOp> {
    let mut dirs = BTreeSet::from([dir]);
    let mut taken = vec![false; pending.len()];
    for (op, taken) in pending.iter().zip(&mut taken).rev() {
        if op.dirs().any(|dir| dirs.contains(&dir)) {
            dirs.extend(op.dirs());
            *taken = true;
        }
    }
    let mut taken = taken.into_iter();
    pending.extract_if(.., |_| taken.next() == Some(true)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn op(dirs: &[Ino]) -> DirOp {
        let change = |dir: &Ino| Change { dir: *dir, name: "x".into(), before: None, after: Some(9) };
        DirOp(dirs.iter().map(change).collect())
    }

    fn dirs(ops: &[DirOp]) -> Vec<Vec<Ino>> {
        ops.iter().map(|op| op.dirs().collect()).collect()
    }

    #[test]
    fn what_a_rename_rests_on_becomes_durable_with_it() {
        let mut pending = vec![op(&[1]), op(&[3]), op(&[1, 2]), op(&[1])];
        let taken = take_with_dependencies(&mut pending, 2);
        assert_eq!(dirs(&taken), [vec![1], vec![1, 2]]);
        assert_eq!(dirs(&pending), [vec![3], vec![1]]);
    }
}
