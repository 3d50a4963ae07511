//! Groups of blobs that share an item, within the transaction of those that change.
//!
//! What is read here is guarded by the group's rev: whoever adds, changes or takes away a member writes
//! the group's row anew, under the rev that was seen before the members.

use std::collections::{BTreeMap, HashSet};

use super::prepare::Role;
use super::{Converger, SOURCE, new_rev, source_value};
use crate::blob::spool::unwritten;
use crate::blob::{Fetched, Pathname};
use crate::error::Result;
use crate::mapping::BlobFacts;
use crate::protocol::group::{Winner, winner};
use crate::target::control::{Anchor, AnchorState, Group, GroupRef, Member};
use crate::target::{Condition, Table, Write};
use crate::value::{Item, Key, Value, item_bytes};

/// What a change of one pathname does to one group.
#[derive(Debug, Clone)]
pub(super) struct Membership {
    /// The key of the group's item.
    pub(super) group: Key,
    /// As what it leaves.
    leaves: Vec<Member>,
    /// As what it is a member from now on, and its item.
    pub(super) joins: Option<(Member, Item)>,
}

impl Membership {
    /// What becomes of the memberships that an anchor has, where these are to be.
    pub(super) fn changes(seen: Option<&Anchor>, joins: Vec<(Key, Member, Item)>) -> Vec<Self> {
        let mut all: BTreeMap<Key, Self> = BTreeMap::new();
        for (group, member, item) in joins {
            let joins = Some((member, item));
            all.insert(group.clone(), Self { group, leaves: Vec::new(), joins });
        }
        for (group, member) in seen.into_iter().flat_map(Anchor::memberships) {
            let none = || Self { group: group.clone(), leaves: Vec::new(), joins: None };
            let membership = all.entry(group.clone()).or_insert_with(none);
            if membership.joins.as_ref().is_none_or(|(joining, _)| *joining != member) {
                membership.leaves.push(member);
            }
        }
        all.into_values().collect()
    }

    /// As the anchor names it.
    pub(super) fn reference(&self) -> Option<GroupRef> {
        let (member, _) = self.joins.as_ref()?;
        Some(GroupRef { key: self.group.clone(), uploaded_at: member.uploaded_at })
    }

    /// How many actions of a transaction it takes at most: the group, its members, its item.
    pub(super) fn action_count(&self) -> usize {
        2 + self.leaves.len() + usize::from(self.joins.is_some())
    }

    /// About how many bytes it adds to a transaction.
    pub(super) fn bytes(&self) -> usize {
        2_048 + self.joins.as_ref().map_or(0, |(_, item)| item_bytes(item))
    }

    fn pathnames(&self) -> impl Iterator<Item = &Pathname> {
        self.leaves.iter().chain(self.joins.iter().map(|(member, _)| member)).map(|member| &member.pathname)
    }
}

/// The writes of groups, ready for one transaction.
#[derive(Debug, Default)]
pub(super) struct Settled {
    pub(super) writes: Vec<(Role, Write)>,
    /// Whose item each group has then.
    winners: BTreeMap<Key, Pathname>,
}

impl Settled {
    /// Whether a blob that has only items of groups has none of them.
    pub(super) fn supersedes(&self, memberships: &[Membership]) -> bool {
        let mut joined =
            memberships.iter().filter_map(|change| Some((&change.group, &change.joins.as_ref()?.0)));
        joined.all(|(group, member)| self.winners.get(group) != Some(&member.pathname))
    }

    /// Adds the writes of one group, of which it was judged whose item it gets.
    fn add(
        &mut self,
        key: &Key,
        seen: Option<&Group>,
        changes: &[&Membership],
        (member, item): (Option<Member>, Option<Item>),
        taken: bool,
    ) {
        let holder = seen.and_then(|group| group.winner.as_ref());
        let rev = new_rev();
        let written = !taken && item.is_some();
        let items_rev = match (&member, seen) {
            (None, _) => None,
            (Some(_), Some(seen)) if !written => seen.items_rev.clone(),
            (Some(_), _) => Some(rev.clone()),
        };
        let group = Group {
            key: key.clone(),
            rev: rev.clone(),
            winner: member.clone().filter(|_| !taken),
            items_rev,
        };
        self.writes.push((Role::Group, group.write(seen.map(|group| &group.rev))));
        for change in changes {
            self.writes.extend(change.leaves.iter().map(|member| (Role::Member, member.leave(key))));
            self.writes.extend(change.joins.iter().map(|(member, _)| (Role::Member, member.join(key))));
        }
        let of =
            |member: &Member| Condition::equals([SOURCE, "pathname"], Value::s(member.pathname.as_str()));
        let mut owners = vec![Condition::Absent];
        owners.extend(holder.map(of));
        if let Some(member) = &member {
            self.winners.insert(key.clone(), member.pathname.clone());
            owners.extend(Some(of(member)).filter(|condition| !owners.contains(condition)));
        }
        let condition = Condition::Any(owners);
        match (member, item) {
            _ if taken => {}
            (Some(member), Some(mut item)) => {
                item.insert(SOURCE.to_owned(), source_value(&member.pathname, &rev));
                self.writes
                    .push((Role::Put(key.clone()), Write::Put { table: Table::Data, item, condition }));
            }
            (None, _) if holder.is_some() => {
                let write = Write::Delete { table: Table::Data, key: key.clone(), condition };
                self.writes.push((Role::Removal, write));
            }
            (_, None) | (None, Some(_)) => {}
        }
    }
}

