//! Long documents, record by record: what comes of it is what comes of the document as a whole.

use std::cell::RefCell;
use std::io::Cursor;

use proptest::prelude::*;

use super::property::{bytes, several};
use super::*;
use crate::mapping::{Halt, Outline, Piece, Position};

const HEAD: &str = r#"
[source]
store = "test"
[target]
table = "test"
partition_key = "PK"
sort_key = "SK"
"#;

const ALL: &str = r#"
[[entity]]
name = "list"
blobs = "list/{file}"
[[entity.item]]
each = "[*]"
body = "nested:record"
PK = "L#{{ file }}"
SK = "{{ index | default(key) }}"
[[entity]]
name = "several"
blobs = "several/{file}"
numbers = "text"
empty_strings = "omit"
too_large = "split"
[[entity.item]]
each = "b[*].a[*]"
PK = "B#{{ parent.b }}"
SK = "{{ index | default(key) }}"
[[entity.item]]
each = "a[*]"
PK = "A#{{ index | default(key) }}"
SK = "META"
[[entity.item]]
each = "a[*]"
when = "record.a"
body = "none"
PK = "A#{{ index | default(key) }}"
SK = "{{ record.a }}"
[[entity.item]]
each = "c"
when = "record.a is defined"
body = "nested:c"
PK = "C#{{ file }}"
SK = "META"
[[entity.item]]
each = "b[*]"
body = "none"
PK = "B#{{ index | default(key) }}"
SK = "META"
[[entity]]
name = "lines"
blobs = "lines/{file}"
decode = "ndjson"
numbers = "text"
[[entity.item]]
each = "[*]"
body = "nested:record"
PK = "N#{{ file }}"
SK = "{{ index }}"
[[entity]]
name = "auto"
blobs = "auto/{file}"
decode = "auto"
[[entity.item]]
each = "[*][*]"
body = "nested:record"
PK = "{{ index | default(key) }}"
SK = "M"
"#;

const SHAPES: [&str; 4] = ["list/f", "several/f", "lines/f", "auto/f"];

fn all() -> Mapper {
    mapper(&format!("{HEAD}{ALL}"))
}

/// What a body comes to, record by record: its items and its text, put together from them.
fn streamed(
    mapper: &Mapper,
    name: &str,
    body: &[u8],
) -> Option<Result<(Vec<MappedItem>, String), Quarantine>> {
    let pathname = Pathname::from(name);
    let Rule::Entity(entity) = mapper.rule(&pathname) else { panic!("no entity takes {name}") };
    let now = NOW.parse().expect("a time");
    let facts = BlobFacts { pathname: &pathname, uploaded_at: now };
    let result = mapper.outline(entity, Cursor::new(body)).and_then(|outline| {
        let Some(outline) = outline else { return Ok(None) };
        let mut all: Vec<(Position, MappedItem)> = Vec::new();
        let skeleton =
            mapper.scan(entity, facts, &outline, || Cursor::new(body), now, &mut |at, items| {
                all.extend(items.into_iter().map(|item| (at, item)));
            })?;
        // From any place on, the same items.
        let places: Vec<Position> = all.iter().map(|(at, _)| *at).collect();
        for from in [places.len() / 2, places.len() - 1] {
            let first = places.iter().position(|at| *at == places[from]).expect("it is one of them");
            let document = (&outline, Cursor::new(body));
            let mut records = mapper.records(entity, facts, document, now, places[from])?;
            let mut rest = Vec::new();
            while let Some((at, items)) = records.next_part()? {
                rest.extend(items.into_iter().map(|item| (at, item)));
            }
            assert_eq!(rest, all[first..]);
        }
        let items: Vec<MappedItem> = all.into_iter().map(|(_, item)| item).collect();
        let text = text(mapper, entity, &items, &skeleton);
        same(mapper, entity, (&outline, body), text.as_bytes());
        Ok(Some((items, text)))
    });
    match result {
        Ok(streamed) => streamed.map(Ok),
        Err(Halt::Quarantine(quarantine)) => Some(Err(quarantine)),
        Err(Halt::Io(error)) => panic!("memory can be read: {error}"),
    }
}

