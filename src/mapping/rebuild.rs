//! The inverse of the mapping: from the items of a blob to the JSON of its record.

use super::{EntityId, Json, Mapper, SOURCE_ATTRIBUTE};
use crate::plan::{BodyPlacement, ItemPlan};
use crate::value::{Item, Value};

/// What can be seen of the templates in an item that they made: their literal text.
#[derive(Debug)]
pub(super) struct Shape {
    attributes: Vec<(String, Literals)>,
}

#[derive(Debug)]
enum Literals {
    /// The text begins with the first, has the others in this order, and ends with the last.
    Around(Vec<String>),
    /// The template has statements; its text can be anything.
    Any,
}

impl Shape {
    pub(super) fn of(item: &ItemPlan) -> Self {
        let attributes = item.attributes.iter().map(|(name, source)| (name.clone(), Literals::of(source)));
        Self { attributes: attributes.collect() }
    }

    /// Whether an item can be of these templates: no attribute that is there contradicts.
    fn fits(&self, item: &Item) -> bool {
        self.attributes.iter().all(|(name, literals)| match item.get(name) {
            Some(Value::S(text)) => literals.fit(text),
            _ => true,
        })
    }
}

impl Literals {
    fn of(source: &str) -> Self {
        if source.contains("{%") || source.contains("{#") {
            return Self::Any;
        }
        let mut literals = Vec::new();
        let mut rest = source;
        while let Some((before, after)) = rest.split_once("{{") {
            literals.push(before.to_owned());
            let Some((_, after)) = after.split_once("}}") else { return Self::Any };
            rest = after;
        }
        literals.push(rest.to_owned());
        Self::Around(literals)
    }

    fn fit(&self, text: &str) -> bool {
        let Self::Around(literals) = self else { return true };
        let (Some(first), Some(last)) = (literals.first(), literals.last()) else { return true };
        if literals.len() == 1 {
            return text == first;
        }
        let Some(mut rest) =
            text.strip_prefix(first.as_str()).and_then(|rest| rest.strip_suffix(last.as_str()))
        else {
            return false;
        };
        for literal in &literals[1..literals.len() - 1] {
            let Some((_, after)) = rest.split_once(literal.as_str()) else { return false };
            rest = after;
        }
        true
    }
}

impl Mapper {
    /// The JSON of the record that these items of one blob were made of, in any order of the items, with
    /// or without `_source`. Numbers are in DynamoDB's form, so compare with [`Json::semantically_eq`].
    ///
    /// None where the plan keeps the record in no item (`body = "none"`), where the item that keeps it is
    /// not among these, or where it holds what JSON can't.
    #[must_use]
    pub fn rebuild<'a>(&self, entity: EntityId, items: impl IntoIterator<Item = &'a Item>) -> Option<Json> {
        let items: Vec<&Item> = items.into_iter().collect();
        let entity = &self.entities[entity.0];
        for (rule, shape) in entity.items.iter().zip(&entity.shapes) {
            if rule.body == BodyPlacement::None {
                continue;
            }
            let Some(item) = items.iter().find(|item| shape.fits(item)) else { continue };
            let planned = |name: &String| rule.compiled.attributes.iter().any(|(known, _)| known == name);
            return match &rule.body {
                BodyPlacement::Nested(name) => Json::from_value(item.get(name)?),
                BodyPlacement::Attributes | BodyPlacement::None => {
                    Json::object(item.iter().filter(|(name, _)| *name != SOURCE_ATTRIBUTE && !planned(name)))
                }
            };
        }
        None
    }
}
