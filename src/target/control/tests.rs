//! The rows as they are stored, against `fixtures/rows/`: what an earlier program stored must be read,
//! and what this one stores must be what the other reads.

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::path::Path;

use jiff::Timestamp;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Value as Json, json};

use super::*;
use crate::blob::{ETag, Pathname};
use crate::digest::Digest;
use crate::mapping::{Quarantine, Reason};
use crate::protocol::Rev;
use crate::protocol::canary::Share;
use crate::protocol::phase::{Epoch, Phase};
use crate::target::Write;
use crate::value::Value;

/// An attribute value in DynamoDB's notation.
fn typed(value: &Value) -> Json {
    match value {
        Value::S(text) => json!({ "S": text }),
        Value::N(number) => json!({ "N": number.as_str() }),
        Value::B(bytes) => json!({ "B": hex::encode(bytes) }),
        Value::Bool(truth) => json!({ "BOOL": truth }),
        Value::Null => json!({ "NULL": true }),
        Value::L(list) => json!({ "L": list.iter().map(typed).collect::<Vec<_>>() }),
        Value::M(map) => json!({ "M": typed_item(map) }),
        Value::Ss(_) | Value::Ns(_) | Value::Bs(_) => panic!("no row holds a set"),
    }
}

fn typed_item(item: &Item) -> Json {
    item.iter().map(|(name, value)| (name.clone(), typed(value))).collect::<serde_json::Map<_, _>>().into()
}

fn untyped(json: &Json) -> Value {
    let (kind, value) = json.as_object().and_then(|typed| typed.iter().next()).expect("one type");
    let text = || value.as_str().expect("text");
    match kind.as_str() {
        "S" => Value::s(text()),
        "N" => Value::N(text().parse().expect("a number")),
        "B" => Value::B(hex::decode(text()).expect("bytes").into()),
        "BOOL" => Value::Bool(value.as_bool().expect("a truth value")),
        "NULL" => Value::Null,
        "L" => Value::L(value.as_array().expect("a list").iter().map(untyped).collect()),
        "M" => Value::M(untyped_item(value)),
        other => panic!("an unknown type {other}"),
    }
}

fn untyped_item(json: &Json) -> Item {
    let members = json.as_object().expect("an item").iter();
    members.map(|(name, value)| (name.clone(), untyped(value))).collect()
}

/// The item that a fixture holds.
#[track_caller]
fn golden(name: &str, stored: &Item) -> Item {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/rows").join(name).with_extension("json");
    let text = std::fs::read_to_string(&path).unwrap_or_default();
    let now = format!("{:#}\n", typed_item(stored));
    assert_eq!(text, now, "{} is not what is stored:\n{now}", path.display());
    untyped_item(&serde_json::from_str(&text).expect("JSON"))
}

#[track_caller]
fn row<T: Serialize + DeserializeOwned + PartialEq + Debug>(name: &str, key: &Key, row: &T) {
    let item = golden(name, &row::encode(key, row));
    assert_eq!(row::key(&item), *key);
    assert_eq!(row::decode::<T>(item).expect("it is read"), *row);
}

fn at(second: i64) -> Timestamp {
    Timestamp::from_millisecond(1_790_000_000_123 + second * 1_000).expect("a time")
}

fn live() -> Anchor {
    Anchor {
        pathname: Pathname::from("signups/é_1.json"),
        rev: Rev::new("00000000000000000000000000000002"),
        state: AnchorState::Live,
        items_rev: Some(Rev::new("00000000000000000000000000000001")),
        items: vec![Key::new("SIGNUP#1", "METADATA"), Key::new("SIGNUP#1", "CONSENT")].into(),
        pages: None,
        head: Some(BlobHead {
            etag: ETag::of(b"{}"),
            uploaded_at: at(0),
            size: 2,
            content_type: "application/json".to_owned(),
            cache_control: "public, max-age=2592000".to_owned(),
            sha256: Digest::of("{}"),
            md5: "99914b932bd37a50b983c5e7c90ae93b".to_owned(),
            blob_etag: ETag::of(b"{}"),
            blob_uploaded_at: None,
        }),
        mapping: Some(Digest::of("rules")),
        body: Some(BodyRef {
            rev: Rev::new("00000000000000000000000000000001"),
            parts: 2,
            form: BodyForm::Bytes,
        }),
        groups: Vec::new(),
        behind: None,
        item: None,
        adopted: false,
        removed_at: None,
        request: None,
    }
}

