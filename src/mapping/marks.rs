//! What a policy of the plan changes in an item, and the attributes that say so.
//!
//! Every change leaves a mark in its item, from which the record comes back as it was.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::json::{Json, JsonNumber};
use super::quarantine::Quarantine;
use crate::plan::{EmptyStrings, EntityPlan, Numbers, PastTtl, TooLarge};
use crate::value::{Item, Value};

/// The names of the marks.
pub(super) use crate::plan::mark::{BODY, EMPTY, ENCODING, NUMBERS, PART, PARTS};

/// What an entity does with what can't be held as it is.
#[derive(Debug, Clone)]
pub(super) struct Policies {
    pub(super) past_ttl: PastTtl,
    pub(super) numbers: Numbers,
    pub(super) empty_strings: EmptyStrings,
    pub(super) too_large: TooLarge,
    marks: Vec<&'static str>,
}

impl Policies {
    pub(super) fn of(entity: &EntityPlan) -> Self {
        Self {
            past_ttl: entity.past_ttl,
            numbers: entity.numbers,
            empty_strings: entity.empty_strings,
            too_large: entity.too_large,
            marks: entity.marks().collect(),
        }
    }

    /// Whether an attribute of this name is a mark under these policies.
    pub(super) fn mark(&self, name: &str) -> bool {
        self.marks.contains(&name)
    }
}

/// The attribute value of a field, or of a whole record where `pointer` is empty; numbers that DynamoDB can't
/// hold are text if the plan says so, and `texts` then has their pointers.
pub(super) fn value_of(
    json: &Json,
    numbers: Numbers,
    pointer: &str,
    texts: &mut Vec<Value>,
) -> Result<Value, Quarantine> {
    match json.to_value() {
        Err(_) if numbers == Numbers::Text => with_texts(json, pointer, texts),
        result => result,
    }
}

fn with_texts(json: &Json, pointer: &str, texts: &mut Vec<Value>) -> Result<Value, Quarantine> {
    Ok(match json {
        Json::Number(number) => match json.to_value() {
            Ok(value) => value,
            Err(_) => {
                texts.push(Value::s(pointer));
                Value::s(number.as_str())
            }
        },
        Json::Array(list) => {
            let elements = list.iter().enumerate();
            let elements = elements.map(|(at, json)| with_texts(json, &format!("{pointer}/{at}"), texts));
            Value::L(elements.collect::<Result<_, _>>()?)
        }
        Json::Object(members) => {
            let mut map = BTreeMap::new();
            for (name, json) in members.iter() {
                map.insert(name.clone(), with_texts(json, &below(pointer, name), texts)?);
            }
            Value::M(map)
        }
        other => other.to_value()?,
    })
}

/// The pointer to a member.
pub(super) fn below(pointer: &str, name: &str) -> String {
    format!("{pointer}/{}", name.replace('~', "~0").replace('/', "~1"))
}

/// The record as it was before the policies: numbers that are text, and fields that were left out.
pub(super) fn unmarked(mut record: Json, item: &Item, policies: &Policies) -> Option<Json> {
    if policies.numbers == Numbers::Text {
        for pointer in texts_of(item, NUMBERS)? {
            let steps: Vec<String> =
                pointer.split('/').skip(1).map(|step| step.replace("~1", "/").replace("~0", "~")).collect();
            let number = at(&mut record, &steps)?;
            let Json::String(text) = &*number else { return None };
            *number = Json::Number(JsonNumber::parse(text)?);
        }
    }
    if policies.empty_strings == EmptyStrings::Omit {
        let names = texts_of(item, EMPTY)?;
        if !names.is_empty() {
            let Json::Object(members) = &mut record else { return None };
            let members = Arc::make_mut(members);
            members.extend(names.into_iter().map(|name| (name.to_owned(), Json::String("".into()))));
        }
    }
    Some(record)
}

fn texts_of<'a>(item: &'a Item, mark: &str) -> Option<Vec<&'a str>> {
    let Some(list) = item.get(mark) else { return Some(Vec::new()) };
    list.as_l()?.iter().map(Value::as_s).collect()
}

fn at<'a>(json: &'a mut Json, steps: &[String]) -> Option<&'a mut Json> {
    let Some((step, rest)) = steps.split_first() else { return Some(json) };
    match json {
        Json::Array(list) => at(Arc::make_mut(list).get_mut(step.parse::<usize>().ok()?)?, rest),
        Json::Object(members) => at(Arc::make_mut(members).get_mut(step)?, rest),
        _ => None,
    }
}
