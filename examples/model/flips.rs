//! A change of authority, there, back, and there again: two gateways with some writes and a read each, a sweeper, and
//! one or two operators.
//!
//! It drives what production drives: [`Flip`] for the operators, `admit`, `may_answer` and `read_from` for what
//! gateways let through and answer, [`Lease`](migrate::protocol::session::Lease) for their sessions, `after_own` and
//! `replay` for their intents, `Converge` for the mirror towards DynamoDB, [`Reverse`](migrate::protocol::reverse::Reverse)
//! for the one towards Blob, and `whose`, `at_commit` and `may_send` for its notes.
//!
//! Limits: one pathname; few faults of each kind; "wait" is an oracle, as elsewhere; that the server refuses a request
//! of the mirror after its window is one, too (`ends`); the operator's word that a gateway is stopped is true, and
//! counts only where everything of it was noted (in production its gates see to that).

use migrate::protocol::Rules;
use migrate::protocol::flip::{Done, Flip, Next, Rules as FlipRules};
use migrate::protocol::intent::Replay;
use migrate::protocol::phase::Authority;
use stateright::{Model, Path, Property};

pub(crate) mod cases;
pub(crate) mod known;
mod mirror;
mod operator;
mod take;
mod world;

use crate::words::Told as Telling;
use migrate::protocol::reverse::Known;
use world::{
    Anchor, Gateway, Held, Intent, Joining, Late, Mirroring, Mode, OPERATORS, Op, Operator, PROCESSES, Read,
    SCRIPT_MAX, SWEEPER, Session, Sweeper, Who, Work, World,
};

/// Waits of an operator, where giving up is not what is explored.
const WAITS: u8 = 2;

/// A mistake that only this model can make; production has no switch for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Flaw {
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
    /// A newcomer reads the mode before it stores its row.
    ReadsModeFirst,
    /// The clock of a lease stops while the machine sleeps (traces C3, C12).
    ClockStops,
    /// A note is stored though its session was ended (trace C10).
    NotesUnchecked,
    /// The server does not refuse a request of the mirror after its window: its process may send it later (trace C11).
    EndsByClock,
    /// Notes are dropped with the step to DynamoDB (trace C16).
    DropsNotes,
    /// A copy is sent whatever a request expects, since nobody knows its ETag before (trace C15).
    CopiesUnjudged,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Step {
    Begins(usize),
    Lands(usize),
    Finishes(usize),
    TimesOut(usize),
    /// Converges for rows that are in doubt; whether some may go afterwards.
    Replays(usize, bool),
    Mirrors(usize),
    /// Comes back to what it left for a hold.
    Returns(usize),
    MirrorTimesOut(usize),
    HeadFails(usize),
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
    OperatorStalls(usize),
    OperatorTimesOut(usize),
    LateLands(usize),
    LateDies(usize),
    /// The window of a note ends.
    WindowEnds(usize),
    /// A note goes while Blob is the authority.
    Drops(usize),
}

/// What is explored.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Flips {
    pub(crate) name: &'static str,
    pub(crate) rules: Rules,
    pub(crate) flip: FlipRules,
    pub(crate) flaws: &'static [Flaw],
    /// The authority at first.
    pub(crate) leaving: Authority,
    /// What both stores hold at first.
    pub(crate) initial: Held,
    /// Whether the second gateway runs under a plan that does not map the pathname: it passes writes on to Blob.
    pub(crate) other_plan: bool,
    /// The writes of each gateway.
    pub(crate) scripts: [&'static [Op]; 2],
    /// The steps that each operator takes.
    pub(crate) goals: [&'static [Authority]; 2],
    pub(crate) holds: u8,
    pub(crate) reads: bool,
    pub(crate) sweeper: bool,
    /// Whether the operator converges before the hold, too.
    pub(crate) settles: bool,
    /// Whether the operator makes Blob equal under the hold.
    pub(crate) converges: bool,
    /// Whether gateways replay also what may land yet.
    pub(crate) eager: bool,
    /// Whether any request of the mirror may get no answer; else only those that change Blob.
    pub(crate) any_lost: bool,
    /// Whether only the second gateway replays, as long as it lives.
    pub(crate) one_replays: bool,
    /// Whether the window of a note may end.
    pub(crate) ends: bool,
    /// Whether a lapse is a partition from the control table; else it is a stall.
    pub(crate) partition: bool,
    /// Whether a partition is over before the lease is.
    pub(crate) brief: bool,
    pub(crate) crashes: u8,
    pub(crate) timeouts: u8,
    pub(crate) failures: u8,
    pub(crate) lapses: u8,
    pub(crate) kills: u8,
    pub(crate) cancels: u8,
    pub(crate) only: Option<&'static str>,
}

impl Flips {
    fn has(&self, flaw: Flaw) -> bool {
        self.flaws.contains(&flaw)
    }

    /// What is reached at last.
    pub(crate) const fn comes_to(&self) -> &'static str {
        if self.other_plan { REFUSED } else { COMMITS }
    }

    const fn has_other_plan(&self, who: Who) -> bool {
        self.other_plan && who == 1
    }

    pub(crate) const fn op(&self, write: usize) -> Op {
        self.scripts[write / SCRIPT_MAX][write % SCRIPT_MAX]
    }
}

