//! The mapping of one blob: its records, rule by rule.

use std::collections::HashMap;
use std::sync::Arc;

use jiff::Timestamp;
use minijinja::Value as Input;

use super::context::{BlobVariables, Context, View};
use super::document::Document;
use super::explain::{self, Step};
use super::item::{ItemRule, Material};
use super::quarantine::{Quarantine, Reason};
use super::records::{self, Place, Record};
use super::{BlobFacts, Entity, MappedItem, Mapper, Origin};
use crate::plan::template::{Evaluated, RenderError, Scope, TemplateId};

/// The mapping of one blob, on its way.
pub(super) struct Run<'a> {
    mapper: &'a Mapper,
    pathname: &'a str,
    now: Timestamp,
    blob: Arc<BlobVariables>,
    values: Evaluated,
    conditions: Evaluated,
    records_count: usize,
    items: Vec<MappedItem>,
    /// What was done, where somebody wants to see it.
    steps: Option<Vec<Step>>,
}

pub(super) fn run(
    mapper: &Mapper,
    entity: &Entity,
    blob: BlobFacts<'_>,
    document: &Document,
    now: Timestamp,
) -> Result<Vec<MappedItem>, Quarantine> {
    let mut run = Run::new(mapper, entity, blob, document, now)?;
    run.rules(entity, document)?;
    run.finish()
}

/// The same, and what was done on the way.
pub(super) fn explain(
    mapper: &Mapper,
    entity: &Entity,
    blob: BlobFacts<'_>,
    document: &Document,
    now: Timestamp,
) -> (Vec<Step>, Result<Vec<MappedItem>, Quarantine>) {
    let mut run = match Run::new(mapper, entity, blob, document, now) {
        Ok(run) => Run { steps: Some(Vec::new()), ..run },
        Err(quarantine) => return (Vec::new(), Err(quarantine)),
    };
    let mapped = run.rules(entity, document);
    let steps = run.steps.take().unwrap_or_default();
    (steps, mapped.and_then(|()| run.finish()))
}

impl<'a> Run<'a> {
    pub(super) fn new(
        mapper: &'a Mapper,
        entity: &Entity,
        blob: BlobFacts<'a>,
        document: &Document,
        now: Timestamp,
    ) -> Result<Self, Quarantine> {
        let pathname = blob.pathname.as_str();
        // To capture takes the regular expression several times as long as to match.
        let captures = if entity.uses_captures {
            entity.pattern.captures(pathname)
        } else {
            entity.pattern.matches(pathname).then(Vec::new)
        };
        let Some(captures) = captures else {
            let detail = format!("the pathname is not of the form `{}`", entity.pattern.source());
            return Err(Quarantine::new(Reason::Shape, detail));
        };
        let variables = BlobVariables {
            body: document.clone(),
            pathname: Arc::from(pathname),
            uploaded_at: blob.uploaded_at,
            captures,
        };
        Ok(Run {
            mapper,
            pathname,
            now,
            blob: Arc::new(variables),
            values: Evaluated::new(Input::UNDEFINED),
            conditions: Evaluated::new(Input::UNDEFINED),
            records_count: 0,
            items: Vec::with_capacity(entity.items.len()),
            steps: None,
        })
    }
}

