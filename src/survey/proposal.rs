//! A survey's findings as a plan: what can be read off as rules, and what can't as open check boxes.

use std::fmt::{self, Write as _};

use toml::Value;

use super::names::{Family, Look};
use super::shape::{Layout, Records, Shape};
use super::{Findings, Found};
use crate::legible::is_hidden;
use crate::plan::{Decode, SourcePlan};

/// The attributes of every proposed item; a record with a field of such a name is nested.
const PLANNED: [&str; 4] = ["PK", "SK", "_entityType", "_source"];

/// What the plan is about.
#[derive(Debug, Clone)]
pub struct Subject<'a> {
    /// The store.
    pub source: &'a SourcePlan,
    /// The table to be made.
    pub table: &'a str,
}

/// The text of a `migration-plan.md`.
///
/// # Errors
/// None: text is written into memory.
pub fn markdown(findings: &Findings, subject: &Subject<'_>) -> Result<String, fmt::Error> {
    let mut text = String::new();
    head(&mut text, findings, subject)?;
    for found in &findings.families {
        entity(&mut text, found)?;
    }
    assets(&mut text, findings)?;
    tail(&mut text)?;
    Ok(text)
}

/// How many questions a proposal leaves open.
#[must_use]
pub fn open_questions(text: &str) -> u64 {
    text.lines().filter(|line| line.starts_with("- [ ] ")).count() as u64
}

fn quoted(text: &str) -> String {
    Value::String(text.to_owned()).to_string()
}

/// A name in the prose.
fn shown(text: &str) -> String {
    let plain: String =
        text.chars().map(|letter| if letter == '`' || is_hidden(letter) { '?' } else { letter }).collect();
    format!("`{plain}`")
}

fn head(text: &mut String, findings: &Findings, subject: &Subject<'_>) -> fmt::Result {
    let SourcePlan { store, prefix, access, plan, .. } = subject.source;
    let access = serde_json::to_string(access).map_err(|_| fmt::Error)?;
    let plan = serde_json::to_string(plan).map_err(|_| fmt::Error)?;
    let (bodies, _) = findings.sample();
    let families = findings.families.len();
    write!(
        text,
        "# From Vercel Blob to DynamoDB: a proposal

This page was made by `migrate init` from a listing of {} blobs and a look into {bodies} of their bodies. It
found {families} kinds of records. It is a beginning: the rules are guesses from names and samples, and what could not be
decided is an open check box. Answer those, change the blocks, and run `migrate export` and `migrate check`: they
say what becomes of every blob. The blocks marked `toml migrate` are what the program executes; the text
around them is for people.

## The two stores

```toml migrate
[source]
store = {}
prefix = {}
access = {access}
plan = {plan}

[target]
table = {}
partition_key = \"PK\"
sort_key = \"SK\"
```

- [ ] Name the AWS region (`region = \"…\"`), and the table as the application will
- [ ] List the questions that the application asks. Each that is not \"the record of this id\" needs an index
  (`[[target.index]]`), whose two attributes the items below set
- [ ] Say which records expire: `ttl = \"ttl\"` under `[target]`, and `ttl = \"{{{{ … | plus('30d') }}}}\"` in their item

## What becomes of the blobs
",
        findings.listed,
        quoted(store),
        quoted(prefix),
        quoted(subject.table),
    )
}

fn entity(text: &mut String, found: &Found) -> fmt::Result {
    let Found { family, shape } = found;
    let (layout, is_only) = shape.layout();
    let decode = shape.decode();
    write!(
        text,
        "\n### {}\n\n{} blobs, {} bytes: {}. {}\n",
        family.name,
        family.blobs,
        family.bytes,
        shown(&family.pattern),
        held(shape, &layout)
    )?;
    for path in layout.paths() {
        if let Some(records) = shape.records.get(&path) {
            fields(text, &path, records)?;
        }
    }
    write!(
        text,
        "\n```toml migrate\n[[entity]]\nname = {}\nblobs = {}\n",
        quoted(&family.name),
        quoted(&family.pattern)
    )?;
    let word = serde_json::to_string(&decode).map_err(|_| fmt::Error)?;
    if decode != Decode::Json {
        writeln!(text, "decode = {word}")?;
    }
    let layout = if decode == Decode::Raw { Layout::Document } else { layout };
    for path in layout.paths() {
        item(text, family, shape, &path, decode)?;
    }
    writeln!(text, "```\n")?;
    questions(text, found, is_only)
}

