//! `migrate check`: what is said of a snapshot is what becomes of it.

use std::collections::BTreeMap;

use migrate::fixture::{Expected, PLAN, SHARED_ITEMS};
use serde_json::{Value, json};

use crate::local::Source;
use crate::support::{Run, Sandbox};

/// A plan of one entity, whose items are grouped if `grouped`.
fn plan(grouped: bool) -> String {
    let (group, id) = if grouped { ("group_by = \"{{ body.id }}\"\n", "group") } else { ("", "body.id") };
    let toml = format!(
        "[source]\nstore = \"fuse\"\n[target]\ntable = \"fuse-main\"\npartition_key = \"PK\"\nsort_key = \"SK\"\n\
         [[entity]]\nname = \"note\"\nblobs = \"notes/{{file}}.json\"\n\
         [[entity.item]]\n{group}PK = \"NOTE#{{{{ {id} }}}}\"\nSK = \"METADATA\"\n\
         [[ignore]]\nblobs = \"other/**\"\nreason = \"other data\"\n"
    );
    format!("```toml migrate\n{toml}```\n")
}

fn check(sandbox: &Sandbox, code: i32) -> Value {
    sandbox.run(&["check", "--output", "json"]).expect(code).json()
}

/// Every blob is in exactly one place.
#[track_caller]
fn counts(report: &Value) -> BTreeMap<String, u64> {
    let blobs = report["blobs"].as_object().unwrap();
    let mut counts: BTreeMap<String, u64> =
        blobs.iter().map(|(name, count)| (name.clone(), count.as_u64().unwrap())).collect();
    let listed = counts.remove("listed").unwrap();
    assert_eq!(counts.values().sum::<u64>(), listed, "{report}");
    counts.retain(|_, count| *count > 0);
    counts
}

fn of(entries: &[(&str, usize)]) -> BTreeMap<String, u64> {
    entries.iter().map(|(name, count)| ((*name).to_owned(), *count as u64)).collect()
}

/// A store with these notes alone, exported under a plan.
fn notes(plan: &str, bodies: &[(&str, &str)]) -> (Source, Sandbox) {
    let source = Source::empty();
    for (pathname, body) in bodies {
        source.put(pathname, (*body).to_owned());
    }
    let sandbox = source.sandbox();
    sandbox.write("migration-plan.md", plan);
    sandbox.run(&["export"]).expect(0);
    (source, sandbox)
}

#[test]
fn the_example_data_becomes_what_its_model_says() {
    let source = Source::with_signups(40);
    let sandbox = source.sandbox();
    sandbox.run(&["export"]).expect(0);
    let reads = source.reads();
    let report = check(&sandbox, 0);
    let [mapped, ignored, accepted] = source.verdicts();
    assert_eq!(counts(&report), of(&[("written", mapped), ("ignored", ignored), ("accepted", accepted)]));
    assert_eq!(source.reads(), reads, "it asks nothing of the store");

    let sum = |name: &str| {
        let entities = report["entities"].as_array().unwrap();
        entities.iter().map(|entity| entity[name].as_u64().unwrap()).sum::<u64>()
    };
    let items =
        source.blobs.iter().map(|blob| if let Expected::Items(items) = blob.expected { items } else { 0 });
    assert_eq!((sum("blobs"), sum("items")), (mapped as u64, (items.sum::<usize>() - SHARED_ITEMS) as u64));
    let signup = &report["entities"][0];
    assert_eq!((signup["bytes_max"].as_u64(), signup["sizes"][5].as_u64()), (Some(409_600), Some(1)));
    let index = &signup["indexes"][0];
    assert_eq!((index["name"].as_str(), index["omitted"].as_u64()), (Some("GSI1"), Some(2)));
    assert_eq!(signup["indexes"][1]["omitted"].as_u64(), Some(0));
    let both = signup["indexes"][0]["items"].as_u64().unwrap() + 2;
    assert_eq!(signup["indexes"][1]["items"].as_u64(), Some(both));
    assert_eq!(report["hot_keys"], json!([]));
    assert_eq!(
        (report["twin_count"].as_u64(), report["twins"][0]["kind"].as_str()),
        (Some(1), Some("pathname"))
    );

    let human = sandbox.run(&["check"]).expect(0).stdout;
    for words in ["owner-credential", "2 left out", "\\u{301}", "every blob has a rule"] {
        assert!(human.contains(words), "`{words}` is not in:\n{human}");
    }
}

