//! One blob becoming its items, step by step: the mapping itself, watched.

use serde::Serialize;

use super::document::Document;
use super::item::{BuiltItem, ItemRule, PARTITION_KEY_BYTES_MAX, SORT_KEY_BYTES_MAX, source_bytes};
use super::json::Json;
use super::quarantine::Quarantine;
use super::{BlobFacts, EntityId, Mapper, run};
use crate::plan::Decode;
use crate::plan::template::{RenderError, Trace};
use crate::value::{ITEM_BYTES_MAX, Key, Value, item_bytes, value_bytes};

/// How an entity takes a blob.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Explained {
    /// The entity.
    pub entity: String,
    /// Its pattern.
    pub pattern: String,
    /// What the pattern captures of the pathname.
    pub captures: Vec<Capture>,
    /// How the body is read.
    pub decode: Decode,
    /// What it holds, in words; none where it can't be read.
    pub document: Option<String>,
    /// What the mapping did, in order, up to where it failed.
    pub steps: Vec<Step>,
    /// How many items there are, where there are any.
    pub items: Option<u64>,
    /// Why there are none.
    pub quarantine: Option<Quarantine>,
}

/// A part of a pathname.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Capture {
    /// Its name in the pattern.
    pub name: String,
    /// Its text.
    pub text: String,
}

/// One step of a mapping. `rule` is the place of an `[[entity.item]]` in its entity, from 1.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(tag = "step", rename_all = "kebab-case")]
pub enum Step {
    /// A record was found.
    Record {
        /// Where in the document.
        place: String,
    },
    /// A condition was asked.
    Condition {
        /// The rule.
        rule: usize,
        /// The condition.
        when: String,
        /// Whether it holds; none where it failed.
        holds: Option<bool>,
    },
    /// The group was made.
    Group {
        /// The rule.
        rule: usize,
        /// The template, its inputs and its text.
        #[serde(flatten)]
        trace: Trace,
    },
    /// An attribute that the plan sets was made.
    Attribute {
        /// The rule.
        rule: usize,
        /// Its name.
        name: String,
        /// The template, its inputs and its text.
        #[serde(flatten)]
        trace: Trace,
    },
    /// An item was made, and is within every limit.
    Item(BuiltStep),
}

/// An item, as far as it is explained.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct BuiltStep {
    /// The rule.
    pub rule: usize,
    /// Where it goes.
    pub key: Key,
    /// The length of its partition key, and the longest there may be.
    pub partition_key_bytes: [usize; 2],
    /// The length of its sort key, and the longest there may be.
    pub sort_key_bytes: [usize; 2],
    /// Its length with `_source`, and the longest there may be.
    pub bytes: [usize; 2],
    /// How many items beside it hold parts of its record.
    pub parts: usize,
    /// The indexes that the plan wants it in, and that it is not in, because an input is missing.
    pub omitted: Vec<String>,
    /// Its attributes.
    pub attributes: Vec<Placed>,
}

/// An attribute of an item.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Placed {
    /// Its name.
    pub name: String,
    /// DynamoDB's name of its type.
    pub r#type: &'static str,
    /// Its length without its name.
    pub bytes: usize,
    /// Where it is from.
    pub from: From,
}

/// Where an attribute is from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum From {
    /// The plan's templates.
    Plan,
    /// The record's own fields.
    Record,
    /// A policy of the entity, which marks what it did.
    Policy,
}

impl Step {
    pub(super) fn item(rule: &ItemRule, built: &BuiltItem, pathname: &str) -> Self {
        let attributes = built.item.iter().map(|(name, value)| Placed {
            name: name.clone(),
            r#type: type_of(value),
            bytes: value_bytes(value),
            from: match (rule.plans(name), rule.policies.mark(name)) {
                (true, _) => From::Plan,
                (false, true) => From::Policy,
                (false, false) => From::Record,
            },
        });
        Self::Item(BuiltStep {
            rule: rule.number + 1,
            key: built.key.clone(),
            partition_key_bytes: [built.key.partition.len(), PARTITION_KEY_BYTES_MAX],
            sort_key_bytes: [built.key.sort.len(), SORT_KEY_BYTES_MAX],
            bytes: [item_bytes(&built.item) + source_bytes(pathname), ITEM_BYTES_MAX],
            parts: built.parts.len(),
            omitted: built.omitted.clone(),
            attributes: attributes.collect(),
        })
    }
}

impl Mapper {
    /// How a blob of this entity becomes its items, or why it does not. The outcome is that of
    /// [`Mapper::map`], of which this is the same code.
    #[must_use]
    pub fn explain(
        &self,
        entity: EntityId,
        blob: BlobFacts<'_>,
        body: &[u8],
        now: jiff::Timestamp,
    ) -> Explained {
        let rules = &self.entities[entity.0];
        let captures = rules.pattern.captures(blob.pathname.as_str()).unwrap_or_default();
        let capture = |(name, text): (std::sync::Arc<str>, std::sync::Arc<str>)| Capture {
            name: name.to_string(),
            text: text.to_string(),
        };
        let decoded = self.decode(entity, body);
        let document = decoded.as_ref().ok().map(describe);
        let (steps, mapped) = match decoded {
            Ok(document) => run::explain(self, rules, blob, &document, now),
            Err(quarantine) => (Vec::new(), Err(quarantine)),
        };
        Explained {
            entity: rules.name.clone(),
            pattern: rules.pattern.source().to_owned(),
            captures: captures.into_iter().map(capture).collect(),
            decode: rules.decode,
            document,
            steps,
            items: mapped.as_ref().ok().map(|items| items.len() as u64),
            quarantine: mapped.err(),
        }
    }
}

fn describe(document: &Document) -> String {
    match document {
        Document::Bytes(bytes) => format!("{} bytes, not read", bytes.len()),
        Document::Json(Json::Object(members)) => format!("an object with {} fields", members.len()),
        Document::Json(Json::Array(list)) => format!("a list of {}", list.len()),
        Document::Json(Json::String(_)) => "a text".to_owned(),
        Document::Json(Json::Number(_)) => "a number".to_owned(),
        Document::Json(Json::Bool(_)) => "a truth value".to_owned(),
        Document::Json(Json::Null) => "null".to_owned(),
    }
}

const fn type_of(value: &Value) -> &'static str {
    match value {
        Value::S(_) => "S",
        Value::N(_) => "N",
        Value::B(_) => "B",
        Value::Bool(_) => "BOOL",
        Value::Null => "NULL",
        Value::L(_) => "L",
        Value::M(_) => "M",
        Value::Ss(_) => "SS",
        Value::Ns(_) => "NS",
        Value::Bs(_) => "BS",
    }
}

/// Why a condition has no answer is in the quarantine that follows.
pub(super) fn answer(holds: &Result<bool, RenderError>) -> Option<bool> {
    holds.as_ref().ok().copied()
}
