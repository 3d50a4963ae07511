//! The flip: from one phase to the next, or back, by compare-and-set on the mode item.
//!
//! A flip holds the mode item, makes sure that no process can write, judges the gates once more, and
//! commits phase, epoch and audit row in one transaction. Until the commit it can be cancelled by
//! anyone, and a command that dies leaves a hold that a rerun cancels.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde::Serialize;

use crate::clock::Clock;
use crate::error::{Error, ErrorKind, Result};
use crate::gate::{Facts, Gate, GateState, judge, table_ready};
use crate::plan::Plan;
use crate::protocol::phase::{Epoch, Phase};
use crate::target::control::{Audit, Control, Hold, Mode, SessionRow, SessionState, names};

/// A flip to be, or one that is only looked at.
#[derive(Clone)]
pub struct Cutover<'a> {
    /// The control table.
    pub control: Control,
    /// Clocks.
    pub clock: Arc<dyn Clock>,
    /// The plan.
    pub plan: &'a Plan,
    /// Its hash.
    pub plan_hash: &'a str,
    /// Who does it, for the hold and the audit log.
    pub who: String,
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

    /// Whether the step could be taken now.
    #[must_use]
    pub fn ready(&self) -> bool {
        self.mode.is_some()
            && self.closed().next().is_none()
            && self.open_sessions.is_empty()
            && self.intents == 0
    }
}

/// A flip that was committed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Flip {
    /// The phase before.
    pub from: Phase,
    /// The phase after.
    pub to: Phase,
    /// The epoch after.
    pub epoch: Epoch,
    /// How long writes were held, in milliseconds.
    pub pause_ms: u64,
}

impl Cutover<'_> {
    /// Where it stands on the way to `target`, or to the next phase.
    ///
    /// # Errors
    /// `WrongPhase` where there is no such step; what the store reports.
    pub async fn standing(&self, target: Option<Phase>) -> Result<Standing> {
        let mode = self.control.mode().await?;
        let phase = mode.as_ref().map_or(Phase::Capture, |mode| mode.phase);
        let epoch = mode.as_ref().map_or(Epoch(1), |mode| mode.epoch);
        let Some(target) = target.or_else(|| phase.forward()) else {
            return Err(Error::new(ErrorKind::WrongPhase, "cut over")
                .message(format!("after {phase} there is no further phase yet")));
        };
        if !phase.allows(target) {
            let hint = match phase {
                Phase::Cutover => "the only step from here is `migrate cutover --rollback`",
                _ => "`migrate status` shows the phase and the next step",
            };
            return Err(Error::new(ErrorKind::WrongPhase, "cut over")
                .message(format!("there is no step from {phase} to {target}"))
                .hint(hint));
        }
        if Gate::required(phase, target).contains(&Gate::TableReady) {
            let now = self.clock.now();
            table_ready::check(&self.control, &self.plan.target, self.plan_hash, epoch, now).await?;
        }
        self.judged(mode, phase, epoch, target).await
    }

    /// The gates by what is stored, and the sessions that are open.
    async fn judged(&self, mode: Option<Mode>, from: Phase, epoch: Epoch, target: Phase) -> Result<Standing> {
        let now = self.clock.now();
        let facts = Facts::read(&self.control, now, self.plan_hash, epoch, &self.plan.timing).await?;
        let gates = Gate::required(from, target).iter().map(|gate| judge(*gate, from, &facts)).collect();
        let open_sessions =
            facts.sessions.into_iter().filter(|session| session.state == SessionState::Open).collect();
        let intents = self.control.intents().await?.len();
        Ok(Standing { mode, target, gates, open_sessions, intents })
    }

    /// Takes the step to `target`, if every gate is open, nobody can write, and nobody else is at it.
    ///
    /// `cancel_hold` cancels a hold that is found: one's own of a run that died, or another operator's.
    ///
    /// # Errors
    /// `GateClosed`; `WrongPhase` while a session is open, a hold is set, or after losing a race; what
    /// the store reports. Whenever it fails, the phase is what it was and the hold is cancelled, unless
    /// the error says otherwise.
    pub async fn flip(&self, target: Option<Phase>, cancel_hold: bool) -> Result<Flip> {
        let standing = self.standing(target).await?;
        let target = standing.target;
        let mode = standing.mode.clone().ok_or_else(|| {
            Error::new(ErrorKind::WrongPhase, "cut over")
                .message("nothing was migrated yet")
                .hint("run `migrate dual-write --once` first")
        })?;
        let mode = self.without_hold(mode, cancel_hold).await?;
        ready(&standing)?;

        let began = self.clock.monotonic();
        let limit_ms = u64::try_from(self.plan.timing.hold_limit.0.as_millis()).unwrap_or(u64::MAX);
        let hold = Hold { id: names::token(), target, by: self.who.clone(), limit_ms };
        let held = Mode { hold: Some(hold), ..mode.clone() };
        if !self.change(&mode, &held, None).await? {
            return Err(raced());
        }
        let (to, audit) = match self.judge_held(&held, target, began).await {
            Ok(judged) => judged,
            Err(error) => {
                self.cancel(&held, &mode).await;
                return Err(error);
            }
        };
        let flip = Flip { from: audit.from, to: target, epoch: to.epoch, pause_ms: audit.pause_ms };
        match self.change(&held, &to, Some(&audit)).await {
            Ok(true) => Ok(flip),
            Ok(false) => Err(raced()),
            // Of the commit and the cancellation only one can be applied, however late: so the
            // cancellation tells which.
            Err(error) => match self.cancel(&held, &mode).await {
                Some(true) => Err(error),
                Some(false) if self.control.audit().await?.last() == Some(&audit) => Ok(flip),
                Some(false) => Err(raced()),
                None => Err(error.hint("`migrate status` shows whether it was flipped")),
            },
        }
    }

    /// Replaces the mode item, if it is still `seen`. A lost reply is asked for again: the item that is
    /// there tells whether it was this one.
    async fn change(&self, seen: &Mode, to: &Mode, audit: Option<&Audit>) -> Result<bool> {
        let mut attempts = 3;
        loop {
            attempts -= 1;
            match self.control.flip(seen, to, audit).await {
                Err(error) if error.kind() == ErrorKind::OutcomeUnknown && attempts > 0 => {}
                outcome => return outcome,
            }
        }
    }

    /// Cancels our hold, and says whether it was still there; none where that can't be learnt. Then
    /// whoever comes next cancels it.
    async fn cancel(&self, held: &Mode, free: &Mode) -> Option<bool> {
        self.change(held, free, None)
            .await
            .inspect_err(
                |error| tracing::warn!(%error, "the hold could not be cancelled; --cancel-hold does"),
            )
            .ok()
    }

    /// The gates once more, and what is to be committed. Under the hold no newcomer can write, and
    /// whoever could write before has a row that is seen now.
    async fn judge_held(
        &self,
        held: &Mode,
        target: Phase,
        began: std::time::Duration,
    ) -> Result<(Mode, Audit)> {
        let standing = self.judged(Some(held.clone()), held.phase, held.epoch, target).await?;
        ready(&standing)?;
        let to = Mode {
            phase: target,
            epoch: held.epoch.next(),
            hold: None,
            since: self.clock.now(),
            plan_hash: self.plan_hash.to_owned(),
        };
        let pause = self.clock.monotonic().saturating_sub(began);
        let pause_ms = u64::try_from(pause.as_millis()).unwrap_or(u64::MAX);
        let audit = Audit {
            at: to.since,
            who: self.who.clone(),
            from: held.phase,
            to: target,
            epoch: to.epoch,
            hold: held.hold.as_ref().map(|hold| hold.id.clone()).unwrap_or_default(),
            plan_hash: self.plan_hash.to_owned(),
            evidence: evidence(&standing.gates),
            pause_ms,
        };
        Ok((to, audit))
    }

    async fn without_hold(&self, mode: Mode, cancel_hold: bool) -> Result<Mode> {
        let Some(hold) = &mode.hold else { return Ok(mode) };
        if !cancel_hold {
            return Err(Error::new(ErrorKind::WrongPhase, "cut over")
                .message(format!("{} holds the mode for a flip to {}", hold.by, hold.target))
                .hint("if that command is not running any more, run again with --cancel-hold"));
        }
        let free = Mode { hold: None, ..mode.clone() };
        if self.change(&mode, &free, None).await? { Ok(free) } else { Err(raced()) }
    }
}

