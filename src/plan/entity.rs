//! What a plan says of one kind of blobs. Field names are keys, as in [`super::Plan`].

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// `[[entity]]`: blobs of one kind, and the items they become.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EntityPlan {
    /// Its name.
    pub name: String,
    /// A pathname pattern: `{name}` captures within one segment, `*` matches within one, `**` across segments.
    pub blobs: String,
    /// How the body is read.
    #[serde(default)]
    pub decode: Decode,
    /// What to do when an object holds the same name twice.
    #[serde(default)]
    pub duplicates: Duplicates,
    /// What to do when the TTL has passed already.
    #[serde(default)]
    pub past_ttl: PastTtl,
    /// What to do with a number that DynamoDB can't hold.
    #[serde(default, skip_serializing_if = "Numbers::is_default")]
    pub numbers: Numbers,
    /// What to do with fields that are empty text.
    #[serde(default, skip_serializing_if = "EmptyStrings::is_default")]
    pub empty_strings: EmptyStrings,
    /// What to do with a record that is too large for one item.
    #[serde(default, skip_serializing_if = "TooLarge::is_default")]
    pub too_large: TooLarge,
    /// Whether the application writes its items in DynamoDB too, past the gateway, once DynamoDB is the authority.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub direct_writes: bool,
    /// A template of an item's attributes: the pathname of an item that came from no blob.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pathname: Option<String>,
    /// Whether the blob of an item goes with it where its TTL has passed, once DynamoDB is the authority.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub mirror_expiry: bool,
    /// The items that one blob becomes.
    #[serde(rename = "item")]
    pub items: Vec<ItemPlan>,
}

/// How a body is read.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Decode {
    /// One JSON document.
    #[default]
    Json,
    /// One JSON document a line; the list of them is the document.
    Ndjson,
    /// FUSE's encrypted envelope (AES-256-GCM); the document inside.
    FuseEnvelope,
    /// One JSON document, or an envelope: by what it looks like.
    Auto,
    /// Bytes that are not read, for one binary attribute.
    Raw,
}

/// What to do when an object holds the same name twice.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Duplicates {
    /// The blob is quarantined.
    #[default]
    Quarantine,
    /// The last one counts, as in most JSON parsers.
    Last,
}

/// What to do when an item's TTL has passed already.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum PastTtl {
    /// The blob is quarantined.
    #[default]
    Quarantine,
    /// The item is written, and DynamoDB will delete it.
    Write,
}

/// What to do with a number that DynamoDB can't hold: more than 38 digits, or outside 1e-130 to 9.99…e125.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Numbers {
    /// The blob is quarantined.
    #[default]
    Quarantine,
    /// It is kept as text, and `_numbers` says where.
    Text,
}

/// What to do with fields that are empty text, where the record's fields are attributes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum EmptyStrings {
    /// They are attributes of empty text.
    #[default]
    Keep,
    /// They are left out, and `_empty` names them.
    Omit,
}

/// What to do with a record that is too large for one item.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum TooLarge {
    /// The blob is quarantined.
    #[default]
    Quarantine,
    /// The record is compressed in the attribute `_body`.
    Compress,
    /// The record is in numbered items beside its own.
    Split,
}

/// The attributes in which policies leave a mark.
pub mod mark {
    /// A list of JSON pointers (RFC 6901) into the record: texts that are numbers.
    pub const NUMBERS: &str = "_numbers";
    /// A list of names: fields of the record that are empty text.
    pub const EMPTY: &str = "_empty";
    /// How the record is in [`BODY`], of an item that would be too large.
    pub const ENCODING: &str = "_encoding";
    /// The record, or a part of it.
    pub const BODY: &str = "_body";
    /// How many parts the record has; they are items of their own.
    pub const PARTS: &str = "_parts";
    /// Which part this is, from 1.
    pub const PART: &str = "_part";
}

impl EntityPlan {
    /// The attributes in which its policies leave a mark, and which no record may have of its own.
    pub fn marks(&self) -> impl Iterator<Item = &'static str> + use<> {
        let numbers: &[&str] = if self.numbers == Numbers::Text { &[mark::NUMBERS] } else { &[] };
        let empty: &[&str] = if self.empty_strings == EmptyStrings::Omit { &[mark::EMPTY] } else { &[] };
        let large: &[&str] = match self.too_large {
            TooLarge::Quarantine => &[],
            TooLarge::Compress | TooLarge::Split => &[mark::ENCODING, mark::BODY, mark::PARTS, mark::PART],
        };
        numbers.iter().chain(empty).chain(large).copied()
    }
}

impl Numbers {
    fn is_default(&self) -> bool {
        *self == Self::default()
    }
}

impl EmptyStrings {
    fn is_default(&self) -> bool {
        *self == Self::default()
    }
}

impl TooLarge {
    fn is_default(&self) -> bool {
        *self == Self::default()
    }
}

/// `[[entity.item]]`: one item that a blob becomes.
///
/// Keys that are not named here are attributes with templates as values; among them must be the table's
/// partition key and sort key, and may be an index's.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ItemPlan {
    /// Where its records are in the document, for several items from one blob: names and `[*]`, as
    /// `records[*]`. The document itself is the record where absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub each: Option<String>,
    /// A template: blobs of one group become one item, the newest one's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub group_by: Option<String>,
    /// An expression: only where it is true is there an item.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub when: Option<String>,
    /// Where the record's own fields go.
    #[serde(default)]
    pub body: BodyPlacement,
    /// Attribute name → template.
    #[serde(flatten)]
    pub attributes: BTreeMap<String, String>,
}

/// Where the fields of a record go in its item: `attributes`, `none` or `nested:NAME`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum BodyPlacement {
    /// Each field is an attribute; a clash with a planned attribute is a quarantine.
    #[default]
    Attributes,
    /// All fields are in one attribute of this name.
    Nested(String),
    /// They are not stored in the item.
    None,
}

impl TryFrom<String> for BodyPlacement {
    type Error = String;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        match (text.as_str(), text.strip_prefix("nested:")) {
            ("attributes", _) => Ok(Self::Attributes),
            ("none", _) => Ok(Self::None),
            (_, Some(name)) if !name.is_empty() => Ok(Self::Nested(name.to_owned())),
            _ => Err(format!("`{text}` is not one of `attributes`, `none`, `nested:NAME`")),
        }
    }
}

impl From<BodyPlacement> for String {
    fn from(placement: BodyPlacement) -> Self {
        match placement {
            BodyPlacement::Attributes => "attributes".to_owned(),
            BodyPlacement::None => "none".to_owned(),
            BodyPlacement::Nested(name) => format!("nested:{name}"),
        }
    }
}
