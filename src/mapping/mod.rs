//! From a blob to the items it becomes, and back.
//!
//! [`Mapper`] is a plan's entities, compiled. It is pure: bytes and a head in, items or a
//! [`Quarantine`] out, the same for the same input, always. Nothing is coerced, truncated or skipped:
//! what cannot be held as it is, is quarantined with a reason and, where there is one, an offset.
//!
//! [`Json`] is a document without loss; `item` knows every limit of an item; the templates themselves are
//! compiled in [`crate::plan::template`]. Nothing in here may read a clock, a store or the environment.

mod context;
mod item;
mod json;
mod rebuild;

use std::fmt;
use std::sync::Arc;

use minijinja::Value as Input;
use regex::RegexSet;
use serde::{Deserialize, Serialize};

use crate::blob::Pathname;
use crate::digest::Digest;
use crate::error::{Error, ErrorKind, Result};
use crate::plan::compile::CompiledPlan;
use crate::plan::pattern::Pattern;
use crate::plan::template::{Evaluated, RenderError, Templates};
use crate::plan::{Duplicates, PatternPlan, Plan, mapping_digest};
use crate::value::{Item, Key};
use context::{Context, View};
use item::{ItemRule, Layout, Renderer};
use rebuild::Shape;

pub use item::{SOURCE_ATTRIBUTE, source_bytes};
pub use json::{Json, JsonNumber, LEVELS_MAX};

/// What the plan says of a pathname.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Rule<'a> {
    /// It becomes items of this entity.
    Entity(EntityId),
    /// It is listed and left alone.
    Ignored {
        /// The pattern that matched.
        blobs: &'a str,
        /// Why, in the plan's words.
        reason: &'a str,
    },
    /// It is known to be unmappable, counted, and stays in Blob. An accept rule goes before an entity's.
    Accepted {
        /// The pattern that matched.
        blobs: &'a str,
        /// Why, in the plan's words.
        reason: &'a str,
    },
    /// No rule matches.
    Unmatched,
    /// Several rules match, which the plan must settle.
    Ambiguous(Vec<String>),
}

/// An entity of the plan, by its place in it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct EntityId(pub usize);

/// One item that a blob becomes. `_source` is not part of it: the caller adds that.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MappedItem {
    /// Where it goes.
    pub key: Key,
    /// All of its attributes, the keys included.
    pub item: Item,
    /// The indexes that the plan wants it in, and that it is not in because an input of theirs is
    /// missing, null or empty.
    pub omitted: Vec<String>,
}

/// Why a blob can't become items.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Quarantine {
    /// The kind of reason, for counting.
    pub reason: Reason,
    /// In words: what, where in the document.
    pub detail: String,
    /// The byte of the body at which it was found.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub offset: Option<u64>,
}

impl fmt::Display for Quarantine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.reason, self.detail)?;
        if let Some(offset) = self.offset {
            write!(f, " (byte {offset})")?;
        }
        Ok(())
    }
}

/// The kinds of reasons for a quarantine.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Reason {
    /// Not JSON, or not UTF-8.
    NotJson,
    /// A number that DynamoDB can't hold.
    Number,
    /// The item would be larger than DynamoDB's limit.
    ItemTooLarge,
    /// A table key that is missing, null, empty, not text or too long.
    Key,
    /// An index key that is too long.
    IndexKey,
    /// The same name twice in one object.
    DuplicateName,
    /// Nested too deeply.
    Depth,
    /// An empty attribute name.
    AttributeName,
    /// A field of the record has the name of an attribute that the plan sets.
    NameClash,
    /// The TTL has passed already, is in milliseconds, or is not a number.
    Ttl,
    /// A template or a condition failed.
    Template,
    /// Two items of one blob have the same key.
    DuplicateKey,
    /// The document has another shape than the plan says, such as a list where an object is needed.
    Shape,
    /// No item's condition holds, so that nothing of the blob would be stored.
    NoItem,
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.serialize(f)
    }
}

/// What the mapping needs of a blob besides its bytes.
#[derive(Debug, Clone, Copy)]
pub struct BlobFacts<'a> {
    /// Its name.
    pub pathname: &'a Pathname,
    /// When it was stored; templates may use it as `uploadedAt`.
    pub uploaded_at: jiff::Timestamp,
}

/// A plan's entities, compiled. Cheap to share (`Arc`), safe to use from many threads.
#[derive(Debug)]
pub struct Mapper {
    templates: Templates,
    layout: Layout,
    entities: Vec<Entity>,
    ignored: Vec<PatternPlan>,
    accepted: Vec<PatternPlan>,
    /// The patterns of the accept rules, of the ignore rules, and of the entities, in this order.
    patterns: RegexSet,
}

#[derive(Debug)]
struct Entity {
    name: String,
    pattern: Pattern,
    duplicates: Duplicates,
    digest: Digest,
    items: Vec<ItemRule>,
    shapes: Vec<Shape>,
}

