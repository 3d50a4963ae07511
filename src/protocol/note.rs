//! Notes: what a request of the mirror may still do to a blob.
//!
//! While DynamoDB is the authority, every request that changes Blob is noted before it is sent: what Blob must hold
//! for the request to be applied, and what the request leaves. A request that nobody saw answered may be applied as
//! long as Blob can come to hold what it expects. So its note is a *doubtful condition* until the request can't be
//! applied any more, whatever Blob holds: this module decides what that means for a step back to Blob
//! ([`at_commit`]), and for the writes of clients after it ([`Note::is_brought_back_by`]). And a note says whose a
//! blob is that its anchor does not name ([`whose`]).
//!
//! How long a note stays is decided as for an intent: see [`super::intent::Sighting`].

use super::Rules;
use super::reverse::Content;

/// A state of a blob. `E` is its ETag, `D` a digest of its content.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct State<E, D> {
    /// Its ETag.
    pub etag: E,
    /// Its content, where it is known.
    pub content: Option<D>,
}

/// A request of the mirror, as it was noted before it was sent.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Note<E, D> {
    /// What Blob must hold for it to be applied; none: nothing.
    pub expects: Option<State<E, D>>,
    /// The content that it leaves; none: nothing.
    pub leaves: Option<D>,
    /// Whether it was answered. Then it can't be applied any more, and its note only names what Blob may hold.
    pub answered: bool,
}

/// What a client's write would make of a blob, as far as that is known before it is sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Brings<D> {
    /// This content.
    Content(D),
    /// Nothing: a deletion.
    Absence,
    /// What the store alone will know: a copy, or what parts make that lie there.
    Unknown,
}

impl<E: Eq, D: Eq> Note<E, D> {
    /// Whether a blob of this ETag and content may be there because of this request: it left it, or found it as what
    /// was known to be ours.
    pub fn names(&self, etag: &E, content: &D) -> bool {
        let expected = self.expects.as_ref();
        self.leaves.as_ref() == Some(content)
            || expected.is_some_and(|state| state.etag == *etag || state.content.as_ref() == Some(content))
    }

    /// Whether it may be applied as soon as Blob holds this (none: nothing).
    pub fn is_doubtful_in(&self, blob: Option<&E>) -> bool {
        !self.answered && self.expects.as_ref().map(|state| &state.etag) == blob
    }

    /// Whether a write would bring the blob to what this request expects, so that the request may be applied over it.
    /// `has` says whether a state with this ETag has that content, where its content itself is not known.
    pub fn is_brought_back_by(&self, brings: &Brings<D>, has: impl Fn(&E, &D) -> bool) -> bool {
        if self.answered {
            return false;
        }
        match (brings, &self.expects) {
            (Brings::Unknown, Some(_)) | (Brings::Absence, None) => true,
            (Brings::Absence, Some(_)) | (Brings::Content(_) | Brings::Unknown, None) => false,
            (Brings::Content(content), Some(state)) => match &state.content {
                Some(known) => known == content,
                None => has(&state.etag, content),
            },
        }
    }
}

/// What a pathname with notes means for a step back to Blob.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum AtCommit {
    /// Nothing: Blob may become the authority.
    Clear,
    /// Blob is not what the anchor says.
    Behind,
    /// Blob holds what a request expects that may land yet.
    Doubtful,
}

/// Judges a pathname while writes are held, every process has acknowledged or was ended, and its notes were read
/// after that: then nobody but a request that is under way changes it.
pub fn at_commit<E: Eq, D: Eq>(
    rules: super::flip::Rules,
    equal: bool,
    blob: Option<&E>,
    notes: &[Note<E, D>],
) -> AtCommit {
    if rules.equal_at_commit && !equal {
        AtCommit::Behind
    } else if rules.no_doubt_at_commit && notes.iter().any(|note| note.is_doubtful_in(blob)) {
        AtCommit::Doubtful
    } else {
        AtCommit::Clear
    }
}

