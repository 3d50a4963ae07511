//! The export: lists the whole store, then fetches the bodies that are missing.
//!
//! Nothing is fetched twice: a body is looked for under its pathname and ETag first, and is durable before
//! it counts. Whatever stops a run (a kill, Ctrl-C, a suspended store, a full disk), the next one goes on
//! from what was committed.

use std::sync::Arc;

use futures::stream::{self, Stream, StreamExt as _};
use jiff::SignedDuration;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_util::sync::CancellationToken;

use super::budget::{self, Counts, Estimate};
use super::file::Snapshot;
use super::report::{EXAMPLES_MAX, ExportReport};
use super::rows::{HeldBody, Outcome, Verdict};
use super::run::{Run, Spent, Totals, Wanted};
use crate::blob::client::{Limit, Meter, Operations};
use crate::blob::{BlobStore, Fetched, Fetcher, ListPage, ListRequest, Pathname};
use crate::clock::Clock;
use crate::digest::Digest;
use crate::error::{Error, ErrorKind, Result};
use crate::event::{Event, Events, Task};
use crate::mapping::Mapper;
use crate::plan::Plan;

const OPERATION: &str = "export";
/// How many bodies are looked up in the snapshot at once.
const WANTED_PAGE: u32 = 1000;
/// How many bodies are committed together at most.
const COMMIT_MAX: usize = 16;
/// How much of bodies is in memory at most, in KiB, unless a single one is larger.
const IN_FLIGHT_KIB: u32 = 64 * 1024;
/// How often a blob that changes while it is fetched is followed.
const CHANGES_MAX: u32 = 5;
/// This many bodies that fail in a row, with nothing between, mean that the store fails.
const FAILURES_IN_A_ROW_MAX: u32 = 20;
/// How long requests that are under way may take to end after an interruption.
const GRACE: std::time::Duration = std::time::Duration::from_secs(5);

/// An export of one store under one plan.
#[derive(Clone)]
pub struct Export {
    /// Where from.
    pub source: Arc<dyn BlobStore>,
    /// What counts the source's operations ([`crate::blob::client::HttpBlob::meter`]).
    pub meter: Meter,
    /// Its prefix, access, Vercel plan and windows.
    pub plan: Arc<Plan>,
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
        Self { concurrency: 32, max_operations: None, body_bytes_max: 256 << 20 }
    }
}

impl Export {
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
                return Ok(Estimate::new(counts, self.plan.source.plan, self.plan.source.background_share));
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
        let mut session = Session { export: self, snapshot, cancel, charged: before };
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
        let estimate = self.estimate_of(&run, &expected, earlier);
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

