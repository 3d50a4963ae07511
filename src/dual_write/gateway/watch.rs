//! Watches the mode: acknowledges holds, and opens a new session where the present one can't go on.

use std::sync::{Arc, PoisonError};
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use super::{DualWrite, Gateway};
use crate::dual_write::one_plan;
use crate::dual_write::session::{Session, close_others};
use crate::error::{Error, ErrorKind, Result};
use crate::event::Event;
use crate::plan::TimingPlan;
use crate::protocol::phase::{Authority, Phase};
use crate::target::control::{Hold, INTENT_PATHNAMES_MAX, IntentRow, IntentState, Mode};

/// How long writes that are under way may take when a new session is to be opened.
const HANDOVER_GRACE: Duration = Duration::from_secs(2);

/// What the watch remembers from one look to the next.
#[derive(Default)]
struct Watch {
    /// The hold that was acknowledged.
    acknowledged: Option<String>,
    /// The authority by the mode item last read.
    authority: Option<Authority>,
    /// The hold that is set, and when it was first seen, by the monotonic clock.
    held: Option<(String, Duration)>,
    /// When a new session was last tried for, by the monotonic clock.
    tried: Option<Duration>,
}

impl DualWrite {
    /// Reads the mode every `mode_poll` until it is cancelled. A hold closes the door, and is acknowledged
    /// once nobody is inside; the door opens again on reading a mode without that hold, and on nothing else. In phase
    /// final it is over, and where DynamoDB is the authority under another plan.
    pub async fn watch(&self, timing: &TimingPlan, cancel: &CancellationToken) {
        let gateway = &self.0;
        let mut watch = Watch::default();
        loop {
            let next = gateway.clock().sleep(timing.mode_poll.0);
            if cancel.run_until_cancelled(next).await.is_none() || gateway.door.is_over() {
                return;
            }
            match gateway.within(gateway.control().mode()).await {
                Ok(Some(mode)) if mode.phase == Phase::Final => {
                    gateway.door.close_for_good();
                    gateway
                        .events
                        .report(Event::Warning("phase final: nothing is served any more".to_owned()));
                    return;
                }
                Ok(Some(mode)) => {
                    if let Err(error) = gateway.check_plan(&mode).await {
                        gateway.door.refuse();
                        *gateway.refused.lock().unwrap_or_else(PoisonError::into_inner) = Some(error);
                        return;
                    }
                    gateway.saw(&mode, timing, &mut watch).await;
                }
                Ok(None) => gateway
                    .lost(&Error::new(ErrorKind::NotFound, "read the mode item").message("it is not there")),
                Err(error) => gateway.lost(&error),
            }
        }
    }
}

impl Gateway {
    /// Whether it may go on under its plan.
    async fn check_plan(&self, mode: &Mode) -> Result<()> {
        let Some(session) = self.door.session() else { return Ok(()) };
        one_plan::check(self.control(), mode, session.writers()).await
    }

    async fn saw(self: &Arc<Self>, mode: &Mode, timing: &TimingPlan, watch: &mut Watch) {
        if let Err(error) = self.learn_doubts(mode).await {
            // What was read before stands: a hold, if it comes from the way back.
            return self.lost(&error);
        }
        self.door.saw(mode);
        let authority = mode.phase.authority();
        if watch.authority.replace(authority).is_some_and(|before| before != authority) {
            let right = match authority {
                Authority::Source => "Blob is the authority: DynamoDB is mirrored from it",
                Authority::Target => "DynamoDB is the authority: Blob is mirrored from it",
            };
            self.events.report(Event::Note(format!("phase {}: {right}", mode.phase)));
        }
        let Some(session) = self.door.session() else { return };
        session.note_epoch(mode.epoch);
        self.turn_back(mode, &session.name()).await;
        if let Some(hold) = &mode.hold {
            if watch.acknowledged.as_ref() != Some(&hold.id) {
                self.events
                    .report(Event::Note(format!("{} holds writes for a flip to {}", hold.by, hold.target)));
                self.door.empty(timing.hold_limit.0 / 2).await;
                match self.within(session.acknowledge(&hold.id)).await {
                    Ok(()) => watch.acknowledged = Some(hold.id.clone()),
                    Err(error) => tracing::warn!(%error, "the hold could not be acknowledged"),
                }
            }
            self.cancel_overdue(mode, hold, watch).await;
            return;
        }
        if watch.acknowledged.take().is_some() {
            self.events.report(Event::Note("the hold is over: writes go on".to_owned()));
        }
        let sound = session.holds() && session.gap().is_none();
        if !sound {
            self.hand_over(&session, timing.renew.0, watch).await;
        } else if self.door.set_reachable(true) {
            self.events.report(Event::Note("the control table can be reached again".to_owned()));
        }
    }

