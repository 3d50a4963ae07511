//! One blob of a snapshot, explained.

use jiff::Timestamp;
use serde::Serialize;

use super::run::{Check, OPERATION};
use crate::blob::Pathname;
use crate::blob::spool::unwritten;
use crate::error::{Error, ErrorKind, Exit, Result};
use crate::mapping::{BlobFacts, Explained, Rule};
use crate::snapshot::Snapshot;

/// What becomes of one blob, and why.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Explanation {
    /// Its name.
    pub pathname: Pathname,
    /// When it was stored.
    pub uploaded_at: Timestamp,
    /// Its length in bytes.
    pub size: u64,
    /// What the plan does with it.
    #[serde(flatten)]
    pub ruling: Ruling,
}

/// What the plan does with a blob.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(tag = "rule", rename_all = "kebab-case")]
pub enum Ruling {
    /// An entity takes it.
    Entity(Explained),
    /// An entity takes it, and its body is not in the snapshot.
    Unread,
    /// An ignore rule names it.
    Ignored {
        /// The pattern.
        blobs: String,
        /// Why, in the plan's words.
        reason: String,
    },
    /// An accept rule names it.
    Accepted {
        /// The pattern.
        blobs: String,
        /// Why, in the plan's words.
        reason: String,
    },
    /// No rule names it.
    Unmatched,
    /// Several rules name it.
    Ambiguous {
        /// Which.
        rules: Vec<String>,
    },
}

impl Explanation {
    /// The exit code of a command that ends with this.
    #[must_use]
    pub const fn exit(&self) -> Exit {
        match &self.ruling {
            Ruling::Entity(explained) if explained.quarantine.is_none() => Exit::Done,
            Ruling::Ignored { .. } | Ruling::Accepted { .. } => Exit::Done,
            Ruling::Entity(_) | Ruling::Unread | Ruling::Unmatched | Ruling::Ambiguous { .. } => {
                Exit::SomeKeysFailed
            }
        }
    }
}

impl Check {
    /// What becomes of one blob, step by step.
    ///
    /// # Errors
    /// `Usage` where the snapshot has no such blob, or is another store's; `Corrupt` for a damaged one.
    pub async fn explain(&self, snapshot: &Snapshot, pathname: &Pathname) -> Result<Explanation> {
        self.is_ours(snapshot)?;
        let blob = snapshot.blob(pathname).await?.ok_or_else(|| {
            Error::new(ErrorKind::Usage, OPERATION)
                .key(pathname)
                .message("the snapshot has no blob of this name")
                .hint("names are compared byte by byte; `migrate export` brings the snapshot up to date")
        })?;
        let ruling = match self.mapper.rule(pathname) {
            Rule::Entity(entity) => match snapshot.body(pathname, &blob.version.etag).await? {
                Some(body) if body.is_long() => {
                    return Err(Error::new(ErrorKind::Usage, OPERATION)
                        .key(pathname)
                        .message(format!("its {} bytes are too many to be explained", body.length()))
                        .hint("explain a blob of the same form with a few records"));
                }
                Some(body) => {
                    let body = body.bytes().map_err(unwritten)?;
                    let facts = BlobFacts { pathname, uploaded_at: blob.version.uploaded_at };
                    Ruling::Entity(self.mapper.explain(entity, facts, &body, self.clock.now()))
                }
                None => Ruling::Unread,
            },
            Rule::Ignored { blobs, reason } => {
                Ruling::Ignored { blobs: blobs.to_owned(), reason: reason.to_owned() }
            }
            Rule::Accepted { blobs, reason } => {
                Ruling::Accepted { blobs: blobs.to_owned(), reason: reason.to_owned() }
            }
            Rule::Unmatched => Ruling::Unmatched,
            Rule::Ambiguous(rules) => Ruling::Ambiguous { rules },
        };
        Ok(Explanation {
            pathname: pathname.clone(),
            uploaded_at: blob.version.uploaded_at,
            size: blob.size,
            ruling,
        })
    }
}
