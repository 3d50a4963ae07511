//! The flip: from one phase to the next, or back, by compare-and-set on the mode item.
//!
//! A step that leaves the authority as it is (`step`) judges its gates and commits: gateways pick it up when they
//! look next. A change of authority holds the mode item, lets whoever can write acknowledge that it does not, makes both stores equal
//! where somebody was at it, judges the gates once more, and commits phase, epoch and audit row in one
//! transaction. Until the commit it can be cancelled by anyone, and a command that dies leaves a hold that a
//! rerun cancels. What is done next is [`crate::protocol::flip`]'s word; `drive` does it.

mod drain;
mod drive;
pub mod finish;
mod observe;
mod step;
pub mod steps;
mod way_back;

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use drive::Drive;

use serde::Serialize;

use crate::clock::Clock;
use crate::converge::Converger;
use crate::error::{Error, ErrorKind, Result};
use crate::event::{Event, Events};
use crate::gate::{
    Facts, Gate, GateState, indexes_complete, judge, rollback_drilled, shadow_reads, table_ready,
    writers_stopped,
};
use crate::plan::{CaptureMode, Plan, Writers};
use crate::protocol::canary::Share;
use crate::protocol::phase::{Authority, Epoch, Phase};
use crate::target::control::{Audit, Control, Mode, SessionKind, SessionRow, SessionState};

/// A flip to be, or one that is only looked at.
#[derive(Clone)]
pub struct Cutover<'a> {
    /// Both stores. Its permit is not asked: the mode is.
    pub converger: &'a Converger,
    /// Where notes for the operator go.
    pub events: Events,
    /// The plan.
    pub plan: &'a Plan,
    /// Its hash.
    pub plan_hash: &'a str,
    /// Who does it, for the hold and the audit log.
    pub who: String,
    /// The name of the session under which it makes Blob equal on the way back: one at a time has it.
    pub name: String,
    /// Where that session's lock lies.
    pub directory: &'a Path,
}

impl std::fmt::Debug for Cutover<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Cutover").field("who", &self.who).finish_non_exhaustive()
    }
}

/// Where a migration stands on its way to a phase.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Standing {
    /// The mode item; none before the first command that writes.
    pub mode: Option<Mode>,
    /// The phase that is looked at.
    pub target: Phase,
    /// The gates on the way.
    pub gates: Vec<GateState>,
    /// Sessions that are open.
    pub open_sessions: Vec<SessionRow>,
    /// Writes through a gateway that are under way, or in doubt.
    pub intents: usize,
}

impl Standing {
    /// The gates that are closed.
    pub fn closed(&self) -> impl Iterator<Item = &GateState> {
        self.gates.iter().filter(|gate| !gate.open)
    }

    /// Whether the step could be taken now, if whoever runs acknowledges.
    #[must_use]
    pub fn ready(&self) -> bool {
        self.mode.is_some() && self.closed().next().is_none()
    }
}

/// A step that was committed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Flip {
    /// The phase before.
    pub from: Phase,
    /// The phase after.
    pub to: Phase,
    /// The epoch after.
    pub epoch: Epoch,
    /// In phase `canary`: what is read from DynamoDB.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub canary: Option<Share>,
    /// How long writes were held, in milliseconds: not at all where the authority stays.
    pub pause_ms: u64,
    /// The mode item after.
    #[serde(skip)]
    pub mode: Mode,
}

/// What is read from DynamoDB in phase `canary` where nothing else is said.
#[must_use]
pub fn first_share() -> Share {
    Share { percent: 10, prefixes: Vec::new() }
}

