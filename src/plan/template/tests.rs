//! What templates and conditions are, and what they are never.

use super::*;
use crate::plan::input::{ExactNumber, invalid};

fn render(source: &str, body: &[(&str, Value)]) -> Result<String, RenderError> {
    let mut templates = Templates::default();
    let id = templates.add(source, &["body"]).expect("it compiles");
    let body = Value::from_pairs(body.iter().map(|(name, value)| (*name, value.clone())));
    templates.render(id, &mut Evaluated::new(Value::from_pairs([("body", body)])))
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

/// What needs no engine is what the engine would say.
#[test]
fn simple_expressions_are_what_the_engine_says() {
    let time = "2026-01-31T23:59:59.9Z";
    let body = Value::from_pairs([
        ("text", Value::from(" Ada@Example.com ")),
        ("time", Value::from(time)),
        ("empty", Value::from("")),
        ("null", Value::from(())),
        ("whole", Value::from(1_769_817_600)),
        ("exact", ExactNumber::value(&"1.50".into())),
        ("truth", Value::from(false)),
        ("inner", Value::from_pairs([("list", Value::from(vec![1])), ("text", Value::from("x"))])),
        ("invalid", invalid("it can't be used").into()),
    ]);
    let paths = [
        "text",
        "time",
        "empty",
        "null",
        "whole",
        "exact",
        "truth",
        "inner",
        "inner.list",
        "inner.text",
        "invalid",
        "absent",
        "absent.deeper",
        "text.deeper",
    ];
    let filters = [
        "",
        "|lower",
        " | upper | md5",
        " | trim",
        "| iso8601 ",
        " | epoch",
        " | epoch_ms",
        " | date | lower",
        " | month",
        " | sha256",
    ];
    let templates =
        filters.iter().flat_map(|filters| paths.map(|path| format!("{{{{ body.{path}{filters} }}}}")));
    let tests = ["defined", "undefined", "none", "string", "number", "boolean"];
    let conditions = tests.iter().flat_map(|test| paths.map(|path| format!("body.{path} is {test}")));
    let cases = templates.map(|source| (Kind::Template, source));
    let (mut with, mut without) = (Templates::default(), Templates::default());
    let mut simple = 0;
    for (kind, source) in cases.chain(conditions.map(|source| (Kind::Condition, source))) {
        let mut outcome = |templates: &mut Templates, engine: bool| {
            let add = if kind == Kind::Template { Templates::add } else { Templates::add_condition };
            let id = add(templates, &source, &["body"]).expect("it compiles");
            let last = templates.sources.last_mut().expect("it was added");
            simple += usize::from(last.simple.is_some());
            if engine {
                last.simple = None;
            }
            let mut evaluated = Evaluated::new(Value::from_pairs([("body", body.clone())]));
            match kind {
                Kind::Template => templates.render(id, &mut evaluated),
                Kind::Condition => templates.holds(id, &mut evaluated).map(|holds| holds.to_string()),
            }
        };
        assert_eq!(outcome(&mut with, false), outcome(&mut without, true), "{source}");
    }
    assert_eq!(simple, 2 * paths.len() * (filters.len() + tests.len()));
    let mut templates = Templates::default();
    for source in ["{{ true }}", "{{ none }}", "{{ body.text | lower is defined }}", "{{ body.text[0] }}"] {
        templates.add(source, &["body"]).expect("it compiles");
    }
    assert!(templates.sources.iter().all(|source| source.simple.is_none()));
}

#[test]
fn lists_and_objects_have_no_text() {
    let list = [("list", Value::from(vec![1, 2]))];
    assert!(matches!(render("{{ body.list }}", &list), Err(RenderError::Failed(_))));
    assert!(matches!(render("{{ body }}", &list), Err(RenderError::Failed(_))));
}

#[test]
fn braces_within_an_expression_do_not_end_it() {
    let a = [("a", Value::from("x"))];
    assert_eq!(render("{{ '}}' ~ body.a }}-{{ \"{{\" }}", &a).as_deref(), Ok("}}x-{{"));
    assert_eq!(render("{{ {'x': {'y': 1}}[body.a].y }}.", &a).as_deref(), Ok("1."));
    assert_eq!(render("a {{- body.a -}} b", &a).as_deref(), Ok("axb"));
    assert_eq!(render("{ {# no #}{{ body.a }}", &a).as_deref(), Ok("{ x"));
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
        let mut evaluated = Evaluated::new(Value::from_pairs([("body", body)]));
        templates.holds(id, &mut evaluated).expect("it holds or not")
    };
    assert!(holds("body.consent") && holds("body.consent == true") && holds("body.none is none"));
    assert!(!holds("body.a.b.c") && !holds("body.none") && holds("body.a is not defined"));
}
