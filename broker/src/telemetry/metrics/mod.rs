//! What Prometheus is told: base units, `_total` at the end of what only rises, and labels from closed sets.
//!
//! One set of cells for the process, made once: a room adds to a cell of it by index, without a lock and without looking
//! anything up ([`cells`]). What has to be looked at to be known (how many wait, how full a queue is) is set when somebody
//! asks ([`AtScrape`]).

pub mod cells;
pub mod labels;
mod story;

use std::{sync::LazyLock, time::Duration};

use prometheus_client::{
    encoding::prometheus_text,
    metrics::{counter, family::Family, info::Info},
    registry::Registry,
};

use self::{
    cells::{Counter, Gauge, Histogram, OF_A_BATCH, OF_A_FLUSH, OF_A_MACHINE, OF_A_PERSON},
    labels::{
        Answered, Appended, Attempted, Code, Enrolled, Enrolling, Exported, Listener, Method, NotQueued,
        Outcome, Progress, Pushed, RateLimit, Rejected, Remembered, Renewed, Requested, Revoker, Runs,
        Service,
    },
};
use super::process::Process;

/// The content type of [`text`](Metrics::text).
pub use prometheus_client::encoding::prometheus_text::CONTENT_TYPE;

/// A part of the metrics: fields, each with what it says to Prometheus and to a reader, its name (without `countersign_`
/// and, of a counter, `_total`), and how it is made.
macro_rules! group {
    ($(#[doc = $about:literal])+ $name:ident { $(
        $(#[doc = $help:literal])+
        $field:ident: $kind:ty = $metric:literal by $make:expr;
    )+ }) => {
        $(#[doc = $about])+
        #[derive(Debug)]
        pub struct $name {
            $($(#[doc = $help])+ pub $field: $kind,)+
        }

        impl $name {
            fn register(registry: &mut Registry) -> Self {
                $(
                    let $field: $kind = $make;
                    registry.register($metric, help(&[$($help),+]), $field.clone());
                )+
                Self { $($field,)+ }
            }
        }
    };
}

/// The registry sets the full stop itself.
fn help(lines: &[&str]) -> String {
    lines.concat().trim().trim_end_matches('.').to_owned()
}

group! {
    /// The story of a sign-in, and its sibling, the enrolment.
    Story {
        /// Calls for an approval, by what came of them.
        requests: Counter<Requested> = "approval_requests" by Counter::new();
        /// From a call for an approval to its number, durable.
        request_duration: Histogram = "approval_request_duration_seconds" by Histogram::of_durations(OF_A_MACHINE);
        /// Approvals that ended, by outcome.
        approvals: Counter<Outcome> = "approvals" by Counter::new();
        /// From the request to the end of approvals that this process saw begin, by outcome.
        approval_duration: Histogram<Outcome> = "approval_duration_seconds" by Histogram::of_durations(OF_A_PERSON);
        /// Answers to approvals, by what came of them.
        answers: Counter<Answered> = "answers" by Counter::new();
        /// From an answer's arrival to what it made of the approval, durable.
        answer_duration: Histogram = "answer_duration_seconds" by Histogram::of_durations(OF_A_MACHINE);
        /// From the moment at which the follower read an outcome to the waiting login's stream.
        outcome_told_duration: Histogram = "outcome_told_duration_seconds" by Histogram::of_durations(OF_A_MACHINE);
        /// From an answer's arrival to the outcome on the waiting login's stream.
        answer_to_outcome_duration: Histogram = "answer_to_outcome_duration_seconds" by Histogram::of_durations(OF_A_FLUSH);
        /// Streams on which logins wait for the outcome of an approval.
        logins_waiting: Gauge = "logins_waiting" by Gauge::new();
        /// Steps of pushes that pages were told.
        progress: Counter<Progress> = "push_progress" by Counter::new();
        /// Accounts for which push was paused after wrong numbers.
        push_paused: Counter = "push_pauses" by Counter::new();
        /// Steps of enrolments before their end.
        enrolling: Counter<Enrolling> = "enrolment_steps" by Counter::new();
        /// Enrolments that ended, by how.
        enrolments: Counter<Enrolled> = "enrolments" by Counter::new();
        /// Authenticators that were bound, by what the phone runs.
        bound: Counter<Runs> = "authenticators_bound" by Counter::new();
        /// Authenticators that were revoked, by whom.
        revoked: Counter<Revoker> = "authenticators_revoked" by Counter::new();
        /// Push targets that a push service said are no phone's any more.
        targets_died: Counter = "push_targets_died" by Counter::new();
    }
}

group! {
    /// Push services.
    Pushing {
        /// Attempts at a push, by what the push service said.
        attempts: Counter<(Service, Attempted)> = "push_attempts" by Counter::new();
        /// From an attempt's beginning to the push service's answer, or to giving up.
        attempt_duration: Histogram<Service> = "push_attempt_duration_seconds" by Histogram::of_durations(OF_A_MACHINE);
        /// Attempts that came after one that failed.
        retries: Counter<Service> = "push_retries" by Counter::new();
        /// Pushes that ended, by how.
        pushes: Counter<(Service, Pushed)> = "pushes" by Counter::new();
        /// Pushes that were not even queued.
        not_queued: Counter<NotQueued> = "pushes_not_queued" by Counter::new();
        /// Attempts under way.
        in_flight: Gauge<Service> = "push_attempts_in_flight" by Gauge::new();
        /// Connections that pushes are spread over; 0 of a push service that is not configured.
        connections: Gauge<Service> = "push_connections" by Gauge::new();
        /// Connections that were left because they had gone silent.
        connections_left: Counter = "push_connections_left" by Counter::new();
        /// Provider tokens (APNs) and access tokens (FCM) that were asked for.
        tokens: Counter<(Service, Renewed)> = "push_token_renewals" by Counter::new();
    }
}

group! {
    /// The log: the journal that makes entries durable, and the store that keeps them readable.
    Logging {
        /// Appends, by what came of them.
        appends: Counter<Appended> = "log_appends" by Counter::new();
        /// Entries that one flush made durable.
        batch_entries: Histogram = "log_batch_entries" by Histogram::of_sizes(OF_A_BATCH);
        /// fdatasync of the journal.
        flush_duration: Histogram = "log_flush_duration_seconds" by Histogram::of_durations(OF_A_MACHINE);
        /// Bytes of records written to the journal.
        written: Counter = "log_written_bytes" by Counter::new();
        /// Appends that wait for the disk.
        waiting: Gauge = "log_appends_waiting" by Gauge::new();
        /// 1 from a write that found no room until one that did.
        disk_full: Gauge = "log_disk_full" by Gauge::new();
        /// The position of the last durable entry.
        head: Gauge = "log_head_position" by Gauge::new();
        /// The position of the last entry in the store; 0 while that is not to be used.
        stored: Gauge = "store_position" by Gauge::new();
        /// The position of the last entry that those who wait have been told of.
        followed: Gauge = "follower_position" by Gauge::new();
        /// How often the store failed and was opened anew.
        store_failures: Counter = "store_failures" by Counter::new();
        /// Segments of the journal that were compressed.
        archived: Counter = "log_archived_segments" by Counter::new();
        /// How often the log could not be archived: it takes more room than it should.
        archive_failures: Counter = "log_archive_failures" by Counter::new();
        /// Decisions that were made anew because somebody else was first.
        conflicts: Counter = "decider_conflicts" by Counter::new();
        /// Looks for a state in memory before a decision: a stale one is brought up to date from the log, a missing one is made of what was kept of it beside the log, or else folded.
        remembered: Counter<Remembered> = "state_cache_lookups" by Counter::new();
    }
}

group! {
    /// Who calls.
    Calling {
        /// gRPC calls that ended, by method and status.
        calls: Counter<(Method, Code)> = "grpc_requests" by Counter::new();
        /// From a gRPC call's head to its answer's: of a stream, to its beginning.
        call_duration: Histogram<Method> = "grpc_request_duration_seconds" by Histogram::of_durations(OF_A_MACHINE);
        /// gRPC calls under way, streams included.
        in_flight: Gauge = "grpc_requests_in_flight" by Gauge::new();
        /// Connections that are open.
        connections: Gauge<Listener> = "connections_open" by Gauge::new();
        /// Connections that came and were let in.
        accepted: Counter<Listener> = "connections" by Counter::new();
        /// Connections that came to nothing, by why.
        rejected: Counter<Rejected> = "connections_rejected" by Counter::new();
        /// Calls that came too soon after others, by the limit that they met.
        too_often: Counter<RateLimit> = "rate_limited" by Counter::new();
        /// When the certificate that a listener shows expires, in seconds since 1970; 0 without TLS.
        certificate_expires: Gauge<Listener> = "tls_certificate_expiry_timestamp_seconds" by Gauge::new();
        /// Errors that callers got, by the reason in their ErrorInfo.
        errors: Family<[(&'static str, &'static str); 1], counter::Counter> = "errors" by Family::default();
        /// Spans of traces, by whether the collector took them.
        spans: Counter<Exported> = "trace_spans" by Counter::new();
    }
}

group! {
    /// What has to be looked at to be known: set when somebody asks.
    AtScrape {
        /// Approvals that wait for an answer.
        approvals_live: Gauge = "approvals_live" by Gauge::new();
        /// As many approvals as may wait at a time (limits.live_approvals).
        approvals_live_max: Gauge = "approvals_live_max" by Gauge::new();
        /// Enrolments that are not over.
        enrolments_live: Gauge = "enrolments_live" by Gauge::new();
        /// Pushes that wait, are under way, or wait for another attempt.
        queue: Gauge<Service> = "push_queue_depth" by Gauge::new();
        /// As many pushes as may be queued (queue.capacity).
        queue_max: Gauge<Service> = "push_queue_max" by Gauge::new();
        /// Connections that the public listener takes at a time (limits.connections).
        connections_max: Gauge = "connections_max" by Gauge::new();
        /// Durable entries that the store does not have yet; up to 63 wait for their group to be full.
        store_lag: Gauge = "store_lag_entries" by Gauge::new();
        /// Durable entries that those who wait have not been told of yet.
        follower_lag: Gauge = "follower_lag_entries" by Gauge::new();
        /// Segments of the journal.
        segments: Gauge = "log_segments" by Gauge::new();
        /// Bytes of the journal's files.
        journal_bytes: Gauge = "log_journal_bytes" by Gauge::new();
        /// Bytes of the store's files.
        store_bytes: Gauge = "store_bytes" by Gauge::new();
        /// Bytes that the log's file system has left.
        disk_free: Gauge = "log_disk_free_bytes" by Gauge::new();
    }
}

/// All of them.
#[derive(Debug)]
pub struct Metrics {
    registry: Registry,
    /// The story of a sign-in, and its sibling, the enrolment.
    pub story: Story,
    /// Push services.
    pub push: Pushing,
    /// The log.
    pub log: Logging,
    /// Who calls.
    pub calls: Calling,
    /// What is set when somebody asks.
    pub at_scrape: AtScrape,
}

/// The metrics of this process.
pub fn metrics() -> &'static Metrics {
    static METRICS: LazyLock<Metrics> = LazyLock::new(Metrics::new);
    &METRICS
}

impl Metrics {
    fn new() -> Self {
        let mut registry = Registry::default();
        let ours = registry.sub_registry_with_prefix("countersign");
        let story = Story::register(ours);
        let push = Pushing::register(ours);
        let log = Logging::register(ours);
        let calls = Calling::register(ours);
        let at_scrape = AtScrape::register(ours);
        // A name that is not there cannot be told from one that was misspelt.
        drop(calls.errors.get_or_create(&[("reason", "INTERNAL")]));
        let build = Info::new([("version", env!("CARGO_PKG_VERSION"))]);
        ours.register("build", "Which release runs", build);
        registry.register_collector(Box::new(Process));
        Self { registry, story, push, log, calls, at_scrape }
    }

    /// All of them as Prometheus reads them (text format, version 0.0.4).
    pub fn text(&self) -> String {
        let head = self.log.head.value(());
        self.at_scrape.store_lag.set((), head.saturating_sub(self.log.stored.value(())));
        self.at_scrape.follower_lag.set((), head.saturating_sub(self.log.followed.value(())));
        let mut text = String::new();
        prometheus_text::encode(&mut text, &self.registry).expect("a string takes all that is written to it");
        text
    }

    /// A caller gets an error of this reason: one of those that `grpc/status.rs` knows.
    pub fn error(&self, reason: &'static str) {
        self.calls.errors.get_or_create(&[("reason", reason)]).inc();
    }

    /// A call for an approval came to this, after so long.
    pub fn requested(&self, result: Requested, after: Duration) {
        self.story.requests.count(result);
        if result == Requested::Issued {
            self.story.request_duration.took((), after);
        }
    }

    /// An answer came to this, after so long.
    pub fn answered(&self, result: Answered, after: Duration) {
        self.story.answers.count(result);
        if !matches!(result, Answered::Late | Answered::Invalid | Answered::Failed) {
            self.story.answer_duration.took((), after);
        }
    }
}
