//! What a look at a blob beside its anchor came to. [`Anchored::judge`](super::Anchored::judge) looks.

use jiff::Timestamp;

use crate::blob::ListedBlob;
use crate::target::control::Anchor;

/// How Blob stands to an anchor.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Judged {
    /// It is equal.
    Equal,
    /// It lacks the blob.
    Missing,
    /// It has a blob that was deleted.
    Extra,
    /// It has an older version.
    Stale,
    /// It has what this migration did not write.
    Foreign,
    /// It did not hold still.
    Moving,
}

/// What a look at a blob came to.
#[derive(Debug, Clone)]
pub struct Verdict {
    /// How Blob stands to the anchor.
    pub judged: Judged,
    /// What Blob holds.
    pub blob: Option<ListedBlob>,
    /// The anchor.
    pub anchor: Option<Anchor>,
    /// Why what Blob holds is known to be ours, where it is `Stale` or `Extra`.
    pub explained: Option<Explained>,
}

/// What says that a blob is a version of ours, though the anchor is of another one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Explained {
    /// The anchor: it is what Blob held when both were equal last.
    Anchor,
    /// A request of the mirror, which was noted then.
    Note(Timestamp),
    /// A write through a gateway, which was noted then.
    Intent(Timestamp),
}

impl std::fmt::Display for Explained {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Anchor => f.write_str("its anchor names it as what Blob held before"),
            Self::Note(at) => write!(f, "a request of the mirror, noted at {at:.0}, names it"),
            Self::Intent(at) => write!(f, "a write through a gateway, noted at {at:.0}, names it"),
        }
    }
}
