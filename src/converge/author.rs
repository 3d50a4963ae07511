//! Writes where DynamoDB is the authority: one transaction under the anchor's rev, so that of two writers with
//! the same condition one wins.
//!
//! A write holds from when its anchor is stored. A large one holds from when its pending anchor is, which
//! names all of its bytes; whoever finds that anchor later brings its items up to it.

use async_trait::async_trait;
use jiff::{SignedDuration, Timestamp};

use super::direct::{Look, Standing, as_read};
use super::large::Large;
use super::prepare::{Prepared, Role};
use super::{ATTEMPTS, Attempt, Bodies, Converger, SavedBody, owner_name};
use crate::blob::{ETag, ListedBlob, Pathname, Spooled, Version, wire};
use crate::error::{Error, ErrorKind, Result};
use crate::mapping::EntityId;
use crate::protocol::Rev;
use crate::protocol::converge::{Change, Written};
use crate::target::control::{Anchor, AnchorState, MappedVersion, encode_whole};
use crate::target::{Condition, Table, Write};
use crate::value::{Key, Value};

const OPERATION: &str = "write to DynamoDB";

/// A version that is to be stored.
#[derive(Debug, Clone)]
pub struct NewVersion {
    /// Its bytes.
    pub body: Spooled,
    /// Its media type.
    pub content_type: String,
    /// Its caching rule.
    pub cache_control: String,
    /// What Blob holds already of just these bytes: a multipart upload was put together there.
    pub imported: Option<Version>,
}

/// Under which conditions.
#[derive(Debug, Clone, Copy, Default)]
pub struct Demand<'a> {
    /// Whether something may be there.
    pub overwrite: bool,
    /// What must be there.
    pub if_match: Option<&'a ETag>,
    /// What tells its request from others: a repetition sees its own write.
    pub request: Option<&'a str>,
    /// Which anchor it may replace, whatever that holds.
    pub over: Over<'a>,
}

/// Which anchor a write may replace.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Over<'a> {
    /// Any.
    #[default]
    Any,
    /// The one of this rev; none: only where there is no anchor.
    Only(Option<&'a Rev>),
}

/// Another pathname whose anchor must be what it was: the source of a copy.
#[derive(Debug, Clone, Copy)]
pub struct Beside<'a> {
    /// As it was seen.
    pub anchor: &'a Anchor,
    /// Whether it goes in the same transaction: a rename.
    pub remove: bool,
}

/// What one try came to.
#[derive(Debug)]
pub enum Try {
    /// This is stored.
    Stored(Box<Anchor>),
    /// Somebody was faster: look again.
    Again,
}

impl Demand<'_> {
    /// Refuses a put that would be refused now.
    ///
    /// # Errors
    /// `AlreadyExists`, `LostRace`.
    pub fn allows(&self, pathname: &Pathname, seen: Option<&Anchor>) -> Result<()> {
        self.check(pathname, seen, true).map(drop)
    }

    /// Whether what is there allows the write; the anchor itself where an earlier attempt of it wrote that.
    pub(super) fn check<'a>(
        &self,
        pathname: &Pathname,
        seen: Option<&'a Anchor>,
        puts: bool,
    ) -> Result<Option<&'a Anchor>> {
        let held = seen.filter(|seen| seen.head.is_some());
        let own = seen.filter(|seen| self.request.is_some() && seen.request.as_deref() == self.request);
        if let Some(own) = own.filter(|own| own.head.is_some() == puts) {
            return Ok(Some(own));
        }
        let refused = |kind, message: String| Err(Error::new(kind, OPERATION).key(pathname).message(message));
        if let Over::Only(rev) = self.over
            && rev != seen.map(|seen| &seen.rev)
        {
            return refused(ErrorKind::LostRace, "DynamoDB was written meanwhile".to_owned());
        }
        if let Some(expected) = self.if_match {
            let found = held.and_then(Anchor::etag);
            // Both name this very version: what Blob called it, and what is answered here.
            let named = held.is_some_and(|held| held.is_named(expected));
            if !named {
                let found = found.map_or_else(|| "no blob".to_owned(), |etag| etag.to_string());
                return refused(ErrorKind::LostRace, format!("the store holds {found}, not {expected}"));
            }
        } else if held.is_some() && puts && !self.overwrite {
            return refused(ErrorKind::AlreadyExists, wire::EXISTS_MESSAGE.to_owned());
        }
        Ok(None)
    }
}

