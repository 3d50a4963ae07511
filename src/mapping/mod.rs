//! From a blob to the items it becomes, and back.
//!
//! [`Mapper`] is a plan's entities, compiled. It is pure: bytes and a head in, items or a
//! [`Quarantine`] out, the same for the same input, always. Nothing is coerced, truncated or skipped:
//! what cannot be held as it is, is quarantined with a reason and, where there is one, an offset.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::blob::Pathname;
use crate::digest::Digest;
use crate::error::Result;
use crate::plan::Plan;
use crate::value::{Item, Key};

/// What the plan says of a pathname.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Rule<'a> {
    /// It becomes items of this entity.
    Entity(EntityId),
    /// It is listed and left alone.
    Ignored {
        /// The pattern that matched.
        blobs: &'a str,
        /// Why, in the plan's words.
        reason: &'a str,
    },
    /// It is known to be unmappable, counted, and stays in Blob. An accept rule goes before an entity's.
    Accepted {
        /// The pattern that matched.
        blobs: &'a str,
        /// Why, in the plan's words.
        reason: &'a str,
    },
    /// No rule matches.
    Unmatched,
    /// Several rules match, which the plan must settle.
    Ambiguous(Vec<String>),
}

/// An entity of the plan, by its place in it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct EntityId(pub usize);

/// One item that a blob becomes. `_source` is not part of it: the caller adds that.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MappedItem {
    /// Where it goes.
    pub key: Key,
    /// All of its attributes, the keys included.
    pub item: Item,
}

/// Why a blob can't become items.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Quarantine {
    /// The kind of reason, for counting.
    pub reason: Reason,
    /// In words: what, where in the document.
    pub detail: String,
    /// The byte of the body at which it was found.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub offset: Option<u64>,
}

impl fmt::Display for Quarantine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.reason, self.detail)?;
        if let Some(offset) = self.offset {
            write!(f, " (byte {offset})")?;
        }
        Ok(())
    }
}

/// The kinds of reasons for a quarantine.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Reason {
    /// Not JSON, or not UTF-8.
    NotJson,
    /// A number that DynamoDB can't hold.
    Number,
    /// The item would be larger than DynamoDB's limit.
    ItemTooLarge,
    /// A table key that is missing, null, empty, not text or too long.
    Key,
    /// An index key that is too long.
    IndexKey,
    /// The same name twice in one object.
    DuplicateName,
    /// Nested too deeply.
    Depth,
    /// An empty attribute name.
    AttributeName,
    /// A field of the record has the name of an attribute that the plan sets.
    NameClash,
    /// The TTL has passed already, is in milliseconds, or is not a number.
    Ttl,
    /// A template failed.
    Template,
    /// Two items of one blob have the same key.
    DuplicateKey,
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.serialize(f)
    }
}

/// What the mapping needs of a blob besides its bytes.
#[derive(Debug, Clone, Copy)]
pub struct BlobFacts<'a> {
    /// Its name.
    pub pathname: &'a Pathname,
    /// When it was stored; templates may use it as `uploadedAt`.
    pub uploaded_at: jiff::Timestamp,
}

/// A plan's entities, compiled. Cheap to share (`Arc`), safe to use from many threads.
#[derive(Debug)]
pub struct Mapper;

impl Mapper {
    /// Compiles a plan's patterns and templates.
    ///
    /// # Errors
    /// `Usage`, naming entity and key, for a pattern or template that can't be compiled.
    pub fn new(plan: &Plan) -> Result<Self> {
        let _plan = plan;
        Ok(Self)
    }

    /// What the plan says of a pathname.
    #[must_use]
    pub fn rule(&self, _pathname: &Pathname) -> Rule<'_> {
        Rule::Unmatched
    }

    /// The digest of an entity's rules: a blob mapped under another one must be mapped again.
    #[must_use]
    pub fn digest(&self, _entity: EntityId) -> Digest {
        Digest::of("")
    }

    /// The items that a blob of this entity becomes. `now` decides what a passed TTL is.
    ///
    /// # Errors
    /// The quarantine, where it can't become items.
    pub fn map(
        &self,
        _entity: EntityId,
        _blob: BlobFacts<'_>,
        _body: &[u8],
        _now: jiff::Timestamp,
    ) -> Result<Vec<MappedItem>, Quarantine> {
        Ok(Vec::new())
    }
}
