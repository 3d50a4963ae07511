//! A clock that tests move.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use jiff::{SignedDuration, Timestamp};
use tokio::sync::watch;

use crate::clock::Clock;

/// A clock that stands still until [`ManualClock::advance`] moves it; sleepers wake when it has moved
/// far enough. Clones are the same clock.
#[derive(Debug, Clone)]
pub struct ManualClock {
    start: Timestamp,
    elapsed: Arc<watch::Sender<Duration>>,
    /// By how much the wall clock was set.
    set_by: Arc<Mutex<SignedDuration>>,
}

impl ManualClock {
    /// A clock that shows `start`.
    #[must_use]
    pub fn new(start: Timestamp) -> Self {
        Self { start, elapsed: Arc::new(watch::Sender::new(Duration::ZERO)), set_by: Arc::default() }
    }

    /// A clock that shows `start`, such as `2026-11-01T00:00:00Z`.
    ///
    /// # Panics
    /// When the text is not a time.
    #[must_use]
    pub fn at(start: &str) -> Self {
        Self::new(start.parse().expect("a time"))
    }

    /// Moves it forward and wakes those whose time has come.
    pub fn advance(&self, by: Duration) {
        self.elapsed.send_modify(|elapsed| *elapsed += by);
    }

    /// Sets the wall clock forward or back, as operators and time servers do; no time passes.
    pub fn set_wall(&self, by: SignedDuration) {
        *self.set_by.lock().unwrap_or_else(PoisonError::into_inner) += by;
    }

    /// How many wait on it now. A test that wants to wake a sleeper waits until it sleeps.
    #[must_use]
    pub fn sleepers(&self) -> usize {
        self.elapsed.receiver_count()
    }
}

#[async_trait]
impl Clock for ManualClock {
    fn now(&self) -> Timestamp {
        self.start + self.monotonic() + *self.set_by.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn monotonic(&self) -> Duration {
        *self.elapsed.borrow()
    }

    async fn sleep(&self, duration: Duration) {
        let until = self.monotonic() + duration;
        let mut elapsed = self.elapsed.subscribe();
        elapsed.wait_for(|elapsed| *elapsed >= until).await.expect("invariant: this clock holds the sender");
    }
}

/// A clock on which nobody waits: to sleep moves it. For one task whose waiting is long and its order
/// plain, such as retries.
#[derive(Debug, Clone)]
pub struct JumpingClock(ManualClock);

impl JumpingClock {
    /// A clock that shows `start`, such as `2026-11-01T00:00:00Z`.
    ///
    /// # Panics
    /// When the text is not a time.
    #[must_use]
    pub fn at(start: &str) -> Self {
        Self(ManualClock::at(start))
    }

    /// Moves it forward.
    pub fn advance(&self, by: Duration) {
        self.0.advance(by);
    }
}

#[async_trait]
impl Clock for JumpingClock {
    fn now(&self) -> Timestamp {
        self.0.now()
    }

    fn monotonic(&self) -> Duration {
        self.0.monotonic()
    }

    async fn sleep(&self, duration: Duration) {
        self.0.advance(duration);
        tokio::task::yield_now().await;
    }
}
