//! `capture-continuous`: since before the earlier of the sweeps that prove equality, every write went through a
//! gateway that noted it.

use jiff::Timestamp;

use super::{Facts, Gate, GateState, drift_free};
use crate::target::control::{IntentState, SessionKind, SessionRow, SessionState};

/// Judges the gateways' sessions by the sweeps that `drift-free` counts. A gateway at work always has intents:
/// only those count that are in doubt.
pub(super) fn judge(facts: &Facts) -> GateState {
    let gate = Gate::CaptureContinuous;
    let row = drift_free::in_a_row(facts, 2);
    if let Some(refusal) = row.iter().find_map(|sweep| facts.sweep_refusal(sweep)) {
        return GateState::closed(gate, None, refusal, Vec::new());
    }
    let Some(first) = row.get(1).map(|sweep| sweep.began) else {
        let summary = "it is counted from the earlier of two clean full sweeps in a row";
        return GateState::closed(gate, None, summary, Vec::new());
    };
    let gateways = || facts.sessions.iter().filter(|session| session.kind == SessionKind::Gateway);
    let mut obstacles: Vec<String> =
        gateways().filter(|session| vouches_not(session) && end(session, facts) > first).map(told).collect();
    let other = |session: &&SessionRow| session.writers != Some(facts.writers) && end(session, facts) > first;
    obstacles.extend(facts.sessions.iter().filter(other).map(|session| {
        let ran = if session.state == SessionState::Open { "runs" } else { "ran" };
        format!("{} ({}) {ran} under another plan", session.name, session.kind)
    }));
    let whole: Vec<&SessionRow> = gateways().filter(|session| !vouches_not(session)).collect();
    if let Some(hole) = hole(&whole, first, facts) {
        obstacles.push(if whole.is_empty() {
            "no gateway has run".to_owned()
        } else {
            format!("no gateway captured at {hole:.0}")
        });
    }
    let doubt = in_doubt(facts);
    if doubt > 0 {
        obstacles.push(format!("{doubt} writes are in doubt"));
    }
    if obstacles.is_empty() {
        let count = whole.iter().filter(|session| session.state == SessionState::Open).count();
        let summary = format!("captured without a gap since before {first:.0}; {count} gateways run");
        return GateState::open(gate, facts.now, summary);
    }
    let summary = format!("since {first:.0} capture has a gap, writes in doubt, or another plan");
    GateState::closed(gate, Some(facts.now), summary, obstacles)
}

/// Whether a session may have let something through that nobody noted.
fn vouches_not(session: &SessionRow) -> bool {
    session.state == SessionState::Unclean || session.gap.is_some()
}

fn end(session: &SessionRow, facts: &Facts) -> Timestamp {
    if session.state == SessionState::Open { facts.now } else { session.ended.unwrap_or(facts.now) }
}

fn told(session: &SessionRow) -> String {
    match (session.gap, session.ended) {
        (Some(gap), _) => format!("{} let writes through without notes since {gap:.0}", session.name),
        (None, Some(ended)) => format!("{} ended uncleanly at {ended:.0}", session.name),
        (None, None) => format!("{} ended uncleanly", session.name),
    }
}

/// The first moment from `from` until now at which none of these sessions was there.
fn hole(sessions: &[&SessionRow], from: Timestamp, facts: &Facts) -> Option<Timestamp> {
    let mut covered = from;
    while covered < facts.now {
        let next =
            sessions.iter().filter(|session| session.began <= covered).map(|one| end(one, facts)).max();
        match next {
            Some(next) if next > covered => covered = next,
            _ => return Some(covered),
        }
    }
    None
}

