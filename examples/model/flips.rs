//! A change of authority: two gateways with a write and a read each, a sweeper, and one or two operators.
//!
//! It drives what production drives: [`Flip`] for the operators, `admit`, `may_answer` and `read_from` for what
//! gateways let through and answer, [`Lease`](migrate::protocol::session::Lease) for their sessions, `after_own` and
//! `replay` for their intents, and `Converge` for the mirror. A converge towards Blob is a small one of its own, in
//! `world`.
//!
//! Limits: one pathname, puts only; one fault of each kind; "wait" is an oracle, as elsewhere, and a gateway
//! does not outlast it between the check of its lease and its request; the operator's word that a gateway is
//! stopped is true, and counts only where everything of it was noted (in production its gates see to that).

use migrate::protocol::Rules;
use migrate::protocol::flip::{Done, Flip, Next, Rules as FlipRules};
use migrate::protocol::intent::{Owner, Replay, Silence, replay};
use migrate::protocol::phase::Authority;
use stateright::{Model, Path, Property};

pub(crate) mod known;
mod operator;
mod take;
mod world;

use crate::words::Told as Telling;
use world::{Content, Gateway, Intent, Joining, Mode, Operator, Read, Row, Sweeper, Told, World, Write};

/// Waits of an operator, where giving up is not what is explored.
const WAITS: u8 = 4;

/// A mistake that only this model can make; production has no switch for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Flaw {
    None,
    /// A reply is passed on without a look at session and epoch (trace B1).
    AnswersUnchecked,
    /// A session that lapsed is renewed as if nothing had been (trace B2).
    Revives,
    /// A lease is taken for lapsed by comparing clocks (trace B3).
    ComparesClocks,
    /// A gateway that acknowledged goes on when its own time is up (trace B5).
    Resumes,
    /// While a hold is set, reads go by the mode that was read before (trace B6).
    ReadsByHeld,
    /// Reads of DynamoDB need no live session (trace B7).
    ReadsUnchecked,
    /// A hold is acknowledged with a request in flight (trace B8).
    AcknowledgesBusy,
    /// After a put to the mirror the anchor is not read again (trace B13).
    NoSecondLook,
    /// A newcomer reads the mode before it stores its row.
    ReadsModeFirst,
    /// Who replays an intent towards Blob does not take it over.
    ReplaysTogether,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Step {
    Begins(usize),
    ReadsAnchor(usize),
    Lands(usize),
    TimesOut(usize),
    /// Converges, for the intent of a write that is in doubt.
    Replays(usize, usize),
    Mirrors(usize),
    MirrorTimesOut(usize),
    /// Leaves what is under way in doubt.
    Leaves(usize),
    Polls(usize),
    Acknowledges(usize),
    Lapses(usize),
    Rejoins(usize),
    Joins(usize),
    Joined(usize),
    Resumes(usize),
    Revives(usize),
    Crashes(usize),
    Cancels(usize),
    ReadBegins(usize),
    ReadReturns(usize),
    /// The operator says of a dead gateway that it is stopped.
    Word(usize),
    SweeperPolls,
    SweeperGoes,
    SweeperAcknowledges,
    Operates(usize),
    SeesSilence(usize),
    IsOverdue(usize),
    IsKilled(usize),
    LateLands(usize),
    LateDies(usize),
}

/// What is explored.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Flips {
    pub(crate) name: &'static str,
    pub(crate) rules: Rules,
    pub(crate) flip: FlipRules,
    pub(crate) flaw: Flaw,
    /// The authority at first.
    pub(crate) leaving: Authority,
    /// Whether the second write restores what was there at first.
    pub(crate) repeats: bool,
    /// The goal of a second operator.
    pub(crate) second: Option<Authority>,
    pub(crate) holds: u8,
    pub(crate) reads: bool,
    pub(crate) sweeper: bool,
    /// Whether the operator converges before the hold, too.
    pub(crate) settles: bool,
    /// Whether a lapse is a partition from the control table; else it is a stall.
    pub(crate) partition: bool,
    /// Whether a partition is over before the lease is.
    pub(crate) brief: bool,
    pub(crate) writes: u8,
    pub(crate) crashes: u8,
    pub(crate) timeouts: u8,
    pub(crate) lapses: u8,
    pub(crate) kills: u8,
    pub(crate) cancels: u8,
    pub(crate) only: Option<&'static str>,
}

