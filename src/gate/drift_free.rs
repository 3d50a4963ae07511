//! `drift-free`: consecutive full sweeps that found nothing, begun late enough after anything unclean.

use jiff::{SignedDuration, Timestamp};

use super::{Facts, Gate, GateState, settle_after};
use crate::target::control::{SessionRow, SweepRow};

/// The last `needed` clean full sweeps in a row, the latest first; fewer where there are no more.
pub(super) fn in_a_row(facts: &Facts, needed: usize) -> Vec<&SweepRow> {
    // A sweep that found something ends the row, whatever its level; one that did not look at
    // contents does not extend it.
    let row = facts.sweeps.iter().rev().take_while(|sweep| sweep.clean).filter(|sweep| sweep.content);
    row.take(needed).collect()
}

/// Judges the last `needed` full sweeps. A session that ended as `unclean` says may have let something land after them.
pub(super) fn judge(facts: &Facts, needed: usize, unclean: impl Fn(&SessionRow) -> bool) -> GateState {
    let gate = Gate::DriftFree;
    let row = in_a_row(facts, needed);
    let Some(latest) = facts.sweeps.last() else {
        return GateState::closed(gate, None, "no sweep yet", Vec::new());
    };
    let at = Some(latest.ended);
    if !latest.clean {
        return GateState::closed(gate, at, "the last sweep was not clean", obstacles(latest));
    }
    if let Some(refusal) = row.iter().find_map(|sweep| facts.sweep_refusal(sweep)) {
        return GateState::closed(gate, at, refusal, Vec::new());
    }
    if row.len() < needed {
        let summary = format!("{} of {needed} clean full sweeps in a row", row.len());
        return GateState::closed(gate, at, summary, Vec::new());
    }
    let settle = SignedDuration::try_from(facts.settle).unwrap_or(SignedDuration::MAX);
    let settled = last_unclean(facts, unclean).map(|ended| settle_after(ended, settle));
    if let Some(settled) = settled
        && let Some(early) = row.iter().find(|sweep| sweep.began < settled)
    {
        let summary = format!(
            "a session ended uncleanly; sweeps count if they begin after {settled:.0}, one began at {:.0}",
            early.began
        );
        return GateState::closed(gate, at, summary, Vec::new());
    }
    let summary = format!(
        "{needed} full sweep{} in a row: {} blobs, {} items, no drift, self-test {}/{}",
        if needed == 1 { "" } else { "s" },
        latest.compared,
        latest.items,
        latest.found,
        latest.planted
    );
    GateState::open(gate, latest.ended, summary)
}

fn last_unclean(facts: &Facts, unclean: impl Fn(&SessionRow) -> bool) -> Option<Timestamp> {
    facts.sessions.iter().filter(|session| unclean(session)).filter_map(|session| session.ended).max()
}

fn obstacles(sweep: &SweepRow) -> Vec<String> {
    let mut obstacles: Vec<String> =
        sweep.drift.iter().map(|(kind, count)| format!("{count} × {kind}")).collect();
    if sweep.listed != sweep.compared {
        obstacles.push(format!("{} of {} blobs were compared", sweep.compared, sweep.listed));
    }
    if sweep.planted != sweep.found {
        obstacles.push(format!("the self-test found {} of {}", sweep.found, sweep.planted));
    }
    if sweep.repaired {
        obstacles.push("it repaired what it found; the next one shows whether that held".to_owned());
    }
    obstacles
}

#[cfg(test)]
pub(super) mod tests {
    use std::collections::BTreeMap;
    use std::time::Duration;

    use super::*;
    use crate::digest::Digest;
    use crate::protocol::phase::Epoch;
    use crate::target::control::{SessionKind, SessionState};

    fn judge_all(facts: &Facts) -> GateState {
        judge(facts, 2, |row| row.state == SessionState::Unclean)
    }

    pub(in crate::gate) fn minute(minute: i64) -> Timestamp {
        Timestamp::from_second(1_790_000_000 + minute * 60).unwrap()
    }

    pub(in crate::gate) fn sweep(at: i64, clean: bool, content: bool) -> SweepRow {
        SweepRow {
            id: at.to_string(),
            began: minute(at),
            ended: minute(at),
            plan_hash: "plan".to_owned(),
            epoch: Epoch(1),
            content,
            listed: 10,
            compared: 10,
            anchored: 10,
            items: 10,
            drift: BTreeMap::new(),
            quarantined: 0,
            unmapped: 0,
            planted: 8,
            found: 8,
            repaired: false,
            bypassed: 0,
            bypasses: Vec::new(),
            clean,
        }
    }

    pub(in crate::gate) fn facts(sweeps: Vec<SweepRow>) -> Facts {
        Facts {
            now: minute(60),
            plan_hash: "plan".to_owned(),
            epoch: Epoch(1),
            evidence_age_max: Duration::from_secs(3600),
            settle: Duration::from_secs(15 * 60),
            evidence: BTreeMap::new(),
            sweeps,
            sessions: Vec::new(),
            intents: Vec::new(),
            no_foreign: Duration::ZERO,
            writers: Digest::of("plan"),
        }
    }

    #[test]
    fn two_clean_full_sweeps_in_a_row_open_it() {
        assert!(judge_all(&facts(vec![sweep(10, true, true), sweep(11, true, true)])).open);
        assert!(
            judge_all(&facts(vec![sweep(10, true, true), sweep(11, true, false), sweep(12, true, true)]))
                .open
        );
    }

    #[test]
    fn anything_less_keeps_it_closed() {
        for sweeps in [
            vec![],
            vec![sweep(10, true, true)],
            vec![sweep(10, true, true), sweep(11, true, false)],
            vec![sweep(10, true, true), sweep(11, false, false), sweep(12, true, true)],
            vec![sweep(10, true, true), sweep(11, true, true), sweep(12, false, false)],
        ] {
            let state = judge_all(&facts(sweeps.clone()));
            assert!(!state.open, "{sweeps:?}");
        }
    }

    #[test]
    fn evidence_of_another_plan_epoch_or_day_does_not_count() {
        let good = || vec![sweep(10, true, true), sweep(11, true, true)];
        let mut other_plan = good();
        other_plan[0].plan_hash = "other".to_owned();
        assert!(judge_all(&facts(other_plan)).summary.contains("another plan"));
        let mut other_epoch = good();
        other_epoch[1].epoch = Epoch(2);
        assert!(judge_all(&facts(other_epoch)).summary.contains("epoch 2"));
        let mut old = facts(good());
        old.now = minute(72);
        assert!(judge_all(&old).summary.contains("old"));
    }

    #[test]
    fn a_sweep_too_soon_after_an_unclean_end_does_not_count() {
        let mut facts = facts(vec![sweep(10, true, true), sweep(30, true, true)]);
        let session = SessionRow {
            id: "s".to_owned(),
            name: "dual-write".to_owned(),
            kind: SessionKind::Backfill,
            counter: 3,
            state: SessionState::Unclean,
            began: minute(0),
            ended: Some(minute(0)),
            acknowledged: None,
            gap: None,
            renewed: None,
            epoch: None,
            writers: None,
        };
        facts.sessions.push(session);
        assert!(judge_all(&facts).summary.contains("uncleanly"));
        facts.sweeps[0] = sweep(15, true, true);
        assert!(judge_all(&facts).open);
    }
}
