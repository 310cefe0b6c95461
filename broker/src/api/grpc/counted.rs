//! Each call is counted once, by its method and by the status that ended it, which of a stream comes at its very end.

use std::{
    collections::HashMap,
    pin::Pin,
    sync::LazyLock,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use http::{HeaderMap, Response};
use hyper::body::{Body as HttpBody, Frame, SizeHint};
use tokio::sync::OwnedSemaphorePermit;
use tonic::{Status, body::Body};

use crate::telemetry::{
    Stopwatch,
    metrics::{
        cells::{Labels as _, One},
        labels::{Code, Method},
        metrics,
    },
};

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
#[derive(Debug)]
pub(super) struct Call {
    method: Method,
    began: Stopwatch,
    status: Option<Code>,
    _going_on: One<()>,
}

impl Call {
    /// It has come.
    pub(super) fn begin(path: &str) -> Self {
        let going_on = metrics().calls.in_flight.one(());
        Self { method: method(path), began: Stopwatch::start(), status: None, _going_on: going_on }
    }

    /// Its answer begins.
    pub(super) fn answered(mut self, response: Response<Body>) -> Response<Counted> {
        metrics().calls.call_duration.took(self.method, self.began.elapsed());
        self.status = code(response.headers());
        response.map(|body| Counted { body, call: Some(self), _place: None })
    }
}

impl Drop for Call {
    fn drop(&mut self) {
        metrics().calls.calls.count((self.method, self.status.unwrap_or(Code::Cancelled)));
    }
}

/// The body of an answer, whose end is that of its call.
#[derive(Debug)]
pub struct Counted {
    body: Body,
    call: Option<Call>,
    _place: Option<OwnedSemaphorePermit>,
}

impl Counted {
    /// The body of what is no call.
    pub(super) fn not(body: Body) -> Self {
        Self { body, call: None, _place: None }
    }

    /// The same, which takes up this place until it is over.
    pub(super) fn keeping(self, place: OwnedSemaphorePermit) -> Self {
        Self { _place: Some(place), ..self }
    }
}

impl HttpBody for Counted {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        let frame = ready!(Pin::new(&mut self.body).poll_frame(context));
        if let Some(Ok(frame)) = &frame
            && let Some(trailers) = frame.trailers_ref()
            && let Some(call) = &mut self.call
        {
            call.status = code(trailers);
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
