//! `table-ready`: the tables are there, as planned.

use jiff::Timestamp;

use super::Gate;
use crate::error::Result;
use crate::plan::TargetPlan;
use crate::protocol::phase::Epoch;
use crate::target::control::{Control, Evidence};
use crate::target::store::{ProvisionResult, Site};
use crate::target::{Table, TargetStore};

/// Looks at both tables and keeps what it finds as evidence.
///
/// # Errors
/// What the store reports.
pub async fn check(
    control: &Control,
    plan: &TargetPlan,
    plan_hash: &str,
    epoch: Epoch,
    now: Timestamp,
) -> Result<Evidence> {
    let store = control.store();
    let (mut obstacles, waived) = differences(store.as_ref(), plan).await?;
    for table in [Table::Data, Table::Control] {
        let facts = store.describe(table).await?;
        if facts.is_some_and(|facts| !facts.active) {
            obstacles.push(format!("{table:?} table: it is not ACTIVE"));
        }
    }
    let mut summary = format!("{} and {} are as planned", plan.table, plan.control_table());
    if !obstacles.is_empty() {
        summary = format!("{} or {} is not as planned", plan.table, plan.control_table());
    }
    if !waived.is_empty() {
        summary.push_str(&format!("; not offered here, so waived: {}", waived.join(", ")));
    }
    let evidence = Gate::TableReady.evidence((plan_hash, epoch, now), summary, obstacles);
    control.put_evidence(&evidence).await?;
    Ok(evidence)
}

/// What stands in the way, and what is waived: what a local endpoint does not offer.
async fn differences(store: &dyn TargetStore, plan: &TargetPlan) -> Result<(Vec<String>, Vec<String>)> {
    let (mut obstacles, mut waived) = (Vec::new(), Vec::new());
    for step in store.provision(plan, false, true).await? {
        match step.result {
            ProvisionResult::Present => {}
            ProvisionResult::Created => obstacles.push(format!("{}: missing", step.what)),
            ProvisionResult::Differs(how) => obstacles.push(format!("{}: {how}", step.what)),
            ProvisionResult::NotOffered(_) if store.site() == Site::Local => {
                // The step is named `table: what`; both tables lack the same.
                let what = step.what.rsplit(": ").next().unwrap_or_default().to_owned();
                if !waived.contains(&what) {
                    waived.push(what);
                }
            }
            ProvisionResult::NotOffered(why) => obstacles.push(format!("{}: {why}", step.what)),
        }
    }
    Ok((obstacles, waived))
}
