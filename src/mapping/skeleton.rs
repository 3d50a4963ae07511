//! A document without its records, and the way back: from the items of a blob to its document.

use std::borrow::Cow;
use std::cmp::Ordering;
use std::collections::BTreeMap;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::document::Document;
use super::item::{ItemRule, SOURCE_ATTRIBUTE};
use super::json::{Json, Reading, quoted};
use super::large::{self, unpack};
use super::marks::unmarked;
use super::outline::{Halt, Rest};
use super::records::{Place, PlaceStep, compare, compare_steps};
use super::{Entity, EntityId, MappedItem, Mapper};
use crate::plan::{BodyPlacement, Decode, Duplicates};
use crate::value::{Item, Value};

/// The document of a blob with its records emptied: what of it is in no item, and which item has each record.
///
/// Stored with the blob's anchor; its form is JSON.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Skeleton(pub(super) Part);

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Part {
    /// JSON text that no item has.
    Text(String),
    /// A record: the number of its rule, the place of its item in the order of the mapping.
    Record(usize, usize),
    /// Within a list, so many records of one rule, their items so far apart.
    Records { rule: usize, first: usize, step: usize, count: usize },
    /// A list with records somewhere in it.
    List(Vec<Part>),
    /// An object with records somewhere in it.
    Object(BTreeMap<String, Part>),
}

impl Skeleton {
    /// How many bytes of the document are in no item.
    #[must_use]
    pub fn text_bytes(&self) -> usize {
        self.0.text_bytes()
    }

    /// Whether it is nothing but one record: the whole document is in one item.
    #[must_use]
    pub fn is_whole(&self) -> bool {
        matches!(self.0, Part::Record(..))
    }
}

/// How a list is written in JSON.
const JSON: Signs = ["[", ",", "]"];
/// How a list of documents is written in NDJSON.
const LINES: Signs = ["", "\n", "\n"];

/// A piece of a document's JSON text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Piece<'a> {
    /// Text.
    Text(Cow<'a, str>),
    /// A record.
    Record {
        /// The number of its rule.
        rule: usize,
        /// The number of its item.
        item: usize,
    },
}

/// The pieces of a document, one after the other. See [`Mapper::pieces`].
#[derive(Debug)]
pub struct Pieces<'a> {
    /// What is begun and not finished, the outermost first; as deep as the plan's paths.
    open: Vec<Open<'a>>,
}