/// Intents whose operations gave up, or whose sessions are over.
fn in_doubt(facts: &Facts) -> usize {
    let open = |id: &str| facts.sessions.iter().any(|row| row.id == id && row.state == SessionState::Open);
    let doubted = |state, session: &str| state == IntentState::GaveUp || !open(session);
    facts.intents.iter().filter(|intent| doubted(intent.state, &intent.session)).count()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::digest::Digest;
    use crate::gate::drift_free::tests::{facts, minute, sweep};
    use crate::protocol::phase::Epoch;
    use crate::target::control::{IntentRow, SweepRow};

    fn gateway(state: SessionState, began: i64, ended: Option<i64>) -> SessionRow {
        SessionRow {
            id: format!("{began}"),
            name: format!("g{began}"),
            kind: SessionKind::Gateway,
            counter: 0,
            state,
            began: minute(began),
            ended: ended.map(minute),
            acknowledged: None,
            gap: None,
            renewed: None,
            epoch: None,
            writers: Some(Digest::of("plan")),
        }
    }

    /// Sweeps at minutes 40 and 50; now it is minute 60.
    fn captured(sessions: Vec<SessionRow>) -> GateState {
        judge(&Facts { sessions, ..facts(vec![sweep(40, true, true), sweep(50, true, true)]) })
    }

    #[test]
    fn gateways_must_cover_everything_since_the_earlier_sweep() {
        use SessionState::{Clean, Open, Unclean};
        let with_gap = SessionRow { gap: Some(minute(45)), ..gateway(Open, 30, None) };
        for (sessions, open) in [
            (vec![gateway(Open, 30, None)], true),
            (vec![gateway(Open, 40, None)], true),
            (vec![gateway(Open, 41, None)], false),
            (vec![], false),
            // One after the other, without a moment between them, or with one.
            (vec![gateway(Clean, 30, Some(50)), gateway(Open, 50, None)], true),
            (vec![gateway(Clean, 30, Some(50)), gateway(Open, 49, None)], true),
            (vec![gateway(Clean, 30, Some(50)), gateway(Open, 51, None)], false),
            (vec![gateway(Clean, 30, Some(59))], false),
            // An unclean end counts for as long as the sweeps began before it.
            (vec![gateway(Unclean, 20, Some(39)), gateway(Open, 30, None)], true),
            (vec![gateway(Unclean, 20, Some(41)), gateway(Open, 30, None)], false),
            (vec![with_gap, gateway(Open, 30, None)], false),
        ] {
            assert_eq!(captured(sessions.clone()).open, open, "{sessions:#?}");
        }
        let under = |name: &str, ended| SessionRow {
            writers: Some(Digest::of(name)),
            ..gateway(if ended == 0 { Open } else { Clean }, 20, (ended > 0).then_some(ended))
        };
        for (other, open) in
            [(under("plan", 0), true), (under("other", 0), false), (under("other", 39), true)]
        {
            assert_eq!(captured(vec![other.clone(), gateway(Open, 30, None)]).open, open, "{other:?}");
        }
        let ran = captured(vec![under("other", 41), gateway(Open, 30, None)]);
        assert_eq!(ran.obstacles, ["g20 (gateway) ran under another plan"]);
        let load = SessionRow { kind: SessionKind::Backfill, ..gateway(Open, 30, None) };
        assert!(!captured(vec![load]).open, "a load captures nothing");
        let anew = SweepRow { epoch: Epoch(2), ..sweep(50, true, true) };
        let after_a_flip = facts(vec![sweep(40, true, true), anew]);
        assert!(!judge(&Facts { sessions: vec![gateway(Open, 30, None)], ..after_a_flip }).open);
        let one = facts(vec![sweep(50, true, true)]);
        assert!(!judge(&Facts { sessions: vec![gateway(Open, 30, None)], ..one }).open);
    }

    #[test]
    fn only_intents_in_doubt_close_it() {
        let at = |session: &str, state| IntentRow::new(session, minute(59), state, vec!["r/1".into()], None);
        let with = |intent| {
            let sweeps = vec![sweep(40, true, true), sweep(50, true, true)];
            let sessions = vec![gateway(SessionState::Open, 30, None)];
            judge(&Facts { sessions, intents: vec![intent], ..facts(sweeps) })
        };
        assert!(with(at("30", IntentState::Open)).open, "a gateway at work");
        for intent in [at("30", IntentState::GaveUp), at("gone", IntentState::Open)] {
            let state = with(intent);
            assert_eq!((state.open, state.obstacles), (false, vec!["1 writes are in doubt".to_owned()]));
        }
    }
}
