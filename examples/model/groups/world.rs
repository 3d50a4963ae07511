//! What a state of the model of groups holds, and what a transaction makes of it.

use std::fmt::{Display, Formatter};

use migrate::protocol::converge::{Change, Converge, Mirror, Next, Written};
use migrate::protocol::group::{self, Contest, Ranked, Row, Settlement};

use super::{ACTORS, BLOBS, Beginning, Groups};

pub(super) type Rev = u8;
pub(super) type Time = u8;

/// A version of one of the blobs, as a member of the group.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Member {
    pub(super) time: Time,
    pub(super) blob: usize,
}

impl Ranked for Member {
    type Name = usize;

    fn name(&self) -> &usize {
        &self.blob
    }
}

impl Display for Member {
    fn fmt(&self, f: &mut Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}@{}", NAMES[self.blob], self.time)
    }
}

pub(super) const NAMES: [&str; BLOBS] = ["P", "Q"];
pub(crate) const ACTOR_NAMES: [&str; ACTORS] = ["G1", "G2", "SW"];

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct Anchor {
    pub(super) state: Mirror<Time, Rev>,
    /// As what the blob is a member, or may be.
    pub(super) named: Vec<Member>,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct World {
    pub(super) source: [Option<Time>; BLOBS],
    /// What the source will still be changed to, by the blob's gateway.
    pub(super) edits: [Vec<Option<Time>>; BLOBS],
    pub(super) anchors: [Anchor; BLOBS],
    pub(super) row: Option<Row<Member, Rev>>,
    /// The members that have rows, the highest first.
    pub(super) members: Vec<Member>,
    pub(super) item: Option<Member>,
    pub(super) runs: [Option<Run>; ACTORS],
    pub(super) sweeps: u8,
    pub(super) late: Vec<Request>,
    pub(super) crashes: u8,
    pub(super) timeouts: u8,
}

/// A converge under way.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct Run {
    pub(super) blob: usize,
    pub(super) machine: Converge<Time, Rev>,
    pub(super) seen: Option<Anchor>,
    /// What a large change is about.
    pub(super) large: Option<Change<Time>>,
    pub(super) contest: Option<Contest<Member, Rev>>,
    pub(super) sent: Option<Request>,
}

/// A transaction.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct Request {
    pub(super) blob: usize,
    /// What the anchor's rev must be.
    pub(super) expected: Option<Rev>,
    /// What the anchor becomes, with a new rev; none for a part, which only checks it.
    pub(super) anchor: Option<Anchor>,
    pub(super) group: Option<OfGroup>,
}

/// What a transaction does to the group.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct OfGroup {
    pub(super) settlement: Settlement<Member, Rev>,
    pub(super) leave: Vec<Member>,
    pub(super) join: Option<Member>,
}

pub(super) enum Applied {
    Yes,
    AnchorMoved,
    GroupMoved,
    Collision,
}

impl World {
    pub(super) fn new(groups: &Groups, (source, edits): Beginning) -> Self {
        let member = |blob: usize| source[blob].map(|time| Member { time, blob });
        let anchor = |blob: usize| Anchor {
            state: source[blob].map_or(Mirror::Unknown, |version| Mirror::Settled { rev: 0, version }),
            named: member(blob).into_iter().collect(),
        };
        let mut members: Vec<Member> = (0..BLOBS).filter_map(member).collect();
        members.sort_by(|a, b| b.cmp(a));
        let item = members.first().copied();
        Self {
            source,
            edits: edits.map(<[_]>::to_vec),
            anchors: [anchor(0), anchor(1)],
            row: item.map(|member| Row { rev: 0, winner: Some(member) }),
            members,
            item,
            runs: [None, None, None],
            sweeps: groups.sweeps,
            late: Vec::new(),
            crashes: groups.crashes,
            timeouts: groups.timeouts,
        }
    }

