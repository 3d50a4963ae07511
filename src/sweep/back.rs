//! The sweep where DynamoDB is the authority: items against what their anchors say, and Blob against the anchors.

use std::collections::BTreeSet;

use futures::stream::{self, StreamExt as _};
use serde::Serialize;
use tokio_util::sync::CancellationToken;

use super::compare::Pair;
use super::drift::{Drift, DriftKind};
use super::ledger::Ledger;
use super::report::SweepReport;
use super::run::{Sweep, interrupted};
use crate::anchored::{Anchored, Changed, Judged, Newer, PickedUp, Verdict, commands, newer};
use crate::blob::{ETag, ListRequest, ListedBlob, Pathname};
use crate::converge::{Converger, SOURCE};
use crate::error::{ErrorKind, Result};
use crate::event::{Event, Events, Task};
use crate::mapping::Rule;
use crate::protocol::converge::Purpose;
use crate::target::Table;
use crate::target::control::{Anchor, AnchorState, names};
use crate::target::store::Scan;

/// How many blobs there are on a page; the service's own bound.
const PAGE: u32 = 1_000;
/// Blobs that are judged at a time.
const CONCURRENCY: usize = 8;
/// How often a pathname is looked at while an intent names it.
const LOOKS: u32 = 5;
/// How many equal pairs are spoilt for the self-test.
const SPOILT: u64 = 4;

/// How much of Blob was compared with the anchors.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct BlobCoverage {
    /// Blobs that an entity maps, as listed.
    pub listed: u64,
    /// How many of them were compared to a verdict.
    pub compared: u64,
    /// Anchors that hold something.
    pub anchored: u64,
    /// How many of them were compared to a verdict.
    pub anchors_compared: u64,
}

/// A comparison of DynamoDB with itself and of Blob with it.
#[derive(Debug, Clone, Copy)]
pub struct BackSweep<'a> {
    /// How to sweep. Its converger's source is Blob.
    pub sweep: Sweep<'a>,
    /// The session under which it repairs, for its intents.
    pub session: &'a str,
}

impl BlobCoverage {
    /// Whether everything that was listed, on either side, was compared.
    #[must_use]
    pub const fn complete(self) -> bool {
        self.listed == self.compared && self.anchored == self.anchors_compared
    }
}

