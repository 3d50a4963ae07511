//! Drives [`crate::protocol::flip`] against the stores.

use std::time::Duration;

use super::drain::converge_all;
use super::observe::Observer;
use super::{Cutover, Flip, closed, evidence, raced};
use crate::error::{Error, ErrorKind, Result};
use crate::event::Event;
use crate::protocol::flip::{
    Backlog, Done, Drained, Flip as Machine, INTENTS_MAX, Life, Next, Rules, Swapped, Verdict, verdict,
};
use crate::protocol::phase::{Authority, Phase};
use crate::target::control::{Audit, Hold, IntentRow, Mode, SessionRow, SessionState, names};

/// How long a request may be under way before writes are held.
const SLOW: Duration = Duration::from_secs(1);
/// How often it is looked again while something is waited for.
const POLL: Duration = Duration::from_millis(20);
/// How often that may land late is waited for before it gives up.
const WAITS_MAX: u8 = 3;

/// A flip on its way.
pub(super) struct Drive<'a> {
    cutover: &'a Cutover<'a>,
    target: Phase,
    /// The mode under which the gates were judged.
    judged: Mode,
    /// The mode item as it was last seen or written.
    mode: Mode,
    observer: Observer,
    /// When the hold was set, from before it was sent.
    began: Duration,
    /// Sessions that have not acknowledged, and why that matters.
    awaited: Vec<String>,
    commit: Option<(Mode, Audit)>,
    failed: Option<Error>,
}

impl<'a> Drive<'a> {
    pub(super) fn new(cutover: &'a Cutover<'a>, target: Phase, mode: Mode) -> Self {
        Self {
            cutover,
            target,
            judged: mode.clone(),
            mode,
            observer: Observer::new(cutover.clock().clone(), &cutover.plan.timing),
            began: Duration::ZERO,
            awaited: Vec::new(),
            commit: None,
            failed: None,
        }
    }

    fn leaving(&self) -> Authority {
        self.judged.phase.authority()
    }

    fn now(&self) -> Duration {
        self.cutover.clock().monotonic()
    }

    async fn pause(&self) {
        self.cutover.clock().sleep(POLL).await;
    }

    fn say(&self, text: impl Into<String>) {
        self.cutover.events.report(Event::Note(text.into()));
    }

    pub(super) async fn run(mut self, cancel_found: bool) -> Result<Flip> {
        let mut machine = Machine::new(Rules::SOUND, self.leaving(), cancel_found, WAITS_MAX);
        loop {
            let next = machine.next();
            if let Next::Done(done) = next {
                return self.over(done);
            }
            if let Err(error) = self.step(&mut machine, next).await {
                self.failed.get_or_insert(error);
                machine.abandon();
            }
        }
    }

    async fn step(&mut self, machine: &mut Machine<String>, next: Next<String>) -> Result<()> {
        let control = self.cutover.control();
        match next {
            Next::ReadMode => {
                let mode = control.mode().await?.ok_or_else(raced)?;
                if (mode.epoch, mode.step) != (self.judged.epoch, self.judged.step) {
                    return Err(raced());
                }
                self.mode = mode;
                machine.mode(self.mode.hold.as_ref().map(|hold| hold.id.clone()));
            }
            Next::Cancel(_) => {
                let free = Mode { hold: None, ..self.mode.clone() };
                let outcome = self.swap(&free, None).await;
                machine.cancelled(outcome);
            }
            Next::Settle => machine.settled(self.settle().await?),
            Next::Wait => {
                self.wait().await?;
                machine.waited();
            }
            Next::Hold => self.hold(machine).await?,
            Next::LookAtSessions(hold) => self.look(machine, &hold).await?,
            Next::Fence(hold) => {
                self.fence(&hold).await?;
                machine.fenced();
            }
            Next::CountIntents => machine.counted(control.intents().await?.len()),
            Next::Drain { .. } => machine.drained(self.drain().await?),
            Next::Judge => machine.judged(self.judge().await?),
            Next::Commit { .. } => {
                let Some((to, audit)) = self.commit.clone() else { return Err(raced()) };
                let held = self.mode.clone();
                match self.cutover.change(&held, &to, Some(&audit)).await {
                    Ok(applied) => {
                        machine.committed(if applied { Swapped::Applied } else { Swapped::Refused });
                    }
                    Err(error) => {
                        self.failed.get_or_insert(error);
                        machine.committed(Swapped::Unknown);
                    }
                }
            }
            Next::LookForCommit => {
                let log = control.audit().await?;
                let applied = self.commit.as_ref().is_some_and(|(_, audit)| log.contains(audit));
                if applied {
                    self.failed = None;
                }
                machine.looked(applied);
            }
            Next::Done(_) => {}
        }
        Ok(())
    }

