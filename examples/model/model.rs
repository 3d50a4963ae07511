//! The steps of the model: which ones are possible in a state, for the checker.

use migrate::protocol::Rules;
use migrate::protocol::converge::{Mirror, Next, Purpose};
use migrate::protocol::intent::{Owner, Replay, Silence, replay};
use stateright::{Model, Property};

use crate::world::{Actor, Content, Gateway, Intent, Item, Request, Rev, Run, Seen, World};

/// A mistake that only this model can make; production has no switch for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Flaw {
    None,
    /// An operation clears its intent though it saw no reply (trace A1).
    ClearsUnanswered,
    /// A replayer clears an intent in doubt without waiting (trace A1, its second sentence).
    ClearsWithoutWait,
    /// One row per pathname, a flag; whoever is done clears it (trace A2).
    IntentIsFlag,
    /// One row per pathname with a nonce; who stores one overwrites the other's (trace A3).
    IntentIsNonce,
    /// Compare-and-set on the version that the anchor speaks of, which repeats (trace A4).
    ComparesVersions,
    /// Puts items without asking whose the item there is.
    OverwritesForeign,
}

/// What is explored.
#[derive(Debug, Clone)]
pub(crate) struct Protocol {
    pub(crate) rules: Rules,
    pub(crate) flaw: Flaw,
    /// Rounds after which a converge gives up. Above one, a round begins with all of them again, since
    /// how many are left says nothing about safety.
    pub(crate) attempts: u8,
    pub(crate) sweeper: Option<Purpose>,
    pub(crate) backfill: bool,
    pub(crate) replayer: bool,
    /// Takes a step that nobody else can see at once, which saves most states and loses no behaviour.
    pub(crate) reduced: bool,
    pub(crate) beginnings: Vec<World>,
    /// Looks for this one property alone, so that the checker stops at its first, shortest violation.
    pub(crate) only: Option<&'static str>,
}

/// Bodies in the backfill's snapshot: it was taken when the source held this.
pub(crate) const SNAPSHOT: Content = Content::A;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Step {
    /// Stores the intent of the next operation and sends its write.
    Begins(usize),
    BlobLands(usize),
    BlobTimesOut(usize),
    /// Reads what its converge asks for.
    Looks(Actor),
    /// Starts to converge an intent that is in doubt, and looks for the first time.
    Replays(usize),
    /// Fetches the body that it saw the version of.
    Fetches(Actor),
    TargetLands(Actor),
    TargetTimesOut(Actor),
    Crashes(Actor),
    LateBlobLands(usize),
    LateBlobDies(usize),
    LateTargetLands(usize),
    ForeignPut,
}

impl Protocol {
    pub(crate) fn next(&self, run: &Run) -> Next<Content, Rev> {
        run.machine(self.rules, self.attempts).next()
    }

    /// Whether a transaction that expects what was `seen` would be applied now.
    pub(crate) fn finds(&self, anchor: &Seen, seen: &Seen) -> bool {
        match (self.flaw, anchor, seen) {
            (
                Flaw::ComparesVersions,
                Mirror::Settled { version, .. },
                Mirror::Settled { version: expected, .. },
            ) => version == expected,
            (Flaw::ComparesVersions, Mirror::Tombstone { .. }, Mirror::Tombstone { .. }) => true,
            _ => anchor.rev() == seen.rev(),
        }
    }

    /// Whether it can never be applied any more.
    pub(crate) fn is_doomed(&self, anchor: &Seen, seen: &Seen) -> bool {
        if self.flaw == Flaw::ComparesVersions {
            return false;
        }
        match seen.rev() {
            Some(rev) => *rev == Rev::Past,
            None => self.rules.tombstones && anchor.rev().is_some(),
        }
    }

    /// What a replayer decides about an intent before it begins. The wait is an oracle here: it is over
    /// when the request landed or died.
    pub(crate) fn replay(&self, world: &World, operation: usize) -> Replay {
        let operation = &world.operations[operation];
        let owner = match operation.intent {
            Intent::GaveUp => Owner::GaveUp,
            Intent::OwnerEnded => Owner::Ended,
            Intent::NotStored | Intent::Working | Intent::Cleared => Owner::Working,
        };
        let waited = operation.request == Request::Over || self.flaw == Flaw::ClearsWithoutWait;
        replay(owner, if waited { Silence::Full } else { Silence::Short })
    }