#[test]
fn anchors() {
    let live = live();
    let quarantine = Quarantine {
        reason: Reason::DuplicateName,
        detail: "`n` is there twice".to_owned(),
        offset: Some(7),
    };
    let quarantined = Anchor {
        state: AnchorState::Quarantined { quarantine },
        items_rev: None,
        items: Keys::default(),
        body: None,
        ..live.clone()
    };
    let pending = Anchor { state: AnchorState::Pending, ..live.clone() };
    let tombstone = Anchor::tombstone(live.pathname.clone(), live.rev.clone());
    let removed = Anchor { removed_at: Some(at(7)), ..tombstone.clone() };
    let item = Some(ItemSeen { digest: Digest::of("item"), expires: Some(1_800_000_000) });
    let adopted = Anchor { item, adopted: true, ..live.clone() };
    let skeleton = live.body.clone().map(|body| BodyRef { form: BodyForm::Skeleton, ..body });
    let rebuilt = Anchor { body: skeleton, ..live.clone() };
    for (name, anchor) in [
        ("anchor-live", &live),
        ("anchor-pending", &pending),
        ("anchor-rebuilt", &rebuilt),
        ("anchor-adopted", &adopted),
        ("anchor-quarantined", &quarantined),
        ("anchor-tombstone", &tombstone),
        ("anchor-removed", &removed),
    ] {
        row(name, &anchor.key(), anchor);
        let Write::Put { item, .. } = anchor.write(None) else { panic!("an anchor is put") };
        assert_eq!(item, row::encode(&anchor.key(), anchor));
        assert_eq!(Anchor::rev_of(&item).as_ref(), Some(&anchor.rev));
        assert_eq!(live.names_as(&item), anchor.body.is_some());
    }
}

#[test]
fn owners() {
    let owner = Owner { key: Key::new("SIGNUP#1", "METADATA"), pathname: live().pathname };
    row("owner", &names::owner(&owner.key), &owner);
    let Write::Put { item, .. } = owner.write() else { panic!("an owner is put") };
    assert_eq!(item, row::encode(&names::owner(&owner.key), &owner));
}

/// Keys that are too many for a row lie in pages, in their order.
#[test]
fn pages_of_keys() {
    let (pathname, rev) = (live().pathname, live().rev);
    let few: Vec<Key> = (0..100).map(|n| Key::new("TEAM#1", format!("MEMBER#{n:05}"))).collect();
    assert_eq!(KeysRef::of(&rev, few.iter()), None);
    let many: Vec<Key> = (0..9_000).map(|n| Key::new("TEAM#1", format!("MEMBER#{n:05}"))).collect();
    let pages = KeysRef::of(&rev, many.iter()).expect("they are too many");
    let rows: Vec<Item> = pages.rows(&pathname, many.iter()).collect();
    assert_eq!((pages.pages, rows.len()), (3, 3));
    assert!(rows.iter().all(|row| crate::value::item_bytes(row) < 400_000));
    let anchor = Anchor { items: many.into(), pages: Some(pages), ..live() };
    let Write::Put { item, .. } = anchor.write(None) else { panic!("an anchor is put") };
    assert!(anchor.names_as(&item) && !live().names_as(&item));
    let bare: Anchor = row::decode(golden("anchor-paged", &item)).expect("it is read");
    assert_eq!(bare, Anchor { items: Keys::default(), ..anchor });

    let long: Vec<Key> = (0..100).map(|n| Key::new("TEAM#1", format!("{n:01000}"))).collect();
    let pages = KeysRef::of(&rev, long[..40].iter()).expect("they are too long");
    let rows: Vec<Item> = pages.rows(&pathname, long[..40].iter()).collect();
    assert_eq!(rows.len(), 1);
    let mut page = rows[0].clone();
    let Some(Value::L(keys)) = page.get_mut("keys") else { panic!("a list of keys") };
    assert_eq!(keys.len(), 40);
    *keys = vec![Value::M(
        [("partition".to_owned(), Value::s("TEAM#1")), ("sort".to_owned(), Value::s("MEMBER#1"))].into(),
    )];
    golden("key-page", &page);
}

