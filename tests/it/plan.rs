//! The plan: what is read from a document, what is wrong with it, overrides and hash.

use migrate::error::ErrorKind;
use migrate::fixture;
use migrate::plan::{self, LoadedPlan};

const MINIMAL: &str = r#"# A plan

```toml migrate
[source]
store = "test"
[target]
table = "test"
partition_key = "PK"
sort_key = "SK"
[[target.index]]
name = "GSI1"
partition_key = "gsi1pk"
sort_key = "gsi1sk"
```

Some words.

```toml migrate
[[entity]]
name = "record"
blobs = "r/{id}.json"
[[entity.item]]
PK = "R#{{ id }}"
SK = "META"
[timing]
settle = "15m"
```
"#;

/// The hash of [`MINIMAL`].
const HASH: &str = "455abae9748389bc067787f5d7289146c6204d148ae801631a649ecc392d3c97";

fn parse(text: &str, overrides: &[&str]) -> migrate::Result<LoadedPlan> {
    let overrides: Vec<String> = overrides.iter().map(|over| (*over).to_owned()).collect();
    plan::parse("plan.md", text, &overrides)
}

fn refused(text: &str) -> String {
    let error = parse(text, &[]).expect_err("it must be refused");
    assert_eq!(error.kind(), ErrorKind::Usage);
    error.to_string()
}

#[test]
fn the_shipped_plan_is_one() {
    let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("migration-plan.md");
    let loaded = plan::load(path, &[]).unwrap();
    assert_eq!(loaded.plan.target.control_table(), "fuse-main-migration");
    assert_eq!(loaded.document.text(), fixture::PLAN);
    let gates: Vec<_> = loaded.document.boxes().iter().map(|found| found.gate.as_str()).collect();
    let before = ["table-ready", "export-complete", "mapping-total", "backfill-complete"];
    assert_eq!(
        gates,
        [
            &before[..],
            &[
                "capture-continuous",
                "no-foreign",
                "drift-free",
                "indexes-complete",
                "shadow-reads",
                "rollback-drilled",
            ]
        ]
        .concat()
    );
}

/// What an entity may not be whose items the application writes itself.
#[test]
fn direct_writes_need_an_item_that_is_the_whole_blob() {
    let blobs = "blobs = \"r/{id}.json\"";
    let direct = |more: &str| MINIMAL.replace(blobs, &format!("{blobs}\ndirect_writes = true{more}"));
    parse(&direct(""), &[]).unwrap();
    parse(&direct("\npathname = \"r/{{ item.id }}.json\""), &[]).unwrap();
    let item = |more: &str| direct("").replace("SK = \"META\"", &format!("SK = \"META\"\n{more}"));
    let grouped = item("group_by = \"{{ id }}\"").replace("R#{{ id }}", "R#{{ group }}");
    for (text, message) in [
        (
            MINIMAL.replace(blobs, &format!("{blobs}\npathname = \"r/1.json\"")),
            "plan.md:22: `entity[0].pathname`: it means nothing without `direct_writes = true`",
        ),
        (
            MINIMAL.replace(blobs, &format!("{blobs}\nmirror_expiry = true")),
            "plan.md:22: `entity[0].mirror_expiry`: it means nothing without `direct_writes = true`",
        ),
        (
            direct("\nmirror_expiry = true"),
            "plan.md:23: `entity[0].mirror_expiry`: nothing expires without `ttl`",
        ),
        (
            direct("\ndecode = \"auto\""),
            "plan.md:22: `entity[0].direct_writes`: an item that was written directly",
        ),
        (direct("\ntoo_large = \"split\""), "plan.md:22: `entity[0].direct_writes`: a record in pieces"),
        (
            direct("\npathname = \"r/{{ body.id }}.json\""),
            "plan.md:23: `entity[0].pathname`: unknown variable `body`",
        ),
        (
            item("each = \"[*]\""),
            "plan.md:26: `entity[0].item[0].each`: with `direct_writes` the item is the whole",
        ),
        (grouped, "plan.md:26: `entity[0].item[0].group_by`: with `direct_writes` the item is one blob's"),
        (item("body = \"none\""), "plan.md:26: `entity[0].item[0].body`: with `direct_writes` the document"),
        (
            item("[[entity.item]]\nPK = \"S#{{ id }}\"\nSK = \"META\""),
            "plan.md:22: `entity[0].direct_writes`: a blob must be one item",
        ),
    ] {
        let error = refused(&text);
        assert!(error.contains(message), "{error}\nnot: {message}");
    }
}

