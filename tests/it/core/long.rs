//! Bodies that are mapped record by record, since they are too long for memory.

use std::ops::Range;
use std::time::Duration;

use bytes::Bytes;
use migrate::ErrorKind;
use migrate::blob::{BlobStore as _, Pathname};
use migrate::converge::{Converged, rebuild};
use migrate::mapping::{BlobFacts, Document, MappedItem, Mapper, Rule};
use migrate::plan::MirrorMode;
use migrate::protocol::converge::Purpose;
use migrate::sweep::{DriftKind, Level};
use migrate::target::control::{AnchorState, BodyForm, names};
use migrate::target::memory::{Fault, Operation};
use migrate::target::store::Table;
use migrate::value::{Key, Value};

use super::gateway::{Stage, over};
use super::harness::{PLAN, Rig, foreign};
use super::large::no_leftovers;

const LONG: &str = r#"
[[entity]]
name = "list"
blobs = "list/{id}.json"
[[entity.item]]
each = "users[*]"
PK = "U#{{ record.id }}"
SK = "META"
[[entity.item]]
each = "users[*]"
when = "record.extra"
body = "none"
PK = "U#{{ record.id }}"
SK = "EXTRA"
[[entity]]
name = "map"
blobs = "map/{id}.json"
[[entity.item]]
each = "records[*]"
PK = "M#{{ key }}"
SK = "META"
[[entity]]
name = "lines"
blobs = "lines/{id}.ndjson"
decode = "ndjson"
[[entity.item]]
each = "[*]"
PK = "N#{{ record.id }}"
SK = "META"
"#;

const LIST: &str = "list/1.json";

/// Enough for a body over 4 MiB in 300 records.
const PAD: usize = 15_000;

fn plan() -> String {
    format!("{PLAN}{LONG}")
}

fn rig() -> Rig {
    Rig::with(&plan())
}

fn record(number: usize, value: &str) -> String {
    padded(number, value, PAD)
}

fn padded(number: usize, value: &str, bytes: usize) -> String {
    // Each record with letters of its own, so that no two are exchanged unseen.
    let pad = char::from(b'a' + u8::try_from(number % 26).unwrap()).to_string().repeat(bytes);
    format!(
        r#"{{"id": "{number:04}", "v": "{value}", "n": {number}.50, "extra": {}, "pad": "{pad}"}}"#,
        number.is_multiple_of(7)
    )
}

