//! `indexes-complete`: each index of the data table returns the items it must.

use jiff::Timestamp;

use super::{Facts, Gate};
use crate::error::Result;
use crate::plan::Plan;
use crate::protocol::phase::Epoch;
use crate::sweep::indexes::IndexReport;
use crate::target::control::Control;

/// Keeps what a comparison of table and indexes found.
///
/// # Errors
/// What the store reports.
pub async fn keep(
    control: &Control,
    reports: &[IndexReport],
    plan_hash: &str,
    epoch: Epoch,
    now: Timestamp,
) -> Result<()> {
    if reports.is_empty() {
        return Ok(());
    }
    let obstacles: Vec<String> = reports.iter().flat_map(IndexReport::obstacles).collect();
    let evidence = Gate::IndexesComplete.evidence((plan_hash, epoch, now), in_words(reports), obstacles);
    control.put_evidence(&evidence).await
}

/// What each index holds of what it must, in one line.
#[must_use]
pub fn in_words(reports: &[IndexReport]) -> String {
    let held = |report: &IndexReport| {
        format!(
            "{}: {} of {} items",
            report.index,
            report.expected.saturating_sub(report.missing),
            report.expected
        )
    };
    reports.iter().map(held).collect::<Vec<_>>().join("; ")
}

/// A table without indexes needs no look.
pub(crate) fn gather(plan: &Plan, facts: &mut Facts) {
    if plan.target.indexes.is_empty() {
        let words = "no index is planned".to_owned();
        let under = (facts.plan_hash.as_str(), facts.epoch, facts.now);
        let none = Gate::IndexesComplete.evidence(under, words, Vec::new());
        facts.evidence.insert(none.gate.clone(), none);
    }
}
