//! One export at work: the listing page by page, then the bodies as they come.
//!
//! Progress is told only of what is durable.

use futures::stream::StreamExt as _;
use tokio_util::sync::CancellationToken;

use super::bodies;
use super::export::{Export, OPERATION};
use super::file::Snapshot;
use super::rows::Outcome;
use super::run::{Run, Spent};
use crate::blob::Pathname;
use crate::blob::client::Operations;
use crate::error::{Error, ErrorKind, Result};
use crate::event::{Event, Task};

/// How many bodies are committed together at most.
const COMMIT_MAX: usize = 16;
/// This many bodies that fail in a row, with nothing between, mean that the store fails.
const FAILURES_IN_A_ROW_MAX: u32 = 20;

/// One export at work.
pub(super) struct Session<'a> {
    export: &'a Export,
    snapshot: &'a Snapshot,
    cancel: &'a CancellationToken,
    /// The operations that are on the run's account.
    charged: Operations,
    pages: u64,
}

impl<'a> Session<'a> {
    pub(super) fn new(export: &'a Export, snapshot: &'a Snapshot, cancel: &'a CancellationToken) -> Self {
        Self { export, snapshot, cancel, charged: export.meter.operations(), pages: 0 }
    }

    /// The pages that were listed now.
    pub(super) fn pages(&self) -> u64 {
        self.pages
    }

    /// Lists from where the run's listing ended to the end of the store.
    pub(super) async fn list(&mut self, run: &mut Run) -> Result<()> {
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
            self.pages += 1;
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
    pub(super) async fn fetch(&mut self, run: &Run, missing: u64) -> Result<(u64, u64)> {
        let events = &self.export.events;
        events.report(Event::Started { task: Task::Fetch, total: Some(missing) });
        // Once cancelled, nothing new begins, and what is under way is kept.
        let halt = self.cancel.child_token();
        let results = bodies::fetched(self.export, self.snapshot, run.id, &halt).ready_chunks(COMMIT_MAX);
        let mut results = std::pin::pin!(results);
        let mut stop: Option<Error> = None;
        let (mut fetched, mut bytes, mut failed_in_a_row) = (0, 0, 0);
        while let Some(chunk) = results.next().await {
            let mut outcomes = Vec::with_capacity(chunk.len());
            let mut permits = Vec::with_capacity(chunk.len());
            for result in chunk {
                match result {
                    Ok((pathname, outcome, permit)) => {
                        failed_in_a_row =
                            if bodies::is_stores_failure(&outcome) { failed_in_a_row + 1 } else { 0 };
                        if let Outcome::Body { body, .. } = &outcome {
                            fetched += 1;
                            bytes += body.length();
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

    /// The operations since the last commit, which are about to be committed.
    fn spent(&mut self) -> Spent {
        let now = self.export.meter.operations();
        let operations = now - self.charged;
        self.charged = now;
        Spent { operations, at: self.export.clock.now() }
    }
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
