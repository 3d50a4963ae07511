//! Runs every blob of a snapshot through the plan.

use std::collections::BTreeMap;
use std::sync::Arc;

use tokio_util::sync::CancellationToken;

use super::ledger::{Ledger, Summary};
use super::price;
use super::report::{Blobs, CheckReport, Quarantined, ReasonCount};
use crate::blob::Pathname;
use crate::clock::Clock;
use crate::converge::Reading;
use crate::error::{Error, ErrorKind, Result};
use crate::event::{Event, Events, Task};
use crate::mapping::{BlobFacts, EntityId, Mapper, Position, Quarantine, Reason, Rule};
use crate::plan::Plan;
use crate::snapshot::{Snapshot, SnapshotBlob};

pub(super) const OPERATION: &str = "check the plan";

/// How many blobs are read from the snapshot at a time.
const PAGE: u32 = 500;
/// How many names of a kind a report shows.
const EXAMPLES_MAX: usize = 20;
/// How many blobs of the quarantine it shows.
const QUARANTINED_MAX: usize = 1_000;

/// A plan, and how to run a snapshot through it.
pub struct Check {
    /// What the plan says.
    pub plan: Arc<Plan>,
    /// Its rules, compiled.
    pub mapper: Arc<Mapper>,
    /// Says what a passed TTL is.
    pub clock: Arc<dyn Clock>,
    /// Hears of the progress.
    pub events: Events,
}

/// What is counted while the blobs go by.
#[derive(Default)]
struct Tally {
    blobs: Blobs,
    unread: Vec<Pathname>,
    unmatched: Vec<Pathname>,
    ambiguous: Vec<Pathname>,
    /// Blobs, and those in quarantine, of each entity.
    of_entities: Vec<[u64; 2]>,
    reasons: BTreeMap<Reason, u64>,
    quarantined: Vec<Quarantined>,
}

impl Check {
    /// Accounts for every blob of a snapshot.
    ///
    /// # Errors
    /// `Usage` for another store's snapshot, `Corrupt` for a damaged one, `Interrupted`; `Internal` where
    /// its notes can't be kept on disk.
    pub async fn run(&self, snapshot: &Snapshot, cancel: &CancellationToken) -> Result<CheckReport> {
        self.is_ours(snapshot)?;
        let manifest = snapshot.manifest().await?;
        let total = manifest.as_ref().map(|manifest| manifest.listed);
        self.events.report(Event::Started { task: Task::Check, total });
        let ledger = Ledger::new(&self.plan)?;
        let mut tally = Tally { of_entities: vec![[0; 2]; self.plan.entities.len()], ..Tally::default() };
        let mut after = None;
        loop {
            let page = snapshot.blobs(after.as_ref(), PAGE).await?;
            let Some(last) = page.last() else { break };
            after = Some(last.pathname.clone());
            for blob in &page {
                if cancel.is_cancelled() {
                    return Err(Error::new(ErrorKind::Interrupted, OPERATION)
                        .message("interrupted")
                        .hint("nothing was written; run the same command again"));
                }
                self.blob(snapshot, blob, &ledger, &mut tally).await?;
            }
            self.events.report(Event::Advanced { task: Task::Check, by: page.len() as u64 });
        }
        let summary = ledger.finish(&self.plan)?;
        self.events.report(Event::Finished { task: Task::Check });
        let Summary { mut entities, collision_count, collisions, hot_keys, twin_count, twins, .. } = summary;
        for (entity, [blobs, quarantined]) in entities.iter_mut().zip(tally.of_entities) {
            (entity.blobs, entity.quarantined) = (blobs, quarantined);
        }
        let reasons = tally.reasons.into_iter().map(|(reason, blobs)| ReasonCount { reason, blobs });
        Ok(CheckReport {
            snapshot_complete: manifest.is_some(),
            blobs: Blobs {
                written: summary.written,
                superseded: summary.superseded,
                colliding: summary.colliding,
                ..tally.blobs
            },
            entities,
            reasons: reasons.collect(),
            quarantined: tally.quarantined,
            unread_names: tally.unread,
            unmatched_names: tally.unmatched,
            ambiguous_names: tally.ambiguous,
            collision_count,
            collisions,
            hot_keys,
            twin_count,
            twins,
            load_units: summary.load_units,
            cost_usd: price::cost_usd(summary.load_units),
            prices: price::PRICES,
        })
    }

