//! A step that leaves the authority as it is: gates, then one compare-and-set. Nobody has to acknowledge it, since
//! whoever goes by the mode before it does nothing wrong.

use super::{Cutover, Flip, Standing, closed, evidence, not_begun, raced};
use crate::error::{Error, ErrorKind, Result};
use crate::protocol::canary::Share;
use crate::protocol::phase::Phase;
use crate::target::control::{Audit, Mode};

impl Cutover<'_> {
    /// Reads this share of the keys from DynamoDB, if every gate of that step is open: the step to phase `canary`,
    /// or another share in it.
    ///
    /// # Errors
    /// As [`Cutover::flip`].
    pub async fn canary(&self, share: &Share, cancel_hold: bool) -> Result<Flip> {
        let standing = self.standing(Some(Phase::Canary)).await?;
        let mode = standing.mode.clone().ok_or_else(not_begun)?;
        self.step(&standing, mode, share, cancel_hold).await
    }

    pub(super) async fn step(
        &self,
        standing: &Standing,
        mut seen: Mode,
        share: &Share,
        cancel_hold: bool,
    ) -> Result<Flip> {
        closed(standing)?;
        self.one_plan(standing)?;
        if let Some(hold) = &seen.hold {
            if !cancel_hold {
                return Err(Error::new(ErrorKind::WrongPhase, "cut over")
                    .message(format!("{} holds the mode for a flip to {}", hold.by, hold.target))
                    .hint("if that command is not running any more, run again with --cancel-hold"));
            }
            let free = Mode { hold: None, ..seen.clone() };
            if !self.change(&seen, &free, None).await? {
                return Err(raced());
            }
            seen = free;
        }
        let to = seen.stepped(standing.target, Some(share), self.clock().now(), self.plan_hash);
        let mut evidence = evidence(&standing.gates);
        if let Some(share) = &to.canary {
            evidence.insert("share".to_owned(), share.to_string());
        }
        let audit = Audit::of_step(seen.phase, &to, &self.who, evidence);
        if !self.change(&seen, &to, Some(&audit)).await? {
            return Err(raced());
        }
        Ok(Flip {
            from: seen.phase,
            to: to.phase,
            epoch: to.epoch,
            canary: to.canary.clone(),
            pause_ms: 0,
            mode: to,
        })
    }
}
