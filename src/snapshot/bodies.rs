//! The bodies that a run has to fetch, several at a time, each in whichever version is there.

use std::sync::Arc;
use std::time::Duration;

use futures::stream::{self, Stream, StreamExt as _};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_util::sync::CancellationToken;

use super::export::{Export, OPERATION};
use super::file::Snapshot;
use super::rows::{HeldBody, Outcome};
use super::run::Wanted;
use crate::blob::spool::MEMORY_BYTES_MAX;
use crate::blob::{Fetched, Fetcher, Pathname};
use crate::error::{Error, ErrorKind, Result};

/// How many missing bodies are looked up in the snapshot at once.
const WANTED_PAGE: u32 = 1000;
/// How much of bodies is in memory at most, in KiB.
const IN_FLIGHT_KIB: u32 = 32 * 1024;
/// How often a blob that changes while it is fetched is followed.
const CHANGES_MAX: u32 = 5;
/// How long requests that are under way may take to end after an interruption.
const GRACE: Duration = Duration::from_secs(5);

/// What came of one body. Its share of the memory is given back with the permit.
pub(super) type Fetch = (Pathname, Outcome, OwnedSemaphorePermit);

/// What came of each missing body, as it comes, until `halt` is cancelled. An error is a reason to stop,
/// and has cancelled it.
pub(super) fn fetched(
    export: &Export,
    snapshot: &Snapshot,
    run: i64,
    halt: &CancellationToken,
) -> impl Stream<Item = Result<Fetch>> + use<> {
    let fetcher = Arc::new(Fetcher {
        source: Arc::clone(&export.source),
        clock: Arc::clone(&export.clock),
        access: export.plan.source.access,
        cdn_stale: export.plan.timing.cdn_stale.0,
        etags: export.plan.source.etags,
        body_bytes_max: export.options.body_bytes_max,
    });
    let in_flight = Arc::new(Semaphore::new(IN_FLIGHT_KIB as usize));
    let halt = halt.clone();
    wanted(snapshot.clone(), run)
        .take_until(halt.clone().cancelled_owned())
        .map(move |wanted| fetch(wanted, Arc::clone(&fetcher), Arc::clone(&in_flight), halt.clone()))
        .buffer_unordered(export.options.concurrency.max(1))
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
    // A longer one is in a file.
    let kib = u32::try_from(wanted.size.min(MEMORY_BYTES_MAX) / 1024 + 1).unwrap_or(IN_FLIGHT_KIB);
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
            Ok(Fetched::Body { body, content_type, cache_control }) => {
                let held = Box::new(HeldBody {
                    etag: version.etag.clone(),
                    size,
                    sha256: body.sha256(),
                    content_type,
                    cache_control,
                });
                return Ok(Outcome::Body { version, held, body });
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
        | ErrorKind::NoSpace
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
pub(super) fn is_stores_failure(outcome: &Outcome) -> bool {
    let Outcome::Failed(error) = outcome else { return false };
    matches!(
        error.kind(),
        ErrorKind::NotApplied | ErrorKind::Throttled { .. } | ErrorKind::Usage | ErrorKind::Corrupt
    )
}
