//! Items that the application writes itself, where DynamoDB is the authority: looks whether an item is still what
//! its anchor says, and takes over what it became.
//!
//! An item is never written here but for its `_source`: the application's attributes stay as they are. What is
//! taken over gets a new rev and counts as stored now; [`crate::protocol::direct`] decides.

use bytes::Bytes;

use super::author::{Demand, Over, Try, next_time};
use super::prepare::{Prepared, Role};
use super::{ATTEMPTS, Converged, Converger, SOURCE, new_rev, owner, source_rev, source_value};
use crate::blob::{Pathname, Spooled, media};
use crate::error::{Error, ErrorKind, Result};
use crate::mapping::{BlobFacts, Claim, EntityId, Quarantine, item_digest};
use crate::protocol::Rev;
use crate::protocol::direct::{Found, Known, Verdict, judge};
use crate::protocol::phase::Authority;
use crate::target::control::{Anchor, AnchorState, BlobHead, Owner, encode_whole};
use crate::target::{Condition, Table, Write};
use crate::value::{Item, Key};

const OPERATION: &str = "take over an item";
/// So much earlier than our clock says an item may have expired by DynamoDB's, in seconds.
const CLOCK_SKEW: i64 = 60;

/// What a look at an item found.
#[derive(Debug)]
pub enum Look {
    /// The anchor says what is there, or there is nothing.
    Anchor {
        /// The anchor.
        anchor: Option<Box<Anchor>>,
        /// Its item, as it was read.
        item: Option<Item>,
    },
    /// The application wrote the item since.
    Changed(Box<Change>),
    /// It did, and no blob can hold what it wrote.
    Unreadable {
        /// The anchor as it is.
        anchor: Option<Box<Anchor>>,
        /// The item.
        item: Item,
        /// Its key, and why.
        error: Error,
    },
    /// Nobody's blob: by no template of the plan has the item a name.
    NotOurs(Vec<(String, Quarantine)>),
}

/// What the application made of an item, and with it of its blob.
#[derive(Debug)]
pub struct Change {
    prepared: Prepared,
    /// The bytes of the blob; none where it is gone, or its bytes are those that it had.
    pub body: Option<Spooled>,
    /// Attributes that the plan sets otherwise, and that are not in the blob therefore.
    pub apart: Vec<String>,
}

/// What a writer finds.
pub(super) enum Standing {
    /// This, and its item where the application may write it too.
    Is {
        /// The anchor.
        seen: Option<Box<Anchor>>,
        /// The item, as it was read.
        item: Option<Item>,
    },
    /// The try is over.
    Over(Try),
}

impl Change {
    /// What the anchor is to be.
    #[must_use]
    pub const fn anchor(&self) -> &Anchor {
        &self.prepared.anchor
    }
}

impl Converger {
    /// Looks at the item of a pathname, whose entity has direct writes.
    ///
    /// # Errors
    /// What the store reports.
    pub async fn look(&self, pathname: &Pathname, entity: EntityId) -> Result<Look> {
        let anchor = self.control.bare_anchor(pathname).await?;
        let Some((anchor, key)) = anchor.as_ref().and_then(|anchor| Some((anchor, listed(anchor)?))) else {
            return Ok(Look::Anchor { anchor: anchor.map(Box::new), item: None });
        };
        let item = self.control.store().get(Table::Data, std::slice::from_ref(key)).await?.pop().flatten();
        self.judged(entity, anchor, key, item)
    }

