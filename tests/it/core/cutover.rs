//! The flip: closed gates, open sessions, lost replies, two operators, a kill, and the way back.

use std::sync::Arc;
use std::time::Duration;

use migrate::clock::Clock as _;
use migrate::cutover::{Cutover, Flip};
use migrate::dual_write::session::{Opening, Session};
use migrate::gate::Gate;
use migrate::plan::{CaptureMode, IndexPlan, Plan, Writers};
use migrate::protocol::phase::{Authority, Epoch, Phase};
use migrate::sweep::Level;
use migrate::target::control::{
    Audit, Evidence, IntentRow, IntentState, Mode, SessionKind, SessionRow, SessionState, SweepRow, names,
};
use migrate::target::memory::{Fault, Operation};
use migrate::{Error, ErrorKind, Result};

use super::harness::{PLAN, Rig, silent};
use super::session::PLAN_HASH;

/// A migration that may be flipped: two blobs in the mirror, every gate open.
pub(super) async fn ready() -> Rig {
    // Without a gateway: what these tests are about is the operator.
    let rig = Rig::with(&format!("{PLAN}[capture]\nmode = \"follow\"\n"));
    rig.control.ensure_mode(&mode(&rig, Phase::Canary, 1)).await.unwrap();
    rig.put("r/1.json", "{}").await;
    rig.put("r/2.json", "{}").await;
    rig.backfill().await;
    for gate in [Gate::ExportComplete, Gate::BackfillComplete, Gate::RollbackDrilled] {
        rig.control.put_evidence(&evidence(&rig, gate)).await.unwrap();
    }
    cutover(&rig, &rig.plan, "ada").writers_stopped().await.unwrap();
    rig.clock.advance(rig.plan.timing.settle.0);
    for _ in 0..2 {
        sweep(&rig, Epoch(1)).await;
    }
    rig
}

pub(super) fn mode(rig: &Rig, phase: Phase, epoch: u64) -> Mode {
    Mode { phase, epoch: Epoch(epoch), ..Mode::begun(rig.clock.now(), PLAN_HASH) }
}

fn evidence(rig: &Rig, gate: Gate) -> Evidence {
    Evidence {
        gate: gate.to_string(),
        at: rig.clock.now(),
        plan_hash: PLAN_HASH.to_owned(),
        epoch: Epoch(1),
        passed: true,
        summary: format!("{gate} is well"),
        obstacles: Vec::new(),
    }
}

pub(super) async fn sweep(rig: &Rig, epoch: Epoch) -> SweepRow {
    rig.clock.advance(Duration::from_secs(1));
    let row = rig.sweep(Level::Content, false).await.row(names::token(), PLAN_HASH, epoch);
    rig.control.put_sweep(&row).await.unwrap();
    row
}

pub(super) fn cutover<'a>(rig: &'a Rig, plan: &'a Plan, who: &str) -> Cutover<'a> {
    Cutover {
        converger: &rig.converger,
        events: silent(),
        plan,
        plan_hash: PLAN_HASH,
        who: who.to_owned(),
        name: format!("cutover-{who}"),
        directory: rig.locks.path(),
    }
}

async fn flip(rig: &Rig, target: Option<Phase>) -> Result<Flip> {
    cutover(rig, &rig.plan, "ada").flip(target, false).await
}

async fn open(rig: &Rig, locks: &std::path::Path) -> Result<Session> {
    let opening = Opening {
        kind: SessionKind::Backfill,
        name: "load",
        plan_hash: PLAN_HASH,
        plan: &rig.plan,
        directory: locks,
        authority: Some(Authority::Source),
    };
    let clock = migrate::testing::ManualClock::new(rig.clock.now());
    Session::open(rig.control.clone(), Arc::new(clock), opening).await
}

pub(super) fn row(rig: &Rig, state: SessionState) -> SessionRow {
    SessionRow {
        id: "s".to_owned(),
        name: "load".to_owned(),
        kind: SessionKind::Backfill,
        counter: 1,
        state,
        began: rig.clock.now(),
        ended: None,
        acknowledged: None,
        gap: None,
        renewed: None,
        epoch: None,
        writers: Some(Writers::of(&rig.plan).digest),
    }
}

/// The phase is what it was, nobody holds it, and nothing is in the log.
async fn unchanged(rig: &Rig) {
    let mode = rig.control.mode().await.unwrap().unwrap();
    assert_eq!((mode.phase, mode.epoch, mode.hold), (Phase::Canary, Epoch(1), None));
    assert_eq!(flips(rig).await, []);
}

