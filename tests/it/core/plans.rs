//! One plan at a time: who runs under another one, and a mode item that somebody deleted.

use std::time::Duration;

use migrate::blob::BlobStore as _;
use migrate::dual_write::session::{Opening, Session};
use migrate::plan::{Plan, Span, Writers};
use migrate::protocol::converge::Purpose;
use migrate::protocol::phase::{Epoch, Phase};
use migrate::target::Table;
use migrate::target::control::{Mode, SessionKind, SessionRow, SessionState};
use migrate::target::memory::Operation;
use migrate::value::Key;
use migrate::{ErrorKind, Result};

use super::cutover::{cutover, flips, mode, ready, row, sweep};
use super::gateway::{A, NAME, Stage, put, putting, refused};
use super::harness::Rig;

/// The same plan, but for how long a lease is.
fn another(plan: &Plan) -> Plan {
    let mut other = plan.clone();
    other.timing.lease = Span(Duration::from_secs(7));
    other
}

async fn open(rig: &Rig, name: &str, plan: &Plan) -> Result<Session> {
    let opening = Opening {
        kind: SessionKind::Gateway,
        name,
        plan_hash: "plan",
        plan,
        directory: rig.locks.path(),
        authority: None,
    };
    Session::open(rig.control.clone(), std::sync::Arc::new(rig.clock.clone()), opening).await
}

#[test]
fn what_writers_agree_on_is_told_by_key() {
    let plan = Rig::new().plan;
    let writers = Writers::of(&plan);
    assert_eq!(Writers::from_text(&writers.text()), Some(writers.clone()));
    // What decides nothing for writers.
    let mut same = plan.clone();
    same.source.background_share = 0.1;
    same.source.plan = migrate::plan::VercelPlan::Enterprise;
    same.gates.shadow_reads.min_reads = 7;
    same.validation.allow_empty = true;
    assert_eq!(Writers::of(&same).digest, writers.digest);
    let mut other = another(&plan);
    other.entities[0].blobs = "q/{id}.json".to_owned();
    other.source.prefix = "q/".to_owned();
    let keys = writers.differences(&Writers::of(&other));
    assert_eq!(keys, "`entity[0].blobs`, `source.prefix`, `timing.lease`");
    other.entities.clear();
    assert!(writers.differences(&Writers::of(&other)).starts_with("`entity`, "));
}

/// Of another plan, or of an earlier program that does not say: nothing is flipped, there or back, and it is named.
#[tokio::test]
async fn no_step_is_taken_while_a_process_runs_under_another_plan() {
    for writers in [None, Some(Writers::of(&another(&Rig::new().plan)).digest)] {
        let rig = ready().await;
        let other = SessionRow { writers, ..row(&rig, SessionState::Open) };
        rig.control.open_session(&other).await.unwrap();
        for target in [Phase::Cutover, Phase::Shadow] {
            let error = cutover(&rig, &rig.plan, "ada").flip(Some(target), false).await.unwrap_err();
            assert_eq!(error.kind(), ErrorKind::WrongPhase, "{error}");
            assert!(
                error.to_string().contains("under another plan than this one: load (backfill)"),
                "{error}"
            );
            assert!(error.advice().unwrap().contains("--without"), "{error:?}");
        }
        let seen = rig.control.mode().await.unwrap().unwrap();
        assert_eq!((seen.phase, seen.hold, seen.writers), (Phase::Canary, None, None));
        assert_eq!(flips(&rig).await, []);
        let over = SessionRow { state: SessionState::Clean, counter: 2, ..other };
        assert!(rig.control.update_session(&over, 1).await.unwrap());
        let flip = cutover(&rig, &rig.plan, "ada").flip(Some(Phase::Cutover), false).await.unwrap();
        assert_eq!(flip.mode.writers, Some(Writers::of(&rig.plan).digest));
    }
}

/// Also one that comes between the first look at the sessions and the hold.
#[tokio::test]
async fn a_process_under_another_plan_that_comes_before_the_hold_cancels_it() {
    let rig = ready().await;
    drop(rig.target.pause(Operation::Transact)); // the evidence of table-ready
    let mut before_hold = rig.target.pause(Operation::Transact);
    let newcomer = async {
        before_hold.arrived().await;
        let session = open(&rig, "late", &another(&rig.plan)).await.unwrap();
        before_hold.release();
        session
    };
    let flipping = cutover(&rig, &rig.plan, "ada");
    let (flipped, session) = futures::join!(flipping.flip(Some(Phase::Cutover), false), newcomer);
    let error = flipped.unwrap_err();
    assert!(error.to_string().contains("under another plan than this one: late (gateway)"), "{error}");
    let seen = rig.control.mode().await.unwrap().unwrap();
    assert_eq!((seen.phase, seen.hold, flips(&rig).await), (Phase::Canary, None, vec![]));
    session.close().await.unwrap();
}