    /// Cancels a hold that lasts twice as long as it may: whoever set it is gone. The door opens on reading a mode
    /// without it, as ever.
    async fn cancel_overdue(&self, mode: &Mode, hold: &Hold, watch: &mut Watch) {
        let now = self.clock().monotonic();
        let seen = watch.held.take().filter(|(id, _)| *id == hold.id).map_or(now, |(_, seen)| seen);
        watch.held = Some((hold.id.clone(), seen));
        if now.saturating_sub(seen) < Duration::from_millis(hold.limit_ms).saturating_mul(2) {
            return;
        }
        let free = Mode { hold: None, ..mode.clone() };
        match self.within(self.control().flip(mode, &free, None)).await {
            Ok(true) => self.events.report(Event::Warning(format!(
                "{} held writes for too long: the hold is cancelled",
                hold.by
            ))),
            // Somebody was faster: the next look shows it.
            Ok(false) => {}
            Err(error) => tracing::warn!(%error, "the hold could not be cancelled"),
        }
    }

    /// Opens a new session in place of one that lapsed, or that can't vouch for everything; and notes what
    /// was written meanwhile.
    async fn hand_over(self: &Arc<Self>, session: &Arc<Session>, pause: Duration, watch: &mut Watch) {
        let now = self.clock().monotonic();
        if watch.tried.is_some_and(|tried| now.saturating_sub(tried) < pause) {
            return;
        }
        watch.tried = Some(now);
        self.door.close();
        // What is under way was begun under the old session, which stays open until it is over.
        self.door.empty(HANDOVER_GRACE).await;
        let succeeded = async {
            let next = self.within(session.succeed()).await?;
            if let Err(error) = self.learn_doubts(next.mode()).await {
                // It wrote nothing.
                next.end().await.ok();
                return Err(error);
            }
            Ok::<_, Error>(next)
        };
        let next = match succeeded.await {
            Ok(next) => Arc::new(next),
            Err(error) => {
                tracing::warn!(%error, "no new session could be opened");
                self.door.reopen();
                return;
            }
        };
        let unnoted = self.door.take_unnoted();
        self.door.open(Arc::clone(&next));
        let gap = session.gap();
        self.metrics.gap();
        let count = unnoted.len();
        self.note_late(&next, unnoted.into_iter().collect()).await;
        let ended = async {
            session.end_unclean().await?;
            close_others(self.control(), self.clock().as_ref(), &next).await
        };
        if let Err(error) = ended.await {
            tracing::warn!(%error, "the session before could not be closed; the next start closes it");
        }
        let since = gap.map_or_else(String::new, |gap| format!(" since {gap:.0}"));
        self.events.report(Event::Note(format!(
            "a new session: {count} writes went on without notes{since}, and are mirrored now"
        )));
    }

    /// Stores intents for what was written without one, in doubt from the beginning: the replay sees to them.
    async fn note_late(&self, session: &Session, pathnames: Vec<crate::blob::Pathname>) {
        for chunk in pathnames.chunks(INTENT_PATHNAMES_MAX) {
            let now = self.clock().now();
            let row = IntentRow::new(&session.id(), now, IntentState::GaveUp, chunk.to_vec(), None);
            if let Err(error) = self.within(self.control().store_intent(&row)).await {
                self.lost(&error);
                self.door.note_unnoted(session, chunk);
            }
        }
    }
}
