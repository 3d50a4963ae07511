//! `migrate cutover`: flips the read mode, or explains why not yet.

use std::fmt;
use std::time::Duration;

use serde::Serialize;

use super::context::Context;
use super::drill::{self, Drill};
use super::finish::{self, FinishFlags};
use super::output::Report;
use super::stores::Stores;
use crate::cutover::steps::steps;
use crate::cutover::{Cutover as Flipping, Flip, Standing, first_share};
use crate::error::{Error, ErrorKind, Exit};
use crate::gate::GateState;
use crate::hook::{self, HookRun};
use crate::plan::HookPlan;
use crate::protocol::canary::Share;
use crate::protocol::phase::{Authority, Phase};

/// Make DynamoDB the store that is read, once every gate is open
///
/// Without arguments it says where the migration stands, what stands in the way of the next step, and which that is.
///
/// Takes one step: the one that --to or --rollback says, or with --yes or --wait the next one: capture → shadow (reads from Blob, compared with DynamoDB) → canary
/// (a share of the keys from DynamoDB where it has Blob's version) → cutover (everything from DynamoDB, which is
/// the authority). Each gate of the step is judged from stored evidence. If one is closed, it says which, why,
/// and what opens it, and changes nothing (exit 4). Steps before the cutover, and back to `shadow` or `capture`,
/// hold nothing: gateways go by them within the plan's `timing.mode_poll`. A key that is in a share of the canary
/// is in every larger one: `--to canary --percent N` again changes it.
///
/// The step to cutover, and the way back from it, changes the authority. Then it converges what is under way, and refuses if that is too
/// much (exit 4). Then it holds the mode item: gateways let writes wait, finish what they have begun, and
/// acknowledge. What is left is converged, the gates are judged once more, and phase, epoch and an audit row
/// are committed in one transaction. Writes wait for well under a second, and none fails. If somebody does
/// not acknowledge within the plan's `timing.hold_limit`, the hold is cancelled, writes go on, and the process
/// is named (exit 6): while Blob is the authority its gateways go on without the control table, so silence is
/// no consent. Loads and repairs must be over.
///
/// --drill takes all of these steps there and back, up to the cutover and from it, with a gateway and an application that
/// writes through it, and proves that nothing failed and nothing was lost. Nothing of the application's is touched: its
/// blobs are below `migrate-drill/`, which no plan maps, its items and rows in one partition of each table, without
/// `_source`; both are removed in the end. It takes about a minute, and opens the gate `rollback-drilled`.
///
/// The step to `final` ends the migration, and there is no way back from it: one clean comparison since the cutover, and no
/// gateway that runs. Then the control table is saved to a file and read back, the retained bytes are dropped, with
/// --strip `_source` goes from the items, and with --delete-source the blobs that DynamoDB holds, once a copy of the
/// snapshot was read back that holds their bytes. It can be stopped and run again. It says what is left to do by hand.
///
/// After each step the plan's `[hook]` is run, if it has one, with the new mode as JSON on its stdin.
///
/// Evidence counts only under the present plan and epoch, and for as long as the plan's
/// `timing.evidence_age_max`. After `--rollback` it starts anew.
///
/// With `--output json`: {"command": "cutover", "dry_run", "ready", "standing": {"mode", "target", "gates":
/// [{"gate", "open", "summary", "obstacles", "opened_by", "at"}], "open_sessions"}, "flip": {"from", "to",
/// "epoch", "canary": {"percent", "prefixes"}, "pause_ms"} once it is done, "hook": {"command", "ok", "ended",
/// "took_ms"} where the plan has one, "steps": [text]}. To final: {"command": "cutover", "dry_run", "standing" (null
/// where this is phase final already), "flip", "hook", "deletable": {"blobs", "bytes", "kept": [[pathname, why]],
/// "kept_count"} and "deleted": {"blobs", "kept", "kept_count"} with --delete-source, "archive": {"file", "rows",
/// "sha256", "found"}, "snapshot", "removed": {"anchors", "rows", "stripped"}, "by_hand": [text]}. With --drill:
/// {"command": "cutover", "drill", "writes", "pauses_ms": [there, back], "slowest_ms", "seconds", "summary"}. What
/// "standing" says was so before the step.
///
/// Exit codes: 0 the step is taken; 3 it is, but the plan's hook failed, or blobs stay (with --dry-run: would stay) that were to be deleted; 4 a gate is closed, or too much is under way; 6 a session did not acknowledge or must
/// be over, somebody else holds the mode, or there is no such step.
#[derive(Debug, clap::Args)]
#[command(after_long_help = "Examples:
  migrate cutover --dry-run     what stands in the way, and every step; changes nothing
  migrate cutover               where it stands, and what is next
  migrate cutover --to shadow   one step
  migrate cutover --to shadow --wait    the same as soon as its gates open
  migrate cutover --to canary --percent 25 --prefix signups/
  migrate cutover --writers-stopped   without gateways: then, later, validate --sweeps 2
  migrate cutover --without blue    the machine of the gateway \"blue\" is gone
  migrate cutover --drill       there and back on data of its own, before it counts
  migrate cutover --rollback    one step back; from cutover to reading Blob
  migrate cutover --to final --strip    the end of the migration")]
