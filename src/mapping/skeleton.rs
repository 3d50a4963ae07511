//! A document without its records, and the way back: from the items of a blob to its document.

use std::cmp::Ordering;
use std::collections::BTreeMap;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::document::Document;
use super::item::{ItemRule, SOURCE_ATTRIBUTE};
use super::json::{Json, Reading};
use super::large::unpack;
use super::marks::unmarked;
use super::records::PlaceStep;
use super::{Entity, EntityId, MappedItem, Mapper};
use crate::plan::{BodyPlacement, Duplicates};
use crate::value::{Item, Value};

/// The document of a blob with its records emptied: what of it is in no item, and which item has each record.
///
/// Stored with the blob's anchor; its form is JSON.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Skeleton(Part);

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Part {
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
    /// Whether it is nothing but one record: the whole document is in one item.
    #[must_use]
    pub fn is_whole(&self) -> bool {
        matches!(self.0, Part::Record(..))
    }
}

/// A record that an item has.
struct Held<'a> {
    place: &'a [PlaceStep],
    is_grouped: bool,
    rule: usize,
    item: usize,
}

impl Held<'_> {
    /// Records in the order of the document; what is around others first; an item of its own before one
    /// that it shares with other blobs.
    fn order(&self, other: &Self) -> Ordering {
        let steps = self.place.iter().zip(other.place).map(|(a, b)| compare(a, b));
        let place = steps.fold(Ordering::Equal, Ordering::then);
        place
            .then(self.place.len().cmp(&other.place.len()))
            .then((self.is_grouped, self.item).cmp(&(other.is_grouped, other.item)))
    }
}

fn compare(a: &PlaceStep, b: &PlaceStep) -> Ordering {
    match (a, b) {
        (PlaceStep::Element(a), PlaceStep::Element(b)) => a.cmp(b),
        _ => name(a).cmp(&name(b)),
    }
}

fn name(step: &PlaceStep) -> Option<&str> {
    match step {
        PlaceStep::Name(name) | PlaceStep::Member(name, _) => Some(name),
        PlaceStep::Element(_) => None,
    }
}

/// `held` are the records in and below `json`, in order. The recursion is bounded by the steps of a place.
fn empty(json: &Json, held: &[Held<'_>], depth: usize) -> Part {
    let Some(first) = held.first() else { return Part::Text(json.to_string()) };
    if first.place.len() == depth {
        return Part::Record(first.rule, first.item);
    }
    let mut below = held.chunk_by(|a, b| compare(&a.place[depth], &b.place[depth]).is_eq()).peekable();
    match json {
        Json::Array(list) => {
            let mut parts = Vec::new();
            for (index, json) in list.iter().enumerate() {
                let held = below.next_if(|held| held[0].place[depth] == PlaceStep::Element(index));
                push(&mut parts, empty(json, held.unwrap_or_default(), depth + 1));
            }
            Part::List(parts)
        }
        Json::Object(members) => {
            let mut parts = BTreeMap::new();
            for (member, json) in members.iter() {
                let held = below.next_if(|held| name(&held[0].place[depth]) == Some(member));
                parts.insert(member.clone(), empty(json, held.unwrap_or_default(), depth + 1));
            }
            Part::Object(parts)
        }
        _ => Part::Text(json.to_string()),
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
                place: &item.origin.place.0,
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
    fn record_of(&self, items: &[&Item], at: usize, levels_max: u32) -> Option<Document> {
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