    /// The target's side of a transaction: all of it or nothing.
    pub(super) fn apply(&mut self, request: &Request) -> Applied {
        let present = self.anchors[request.blob].state.rev().copied();
        if present != request.expected {
            return Applied::AnchorMoved;
        }
        if let Some(of_group) = &request.group {
            let found = self.row.as_ref().map(|row| row.rev);
            let Settlement { expected, holder, winner } = &of_group.settlement;
            if expected.is_some_and(|expected| expected != found) {
                return Applied::GroupMoved;
            }
            let winner = winner.member().copied();
            let owners = [*holder, winner].map(|member| member.map(|member| member.blob));
            let ours = self.item.is_none_or(|item| owners.contains(&Some(item.blob)));
            match &of_group.settlement.winner {
                group::Winner::Joining(_) | group::Winner::Restored(_) if !ours => return Applied::Collision,
                group::Winner::Joining(member) | group::Winner::Restored(member) => self.item = Some(*member),
                // An item that is somebody else's by now is left to them.
                group::Winner::Nobody if ours && holder.is_some() => self.item = None,
                group::Winner::Nobody | group::Winner::Keep(_) => {}
            }
            self.members.retain(|member| !of_group.leave.contains(member));
            if let Some(member) = of_group.join.filter(|member| !self.members.contains(member)) {
                self.members.push(member);
            }
            self.members.sort_by(|a, b| b.cmp(a));
            self.row = Some(Row { rev: found.map_or(0, |rev| rev + 1), winner });
        }
        if let Some(anchor) = &request.anchor {
            let rev = present.map_or(0, |rev| rev + 1);
            let state = match &anchor.state {
                Mirror::Settled { version, .. } => Mirror::Settled { rev, version: *version },
                Mirror::Pending { .. } => Mirror::Pending { rev },
                Mirror::Tombstone { .. } | Mirror::Unknown => Mirror::Tombstone { rev },
            };
            self.anchors[request.blob] = Anchor { state, named: anchor.named.clone() };
            // What expects another one can never be applied.
            self.late.retain(|late| late.blob != request.blob || late.expected == Some(rev));
        }
        Applied::Yes
    }

    /// Nobody waits for this transaction any more.
    pub(super) fn orphan(&mut self, request: Request) {
        if self.anchors[request.blob].state.rev() == request.expected.as_ref() {
            self.late.push(request);
        }
    }

    /// Every anchor says what the source holds. Where no intent is left, that is so.
    pub(super) fn is_equal(&self) -> bool {
        (0..BLOBS).all(|blob| match self.anchors[blob].state {
            Mirror::Settled { version, .. } => self.source[blob] == Some(version),
            Mirror::Pending { .. } => false,
            Mirror::Tombstone { .. } | Mirror::Unknown => self.source[blob].is_none(),
        })
    }

    /// The blobs that are there, the highest first.
    pub(super) fn present(&self) -> Vec<Member> {
        let member = |blob: usize| self.source[blob].map(|time| Member { time, blob });
        let mut present: Vec<Member> = (0..BLOBS).filter_map(member).collect();
        present.sort_by(|a, b| b.cmp(a));
        present
    }
}

impl Run {
    /// As what the blob joins the group in this change, and as what it leaves.
    pub(super) fn moves(&self, change: &Change<Time>) -> (Vec<Member>, Option<Member>) {
        let join = match change {
            Change::Hold(time) => Some(Member { time: *time, blob: self.blob }),
            Change::Renew | Change::Tombstone | Change::Forget => None,
        };
        let named = self.seen.iter().flat_map(|seen| &seen.named).copied();
        (named.filter(|named| group::leaves(named, join.as_ref())).collect(), join)
    }

    pub(super) fn anchor(&self, change: &Change<Time>) -> Anchor {
        let (state, named) = match (change, &self.seen) {
            (Change::Renew, Some(seen)) => return seen.clone(),
            (Change::Hold(version), _) => {
                let state = Mirror::Settled { rev: 0, version: *version };
                (state, self.moves(change).1.into_iter().collect())
            }
            _ => (Mirror::Tombstone { rev: 0 }, Vec::new()),
        };
        Anchor { state, named }
    }
}

impl World {
    /// The reply to the actor's transaction.
    pub(super) fn replied(&mut self, actor: usize, applied: Option<&Applied>) {
        let Some(run) = &mut self.runs[actor] else { return };
        let Some(request) = run.sent.take() else { return };
        run.contest = None;
        let found = self.anchors[run.blob].state.rev().copied();
        let part = request.anchor.is_none();
        // A rev is drawn where it lands, so it is what is found there.
        let (ours, outcome) = match applied {
            Some(Applied::Yes) => (found.filter(|_| !part), Written::Applied),
            Some(Applied::AnchorMoved) => (None, Written::Refused { found }),
            // The pending anchor stands; the group is looked at again.
            Some(Applied::GroupMoved) if part => return,
            Some(Applied::GroupMoved) => (None, Written::Refused { found: None }),
            Some(Applied::Collision) => {
                self.runs[actor] = None;
                return;
            }
            None => (None, Written::Unknown),
        };
        run.machine.written(&ours.unwrap_or(Rev::MAX), &outcome);
        if matches!(run.machine.next(), Next::Done(_)) {
            self.runs[actor] = None;
        } else if matches!(run.machine.next(), Next::ReadMirror) {
            // A new round remembers nothing of the last one.
            run.seen = None;
            run.large = None;
        }
    }
}