/// The authority always has what a client was told.
pub(crate) const LOST: &str = "an acknowledged write is lost in the authority";
/// What a client was told, every later read sees.
pub(crate) const STALE: &str = "a read does not see an acknowledged write";
/// No row left → both sides are equal, and the anchor says so.
pub(crate) const DIVERGED: &str = "no intent and no note left, both sides differ";
/// Nobody writes to Blob past the gateways here.
pub(crate) const FOREIGN: &str = "what is ours is taken for foreign";
/// The model comes to an end even when everything went wrong that can.
const COMMITS: &str = "committed, whatever went wrong";
/// As long as a gateway runs under another plan, no flip gets through.
const REFUSED: &str = "refused, since a gateway runs under another plan";

impl Flips {
    fn operator(&self, goals: &'static [Authority], cancel_found: bool) -> Operator {
        let leaving = goals.first().map_or(Authority::Source, |goal| other(*goal));
        let flip = Flip::new(self.flip, leaving, cancel_found, WAITS);
        Operator { goals, flip, epoch: 0, draining: None }
    }

    /// How a process is called in a trace.
    fn called(who: Who) -> String {
        match who {
            0 | 1 => format!("G{}", who + 1),
            SWEEPER => "SW".to_owned(),
            _ => format!("O{}", who + 1 - OPERATORS),
        }
    }

    /// The steps of a gateway's writes.
    fn of_write(&self, world: &World, number: usize, steps: &mut Vec<Step>) {
        let gateway = &world.gateways[number];
        if self.has_other_plan(number) {
            if usize::from(gateway.written) < self.scripts[number].len() {
                steps.push(Step::Begins(number));
            }
            return;
        }
        match &gateway.work {
            Work::No => {
                let more = usize::from(gateway.written) < self.scripts[number].len();
                let again = || matches!(self.op(self.current(world, number)), Op::Again(_));
                let waits = more && again() && gateway.known.authority == Authority::Source;
                if more && !waits && self.admits(world, number).is_some() {
                    steps.push(Step::Begins(number));
                }
                if self.admits(world, number) == Some(true) {
                    self.of_replay(world, number, steps);
                }
            }
            Work::Away => {
                if self.admits(world, number) == Some(true) {
                    steps.push(Step::Returns(number));
                }
            }
            Work::Sent { .. } => {
                steps.push(Step::Lands(number));
                if world.timeouts > 0 {
                    steps.push(Step::TimesOut(number));
                }
            }
            Work::Finishing { .. } => {
                steps.push(Step::Finishes(number));
                if world.timeouts > 0 {
                    steps.push(Step::TimesOut(number));
                }
            }
            Work::Mirroring(mirroring) | Work::Replaying { mirroring, .. } => {
                steps.push(Step::Mirrors(number));
                if world.timeouts > 0 && self.may_be_lost(mirroring) {
                    steps.push(Step::MirrorTimesOut(number));
                }
                if world.failures > 0 && Self::asks_blob(mirroring) {
                    steps.push(Step::HeadFails(number));
                }
            }
        }
        if !gateway.idle() && (gateway.known.hold.is_some() || !world.sessions[number].holds()) {
            steps.push(Step::Leaves(number));
        }
    }

