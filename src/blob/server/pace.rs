//! Connections whose clients must take what is written to them.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::Semaphore;

use super::Site;
use crate::blob::pace::Patience;

/// The patience of a server with a client that occupies one of these places.
pub(super) fn patience(site: &Site, places: &Arc<Semaphore>) -> Patience {
    let config = &site.config;
    Patience::new(site.clock.clone(), places.clone(), config.stall_timeout, config.crowd_timeout)
}

/// A connection whose client must take what is written to it.
pub(super) struct Paced<S> {
    stream: S,
    patience: Patience,
}

impl<S> Paced<S> {
    pub(super) const fn new(stream: S, patience: Patience) -> Self {
        Self { stream, patience }
    }

    /// What came of a write of `count` bytes, unless the client took none for too long.
    fn judge<T>(
        &mut self,
        context: &mut Context<'_>,
        written: Poll<io::Result<T>>,
        count: impl Fn(&T) -> usize,
    ) -> Poll<io::Result<T>> {
        match written {
            Poll::Ready(written) => {
                self.patience.moved(written.as_ref().map_or(0, count));
                Poll::Ready(written)
            }
            Poll::Pending => self.patience.poll(context).map(|()| Err(io::ErrorKind::TimedOut.into())),
        }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Paced<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(context, buffer)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Paced<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write(context, bytes);
        self.judge(context, written, |count| *count)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write_vectored(context, slices);
        self.judge(context, written, |count| *count)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let flushed = Pin::new(&mut self.stream).poll_flush(context);
        self.judge(context, flushed, |()| 0)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let shut = Pin::new(&mut self.stream).poll_shutdown(context);
        self.judge(context, shut, |()| 0)
    }
}
