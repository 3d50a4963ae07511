//! What a state holds: both stores, the mode item, the session rows, and every process.
//!
//! As in the model of a pathname, a rev is only known as the anchor's present one or a past one, and a
//! converge in progress is kept as what it was told.

use std::time::Duration;

use migrate::protocol::Rules;
use migrate::protocol::converge::{Converge, Mirror, Next, Purpose};
use migrate::protocol::flip::Flip;
use migrate::protocol::gateway::View;
use migrate::protocol::phase::{Authority, Epoch};
use migrate::protocol::session::Lease;

use crate::world::Rev;

/// What a write leaves. It is its version as well, the worst case of one: it repeats.
pub(crate) type Content = u8;
pub(crate) type HoldId = u8;

/// Rounds of a converge, where giving up is not what is explored.
const ROUNDS: u8 = 8;
/// How long a lease is, on a clock that only tells before from after.
const LEASE: Duration = Duration::from_secs(1);

/// The mode item, or what somebody knows of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Mode {
    pub(crate) authority: Authority,
    pub(crate) epoch: u8,
    pub(crate) hold: Option<HoldId>,
}

/// A session row.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Row {
    pub(crate) open: bool,
    pub(crate) unclean: bool,
    pub(crate) acknowledged: Option<HoldId>,
    pub(crate) gap: bool,
}

impl Row {
    pub(crate) const NEW: Self = Self { open: true, unclean: false, acknowledged: None, gap: false };
}

/// A converge towards DynamoDB: what it was told since it last began.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub(crate) struct Run {
    pub(crate) mirror: Option<(Content, Rev)>,
    pub(crate) authority: Option<Content>,
}

impl Run {
    /// What it asks for next: the production machine in this state says so.
    pub(crate) fn next(&self, rules: Rules, purpose: Purpose) -> Next<Content, Rev> {
        let mut machine = Converge::new(rules, purpose, ROUNDS);
        while !matches!(machine.next(), Next::Write { .. } | Next::Done(_)) {
            match (machine.next(), self.mirror, self.authority) {
                (Next::ReadMirror, Some((version, rev)), _) => {
                    machine.mirror(Mirror::Settled { rev, version });
                }
                (Next::ReadAuthority, _, Some(seen)) => machine.authority(Some(seen)),
                _ => break,
            }
        }
        machine.next()
    }
}

/// A converge towards Blob. Its decisions are this model's own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub(crate) struct Back {
    pub(crate) head: Option<Content>,
    pub(crate) anchor: Option<(Content, Rev)>,
    pub(crate) landed: bool,
}

/// What it does next.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum BackNext {
    LookAtBlob,
    LookAtAnchor,
    Put { content: Content, if_match: Content },
    LookAgain,
    Done,
}

impl Back {
    /// The mirror first, the authority second; after a put, the anchor again: no rev guards Blob.
    pub(crate) fn next(&self, second_look: bool) -> BackNext {
        match (self.head, self.anchor) {
            (None, _) => BackNext::LookAtBlob,
            (Some(_), None) => BackNext::LookAtAnchor,
            (Some(head), Some((content, _))) if head == content => BackNext::Done,
            (Some(_), Some(_)) if self.landed && second_look => BackNext::LookAgain,
            (Some(_), Some(_)) if self.landed => BackNext::Done,
            (Some(head), Some((content, _))) => BackNext::Put { content, if_match: head },
        }
    }
}

/// Making the mirror equal, whichever it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Mirroring {
    Forward(Run),
    Back(Back),
}

impl Mirroring {
    pub(crate) fn of(authority: Authority) -> Self {
        match authority {
            Authority::Source => Self::Forward(Run::default()),
            Authority::Target => Self::Back(Back::default()),
        }
    }
}

/// The one write of a gateway.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Write {
    NotBegun,
    /// Let in under this mode; its request is sent, or about to be.
    Sent {
        authority: Authority,
        epoch: u8,
        noted: bool,
        seen: Option<Rev>,
    },
    Mirroring(Mirroring),
    /// At the intent of a write that is in doubt, with which it replays.
    Replaying(usize, Mirroring),
    Over,
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
    Working,
    InDoubt,
}

/// What became of a write, for its client.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Told {
    Nothing,
    Success,
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

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Gateway {
    pub(crate) known: Mode,
    pub(crate) lease: Lease,
    pub(crate) row: Row,
    pub(crate) joining: Joining,
    pub(crate) reachable: bool,
    /// Something was written that no intent names.
    pub(crate) unnoted: bool,
    pub(crate) write: Write,
    pub(crate) read: Read,
    pub(crate) crashed: bool,
}

impl Gateway {
    pub(crate) fn new(mode: Mode) -> Self {
        Self {
            known: mode,
            lease: fresh_lease(),
            row: Row::NEW,
            joining: Joining::No,
            reachable: true,
            unnoted: false,
            write: Write::NotBegun,
            read: Read::NotBegun,
            crashed: false,
        }
    }

    /// Whether its lease holds. Time stands still, but for a lapse.
    pub(crate) fn holds(&self) -> bool {
        self.lease.clone().holds(Duration::ZERO)
    }

    pub(crate) fn lapse(&mut self) {
        self.lease.holds(LEASE);
    }

    pub(crate) fn view(&self) -> View {
        View {
            authority: Some(self.known.authority),
            epoch: Epoch(u64::from(self.known.epoch)),
            held: self.known.hold.is_some() || self.joining != Joining::No,
            reachable: self.reachable,
            lease_holds: self.holds(),
        }
    }

