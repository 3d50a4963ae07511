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
use crate::protocol::group::{Contest, Next, Settlement, Trust, Winner, leaves};
use crate::protocol::{Rev, Rules};
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
            if leaves(&member, membership.joins.as_ref().map(|(joining, _)| joining)) {
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
        (settlement, item): (Settlement<Member, Rev>, Option<Item>),
        taken: bool,
    ) {
        let holder = settlement.holder.as_ref();
        let expected = settlement.expected.expect("invariant: the sound rules ask for the group's rev");
        let member = settlement.winner.member().cloned();
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
        self.writes.push((Role::Group, group.write(expected.as_ref())));
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

impl Converger {
    /// Reads the groups that these changes touch, and finds out whose item each gets. Items under `own` are
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
        // All of them at once, so before the members of any.
        let groups = self.control.groups(touched.keys().copied()).await?;
        for (key, changes) in touched {
            let seen = groups.get(key);
            let won = self.contest(key, seen, &changes, trust).await?;
            settled.add(key, seen, &changes, won, own.contains(key));
        }
        Ok(settled)
    }

    /// Does what the protocol asks for to find out whose item a group gets; and the item, where it has to
    /// be written.
    async fn contest(
        &self,
        key: &Key,
        seen: Option<&Group>,
        changes: &[&Membership],
        trust: Trust,
    ) -> Result<(Settlement<Member, Rev>, Option<Item>)> {
        let leave = changes.iter().flat_map(|change| change.leaves.iter().cloned()).collect();
        let joins = || changes.iter().filter_map(|change| change.joins.as_ref());
        let join = joins().map(|(member, _)| member.clone()).collect();
        let mut contest = Contest::new(Rules::SOUND, trust, leave, join);
        let (mut after, mut made) = (None, None);
        loop {
            match contest.next() {
                Next::ReadRow => contest.row(seen.map(Group::seen)),
                Next::ReadMembers => {
                    let (members, next) = self.control.highest_members(key, after.take()).await?;
                    contest.members(members, next.is_some());
                    after = next;
                }
                Next::Restore(member) => {
                    made = self.restore(key, &member).await?;
                    contest.made(made.is_some());
                }
                Next::Fetch(member) => {
                    made = self.fetch_member(key, &member).await?;
                    contest.made(made.is_some());
                }
                Next::Settled(settlement) => {
                    let item = match &settlement.winner {
                        Winner::Joining(winner) => {
                            joins().find(|(member, _)| member == winner).map(|(_, item)| item.clone())
                        }
                        Winner::Restored(_) => made,
                        Winner::Keep(_) | Winner::Nobody => None,
                    };
                    return Ok((settlement, item));
                }
            }
        }
    }

    /// The item of a member that does not have it now, made again from its retained body.
    async fn restore(&self, key: &Key, member: &Member) -> Result<Option<Item>> {
        let Some(anchor) = self.control.anchor(&member.pathname).await? else { return Ok(None) };
        let Some(head) = &anchor.head else { return Ok(None) };
        let held = match anchor.state {
            AnchorState::Live => true,
            // Where DynamoDB is the authority, it stands for what is being written.
            AnchorState::Pending => anchor.behind.is_some(),
            AnchorState::Tombstone | AnchorState::Quarantined { .. } => false,
        };
        if !held || head.uploaded_at != member.uploaded_at {
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
        Ok(self.item_of(key, member, &bytes))
    }

    /// The same, of a member whose large change is under way: made from what the source holds, if it is
    /// that.
    async fn fetch_member(&self, key: &Key, member: &Member) -> Result<Option<Item>> {
        let anchor = self.control.bare_anchor(&member.pathname).await?;
        let Some(head) = self.source().head(&member.pathname).await? else { return Ok(None) };
        let blob = Anchor::as_known(anchor.as_ref(), head.blob);
        if blob.uploaded_at != member.uploaded_at {
            return Ok(None);
        }
        let body = self.fetch(&blob).await?;
        let Some(saved) = body else { return Ok(None) };
        Ok(self.item_of(key, member, &saved.body.bytes().map_err(unwritten)?))
    }

    fn item_of(&self, key: &Key, member: &Member, bytes: &[u8]) -> Option<Item> {
        let entity = self.entity(&member.pathname)?;
        let facts = BlobFacts { pathname: &member.pathname, uploaded_at: member.uploaded_at };
        // A TTL that has passed since it was mapped is no reason to forget it.
        let mapped = self.mapper.map(entity, facts, bytes, member.uploaded_at);
        let mut items = mapped.into_iter().flatten();
        items.find(|mapped| mapped.group.is_some() && mapped.key == *key).map(|mapped| mapped.item)
    }
}
