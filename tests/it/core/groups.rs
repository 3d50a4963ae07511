//! Several blobs, one item: the newest has it, and when it goes the next newest comes back.

use std::sync::Arc;

use migrate::blob::store::{BlobStore as _, PutOptions};
use migrate::converge::{Converged, owner};
use migrate::protocol::converge::Purpose;
use migrate::sweep::{DriftKind, Level};
use migrate::target::Condition;
use migrate::target::control::{Member, names};
use migrate::target::memory::{Fault, Operation};
use migrate::target::store::{Table, TargetStore as _, Write};
use migrate::value::{Key, Value};

use super::harness::{Rig, foreign};

pub(super) const PLAN: &str = r#"
[source]
store = "test"
[target]
table = "test"
partition_key = "PK"
sort_key = "SK"
deletion_protection = false
[[entity]]
name = "version"
blobs = "v/{id}/{version}.json"
[[entity.item]]
group_by = "{{ id }}"
PK = "V#{{ group }}"
SK = "META"
version = "{{ version }}"
[[entity]]
name = "signup"
blobs = "s/{name}.json"
[[entity.item]]
group_by = "{{ body.email | lower }}"
PK = "S#{{ group }}"
SK = "META"
[[entity.item]]
when = "body.consent"
group_by = "{{ body.email | lower }}"
body = "none"
PK = "S#{{ group }}"
SK = "CONSENT"
[[entity]]
name = "book"
blobs = "b/{id}.json"
[[entity.item]]
each = "[*]"
group_by = "{{ record.email }}"
PK = "B#{{ group }}"
SK = "META"
"#;

fn rig() -> Rig {
    Rig::with(PLAN)
}

