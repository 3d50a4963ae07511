//! A change of authority: what its operator does, step by step.
//!
//! [`Flip`] is the operation as a state machine. Its driver does what [`Flip::next`] asks and reports what
//! came of it. First, with writes flowing, every intent is converged, and it goes on only where few are left
//! and no request is slow. Then a hold is set, every process that can write acknowledges it, every intent is
//! converged once more, and the mode is committed; the hold and the commit by compare-and-set, so that of
//! several operators at most one gets through. Whoever is not sure cancels.
//!
//! While Blob is the authority its gateways go on without the control table: silence says nothing, and only
//! an acknowledgement, or a row that is over, lets the flip go on. Once DynamoDB is the authority they stop by
//! themselves: a session that is silent for longer than its lease is ended in its row. Nothing in Blob can
//! refuse a write that lands late. So on the way back whatever may land late is waited for first, and under the
//! hold no intent may be left: the operator itself never writes to Blob.
//!
//! An operator has no session. What keeps its converges from harm is that it looks at the mode after the anchor
//! and before the authority: if its hold is still there then, the drain of whoever commits comes later, and
//! renews the rev that its write expects.

use super::phase::Authority;

/// At most so many intents may be left before writes are held.
pub const INTENTS_MAX: usize = 200;

/// The rules of a flip, as values so that the model checker can take one out. Production has only
/// [`Rules::SOUND`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Rules {
    /// An acknowledgement names the hold. Without it, that of an earlier hold counts (trace B9).
    pub acknowledge_by_hold: bool,
    /// Every process that can write acknowledges, not only gateways (trace B12).
    pub every_process: bool,
    /// Leaving Blob, silence is no consent (traces B1 to B4).
    pub silence_is_no_consent: bool,
    /// A session that let writes through without notes can't acknowledge: nobody could drain them.
    pub no_gap: bool,
    /// Every intent is converged under the hold. Without it, what was written and not mirrored yet is lost.
    pub drain: bool,
    /// The drain clears no intent: somebody may have cancelled the hold meanwhile (trace B10).
    pub drain_keeps: bool,
    /// A converge of the operator looks whether its hold is there (before the hold: whether there is none)
    /// after it read the anchor, and before it reads the authority. Without it, an operator whose hold was
    /// cancelled writes what Blob holds into the new authority.
    pub drain_under_hold: bool,
    /// Leaving DynamoDB, late writes to Blob are waited for before the hold, and no intent is left under it
    /// (trace B14).
    pub wait_for_late: bool,
    /// The commit is refused where the hold is another one. Without it, a cancelled operator commits.
    pub commit_by_hold: bool,
}

impl Rules {
    /// All rules: what production runs.
    pub const SOUND: Self = Self {
        acknowledge_by_hold: true,
        every_process: true,
        silence_is_no_consent: true,
        no_gap: true,
        drain: true,
        drain_keeps: true,
        drain_under_hold: true,
        wait_for_late: true,
        commit_by_hold: true,
    };
}

/// How a session is, as far as the operator can tell.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Life {
    /// Its row is open, and was renewed of late.
    Open,
    /// Its row is open, and was not renewed for longer than its lease by the operator's own clock.
    Silent,
    /// It is over, and nothing of it can land any more.
    Over,
    /// It did not end clean, and what it sent may land yet.
    MayLand,
}

/// One session as it was read. `H` is the id of a hold.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Seen<H> {
    /// Whether it is a gateway's.
    pub gateway: bool,
    /// How it is.
    pub life: Life,
    /// The hold that it acknowledged last.
    pub acknowledged: Option<H>,
    /// Whether it let writes through that no intent names.
    pub gap: bool,
}

/// What a session means for the flip.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Verdict {
    /// It is not in the way.
    Passed,
    /// It must acknowledge yet.
    Awaited,
    /// It is to be ended in its row, so that it can never acknowledge or renew again.
    Fence,
    /// What it sent may land yet: to be waited for, with writes flowing.
    WaitFor,
}

