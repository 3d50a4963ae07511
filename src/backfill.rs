//! The first load of the mirror: every blob of the source, by the same transactions as everything else.
//!
//! It may run at any time, any number of times, beside live writers: it changes only what differs from
//! what the source holds, and loses every race against a newer write.

use std::sync::Arc;

use serde::Serialize;
use tokio_util::sync::CancellationToken;

use crate::blob::Pathname;
use crate::converge::{Converged, Converger, owner_name};
use crate::error::{Error, ErrorKind, Result};
use crate::event::{Event, Events, Task};
use crate::sweep::walk::Walk;

/// So many pathnames that fail together, and none that does not, mean that a store fails.
const FAILED_MIN: usize = 20;

/// What a backfill did.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct BackfillReport {
    /// Blobs that an entity maps.
    pub mapped: u64,
    /// Written to the mirror.
    pub written: u64,
    /// Written to the mirror, where a newer blob has the items of its groups.
    pub superseded: u64,
    /// Equal already.
    pub equal: u64,
    /// Matched by an ignore rule.
    pub ignored: u64,
    /// Matched by an accept rule.
    pub accepted: u64,
    /// Can't be mapped; the mirror says so.
    pub quarantined: Vec<Pathname>,
    /// Matched by no rule or by several, and which.
    pub unmapped: Vec<(Pathname, String)>,
    /// Not applied, and why.
    pub failed: Vec<(Pathname, String)>,
}

impl BackfillReport {
    /// Whether every mapped pathname is in the mirror, as it is or as a quarantine.
    #[must_use]
    pub fn complete(&self) -> bool {
        self.failed.is_empty()
    }

    fn count(&mut self, pathname: Pathname, result: Result<Converged>) {
        self.mapped += 1;
        match result {
            Ok(Converged::Equal) => self.equal += 1,
            Ok(Converged::Written) => self.written += 1,
            Ok(Converged::Superseded) => self.superseded += 1,
            Ok(Converged::Quarantined) => self.quarantined.push(pathname),
            Ok(Converged::Collision { key, owner }) => {
                self.failed
                    .push((pathname, format!("item {key} belongs to {}", owner_name(owner.as_deref()))));
            }
            Ok(Converged::GaveUp) => {
                self.failed
                    .push((pathname, "it did not hold still, or no outcome could be learnt".to_owned()));
            }
            Err(error) => self.failed.push((pathname, error.to_string())),
        }
    }
}

/// Converges every blob under `prefix` that an entity maps.
///
/// # Errors
/// `Interrupted` when cancelled, after what was begun is finished; what the stores report for the
/// listing. A pathname that fails is in the report, and the others go on.
pub async fn run(
    converger: &Converger,
    prefix: &str,
    events: &Events,
    cancel: &CancellationToken,
) -> Result<BackfillReport> {
    let mut walk = Walk::new(
        Arc::clone(converger.source()),
        converger.control.clone(),
        Arc::clone(&converger.mapper),
        prefix,
    );
    let mut report = BackfillReport::default();
    events.report(Event::Started { task: Task::Backfill, total: None });
    while let Some(page) = walk.next().await? {
        report.ignored += page.ignored;
        report.accepted += page.accepted;
        report.unmapped.extend(page.unmapped);
        for part in page.mapped.chunks(200) {
            if cancel.is_cancelled() {
                return Err(Error::new(ErrorKind::Interrupted, "backfill"));
            }
            for (pathname, result) in whole(converger.converge_seen(part.to_vec()).await)? {
                report.count(pathname, result);
            }
            events.report(Event::Advanced { task: Task::Backfill, by: part.len() as u64 });
        }
    }
    events.report(Event::Finished { task: Task::Backfill });
    Ok(report)
}

/// Passes on what each pathname came to, unless it is a fault of this process, its credentials or a
/// whole store: that ends the run, which a rerun resumes.
fn whole(results: Vec<(Pathname, Result<Converged>)>) -> Result<Vec<(Pathname, Result<Converged>)>> {
    let everything = results.len() >= FAILED_MIN && results.iter().all(|(_, result)| result.is_err());
    let ends_run =
        |result: &Result<Converged>| matches!(result, Err(e) if everything || !e.kind().is_of_one_key());
    match results.iter().position(|(_, result)| ends_run(result)) {
        Some(at) => {
            results.into_iter().nth(at).map_or(Ok(Vec::new()), |(_, result)| result.map(|_| Vec::new()))
        }
        None => Ok(results),
    }
}
