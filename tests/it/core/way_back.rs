//! The way back: what the mirror leaves half done, what lands late, and whom that concerns.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use migrate::blob::faults::{Fault as BlobFault, Operation as Blob};
use migrate::blob::{BlobStore as _, Pathname};
use migrate::clock::Clock as _;
use migrate::cutover::{Cutover, Flip};
use migrate::dual_write::gateway::DualWrite;
use migrate::dual_write::replay::Replay;
use migrate::event::{Event, Reporter};
use migrate::protocol::phase::Phase;
use migrate::sweep::DriftKind;
use migrate::target::control::{SessionKind, SessionRow, SessionState, names};
use migrate::target::memory::{Fault, Operation};
use migrate::{ErrorKind, Result};

use super::gateway::{A, B, NAME, Stage, calm, over, put, putting, refused};
use super::reverse::{C, read};

/// A plan with blobs of many items.
pub(super) const LISTS: &str = r#"
[[entity]]
name = "list"
blobs = "l/{id}.json"
[[entity.item]]
each = "[*]"
body = "none"
PK = "L#{{ id }}"
SK = "{{ record }}"
"#;

impl Stage {
    /// Replays by every process that left something, again once nothing of it can land any more.
    async fn replays(&self) {
        let mut replays: BTreeMap<String, Replay> = BTreeMap::new();
        for pause in [Duration::ZERO, self.plan.timing.late_write_max.0] {
            self.pass(pause).await;
            for row in self.rig.control.sessions().await.unwrap() {
                let replay = replays.entry(row.id.clone()).or_insert_with(|| self.replay());
                tokio::select! {
                    _ = self.pass_as(&row.id, replay) => {}
                    () = async { loop { self.moments().await } } => unreachable!(),
                }
            }
        }
    }

    /// What a comparison takes for somebody else's.
    async fn foreign(&self) -> Vec<Pathname> {
        let drift = self.back_sweep(false).await.drift;
        let foreign = drift.into_iter().filter(|drift| drift.kind == DriftKind::Foreign);
        foreign.map(|drift| drift.pathname).collect()
    }
}

pub(super) fn records(from: u32) -> String {
    let records: Vec<String> = (from..from + 150).map(|record| format!("\"{record:04}\"")).collect();
    format!("[{}]", records.join(","))
}

const FROM: &str = "r/from.json";
const LIST: &str = "l/1.json";
/// Of each, what is left is another name or another kind of anchor.
const OPERATIONS: [&str; 7] = ["put", "create", "copy", "rename", "delete", "large put", "large delete"];
/// The most transactions that one of them takes.
const CUTS: usize = 9;

/// An operation whose gateway is cut off from DynamoDB after so many transactions, and gone then; and the name of the blob.
async fn cut_off(operation: &str, cut: usize) -> (Stage, &'static str) {
    let stage = Stage::with(&(super::harness::PLAN.to_owned() + LISTS));
    let gateway = stage.gateway("g").await;
    put(&gateway, NAME, A).await.unwrap();
    put(&gateway, FROM, C).await.unwrap();
    gateway.put(&LIST.into(), Bytes::from(records(0)).into(), &over()).await.unwrap();
    stage.rig.begin_session().await;
    stage.flip(Phase::Cutover).await;
    stage.rig.target.spare(Operation::Transact, cut);
    for _ in 0..60 {
        stage.rig.target.fault(Operation::Transact, Fault::Refused(ErrorKind::NotApplied));
    }
    let name = match operation {
        "create" => "r/new.json",
        "large put" | "large delete" => LIST,
        _ => NAME,
    };
    let (at, from) = (Pathname::from(name), Pathname::from(FROM));
    match operation {
        "put" | "create" => drop(put(&gateway, name, B).await),
        "copy" => drop(gateway.copy(&from, &at, &over()).await),
        "rename" => drop(gateway.rename(&from, &at, &over()).await),
        "large put" => drop(gateway.put(&at, Bytes::from(records(100)).into(), &over()).await),
        _ => drop(gateway.delete(std::slice::from_ref(&at), None).await),
    }
    stage.moments().await;
    drop(gateway);
    stage.rig.target.clear_faults();
    assert_eq!(stage.foreign().await, [], "{operation}, cut after {cut}");
    (stage, name)
}

