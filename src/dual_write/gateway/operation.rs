//! One write through the gateway: intent, upstream write, reply, converge, and the intent's end.
//!
//! It runs to its end whether or not its client is still there: a write that is abandoned half way would be in
//! doubt for no reason.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use futures::future::{BoxFuture, FutureExt as _};
use futures::stream::{self, StreamExt as _};
use tokio::runtime::Handle;
use tracing::Instrument as _;

use super::door::Ticket;
use super::spool::Offered;
use super::{CONVERGES_MAX, Gateway, QUEUE_MAX};
use crate::anchored::Anchored;
use crate::blob::server::afterwards;
use crate::blob::{BlobStore, Head, Pathname, Spooled};
use crate::converge::Converger;
use crate::dual_write::mirroring::Mirroring;
use crate::error::{Error, ErrorKind, Result};
use crate::plan::MirrorMode;
use crate::protocol::converge::Done;
use crate::protocol::intent::{BeforeWrite, Reply, Silence, Verdict, after_own, before_write};
use crate::protocol::phase::Authority;
use crate::target::control::{IntentRow, IntentState};

/// How long an intent may take to be stored before the control table counts as out of reach.
pub(super) const CONTROL_TIME_MAX: Duration = Duration::from_secs(2);
/// How often an operation that stalled stores its intent anew before it gives up.
const NOTES_MAX: u32 = 3;
/// How many converges one operation runs at a time.
const CONCURRENCY: usize = 8;

/// Sends the write to the store that is right.
pub(super) type Send = Box<dyn FnOnce(Right) -> BoxFuture<'static, Result<Option<Head>>> + std::marker::Send>;

/// The store that is right now.
pub(super) struct Right {
    pub(super) store: Arc<dyn BlobStore>,
    pub(super) authority: Authority,
}

/// A write that was asked for.
pub(super) struct Operation {
    /// The pathnames that it may change: those whose turn it needs.
    pub(super) pathnames: Vec<Pathname>,
    /// What is stored.
    pub(super) content: Stores,
    pub(super) send: Send,
}

/// What an operation stores.
pub(super) enum Stores {
    Nothing,
    /// This body.
    Body(Spooled),
    /// What another blob holds, which Blob alone knows while it is the authority.
    Copy,
    /// The same under the second name, and nothing under the first.
    Move,
    /// What parts make that lie in Blob.
    Upload,
}

/// The intent of an operation in this process.
struct Noted {
    row: IntentRow,
    /// When it was last stored, by the monotonic clock, from before it was sent.
    at: Duration,
}

/// A write that upstream has answered, and that is to be mirrored.
struct Written {
    ticket: Ticket,
    intent: Noted,
    pathnames: Vec<Pathname>,
    content: Stores,
    stored: Option<Head>,
    reply: Reply,
    /// When the reply came, by the monotonic clock.
    at: Duration,
}

/// What a write answers, and what it leaves to be done.
type Answered = (Result<Option<Head>>, Option<BoxFuture<'static, ()>>);

/// Work that runs where its answer is waited for, and in a task of its own once nobody waits any more: to begin
/// there would cost two changes of threads.
struct Lasting {
    work: Option<BoxFuture<'static, Answered>>,
    runtime: Handle,
}

impl Lasting {
    fn new(work: impl Future<Output = Answered> + std::marker::Send + 'static) -> Self {
        Self { work: Some(work.boxed()), runtime: Handle::current() }
    }
}

impl Future for Lasting {
    type Output = Result<Option<Head>>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        // It is not here while it runs: if it panics, it is not polled again.
        let mut work = self.work.take().expect("invariant: not polled after its end");
        let Poll::Ready((answer, rest)) = work.poll_unpin(context) else {
            self.work = Some(work);
            return Poll::Pending;
        };
        if let Some(rest) = rest {
            afterwards(rest);
        }
        Poll::Ready(answer)
    }
}

