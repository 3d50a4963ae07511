//! What Blob operations cost and how many a Vercel plan allows: the one table of prices, rates and
//! allowances.

use std::fmt;

use serde::Serialize;

use crate::blob::client::{Operations, Rates};
use crate::error::{Error, ErrorKind, Result};
use crate::plan::VercelPlan;

/// Prices of a Vercel Blob store, in US dollars.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Prices {
    /// A million simple operations.
    pub simple_per_million: f64,
    /// A million advanced operations.
    pub advanced_per_million: f64,
    /// A GB of content that is read.
    pub transfer_per_gb: f64,
    /// Where these prices come from.
    pub source: &'static str,
    /// The day they were marked as updated.
    pub date: &'static str,
}

/// On-demand prices in the region iad1; other regions cost up to 40 % more (transfer: up to 134 %).
pub const PRICES: Prices = Prices {
    simple_per_million: 0.40,
    advanced_per_million: 5.00,
    transfer_per_gb: 0.050,
    source: "Vercel, \"Vercel Blob usage and pricing\", region iad1",
    date: "2026-03-04",
};

/// For how many days Hobby's allowance counts, and for how long it blocks a store that passed it.
pub const ALLOWANCE_DAYS: i64 = 30;

/// How many requests a second a store of this plan takes (same source as [`PRICES`]).
#[must_use]
pub const fn rates(plan: VercelPlan) -> Rates {
    match plan {
        VercelPlan::Hobby => Rates { simple: 20.0, advanced: 15.0 },
        VercelPlan::Pro => Rates { simple: 120.0, advanced: 75.0 },
        VercelPlan::Enterprise => Rates { simple: 150.0, advanced: 125.0 },
    }
}

/// How many operations a month a store of this plan may use before it is blocked; none where more are
/// billed instead (same source as [`PRICES`]).
#[must_use]
pub const fn allowance(plan: VercelPlan) -> Option<Operations> {
    match plan {
        VercelPlan::Hobby => Some(Operations { simple: 10_000, advanced: 2_000 }),
        VercelPlan::Pro | VercelPlan::Enterprise => None,
    }
}

/// What an export will ask of the store, and what that costs.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Estimate {
    /// Blobs that are listed.
    pub blobs: u64,
    /// Pages of the listing that are asked for now: one advanced operation each.
    pub pages: u64,
    /// Bodies to be fetched: one simple operation each, where no cache answers.
    pub bodies: u64,
    /// Their length.
    pub bytes: u64,
    /// Bodies that the snapshot holds already.
    pub held: u64,
    /// The operations of this export, those of its listing included.
    pub operations: Operations,
    /// The operations of earlier exports into this snapshot within the allowance's days, those of an
    /// interrupted one that this one goes on with among them.
    pub earlier: Operations,
    /// The allowance of the Vercel plan, where passing it blocks the store.
    pub allowance: Option<Operations>,
    /// The cost of the operations and of the transfer, in US dollars.
    pub cost_usd: f64,
    /// The least time that the permitted rates allow, in seconds.
    pub seconds_min: f64,
    /// What the cost was computed with.
    pub prices: Prices,
}

/// What an estimate is made from.
#[derive(Debug, Clone, Copy)]
pub(super) struct Counts {
    pub(super) blobs: u64,
    pub(super) pages: u64,
    pub(super) bodies: u64,
    pub(super) bytes: u64,
    pub(super) held: u64,
    pub(super) earlier: Operations,
}

impl Estimate {
    pub(super) fn new(counts: Counts, plan: VercelPlan, share: Option<f64>) -> Self {
        let Counts { blobs, pages, bodies, bytes, held, earlier } = counts;
        let operations = Operations { simple: bodies, advanced: pages };
        let rates = rates(plan);
        #[expect(clippy::cast_precision_loss, reason = "estimates for people")]
        let cost_and_time = {
            let cost_usd = bodies as f64 * PRICES.simple_per_million / 1e6
                + pages as f64 * PRICES.advanced_per_million / 1e6
                + bytes as f64 * PRICES.transfer_per_gb / 1e9;
            let seconds = share.map_or(0.0, |share| {
                pages as f64 / (rates.advanced * share) + bodies as f64 / (rates.simple * share)
            });
            (cost_usd, seconds)
        };
        let (cost_usd, seconds_min) = cost_and_time;
        Self {
            blobs,
            pages,
            bodies,
            bytes,
            held,
            operations,
            earlier,
            allowance: allowance(plan),
            cost_usd,
            seconds_min,
            prices: PRICES,
        }
    }

