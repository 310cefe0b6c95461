//! HTTP: for now, what Prometheus asks for. On a listener of its own, never on the public port.

use std::sync::Arc;

use axum::{Router, http::header::CONTENT_TYPE, response::IntoResponse, routing::get};

use crate::telemetry::metrics::{self, metrics};

/// Looks at what has to be looked at to be known, and sets it. May read the disk.
pub type Look = Arc<dyn Fn() + Send + Sync>;

/// `GET /metrics`, in Prometheus' text format.
pub fn metrics_router(look: Look) -> Router {
    Router::new().route("/metrics", get(move || answer(Arc::clone(&look))))
}

async fn answer(look: Look) -> impl IntoResponse {
    // What could not be looked at has the values of the last time.
    let looked = tokio::task::spawn_blocking(move || look()).await;
    if let Err(error) = looked {
        tracing::error!(%error, "not all metrics could be read");
    }
    ([(CONTENT_TYPE, metrics::CONTENT_TYPE)], metrics().text())
}
