//! What is counted, in atomics: one cell for each value of a closed set of labels, found by index, so that an event costs
//! one addition, and nobody outside can make a new series.

use std::{
    fmt,
    marker::PhantomData,
    sync::{
        Arc,
        atomic::{AtomicI64, AtomicU64, Ordering},
    },
    time::Duration,
};

use prometheus_client::{
    encoding::{EncodeMetric, MetricEncoder, NoLabelSet},
    metrics::MetricType,
};

/// The values of a series' labels: a closed set.
pub trait Labels: Copy + fmt::Debug + Send + Sync + 'static {
    /// How many there are.
    const COUNT: usize;
    /// Which this is, below `COUNT`.
    fn index(self) -> usize;
    /// All of them, each at its index.
    fn all() -> Vec<Self>;
    /// Names and values, for the exposition.
    fn named(self) -> Vec<(&'static str, &'static str)>;
}

/// Without labels.
impl Labels for () {
    const COUNT: usize = 1;

    fn index(self) -> usize {
        0
    }

    fn all() -> Vec<Self> {
        vec![()]
    }

    fn named(self) -> Vec<(&'static str, &'static str)> {
        Vec::new()
    }
}

impl<A: Labels, B: Labels> Labels for (A, B) {
    const COUNT: usize = A::COUNT * B::COUNT;

    fn index(self) -> usize {
        self.0.index() * B::COUNT + self.1.index()
    }

    fn all() -> Vec<Self> {
        A::all().into_iter().flat_map(|a| B::all().into_iter().map(move |b| (a, b))).collect()
    }

    fn named(self) -> Vec<(&'static str, &'static str)> {
        [self.0.named(), self.1.named()].concat()
    }
}

/// Of so many series, those that are zero are left out: of most pairs nothing ever comes.
const ZEROS_SHOWN_MAX: usize = 64;

/// How often something happened.
#[derive(Debug, Clone)]
pub struct Counter<L = ()> {
    cells: Arc<[AtomicU64]>,
    labels: PhantomData<L>,
}

impl<L: Labels> Counter<L> {
    pub(super) fn new() -> Self {
        Self { cells: (0..L::COUNT).map(|_| AtomicU64::new(0)).collect(), labels: PhantomData }
    }

    /// It happened once more.
    pub fn count(&self, labels: L) {
        self.add(labels, 1);
    }

    /// It happened so often more.
    pub fn add(&self, labels: L, more: u64) {
        self.cells[labels.index()].fetch_add(more, Ordering::Relaxed);
    }
}

impl<L: Labels> EncodeMetric for Counter<L> {
    fn encode(&self, mut encoder: MetricEncoder<'_>) -> fmt::Result {
        for labels in L::all() {
            let count = self.cells[labels.index()].load(Ordering::Relaxed);
            if count == 0 && L::COUNT > ZEROS_SHOWN_MAX {
                continue;
            }
            let named = labels.named();
            of(&mut encoder, &named, |encoder| encoder.encode_counter::<NoLabelSet, _, f64>(&count, None))?;
        }
        Ok(())
    }

    fn metric_type(&self) -> MetricType {
        MetricType::Counter
    }
}

/// How much there is of something.
#[derive(Debug, Clone)]
pub struct Gauge<L = ()> {
    cells: Arc<[AtomicI64]>,
    labels: PhantomData<L>,
}

impl<L: Labels> Gauge<L> {
    pub(super) fn new() -> Self {
        Self { cells: (0..L::COUNT).map(|_| AtomicI64::new(0)).collect(), labels: PhantomData }
    }

    /// There is so much of it.
    pub fn set(&self, labels: L, value: u64) {
        self.cells[labels.index()].store(i64::try_from(value).unwrap_or(i64::MAX), Ordering::Relaxed);
    }

    /// One more.
    pub fn up(&self, labels: L) {
        self.cells[labels.index()].fetch_add(1, Ordering::Relaxed);
    }

    /// One less.
    pub fn down(&self, labels: L) {
        self.cells[labels.index()].fetch_sub(1, Ordering::Relaxed);
    }

