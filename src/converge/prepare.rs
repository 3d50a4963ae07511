//! From a decision to the one transaction that carries it out.

use std::collections::HashSet;
use std::sync::Arc;

use super::group::{Membership, Settled};
use super::large::{Cut, LongPuts};
use super::long::{LongBody, Reading};
use super::{Converged, Converger, SOURCE, SavedBody, new_rev, source_value};
use crate::blob::{ListedBlob, Pathname};
use crate::error::{Error, ErrorKind, Result};
use crate::mapping::{BlobFacts, EntityId, MappedItem, Quarantine, Reason, item_digest};
use crate::protocol::Rev;
use crate::protocol::converge::Change;
use crate::target::control::{
    Anchor, AnchorState, BlobHead, BodyRef, ItemSeen, KeysRef, MappedVersion, Member, Owner, encode_body,
    encode_skeleton, names,
};
use crate::target::layout::ACTIONS_MAX;
use crate::target::{Condition, Table, Write};
use crate::value::{Item, Key, Value, item_bytes};

/// At most this many bytes in one transaction; DynamoDB's bound is 4 MB.
pub(super) const TRANSACTION_BYTES_MAX: usize = 3_500_000;
/// A retained body of so many bytes is stored in the transaction itself, where a write costs twice as much: that
/// saves a request.
const BODY_IN_TRANSACTION_BYTES_MAX: usize = 4_096;
/// What an anchor's row is counted as, its keys aside.
const ANCHOR_BYTES: usize = 2_048;

/// A change of one pathname, ready to be sent.
#[derive(Debug, Clone)]
pub(super) struct Prepared {
    /// The anchor to be, with its new rev.
    pub(super) anchor: Anchor,
    /// The anchor that was seen, whose rev must still be there.
    pub(super) seen: Option<Anchor>,
    /// Parts of the retained body, to be stored before the transaction, as are the anchor's pages of keys; or in
    /// it: see [`Prepared::bodies`].
    pub(super) rows: Vec<Item>,
    /// What happens to items: puts in the order of the anchor's keys, then removals.
    pub(super) actions: Vec<Action>,
    /// What happens to groups.
    pub(super) groups: Vec<Membership>,
    /// The puts, where the body is a long one; then they are not among the actions.
    pub(super) puts: Option<LongPuts>,
    /// What else is to hold, or to happen, in the same transaction: to the source of a copy.
    pub(super) beside: Vec<(Role, Write)>,
}

/// What a write of a transaction is for: that decides what its refusal means.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Role {
    /// Stores the anchor, or checks its rev.
    Anchor,
    /// Stores the row of a group.
    Group,
    /// Adds or takes away a member; always applies.
    Member,
    /// Stores an item.
    Put(Key),
    /// Removes an item.
    Removal,
    /// Stores or removes a retained body; always applies.
    Body,
    /// Stores or removes an item, or says whose it is, if it is as it was read.
    AsRead,
}

/// What happens to one item.
#[derive(Debug, Clone)]
pub(super) struct Action {
    /// Which.
    pub(super) key: Key,
    /// What is to be there, `_source` included; none where it is to be removed.
    pub(super) item: Option<Item>,
    /// Whose it may be besides: a blob that is renamed in the same transaction.
    pub(super) or_of: Option<Pathname>,
    /// What is there, where the application may write it itself: it must be that still, whoever is named in it.
    pub(super) read: Option<Option<Item>>,
}

impl Action {
    /// Stores an item, with this `_source`.
    pub(super) fn put(MappedItem { key, mut item, .. }: MappedItem, source: &Value) -> Self {
        item.insert(SOURCE.to_owned(), source.clone());
        Self { key, item: Some(item), or_of: None, read: None }
    }

