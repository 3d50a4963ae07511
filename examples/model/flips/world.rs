//! What a state holds: both stores, the control table's rows, and every process.
//!
//! As in the model of a pathname, a rev is only known as the anchor's present one or a past one. A converge towards
//! DynamoDB in progress is kept as what it was told; one towards Blob is the production machine itself.

use std::time::Duration;

use migrate::protocol::Rules;
use migrate::protocol::converge::{Converge, Mirror, Next, Purpose};
use migrate::protocol::flip::Flip;
use migrate::protocol::gateway::View;
use migrate::protocol::note::{self, State};
use migrate::protocol::phase::{Authority, Epoch};
use migrate::protocol::reverse::{Known, Reverse, Seen};
use migrate::protocol::session::Lease;

use crate::world::Rev;

/// What a write leaves. It is its ETag as well, the worst case of one: it repeats.
pub(crate) type Content = u8;
/// What a store holds; none: nothing.
pub(crate) type Held = Option<Content>;
pub(crate) type HoldId = u8;
pub(crate) type Note = note::Note<Content, Content>;
/// A process: the gateways are 0 and 1.
pub(crate) type Who = usize;

pub(crate) const SWEEPER: Who = 2;
/// The first of two operators.
pub(crate) const OPERATORS: Who = 3;
pub(crate) const PROCESSES: usize = 5;
/// The most writes of a gateway.
pub(crate) const SCRIPT_MAX: usize = 2;

/// Rounds of a converge, where giving up is not what is explored.
const ROUNDS: u8 = 8;
/// How long a lease is, on a clock that only tells before from after.
const LEASE: Duration = Duration::from_secs(1);

/// A write of the application.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Op {
    Put(Content),
    /// The put before it once more, past the cutover: its client was not told what came of it.
    Again(Content),
    /// Only where nothing is there.
    Create(Content),
    /// Of another pathname that holds this: no sender knows its ETag before.
    Copy(Content),
    Delete,
    /// A put, or a deletion, of more items than one transaction takes.
    Large(Held),
}

impl Op {
    pub(crate) const fn leaves(self) -> Held {
        match self {
            Self::Put(content) | Self::Again(content) | Self::Create(content) | Self::Copy(content) => {
                Some(content)
            }
            Self::Delete => None,
            Self::Large(held) => held,
        }
    }
}

/// The mode item, or what somebody knows of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Mode {
    pub(crate) authority: Authority,
    pub(crate) epoch: u8,
    pub(crate) hold: Option<HoldId>,
}

/// The anchor, and the item: both change in one transaction.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Anchor {
    pub(crate) holds: Held,
    pub(crate) pending: bool,
    pub(crate) blob: Known<Content>,
}

impl Anchor {
    /// What is seen of it now.
    pub(crate) const fn seen(&self) -> Seen<Content, Rev> {
        let Self { holds, pending, blob } = *self;
        Seen { rev: Some(Rev::Present), holds: holds.is_some(), pending, blob }
    }

    const fn mirror(&self) -> Mirror<Content, Rev> {
        let rev = Rev::Present;
        match self {
            Self { pending: true, .. } => Mirror::Pending { rev },
            Self { holds: Some(version), .. } => Mirror::Settled { rev, version: *version },
            Self { holds: None, .. } => Mirror::Tombstone { rev },
        }
    }
}

/// A session row.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Row {
    pub(crate) open: bool,
    pub(crate) unclean: bool,
    pub(crate) acknowledged: Option<HoldId>,
    pub(crate) gap: bool,
}

/// A session: its row, and what its process knows of its lease.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Session {
    pub(crate) row: Row,
    lease: Lease,
}

impl Session {
    pub(crate) const NEW: Self = Self {
        row: Row { open: true, unclean: false, acknowledged: None, gap: false },
        lease: Lease::new(LEASE, Duration::ZERO),
    };

    /// Whether its lease holds. Time stands still, but for a lapse.
    pub(crate) fn holds(&self) -> bool {
        self.lease.clone().holds(Duration::ZERO)
    }

    pub(crate) fn lapse(&mut self) {
        self.lease.holds(LEASE);
    }

    /// Ended in its row by somebody else.
    pub(crate) const fn end(&mut self) {
        (self.row.open, self.row.unclean) = (false, true);
    }

    /// Its process learns that it is over.
    pub(crate) const fn learn_of_its_end(&mut self) {
        self.lease.end();
    }
}

