//! The gateway over both stores in memory: what a write leaves behind, whatever goes wrong beside it.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use migrate::blob::faults::{Fault as BlobFault, Operation as Blob};
use migrate::blob::store::{Body, PutOptions};
use migrate::blob::{BlobStore as _, Fetcher, Head, Pathname};
use migrate::clock::Clock;
use migrate::converge::Converger;
use migrate::dual_write::gateway::{DualWrite, Parts};
use migrate::dual_write::metrics::Metrics;
use migrate::dual_write::mirroring::Mirroring;
use migrate::dual_write::replay::{Replay, ReplayReport};
use migrate::dual_write::session::{Opening, Session};
use migrate::plan::{MirrorMode, Plan};
use migrate::protocol::converge::Purpose;
use migrate::protocol::phase::Phase;
use migrate::sweep::{DriftKind, Level};
use migrate::target::control::{Hold, IntentRow, IntentState, SessionKind, SessionState, names};
use migrate::target::memory::{Fault, Operation};
use migrate::testing::ManualClock;
use migrate::{Error, ErrorKind, Result};
use tempfile::TempDir;
use tokio_util::sync::CancellationToken;

use super::harness::{PLAN, Rig, silent};

pub(super) const A: &str = r#"{"v": "A"}"#;
pub(super) const B: &str = r#"{"v": "B", "key": "b"}"#;
pub(super) const NAME: &str = "r/1.json";

/// Both stores, and gateways before them that share a clock which stands still.
pub(super) struct Stage {
    pub(super) rig: Arc<Rig>,
    pub(super) clock: ManualClock,
    locks: TempDir,
    pub(super) plan: Plan,
    /// Ends the watches.
    pub(super) end: CancellationToken,
}

impl Drop for Stage {
    fn drop(&mut self) {
        self.end.cancel();
    }
}

impl Stage {
    pub(super) fn new() -> Self {
        Self::with(PLAN)
    }

    pub(super) fn with(plan: &str) -> Self {
        let rig = Arc::new(Rig::with(plan));
        let plan: Plan = toml::from_str(plan).unwrap();
        let clock = ManualClock::at("2026-11-01T00:00:00Z");
        Self { rig, clock, locks: TempDir::new().unwrap(), plan, end: CancellationToken::new() }
    }

    pub(super) fn converger(&self) -> Converger {
        let fetcher = Fetcher { clock: Arc::new(self.clock.clone()), ..self.rig.converger.fetcher.clone() };
        Converger { fetcher, ..self.rig.converger.clone() }
    }

    pub(super) fn closed_gateway(&self) -> DualWrite {
        let parts = Parts {
            upstream: self.rig.source.clone(),
            converger: self.converger(),
            events: silent(),
            canonical: None,
            metrics: Metrics::default(),
        };
        DualWrite::new(parts, &self.plan)
    }

    pub(super) async fn session(&self, name: &str) -> Session {
        let opening = Opening {
            kind: SessionKind::Gateway,
            name,
            plan_hash: "plan",
            plan: &self.plan,
            directory: self.locks.path(),
            authority: None,
        };
        Session::open(self.rig.control.clone(), Arc::new(self.clock.clone()), opening).await.unwrap()
    }

    /// A gateway that watches the mode.
    pub(super) async fn gateway(&self, name: &str) -> DualWrite {
        let gateway = self.closed_gateway();
        gateway.open(self.session(name).await).await.unwrap();
        let (watching, timing, end) = (gateway.clone(), self.plan.timing.clone(), self.end.clone());
        tokio::spawn(async move { watching.watch(&timing, &end).await });
        gateway
    }

    /// Lets time pass, and waits for what it wakes.
    pub(super) async fn pass(&self, time: Duration) {
        calm().await;
        self.clock.advance(time);
        calm().await;
    }

    /// Lets the watch look at the mode.
    pub(super) async fn look(&self) {
        self.pass(self.plan.timing.mode_poll.0).await;
    }

