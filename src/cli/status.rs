//! `migrate status`: where a migration stands.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use clap::ValueEnum;
use jiff::Timestamp;
use serde::Serialize;

use super::context::Context;
use super::cutover::{reads, write_gates};
use super::output::Report;
use super::stores::Stores;
use crate::cutover::{Cutover, Standing};
use crate::error::{ErrorKind, Exit, Result};
use crate::protocol::canary::Share;
use crate::protocol::phase::{Authority, Phase};
use crate::snapshot::Manifest;
use crate::target::control::{Audit, SessionRow, SweepRow};

/// By how many seconds the clocks of two machines may differ.
const CLOCK_DIFFERENCE_S: i64 = 2;

/// Show the phase, the gates, the last runs and the next step
///
/// Reads the control table and the snapshot; asks nothing of the Blob store, changes nothing there.
/// `--write-plan` ticks the check boxes of the plan whose text names a gate (`gate: drift-free`), and
/// unticks those whose gate is closed; everything else of the file stays as it is.
///
/// With `--output json`: {"command": "status", "plan", "plan_hash", "phase", "epoch", "since", "authority",
/// "canary" (in that phase: "percent", "prefixes"), "standing" (as in `cutover`, or null), "export", "sweep", "audit" (with --audit), "boxes_changed" (with
/// --write-plan), "next"}. With `--audit=lines` a line for each change: {"at", "who", "from", "to", "epoch", "hold", "plan_hash",
/// "evidence": {gate: text}, "pause_ms", "note"}.
#[derive(Debug, clap::Args)]
#[command(after_long_help = "Examples:
  migrate status
  migrate status --write-plan
  migrate status --audit=lines | jq 'select(.pause_ms > 100)'")]
pub(crate) struct Status {
    /// Tick the plan's check boxes from the gates
    #[arg(long)]
    write_plan: bool,

