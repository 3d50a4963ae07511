//! `writers-stopped`: without a gateway, the operator's word that nobody writes to Blob any more, and two sweeps
//! after it that found nothing.

use jiff::{SignedDuration, Timestamp};

use super::{Facts, Gate, GateState, drift_free, settle_after};
use crate::error::Result;
use crate::protocol::phase::Epoch;
use crate::target::control::Control;

/// Keeps the operator's word as evidence.
///
/// # Errors
/// What the store reports.
pub async fn say(control: &Control, who: &str, plan_hash: &str, epoch: Epoch, now: Timestamp) -> Result<()> {
    let summary = format!("{who} said at {now:.0} that nobody writes to Blob any more");
    let evidence = Gate::WritersStopped.evidence((plan_hash, epoch, now), summary, Vec::new());
    control.put_evidence(&evidence).await
}

/// Judges the word by the sweeps that `drift-free` counts: each must have begun `settle` after it.
pub(super) fn judge(facts: &Facts) -> GateState {
    let gate = Gate::WritersStopped;
    let Some(word) = facts.evidence.get(gate.as_str()) else {
        return GateState::closed(gate, None, "nobody has said so yet", Vec::new());
    };
    if let Some(refusal) = facts.refusal(&word.plan_hash, word.epoch, word.at) {
        return GateState::closed(gate, Some(word.at), refusal, Vec::new());
    }
    let from = settle_after(word.at, SignedDuration::try_from(facts.settle).unwrap_or(SignedDuration::MAX));
    let after = drift_free::in_a_row(facts, 2).iter().filter(|sweep| sweep.began >= from).count();
    if after < 2 {
        let summary = format!("{}; {after} of 2 clean full sweeps began after {from:.0}", word.summary);
        return GateState::closed(gate, Some(word.at), summary, Vec::new());
    }
    GateState::open(gate, word.at, format!("{}; two full sweeps since found no change", word.summary))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gate::drift_free::tests::{facts, minute, sweep};
    use crate::target::control::{Evidence, SweepRow};

    fn judged(sweeps: Vec<SweepRow>, change: impl FnOnce(&mut Evidence)) -> GateState {
        let mut word = Evidence {
            gate: Gate::WritersStopped.to_string(),
            at: minute(10),
            plan_hash: "plan".to_owned(),
            epoch: Epoch(1),
            passed: true,
            summary: "ada said so".to_owned(),
            obstacles: Vec::new(),
        };
        change(&mut word);
        let mut facts = facts(sweeps);
        facts.evidence.insert(word.gate.clone(), word);
        judge(&facts)
    }

    #[test]
    fn two_sweeps_begun_late_enough_after_the_word_open_it() {
        // A quarter of an hour after minute 10.
        assert!(judged(vec![sweep(25, true, true), sweep(26, true, true)], |_| {}).open);
        assert!(!judged(vec![sweep(24, true, true), sweep(26, true, true)], |_| {}).open);
        assert!(!judged(vec![sweep(25, false, true), sweep(26, true, true)], |_| {}).open);
        assert!(!judge(&facts(vec![sweep(25, true, true), sweep(26, true, true)])).open, "nobody said so");
        let sweeps = || vec![sweep(25, true, true), sweep(26, true, true)];
        assert!(!judged(sweeps(), |word| word.epoch = Epoch(2)).open);
        assert!(!judged(sweeps(), |word| word.plan_hash = "other".to_owned()).open);
    }
}
