//! What a plan must satisfy beyond its types, before anything is read or written.

use std::collections::BTreeSet;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::compile::{CompiledEntity, CompiledItem, CompiledPlan, GROUP};
use super::entity::{BodyPlacement, Decode, EntityPlan, ItemPlan, TooLarge};
use super::problem::Problem;
use super::template::Templates;
use super::types::{Plan, SourcePlan, Span, TargetPlan, TimingPlan};

/// The program's own attribute.
const SOURCE_ATTRIBUTE: &str = "_source";
/// The keys of an item that are not attributes.
const ITEM_KEYS: [&str; 4] = ["each", "group_by", "when", "body"];
/// The longest name of a key attribute (AWS, "Service, account, and table quotas in Amazon DynamoDB").
const KEY_NAME_BYTES_MAX: usize = 255;
/// The longest name of a data table: the control table's, with `-migration`, has at most 255 bytes.
const TABLE_NAME_BYTES_MAX: usize = 245;

/// Whether each value of each `[[entity.item]]` is text, and no key is a misspelt one of ours: the type of
/// an item takes any name for an attribute.
pub(super) fn items_are_templates(plan: &DeTable<'_>) -> Result<(), Problem> {
    for (entity_index, entity) in tables(plan, "entity") {
        for (item_index, item) in tables(entity, "item") {
            for (key, value) in item {
                let name = key.get_ref();
                let at = |message: String| {
                    let problem = Problem::new(message).within(name).element(item_index).within("item");
                    problem.element(entity_index).within("entity")
                };
                if !matches!(value.get_ref(), DeValue::String(_)) {
                    return Err(at("it must be text: a template".to_owned()));
                }
                let simple = name.to_lowercase().replace(['-', '_'], "");
                let meant = ITEM_KEYS.into_iter().find(|known| known.replace('_', "") == simple);
                if let Some(known) = meant.filter(|known| *known != name.as_ref()) {
                    return Err(at(format!("did you mean `{known}`?")));
                }
            }
        }
    }
    Ok(())
}

fn tables<'a, 'i>(table: &'a DeTable<'i>, name: &str) -> Vec<(usize, &'a DeTable<'i>)> {
    let list = table.iter().find(|(key, _)| key.get_ref() == name).map(|(_, value)| value.get_ref());
    let Some(DeValue::Array(list)) = list else { return Vec::new() };
    let table = |(index, element): (usize, &'a Spanned<DeValue<'i>>)| match element.get_ref() {
        DeValue::Table(table) => Some((index, table)),
        _ => None,
    };
    list.iter().enumerate().filter_map(table).collect()
}

/// Checks a plan.
///
/// # Errors
/// The first problem, and where it is.
pub fn check(plan: &Plan) -> Result<(), Problem> {
    source(&plan.source).map_err(|problem| problem.within("source"))?;
    target(&plan.target).map_err(|problem| problem.within("target"))?;
    timing(&plan.timing).map_err(|problem| problem.within("timing"))?;
    percent(plan.gates.shadow_reads.sample)
        .map_err(|problem| problem.within("sample").within("shadow-reads").within("gates"))?;
    percent(plan.canary.sample).map_err(|problem| problem.within("sample").within("canary"))?;
    if plan.hook.as_ref().is_some_and(|hook| hook.command.first().is_none_or(String::is_empty)) {
        let problem = Problem::new("it names no program: a list such as `[\"./told.sh\", \"--now\"]`");
        return Err(problem.within("command").within("hook"));
    }
    if plan.hook.as_ref().is_some_and(|hook| hook.timeout.0.is_zero()) {
        return Err(Problem::new("it must be longer than nothing").within("timeout").within("hook"));
    }
    let compiled = CompiledPlan::new(plan)?;
    if plan.entities.is_empty() {
        return Err(Problem::new("there is no `[[entity]]`, so nothing would be migrated"));
    }
    let mut names = BTreeSet::new();
    let mut patterns = BTreeSet::new();
    for (index, entity) in plan.entities.iter().enumerate() {
        let at = |problem: Problem| problem.element(index).within("entity");
        if entity.name.is_empty() || !names.insert(&entity.name) {
            let message = format!("two entities have the name `{}`, or it is empty", entity.name);
            return Err(at(Problem::new(message).within("name")));
        }
        if !patterns.insert(&entity.blobs) {
            let message = format!("two entities have the pattern `{}`", entity.blobs);
            return Err(at(Problem::new(message).within("blobs")));
        }
        self::entity(&plan.target, entity, &compiled.entities[index], &compiled.templates).map_err(at)?;
    }
    for (key, rules) in [("ignore", &plan.ignored), ("accept", &plan.accepted)] {
        for (index, rule) in rules.iter().enumerate() {
            if rule.reason.trim().is_empty() {
                let problem = Problem::new("it says no reason, which those who review the plan need");
                return Err(problem.within("reason").element(index).within(key));
            }
        }
    }
    Ok(())
}