    /// The write, if the item is ours or not there.
    pub(super) fn write(&self, pathname: &Pathname) -> (Role, Write) {
        if let Some(read) = &self.read {
            let (table, condition) = (Table::Data, Condition::as_read(read.as_ref()));
            let write = match &self.item {
                Some(item) => Write::Put { table, item: item.clone(), condition },
                None => Write::Delete { table, key: self.key.clone(), condition },
            };
            return (Role::AsRead, write);
        }
        let of = |pathname: &Pathname| Condition::equals([SOURCE, "pathname"], Value::s(pathname.as_str()));
        let mut owners = vec![Condition::Absent, of(pathname)];
        owners.extend(self.or_of.as_ref().map(of));
        let condition = Condition::Any(owners);
        let key = self.key.clone();
        match &self.item {
            Some(item) => (Role::Put(key), Write::Put { table: Table::Data, item: item.clone(), condition }),
            None => (Role::Removal, Write::Delete { table: Table::Data, key, condition }),
        }
    }

    /// About how many bytes it adds to a transaction.
    pub(super) fn bytes(&self) -> usize {
        let read = self.read.iter().flatten().map(item_bytes).sum::<usize>();
        read + self.item.as_ref().map_or(0, item_bytes)
    }
}

impl Prepared {
    /// The rev that must still be there.
    pub(super) fn expected(&self) -> Option<&Rev> {
        self.seen.as_ref().map(|anchor| &anchor.rev)
    }

    /// The one transaction, groups aside: the anchor first, then its items.
    pub(super) fn writes(&self) -> Vec<(Role, Write)> {
        let mut writes = vec![(Role::Anchor, self.anchor.write(self.expected()))];
        writes.extend(self.actions.iter().map(|action| action.write(&self.anchor.pathname)));
        writes.extend(self.owned().map(|key| {
            let owner = Owner { key: key.clone(), pathname: self.anchor.pathname.clone() };
            (Role::Member, owner.write())
        }));
        writes
    }

    /// What stores the retained body and removes the one before, where the same transaction can do that. None
    /// where something is to be stored before it, and to be removed after it.
    pub(super) fn bodies(&self) -> Option<Vec<(Role, Write)>> {
        let former = self.seen.as_ref().filter(|seen| seen.body != self.anchor.body);
        let anchors = [Some(&self.anchor), former];
        let small = anchors.into_iter().flatten().all(|anchor| {
            anchor.body.as_ref().is_none_or(|body| body.parts <= 1)
                && anchor.head.as_ref().is_none_or(|head| head.size <= BODY_IN_TRANSACTION_BYTES_MAX as u64)
        });
        let paged = |anchor: &Anchor| anchor.pages.is_some();
        if !small || paged(&self.anchor) || self.seen.as_ref().is_some_and(paged) {
            return None;
        }
        let stored = self.rows.iter().map(|row| Write::Put {
            table: Table::Control,
            item: row.clone(),
            condition: Condition::Always,
        });
        let removed = former.and_then(|former| former.body.as_ref()).map(|body| Write::Delete {
            table: Table::Control,
            key: names::body(&self.anchor.pathname, &body.rev, 0),
            condition: Condition::Always,
        });
        let writes: Vec<_> = stored.chain(removed).map(|write| (Role::Body, write)).collect();
        let fits = self.action_count() + self.beside.len() + writes.len() <= ACTIONS_MAX
            && self.bytes() + BODY_IN_TRANSACTION_BYTES_MAX <= TRANSACTION_BYTES_MAX;
        fits.then_some(writes)
    }

    /// The keys of items whose owner is noted, since the application may write them itself.
    fn owned(&self) -> impl Iterator<Item = &Key> {
        let noted = self.anchor.item.is_some();
        self.actions.iter().filter(move |action| noted && action.item.is_some()).map(|action| &action.key)
    }

