//! Mirroring towards Blob, where DynamoDB is the authority: from what was seen of both sides to what to do next.
//!
//! [`Reverse`] is the operation as a state machine. Its driver does what [`Reverse::next`] asks and reports what came
//! of it. No rev guards a blob: its ETag may come back, and absence too. So
//!
//! - a request to Blob carries a condition, what Blob was seen to hold, and is noted with it before it is sent
//!   ([`super::note`]); right before it is sent, the process looks whether it still may;
//! - what was put counts only once the anchor that it was made from was written anew under its rev (the second look,
//!   trace B13), and its note stays until then;
//! - where the anchor does not say what Blob holds, Blob is asked once more after the anchor was read, before that is
//!   recorded (trace C4);
//! - what Blob holds is touched only if it is known to be ours: the anchor names its ETag, or a note or an open intent
//!   its content. Anything else is foreign, and kept.

use super::Rules;
use super::converge::Purpose;

/// What an anchor says of Blob. `E` tells states of a blob apart; none stands for no blob.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Known<E> {
    /// Blob is equal to the anchor, and holds this.
    Equal(Option<E>),
    /// Blob was not made equal yet; it held this when it was equal last.
    Behind(Option<E>),
}

impl<E> Known<E> {
    /// What Blob held when it was equal last.
    pub const fn last(&self) -> Option<&E> {
        match self {
            Self::Equal(last) | Self::Behind(last) => last.as_ref(),
        }
    }
}

/// What an anchor says, or its absence.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Seen<E, R> {
    /// Its rev; none where there is no anchor.
    pub rev: Option<R>,
    /// Whether the pathname holds something.
    pub holds: bool,
    /// Whether its items are not all stored yet: a change of several transactions was begun.
    pub pending: bool,
    /// What it says of Blob.
    pub blob: Known<E>,
}

impl<E: Clone, R> Seen<E, R> {
    /// What was seen where there is no anchor.
    #[must_use]
    pub const fn nothing() -> Self {
        Self { rev: None, holds: false, pending: false, blob: Known::Equal(None) }
    }

    /// What the anchor of the next version says of Blob, which holds what it held.
    #[must_use]
    pub fn replaced(&self, holds: bool) -> Known<E> {
        match &self.blob {
            // Nothing replaces nothing.
            Known::Equal(None) if !holds => Known::Equal(None),
            Known::Equal(last) | Known::Behind(last) => Known::Behind(last.clone()),
        }
    }

    /// What the anchor says of Blob that ends the change of which this is the pending one, whoever stores it.
    #[must_use]
    pub fn finished(&self, rules: Rules) -> Known<E> {
        if rules.pending_carries { self.blob.clone() } else { Known::Equal(None) }
    }
}

/// Whose content a blob has whose ETag the anchor does not name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Content {
    /// It is what the anchor says.
    Same,
    /// A note or an open intent names it: a version of ours.
    Ours,
    /// Somebody else's.
    Other,
    /// It changed before it was read.
    Gone,
}

/// What is to be done now.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Next<E, R> {
    /// Ask Blob what it holds, past every cache; answer with [`Reverse::mirror`].
    ReadMirror,
    /// Read the anchor; answer with [`Reverse::authority`].
    ReadAuthority,
    /// Bring the items of the pending anchor up to it; answer with [`Reverse::finished`].
    Finish,
    /// Read what Blob holds under this ETag, and then notes and open intents; answer with [`Reverse::compared`].
    Compare {
        /// The ETag.
        etag: E,
    },
    /// Note the request, in place of this operation's note before it; applied only while its session is open. Answer
    /// with [`Reverse::noted`].
    Note {
        /// Whether it puts what the anchor says; else it deletes.
        put: bool,
        /// What Blob must hold; none: nothing.
        expects: Option<E>,
    },
    /// Look whether the request may be sent, and send it at once if so; answer with [`Reverse::permitted`].
    Permit,
    /// Put what the anchor says, or delete where it says that there is nothing; only if Blob holds this. Answer with
    /// [`Reverse::written`].
    Write {
        /// Whether to put.
        put: bool,
        /// What Blob must hold; none: nothing.
        expects: Option<E>,
    },
    /// Write the anchor anew, if its rev is still this one (none: if there is none): Blob is equal to it. The same
    /// transaction removes this operation's note. Answer with [`Reverse::recorded`].
    Record {
        /// The rev.
        expected: Option<R>,
        /// What Blob holds now.
        etag: Option<E>,
    },
    /// Take this operation's note back: remove it, or, where `names`, say in it that its request was answered. Answer
    /// with [`Reverse::withdrawn`].
    Withdraw {
        /// Whether Blob holds what the note names, and no anchor says so.
        names: bool,
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
    /// Others kept writing, no outcome could be learnt, or the operation was stopped.
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

/// Whether a request may be sent now.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Permission {
    /// It may.
    Send,
    /// Others may have waited its note out: it is to be noted anew.
    NoteAnew,
    /// Never: the session is over.
    Over,
}