/// What the absence of a group's row says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Trust {
    /// That there never was a member. True unless somebody damaged the control table.
    NoRowNoMembers,
    /// Nothing: members are looked for.
    Nothing,
}

impl Converger {
    /// Reads the groups that these changes touch, and judges whose item each gets. Items under `own` are
    /// written by the same transaction for another reason.
    pub(super) async fn settle<'a>(
        &self,
        memberships: impl IntoIterator<Item = &'a Membership>,
        own: &HashSet<&Key>,
        trust: Trust,
    ) -> Result<Settled> {
        let mut touched: BTreeMap<&Key, Vec<&Membership>> = BTreeMap::new();
        for membership in memberships {
            touched.entry(&membership.group).or_default().push(membership);
        }
        let mut settled = Settled::default();
        if touched.is_empty() {
            return Ok(settled);
        }
        let groups = self.control.groups(touched.keys().copied()).await?;
        for (key, changes) in touched {
            let seen = groups.get(key);
            let joining =
                changes.iter().filter_map(|change| change.joins.as_ref()).max_by_key(|(member, _)| member);
            let won = if seen.is_none() && trust == Trust::NoRowNoMembers {
                joining.cloned().map_or((None, None), |(member, item)| (Some(member), Some(item)))
            } else {
                self.contest(key, seen, &changes, joining).await?
            };
            settled.add(key, seen, &changes, won, own.contains(key));
        }
        Ok(settled)
    }

    /// Whose item a group gets, and the item where it has to be written.
    async fn contest(
        &self,
        key: &Key,
        seen: Option<&Group>,
        changes: &[&Membership],
        joining: Option<&(Member, Item)>,
    ) -> Result<(Option<Member>, Option<Item>)> {
        let holder = seen.and_then(|group| group.winner.as_ref());
        let changing: HashSet<&Pathname> = changes.iter().flat_map(|change| change.pathnames()).collect();
        let mut after = None;
        loop {
            let (members, next) = self.control.highest_members(key, after).await?;
            for member in members.iter().filter(|member| !changing.contains(&member.pathname)) {
                match winner(holder, Some(member), joining.map(|(member, _)| member)) {
                    Winner::Keep(member) => return Ok((Some(member.clone()), None)),
                    Winner::Restored(member) => {
                        if let Some(item) = self.restore(key, member).await? {
                            return Ok((Some(member.clone()), Some(item)));
                        }
                        // It is not what its row says: its own converge is due, and settles that.
                    }
                    Winner::Joining(_) | Winner::Nobody => {
                        return Ok(joining
                            .cloned()
                            .map_or((None, None), |(member, item)| (Some(member), Some(item))));
                    }
                }
            }
            after = next;
            if after.is_none() {
                break;
            }
        }
        Ok(joining.cloned().map_or((None, None), |(member, item)| (Some(member), Some(item))))
    }

    /// The item of a member that does not have it now: made again from its retained body.
    async fn restore(&self, key: &Key, member: &Member) -> Result<Option<Item>> {
        let Some(anchor) = self.control.anchor(&member.pathname).await? else { return Ok(None) };
        let (Some(head), Some(entity)) = (&anchor.head, self.entity(&member.pathname)) else {
            return Ok(None);
        };
        if anchor.state != AnchorState::Live || head.uploaded_at != member.uploaded_at {
            return Ok(None);
        }
        let retained = self.control.bodies(&[&anchor]).await?.pop().flatten();
        let bytes = match retained {
            Some(Ok(bytes)) => bytes,
            Some(Err(damaged)) => {
                // Where the member moved on meanwhile, so did the group.
                let again = self.control.anchor(&member.pathname).await?;
                return if again.as_ref() == Some(&anchor) { Err(damaged) } else { Ok(None) };
            }
            None => match self.fetcher.fetch(&member.pathname, &head.etag, head.size).await? {
                Fetched::Body { body, .. } => body.bytes().map_err(unwritten)?.to_vec(),
                Fetched::Changed(_) | Fetched::Gone => return Ok(None),
            },
        };
        let facts = BlobFacts { pathname: &member.pathname, uploaded_at: head.uploaded_at };
        // A TTL that has passed since it was mapped is no reason to forget it.
        let mapped = self.mapper.map(entity, facts, &bytes, head.uploaded_at);
        let mut items = mapped.into_iter().flatten();
        Ok(items.find(|mapped| mapped.group.is_some() && mapped.key == *key).map(|mapped| mapped.item))
    }
}
