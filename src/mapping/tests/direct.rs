//! Items that the application wrote itself: their digest, their document, their name.

use super::*;
use crate::mapping::direct::{Claim, item_digest};
use bytes::Bytes;

const DIRECT: &str = r#"
[source]
store = "test"
[target]
table = "test"
partition_key = "PK"
sort_key = "SK"
ttl = "ttl"
[[entity]]
name = "note"
blobs = "notes/{id}.json"
direct_writes = true
pathname = "notes/{{ item.id }}-{{ item.n }}.json"
BODY
[[entity.item]]
PK = "NOTE#{{ body.id }}"
SK = "META"
ttl = "{{ body.expires }}"
upper = "{{ body.id | upper }}"
"#;

fn attributes(list: &[(&str, Value)]) -> Item {
    list.iter().map(|(name, value)| ((*name).to_owned(), value.clone())).collect()
}

fn note(id: &str, more: &[(&str, Value)]) -> (Key, Item) {
    let mut item =
        attributes(&[("PK", Value::s(format!("NOTE#{id}"))), ("SK", Value::s("META")), ("id", Value::s(id))]);
    item.extend(attributes(more));
    (Key::new(format!("NOTE#{id}"), "META"), item)
}

fn rebuilt(mapper: &Mapper, (key, item): &(Key, Item)) -> Result<Rebuilt, Quarantine> {
    let pathname = Pathname::from("notes/1.json");
    let blob = BlobFacts { pathname: &pathname, uploaded_at: NOW.parse().expect("a time") };
    mapper.rebuilt(EntityId(0), blob, (key, item))
}

fn number(text: &str) -> Value {
    Value::N(text.parse().expect("a number"))
}

#[test]
fn equal_items_have_one_digest_and_others_have_others() {
    let digest = |value: Value| item_digest(&attributes(&[("a", value)]));
    let texts = |texts: &[&str]| Value::Ss(texts.iter().map(ToString::to_string).collect());
    assert_eq!(digest(number("1.50")), digest(number("15e-1")));
    assert_eq!(digest(texts(&["b", "a"])), digest(texts(&["a", "b"])));
    let marked = attributes(&[("a", Value::Null), (SOURCE_ATTRIBUTE, Value::s("x"))]);
    assert_eq!(item_digest(&marked), digest(Value::Null), "`_source` is not the application's");
    let bytes = |text: &'static str| Bytes::from_static(text.as_bytes());
    let all = [
        number("1"),
        Value::s("1"),
        Value::B(bytes("1")),
        Value::Ns(vec!["1".parse().expect("a number")]),
        texts(&["1"]),
        texts(&["1", "2"]),
        texts(&["12"]),
        Value::Bs(vec![bytes("1")]),
        Value::Bool(true),
        Value::Bool(false),
        Value::Null,
        Value::s(""),
        Value::L(vec![]),
        Value::L(vec![Value::L(vec![]), Value::Null]),
        Value::L(vec![Value::L(vec![Value::Null])]),
        Value::M(attributes(&[])),
        Value::M(attributes(&[("b", Value::Null)])),
        Value::M(attributes(&[("b", Value::s("")), ("c", Value::Null)])),
        Value::M(attributes(&[("b", Value::M(attributes(&[("c", Value::Null)])))])),
    ];
    let distinct: std::collections::BTreeSet<_> = all.iter().cloned().map(digest).collect();
    assert_eq!(distinct.len(), all.len());
    assert_ne!(item_digest(&attributes(&[("b", Value::Null)])), digest(Value::Null));
}

