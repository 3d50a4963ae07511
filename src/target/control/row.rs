//! Rows to items and back: a serde structure becomes attributes, with `pk`, `sk` and `format` added.

use serde::Serialize;
use serde::de::DeserializeOwned;

use super::corrupt;
use crate::error::{Error, ErrorKind, Result};
use crate::target::store::{CONTROL_PARTITION_KEY, CONTROL_SORT_KEY};
use crate::value::{Item, Key, Value};

/// The format of the rows. A row with a higher one was written by a newer program.
const FORMAT: i64 = 1;

/// A row as an item.
pub(super) fn encode<T: Serialize>(key: &Key, row: &T) -> Item {
    let json = serde_json::to_value(row).expect("invariant: rows are plain structures");
    let Value::M(mut item) = from_json(json) else { unreachable!("invariant: rows are structures") };
    item.insert(CONTROL_PARTITION_KEY.to_owned(), Value::s(key.partition.as_str()));
    item.insert(CONTROL_SORT_KEY.to_owned(), Value::s(key.sort.as_str()));
    item.insert("format".to_owned(), Value::n(FORMAT));
    item
}

/// The key of a row.
pub(super) fn key(item: &Item) -> Key {
    Key::of(item, (CONTROL_PARTITION_KEY, CONTROL_SORT_KEY))
}

/// An item as a row.
pub(super) fn decode<T: DeserializeOwned>(item: Item) -> Result<T> {
    let key = key(&item);
    match item.get("format").and_then(Value::as_n).and_then(|number| number.as_i64()) {
        Some(FORMAT) => {}
        Some(newer) if newer > FORMAT => {
            return Err(Error::new(ErrorKind::Usage, "read a row of the control table")
                .key(&key)
                .message(format!("it has format {newer}, this program knows {FORMAT}"))
                .hint("a newer `migrate` works on this table: use that one"));
        }
        _ => return Err(corrupt(&key, "it has no valid `format`")),
    }
    let json = to_json(Value::M(item)).ok_or_else(|| corrupt(&key, "it holds binary data or sets"))?;
    serde_json::from_value(json).map_err(|error| corrupt(&key, error))
}

fn from_json(json: serde_json::Value) -> Value {
    match json {
        serde_json::Value::Null => Value::Null,
        serde_json::Value::Bool(truth) => Value::Bool(truth),
        serde_json::Value::Number(number) => {
            Value::N(number.to_string().parse().expect("invariant: rows hold whole numbers"))
        }
        serde_json::Value::String(text) => Value::S(text),
        serde_json::Value::Array(list) => Value::L(list.into_iter().map(from_json).collect()),
        serde_json::Value::Object(map) => {
            Value::M(map.into_iter().map(|(name, value)| (name, from_json(value))).collect())
        }
    }
}

fn to_json(value: Value) -> Option<serde_json::Value> {
    Some(match value {
        Value::Null => serde_json::Value::Null,
        Value::Bool(truth) => truth.into(),
        Value::N(number) => serde_json::from_str(number.as_str()).ok()?,
        Value::S(text) => text.into(),
        Value::L(list) => list.into_iter().map(to_json).collect::<Option<Vec<_>>>()?.into(),
        Value::M(map) => serde_json::Value::Object(
            map.into_iter().map(|(name, value)| Some((name, to_json(value)?))).collect::<Option<_>>()?,
        ),
        Value::B(_) | Value::Ss(_) | Value::Ns(_) | Value::Bs(_) => return None,
    })
}
