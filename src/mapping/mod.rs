//! From a blob to the items it becomes, and back.
//!
//! [`Mapper`] is a plan's entities, compiled. It is pure: bytes and a head in, items or a
//! [`Quarantine`] out, the same for the same input, always. Nothing is coerced, truncated or skipped:
//! what cannot be held as it is, is quarantined with a reason and, where there is one, an offset.
//!
//! [`Json`] is a document without loss; `item` knows every limit of an item; the templates themselves are
//! compiled in [`crate::plan::template`]. Nothing in here may read a clock, a store or the environment.

mod context;
mod decode;
mod direct;
mod document;
mod envelope;
mod explain;
mod item;
mod json;
mod large;
mod marks;
mod outline;
mod quarantine;
mod records;
mod run;
mod skeleton;
mod streaming;

use regex::RegexSet;
use secrecy::SecretString;

use crate::blob::Pathname;
use crate::blob::space::DRILLS;
use crate::blob::spool::MEMORY_BYTES_MAX;
use crate::digest::Digest;
use crate::error::{Error, ErrorKind, Result};
use crate::plan::compile::CompiledPlan;
use crate::plan::pattern::Pattern;
use crate::plan::template::Templates;
use crate::plan::{Decode, Duplicates, PatternPlan, Plan, mapping_digest};
use crate::value::{Item, Key};
use envelope::Vault;
use item::{ItemRule, Layout};
use json::Reading;
use marks::Policies;
use outline::REST_BYTES_MAX;
use streaming::ByRecord;

pub use direct::{Claim, Rebuilt, item_digest};
pub use document::Document;
pub use explain::{BuiltStep, Capture, Explained, From, Placed, Step};
pub use item::{SOURCE_ATTRIBUTE, source_bytes};
pub use json::{Json, JsonNumber, LEVELS_MAX};
pub use outline::{Halt, Outline};
pub use quarantine::{Quarantine, Reason};
pub use records::Place;
pub use skeleton::{Piece, Pieces, Skeleton};
pub use streaming::{Position, Records};

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
    /// The group whose item it is: of all blobs with an item of this group, the newest one's is stored.
    pub group: Option<String>,
    /// What it was made of.
    pub origin: Origin,
}

impl MappedItem {
    /// An item of a whole document, by the first rule of its entity.
    #[must_use]
    pub fn new(key: Key, item: Item) -> Self {
        Self { key, item, omitted: Vec::new(), group: None, origin: Origin::default() }
    }
}

/// What an item was made of.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Origin {
    /// The number of its rule among those of its entity, from 0.
    pub rule: usize,
    /// Where its record is in the document.
    pub place: Place,
    /// Which part of the record it is, from 1, where the record is over several items.
    pub part: Option<u32>,
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
    vault: Vault,
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
    /// Whether a template asks for what the pattern captures.
    uses_captures: bool,
    decode: Decode,
    duplicates: Duplicates,
    /// How deep a document may be so that each of its records can be an item.
    levels_max: u32,
    digest: Digest,
    items: Vec<ItemRule>,
    /// What is done with items that the application writes itself; none where it does not.
    direct: Option<direct::Direct>,
    /// How long documents are read; or why they have to be read as a whole.
    by_record: Result<ByRecord, &'static str>,
}

impl Mapper {
    /// Compiles a plan's patterns and templates, without a key for encrypted blobs.
    ///
    /// # Errors
    /// As for [`Mapper::with_key`].
    pub fn new(plan: &Plan) -> Result<Self> {
        Self::with_key(plan, None)
    }

