//! The filters of templates. None of them makes text of an input that is undefined, null or empty.

use std::sync::LazyLock;

use jiff::Timestamp;
use jiff::civil::Date;
use md5::Digest as _;
use minijinja::value::ValueKind;
use minijinja::{Environment, Error, ErrorKind, Value};
use regex::Regex;

use super::input::{invalid, text_of};
use super::near;

use super::types::Span;
use crate::digest::Digest;

/// The filters that a template may use.
pub const FILTERS: [&str; 13] = [
    "sha256", "md5", "lower", "upper", "trim", "replace", "default", "epoch", "epoch_ms", "plus", "iso8601",
    "date", "month",
];

/// The tests (`is …`) that a template may use.
const TESTS: [&str; 6] = ["defined", "undefined", "none", "string", "number", "boolean"];

/// A filter without arguments.
pub(super) type PlainFilter = fn(&Value) -> Result<Value, Error>;

/// A test without arguments.
pub(super) type PlainTest = fn(&Value) -> bool;

/// The filter without arguments of this name.
pub(super) fn plain_filter(name: &str) -> Option<PlainFilter> {
    PLAIN_FILTERS.iter().find(|(known, _)| *known == name).map(|(_, filter)| *filter)
}

/// The test of this name.
pub(super) fn plain_test(name: &str) -> Option<PlainTest> {
    PLAIN_TESTS.iter().find(|(known, _)| *known == name).map(|(_, test)| *test)
}

const PLAIN_FILTERS: [(&str, PlainFilter); 10] = [
    ("sha256", |value| Ok(Digest::of(text_of(value)?.as_bytes()).to_string().into())),
    ("md5", |value| Ok(hex::encode(md5::Md5::digest(text_of(value)?.as_bytes())).into())),
    ("lower", |value| Ok(text_of(value)?.to_lowercase().into())),
    ("upper", |value| Ok(text_of(value)?.to_uppercase().into())),
    ("trim", |value| Ok(text_or_undefined(text_of(value)?.trim()))),
    ("epoch", |value| Ok(instant(value)?.as_second().into())),
    ("epoch_ms", |value| {
        let time = Timestamp::from_millisecond(whole(value)?);
        Ok(time.map_err(|_| invalid("not a time in milliseconds"))?.as_second().into())
    }),
    ("iso8601", |value| Ok(iso8601(instant(value)?).into())),
    ("date", |value| Ok(first(iso8601(instant(value)?), "2026-01-31".len()))),
    ("month", |value| Ok(first(iso8601(instant(value)?), "2026-01".len()))),
];

const PLAIN_TESTS: [(&str, PlainTest); 6] = [
    ("defined", |value| !value.is_undefined()),
    ("undefined", Value::is_undefined),
    ("none", Value::is_none),
    ("string", |value| value.kind() == ValueKind::String),
    ("number", Value::is_number),
    ("boolean", |value| value.kind() == ValueKind::Bool),
];

pub(super) fn add_to(environment: &mut Environment<'static>) {
    for (name, filter) in PLAIN_FILTERS {
        environment.add_filter(name, filter);
    }
    for (name, test) in PLAIN_TESTS {
        environment.add_test(name, test);
    }
    environment.add_filter("replace", |value: &Value, from: &str, to: &str| -> Result<Value, Error> {
        Ok(text_or_undefined(&text_of(value)?.replace(from, to)))
    });
    environment.add_filter("default", |value: &Value, other: Value| -> Value {
        match text_of(value) {
            Err(error) if error.kind() == ErrorKind::UndefinedError => other,
            _ => value.clone(),
        }
    });
    environment.add_filter("plus", |value: &Value, span: &str| -> Result<i64, Error> {
        let span = Span::try_from(span.to_owned()).map_err(|_| invalid("not a duration such as `30d`"))?;
        let seconds = i64::try_from(span.0.as_secs()).map_err(|_| invalid("a duration is too long"))?;
        instant(value)?.as_second().checked_add(seconds).ok_or_else(|| invalid("a time is out of range"))
    });
}

fn first(mut text: String, letters: usize) -> Value {
    text.truncate(letters);
    text.into()
}

fn text_or_undefined(text: &str) -> Value {
    if text.is_empty() { Value::UNDEFINED } else { Value::from(text) }
}

/// A time as the application's own code writes it: UTC, milliseconds, `Z`.
#[must_use]
pub fn iso8601(time: Timestamp) -> String {
    time.strftime("%Y-%m-%dT%H:%M:%S%.3fZ").to_string()
}

