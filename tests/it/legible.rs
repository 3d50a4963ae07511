//! Names that would move the cursor, forge lines, or turn the direction of writing: people see escapes, programs the
//! names.

use migrate::blob::ETag;
use migrate::digest::Digest;
use serde_json::{Value, json};

use crate::support::Sandbox;

const PLAN: &str = r#"```toml migrate
[source]
store = "emulator"
[target]
table = "test"
partition_key = "PK"
sort_key = "SK"
[[entity]]
name = "record"
blobs = "r/{id}.json"
[[entity.item]]
PK = "R#{{ body.key | default(id) }}"
SK = "META"
```
"#;

const GOOD: &str = "r/\u{202e}a\u{1b}[31m\u{9b}2J.json";
const BROKEN: &str = "r/b\nerror: all is lost\u{7f}.json";
const UNMATCHED: &str = "x/\u{2066}c\r\nhint: rm\u{2028}\u{85}\u{61c}";
/// Both want the same key.
const ONE: &str = "r/d\nhint: rm\u{200f}.json";
const OTHER: &str = "r/e.json";
const KEYED: &str = "{\"key\": \"k\\nerror: all is lost\u{202e}\"}";

/// Stores blobs that no client could put there, as the emulator keeps them.
fn stores(sandbox: &mut Sandbox) -> crate::support::Running {
    let directory = sandbox.path().join("stores/blobs");
    std::fs::create_dir_all(&directory).unwrap();
    for (name, body) in [(GOOD, "{}"), (BROKEN, "nothing"), (UNMATCHED, "x"), (ONE, KEYED), (OTHER, KEYED)] {
        let meta = json!({
            "etag": ETag::of(body.as_bytes()),
            "uploaded_at": "2026-11-01T00:00:00Z",
            "content_type": "application/json",
            "cache_control": "public, max-age=60",
        });
        let head = json!({ "format": 1, "pathname": name, "size": body.len(), "meta": meta });
        let file = directory.join(Digest::of(name).to_string()).with_extension("blob");
        std::fs::write(file, format!("{head}\n{body}")).unwrap();
    }
    sandbox.emulate(&["--data", "stores"])
}

fn is_hidden(letter: char) -> bool {
    letter.is_control() && letter != '\n'
        || "\u{61c}\u{200e}\u{200f}\u{2028}\u{2029}\u{202a}\u{202e}\u{2066}\u{2069}".contains(letter)
}

/// Runs a command in both formats, with its log, and returns what it printed for people and for programs.
fn run(sandbox: &Sandbox, arguments: &[&str]) -> (String, Value) {
    let [people, programs] = ["human", "json"].map(|format| {
        let run = sandbox.run(&[arguments, &["-vvv", "--output", format]].concat());
        for text in [&run.stdout, &run.stderr] {
            let line = text.lines().find(|line| line.contains(is_hidden));
            assert_eq!(line, None, "{arguments:?} as {format}");
            let forged = text
                .lines()
                .find(|line| line.starts_with("error: all is lost") || line.starts_with("hint: rm"));
            assert_eq!(forged, None, "{arguments:?} as {format}:\n{text}");
        }
        run
    });
    let json = programs.json();
    (people.stdout + &people.stderr, json)
}

/// Whether the name is somewhere in it, letter by letter.
fn names(value: &Value, name: &str) -> bool {
    match value {
        Value::String(text) => text == name,
        Value::Array(list) => list.iter().any(|value| names(value, name)),
        Value::Object(members) => members.values().any(|value| names(value, name)),
        _ => false,
    }
}

#[test]
fn people_see_escapes_and_programs_the_names() {
    let mut sandbox = Sandbox::new();
    sandbox.write("migration-plan.md", PLAN);
    let _stores = stores(&mut sandbox);
    run(&sandbox, &["provision"]);
    run(&sandbox, &["export"]);
    let (text, json) = run(&sandbox, &["check"]);
    for (name, shown) in [
        (BROKEN, r"r/b\u{a}error: all is lost\u{7f}.json"),
        (UNMATCHED, r"x/\u{2066}c\u{d}\u{a}hint: rm\u{2028}\u{85}\u{61c}"),
        (ONE, r"r/d\u{a}hint: rm\u{200f}.json"),
    ] {
        assert!(text.contains(shown), "{shown} in:\n{text}");
        assert!(names(&json, name), "{name:?} in:\n{json}");
    }
    let (text, json) = run(&sandbox, &["check", "--explain", GOOD]);
    assert!(text.contains(r"r/\u{202e}a\u{1b}[31m\u{9b}2J.json"), "{text}");
    assert!(names(&json, GOOD), "{json}");
    for command in [&["dual-write", "--once"][..], &["validate"], &["status"], &["cutover"]] {
        run(&sandbox, command);
    }
    run(&sandbox, &["check", "--explain", "absent\u{202e}\nhint: rm"]);
    run(&sandbox, &["validate", "--adopt", "absent\u{202e}\nhint: rm"]);
    run(&sandbox, &["validate", "--adopt", "absent\u{202e}\nhint: rm@none"]);
    run(&sandbox, &["nonsense\u{202e}\u{1b}[2J"]);
}
