//! The export: lists the whole store, then fetches the bodies that are missing.
//!
//! Nothing is fetched twice: a body is looked for under its pathname and ETag first, and is durable before
//! it counts. Whatever stops a run (a kill, Ctrl-C, a suspended store, a full disk), the next one goes on
//! from what was committed.

use std::sync::Arc;

use jiff::SignedDuration;
use tokio_util::sync::CancellationToken;

use super::budget::{self, Counts, Estimate};
use super::file::Snapshot;
use super::report::{EXAMPLES_MAX, ExportReport};
use super::rows::Verdict;
use super::run::Totals;
use super::session::Session;
use crate::blob::client::{Limit, Meter, Operations};
use crate::blob::{BlobStore, ListPage, ListRequest, Pathname};
use crate::clock::Clock;
use crate::converge::LONG_BODY_BYTES_MAX;
use crate::error::{Error, ErrorKind, Result};
use crate::event::{Event, Events};
use crate::mapping::Mapper;
use crate::plan::Plan;

pub(super) const OPERATION: &str = "export";

/// An export of one store under one plan.
#[derive(Clone)]
pub struct Export {
    /// Where from.
    pub source: Arc<dyn BlobStore>,
    /// What counts the source's operations ([`crate::blob::client::HttpBlob::meter`]).
    pub meter: Meter,
    /// Its prefix, access, Vercel plan and windows.
    pub plan: Arc<Plan>,
    /// Whether the source is paced at the plan's rates; a store on this machine is not.
    pub paced: bool,
    /// The plan's rules, compiled.
    pub mapper: Arc<Mapper>,
    /// What waits.
    pub clock: Arc<dyn Clock>,
    /// Where progress, the estimate and warnings go.
    pub events: Events,
    /// Bounds.
    pub options: ExportOptions,
}

/// Bounds of an export.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ExportOptions {
    /// How many bodies are fetched at the same time.
    pub concurrency: usize,
    /// Refuse to send more operations than this.
    pub max_operations: Option<u64>,
    /// The longest body that is fetched, in bytes; a longer one is a failure.
    pub body_bytes_max: u64,
}

impl Default for ExportOptions {
    fn default() -> Self {
        Self { concurrency: 32, max_operations: None, body_bytes_max: LONG_BODY_BYTES_MAX }
    }
}

impl Export {
    fn priced(&self, counts: Counts) -> Estimate {
        let share = self.paced.then_some(self.plan.source.background_share);
        Estimate::new(counts, self.plan.source.plan, share)
    }

    /// What an export would ask of the store. It lists the store; it fetches and writes nothing.
    ///
    /// # Errors
    /// What the store reports; `Interrupted` once `cancel` is.
    pub async fn estimate(
        &self,
        snapshot: Option<&Snapshot>,
        cancel: &CancellationToken,
    ) -> Result<Estimate> {
        let earlier = match snapshot {
            Some(snapshot) => self.earlier(snapshot).await?,
            None => Operations::default(),
        };
        self.limit(earlier);
        let mut counts = Counts { blobs: 0, pages: 0, bodies: 0, bytes: 0, held: 0, earlier };
        let mut cursor = None;
        loop {
            let page = self.page(cursor, cancel).await?;
            counts.pages += 1;
            counts.blobs += page.blobs.len() as u64;
            let mapped: Vec<_> =
                page.blobs.iter().filter(|blob| self.verdict(&blob.pathname) == Verdict::Mapped).collect();
            let held = match snapshot {
                Some(snapshot) => {
                    let versions = mapped.iter().map(|blob| (blob.pathname.clone(), blob.etag.clone()));
                    snapshot.held(versions.collect()).await?
                }
                None => vec![false; mapped.len()],
            };
            for (blob, held) in mapped.iter().zip(held) {
                if held {
                    counts.held += 1;
                } else {
                    counts.bodies += 1;
                    counts.bytes += blob.size;
                }
            }
            cursor = page.cursor;
            if cursor.is_none() {
                return Ok(self.priced(counts));
            }
        }
    }

