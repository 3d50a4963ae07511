//! Sizes as DynamoDB counts them (AWS, "DynamoDB item sizes and formats").

use super::{Item, Number, Value};

/// The largest item that DynamoDB stores, attribute names included.
pub const ITEM_BYTES_MAX: usize = 409_600;

/// The size of an item in bytes: names and values.
#[must_use]
pub fn item_bytes(item: &Item) -> usize {
    item.iter().map(|(name, value)| name.len() + value_bytes(value)).sum()
}

/// The size of one value in bytes, without its name.
#[must_use]
pub fn value_bytes(value: &Value) -> usize {
    match value {
        Value::S(text) => text.len(),
        Value::N(number) => number_bytes(number),
        Value::B(bytes) => bytes.len(),
        Value::Bool(_) | Value::Null => 1,
        // 3 bytes for the container, 1 for each element.
        Value::L(list) => 3 + list.iter().map(|value| 1 + value_bytes(value)).sum::<usize>(),
        Value::M(map) => {
            3 + map.iter().map(|(name, value)| 1 + name.len() + value_bytes(value)).sum::<usize>()
        }
        Value::Ss(set) => set.iter().map(String::len).sum(),
        Value::Ns(set) => set.iter().map(number_bytes).sum(),
        Value::Bs(set) => set.iter().map(bytes::Bytes::len).sum(),
    }
}

/// One byte for two significant digits, one more for the number, one more for a sign.
fn number_bytes(number: &Number) -> usize {
    let text = number.as_str();
    let mantissa = text.split('e').next().unwrap_or(text);
    let digits: String = mantissa.chars().filter(char::is_ascii_digit).collect();
    let digits = digits.trim_matches('0');
    // AWS says "approximately": a number is never taken for smaller than it is.
    digits.len().div_ceil(2) + 2 + usize::from(text.starts_with('-'))
}
