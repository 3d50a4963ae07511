//! Readers of long content once DynamoDB is the authority: what they get, and what they take.

use std::time::Duration;

use bytes::Bytes;
use futures::StreamExt as _;
use futures::stream::BoxStream;
use migrate::blob::spool::MEMORY_BYTES_MAX;
use migrate::blob::store::{Content, GetOptions};
use migrate::blob::wire::Code;
use migrate::blob::{BlobStore as _, Pathname};
use migrate::digest::Digest;
use migrate::dual_write::gateway::DualWrite;
use migrate::protocol::converge::Purpose;
use migrate::protocol::phase::Phase;
use migrate::target::control::names;
use migrate::target::memory::Operation;
use migrate::target::store::{Condition, Table, TargetStore as _, Write};
use migrate::{ErrorKind, Result};

use super::gateway::{Stage, calm, over, refused};

const PLAN: &str = r#"
[[entity]]
name = "list"
blobs = "l/{id}.json"
[[entity.item]]
each = "[*]"
PK = "{{ id }}#{{ record.id }}"
SK = "META"
"#;

/// Put together from its items.
const REBUILT: &str = "l/rebuilt.json";
/// Unpacked from its retained bytes.
const RETAINED: &str = "l/retained.json";
/// As many readers of long content as there may be at a time.
const READERS: usize = 64;

/// Five megabytes in records that do not shrink.
fn body(seed: &str) -> String {
    records(seed, 550)
}