/// Only the shape: how the bytes are compressed may change with the library, and any zstd reads any other.
#[test]
fn bodies() {
    let (body, rows) = encode_body(&live().pathname, &live().rev, b"{}").expect("it is retained");
    assert_eq!((body.parts, rows.len()), (1, 1));
    let key = names::body(&live().pathname, &live().rev, 0);
    assert_eq!(row::key(&rows[0]), key);
    let mut part = rows[0].clone();
    part.insert("bytes".to_owned(), Value::B(bytes::Bytes::from_static(b"zstd")));
    golden("body-part", &part);
}

#[test]
fn header_mode_and_audit() {
    let header = Header {
        table: "fuse-main".to_owned(),
        account: Some("123456789012".to_owned()),
        region: Some("eu-west-2".to_owned()),
        store: "fuse".to_owned(),
        shards: names::SHARDS,
    };
    row("header", &Key::new("HEADER", "HEADER"), &header);
    let hold =
        Hold { id: "h1".to_owned(), target: Phase::Cutover, by: "ada@laptop".to_owned(), limit_ms: 2_000 };
    let mode = Mode::begun(at(0), "plan");
    row("mode", &Key::new("MODE", "MODE"), &mode);
    row("mode-held", &Key::new("MODE", "MODE"), &Mode { hold: Some(hold), ..mode.clone() });
    let share = Share { percent: 10, prefixes: vec!["signups/".to_owned()] };
    let canary =
        mode.stepped(Phase::Shadow, None, at(0), "plan").stepped(Phase::Canary, Some(&share), at(0), "plan");
    assert_eq!((canary.epoch, canary.step, canary.round), (Epoch(1), 2, 1));
    row("mode-canary", &Key::new("MODE", "MODE"), &canary);
    let writers = Some(Digest::of("plan"));
    let cutover = Mode { writers, ..canary.stepped(Phase::Cutover, None, at(0), "plan") };
    row("mode-cutover", &Key::new("MODE", "MODE"), &cutover);
    assert_eq!(cutover.stepped(Phase::Final, None, at(0), "plan").writers, writers);
    assert_eq!(cutover.stepped(Phase::Shadow, None, at(0), "plan").writers, None);
    let audit = Audit {
        at: at(1),
        who: "ada@laptop".to_owned(),
        from: Phase::Capture,
        to: Phase::Cutover,
        epoch: Epoch(2),
        hold: "h1".to_owned(),
        plan_hash: "plan".to_owned(),
        evidence: BTreeMap::from([("drift-free".to_owned(), "2 full sweeps in a row".to_owned())]),
        pause_ms: 12,
        note: None,
    };
    row("audit", &Key::new("L#", "000000000002"), &audit);
}

#[test]
fn sessions() {
    let open = SessionRow {
        id: "s1".to_owned(),
        name: "dual-write".to_owned(),
        kind: SessionKind::Backfill,
        counter: 3,
        state: SessionState::Open,
        began: at(0),
        renewed: None,
        epoch: None,
        writers: None,
        ended: None,
        acknowledged: None,
        gap: None,
    };
    row("session-open", &Key::new("S#", "s1"), &open);
    row("session-renewed", &Key::new("S#", "s1"), &SessionRow { renewed: Some(at(6)), ..open.clone() });
    let writers = Some(Digest::of("plan"));
    let seen = SessionRow { epoch: Some(Epoch(2)), writers, ..open.clone() };
    row("session-seen", &Key::new("S#", "s1"), &seen);
    let operator = SessionRow { kind: SessionKind::Operator, ..open.clone() };
    row("session-operator", &Key::new("S#", "s1"), &operator);
    let ended = SessionRow {
        kind: SessionKind::Gateway,
        state: SessionState::Unclean,
        ended: Some(at(9)),
        acknowledged: Some("h1".to_owned()),
        ..open
    };
    row("session-unclean", &Key::new("S#", "s1"), &ended);
    row("session-gap", &Key::new("S#", "s1"), &SessionRow { gap: Some(at(4)), ..ended });
}