/// What the sample holds, in a sentence.
fn held(shape: &Shape, layout: &Layout) -> String {
    let what = match layout {
        _ if shape.bodies == 0 => return "None was small enough to be looked at.".to_owned(),
        _ if shape.other == shape.bodies => "no JSON".to_owned(),
        Layout::Document => "one record each".to_owned(),
        Layout::List => "a list of records".to_owned(),
        Layout::Map => "records by their id".to_owned(),
        Layout::MapIn(name) => format!("records by their id, under {}", shown(name)),
        Layout::Lists(names) => {
            let names: Vec<_> = names.iter().map(|name| shown(name)).collect();
            format!("lists of records: {}", names.join(", "))
        }
    };
    format!("Of {} looked at: {what}.", shape.bodies)
}

fn fields(text: &mut String, path: &str, records: &Records) -> fmt::Result {
    if records.fields.is_empty() {
        return Ok(());
    }
    let place = if path.is_empty() { "field".to_owned() } else { format!("field of `{path}`") };
    writeln!(text, "\n| {place} | in | type | |\n|---|---|---|---|")?;
    for (name, field) in &records.fields {
        let types: Vec<_> = field.types.iter().copied().collect();
        let key = if field.is_key(records.count) { "differs in each: may be a key" } else { "" };
        let name = shown(name).replace('|', "\\|");
        writeln!(text, "| {name} | {} of {} | {} | {key} |", field.present, records.count, types.join(", "))?;
    }
    if records.is_open {
        writeln!(text, "\nThere are more names than a schema has.")?;
    }
    Ok(())
}

fn item(text: &mut String, family: &Family, shape: &Shape, path: &str, decode: Decode) -> fmt::Result {
    let kind = family.name.to_uppercase();
    let root = family.pattern.split('/').find(|part| !part.is_empty() && !part.contains('{'));
    let root = root.filter(|_| family.pattern.contains('/')).map_or_else(|| kind.clone(), str::to_uppercase);
    let capture = |name: &String| format!("{{{{ {name} }}}}");
    let names: Vec<&String> = family.captures.iter().map(|captured| &captured.name).collect();
    // All captures are in the key, so that two blobs never want the same one.
    let (partition, mut sort) = match names.as_slice() {
        [] => (kind, String::new()),
        [only] => (format!("{}#{}", literal(&root), capture(only)), kind),
        [first, rest @ ..] => {
            let rest: Vec<_> = rest.iter().map(|name| capture(name)).collect();
            (format!("{}#{}", literal(&root), capture(first)), format!("{kind}#{}", rest.join("#")))
        }
    };
    if sort.is_empty() {
        "METADATA".clone_into(&mut sort);
    }
    writeln!(text, "\n[[entity.item]]")?;
    if !path.is_empty() {
        writeln!(text, "each = {}", quoted(path))?;
        let place = plain(path.trim_end_matches("[*]"));
        let place = if place.is_empty() { String::new() } else { format!("#{}", place.to_uppercase()) };
        write!(sort, "{place}#{}", record_key(shape, path))?;
    }
    if decode == Decode::Raw || !fits(shape, path) {
        writeln!(text, "body = \"nested:body\"")?;
    }
    writeln!(
        text,
        "PK = {}\nSK = {}\n_entityType = {}",
        quoted(&partition),
        quoted(&sort),
        quoted(&family.name)
    )
}

/// A text that no template takes for its own.
fn literal(text: &str) -> String {
    text.replace(['{', '}', '%', '#'], "-")
}

fn plain(text: &str) -> String {
    let plain = text.chars().map(|letter| if letter.is_ascii_alphanumeric() { letter } else { '-' });
    plain.collect::<String>().trim_matches('-').to_owned()
}

/// What tells a record from the others of its document.
fn record_key(shape: &Shape, path: &str) -> String {
    let is_map = matches!(shape.layout().0, Layout::Map | Layout::MapIn(_));
    match candidates(shape, path).first() {
        _ if is_map => "{{ key }}".to_owned(),
        Some(name) => format!("{{{{ record.{name} }}}}"),
        None => "{{ index }}".to_owned(),
    }
}

/// The fields that may be keys, the likeliest first.
fn candidates(shape: &Shape, path: &str) -> Vec<String> {
    let Some(records) = shape.records.get(path) else { return Vec::new() };
    let is_name = |name: &str| {
        name.starts_with(|first: char| first.is_ascii_alphabetic())
            && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_')
    };
    let keys = records.fields.iter().filter(|(name, field)| is_name(name) && field.is_key(records.count));
    let mut keys: Vec<String> = keys.map(|(name, _)| name.clone()).collect();
    keys.sort_by_key(|name| match name.to_lowercase() {
        name if name == "id" || name == "uuid" => 0,
        name if name.ends_with("id") => 1,
        name if ["email", "key", "slug", "code"].contains(&name.as_str()) => 2,
        _ => 3,
    });
    keys
}

