//! Changes of more items than one transaction takes.
//!
//! A pending anchor goes first: it names every item that is there and every one that will be. Each part
//! then checks its rev, and the final anchor replaces it. Whoever comes after a crash finds it pending,
//! and begins anew; items that are to be removed go while it is pending, so that none is forgotten.

use std::collections::{BTreeSet, HashSet};

use super::group::{Membership, Trust};
use super::prepare::{Action, Prepared, Role, TRANSACTION_BYTES_MAX};
use super::{ATTEMPTS, Attempt, Converger, Sent, new_rev, owner};
use crate::error::Result;
use crate::protocol::converge::Written;
use crate::target::control::{Anchor, AnchorState, GroupRef, encode_keys};
use crate::target::layout::ACTIONS_MAX;
use crate::target::{Condition, Table, Write};
use crate::value::{Item, Key, Value};

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
    /// The anchor in the end.
    pub(super) last: Anchor,
}

/// One of the transactions.
#[derive(Debug, Default)]
pub(super) struct Part {
    actions: Vec<Action>,
    groups: Vec<Membership>,
}

impl Large {
    pub(super) fn new(prepared: Prepared) -> Self {
        let Prepared { anchor, seen, mut rows, actions, groups } = prepared;
        // Those to be written and those to be removed are all there are.
        let items: Vec<Key> = actions.iter().map(|action| action.key.clone()).collect();
        let paged = encode_keys(&anchor.pathname, &new_rev(), &items);
        let pages = paged.map(|(pages, more)| {
            rows.extend(more);
            pages
        });
        let former = seen.clone().unwrap_or_else(|| Anchor::tombstone(anchor.pathname.clone(), new_rev()));
        let mut all: BTreeSet<GroupRef> = former.groups.iter().cloned().collect();
        all.extend(anchor.groups.iter().cloned());
        let pending = Anchor {
            rev: anchor.rev.clone(),
            state: AnchorState::Pending,
            items,
            pages,
            groups: all.into_iter().collect(),
            ..former
        };
        Self { seen, pending, rows, parts: cut(actions, groups), last: Anchor { rev: new_rev(), ..anchor } }
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
        let puts = prepared.actions.iter().filter(|action| action.item.is_some());
        let keys: Vec<Key> = puts.map(|action| action.key.clone()).collect();
        let found = self.control.store().get(Table::Data, &keys).await?;
        Ok(keys.into_iter().zip(found).find_map(|(key, item)| {
            let owner = owner(&item?);
            (owner.as_deref() != Some(prepared.anchor.pathname.as_str())).then_some((key, owner))
        }))
    }

    /// Stores the pending anchor.
    pub(super) async fn begin(&self, large: &Large) -> Result<Attempt> {
        self.permit.check()?;
        if !self.stored(&large.rows).await? {
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
        let Part { actions, groups } = &large.parts[number];
        let own: HashSet<&Key> = actions.iter().map(|action| &action.key).collect();
        let mut round = 0;
        loop {
            self.pause(&mut round).await;
            let settled = self.settle(groups, &own, Trust::Nothing).await?;
            let pending = Condition::equals(["rev"], Value::s(large.pending.rev.as_str()));
            let check = Write::Check { table: Table::Control, key: large.pending.key(), condition: pending };
            let mut writes = vec![(Role::Anchor, check)];
            writes.extend(actions.iter().map(|action| action.write(&large.pending.pathname)));
            writes.extend(settled.writes);
            match self.send(&new_rev(), writes).await? {
                // The other members of a group go on meanwhile; the pending anchor stands.
                Sent::GroupMoved if round < u32::from(ATTEMPTS) => {}
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
            Sent::Unknown | Sent::GroupMoved | Sent::Collision { .. } => false,
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
        Sent::GroupMoved => Attempt::Written(Written::Refused { found: None }),
        Sent::Collision { key, owner } => Attempt::Collision { key, owner },
    }
}