/// Whether a gateway sends a client's write while Blob is the authority.
pub fn may_send<E: Eq, D: Eq>(
    rules: Rules,
    brings: &Brings<D>,
    notes: &[Note<E, D>],
    has: impl Fn(&E, &D) -> bool,
) -> bool {
    !rules.nothing_brought_back || !notes.iter().any(|note| note.is_brought_back_by(brings, &has))
}

/// Whose a blob is whose ETag the anchor does not name. The notes, and the intents, were read after the blob: what
/// is of ours was noted before it was sent, and its note stays until an anchor is stored that makes it needless.
pub fn whose<E: Eq, D: Eq>(
    (etag, content): (&E, &D),
    anchored: Option<&D>,
    notes: &[Note<E, D>],
    named_by_intent: bool,
) -> Content {
    if anchored == Some(content) {
        Content::Same
    } else if named_by_intent || notes.iter().any(|note| note.names(etag, content)) {
        Content::Ours
    } else {
        Content::Other
    }
}

#[cfg(test)]
mod tests {
    use super::super::flip;
    use super::*;

    type Noted = Note<u32, char>;

    /// A request that puts `leaves` where Blob holds 1, which has the content `a`.
    const fn over_a(leaves: Option<char>) -> Noted {
        Note { expects: Some(State { etag: 1, content: Some('a') }), leaves, answered: false }
    }

    const CREATES: Noted = Note { expects: None, leaves: Some('b'), answered: false };

    #[test]
    fn the_way_back_asks_that_both_are_equal_and_nothing_expects_what_is_there() {
        let judged = |equal, blob: Option<u32>, note: Noted| {
            at_commit(flip::Rules::SOUND, equal, blob.as_ref(), &[note])
        };
        assert_eq!(judged(false, Some(2), over_a(Some('b'))), AtCommit::Behind, "trace C6");
        assert_eq!(judged(true, Some(1), over_a(Some('b'))), AtCommit::Doubtful, "trace C7");
        assert_eq!(judged(true, None, CREATES), AtCommit::Doubtful);
        assert_eq!(judged(true, Some(2), over_a(Some('b'))), AtCommit::Clear);
        assert_eq!(judged(true, None, over_a(None)), AtCommit::Clear);
        let answered = Note { answered: true, ..over_a(Some('b')) };
        assert_eq!(judged(true, Some(1), answered), AtCommit::Clear, "it can't be applied any more");
    }

    #[test]
    fn no_write_brings_back_what_a_request_expects() {
        let sends = |note: &Noted, brings: Brings<char>| {
            may_send(Rules::SOUND, &brings, std::slice::from_ref(note), |etag, content| {
                (*etag, *content) == (3, 'c')
            })
        };
        let note = over_a(Some('b'));
        assert!(!sends(&note, Brings::Content('a')), "trace C13");
        assert!(sends(&note, Brings::Content('b')));
        assert!(sends(&note, Brings::Absence));
        assert!(!sends(&note, Brings::Unknown), "trace C15");
        assert!(!sends(&CREATES, Brings::Absence), "trace C14");
        assert!(sends(&CREATES, Brings::Content('b')) && sends(&CREATES, Brings::Unknown));
        // Of a state of which only the ETag is known, that says which content has it.
        let by_etag = Note { expects: Some(State { etag: 3, content: None }), ..note.clone() };
        assert!(!sends(&by_etag, Brings::Content('c')) && sends(&by_etag, Brings::Content('a')));
        assert!(sends(&Note { answered: true, ..note }, Brings::Content('a')));
    }

    #[test]
    fn a_blob_is_ours_where_the_anchor_a_note_or_an_intent_names_it() {
        let note = [Note { answered: true, ..over_a(Some('b')) }];
        let whose =
            |etag: u32, content: char, by_intent| whose((&etag, &content), Some(&'x'), &note, by_intent);
        assert_eq!(whose(9, 'x', false), Content::Same);
        assert_eq!(whose(9, 'b', false), Content::Ours, "what it left");
        assert_eq!(whose(1, 'y', false), Content::Ours, "what it found, by its ETag");
        assert_eq!(whose(9, 'a', false), Content::Ours, "and by its content");
        assert_eq!(whose(9, 'z', false), Content::Other);
        assert_eq!(whose(9, 'z', true), Content::Ours);
    }
}