    /// One more until what is given back is dropped.
    pub fn one(&self, labels: L) -> One<L> {
        self.up(labels);
        One { gauge: self.clone(), labels }
    }

    pub(super) fn value(&self, labels: L) -> u64 {
        u64::try_from(self.cells[labels.index()].load(Ordering::Relaxed)).unwrap_or(0)
    }
}

/// One of what a gauge counts.
#[derive(Debug)]
pub struct One<L: Labels> {
    gauge: Gauge<L>,
    labels: L,
}

impl<L: Labels> Drop for One<L> {
    fn drop(&mut self) {
        self.gauge.down(self.labels);
    }
}

impl<L: Labels> EncodeMetric for Gauge<L> {
    fn encode(&self, mut encoder: MetricEncoder<'_>) -> fmt::Result {
        for labels in L::all() {
            let value = self.cells[labels.index()].load(Ordering::Relaxed);
            of(&mut encoder, &labels.named(), |encoder| encoder.encode_gauge(&value))?;
        }
        Ok(())
    }

    fn metric_type(&self) -> MetricType {
        MetricType::Gauge
    }
}

/// How values are distributed: durations, kept in nanoseconds and shown in seconds, or sizes.
///
/// The library's own histogram takes a lock for each value.
#[derive(Debug, Clone)]
pub struct Histogram<L = ()> {
    /// For each value of the labels: the buckets, the one above them, and the sum.
    cells: Arc<[AtomicU64]>,
    /// The buckets' upper ends, in units of what is observed.
    ends: &'static [u64],
    /// A unit of what is observed, in units of what is shown.
    unit: f64,
    labels: PhantomData<L>,
}

/// From a tenth of a millisecond to ten seconds: what a machine does.
pub(super) const OF_A_MACHINE: &[u64] = &[
    100_000,
    250_000,
    500_000,
    1_000_000,
    2_500_000,
    5_000_000,
    10_000_000,
    25_000_000,
    50_000_000,
    100_000_000,
    250_000_000,
    500_000_000,
    1_000_000_000,
    2_500_000_000,
    5_000_000_000,
    10_000_000_000,
];

/// From a tenth of a millisecond to a second, each a quarter longer than the one before: fine enough to count in flushes.
pub(super) const OF_A_FLUSH: &[u64] = &[
    100_000,
    125_000,
    156_000,
    195_000,
    244_000,
    305_000,
    381_000,
    476_000,
    595_000,
    744_000,
    930_000,
    1_162_000,
    1_452_000,
    1_815_000,
    2_269_000,
    2_836_000,
    3_545_000,
    4_431_000,
    5_539_000,
    6_924_000,
    8_655_000,
    10_819_000,
    13_524_000,
    16_905_000,
    21_131_000,
    26_414_000,
    33_018_000,
    41_272_000,
    51_590_000,
    64_488_000,
    80_610_000,
    100_762_000,
    125_952_000,
    157_440_000,
    196_800_000,
    246_000_000,
    307_500_000,
    384_375_000,
    480_469_000,
    600_586_000,
    750_732_000,
    938_415_000,
    1_173_019_000,
];

/// From a second to five minutes, the longest life of an approval: what a person does.
pub(super) const OF_A_PERSON: &[u64] = &[
    1_000_000_000,
    2_000_000_000,
    5_000_000_000,
    10_000_000_000,
    15_000_000_000,
    20_000_000_000,
    30_000_000_000,
    45_000_000_000,
    60_000_000_000,
    120_000_000_000,
    300_000_000_000,
];

/// Powers of two up to what may wait for the disk.
pub(super) const OF_A_BATCH: &[u64] =
    &[1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1_024, 2_048, 4_096, 8_192, 16_384];

const NANOSECOND: f64 = 1e-9;

impl<L: Labels> Histogram<L> {
    pub(super) fn of_durations(ends: &'static [u64]) -> Self {
        Self::new(ends, NANOSECOND)
    }

    pub(super) fn of_sizes(ends: &'static [u64]) -> Self {
        Self::new(ends, 1.0)
    }

    fn new(ends: &'static [u64], unit: f64) -> Self {
        let cells = (0..L::COUNT * (ends.len() + 2)).map(|_| AtomicU64::new(0)).collect();
        Self { cells, ends, unit, labels: PhantomData }
    }

