//! Expressions that need no engine: names, filters without arguments, a test.
//!
//! Most templates are of these, and the engine takes as long to start as they take. Only what has a value
//! is answered here: whatever is missing, invalid or failing is left to the engine, which says why.

use minijinja::Value;
use minijinja::value::ValueKind;

use super::filters::{PlainFilter, PlainTest, plain_filter, plain_test};
use super::input::text_of;

/// `{{ body.email | lower | sha256 }}`, or the condition `body.consentToContact is boolean`.
#[derive(Debug)]
pub(super) struct Simple {
    names: Vec<String>,
    filters: Vec<PlainFilter>,
    test: Option<PlainTest>,
}

impl Simple {
    /// The expression of a template: `{{ … }}`.
    pub(super) fn template(expression: &str) -> Option<Self> {
        let inner = expression.strip_prefix("{{")?.strip_suffix("}}")?;
        let mut steps = inner.split('|').map(str::trim);
        let names = names(steps.next()?)?;
        Some(Self { names, filters: steps.map(plain_filter).collect::<Option<_>>()?, test: None })
    }

    /// A condition: names, and a test.
    pub(super) fn condition(source: &str) -> Option<Self> {
        let (value, test) = source.split_once(" is ")?;
        Some(Self { names: names(value.trim())?, filters: Vec::new(), test: Some(plain_test(test.trim())?) })
    }

    /// The variable that it begins with.
    pub(super) fn variable(&self) -> &str {
        &self.names[0]
    }

    /// Its text, if it has any; that of a condition is empty where it does not hold.
    pub(super) fn text(&self, context: &Value) -> Option<String> {
        let (first, rest) = self.names.split_first()?;
        let mut value = context.get_attr(first).ok()?;
        for name in rest {
            value = value.get_attr(name).ok()?;
        }
        for filter in &self.filters {
            value = filter(&value).ok()?;
        }
        match self.test {
            Some(_) if value.kind() == ValueKind::Invalid => None,
            Some(test) => Some(if test(&value) { "1" } else { "" }.to_owned()),
            None => text_of(&value).ok().map(std::borrow::Cow::into_owned),
        }
    }
}

/// `body.signupDate`, which may be a word of the language as well.
fn names(path: &str) -> Option<Vec<String>> {
    let is_name = |name: &str| {
        name.starts_with(|first: char| first.is_ascii_alphabetic() || first == '_')
            && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_')
    };
    path.split('.').map(|name| is_name(name).then(|| name.to_owned())).collect()
}
