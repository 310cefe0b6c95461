//! What else than the journal knows of entries: the snapshots and the store.
//!
//! Both are made from the journal, from what is durable in it, and after it: the folder of a new log gets its
//! journal first. So whatever they know of, the journal must have; if it has not, it has lost something, or it
//! is not the journal that they were made from. They are asked before anything is changed, by a start as well
//! as by `verify` and `repair`. What cannot be read of them claims nothing, since either may be deleted or
//! damaged at any time and comes back from the journal; only where there is no journal at all, that they are
//! there is enough.

use std::path::{Path, PathBuf};

use super::entry::Position;
use super::error::{Contradiction, DiskError};
use super::journal::disk::{Disk, OsDisk};
use super::journal::format::JournalId;
use super::journal::segment::list_segments;
use super::journal::start::Standing;
use super::local::LogConfig;
use super::snapshots::claims_in;
use super::store::Store;

/// What one witness says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Claim {
    /// Who says it: a file or a folder.
    pub(crate) witness: PathBuf,
    /// The journal that it was made from; none if that cannot be read.
    pub(crate) journal: Option<JournalId>,
    /// The last position that it knows of; none if that cannot be read, or it knows of none.
    pub(crate) seen: Option<Position>,
}

/// All that can be asked.
#[derive(Debug)]
pub(crate) struct Witnesses {
    pub(crate) claims: Vec<Claim>,
    /// The store, if it was asked and can be read.
    pub(crate) store: Option<Store>,
}

impl Witnesses {
    /// Asks the snapshots, and the store if nobody else has it open: only who has locked the log may know.
    pub(crate) fn ask(config: &LogConfig, with_store: bool) -> Result<Self, DiskError> {
        let mut claims = claims_in(&OsDisk, &config.snapshot_folder())?;
        let folder = config.store_folder();
        let there = folder.read_dir().is_ok_and(|mut files| files.next().is_some());
        let open = |folder| Store::open_of_any(folder, config.store_limits()).ok();
        let store = (there && with_store).then(|| open(&folder)).flatten();
        if there {
            let journal = store.as_ref().and_then(Store::journal);
            let seen = store.as_ref().and_then(|store| store.seen().ok()).flatten();
            claims.push(Claim { witness: folder, journal, seen });
        }
        Ok(Self { claims, store })
    }

    /// The claims of those that were made from this journal.
    pub(crate) fn of(&self, journal: JournalId) -> impl Iterator<Item = &Claim> {
        self.claims.iter().filter(move |claim| claim.journal == Some(journal))
    }
}

/// What is claimed against the journal in `folder`, which stands so, or is not there: of each kind, what the one
/// says that knows most.
pub(crate) fn contradictions(
    folder: &Path,
    standing: Option<Standing>,
    claims: &[Claim],
) -> Vec<Contradiction> {
    let journal = folder.to_owned();
    let Some(Standing { id, head }) = standing else {
        let none = furthest(claims.iter()).map(|Claim { witness, seen, .. }| {
            let (witness, seen) = (witness.clone(), *seen);
            Contradiction::NoJournal { journal, witness, seen }
        });
        return none.into_iter().collect();
    };
    let foreign =
        claims.iter().find(|claim| claim.seen.is_some() && claim.journal.is_some_and(|own| own != id));
    let foreign =
        foreign.map(|claim| Contradiction::AnotherJournal { journal, witness: claim.witness.clone() });
    let own = furthest(claims.iter().filter(|claim| claim.journal == Some(id)));
    let behind = own.and_then(|claim| {
        let seen = claim.seen.filter(|_| claim.seen > head)?;
        Some(Contradiction::JournalBehind { witness: claim.witness.clone(), seen, journal: head })
    });
    foreign.into_iter().chain(behind).collect()
}

/// The one that knows most, the first of several that know as much.
fn furthest<'a>(claims: impl DoubleEndedIterator<Item = &'a Claim>) -> Option<&'a Claim> {
    claims.rev().max_by_key(|claim| claim.seen)
}

/// Whether there is anything of a log in this folder.
pub fn log_exists(folder: &Path) -> Result<bool, DiskError> {
    let config = LogConfig::new(folder);
    let journal = list_segments(&OsDisk as &dyn Disk, &config.journal_folder())?;
    Ok(!journal.is_empty() || !Witnesses::ask(&config, false)?.claims.is_empty())
}
