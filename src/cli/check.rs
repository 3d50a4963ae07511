//! `migrate check`: what the plan makes of a snapshot.

use std::fmt::{self, Write as _};
use std::path::Path;
use std::sync::Arc;

use indicatif::{HumanBytes, HumanCount};
use serde::Serialize;

use super::context::Context;
use super::output::{self, Report};
use crate::blob::Pathname;
use crate::check::explain::{Explanation, Ruling};
use crate::check::price::{PARTITION_UNITS_PER_SECOND, TABLE_UNITS_PER_SECOND};
use crate::check::{Check as Checker, CheckReport, HotKey, SIZES};
use crate::error::Exit;
use crate::legible::{legible, unmistakable};
use crate::mapping::{Explained, From, Step};
use crate::plan::template::Trace;

/// How many blobs of the quarantine people are shown; JSON has up to 1,000.
const SHOWN_MAX: usize = 20;

/// Run every blob of the snapshot through the plan, and write nothing
///
/// Accounts for each blob: it becomes items, is superseded by a newer one of its group, wants a key that
/// another blob wants too, is quarantined with a reason, or is left alone by a rule. Says how many items
/// there are, how large, what writing them takes and costs with all indexes, which keys would take more
/// writes than a partition does, which items an index will lack, and which names or keys only look the
/// same.
///
/// Reads the plan and the snapshot (`migrate export`), asks neither store, and writes nothing. Blobs of
/// entities that the snapshot does not hold, because the plan has changed since, are counted as unread.
///
/// Ends with 3 where a blob is quarantined, collides, is unread, or has no rule or several.
///
/// With `--output json`: {"command": "check", "plan_hash", "snapshot", "snapshot_complete", "blobs": {"listed",
/// "written", "superseded", "colliding", "quarantined", "unread", "ignored", "accepted", "unmatched",
/// "ambiguous"}, "entities": [{"name", "blobs", "quarantined", "superseded", "items", "bytes", "bytes_max",
/// "sizes", "units", "indexes": [{"name", "items", "omitted", "units"}]}], "reasons", "quarantined":
/// [{"pathname", "entity", "reason", "detail", "offset"}], "collisions", "hot_keys", "twins", "load_units",
/// "cost_usd", "prices", …}; with `--explain`: {"command": "check", "pathname", "rule", "steps", …}.
#[derive(Debug, clap::Args)]
#[command(after_long_help = "Examples:
  migrate check
  migrate check --plan draft.md --output json
  migrate check --explain signups/9f86d081884c7d65_1767520800000-x.json")]
pub(crate) struct Check {
    /// Show how this blob becomes its items, step by step; the texts shown are the blob's own data
    #[arg(long, value_name = "PATHNAME")]
    explain: Option<String>,
}

pub(crate) async fn run(args: &Check, context: &Context) -> anyhow::Result<Exit> {
    let settings = context.settings()?;
    let checker = Checker {
        plan: Arc::clone(&settings.plan),
        mapper: context.mapper()?,
        clock: Arc::clone(&context.clock),
        events: Arc::clone(&context.events),
    };
    let snapshot = context.snapshot()?;
    if let Some(pathname) = &args.explain {
        let explanation = checker.explain(&snapshot, &Pathname::new(pathname)).await?;
        context.output.report(&ExplainedBlob { command: "check", explanation: &explanation })?;
        return Ok(explanation.exit());
    }
    let report = checker.run(&snapshot, &context.cancel).await?;
    context.output.report(&Checked {
        command: "check",
        plan_hash: settings.loaded.hash.to_string(),
        snapshot: &settings.snapshot,
        report: &report,
    })?;
    Ok(report.exit())
}

#[derive(Serialize)]
struct Checked<'a> {
    command: &'static str,
    plan_hash: String,
    snapshot: &'a Path,
    #[serde(flatten)]
    report: &'a CheckReport,
}