fn percent(number: u8) -> Result<(), Problem> {
    if number > 100 {
        return Err(Problem::new(format!("{number} is more than 100 of a hundred")));
    }
    Ok(())
}

fn source(source: &SourcePlan) -> Result<(), Problem> {
    let plain = |text: &str| text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"._-".contains(&byte));
    if source.store.is_empty() || source.store.starts_with('.') || !plain(&source.store) {
        let message = "a store's name is letters, digits, `-`, `_` and `.`: files are named after it";
        return Err(Problem::new(message).within("store"));
    }
    if !(source.background_share > 0.0 && source.background_share <= 1.0) {
        let message = format!("{} is not above 0 and at most 1", source.background_share);
        return Err(Problem::new(message).within("background_share"));
    }
    if let Some(text) = &source.url {
        let is_http =
            url::Url::parse(text.expose()).is_ok_and(|url| ["http", "https"].contains(&url.scheme()));
        if !is_http {
            return Err(Problem::new(format!("`{text}` is not an http or https URL")).within("url"));
        }
    }
    Ok(())
}

fn target(target: &TargetPlan) -> Result<(), Problem> {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
    if !(3..=TABLE_NAME_BYTES_MAX).contains(&target.table.len()) || !target.table.bytes().all(plain) {
        let message =
            format!("a table's name is 3 to {TABLE_NAME_BYTES_MAX} letters, digits, `-`, `_` and `.`");
        return Err(Problem::new(message).within("table"));
    }
    key_names(&target.partition_key, &target.sort_key)?;
    let mut names = BTreeSet::new();
    for (number, index) in target.indexes.iter().enumerate() {
        let at = |problem: Problem| problem.element(number).within("index");
        let is_name = (3..=KEY_NAME_BYTES_MAX).contains(&index.name.len()) && index.name.bytes().all(plain);
        if !is_name || !names.insert(&index.name) {
            let message = "an index's name is 3 to 255 letters, digits, `-`, `_` and `.`, and unique";
            return Err(at(Problem::new(message).within("name")));
        }
        key_names(&index.partition_key, &index.sort_key).map_err(at)?;
    }
    if let Some(ttl) = &target.ttl {
        let is_key = keys(target).contains(&ttl.as_str());
        if ttl.is_empty() || ttl == SOURCE_ATTRIBUTE || is_key {
            let message =
                format!("`{ttl}` can't be the TTL attribute: it is empty, a key, or the program's own");
            return Err(Problem::new(message).within("ttl"));
        }
    }
    Ok(())
}

fn key_names(partition_key: &str, sort_key: &str) -> Result<(), Problem> {
    for (key, name) in [("partition_key", partition_key), ("sort_key", sort_key)] {
        if !(1..=KEY_NAME_BYTES_MAX).contains(&name.len()) || name == SOURCE_ATTRIBUTE {
            let message =
                format!("`{name}` can't be a key's name: 1 to 255 bytes, and not `{SOURCE_ATTRIBUTE}`");
            return Err(Problem::new(message).within(key));
        }
    }
    if partition_key == sort_key {
        let message = format!("partition and sort key are both `{sort_key}`");
        return Err(Problem::new(message).within("sort_key"));
    }
    Ok(())
}

