//! One trace of each sign-in, from the login's call to the phone's answer, sent to a collector over OTLP.
//!
//! The caller's W3C trace context is taken from its call, and whether it is sampled with it. What happens later comes in
//! other calls and other tasks: so the context stays in memory beside the approval, from the request to the outcome, and
//! each later step is a span under it. After a restart it is not there: the rest of that trace is missing, and nothing else
//! is.
//!
//! A span has the approval's id, the relying party's, what came of it and how long it took: no name, number, address or
//! token. Without `[traces]` nothing here costs more than a look at one flag.

use std::{
    collections::HashMap,
    fmt,
    path::{Path, PathBuf},
    sync::{
        Mutex, MutexGuard, OnceLock, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use countersign_domain::{ApprovalId, RelyingPartyId};
use http::HeaderMap;
use opentelemetry::{
    Context,
    propagation::{Extractor, TextMapPropagator as _},
    trace::{SpanContext, TraceContextExt as _, TracerProvider as _},
};
use opentelemetry_otlp::{
    WithExportConfig as _, WithTonicConfig as _,
    tonic_types::transport::{Certificate, ClientTlsConfig},
};
use opentelemetry_sdk::{
    Resource,
    error::OTelSdkResult,
    propagation::TraceContextPropagator,
    trace::{Sampler, SdkTracerProvider, SpanData, SpanExporter},
};
use serde::Deserialize;
use tracing::{Span, info_span};
use tracing_opentelemetry::OpenTelemetrySpanExt as _;
use tracing_subscriber::{Layer, Registry, filter::filter_fn};

use super::metrics::{labels::Exported, metrics};

/// The target of the spans that tell the story: they go to the collector, and no others do.
pub const STORY: &str = "countersign::story";

/// The service's name where OTEL_SERVICE_NAME does not give another.
const SERVICE_NAME: &str = "countersign";

/// What spans that are on their way have at the end of the process.
const SHUTDOWN_WITHIN: Duration = Duration::from_secs(3);

/// `[traces]`
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Settings {
    /// The collector's address for OTLP over gRPC, such as `http://127.0.0.1:4317`.
    pub endpoint: String,
    /// How many of the sign-ins are traced whose caller says nothing about it: 0 (none) to 1 (all). A caller who sends a
    /// trace context has decided that himself.
    #[serde(default = "all")]
    pub sample_ratio: f64,
    /// The only authorities of the collector's certificate to trust (PEM); by default those of the operating system.
    pub ca_file: Option<PathBuf>,
}

fn all() -> f64 {
    1.0
}

impl Settings {
    /// What is wrong with them: the key, and what it must be.
    pub fn check(&self) -> Result<(), (&'static str, &'static str)> {
        let address = self.endpoint.strip_prefix("http://").or(self.endpoint.strip_prefix("https://"));
        if address.is_none_or(str::is_empty) {
            return Err(("traces.endpoint", "must be an address such as http://127.0.0.1:4317"));
        }
        if !(0.0..=1.0).contains(&self.sample_ratio) {
            return Err(("traces.sample_ratio", "must be a number, 0 to 1"));
        }
        Ok(())
    }
}

/// Why no traces can be sent.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The authorities cannot be read.
    #[error("{path}: cannot be read: {reason}", path = .path.display())]
    CaFile {
        /// The file.
        path: PathBuf,
        /// What happened.
        reason: std::io::Error,
    },
    /// The endpoint, or a variable of the environment (OTEL_EXPORTER_OTLP_...), cannot be used.
    #[error("the exporter of traces cannot be made: {0}")]
    Exporter(String),
}

impl Error {
    /// The file that it is about.
    pub fn file(&self) -> Option<&Path> {
        match self {
            Self::CaFile { path, .. } => Some(path),
            Self::Exporter(_) => None,
        }
    }
}

/// A way to the collector. Nobody has called there yet.
#[derive(Debug)]
pub struct Traces {
    provider: SdkTracerProvider,
}

impl Traces {
    /// Makes it. Needs a tokio runtime, which its connection lives in. Headers (a key of the collector's, say), the time
    /// that an export may take, and the queue's size come from OpenTelemetry's own variables.
    pub fn new(settings: &Settings) -> Result<Self, Error> {
        let exporter =
            opentelemetry_otlp::SpanExporter::builder().with_tonic().with_endpoint(&settings.endpoint);
        let exporter = match tls(settings)? {
            Some(tls) => exporter.with_tls_config(tls),
            None => exporter,
        };
        let exporter = exporter.build().map_err(|error| Error::Exporter(error.to_string()))?;
        let resource = Resource::builder();
        let resource = match std::env::var_os("OTEL_SERVICE_NAME") {
            Some(_) => resource,
            None => resource.with_service_name(SERVICE_NAME),
        };
        let provider = SdkTracerProvider::builder()
            .with_batch_exporter(Collector { exporter, away: AtomicBool::new(false) })
            .with_sampler(Sampler::ParentBased(Box::new(Sampler::TraceIdRatioBased(settings.sample_ratio))))
            .with_resource(resource.build())
            .build();
        Ok(Self { provider })
    }

    pub(super) fn into_parts(self) -> (Box<dyn Layer<Registry> + Send + Sync>, Self) {
        let layer = tracing_opentelemetry::layer()
            .with_tracer(self.provider.tracer(SERVICE_NAME))
            .with_location(false)
            .with_threads(false)
            .with_tracked_inactivity(false)
            .with_target(false)
            .with_filter(filter_fn(|metadata| metadata.target() == STORY && metadata.is_span()))
            .boxed();
        (layer, self)
    }

    /// From now on contexts are kept.
    pub(super) fn begin(self) {
        let _ = TRACES.set(Kept { provider: self.provider, contexts: Mutex::default() });
    }
}

fn tls(settings: &Settings) -> Result<Option<ClientTlsConfig>, Error> {
    if !settings.endpoint.starts_with("https://") {
        return Ok(None);
    }
    Ok(Some(match &settings.ca_file {
        None => ClientTlsConfig::new().with_native_roots(),
        Some(path) => {
            let pem = std::fs::read(path).map_err(|reason| Error::CaFile { path: path.clone(), reason })?;
            ClientTlsConfig::new().ca_certificate(Certificate::from_pem(pem))
        }
    }))
}

/// What is kept of traces while they go on.
struct Kept {
    provider: SdkTracerProvider,
    /// Of the approvals that wait and are sampled: as many as may wait.
    contexts: Mutex<HashMap<ApprovalId, SpanContext>>,
}

static TRACES: OnceLock<Kept> = OnceLock::new();

impl Kept {
    fn contexts(&self) -> MutexGuard<'_, HashMap<ApprovalId, SpanContext>> {
        self.contexts.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A login's call, once it is known who calls: under the caller's trace, if it says one. Whoever may not ask for an
/// approval may not make traces either.
pub fn call(method: &'static str, headers: &HeaderMap) -> Span {
    if TRACES.get().is_none() {
        return Span::none();
    }
    let span = info_span!(
        target: STORY,
        "call",
        otel.name = method,
        otel.kind = "server",
        rpc.system = "grpc",
        rpc.method = method,
        approval = tracing::field::Empty,
        relying_party = tracing::field::Empty,
    );
    let caller = TraceContextPropagator::new().extract(&Headers(headers));
    let _ = span.set_parent(caller);
    span
}

/// What the current call is about.
pub fn about(approval: ApprovalId, relying_party: RelyingPartyId) {
    if TRACES.get().is_some() {
        let call = Span::current();
        call.record("approval", tracing::field::display(approval));
        call.record("relying_party", tracing::field::display(relying_party));
    }
}

/// The approval's trace goes through the span that is current, if there is one: its later steps are found by the id.
/// Forgotten when what is given back is dropped, unless it is kept.
pub fn follow(approval: ApprovalId) -> Following {
    let following = Following { approval: None };
    let Some(kept) = TRACES.get() else { return following };
    let context = Span::current().context().span().span_context().clone();
    if !context.is_sampled() {
        return following;
    }
    kept.contexts().insert(approval, context);
    Following { approval: Some(approval) }
}

/// An approval whose trace goes on.
#[derive(Debug)]
pub struct Following {
    approval: Option<ApprovalId>,
}

impl Following {
    /// It waits: its trace goes on until [`forget`].
    pub fn keep(mut self) {
        self.approval = None;
    }
}

impl Drop for Following {
    fn drop(&mut self) {
        if let Some(approval) = self.approval {
            forget(approval);
        }
    }
}

/// The approval has ended, and all that belongs to its trace has begun.
pub fn forget(approval: ApprovalId) {
    if let Some(kept) = TRACES.get() {
        kept.contexts().remove(&approval);
    }
}

/// The trace of an approval that waits: small, since each login that waits keeps one.
#[derive(Clone)]
pub struct Trace(Option<Box<SpanContext>>);

/// The trace of this approval, if it is traced.
pub fn of(approval: ApprovalId) -> Trace {
    let kept = TRACES.get();
    Trace(kept.and_then(|kept| kept.contexts().get(&approval).cloned()).map(Box::new))
}

/// The same of an approval that has to be found first, which is not done where nothing is traced.
pub fn of_found(find: impl FnOnce() -> Option<ApprovalId>) -> Trace {
    TRACES.get().and_then(|_| find()).map_or(Trace(None), of)
}

impl Trace {
    /// A step of it, if it is traced: `make` gives the span.
    pub fn step(&self, make: impl FnOnce() -> Span) -> Span {
        let Some(context) = &self.0 else { return Span::none() };
        let span = make();
        let _ = span.set_parent(Context::new().with_remote_span_context((**context).clone()));
        span
    }
}

impl fmt::Debug for Trace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Trace").field(&self.0.is_some()).finish()
    }
}

