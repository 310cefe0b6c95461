//! Each call is counted once, by its method and by the status that ended it, which of a stream comes at its very end.

use std::{
    collections::HashMap,
    pin::Pin,
    sync::LazyLock,
    task::{Context, Poll, ready},
};

use axum::{
    body::{Body, HttpBody},
    extract::Request,
    middleware::Next,
    response::Response,
};
use bytes::Bytes;
use http::HeaderMap;
use hyper::body::{Frame, SizeHint};

use crate::telemetry::{
    Stopwatch,
    metrics::{
        cells::{Labels as _, One},
        labels::{Code, Method},
        metrics,
    },
};

/// Answers a call, and counts it.
pub(super) async fn call(request: Request, next: Next) -> Response {
    let mut call = Call::new(method(request.uri().path()));
    let began = Stopwatch::start();
    let response = next.run(request).await;
    metrics().calls.call_duration.took(call.method, began.elapsed());
    call.status = code(response.headers());
    response.map(|body| Body::new(Counted { body, call }))
}

/// The methods by their paths: one that is not there is none of ours.
fn method(path: &str) -> Method {
    static METHODS: LazyLock<HashMap<&str, Method>> =
        LazyLock::new(|| Method::all().into_iter().map(|method| (method.path(), method)).collect());
    let path = path.strip_prefix('/').unwrap_or(path);
    METHODS.get(path).copied().unwrap_or(Method::Other)
}

/// The status, where it is: in the head of an answer without a message, else in its trailers.
fn code(headers: &HeaderMap) -> Option<Code> {
    let number = headers.get("grpc-status")?.to_str().ok()?.parse().ok();
    Some(number.map_or(Code::Unknown, Code::of))
}

/// A call that goes on. Whoever leaves before its status has cancelled it.
struct Call {
    method: Method,
    status: Option<Code>,
    _going_on: One<()>,
}

impl Call {
    fn new(method: Method) -> Self {
        Self { method, status: None, _going_on: metrics().calls.in_flight.one(()) }
    }
}

impl Drop for Call {
    fn drop(&mut self) {
        metrics().calls.calls.count((self.method, self.status.unwrap_or(Code::Cancelled)));
    }
}

struct Counted {
    body: Body,
    call: Call,
}

impl HttpBody for Counted {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        let frame = ready!(Pin::new(&mut self.body).poll_frame(context));
        if let Some(Ok(frame)) = &frame
            && let Some(trailers) = frame.trailers_ref()
        {
            self.call.status = code(trailers);
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use countersign_proto::v1;
    use prost::Message as _;
    use prost_types::FileDescriptorSet;

    use super::*;

    #[test]
    fn every_method_of_ours_has_a_label() {
        let ours = FileDescriptorSet::decode(v1::FILE_DESCRIPTOR_SET).unwrap();
        for file in ours.file {
            for service in &file.service {
                for one in &service.method {
                    let path = format!("/{}.{}/{}", file.package(), service.name(), one.name());
                    assert_ne!(method(&path), Method::Other, "{path}: add it to telemetry/metrics/labels.rs");
                }
            }
        }
        assert_eq!(method("/countersign.v1.Approvals/Nothing"), Method::Other);
    }
}