fn keys(target: &TargetPlan) -> Vec<&str> {
    let mut keys = vec![target.partition_key.as_str(), target.sort_key.as_str()];
    keys.extend(
        target.indexes.iter().flat_map(|index| [index.partition_key.as_str(), index.sort_key.as_str()]),
    );
    keys
}

fn timing(timing: &TimingPlan) -> Result<(), Problem> {
    let nonzero = [
        ("lease", timing.lease),
        ("renew", timing.renew),
        ("mode_poll", timing.mode_poll),
        ("hold_limit", timing.hold_limit),
        ("sweep_interval", timing.sweep_interval),
        ("mirror_late_max", timing.mirror_late_max),
        ("evidence_age_max", timing.evidence_age_max),
    ];
    for (key, Span(span)) in nonzero {
        if span.is_zero() {
            return Err(Problem::new("it must be longer than nothing").within(key));
        }
    }
    if timing.lease <= timing.renew {
        let message = format!("{} is not longer than `renew`, {}", timing.lease, timing.renew);
        return Err(Problem::new(message).within("lease"));
    }
    if timing.settle < timing.late_write_max {
        let message =
            format!("{} is shorter than `late_write_max`, {}", timing.settle, timing.late_write_max);
        return Err(Problem::new(message).within("settle"));
    }
    Ok(())
}

fn entity(
    target: &TargetPlan,
    entity: &EntityPlan,
    compiled: &CompiledEntity,
    templates: &Templates,
) -> Result<(), Problem> {
    if entity.items.is_empty() {
        return Err(Problem::new("there is no `[[entity.item]]`, so its blobs would become nothing"));
    }
    for (index, (item, compiled)) in entity.items.iter().zip(&compiled.items).enumerate() {
        let checked = self::item(target, item)
            .and_then(|()| unmarked(entity, item))
            .and_then(|()| if entity.decode == Decode::Raw { raw(item) } else { Ok(()) })
            .and_then(|()| grouped(target, item, compiled, templates));
        checked.map_err(|problem| problem.element(index).within("item"))?;
    }
    direct(target, entity)
}

/// What an entity must satisfy whose items the application writes too: each blob is one item, which holds all of
/// its document, and back.
fn direct(target: &TargetPlan, entity: &EntityPlan) -> Result<(), Problem> {
    if !entity.direct_writes {
        let keys = [("pathname", entity.pathname.is_some()), ("mirror_expiry", entity.mirror_expiry)];
        return match keys.into_iter().find(|(_, is_set)| *is_set) {
            Some((key, _)) => {
                Err(Problem::new("it means nothing without `direct_writes = true`").within(key))
            }
            None => Ok(()),
        };
    }
    let refuse = |message: &str| Err(Problem::new(message).within("direct_writes"));
    if entity.decode != Decode::Json {
        return refuse(
            "an item that was written directly becomes plain JSON, so it needs `decode = \"json\"`",
        );
    }
    if entity.too_large != TooLarge::Quarantine {
        return refuse(
            "a record in pieces can't be written directly, so it needs `too_large = \"quarantine\"`",
        );
    }
    let [item] = entity.items.as_slice() else {
        return refuse("a blob must be one item, and this entity has several `[[entity.item]]`");
    };
    let at = |key: &str, message: &str| Err(Problem::new(message).within(key).element(0).within("item"));
    if item.each.is_some() {
        return at("each", "with `direct_writes` the item is the whole document, not one of its records");
    }
    if item.group_by.is_some() {
        return at("group_by", "with `direct_writes` the item is one blob's, not that of a group");
    }
    if item.body == BodyPlacement::None {
        return at("body", "with `direct_writes` the document is rebuilt from the item, which must hold it");
    }
    if entity.mirror_expiry && target.ttl.is_none() {
        return Err(Problem::new("nothing expires without `ttl` under `[target]`").within("mirror_expiry"));
    }
    Ok(())
}

