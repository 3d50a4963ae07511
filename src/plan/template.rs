//! Templates and conditions: how a plan makes keys and attributes out of a blob.
//!
//! The language is Jinja's, cut to what a mapping needs: no includes, no macros, no functions, the filters
//! of [`super::FILTERS`]. Two rules keep placeholders out of keys: an input that is undefined, null or empty is
//! [`RenderError::Missing`], never text; and numbers are their own text, never a float. An error never
//! repeats a value.

use std::collections::{BTreeSet, HashMap, HashSet};

use minijinja::syntax::SyntaxConfig;
use minijinja::{AutoEscape, Environment, Error, ErrorKind, UndefinedBehavior, Value};
use serde::Serialize;

use super::compile::{GROUP, RECORD_VARIABLES};
use super::filters;
use super::input::{Invalid, text_of};
use super::simple::Simple;

/// Instructions that one template may execute; a key's template takes about ten.
const FUEL: u64 = 20_000;

/// What is around a condition, as the engine has it.
const IF: &str = "{% if (";
const END_IF: &str = ") %}1{% endif %}";

/// A template or a condition of a [`Templates`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct TemplateId(usize);

/// Why a template has no text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RenderError {
    /// An input is undefined, null or empty.
    Missing,
    /// It failed; in words, without any value.
    Failed(String),
}

/// Compiled templates and conditions. Equal sources are compiled once.
#[derive(Debug)]
pub struct Templates {
    values: Environment<'static>,
    conditions: Environment<'static>,
    known: HashMap<(Kind, String), TemplateId>,
    compiled: Vec<Compiled>,
    /// The text in the plan of each of them.
    texts: Vec<String>,
    sources: Vec<Source>,
}

/// A template, what its expressions are and what its text is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Trace {
    /// The template.
    pub template: String,
    /// Its expressions, in order; none where it has statements, which are evaluated as a whole.
    pub inputs: Vec<Traced>,
    /// Its text; none where it has none.
    pub text: Option<String>,
    /// Why it has none.
    pub problem: Option<String>,
}

/// An expression of a template.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Traced {
    /// The expression.
    pub expression: String,
    /// What it is; none where it has no text.
    pub text: Option<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Kind {
    Template,
    Condition,
}

#[derive(Debug)]
enum Compiled {
    /// Text and expressions in turn. Each distinct expression of a plan is evaluated once for a blob,
    /// however many keys it is in.
    Parts(Vec<Part>),
    /// A template with statements, evaluated as a whole.
    Whole(Evaluation),
}

#[derive(Debug)]
enum Part {
    Text(String),
    Expression(Evaluation),
}

/// A piece that the engine evaluates: its place among all of them, which is also its name there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Evaluation(usize);

#[derive(Debug)]
struct Source {
    kind: Kind,
    name: String,
    text: String,
    scope: Scope,
    /// The same, where it needs no engine.
    simple: Option<Simple>,
}

/// For how long what an expression is stays the same.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Scope {
    /// For a blob.
    Blob,
    /// For a record of it.
    Record,
    /// For one item of a record.
    Group,
}

impl Scope {
    fn of(variables: &HashSet<String>) -> Self {
        if variables.contains(GROUP) {
            Self::Group
        } else if RECORD_VARIABLES.iter().any(|name| variables.contains(*name)) {
            Self::Record
        } else {
            Self::Blob
        }
    }
}

/// What an expression is, and the generation of its scope in which it was evaluated.
#[derive(Debug)]
struct Outcome {
    evaluation: Evaluation,
    generation: u64,
    text: Result<String, RenderError>,
}

/// What the expressions of a plan are for one blob, as far as they were asked for.
#[derive(Debug)]
pub struct Evaluated {
    context: Value,
    /// Of the expressions that were asked for, in that order: a blob asks for a few of all in the plan.
    results: Vec<Outcome>,
    /// How often each scope was entered.
    generations: [u64; 3],
}

