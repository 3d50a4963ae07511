//! What an operator does: the production machine says what, this does it.

use migrate::protocol::converge::{Done as Converged, Purpose};
use migrate::protocol::flip::{Backlog, Drained, Life, Next, Process, Seen, Swapped};
use migrate::protocol::note::{AtCommit, at_commit};
use migrate::protocol::phase::Authority;
use migrate::protocol::reverse::Known;

use super::mirror::name;
use super::take::Tell;
use super::world::{
    Draining, HoldId, Intent, Joining, Mirroring, OPERATORS, Operator, Run, SWEEPER, Session, Who, World,
};
use super::{Flaw, Flips, Step, number_of, other};

impl Flips {
    pub(super) fn operate(&self, world: &mut World, step: Step, tell: Tell<'_>) {
        let (Step::Operates(number)
        | Step::SeesSilence(number)
        | Step::IsOverdue(number)
        | Step::OperatorTimesOut(number)
        | Step::OperatorStalls(number)
        | Step::IsKilled(number)) = step
        else {
            return;
        };
        let Some(mut operator) = world.operators[number].take() else { return };
        let (who, called) = (OPERATORS + number, format!("O{}", number + 1));
        match step {
            Step::IsKilled(_) => {
                tell(format_args!("{called}: KILLED (is run again)"));
                world.kills -= 1;
                if let Some(draining) = &operator.draining {
                    self.orphan_mirror(world, &draining.mirroring, Purpose::Intent, who);
                }
                // Whoever has its name next ends its session.
                world.sessions[who].end();
                operator = self.operator(operator.goals, true);
            }
            Step::OperatorStalls(_) => {
                tell(format_args!("{called}: own lease runs out (stall)"));
                world.lapses -= 1;
                world.sessions[who].lapse();
            }
            Step::SeesSilence(_) => {
                let seen = self.seen(world, who, true);
                operator.flip.sessions(&seen, false);
            }
            Step::IsOverdue(_) => {
                let seen = self.seen(world, who, false);
                let there = world.mode.hold == operator.flip.hold().copied();
                operator.flip.sessions(&seen, true);
                if there && matches!(operator.flip.next(), Next::Cancel(_)) {
                    world.cancels -= 1;
                }
            }
            Step::OperatorTimesOut(_) => {
                tell(format_args!("{called}: drain: mirror request TIMES OUT"));
                world.timeouts -= 1;
                if let Some(Draining { mirroring: Mirroring::Back(back), .. }) = &mut operator.draining {
                    self.goes_unanswered(world, back, who);
                }
            }
            _ => self.go_on(world, &mut operator, (who, &called), tell),
        }
        // What asks nobody, and what nobody else can change meanwhile, is no step of its own.
        while match operator.flip.next() {
            Next::Judge | Next::CountIntents => true,
            Next::Settle => !self.settles,
            _ => false,
        } {
            self.go_on(world, &mut operator, (who, &called), tell);
        }
        world.operators[number] = Some(operator);
    }