fn item(target: &TargetPlan, item: &ItemPlan) -> Result<(), Problem> {
    for key in [&target.partition_key, &target.sort_key] {
        if !item.attributes.contains_key(key) {
            return Err(Problem::new(format!("the table's key `{key}` has no template")));
        }
    }
    for index in &target.indexes {
        let has = |name: &String| item.attributes.contains_key(name);
        let half = match (has(&index.partition_key), has(&index.sort_key)) {
            (true, false) => Some((&index.partition_key, &index.sort_key)),
            (false, true) => Some((&index.sort_key, &index.partition_key)),
            _ => None,
        };
        // A table's key is in every item, so an index may be built on it and be left out by its other half.
        if let Some((there, other)) = half.filter(|(there, _)| !is_table_key(target, there)) {
            let message =
                format!("`{there}` without `{other}`: the item would not be in index {}", index.name);
            return Err(Problem::new(message).within(there));
        }
    }
    for (name, source) in &item.attributes {
        if name.is_empty() || name == SOURCE_ATTRIBUTE {
            let message = format!("`{name}` can't be an attribute: it is empty, or the program's own");
            return Err(Problem::new(message).within(name));
        }
        if source.is_empty() {
            return Err(Problem::new("the template is empty").within(name));
        }
    }
    if let BodyPlacement::Nested(name) = &item.body {
        let taken = item.attributes.contains_key(name)
            || keys(target).contains(&name.as_str())
            || target.ttl.as_ref() == Some(name)
            || name == SOURCE_ATTRIBUTE;
        if taken {
            let message = format!("`{name}` is the name of another attribute");
            return Err(Problem::new(message).within("body"));
        }
    }
    Ok(())
}

/// No planned attribute has the name of one in which a policy leaves its mark.
fn unmarked(entity: &EntityPlan, item: &ItemPlan) -> Result<(), Problem> {
    for mark in entity.marks() {
        if item.attributes.contains_key(mark) {
            let message = format!("`{mark}` is an attribute of the entity's policies");
            return Err(Problem::new(message).within(mark));
        }
        if item.body == BodyPlacement::Nested(mark.to_owned()) {
            let message = format!("`{mark}` is an attribute of the entity's policies");
            return Err(Problem::new(message).within("body"));
        }
    }
    Ok(())
}

/// What an item of bytes that are not read must satisfy.
fn raw(item: &ItemPlan) -> Result<(), Problem> {
    if item.each.is_some() {
        return Err(Problem::new("with `decode = \"raw\"` the bytes are not read, so they have no records")
            .within("each"));
    }
    if item.body == BodyPlacement::Attributes {
        return Err(Problem::new(
            "with `decode = \"raw\"` the bytes go into one attribute: `body = \"nested:NAME\"`",
        )
        .within("body"));
    }
    Ok(())
}

/// What a grouped item must satisfy: its key is the group's.
fn grouped(
    target: &TargetPlan,
    item: &ItemPlan,
    compiled: &CompiledItem,
    templates: &Templates,
) -> Result<(), Problem> {
    if item.group_by.is_some() {
        for (key, id) in compiled.attributes.iter().filter(|(name, _)| is_table_key(target, name)) {
            if let Some(other) = templates.variables(*id).iter().find(|variable| *variable != GROUP) {
                let message =
                    format!("the key of a grouped item may use only `{GROUP}`, and this uses `{other}`");
                return Err(Problem::new(message).within(key));
            }
        }
    }
    Ok(())
}

fn is_table_key(target: &TargetPlan, name: &str) -> bool {
    name == target.partition_key || name == target.sort_key
}
