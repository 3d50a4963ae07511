//! Phases, read mode and authority: which store answers reads, which one is right.

use serde::{Deserialize, Serialize};

/// Where a migration stands. Forward is one step at a time; back is allowed until `Final`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Phase {
    /// Reads from Blob; writes are mirrored into DynamoDB.
    Capture,
    /// Reads from Blob, compared with DynamoDB.
    Shadow,
    /// A share of the reads from DynamoDB.
    Canary,
    /// Reads from DynamoDB, which is the authority; writes are mirrored into Blob.
    Cutover,
    /// Reads from DynamoDB; nothing is mirrored any more.
    Final,
}

/// The store that is right where the two differ.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Authority {
    /// Vercel Blob.
    Source,
    /// DynamoDB.
    Target,
}

impl Authority {
    /// Its name in `--output json` and for hooks.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Source => "source",
            Self::Target => "target",
        }
    }
}

impl Phase {
    /// The store that is right in this phase.
    #[must_use]
    pub const fn authority(self) -> Authority {
        match self {
            Self::Capture | Self::Shadow | Self::Canary => Authority::Source,
            Self::Cutover | Self::Final => Authority::Target,
        }
    }

    /// The phase that the next step forward leads to.
    #[must_use]
    pub const fn forward(self) -> Option<Self> {
        match self {
            Self::Capture => Some(Self::Shadow),
            Self::Shadow => Some(Self::Canary),
            Self::Canary => Some(Self::Cutover),
            Self::Cutover => Some(Self::Final),
            Self::Final => None,
        }
    }

    /// The phase that the step back leads to.
    #[must_use]
    pub const fn back(self) -> Option<Self> {
        match self {
            Self::Shadow => Some(Self::Capture),
            // From a cutover, evidence starts anew.
            Self::Canary | Self::Cutover => Some(Self::Shadow),
            Self::Capture | Self::Final => None,
        }
    }

    /// Whether there is a step from this phase to that one.
    #[must_use]
    pub const fn allows(self, target: Self) -> bool {
        matches!(
            (self, target),
            (Self::Capture, Self::Shadow)
                | (Self::Shadow, Self::Canary | Self::Capture)
                // To itself: with another share of the keys.
                | (Self::Canary, Self::Canary | Self::Cutover | Self::Shadow)
                | (Self::Cutover, Self::Shadow | Self::Final)
        )
    }

    /// Whether the step to that phase makes the other store right. Only such a step holds writes, and has an
    /// epoch of its own.
    #[must_use]
    pub fn changes_authority(self, target: Self) -> bool {
        self.authority() != target.authority()
    }

    /// Its name in the mode item, in the plan and on the command line.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Capture => "capture",
            Self::Shadow => "shadow",
            Self::Canary => "canary",
            Self::Cutover => "cutover",
            Self::Final => "final",
        }
    }
}

impl std::fmt::Display for Phase {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.as_str())
    }
}

/// The number of the present authority: one more with every change of it, never less. Evidence belongs to one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Epoch(pub u64);

impl Epoch {
    /// The epoch after this one.
    #[must_use]
    pub const fn next(self) -> Self {
        Self(self.0 + 1)
    }
}

impl std::fmt::Display for Epoch {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}", self.0)
    }
}
