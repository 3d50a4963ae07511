//! What each step of gateways and sweeper does to a state.

use std::fmt::Arguments;

use migrate::protocol::Rules;
use migrate::protocol::converge::{Done, Purpose};
use migrate::protocol::gateway::{Admission, ReadFrom, admit, may_answer, read_from};
use migrate::protocol::intent::{Owner, Replay, Reply, Silence, Verdict, after_own, after_replay, replay};
use migrate::protocol::note::{Brings, may_send};
use migrate::protocol::phase::{Authority, Epoch};

use super::mirror::{finish, name, store};
use super::world::{
    Gateway, Held, Intent, Joining, Late, Mirroring, Op, Read, SWEEPER, Session, Who, Work, World,
};
use super::{Flaw, Flips, Step, number_of};
use crate::world::Rev;

/// Where lines of a trace go.
pub(super) type Tell<'a> = &'a mut dyn FnMut(Arguments<'_>);

impl Flips {
    pub(super) fn take(&self, world: &mut World, step: Step, tell: Tell<'_>) {
        match step {
            Step::Begins(number) => self.begins(world, number, tell),
            Step::Lands(number) => self.lands(world, number, tell),
            Step::Finishes(number) => self.finishes(world, number, tell),
            Step::TimesOut(number) => {
                tell(format_args!("G{}: request TIMES OUT", number + 1));
                world.timeouts -= 1;
                self.leaves(world, number, true);
            }
            Step::Replays(number, clears) => self.replays(world, number, clears, tell),
            Step::Mirrors(number) => self.mirrors(world, number, tell),
            Step::Returns(number) => {
                tell(format_args!("G{}: comes back to its mirror", number + 1));
                let authority = world.gateways[number].known.authority;
                let mirroring = Mirroring::of(authority, self.rules, Purpose::Intent);
                world.gateways[number].work = Work::Mirroring(mirroring);
            }
            Step::MirrorTimesOut(number) => {
                tell(format_args!("G{}: mirror request TIMES OUT", number + 1));
                world.timeouts -= 1;
                let mut work = std::mem::replace(&mut world.gateways[number].work, Work::No);
                if let Some(Mirroring::Back(back)) = work.mirroring_mut() {
                    self.goes_unanswered(world, back, number);
                    world.gateways[number].work = work;
                } else {
                    world.gateways[number].work = work;
                    self.leaves(world, number, true);
                }
            }
            Step::HeadFails(number) => {
                tell(format_args!("G{}: head FAILS", number + 1));
                world.failures -= 1;
                self.leaves(world, number, false);
            }
            Step::Leaves(number) => {
                tell(format_args!("G{}: leaves what it is at", number + 1));
                self.leaves(world, number, false);
            }
            Step::Polls(number) => {
                let mode = world.mode;
                let hold = mode.hold.unwrap_or(0);
                tell(format_args!(
                    "G{}: polls the mode: phase {} hold {hold}",
                    number + 1,
                    number_of(mode.authority)
                ));
                world.gateways[number].known = mode;
            }
            Step::Acknowledges(number) => {
                tell(format_args!("G{}: acknowledges the hold", number + 1));
                let hold = world.gateways[number].known.hold;
                let session = &mut world.sessions[number];
                // The row goes only where it is open; else the session is over.
                if session.row.open {
                    session.row.acknowledged = hold;
                } else {
                    session.learn_of_its_end();
                }
            }
            Step::Lapses(number) => {
                world.lapses -= 1;
                if self.brief {
                    tell(format_args!("G{}: can't reach the control table", number + 1));
                } else {
                    tell(format_args!("G{}: own lease runs out (partition or stall)", number + 1));
                    world.sessions[number].lapse();
                }
                world.gateways[number].reachable = !self.partition;
            }
            Step::Rejoins(number) => {
                tell(format_args!("G{}: reaches the control table again", number + 1));
                world.gateways[number].reachable = true;
                world.gateways[number].known = world.mode;
            }
            Step::Joins(number) => {
                let first = self.has(Flaw::ReadsModeFirst);
                let what = if first { "reads the mode" } else { "stores the row of a new session" };
                tell(format_args!("G{}: {what}", number + 1));
                world.gateways[number].known = world.mode;
                let free = world.mode.hold.is_none();
                let joining = if first { Joining::ReadFirst } else { Joining::Stored };
                world.gateways[number].joining = if first && !free { Joining::No } else { joining };
            }
            Step::Joined(number) => joined(world, number, tell),
            Step::Resumes(number) => {
                tell(format_args!("G{}: resumes after its own timer", number + 1));
                world.gateways[number].known.hold = None;
            }
            Step::Revives(number) => {
                tell(format_args!("G{}: registers again, reads the mode", number + 1));
                world.gateways[number].known = world.mode;
                let row = world.sessions[number].row;
                world.sessions[number] = Session::NEW;
                world.sessions[number].row.acknowledged = row.acknowledged;
            }
            Step::Crashes(number) => {
                tell(format_args!("G{}: CRASHES", number + 1));
                world.crashes -= 1;
                self.leaves(world, number, true);
                let gateway = &mut world.gateways[number];
                (gateway.crashed, gateway.read, gateway.joining) = (true, Read::Over, Joining::No);
                world.sessions[number].lapse();
            }
            Step::Cancels(number) => {
                tell(format_args!("G{}: cancels the hold", number + 1));
                world.cancels -= 1;
                world.mode.hold = None;
            }
            Step::ReadBegins(number) => self.read_begins(world, number, tell),
            Step::ReadReturns(number) => read_returns(world, number, tell),
            Step::Word(number) => {
                tell(format_args!("operator: G{} is stopped, ends its session", number + 1));
                world.sessions[number].end();
            }
            Step::SweeperPolls | Step::SweeperGoes | Step::SweeperAcknowledges => {
                self.sweeper_takes(world, step, tell);
            }
            Step::Operates(_)
            | Step::SeesSilence(_)
            | Step::IsOverdue(_)
            | Step::IsKilled(_)
            | Step::OperatorStalls(_)
            | Step::OperatorTimesOut(_) => self.operate(world, step, tell),
            Step::LateLands(number) => {
                let late = world.late.remove(number);
                self.late_lands(world, late, tell);
            }
            Step::LateDies(number) => {
                tell(format_args!("a late request dies"));
                world.late.remove(number);
            }
            Step::WindowEnds(number) => self.window_ends(world, number, tell),
            Step::Drops(number) => {
                tell(format_args!("a note goes: its request can't land any more"));
                world.notes.remove(number);
            }
        }
        world.late.sort_unstable();
    }

    /// A request can't be applied any more: the server refuses it from now on.
    fn window_ends(&self, world: &mut World, number: usize, tell: Tell<'_>) {
        let noted = world.notes[number];
        tell(format_args!("the window of the write if {} ends", name(noted.expects)));
        world.notes[number].over = true;
        let of = Late::Mirror { expects: noted.expects, leaves: noted.leaves, owner: noted.owner };
        let late = world.late.iter().position(|late| *late == of);
        late.map(|number| world.late.remove(number));
        world.notes.sort_unstable();
    }

    /// Whether a gateway lets its write in, and whether an intent is stored first.
    pub(super) fn admits(&self, world: &World, number: Who) -> Option<bool> {
        match admit(world.gateways[number].view(&world.sessions[number])) {
            Admission::Noted => Some(true),
            Admission::Unnoted => Some(false),
            Admission::Wait | Admission::Refuse => None,
        }
    }

    fn answers(&self, world: &World, number: Who, epoch: u8) -> bool {
        let view = world.gateways[number].view(&world.sessions[number]);
        // A new session begins only where nothing of the old one is under way.
        self.has(Flaw::AnswersUnchecked) || may_answer(true, Epoch(u64::from(epoch)), view)
    }

    /// The number of the write that a gateway is at, or will be at next.
    pub(super) fn current(&self, world: &World, number: Who) -> usize {
        number * super::world::SCRIPT_MAX + usize::from(world.gateways[number].written)
    }

    fn begins(&self, world: &mut World, number: usize, tell: Tell<'_>) {
        let write = self.current(world, number);
        if self.has_other_plan(number) {
            let leaves = self.op(write).leaves();
            tell(format_args!("G2: w{} = {} is not mapped, goes to Blob", write + 1, name(leaves)));
            tell(format_args!("G2: ACKS w{}", write + 1));
            world.blob = leaves;
            world.begun |= 1 << write;
            world.after[write] = world.told;
            world.told |= 1 << write;
            world.gateways[number].written += 1;
            return;
        }
        let Some(noted) = self.admits(world, number) else { return };
        let Mode { authority, epoch } = Mode::of(&world.gateways[number]);
        tell(format_args!(
            "G{}: accepts w{} = {} (authority {})",
            number + 1,
            write + 1,
            name(self.op(write).leaves()),
            number_of(authority)
        ));
        if authority == Authority::Source && !self.may_send(world, self.op(write)) {
            tell(format_args!("G{}: refuses it: it would bring back what a request expects", number + 1));
            world.gateways[number].written += 1;
            return;
        }
        if noted {
            tell(format_args!("G{}: intent stored", number + 1));
            world.intents[write] = Intent::Working { unconditional: authority == Authority::Source };
        } else {
            world.gateways[number].unnoted = true;
            world.sessions[number].row.gap = true;
        }
        world.gateways[number].work = Work::Sent { authority, epoch, noted, rev: Rev::Present };
        world.begun |= 1 << write;
        world.after[write] = world.told;
        // Whoever reads from now on may see it.
        let leaves = self.op(write).leaves();
        for gateway in &mut world.gateways {
            if let Read::Begun { stale, .. } = &mut gateway.read {
                *stale &= !super::world::bit(leaves);
            }
        }
    }

    fn may_send(&self, world: &World, op: Op) -> bool {
        let brings = match op {
            Op::Copy(_) if self.has(Flaw::CopiesUnjudged) => return true,
            Op::Copy(_) => Brings::Unknown,
            _ => op.leaves().map_or(Brings::Absence, Brings::Content),
        };
        may_send(self.rules, &brings, &world.read_notes(|noted| !noted.over), |etag, content| etag == content)
    }

    fn lands(&self, world: &mut World, number: usize, tell: Tell<'_>) {
        let Work::Sent { authority, epoch, noted, rev } = world.gateways[number].work else { return };
        let write = self.current(world, number);
        let op = self.op(write);
        let there = world.of(authority).is_some();
        if matches!(op, Op::Create(_)) && there {
            tell(format_args!("G{}: w{} is refused: something is there", number + 1, write + 1));
            world.begun &= !(1 << write);
            self.over(world, number, noted.then_some(authority), None);
            return;
        }
        match (authority, rev) {
            (Authority::Source, _) => {
                tell(format_args!("G{}: Blob write w{} lands", number + 1, write + 1));
                world.blob = op.leaves();
            }
            (Authority::Target, Rev::Present) => {
                tell(format_args!("G{}: DynamoDB write w{} lands", number + 1, write + 1));
                store(world, Some(op.leaves()), matches!(op, Op::Large(_)), false);
            }
            (Authority::Target, _) => {
                tell(format_args!("G{}: DynamoDB write w{} is refused, looks again", number + 1, write + 1));
                world.gateways[number].work = Work::Sent { authority, epoch, noted, rev: Rev::Present };
                return;
            }
        }
        let answers = self.answers(world, number, epoch);
        if answers {
            tell(format_args!("G{}: ACKS w{}", number + 1, write + 1));
            world.told |= 1 << write;
            // Whatever lands of the attempt before it is no other write.
            world.told |= if matches!(op, Op::Again(_)) { 1 << (write - 1) } else { 0 };
        }
        if world.anchor.pending && authority == Authority::Target {
            world.gateways[number].work = Work::Finishing { rev: Rev::Present };
            return;
        }
        self.over(world, number, noted.then_some(authority), Some(answers));
    }

    /// What follows a write: its mirror, where it has an intent.
    fn over(&self, world: &mut World, number: Who, noted: Option<Authority>, answers: Option<bool>) {
        match (noted, answers) {
            (Some(authority), Some(true) | None) => {
                let mirroring = Mirroring::of(authority, self.rules, Purpose::Intent);
                world.gateways[number].work = Work::Mirroring(mirroring);
            }
            (Some(_), Some(false)) => self.leaves(world, number, false),
            (None, _) => world.gateways[number].done(),
        }
    }

    /// The second half of a change of several transactions.
    fn finishes(&self, world: &mut World, number: usize, tell: Tell<'_>) {
        let Work::Finishing { rev } = world.gateways[number].work else { return };
        if rev == Rev::Present {
            tell(format_args!("G{}: the change is complete", number + 1));
            // Its own writer knows what it is to say.
            finish(world, Rules::SOUND);
        }
        let authority = Authority::Target;
        world.gateways[number].work = Work::Mirroring(Mirroring::of(authority, self.rules, Purpose::Intent));
    }

    /// Begins to converge for rows that are in doubt: with `clears`, for those whose requests have landed or died.
    fn replays(&self, world: &mut World, number: usize, clears: bool, tell: Tell<'_>) {
        tell(format_args!("G{}: {}replays", number + 1, if clears { "has waited, " } else { "" }));
        let mut intents = 0;
        for write in (0..world.intents.len()).filter(|_| clears) {
            let due = self.replayable(world, write) == Replay::ConvergeAndClear;
            intents |= if due { 1 << write } else { 0 };
        }
        for noted in world.notes.iter_mut().filter(|noted| clears && noted.over) {
            noted.due |= 1 << number;
        }
        let authority = world.gateways[number].known.authority;
        let mirroring = Mirroring::of(authority, self.rules, Purpose::Intent);
        world.gateways[number].work = Work::Replaying { intents, mirroring };
    }

    fn mirrors(&self, world: &mut World, number: usize, tell: Tell<'_>) {
        let mut work = std::mem::replace(&mut world.gateways[number].work, Work::No);
        let Some(mirroring) = work.mirroring_mut() else { return };
        let who = format!("G{}", number + 1);
        let done = self.mirror(world, mirroring, Purpose::Intent, (number, &who), tell);
        let Some(done) = done else {
            world.gateways[number].work = work;
            return;
        };
        self.mirrored(world, number, work, done, tell);
    }

    /// What becomes of the rows for which a mirror was made equal.
    fn mirrored(&self, world: &mut World, number: Who, work: Work, done: Done, tell: Tell<'_>) {
        let who = number + 1;
        match work {
            Work::Replaying { intents, .. } => {
                if after_replay(Replay::ConvergeAndClear, done) == Verdict::Clear {
                    tell(format_args!("G{who}: clears the rows that were over"));
                    for write in (0..world.intents.len()).filter(|write| intents & (1 << write) != 0) {
                        world.intents[write] = Intent::None;
                    }
                    world.notes.retain(|noted| noted.due & (1 << number) == 0);
                }
                not_due(world, number);
            }
            _ => {
                let write = self.current(world, number);
                if after_own(Reply::Seen, done) == Verdict::Clear {
                    tell(format_args!("G{who}: clears the intent"));
                    world.intents[write] = Intent::None;
                } else {
                    in_doubt(&mut world.intents[write]);
                }
                world.gateways[number].done();
            }
        }
    }

    /// The gateway is not at it any more. What it has sent may land; where it is `cut` short, what it has noted and
    /// not sent stays, too.
    fn leaves(&self, world: &mut World, number: Who, cut: bool) {
        let write = self.current(world, number);
        let mut work = std::mem::replace(&mut world.gateways[number].work, Work::No);
        match &mut work {
            Work::No => return,
            Work::Away => {}
            Work::Sent { authority: Authority::Source, .. } => world.late.push(Late::Blob { write }),
            Work::Sent { rev: Rev::Present, .. } => {
                let op = self.op(write);
                let large = matches!(op, Op::Large(_));
                world.late.push(Late::Target { holds: Some(op.leaves()), large, from_blob: false });
            }
            Work::Finishing { rev: Rev::Present } => world.late.push(Late::Finish),
            Work::Sent { .. } | Work::Finishing { .. } => {}
            Work::Mirroring(mirroring) | Work::Replaying { mirroring, .. } => {
                self.leaves_mirror(world, mirroring, number, cut);
            }
        }
        if let Work::Replaying { .. } = work {
            return not_due(world, number);
        }
        let held = world.gateways[number].known.hold.is_some() && world.sessions[number].holds();
        if held && !cut && matches!(work, Work::Mirroring(_)) {
            world.gateways[number].work = Work::Away;
            return;
        }
        in_doubt(&mut world.intents[write]);
        world.gateways[number].done();
    }

    /// The same of a converge.
    pub(super) fn leaves_mirror(&self, world: &mut World, mirroring: &mut Mirroring, who: Who, cut: bool) {
        if let (Mirroring::Back(back), false) = (&mut *mirroring, cut) {
            let under_way = matches!(back.machine.next(), migrate::protocol::reverse::Next::Write { .. });
            if !under_way {
                back.machine.stop(false);
                while !matches!(back.machine.next(), migrate::protocol::reverse::Next::Done(_)) {
                    let mirror = &mut Mirroring::Back(back.clone());
                    self.mirror(world, mirror, Purpose::Intent, (who, ""), &mut |_| {});
                    let Mirroring::Back(next) = mirror else { return };
                    *back = next.clone();
                }
                world.leave_note(who);
                return;
            }
        }
        self.orphan_mirror(world, mirroring, Purpose::Intent, who);
    }

    fn read_begins(&self, world: &mut World, number: usize, tell: Tell<'_>) {
        let stale = world.stale(self.initial, |write| self.op(write).leaves());
        let mode = world.mode;
        let session = world.sessions[number];
        let gateway = &mut world.gateways[number];
        let hold = gateway.known.hold.is_some() && !self.has(Flaw::ReadsByHeld);
        let mut from = read_from(gateway.view(&session), hold);
        if from == ReadFrom::AskMode {
            if !gateway.reachable {
                return;
            }
            gateway.known = mode;
            from = read_from(gateway.view(&session), false);
        }
        let authority = match from {
            ReadFrom::Authority(authority) => authority,
            _ if self.has(Flaw::ReadsUnchecked) => gateway.known.authority,
            ReadFrom::AskMode | ReadFrom::Refuse => return,
        };
        tell(format_args!("G{}: a read starts (phase {})", number + 1, number_of(authority)));
        gateway.read = Read::Begun { authority, stale };
    }

    /// What a gateway may do about the intent of a write that is not its own business.
    pub(super) fn replayable(&self, world: &World, write: usize) -> Replay {
        let waited = if world.may_change() { Silence::Short } else { Silence::Full };
        let owner = match world.intents[write] {
            Intent::InDoubt { .. } => Owner::GaveUp,
            Intent::Working { .. } if !world.sessions[World::owner_of(write)].row.open => Owner::Ended,
            Intent::None | Intent::Working { .. } => Owner::Working,
        };
        replay(owner, waited)
    }

    fn sweeper_takes(&self, world: &mut World, step: Step, tell: Tell<'_>) {
        let Some(mut sweeper) = world.sweeper.take() else { return };
        match step {
            Step::SweeperPolls => {
                tell(format_args!("SW: polls the mode"));
                sweeper.known = world.mode;
            }
            Step::SweeperAcknowledges => {
                tell(format_args!("SW: acknowledges the hold"));
                world.sessions[SWEEPER].row.acknowledged = sweeper.known.hold;
            }
            _ => {
                let begun = || Mirroring::of(sweeper.known.authority, self.rules, Purpose::Reconcile);
                let mut run = sweeper.run.take().unwrap_or_else(begun);
                let done = self.mirror(world, &mut run, Purpose::Reconcile, (SWEEPER, "SW"), tell);
                sweeper.run = done.is_none().then_some(run);
            }
        }
        world.sweeper = Some(sweeper);
    }
}

/// The mode that counts for a write.
struct Mode {
    authority: Authority,
    epoch: u8,
}

impl Mode {
    const fn of(gateway: &Gateway) -> Self {
        Self { authority: gateway.known.authority, epoch: gateway.known.epoch }
    }
}

impl Gateway {
    /// Its write is behind it.
    const fn done(&mut self) {
        self.work = Work::No;
        self.written += 1;
    }
}

impl World {
    const fn of(&self, authority: Authority) -> Held {
        match authority {
            Authority::Source => self.blob,
            Authority::Target => self.anchor.holds,
        }
    }
}

/// A gateway does not replay notes any more.
fn not_due(world: &mut World, number: Who) {
    world.notes.iter_mut().for_each(|noted| noted.due &= !(1 << number));
}

/// Nobody is at it any more; the intent stays.
const fn in_doubt(intent: &mut Intent) {
    if let Intent::Working { unconditional } = *intent {
        *intent = Intent::InDoubt { unconditional };
    }
}

/// The second half of opening a session: reads the mode, and goes on under the new session where it may.
fn joined(world: &mut World, number: usize, tell: Tell<'_>) {
    let mode = world.mode;
    // What it left under the session before is left to the replay.
    if matches!(world.gateways[number].work, Work::Away) {
        let write = number * super::world::SCRIPT_MAX + usize::from(world.gateways[number].written);
        in_doubt(&mut world.intents[write]);
        world.gateways[number].done();
    }
    let gateway = &mut world.gateways[number];
    if gateway.joining == Joining::Stored {
        gateway.known = mode;
        if mode.hold.is_some() {
            tell(format_args!("G{}: finds a hold, gives the new session up", number + 1));
            gateway.joining = Joining::No;
            return;
        }
    }
    tell(format_args!("G{}: opens a new session (phase {})", number + 1, number_of(gateway.known.authority)));
    gateway.joining = Joining::No;
    world.sessions[number] = Session::NEW;
    if std::mem::take(&mut gateway.unnoted) {
        let write = number * super::world::SCRIPT_MAX + usize::from(gateway.written.saturating_sub(1));
        world.intents[write] = Intent::InDoubt { unconditional: true };
    }
}

fn read_returns(world: &mut World, number: usize, tell: Tell<'_>) {
    let Read::Begun { authority, stale } = world.gateways[number].read else { return };
    let held = world.of(authority);
    tell(format_args!("G{}: the read returns {}", number + 1, name(held)));
    world.stale_read |= stale & super::world::bit(held) != 0;
    world.gateways[number].read = Read::Over;
}
