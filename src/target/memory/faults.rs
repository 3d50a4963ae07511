//! The script of faults: which call of which operation meets what.

use std::collections::{HashMap, VecDeque};
use std::sync::{Mutex, MutexGuard, PoisonError};

use tokio::sync::oneshot;

use crate::error::{Error, ErrorKind, Result};

/// An operation of the store.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Operation {
    /// [`get`](crate::target::TargetStore::get).
    Get,
    /// [`query`](crate::target::TargetStore::query).
    Query,
    /// [`scan`](crate::target::TargetStore::scan).
    Scan,
    /// [`transact`](crate::target::TargetStore::transact).
    Transact,
    /// [`insert`](crate::target::TargetStore::insert).
    Insert,
    /// [`read_index`](crate::target::TargetStore::read_index).
    ReadIndex,
    /// [`describe`](crate::target::TargetStore::describe).
    Describe,
    /// [`provision`](crate::target::TargetStore::provision).
    Provision,
}

impl Operation {
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Get => "get items",
            Self::Query => "query items",
            Self::Scan => "scan table",
            Self::Transact => "write transaction",
            Self::Insert => "insert items",
            Self::ReadIndex => "read index",
            Self::Describe => "describe table",
            Self::Provision => "provision table",
        }
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
    /// [`release_held`](super::MemoryTarget::release_held) is called. A read fails as `NotApplied`.
    Held,
}

/// A call that waits before it has any effect.
#[derive(Debug)]
pub struct Pause {
    arrived: oneshot::Receiver<()>,
    release: oneshot::Sender<()>,
}

impl Pause {
    pub(super) fn new() -> (Self, Step) {
        let (arrive, arrived) = oneshot::channel();
        let (release, released) = oneshot::channel();
        (Self { arrived, release }, Step::Pause { arrive, released })
    }

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
pub(super) enum Step {
    Spare,
    Fault(Fault),
    Pause { arrive: oneshot::Sender<()>, released: oneshot::Receiver<()> },
}

#[derive(Debug, Default)]
pub(super) struct Script(Mutex<Steps>);

#[derive(Debug, Default)]
struct Steps {
    queues: HashMap<Operation, VecDeque<Step>>,
    calls: HashMap<Operation, u64>,
    outage: Option<ErrorKind>,
}

impl Script {
    fn lock(&self) -> MutexGuard<'_, Steps> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn push(&self, operation: Operation, step: Step) {
        self.lock().queues.entry(operation).or_default().push_back(step);
    }

    pub(super) fn clear(&self) {
        self.lock().queues.clear();
    }

    pub(super) fn set_outage(&self, kind: Option<ErrorKind>) {
        self.lock().outage = kind;
    }

    pub(super) fn calls(&self, operation: Operation) -> u64 {
        self.lock().calls.get(&operation).copied().unwrap_or(0)
    }

    pub(super) fn all_calls(&self) -> u64 {
        self.lock().calls.values().sum()
    }

    /// The fault of this call, if any; waits out a pause first.
    pub(super) async fn next(&self, operation: Operation) -> Result<Option<Fault>> {
        let step = {
            let mut steps = self.lock();
            *steps.calls.entry(operation).or_default() += 1;
            if let Some(kind) = steps.outage {
                return Err(Error::new(kind, operation.name()).message("the store is out of order"));
            }
            steps.queues.get_mut(&operation).and_then(VecDeque::pop_front)
        };
        match step {
            None | Some(Step::Spare) => Ok(None),
            Some(Step::Fault(fault)) => Ok(Some(fault)),
            Some(Step::Pause { arrive, released }) => {
                // Nobody may be waiting for the arrival, and a dropped pause is a released one.
                arrive.send(()).ok();
                released.await.ok();
                Ok(None)
            }
        }
    }
}
