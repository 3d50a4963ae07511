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

/// A byte for each significant digit of base 100, one more for the number, one more for a minus sign.
///
/// AWS says "approximately"; this is what Amazon's DynamoDB Local counts. The pairs of decimal digits are
/// aligned at the point, so 11 is one and 1.1 is two.
fn number_bytes(number: &Number) -> usize {
    let text = number.as_str();
    let sign = usize::from(text.starts_with('-'));
    let unsigned = text.trim_start_matches('-');
    let (mantissa, exponent) = unsigned.split_once('e').unwrap_or((unsigned, "0"));
    let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
    // Moving the point by one place moves it by half a pair.
    let odd_exponent = exponent.ends_with(['1', '3', '5', '7', '9']);
    let mut digits = format!("{whole}{fraction}");
    if (whole.len() % 2 == 1) != odd_exponent {
        digits.insert(0, '0');
    }
    if digits.len() % 2 == 1 {
        digits.push('0');
    }
    let pairs: Vec<&[u8]> = digits.as_bytes().chunks(2).collect();
    let zero = |pair: &&&[u8]| **pair == b"00";
    let leading = pairs.iter().take_while(zero).count();
    let trailing = pairs.iter().rev().take_while(zero).count();
    pairs.len().saturating_sub(leading + trailing) + 1 + sign
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Found by filling items on DynamoDB Local until they were refused.
    #[test]
    fn numbers_are_as_large_as_dynamodb_local_counts() {
        for (text, expected) in [
            ("0", 1),
            ("1", 2),
            ("10", 2),
            ("12", 2),
            ("100", 2),
            ("101", 3),
            ("120", 3),
            ("123", 3),
            ("1000", 2),
            ("1001", 3),
            ("1200", 2),
            ("-1", 3),
            ("-12", 3),
            ("-123", 4),
            ("1.5", 3),
            ("10.5", 3),
            ("11.1", 3),
            ("1234.5", 4),
            ("0.15", 2),
            ("0.01", 2),
            ("0.001", 2),
            ("0.012", 3),
            ("1e125", 2),
            ("1e-130", 2),
            ("1111111111111111111111111111111111111", 20),
            ("11111111111111111111111111111111111111", 20),
            ("-11111111111111111111111111111111111111", 21),
        ] {
            let number: Number = text.parse().expect("a number");
            assert_eq!(number_bytes(&number), expected, "{text}");
        }
    }
}