impl Drop for Lasting {
    fn drop(&mut self) {
        if let Some(work) = self.work.take() {
            self.runtime.spawn(async move {
                if let (_, Some(rest)) = work.await {
                    rest.await;
                }
            });
        }
    }
}

impl Gateway {
    /// Carries out a write, and answers as soon as the plan allows.
    ///
    /// # Errors
    /// What upstream says; `Busy` and `WrongPhase` where the gateway may not write, or may not say what came
    /// of it.
    pub(super) async fn carry_out(self: &Arc<Self>, operation: Operation) -> Result<Option<Head>> {
        let work = Arc::clone(self).work(operation).in_current_span();
        Lasting::new(self.running.track_future(work)).await
    }

    async fn work(self: Arc<Self>, operation: Operation) -> Answered {
        let Operation { mut pathnames, content, send } = operation;
        let turn = self.turns.take(&pathnames).await;
        pathnames.retain(|pathname| self.maps(pathname));
        let ticket = match self.door.enter().await {
            Ok(ticket) => ticket,
            Err(error) => {
                self.counts.refused();
                return (Err(error), None);
            }
        };
        if ticket.authority == Authority::Source
            && let Err(error) = self.doubts.check(&pathnames, &content, self.clock().monotonic())
        {
            self.counts.held_back();
            return (Err(error), None);
        }
        let intent = match self.note(&ticket, &pathnames, &content).await {
            Ok(intent) => intent,
            Err(error) => return (Err(error), None),
        };
        let outcome = tokio::select! {
            biased;
            outcome = send(self.right(&ticket)) => outcome,
            () = ticket.leave.cancelled() => Err(unanswered("a flip is under way")),
        };
        drop(turn);
        let at = self.clock().monotonic();
        let reply = reply_of(&outcome);
        let stored = outcome.as_ref().ok().cloned().flatten();
        let intent = self.name_what_was_stored(&ticket, intent, &mut pathnames, stored.as_ref()).await;
        let may_answer = self.door.may_answer(&ticket);
        let outcome = if may_answer { outcome } else { Err(unanswered("its session is over")) };
        self.counts.answered(&outcome, reply);
        let Some(intent) = intent else { return (outcome, None) };
        let written = Written { ticket, intent, pathnames, content, stored, reply, at };
        let mirrored = Arc::clone(&self).mirror(written);
        match self.mirror {
            MirrorMode::Async => {
                let rest = self.running.track_future(mirrored.in_current_span());
                (outcome, Some(rest.boxed()))
            }
            MirrorMode::Strict => {
                mirrored.await;
                (outcome, None)
            }
        }
    }

    /// Makes the mirror equal, and ends the intent.
    async fn mirror(self: Arc<Self>, written: Written) {
        let Written { mut ticket, intent, pathnames, content, stored, reply, at } = written;
        let body = match content {
            Stores::Body(body) => Some(body),
            Stores::Nothing | Stores::Copy | Stores::Move | Stores::Upload => None,
        };
        let done = loop {
            let done = tokio::select! {
                biased;
                () = ticket.leave.cancelled() => Done::GaveUp,
                done = self.settle(&ticket, &pathnames, body.as_ref(), stored.as_ref()) => done,
            };
            if done != Done::GaveUp || !ticket.pause.is_cancelled() {
                break done;
            }
            // It left for a hold, and comes back after it: whichever store is the mirror then.
            let session = Arc::clone(&ticket.session);
            drop(ticket);
            match self.door.enter_to_work().await {
                Ok(next) if Arc::ptr_eq(&next.session, &session) => ticket = next,
                // Its session is over: what it leaves is the replay's.
                Ok(_) | Err(_) => return self.leave(intent),
            }
        };
        let lag = self.clock().monotonic().saturating_sub(at);
        if done != Done::GaveUp {
            self.metrics.converged(lag);
        }
        tracing::debug!(
            ?pathnames,
            ?done,
            ms = lag.as_secs_f64() * 1_000.0,
            "the write is mirrored, or left in doubt"
        );
        self.end(&ticket, intent, after_own(reply, done)).await;
    }

