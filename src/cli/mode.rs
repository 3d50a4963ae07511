//! `migrate mode`: the mode item, for whoever goes by it.

use std::fmt;
use std::time::Duration;

use jiff::Timestamp;
use serde::Serialize;

use super::context::Context;
use super::cutover::reads;
use super::output::Report;
use crate::error::Exit;
use crate::plan::Span;
use crate::protocol::canary::Share;
use crate::protocol::phase::{Authority, Epoch, Phase};
use crate::target::control::{Control, Mode as Item};

/// Print the mode item: which store answers reads, which one is right, since when
///
/// Reads one item of the control table and nothing else, so it needs no token of the Blob store. Applications that
/// read DynamoDB themselves go by the same item: docs/mode.md has its format and an example.
///
/// With `--output json` an object {"command": "mode", "phase", "epoch", "step", "authority", "canary" (in that phase:
/// "percent", "prefixes"), "held" (by whom, while writes are held), "since" (null before the first command that
/// writes), "plan_hash"}; with `--watch` another one on a line of its own whenever a look finds it changed.
///
/// Exit codes: 0 it was printed, or --watch was interrupted.
#[derive(Debug, clap::Args)]
#[command(after_long_help = "Examples:
  migrate mode
  migrate mode --watch --output json | while read -r mode; do ./told.sh \"$mode\"; done")]
pub(crate) struct Mode {
    /// Go on, and print it again whenever a look finds it changed, until Ctrl-C; what changed twice between two looks is
    /// printed once (`migrate status --audit` has every step)
    #[arg(long)]
    watch: bool,

    /// With --watch: how often it is read
    #[arg(long, value_name = "TIME", default_value = "1s", requires = "watch", value_parser = span)]
    interval: Span,
}

fn span(text: &str) -> Result<Span, String> {
    Span::try_from(text.to_owned())
        .and_then(|span| if span.0 < MOMENT { Err(format!("at least {}", Span(MOMENT))) } else { Ok(span) })
}

/// It is not read more often than this: each read costs half a read unit, or one.
const MOMENT: Duration = Duration::from_millis(10);

#[derive(Debug, Serialize)]
struct ModeReport {
    command: &'static str,
    phase: Phase,
    epoch: Epoch,
    step: u64,
    authority: Authority,
    #[serde(skip_serializing_if = "Option::is_none")]
    canary: Option<Share>,
    #[serde(skip_serializing_if = "Option::is_none")]
    held: Option<String>,
    since: Option<Timestamp>,
    plan_hash: Option<String>,
}

impl ModeReport {
    /// Before the first command that writes, Blob is all there is.
    fn of(mode: Option<Item>) -> Self {
        let phase = mode.as_ref().map_or(Phase::Capture, |mode| mode.phase);
        Self {
            command: "mode",
            phase,
            epoch: mode.as_ref().map_or(Epoch(1), |mode| mode.epoch),
            step: mode.as_ref().map_or(0, |mode| mode.step),
            authority: phase.authority(),
            since: mode.as_ref().map(|mode| mode.since),
            plan_hash: mode.as_ref().map(|mode| mode.plan_hash.clone()),
            held: mode.as_ref().and_then(|mode| mode.hold.as_ref()).map(|hold| hold.by.clone()),
            canary: mode.and_then(|mode| mode.canary),
        }
    }
}

pub(crate) async fn run(args: &Mode, context: &Context) -> anyhow::Result<Exit> {
    let control = Control::new(context.target().await?);
    if args.watch {
        context.cancel.run_until_cancelled(watch(&control, args.interval, context)).await.transpose()?;
    } else {
        context.output.report(&ModeReport::of(control.mode().await?))?;
    }
    Ok(Exit::Done)
}

/// Prints it now and whenever it has changed, and waits for a table that is out of reach.
async fn watch(control: &Control, interval: Span, context: &Context) -> anyhow::Result<()> {
    let mut seen = None;
    let mut failing = false;
    loop {
        match control.mode().await {
            Ok(mode) => {
                failing = false;
                if seen.as_ref() != Some(&mode) {
                    context.output.report(&ModeReport::of(mode.clone()))?;
                    seen = Some(mode);
                }
            }
            Err(error) if error.kind().policy().retry => {
                if !std::mem::replace(&mut failing, true) {
                    context.output.warning(format_args!("{error}; it is tried again"));
                }
            }
            // A table that is gone stays gone.
            Err(error) => return Err(error.into()),
        }
        context.clock.sleep(interval.0).await;
    }
}

impl Report for ModeReport {
    fn human(&self, text: &mut dyn fmt::Write) -> fmt::Result {
        let since = self.since.map_or_else(|| "not begun".to_owned(), |since| format!("since {since:.0}"));
        let reads = reads(self.phase, self.canary.as_ref());
        writeln!(text, "mode       {}, epoch {}, {since}; reads come from {reads}", self.phase, self.epoch)?;
        match &self.held {
            Some(by) => writeln!(text, "held       by {by}: writes wait"),
            None => Ok(()),
        }
    }
}
