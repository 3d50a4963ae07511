//! Items that the application wrote itself: which blob each is, and what that blob holds.
//!
//! An entity with `direct_writes` makes one item of a blob, and the item holds the whole document. So the way
//! back needs nothing but the item: its record is the document, and the plan's `pathname` template is its name.

use std::sync::Arc;

use minijinja::Value as Input;
use minijinja::value::{Enumerator, Object};

use super::context::{View, value};
use super::document::Document;
use super::item::SOURCE_ATTRIBUTE;
use super::json::Json;
use super::{BlobFacts, EntityId, Mapper, Quarantine, Reason, Rule};
use crate::blob::Pathname;
use crate::digest::Digest;
use crate::plan::compile::ITEM;
use crate::plan::template::{Evaluated, RenderError};
use crate::value::{Item, Key, Value};

/// What an item that was written directly is as a blob.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rebuilt {
    /// The document, as JSON without spaces.
    pub json: String,
    /// The attributes that the plan sets, and makes otherwise of this document: they are not in it.
    pub apart: Vec<String>,
}

/// Which blob an item is that came from none.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Claim {
    /// This one, of this entity.
    Is(EntityId, Pathname),
    /// None, and why not, for each entity that might have been.
    None(Vec<(String, Quarantine)>),
}

/// The digest of an item, `_source` aside: equal for equal items, numbers compared as decimals.
#[must_use]
pub fn item_digest(item: &Item) -> Digest {
    let mut text = Vec::new();
    let own = item.iter().filter(|(name, _)| *name != SOURCE_ATTRIBUTE);
    members(own, &mut text);
    Digest::of(text)
}

fn members<'a>(members: impl Iterator<Item = (&'a String, &'a Value)>, text: &mut Vec<u8>) {
    text.push(b'{');
    for (name, value) in members {
        sized(name.as_bytes(), text);
        canonical(value, text);
    }
    text.push(b'}');
}

/// Bytes behind their length, so that no two values run together.
fn sized(bytes: &[u8], text: &mut Vec<u8>) {
    text.extend_from_slice(bytes.len().to_string().as_bytes());
    text.push(b':');
    text.extend_from_slice(bytes);
}

fn canonical(value: &Value, text: &mut Vec<u8>) {
    let mut set = |kind: u8, mut elements: Vec<&[u8]>| {
        elements.sort_unstable();
        text.push(kind);
        text.push(b'[');
        elements.into_iter().for_each(|element| sized(element, text));
        text.push(b']');
    };
    match value {
        Value::Ss(texts) => return set(b's', texts.iter().map(String::as_bytes).collect()),
        Value::Ns(numbers) => {
            return set(b'n', numbers.iter().map(|number| number.as_str().as_bytes()).collect());
        }
        Value::Bs(all) => return set(b'b', all.iter().map(AsRef::as_ref).collect()),
        _ => {}
    }
    match value {
        Value::S(string) => {
            text.push(b'S');
            sized(string.as_bytes(), text);
        }
        Value::N(number) => {
            text.push(b'N');
            sized(number.as_str().as_bytes(), text);
        }
        Value::B(bytes) => {
            text.push(b'B');
            sized(bytes, text);
        }
        Value::Bool(truth) => text.push(if *truth { b'T' } else { b'F' }),
        Value::Null => text.push(b'0'),
        Value::L(list) => {
            text.push(b'[');
            list.iter().for_each(|value| canonical(value, text));
            text.push(b']');
        }
        Value::M(map) => members(map.iter(), text),
        Value::Ss(_) | Value::Ns(_) | Value::Bs(_) => {}
    }
}

impl Mapper {
    /// Whether the application writes items of this entity directly too.
    #[must_use]
    pub fn is_direct(&self, entity: EntityId) -> bool {
        self.entities[entity.0].direct.is_some()
    }

    /// Whether it does so with items of any entity.
    #[must_use]
    pub fn has_direct(&self) -> bool {
        self.entities.iter().any(|entity| entity.direct.is_some())
    }

    /// Whether the blob of an item of this entity goes with it where its TTL has passed.
    #[must_use]
    pub fn mirrors_expiry(&self, entity: EntityId) -> bool {
        self.entities[entity.0].direct.as_ref().is_some_and(|direct| direct.mirror_expiry)
    }

    /// When DynamoDB may delete an item, in seconds since 1970; none where it does not.
    #[must_use]
    pub fn expires(&self, item: &Item) -> Option<i64> {
        item.get(self.layout.ttl.as_ref()?)?.as_n()?.as_i64()
    }