/// What a session means for a flip that leaves `leaving` under this hold.
#[must_use]
pub fn verdict<H: Eq>(rules: Rules, leaving: Authority, hold: &H, seen: &Seen<H>) -> Verdict {
    if !rules.every_process && !seen.gateway {
        return Verdict::Passed;
    }
    let named = match &seen.acknowledged {
        Some(acknowledged) => !rules.acknowledge_by_hold || acknowledged == hold,
        None => false,
    };
    match (seen.life, leaving) {
        (Life::Over, _) | (Life::MayLand, Authority::Source) => Verdict::Passed,
        (Life::MayLand, Authority::Target) if rules.wait_for_late => Verdict::WaitFor,
        (Life::MayLand, Authority::Target) => Verdict::Passed,
        (Life::Open | Life::Silent, _) if named && !(seen.gap && rules.no_gap) => Verdict::Passed,
        (Life::Silent, Authority::Target) => Verdict::Fence,
        (Life::Silent, Authority::Source) if !rules.silence_is_no_consent => Verdict::Fence,
        (Life::Open | Life::Silent, _) => Verdict::Awaited,
    }
}

/// What is left after every intent was converged with writes flowing.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub struct Backlog {
    /// Intents that are left.
    pub intents: usize,
    /// Those of requests to the authority that have been under way for more than a second.
    pub slow: usize,
    /// Whether something that was sent to the mirror may land yet, as far as rows tell: an intent in doubt, an
    /// unclean end.
    pub may_land: bool,
}

/// What came of the drain.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Drained {
    /// Every pathname that an intent names is equal on both sides.
    All,
    /// So many are not, or were not reached in time.
    Left(usize),
}

/// What came of a compare-and-set.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Swapped {
    /// It was applied.
    Applied,
    /// The mode was another one.
    Refused,
    /// It may have been applied, or may yet be.
    Unknown,
}

/// What the driver is to do next. `H` is the id of a hold.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Next<H> {
    /// Read the mode; answer with [`Flip::mode`].
    ReadMode,
    /// Cancel this hold, if it is still there; answer with [`Flip::cancelled`].
    Cancel(H),
    /// Converge every intent, writes flowing; answer with [`Flip::settled`].
    Settle,
    /// Wait until no intent is in doubt and nothing may land late, writes flowing; answer with
    /// [`Flip::waited`].
    Wait,
    /// Set a hold with a new id, if there is none and the epoch is the same; answer with [`Flip::held`].
    Hold,
    /// Read the sessions; answer with [`Flip::sessions`].
    LookAtSessions(H),
    /// End the silent sessions in their rows, each if it is still as it was seen; answer with
    /// [`Flip::fenced`].
    Fence(H),
    /// Count the intents; answer with [`Flip::counted`].
    CountIntents,
    /// Converge every intent; answer with [`Flip::drained`].
    Drain {
        /// Whether intents are cleared. Only unsound rules ask for it.
        clear: bool,
    },
    /// Judge the gates once more; answer with [`Flip::judged`].
    Judge,
    /// Commit, if epoch and hold are the same; answer with [`Flip::committed`].
    Commit {
        /// The hold that must be there; none only where unsound rules do not ask for it.
        hold: Option<H>,
    },
    /// Look whether the commit was applied; answer with [`Flip::looked`].
    LookForCommit,
    /// It is over.
    Done(Done<H>),
}

/// How a flip ended. Unless it is `Committed` or `Unknown`, the mode is as it was.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Done<H> {
    /// The authority is the other one now.
    Committed,
    /// Somebody else's hold is there.
    Held(H),
    /// More intents are left than could be drained while writes are held.
    TooManyIntents(usize),
    /// So many requests take too long.
    SlowRequests(usize),
    /// Not every session acknowledged in time.
    Unacknowledged,
    /// So many pathnames could not be made equal.
    NotDrained(usize),
    /// Something may land late, again and again.
    MayLand,
    /// A gate closed under the hold.
    GateClosed,
    /// Somebody else changed the mode.
    Raced,
    /// Nobody could tell what came of the commit.
    Unknown,
}

/// A flip, between two steps.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Flip<H> {
    rules: Rules,
    leaving: Authority,
    cancel_found: bool,
    rounds_left: u8,
    step: Step<H>,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
