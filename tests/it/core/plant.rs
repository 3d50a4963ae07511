//! Each kind of drift, planted, must be found as what it is, with pathname, key and versions; a repair
//! settles what can be settled, and touches nothing else. Hazard A11: a validator that can't fail.

use migrate::protocol::Rev;
use migrate::sweep::{Drift, DriftKind, Level};
use migrate::target::control::{Anchor, AnchorState, Keys, encode_body, names};
use migrate::target::store::Table;
use migrate::value::{Key, Value};

use super::harness::{Rig, foreign, owned};

/// Two blobs in the mirror, and an item of the application beside them.
async fn mirrored() -> Rig {
    let rig = Rig::new();
    rig.put("r/1.json", r#"{"v": "one", "n": 1.50}"#).await;
    rig.put("p/2.json", r#"{"extra": "x"}"#).await;
    rig.plant(foreign("APP", "1")).await;
    assert!(rig.backfill().await.complete());
    let report = rig.sweep(Level::Content, false).await;
    assert_eq!(report.obstacles(), Vec::<String>::new());
    rig
}

/// Replaces an anchor past the protocol.
pub(super) async fn plant_anchor(rig: &Rig, anchor: &Anchor) {
    let migrate::target::Write::Put { item, .. } = anchor.write(None) else { panic!("an anchor is put") };
    rig.remove(Table::Control, anchor.key()).await;
    let write = migrate::target::Write::Put {
        table: Table::Control,
        item,
        condition: migrate::target::Condition::Absent,
    };
    migrate::target::TargetStore::transact(rig.target.as_ref(), &names::token(), vec![write]).await.unwrap();
}

type Told<'a> = (DriftKind, &'a str, Option<Key>);

fn told(drift: &[Drift]) -> Vec<Told<'_>> {
    let mut told: Vec<_> =
        drift.iter().map(|drift| (drift.kind, drift.pathname.as_str(), drift.key.clone())).collect();
    told.sort();
    told
}

fn meta(id: &str) -> Option<Key> {
    Some(Key::new(format!("R#{id}"), "META"))
}

