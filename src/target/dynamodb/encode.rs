//! Values of this program as attribute values of the SDK, and back.

use std::collections::HashMap;

use aws_sdk_dynamodb::primitives::Blob;
use aws_sdk_dynamodb::types::AttributeValue;

use crate::error::{Error, ErrorKind, Result};
use crate::value::{Item, Key, Number, Value};

pub(super) type Attributes = HashMap<String, AttributeValue>;

pub(super) fn value(value: &Value) -> AttributeValue {
    match value {
        Value::S(text) => AttributeValue::S(text.clone()),
        Value::N(number) => AttributeValue::N(number.as_str().to_owned()),
        Value::B(bytes) => AttributeValue::B(Blob::new(bytes.to_vec())),
        Value::Bool(truth) => AttributeValue::Bool(*truth),
        Value::Null => AttributeValue::Null(true),
        Value::L(list) => AttributeValue::L(list.iter().map(self::value).collect()),
        Value::M(map) => AttributeValue::M(item(map)),
        Value::Ss(set) => AttributeValue::Ss(set.clone()),
        Value::Ns(set) => AttributeValue::Ns(set.iter().map(|number| number.as_str().to_owned()).collect()),
        Value::Bs(set) => AttributeValue::Bs(set.iter().map(|bytes| Blob::new(bytes.to_vec())).collect()),
    }
}

pub(super) fn item(item: &Item) -> Attributes {
    item.iter().map(|(name, value)| (name.clone(), self::value(value))).collect()
}

pub(super) fn key((partition, sort): (&str, &str), key: &Key) -> Attributes {
    HashMap::from([
        (partition.to_owned(), AttributeValue::S(key.partition.clone())),
        (sort.to_owned(), AttributeValue::S(key.sort.clone())),
    ])
}

/// The value that an attribute value is.
///
/// # Errors
/// `Corrupt` where the endpoint sent what DynamoDB cannot hold.
pub(super) fn read_value(value: AttributeValue) -> Result<Value> {
    Ok(match value {
        AttributeValue::S(text) => Value::S(text),
        AttributeValue::N(text) => Value::N(read_number(&text)?),
        AttributeValue::B(blob) => Value::B(blob.into_inner().into()),
        AttributeValue::Bool(truth) => Value::Bool(truth),
        AttributeValue::Null(_) => Value::Null,
        AttributeValue::L(list) => Value::L(list.into_iter().map(read_value).collect::<Result<_>>()?),
        AttributeValue::M(map) => Value::M(read_item(map)?),
        AttributeValue::Ss(mut set) => {
            set.sort_unstable();
            Value::Ss(set)
        }
        AttributeValue::Ns(set) => {
            let mut set = set.iter().map(|text| read_number(text)).collect::<Result<Vec<_>>>()?;
            set.sort_unstable();
            Value::Ns(set)
        }
        AttributeValue::Bs(set) => {
            let mut set: Vec<_> = set.into_iter().map(|blob| blob.into_inner().into()).collect();
            set.sort_unstable();
            Value::Bs(set)
        }
        _ => return Err(corrupt("an attribute of a type that this program does not know")),
    })
}

/// The item that a reply holds.
pub(super) fn read_item(attributes: Attributes) -> Result<Item> {
    attributes.into_iter().map(|(name, value)| Ok((name, read_value(value)?))).collect()
}

/// The key that a reply holds, such as `LastEvaluatedKey`.
pub(super) fn read_key((partition, sort): (&str, &str), attributes: &Attributes) -> Result<Key> {
    let part = |name: &str| {
        let text = attributes.get(name).and_then(|value| value.as_s().ok()).cloned();
        text.ok_or_else(|| corrupt("a key without its attributes").key(name))
    };
    Ok(Key { partition: part(partition)?, sort: part(sort)? })
}

fn read_number(text: &str) -> Result<Number> {
    text.parse().map_err(|cause| corrupt("a number that DynamoDB cannot hold").source(cause))
}

fn corrupt(message: &str) -> Error {
    Error::new(ErrorKind::Corrupt, "read item").message(message)
}
