//! The operator: runs the program's commands, and knows which phase it is by watching the mode item.

use std::collections::{BTreeMap, BTreeSet};
use std::process::Stdio;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::Context as _;
use serde_json::Value;
use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::process::{Child, Command};
use tokio::sync::watch;

use crate::log::Log;
use crate::process::output;
use crate::proxy::Proxy;
use crate::stage::{Actor, Stage};

/// How long a command may take before it is given up.
const PATIENCE: Duration = Duration::from_secs(90);

/// The mode item as it was seen last.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Mode {
    pub(crate) phase: String,
    pub(crate) epoch: u64,
    pub(crate) held: bool,
}

impl Mode {
    /// Whether DynamoDB is the authority.
    pub(crate) fn is_over(&self) -> bool {
        self.phase == "cutover"
    }
}

pub(crate) struct Operator {
    actor: Actor,
    proxies: [Proxy; 2],
    log: Arc<Log>,
    pub(crate) mode: watch::Receiver<Mode>,
    _watch: Child,
    pub(crate) tally: Mutex<Tally>,
}

/// How flips went: attempts, those that were done, and why the others were not.
#[derive(Debug, Default)]
pub(crate) struct Tally {
    pub(crate) there: [u32; 2],
    pub(crate) back: [u32; 2],
    pub(crate) refused: BTreeMap<String, u32>,
}

/// How a command ended.
#[derive(Debug, Clone)]
pub(crate) struct Ran {
    /// None where it was killed.
    pub(crate) code: Option<i32>,
    /// What it found.
    pub(crate) found: Value,
    /// What went wrong, in words.
    pub(crate) error: String,
}

/// A key that `validate` found to differ.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Drift {
    pub(crate) kind: String,
    pub(crate) pathname: String,
    pub(crate) detail: String,
}

impl Operator {
    pub(crate) async fn new(stage: &Stage, seed: u64, log: &Arc<Log>) -> anyhow::Result<Self> {
        let (actor, proxies) = stage.actor("operator", seed, log).await?;
        let provision = output(&mut actor.command(&["provision"]), PATIENCE).await?;
        let provision = provision.context("provision takes too long")?;
        anyhow::ensure!(
            provision.status.success(),
            "provision: {}",
            String::from_utf8_lossy(&provision.stderr)
        );
        let bystander = stage.bystander("bystander")?;
        let (watch, mode) = watch_mode(&bystander, log)?;
        let log = Arc::clone(log);
        Ok(Self { actor, proxies, log, mode, _watch: watch, tally: Mutex::default() })
    }

    pub(crate) fn phase(&self) -> Mode {
        self.mode.borrow().clone()
    }

    /// A command that has not been started.
    pub(crate) fn command(&self, arguments: &[&str]) -> Command {
        let mut command = self.actor.command(arguments);
        command.arg("--quiet");
        command
    }

    /// Runs a command to its end.
    pub(crate) async fn run(&self, arguments: &[&str]) -> anyhow::Result<Ran> {
        let ended = output(&mut self.command(arguments), PATIENCE).await?;
        let ran = match ended {
            Some(output) => Ran::of(output.status.code(), &output.stdout, &output.stderr),
            None => {
                let error = format!("it took longer than {PATIENCE:?}");
                Ran { code: None, found: Value::Null, error }
            }
        };
        self.tell(arguments, &ran);
        Ok(ran)
    }

    pub(crate) fn tell(&self, arguments: &[&str], ran: &Ran) {
        let code = ran.code.map_or_else(|| "killed".to_owned(), |code| code.to_string());
        let error = if ran.error.is_empty() { String::new() } else { format!(": {}", ran.error) };
        self.log.say(format!("operator: {} → {code}{error}", arguments.join(" ")));
    }

    /// The weather on the operator's own ways.
    pub(crate) fn weather(&self, change: impl Fn(&mut crate::weather::Weather)) {
        for proxy in &self.proxies {
            proxy.link.set(&change);
        }
    }

    pub(crate) fn links(&self) -> impl Iterator<Item = &Arc<crate::proxy::Link>> {
        self.proxies.iter().map(|proxy| &proxy.link)
    }

    /// An attempt to flip ended like this.
    pub(crate) fn count(&self, back: bool, done: bool, reason: &str) {
        let mut tally = self.tally.lock().unwrap_or_else(PoisonError::into_inner);
        let counts = if back { &mut tally.back } else { &mut tally.there };
        counts[0] += 1;
        counts[1] += u32::from(done);
        if !done {
            let direction = if back { "back" } else { "there" };
            *tally.refused.entry(format!("{direction}: {reason}")).or_default() += 1;
        }
    }
}

