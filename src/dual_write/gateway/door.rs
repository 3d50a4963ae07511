//! The door: who may write now, and who is inside.
//!
//! Every write to a mapped pathname, and every piece of work beside it that writes to the mirror, passes
//! through the door and is counted until it is over. So whoever has to say that nothing is in flight (an
//! acknowledgement of a hold, a change of session, the end) closes the door and waits until it is empty.
//! What may pass is [`crate::protocol::gateway`]'s word.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::shadow::Round;
use crate::anchored::Entry;
use crate::blob::Pathname;
use crate::clock::Clock;
use crate::converge::Permit;
use crate::dual_write::session::Session;
use crate::error::{Error, ErrorKind, Result};
use crate::protocol::canary::Share;
use crate::protocol::gateway::{Admission, ReadFrom, View, admit, may_answer, read_from};
use crate::protocol::phase::{Authority, Epoch, Phase};
use crate::target::control::Mode;

/// How long a write waits at a closed door before it is told to come again.
const WAIT_MAX: Duration = Duration::from_secs(10);
/// So many pathnames are remembered that no intent names; sweeps find the others.
const UNNOTED_MAX: usize = 100_000;

/// The door of one gateway.
pub(in crate::dual_write) struct Door {
    clock: Arc<dyn Clock>,
    state: Mutex<State>,
    changed: watch::Sender<()>,
}

struct State {
    session: Option<Arc<Session>>,
    authority: Option<Authority>,
    epoch: Epoch,
    /// What was read is compared, and counts to this round.
    compared: Option<Round>,
    /// What DynamoDB answers, and since which step.
    canary: Option<(u64, Share)>,
    hold: Option<String>,
    /// Closed for as long as a new session is opened.
    closed: bool,
    /// Closed for good.
    over: bool,
    reachable: bool,
    inside: usize,
    /// Ends what is inside: writes are left in doubt, other work is interrupted.
    leave: CancellationToken,
    /// Interrupts the work that is no write of a client.
    pause: CancellationToken,
    unnoted: BTreeSet<Pathname>,
    /// Whether there were more than can be remembered.
    overflown: bool,
}

impl State {
    fn view(&self) -> View {
        View {
            authority: self.authority,
            epoch: self.epoch,
            held: self.hold.is_some() || self.closed || self.over,
            reachable: self.reachable,
            lease_holds: self.session.as_ref().is_some_and(|session| session.holds()),
        }
    }
}

/// The right to be inside. It ends when it is dropped.
pub(in crate::dual_write) struct Ticket {
    door: Arc<Door>,
    pub(in crate::dual_write) session: Arc<Session>,
    pub(in crate::dual_write) epoch: Epoch,
    /// The store that is right for as long as anybody is inside.
    pub(in crate::dual_write) authority: Authority,
    /// Whether an intent can be stored first.
    pub(super) noted: bool,
    /// Cancelled when whoever is inside must leave at once.
    pub(in crate::dual_write) leave: CancellationToken,
    /// Cancelled when work that is no write of a client must leave.
    pub(in crate::dual_write) pause: CancellationToken,
}

impl Drop for Ticket {
    fn drop(&mut self) {
        self.door.change(|state| state.inside -= 1);
    }
}

impl Ticket {
    /// The session's right to write. What is in doubt is not the session's but the intent's business.
    pub(in crate::dual_write) fn permit(&self) -> Arc<dyn Permit> {
        Arc::new(OfIntents { session: self.session.permit(), pause: self.pause.clone() })
    }
}

/// A permit for converges on behalf of intents: one that is left in doubt keeps its intent, and whoever
/// replays that renews the rev, so that no request of it can land any more. Once whoever is inside is to leave, it begins
/// no request to Blob.
struct OfIntents {
    session: Arc<dyn Permit>,
    pause: CancellationToken,
}

impl Permit for OfIntents {
    fn check(&self) -> Result<()> {
        self.session.check()
    }

    fn may_begin(&self) -> bool {
        !self.pause.is_cancelled()
    }

    fn session(&self) -> String {
        self.session.session()
    }
}

/// The permit of whoever is inside, for as long as it is kept.
struct Inside(Ticket);

impl Permit for Inside {
    fn check(&self) -> Result<()> {
        self.0.session.permit().check()
    }

    fn session(&self) -> String {
        self.0.session.id()
    }
}

/// Lets readers in who take over what the application wrote to DynamoDB itself, where work may go in.
pub(super) struct AtDoor(pub(super) Arc<Door>);

