//! The only place that reads a clock or sleeps.
//!
//! Wall time is for what people read and for ages of evidence; leases and waits are measured on the
//! monotonic clock. Tests put a manual clock in its place (`testing`).

use std::time::{Duration, Instant};

use async_trait::async_trait;
use jiff::Timestamp;

/// Wall time, monotonic time, and waiting.
#[async_trait]
pub trait Clock: Send + Sync + 'static {
    /// The wall clock.
    fn now(&self) -> Timestamp;
    /// Time since an arbitrary fixed moment of this process; never goes back.
    fn monotonic(&self) -> Duration;
    /// Waits at least this long.
    async fn sleep(&self, duration: Duration);
}

/// The machine's clocks.
#[derive(Debug, Clone, Copy)]
pub struct SystemClock {
    started: Instant,
}

impl SystemClock {
    /// A clock whose monotonic time starts now.
    #[must_use]
    pub fn new() -> Self {
        Self { started: Instant::now() }
    }
}

impl Default for SystemClock {
    fn default() -> Self {
        Self::new()
    }
}

#[async_trait]
impl Clock for SystemClock {
    #[expect(clippy::disallowed_methods, reason = "this is the clock")]
    fn now(&self) -> Timestamp {
        Timestamp::now()
    }

    fn monotonic(&self) -> Duration {
        self.started.elapsed()
    }

    #[expect(clippy::disallowed_methods, reason = "this is the clock")]
    async fn sleep(&self, duration: Duration) {
        tokio::time::sleep(duration).await;
    }
}