/// Follows the mode item, past all faults.
fn watch_mode(actor: &Actor, log: &Arc<Log>) -> anyhow::Result<(Child, watch::Receiver<Mode>)> {
    let mut command = actor.command(&["mode", "--watch", "--interval", "20ms"]);
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null()).kill_on_drop(true);
    let mut child = command.spawn()?;
    let mut lines = BufReader::new(child.stdout.take().context("its output is piped")?).lines();
    let first = Mode { phase: "capture".to_owned(), epoch: 1, held: false };
    let (sender, mode) = watch::channel(first);
    let log = Arc::clone(log);
    tokio::spawn(async move {
        while let Ok(Some(line)) = lines.next_line().await {
            let Ok(read) = serde_json::from_str::<Value>(&line) else { continue };
            let mode = Mode {
                phase: read["phase"].as_str().unwrap_or_default().to_owned(),
                epoch: read["epoch"].as_u64().unwrap_or_default(),
                held: !read["held"].is_null(),
            };
            let held = if mode.held { format!(", held by {}", read["held"]) } else { String::new() };
            log.say(format!("mode: {}, epoch {}{held}", mode.phase, mode.epoch));
            if sender.send(mode).is_err() {
                return;
            }
        }
    });
    Ok((child, mode))
}

impl Ran {
    pub(crate) fn of(code: Option<i32>, stdout: &[u8], stderr: &[u8]) -> Self {
        let found: Value = serde_json::from_slice(stdout).unwrap_or(Value::Null);
        let (out, err) = (String::from_utf8_lossy(stdout), String::from_utf8_lossy(stderr));
        let message = found["error"]["message"].as_str().map(ToOwned::to_owned);
        let causes = found["error"]["causes"].as_array().into_iter().flatten();
        let causes: String = causes.filter_map(Value::as_str).map(|cause| format!("; {cause}")).collect();
        let error = match (code, message) {
            (Some(0), _) => String::new(),
            (_, Some(message)) => format!("{message}{causes}"),
            _ => {
                // A failure is an object on stdout or stderr; what else is said is for people.
                let texts = out.lines().chain(err.lines());
                let told = texts.filter_map(|line| serde_json::from_str::<Value>(line).ok());
                let mut told =
                    told.filter_map(|line| line["error"]["message"].as_str().map(ToOwned::to_owned));
                told.next_back().unwrap_or_else(|| err.lines().last().unwrap_or_default().to_owned())
            }
        };
        Self { code, found, error }
    }

    pub(crate) fn done(&self) -> bool {
        self.code == Some(0)
    }

    /// The gates that are closed, with what stands in the way.
    pub(crate) fn closed(&self) -> Vec<(String, String)> {
        let gates = self.found["standing"]["gates"].as_array().into_iter().flatten();
        let closed = gates.filter(|gate| gate["open"] == false);
        let told = |gate: &Value| {
            let text = |name: &str| gate[name].as_str().unwrap_or_default().to_owned();
            let obstacles = gate["obstacles"].as_array().into_iter().flatten().filter_map(Value::as_str);
            let obstacles: Vec<&str> = obstacles.take(3).collect();
            (text("gate"), format!("{} {}", text("summary"), obstacles.join(", ")))
        };
        closed.map(told).collect()
    }

    /// What the last sweep of `validate` found, after its repair where there was one.
    pub(crate) fn drift(&self) -> BTreeSet<Drift> {
        let Some(sweep) = self.found["sweeps"].as_array().and_then(|sweeps| sweeps.last()) else {
            return BTreeSet::new();
        };
        let remaining = sweep["remaining"].as_array();
        let drift = remaining.or_else(|| sweep["drift"].as_array()).into_iter().flatten();
        let text = |drift: &Value, name: &str| drift[name].as_str().unwrap_or_default().to_owned();
        let told = |drift: &Value| Drift {
            kind: text(drift, "kind"),
            pathname: text(drift, "pathname"),
            detail: text(drift, "detail"),
        };
        drift.map(told).collect()
    }

    /// Changes that `validate` says went past the gateways.
    pub(crate) fn bypassed(&self) -> Vec<String> {
        let sweeps = self.found["sweeps"].as_array().into_iter().flatten();
        let bypassed = sweeps.flat_map(|sweep| sweep["bypassed"].as_array().into_iter().flatten());
        bypassed.filter_map(|one| one["pathname"].as_str().map(ToOwned::to_owned)).collect()
    }

    /// Why a flip was refused, as one of a few reasons.
    pub(crate) fn reason(&self) -> String {
        let closed = self.closed();
        if !closed.is_empty() {
            let names: BTreeSet<&str> = closed.iter().map(|(gate, _)| gate.as_str()).collect();
            return format!("closed: {}", names.into_iter().collect::<Vec<_>>().join(", "));
        }
        let known = [
            ("are under way or in doubt", "too many intents"),
            ("under way for more than a second", "slow requests"),
            ("not acknowledged within", "not acknowledged"),
            ("could not be made equal in time", "not drained"),
            ("may still land late", "may land late"),
            ("without an answer may still change", "in doubt"),
            ("holds the mode", "held by another"),
            ("a flip is under way", "held by another"),
        ];
        if self.code.is_none() {
            return "killed".to_owned();
        }
        let reason = known.iter().find(|(text, _)| self.error.contains(text)).map(|(_, reason)| *reason);
        let short = || self.error.chars().take(60).collect::<String>();
        reason.map_or_else(short, ToOwned::to_owned)
    }
}
