//! What clients did and were told: the history that the checker judges.
//!
//! A call has a beginning, an end and an answer. It becomes [`Step`]s, each about one key: what the key must have held,
//! and what it holds since. Copies and renames touch two keys. The promise of Vercel Blob is no atomic change of both
//! (it renames by a copy and a delete), so their two steps are independent, each within the time of the call. This is
//! weaker than the gateway behaves, and sound: what such a history allows, the promise allows.
//!
//! A call without an answer may have happened, or may happen later; but only for as long as something of it is under
//! way. [`Fates`] knows until when that can be.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crate::blobs::{Content, Key, Keys, State, said};
use crate::checker::{Expect, Step, Write};

/// Time since the storm began.
pub(crate) type Moment = Duration;

/// What a client asked for, of the key that it may change; reads are calls too.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Call {
    Head,
    Get,
    /// As one of a listing.
    Listed,
    Put(Content),
    Create(Content),
    /// Only over the content that the client saw last.
    PutIf {
        expected: Content,
        content: Content,
    },
    /// As a multipart upload.
    Upload(Content),
    Delete,
    DeleteIf(Content),
    Copy {
        from: Key,
        overwrite: bool,
    },
    Rename {
        from: Key,
        overwrite: bool,
    },
}

/// Why a write was refused, so that it had no effect.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Refusal {
    /// Something is there.
    Exists,
    /// Something else than expected, or nothing, is there.
    Mismatch,
    /// There is nothing to copy.
    Missing,
}

/// What a client was told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Answer {
    /// A read: this is there.
    Told(State),
    /// A write took place; this is there since, where it is known.
    Done(Option<Content>),
    /// A condition did not hold.
    Refused(Refusal),
    /// Nothing was done, or sent.
    Nothing(String),
    /// The gateway answered that it does not know.
    Unknown(String),
    /// No answer came.
    Silence(String),
    /// A read told nothing.
    Failed(String),
}

/// A call with its times.
#[derive(Debug, Clone)]
pub(crate) struct Record {
    pub(crate) key: Key,
    pub(crate) call: Call,
    pub(crate) answer: Answer,
    pub(crate) client: u32,
    /// The gateway process that was asked, by its number.
    pub(crate) process: usize,
    pub(crate) invoked: Moment,
    pub(crate) returned: Moment,
}

/// All calls of all clients.
#[derive(Debug, Default)]
pub(crate) struct History(Mutex<Vec<Record>>);

impl History {
    pub(crate) fn add(&self, record: Record) {
        self.lock().push(record);
    }

    pub(crate) fn lock(&self) -> MutexGuard<'_, Vec<Record>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Call {
    pub(crate) const fn is_read(self) -> bool {
        matches!(self, Self::Head | Self::Get | Self::Listed)
    }

    /// The other key that it touches.
    pub(crate) const fn from(self) -> Option<Key> {
        match self {
            Self::Copy { from, .. } | Self::Rename { from, .. } => Some(from),
            _ => None,
        }
    }

    /// For people: `put c3.17`.
    pub(crate) fn said(self, keys: &Keys) -> String {
        let onto = |overwrite| if overwrite { "" } else { ", if nothing is there" };
        match self {
            Self::Head => "head".to_owned(),
            Self::Get => "get".to_owned(),
            Self::Listed => "list".to_owned(),
            Self::Put(content) => format!("put {content}"),
            Self::Create(content) => format!("put {content}, if nothing is there"),
            Self::PutIf { expected, content } => format!("put {content}, if {expected} is there"),
            Self::Upload(content) => format!("multipart {content}"),
            Self::Delete => "delete".to_owned(),
            Self::DeleteIf(expected) => format!("delete, if {expected} is there"),
            Self::Copy { from, overwrite } => format!("copy of {}{}", keys.name(from), onto(overwrite)),
            Self::Rename { from, overwrite } => format!("rename of {}{}", keys.name(from), onto(overwrite)),
        }
    }
}

impl Answer {
    /// For people.
    pub(crate) fn said(&self) -> String {
        match self {
            Self::Told(state) => format!("told {}", said(*state)),
            Self::Done(None) => "done".to_owned(),
            Self::Done(Some(content)) => format!("done: {content}"),
            Self::Refused(Refusal::Exists) => "refused: something is there".to_owned(),
            Self::Refused(Refusal::Mismatch) => "refused: something else is there".to_owned(),
            Self::Refused(Refusal::Missing) => "refused: no such blob".to_owned(),
            Self::Nothing(why) => format!("nothing was done: {why}"),
            Self::Unknown(why) => format!("unknown: {why}"),
            Self::Silence(why) => format!("no answer: {why}"),
            Self::Failed(why) => format!("failed: {why}"),
        }
    }
}

/// Until when a call without an answer can have an effect.
pub(crate) trait Fates {
    /// Of a call to this process that ended like this at this time; none where nothing is known.
    fn until(&self, process: usize, answered: bool, returned: Moment) -> Option<Moment>;
}