impl Evaluated {
    /// Nothing yet, for a blob's variables.
    #[must_use]
    pub fn new(context: Value) -> Self {
        Self { context, results: Vec::new(), generations: [0; 3] }
    }

    /// Goes on with other variables, of which those of wider scopes are the same.
    pub fn enter(&mut self, scope: Scope, context: Value) {
        self.context = context;
        for generation in &mut self.generations[scope as usize..] {
            *generation += 1;
        }
    }
}

impl Default for Templates {
    fn default() -> Self {
        // A missing value fails where it is used, and may be asked for by `if` and `default`.
        let values = environment(UndefinedBehavior::SemiStrict);
        // A condition may ask for `body.a.b` where there is no `a`.
        let conditions = environment(UndefinedBehavior::Chainable);
        Self {
            values,
            conditions,
            known: HashMap::new(),
            compiled: Vec::new(),
            texts: Vec::new(),
            sources: Vec::new(),
        }
    }
}

impl Templates {
    /// Compiles a template that may use the variables `names`.
    ///
    /// # Errors
    /// In words, what is wrong with it.
    pub fn add(&mut self, source: &str, names: &[&str]) -> Result<TemplateId, String> {
        self.insert(Kind::Template, source, source.to_owned(), names)
    }

    /// Compiles a condition, an expression that may use the variables `names`.
    ///
    /// # Errors
    /// In words, what is wrong with it.
    pub fn add_condition(&mut self, source: &str, names: &[&str]) -> Result<TemplateId, String> {
        // Alone first, so that nothing in it can end the statement around it.
        self.conditions.compile_expression(source).map_err(|error| words(&error))?;
        let statement = format!("{IF}{source}{END_IF}");
        self.insert(Kind::Condition, source, statement, names)
    }

    /// The variables of a template or condition, without those it sets itself.
    #[must_use]
    pub fn variables(&self, id: TemplateId) -> Vec<String> {
        let evaluations: Vec<Evaluation> = match &self.compiled[id.0] {
            Compiled::Whole(evaluation) => vec![*evaluation],
            Compiled::Parts(parts) => parts.iter().filter_map(Part::evaluation).collect(),
        };
        let mut variables = BTreeSet::new();
        for evaluation in evaluations {
            let source = &self.sources[evaluation.0];
            if let Ok(template) = self.environment(source.kind).get_template(&source.name) {
                variables.extend(template.undeclared_variables(false));
            }
        }
        variables.into_iter().collect()
    }

    /// The text of a template; it is never empty. `evaluated` is of one blob.
    ///
    /// # Errors
    /// [`RenderError`], the same for the same input, always.
    pub fn render(&self, id: TemplateId, evaluated: &mut Evaluated) -> Result<String, RenderError> {
        let text = match &self.compiled[id.0] {
            Compiled::Whole(evaluation) => self.evaluate(*evaluation, evaluated)?.to_owned(),
            Compiled::Parts(parts) => {
                // Evaluated before, so that the text is allocated once.
                let mut length = 0;
                for part in parts {
                    length += self.part(part, evaluated)?.len();
                }
                let mut text = String::with_capacity(length);
                for part in parts {
                    text.push_str(self.part(part, evaluated)?);
                }
                text
            }
        };
        if text.is_empty() { Err(RenderError::Missing) } else { Ok(text) }
    }

    /// Whether a condition holds. `evaluated` is of one blob.
    ///
    /// # Errors
    /// [`RenderError`], the same for the same input, always.
    pub fn holds(&self, id: TemplateId, evaluated: &mut Evaluated) -> Result<bool, RenderError> {
        match &self.compiled[id.0] {
            Compiled::Whole(evaluation) => Ok(!self.evaluate(*evaluation, evaluated)?.is_empty()),
            Compiled::Parts(_) => Err(RenderError::Failed("a template is not a condition".to_owned())),
        }
    }

    /// The text of a template or condition in the plan.
    #[must_use]
    pub fn source(&self, id: TemplateId) -> &str {
        &self.texts[id.0]
    }

