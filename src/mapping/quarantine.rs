//! Why a blob can't become items.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::records::Place;

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

impl Quarantine {
    pub(super) fn new(reason: Reason, detail: impl Into<String>) -> Self {
        Self { reason, detail: detail.into(), offset: None }
    }

    /// The same, with the record that it is about.
    pub(super) fn of_record(mut self, place: &Place) -> Self {
        if !place.is_root() {
            self.detail = format!("`{place}`: {}", self.detail);
        }
        self
    }

    /// The same, with a field of the record that it is about. Only a name that looks like part of a schema
    /// is repeated: others may be somebody's data.
    pub(super) fn of_field(mut self, place: &Place, name: &str) -> Self {
        let is_plain = (1..=64).contains(&name.len())
            && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_' || byte == b'-');
        if !is_plain {
            return self.of_record(place);
        }
        let dot = if place.is_root() { "" } else { "." };
        let place = if place.is_root() { String::new() } else { place.to_string() };
        self.detail = format!("`{place}{dot}{name}`: {}", self.detail);
        self
    }
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
    /// Compressed, and cut off, damaged or too large.
    Gzip,
    /// Encrypted, and it can't be opened.
    Decrypt,
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
    /// A template or a condition failed.
    Template,
    /// Two items of one blob have the same key.
    DuplicateKey,
    /// The document has another shape than the plan says, such as a list where an object is needed.
    Shape,
    /// No item's condition holds, so that nothing of the blob would be stored.
    NoItem,
    /// Too much of a long document is in no item.
    Remainder,
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.serialize(f)
    }
}
