//! All that was seen while a soak ran.

use std::{cell::RefCell, collections::BTreeMap, io, time::Duration};

use device_sim::load::{Progress, now};
use tokio::time::Instant;

use super::schedule::{Ill, Planned};

/// An end that comes so soon after a fault comes from it.
const AFTERMATH: Duration = Duration::from_secs(2);
/// What a broker says that ends as it should when the journal fails.
const AS_IT_SHOULD: &str = "the log can acknowledge nothing more";

/// What the broker's process needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Need {
    /// Resident memory, in bytes.
    pub resident_bytes: u64,
    /// Open file descriptors.
    pub open_files: u64,
    /// Threads.
    pub threads: u64,
}

/// One look.
#[derive(Debug, Clone)]
pub struct Look {
    /// When.
    pub at: Instant,
    /// Which of the broker's processes, counted from 1.
    pub life: u32,
    /// When that one began to serve.
    pub born: Instant,
    /// What it needs; none while there is no process.
    pub need: Option<Need>,
    /// What is wrong with the disk.
    pub ill: Option<Ill>,
    /// Who was sent away since the last look, by the reason.
    pub sent_away: BTreeMap<String, u64>,
}

/// A fault that is over.
#[derive(Debug, Clone, Copy)]
pub struct Fault {
    /// What.
    pub ill: Ill,
    /// From when on.
    pub from: Instant,
    /// Until when.
    pub to: Instant,
    /// Whether anything has met it.
    pub has_come: bool,
}

/// Everything.
#[derive(Debug)]
pub struct Seen {
    /// When the load began.
    pub begun: Instant,
    /// Each second.
    pub looks: Vec<Look>,
    /// In the order in which they came.
    pub faults: Vec<Fault>,
    /// How often the broker ended because the journal failed, as it should.
    pub ends: u32,
    /// How often it was started while the journal still failed, and ended at once.
    pub failed_starts: u32,
    /// Ends that nothing explains.
    pub unforeseen: Vec<String>,
    ill: Option<(Ill, Instant)>,
    life: u32,
    born: Instant,
    sent_away: BTreeMap<String, u64>,
    /// Bytes that were said by processes that have ended.
    said_before: usize,
}

/// What is being seen, by all who look on. They take turns.
#[derive(Debug)]
pub struct Watch(RefCell<Seen>);

impl Need {
    /// Of a process, as Linux says.
    pub fn of(process: u32) -> io::Result<Self> {
        let read = || {
            let process = procfs::process::Process::new(i32::try_from(process).unwrap_or(i32::MAX))?;
            let status = process.status()?;
            // A process that has ended, and whose end nobody has seen yet, has none.
            let kilobytes = status.vmrss.ok_or(procfs::ProcError::NotFound(None))?;
            Ok::<_, procfs::ProcError>(Self {
                resident_bytes: kilobytes * 1_024,
                open_files: process.fd_count()? as u64,
                threads: status.threads,
            })
        };
        read().map_err(io::Error::other)
    }
}

impl Watch {
    /// Begins, with a broker that serves.
    pub fn begin() -> Self {
        let begun = now();
        Self(RefCell::new(Seen {
            begun,
            looks: Vec::new(),
            faults: Vec::new(),
            ends: 0,
            failed_starts: 0,
            unforeseen: Vec::new(),
            ill: None,
            life: 1,
            born: begun,
            sent_away: BTreeMap::new(),
            said_before: 0,
        }))
    }

    /// When the load began.
    pub fn begun(&self) -> Instant {
        self.0.borrow().begun
    }

    /// A look at the broker's process, if there is one, and at who was sent away; it is also given back.
    pub fn look(&self, process: Option<u32>, progress: &Progress) -> Look {
        let mut seen = self.0.borrow_mut();
        let sent_away = progress.sent_away();
        let since = |(reason, times): (&String, &u64)| {
            let more = times - seen.sent_away.get(reason).copied().unwrap_or(0);
            (more > 0).then(|| (reason.clone(), more))
        };
        let look = Look {
            at: now(),
            life: seen.life,
            born: seen.born,
            // It may end in this moment.
            need: process.and_then(|id| Need::of(id).ok()),
            ill: seen.ill.map(|(ill, _)| ill),
            sent_away: sent_away.iter().filter_map(since).collect(),
        };
        seen.sent_away = sent_away;
        seen.looks.push(look.clone());
        look
    }

    /// A fault begins.
    pub fn falls_ill(&self, planned: &Planned) {
        self.0.borrow_mut().ill = Some((planned.ill, now()));
    }

    /// It is over.
    pub fn is_well(&self, has_come: bool) -> Option<Fault> {
        let mut seen = self.0.borrow_mut();
        let (ill, from) = seen.ill.take()?;
        let fault = Fault { ill, from, to: now(), has_come };
        seen.faults.push(fault);
        Some(fault)
    }

    /// How often the broker has ended as it should.
    pub fn ends(&self) -> u32 {
        self.0.borrow().ends
    }

    /// The broker has ended, having said this.
    pub fn has_ended(&self, said: &str) {
        let mut seen = self.0.borrow_mut();
        // Others of its threads may speak after the one that says why.
        let by_this_one = said.get(seen.said_before..).unwrap_or(said);
        let last = by_this_one.trim_end().lines().next_back().unwrap_or("(nothing)");
        seen.said_before = said.len();
        if seen.journal_fails() && by_this_one.contains(AS_IT_SHOULD) {
            seen.ends += 1;
        } else {
            let what = format!("{}: the broker has ended: {last}", seen.moment());
            seen.unforeseen.push(what);
        }
    }

    /// The broker does not start, having said this.
    pub fn does_not_start(&self, said: &str) {
        let mut seen = self.0.borrow_mut();
        if seen.journal_fails() {
            seen.failed_starts += 1;
        } else {
            let last = said.trim_end().lines().next_back().unwrap_or("(nothing)");
            let what = format!("{}: the broker does not start: {last}", seen.moment());
            seen.unforeseen.push(what);
        }
    }

    /// It serves again, as another process.
    pub fn serves(&self) {
        let mut seen = self.0.borrow_mut();
        seen.life += 1;
        seen.born = now();
    }

    /// All of it.
    pub fn into_seen(self) -> Seen {
        self.0.into_inner()
    }
}

impl Seen {
    /// Whether the journal fails, or has a moment ago.
    fn journal_fails(&self) -> bool {
        let now = now();
        let last = self.faults.last().filter(|fault| now.duration_since(fault.to) <= AFTERMATH);
        let ills = self.ill.map(|(ill, _)| ill).into_iter().chain(last.map(|fault| fault.ill));
        ills.into_iter().any(Ill::ends_the_broker)
    }

    /// In words.
    fn moment(&self) -> String {
        let seconds = now().duration_since(self.begun).as_secs();
        let ill = self.ill.map_or("the disk well", |(ill, _)| ill.as_str());
        format!("after {}:{:02}, {ill}", seconds / 60, seconds % 60)
    }
}