impl Cutover<'_> {
    fn control(&self) -> &Control {
        &self.converger.control
    }

    fn clock(&self) -> &Arc<dyn Clock> {
        self.converger.clock()
    }

    /// Where it stands on the way to `target`, or to the next phase.
    ///
    /// # Errors
    /// `WrongPhase` where there is no such step; what the store reports.
    pub async fn standing(&self, target: Option<Phase>) -> Result<Standing> {
        let mode = self.control().mode().await?;
        let phase = mode.as_ref().map_or(Phase::Capture, |mode| mode.phase);
        let epoch = mode.as_ref().map_or(Epoch(1), |mode| mode.epoch);
        let Some(target) = target.or_else(|| phase.forward()) else {
            return Err(Error::new(ErrorKind::WrongPhase, "cut over")
                .message(format!("after {phase} there is no further phase")));
        };
        if !phase.allows(target) {
            let hint = match phase {
                Phase::Cutover => {
                    "from here there is `migrate cutover --rollback`, and `--to final`, which is for good"
                }
                Phase::Final => "there is no way back from final",
                _ if target > phase => "phases are taken one at a time: `migrate cutover` names the next one",
                _ => "`migrate status` shows the phase and the next step",
            };
            return Err(Error::new(ErrorKind::WrongPhase, "cut over")
                .message(format!("there is no step from {phase} to {target}"))
                .hint(hint));
        }
        if Gate::required(phase, target, self.plan.capture.mode).contains(&Gate::TableReady) {
            let now = self.clock().now();
            table_ready::check(self.control(), &self.plan.target, self.plan_hash, epoch, now).await?;
        }
        self.judged(mode, phase, epoch, target).await
    }

    /// The gates by what is stored, and the sessions that are open.
    async fn judged(&self, mode: Option<Mode>, from: Phase, epoch: Epoch, target: Phase) -> Result<Standing> {
        let now = self.clock().now();
        let mut facts = Facts::read(self.control(), now, self.plan_hash, epoch, self.plan).await?;
        if let Some(mode) = &mode {
            shadow_reads::gather(self.control(), self.plan, mode, &mut facts).await?;
        }
        indexes_complete::gather(self.plan, &mut facts);
        rollback_drilled::gather(self.plan, &mut facts);
        let required = Gate::required(from, target, self.plan.capture.mode);
        let mut gates: Vec<GateState> =
            required.into_iter().map(|gate| judge(gate, (from, target), &facts)).collect();
        if from.authority() == Authority::Target && target.authority() == Authority::Source {
            gates.iter_mut().for_each(|gate| gate.close_for_one_way(&self.plan.entities));
        }
        let open_sessions =
            facts.sessions.into_iter().filter(|session| session.state == SessionState::Open).collect();
        let intents = facts.intents.len();
        Ok(Standing { mode, target, gates, open_sessions, intents })
    }

    /// Takes the step to `target`, if every gate is open and, where the authority changes, whoever can write
    /// acknowledges.
    ///
    /// `cancel_hold` cancels a hold that is found: one's own of a run that died, or another operator's.
    ///
    /// # Errors
    /// `GateClosed`, also where too much is under way; `WrongPhase` where a session does not acknowledge, a
    /// hold is set, or after losing a race; what the stores report. Whenever it fails, the phase is what it was
    /// and the hold is cancelled, unless the error says otherwise.
    pub async fn flip(&self, target: Option<Phase>, cancel_hold: bool) -> Result<Flip> {
        let standing = self.standing(target).await?;
        let mode = standing.mode.clone().ok_or_else(not_begun)?;
        if !mode.phase.changes_authority(standing.target) {
            return self.step(&standing, mode, &first_share(), cancel_hold).await;
        }
        closed(&standing)?;
        bystanders(&standing, self.plan.capture.mode)?;
        self.one_plan(&standing)?;
        let flip = Drive::new(self, standing.target, mode).run(cancel_hold).await?;
        if flip.from == Phase::Cutover {
            // Nothing exercises the way back as taking it does.
            let words = (format!("taken: writes were held for {} ms", flip.pause_ms), Vec::new());
            let (hash, now) = (self.plan_hash, self.clock().now());
            let kept = rollback_drilled::keep(self.control(), words, hash, flip.epoch, now).await;
            if let Err(error) = kept {
                self.events.report(Event::Warning(format!("the gate rollback-drilled is not told: {error}")));
            }
        }
        Ok(flip)
    }

    fn writers(&self) -> Writers {
        Writers::of(self.plan)
    }

    /// Refuses a step to `shadow` or beyond while a process runs under another plan.
    fn one_plan(&self, standing: &Standing) -> Result<()> {
        let own = Some(self.writers().digest);
        let mut others = standing.open_sessions.iter().filter(|row| row.writers != own).peekable();
        if standing.target == Phase::Capture || others.peek().is_none() {
            return Ok(());
        }
        Err(other_plans(others))
    }

    /// Ends the open sessions of these names: the operator's word that their processes are stopped. It is kept
    /// in the audit log. The end counts as unclean: nobody knows what such a process let through last, so
    /// sweeps have to look once more.
    ///
    /// # Errors
    /// `Usage` for a name that no session has; what the store reports.
    pub async fn without(&self, named: &[String]) -> Result<()> {
        for name in named {
            let mut sessions = self.control().sessions().await?;
            sessions.retain(|session| session.name == *name);
            if sessions.is_empty() {
                return Err(Error::new(ErrorKind::Usage, "end a session")
                    .key(name)
                    .message("no session has this name")
                    .hint("`migrate status` names those that run"));
            }
            for session in sessions.into_iter().filter(|session| session.state == SessionState::Open) {
                let id = session.id.clone();
                let word = format!("{name} is stopped: its session {id} was ended by the operator's word");
                if !drive::end(self, session).await? {
                    return Err(Error::new(ErrorKind::WrongPhase, "end a session")
                        .key(name)
                        .message("its process is at work: it renewed its session at this moment")
                        .hint(
                            "stop it first; a process that is stopped in good order ends its session itself",
                        ));
                }
                self.keep_word(word).await?;
            }
        }
        Ok(())
    }

    /// Keeps the operator's word that nobody writes to Blob any more, as evidence and in the audit log.
    ///
    /// # Errors
    /// `Usage` where the plan has gateways capture; `WrongPhase` where Blob is not the authority; what the
    /// store reports.
    pub async fn writers_stopped(&self) -> Result<()> {
        let operation = "take the operator's word";
        if self.plan.capture.mode == CaptureMode::Gateway {
            return Err(Error::new(ErrorKind::Usage, operation)
                .message("this plan has gateways capture what is written: their sessions are the proof")
                .hint("`[capture] mode = \"follow\"` is for writers that can't be pointed at a gateway"));
        }
        let mode = self.control().mode().await?;
        let Some(mode) = mode.filter(|mode| mode.phase.authority() == Authority::Source) else {
            return Err(Error::new(ErrorKind::WrongPhase, operation)
                .message("Blob is not the authority, or nothing was migrated yet"));
        };
        let now = self.clock().now();
        writers_stopped::say(self.control(), &self.who, self.plan_hash, mode.epoch, now).await?;
        self.keep_word("nobody writes to Blob any more".to_owned()).await
    }

    /// Keeps in the audit log what an operator gave their word for, or what was done beside a flip.
    ///
    /// # Errors
    /// What the store reports.
    pub async fn keep_word(&self, word: String) -> Result<()> {
        let Some(mode) = self.control().mode().await? else { return Ok(()) };
        let audit = Audit {
            at: self.clock().now(),
            plan_hash: self.plan_hash.to_owned(),
            note: Some(word),
            ..Audit::of_step(mode.phase, &mode, &self.who, BTreeMap::new())
        };
        self.control().put_note(&audit).await
    }

    /// Replaces the mode item, if it is still `seen`. A lost reply is asked for again: the item that is
    /// there tells whether it was this one.
    async fn change(&self, seen: &Mode, to: &Mode, audit: Option<&Audit>) -> Result<bool> {
        // For whoever comes under another plan later: told then in what it differs.
        let writers = to.writers.filter(|digest| seen.writers != Some(*digest)).map(|_| self.writers());
        let mut attempts = 3;
        loop {
            attempts -= 1;
            match self.control().flip_under(seen, to, audit, writers.as_ref()).await {
                Err(error) if error.kind() == ErrorKind::OutcomeUnknown && attempts > 0 => {}
                outcome => return outcome,
            }
        }
    }
}

