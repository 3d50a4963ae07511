//! The only place that reads a clock or sleeps.
//!
//! Wall time is for what people read and for ages of evidence; leases and waits are measured on the
//! monotonic clock. Tests put a manual clock in its place (`testing`).

use std::time::Duration;

use async_trait::async_trait;
use jiff::Timestamp;

/// Wall time, monotonic time, and waiting.
#[async_trait]
pub trait Clock: Send + Sync + 'static {
    /// The wall clock.
    fn now(&self) -> Timestamp;
    /// Time since an arbitrary fixed moment of this process; never goes back, and goes on while the machine sleeps: a
    /// lease is over for everybody else meanwhile (trace C3).
    fn monotonic(&self) -> Duration;
    /// Waits at least this long.
    async fn sleep(&self, duration: Duration);
}

/// The machine's clocks.
#[derive(Debug, Clone, Copy)]
pub struct SystemClock {
    started: Duration,
}

impl SystemClock {
    /// A clock whose monotonic time starts now.
    #[must_use]
    pub fn new() -> Self {
        Self { started: since_boot() }
    }
}

impl Default for SystemClock {
    fn default() -> Self {
        Self::new()
    }
}

/// `Instant`, and what tokio sleeps by, stand still on Linux while the machine is suspended.
fn since_boot() -> Duration {
    let now = rustix::time::clock_gettime(UNSUSPENDED);
    Duration::try_from(now).expect("invariant: this clock counts up from nothing")
}

/// The monotonic clock that goes on while the machine sleeps. On macOS that is the plain one.
#[cfg(any(target_os = "linux", target_os = "android"))]
const UNSUSPENDED: rustix::time::ClockId = rustix::time::ClockId::Boottime;
#[cfg(not(any(target_os = "linux", target_os = "android")))]
const UNSUSPENDED: rustix::time::ClockId = rustix::time::ClockId::Monotonic;

#[async_trait]
impl Clock for SystemClock {
    #[expect(clippy::disallowed_methods, reason = "this is the clock")]
    fn now(&self) -> Timestamp {
        Timestamp::now()
    }

    fn monotonic(&self) -> Duration {
        since_boot().saturating_sub(self.started)
    }

    #[expect(clippy::disallowed_methods, reason = "this is the clock")]
    async fn sleep(&self, duration: Duration) {
        tokio::time::sleep(duration).await;
    }
}