/// It was flipped once.
async fn flipped(rig: &Rig) {
    let mode = rig.control.mode().await.unwrap().unwrap();
    assert_eq!((mode.phase, mode.epoch, mode.hold), (Phase::Cutover, Epoch(2), None));
    assert_eq!(flips(rig).await.len(), 1);
}

/// The lines of the audit log that are about flips.
pub(super) async fn flips(rig: &Rig) -> Vec<Audit> {
    let mut log = rig.control.audit().await.unwrap();
    log.retain(|audit| audit.note.is_none());
    log
}

pub(super) fn closed(result: Result<Flip>) -> String {
    let error = result.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::GateClosed, "{error}");
    error.detail().unwrap().to_owned()
}

#[tokio::test]
async fn with_every_gate_open_it_flips_and_says_why_it_could() {
    let rig = ready().await;
    let standing = cutover(&rig, &rig.plan, "ada").standing(None).await.unwrap();
    assert!(standing.ready(), "{standing:?}");
    unchanged(&rig).await;

    let flip = flip(&rig, None).await.unwrap();
    assert_eq!((flip.from, flip.to, flip.epoch), (Phase::Canary, Phase::Cutover, Epoch(2)));
    flipped(&rig).await;
    let audit = flips(&rig).await.remove(0);
    assert_eq!((audit.who.as_str(), audit.from, audit.to), ("ada", Phase::Canary, Phase::Cutover));
    assert_eq!((audit.epoch, audit.plan_hash.as_str()), (Epoch(2), PLAN_HASH));
    let gates = Gate::required(Phase::Canary, Phase::Cutover, CaptureMode::Follow);
    let gates: Vec<String> = gates.iter().map(ToString::to_string).collect();
    let mut named: Vec<String> = audit.evidence.keys().cloned().collect();
    named.sort_by_key(|gate| gates.iter().position(|known| known == gate));
    assert_eq!(named, gates);
    assert!(audit.evidence["drift-free"].contains("2 blobs"), "{:?}", audit.evidence);
}

#[tokio::test]
async fn each_closed_gate_is_named_and_nothing_changes() {
    for gate in Gate::ALL {
        let rig = ready().await;
        let mut plan = rig.plan.clone();
        let mut closes = gate.to_string();
        match gate {
            Gate::TableReady | Gate::IndexesComplete => {
                plan.target.indexes.push(IndexPlan {
                    name: "GSI1".to_owned(),
                    partition_key: "gsi1pk".to_owned(),
                    sort_key: "gsi1sk".to_owned(),
                });
                closes = "table-ready, indexes-complete".to_owned();
            }
            Gate::ExportComplete | Gate::BackfillComplete | Gate::RollbackDrilled => {
                let failed = Evidence { passed: false, ..evidence(&rig, gate) };
                rig.control.put_evidence(&failed).await.unwrap();
            }
            Gate::MappingTotal => {
                let row = sweep(&rig, Epoch(1)).await;
                rig.clock.advance(Duration::from_secs(1));
                let now = rig.clock.now();
                let row = SweepRow { id: "x".to_owned(), began: now, ended: now, unmapped: 1, ..row };
                rig.control.put_sweep(&row).await.unwrap();
            }
            Gate::DriftFree => {
                rig.delete("r/1.json").await;
                assert!(!sweep(&rig, Epoch(1)).await.clean);
                rig.reconcile("r/1.json").await;
                assert!(sweep(&rig, Epoch(1)).await.clean, "one is not enough");
                closes = "drift-free, writers-stopped".to_owned();
            }
            Gate::WritersStopped => {
                let again = Evidence { at: rig.clock.now(), ..evidence(&rig, gate) };
                rig.control.put_evidence(&again).await.unwrap();
            }
            Gate::CaptureContinuous | Gate::NoForeign | Gate::ShadowReads => {
                plan.capture.mode = CaptureMode::Gateway;
                closes = "capture-continuous, no-foreign, shadow-reads".to_owned();
            }
        }
        assert_eq!(closed(cutover(&rig, &plan, "ada").flip(None, false).await), format!("closed: {closes}"));
        unchanged(&rig).await;
    }
}

#[tokio::test]
async fn without_any_evidence_every_gate_but_the_table_is_closed() {
    let rig = Rig::new();
    let error = flip(&rig, None).await.unwrap_err();
    assert_eq!((error.kind(), error.detail()), (ErrorKind::WrongPhase, Some("nothing was migrated yet")));
    rig.control.ensure_mode(&mode(&rig, Phase::Canary, 1)).await.unwrap();
    let all = "closed: export-complete, mapping-total, backfill-complete, capture-continuous, drift-free, no-foreign, shadow-reads, rollback-drilled";
    assert_eq!(closed(flip(&rig, None).await), all);
}

