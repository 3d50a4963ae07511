//! The decisions of the protocol, as pure functions: from what was seen to what to do next.
//!
//! Nothing in here does I/O, reads a clock or draws a random number. The async code (`converge`,
//! `backfill`, `sweep`, `cutover`) drives these functions against the stores, and the model checker
//! (`examples/model`) drives the same functions through every interleaving.
//!
//! Read next: [`converge`] for the one operation, [`group`] for blobs that share an item, [`intent`] for when
//! a write is over, [`phase`] for the read mode, [`gateway`] for what a gateway lets through, [`canary`] for what
//! is read from the candidate, [`shadow`] for what was read and is compared, [`flip`] for a change of authority,
//! [`direct`] for items that the application writes itself.

pub mod canary;
pub mod converge;
pub mod direct;
pub mod flip;
pub mod gateway;
pub mod group;
pub mod intent;
pub mod note;
pub mod phase;
pub mod reverse;
pub mod session;
pub mod shadow;

use serde::{Deserialize, Serialize};

/// The rules that make the protocol sound. They are values so that the model checker can take one out
/// and show what goes wrong; production code has only [`Rules::SOUND`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Rules {
    /// The mirror is read before the authority. Without it, a slow reader's compare-and-set compares
    /// nothing (trace A5).
    pub mirror_first: bool,
    /// A converge on behalf of an intent renews the rev even where both sides are equal. Without it,
    /// an older request that is still in flight finds the rev it expects (trace A6).
    pub renew_on_intent: bool,
    /// A deletion leaves an anchor with a rev of its own. Without it, absence repeats (trace A7).
    pub tombstones: bool,
    /// Each part of a large change is conditioned on the rev of the pending anchor. Without it, a part
    /// that lands late undoes what was written since.
    pub checked_parts: bool,
    /// A transaction that changes a group's members is conditioned on the group's rev. Without it, two
    /// members that change at once both believe that they know the others.
    pub group_rev: bool,
    /// The members of a group are read after its rev. Without it, the rev speaks of other members than
    /// those that were seen.
    pub members_under_rev: bool,
    /// A member whose anchor does not say what its row says is made from the source's body, if that is
    /// what its row speaks of. Without it, a member whose large change is under way is passed over, and
    /// nobody comes back to it.
    pub fetch_pending: bool,
    /// What was put into Blob counts only once the anchor that it was made from was written anew under its
    /// rev. Without it, a slow put undoes a newer one (trace B13).
    pub second_look: bool,
    /// A request to Blob is noted, with its condition, before it is sent. Without it, the way back does not know what
    /// may land after it (trace C8).
    pub note_first: bool,
    /// The note of a request stays until the anchor is stored that says what Blob holds since. Without it, whoever is
    /// killed in between leaves in Blob what nothing names (trace C1).
    pub note_until_recorded: bool,
    /// Whether a request may be sent is looked at once it was noted, right before it is sent. Without it, a process
    /// that sleeps between the two sends what the way back does not know of (traces C2, C9).
    pub permit_last: bool,
    /// A note that got no answer is nobody's to take back before its request can't be applied any more, whatever Blob
    /// holds meanwhile: another request may have left the same (trace C18).
    pub doubt_lasts: bool,
    /// Where the anchor does not say what Blob holds, Blob is asked again after the anchor was read. Without it, an
    /// ETag is recorded that Blob does not hold any more (traces C4, C5).
    pub confirm_before_record: bool,
    /// A pending anchor says of Blob what the final one is to say, and whoever stores the final one says so too.
    /// Without it, what Blob holds is foreign once somebody else ends a large deletion (V2).
    pub pending_carries: bool,
    /// While Blob is the authority and a request of the mirror may land yet, no write is sent that would bring back
    /// what that request expects (traces C13 to C15).
    pub nothing_brought_back: bool,
}

impl Rules {
    /// All rules: what production runs.
    pub const SOUND: Self = Self {
        mirror_first: true,
        renew_on_intent: true,
        tombstones: true,
        checked_parts: true,
        group_rev: true,
        members_under_rev: true,
        fetch_pending: true,
        second_look: true,
        note_first: true,
        note_until_recorded: true,
        permit_last: true,
        doubt_lasts: true,
        confirm_before_record: true,
        pending_carries: true,
        nothing_brought_back: true,
    };
}

/// The revision of an anchor: unique for every write, never repeated. 32 hexadecimal digits.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Rev(String);

impl Rev {
    /// A rev that was drawn or read; see [`crate::converge`] for where they are drawn.
    #[must_use]
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    /// The text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl std::fmt::Display for Rev {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}
