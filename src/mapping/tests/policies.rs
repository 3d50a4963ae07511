//! What is done with what can't be held as it is, where the plan says so.

use super::*;

fn policies(placement: &str, policies: &str) -> Mapper {
    let plan = r#"
[source]
store = "test"
[target]
table = "test"
partition_key = "PK"
sort_key = "SK"
ttl = "ttl"
[[entity]]
name = "record"
blobs = "r/{id}.json"
POLICIES
[[entity.item]]
PK = "R#{{ id }}"
SK = "META"
body = "PLACEMENT"
"#;
    mapper(&plan.replace("POLICIES", policies).replace("PLACEMENT", placement))
}

fn map_with(mapper: &Mapper, body: &str) -> Result<Vec<MappedItem>, Quarantine> {
    map_at(mapper, "r/7.json", body.as_bytes())
}

#[test]
fn numbers_out_of_range_are_text_and_come_back_as_numbers() {
    let body =
        r#"{"a/b":{"~":[1,1e400]},"n":1.50,"long":123456789012345678901234567890123456789,"text":"1e400"}"#;
    for placement in ["attributes", "nested:record"] {
        assert_eq!(reason(map_with(&policies(placement, ""), body)), Reason::Number);
        let mapper = policies(placement, "numbers = \"text\"");
        let items = map_with(&mapper, body).expect("items");
        assert_eq!(
            items[0].item["_numbers"],
            Value::L(vec![Value::s("/a~1b/~0/1"), Value::s("/long")]),
            "{placement}"
        );
        assert_comes_back(&mapper, "r/7.json", body);
        assert!(!map_with(&mapper, r#"{"n":1}"#).expect("items")[0].item.contains_key("_numbers"));
    }
    let mapper = policies("attributes", "numbers = \"text\"");
    assert_eq!(
        map_with(&mapper, body).expect("items")[0].item["long"],
        Value::s("1".to_owned() + &"2345678901".repeat(3) + "23456789")
    );
    assert_eq!(reason(map_with(&mapper, r#"{"_numbers":[]}"#)), Reason::NameClash);
    assert_comes_back(&policies("nested:record", "numbers = \"text\""), "r/7.json", "1e400");
}

#[test]
fn empty_fields_are_left_out_and_come_back() {
    let body = r#"{"a":"","b":{"c":""},"d":[""],"e":null}"#;
    let kept = map_with(&policies("attributes", ""), body).expect("items");
    assert_eq!(kept[0].item["a"], Value::s(""));
    let mapper = policies("attributes", "empty_strings = \"omit\"");
    let items = map_with(&mapper, body).expect("items");
    assert_eq!(items[0].item.keys().collect::<Vec<_>>(), ["PK", "SK", "_empty", "b", "d", "e"]);
    assert_comes_back(&mapper, "r/7.json", body);
    assert_eq!(reason(map_with(&mapper, r#"{"_empty":1}"#)), Reason::NameClash);
}

/// A record that no item holds, and that hardly shrinks.
fn large(bytes: usize) -> String {
    let mut digest = Digest::of("large").to_string();
    let mut noise = String::new();
    while noise.len() < bytes {
        digest = Digest::of(&digest).to_string();
        noise.push_str(&digest);
        noise.push('é');
    }
    format!(r#"{{"noise":"{noise}","n":1.50,"ttl":1800000000,"empty":""}}"#)
}

#[test]
fn a_record_that_is_too_large_is_compressed() {
    let body = large(500_000);
    assert_eq!(reason(map_with(&policies("attributes", ""), &body)), Reason::ItemTooLarge);
    for placement in ["attributes", "nested:record"] {
        let mapper = policies(placement, "too_large = \"compress\"\nempty_strings = \"omit\"");
        let items = map_with(&mapper, &body).expect("items");
        assert_eq!(items.len(), 1);
        assert_eq!(items[0].item["_encoding"], Value::s("json+zstd"));
        assert_eq!(items[0].item.contains_key("ttl"), placement == "attributes", "DynamoDB expires it still");
        assert!(item_bytes(&items[0].item) < 350_000);
        assert_comes_back(&mapper, "r/7.json", &body);
        let small = map_with(&mapper, r#"{"a":1}"#).expect("items");
        assert!(!small[0].item.contains_key("_encoding"));
        let quarantine = map_with(&mapper, &large(900_000)).expect_err("it does not shrink enough");
        assert_eq!(quarantine.reason, Reason::ItemTooLarge);
    }
    let mapper = policies("attributes", "too_large = \"compress\"");
    assert_eq!(reason(map_with(&mapper, r#"{"_body":1}"#)), Reason::NameClash);
}

#[test]
fn a_record_that_is_too_large_is_split_and_its_head_comes_last() {
    let body = large(1_500_000);
    for placement in ["attributes", "nested:record"] {
        let mapper = policies(placement, "too_large = \"split\"");
        let items = map_with(&mapper, &body).expect("items");
        let keys: Vec<_> = items.iter().map(|item| item.key.sort.as_str()).collect();
        assert_eq!(
            keys,
            ["META#part-00001", "META#part-00002", "META#part-00003", "META#part-00004", "META"]
        );
        for item in &items {
            let bytes = item_bytes(&item.item) + source_bytes("r/7.json");
            assert!(bytes <= ITEM_BYTES_MAX, "{bytes}");
            assert_eq!(item.item.contains_key("ttl"), placement == "attributes", "all of it expires at once");
        }
        assert!(item_bytes(&items[0].item) + source_bytes("r/7.json") > ITEM_BYTES_MAX - 10);
        assert_eq!(items[4].item["_parts"], Value::n(4));
        assert_comes_back(&mapper, "r/7.json", &body);
    }
}

#[test]
fn a_record_without_one_of_its_parts_does_not_come_back() {
    let mapper = policies("attributes", "too_large = \"split\"");
    let body = large(900_000);
    let mapped = map_with(&mapper, &body).expect("items");
    let document = mapper.decode(EntityId(0), body.as_bytes()).expect("a document");
    let skeleton = mapper.skeleton(EntityId(0), &document, &mapped);
    let items: Vec<&Item> = mapped.iter().map(|mapped| &mapped.item).collect();
    assert!(mapper.rebuild(EntityId(0), &items, &skeleton).is_some());
    let swapped = [items[1], items[0], items[2], items[3]];
    assert_eq!(mapper.rebuild(EntityId(0), &swapped, &skeleton), None);
    assert_eq!(mapper.rebuild(EntityId(0), &items[1..], &skeleton), None);
}

#[test]
fn bytes_are_compressed_and_split_as_well() {
    let noise = large(500_000).into_bytes();
    for (policy, count) in [("compress", 1), ("split", 3)] {
        let mapper = policies("nested:bytes", &format!("decode = \"raw\"\ntoo_large = \"{policy}\""));
        let items = map_at(&mapper, "r/7.json", &noise).expect("items");
        assert_eq!(items.len(), count, "{policy}");
        let (document, rebuilt) = there_and_back(&mapper, "r/7.json", &noise);
        assert!(rebuilt == Some(document), "{policy}");
    }
}

#[test]
fn a_policy_changes_the_digest_and_no_policy_does_not() {
    let digest = |text: &str| policies("attributes", text).digest(EntityId(0));
    assert_eq!(digest(""), digest("too_large = \"quarantine\"\nnumbers = \"quarantine\""));
    assert_ne!(digest(""), digest("too_large = \"split\""));
}
