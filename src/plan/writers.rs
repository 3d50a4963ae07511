//! What all writers of a migration must agree on.

use serde::Serialize;
use serde_json::{Value, json};

use super::hash::canonical_text;
use super::types::{PatternPlan, Plan};
use crate::digest::Digest;
use crate::legible::first_of;

/// So many keys a message names.
const NAMED_MAX: usize = 5;

/// The part of a plan that decides which pathnames are mapped and how, and how writers agree with each other. Processes of
/// which it differs must not write at the same time across a change of authority: what the one mirrors, the other would
/// pass on, and both would acknowledge.
#[derive(Debug, Clone, PartialEq)]
pub struct Writers {
    /// SHA-256 of [`Writers::text`].
    pub digest: Digest,
    json: Value,
}

impl Writers {
    /// That of a plan: `[source]` without rates and budgets, keys and indexes of `[target]`, entities, the patterns of
    /// ignore and accept rules, `[capture]`, `[timing]`.
    #[must_use]
    pub fn of(plan: &Plan) -> Self {
        let (source, target) = (&plan.source, &plan.target);
        let patterns =
            |rules: &[PatternPlan]| -> Value { rules.iter().map(|rule| rule.blobs.as_str()).collect() };
        let json = json!({
            "source": {
                "store": source.store,
                "prefix": source.prefix,
                "access": of(&source.access),
                "etags": of(&source.etags),
                "url": source.url,
            },
            "target": {
                "partition_key": target.partition_key,
                "sort_key": target.sort_key,
                "ttl": target.ttl,
                "index": of(&target.indexes),
            },
            "entity": of(&plan.entities),
            "ignore": patterns(&plan.ignored),
            "accept": patterns(&plan.accepted),
            "capture": of(&plan.capture),
            "timing": of(&plan.timing),
        });
        Self::from_json(json)
    }

    fn from_json(json: Value) -> Self {
        Self { digest: Digest::of(canonical_text(&json)), json }
    }

    /// What was kept of another plan; none for text that is no JSON.
    #[must_use]
    pub fn from_text(text: &str) -> Option<Self> {
        Some(Self::from_json(serde_json::from_str(text).ok()?))
    }

    /// As it is kept: canonical JSON.
    #[must_use]
    pub fn text(&self) -> String {
        canonical_text(&self.json)
    }

    /// The keys in which another plan differs, the first of them, for people.
    #[must_use]
    pub fn differences(&self, other: &Self) -> String {
        let mut keys = Vec::new();
        differing("", &self.json, &other.json, &mut keys);
        first_of(keys.into_iter().map(|key| format!("`{key}`")), NAMED_MAX)
    }
}

fn of(part: &impl Serialize) -> Value {
    serde_json::to_value(part).expect("invariant: a plan is tables, lists, text and numbers")
}

fn differing(at: &str, one: &Value, other: &Value, keys: &mut Vec<String>) {
    match (one, other) {
        (Value::Object(one), Value::Object(other)) => {
            let names: std::collections::BTreeSet<&String> = one.keys().chain(other.keys()).collect();
            for name in names {
                let at = if at.is_empty() { name.clone() } else { format!("{at}.{name}") };
                let of = |object: &serde_json::Map<String, Value>| object.get(name).cloned();
                differing(&at, &of(one).unwrap_or_default(), &of(other).unwrap_or_default(), keys);
            }
        }
        (Value::Array(one), Value::Array(other)) if one.len() == other.len() => {
            for (index, (one, other)) in one.iter().zip(other).enumerate() {
                differing(&format!("{at}[{index}]"), one, other, keys);
            }
        }
        _ if one == other => {}
        _ => keys.push(at.to_owned()),
    }
}
