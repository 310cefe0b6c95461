//! What a soak showed: for people as text, for programs as JSON.

use std::{collections::BTreeMap, fmt, time::Duration};

use device_sim::load::{
    self, Record,
    compare::compare,
    logged::Logged,
    record::{Outage, Records},
    report::{Percentiles, milliseconds},
};
use serde::Serialize;
use tokio::time::Instant;

use super::{
    flat::{self, Judged, Moment},
    run::Order,
    schedule::Ill,
    seen::{self, Look, Seen},
};

/// After a fault somebody is given a number within this time: a start, and a page's pause until it asks again.
pub const SERVES_AGAIN_MAX: Duration = Duration::from_secs(15);

/// What a soak showed. As JSON, `docs/soak.md` describes it.
#[derive(Debug, Serialize)]
pub struct Report {
    /// Where chance began.
    pub seed: u64,
    /// For how long sign-ins began, in seconds.
    pub lasts_s: f64,
    /// How many phones there were.
    pub phones: usize,
    /// Each fault of the disk.
    pub faults: Vec<Fault>,
    /// How often the broker ended because the journal failed, as it should.
    pub ends: u32,
    /// How often it was started while the journal still failed.
    pub failed_starts: u32,
    /// Ends, failed starts and panics that nothing explains.
    pub unforeseen: Vec<String>,
    /// Whether it needs no more at the end than at the beginning.
    pub flat: Flat,
    /// Each second.
    pub seconds: Vec<Second>,
    /// What became of the sign-ins.
    pub load: load::Report,
}

/// One fault.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct Fault {
    /// What.
    pub ill: Ill,
    /// Seconds from the beginning.
    pub from_s: f64,
    /// The same, of its end.
    pub to_s: f64,
    /// Whether anything has met it.
    pub has_come: bool,
    /// Numbers that pages were given meanwhile.
    pub numbers: usize,
    /// From its end until a page was given a number, in milliseconds.
    pub serves_again_ms: Option<u64>,
}

/// What is to be flat, each judged by the rule in [`flat`].
#[derive(Debug, Serialize)]
pub struct Flat {
    /// Resident memory, in bytes.
    pub resident_bytes: Option<Judged>,
    /// Open file descriptors.
    pub open_files: Option<Judged>,
    /// Threads.
    pub threads: Option<Judged>,
    /// From when a sign-in was due until its number, in microseconds.
    pub request_to_number_us: Option<Judged>,
    /// From a phone's answer until the outcome, in microseconds.
    pub answer_to_outcome_us: Option<Judged>,
}

/// One second.
#[derive(Debug, Clone, Serialize)]
pub struct Second {
    /// Its end, in seconds from the beginning.
    pub at_s: f64,
    /// Which of the broker's processes there was, counted from 1.
    pub life: u32,
    /// What was wrong with the disk.
    pub ill: Option<Ill>,
    /// Whether it counts for what is to be flat.
    pub is_quiet: bool,
    /// Resident memory; none without a process.
    pub resident_bytes: Option<u64>,
    /// Open file descriptors.
    pub open_files: Option<u64>,
    /// Threads.
    pub threads: Option<u64>,
    /// Sign-ins that had their outcome in it.
    pub outcomes: usize,
    /// From when a sign-in was due until its number, of those that had it in this second.
    pub request_to_number_us: Option<Times>,
    /// From a phone's answer until the outcome, the same.
    pub answer_to_outcome_us: Option<Times>,
    /// Who was sent away for now, or lost the broker, by the reason.
    pub sent_away: BTreeMap<String, u64>,
}

/// Times of one second, in microseconds.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct Times {
    /// Half were no longer.
    pub p50: u64,
    /// 99 of 100.
    pub p99: u64,
}

impl Report {
    /// Of all that was seen.
    pub fn new(order: &Order, records: &Records, logged: &Logged, seen: &Seen) -> Self {
        // Only what a fault may have held up may have expired for it.
        let outages: Vec<_> = seen
            .faults
            .iter()
            .map(|fault| Outage { from: fault.from, until: fault.to + SERVES_AGAIN_MAX })
            .collect();
        let compared = compare(records.all(), logged, &outages);
        let seconds = seconds(records.all(), seen, order.lasts);
        Self {
            seed: order.seed,
            lasts_s: order.lasts.as_secs_f64(),
            phones: order.phones,
            faults: faults(records.all(), seen),
            ends: seen.ends,
            failed_starts: seen.failed_starts,
            unforeseen: seen.unforeseen.clone(),
            flat: Flat::of(&seconds),
            load: load::Report::new(records, &compared, None, sent_away(&seconds)),
            seconds,
        }
    }

