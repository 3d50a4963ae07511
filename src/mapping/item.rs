//! One item: its planned attributes, the record's own fields, and every limit that DynamoDB has.

use std::collections::BTreeSet;

use jiff::Timestamp;

use super::document::Document;
use super::json::Json;
use super::large;
use super::marks::{EMPTY, NUMBERS, Policies, below, value_of};
use super::quarantine::{Quarantine, Reason};
use super::records::Record;
use crate::plan::compile::CompiledItem;
use crate::plan::template::{Evaluated, RenderError, Templates};
use crate::plan::{BodyPlacement, EmptyStrings, IndexPlan, Numbers, PastTtl, TargetPlan, TooLarge};
use crate::value::{ITEM_BYTES_MAX, Item, Key, Number, Value, item_bytes};

/// The attribute in which an item names the blob it came from; the program's own.
pub const SOURCE_ATTRIBUTE: &str = "_source";

/// The largest partition key (AWS, "Service, account, and table quotas in Amazon DynamoDB").
pub(super) const PARTITION_KEY_BYTES_MAX: usize = 2048;
/// The largest sort key (same page).
pub(super) const SORT_KEY_BYTES_MAX: usize = 1024;
/// The deepest lists and maps within an attribute value (same page): 32 levels, of which the item is one, as
/// DynamoDB Local counts.
const VALUE_LEVELS_MAX: usize = 31;
/// The longest attribute name (same page).
const NAME_BYTES_MAX: usize = 65_535;
/// Above this a TTL is taken for milliseconds: in seconds it would be the year 5138.
const TTL_SECONDS_MAX: i64 = 100_000_000_000;
/// DynamoDB never deletes an item whose TTL is older than this (AWS, "Using time to live").
const TTL_AGE_MAX_SECONDS: i64 = 5 * 366 * 24 * 3600;
/// Further ahead a TTL is taken for two times added up, as hand-written code does: year 2083.
const TTL_AHEAD_MAX_SECONDS: i64 = 50 * 366 * 24 * 3600;

/// What the items of a table must satisfy.
#[derive(Debug)]
pub(super) struct Layout {
    pub(super) partition_key: String,
    pub(super) sort_key: String,
    pub(super) ttl: Option<String>,
    pub(super) indexes: Vec<IndexPlan>,
    /// Attributes that only a plan sets: all keys, and `_source`.
    reserved: BTreeSet<String>,
}

impl Layout {
    pub(super) fn new(target: &TargetPlan) -> Self {
        let mut reserved = BTreeSet::from([
            SOURCE_ATTRIBUTE.to_owned(),
            target.partition_key.clone(),
            target.sort_key.clone(),
        ]);
        for index in &target.indexes {
            reserved.insert(index.partition_key.clone());
            reserved.insert(index.sort_key.clone());
        }
        Self {
            partition_key: target.partition_key.clone(),
            sort_key: target.sort_key.clone(),
            ttl: target.ttl.clone(),
            indexes: target.indexes.clone(),
            reserved,
        }
    }

    fn is_table_key(&self, name: &str) -> bool {
        name == self.partition_key || name == self.sort_key
    }

    fn is_ttl(&self, name: &str) -> bool {
        self.ttl.as_deref() == Some(name)
    }
}

/// An item, its key, and the indexes that it is not in.
#[derive(Debug)]
pub(super) struct BuiltItem {
    pub(super) key: Key,
    pub(super) item: Item,
    pub(super) omitted: Vec<String>,
    /// What of its record is in items of its own.
    pub(super) parts: Vec<PartItem>,
}

/// An item with a part of a record.
#[derive(Debug)]
pub(super) struct PartItem {
    pub(super) key: Key,
    pub(super) item: Item,
}

/// The rules of one item.
#[derive(Debug)]
pub(super) struct ItemRule {
    /// Its place among the rules of its entity.
    pub(super) number: usize,
    pub(super) compiled: CompiledItem,
    pub(super) body: BodyPlacement,
    pub(super) policies: Policies,
}