pub(crate) struct Cutover {
    /// Judge every gate and show every step; change nothing
    #[arg(long)]
    dry_run: bool,

    /// The phase to be: one step from the present one [default: the next]
    #[arg(long, value_name = "PHASE", conflicts_with = "rollback", value_parser = phase_named)]
    to: Option<Phase>,

    /// To canary: so many of a hundred keys are read from DynamoDB [default: as before, at first 10]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u8).range(1..=100))]
    percent: Option<u8>,

    /// To canary: only keys that begin so [default: as before, at first all]. Repeatable; `--prefix ""` is all
    #[arg(long, value_name = "PREFIX")]
    prefix: Vec<String>,

    /// Go one step back: from shadow to capture, from canary or cutover to shadow
    #[arg(long)]
    rollback: bool,

    /// Cancel a hold that another cutover left behind, or still has
    #[arg(long)]
    cancel_hold: bool,

    /// Your word that the process with this session name is stopped for good: its session is ended. The end
    /// counts as unclean, so two full sweeps must look once more. Repeatable
    #[arg(long, value_name = "NAME")]
    without: Vec<String>,

    /// Your word that nobody writes to Blob any more, where the plan says `mode = "follow"` under [capture].
    /// Then two full sweeps must begin `timing.settle` later and find nothing
    #[arg(long, conflicts_with_all = ["rollback", "dry_run"])]
    writers_stopped: bool,

    /// Wait until every gate of the step is open, for as long as it takes; Ctrl-C ends it and changes nothing
    #[arg(long)]
    wait: bool,

    /// Exercise the cutover and the way back on data of its own, with the very commands that do it: beside the
    /// application's data in both stores, or with what the snapshot holds on this machine
    #[arg(long, value_name = "WHERE", num_args = 0..=1, default_missing_value = "stores",
          conflicts_with_all = ["to", "rollback", "dry_run", "wait"])]
    drill: Option<Drill>,

    /// Who does it, for the audit log [default: user@host]
    #[arg(long, value_name = "NAME", env = "MIGRATE_OPERATOR")]
    who: Option<String>,

    #[command(flatten)]
    finish: FinishFlags,
}

/// How often the gates are judged anew while they are waited for.
const POLL: Duration = Duration::from_secs(1);
/// After so many looks it is said again what is waited for.
const LOOKS_QUIET: u32 = 10;