impl Report for Checked<'_> {
    fn human(&self, text: &mut dyn fmt::Write) -> fmt::Result {
        blobs(self.report, text)?;
        entities(self.report, text)?;
        indexes(self.report, text)?;
        warnings(self.report, text)?;
        refusals(self.report, text)?;
        let (units, prices) = (self.report.load_units, self.report.prices);
        writeln!(
            text,
            "\nfirst load: {} write units with all indexes, in transactions, about ${:.4} ({}, {}); \
             the migration's own table comes on top",
            HumanCount(units),
            self.report.cost_usd,
            prices.source,
            prices.date
        )?;
        let file = self.snapshot.display();
        if !self.report.snapshot_complete {
            writeln!(text, "snapshot {file}: the last export did not finish; run `migrate export` again")?;
        }
        if self.report.blobs.is_total() {
            writeln!(text, "every blob has a rule and becomes what it says")
        } else {
            writeln!(text, "not every blob has one rule and becomes what it says")
        }
    }
}

fn blobs(report: &CheckReport, text: &mut dyn fmt::Write) -> fmt::Result {
    let blobs = report.blobs;
    let rows = [
        ("listed", blobs.listed, ""),
        ("written", blobs.written, "become items"),
        ("superseded", blobs.superseded, "others of their group are newer"),
        ("colliding", blobs.colliding, "want the key of another blob"),
        ("quarantined", blobs.quarantined, "can't become items as they are"),
        ("unread", blobs.unread, "not in the snapshot: run `migrate export`"),
        ("ignored", blobs.ignored, "by a rule"),
        ("accepted", blobs.accepted, "by a rule, as unmappable"),
        ("unmatched", blobs.unmatched, "have no rule"),
        ("ambiguous", blobs.ambiguous, "have several rules"),
    ];
    let rows = rows.into_iter().map(|(what, count, meaning)| {
        let meaning = if count == 0 { "" } else { meaning };
        [what.to_owned(), HumanCount(count).to_string(), meaning.to_owned()]
    });
    text.write_str(&output::table(["blobs", "", ""], rows))
}

fn entities(report: &CheckReport, text: &mut dyn fmt::Write) -> fmt::Result {
    let used = || report.entities.iter().filter(|entity| entity.blobs > 0);
    let rows = used().map(|entity| {
        let mean = entity.bytes.checked_div(entity.items).unwrap_or_default();
        [
            entity.name.clone(),
            HumanCount(entity.blobs).to_string(),
            HumanCount(entity.items).to_string(),
            HumanBytes(mean).to_string(),
            HumanBytes(entity.bytes_max).to_string(),
            HumanCount(entity.units).to_string(),
        ]
    });
    writeln!(text)?;
    text.write_str(&output::table(["entity", "blobs", "items", "mean", "largest", "write units"], rows))?;
    let unused = report.entities.len() - used().count();
    if unused > 0 {
        writeln!(text, "  and {unused} entities without a blob")?;
    }
    let bounds = SIZES.map(|bound| format!("≤ {} KB", bound / 1024));
    let [a, b, c, d, e, f] = bounds.each_ref().map(String::as_str);
    let rows = used().filter(|entity| entity.items > 0).map(|entity| {
        let [a, b, c, d, e, f] =
            entity.sizes.map(|count| if count == 0 { "·".to_owned() } else { HumanCount(count).to_string() });
        [entity.name.clone(), a, b, c, d, e, f]
    });
    writeln!(text)?;
    text.write_str(&output::table(["items by size", a, b, c, d, e, f], rows))
}

fn indexes(report: &CheckReport, text: &mut dyn fmt::Write) -> fmt::Result {
    let rows = report.entities.iter().flat_map(|entity| {
        entity.indexes.iter().map(|index| {
            let omitted = if index.omitted == 0 {
                String::new()
            } else {
                format!("{} left out: an input of the key is missing", HumanCount(index.omitted))
            };
            let [items, units] = [index.items, index.units].map(|count| HumanCount(count).to_string());
            [index.name.clone(), entity.name.clone(), items, units, omitted]
        })
    });
    let mut rows: Vec<_> = rows.collect();
    if rows.is_empty() {
        return Ok(());
    }
    rows.sort();
    writeln!(text)?;
    text.write_str(&output::table(["index", "entity", "items", "write units", ""], rows))
}