    /// Lists the store, says what the bodies will cost, and fetches those that are missing.
    ///
    /// Goes on with an unfinished run that is younger than `[timing] evidence_age_max`. A body that can't
    /// be got is recorded and reported, and the others go on; the run is finished, and has a manifest,
    /// once none is missing.
    ///
    /// # Errors
    /// `Budget` before any body is fetched where that would be too dear; `Suspended` and `Denied` from the
    /// store; `NotApplied` where it fails throughout, or the disk is full; `Interrupted` once `cancel` is.
    /// After each of them, what was fetched is durable.
    pub async fn run(&self, snapshot: &Snapshot, cancel: &CancellationToken) -> Result<ExportReport> {
        let before = self.meter.operations();
        let mut session = Session::new(self, snapshot, cancel);
        let now = self.clock.now();
        let age =
            SignedDuration::try_from(self.plan.timing.evidence_age_max.0).unwrap_or(SignedDuration::MAX);
        let not_before = now.saturating_sub(age).unwrap_or(now);
        let earlier = self.earlier(snapshot).await?;
        self.limit(earlier);
        let prefix = &self.plan.source.prefix;
        let unfinished = snapshot.unfinished(prefix, not_before).await?;
        let resumed = unfinished.is_some();
        let mut run = match unfinished {
            Some(run) => run,
            None => snapshot.begin(prefix, now).await?,
        };
        session.list(&mut run).await?;
        let mapper = Arc::clone(&self.mapper);
        snapshot.judge_again(run.id, move |pathname| mapper.rule(pathname).into()).await?;
        let expected = snapshot.totals(run.id).await?;
        let estimate = self.estimate_of(session.pages(), &expected, earlier);
        self.events.report(Event::Note(estimate.to_string()));
        estimate.check(self.options.max_operations)?;
        snapshot.forget_failures().await?;
        let (fetched, fetched_bytes) = session.fetch(&run, expected.missing).await?;
        let totals = snapshot.totals(run.id).await?;
        let manifest = if totals.missing == 0 {
            Some(snapshot.finish(&run, &totals, self.clock.now()).await?)
        } else {
            None
        };
        let (failures, failed) = snapshot.failures(EXAMPLES_MAX).await?;
        Ok(ExportReport {
            run: run.id,
            resumed,
            estimate,
            manifest,
            listed: totals.listed,
            mapped: totals.mapped,
            ignored: totals.ignored,
            accepted: totals.accepted,
            unmatched: totals.unmatched,
            unmatched_names: snapshot.judged(run.id, Verdict::Unmatched, EXAMPLES_MAX).await?,
            ambiguous: totals.ambiguous,
            ambiguous_names: snapshot.judged(run.id, Verdict::Ambiguous, EXAMPLES_MAX).await?,
            gone: totals.gone,
            fetched,
            fetched_bytes,
            failed,
            failures,
            operations: self.meter.operations() - before,
        })
    }

    pub(super) fn verdict(&self, pathname: &Pathname) -> Verdict {
        self.mapper.rule(pathname).into()
    }

    /// What exports into this snapshot used of the current allowance.
    async fn earlier(&self, snapshot: &Snapshot) -> Result<Operations> {
        let now = self.clock.now();
        let days = SignedDuration::from_hours(24 * budget::ALLOWANCE_DAYS);
        snapshot.charged_since(now.saturating_sub(days).unwrap_or(now)).await
    }

    /// The estimate is checked before any body is fetched; this stops what it did not foresee.
    fn limit(&self, earlier: Operations) {
        let before = self.meter.operations();
        let classes = match budget::allowance(self.plan.source.plan) {
            Some(allowed) => before + (allowed - earlier),
            None => Operations { simple: u64::MAX, advanced: u64::MAX },
        };
        let total = self.options.max_operations.map_or(u64::MAX, |max| before.total().saturating_add(max));
        self.meter.set_limit(Limit { classes, total });
    }

    fn estimate_of(&self, pages: u64, totals: &Totals, earlier: Operations) -> Estimate {
        let counts = Counts {
            blobs: totals.listed,
            pages,
            bodies: totals.missing,
            bytes: totals.missing_bytes,
            held: totals.held,
            earlier,
        };
        self.priced(counts)
    }

    pub(super) async fn page(&self, cursor: Option<String>, cancel: &CancellationToken) -> Result<ListPage> {
        let prefix = self.plan.source.prefix.clone();
        let request = ListRequest { prefix, cursor: cursor.clone(), limit: None, folded: false };
        let page = cancel
            .run_until_cancelled(self.source.list(&request))
            .await
            .ok_or_else(|| Error::new(ErrorKind::Interrupted, OPERATION).message("interrupted"))??;
        if page.cursor.is_some() && page.cursor == cursor {
            return Err(Error::new(ErrorKind::Corrupt, "list blobs")
                .message("the store's cursor does not move: the listing would never end"));
        }
        Ok(page)
    }
}