/// Finds exactly this at these levels, repairs it, and finds nothing more.
async fn found_and_settled(rig: &Rig, expected: &[Told<'_>], levels: &[Level]) -> Vec<Drift> {
    for level in levels {
        let before = (rig.target.contents(Table::Data), rig.target.contents(Table::Control));
        let report = rig.sweep(*level, false).await;
        assert_eq!(told(&report.drift), expected, "{level:?}");
        assert!(report.complete(), "{level:?} {report:?}");
        assert_eq!(report.remaining, None);
        let after = (rig.target.contents(Table::Data), rig.target.contents(Table::Control));
        assert!(before == after, "a sweep that does not repair writes nothing");
    }
    let report = rig.sweep(*levels.last().unwrap(), true).await;
    assert_eq!(told(&report.drift), expected);
    assert_eq!(report.remaining, Some(Vec::new()));
    assert!(!report.obstacles().is_empty(), "a sweep that found something is not clean, even repaired");
    assert_eq!(rig.sweep(Level::Content, false).await.obstacles(), Vec::<String>::new());
    assert_eq!(rig.item("APP", "1"), Some(foreign("APP", "1")));
    rig.check().await;
    report.drift
}

const BOTH: [Level; 2] = [Level::Inventory, Level::Content];

#[tokio::test]
async fn a_blob_that_was_never_mirrored() {
    let rig = mirrored().await;
    let head = rig.put("r/9.json", "{}").await;
    let drift = found_and_settled(&rig, &[(DriftKind::Missing, "r/9.json", None)], &BOTH).await;
    assert_eq!(drift[0].source, Some(format!("{} of {}", head.blob.etag, head.blob.uploaded_at)));
    assert_eq!((drift[0].target.as_deref(), drift[0].detail.as_str()), (None, "nothing mirrors it"));
}

#[tokio::test]
async fn an_anchor_that_is_gone() {
    let rig = mirrored().await;
    let anchor = rig.anchor("r/1.json").await.unwrap();
    rig.remove(Table::Control, anchor.key()).await;
    let expected = [(DriftKind::Missing, "r/1.json", None), (DriftKind::Orphan, "r/1.json", meta("1"))];
    let report = rig.sweep(Level::Inventory, false).await;
    assert_eq!(told(&report.drift), expected);
    rig.sweep(Level::Content, true).await;
    assert_eq!(rig.sweep(Level::Content, false).await.obstacles(), Vec::<String>::new());
    rig.check().await;
}

#[tokio::test]
async fn an_item_that_was_deleted_in_the_table() {
    let rig = mirrored().await;
    rig.remove(Table::Data, meta("1").unwrap()).await;
    let drift = found_and_settled(&rig, &[(DriftKind::Missing, "r/1.json", meta("1"))], &BOTH).await;
    assert!(drift[0].target.as_ref().unwrap().contains("rev "), "{drift:?}");
}

#[tokio::test]
async fn a_blob_that_is_gone() {
    let rig = mirrored().await;
    rig.delete("r/1.json").await;
    let drift = found_and_settled(&rig, &[(DriftKind::Extra, "r/1.json", None)], &BOTH).await;
    assert_eq!(drift[0].source, None);
    assert!(rig.item("R#1", "META").is_none());
}

#[tokio::test]
async fn a_quarantined_blob_that_is_gone() {
    let rig = mirrored().await;
    rig.put("r/bad.json", "{").await;
    rig.backfill().await;
    rig.delete("r/bad.json").await;
    found_and_settled(&rig, &[(DriftKind::Extra, "r/bad.json", None)], &BOTH).await;
}

#[tokio::test]
async fn a_blob_of_another_version() {
    let rig = mirrored().await;
    let old = rig.anchor("r/1.json").await.unwrap();
    let head = rig.put("r/1.json", r#"{"v": "two"}"#).await;
    let drift = found_and_settled(&rig, &[(DriftKind::Stale, "r/1.json", None)], &BOTH).await;
    assert!(drift[0].source.as_ref().unwrap().starts_with(head.blob.etag.as_str()));
    let target = drift[0].target.as_ref().unwrap();
    assert!(target.starts_with(old.head.unwrap().etag.as_str()) && target.ends_with(old.rev.as_str()));
    assert_eq!(drift[0].detail, "the mirror holds another version");
}

#[tokio::test]
async fn the_same_bytes_stored_again() {
    let rig = mirrored().await;
    rig.put("r/1.json", r#"{"v": "one", "n": 1.50}"#).await;
    let drift = found_and_settled(&rig, &[(DriftKind::Stale, "r/1.json", None)], &BOTH).await;
    assert_eq!(drift[0].detail, "it was stored again since");
}

#[tokio::test]
async fn other_rules_than_those_it_was_mapped_under() {
    let rig = mirrored().await;
    let mut anchor = rig.anchor("r/1.json").await.unwrap();
    anchor.mapping = Some(migrate::digest::Digest::of("other rules"));
    plant_anchor(&rig, &anchor).await;
    let drift = found_and_settled(&rig, &[(DriftKind::Stale, "r/1.json", None)], &BOTH).await;
    assert_eq!(drift[0].detail, "it was mapped under other rules");
}

#[tokio::test]
async fn a_change_that_was_begun_and_not_finished() {
    let rig = mirrored().await;
    let mut anchor = rig.anchor("r/1.json").await.unwrap();
    anchor.state = AnchorState::Pending;
    plant_anchor(&rig, &anchor).await;
    found_and_settled(&rig, &[(DriftKind::Stale, "r/1.json", None)], &BOTH).await;
}

#[tokio::test]
async fn an_attribute_that_differs() {
    let rig = mirrored().await;
    let mut item = rig.item("R#1", "META").unwrap();
    item.insert("v".to_owned(), Value::s("meddled"));
    item.insert("n".to_owned(), Value::N("1.51".parse().unwrap()));
    rig.plant(item).await;
    assert_eq!(told(&rig.sweep(Level::Inventory, false).await.drift), [], "only contents tell");
    let expected = [(DriftKind::Different, "r/1.json", meta("1"))];
    let drift = found_and_settled(&rig, &expected, &[Level::Content]).await;
    let diff = drift[0].diff.as_ref().unwrap();
    for line in ["-n = 1.5\n", "+n = 1.51\n", "-v = \"one\"\n", "+v = \"meddled\"\n"] {
        assert!(diff.contains(line), "{line:?} is not in\n{diff}");
    }
    assert!(!diff.contains("PK"), "what is equal is not shown:\n{diff}");
}

#[tokio::test]
async fn an_attribute_too_many_or_too_few() {
    for too_many in [true, false] {
        let rig = mirrored().await;
        let mut item = rig.item("R#1", "META").unwrap();
        if too_many {
            item.insert("more".to_owned(), Value::Null);
        } else {
            item.remove("v");
        }
        rig.plant(item).await;
        found_and_settled(&rig, &[(DriftKind::Different, "r/1.json", meta("1"))], &[Level::Content]).await;
    }
}

/// Hazard B2: 1.50, 1.5 and 15e-1 are one number.
#[tokio::test]
async fn a_number_in_another_form_is_no_drift() {
    let rig = mirrored().await;
    let mut item = rig.item("R#1", "META").unwrap();
    item.insert("n".to_owned(), Value::N("15e-1".parse().unwrap()));
    rig.plant(item).await;
    assert_eq!(rig.sweep(Level::Content, false).await.obstacles(), Vec::<String>::new());
}

/// Hazard A5: an item that slipped past its tombstone.
#[tokio::test]
async fn an_item_of_ours_that_no_anchor_names() {
    let rig = mirrored().await;
    rig.plant(owned("R#ghost", "META", "r/ghost.json", "0")).await;
    rig.plant(owned("R#more", "META", "r/1.json", "0")).await;
    let expected =
        [(DriftKind::Orphan, "r/1.json", meta("more")), (DriftKind::Orphan, "r/ghost.json", meta("ghost"))];
    let drift = found_and_settled(&rig, &expected, &BOTH).await;
    let details: Vec<_> = drift.iter().map(|drift| drift.detail.as_str()).collect();
    assert!(details.contains(&"its blob has no anchor") && details.contains(&"its anchor does not name it"));
    assert!(rig.item("R#ghost", "META").is_none() && rig.item("R#more", "META").is_none());
}

#[tokio::test]
async fn an_item_under_another_rev_than_its_anchor_names() {
    let rig = mirrored().await;
    let mut item = rig.item("R#1", "META").unwrap();
    let source = migrate::converge::SOURCE.to_owned();
    item.insert(source.clone(), owned("", "", "r/1.json", "late").remove(&source).unwrap());
    rig.plant(item).await;
    let drift = found_and_settled(&rig, &[(DriftKind::Orphan, "r/1.json", meta("1"))], &BOTH).await;
    assert_eq!(drift[0].detail, "its rev is not the one that its anchor names");
}

#[tokio::test]
async fn an_item_that_somebody_else_took() {
    let rig = mirrored().await;
    rig.plant(foreign("R#1", "META")).await;
    rig.plant(owned("P#2", "A", "r/other.json", "0")).await;
    let report = rig.sweep(Level::Inventory, true).await;
    let second = || Some(Key::new("P#2", "A"));
    let expected = [
        (DriftKind::Orphan, "r/other.json", second()),
        (DriftKind::Collision, "p/2.json", second()),
        (DriftKind::Collision, "r/1.json", meta("1")),
    ];
    assert_eq!(told(&report.drift), expected);
    let details: Vec<_> = report.drift.iter().map(|drift| drift.detail.as_str()).collect();
    assert!(details.contains(&"the item has no `_source`: it is the application's"), "{details:?}");
    assert!(details.contains(&"the item belongs to `r/other.json`"), "{details:?}");

    // That blob never was, so its item went; what belongs to the application stays as it is.
    let report = rig.sweep(Level::Content, true).await;
    let expected =
        [(DriftKind::Missing, "p/2.json", second()), (DriftKind::Collision, "r/1.json", meta("1"))];
    assert_eq!(told(&report.drift), expected);
    assert_eq!(told(&report.remaining.unwrap()), expected[1..]);
    assert_eq!(rig.item("R#1", "META"), Some(foreign("R#1", "META")));
}

#[tokio::test]
async fn a_blob_whose_item_is_taken() {
    let rig = mirrored().await;
    rig.plant(foreign("R#taken", "META")).await;
    // One that was never mirrored, and one that moves there.
    rig.put("r/new.json", r#"{"key": "taken"}"#).await;
    rig.put("r/1.json", r#"{"key": "taken"}"#).await;
    for repair in [false, true] {
        let report = rig.sweep(Level::Inventory, repair).await;
        let collision = |name| (DriftKind::Collision, name, meta("taken"));
        assert_eq!(told(&report.drift), [collision("r/1.json"), collision("r/new.json")]);
        assert_eq!(report.drift[0].detail, "the item belongs to the application");
        assert!(report.complete());
    }
    assert_eq!(rig.item("R#taken", "META"), Some(foreign("R#taken", "META")));
}

#[tokio::test]
async fn a_blob_that_can_not_be_mapped() {
    let rig = mirrored().await;
    rig.put("r/bad.json", r#"{"n": 1e999}"#).await;
    rig.backfill().await;
    for level in BOTH {
        let report = rig.sweep(level, true).await;
        assert_eq!(told(&report.drift), [(DriftKind::Unmappable, "r/bad.json", None)]);
        assert_eq!(report.drift, report.remaining.clone().unwrap());
        assert!(report.drift[0].detail.starts_with("number: "), "{report:?}");
        assert!(report.complete());
        assert_eq!(report.row("w".to_owned(), "plan", migrate::protocol::phase::Epoch(1)).quarantined, 1);
    }
}

#[tokio::test]
async fn a_blob_that_is_quarantined_without_need() {
    let rig = mirrored().await;
    rig.put("r/bad.json", r#"{"n": 1e999}"#).await;
    rig.backfill().await;
    let quarantined = rig.anchor("r/bad.json").await.unwrap();
    let mut anchor = rig.anchor("r/1.json").await.unwrap();
    rig.remove(Table::Data, meta("1").unwrap()).await;
    (anchor.state, anchor.items, anchor.items_rev) = (quarantined.state, Keys::default(), None);
    plant_anchor(&rig, &anchor).await;
    let report = rig.sweep(Level::Content, true).await;
    assert_eq!(report.remaining.unwrap().len(), 1, "only the one that is bad");
    rig.check().await;
}

#[tokio::test]
async fn a_retained_body_that_is_missing_or_damaged() {
    let rig = mirrored().await;
    let anchor = rig.anchor("r/1.json").await.unwrap();
    let key = rig.parts().into_keys().find(|key| key.partition == names::body_partition(&anchor.pathname));
    rig.remove(Table::Control, key.unwrap()).await;
    let expected = [(DriftKind::Different, "r/1.json", None)];
    let drift = found_and_settled(&rig, &expected, &[Level::Content]).await;
    assert_eq!(drift[0].detail, "a part of its retained body is missing");

    let anchor = rig.anchor("r/1.json").await.unwrap();
    for bytes in [&b"another body"[..], br#"{"v": "one", "n": 1.51}"#] {
        let body = anchor.body.clone().unwrap();
        rig.remove(Table::Control, names::body(&anchor.pathname, &body.rev, 0)).await;
        let (_, rows) = encode_body(&anchor.pathname, &body.rev, bytes).unwrap();
        migrate::target::TargetStore::insert(rig.target.as_ref(), Table::Control, rows).await.unwrap();
        let report = rig.sweep(Level::Content, false).await;
        assert_eq!(told(&report.drift), expected);
        assert!(report.drift[0].detail.contains("SHA-256"), "{:?}", report.drift[0].detail);
    }
    found_and_settled(&rig, &expected, &[Level::Content]).await;
}

#[tokio::test]
async fn two_anchors_that_name_one_item() {
    let rig = mirrored().await;
    let mut anchor = rig.anchor("r/1.json").await.unwrap();
    anchor.items = vec![Key::new("P#2", "A")].into();
    anchor.rev = Rev::new("planted");
    plant_anchor(&rig, &anchor).await;
    let report = rig.sweep(Level::Inventory, false).await;
    let names: Vec<_> = report.drift.iter().map(|drift| (drift.kind, drift.pathname.as_str())).collect();
    assert!(names.contains(&(DriftKind::Collision, "r/1.json")), "{names:?}");
    assert!(!names.iter().any(|(_, name)| *name == "p/2.json"), "its own claim is good: {names:?}");
}

#[tokio::test]
async fn many_kinds_at_once_are_counted_each() {
    let rig = mirrored().await;
    for number in 0..30 {
        rig.put(&format!("r/x{number}.json"), r#"{"v": 1}"#).await;
    }
    rig.backfill().await;
    for number in 0..10 {
        rig.delete(&format!("r/x{number}.json")).await;
        rig.put(&format!("r/x{}.json", number + 10), r#"{"v": 2}"#).await;
        rig.remove(Table::Data, meta(&format!("x{}", number + 20)).unwrap()).await;
    }
    let report = rig.sweep(Level::Content, true).await;
    let expected = [(DriftKind::Missing, 10), (DriftKind::Extra, 10), (DriftKind::Stale, 10)];
    assert_eq!(report.counts(), expected.into());
    assert_eq!(report.remaining, Some(Vec::new()));
    rig.check().await;
}
