//! Converge and backfill: what is written, what is left alone, what is refused.

use std::sync::Arc;
use std::time::Duration;

use migrate::ErrorKind;
use migrate::blob::Pathname;
use migrate::blob::faults::Operation as Blob;
use migrate::converge::{Converged, Converger};
use migrate::mapping::Mapper;
use migrate::protocol::converge::Purpose;
use migrate::target::control::{AnchorState, BodyForm};
use migrate::target::memory::{Fault, Operation};
use migrate::target::store::Table;
use migrate::value::{Item, Key, Value};

use super::harness::{PLAN, Rig, foreign};

fn text(item: &Item, name: &str) -> String {
    item.get(name).and_then(Value::as_s).unwrap_or_default().to_owned()
}

#[tokio::test]
async fn a_backfill_writes_items_anchors_and_bodies_and_its_rerun_nothing() {
    let rig = Rig::new();
    for number in 0..120 {
        rig.put(&format!("r/{number:03}.json"), format!("{{\"n\": {number}}}")).await;
    }
    rig.put("p/1.json", r#"{"extra": "x", "n": 1.50}"#).await;
    rig.put("r/bad.json", "{").await;
    rig.put("r/broken-1.json", "{").await;
    rig.put("a.png", "-").await;
    rig.put("elsewhere.txt", "-").await;

    let report = rig.backfill().await;
    assert_eq!((report.mapped, report.written, report.equal), (122, 121, 0));
    assert_eq!((report.ignored, report.accepted), (1, 1));
    assert_eq!(report.quarantined, ["r/bad.json".into()]);
    assert_eq!(report.unmapped, [("elsewhere.txt".into(), "no rule matches".to_owned())]);
    assert!(report.complete());
    rig.check().await;
    assert_eq!(rig.items().len(), 122);

    let (data, control) = (rig.target.contents(Table::Data), rig.target.contents(Table::Control));
    let sent = (rig.target.calls(Operation::Transact), rig.target.calls(Operation::Insert));
    let read = rig.faults.calls(Blob::Get);
    let report = rig.backfill().await;
    assert_eq!((report.mapped, report.written, report.equal), (122, 0, 121));
    assert_eq!(report.quarantined, ["r/bad.json".into()], "a rerun still tells what is not in the mirror");
    assert_eq!(sent, (rig.target.calls(Operation::Transact), rig.target.calls(Operation::Insert)));
    assert_eq!(read, rig.faults.calls(Blob::Get), "equal blobs are not fetched");
    assert_eq!((data, control), (rig.target.contents(Table::Data), rig.target.contents(Table::Control)));
}

#[tokio::test]
async fn many_blobs_share_a_transaction_and_two_listings() {
    let rig = Rig::new();
    for number in 0..100 {
        rig.put(&format!("r/{number:03}.json"), format!("{{\"n\": {number}}}")).await;
    }
    rig.backfill().await;
    assert_eq!(rig.target.calls(Operation::Transact), 2, "50 pathnames, 100 actions each");
    assert_eq!((rig.faults.calls(Blob::List), rig.faults.calls(Blob::Head)), (2, 0));
    rig.check().await;
}

#[tokio::test]
async fn a_deletion_leaves_a_tombstone_and_a_new_blob_takes_its_place() {
    let rig = Rig::new();
    rig.put("r/1.json", "{}").await;
    rig.reconcile("r/1.json").await;
    rig.delete("r/1.json").await;
    assert_eq!(rig.reconcile("r/1.json").await, Converged::Written);
    let tombstone = rig.anchor("r/1.json").await.unwrap();
    assert_eq!((tombstone.state, tombstone.head, tombstone.body), (AnchorState::Tombstone, None, None));
    assert!(rig.items().is_empty() && rig.parts().is_empty());
    assert_eq!(rig.reconcile("r/1.json").await, Converged::Equal);
    rig.put("r/1.json", "{}").await;
    assert_eq!(rig.reconcile("r/1.json").await, Converged::Written);
    rig.check().await;
}

#[tokio::test]
async fn a_small_body_comes_and_goes_with_the_transaction_itself() {
    let rig = Rig::new();
    let long = |number: u32| format!("{{\"n\": \"{}\"}}", number.to_string().repeat(5_000));
    let bodies = ["{}".to_owned(), r#"{"n": 1}"#.to_owned(), long(1), long(2), "{}".to_owned()];
    // A long one is stored before the transaction, or removed after it; then so is the other.
    let (transacted, inserted) = ([1, 1, 2, 2, 2], [0, 0, 1, 1, 1]);
    for (number, body) in bodies.into_iter().enumerate() {
        let calls = || (rig.target.calls(Operation::Transact), rig.target.calls(Operation::Insert));
        let before = calls();
        rig.put("r/1.json", body).await;
        rig.reconcile("r/1.json").await;
        let after = calls();
        let made = (after.0 - before.0, after.1 - before.1);
        assert_eq!(made, (transacted[number], inserted[number]), "body {number}");
        assert_eq!(rig.parts().len(), 1, "body {number}: only the present one is there");
        rig.check().await;
    }
    let before = rig.target.calls(Operation::Transact);
    rig.delete("r/1.json").await;
    rig.reconcile("r/1.json").await;
    assert!(rig.parts().is_empty());
    assert_eq!(rig.target.calls(Operation::Transact) - before, 1);
}

/// Hazard A2: the time never says which state is newer; but a re-put of the same bytes is a new version.
#[tokio::test]
async fn the_same_bytes_stored_again_are_another_version() {
    let rig = Rig::new();
    rig.put("r/1.json", "{}").await;
    rig.reconcile("r/1.json").await;
    let first = rig.anchor("r/1.json").await.unwrap();
    rig.put("r/1.json", "{}").await;
    assert_eq!(rig.reconcile("r/1.json").await, Converged::Written);
    let second = rig.anchor("r/1.json").await.unwrap();
    assert_ne!(first.head.unwrap().uploaded_at, second.head.unwrap().uploaded_at);
    rig.check().await;
}

#[tokio::test]
async fn other_rules_for_an_entity_map_its_blobs_again() {
    let rig = Rig::new();
    rig.put("p/1.json", r#"{"extra": "x"}"#).await;
    rig.reconcile("p/1.json").await;
    let remapped = rig.remapped(&PLAN.replace("SK = \"A\"", "SK = \"NEW\""));
    assert_eq!(remapped.converge(&"p/1.json".into(), Purpose::Reconcile).await.unwrap(), Converged::Written);
    let keys: Vec<String> = rig.items().into_keys().map(|key| key.sort).collect();
    assert_eq!(keys, ["B#x", "NEW"], "the item under the former rules is gone");
}

#[tokio::test]
async fn an_item_whose_key_moves_is_removed_where_it_was() {
    let rig = Rig::new();
    rig.put("r/1.json", r#"{"key": "old"}"#).await;
    rig.reconcile("r/1.json").await;
    rig.put("r/1.json", r#"{"key": "new"}"#).await;
    rig.reconcile("r/1.json").await;
    assert!(rig.item("R#old", "META").is_none() && rig.item("R#new", "META").is_some());
    rig.check().await;
}

#[tokio::test]
async fn an_item_that_somebody_else_took_meanwhile_is_left_to_them() {
    let rig = Rig::new();
    rig.put("r/1.json", r#"{"key": "old"}"#).await;
    rig.reconcile("r/1.json").await;
    rig.plant(foreign("R#old", "META")).await;
    rig.put("r/1.json", r#"{"key": "new"}"#).await;
    assert_eq!(rig.reconcile("r/1.json").await, Converged::Written);
    assert_eq!(rig.item("R#old", "META"), Some(foreign("R#old", "META")));
    assert!(rig.item("R#new", "META").is_some());

    // And where the blob goes away.
    rig.plant(foreign("R#new", "META")).await;
    rig.delete("r/1.json").await;
    assert_eq!(rig.reconcile("r/1.json").await, Converged::Written);
    assert_eq!(rig.item("R#new", "META"), Some(foreign("R#new", "META")));
}

#[tokio::test]
async fn an_item_of_the_application_is_never_overwritten() {
    let rig = Rig::new();
    rig.plant(foreign("R#1", "META")).await;
    rig.put("r/1.json", "{}").await;
    let collision = Converged::Collision { key: Key::new("R#1", "META"), owner: None };
    for purpose in [Purpose::Reconcile, Purpose::Intent, Purpose::Repair] {
        assert_eq!(rig.converge("r/1.json", purpose).await.unwrap(), collision);
    }
    assert_eq!(rig.item("R#1", "META"), Some(foreign("R#1", "META")));
    assert!(rig.anchor("r/1.json").await.is_none());
    assert!(rig.parts().is_empty(), "the body of a refused change is dropped");
}

#[tokio::test]
async fn an_item_of_another_blob_is_never_overwritten_and_named_with_its_owner() {
    let rig = Rig::new();
    rig.put("r/1.json", r#"{"key": "same"}"#).await;
    rig.reconcile("r/1.json").await;
    rig.put("r/2.json", r#"{"key": "same"}"#).await;
    let owner = Some("r/1.json".to_owned());
    let collision = Converged::Collision { key: Key::new("R#same", "META"), owner };
    assert_eq!(rig.reconcile("r/2.json").await, collision);
    rig.delete("r/1.json").await;
    rig.reconcile("r/1.json").await;
    assert_eq!(rig.reconcile("r/2.json").await, Converged::Written, "the item is free now");
    rig.check().await;
}

#[tokio::test]
async fn a_collision_in_a_batch_stops_that_blob_alone() {
    let rig = Rig::new();
    rig.plant(foreign("R#07", "META")).await;
    for number in 0..20 {
        rig.put(&format!("r/{number:02}.json"), "{}").await;
    }
    let report = rig.backfill().await;
    assert_eq!(report.written, 19);
    let (name, why) = &report.failed[0];
    assert_eq!((report.failed.len(), name.as_str()), (1, "r/07.json"));
    assert_eq!(why, "item R#07 / META belongs to the application");
    assert_eq!(rig.item("R#07", "META"), Some(foreign("R#07", "META")));
    assert_eq!(rig.items().len(), 20);
    assert_eq!(rig.parts().len(), 19, "no body remains that nothing names");
}

#[tokio::test]
async fn of_two_blobs_with_one_key_in_a_batch_one_is_written_and_the_other_named() {
    let rig = Rig::new();
    for number in 0..10 {
        rig.put(&format!("r/{number}.json"), "{}").await;
    }
    rig.put("r/twin-a.json", r#"{"key": "same"}"#).await;
    rig.put("r/twin-b.json", r#"{"key": "same"}"#).await;
    let report = rig.backfill().await;
    assert_eq!((report.written, report.failed.len()), (11, 1), "{report:?}");
    let holder = migrate::converge::owner(&rig.item("R#same", "META").unwrap()).unwrap();
    assert_ne!(report.failed[0].0.as_str(), holder);
    assert_eq!(report.failed[0].1, format!("item R#same / META belongs to `{holder}`"));
}

#[tokio::test]
async fn a_blob_that_can_no_longer_be_mapped_takes_its_items_along() {
    let rig = Rig::new();
    rig.put("p/1.json", r#"{"extra": "x"}"#).await;
    rig.reconcile("p/1.json").await;
    assert_eq!(rig.items().len(), 2);
    rig.put("p/1.json", r#"{"n": 1, "n": 2}"#).await;
    assert_eq!(rig.reconcile("p/1.json").await, Converged::Quarantined);
    let anchor = rig.anchor("p/1.json").await.unwrap();
    let AnchorState::Quarantined { quarantine } = &anchor.state else { panic!("{anchor:?}") };
    assert!(quarantine.to_string().contains("duplicate"), "{quarantine}");
    assert_eq!((anchor.items.len(), anchor.items_rev, anchor.body), (0, None, None));
    assert!(rig.items().is_empty() && rig.parts().is_empty());
    assert_eq!(rig.reconcile("p/1.json").await, Converged::Quarantined, "and a rerun says so again");
    rig.put("p/1.json", r#"{"extra": "y"}"#).await;
    assert_eq!(rig.reconcile("p/1.json").await, Converged::Written);
    rig.check().await;
}

#[tokio::test]
async fn the_retained_body_is_the_exact_bytes() {
    let rig = Rig::new();
    let odd = "\u{feff}{ \"n\" : 1.500e0,\r\n\"é\":\"\\u0000\" }\n\n";
    rig.put("r/1.json", odd.trim_start_matches('\u{feff}')).await;
    rig.reconcile("r/1.json").await;
    rig.check().await;
    let first = rig.parts();
    rig.put("r/1.json", "{}").await;
    rig.reconcile("r/1.json").await;
    assert_eq!(rig.parts().len(), 1);
    assert!(rig.parts().keys().all(|key| !first.contains_key(key)), "the replaced body is dropped");
    rig.check().await;
}

/// Bytes that no compression shortens, as hexadecimal text: half of the length in entropy.
fn noise(bytes: usize) -> String {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut text = String::with_capacity(bytes + 16);
    while text.len() < bytes {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        text.push_str(&format!("{state:016x}"));
    }
    text.truncate(bytes);
    text
}

/// The record is only in its retained body: no item could hold so much.
const LARGE: &str = r#"
[[entity]]
name = "large"
blobs = "l/{id}.json"
[[entity.item]]
body = "none"
PK = "L#{{ id }}"
SK = "META"
"#;

#[tokio::test]
async fn a_large_body_is_retained_in_parts_and_of_a_huge_one_what_it_is_rebuilt_from() {
    let rig = Rig::with(&format!("{PLAN}{LARGE}"));
    rig.put("l/large.json", format!("\"{}\"", noise(2_000_000))).await;
    rig.put("l/huge.json", format!("\"{}\"", "x".repeat(4 << 20))).await;
    assert_eq!(rig.backfill().await.written, 2);
    let large = rig.anchor("l/large.json").await.unwrap().body.unwrap();
    assert!(large.parts > 2, "{large:?}");
    let huge = rig.anchor("l/huge.json").await.unwrap().body.unwrap();
    assert_eq!((huge.form, huge.parts), (BodyForm::Skeleton, 1));
    assert_eq!(rig.parts().len(), large.parts as usize + 1);
    rig.check().await;
    rig.delete("l/large.json").await;
    rig.reconcile("l/large.json").await;
    assert_eq!(rig.parts().len(), 1);
    rig.delete("l/huge.json").await;
    rig.reconcile("l/huge.json").await;
    assert!(rig.parts().is_empty());
}

/// Hazard A3: content that the CDN kept from before never reaches the target.
#[tokio::test]
async fn stale_content_never_reaches_the_target() {
    let rig = Rig::new();
    rig.put("r/1.json", r#"{"v": "old"}"#).await;
    rig.reconcile("r/1.json").await;
    rig.faults.set_stale_reads(Some(Duration::from_secs(60)));
    rig.put("r/1.json", r#"{"v": "new"}"#).await;
    assert_eq!(rig.reconcile("r/1.json").await, Converged::Written);
    assert_eq!(text(&rig.item("R#1", "META").unwrap(), "v"), "new");
    rig.check().await;
}

/// Hazard A3: content that stays stale for longer than the plan allows is an error, not an old item.
#[tokio::test]
async fn content_that_stays_stale_fails_and_leaves_the_mirror_as_it_was() {
    let rig = Rig::new();
    rig.put("r/1.json", r#"{"v": "old"}"#).await;
    rig.reconcile("r/1.json").await;
    rig.faults.set_stale_reads(Some(Duration::from_secs(3600)));
    rig.put("r/1.json", r#"{"v": "new"}"#).await;
    rig.put("r/2.json", "{}").await;
    let error = rig.converge("r/1.json", Purpose::Reconcile).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotApplied);
    assert_eq!(text(&rig.item("R#1", "META").unwrap(), "v"), "old");
    let report = rig.backfill().await;
    assert_eq!((report.failed.len(), report.written), (1, 1));
}

/// Hazard A3: a blob that changes between the look at it and the read of its content.
#[tokio::test]
async fn a_body_that_changes_under_way_is_mapped_as_it_is_now_or_not_at_all() {
    for gone in [false, true] {
        let rig = Rig::new();
        rig.put("r/1.json", r#"{"v": "first"}"#).await;
        let mut pause = rig.faults.pause(Blob::Get);
        let change = async {
            pause.arrived().await;
            if gone {
                rig.delete("r/1.json").await;
            } else {
                rig.put("r/1.json", r#"{"v": "second"}"#).await;
            }
            pause.release();
        };
        let (result, ()) = futures::join!(rig.reconcile("r/1.json"), change);
        assert_eq!(result, if gone { Converged::Equal } else { Converged::Written });
        assert_eq!(
            rig.item("R#1", "META").map(|item| text(&item, "v")),
            (!gone).then(|| "second".to_owned())
        );
        rig.check().await;
    }
}

#[tokio::test]
async fn a_session_that_is_over_writes_nothing_more() {
    let rig = Rig::new();
    for number in 0..300 {
        rig.put(&format!("r/{number:03}.json"), "{}").await;
    }
    rig.permit.refuse();
    assert_eq!(rig.try_backfill().await.unwrap_err().kind(), ErrorKind::WrongPhase);
    let error = rig.converge("r/000.json", Purpose::Repair).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::WrongPhase);
    assert!(rig.target.contents(Table::Data).is_empty() && rig.target.contents(Table::Control).is_empty());
    assert_eq!((rig.target.calls(Operation::Transact), rig.target.calls(Operation::Insert)), (0, 0));
}

/// Hazard A15: a reply that is lost after the write was applied.
#[tokio::test]
async fn a_lost_reply_ends_with_one_version_and_no_failure() {
    for operation in [Operation::Transact, Operation::Insert] {
        let rig = Rig::new();
        rig.put("r/1.json", "{}").await;
        rig.target.fault(operation, Fault::AppliedThenLost);
        let result = rig.converge("r/1.json", Purpose::Reconcile).await;
        assert!(matches!(result, Ok(Converged::Equal | Converged::Written)), "{operation:?}: {result:?}");
        rig.check().await;

        let rig = Rig::new();
        for number in 0..10 {
            rig.put(&format!("r/{number}.json"), "{}").await;
        }
        rig.target.fault(operation, Fault::AppliedThenLost);
        let report = rig.backfill().await;
        assert!(report.complete(), "{operation:?}: {report:?}");
        rig.check().await;
    }
}

#[tokio::test]
async fn a_transaction_of_many_that_fails_is_sent_for_each() {
    for fault in [Fault::Refused(ErrorKind::NotApplied), Fault::AppliedThenLost, Fault::Held] {
        let rig = Rig::new();
        for number in 0..10 {
            rig.put(&format!("r/{number}.json"), "{}").await;
        }
        rig.target.fault(Operation::Transact, fault);
        let report = rig.backfill().await;
        assert!(report.complete() && report.mapped == 10, "{fault:?}: {report:?}");
        rig.check().await;
        rig.target.release_held();
        rig.check().await;
    }
}

#[tokio::test]
async fn a_body_that_a_refused_batch_stored_does_not_remain() {
    let rig = Rig::new();
    for number in 0..10 {
        rig.put(&format!("r/{number}.json"), "{}").await;
    }
    // Between the bodies and the transaction, one of the ten is converged by somebody else.
    let mut pause = rig.target.pause(Operation::Transact);
    let other = async {
        pause.arrived().await;
        rig.reconcile("r/3.json").await;
        pause.release();
    };
    let (report, ()) = futures::join!(rig.backfill(), other);
    assert!(report.complete(), "{report:?}");
    rig.check().await;
    assert_eq!(rig.parts().len(), 10);
}

#[tokio::test]
async fn a_long_pathname_has_an_anchor_as_any_other() {
    let rig = Rig::new();
    let names = ["a", "b"].map(|last| format!("r/{}{last}.json", "é".repeat(460)));
    for name in &names {
        rig.put(name, format!(r#"{{"key": "{}"}}"#, name.len())).await;
    }
    rig.delete(&names[1]).await;
    assert_eq!(rig.backfill().await.written, 1);
    rig.check().await;
}

#[tokio::test]
async fn a_rule_that_no_longer_maps_a_blob_removes_its_items() {
    let rig = Rig::new();
    rig.put("r/1.json", "{}").await;
    rig.reconcile("r/1.json").await;
    let accepting = rig.remapped(&PLAN.replace("r/broken-*.json", "r/1.json"));
    assert_eq!(accepting.converge(&"r/1.json".into(), Purpose::Repair).await.unwrap(), Converged::Written);
    assert!(rig.items().is_empty());
}

const SEALED: &str = r#"
[[entity]]
name = "sealed"
blobs = "s/{id}.json"
decode = "auto"
[[entity.item]]
PK = "S#{{ id }}"
SK = "META"
"#;

/// A process with a wrong key, or none, must not take away what another one could open.
#[tokio::test]
async fn a_wrong_key_takes_no_items_away() {
    let rig = Rig::with(&format!("{PLAN}{SEALED}"));
    let sealed = include_bytes!("../../../fixtures/envelope/signup.json");
    rig.put("s/1.json", &sealed[..]).await;
    let keyed = |secret: &str| {
        let mapper = Mapper::with_key(&rig.plan, Some(secret.to_owned().into())).unwrap();
        Converger { mapper: Arc::new(mapper), ..rig.converger.clone() }
    };
    let right = keyed(migrate::fixture::ENCRYPTION_KEY);
    let name = Pathname::from("s/1.json");
    assert_eq!(right.converge(&name, Purpose::Reconcile).await.unwrap(), Converged::Written);
    let before = rig.items();
    for wrong in [keyed("wrong"), rig.converger.clone()] {
        let error = wrong.converge(&name, Purpose::Repair).await.unwrap_err();
        assert!(error.advice().unwrap().contains("ENCRYPTION_KEY"), "{error}");
        assert_eq!(rig.items(), before);
        assert_eq!(rig.anchor("s/1.json").await.unwrap().state, AnchorState::Live);
    }
    assert_eq!(right.converge(&name, Purpose::Repair).await.unwrap(), Converged::Written);
}
