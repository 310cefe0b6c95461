//! What a load showed: for people as text, for programs as JSON.

use std::{collections::BTreeMap, fmt, time::Duration};

use hdrhistogram::Histogram;
use serde::Serialize;

use super::{
    Usage,
    compare::{Compared, Mismatch},
    record::{Record, Records},
};
use crate::wire::Refusal;

/// So many mismatches are told in full.
const EXAMPLES_MAX: usize = 20;
/// Latencies beyond this are counted as this.
const LATENCY_MAX_US: u64 = 10 * 60 * 1_000_000;
/// Three digits: a thousandth is nobody's business.
const DIGITS: u8 = 3;

/// What a load showed. As JSON, `docs/load.md` describes it.
#[derive(Debug, Serialize)]
pub struct Report {
    /// How many sign-ins there were.
    pub approvals: u64,
    /// From the first to the last outcome, in seconds.
    pub seconds: f64,
    /// Sign-ins a second.
    pub rate: f64,
    /// How often each outcome came; `none` for pages that never had one.
    pub outcomes: BTreeMap<&'static str, u64>,
    /// How often each profile was played.
    pub profiles: BTreeMap<&'static str, u64>,
    /// How many sign-ins were not as they should be, seen by page, phone and log.
    pub mismatches: u64,
    /// The first of them, in full.
    pub mismatch_examples: Vec<String>,
    /// How often the broker was killed.
    pub kills: usize,
    /// Sign-ins that expired because of that, as all three sides say.
    pub expired_by_kill: u64,
    /// Pages and phones that were refused what they should have got, by the broker's reason.
    pub errors: BTreeMap<String, u64>,
    /// How often pages and phones were sent away for now, or lost the broker, and came again, by the reason.
    pub sent_away: BTreeMap<String, u64>,
    /// In microseconds.
    pub latency_us: Latencies,
    /// What the broker used of the machine; none if it is not ours.
    pub broker: Option<Broker>,
}

/// The three times that a person waits.
#[derive(Debug, Serialize)]
pub struct Latencies {
    /// From when the sign-in was due until the page showed the number.
    pub request_to_number: Percentiles,
    /// From when the phone sent its answer until the page had the outcome.
    pub answer_to_outcome: Percentiles,
    /// From when the sign-in was due until the page had the outcome, the person's own time included.
    pub login_to_outcome: Percentiles,
}

/// One distribution.
#[derive(Clone, Debug, Serialize)]
pub struct Percentiles {
    /// How many were measured.
    pub count: u64,
    /// The shortest.
    pub min: u64,
    /// Half were no longer.
    pub p50: u64,
    /// 90 of 100 were no longer.
    pub p90: u64,
    /// 99 of 100.
    pub p99: u64,
    /// 999 of 1,000.
    pub p999: u64,
    /// The longest.
    pub max: u64,
    #[serde(skip)]
    histogram: Histogram<u64>,
}

/// What the broker used.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Broker {
    /// CPU time of its processes for each sign-in, in microseconds, user and system.
    pub cpu_us_per_approval: f64,
    /// The most memory that one of its processes had resident, in bytes.
    pub peak_bytes: u64,
}

impl Report {
    /// Of these sign-ins. `used` is what the broker used for them, `sent_away` as of [`Progress`](super::Progress).
    pub fn new(
        records: &Records,
        compared: &Compared,
        used: Option<Usage>,
        sent_away: BTreeMap<String, u64>,
    ) -> Self {
        let all = records.all();
        let approvals = all.len() as u64;
        let seconds = records.took().as_secs_f64();
        Self {
            approvals,
            seconds,
            rate: count(approvals) / seconds.max(f64::MIN_POSITIVE),
            outcomes: tally(all.iter().map(Record::outcome_name)),
            profiles: tally(all.iter().map(|record| record.part.profile.as_str())),
            mismatches: compared.mismatches.len() as u64,
            mismatch_examples: compared
                .mismatches
                .iter()
                .take(EXAMPLES_MAX)
                .map(Mismatch::to_string)
                .collect(),
            kills: records.outages().len(),
            expired_by_kill: compared.expired_by_kill,
            errors: tally(all.iter().flat_map(errors)),
            sent_away,
            latency_us: Latencies {
                request_to_number: Percentiles::of(all.iter().filter_map(|record| record.to_number)),
                answer_to_outcome: Percentiles::of(all.iter().filter_map(|record| record.answer_to_outcome)),
                login_to_outcome: Percentiles::of(all.iter().filter_map(|record| record.to_outcome)),
            },
            broker: used.map(|used| Broker {
                cpu_us_per_approval: used.cpu.as_secs_f64() * 1e6 / count(approvals.max(1)),
                peak_bytes: used.peak_bytes,
            }),
        }
    }
}