    /// What [`Templates::render`] does, with all that it is made of.
    #[must_use]
    pub fn trace(&self, id: TemplateId, evaluated: &mut Evaluated) -> Trace {
        let mut inputs = Vec::new();
        if let Compiled::Parts(parts) = &self.compiled[id.0] {
            for evaluation in parts.iter().filter_map(Part::evaluation) {
                let text = self.evaluate(evaluation, evaluated).ok().filter(|text| !text.is_empty());
                let expression = self.sources[evaluation.0].text.clone();
                inputs.push(Traced { expression, text: text.map(str::to_owned) });
            }
        }
        let (text, problem) = match self.render(id, evaluated) {
            Ok(text) => (Some(text), None),
            Err(RenderError::Missing) => (None, Some("an input is missing, null or empty".to_owned())),
            Err(RenderError::Failed(problem)) => (None, Some(problem)),
        };
        Trace { template: self.source(id).to_owned(), inputs, text, problem }
    }

    fn part<'a>(&'a self, part: &'a Part, evaluated: &'a mut Evaluated) -> Result<&'a str, RenderError> {
        match part {
            Part::Text(literal) => Ok(literal),
            Part::Expression(evaluation) => self.evaluate(*evaluation, evaluated),
        }
    }

    fn evaluate<'a>(
        &self,
        evaluation: Evaluation,
        evaluated: &'a mut Evaluated,
    ) -> Result<&'a str, RenderError> {
        let Evaluated { context, results, generations } = evaluated;
        let source = &self.sources[evaluation.0];
        let generation = generations[source.scope as usize];
        let known = results.iter().position(|known| known.evaluation == evaluation);
        let at = match known {
            Some(at) if results[at].generation == generation => at,
            _ => {
                let text = self.text(source, context).map_err(|error| classify(&error));
                let outcome = Outcome { evaluation, generation, text };
                match known {
                    Some(at) => results[at] = outcome,
                    None => results.push(outcome),
                }
                known.unwrap_or(results.len() - 1)
            }
        };
        results[at].text.as_deref().map_err(Clone::clone)
    }

    fn text(&self, source: &Source, context: &Value) -> Result<String, Error> {
        if let Some(text) = source.simple.as_ref().and_then(|simple| simple.text(context)) {
            return Ok(text);
        }
        self.environment(source.kind).get_template(&source.name)?.render(context)
    }

    fn insert(
        &mut self,
        kind: Kind,
        source: &str,
        statement: String,
        names: &[&str],
    ) -> Result<TemplateId, String> {
        if let Some(id) = self.known.get(&(kind, source.to_owned())) {
            return Ok(*id);
        }
        filters::check_names(&statement)?;
        let id = TemplateId(self.compiled.len());
        let parts = if kind == Kind::Template { self.parts(source) } else { None };
        let compiled = match parts {
            Some(parts) => Compiled::Parts(parts),
            None => Compiled::Whole(self.add_source(kind, statement)?),
        };
        self.compiled.push(compiled);
        self.texts.push(source.to_owned());
        for variable in self.variables(id) {
            if !names.contains(&variable.as_str()) {
                let near = super::near::suggest(&variable, names.iter().copied());
                return Err(format!("unknown variable `{variable}`{near}"));
            }
        }
        self.known.insert((kind, source.to_owned()), id);
        Ok(id)
    }

    /// The parts of a template without statements, comments and whitespace control; none where it has
    /// such, or where it can't be divided, so that the engine says what is wrong with it as a whole.
    fn parts(&mut self, source: &str) -> Option<Vec<Part>> {
        if ["{%", "{#", "{{-", "-}}"].iter().any(|mark| source.contains(mark)) {
            return None;
        }
        let mut parts = Vec::new();
        let mut rest = source;
        while let Some(start) = rest.find("{{") {
            let length = end_of_expression(&rest[start..])?;
            let expression = &rest[start..start + length];
            if start > 0 {
                parts.push(Part::Text(rest[..start].to_owned()));
            }
            parts.push(Part::Expression(self.add_source(Kind::Template, expression.to_owned()).ok()?));
            rest = &rest[start + length..];
        }
        if !rest.is_empty() {
            parts.push(Part::Text(rest.to_owned()));
        }
        Some(parts)
    }

    fn add_source(&mut self, kind: Kind, text: String) -> Result<Evaluation, String> {
        if let Some(at) = self.sources.iter().position(|known| known.kind == kind && known.text == text) {
            return Ok(Evaluation(at));
        }
        let name = self.sources.len().to_string();
        let environment = match kind {
            Kind::Template => &mut self.values,
            Kind::Condition => &mut self.conditions,
        };
        let added = environment.add_template_owned(name.clone(), text.clone());
        added.map_err(|error| words(&error))?;
        let variables = environment.get_template(&name).map(|template| template.undeclared_variables(false));
        let variables = variables.unwrap_or_default();
        let simple = match kind {
            Kind::Template => Simple::template(&text),
            Kind::Condition => {
                let source = text.strip_prefix(IF).and_then(|rest| rest.strip_suffix(END_IF));
                source.and_then(Simple::condition)
            }
        };
        // A word of the language, such as `true`, is no variable.
        let simple = simple.filter(|simple| variables.contains(simple.variable()));
        self.sources.push(Source { kind, name, text, scope: Scope::of(&variables), simple });
        Ok(Evaluation(self.sources.len() - 1))
    }

    fn environment(&self, kind: Kind) -> &Environment<'static> {
        match kind {
            Kind::Template => &self.values,
            Kind::Condition => &self.conditions,
        }
    }
}