    pub(super) fn is_ours(&self, snapshot: &Snapshot) -> Result<()> {
        let (stored, store) = (snapshot.store(), &self.plan.source.store);
        if stored == store {
            return Ok(());
        }
        Err(Error::new(ErrorKind::Usage, OPERATION)
            .key(snapshot.path().display())
            .message(format!("the snapshot belongs to the store `{stored}`, not to `{store}`"))
            .hint("name another file with --snapshot"))
    }

    async fn blob(
        &self,
        snapshot: &Snapshot,
        blob: &SnapshotBlob,
        ledger: &Ledger,
        tally: &mut Tally,
    ) -> Result<()> {
        let pathname = &blob.pathname;
        let keep = |names: &mut Vec<Pathname>| {
            if names.len() < EXAMPLES_MAX {
                names.push(pathname.clone());
            }
        };
        tally.blobs.listed += 1;
        ledger.name(pathname)?;
        match self.mapper.rule(pathname) {
            Rule::Entity(entity) => {
                tally.of_entities[entity.0][0] += 1;
                if !self.mapped(snapshot, blob, entity, ledger, tally).await? {
                    tally.blobs.unread += 1;
                    keep(&mut tally.unread);
                }
            }
            Rule::Ignored { .. } => tally.blobs.ignored += 1,
            Rule::Accepted { .. } => tally.blobs.accepted += 1,
            Rule::Unmatched => {
                tally.blobs.unmatched += 1;
                keep(&mut tally.unmatched);
            }
            Rule::Ambiguous(_) => {
                tally.blobs.ambiguous += 1;
                keep(&mut tally.ambiguous);
            }
        }
        Ok(())
    }

    /// A blob of an entity; false where its body is not in the snapshot.
    async fn mapped(
        &self,
        snapshot: &Snapshot,
        blob: &SnapshotBlob,
        entity: EntityId,
        ledger: &Ledger,
        tally: &mut Tally,
    ) -> Result<bool> {
        let pathname = &blob.pathname;
        let Some(body) = snapshot.body(pathname, &blob.version.etag).await? else { return Ok(false) };
        let facts = BlobFacts { pathname, uploaded_at: blob.version.uploaded_at };
        let (number, now) = (tally.blobs.listed, self.clock.now());
        let mapped = match Reading::of(&self.mapper, entity, (pathname, facts.uploaded_at), &body).await? {
            Reading::Whole(bytes) => self.mapper.map(entity, facts, &bytes, now),
            Reading::Quarantined(quarantine) => Err(quarantine),
            Reading::Long(long) => match long.scan(now, (), |(), _, _| {}).await? {
                Ok(_) => {
                    ledger.blob(number, facts)?;
                    let mut records = long.records(now, Position::default())?;
                    while let Some((_, items)) = records.next_part().map_err(|halt| long.changed(halt))? {
                        ledger.items(number, facts, entity, &items)?;
                    }
                    return Ok(true);
                }
                Err(quarantine) => Err(quarantine),
            },
        };
        match mapped {
            Ok(items) => {
                ledger.blob(number, facts)?;
                ledger.items(number, facts, entity, &items)?;
            }
            Err(quarantine) => tally.quarantine(self.mapper.name(entity), entity, pathname, quarantine),
        }
        Ok(true)
    }
}

impl Tally {
    fn quarantine(&mut self, name: &str, entity: EntityId, pathname: &Pathname, quarantine: Quarantine) {
        self.blobs.quarantined += 1;
        self.of_entities[entity.0][1] += 1;
        *self.reasons.entry(quarantine.reason).or_default() += 1;
        if self.quarantined.len() < QUARANTINED_MAX {
            self.quarantined.push(Quarantined {
                pathname: pathname.clone(),
                entity: name.to_owned(),
                reason: quarantine.reason,
                detail: quarantine.detail,
                offset: quarantine.offset,
            });
        }
    }
}