impl BackSweep<'_> {
    /// Compares everything; with `repair`, settles what differs, but for what is not ours.
    ///
    /// # Errors
    /// As [`Sweep::run`].
    pub async fn run(&self, events: &Events, cancel: &CancellationToken) -> Result<SweepReport> {
        let anchored = Anchored::new(self.sweep.converger.clone(), self.sweep.prefix);
        let direct = self.direct(&anchored, cancel).await?;
        let items = anchored.of_items();
        let mut report = Sweep { converger: &items, ..self.sweep }.run(events, cancel).await?;
        // What was not brought to its end is nobody's write past the gateway.
        report.bypassed.clear();
        report.drift.extend(direct.clone());
        if let Some(remaining) = &mut report.remaining {
            remaining.extend(direct);
        }
        let ledger = Ledger::new()?;
        events.report(Event::Started { task: Task::Judge, total: None });
        self.blobs(&ledger, &mut report, cancel).await?;
        self.anchors(&ledger, cancel).await?;
        ledger.suspect_the_rest()?;
        self.suspects(&ledger, &anchored, &mut report, events, cancel).await?;
        events.report(Event::Finished { task: Task::Judge });
        let [listed, compared, anchored, anchors_compared] = ledger.coverage()?;
        report.mirror = Some(BlobCoverage { listed, compared, anchored, anchors_compared });
        report.ended = self.sweep.converger.clock().now();
        Ok(report)
    }

    /// What the application wrote to DynamoDB itself: with `repair`, it is taken over; what is not, or can't be, is
    /// returned.
    async fn direct(&self, anchored: &Anchored, cancel: &CancellationToken) -> Result<Vec<Drift>> {
        let Converger { control, mapper, .. } = self.sweep.converger;
        let mut drift = Vec::new();
        if !mapper.has_direct() {
            return Ok(drift);
        }
        for shard in 0..names::SHARDS {
            let mut after = None;
            loop {
                interrupted(cancel)?;
                let (anchors, next) = control.anchors_of_shard(shard, after).await?;
                let names = anchors.into_iter().filter(|anchor| anchor.head.is_some());
                let changed = names.map(|anchor| Changed::Blob(anchor.pathname));
                drift.extend(self.direct_page(anchored, changed.collect()).await?);
                after = next;
                if after.is_none() {
                    break;
                }
            }
        }
        let target = self.sweep.target;
        let only = vec![target.partition_key.clone(), target.sort_key.clone(), SOURCE.to_owned()];
        let mut scan = Scan { only, ..Scan::share(0, 1) };
        loop {
            interrupted(cancel)?;
            let page = control.store().scan(Table::Data, &scan).await?;
            // Those that bear a name were looked at under it, unless that name is another item's.
            let changed = page.items.iter().map(|item| Changed::Item(self.sweep.key(item)));
            // An item that is still its blob's was told under the blob's name.
            let told: BTreeSet<Pathname> = drift.iter().map(|drift| drift.pathname.clone()).collect();
            let found = self.direct_page(anchored, changed.collect()).await?;
            drift.extend(found.into_iter().filter(|drift| !told.contains(&drift.pathname)));
            if page.next.is_none() {
                return Ok(drift);
            }
            scan.after = page.next;
        }
    }

    async fn direct_page(&self, anchored: &Anchored, changed: Vec<Changed>) -> Result<Vec<Drift>> {
        let mut picking = stream::iter(changed)
            .map(|changed: Changed| async move {
                let picked = if self.sweep.repair {
                    anchored.pick_up(self.session, &changed).await
                } else {
                    anchored.would_pick_up(&changed).await
                };
                (changed, picked)
            })
            .buffer_unordered(CONCURRENCY);
        let mut drift = Vec::new();
        while let Some((changed, picked)) = picking.next().await {
            let (pathname, detail) = match picked {
                Ok(PickedUp::Equal | PickedUp::NotOurs(_)) => continue,
                Ok(PickedUp::Taken { .. }) if self.sweep.repair => continue,
                Ok(PickedUp::Taken { pathname, .. }) => {
                    (pathname, "the application wrote its item, which was not taken over yet".to_owned())
                }
                Ok(PickedUp::Refused(error)) => (Pathname::new(""), error.to_string()),
                Err(error) if error.kind().is_of_one_key() || error.kind() == ErrorKind::Busy => {
                    (Pathname::new(""), error.to_string())
                }
                Err(error) => return Err(error),
            };
            let (name, key) = match changed {
                Changed::Blob(name) => (name, None),
                Changed::Item(key) => (pathname, Some(key)),
            };
            let found = Pair::bare(name, None, None).drift(DriftKind::Different, &detail);
            drift.push(Drift { key, ..found });
        }
        Ok(drift)
    }

    fn maps(&self, pathname: &Pathname) -> bool {
        matches!(self.sweep.converger.mapper.rule(pathname), Rule::Entity(_))
    }

    /// All blobs of Blob, page by page, against their anchors.
    async fn blobs(
        &self,
        ledger: &Ledger,
        report: &mut SweepReport,
        cancel: &CancellationToken,
    ) -> Result<()> {
        let Converger { control, .. } = self.sweep.converger;
        let mut request =
            ListRequest { prefix: self.sweep.prefix.to_owned(), limit: Some(PAGE), ..ListRequest::default() };
        let mut spoilt = 0;
        loop {
            interrupted(cancel)?;
            let page = self.sweep.converger.source().list(&request).await?;
            let blobs: Vec<ListedBlob> =
                page.blobs.into_iter().filter(|blob| self.maps(&blob.pathname)).collect();
            ledger.listed(blobs.iter().map(|blob| &blob.pathname))?;
            let anchors = control.anchors(blobs.iter().map(|blob| &blob.pathname)).await?;
            let mut equal = Vec::new();
            for (blob, anchor) in blobs.iter().zip(&anchors) {
                if differs(anchor.as_ref(), Some(blob)) {
                    ledger.suspect([&blob.pathname])?;
                    continue;
                }
                equal.push(blob.pathname.clone());
                if let Some(anchor) = anchor.as_ref().filter(|_| spoilt < SPOILT) {
                    spoilt += 1;
                    let (planted, found) = spoil(anchor, blob);
                    report.planted += planted;
                    report.found += found;
                }
            }
            ledger.judged(&equal)?;
            if page.cursor.is_none() {
                return Ok(());
            }
            request.cursor = page.cursor;
        }
    }

    /// All anchors: what Blob does not list of them is judged singly.
    async fn anchors(&self, ledger: &Ledger, cancel: &CancellationToken) -> Result<()> {
        for shard in 0..names::SHARDS {
            let mut after = None;
            loop {
                interrupted(cancel)?;
                let (anchors, next) = self.sweep.converger.control.anchors_of_shard(shard, after).await?;
                let holding = anchors.iter().filter(|anchor| {
                    let name = anchor.pathname.as_str();
                    anchor.head.is_some()
                        && name.starts_with(self.sweep.prefix)
                        && self.maps(&anchor.pathname)
                });
                ledger.anchored(holding.map(|anchor| &anchor.pathname))?;
                // A deletion that did not reach Blob yet, whose blob is listed, is a suspect already.
                after = next;
                if after.is_none() {
                    break;
                }
            }
        }
        Ok(())
    }

    async fn suspects(
        &self,
        ledger: &Ledger,
        anchored: &Anchored,
        report: &mut SweepReport,
        events: &Events,
        cancel: &CancellationToken,
    ) -> Result<()> {
        let mut after = String::new();
        // What is wrong with its items was said.
        let told: BTreeSet<Pathname> = report.drift.iter().map(|drift| drift.pathname.clone()).collect();
        loop {
            let page = ledger.suspects(&after)?;
            let Some(last) = page.last() else { return Ok(()) };
            last.as_str().clone_into(&mut after);
            let mut judging = stream::iter(page)
                .map(|pathname| async move {
                    interrupted(cancel)?;
                    let found = self.judge(anchored, &pathname).await?;
                    let repairable = found.as_ref().is_some_and(|drift| drift.kind.repairable());
                    let left = if self.sweep.repair && repairable {
                        self.repair(anchored, &pathname).await?
                    } else {
                        found.clone()
                    };
                    Ok::<_, crate::error::Error>((pathname, found, left))
                })
                .buffer_unordered(CONCURRENCY);
            while let Some(judged) = judging.next().await {
                let (pathname, found, left) = judged?;
                let verified = left.as_ref().is_none_or(|drift| drift.kind != DriftKind::Unverified);
                if verified {
                    ledger.judged([&pathname])?;
                } else {
                    ledger.unjudged(&pathname)?;
                }
                let new =
                    |drift: &Drift| drift.kind != DriftKind::Unverified || !told.contains(&drift.pathname);
                report.drift.extend(found.filter(new));
                if let Some(remaining) = &mut report.remaining {
                    remaining.extend(left.filter(new));
                }
                events.report(Event::Advanced { task: Task::Judge, by: 1 });
            }
        }
    }

    /// Judges a pathname; again for as long as an intent names it.
    async fn judge(&self, anchored: &Anchored, pathname: &Pathname) -> Result<Option<Drift>> {
        let mut drift = None;
        for look in 1..=LOOKS {
            drift = match anchored.judge(pathname).await {
                Ok(verdict) => drift_of(pathname, verdict),
                Err(error) if error.kind().is_of_one_key() => {
                    let bare = Pair::bare(pathname.clone(), None, None);
                    Some(bare.drift(DriftKind::Unverified, &error.to_string()))
                }
                Err(error) => return Err(error),
            };
            if drift.is_none() {
                return Ok(None);
            }
            let intents = self.sweep.converger.control.intents().await?;
            if !intents.iter().any(|intent| intent.pathnames.contains(pathname)) {
                return Ok(drift);
            }
            self.sweep.converger.clock().sleep(self.sweep.patience * look).await;
        }
        Ok(drift)
    }

    /// Makes Blob equal, and looks what is left.
    async fn repair(&self, anchored: &Anchored, pathname: &Pathname) -> Result<Option<Drift>> {
        anchored.settle_noted(self.session, pathname, Purpose::Repair).await?;
        Ok(drift_of(pathname, anchored.judge(pathname).await?))
    }
}

