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
//! themselves: a session that is silent for longer than its lease is ended in its row.
//!
//! Nothing in Blob refuses a write that lands late, but a condition that does not hold. So on the way back what was
//! sent to Blob without one is waited for first, and the flip commits only where Blob is what the anchor says and in
//! no state that a request of the mirror without an answer expects ([`super::note`]). What is not equal yet under the
//! hold the operator makes equal itself, in a session of its own and under the mirror's rules.
//!
//! On the way there an operator has no session. What keeps its converges from harm is that it looks at the mode after
//! the anchor and before the authority: if its hold is still there then, the drain of whoever commits comes later, and
//! renews the rev that its write expects.

use super::phase::Authority;

/// At most so many intents may be left before writes are held.
pub const INTENTS_MAX: usize = 200;
/// Leaving DynamoDB, at most so many pathnames may be left of which Blob is not known to be equal: each takes some
/// requests to Blob while writes are held.
pub const BEHIND_MAX: usize = 64;

/// The rules of a flip, as values so that the model checker can take one out. Production has only
/// [`Rules::SOUND`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Rules {
    /// An acknowledgement names the hold. Without it, that of an earlier hold counts (trace B9).
    pub acknowledge_by_hold: bool,
    /// Every process that can write acknowledges, not only gateways (trace B12).
    pub every_process: bool,
    /// No process runs under another plan. Without it, what the one mirrors the other writes past the authority, and
    /// both acknowledge: two truths.
    pub one_plan: bool,
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
    /// Leaving DynamoDB, writes to Blob without a condition that may land late are waited for before the hold, and
    /// none is left under it (trace C17).
    pub wait_for_unconditional: bool,
    /// Leaving DynamoDB, no pathname is left of which Blob is not what its anchor says (trace C6).
    pub equal_at_commit: bool,
    /// Leaving DynamoDB, Blob holds nowhere what a request of the mirror without an answer expects (traces B14, C7).
    pub no_doubt_at_commit: bool,
    /// The commit is refused where the hold is another one. Without it, a cancelled operator commits.
    pub commit_by_hold: bool,
}

impl Rules {
    /// All rules: what production runs.
    pub const SOUND: Self = Self {
        acknowledge_by_hold: true,
        every_process: true,
        one_plan: true,
        silence_is_no_consent: true,
        no_gap: true,
        drain: true,
        drain_keeps: true,
        drain_under_hold: true,
        wait_for_unconditional: true,
        equal_at_commit: true,
        no_doubt_at_commit: true,
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
    /// It did not end clean, and what it sent to Blob without a condition and without an intent may land yet.
    MayLand,
}

/// What a process does, as far as a flip is concerned.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Process {
    /// Serves an application: while Blob is the authority, it goes on without the control table.
    Gateway,
    /// Loads, sweeps or repairs.
    Worker,
    /// Takes the way back. Nothing of it lands in Blob but under a note, and none is stored once its session was ended.
    Operator,
}

/// One session as it was read. `H` is the id of a hold.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Seen<H> {
    /// What its process does.
    pub process: Process,
    /// How it is.
    pub life: Life,
    /// The hold that it acknowledged last.
    pub acknowledged: Option<H>,
    /// Whether it let writes through that no intent names.
    pub gap: bool,
    /// Whether it writes by the operator's plan.
    pub same_plan: bool,
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
    /// What it sent to Blob may land yet: to be waited for, with writes flowing.
    WaitFor,
    /// It runs under another plan: it is to be stopped.
    OtherPlan,
}

/// What a session means for a flip that leaves `leaving` under this hold.
#[must_use]
pub fn verdict<H: Eq>(rules: Rules, leaving: Authority, hold: &H, seen: &Seen<H>) -> Verdict {
    if !rules.every_process && seen.process != Process::Gateway {
        return Verdict::Passed;
    }
    let named = match &seen.acknowledged {
        Some(acknowledged) => !rules.acknowledge_by_hold || acknowledged == hold,
        None => false,
    };
    let other = rules.one_plan && !seen.same_plan;
    // It goes on without the control table only where it is a gateway, and Blob is the authority.
    let stops = leaving == Authority::Target || seen.process == Process::Operator;
    match seen.life {
        Life::Over => Verdict::Passed,
        Life::MayLand if leaving == Authority::Target && rules.wait_for_unconditional => Verdict::WaitFor,
        Life::MayLand => Verdict::Passed,
        Life::Open | Life::Silent if named && !other && !(seen.gap && rules.no_gap) => Verdict::Passed,
        Life::Silent if stops || !rules.silence_is_no_consent => Verdict::Fence,
        Life::Open | Life::Silent if other => Verdict::OtherPlan,
        Life::Open | Life::Silent => Verdict::Awaited,
    }
}

