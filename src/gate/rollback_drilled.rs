//! `rollback-drilled`: the cutover and the way back were exercised.

use jiff::Timestamp;

use super::{Facts, Gate};
use crate::error::Result;
use crate::plan::Plan;
use crate::protocol::phase::Epoch;
use crate::target::control::Control;

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
    let evidence = Gate::RollbackDrilled.evidence((plan_hash, epoch, now), summary, obstacles);
    control.put_evidence(&evidence).await
}

/// A plan may do without.
pub(crate) fn gather(plan: &Plan, facts: &mut Facts) {
    if !plan.gates.rollback_drilled.required {
        let words = "waived: the plan does without (`[gates.rollback-drilled] required = false`)".to_owned();
        let under = (facts.plan_hash.as_str(), facts.epoch, facts.now);
        let waived = Gate::RollbackDrilled.evidence(under, words, Vec::new());
        facts.evidence.insert(waived.gate.clone(), waived);
    }
}
