//! How slow a client may be: a body that comes, and a reply that is taken.
//!
//! A client is given time while the server waits for it and nothing else. Each byte that moves pays some of that time
//! back. Who is too far behind is waited for no longer, and sooner where others wait for its place.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use futures::FutureExt as _;
use futures::future::BoxFuture;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::Semaphore;

use super::Site;
use crate::clock::Clock;

/// The slowest pace that a client may keep up for ever, in bytes a second: a tenth of what a bad mobile connection has.
const PACE_MIN: u64 = 1 << 10;
/// The same while there is no place left for others: that of a bad mobile connection.
const PACE_MIN_CROWDED: u64 = 16 << 10;

/// How long a client is waited for. One for each body, and for each connection.
pub(super) struct Patience {
    clock: Arc<dyn Clock>,
    /// Places of which there may be none left.
    places: Arc<Semaphore>,
    /// How far a client may be behind [`PACE_MIN`].
    stall: Duration,
    /// How far it may be behind [`PACE_MIN_CROWDED`] where no place is left.
    stall_crowded: Duration,
    waiting_since: Option<Duration>,
    behind: Duration,
    behind_crowded: Duration,
    /// Ends the present look at the clock.
    timer: Option<BoxFuture<'static, ()>>,
}

impl Patience {
    /// That of a server with a client that occupies one of these places.
    pub(super) fn of(site: &Site, places: &Arc<Semaphore>) -> Self {
        Self {
            clock: site.clock.clone(),
            places: places.clone(),
            stall: site.config.stall_timeout,
            stall_crowded: site.config.crowd_timeout,
            waiting_since: None,
            behind: Duration::ZERO,
            behind_crowded: Duration::ZERO,
            timer: None,
        }
    }

    /// The wait, if any, is over: so many bytes moved.
    pub(super) fn moved(&mut self, bytes: usize) {
        let Some(since) = self.waiting_since.take() else { return self.pay(Duration::ZERO, bytes) };
        self.pay(self.clock.monotonic().saturating_sub(since), bytes);
    }

    fn pay(&mut self, waited: Duration, bytes: usize) {
        let worth = |pace: u64| Duration::from_micros((bytes as u64).saturating_mul(1_000_000) / pace);
        self.behind = (self.behind + waited).saturating_sub(worth(PACE_MIN));
        self.behind_crowded = (self.behind_crowded + waited).saturating_sub(worth(PACE_MIN_CROWDED));
    }

    /// Waits for the client; ready once it is waited for no longer.
    pub(super) fn poll(&mut self, context: &mut Context<'_>) -> Poll<()> {
        loop {
            let now = self.clock.monotonic();
            let waited = now.saturating_sub(*self.waiting_since.get_or_insert(now));
            let left = self.stall.saturating_sub(self.behind + waited);
            let is_crowded = self.places.available_permits() == 0;
            if left.is_zero() || (is_crowded && self.behind_crowded + waited >= self.stall_crowded) {
                return Poll::Ready(());
            }
            let timer = self.timer.get_or_insert_with(|| {
                let (clock, pause) = (self.clock.clone(), left.min(self.stall_crowded));
                async move { clock.sleep(pause).await }.boxed()
            });
            std::task::ready!(timer.as_mut().poll(context));
            // It must not be polled again.
            self.timer = None;
        }
    }
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

#[cfg(test)]
mod tests {
    use std::task::Waker;

    use super::*;
    use crate::testing::ManualClock;

    /// Whether a client that moves so many bytes every second is given up within this time, and when.
    fn given_up(bytes: usize, places: usize, within_s: u64) -> Option<u64> {
        let clock = ManualClock::at("2026-11-01T00:00:00Z");
        let mut patience = Patience {
            clock: Arc::new(clock.clone()),
            places: Arc::new(Semaphore::new(places)),
            stall: Duration::from_secs(60),
            stall_crowded: Duration::from_secs(5),
            waiting_since: None,
            behind: Duration::ZERO,
            behind_crowded: Duration::ZERO,
            timer: None,
        };
        let mut context = Context::from_waker(Waker::noop());
        (0..within_s).find(|_| {
            let is_given_up = patience.poll(&mut context).is_ready();
            clock.advance(Duration::from_secs(1));
            if bytes > 0 {
                patience.moved(bytes);
            }
            is_given_up
        })
    }

    #[test]
    fn a_client_is_given_up_that_is_too_slow_for_too_long() {
        for (bytes, crowded, expected) in [
            (0, false, Some(60)),
            (1, false, Some(61)),
            (512, false, Some(120)),
            (1 << 10, false, None),
            (0, true, Some(5)),
            (1 << 10, true, Some(6)),
            (8 << 10, true, Some(10)),
            (16 << 10, true, None),
        ] {
            let found = given_up(bytes, usize::from(!crowded), 1000);
            assert_eq!(found, expected, "{bytes} bytes a second, crowded: {crowded}");
        }
    }
}
