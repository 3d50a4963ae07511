//! Converges of an operator: of every intent, for as long as the mode is what the operator believes.

use std::collections::BTreeSet;
use std::sync::Arc;

use futures::future::BoxFuture;

use crate::converge::{Converger, Permit};
use crate::dual_write::mirroring::Mirroring;
use crate::dual_write::replay::settle;
use crate::error::{Error, ErrorKind, Result};
use crate::target::control::{Control, IntentRow, Mode};

/// The right to converge while the mode is this one. An operator has no session: after the anchor was read,
/// and before the authority is, it looks whether its hold is still there. Then whoever commits drains later,
/// and what this one sends fails on the rev.
struct WhileModeIs {
    control: Control,
    mode: Mode,
}

impl Permit for WhileModeIs {
    fn check(&self) -> Result<()> {
        Ok(())
    }

    fn confirm(&self) -> BoxFuture<'_, Result<()>> {
        Box::pin(async {
            let now = self.control.mode().await?;
            let hold = |mode: &Mode| mode.hold.as_ref().map(|hold| hold.id.clone());
            let same = |now: &Mode| (now.epoch, hold(now)) == (self.mode.epoch, hold(&self.mode));
            if now.as_ref().is_some_and(same) {
                return Ok(());
            }
            Err(Error::new(ErrorKind::WrongPhase, "drain").message("somebody else changed the mode"))
        })
    }
}

/// Converges what these intents name, and clears none of them; returns how many pathnames are not equal.
pub(super) async fn converge_all(converger: &Converger, mode: &Mode, intents: &[IntentRow]) -> usize {
    let permit = Arc::new(WhileModeIs { control: converger.control.clone(), mode: mode.clone() });
    let mirroring = Mirroring::ToTarget(Converger { permit, ..converger.clone() });
    let named: BTreeSet<_> = intents.iter().flat_map(|intent| &intent.pathnames).collect();
    let settled = settle(&mirroring, named.iter().copied()).await;
    named.len() - settled.len()
}
