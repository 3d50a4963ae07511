//! `migrate export`.

use std::fmt;
use std::path::Path;
use std::sync::Arc;

use indicatif::{HumanBytes, HumanCount};
use serde::Serialize;

use super::context::Context;
use super::flags::BudgetFlags;
use super::output::{self, Report};
use crate::blob::BlobStore;
use crate::error::{Error, ErrorKind, Exit, Result};
use crate::snapshot::budget::Estimate;
use crate::snapshot::{Export as Exporter, ExportOptions, ExportReport, Snapshot};

/// Save every blob of the source, verified, in one snapshot file
///
/// Lists the whole store, says what the bodies will cost in operations, then fetches those that an
/// entity of the plan takes, under the plan's rates. A body counts once its ETag and length are the
/// listing's and it is durable. Blobs that an ignore or accept rule names are listed, never fetched.
///
/// Stopped at any moment, the same command goes on where it was; run again later, it fetches only what
/// changed. On a terminal it asks before it spends anything, unless `--yes` is given.
///
/// Reads the plan, BLOB_READ_WRITE_TOKEN and the store; writes only the snapshot, which is an SQLite file
/// that you can open with `sqlite3`. Ends with 3 where bodies could not be got, and with 7 where the
/// operations would pass `--max-operations` or the Vercel plan's allowance.
///
/// With `--output json`: {"command": "export", "plan_hash", "snapshot", "listed", "mapped", "ignored", "accepted",
/// "unmatched", "ambiguous", "gone", "fetched", "fetched_bytes", "failed", "failures", "estimate",
/// "manifest", "operations", …}.
#[derive(Debug, clap::Args)]
#[command(after_long_help = "Examples:
  migrate export --dry-run
  migrate export --yes --max-operations 50000
  sqlite3 .migrate/fuse.snapshot 'SELECT pathname, size FROM blobs LIMIT 10'")]
pub(crate) struct Export {
    /// List the store and say what the export would cost, and fetch nothing
    #[arg(long)]
    dry_run: bool,

    #[command(flatten)]
    budget: BudgetFlags,
}

pub(crate) async fn run(args: &Export, context: &Context) -> anyhow::Result<Exit> {
    let settings = context.settings()?;
    let source = context.source()?;
    let exporter = Exporter {
        meter: source.meter(),
        source: context.within(source as Arc<dyn BlobStore>),
        paced: settings.paces_source(),
        plan: Arc::clone(&settings.plan),
        mapper: context.mapper()?,
        clock: Arc::clone(&context.clock),
        events: Arc::clone(&context.events),
        options: ExportOptions { max_operations: args.budget.max_operations, ..ExportOptions::default() },
    };
    if args.dry_run {
        let snapshot = existing(context)?;
        let estimate = exporter.estimate(snapshot.as_ref(), &context.cancel).await?;
        context.output.report(&DryRun { command: "export", dry_run: true, estimate: &estimate })?;
        estimate.check(args.budget.max_operations)?;
        return Ok(Exit::Done);
    }
    let snapshot = Snapshot::create_or_open(&settings.snapshot, &settings.plan.source.store)?;
    if !context.flags.yes && context.output.can_ask() {
        let estimate = exporter.estimate(Some(&snapshot), &context.cancel).await?;
        estimate.check(args.budget.max_operations)?;
        confirm(&estimate, context).await?;
    }
    let report = exporter.run(&snapshot, &context.cancel).await?;
    context.output.report(&Exported {
        command: "export",
        plan_hash: settings.loaded.hash.to_string(),
        snapshot: &settings.snapshot,
        report: &report,
    })?;
    Ok(report.exit())
}

/// The snapshot of an earlier export, where there was one.
fn existing(context: &Context) -> Result<Option<Snapshot>> {
    match context.snapshot() {
        Ok(snapshot) => Ok(Some(snapshot)),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

async fn confirm(estimate: &Estimate, context: &Context) -> Result<()> {
    if estimate.bodies == 0 {
        return Ok(());
    }
    let question = format!("{estimate}\nFetch {} bodies?", HumanCount(estimate.bodies));
    let answer = async { Ok(context.output.ask(&question).await) };
    match context.interruptible("export", answer).await? {
        Some(false) => Err(Error::new(ErrorKind::Budget, "export")
            .message("you answered no")
            .hint("nothing was fetched; `--dry-run` shows the estimate again")),
        Some(true) | None => Ok(()),
    }
}

#[derive(Serialize)]
struct DryRun<'a> {
    command: &'static str,
    dry_run: bool,
    estimate: &'a Estimate,
}

impl Report for DryRun<'_> {
    fn human(&self, text: &mut dyn fmt::Write) -> fmt::Result {
        writeln!(text, "{}", self.estimate)
    }
}

#[derive(Serialize)]
struct Exported<'a> {
    command: &'static str,
    plan_hash: String,
    snapshot: &'a Path,
    #[serde(flatten)]
    report: &'a ExportReport,
}

impl Report for Exported<'_> {
    fn human(&self, text: &mut dyn fmt::Write) -> fmt::Result {
        let report = self.report;
        let rows = [
            ("listed", report.listed),
            ("mapped", report.mapped),
            ("ignored", report.ignored),
            ("accepted", report.accepted),
            ("unmatched", report.unmatched),
            ("ambiguous", report.ambiguous),
            ("gone", report.gone),
            ("fetched", report.fetched),
            ("failed", report.failed),
        ];
        let rows = rows.into_iter().map(|(what, count)| {
            let detail = match what {
                "fetched" if count > 0 => HumanBytes(report.fetched_bytes).to_string(),
                "fetched" => "nothing new".to_owned(),
                _ => String::new(),
            };
            [what.to_owned(), HumanCount(count).to_string(), detail]
        });
        text.write_str(&output::table(["blobs", "", ""], rows))?;
        for (names, count, what) in [
            (&report.unmatched_names, report.unmatched, "no rule of the plan names"),
            (&report.ambiguous_names, report.ambiguous, "several rules of the plan name"),
        ] {
            if count > 0 {
                let shown: Vec<_> = names.iter().take(5).map(ToString::to_string).collect();
                writeln!(text, "\n{what} {} blobs: {}", HumanCount(count), shown.join(", "))?;
            }
        }
        for failure in &report.failures {
            writeln!(text, "\nfailed: {}: {} ({})", failure.pathname, failure.message, failure.kind)?;
        }
        let file = self.snapshot.display();
        match &report.manifest {
            Some(manifest) => {
                writeln!(
                    text,
                    "\nsnapshot {file}: complete, {}, digest {}",
                    HumanBytes(manifest.bytes),
                    manifest.digest
                )
            }
            None => writeln!(text, "\nsnapshot {file}: incomplete; run the same command again"),
        }
    }
}
