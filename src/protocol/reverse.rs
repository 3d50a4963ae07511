//! Mirroring towards Blob, where DynamoDB is the authority: from what was seen of both sides to what to do next.
//!
//! No rev guards a blob: its ETag may come back, and absence too. So what was put counts only once the anchor
//! that it was made from was written anew under its rev (the second look, trace B13), and what Blob holds is
//! touched only if it is known to be ours: the anchor names its ETag, or an open intent its content. Anything
//! else is foreign, and kept.

use super::Rules;
use super::converge::Purpose;

/// What an anchor says, as far as Blob is concerned.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Seen<E, R> {
    /// Its rev; none where there is no anchor.
    pub rev: Option<R>,
    /// Whether the pathname holds something.
    pub holds: bool,
    /// Whether Blob was not made equal to it yet.
    pub behind: bool,
    /// What Blob held when it was made equal last; none where it held nothing.
    pub blob: Option<E>,
}

/// Whose content a blob has whose ETag the anchor does not name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Content {
    /// It is what the anchor says.
    Same,
    /// An open intent names it: a version of ours, on its way when it was seen.
    Ours,
    /// Somebody else's.
    Other,
    /// It changed before it was read.
    Gone,
}

/// What is to be done now.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Next<E, R> {
    /// Ask Blob what it holds, past every cache.
    ReadMirror,
    /// Read the anchor.
    ReadAuthority,
    /// Read what Blob holds under this ETag, and then the open intents.
    Compare {
        /// The ETag.
        etag: E,
    },
    /// Put what the anchor says, or delete where it says that there is nothing; only if Blob holds this.
    Write {
        /// Whether to put.
        put: bool,
        /// What Blob must hold; none: nothing.
        expected: Option<E>,
    },
    /// Write the anchor anew, if its rev is still this one (none: if there is none): Blob is equal to it.
    Record {
        /// The rev.
        expected: Option<R>,
        /// What Blob holds now.
        etag: Option<E>,
    },
    /// It is over.
    Done(Ending<E>),
}

/// How it ended.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Ending<E> {
    /// Blob was equal already.
    Equal,
    /// Blob was made equal.
    Written,
    /// Blob holds somebody else's: it was kept.
    Foreign {
        /// The ETag of what it holds.
        etag: E,
    },
    /// Others kept writing, or no outcome could be learnt.
    GaveUp,
}

/// How a request ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Sent {
    /// It was applied.
    Applied,
    /// Its condition did not hold.
    Refused,
    /// Nobody knows; it may land yet.
    Unknown,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
enum Step<E, R> {
    ReadMirror,
    ReadAuthority { mirror: Option<E> },
    Compare { etag: E, seen: Seen<E, R> },
    Write { put: bool, expected: Option<E>, rev: Option<R> },
    Record { expected: Option<R>, etag: Option<E>, wrote: bool },
    Over(Ending<E>),
}

/// One operation that makes Blob equal to an anchor. `E` tells blobs apart, `R` anchors.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Reverse<E, R> {
    rules: Rules,
    purpose: Purpose,
    attempts_left: u8,
    unanswered: bool,
    /// What was found foreign, beside which anchor. Only what is so twice is told as that: between two reads
    /// one of ours may have been put and recorded.
    suspect: Option<(E, Option<R>)>,
    step: Step<E, R>,
}

impl<E: Clone + Eq, R: Clone + Eq> Reverse<E, R> {
    /// An operation that looks at most so many times.
    #[must_use]
    pub const fn new(rules: Rules, purpose: Purpose, attempts: u8) -> Self {
        Self {
            rules,
            purpose,
            attempts_left: attempts,
            unanswered: false,
            suspect: None,
            step: Step::ReadMirror,
        }
    }

    /// Whether a request to Blob got no answer: it may land yet, whatever this came to.
    #[must_use]
    pub const fn unanswered(&self) -> bool {
        self.unanswered
    }

    /// What to do now.
    #[must_use]
    pub fn next(&self) -> Next<E, R> {
        match &self.step {
            Step::ReadMirror => Next::ReadMirror,
            Step::ReadAuthority { .. } => Next::ReadAuthority,
            Step::Compare { etag, .. } => Next::Compare { etag: etag.clone() },
            Step::Write { put, expected, .. } => Next::Write { put: *put, expected: expected.clone() },
            Step::Record { expected, etag, .. } => {
                Next::Record { expected: expected.clone(), etag: etag.clone() }
            }
            Step::Over(ending) => Next::Done(ending.clone()),
        }
    }

    /// Blob holds this.
    pub fn mirror(&mut self, mirror: Option<E>) {
        self.step = Step::ReadAuthority { mirror };
    }

