//! Changes of several transactions: a gateway and a sweeper converge one pathname whose versions have
//! several items, each in a transaction of its own that may be lost, land late, or be the last.
//!
//! It drives [`Converge`], as production does. Limits: two versions of two items, one of which both have.

use migrate::protocol::Rules;
use migrate::protocol::converge::{Change, Converge, Mirror, Next, Purpose, Written};
use stateright::{Checker, Model, Property};

/// Rounds of a converge.
const ROUNDS: u8 = 2;
/// The items there can be.
const ITEMS: u8 = 3;

const SETTLES: &str = "a large change is finished";
const WHOLE: &str = "a settled anchor has exactly the items of its version";
const NAMED: &str = "every item is named by the anchor";

type Rev = u8;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Version {
    A,
    B,
}

/// Items, a bit each.
type Items = u8;

const fn items_of(version: Option<Version>) -> Items {
    match version {
        None => 0,
        Some(Version::A) => 0b011,
        Some(Version::B) => 0b110,
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct World {
    source: Option<Version>,
    /// What the source will still be changed to.
    edits: Vec<Option<Version>>,
    anchor: Mirror<Version, Rev>,
    /// The items that the anchor names.
    named: Items,
    items: [Option<Version>; ITEMS as usize],
    runs: [Option<Run>; 2],
    /// How often each may still begin.
    begins: [u8; 2],
    late: Vec<Request>,
    crashes: u8,
    timeouts: u8,
}

/// A converge under way.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Run {
    machine: Converge<Version, Rev>,
    /// The anchor that was seen, and the items that it named.
    seen: (Mirror<Version, Rev>, Items),
    /// What each part of a large change does: an item, and what becomes of it.
    parts: Vec<(u8, Option<Version>)>,
    sent: Option<Request>,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Request {
    /// What the anchor's rev must be; none where it is not asked for.
    expected: Option<Option<Rev>>,
    effect: Effect,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
enum Effect {
    Anchor { anchor: Mirror<Version, Rev>, named: Items },
    Item { item: u8, version: Option<Version> },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Step {
    Edit,
    Goes(usize),
    Lands(usize),
    TimesOut(usize),
    Crashes(usize),
    LateLands(usize),
}

#[derive(Debug, Clone)]
struct Parts {
    rules: Rules,
}

impl World {
    fn apply(&mut self, request: &Request) -> Written<Rev> {
        let found = self.anchor.rev().copied();
        if request.expected.is_some_and(|expected| expected != found) {
            return Written::Refused { found };
        }
        match &request.effect {
            Effect::Anchor { anchor, named } => {
                // A rev is how often the anchor was written: so it is drawn where the write lands.
                let rev = found.map_or(0, |rev| rev + 1);
                self.anchor = match anchor.clone() {
                    Mirror::Unknown => Mirror::Unknown,
                    Mirror::Settled { version, .. } => Mirror::Settled { rev, version },
                    Mirror::Pending { .. } => Mirror::Pending { rev },
                    Mirror::Tombstone { .. } => Mirror::Tombstone { rev },
                };
                self.named = *named;
                // What expects another one can never be applied.
                self.late.retain(|late| late.expected.is_none_or(|expected| expected == Some(rev)));
            }
            Effect::Item { item, version } => self.items[usize::from(*item)] = *version,
        }
        Written::Applied
    }

    /// Nobody waits for this request any more.
    fn orphan(&mut self, request: Request) {
        if request.expected.is_none_or(|expected| expected.as_ref() == self.anchor.rev()) {
            self.late.push(request);
        }
    }

    fn tell(&mut self, actor: usize, outcome: &Written<Rev>) {
        let Some(run) = &mut self.runs[actor] else { return };
        let Some(request) = run.sent.take() else { return };
        // No request is sent twice: that a rev in the way is its own does not happen.
        let ours = match (&request.effect, outcome) {
            (Effect::Anchor { .. }, Written::Applied) => self.anchor.rev().copied(),
            _ => None,
        };
        run.machine.written(&ours.unwrap_or(Rev::MAX), outcome);
        self.end(actor);
    }

    fn end(&mut self, actor: usize) {
        if self.runs[actor].as_ref().is_some_and(|run| matches!(run.machine.next(), Next::Done(_))) {
            self.runs[actor] = None;
        }
    }
}

/// What a change does, item by item: a part each.
fn parts(version: Option<Version>, named: Items) -> Vec<(u8, Option<Version>)> {
    let has = |items: Items, item: u8| items & (1 << item) != 0;
    let wanted = items_of(version);
    let puts = (0..ITEMS).filter(|item| has(wanted, *item)).map(|item| (item, version));
    puts.chain((0..ITEMS).filter(|item| has(named & !wanted, *item)).map(|item| (item, None))).collect()
}

/// A write of the anchor.
const fn about_anchor(expected: Option<Rev>, anchor: Mirror<Version, Rev>, named: Items) -> Request {
    Request { expected: Some(expected), effect: Effect::Anchor { anchor, named } }
}

/// The anchor that a change leads to; its rev is drawn later.
fn anchor_of(change: &Change<Version>, seen: &Mirror<Version, Rev>) -> Mirror<Version, Rev> {
    let rev = 0;
    match (change, seen) {
        (Change::Hold(version), _) => Mirror::Settled { rev, version: *version },
        (Change::Renew, Mirror::Settled { version, .. }) => Mirror::Settled { rev, version: *version },
        _ => Mirror::Tombstone { rev },
    }
}

const fn version_of(anchor: &Mirror<Version, Rev>) -> Option<Version> {
    match anchor {
        Mirror::Settled { version, .. } => Some(*version),
        Mirror::Unknown | Mirror::Pending { .. } | Mirror::Tombstone { .. } => None,
    }
}

impl Parts {
    /// The next thing that a run does: it looks, or sends a request.
    fn goes(&self, world: &mut World, actor: usize) {
        let run = world.runs[actor].take();
        let mut run = run.unwrap_or_else(|| {
            world.begins[actor] -= 1;
            let purpose = if actor == 0 { Purpose::Intent } else { Purpose::Reconcile };
            let machine = Converge::new(self.rules, purpose, ROUNDS);
            Run { machine, seen: (Mirror::Unknown, 0), parts: Vec::new(), sent: None }
        });
        match run.machine.next() {
            Next::ReadMirror => {
                run.seen = (world.anchor.clone(), world.named);
                run.machine.mirror(world.anchor.clone());
            }
            Next::ReadAuthority => run.machine.authority(world.source),
            // Its body is fetched first.
            Next::Write { change: Change::Hold(version), .. } if world.source != Some(version) => {
                run.machine.body_gone();
            }
            Next::Write { change, expected } => {
                let version = if let Change::Hold(version) = change { Some(version) } else { None };
                let all = parts(version, run.seen.1);
                if change != Change::Renew && all.len() > 1 {
                    run.machine.in_parts(all.len());
                    run.parts = all;
                } else {
                    let named = if change == Change::Renew { run.seen.1 } else { 0 };
                    run.sent = Some(about_anchor(expected, anchor_of(&change, &run.seen.0), named));
                }
            }
            Next::Begin { expected } => {
                let named = run.parts.iter().fold(run.seen.1, |named, (item, _)| named | 1 << item);
                run.sent = Some(about_anchor(expected, Mirror::Pending { rev: 0 }, named));
            }
            Next::Part { number, rev } => {
                let (item, version) = run.parts[number];
                let effect = Effect::Item { item, version };
                run.sent = Some(Request { expected: rev.map(Some), effect });
            }
            Next::Finish { change, rev } => {
                let anchor = anchor_of(&change, &run.seen.0);
                let named = items_of(version_of(&anchor));
                run.sent = Some(about_anchor(Some(rev), anchor, named));
            }
            Next::Done(_) => {}
        }
        world.runs[actor] = Some(run);
        world.end(actor);
    }
}

impl Model for Parts {
    type State = World;
    type Action = Step;

    fn init_states(&self) -> Vec<World> {
        use Version::{A, B};
        let edits: [&[Option<Version>]; 4] =
            [&[Some(B)], &[Some(B), Some(A)], &[None, Some(A)], &[Some(B), None]];
        let begin = |edits: &&[Option<Version>]| World {
            source: Some(A),
            edits: edits.to_vec(),
            anchor: Mirror::Settled { rev: 0, version: A },
            named: items_of(Some(A)),
            items: [Some(A), Some(A), None],
            runs: [None, None],
            begins: [1, 1],
            late: Vec::new(),
            crashes: 1,
            timeouts: 1,
        };
        edits.iter().map(begin).collect()
    }

    fn actions(&self, world: &World, steps: &mut Vec<Step>) {
        if !world.edits.is_empty() {
            steps.push(Step::Edit);
        }
        for actor in 0..2 {
            match &world.runs[actor] {
                Some(Run { sent: Some(_), .. }) => {
                    steps.push(Step::Lands(actor));
                    if world.timeouts > 0 {
                        steps.push(Step::TimesOut(actor));
                    }
                    if world.crashes > 0 {
                        steps.push(Step::Crashes(actor));
                    }
                }
                None if world.begins[actor] == 0 => {}
                _ => steps.push(Step::Goes(actor)),
            }
        }
        // One that never lands is one that waits for ever.
        steps.extend((0..world.late.len()).map(Step::LateLands));
    }

    fn next_state(&self, world: &World, step: Step) -> Option<World> {
        let mut world = world.clone();
        match step {
            Step::Edit => world.source = world.edits.remove(0),
            Step::Goes(actor) => self.goes(&mut world, actor),
            Step::Lands(actor) => {
                let request = world.runs[actor].as_ref()?.sent.clone()?;
                let outcome = world.apply(&request);
                world.tell(actor, &outcome);
            }
            Step::TimesOut(actor) => {
                world.timeouts -= 1;
                world.orphan(world.runs[actor].as_ref()?.sent.clone()?);
                world.tell(actor, &Written::Unknown);
            }
            Step::Crashes(actor) => {
                world.crashes -= 1;
                world.runs[actor].take()?.sent.into_iter().for_each(|request| world.orphan(request));
            }
            Step::LateLands(late) => {
                let request = world.late.remove(late);
                world.apply(&request);
            }
        }
        Some(world)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        vec![
            Property::always(WHOLE, |_, world: &World| {
                let version = version_of(&world.anchor);
                let whole = (0..ITEMS).all(|item| {
                    let wanted = version.filter(|_| items_of(version) & (1 << item) != 0);
                    world.items[usize::from(item)] == wanted
                });
                whole || matches!(world.anchor, Mirror::Pending { .. })
            }),
            Property::always(NAMED, |_, world: &World| {
                (0..ITEMS)
                    .all(|item| world.items[usize::from(item)].is_none() || world.named & (1 << item) != 0)
            }),
            Property::sometimes(SETTLES, |_, world: &World| version_of(&world.anchor) == Some(Version::B)),
        ]
    }
}

/// How it is called.
pub(crate) const NAME: &str = "changes of several transactions";

/// Explores all of it; the number of states, and whether all was as it must be.
pub(crate) fn check() -> (usize, bool) {
    let explore = |rules, threads| Parts { rules }.checker().threads(threads).spawn_bfs().join();
    let sound = explore(Rules::SOUND, 2);
    let states = sound.unique_state_count();
    println!("  {NAME:42} {states:>11} states, {:>10} transitions", sound.state_count());
    let found: Vec<&str> = sound.discoveries().into_keys().collect();
    let holds = found == [SETTLES];
    if !holds {
        println!("  NOT as expected: {found:?}");
    }
    let unchecked = explore(Rules { checked_parts: false, ..Rules::SOUND }, 1);
    let late = unchecked.discovery(WHOLE);
    match &late {
        Some(path) => {
            println!(
                "  without the check of the pending anchor's rev in each part: found in {} steps, a part lands late",
                path.clone().into_vec().len()
            );
        }
        None => println!("  NOT FOUND: a part that lands late"),
    }
    (states, holds && late.is_some())
}
