//! Changes of more items than one transaction takes.
//!
//! A pending anchor goes first: it names every item that is there and every one that will be. Each part
//! then checks its rev, and the final anchor replaces it. Whoever comes after a crash finds it pending,
//! and begins anew; items that are to be removed go while it is pending, so that none is forgotten.

use std::collections::{BTreeSet, HashSet};
use std::sync::Arc;

use jiff::Timestamp;

use super::group::Membership;
use super::long::LongBody;
use super::prepare::{Action, Prepared, Role, TRANSACTION_BYTES_MAX};
use super::{ATTEMPTS, Attempt, Converger, Sent, new_rev, owner, source_value};
use crate::blob::Pathname;
use crate::error::{Error, ErrorKind, Result};
use crate::mapping::Position;
use crate::protocol::Rev;
use crate::protocol::converge::Written;
use crate::protocol::group::Trust;
use crate::target::control::{Anchor, AnchorState, GroupRef, Keys, KeysRef};
use crate::target::layout::ACTIONS_MAX;
use crate::target::{Condition, Table, Write};
use crate::value::{Item, Key, Value};

/// How many items are looked for at a time.
const TAKEN_PAGE: usize = 200;

/// The items of a long body, to be made anew when they are stored: all of them are too many for memory.
#[derive(Debug, Clone)]
pub(super) struct LongPuts {
    pub(super) long: Arc<LongBody>,
    /// As of when a TTL is judged, in each pass the same.
    pub(super) now: Timestamp,
    /// Those that go together.
    pub(super) slices: Vec<Slice>,
}

/// Items of a long body in a row.
#[derive(Debug, Clone, Copy)]
pub(super) struct Slice {
    from: Position,
    /// How many items of the part of the document at `from` are in the slice before.
    skip: usize,
    count: usize,
}

/// Fills transactions with items, of which only the places are kept.
#[derive(Debug, Default)]
pub(super) struct Cut {
    pub(super) slices: Vec<Slice>,
    bytes: usize,
}

impl Cut {
    /// The item with this number in the part of the document at `from`.
    pub(super) fn add(&mut self, from: Position, number: usize, bytes: usize) {
        self.bytes += bytes;
        match self.slices.last_mut() {
            // Beside them goes a check of the pending anchor.
            Some(last) if last.count + 1 < ACTIONS_MAX && self.bytes <= TRANSACTION_BYTES_MAX => {
                last.count += 1;
            }
            _ => {
                self.slices.push(Slice { from, skip: number, count: 1 });
                self.bytes = bytes;
            }
        }
    }
}

/// A change of one pathname in several transactions.
#[derive(Debug)]
pub(super) struct Large {
    /// The anchor that was seen.
    seen: Option<Anchor>,
    /// The anchor while the parts are written. Its rev is the one in the items' `_source`.
    pub(super) pending: Anchor,
    /// What is stored before anything names it.
    rows: Vec<Item>,
    /// What happens to items and groups, each part in one transaction.
    pub(super) parts: Vec<Part>,
    /// Where the items come from that are not in the parts.
    puts: Option<LongPuts>,
    /// The anchor in the end.
    pub(super) last: Anchor,
}

/// One of the transactions.
#[derive(Debug, Default)]
pub(super) struct Part {
    slice: Option<Slice>,
    actions: Vec<Action>,
    groups: Vec<Membership>,
}

impl Large {
    /// A change of the mirror: until it is done, the pending anchor says what was there before.
    pub(super) fn new(prepared: Prepared) -> Self {
        Self::with(prepared, false)
    }

    /// A change where DynamoDB is the authority: it holds from when the pending anchor is stored, which names all
    /// of its bytes. Items follow, whoever has to finish it.
    pub(super) fn of_the_authority(prepared: Prepared) -> Self {
        Self::with(prepared, true)
    }