fn text(mapper: &Mapper, entity: EntityId, items: &[MappedItem], skeleton: &Skeleton) -> String {
    let piece = |piece: &Piece<'_>| match piece {
        Piece::Text(text) => text.to_string(),
        Piece::Record { rule, item } => {
            let first = item - mapper.part_count(entity, *rule, &items[*item].item);
            let parts: Vec<&Item> = items[first..=*item].iter().map(|mapped| &mapped.item).collect();
            mapper.record(entity, *rule, &parts).expect("all of it is there").to_string()
        }
    };
    mapper.pieces(entity, skeleton).map(|next| piece(&next)).collect()
}

/// What was put together says the same, and with anything else in it, it does not.
fn same(mapper: &Mapper, entity: EntityId, (outline, body): (&Outline, &[u8]), text: &[u8]) {
    let other = mapper.outline(entity, Cursor::new(text)).expect("it can be read").expect("record by record");
    let result = Outline::same((outline, Cursor::new(body)), (&other, Cursor::new(text)));
    assert!(result.expect("memory can be read"), "{}", String::from_utf8_lossy(text));
}

/// Whether a body was mapped record by record; and as a whole it must come to the same.
fn check(mapper: &Mapper, pathname: &str, body: &[u8]) -> Result<bool, TestCaseError> {
    let whole = map_at(mapper, pathname, body);
    match (streamed(mapper, pathname, body), whole) {
        (Some(Ok((items, text))), Ok(whole)) => {
            prop_assert_eq!(&items, &whole);
            let (document, _) = there_and_back(mapper, pathname, body);
            let (rebuilt, _) = there_and_back(mapper, pathname, text.as_bytes());
            prop_assert!(rebuilt.semantically_eq(&document), "{:?} came back as {}", document, text);
            Ok(true)
        }
        // Where several things are wrong with a document, either may be told.
        (Some(Err(_)), Err(_)) | (None, _) => Ok(false),
        (streamed, whole) => {
            prop_assert!(false, "as a whole: {:?}; by record: {:?}", whole, streamed);
            Ok(false)
        }
    }
}

#[test]
fn record_by_record_a_body_becomes_what_it_becomes_as_a_whole() {
    let mapper = all();
    let mapped = RefCell::new([0; SHAPES.len()]);
    let config = ProptestConfig { failure_persistence: None, cases: 1_500, ..ProptestConfig::default() };
    let bodies = prop_oneof![2 => bytes(), 1 => several().prop_map(String::into_bytes)];
    let checked = proptest::test_runner::TestRunner::new(config).run(&bodies, |body| {
        for (number, pathname) in SHAPES.iter().enumerate() {
            mapped.borrow_mut()[number] += u32::from(check(&mapper, pathname, &body)?);
        }
        Ok(())
    });
    checked.unwrap_or_else(|error| panic!("{error}"));
    assert!(mapped.borrow().iter().all(|count| *count > 25), "too few were mapped: {mapped:?}");
}

#[test]
fn members_come_in_the_order_of_their_names_wherever_they_stand() {
    let mapper = all();
    let body = r#"{"c": {"z": 1, "b": 2}, "a": {"y": 3}, "b": {}}"#;
    for (pathname, shown) in [("list/f", ["{0}", "{1}", "{2}"]), ("auto/f", ["{0}{0}", "{2}{0}", "{2}{1}"])] {
        let (items, _) = streamed(&mapper, pathname, body.as_bytes()).expect("by record").expect("items");
        let places: Vec<String> = items.iter().map(|mapped| mapped.origin.place.to_string()).collect();
        assert_eq!(places, shown, "{pathname}");
        assert_eq!(items, map_at(&mapper, pathname, body.as_bytes()).expect("items"));
    }
}

