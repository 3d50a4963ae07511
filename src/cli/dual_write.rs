//! `migrate dual-write`: loads the mirror, and keeps it equal.

use std::fmt;

use indicatif::HumanCount;
use serde::Serialize;

use super::context::Context;
use super::flags::BudgetFlags;
use super::output::Report;
use super::stores::{Asked, Stores};
use super::validate::{write_coverage, write_drift};
use crate::dual_write::once::{Once, OnceReport};
use crate::error::Exit;
use crate::sweep::Level;

/// Load DynamoDB from Blob, and sweep until both are equal
///
/// Opens a session, converges every blob that an entity of the plan maps into its items, then compares
/// both stores and repairs what differs, until a sweep finds nothing. Bodies come from the snapshot where
/// it holds the version that the store has now, else from the store. Items that are not this program's
/// are never overwritten.
///
/// It may run at any time and any number of times, also beside live writers; a rerun writes only what
/// changed. Killed or interrupted, it resumes with the next run. Afterwards `migrate validate` proves the
/// result and `migrate status` shows what is left to do.
///
/// Example:
///   migrate dual-write --once --target embedded
///
/// With `--output json`: {"command": "dual-write", "settled", "backfill": {"mapped", "written", "equal",
/// "ignored", "accepted", "quarantined": [pathname], "unmapped", "failed": [[pathname, why]]}, "sweeps": [as
/// in `validate`], "operations": {"simple", "advanced"} asked of Blob, "requests" sent to DynamoDB, "next"}.
///
/// Exit codes: 0 both stores are equal; 3 some pathnames failed, or can't be mapped; 5 differences remain;
/// 6 DynamoDB is the authority already, or another dual-write runs.
#[derive(Debug, clap::Args)]
#[command(verbatim_doc_comment)]
pub(crate) struct DualWrite {
    /// Load and sweep once, then stop. (A gateway that runs until it is stopped comes later.)
    #[arg(long, required = true)]
    once: bool,

    /// Show what the run would read and what differs now; write nothing
    #[arg(long)]
    dry_run: bool,

    #[command(flatten)]
    budget: BudgetFlags,
}

#[derive(Debug, Serialize)]
struct DualWriteReport<'a> {
    command: &'static str,
    settled: bool,
    #[serde(flatten)]
    once: &'a OnceReport,
    #[serde(flatten)]
    asked: Asked,
    next: &'static str,
}

pub(crate) async fn run(args: &DualWrite, context: &Context) -> anyhow::Result<Exit> {
    let stores = Stores::open(context).await?;
    stores.bound(args.budget);
    if args.dry_run {
        context.output.note("dry run: the stores are compared, nothing is written");
        return super::validate::look(context, &stores, Level::Inventory).await;
    }
    stores.keep_export_evidence().await?;
    let once = Once {
        converger: &stores.converger,
        plan: &stores.plan.plan,
        plan_hash: &stores.plan_hash,
        header: &stores.header,
        level: stores.affordable_level(),
        name: &stores.session_name("dual-write")?,
        directory: &stores.directory,
    };
    let report = Box::pin(once.run(&context.events, &context.cancel)).await?;
    let settled = report.settled();
    let next = if settled { "migrate validate" } else { "settle what is listed, then run this again" };
    context.output.report(&DualWriteReport {
        command: "dual-write",
        settled,
        once: &report,
        asked: stores.asked(),
        next,
    })?;
    let remaining = report.sweeps.last().is_some_and(|sweep| !sweep.present_drift().is_empty());
    Ok(match (report.backfill.complete() && report.backfill.quarantined.is_empty(), settled, remaining) {
        (false, ..) => Exit::SomeKeysFailed,
        (true, true, _) => Exit::Done,
        (true, false, _) => Exit::DriftFound,
    })
}

impl Report for DualWriteReport<'_> {
    fn human(&self, text: &mut dyn fmt::Write) -> fmt::Result {
        let backfill = &self.once.backfill;
        writeln!(
            text,
            "backfill   {} blobs: {} written, {} equal already; {} ignored, {} accepted",
            HumanCount(backfill.mapped),
            HumanCount(backfill.written),
            HumanCount(backfill.equal),
            HumanCount(backfill.ignored),
            HumanCount(backfill.accepted)
        )?;
        for (pathname, why) in &backfill.failed {
            writeln!(text, "  failed       {pathname}: {why}")?;
        }
        for pathname in &backfill.quarantined {
            writeln!(text, "  quarantined  {pathname}")?;
        }
        for (pathname, why) in &backfill.unmapped {
            writeln!(text, "  unmapped     {pathname}: {why}")?;
        }
        for (number, sweep) in (1..).zip(&self.once.sweeps) {
            let found = sweep.drift.len();
            let left = sweep.present_drift().len();
            writeln!(text, "sweep {number}    {found} differences, {} settled", found - left)?;
        }
        if let Some(sweep) = self.once.sweeps.last() {
            write_coverage(text, sweep)?;
            write_drift(text, sweep.present_drift())?;
        }
        self.asked.write(text)?;
        writeln!(text, "next       {}", self.next)
    }
}
