//! The plan's hook: a command of the application's own that is told of each flip.
//!
//! It is run after the commit, by whoever made it, and never decides anything: what it does, and that it fails, is
//! kept in the audit log.

use std::process::{ExitStatus, Stdio};
use std::sync::Arc;
use std::time::Duration;

use serde::Serialize;
use tokio::io::AsyncWriteExt as _;
use tokio::process::Command;

use crate::clock::Clock;
use crate::error::Result;
use crate::plan::HookPlan;
use crate::protocol::phase::Phase;
use crate::target::control::{Audit, Control, Mode};

/// What became of a hook.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct HookRun {
    /// The command, as the plan has it.
    pub command: Vec<String>,
    /// Whether it ended with exit code 0 in time.
    pub ok: bool,
    /// How it ended, in words.
    pub ended: String,
    /// How long it took, in milliseconds.
    pub took_ms: u64,
}

impl std::fmt::Display for HookRun {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "hook `{}` {} after {} ms", self.command.join(" "), self.ended, self.took_ms)
    }
}

/// Runs the hook with the new mode, and keeps in the audit log how it ended.
///
/// It finds the mode item's fields as JSON on its stdin, and MIGRATE_FROM, MIGRATE_PHASE, MIGRATE_EPOCH and
/// MIGRATE_AUTHORITY in its environment. What it prints goes to this program's stderr. Once its time is over it is
/// killed.
///
/// # Errors
/// Where the audit log can't be written; the hook has run then.
pub async fn tell(
    plan: &HookPlan,
    control: &Control,
    clock: &Arc<dyn Clock>,
    (from, mode): (Phase, &Mode),
    who: &str,
) -> Result<HookRun> {
    let began = clock.monotonic();
    let (ok, ended) = match plan.command.split_first() {
        Some((program, arguments)) => {
            let mut command = Command::new(program);
            command.args(arguments);
            command.env("MIGRATE_FROM", from.as_str()).env("MIGRATE_PHASE", mode.phase.as_str());
            command.env("MIGRATE_EPOCH", mode.epoch.to_string());
            command.env("MIGRATE_AUTHORITY", mode.phase.authority().as_str());
            run(command, mode, plan.timeout.0, clock).await
        }
        None => (false, "names no program".to_owned()),
    };
    let took_ms = u64::try_from(clock.monotonic().saturating_sub(began).as_millis()).unwrap_or(u64::MAX);
    let hook = HookRun { command: plan.command.clone(), ok, ended, took_ms };
    let audit = Audit {
        at: clock.now(),
        note: Some(hook.to_string()),
        ..Audit::of_step(mode.phase, mode, who, std::collections::BTreeMap::new())
    };
    control.put_note(&audit).await?;
    Ok(hook)
}

async fn run(mut command: Command, mode: &Mode, limit: Duration, clock: &Arc<dyn Clock>) -> (bool, String) {
    command.stdin(Stdio::piped()).stdout(std::io::stderr()).kill_on_drop(true);
    // A group of its own, so that what it started can be ended with it.
    #[cfg(unix)]
    command.process_group(0);
    let mut child = match command.spawn() {
        Ok(child) => child,
        Err(error) => return (false, format!("could not be started ({error})")),
    };
    let group = child.id();
    let told = async {
        if let Some(mut stdin) = child.stdin.take() {
            let json = serde_json::to_vec(mode).expect("invariant: a mode is a plain structure");
            // Who does not want to know need not read it.
            stdin.write_all(&json).await.ok();
        }
        child.wait().await
    };
    tokio::select! {
        ended = told => match ended {
            Ok(status) => (status.success(), in_words(status)),
            Err(error) => (false, format!("could not be waited for ({error})")),
        },
        () = clock.sleep(limit) => {
            end(group).await;
            (false, "was killed, its time was over".to_owned())
        }
    }
}

/// Ends whatever is left of a group of processes; the first of it ends with its handle at the latest.
async fn end(group: Option<u32>) {
    let Some(group) = group.filter(|_| cfg!(unix)) else { return };
    let kill =
        Command::new("kill").args(["-KILL", "--", &format!("-{group}")]).stderr(Stdio::null()).status().await;
    if let Err(error) = kill {
        tracing::warn!(%error, "what the hook started may be running still");
    }
}

fn in_words(status: ExitStatus) -> String {
    match status.code() {
        Some(code) => format!("ended with exit code {code}"),
        None => "was killed by a signal".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::SystemClock;
    use crate::plan::Span;
    use crate::target::memory::MemoryTarget;

    async fn told(script: &str, limit_ms: u64) -> (HookRun, Vec<Audit>) {
        let clock: Arc<dyn Clock> = Arc::new(SystemClock::new());
        let plan = toml::from_str("table = 't'\npartition_key = 'PK'\nsort_key = 'SK'").expect("a plan");
        let control = Control::new(Arc::new(MemoryTarget::new(plan)));
        let hook = HookPlan {
            command: ["sh", "-c", script].map(str::to_owned).to_vec(),
            timeout: Span(Duration::from_millis(limit_ms)),
        };
        let mode = Mode::begun(clock.now(), "hash").stepped(Phase::Shadow, None, clock.now(), "hash");
        let run = tell(&hook, &control, &clock, (Phase::Capture, &mode), "ada").await.unwrap();
        (run, control.audit().await.unwrap())
    }

    #[tokio::test]
    async fn it_is_told_the_mode_and_how_it_ended_is_kept() {
        let asks = r#"grep -q '"phase":"shadow"' && test "$MIGRATE_FROM-$MIGRATE_PHASE-$MIGRATE_EPOCH" = capture-shadow-1 -a \
                      "$MIGRATE_AUTHORITY" = source"#;
        let (run, audit) = told(asks, 10_000).await;
        assert!(run.ok, "{run}");
        assert_eq!((audit.len(), audit[0].who.as_str()), (1, "ada"));
        assert!(audit[0].note.as_ref().unwrap().contains("ended with exit code 0"), "{audit:?}");

        let (failed, audit) = told("exit 7", 10_000).await;
        assert_eq!((failed.ok, failed.ended.as_str()), (false, "ended with exit code 7"));
        assert!(audit[0].note.as_ref().unwrap().contains("exit code 7"), "{audit:?}");

        let directory = tempfile::TempDir::new().unwrap();
        let file = directory.path().join("pid");
        let starts = format!("sleep 60 & echo $! > {}; sleep 60", file.display());
        let (late, _) = told(&starts, 500).await;
        assert!(!late.ok && late.ended.contains("killed") && late.took_ms < 30_000, "{late}");
        // What it had started is gone too, or waits to be buried, as soon as the system came to it.
        let started = std::fs::read_to_string(file).unwrap();
        let status =
            || std::fs::read_to_string(format!("/proc/{}/status", started.trim())).unwrap_or_default();
        let runs = |status: &str| !status.is_empty() && !status.contains("State:\tZ");
        let clock = SystemClock::new();
        let began = clock.monotonic();
        while runs(&status()) && clock.monotonic() - began < Duration::from_secs(10) {
            clock.sleep(Duration::from_millis(10)).await;
        }
        assert!(!runs(&status()), "{}", status());
    }
}