/// Whether Blob seems to differ from an anchor, by what was listed.
fn differs(anchor: Option<&Anchor>, blob: Option<&ListedBlob>) -> bool {
    let held = anchor.filter(|anchor| anchor.head.is_some());
    match (held, blob) {
        (None, None) => false,
        (Some(anchor), Some(blob)) => {
            anchor.behind.is_some()
                || anchor.state == AnchorState::Pending
                || anchor.blob_etag() != Some(&blob.etag)
        }
        (None, Some(_)) | (Some(_), None) => true,
    }
}

/// Spoils an equal pair in every way; says how often, and how often the comparison said so.
fn spoil(anchor: &Anchor, blob: &ListedBlob) -> (u64, u64) {
    let other = ListedBlob { etag: ETag::new("planted"), ..blob.clone() };
    let behind = Anchor {
        behind: Some(crate::target::control::Behind { etag: None, sha256: None }),
        ..anchor.clone()
    };
    let seen = [
        differs(None, Some(blob)),
        differs(Some(anchor), None),
        differs(Some(anchor), Some(&other)),
        differs(Some(&behind), Some(blob)),
    ];
    (seen.len() as u64, seen.iter().filter(|seen| **seen).count() as u64)
}

fn drift_of(pathname: &Pathname, verdict: Verdict) -> Option<Drift> {
    let Verdict { judged, blob, anchor, explained } = verdict;
    let because = |what: &str| match &explained {
        Some(explained) => format!("{what}: {explained}"),
        None => what.to_owned(),
    };
    let (kind, detail) = match judged {
        Judged::Equal => return None,
        Judged::Missing => (DriftKind::Missing, "Blob, which is the mirror, lacks it".to_owned()),
        Judged::Extra => (DriftKind::Extra, because("it was deleted, and Blob still has it")),
        Judged::Stale => (DriftKind::Stale, because("Blob has an older version")),
        Judged::Foreign => return Some(foreign(pathname, blob, anchor)),
        Judged::Moving => (DriftKind::Unverified, "it did not hold still while it was judged".to_owned()),
    };
    Some(Pair::bare(pathname.clone(), anchor, blob).drift(kind, &detail))
}

fn foreign(pathname: &Pathname, blob: Option<ListedBlob>, anchor: Option<Anchor>) -> Drift {
    let (which, why) = match &blob {
        Some(blob) => newer(blob, anchor.as_ref()),
        None => (Newer::Unclear, "Blob does not say when it was stored".to_owned()),
    };
    let settle = commands(pathname, anchor.as_ref().map(|anchor| &anchor.rev), which);
    let detail = format!("Blob has what this migration did not write, and it is kept; {why}");
    let drift = Pair::bare(pathname.clone(), anchor, blob).drift(DriftKind::Foreign, &detail);
    Drift { newer: Some(which), settle, ..drift }
}