/// A note in the row of the pathname.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Noted {
    pub(crate) expects: Held,
    pub(crate) leaves: Held,
    pub(crate) answered: bool,
    pub(crate) owner: Who,
    /// Its process is at it; nobody else knows.
    pub(crate) at_work: bool,
    /// Its request can't be applied any more.
    pub(crate) over: bool,
    /// A bit for each gateway that knew so before it began to replay.
    pub(crate) due: u8,
}

impl Noted {
    pub(crate) fn note(&self) -> Note {
        let expects = self.expects.map(|etag| State { etag, content: Some(etag) });
        Note { expects, leaves: self.leaves, answered: self.answered }
    }
}

/// A converge towards DynamoDB: what it was told since it last began.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub(crate) struct Run {
    pub(crate) mirror: Option<Mirror<Content, Rev>>,
    pub(crate) authority: Option<Held>,
}

impl Run {
    /// What it asks for next: the production machine in this state says so.
    pub(crate) fn next(&self, rules: Rules, purpose: Purpose) -> Next<Content, Rev> {
        let mut machine = Converge::new(rules, purpose, ROUNDS);
        while !matches!(machine.next(), Next::Write { .. } | Next::Done(_)) {
            match (machine.next(), &self.mirror, self.authority) {
                (Next::ReadMirror, Some(seen), _) => machine.mirror(seen.clone()),
                (Next::ReadAuthority, _, Some(seen)) => machine.authority(seen),
                _ => break,
            }
        }
        machine.next()
    }

    pub(crate) fn look(&mut self, anchor: &Anchor) {
        self.mirror = Some(anchor.mirror());
    }
}

/// A converge towards Blob.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct Back {
    pub(crate) machine: Reverse<Content, Rev>,
    /// What the anchor held when it was read.
    pub(crate) holds: Held,
    pub(crate) purpose: Purpose,
}

/// Making the mirror equal, whichever it is.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) enum Mirroring {
    Forward(Run),
    Back(Back),
}

impl Mirroring {
    /// Away from an authority.
    pub(crate) fn of(authority: Authority, rules: Rules, purpose: Purpose) -> Self {
        match authority {
            Authority::Source => Self::Forward(Run::default()),
            Authority::Target => {
                Self::Back(Back { machine: Reverse::new(rules, purpose, None), holds: None, purpose })
            }
        }
    }

    /// A new rev: what it saw is of the past.
    fn age(&mut self) {
        match self {
            Self::Forward(run) => run.mirror.iter_mut().for_each(|seen| match seen {
                Mirror::Unknown => {}
                Mirror::Settled { rev, .. } | Mirror::Pending { rev } | Mirror::Tombstone { rev } => {
                    *rev = Rev::Past;
                }
            }),
            Self::Back(back) => back.machine = back.machine.clone().with_revs(|_| Rev::Past),
        }
    }
}

/// What a gateway is at.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) enum Work {
    /// Between its writes.
    No,
    /// A write was let in under this mode; its request is sent, or about to be. To DynamoDB it expects this rev.
    Sent {
        authority: Authority,
        epoch: u8,
        noted: bool,
        rev: Rev,
    },
    /// A change of several transactions is begun: its pending anchor is stored, and this is its rev.
    Finishing {
        rev: Rev,
    },
    Mirroring(Mirroring),
    /// It left its mirror for a hold, and comes back after it.
    Away,
    /// Makes the mirror equal for rows that are in doubt. Where it succeeds, these intents (a bit for each) go, and the
    /// notes that are due: all that they stand for had landed or died before it began.
    Replaying {
        intents: u8,
        mirroring: Mirroring,
    },
}

impl Work {
    pub(crate) const fn mirroring(&self) -> Option<&Mirroring> {
        match self {
            Self::Mirroring(mirroring) | Self::Replaying { mirroring, .. } => Some(mirroring),
            Self::No | Self::Sent { .. } | Self::Finishing { .. } | Self::Away => None,
        }
    }

    pub(crate) const fn mirroring_mut(&mut self) -> Option<&mut Mirroring> {
        match self {
            Self::Mirroring(mirroring) | Self::Replaying { mirroring, .. } => Some(mirroring),
            Self::No | Self::Sent { .. } | Self::Finishing { .. } | Self::Away => None,
        }
    }
}

/// The one read of a gateway.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Read {
    NotBegun,
    /// By this authority; it must not return what is `stale`, a bit for each content.
    Begun {
        authority: Authority,
        stale: u8,
    },
    Over,
}