    pub(super) async fn intents(&self) -> Vec<IntentRow> {
        self.rig.control.intents().await.unwrap()
    }

    /// Sets a hold, or takes it away.
    pub(super) async fn hold(&self, id: Option<&str>) {
        let seen = self.rig.control.mode().await.unwrap().unwrap();
        let hold = id.map(|id| Hold {
            id: id.to_owned(),
            target: Phase::Cutover,
            by: "ada".to_owned(),
            limit_ms: 20_000,
        });
        let to = migrate::target::control::Mode { hold, ..seen.clone() };
        assert!(self.rig.control.flip(&seen, &to, None).await.unwrap());
    }

    pub(super) async fn acknowledged(&self) -> Option<String> {
        let mut open = self.rig.control.sessions().await.unwrap();
        open.retain(|session| session.state == SessionState::Open);
        open.pop().and_then(|session| session.acknowledged)
    }

    /// Another process's replay.
    pub(super) fn replay(&self) -> Replay {
        Replay::new(&self.plan.timing)
    }

    /// A replay by the process that left a note, where there is one; else by one that left nothing.
    pub(super) async fn pass_of(&self, replay: &mut Replay) -> ReplayReport {
        let note = self.rig.control.notes().await.unwrap().pop();
        self.pass_as(&note.map_or_else(|| "another".to_owned(), |note| note.session), replay).await
    }

    /// A replay by the process that has this session.
    pub(super) async fn pass_as(&self, session: &str, replay: &mut Replay) -> ReplayReport {
        let mode = self.rig.control.mode().await.unwrap().unwrap();
        let (permit, authority) = (self.rig.permit.clone(), mode.phase.authority());
        let mirroring = Mirroring::from(authority, &self.converger(), permit, "");
        replay.pass(&mirroring, session, |_| false).await.unwrap()
    }
}

/// Lets everything run that can.
pub(super) async fn calm() {
    for _ in 0..200 {
        tokio::task::yield_now().await;
    }
}

pub(super) fn over() -> PutOptions {
    PutOptions { allow_overwrite: true, ..PutOptions::default() }
}

pub(super) async fn put(gateway: &DualWrite, name: &str, body: &'static str) -> Result<Head> {
    gateway.put(&name.into(), Bytes::from(body).into(), &over()).await
}

/// A put in the background.
pub(super) fn putting(
    gateway: &DualWrite,
    name: &str,
    body: &'static str,
) -> tokio::task::JoinHandle<Result<Head>> {
    let (gateway, name) = (gateway.clone(), name.to_owned());
    tokio::spawn(async move { put(&gateway, &name, body).await })
}

pub(super) fn refused<T>(result: Result<T>) -> Error {
    result.err().unwrap()
}

#[tokio::test]
async fn every_write_is_mirrored_and_leaves_no_intent() {
    for mirror in [MirrorMode::Async, MirrorMode::Strict] {
        let mut stage = Stage::new();
        stage.plan.capture.mirror = mirror;
        let gateway = stage.gateway("g").await;
        let (one, two) = (Pathname::from("r/1.json"), Pathname::from("r/2.json"));
        put(&gateway, "r/1.json", A).await.unwrap();
        gateway.copy(&one, &two, &over()).await.unwrap();
        gateway.rename(&two, &"p/3.json".into(), &over()).await.unwrap();
        put(&gateway, "r/4.json", B).await.unwrap();
        let suffix = PutOptions { add_random_suffix: true, ..PutOptions::default() };
        let suffixed = gateway.put(&"r/5.json".into(), Bytes::from(A).into(), &suffix).await.unwrap();
        assert!(suffixed.blob.pathname.as_str().starts_with("r/5-"), "{suffixed:?}");
        let upload = gateway.create_multipart(&"r/6.json".into(), &suffix).await.unwrap();
        let part = gateway.upload_part(&"r/6.json".into(), &upload, 1, Bytes::from(A).into()).await.unwrap();
        let whole = gateway.complete_multipart(&"r/6.json".into(), &upload, &[part], &suffix).await.unwrap();
        assert!(whole.blob.pathname.as_str().starts_with("r/6-"), "{whole:?}");
        put(&gateway, "r/7.json", A).await.unwrap();
        put(&gateway, "r/8.json", A).await.unwrap();
        let gone: Vec<Pathname> =
            ["r/7.json", "picture.png", "r/absent.json", "r/8.json"].map(Pathname::from).to_vec();
        gateway.delete(&gone, None).await.unwrap();
        if mirror == MirrorMode::Async {
            calm().await;
        }
        assert_eq!(stage.intents().await, [], "{mirror:?}");
        stage.rig.check_after(format_args!("{mirror:?}")).await;
        assert_eq!(stage.rig.anchors().await.len(), 5);
        gateway.close(Duration::ZERO).await.unwrap();
        assert!(gateway.ended_clean());
    }
}

