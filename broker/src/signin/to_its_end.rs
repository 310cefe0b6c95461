//! What has been begun comes to its end, whether or not its caller waits for that.

use std::{
    pin::Pin,
    task::{Context, Poll},
};

use tokio::runtime::Handle;
use tracing::Instrument as _;

/// Does it. Where the caller goes away before, a task goes on with it: what is appended cannot be taken back, and whoever
/// holds something until it is known what came of that must not let go of it sooner. It costs no task where the caller
/// stays, as nearly all do.
pub(super) fn to_its_end<F>(begun: F) -> impl Future<Output = F::Output>
where
    F: Future<Output: Send> + Send + 'static,
{
    ToItsEnd(Some(Box::pin(begun)))
}

struct ToItsEnd<F: Future<Output: Send> + Send + 'static>(Option<Pin<Box<F>>>);

impl<F: Future<Output: Send> + Send + 'static> Future for ToItsEnd<F> {
    type Output = F::Output;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<F::Output> {
        // Taken out: one that panics is not gone on with.
        let mut begun = self.0.take().expect("it is polled until it has ended");
        let polled = begun.as_mut().poll(context);
        if polled.is_pending() {
            self.0 = Some(begun);
        }
        polled
    }
}

impl<F: Future<Output: Send> + Send + 'static> Drop for ToItsEnd<F> {
    fn drop(&mut self) {
        // Without a runtime the broker has ended, and nothing is held any more.
        if let (Some(rest), Ok(runtime)) = (self.0.take(), Handle::try_current()) {
            drop(runtime.spawn(rest.in_current_span()));
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{future::pending, sync::Arc, time::Duration};

    use tokio::sync::{Notify, oneshot};

    use super::*;

    #[tokio::test]
    async fn what_is_begun_is_done_though_nobody_waits_for_it_and_what_is_not_begun_too() {
        for begin in [true, false] {
            let (on, (done, is_done)) = (Arc::new(Notify::new()), oneshot::channel());
            let goes_on = Arc::clone(&on);
            let begun = to_its_end(async move {
                goes_on.notified().await;
                done.send(()).unwrap();
            });
            if begin {
                assert!(tokio::time::timeout(Duration::ZERO, begun).await.is_err());
            } else {
                drop(begun);
            }
            on.notify_one();
            is_done.await.unwrap();
        }
    }

    #[tokio::test]
    async fn what_panics_is_not_gone_on_with() {
        let panics = tokio::spawn(to_its_end(async { panic!("on purpose") }));
        assert!(panics.await.unwrap_err().is_panic());
        assert_eq!(Handle::current().metrics().num_alive_tasks(), 0);
        drop(to_its_end(pending::<()>()));
        assert_eq!(Handle::current().metrics().num_alive_tasks(), 1);
    }
}
