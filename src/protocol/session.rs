//! Leases of sessions: who may still write.
//!
//! Each side measures its own monotonic time and never compares clocks: the holder from before it sent
//! a renewal, an observer from when it first saw the counter.

use std::time::Duration;

/// A holder's view of its own lease. Once it is over, it is over for good.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Lease {
    length: Duration,
    renewed: Duration,
    over: bool,
}

impl Lease {
    /// A lease whose first renewal was sent at `sent` (monotonic).
    #[must_use]
    pub const fn new(length: Duration, sent: Duration) -> Self {
        Self { length, renewed: sent, over: false }
    }

    /// Whether the holder may write at `now` (monotonic). A lapse that was seen once is never undone.
    pub fn holds(&mut self, now: Duration) -> bool {
        self.over |= now.saturating_sub(self.renewed) >= self.length;
        !self.over
    }

    /// A renewal that was sent at `sent` was stored at `now`. It comes too late for a lapsed lease.
    pub fn renewed(&mut self, sent: Duration, now: Duration) {
        if self.holds(now) {
            self.renewed = self.renewed.max(sent);
        }
    }

    /// Somebody else ended the session.
    pub const fn end(&mut self) {
        self.over = true;
    }
}

/// Whether an observer that first saw the present counter at `seen` may take the session for lapsed at
/// `now`: a tenth more than the lease, for clocks that run at different speeds.
#[must_use]
pub fn lapsed(length: Duration, seen: Duration, now: Duration) -> bool {
    now.saturating_sub(seen) >= length + length / 10
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn s(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    #[test]
    fn a_lapsed_lease_is_over_for_good() {
        let mut lease = Lease::new(s(10), s(0));
        assert!(lease.holds(s(9)));
        lease.renewed(s(8), s(9));
        assert!(lease.holds(s(17)));
        assert!(!lease.holds(s(18)));
        lease.renewed(s(18), s(19));
        assert!(!lease.holds(s(19)), "a renewal must not bring a lapsed session back (trace B2)");
    }

    #[test]
    fn time_counts_from_before_the_renewal_was_sent() {
        let mut lease = Lease::new(s(10), s(0));
        lease.renewed(s(1), s(9));
        assert!(!lease.holds(s(11)));
    }

    #[test]
    fn an_observer_waits_longer_than_the_holder() {
        assert!(!lapsed(s(10), s(5), s(15)));
        assert!(lapsed(s(10), s(5), s(16)));
    }
}