impl Converger {
    /// Stores a version, or removes what is there; returns the anchor that says so.
    ///
    /// # Errors
    /// `AlreadyExists` and `LostRace` by its conditions; `Unrepresentable` for what can't be mapped, or whose items
    /// are somebody else's, before it has any effect; `OutcomeUnknown` where nobody learnt whether it is stored;
    /// `Busy` where others kept writing; what the store reports.
    pub async fn author(
        &self,
        pathname: &Pathname,
        new: Option<&NewVersion>,
        demand: Demand<'_>,
    ) -> Result<Anchor> {
        let mut round = 0;
        for _ in 0..ATTEMPTS {
            self.pause(&mut round).await;
            if let Try::Stored(anchor) = self.author_once(pathname, new, demand, None).await? {
                return Ok(*anchor);
            }
        }
        Err(crowded(pathname))
    }

    /// One try of the same; `beside` is checked, or removed, in the same transaction.
    ///
    /// # Errors
    /// As [`Converger::author`].
    pub async fn author_once(
        &self,
        pathname: &Pathname,
        new: Option<&NewVersion>,
        demand: Demand<'_>,
        beside: Option<Beside<'_>>,
    ) -> Result<Try> {
        let entity = self.entity(pathname).ok_or_else(|| {
            Error::new(ErrorKind::Internal, OPERATION).key(pathname).message("no entity maps it")
        })?;
        let (seen, item) = match self.standing(pathname, entity, demand, new.is_some()).await? {
            Standing::Is { seen, item } => (seen.map(|seen| *seen), item),
            Standing::Over(over) => return Ok(over),
        };
        let mut prepared = match new {
            Some(new) => self.prepare_new(pathname, entity, seen.as_ref(), new).await?,
            None => self.prepare(pathname, Some(entity), seen.as_ref(), None, &Change::Tombstone).await?,
        }
        .ok_or_else(|| {
            Error::new(ErrorKind::Internal, OPERATION).key(pathname).message("its body is gone")
        })?;
        if let AnchorState::Quarantined { quarantine } = &prepared.anchor.state {
            return Err(Error::new(ErrorKind::Unrepresentable, OPERATION)
                .key(pathname)
                .message(format!("it can't become items as the migration's plan says: {quarantine}")));
        }
        prepared.anchor.request = demand.request.map(ToOwned::to_owned);
        let imported = new.is_some_and(|new| new.imported.is_some());
        prepared.anchor.behind = if imported { None } else { Anchor::replaced(seen.as_ref(), new.is_some()) };
        prepared.anchor.removed_at = new.is_none().then(|| next_time(self.clock().now(), None));
        let is_direct = self.mapper.is_direct(entity);
        if let Some(seen) = seen.as_ref().filter(|_| is_direct) {
            as_read(&mut prepared, seen, item.as_ref());
        }
        let removed = match beside {
            Some(Beside { anchor, remove: true }) => match self.removed(anchor, &mut prepared).await? {
                None => return Ok(Try::Again),
                removed => removed,
            },
            _ => None,
        };
        if prepared.fits() && removed.as_ref().is_none_or(Prepared::fits) {
            let keys: Vec<Key> = prepared.keys().filter(|_| is_direct).cloned().collect();
            let tried = self.author_in_one(prepared, removed, beside).await;
            if let Err(error) = &tried
                && error.kind() == ErrorKind::Unrepresentable
                && self.takes_over_new(pathname, &keys).await?
            {
                return Ok(Try::Again);
            }
            return tried;
        }
        if removed.is_some() {
            return Err(Error::new(ErrorKind::Unrepresentable, OPERATION)
                .key(pathname)
                .message("it has more items than one transaction renames; copy it, then delete it"));
        }
        self.author_large(prepared).await
    }

