//! The switches: what the store does to its callers, changeable while it runs.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures::future::BoxFuture;
use tokio::sync::oneshot;

use super::rates::{Limits, Rates};
use super::stale::Stale;
use crate::clock::Clock;
use crate::error::{Error, ErrorKind, Result};

/// An operation of the store.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Operation {
    /// [`head`](crate::blob::BlobStore::head).
    Head,
    /// [`list`](crate::blob::BlobStore::list).
    List,
    /// [`get`](crate::blob::BlobStore::get).
    Get,
    /// [`put`](crate::blob::BlobStore::put).
    Put,
    /// [`copy`](crate::blob::BlobStore::copy).
    Copy,
    /// [`rename`](crate::blob::BlobStore::rename).
    Rename,
    /// [`delete`](crate::blob::BlobStore::delete).
    Delete,
    /// [`create_multipart`](crate::blob::BlobStore::create_multipart).
    CreateMultipart,
    /// [`upload_part`](crate::blob::BlobStore::upload_part).
    UploadPart,
    /// [`complete_multipart`](crate::blob::BlobStore::complete_multipart).
    CompleteMultipart,
}

impl Operation {
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Head => "head a blob",
            Self::List => "list blobs",
            Self::Get => "read a blob",
            Self::Put => "put a blob",
            Self::Copy => "copy a blob",
            Self::Rename => "rename a blob",
            Self::Delete => "delete blobs",
            Self::CreateMultipart => "create a multipart upload",
            Self::UploadPart => "upload a part",
            Self::CompleteMultipart => "complete a multipart upload",
        }
    }

    /// Whether it is a simple operation; the others are advanced ones.
    #[must_use]
    pub const fn is_simple(self) -> bool {
        matches!(self, Self::Head | Self::Get)
    }
}

/// What a call meets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// It fails with this kind, without any effect.
    Refused(ErrorKind),
    /// It is applied, and the caller learns `OutcomeUnknown`. A read fails as `NotApplied`.
    AppliedThenLost,
    /// The caller learns `OutcomeUnknown` at once, and the request lands when
    /// [`Faults::release_held`] is called. A read fails as `NotApplied`.
    Held,
    /// It takes this long before it is applied.
    Slow(Duration),
}

/// A call that waits before it has any effect.
#[derive(Debug)]
pub struct Pause {
    arrived: oneshot::Receiver<()>,
    release: oneshot::Sender<()>,
}

impl Pause {
    /// Waits until the call has arrived.
    ///
    /// # Panics
    /// If the store is gone.
    pub async fn arrived(&mut self) {
        (&mut self.arrived).await.expect("the store is there while a test waits for a call");
    }

    /// Lets the call go on. A pause that is dropped does so too.
    pub fn release(self) {
        drop(self.release);
    }
}

#[derive(Debug)]
enum Step {
    Fault(Fault),
    Pause { arrive: oneshot::Sender<()>, released: oneshot::Receiver<()> },
}

/// Connections that end without a reply.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Drops {
    /// Every so many requests, one is not answered.
    pub every: std::num::NonZeroU64,
    /// Whether that request takes effect.
    pub applied: bool,
}

#[derive(Default)]
struct Switches {
    queues: HashMap<Operation, VecDeque<Step>>,
    calls: HashMap<Operation, u64>,
    outage: Option<ErrorKind>,
    latency: Duration,
    limits: Option<Arc<Limits>>,
    /// How many operations pass before the store is suspended.
    operations_left: Option<u64>,
    drops: Option<Drops>,
    requests: u64,
    stale_for: Option<Duration>,
}

/// The switches of a [`FaultyBlob`](super::FaultyBlob) and of the server in front of it. Clones are the
/// same switches; all are off at first.
#[derive(Clone)]
pub struct Faults {
    clock: Arc<dyn Clock>,
    switches: Arc<Mutex<Switches>>,
    held: Arc<Mutex<Vec<BoxFuture<'static, ()>>>>,
    pub(super) stale: Arc<Stale>,
}

impl std::fmt::Debug for Faults {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Faults").finish_non_exhaustive()
    }
}

impl Faults {
    /// Switches that are all off.
    #[must_use]
    pub fn new(clock: Arc<dyn Clock>) -> Self {
        let stale = Arc::new(Stale::new(clock.clone()));
        Self { clock, switches: Arc::default(), held: Arc::default(), stale }
    }

    /// Lets the next call of this operation that is not yet spoken for meet this fault.
    pub fn fault(&self, operation: Operation, fault: Fault) {
        self.push(operation, Step::Fault(fault));
    }