    /// What an idle gateway may replay, where it is not the business of its own writes.
    fn of_replay(&self, world: &World, number: usize, steps: &mut Vec<Step>) {
        let other = self.one_replays && number == 0 && !world.gateways[1].crashed;
        if other || world.gateways[number].known.authority == Authority::Source {
            return;
        }
        let left = |noted: &world::Noted| !noted.at_work || !world.sessions[noted.owner].row.open;
        let intents: Vec<Replay> =
            (0..world.intents.len()).map(|write| self.replayable(world, write)).collect();
        let over = world.notes.iter().any(|noted| noted.over && left(noted));
        if over || intents.contains(&Replay::ConvergeAndClear) {
            steps.push(Step::Replays(number, true));
        }
        if self.eager && (intents.contains(&Replay::Converge) || world.notes.iter().any(left)) {
            steps.push(Step::Replays(number, false));
        }
    }

    /// The steps of a gateway's watch on the mode.
    fn of_watch(&self, world: &World, number: usize, steps: &mut Vec<Step>) {
        let (gateway, session) = (&world.gateways[number], &world.sessions[number]);
        if gateway.reachable && gateway.known != world.mode {
            steps.push(Step::Polls(number));
        }
        let ready = gateway.idle() || self.has(Flaw::AcknowledgesBusy);
        let acknowledged = session.row.acknowledged == gateway.known.hold;
        if gateway.reachable && gateway.known.hold.is_some() && !acknowledged && ready && session.holds() {
            steps.push(Step::Acknowledges(number));
        }
        if world.lapses > 0 && session.holds() {
            steps.push(Step::Lapses(number));
        }
        if !gateway.reachable {
            steps.push(Step::Rejoins(number));
        }
        // It looked at the mode and saw no hold.
        let unsound = !session.holds() || session.row.gap;
        if gateway.reachable && unsound {
            match gateway.joining {
                Joining::No if gateway.known.hold.is_none() && gateway.idle() => {
                    steps.push(Step::Joins(number));
                }
                Joining::No => {}
                Joining::Stored | Joining::ReadFirst => steps.push(Step::Joined(number)),
            }
        }
        if self.has(Flaw::Revives) && !session.holds() {
            steps.push(Step::Revives(number));
        }
        if self.has(Flaw::Resumes) && gateway.known.hold.is_some() && acknowledged {
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
        let Some(goal) = operator.goals.first() else { return };
        let next = operator.flip.next();
        let can = match &next {
            Next::Done(Done::Committed) => true,
            Next::Done(_) => world.holds < self.holds && world.mode.authority != *goal,
            Next::ReadMode => world.mode.authority != *goal,
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
        let drains = operator.draining.as_ref().map(|draining| &draining.mirroring);
        if let Some(Mirroring::Back(_)) = drains {
            if world.timeouts > 0 && drains.is_some_and(|mirroring| self.may_be_lost(mirroring)) {
                steps.push(Step::OperatorTimesOut(number));
            }
            if world.lapses > 0 && world.sessions[OPERATORS + number].holds() {
                steps.push(Step::OperatorStalls(number));
            }
        }
    }

    fn of_sweeper(world: &World, steps: &mut Vec<Step>) {
        let Some(sweeper) = &world.sweeper else { return };
        let known = sweeper.known;
        if known != world.mode {
            steps.push(Step::SweeperPolls);
        }
        if sweeper.run.is_some() || (known.hold.is_none() && world.sessions[SWEEPER].holds()) {
            steps.push(Step::SweeperGoes);
        }
        let acknowledged = world.sessions[SWEEPER].row.acknowledged == known.hold;
        if known.hold.is_some() && !acknowledged && sweeper.run.is_none() {
            steps.push(Step::SweeperAcknowledges);
        }
    }

    /// The steps of notes and requests whose senders do not wait.
    fn of_requests(&self, world: &World, steps: &mut Vec<Step>) {
        for (number, late) in world.late.iter().enumerate() {
            steps.push(Step::LateLands(number));
            // One of the mirror dies where its window ends.
            if !matches!(late, Late::Mirror { .. }) || !self.rules.note_first {
                steps.push(Step::LateDies(number));
            }
        }
        for (number, noted) in world.notes.iter().enumerate() {
            let left = !noted.at_work || !world.sessions[noted.owner].row.open;
            let of = Late::Mirror { expects: noted.expects, leaves: noted.leaves, owner: noted.owner };
            // Nobody but the server ends what is under way, or what a process may still send.
            let ends = !self.has(Flaw::EndsByClock) || !world.late.contains(&of);
            if self.ends && !noted.over && left && ends {
                steps.push(Step::WindowEnds(number));
            }
            if noted.over && left && world.mode.authority == Authority::Source {
                steps.push(Step::Drops(number));
            }
        }
    }
}

impl Model for Flips {
    type State = World;
    type Action = Step;

    fn init_states(&self) -> Vec<World> {
        let mode = Mode { authority: self.leaving, epoch: 0, hold: None };
        let gateway = Gateway::new(mode);
        let mut sessions = [Session::NEW; PROCESSES];
        sessions[SWEEPER].row.open = self.sweeper;
        for session in &mut sessions[OPERATORS..] {
            session.row.open = false;
        }
        let anchor = Anchor { holds: self.initial, pending: false, blob: Known::Equal(self.initial) };
        let [first, second] = self.goals;
        vec![World {
            blob: self.initial,
            anchor,
            notes: Vec::new(),
            mode,
            holds: 0,
            intents: [Intent::None; 2 * SCRIPT_MAX],
            sessions,
            gateways: [gateway.clone(), gateway],
            sweeper: self.sweeper.then_some(Sweeper { known: mode, run: None }),
            operators: [
                (!first.is_empty()).then(|| self.operator(first, false)),
                (!second.is_empty()).then(|| self.operator(second, true)),
            ],
            late: Vec::new(),
            begun: 0,
            told: 0,
            after: [0; 2 * SCRIPT_MAX],
            stale_read: false,
            foreign: false,
            crashes: self.crashes,
            timeouts: self.timeouts,
            failures: self.failures,
            lapses: self.lapses,
            kills: self.kills,
            cancels: self.cancels,
        }]
    }

    fn actions(&self, world: &World, steps: &mut Vec<Step>) {
        for (number, gateway) in world.gateways.iter().enumerate() {
            if gateway.crashed {
                if world.sessions[number].row.open && !gateway.unnoted {
                    steps.push(Step::Word(number));
                }
                continue;
            }
            self.of_write(world, number, steps);
            self.of_watch(world, number, steps);
        }
        Self::of_sweeper(world, steps);
        for number in 0..2 {
            self.of_operator(world, number, steps);
        }
        self.of_requests(world, steps);
    }

    fn next_state(&self, world: &World, step: Step) -> Option<World> {
        let mut next = world.clone();
        self.take(&mut next, step, &mut |_| {});
        (next != *world).then_some(next)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        let mut all = vec![
            Property::always(LOST, |model: &Self, world: &World| {
                let stale = world.stale(model.initial, |write| model.op(write).leaves());
                stale & world::bit(world.of_authority()) == 0
            }),
            Property::always(STALE, |_, world: &World| !world.stale_read),
            Property::always(DIVERGED, |_, world: &World| is_equal(world)),
            Property::always(FOREIGN, |_, world: &World| !world.foreign),
            Property::sometimes(COMMITS, |model: &Self, world: &World| {
                let spent =
                    [world.crashes, world.timeouts, world.failures, world.lapses, world.kills, world.cancels];
                let commits = model.goals[0].len().max(model.goals[1].len());
                spent == [0; 6] && usize::from(world.mode.epoch) >= commits && world.told != 0
            }),
        ];
        if self.other_plan {
            // What goes past the mirror is found by sweeps, once nobody writes so any more.
            all.retain(|property| property.name == LOST);
            all.push(Property::sometimes(REFUSED, |_, world: &World| {
                let mut flips = world.operators.iter().flatten().map(|operator| operator.flip.next());
                world.told != 0 && flips.any(|next| next == Next::Done(Done::OtherPlan))
            }));
        }
        all.retain(|property| self.only.is_none_or(|only| only == property.name));
        all
    }
}

/// Whether both sides are equal, where no row and nothing unnoted says otherwise.
fn is_equal(world: &World) -> bool {
    let over = world.gateways.iter().all(|gateway| gateway.crashed || gateway.idle())
        && world.intents == [Intent::None; 2 * SCRIPT_MAX]
        && world.notes.is_empty()
        && world.operators.iter().flatten().all(|operator| operator.draining.is_none())
        && !world.gateways.iter().any(|gateway| gateway.unnoted);
    !over || world.blob == world.anchor.holds && world.anchor.blob == Known::Equal(world.blob)
}

impl Telling for Flips {
    fn told(&self, path: &Path<World, Step>) -> (String, Vec<String>) {
        let mut lines = Vec::new();
        for (world, step) in path.clone().into_vec() {
            if let Some(step) = step {
                self.take(&mut world.clone(), step, &mut |line| lines.push(line.to_string()));
            }
        }
        let initial = mirror::name(self.initial);
        (format!("authority {}, {initial} on both sides", number_of(self.leaving)), lines)
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