/// Trace C1: whatever a gateway left in Blob by then, the next one that writes the blob knows as its own.
#[tokio::test]
async fn what_a_mirror_leaves_half_done_is_known_as_ours() {
    for operation in OPERATIONS {
        for cut in 1..=CUTS {
            let (stage, name) = cut_off(operation, cut).await;
            let second = stage.gateway("g2").await;
            let body = if name == LIST { records(50) } else { A.to_owned() };
            second.put(&name.into(), Bytes::from(body.clone()).into(), &over()).await.unwrap();
            stage.moments().await;
            stage.replays().await;
            assert_eq!(stage.foreign().await, [], "{operation}, cut after {cut}");
            assert_eq!(stage.in_blob(name).await, Some(body), "{operation}, cut after {cut}");
            stage.settled().await;
        }
    }
}

/// Trace V2: so does whoever brings it to its end.
#[tokio::test]
async fn what_a_mirror_leaves_half_done_is_brought_to_its_end() {
    for operation in OPERATIONS {
        for cut in 1..=CUTS {
            let (stage, name) = cut_off(operation, cut).await;
            stage.replays().await;
            assert_eq!(stage.foreign().await, [], "{operation}, cut after {cut}");
            let second = stage.gateway("g2").await;
            let held = read(&second, name).await;
            assert_eq!(stage.in_blob(name).await, held, "{operation}, cut after {cut}");
            stage.settled().await;
        }
    }
}

/// Trace C1, with a head that fails in place of a kill.
#[tokio::test]
async fn a_head_that_fails_makes_nothing_foreign() {
    for fails in 0..4 {
        let (stage, gateway) = Stage::flipped().await;
        put(&gateway, "r/from.json", A).await.unwrap();
        stage.moments().await;
        for _ in 0..fails {
            stage.rig.faults.fault(Blob::Head, BlobFault::Slow(Duration::ZERO));
        }
        stage.rig.faults.fault(Blob::Head, BlobFault::Refused(ErrorKind::NotApplied));
        gateway.copy(&"r/from.json".into(), &NAME.into(), &over()).await.unwrap();
        stage.moments().await;
        put(&gateway, NAME, C).await.unwrap();
        stage.moments().await;
        stage.replays().await;
        assert_eq!(stage.foreign().await, []);
        assert_eq!(stage.in_blob(NAME).await.as_deref(), Some(C));
        stage.settled().await;
    }
}

/// Traces C2 and C9: whoever sleeps anywhere before it sends, and wakes when its session is over, sends nothing.
#[tokio::test]
async fn a_gateway_that_slept_past_its_lease_sends_nothing() {
    let (stage, _) = Stage::flipped().await;
    // Its watch sleeps as well: nothing but the permit keeps it from sending.
    let gateway = stage.closed_gateway();
    gateway.open(stage.session("asleep").await).await.unwrap();
    let sent = stage.rig.faults.calls(Blob::Put);
    // Intent, write, then the note.
    stage.rig.target.spare(Operation::Transact, 2);
    let mut asleep = stage.rig.target.pause(Operation::Transact);
    let writing = putting(&gateway, NAME, B);
    asleep.arrived().await;
    stage.clock.advance(stage.plan.timing.lease.0 * 2);
    asleep.release();
    writing.await.unwrap().ok();
    stage.moments().await;
    assert_eq!(stage.rig.faults.calls(Blob::Put), sent, "it was sent");
    assert_eq!(stage.in_blob(NAME).await.as_deref(), Some(A));
}

/// A put that Blob does not answer, over a blob that holds again what it expects.
async fn unanswered(stage: &Stage, gateway: &DualWrite) {
    stage.rig.faults.fault(Blob::Put, BlobFault::Held);
    put(gateway, NAME, B).await.unwrap();
    stage.moments().await;
    // The content that the put expects is written again: Blob is equal, and could be overwritten.
    put(gateway, NAME, A).await.unwrap();
    stage.moments().await;
}