#[test]
fn what_cannot_be_mapped_is_named_with_reason_and_offset() {
    let source = Source::with_signups(3);
    let sandbox = source.sandbox();
    let strict = PLAN.replace("[[accept]]\nblobs = \"signups/", "[[accept]]\nblobs = \"nowhere/");
    sandbox.write("migration-plan.md", &strict);
    sandbox.run(&["export"]).expect(0);
    let report = check(&sandbox, 3);
    let expected = source.blobs.iter().filter_map(|blob| match blob.expected {
        Expected::Accepted(reason) => Some((blob.pathname.to_string(), json!(reason))),
        _ => None,
    });
    let quarantined = report["quarantined"].as_array().unwrap();
    let found = quarantined
        .iter()
        .map(|blob| (blob["pathname"].as_str().unwrap().to_owned(), blob["reason"].clone()));
    assert_eq!(found.collect::<BTreeMap<_, _>>(), expected.collect::<BTreeMap<_, _>>());
    let torn =
        quarantined.iter().find(|blob| blob["pathname"].as_str().unwrap().contains("json-torn")).unwrap();
    assert_eq!(torn["offset"].as_u64(), Some(39), "where it ends");
    assert_eq!(counts(&report)["quarantined"], quarantined.len() as u64);
    let reasons = report["reasons"].as_array().unwrap();
    let sum: u64 = reasons.iter().map(|reason| reason["blobs"].as_u64().unwrap()).sum();
    assert_eq!(sum, quarantined.len() as u64);
    let human = sandbox.run(&["check"]).expect(3).stdout;
    assert!(
        human.contains("json-torn_1767520800000-example.json: not-json: ") && human.contains("(byte 39)"),
        "{human}"
    );
}

