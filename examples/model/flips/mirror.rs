//! What each step of a converge does to a state, in either direction: the production machines say which.

use migrate::protocol::Rules;
use migrate::protocol::converge::{Change, Done, Next, Purpose};
use migrate::protocol::note::whose;
use migrate::protocol::reverse::{Content as Whose, Ending, Known, Next as BackNext, Permission, Sent};

use super::take::Tell;
use super::world::{Anchor, Back, Held, Late, Mirroring, Noted, Run, Who, World};
use super::{Flaw, Flips};
use crate::world::Rev;

/// What is under a pathname, in a trace.
pub(super) fn name(held: Held) -> String {
    held.map_or_else(|| "-".to_owned(), |content| content.to_string())
}

impl Flips {
    /// The next thing that a converge does; how it ended, once it is over.
    pub(super) fn mirror(
        &self,
        world: &mut World,
        mirroring: &mut Mirroring,
        purpose: Purpose,
        who: (Who, &str),
        tell: Tell<'_>,
    ) -> Option<Done> {
        match mirroring {
            Mirroring::Forward(run) => self.forward(world, run, purpose, who.1, tell),
            Mirroring::Back(back) => {
                self.back(world, back, who, tell);
                self.ended(world, back, who, tell)
            }
        }
    }

    /// How a converge towards Blob ended, as far as its rows are concerned.
    pub(super) fn ended(
        &self,
        world: &mut World,
        back: &Back,
        who: (Who, &str),
        tell: Tell<'_>,
    ) -> Option<Done> {
        let BackNext::Done(ending) = back.machine.next() else { return None };
        world.leave_note(who.0);
        Some(match ending {
            Ending::Equal => {
                tell(format_args!("{}: mirror equal", who.1));
                Done::Equal
            }
            Ending::Written => Done::Written,
            // It is kept, and no row changes that.
            Ending::Foreign { etag } => {
                tell(format_args!("{}: mirror {etag} is FOREIGN, kept", who.1));
                world.foreign = true;
                Done::Written
            }
            Ending::GaveUp => Done::GaveUp,
        })
    }

    /// Whether its next step is a request that may get no answer here.
    pub(super) fn may_be_lost(&self, mirroring: &Mirroring) -> bool {
        match mirroring {
            Mirroring::Forward(run) => matches!(run.next(self.rules, Purpose::Intent), Next::Write { .. }),
            Mirroring::Back(Back { machine, .. }) => match machine.next() {
                BackNext::Write { .. } => true,
                BackNext::Note { .. } | BackNext::Record { .. } | BackNext::Withdraw { .. } => self.any_lost,
                _ => false,
            },
        }
    }