    /// The anchor says this.
    pub fn authority(&mut self, seen: Seen<E, R>) {
        let Step::ReadAuthority { mirror } = &self.step else { return };
        self.step = match decide(self.purpose, mirror.as_ref(), &seen) {
            Decision::Equal => Step::Over(Ending::Equal),
            Decision::Record => Step::Record { expected: seen.rev, etag: mirror.clone(), wrote: false },
            Decision::Write => Step::Write { put: seen.holds, expected: mirror.clone(), rev: seen.rev },
            Decision::Compare(etag) => Step::Compare { etag, seen },
        };
    }

    /// Whose the content is.
    pub fn compared(&mut self, content: Content) {
        let Step::Compare { etag, seen } = &self.step else { return };
        let (etag, seen) = (etag.clone(), seen.clone());
        let found = (etag.clone(), seen.rev.clone());
        match content {
            Content::Same if seen.holds => {
                self.step = Step::Record { expected: seen.rev, etag: Some(etag), wrote: false };
            }
            Content::Same | Content::Ours => {
                self.step = Step::Write { put: seen.holds, expected: Some(etag), rev: seen.rev };
            }
            Content::Other if self.suspect.as_ref() == Some(&found) => {
                self.step = Step::Over(Ending::Foreign { etag });
            }
            Content::Other => {
                self.suspect = Some(found);
                self.again();
            }
            Content::Gone => self.again(),
        }
    }

    /// The request to Blob ended like this; `etag` is what it holds since, where it was applied.
    pub fn written(&mut self, sent: Sent, etag: Option<E>) {
        let Step::Write { rev, .. } = &self.step else { return };
        match sent {
            Sent::Applied => self.step = Step::Record { expected: rev.clone(), etag, wrote: true },
            Sent::Refused => self.again(),
            Sent::Unknown => {
                self.unanswered = true;
                self.again();
            }
        }
    }

    /// The write of the anchor ended like this.
    pub fn recorded(&mut self, sent: Sent) {
        let Step::Record { wrote, .. } = &self.step else { return };
        let ending = if *wrote { Ending::Written } else { Ending::Equal };
        match sent {
            Sent::Applied => self.step = Step::Over(ending),
            // The anchor moved on while Blob was written: what was put is not what it says now.
            Sent::Refused if self.rules.second_look => self.again(),
            Sent::Refused => self.step = Step::Over(ending),
            Sent::Unknown => self.again(),
        }
    }

    fn again(&mut self) {
        self.attempts_left = self.attempts_left.saturating_sub(1);
        self.step = if self.attempts_left == 0 { Step::Over(Ending::GaveUp) } else { Step::ReadMirror };
    }
}

#[derive(Debug, PartialEq, Eq)]
enum Decision<E> {
    Equal,
    /// Blob is equal, and the anchor does not say so; or its rev is to be renewed, so that no older request
    /// finds it.
    Record,
    /// Blob holds what is known to be ours, or nothing, and not what the anchor says.
    Write,
    /// Blob holds something that the anchor does not name.
    Compare(E),
}