/// What an item is made of besides its rules.
#[derive(Debug, Clone, Copy)]
pub(super) struct Material<'a> {
    pub(super) templates: &'a Templates,
    pub(super) layout: &'a Layout,
    pub(super) pathname: &'a str,
    pub(super) record: &'a Record,
    pub(super) now: Timestamp,
}

impl ItemRule {
    /// The item of a record, within every limit.
    pub(super) fn build(
        &self,
        material: Material<'_>,
        evaluated: &mut Evaluated,
    ) -> Result<BuiltItem, Quarantine> {
        let layout = material.layout;
        let of_record = |quarantine: Quarantine| quarantine.of_record(&material.record.place);
        let mut item = self.planned(material, evaluated).map_err(of_record)?;
        let omitted = self.omit_half_indexes(layout, &mut item);
        let record = &material.record.value;
        self.place(layout, &mut item, material.record)?;
        self.check_ttl(layout, &item, material.now).map_err(of_record)?;
        check_indexes(layout, &item).map_err(of_record)?;
        let key = table_key(layout, &item).map_err(of_record)?;
        match check_size(&item, material.pathname) {
            Ok(()) => Ok(BuiltItem { key, item, omitted, parts: Vec::new() }),
            Err(_) if self.policies.too_large != TooLarge::Quarantine && self.body != BodyPlacement::None => {
                item.retain(|name, _| self.plans(name) || layout.is_ttl(name));
                let too_large = self.policies.too_large;
                large::pack(too_large, layout, item, omitted, record, material.pathname).map_err(of_record)
            }
            Err(quarantine) => Err(of_record(quarantine)),
        }
    }

    /// The attributes that the plan sets.
    fn planned(&self, material: Material<'_>, evaluated: &mut Evaluated) -> Result<Item, Quarantine> {
        let layout = material.layout;
        let mut item = Item::new();
        for (name, id) in &self.compiled.attributes {
            match material.templates.render(*id, evaluated) {
                Ok(text) if layout.is_ttl(name) => {
                    item.insert(name.clone(), ttl_of_text(&text)?);
                }
                Ok(text) => {
                    item.insert(name.clone(), Value::S(text));
                }
                Err(RenderError::Missing) if layout.is_table_key(name) => {
                    let detail = format!("the input of `{name}` is missing, null or empty");
                    return Err(Quarantine::new(Reason::Key, detail));
                }
                // Left out; an index then loses its other half too, which `omit_half_indexes` sees to.
                Err(RenderError::Missing) => {}
                Err(RenderError::Failed(detail)) => {
                    let reason = if layout.is_ttl(name) { Reason::Ttl } else { Reason::Template };
                    return Err(Quarantine::new(reason, format!("`{name}`: {detail}")));
                }
            }
        }
        Ok(item)
    }

    /// Whether the plan sets an attribute.
    pub(super) fn plans(&self, name: &str) -> bool {
        self.compiled.attributes.iter().any(|(known, _)| known == name)
    }

    /// Leaves out both attributes of each index that lacks one of them; a table key always stays.
    fn omit_half_indexes(&self, layout: &Layout, item: &mut Item) -> Vec<String> {
        let mut omitted = Vec::new();
        // Leaving out an attribute that two indexes share can halve the other one.
        for _ in 0..=layout.indexes.len() {
            let mut changed = false;
            for index in &layout.indexes {
                let names = [&index.partition_key, &index.sort_key];
                if !names.into_iter().all(|name| self.plans(name))
                    || names.into_iter().all(|name| item.contains_key(name))
                {
                    continue;
                }
                for name in names {
                    if !layout.is_table_key(name) {
                        changed |= item.remove(name).is_some();
                    }
                }
                if !omitted.contains(&index.name) {
                    omitted.push(index.name.clone());
                }
            }
            if !changed {
                break;
            }
        }
        omitted
    }

