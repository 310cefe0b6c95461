//! How the message of a request comes in: whole within a time, and not all of a connection's at once.
//!
//! Every request here is one message (reflection's can be several, and has the same time for all of them), so a limit on
//! the body is one on what a peer can make the broker keep for it. It does not concern replies, which can last as long
//! as a login waits.

use std::{
    pin::Pin,
    task::{Context, Poll, ready},
};

use axum::BoxError;
use bytes::Bytes;
use hyper::body::{Body as HttpBody, Frame, SizeHint};
use tokio::{sync::OwnedSemaphorePermit, time::Sleep};
use tokio_util::sync::PollSemaphore;

use super::status;
use crate::api::listen::Receiving;

/// A request's body that must be there in time.
pub(super) struct Received<B> {
    body: B,
    places: PollSemaphore,
    place: Option<OwnedSemaphorePermit>,
    late: Pin<Box<Sleep>>,
}

impl<B> Received<B> {
    /// The time begins now.
    pub(super) fn new(body: B, receiving: Receiving) -> Self {
        let late = Box::pin(tokio::time::sleep(receiving.within));
        Self { body, places: PollSemaphore::new(receiving.places), place: None, late }
    }
}

type Part<B> = Option<Result<Frame<Bytes>, <B as HttpBody>::Error>>;

impl<B: HttpBody<Data = Bytes> + Unpin> Received<B> {
    /// The next part, in the place that it needs.
    fn poll_received(&mut self, context: &mut Context<'_>) -> Poll<Part<B>> {
        if self.place.is_none() {
            // None only of a semaphore that was closed, which nobody does.
            self.place = ready!(self.places.poll_acquire(context));
        }
        let frame = ready!(Pin::new(&mut self.body).poll_frame(context));
        if self.body.is_end_stream() || !matches!(frame, Some(Ok(_))) {
            self.place = None;
        }
        Poll::Ready(frame)
    }
}

impl<B: HttpBody<Data = Bytes, Error: Into<BoxError>> + Unpin> HttpBody for Received<B> {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        let this = &mut *self;
        // Most messages are there already: nobody has to be woken for them when the time is over.
        if let Poll::Ready(frame) = this.poll_received(context) {
            return Poll::Ready(frame.map(|frame| frame.map_err(Into::into)));
        }
        ready!(this.late.as_mut().poll(context));
        this.place = None;
        Poll::Ready(Some(Err(status::message_late().into())))
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
    use std::{sync::Arc, time::Duration};

    use axum::body::Body;
    use futures::{StreamExt as _, stream};
    use tokio::sync::Semaphore;
    use tonic::{Code, Status};

    use super::*;

    fn received(body: Body, places: &Arc<Semaphore>) -> Body {
        let (places, asides) = (Arc::clone(places), Arc::new(Semaphore::new(1)));
        let receiving = Receiving { places, within: Duration::from_secs(10), asides };
        Body::new(Received::new(body, receiving))
    }

    fn never() -> Body {
        Body::from_stream(stream::pending::<Result<Bytes, Status>>())
    }

    #[tokio::test(start_paused = true)]
    async fn a_body_that_does_not_come_in_time_is_an_error_that_says_so() {
        let begins = stream::iter([Ok::<_, Status>(Bytes::from_static(b"\0"))]).chain(stream::pending());
        for body in [never(), Body::from_stream(begins)] {
            let body = received(body, &Arc::new(Semaphore::new(1)));
            let error = axum::body::to_bytes(body, 100).await.unwrap_err();
            let status = Status::from_error(error.into());
            assert_eq!(status.code(), Code::DeadlineExceeded, "{status}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_body_that_comes_in_time_is_the_same_as_before() {
        let places = Arc::new(Semaphore::new(1));
        for _ in 0..3 {
            let slowly = stream::iter([b"one, ", b"two, "]).then(|part| async move {
                tokio::time::sleep(Duration::from_secs(4)).await;
                Ok::<_, Status>(Bytes::from_static(part))
            });
            let body = received(Body::from_stream(slowly), &places);
            assert_eq!(axum::body::to_bytes(body, 100).await.unwrap(), "one, two, ");
        }
        assert_eq!(places.available_permits(), 1, "each has given its place back");
    }

    #[tokio::test(start_paused = true)]
    async fn who_does_not_send_keeps_the_places_of_his_connection_for_so_long_and_no_longer() {
        let places = Arc::new(Semaphore::new(1));
        let silent = tokio::spawn(axum::body::to_bytes(received(never(), &places), 100));
        tokio::time::sleep(Duration::from_secs(9)).await;
        let next = tokio::spawn(axum::body::to_bytes(received("next".into(), &places), 100));
        tokio::task::yield_now().await;
        assert!(!next.is_finished(), "there was one place");
        assert_eq!(next.await.unwrap().unwrap(), "next");
        assert!(silent.await.unwrap().is_err());
    }
}
