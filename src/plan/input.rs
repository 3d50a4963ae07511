//! The inputs of templates: what has text, which text it is, and what fails instead.

use std::sync::Arc;

use minijinja::value::{Object, ObjectRepr, ValueKind};
use minijinja::{Error, ErrorKind, Value};

#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub(super) struct Invalid(pub(super) &'static str);

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
