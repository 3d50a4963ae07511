//! A session: the right of one process to write, with a lease that it must keep renewing.

use std::fs::{File, TryLockError};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use super::one_plan;
use crate::clock::Clock;
use crate::converge::Permit;
use crate::error::{Error, ErrorKind, Result};
use crate::folder;
use crate::plan::{Plan, Writers};
use crate::protocol::phase::{Authority, Epoch, Phase};
use crate::protocol::session::Lease;
use crate::target::control::{Control, Mode, SessionKind, SessionRow, SessionState, names};

/// The right of this process to write to the stores.
///
/// While it lives, a background task renews its row. [`Permit::check`] fails once the lease has run
/// out, or once somebody else has ended the session; then it is over for good.
#[derive(Debug)]
pub struct Session {
    shared: Arc<Shared>,
    mode: Mode,
    authority: Option<Authority>,
    renewal: tokio::task::JoinHandle<()>,
    /// Held for as long as a session of this name is open in this process.
    lock: Arc<File>,
}

struct Shared {
    control: Control,
    clock: Arc<dyn Clock>,
    timing: Timing,
    writers: Arc<Writers>,
    row: Mutex<SessionRow>,
    lease: Mutex<Lease>,
    /// One renewal at a time: two of one counter would end the session.
    renewing: tokio::sync::Mutex<()>,
    /// Whether a request of this process may yet land.
    in_doubt: AtomicBool,
}

/// How long a lease lasts, and how often it is renewed.
#[derive(Debug, Clone, Copy)]
struct Timing {
    lease: Duration,
    renew: Duration,
}

impl std::fmt::Debug for Shared {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Shared").field("row", &self.row).finish_non_exhaustive()
    }
}

/// Who opens a session, and where.
#[derive(Debug, Clone, Copy)]
pub struct Opening<'a> {
    /// What the process does.
    pub kind: SessionKind,
    /// The name of the process: one at a time on this machine has it.
    pub name: &'a str,
    /// The plan's hash, for the mode item where this is the first command that writes.
    pub plan_hash: &'a str,
    /// The plan: its windows, and what writers must agree on.
    pub plan: &'a Plan,
    /// Where lock files lie.
    pub directory: &'a Path,
    /// The store that must be right; none where either may be.
    pub authority: Option<Authority>,
}

impl Session {
    /// Opens a session: takes the local lock, ends a dead predecessor's session as unclean, stores the
    /// row, and only then reads the mode, which must have the authority that is asked for and no hold.
    ///
    /// # Errors
    /// `Busy` where a live process has this name; `WrongPhase` where the mode does not allow to write; `Usage` where
    /// DynamoDB is the authority under another plan; what the store reports.
    pub async fn open(control: Control, clock: Arc<dyn Clock>, opening: Opening<'_>) -> Result<Self> {
        let lock = lock(opening.directory, opening.name)?;
        close_predecessors(&control, clock.as_ref(), opening.name).await?;

        let now = clock.now();
        let initial = Mode::begun(now, opening.plan_hash);
        control.ensure_mode(&initial).await?;
        let Opening { kind, name, plan, authority, .. } = opening;
        let timing = Timing { lease: plan.timing.lease.0, renew: plan.timing.renew.0 };
        let writers = Arc::new(Writers::of(plan));
        Self::begin(control, clock, (kind, name, authority), (timing, writers), Arc::new(lock)).await
    }

    /// Opens the session that follows this one in the same process, once this one has lapsed or can't
    /// vouch for what was written. This one stays open: whoever flips the mode must see one of the two.
    ///
    /// # Errors
    /// As [`Session::open`]; then there is no new session.
    pub async fn succeed(&self) -> Result<Self> {
        let Shared { control, clock, timing, writers, .. } = self.shared.as_ref();
        let SessionRow { kind, name, .. } = held(&self.shared.row).clone();
        let who = (kind, name.as_str(), self.authority);
        let plan = (*timing, Arc::clone(writers));
        Self::begin(control.clone(), Arc::clone(clock), who, plan, Arc::clone(&self.lock)).await
    }

    /// Stores the row, and only then reads the mode.
    async fn begin(
        control: Control,
        clock: Arc<dyn Clock>,
        (kind, name, authority): (SessionKind, &str, Option<Authority>),
        (timing, writers): (Timing, Arc<Writers>),
        lock: Arc<File>,
    ) -> Result<Self> {
        let sent = clock.monotonic();
        let row = SessionRow {
            id: names::token(),
            name: name.to_owned(),
            kind,
            counter: 0,
            state: SessionState::Open,
            began: clock.now(),
            ended: None,
            acknowledged: None,
            gap: None,
            renewed: None,
            epoch: None,
            writers: Some(writers.digest),
        };
        control.open_session(&row).await?;
        let shared = Arc::new(Shared {
            lease: Mutex::new(Lease::new(timing.lease, sent)),
            renewing: tokio::sync::Mutex::new(()),
            in_doubt: AtomicBool::new(false),
            timing,
            writers,
            row: Mutex::new(row),
            control,
            clock,
        });
        // A newcomer stores its row before it reads the mode: so either it sees a hold, or whoever
        // sets one sees the newcomer.
        let allowed = async {
            let mode = may_write(shared.control.mode().await?, authority)?;
            one_plan::check(&shared.control, &mode, &shared.writers).await?;
            Ok(mode)
        };
        let mode = match allowed.await {
            Ok(mode) => mode,
            Err(error) => {
                shared.finish(SessionState::Clean).await?;
                return Err(error);
            }
        };
        held(&shared.row).epoch = Some(mode.epoch);
        let renewal = tokio::spawn(renew(Arc::clone(&shared)));
        Ok(Self { shared, mode, authority, renewal, lock })
    }

