//! `migrate init`: the plan it proposes is one, and has the families that are there.

use std::collections::{BTreeMap, BTreeSet};

use migrate::fixture::{Expected, PLAN};
use migrate::mapping::{Mapper, Rule};
use migrate::plan;

use crate::local::Source;
use crate::support::Sandbox;

/// A store with these blobs, and a directory without a plan.
fn store(bodies: &[(&str, &str)]) -> (Source, Sandbox) {
    let source = Source::empty();
    for (pathname, body) in bodies {
        source.put(pathname, (*body).to_owned());
    }
    let sandbox = without_plan(&source);
    (source, sandbox)
}

fn without_plan(source: &Source) -> Sandbox {
    let sandbox = source.sandbox();
    std::fs::remove_file(sandbox.path().join("migration-plan.md")).unwrap();
    sandbox
}

fn proposal(sandbox: &Sandbox) -> String {
    std::fs::read_to_string(sandbox.path().join("migration-plan.md")).unwrap()
}

#[test]
fn every_family_of_the_example_data_is_found_and_the_check_runs() {
    let source = Source::with_signups(120);
    let sandbox = without_plan(&source);
    let report = sandbox.run(&["init", "--store", "fuse", "--output", "json"]).expect(0).json();
    assert_eq!(report["listed"].as_u64(), Some(source.blobs.len() as u64));
    let reads = source.reads();
    assert!(reads < 200, "a sample, not {reads} of {} bodies", source.blobs.len());

    let mapper = |text: &str| {
        let plan = plan::parse("migration-plan.md", text, &[]).unwrap().plan;
        Mapper::with_key(&plan, Some("any".to_owned().into())).unwrap()
    };
    let (ours, theirs) = (mapper(PLAN), mapper(&proposal(&sandbox)));
    let mut families: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for blob in source.blobs.iter().filter(|blob| matches!(blob.expected, Expected::Items(_))) {
        let Rule::Entity(entity) = ours.rule(&blob.pathname) else { panic!("{}", blob.pathname) };
        let Rule::Entity(family) = theirs.rule(&blob.pathname) else {
            panic!("{}: {:?}", blob.pathname, theirs.rule(&blob.pathname))
        };
        families.entry(ours.name(entity).to_owned()).or_default().insert(theirs.name(family).to_owned());
    }
    assert!(families.values().all(|found| found.len() == 1), "{families:#?}");
    let distinct: BTreeSet<_> = families.values().flatten().collect();
    assert_eq!((families.len(), distinct.len()), (20, 20), "{families:#?}");
    // The patterns are the ones that people wrote, but for the names of captures.
    let forms = |text: &str| -> BTreeSet<String> {
        let plan = plan::parse("migration-plan.md", text, &[]).unwrap().plan;
        let capture = regex::Regex::new(r"\{\w+\}").unwrap();
        plan.entities.iter().map(|entity| capture.replace_all(&entity.blobs, "{}").into_owned()).collect()
    };
    assert_eq!(forms(&proposal(&sandbox)), forms(PLAN));
    assert_eq!(report["assets"][0]["blobs"].as_u64(), Some(3));

    sandbox.run(&["export"]).expect(0);
    let checked = sandbox.run(&["check", "--output", "json"]).expect(3).json();
    let count = |name: &str| checked["blobs"][name].as_u64().unwrap();
    assert_eq!(
        [count("unmatched"), count("ambiguous"), count("colliding"), count("unread")],
        [0; 4],
        "{checked}"
    );
    assert_eq!(count("ignored"), 3);
    // No more than those that are made not to be held.
    let held = source.mapped().count() as u64;
    assert!(count("written") >= held, "{} of {held}: {}", count("written"), checked["quarantined"]);
}