fn warnings(report: &CheckReport, text: &mut dyn fmt::Write) -> fmt::Result {
    for hot in &report.hot_keys {
        hot_key(hot, text)?;
    }
    for twins in &report.twins {
        let names: Vec<_> = twins.names.iter().map(|name| format!("`{}`", unmistakable(name))).collect();
        writeln!(text, "\nlook the same, and are different for both stores: {}", names.join(", "))?;
    }
    more(text, "sets of names that look the same", report.twin_count, report.twins.len())
}

fn hot_key(hot: &HotKey, text: &mut dyn fmt::Write) -> fmt::Result {
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a share is between 0 and 1")]
    let percent = (hot.share * 100.0).round() as u64;
    let place = hot.index.as_ref().map_or_else(|| "the table".to_owned(), |name| format!("index {name}"));
    writeln!(
        text,
        "\nhot key: {percent} % of the writes of {place} go to {} = `{}`: at the {} units/s of a new table it \
         would get {}/s, and a partition takes {}/s. The load takes at least {} s, and throttles the table \
         if it is faster",
        hot.attribute,
        legible(&hot.value),
        HumanCount(TABLE_UNITS_PER_SECOND),
        HumanCount(hot.units_per_second),
        HumanCount(PARTITION_UNITS_PER_SECOND),
        HumanCount(hot.load_seconds_min),
    )
}

fn refusals(report: &CheckReport, text: &mut dyn fmt::Write) -> fmt::Result {
    for (names, count, what) in [
        (&report.unmatched_names, report.blobs.unmatched, "no rule takes"),
        (&report.ambiguous_names, report.blobs.ambiguous, "several rules take"),
        (&report.unread_names, report.blobs.unread, "the snapshot does not hold"),
    ] {
        if count > 0 {
            let shown: Vec<_> = names.iter().take(5).map(Pathname::to_string).collect();
            writeln!(text, "\n{what} {} blobs: {}", HumanCount(count), shown.join(", "))?;
        }
    }
    for collision in &report.collisions {
        let names: Vec<_> = collision.pathnames.iter().map(Pathname::to_string).collect();
        writeln!(text, "\n{} blobs want the key {}: {}", collision.blobs, collision.key, names.join(", "))?;
    }
    more(text, "keys that several blobs want", report.collision_count, report.collisions.len())?;
    if report.quarantined.is_empty() {
        return Ok(());
    }
    let reasons =
        report.reasons.iter().map(|count| [count.reason.to_string(), HumanCount(count.blobs).to_string()]);
    writeln!(text)?;
    text.write_str(&output::table(["quarantined", "blobs"], reasons))?;
    for found in report.quarantined.iter().take(SHOWN_MAX) {
        write!(text, "  {}: {}: {}", found.pathname, found.reason, found.detail)?;
        match found.offset {
            Some(offset) => writeln!(text, " (byte {offset})")?,
            None => writeln!(text)?,
        }
    }
    more(text, "blobs in quarantine", report.blobs.quarantined, report.quarantined.len().min(SHOWN_MAX))
}

fn more(text: &mut dyn fmt::Write, what: &str, all: u64, shown: usize) -> fmt::Result {
    match all.saturating_sub(shown as u64) {
        0 => Ok(()),
        rest => writeln!(text, "  and {} more {what}", HumanCount(rest)),
    }
}

#[derive(Serialize)]
struct ExplainedBlob<'a> {
    command: &'static str,
    #[serde(flatten)]
    explanation: &'a Explanation,
}

impl Report for ExplainedBlob<'_> {
    fn human(&self, text: &mut dyn fmt::Write) -> fmt::Result {
        let Explanation { pathname, uploaded_at, size, ruling } = self.explanation;
        writeln!(text, "{pathname}\n  {} stored {uploaded_at}", HumanBytes(*size))?;
        match ruling {
            Ruling::Entity(explained) => entity(explained, text),
            Ruling::Unread => writeln!(
                text,
                "an entity takes it, and its body is not in the snapshot: run `migrate export`"
            ),
            Ruling::Ignored { blobs, reason } => writeln!(text, "ignored by `{blobs}`: {reason}"),
            Ruling::Accepted { blobs, reason } => writeln!(text, "accepted by `{blobs}`: {reason}"),
            Ruling::Unmatched => writeln!(text, "no rule of the plan takes it"),
            Ruling::Ambiguous { rules } => writeln!(text, "several rules take it: {}", rules.join(", ")),
        }
    }
}