    /// Its id.
    #[must_use]
    pub fn id(&self) -> String {
        held(&self.shared.row).id.clone()
    }

    /// The name of its process.
    #[must_use]
    pub fn name(&self) -> String {
        held(&self.shared.row).name.clone()
    }

    /// Whether its lease holds now.
    #[must_use]
    pub fn holds(&self) -> bool {
        self.shared.holds()
    }

    /// Takes note that from now on something is written that no intent names: it will end as unclean.
    pub fn note_gap(&self) {
        let now = self.shared.clock.now();
        held(&self.shared.row).gap.get_or_insert(now);
    }

    /// Takes note that its process saw this epoch, with nothing under way from before it.
    pub fn note_epoch(&self, epoch: Epoch) {
        held(&self.shared.row).epoch = Some(epoch);
    }

    /// What its plan says to writers.
    pub(crate) fn writers(&self) -> &Writers {
        &self.shared.writers
    }

    /// Since when it lets writes through that no intent names.
    #[must_use]
    pub fn gap(&self) -> Option<jiff::Timestamp> {
        held(&self.shared.row).gap
    }

    /// Whether it was ended as clean.
    #[must_use]
    pub fn ended_clean(&self) -> bool {
        held(&self.shared.row).state == SessionState::Clean
    }

    /// Says in its row that it accepts nothing while this hold is set, and that nothing of it is in flight.
    /// Only a session whose lease holds may say so.
    ///
    /// # Errors
    /// `WrongPhase` for a session that is over; what the store reports.
    pub async fn acknowledge(&self, hold: &str) -> Result<()> {
        self.shared.check()?;
        held(&self.shared.row).acknowledged = Some(hold.to_owned());
        self.shared.renew_once().await?;
        self.shared.check()
    }

    /// Ends it as unclean, and leaves it at that: another session of this process goes on.
    ///
    /// # Errors
    /// As [`Session::close`].
    pub async fn end_unclean(&self) -> Result<()> {
        self.renewal.abort();
        self.shared.finish(SessionState::Unclean).await
    }

    /// The mode under which it was opened. It holds until the session acknowledges a hold.
    #[must_use]
    pub const fn mode(&self) -> &Mode {
        &self.mode
    }

    /// The right to write, for a converger.
    #[must_use]
    pub fn permit(&self) -> Arc<dyn Permit> {
        Arc::<Shared>::clone(&self.shared)
    }

    /// Ends the session, as clean if its lease held to the end and nothing of it can land any more.
    ///
    /// # Errors
    /// What the store reports. Then the next process of this name ends it as unclean.
    pub async fn close(self) -> Result<()> {
        self.end().await
    }

    /// The same for a session that others still look at.
    ///
    /// # Errors
    /// As [`Session::close`].
    pub async fn end(&self) -> Result<()> {
        self.renewal.abort();
        self.shared.finish(SessionState::Clean).await
    }

    /// Ends the session, though something of it may be in flight.
    ///
    /// # Errors
    /// As [`Session::close`].
    pub async fn close_unclean(self) -> Result<()> {
        self.renewal.abort();
        self.shared.finish(SessionState::Unclean).await
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        self.renewal.abort();
    }
}

fn held<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Permit for Shared {
    fn check(&self) -> Result<()> {
        if self.holds() {
            return Ok(());
        }
        Err(Error::new(ErrorKind::WrongPhase, "write")
            .message("this process lost its lease: its session is over")
            .hint("run the command again; it resumes under a new session"))
    }

    fn in_doubt(&self) {
        self.in_doubt.store(true, Ordering::Relaxed);
    }

    fn session(&self) -> String {
        held(&self.row).id.clone()
    }
}

impl Shared {
    /// One renewal. The time counts from before it was sent.
    async fn renew_once(&self) -> Result<()> {
        let _one = self.renewing.lock().await;
        let sent = self.clock.monotonic();
        let mut row = held(&self.row).clone();
        row.renewed = Some(self.clock.now());
        // Where the reply to the one before was lost, the row is a renewal further than this process knows; and may
        // say less.
        for _ in 0..2 {
            let seen = row.counter;
            row.counter += 1;
            if self.control.update_session(&row, seen).await? {
                held(&self.lease).renewed(sent, self.clock.monotonic());
                held(&self.row).counter = row.counter;
                return Ok(());
            }
            if self.stored().await?.is_none_or(|stored| stored.counter != row.counter) {
                break;
            }
        }
        held(&self.lease).end();
        Ok(())
    }