impl Flips {
    pub(crate) const BASE: Self = Self {
        name: "",
        rules: Rules::SOUND,
        flip: FlipRules::SOUND,
        flaw: Flaw::None,
        leaving: Authority::Source,
        repeats: true,
        second: None,
        holds: 1,
        reads: false,
        sweeper: false,
        settles: false,
        partition: false,
        brief: false,
        writes: 2,
        crashes: 0,
        timeouts: 0,
        lapses: 0,
        kills: 0,
        cancels: 0,
        only: None,
    };
    pub(crate) const BACK: Self = Self { leaving: Authority::Target, holds: 2, ..Self::BASE };

    pub(crate) const fn content(&self, write: usize) -> Content {
        match write {
            0 => 1,
            _ if self.repeats => 0,
            _ => 2,
        }
    }
}

/// What CI explores.
pub(crate) const DEFAULT: [Flips; 10] = [
    Flips { name: "flip: crash, late landing", crashes: 1, timeouts: 1, ..Flips::BASE },
    Flips { name: "flip: reads, a stall", reads: true, lapses: 1, writes: 1, ..Flips::BASE },
    Flips {
        name: "flip: partition from the control table",
        lapses: 1,
        partition: true,
        cancels: 1,
        holds: 2,
        writes: 1,
        ..Flips::BASE
    },
    Flips { name: "flip: brief partition", lapses: 1, partition: true, brief: true, ..Flips::BASE },
    Flips { name: "flip: sweeper", sweeper: true, ..Flips::BASE },
    Flips { name: "flip: operator killed and run again", kills: 1, holds: 2, ..Flips::BASE },
    Flips {
        name: "flip: two operators",
        second: Some(Authority::Target),
        holds: 2,
        writes: 1,
        ..Flips::BASE
    },
    Flips { name: "flip back: crash", crashes: 1, ..Flips::BACK },
    Flips { name: "flip back: reads, a stall", reads: true, lapses: 1, writes: 1, ..Flips::BACK },
    Flips { name: "flip there and back", second: Some(Authority::Source), holds: 2, ..Flips::BASE },
];

/// What is explored by hand.
pub(crate) const FULL: [Flips; 9] = [
    Flips {
        name: "flip: every fault, reads",
        crashes: 1,
        timeouts: 1,
        lapses: 1,
        reads: true,
        ..Flips::BASE
    },
    Flips {
        name: "flip: partition, crash, late landing",
        crashes: 1,
        timeouts: 1,
        lapses: 1,
        partition: true,
        holds: 2,
        ..Flips::BASE
    },
    Flips {
        name: "flip: two operators, a kill",
        second: Some(Authority::Target),
        kills: 1,
        holds: 3,
        ..Flips::BASE
    },
    Flips {
        name: "flip: two operators that converge before the hold",
        second: Some(Authority::Target),
        settles: true,
        holds: 2,
        ..Flips::BASE
    },
    Flips { name: "flip back: crash, late landing", crashes: 1, timeouts: 1, ..Flips::BACK },
    Flips { name: "flip back: reads, a stall, two writes", reads: true, lapses: 1, ..Flips::BACK },
    Flips {
        name: "flip back: crash, late landing, a stall",
        crashes: 1,
        timeouts: 1,
        lapses: 1,
        ..Flips::BACK
    },
    Flips {
        name: "flip back: two operators, a kill",
        second: Some(Authority::Source),
        kills: 1,
        holds: 3,
        ..Flips::BACK
    },
    Flips {
        name: "flip there and back, crash, late landing",
        second: Some(Authority::Source),
        holds: 3,
        crashes: 1,
        timeouts: 1,
        ..Flips::BASE
    },
];

/// The authority always has what a client was told.
pub(crate) const LOST: &str = "an acknowledged write is lost in the authority";
/// What a client was told, every later read sees.
pub(crate) const STALE: &str = "a read does not see an acknowledged write";
/// No intent left → both sides are equal.
pub(crate) const DIVERGED: &str = "no intent left, both sides differ";
/// The model comes to an end even when everything went wrong that can.
pub(crate) const COMMITS: &str = "committed, whatever went wrong";

impl Flips {
    fn operator(&self, goal: Authority, cancel_found: bool) -> Operator {
        let flip = Flip::new(self.flip, other(goal), cancel_found, WAITS);
        Operator { goal, flip, epoch: 0, draining: None }
    }

