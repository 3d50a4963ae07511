//! `converge`: make the mirror of one pathname equal to its authority, by compare-and-set on the rev.
//!
//! [`Converge`] is the operation as a state machine. Its driver does what [`Converge::next`] asks and
//! reports what came of it; it never decides anything. The proof is in the order of the two reads and in
//! the rev: whoever looked earlier, however late its request lands, fails. So there is no second look
//! here, and one look at the authority for a write.

use super::Rules;

/// On whose behalf a pathname is converged.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Purpose {
    /// Backfill or sweep: equal sides are left alone.
    Reconcile,
    /// An intent: an equal state is written again under a new rev, so that older requests fail.
    Intent,
    /// A repair: the whole transaction runs again under a new rev, whatever the anchor says.
    Repair,
}

/// What was seen of a pathname's anchor. `V` is a version (ETag, time, mapping digest), `R` a rev.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Mirror<V, R> {
    /// No anchor was ever written.
    Unknown,
    /// The mirror holds this version, or quarantined it.
    Settled {
        /// The anchor's rev.
        rev: R,
        /// The version that it speaks of.
        version: V,
    },
    /// A large change was begun and not finished.
    Pending {
        /// The anchor's rev.
        rev: R,
    },
    /// The mirror holds nothing, and says so.
    Tombstone {
        /// The anchor's rev.
        rev: R,
    },
}

impl<V, R> Mirror<V, R> {
    /// The rev that a write must still find.
    pub const fn rev(&self) -> Option<&R> {
        match self {
            Self::Unknown => None,
            Self::Settled { rev, .. } | Self::Pending { rev } | Self::Tombstone { rev } => Some(rev),
        }
    }
}

/// What a transaction is to make of the mirror.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Change<V> {
    /// Only a new rev; items stay.
    Renew,
    /// Items and anchor of this version.
    Hold(V),
    /// No items, and an anchor that says so.
    Tombstone,
    /// No items and no anchor. Only unsound rules ask for it.
    Forget,
}

/// What the driver is to do next.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Next<V, R> {
    /// Read the anchor, consistently; answer with [`Converge::mirror`].
    ReadMirror,
    /// Read the authority, past every cache; answer with [`Converge::authority`].
    ReadAuthority,
    /// Apply this in one transaction with a new rev, if the anchor's rev is still `expected` (none: if
    /// there is no anchor); answer with [`Converge::written`].
    Write {
        /// What to make of the mirror.
        change: Change<V>,
        /// The rev that must still be there.
        expected: Option<R>,
    },
    /// Store the anchor as pending, with a new rev, if its rev is still `expected`. It names every item
    /// that is there and every item that will be, so that nothing is forgotten if this ends here. Answer
    /// with [`Converge::written`].
    Begin {
        /// The rev that must still be there.
        expected: Option<R>,
    },
    /// Apply this part of the change, if the anchor's rev is still `rev`; answer with
    /// [`Converge::written`].
    Part {
        /// Which, from 0.
        number: usize,
        /// The rev of the pending anchor; none only where unsound rules do not ask for it.
        rev: Option<R>,
    },
    /// Store the anchor of the change with a new rev, if its rev is still that of the pending one; answer
    /// with [`Converge::written`].
    Finish {
        /// What the mirror then holds.
        change: Change<V>,
        /// The rev of the pending anchor.
        rev: R,
    },
    /// It is over.
    Done(Done),
}

/// How a converge ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Done {
    /// Both sides were equal already; nothing was written.
    Equal,
    /// The mirror was written and is equal to what the authority held when it was read.
    Written,
    /// Others kept writing, or no outcome could be learnt. The intent stays, and the key is `Unverified`.
    GaveUp,
}

/// What came of a transaction.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Written<R> {
    /// It was applied.
    Applied,
    /// Its condition did not hold. `found` is the rev that is there now.
    Refused {
        /// The rev in the way.
        found: Option<R>,
    },
    /// No reply: it may have been applied, may yet be, or never.
    Unknown,
}

