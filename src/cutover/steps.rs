//! The steps of a flip in words: the protocol's machine, taken through a flip in which all goes well.

use std::fmt::Display;

use super::Standing;
use crate::protocol::flip::{
    BEHIND_MAX, Backlog, Drained, Flip, INTENTS_MAX, Life, Next, Process, Rules, Seen, Swapped,
};
use crate::protocol::phase::{Authority, Phase};
use crate::target::control::SessionKind;

/// What a flip would do from here, in order. `cancel_hold` as for [`super::Cutover::flip`].
#[must_use]
pub fn steps(standing: &Standing, cancel_hold: bool, hold_limit: impl Display) -> Vec<String> {
    let from = standing.mode.as_ref().map_or(Phase::Capture, |mode| mode.phase);
    let epoch = standing.mode.as_ref().map_or(1, |mode| mode.epoch.0);
    let found = standing.mode.as_ref().and_then(|mode| mode.hold.as_ref());
    if !from.changes_authority(standing.target) {
        let mut steps = vec![format!("read the mode: phase {from}, epoch {epoch}")];
        match found {
            Some(hold) if cancel_hold => steps.push(format!("cancel the hold of {}", hold.by)),
            Some(_) => {
                steps.push("refuse: somebody else holds the mode (--cancel-hold cancels that)".to_owned());
                return steps;
            }
            None => {}
        }
        steps.push(format!(
            "commit in one transaction: phase {}, epoch {epoch} as before, one row in the audit log; nothing waits, \
             and gateways go by it when they read the mode next",
            standing.target
        ));
        return steps;
    }
    let mut flip = Flip::new(Rules::SOUND, from.authority(), cancel_hold, 1);
    let mut steps = Vec::new();
    loop {
        let told = match flip.next() {
            Next::ReadMode => {
                flip.mode(found.map(|hold| hold.id.clone()));
                format!("read the mode: phase {from}, epoch {epoch}")
            }
            Next::Cancel(_) => {
                flip.cancelled(Swapped::Applied);
                format!("cancel the hold of {}", found.map_or("somebody", |hold| &hold.by))
            }
            Next::Settle => {
                flip.settled(Backlog::default());
                let (what, most) = match from.authority() {
                    Authority::Source => ("converge every intent, writes flowing", INTENTS_MAX),
                    Authority::Target => (
                        "open the operator's session; wait for writes to Blob without a condition that may land late, writes flowing",
                        BEHIND_MAX,
                    ),
                };
                format!(
                    "{what}; refuse if more than {most} are left or a request is older than 1 s (now {} intents)",
                    standing.intents
                )
            }
            Next::Hold => {
                flip.held(Some("hold".to_owned()));
                format!(
                    "hold the mode item, if its epoch is still {epoch} and nobody else holds it: writes wait from here on"
                )
            }
            Next::LookAtSessions(hold) => {
                let (process, life) = (Process::Gateway, Life::Open);
                let seen = Seen { process, life, acknowledged: Some(hold), gap: false, same_plan: true };
                flip.sessions(&[seen], false);
                let names: Vec<String> = standing
                    .open_sessions
                    .iter()
                    .map(|session| {
                        let not = if session.kind == SessionKind::Gateway {
                            ""
                        } else {
                            ", which must be over by then"
                        };
                        format!("{}{not}", session.name)
                    })
                    .collect();
                let who = if names.is_empty() { "none runs now".to_owned() } else { names.join(", ") };
                format!("let every session acknowledge within {hold_limit}, else cancel the hold ({who})")
            }
            Next::CountIntents => {
                flip.counted(0);
                "make sure that no write to Blob without a condition is in doubt, else cancel the hold and wait"
                    .to_owned()
            }
            Next::Drain { .. } => {
                flip.drained(Drained::All);
                match from.authority() {
                    Authority::Source => "converge every intent that is left, 32 at a time, and clear none",
                    Authority::Target => {
                        "make Blob equal where an intent or a note names a pathname, 32 at a time; cancel the hold and wait where Blob holds what a request without an answer expects"
                    }
                }
                .to_owned()
            }
            Next::Judge => {
                flip.judged(true);
                "judge every gate once more".to_owned()
            }
            Next::Commit { .. } => {
                flip.committed(Swapped::Applied);
                format!(
                    "commit in one transaction: phase {}, epoch {}, no hold, one row in the audit log",
                    standing.target,
                    epoch + 1
                )
            }
            Next::Wait | Next::Fence(_) | Next::LookForCommit => return steps,
            Next::Done(done) => {
                if let crate::protocol::flip::Done::Held(_) = done {
                    steps
                        .push("refuse: somebody else holds the mode (--cancel-hold cancels that)".to_owned());
                }
                return steps;
            }
        };
        steps.push(told);
    }
}
