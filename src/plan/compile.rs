//! A plan's patterns and templates, compiled: what the mapping runs on.

use super::entity::{EntityPlan, ItemPlan};
use super::pattern::Pattern;
use super::problem::Problem;
use super::records::RecordPath;
use super::template::{TemplateId, Templates};
use super::types::{PatternPlan, Plan};

/// The variables of every template, besides the captures of the pathname: the document; the record, its place
/// in its list and its name in its object, the one around it; the pathname; the time it was stored.
pub const VARIABLES: [&str; 7] = ["body", "record", "index", "key", "parent", "pathname", "uploadedAt"];

/// Those among [`VARIABLES`] that differ from record to record.
pub const RECORD_VARIABLES: [&str; 4] = ["record", "index", "key", "parent"];

/// The variable of the template of a new item's pathname: its attributes.
pub const ITEM: &str = "item";

/// The variable of a grouped item's templates.
pub const GROUP: &str = "group";

/// A plan's patterns and templates.
#[derive(Debug)]
pub struct CompiledPlan {
    /// All templates and conditions.
    pub templates: Templates,
    /// The entities, in the order of the plan.
    pub entities: Vec<CompiledEntity>,
    /// The patterns of the ignore rules.
    pub ignored: Vec<Pattern>,
    /// The patterns of the accept rules.
    pub accepted: Vec<Pattern>,
}

/// One entity's pattern and templates.
#[derive(Debug)]
pub struct CompiledEntity {
    /// Which pathnames are its.
    pub pattern: Pattern,
    /// Whether a template or condition uses what the pattern captures.
    pub uses_captures: bool,
    /// The pathname of an item that came from no blob.
    pub pathname: Option<TemplateId>,
    /// Its items, in the order of the plan.
    pub items: Vec<CompiledItem>,
}

/// One item's templates.
#[derive(Debug)]
pub struct CompiledItem {
    /// Where its records are; the document itself where it has no steps.
    pub each: RecordPath,
    /// Its condition.
    pub when: Option<TemplateId>,
    /// Its group's key.
    pub group_by: Option<TemplateId>,
    /// Its planned attributes, by name.
    pub attributes: Vec<(String, TemplateId)>,
}

impl CompiledItem {
    fn templates(&self) -> impl Iterator<Item = TemplateId> {
        self.when.into_iter().chain(self.group_by).chain(self.attributes.iter().map(|(_, id)| *id))
    }
}

impl CompiledPlan {
    /// Compiles all of a plan's patterns and templates.
    ///
    /// # Errors
    /// The first that can't be compiled, and where it is.
    pub fn new(plan: &Plan) -> Result<Self, Problem> {
        let mut templates = Templates::default();
        let mut entities = Vec::new();
        for (index, entity) in plan.entities.iter().enumerate() {
            let compiled = compile_entity(&mut templates, entity);
            entities.push(compiled.map_err(|problem| problem.element(index).within("entity"))?);
        }
        Ok(Self {
            templates,
            entities,
            ignored: patterns(&plan.ignored, "ignore")?,
            accepted: patterns(&plan.accepted, "accept")?,
        })
    }
}

fn patterns(rules: &[PatternPlan], key: &str) -> Result<Vec<Pattern>, Problem> {
    let compile = |(index, rule): (usize, &PatternPlan)| {
        pattern(&rule.blobs).map_err(|problem| problem.element(index).within(key))
    };
    rules.iter().enumerate().map(compile).collect()
}

fn pattern(source: &str) -> Result<Pattern, Problem> {
    Pattern::new(source)
        .map_err(|message| Problem::new(format!("the pattern `{source}`: {message}")).within("blobs"))
}

fn compile_entity(templates: &mut Templates, entity: &EntityPlan) -> Result<CompiledEntity, Problem> {
    let pattern = pattern(&entity.blobs)?;
    for name in pattern.names() {
        if VARIABLES.contains(&&**name) || &**name == GROUP {
            let message = format!("the capture `{{{name}}}` has the name of a variable of every template");
            return Err(Problem::new(message).within("blobs"));
        }
    }
    let mut names: Vec<&str> = VARIABLES.to_vec();
    names.extend(pattern.names().iter().map(|name| &**name));
    let mut items = Vec::new();
    for (index, item) in entity.items.iter().enumerate() {
        let compiled = compile_item(templates, item, &names);
        items.push(compiled.map_err(|problem| problem.element(index).within("item"))?);
    }
    let captured = |id: &TemplateId| {
        let variables = templates.variables(*id);
        variables.iter().any(|variable| pattern.names().iter().any(|name| **name == **variable))
    };
    let uses_captures = items.iter().any(|item: &CompiledItem| item.templates().any(|id| captured(&id)));
    let pathname = entity.pathname.as_ref().map(|source| templates.add(source, &[ITEM])).transpose();
    let pathname = pathname.map_err(|message| Problem::new(message).within("pathname"))?;
    Ok(CompiledEntity { pattern, uses_captures, pathname, items })
}

fn compile_item(templates: &mut Templates, item: &ItemPlan, names: &[&str]) -> Result<CompiledItem, Problem> {
    let at = |key: &'static str| move |message: String| Problem::new(message).within(key);
    let each = match &item.each {
        Some(source) => RecordPath::new(source)
            .map_err(|message| at("each")(format!("the path `{source}`: {message}")))?,
        None => RecordPath::default(),
    };
    let when = match &item.when {
        Some(source) => Some(templates.add_condition(source, names).map_err(at("when"))?),
        None => None,
    };
    let group_by = match &item.group_by {
        Some(source) => Some(templates.add(source, names).map_err(at("group_by"))?),
        None => None,
    };
    let mut names = names.to_vec();
    if group_by.is_some() {
        names.push(GROUP);
    }
    let mut attributes = Vec::new();
    for (name, source) in &item.attributes {
        let id = templates.add(source, &names).map_err(|message| Problem::new(message).within(name))?;
        attributes.push((name.clone(), id));
    }
    Ok(CompiledItem { each, when, group_by, attributes })
}