/// The operation, between two steps.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Converge<V, R> {
    rules: Rules,
    purpose: Purpose,
    attempts_left: u8,
    /// What a request of ours expects to find whose outcome nobody learnt: it lands as long as that is there.
    doubt: Option<Expected<R>>,
    step: Step<V, R>,
}

/// The rev that a write must find; none where there must be no anchor.
type Expected<R> = Option<R>;

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
enum Step<V, R> {
    Look { mirror: Option<Mirror<V, R>>, authority: Option<Option<V>> },
    Writing { change: Change<V>, expected: Option<R> },
    Large { change: Change<V>, parts: usize, at: Large<R> },
    Over(Done),
}

/// How far a change of several transactions is.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
enum Large<R> {
    Begin { expected: Option<R> },
    Part { number: usize, rev: R },
    Finish { rev: R },
}

impl<V: Clone + Eq, R: Clone + Eq> Converge<V, R> {
    /// Begins; gives up after `attempts` rounds (at least one).
    #[must_use]
    pub const fn new(rules: Rules, purpose: Purpose, attempts: u8) -> Self {
        let step = Step::Look { mirror: None, authority: None };
        Self { rules, purpose, attempts_left: attempts, doubt: None, step }
    }

    /// After a request that expected this rev (none: that there is no anchor), and whose outcome nobody
    /// learnt. Both sides then count as equal only once that request can't land any more.
    #[must_use]
    pub fn doubting(mut self, expected: Option<R>) -> Self {
        self.doubt = Some(expected);
        self
    }

    /// Whether it follows a request whose outcome nobody learnt.
    #[must_use]
    pub const fn doubts(&self) -> bool {
        self.doubt.is_some()
    }

    /// What to do now.
    #[must_use]
    pub fn next(&self) -> Next<V, R> {
        match &self.step {
            Step::Look { mirror: None, authority: None } if self.rules.mirror_first => Next::ReadMirror,
            Step::Look { authority: None, .. } => Next::ReadAuthority,
            Step::Look { .. } => Next::ReadMirror,
            Step::Writing { change, expected } => {
                Next::Write { change: change.clone(), expected: expected.clone() }
            }
            Step::Large { at: Large::Begin { expected }, .. } => Next::Begin { expected: expected.clone() },
            Step::Large { at: Large::Part { number, rev }, .. } => {
                Next::Part { number: *number, rev: self.rules.checked_parts.then(|| rev.clone()) }
            }
            Step::Large { change, at: Large::Finish { rev }, .. } => {
                Next::Finish { change: change.clone(), rev: rev.clone() }
            }
            Step::Over(done) => Next::Done(*done),
        }
    }

    /// The anchor was read.
    pub fn mirror(&mut self, seen: Mirror<V, R>) {
        if let Step::Look { mirror, .. } = &mut self.step {
            *mirror = Some(seen);
        }
        self.judge();
    }

    /// The authority was read; none where it holds nothing that is mapped.
    pub fn authority(&mut self, seen: Option<V>) {
        if let Step::Look { authority, .. } = &mut self.step {
            *authority = Some(seen);
        }
        self.judge();
    }

    /// The body of the version that was seen is gone: look again.
    pub fn body_gone(&mut self) {
        self.again();
    }

    /// The change that is to be written does not fit one transaction: it takes so many parts. A pending
    /// anchor goes before them, and the final one after them.
    pub fn in_parts(&mut self, parts: usize) {
        if let Step::Writing { change, expected } = &self.step {
            let at = Large::Begin { expected: expected.clone() };
            self.step = Step::Large { change: change.clone(), parts, at };
        }
    }