    /// Looks at an item: at its blob's, whatever it says of itself, or else whether it is to become a blob.
    ///
    /// # Errors
    /// What the store reports.
    pub async fn look_at(&self, key: &Key) -> Result<Look> {
        let item = self.control.store().get(Table::Data, std::slice::from_ref(key)).await?.pop().flatten();
        let noted = self.control.owner(key).await?;
        let said = item.as_ref().and_then(owner).map(Pathname::new);
        let mut removed = None;
        for pathname in noted.iter().map(|owner| &owner.pathname).chain(&said) {
            let Some(entity) = self.entity(pathname) else { continue };
            if !self.mapper.is_direct(entity) {
                return Ok(Look::Anchor { anchor: None, item });
            }
            let anchor = self.control.bare_anchor(pathname).await?;
            if anchor.as_ref().is_some_and(|anchor| anchor.head.is_none() && anchor.adopted) {
                removed = anchor;
                continue;
            }
            if let Some(anchor) = anchor.filter(|anchor| listed(anchor) == Some(key)) {
                return self.judged(entity, &anchor, key, item);
            }
        }
        let Some(item) = item else {
            return Ok(Look::Anchor { anchor: removed.map(Box::new), item: None });
        };
        let (entity, pathname) = match self.mapper.claim(key, &item, self.clock().now()) {
            Claim::Is(entity, pathname) => (entity, pathname),
            Claim::None(reasons) => return Ok(Look::NotOurs(reasons)),
        };
        let anchor = self.control.bare_anchor(&pathname).await?;
        if let Some(held) = anchor.as_ref().filter(|anchor| anchor.head.is_some()) {
            let error = unreadable(key)
                .message(format!("its blob would be `{}`, which is another item's", held.pathname));
            return Ok(Look::Unreadable { anchor: anchor.map(Box::new), item, error });
        }
        let mut look = self.adoption(entity, &pathname, anchor.as_ref(), (key, item))?;
        if let Look::Changed(change) = &mut look {
            let owner = Owner { key: key.clone(), pathname };
            change.prepared.beside.push((Role::AsRead, owner.write_after(noted.as_ref())));
        }
        Ok(look)
    }

    /// The entity of a pathname whose items the application may be writing now.
    pub(crate) fn directly_written(&self, pathname: &Pathname) -> Option<EntityId> {
        let now = self.authority == Authority::Target;
        self.entity(pathname).filter(|entity| now && self.mapper.is_direct(*entity))
    }

    /// What a converge is where the application may write the item: the anchor follows it.
    ///
    /// # Errors
    /// `Unrepresentable` where no blob can hold what was written; as [`Converger::take_over`].
    pub(super) async fn follow(&self, pathname: &Pathname, entity: EntityId) -> Result<Converged> {
        let mut round = 0;
        for _ in 0..ATTEMPTS {
            self.pause(&mut round).await;
            match self.look(pathname, entity).await? {
                Look::Anchor { .. } | Look::NotOurs(_) => return Ok(Converged::Equal),
                Look::Unreadable { error, .. } => return Err(error),
                Look::Changed(change) => match self.take_over(&change).await {
                    Ok(true) => return Ok(Converged::Written),
                    Err(error) if error.kind() != ErrorKind::OutcomeUnknown => return Err(error),
                    Ok(false) | Err(_) => {}
                },
            }
        }
        Ok(Converged::GaveUp)
    }

    /// Takes over what a look found, unless somebody was faster; says whether it did.
    ///
    /// # Errors
    /// `WrongPhase` once the session is over; `OutcomeUnknown` where nobody learnt whether it is stored; what the
    /// store reports.
    pub async fn take_over(&self, change: &Change) -> Result<bool> {
        let stored = matches!(self.author_prepared(&change.prepared).await?, Try::Stored(_));
        if stored && !change.apart.is_empty() {
            let pathname = &change.anchor().pathname;
            let names = change.apart.join("`, `");
            tracing::warn!(%pathname, "the item has `{names}` otherwise than the plan makes it of its document");
        }
        Ok(stored)
    }

