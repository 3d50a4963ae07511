//! `--set key=value`: single values of a plan, changed for one run. They enter the plan's hash.

use toml::{Table, Value};

use crate::endpoint::without_userinfo;
use crate::error::{Error, ErrorKind, Result};

/// A value that was changed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Override {
    /// The key, dotted: `timing.settle`, `entity.signup.blobs`, `ignore.0.reason`.
    pub key: String,
    /// Its value now, as TOML, to be shown: a URL without user name and password.
    pub value: String,
    /// Its value in the document, as TOML, if it is there.
    pub planned: Option<String>,
}

impl Override {
    /// Whether it is a window or a bound that only rehearsals may change.
    #[must_use]
    pub fn is_local_only(&self) -> bool {
        ["timing", "gates"].contains(&self.key.split('.').next().unwrap_or_default())
    }
}

impl std::fmt::Display for Override {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} = {}", self.key, self.value)?;
        match &self.planned {
            Some(planned) => write!(f, " (the plan says {planned})"),
            None => Ok(()),
        }
    }
}

/// Applies one `key=value`. The value is TOML; what is not TOML, or stands where the plan has text, is text.
pub(super) fn apply(plan: &mut Table, argument: &str) -> Result<Override> {
    let error = |message: String| {
        Error::new(ErrorKind::Usage, "apply --set").key(without_userinfo(argument)).message(message)
    };
    let (key, text) =
        argument.split_once('=').ok_or_else(|| error("it is not of the form `key=value`".to_owned()))?;
    let (key, text) = (key.trim(), text.trim());
    let steps: Vec<&str> = key.split('.').collect();
    if steps.iter().any(|step| step.is_empty()) {
        return Err(error("its key is not of the form `table.key`".to_owned()));
    }
    let slot = slot(plan, &steps).map_err(error)?;
    let value = parse(text, slot.as_ref());
    // Only to be shown.
    let shown = |value: &Value| without_userinfo(&value.to_string()).into_owned();
    let over = Override { key: key.to_owned(), value: shown(&value), planned: slot.as_ref().map(shown) };
    match slot {
        Slot::Member(table, name) => {
            table.insert(name, value);
        }
        Slot::Element(element) => *element = value,
    }
    Ok(over)
}

enum Slot<'a> {
    Member(&'a mut Table, String),
    Element(&'a mut Value),
}

impl Slot<'_> {
    fn as_ref(&self) -> Option<&Value> {
        match self {
            Self::Member(table, name) => table.get(name),
            Self::Element(value) => Some(value),
        }
    }
}

fn slot<'a>(table: &'a mut Table, steps: &[&str]) -> Result<Slot<'a>, String> {
    let (first, rest) = steps.split_first().ok_or("it has no key")?;
    if rest.is_empty() {
        return Ok(Slot::Member(table, (*first).to_owned()));
    }
    let value = table.entry((*first).to_owned()).or_insert_with(|| Value::Table(Table::new()));
    slot_in(value, first, rest)
}

fn slot_in<'a>(value: &'a mut Value, name: &str, steps: &[&str]) -> Result<Slot<'a>, String> {
    match value {
        Value::Table(table) => slot(table, steps),
        Value::Array(list) => {
            let (first, rest) = steps.split_first().ok_or("it has no key")?;
            let count = list.len();
            let by_name = |element: &Value| element.get("name").and_then(Value::as_str) == Some(*first);
            let index = first.parse().ok().or_else(|| list.iter().position(by_name));
            let element = index.and_then(|index: usize| list.get_mut(index));
            let element = element
                .ok_or_else(|| format!("`{name}` has {count} elements, and `{first}` is none of them"))?;
            if rest.is_empty() { Ok(Slot::Element(element)) } else { slot_in(element, first, rest) }
        }
        _ => Err(format!("`{name}` is a single value")),
    }
}

fn parse(text: &str, planned: Option<&Value>) -> Value {
    let quoted = text.starts_with(['"', '\'']);
    if planned.is_some_and(Value::is_str) && !quoted {
        return Value::String(text.to_owned());
    }
    let table: Option<Table> = toml::from_str(&format!("value = {text}")).ok();
    let value = table.filter(|table| table.len() == 1).and_then(|mut table| table.remove("value"));
    value.unwrap_or_else(|| Value::String(text.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_typed_as_the_plan_has_them() {
        let mut plan: Table = toml::from_str(
            "[source]\nstore = \"a\"\nshare = 0.5\n[[entity]]\nname = \"signup\"\nblobs = \"x\"\n[[entity.item]]\nPK = \"a\"",
        )
        .expect("TOML");
        for argument in [
            "source.store=12",
            "source.share=1",
            "timing.settle = 15m",
            "entity.signup.blobs=a=b",
            "entity.0.item.0.PK='q'",
            "validation.allow_empty=true",
        ] {
            apply(&mut plan, argument).expect(argument);
        }
        let expected: Table = toml::from_str(
            "source = {store = \"12\", share = 1}\ntiming = {settle = \"15m\"}\nvalidation = {allow_empty = true}\n[[entity]]\nname = \"signup\"\nblobs = \"a=b\"\n[[entity.item]]\nPK = \"q\"",
        )
        .expect("TOML");
        assert_eq!(plan, expected);
    }

    #[test]
    fn what_cannot_be_set_says_why() {
        let mut plan: Table = toml::from_str("a = 1\n[[entity]]\nname = \"x\"").expect("TOML");
        for (argument, message) in [
            ("timing.settle", "not of the form `key=value`"),
            ("timing..settle=1", "not of the form `table.key`"),
            ("a.b=1", "`a` is a single value"),
            ("entity.y.blobs=1", "`y` is none of them"),
        ] {
            let error = apply(&mut plan, argument).expect_err(argument).to_string();
            assert!(error.contains(message), "{error}");
        }
    }
}
