//! Log lines, as text or JSON, on standard error. Each about an approval has its id; none has a name, a number, an address
//! of a person or a secret.

use std::io::IsTerminal;

use serde::Deserialize;
use tracing_subscriber::{
    EnvFilter, Layer, Registry,
    filter::{FilterExt as _, filter_fn},
    fmt,
};

use super::traces::STORY;

/// `[telemetry]`
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Settings {
    /// `text` or `json`.
    pub format: Format,
    /// What is logged, such as `info` or `countersign=debug,info`.
    pub filter: String,
}

/// How log lines look.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Format {
    /// For people.
    Text,
    /// One JSON object a line.
    Json,
}

impl Default for Settings {
    fn default() -> Self {
        Self { format: Format::Text, filter: "info".to_owned() }
    }
}

/// What writes them.
pub(super) fn lines(settings: &Settings) -> Box<dyn Layer<Registry> + Send + Sync> {
    let filter = settings.filter.parse::<EnvFilter>().expect("the configuration's check has parsed it");
    // The story's spans are for the collector: a line says itself what it is about.
    let filter = filter.and(filter_fn(|metadata| metadata.target() != STORY));
    match settings.format {
        Format::Text => fmt::layer()
            // Nobody may be there any more to read of it: the broker goes on.
            .log_internal_errors(false)
            .with_writer(std::io::stderr)
            .with_ansi(std::io::stderr().is_terminal())
            .with_target(false)
            .with_filter(filter)
            .boxed(),
        Format::Json => fmt::layer()
            .json()
            .flatten_event(true)
            .log_internal_errors(false)
            .with_writer(std::io::stderr)
            .with_current_span(false)
            .with_filter(filter)
            .boxed(),
    }
}