/// The steps of each key. Indices into `records` name them.
pub(crate) fn steps(records: &[Record], fates: &impl Fates) -> BTreeMap<Key, Vec<Step>> {
    let mut steps: BTreeMap<Key, Vec<Step>> = BTreeMap::new();
    for (index, record) in records.iter().enumerate() {
        let answered = matches!(record.answer, Answer::Unknown(_));
        let until = fates.until(record.process, answered, record.returned);
        for (key, expect, write, certain) in steps_of(record) {
            let (invoked, returned) = (record.invoked, certain.then_some(record.returned));
            let step = Step { record: index, expect, write, invoked, returned, until };
            steps.entry(key).or_default().push(step);
        }
    }
    steps
}

type OfKey = (Key, Expect, Option<Write>, bool);

/// What a call says of each key that it touches, and whether it is certain that it happened.
fn steps_of(record: &Record) -> Vec<OfKey> {
    let Record { key, call, .. } = *record;
    let holds = |content| Expect::Is(Some(content));
    let over = |overwrite| if overwrite { Expect::Anything } else { Expect::Is(None) };
    // What the call demands of its key, what the key holds since, and what the call does to another one.
    let (demand, write) = match call {
        Call::Head | Call::Get | Call::Listed => {
            return match record.answer {
                Answer::Told(state) => vec![(key, Expect::Is(state), None, true)],
                _ => Vec::new(),
            };
        }
        Call::Put(content) | Call::Upload(content) => (Expect::Anything, Write::To(Some(content))),
        Call::Create(content) => (Expect::Is(None), Write::To(Some(content))),
        Call::PutIf { expected, content } => (holds(expected), Write::To(Some(content))),
        Call::Delete => (Expect::Anything, Write::To(None)),
        Call::DeleteIf(expected) => (holds(expected), Write::To(None)),
        Call::Copy { overwrite, .. } | Call::Rename { overwrite, .. } => (over(overwrite), Write::Copied),
    };
    let renames = matches!(call, Call::Rename { .. });
    let taken = |expect, certain| {
        let write = renames.then_some(Write::To(None));
        call.from().map(|from| (from, expect, write, certain))
    };
    match (&record.answer, call.from()) {
        (Answer::Done(Some(content)), Some(_)) => {
            let copied = (key, demand, Some(Write::To(Some(*content))), true);
            [copied].into_iter().chain(taken(holds(*content), true)).collect()
        }
        (Answer::Done(_), None) => vec![(key, demand, Some(write), true)],
        (Answer::Refused(Refusal::Missing), Some(from)) => vec![(from, Expect::Is(None), None, true)],
        (Answer::Refused(Refusal::Exists), _) if demand == Expect::Is(None) => {
            vec![(key, Expect::Not(None), None, true)]
        }
        (Answer::Refused(Refusal::Mismatch), None) => match demand {
            Expect::Is(state) => vec![(key, Expect::Not(state), None, true)],
            Expect::Not(_) | Expect::Anything => Vec::new(),
        },
        (Answer::Nothing(_) | Answer::Told(_) | Answer::Failed(_), _) => Vec::new(),
        (Answer::Done(None) | Answer::Unknown(_) | Answer::Silence(_) | Answer::Refused(_), _) => {
            let written = (key, demand, Some(write), false);
            let removed = taken(Expect::Anything, false).filter(|_| renames);
            [written].into_iter().chain(removed).collect()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Never;

    impl Fates for Never {
        fn until(&self, _: usize, _: bool, _: Moment) -> Option<Moment> {
            None
        }
    }

    fn told(call: Call, answer: Answer) -> BTreeMap<Key, Vec<(Expect, Option<Write>, bool)>> {
        let at = Duration::from_secs;
        let record =
            Record { key: Key(1), call, answer, client: 0, process: 0, invoked: at(1), returned: at(2) };
        let of = |step: &Step| (step.expect, step.write, step.returned.is_some());
        steps(&[record], &Never)
            .into_iter()
            .map(|(key, steps)| (key, steps.iter().map(of).collect()))
            .collect()
    }

    #[test]
    fn a_rename_is_a_step_of_each_of_its_keys() {
        let (a, rename) = (Content(7), Call::Rename { from: Key(2), overwrite: true });
        let gone = Some(Write::To(None));
        let done = told(rename, Answer::Done(Some(a)));
        assert_eq!(done[&Key(1)], [(Expect::Anything, Some(Write::To(Some(a))), true)]);
        assert_eq!(done[&Key(2)], [(Expect::Is(Some(a)), gone, true)]);
        let unknown = told(rename, Answer::Silence(String::new()));
        assert_eq!(unknown[&Key(1)], [(Expect::Anything, Some(Write::Copied), false)]);
        assert_eq!(unknown[&Key(2)], [(Expect::Anything, gone, false)]);
        let missing = told(rename, Answer::Refused(Refusal::Missing));
        assert_eq!(missing[&Key(2)], [(Expect::Is(None), None, true)]);
        assert!(!missing.contains_key(&Key(1)));
    }

    #[test]
    fn a_refusal_says_what_was_there() {
        let (a, b) = (Content(7), Content(8));
        let create = told(Call::Create(a), Answer::Refused(Refusal::Exists));
        assert_eq!(create[&Key(1)], [(Expect::Not(None), None, true)]);
        let put = told(Call::PutIf { expected: b, content: a }, Answer::Refused(Refusal::Mismatch));
        assert_eq!(put[&Key(1)], [(Expect::Not(Some(b)), None, true)]);
        assert!(told(Call::Put(a), Answer::Nothing(String::new())).is_empty());
    }
}