#[test]
fn an_item_is_its_document_and_what_the_plan_sets_is_not_in_it() {
    let mapper = mapper(&DIRECT.replace("BODY", ""));
    let (upper, expires) = (("upper", Value::s("É")), ("expires", Value::n(1_800_000_000)));
    let planned = [upper, ("ttl", Value::n(1_800_000_000)), expires.clone()];
    let whole = note("é", &planned);
    let found = rebuilt(&mapper, &whole).expect("it is a note");
    assert_eq!((found.json.as_str(), found.apart.len()), (r#"{"expires":1800000000,"id":"é"}"#, 0));
    let other = note("1", &[("upper", Value::s("one")), ("n", number("1.50")), expires]);
    let found = rebuilt(&mapper, &other).expect("it is a note");
    assert_eq!(found.json, r#"{"expires":1800000000,"id":"1","n":1.5}"#);
    assert_eq!(found.apart, ["upper", "ttl"], "it has no `ttl`, and another `upper`");
    // It expired, and is there still.
    let expired = note("1", &[("expires", Value::n(1_700_000_000)), ("ttl", Value::n(1_700_000_000))]);
    assert_eq!(rebuilt(&mapper, &expired).expect("it is a note").apart, ["upper"]);
    let nested = self::mapper(
        &DIRECT.replace("BODY", "").replace("SK = \"META\"", "SK = \"META\"\nbody = \"nested:doc\""),
    );
    let doc = Value::M(attributes(&[("id", Value::s("1"))]));
    let mut item = note("1", &[("doc", doc), ("upper", Value::s("1"))]);
    assert!(rebuilt(&nested, &item).expect_err("`id` is not in it").detail.contains("`id` has no place"));
    item.1.remove("id");
    assert_eq!(rebuilt(&nested, &item).expect("it is a note").json, r#"{"id":"1"}"#);
}

#[test]
fn what_json_can_not_say_or_the_plan_would_not_is_refused() {
    let mapper = mapper(&DIRECT.replace("BODY", ""));
    for (more, detail) in [
        (vec![("tags", Value::Ss(vec!["a".to_owned()]))], "sets or bytes"),
        (vec![("inner", Value::L(vec![Value::B(Bytes::from_static(b"a"))]))], "sets or bytes"),
        (vec![("id", Value::s("2"))], "the plan makes the item NOTE#2 / META"),
        (vec![("id", Value::Null)], "`PK` is missing"),
    ] {
        let quarantine = rebuilt(&mapper, &note("1", &more)).expect_err(detail);
        assert!(quarantine.detail.contains(detail), "{}", quarantine.detail);
    }
}

#[test]
fn a_new_item_is_claimed_by_the_one_entity_whose_key_it_has() {
    let now = NOW.parse().expect("a time");
    let mapper = mapper(&DIRECT.replace("BODY", ""));
    let claim = |mapper: &Mapper, (key, item): (Key, Item)| mapper.claim(&key, &item, now);
    let named = |name: &str| Claim::Is(EntityId(0), Pathname::from(name));
    assert_eq!(claim(&mapper, note("1", &[("n", number("1.50"))])), named("notes/1-1.5.json"));
    let reasons = |claimed: Claim| match claimed {
        Claim::None(reasons) => reasons.into_iter().map(|(_, why)| why.detail).collect::<Vec<_>>().join("; "),
        claimed @ Claim::Is(..) => panic!("{claimed:?}"),
    };
    assert!(reasons(claim(&mapper, note("1", &[]))).contains("an input of `pathname`"));
    assert!(reasons(claim(&mapper, note("a/b", &[("n", Value::n(1))]))).contains("notes/a/b-1.json"));
    let long = "x".repeat(1000);
    assert!(reasons(claim(&mapper, note(&long, &[("n", Value::n(1))]))).contains("no name of this entity"));
    let nameless = DIRECT.replace("BODY", "").replace("pathname = ", "# ");
    assert!(reasons(claim(&self::mapper(&nameless), note("1", &[]))).contains("no `pathname`"));
    let twice = DIRECT.replace("BODY", "")
        + "[[entity]]\nname = \"other\"\nblobs = \"others/{id}.json\"\ndirect_writes = true\n\
           pathname = \"others/{{ item.id }}.json\"\n[[entity.item]]\nPK = \"NOTE#{{ body.id }}\"\nSK = \"META\"";
    assert!(
        reasons(claim(&self::mapper(&twice), note("1", &[("n", Value::n(1))]))).contains("several entities")
    );
}