    /// Show every flip that was made; with =lines that alone, each as JSON on a line of its own
    #[arg(long, value_name = "FORMAT", num_args = 0..=1, require_equals = true, default_missing_value = "text")]
    audit: Option<AuditFormat>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum AuditFormat {
    /// Beside everything else.
    Text,
    /// As JSON lines, and nothing else.
    Lines,
}

/// A line of the audit log: JSON, whatever is asked for.
#[derive(Debug, Serialize)]
#[serde(transparent)]
struct Line(Audit);

impl Report for Line {
    fn human(&self, text: &mut dyn fmt::Write) -> fmt::Result {
        writeln!(text, "{}", serde_json::to_string(&self.0).map_err(|_| fmt::Error)?)
    }
}

#[derive(Debug, Serialize)]
struct StatusReport {
    command: &'static str,
    plan: String,
    plan_hash: String,
    phase: Phase,
    epoch: u64,
    since: Option<Timestamp>,
    authority: Authority,
    #[serde(skip_serializing_if = "Option::is_none")]
    canary: Option<Share>,
    standing: Option<Standing>,
    export: Option<Manifest>,
    sweep: Option<SweepRow>,
    #[serde(skip_serializing_if = "Option::is_none")]
    audit: Option<Vec<Audit>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    boxes_changed: Option<usize>,
    next: String,
    #[serde(skip)]
    lease: Duration,
    #[serde(skip)]
    now: Timestamp,
}

pub(crate) async fn run(args: &Status, context: &Context) -> anyhow::Result<Exit> {
    let stores = Stores::open(context).await?;
    let control = &stores.converger.control;
    if args.audit == Some(AuditFormat::Lines) {
        for line in control.audit().await? {
            context.output.report(&Line(line))?;
        }
        return Ok(Exit::Done);
    }
    stores.keep_export_evidence().await?;
    let flipping = Cutover {
        converger: &stores.converger,
        events: context.events.clone(),
        plan: &stores.plan.plan,
        plan_hash: &stores.plan_hash,
        // It takes no step.
        who: String::new(),
        name: String::new(),
        directory: &stores.directory,
    };
    let standing = forward(&flipping).await?;
    let mode = control.mode().await?;
    let phase = mode.as_ref().map_or(Phase::Capture, |mode| mode.phase);
    let boxes_changed =
        if args.write_plan { Some(stores.write_ticks(&ticks(phase, standing.as_ref()))?) } else { None };
    let report = StatusReport {
        command: "status",
        plan: context.flags.plan.display().to_string(),
        plan_hash: stores.plan_hash.clone(),
        phase,
        epoch: mode.as_ref().map_or(1, |mode| mode.epoch.0),
        since: mode.as_ref().map(|mode| mode.since),
        authority: phase.authority(),
        canary: mode.and_then(|mode| mode.canary),
        export: stores.manifest().await?,
        sweep: control.sweeps().await?.pop(),
        audit: if args.audit.is_some() { Some(control.audit().await?) } else { None },
        boxes_changed,
        next: next(phase, standing.as_ref()),
        standing,
        lease: stores.plan.plan.timing.lease.0,
        now: context.clock.now(),
    };
    context.output.report(&report)?;
    Ok(Exit::Done)
}

/// The step forward, if there is one.
async fn forward(flipping: &Cutover<'_>) -> Result<Option<Standing>> {
    match flipping.standing(None).await {
        Ok(standing) => Ok(Some(standing)),
        Err(error) if error.kind() == ErrorKind::WrongPhase => Ok(None),
        Err(error) => Err(error),
    }
}

/// After a cutover every gate was open: its boxes stay ticked.
fn ticks(phase: Phase, standing: Option<&Standing>) -> BTreeMap<String, bool> {
    match standing {
        Some(standing) if phase.authority() == Authority::Source => {
            standing.gates.iter().map(|state| (state.gate.to_string(), state.open)).collect()
        }
        _ => crate::gate::Gate::ALL.iter().map(|gate| (gate.to_string(), true)).collect(),
    }
}

/// An open session: whether its process still renews it, as far as one look and its own clock can tell.
fn session_line(session: &SessionRow, lease: Duration, now: Timestamp) -> String {
    let SessionRow { name, kind, began, .. } = session;
    let silent_s = now.duration_since(session.renewed.unwrap_or(*began)).as_secs();
    if silent_s <= i64::try_from(lease.as_secs()).unwrap_or(i64::MAX) + CLOCK_DIFFERENCE_S {
        return format!("running    {name} ({kind}), since {began:.0}");
    }
    format!(
        "silent     {name} ({kind}), since {began:.0}, not renewed for {silent_s} s: if its process is gone, start \
         it once more under the same name, on the same machine, which ends this session"
    )
}

fn next(phase: Phase, standing: Option<&Standing>) -> String {
    let Some(standing) = standing else {
        return "the migration is over; `migrate cutover --to final` finishes what it left undone, if anything"
            .to_owned();
    };
    if phase == Phase::Cutover {
        return "run for as long as you need to be sure; `migrate cutover --rollback` goes back, `migrate cutover --to \
                final` ends the migration for good"
            .to_owned();
    }
    match standing.closed().next() {
        Some(state) => state.opened_by.to_owned(),
        None => format!("migrate cutover --to {}", standing.target),
    }
}

impl Report for StatusReport {
    fn human(&self, text: &mut dyn fmt::Write) -> fmt::Result {
        writeln!(text, "plan       {} ({})", self.plan, self.plan_hash.get(..12).unwrap_or_default())?;
        let since = self.since.map_or_else(|| "not begun".to_owned(), |since| format!("since {since:.0}"));
        let reads = reads(self.phase, self.canary.as_ref());
        writeln!(text, "phase      {}, epoch {}, {since}; reads come from {reads}", self.phase, self.epoch)?;
        if let Some(standing) = &self.standing {
            writeln!(text, "gates      to {}", standing.target)?;
            write_gates(text, &standing.gates)?;
            for session in &standing.open_sessions {
                writeln!(text, "{}", session_line(session, self.lease, self.now))?;
            }
            if standing.intents > 0 {
                writeln!(text, "in doubt   {} writes through a gateway, or under way", standing.intents)?;
            }
        }
        if let Some(export) = &self.export {
            writeln!(
                text,
                "export     {} blobs listed, {} bodies, finished {:.0}",
                export.listed, export.fetched, export.finished
            )?;
        }
        if let Some(sweep) = &self.sweep {
            let result = if sweep.clean { "clean" } else { "not clean" };
            writeln!(
                text,
                "sweep      {result}: {} of {} blobs, {} items, ended {:.0}",
                sweep.compared, sweep.listed, sweep.items, sweep.ended
            )?;
        }
        for line in self.audit.iter().flatten() {
            if let Some(note) = &line.note {
                writeln!(text, "audit      {:.0}  by {}: {note}", line.at, line.who)?;
                continue;
            }
            writeln!(
                text,
                "audit      {:.0}  {} → {}, epoch {}, by {}, writes held {} ms",
                line.at, line.from, line.to, line.epoch, line.who, line.pause_ms
            )?;
        }
        if let Some(changed) = self.boxes_changed {
            writeln!(text, "boxes      {changed} changed in {}", self.plan)?;
        }
        writeln!(text, "next       {}", self.next)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::target::control::{SessionKind, SessionState};

    #[test]
    fn a_session_that_is_not_renewed_is_told_from_one_that_is() {
        let at = |second: i64| Timestamp::from_second(1_800_000_000 + second).unwrap();
        let row = SessionRow {
            id: "s".to_owned(),
            name: "blue".to_owned(),
            kind: SessionKind::Gateway,
            counter: 7,
            state: SessionState::Open,
            began: at(0),
            renewed: Some(at(100)),
            epoch: None,
            writers: None,
            ended: None,
            acknowledged: None,
            gap: None,
        };
        let line = |row: &SessionRow, second| session_line(row, Duration::from_secs(10), at(second));
        assert!(line(&row, 103).starts_with("running    blue (gateway), since "));
        let silent = line(&row, 400);
        assert!(silent.starts_with("silent     blue") && silent.contains("for 300 s: "), "{silent}");
        // Killed before its first renewal, and a clock that is behind.
        assert!(line(&SessionRow { renewed: None, ..row.clone() }, 60).contains("for 60 s"));
        assert!(line(&row, 90).starts_with("running"));
    }
}