    /// Lets the next call of this operation that is not yet spoken for wait before it has any effect.
    pub fn pause(&self, operation: Operation) -> Pause {
        let (arrive, arrived) = oneshot::channel();
        let (release, released) = oneshot::channel();
        self.push(operation, Step::Pause { arrive, released });
        Pause { arrived, release }
    }

    /// Forgets the faults and pauses that no call has met yet.
    pub fn clear_faults(&self) {
        self.lock().queues.clear();
    }

    /// Lets all held requests land, in their order, and waits until they have; says how many they were.
    pub async fn release_held(&self) -> usize {
        let held = std::mem::take(&mut *self.held.lock().unwrap_or_else(PoisonError::into_inner));
        let count = held.len();
        for request in held {
            request.await;
        }
        count
    }

    /// Lets every call fail with this kind, without any effect, until it is set to none.
    pub fn set_outage(&self, kind: Option<ErrorKind>) {
        self.lock().outage = kind;
    }

    /// Lets content reads serve, for this long after an overwrite or a delete, what was there before.
    /// Reads past the cache are fresh, and so are `head` and `list`, always.
    pub fn set_stale_reads(&self, lasting: Option<Duration>) {
        self.lock().stale_for = lasting;
    }

    /// Refuses, as `Throttled`, what comes faster than these rates.
    pub fn set_rates(&self, rates: Option<Rates>) {
        self.lock().limits = rates.map(|rates| Arc::new(Limits::new(rates, self.clock.clone())));
    }

    /// Suspends the store after so many more operations; none lifts the suspension.
    pub fn suspend_after(&self, operations: Option<u64>) {
        self.lock().operations_left = operations;
    }

    /// Lets every call take this much longer.
    pub fn set_latency(&self, latency: Duration) {
        self.lock().latency = latency;
    }

    /// Lets the server end connections without a reply.
    pub fn set_drops(&self, drops: Option<Drops>) {
        let mut switches = self.lock();
        switches.drops = drops;
        switches.requests = 0;
    }

    /// How many calls of this operation came in, refused ones too.
    #[must_use]
    pub fn calls(&self, operation: Operation) -> u64 {
        self.lock().calls.get(&operation).copied().unwrap_or(0)
    }

    /// Counts a request at the server; says whether its connection must end without a reply.
    #[must_use]
    pub fn next_drop(&self) -> Option<Drops> {
        let mut switches = self.lock();
        switches.requests += 1;
        let requests = switches.requests;
        switches.drops.filter(|drops| requests.is_multiple_of(drops.every.get()))
    }

    pub(super) fn stale_for(&self) -> Option<Duration> {
        self.lock().stale_for
    }

    pub(super) fn hold(&self, request: BoxFuture<'static, ()>) {
        self.held.lock().unwrap_or_else(PoisonError::into_inner).push(request);
    }

    /// What this call meets, once latency and pauses are waited out.
    ///
    /// # Errors
    /// `Suspended`, `Throttled`, or the kind of the outage.
    pub(super) async fn next(&self, operation: Operation, cost: u32) -> Result<Option<Fault>> {
        let (limits, latency) = self.admit(operation)?;
        if let Some(limits) = limits {
            limits.take(operation, cost)?;
        }
        if !latency.is_zero() {
            self.clock.sleep(latency).await;
        }
        let step = self.lock().queues.get_mut(&operation).and_then(VecDeque::pop_front);
        match step {
            None => Ok(None),
            Some(Step::Fault(Fault::Slow(delay))) => {
                self.clock.sleep(delay).await;
                Ok(None)
            }
            Some(Step::Fault(fault)) => Ok(Some(fault)),
            Some(Step::Pause { arrive, released }) => {
                // Nobody may be waiting for the arrival, and a dropped pause is a released one.
                arrive.send(()).ok();
                released.await.ok();
                Ok(None)
            }
        }
    }

    fn admit(&self, operation: Operation) -> Result<(Option<Arc<Limits>>, Duration)> {
        let mut switches = self.lock();
        *switches.calls.entry(operation).or_default() += 1;
        if let Some(kind) = switches.outage {
            return Err(Error::new(kind, operation.name()).message("the store is out of order"));
        }
        match &mut switches.operations_left {
            Some(0) => {
                return Err(Error::new(ErrorKind::Suspended, operation.name())
                    .message("This store has been suspended."));
            }
            Some(left) => *left -= 1,
            None => {}
        }
        Ok((switches.limits.clone(), switches.latency))
    }

    fn push(&self, operation: Operation, step: Step) {
        self.lock().queues.entry(operation).or_default().push_back(step);
    }

    fn lock(&self) -> MutexGuard<'_, Switches> {
        self.switches.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