    async fn finish(&self, state: SessionState) -> Result<()> {
        // A lease that ran out is a gap, and so is a request that may land, whatever the process was
        // about to say.
        let gap = held(&self.row).gap;
        let sound = self.holds() && !self.in_doubt.load(Ordering::Relaxed) && gap.is_none();
        let state = if sound { state } else { SessionState::Unclean };
        held(&self.row).state = state;
        held(&self.lease).end();
        // A renewal that was on its way may have moved the counter, and a lost reply needs a look.
        for _ in 0..3 {
            let Some(mut row) = self.stored().await? else { return Ok(()) };
            let seen = row.counter;
            row.state = state;
            row.ended = Some(self.clock.now());
            row.gap = gap;
            row.epoch = held(&self.row).epoch;
            match self.control.update_session(&row, seen).await {
                Ok(true) => return Ok(()),
                Ok(false) => {}
                Err(error) if error.kind() == ErrorKind::OutcomeUnknown => {}
                Err(error) => return Err(error),
            }
        }
        Err(Error::new(ErrorKind::LostRace, "close the session")
            .message("its row kept changing")
            .hint("the next run of the same command closes it"))
    }

    fn holds(&self) -> bool {
        held(&self.lease).holds(self.clock.monotonic())
    }

    async fn stored(&self) -> Result<Option<SessionRow>> {
        let id = held(&self.row).id.clone();
        let sessions = self.control.sessions().await?;
        Ok(sessions.into_iter().find(|session| session.id == id && session.state == SessionState::Open))
    }
}

async fn renew(shared: Arc<Shared>) {
    loop {
        shared.clock.sleep(shared.timing.renew).await;
        // To renew what is over would make a dead session look alive.
        if !shared.holds() {
            return;
        }
        if let Err(error) = shared.renew_once().await {
            // The lease runs on; writes stop by themselves when it is over.
            tracing::warn!(%error, "the session could not be renewed");
        }
    }
}

fn may_write(mode: Option<Mode>, authority: Option<Authority>) -> Result<Mode> {
    let wrong = |message: String| Error::new(ErrorKind::WrongPhase, "open a session").message(message);
    match mode {
        None => Err(wrong("the mode item is gone".to_owned())),
        Some(mode) if mode.hold.is_some() => Err(wrong("a flip is under way".to_owned())
            .hint("if that command is not running any more, `migrate cutover --cancel-hold` ends it")),
        Some(Mode { phase: Phase::Final, .. }) => Err(wrong(
            "in phase final nothing is mirrored any more".to_owned(),
        )
        .hint(
            "the application reads and writes DynamoDB itself now; `migrate status` shows what is left to do",
        )),
        Some(mode) => match (mode.phase.authority(), authority) {
            (Authority::Target, Some(Authority::Source)) => Err(wrong(format!(
                "in phase {} DynamoDB is the authority: it is not overwritten from Blob",
                mode.phase
            ))),
            (Authority::Source, Some(Authority::Target)) => {
                Err(wrong(format!("in phase {} Blob is the authority", mode.phase)))
            }
            _ => Ok(mode),
        },
    }
}

fn lock(directory: &Path, name: &str) -> Result<File> {
    let path = directory.join(format!("session-{name}.lock"));
    let failed = |error: std::io::Error| {
        folder::failed(Error::new(ErrorKind::Usage, "lock the session").key(path.display()), &path, error)
    };
    folder::make(directory).map_err(failed)?;
    let file = folder::open_or_create(&path).map_err(failed)?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => Err(Error::new(ErrorKind::Busy, "open a session")
            .key(path.display())
            .message(format!("another `{name}` is running on this machine"))),
        Err(TryLockError::Error(error)) => Err(failed(error)),
    }
}

/// Whoever holds the lock of a name knows that its predecessors are dead: they end as unclean.
///
/// # Errors
/// What the store reports.
async fn close_predecessors(control: &Control, clock: &dyn Clock, name: &str) -> Result<()> {
    close_all_but(control, clock, name, None).await
}

/// The same for whatever else is open under the name of this session, which this process holds.
///
/// # Errors
/// What the store reports.
pub(super) async fn close_others(control: &Control, clock: &dyn Clock, session: &Session) -> Result<()> {
    let row = held(&session.shared.row).clone();
    close_all_but(control, clock, &row.name, Some(&row.id)).await
}

async fn close_all_but(control: &Control, clock: &dyn Clock, name: &str, id: Option<&str>) -> Result<()> {
    for mut session in control.sessions().await? {
        let other = session.name == name && id != Some(session.id.as_str());
        if other && session.state == SessionState::Open {
            let seen = session.counter;
            session.state = SessionState::Unclean;
            session.ended = Some(clock.now());
            control.update_session(&session, seen).await?;
        }
    }
    Ok(())
}
