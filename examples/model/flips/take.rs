//! What each step of gateways and sweeper does to a state.

use std::fmt::Arguments;
use std::time::Duration;

use migrate::protocol::converge::{Change, Done, Next, Purpose};
use migrate::protocol::gateway::{Admission, ReadFrom, admit, may_answer, read_from};
use migrate::protocol::intent::{Replay, Reply, Verdict, after_own, after_replay};
use migrate::protocol::phase::{Authority, Epoch};

use super::world::{
    BackNext, Gateway, Intent, Joining, Late, Mirroring, Read, Row, Run, Told, World, Write, fresh_lease,
};
use super::{Flaw, Flips, Step, number_of};
use crate::world::Rev;

/// Where lines of a trace go.
pub(super) type Tell<'a> = &'a mut dyn FnMut(Arguments<'_>);

impl Flips {
    pub(super) fn take(&self, world: &mut World, step: Step, tell: Tell<'_>) {
        match step {
            Step::Begins(number) => self.begins(world, number, tell),
            Step::ReadsAnchor(number) => {
                tell(format_args!("G{}: reads the item", number + 1));
                if let Write::Sent { seen, .. } = &mut world.gateways[number].write {
                    *seen = Some(Rev::Present);
                }
            }
            Step::Lands(number) => self.lands(world, number, tell),
            Step::TimesOut(number) => {
                tell(format_args!("G{}: request TIMES OUT", number + 1));
                world.timeouts -= 1;
                self.orphan(world, number);
                in_doubt(world, number);
            }
            Step::Replays(number, intent) => {
                tell(format_args!("G{}: has waited, replays w{}", number + 1, intent + 1));
                if self.flaw != Flaw::ReplaysTogether {
                    (world.owners[intent], world.intents[intent]) = (number, Intent::Working);
                }
                let mirroring = Mirroring::of(world.gateways[number].known.authority);
                world.gateways[number].write = Write::Replaying(intent, mirroring);
            }
            Step::Mirrors(number) => self.mirrors(world, number, tell),
            Step::MirrorTimesOut(number) => {
                tell(format_args!("G{}: mirror request TIMES OUT", number + 1));
                world.timeouts -= 1;
                self.orphan(world, number);
                in_doubt(world, number);
            }
            Step::Leaves(number) => {
                tell(format_args!("G{}: leaves the intent", number + 1));
                self.orphan(world, number);
                in_doubt(world, number);
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
                let gateway = &mut world.gateways[number];
                tell(format_args!("G{}: acknowledges the hold", number + 1));
                // The row goes only where it is open; else the session is over.
                if gateway.row.open {
                    gateway.row.acknowledged = gateway.known.hold;
                } else {
                    gateway.lease.end();
                }
            }
            Step::Lapses(number) => {
                world.lapses -= 1;
                if self.brief {
                    tell(format_args!("G{}: can't reach the control table", number + 1));
                } else {
                    tell(format_args!("G{}: own lease runs out (partition or stall)", number + 1));
                    world.gateways[number].lapse();
                }
                world.gateways[number].reachable = !self.partition;
            }
            Step::Rejoins(number) => {
                tell(format_args!("G{}: reaches the control table again", number + 1));
                world.gateways[number].reachable = true;
                world.gateways[number].known = world.mode;
            }
            Step::Joins(number) => {
                let first = self.flaw == Flaw::ReadsModeFirst;
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
                let known = world.mode;
                let gateway = &mut world.gateways[number];
                (gateway.known, gateway.lease) = (known, fresh_lease());
                gateway.row = Row { open: true, unclean: false, ..gateway.row };
            }
            Step::Crashes(number) => {
                tell(format_args!("G{}: CRASHES", number + 1));
                world.crashes -= 1;
                self.orphan(world, number);
                let write = world.gateways[number].write;
                in_doubt(world, number);
                let gateway = &mut world.gateways[number];
                (gateway.crashed, gateway.read, gateway.joining) = (true, Read::Over, Joining::No);
                gateway.lapse();
                if write == Write::NotBegun {
                    gateway.write = write;
                }
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
                let row = &mut world.gateways[number].row;
                (row.open, row.unclean) = (false, true);
            }
            Step::SweeperPolls | Step::SweeperGoes | Step::SweeperAcknowledges => {
                self.sweeper_takes(world, step, tell);
            }
            Step::Operates(_) | Step::SeesSilence(_) | Step::IsOverdue(_) | Step::IsKilled(_) => {
                self.operate(world, step, tell);
            }
            Step::LateLands(number) => {
                let late = world.late.remove(number);
                self.late_lands(world, late, tell);
            }
            Step::LateDies(number) => {
                tell(format_args!("a late request dies"));
                world.late.remove(number);
            }
        }
        world.late.sort_unstable_by_key(|late| format!("{late:?}"));
    }

    /// Whether a gateway lets its write in, and whether an intent is stored first.
    pub(super) fn admits(&self, gateway: &Gateway) -> Option<bool> {
        match admit(gateway.view()) {
            Admission::Noted => Some(true),
            Admission::Unnoted => Some(false),
            Admission::Wait | Admission::Refuse => None,
        }
    }

    fn answers(&self, gateway: &Gateway, epoch: u8) -> bool {
        // A new session begins only where nothing of the old one is under way.
        self.flaw == Flaw::AnswersUnchecked || may_answer(true, Epoch(u64::from(epoch)), gateway.view())
    }

    fn begins(&self, world: &mut World, number: usize, tell: Tell<'_>) {
        let gateway = &mut world.gateways[number];
        let Some(noted) = self.admits(gateway) else { return };
        let (authority, epoch) = (gateway.known.authority, gateway.known.epoch);
        tell(format_args!("G{}: accepts w{} (authority {})", number + 1, number + 1, number_of(authority)));
        if noted {
            tell(format_args!("G{}: intent stored", number + 1));
            world.intents[number] = Intent::Working;
        } else {
            gateway.unnoted = true;
            gateway.row.gap = true;
        }
        gateway.write = Write::Sent { authority, epoch, noted, seen: None };
        world.after_other[number] = world.told[1 - number] == Told::Success;
        // Whoever reads from now on may see it.
        for gateway in &mut world.gateways {
            if let Read::Begun { stale, .. } = &mut gateway.read {
                *stale &= !(1 << self.content(number));
            }
        }
    }

    fn lands(&self, world: &mut World, number: usize, tell: Tell<'_>) {
        let Write::Sent { authority, epoch, noted, seen } = world.gateways[number].write else { return };
        let content = self.content(number);
        match (authority, seen) {
            (Authority::Source, _) => {
                tell(format_args!("G{}: Blob write w{} lands", number + 1, number + 1));
                world.blob = content;
            }
            (Authority::Target, Some(Rev::Present)) => {
                tell(format_args!("G{}: DynamoDB write w{} lands", number + 1, number + 1));
                world.item = content;
                world.age();
            }
            (Authority::Target, _) => {
                tell(format_args!("G{}: DynamoDB write w{} is refused", number + 1, number + 1));
                world.gateways[number].write = Write::Sent { authority, epoch, noted, seen: None };
                return;
            }
        }
        let gateway = &mut world.gateways[number];
        let answers = self.answers(gateway, epoch);
        if answers {
            tell(format_args!("G{}: ACKS w{}", number + 1, number + 1));
            world.told[number] = Told::Success;
        }
        if !noted {
            gateway.write = Write::Over;
        } else if answers {
            gateway.write = Write::Mirroring(Mirroring::of(authority));
        } else {
            in_doubt(world, number);
        }
    }

    /// Whether its next step is a request that changes something.
    pub(super) fn sends(&self, mirroring: &Mirroring) -> bool {
        match mirroring {
            Mirroring::Forward(run) => matches!(run.next(self.rules, Purpose::Intent), Next::Write { .. }),
            Mirroring::Back(back) => matches!(back.next(self.second_look()), BackNext::Put { .. }),
        }
    }

    fn second_look(&self) -> bool {
        self.flaw != Flaw::NoSecondLook
    }

    fn mirrors(&self, world: &mut World, number: usize, tell: Tell<'_>) {
        let write = world.gateways[number].write;
        let (Write::Mirroring(mut mirroring) | Write::Replaying(_, mut mirroring)) = write else { return };
        let who = format!("G{}", number + 1);
        let done = self.mirror(world, &mut mirroring, &who, tell);
        let Some(done) = done else {
            world.gateways[number].write = match write {
                Write::Replaying(intent, _) => Write::Replaying(intent, mirroring),
                _ => Write::Mirroring(mirroring),
            };
            return;
        };
        let (intent, verdict) = match write {
            // It began after everything had landed or died.
            Write::Replaying(intent, _) => (intent, after_replay(Replay::ConvergeAndClear, done)),
            _ => (number, after_own(Reply::Seen, done)),
        };
        if verdict == Verdict::Clear {
            tell(format_args!(
                "{who}: clears the intent{}",
                if intent == number { "" } else { " of the other" }
            ));
            world.intents[intent] = Intent::None;
        }
        world.gateways[number].write = Write::Over;
    }

    /// The next thing that a converge does, in either direction; how it ended, once it is over.
    pub(super) fn mirror(
        &self,
        world: &mut World,
        mirroring: &mut Mirroring,
        who: &str,
        tell: Tell<'_>,
    ) -> Option<Done> {
        match mirroring {
            Mirroring::Forward(run) => self.forward(world, run, Purpose::Intent, who, tell),
            Mirroring::Back(back) => {
                match back.next(self.second_look()) {
                    BackNext::LookAtBlob => {
                        tell(format_args!("{who}: looks at the mirror"));
                        back.head = Some(world.blob);
                    }
                    BackNext::LookAtAnchor => {
                        back.anchor = Some((world.item, Rev::Present));
                        let equal = back.head == Some(world.item);
                        tell(format_args!(
                            "{who}: looks at the item{}",
                            if equal { ": mirror equal" } else { "" }
                        ));
                    }
                    BackNext::Put { content, if_match } if world.blob == if_match => {
                        tell(format_args!("{who}: Blob write {content} lands"));
                        world.blob = content;
                        back.landed = true;
                    }
                    BackNext::Put { .. } => {
                        tell(format_args!("{who}: Blob write is refused"));
                        *back = Default::default();
                    }
                    BackNext::LookAgain => {
                        let same = back.anchor.is_some_and(|(_, rev)| rev == Rev::Present);
                        tell(format_args!("{who}: second look: {}", if same { "same" } else { "another" }));
                        if same {
                            return Some(Done::Written);
                        }
                        *back = Default::default();
                    }
                    BackNext::Done => return Some(Done::Written),
                }
                (back.next(self.second_look()) == BackNext::Done).then_some(Done::Equal)
            }
        }
    }

    fn forward(
        &self,
        world: &mut World,
        run: &mut Run,
        purpose: Purpose,
        who: &str,
        tell: Tell<'_>,
    ) -> Option<Done> {
        match run.next(self.rules, purpose) {
            Next::ReadMirror => {
                tell(format_args!("{who}: looks at the mirror"));
                run.mirror = Some((world.item, Rev::Present));
            }
            Next::ReadAuthority => {
                tell(format_args!("{who}: looks at Blob"));
                run.authority = Some(world.blob);
            }
            Next::Write { change, expected } => {
                if expected == Some(Rev::Present) {
                    if let Change::Hold(content) = change {
                        world.item = content;
                    }
                    tell(format_args!("{who}: mirror write lands, item {}", world.item));
                    world.age();
                    return Some(Done::Written);
                }
                tell(format_args!("{who}: mirror write is refused"));
                *run = Run::default();
            }
            Next::Done(done) => return Some(done),
            Next::Begin { .. } | Next::Part { .. } | Next::Finish { .. } => {}
        }
        match run.next(self.rules, purpose) {
            Next::Done(done) => {
                tell(format_args!("{who}: mirror equal"));
                Some(done)
            }
            _ => None,
        }
    }

    /// Nobody waits any more for what the gateway has sent.
    fn orphan(&self, world: &mut World, number: usize) {
        let late = match world.gateways[number].write {
            Write::Sent { authority: Authority::Source, .. } => Some(Late::Blob { write: number }),
            Write::Sent { seen: Some(Rev::Present), .. } => {
                Some(Late::Target { content: Some(self.content(number)) })
            }
            Write::Mirroring(mirroring) | Write::Replaying(_, mirroring) => self.request_of(mirroring),
            Write::Sent { .. } | Write::NotBegun | Write::Over => None,
        };
        world.late.extend(late);
    }

    /// The request of a converge that is under way, if it can still be applied.
    pub(super) fn request_of(&self, mirroring: Mirroring) -> Option<Late> {
        match mirroring {
            Mirroring::Forward(run) => match run.next(self.rules, Purpose::Intent) {
                Next::Write { change: Change::Hold(content), expected: Some(Rev::Present) } => {
                    Some(Late::Target { content: Some(content) })
                }
                Next::Write { expected: Some(Rev::Present), .. } => Some(Late::Target { content: None }),
                _ => None,
            },
            Mirroring::Back(back) => match back.next(self.second_look()) {
                BackNext::Put { content, if_match } => Some(Late::MirrorPut { content, if_match }),
                _ => None,
            },
        }
    }

    fn late_lands(&self, world: &mut World, late: Late, tell: Tell<'_>) {
        match late {
            Late::Blob { write } => {
                tell(format_args!("late Blob write w{} LANDS", write + 1));
                world.blob = self.content(write);
            }
            Late::MirrorPut { content, if_match } => {
                if world.blob == if_match {
                    tell(format_args!("late mirror put {content} LANDS"));
                    world.blob = content;
                }
            }
            Late::Target { content } => {
                tell(format_args!("late DynamoDB write LANDS"));
                world.item = content.unwrap_or(world.item);
                world.age();
            }
        }
    }

    fn read_begins(&self, world: &mut World, number: usize, tell: Tell<'_>) {
        let stale = world.stale(|write| self.content(write));
        let mode = world.mode;
        let gateway = &mut world.gateways[number];
        let mut from =
            read_from(gateway.view(), gateway.known.hold.is_some() && self.flaw != Flaw::ReadsByHeld);
        if from == ReadFrom::AskMode {
            if !gateway.reachable {
                return;
            }
            gateway.known = mode;
            from = read_from(gateway.view(), false);
        }
        let authority = match from {
            ReadFrom::Authority(authority) => authority,
            _ if self.flaw == Flaw::ReadsUnchecked => gateway.known.authority,
            ReadFrom::AskMode | ReadFrom::Refuse => return,
        };
        tell(format_args!("G{}: a read starts (phase {})", number + 1, number_of(authority)));
        gateway.read = Read::Begun { authority, stale };
    }

    fn sweeper_takes(&self, world: &mut World, step: Step, tell: Tell<'_>) {
        let Some(mut sweeper) = world.sweeper else { return };
        match step {
            Step::SweeperPolls => {
                tell(format_args!("SW: polls the mode"));
                sweeper.known = world.mode;
            }
            Step::SweeperAcknowledges => {
                tell(format_args!("SW: acknowledges the hold"));
                sweeper.row.acknowledged = sweeper.known.hold;
            }
            _ => {
                let mut run = sweeper.run.unwrap_or_default();
                // What it sees ages with the anchor.
                world.sweeper = Some(sweeper);
                let done = self.forward(world, &mut run, Purpose::Reconcile, "SW", tell);
                sweeper.run = done.is_none().then_some(run);
            }
        }
        world.sweeper = Some(sweeper);
    }
}

/// The gateway is not at its write any more; the intent stays.
fn in_doubt(world: &mut World, number: usize) {
    let intent = match world.gateways[number].write {
        Write::Replaying(intent, _) => intent,
        _ => number,
    };
    world.gateways[number].write = Write::Over;
    if world.intents[intent] == Intent::Working && world.owners[intent] == number {
        world.intents[intent] = Intent::InDoubt;
    }
}

/// The second half of opening a session: reads the mode, and goes on under the new session where it may.
fn joined(world: &mut World, number: usize, tell: Tell<'_>) {
    let mode = world.mode;
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
    (gateway.row, gateway.lease) = (Row::NEW, fresh_lease());
    debug_assert!(gateway.lease.holds(Duration::ZERO));
    if std::mem::take(&mut gateway.unnoted) {
        world.intents[number] = Intent::InDoubt;
    }
}

fn read_returns(world: &mut World, number: usize, tell: Tell<'_>) {
    let Read::Begun { authority, stale } = world.gateways[number].read else { return };
    let content = match authority {
        Authority::Source => world.blob,
        Authority::Target => world.item,
    };
    tell(format_args!("G{}: the read returns {content}", number + 1));
    world.stale_read |= stale & (1 << content) != 0;
    world.gateways[number].read = Read::Over;
}