fn decide<E: Clone + Eq, R>(purpose: Purpose, mirror: Option<&E>, seen: &Seen<E, R>) -> Decision<E> {
    let known = mirror == seen.blob.as_ref();
    let equal = match (mirror, seen.holds) {
        (None, false) => true,
        (Some(_), true) => known && !seen.behind,
        (None, true) | (Some(_), false) => false,
    };
    match mirror {
        _ if equal => {
            let said = known && !seen.behind;
            if said && purpose != Purpose::Intent { Decision::Equal } else { Decision::Record }
        }
        Some(etag) if !known => Decision::Compare(etag.clone()),
        Some(_) | None => Decision::Write,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    type Machine = Reverse<u32, u32>;

    const fn seen(holds: bool, behind: bool, blob: Option<u32>) -> Seen<u32, u32> {
        Seen { rev: Some(7), holds, behind, blob }
    }

    fn looked(purpose: Purpose, attempts: u8, mirror: Option<u32>, seen: Seen<u32, u32>) -> Machine {
        let mut machine = Machine::new(Rules::SOUND, purpose, attempts);
        look(&mut machine, mirror, seen);
        machine
    }

    fn look(machine: &mut Machine, mirror: Option<u32>, seen: Seen<u32, u32>) {
        assert_eq!(machine.next(), Next::ReadMirror);
        machine.mirror(mirror);
        assert_eq!(machine.next(), Next::ReadAuthority);
        machine.authority(seen);
    }

    #[test]
    fn only_what_is_known_to_be_ours_is_touched() {
        let put = |expected| Next::Write { put: true, expected };
        let delete = |etag| Next::Write { put: false, expected: Some(etag) };
        let record = |etag| Next::Record { expected: Some(7), etag };
        for (mirror, anchor, next) in [
            (Some(1), seen(true, false, Some(1)), Next::Done(Ending::Equal)),
            (Some(1), seen(true, true, Some(1)), put(Some(1))),
            (None, seen(true, true, None), put(None)),
            // Somebody deleted it in Blob: the anchor is right.
            (None, seen(true, false, Some(1)), put(None)),
            (Some(2), seen(true, true, Some(1)), Next::Compare { etag: 2 }),
            (Some(2), seen(true, false, Some(1)), Next::Compare { etag: 2 }),
            (None, seen(false, false, None), Next::Done(Ending::Equal)),
            (None, seen(false, true, Some(1)), record(None)),
            (Some(1), seen(false, true, Some(1)), delete(1)),
            (Some(1), seen(false, true, None), Next::Compare { etag: 1 }),
        ] {
            let machine = looked(Purpose::Reconcile, 3, mirror, anchor.clone());
            assert_eq!(machine.next(), next, "{mirror:?} {anchor:?}");
        }
        let nothing = Seen { rev: None, holds: false, behind: false, blob: None };
        let machine = looked(Purpose::Reconcile, 3, Some(1), nothing.clone());
        assert_eq!(machine.next(), Next::Compare { etag: 1 }, "created past the gateways");
        let machine = looked(Purpose::Reconcile, 3, None, nothing);
        assert_eq!(machine.next(), Next::Done(Ending::Equal));
    }

    #[test]
    fn for_an_intent_an_equal_state_gets_a_new_rev() {
        for (mirror, anchor) in [(Some(1), seen(true, false, Some(1))), (None, seen(false, false, None))] {
            let machine = looked(Purpose::Intent, 3, mirror, anchor);
            assert_eq!(machine.next(), Next::Record { expected: Some(7), etag: mirror });
        }
    }

    #[test]
    fn what_was_put_counts_once_the_anchor_was_written_anew() {
        let mut machine = looked(Purpose::Intent, 2, Some(1), seen(true, true, Some(1)));
        machine.written(Sent::Applied, Some(2));
        assert_eq!(machine.next(), Next::Record { expected: Some(7), etag: Some(2) });
        let moved_on = {
            let mut machine = machine.clone();
            machine.recorded(Sent::Refused);
            machine
        };
        assert_eq!(moved_on.next(), Next::ReadMirror, "trace B13");
        machine.recorded(Sent::Applied);
        assert_eq!(machine.next(), Next::Done(Ending::Written));
        let without = Rules { second_look: false, ..Rules::SOUND };
        let mut machine = Machine::new(without, Purpose::Intent, 2);
        look(&mut machine, Some(1), seen(true, true, Some(1)));
        machine.written(Sent::Applied, Some(2));
        machine.recorded(Sent::Refused);
        assert_eq!(machine.next(), Next::Done(Ending::Written));
    }

    #[test]
    fn content_tells_whose_a_blob_is_that_the_anchor_does_not_name() {
        let behind = || looked(Purpose::Intent, 4, Some(2), seen(true, true, Some(1)));
        let mut machine = behind();
        machine.compared(Content::Same);
        assert_eq!(machine.next(), Next::Record { expected: Some(7), etag: Some(2) });
        let mut machine = behind();
        machine.compared(Content::Ours);
        assert_eq!(machine.next(), Next::Write { put: true, expected: Some(2) });
        let mut machine = behind();
        machine.compared(Content::Other);
        look(&mut machine, Some(2), seen(true, true, Some(1)));
        machine.compared(Content::Other);
        assert_eq!(machine.next(), Next::Done(Ending::Foreign { etag: 2 }));
        // The same content where nothing should be: the late put of a version that was deleted.
        let mut machine = looked(Purpose::Intent, 4, Some(2), seen(false, true, Some(1)));
        machine.compared(Content::Ours);
        assert_eq!(machine.next(), Next::Write { put: false, expected: Some(2) });
    }

    #[test]
    fn foreign_is_only_what_is_so_twice_beside_the_same_anchor() {
        let mut machine = looked(Purpose::Intent, 4, Some(2), seen(true, true, Some(1)));
        machine.compared(Content::Other);
        look(&mut machine, Some(2), Seen { rev: Some(8), ..seen(true, true, Some(1)) });
        machine.compared(Content::Other);
        assert_eq!(machine.next(), Next::ReadMirror, "the anchor was written meanwhile");
    }

    #[test]
    fn a_request_without_an_answer_is_remembered_to_the_end() {
        let mut machine = looked(Purpose::Intent, 3, None, seen(true, true, None));
        machine.written(Sent::Unknown, None);
        assert!(machine.unanswered());
        look(&mut machine, Some(1), seen(true, true, None));
        machine.compared(Content::Same);
        machine.recorded(Sent::Applied);
        assert_eq!(machine.next(), Next::Done(Ending::Equal));
        assert!(machine.unanswered());
    }

    #[test]
    fn looks_are_bounded() {
        let mut machine = looked(Purpose::Intent, 1, None, seen(true, true, None));
        machine.written(Sent::Refused, None);
        assert_eq!(machine.next(), Next::Done(Ending::GaveUp));
    }
}