    /// How it ends once it is applied together with what its groups came to.
    pub(super) fn applied(&self, settled: &Settled) -> Converged {
        let stores = self.actions.iter().any(|action| action.item.is_some());
        let member = self.groups.iter().any(|change| change.joins.is_some());
        match &self.anchor.state {
            AnchorState::Quarantined { .. } => Converged::Quarantined,
            AnchorState::Live if member && !stores && settled.supersedes(&self.groups) => {
                Converged::Superseded
            }
            AnchorState::Live | AnchorState::Pending | AnchorState::Tombstone => Converged::Written,
        }
    }

    /// How many actions the transaction has at most.
    pub(super) fn action_count(&self) -> usize {
        1 + self.actions.len()
            + self.owned().count()
            + self.groups.iter().map(Membership::action_count).sum::<usize>()
    }

    /// About how many bytes the transaction has.
    pub(super) fn bytes(&self) -> usize {
        let keys = self.anchor.items.iter().filter(|_| self.anchor.pages.is_none());
        ANCHOR_BYTES
            + keys.map(|key| key.partition.len() + key.sort.len()).sum::<usize>()
            + self.actions.iter().map(Action::bytes).sum::<usize>()
            + self.groups.iter().map(Membership::bytes).sum::<usize>()
    }

    /// Whether one transaction takes it.
    pub(super) fn fits(&self) -> bool {
        self.puts.is_none() && self.action_count() <= ACTIONS_MAX && self.bytes() <= TRANSACTION_BYTES_MAX
    }

    /// The keys of the data table that it writes.
    pub(super) fn keys(&self) -> impl Iterator<Item = &Key> {
        self.actions.iter().map(|action| &action.key)
    }
}

impl Converger {
    /// The change as a transaction. None where the body that it needs is gone from the source.
    pub(super) async fn prepare(
        &self,
        pathname: &Pathname,
        entity: Option<EntityId>,
        seen: Option<&Anchor>,
        blob: Option<&ListedBlob>,
        change: &Change<MappedVersion>,
    ) -> Result<Option<Prepared>> {
        let rev = new_rev();
        Ok(Some(match (change, seen, entity, blob) {
            (Change::Renew, Some(seen), _, _) => Prepared {
                anchor: Anchor { rev, ..seen.clone() },
                seen: Some(seen.clone()),
                rows: Vec::new(),
                actions: Vec::new(),
                groups: Vec::new(),
                puts: None,
                beside: Vec::new(),
            },
            (Change::Tombstone, ..) => Prepared {
                anchor: tombstone(pathname, rev, seen),
                seen: seen.cloned(),
                rows: Vec::new(),
                actions: removals(seen, &HashSet::new()).collect(),
                groups: Membership::changes(seen, Vec::new()),
                puts: None,
                beside: Vec::new(),
            },
            (Change::Hold(version), _, Some(entity), Some(blob)) => {
                let Some(body) = self.fetch(blob).await? else { return Ok(None) };
                let name = (&blob.pathname, blob.uploaded_at);
                let hold = Hold { rev, seen, blob, version, body: &body };
                match Reading::of(&self.mapper, entity, name, &body.body).await? {
                    Reading::Whole(bytes) => self.hold(hold, entity, &bytes)?,
                    Reading::Long(long) => self.hold_long(hold, long).await?,
                    Reading::Quarantined(quarantine) => hold.quarantined(quarantine)?,
                }
            }
            (Change::Renew | Change::Hold(_) | Change::Forget, ..) => {
                unreachable!(
                    "invariant: the sound rules renew an anchor that is there, hold a blob that is there, and forget nothing"
                )
            }
        }))
    }

