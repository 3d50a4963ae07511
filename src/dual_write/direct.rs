//! Picks up what the application wrote to DynamoDB itself, where DynamoDB is the authority, and mirrors it to Blob.
//!
//! The stream of the table and sweeps name what may have changed; what is there decides. So nothing is lost where
//! both name the same item, out of order, or late.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use futures::stream::{self, StreamExt as _};
use tokio_util::sync::CancellationToken;

use super::gateway::DualWrite;
use crate::anchored::{Anchored, Changed, PickedUp};
use crate::converge::Converger;
use crate::error::{Error, ErrorKind, Result};
use crate::event::{Event, Events};
use crate::protocol::phase::Authority;
use crate::target::store::Changes;
use crate::value::Key;

/// How many changes are picked up at a time.
const CONCURRENCY: usize = 8;
/// How long after its end the stream is asked again.
const POLL: Duration = Duration::from_millis(250);
/// The pause after the stream failed.
const FAILED_PAUSE: Duration = Duration::from_secs(5);

/// Follows the table's stream beside a gateway, for as long as DynamoDB is the authority.
pub(super) struct Following {
    pub(super) gateway: DualWrite,
    pub(super) converger: Converger,
    pub(super) prefix: String,
    pub(super) events: Events,
}

impl Following {
    /// Follows until it is stopped.
    pub(super) async fn run(self, stop: CancellationToken) {
        if !self.converger.mapper.has_direct() {
            return;
        }
        let clock = Arc::clone(self.converger.clock());
        let mut following: Option<Box<dyn Changes>> = None;
        // What was read from the stream, and not picked up yet.
        let mut changed = BTreeSet::new();
        let mut told = false;
        loop {
            let Some(Ok(ticket)) = stop.run_until_cancelled(self.gateway.0.door.enter_to_work()).await else {
                return;
            };
            let mut pause = POLL;
            if ticket.authority == Authority::Target {
                let pass = async {
                    if following.is_none() {
                        following = self.converger.control.store().changes().await?;
                    }
                    let Some(changes) = &mut following else { return Ok(false) };
                    let read = stop.run_until_cancelled(changes.next());
                    let Some(read) = ticket.pause.run_until_cancelled(read).await.flatten() else {
                        return Ok(true);
                    };
                    changed.extend(read?);
                    let converger = Converger { permit: ticket.permit(), ..self.converger.clone() };
                    let anchored = Anchored::new(converger, &self.prefix);
                    let over = || stop.is_cancelled() || ticket.pause.is_cancelled();
                    self.pick_up_all(&anchored, &ticket.session.id(), &mut changed, over).await?;
                    Ok::<_, Error>(true)
                };
                // What was begun is finished, if there is time: else its intent is left to the replay.
                match ticket.leave.run_until_cancelled(pass).await {
                    Some(Ok(true)) | None => {}
                    Some(Ok(false)) => {
                        if !told {
                            self.events.report(Event::Note(
                                "the table has no stream: what the application writes to DynamoDB itself is found by sweeps and reads alone"
                                    .to_owned(),
                            ));
                        }
                        told = true;
                        pause = FAILED_PAUSE;
                    }
                    Some(Err(error)) => {
                        tracing::warn!(%error, "the table's stream can't be followed; it is tried again");
                        // Another stream may have taken its place.
                        following.take_if(|_| error.kind() == ErrorKind::NotFound);
                        pause = FAILED_PAUSE;
                    }
                }
            } else {
                // What is written directly while Blob is the authority is drift, and the business of sweeps.
                following = None;
                changed.clear();
            }
            drop(ticket);
            if stop.run_until_cancelled(clock.sleep(pause)).await.is_none() {
                return;
            }
        }
    }

    /// What is picked up is taken from `changed`. Once it is `over`, nothing more is begun.
    ///
    /// # Errors
    /// What the stores report, where it may go better next time; what else fails is left to sweeps and readers.
    async fn pick_up_all(
        &self,
        anchored: &Anchored,
        session: &str,
        changed: &mut BTreeSet<Key>,
        over: impl Fn() -> bool + Send,
    ) -> Result<()> {
        let mut picking = stream::iter(changed.clone())
            .take_while(|_| std::future::ready(!over()))
            .map(|key: Key| async move {
                let picked = anchored.pick_up(session, &Changed::Item(key.clone())).await;
                (key, picked)
            })
            .buffer_unordered(CONCURRENCY);
        let mut failed = Ok(());
        while let Some((key, picked)) = picking.next().await {
            if let Err(error) = &picked
                && (error.kind().policy().retry || error.kind() == ErrorKind::OutcomeUnknown)
            {
                failed = picked.map(drop);
                continue;
            }
            changed.remove(&key);
            match picked {
                Ok(PickedUp::Equal) => {}
                Ok(PickedUp::Taken { pathname, mirrored }) => {
                    tracing::debug!(%pathname, mirrored, "an item that was written directly was taken over");
                }
                Ok(PickedUp::Refused(error)) => {
                    let hint = "its blob stays as it was, and can't be read before the item is corrected";
                    self.events.report(Event::Warning(format!("{error}; {hint}")));
                }
                Ok(PickedUp::NotOurs(reasons)) => {
                    let reasons: Vec<_> =
                        reasons.iter().map(|(entity, why)| format!("{entity}: {why}")).collect();
                    tracing::info!(%key, reasons = reasons.join("; "), "an item was written that is no blob's");
                }
                Err(error) => {
                    tracing::warn!(%key, %error, "an item that was written directly is left to sweeps");
                }
            }
        }
        failed
    }
}