impl Entry for AtDoor {
    fn enter(&self) -> Option<Arc<dyn Permit>> {
        let ticket = self.0.try_enter(true).ok().flatten()?;
        Some(Arc::new(Inside(ticket)))
    }
}

impl Door {
    /// A door through which nobody may pass before a session was opened.
    pub(super) fn new(clock: Arc<dyn Clock>) -> Self {
        let state = State {
            session: None,
            authority: None,
            epoch: Epoch(0),
            compared: None,
            canary: None,
            hold: None,
            closed: false,
            over: false,
            reachable: true,
            inside: 0,
            leave: CancellationToken::new(),
            pause: CancellationToken::new(),
            unnoted: BTreeSet::new(),
            overflown: false,
        };
        Self { clock, state: Mutex::new(state), changed: watch::Sender::new(()) }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn change<T>(&self, change: impl FnOnce(&mut State) -> T) -> T {
        let changed = change(&mut self.lock());
        self.changed.send_replace(());
        changed
    }

    /// Lets a write in, or makes it wait while the door is closed.
    ///
    /// # Errors
    /// `Busy` after ten seconds; `WrongPhase` where this gateway may not write at all.
    pub(super) async fn enter(self: &Arc<Self>) -> Result<Ticket> {
        if let Some(ticket) = self.try_enter(false)? {
            return Ok(ticket);
        }
        tokio::select! {
            biased;
            entered = self.wait_to_enter(false) => entered,
            () = self.clock.sleep(WAIT_MAX) => Err(held_up()),
        }
    }

    /// Lets in work that is no write of a client: only where everything is as it should be. It waits as
    /// long as it takes.
    ///
    /// # Errors
    /// `WrongPhase` where this gateway may not write at all.
    pub(in crate::dual_write) async fn enter_to_work(self: &Arc<Self>) -> Result<Ticket> {
        self.wait_to_enter(true).await
    }

    async fn wait_to_enter(self: &Arc<Self>, to_work: bool) -> Result<Ticket> {
        let mut changed = self.changed.subscribe();
        loop {
            changed.borrow_and_update();
            if to_work && self.is_over() {
                return Err(not_ready());
            }
            if let Some(ticket) = self.try_enter(to_work)? {
                return Ok(ticket);
            }
            changed.changed().await.map_err(|_| held_up())?;
        }
    }

    fn try_enter(self: &Arc<Self>, to_work: bool) -> Result<Option<Ticket>> {
        let mut state = self.lock();
        let noted = match admit(state.view()) {
            Admission::Noted => true,
            Admission::Unnoted if to_work => return Ok(None),
            Admission::Unnoted => false,
            Admission::Wait => return Ok(None),
            Admission::Refuse => return Err(not_ready()),
        };
        let (Some(session), Some(authority)) = (state.session.clone(), state.authority) else {
            return Err(not_ready());
        };
        state.inside += 1;
        let (epoch, leave, pause) = (state.epoch, state.leave.clone(), state.pause.clone());
        Ok(Some(Ticket { door: Arc::clone(self), session, epoch, authority, noted, leave, pause }))
    }

    /// Why no write is let in at the moment.
    pub(super) fn not_ready(&self) -> Option<&'static str> {
        let state = self.lock();
        match admit(state.view()) {
            Admission::Noted | Admission::Unnoted => None,
            Admission::Wait if state.over => Some("it is ending"),
            Admission::Wait if !state.reachable => Some("DynamoDB is the authority and can't be reached"),
            Admission::Wait => Some("writes are held"),
            Admission::Refuse => Some("the mode was not read yet"),
        }
    }

    /// Whether the reply to a write that was let in may be passed on.
    pub(super) fn may_answer(&self, ticket: &Ticket) -> bool {
        let state = self.lock();
        let same = state.session.as_ref().is_some_and(|session| Arc::ptr_eq(session, &ticket.session));
        may_answer(same, ticket.epoch, state.view())
    }

    /// Where a read of what is mapped is answered from.
    pub(super) fn read_from(&self) -> ReadFrom {
        let state = self.lock();
        read_from(state.view(), state.hold.is_some())
    }

    /// The same by a mode item that was read just now.
    pub(super) fn read_beside(&self, mode: &Mode) -> ReadFrom {
        let authority = Some(mode.phase.authority());
        read_from(View { authority, reachable: true, ..self.lock().view() }, false)
    }

    /// The round to which reads count that are compared; none where they are not.
    pub(super) fn compared(&self) -> Option<Round> {
        self.lock().compared
    }

