//! What makes the mirror of a pathname equal, whichever store is the mirror.

use std::sync::Arc;

use crate::anchored::Anchored;
use crate::blob::{ETag, Pathname, Spooled};
use crate::clock::Clock;
use crate::converge::{Converged, Converger, Permit};
use crate::error::Result;
use crate::protocol::converge::{Done, Purpose};
use crate::protocol::phase::Authority;
use crate::protocol::reverse::Ending;
use crate::target::control::Control;

/// One direction of mirroring.
#[derive(Debug, Clone)]
pub enum Mirroring {
    /// From Blob to DynamoDB.
    ToTarget(Converger),
    /// From DynamoDB to Blob.
    ToSource(Anchored),
}

impl Mirroring {
    /// The direction away from an authority, under a permit.
    #[must_use]
    pub fn from(authority: Authority, converger: &Converger, permit: Arc<dyn Permit>, prefix: &str) -> Self {
        let converger = Converger { permit, ..converger.clone() };
        match authority {
            Authority::Source => Self::ToTarget(converger),
            Authority::Target => Self::ToSource(Anchored::new(converger, prefix)),
        }
    }

    /// Both stores.
    #[must_use]
    pub const fn converger(&self) -> &Converger {
        match self {
            Self::ToTarget(converger) => converger,
            Self::ToSource(anchored) => anchored.converger(),
        }
    }

    /// The control table.
    #[must_use]
    pub const fn control(&self) -> &Control {
        &self.converger().control
    }

    /// The clocks.
    #[must_use]
    pub fn clock(&self) -> &Arc<dyn Clock> {
        self.converger().clock()
    }

    /// Makes the mirror equal on behalf of an intent; says what that means for it. `offered` is a body that may be
    /// the one to be put into Blob.
    pub async fn settle(&self, pathname: &Pathname, offered: Option<&Spooled>) -> Done {
        match self {
            Self::ToTarget(converger) => {
                done_of(pathname, converger.converge(pathname, Purpose::Intent).await)
            }
            Self::ToSource(anchored) => {
                back_of(pathname, anchored.settle(pathname, Purpose::Intent, offered).await)
            }
        }
    }
}

/// How a converge ended, as far as its intent is concerned. Where an item belongs to somebody else nothing
/// was written, not even a new rev: the intent stays.
fn done_of(pathname: &Pathname, converged: Result<Converged>) -> Done {
    match converged {
        Ok(Converged::Equal) => Done::Equal,
        Ok(Converged::Written | Converged::Superseded | Converged::Quarantined) => Done::Written,
        Ok(Converged::Collision { key, .. }) => {
            tracing::warn!(%pathname, %key, "an item belongs to somebody else; nothing is mirrored");
            Done::GaveUp
        }
        Ok(Converged::GaveUp) => Done::GaveUp,
        Err(error) => {
            tracing::debug!(%pathname, %error, "a converge failed; its intent stays");
            Done::GaveUp
        }
    }
}

/// The same towards Blob. What is foreign there is kept and found by sweeps; no intent changes that. What got no answer
/// has its note.
fn back_of(pathname: &Pathname, settled: Result<Ending<ETag>>) -> Done {
    match settled {
        Ok(Ending::Equal) => Done::Equal,
        Ok(Ending::Written) => Done::Written,
        Ok(Ending::Foreign { etag }) => {
            tracing::warn!(%pathname, %etag, "Blob holds what this migration did not write; it is kept. `migrate validate` says which version is newer");
            Done::Written
        }
        Ok(Ending::GaveUp) => Done::GaveUp,
        Err(error) => {
            tracing::debug!(%pathname, %error, "Blob could not be made equal; its intent stays");
            Done::GaveUp
        }
    }
}