/// Refusals that were nobody's part.
fn errors(record: &Record) -> Vec<String> {
    let login = record.login.as_ref().err().map(|refusal| reason("page", refusal));
    let phone = record.phone_failed.as_ref().map(|why| format!("phone: {why}"));
    login.into_iter().chain(phone).collect()
}

/// Who was refused, and with what reason of the broker; without one, gRPC's name for what became of the call.
pub(super) fn reason(whom: &str, refusal: &Refusal) -> String {
    match refusal.reason() {
        Some(reason) => format!("{whom}: {reason}"),
        None => format!("{whom}: {:?}", refusal.code()),
    }
}

fn tally<K: Ord>(of: impl Iterator<Item = K>) -> BTreeMap<K, u64> {
    let mut counts = BTreeMap::new();
    for one in of {
        *counts.entry(one).or_default() += 1;
    }
    counts
}

#[allow(clippy::cast_precision_loss, reason = "nobody counts 2^53 of anything here")]
fn count(number: u64) -> f64 {
    number as f64
}

impl Percentiles {
    /// Of these times.
    pub fn of(times: impl Iterator<Item = Duration>) -> Self {
        let mut histogram =
            Histogram::new_with_bounds(1, LATENCY_MAX_US, DIGITS).expect("bounds that a histogram can have");
        for time in times {
            histogram.saturating_record(u64::try_from(time.as_micros()).unwrap_or(u64::MAX));
        }
        Self {
            count: histogram.len(),
            min: histogram.min(),
            p50: histogram.value_at_quantile(0.5),
            p90: histogram.value_at_quantile(0.9),
            p99: histogram.value_at_quantile(0.99),
            p999: histogram.value_at_quantile(0.999),
            max: histogram.max(),
            histogram,
        }
    }

    /// The time that this part (0 to 1) did not exceed, in microseconds.
    pub fn at(&self, quantile: f64) -> u64 {
        self.histogram.value_at_quantile(quantile)
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{} sign-ins in {:.1} s: {:.0} a second", self.approvals, self.seconds, self.rate)?;
        if self.kills > 0 {
            writeln!(
                f,
                "the broker was killed {} times; {} sign-ins expired because of it",
                self.kills, self.expired_by_kill
            )?;
        }
        writeln!(f)?;
        for (outcome, times) in &self.outcomes {
            let share = 100.0 * count(*times) / count(self.approvals.max(1));
            writeln!(f, "  {:<14} {times:>9}  {share:>5.1} %", outcome.replace('_', " "))?;
        }
        writeln!(f, "\n  {:<20} {:>9} {:>9} {:>9} {:>9} {:>9}", "", "p50", "p90", "p99", "p99.9", "max")?;
        for (name, times) in self.latency_us.all() {
            let of = [times.p50, times.p90, times.p99, times.p999, times.max].map(milliseconds);
            writeln!(f, "  {name:<20} {:>9} {:>9} {:>9} {:>9} {:>9}", of[0], of[1], of[2], of[3], of[4])?;
        }
        if let Some(broker) = &self.broker {
            let mebibytes = count(broker.peak_bytes) / (1024.0 * 1024.0);
            let cpu = broker.cpu_us_per_approval;
            writeln!(f, "\n  broker: {cpu:.0} µs of CPU a sign-in, {mebibytes:.0} MiB at the most")?;
        }
        let sent_away = ("sent away for now, or cut off, and came again", &self.sent_away);
        for (what, reasons) in [("refused", &self.errors), sent_away] {
            if !reasons.is_empty() {
                writeln!(f, "\n  {what}:")?;
            }
            for (reason, times) in reasons {
                writeln!(f, "  {times:>9}  {reason}")?;
            }
        }
        match self.mismatches {
            0 => writeln!(f, "\npage, phone and log agree about all of them"),
            some => {
                writeln!(f, "\n{some} are not as they should be:")?;
                for example in &self.mismatch_examples {
                    writeln!(f, "  {example}")?;
                }
                Ok(())
            }
        }
    }
}

impl Latencies {
    /// Each with its name.
    pub fn all(&self) -> [(&'static str, &Percentiles); 3] {
        [
            ("request to number", &self.request_to_number),
            ("answer to outcome", &self.answer_to_outcome),
            ("login to outcome", &self.login_to_outcome),
        ]
    }
}

/// Microseconds, as people read them.
pub fn milliseconds(us: u64) -> String {
    match us {
        0..10_000 => format!("{:.1} ms", count(us) / 1e3),
        10_000..1_000_000 => format!("{} ms", us / 1_000),
        1_000_000..10_000_000 => format!("{:.2} s", count(us) / 1e6),
        _ => format!("{:.1} s", count(us) / 1e6),
    }
}
