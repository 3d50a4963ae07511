//! From a document to a checked plan. Whatever is wrong is one `Usage` error with file, line and key.

use std::ops::Range;
use std::path::{Path, PathBuf};

use serde::Deserialize as _;
use toml::de::{DeTable, DeValue};
use toml::{Spanned, Table};

use super::check;
use super::document::Document;
use super::hash::PlanHash;
use super::near;
use super::overrides::{self, Override};
use super::problem::{Problem, Step};
use super::types::Plan;
use crate::error::{Error, ErrorKind, Result};

/// A plan that was read, checked and hashed.
#[derive(Debug, Clone)]
pub struct LoadedPlan {
    /// What it says, with defaults and overrides.
    pub plan: Plan,
    /// The document it was read from, without overrides.
    pub document: Document,
    /// The hash of what it says.
    pub hash: PlanHash,
    /// Where it was read.
    pub path: PathBuf,
    /// What `--set` changed, to be printed.
    pub overrides: Vec<Override>,
}

/// Reads the plan at `path`, with `key=value` overrides.
///
/// # Errors
/// `Usage` for whatever is wrong with it, naming file, line and key where there are such.
pub fn load(path: impl AsRef<Path>, overrides: &[String]) -> Result<LoadedPlan> {
    let path = path.as_ref();
    let text = std::fs::read_to_string(path).map_err(|error| {
        let failed = Error::new(ErrorKind::Usage, "read the plan").key(path.display());
        match error.kind() {
            std::io::ErrorKind::NotFound => failed.message("there is no such file").hint(
                "name the plan with --plan FILE; `migrate init` looks at the store and writes one to begin with",
            ),
            std::io::ErrorKind::InvalidData => failed.message("it is not UTF-8 text"),
            _ => failed.source(error),
        }
    })?;
    parse(path, text, overrides)
}

/// The same with a text that was read already; `path` is for messages.
///
/// # Errors
/// As [`load`].
pub fn parse(path: impl Into<PathBuf>, text: impl Into<String>, overrides: &[String]) -> Result<LoadedPlan> {
    let path = path.into();
    let document = Document::parse(path.display().to_string(), text)?;
    let spans = DeTable::parse(document.toml())
        .map_err(|error| document.error(error.span().map(|span| span.start), error.message()))?;
    let spans = spans.get_ref();
    let locate = |problem: &Problem| document.error(offset_of(spans, &problem.path), problem);
    check::items_are_templates(spans).map_err(|problem| locate(&problem))?;
    let mut plan: Plan = toml::from_str(document.toml()).map_err(|error| typed(&document, spans, &error))?;
    let mut applied = Vec::new();
    if !overrides.is_empty() {
        // The document alone is a plan; from here on, what is wrong comes from an override.
        let mut table: Table =
            toml::from_str(document.toml()).map_err(|error| typed(&document, spans, &error))?;
        for argument in overrides {
            applied.push(overrides::apply(&mut table, argument)?);
            plan = Plan::deserialize(table.clone()).map_err(|error| {
                let message = reworded(error.message());
                Error::new(ErrorKind::Usage, "apply --set").key(argument).message(message)
            })?;
        }
    }
    if let Err(problem) = check::check(&plan) {
        let error = locate(&problem);
        return Err(match applied.iter().find(|over| names(over, &problem)) {
            Some(over) => error.hint(format!("--set {}={} is applied to it", over.key, over.value)),
            None => error,
        });
    }
    let hash = PlanHash::of(&plan);
    Ok(LoadedPlan { plan, document, hash, path, overrides: applied })
}

impl LoadedPlan {
    /// Allows overrides under `[timing]` and `[gates]` only where `endpoints_local` says that both
    /// stores are on loopback or embedded: shorter windows prove nothing about the real ones.
    ///
    /// # Errors
    /// `Usage`, naming the first override that is not allowed.
    pub fn require_local(&self, endpoints_local: bool) -> Result<()> {
        match self.overrides.iter().find(|over| over.is_local_only()) {
            Some(over) if !endpoints_local => Err(Error::new(ErrorKind::Usage, "apply --set")
                .key(&over.key)
                .message("windows and bounds may be changed for a run only where both stores are local")
                .hint("change it in the plan itself, where the team reviews it")),
            _ => Ok(()),
        }
    }
}

fn names(over: &Override, problem: &Problem) -> bool {
    let table = |key: &str| key.split(['.', '[']).next().map(str::to_owned);
    table(&over.key) == table(&problem.key())
}

