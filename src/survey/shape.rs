//! What the bodies of a family hold: how they are read, where their records are, which fields those have.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Read as _;

use flate2::read::MultiGzDecoder;
use serde::Serialize;

use super::names::Look;
use crate::digest::Digest;
use crate::mapping::Json;
use crate::plan::{Decode, Duplicates};

/// How many records of one document are looked at.
const RECORDS_MAX: usize = 200;
/// Records with more names than this are keyed by data.
const FIELDS_MAX: usize = 60;
/// How much of a compressed body is looked at, in bytes.
const INFLATED_MAX: u64 = 4 * 1024 * 1024;

/// What the bodies of a family hold, as far as they were looked at.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Shape {
    /// How many were.
    pub bodies: u64,
    /// Those that are one JSON document.
    pub json: u64,
    /// Those that are a JSON document on each line.
    pub ndjson: u64,
    /// Those among the JSON documents that are encrypted envelopes.
    pub envelopes: u64,
    /// Those that are none of these.
    pub other: u64,
    /// How often records are in each place.
    pub layouts: BTreeMap<Layout, u64>,
    /// The records, by their path; the document itself is the empty one.
    pub records: BTreeMap<String, Records>,
}

/// Where the records of a document are.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Layout {
    /// The document is the record.
    Document,
    /// The elements of a list.
    List,
    /// The members of an object, by their id.
    Map,
    /// The members of one of its objects, by their id.
    MapIn(String),
    /// The elements of several lists.
    Lists(Vec<String>),
}

/// Records of one place.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Records {
    /// How many were looked at.
    pub count: u64,
    /// Those that are objects.
    pub objects: u64,
    /// Their fields; none where there are too many names for a schema.
    pub fields: BTreeMap<String, Field>,
    /// Whether names had to be left out.
    pub is_open: bool,
}

/// A field of records.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Field {
    /// How many records have it.
    pub present: u64,
    /// Its types.
    pub types: BTreeSet<&'static str>,
    /// Of how many texts or numbers.
    pub scalars: u64,
    /// Which were seen.
    #[serde(skip)]
    values: BTreeSet<Digest>,
}

impl Field {
    /// Whether every record has one of its own, among more than one record.
    #[must_use]
    pub fn is_key(&self, records: u64) -> bool {
        records > 1 && self.scalars == records && self.values.len() as u64 == records
    }
}

impl Shape {
    /// Takes a body into account.
    pub fn see(&mut self, body: &[u8]) {
        self.bodies += 1;
        let inflated = body.starts_with(&[0x1f, 0x8b]).then(|| {
            let mut inflated = Vec::new();
            let read = MultiGzDecoder::new(body).take(INFLATED_MAX).read_to_end(&mut inflated);
            read.map(|_| inflated).unwrap_or_default()
        });
        let body = inflated.as_deref().unwrap_or(body);
        if let Ok(json) = Json::parse(body, Duplicates::Last) {
            self.json += 1;
            self.document(&json);
        } else if let Some(lines) = lines(body) {
            self.ndjson += 1;
            *self.layouts.entry(Layout::List).or_default() += 1;
            lines.iter().take(RECORDS_MAX).for_each(|json| self.record("[*]", json));
        } else {
            self.other += 1;
        }
    }

    fn document(&mut self, json: &Json) {
        if is_envelope(json) {
            self.envelopes += 1;
            *self.layouts.entry(Layout::Document).or_default() += 1;
            return;
        }
        let layout = Layout::of(json);
        for (path, list) in layout.records(json) {
            list.into_iter().take(RECORDS_MAX).for_each(|record| self.record(&path, record));
        }
        *self.layouts.entry(layout).or_default() += 1;
    }

    fn record(&mut self, path: &str, json: &Json) {
        let records = self.records.entry(path.to_owned()).or_default();
        records.count += 1;
        let Json::Object(members) = json else { return };
        records.objects += 1;
        for (name, json) in members.iter() {
            if records.fields.len() >= FIELDS_MAX && !records.fields.contains_key(name) {
                records.is_open = true;
                continue;
            }
            let field = records.fields.entry(name.clone()).or_default();
            field.present += 1;
            field.types.insert(type_of(json));
            if let Json::String(_) | Json::Number(_) = json {
                field.scalars += 1;
                field.values.insert(Digest::of(json.to_string()));
            }
        }
    }

    /// How the bodies are to be read: as most of them are.
    #[must_use]
    pub fn decode(&self) -> Decode {
        if self.envelopes > 0 {
            Decode::Auto
        } else if self.ndjson > self.json && self.ndjson >= self.other {
            Decode::Ndjson
        } else if self.json > 0 || self.ndjson > 0 || self.bodies == 0 {
            Decode::Json
        } else {
            Decode::Raw
        }
    }

    /// Where the records are: the commonest layout, and whether it is the only one.
    #[must_use]
    pub fn layout(&self) -> (Layout, bool) {
        let commonest = self.layouts.iter().max_by_key(|(_, count)| **count);
        (commonest.map_or(Layout::Document, |(layout, _)| layout.clone()), self.layouts.len() <= 1)
    }
}

impl Layout {
    fn of(json: &Json) -> Self {
        match json {
            Json::Array(_) => Self::List,
            Json::Object(members) => {
                let lists = members.iter().filter(|(_, json)| is_list_of_objects(json));
                let lists: Vec<String> = lists.map(|(name, _)| name.clone()).collect();
                let maps: Vec<&String> =
                    members.iter().filter(|(_, json)| is_map(json)).map(|(name, _)| name).collect();
                match maps.as_slice() {
                    _ if is_map(json) => Self::Map,
                    _ if lists.len() > 1 && lists.len() == members.len() => Self::Lists(lists),
                    [map] if members.len() <= 4 => Self::MapIn((*map).clone()),
                    _ => Self::Document,
                }
            }
            _ => Self::Document,
        }
    }