#[derive(Debug, Serialize)]
struct CutoverReport<'a> {
    command: &'static str,
    dry_run: bool,
    ready: bool,
    standing: &'a Standing,
    #[serde(skip_serializing_if = "Option::is_none")]
    flip: Option<Flip>,
    #[serde(skip_serializing_if = "Option::is_none")]
    hook: Option<HookRun>,
    steps: Vec<String>,
    /// Whether it was only asked how things stand.
    #[serde(skip)]
    explains: bool,
}

pub(crate) async fn run(args: &Cutover, context: &Context) -> anyhow::Result<Exit> {
    let stores = Stores::open(context).await?;
    stores.keep_export_evidence().await?;
    let flipping = Flipping {
        converger: &stores.converger,
        events: context.events.clone(),
        plan: &stores.plan.plan,
        plan_hash: &stores.plan_hash,
        who: args.who.clone().unwrap_or_else(|| context.environment.operator.clone()),
        name: stores.session_name("cutover")?,
        directory: &stores.directory,
    };
    let target = if args.rollback { Some(back(&flipping).await?) } else { args.to };
    args.finish.check(target)?;
    if let Some(drill) = args.drill {
        if drill == Drill::Stores {
            confirm(context, "Run a drill in a part of both stores, beside the application's data?").await?;
        }
        return drill::run(drill, context, &stores, &flipping).await;
    }
    // Without a word of what to do it says where one stands.
    let named = target.is_some() || args.percent.is_some() || !args.prefix.is_empty() || args.cancel_hold;
    let explains = args.dry_run || !(named || args.wait || context.flags.yes);
    if !args.dry_run {
        flipping.without(&args.without).await?;
    }
    if target == Some(Phase::Final) {
        return finish::run(args.dry_run, &args.finish, context, &stores, &flipping).await;
    }
    if args.writers_stopped {
        flipping.writers_stopped().await?;
    }
    let mut standing = flipping.standing(target).await?;
    if standing.target == Phase::Final && !explains {
        return Err(Error::new(ErrorKind::Usage, "cut over")
            .message(
                "the next step is to final, from which there is no way back: it is taken by its name alone",
            )
            .hint("`migrate cutover --to final`; `migrate cutover --rollback` goes back")
            .into());
    }
    let share = share(args, &standing)?;
    let sure = match &share {
        Some(share) => format!("Read {share} from DynamoDB?"),
        None => format!("Flip reads from {} to {}?", phase(&standing), standing.target),
    };
    let mut asked = false;
    let mut waiting = Waiting::default();
    let flip = loop {
        let closed = standing.closed().next().is_some();
        if !explains && !asked && (args.wait || !closed) {
            confirm(context, &sure).await?;
            asked = true;
        }
        if !closed {
            if explains {
                break None;
            }
            let flipped = match &share {
                Some(share) => flipping.canary(share, args.cancel_hold).await,
                None => flipping.flip(Some(standing.target), args.cancel_hold).await,
            };
            match flipped {
                Err(error) if args.wait && error.kind() == ErrorKind::GateClosed => {
                    waiting.tell(context, String::new(), error.to_string());
                }
                flipped => break Some(flipped?),
            }
        } else if args.wait {
            let gates: Vec<&str> = standing.closed().map(|state| state.gate.as_str()).collect();
            let why = |state: &GateState| {
                format!("{}: {}", state.gate, state.obstacles.first().unwrap_or(&state.summary))
            };
            let whys: Vec<String> = standing.closed().map(why).collect();
            waiting.tell(context, gates.join(" "), whys.join("; "));
        } else {
            break None;
        }
        standing = waiting.look_again(context, &flipping, standing.target).await?;
    };
    let hook = match (&flip, &stores.plan.plan.hook) {
        (Some(flip), Some(hook)) => Some(told(hook, &flipping, flip, context).await),
        _ => None,
    };
    let closed = standing.closed().next().is_some();
    let failed = hook.as_ref().is_some_and(|hook| !hook.ok);
    let report = CutoverReport {
        command: "cutover",
        dry_run: args.dry_run,
        ready: standing.ready(),
        standing: &standing,
        flip,
        hook,
        explains,
        steps: steps(&standing, args.cancel_hold, stores.plan.plan.timing.hold_limit),
    };
    context.output.report(&report)?;
    Ok(match (closed, failed) {
        (true, _) => Exit::GateClosed,
        (false, true) => Exit::SomeKeysFailed,
        (false, false) => Exit::Done,
    })
}