    /// It took so long.
    pub fn took(&self, labels: L, duration: Duration) {
        self.observe(labels, u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX));
    }

    /// It was so much.
    pub fn observe(&self, labels: L, value: u64) {
        let bucket = self.ends.partition_point(|end| *end < value);
        let cells = self.cells_of(labels);
        cells[bucket].fetch_add(1, Ordering::Relaxed);
        cells[self.ends.len() + 1].fetch_add(value, Ordering::Relaxed);
    }

    fn cells_of(&self, labels: L) -> &[AtomicU64] {
        let each = self.ends.len() + 2;
        &self.cells[labels.index() * each..][..each]
    }
}

impl<L: Labels> EncodeMetric for Histogram<L> {
    #[expect(clippy::cast_precision_loss, reason = "a float is what the exposition has")]
    fn encode(&self, mut encoder: MetricEncoder<'_>) -> fmt::Result {
        let ends = self.ends.iter().map(|end| *end as f64 * self.unit).chain([f64::INFINITY]);
        let ends: Vec<_> = ends.collect();
        for labels in L::all() {
            let cells: Vec<_> =
                self.cells_of(labels).iter().map(|cell| cell.load(Ordering::Relaxed)).collect();
            let buckets: Vec<_> = ends.iter().copied().zip(cells.iter().copied()).collect();
            let count = buckets.iter().map(|(_, count)| count).sum();
            if count == 0 && L::COUNT > ZEROS_SHOWN_MAX / 4 {
                continue;
            }
            let sum = cells[ends.len()] as f64 * self.unit;
            of(&mut encoder, &labels.named(), |encoder| {
                encoder.encode_histogram::<NoLabelSet>(sum, count, &buckets, None)
            })?;
        }
        Ok(())
    }

    fn metric_type(&self) -> MetricType {
        MetricType::Histogram
    }
}

/// One series.
fn of(
    encoder: &mut MetricEncoder<'_>,
    named: &[(&'static str, &'static str)],
    value: impl FnOnce(&mut MetricEncoder<'_>) -> fmt::Result,
) -> fmt::Result {
    if named.is_empty() { value(encoder) } else { value(&mut encoder.encode_family(&named)?) }
}

#[cfg(test)]
mod tests {
    use prometheus_client::{encoding::prometheus_text::encode, registry::Registry};

    use super::*;

    fn shown(metric: impl EncodeMetric + fmt::Debug + Send + Sync + 'static) -> Vec<String> {
        let mut registry = Registry::default();
        registry.register("m", "What it is", metric);
        let mut text = String::new();
        encode(&mut text, &registry).unwrap();
        text.lines().filter(|line| !line.starts_with('#')).map(ToOwned::to_owned).collect()
    }

    #[test]
    fn a_value_falls_into_the_first_bucket_that_is_not_below_it() {
        let histogram = Histogram::<()>::of_durations(&[1_000_000, 2_000_000_000]);
        for nanoseconds in [1, 1_000_000, 1_000_001, 2_000_000_001] {
            histogram.took((), Duration::from_nanos(nanoseconds));
        }
        let lines = shown(histogram);
        assert_eq!(
            lines[..3],
            [r#"m_bucket{le="0.001"} 2"#, r#"m_bucket{le="2"} 3"#, r#"m_bucket{le="+Inf"} 4"#]
        );
        assert!(lines[3].starts_with("m_sum 2.002"), "{lines:?}");
        assert_eq!(lines[4], "m_count 4");
    }

    #[test]
    fn what_is_counted_once_goes_down_however_it_ends() {
        let gauge = Gauge::<()>::new();
        let (one, another) = (gauge.one(()), gauge.one(()));
        assert_eq!(gauge.value(()), 2);
        drop(one);
        let unwound = std::panic::catch_unwind(std::panic::AssertUnwindSafe(move || {
            let _another = another;
            std::panic::resume_unwind(Box::new(()));
        }));
        assert!(unwound.is_err());
        assert_eq!(shown(gauge), ["m 0"]);
    }
}
