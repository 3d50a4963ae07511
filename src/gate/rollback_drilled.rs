//! `rollback-drilled`: the cutover and the way back were exercised.

use jiff::Timestamp;

use super::{Facts, Gate};
use crate::error::Result;
use crate::plan::Plan;
use crate::protocol::phase::Epoch;
use crate::target::control::{Control, Evidence};

/// Keeps what a drill came to: in words, and what went wrong.
///
/// # Errors
/// What the store reports.
pub async fn keep(
    control: &Control,
    (summary, obstacles): (String, Vec<String>),
    plan_hash: &str,
    epoch: Epoch,
    now: Timestamp,
) -> Result<()> {
    control.put_evidence(&evidence(plan_hash, epoch, now, summary, obstacles)).await
}

/// A plan may do without.
pub(crate) fn gather(plan: &Plan, facts: &mut Facts) {
    if !plan.gates.rollback_drilled.required {
        let words = "waived: the plan does without (`[gates.rollback-drilled] required = false`)".to_owned();
        let waived = evidence(&facts.plan_hash, facts.epoch, facts.now, words, Vec::new());
        facts.evidence.insert(waived.gate.clone(), waived);
    }
}

fn evidence(
    plan_hash: &str,
    epoch: Epoch,
    at: Timestamp,
    summary: String,
    obstacles: Vec<String>,
) -> Evidence {
    Evidence {
        gate: Gate::RollbackDrilled.to_string(),
        at,
        plan_hash: plan_hash.to_owned(),
        epoch,
        passed: obstacles.is_empty(),
        summary,
        obstacles,
    }
}