    /// Nothing of it is in flight.
    pub(crate) const fn idle(&self) -> bool {
        matches!(self.write, Write::NotBegun | Write::Over)
    }
}

pub(crate) const fn fresh_lease() -> Lease {
    Lease::new(LEASE, Duration::ZERO)
}

/// A process that reconciles the mirror, while Blob is the authority.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Sweeper {
    pub(crate) known: Mode,
    pub(crate) row: Row,
    pub(crate) run: Option<Run>,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct Operator {
    pub(crate) goal: Authority,
    pub(crate) flip: Flip<HoldId>,
    /// The epoch that it read.
    pub(crate) epoch: u8,
    pub(crate) draining: Option<Draining>,
}

/// A drain in progress.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Draining {
    pub(crate) listed: [bool; 2],
    pub(crate) mirroring: Mirroring,
    pub(crate) equal: bool,
}

/// A request whose sender no longer waits. It lands at any time, or never.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Late {
    /// A client's put.
    Blob { write: usize },
    /// A put of the mirror.
    MirrorPut { content: Content, if_match: Content },
    /// A transaction that expects the present rev; none changes only the rev.
    Target { content: Option<Content> },
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct World {
    pub(crate) blob: Content,
    pub(crate) item: Content,
    pub(crate) mode: Mode,
    pub(crate) holds: HoldId,
    pub(crate) intents: [Intent; 2],
    /// Whose each intent is: who replays one towards Blob takes it over.
    pub(crate) owners: [usize; 2],
    pub(crate) gateways: [Gateway; 2],
    pub(crate) sweeper: Option<Sweeper>,
    pub(crate) operators: [Option<Operator>; 2],
    pub(crate) late: Vec<Late>,
    /// What each client was told.
    pub(crate) told: [Told; 2],
    /// Whether the write was begun after the other one's client was told of its success.
    pub(crate) after_other: [bool; 2],
    pub(crate) stale_read: bool,
    pub(crate) crashes: u8,
    pub(crate) timeouts: u8,
    pub(crate) lapses: u8,
    pub(crate) kills: u8,
    pub(crate) cancels: u8,
}

impl World {
    pub(crate) const fn of_authority(&self) -> Content {
        match self.mode.authority {
            Authority::Source => self.blob,
            Authority::Target => self.item,
        }
    }

    /// A bit for each content that nobody may see any more: of what was overwritten by a write whose
    /// client was told before.
    pub(crate) fn stale(&self, content_of: impl Fn(usize) -> Content) -> u8 {
        let mut fresh = 0;
        if !self.told.contains(&Told::Success) {
            fresh |= 1;
        }
        for write in 0..2 {
            let begun = self.gateways[write].write != Write::NotBegun;
            let other = 1 - write;
            let overwritten = self.told[write] == Told::Success
                && self.told[other] == Told::Success
                && self.after_other[other];
            if begun && !overwritten {
                fresh |= 1 << content_of(write);
            }
        }
        !fresh & 0b111
    }

    /// A new rev: all that were seen are of the past, and what expects one of them is never applied.
    pub(crate) fn age(&mut self) {
        let mirrorings = self.gateways.iter_mut().filter_map(|gateway| match &mut gateway.write {
            Write::Mirroring(mirroring) | Write::Replaying(_, mirroring) => Some(mirroring),
            Write::Sent { seen, .. } => {
                seen.iter_mut().for_each(|rev| *rev = Rev::Past);
                None
            }
            Write::NotBegun | Write::Over => None,
        });
        let drains = self.operators.iter_mut().flatten();
        let drains =
            drains.filter_map(|operator| operator.draining.as_mut().map(|drain| &mut drain.mirroring));
        for mirroring in mirrorings.chain(drains) {
            match mirroring {
                Mirroring::Forward(run) => run.mirror.iter_mut().for_each(|(_, rev)| *rev = Rev::Past),
                Mirroring::Back(back) => back.anchor.iter_mut().for_each(|(_, rev)| *rev = Rev::Past),
            }
        }
        let run = self.sweeper.as_mut().and_then(|sweeper| sweeper.run.as_mut());
        run.and_then(|run| run.mirror.as_mut()).into_iter().for_each(|(_, rev)| *rev = Rev::Past);
        self.late.retain(|late| !matches!(late, Late::Target { .. }));
    }

    pub(crate) const fn owner_of(&self, write: usize) -> &Gateway {
        &self.gateways[self.owners[write]]
    }

    /// Whether a write to Blob may land whose sender nobody holds back: a request without a sender, or one
    /// of a process whose session is over.
    pub(crate) fn blob_may_change(&self) -> bool {
        self.late.iter().any(|late| !matches!(late, Late::Target { .. })) || self.somebody_stalls()
    }

    /// Whether a write may land, to either store.
    pub(crate) fn may_change(&self) -> bool {
        !self.late.is_empty() || self.somebody_stalls()
    }

    fn somebody_stalls(&self) -> bool {
        self.gateways.iter().any(|gateway| !gateway.crashed && !gateway.holds() && !gateway.idle())
    }

    /// Whether the rows tell of something that may land: an intent in doubt, or a session that ended unclean
    /// so late that not everything has landed or died since.
    pub(crate) fn rows_tell_of_doubt(&self) -> bool {
        let unclean = self.gateways.iter().any(|gateway| gateway.row.unclean);
        self.intents.contains(&Intent::InDoubt)
            || (0..2).any(|write| self.intents[write] == Intent::Working && !self.owner_of(write).row.open)
            || (unclean && self.blob_may_change())
    }
}