fn signup(email: &str, value: &str) -> String {
    format!(r#"{{"email": "{email}", "v": "{value}"}}"#)
}

fn holder(rig: &Rig, partition: &str) -> Option<String> {
    owner(&rig.item(partition, "META")?)
}

#[tokio::test]
async fn the_newest_member_has_the_item_and_the_next_newest_comes_back() {
    let rig = rig();
    for version in ["1", "2", "3"] {
        rig.put(&format!("v/a/{version}.json"), format!(r#"{{"v": "{version}"}}"#)).await;
    }
    // In any order.
    assert_eq!(rig.reconcile("v/a/2.json").await, Converged::Written);
    assert_eq!(rig.reconcile("v/a/1.json").await, Converged::Superseded);
    assert_eq!(rig.reconcile("v/a/3.json").await, Converged::Written);
    rig.check().await;
    for (deleted, left) in [("3", Some("v/a/2.json")), ("1", Some("v/a/2.json")), ("2", None)] {
        rig.delete(&format!("v/a/{deleted}.json")).await;
        rig.intent(&format!("v/a/{deleted}.json")).await;
        assert_eq!(holder(&rig, "V#a").as_deref(), left, "{deleted} deleted");
        rig.check().await;
    }
    rig.put("v/a/1.json", "{}").await;
    assert_eq!(rig.reconcile("v/a/1.json").await, Converged::Written);
    rig.check().await;
}

#[tokio::test]
async fn blobs_of_one_time_are_ranked_by_pathname() {
    let rig = rig();
    for name in ["v/a/x.json", "v/a/z.json", "v/a/y.json"] {
        let options = PutOptions { allow_overwrite: true, ..PutOptions::default() };
        rig.source.put(&name.into(), bytes::Bytes::from("{}").into(), &options).await.unwrap();
    }
    rig.backfill().await;
    assert_eq!(holder(&rig, "V#a").as_deref(), Some("v/a/z.json"));
    rig.check().await;
}

#[tokio::test]
async fn a_body_that_changes_group_converges_both() {
    let rig = rig();
    rig.put("s/1.json", signup("x", "1")).await;
    rig.put("s/2.json", signup("X", "2")).await;
    rig.put("s/3.json", signup("y", "3")).await;
    rig.backfill().await;
    assert_eq!(
        (holder(&rig, "S#x"), holder(&rig, "S#y")),
        (Some("s/2.json".into()), Some("s/3.json".into()))
    );
    rig.put("s/2.json", r#"{"email": "y", "consent": true}"#).await;
    assert_eq!(rig.reconcile("s/2.json").await, Converged::Written);
    assert_eq!(
        (holder(&rig, "S#x"), holder(&rig, "S#y")),
        (Some("s/1.json".into()), Some("s/2.json".into()))
    );
    assert!(rig.item("S#y", "CONSENT").is_some());
    rig.check().await;
    // Back again, without the second item.
    rig.put("s/2.json", signup("x", "4")).await;
    rig.reconcile("s/2.json").await;
    assert!(rig.item("S#y", "CONSENT").is_none());
    rig.check().await;
}

#[tokio::test]
async fn a_load_folds_the_members_of_a_group_together() {
    let rig = rig();
    for version in 0..40 {
        rig.put(&format!("v/a/{version:02}.json"), "{}").await;
        rig.put(&format!("s/{version:02}.json"), signup(&format!("e{version}"), "1")).await;
    }
    let report = rig.backfill().await;
    // 4 actions a blob: 25 blobs a transaction. Who was the newest in one may not be in the next.
    assert_eq!(rig.target.calls(Operation::Transact), 4);
    assert_eq!((report.mapped, report.written + report.superseded, report.failed.len()), (80, 80, 0));
    assert!(report.superseded >= 37, "{report:?}");
    rig.check().await;
    let report = rig.sweep(Level::Content, false).await;
    assert_eq!((report.obstacles(), report.superseded, report.items), (Vec::new(), 39, 41));
    // A rerun asks for nothing.
    let report = rig.backfill().await;
    assert_eq!((report.equal, report.written), (80, 0));
}

#[tokio::test]
async fn a_foreign_item_under_a_groups_key_is_left_alone() {
    let rig = rig();
    rig.plant(foreign("S#x", "META")).await;
    rig.put("s/1.json", signup("x", "1")).await;
    rig.put("s/2.json", signup("x", "2")).await;
    let report = rig.backfill().await;
    assert_eq!(report.failed.len(), 2, "{report:?}");
    assert_eq!(rig.item("S#x", "META"), Some(foreign("S#x", "META")));
    let report = rig.sweep(Level::Content, true).await;
    assert!(report.present_drift().iter().all(|drift| drift.kind == DriftKind::Collision), "{report:?}");
    assert_eq!(report.present_drift().len(), 2);
}

/// Hundreds of records, each of a group of its own or of another blob's.
#[tokio::test]
async fn a_blob_of_many_groups_takes_several_transactions() {
    let rig = rig();
    let book = |range: std::ops::Range<usize>, value: &str| {
        let records: Vec<String> = range.map(|n| format!(r#"{{"email": "e{n}", "v": "{value}"}}"#)).collect();
        format!("[{}]", records.join(", "))
    };
    rig.put("b/1.json", book(0..120, "first")).await;
    rig.put("b/2.json", book(60..180, "second")).await;
    let report = rig.backfill().await;
    assert_eq!(report.written, 2, "{report:?}");
    rig.check().await;
    rig.put("b/2.json", book(100..101, "third")).await;
    rig.reconcile("b/2.json").await;
    rig.check().await;
    rig.delete("b/1.json").await;
    rig.intent("b/1.json").await;
    rig.check().await;
    assert_eq!(rig.items().len(), 1);
}

/// A blob of many groups stops at each of its transactions. Meanwhile the newest member of a group that it
/// joins goes away.
#[tokio::test]
async fn a_member_whose_large_change_is_under_way_is_not_passed_over() {
    let records: Vec<String> = (0..120).map(|n| format!(r#"{{"email": "e{n}"}}"#)).collect();
    for request in 0.. {
        let rig = Arc::new(rig());
        rig.put("b/1.json", format!("[{}]", records.join(", "))).await;
        rig.put("b/2.json", r#"[{"email": "e0"}, {"email": "e119"}]"#).await;
        rig.reconcile("b/2.json").await;
        rig.target.spare(Operation::Transact, request);
        let mut pause = rig.target.pause(Operation::Transact);
        let mut slow = tokio::spawn({
            let rig = rig.clone();
            async move { rig.converge("b/1.json", Purpose::Intent).await }
        });
        tokio::select! {
            biased;
            () = pause.arrived() => {}
            done = &mut slow => {
                assert_eq!(done.unwrap().unwrap(), Converged::Written);
                assert!(request > 4, "a pending anchor, several parts, an anchor: {request}");
                break;
            }
        }
        rig.delete("b/2.json").await;
        rig.intent("b/2.json").await;
        pause.release();
        assert_eq!(slow.await.unwrap().unwrap(), Converged::Written);
        assert_eq!(holder(&rig, "B#e0").as_deref(), Some("b/1.json"), "{request}");
        rig.check_after(format_args!("{request}")).await;
    }
}

/// A body that is too long to be retained is fetched from the source when its turn comes again.
#[tokio::test]
async fn a_member_whose_body_is_not_retained_comes_back_from_the_source() {
    let rig = rig();
    let long = format!(r#"{{"email": "x", "v": "{}"}}"#, " ".repeat(100)) + &" ".repeat(5 << 20);
    rig.put("s/1.json", long).await;
    rig.put("s/2.json", signup("x", "2")).await;
    rig.backfill().await;
    rig.delete("s/2.json").await;
    rig.intent("s/2.json").await;
    assert_eq!(holder(&rig, "S#x").as_deref(), Some("s/1.json"));
    rig.check().await;
}

/// Two members change at once: one stops at each of its calls while the other joins, changes or leaves.
#[tokio::test]
async fn two_members_that_change_at_once_never_both_win() {
    for operation in [Operation::Get, Operation::Query, Operation::Transact] {
        for call in 0.. {
            let mut reached = false;
            for quick in ["newer", "leaves", "elsewhere"] {
                let rig = Arc::new(rig());
                for name in ["s/1.json", "s/2.json", "s/3.json"] {
                    rig.put(name, signup("x", "old")).await;
                }
                rig.backfill().await;
                // The slow one leaves; whoever is next gets the item, and that one changes.
                rig.delete("s/3.json").await;
                rig.target.spare(operation, call);
                let mut pause = rig.target.pause(operation);
                let mut slow = tokio::spawn({
                    let rig = rig.clone();
                    async move { rig.converge("s/3.json", Purpose::Intent).await }
                });
                tokio::select! {
                    biased;
                    () = pause.arrived() => reached = true,
                    done = &mut slow => {
                        done.unwrap().unwrap();
                        continue;
                    }
                }
                match quick {
                    "newer" => drop(rig.put("s/2.json", signup("x", "new")).await),
                    "leaves" => rig.delete("s/2.json").await,
                    _ => drop(rig.put("s/2.json", signup("y", "new")).await),
                }
                rig.intent("s/2.json").await;
                pause.release();
                slow.await.unwrap().unwrap();
                rig.check_after(format_args!("{operation:?} {call} {quick}")).await;
            }
            if !reached {
                break;
            }
        }
    }
}

/// A transaction that lands late, or whose reply is lost, while another member moves on.
#[tokio::test]
async fn lost_and_late_transactions_of_groups_do_no_harm() {
    for fault in [Fault::AppliedThenLost, Fault::Held] {
        for (first, second) in [("s/1.json", "s/2.json"), ("s/2.json", "s/1.json")] {
            let rig = rig();
            rig.put("s/1.json", signup("x", "1")).await;
            rig.put("s/2.json", signup("x", "2")).await;
            rig.target.fault(Operation::Transact, fault);
            rig.intent(first).await;
            rig.intent(second).await;
            rig.check_after(format_args!("{fault:?} {first}")).await;
            rig.target.fault(Operation::Transact, fault);
            rig.delete(second).await;
            rig.intent(second).await;
            rig.put(first, signup("x", "3")).await;
            rig.intent(first).await;
            rig.target.release_held();
            rig.check_after(format_args!("{fault:?} {first}, landed late")).await;
        }
    }
}

/// Each way in which a group can be wrong is found, as what it is, and repaired.
#[tokio::test]
async fn damage_to_a_group_is_found_and_repaired() {
    let key = Key::new("S#x", "META");
    for damage in ["item gone", "item changed", "row gone", "older wins", "nobody wins", "member unknown"] {
        let rig = rig();
        rig.put("s/1.json", signup("x", "1")).await;
        rig.put("s/2.json", signup("x", "2")).await;
        rig.backfill().await;
        let members: Vec<Member> = rig.control.highest_members(&key, None).await.unwrap().0;
        let mut group = rig.control.groups([&key]).await.unwrap().remove(&key).unwrap();
        match damage {
            "item gone" => rig.remove(Table::Data, key.clone()).await,
            "item changed" => {
                let mut item = rig.item("S#x", "META").unwrap();
                item.insert("v".to_owned(), Value::s("damaged"));
                rig.plant(item).await;
            }
            "row gone" => rig.remove(Table::Control, names::group(&key)).await,
            "member unknown" => rig.remove(Table::Control, names::member(&key, &members[1])).await,
            _ => {
                group.winner = Some(members[1].clone()).filter(|_| damage == "older wins");
                let Write::Put { table, item, .. } = group.write(None) else { panic!("a row is put") };
                let write = Write::Put { table, item, condition: Condition::Always };
                rig.target.transact(&names::token(), vec![write]).await.unwrap();
            }
        }
        let found = rig.sweep(Level::Content, false).await;
        assert!(!found.drift.is_empty(), "{damage}");
        let repaired = rig.sweep(Level::Content, true).await;
        assert_eq!(repaired.remaining.as_deref(), Some(&[][..]), "{damage}: {:?}", repaired.drift);
        let clean = rig.sweep(Level::Content, false).await;
        assert_eq!(clean.obstacles(), Vec::<String>::new(), "{damage}");
        rig.check_after(damage).await;
    }
}