    /// The transaction with the new rev `ours` (of a part: the pending anchor's) ended like this.
    pub fn written(&mut self, ours: &R, outcome: &Written<R>) {
        match outcome {
            Written::Applied => self.advance(ours),
            // An earlier attempt of this very request was applied, and its reply was lost.
            Written::Refused { found: Some(found) } if found == ours && !self.is_part() => self.advance(ours),
            Written::Refused { .. } => self.again(),
            // Sending it again from a fresh look is safe: if the lost one lands after all, one of the
            // two fails on the rev.
            Written::Unknown => {
                let expected = match &self.step {
                    Step::Writing { expected, .. } | Step::Large { at: Large::Begin { expected }, .. } => {
                        Some(expected.clone())
                    }
                    Step::Large { at: Large::Part { rev, .. } | Large::Finish { rev }, .. } => {
                        Some(Some(rev.clone()))
                    }
                    Step::Look { .. } | Step::Over(_) => None,
                };
                // An intent writes in any case.
                if self.purpose != Purpose::Intent {
                    self.doubt = expected.or_else(|| self.doubt.take());
                }
                self.again();
            }
        }
    }

    /// A part has no rev of its own: that its check finds the pending anchor's is no refusal.
    const fn is_part(&self) -> bool {
        matches!(self.step, Step::Large { at: Large::Part { .. }, .. })
    }

    fn advance(&mut self, ours: &R) {
        self.step = match &self.step {
            Step::Large { change, parts, at } => {
                let (next, rev) = match at {
                    Large::Begin { .. } => (0, ours),
                    Large::Part { number, rev } => (number + 1, rev),
                    Large::Finish { .. } => {
                        self.step = Step::Over(Done::Written);
                        return;
                    }
                };
                let rev = rev.clone();
                let at =
                    if next < *parts { Large::Part { number: next, rev } } else { Large::Finish { rev } };
                Step::Large { change: change.clone(), parts: *parts, at }
            }
            Step::Look { .. } | Step::Writing { .. } | Step::Over(_) => Step::Over(Done::Written),
        };
    }

    fn again(&mut self) {
        self.attempts_left = self.attempts_left.saturating_sub(1);
        self.step = if self.attempts_left == 0 {
            Step::Over(Done::GaveUp)
        } else {
            Step::Look { mirror: None, authority: None }
        };
    }

    fn judge(&mut self) {
        let Step::Look { mirror: Some(mirror), authority: Some(authority) } = &self.step else { return };
        let expected = mirror.rev().cloned();
        // A request of ours that may still land would find what it expects. A state that is equal now is
        // written again, as for an intent, so that it does not.
        let fence = self.doubt.as_ref() == Some(&expected)
            && (authority.is_none() || self.purpose == Purpose::Reconcile);
        let purpose = if fence { Purpose::Intent } else { self.purpose };
        self.step = match decide(self.rules, purpose, mirror, authority.as_ref()) {
            None => Step::Over(Done::Equal),
            Some(change) => Step::Writing { change, expected },
        };
    }
}

