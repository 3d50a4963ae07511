//! Sweeps once DynamoDB is the authority: items against their anchors, Blob against them, and what is foreign.

use std::path::Path;

use bytes::Bytes;
use migrate::anchored::Anchored;
use migrate::blob::faults::{Fault as BlobFault, Operation as Blob};
use migrate::blob::store::PutOptions;
use migrate::blob::{BlobStore as _, Pathname};
use migrate::converge::LONG_BODY_BYTES_MAX;
use migrate::protocol::converge::Purpose;
use migrate::protocol::phase::Phase;
use migrate::sweep::{BackSweep, DriftKind, Level, Sweep, SweepReport};
use migrate::value::Value;
use migrate::{ErrorKind, Result};
use tokio_util::sync::CancellationToken;

use super::gateway::{A, B, NAME, Stage, put};
use super::harness::silent;
use super::reverse::{C, read};

impl Stage {
    pub(super) async fn back_sweep(&self, repair: bool) -> SweepReport {
        let converger = self.rig.converger.clone();
        let sweep = Sweep { converger: &converger, ..self.rig.sweeper(Level::Content, repair) };
        let sweep = BackSweep { sweep, session: "sweeper" };
        sweep.run(&silent(), &CancellationToken::new()).await.unwrap()
    }

    pub(super) fn anchored(&self) -> Anchored {
        Anchored::new(self.rig.converger.clone(), "")
    }

    async fn discard(&self, name: &str, directory: &Path) -> Result<Vec<u8>> {
        let file = self.anchored().discard(&name.into(), directory).await?;
        Ok(std::fs::read(file).unwrap())
    }
}

pub(super) fn kinds(report: &SweepReport) -> Vec<(DriftKind, &str)> {
    let mut kinds: Vec<_> = report.drift.iter().map(|drift| (drift.kind, drift.pathname.as_str())).collect();
    kinds.sort_unstable();
    kinds
}

#[tokio::test]
async fn equal_stores_are_found_equal_with_everything_covered() {
    let (stage, gateway) = Stage::flipped().await;
    for n in 0..5 {
        put(&gateway, &format!("r/{n}-new.json"), A).await.ok();
        put(&gateway, &format!("p/{n}.json"), C).await.unwrap();
    }
    put(&gateway, "picture.png", "bytes").await.unwrap();
    gateway.delete(&["p/1.json".into()], None).await.unwrap();
    stage.settled().await;
    let report = stage.back_sweep(false).await;
    assert_eq!(report.obstacles(), Vec::<String>::new());
    let mirror = report.mirror.unwrap();
    let held = stage.rig.anchors().await.len() as u64;
    assert_eq!([mirror.listed, mirror.compared, mirror.anchored, mirror.anchors_compared], [held; 4]);
    assert_eq!((report.compared, report.ignored), (held, 1));
    assert!(report.planted > 16, "both halves plant: {}", report.planted);
}

#[tokio::test]
async fn what_blob_lacks_or_has_too_much_is_found_and_settled() {
    let (stage, gateway) = Stage::flipped().await;
    // As a mirror put that never came.
    for (name, body) in [("p/stale.json", A), ("p/extra.json", A), ("p/missing.json", A), ("p/lost.json", A)]
    {
        put(&gateway, name, body).await.unwrap();
    }
    stage.settled().await;
    let control = &stage.rig.control;
    for _ in 0..64 {
        stage.rig.faults.fault(Blob::Put, BlobFault::Refused(ErrorKind::NotApplied));
        stage.rig.faults.fault(Blob::Delete, BlobFault::Refused(ErrorKind::NotApplied));
    }
    put(&gateway, "p/stale.json", C).await.unwrap();
    gateway.delete(&["p/extra.json".into()], None).await.unwrap();
    put(&gateway, "p/missing2.json", C).await.unwrap();
    stage.moments().await;
    for intent in stage.intents().await {
        assert!(control.clear_intent(&intent).await.unwrap());
    }
    stage.rig.faults.clear_faults();
    stage.rig.source.delete(&["p/lost.json".into()], None).await.unwrap();
    let expected = [
        (DriftKind::Missing, "p/lost.json"),
        (DriftKind::Missing, "p/missing2.json"),
        (DriftKind::Extra, "p/extra.json"),
        (DriftKind::Stale, "p/stale.json"),
    ];
    assert_eq!(kinds(&stage.back_sweep(false).await), expected);
    let repaired = stage.back_sweep(true).await;
    assert_eq!(kinds(&repaired), expected);
    assert_eq!(repaired.present_drift(), []);
    assert_eq!(stage.back_sweep(false).await.obstacles(), Vec::<String>::new());
    stage.settled().await;
}

/// Items are made anew from what DynamoDB retains, and what Blob holds is not asked.
#[tokio::test]
async fn a_damaged_item_is_found_and_made_anew() {
    let (stage, gateway) = Stage::flipped().await;
    put(&gateway, NAME, B).await.unwrap();
    stage.settled().await;
    let before = stage.rig.anchor(NAME).await.unwrap();
    let mut item = stage.rig.item("R#b", "META").unwrap();
    item.insert("v".to_owned(), Value::s("damaged"));
    stage.rig.plant(item).await;
    stage.rig.faults.set_outage(None);
    assert_eq!(kinds(&stage.back_sweep(false).await), [(DriftKind::Different, NAME)]);
    assert_eq!(stage.back_sweep(true).await.present_drift(), []);
    let after = stage.rig.anchor(NAME).await.unwrap();
    assert_eq!(after.head, before.head, "the version is what it was");
    assert_eq!(stage.back_sweep(false).await.obstacles(), Vec::<String>::new());
    stage.settled().await;
}

