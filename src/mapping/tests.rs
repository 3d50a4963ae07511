mod decode;
mod direct;
mod policies;
mod property;
mod records;
mod streaming;

use super::*;
use crate::value::{ITEM_BYTES_MAX, Value, item_bytes};

const PLAN: &str = r#"
[source]
store = "test"
[target]
table = "test"
partition_key = "PK"
sort_key = "SK"
ttl = "ttl"
[[target.index]]
name = "GSI1"
partition_key = "gsi1pk"
sort_key = "gsi1sk"
[[entity]]
name = "record"
blobs = "r/{id}.json"
[[entity.item]]
PK = "R#{{ body.key | default(id) }}"
SK = "META"
gsi1pk = "RS"
gsi1sk = "{{ body.rank }}"
[[entity.item]]
when = "body.extra"
body = "none"
PK = "R#{{ body.key | default(id) }}"
SK = "{{ body.extra }}"
[[entity]]
name = "keyed"
blobs = "k/{id}.json"
[[entity.item]]
PK = "K#{{ body.key }}"
SK = "{{ body.sort | default('-') }}"
ttl = "{{ body.expires | epoch }}"
body = "nested:record"
[[ignore]]
blobs = "**/*.png"
reason = "assets"
[[accept]]
blobs = "r/broken-*.json"
reason = "broken"
"#;

fn mapper(plan: &str) -> Mapper {
    let plan: Plan = toml::from_str(plan).expect("a plan");
    Mapper::new(&plan).expect("it compiles")
}

const NOW: &str = "2026-02-01T00:00:00Z";

fn map_at(mapper: &Mapper, pathname: &str, body: &[u8]) -> Result<Vec<MappedItem>, Quarantine> {
    let pathname = Pathname::from(pathname);
    let Rule::Entity(entity) = mapper.rule(&pathname) else { panic!("no entity takes {pathname}") };
    let facts = BlobFacts { pathname: &pathname, uploaded_at: NOW.parse().expect("a time") };
    mapper.map(entity, facts, body, NOW.parse().expect("a time"))
}

fn record(body: &str) -> Result<Vec<MappedItem>, Quarantine> {
    map_at(&mapper(PLAN), "r/7.json", body.as_bytes())
}

fn keyed(body: &str) -> Result<Vec<MappedItem>, Quarantine> {
    map_at(&mapper(PLAN), "k/7.json", body.as_bytes())
}

fn reason(mapped: Result<Vec<MappedItem>, Quarantine>) -> Reason {
    mapped.expect_err("it must be quarantined").reason
}

#[test]
fn a_rule_takes_each_pathname() {
    let mapper = mapper(PLAN);
    assert_eq!(mapper.rule(&"r/1.json".into()), Rule::Entity(EntityId(0)));
    assert_eq!(mapper.rule(&"a/1.png".into()), Rule::Ignored { blobs: "**/*.png", reason: "assets" });
    assert_eq!(
        mapper.rule(&"r/broken-1.json".into()),
        Rule::Accepted { blobs: "r/broken-*.json", reason: "broken" }
    );
    assert_eq!(mapper.rule(&"elsewhere.json".into()), Rule::Unmatched);
    let overlapping = PLAN.replace("\"k/{id}.json\"", "\"**/{id}.json\"");
    assert_eq!(
        self::mapper(&overlapping).rule(&"r/1.json".into()),
        Rule::Ambiguous(vec!["entity `record`".to_owned(), "entity `keyed`".to_owned()])
    );
}