/// A list stands between the first and the last of its signs, the second one between its elements.
type Signs = [&'static str; 3];

#[derive(Debug)]
enum Open<'a> {
    Part(&'a Part, Signs),
    Text(Cow<'a, str>),
    Elements(std::slice::Iter<'a, Part>, Signs, bool),
    Members(std::collections::btree_map::Iter<'a, String, Part>, bool),
    Records { rule: usize, next: usize, step: usize, left: usize, comma: &'static str },
}

impl<'a> Iterator for Pieces<'a> {
    type Item = Piece<'a>;

    fn next(&mut self) -> Option<Piece<'a>> {
        loop {
            match self.open.pop()? {
                Open::Text(text) => return Some(Piece::Text(text)),
                Open::Part(part, signs) => match part {
                    Part::Text(text) => return Some(Piece::Text(Cow::Borrowed(text))),
                    Part::Record(rule, item) => return Some(Piece::Record { rule: *rule, item: *item }),
                    Part::Records { rule, first, step, count } => self.open.push(Open::Records {
                        rule: *rule,
                        next: *first,
                        step: *step,
                        left: *count,
                        comma: signs[1],
                    }),
                    Part::List(parts) => {
                        self.open.push(Open::Elements(parts.iter(), signs, true));
                        return Some(Piece::Text(Cow::Borrowed(signs[0])));
                    }
                    Part::Object(members) => {
                        self.open.push(Open::Members(members.iter(), true));
                        return Some(Piece::Text(Cow::Borrowed("{")));
                    }
                },
                Open::Elements(mut parts, signs, first) => {
                    let Some(part) = parts.next() else { return Some(Piece::Text(Cow::Borrowed(signs[2]))) };
                    self.open.push(Open::Elements(parts, signs, false));
                    // Records in a row are elements of this list; within an element, all lists are JSON's.
                    let within = if matches!(part, Part::Records { .. }) { signs } else { JSON };
                    self.open.push(Open::Part(part, within));
                    if !first {
                        return Some(Piece::Text(Cow::Borrowed(signs[1])));
                    }
                }
                Open::Members(mut members, first) => {
                    let Some((name, part)) = members.next() else {
                        return Some(Piece::Text(Cow::Borrowed("}")));
                    };
                    self.open.push(Open::Members(members, false));
                    self.open.push(Open::Part(part, JSON));
                    let comma = if first { "" } else { "," };
                    return Some(Piece::Text(Cow::Owned(format!("{comma}{}:", quoted(name)))));
                }
                Open::Records { rule, next, step, left, comma } => {
                    let Some(left) = left.checked_sub(1) else { continue };
                    if left > 0 {
                        // What overflows is no number of an item, as its reader will find.
                        let next = next.saturating_add(step);
                        self.open.push(Open::Records { rule, next, step, left, comma });
                        self.open.push(Open::Text(Cow::Borrowed(comma)));
                    }
                    return Some(Piece::Record { rule, item: next });
                }
            }
        }
    }
}

/// A record that an item has.
pub(super) struct Held<'a> {
    pub(super) place: &'a Place,
    is_grouped: bool,
    rule: usize,
    item: usize,
}

impl<'a> Held<'a> {
    /// Of an item that is the blob's alone.
    pub(super) const fn of(place: &'a Place, rule: usize, item: usize) -> Self {
        Self { place, is_grouped: false, rule, item }
    }

    pub(super) const fn part(&self) -> Part {
        Part::Record(self.rule, self.item)
    }

    /// Records in the order of the document; what is around others first; an item of its own before one
    /// that it shares with other blobs.
    pub(super) fn order(&self, other: &Self) -> Ordering {
        compare(self.place.0.iter(), other.place.0.iter())
            .then((self.is_grouped, self.item).cmp(&(other.is_grouped, other.item)))
    }
}

/// `held` are the records in and below `json`, in order. The recursion is bounded by the steps of a place.
pub(super) fn empty(json: &Json, held: &[Held<'_>], depth: usize) -> Part {
    let Some(first) = held.first() else { return Part::Text(json.to_string()) };
    if first.place.0.len() == depth {
        return first.part();
    }
    let mut below =
        held.chunk_by(|a, b| compare_steps(&a.place.0[depth], &b.place.0[depth]).is_eq()).peekable();
    match json {
        Json::Array(list) => {
            let mut parts = Vec::new();
            for (index, json) in list.iter().enumerate() {
                let held = below.next_if(|held| held[0].place.0[depth] == PlaceStep::Element(index));
                push(&mut parts, empty(json, held.unwrap_or_default(), depth + 1));
            }
            Part::List(parts)
        }
        Json::Object(members) => {
            let mut parts = BTreeMap::new();
            for (member, json) in members.iter() {
                let held = below.next_if(|held| held[0].place.0[depth].name() == Some(member));
                parts.insert(member.clone(), empty(json, held.unwrap_or_default(), depth + 1));
            }
            Part::Object(parts)
        }
        _ => Part::Text(json.to_string()),
    }
}

/// The skeleton of a long document: what is around its units, and the next one's part each time it is asked.
pub(super) fn around(rest: &Rest, unit: &mut dyn FnMut() -> Result<Part, Halt>) -> Result<Part, Halt> {
    Ok(match rest {
        Rest::Text(text) => Part::Text(text.clone()),
        Rest::Units(_) => unit()?,
        Rest::List(list) => {
            let mut parts = Vec::new();
            for rest in list {
                let count = if let Rest::Units(count) = rest { *count } else { 1 };
                for _ in 0..count {
                    push(&mut parts, around(rest, unit)?);
                }
            }
            Part::List(parts)
        }
        Rest::Object(members) => {
            let members = members.iter().map(|(name, rest)| Ok((name.clone(), around(rest, unit)?)));
            Part::Object(members.collect::<Result<_, Halt>>()?)
        }
    })
}

impl Part {
    /// How many bytes of text it holds.
    pub(super) fn text_bytes(&self) -> usize {
        match self {
            Self::Text(text) => text.len(),
            Self::Record(..) | Self::Records { .. } => 0,
            Self::List(parts) => parts.iter().map(Self::text_bytes).sum(),
            Self::Object(members) => members.values().map(Self::text_bytes).sum(),
        }
    }
}

/// Adds an element to a list; records in a row become one part.
fn push(parts: &mut Vec<Part>, part: Part) {
    let Part::Record(rule, item) = part else { return parts.push(part) };
    match parts.last_mut() {
        Some(Part::Records { rule: of, first, step, count })
            if *of == rule && *first + *step * *count == item =>
        {
            *count += 1;
        }
        Some(last @ Part::Record(..)) => match *last {
            Part::Record(of, first) if of == rule && first < item => {
                *last = Part::Records { rule, first, step: item - first, count: 2 };
            }
            _ => parts.push(part),
        },
        _ => parts.push(part),
    }
}

impl Mapper {
    /// The document of a blob without what its items have. `items` are what the document maps to.
    ///
    /// An item of a group counts as the blob's own, which it is only while the blob is the group's newest.
    #[must_use]
    pub fn skeleton(&self, entity: EntityId, document: &Document, items: &[MappedItem]) -> Skeleton {
        let rules = &self.entities[entity.0].items;
        let held = items.iter().enumerate().filter(|(_, item)| {
            let keeps = |rule: &ItemRule| rule.body != BodyPlacement::None;
            item.origin.part.is_none() && rules.get(item.origin.rule).is_some_and(keeps)
        });
        let mut held: Vec<Held<'_>> = held
            .map(|(at, item)| Held {
                place: &item.origin.place,
                is_grouped: item.group.is_some(),
                rule: item.origin.rule,
                item: at,
            })
            .collect();
        held.sort_by(Held::order);
        match (document, held.first()) {
            (Document::Json(json), _) => Skeleton(empty(json, &held, 0)),
            (Document::Bytes(_), Some(held)) => Skeleton(Part::Record(held.rule, held.item)),
            (Document::Bytes(_), None) => Skeleton(Part::Text(String::new())),
        }
    }

    /// What the body of a blob is put together from, in its order.
    #[must_use]
    pub fn pieces<'a>(&self, entity: EntityId, skeleton: &'a Skeleton) -> Pieces<'a> {
        let lines = self.entities[entity.0].decode == Decode::Ndjson;
        let signs = if lines { LINES } else { JSON };
        Pieces { open: vec![Open::Part(&skeleton.0, signs)] }
    }

    /// How many items before an item hold parts of its record.
    #[must_use]
    pub fn part_count(&self, entity: EntityId, rule: usize, item: &Item) -> usize {
        let rule = self.entities[entity.0].items.get(rule);
        rule.map_or(0, |rule| large::part_count(rule, item))
    }

    /// The record of an item, which is the last of `items`, behind those with parts of it. None where something
    /// is missing, or the record is no JSON.
    #[must_use]
    pub fn record(&self, entity: EntityId, rule: usize, items: &[&Item]) -> Option<Json> {
        let entity = &self.entities[entity.0];
        match entity.items.get(rule)?.record_of(items, items.len().checked_sub(1)?, entity.levels_max)? {
            Document::Json(json) => Some(json),
            Document::Bytes(_) => None,
        }
    }

    /// The document of a blob from all of its items, in the order in which [`Mapper::map`] gave them, with or
    /// without `_source`, and from its skeleton. Numbers are in DynamoDB's form, so compare with
    /// [`Document::semantically_eq`].
    ///
    /// None where an item is missing or holds what a document can't.
    #[must_use]
    pub fn rebuild(&self, entity: EntityId, items: &[&Item], skeleton: &Skeleton) -> Option<Document> {
        let entity = &self.entities[entity.0];
        match &skeleton.0 {
            Part::Record(rule, item) => entity.items.get(*rule)?.record_of(items, *item, entity.levels_max),
            part => fill(part, entity, items).map(Document::Json),
        }
    }
}

fn fill(part: &Part, entity: &Entity, items: &[&Item]) -> Option<Json> {
    let record =
        |rule: usize, item: usize| match entity.items.get(rule)?.record_of(items, item, entity.levels_max)? {
            Document::Json(json) => Some(json),
            Document::Bytes(_) => None,
        };
    match part {
        Part::Text(text) => {
            let reading =
                Reading { duplicates: Duplicates::Quarantine, levels_max: entity.levels_max, offset: 0 };
            Json::read(text.as_bytes(), reading).ok()
        }
        Part::Record(rule, item) => record(*rule, *item),
        Part::Records { .. } => None,
        Part::List(parts) => {
            let mut list = Vec::new();
            for part in parts {
                if let Part::Records { rule, first, step, count } = part {
                    for at in 0..*count {
                        list.push(record(*rule, first.checked_add(step.checked_mul(at)?)?)?);
                    }
                } else {
                    list.push(fill(part, entity, items)?);
                }
            }
            Some(Json::Array(Arc::new(list)))
        }
        Part::Object(parts) => {
            let members = parts.iter().map(|(name, part)| Some((name.clone(), fill(part, entity, items)?)));
            Some(Json::Object(Arc::new(members.collect::<Option<_>>()?)))
        }
    }
}

impl ItemRule {
    /// The record that an item was made of.
    pub(super) fn record_of(&self, items: &[&Item], at: usize, levels_max: u32) -> Option<Document> {
        if let Some(record) = unpack(self, items, at, levels_max) {
            return record;
        }
        let item: &Item = items.get(at)?;
        let json = match &self.body {
            BodyPlacement::None => return None,
            BodyPlacement::Nested(name) => match item.get(name)? {
                Value::B(bytes) => return Some(Document::Bytes(bytes.clone())),
                value => Json::from_value(value)?,
            },
            BodyPlacement::Attributes => {
                let own = item.iter().filter(|(name, _)| {
                    *name != SOURCE_ATTRIBUTE && !self.plans(name) && !self.policies.mark(name)
                });
                Json::object(own)?
            }
        };
        unmarked(json, item, &self.policies).map(Document::Json)
    }
}
