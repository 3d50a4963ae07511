//! `converge(pathname)`: makes the mirror of one pathname equal to its authority.
//!
//! [`Converger`] drives [`crate::protocol::converge`] against the two stores. It owns the I/O of that
//! operation and none of its decisions: what to read next, what to write and when to stop is the
//! protocol's word. Backfill, sweep and repair are callers of it.
//!
//! It must never write an item that belongs to somebody else, and never overwrite an anchor whose rev
//! is not the one it saw.

pub mod author;
mod bulk;
pub mod direct;
mod fetch;
mod group;
mod large;
mod long;
mod prepare;
mod rebuild;

use std::sync::Arc;
use std::time::Duration;

pub use bulk::Seen;
pub use fetch::{BODY_BYTES_MAX, Bodies, LONG_BODY_BYTES_MAX, NoBodies, SavedBody};
use group::Settled;
use large::Large;
pub(crate) use long::off_thread;
pub use long::{LongBody, Reading};
use prepare::{Prepared, Role};
pub(crate) use rebuild::Rebuilding;
pub use rebuild::rebuild;

use futures::future::BoxFuture;

use crate::blob::{BlobStore, Fetcher, ListedBlob, Pathname};
use crate::clock::Clock;
use crate::error::{ErrorKind, Result};
use crate::legible::legible;
use crate::mapping::{EntityId, Mapper, Rule};
use crate::plan::TimingPlan;
use crate::protocol::converge::{Converge, Done, Next, Purpose, Written};
use crate::protocol::group::Trust;
use crate::protocol::phase::Authority;
use crate::protocol::{Rev, Rules};
use crate::target::control::{Anchor, AnchorState, Control, MappedVersion, names};
use crate::target::{Outcome, Refusal, Write};
use crate::value::{Item, Key, Value};

/// How often a converge begins anew before it gives up; others must win that often in a row.
const ATTEMPTS: u8 = 8;
/// The first pause after a lost race; it doubles, with jitter, up to eight times this.
const PAUSE: Duration = Duration::from_millis(10);

/// How a converge ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Converged {
    /// Both sides were equal already.
    Equal,
    /// The mirror was made equal.
    Written,
    /// The mirror was made equal, and a newer blob has the items of its groups.
    Superseded,
    /// The mirror says that the blob can't be mapped, and why.
    Quarantined,
    /// An item that the blob maps to belongs to somebody else. Nothing was written.
    Collision {
        /// The item.
        key: Key,
        /// The pathname in its `_source`; none where it has none.
        owner: Option<String>,
    },
    /// Others kept writing, or no outcome could be learnt.
    GaveUp,
}

/// Whether this process may still write: its session's word.
pub trait Permit: Send + Sync {
    /// Called before each write.
    ///
    /// # Errors
    /// `WrongPhase` once the session is over.
    fn check(&self) -> Result<()>;

    /// Called after the anchor was read, and before the authority is.
    ///
    /// # Errors
    /// `WrongPhase` where this process may not go on.
    fn confirm(&self) -> BoxFuture<'_, Result<()>> {
        Box::pin(std::future::ready(Ok(())))
    }

    /// Whether a request to Blob may still be begun: not once whoever is inside is to leave.
    fn may_begin(&self) -> bool {
        true
    }

    /// Takes note that a request of this process may yet land, and that nobody made sure that it can't.
    fn in_doubt(&self) {}

    /// The session, for what is noted under it; empty where there is none.
    fn session(&self) -> String {
        String::new()
    }
}

/// What a converger works with.
#[derive(Clone)]
pub struct Converger {
    /// The authority, read past its caches, and the clocks.
    pub fetcher: Fetcher,
    /// The mirror: items and anchors.
    pub control: Control,
    /// The plan's entities.
    pub mapper: Arc<Mapper>,
    /// Bodies that need not be fetched again.
    pub bodies: Arc<dyn Bodies>,
    /// Whether this process may still write.
    pub permit: Arc<dyn Permit>,
    /// The store that is right. Where that is DynamoDB, what the application wrote to items itself is taken over, and
    /// never overwritten.
    pub authority: Authority,
    /// For how long what was sent to Blob may land.
    pub late: LateWrites,
}

/// For how long a write to Blob that got no answer may land.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LateWrites {
    /// One that the store refuses after a deadline: for so long the deadline is asked for.
    pub mirror_max: Duration,
    /// Any other. Zero: nothing lands late.
    pub max: Duration,
}

impl LateWrites {
    /// As a plan says.
    #[must_use]
    pub const fn of(timing: &TimingPlan) -> Self {
        Self { mirror_max: timing.mirror_late_max.0, max: timing.late_write_max.0 }
    }

    /// How long a write may land that has a deadline, or none.
    #[must_use]
    pub const fn window(self, ends: bool) -> Duration {
        if ends { self.mirror_max } else { self.max }
    }
}