impl Mapper {
    /// Compiles a plan's patterns and templates.
    ///
    /// # Errors
    /// `Usage`, naming entity and key, for a pattern or template that can't be compiled.
    pub fn new(plan: &Plan) -> Result<Self> {
        let compiled = CompiledPlan::new(plan)?;
        let layout = Layout::new(&plan.target);
        let all = compiled.accepted.iter().chain(&compiled.ignored);
        let all = all.chain(compiled.entities.iter().map(|entity| &entity.pattern));
        let patterns = RegexSet::new(all.map(Pattern::expression))
            .map_err(|error| Error::new(ErrorKind::Usage, "compile the plan's patterns").source(error))?;
        let entities = plan.entities.iter().zip(compiled.entities).map(|(entity, compiled)| {
            let rules = entity.items.iter().zip(compiled.items).map(|(item, compiled)| ItemRule {
                compiled,
                body: item.body.clone(),
                past_ttl: entity.past_ttl,
            });
            Entity {
                name: entity.name.clone(),
                pattern: compiled.pattern,
                duplicates: entity.duplicates,
                digest: mapping_digest(entity, &plan.target),
                items: rules.collect(),
                shapes: entity.items.iter().map(Shape::of).collect(),
            }
        });
        Ok(Self {
            entities: entities.collect(),
            templates: compiled.templates,
            layout,
            ignored: plan.ignored.clone(),
            accepted: plan.accepted.clone(),
            patterns,
        })
    }

    /// What the plan says of a pathname. An accept rule goes before an entity's, so that single blobs of
    /// an entity can be accepted; every other overlap of different kinds of rules is ambiguous.
    #[must_use]
    pub fn rule(&self, pathname: &Pathname) -> Rule<'_> {
        let (mut accepted, mut ignored, mut entities) = (None, None, Vec::new());
        for index in self.patterns.matches(pathname.as_str()) {
            if index < self.accepted.len() {
                accepted = accepted.or(Some(&self.accepted[index]));
            } else if index - self.accepted.len() < self.ignored.len() {
                ignored = ignored.or(Some(&self.ignored[index - self.accepted.len()]));
            } else {
                entities.push(EntityId(index - self.accepted.len() - self.ignored.len()));
            }
        }
        match (accepted, ignored, entities.as_slice()) {
            (Some(rule), None, _) => Rule::Accepted { blobs: &rule.blobs, reason: &rule.reason },
            (None, Some(rule), []) => Rule::Ignored { blobs: &rule.blobs, reason: &rule.reason },
            (None, None, [entity]) => Rule::Entity(*entity),
            (None, None, []) => Rule::Unmatched,
            (accepted, ignored, entities) => {
                let rules = accepted.iter().map(|rule| format!("accept `{}`", rule.blobs));
                let rules = rules.chain(ignored.iter().map(|rule| format!("ignore `{}`", rule.blobs)));
                let entities = entities.iter().map(|id| format!("entity `{}`", self.entities[id.0].name));
                Rule::Ambiguous(rules.chain(entities).collect())
            }
        }
    }

    /// The name of an entity.
    #[must_use]
    pub fn name(&self, entity: EntityId) -> &str {
        &self.entities[entity.0].name
    }

    /// The digest of an entity's rules: a blob mapped under another one must be mapped again.
    #[must_use]
    pub fn digest(&self, entity: EntityId) -> Digest {
        self.entities[entity.0].digest
    }

    /// The document that a blob of this entity holds.
    ///
    /// # Errors
    /// The quarantine, where it holds none.
    pub fn decode(&self, entity: EntityId, body: &[u8]) -> Result<Json, Quarantine> {
        Json::parse(body, self.entities[entity.0].duplicates)
    }

    /// The items that a blob of this entity becomes, at least one, in the order of the plan. Equal
    /// arguments give equal items. `now` decides what a passed TTL is, and nothing else.
    ///
    /// # Errors
    /// The quarantine, where it can't become items.
    pub fn map(
        &self,
        entity: EntityId,
        blob: BlobFacts<'_>,
        body: &[u8],
        now: jiff::Timestamp,
    ) -> Result<Vec<MappedItem>, Quarantine> {
        let json = self.decode(entity, body)?;
        let entity = &self.entities[entity.0];
        let pathname = blob.pathname.as_str();
        let Some(captures) = entity.pattern.captures(pathname) else {
            return Err(Quarantine {
                reason: Reason::Shape,
                detail: format!("the pathname is not of the form `{}`", entity.pattern.source()),
                offset: None,
            });
        };
        let context = |view| {
            Input::from_object(Context {
                view,
                body: json.clone(),
                pathname: Arc::from(pathname),
                uploaded_at: blob.uploaded_at,
                captures: captures.clone(),
            })
        };
        let mut conditions = None;
        let mut renderer =
            Renderer { templates: &self.templates, evaluated: Evaluated::new(context(View::Template)) };
        let mut items: Vec<MappedItem> = Vec::with_capacity(entity.items.len());
        for rule in &entity.items {
            if let Some(when) = rule.compiled.when {
                let seen = conditions.get_or_insert_with(|| Evaluated::new(context(View::Condition)));
                if !self.templates.holds(when, seen).map_err(failed_condition)? {
                    continue;
                }
            }
            let mapped = rule.build(&self.layout, &mut renderer, &json, pathname, now)?;
            if items.iter().any(|item| item.key == mapped.key) {
                let detail = "two items of the blob have the same key".to_owned();
                return Err(Quarantine { reason: Reason::DuplicateKey, detail, offset: None });
            }
            items.push(mapped);
        }
        if items.is_empty() {
            let detail = "no item's condition holds".to_owned();
            return Err(Quarantine { reason: Reason::NoItem, detail, offset: None });
        }
        Ok(items)
    }
}

fn failed_condition(error: RenderError) -> Quarantine {
    let detail = match error {
        RenderError::Missing => "`when`: an input is undefined, null or empty".to_owned(),
        RenderError::Failed(detail) => format!("`when`: {detail}"),
    };
    Quarantine { reason: Reason::Template, detail, offset: None }
}

#[cfg(test)]
mod tests;