#[tokio::test]
async fn what_the_plan_does_not_map_passes_without_a_trace() {
    let stage = Stage::new();
    let gateway = stage.gateway("g").await;
    let writes = stage.rig.target.calls(Operation::Transact);
    for name in ["picture.png", "other/1.txt", "r/broken-1.json"] {
        put(&gateway, name, A).await.unwrap();
    }
    gateway.copy(&"picture.png".into(), &"copy.png".into(), &over()).await.unwrap();
    gateway.delete(&["picture.png".into()], None).await.unwrap();
    stage.hold(Some("h")).await;
    stage.look().await;
    put(&gateway, "picture.png", B).await.expect("a hold is none of its business");
    assert_eq!(stage.rig.target.calls(Operation::Transact) - writes, 2, "the hold, and its acknowledgement");
    assert_eq!(gateway.counts().passed, 6);
}

/// A body is fetched from nowhere: the one that was put is mapped, and the blob is looked up once.
#[tokio::test]
async fn a_put_costs_one_look_at_the_source() {
    let stage = Stage::new();
    let gateway = stage.gateway("g").await;
    let calls = |operation| stage.rig.faults.calls(operation);
    let target = || Operation::Transact;
    let before = (calls(Blob::Head), calls(Blob::Get), stage.rig.target.calls(target()));
    put(&gateway, NAME, A).await.unwrap();
    calm().await;
    assert_eq!((calls(Blob::Head) - before.0, calls(Blob::Get) - before.1), (1, 0));
    // The intent, the items with their anchor, and the end of the intent.
    assert_eq!(stage.rig.target.calls(target()) - before.2, 3);
    stage.rig.check().await;
}

#[tokio::test]
async fn a_refusal_is_passed_on_and_leaves_no_intent() {
    let stage = Stage::new();
    let gateway = stage.gateway("g").await;
    put(&gateway, NAME, A).await.unwrap();
    let taken = gateway.put(&NAME.into(), Bytes::from(B).into(), &PutOptions::default()).await;
    assert_eq!(refused(taken).kind(), ErrorKind::AlreadyExists);
    let absent = gateway.copy(&"r/absent.json".into(), &"r/2.json".into(), &over()).await;
    assert_eq!(refused(absent).kind(), ErrorKind::NotFound);
    calm().await;
    assert_eq!(stage.intents().await, []);
    stage.rig.check().await;
}

