//! Sessions: a right to write that ends for good, and never begins where a flip is under way. Hazard A12.

use std::sync::Arc;
use std::time::Duration;

use migrate::converge::Converger;
use migrate::dual_write::session::{Opening, Session};
use migrate::protocol::converge::Purpose;
use migrate::protocol::phase::{Authority, Epoch, Phase};
use migrate::target::control::{Hold, Mode, SessionKind, SessionRow, SessionState};
use migrate::target::memory::{Fault, Operation};
use migrate::testing::ManualClock;
use migrate::{Error, ErrorKind, Result};
use tempfile::TempDir;

use super::harness::Rig;

pub(super) const PLAN_HASH: &str = "plan";

/// The stores, a clock that stands still, and a directory for locks.
struct Stage {
    rig: Rig,
    clock: ManualClock,
    locks: TempDir,
}

impl Stage {
    fn new() -> Self {
        let locks = TempDir::new().unwrap();
        Self { rig: Rig::new(), clock: ManualClock::at("2026-11-01T00:00:00Z"), locks }
    }

    async fn open(&self, name: &str) -> Result<Session> {
        let opening = Opening {
            kind: SessionKind::Backfill,
            name,
            plan_hash: PLAN_HASH,
            plan: &self.rig.plan,
            directory: self.locks.path(),
            authority: Some(Authority::Source),
        };
        Session::open(self.rig.control.clone(), Arc::new(self.clock.clone()), opening).await
    }

    fn converger(&self, session: &Session) -> Converger {
        Converger { permit: session.permit(), ..self.rig.converger.clone() }
    }

    async fn rows(&self) -> Vec<SessionRow> {
        let mut rows = self.rig.control.sessions().await.unwrap();
        rows.sort_by_key(|row| (row.began, row.state == SessionState::Open));
        rows
    }

    async fn states(&self) -> Vec<SessionState> {
        self.rows().await.into_iter().map(|row| row.state).collect()
    }

    /// Lets time pass, and waits for what it wakes.
    async fn pass(&self, seconds: u64) {
        let settle = async || {
            for _ in 0..100 {
                tokio::task::yield_now().await;
            }
        };
        settle().await;
        self.clock.advance(Duration::from_secs(seconds));
        settle().await;
    }
}

/// A mode with a hold, or of another phase.
pub(super) async fn set_mode(rig: &Rig, phase: Phase, hold: bool) {
    let hold = hold.then(|| Hold {
        id: "h".to_owned(),
        target: Phase::Cutover,
        by: "ada".to_owned(),
        limit_ms: 2_000,
    });
    let since = "2026-11-01T00:00:00Z".parse().unwrap();
    let mode = Mode { phase, epoch: Epoch(2), hold, ..Mode::begun(since, PLAN_HASH) };
    match rig.control.mode().await.unwrap() {
        Some(seen) => assert!(rig.control.flip(&seen, &mode, None).await.unwrap()),
        None => assert_eq!(rig.control.ensure_mode(&mode).await.unwrap(), mode),
    }
}

fn refused<T>(result: Result<T>) -> Error {
    result.err().unwrap()
}

#[tokio::test]
async fn a_session_may_write_while_it_is_renewed_and_ends_clean() {
    let stage = Stage::new();
    stage.rig.put("r/1.json", "{}").await;
    let session = stage.open("load").await.unwrap();
    assert_eq!((session.mode().phase, session.mode().epoch), (Phase::Capture, Epoch(1)));
    for _ in 0..20 {
        stage.pass(2).await;
    }
    let converger = stage.converger(&session);
    converger.converge(&"r/1.json".into(), Purpose::Reconcile).await.unwrap();
    assert_eq!(stage.rows().await[0].counter, 20);
    session.close().await.unwrap();
    let row = stage.rows().await.remove(0);
    assert_eq!((row.state, row.ended), (SessionState::Clean, Some("2026-11-01T00:00:40Z".parse().unwrap())));
    let refused = refused(converger.converge(&"r/1.json".into(), Purpose::Repair).await);
    assert_eq!(refused.kind(), ErrorKind::WrongPhase, "what is closed writes nothing more");
}