    /// Everything that is not as it should be.
    pub fn failures(&self) -> Vec<String> {
        let mut failures = self.unforeseen.clone();
        if self.load.mismatches > 0 {
            failures.push(format!("{} sign-ins are not as they should be", self.load.mismatches));
        }
        for ill in Ill::ALL {
            // Of a sled that has failed too often nobody asks anything until the next start.
            let mut all = self.faults.iter().filter(|fault| fault.ill == ill).peekable();
            if all.peek().is_some() && !all.any(|fault| fault.has_come) {
                failures.push(format!("{ill}: nothing has ever met it"));
            }
        }
        for fault in &self.faults {
            let what = format!("{} at {}", fault.ill, clock(fault.from_s));
            if matches!(fault.ill, Ill::Read | Ill::Store) && fault.numbers == 0 {
                failures.push(format!("{what}: nobody was served meanwhile"));
            }
            let in_time = |ms| u128::from(ms) <= SERVES_AGAIN_MAX.as_millis();
            // After the last sign-in has begun nobody asks for a number.
            let is_asked = fault.to_s + SERVES_AGAIN_MAX.as_secs_f64() <= self.lasts_s;
            if is_asked && !fault.serves_again_ms.is_some_and(in_time) {
                let limit = SERVES_AGAIN_MAX.as_secs();
                failures.push(format!("{what}: nobody was served within {limit} s after it"));
            }
        }
        for (name, judged) in self.flat.all() {
            if judged.is_some_and(|judged| judged.is_flat == Some(false)) {
                failures.push(format!("{name} is not flat"));
            }
        }
        failures
    }
}

impl Flat {
    fn of(seconds: &[Second]) -> Self {
        let quiet = |value: &dyn Fn(&Second) -> Option<u64>| -> Vec<Moment> {
            let moments = seconds.iter().filter(|second| second.is_quiet).filter_map(|second| {
                let value = load::canvas::number(value(second)?);
                Some(Moment { life: second.life, at_s: second.at_s, value })
            });
            moments.collect()
        };
        Self {
            resident_bytes: flat::need(&quiet(&|second| second.resident_bytes), flat::MEMORY_MAX),
            open_files: flat::need(&quiet(&|second| second.open_files), flat::FILES_MAX),
            threads: flat::need(&quiet(&|second| second.threads), flat::THREADS_MAX),
            request_to_number_us: flat::latency(&quiet(&|second| Some(second.request_to_number_us?.p50))),
            answer_to_outcome_us: flat::latency(&quiet(&|second| Some(second.answer_to_outcome_us?.p50))),
        }
    }