    fn hold(&self, hold: Hold<'_>, entity: EntityId, bytes: &[u8]) -> Result<Prepared> {
        let Hold { rev, seen, blob, .. } = &hold;
        let facts = BlobFacts { pathname: &blob.pathname, uploaded_at: blob.uploaded_at };
        let mapped = match self.mapper.map(entity, facts, bytes, self.clock().now()) {
            Ok(mapped) => mapped,
            Err(quarantine) => return hold.quarantined(quarantine),
        };
        let retained =
            encode_body(&blob.pathname, rev, bytes).or_else(|| self.skeleton(&hold, entity, bytes, &mapped));
        let (grouped, mapped): (Vec<MappedItem>, Vec<MappedItem>) =
            mapped.into_iter().partition(|mapped| mapped.group.is_some());
        let member = Member { uploaded_at: blob.uploaded_at, pathname: blob.pathname.clone() };
        let joins = grouped.into_iter().map(|mapped| (mapped.key, member.clone(), mapped.item));
        let groups = Membership::changes(*seen, joins.collect());
        let keys: Vec<Key> = mapped.iter().map(|mapped| mapped.key.clone()).collect();
        let source = source_value(&blob.pathname, rev);
        let mut actions: Vec<Action> =
            mapped.into_iter().map(|mapped| Action::put(mapped, &source)).collect();
        // An item that becomes a group's is written, or left, by the group.
        let joined = groups.iter().filter(|change| change.joins.is_some()).map(|change| &change.group);
        actions.extend(removals(*seen, &keys.iter().chain(joined).collect()));
        let item = match (self.mapper.is_direct(entity), actions.first()) {
            (true, Some(Action { item: Some(item), .. })) => Some(self.seen_as(item)),
            _ => None,
        };
        let mut prepared = hold.live(keys, retained, actions, groups, None);
        prepared.anchor.item = item;
        Ok(prepared)
    }

    /// An item as its anchor remembers it.
    pub(super) fn seen_as(&self, item: &Item) -> ItemSeen {
        ItemSeen { digest: item_digest(item), expires: self.mapper.expires(item) }
    }

    /// What a body is rebuilt from that is too long to be retained. None for items of groups, which may be
    /// another blob's.
    fn skeleton(
        &self,
        hold: &Hold<'_>,
        entity: EntityId,
        bytes: &[u8],
        mapped: &[MappedItem],
    ) -> Option<(BodyRef, Vec<Item>)> {
        if mapped.iter().any(|mapped| mapped.group.is_some()) {
            return None;
        }
        let document = self.mapper.decode(entity, bytes).ok()?;
        let skeleton = self.mapper.skeleton(entity, &document, mapped);
        Some(encode_skeleton(&hold.blob.pathname, &hold.rev, &skeleton))
    }

    async fn hold_long(&self, hold: Hold<'_>, long: Arc<LongBody>) -> Result<Prepared> {
        let now = self.clock().now();
        let scanned = long
            .scan(now, (Vec::new(), Cut::default()), |(keys, cut), at, items| {
                for (number, mapped) in items.into_iter().enumerate() {
                    cut.add(at, number, item_bytes(&mapped.item));
                    keys.push(mapped.key);
                }
            })
            .await?;
        let ((mut keys, cut), skeleton) = match scanned {
            Ok(scanned) => scanned,
            Err(quarantine) => return hold.quarantined(quarantine),
        };
        keys.shrink_to_fit();
        let retained = encode_skeleton(&hold.blob.pathname, &hold.rev, &skeleton);
        let actions = removals(hold.seen, &keys.iter().collect()).collect();
        let groups = Membership::changes(hold.seen, Vec::new());
        let puts = LongPuts { long, now, slices: cut.slices };
        Ok(hold.live(keys, Some(retained), actions, groups, Some(puts)))
    }
}

/// A version that is to be held.
struct Hold<'a> {
    rev: Rev,
    seen: Option<&'a Anchor>,
    blob: &'a ListedBlob,
    version: &'a MappedVersion,
    body: &'a SavedBody,
}