    /// What a writer finds under a pathname. What the application wrote itself is taken over first, so that the
    /// writer's conditions are judged by it.
    pub(super) async fn standing(
        &self,
        pathname: &Pathname,
        entity: EntityId,
        demand: Demand<'_>,
        puts: bool,
    ) -> Result<Standing> {
        let stored = |own: &Anchor| Standing::Over(Try::Stored(Box::new(own.clone())));
        if !self.mapper.is_direct(entity) {
            let seen = self.control.anchor(pathname).await?.map(Box::new);
            let own = demand.check(pathname, seen.as_deref(), puts)?.map(stored);
            return Ok(own.unwrap_or(Standing::Is { seen, item: None }));
        }
        match self.look(pathname, entity).await? {
            Look::Anchor { anchor, item } => {
                let own = demand.check(pathname, anchor.as_deref(), puts)?.map(stored);
                Ok(own.unwrap_or(Standing::Is { seen: anchor, item }))
            }
            Look::Changed(change) => {
                // What an earlier attempt of the same request stored, and the application wrote over since.
                if let Ok(Some(own)) = demand.check(pathname, change.prepared.seen.as_ref(), puts) {
                    return Ok(stored(own));
                }
                self.take_over(&change).await?;
                Ok(Standing::Over(Try::Again))
            }
            Look::Unreadable { anchor, item, error } => {
                // It has no ETag, but it is there.
                if demand.if_match.is_some() || demand.over != Over::Any {
                    return Err(Error::new(ErrorKind::LostRace, OPERATION).key(pathname).source(error));
                }
                demand.check(pathname, anchor.as_deref(), puts)?;
                Ok(Standing::Is { seen: anchor, item: Some(item) })
            }
            Look::NotOurs(_) => Ok(Standing::Is { seen: None, item: None }),
        }
    }

    /// Takes over a new item that is in the way of a write to its own pathname; says whether there was one.
    pub(super) async fn takes_over_new(&self, pathname: &Pathname, keys: &[Key]) -> Result<bool> {
        for key in keys {
            if let Look::Changed(change) = self.look_at(key).await?
                && change.anchor().pathname == *pathname
            {
                self.take_over(&change).await?;
                return Ok(true);
            }
        }
        Ok(false)
    }

    fn judged(&self, entity: EntityId, anchor: &Anchor, key: &Key, item: Option<Item>) -> Result<Look> {
        let now = self.clock().now().as_second() + CLOCK_SKEW;
        let known = anchor.item.map(|seen| Known {
            digest: seen.digest,
            expired: seen.expires.is_some_and(|expires| expires > 0 && expires <= now),
        });
        let found = item.as_ref().map(|item| Found {
            digest: item_digest(item),
            ours: owner(item).as_deref() == Some(anchor.pathname.as_str())
                && source_rev(item) == anchor.items_rev.as_ref().map(Rev::as_str),
        });
        let verdict = judge(known.as_ref(), found.as_ref(), self.mapper.mirrors_expiry(entity));
        Ok(match (verdict, item) {
            (Verdict::Adopt, Some(item)) => {
                self.adoption(entity, &anchor.pathname, Some(anchor), (key, item))?
            }
            (Verdict::Mark, Some(item)) => Look::Changed(Box::new(marked(anchor, key, &item))),
            (Verdict::Remove, _) => Look::Changed(Box::new(removed(anchor, key))),
            (_, item) => Look::Anchor { anchor: Some(Box::new(anchor.clone())), item },
        })
    }