#[test]
fn what_is_wrong_is_named_with_line_and_key() {
    for (from, to, message) in [
        (
            "table = \"test\"",
            "tabel = \"test\"",
            "plan.md:7: `target`: unknown key `tabel`; did you mean `table`?",
        ),
        ("[source]", "[sorce]", "plan.md:4: unknown key `sorce`; did you mean `source`?"),
        ("sort_key = \"SK\"", "", "plan.md:6: `target`: the key `sort_key` is missing"),
        ("store = \"test\"", "store = 3", "plan.md:5: `source.store`: it must be a string, not integer `3`"),
        ("store = \"test\"", "store = \"../x\"", "plan.md:5: `source.store`: a store's name is"),
        (
            "store = \"test\"",
            "store = \"test\"\nplan = \"proo\"",
            "plan.md:6: `source.plan`: `proo` is none of hobby, pro, enterprise; did you mean `pro`?",
        ),
        (
            "store = \"test\"",
            "store = \"test\"\nbackground_share = 0",
            "plan.md:6: `source.background_share`: 0 is not above 0",
        ),
        ("store = \"test\"", "store = \"test", "plan.md:5: invalid basic string"),
        ("store = \"test\"", "store = \"test\"\nstore = \"test\"", "plan.md:6: duplicate key"),
        (
            "sort_key = \"SK\"",
            "sort_key = \"PK\"",
            "plan.md:9: `target.sort_key`: partition and sort key are both `PK`",
        ),
        (
            "sort_key = \"SK\"",
            "sort_key = \"SK\"\nttl = \"gsi1sk\"",
            "plan.md:10: `target.ttl`: `gsi1sk` can't be the TTL attribute",
        ),
        (
            "r/{id}.json",
            "r/{id.json",
            "plan.md:21: `entity[0].blobs`: the pattern `r/{id.json`: `{` without `}`",
        ),
        ("r/{id}.json", "r/{body}.json", "plan.md:21: `entity[0].blobs`: the capture `{body}` has the name"),
        ("SK = \"META\"", "", "plan.md:22: `entity[0].item[0]`: the table's key `SK` has no template"),
        ("SK = \"META\"", "SK = 3", "plan.md:24: `entity[0].item[0].SK`: it must be text: a template"),
        ("SK = \"META\"", "SK = \"\"", "plan.md:24: `entity[0].item[0].SK`: the template is empty"),
        (
            "SK = \"META\"",
            "SK = \"{{ ide }}\"",
            "plan.md:24: `entity[0].item[0].SK`: unknown variable `ide`; did you mean `id`?",
        ),
        ("SK = \"META\"", "SK = \"{{ id | sha2566 }}\"", "unknown filter `sha2566`; did you mean `sha256`?"),
        ("SK = \"META\"", "SK = \"{{ id\"", "plan.md:24: `entity[0].item[0].SK`: syntax error"),
        (
            "SK = \"META\"",
            "SK = \"META\"\nwhen = \"id ==\"",
            "plan.md:25: `entity[0].item[0].when`: syntax error",
        ),
        (
            "SK = \"META\"",
            "SK = \"META\"\nWhen = \"id\"",
            "plan.md:25: `entity[0].item[0].When`: did you mean `when`?",
        ),
        (
            "SK = \"META\"",
            "SK = \"META\"\nbody = \"nested:\"",
            "`nested:` is not one of `attributes`, `none`, `nested:NAME`",
        ),
        (
            "SK = \"META\"",
            "SK = \"META\"\nbody = \"nested:SK\"",
            "plan.md:25: `entity[0].item[0].body`: `SK` is the name of another attribute",
        ),
        (
            "SK = \"META\"",
            "SK = \"META\"\ngsi1pk = \"a\"",
            "plan.md:25: `entity[0].item[0].gsi1pk`: `gsi1pk` without `gsi1sk`: the item would not be in index GSI1",
        ),
        (
            "SK = \"META\"",
            "SK = \"META\"\n_source = \"a\"",
            "plan.md:25: `entity[0].item[0]._source`: `_source` can't be an attribute",
        ),
        (
            "SK = \"META\"",
            "SK = \"META\"\ngroup_by = \"{{ body.a }}\"",
            "the key of a grouped item may use only `group`, and this uses `id`",
        ),
        (
            "SK = \"META\"",
            "SK = \"META\"\neach = \"list[0]\"",
            "plan.md:25: `entity[0].item[0].each`: the path `list[0]`: `[` is followed by `*]`",
        ),
        (
            "name = \"record\"",
            "name = \"record\"\ndecode = \"raw\"",
            "plan.md:23: `entity[0].item[0].body`: with `decode = \"raw\"` the bytes go into one attribute",
        ),
        (
            "settle = \"15m\"",
            "settle = \"14m\"",
            "plan.md:26: `timing.settle`: 14m is shorter than `late_write_max`, 15m",
        ),
        ("settle = \"15m\"", "settle = \"fast\"", "plan.md:26: `timing.settle`: `fast` is not a duration"),
        (
            "settle = \"15m\"",
            "lease = \"2s\"",
            "plan.md:26: `timing.lease`: 2s is not longer than `renew`, 2s",
        ),
        (
            "[timing]",
            "[[entity]]\nname = \"record\"\nblobs = \"x\"\n[[entity.item]]\nPK = \"a\"\nSK = \"b\"\n[timing]",
            "plan.md:26: `entity[1].name`: two entities have the name `record`",
        ),
        (
            "[timing]",
            "[[ignore]]\nblobs = \"x\"\nreason = \" \"\n[timing]",
            "plan.md:27: `ignore[0].reason`: it says no reason",
        ),
        ("name = \"GSI1\"", "name = \"GSI 1\"", "plan.md:11: `target.index[0].name`: an index's name is"),
    ] {
        assert!(MINIMAL.contains(from), "{from}");
        let error = refused(&MINIMAL.replacen(from, to, 1));
        assert!(error.contains(message), "expected: {message}\nactual:   {error}");
    }
}