/// Runs the plan's hook after a flip. The flip stands, whatever comes of it.
pub(super) async fn told(
    hook: &HookPlan,
    flipping: &Flipping<'_>,
    flip: &Flip,
    context: &Context,
) -> HookRun {
    let (control, clock) = (&flipping.converger.control, &context.clock);
    let run = hook::tell(hook, control, clock, (flip.from, &flip.mode), &flipping.who).await;
    run.unwrap_or_else(|error| {
        let ended = format!("has run; the audit log does not say so ({error})");
        HookRun { command: hook.command.clone(), ok: false, ended, took_ms: 0 }
    })
}

/// Asks whoever is there, unless they said yes. Where nobody is, nobody has agreed.
pub(super) async fn confirm(context: &Context, sure: &str) -> Result<(), Error> {
    let refused = |kind| Error::new(kind, "cut over").message("not confirmed; nothing was changed");
    if context.flags.yes {
        return Ok(());
    }
    match context.output.ask(sure).await {
        Some(true) => Ok(()),
        Some(false) => Err(refused(ErrorKind::Interrupted)),
        None => Err(refused(ErrorKind::Usage).hint("--yes confirms where nobody can be asked")),
    }
}

/// What was said of what is waited for.
#[derive(Default)]
struct Waiting {
    /// The gates that were closed.
    gates: Option<String>,
    /// How many looks ago something was said.
    looks: u32,
}

impl Waiting {
    /// How things stand after a while. Stores that are out of reach are waited for, too.
    async fn look_again(
        &mut self,
        context: &Context,
        flipping: &Flipping<'_>,
        target: Phase,
    ) -> Result<Standing, Error> {
        loop {
            let looking = async {
                context.clock.sleep(POLL).await;
                flipping.standing(Some(target)).await
            };
            match context.interruptible("wait for the gates", looking).await {
                Err(error) if error.kind().policy().retry => {
                    self.tell(context, String::new(), error.to_string());
                }
                looked => return looked,
            }
        }
    }

    /// Says what is waited for: at once where other gates are closed than before, else now and then.
    fn tell(&mut self, context: &Context, gates: String, why: String) {
        self.looks += 1;
        if self.gates.as_ref() != Some(&gates) || self.looks >= LOOKS_QUIET {
            context.output.note(format_args!("waiting    {why}"));
            (self.gates, self.looks) = (Some(gates), 0);
        }
    }
}

fn phase_named(text: &str) -> Result<Phase, String> {
    let phases = [Phase::Capture, Phase::Shadow, Phase::Canary, Phase::Cutover, Phase::Final];
    phases
        .into_iter()
        .find(|phase| phase.as_str() == text)
        .ok_or_else(|| "a phase is capture, shadow, canary, cutover or final".to_owned())
}

/// The phase that the way back leads to.
async fn back(flipping: &Flipping<'_>) -> Result<Phase, Error> {
    let mode = flipping.converger.control.mode().await?;
    let phase = mode.map_or(Phase::Capture, |mode| mode.phase);
    phase.back().ok_or_else(|| {
        Error::new(ErrorKind::WrongPhase, "cut over").message(format!("from {phase} there is no way back"))
    })
}

