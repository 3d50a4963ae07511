//! A whole comparison, in both directions.

use std::collections::{BTreeSet, HashSet};
use std::sync::Arc;
use std::time::Duration;

use futures::stream::{self, StreamExt as _, TryStreamExt as _};
use serde::Serialize;
use tokio_util::sync::CancellationToken;

use super::compare::{Pair, compare};
use super::drift::Drift;
use super::ledger::{Claim, Ledger};
use super::live::Bypass;
use super::long::Judged;
use super::report::SweepReport;
use super::self_test;
use super::walk::Walk;
use crate::blob::Pathname;
use crate::blob::spool::unwritten;
use crate::converge::{Converger, SOURCE, Seen, owner, source_rev};
use crate::error::{Error, ErrorKind, Result};
use crate::event::{Event, Events, Task};
use crate::mapping::Rule;
use crate::plan::TargetPlan;
use crate::protocol::Rev;
use crate::target::control::{Anchor, AnchorState, names};
use crate::target::store::Scan;
use crate::target::{Page, Table};
use crate::value::{Item, Key};

/// How many pathnames are compared together.
const BATCH: usize = 200;
/// Bodies read, and keys judged, at a time.
const CONCURRENCY: usize = 8;
/// Into how many shares the data table's scan is cut.
const SEGMENTS: u32 = 4;

/// How deep a comparison looks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Level {
    /// Versions, revs and keys.
    Inventory,
    /// Every attribute of every item, recomputed from the bodies, and the retained bytes.
    Content,
}

/// A comparison of both stores.
#[derive(Debug, Clone, Copy)]
pub struct Sweep<'a> {
    /// Both stores, and the plan's entities.
    pub converger: &'a Converger,
    /// The data table's keys and TTL.
    pub target: &'a TargetPlan,
    /// Only blobs whose pathnames begin so.
    pub prefix: &'a str,
    /// How deep to look.
    pub level: Level,
    /// Whether to settle what is found.
    pub repair: bool,
    /// Whether a store in which nothing is listed may pass.
    pub allow_empty: bool,
    /// How long to wait before a moving key is looked at again; grows with each look.
    pub patience: Duration,
}

/// Counts on the way.
#[derive(Default)]
struct Tally {
    items: u64,
    items_compared: u64,
    other_items: u64,
    ignored: u64,
    accepted: u64,
    superseded: u64,
    unmapped: Vec<(Pathname, String)>,
    equal: usize,
    planted: u64,
    found: u64,
    bypassed: Vec<Bypass>,
}

