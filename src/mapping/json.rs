//! JSON as the mapping holds it: the text of numbers is kept, the same name twice in an object is seen.
//!
//! Parsed with `struson`, never through a float. What is refused is refused with the byte at which it was
//! found, and no message repeats any of the body.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::io::Read;
use std::sync::Arc;

use struson::reader::{JsonReader as _, JsonStreamReader, ReaderError, ReaderSettings, ValueType};

use super::{Quarantine, Reason};
use crate::plan::Duplicates;
use crate::value::{Number, NumberError, Value};

/// A document nests at most this deep (AWS, "Service, account, and table quotas in Amazon DynamoDB"): the
/// root becomes the item, which DynamoDB counts as the first level.
pub const LEVELS_MAX: u32 = 32;

/// What some programs put before a text, and JSON has no place for (RFC 8259, section 8.1).
pub(super) const BYTE_ORDER_MARK: &[u8] = b"\xef\xbb\xbf";

/// How a document is read.
#[derive(Debug, Clone, Copy)]
pub(super) struct Reading {
    pub(super) duplicates: Duplicates,
    /// The root counts.
    pub(super) levels_max: u32,
    /// Where it begins in the blob.
    pub(super) offset: u64,
}

impl Reading {
    /// Of a text that was read before, or that this program wrote.
    pub(super) const fn of_ours(levels_max: u32) -> Self {
        Self { duplicates: Duplicates::Quarantine, levels_max, offset: 0 }
    }
}

/// A JSON value, without loss.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Json {
    /// `null`.
    Null,
    /// `true` or `false`.
    Bool(bool),
    /// A number, as it is written.
    Number(JsonNumber),
    /// A string.
    String(Arc<str>),
    /// A list.
    Array(Arc<Vec<Json>>),
    /// An object; the order of its members means nothing.
    Object(Arc<BTreeMap<String, Json>>),
}

/// A number as a document writes it.
#[derive(Debug, Clone)]
pub struct JsonNumber {
    text: Arc<str>,
    offset: u64,
}

impl JsonNumber {
    /// A number that is not from a document.
    #[must_use]
    pub fn new(number: &Number) -> Self {
        Self { text: number.as_str().into(), offset: 0 }
    }

    /// A number as a document would write it; none where the text is none.
    pub(super) fn parse(text: &str) -> Option<Self> {
        match Json::parse(text.as_bytes(), Duplicates::Quarantine) {
            Ok(Json::Number(number)) if number.as_str() == text => Some(number),
            _ => None,
        }
    }

    /// Its text, exactly as the document has it.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.text
    }

    pub(super) fn text(&self) -> &Arc<str> {
        &self.text
    }

    /// The number, as DynamoDB holds it.
    ///
    /// # Errors
    /// Where DynamoDB can't.
    pub fn number(&self) -> Result<Number, NumberError> {
        self.text.parse()
    }
}

impl PartialEq for JsonNumber {
    fn eq(&self, other: &Self) -> bool {
        self.text == other.text
    }
}

impl Eq for JsonNumber {}

impl Json {
    /// Parses one document.
    ///
    /// # Errors
    /// `NotJson` for anything that is not exactly one JSON document in UTF-8 (a byte order mark, trailing
    /// data and lone surrogates included), `Depth` beyond [`LEVELS_MAX`], `DuplicateName` unless the plan
    /// says that the last one counts. Each has the byte at which it was found.
    pub fn parse(body: &[u8], duplicates: Duplicates) -> Result<Self, Quarantine> {
        Self::read(body, Reading { duplicates, levels_max: LEVELS_MAX, offset: 0 })
    }

    /// Parses one document that is part of a larger one.
    pub(super) fn read(body: &[u8], reading: Reading) -> Result<Self, Quarantine> {
        check_text(body, reading.offset)?;
        let mut reader = reader(body, reading);
        let json = value(&mut reader, reading).and_then(|json| {
            reader.consume_trailing_whitespace()?;
            Ok(json)
        });
        json.map_err(|refusal| refusal.into_quarantine(reading))
    }