#[test]
fn a_name_that_composes_to_plain_ascii_has_its_twin() {
    let bodies = [
        ("notes/K.json", r#"{"id": "1"}"#),
        ("notes/\u{212a}.json", r#"{"id": "2"}"#),
        ("notes/other.json", r#"{"id": "a;b"}"#),
        ("notes/question.json", "{\"id\": \"a\u{37e}b\"}"),
        ("notes/plain.json", r#"{"id": "K"}"#),
    ];
    let (_source, sandbox) = notes(&plan(false), &bodies);
    let twins = json!([
        {"kind": "pathname", "names": ["notes/K.json", "notes/\u{212a}.json"]},
        {"kind": "key", "names": ["NOTE#a;b / METADATA", "NOTE#a\u{37e}b / METADATA"]},
    ]);
    let report = check(&sandbox, 0);
    assert_eq!((&report["twin_count"], &report["twins"]), (&json!(2), &twins));
}

#[test]
fn two_blobs_that_want_one_key_collide_unless_they_are_of_one_group() {
    let bodies = [
        ("notes/a.json", r#"{"id": "n1", "text": "older"}"#),
        ("notes/b.json", r#"{"id": "n1", "text": "newer, and longer"}"#),
        ("notes/c.json", r#"{"id": "n2"}"#),
    ];
    let (source, sandbox) = notes(&plan(false), &bodies);
    let report = check(&sandbox, 3);
    assert_eq!(counts(&report), of(&[("colliding", 2), ("written", 1)]));
    let collision = json!({
        "key": {"partition": "NOTE#n1", "sort": "METADATA"}, "blobs": 2, "pathnames": ["notes/a.json", "notes/b.json"],
    });
    assert_eq!(report["collisions"], json!([collision]));
    let human = sandbox.run(&["check"]).expect(3).stdout;
    assert!(human.contains("2 blobs want the key NOTE#n1 / METADATA: notes/a.json, notes/b.json"), "{human}");

    sandbox.write("migration-plan.md", &plan(true));
    let report = check(&sandbox, 0);
    assert_eq!(counts(&report), of(&[("superseded", 1), ("written", 2)]));
    assert_eq!(report["entities"][0]["items"].as_u64(), Some(2));
    let with_b = report["entities"][0]["bytes_max"].as_u64().unwrap();
    // Stored again, `a` is the newest, and its text the item's.
    source.put("notes/a.json", r#"{"id": "n1", "text": "now the newest"}"#);
    sandbox.run(&["export"]).expect(0);
    let with_a = check(&sandbox, 0)["entities"][0]["bytes_max"].as_u64().unwrap();
    assert_eq!(with_b - with_a, "newer, and longer".len() as u64 - "now the newest".len() as u64);
}

#[test]
fn what_the_plan_leaves_out_is_counted() {
    let other = plan(false).replace("\n```", "\n[[ignore]]\nblobs = \"notes/x-**\"\nreason = \"both\"\n```");
    let bodies = [
        ("notes/a.json", r#"{"id": "n1"}"#),
        ("notes/x-1.json", r#"{"id": "x"}"#),
        ("mail/a.json", "{}"),
        ("other/a", ""),
    ];
    let (_source, sandbox) = notes(&other, &bodies);
    let report = check(&sandbox, 3);
    assert_eq!(counts(&report), of(&[("ambiguous", 1), ("ignored", 1), ("unmatched", 1), ("written", 1)]));
    assert_eq!(report["unmatched_names"], json!(["mail/a.json"]));
    assert_eq!(report["ambiguous_names"], json!(["notes/x-1.json"]));
    // The body of what was ignored was never fetched.
    sandbox.write("migration-plan.md", &other.replace("notes/{file}.json", "other/{file}"));
    let report = check(&sandbox, 3);
    assert_eq!(report["ambiguous_names"], json!(["other/a"]));
    sandbox.write("migration-plan.md", &other.replace("notes/{file}.json", "mail/{file}.json"));
    let report = check(&sandbox, 3);
    assert_eq!(counts(&report), of(&[("ignored", 2), ("unmatched", 1), ("unread", 1)]));
    assert_eq!(report["unread_names"], json!(["mail/a.json"]));
}

#[test]
fn a_key_that_takes_more_than_a_partition_is_named_with_the_number() {
    let source = Source::with_signups(1_200);
    let sandbox = source.sandbox();
    sandbox.run(&["export"]).expect(0);
    let report = check(&sandbox, 0);
    let hot = report["hot_keys"].as_array().unwrap();
    assert_eq!(hot.len(), 1, "{hot:?}");
    assert_eq!((hot[0]["index"].as_str(), hot[0]["value"].as_str()), (Some("GSI1"), Some("SIGNUPS")));
    let units = hot[0]["units"].as_u64().unwrap();
    assert!(units > 1_200 && hot[0]["units_per_second"].as_u64().unwrap() > 1_000, "{hot:?}");
    assert_eq!(hot[0]["load_seconds_min"].as_u64(), Some(units.div_ceil(1_000)));
    // Twice the table's units, in transactions, and once those of each index.
    let entities = report["entities"].as_array().unwrap();
    let of = |entity: &Value| {
        let indexes = entity["indexes"].as_array().unwrap().iter();
        2 * entity["units"].as_u64().unwrap()
            + indexes.map(|index| index["units"].as_u64().unwrap()).sum::<u64>()
    };
    assert_eq!(report["load_units"].as_u64(), Some(entities.iter().map(of).sum()));
    let human = sandbox.run(&["check"]).expect(0).stdout;
    assert!(
        human.contains("go to gsi1pk = `SIGNUPS`") && human.contains("a partition takes 1,000/s"),
        "{human}"
    );
}

#[test]
fn one_blob_is_explained_step_by_step() {
    let bodies = [
        ("notes/a.json", r#"{"id": "n1", "text": "x"}"#),
        ("notes/b.json", r#"{"id": null}"#),
        ("other/c", ""),
    ];
    let (_source, sandbox) = notes(&plan(true), &bodies);
    let explain = |pathname: &str| sandbox.run(&["check", "--explain", pathname]);
    insta::assert_snapshot!("explained", stored_at_a_time(&explain("notes/a.json").expect(0)));
    let json = sandbox.run(&["check", "--explain", "notes/a.json", "--output", "json"]).expect(0).json();
    let steps: Vec<_> =
        json["steps"].as_array().unwrap().iter().map(|step| step["step"].as_str().unwrap()).collect();
    assert_eq!(steps, ["record", "group", "attribute", "attribute", "item"]);
    assert_eq!((json["rule"].as_str(), json["items"].as_u64()), (Some("entity"), Some(1)));

    let refused = explain("notes/b.json").expect(3).stdout;
    assert!(refused.contains("{{ body.id }}") && refused.contains("quarantined: key: "), "{refused}");
    let ignored = explain("other/c").expect(0).stdout;
    assert!(ignored.contains("ignored by `other/**`: other data"), "{ignored}");
    explain("notes/nobody.json").expect_error(2, &["notes/nobody.json", "migrate export"]);
}

fn stored_at_a_time(run: &Run) -> String {
    let (before, rest) = run.stdout.split_once(" stored ").unwrap();
    let (_, after) = rest.split_once('\n').unwrap();
    format!("{before} stored …\n{after}")
}

#[test]
fn without_a_snapshot_it_says_what_to_do() {
    let sandbox = Sandbox::with_plan();
    sandbox.run(&["check"]).expect_error(2, &[".migrate/fuse.snapshot", "migrate export"]);
    let (_source, sandbox) = notes(&plan(false), &[("notes/a.json", r#"{"id": "n1"}"#)]);
    let other = plan(false).replace("store = \"fuse\"", "store = \"other\"");
    sandbox.write("other.md", &other);
    let arguments = ["check", "--plan", "other.md", "--snapshot", ".migrate/fuse.snapshot"];
    sandbox.run(&arguments).expect_error(2, &["`fuse`", "`other`"]);
}
