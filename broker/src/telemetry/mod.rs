//! How the broker is seen from outside, and never a secret of it.
//!
//! | where | what |
//! |---|---|
//! | [`logs`] | lines, as text or JSON, each about an approval with its id |
//! | [`mod@metrics`] | counters, gauges and histograms, for Prometheus to ask for |
//! | [`traces`] | one trace from the login's call to the phone's answer, sent to a collector |
//!
//! Every room says here what happened in it, in one line, and reads nothing back: nothing is ever decided by this. What
//! each metric means stands in `docs/observability/metrics.md`.

pub mod logs;
pub mod metrics;
mod process;
pub mod traces;

pub use crate::clock::Stopwatch;
pub use metrics::metrics;

use tracing_subscriber::{Registry, layer::SubscriberExt as _, util::SubscriberInitExt as _};

/// From now on log lines go to standard error, and spans to the collector if there is one.
pub fn start(logs: &logs::Settings, traces: Option<traces::Traces>) {
    let (spans, traces) = traces.map(traces::Traces::into_parts).unzip();
    let layers: Vec<_> = [logs::lines(logs)].into_iter().chain(spans).collect();
    let subscriber = Registry::default().with(layers);
    // A second start in one process (tests) keeps the first one's subscriber.
    if subscriber.try_init().is_ok()
        && let Some(traces) = traces
    {
        traces.begin();
    }
}