    /// Whether two documents say the same: numbers compared as decimals, members without order.
    #[must_use]
    pub fn semantically_eq(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Number(a), Self::Number(b)) => {
                a == b || matches!((a.number(), b.number()), (Ok(a), Ok(b)) if a == b)
            }
            (Self::Array(a), Self::Array(b)) => {
                a.len() == b.len() && a.iter().zip(b.iter()).all(|(a, b)| a.semantically_eq(b))
            }
            (Self::Object(a), Self::Object(b)) => {
                a.len() == b.len()
                    && a.iter()
                        .zip(b.iter())
                        .all(|((name_a, a), (name_b, b))| name_a == name_b && a.semantically_eq(b))
            }
            _ => self == other,
        }
    }

    /// The attribute value of it.
    pub(super) fn to_value(&self) -> Result<Value, Quarantine> {
        Ok(match self {
            Self::Null => Value::Null,
            Self::Bool(truth) => Value::Bool(*truth),
            Self::Number(number) => Value::N(number.number().map_err(|error| Quarantine {
                reason: Reason::Number,
                detail: format!("a number that DynamoDB can't hold: {error}"),
                offset: Some(number.offset),
            })?),
            Self::String(text) => Value::s(&**text),
            Self::Array(list) => {
                Value::L(list.iter().map(Self::to_value).collect::<Result<_, Quarantine>>()?)
            }
            Self::Object(members) => {
                let mut map = BTreeMap::new();
                for (name, json) in members.iter() {
                    map.insert(name.clone(), json.to_value()?);
                }
                Value::M(map)
            }
        })
    }

    /// The JSON of an attribute value; none for the types that JSON does not have.
    pub(super) fn from_value(value: &Value) -> Option<Self> {
        Some(match value {
            Value::Null => Self::Null,
            Value::Bool(truth) => Self::Bool(*truth),
            Value::N(number) => Self::Number(JsonNumber::new(number)),
            Value::S(text) => Self::String(text.as_str().into()),
            Value::L(list) => {
                Self::Array(Arc::new(list.iter().map(Self::from_value).collect::<Option<_>>()?))
            }
            Value::M(map) => Self::object(map.iter())?,
            Value::B(_) | Value::Ss(_) | Value::Ns(_) | Value::Bs(_) => return None,
        })
    }

    /// An object of some attributes.
    pub(super) fn object<'a>(attributes: impl Iterator<Item = (&'a String, &'a Value)>) -> Option<Self> {
        let members = attributes.map(|(name, value)| Some((name.clone(), Self::from_value(value)?)));
        Some(Self::Object(Arc::new(members.collect::<Option<_>>()?)))
    }
}

impl std::fmt::Display for Json {
    /// The document without spaces, members in the order of their names.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Null => f.write_str("null"),
            Self::Bool(truth) => write!(f, "{truth}"),
            Self::Number(number) => f.write_str(number.as_str()),
            Self::String(text) => f.write_str(&quoted(text)),
            Self::Array(list) => {
                f.write_str("[")?;
                for (index, json) in list.iter().enumerate() {
                    write!(f, "{}{json}", if index == 0 { "" } else { "," })?;
                }
                f.write_str("]")
            }
            Self::Object(members) => {
                f.write_str("{")?;
                for (index, (name, json)) in members.iter().enumerate() {
                    write!(f, "{}{}:{json}", if index == 0 { "" } else { "," }, quoted(name))?;
                }
                f.write_str("}")
            }
        }
    }
}

/// Refuses what is no text of JSON: a byte order mark, and what is not UTF-8. `offset` is that of its beginning.
pub(super) fn check_text(body: &[u8], offset: u64) -> Result<(), Quarantine> {
    if body.starts_with(BYTE_ORDER_MARK) {
        return Err(not_json("it begins with a byte order mark", Some(offset)));
    }
    std::str::from_utf8(body)
        .map(|_| ())
        .map_err(|error| not_json("not UTF-8", Some(offset + error.valid_up_to() as u64)))
}

pub(super) fn reader<R: Read>(body: R, reading: Reading) -> JsonStreamReader<R> {
    let settings = ReaderSettings {
        track_path: false,
        max_nesting_depth: Some(reading.levels_max),
        restrict_number_values: false,
        ..ReaderSettings::default()
    };
    JsonStreamReader::new_custom(body, settings)
}