    /// A step that no other process can see or hinder, if there is one.
    fn local(&self, world: &World) -> Option<Step> {
        if !self.reduced {
            return None;
        }
        let shared_rows = matches!(self.flaw, Flaw::IntentIsFlag | Flaw::IntentIsNonce);
        if !shared_rows && let Some(gateway) = (0..2).find(|gateway| world.next_operation(*gateway).is_some())
        {
            return Some(Step::Begins(gateway));
        }
        self.actors().into_iter().find_map(|actor| {
            let run = world.run(actor)?;
            let doomed = run.sent && self.is_doomed(&world.anchor, run.mirror.as_ref()?);
            doomed.then_some(Step::TargetLands(actor))
        })
    }

    pub(crate) fn actors(&self) -> Vec<Actor> {
        let mut actors = vec![Actor::Gateway(0), Actor::Gateway(1)];
        actors.extend(self.sweeper.map(|_| Actor::Sweeper));
        actors.extend(self.backfill.then_some(Actor::Backfill));
        actors.extend(self.replayer.then_some(Actor::Replayer));
        actors
    }

    fn of_actor(&self, world: &World, actor: Actor, steps: &mut Vec<Step>) {
        match world.run(actor) {
            Some(run) if run.sent => {
                steps.push(Step::TargetLands(actor));
                if world.timeouts > 0 {
                    steps.push(Step::TargetTimesOut(actor));
                }
            }
            Some(run) if matches!(self.next(run), Next::Write { .. }) => steps.push(Step::Fetches(actor)),
            Some(_) => steps.push(Step::Looks(actor)),
            // They come back as often as they like.
            None if matches!(actor, Actor::Sweeper | Actor::Backfill) => steps.push(Step::Looks(actor)),
            None if actor == Actor::Replayer => {
                let in_doubt = |o: &usize| self.replay(world, *o) != Replay::LeaveToOwner;
                steps.extend((0..world.operations.len()).filter(in_doubt).map(Step::Replays));
            }
            None => {}
        }
        // Without a request under way, a dead sweeper is no other than one that has not begun.
        let matters = match actor {
            Actor::Gateway(number) => !matches!(world.gateways[number], Gateway::Idle | Gateway::Crashed),
            _ => world.run(actor).is_some_and(|run| run.sent),
        };
        if world.crashes > 0 && matters {
            steps.push(Step::Crashes(actor));
        }
    }
}

impl Model for Protocol {
    type State = World;
    type Action = Step;

    fn init_states(&self) -> Vec<World> {
        // The checker takes them from the back.
        self.beginnings.iter().rev().cloned().collect()
    }

    fn actions(&self, world: &World, steps: &mut Vec<Step>) {
        if let Some(step) = self.local(world) {
            steps.push(step);
            return;
        }
        for (number, gateway) in world.gateways.iter().enumerate() {
            if world.next_operation(number).is_some() {
                steps.push(Step::Begins(number));
            }
            if matches!(gateway, Gateway::Waiting { .. }) {
                steps.push(Step::BlobLands(number));
                if world.timeouts > 0 {
                    steps.push(Step::BlobTimesOut(number));
                }
            }
        }
        for actor in self.actors() {
            self.of_actor(world, actor, steps);
        }
        for (number, operation) in world.operations.iter().enumerate() {
            let waited_for = world.gateways.contains(&Gateway::Waiting { operation: number });
            if operation.request == Request::UnderWay && !waited_for {
                steps.extend([Step::LateBlobLands(number), Step::LateBlobDies(number)]);
            }
        }
        steps.extend((0..world.late.len()).map(Step::LateTargetLands));
        if world.foreign_writes > 0 && world.item == Item::Absent {
            steps.push(Step::ForeignPut);
        }
    }

    fn next_state(&self, world: &World, step: Step) -> Option<World> {
        let mut next = world.clone();
        self.take(&mut next, step, &mut |_| {});
        Some(next)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        let mut all = vec![
            Property::always(EQUAL, |_, world: &World| is_equal(world)),
            Property::always(FOREIGN, |_, world: &World| !world.foreign_lost),
            Property::sometimes(SETTLES, |_, world: &World| {
                world.settled() && world.crashes == 0 && world.timeouts == 0
            }),
        ];
        all.retain(|property| self.only.is_none_or(|only| only == property.name));
        all
    }
}

/// No intent left → target = source. A sweep or backfill under way is no excuse: its process may die.
pub(crate) const EQUAL: &str = "no intent left, target != source";
/// A foreign item stays.
pub(crate) const FOREIGN: &str = "a foreign item was overwritten";
/// The model comes to an end even when everything went wrong that can.
pub(crate) const SETTLES: &str = "no intent left after every fault";

fn is_equal(world: &World) -> bool {
    !world.settled() || world.item == Item::Foreign || world.target() == world.source
}