    fn with(prepared: Prepared, at_once: bool) -> Self {
        let Prepared { anchor, seen, rows, actions, groups, puts, beside: _ } = prepared;
        // Those to be written and those to be removed are all there are.
        let removed: Vec<Key> =
            actions.iter().filter(|action| action.item.is_none()).map(|action| action.key.clone()).collect();
        let items: Keys = match removed.is_empty() {
            true => anchor.items.clone(),
            false => anchor.items.iter().cloned().chain(removed).collect::<Vec<_>>().into(),
        };
        let pages =
            if items == anchor.items { anchor.pages.clone() } else { KeysRef::of(&new_rev(), items.iter()) };
        let former = seen.clone().unwrap_or_else(|| Anchor::tombstone(anchor.pathname.clone(), new_rev()));
        let mut all: BTreeSet<GroupRef> = former.groups.iter().cloned().collect();
        all.extend(anchor.groups.iter().cloned());
        let pending = Anchor {
            rev: anchor.rev.clone(),
            state: AnchorState::Pending,
            items,
            pages,
            groups: all.into_iter().collect(),
            ..if at_once { anchor.clone() } else { former }
        };
        let slices = puts.iter().flat_map(|puts| puts.slices.iter());
        let mut parts: Vec<Part> =
            slices.map(|slice| Part { slice: Some(*slice), ..Part::default() }).collect();
        if puts.is_none() || !actions.is_empty() || !groups.is_empty() {
            parts.extend(cut(actions, groups));
        }
        Self { seen, pending, rows, parts, puts, last: Anchor { rev: new_rev(), ..anchor } }
    }
}

impl LongPuts {
    /// The items of one slice.
    fn actions(&self, slice: Slice, pathname: &Pathname, rev: &Rev) -> Result<Vec<Action>> {
        let source = source_value(pathname, rev);
        let mut records = self.long.records(self.now, slice.from)?;
        let mut actions = Vec::with_capacity(slice.count);
        let mut skip = slice.skip;
        while actions.len() < slice.count {
            let next = records.next_part().map_err(|halt| self.long.changed(halt))?;
            let Some((_, items)) = next else {
                return Err(Error::new(ErrorKind::Internal, "make the items of a long body")
                    .key(pathname)
                    .message("it has fewer items than before"));
            };
            let items = items.into_iter().skip(std::mem::take(&mut skip));
            let room = slice.count - actions.len();
            actions.extend(items.take(room).map(|mapped| Action::put(mapped, &source)));
        }
        Ok(actions)
    }
}

/// Fills transactions that have a check besides.
fn cut(actions: Vec<Action>, groups: Vec<Membership>) -> Vec<Part> {
    let mut parts = vec![Part::default()];
    let (mut count, mut bytes) = (1, 0);
    let mut room = |parts: &mut Vec<Part>, more: usize, more_bytes: usize| {
        if count + more > ACTIONS_MAX || bytes + more_bytes > TRANSACTION_BYTES_MAX {
            parts.push(Part::default());
            (count, bytes) = (1, 0);
        }
        count += more;
        bytes += more_bytes;
    };
    for action in actions {
        room(&mut parts, 1, action.bytes());
        parts.last_mut().expect("invariant: there is a first part").actions.push(action);
    }
    for group in groups {
        room(&mut parts, group.action_count(), group.bytes());
        parts.last_mut().expect("invariant: there is a first part").groups.push(group);
    }
    parts
}

impl Converger {
    /// An item that the change would store and that somebody else has. Looked for before anything is
    /// written; whoever comes later is found by the parts' conditions.
    pub(super) async fn taken(&self, prepared: &Prepared) -> Result<Option<(Key, Option<String>)>> {
        let pathname = prepared.anchor.pathname.as_str();
        for keys in prepared.anchor.items.chunks(TAKEN_PAGE) {
            let found = self.control.store().get(Table::Data, keys).await?;
            let taken = keys.iter().zip(found).find_map(|(key, item)| {
                let owner = owner(&item?);
                (owner.as_deref() != Some(pathname)).then(|| (key.clone(), owner))
            });
            if taken.is_some() {
                return Ok(taken);
            }
        }
        Ok(None)
    }

