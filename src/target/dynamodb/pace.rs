//! How many requests are in flight, and when a failed one is sent again.
//!
//! The number in flight grows by one for each round of successes and is halved when the endpoint
//! throttles: a new on-demand table takes little at first and more with time. All operations share it.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use backon::{BackoffBuilder as _, ExponentialBackoff, ExponentialBuilder};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::failure::Failure;
use crate::clock::Clock;
use crate::error::{Error, ErrorKind, Result};

const IN_FLIGHT_FIRST: usize = 16;
const IN_FLIGHT_MAX: usize = 64;
/// Throttling that is reported within this time of a cut belongs to the same burst.
const BURST: Duration = Duration::from_millis(200);

/// How long a request is tried.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Patience {
    /// At most this many attempts.
    pub attempts_max: u32,
    /// No further attempt begins later than this after the first.
    pub total_max: Duration,
    /// The same, where no connection can be made: the endpoint may not be there at all.
    pub unreachable_max: Duration,
}

impl Patience {
    /// For bulk work over a network: twelve attempts within a minute.
    pub const BULK: Self = Self {
        attempts_max: 12,
        total_max: Duration::from_secs(60),
        unreachable_max: Duration::from_secs(10),
    };
    /// Where a user waits for the answer: six attempts within two seconds.
    pub const INTERACTIVE: Self = Self {
        attempts_max: 6,
        total_max: Duration::from_secs(2),
        unreachable_max: Duration::from_millis(500),
    };
}

/// The limit of requests in flight.
#[derive(Debug, Clone)]
pub(super) struct Pace {
    permits: Arc<Semaphore>,
    state: Arc<Mutex<State>>,
    requests: Arc<AtomicU64>,
}

#[derive(Debug)]
struct State {
    limit: usize,
    /// Permits in use that are taken away as soon as they come back.
    excess: usize,
    /// Successes since the limit last changed.
    successes: usize,
    cut_at: Option<Duration>,
}

impl Pace {
    pub(super) fn new() -> Self {
        Self {
            permits: Arc::new(Semaphore::new(IN_FLIGHT_FIRST)),
            state: Arc::new(Mutex::new(State {
                limit: IN_FLIGHT_FIRST,
                excess: 0,
                successes: 0,
                cut_at: None,
            })),
            requests: Arc::default(),
        }
    }

    /// How many requests may be in flight now.
    pub(super) fn limit(&self) -> usize {
        self.lock().limit
    }

    /// How many requests were sent so far.
    pub(super) fn requests(&self) -> u64 {
        self.requests.load(Ordering::Relaxed)
    }

    async fn enter(&self) -> OwnedSemaphorePermit {
        self.permits.clone().acquire_owned().await.expect("invariant: the semaphore is never closed")
    }

    fn leave(&self, permit: OwnedSemaphorePermit) {
        let mut state = self.lock();
        if state.excess > 0 {
            state.excess -= 1;
            permit.forget();
        }
    }

    fn succeeded(&self) {
        let mut state = self.lock();
        state.successes += 1;
        if state.successes < state.limit || state.limit == IN_FLIGHT_MAX {
            return;
        }
        state.successes = 0;
        state.limit += 1;
        if state.excess > 0 {
            state.excess -= 1;
        } else {
            self.permits.add_permits(1);
        }
    }

    fn throttled(&self, now: Duration) {
        let mut state = self.lock();
        if state.cut_at.is_some_and(|at| now.saturating_sub(at) < BURST) {
            return;
        }
        let removed = state.limit / 2;
        state.cut_at = Some(now);
        state.successes = 0;
        state.limit -= removed;
        state.excess += removed - self.permits.forget_permits(removed);
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Whether a request whose reply was lost may be sent again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Repeat {
    /// A condition or a token stops it from being applied a second time.
    Guarded,
    /// It would overwrite what was written in between.
    Unguarded,
}

/// One request through all its attempts.
pub(super) struct Attempts<'a> {
    pace: &'a Pace,
    clock: &'a dyn Clock,
    patience: Patience,
    repeat: Repeat,
    delays: ExponentialBackoff,
    began: Duration,
    made: u32,
    /// An earlier attempt may have been applied.
    unknown: bool,
}

impl<'a> Attempts<'a> {
    pub(super) fn new(pace: &'a Pace, clock: &'a dyn Clock, patience: Patience, repeat: Repeat) -> Self {
        let began = clock.monotonic();
        Self { pace, clock, patience, repeat, delays: delays(), began, made: 0, unknown: false }
    }