    /// Puts the record's own fields where the plan wants them.
    fn place(&self, layout: &Layout, item: &mut Item, record: &Record) -> Result<(), Quarantine> {
        let place = &record.place;
        match (&self.body, &record.value) {
            (BodyPlacement::None, _) => {}
            (BodyPlacement::Nested(name), Document::Bytes(bytes)) => {
                item.insert(name.clone(), Value::B(bytes.clone()));
            }
            (BodyPlacement::Nested(name), Document::Json(json)) => {
                let mut texts = Vec::new();
                let value = value_of(json, self.policies.numbers, "", &mut texts)
                    .and_then(checked)
                    .map_err(|quarantine| quarantine.of_record(place))?;
                item.insert(name.clone(), value);
                mark(item, NUMBERS, texts);
            }
            (BodyPlacement::Attributes, Document::Json(Json::Object(members))) => {
                let (mut texts, mut empty) = (Vec::new(), Vec::new());
                for (name, json) in members.iter() {
                    if self.plans(name) || layout.reserved.contains(name) || self.policies.mark(name) {
                        let detail =
                            format!("the record's field `{name}` has the name of a planned attribute");
                        return Err(Quarantine::new(Reason::NameClash, detail).of_record(place));
                    }
                    check_name(name).map_err(|quarantine| quarantine.of_record(place))?;
                    let is_empty = matches!(json, Json::String(text) if text.is_empty());
                    if is_empty && self.policies.empty_strings == EmptyStrings::Omit {
                        empty.push(Value::s(name));
                        continue;
                    }
                    let value = match self.policies.numbers {
                        Numbers::Quarantine => json.to_value(),
                        Numbers::Text => value_of(json, Numbers::Text, &below("", name), &mut texts),
                    };
                    let value =
                        value.and_then(checked).map_err(|quarantine| quarantine.of_field(place, name))?;
                    item.insert(name.clone(), value);
                }
                mark(item, NUMBERS, texts);
                mark(item, EMPTY, empty);
            }
            (BodyPlacement::Attributes, _) => {
                let detail = "the record is not an object, so its fields can't be attributes";
                return Err(Quarantine::new(Reason::Shape, detail).of_record(place));
            }
        }
        Ok(())
    }

    fn check_ttl(&self, layout: &Layout, item: &Item, now: Timestamp) -> Result<(), Quarantine> {
        let Some(value) = layout.ttl.as_ref().and_then(|name| item.get(name)) else { return Ok(()) };
        let seconds = match value {
            // JSON's null says that it never expires, and so does DynamoDB.
            Value::Null => return Ok(()),
            Value::N(number) => number.as_i64(),
            _ => None,
        };
        let Some(seconds) = seconds else {
            return Err(Quarantine::new(
                Reason::Ttl,
                "the TTL is not a whole number, so DynamoDB would never expire it",
            ));
        };
        if seconds > TTL_SECONDS_MAX {
            return Err(Quarantine::new(Reason::Ttl, "the TTL is in milliseconds; DynamoDB reads seconds"));
        }
        let ahead = seconds - now.as_second();
        if ahead > TTL_AHEAD_MAX_SECONDS {
            return Err(Quarantine::new(Reason::Ttl, "the TTL is more than 50 years ahead"));
        }
        match (ahead, self.policies.past_ttl) {
            (..=0, PastTtl::Quarantine) if ahead < -TTL_AGE_MAX_SECONDS => Err(Quarantine::new(
                Reason::Ttl,
                "the TTL passed over five years ago, so DynamoDB would never delete the item",
            )),
            (..=0, PastTtl::Quarantine) => {
                Err(Quarantine::new(Reason::Ttl, "the TTL has passed, so DynamoDB would delete the item"))
            }
            _ => Ok(()),
        }
    }
}

fn ttl_of_text(text: &str) -> Result<Value, Quarantine> {
    let number: Result<Number, _> = text.parse();
    number.map(Value::N).map_err(|_| Quarantine::new(Reason::Ttl, "the TTL is not a number"))
}