    /// Each with its name.
    pub fn all(&self) -> [(&'static str, Option<Judged>); 5] {
        [
            ("memory", self.resident_bytes),
            ("open files", self.open_files),
            ("threads", self.threads),
            ("request to number", self.request_to_number_us),
            ("answer to outcome", self.answer_to_outcome_us),
        ]
    }
}

/// In all of them together.
fn sent_away(seconds: &[Second]) -> BTreeMap<String, u64> {
    let mut all = BTreeMap::new();
    for (reason, times) in seconds.iter().flat_map(|second| &second.sent_away) {
        *all.entry(reason.clone()).or_default() += times;
    }
    all
}

fn number_at(record: &Record) -> Option<Instant> {
    Some(record.due + record.to_number?)
}

fn outcome_at(record: &Record) -> Option<Instant> {
    Some(record.due + record.to_outcome?)
}

fn faults(records: &[Record], seen: &Seen) -> Vec<Fault> {
    let mut numbers: Vec<_> = records.iter().filter_map(number_at).collect();
    numbers.sort_unstable();
    let since = |moment: Instant| moment.duration_since(seen.begun).as_secs_f64();
    let faults = seen.faults.iter().map(|fault| {
        let before = numbers.partition_point(|at| *at < fault.from);
        let after = numbers.partition_point(|at| *at < fault.to);
        let again = numbers.get(after).map(|at| at.duration_since(fault.to).as_millis());
        Fault {
            ill: fault.ill,
            from_s: since(fault.from),
            to_s: since(fault.to),
            has_come: fault.has_come,
            numbers: after - before,
            serves_again_ms: again.and_then(|ms| u64::try_from(ms).ok()),
        }
    });
    faults.collect()
}

/// What was seen in each second, and what became of the sign-ins in it. Those after the last one had begun do not count:
/// nobody else came.
fn seconds(records: &[Record], seen: &Seen, lasts: Duration) -> Vec<Second> {
    let last = seen.begun + lasts;
    let looks: Vec<_> = seen.looks.iter().filter(|look| look.at <= last).collect();
    let numbers = by_second(&looks, records, number_at, |record| record.to_number);
    let outcomes = by_second(&looks, records, outcome_at, |record| record.answer_to_outcome);
    let seconds =
        looks.iter().zip(numbers.into_iter().zip(outcomes)).map(|(look, (numbers, outcomes))| Second {
            at_s: look.at.duration_since(seen.begun).as_secs_f64(),
            life: look.life,
            ill: look.ill,
            is_quiet: is_quiet(look, seen),
            resident_bytes: look.need.map(|need| need.resident_bytes),
            open_files: look.need.map(|need| need.open_files),
            threads: look.need.map(|need| need.threads),
            outcomes: outcomes.0,
            request_to_number_us: times(numbers.1),
            answer_to_outcome_us: times(outcomes.1),
            sent_away: look.sent_away.clone(),
        });
    seconds.collect()
}

/// How many had something in each second, and how long it took those of which it is known.
fn by_second(
    looks: &[&Look],
    records: &[Record],
    at: impl Fn(&Record) -> Option<Instant>,
    took: impl Fn(&Record) -> Option<Duration>,
) -> Vec<(usize, Vec<Duration>)> {
    let mut seconds = vec![(0, Vec::new()); looks.len()];
    for record in records {
        let Some(at) = at(record) else { continue };
        if let Some(second) = seconds.get_mut(looks.partition_point(|look| look.at < at)) {
            second.0 += 1;
            second.1.extend(took(record));
        }
    }
    seconds
}

fn times(of: Vec<Duration>) -> Option<Times> {
    if of.is_empty() {
        return None;
    }
    let Percentiles { p50, p99, .. } = Percentiles::of(of.into_iter());
    Some(Times { p50, p99 })
}

/// Whether no fault is on, or was a moment ago, and the broker's process is warm.
fn is_quiet(look: &Look, seen: &Seen) -> bool {
    let disturbs = |fault: &seen::Fault| fault.from <= look.at && look.at <= fault.to + flat::SETTLES;
    let is_warm = look.at.duration_since(look.born) >= flat::WARMS_UP;
    look.ill.is_none() && is_warm && look.need.is_some() && !seen.faults.iter().any(disturbs)
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}", self.load)?;
        let expired = self.load.expired_by_kill;
        writeln!(f, "{expired} sign-ins expired because of a fault, as page, phone and log agree\n")?;
        writeln!(
            f,
            "  {:<14} {:>6} {:>10} {:>10} {:>14}",
            "fault", "times", "seconds", "numbers", "serves again"
        )?;
        for ill in Ill::ALL {
            let all: Vec<_> = self.faults.iter().filter(|fault| fault.ill == ill).collect();
            let seconds: f64 = all.iter().map(|fault| fault.to_s - fault.from_s).sum();
            let numbers: usize = all.iter().map(|fault| fault.numbers).sum();
            let again = all.iter().filter_map(|fault| fault.serves_again_ms).max().unwrap_or(0);
            let again = format!("in {}", milliseconds(again * 1_000));
            writeln!(f, "  {ill:<14} {:>6} {seconds:>10.1} {numbers:>10} {again:>14}", all.len())?;
        }
        writeln!(
            f,
            "\nthe broker ended {} times because its journal failed, as it should, and was started again; {} starts \
             failed while the journal still did\n",
            self.ends, self.failed_starts
        )?;
        for (name, judged) in self.flat.all() {
            match judged {
                None => writeln!(f, "  {name:<20} was never measured at a quiet moment")?,
                Some(judged) => writeln!(f, "  {name:<20} {}", in_words(name, &judged))?,
            }
        }
        let failures = self.failures();
        if failures.is_empty() {
            return writeln!(f, "\nnothing is wrong");
        }
        writeln!(f)?;
        failures.iter().try_for_each(|failure| writeln!(f, "WRONG: {failure}"))
    }
}

/// A verdict with its figures.
fn in_words(name: &str, judged: &Judged) -> String {
    let verdict = match judged.is_flat {
        Some(true) => "flat",
        Some(false) => "NOT FLAT",
        None => "too little to judge by",
    };
    let figures = figures(name, judged);
    format!("{figures}: {verdict} ({} quiet seconds)", judged.moments)
}

/// The same figures for the plot.
pub(super) fn figures(name: &str, judged: &Judged) -> String {
    let Judged { level, grows, at_most, .. } = judged;
    match name {
        "memory" => {
            let mebibytes = level / (1024.0 * 1024.0);
            format!("{mebibytes:.0} MiB, {:+.0} % an hour (at most {:.0} %)", 100.0 * grows, 100.0 * at_most)
        }
        "open files" | "threads" => {
            format!("{level:.0}, {:+.0} % an hour (at most {:.0} %)", 100.0 * grows, 100.0 * at_most)
        }
        _ => format!("{:.1} ms, at the end {grows:.2} × (at most {at_most} ×)", level / 1e3),
    }
}

/// Minutes and seconds.
pub(super) fn clock(seconds: f64) -> String {
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "some hours at most")]
    let seconds = seconds as u64;
    format!("{}:{:02}", seconds / 60, seconds % 60)
}