    /// Stores the intent, where the control table can be reached; else takes note of the gap.
    ///
    /// # Errors
    /// `Busy` where this process stalls again and again between the intent and its write.
    async fn note(&self, ticket: &Ticket, pathnames: &[Pathname], content: &Stores) -> Result<Option<Noted>> {
        if !ticket.noted {
            self.go_unnoted(ticket, pathnames);
            return Ok(None);
        }
        for _ in 0..NOTES_MAX {
            let now = self.clock().now();
            let sha256 = match content {
                Stores::Body(body) => Some(body.sha256()),
                Stores::Nothing | Stores::Copy | Stores::Move | Stores::Upload => None,
            };
            let (session, pathnames) = (ticket.session.id(), pathnames.to_vec());
            let mut row = IntentRow::new(&session, now, IntentState::Open, pathnames, sha256);
            row.any_content = match content {
                Stores::Nothing | Stores::Body(_) => false,
                Stores::Copy | Stores::Move => ticket.authority == Authority::Source,
                Stores::Upload => true,
            };
            // Parts of an upload are put together in Blob.
            row.to_target = ticket.authority == Authority::Target && !matches!(content, Stores::Upload);
            let at = self.clock().monotonic();
            self.at_work.insert(&row.id);
            if let Err(error) = self.within(self.control().store_intent(&row)).await {
                self.at_work.remove(&row.id);
                self.lost(&error);
                if ticket.authority == Authority::Target {
                    return Err(Error::new(ErrorKind::Busy, "write through the gateway")
                        .message("DynamoDB can't be reached; nothing was written: try again"));
                }
                self.go_unnoted(ticket, &row.pathnames);
                return Ok(None);
            }
            let noted = Noted { row, at };
            match before_write(self.silence(noted.at)) {
                BeforeWrite::Send => return Ok(Some(noted)),
                // Others may have waited the row out: it is stored anew under another id.
                BeforeWrite::StoreAnew => self.end(ticket, noted, Verdict::Clear).await,
            }
        }
        Err(Error::new(ErrorKind::Busy, "write through the gateway")
            .message("this process stalls; nothing was written"))
    }

    fn silence(&self, since: Duration) -> Silence {
        let passed = self.clock().monotonic().saturating_sub(since);
        // Where nothing lands late, nobody waits for it.
        if !self.late_write_max.is_zero() && passed >= self.late_write_max {
            Silence::Full
        } else {
            Silence::Short
        }
    }

    fn go_unnoted(&self, ticket: &Ticket, pathnames: &[Pathname]) {
        self.counts.unnoted();
        self.door.note_unnoted(&ticket.session, pathnames);
    }

    /// Adds a pathname to the intent that only upstream knew.
    async fn name_what_was_stored(
        &self,
        ticket: &Ticket,
        intent: Option<Noted>,
        pathnames: &mut Vec<Pathname>,
        stored: Option<&Head>,
    ) -> Option<Noted> {
        let new = stored.map(|head| &head.blob.pathname);
        let Some(new) = new.filter(|new| !pathnames.contains(new) && self.maps(new)) else { return intent };
        pathnames.push(new.clone());
        let Some(noted) = intent else {
            self.door.note_unnoted(&ticket.session, std::slice::from_ref(new));
            return None;
        };
        let row = IntentRow { pathnames: pathnames.clone(), ..noted.row.touched(IntentState::Open) };
        match self.within(self.control().touch_intent(&row, &noted.row.version)).await {
            Ok(true) => Some(Noted { row, at: noted.at }),
            Ok(false) | Err(_) => {
                self.door.note_unnoted(&ticket.session, std::slice::from_ref(new));
                Some(noted)
            }
        }
    }

    /// The store that is right for as long as whoever has this ticket is inside.
    fn right(&self, ticket: &Ticket) -> Right {
        let store: Arc<dyn BlobStore> = match ticket.authority {
            Authority::Source => Arc::clone(&self.upstream),
            Authority::Target => {
                let converger = Converger { permit: ticket.permit(), ..self.converger.clone() };
                Arc::new(Anchored::new(converger, &self.prefix))
            }
        };
        Right { store, authority: ticket.authority }
    }