impl std::fmt::Debug for Converger {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Converger").finish_non_exhaustive()
    }
}

type Machine = Converge<MappedVersion, Rev>;

/// What became of one transaction for one pathname.
enum Attempt {
    Written(Written<Rev>),
    Collision {
        key: Key,
        owner: Option<String>,
    },
    /// It may lack parts of the body that it would name, so it was not sent.
    NotSent,
}

impl Converger {
    /// The authority.
    #[must_use]
    pub fn source(&self) -> &Arc<dyn BlobStore> {
        &self.fetcher.source
    }

    /// The clocks.
    #[must_use]
    pub fn clock(&self) -> &Arc<dyn Clock> {
        &self.fetcher.clock
    }

    /// Makes the mirror of `pathname` equal to what the source holds. Safe to repeat, safe to run
    /// several times at once, safe to be killed at any moment.
    ///
    /// # Errors
    /// `WrongPhase` once the session is over; what the stores report, after their own retries.
    pub async fn converge(&self, pathname: &Pathname, purpose: Purpose) -> Result<Converged> {
        self.drive(pathname, Converge::new(Rules::SOUND, purpose, ATTEMPTS)).await
    }

    /// Does what the protocol asks for, to its end, and says so where that leaves a request in doubt.
    async fn drive(&self, pathname: &Pathname, machine: Machine) -> Result<Converged> {
        if let Some(entity) = self.directly_written(pathname) {
            return self.follow(pathname, entity).await;
        }
        let mut unknown = machine.doubts();
        let result = self.steps(pathname, machine, &mut unknown).await;
        let settled = matches!(
            &result,
            Ok(Converged::Equal | Converged::Written | Converged::Superseded | Converged::Quarantined)
        );
        if unknown && !settled {
            self.permit.in_doubt();
        }
        result
    }

    /// `unknown` is set once the outcome of a transaction could not be learnt.
    async fn steps(
        &self,
        pathname: &Pathname,
        mut machine: Machine,
        unknown: &mut bool,
    ) -> Result<Converged> {
        let entity = self.entity(pathname);
        let mut anchor: Option<Anchor> = None;
        let mut blob: Option<ListedBlob> = None;
        let mut large: Option<Large> = None;
        let mut ending = Converged::Written;
        let mut round = 0;
        loop {
            let (rev, attempt) = match (machine.next(), &large) {
                (Next::ReadMirror, _) => {
                    anchor = self.control.anchor(pathname).await?;
                    machine.mirror(Anchor::mirror(anchor.as_ref()));
                    continue;
                }
                (Next::ReadAuthority, _) => {
                    self.permit.confirm().await?;
                    // A pathname that no entity maps holds nothing as far as the mirror is concerned.
                    blob = match entity {
                        Some(_) => {
                            let head = self.source().head(pathname).await?;
                            head.map(|head| Anchor::as_known(anchor.as_ref(), head.blob))
                        }
                        None => None,
                    };
                    machine.authority(entity.and_then(|entity| self.mapped_version(entity, blob.as_ref())));
                    continue;
                }
                (Next::Write { change, .. }, _) => {
                    self.pause(&mut round).await;
                    // What an earlier round made of a long body makes room for this one.
                    (large, ending) = (None, Converged::Written);
                    let prepared =
                        self.prepare(pathname, entity, anchor.as_ref(), blob.as_ref(), &change).await?;
                    let Some(prepared) = prepared else {
                        machine.body_gone();
                        continue;
                    };
                    if !prepared.fits() {
                        if let Some((key, owner)) = self.taken(&prepared).await? {
                            return Ok(Converged::Collision { key, owner });
                        }
                        if matches!(prepared.anchor.state, AnchorState::Quarantined { .. }) {
                            ending = Converged::Quarantined;
                        }
                        let change = Large::new(prepared);
                        machine.in_parts(change.parts.len());
                        large = Some(change);
                        continue;
                    }
                    let own = prepared.keys().collect();
                    let settled = self.settle(&prepared.groups, &own, Trust::Nothing).await?;
                    ending = prepared.applied(&settled);
                    (prepared.anchor.rev.clone(), self.apply(&prepared, settled).await?)
                }
                (Next::Begin { .. }, Some(large)) => (large.pending.rev.clone(), self.begin(large).await?),
                (Next::Part { number, .. }, Some(large)) => {
                    (large.pending.rev.clone(), self.part(large, number).await?)
                }
                (Next::Finish { .. }, Some(large)) => (large.last.rev.clone(), self.finish(large).await?),
                (Next::Begin { .. } | Next::Part { .. } | Next::Finish { .. }, None) => {
                    unreachable!("invariant: only a large change has parts")
                }
                (Next::Done(done), _) => {
                    return Ok(match done {
                        Done::Equal => equal(anchor.as_ref()),
                        Done::Written => ending,
                        Done::GaveUp => Converged::GaveUp,
                    });
                }
            };
            match attempt {
                Attempt::Collision { key, owner } => return Ok(Converged::Collision { key, owner }),
                Attempt::Written(written) => {
                    *unknown |= written == Written::Unknown;
                    machine.written(&rev, &written);
                }
                Attempt::NotSent => machine.body_gone(),
            }
        }
    }