#[test]
fn intents() {
    let open = IntentRow {
        id: "0123456789abcdef0123456789abcdef".to_owned(),
        session: "s1".to_owned(),
        version: "v1".to_owned(),
        state: IntentState::Open,
        at: at(0),
        pathnames: vec![live().pathname],
        sha256: Some(Digest::of("{}")),
        any_content: false,
        to_target: false,
    };
    let row = |name: &str, intent: &IntentRow| {
        let item = golden(name, &row::encode(&names::intent(&intent.id), intent));
        assert_eq!(IntentRow::decode(item).expect("it is read"), *intent);
    };
    row("intent-open", &open);
    let pathnames = vec![live().pathname, Pathname::from("signups/2.json")];
    row("intent-to-target", &IntentRow { to_target: true, ..open.clone() });
    let given_up = IntentRow { state: IntentState::GaveUp, pathnames, sha256: None, ..open };
    row("intent-gave-up", &given_up);
}

#[test]
fn notes() {
    let put = NoteRow {
        id: "0123456789abcdef0123456789abcdef".to_owned(),
        pathname: live().pathname,
        session: "s1".to_owned(),
        at: at(0),
        expects: Some(Expected { etag: ETag::new("\"e1\""), sha256: Some(Digest::of("{}")) }),
        leaves: Some(Digest::of("[]")),
        answered: false,
        ends: true,
    };
    let row = |name: &str, note: &NoteRow| {
        let item = golden(name, &row::encode(&note.key(), note));
        let read = NoteRow::decode(item).expect("it is read");
        assert_eq!(read, *note);
    };
    row("note-put", &put);
    row("note-delete", &NoteRow { leaves: None, ends: false, answered: true, ..put.clone() });
    row("note-create", &NoteRow { expects: None, ..put });
}

/// The longest names that there are (950 UTF-16 units, up to three bytes each) stay under an item's limit.
#[test]
fn an_intent_of_the_most_and_longest_pathnames_is_stored() {
    let long = |n: usize| Pathname::new(format!("{n:03}{}", "日".repeat(947)));
    let pathnames = (0..INTENT_PATHNAMES_MAX).map(long).collect();
    let intent = IntentRow::new("s1", at(0), IntentState::Open, pathnames, None);
    assert!(crate::value::item_bytes(&row::encode(&names::intent(&intent.id), &intent)) < 400_000);
}

#[tokio::test]
async fn an_intent_is_touched_and_cleared_only_as_it_was_seen() {
    let plan = toml::from_str("table = \"t\"\npartition_key = \"PK\"\nsort_key = \"SK\"").expect("a plan");
    let control = Control::new(Arc::new(crate::target::memory::MemoryTarget::new(plan)));
    let first = IntentRow::new("s1", at(0), IntentState::Open, vec![live().pathname], None);
    control.store_intent(&first).await.expect("it is stored");
    let given_up = first.touched(IntentState::GaveUp);
    assert!(control.touch_intent(&given_up, &first.version).await.expect("it is touched"));
    assert!(!control.touch_intent(&first.touched(IntentState::Open), &first.version).await.expect("asked"));
    assert!(!control.clear_intent(&first).await.expect("asked"), "another version is there");
    assert_eq!(control.intents().await.expect("listed"), std::slice::from_ref(&given_up));
    assert!(control.clear_intent(&given_up).await.expect("cleared"));
    assert!(control.clear_intent(&given_up).await.expect("asked"), "what is gone is gone");
    assert_eq!(control.intents().await.expect("listed"), []);
    assert!(!control.touch_intent(&first, &given_up.version).await.expect("asked"), "it does not come back");
}