    /// The change, with bytes retained whatever their length, and a time after every one before it.
    async fn prepare_new(
        &self,
        pathname: &Pathname,
        entity: EntityId,
        seen: Option<&Anchor>,
        new: &NewVersion,
    ) -> Result<Option<Prepared>> {
        let mut converger = self.clone();
        converger.bodies = std::sync::Arc::new(Only(new.clone()));
        let etag = new.imported.as_ref().map_or_else(|| new.body.etag(), |version| version.etag.clone());
        let last = seen.and_then(|seen| Some(seen.head.as_ref()?.uploaded_at));
        let mut after = last;
        loop {
            let now = self.clock().now();
            let blob = ListedBlob {
                pathname: pathname.clone(),
                size: new.body.length(),
                uploaded_at: next_time(now, after),
                etag: etag.clone(),
                url: String::new(),
                download_url: String::new(),
            };
            let version = MappedVersion { version: blob.version(), mapping: self.mapper.digest(entity) };
            let prepared =
                converger.prepare(pathname, Some(entity), seen, Some(&blob), &Change::Hold(version)).await?;
            let Some(mut prepared) = prepared else { return Ok(None) };
            // What is newer by the order of writes must be newer by its time, which ranks a group's members.
            let winners = self.control.groups(prepared.groups.iter().map(|change| &change.group)).await?;
            let joined = prepared.groups.iter().filter(|change| change.joins.is_some());
            let newest = joined
                .filter_map(|change| winners.get(&change.group)?.winner.as_ref())
                .filter(|winner| winner.pathname != *pathname)
                .map(|winner| winner.uploaded_at)
                .max();
            if newest.is_some_and(|newest| newest >= blob.uploaded_at) {
                after = newest;
                continue;
            }
            if prepared.anchor.state == AnchorState::Live {
                let (body, rows) = encode_whole(pathname, &prepared.anchor.rev, &new.body)?;
                (prepared.anchor.body, prepared.rows) = (Some(body), rows);
            }
            if let (Some(head), Some(imported)) = (&mut prepared.anchor.head, &new.imported) {
                head.blob_uploaded_at = Some(imported.uploaded_at).filter(|at| *at != head.uploaded_at);
            }
            return Ok(Some(prepared));
        }
    }

    /// The removal of a rename's source. What items the new name takes over from it, it does not remove. None where
    /// the source is not what it was.
    async fn removed(&self, anchor: &Anchor, prepared: &mut Prepared) -> Result<Option<Prepared>> {
        let from = &anchor.pathname;
        let removed = self.prepare(from, self.entity(from), Some(anchor), None, &Change::Tombstone).await?;
        let Some(mut removed) = removed else { return Ok(None) };
        if let Some(entity) = self.entity(from).filter(|entity| self.mapper.is_direct(*entity)) {
            let Look::Anchor { anchor: Some(now), item } = self.look(from, entity).await? else {
                return Ok(None);
            };
            if now.rev != anchor.rev {
                return Ok(None);
            }
            as_read(&mut removed, anchor, item.as_ref());
            as_read(prepared, anchor, item.as_ref());
        }
        removed.anchor.behind = Anchor::replaced(Some(anchor), false);
        removed.anchor.removed_at = Some(next_time(self.clock().now(), None));
        removed.anchor.request.clone_from(&prepared.anchor.request);
        for action in prepared.actions.iter_mut().filter(|action| action.item.is_some()) {
            if anchor.items.contains(&action.key) {
                action.or_of = Some(from.clone());
                removed.actions.retain(|removal| removal.key != action.key);
            }
        }
        Ok(Some(removed))
    }

    async fn author_in_one(
        &self,
        mut prepared: Prepared,
        removed: Option<Prepared>,
        beside: Option<Beside<'_>>,
    ) -> Result<Try> {
        prepared.beside = match (&removed, beside) {
            (Some(removed), _) => {
                prepared.groups.extend(removed.groups.iter().cloned());
                removed.writes()
            }
            (None, Some(Beside { anchor, .. })) => {
                let condition = Condition::equals(["rev"], Value::s(anchor.rev.as_str()));
                vec![(Role::Anchor, Write::Check { table: Table::Control, key: anchor.key(), condition })]
            }
            (None, None) => Vec::new(),
        };
        let tried = self.author_prepared(&prepared).await?;
        if let (Try::Stored(_), Some(removed)) = (&tried, &removed) {
            self.drop_beside(removed.seen.as_ref(), Some(&removed.anchor)).await;
        }
        Ok(tried)
    }

    pub(super) async fn author_prepared(&self, prepared: &Prepared) -> Result<Try> {
        use crate::protocol::group::Trust;

        let pathname = &prepared.anchor.pathname;
        let own = prepared.keys().collect();
        let settled = self.settle(&prepared.groups, &own, Trust::Nothing).await?;
        match self.apply(prepared, settled).await? {
            Attempt::Written(Written::Applied) => Ok(Try::Stored(Box::new(prepared.anchor.clone()))),
            Attempt::Written(Written::Refused { found }) if found.as_ref() == Some(&prepared.anchor.rev) => {
                Ok(Try::Stored(Box::new(prepared.anchor.clone())))
            }
            Attempt::Written(Written::Refused { .. }) | Attempt::NotSent => Ok(Try::Again),
            Attempt::Written(Written::Unknown) => self.learn(pathname, &prepared.anchor.rev).await,
            Attempt::Collision { key, owner } => Err(taken(pathname, &key, owner.as_deref())),
        }
    }

