//! What the application wrote to DynamoDB itself: taken over, and mirrored to Blob.

use super::Anchored;
use crate::blob::Pathname;
use crate::converge::direct::Look;
use crate::error::{Error, ErrorKind, Result};
use crate::mapping::{Quarantine, Rule};
use crate::protocol::converge::Purpose;
use crate::target::control::Anchor;
use crate::value::Key;

/// How often an item is looked at that keeps changing.
const LOOKS: u32 = 8;

/// What may have changed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Changed {
    /// The item with this key.
    Item(Key),
    /// The item of this blob.
    Blob(Pathname),
}

/// What came of it.
#[derive(Debug)]
pub enum PickedUp {
    /// Nothing had changed that was not taken over.
    Equal,
    /// It was taken over.
    Taken {
        /// As which blob.
        pathname: Pathname,
        /// Whether Blob is equal to it; else an intent says that it is not yet.
        mirrored: bool,
    },
    /// No blob can hold what was written, and why: its blob is what it was.
    Refused(Error),
    /// The item is no blob's, and why not, for each entity that might have had it.
    NotOurs(Vec<(String, Quarantine)>),
}

impl Anchored {
    /// Takes over what the application made of an item, and mirrors it to Blob. `session` is whose intent it is.
    ///
    /// # Errors
    /// `WrongPhase` once the session is over; `Busy` where the item keeps changing; what the stores report.
    pub async fn pick_up(&self, session: &str, changed: &Changed) -> Result<PickedUp> {
        let converger = &self.converger;
        for _ in 0..LOOKS {
            let Some(look) = self.look_at_changed(changed).await? else { return Ok(PickedUp::Equal) };
            match look {
                // A reader took it over, and left Blob to others.
                Look::Anchor { anchor: Some(anchor), .. } if anchor.adopted && anchor.behind.is_some() => {
                    return self.mirrored(session, &anchor).await;
                }
                Look::Anchor { .. } => return Ok(PickedUp::Equal),
                Look::Changed(change) => {
                    let taken = converger.take_over(&change).await;
                    match taken {
                        Ok(true) => return self.mirrored(session, change.anchor()).await,
                        Err(error) if error.kind() != ErrorKind::OutcomeUnknown => return Err(error),
                        Ok(false) | Err(_) => {}
                    }
                }
                Look::Unreadable { error, .. } => return Ok(PickedUp::Refused(error)),
                Look::NotOurs(reasons) => return Ok(PickedUp::NotOurs(reasons)),
            }
        }
        Err(Error::new(ErrorKind::Busy, "take over an item").message("it keeps changing").key(
            match changed {
                Changed::Item(key) => key.to_string(),
                Changed::Blob(pathname) => pathname.to_string(),
            },
        ))
    }

    /// What [`Anchored::pick_up`] would find; changes nothing.
    ///
    /// # Errors
    /// What the stores report.
    pub async fn would_pick_up(&self, changed: &Changed) -> Result<PickedUp> {
        Ok(match self.look_at_changed(changed).await? {
            None | Some(Look::Anchor { .. }) => PickedUp::Equal,
            Some(Look::Changed(change)) => {
                PickedUp::Taken { pathname: change.anchor().pathname.clone(), mirrored: false }
            }
            Some(Look::Unreadable { error, .. }) => PickedUp::Refused(error),
            Some(Look::NotOurs(reasons)) => PickedUp::NotOurs(reasons),
        })
    }

    /// A look; none at a blob whose items are the migration's alone.
    async fn look_at_changed(&self, changed: &Changed) -> Result<Option<Look>> {
        let converger = &self.converger;
        match changed {
            Changed::Item(key) => converger.look_at(key).await.map(Some),
            Changed::Blob(pathname) => match converger.mapper.rule(pathname) {
                Rule::Entity(entity) if converger.mapper.is_direct(entity) => {
                    converger.look(pathname, entity).await.map(Some)
                }
                _ => Ok(None),
            },
        }
    }

    /// Mirrors an anchor that no intent names.
    async fn mirrored(&self, session: &str, anchor: &Anchor) -> Result<PickedUp> {
        let pathname = anchor.pathname.clone();
        if anchor.behind.is_none() {
            return Ok(PickedUp::Taken { pathname, mirrored: true });
        }
        let mirrored = self.settle_noted(session, &pathname, Purpose::Intent).await?;
        Ok(PickedUp::Taken { pathname, mirrored })
    }
}