    /// Replaces the mode item, if it is still the one that was last seen.
    async fn swap(&mut self, to: &Mode, audit: Option<&Audit>) -> Swapped {
        match self.cutover.change(&self.mode, to, audit).await {
            Ok(true) => {
                self.mode = to.clone();
                Swapped::Applied
            }
            Ok(false) => Swapped::Refused,
            Err(error) => {
                tracing::warn!(%error, "the hold could not be cancelled; --cancel-hold does");
                Swapped::Unknown
            }
        }
    }

    /// Converges every intent with writes flowing, and says what is left a moment later. On the way back it
    /// only looks: the gateways converge.
    async fn settle(&mut self) -> Result<Backlog> {
        let control = self.cutover.control();
        let began = self.now();
        let first = control.intents().await?;
        if self.leaving() == Authority::Source {
            converge_all(self.cutover.converger, &self.mode, &first).await;
        }
        loop {
            let (rows, sessions) = (control.intents().await?, control.sessions().await?);
            self.observer.look(&sessions);
            let slow = self.still_at_work(&first, &rows, &sessions);
            let waited = self.now().saturating_sub(began);
            // Leaving DynamoDB, silence counts: each session is looked at until it is known to be alive or not.
            let known = self.leaving() == Authority::Source || self.observer.knows(&sessions);
            if known && (slow == 0 || waited >= SLOW) {
                let unclean = sessions.iter().any(|row| self.observer.life(row) == Life::MayLand);
                let in_doubt = rows.iter().any(|row| !self.observer.is_at_work(row, &sessions));
                return Ok(Backlog { intents: rows.len(), slow, may_land: unclean || in_doubt });
            }
            self.pause().await;
        }
    }

    fn still_at_work(&self, first: &[IntentRow], now: &[IntentRow], sessions: &[SessionRow]) -> usize {
        let same = |row: &&IntentRow| {
            first.iter().any(|one| (&one.id, &one.version) == (&row.id, &row.version))
                && self.observer.is_at_work(row, sessions)
        };
        now.iter().filter(same).count()
    }

    /// Waits until nothing may land late, for as long as that can take.
    async fn wait(&mut self) -> Result<()> {
        let timing = &self.cutover.plan.timing;
        let longest = timing.late_write_max.0 + timing.lease.0 * 2;
        self.say(format!(
            "a write to Blob may land late: writes go on until {} after it",
            timing.late_write_max
        ));
        let began = self.now();
        loop {
            let control = self.cutover.control();
            let (rows, sessions) = (control.intents().await?, control.sessions().await?);
            self.observer.look(&sessions);
            let unclean = sessions.iter().any(|row| self.observer.life(row) == Life::MayLand);
            let in_doubt = rows.iter().any(|row| !self.observer.is_at_work(row, &sessions));
            if !(unclean || in_doubt) || self.now().saturating_sub(began) >= longest {
                return Ok(());
            }
            self.cutover.clock().sleep(timing.renew.0).await;
        }
    }

    async fn hold(&mut self, machine: &mut Machine<String>) -> Result<()> {
        let limit_ms = u64::try_from(self.cutover.plan.timing.hold_limit.0.as_millis()).unwrap_or(u64::MAX);
        let (target, by) = (self.target, self.cutover.who.clone());
        let hold = Hold { id: names::token(), target, by, limit_ms };
        let held = Mode { hold: Some(hold.clone()), ..self.mode.clone() };
        self.began = self.now();
        let applied = self.cutover.change(&self.mode, &held, None).await?;
        if applied {
            self.mode = held;
        }
        machine.held(applied.then_some(hold.id));
        Ok(())
    }

    fn overdue(&self) -> bool {
        self.now().saturating_sub(self.began) >= self.cutover.plan.timing.hold_limit.0
    }

    async fn look(&mut self, machine: &mut Machine<String>, hold: &String) -> Result<()> {
        // Asked before the sessions are read: what comes later than that is not waited for.
        let overdue = self.overdue();
        let sessions = self.cutover.control().sessions().await?;
        self.observer.look(&sessions);
        self.awaited.clear();
        let mut seen = Vec::new();
        for row in &sessions {
            let one = self.observer.seen(row);
            if verdict(Rules::SOUND, self.leaving(), hold, &one) == Verdict::Awaited {
                let gap = if one.gap { ": writes went on without notes" } else { "" };
                self.awaited.push(format!("{} ({}){gap}", row.name, row.kind));
            }
            seen.push(one);
        }
        machine.sessions(&seen, overdue);
        if matches!(machine.next(), Next::LookAtSessions(_)) {
            self.pause().await;
        }
        Ok(())
    }