    /// Stores the pending anchor, from which on the write holds; then its items. Where these are not all stored,
    /// whoever converges the pathname next finds the anchor pending.
    async fn author_large(&self, prepared: Prepared) -> Result<Try> {
        let pathname = prepared.anchor.pathname.clone();
        if let Some((key, owner)) = self.taken(&prepared).await? {
            return Err(taken(&pathname, &key, owner.as_deref()));
        }
        let large = Large::of_the_authority(prepared);
        match self.begin(&large).await? {
            Attempt::Written(Written::Applied) => {}
            Attempt::Written(Written::Refused { found }) if found.as_ref() == Some(&large.pending.rev) => {}
            Attempt::Written(Written::Refused { .. }) | Attempt::NotSent => return Ok(Try::Again),
            Attempt::Written(Written::Unknown) => {
                let Try::Stored(_) = self.learn(&pathname, &large.pending.rev).await? else {
                    return Ok(Try::Again);
                };
            }
            Attempt::Collision { key, owner } => return Err(taken(&pathname, &key, owner.as_deref())),
        }
        let stored = async {
            for number in 0..large.parts.len() {
                if !matches!(self.part(&large, number).await?, Attempt::Written(Written::Applied)) {
                    return Ok(false);
                }
            }
            Ok::<_, Error>(matches!(self.finish(&large).await?, Attempt::Written(Written::Applied)))
        };
        Ok(Try::Stored(Box::new(match stored.await {
            Ok(true) => large.last,
            Ok(false) => large.pending,
            Err(error) => {
                tracing::debug!(%pathname, %error, "the items of a large write are left to the next converge");
                large.pending
            }
        })))
    }

    /// Whether the request with this rev was applied, whose reply is missing.
    async fn learn(&self, pathname: &Pathname, rev: &Rev) -> Result<Try> {
        match self.control.anchor(pathname).await? {
            Some(anchor) if anchor.rev == *rev => Ok(Try::Stored(Box::new(anchor))),
            // It may land yet, or was overwritten already: sent once more, it could undo what came after it.
            _ => Err(Error::new(ErrorKind::OutcomeUnknown, OPERATION)
                .key(pathname)
                .message("DynamoDB did not say whether it was stored; try again")),
        }
    }
}

/// Now in milliseconds, and later than `last`.
pub(super) fn next_time(now: Timestamp, last: Option<Timestamp>) -> Timestamp {
    let now = Timestamp::from_millisecond(now.as_millisecond()).unwrap_or(now);
    match last {
        Some(last) if last >= now => last + SignedDuration::from_millis(1),
        _ => now,
    }
}

fn crowded(pathname: &Pathname) -> Error {
    Error::new(ErrorKind::Busy, OPERATION).key(pathname).message("others keep writing to it; try again")
}

fn taken(pathname: &Pathname, key: &Key, owner: Option<&str>) -> Error {
    let whose = owner_name(owner);
    Error::new(ErrorKind::Unrepresentable, OPERATION)
        .key(pathname)
        .message(format!("its item {key} belongs to {whose}, and is not overwritten"))
}

/// The body of the version that is to be stored, and no other.
struct Only(NewVersion);

#[async_trait]
impl Bodies for Only {
    async fn body(&self, _pathname: &Pathname, _etag: &ETag) -> Result<Option<SavedBody>> {
        let NewVersion { body, content_type, cache_control, .. } = self.0.clone();
        Ok(Some(SavedBody { body, content_type, cache_control }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_in_milliseconds_and_never_go_back() {
        let at = |nanos| Timestamp::from_nanosecond(1_790_000_000_000_000_000_i128 + nanos).unwrap();
        assert_eq!(next_time(at(1_234_567), None), at(1_000_000));
        assert_eq!(next_time(at(1_234_567), Some(at(900_000))), at(1_000_000));
        assert_eq!(next_time(at(1_234_567), Some(at(1_000_000))), at(2_000_000));
        assert_eq!(next_time(at(1_234_567), Some(at(9_000_000))), at(10_000_000), "a clock that is behind");
    }
}
