//! Drives [`crate::protocol::flip`] against the stores.

use std::time::Duration;

use super::drain::converge_all;
use super::observe::Observer;
use super::way_back::{Named, WayBack, named, still_doubtful};
use super::{Cutover, Flip, closed, evidence, other_plans, raced};
use crate::blob::Pathname;
use crate::error::{Error, ErrorKind, Result};
use crate::event::Event;
use crate::legible::first_of;
use crate::protocol::flip::{
    BEHIND_MAX, Backlog, Done, Drained, Flip as Machine, INTENTS_MAX, Life, Next, Rules, Swapped, Verdict,
    verdict,
};
use crate::protocol::phase::{Authority, Phase};
use crate::target::control::{Audit, Hold, IntentRow, Mode, SessionRow, SessionState, names};

/// How long a request may be under way before writes are held.
const SLOW: Duration = Duration::from_secs(1);
/// How often it is looked again while something is waited for.
const POLL: Duration = Duration::from_millis(20);
/// How often what may land late is waited for before it gives up.
const WAITS_MAX: u8 = 3;
/// For so long it waits, writes flowing, until few enough pathnames are left of which Blob is not known to be equal.
const BACKLOG_WAIT: Duration = Duration::from_secs(10);
/// So many pathnames a message names.
const NAMED_MAX: usize = 3;

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
    /// Sessions under another plan.
    other_plan: Vec<SessionRow>,
    /// What the way back writes Blob with: from before the hold.
    way_back: Option<WayBack>,
    /// What stood in the way of the commit last.
    in_the_way: Named,
    commit: Option<(Mode, Audit)>,
    failed: Option<Error>,
}

