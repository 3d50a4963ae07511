//! What each step of the model does, and how it is told: the words of the known traces.

use std::fmt::Arguments;

use migrate::protocol::converge::{Change, Done, Mirror, Next, Purpose, Written};
use migrate::protocol::intent::{BeforeWrite, Replay, Reply, Silence, Verdict};
use migrate::protocol::intent::{after_own, after_replay, before_write};

use crate::model::{Flaw, Protocol, SNAPSHOT, Step};
use crate::words::{Sight, name, of_source};
use crate::world::{Actor, Content, Gateway, Intent, Item, Replaying, Request, Rev, Run, Seen, World};

type Tell<'a> = &'a mut dyn FnMut(Arguments<'_>);

impl Protocol {
    /// Takes a step.
    pub(crate) fn take(&self, world: &mut World, step: Step, tell: Tell<'_>) {
        match step {
            Step::Begins(gateway) => self.begins(world, gateway, tell),
            Step::BlobLands(gateway) => blob_lands(world, gateway, tell),
            Step::BlobTimesOut(gateway) => {
                let Gateway::Waiting { operation } = world.gateways[gateway] else { return };
                tell(format_args!("G{}: blob request TIMES OUT", gateway + 1));
                world.timeouts -= 1;
                world.gateways[gateway] = converging(operation, Reply::Missing);
            }
            Step::Looks(actor) => self.looks(world, actor, tell),
            Step::Replays(operation) => {
                let decided = self.replay(world, operation);
                let waited = if decided == Replay::ConvergeAndClear { ", waited" } else { "" };
                tell(format_args!("RP: starts on intent {operation}{waited}"));
                let run = Run::new(Purpose::Intent);
                world.replayer = Some(Replaying { operation, decided, run });
                self.looks(world, Actor::Replayer, tell);
            }
            Step::Fetches(actor) => self.fetches(world, actor, tell),
            Step::TargetLands(actor) => self.target_lands(world, actor, tell),
            Step::TargetTimesOut(actor) => {
                tell(format_args!("{}: target request TIMES OUT", name(actor)));
                world.timeouts -= 1;
                self.orphan(world, actor);
                self.tell_outcome(world, actor, &Written::Unknown, tell);
            }
            Step::Crashes(actor) => self.crashes(world, actor, tell),
            Step::LateBlobLands(number) => {
                let operation = &mut world.operations[number];
                tell(format_args!("late blob write {} lands", of_source(operation.leaves)));
                operation.request = Request::Over;
                world.source = operation.leaves;
            }
            Step::LateBlobDies(number) => {
                let operation = &mut world.operations[number];
                tell(format_args!("late blob write {} dies", of_source(operation.leaves)));
                operation.request = Request::Over;
            }
            Step::LateTargetLands(number) => {
                let late = world.late.remove(number);
                tell(format_args!("late target write {} lands", of_source(late.authority.flatten())));
                self.apply(world, &late);
            }
            Step::ForeignPut => {
                tell(format_args!("application: puts an item of its own"));
                world.foreign_writes -= 1;
                world.item = Item::Foreign;
            }
        }
    }

    fn begins(&self, world: &mut World, gateway: usize, tell: Tell<'_>) {
        let Some(number) = world.next_operation(gateway) else { return };
        let leaves = of_source(world.operations[number].leaves);
        tell(format_args!("G{}: intent stored, op write {leaves}", gateway + 1));
        // The model's gateway never stalls between the two: the decision for one that does is tested
        // with the function itself.
        assert_eq!(before_write(Silence::Short), BeforeWrite::Send);
        tell(format_args!("G{}: sends blob write {leaves}", gateway + 1));
        if self.flaw == Flaw::IntentIsNonce {
            for other in world.operations.iter_mut().filter(|o| o.intent != Intent::NotStored) {
                other.intent = Intent::Cleared;
            }
        }
        world.operations[number].intent = Intent::Working;
        world.operations[number].request = Request::UnderWay;
        world.gateways[gateway] = Gateway::Waiting { operation: number };
    }

    /// The next of the two looks; after the second, a request goes out if one is needed.
    fn looks(&self, world: &mut World, actor: Actor, tell: Tell<'_>) {
        if world.run(actor).is_none() {
            let purpose = self.sweeper.filter(|_| actor == Actor::Sweeper);
            let run = Run::new(purpose.unwrap_or(Purpose::Reconcile));
            tell(format_args!("{}: starts on the key", name(actor)));
            match actor {
                Actor::Sweeper => world.sweeper = Some(run),
                Actor::Backfill => world.backfill = Some(run),
                Actor::Gateway(_) | Actor::Replayer => return,
            }
        }
        let (source, anchor) = (world.source, world.anchor.clone());
        let Some(run) = world.run_mut(actor) else { return };
        let saw = match self.next(run) {
            Next::ReadMirror => {
                run.mirror = Some(anchor.clone());
                Sight::Target(anchor)
            }
            Next::ReadAuthority => {
                run.authority = Some(source);
                Sight::Source(source)
            }
            // Its changes fit one transaction.
            Next::Write { .. }
            | Next::Begin { .. }
            | Next::Part { .. }
            | Next::Finish { .. }
            | Next::Done(_) => {
                return;
            }
        };
        match self.next(run) {
            Next::Write { change: Change::Hold(content), .. }
                if actor == Actor::Backfill && content != SNAPSHOT =>
            {
                tell(format_args!("{}: sees {saw}: not in the snapshot", name(actor)));
            }
            Next::Write { change, .. } => {
                run.sent = true;
                let equal = run.mirror.as_ref().map(held) == run.authority;
                let leaves = of_source(run.authority.flatten());
                match change {
                    Change::Renew | Change::Tombstone if equal => {
                        tell(format_args!("{}: sees {saw}: equal, sends bump", name(actor)));
                    }
                    _ => tell(format_args!("{}: sees {saw}: sends target write {leaves}", name(actor))),
                }
            }
            Next::Done(done) => {
                tell(format_args!("{}: sees {saw}: equal", name(actor)));
                self.over(world, actor, done, tell);
            }
            _ => tell(format_args!("{}: sees {saw}", name(actor))),
        }
    }

    fn fetches(&self, world: &mut World, actor: Actor, tell: Tell<'_>) {
        let source = world.source;
        let Some(run) = world.run_mut(actor) else { return };
        if run.authority == Some(source) {
            run.sent = true;
            let leaves = of_source(source);
            tell(format_args!("{}: fetches {leaves}: sends target write {leaves}", name(actor)));
            return;
        }
        tell(format_args!("{}: the body it saw is gone", name(actor)));
        let mut machine = run.machine(self.rules, self.attempts);
        machine.body_gone();
        self.resume(world, actor, &machine.next(), tell);
    }

    fn target_lands(&self, world: &mut World, actor: Actor, tell: Tell<'_>) {
        let Some(run) = world.run(actor).cloned() else { return };
        let leaves = of_source(run.authority.flatten());
        match self.apply(world, &run) {
            Applied::Yes => {
                tell(format_args!("{}: target write {leaves} lands", name(actor)));
                tell(format_args!("{}: target reply ok", name(actor)));
                self.tell_outcome(world, actor, &Written::Applied, tell);
            }
            Applied::Refused => {
                tell(format_args!("{}: target write {leaves} refused: another rev", name(actor)));
                let found = world.anchor.rev().copied();
                self.tell_outcome(world, actor, &Written::Refused { found }, tell);
            }
            Applied::Collision => {
                tell(format_args!("{}: target write {leaves} refused: a foreign item", name(actor)));
                self.over(world, actor, Done::GaveUp, tell);
            }
        }
    }

    /// The target's side of a transaction: all of it or nothing.
    fn apply(&self, world: &mut World, run: &Run) -> Applied {
        let Next::Write { change, .. } = self.next(run) else { return Applied::Refused };
        let Some(seen) = &run.mirror else { return Applied::Refused };
        if !self.finds(&world.anchor, seen) {
            return Applied::Refused;
        }
        if matches!(change, Change::Hold(_)) && world.item == Item::Foreign {
            if self.flaw != Flaw::OverwritesForeign {
                return Applied::Collision;
            }
            world.foreign_lost = true;
        }
        let rev = Rev::Present;
        world.anchor = match (change, &world.anchor) {
            (Change::Hold(version), _) => {
                world.item = Item::Ours(version);
                Mirror::Settled { rev, version }
            }
            (Change::Tombstone, _) => {
                world.item = if world.item == Item::Foreign { Item::Foreign } else { Item::Absent };
                Mirror::Tombstone { rev }
            }
            (Change::Forget, _) => {
                world.item = if world.item == Item::Foreign { Item::Foreign } else { Item::Absent };
                Mirror::Unknown
            }
            (Change::Renew, anchor) => anchor.clone(),
        };
        let anchor = world.anchor.clone();
        world.age();
        world.late.retain(|late| late.mirror.as_ref().is_some_and(|seen| !self.is_doomed(&anchor, seen)));
        Applied::Yes
    }

    /// Tells the machine what came of its transaction.
    fn tell_outcome(&self, world: &mut World, actor: Actor, outcome: &Written<Rev>, tell: Tell<'_>) {
        let Some(run) = world.run(actor) else { return };
        let mut machine = run.machine(self.rules, self.attempts);
        machine.written(&Rev::Ours, outcome);
        self.resume(world, actor, &machine.next(), tell);
    }

    fn resume(&self, world: &mut World, actor: Actor, next: &Next<Content, Rev>, tell: Tell<'_>) {
        if let Next::Done(done) = next {
            return self.over(world, actor, *done, tell);
        }
        let Some(run) = world.run_mut(actor) else { return };
        *run = Run::new(run.purpose);
        assert_eq!(next, &self.next(run), "a further round begins like the first one");
    }

    /// A converge is over: what becomes of the intent?
    fn over(&self, world: &mut World, actor: Actor, done: Done, tell: Tell<'_>) {
        match actor {
            Actor::Sweeper => world.sweeper = None,
            Actor::Backfill => world.backfill = None,
            Actor::Gateway(number) => {
                let Gateway::Converging { operation, reply, .. } = world.gateways[number] else { return };
                let reply = if self.flaw == Flaw::ClearsUnanswered { Reply::Seen } else { reply };
                if after_own(reply, done) == Verdict::Clear {
                    tell(format_args!("{}: clears the intent", name(actor)));
                    self.clear(world, operation);
                } else {
                    tell(format_args!("{}: leaves the intent in doubt", name(actor)));
                    world.operations[operation].intent = Intent::GaveUp;
                }
                world.gateways[number] = Gateway::Idle;
            }
            Actor::Replayer => {
                let Some(replaying) = world.replayer.take() else { return };
                if after_replay(replaying.decided, done) == Verdict::Clear {
                    tell(format_args!("RP: clears the intent"));
                    self.clear(world, replaying.operation);
                }
            }
        }
    }

    fn clear(&self, world: &mut World, operation: usize) {
        match self.flaw {
            Flaw::IntentIsFlag => {
                for row in world.operations.iter_mut().filter(|row| row.intent != Intent::NotStored) {
                    row.intent = Intent::Cleared;
                }
            }
            _ => world.operations[operation].intent = Intent::Cleared,
        }
    }

    fn crashes(&self, world: &mut World, actor: Actor, tell: Tell<'_>) {
        tell(format_args!("{}: CRASHES", name(actor)));
        world.crashes -= 1;
        self.orphan(world, actor);
        match actor {
            Actor::Sweeper => world.sweeper = None,
            Actor::Backfill => world.backfill = None,
            Actor::Replayer => world.replayer = None,
            Actor::Gateway(number) => {
                world.gateways[number] = Gateway::Crashed;
                for operation in world.operations.iter_mut().filter(|o| o.gateway == number) {
                    operation.intent = match operation.intent {
                        Intent::Working => Intent::OwnerEnded,
                        // It never comes to it.
                        Intent::NotStored => Intent::Cleared,
                        other => other,
                    };
                }
            }
        }
    }

    /// Nobody waits for the actor's transaction any more.
    fn orphan(&self, world: &mut World, actor: Actor) {
        let Some(run) = world.run(actor).filter(|run| run.sent).cloned() else { return };
        if run.mirror.as_ref().is_some_and(|seen| !self.is_doomed(&world.anchor, seen)) {
            world.late.push(run);
        }
    }
}

enum Applied {
    Yes,
    Refused,
    Collision,
}

const fn converging(operation: usize, reply: Reply) -> Gateway {
    Gateway::Converging { operation, reply, run: Run::new(Purpose::Intent) }
}

fn blob_lands(world: &mut World, gateway: usize, tell: Tell<'_>) {
    let Gateway::Waiting { operation: number } = world.gateways[gateway] else { return };
    let operation = &mut world.operations[number];
    tell(format_args!("G{}: blob write lands ({})", gateway + 1, of_source(operation.leaves)));
    tell(format_args!("G{}: blob reply ok", gateway + 1));
    operation.request = Request::Over;
    world.source = operation.leaves;
    world.gateways[gateway] = converging(number, Reply::Seen);
}

const fn held(seen: &Seen) -> Option<Content> {
    match seen {
        Mirror::Settled { version, .. } => Some(*version),
        Mirror::Unknown | Mirror::Pending { .. } | Mirror::Tombstone { .. } => None,
    }
}