fn check_name(name: &str) -> Result<(), Quarantine> {
    match name.len() {
        0 => Err(Quarantine::new(Reason::AttributeName, "an empty name, which DynamoDB refuses")),
        1..=NAME_BYTES_MAX => Ok(()),
        _ => Err(Quarantine::new(
            Reason::AttributeName,
            format!("a name is longer than {NAME_BYTES_MAX} bytes"),
        )),
    }
}

fn mark(item: &mut Item, name: &str, what: Vec<Value>) {
    if !what.is_empty() {
        item.insert(name.to_owned(), Value::L(what));
    }
}

fn checked(value: Value) -> Result<Value, Quarantine> {
    check_value(&value)?;
    Ok(value)
}

/// Names and depth within one attribute value.
fn check_value(value: &Value) -> Result<(), Quarantine> {
    fn levels(value: &Value) -> Result<usize, Quarantine> {
        let mut deepest = 0;
        match value {
            Value::L(list) => {
                for value in list {
                    deepest = deepest.max(levels(value)?);
                }
            }
            Value::M(map) => {
                for (name, value) in map {
                    check_name(name)?;
                    deepest = deepest.max(levels(value)?);
                }
            }
            _ => return Ok(0),
        }
        Ok(deepest + 1)
    }
    if levels(value)? > VALUE_LEVELS_MAX {
        let detail = format!("nested deeper than {VALUE_LEVELS_MAX} levels within an attribute");
        return Err(Quarantine::new(Reason::Depth, detail));
    }
    Ok(())
}

pub(super) fn table_key(layout: &Layout, item: &Item) -> Result<Key, Quarantine> {
    let part = |name: &String, bytes_max: usize| match item.get(name).and_then(Value::as_s) {
        Some(text) if text.len() > bytes_max => {
            let detail = format!("`{name}` has {} bytes of at most {bytes_max}", text.len());
            Err(Quarantine::new(Reason::Key, detail))
        }
        Some(text) => Ok(text.to_owned()),
        None => Err(Quarantine::new(Reason::Key, format!("`{name}` is not text"))),
    };
    Ok(Key {
        partition: part(&layout.partition_key, PARTITION_KEY_BYTES_MAX)?,
        sort: part(&layout.sort_key, SORT_KEY_BYTES_MAX)?,
    })
}

fn check_indexes(layout: &Layout, item: &Item) -> Result<(), Quarantine> {
    for index in &layout.indexes {
        let parts = [(&index.partition_key, PARTITION_KEY_BYTES_MAX), (&index.sort_key, SORT_KEY_BYTES_MAX)];
        for (name, bytes_max) in parts {
            let Some(text) = item.get(name).and_then(Value::as_s) else { continue };
            if text.len() > bytes_max {
                let detail =
                    format!("`{name}` of {} has {} bytes of at most {bytes_max}", index.name, text.len());
                return Err(Quarantine::new(Reason::IndexKey, detail));
            }
        }
    }
    Ok(())
}

/// The bytes that `_source` {pathname, rev} will take in an item of this blob.
#[must_use]
pub fn source_bytes(pathname: &str) -> usize {
    // The map's own 3 bytes, one for each of two members, their names, and a rev of 32 digits.
    SOURCE_ATTRIBUTE.len() + 3 + (1 + "pathname".len() + pathname.len()) + (1 + "rev".len() + 32)
}

fn check_size(item: &Item, pathname: &str) -> Result<(), Quarantine> {
    let bytes = item_bytes(item) + source_bytes(pathname);
    if bytes > ITEM_BYTES_MAX {
        let detail = format!("{bytes} bytes with `{SOURCE_ATTRIBUTE}`, of at most {ITEM_BYTES_MAX}");
        return Err(Quarantine::new(Reason::ItemTooLarge, detail));
    }
    Ok(())
}