/// A request to Blob.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Request<E, R> {
    put: bool,
    expects: Option<E>,
    /// The anchor that it was made from.
    rev: Option<R>,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
enum Step<E, R> {
    ReadMirror,
    ReadAuthority {
        mirror: Option<E>,
    },
    Finish {
        mirror: Option<E>,
    },
    Compare {
        etag: E,
        seen: Seen<E, R>,
    },
    Confirm {
        mirror: Option<E>,
        rev: Option<R>,
    },
    Note(Request<E, R>),
    Permit(Request<E, R>),
    Write(Request<E, R>),
    /// Only unsound rules take a note back before the anchor is stored.
    Forget {
        rev: Option<R>,
        etag: Option<E>,
    },
    Record {
        expected: Option<R>,
        etag: Option<E>,
        wrote: bool,
    },
    Withdraw {
        names: bool,
        then: Ending<E>,
    },
    Over(Ending<E>),
}

/// This operation's note, where there is one in its row that is its own to take back.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Own {
    No,
    /// It names nothing that Blob holds and no anchor: its request was not sent, or was refused.
    Idle,
    /// Blob may hold what it names alone: its request was applied, or expects what one before it left.
    Names,
}

/// One operation that makes Blob equal to an anchor. `E` tells states of a blob apart, `R` anchors.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Reverse<E, R> {
    rules: Rules,
    purpose: Purpose,
    /// None: as often as it takes.
    attempts_left: Option<u8>,
    own: Own,
    /// What was found foreign, beside which anchor. Only what is so twice is told as that: between two reads
    /// one of ours may have been put and recorded.
    suspect: Option<(E, Option<R>)>,
    step: Step<E, R>,
}

impl<E: Clone + Eq, R: Clone + Eq> Reverse<E, R> {
    /// An operation that looks at most so many times (none: as often as it takes).
    #[must_use]
    pub const fn new(rules: Rules, purpose: Purpose, attempts: Option<u8>) -> Self {
        Self { rules, purpose, attempts_left: attempts, own: Own::No, suspect: None, step: Step::ReadMirror }
    }

    /// What to do now.
    #[must_use]
    pub fn next(&self) -> Next<E, R> {
        match &self.step {
            Step::ReadMirror | Step::Confirm { .. } => Next::ReadMirror,
            Step::ReadAuthority { .. } => Next::ReadAuthority,
            Step::Finish { .. } => Next::Finish,
            Step::Compare { etag, .. } => Next::Compare { etag: etag.clone() },
            Step::Note(Request { put, expects, .. }) => Next::Note { put: *put, expects: expects.clone() },
            Step::Permit(_) => Next::Permit,
            Step::Write(Request { put, expects, .. }) => Next::Write { put: *put, expects: expects.clone() },
            Step::Forget { .. } => Next::Withdraw { names: false },
            Step::Record { expected, etag, .. } => {
                Next::Record { expected: expected.clone(), etag: etag.clone() }
            }
            Step::Withdraw { names, .. } => Next::Withdraw { names: *names },
            Step::Over(ending) => Next::Done(ending.clone()),
        }
    }