/// A part of the step that is current, if that is traced.
pub fn part(make: impl FnOnce() -> Span) -> Span {
    if TRACES.get().is_none() {
        return Span::none();
    }
    let in_a_step = Span::current().metadata().is_some_and(|current| current.target() == STORY);
    if in_a_step { make() } else { Span::none() }
}

/// Sends what is not sent yet, within a few seconds. The process is about to end.
pub async fn end() {
    let Some(kept) = TRACES.get() else { return };
    let provider = kept.provider.clone();
    // Waits for its thread: not on one of the runtime's.
    let _ = tokio::task::spawn_blocking(move || provider.shutdown_with_timeout(SHUTDOWN_WITHIN)).await;
}

struct Headers<'a>(&'a HeaderMap);

/// Of a caller's header no more is kept, as long as an approval waits: what a `tracestate` may have in any case (W3C Trace
/// Context, "tracestate Limits": at least 512 characters). A longer one is left out.
const CONTEXT_BYTES_MAX: usize = 512;

impl Extractor for Headers<'_> {
    fn get(&self, key: &str) -> Option<&str> {
        let value = self.0.get(key).filter(|value| value.len() <= CONTEXT_BYTES_MAX);
        value.and_then(|value| value.to_str().ok())
    }

    fn keys(&self) -> Vec<&str> {
        self.0.keys().map(http::HeaderName::as_str).collect()
    }
}

