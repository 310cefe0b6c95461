//! How far a long step of the start has come: a bar where somebody watches, lines in the program's log else.

use std::io::{IsTerminal, stderr};

use indicatif::{ProgressBar, ProgressStyle};

/// Shorter than this, nothing is said.
const SHOWN_FROM_BYTES: u64 = 128 * 1024 * 1024;

/// Progress through a number of bytes.
#[derive(Debug)]
pub(crate) struct Progress {
    what: &'static str,
    total: u64,
    done: u64,
    /// The tenths that were said.
    tenths: u64,
    bar: Option<ProgressBar>,
}

impl Progress {
    /// Nothing done yet of so many bytes.
    pub(crate) fn new(what: &'static str, total: u64) -> Self {
        let bar = (total >= SHOWN_FROM_BYTES && stderr().is_terminal()).then(|| {
            let style = ProgressStyle::with_template(
                "{msg} {wide_bar} {bytes}/{total_bytes} {bytes_per_sec} {eta} left",
            );
            let bar = ProgressBar::new(total).with_message(what);
            bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
            bar
        });
        Self { what, total, done: 0, tenths: 0, bar }
    }

    /// So many bytes more are done.
    pub(crate) fn advance(&mut self, bytes: u64) {
        self.done = self.done.saturating_add(bytes);
        if let Some(bar) = &self.bar {
            bar.set_position(self.done);
            return;
        }
        let tenths = self.done.saturating_mul(10) / self.total.max(1);
        if self.total >= SHOWN_FROM_BYTES && tenths > self.tenths {
            self.tenths = tenths;
            tracing::info!(done_bytes = self.done, total_bytes = self.total, "{}", self.what);
        }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}