impl Hold<'_> {
    fn live(
        self,
        keys: Vec<Key>,
        retained: Option<(BodyRef, Vec<Item>)>,
        actions: Vec<Action>,
        groups: Vec<Membership>,
        puts: Option<LongPuts>,
    ) -> Prepared {
        let (body, rows) = retained.map_or((None, Vec::new()), |(body, rows)| (Some(body), rows));
        let anchor = Anchor {
            state: AnchorState::Live,
            items_rev: Some(self.rev.clone()),
            pages: KeysRef::of(&self.rev, keys.iter()),
            items: keys.into(),
            body,
            groups: groups.iter().filter_map(Membership::reference).collect(),
            ..self.anchor()
        };
        Prepared { anchor, seen: self.seen.cloned(), rows, actions, groups, puts, beside: Vec::new() }
    }

    /// What can't be mapped stays in Blob and is served from there.
    ///
    /// # Errors
    /// `Unrepresentable` where only this process's key is in the way: it must not take away the items of a
    /// version that somebody could open.
    fn quarantined(self, quarantine: Quarantine) -> Result<Prepared> {
        if quarantine.reason == Reason::Decrypt && self.is_mirrored() {
            return Err(Error::new(ErrorKind::Unrepresentable, "open an encrypted blob")
                .key(&self.blob.pathname)
                .message(format!("this version was opened before, so its items stay: {}", quarantine.detail))
                .hint("set ENCRYPTION_KEY to the secret that the application encrypts with"));
        }
        Ok(Prepared {
            anchor: Anchor { state: AnchorState::Quarantined { quarantine }, ..self.anchor() },
            seen: self.seen.cloned(),
            rows: Vec::new(),
            actions: removals(self.seen, &HashSet::new()).collect(),
            groups: Membership::changes(self.seen, Vec::new()),
            puts: None,
            beside: Vec::new(),
        })
    }

    /// Whether the mirror holds the items of this very version, by whatever rules.
    fn is_mirrored(&self) -> bool {
        let live = self.seen.filter(|seen| seen.state == AnchorState::Live);
        live.is_some_and(|seen| seen.stands_for(&self.version.version))
    }

    fn anchor(&self) -> Anchor {
        let Self { blob, body, seen, .. } = self;
        // What Blob holds of this very version is what it was.
        let same = seen.filter(|seen| seen.stands_for(&self.version.version));
        let known = same.and_then(|seen| seen.head.as_ref());
        let head = BlobHead {
            etag: blob.etag.clone(),
            uploaded_at: blob.uploaded_at,
            size: body.body.length(),
            content_type: body.content_type.clone(),
            cache_control: body.cache_control.clone(),
            sha256: body.body.sha256(),
            md5: hex::encode(body.body.md5()),
            blob_etag: known.map_or(&blob.etag, |known| &known.blob_etag).clone(),
            blob_uploaded_at: known.and_then(|known| known.blob_uploaded_at),
        };
        Anchor {
            head: Some(head),
            mapping: Some(self.version.mapping),
            behind: same.and_then(|seen| seen.behind.clone()),
            request: same.and_then(|seen| seen.request.clone()),
            ..Anchor::tombstone(blob.pathname.clone(), self.rev.clone())
        }
    }
}

/// A tombstone; one that ends a large deletion says what the pending one said.
fn tombstone(pathname: &Pathname, rev: Rev, seen: Option<&Anchor>) -> Anchor {
    let pending = seen.filter(|seen| seen.state == AnchorState::Pending && seen.head.is_none());
    Anchor {
        behind: pending.and_then(Anchor::finished),
        request: pending.and_then(|pending| pending.request.clone()),
        removed_at: pending.and_then(|pending| pending.removed_at),
        adopted: pending.is_some_and(|pending| pending.adopted),
        ..Anchor::tombstone(pathname.clone(), rev)
    }
}

/// The items of an anchor that are not among these.
fn removals(seen: Option<&Anchor>, keep: &HashSet<&Key>) -> impl Iterator<Item = Action> {
    let keys = seen.into_iter().flat_map(|anchor| anchor.items.iter()).filter(|key| !keep.contains(key));
    keys.map(|key| Action { key: key.clone(), item: None, or_of: None, read: None })
}