    /// The same with other names for revs.
    #[must_use]
    pub fn with_revs<Q>(self, mut name: impl FnMut(R) -> Q) -> Reverse<E, Q> {
        let mut named = |rev: Option<R>| rev.map(&mut name);
        let suspect = self.suspect.map(|(etag, rev)| (etag, named(rev)));
        let mut request = |Request { put, expects, rev }| Request { put, expects, rev: named(rev) };
        let step = match self.step {
            Step::ReadMirror => Step::ReadMirror,
            Step::ReadAuthority { mirror } => Step::ReadAuthority { mirror },
            Step::Finish { mirror } => Step::Finish { mirror },
            Step::Compare { etag, seen: Seen { rev, holds, pending, blob } } => {
                Step::Compare { etag, seen: Seen { rev: named(rev), holds, pending, blob } }
            }
            Step::Confirm { mirror, rev } => Step::Confirm { mirror, rev: named(rev) },
            Step::Note(noted) => Step::Note(request(noted)),
            Step::Permit(noted) => Step::Permit(request(noted)),
            Step::Write(noted) => Step::Write(request(noted)),
            Step::Forget { rev, etag } => Step::Forget { rev: named(rev), etag },
            Step::Record { expected, etag, wrote } => Step::Record { expected: named(expected), etag, wrote },
            Step::Withdraw { names, then } => Step::Withdraw { names, then },
            Step::Over(ending) => Step::Over(ending),
        };
        let Self { rules, purpose, attempts_left, own, .. } = self;
        Reverse { rules, purpose, attempts_left, own, suspect, step }
    }

    /// Blob holds this.
    pub fn mirror(&mut self, mirror: Option<E>) {
        self.step = match &self.step {
            // It held that before and after the anchor was read.
            Step::Confirm { mirror: before, rev } if *before == mirror => {
                Step::Record { expected: rev.clone(), etag: mirror, wrote: false }
            }
            Step::Confirm { .. } => return self.again(),
            _ => Step::ReadAuthority { mirror },
        };
    }

    /// The anchor says this.
    pub fn authority(&mut self, seen: Seen<E, R>) {
        let Step::ReadAuthority { mirror } = &self.step else { return };
        let mirror = mirror.clone();
        if seen.pending {
            self.step = Step::Finish { mirror };
            return;
        }
        match decide(self.purpose, mirror.as_ref(), &seen) {
            Decision::Equal => self.end(Ending::Equal),
            Decision::Renew => {
                self.step = Step::Record { expected: seen.rev, etag: mirror, wrote: false };
            }
            Decision::Record => self.record(mirror, seen.rev),
            Decision::Write => self.write(Request { put: seen.holds, expects: mirror, rev: seen.rev }),
            Decision::Compare(etag) => self.step = Step::Compare { etag, seen },
        }
    }

    /// The items of the pending anchor were stored, or somebody else wrote the anchor anew.
    pub fn finished(&mut self) {
        let Step::Finish { mirror } = &self.step else { return };
        let mirror = mirror.clone();
        if self.attempts_are_spent() {
            self.end(Ending::GaveUp);
        } else {
            self.step = Step::ReadAuthority { mirror };
        }
    }

    /// Whose the content is.
    pub fn compared(&mut self, content: Content) {
        let Step::Compare { etag, seen } = &self.step else { return };
        let (etag, seen) = (etag.clone(), seen.clone());
        let found = (etag.clone(), seen.rev.clone());
        match content {
            Content::Same if seen.holds => self.record(Some(etag), seen.rev),
            Content::Same | Content::Ours => {
                self.write(Request { put: seen.holds, expects: Some(etag), rev: seen.rev });
            }
            Content::Other if self.suspect.as_ref() == Some(&found) => self.end(Ending::Foreign { etag }),
            Content::Other => {
                self.suspect = Some(found);
                self.again();
            }
            Content::Gone => self.again(),
        }
    }

    /// The note is stored, or (`false`) nobody knows whether it is. It counts for nothing before its request is sent.
    pub fn noted(&mut self, stored: bool) {
        let Step::Note(request) = &self.step else { return };
        if !stored {
            return self.again();
        }
        let request = request.clone();
        if self.own == Own::No {
            self.own = Own::Idle;
        }
        self.step = if self.rules.permit_last { Step::Permit(request) } else { Step::Write(request) };
    }

    /// It was looked whether the request may be sent.
    pub fn permitted(&mut self, permission: Permission) {
        let Step::Permit(request) = &self.step else { return };
        let request = request.clone();
        self.step = match permission {
            Permission::Send if self.rules.permit_last => Step::Write(request),
            Permission::Send | Permission::NoteAnew => self.noting(request),
            // Its note is left to others, like everything of its session.
            Permission::Over => Step::Over(Ending::GaveUp),
        };
    }