enum Step<H> {
    Begin,
    CancelFound(H),
    Settle,
    Wait,
    Hold,
    Acknowledge(H),
    Fence(H),
    Count(H),
    Drain(H),
    Judge(H),
    Commit(H),
    /// Of the commit and this cancellation only one can be applied.
    Resolve(H),
    LookForCommit,
    /// Cancel, then wait and begin anew, or end as said.
    CancelOwn(H, Option<Done<H>>),
    Over(Done<H>),
}

impl<H: Clone + Eq> Flip<H> {
    /// Begins. `cancel_found` is the operator's word that a hold which is found may be cancelled. After
    /// `rounds` waits for what may land late (at least one), it gives up.
    #[must_use]
    pub const fn new(rules: Rules, leaving: Authority, cancel_found: bool, rounds: u8) -> Self {
        Self { rules, leaving, cancel_found, rounds_left: rounds, step: Step::Begin }
    }

    /// What to do now.
    #[must_use]
    pub fn next(&self) -> Next<H> {
        match &self.step {
            Step::Begin => Next::ReadMode,
            Step::CancelFound(hold) | Step::CancelOwn(hold, _) | Step::Resolve(hold) => {
                Next::Cancel(hold.clone())
            }
            Step::Settle => Next::Settle,
            Step::Wait => Next::Wait,
            Step::Hold => Next::Hold,
            Step::Acknowledge(hold) => Next::LookAtSessions(hold.clone()),
            Step::Fence(hold) => Next::Fence(hold.clone()),
            Step::Count(_) => Next::CountIntents,
            Step::Drain(_) => Next::Drain { clear: !self.rules.drain_keeps },
            Step::Judge(_) => Next::Judge,
            Step::Commit(hold) => Next::Commit { hold: self.rules.commit_by_hold.then(|| hold.clone()) },
            Step::LookForCommit => Next::LookForCommit,
            Step::Over(done) => Next::Done(done.clone()),
        }
    }

    /// The hold that this flip has set and not given up, as far as it knows.
    #[must_use]
    pub const fn hold(&self) -> Option<&H> {
        match &self.step {
            Step::Acknowledge(hold)
            | Step::Fence(hold)
            | Step::Count(hold)
            | Step::Drain(hold)
            | Step::Judge(hold)
            | Step::Commit(hold)
            | Step::Resolve(hold)
            | Step::CancelOwn(hold, _) => Some(hold),
            Step::Begin
            | Step::CancelFound(_)
            | Step::Settle
            | Step::Wait
            | Step::Hold
            | Step::LookForCommit
            | Step::Over(_) => None,
        }
    }

    /// The mode was read, with this hold.
    pub fn mode(&mut self, hold: Option<H>) {
        self.step = match hold {
            None => Step::Settle,
            Some(hold) if self.cancel_found => Step::CancelFound(hold),
            Some(hold) => Step::Over(Done::Held(hold)),
        };
    }

    /// A hold was cancelled, or was not there any more.
    pub fn cancelled(&mut self, outcome: Swapped) {
        self.step = match (&self.step, outcome) {
            (Step::CancelFound(_), Swapped::Applied) => Step::Settle,
            (Step::CancelFound(_), Swapped::Refused | Swapped::Unknown) => Step::Over(Done::Raced),
            (Step::Resolve(_), Swapped::Applied) => Step::Over(Done::Raced),
            (Step::Resolve(_), Swapped::Refused) => Step::LookForCommit,
            (Step::Resolve(_), Swapped::Unknown) => Step::Over(Done::Unknown),
            // Whoever comes next cancels what could not be cancelled.
            (Step::CancelOwn(_, Some(done)), _) => Step::Over(done.clone()),
            (Step::CancelOwn(_, None), Swapped::Applied) => Step::Wait,
            (Step::CancelOwn(_, None), Swapped::Refused | Swapped::Unknown) => Step::Over(Done::Raced),
            (step, _) => step.clone(),
        };
    }

    /// Every intent was converged once, and this is left.
    pub fn settled(&mut self, left: Backlog) {
        let waits = self.waits();
        self.step = if left.intents > INTENTS_MAX {
            Step::Over(Done::TooManyIntents(left.intents))
        } else if left.slow > 0 {
            Step::Over(Done::SlowRequests(left.slow))
        } else if left.may_land && waits {
            self.rounds_left = self.rounds_left.saturating_sub(1);
            if self.rounds_left == 0 { Step::Over(Done::MayLand) } else { Step::Wait }
        } else {
            Step::Hold
        };
    }