    /// The steps of a gateway's write.
    fn of_write(&self, world: &World, number: usize, steps: &mut Vec<Step>) {
        let gateway = &world.gateways[number];
        match &gateway.write {
            Write::NotBegun if number < usize::from(self.writes) => {
                if self.admits(gateway).is_some() {
                    steps.push(Step::Begins(number));
                }
            }
            Write::Sent { authority: Authority::Target, seen: None, .. } => {
                steps.push(Step::ReadsAnchor(number));
            }
            Write::Sent { .. } => {
                steps.push(Step::Lands(number));
                if world.timeouts > 0 {
                    steps.push(Step::TimesOut(number));
                }
            }
            Write::Mirroring(mirroring) | Write::Replaying(_, mirroring) => {
                steps.push(Step::Mirrors(number));
                if world.timeouts > 0 && self.sends(mirroring) {
                    steps.push(Step::MirrorTimesOut(number));
                }
            }
            Write::Over
                if gateway.known.authority == Authority::Target && self.admits(gateway) == Some(true) =>
            {
                let waited = if world.may_change() { Silence::Short } else { Silence::Full };
                let owner = |write: usize| match world.intents[write] {
                    Intent::InDoubt => Owner::GaveUp,
                    Intent::Working if !world.owner_of(write).row.open => Owner::Ended,
                    Intent::None | Intent::Working => Owner::Working,
                };
                let clears = |write: &usize| replay(owner(*write), waited) == Replay::ConvergeAndClear;
                steps.extend((0..2).filter(clears).map(|write| Step::Replays(number, write)));
            }
            Write::NotBegun | Write::Over => {}
        }
        if !gateway.idle() && (gateway.known.hold.is_some() || !gateway.holds()) {
            steps.push(Step::Leaves(number));
        }
    }

    /// The steps of a gateway's watch on the mode.
    fn of_watch(&self, world: &World, number: usize, steps: &mut Vec<Step>) {
        let gateway = &world.gateways[number];
        if gateway.reachable && gateway.known != world.mode {
            steps.push(Step::Polls(number));
        }
        let ready = gateway.idle() || self.flaw == Flaw::AcknowledgesBusy;
        let acknowledged = gateway.row.acknowledged == gateway.known.hold;
        if gateway.reachable && gateway.known.hold.is_some() && !acknowledged && ready && gateway.holds() {
            steps.push(Step::Acknowledges(number));
        }
        if world.lapses > 0 && gateway.holds() {
            steps.push(Step::Lapses(number));
        }
        if !gateway.reachable {
            steps.push(Step::Rejoins(number));
        }
        // It looked at the mode and saw no hold.
        let unsound = !gateway.holds() || gateway.row.gap;
        if gateway.reachable && unsound {
            match gateway.joining {
                Joining::No if gateway.known.hold.is_none() && gateway.idle() => {
                    steps.push(Step::Joins(number));
                }
                Joining::No => {}
                Joining::Stored | Joining::ReadFirst => steps.push(Step::Joined(number)),
            }
        }
        if self.flaw == Flaw::Revives && !gateway.holds() {
            steps.push(Step::Revives(number));
        }
        if self.flaw == Flaw::Resumes && gateway.known.hold.is_some() && acknowledged {
            steps.push(Step::Resumes(number));
        }
        if world.cancels > 0 && gateway.known.hold.is_some() && gateway.known == world.mode {
            steps.push(Step::Cancels(number));
        }
        if world.crashes > 0 {
            steps.push(Step::Crashes(number));
        }
        match gateway.read {
            Read::NotBegun if self.reads => steps.push(Step::ReadBegins(number)),
            Read::Begun { .. } => steps.push(Step::ReadReturns(number)),
            Read::NotBegun | Read::Over => {}
        }
    }

    fn of_operator(&self, world: &World, number: usize, steps: &mut Vec<Step>) {
        let Some(operator) = &world.operators[number] else { return };
        let next = operator.flip.next();
        let can = match &next {
            Next::Done(Done::Committed) => return,
            Next::Done(_) => world.holds < self.holds && world.mode.authority != operator.goal,
            Next::ReadMode => world.mode.authority != operator.goal,
            Next::Hold => world.holds < self.holds,
            Next::Wait => !world.rows_tell_of_doubt(),
            _ => true,
        };
        if can {
            steps.push(Step::Operates(number));
        }
        if matches!(next, Next::LookAtSessions(_)) {
            steps.push(Step::SeesSilence(number));
            if world.cancels > 0 || world.mode.hold != operator.flip.hold().copied() {
                steps.push(Step::IsOverdue(number));
            }
        }
        if world.kills > 0 && next != Next::ReadMode {
            steps.push(Step::IsKilled(number));
        }
    }
}

