//! Templates and conditions: how a plan makes keys and attributes out of a blob.
//!
//! The language is Jinja's, cut to what a mapping needs: no includes, no macros, no functions, the filters
//! of [`super::FILTERS`]. Two rules keep placeholders out of keys: an input that is undefined, null or empty is
//! [`RenderError::Missing`], never text; and numbers are their own text, never a float. An error never
//! repeats a value.

use std::collections::HashMap;
use std::sync::Arc;

use minijinja::syntax::SyntaxConfig;
use minijinja::value::{Object, ObjectRepr, ValueKind};
use minijinja::{AutoEscape, Environment, Error, ErrorKind, UndefinedBehavior, Value};

use super::filters;

/// Instructions that one template may execute; a key's template takes about ten.
const FUEL: u64 = 20_000;

/// A template or a condition of a [`Templates`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct TemplateId(usize);

impl TemplateId {
    /// Its place among the others, from 0.
    #[must_use]
    pub const fn index(self) -> usize {
        self.0
    }
}

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
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Kind {
    Template,
    Condition,
}

#[derive(Debug)]
enum Compiled {
    /// Text without any expression.
    Literal(Arc<str>),
    /// A template of that name in the environment.
    Dynamic(Kind, String),
}

impl Default for Templates {
    fn default() -> Self {
        // A missing value fails where it is used, and may be asked for by `if` and `default`.
        let values = environment(UndefinedBehavior::SemiStrict);
        // A condition may ask for `body.a.b` where there is no `a`.
        let conditions = environment(UndefinedBehavior::Chainable);
        Self { values, conditions, known: HashMap::new(), compiled: Vec::new() }
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
        let statement = format!("{{% if ({source}) %}}1{{% endif %}}");
        self.insert(Kind::Condition, source, statement, names)
    }

    /// How many there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.compiled.len()
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.compiled.is_empty()
    }

    /// The variables of a template or condition, without those it sets itself.
    #[must_use]
    pub fn variables(&self, id: TemplateId) -> Vec<String> {
        let Compiled::Dynamic(kind, name) = &self.compiled[id.0] else { return Vec::new() };
        let template = self.environment(*kind).get_template(name);
        let variables = template.map(|template| template.undeclared_variables(false)).unwrap_or_default();
        let mut variables: Vec<String> = variables.into_iter().collect();
        variables.sort();
        variables
    }

    /// The text of a template; it is never empty.
    ///
    /// # Errors
    /// [`RenderError`], the same for the same input, always.
    pub fn render(&self, id: TemplateId, context: &Value) -> Result<Arc<str>, RenderError> {
        match &self.compiled[id.0] {
            Compiled::Literal(text) => Ok(Arc::clone(text)),
            Compiled::Dynamic(kind, name) => {
                let text = run(self.environment(*kind), name, context)?;
                if text.is_empty() { Err(RenderError::Missing) } else { Ok(text.into()) }
            }
        }
    }

    /// Whether a condition holds.
    ///
    /// # Errors
    /// [`RenderError`], the same for the same input, always.
    pub fn holds(&self, id: TemplateId, context: &Value) -> Result<bool, RenderError> {
        match &self.compiled[id.0] {
            Compiled::Literal(_) => Ok(true),
            Compiled::Dynamic(kind, name) => Ok(!run(self.environment(*kind), name, context)?.is_empty()),
        }
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
        if kind == Kind::Template && !source.contains('{') {
            self.compiled.push(Compiled::Literal(source.into()));
        } else {
            let name = id.0.to_string();
            let environment = match kind {
                Kind::Template => &mut self.values,
                Kind::Condition => &mut self.conditions,
            };
            environment.add_template_owned(name.clone(), statement).map_err(|error| words(&error))?;
            self.compiled.push(Compiled::Dynamic(kind, name));
        }
        for variable in self.variables(id) {
            if !names.contains(&variable.as_str()) {
                let near = super::near::suggest(&variable, names.iter().copied());
                return Err(format!("unknown variable `{variable}`{near}"));
            }
        }
        self.known.insert((kind, source.to_owned()), id);
        Ok(id)
    }

    fn environment(&self, kind: Kind) -> &Environment<'static> {
        match kind {
            Kind::Template => &self.values,
            Kind::Condition => &self.conditions,
        }
    }
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