impl Run<'_> {
    fn rules(&mut self, entity: &Entity, document: &Document) -> Result<(), Quarantine> {
        for rules in entity.items.chunk_by(|a, b| a.compiled.each == b.compiled.each) {
            self.records(rules, document)?;
        }
        Ok(())
    }

    /// The items of rules that have the same records.
    fn records(&mut self, rules: &[ItemRule], document: &Document) -> Result<(), Quarantine> {
        let Some(first) = rules.first() else { return Ok(()) };
        match (first.compiled.each.steps(), document) {
            ([], _) => {
                let value = document.clone();
                self.record(
                    rules,
                    Record { value, place: Place::default(), index: None, key: None, parent: None },
                )
            }
            (steps, Document::Json(json)) => {
                records::each(json, steps, &mut |record| self.record(rules, record))
            }
            (_, Document::Bytes(_)) => {
                Err(Quarantine::new(Reason::Shape, "bytes that are not read have no records"))
            }
        }
    }

    pub(super) fn record(&mut self, rules: &[ItemRule], record: Record) -> Result<(), Quarantine> {
        self.records_count += 1;
        let record = Arc::new(record);
        let blob = Arc::clone(&self.blob);
        let context = |view, group| {
            let (blob, record) = (Arc::clone(&blob), Some(Arc::clone(&record)));
            Input::from_object(Context { view, blob, record, group })
        };
        self.values.enter(Scope::Record, context(View::Template, None));
        if rules.iter().any(|rule| rule.compiled.when.is_some()) {
            self.conditions.enter(Scope::Record, context(View::Condition, None));
        }
        let material = Material {
            templates: &self.mapper.templates,
            layout: &self.mapper.layout,
            pathname: self.pathname,
            record: &record,
            now: self.now,
        };
        if let Some(steps) = &mut self.steps {
            steps.push(Step::Record { place: record.place.to_string() });
        }
        for rule in rules {
            if let Some(when) = rule.compiled.when {
                let holds = self.mapper.templates.holds(when, &mut self.conditions);
                if let Some(steps) = &mut self.steps {
                    let (rule, when) = (rule.number + 1, self.mapper.templates.source(when).to_owned());
                    steps.push(Step::Condition { rule, when, holds: explain::answer(&holds) });
                }
                if !holds.map_err(|error| failed("when", error).of_record(&record.place))? {
                    continue;
                }
            }
            if let (Some(steps), Some(id)) = (&mut self.steps, rule.compiled.group_by) {
                let trace = self.mapper.templates.trace(id, &mut self.values);
                steps.push(Step::Group { rule: rule.number + 1, trace });
            }
            let group = match rule.compiled.group_by {
                Some(id) => Some(self.group(id).map_err(|quarantine| quarantine.of_record(&record.place))?),
                None => None,
            };
            if let Some(group) = &group {
                self.values.enter(Scope::Group, context(View::Template, Some(group.as_str().into())));
            }
            if let Some(steps) = &mut self.steps {
                for (name, id) in &rule.compiled.attributes {
                    let trace = self.mapper.templates.trace(*id, &mut self.values);
                    steps.push(Step::Attribute { rule: rule.number + 1, name: name.clone(), trace });
                }
            }
            let built = rule.build(material, &mut self.values)?;
            if let Some(steps) = &mut self.steps {
                steps.push(Step::item(rule, &built, self.pathname));
            }
            let origin = |part| Origin { rule: rule.number, place: record.place.clone(), part };
            // The item that names the parts comes last, so that it is never there without them.
            for (number, part) in (1..).zip(built.parts) {
                let (key, item, group) = (part.key, part.item, group.clone());
                let origin = origin(Some(number));
                self.items.push(MappedItem { key, item, omitted: Vec::new(), group, origin });
            }
            let (key, item, omitted) = (built.key, built.item, built.omitted);
            self.items.push(MappedItem { key, item, omitted, group, origin: origin(None) });
        }
        Ok(())
    }

    fn group(&mut self, id: TemplateId) -> Result<String, Quarantine> {
        self.mapper.templates.render(id, &mut self.values).map_err(|error| match error {
            RenderError::Missing => {
                Quarantine::new(Reason::Key, "the input of `group_by` is missing, null or empty")
            }
            failure => failed("group_by", failure),
        })
    }

    /// All items, each with a key of its own.
    fn finish(self) -> Result<Vec<MappedItem>, Quarantine> {
        if self.items.is_empty() {
            return Err(self.no_item());
        }
        if self.items.len() == 1 {
            return Ok(self.items);
        }
        let mut owners = HashMap::with_capacity(self.items.len());
        for item in &self.items {
            if let Some(other) = owners.insert(&item.key, item) {
                return Err(same_key(&other.origin, &item.origin));
            }
        }
        Ok(self.items)
    }

    /// The items that were made so far, which it then forgets.
    pub(super) fn take(&mut self) -> Vec<MappedItem> {
        std::mem::take(&mut self.items)
    }

    /// Why there is no item at all.
    pub(super) fn no_item(&self) -> Quarantine {
        let detail = if self.records_count == 0 { "it has no record" } else { "no item's condition holds" };
        Quarantine::new(Reason::NoItem, detail)
    }
}

/// Two items of one blob have the same key.
pub(super) fn same_key(first: &Origin, second: &Origin) -> Quarantine {
    let (a, b) = (first.rule + 1, second.rule + 1);
    let detail = match (first.place == second.place, a == b) {
        (true, _) => format!("items {a} and {b} of `{}` have the same key", first.place),
        (false, true) => format!("`{}` and `{}` have the same key", first.place, second.place),
        (false, false) => {
            format!("item {a} of `{}` and item {b} of `{}` have the same key", first.place, second.place)
        }
    };
    Quarantine::new(Reason::DuplicateKey, detail)
}

fn failed(key: &str, error: RenderError) -> Quarantine {
    let detail = match error {
        RenderError::Missing => format!("`{key}`: an input is undefined, null or empty"),
        RenderError::Failed(detail) => format!("`{key}`: {detail}"),
    };
    Quarantine::new(Reason::Template, detail)
}