    fn go_on(&self, world: &mut World, operator: &mut Operator, (who, called): (Who, &str), tell: Tell<'_>) {
        match operator.flip.next() {
            Next::ReadMode => {
                operator.epoch = world.mode.epoch;
                // What it may write to Blob later, it writes under a session that others see.
                if operator.goals[0] == Authority::Source && !world.sessions[who].row.open {
                    world.sessions[who] = Session::NEW;
                }
                operator.flip.mode(world.mode.hold);
            }
            Next::Cancel(hold) => {
                let there = world.mode.hold == Some(hold) && world.mode.epoch == operator.epoch;
                if there {
                    tell(format_args!("{called}: cancels the hold"));
                    world.mode.hold = None;
                }
                operator.flip.cancelled(if there { Swapped::Applied } else { Swapped::Refused });
            }
            Next::Settle => {
                if self.settles && operator.draining.is_none() && self.list(world, operator) {
                    return;
                }
                if operator.draining.is_some()
                    && self.drain(world, operator, false, (who, called), tell).is_none()
                {
                    return;
                }
                let may_land = world.rows_tell_of_doubt();
                operator.flip.settled(Backlog { may_land, ..Backlog::default() });
            }
            Next::Wait => {
                tell(format_args!("{called}: has waited"));
                operator.flip.waited();
            }
            Next::Hold => {
                let free = world.mode.hold.is_none() && world.mode.epoch == operator.epoch;
                if free {
                    world.holds += 1;
                    tell(format_args!("{called}: sets the hold {}", world.holds));
                    world.mode.hold = Some(world.holds);
                }
                operator.flip.held(free.then_some(world.holds));
            }
            Next::LookAtSessions(_) => {
                let seen = self.seen(world, who, false);
                operator.flip.sessions(&seen, false);
                if matches!(operator.flip.next(), Next::Drain { .. } | Next::CountIntents | Next::Judge) {
                    tell(format_args!("{called}: all acknowledged or expired"));
                }
            }
            Next::Fence(_) => {
                for silent in 0..world.sessions.len() {
                    if silent != who && world.sessions[silent].row.open && self.is_silent(world, silent) {
                        tell(format_args!("operator: lease of {} counts as expired", Self::called(silent)));
                        world.sessions[silent].end();
                    }
                }
                operator.flip.fenced();
            }
            Next::CountIntents => {
                let left = world.intents.iter().filter(|intent| intent.is_unconditional()).count();
                operator.flip.counted(left);
            }
            Next::Drain { clear } => {
                if operator.draining.is_none() && self.list(world, operator) {
                    return;
                }
                let outcome = if operator.draining.is_some() {
                    self.drain(world, operator, clear, (who, called), tell)
                } else {
                    Some(Drained::All)
                };
                if let Some(outcome) = outcome {
                    operator.flip.drained(outcome);
                }
            }
            Next::Judge => {
                tell(format_args!("{called}: drained"));
                operator.flip.judged(true);
            }
            Next::Commit { hold } => {
                let same = hold.is_none() || world.mode.hold == hold;
                let commits = same && world.mode.epoch == operator.epoch;
                if commits {
                    tell(format_args!("{called}: COMMITS authority {}", number_of(operator.goals[0])));
                    world.mode.authority = operator.goals[0];
                    world.mode.epoch += 1;
                    world.mode.hold = None;
                    if self.has(Flaw::DropsNotes) && operator.goals[0] == Authority::Target {
                        world.notes.clear();
                    }
                }
                operator.flip.committed(if commits { Swapped::Applied } else { Swapped::Refused });
            }
            Next::Done(done) => {
                let goals = operator.goals;
                // It ends its session in good order, or comes to its next flip.
                if done == migrate::protocol::flip::Done::Committed {
                    world.sessions[who].row.open = false;
                    *operator = self.operator(&goals[1..], false);
                    return;
                }
                // Its operator tries again.
                *operator = self.operator(goals, true);
            }
            Next::LookForCommit => {}
        }
    }

    /// The rows as they are read now, but one's own. A session that is over by its own clock may be seen as silent.
    fn seen(&self, world: &World, own: Who, silence: bool) -> Vec<Seen<HoldId>> {
        let doubt = world.blob_may_change();
        let mut seen = Vec::new();
        for (who, session) in world.sessions.iter().enumerate().filter(|(who, _)| *who != own) {
            let life = match session.row {
                row if row.open && silence && self.is_silent(world, who) => Life::Silent,
                row if row.open => Life::Open,
                row if row.unclean && doubt => Life::MayLand,
                _ => Life::Over,
            };
            let (acknowledged, gap) = (session.row.acknowledged, session.row.gap);
            let process = match who {
                SWEEPER => Process::Worker,
                0 | 1 => Process::Gateway,
                _ => Process::Operator,
            };
            let same_plan = !self.has_other_plan(who);
            seen.push(Seen { process, life, acknowledged, gap, same_plan });
        }
        for gateway in &world.gateways {
            if gateway.joining == Joining::Stored {
                let (life, acknowledged) = (Life::Open, None);
                let process = Process::Gateway;
                seen.push(Seen { process, life, acknowledged, gap: false, same_plan: true });
            }
        }
        seen
    }