/// Traces C13 to C15: after the way back nobody brings a blob back to what a request without an answer expects. The rest
/// flows, and so does this once the request can't land any more.
#[tokio::test]
async fn after_the_way_back_a_write_is_held_back_that_could_be_undone() {
    let (stage, gateway) = Stage::flipped().await;
    unanswered(&stage, &gateway).await;
    put(&gateway, NAME, C).await.unwrap();
    put(&gateway, "r/from.json", A).await.unwrap();
    stage.moments().await;
    stage.flip(Phase::Shadow).await;
    let name = Pathname::from(NAME);
    let error = refused(put(&gateway, NAME, A).await);
    assert_eq!(error.kind(), ErrorKind::Busy, "{error}");
    assert!(error.to_string().contains("try again in"), "{error}");
    let copied = gateway.copy(&"r/from.json".into(), &name, &over()).await;
    assert_eq!(refused(copied).kind(), ErrorKind::Busy, "nobody knows what a copy brings");
    let moved = gateway.rename(&"r/from.json".into(), &name, &over()).await;
    assert_eq!(refused(moved).kind(), ErrorKind::Busy);
    assert_eq!(gateway.counts().held_back, 3);
    // What it does not expect, of this blob and of others.
    put(&gateway, NAME, B).await.unwrap();
    gateway.delete(std::slice::from_ref(&name), None).await.unwrap();
    put(&gateway, NAME, C).await.unwrap();
    put(&gateway, "r/2.json", A).await.unwrap();
    // A newcomer knows of it too, before its first write.
    let second = stage.gateway("g2").await;
    assert_eq!(refused(put(&second, NAME, A).await).kind(), ErrorKind::Busy);
    stage.rig.faults.release_held().await;
    assert_eq!(stage.in_blob(NAME).await.as_deref(), Some(C), "it landed, and was refused by Blob");
    stage.pass(stage.plan.timing.late_write_max.0).await;
    put(&gateway, NAME, A).await.unwrap();
    put(&second, NAME, A).await.unwrap();
    assert_eq!(gateway.counts().held_back, 3);
}

/// The same where Blob held nothing: what brings that back is a deletion.
#[tokio::test]
async fn after_the_way_back_a_deletion_is_held_back_that_could_be_undone() {
    let (stage, gateway) = Stage::flipped().await;
    stage.rig.faults.fault(Blob::Put, BlobFault::Held);
    put(&gateway, "r/new.json", B).await.unwrap();
    stage.moments().await;
    put(&gateway, "r/new.json", C).await.unwrap();
    stage.moments().await;
    stage.flip(Phase::Shadow).await;
    let name = Pathname::from("r/new.json");
    let error = refused(gateway.delete(std::slice::from_ref(&name), None).await);
    assert_eq!(error.kind(), ErrorKind::Busy, "{error}");
    let moved = refused(gateway.rename(&name, &"r/3.json".into(), &over()).await);
    assert_eq!(moved.kind(), ErrorKind::Busy, "{moved}");
    put(&gateway, "r/new.json", A).await.unwrap();
}

/// Trace C16: the note outlives the step to DynamoDB, and counts on the second way back.
#[tokio::test]
async fn a_note_outlives_flips() {
    let (stage, gateway) = Stage::flipped().await;
    unanswered(&stage, &gateway).await;
    put(&gateway, NAME, C).await.unwrap();
    stage.moments().await;
    stage.flip(Phase::Shadow).await;
    stage.moments().await;
    stage.flip(Phase::Cutover).await;
    assert_eq!(stage.rig.control.notes().await.unwrap().len(), 1, "the one without an answer");
    put(&gateway, NAME, A).await.unwrap();
    stage.moments().await;
    stage.rig.faults.release_held().await;
    assert_eq!(stage.in_blob(NAME).await.as_deref(), Some(B), "it landed");
    stage.replays().await;
    assert_eq!(stage.in_blob(NAME).await.as_deref(), Some(A), "and was known as ours");
    stage.settled().await;
}