    fn entity(&self, pathname: &Pathname) -> Option<EntityId> {
        if let Rule::Entity(entity) = self.mapper.rule(pathname) { Some(entity) } else { None }
    }

    fn mapped_version(&self, entity: EntityId, blob: Option<&ListedBlob>) -> Option<MappedVersion> {
        let version = blob?.version();
        Some(MappedVersion { version, mapping: self.mapper.digest(entity) })
    }

    /// Waits a little from the second round on, so that two convergers do not march in step.
    async fn pause(&self, round: &mut u32) {
        use rand::RngExt as _;
        if *round > 0 {
            let longest = PAUSE * 2u32.pow((*round).min(3));
            let jitter = rand::rng().random_range(0.5..1.0);
            self.clock().sleep(longest.mul_f64(jitter)).await;
        }
        *round += 1;
    }

    /// Sends one prepared change.
    async fn apply(&self, prepared: &Prepared, settled: Settled) -> Result<Attempt> {
        self.permit.check()?;
        let (seen, anchor) = (prepared.seen.as_ref(), &prepared.anchor);
        let bodies = prepared.bodies();
        let apart = bodies.is_none();
        if apart && !self.stored(&prepared.rows, &[anchor], seen).await? {
            return Ok(Attempt::NotSent);
        }
        let mut writes = prepared.writes();
        writes.extend(prepared.beside.iter().cloned());
        writes.extend(bodies.into_iter().flatten());
        writes.extend(settled.writes);
        let sent = self.send(&anchor.rev, writes).await?;
        if apart {
            self.drop_unnamed(prepared, &sent).await;
        }
        Ok(match sent {
            Sent::Applied => Attempt::Written(Written::Applied),
            Sent::Unknown => Attempt::Written(Written::Unknown),
            Sent::Moved => Attempt::Written(Written::Refused { found: None }),
            Sent::Raced(found) => {
                Attempt::Written(Written::Refused { found: found.as_ref().and_then(Anchor::rev_of) })
            }
            Sent::Collision { key, owner } => Attempt::Collision { key, owner },
        })
    }

    /// Removes what was stored before a transaction, or had been stored before the last one, and is named by
    /// nothing now.
    async fn drop_unnamed(&self, prepared: &Prepared, sent: &Sent) {
        let (seen, anchor) = (prepared.seen.as_ref(), &prepared.anchor);
        match sent {
            Sent::Applied => self.drop_beside(seen, Some(anchor)).await,
            Sent::Unknown => {}
            Sent::Raced(Some(found)) if Anchor::rev_of(found).as_ref() == Some(&anchor.rev) => {
                self.drop_beside(seen, Some(anchor)).await;
            }
            Sent::Raced(found) => self.drop_new(prepared, found.as_ref()).await,
            Sent::Moved | Sent::Collision { .. } => self.drop_new(prepared, None).await,
        }
    }

    /// Stores rows beside anchors, and the pages of keys that `seen` does not have; says whether all of them
    /// are there for sure.
    async fn stored(&self, rows: &[Item], anchors: &[&Anchor], seen: Option<&Anchor>) -> Result<bool> {
        match self.put_beside(rows.to_vec(), anchors, seen).await {
            Err(error) if error.kind() == ErrorKind::OutcomeUnknown => Ok(false),
            stored => stored.map(|()| true),
        }
    }

    async fn put_beside(&self, rows: Vec<Item>, anchors: &[&Anchor], seen: Option<&Anchor>) -> Result<()> {
        self.control.put_rows(rows).await?;
        let known = seen.and_then(|seen| seen.pages.as_ref());
        for anchor in anchors {
            if let Some(pages) = anchor.pages.as_ref().filter(|pages| Some(*pages) != known) {
                self.control.put_keys(&anchor.pathname, pages, &anchor.items).await?;
            }
        }
        Ok(())
    }

