//! Blobs of more items than one transaction takes.

use std::fmt::Write as _;
use std::sync::{Arc, LazyLock};

use migrate::ErrorKind;
use migrate::blob::faults::Operation as Blob;
use migrate::converge::Converged;
use migrate::protocol::converge::Purpose;
use migrate::sweep::{DriftKind, Level};
use migrate::target::control::AnchorState;
use migrate::target::memory::{Fault, Operation};
use migrate::target::store::Table;

use super::harness::{PLAN, Rig, foreign};

const NAME: &str = "m/1.json";
/// So many items there can be.
const ITEMS: usize = 260;

/// A plan in which a blob has an item for each of its fields `i000` … `i259`.
static MANY: LazyLock<String> = LazyLock::new(|| {
    let mut plan = format!("{PLAN}[[entity]]\nname = \"many\"\nblobs = \"m/{{id}}.json\"\n");
    for number in 0..ITEMS {
        let field = format!("i{number:03}");
        writeln!(
            plan,
            "[[entity.item]]\nwhen = \"body.{field}\"\nbody = \"none\"\nPK = \"M#{{{{ id }}}}\"\nSK = \"{field}\"\nv = \"{{{{ body.{field} }}}}\""
        )
        .unwrap();
    }
    plan
});

fn rig() -> Rig {
    Rig::with(&MANY)
}

/// A body with the items of this range.
fn body(range: std::ops::Range<usize>, value: &str) -> String {
    let fields: Vec<String> = range.map(|number| format!("\"i{number:03}\": \"{value}\"")).collect();
    format!("{{{}}}", fields.join(", "))
}

/// No rows but those that anchors name: nothing was left behind.
pub(super) async fn no_leftovers(rig: &Rig) {
    let mut named = 0;
    for anchor in rig.anchors().await {
        named += anchor.body.map_or(0, |body| body.parts) + anchor.pages.map_or(0, |pages| pages.pages);
    }
    let rows = rig.target.contents(Table::Control);
    let found = rows.keys().filter(|key| key.partition.starts_with("B#") || key.partition.starts_with("K#"));
    assert_eq!(found.count(), named as usize);
}

#[tokio::test]
async fn items_beyond_a_transaction_are_written_replaced_and_removed() {
    let rig = rig();
    for (range, value) in [(0..99, "a"), (0..100, "b"), (0..260, "c"), (50..210, "d"), (0..1, "e")] {
        rig.put(NAME, body(range.clone(), value)).await;
        assert_eq!(rig.reconcile(NAME).await, Converged::Written, "{range:?}");
        rig.check_after(format_args!("{range:?}")).await;
        assert_eq!(rig.items().len(), range.len());
        assert_eq!(rig.reconcile(NAME).await, Converged::Equal);
        assert_eq!(rig.anchor(NAME).await.unwrap().state, AnchorState::Live);
        assert!(rig.sweep(Level::Content, false).await.obstacles().is_empty());
        no_leftovers(&rig).await;
    }
    rig.put(NAME, body(0..260, "f")).await;
    rig.backfill().await;
    rig.delete(NAME).await;
    assert_eq!(rig.intent(NAME).await, Converged::Written);
    assert_eq!(rig.anchor(NAME).await.unwrap().state, AnchorState::Tombstone);
    assert!(rig.items().is_empty());
    no_leftovers(&rig).await;
}

/// A crash is a request that was never sent; here, at each of them in turn.
#[tokio::test]
async fn a_crash_between_two_parts_converges_on_the_next_run() {
    for crash in 0.. {
        let rig = rig();
        rig.put(NAME, body(0..150, "a")).await;
        rig.reconcile(NAME).await;
        rig.put(NAME, body(100..260, "b")).await;
        rig.target.spare(Operation::Transact, crash);
        rig.target.fault(Operation::Transact, Fault::Refused(ErrorKind::Denied));
        let ended = rig.converge(NAME, Purpose::Reconcile).await;
        rig.target.clear_faults();
        if ended.is_ok() {
            assert_eq!(crash, 5, "a pending anchor, three parts, an anchor");
            rig.check().await;
            return;
        }
        let pending = crash > 0;
        assert_eq!(rig.anchor(NAME).await.unwrap().state == AnchorState::Pending, pending, "{crash}");
        let found = rig.sweep(Level::Inventory, false).await;
        assert!(found.drift.iter().any(|drift| drift.kind == DriftKind::Stale), "{crash}");
        // The next run may find yet another version, or none.
        match crash % 3 {
            0 => {}
            1 => drop(rig.put(NAME, body(0..2, "c")).await),
            _ => rig.delete(NAME).await,
        }
        rig.backfill().await;
        rig.sweep(Level::Content, true).await;
        rig.check_after(format_args!("a crash before request {crash}")).await;
    }
}

/// Each reply of a large change is lost, or the request lands only after another converge has finished.
#[tokio::test]
async fn lost_and_late_requests_of_a_large_change_do_no_harm() {
    for request in 0..5 {
        for fault in [Fault::AppliedThenLost, Fault::Held] {
            let rig = rig();
            rig.put(NAME, body(0..150, "a")).await;
            rig.reconcile(NAME).await;
            rig.put(NAME, body(100..260, "b")).await;
            rig.target.spare(Operation::Transact, request);
            rig.target.fault(Operation::Transact, fault);
            assert_eq!(rig.intent(NAME).await, Converged::Written, "{request} {fault:?}");
            rig.check_after(format_args!("{request} {fault:?}")).await;
            rig.put(NAME, body(10..20, "c")).await;
            rig.intent(NAME).await;
            rig.target.release_held();
            rig.check_after(format_args!("{request} {fault:?}, landed late")).await;
        }
    }
}

/// Somebody slow stops at each of its requests, and somebody quick mirrors another version meanwhile.
#[tokio::test]
async fn two_large_changes_do_not_mix() {
    for request in 0..6 {
        for (quick, value) in [(0..120, "quick"), (255..260, "small"), (0..0, "gone")] {
            let rig = Arc::new(rig());
            rig.put(NAME, body(0..150, "a")).await;
            rig.reconcile(NAME).await;
            rig.put(NAME, body(100..260, "slow")).await;
            rig.target.spare(Operation::Transact, request);
            let mut pause = rig.target.pause(Operation::Transact);
            let mut slow = tokio::spawn({
                let rig = rig.clone();
                async move { rig.reconcile(NAME).await }
            });
            tokio::select! {
                biased;
                () = pause.arrived() => {}
                done = &mut slow => {
                    assert_eq!((request, done.unwrap()), (5, Converged::Written));
                    continue;
                }
            }
            if quick.is_empty() {
                rig.delete(NAME).await;
            } else {
                rig.put(NAME, body(quick.clone(), value)).await;
            }
            rig.intent(NAME).await;
            pause.release();
            slow.await.unwrap();
            rig.check_after(format_args!("{request} {value}")).await;
        }
    }
}

/// An item of the application among hundreds: nothing is written, and it is named.
#[tokio::test]
async fn a_foreign_item_stops_a_large_change_before_it_begins() {
    let rig = rig();
    rig.plant(foreign("M#1", "i200")).await;
    rig.put(NAME, body(0..260, "a")).await;
    let Converged::Collision { key, owner } = rig.reconcile(NAME).await else { panic!("no collision") };
    assert_eq!((key.sort.as_str(), owner), ("i200", None));
    assert_eq!((rig.items().len(), rig.anchor(NAME).await), (1, None));
    assert_eq!(rig.faults.calls(Blob::Get), 1);
}