#[test]
fn a_record_becomes_its_items() {
    let items =
        record(r#"{"name":"Ada","n":1.50,"rank":"b","extra":"X","tags":[null,true,""]}"#).expect("items");
    let [first, second] = items.as_slice() else { panic!("two items") };
    assert_eq!(first.key, Key::new("R#7", "META"));
    assert_eq!(first.item["gsi1sk"], Value::s("b"));
    assert_eq!(first.item["n"], Value::N("1.5".parse().expect("a number")));
    assert_eq!(first.item["tags"], Value::L(vec![Value::Null, Value::Bool(true), Value::s("")]));
    assert_eq!(second.key, Key::new("R#7", "X"));
    assert_eq!(second.item.keys().collect::<Vec<_>>(), ["PK", "SK"]);
}

#[test]
fn a_missing_input_of_an_index_leaves_out_both_halves_and_is_counted() {
    for body in ["{}", r#"{"rank":null}"#, r#"{"rank":""}"#] {
        let items = record(body).expect("items");
        assert_eq!(items[0].omitted, ["GSI1"], "{body}");
        assert!(!items[0].item.contains_key("gsi1pk") && !items[0].item.contains_key("gsi1sk"), "{body}");
    }
    assert_eq!(record(r#"{"rank":"a"}"#).expect("items")[0].omitted, Vec::<String>::new());
}

#[test]
fn a_table_key_is_never_a_placeholder() {
    for body in ["{}", r#"{"key":null}"#, r#"{"key":""}"#] {
        assert_eq!(reason(keyed(body)), Reason::Key, "{body}");
    }
    assert_eq!(reason(keyed(r#"{"key":["a"]}"#)), Reason::Template);
    assert_eq!(keyed(r#"{"key":9007199254740993}"#).expect("items")[0].key.partition, "K#9007199254740993");
}

#[test]
fn keys_have_their_sizes() {
    let with = |key: usize, sort: usize| {
        keyed(&format!(r#"{{"key":"{}","sort":"{}"}}"#, "k".repeat(key), "s".repeat(sort)))
    };
    assert!(with(2046, 1024).is_ok());
    assert_eq!(reason(with(2047, 1)), Reason::Key);
    assert_eq!(reason(with(1, 1025)), Reason::Key);
    let rank = |bytes: usize| record(&format!(r#"{{"rank":"{}"}}"#, "é".repeat(bytes / 2)));
    assert!(rank(1024).is_ok());
    assert_eq!(reason(rank(1026)), Reason::IndexKey);
}

#[test]
fn an_item_may_have_exactly_the_largest_size() {
    let sized = |bytes: usize| {
        let text = |length: usize| format!(r#"{{"text":"{}"}}"#, "x".repeat(length));
        let smallest = record(&text(0)).expect("items");
        let overhead = item_bytes(&smallest[0].item) + source_bytes("r/7.json");
        record(&text(bytes - overhead))
    };
    assert!(sized(ITEM_BYTES_MAX).is_ok());
    assert_eq!(reason(sized(ITEM_BYTES_MAX + 1)), Reason::ItemTooLarge);
}

#[test]
fn the_size_of_source_is_what_an_item_with_it_has() {
    let source = Value::M(std::collections::BTreeMap::from([
        ("pathname".to_owned(), Value::s("r/\u{1f600}.json")),
        ("rev".to_owned(), Value::s("0".repeat(32))),
    ]));
    let item = Item::from([(SOURCE_ATTRIBUTE.to_owned(), source)]);
    assert_eq!(source_bytes("r/\u{1f600}.json"), item_bytes(&item));
}

#[test]
fn numbers_are_held_or_refused() {
    for number in
        ["9007199254740993", "1e125", "-0", "1.50", "1e-130", "12345678901234567890123456789012345678"]
    {
        assert!(record(&format!(r#"{{"n":{number}}}"#)).is_ok(), "{number}");
    }
    for number in ["1e126", "1e-131", "123456789012345678901234567890123456789"] {
        let quarantine = record(&format!(r#"{{"n":{number}}}"#)).expect_err(number);
        assert_eq!((quarantine.reason, quarantine.offset), (Reason::Number, Some(5)), "{number}");
    }
}

#[test]
fn a_ttl_is_whole_seconds_ahead() {
    let now = NOW.parse::<jiff::Timestamp>().expect("a time").as_second();
    let day = 24 * 3600;
    let expires = |expires: String| keyed(&format!(r#"{{"key":"a","expires":{expires}}}"#));
    let items = expires((now + day).to_string()).expect("items");
    assert_eq!(items[0].item["ttl"], Value::n(now + day));
    assert_eq!(expires("\"2026-02-02\"".to_owned()).expect("items")[0].item["ttl"], Value::n(now + day));
    assert!(!expires("null".to_owned()).expect("items")[0].item.contains_key("ttl"));
    for wrong in [
        (now - 3 * day).to_string(),
        (now - 6 * 366 * day).to_string(),
        ((now + day) * 1000).to_string(),
        (now * 2).to_string(),
        "\"soon\"".to_owned(),
        "1.5".to_owned(),
    ] {
        assert_eq!(reason(expires(wrong.clone())), Reason::Ttl, "{wrong}");
    }
    let in_body = |ttl: &str| record(&format!(r#"{{"ttl":{ttl}}}"#));
    assert!(in_body(&(now + day).to_string()).is_ok() && in_body("null").is_ok());
    assert_eq!(reason(in_body("\"1800000000\"")), Reason::Ttl);
    assert_eq!(reason(in_body("1")), Reason::Ttl);
    let writing = mapper(&PLAN.replace("blobs = \"k/", "past_ttl = \"write\"\nblobs = \"k/"));
    assert!(map_at(&writing, "k/7.json", br#"{"key":"a","expires":1}"#).is_ok());
}

#[test]
fn what_cannot_be_held_is_quarantined_with_its_reason() {
    let deep = |levels: usize| format!(r#"{{"a":{}{}}}"#, "[".repeat(levels), "]".repeat(levels));
    assert!(record(&deep(31)).is_ok());
    assert_eq!(reason(keyed(&deep(31).replace('{', r#"{"key":"k","#))), Reason::Depth);
    for (body, expected) in [
        (deep(32), Reason::Depth),
        ("[]".to_owned(), Reason::Shape),
        ("{".to_owned(), Reason::NotJson),
        (r#"{"":1}"#.to_owned(), Reason::AttributeName),
        (r#"{"a":{"":1}}"#.to_owned(), Reason::AttributeName),
        (r#"{"PK":"x"}"#.to_owned(), Reason::NameClash),
        (r#"{"gsi1pk":"x"}"#.to_owned(), Reason::NameClash),
        (r#"{"_source":"x"}"#.to_owned(), Reason::NameClash),
        (r#"{"extra":"META"}"#.to_owned(), Reason::DuplicateKey),
        (r#"{"extra":1.5}"#.to_owned(), Reason::Template),
        (r#"{"a":1,"a":1}"#.to_owned(), Reason::DuplicateName),
    ] {
        assert_eq!(reason(record(&body)), expected, "{}", &body[..body.len().min(60)]);
    }
    let conditional = mapper(&PLAN.replace("PK = \"K#", "when = \"body.on\"\nPK = \"K#"));
    assert_eq!(reason(map_at(&conditional, "k/7.json", b"{}")), Reason::NoItem);
}

#[test]
fn no_quarantine_repeats_the_body() {
    for body in [
        r#"{"key":"SECRET","sort":["SECRET"]}"#,
        r#"{"SECRET":1,"SECRET":2}"#,
        "SECRET",
        r#"{"key":"a","expires":"SECRET"}"#,
    ] {
        let quarantine = keyed(body).expect_err(body);
        assert!(!quarantine.to_string().contains("SECRET"), "{quarantine}");
    }
}

/// The document of a blob after it was taken apart into items and put together again, by way of the stored
/// form of its skeleton.
fn there_and_back(mapper: &Mapper, pathname: &str, body: &[u8]) -> (Document, Option<Document>) {
    let pathname = Pathname::from(pathname);
    let Rule::Entity(entity) = mapper.rule(&pathname) else { panic!("no entity takes {pathname}") };
    let mapped = map_at(mapper, pathname.as_str(), body).expect("items");
    let document = mapper.decode(entity, body).expect("a document");
    let stored = serde_json::to_string(&mapper.skeleton(entity, &document, &mapped)).expect("JSON");
    let skeleton = serde_json::from_str(&stored).expect("a skeleton");
    let items: Vec<&Item> = mapped.iter().map(|mapped| &mapped.item).collect();
    (document, mapper.rebuild(entity, &items, &skeleton))
}

fn assert_comes_back(mapper: &Mapper, pathname: &str, body: &str) {
    let (document, rebuilt) = there_and_back(mapper, pathname, body.as_bytes());
    assert!(
        rebuilt.as_ref().is_some_and(|rebuilt| rebuilt.semantically_eq(&document)),
        "{body}: {rebuilt:?}"
    );
}

#[test]
fn the_record_comes_back_from_its_items() {
    let mapper = mapper(PLAN);
    let body = r#"{"name":"Ada","n":1.50,"rank":"b","extra":"X","deep":{"a":[-0,null,{"b":1e3}]}}"#;
    assert_comes_back(&mapper, "r/7.json", body);
    assert_comes_back(&mapper, "k/7.json", r#"{"key":"a","list":[1]}"#);
    let items = map_at(&mapper, "r/7.json", body.as_bytes()).expect("items");
    let document = mapper.decode(EntityId(0), body.as_bytes()).expect("a document");
    let skeleton = mapper.skeleton(EntityId(0), &document, &items);
    assert!(skeleton.is_whole());
    assert_eq!(mapper.rebuild(EntityId(0), &[], &skeleton), None, "an item is missing");
    assert_ne!(mapper.rebuild(EntityId(0), &[&items[1].item], &skeleton), Some(document), "it is another's");
}

#[test]
fn another_rule_has_another_digest() {
    let digest = |plan: &str| mapper(plan).digest(EntityId(1));
    assert_eq!(digest(PLAN), digest(&PLAN.replace("reason = \"assets\"", "reason = \"images\"")));
    assert_ne!(digest(PLAN), digest(&PLAN.replace("K#", "L#")));
    assert_ne!(digest(PLAN), digest(&PLAN.replace("ttl = \"ttl\"", "ttl = \"expiry\"")));
}