/// The row that says that a write is under way or in doubt.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Intent {
    None,
    Working { unconditional: bool },
    InDoubt { unconditional: bool },
}

impl Intent {
    pub(crate) const fn is_unconditional(self) -> bool {
        matches!(self, Self::Working { unconditional: true } | Self::InDoubt { unconditional: true })
    }
}

/// How far a gateway is in opening another session.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Joining {
    No,
    /// Its row is stored; it will read the mode.
    Stored,
    /// It read the mode, and will store its row. Only a mistake.
    ReadFirst,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct Gateway {
    pub(crate) known: Mode,
    pub(crate) joining: Joining,
    pub(crate) reachable: bool,
    /// Something was written that no intent names.
    pub(crate) unnoted: bool,
    /// How many of its writes are behind it.
    pub(crate) written: u8,
    pub(crate) work: Work,
    pub(crate) read: Read,
    pub(crate) crashed: bool,
}

impl Gateway {
    pub(crate) const fn new(mode: Mode) -> Self {
        Self {
            known: mode,
            joining: Joining::No,
            reachable: true,
            unnoted: false,
            written: 0,
            work: Work::No,
            read: Read::NotBegun,
            crashed: false,
        }
    }

    pub(crate) fn view(&self, session: &Session) -> View {
        View {
            authority: Some(self.known.authority),
            epoch: Epoch(u64::from(self.known.epoch)),
            held: self.known.hold.is_some() || self.joining != Joining::No,
            reachable: self.reachable,
            lease_holds: session.holds(),
        }
    }

    /// Nothing of it is in flight.
    pub(crate) const fn idle(&self) -> bool {
        matches!(self.work, Work::No | Work::Away)
    }
}

/// A process that reconciles the mirror.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct Sweeper {
    pub(crate) known: Mode,
    pub(crate) run: Option<Mirroring>,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct Operator {
    /// The flips that it has still to do, this one first.
    pub(crate) goals: &'static [Authority],
    pub(crate) flip: Flip<HoldId>,
    /// The epoch that it read.
    pub(crate) epoch: u8,
    pub(crate) draining: Option<Draining>,
}

/// A drain in progress.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct Draining {
    pub(crate) listed: u8,
    pub(crate) mirroring: Mirroring,
    pub(crate) equal: bool,
}

/// A request whose sender no longer waits. It lands at any time, or never.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Late {
    /// A client's write.
    Blob { write: usize },
    /// A request of the mirror.
    Mirror { expects: Held, leaves: Held, owner: Who },
    /// The note of one.
    Note(Noted),
    /// A transaction that expects the present rev: a client's write, or the mirror's; none changes only the rev.
    Target { holds: Option<Held>, large: bool, from_blob: bool },
    /// The end of a change of several transactions, under the present rev.
    Finish,
    /// An anchor that says that Blob is equal and holds this, under the present rev.
    Record { blob: Held, note: Option<Noted> },
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct World {
    pub(crate) blob: Held,
    pub(crate) anchor: Anchor,
    pub(crate) notes: Vec<Noted>,
    pub(crate) mode: Mode,
    pub(crate) holds: HoldId,
    pub(crate) intents: [Intent; 2 * SCRIPT_MAX],
    pub(crate) sessions: [Session; PROCESSES],
    pub(crate) gateways: [Gateway; 2],
    pub(crate) sweeper: Option<Sweeper>,
    pub(crate) operators: [Option<Operator>; 2],
    pub(crate) late: Vec<Late>,
    /// A bit for each write: that was begun, and of whose success its client was told.
    pub(crate) begun: u8,
    pub(crate) told: u8,
    /// For each write, of which others clients were told before it began.
    pub(crate) after: [u8; 2 * SCRIPT_MAX],
    pub(crate) stale_read: bool,
    /// Somebody took for foreign what is in Blob, though nothing is.
    pub(crate) foreign: bool,
    pub(crate) crashes: u8,
    pub(crate) timeouts: u8,
    pub(crate) failures: u8,
    pub(crate) lapses: u8,
    pub(crate) kills: u8,
    pub(crate) cancels: u8,
}

/// A bit for each thing that a store may hold.
pub(crate) const fn bit(held: Held) -> u8 {
    match held {
        Some(content) => 1 << content,
        None => 1 << 7,
    }
}

