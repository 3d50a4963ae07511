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
