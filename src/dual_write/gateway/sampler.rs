//! A share of what comes by, evenly spread.

use std::sync::atomic::{AtomicU64, Ordering};

/// Takes so many of a hundred, in turn.
pub(super) struct Sampler {
    percent: u64,
    seen: AtomicU64,
}

impl Sampler {
    pub(super) fn new(percent: impl Into<u64>) -> Self {
        Self { percent: percent.into(), seen: AtomicU64::new(0) }
    }

    /// Whether it is this one's turn.
    pub(super) fn takes_one(&self) -> bool {
        let number = self.seen.fetch_add(1, Ordering::Relaxed);
        (number + 1) * self.percent / 100 > number * self.percent / 100
    }
}