    /// Nothing that was sent before can land any more.
    pub fn waited(&mut self) {
        self.step = Step::Settle;
    }

    /// The hold was set with this id; none where somebody else was faster.
    pub fn held(&mut self, hold: Option<H>) {
        self.step = hold.map_or(Step::Over(Done::Raced), Step::Acknowledge);
    }

    /// All sessions were read. `overdue` says whether the time for them is over.
    pub fn sessions(&mut self, seen: &[Seen<H>], overdue: bool) {
        let Step::Acknowledge(hold) = &self.step else { return };
        let verdicts: Vec<Verdict> =
            seen.iter().map(|seen| verdict(self.rules, self.leaving, hold, seen)).collect();
        let hold = hold.clone();
        self.step = if verdicts.contains(&Verdict::Fence) {
            Step::Fence(hold)
        } else if verdicts.contains(&Verdict::WaitFor) {
            return self.late(hold);
        } else if !verdicts.contains(&Verdict::Awaited) {
            match (self.waits(), self.rules.drain) {
                (true, _) => Step::Count(hold),
                (false, true) => Step::Drain(hold),
                (false, false) => Step::Judge(hold),
            }
        } else if overdue {
            Step::CancelOwn(hold, Some(Done::Unacknowledged))
        } else {
            Step::Acknowledge(hold)
        };
    }

    /// The silent sessions were ended, but for those that stirred.
    pub fn fenced(&mut self) {
        if let Step::Fence(hold) = &self.step {
            self.step = Step::Acknowledge(hold.clone());
        }
    }

    /// So many intents are left under the hold, on the way back: each is one of a write that may land late.
    pub fn counted(&mut self, intents: usize) {
        let Step::Count(hold) = &self.step else { return };
        let hold = hold.clone();
        if intents > 0 {
            return self.late(hold);
        }
        self.step = Step::Judge(hold);
    }

    /// Every intent was converged under the hold.
    pub fn drained(&mut self, outcome: Drained) {
        let Step::Drain(hold) = &self.step else { return };
        let hold = hold.clone();
        self.step = match outcome {
            Drained::Left(count) => Step::CancelOwn(hold, Some(Done::NotDrained(count))),
            Drained::All => Step::Judge(hold),
        };
    }

    /// The gates were judged once more.
    pub fn judged(&mut self, open: bool) {
        let Step::Judge(hold) = &self.step else { return };
        let hold = hold.clone();
        self.step = if open { Step::Commit(hold) } else { Step::CancelOwn(hold, Some(Done::GateClosed)) };
    }

    /// The commit was sent.
    pub fn committed(&mut self, outcome: Swapped) {
        let Step::Commit(hold) = &self.step else { return };
        self.step = match outcome {
            Swapped::Applied => Step::Over(Done::Committed),
            Swapped::Refused => Step::Over(Done::Raced),
            Swapped::Unknown => Step::Resolve(hold.clone()),
        };
    }

    /// It was looked for the commit, which can't be applied any more if it was not.
    pub fn looked(&mut self, applied: bool) {
        self.step = Step::Over(if applied { Done::Committed } else { Done::Raced });
    }

    /// The driver can't go on: an error, an interruption. A hold is cancelled.
    pub fn abandon(&mut self) {
        self.step = match self.hold() {
            Some(hold) => Step::CancelOwn(hold.clone(), Some(Done::Raced)),
            None => Step::Over(Done::Raced),
        };
    }

    /// Whether late writes to the mirror are waited for.
    fn waits(&self) -> bool {
        self.leaving == Authority::Target && self.rules.wait_for_late
    }

    /// Something may land late: writes flow while it is waited for, then it begins anew.
    fn late(&mut self, hold: H) {
        self.rounds_left = self.rounds_left.saturating_sub(1);
        self.step = Step::CancelOwn(hold, (self.rounds_left == 0).then_some(Done::MayLand));
    }
}

#[cfg(test)]
mod tests;