    pub(super) fn is_silent(&self, world: &World, who: Who) -> bool {
        let crashed = world.gateways.get(who).is_some_and(|gateway| gateway.crashed);
        crashed || !world.sessions[who].holds() || self.has(Flaw::ComparesClocks)
    }

    /// Lists what rows name; whether there is anything.
    fn list(&self, world: &World, operator: &mut Operator) -> bool {
        let goal = operator.goals[0];
        let mut listed = 0;
        for (write, intent) in world.intents.iter().enumerate() {
            listed |= if *intent == Intent::None { 0 } else { 1 << write };
        }
        let noted = goal == Authority::Source && !world.notes.is_empty();
        let mirroring = Mirroring::of(other(goal), self.rules, Purpose::Intent);
        operator.draining = (listed != 0 || noted).then_some(Draining { listed, mirroring, equal: false });
        operator.draining.is_some()
    }

    /// One step of the drain: of all rows that it listed, since they are of one pathname.
    fn drain(
        &self,
        world: &mut World,
        operator: &mut Operator,
        clear: bool,
        (who, called): (Who, &str),
        tell: Tell<'_>,
    ) -> Option<Drained> {
        let mut draining = operator.draining.take()?;
        if !draining.equal {
            let name = format!("{called}: drain");
            let seen =
                matches!(&draining.mirroring, Mirroring::Forward(Run { mirror: Some(_), authority: None }));
            let same = (world.mode.epoch, world.mode.hold) == (operator.epoch, operator.flip.hold().copied());
            if self.flip.drain_under_hold && seen && !same {
                tell(format_args!("{called}: hold is gone, gives up"));
                return Some(Drained::Left(1));
            }
            if self.converges || matches!(draining.mirroring, Mirroring::Forward(_)) {
                let done = self.mirror(world, &mut draining.mirroring, Purpose::Intent, (who, &name), tell);
                if done == Some(Converged::GaveUp) {
                    return Some(Drained::Left(1));
                }
                draining.equal = matches!(done, Some(Converged::Equal | Converged::Written));
            } else {
                draining.equal = true;
            }
            if !draining.equal || clear {
                operator.draining = Some(draining);
                return None;
            }
        }
        if clear {
            for (write, intent) in world.intents.iter_mut().enumerate() {
                if draining.listed & (1 << write) != 0 {
                    *intent = Intent::None;
                }
            }
            tell(format_args!("{called}: drain: intent cleared"));
        }
        if let Mirroring::Back(_) = draining.mirroring {
            return Some(self.at_commit(world, called, tell));
        }
        Some(Drained::All)
    }

    /// Whether Blob may become the authority, as far as this pathname is concerned.
    fn at_commit(&self, world: &World, called: &str, tell: Tell<'_>) -> Drained {
        let anchor = world.anchor;
        let equal = !anchor.pending && anchor.blob == Known::Equal(world.blob);
        let notes = world.read_notes(|noted| !noted.over);
        match at_commit(self.flip, equal, world.blob.as_ref(), &notes) {
            AtCommit::Clear => {
                tell(format_args!(
                    "{called}: Blob = {}, as its anchor, in no doubtful condition",
                    name(world.blob)
                ));
                Drained::All
            }
            AtCommit::Behind => Drained::Left(1),
            AtCommit::Doubtful => {
                tell(format_args!("{called}: a doubtful condition holds"));
                Drained::Doubtful(1)
            }
        }
    }
}
