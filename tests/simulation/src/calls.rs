//! What those who call have in common.

use tonic::{Code, Request, Status};

/// With an API key.
pub(crate) fn with_key<T>(message: T, key: &str) -> Request<T> {
    let mut request = Request::new(message);
    request.metadata_mut().insert("authorization", key.parse().expect("an API key is ASCII"));
    request
}

/// Whether asking again, later, can help: nobody knows what became of the call, or the broker says so.
pub(crate) fn helps_to_retry(status: &Status) -> bool {
    matches!(
        status.code(),
        Code::Unavailable
            | Code::DeadlineExceeded
            | Code::Cancelled
            | Code::Unknown
            | Code::Aborted
            | Code::ResourceExhausted
    ) || (status.code() == Code::Internal && !status.message().starts_with("the broker failed"))
}

/// An error as a line, without what differs between two runs of one seed.
pub(crate) fn said(status: &Status) -> String {
    format!("{:?}: {}", status.code(), status.message())
}
