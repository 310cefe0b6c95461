//! What Prometheus is told that nobody counts, since it stands somewhere: read when it asks.

use std::{fs, path::Path, sync::Arc};

use countersign_domain::event::PushServiceKind;

use crate::{
    api::http::Look,
    config::Config,
    log::LogConfig,
    projection::Index,
    push::Pusher,
    signin::dispatch::Push,
    telemetry::metrics::{AtScrape, metrics},
};

/// Reads it.
pub(super) fn look(config: &Config, index: &Arc<Index>, pusher: &Arc<Pusher<Push>>) -> Look {
    let (limits, log) = (config.limits.clone(), LogConfig::new(&config.log.folder));
    let (index, pusher) = (Arc::clone(index), Arc::clone(pusher));
    Arc::new(move || {
        let seen = &metrics().at_scrape;
        seen.approvals_live.set((), number(index.live_approvals_count()));
        seen.approvals_live_max.set((), number(limits.live_approvals.get()));
        seen.enrolments_live.set((), number(index.live_enrolments_count()));
        seen.connections_max.set((), number(limits.connections.get()));
        for service in [PushServiceKind::Apns, PushServiceKind::Fcm] {
            seen.queue.set(service.into(), number(pusher.pending_of(service)));
            seen.queue_max.set(service.into(), number(pusher.capacity_of(service)));
        }
        look_at_disk(&log, seen);
    })
}

fn look_at_disk(log: &LogConfig, seen: &AtScrape) {
    let journal = Files::in_folder(&log.journal_folder());
    seen.segments.set((), journal.count);
    seen.journal_bytes.set((), journal.bytes);
    seen.store_bytes.set((), Files::in_folder(&log.store_folder()).bytes);
    if let Ok(system) = rustix::fs::statvfs(&log.folder) {
        seen.disk_free.set((), system.f_bavail.saturating_mul(system.f_frsize));
    }
}

/// The files of a folder and of the folders in it.
#[derive(Default)]
struct Files {
    count: u64,
    bytes: u64,
}

impl Files {
    /// What vanishes meanwhile is not counted.
    fn in_folder(folder: &Path) -> Self {
        let mut found = Self::default();
        for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
            match entry.metadata() {
                Ok(inner) if inner.is_dir() => {
                    let inner = Self::in_folder(&entry.path());
                    found.count += inner.count;
                    found.bytes += inner.bytes;
                }
                Ok(file) => {
                    found.count += 1;
                    found.bytes += file.len();
                }
                Err(_) => {}
            }
        }
        found
    }
}

pub(super) fn number(count: usize) -> u64 {
    u64::try_from(count).unwrap_or(u64::MAX)
}
