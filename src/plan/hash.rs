//! The hash of a plan, which all evidence is bound to.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::entity::EntityPlan;
use super::types::{Plan, TargetPlan};
use crate::digest::Digest;

/// The SHA-256 of a plan as it is executed: the blocks, with defaults filled in and overrides applied.
/// Prose and check boxes are outside it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct PlanHash(pub Digest);

impl PlanHash {
    /// The hash of a plan.
    #[must_use]
    pub fn of(plan: &Plan) -> Self {
        Self(digest(&[plan]))
    }

    /// The first 12 digits, for people.
    #[must_use]
    pub fn short(&self) -> String {
        self.0.to_string().chars().take(12).collect()
    }
}

impl fmt::Display for PlanHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// One more where the same rules come to mean other items.
const MAPPING_VERSION: u32 = 1;

/// The digest of one entity's rules and of the table's layout that they are applied to: a blob that was
/// mapped under another one must be mapped again.
#[must_use]
pub fn mapping_digest(entity: &EntityPlan, target: &TargetPlan) -> Digest {
    let layout = (&target.partition_key, &target.sort_key, &target.ttl, &target.indexes);
    digest(&[(MAPPING_VERSION, entity, layout)])
}

fn digest(content: &[impl Serialize]) -> Digest {
    let json = serde_json::to_value(content).expect("invariant: a plan is tables, lists, text and numbers");
    Digest::of(canonical_text(&json))
}

/// Canonical JSON: names sorted, no spaces.
pub(super) fn canonical_text(json: &serde_json::Value) -> String {
    let mut text = String::new();
    canonical(json, &mut text);
    text
}

fn canonical(json: &serde_json::Value, text: &mut String) {
    match json {
        serde_json::Value::Object(members) => {
            let mut names: Vec<_> = members.iter().collect();
            names.sort_by_key(|(name, _)| *name);
            text.push('{');
            for (index, (name, json)) in names.into_iter().enumerate() {
                if index > 0 {
                    text.push(',');
                }
                text.push_str(&serde_json::Value::from(name.as_str()).to_string());
                text.push(':');
                canonical(json, text);
            }
            text.push('}');
        }
        serde_json::Value::Array(list) => {
            text.push('[');
            for (index, json) in list.iter().enumerate() {
                if index > 0 {
                    text.push(',');
                }
                canonical(json, text);
            }
            text.push(']');
        }
        scalar => text.push_str(&scalar.to_string()),
    }
}