/// Trace A1: looking does not resolve an unanswered write.
#[tokio::test]
async fn an_unanswered_write_stays_in_doubt_until_it_can_land_no_more() {
    let stage = Stage::new();
    let gateway = stage.gateway("g").await;
    put(&gateway, NAME, A).await.unwrap();
    calm().await;
    stage.rig.faults.fault(Blob::Put, BlobFault::Held);
    assert_eq!(refused(put(&gateway, NAME, B).await).kind(), ErrorKind::OutcomeUnknown);
    calm().await;
    let left = stage.intents().await;
    assert_eq!((left.len(), left[0].state), (1, IntentState::GaveUp));

    let mut replay = stage.replay();
    assert_eq!(stage.pass_of(&mut replay).await, ReplayReport { in_doubt: 1, ..ReplayReport::default() });
    stage.pass(stage.plan.timing.late_write_max.0 - Duration::from_secs(1)).await;
    assert_eq!(stage.pass_of(&mut replay).await.cleared, 0, "it may land yet");
    stage.rig.faults.release_held().await;
    stage.pass(Duration::from_secs(1)).await;
    assert_eq!(stage.pass_of(&mut replay).await, ReplayReport { cleared: 1, ..ReplayReport::default() });
    assert_eq!(stage.intents().await, []);
    stage.rig.check().await;
}

/// Trace A1, its second sentence: the same when another process finds the intent of a dead one.
#[tokio::test]
async fn the_intent_of_a_dead_gateway_is_converged_at_once_and_cleared_after_the_wait() {
    let stage = Stage::new();
    let gateway = stage.gateway("g").await;
    stage.rig.faults.fault(Blob::Put, BlobFault::Held);
    refused(put(&gateway, NAME, A).await);
    calm().await;
    // As a kill leaves it: the operation never said that it gave up.
    let left = stage.intents().await.remove(0);
    let open = IntentRow { state: IntentState::Open, ..left.clone() };
    assert!(stage.rig.control.touch_intent(&open, &left.version).await.unwrap());

    let mut replay = stage.replay();
    let at_work = ReplayReport { at_work: 1, ..ReplayReport::default() };
    assert_eq!(stage.pass_of(&mut replay).await, at_work, "its session is open");
    // Time that passes while it lives does not count.
    for _ in 0..8 {
        stage.pass(Duration::from_secs(2)).await;
        assert_eq!(stage.pass_of(&mut replay).await, at_work);
    }
    stage.rig.target.outage(Some(ErrorKind::NotApplied));
    stage.pass(Duration::from_secs(20)).await;
    stage.rig.target.outage(None);
    drop(gateway);
    assert_eq!(stage.pass_of(&mut replay).await.in_doubt, 1, "its lease ran out by this clock");
    stage.rig.faults.release_held().await;
    stage.pass(stage.plan.timing.late_write_max.0).await;
    assert_eq!(stage.pass_of(&mut replay).await.cleared, 1);
    stage.rig.check().await;
}

/// A session whose row is gone is at work on nothing: what it left is not waited for.
#[tokio::test]
async fn the_intent_of_a_session_that_is_gone_is_in_doubt() {
    let stage = Stage::new();
    let gateway = stage.gateway("g").await;
    let now = Clock::now(&stage.rig.clock);
    let left = IntentRow::new("gone", now, IntentState::Open, vec![NAME.into()], None);
    stage.rig.control.store_intent(&left).await.unwrap();
    let mut replay = stage.replay();
    assert_eq!(stage.pass_of(&mut replay).await, ReplayReport { in_doubt: 1, ..ReplayReport::default() });
    stage.pass(stage.plan.timing.late_write_max.0).await;
    assert_eq!(stage.pass_of(&mut replay).await.cleared, 1);
    drop(gateway);
}

/// Traces A2 and A3: what one gateway clears is its own intent, never the one that another relies on.
#[tokio::test]
async fn two_gateways_on_one_pathname_have_an_intent_each() {
    let stage = Stage::new();
    let (first, second) = (stage.gateway("g1").await, stage.gateway("g2").await);
    let mut sent = stage.rig.faults.pause(Blob::Put);
    let late = putting(&second, NAME, B);
    sent.arrived().await;
    put(&first, NAME, A).await.unwrap();
    calm().await;
    assert_eq!(stage.intents().await.len(), 1, "the first one cleared its own");
    sent.release();
    // The second one dies before it converges.
    stage.rig.target.fault(Operation::Get, Fault::Refused(ErrorKind::NotApplied));
    late.await.unwrap().unwrap();
    calm().await;
    assert_eq!(stage.intents().await.len(), 1);
    let mut replay = stage.replay();
    stage.pass_of(&mut replay).await;
    stage.rig.check().await;
}