    /// Sends a transaction.
    async fn send(&self, rev: &Rev, mut writes: Vec<(Role, Write)>) -> Result<Sent> {
        // A token stands for one request: what leaves out a removal is another one.
        let mut token = rev.to_string();
        loop {
            let request = writes.iter().map(|(_, write)| write.clone()).collect();
            let refusals = match self.control.store().transact(&token, request).await {
                Ok(Outcome::Applied) => return Ok(Sent::Applied),
                Ok(Outcome::Refused(refusals)) => refusals,
                Err(error) if error.kind() == ErrorKind::OutcomeUnknown => return Ok(Sent::Unknown),
                Err(error) => return Err(error),
            };
            if let Some(sent) = judge_refusals(&writes, &refusals) {
                return Ok(sent);
            }
            // Items that were to be removed are somebody else's by now: they are left to them. Each
            // round leaves out at least one removal, so this ends.
            token = names::token();
            let mut number = 0;
            writes.retain(|_| {
                number += 1;
                !refusals.iter().any(|refusal| refusal.action == number - 1)
            });
        }
    }

    /// Removes the body and the pages of keys that nothing names any more, now that `present` is the anchor.
    async fn drop_beside(&self, former: Option<&Anchor>, present: Option<&Anchor>) {
        let Some(former) = former else { return };
        let body = former
            .body
            .as_ref()
            .filter(|body| present.is_none_or(|anchor| anchor.body.as_ref() != Some(body)));
        let pages = former
            .pages
            .as_ref()
            .filter(|pages| present.is_none_or(|anchor| anchor.pages.as_ref() != Some(pages)));
        let dropped = async {
            if let Some(body) = body {
                self.control.drop_body(&former.pathname, body).await?;
            }
            match pages {
                Some(pages) => self.control.drop_keys(&former.pathname, pages).await,
                None => Ok(()),
            }
        };
        if let Err(error) = dropped.await {
            tracing::debug!(pathname = %former.pathname, %error, "an unreferenced row remains");
        }
    }

    /// Removes what was stored for a change that was refused because of the anchor `found`; but not where
    /// that anchor names it: an earlier attempt was applied, and another writer renewed its rev.
    async fn drop_new(&self, prepared: &Prepared, found: Option<&Item>) {
        let named = found.is_some_and(|found| prepared.anchor.names_as(found));
        if !named {
            self.drop_beside(Some(&prepared.anchor), prepared.seen.as_ref()).await;
        }
    }
}

/// How a converge ended that found nothing to do.
fn equal(anchor: Option<&Anchor>) -> Converged {
    match anchor.map(|anchor| &anchor.state) {
        Some(AnchorState::Quarantined { .. }) => Converged::Quarantined,
        _ => Converged::Equal,
    }
}

/// What became of one transaction.
enum Sent {
    Applied,
    Unknown,
    /// The anchor is not the one that was seen: this one is there.
    Raced(Option<Item>),
    /// Another member of a group was faster, or an item is not what it was when it was read.
    Moved,
    /// An item to be stored is somebody else's.
    Collision {
        key: Key,
        owner: Option<String>,
    },
}

/// What a refusal means; none where only items that were to be removed are somebody else's.
fn judge_refusals(writes: &[(Role, Write)], refusals: &[Refusal]) -> Option<Sent> {
    let of = |wanted: fn(&Role) -> bool| {
        refusals.iter().find(|refusal| writes.get(refusal.action).is_some_and(|(role, _)| wanted(role)))
    };
    if let Some(refusal) = of(|role| *role == Role::Anchor) {
        return Some(Sent::Raced(refusal.found.clone()));
    }
    if of(|role| matches!(role, Role::Group | Role::Member | Role::AsRead)).is_some() {
        return Some(Sent::Moved);
    }
    let refusal = of(|role| matches!(role, Role::Put(_)))?;
    let Role::Put(key) = &writes[refusal.action].0 else { return None };
    Some(Sent::Collision { key: key.clone(), owner: refusal.found.as_ref().and_then(owner) })
}

/// The pathname in an item's `_source`.
#[must_use]
pub fn owner(item: &Item) -> Option<String> {
    let pathname = item.get(SOURCE)?.as_m()?.get("pathname")?.as_s()?;
    (!pathname.is_empty()).then(|| pathname.to_owned())
}

/// What people are told of an item's owner.
pub(crate) fn owner_name(owner: Option<&str>) -> String {
    owner.map_or_else(|| "the application".to_owned(), |owner| format!("`{}`", legible(owner)))
}

/// The rev in an item's `_source`.
#[must_use]
pub fn source_rev(item: &Item) -> Option<&str> {
    item.get(SOURCE)?.as_m()?.get("rev")?.as_s()
}

/// The one attribute of ours in an item of the application: a map of `pathname` and `rev`.
pub const SOURCE: &str = "_source";

/// `_source` of an item.
pub(crate) fn source_value(pathname: &Pathname, rev: &Rev) -> Value {
    Value::M(
        [("pathname".to_owned(), Value::s(pathname.as_str())), ("rev".to_owned(), Value::s(rev.as_str()))]
            .into(),
    )
}

/// A new rev for a write.
fn new_rev() -> Rev {
    names::new_rev()
}