impl Part {
    fn evaluation(&self) -> Option<Evaluation> {
        if let Self::Expression(evaluation) = self { Some(*evaluation) } else { None }
    }
}

/// Where the expression that a text begins with ends: after the first `}}` outside quotes.
fn end_of_expression(text: &str) -> Option<usize> {
    let mut quote = None;
    let mut escaped = false;
    for (at, letter) in text.char_indices() {
        match (quote, letter) {
            _ if escaped => escaped = false,
            (Some(_), '\\') => escaped = true,
            (Some(open), _) if open == letter => quote = None,
            (None, '"' | '\'') => quote = Some(letter),
            (None, '}') if text[at..].starts_with("}}") => return Some(at + 2),
            _ => {}
        }
    }
    None
}

fn environment(undefined: UndefinedBehavior) -> Environment<'static> {
    let mut environment = Environment::empty();
    environment.set_undefined_behavior(undefined);
    environment.set_auto_escape_callback(|_| AutoEscape::None);
    environment.set_fuel(Some(FUEL));
    let mut syntax = SyntaxConfig::builder();
    syntax.keep_trailing_newline(true);
    if let Ok(syntax) = syntax.build() {
        environment.set_syntax(syntax);
    }
    environment.set_formatter(|out, _state, value| {
        let text = text_of(value)?;
        out.write_str(&text).map_err(|_| Error::from(ErrorKind::WriteFailure))
    });
    filters::add_to(&mut environment);
    environment
}

fn classify(error: &Error) -> RenderError {
    let mut cause: Option<&(dyn std::error::Error + 'static)> = Some(error);
    while let Some(each) = cause {
        if let Some(invalid) = each.downcast_ref::<Invalid>() {
            return RenderError::Failed(invalid.0.to_owned());
        }
        if each.downcast_ref::<Error>().is_some_and(|error| error.kind() == ErrorKind::UndefinedError) {
            return RenderError::Missing;
        }
        cause = each.source();
    }
    // Only the kind: the engine's own detail may quote a value.
    RenderError::Failed(error.kind().to_string())
}

/// What the engine says of a source; it has seen no value yet.
fn words(error: &Error) -> String {
    match error.detail() {
        Some(detail) => format!("{}: {detail}", error.kind()),
        None => error.kind().to_string(),
    }
}

#[cfg(test)]
mod tests;