/// So many records of 9.6 KB.
fn records(seed: &str, count: usize) -> String {
    let text = |n: usize| {
        let digests = (0..150).map(|part| Digest::of(format!("{seed} {n} {part}")).to_string());
        digests.collect::<String>()
    };
    let records: Vec<String> =
        (0..count).map(|n| format!(r#"{{"id": "{n:06}", "text": "{}"}}"#, text(n))).collect();
    format!("[{}]", records.join(", "))
}

async fn store(gateway: &DualWrite, name: &str, body: &str) {
    gateway.put(&name.into(), Bytes::from(body.to_owned()).into(), &over()).await.unwrap();
    calm().await;
}

/// Both long blobs, and DynamoDB as the authority.
async fn world() -> (Stage, DualWrite) {
    let stage = Stage::with(&(super::harness::PLAN.to_owned() + PLAN));
    stage.rig.begin().await;
    stage.rig.put(REBUILT, body("first")).await;
    stage.rig.converge(REBUILT, Purpose::Reconcile).await.unwrap();
    let gateway = stage.gateway("g").await;
    stage.flip(Phase::Cutover).await;
    store(&gateway, RETAINED, &body("first")).await;
    (stage, gateway)
}

async fn get(gateway: &DualWrite, name: &str, range: Option<(u64, Option<u64>)>) -> Result<Content> {
    let options = GetOptions { range, ..GetOptions::default() };
    gateway.get(&Pathname::from(name), &options).await.map(Option::unwrap)
}

async fn bytes(gateway: &DualWrite, name: &str, range: Option<(u64, Option<u64>)>) -> Bytes {
    get(gateway, name, range).await.unwrap().body.collect(u64::MAX).await.unwrap()
}

/// A reader that took a first chunk, and that chunk.
async fn begun(gateway: &DualWrite, name: &str) -> (BoxStream<'static, Result<Bytes>>, Bytes) {
    let mut stream = get(gateway, name, None).await.unwrap().body.into_stream();
    let first = stream.next().await.unwrap().unwrap();
    assert!(!first.is_empty());
    (stream, first)
}

/// What a reader still gets, and why no more.
async fn rest(mut stream: BoxStream<'static, Result<Bytes>>) -> (Vec<u8>, Option<ErrorKind>) {
    let mut rest = Vec::new();
    while let Some(chunk) = stream.next().await {
        match chunk {
            Ok(chunk) => rest.extend(chunk),
            Err(error) => return (rest, Some(error.kind())),
        }
    }
    (rest, None)
}

#[tokio::test]
async fn long_content_is_the_same_in_whole_and_in_part() {
    let (_stage, gateway) = world().await;
    for name in [REBUILT, RETAINED] {
        let whole = bytes(&gateway, name, None).await;
        let size = get(&gateway, name, None).await.unwrap().size;
        assert_eq!(size, whole.len() as u64);
        assert!(size > MEMORY_BYTES_MAX);
        let document = |text: &[u8]| serde_json::from_slice::<serde_json::Value>(text).unwrap();
        assert_eq!(document(&whole), document(body("first").as_bytes()), "{name}");
        for (first, last) in [
            (0, None),
            (0, Some(0)),
            (0, Some(size - 1)),
            (1, Some(size)),
            (100_000, Some(100_001)),
            (1_234_567, Some(3_456_789)),
            (size - 3, None),
            (size, None),
            (size + 5, Some(size + 9)),
        ] {
            let part = get(&gateway, name, Some((first, last))).await.unwrap();
            let length = part.body.length();
            let part = part.body.collect(u64::MAX).await.unwrap();
            let end = last.map_or(size, |last| (last + 1).min(size));
            let expected = &whole[usize::try_from(first.min(end)).unwrap()..usize::try_from(end).unwrap()];
            assert_eq!(length, Some(expected.len() as u64), "{name} {first}-{last:?}");
            assert!(part == expected, "{name} {first}-{last:?}");
        }
    }
    assert_eq!(bytes(&gateway, RETAINED, None).await, body("first"), "byte by byte");
}

/// Nothing is read from DynamoDB that nobody takes.
#[tokio::test]
async fn long_content_is_read_as_it_is_taken() {
    let (stage, gateway) = world().await;
    let reads = || stage.rig.target.calls(Operation::Get);
    for name in [REBUILT, RETAINED] {
        // Its length is known from then on.
        bytes(&gateway, name, None).await;
        let before = reads();
        let (stream, _) = begun(&gateway, name).await;
        calm().await;
        let first = reads() - before;
        rest(stream).await;
        let all = reads() - before;
        assert!(first * 2 < all, "{name}: {first} of {all}");
    }
}

#[tokio::test]
async fn a_reader_never_gets_bytes_of_two_versions() {
    for name in [REBUILT, RETAINED] {
        let (_stage, gateway) = world().await;
        let before = bytes(&gateway, name, None).await;
        let (stream, mut got) = begun(&gateway, name).await;
        store(&gateway, name, &body("second")).await;
        let (more, error) = rest(stream).await;
        got = [&got[..], &more].concat().into();
        assert_eq!(error, Some(ErrorKind::Corrupt), "{name}");
        assert!(got.len() < before.len() && before.starts_with(&got), "{name}");
        assert_eq!(bytes(&gateway, name, None).await, body("second"));
    }
}

/// What the mirror notes of Blob is no change of the content.
#[tokio::test]
async fn a_reader_is_not_disturbed_by_the_mirror() {
    let (stage, gateway) = world().await;
    let before = bytes(&gateway, REBUILT, None).await;
    let (stream, first) = begun(&gateway, REBUILT).await;
    let anchor = stage.rig.control.bare_anchor(&REBUILT.into()).await.unwrap().unwrap();
    let noted = migrate::target::control::Anchor { rev: names::new_rev(), ..anchor.clone() };
    let writes = vec![noted.write(Some(&anchor.rev))];
    stage.rig.target.transact(&names::token(), writes).await.unwrap();
    let (more, error) = rest(stream).await;
    assert_eq!(error, None);
    assert!([&first[..], &more].concat() == before);
}

#[tokio::test]
async fn damaged_content_breaks_off_before_its_end() {
    let (stage, gateway) = world().await;
    let other = "l/other.json";
    store(&gateway, other, &body("other")).await;
    // The same number of parts, which unpack well, to as many bytes.
    let (ours, others) = (stage.rig.anchor(RETAINED).await.unwrap(), stage.rig.anchor(other).await.unwrap());
    let (our_body, other_body) = (ours.body.unwrap(), others.body.unwrap());
    assert!(our_body.parts > 3 && our_body.parts == other_body.parts);
    let rows = stage.rig.parts();
    for part in 0..our_body.parts {
        let mut row = rows[&names::body(&ours.pathname, &our_body.rev, part)].clone();
        let other = &rows[&names::body(&others.pathname, &other_body.rev, part)];
        row.insert("bytes".to_owned(), other["bytes"].clone());
        let write = Write::Put { table: Table::Control, item: row, condition: Condition::Always };
        stage.rig.target.transact(&names::token(), vec![write]).await.unwrap();
    }
    let (stream, first) = begun(&gateway, RETAINED).await;
    let (more, error) = rest(stream).await;
    assert_eq!(error, Some(ErrorKind::Corrupt));
    assert!(first.len() + more.len() < body("first").len());
}

#[tokio::test]
async fn as_many_readers_of_long_content_as_there_may_be_leave_the_others_alone() {
    let (_stage, gateway) = world().await;
    store(&gateway, "r/short.json", "{}").await;
    let mut readers = Vec::new();
    for number in 0..READERS {
        readers.push(begun(&gateway, [REBUILT, RETAINED][number % 2]).await);
    }
    let refusal = refused(get(&gateway, RETAINED, None).await);
    assert_eq!(Code::of(refusal.kind()), Code::ServiceUnavailable, "{refusal}");
    assert_eq!(bytes(&gateway, "r/short.json", None).await, "{}");
    readers.pop();
    calm().await;
    bytes(&gateway, RETAINED, None).await;
    for (stream, _) in readers.into_iter().take(2) {
        assert_eq!(rest(stream).await.1, None, "the others read on");
    }
}

#[tokio::test]
async fn readers_that_stall_make_room_for_others() {
    let (stage, gateway) = world().await;
    let mut readers = Vec::new();
    for _ in 0..READERS {
        readers.push(begun(&gateway, RETAINED).await);
    }
    calm().await;
    stage.pass(Duration::from_secs(4)).await;
    assert_eq!(refused(get(&gateway, RETAINED, None).await).kind(), ErrorKind::Busy);
    stage.pass(Duration::from_secs(2)).await;
    bytes(&gateway, RETAINED, None).await;
    let mut ended = Vec::new();
    for (stream, _) in readers {
        ended.push(rest(stream).await.1);
        if ended.last() == Some(&Some(ErrorKind::NotApplied)) {
            return;
        }
    }
    panic!("none was ended: {ended:?}");
}

/// A quarter of a gigabyte in whole bodies, for clients that take their time.
#[tokio::test]
async fn short_content_is_bounded_too() {
    let (_stage, gateway) = world().await;
    let (name, body) = ("l/short.json", records("short", 430));
    let kib = body.len().div_ceil(1024);
    assert!(body.len() as u64 <= MEMORY_BYTES_MAX && 65 * kib > 256 * 1024);
    store(&gateway, name, &body).await;
    let mut readers = Vec::new();
    for _ in 0..64 {
        readers.push(get(&gateway, name, None).await.unwrap());
    }
    assert_eq!(refused(get(&gateway, name, None).await).kind(), ErrorKind::Busy);
    readers.pop();
    assert_eq!(bytes(&gateway, name, None).await, body);
}