    /// The paths of its records, as a plan has them; the empty one is the document.
    #[must_use]
    pub fn paths(&self) -> Vec<String> {
        match self {
            Self::Document => vec![String::new()],
            Self::List | Self::Map => vec!["[*]".to_owned()],
            Self::MapIn(name) => vec![format!("{}[*]", step(name))],
            Self::Lists(names) => names.iter().map(|name| format!("{}[*]", step(name))).collect(),
        }
    }

    fn records<'a>(&self, json: &'a Json) -> Vec<(String, Vec<&'a Json>)> {
        let children = |json: &'a Json| match json {
            Json::Array(list) => list.iter().collect(),
            Json::Object(members) => members.values().collect(),
            _ => Vec::new(),
        };
        let member = |name: &String| match json {
            Json::Object(members) => members.get(name).map(children).unwrap_or_default(),
            _ => Vec::new(),
        };
        let lists = match self {
            Self::Document => vec![vec![json]],
            Self::List | Self::Map => vec![children(json)],
            Self::MapIn(name) => vec![member(name)],
            Self::Lists(names) => names.iter().map(member).collect(),
        };
        self.paths().into_iter().zip(lists).collect()
    }
}

/// A name as a step of a path.
fn step(name: &str) -> String {
    let is_plain = name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_')
        && !name.starts_with(|first: char| first.is_ascii_digit())
        && !name.is_empty();
    if is_plain {
        name.to_owned()
    } else {
        format!("['{}']", name.replace('\\', "\\\\").replace('\'', "\\'"))
    }
}

fn is_envelope(json: &Json) -> bool {
    let Json::Object(members) = json else { return false };
    let payload = members.get("payload");
    let is_sealed = matches!(payload, Some(Json::String(text)) if text.split(':').count() == 4);
    is_sealed && members.contains_key("version") && members.len() <= 4
}

fn is_list_of_objects(json: &Json) -> bool {
    matches!(json, Json::Array(list) if !list.is_empty() && list.iter().all(|json| matches!(json, Json::Object(_))))
}

/// An object whose members are objects under names that are ids.
fn is_map(json: &Json) -> bool {
    let Json::Object(members) = json else { return false };
    let ids = members.keys().filter(|name| Look::of(name) != Look::Word).count();
    !members.is_empty()
        && ids * 2 > members.len()
        && members.values().all(|json| matches!(json, Json::Object(_)))
}

/// The documents of all lines; the last one may be torn.
fn lines(body: &[u8]) -> Option<Vec<Json>> {
    let lines: Vec<&[u8]> =
        body.split(|byte| *byte == b'\n').filter(|line| !line.trim_ascii().is_empty()).collect();
    let (last, others) = lines.split_last()?;
    let mut found =
        others.iter().map(|line| Json::parse(line, Duplicates::Last).ok()).collect::<Option<Vec<_>>>()?;
    found.extend(Json::parse(last, Duplicates::Last));
    let are_objects = found.iter().all(|json| matches!(json, Json::Object(_)));
    (!others.is_empty() && are_objects).then_some(found)
}

const fn type_of(json: &Json) -> &'static str {
    match json {
        Json::Null => "null",
        Json::Bool(_) => "boolean",
        Json::Number(_) => "number",
        Json::String(_) => "text",
        Json::Array(_) => "list",
        Json::Object(_) => "object",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shape(bodies: &[&str]) -> Shape {
        let mut shape = Shape::default();
        bodies.iter().for_each(|body| shape.see(body.as_bytes()));
        shape
    }

    #[test]
    fn records_are_found_where_they_are() {
        for (body, decode, paths) in [
            (r#"{"id": 1, "tags": []}"#, Decode::Json, vec![""]),
            (r#"[{"id": 1}, {"id": 2}]"#, Decode::Json, vec!["[*]"]),
            (r#"{"a7": {"n": 1}, "b1": {"n": 2}}"#, Decode::Json, vec!["[*]"]),
            (
                r#"{"version": 2, "records": {"a7": {"n": 1}, "b1": {"n": 2}}}"#,
                Decode::Json,
                vec!["records[*]"],
            ),
            (
                r#"{"users": [{"id": 1}], "odd name": [{"id": 2}]}"#,
                Decode::Json,
                vec!["['odd name'][*]", "users[*]"],
            ),
            ("{\"id\": 1}\n{\"id\": 2}\n{\"id", Decode::Ndjson, vec!["[*]"]),
            ("no JSON", Decode::Raw, vec![""]),
        ] {
            let shape = shape(&[body]);
            assert_eq!(
                (shape.decode(), shape.layout().0.paths()),
                (decode, paths.into_iter().map(str::to_owned).collect()),
                "{body}"
            );
        }
        let sealed = r#"{"payload": "aa:bb:cc:dd", "version": 1, "storedAt": "2026-01-01"}"#;
        assert_eq!(shape(&[r#"{"id": 1}"#, sealed]).decode(), Decode::Auto);
    }

    #[test]
    fn a_key_is_in_every_record_and_differs() {
        let shape = shape(&[r#"[{"id": 1, "kind": "a", "code": "x"}, {"id": 2, "kind": "a"}]"#]);
        let records = &shape.records["[*]"];
        let keys: Vec<_> =
            records.fields.iter().filter(|(_, field)| field.is_key(2)).map(|(name, _)| name).collect();
        assert_eq!(keys, ["id"]);
        assert_eq!((records.fields["code"].present, records.count), (1, 2));
    }
}
