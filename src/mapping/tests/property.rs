//! Whatever a body is: no panic, one outcome, and what was mapped comes back.

use proptest::prelude::*;

use super::*;

/// Every shape, and every policy.
const ALL: &str = r#"
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
name = "object"
blobs = "object/{file}"
decode = "auto"
[[entity.item]]
PK = "O#{{ file }}"
SK = "META"
gsi1pk = "OS"
gsi1sk = "{{ body.a }}"
[[entity.item]]
when = "body.b"
body = "none"
PK = "O#{{ file }}"
SK = "B"
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
[[entity.item]]
each = "a[*]"
PK = "A#{{ index | default(key) }}"
SK = "META"
[[entity.item]]
each = "b[*].a[*]"
group_by = "{{ parent.b }}/{{ index | default(key) }}"
PK = "B#{{ group }}"
SK = "META"
[[entity.item]]
each = "c"
when = "record.a is defined"
body = "nested:c"
PK = "C#{{ file }}"
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
name = "raw"
blobs = "raw/{file}"
decode = "raw"
too_large = "split"
[[entity.item]]
body = "nested:bytes"
PK = "W#{{ file }}"
SK = "META"
[[entity]]
name = "nothing"
blobs = "nothing/{file}"
[[entity.item]]
body = "none"
PK = "X#{{ file }}"
SK = "META"
"#;

const SHAPES: [&str; 6] = ["object/f", "list/f", "several/f", "lines/f", "raw/f", "nothing/f"];

fn json() -> impl Strategy<Value = String> {
    let leaf = prop_oneof![
        Just("null".to_owned()),
        any::<bool>().prop_map(|truth| truth.to_string()),
        "-?(0|[1-9][0-9]{0,40})(\\.[0-9]{1,40})?([eE][+-]?[0-9]{1,4})?",
        prop_oneof![Just(String::new()), ".{0,8}"].prop_map(|text| serde_json::Value::from(text).to_string()),
    ];
    let name = prop_oneof![
        8 => prop_oneof![Just("a"), Just("b"), Just("c")],
        1 => prop_oneof![Just(""), Just("é/~"), Just("ttl"), Just("PK"), Just("_numbers"), Just("payload")],
    ];
    leaf.prop_recursive(5, 40, 5, move |inner| {
        prop_oneof![
            1 => prop::collection::vec(inner.clone(), 0..5).prop_map(|list| format!("[{}]", list.join(","))),
            2 => prop::collection::btree_map(name.clone(), inner, 0..4).prop_map(|members| {
                let members: Vec<_> = members.into_iter().map(|(name, json)| format!("\"{name}\":{json}")).collect();
                format!("{{{}}}", members.join(","))
            }),
        ]
    })
}

/// A document as the entity `several` expects it, as far as its records are objects.
pub(super) fn several() -> impl Strategy<Value = String> {
    let object = || {
        prop::collection::btree_map("[a-d]", json(), 0..4).prop_map(|members| {
            let members: Vec<_> =
                members.into_iter().map(|(name, json)| format!("\"{name}\":{json}")).collect();
            format!("{{{}}}", members.join(","))
        })
    };
    let list = move || prop::collection::vec(object(), 0..4);
    (list(), list(), object(), json()).prop_map(|(a, b, c, rest)| {
        let b = b.join(",");
        format!(r#"{{"a":[{}],"b":[{{"b":7,"a":[{b}]}}],"c":{c},"rest":{rest}}}"#, a.join(","))
    })
}

pub(super) fn bytes() -> impl Strategy<Value = Vec<u8>> {
    let noise = || prop::collection::vec(any::<u8>(), 0..60);
    prop_oneof![
        1 => noise(),
        1 => noise().prop_map(|noise| [&[0x1f, 0x8b][..], &noise].concat()),
        1 => (json(), noise()).prop_map(|(json, noise)| [json.as_bytes(), &noise].concat()),
        1 => (json(), any::<prop::sample::Index>())
            .prop_map(|(json, at)| json.as_bytes()[..at.index(json.len())].to_vec()),
        1 => prop::collection::vec(json(), 0..5).prop_map(|lines| lines.join("\n").into_bytes()),
        1 => json().prop_map(String::into_bytes),
        2 => several().prop_map(String::into_bytes),
    ]
}

fn levels(value: &Value) -> usize {
    match value {
        Value::L(list) => 1 + list.iter().map(levels).max().unwrap_or(0),
        Value::M(map) => 1 + map.values().map(levels).max().unwrap_or(0),
        _ => 0,
    }
}

/// Whether a body was mapped at all, so that a test that maps nothing does not pass.
fn check(mapper: &Mapper, pathname: &str, body: &[u8]) -> Result<bool, TestCaseError> {
    let mapped = map_at(mapper, pathname, body);
    prop_assert_eq!(&mapped, &map_at(mapper, pathname, body));
    let Ok(items) = mapped else { return Ok(false) };
    for mapped in items {
        prop_assert!(item_bytes(&mapped.item) + source_bytes(pathname) <= ITEM_BYTES_MAX);
        prop_assert!((1..=2048).contains(&mapped.key.partition.len()));
        prop_assert!((1..=1024).contains(&mapped.key.sort.len()));
        prop_assert_eq!(mapped.item.contains_key("gsi1pk"), mapped.item.contains_key("gsi1sk"));
        for (name, value) in &mapped.item {
            prop_assert!(!name.is_empty() && levels(value) <= 32);
        }
    }
    let (document, rebuilt) = there_and_back(mapper, pathname, body);
    prop_assert!(
        rebuilt.as_ref().is_some_and(|rebuilt| rebuilt.semantically_eq(&document)),
        "{}: {:?} came back as {:?}",
        pathname,
        document,
        rebuilt
    );
    Ok(true)
}

#[test]
fn whatever_is_mapped_comes_back() {
    let mapper = mapper(ALL);
    let mut mapped = std::collections::BTreeMap::new();
    let config = ProptestConfig { failure_persistence: None, cases: 1_500, ..ProptestConfig::default() };
    let mut runner = proptest::test_runner::TestRunner::new(config);
    let mapped_cell = std::cell::RefCell::new(&mut mapped);
    let checked = runner.run(&bytes(), |body| {
        for pathname in SHAPES {
            if check(&mapper, pathname, &body)? {
                *mapped_cell.borrow_mut().entry(pathname).or_insert(0) += 1;
            }
        }
        Ok(())
    });
    checked.unwrap_or_else(|error| panic!("{error}"));
    for pathname in SHAPES {
        let count = mapped.get(pathname).copied().unwrap_or(0);
        assert!(count > 25, "only {count} of {pathname} were mapped: {mapped:?}");
    }
}