    /// The blob that an item is now.
    fn adoption(
        &self,
        entity: EntityId,
        pathname: &Pathname,
        seen: Option<&Anchor>,
        (key, item): (&Key, Item),
    ) -> Result<Look> {
        let former = seen.and_then(|seen| seen.head.as_ref());
        let uploaded_at = next_time(self.clock().now(), former.map(|head| head.uploaded_at));
        let blob = BlobFacts { pathname, uploaded_at };
        let rebuilt = match self.mapper.rebuilt(entity, blob, (key, &item)) {
            Ok(rebuilt) => rebuilt,
            Err(quarantine) => {
                let error =
                    unreadable(key).message(format!("it can't be the blob `{pathname}`: {quarantine}"));
                return Ok(Look::Unreadable { anchor: seen.cloned().map(Box::new), item, error });
            }
        };
        let body: Spooled = Bytes::from(rebuilt.json).into();
        let rev = new_rev();
        let (retained, rows) = encode_whole(pathname, &rev, &body)?;
        let head = BlobHead {
            etag: body.etag(),
            uploaded_at,
            size: body.length(),
            content_type: former
                .map_or_else(|| media::content_type_of(pathname), |head| head.content_type.clone()),
            cache_control: former
                .map_or_else(|| media::cache_control(None), |head| head.cache_control.clone()),
            sha256: body.sha256(),
            md5: hex::encode(body.md5()),
            blob_etag: body.etag(),
            blob_uploaded_at: None,
        };
        let anchor = Anchor {
            state: AnchorState::Live,
            items_rev: Some(rev.clone()),
            items: vec![key.clone()].into(),
            head: Some(head),
            mapping: Some(self.mapper.digest(entity)),
            body: Some(retained),
            behind: Anchor::replaced(seen, true),
            item: Some(self.seen_as(&item)),
            adopted: true,
            ..Anchor::tombstone(pathname.clone(), rev.clone())
        };
        let mark = mark(key, &item, pathname, &rev);
        let prepared = Prepared { rows, beside: vec![mark], ..only(anchor, seen) };
        Ok(Look::Changed(Box::new(Change { prepared, body: Some(body), apart: rebuilt.apart })))
    }
}

/// Lets a change of what an anchor lists be applied only if the item is as it was read.
pub(super) fn as_read(prepared: &mut Prepared, listing: &Anchor, item: Option<&Item>) {
    for action in prepared.actions.iter_mut().filter(|action| listing.items.contains(&action.key)) {
        action.read = Some(item.cloned());
    }
}

/// The key of the one item of a blob that is there.
fn listed(anchor: &Anchor) -> Option<&Key> {
    let live = anchor.state == AnchorState::Live && anchor.item.is_some();
    anchor.items.first().filter(|_| live)
}

/// A change of an anchor and nothing else yet.
fn only(anchor: Anchor, seen: Option<&Anchor>) -> Prepared {
    Prepared {
        anchor,
        seen: seen.cloned(),
        rows: Vec::new(),
        actions: Vec::new(),
        groups: Vec::new(),
        puts: None,
        beside: Vec::new(),
    }
}

/// Gives an item its `_source`, if it is as it was read.
fn mark(key: &Key, item: &Item, pathname: &Pathname, rev: &Rev) -> (Role, Write) {
    let write = Write::Set {
        table: Table::Data,
        key: key.clone(),
        name: SOURCE.to_owned(),
        value: Some(source_value(pathname, rev)),
        condition: Condition::as_read(Some(item)),
    };
    (Role::AsRead, write)
}

fn marked(anchor: &Anchor, key: &Key, item: &Item) -> Change {
    let renewed = Anchor { rev: new_rev(), ..anchor.clone() };
    let rev = anchor.items_rev.as_ref().unwrap_or(&anchor.rev);
    let mark = mark(key, item, &anchor.pathname, rev);
    let prepared = Prepared { beside: vec![mark], ..only(renewed, Some(anchor)) };
    Change { prepared, body: None, apart: Vec::new() }
}

fn removed(anchor: &Anchor, key: &Key) -> Change {
    let tombstone = Anchor {
        behind: Anchor::replaced(Some(anchor), false),
        adopted: true,
        ..Anchor::tombstone(anchor.pathname.clone(), new_rev())
    };
    let absent = Write::Check { table: Table::Data, key: key.clone(), condition: Condition::Absent };
    let prepared = Prepared { beside: vec![(Role::AsRead, absent)], ..only(tombstone, Some(anchor)) };
    Change { prepared, body: None, apart: Vec::new() }
}

fn unreadable(key: &Key) -> Error {
    Error::new(ErrorKind::Unrepresentable, OPERATION).key(key)
}