/// A text as JSON writes it.
pub(super) fn quoted(text: &str) -> String {
    serde_json::to_string(text).expect("invariant: text can be written as JSON")
}

fn not_json(detail: impl Into<String>, offset: Option<u64>) -> Quarantine {
    Quarantine { reason: Reason::NotJson, detail: detail.into(), offset }
}

#[derive(Debug)]
pub(super) enum Refusal {
    Reader(Box<ReaderError>),
    DuplicateName(u64),
}

impl From<ReaderError> for Refusal {
    fn from(error: ReaderError) -> Self {
        Self::Reader(Box::new(error))
    }
}

impl Refusal {
    /// The failure of the body's reader, if that is what it is.
    pub(super) fn into_io(self) -> Result<std::io::Error, Self> {
        match self {
            Self::Reader(error) => match *error {
                // Text that is not UTF-8 is told apart before: see `check_text`.
                ReaderError::IoError { error, .. } => Ok(error),
                error => Err(Self::Reader(Box::new(error))),
            },
            refusal @ Self::DuplicateName(_) => Err(refusal),
        }
    }

    pub(super) fn into_quarantine(self, reading: Reading) -> Quarantine {
        let quarantine = self.described(reading.levels_max);
        Quarantine { offset: quarantine.offset.map(|offset| offset + reading.offset), ..quarantine }
    }

    fn described(self, levels_max: u32) -> Quarantine {
        let error = match self {
            Self::DuplicateName(offset) => {
                return Quarantine {
                    reason: Reason::DuplicateName,
                    detail: "an object has the same name twice".to_owned(),
                    offset: Some(offset),
                };
            }
            Self::Reader(error) => *error,
        };
        match error {
            ReaderError::SyntaxError(error) => not_json(words(error.kind), error.location.data_pos),
            ReaderError::MaxNestingDepthExceeded { location, .. } => Quarantine {
                reason: Reason::Depth,
                detail: format!("nested deeper than {levels_max} levels, the root included"),
                offset: location.data_pos,
            },
            ReaderError::UnexpectedValueType { location, .. }
            | ReaderError::UnexpectedStructure { location, .. }
            | ReaderError::UnsupportedNumberValue { location, .. } => {
                not_json("not one JSON document", location.data_pos)
            }
            ReaderError::IoError { location, .. } => not_json("not UTF-8", location.data_pos),
            _ => not_json("not one JSON document", None),
        }
    }
}

/// `TrailingData` as "trailing data": the parser's own names of its findings, as words.
fn words(kind: struson::reader::SyntaxErrorKind) -> String {
    let mut text = String::from("not JSON:");
    for letter in kind.to_string().chars() {
        if letter.is_ascii_uppercase() {
            text.push(' ');
        }
        text.push(letter.to_ascii_lowercase());
    }
    text
}

/// The recursion is bounded by the reader's own limit of levels.
pub(super) fn value<R: Read>(reader: &mut JsonStreamReader<R>, reading: Reading) -> Result<Json, Refusal> {
    Ok(match reader.peek()? {
        ValueType::Null => {
            reader.next_null()?;
            Json::Null
        }
        ValueType::Boolean => Json::Bool(reader.next_bool()?),
        ValueType::Number => {
            let offset = position(reader) + reading.offset;
            Json::Number(JsonNumber { text: reader.next_number_as_str()?.into(), offset })
        }
        ValueType::String => Json::String(reader.next_str()?.into()),
        ValueType::Array => {
            reader.begin_array()?;
            let mut list = Vec::new();
            while reader.has_next()? {
                list.push(value(reader, reading)?);
            }
            reader.end_array()?;
            Json::Array(Arc::new(list))
        }
        ValueType::Object => {
            reader.begin_object()?;
            let mut members = BTreeMap::new();
            while reader.has_next()? {
                let offset = position(reader);
                let name = reader.next_name_owned()?;
                let json = value(reader, reading)?;
                match (members.entry(name), reading.duplicates) {
                    (Entry::Occupied(_), Duplicates::Quarantine) => {
                        return Err(Refusal::DuplicateName(offset));
                    }
                    (Entry::Occupied(mut entry), Duplicates::Last) => {
                        entry.insert(json);
                    }
                    (Entry::Vacant(entry), _) => {
                        entry.insert(json);
                    }
                }
            }
            reader.end_object()?;
            Json::Object(Arc::new(members))
        }
    })
}

