//! The gateway: a Blob store that writes to another one and keeps the mirror equal.
//!
//! [`DualWrite`] is a decorator: it is served like any other [`BlobStore`], and passes on what it is asked to
//! the store behind it. A write to a pathname that the plan maps goes through the steps of `operation`,
//! in the order that the protocol demands; everything else streams through. Who may write now is the `door`'s
//! business, what was read is compared by `shadow`, and what DynamoDB answers before the cutover is `canary`'s. `watch`
//! moves the door: it reads the mode, acknowledges holds and opens new sessions.
//!
//! It must never answer a write with success whose session was not alive from before its intent until after
//! its reply, and never remove an intent before it saw the reply and converged.

mod canary;
pub(super) mod door;
mod doubts;
mod lanes;
mod operation;
mod sampler;
mod shadow;
mod spool;
mod store;
mod turns;
mod watch;

use std::collections::HashSet;
use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use serde::Serialize;
use tokio::sync::Semaphore;
use tokio_util::task::TaskTracker;

use self::canary::Canary;
use self::door::Door;
use self::doubts::Doubts;
use self::lanes::Lanes;
use self::operation::CONTROL_TIME_MAX;
use self::shadow::Shadow;
use self::turns::Turns;
use super::metrics::Metrics;
use super::session::Session;
use crate::blob::store::Access;
use crate::blob::{BlobStore, Head, Pathname};
use crate::clock::Clock;
use crate::converge::{Converger, LateWrites};
use crate::error::{Error, ErrorKind, Result};
use crate::event::{Event, Events};
use crate::mapping::Rule;
use crate::plan::{HookPlan, MirrorMode, Plan};
use crate::protocol::intent::Reply;
use crate::protocol::phase::Authority;
use crate::target::control::{Control, Mode};

/// So many operations converge at a time.
const CONVERGES_MAX: usize = 64;
/// So many converge or wait for it; the intents of more are left to the replay.
const QUEUE_MAX: usize = 4096;

/// What a gateway is made of.
#[derive(Clone)]
pub struct Parts {
    /// The store behind it, without pace and without retries: clients repeat what failed.
    pub upstream: Arc<dyn BlobStore>,
    /// Both stores, for the converges. Its permit is replaced by the session's.
    pub converger: Converger,
    /// Where notes for the operator go.
    pub events: Events,
    /// Where URLs of blobs are said to be on the canonical hosts: the id and the access of the store.
    pub canonical: Option<(String, Access)>,
    /// What is counted for a monitor.
    pub metrics: Metrics,
}

impl fmt::Debug for Parts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Parts").field("canonical", &self.canonical).finish_non_exhaustive()
    }
}

/// A Blob store that writes to both. Clones are the same gateway.
#[derive(Clone)]
pub struct DualWrite(pub(super) Arc<Gateway>);

impl fmt::Debug for DualWrite {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DualWrite").field("counts", &self.counts()).finish_non_exhaustive()
    }
}

/// What all clones share.
pub(super) struct Gateway {
    upstream: Arc<dyn BlobStore>,
    converger: Converger,
    events: Events,
    canonical: Option<(String, Access)>,
    metrics: Metrics,
    prefix: String,
    mirror: MirrorMode,
    late_write_max: Duration,
    pub(super) door: Arc<Door>,
    turns: Turns,
    lanes: Lanes,
    doubts: Doubts,
    slots: Semaphore,
    queue: Semaphore,
    pub(super) at_work: AtWork,
    running: TaskTracker,
    shadow: Shadow,
    canary: Canary,
    hook: Option<HookPlan>,
    counts: Counts,
    /// Why it ended by itself.
    refused: Mutex<Option<Error>>,
}

impl DualWrite {
    /// A gateway that is not ready yet: nothing that is mapped passes before [`DualWrite::open`].
    #[must_use]
    pub fn new(parts: Parts, plan: &Plan) -> Self {
        let Parts { upstream, converger, events, canonical, metrics } = parts;
        let door = Arc::new(Door::new(Arc::clone(converger.clock())));
        Self(Arc::new(Gateway {
            upstream,
            converger,
            events,
            canonical,
            metrics,
            prefix: plan.source.prefix.clone(),
            mirror: plan.capture.mirror,
            late_write_max: plan.timing.late_write_max.0,
            door,
            turns: Turns::default(),
            lanes: Lanes::default(),
            doubts: Doubts::new(LateWrites::of(&plan.timing)),
            slots: Semaphore::new(CONVERGES_MAX),
            queue: Semaphore::new(QUEUE_MAX),
            at_work: AtWork::default(),
            running: TaskTracker::new(),
            shadow: Shadow::new(&plan.gates.shadow_reads),
            canary: Canary::new(&plan.canary),
            hook: plan.hook.clone(),
            counts: Counts::default(),
            refused: Mutex::default(),
        }))
    }

    /// Lets writes in, under a session that was just opened.
    ///
    /// # Errors
    /// What the control table reports.
    pub async fn open(&self, session: Session) -> Result<()> {
        self.0.learn_doubts(session.mode()).await?;
        self.0.door.open(Arc::new(session));
        Ok(())
    }

    /// Lets no write in any more, lets those inside come to their end for as long as `grace`, and leaves
    /// the others in doubt. Then the session is ended, as clean only if every write was noted, and none is
    /// under way that no intent names.
    ///
    /// # Errors
    /// What the control table reports; the next process of this name then ends the session.
    pub async fn close(&self, grace: Duration) -> Result<()> {
        self.0.door.close_for_good();
        self.0.shadow.close();
        self.0.door.empty(grace).await;
        self.0.running.close();
        self.0.running.wait().await;
        match self.0.door.session() {
            Some(session) => session.end().await,
            None => Ok(()),
        }
    }

