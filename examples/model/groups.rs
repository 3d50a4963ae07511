//! Groups: two blobs that share one item, and three processes that converge them.
//!
//! Each blob has a gateway, which changes it and converges it; a sweeper converges either. It drives
//! [`Converge`] and [`Contest`], as production does. All versions have the same bytes: only the time tells
//! a put again from what was there. One of the blobs may be large, so that its part is a transaction of
//! its own between a pending and a final anchor.
//!
//! Limits: one group, two members, a page of them; a version is its time; a rev is how often its row was
//! written.

use migrate::protocol::Rules;
use migrate::protocol::converge::{Change, Converge, Mirror, Next, Purpose};
use migrate::protocol::group::{self, Contest, Trust};
use stateright::{Model, Path, Property};

mod words;
mod world;

use crate::words::Told;
use world::{Anchor, OfGroup, Request, Rev, Run, Time, World};

/// Rounds of a converge.
const ROUNDS: u8 = 2;
const BLOBS: usize = 2;
/// The gateway of each blob, and the sweeper.
const ACTORS: usize = BLOBS + 1;
const SWEEPER: usize = BLOBS;

/// The model comes to an end even when everything went wrong that can.
pub(crate) const SETTLES: &str = "the group is settled after every fault";
/// No intent left → the item is the highest member's.
pub(crate) const HIGHEST: &str = "both anchors as the source, the item is not the highest member's";
/// No intent left → the members are the blobs that are there.
pub(crate) const KNOWN: &str = "both anchors as the source, a member is unknown to the group";
/// At all times.
pub(crate) const NAMED: &str = "the group's row does not name whose item is there";

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Step {
    /// A gateway changes its blob, and begins to converge it.
    Edit(usize),
    Sweeps(usize),
    Goes(usize),
    Lands(usize),
    TimesOut(usize),
    Crashes(usize),
    LateLands(usize),
}

/// What is explored.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Groups {
    pub(crate) name: &'static str,
    pub(crate) rules: Rules,
    pub(crate) beginnings: &'static [Beginning],
    /// Whether P is converged in several transactions.
    pub(crate) large: bool,
    pub(crate) sweeps: u8,
    pub(crate) crashes: u8,
    pub(crate) timeouts: u8,
    /// Looks for this one property alone.
    pub(crate) only: Option<&'static str>,
}

