//! What requests cost: counted by class, paced to the plan's rates, stopped at a limit.

use std::num::NonZeroU32;
use std::ops::{Add, Sub};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use governor::clock::Clock as GovernorClock;
use governor::middleware::NoOpMiddleware;
use governor::state::{InMemoryState, NotKeyed};
use governor::{Quota, RateLimiter};
use serde::{Deserialize, Serialize};

use crate::clock::Clock;
use crate::error::{Error, ErrorKind, Result};

/// Blob operations by the classes in which they are billed and limited.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Operations {
    /// Heads, and content reads that a cache did not answer (each read is counted as one).
    pub simple: u64,
    /// Lists, puts, copies, renames, and each step of a multipart upload. Deletes are free.
    pub advanced: u64,
}

impl Operations {
    /// The sum of both classes.
    #[must_use]
    pub const fn total(self) -> u64 {
        self.simple + self.advanced
    }
}

impl Add for Operations {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        Self { simple: self.simple + other.simple, advanced: self.advanced + other.advanced }
    }
}

impl Sub for Operations {
    type Output = Self;

    fn sub(self, other: Self) -> Self {
        Self {
            simple: self.simple.saturating_sub(other.simple),
            advanced: self.advanced.saturating_sub(other.advanced),
        }
    }
}

/// In which class a request is limited, and whether it is billed there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Class {
    Simple,
    Advanced,
    /// Deletes: free, but limited as advanced operations, one for each blob.
    Delete(u32),
}

/// How many operations may be sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limit {
    /// Of each class.
    pub classes: Operations,
    /// Of both together.
    pub total: u64,
}

/// Counts the requests that were sent, and refuses further ones at a limit. Clones count together.
#[derive(Debug, Clone, Default)]
pub struct Meter {
    state: Arc<Mutex<(Operations, Option<Limit>)>>,
}

impl Meter {
    /// The requests that were sent until now, retries included.
    #[must_use]
    pub fn operations(&self) -> Operations {
        self.lock().0
    }

    /// From now on, refuses to count beyond this limit (what is counted already included).
    pub fn set_limit(&self, limit: Limit) {
        self.lock().1 = Some(limit);
    }

    /// Counts one request that is about to be sent.
    ///
    /// # Errors
    /// `Budget` where it would pass the limit; it is not counted then.
    pub(super) fn count(&self, class: Class) -> Result<()> {
        let one = match class {
            Class::Simple => Operations { simple: 1, advanced: 0 },
            Class::Advanced => Operations { simple: 0, advanced: 1 },
            Class::Delete(_) => return Ok(()),
        };
        let mut state = self.lock();
        let sum = state.0 + one;
        let within = state.1.is_none_or(|limit| {
            sum.simple <= limit.classes.simple
                && sum.advanced <= limit.classes.advanced
                && sum.total() <= limit.total
        });
        if !within {
            let Operations { simple, advanced } = state.0;
            return Err(Error::new(ErrorKind::Budget, "ask the blob store").message(format!(
                "{simple} simple and {advanced} advanced operations were sent, and no more are allowed"
            )));
        }
        state.0 = sum;
        Ok(())
    }

    fn lock(&self) -> MutexGuard<'_, (Operations, Option<Limit>)> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// How many requests a second a store takes.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Rates {
    /// Simple operations a second.
    pub simple: f64,
    /// Advanced operations a second.
    pub advanced: f64,
}

/// Lets requests go at the permitted pace, and none while the store asks for a pause.
pub(super) struct Pace {
    clock: Arc<dyn Clock>,
    limiters: Option<(Limiter, Limiter)>,
    paused_until: Mutex<Duration>,
}

type Limiter = RateLimiter<NotKeyed, InMemoryState, Monotonic, NoOpMiddleware<Duration>>;

impl Pace {
    /// `rates` times `share`; without rates there is no pace but the store's own refusals.
    pub(super) fn new(clock: Arc<dyn Clock>, rates: Option<Rates>, share: f64) -> Result<Self> {
        let limiter = |rate: f64| -> Result<Limiter> {
            Ok(RateLimiter::direct_with_clock(quota(rate * share)?, Monotonic(Arc::clone(&clock))))
        };
        let limiters = match rates {
            Some(rates) => Some((limiter(rates.simple)?, limiter(rates.advanced)?)),
            None => None,
        };
        Ok(Self { limiters, clock, paused_until: Mutex::new(Duration::ZERO) })
    }

    /// Waits until a request of this class may be sent.
    pub(super) async fn wait(&self, class: Class) {
        let permits = if let Class::Delete(blobs) = class { blobs } else { 1 };
        for _ in 0..permits {
            if let Some((simple, advanced)) = &self.limiters {
                let limiter = if class == Class::Simple { simple } else { advanced };
                while let Err(not_until) = limiter.check() {
                    self.clock.sleep(not_until.wait_time_from(self.clock.monotonic())).await;
                }
            }
        }
        loop {
            let until = *self.paused_until.lock().unwrap_or_else(PoisonError::into_inner);
            let wait = until.saturating_sub(self.clock.monotonic());
            if wait.is_zero() {
                return;
            }
            self.clock.sleep(wait).await;
        }
    }

    /// Lets no request go for this long: the store said so.
    pub(super) fn pause(&self, duration: Duration) {
        let until = self.clock.monotonic() + duration;
        let mut paused_until = self.paused_until.lock().unwrap_or_else(PoisonError::into_inner);
        *paused_until = until.max(*paused_until);
    }
}

/// A tenth of a second's requests may go at once: more would pass a limit that is counted by the second.
fn quota(per_second: f64) -> Result<Quota> {
    let refused = || {
        Error::new(ErrorKind::Usage, "limit the rate of requests")
            .message(format!("{per_second} requests a second is no rate"))
    };
    if !(per_second.is_finite() && per_second > 0.0) {
        return Err(refused());
    }
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "the cast saturates, and is of a positive number"
    )]
    let burst = (per_second / 10.0) as u32;
    let burst = NonZeroU32::new(burst).unwrap_or(NonZeroU32::MIN);
    let quota = Quota::with_period(Duration::from_secs_f64(1.0 / per_second)).ok_or_else(refused)?;
    Ok(quota.allow_burst(burst))
}

/// The limiter reads our clock, so that tests can move it.
#[derive(Clone)]
struct Monotonic(Arc<dyn Clock>);

impl GovernorClock for Monotonic {
    type Instant = Duration;

    fn now(&self) -> Duration {
        self.0.monotonic()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_request_is_counted_beyond_the_limit() {
        let meter = Meter::default();
        meter.set_limit(Limit { classes: Operations { simple: 2, advanced: 5 }, total: 3 });
        assert!(meter.count(Class::Simple).is_ok());
        assert!(meter.count(Class::Simple).is_ok());
        assert_eq!(meter.count(Class::Simple).unwrap_err().kind(), ErrorKind::Budget);
        assert!(meter.count(Class::Advanced).is_ok());
        assert_eq!(meter.count(Class::Advanced).unwrap_err().kind(), ErrorKind::Budget);
        assert!(meter.count(Class::Delete(5)).is_ok(), "deletes are free");
        assert_eq!(meter.operations(), Operations { simple: 2, advanced: 1 });
    }

    #[test]
    fn a_rate_must_be_one() {
        for rate in [0.0, -1.0, f64::NAN, f64::INFINITY] {
            assert_eq!(quota(rate).unwrap_err().kind(), ErrorKind::Usage, "{rate}");
        }
        assert!(quota(7.5).is_ok());
    }
}
