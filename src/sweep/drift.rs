//! Where the two stores differ.

use serde::Serialize;

use crate::anchored::Newer;
use crate::blob::Pathname;
use crate::value::Key;

/// The kinds of drift.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum DriftKind {
    /// The source holds it, the mirror does not.
    Missing,
    /// The mirror holds it, the source does not.
    Extra,
    /// The mirror holds another version of it.
    Stale,
    /// The versions agree, the contents do not.
    Different,
    /// An item of ours that its anchor does not name, or names under another rev.
    Orphan,
    /// An item that a blob maps to belongs to somebody else.
    Collision,
    /// While DynamoDB is the authority: Blob has what this migration did not write.
    Foreign,
    /// A blob that can't be mapped, and is not accepted as such.
    Unmappable,
    /// It did not hold still, or could not be read.
    Unverified,
}

impl DriftKind {
    /// Its name in reports.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Missing => "missing",
            Self::Extra => "extra",
            Self::Stale => "stale",
            Self::Different => "different",
            Self::Orphan => "orphan",
            Self::Collision => "collision",
            Self::Foreign => "foreign",
            Self::Unmappable => "unmappable",
            Self::Unverified => "unverified",
        }
    }

    /// Whether converging the pathname once more can settle it.
    #[must_use]
    pub const fn repairable(self) -> bool {
        match self {
            Self::Missing | Self::Extra | Self::Stale | Self::Different | Self::Orphan => true,
            Self::Collision | Self::Foreign | Self::Unmappable | Self::Unverified => false,
        }
    }

    /// What settles it where a repair does not.
    #[must_use]
    pub const fn remedy(self) -> &'static str {
        match self {
            Self::Missing | Self::Extra | Self::Stale | Self::Different | Self::Orphan => {
                "`migrate validate --repair` makes the mirror equal to the store that is right"
            }
            Self::Collision => {
                "another writer owns the item: change the entity's key, or remove that item by hand"
            }
            Self::Foreign => {
                "`--adopt` takes the blob over into DynamoDB, `--discard` puts back what DynamoDB holds; each saves what \
                 it replaces to a file. Of the commands beside each blob the first keeps what is newer"
            }
            Self::Unmappable => {
                "correct the blob or the entity's rules, or list it under [[accept]] with a reason"
            }
            Self::Unverified => "run `migrate validate` again when the key is quiet",
        }
    }
}

impl std::fmt::Display for DriftKind {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.as_str())
    }
}

/// One difference between the two stores.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Drift {
    /// Of which kind.
    pub kind: DriftKind,
    /// Of which blob.
    pub pathname: Pathname,
    /// Of which item, where it is about one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub key: Option<Key>,
    /// The version in the source: ETag and time.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub source: Option<String>,
    /// The version in the mirror: ETag, time and rev.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub target: Option<String>,
    /// In words.
    pub detail: String,
    /// Lines that differ: `-` expected from the source, `+` found in the target.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub diff: Option<String>,
    /// Which of the two is newer, where it is foreign.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub newer: Option<Newer>,
    /// The commands that settle it, where each blob has its own; the first loses nothing.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub settle: Vec<String>,
}