    fn verdict(&self, pathname: &Pathname) -> Verdict {
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

    fn estimate_of(&self, run: &Run, totals: &Totals, earlier: Operations) -> Estimate {
        let counts = Counts {
            blobs: totals.listed,
            pages: run.pages,
            bodies: totals.missing,
            bytes: totals.missing_bytes,
            held: totals.held,
            earlier,
        };
        Estimate::new(counts, self.plan.source.plan, self.plan.source.background_share)
    }

    async fn page(&self, cursor: Option<String>, cancel: &CancellationToken) -> Result<ListPage> {
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

/// One export at work.
struct Session<'a> {
    export: &'a Export,
    snapshot: &'a Snapshot,
    cancel: &'a CancellationToken,
    /// The operations that are on the run's account.
    charged: Operations,
}

type Fetch = (Pathname, Outcome, OwnedSemaphorePermit);

impl Session<'_> {
    /// Lists from where the run's listing ended to the end of the store.
    async fn list(&mut self, run: &mut Run) -> Result<()> {
        if run.listed {
            return Ok(());
        }
        let Export { events, clock, .. } = self.export;
        events.report(Event::Started { task: Task::List, total: None });
        let mut first = true;
        while !run.listed {
            let page = match self.export.page(run.cursor.clone(), self.cancel).await {
                // The cursor of an earlier process may have expired: list again from the beginning.
                Err(error) if first && run.cursor.is_some() && error.kind() == ErrorKind::Usage => {
                    *run = self.snapshot.begin(&run.prefix, clock.now()).await?;
                    continue;
                }
                page => page?,
            };
            first = false;
            let by = page.blobs.len() as u64;
            let verdicts = page.blobs.iter().map(|blob| self.export.verdict(&blob.pathname)).collect();
            let spent = self.spent();
            self.snapshot.save_page(run, page, verdicts, spent).await?;
            events.report(Event::Advanced { task: Task::List, by });
        }
        events.report(Event::Finished { task: Task::List });
        Ok(())
    }

    /// Fetches what is missing; the number of bodies that are durable now, and their length.
    async fn fetch(&mut self, run: &Run, missing: u64) -> Result<(u64, u64)> {
        let events = &self.export.events;
        events.report(Event::Started { task: Task::Fetch, total: Some(missing) });
        // Once cancelled, nothing new begins, and what is under way is kept.
        let halt = self.cancel.child_token();
        let results = self.results(run.id, &halt).ready_chunks(COMMIT_MAX);
        let mut results = std::pin::pin!(results);
        let mut stop: Option<Error> = None;
        let (mut fetched, mut bytes, mut failed_in_a_row) = (0, 0, 0);
        while let Some(chunk) = results.next().await {
            let mut outcomes = Vec::with_capacity(chunk.len());
            let mut permits = Vec::with_capacity(chunk.len());
            for result in chunk {
                match result {
                    Ok((pathname, outcome, permit)) => {
                        failed_in_a_row = if is_stores_failure(&outcome) { failed_in_a_row + 1 } else { 0 };
                        if let Outcome::Body { body, .. } = &outcome {
                            fetched += 1;
                            bytes += body.size;
                        }
                        outcomes.push((pathname, outcome));
                        permits.push(permit);
                    }
                    Err(error) => stop = Some(stop.unwrap_or(error)),
                }
            }
            if failed_in_a_row >= FAILURES_IN_A_ROW_MAX && stop.is_none() {
                stop = Some(gives_up(&outcomes));
            }
            let by = outcomes.len() as u64;
            let spent = self.spent();
            self.snapshot.save(run.id, outcomes, spent).await?;
            drop(permits);
            events.report(Event::Advanced { task: Task::Fetch, by });
            if stop.is_some() {
                halt.cancel();
            }
        }
        let spent = self.spent();
        self.snapshot.save(run.id, Vec::new(), spent).await?;
        events.report(Event::Finished { task: Task::Fetch });
        if self.cancel.is_cancelled() && stop.is_none() && fetched < missing {
            stop = Some(Error::new(ErrorKind::Interrupted, OPERATION).message("interrupted"));
        }
        match stop {
            None => Ok((fetched, bytes)),
            Some(error) => {
                events.report(Event::Warning(format!(
                    "stopped with {fetched} of {missing} missing bodies saved; a rerun fetches the others"
                )));
                Err(error)
            }
        }
    }

    /// What came of each missing body, as it comes. An error is a reason to stop.
    fn results<'s>(&self, run: i64, halt: &CancellationToken) -> impl Stream<Item = Result<Fetch>> + use<'s> {
        let export = self.export.clone();
        let fetcher = Arc::new(Fetcher {
            source: Arc::clone(&export.source),
            clock: Arc::clone(&export.clock),
            access: export.plan.source.access,
            cdn_stale: export.plan.timing.cdn_stale.0,
            body_bytes_max: export.options.body_bytes_max,
        });
        let in_flight = Arc::new(Semaphore::new(IN_FLIGHT_KIB as usize));
        let halt = halt.clone();
        wanted(self.snapshot.clone(), run)
            .take_until(halt.clone().cancelled_owned())
            .map(move |wanted| fetch(wanted, Arc::clone(&fetcher), Arc::clone(&in_flight), halt.clone()))
            .buffer_unordered(export.options.concurrency.max(1))
    }

    /// The operations since the last commit, which are about to be committed.
    fn spent(&mut self) -> Spent {
        let now = self.export.meter.operations();
        let operations = now - self.charged;
        self.charged = now;
        Spent { operations, at: self.export.clock.now() }
    }
}

/// The bodies that a run has to fetch, page after page.
fn wanted(snapshot: Snapshot, run: i64) -> impl Stream<Item = Result<Wanted>> {
    let pages = stream::unfold((snapshot, None, false), move |(snapshot, after, done)| async move {
        if done {
            return None;
        }
        match snapshot.wanted(run, after, WANTED_PAGE).await {
            Err(error) => Some((vec![Err(error)], (snapshot, None, true))),
            Ok(page) => {
                let after = page.last()?.pathname.clone();
                Some((page.into_iter().map(Ok).collect(), (snapshot, Some(after), false)))
            }
        }
    });
    pages.flat_map(stream::iter)
}

/// Gets one body, in whichever version is there.
async fn fetch(
    wanted: Result<Wanted>,
    fetcher: Arc<Fetcher>,
    in_flight: Arc<Semaphore>,
    halt: CancellationToken,
) -> Result<Fetch> {
    let wanted = wanted?;
    let kib = u32::try_from(wanted.size / 1024 + 1).unwrap_or(IN_FLIGHT_KIB).min(IN_FLIGHT_KIB);
    let permit = in_flight
        .acquire_many_owned(kib)
        .await
        .map_err(|error| Error::new(ErrorKind::Internal, OPERATION).source(error))?;
    let pathname = wanted.pathname.clone();
    let too_late = async {
        halt.cancelled().await;
        fetcher.clock.sleep(GRACE).await;
    };
    let outcome = tokio::select! {
        outcome = version(&fetcher, wanted) => outcome,
        () = too_late => Err(Error::new(ErrorKind::Interrupted, OPERATION).message("interrupted")),
    };
    match outcome {
        Ok(outcome) => Ok((pathname, outcome, permit)),
        Err(error) => {
            halt.cancel();
            Err(error)
        }
    }
}

async fn version(fetcher: &Fetcher, wanted: Wanted) -> Result<Outcome> {
    let Wanted { pathname, mut version, mut size } = wanted;
    for _ in 0..CHANGES_MAX {
        match fetcher.fetch(&pathname, &version.etag, size).await {
            Ok(Fetched::Body { bytes, content_type, cache_control }) => {
                let body = HeldBody {
                    etag: version.etag.clone(),
                    size,
                    sha256: Digest::of(&bytes),
                    content_type,
                    cache_control,
                };
                return Ok(Outcome::Body { version, body, bytes });
            }
            Ok(Fetched::Gone) => return Ok(Outcome::Gone),
            Ok(Fetched::Changed(head)) => {
                version = head.version();
                size = head.blob.size;
            }
            Err(error) if stops(error.kind()) => return Err(error),
            Err(error) => return Ok(Outcome::Failed(error)),
        }
    }
    Ok(Outcome::Failed(
        Error::new(ErrorKind::NotApplied, "fetch a blob")
            .key(&pathname)
            .message("it changed each time it was read"),
    ))
}

/// Whether a failure is the store's or ours, rather than one blob's.
const fn stops(kind: ErrorKind) -> bool {
    match kind {
        ErrorKind::Denied
        | ErrorKind::Suspended
        | ErrorKind::Budget
        | ErrorKind::Interrupted
        | ErrorKind::Busy
        | ErrorKind::WrongPhase
        | ErrorKind::GateClosed
        | ErrorKind::Internal => true,
        ErrorKind::Usage
        | ErrorKind::NotApplied
        | ErrorKind::OutcomeUnknown
        | ErrorKind::Throttled { .. }
        | ErrorKind::LostRace
        | ErrorKind::AlreadyExists
        | ErrorKind::NotFound
        | ErrorKind::Unrepresentable
        | ErrorKind::Corrupt => false,
    }
}

/// Whether many failures like this one in a row say that the store itself fails.
fn is_stores_failure(outcome: &Outcome) -> bool {
    let Outcome::Failed(error) = outcome else { return false };
    matches!(error.kind(), ErrorKind::NotApplied | ErrorKind::Throttled { .. } | ErrorKind::Usage)
}

fn gives_up(outcomes: &[(Pathname, Outcome)]) -> Error {
    let last = outcomes.iter().rev().find_map(|(_, outcome)| match outcome {
        Outcome::Failed(error) => Some(error),
        _ => None,
    });
    let kind = last.map_or(ErrorKind::NotApplied, Error::kind);
    let last = last.map(Error::to_string).unwrap_or_default();
    Error::new(kind, OPERATION)
        .message(format!("{FAILURES_IN_A_ROW_MAX} bodies in a row can't be read, the last one: {last}"))
}