/// One thing is wrong with each of these, so that both ways must tell the same.
#[test]
fn what_is_wrong_with_a_long_document_is_told_with_its_place() {
    let mapper = all();
    let deep = format!("[1, {}1{}]", "[".repeat(40), "]".repeat(40));
    let cases: [(&str, &[u8], Reason, Option<u64>); 15] = [
        ("list/f", b"", Reason::NotJson, Some(0)),
        ("list/f", b"[1, 2", Reason::NotJson, Some(5)),
        ("list/f", b"[1, 2] 3", Reason::NotJson, Some(7)),
        ("list/f", b"\xef\xbb\xbf[1]", Reason::NotJson, Some(0)),
        ("list/f", b"[\"\xc3\xa9\", \"\xff\"]", Reason::NotJson, Some(8)),
        ("list/f", b"[\"\xc3", Reason::NotJson, Some(2)),
        ("list/f", br#"[{"a": 1}, {"a": 1, "a": 2}]"#, Reason::DuplicateName, Some(20)),
        ("list/f", br#"{"a": 1, "b": 2, "a": 3}"#, Reason::DuplicateName, Some(17)),
        ("several/f", br#"{"x": [{"y": 1, "y": 2}]}"#, Reason::DuplicateName, Some(16)),
        ("list/f", b"[1, 1e999]", Reason::Number, Some(4)),
        ("list/f", deep.as_bytes(), Reason::Depth, Some(36)),
        ("list/f", b"7", Reason::Shape, None),
        ("list/f", b"[]", Reason::NoItem, None),
        ("lines/f", b"{\"a\": 1}\n\n[2]\n{\"a\": ", Reason::NotJson, Some(20)),
        ("several/f", br#"{"b": [{"b": 1, "a": [{}]}, {"b": 1, "a": [{}]}]}"#, Reason::DuplicateKey, None),
    ];
    for (pathname, body, reason, offset) in cases {
        let whole = map_at(&mapper, pathname, body).expect_err("it is wrong");
        let by_record = streamed(&mapper, pathname, body).expect("by record").expect_err("it is wrong");
        let shown = String::from_utf8_lossy(body);
        assert_eq!((by_record.reason, by_record.offset), (reason, offset), "{shown}: {by_record}");
        assert_eq!(by_record, whole, "{shown}");
    }
}

#[test]
fn an_entity_that_looks_at_the_whole_document_says_so() {
    let cases = [
        ("PK = 'A'\nSK = 'B'", "made of the whole document"),
        ("each = '[*]'\nPK = '{{ body[0].a }}'\nSK = 'B'", "`body`"),
        ("each = '[*]'\nPK = '{{ parent.a }}'\nSK = 'B'", "`parent`"),
        ("each = '[*]'\ngroup_by = '{{ record.a }}'\nPK = '{{ group }}'\nSK = 'B'", "groups"),
        (
            "each = '[*]'\nPK = 'A'\nSK = 'B'\n[[entity.item]]\neach = 'a.b[*]'\nPK = 'A'\nSK = 'C'",
            "members of",
        ),
    ];
    for (item, because) in cases {
        let mapper = mapper(&format!("{HEAD}[[entity]]\nname = 'e'\nblobs = 'e'\n[[entity.item]]\n{item}\n"));
        let why = mapper.read_whole(EntityId(0)).expect("it can't be read by record");
        assert!(why.contains(because), "{item}: {why}");
    }
    // What is compressed, or may be encrypted, shows only in the body.
    let gzip = [0x1f, 0x8b, 0, 0];
    let sealed = br#"{"payload": "aa:bb", "version": 1}"#;
    assert!(streamed(&all(), "list/f", &gzip).is_none() && streamed(&all(), "auto/f", sealed).is_none());
}

#[test]
fn what_no_item_has_is_bounded() {
    let mapper = all();
    let body = format!(r#"{{"a": [{{"n": 1}}], "rest": ["{}"]}}"#, "x".repeat(9 * 1024 * 1024));
    let whole = map_at(&mapper, "several/f", body.as_bytes()).expect_err("too much is in no item");
    let by_record =
        streamed(&mapper, "several/f", body.as_bytes()).expect("by record").expect_err("the same");
    assert_eq!((&by_record, by_record.reason), (&whole, Reason::Remainder));
}