    /// Whether its next step asks Blob something, which may fail.
    pub(super) fn asks_blob(mirroring: &Mirroring) -> bool {
        matches!(mirroring, Mirroring::Back(Back { machine, .. }) if matches!(machine.next(), BackNext::ReadMirror | BackNext::Compare { .. }))
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
                run.look(&world.anchor);
            }
            Next::ReadAuthority => {
                tell(format_args!("{who}: looks at Blob"));
                run.authority = Some(world.blob);
            }
            Next::Write { change, expected } => {
                if expected == Some(Rev::Present) {
                    changed(world, &change);
                    tell(format_args!("{who}: mirror write lands, item {}", name(world.anchor.holds)));
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

    /// One step towards Blob.
    fn back(&self, world: &mut World, back: &mut Back, (who, called): (Who, &str), tell: Tell<'_>) {
        let Back { machine, holds, .. } = back;
        match machine.next() {
            BackNext::ReadMirror => {
                tell(format_args!("{called}: head Blob = {}", name(world.blob)));
                machine.mirror(world.blob);
            }
            BackNext::ReadAuthority => {
                tell(format_args!("{called}: looks at the anchor: {}", name(world.anchor.holds)));
                *holds = world.anchor.holds;
                machine.authority(world.anchor.seen());
            }
            BackNext::Finish => {
                tell(format_args!("{called}: ends the change that is pending"));
                finish(world, self.rules);
                // What it saw before is of the past, as what others saw.
                *machine = machine.clone().with_revs(|_| Rev::Past);
                machine.finished();
            }
            BackNext::Compare { etag } => {
                let content = self.compare(world, etag, *holds);
                tell(format_args!("{called}: Blob's {etag} is {content:?}"));
                machine.compared(content);
            }
            BackNext::Note { put, expects } => {
                let noted = Noted::new(expects, holds.filter(|_| put), who);
                if self.stores_note(world, who) {
                    tell(format_args!("{called}: note (if {}) stored", name(expects)));
                    replace_note(world, noted);
                    machine.noted(true);
                } else {
                    tell(format_args!("{called}: note is refused, its session is over"));
                    machine.stop(false);
                }
            }
            BackNext::Permit => {
                let permission = self.permission(world, who);
                tell(format_args!("{called}: permit: {permission:?}"));
                machine.permitted(permission);
            }
            BackNext::Write { put, expects } => {
                let leaves = holds.filter(|_| put);
                let refused =
                    !self.has(Flaw::EndsByClock) && world.own_note(who).is_some_and(|noted| noted.over);
                if !refused && world.blob == expects {
                    tell(format_args!("{called}: mirror write {} if {} lands", name(leaves), name(expects)));
                    world.blob = leaves;
                    machine.written(Sent::Applied, leaves);
                } else {
                    tell(format_args!("{called}: mirror write is refused"));
                    machine.written(Sent::Refused, None);
                }
            }
            BackNext::Record { expected, etag } => {
                if expected == Some(Rev::Present) {
                    tell(format_args!("{called}: anchor recorded"));
                    record(world, etag, who);
                    // It is this machine that wrote it.
                    machine.recorded(Sent::Applied);
                } else {
                    tell(format_args!("{called}: anchor moved on"));
                    machine.recorded(Sent::Refused);
                }
            }
            BackNext::Withdraw { names } => {
                tell(format_args!("{called}: note taken back"));
                withdraw(world, names, who);
                machine.withdrawn();
            }
            BackNext::Done(_) => {}
        }
    }

    fn compare(&self, world: &World, etag: u8, holds: Held) -> Whose {
        // The anchor's own ETag says so, without a look.
        if holds == Some(etag) {
            return Whose::Same;
        }
        if world.blob != Some(etag) {
            return Whose::Gone;
        }
        let notes = world.read_notes(|_| true);
        // What is Blob's own business while it is the authority is named by its intent.
        let by_intent = (0..world.intents.len())
            .any(|write| world.intents[write].is_unconditional() && self.op(write).leaves() == Some(etag));
        whose((&etag, &etag), holds.as_ref(), &notes, by_intent)
    }

    /// Whether a note of this process is stored: its session's row is checked in the same transaction.
    fn stores_note(&self, world: &World, who: Who) -> bool {
        self.has(Flaw::NotesUnchecked) || world.sessions[who].row.open
    }

    fn permission(&self, world: &mut World, who: Who) -> Permission {
        // A clock that stops while the machine sleeps does not know of a lapse.
        if !world.sessions[who].holds() && !self.has(Flaw::ClockStops) {
            Permission::Over
        } else if world.own_note(who).is_some_and(|noted| noted.over) && !self.has(Flaw::ClockStops) {
            Permission::NoteAnew
        } else {
            Permission::Send
        }
    }

    /// The request of a converge that is under way, if it can still be applied; its process is not at it any more.
    pub(super) fn orphan_mirror(&self, world: &mut World, mirroring: &Mirroring, purpose: Purpose, who: Who) {
        let late = match mirroring {
            Mirroring::Forward(run) => match run.next(self.rules, purpose) {
                Next::Write { change, expected: Some(Rev::Present) } => {
                    let holds = match change {
                        Change::Hold(content) => Some(Some(content)),
                        Change::Tombstone => Some(None),
                        Change::Renew | Change::Forget => None,
                    };
                    Some(Late::Target { holds, large: false, from_blob: true })
                }
                _ => None,
            },
            Mirroring::Back(Back { machine, holds, .. }) => match machine.next() {
                BackNext::Note { put, expects } => {
                    let noted = Noted { at_work: false, ..Noted::new(expects, holds.filter(|_| put), who) };
                    Some(Late::Note(noted))
                }
                BackNext::Write { put, expects } => {
                    Some(Late::Mirror { expects, leaves: holds.filter(|_| put), owner: who })
                }
                BackNext::Record { expected: Some(Rev::Present), etag } => {
                    Some(Late::Record { blob: etag, note: world.own_note(who).map(|noted| noted.left()) })
                }
                _ => None,
            },
        };
        world.leave_note(who);
        world.late.extend(late);
    }

    /// Its request gets no answer, and it goes on. Whether the request lands is open.
    pub(super) fn goes_unanswered(&self, world: &mut World, back: &mut Back, who: Who) {
        let mirroring = Mirroring::Back(back.clone());
        let next = back.machine.next();
        if let BackNext::Write { .. } | BackNext::Note { .. } | BackNext::Record { .. } = next {
            self.orphan_mirror(world, &mirroring, back.purpose, who);
        }
        match next {
            BackNext::Note { .. } => back.machine.noted(false),
            BackNext::Write { .. } => {
                if !self.rules.doubt_lasts {
                    // Its note stays its own.
                    if let Some(noted) = world.notes.iter_mut().rfind(|noted| noted.owner == who) {
                        noted.at_work = true;
                    }
                }
                back.machine.written(Sent::Unknown, None);
            }
            BackNext::Record { .. } => back.machine.recorded(Sent::Unknown),
            BackNext::Withdraw { .. } => {
                world.leave_note(who);
                back.machine.withdrawn();
            }
            _ => {}
        }
    }

    pub(super) fn late_lands(&self, world: &mut World, late: Late, tell: Tell<'_>) {
        match late {
            Late::Blob { write } => {
                tell(format_args!("late Blob write w{} LANDS", write + 1));
                world.blob = self.op(write).leaves();
            }
            Late::Mirror { expects, leaves, .. } => {
                if world.blob == expects {
                    tell(format_args!("late mirror write {} if {} LANDS", name(leaves), name(expects)));
                    world.blob = leaves;
                }
            }
            Late::Note(noted) => {
                if self.stores_note(world, noted.owner) {
                    tell(format_args!("late note LANDS"));
                    world.notes.push(noted);
                }
            }
            Late::Target { holds, large, from_blob } => {
                tell(format_args!("late DynamoDB write LANDS"));
                store(world, holds, large, from_blob);
            }
            Late::Finish => {
                tell(format_args!("late end of a change LANDS"));
                // Its own writer knows what it is to say.
                finish(world, Rules::SOUND);
            }
            Late::Record { blob, note } => {
                tell(format_args!("late anchor LANDS"));
                world.anchor.blob = Known::Equal(blob);
                world.age();
                let noted = note.and_then(|note| world.notes.iter().position(|noted| noted.left() == note));
                noted.map(|number| world.notes.remove(number));
            }
        }
    }
}

/// The final anchor takes the place of the pending one.
pub(super) fn finish(world: &mut World, rules: Rules) {
    if world.anchor.pending {
        let blob = world.anchor.seen().finished(rules);
        world.anchor = Anchor { pending: false, blob, ..world.anchor };
        world.age();
    }
}

impl Noted {
    const fn new(expects: Held, leaves: Held, owner: Who) -> Self {
        Self { expects, leaves, answered: false, owner, at_work: true, over: false, due: 0 }
    }

    /// The same once its process is not at it any more, and whatever others make of it.
    const fn left(&self) -> Self {
        Self { at_work: false, over: false, due: 0, ..*self }
    }
}

/// A note in place of the one of the same operation.
fn replace_note(world: &mut World, noted: Noted) {
    world.notes.retain(|other| !(other.owner == noted.owner && other.at_work));
    world.notes.push(noted);
    world.notes.sort_unstable();
}

fn withdraw(world: &mut World, names: bool, who: Who) {
    if names {
        if let Some(noted) = world.own_note(who) {
            (noted.answered, noted.at_work) = (true, false);
        }
    } else {
        world.notes.retain(|noted| !(noted.owner == who && noted.at_work));
    }
    world.notes.sort_unstable();
}

/// The anchor says that Blob is equal, and the note of who wrote it goes with it.
fn record(world: &mut World, blob: Held, who: Who) {
    world.anchor.blob = Known::Equal(blob);
    world.age();
    withdraw(world, false, who);
}

/// A write to DynamoDB: the authority's, or the mirror's.
pub(super) fn store(world: &mut World, holds: Option<Held>, large: bool, from_blob: bool) {
    if let Some(holds) = holds {
        let blob = match from_blob {
            true => Known::Equal(holds),
            false => world.anchor.seen().replaced(holds.is_some()),
        };
        world.anchor = Anchor { holds, pending: large, blob };
    }
    world.age();
}

/// A converge towards DynamoDB is applied.
fn changed(world: &mut World, change: &Change<u8>) {
    match change {
        Change::Hold(content) => store(world, Some(Some(*content)), false, true),
        Change::Tombstone => store(world, Some(None), false, true),
        Change::Renew | Change::Forget => {}
    }
}
