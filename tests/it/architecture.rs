//! What the sources must keep to, beyond what the compiler and clippy see.

use std::fs;
use std::path::{Path, PathBuf};

use regex::Regex;

const FILE_LINES_MAX: usize = 600;

/// A pattern that may stand in some places only.
struct Rule {
    what: &'static str,
    pattern: &'static str,
    /// Beginnings of the paths where it is looked for.
    within: &'static [&'static str],
    /// Beginnings of the paths where it is allowed.
    allowed: &'static [&'static str],
}

const RUST: &[&str] = &["src/", "tests/", "examples/"];

const RULES: [Rule; 7] = [
    Rule {
        what: "reqwest is for the Blob client",
        pattern: r"\breqwest::|\buse reqwest\b",
        within: &["src/"],
        allowed: &["src/blob/client"],
    },
    Rule {
        what: "the AWS SDK is for the DynamoDB target",
        pattern: r"\baws_(config|credential|runtime|sdk|smithy|types)[a-z_]*::",
        within: &["src/"],
        allowed: &["src/target/dynamodb/"],
    },
    Rule {
        what: "terminal and command line are for the CLI",
        pattern: r"\b(clap|indicatif|anyhow|comfy_table)::|\banyhow!",
        within: &["src/"],
        allowed: &["src/cli/", "src/main.rs"],
    },
    Rule {
        what: "files and folders are made by src/folder.rs, for their owner alone",
        pattern: r"\bFile::(create|options)|\bOpenOptions\b|\bDirBuilder\b|\bcreate_dir|\bfs::(write|copy)\b",
        within: &["src/"],
        // The plan is for everybody who reviews it; a drill works in a temporary folder, which is its owner's.
        allowed: &[
            "src/folder.rs",
            "src/cli/init.rs",
            "src/cli/demo.rs",
            "src/cli/drill.rs",
            "src/anchored/foreign.rs",
        ],
    },
    Rule {
        what: "nothing is left to do",
        pattern: r"\b(todo|unimplemented)!\s*\(",
        within: RUST,
        allowed: &[],
    },
    Rule { what: "every test runs", pattern: r"#\[ignore\b", within: RUST, allowed: &[] },
    Rule {
        what: "the protocol has no clock and no I/O",
        pattern: r"\b(tokio|async|await|Instant|SystemTime|std::(fs|net|env|io))\b",
        within: &["src/protocol/"],
        allowed: &[],
    },
];

/// Every Rust file of the package: its path from the top level, with `/`, and its text.
fn sources() -> Vec<(String, String)> {
    let top = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut pending: Vec<PathBuf> = RUST.iter().map(|folder| top.join(folder)).collect();
    let mut found = Vec::new();
    while let Some(path) = pending.pop() {
        if path.is_dir() {
            if path.file_name().is_none_or(|name| name != "node_modules") {
                pending.extend(fs::read_dir(&path).unwrap().map(|entry| entry.unwrap().path()));
            }
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            let name = path.strip_prefix(top).unwrap().to_str().unwrap().replace('\\', "/");
            found.push((name, fs::read_to_string(&path).unwrap()));
        }
    }
    assert!(found.len() > 50, "only {} sources found", found.len());
    found
}

fn begins_with_any(path: &str, beginnings: &[&str]) -> bool {
    beginnings.iter().any(|beginning| path.starts_with(beginning))
}

/// `path:line: …` of every line of code (not a comment) that breaks the rule.
fn breaches(rule: &Rule, sources: &[(String, String)]) -> Vec<String> {
    let pattern = Regex::new(rule.pattern).unwrap();
    let places = sources.iter().filter(|(path, _)| begins_with_any(path, rule.within));
    let mut found = Vec::new();
    for (path, text) in places.filter(|(path, _)| !begins_with_any(path, rule.allowed)) {
        for (number, line) in text.lines().map(str::trim).enumerate() {
            if !line.starts_with("//") && pattern.is_match(line) {
                found.push(format!("{path}:{}: {}: {line}", number + 1, rule.what));
            }
        }
    }
    found
}

#[test]
fn each_thing_is_in_its_place() {
    let sources = sources();
    let broken: Vec<_> = RULES.iter().flat_map(|rule| breaches(rule, &sources)).collect();
    assert!(broken.is_empty(), "{}", broken.join("\n"));
}

#[test]
fn files_stay_readable() {
    let long: Vec<_> = sources()
        .iter()
        .map(|(path, text)| (path.clone(), text.lines().count()))
        .filter(|(_, lines)| *lines > FILE_LINES_MAX)
        .map(|(path, lines)| format!("{path}:{lines}: more than {FILE_LINES_MAX} lines"))
        .collect();
    assert!(long.is_empty(), "{}", long.join("\n"));
}

#[test]
fn nothing_but_the_clock_sleeps() {
    // Waiting in a test makes it slow or unsure. Clippy's ban can be lifted line by line; this cannot.
    let rule = Rule {
        what: "wait for something, not for a time",
        pattern: r"\b(thread|time)::(\{.*)?\bsleep\b",
        within: RUST,
        allowed: &["src/clock.rs", "tests/it/architecture.rs"],
    };
    let broken = breaches(&rule, &sources());
    assert!(broken.is_empty(), "{}", broken.join("\n"));
}

#[test]
fn every_rule_finds_what_it_forbids() {
    let planted = [
        "use reqwest::Client;",
        "let client = aws_sdk_dynamodb::Client::new(&config);",
        "use clap::Parser;",
        "let file = File::create(path)?;",
        concat!("to", "do!()"),
        concat!("#[", "ignore]"),
        "use std::time::Instant;",
    ];
    for (rule, line) in RULES.iter().zip(planted) {
        let text = format!("//! {line}\nfn f() {{\n    {line}\n}}\n");
        let path = "src/protocol/planted.rs";
        let found = breaches(rule, &[(path.to_owned(), text.clone())]);
        assert_eq!(found, [format!("{path}:3: {}: {line}", rule.what)]);
        for place in rule.allowed {
            assert_eq!(breaches(rule, &[(format!("{place}/planted.rs"), text.clone())]), [""; 0]);
        }
    }
}

/// What the checker finds without a rule is what `docs/guarantees.md` says, row by row.
#[test]
fn every_known_trace_is_in_the_guarantees() {
    let row = Regex::new(r#"(?s)trace: "([^"]+)",\s*without: "([^"]+)",.*?because: "([^"]+)""#).unwrap();
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let text = |path: &str| fs::read_to_string(root.join(path)).unwrap();
    let known = text("examples/model/known.rs") + &text("examples/model/flips/known.rs");
    let rows = row.captures_iter(&known).map(|row| format!("| {} | {} | {} |", &row[1], &row[2], &row[3]));
    let rows: Vec<String> = rows.collect();
    let guarantees = text("docs/guarantees.md");
    let told: Vec<&str> = guarantees.split("| trace |").nth(1).unwrap().lines().skip(2).collect();
    assert_eq!(told, rows, "the rows are:\n{}", rows.join("\n"));
    assert!(rows.len() > 50, "{}", rows.len());
}
