//! What an operator sees of sessions and intents, and for how long, by its own clock.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use jiff::SignedDuration;

use crate::clock::Clock;
use crate::digest::Digest;
use crate::plan::{Plan, Writers};
use crate::protocol::flip::{Life, Process, Seen};
use crate::protocol::phase::Epoch;
use crate::protocol::session::lapsed;
use crate::target::control::{IntentRow, IntentState, SessionKind, SessionRow, SessionState};

/// One operator's memory of sessions.
pub(super) struct Observer {
    /// The epoch that is to be left.
    epoch: Epoch,
    /// What the operator's plan says to writers.
    writers: Digest,
    clock: Arc<dyn Clock>,
    lease: Duration,
    late_write_max: Duration,
    /// Of each open session: its counter, when that was first seen, and whether it was ever renewed.
    open: HashMap<String, (u64, Duration, bool)>,
    /// When each unclean end was first seen.
    ends: HashMap<String, Duration>,
}

impl Observer {
    pub(super) fn new(epoch: Epoch, clock: Arc<dyn Clock>, plan: &Plan) -> Self {
        let (timing, writers) = (&plan.timing, Writers::of(plan).digest);
        let (lease, late_write_max) = (timing.lease.0, timing.late_write_max.0);
        Self { epoch, writers, clock, lease, late_write_max, open: HashMap::new(), ends: HashMap::new() }
    }

    /// Takes note of the sessions as they were just read.
    pub(super) fn look(&mut self, sessions: &[SessionRow]) {
        let now = self.clock.monotonic();
        for row in sessions {
            match row.state {
                SessionState::Open => {
                    let known = self.open.entry(row.id.clone()).or_insert((row.counter, now, false));
                    if known.0 != row.counter {
                        *known = (row.counter, now, true);
                    }
                }
                SessionState::Unclean => {
                    self.ends.entry(row.id.clone()).or_insert(now);
                }
                SessionState::Clean => {}
            }
        }
    }

    /// How a session that was looked at is now.
    pub(super) fn life(&self, row: &SessionRow) -> Life {
        let now = self.clock.monotonic();
        match row.state {
            SessionState::Open if self.is_silent(row, now) => Life::Silent,
            SessionState::Open => Life::Open,
            SessionState::Clean => Life::Over,
            SessionState::Unclean if !row.leaves_unnamed(self.epoch) => Life::Over,
            SessionState::Unclean => {
                let seen = self.ends.get(&row.id).copied().unwrap_or(now);
                // So long ago by the wall clock that no difference of clocks matters.
                let long = SignedDuration::try_from(self.late_write_max * 2).unwrap_or(SignedDuration::MAX);
                let ended = row.ended.map(|ended| self.clock.now().duration_since(ended));
                let over =
                    now.saturating_sub(seen) >= self.late_write_max || ended.is_some_and(|ago| ago >= long);
                if over { Life::Over } else { Life::MayLand }
            }
        }
    }

    fn is_silent(&self, row: &SessionRow, now: Duration) -> bool {
        let known = self.open.get(&row.id);
        known.is_some_and(|(counter, seen, _)| *counter == row.counter && lapsed(self.lease, *seen, now))
    }

    /// Whether it is known of each open session whether it is alive.
    pub(super) fn knows(&self, sessions: &[SessionRow]) -> bool {
        let now = self.clock.monotonic();
        let mut open = sessions.iter().filter(|row| row.state == SessionState::Open);
        open.all(|row| {
            self.open.get(&row.id).is_some_and(|(_, _, renewed)| *renewed) || self.is_silent(row, now)
        })
    }

    /// The same for the protocol.
    pub(super) fn seen(&self, row: &SessionRow) -> Seen<String> {
        Seen {
            process: match row.kind {
                SessionKind::Gateway => Process::Gateway,
                SessionKind::Backfill | SessionKind::Repair => Process::Worker,
                SessionKind::Operator => Process::Operator,
            },
            life: self.life(row),
            acknowledged: row.acknowledged.clone(),
            gap: row.gap.is_some(),
            same_plan: row.writers == Some(self.writers),
        }
    }

    /// Whether the operation of an intent is at work, as far as rows tell.
    pub(super) fn is_at_work(&self, intent: &IntentRow, sessions: &[SessionRow]) -> bool {
        let owner = sessions.iter().find(|row| row.id == intent.session);
        intent.state == IntentState::Open && owner.is_some_and(|row| self.life(row) == Life::Open)
    }
}
