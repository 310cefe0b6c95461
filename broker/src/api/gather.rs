//! Frames of one connection leave together: before each write, whoever else is ready to send has its turn.
//!
//! A connection that has a frame writes it at once, and tokio wakes it for each frame by itself: under load that is one
//! system call (in TLS, one record) for each message of each login, and the receiver is woken as often. Here a write
//! lets the tasks that are ready run first; HTTP/2 puts what they send into the same buffer. Where nobody is ready it
//! costs one turn of the scheduler, about a microsecond, and no timer.

use std::{
    io::{self, IoSlice},
    pin::Pin,
    task::{Context, Poll},
};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// A stream that gathers what is written to it.
#[derive(Debug)]
pub(super) struct Gather<S> {
    stream: S,
    /// The others have had their turn.
    gathered: bool,
}

impl<S> Gather<S> {
    pub(super) fn new(stream: S) -> Self {
        Self { stream, gathered: false }
    }

    fn poll_gathered(&mut self, cx: &Context<'_>) -> Poll<()> {
        self.gathered = !self.gathered;
        if self.gathered {
            // Woken while it runs, a task goes to the end of the queue.
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        Poll::Ready(())
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Gather<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buffer)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Gather<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        std::task::ready!(self.poll_gathered(cx));
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        std::task::ready!(self.poll_gathered(cx));
        Pin::new(&mut self.stream).poll_write_vectored(cx, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    use super::*;

    /// Notes when it is written to.
    struct Noted(Arc<Mutex<Vec<&'static str>>>);

    impl AsyncWrite for Noted {
        fn poll_write(self: Pin<&mut Self>, _: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
            self.0.lock().unwrap().push("written");
            Poll::Ready(Ok(bytes.len()))
        }

        fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }

        fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }
    }

    #[tokio::test]
    async fn whoever_is_ready_has_its_turn_before_a_write_leaves() {
        let order = Arc::new(Mutex::new(Vec::new()));
        let mut stream = Gather::new(Noted(Arc::clone(&order)));
        let writer = tokio::spawn(async move { stream.write_all(b"frame").await });
        let ready = Arc::clone(&order);
        let other = tokio::spawn(async move { ready.lock().unwrap().push("ready") });
        writer.await.unwrap().unwrap();
        other.await.unwrap();
        assert_eq!(*order.lock().unwrap(), ["ready", "written"]);
    }

    #[tokio::test]
    async fn all_that_is_written_arrives_through_a_narrow_pipe() {
        let (near, mut far) = tokio::io::duplex(7);
        let mut stream = Gather::new(near);
        let sent: Vec<u8> = (0..=255).cycle().take(5_000).collect();
        let bytes = sent.clone();
        let writer = tokio::spawn(async move {
            stream.write_all(&bytes).await?;
            stream.shutdown().await
        });
        let mut received = Vec::new();
        far.read_to_end(&mut received).await.unwrap();
        writer.await.unwrap().unwrap();
        assert_eq!(received, sent);
    }
}