    /// The same, with the secret that encrypted blobs are opened with. It is part of no digest.
    ///
    /// # Errors
    /// `Usage`, naming entity and key, for a pattern or template that can't be compiled, and where an
    /// entity's blobs are always encrypted and there is no secret.
    pub fn with_key(plan: &Plan, secret: Option<SecretString>) -> Result<Self> {
        let vault = Vault::new(secret);
        let sealed = plan.entities.iter().find(|entity| entity.decode == Decode::FuseEnvelope);
        if let Some(entity) = sealed.filter(|_| !vault.has_secret()) {
            return Err(Error::new(ErrorKind::Usage, "open encrypted blobs")
                .key(format_args!("entity `{}`", entity.name))
                .message("its blobs are encrypted, and there is no key")
                .hint("set ENCRYPTION_KEY to the secret that the application encrypts with"));
        }
        let compiled = CompiledPlan::new(plan)?;
        let layout = Layout::new(&plan.target);
        let all = compiled.accepted.iter().chain(&compiled.ignored);
        let all = all.chain(compiled.entities.iter().map(|entity| &entity.pattern));
        let patterns = RegexSet::new(all.map(Pattern::expression))
            .map_err(|error| Error::new(ErrorKind::Usage, "compile the plan's patterns").source(error))?;
        let templates = &compiled.templates;
        let entities = plan.entities.iter().zip(compiled.entities).map(|(entity, compiled)| {
            let by_record = ByRecord::new(entity, &compiled, templates);
            let steps_max = compiled.items.iter().map(|item| item.each.steps().len()).max().unwrap_or(0);
            let steps_max = u32::try_from(steps_max).unwrap_or(u32::MAX - LEVELS_MAX);
            let rules = entity.items.iter().zip(compiled.items).enumerate();
            let rules = rules.map(|(number, (item, compiled))| ItemRule {
                number,
                compiled,
                body: item.body.clone(),
                policies: Policies::of(entity),
            });
            Entity {
                name: entity.name.clone(),
                pattern: compiled.pattern,
                uses_captures: compiled.uses_captures,
                decode: entity.decode,
                duplicates: entity.duplicates,
                levels_max: LEVELS_MAX + steps_max,
                digest: mapping_digest(entity, &plan.target),
                items: rules.collect(),
                direct: entity.direct_writes.then_some(direct::Direct {
                    pathname: compiled.pathname,
                    mirror_expiry: entity.mirror_expiry,
                }),
                by_record,
            }
        });
        let entities = entities.collect();
        Ok(Self {
            entities,
            templates: compiled.templates,
            vault,
            layout,
            ignored: plan.ignored.clone(),
            accepted: plan.accepted.clone(),
            patterns,
        })
    }

    /// What the plan says of a pathname; of a drill's own, that it is ignored. An accept rule goes before an entity's, so that single blobs of
    /// an entity can be accepted; every other overlap of different kinds of rules is ambiguous.
    #[must_use]
    pub fn rule(&self, pathname: &Pathname) -> Rule<'_> {
        if pathname.as_str().starts_with(DRILLS) {
            return Rule::Ignored { blobs: DRILLS, reason: "a drill's own" };
        }
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
    pub fn decode(&self, entity: EntityId, body: &[u8]) -> Result<Document, Quarantine> {
        let entity = &self.entities[entity.0];
        let reading = Reading { duplicates: entity.duplicates, levels_max: entity.levels_max, offset: 0 };
        decode::decode(entity.decode, reading, &self.vault, body)
    }

    /// The items that a blob of this entity becomes, at least one: rule by rule in the order of the plan,
    /// rules with the same `each` together, record by record in the order of the document. Equal arguments
    /// give equal items. `now` decides what a passed TTL is, and nothing else.
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
        let document = self.decode(entity, body)?;
        let items = self.map_document(entity, blob, &document, now)?;
        // A long body is put together from its items when it is asked for.
        if body.len() as u64 > MEMORY_BYTES_MAX
            && self.skeleton(entity, &document, &items).text_bytes() > REST_BYTES_MAX
        {
            return Err(outline::too_long_a_rest());
        }
        Ok(items)
    }

    /// The same, of a document that was decoded already.
    ///
    /// # Errors
    /// As for [`Mapper::map`].
    pub fn map_document(
        &self,
        entity: EntityId,
        blob: BlobFacts<'_>,
        document: &Document,
        now: jiff::Timestamp,
    ) -> Result<Vec<MappedItem>, Quarantine> {
        run::run(self, &self.entities[entity.0], blob, document, now)
    }
}

#[cfg(test)]
mod tests;