/// Whether the fields of each record can be attributes.
fn fits(shape: &Shape, path: &str) -> bool {
    shape.records.get(path).is_none_or(|records| {
        records.objects == records.count
            && !records.is_open
            && !records.fields.keys().any(|name| name.is_empty() || PLANNED.contains(&name.as_str()))
    })
}

fn questions(text: &mut String, found: &Found, is_only: bool) -> fmt::Result {
    let Found { family, shape } = found;
    let looks = |look: Look| family.captures.iter().any(|captured| captured.looks.contains(&look));
    for captured in family.captures.iter().filter(|captured| captured.looks.len() > 1) {
        let words: Vec<_> = captured.looks.iter().map(|look| look.words()).collect();
        writeln!(
            text,
            "- [ ] `{{{}}}` is of several kinds ({}): one kind of record, or several?",
            captured.name,
            words.join(", ")
        )?;
    }
    if looks(Look::Stamped) {
        let keys = candidates(shape, "");
        let by = keys.first().map_or_else(|| "…".to_owned(), |name| format!("{{{{ body.{name} }}}}"));
        writeln!(
            text,
            "- [ ] Each name has a time: may several blobs be versions of one record? Then `group_by = \"{by}\"` makes one \
             item of them, the newest one's, with `PK = \"…#{{{{ group }}}}\"`"
        )?;
    }
    if shape.bodies == 0 {
        writeln!(text, "- [ ] No body was looked at: say how they are read (`decode`) and what they hold")?;
    }
    if shape.envelopes > 0 {
        writeln!(
            text,
            "- [ ] {} of {} bodies are encrypted envelopes: their fields were not seen. Set ENCRYPTION_KEY, and see \
             `migrate check`",
            shape.envelopes, shape.bodies
        )?;
    }
    if shape.other > 0 {
        writeln!(
            text,
            "- [ ] {} of {} bodies are not JSON: mend them, store them as bytes (`decode = \"raw\"`), or accept them \
             (`[[accept]]`)",
            shape.other, shape.bodies
        )?;
    }
    if shape.json > 0 && shape.ndjson > 0 {
        writeln!(text, "- [ ] {} bodies are JSON, {} NDJSON: divide them by name", shape.json, shape.ndjson)?;
    }
    if !is_only {
        writeln!(
            text,
            "- [ ] Not all bodies have their records in the same place: `each` is that of most of them"
        )?;
    }
    for (path, records) in &shape.records {
        let times = ["ttl", "expiresat", "expires_at", "expires", "expiry", "expiration"];
        for name in records.fields.keys().filter(|name| times.contains(&name.to_lowercase().as_str())) {
            writeln!(text, "- [ ] {} may say when a record expires", shown(name))?;
        }
        if !path.is_empty() && !matches!(shape.layout().0, Layout::Map | Layout::MapIn(_)) {
            let keys = candidates(shape, path);
            match keys.first() {
                Some(name) => writeln!(
                    text,
                    "- [ ] `record.{name}` differs in all {} records that were seen of `{path}`: is it their id?",
                    records.count
                )?,
                None => writeln!(
                    text,
                    "- [ ] No field tells the records of `{path}` apart: their place in the list is in the key, and moves with it"
                )?,
            }
        }
    }
    Ok(())
}

fn assets(text: &mut String, findings: &Findings) -> fmt::Result {
    if findings.assets.is_empty() {
        return Ok(());
    }
    writeln!(
        text,
        "\n### Ignored\n\nThese are listed and counted, and neither read nor deleted.\n\n```toml migrate"
    )?;
    for asset in &findings.assets {
        let reason = format!("{} blobs, {} bytes, that are no records", asset.blobs, asset.bytes);
        let pattern = format!("**/*.{}", asset.extension);
        writeln!(text, "[[ignore]]\nblobs = {}\nreason = {}", quoted(&pattern), quoted(&reason))?;
    }
    writeln!(text, "```\n\n- [ ] Decide where these go: they stay in Blob until then")
}

fn tail(text: &mut String) -> fmt::Result {
    write!(
        text,
        "
## Phases

- [ ] the table is as planned `gate: table-ready`
- [ ] every mapped blob is in the snapshot, verified `gate: export-complete`
- [ ] every blob has a rule, and nothing is in quarantine `gate: mapping-total`
- [ ] every mapped blob is applied `gate: backfill-complete`
- [ ] both stores agree `gate: drift-free`
- [ ] each index returns every item that it must `gate: indexes-complete`
"
    )
}
