//! Archives the log by itself, now and then.

use std::{sync::Arc, time::Duration};

use futures::StreamExt;

use crate::{
    clock::Clock,
    log::{ArchiveReport, ArchiveStep, EventLog, ReadError},
    telemetry::metrics::metrics,
};

use super::seen::number;

/// What archives a log that ages.
#[derive(Debug)]
pub(super) struct Archiver {
    log: Arc<dyn EventLog>,
    clock: Arc<dyn Clock>,
    retention: Duration,
    /// What was wrong the last time, so that it is said once.
    said: Option<String>,
}

impl Archiver {
    pub(super) fn new(log: Arc<dyn EventLog>, clock: Arc<dyn Clock>, retention: Duration) -> Self {
        Self { log, clock, retention, said: None }
    }

    /// Goes on as long as the broker does. What goes wrong costs room on the disk, and is tried again.
    pub(super) async fn run(mut self, every: Duration) {
        loop {
            tokio::time::sleep(every).await;
            let mut steps = self.log.archive(self.clock.now().minus(self.retention).as_millis());
            while let Some(step) = steps.next().await {
                match step {
                    Ok(ArchiveStep::Progress { .. }) => {}
                    Ok(ArchiveStep::Done(report)) => self.done(&report),
                    Err(ReadError::Stopped(_)) => return,
                    Err(error) => self.complain(error.to_string()),
                }
            }
        }
    }

    fn done(&mut self, report: &ArchiveReport) {
        metrics().log.archived.add((), number(report.archived.len()));
        if report.has_changed_anything() {
            tracing::info!(
                segments = report.archived.len(),
                left_store_to = report.left_store.map(|(_, last)| last.number()),
                journal_bytes_before = report.journal_bytes_before,
                journal_bytes = report.journal_bytes_after,
                store_bytes_before = report.store_bytes_before,
                store_bytes = report.store_bytes_after,
                "archived"
            );
        }
        match report.damaged.first() {
            Some(damage) => self.complain(damage.to_string()),
            None => self.said = None,
        }
    }

    fn complain(&mut self, problem: String) {
        metrics().log.archive_failures.count(());
        if self.said.as_ref() != Some(&problem) {
            tracing::error!(problem, "the log cannot be archived: it takes more room than it should");
            self.said = Some(problem);
        }
    }
}