/// What a transaction must make of the mirror, given both sides; nothing where they are equal and
/// nobody asks for more.
#[must_use]
pub fn decide<V: Clone + Eq, R>(
    rules: Rules,
    purpose: Purpose,
    mirror: &Mirror<V, R>,
    authority: Option<&V>,
) -> Option<Change<V>> {
    let absent = if rules.tombstones { Change::Tombstone } else { Change::Forget };
    let equal = match (mirror, authority) {
        (Mirror::Settled { version, .. }, Some(held)) => version == held,
        (Mirror::Tombstone { .. } | Mirror::Unknown, None) => true,
        (Mirror::Pending { .. }, _)
        | (Mirror::Settled { .. }, None)
        | (Mirror::Tombstone { .. } | Mirror::Unknown, Some(_)) => false,
    };
    let whole = authority.map_or(absent, |held| Change::Hold(held.clone()));
    match (equal, purpose) {
        (false, _) => Some(whole),
        (true, Purpose::Reconcile) => None,
        (true, Purpose::Repair) if authority.is_none() && mirror.rev().is_none() => None,
        (true, Purpose::Repair) => Some(whole),
        (true, Purpose::Intent) if !rules.renew_on_intent => None,
        // Where both sides are absent there may be no anchor to renew: a tombstone gets one.
        (true, Purpose::Intent) if authority.is_none() => rules.tombstones.then_some(Change::Tombstone),
        (true, Purpose::Intent) => Some(Change::Renew),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    type Machine = Converge<&'static str, u32>;
    type Seen = Mirror<&'static str, u32>;

    const HOLDS: Seen = Mirror::Settled { rev: 7, version: "v1" };
    const PENDING: Seen = Mirror::Pending { rev: 7 };
    const ABSENT: Seen = Mirror::Tombstone { rev: 7 };

    fn decided(
        purpose: Purpose,
        mirror: &Seen,
        authority: Option<&'static str>,
    ) -> Option<Change<&'static str>> {
        decide(Rules::SOUND, purpose, mirror, authority.as_ref())
    }

    #[test]
    fn sides_that_differ_are_made_equal_whoever_asks() {
        let table = [
            (Mirror::Unknown, Some("v1"), Change::Hold("v1")),
            (HOLDS, Some("v2"), Change::Hold("v2")),
            (HOLDS, None, Change::Tombstone),
            (ABSENT, Some("v1"), Change::Hold("v1")),
            // What was begun is finished, even where nothing seems to be left to do.
            (PENDING, Some("v1"), Change::Hold("v1")),
            (PENDING, None, Change::Tombstone),
        ];
        for (mirror, authority, change) in table {
            for purpose in [Purpose::Reconcile, Purpose::Intent, Purpose::Repair] {
                let found = decided(purpose, &mirror, authority);
                assert_eq!(found.as_ref(), Some(&change), "{purpose:?}: {mirror:?}, {authority:?}");
            }
        }
    }

    #[test]
    fn equal_sides_are_left_alone_renewed_or_written_again() {
        let table = [
            (Purpose::Reconcile, HOLDS, Some("v1"), None),
            (Purpose::Reconcile, ABSENT, None, None),
            (Purpose::Reconcile, Mirror::Unknown, None, None),
            (Purpose::Intent, HOLDS, Some("v1"), Some(Change::Renew)),
            (Purpose::Intent, ABSENT, None, Some(Change::Tombstone)),
            (Purpose::Intent, Mirror::Unknown, None, Some(Change::Tombstone)),
            (Purpose::Repair, HOLDS, Some("v1"), Some(Change::Hold("v1"))),
            (Purpose::Repair, ABSENT, None, Some(Change::Tombstone)),
            (Purpose::Repair, Mirror::Unknown, None, None),
        ];
        for (purpose, mirror, authority, change) in table {
            assert_eq!(
                decided(purpose, &mirror, authority),
                change,
                "{purpose:?}: {mirror:?}, {authority:?}"
            );
        }
    }

    #[test]
    fn each_rule_changes_its_decision() {
        let no_renewal = Rules { renew_on_intent: false, ..Rules::SOUND };
        assert_eq!(decide(no_renewal, Purpose::Intent, &HOLDS, Some(&"v1")), None);
        let no_tombstones = Rules { tombstones: false, ..Rules::SOUND };
        assert_eq!(decide(no_tombstones, Purpose::Intent, &HOLDS, None), Some(Change::Forget));
        assert_eq!(decide(no_tombstones, Purpose::Intent, &Seen::Unknown, None), None);
        let authority_first = Rules { mirror_first: false, ..Rules::SOUND };
        assert_eq!(Machine::new(authority_first, Purpose::Intent, 1).next(), Next::ReadAuthority);
    }

    /// A machine that has looked: `mirror`, then `authority`.
    fn looked(purpose: Purpose, attempts: u8, mirror: Seen, authority: Option<&'static str>) -> Machine {
        let mut machine = Machine::new(Rules::SOUND, purpose, attempts);
        assert_eq!(machine.next(), Next::ReadMirror);
        machine.mirror(mirror);
        assert_eq!(machine.next(), Next::ReadAuthority);
        machine.authority(authority);
        machine
    }

    #[test]
    fn the_mirror_is_read_first_and_its_rev_is_what_the_write_expects() {
        let machine = looked(Purpose::Intent, 3, HOLDS, Some("v2"));
        assert_eq!(machine.next(), Next::Write { change: Change::Hold("v2"), expected: Some(7) });
        let machine = looked(Purpose::Intent, 3, Mirror::Unknown, Some("v2"));
        assert_eq!(machine.next(), Next::Write { change: Change::Hold("v2"), expected: None });
        let machine = looked(Purpose::Reconcile, 3, HOLDS, Some("v1"));
        assert_eq!(machine.next(), Next::Done(Done::Equal));
    }

    #[test]
    fn an_outcome_ends_it_or_has_it_look_again() {
        let table = [
            (Written::Applied, Next::Done(Done::Written)),
            // The rev in the way is ours: an earlier attempt of this request was applied.
            (Written::Refused { found: Some(8) }, Next::Done(Done::Written)),
            (Written::Refused { found: Some(9) }, Next::ReadMirror),
            (Written::Refused { found: None }, Next::ReadMirror),
            (Written::Unknown, Next::ReadMirror),
        ];
        for (outcome, next) in table {
            let mut machine = looked(Purpose::Intent, 2, HOLDS, Some("v2"));
            machine.written(&8, &outcome);
            assert_eq!(machine.next(), next, "{outcome:?}");
        }
    }

    #[test]
    fn a_further_round_looks_at_both_sides_anew() {
        for lost in [true, false] {
            let mut machine = looked(Purpose::Intent, 2, HOLDS, Some("v2"));
            if lost {
                machine.body_gone();
            } else {
                machine.written(&8, &Written::Unknown);
            }
            assert_eq!(machine, Machine::new(Rules::SOUND, Purpose::Intent, 1));
        }
    }

    #[test]
    fn both_sides_are_equal_only_once_a_lost_request_can_not_land() {
        let again = |purpose, before: Seen, now: Seen, authority: Option<&'static str>| {
            let mut machine = looked(purpose, 3, before, Some("v2"));
            machine.written(&8, &Written::Unknown);
            machine.mirror(now);
            machine.authority(authority);
            machine.next()
        };
        let fenced = |change, expected| Next::Write { change, expected };
        // The source is what it was before, and the request would find the rev that it expects.
        let renewed = fenced(Change::Renew, Some(7));
        assert_eq!(again(Purpose::Reconcile, HOLDS, HOLDS, Some("v1")), renewed);
        for purpose in [Purpose::Reconcile, Purpose::Repair] {
            let tombstone = fenced(Change::Tombstone, None);
            assert_eq!(again(purpose, Mirror::Unknown, Mirror::Unknown, None), tombstone);
        }
        // It was applied, or somebody else wrote: the rev that it expects is gone.
        let applied = Mirror::Settled { rev: 8, version: "v2" };
        assert_eq!(again(Purpose::Reconcile, HOLDS, applied, Some("v2")), Next::Done(Done::Equal));
        let tombstone = Mirror::Tombstone { rev: 9 };
        assert_eq!(again(Purpose::Reconcile, Mirror::Unknown, tombstone, None), Next::Done(Done::Equal));
        // A request of others who say what it expected.
        let mut machine = Machine::new(Rules::SOUND, Purpose::Reconcile, 1).doubting(None);
        machine.mirror(Mirror::Unknown);
        machine.authority(None);
        assert_eq!(machine.next(), fenced(Change::Tombstone, None));
    }

    #[test]
    fn rounds_are_bounded() {
        for outcome in [Written::Unknown, Written::Refused { found: Some(9) }] {
            let mut machine = looked(Purpose::Intent, 1, HOLDS, Some("v2"));
            machine.written(&8, &outcome);
            assert_eq!(machine.next(), Next::Done(Done::GaveUp), "{outcome:?}");
        }
        let mut machine = looked(Purpose::Intent, 1, HOLDS, Some("v2"));
        machine.body_gone();
        assert_eq!(machine.next(), Next::Done(Done::GaveUp));
    }
}
