//! Intents: the rows that say "somebody is about to write here, or may have".
//!
//! An operation stores its intent before its write goes out, one row per operation. While the row is
//! there, the pathname counts as dirty. So the one decision that matters is when a row may go: by its
//! own operation, after it saw the reply and converged; by anybody else, only when the request can no
//! longer land. This module decides, from what was observed; it reads no clock and touches no store.
//!
//! In use, an operation asks [`before_write`], converges, and asks [`after_own`]. Everybody else keeps
//! a [`Sighting`] of each row, asks [`replay`] before converging and [`after_replay`] afterwards.

use super::converge::Done;

/// What an operation knows of its own write.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Reply {
    /// The store answered: the write was applied or refused, and nothing of it is under way.
    Seen,
    /// Timed out, broken off, or answered in a way that leaves it open: the write may land yet.
    Missing,
}

/// What the row and its owner's session say of the owner.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Owner {
    /// The session is open, and the operation has not given up: the row is its own business.
    Working,
    /// The operation said in the row that it gave up. Its request may still be under way.
    GaveUp,
    /// The session is closed or has lapsed. Its requests may still be under way.
    Ended,
}

/// How long nothing has stirred, against `late_write_max`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Silence {
    /// Less than that, or unknown: a request may still land.
    Short,
    /// At least that: every request landed or died.
    Full,
}

/// What an operation must do before it sends its write.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum BeforeWrite {
    /// Send it.
    Send,
    /// Store the intent anew first: others may have waited the present row out.
    StoreAnew,
}

/// What somebody else may do about an intent. Decided before the converge begins, because only a
/// converge that began after the wait saw everything.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Replay {
    /// Nothing: its owner is at it.
    LeaveToOwner,
    /// Converge at once, and let the row stand.
    Converge,
    /// Converge, and let the row go if that succeeds.
    ConvergeAndClear,
}

/// What becomes of the row.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Verdict {
    /// It may be removed.
    Clear,
    /// It stays, in doubt: its owner, if it is the one who asks, says so in the row.
    Keep,
}

/// Whether an operation may send its write, `silence` after it stored its intent.
#[must_use]
pub const fn before_write(silence: Silence) -> BeforeWrite {
    match silence {
        Silence::Short => BeforeWrite::Send,
        Silence::Full => BeforeWrite::StoreAnew,
    }
}

/// What an operation does with its own intent, after its write and its converge.
///
/// Looking does not resolve a write without a reply: it may land after the look (trace A1).
#[must_use]
pub const fn after_own(reply: Reply, done: Done) -> Verdict {
    match (reply, done) {
        (Reply::Seen, Done::Equal | Done::Written) => Verdict::Clear,
        (Reply::Missing, _) | (_, Done::GaveUp) => Verdict::Keep,
    }
}

/// What anybody but the owner may do about an intent; `silence` is what their own [`Sighting`] says.
#[must_use]
pub const fn replay(owner: Owner, silence: Silence) -> Replay {
    match (owner, silence) {
        (Owner::Working, _) => Replay::LeaveToOwner,
        (Owner::GaveUp | Owner::Ended, Silence::Short) => Replay::Converge,
        (Owner::GaveUp | Owner::Ended, Silence::Full) => Replay::ConvergeAndClear,
    }
}

/// What becomes of somebody else's intent after the converge that `replay` allowed.
#[must_use]
pub const fn after_replay(replay: Replay, done: Done) -> Verdict {
    match (replay, done) {
        (Replay::ConvergeAndClear, Done::Equal | Done::Written) => Verdict::Clear,
        (Replay::LeaveToOwner | Replay::Converge, _) | (_, Done::GaveUp) => Verdict::Keep,
    }
}

/// One observer's memory of an intent that is not its own. `W` tells one version of the row from
/// another; `T` is an instant of the observer's own monotonic clock. Another process's times are
/// never compared with ours.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sighting<W, T> {
    row: W,
    owner: Owner,
    since: T,
}

impl<W: PartialEq, T: Copy> Sighting<W, T> {
    /// The row was seen for the first time. `now` is from after it was read.
    pub const fn first(row: W, owner: Owner, now: T) -> Self {
        Self { row, owner, since: now }
    }

    /// The row was seen again. The wait goes on only if the row is untouched and its owner was not at
    /// work the last time; else it begins anew.
    pub fn again(&mut self, row: W, owner: Owner, now: T) {
        let undisturbed = self.row == row && self.owner != Owner::Working && owner != Owner::Working;
        if !undisturbed {
            self.since = now;
        }
        self.row = row;
        self.owner = owner;
    }