#[tokio::test]
async fn evidence_of_another_plan_of_another_epoch_or_too_old_does_not_count() {
    let evidenced = "closed: export-complete, mapping-total, backfill-complete, drift-free, writers-stopped, rollback-drilled";
    let rig = ready().await;
    let other = Cutover { plan_hash: "another plan", ..cutover(&rig, &rig.plan, "ada") };
    assert_eq!(closed(other.flip(None, false).await), evidenced);
    unchanged(&rig).await;

    rig.clock.advance(Duration::from_secs(25 * 3600));
    assert_eq!(closed(flip(&rig, None).await), evidenced);
    unchanged(&rig).await;

    let rig = ready().await;
    let seen = rig.control.mode().await.unwrap().unwrap();
    rig.control.flip(&seen, &mode(&rig, Phase::Canary, 2), None).await.unwrap();
    assert_eq!(closed(flip(&rig, None).await), evidenced);
}

/// A write through a gateway that nobody mirrored is mirrored under the hold, and its intent stays.
#[tokio::test]
async fn what_an_intent_names_is_made_equal_before_the_commit() {
    let rig = ready().await;
    rig.put("r/1.json", r#"{"v": "late"}"#).await;
    let intent = IntentRow::new("s", rig.clock.now(), IntentState::GaveUp, vec!["r/1.json".into()], None);
    rig.control.store_intent(&intent).await.unwrap();
    let before = rig.control.anchor(&"r/1.json".into()).await.unwrap().unwrap();
    flip(&rig, None).await.unwrap();
    flipped(&rig).await;
    let after = rig.control.anchor(&"r/1.json".into()).await.unwrap().unwrap();
    assert_ne!(after.rev, before.rev, "an older request must not find its rev");
    rig.check().await;
    assert_eq!(rig.control.intents().await.unwrap(), [intent], "a drain clears nothing");
}

#[tokio::test]
async fn nothing_is_held_while_too_much_is_under_way() {
    let rig = ready().await;
    let mut intents = Vec::new();
    for number in 0..201 {
        let name = format!("r/n{number}.json");
        let intent =
            IntentRow::new("s", rig.clock.now(), IntentState::GaveUp, vec![name.as_str().into()], None);
        rig.control.store_intent(&intent).await.unwrap();
        intents.push(intent);
    }
    let refused = flip(&rig, None).await.unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::GateClosed);
    assert!(refused.to_string().contains("201 writes are under way or in doubt, more than 200"), "{refused}");
    unchanged(&rig).await;
    assert!(rig.control.clear_intent(&intents[0]).await.unwrap());
    flip(&rig, None).await.unwrap();
}

/// A request that hangs would make every other write wait.
#[tokio::test]
async fn nothing_is_held_while_a_request_is_slow() {
    let rig = ready().await;
    let mut session = row(&rig, SessionState::Open);
    session.kind = SessionKind::Gateway;
    rig.control.open_session(&session).await.unwrap();
    let intent = IntentRow::new("s", rig.clock.now(), IntentState::Open, vec!["r/1.json".into()], None);
    rig.control.store_intent(&intent).await.unwrap();
    let refused = flip(&rig, None).await.unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::GateClosed);
    assert!(refused.to_string().contains("1 requests"), "{refused}");
    unchanged(&rig).await;
}

#[tokio::test]
async fn a_sweep_that_began_too_soon_after_an_unclean_end_does_not_count() {
    let rig = ready().await;
    let row = SessionRow { ended: Some(rig.clock.now()), ..row(&rig, SessionState::Unclean) };
    rig.control.open_session(&row).await.unwrap();
    assert_eq!(closed(flip(&rig, None).await), "closed: drift-free");
    rig.clock.advance(rig.plan.timing.settle.0);
    for _ in 0..2 {
        sweep(&rig, Epoch(1)).await;
    }
    flip(&rig, None).await.unwrap();
}

#[tokio::test]
async fn an_open_session_is_in_the_way_and_the_hold_is_not_left() {
    let rig = ready().await;
    let locks = tempfile::tempdir().unwrap();
    let session = open(&rig, locks.path()).await.unwrap();
    let error = flip(&rig, None).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::WrongPhase);
    assert!(error.to_string().contains("load (backfill)"), "{error}");
    unchanged(&rig).await;
    session.close().await.unwrap();
    flip(&rig, None).await.unwrap();
}