    /// Whether the session that was ended last ended as clean.
    #[must_use]
    pub fn ended_clean(&self) -> bool {
        self.0.door.session().is_some_and(|session| session.ended_clean())
    }

    /// Why it ended by itself, if it did.
    pub(in crate::dual_write) fn refused(&self) -> Option<Error> {
        self.0.refused.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    /// How many writes are under way that have an intent.
    #[must_use]
    pub fn under_way(&self) -> usize {
        self.0.at_work.len()
    }

    /// Whether the control table could be reached when it was last asked.
    #[must_use]
    pub fn is_reachable(&self) -> bool {
        self.0.door.is_reachable()
    }

    /// Why it takes no writes; none where it does. While the control table can't be reached it goes on.
    #[must_use]
    pub fn not_ready(&self) -> Option<&'static str> {
        self.0.door.not_ready()
    }

    /// What it read of its last canary's keys.
    #[must_use]
    pub fn canary(&self) -> crate::protocol::canary::Counts {
        self.0.canary.latest()
    }

    /// What it did so far.
    #[must_use]
    pub fn counts(&self) -> GatewayCounts {
        self.0.counts.read()
    }
}

impl Gateway {
    fn clock(&self) -> &Arc<dyn Clock> {
        self.converger.clock()
    }

    fn control(&self) -> &Control {
        &self.converger.control
    }

    /// Whether a blob of this name is mirrored.
    fn maps(&self, pathname: &Pathname) -> bool {
        pathname.as_str().starts_with(&self.prefix)
            && matches!(self.converger.mapper.rule(pathname), Rule::Entity(_))
    }

    /// Asks the control table, which counts as out of reach where that takes too long.
    async fn within<T>(&self, asked: impl Future<Output = Result<T>>) -> Result<T> {
        tokio::select! {
            biased;
            answer = asked => answer,
            () = self.clock().sleep(CONTROL_TIME_MAX) => Err(Error::new(ErrorKind::OutcomeUnknown, "ask the control table")
                .message(format!("no answer within {} s", CONTROL_TIME_MAX.as_secs()))),
        }
    }

    /// Reads what requests of the mirror may land yet, where Blob is the authority by a mode that was just read, and that
    /// is not known. Before it is, no write may go by this mode.
    ///
    /// # Errors
    /// What the control table reports.
    async fn learn_doubts(&self, mode: &Mode) -> Result<()> {
        if mode.phase.authority() == Authority::Source && !self.doubts.are_known(mode.epoch) {
            let notes = self.within(self.control().notes()).await?;
            self.doubts.learn(mode.epoch, notes, self.clock().monotonic());
        }
        Ok(())
    }

    /// The control table did not answer.
    fn lost(&self, error: &Error) {
        if self.door.set_reachable(false) {
            self.events.report(Event::Warning(format!(
                "the control table can't be reached; writes go on without notes: {error}"
            )));
        }
    }
}

/// The intents whose operations are under way in this process.
#[derive(Debug, Default)]
pub(super) struct AtWork(Mutex<HashSet<String>>);

impl AtWork {
    fn insert(&self, id: &str) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).insert(id.to_owned());
    }

    fn remove(&self, id: &str) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).remove(id);
    }

    fn len(&self) -> usize {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).len()
    }

    /// Whether this operation is under way.
    pub(super) fn contains(&self, id: &str) -> bool {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).contains(id)
    }
}

/// What a gateway did.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct GatewayCounts {
    /// Writes to mapped pathnames that were answered with success.
    pub written: u64,
    /// Those that were refused, by the store or by the gateway, before they had an effect.
    pub refused: u64,
    /// Those of which nobody was told what came of them.
    pub in_doubt: u64,
    /// Those that no intent named when they were sent.
    pub unnoted: u64,
    /// Intents that were left to the replay.
    pub kept: u64,
    /// Requests that passed through untouched.
    pub passed: u64,
    /// Writes that were not sent, since a request of the mirror that got no answer could have undone them.
    pub held_back: u64,
}

#[derive(Debug, Default)]
struct Counts {
    written: AtomicU64,
    refused: AtomicU64,
    in_doubt: AtomicU64,
    unnoted: AtomicU64,
    kept: AtomicU64,
    passed: AtomicU64,
    held_back: AtomicU64,
}

impl Counts {
    fn answered(&self, outcome: &Result<Option<Head>>, reply: Reply) {
        let counter = match (outcome, reply) {
            (Ok(_), _) => &self.written,
            (Err(error), Reply::Seen) if error.kind() != ErrorKind::Busy => &self.refused,
            (Err(_), _) => &self.in_doubt,
        };
        counter.fetch_add(1, Ordering::Relaxed);
    }

    fn refused(&self) {
        self.refused.fetch_add(1, Ordering::Relaxed);
    }

    fn unnoted(&self) {
        self.unnoted.fetch_add(1, Ordering::Relaxed);
    }

    fn kept(&self) {
        self.kept.fetch_add(1, Ordering::Relaxed);
    }

    fn held_back(&self) {
        self.held_back.fetch_add(1, Ordering::Relaxed);
    }

    fn passed(&self) {
        self.passed.fetch_add(1, Ordering::Relaxed);
    }

    fn read(&self) -> GatewayCounts {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        GatewayCounts {
            written: read(&self.written),
            refused: read(&self.refused),
            in_doubt: read(&self.in_doubt),
            unnoted: read(&self.unnoted),
            kept: read(&self.kept),
            passed: read(&self.passed),
            held_back: read(&self.held_back),
        }
    }
}