    /// Makes attempts until one succeeds, fails for good, or patience ends.
    pub(super) async fn run<T, F>(&mut self, mut request: impl FnMut() -> F) -> Result<T>
    where
        F: Future<Output = Result<T, Failure>>,
    {
        loop {
            let permit = self.pace.enter().await;
            self.pace.requests.fetch_add(1, Ordering::Relaxed);
            let result = request().await;
            self.pace.leave(permit);
            match result {
                Ok(answer) => {
                    self.pace.succeeded();
                    return Ok(answer);
                }
                Err(failure) => self.wait_after(failure).await?,
            }
        }
    }

    /// Notes that the endpoint left part of a request undone, and waits.
    ///
    /// # Errors
    /// `Throttled` when patience ends.
    pub(super) async fn wait_after_partial(&mut self, progress: bool, error: Error) -> Result<()> {
        if progress {
            self.made = 0;
            self.delays = delays();
            self.began = self.clock.monotonic();
        }
        self.wait_after(error.into()).await
    }

    async fn wait_after(&mut self, Failure { error, unreachable }: Failure) -> Result<()> {
        self.made += 1;
        let kind = error.kind();
        if matches!(kind, ErrorKind::Throttled { .. }) {
            self.pace.throttled(self.clock.monotonic());
        }
        let lost = kind == ErrorKind::OutcomeUnknown;
        let again = kind.policy().retry || (lost && self.repeat == Repeat::Guarded);
        let delay = self.delays.next().unwrap_or(DELAY_MAX);
        let spent = self.clock.monotonic().saturating_sub(self.began);
        let total_max = if unreachable { self.patience.unreachable_max } else { self.patience.total_max };
        self.unknown |= lost;
        if !again || self.made >= self.patience.attempts_max || spent + delay > total_max {
            return Err(if self.unknown && !lost { unknown(error) } else { error });
        }
        self.clock.sleep(delay).await;
        Ok(())
    }
}

const DELAY_MAX: Duration = Duration::from_secs(5);

fn delays() -> ExponentialBackoff {
    ExponentialBuilder::new()
        .with_min_delay(Duration::from_millis(20))
        .with_max_delay(DELAY_MAX)
        .with_jitter()
        .without_max_times()
        .build()
}

/// The last attempt had no effect, but one before it may have had.
fn unknown(error: Error) -> Error {
    Error::new(ErrorKind::OutcomeUnknown, error.operation().to_owned())
        .message("the reply to an earlier attempt was lost, and the last attempt failed")
        .source(error)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn throttling_halves_and_success_climbs() {
        let pace = Pace::new();
        pace.throttled(Duration::ZERO);
        assert_eq!(pace.limit(), IN_FLIGHT_FIRST / 2);
        pace.throttled(BURST / 2);
        assert_eq!(pace.limit(), IN_FLIGHT_FIRST / 2, "one burst is one cut");
        for _ in 0..IN_FLIGHT_FIRST / 2 {
            pace.succeeded();
        }
        assert_eq!(pace.limit(), IN_FLIGHT_FIRST / 2 + 1);
        for burst in 1..20 {
            pace.throttled(BURST * burst * 2);
        }
        assert_eq!(pace.limit(), 1, "it never stops");
        assert_eq!(pace.permits.available_permits(), 1);
    }

    #[tokio::test]
    async fn a_cut_takes_permits_that_are_in_use_when_they_come_back() {
        let pace = Pace::new();
        let mut in_use = Vec::new();
        for _ in 0..IN_FLIGHT_FIRST {
            in_use.push(pace.enter().await);
        }
        pace.throttled(Duration::ZERO);
        for permit in in_use {
            pace.leave(permit);
        }
        assert_eq!(pace.permits.available_permits(), IN_FLIGHT_FIRST / 2);
    }
}