/// What both blobs are at first, and what becomes of each.
pub(crate) type Beginning = ([Option<Time>; BLOBS], [&'static [Option<Time>]; BLOBS]);

impl Groups {
    pub(crate) const BASE: Self = Self {
        name: "",
        rules: Rules::SOUND,
        beginnings: &[],
        large: false,
        sweeps: 1,
        crashes: 1,
        timeouts: 1,
        only: None,
    };
}

/// What the default run explores.
pub(crate) const DEFAULT: [Groups; 2] = [
    Groups { name: "two members of a group, sweeper", beginnings: &BEGINNINGS, ..Groups::BASE },
    Groups {
        name: "the same, one of them large",
        beginnings: &[([None, Some(2)], [&[Some(1)], &[None]])],
        large: true,
        ..Groups::BASE
    },
];

/// What is explored by hand.
pub(crate) const FULL: [Groups; 3] = [
    Groups { name: "two members, the longer scripts", beginnings: &LONGER, ..Groups::BASE },
    Groups { name: "one of two members large", beginnings: &BEGINNINGS, large: true, ..Groups::BASE },
    Groups {
        name: "two members, two sweeps, two crashes",
        beginnings: &BEGINNINGS,
        sweeps: 2,
        crashes: 2,
        ..Groups::BASE
    },
];

const BEGINNINGS: [Beginning; 6] = [
    // The one that has the item leaves, and the other one comes back, moves on or leaves too.
    ([Some(1), Some(2)], [&[], &[None]]),
    ([Some(1), Some(2)], [&[Some(3)], &[None]]),
    ([Some(1), Some(2)], [&[None], &[None]]),
    // Put again.
    ([Some(1), Some(2)], [&[Some(3)], &[Some(4)]]),
    // A group that nobody was ever in; both at the same time.
    ([None, None], [&[Some(1)], &[Some(1)]]),
    ([None, Some(1)], [&[Some(2), None], &[]]),
];

const LONGER: [Beginning; 2] =
    [([Some(1), Some(2)], [&[None, Some(3)], &[None]]), ([Some(1), Some(2)], [&[Some(3)], &[Some(3), None]])];

impl Groups {
    fn begins(&self, world: &mut World, actor: usize, blob: usize) {
        let purpose = if actor == SWEEPER { Purpose::Reconcile } else { Purpose::Intent };
        let machine = Converge::new(self.rules, purpose, ROUNDS);
        world.runs[actor] = Some(Run { blob, machine, seen: None, large: None, contest: None, sent: None });
    }

    /// The next thing that a run does: it looks, or sends a request.
    fn goes(&self, world: &mut World, actor: usize) {
        let Some(mut run) = world.runs[actor].take() else { return };
        match (run.machine.next(), &run.contest) {
            (Next::ReadMirror, _) => {
                run.seen = Some(world.anchors[run.blob].clone());
                run.machine.mirror(world.anchors[run.blob].state.clone());
            }
            (Next::ReadAuthority, _) => run.machine.authority(world.source[run.blob]),
            // Its body is fetched first.
            (Next::Write { change: Change::Hold(version), .. }, None)
                if world.source[run.blob] != Some(version) =>
            {
                run.machine.body_gone();
            }
            (Next::Write { change: Change::Renew, expected }, _) => {
                let anchor = Some(run.anchor(&Change::Renew));
                run.sent = Some(Request { blob: run.blob, expected, anchor, group: None });
            }
            (Next::Write { change, .. }, None) if self.is_large(&run) => {
                run.machine.in_parts(1);
                run.large = Some(change);
            }
            (Next::Begin { expected }, _) => {
                let Some(change) = &run.large else { return };
                // As what it is a member, and as what it will be.
                let mut named = run.seen.as_ref().map_or_else(Vec::new, |seen| seen.named.clone());
                named.extend(run.moves(change).1);
                named.sort_unstable();
                named.dedup();
                let anchor = Some(Anchor { state: Mirror::Pending { rev: 0 }, named });
                run.sent = Some(Request { blob: run.blob, expected, anchor, group: None });
            }
            (Next::Write { change, expected }, _) => {
                let anchor = Some(run.anchor(&change));
                self.contest(world, actor, &mut run, &change, (expected, anchor));
            }
            (Next::Part { rev, .. }, _) => {
                let Some(change) = run.large.clone() else { return };
                self.contest(world, actor, &mut run, &change, (rev, None));
            }
            (Next::Finish { change, rev }, _) => {
                let anchor = Some(run.anchor(&change));
                run.sent = Some(Request { blob: run.blob, expected: Some(rev), anchor, group: None });
            }
            (Next::Done(_), _) => return,
        }
        let over = matches!(run.machine.next(), Next::Done(_));
        world.runs[actor] = Some(run).filter(|_| !over);
    }

    fn is_large(&self, run: &Run) -> bool {
        self.large && run.blob == 0
    }

    /// The next look at the group; after the last, the transaction goes out.
    fn contest(
        &self,
        world: &World,
        actor: usize,
        run: &mut Run,
        change: &Change<Time>,
        (expected, anchor): (Option<Rev>, Option<Anchor>),
    ) {
        let (leave, join) = run.moves(change);
        // A sweeper's converge is the bulk one.
        let trust =
            if actor == SWEEPER && !self.is_large(run) { Trust::NoRowNoMembers } else { Trust::Nothing };
        let begin = || Contest::new(self.rules, trust, leave.clone(), join.into_iter().collect());
        let untouched = leave.is_empty() && join.is_none();
        let mut contest = run.contest.take().unwrap_or_else(begin);
        match contest.next() {
            _ if untouched => {}
            group::Next::ReadRow => contest.row(world.row.clone()),
            group::Next::ReadMembers => contest.members(world.members.clone(), false),
            group::Next::Restore(member) => {
                let state = &world.anchors[member.blob].state;
                contest.made(matches!(state, Mirror::Settled { version, .. } if *version == member.time));
            }
            group::Next::Fetch(member) => contest.made(world.source[member.blob] == Some(member.time)),
            group::Next::Settled(_) => {}
        }
        let of_group = match contest.next() {
            _ if untouched => None,
            group::Next::Settled(settlement) => Some(OfGroup { settlement, leave, join }),
            _ => {
                run.contest = Some(contest);
                return;
            }
        };
        run.sent = Some(Request { blob: run.blob, expected, anchor, group: of_group });
    }
}

impl Model for Groups {
    type State = World;
    type Action = Step;

    fn init_states(&self) -> Vec<World> {
        self.beginnings.iter().map(|beginning| World::new(self, *beginning)).collect()
    }

    fn actions(&self, world: &World, steps: &mut Vec<Step>) {
        for blob in 0..BLOBS {
            if world.runs[blob].is_none() && !world.edits[blob].is_empty() {
                steps.push(Step::Edit(blob));
            }
            if world.runs[SWEEPER].is_none() && world.sweeps > 0 {
                steps.push(Step::Sweeps(blob));
            }
        }
        for (actor, run) in world.runs.iter().enumerate() {
            let Some(run) = run else { continue };
            if run.sent.is_none() {
                steps.push(Step::Goes(actor));
                continue;
            }
            steps.push(Step::Lands(actor));
            if world.timeouts > 0 {
                steps.push(Step::TimesOut(actor));
            }
            if world.crashes > 0 {
                steps.push(Step::Crashes(actor));
            }
        }
        steps.extend((0..world.late.len()).map(Step::LateLands));
    }

    fn next_state(&self, world: &World, step: Step) -> Option<World> {
        let mut world = world.clone();
        match step {
            Step::Edit(blob) => {
                world.source[blob] = world.edits[blob].remove(0);
                self.begins(&mut world, blob, blob);
            }
            Step::Sweeps(blob) => {
                world.sweeps -= 1;
                self.begins(&mut world, SWEEPER, blob);
            }
            Step::Goes(actor) => self.goes(&mut world, actor),
            Step::Lands(actor) => {
                let request = world.runs[actor].as_ref()?.sent.clone()?;
                let applied = world.apply(&request);
                world.replied(actor, Some(&applied));
            }
            Step::TimesOut(actor) => {
                world.timeouts -= 1;
                world.orphan(world.runs[actor].as_ref()?.sent.clone()?);
                world.replied(actor, None);
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
        let mut all = vec![
            Property::always(HIGHEST, |_, world: &World| {
                !world.is_equal() || world.item == world.present().first().copied()
            }),
            Property::always(KNOWN, |_, world: &World| !world.is_equal() || world.members == world.present()),
            Property::always(NAMED, |_, world: &World| {
                world.item == world.row.as_ref().and_then(|row| row.winner)
            }),
            Property::sometimes(SETTLES, |_, world: &World| {
                world.is_equal()
                    && world.crashes == 0
                    && world.timeouts == 0
                    && world.edits.iter().all(Vec::is_empty)
                    && world.runs.iter().all(Option::is_none)
            }),
        ];
        all.retain(|property| self.only.is_none_or(|only| only == property.name));
        all
    }
}

impl Told for Groups {
    fn told(&self, path: &Path<World, Step>) -> (String, Vec<String>) {
        let steps = path.clone().into_vec();
        let beginning = steps.first().map_or_else(String::new, |(world, _)| words::beginning(world));
        let pairs = steps.windows(2);
        let lines = pairs.filter_map(|pair| Some(words::step(&pair[0].0, pair[0].1?, &pair[1].0)));
        (beginning, lines.collect())
    }
}