fn not_begun() -> Error {
    Error::new(ErrorKind::WrongPhase, "cut over")
        .message("nothing was migrated yet")
        .hint("run `migrate dual-write --once` first")
}

fn evidence(gates: &[GateState]) -> BTreeMap<String, String> {
    gates.iter().map(|state| (state.gate.to_string(), state.summary.clone())).collect()
}

fn raced() -> Error {
    Error::new(ErrorKind::WrongPhase, "cut over")
        .message("somebody else changed the mode at the same moment; nothing was flipped by this command")
}

/// Refuses where a gate is closed.
fn closed(standing: &Standing) -> Result<()> {
    let closed: Vec<&str> = standing.closed().map(|state| state.gate.as_str()).collect();
    if closed.is_empty() {
        return Ok(());
    }
    Err(Error::new(ErrorKind::GateClosed, "cut over")
        .message(format!("closed: {}", closed.join(", ")))
        .hint("`migrate cutover --dry-run` says what opens each gate"))
}

/// Processes that run under another plan.
fn other_plans<'a>(rows: impl Iterator<Item = &'a SessionRow>) -> Error {
    let names: Vec<String> = rows.map(|row| format!("{} ({})", row.name, row.kind)).collect();
    Error::new(ErrorKind::WrongPhase, "cut over")
        .message(format!("running under another plan than this one: {}", names.join(", ")))
        .hint("restart each under this plan (its session names what it maps, and how writers agree with each other); one that is gone is named with --without NAME")
}

/// Beside gateways, loads and repairs do not acknowledge: writes would be held for nothing.
fn bystanders(standing: &Standing, capture: CaptureMode) -> Result<()> {
    // That of an operator is ended by the next one of its name, or once it is silent.
    let is_worker = |kind| matches!(kind, SessionKind::Backfill | SessionKind::Repair);
    let others = standing.open_sessions.iter().filter(|session| is_worker(session.kind));
    let names: Vec<String> = others.map(|session| format!("{} ({})", session.name, session.kind)).collect();
    if names.is_empty() || capture == CaptureMode::Follow {
        return Ok(());
    }
    Err(Error::new(ErrorKind::WrongPhase, "cut over")
        .message(format!("processes that can write are still running: {}", names.join(", ")))
        .hint(
            "wait for them, or stop them; if one died, run the same command where it ran, or name it with --without NAME",
        ))
}