/// What an operator is told.
#[derive(Clone, Default)]
struct Told(Arc<Mutex<Vec<String>>>);

impl Reporter for Told {
    fn report(&self, event: Event) {
        if let Event::Note(text) = event {
            self.0.lock().unwrap().push(text);
        }
    }
}

async fn back(stage: &Stage, told: &Told, session: Option<&str>) -> Result<Flip> {
    for row in stage.rig.control.sessions().await.unwrap() {
        if row.kind == SessionKind::Repair {
            let (seen, state) = (row.counter, SessionState::Clean);
            stage.rig.control.update_session(&SessionRow { state, ..row }, seen).await.unwrap();
        }
    }
    let converger = stage.converger();
    let cutover = Cutover {
        converger: &converger,
        events: Arc::new(told.clone()),
        plan: &stage.plan,
        plan_hash: "plan",
        who: "ada".to_owned(),
        name: "cutover".to_owned(),
        directory: stage.rig.locks.path(),
    };
    // What a gateway does beside its writes, where one runs.
    let mut replay = stage.replay();
    let running = async {
        loop {
            stage.moments().await;
            if let Some(session) = session {
                stage.pass_as(session, &mut replay).await;
            }
        }
    };
    tokio::select! {
        flip = cutover.flip(Some(Phase::Shadow), false) => flip,
        () = running => unreachable!(),
    }
}

/// One clean sweep since the cutover.
async fn proven(stage: &Stage) {
    let report = stage.back_sweep(false).await;
    let mode = stage.rig.control.mode().await.unwrap().unwrap();
    let row = report.row(names::token(), "plan", mode.epoch);
    stage.rig.control.put_sweep(&row).await.unwrap();
    calm().await;
}

/// Traces B14 and C7, and what it costs: only a key that a request without an answer could undo is waited for, for as long
/// as that can land, and named; nothing else is, though many keys were mirrored a moment ago. Also where no gateway is
/// left.
#[tokio::test]
async fn only_a_key_that_could_be_undone_holds_up_the_way_back() {
    for (doubtful, runs) in [(false, true), (true, true), (true, false)] {
        let (stage, gateway) = Stage::flipped().await;
        proven(&stage).await;
        for n in 0..50 {
            put(&gateway, &format!("r/many-{n}.json"), A).await.unwrap();
        }
        stage.moments().await;
        unanswered(&stage, &gateway).await;
        if !doubtful {
            put(&gateway, NAME, C).await.unwrap();
        }
        let holds = read(&gateway, NAME).await;
        let session = stage.rig.control.notes().await.unwrap().pop().map(|note| note.session);
        if !runs {
            // Its session says by then that it saw the cutover.
            stage.pass(stage.plan.timing.renew.0).await;
            stage.moments().await;
            drop(gateway);
            stage.end.cancel();
            calm().await;
        }
        let began = stage.clock.monotonic();
        let told = Told::default();
        let flip = back(&stage, &told, session.as_deref().filter(|_| runs)).await.unwrap();
        let took = stage.clock.monotonic().saturating_sub(began);
        assert_eq!(flip.to, Phase::Shadow);
        let told = told.0.lock().unwrap().join("\n");
        let waits = format!("a request to Blob without an answer may still change {NAME}: writes go on");
        assert_eq!(told.contains(&waits), doubtful, "{told}");
        let window = stage.plan.timing.mirror_late_max.0;
        assert_eq!(took >= window, doubtful, "{took:?}");
        assert!(took < window + stage.plan.timing.lease.0 * 4, "{took:?}");
        assert!(flip.pause_ms < 1_000, "{flip:?}");
        if !doubtful {
            stage.rig.faults.release_held().await;
            assert_eq!(stage.in_blob(NAME).await, holds, "what lands now undoes nothing");
        }
    }
}