/// Once DynamoDB is the authority, only who runs under the plan of the cutover may write, and is told why.
#[tokio::test]
async fn after_the_cutover_nobody_writes_under_another_plan() {
    let rig = ready().await;
    cutover(&rig, &rig.plan, "ada").flip(Some(Phase::Cutover), false).await.unwrap();
    open(&rig, "same", &rig.plan).await.unwrap().close().await.unwrap();
    let error = open(&rig, "other", &another(&rig.plan)).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Usage);
    assert!(error.to_string().contains(": `timing.lease`"), "{error}");
    assert!(error.advice().unwrap().contains("plan of the cutover"), "{error:?}");
    // Nor does its operator go back.
    let other = another(&rig.plan);
    sweep(&rig, Epoch(2)).await;
    let error = cutover(&rig, &other, "ada").flip(Some(Phase::Shadow), false).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Usage, "{error}");
    let open_ones = rig.control.sessions().await.unwrap();
    assert!(open_ones.iter().all(|row| row.state != SessionState::Open), "{open_ones:?}");
    // Back under its own plan, the next one may be another.
    let flip = cutover(&rig, &rig.plan, "ada").flip(Some(Phase::Shadow), false).await.unwrap();
    assert_eq!(flip.mode.writers, None);
    open(&rig, "other", &another(&rig.plan)).await.unwrap().close().await.unwrap();
}

/// A gateway that was cut off while its end was the operator's word: it finds the plan of somebody else's cutover.
#[tokio::test]
async fn a_gateway_stops_where_the_authority_changed_under_another_plan() {
    let stage = Stage::new();
    let gateway = stage.gateway("g").await;
    put(&gateway, NAME, A).await.unwrap();
    let seen = stage.rig.control.mode().await.unwrap().unwrap();
    let other = Writers::of(&another(&stage.plan));
    let cut = seen.stepped(Phase::Cutover, None, seen.since, "other");
    let to = Mode { writers: Some(other.digest), ..cut };
    assert!(stage.rig.control.flip_under(&seen, &to, None, Some(&other)).await.unwrap());
    stage.look().await;
    let error = refused(put(&gateway, NAME, A).await);
    assert_eq!(error.kind(), ErrorKind::WrongPhase, "{error}");
    let read = refused(gateway.head(&NAME.into()).await);
    assert!(matches!(read.kind(), ErrorKind::WrongPhase | ErrorKind::Busy), "{read}");
}

/// Nothing is made of nothing where something was: it would let Blob overwrite what only DynamoDB has.
#[tokio::test]
async fn a_mode_item_that_is_gone_is_not_made_anew() {
    let key = || Key::new("MODE", "MODE");
    let trace_of = async |what: &str| {
        let rig = Rig::new();
        match what {
            "a process has written" => drop(rig.control.open_session(&row(&rig, SessionState::Clean)).await),
            "blobs were mirrored" => {
                rig.put("r/1.json", "{}").await;
                rig.converge("r/1.json", Purpose::Reconcile).await.unwrap();
            }
            _ => {
                rig.control.ensure_mode(&mode(&rig, Phase::Shadow, 1)).await.unwrap();
                cutover(&rig, &rig.plan, "ada").flip(Some(Phase::Capture), false).await.unwrap();
                rig.remove(Table::Control, key()).await;
            }
        }
        rig
    };
    for what in ["it was flipped", "a process has written", "blobs were mirrored"] {
        let rig = trace_of(what).await;
        let opened = open(&rig, "g", &rig.plan).await.unwrap_err();
        let stood = cutover(&rig, &rig.plan, "ada").standing(None).await.unwrap_err();
        for error in [opened, stood] {
            assert_eq!(error.kind(), ErrorKind::WrongPhase, "{error}");
            assert!(error.to_string().contains(&format!("gone, though {what}")), "{error}");
            assert!(error.advice().unwrap().contains("status --audit=lines"), "{error:?}");
        }
        assert!(!rig.target.contents(Table::Control).contains_key(&key()), "{what}");
    }
}

/// A gateway that runs meanwhile goes by what it knows where Blob is right, and stops where DynamoDB is.
#[tokio::test]
async fn a_gateway_outlives_a_mode_item_only_where_blob_is_right() {
    let stage = Stage::new();
    let gateway = stage.gateway("g").await;
    stage.flip(Phase::Cutover).await;
    put(&gateway, NAME, A).await.unwrap();
    stage.rig.remove(Table::Control, Key::new("MODE", "MODE")).await;
    stage.look().await;
    let putting = putting(&gateway, NAME, A);
    // As long as a write waits at a closed door.
    stage.pass(Duration::from_secs(11)).await;
    let error = refused(putting.await.unwrap());
    assert!(matches!(error.kind(), ErrorKind::WrongPhase | ErrorKind::Busy), "{error}");
}
