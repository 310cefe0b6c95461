//! How the broker tells what it does: log lines, as text or JSON, with the approval's id and never a secret.

use std::io::IsTerminal;

use tracing_subscriber::{EnvFilter, fmt, prelude::*};

use crate::config::{LogFormat, Telemetry};

/// Log lines go to standard error from now on.
pub fn start(telemetry: &Telemetry) {
    let filter = telemetry.filter.parse::<EnvFilter>().expect("the configuration's check has parsed it");
    let registry = tracing_subscriber::registry().with(filter);
    // A second start in one process (tests) keeps the first one's subscriber.
    let _ = match telemetry.format {
        LogFormat::Text => registry
            .with(
                fmt::layer()
                    // Nobody may be there any more to read of it: the broker goes on.
                    .log_internal_errors(false)
                    .with_writer(std::io::stderr)
                    .with_ansi(std::io::stderr().is_terminal())
                    .with_target(false),
            )
            .try_init(),
        LogFormat::Json => registry
            .with(
                fmt::layer()
                    .json()
                    .flatten_event(true)
                    .log_internal_errors(false)
                    .with_writer(std::io::stderr)
                    .with_current_span(false),
            )
            .try_init(),
    };
}