    /// Ends the silent sessions: what stirs meanwhile stays.
    async fn fence(&mut self, hold: &String) -> Result<()> {
        let control = self.cutover.control();
        for row in control.sessions().await? {
            let seen = self.observer.seen(&row);
            if verdict(Rules::SOUND, self.leaving(), hold, &seen) == Verdict::Fence {
                self.say(format!("{} is silent: its session is ended", row.name));
                end(self.cutover, row).await?;
            }
        }
        Ok(())
    }

    async fn drain(&self) -> Result<Drained> {
        let intents = self.cutover.control().intents().await?;
        let limit = self.cutover.plan.timing.hold_limit.0;
        let left = limit.saturating_sub(self.now().saturating_sub(self.began));
        let count = intents.iter().map(|intent| intent.pathnames.len()).sum();
        let drained = tokio::select! {
            biased;
            unequal = converge_all(self.cutover.converger, &self.mode, &intents) => unequal,
            () = self.cutover.clock().sleep(left) => count,
        };
        Ok(if drained == 0 { Drained::All } else { Drained::Left(drained) })
    }

    /// The gates once more, and what is to be committed. Under the hold no newcomer can write, and whoever
    /// could write before has a row that was seen.
    async fn judge(&mut self) -> Result<bool> {
        let held = self.mode.clone();
        let standing = self.cutover.judged(Some(held.clone()), held.phase, held.epoch, self.target).await?;
        if let Err(error) = closed(&standing) {
            self.failed.get_or_insert(error);
            return Ok(false);
        }
        let to = held.stepped(self.target, None, self.cutover.clock().now(), self.cutover.plan_hash);
        let audit = Audit {
            hold: held.hold.as_ref().map(|hold| hold.id.clone()).unwrap_or_default(),
            pause_ms: self.held_ms(),
            ..Audit::of_step(held.phase, &to, &self.cutover.who, evidence(&standing.gates))
        };
        self.commit = Some((to, audit));
        Ok(true)
    }

    fn held_ms(&self) -> u64 {
        u64::try_from(self.now().saturating_sub(self.began).as_millis()).unwrap_or(u64::MAX)
    }

    fn over(mut self, done: Done<String>) -> Result<Flip> {
        if done == Done::Committed {
            let pause_ms = self.held_ms();
            let (mode, _) = self.commit.take().ok_or_else(raced)?;
            let (from, to) = (self.judged.phase, self.target);
            return Ok(Flip { from, to, epoch: mode.epoch, canary: None, pause_ms, mode });
        }
        if let Some(error) = self.failed.take() {
            let unknown = done == Done::Unknown;
            return Err(if unknown {
                error.hint("`migrate status` shows whether it was flipped")
            } else {
                error
            });
        }
        Err(self.refusal(done))
    }

    fn refusal(&self, done: Done<String>) -> Error {
        let wrong = |message: String| Error::new(ErrorKind::WrongPhase, "cut over").message(message);
        let gate = |message: String| Error::new(ErrorKind::GateClosed, "cut over").message(message);
        match done {
            Done::Held(_) => {
                let hold = self.mode.hold.as_ref();
                let (by, target) = hold.map_or(("somebody", self.target), |hold| (&hold.by, hold.target));
                wrong(format!("{by} holds the mode for a flip to {target}"))
                    .hint("if that command is not running any more, run again with --cancel-hold")
            }
            Done::TooManyIntents(count) => {
                gate(format!("{count} writes are under way or in doubt, more than {INTENTS_MAX}: nothing was held"))
                    .hint("wait until the gateways have caught up; `migrate status` counts them")
            }
            Done::SlowRequests(count) => {
                gate(format!("{count} requests to the store have been under way for more than a second: nothing was held"))
                    .hint("writes would wait for them; run again once the store answers as it should")
            }
            Done::Unacknowledged => wrong(format!(
                "not acknowledged within {}, so the hold was cancelled: {}",
                self.cutover.plan.timing.hold_limit,
                self.awaited.join(", ")
            ))
            .hint("a process that runs should be seen to; one that is stopped for good is named with --without NAME, or started again under its name, which ends its session"),
            Done::NotDrained(count) => wrong(format!(
                "{count} pathnames could not be made equal in time, so the hold was cancelled"
            ))
            .hint("`migrate validate` shows what is in the way"),
            Done::MayLand => wrong("writes to Blob may still land late: nothing was flipped".to_owned())
                .hint("run again; `migrate status` counts the writes that are in doubt"),
            Done::GateClosed | Done::Raced | Done::Committed | Done::Unknown => raced(),
        }
    }
}

/// Ends a session in its row, if it is still as it was seen; says whether it was.
pub(super) async fn end(cutover: &Cutover<'_>, mut row: SessionRow) -> Result<bool> {
    let seen = row.counter;
    row.state = SessionState::Unclean;
    row.ended = Some(cutover.clock().now());
    cutover.control().update_session(&row, seen).await
}
