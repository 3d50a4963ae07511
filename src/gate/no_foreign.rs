//! `no-foreign`: nobody writes past the gateways.

use jiff::{SignedDuration, Timestamp};

use super::{Facts, Gate, GateState};
use crate::target::control::{SessionKind, SweepRow};

/// How many names are told.
const NAMED: usize = 20;

/// Judges the sweeps of the last `timing.no_foreign`, in which a gateway must have captured. After a cutover
/// what is written past the gateways is lost to whoever reads DynamoDB.
pub(super) fn judge(facts: &Facts) -> GateState {
    let gate = Gate::NoForeign;
    let window = SignedDuration::try_from(facts.no_foreign).unwrap_or(SignedDuration::MAX);
    let since = facts.now.checked_sub(window).unwrap_or(Timestamp::MIN);
    let gateways = facts.sessions.iter().filter(|session| session.kind == SessionKind::Gateway);
    let Some(first) = gateways.map(|session| session.began).min() else {
        return GateState::closed(gate, None, "no gateway has run", Vec::new());
    };
    let seen: Vec<&SweepRow> = facts.sweeps.iter().filter(|sweep| sweep.ended >= since).collect();
    let obstacles: Vec<String> = seen.iter().flat_map(|sweep| offences(sweep)).take(NAMED).collect();
    if !obstacles.is_empty() {
        let summary = format!("somebody wrote past the gateways since {since:.0}");
        return GateState::closed(gate, Some(facts.now), summary, obstacles);
    }
    if first > since {
        let summary = format!("gateways capture since {first:.0} only, it must be since {since:.0}");
        return GateState::closed(gate, Some(facts.now), summary, Vec::new());
    }
    let Some(last) = facts.sweeps.last() else {
        return GateState::closed(gate, None, "no sweep yet", Vec::new());
    };
    let summary = format!("no sweep since {since:.0} found anything that was written past the gateways");
    GateState::open(gate, last.ended, summary)
}

/// What a sweep found that no gateway wrote.
fn offences(sweep: &SweepRow) -> Vec<String> {
    let mut told: Vec<String> =
        sweep.bypasses.iter().map(|name| format!("{name}: found at {:.0}", sweep.ended)).collect();
    let more = sweep.bypassed.saturating_sub(told.len() as u64);
    if more > 0 {
        told.push(format!("{more} more, found at {:.0}", sweep.ended));
    }
    if let Some(count) = sweep.drift.get("foreign") {
        told.push(format!("{count} blobs are foreign, found at {:.0}", sweep.ended));
    }
    told
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::gate::drift_free::tests::{facts, minute, sweep};
    use crate::target::control::{SessionRow, SessionState};

    /// It is minute 60; the window is half an hour.
    fn judged(began: Option<i64>, sweeps: Vec<SweepRow>) -> GateState {
        let session = |began| SessionRow {
            id: "g".to_owned(),
            name: "g".to_owned(),
            kind: SessionKind::Gateway,
            counter: 0,
            state: SessionState::Open,
            began: minute(began),
            ended: None,
            acknowledged: None,
            gap: None,
            renewed: None,
            epoch: None,
            writers: None,
        };
        let sessions = began.map(session).into_iter().collect();
        judge(&Facts { sessions, no_foreign: Duration::from_secs(30 * 60), ..facts(sweeps) })
    }

    #[test]
    fn a_bypass_closes_it_for_as_long_as_the_plan_says() {
        let bypass =
            |at| SweepRow { bypassed: 2, bypasses: vec!["r/1.json".into()], ..sweep(at, true, true) };
        assert!(judged(Some(0), vec![bypass(29), sweep(50, true, true)]).open);
        let state = judged(Some(0), vec![bypass(31), sweep(50, true, true)]);
        assert!(!state.open);
        assert_eq!(state.obstacles.len(), 2, "{state:?}");
        assert!(state.obstacles[0].starts_with("r/1.json: found at"), "{state:?}");
        let mut foreign = sweep(50, false, true);
        foreign.drift.insert("foreign".to_owned(), 1);
        assert!(!judged(Some(0), vec![foreign]).open);
    }

    #[test]
    fn a_gateway_must_have_captured_so_long_and_a_sweep_looked() {
        assert!(judged(Some(30), vec![sweep(50, true, true)]).open);
        assert!(!judged(Some(31), vec![sweep(50, true, true)]).open);
        assert!(!judged(None, vec![sweep(50, true, true)]).open);
        assert!(!judged(Some(0), vec![]).open);
    }
}
