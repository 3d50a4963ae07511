//! What an operator does: the production machine says what, this does it.

use migrate::protocol::converge::Done as Converged;
use migrate::protocol::flip::{Backlog, Drained, Life, Next, Seen, Swapped};

use super::take::Tell;
use super::world::{Draining, Gateway, HoldId, Intent, Joining, Mirroring, Operator, Run, World};
use super::{Flaw, Flips, Step, number_of, other};

impl Flips {
    pub(super) fn operate(&self, world: &mut World, step: Step, tell: Tell<'_>) {
        let (Step::Operates(number)
        | Step::SeesSilence(number)
        | Step::IsOverdue(number)
        | Step::IsKilled(number)) = step
        else {
            return;
        };
        let Some(mut operator) = world.operators[number].take() else { return };
        let who = format!("O{}", number + 1);
        match step {
            Step::IsKilled(_) => {
                tell(format_args!("{who}: KILLED (is run again)"));
                world.kills -= 1;
                if let Some(draining) = operator.draining {
                    world.late.extend(self.request_of(draining.mirroring));
                }
                operator = self.operator(operator.goal, true);
            }
            Step::SeesSilence(_) => {
                let seen = self.seen(world, true);
                operator.flip.sessions(&seen, false);
            }
            Step::IsOverdue(_) => {
                let seen = self.seen(world, false);
                let there = world.mode.hold == operator.flip.hold().copied();
                operator.flip.sessions(&seen, true);
                if there && matches!(operator.flip.next(), Next::Cancel(_)) {
                    world.cancels -= 1;
                }
            }
            _ => self.go_on(world, &mut operator, &who, tell),
        }
        world.operators[number] = Some(operator);
    }

    fn go_on(&self, world: &mut World, operator: &mut Operator, who: &str, tell: Tell<'_>) {
        match operator.flip.next() {
            Next::ReadMode => {
                operator.epoch = world.mode.epoch;
                operator.flip.mode(world.mode.hold);
            }
            Next::Cancel(hold) => {
                let there = world.mode.hold == Some(hold) && world.mode.epoch == operator.epoch;
                if there {
                    tell(format_args!("{who}: cancels the hold"));
                    world.mode.hold = None;
                }
                operator.flip.cancelled(if there { Swapped::Applied } else { Swapped::Refused });
            }
            Next::Settle => {
                if self.settles && operator.draining.is_none() && self.list(world, operator) {
                    return;
                }
                if operator.draining.is_some() && self.drain(world, operator, false, who, tell).is_none() {
                    return;
                }
                let may_land = world.rows_tell_of_doubt();
                operator.flip.settled(Backlog { may_land, ..Backlog::default() });
            }
            Next::Wait => {
                tell(format_args!("{who}: has waited"));
                operator.flip.waited();
            }
            Next::Hold => {
                let free = world.mode.hold.is_none() && world.mode.epoch == operator.epoch;
                if free {
                    world.holds += 1;
                    tell(format_args!("{who}: sets the hold {}", world.holds));
                    world.mode.hold = Some(world.holds);
                }
                operator.flip.held(free.then_some(world.holds));
            }
            Next::LookAtSessions(_) => {
                let seen = self.seen(world, false);
                operator.flip.sessions(&seen, false);
                if matches!(operator.flip.next(), Next::Drain { .. } | Next::CountIntents | Next::Judge) {
                    tell(format_args!("{who}: all acknowledged or expired"));
                }
            }
            Next::Fence(_) => {
                for (number, gateway) in world.gateways.iter_mut().enumerate() {
                    if gateway.row.open && self.is_silent(gateway) {
                        tell(format_args!("operator: lease of G{} counts as expired", number + 1));
                        (gateway.row.open, gateway.row.unclean) = (false, true);
                    }
                }
                operator.flip.fenced();
            }
            Next::CountIntents => {
                let left = world.intents.iter().filter(|intent| **intent != Intent::None).count();
                operator.flip.counted(left);
            }
            Next::Drain { clear } => {
                if operator.draining.is_none() && self.list(world, operator) {
                    return;
                }
                let outcome = if operator.draining.is_some() {
                    self.drain(world, operator, clear, who, tell)
                } else {
                    Some(Drained::All)
                };
                if let Some(outcome) = outcome {
                    operator.flip.drained(outcome);
                }
            }
            Next::Judge => {
                tell(format_args!("{who}: drained"));
                operator.flip.judged(true);
            }
            Next::Commit { hold } => {
                let same = hold.is_none() || world.mode.hold == hold;
                let commits = same && world.mode.epoch == operator.epoch;
                if commits {
                    tell(format_args!("{who}: COMMITS authority {}", number_of(operator.goal)));
                    world.mode.authority = operator.goal;
                    world.mode.epoch += 1;
                    world.mode.hold = None;
                }
                operator.flip.committed(if commits { Swapped::Applied } else { Swapped::Refused });
            }
            // Its operator tries again.
            Next::Done(_) => {
                let cancel_found = operator.flip != self.operator(operator.goal, false).flip;
                *operator = self.operator(operator.goal, cancel_found);
            }
            Next::LookForCommit => {}
        }
    }