#[tokio::test]
async fn what_is_foreign_is_kept_until_it_is_adopted_or_discarded() {
    let (stage, gateway) = Stage::flipped().await;
    put(&gateway, "p/1.json", A).await.unwrap();
    put(&gateway, "p/2.json", A).await.unwrap();
    stage.settled().await;
    for name in [NAME, "p/1.json", "p/2.json", "p/new.json", "p/old.json"] {
        stage.rig.put(name, C).await;
    }
    put(&gateway, "p/1.json", B).await.unwrap();
    stage.moments().await;
    let foreign: Vec<_> = ["p/1.json", "p/2.json", "p/new.json", "p/old.json", NAME]
        .map(|name| (DriftKind::Foreign, name))
        .to_vec();
    let report = stage.back_sweep(true).await;
    assert_eq!(kinds(&report), foreign, "a repair leaves it alone");
    assert_eq!(report.present_drift().len(), 5);

    let directory = tempfile::tempdir().unwrap();
    for name in [NAME, "p/new.json"] {
        stage.adopt(name, directory.path()).await.unwrap();
        assert_eq!(read(&gateway, name).await.as_deref(), Some(C));
    }
    for name in ["p/1.json", "p/2.json", "p/old.json"] {
        assert_eq!(stage.discard(name, directory.path()).await.unwrap(), C.as_bytes(), "{name}");
    }
    assert_eq!(stage.in_blob("p/1.json").await.as_deref(), Some(B));
    assert_eq!(stage.in_blob("p/2.json").await.as_deref(), Some(A));
    assert_eq!(stage.in_blob("p/old.json").await, None);
    for name in [NAME, "p/1.json", "p/absent.json", "picture.png"] {
        let adopted = stage.adopt(name, directory.path()).await;
        assert_eq!(adopted.unwrap_err().kind(), ErrorKind::Usage, "{name}: nothing foreign is there");
    }
    assert_eq!(stage.back_sweep(false).await.obstacles(), Vec::<String>::new());
    stage.settled().await;
}

#[tokio::test]
async fn what_is_foreign_and_no_document_can_only_be_discarded() {
    let (stage, gateway) = Stage::flipped().await;
    stage.rig.put(NAME, "no json").await;
    let directory = tempfile::tempdir().unwrap();
    let adopted = stage.adopt(NAME, directory.path()).await.unwrap_err();
    assert_eq!(adopted.kind(), ErrorKind::Unrepresentable);
    assert!(adopted.advice().unwrap().contains("--discard r/1.json"), "{adopted:?}");
    assert_eq!(stage.discard(NAME, directory.path()).await.unwrap(), b"no json");
    assert_eq!(read(&gateway, NAME).await.as_deref(), Some(A));
    stage.settled().await;
}

/// A body that is longer than what is retained: put together from its items after the flip, and compared with
/// what Blob has of it.
#[tokio::test]
async fn a_long_body_from_before_the_flip_is_rebuilt_and_compared() {
    let plan = super::harness::PLAN.to_owned()
        + r#"
[[entity]]
name = "list"
blobs = "l/{id}.json"
[[entity.item]]
each = "[*]"
PK = "L#{{ record.id }}"
SK = "META"
"#;
    let stage = Stage::with(&plan);
    let record = |n: usize| format!(r#"{{"id": "{n:06}", "text": "{}"}}"#, "x".repeat(60_000));
    let records: Vec<String> = (0..80).map(record).collect();
    let body = format!("[{}]", records.join(","));
    assert!(
        body.len() as u64 > migrate::blob::spool::MEMORY_BYTES_MAX
            && (body.len() as u64) < LONG_BODY_BYTES_MAX
    );
    stage.rig.begin().await;
    stage.rig.put("l/1.json", body.clone()).await;
    stage.rig.converge("l/1.json", Purpose::Reconcile).await.unwrap();
    let gateway = stage.gateway("g").await;
    stage.flip(Phase::Cutover).await;
    let rebuilt: serde_json::Value =
        serde_json::from_str(&read(&gateway, "l/1.json").await.unwrap()).unwrap();
    assert_eq!(rebuilt, serde_json::from_str::<serde_json::Value>(&body).unwrap());
    assert_eq!(stage.back_sweep(false).await.obstacles(), Vec::<String>::new());
    // Written anew through the gateway, its bytes are kept whatever their length.
    let longer = format!("[{},{}]", records.join(","), record(99));
    let over = PutOptions { allow_overwrite: true, ..PutOptions::default() };
    let name = Pathname::from("l/1.json");
    gateway.put(&name, Bytes::from(longer.clone()).into(), &over).await.unwrap();
    stage.moments().await;
    assert_eq!(read(&gateway, "l/1.json").await.unwrap(), longer);
    assert_eq!(stage.in_blob("l/1.json").await.unwrap(), longer);
    assert_eq!(stage.back_sweep(false).await.obstacles(), Vec::<String>::new());
}