    /// This observer itself stored the row anew, and got an answer to everything that it sent since: the wait goes
    /// on.
    pub fn taken_over(&mut self, row: W) {
        self.row = row;
    }

    /// What the owner was doing when the row was last seen.
    pub const fn owner(&self) -> Owner {
        self.owner
    }

    /// How long nothing has stirred. `waited` says whether `late_write_max` has passed since an instant.
    pub fn silence(&self, waited: impl FnOnce(T) -> bool) -> Silence {
        if self.owner != Owner::Working && waited(self.since) { Silence::Full } else { Silence::Short }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_operation_clears_its_intent_only_after_a_reply_and_a_converge() {
        let table = [
            (Reply::Seen, Done::Equal, Verdict::Clear),
            (Reply::Seen, Done::Written, Verdict::Clear),
            (Reply::Seen, Done::GaveUp, Verdict::Keep),
            (Reply::Missing, Done::Equal, Verdict::Keep),
            (Reply::Missing, Done::Written, Verdict::Keep),
            (Reply::Missing, Done::GaveUp, Verdict::Keep),
        ];
        for (reply, done, expected) in table {
            assert_eq!(after_own(reply, done), expected, "{reply:?}, {done:?}");
        }
    }

    #[test]
    fn others_clear_an_intent_only_in_doubt_and_after_the_wait() {
        let table = [
            (Owner::Working, Silence::Short, Replay::LeaveToOwner),
            (Owner::Working, Silence::Full, Replay::LeaveToOwner),
            (Owner::GaveUp, Silence::Short, Replay::Converge),
            (Owner::GaveUp, Silence::Full, Replay::ConvergeAndClear),
            (Owner::Ended, Silence::Short, Replay::Converge),
            (Owner::Ended, Silence::Full, Replay::ConvergeAndClear),
        ];
        for (owner, silence, expected) in table {
            assert_eq!(replay(owner, silence), expected, "{owner:?}, {silence:?}");
        }
        for done in [Done::Equal, Done::Written, Done::GaveUp] {
            assert_eq!(after_replay(Replay::LeaveToOwner, done), Verdict::Keep);
            assert_eq!(after_replay(Replay::Converge, done), Verdict::Keep);
        }
        assert_eq!(after_replay(Replay::ConvergeAndClear, Done::Equal), Verdict::Clear);
        assert_eq!(after_replay(Replay::ConvergeAndClear, Done::Written), Verdict::Clear);
        assert_eq!(after_replay(Replay::ConvergeAndClear, Done::GaveUp), Verdict::Keep);
    }

    #[test]
    fn an_owner_that_was_silent_too_long_stores_its_intent_anew() {
        assert_eq!(before_write(Silence::Short), BeforeWrite::Send);
        assert_eq!(before_write(Silence::Full), BeforeWrite::StoreAnew);
    }

    const WAIT: u32 = 10;

    fn silence_at(sighting: &Sighting<&str, u32>, now: u32) -> Silence {
        sighting.silence(|since| now - since >= WAIT)
    }

    #[test]
    fn the_wait_is_counted_from_the_first_sight_of_this_row_with_its_owner_gone() {
        let mut sighting = Sighting::first("r1", Owner::Ended, 5);
        assert_eq!(silence_at(&sighting, 14), Silence::Short);
        sighting.again("r1", Owner::Ended, 14);
        assert_eq!(silence_at(&sighting, 15), Silence::Full);
    }

    #[test]
    fn a_touched_row_begins_the_wait_anew() {
        let mut sighting = Sighting::first("r1", Owner::GaveUp, 0);
        sighting.again("r2", Owner::GaveUp, 9);
        assert_eq!(silence_at(&sighting, 18), Silence::Short);
        assert_eq!(silence_at(&sighting, 19), Silence::Full);
    }

    #[test]
    fn taking_a_row_over_does_not_begin_the_wait_anew() {
        let mut sighting = Sighting::first("r1", Owner::Ended, 5);
        sighting.taken_over("r2");
        sighting.again("r2", Owner::GaveUp, 14);
        assert_eq!(silence_at(&sighting, 15), Silence::Full);
        sighting.again("r3", Owner::GaveUp, 15);
        assert_eq!(silence_at(&sighting, 24), Silence::Short, "somebody else did");
    }

    #[test]
    fn time_under_a_working_owner_does_not_count() {
        let mut sighting = Sighting::first("r1", Owner::Working, 0);
        assert_eq!(silence_at(&sighting, 100), Silence::Short);
        sighting.again("r1", Owner::Ended, 100);
        assert_eq!(sighting.owner(), Owner::Ended);
        assert_eq!(silence_at(&sighting, 109), Silence::Short);
        assert_eq!(silence_at(&sighting, 110), Silence::Full);
    }
}
