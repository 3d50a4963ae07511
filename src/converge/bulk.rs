//! The same transactions, many pathnames at a time.

use std::collections::HashSet;

use futures::stream::{self, StreamExt as _};

use super::group::Settled;
use super::prepare::{Prepared, TRANSACTION_BYTES_MAX};
use super::{ATTEMPTS, Converged, Converger, Machine, equal};
use crate::blob::spool::MEMORY_BYTES_MAX;
use crate::blob::{ListedBlob, Pathname};
use crate::error::{ErrorKind, Result};
use crate::protocol::Rules;
use crate::protocol::converge::{Converge, Next, Purpose};
use crate::protocol::group::Trust;
use crate::target::control::{Anchor, names};
use crate::target::layout::ACTIONS_MAX;
use crate::target::{Outcome, Refusal, Write};
use crate::value::Key;

/// At most this many pathnames in one transaction: a lost race costs all of them a second try.
const PATHNAMES_MAX: usize = 50;
/// Bodies that are fetched, and transactions that are sent, at a time.
const CONCURRENCY: usize = 8;

/// What was seen of a pathname: its anchor first, without keys that lie in pages, and the source after it.
#[derive(Debug, Clone)]
pub struct Seen {
    /// Which.
    pub pathname: Pathname,
    /// The mirror.
    pub anchor: Option<Anchor>,
    /// The authority.
    pub blob: Option<ListedBlob>,
}

/// What a look at both sides came to.
enum Step {
    /// Nothing to do.
    Equal(Converged),
    /// A change that can be sent with others.
    Ready(Box<Prepared>),
    /// The body that was seen is gone, or the change is a large one: it takes a fresh look.
    Again,
}

/// A pathname to be converged singly.
struct Single {
    pathname: Pathname,
    machine: Machine,
}

impl Single {
    fn new(pathname: Pathname) -> Self {
        Self { pathname, machine: Converge::new(Rules::SOUND, Purpose::Reconcile, ATTEMPTS) }
    }

    /// After a transaction of several blobs that may have been applied, or may be yet.
    fn doubting(prepared: Prepared) -> Self {
        let Self { pathname, machine } = Self::new(prepared.anchor.pathname);
        Self { pathname, machine: machine.doubting(prepared.seen.map(|anchor| anchor.rev)) }
    }
}

impl Converger {
    /// Converges pathnames of which both sides were just seen, in that order. Those that can't be
    /// written together are converged singly, from a fresh look. Every pathname is in the answer, which
    /// says for each how it ended, or what the stores reported.
    pub async fn converge_seen(&self, seen: Vec<Seen>) -> Vec<(Pathname, Result<Converged>)> {
        let mut done = Vec::new();
        let mut ready = Vec::new();
        let mut singly = Vec::new();
        let mut preparing = stream::iter(seen)
            .map(|seen| async move {
                let step = self.judge_seen(&seen).await;
                (seen.pathname, step)
            })
            .buffer_unordered(CONCURRENCY);
        while let Some((pathname, step)) = preparing.next().await {
            match step {
                Ok(Step::Equal(equal)) => done.push((pathname, Ok(equal))),
                Ok(Step::Ready(prepared)) => ready.push(*prepared),
                Ok(Step::Again) => singly.push(Single::new(pathname)),
                Err(error) => done.push((pathname, Err(error))),
            }
        }
        drop(preparing);

        let (batches, later) = apart(pack(ready, &mut singly));
        let mut sending =
            stream::iter(batches).map(|batch| self.send_together(batch)).buffer_unordered(CONCURRENCY);
        while let Some((sent, again)) = sending.next().await {
            done.extend(sent);
            singly.extend(again);
        }
        drop(sending);
        for batch in later {
            let (sent, again) = self.send_together(batch).await;
            done.extend(sent);
            singly.extend(again);
        }

        let mut single = stream::iter(singly)
            .map(|Single { pathname, machine }| async move {
                let result = self.drive(&pathname, machine).await;
                (pathname, result)
            })
            .buffer_unordered(CONCURRENCY);
        while let Some(result) = single.next().await {
            done.push(result);
        }
        done
    }

    async fn judge_seen(&self, seen: &Seen) -> Result<Step> {
        let entity = self.entity(&seen.pathname);
        let version = entity.and_then(|entity| self.mapped_version(entity, seen.blob.as_ref()));
        let long = seen.blob.as_ref().is_some_and(|blob| blob.size > MEMORY_BYTES_MAX);
        let mut machine = Converge::new(Rules::SOUND, Purpose::Reconcile, 1);
        machine.mirror(Anchor::mirror(seen.anchor.as_ref()));
        machine.authority(version);
        let Next::Write { change, .. } = machine.next() else {
            return Ok(Step::Equal(equal(seen.anchor.as_ref())));
        };
        // The keys of its items are to be read with it; or its item itself.
        let direct = self.directly_written(&seen.pathname).is_some();
        if long || direct || seen.anchor.as_ref().is_some_and(|anchor| anchor.pages.is_some()) {
            return Ok(Step::Again);
        }
        let (anchor, blob) = (seen.anchor.as_ref(), seen.blob.as_ref());
        let prepared = self.prepare(&seen.pathname, entity, anchor, blob, &change).await?;
        Ok(match prepared {
            Some(prepared) if prepared.fits() => Step::Ready(Box::new(prepared)),
            _ => Step::Again,
        })
    }