impl World {
    pub(crate) const fn of_authority(&self) -> Held {
        match self.mode.authority {
            Authority::Source => self.blob,
            Authority::Target => self.anchor.holds,
        }
    }

    /// A bit for each thing that nobody may see any more: what was there at first, and what was overwritten by a
    /// write that began after its client was told, and whose own client was told.
    pub(crate) fn stale(&self, initial: Held, leaves: impl Fn(usize) -> Held) -> u8 {
        let told = |write: usize| self.told & (1 << write) != 0;
        let mut fresh = if self.told == 0 { bit(initial) } else { 0 };
        for write in (0..2 * SCRIPT_MAX).filter(|write| self.begun & (1 << write) != 0) {
            let overwritten =
                (0..2 * SCRIPT_MAX).any(|later| told(later) && self.after[later] & (1 << write) != 0);
            if !overwritten {
                fresh |= bit(leaves(write));
            }
        }
        !fresh
    }

    /// A new rev: all that were seen are of the past, and what expects one of them is never applied.
    pub(crate) fn age(&mut self) {
        for gateway in &mut self.gateways {
            match &mut gateway.work {
                Work::Sent { rev, .. } | Work::Finishing { rev } => *rev = Rev::Past,
                work => work.mirroring_mut().into_iter().for_each(Mirroring::age),
            }
        }
        let drains = self.operators.iter_mut().flatten().filter_map(|operator| operator.draining.as_mut());
        drains.for_each(|draining| draining.mirroring.age());
        let swept = self.sweeper.as_mut().and_then(|sweeper| sweeper.run.as_mut());
        swept.into_iter().for_each(Mirroring::age);
        self.late.retain(|late| matches!(late, Late::Blob { .. } | Late::Mirror { .. } | Late::Note(_)));
    }

    /// The gateway whose each intent is.
    pub(crate) const fn owner_of(write: usize) -> Who {
        write / SCRIPT_MAX
    }

    /// Whether a write to Blob without a condition may land whose sender nobody holds back: a request without a
    /// sender, or one of a process whose session is over.
    pub(crate) fn blob_may_change(&self) -> bool {
        let source = |work: &Work| matches!(work, Work::Sent { authority: Authority::Source, .. });
        self.late.iter().any(|late| matches!(late, Late::Blob { .. })) || self.stalls(source)
    }

    /// Whether a write may land, to either store, but for those of the mirror towards Blob.
    pub(crate) fn may_change(&self) -> bool {
        self.late.iter().any(|late| !matches!(late, Late::Mirror { .. } | Late::Note(_)))
            || self.stalls(|work| !matches!(work.mirroring(), Some(Mirroring::Back(_))))
    }

    /// Whether a process whose session is over is at such work.
    fn stalls(&self, at: impl Fn(&Work) -> bool) -> bool {
        self.gateways.iter().zip(&self.sessions).any(|(gateway, session)| {
            !gateway.crashed && !session.holds() && !gateway.idle() && at(&gateway.work)
        })
    }

    /// Whether the rows tell of a write to Blob without a condition that may land: an intent in doubt, or a session
    /// that ended unclean so late that not everything has landed or died since.
    pub(crate) fn rows_tell_of_doubt(&self) -> bool {
        let unclean = self.gateways_unclean();
        let in_doubt = (0..self.intents.len()).any(|write| match self.intents[write] {
            Intent::InDoubt { unconditional } => unconditional,
            Intent::Working { unconditional } => {
                unconditional && !self.sessions[Self::owner_of(write)].row.open
            }
            Intent::None => false,
        });
        in_doubt || (unclean && self.blob_may_change())
    }

    fn gateways_unclean(&self) -> bool {
        self.sessions[..2].iter().any(|session| session.row.unclean)
    }

    /// What a process noted that it is at.
    pub(crate) fn own_note(&mut self, who: Who) -> Option<&mut Noted> {
        self.notes.iter_mut().find(|noted| noted.owner == who && noted.at_work)
    }

    /// A process is not at its note any more; it stays.
    pub(crate) fn leave_note(&mut self, who: Who) {
        if let Some(noted) = self.own_note(who) {
            noted.at_work = false;
        }
    }

    /// All notes as the protocol reads them.
    pub(crate) fn read_notes(&self, still: impl Fn(&Noted) -> bool) -> Vec<Note> {
        self.notes.iter().filter(|noted| still(noted)).map(Noted::note).collect()
    }
}