/// Traces A4 to A8 with the gateway as the quick one: a slow sweeper's transaction lands after it.
#[tokio::test]
async fn a_slow_sweeper_never_undoes_what_went_through_the_gateway() {
    for (before, after) in [(None, A), (Some(A), A), (Some(B), A), (Some(A), "")] {
        for purpose in [Purpose::Reconcile, Purpose::Repair] {
            let stage = Stage::new();
            let gateway = stage.gateway("g").await;
            if let Some(before) = before {
                stage.rig.put(NAME, before).await;
            }
            stage.rig.target.fault(Operation::Transact, Fault::Held);
            drop(stage.rig.target.pause(Operation::Get));
            let mut second_look = stage.rig.target.pause(Operation::Get);
            let rig = stage.rig.clone();
            let mut sweeper = tokio::spawn(async move { rig.converge(NAME, purpose).await });
            tokio::select! {
                biased;
                () = second_look.arrived() => {}
                done = &mut sweeper => {
                    done.unwrap().unwrap();
                    stage.rig.target.clear_faults();
                }
            }
            sweeper.abort();
            drop(second_look);
            match after {
                "" => gateway.delete(&[NAME.into()], None).await.unwrap(),
                after => drop(put(&gateway, NAME, after).await.unwrap()),
            }
            calm().await;
            assert_eq!(stage.intents().await, []);
            let landed = stage.rig.target.release_held();
            stage.rig.check_after(format_args!("{before:?} {after:?} {purpose:?}: {landed:?}")).await;
        }
    }
}

#[tokio::test]
async fn writes_to_one_pathname_reach_the_store_in_their_order() {
    let stage = Stage::new();
    let gateway = stage.gateway("g").await;
    let puts = || stage.rig.faults.calls(Blob::Put);
    let before = puts();
    let mut first = stage.rig.faults.pause(Blob::Put);
    let one = putting(&gateway, NAME, A);
    first.arrived().await;
    let two = putting(&gateway, NAME, B);
    put(&gateway, "r/2.json", A).await.expect("another pathname waits for nobody");
    calm().await;
    assert_eq!(puts() - before, 2, "the second write of the pathname waits");
    first.release();
    one.await.unwrap().unwrap();
    let last = two.await.unwrap().unwrap();
    let head = gateway.head(&NAME.into()).await.unwrap().unwrap();
    assert_eq!(head.blob.etag, last.blob.etag);
}

/// A client that goes away in the middle changes nothing: the write comes to its end.
#[tokio::test]
async fn a_write_is_finished_without_its_client() {
    let stage = Stage::new();
    let gateway = stage.gateway("g").await;
    let mut sent = stage.rig.faults.pause(Blob::Put);
    let client = putting(&gateway, NAME, A);
    sent.arrived().await;
    client.abort();
    client.await.unwrap_err();
    sent.release();
    calm().await;
    assert_eq!(stage.intents().await, []);
    stage.rig.check().await;
}

#[tokio::test]
async fn a_body_that_breaks_off_never_becomes_a_write() {
    let stage = Stage::new();
    let gateway = stage.gateway("g").await;
    let torn = Body::stream(Some(10), Box::pin(futures::stream::iter([Ok(Bytes::from("12345"))])));
    assert_eq!(refused(gateway.put(&NAME.into(), torn, &over()).await).kind(), ErrorKind::NotApplied);
    assert_eq!((stage.rig.faults.calls(Blob::Put), stage.intents().await.len()), (0, 0));
}