    /// Makes the mirror of all of them equal; the body of the put is offered for the version that it stored.
    async fn settle(
        &self,
        ticket: &Ticket,
        pathnames: &[Pathname],
        body: Option<&Spooled>,
        stored: Option<&Head>,
    ) -> Done {
        if !self.door.is_reachable() {
            return Done::GaveUp;
        }
        let Ok(_place) = self.queue.try_acquire() else {
            // Too many are waiting: a replay takes what this process can't.
            return Done::GaveUp;
        };
        // Bodies that wait long would fill memory: they are read again.
        let body = body.filter(|_| self.queue.available_permits() > QUEUE_MAX - CONVERGES_MAX * 4);
        let mut converger = self.converger.clone();
        if let (Authority::Source, Some(body), Some(head)) = (ticket.authority, body, stored) {
            let (body, head) = (body.clone(), head.clone());
            converger.bodies = Arc::new(Offered { body, head, others: converger.bodies });
        }
        let mirroring = &Mirroring::from(ticket.authority, &converger, ticket.permit(), &self.prefix);
        let mut settling = stream::iter(pathnames.to_vec())
            .map(|pathname: Pathname| async move {
                let run = async {
                    let Ok(_slot) = self.slots.acquire().await else { return Done::GaveUp };
                    mirroring.settle(&pathname, body).await
                };
                self.lanes.mirror(&pathname, Box::pin(run)).await
            })
            .buffer_unordered(CONCURRENCY);
        let mut all = Done::Written;
        while let Some(done) = settling.next().await {
            if done == Done::GaveUp {
                all = done;
            }
        }
        all
    }

    /// Nobody is at it any more, and its row stays as it is.
    fn leave(&self, intent: Noted) {
        self.counts.kept();
        self.at_work.remove(&intent.row.id);
    }

    /// Removes the intent, or says in it that it is in doubt. Where that fails, this process still knows
    /// that nobody is at it.
    async fn end(&self, ticket: &Ticket, intent: Noted, verdict: Verdict) {
        let Noted { row, .. } = intent;
        let ended = match verdict {
            Verdict::Clear => self.within(self.control().clear_intent(&row)).await.map(drop),
            Verdict::Keep => {
                self.counts.kept();
                if ticket.leave.is_cancelled() || !self.door.is_reachable() {
                    Ok(())
                } else {
                    let given_up = row.touched(IntentState::GaveUp);
                    self.within(self.control().touch_intent(&given_up, &row.version)).await.map(drop)
                }
            }
        };
        self.at_work.remove(&row.id);
        if let Err(error) = ended {
            tracing::debug!(%error, intent = row.id, "an intent is left to the replay");
        }
    }
}

fn unanswered(why: &str) -> Error {
    Error::new(ErrorKind::Busy, "write through the gateway")
        .message(format!("{why}; the write may have been applied: try again"))
}

/// Whether upstream said what became of a write.
fn reply_of(outcome: &Result<Option<Head>>) -> Reply {
    let Err(error) = outcome else { return Reply::Seen };
    match error.kind() {
        ErrorKind::Usage
        | ErrorKind::NotApplied
        | ErrorKind::Throttled { .. }
        | ErrorKind::LostRace
        | ErrorKind::AlreadyExists
        | ErrorKind::NotFound
        | ErrorKind::Denied
        | ErrorKind::Suspended
        | ErrorKind::Unrepresentable => Reply::Seen,
        ErrorKind::OutcomeUnknown
        | ErrorKind::Corrupt
        | ErrorKind::NoSpace
        | ErrorKind::Busy
        | ErrorKind::WrongPhase
        | ErrorKind::Budget
        | ErrorKind::GateClosed
        | ErrorKind::Interrupted
        | ErrorKind::Internal => Reply::Missing,
    }
}