    /// Refuses an export that is too dear.
    ///
    /// # Errors
    /// `Budget` where it needs more than `max_operations` operations, or where it would, together with the
    /// earlier ones, pass the allowance.
    pub fn check(&self, max_operations: Option<u64>) -> Result<()> {
        let Operations { simple, advanced } = self.operations;
        let refused = |message: String| {
            Err(Error::new(ErrorKind::Budget, "export")
                .message(format!("it needs {simple} simple and {advanced} advanced operations, {message}")))
        };
        if let Some(max) = max_operations.filter(|max| self.operations.total() > *max) {
            return refused(format!("and at most {max} are allowed"));
        }
        let sum = self.operations + self.earlier;
        match self.allowance {
            Some(allowed) if sum.simple > allowed.simple || sum.advanced > allowed.advanced => {
                refused(format!(
                    "with {} and {} of the last {ALLOWANCE_DAYS} days more than the plan's {} and {}",
                    self.earlier.simple, self.earlier.advanced, allowed.simple, allowed.advanced
                ))
                .map_err(|error| {
                    error.hint(format!(
                        "passing the allowance blocks the store for {ALLOWANCE_DAYS} days, for the \
                         application too; use a paid plan, or export fewer blobs with `source.prefix`"
                    ))
                })
            }
            _ => Ok(()),
        }
    }
}

impl fmt::Display for Estimate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Operations { simple, advanced } = self.operations;
        write!(
            f,
            "{} blobs listed, {} bodies to fetch ({} bytes), {} held already: {simple} simple and {advanced} \
             advanced operations, about ${:.4} ({}, {})",
            self.blobs,
            self.bodies,
            self.bytes,
            self.held,
            self.cost_usd,
            self.prices.source,
            self.prices.date,
        )?;
        if self.seconds_min > 0.0 {
            write!(f, ", at least {:.0} s", self.seconds_min.ceil())?;
        }
        if let Some(allowed) = self.allowance {
            write!(f, "; the plan allows {} and {} a month", allowed.simple, allowed.advanced)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn estimate(bodies: u64, pages: u64, earlier: Operations, plan: VercelPlan) -> Estimate {
        let counts = Counts { blobs: bodies, pages, bodies, bytes: 1_000_000_000, held: 0, earlier };
        Estimate::new(counts, plan, Some(0.5))
    }

    #[test]
    fn an_export_within_its_limits_may_run() {
        let estimate = estimate(10_000, 10, Operations::default(), VercelPlan::Pro);
        assert!(estimate.check(Some(10_010)).is_ok());
        assert_eq!(estimate.check(Some(10_009)).unwrap_err().kind(), ErrorKind::Budget);
        assert!((estimate.cost_usd - (0.004 + 0.000_05 + 0.05)).abs() < 1e-9, "{}", estimate.cost_usd);
        assert!(estimate.seconds_min > 166.0, "10,000 reads at 60 a second");
    }

    #[test]
    fn hobbys_allowance_is_never_passed() {
        let none = Operations::default();
        assert!(estimate(10_000, 10, none, VercelPlan::Hobby).check(None).is_ok());
        assert!(estimate(10_001, 10, none, VercelPlan::Hobby).check(None).is_err());
        assert!(estimate(10, 2_001, none, VercelPlan::Hobby).check(None).is_err());
        let earlier = Operations { simple: 9_999, advanced: 1 };
        assert!(estimate(1, 1, earlier, VercelPlan::Hobby).check(None).is_ok());
        assert!(estimate(2, 1, earlier, VercelPlan::Hobby).check(None).is_err());
        assert!(estimate(2, 1, earlier, VercelPlan::Pro).check(None).is_ok());
    }
}
