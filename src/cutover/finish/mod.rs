//! What is left to do in phase `final`, when nothing is mirrored any more: the control table goes to a file, the retained
//! bytes go, and where it is asked for `_source` and the blobs.
//!
//! Each step can be stopped at any moment and run again. Nothing is removed before the archive was written and read back.

mod archive;
mod source;

use futures::stream::{self, StreamExt as _, TryStreamExt as _};
use serde::Serialize;
use tokio_util::sync::CancellationToken;

pub use self::archive::{Archive, archive, check_place};
pub use self::source::{Deletable, Deleted, SourceCopy};
use super::Cutover;
use crate::converge::{SOURCE, source_rev};
use crate::error::{Error, ErrorKind, Result};
use crate::event::{Event, Task};
use crate::gate::{Facts, Gate, GateState, judge};
use crate::protocol::phase::Phase;
use crate::target::control::{Anchor, Mode, SessionRow, SessionState, names};
use crate::target::store::{CONTROL_PARTITION_KEY, CONTROL_SORT_KEY, Condition, Outcome, Scan, Table, Write};
use crate::value::{Item, Key, Value};

const OPERATION: &str = "finish the migration";
/// How many items and rows are changed at a time.
const CONCURRENCY: usize = 32;
/// How often all items are looked at, where others change while they are stripped.
const PASSES_MAX: u32 = 5;

/// What was removed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Removed {
    /// Anchors that named retained bytes.
    pub anchors: u64,
    /// Rows of retained bytes.
    pub rows: u64,
    /// Items that bore `_source`; none where that was not asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stripped: Option<u64>,
}