    /// The request to Blob ended like this; `etag` is what it holds since, where it was applied.
    pub fn written(&mut self, sent: Sent, etag: Option<E>) {
        let Step::Write(Request { rev, .. }) = &self.step else { return };
        let rev = rev.clone();
        match sent {
            Sent::Applied if !self.rules.note_until_recorded => self.step = Step::Forget { rev, etag },
            Sent::Applied => {
                self.own = Own::Names;
                self.step = Step::Record { expected: rev, etag, wrote: true };
            }
            Sent::Refused => self.again(),
            Sent::Unknown => {
                // It is nobody's to take back before it can't be applied any more.
                if self.rules.doubt_lasts {
                    self.own = Own::No;
                }
                self.again();
            }
        }
    }

    /// The write of the anchor ended like this.
    pub fn recorded(&mut self, sent: Sent) {
        let Step::Record { wrote, .. } = &self.step else { return };
        let ending = if *wrote { Ending::Written } else { Ending::Equal };
        match sent {
            Sent::Applied => {
                self.own = Own::No;
                self.step = Step::Over(ending);
            }
            // The anchor moved on while Blob was written: what was put is not what it says now.
            Sent::Refused if self.rules.second_look => self.again(),
            Sent::Refused => self.end(ending),
            Sent::Unknown => self.again(),
        }
    }

    /// The note was taken back, or could not be: then it stays for others to judge.
    pub fn withdrawn(&mut self) {
        self.own = Own::No;
        self.step = match &self.step {
            Step::Forget { rev, etag } => {
                Step::Record { expected: rev.clone(), etag: etag.clone(), wrote: true }
            }
            Step::Withdraw { then, .. } => Step::Over(then.clone()),
            _ => return,
        };
    }

    /// The driver can't go on, or is to leave: the note of a request that is `under_way` stays as it is, any other is
    /// taken back.
    pub fn stop(&mut self, under_way: bool) {
        match &self.step {
            Step::Withdraw { .. } | Step::Over(_) => {}
            Step::Write(_) if under_way => self.step = Step::Over(Ending::GaveUp),
            _ => self.end(Ending::GaveUp),
        }
    }

    fn again(&mut self) {
        if self.attempts_are_spent() {
            self.end(Ending::GaveUp);
        } else {
            self.step = Step::ReadMirror;
        }
    }

    fn attempts_are_spent(&mut self) -> bool {
        self.attempts_left = self.attempts_left.map(|left| left.saturating_sub(1));
        self.attempts_left == Some(0)
    }

    /// Blob holds what the anchor says, and the anchor does not say so.
    fn record(&mut self, mirror: Option<E>, rev: Option<R>) {
        self.step = if self.rules.confirm_before_record {
            Step::Confirm { mirror, rev }
        } else {
            Step::Record { expected: rev, etag: mirror, wrote: false }
        };
    }

    fn write(&mut self, request: Request<E, R>) {
        self.step = if self.rules.permit_last { self.noting(request) } else { Step::Permit(request) };
    }

    const fn noting(&self, request: Request<E, R>) -> Step<E, R> {
        if self.rules.note_first { Step::Note(request) } else { Step::Write(request) }
    }

    fn end(&mut self, ending: Ending<E>) {
        self.step = match self.own {
            Own::No => Step::Over(ending),
            Own::Idle => Step::Withdraw { names: false, then: ending },
            // The anchor that says so is stored where the ending is that both are equal.
            Own::Names => Step::Withdraw { names: ending == Ending::GaveUp, then: ending },
        };
    }
}

#[derive(Debug, PartialEq, Eq)]
enum Decision<E> {
    Equal,
    /// Blob is equal, and the anchor says so: its rev is to be renewed, so that no older request finds it.
    Renew,
    /// Blob is equal, and the anchor does not say so.
    Record,
    /// Blob holds what is known to be ours, or nothing, and not what the anchor says.
    Write,
    /// Blob holds something that the anchor does not name.
    Compare(E),
}

fn decide<E: Clone + Eq, R>(purpose: Purpose, mirror: Option<&E>, seen: &Seen<E, R>) -> Decision<E> {
    let known = mirror == seen.blob.last();
    let said = known && matches!(seen.blob, Known::Equal(_));
    match (mirror, seen.holds) {
        (None, false) | (Some(_), true) if said && purpose == Purpose::Intent => Decision::Renew,
        (None, false) | (Some(_), true) if said => Decision::Equal,
        (None, false) => Decision::Record,
        (Some(etag), _) if !known => Decision::Compare(etag.clone()),
        (Some(_) | None, _) => Decision::Write,
    }
}

#[cfg(test)]
mod tests;