fn run(environment: &Environment<'static>, name: &str, context: &Value) -> Result<String, RenderError> {
    let template = environment.get_template(name).map_err(|error| classify(&error))?;
    template.render(context).map_err(|error| classify(&error))
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

#[derive(Debug, thiserror::Error)]
#[error("{0}")]
struct Invalid(&'static str);

/// The error of an input that can't be used; `reason` must not hold any of it.
#[must_use]
pub fn invalid(reason: &'static str) -> Error {
    Error::new(ErrorKind::InvalidOperation, reason).with_source(Invalid(reason))
}

fn missing() -> Error {
    Error::new(ErrorKind::UndefinedError, "undefined, null or empty")
}

/// The text of an input.
pub(super) fn text_of(value: &Value) -> Result<std::borrow::Cow<'_, str>, Error> {
    match value.kind() {
        ValueKind::Undefined | ValueKind::None => Err(missing()),
        ValueKind::String => match value.as_str() {
            Some("") | None => Err(missing()),
            Some(text) => Ok(text.into()),
        },
        ValueKind::Bool => Ok(if value.is_true() { "true" } else { "false" }.into()),
        ValueKind::Number if value.is_integer() => Ok(value.to_string().into()),
        ValueKind::Number => Err(invalid("a computed number is not whole")),
        ValueKind::Invalid => Err(Error::from(ErrorKind::BadSerialization)),
        _ => match value.downcast_object_ref::<ExactNumber>() {
            Some(number) => Ok((&*number.0).into()),
            None => Err(invalid("a list or an object has no text")),
        },
    }
}

/// A number that the engine's own whole numbers can't hold without change: its text.
#[derive(Debug)]
pub struct ExactNumber(pub Arc<str>);

impl ExactNumber {
    /// The engine's value of a number: whole ones compare and add, all print as they are written.
    #[must_use]
    pub fn value(text: &Arc<str>) -> Value {
        match text.parse::<i64>() {
            Ok(whole) if whole.to_string() == **text => Value::from(whole),
            _ => Value::from_object(Self(Arc::clone(text))),
        }
    }
}

impl Object for ExactNumber {
    fn repr(self: &Arc<Self>) -> ObjectRepr {
        ObjectRepr::Plain
    }

    fn is_true(self: &Arc<Self>) -> bool {
        let mantissa = self.0.split(['e', 'E']).next().unwrap_or_default();
        mantissa.bytes().any(|byte| (b'1'..=b'9').contains(&byte))
    }

    fn render(self: &Arc<Self>, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn render(source: &str, body: &[(&str, Value)]) -> Result<String, RenderError> {
        let mut templates = Templates::default();
        let id = templates.add(source, &["body"]).expect("it compiles");
        let body = Value::from_pairs(body.iter().map(|(name, value)| (*name, value.clone())));
        templates.render(id, &Value::from_pairs([("body", body)])).map(|text| text.to_string())
    }

    #[test]
    fn a_missing_input_is_never_text() {
        let inputs = [("null", Value::from(())), ("empty", Value::from("")), ("spaces", Value::from("  "))];
        for source in [
            "A#{{ body.absent }}",
            "A#{{ body.null }}",
            "A#{{ body.empty }}",
            "A#{{ body.absent.deeper }}",
            "A#{{ body.absent | lower | sha256 }}",
            "A#{{ body.null | lower }}",
            "A#{{ body.empty | sha256 }}",
            "A#{{ body.spaces | trim }}",
            "A#{{ body.absent ~ 'x' }}",
            "A#{{ {'high': 1}[body.absent] }}",
            "A#{{ body.absent | default('') }}",
            "{% if body.absent %}x{% endif %}",
        ] {
            assert_eq!(render(source, &inputs), Err(RenderError::Missing), "{source}");
        }
    }

    #[test]
    fn numbers_print_as_they_are_written() {
        for text in ["9007199254740993", "-0", "1.50", "1e400", "123456789012345678901234567890"] {
            let number = ExactNumber::value(&text.into());
            assert_eq!(render("N#{{ body.n }}", &[("n", number)]).as_deref(), Ok(&*format!("N#{text}")));
        }
        let half = render("{{ body.n / 2 }}", &[("n", Value::from(1))]);
        assert_eq!(half, Err(RenderError::Failed("a computed number is not whole".to_owned())));
    }

    #[test]
    fn lists_and_objects_have_no_text() {
        let list = [("list", Value::from(vec![1, 2]))];
        assert!(matches!(render("{{ body.list }}", &list), Err(RenderError::Failed(_))));
        assert!(matches!(render("{{ body }}", &list), Err(RenderError::Failed(_))));
    }

    #[test]
    fn a_deliberate_default_is_text() {
        assert_eq!(render("{{ body.absent | default('none') }}", &[]).as_deref(), Ok("none"));
        assert_eq!(render("{{ body.a or 'none' }}", &[]).as_deref(), Ok("none"));
    }

    #[test]
    fn an_endless_template_stops() {
        let source = "{% for a in body.l %}{% for b in body.l %}{% for c in body.l %}x{% endfor %}{% endfor %}{% endfor %}";
        let list = [("l", Value::from((0..200).collect::<Vec<i64>>()))];
        assert_eq!(render(source, &list), Err(RenderError::Failed("engine ran out of fuel".to_owned())));
    }

    #[test]
    fn a_wrong_template_says_what_is_wrong() {
        let mut templates = Templates::default();
        for (source, message) in [
            ("{{ boddy.a }}", "unknown variable `boddy`; did you mean `body`?"),
            ("{{ body.a | sha265 }}", "unknown filter `sha265`; did you mean `sha256`?"),
            ("{{ body.a", "syntax error"),
            ("{{ range(3) }}", "unknown variable `range`"),
        ] {
            let error = templates.add(source, &["body"]).expect_err(source);
            assert!(error.contains(message), "{source}: {error}");
        }
        assert!(templates.add_condition("body.a) %}{% if (true", &["body"]).is_err());
        assert!(templates.add_condition("body.a is defiend", &["body"]).is_err());
    }

    #[test]
    fn conditions_may_ask_for_what_is_not_there() {
        let mut templates = Templates::default();
        let mut holds = |source: &str| {
            let id = templates.add_condition(source, &["body"]).expect("it compiles");
            let body = Value::from_pairs([("consent", Value::from(true)), ("none", Value::from(()))]);
            templates.holds(id, &Value::from_pairs([("body", body)])).expect("it holds or not")
        };
        assert!(holds("body.consent") && holds("body.consent == true") && holds("body.none is none"));
        assert!(!holds("body.a.b.c") && !holds("body.none") && holds("body.a is not defined"));
    }
}