impl Cutover<'_> {
    /// Makes sure that this is phase `final`, and that no process is left that could write.
    ///
    /// # Errors
    /// `WrongPhase` where it is another phase, or a session is open.
    pub async fn finishing(&self) -> Result<Mode> {
        let mode = self.control().mode().await?;
        let Some(mode) = mode.filter(|mode| mode.phase == Phase::Final) else {
            return Err(Error::new(ErrorKind::WrongPhase, OPERATION).message("this is not phase final"));
        };
        self.nobody_writes().await?;
        Ok(mode)
    }

    /// Makes sure that no session is open.
    ///
    /// # Errors
    /// `WrongPhase`, with the names of those that are.
    pub async fn nobody_writes(&self) -> Result<()> {
        let sessions = self.control().sessions().await?;
        let open = sessions.iter().filter(|session| session.state == SessionState::Open);
        let names: Vec<String> =
            open.map(|SessionRow { name, kind, .. }| format!("{name} ({kind})")).collect();
        if names.is_empty() {
            return Ok(());
        }
        Err(Error::new(ErrorKind::WrongPhase, OPERATION)
            .message(format!("processes that can write are still running: {}", names.join(", ")))
            .hint(
                "stop them: in phase final they mirror nothing, and answer nobody. One whose machine is gone is named \
                 with --without NAME",
            ))
    }

    /// How the gate `drift-free` stands: whether Blob was found to hold nothing that DynamoDB does not.
    ///
    /// # Errors
    /// What the store reports.
    pub async fn drift_free(&self, mode: &Mode) -> Result<GateState> {
        let now = self.clock().now();
        let facts = Facts::read(self.control(), now, self.plan_hash, mode.epoch, self.plan).await?;
        Ok(judge(Gate::DriftFree, (Phase::Cutover, Phase::Final), &facts))
    }

    /// Removes the retained bytes: first the anchors' word of them, each under its rev, then their rows, also those that
    /// nothing named. Returns how many.
    ///
    /// # Errors
    /// `Interrupted`; what the store reports.
    pub async fn drop_bytes(&self, cancel: &CancellationToken) -> Result<(u64, u64)> {
        self.events.report(Event::Started { task: Task::Drop, total: None });
        let mut anchors = 0;
        for shard in 0..names::SHARDS {
            let mut after = None;
            loop {
                interrupted(cancel)?;
                let (page, next) = self.control().anchors_of_shard(shard, after).await?;
                let named: Vec<Anchor> = page.into_iter().filter(|anchor| anchor.body.is_some()).collect();
                let cleared: Vec<bool> = stream::iter(named)
                    .map(|anchor| async move { self.forget_body(anchor).await })
                    .buffer_unordered(CONCURRENCY)
                    .try_collect()
                    .await?;
                let count = cleared.into_iter().filter(|cleared| *cleared).count() as u64;
                anchors += count;
                self.events.report(Event::Advanced { task: Task::Drop, by: count });
                after = next;
                if after.is_none() {
                    break;
                }
            }
        }
        let mut rows = 0;
        let parts = (CONTROL_PARTITION_KEY, CONTROL_SORT_KEY);
        let keys = vec![parts.0.to_owned(), parts.1.to_owned()];
        let mut scan = Scan { only: keys, ..Scan::share(0, 1) };
        loop {
            interrupted(cancel)?;
            let page = self.control().store().scan(Table::Control, &scan).await?;
            let keys = page.items.iter().map(|item| Key::of(item, parts));
            let bodies: Vec<Key> = keys.filter(names::is_of_a_body).collect();
            rows += bodies.len() as u64;
            stream::iter(bodies)
                .map(|key| async move {
                    let delete = Write::Delete { table: Table::Control, key, condition: Condition::Always };
                    self.control().store().transact(&names::token(), vec![delete]).await.map(drop)
                })
                .buffer_unordered(CONCURRENCY)
                .try_collect::<Vec<()>>()
                .await?;
            scan.after = page.next;
            if scan.after.is_none() {
                self.events.report(Event::Finished { task: Task::Drop });
                return Ok((anchors, rows));
            }
        }
    }

    /// An anchor that names no bytes any more, if it is still as it was seen.
    async fn forget_body(&self, anchor: Anchor) -> Result<bool> {
        let (seen, rev) = (anchor.rev.clone(), names::new_rev());
        let bare = Anchor { rev, body: None, ..anchor };
        let write = bare.write(Some(&seen));
        let outcome = self.control().store().transact(bare.rev.as_str(), vec![write]).await?;
        Ok(outcome == Outcome::Applied)
    }

    /// Removes `_source` from all items that bear it, each if it still bears the same; whatever else of them changes
    /// meanwhile stays. Returns how many.
    ///
    /// # Errors
    /// `Busy` where others keep changing it; `Interrupted`; what the store reports.
    pub async fn strip(&self, cancel: &CancellationToken) -> Result<u64> {
        let target = &self.plan.target;
        let only =
            [&target.partition_key, &target.sort_key, SOURCE].map(|name: &str| name.to_owned()).to_vec();
        self.events.report(Event::Started { task: Task::Strip, total: None });
        let mut stripped = 0;
        for _ in 0..PASSES_MAX {
            let mut left = 0;
            let mut scan = Scan { only: only.clone(), ..Scan::share(0, 1) };
            loop {
                interrupted(cancel)?;
                let page = self.control().store().scan(Table::Data, &scan).await?;
                let marked: Vec<Item> =
                    page.items.into_iter().filter(|item| item.contains_key(SOURCE)).collect();
                let count = marked.len() as u64;
                let done: Vec<bool> = stream::iter(marked)
                    .map(|item| async move { self.unmark(&item).await })
                    .buffer_unordered(CONCURRENCY)
                    .try_collect()
                    .await?;
                let done = done.into_iter().filter(|done| *done).count() as u64;
                stripped += done;
                left += count - done;
                self.events.report(Event::Advanced { task: Task::Strip, by: done });
                scan.after = page.next;
                if scan.after.is_none() {
                    break;
                }
            }
            if left == 0 {
                self.events.report(Event::Finished { task: Task::Strip });
                return Ok(stripped);
            }
        }
        Err(Error::new(ErrorKind::Busy, "strip items").message("somebody keeps changing `_source`").hint(
            "no process of this program does in phase final: find who does, then run the same command again",
        ))
    }

    async fn unmark(&self, item: &Item) -> Result<bool> {
        let target = &self.plan.target;
        let condition = match source_rev(item) {
            Some(rev) => Condition::equals([SOURCE, "rev"], Value::s(rev)),
            None => Condition::Present,
        };
        let write = Write::Set {
            table: Table::Data,
            key: Key::of(item, (&target.partition_key, &target.sort_key)),
            name: SOURCE.to_owned(),
            value: None,
            condition,
        };
        match self.control().store().transact(&names::token(), vec![write]).await? {
            Outcome::Applied => Ok(true),
            // Gone, or another one's work.
            Outcome::Refused(refusals) => Ok(refusals
                .iter()
                .all(|refusal| refusal.found.as_ref().is_none_or(|item| !item.contains_key(SOURCE)))),
        }
    }
}

fn interrupted(cancel: &CancellationToken) -> Result<()> {
    if cancel.is_cancelled() { Err(Error::new(ErrorKind::Interrupted, OPERATION)) } else { Ok(()) }
}
