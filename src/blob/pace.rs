//! How slow a client may be: a body that comes, and content that is taken.
//!
//! A client is given time while the server waits for it and nothing else. Each byte that moves pays some of that time
//! back. Who is too far behind is waited for no longer, and sooner where others wait for its place.

use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use futures::FutureExt as _;
use futures::future::BoxFuture;
use tokio::sync::Semaphore;

use crate::clock::Clock;

/// How far a client may be behind, by default.
pub(crate) const STALL: Duration = Duration::from_secs(60);
/// The same where no place is left for others.
pub(crate) const STALL_CROWDED: Duration = Duration::from_secs(5);
/// The slowest pace that a client may keep up for ever, in bytes a second: a tenth of what a bad mobile connection has.
const PACE_MIN: u64 = 1 << 10;
/// The same while there is no place left for others: that of a bad mobile connection.
const PACE_MIN_CROWDED: u64 = 16 << 10;

/// How long a client is waited for. One for each body, and for each connection.
pub(crate) struct Patience {
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
    /// That with a client that occupies one of these places.
    pub(crate) fn new(
        clock: Arc<dyn Clock>,
        places: Arc<Semaphore>,
        stall: Duration,
        crowded: Duration,
    ) -> Self {
        Self {
            clock,
            places,
            stall,
            stall_crowded: crowded,
            waiting_since: None,
            behind: Duration::ZERO,
            behind_crowded: Duration::ZERO,
            timer: None,
        }
    }

    /// The wait, if any, is over: so many bytes moved.
    pub(crate) fn moved(&mut self, bytes: usize) {
        let Some(since) = self.waiting_since.take() else { return self.pay(Duration::ZERO, bytes) };
        self.pay(self.clock.monotonic().saturating_sub(since), bytes);
    }

    fn pay(&mut self, waited: Duration, bytes: usize) {
        let worth = |pace: u64| Duration::from_micros((bytes as u64).saturating_mul(1_000_000) / pace);
        self.behind = (self.behind + waited).saturating_sub(worth(PACE_MIN));
        self.behind_crowded = (self.behind_crowded + waited).saturating_sub(worth(PACE_MIN_CROWDED));
    }

    /// Waits for the client; ready once it is waited for no longer.
    pub(crate) fn poll(&mut self, context: &mut Context<'_>) -> Poll<()> {
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

#[cfg(test)]
mod tests {
    use std::task::Waker;

    use super::*;
    use crate::testing::ManualClock;

    /// Whether a client that moves so many bytes every second is given up within this time, and when.
    fn given_up(bytes: usize, places: usize, within_s: u64) -> Option<u64> {
        let clock = ManualClock::at("2026-11-01T00:00:00Z");
        let places = Arc::new(Semaphore::new(places));
        let (stall, crowded) = (Duration::from_secs(60), Duration::from_secs(5));
        let mut patience = Patience::new(Arc::new(clock.clone()), places, stall, crowded);
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