impl Model for Flips {
    type State = World;
    type Action = Step;

    fn init_states(&self) -> Vec<World> {
        let mode = Mode { authority: self.leaving, epoch: 0, hold: None };
        let goal = other(self.leaving);
        let gateway = Gateway::new(mode);
        vec![World {
            blob: 0,
            item: 0,
            mode,
            holds: 0,
            intents: [Intent::None; 2],
            owners: [0, 1],
            gateways: [gateway; 2],
            sweeper: self.sweeper.then_some(Sweeper { known: mode, row: Row::NEW, run: None }),
            operators: [Some(self.operator(goal, false)), self.second.map(|goal| self.operator(goal, true))],
            late: Vec::new(),
            told: [Told::Nothing; 2],
            after_other: [false; 2],
            stale_read: false,
            crashes: self.crashes,
            timeouts: self.timeouts,
            lapses: self.lapses,
            kills: self.kills,
            cancels: self.cancels,
        }]
    }

    fn actions(&self, world: &World, steps: &mut Vec<Step>) {
        for (number, gateway) in world.gateways.iter().enumerate() {
            if gateway.crashed {
                if gateway.row.open && !gateway.unnoted {
                    steps.push(Step::Word(number));
                }
                continue;
            }
            self.of_write(world, number, steps);
            self.of_watch(world, number, steps);
        }
        if let Some(sweeper) = &world.sweeper {
            if sweeper.known != world.mode {
                steps.push(Step::SweeperPolls);
            }
            let known = sweeper.known;
            if sweeper.run.is_some() || (known.hold.is_none() && known.authority == Authority::Source) {
                steps.push(Step::SweeperGoes);
            }
            if known.hold.is_some() && sweeper.row.acknowledged != known.hold && sweeper.run.is_none() {
                steps.push(Step::SweeperAcknowledges);
            }
        }
        for number in 0..2 {
            self.of_operator(world, number, steps);
        }
        for number in 0..world.late.len() {
            steps.extend([Step::LateLands(number), Step::LateDies(number)]);
        }
    }

    fn next_state(&self, world: &World, step: Step) -> Option<World> {
        let mut next = world.clone();
        self.take(&mut next, step, &mut |_| {});
        (next != *world).then_some(next)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        let mut all = vec![
            Property::always(LOST, |model: &Self, world: &World| {
                world.stale(|write| model.content(write)) & (1 << world.of_authority()) == 0
            }),
            Property::always(STALE, |_, world: &World| !world.stale_read),
            Property::always(DIVERGED, |_, world: &World| is_equal(world)),
            Property::sometimes(COMMITS, |_, world: &World| {
                let spent = [world.crashes, world.timeouts, world.lapses, world.kills, world.cancels];
                spent == [0; 5] && world.mode.epoch > 0 && world.told.contains(&Told::Success)
            }),
        ];
        all.retain(|property| self.only.is_none_or(|only| only == property.name));
        all
    }
}

/// Whether both sides are equal, where no intent and nothing unnoted says otherwise.
fn is_equal(world: &World) -> bool {
    let over = world.gateways.iter().all(|gateway| gateway.crashed || gateway.idle())
        && world.intents == [Intent::None; 2]
        && !world.gateways.iter().any(|gateway| gateway.unnoted);
    !over || world.blob == world.item
}

impl Telling for Flips {
    fn told(&self, path: &Path<World, Step>) -> (String, Vec<String>) {
        let mut lines = Vec::new();
        for (world, step) in path.clone().into_vec() {
            if let Some(step) = step {
                self.take(&mut world.clone(), step, &mut |line| lines.push(line.to_string()));
            }
        }
        (format!("authority {}, w0 on both sides", number_of(self.leaving)), lines)
    }
}

const fn number_of(authority: Authority) -> u8 {
    match authority {
        Authority::Source => 0,
        Authority::Target => 1,
    }
}

const fn other(authority: Authority) -> Authority {
    match authority {
        Authority::Source => Authority::Target,
        Authority::Target => Authority::Source,
    }
}
