//! The whole comparison: coverage, moving keys, what can't be read, TTL, paging, the self-test.

use std::time::Duration;

use migrate::ErrorKind;
use migrate::blob::faults::{Fault as BlobFault, Operation as Blob};
use migrate::protocol::converge::Purpose;
use migrate::sweep::{DriftKind, Level, Sweep};
use migrate::target::memory::{Fault, Operation};
use migrate::target::store::Table;
use migrate::value::{Key, Value};
use tokio_util::sync::CancellationToken;

use super::harness::{Rig, foreign, run, silent};

#[tokio::test]
async fn everything_on_both_sides_is_counted_and_compared() {
    let rig = Rig::new();
    for number in 0..70 {
        rig.put(&format!("r/{number:02}.json"), "{}").await;
    }
    rig.put("p/1.json", r#"{"extra": 1}"#).await;
    rig.put("r/broken-1.json", "{").await;
    rig.put("a.png", "-").await;
    rig.plant(foreign("APP", "1")).await;
    rig.backfill().await;
    rig.delete("r/00.json").await;
    rig.reconcile("r/00.json").await;
    for level in [Level::Inventory, Level::Content] {
        let report = rig.sweep(level, false).await;
        assert_eq!((report.listed, report.compared), (70, 70));
        assert_eq!((report.anchored, report.anchors_compared), (70, 70), "tombstones hold nothing");
        assert_eq!((report.items, report.items_compared, report.other_items), (71, 71, 1));
        assert_eq!((report.ignored, report.accepted), (1, 1));
        assert!(report.planted >= 16 && report.planted == report.found, "{report:?}");
        assert_eq!(report.obstacles(), Vec::<String>::new());
    }
}

/// Hazard A11.
#[tokio::test]
async fn a_store_in_which_nothing_is_listed_fails_unless_the_plan_allows_it() {
    let rig = Rig::new();
    let report = rig.sweep(Level::Content, false).await;
    assert!(report.obstacles()[0].contains("allow_empty"), "{:?}", report.obstacles());
    let report = run(Sweep { allow_empty: true, ..rig.sweeper(Level::Content, false) }).await;
    assert_eq!(report.obstacles(), Vec::<String>::new());
}

#[tokio::test]
async fn a_store_that_was_emptied_is_all_drift() {
    let rig = Rig::new();
    for number in 0..5 {
        rig.put(&format!("r/{number}.json"), "{}").await;
    }
    rig.backfill().await;
    for number in 0..5 {
        rig.delete(&format!("r/{number}.json")).await;
    }
    let report = run(Sweep { allow_empty: true, ..rig.sweeper(Level::Inventory, false) }).await;
    assert_eq!(report.counts(), [(DriftKind::Extra, 5)].into());
}

#[tokio::test]
async fn more_pathnames_than_a_page_are_all_compared() {
    let rig = Rig::new();
    for number in 0..1_100 {
        rig.put(&format!("r/{number:04}.json"), "{}").await;
    }
    assert_eq!(rig.backfill().await.written, 1_100);
    let report = rig.sweep(Level::Inventory, false).await;
    assert_eq!((report.listed, report.compared, report.items), (1_100, 1_100, 1_100));
    assert_eq!(report.obstacles(), Vec::<String>::new());
    rig.remove(Table::Data, Key::new("R#1050", "META")).await;
    let report = rig.sweep(Level::Inventory, false).await;
    assert_eq!((report.drift.len(), report.drift[0].pathname.as_str()), (1, "r/1050.json"));
}

/// Hazard A10: a key that moves while it is judged is judged again, and passes once it holds still.
#[tokio::test]
async fn a_key_that_is_mirrored_while_it_is_judged_is_no_drift() {
    let rig = Rig::new();
    rig.put("r/0.json", "{}").await;
    rig.put("r/1.json", r#"{"v": 1}"#).await;
    rig.backfill().await;
    rig.put("r/1.json", r#"{"v": 2}"#).await;
    // Between the walk, which finds it stale, and the judgement.
    let mut pause = rig.target.pause(Operation::Scan);
    let mirror = async {
        pause.arrived().await;
        rig.reconcile("r/1.json").await;
        pause.release();
    };
    let (report, ()) = futures::join!(rig.sweep(Level::Content, false), mirror);
    assert_eq!(report.obstacles(), Vec::<String>::new());
}

/// Hazard A10: in the judgement itself, between its two looks at the anchor.
#[tokio::test]
async fn a_key_that_moves_during_its_judgement_is_judged_again() {
    let rig = Rig::new();
    rig.put("r/0.json", "{}").await;
    rig.put("r/1.json", r#"{"v": 1}"#).await;
    rig.backfill().await;
    rig.put("r/1.json", r#"{"v": 2}"#).await;
    let mut pause = rig.faults.pause(Blob::Head);
    let mirror = async {
        pause.arrived().await;
        rig.put("r/1.json", r#"{"v": 3}"#).await;
        rig.reconcile("r/1.json").await;
        pause.release();
    };
    let (report, ()) = futures::join!(rig.sweep(Level::Inventory, false), mirror);
    assert_eq!(report.obstacles(), Vec::<String>::new());
}

/// Hazard A10: never passed, never taken for drift.
#[tokio::test]
async fn a_key_that_never_holds_still_is_unverified() {
    let rig = Rig::new();
    for name in ["r/1.json", "r/2.json"] {
        rig.put(name, "{}").await;
        rig.reconcile(name).await;
    }
    rig.remove(Table::Data, Key::new("R#1", "META")).await;
    // Each look at the source meets an intent that renews the rev.
    let mut pauses: Vec<_> = (0..5).map(|_| rig.faults.pause(Blob::Get)).collect();
    let moving = async {
        for pause in &mut pauses {
            pause.arrived().await;
            rig.converge("r/1.json", Purpose::Intent).await.unwrap();
            drop(std::mem::replace(pause, rig.faults.pause(Blob::CompleteMultipart)));
        }
    };
    let (report, ()) = futures::join!(rig.sweep(Level::Inventory, false), moving);
    assert_eq!(report.counts(), [(DriftKind::Unverified, 1)].into(), "{report:?}");
    let drift = &report.drift[0];
    assert_eq!(drift.pathname.as_str(), "r/1.json");
    assert!(drift.source.is_some() && drift.target.is_some(), "the versions that were seen last");
    assert!(!report.complete(), "it was not compared to a verdict");
    assert_eq!((report.listed, report.compared), (2, 1));
}

#[tokio::test]
async fn a_blob_that_can_not_be_read_is_unverified_and_the_others_are_compared() {
    let rig = Rig::new();
    for number in 0..5 {
        rig.put(&format!("r/{number}.json"), "{}").await;
    }
    rig.backfill().await;
    for _ in 0..2 {
        rig.faults.fault(Blob::Get, BlobFault::Refused(ErrorKind::NotApplied));
    }
    // The second one is met by the judgement of the first, or by another blob that is judged then.
    let report = rig.sweep(Level::Content, false).await;
    assert!(report.counts().keys().all(|kind| *kind == DriftKind::Unverified), "{report:?}");
    assert_eq!(report.complete(), report.drift.is_empty());
    assert_eq!(report.listed, 5);

    rig.faults.set_stale_reads(Some(Duration::from_secs(3600)));
    rig.put("r/1.json", r#"{"v": 2}"#).await;
    let report = rig.sweep(Level::Content, true).await;
    assert_eq!(report.counts(), [(DriftKind::Unverified, 1)].into());
    assert!(report.drift[0].detail.contains("another version"), "{report:?}");
    assert_eq!((report.listed, report.compared), (5, 4));
}

/// What concerns all blobs ends the sweep: it proves nothing.
#[tokio::test]
async fn a_store_that_refuses_ends_the_sweep() {
    for kind in [ErrorKind::Suspended, ErrorKind::Denied] {
        let rig = Rig::new();
        rig.put("r/1.json", "{}").await;
        rig.backfill().await;
        rig.faults.fault(Blob::Get, BlobFault::Refused(kind));
        let sweep = rig.sweeper(Level::Content, false);
        let error = sweep.run(&silent(), &CancellationToken::new()).await.unwrap_err();
        assert_eq!(error.kind(), kind);
    }
}

#[tokio::test]
async fn a_sweep_that_is_cancelled_says_so() {
    let rig = Rig::new();
    rig.put("r/1.json", "{}").await;
    let cancel = CancellationToken::new();
    cancel.cancel();
    let error = rig.sweeper(Level::Content, true).run(&silent(), &cancel).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Interrupted);
    assert!(rig.items().is_empty());
}

/// Hazard B12: an item whose TTL has passed may be there or gone.
#[tokio::test]
async fn an_item_whose_ttl_has_passed_may_be_present_or_absent() {
    let rig = Rig::new();
    let second = migrate::clock::Clock::now(&rig.clock).as_second();
    rig.put("r/1.json", format!(r#"{{"expires": {}}}"#, second + 3600)).await;
    rig.put("r/2.json", "{}").await;
    rig.backfill().await;
    assert!(rig.item("R#1", "META").unwrap().get("ttl").is_some_and(|ttl| ttl.as_n().is_some()));
    for level in [Level::Inventory, Level::Content] {
        assert_eq!(rig.sweep(level, false).await.obstacles(), Vec::<String>::new(), "not expired");
    }
    rig.remove(Table::Data, Key::new("R#1", "META")).await;
    let report = rig.sweep(Level::Content, false).await;
    assert_eq!(report.counts(), [(DriftKind::Missing, 1)].into(), "not expired, and not there");
    rig.sweep(Level::Content, true).await;

    rig.clock.advance(Duration::from_secs(2 * 3600));
    for level in [Level::Inventory, Level::Content] {
        assert_eq!(rig.sweep(level, false).await.obstacles(), Vec::<String>::new(), "expired, and there");
    }
    rig.remove(Table::Data, Key::new("R#1", "META")).await;
    for level in [Level::Inventory, Level::Content] {
        assert_eq!(rig.sweep(level, true).await.obstacles(), Vec::<String>::new(), "expired, and gone");
    }
}

/// A reply that is lost while an item is removed: the judgement that follows sees what became of it.
#[tokio::test]
async fn a_repair_survives_lost_replies() {
    for fault in [Fault::AppliedThenLost, Fault::Held] {
        let rig = Rig::new();
        rig.put("r/1.json", "{}").await;
        rig.backfill().await;
        rig.plant(super::harness::owned("R#ghost", "META", "r/ghost.json", "0")).await;
        rig.target.fault(Operation::Transact, fault);
        let report = rig.sweep(Level::Inventory, true).await;
        let left = report.remaining.unwrap();
        assert_eq!(left.len(), usize::from(fault == Fault::Held), "{fault:?} {left:?}");
        rig.target.release_held();
        assert!(rig.item("R#ghost", "META").is_none());
    }
}

#[tokio::test]
async fn a_repair_that_is_not_permitted_ends_the_sweep_and_writes_nothing() {
    let rig = Rig::new();
    rig.put("r/1.json", "{}").await;
    rig.permit.refuse();
    let sweep = rig.sweeper(Level::Content, true);
    let error = sweep.run(&silent(), &CancellationToken::new()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::WrongPhase);
    assert!(rig.items().is_empty());
}

#[tokio::test]
async fn a_blob_that_can_not_be_repaired_says_why() {
    let rig = Rig::new();
    rig.put("r/1.json", "{}").await;
    rig.target.fault(Operation::Transact, Fault::Refused(ErrorKind::Unrepresentable));
    let report = rig.sweep(Level::Inventory, true).await;
    let left = report.remaining.unwrap();
    assert_eq!((left.len(), left[0].kind), (1, DriftKind::Missing));
    assert!(left[0].detail.contains("not repaired: write transaction"), "{}", left[0].detail);
}

#[tokio::test]
async fn an_item_of_the_application_that_looks_a_little_like_ours_is_not_ours() {
    let rig = Rig::new();
    rig.put("r/1.json", "{}").await;
    rig.backfill().await;
    for (sort, source) in [
        ("1", Value::s("r/1.json")),
        ("2", Value::M([("pathname".to_owned(), Value::s(""))].into())),
        ("3", Value::M([("rev".to_owned(), Value::s("0"))].into())),
    ] {
        let mut item = foreign("APP", sort);
        item.insert(migrate::converge::SOURCE.to_owned(), source);
        rig.plant(item).await;
    }
    let before = rig.items();
    let report = rig.sweep(Level::Content, true).await;
    assert_eq!((report.obstacles(), report.other_items), (Vec::new(), 3));
    assert_eq!(before, rig.items());
}
