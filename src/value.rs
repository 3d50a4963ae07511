//! DynamoDB's values as this program holds them: attribute values, items, keys, and numbers as decimals.

mod number;
mod size;

use std::collections::BTreeMap;

use bytes::Bytes;

use crate::legible::legible;

pub use number::{Number, NumberError};
pub use size::{ITEM_BYTES_MAX, item_bytes, value_bytes};

/// An attribute value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Value {
    /// A string.
    S(String),
    /// A number, compared as a decimal.
    N(Number),
    /// Bytes.
    B(Bytes),
    /// A truth value.
    Bool(bool),
    /// JSON's null.
    Null,
    /// A list.
    L(Vec<Value>),
    /// A map.
    M(BTreeMap<String, Value>),
    /// A set of strings, sorted. This program writes none; others may.
    Ss(Vec<String>),
    /// A set of numbers, sorted.
    Ns(Vec<Number>),
    /// A set of byte strings, sorted.
    Bs(Vec<Bytes>),
}

impl Value {
    /// A string value.
    pub fn s(text: impl Into<String>) -> Self {
        Self::S(text.into())
    }

    /// A whole number.
    pub fn n(number: impl Into<i128>) -> Self {
        Self::N(Number::from(number.into()))
    }

    /// The text of a string value.
    #[must_use]
    pub fn as_s(&self) -> Option<&str> {
        if let Self::S(text) = self { Some(text) } else { None }
    }

    /// The number of a number value.
    #[must_use]
    pub fn as_n(&self) -> Option<&Number> {
        if let Self::N(number) = self { Some(number) } else { None }
    }

    /// The bytes of a binary value.
    #[must_use]
    pub fn as_b(&self) -> Option<&Bytes> {
        if let Self::B(bytes) = self { Some(bytes) } else { None }
    }

    /// The map of a map value.
    #[must_use]
    pub fn as_m(&self) -> Option<&BTreeMap<String, Value>> {
        if let Self::M(map) = self { Some(map) } else { None }
    }

    /// The list of a list value.
    #[must_use]
    pub fn as_l(&self) -> Option<&[Value]> {
        if let Self::L(list) = self { Some(list) } else { None }
    }
}

/// An item: attributes by name.
pub type Item = BTreeMap<String, Value>;

/// The primary key of an item. Both parts are strings.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize)]
pub struct Key {
    /// The partition key.
    pub partition: String,
    /// The sort key.
    pub sort: String,
}

impl Key {
    /// A key of two parts.
    pub fn new(partition: impl Into<String>, sort: impl Into<String>) -> Self {
        Self { partition: partition.into(), sort: sort.into() }
    }

    /// The key of an item, whose attributes of these names are its parts. What is no text counts as empty.
    #[must_use]
    pub fn of(item: &Item, (partition, sort): (&str, &str)) -> Self {
        let text = |name: &str| item.get(name).and_then(Value::as_s).unwrap_or_default();
        Self::new(text(partition), text(sort))
    }
}

/// For people: what is no visible text is escaped.
impl std::fmt::Display for Key {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} / {}", legible(&self.partition), legible(&self.sort))
    }
}