    /// The document that an item of an entity with direct writes holds, if that document under this name becomes
    /// an item of the same key.
    ///
    /// # Errors
    /// The quarantine, where JSON can't hold it, or the plan makes another item of it.
    pub fn rebuilt(
        &self,
        entity: EntityId,
        blob: BlobFacts<'_>,
        (key, item): (&Key, &Item),
    ) -> Result<Rebuilt, Quarantine> {
        let of = &self.entities[entity.0];
        let shape = |detail: String| Quarantine::new(Reason::Shape, detail);
        let rule = of.items.first().ok_or_else(|| shape("its entity makes no items".to_owned()))?;
        let Some(Document::Json(json)) = rule.record_of(&[item], 0, of.levels_max) else {
            return Err(shape(
                "it holds sets or bytes, or lacks its document: JSON can't say that".to_owned(),
            ));
        };
        let document = Document::Json(json.clone());
        // What has expired is still what it is, for as long as it is there.
        let before = blob.uploaded_at - EXPIRED_MAX;
        let mapped = match self.map_document(entity, blob, &document, blob.uploaded_at) {
            Err(quarantine) if quarantine.reason == Reason::Ttl => {
                self.map_document(entity, blob, &document, before)?
            }
            mapped => mapped?,
        };
        let mut apart = Vec::new();
        for mapped in mapped {
            if mapped.key != *key {
                return Err(shape(format!("of its document the plan makes the item {}", mapped.key)));
            }
            let names = item.keys().chain(mapped.item.keys()).filter(|name| *name != SOURCE_ATTRIBUTE);
            for name in names {
                if item.get(name) == mapped.item.get(name) || apart.contains(name) {
                    continue;
                }
                if !rule.plans(name) {
                    return Err(shape(format!("its attribute `{name}` has no place in its document")));
                }
                apart.push(name.clone());
            }
        }
        Ok(Rebuilt { json: json.to_string(), apart })
    }

    /// Which blob an item is that no anchor lists, by the plan's `pathname` templates.
    #[must_use]
    pub fn claim(&self, key: &Key, item: &Item, now: jiff::Timestamp) -> Claim {
        let mut claims = Vec::new();
        let mut reasons = Vec::new();
        for (number, entity) in self.entities.iter().enumerate() {
            let Some(direct) = &entity.direct else { continue };
            let id = EntityId(number);
            match self.claimed(id, direct, (key, item), now) {
                Ok(pathname) => claims.push((id, pathname)),
                Err(quarantine) => reasons.push((entity.name.clone(), quarantine)),
            }
        }
        match claims.as_slice() {
            [_] => {
                let (entity, pathname) = claims.remove(0);
                Claim::Is(entity, pathname)
            }
            [] => Claim::None(reasons),
            several => {
                let why = Quarantine::new(Reason::Key, "items of several entities have such a key");
                let named = several.iter().map(|(id, _)| (self.entities[id.0].name.clone(), why.clone()));
                Claim::None(named.collect())
            }
        }
    }

    fn claimed(
        &self,
        entity: EntityId,
        direct: &Direct,
        (key, item): (&Key, &Item),
        now: jiff::Timestamp,
    ) -> Result<Pathname, Quarantine> {
        let refuse = |detail: String| Quarantine::new(Reason::Shape, detail);
        let Some(template) = direct.pathname else {
            return Err(refuse("the plan gives new items no `pathname`".to_owned()));
        };
        let context = Input::from_object(Named(Input::from_object(Attributes(item.clone()))));
        let text = self.templates.render(template, &mut Evaluated::new(context));
        let text = text.map_err(|error| match error {
            RenderError::Missing => refuse("an input of `pathname` is missing, null or empty".to_owned()),
            RenderError::Failed(detail) => refuse(format!("`pathname`: {detail}")),
        })?;
        let pathname = Pathname::new(text);
        if pathname.as_str().len() > PATHNAME_BYTES_MAX || self.rule(&pathname) != Rule::Entity(entity) {
            return Err(refuse(format!(
                "`pathname` gives `{pathname}`, which is no name of this entity's blobs"
            )));
        }
        let blob = BlobFacts { pathname: &pathname, uploaded_at: now };
        self.rebuilt(entity, blob, (key, item))?;
        Ok(pathname)
    }
}

/// How long ago an item may have expired that is still there: twenty years.
const EXPIRED_MAX: jiff::SignedDuration = jiff::SignedDuration::from_hours(20 * 366 * 24);

/// The longest pathname that is made up here, in bytes; the store's own bound is 950 characters.
const PATHNAME_BYTES_MAX: usize = 950;

/// What a plan says of items that the application writes itself.
#[derive(Debug)]
pub(super) struct Direct {
    pub(super) pathname: Option<crate::plan::template::TemplateId>,
    pub(super) mirror_expiry: bool,
}

/// The variables of the template of a pathname.
#[derive(Debug)]
struct Named(Input);

impl Object for Named {
    fn get_value(self: &Arc<Self>, key: &Input) -> Option<Input> {
        (key.as_str()? == ITEM).then(|| self.0.clone())
    }
}

/// The attributes of an item, as far as templates can read them.
#[derive(Debug)]
struct Attributes(Item);

impl Object for Attributes {
    fn get_value(self: &Arc<Self>, key: &Input) -> Option<Input> {
        value(&Json::from_value(self.0.get(key.as_str()?)?)?, View::Template)
    }

    fn enumerate(self: &Arc<Self>) -> Enumerator {
        Enumerator::Values(self.0.keys().map(|name| Input::from(name.as_str())).collect())
    }
}