impl Sweep<'_> {
    /// Compares everything: all blobs with their anchors, all anchors with their blobs, all items with
    /// their anchors; what differs is judged again, singly; with `repair`, it is settled.
    ///
    /// # Errors
    /// `Interrupted` when cancelled; what the stores report. A sweep that fails proves nothing.
    pub async fn run(&self, events: &Events, cancel: &CancellationToken) -> Result<SweepReport> {
        let began = self.converger.clock().now();
        let ledger = Ledger::new()?;
        let mut tally = Tally::default();
        self.blobs(&ledger, &mut tally, events, cancel).await?;
        self.anchors(&ledger, cancel).await?;
        self.items(&ledger, &mut tally, events, cancel).await?;
        ledger.suspect_the_rest()?;
        let (drift, remaining) = self.suspects(&ledger, &mut tally, events, cancel).await?;
        let [listed, compared, anchored, anchors_compared] = ledger.coverage()?;
        Ok(SweepReport {
            began,
            ended: self.converger.clock().now(),
            level: self.level,
            listed,
            compared,
            anchored,
            anchors_compared,
            items: tally.items,
            items_compared: tally.items_compared,
            other_items: tally.other_items,
            ignored: tally.ignored,
            accepted: tally.accepted,
            superseded: tally.superseded,
            unmapped: tally.unmapped,
            planted: tally.planted,
            found: tally.found,
            drift,
            remaining: self.repair.then_some(remaining),
            bypassed: tally.bypassed,
            mirror: None,
            allow_empty: self.allow_empty,
        })
    }

    /// All blobs against their anchors, and at the content level against their items.
    async fn blobs(
        &self,
        ledger: &Ledger,
        tally: &mut Tally,
        events: &Events,
        cancel: &CancellationToken,
    ) -> Result<()> {
        let Converger { control, mapper, .. } = self.converger;
        let mut walk =
            Walk::new(Arc::clone(self.converger.source()), control.clone(), Arc::clone(mapper), self.prefix);
        events.report(Event::Started { task: Task::Sweep, total: None });
        while let Some(page) = walk.next().await? {
            tally.ignored += page.ignored;
            tally.accepted += page.accepted;
            tally.unmapped.extend(page.unmapped);
            ledger.listed(page.mapped.iter().map(|seen| &seen.pathname))?;
            for batch in page.mapped.chunks(BATCH) {
                interrupted(cancel)?;
                self.batch(ledger, tally, batch).await?;
                events.report(Event::Advanced { task: Task::Sweep, by: batch.len() as u64 });
            }
        }
        events.report(Event::Finished { task: Task::Sweep });
        Ok(())
    }

    async fn batch(&self, ledger: &Ledger, tally: &mut Tally, batch: &[Seen]) -> Result<()> {
        let pairs: Vec<Option<Pair>> =
            stream::iter(batch).map(|seen| self.pair(seen)).buffered(CONCURRENCY).try_collect().await?;
        let moving =
            batch.iter().zip(&pairs).filter(|(_, pair)| pair.is_none()).map(|(seen, _)| &seen.pathname);
        ledger.suspect(moving)?;
        let mut pairs: Vec<Pair> = pairs.into_iter().flatten().collect();
        match self.level {
            Level::Content => self.load(&mut pairs).await?,
            Level::Inventory => self.load_groups(&mut pairs).await?,
        }
        let rules = self.rules();
        let mut equal = Vec::new();
        for pair in pairs {
            if compare(&pair, rules).is_empty() {
                if tally.equal < self_test::PAIRS && pair.blob.is_some() {
                    tally.equal += 1;
                    let (planted, found) = self_test::spoil(&pair, rules);
                    tally.planted += planted;
                    tally.found += found;
                }
                tally.superseded += u64::from(pair.is_superseded());
                equal.push(pair.pathname);
            } else {
                ledger.suspect([&pair.pathname])?;
            }
        }
        ledger.judged(&equal)
    }

    /// What was seen of a pathname, with what its body maps to at the content level. None where it has to be
    /// judged singly: the source holds another version by now, its content can't be read, or is long.
    async fn pair(&self, seen: &Seen) -> Result<Option<Pair>> {
        let mut pair = Pair::bare(seen.pathname.clone(), seen.anchor.clone(), seen.blob.clone());
        let Rule::Entity(entity) = self.converger.mapper.rule(&seen.pathname) else { return Ok(Some(pair)) };
        pair.mapping = Some(self.converger.mapper.digest(entity));
        if let (Level::Content, Some(blob)) = (self.level, &seen.blob) {
            match self.converger.fetch(blob).await {
                // A long one is judged singly.
                Ok(Some(body)) if body.body.is_long() => return Ok(None),
                Ok(Some(body)) => {
                    let bytes = body.body.bytes().map_err(unwritten)?;
                    self.expect(&mut pair, entity, blob, &bytes);
                    match self.add_keys(&mut pair).await {
                        Ok(true) => {}
                        Err(error) if error.kind() != ErrorKind::Corrupt => return Err(error),
                        Ok(false) | Err(_) => return Ok(None),
                    }
                }
                Ok(None) => return Ok(None),
                Err(error) if error.kind().is_of_one_key() => return Ok(None),
                Err(error) => return Err(error),
            }
        }
        Ok(Some(pair))
    }

    /// Adds the keys that lie in pages; says whether it is still the anchor that was seen.
    async fn add_keys(&self, pair: &mut Pair) -> Result<bool> {
        let Some(anchor) = pair.anchor.take_if(|anchor| anchor.pages.is_some()) else { return Ok(true) };
        let rev = anchor.rev.clone();
        pair.anchor = self.converger.control.with_keys(anchor).await?;
        Ok(pair.anchor.as_ref().is_some_and(|anchor| anchor.rev == rev))
    }

    /// All anchors: what they name is written down.
    async fn anchors(&self, ledger: &Ledger, cancel: &CancellationToken) -> Result<()> {
        for shard in 0..names::SHARDS {
            let mut after = None;
            loop {
                interrupted(cancel)?;
                let (anchors, next) = self.converger.control.anchors_of_shard(shard, after).await?;
                let holding = anchors.iter().filter(|anchor| anchor.state != AnchorState::Tombstone);
                ledger.anchored(holding.map(|anchor| &anchor.pathname))?;
                let claims = anchors.iter().flat_map(|anchor| claims_of(anchor, &anchor.items));
                ledger.claims(claims)?;
                for anchor in anchors.iter().filter(|anchor| anchor.pages.is_some()) {
                    self.claims_in_pages(ledger, anchor).await?;
                }
                self.claims_of_groups(ledger, &anchors).await?;
                after = next;
                if after.is_none() {
                    break;
                }
            }
        }
        Ok(())
    }

    async fn claims_in_pages(&self, ledger: &Ledger, anchor: &Anchor) -> Result<()> {
        let control = &self.converger.control;
        let complete = control.key_pages(anchor, |keys| ledger.claims(claims_of(anchor, &keys))).await?;
        if complete {
            return Ok(());
        }
        match control.anchor(&anchor.pathname).await {
            Ok(now) => now.map_or(Ok(()), |now| ledger.claims(claims_of(&now, &now.items))),
            Err(error) if error.kind() == ErrorKind::Corrupt => ledger.suspect([&anchor.pathname]),
            Err(error) => Err(error),
        }
    }

    /// A group's item is named by the anchor of the member that has it.
    async fn claims_of_groups(&self, ledger: &Ledger, anchors: &[Anchor]) -> Result<()> {
        let keys: BTreeSet<&Key> =
            anchors.iter().flat_map(|anchor| anchor.groups.iter().map(|group| &group.key)).collect();
        let groups = self.converger.control.groups(keys).await?;
        let claims = anchors.iter().flat_map(|anchor| {
            let held = anchor.groups.iter().filter_map(|group| groups.get(&group.key));
            let held = held.filter(|group| super::judge::has(group, anchor));
            held.map(|group| (&group.key, &anchor.pathname, group.items_rev.as_ref().map_or("", Rev::as_str)))
        });
        ledger.claims(claims)
    }

    /// All items against what the anchors name.
    async fn items(
        &self,
        ledger: &Ledger,
        tally: &mut Tally,
        events: &Events,
        cancel: &CancellationToken,
    ) -> Result<()> {
        events.report(Event::Started { task: Task::Scan, total: None });
        let only = vec![self.target.partition_key.clone(), self.target.sort_key.clone(), SOURCE.to_owned()];
        let mut segments: Vec<Scan> = (0..SEGMENTS)
            .map(|segment| Scan { only: only.clone(), ..Scan::share(segment, SEGMENTS) })
            .collect();
        while !segments.is_empty() {
            interrupted(cancel)?;
            let store = self.converger.control.store();
            let pages: Vec<Page> = stream::iter(&segments)
                .map(|scan| store.scan(Table::Data, scan))
                .buffered(SEGMENTS as usize)
                .try_collect()
                .await?;
            let mut open = Vec::new();
            for (scan, page) in segments.into_iter().zip(pages) {
                let count = page.items.len() as u64;
                for item in page.items {
                    self.met(ledger, tally, &item)?;
                }
                events.report(Event::Advanced { task: Task::Scan, by: count });
                if page.next.is_some() {
                    open.push(Scan { after: page.next, ..scan });
                }
            }
            segments = open;
        }
        events.report(Event::Finished { task: Task::Scan });
        Ok(())
    }

    fn met(&self, ledger: &Ledger, tally: &mut Tally, item: &Item) -> Result<()> {
        let (Some(pathname), Some(rev)) = (owner(item), source_rev(item)) else {
            tally.other_items += 1;
            return Ok(());
        };
        tally.items += 1;
        let key = self.key(item);
        match ledger.met(&key, &pathname, rev)? {
            // Under another rev, its pathname is judged singly.
            Claim::Same | Claim::Other => tally.items_compared += 1,
            Claim::None => ledger.stray(&key)?,
        }
        Ok(())
    }

    pub(super) fn key(&self, item: &Item) -> Key {
        Key::of(item, (&self.target.partition_key, &self.target.sort_key))
    }

    /// Judges singly what seemed to differ; with `repair`, settles it and judges it again.
    async fn suspects(
        &self,
        ledger: &Ledger,
        tally: &mut Tally,
        events: &Events,
        cancel: &CancellationToken,
    ) -> Result<(Vec<Drift>, Vec<Drift>)> {
        let (mut drift, mut remaining) = (Vec::new(), Vec::new());
        let task = if self.repair { Task::Repair } else { Task::Judge };
        events.report(Event::Started { task, total: Some(ledger.suspect_count()?) });
        let mut after = String::new();
        let gateways = self.gateways().await?;
        let gateways = gateways.as_ref();
        loop {
            let page = ledger.suspects(&after)?;
            let Some(last) = page.last() else { break };
            last.as_str().clone_into(&mut after);
            let mut judged = stream::iter(page)
                .map(|pathname| async move {
                    interrupted(cancel)?;
                    let (judged, bypass) = self.judge_beside(&pathname, gateways).await?;
                    let Judged { drift: found, planted, found: seen } = judged;
                    let repairable = found.iter().any(|drift| drift.kind.repairable());
                    let left =
                        if self.repair && repairable { self.repair(&pathname).await? } else { found.clone() };
                    Ok::<_, Error>((pathname, found, left, [planted, seen], bypass))
                })
                .buffer_unordered(CONCURRENCY);
            while let Some(judged) = judged.next().await {
                let (pathname, found, left, [planted, seen], bypass) = judged?;
                tally.planted += planted;
                tally.found += seen;
                tally.bypassed.extend(bypass);
                if left.iter().any(|drift| drift.kind == super::DriftKind::Unverified) {
                    ledger.unjudged(&pathname)?;
                } else {
                    ledger.judged([&pathname])?;
                }
                drift.extend(found);
                remaining.extend(left);
                events.report(Event::Advanced { task, by: 1 });
            }
        }
        self.strays(ledger, tally, &mut drift, &mut remaining).await?;
        events.report(Event::Finished { task });
        Ok((drift, remaining))
    }

    async fn strays(
        &self,
        ledger: &Ledger,
        tally: &mut Tally,
        drift: &mut Vec<Drift>,
        remaining: &mut Vec<Drift>,
    ) -> Result<()> {
        let mut after = Key::new("", "");
        // What the judgement of a pathname said of an item is not said twice.
        let told: HashSet<(Pathname, Key)> =
            drift.iter().filter_map(|drift| Some((drift.pathname.clone(), drift.key.clone()?))).collect();
        let new = |drift: &Drift| {
            let key = drift.key.clone().map(|key| (drift.pathname.clone(), key));
            key.is_none_or(|key| !told.contains(&key))
        };
        loop {
            let page = ledger.strays(&after)?;
            let Some(last) = page.last() else { return Ok(()) };
            after = last.clone();
            for key in page {
                let found = self.judge_stray(&key).await?;
                let left = match &found {
                    Some(drift) if self.repair => self.repair_stray(drift).await?,
                    _ => found.clone(),
                };
                let verified = left.iter().all(|drift| drift.kind != super::DriftKind::Unverified);
                tally.items_compared += u64::from(verified);
                drift.extend(found.filter(new));
                remaining.extend(left.filter(new));
            }
        }
    }
}

/// That an anchor names these items, under its rev.
fn claims_of<'a>(
    anchor: &'a Anchor,
    keys: &'a [Key],
) -> impl Iterator<Item = (&'a Key, &'a Pathname, &'a str)> {
    let rev = anchor.items_rev.as_ref().map_or("", Rev::as_str);
    keys.iter().map(move |key| (key, &anchor.pathname, rev))
}

pub(super) fn interrupted(cancel: &CancellationToken) -> Result<()> {
    if cancel.is_cancelled() { Err(Error::new(ErrorKind::Interrupted, "sweep")) } else { Ok(()) }
}