/// Trace B10, and step 2 of the design: a newcomer after the look at the sessions, before the hold.
#[tokio::test]
async fn a_session_that_opens_between_the_look_and_the_hold_is_seen() {
    let rig = ready().await;
    let locks = tempfile::tempdir().unwrap();
    drop(rig.target.pause(Operation::Transact)); // the evidence of table-ready
    let mut before_hold = rig.target.pause(Operation::Transact);
    let newcomer = async {
        before_hold.arrived().await;
        let session = open(&rig, locks.path()).await.unwrap();
        before_hold.release();
        session
    };
    let (flipped, session) = futures::join!(flip(&rig, None), newcomer);
    let error = flipped.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::WrongPhase);
    assert!(error.to_string().contains("not acknowledged within 2s"), "{error}");
    assert!(error.to_string().contains("load (backfill)"), "{error}");
    session.permit().check().unwrap();
    session.close().await.unwrap();
    unchanged(&rig).await;
}

/// `--without`: the process is gone, and so is what it let through last, until sweeps have looked once more.
#[tokio::test]
async fn a_process_that_is_gone_is_named_and_ended() {
    let rig = ready().await;
    rig.control.open_session(&row(&rig, SessionState::Open)).await.unwrap();
    assert_eq!(flip(&rig, None).await.unwrap_err().kind(), ErrorKind::WrongPhase);
    let unknown = cutover(&rig, &rig.plan, "ada").without(&["nobody".to_owned()]).await.unwrap_err();
    assert_eq!(unknown.kind(), ErrorKind::Usage);
    cutover(&rig, &rig.plan, "ada").without(&["load".to_owned()]).await.unwrap();
    let audit = rig.control.audit().await.unwrap().pop().unwrap();
    assert!(audit.note.as_deref().unwrap().starts_with("load is stopped"), "{audit:?}");
    let session = rig.control.sessions().await.unwrap().remove(0);
    assert_eq!(session.state, SessionState::Unclean);
    assert_eq!(closed(flip(&rig, None).await), "closed: drift-free");
    rig.clock.advance(rig.plan.timing.settle.0);
    for _ in 0..2 {
        sweep(&rig, Epoch(1)).await;
    }
    flip(&rig, None).await.unwrap();
}

#[tokio::test]
async fn a_session_that_opens_under_the_hold_is_refused() {
    let rig = ready().await;
    let locks = tempfile::tempdir().unwrap();
    (0..2).for_each(|_| drop(rig.target.pause(Operation::Transact)));
    let mut before_commit = rig.target.pause(Operation::Transact);
    let newcomer = async {
        before_commit.arrived().await;
        let refused = open(&rig, locks.path()).await;
        before_commit.release();
        refused
    };
    let (done, refused) = futures::join!(flip(&rig, None), newcomer);
    assert_eq!(refused.err().unwrap().kind(), ErrorKind::WrongPhase);
    done.unwrap();
    flipped(&rig).await;
}

/// Hazard A15: each of the three writes, applied and its reply lost.
#[tokio::test]
async fn a_lost_reply_is_resolved() {
    for write in 1..3 {
        let rig = ready().await;
        (0..write).for_each(|_| drop(rig.target.pause(Operation::Transact)));
        rig.target.fault(Operation::Transact, Fault::AppliedThenLost);
        let flip = flip(&rig, None).await;
        assert!(flip.is_ok(), "write {write}: {flip:?}");
        flipped(&rig).await;
    }
}

/// Hazard A7: a write that lands later, whichever it is, changes nothing any more.
#[tokio::test]
async fn a_late_write_is_fenced() {
    for write in 1..3 {
        for late in 1..5 {
            let rig = ready().await;
            (0..write).for_each(|_| drop(rig.target.pause(Operation::Transact)));
            (0..late).for_each(|_| rig.target.fault(Operation::Transact, Fault::Held));
            let result = flip(&rig, None).await;
            rig.target.clear_faults();
            let after = rig.control.mode().await.unwrap().unwrap();
            assert_eq!(result.is_ok(), after.phase == Phase::Cutover, "{write} {late}: {result:?} {after:?}");
            rig.target.release_held();
            let landed = rig.control.mode().await.unwrap().unwrap();
            assert_eq!((landed.phase, landed.epoch), (after.phase, after.epoch), "{write} {late}");
            // A late hold is cancelled as any other.
            if result.is_err() {
                cutover(&rig, &rig.plan, "ada").flip(None, true).await.unwrap();
            }
            flipped(&rig).await;
        }
    }
}