#[tokio::test]
async fn a_lease_that_ran_out_stops_writes_for_good() {
    let stage = Stage::new();
    stage.rig.put("r/1.json", "{}").await;
    let session = stage.open("load").await.unwrap();
    let converger = stage.converger(&session);
    stage.rig.target.outage(Some(ErrorKind::NotApplied));
    stage.pass(9).await;
    session.permit().check().unwrap();
    stage.pass(1).await;
    stage.rig.target.outage(None);
    for _ in 0..5 {
        let refused = refused(converger.converge(&"r/1.json".into(), Purpose::Reconcile).await);
        assert_eq!(refused.kind(), ErrorKind::WrongPhase);
        stage.pass(2).await;
    }
    assert!(stage.rig.items().is_empty());
    assert_eq!(stage.rows().await[0].counter, 0, "what is over is not renewed: it would look alive");
    session.close().await.unwrap();
    assert_eq!(stage.states().await, [SessionState::Unclean], "the gap is on record, whatever it says");
}

/// Trace B2: a renewal that is stored after the lease ran out revives nothing.
#[tokio::test]
async fn a_renewal_that_comes_too_late_revives_nothing() {
    let stage = Stage::new();
    let session = stage.open("load").await.unwrap();
    let mut pause = stage.rig.target.pause(Operation::Transact);
    stage.pass(2).await;
    pause.arrived().await;
    stage.pass(10).await;
    pause.release();
    stage.pass(0).await;
    assert_eq!(stage.rows().await[0].counter, 1, "it was stored");
    assert_eq!(refused(session.permit().check()).kind(), ErrorKind::WrongPhase);
}

#[tokio::test]
async fn a_renewal_without_a_reply_is_no_end() {
    let stage = Stage::new();
    let session = stage.open("load").await.unwrap();
    for fault in [Fault::AppliedThenLost, Fault::Held, Fault::Refused(ErrorKind::NotApplied)] {
        stage.rig.target.fault(Operation::Transact, fault);
        stage.pass(2).await;
        stage.pass(2).await;
        session.permit().check().unwrap();
    }
    stage.pass(2).await;
    session.permit().check().unwrap();
    stage.rig.target.release_held();
    session.close().await.unwrap();
    assert_eq!(stage.states().await, [SessionState::Clean]);
}

#[tokio::test]
async fn a_session_that_somebody_else_ended_is_over_at_its_next_renewal() {
    let stage = Stage::new();
    let session = stage.open("load").await.unwrap();
    let mut row = stage.rows().await.remove(0);
    row.state = SessionState::Unclean;
    assert!(stage.rig.control.update_session(&row, 0).await.unwrap());
    stage.pass(2).await;
    assert_eq!(refused(session.permit().check()).kind(), ErrorKind::WrongPhase);
    session.close().await.unwrap();
    assert_eq!(stage.states().await, [SessionState::Unclean]);
}

#[tokio::test]
async fn a_dead_predecessor_ends_as_unclean() {
    let stage = Stage::new();
    drop(stage.open("load").await.unwrap());
    drop(stage.open("other").await.unwrap());
    assert_eq!(stage.states().await, [SessionState::Open; 2]);
    stage.clock.advance(Duration::from_secs(60));
    let session = stage.open("load").await.unwrap();
    let rows = stage.rows().await;
    let dead = rows.iter().find(|row| row.state == SessionState::Unclean).unwrap();
    assert_eq!((dead.name.as_str(), dead.ended), ("load", Some("2026-11-01T00:01:00Z".parse().unwrap())));
    assert_eq!(rows.iter().filter(|row| row.state == SessionState::Open).count(), 2, "not the other one's");
    session.close().await.unwrap();
}

#[tokio::test]
async fn one_process_at_a_time_has_a_name() {
    let stage = Stage::new();
    let first = stage.open("load").await.unwrap();
    let busy = refused(stage.open("load").await);
    assert_eq!(busy.kind(), ErrorKind::Busy);
    assert_eq!(busy.detail(), Some("another `load` is running on this machine"));
    assert_eq!(stage.states().await, [SessionState::Open], "the one that runs is left alone");
    first.permit().check().unwrap();
    stage.open("other").await.unwrap().close().await.unwrap();
    first.close().await.unwrap();
    stage.open("load").await.unwrap().close().await.unwrap();
}

#[tokio::test]
async fn a_newcomer_is_refused_under_a_hold_and_where_the_target_is_right() {
    for (phase, hold, says) in [
        (Phase::Capture, true, "a flip is under way"),
        (Phase::Cutover, false, "DynamoDB is the authority"),
        (Phase::Final, false, "nothing is mirrored any more"),
    ] {
        let stage = Stage::new();
        set_mode(&stage.rig, phase, hold).await;
        let error = refused(stage.open("load").await);
        assert_eq!(error.kind(), ErrorKind::WrongPhase);
        assert!(error.to_string().contains(says), "{error}");
        assert_eq!(stage.states().await, [SessionState::Clean], "no open row remains");
    }
}