/// The collector, as the thread sees it that sends spans there. Nobody waits for it: where it is away, the queue fills, and
/// what finds no room is lost.
#[derive(Debug)]
struct Collector<E> {
    exporter: E,
    away: AtomicBool,
}

impl<E: SpanExporter> SpanExporter for Collector<E> {
    async fn export(&self, batch: Vec<SpanData>) -> OTelSdkResult {
        let count = u64::try_from(batch.len()).unwrap_or(u64::MAX);
        let done = self.exporter.export(batch).await;
        metrics().calls.spans.add(if done.is_ok() { Exported::Taken } else { Exported::Lost }, count);
        match &done {
            Ok(()) if self.away.swap(false, Ordering::Relaxed) => {
                tracing::info!("the collector of traces takes spans again");
            }
            // Once, and not for each batch.
            Err(error) if !self.away.swap(true, Ordering::Relaxed) => {
                tracing::warn!(%error, "the collector of traces takes no spans (traces.endpoint): they are lost until it does");
            }
            _ => {}
        }
        done
    }

    fn shutdown_with_timeout(&self, timeout: Duration) -> OTelSdkResult {
        self.exporter.shutdown_with_timeout(timeout)
    }

    fn force_flush(&self) -> OTelSdkResult {
        self.exporter.force_flush()
    }