#[tokio::test]
async fn a_store_that_fails_at_any_look_leaves_no_hold() {
    let mut call = 0;
    loop {
        let rig = ready().await;
        rig.target.spare(Operation::Query, call);
        rig.target.fault(Operation::Query, Fault::Refused(ErrorKind::NotApplied));
        let Err(error) = flip(&rig, None).await else { break };
        assert_eq!(error.kind(), ErrorKind::NotApplied, "call {call}");
        unchanged(&rig).await;
        call += 1;
    }
    // Gates, intents and sessions before the hold, and all of them once more under it.
    assert!(call > 60, "{call}");
}

#[tokio::test]
async fn of_two_operators_at_once_exactly_one_flips() {
    // Where the one stops while the other runs: before its hold, before its commit.
    for stop in [1, 2] {
        for cancel_hold in [false, true] {
            let rig = ready().await;
            let (ada, bob) = (cutover(&rig, &rig.plan, "ada"), cutover(&rig, &rig.plan, "bob"));
            (0..stop).for_each(|_| drop(rig.target.pause(Operation::Transact)));
            let mut pause = rig.target.pause(Operation::Transact);
            let other = async {
                pause.arrived().await;
                let result = bob.flip(None, cancel_hold).await;
                pause.release();
                result
            };
            let (first, second) = futures::join!(ada.flip(None, false), other);
            let winner = match (&first, &second) {
                (Ok(_), Err(_)) => "ada",
                (Err(_), Ok(_)) => "bob",
                _ => panic!("{stop} {cancel_hold}: {first:?} {second:?}"),
            };
            let expected = if stop == 1 || cancel_hold { "bob" } else { "ada" };
            assert_eq!(winner, expected, "{stop} {cancel_hold}");
            let loser = first.err().or(second.err()).unwrap();
            assert_eq!(loser.kind(), ErrorKind::WrongPhase);
            flipped(&rig).await;
            assert_eq!(flips(&rig).await[0].who, winner);
        }
    }
}

#[tokio::test]
async fn after_a_kill_under_the_hold_a_rerun_says_what_to_do_and_does_it() {
    let rig = Arc::new(ready().await);
    (0..2).for_each(|_| drop(rig.target.pause(Operation::Transact)));
    let mut before_commit = rig.target.pause(Operation::Transact);
    let dying = tokio::spawn({
        let rig = rig.clone();
        async move { flip(&rig, None).await }
    });
    before_commit.arrived().await;
    dying.abort();
    dying.await.unwrap_err();
    drop(before_commit);
    assert!(rig.control.mode().await.unwrap().unwrap().hold.is_some());

    let error: Error = flip(&rig, None).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::WrongPhase);
    assert_eq!(error.detail(), Some("ada holds the mode for a flip to cutover"));
    assert!(error.advice().unwrap().contains("--cancel-hold"));
    let locks = tempfile::tempdir().unwrap();
    assert!(open(&rig, locks.path()).await.is_err());

    cutover(&rig, &rig.plan, "ada").flip(None, true).await.unwrap();
    flipped(&rig).await;
}

/// Hazard A13: the way back needs proof of its own, and the way forward then begins anew.
#[tokio::test]
async fn the_way_back_needs_a_clean_sweep_in_the_new_epoch() {
    let rig = ready().await;
    flip(&rig, None).await.unwrap();
    assert_eq!(closed(flip(&rig, Some(Phase::Shadow)).await), "closed: drift-free");
    rig.delete("r/1.json").await;
    assert!(!sweep(&rig, Epoch(2)).await.clean);
    assert_eq!(closed(flip(&rig, Some(Phase::Shadow)).await), "closed: drift-free");
    rig.put("r/1.json", "{}").await;
    rig.reconcile("r/1.json").await;
    assert!(sweep(&rig, Epoch(2)).await.clean);
    let back = flip(&rig, Some(Phase::Shadow)).await.unwrap();
    assert_eq!((back.from, back.to, back.epoch), (Phase::Cutover, Phase::Shadow, Epoch(3)));
    assert_eq!(flips(&rig).await.len(), 2);

    let anew = "closed: export-complete, mapping-total, backfill-complete, drift-free";
    assert_eq!(closed(flip(&rig, None).await), anew);
    assert_eq!(rig.control.mode().await.unwrap().unwrap().phase, Phase::Shadow);
}
