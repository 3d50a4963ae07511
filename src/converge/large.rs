//! Changes of more items than one transaction takes.
//!
//! A pending anchor goes first: it names every item that is there and every one that will be. Each part
//! then checks its rev, and the final anchor replaces it. Whoever comes after a crash finds it pending,
//! and begins anew; items that are to be removed go while it is pending, so that none is forgotten.

use super::prepare::{Action, Prepared, TRANSACTION_BYTES_MAX};
use super::{Attempt, Converger, Sent, new_rev, owner};
use crate::error::Result;
use crate::protocol::converge::Written;
use crate::target::control::{Anchor, AnchorState, encode_keys};
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
    /// What happens to items, each part in one transaction.
    pub(super) parts: Vec<Vec<Action>>,
    /// The anchor in the end.
    pub(super) last: Anchor,
}

impl Large {
    pub(super) fn new(prepared: Prepared) -> Self {
        let Prepared { anchor, seen, mut rows, actions, .. } = prepared;
        // Those to be written and those to be removed are all there are.
        let items: Vec<Key> = actions.iter().map(|action| action.key.clone()).collect();
        let paged = encode_keys(&anchor.pathname, &new_rev(), &items);
        let pages = paged.map(|(pages, more)| {
            rows.extend(more);
            pages
        });
        let former = seen.clone().unwrap_or_else(|| Anchor::tombstone(anchor.pathname.clone(), new_rev()));
        let pending = Anchor { rev: anchor.rev.clone(), state: AnchorState::Pending, items, pages, ..former };
        Self { seen, pending, rows, parts: cut(actions), last: Anchor { rev: new_rev(), ..anchor } }
    }
}

/// Fills transactions that have a check besides.
fn cut(actions: Vec<Action>) -> Vec<Vec<Action>> {
    let mut parts: Vec<Vec<Action>> = Vec::new();
    let mut bytes = 0;
    for action in actions {
        match parts.last_mut() {
            Some(part) if part.len() + 1 < ACTIONS_MAX && bytes + action.bytes() <= TRANSACTION_BYTES_MAX => {
                bytes += action.bytes();
                part.push(action);
            }
            _ => {
                bytes = action.bytes();
                parts.push(vec![action]);
            }
        }
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
        let sent = self.send(&large.pending.rev, vec![large.pending.write(expected)], &[]).await?;
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
        let actions = &large.parts[number];
        let pending = Condition::equals(["rev"], Value::s(large.pending.rev.as_str()));
        let mut writes =
            vec![Write::Check { table: Table::Control, key: large.pending.key(), condition: pending }];
        writes.extend(actions.iter().map(|action| action.write(&large.pending.pathname)));
        Ok(attempt(self.send(&new_rev(), writes, actions).await?))
    }

    /// Stores the final anchor in place of the pending one.
    pub(super) async fn finish(&self, large: &Large) -> Result<Attempt> {
        self.permit.check()?;
        let last = &large.last;
        let sent = self.send(&last.rev, vec![last.write(Some(&large.pending.rev))], &[]).await?;
        let done = match &sent {
            Sent::Applied => true,
            Sent::Raced(found) => found.as_ref().and_then(Anchor::rev_of).as_ref() == Some(&last.rev),
            Sent::Unknown | Sent::Collision { .. } => false,
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
        Sent::Collision { key, owner } => Attempt::Collision { key, owner },
    }
}