fn evidence(gates: &[GateState]) -> BTreeMap<String, String> {
    gates.iter().map(|state| (state.gate.to_string(), state.summary.clone())).collect()
}

fn raced() -> Error {
    Error::new(ErrorKind::WrongPhase, "cut over")
        .message("somebody else changed the mode at the same moment; nothing was flipped by this command")
}

fn ready(standing: &Standing) -> Result<()> {
    let closed: Vec<&str> = standing.closed().map(|state| state.gate.as_str()).collect();
    if !closed.is_empty() {
        return Err(Error::new(ErrorKind::GateClosed, "cut over")
            .message(format!("closed: {}", closed.join(", ")))
            .hint("`migrate cutover --dry-run` says what opens each gate"));
    }
    if standing.open_sessions.is_empty() {
        return no_intents(standing.intents);
    }
    let names: Vec<String> =
        standing.open_sessions.iter().map(|session| format!("{} ({})", session.name, session.kind)).collect();
    Err(Error::new(ErrorKind::WrongPhase, "cut over")
        .message(format!("processes that can write are still running: {}", names.join(", ")))
        .hint(
            "stop them; if one died, run `migrate dual-write --once` where it ran: that closes its session",
        ))
}

/// A write that was acknowledged and not mirrored, or one that may yet land in Blob, would be lost.
fn no_intents(intents: usize) -> Result<()> {
    if intents == 0 {
        return Ok(());
    }
    Err(Error::new(ErrorKind::WrongPhase, "cut over")
        .message(format!("{intents} writes through a gateway are in doubt"))
        .hint("run `migrate dual-write` for as long as the plan's `timing.late_write_max`: it settles them"))
}