/// A newcomer's row is there before it reads the mode: whoever holds sees the one or is seen by it.
#[tokio::test]
async fn a_hold_that_is_set_while_a_session_opens_is_seen() {
    let stage = Stage::new();
    set_mode(&stage.rig, Phase::Capture, false).await;
    drop(stage.rig.target.pause(Operation::Get));
    let mut last_look = stage.rig.target.pause(Operation::Get);
    let hold = async {
        last_look.arrived().await;
        assert_eq!(stage.states().await, [SessionState::Open]);
        let seen = Mode { hold: None, ..stage_mode() };
        let held = Mode {
            hold: Some(Hold {
                id: "h".to_owned(),
                target: Phase::Cutover,
                by: "ada".to_owned(),
                limit_ms: 1,
            }),
            ..stage_mode()
        };
        assert!(stage.rig.control.flip(&seen, &held, None).await.unwrap());
        last_look.release();
    };
    let (opened, ()) = futures::join!(stage.open("load"), hold);
    assert_eq!(refused(opened).kind(), ErrorKind::WrongPhase);
    assert_eq!(stage.states().await, [SessionState::Clean]);
}

fn stage_mode() -> Mode {
    let since = "2026-11-01T00:00:00Z".parse().unwrap();
    Mode { epoch: Epoch(2), ..Mode::begun(since, PLAN_HASH) }
}

#[tokio::test]
async fn whatever_call_fails_a_rerun_opens_and_no_other_row_stays_open() {
    let faults = [Fault::Refused(ErrorKind::NotApplied), Fault::AppliedThenLost, Fault::Held];
    for operation in [Operation::Get, Operation::Query, Operation::Transact] {
        for fault in faults {
            for call in 0..4 {
                let stage = Stage::new();
                (0..call).for_each(|_| drop(stage.rig.target.pause(operation)));
                stage.rig.target.fault(operation, fault);
                if let Ok(session) = stage.open("load").await {
                    session.close().await.ok();
                }
                stage.rig.target.clear_faults();
                let session = stage.open("load").await.unwrap();
                stage.rig.target.release_held();
                session.permit().check().unwrap();
                let open = stage.states().await.iter().filter(|state| **state == SessionState::Open).count();
                let late = usize::from(fault == Fault::Held && operation == Operation::Transact);
                assert!((1..=1 + late).contains(&open), "{operation:?} {fault:?} {call}: {open} open");
                session.close().await.unwrap();
            }
        }
    }
}

/// Hazard A7: what may yet land closes no session as clean; what was made sure of does.
#[tokio::test]
async fn a_request_in_doubt_is_on_record() {
    for (lost, outage, state) in [
        (1, false, SessionState::Clean),
        (1, true, SessionState::Unclean),
        (20, false, SessionState::Unclean),
    ] {
        let stage = Stage::new();
        stage.rig.put("r/1.json", "{}").await;
        let session = stage.open("load").await.unwrap();
        (0..lost).for_each(|_| stage.rig.target.fault(Operation::Transact, Fault::Held));
        if outage {
            drop(stage.rig.target.pause(Operation::Get));
            stage.rig.target.fault(Operation::Get, Fault::Refused(ErrorKind::NotApplied));
        }
        stage.converger(&session).converge(&"r/1.json".into(), Purpose::Reconcile).await.ok();
        stage.rig.target.clear_faults();
        session.close().await.unwrap();
        assert_eq!(stage.states().await, [state], "{lost} {outage}");
    }
}

/// The same for a transaction of many.
#[tokio::test]
async fn a_batch_in_doubt_is_on_record() {
    let stage = Stage::new();
    for number in 0..5 {
        stage.rig.put(&format!("r/{number}.json"), "{}").await;
    }
    let session = stage.open("load").await.unwrap();
    stage.rig.target.fault(Operation::Transact, Fault::Held);
    // The anchors of the page are read, then no more.
    drop(stage.rig.target.pause(Operation::Get));
    (0..5).for_each(|_| stage.rig.target.fault(Operation::Get, Fault::Refused(ErrorKind::NotApplied)));
    let converger = stage.converger(&session);
    let cancel = tokio_util::sync::CancellationToken::new();
    let report = migrate::backfill::run(&converger, "", &super::harness::silent(), &cancel).await.unwrap();
    assert_eq!(report.failed.len(), 5);
    session.close().await.unwrap();
    assert_eq!(stage.states().await, [SessionState::Unclean]);
}