#[test]
fn the_hash_is_of_what_is_executed() {
    let hash = |text: &str, overrides: &[&str]| parse(text, overrides).unwrap().hash;
    let plain = hash(MINIMAL, &[]);
    assert_eq!(plain, hash(&MINIMAL.replace("Some words.", "- [x] other words"), &[]));
    assert_eq!(
        plain,
        hash(&MINIMAL.replace("store = \"test\"", "store = 'test' # a name\nplan = \"pro\""), &[])
    );
    assert_eq!(plain, hash(MINIMAL, &["timing.settle=15m"]));
    assert_ne!(plain, hash(MINIMAL, &["timing.settle=16m"]));
    assert_ne!(plain, hash(&MINIMAL.replace("META", "METADATA"), &[]));
    assert_eq!(plain, hash(MINIMAL, &["capture.mirror=async"]));
    assert_ne!(plain, hash(MINIMAL, &["capture.mirror=strict"]));
    assert_ne!(plain, hash(MINIMAL, &["capture.mode=follow"]));
}

#[test]
fn the_hash_does_not_change_from_one_version_of_the_program_to_the_next() {
    // Evidence of a running migration is bound to it: change this only with the format of evidence.
    assert_eq!(parse(MINIMAL, &[]).unwrap().hash.to_string(), HASH);
}

#[test]
fn overrides_are_applied_kept_and_bounded() {
    let loaded = parse(MINIMAL, &["timing.settle=16m", "source.prefix=a/"]).unwrap();
    assert_eq!(loaded.plan.source.prefix, "a/");
    let shown: Vec<String> = loaded.overrides.iter().map(ToString::to_string).collect();
    assert_eq!(shown, ["timing.settle = \"16m\" (the plan says \"15m\")", "source.prefix = \"a/\""]);
    assert!(loaded.require_local(true).is_ok());
    let error = loaded.require_local(false).expect_err("the stores are not local");
    assert_eq!((error.kind(), error.subject()), (ErrorKind::Usage, Some("timing.settle")));
    assert!(parse(MINIMAL, &["source.prefix=a/"]).unwrap().require_local(false).is_ok());
}

#[test]
fn a_wrong_override_is_named() {
    for (over, message) in [
        ("timing.setle=1m", "apply --set timing.setle=1m: unknown key `setle`; did you mean `settle`?"),
        ("timing.settle=10", "apply --set timing.settle=10: `10` is not a duration"),
        ("source.background_share=lots", "it must be a number, not string \"lots\""),
        ("timing.late_write_max=20m", "`timing.settle`: 15m is shorter than `late_write_max`, 20m"),
    ] {
        let error = parse(MINIMAL, &[over]).expect_err(over);
        assert_eq!(error.kind(), ErrorKind::Usage);
        assert!(error.to_string().contains(message), "expected: {message}\nactual:   {error}");
    }
}

#[test]
fn a_plan_that_is_not_there_is_a_usage_error() {
    let error = plan::load("nowhere/plan.md", &[]).expect_err("there is none");
    assert_eq!(error.kind(), ErrorKind::Usage);
    assert_eq!(error.to_string(), "read the plan nowhere/plan.md: there is no such file");
    assert!(error.advice().unwrap().contains("--plan"));
}