    /// The step since which DynamoDB answers reads of this pathname; none where it does not, or a flip is on its way,
    /// or DynamoDB is out of reach.
    pub(super) fn canaried(&self, pathname: &Pathname) -> Option<u64> {
        let state = self.lock();
        let (step, share) = state.canary.as_ref().filter(|_| state.hold.is_none() && state.reachable)?;
        share.holds(pathname.as_str()).then_some(*step)
    }

    /// Takes note of a write that no intent names, before it is sent: its session has a gap.
    pub(super) fn note_unnoted(&self, session: &Session, pathnames: &[Pathname]) {
        session.note_gap();
        let mut state = self.lock();
        if state.unnoted.len() + pathnames.len() > UNNOTED_MAX {
            state.overflown = true;
        } else {
            state.unnoted.extend(pathnames.iter().cloned());
        }
    }

    /// What no intent names, to be noted now; it is forgotten here.
    pub(super) fn take_unnoted(&self) -> BTreeSet<Pathname> {
        let mut state = self.lock();
        if std::mem::take(&mut state.overflown) {
            tracing::warn!("too many writes went on without notes: sweeps find those that are left");
        }
        std::mem::take(&mut state.unnoted)
    }

    /// The mode item was read.
    pub(super) fn saw(&self, mode: &Mode) {
        self.change(|state| {
            state.authority = Some(mode.phase.authority());
            state.epoch = mode.epoch;
            let round = Round { epoch: mode.epoch, round: mode.round };
            state.compared = matches!(mode.phase, Phase::Shadow | Phase::Canary).then_some(round);
            state.canary =
                mode.canary.clone().filter(|_| mode.phase == Phase::Canary).map(|share| (mode.step, share));
            state.hold = mode.hold.as_ref().map(|hold| hold.id.clone());
        });
    }

    /// The present session.
    pub(super) fn session(&self) -> Option<Arc<Session>> {
        self.lock().session.clone()
    }

    /// Opens the door under a session that was just opened; returns the one before.
    pub(super) fn open(&self, session: Arc<Session>) -> Option<Arc<Session>> {
        let mode = session.mode().clone();
        self.saw(&mode);
        self.change(|state| {
            state.closed = false;
            state.reachable = true;
            state.session.replace(session)
        })
    }

    /// Opens a door again that was closed for a moment.
    pub(super) fn reopen(&self) {
        self.change(|state| state.closed = false);
    }

    /// Whether the control table can be reached.
    pub(super) fn is_reachable(&self) -> bool {
        self.lock().reachable
    }

    /// The control table can be reached, or can't; says whether that is news.
    pub(super) fn set_reachable(&self, reachable: bool) -> bool {
        self.change(|state| std::mem::replace(&mut state.reachable, reachable) != reachable)
    }

    /// Lets nobody in for a while.
    pub(super) fn close(&self) {
        self.change(|state| state.closed = true);
    }

    /// Lets nobody in any more.
    pub(super) fn close_for_good(&self) {
        self.change(|state| state.over = true);
    }

    /// Lets nobody in any more, and answers no reads of what is mapped.
    pub(super) fn refuse(&self) {
        self.change(|state| {
            state.over = true;
            state.authority = None;
        });
    }

    /// Whether it was closed for good.
    pub(super) fn is_over(&self) -> bool {
        self.lock().over
    }

    /// Waits until nobody is inside, while the door is closed or a hold is set. Other work than writes must
    /// leave at once, and everybody after `grace`.
    pub(super) async fn empty(&self, grace: Duration) {
        let (leave, pause) = self.change(|state| (state.leave.clone(), std::mem::take(&mut state.pause)));
        pause.cancel();
        tokio::select! {
            biased;
            () = self.until_empty() => {}
            () = self.clock.sleep(grace) => {
                leave.cancel();
                self.until_empty().await;
            }
        }
        if leave.is_cancelled() {
            self.change(|state| state.leave = CancellationToken::new());
        }
    }

    async fn until_empty(&self) {
        let mut changed = self.changed.subscribe();
        // The sender is in `self`: it does not go away.
        changed.wait_for(|()| self.lock().inside == 0).await.ok();
    }
}

fn held_up() -> Error {
    Error::new(ErrorKind::Busy, "write through the gateway").message("writes are held; try again")
}

fn not_ready() -> Error {
    Error::new(ErrorKind::WrongPhase, "write through the gateway")
        .message("the gateway is not ready yet; try again")
}