/// A write between its reply and its converge is no drift, however long that takes; what nobody noted is.
#[tokio::test]
async fn a_sweep_tells_what_is_under_way_from_what_went_past() {
    let stage = Stage::new();
    let gateway = stage.gateway("g").await;
    put(&gateway, "r/0.json", A).await.unwrap();
    calm().await;
    let mut converging = stage.rig.target.pause(Operation::Get);
    let writing = putting(&gateway, NAME, A);
    converging.arrived().await;
    writing.await.unwrap().unwrap();
    for _ in 0..5 {
        stage.rig.clock.advance(Duration::from_secs(2));
        stage.pass(Duration::from_secs(2)).await;
    }
    stage.rig.put("r/past.json", B).await;
    // All shards of the anchors are queried, then those of the intents.
    let queries = || stage.rig.target.calls(Operation::Query);
    let looked = queries() + 2 * u64::from(names::SHARDS) + 1;
    let release = async {
        while queries() < looked {
            tokio::task::yield_now().await;
        }
        converging.release();
    };
    let (report, ()) = tokio::join!(stage.rig.sweep(Level::Content, true), release);
    let drifted: Vec<_> = report.drift.iter().map(|drift| drift.pathname.as_str()).collect();
    assert_eq!(drifted, ["r/past.json"]);
    let past: Vec<_> = report.bypassed.iter().map(|bypass| bypass.pathname.as_str()).collect();
    assert_eq!(past, ["r/past.json"]);
    calm().await;
    stage.rig.check().await;
}

/// A key that is being written each time it is looked at is not verified: nothing about it can be told, or settled.
#[tokio::test]
async fn a_sweep_tells_nothing_of_a_key_that_never_holds_still() {
    let stage = Stage::new();
    let gateway = stage.gateway("g").await;
    put(&gateway, NAME, A).await.unwrap();
    calm().await;
    stage.rig.put(NAME, B).await;
    let session = stage.rig.control.sessions().await.unwrap().remove(0).id;
    let now = Clock::now(&stage.rig.clock);
    let writing = IntentRow::new(&session, now, IntentState::Open, vec![NAME.into()], None);
    stage.rig.control.store_intent(&writing).await.unwrap();
    let kinds = async || {
        let report = stage.rig.sweep(Level::Content, false).await;
        assert!(report.bypassed.is_empty());
        report.drift.iter().map(|drift| drift.kind).collect::<Vec<_>>()
    };
    assert_eq!(kinds().await, [DriftKind::Unverified]);
    assert!(stage.rig.control.clear_intent(&writing).await.unwrap());
    let report = stage.rig.sweep(Level::Content, false).await;
    assert_eq!(report.drift.iter().map(|drift| drift.kind).collect::<Vec<_>>(), [DriftKind::Stale]);
}

/// What was stored before the gateway began can be deleted past it: a sweep in between saw it.
#[tokio::test]
async fn a_deletion_past_the_gateway_is_told_once_a_sweep_saw_the_blob() {
    let stage = Stage::new();
    stage.rig.put("r/old.json", A).await;
    stage.rig.clock.advance(Duration::from_secs(60));
    let gateway = stage.gateway("g").await;
    stage.rig.backfill().await;
    let sweep = async || {
        stage.rig.clock.advance(Duration::from_secs(10));
        stage.pass(Duration::from_secs(10)).await;
        let report = stage.rig.sweep(Level::Inventory, true).await;
        let row = report.row(names::token(), "plan", migrate::protocol::phase::Epoch(1));
        stage.rig.control.put_sweep(&row).await.unwrap();
        report.bypassed.into_iter().map(|bypass| (bypass.pathname.to_string(), bypass.at)).collect::<Vec<_>>()
    };
    assert_eq!(sweep().await, []);
    stage.rig.delete("r/old.json").await;
    assert_eq!(sweep().await, [("r/old.json".to_owned(), None)]);
    assert_eq!(sweep().await, [], "it is told once");
    gateway.close(Duration::ZERO).await.unwrap();
    stage.rig.check().await;
}