    /// Sends changes in one transaction. Where it is not applied as a whole, each is to be converged
    /// again: the second list.
    async fn send_together(&self, batch: Vec<Prepared>) -> (Vec<(Pathname, Result<Converged>)>, Vec<Single>) {
        let endings: Vec<Converged> = match self.try_together(&batch).await {
            Ok((Outcome::Applied, settled)) => {
                batch.iter().map(|prepared| prepared.applied(&settled)).collect()
            }
            Ok((Outcome::Refused(refusals), _)) => {
                self.drop_refused(&batch, &refusals).await;
                let singly = batch.into_iter().map(|prepared| Single::new(prepared.anchor.pathname));
                return (Vec::new(), singly.collect());
            }
            Err(error) => {
                tracing::debug!(%error, "a transaction of several blobs failed; each is converged singly");
                let unknown = error.kind() == ErrorKind::OutcomeUnknown;
                let single = |prepared: Prepared| match unknown {
                    true => Single::doubting(prepared),
                    false => Single::new(prepared.anchor.pathname),
                };
                return (Vec::new(), batch.into_iter().map(single).collect());
            }
        };
        let mut sent = Vec::new();
        for (prepared, ending) in batch.into_iter().zip(endings) {
            self.drop_beside(prepared.seen.as_ref(), Some(&prepared.anchor)).await;
            sent.push((prepared.anchor.pathname, Ok(ending)));
        }
        (sent, Vec::new())
    }

    /// Removes the bodies that were stored for a refused transaction.
    async fn drop_refused(&self, batch: &[Prepared], refusals: &[Refusal]) {
        let mut anchor_action = 0;
        for prepared in batch {
            let refusal = refusals.iter().find(|refusal| refusal.action == anchor_action);
            self.drop_new(prepared, refusal.and_then(|refusal| refusal.found.as_ref())).await;
            anchor_action += prepared.writes().len();
        }
    }

    async fn try_together(&self, batch: &[Prepared]) -> Result<(Outcome, Settled)> {
        self.permit.check()?;
        let rows = batch.iter().flat_map(|prepared| prepared.rows.iter().cloned()).collect();
        self.control.put_rows(rows).await?;
        for prepared in batch {
            self.put_beside(Vec::new(), &[&prepared.anchor], prepared.seen.as_ref()).await?;
        }
        let groups = batch.iter().flat_map(|prepared| &prepared.groups);
        let mut settled = self.settle(groups, &HashSet::new(), Trust::NoRowNoMembers).await?;
        let mut writes: Vec<Write> =
            batch.iter().flat_map(Prepared::writes).map(|(_, write)| write).collect();
        writes.extend(settled.writes.drain(..).map(|(_, write)| write));
        let outcome = self.control.store().transact(&names::token(), writes).await?;
        Ok((outcome, settled))
    }
}

/// Fills transactions. Members of one group may share one. A change that shares an item with another one
/// in the same transaction, which DynamoDB refuses, is left to be converged singly.
fn pack(ready: Vec<Prepared>, singly: &mut Vec<Single>) -> Vec<Vec<Prepared>> {
    let mut batches: Vec<Vec<Prepared>> = Vec::new();
    let (mut actions, mut bytes) = (0, 0);
    let (mut keys, mut groups): (HashSet<Key>, HashSet<Key>) = Default::default();
    for prepared in ready {
        let full = batches.last().is_none_or(|batch| {
            batch.len() == PATHNAMES_MAX
                || actions + prepared.action_count() > ACTIONS_MAX
                || bytes + prepared.bytes() > TRANSACTION_BYTES_MAX
        });
        if full {
            batches.push(Vec::new());
            (actions, bytes, keys, groups) = Default::default();
        }
        let joined = || prepared.groups.iter().map(|change| &change.group);
        if prepared
            .keys()
            .any(|key| keys.contains(key) || groups.contains(key) || joined().any(|group| group == key))
            || joined().any(|group| keys.contains(group))
        {
            singly.push(Single::new(prepared.anchor.pathname));
            continue;
        }
        actions += prepared.action_count();
        bytes += prepared.bytes();
        keys.extend(prepared.keys().cloned());
        groups.extend(joined().cloned());
        if let Some(batch) = batches.last_mut() {
            batch.push(prepared);
        }
    }
    batches.retain(|batch| !batch.is_empty());
    batches
}

/// Puts aside the transactions that share a group with one before them: sent at once, one of them would fail.
fn apart(batches: Vec<Vec<Prepared>>) -> (Vec<Vec<Prepared>>, Vec<Vec<Prepared>>) {
    let mut seen: HashSet<Key> = HashSet::new();
    batches.into_iter().partition(|batch| {
        let groups = || batch.iter().flat_map(|prepared| prepared.groups.iter().map(|change| &change.group));
        let first = !groups().any(|group| seen.contains(group));
        seen.extend(groups().cloned());
        first
    })
}