    /// The rows as they are read now. A session that is over by its own clock may be seen as silent.
    fn seen(&self, world: &World, silence: bool) -> Vec<Seen<HoldId>> {
        let doubt = world.blob_may_change();
        let mut seen = Vec::new();
        for gateway in &world.gateways {
            let life = match gateway.row {
                row if row.open && silence && self.is_silent(gateway) => Life::Silent,
                row if row.open => Life::Open,
                row if row.unclean && doubt => Life::MayLand,
                _ => Life::Over,
            };
            let (acknowledged, gap) = (gateway.row.acknowledged, gateway.row.gap);
            seen.push(Seen { gateway: true, life, acknowledged, gap });
            if gateway.joining == Joining::Stored {
                seen.push(Seen { gateway: true, life: Life::Open, acknowledged: None, gap: false });
            }
        }
        if let Some(sweeper) = &world.sweeper {
            let acknowledged = sweeper.row.acknowledged;
            seen.push(Seen { gateway: false, life: Life::Open, acknowledged, gap: false });
        }
        seen
    }

    fn is_silent(&self, gateway: &Gateway) -> bool {
        gateway.crashed || !gateway.holds() || self.flaw == Flaw::ComparesClocks
    }

    /// Lists the intents; whether there are any.
    fn list(&self, world: &World, operator: &mut Operator) -> bool {
        let listed = world.intents.map(|intent| intent != Intent::None);
        let mirroring = Mirroring::of(other(operator.goal));
        operator.draining = (listed != [false; 2]).then_some(Draining { listed, mirroring, equal: false });
        operator.draining.is_some()
    }

    /// One step of the drain: of all intents that it listed, since they are of one pathname.
    fn drain(
        &self,
        world: &mut World,
        operator: &mut Operator,
        clear: bool,
        who: &str,
        tell: Tell<'_>,
    ) -> Option<Drained> {
        let mut draining = operator.draining?;
        if !draining.equal {
            let name = format!("{who}: drain");
            let seen =
                matches!(draining.mirroring, Mirroring::Forward(Run { mirror: Some(_), authority: None }));
            let same = (world.mode.epoch, world.mode.hold) == (operator.epoch, operator.flip.hold().copied());
            if self.flip.drain_under_hold && seen && !same {
                tell(format_args!("{who}: hold is gone, gives up"));
                operator.draining = None;
                return Some(Drained::Left(1));
            }
            let done = self.mirror(world, &mut draining.mirroring, &name, tell);
            draining.equal = matches!(done, Some(Converged::Equal | Converged::Written));
            operator.draining = Some(draining);
            if !draining.equal || clear {
                return None;
            }
        }
        if clear {
            for (intent, listed) in world.intents.iter_mut().zip(draining.listed) {
                if listed {
                    *intent = Intent::None;
                }
            }
            tell(format_args!("{who}: drain: intent cleared"));
        }
        operator.draining = None;
        Some(Drained::All)
    }
}