    /// Stores the pending anchor.
    pub(super) async fn begin(&self, large: &Large) -> Result<Attempt> {
        self.permit.check()?;
        let both = [&large.last, &large.pending];
        let anchors = if large.last.pages == large.pending.pages { &both[..1] } else { &both[..] };
        if !self.stored(&large.rows, anchors, large.seen.as_ref()).await? {
            return Ok(Attempt::NotSent);
        }
        let expected = large.seen.as_ref().map(|anchor| &anchor.rev);
        let sent = self.send(&large.pending.rev, vec![(Role::Anchor, large.pending.write(expected))]).await?;
        if let Sent::Raced(found) = &sent {
            // Only an earlier attempt of this very request names them.
            let ours = found.as_ref().and_then(Anchor::rev_of).as_ref() == Some(&large.pending.rev);
            if !ours {
                self.drop_beside(Some(&large.last), large.seen.as_ref()).await;
                self.drop_beside(Some(&large.pending), large.seen.as_ref()).await;
            }
        }
        Ok(attempt(sent))
    }

    /// Applies one part, if the pending anchor is still there.
    pub(super) async fn part(&self, large: &Large, number: usize) -> Result<Attempt> {
        self.permit.check()?;
        let Part { slice, actions, groups } = &large.parts[number];
        let pathname = &large.pending.pathname;
        let made = match (slice, &large.puts) {
            (Some(slice), Some(puts)) => puts.actions(*slice, pathname, &large.pending.rev)?,
            _ => Vec::new(),
        };
        let actions = || actions.iter().chain(&made);
        let own: HashSet<&Key> = actions().map(|action| &action.key).collect();
        let mut round = 0;
        loop {
            self.pause(&mut round).await;
            let settled = self.settle(groups, &own, Trust::Nothing).await?;
            let pending = Condition::equals(["rev"], Value::s(large.pending.rev.as_str()));
            let check = Write::Check { table: Table::Control, key: large.pending.key(), condition: pending };
            let mut writes = vec![(Role::Anchor, check)];
            writes.extend(actions().map(|action| action.write(pathname)));
            writes.extend(settled.writes);
            match self.send(&new_rev(), writes).await? {
                // The other members of a group go on meanwhile; the pending anchor stands.
                Sent::Moved if round < u32::from(ATTEMPTS) => {}
                sent => return Ok(attempt(sent)),
            }
        }
    }

    /// Stores the final anchor in place of the pending one.
    pub(super) async fn finish(&self, large: &Large) -> Result<Attempt> {
        self.permit.check()?;
        let last = &large.last;
        let sent = self.send(&last.rev, vec![(Role::Anchor, last.write(Some(&large.pending.rev)))]).await?;
        let done = match &sent {
            Sent::Applied => true,
            Sent::Raced(found) => found.as_ref().and_then(Anchor::rev_of).as_ref() == Some(&last.rev),
            Sent::Unknown | Sent::Moved | Sent::Collision { .. } => false,
        };
        if done {
            self.drop_beside(large.seen.as_ref(), Some(last)).await;
            self.drop_beside(Some(&large.pending), Some(last)).await;
        }
        Ok(attempt(sent))
    }
}

fn attempt(sent: Sent) -> Attempt {
    match sent {
        Sent::Applied => Attempt::Written(Written::Applied),
        Sent::Unknown => Attempt::Written(Written::Unknown),
        Sent::Raced(found) => {
            Attempt::Written(Written::Refused { found: found.as_ref().and_then(Anchor::rev_of) })
        }
        Sent::Moved => Attempt::Written(Written::Refused { found: None }),
        Sent::Collision { key, owner } => Attempt::Collision { key, owner },
    }
}