fn whole(value: &Value) -> Result<i64, Error> {
    text_of(value)?.parse().map_err(|_| invalid("not a whole number"))
}

/// The time that an input says: ISO 8601 with an offset, a date (midnight UTC), or whole seconds.
fn instant(value: &Value) -> Result<Timestamp, Error> {
    let text = text_of(value)?;
    if value.is_number() {
        return Timestamp::from_second(whole(value)?).map_err(|_| invalid("not a time in whole seconds"));
    }
    if let Ok(time) = text.parse::<Timestamp>() {
        return Ok(time);
    }
    // A date alone is midnight UTC, as in ISO 8601 profiles and in JavaScript; a time without an offset
    // could mean anything.
    if text.len() == "2026-01-31".len()
        && let Ok(date) = text.parse::<Date>()
        && let Ok(midnight) = date.to_zoned(jiff::tz::TimeZone::UTC)
    {
        return Ok(midnight.timestamp());
    }
    Err(invalid("not a time: ISO 8601 with an offset, a date, or whole seconds"))
}

static STRINGS: LazyLock<Regex> = LazyLock::new(|| fixed(r#"'(?:[^'\\]|\\.)*'|"(?:[^"\\]|\\.)*""#));
static CODE: LazyLock<Regex> = LazyLock::new(|| fixed(r"(?s)\{\{.*?\}\}|\{%.*?%\}"));
static FILTER: LazyLock<Regex> = LazyLock::new(|| fixed(r"\|\s*([A-Za-z_]\w*)"));
static TEST: LazyLock<Regex> = LazyLock::new(|| fixed(r"\bis\s+(?:not\s+)?([A-Za-z_]\w*)"));

fn fixed(expression: &str) -> Regex {
    Regex::new(expression).expect("invariant: a fixed expression")
}

/// Finds wrong names of filters and tests before any blob is read; the engine itself sees them only
/// when it gets there.
pub(super) fn check_names(source: &str) -> Result<(), String> {
    let source = STRINGS.replace_all(source, "''");
    for code in CODE.find_iter(&source) {
        for (regex, known, what) in [(&*FILTER, &FILTERS[..], "filter"), (&*TEST, &TESTS[..], "test")] {
            for captures in regex.captures_iter(code.as_str()) {
                let name = &captures[1];
                if !known.contains(&name) {
                    let near = near::suggest(name, known.iter().copied());
                    return Err(format!("unknown {what} `{name}`{near}"));
                }
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn apply(expression: &str) -> Result<String, Error> {
        let mut environment = Environment::empty();
        add_to(&mut environment);
        environment.render_str(&format!("{{{{ {expression} }}}}"), ())
    }

    #[test]
    fn times_are_read_strictly_and_written_in_one_form() {
        for (expression, expected) in [
            ("'2026-01-31T01:00:00+01:00' | epoch", "1769817600"),
            ("'2026-01-31' | epoch", "1769817600"),
            ("'2026-01-31' | iso8601", "2026-01-31T00:00:00.000Z"),
            ("1769817600 | iso8601", "2026-01-31T00:00:00.000Z"),
            ("1769817600123 | epoch_ms", "1769817600"),
            ("'2026-01-31' | plus('30d')", "1772409600"),
            ("'2026-01-31T23:59:59.9Z' | date", "2026-01-31"),
            ("'2026-01-31T23:59:59.9Z' | month", "2026-01"),
        ] {
            assert_eq!(apply(expression).expect(expression), expected, "{expression}");
        }
        for expression in
            ["'2026-01-31T01:00:00' | epoch", "'soon' | epoch", "'1769817600' | epoch", "1.5 | epoch"]
        {
            assert!(apply(expression).is_err(), "{expression}");
        }
    }

    #[test]
    fn digests_are_of_the_text() {
        assert_eq!(
            apply("'A@Example.com' | lower | sha256").expect("text"),
            Digest::of("a@example.com").to_string()
        );
        assert_eq!(apply("12 | md5").expect("a number"), "c20ad4d76fe97759aa27a0c99bff6710");
    }

    #[test]
    fn names_within_strings_are_no_names() {
        assert!(check_names("{{ body.a | replace('| nothing', \"x is wrong\") }}").is_ok());
        assert!(check_names("| plain text is odd").is_ok());
        assert!(check_names("{% if body.a is odd %}{% endif %}").is_err());
    }
}