/// What is left after every intent was converged with writes flowing.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub struct Backlog {
    /// Intents that are left; leaving DynamoDB, pathnames that intents or notes name.
    pub intents: usize,
    /// Those of requests that have been under way for more than a second; leaving DynamoDB, to Blob without a
    /// condition.
    pub slow: usize,
    /// Leaving DynamoDB: whether something that was sent to Blob without a condition may land yet, as far as rows
    /// tell.
    pub may_land: bool,
}

/// What came of the drain.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Drained {
    /// Every pathname that an intent or a note names is equal on both sides.
    All,
    /// So many are not, or were not reached in time.
    Left(usize),
    /// All are equal, and so many are what a request without an answer expects.
    Doubtful(usize),
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
    /// Wait until what stood in the way can't land any more, writes flowing; answer with [`Flip::waited`].
    Wait,
    /// Set a hold with a new id, if there is none and the epoch is the same; answer with [`Flip::held`].
    Hold,
    /// Read the sessions; answer with [`Flip::sessions`].
    LookAtSessions(H),
    /// End the silent sessions in their rows, each if it is still as it was seen; answer with
    /// [`Flip::fenced`].
    Fence(H),
    /// Count the intents of writes to Blob without a condition; answer with [`Flip::counted`].
    CountIntents,
    /// Converge what intents, and leaving DynamoDB notes, name; answer with [`Flip::drained`].
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
    /// A process runs under another plan.
    OtherPlan,
    /// So many pathnames could not be made equal.
    NotDrained(usize),
    /// Something may land late, again and again.
    MayLand,
    /// So many pathnames are what a request without an answer expects, again and again.
    Doubtful(usize),
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
        let (waits, most) = match self.leaving {
            Authority::Source => (false, INTENTS_MAX),
            Authority::Target => (self.rules.wait_for_unconditional, BEHIND_MAX),
        };
        self.step = if left.intents > most {
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
        } else if verdicts.contains(&Verdict::OtherPlan) {
            Step::CancelOwn(hold, Some(Done::OtherPlan))
        } else if verdicts.contains(&Verdict::WaitFor) {
            return self.late(hold, Done::MayLand);
        } else if !verdicts.contains(&Verdict::Awaited) {
            match self.leaving {
                Authority::Target => Step::Count(hold),
                Authority::Source => self.draining(hold),
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

    /// So many intents are left under the hold of writes to Blob without a condition: they may land late.
    pub fn counted(&mut self, intents: usize) {
        let Step::Count(hold) = &self.step else { return };
        let hold = hold.clone();
        if intents > 0 && self.rules.wait_for_unconditional {
            return self.late(hold, Done::MayLand);
        }
        self.step = self.draining(hold);
    }

    /// What intents and notes name was converged under the hold.
    pub fn drained(&mut self, outcome: Drained) {
        let Step::Drain(hold) = &self.step else { return };
        let hold = hold.clone();
        self.step = match outcome {
            Drained::Left(count) => Step::CancelOwn(hold, Some(Done::NotDrained(count))),
            Drained::Doubtful(count) => return self.late(hold, Done::Doubtful(count)),
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

    fn draining(&self, hold: H) -> Step<H> {
        if self.rules.drain { Step::Drain(hold) } else { Step::Judge(hold) }
    }

    /// Something may land late: writes flow while it is waited for, then it begins anew; or, at last, ends like this.
    fn late(&mut self, hold: H, done: Done<H>) {
        self.rounds_left = self.rounds_left.saturating_sub(1);
        self.step = Step::CancelOwn(hold, (self.rounds_left == 0).then_some(done));
    }
}

#[cfg(test)]
mod tests;