#[test]
fn forms_fields_and_keys_are_read_off_and_doubts_are_check_boxes() {
    let (_source, sandbox) = store(&[
        ("users.json", r#"[{"id": "u1", "plan": "free"}, {"id": "u2", "plan": "free"}]"#),
        ("db.json", r#"{"users": [{"id": 1}, {"id": 2}], "products": [{"sku": "a"}, {"sku": "b"}]}"#),
        (
            "system/0123456789abcdef0123456789abcdef.json",
            r#"{"version": 1, "records": {"a1": {"n": 1}, "b2": {"n": 2}}}"#,
        ),
        ("logs/2026-01-01.ndjson", "{\"at\": 1, \"expiresAt\": 5}\n{\"at\": 2}\n"),
        ("logs/2026-01-02.ndjson", "{\"at\": 3}\n{\"at\": 4}\n{\"at"),
        ("orders/7.json", r#"{"PK": "x", "total": 1.50}"#),
        ("orders/8.json", r#"{"total": 2}"#),
        ("notes/blue.txt", "no JSON"),
        ("Users/c 1.json", r#"{"{{ body.x }}": 1}"#),
    ]);
    sandbox.run(&["init", "--store", "shop"]).expect(0);
    let text = proposal(&sandbox);
    insta::assert_snapshot!("proposal", text);
    let plan = plan::parse("migration-plan.md", text.as_str(), &[]).unwrap().plan;
    let each = |name: &str| -> Vec<Option<String>> {
        let entity = plan.entities.iter().find(|entity| entity.name == name).unwrap();
        entity.items.iter().map(|item| item.each.clone()).collect()
    };
    let path = |text: &str| Some(text.to_owned());
    assert_eq!(each("users"), [path("[*]")]);
    assert_eq!(each("db"), [path("products[*]"), path("users[*]")]);
    assert_eq!(each("system"), [path("records[*]")]);
    sandbox.run(&["export"]).expect(0);
    // The torn line alone.
    let checked = sandbox.run(&["check", "--output", "json"]).expect(3).json();
    assert_eq!(checked["blobs"]["quarantined"].as_u64(), Some(1), "{checked}");
    assert_eq!(checked["quarantined"][0]["pathname"], "logs/2026-01-02.ndjson");
    assert_eq!(checked["blobs"]["written"].as_u64(), Some(8), "{checked}");
}

#[test]
fn a_plan_that_is_there_stays_unless_it_is_to_go() {
    let (source, sandbox) = store(&[("users/1.json", r#"{"name": "one"}"#)]);
    sandbox.write("migration-plan.md", "ours");
    sandbox.run(&["init"]).expect_error(2, &["migration-plan.md", "--force"]);
    assert_eq!((proposal(&sandbox).as_str(), source.reads()), ("ours", 0));
    sandbox.run(&["init", "--force"]).expect(0);
    assert!(proposal(&sandbox).contains("users/{userId}.json"));
    sandbox.run(&["init", "--plan", "other.md"]).expect(0);
    let other = std::fs::read_to_string(sandbox.path().join("other.md")).unwrap();
    assert_eq!(other, proposal(&sandbox), "the same store, the same proposal");
}

#[test]
fn what_it_would_cost_is_said_and_bounded() {
    let (source, sandbox) = store(&[("users/1.json", "{}"), ("users/2.json", "{}")]);
    let run = sandbox.run(&["init", "--max-operations", "2"]).expect_error(7, &["3 operations", "at most 2"]);
    assert!(run.stderr.contains("2 bodies to read"), "{}", run.stderr);
    assert_eq!(source.reads(), 0);
    assert!(!sandbox.path().join("migration-plan.md").exists());
    let report = sandbox.run(&["init", "--max-operations", "3", "--output", "json"]).expect(0).json();
    assert_eq!(report["operations"], serde_json::json!({"simple": 2, "advanced": 1}));
}

#[test]
fn a_store_without_records_has_no_plan() {
    let (_source, sandbox) = store(&[]);
    sandbox.run(&["init"]).expect_error(2, &["no records"]);
}