fn entity(explained: &Explained, text: &mut dyn fmt::Write) -> fmt::Result {
    writeln!(text, "entity `{}` takes it, by `{}`", explained.entity, explained.pattern)?;
    for capture in &explained.captures {
        writeln!(text, "  {{{}}} is `{}`", capture.name, capture.text)?;
    }
    let decode = serde_json::to_string(&explained.decode).map_err(|_| fmt::Error)?;
    match &explained.document {
        Some(document) => writeln!(text, "decode = {decode}: {document}")?,
        None => writeln!(text, "decode = {decode}: it can't be read")?,
    }
    for step in &explained.steps {
        self::step(step, text)?;
    }
    match (&explained.quarantine, explained.items) {
        (Some(quarantine), _) => writeln!(text, "quarantined: {quarantine}"),
        (None, Some(1)) => writeln!(text, "becomes one item"),
        (None, items) => writeln!(text, "becomes {} items", HumanCount(items.unwrap_or_default())),
    }
}

fn step(step: &Step, text: &mut dyn fmt::Write) -> fmt::Result {
    match step {
        Step::Record { place } => writeln!(text, "record: {place}"),
        Step::Condition { rule, when, holds } => {
            let answer = match holds {
                Some(true) => "holds",
                Some(false) => "does not hold",
                None => "fails",
            };
            writeln!(text, "item {rule}: when {when}: {answer}")
        }
        Step::Group { rule, trace } => {
            write!(text, "item {rule}: group_by ")?;
            traced(trace, text)
        }
        Step::Attribute { rule, name, trace } => {
            write!(text, "item {rule}: {name} = ")?;
            traced(trace, text)
        }
        Step::Item(built) => {
            let [partition, sort] = [built.partition_key_bytes, built.sort_key_bytes];
            writeln!(text, "item {}: {}", built.rule, built.key)?;
            writeln!(
                text,
                "  keys of {} and {} bytes, of {} and {}",
                partition[0], sort[0], partition[1], sort[1]
            )?;
            writeln!(text, "  {} bytes with `_source`, of {}", built.bytes[0], built.bytes[1])?;
            if built.parts > 0 {
                writeln!(text, "  its record is in {} items beside it", built.parts)?;
            }
            for index in &built.omitted {
                writeln!(text, "  not in {index}: an input of its key is missing, null or empty")?;
            }
            for (from, what) in
                [(From::Plan, "of the plan"), (From::Record, "of the record"), (From::Policy, "of a policy")]
            {
                let mut names = String::new();
                for attribute in built.attributes.iter().filter(|attribute| attribute.from == from) {
                    let separator = if names.is_empty() { "" } else { ", " };
                    write!(names, "{separator}{} ({})", attribute.name, attribute.r#type)?;
                }
                if !names.is_empty() {
                    writeln!(text, "  attributes {what}: {names}")?;
                }
            }
            Ok(())
        }
    }
}

fn traced(trace: &Trace, text: &mut dyn fmt::Write) -> fmt::Result {
    writeln!(text, "{}", trace.template)?;
    // A template that is one expression is its own input.
    for input in trace.inputs.iter().filter(|input| input.expression != trace.template) {
        match &input.text {
            Some(value) => writeln!(text, "    {} is `{value}`", input.expression)?,
            None => writeln!(text, "    {} has no text", input.expression)?,
        }
    }
    match (&trace.text, &trace.problem) {
        (Some(value), _) => writeln!(text, "    → `{value}`"),
        (None, problem) => writeln!(text, "    → none: {}", problem.as_deref().unwrap_or_default()),
    }
}
