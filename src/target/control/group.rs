//! Groups: several blobs that share one item, and the row that says whose it is.

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::{Control, names, row};
use crate::blob::Pathname;
use crate::error::Result;
use crate::protocol::Rev;
use crate::protocol::group::{Ranked, Row};
use crate::target::store::{Condition, Query, Table, Write};
use crate::value::{Key, Value};

/// A blob that has an item of a group. Ordered by rank: the newest is the last, ties by pathname.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Member {
    /// When it was stored.
    pub uploaded_at: Timestamp,
    /// Which.
    pub pathname: Pathname,
}

/// That an anchor's blob is a member of a group.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct GroupRef {
    /// The key of the group's item, which is its identity.
    pub key: Key,
    /// The member's rank.
    pub uploaded_at: Timestamp,
}

/// A group. It stays when its last member has left, so that its rev never repeats.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Group {
    /// The key of its item.
    pub key: Key,
    /// The revision of this row: new whenever a member joins, leaves or changes.
    pub rev: Rev,
    /// The member whose item is there; none where it has no members.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub winner: Option<Member>,
    /// The revision in `_source.rev` of its item: new only when the item is written.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub items_rev: Option<Rev>,
}

impl Ranked for Member {
    type Name = Pathname;

    fn name(&self) -> &Pathname {
        &self.pathname
    }
}

impl Group {
    /// What the protocol needs to know of it.
    #[must_use]
    pub fn seen(&self) -> Row<Member, Rev> {
        Row { rev: self.rev.clone(), winner: self.winner.clone() }
    }

    /// The write that stores it, if the group's rev is still `expected` (none: if there is no row).
    #[must_use]
    pub fn write(&self, expected: Option<&Rev>) -> Write {
        let condition =
            expected.map_or(Condition::Absent, |rev| Condition::equals(["rev"], Value::s(rev.as_str())));
        Write::Put { table: Table::Control, item: row::encode(&names::group(&self.key), self), condition }
    }
}

impl Member {
    /// The write that adds it to a group.
    #[must_use]
    pub fn join(&self, group: &Key) -> Write {
        let item = row::encode(&names::member(group, self), self);
        Write::Put { table: Table::Control, item, condition: Condition::Always }
    }

    /// The write that takes it from a group.
    #[must_use]
    pub fn leave(&self, group: &Key) -> Write {
        Write::Delete { table: Table::Control, key: names::member(group, self), condition: Condition::Always }
    }
}

impl Control {
    /// The groups that have their items under these keys; those without a row are missing.
    ///
    /// # Errors
    /// `Corrupt` for a row that this program did not write; what the store reports.
    pub async fn groups<'a>(&self, keys: impl IntoIterator<Item = &'a Key>) -> Result<BTreeMap<Key, Group>> {
        let keys: Vec<Key> = keys.into_iter().map(names::group).collect();
        let rows = self.get_rows(&keys).await?;
        rows.map(|row| row::decode(row).map(|group: Group| (group.key.clone(), group))).collect()
    }

    /// Those of these members that have rows.
    ///
    /// # Errors
    /// As [`Control::groups`].
    pub async fn members(&self, members: &[(Key, Member)]) -> Result<Vec<(Key, Member)>> {
        let keys: Vec<Key> = members.iter().map(|(group, member)| names::member(group, member)).collect();
        let rows = if keys.is_empty() { Vec::new() } else { self.store.get(Table::Control, &keys).await? };
        let found = members.iter().zip(rows).filter(|(_, row)| row.is_some());
        Ok(found.map(|(member, _)| member.clone()).collect())
    }

    /// A page of a group's members, the highest first, and where the next one begins.
    ///
    /// # Errors
    /// As [`Control::groups`].
    pub async fn highest_members(
        &self,
        group: &Key,
        after: Option<Key>,
    ) -> Result<(Vec<Member>, Option<Key>)> {
        let query = Query {
            sort_prefix: names::MEMBERS.to_owned(),
            after,
            descending: true,
            ..Query::partition(names::group(group).partition)
        };
        let page = self.store.query(Table::Control, &query).await?;
        Ok((page.items.into_iter().map(row::decode).collect::<Result<_>>()?, page.next))
    }
}
