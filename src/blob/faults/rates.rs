//! The rate limits of the service, which answers `rate_limited` above them.

use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::Duration;

use governor::clock::Clock as _;
use governor::middleware::NoOpMiddleware;
use governor::state::{InMemoryState, NotKeyed};
use governor::{Quota, RateLimiter};

use super::script::Operation;
use crate::clock::Clock;
use crate::error::{Error, ErrorKind, Result};

/// How many operations of each class pass per second; as many may come at once.
///
/// The constants are those of Vercel's plans ("Vercel Blob usage and pricing", marked as updated
/// March 4, 2026).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rates {
    /// Heads, and content reads that no cache answers.
    pub simple: NonZeroU32,
    /// Writes, pages of listings, each step of a multipart upload, each blob of a delete.
    pub advanced: NonZeroU32,
}

impl Rates {
    /// The Hobby plan.
    pub const HOBBY: Self = Self::new(20, 15);
    /// The Pro plan.
    pub const PRO: Self = Self::new(120, 75);
    /// The Enterprise plan.
    pub const ENTERPRISE: Self = Self::new(150, 125);

    /// Rates per second.
    ///
    /// # Panics
    /// When one is zero.
    #[must_use]
    pub const fn new(simple: u32, advanced: u32) -> Self {
        match (NonZeroU32::new(simple), NonZeroU32::new(advanced)) {
            (Some(simple), Some(advanced)) => Self { simple, advanced },
            _ => panic!("a rate of zero"),
        }
    }
}

/// Our clock, as governor takes it.
#[derive(Clone)]
struct Ticks(Arc<dyn Clock>);

impl governor::clock::Clock for Ticks {
    type Instant = Duration;

    fn now(&self) -> Duration {
        self.0.monotonic()
    }
}

type Limiter = RateLimiter<NotKeyed, InMemoryState, Ticks, NoOpMiddleware<Duration>>;

pub(super) struct Limits {
    simple: Limiter,
    advanced: Limiter,
    ticks: Ticks,
}

impl Limits {
    pub(super) fn new(rates: Rates, clock: Arc<dyn Clock>) -> Self {
        let ticks = Ticks(clock);
        let limiter =
            |rate: NonZeroU32| RateLimiter::direct_with_clock(Quota::per_second(rate), ticks.clone());
        Self { simple: limiter(rates.simple), advanced: limiter(rates.advanced), ticks }
    }

    /// Takes the cost of an operation, or refuses it.
    pub(super) fn take(&self, operation: Operation, cost: u32) -> Result<()> {
        let Some(cost) = NonZeroU32::new(cost) else { return Ok(()) };
        let limiter = if operation.is_simple() { &self.simple } else { &self.advanced };
        let wait = match limiter.check_n(cost) {
            Ok(Ok(())) => return Ok(()),
            Ok(Err(not_until)) => not_until.wait_time_from(self.ticks.now()),
            // More than passes at once, ever: the service too refuses a delete of that many.
            Err(_) => Duration::from_secs(1),
        };
        Err(Error::new(ErrorKind::Throttled { retry_after: Some(wait) }, operation.name())
            .message("too many requests"))
    }
}