impl<'a> Drive<'a> {
    pub(super) fn new(cutover: &'a Cutover<'a>, target: Phase, mode: Mode) -> Self {
        let mode_epoch = mode.epoch;
        Self {
            cutover,
            target,
            judged: mode.clone(),
            mode,
            observer: Observer::new(mode_epoch, cutover.clock().clone(), cutover.plan),
            began: Duration::ZERO,
            awaited: Vec::new(),
            other_plan: Vec::new(),
            way_back: None,
            in_the_way: Named::default(),
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
                // Left open, it would be ended by the next operator of its name.
                if let Some(WayBack { session, .. }) = self.way_back.take()
                    && let Err(error) = session.close().await
                {
                    tracing::warn!(%error, "the operator's session is left to the next one");
                }
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
            Next::CountIntents => {
                machine.counted(control.intents().await?.iter().filter(|row| !row.to_target).count());
            }
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
        if self.leaving() == Authority::Target {
            return self.settle_back().await;
        }
        let control = self.cutover.control();
        let began = self.now();
        let first = control.intents().await?;
        converge_all(self.cutover.converger, &self.mode, &first).await;
        loop {
            let (rows, sessions) = (control.intents().await?, control.sessions().await?);
            self.observer.look(&sessions);
            let slow = self.still_at_work(&first, &rows, &sessions);
            if slow == 0 || self.now().saturating_sub(began) >= SLOW {
                return Ok(Backlog { intents: rows.len(), slow, may_land: false });
            }
            self.pause().await;
        }
    }

    /// The same on the way back: until it is known of each session whether it is alive, nothing without a condition is
    /// under way to Blob, and few pathnames are left of which Blob is not known to be equal.
    async fn settle_back(&mut self) -> Result<Backlog> {
        if self.way_back.is_none() {
            self.way_back = Some(WayBack::open(self.cutover).await?);
        }
        self.replay().await?;
        let control = self.cutover.control();
        let began = self.now();
        let unconditional = |rows: Vec<IntentRow>| rows.into_iter().filter(|row| !row.to_target).collect();
        let first: Vec<IntentRow> = unconditional(control.intents().await?);
        let mut told = false;
        loop {
            let (rows, notes, sessions) =
                (control.intents().await?, control.notes().await?, self.others().await?);
            self.observer.look(&sessions);
            let behind = named(&rows, &notes).len();
            let rows: Vec<IntentRow> = unconditional(rows);
            let slow = self.still_at_work(&first, &rows, &sessions);
            let waited = self.now().saturating_sub(began);
            let known = self.observer.knows(&sessions);
            if !known && !told && waited >= SLOW {
                self.say("a session is silent: whether its process is alive is known after its lease");
                told = true;
            }
            let few = behind <= BEHIND_MAX || waited >= BACKLOG_WAIT;
            if known && few && (slow == 0 || waited >= SLOW) {
                let may_land = self.may_land(&rows, &sessions);
                return Ok(Backlog { intents: behind, slow, may_land });
            }
            self.pause().await;
        }
    }

    /// All sessions but the operator's own.
    async fn others(&self) -> Result<Vec<SessionRow>> {
        let mut sessions = self.cutover.control().sessions().await?;
        let own = self.way_back.as_ref().map(|way_back| way_back.session.id());
        sessions.retain(|row| own.as_ref() != Some(&row.id));
        Ok(sessions)
    }

    /// Whether something without a condition may land in Blob, as far as rows tell. These intents are of such writes.
    fn may_land(&self, rows: &[IntentRow], sessions: &[SessionRow]) -> bool {
        sessions.iter().any(|row| self.observer.life(row) == Life::MayLand)
            || rows.iter().any(|row| !self.observer.is_at_work(row, sessions))
    }

    fn still_at_work(&self, first: &[IntentRow], now: &[IntentRow], sessions: &[SessionRow]) -> usize {
        let same = |row: &&IntentRow| {
            first.iter().any(|one| (&one.id, &one.version) == (&row.id, &row.version))
                && self.observer.is_at_work(row, sessions)
        };
        now.iter().filter(same).count()
    }

    /// Waits until what stood in the way can't land any more, for as long as that can take.
    async fn wait(&mut self) -> Result<()> {
        let timing = &self.cutover.plan.timing;
        let doubtful = std::mem::take(&mut self.in_the_way.doubtful);
        let longest = if doubtful.is_empty() {
            self.say(format!(
                "a write to Blob may land late that has no condition: writes go on until {} after it",
                timing.late_write_max
            ));
            timing.late_write_max.0
        } else {
            self.say(format!(
                "a request to Blob without an answer may still change {}: writes go on until it can't",
                some(&doubtful)
            ));
            timing.late_write_max.0.max(timing.mirror_late_max.0)
        } + timing.lease.0 * 2;
        let began = self.now();
        loop {
            let control = self.cutover.control();
            let over = if doubtful.is_empty() {
                let (rows, sessions) = (control.intents().await?, self.others().await?);
                self.observer.look(&sessions);
                let rows: Vec<_> = rows.into_iter().filter(|row| !row.to_target).collect();
                !self.may_land(&rows, &sessions)
            } else {
                still_doubtful(control, &doubtful).await?.is_empty()
            };
            if over || self.now().saturating_sub(began) >= longest {
                return Ok(());
            }
            self.cutover.clock().sleep(timing.renew.0).await;
            self.replay().await?;
        }
    }

    /// On the way back, what nobody is at any more.
    async fn replay(&mut self) -> Result<()> {
        match &mut self.way_back {
            Some(way_back) => way_back.replay().await,
            None => Ok(()),
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
        let sessions = self.others().await?;
        self.observer.look(&sessions);
        self.awaited.clear();
        self.other_plan.clear();
        let mut seen = Vec::new();
        for row in &sessions {
            let one = self.observer.seen(row);
            let verdict = verdict(Rules::SOUND, self.leaving(), hold, &one);
            if verdict == Verdict::OtherPlan {
                self.other_plan.push(row.clone());
            }
            if verdict == Verdict::Awaited {
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
        for row in self.others().await? {
            let seen = self.observer.seen(&row);
            if verdict(Rules::SOUND, self.leaving(), hold, &seen) == Verdict::Fence {
                self.say(format!("{} is silent: its session is ended", row.name));
                end(self.cutover, row).await?;
            }
        }
        Ok(())
    }

    async fn drain(&mut self) -> Result<Drained> {
        let intents = self.cutover.control().intents().await?;
        let limit = self.cutover.plan.timing.hold_limit.0;
        let left = limit.saturating_sub(self.now().saturating_sub(self.began));
        if let Some(way_back) = &self.way_back {
            let found = tokio::select! {
                biased;
                found = way_back.converge(&intents) => found?,
                () = self.cutover.clock().sleep(left) => {
                    let names = named(&intents, &self.cutover.control().notes().await?);
                    Named { behind: names.into_iter().collect(), ..Named::default() }
                }
            };
            let drained = match (found.behind.len(), found.doubtful.len()) {
                (0, 0) => Drained::All,
                (0, doubtful) => Drained::Doubtful(doubtful),
                (behind, _) => Drained::Left(behind),
            };
            self.in_the_way = found;
            return Ok(drained);
        }
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
        let mut to = held.stepped(self.target, None, self.cutover.clock().now(), self.cutover.plan_hash);
        if self.leaving() == Authority::Source {
            to.writers = Some(self.cutover.writers().digest);
        }
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
                let most = match self.leaving() {
                    Authority::Source => INTENTS_MAX,
                    Authority::Target => BEHIND_MAX,
                };
                gate(format!("{count} writes are under way or in doubt, more than {most}: nothing was held"))
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
            Done::OtherPlan => other_plans(self.other_plan.iter()),
            Done::NotDrained(count) => wrong(format!(
                "{count} pathnames could not be made equal in time, so the hold was cancelled{}",
                named_in(&self.in_the_way.behind)
            ))
            .hint("`migrate validate` shows what is in the way"),
            Done::MayLand => wrong(
                "writes to Blob that have no condition may still land late: nothing was flipped".to_owned(),
            )
            .hint("run again; `migrate status` counts the writes that are in doubt"),
            Done::Doubtful(count) => wrong(format!(
                "requests to Blob without an answer may still change {count} pathnames, so the hold was cancelled{}",
                named_in(&self.in_the_way.doubtful)
            ))
            .hint("run again: each such request can't land any more after a while, and is waited for"),
            Done::GateClosed | Done::Raced | Done::Committed | Done::Unknown => raced(),
        }
    }
}

fn some(pathnames: &[Pathname]) -> String {
    first_of(pathnames.iter().map(Pathname::to_string), NAMED_MAX)
}

fn named_in(pathnames: &[Pathname]) -> String {
    if pathnames.is_empty() { String::new() } else { format!(": {}", some(pathnames)) }
}

/// Ends a session in its row, if it is still as it was seen; says whether it was.
pub(super) async fn end(cutover: &Cutover<'_>, mut row: SessionRow) -> Result<bool> {
    let seen = row.counter;
    row.state = SessionState::Unclean;
    row.ended = Some(cutover.clock().now());
    cutover.control().update_session(&row, seen).await
}