/// What is to be read from DynamoDB, where the step is to canary.
fn share(args: &Cutover, standing: &Standing) -> Result<Option<Share>, Error> {
    let asked = args.percent.is_some() || !args.prefix.is_empty();
    match standing.target {
        Phase::Canary => {
            let present = standing.mode.as_ref().and_then(|mode| mode.canary.clone());
            let Share { percent, prefixes } = present.unwrap_or_else(first_share);
            let percent = args.percent.unwrap_or(percent);
            // What is not said stays: a larger share must not reach other keys by an omission.
            let prefixes = if args.prefix.is_empty() { prefixes } else { args.prefix.clone() };
            Ok(Some(Share { percent, prefixes }))
        }
        target if asked => Err(Error::new(ErrorKind::Usage, "cut over")
            .message(format!("--percent and --prefix are for the step to canary, not to {target}"))),
        _ => Ok(None),
    }
}

fn phase(standing: &Standing) -> Phase {
    standing.mode.as_ref().map_or(Phase::Capture, |mode| mode.phase)
}

impl Report for CutoverReport<'_> {
    fn human(&self, text: &mut dyn fmt::Write) -> fmt::Result {
        let from = phase(self.standing);
        writeln!(text, "step       {from} → {}", self.standing.target)?;
        write_gates(text, &self.standing.gates)?;
        for session in &self.standing.open_sessions {
            writeln!(text, "running    {} ({}), since {:.0}", session.name, session.kind, session.began)?;
        }
        if let Some(flip) = &self.flip {
            let reads = reads(flip.to, flip.canary.as_ref());
            if flip.from.changes_authority(flip.to) {
                writeln!(
                    text,
                    "flipped    to {}, epoch {}: reads come from {reads}; writes were held for {} ms",
                    flip.to, flip.epoch, flip.pause_ms
                )?;
            } else {
                writeln!(text, "stepped    to {}, epoch {}: reads come from {reads}", flip.to, flip.epoch)?;
            }
            if let Some(hook) = &self.hook {
                let mark = if hook.ok { "told" } else { "FAILED" };
                writeln!(text, "{mark:<10} {hook}")?;
            }
            return Ok(());
        }
        if self.dry_run {
            for (number, step) in (1..).zip(&self.steps) {
                writeln!(text, "would {number}    {step}")?;
            }
        }
        let closed = self.standing.closed().count();
        match (closed, self.ready) {
            (0, true) if self.standing.target == Phase::Final && !self.standing.open_sessions.is_empty() => {
                writeln!(
                    text,
                    "result     every gate is open; stop what runs, then `migrate cutover --to final`"
                )
            }
            (0, true) => writeln!(
                text,
                "result     every gate is open; the step is `migrate cutover --to {}`",
                self.standing.target
            ),
            (0, false) => writeln!(text, "result     nothing was migrated yet"),
            (closed, _) => writeln!(
                text,
                "result     {} {closed} of {} gates closed; nothing was changed",
                if self.explains { "not yet:" } else { "refused:" },
                self.standing.gates.len()
            ),
        }
    }
}

/// Where reads come from.
pub(super) fn reads(phase: Phase, canary: Option<&Share>) -> String {
    match (phase.authority(), canary) {
        (Authority::Target, _) => "DynamoDB".to_owned(),
        (Authority::Source, Some(share)) => format!("Blob, {share} from DynamoDB where it has that version"),
        (Authority::Source, None) if phase == Phase::Shadow => "Blob, compared with DynamoDB".to_owned(),
        (Authority::Source, None) => "Blob".to_owned(),
    }
}

/// Each gate: whether it is open, what its evidence says, what opens it.
pub(super) fn write_gates(text: &mut dyn fmt::Write, gates: &[GateState]) -> fmt::Result {
    for state in gates {
        let mark = if state.open { "open  " } else { "CLOSED" };
        writeln!(text, "  {mark}   {:<18} {}", state.gate.as_str(), state.summary)?;
        for obstacle in &state.obstacles {
            writeln!(text, "                                {obstacle}")?;
        }
        if !state.open {
            writeln!(text, "                                opens with: {}", state.opened_by)?;
        }
    }
    Ok(())
}