/// A deserialisation error, in the plan's own terms.
fn typed(document: &Document, spans: &DeTable<'_>, error: &toml::de::Error) -> Error {
    let message = reworded(error.message());
    let Some(span) = error.span() else { return document.error(None, message) };
    let mut problem = Problem::new(message);
    problem.path = path_to(spans, &span);
    if error.message().starts_with("unknown field") {
        // The path ends with the wrong key itself.
        problem.path.pop();
    }
    document.error(Some(span.start), problem)
}

/// What the deserialiser says, without its vocabulary.
fn reworded(message: &str) -> String {
    let message = message.trim();
    let names =
        |list: &str| -> Vec<String> { list.split('`').skip(1).step_by(2).map(str::to_owned).collect() };
    if let Some(rest) = message.strip_prefix("unknown field `") {
        let (wrong, known) = rest.split_once('`').unwrap_or((rest, ""));
        let known = names(known);
        let near = near::suggest(wrong, known.iter().map(String::as_str));
        return if near.is_empty() {
            format!("unknown key `{wrong}`; the keys here are {}", known.join(", "))
        } else {
            format!("unknown key `{wrong}`{near}")
        };
    }
    if let Some(rest) = message.strip_prefix("unknown variant `") {
        let (wrong, known) = rest.split_once('`').unwrap_or((rest, ""));
        let known = names(known);
        let near = near::suggest(wrong, known.iter().map(String::as_str));
        return format!("`{wrong}` is none of {}{near}", known.join(", "));
    }
    if let Some(name) = message.strip_prefix("missing field `") {
        return format!("the key `{}` is missing", name.trim_end_matches('`'));
    }
    if let Some((found, expected)) = message.split_once(", expected ")
        && let Some(found) = found.strip_prefix("invalid type: ").or(found.strip_prefix("invalid value: "))
    {
        let expected = if expected.contains("struct ") || expected == "a map" { "a table" } else { expected };
        let expected = match expected {
            "a sequence" => "a list (`[[…]]`)",
            "f64" => "a number",
            "u64" => "a whole number, not negative",
            other => other,
        };
        return format!("it must be {expected}, not {found}");
    }
    message.to_owned()
}

/// The keys down to what is at a span.
fn path_to(table: &DeTable<'_>, span: &Range<usize>) -> Vec<Step> {
    for (key, value) in table {
        let within =
            |range: Range<usize>| range.start <= span.start && span.start < range.end.max(range.start + 1);
        if within(key.span()) {
            return vec![Step::Key(key.get_ref().to_string())];
        }
        let inner = path_in(value, span);
        if inner.is_some() || within(value.span()) {
            let mut path = vec![Step::Key(key.get_ref().to_string())];
            path.extend(inner.unwrap_or_default());
            return path;
        }
    }
    Vec::new()
}

fn path_in(value: &Spanned<DeValue<'_>>, span: &Range<usize>) -> Option<Vec<Step>> {
    match value.get_ref() {
        DeValue::Table(table) => Some(path_to(table, span)).filter(|path| !path.is_empty()),
        DeValue::Array(list) => list.iter().enumerate().find_map(|(index, element)| {
            let inner = path_in(element, span);
            let here = element.span() == *span;
            (inner.is_some() || here).then(|| {
                let mut path = vec![Step::Element(index)];
                path.extend(inner.unwrap_or_default());
                path
            })
        }),
        _ => None,
    }
}

/// The byte at which the deepest known part of a path is.
fn offset_of(table: &DeTable<'_>, path: &[Step]) -> Option<usize> {
    let (Some(Step::Key(name)), rest) = (path.first(), path.get(1..).unwrap_or_default()) else {
        return None;
    };
    let (key, value) = table.iter().find(|(key, _)| key.get_ref() == name.as_str())?;
    offset_in(value, rest).or_else(|| Some(key.span().start))
}

fn offset_in(value: &Spanned<DeValue<'_>>, path: &[Step]) -> Option<usize> {
    match (value.get_ref(), path.first()) {
        (DeValue::Table(table), Some(Step::Key(_))) => offset_of(table, path),
        (DeValue::Array(list), Some(Step::Element(index))) => {
            let element = list.get(*index)?;
            offset_in(element, &path[1..]).or_else(|| Some(element.span().start))
        }
        _ => None,
    }
}