fn list(range: Range<usize>, value: &str) -> String {
    let records: Vec<String> = range.map(|number| record(number, value)).collect();
    format!(r#"{{"version": 3, "users": [{}], "other": [1, {{"b": 2, "a": "é"}}]}}"#, records.join(", "))
}

/// What a blob is put together to, by the anchor and the items of the mirror.
async fn rebuilt(rig: &Rig, name: &str) -> Vec<u8> {
    let mapper = &rig.converger.mapper;
    let Rule::Entity(entity) = mapper.rule(&name.into()) else { panic!("an entity takes it") };
    let anchor = rig.anchor(name).await.unwrap();
    assert_eq!(anchor.body.as_ref().map(|body| body.form), Some(BodyForm::Skeleton));
    let skeleton = rig.control.skeleton(&anchor).await.unwrap().unwrap();
    let mut text = Vec::new();
    let take = |piece: &[u8]| {
        text.extend_from_slice(piece);
        Ok(())
    };
    rebuild(&rig.control, (mapper, entity), &anchor, &skeleton, take).await.unwrap();
    text
}

fn document(mapper: &Mapper, name: &str, body: &[u8]) -> Document {
    let Rule::Entity(entity) = mapper.rule(&name.into()) else { panic!("an entity takes it") };
    mapper.decode(entity, body).unwrap()
}

/// As a whole, so that the two ways are compared.
fn items(rig: &Rig, name: &str, body: &str) -> Vec<MappedItem> {
    let mapper = &rig.converger.mapper;
    let Rule::Entity(entity) = mapper.rule(&name.into()) else { panic!("an entity takes it") };
    let (pathname, now) = (Pathname::from(name), "2026-11-01T00:00:00Z".parse().unwrap());
    let facts = BlobFacts { pathname: &pathname, uploaded_at: now };
    mapper.map(entity, facts, body.as_bytes(), now).unwrap()
}

#[tokio::test]
async fn a_long_body_of_any_form_becomes_its_items_and_comes_back() {
    let members: Vec<String> = (0..300).rev().map(|n| format!("\"k{n}\": {}", record(n, "a"))).collect();
    let lines: Vec<String> = (0..300).map(|number| record(number, "a")).collect();
    let bodies = [
        (LIST, list(0..300, "a")),
        ("map/1.json", format!(r#"{{"records": {{{}}}, "version": 1}}"#, members.join(","))),
        ("lines/1.ndjson", format!("{}\n", lines.join("\n\n"))),
    ];
    let rig = rig();
    for (name, body) in &bodies {
        rig.put(name, body.clone()).await;
    }
    let report = rig.backfill().await;
    assert_eq!((report.written, report.failed.len()), (3, 0));
    rig.check().await;
    no_leftovers(&rig).await;
    for (name, body) in &bodies {
        let anchor = rig.anchor(name).await.unwrap();
        let keys: Vec<Key> = items(&rig, name, body).into_iter().map(|mapped| mapped.key).collect();
        assert_eq!(*anchor.items, *keys, "{name}: in the order of the plan");
        let text = rebuilt(&rig, name).await;
        let mapper = &rig.converger.mapper;
        let (back, stored) = (document(mapper, name, &text), document(mapper, name, body.as_bytes()));
        assert!(back.semantically_eq(&stored), "{name} came back as something else");
    }
    let sweep = rig.sweep(Level::Content, false).await;
    assert_eq!((sweep.obstacles(), sweep.compared), (Vec::new(), 3));
    // Nothing differed, so what was found is what was planted: one difference in each of them.
    assert_eq!((sweep.planted, sweep.found), (3, 3));
}

#[tokio::test]
async fn a_long_body_is_replaced_and_removed() {
    let rig = rig();
    for (range, value) in [(0..300, "a"), (150..450, "b"), (150..450, "c")] {
        rig.put(LIST, list(range.clone(), value)).await;
        assert_eq!(rig.intent(LIST).await, Converged::Written);
        rig.check().await;
        no_leftovers(&rig).await;
        assert_eq!(rig.sweep(Level::Content, false).await.obstacles(), Vec::<String>::new());
    }
    // Shorter than what is read record by record, and longer again.
    for (range, value) in [(0..3, "d"), (0..300, "e")] {
        rig.put(LIST, list(range, value)).await;
        rig.reconcile(LIST).await;
        rig.check().await;
        no_leftovers(&rig).await;
    }
    rig.delete(LIST).await;
    rig.reconcile(LIST).await;
    assert!(rig.items().is_empty() && rig.anchor(LIST).await.unwrap().state == AnchorState::Tombstone);
    no_leftovers(&rig).await;
}

/// So many keys are more than an anchor's own row holds.
#[tokio::test]
async fn keys_that_lie_in_pages_are_swept_and_replaced_with_their_anchor() {
    let rig = rig();
    let body = |first: usize, count: usize, value: &str, bytes: usize| {
        let records: Vec<String> =
            (first..first + count).map(|number| padded(number, value, bytes)).collect();
        format!(r#"{{"users": [{}]}}"#, records.join(","))
    };
    // One as a whole, one record by record.
    let blobs = [(LIST, 0, 20), ("list/2.json", 5_000, 6_000)];
    for (value, count) in [("a", 800), ("b", 801)] {
        for (name, first, bytes) in blobs {
            rig.put(name, body(first, count, value, bytes)).await;
        }
        let report = rig.backfill().await;
        assert_eq!((report.written, report.failed.len()), (2, 0), "{value}");
        for (name, ..) in blobs {
            assert!(rig.anchor(name).await.unwrap().pages.is_some(), "{name}");
        }
        rig.check_after(value).await;
        no_leftovers(&rig).await;
        for level in [Level::Inventory, Level::Content] {
            let sweep = rig.sweep(level, false).await;
            assert_eq!((sweep.obstacles(), sweep.superseded), (Vec::new(), 0), "{value} {level:?}");
            assert_eq!(
                (sweep.items, sweep.items_compared),
                (1_829 + if value == "b" { 2 } else { 0 }, sweep.items),
                "{value} {level:?}"
            );
        }
    }
    let anchor = rig.anchor(LIST).await.unwrap();
    rig.remove(Table::Control, names::keys(&anchor.pathname, &anchor.pages.unwrap().rev, 0)).await;
    let drift = rig.sweep(Level::Content, false).await.drift;
    assert!(
        drift.iter().any(|drift| drift.pathname.as_str() == LIST),
        "a page that is missing is told: {drift:?}"
    );
}

/// A gateway keeps what it receives in a file long before it is too long for memory.
#[tokio::test]
async fn a_body_through_the_gateway_is_retained_or_rebuilt_by_its_length() {
    let mut stage = Stage::with(&plan());
    stage.plan.capture.mirror = MirrorMode::Strict;
    let gateway = stage.gateway("g").await;
    for (records, form) in [(5, BodyForm::Bytes), (30, BodyForm::Bytes), (300, BodyForm::Skeleton)] {
        let body = Bytes::from(list(0..records, "a"));
        gateway.put(&LIST.into(), body.into(), &over()).await.unwrap();
        let retained = stage.rig.anchor(LIST).await.unwrap().body.unwrap();
        assert_eq!(retained.form, form, "{records} records");
        assert_eq!(stage.intents().await, []);
        stage.rig.check_after(format_args!("{records} records")).await;
    }
    gateway.close(Duration::ZERO).await.unwrap();
}

/// A crash is a request that was never sent; here, at each of them in turn.
#[tokio::test]
async fn a_crash_within_a_long_body_converges_on_the_next_run() {
    for crash in 0.. {
        let rig = rig();
        rig.put(LIST, list(0..3, "a")).await;
        rig.reconcile(LIST).await;
        rig.put(LIST, list(2..302, "b")).await;
        rig.target.spare(Operation::Transact, crash);
        rig.target.fault(Operation::Transact, Fault::Refused(ErrorKind::Denied));
        let ended = rig.converge(LIST, Purpose::Reconcile).await;
        rig.target.clear_faults();
        if ended.is_ok() {
            assert_eq!(crash, 7, "a pending anchor, four parts of items, removals, an anchor");
            rig.check().await;
            return;
        }
        assert_eq!(rig.anchor(LIST).await.unwrap().state == AnchorState::Pending, crash > 0, "{crash}");
        let found = rig.sweep(Level::Inventory, false).await;
        assert!(found.drift.iter().any(|drift| drift.kind == DriftKind::Stale), "{crash}");
        rig.backfill().await;
        rig.sweep(Level::Content, true).await;
        rig.check_after(format_args!("a crash before request {crash}")).await;
    }
}

/// Each kind of damage is found as what it is, and repaired.
#[tokio::test]
async fn what_differs_in_a_long_body_is_found_and_repaired() {
    let rig = rig();
    rig.put(LIST, list(0..300, "a")).await;
    rig.reconcile(LIST).await;
    let key = |number: &str| Key::new(format!("U#{number}"), "META");
    for damage in
        ["an item gone", "a field changed", "an item of the application", "no skeleton", "an item too many"]
    {
        let mut anchor = rig.anchor(LIST).await.unwrap();
        let mut repairable = true;
        let (kind, at) = match damage {
            "an item gone" => {
                rig.remove(Table::Data, key("0123")).await;
                (DriftKind::Missing, Some(key("0123")))
            }
            "a field changed" => {
                let mut item = rig.item("U#0299", "META").unwrap();
                item.insert("v".to_owned(), Value::s("changed"));
                rig.remove(Table::Data, key("0299")).await;
                rig.plant(item).await;
                (DriftKind::Different, Some(key("0299")))
            }
            "an item of the application" => {
                rig.remove(Table::Data, key("0007")).await;
                rig.plant(foreign("U#0007", "META")).await;
                repairable = false;
                (DriftKind::Collision, Some(key("0007")))
            }
            "no skeleton" => {
                let body = anchor.body.clone().unwrap();
                rig.remove(Table::Control, names::body(&anchor.pathname, &body.rev, 0)).await;
                (DriftKind::Different, None)
            }
            _ => {
                anchor.items = anchor
                    .items
                    .iter()
                    .cloned()
                    .chain([Key::new("U#9999", "META")])
                    .collect::<Vec<_>>()
                    .into();
                super::plant::plant_anchor(&rig, &anchor).await;
                (DriftKind::Different, Some(Key::new("U#9999", "META")))
            }
        };
        let report = rig.sweep(Level::Content, false).await;
        let found: Vec<_> = report.drift.iter().map(|drift| (drift.kind, drift.key.clone())).collect();
        assert_eq!(found, [(kind, at)], "{damage}: {:?}", report.drift);
        let report = rig.sweep(Level::Content, true).await;
        assert_eq!(report.remaining.unwrap().is_empty(), repairable, "{damage}");
        if !repairable {
            rig.remove(Table::Data, key("0007")).await;
            rig.sweep(Level::Content, true).await;
        }
        rig.check_after(damage).await;
    }
}

#[tokio::test]
async fn a_record_that_cannot_be_stored_quarantines_its_long_body() {
    let rig = rig();
    rig.put(LIST, list(0..300, "a")).await;
    rig.reconcile(LIST).await;
    let broken = list(0..300, "b").replace("200.50", "1e999");
    rig.put(LIST, broken.clone()).await;
    assert_eq!(rig.reconcile(LIST).await, Converged::Quarantined);
    let AnchorState::Quarantined { quarantine } = rig.anchor(LIST).await.unwrap().state else {
        panic!("live")
    };
    let offset = usize::try_from(quarantine.offset.unwrap()).unwrap();
    assert_eq!(&broken[offset..offset + 5], "1e999");
    assert!(quarantine.detail.contains("users[200].n"), "{quarantine}");
    assert!(rig.items().is_empty());
    no_leftovers(&rig).await;
    let drift = rig.sweep(Level::Content, false).await.drift;
    assert_eq!(drift.iter().map(|drift| drift.kind).collect::<Vec<_>>(), [DriftKind::Unmappable]);
}