#[test]
fn evidence_and_sweeps() {
    let evidence = Evidence {
        gate: "backfill-complete".to_owned(),
        at: at(0),
        plan_hash: "plan".to_owned(),
        epoch: Epoch(1),
        passed: false,
        summary: "2 blobs: 1 written, 1 failed".to_owned(),
        obstacles: vec!["r/1.json: item R#1 / META belongs to the application".to_owned()],
    };
    row("evidence", &Key::new("E#", "backfill-complete"), &evidence);
    let sweep = SweepRow {
        id: "w1".to_owned(),
        began: at(0),
        ended: at(5),
        plan_hash: "plan".to_owned(),
        epoch: Epoch(1),
        content: true,
        listed: 3,
        compared: 3,
        anchored: 3,
        items: 4,
        drift: BTreeMap::from([("missing".to_owned(), 1)]),
        quarantined: 0,
        unmapped: 0,
        planted: 8,
        found: 8,
        repaired: true,
        bypassed: 0,
        bypasses: Vec::new(),
        clean: false,
    };
    row("sweep", &Key::new("W#", "001790000000123#w1"), &sweep);
}

#[test]
fn compared_reads() {
    let reads = ReadsRow {
        id: "0123456789abcdef0123456789abcdef".to_owned(),
        name: "blue".to_owned(),
        plan_hash: "plan".to_owned(),
        epoch: Epoch(1),
        round: 2,
        began: at(0),
        at: at(5),
        reads: Reads {
            compared: 1_000,
            mismatches: 1,
            stale: 2,
            moving: 3,
            errors: 4,
            dropped: 5,
            source_us: 12_000_000,
            target_us: 6_000_000,
        },
        worst: vec![Offender {
            pathname: "signups/1.json".into(),
            mismatches: 1,
            what: "other bytes".to_owned(),
        }],
    };
    row("reads", &Key::new("C#", "000000000001#000000000002#0123456789abcdef0123456789abcdef"), &reads);
}

#[test]
fn a_row_of_a_newer_program_is_refused_with_a_hint() {
    let mut item = row::encode(&live().key(), &live());
    item.insert("format".to_owned(), Value::n(2));
    let error = row::decode::<Anchor>(item).expect_err("it is newer");
    assert_eq!(error.kind(), ErrorKind::Usage);
    assert_eq!(error.detail(), Some("it has format 2, this program knows 1"));
    assert!(error.advice().is_some_and(|hint| hint.contains("newer `migrate`")), "{error:?}");
    assert_eq!(error.subject(), Some(live().key().to_string().as_str()));
}

#[test]
fn a_row_of_somebody_else_is_corrupt_and_named() {
    let good = || row::encode(&live().key(), &live());
    type Damage<'a> = (&'a str, &'a dyn Fn(&mut Item));
    let damage: [Damage<'_>; 5] = [
        ("no format", &|item| drop(item.remove("format"))),
        ("format 0", &|item| drop(item.insert("format".to_owned(), Value::n(0)))),
        ("format as text", &|item| drop(item.insert("format".to_owned(), Value::s("1")))),
        ("no rev", &|item| drop(item.remove("rev"))),
        ("bytes", &|item| drop(item.insert("groups".to_owned(), Value::B(bytes::Bytes::new())))),
    ];
    for (name, damage) in damage {
        let mut item = good();
        damage(&mut item);
        let error = row::decode::<Anchor>(item).expect_err(name);
        assert_eq!(error.kind(), ErrorKind::Corrupt, "{name}");
        assert_eq!(error.subject(), Some(live().key().to_string().as_str()), "{name}");
    }
}

/// An attribute that a later program of the same format adds does not keep this one from reading.
#[test]
fn an_unknown_attribute_is_passed_over() {
    let mut item = row::encode(&live().key(), &live());
    item.insert("later".to_owned(), Value::s("more"));
    assert_eq!(row::decode::<Anchor>(item).expect("it is read"), live());
}