pub(super) fn position<R: Read>(reader: &JsonStreamReader<R>) -> u64 {
    reader.current_position(false).data_pos.unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<Json, Quarantine> {
        Json::parse(text.as_bytes(), Duplicates::Quarantine)
    }

    fn refused(body: &[u8]) -> (Reason, Option<u64>) {
        let quarantine = Json::parse(body, Duplicates::Quarantine).expect_err("it must be refused");
        (quarantine.reason, quarantine.offset)
    }

    #[test]
    fn numbers_keep_their_text() {
        for text in ["1.50", "-0", "9007199254740993", "1E+5", "1e400", "0.10000000000000000000000000001"] {
            assert_eq!(parse(text).expect("a number").to_string(), text);
        }
    }

    #[test]
    fn what_is_refused_names_its_byte() {
        let cases: [(&[u8], Reason, Option<u64>); 14] = [
            (b"", Reason::NotJson, Some(0)),
            (b"\xef\xbb\xbf{}", Reason::NotJson, Some(0)),
            (b"{\"a\":\"\xff\"}", Reason::NotJson, Some(6)),
            (b"{\"a\":1", Reason::NotJson, Some(6)),
            (b"{} {}", Reason::NotJson, Some(3)),
            (b"{}\0", Reason::NotJson, Some(2)),
            (b"[1,]", Reason::NotJson, Some(2)),
            (b"[01]", Reason::NotJson, Some(1)),
            (b"[NaN]", Reason::NotJson, Some(1)),
            (b"['a']", Reason::NotJson, Some(1)),
            (b"[\"\\ud800\"]", Reason::NotJson, Some(2)),
            (b"[\"\x01\"]", Reason::NotJson, Some(2)),
            (b"{\"a\":1, \"a\":2}", Reason::DuplicateName, Some(8)),
            (b"{\"a\":1,\"\\u0061\":2}", Reason::DuplicateName, Some(7)),
        ];
        for (body, reason, offset) in cases {
            assert_eq!(refused(body), (reason, offset), "{:?}", String::from_utf8_lossy(body));
        }
    }

    #[test]
    fn depth_counts_the_root() {
        let nested = |levels: usize| format!("{}{}", "[".repeat(levels), "]".repeat(levels));
        assert!(parse(&nested(32)).is_ok());
        assert_eq!(refused(nested(33).as_bytes()), (Reason::Depth, Some(32)));
        assert_eq!(refused("[".repeat(10_000).as_bytes()).0, Reason::Depth);
    }

    #[test]
    fn the_last_of_two_names_counts_where_the_plan_says_so() {
        let json = Json::parse(br#"{"a":1,"a":2}"#, Duplicates::Last).expect("the plan allows it");
        assert_eq!(json.to_string(), r#"{"a":2}"#);
    }

    #[test]
    fn documents_compare_by_what_they_say() {
        let same = |a: &str, b: &str| parse(a).expect("a").semantically_eq(&parse(b).expect("b"));
        assert!(same(r#"{"a":1.50,"b":[-0]}"#, r#"{"b":[0],"a":1.5}"#));
        assert!(same("1e400", "1e400"));
        assert!(!same(r#"{"a":1}"#, r#"{"a":"1"}"#));
        assert!(!same("[1,2]", "[2,1]"));
        assert!(!same(r#"{"a":null}"#, "{}"));
    }

    #[test]
    fn a_number_out_of_range_names_its_byte() {
        let json = parse(r#"{"a": [1, 1e126]}"#).expect("it is JSON");
        let quarantine = json.to_value().expect_err("out of range");
        assert_eq!((quarantine.reason, quarantine.offset), (Reason::Number, Some(10)));
    }
}