    fn set_resource(&mut self, resource: &Resource) {
        self.exporter.set_resource(resource);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use opentelemetry_sdk::error::OTelSdkError;
    use tracing_subscriber::layer::{Context as LayerContext, SubscriberExt as _};

    use super::*;

    #[test]
    fn of_a_callers_context_no_more_is_kept_than_it_may_have_in_any_case() {
        let of = |state: String| {
            let mut headers = HeaderMap::new();
            let parent = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
            headers.insert("traceparent", parent.parse().unwrap());
            headers.insert("tracestate", state.parse().unwrap());
            let context = TraceContextPropagator::new().extract(&Headers(&headers));
            context.span().span_context().clone()
        };
        let members = |count: usize| {
            (0..count).map(|n| format!("k{n}={}", "v".repeat(200))).collect::<Vec<_>>().join(",")
        };
        let (kept, left_out) = (of(members(2)), of(members(3)));
        assert!(kept.is_valid() && left_out.is_valid());
        assert_eq!(kept.trace_state().header(), members(2));
        assert_eq!(left_out.trace_state().header(), "");
    }

    /// Takes spans or does not, as it is told.
    #[derive(Debug)]
    struct Fickle(Arc<AtomicBool>);

    impl SpanExporter for Fickle {
        async fn export(&self, _: Vec<SpanData>) -> OTelSdkResult {
            let takes = self.0.load(Ordering::Relaxed);
            if takes { Ok(()) } else { Err(OTelSdkError::InternalFailure("away".to_owned())) }
        }
    }

    /// Counts warnings, and the lines that say that all is well.
    #[derive(Debug, Clone, Default)]
    struct Said(Arc<Mutex<Vec<tracing::Level>>>);

    impl<S: tracing::Subscriber> Layer<S> for Said {
        fn on_event(&self, event: &tracing::Event<'_>, _: LayerContext<'_, S>) {
            if event.metadata().target().starts_with("countersign") {
                self.0.lock().unwrap().push(*event.metadata().level());
            }
        }
    }

    #[tokio::test]
    async fn that_the_collector_is_away_is_said_once_and_that_it_is_back_too() {
        use tracing::Level;
        let (takes, said) = (Arc::new(AtomicBool::new(true)), Said::default());
        let collector = Collector { exporter: Fickle(Arc::clone(&takes)), away: AtomicBool::new(false) };
        let _heard = tracing::subscriber::set_default(Registry::default().with(said.clone()));
        for now_takes in [true, false, false, false, true, true, false] {
            takes.store(now_takes, Ordering::Relaxed);
            let _ = collector.export(Vec::new()).await;
        }
        assert_eq!(*said.0.lock().unwrap(), [Level::WARN, Level::INFO, Level::WARN]);
    }

    #[test]
    fn an_endpoint_that_is_no_address_and_a_ratio_that_is_none_are_named() {
        let settings = |endpoint: &str, sample_ratio| Settings {
            endpoint: endpoint.to_owned(),
            sample_ratio,
            ca_file: None,
        };
        assert!(settings("http://127.0.0.1:4317", 0.5).check().is_ok());
        for (endpoint, ratio, key) in [
            ("127.0.0.1:4317", 0.5, "traces.endpoint"),
            ("http://", 0.5, "traces.endpoint"),
            ("https://collector", 1.1, "traces.sample_ratio"),
            ("https://collector", f64::NAN, "traces.sample_ratio"),
        ] {
            assert_eq!(settings(endpoint, ratio).check().unwrap_err().0, key);
        }
    }
}
