//! Several records in one document.

use super::*;

const SHAPES: &str = r#"
[source]
store = "test"
[target]
table = "test"
partition_key = "PK"
sort_key = "SK"
[[entity]]
name = "list"
blobs = "list/{file}.json"
[[entity.item]]
each = "[*]"
PK = "U#{{ record.id }}"
SK = "{{ file }}"
place = "{{ index }}"
[[entity]]
name = "grouped"
blobs = "grouped/{file}.json"
[[entity.item]]
each = "[*]"
group_by = "{{ record.email | lower }}"
PK = "S#{{ group }}"
SK = "META"
hash = "{{ group | sha256 }}"
[[entity.item]]
each = "[*]"
when = "record.consent"
body = "none"
group_by = "{{ record.email | lower }}/{{ file }}"
PK = "C#{{ group }}"
SK = "META"
[[entity]]
name = "map"
blobs = "map/{file}.json"
[[entity.item]]
each = "records[*]"
when = "record.draft is not defined"
PK = "M#{{ key }}"
SK = "{{ body.version }}"
body = "nested:record"
[[entity]]
name = "shop"
blobs = "shop/{file}.json"
[[entity.item]]
each = "categories[*]"
PK = "C#{{ record.id }}"
SK = "META"
[[entity.item]]
each = "products[*]"
PK = "P#{{ record.id }}"
SK = "META"
[[entity.item]]
each = "products[*]"
body = "none"
PK = "P#{{ record.id }}"
SK = "TAG#{{ record.tag | default('none') }}"
[[entity]]
name = "teams"
blobs = "teams/{file}.json"
[[entity.item]]
body = "none"
PK = "FILE#{{ file }}"
SK = "META"
count = "{{ body.teams | default('none') and 'some' }}"
[[entity.item]]
each = "teams[*].members[*]"
PK = "T#{{ parent.id }}"
SK = "{{ record.name | lower }}"
"#;

fn items_of(pathname: &str, body: &str) -> Result<Vec<MappedItem>, Quarantine> {
    map_at(&mapper(SHAPES), pathname, body.as_bytes())
}

fn keys(items: &[MappedItem]) -> Vec<String> {
    items.iter().map(|item| item.key.to_string()).collect()
}

#[test]
fn each_record_of_a_list_is_an_item() {
    let items = items_of("list/a.json", r#"[{"id":7,"n":1.0},{"id":"x"}]"#).expect("items");
    assert_eq!(keys(&items), ["U#7 / a", "U#x / a"]);
    assert_eq!(items[1].item["place"], Value::s("1"));
    assert_eq!(items[0].item["n"], Value::n(1));
    assert_eq!(items[1].origin.place.to_string(), "[1]");
}

#[test]
fn each_record_of_an_object_knows_its_name_and_the_document() {
    let body = r#"{"version":"3","records":{"b":{"x":1},"a":[1],"c":{"draft":true}}}"#;
    let items = items_of("map/a.json", body).expect("items");
    assert_eq!(keys(&items), ["M#a / 3", "M#b / 3"]);
    assert_eq!(items[0].item["record"], Value::L(vec![Value::n(1)]));
}

#[test]
fn several_entities_may_be_in_one_document() {
    let body = r#"{"categories":[{"id":"c"}],"products":[{"id":"p","tag":"new"},{"id":"q"}]}"#;
    let items = items_of("shop/db.json", body).expect("items");
    assert_eq!(
        keys(&items),
        ["C#c / META", "P#p / META", "P#p / TAG#new", "P#q / META", "P#q / TAG#none"],
        "rule by rule, and rules of the same records record by record"
    );
    let absent = items_of("shop/db.json", r#"{"products":[{"id":"p"}]}"#).expect("items");
    assert_eq!(absent.len(), 2, "an absent name is an empty list");
    let (empty, none) = (items_of("shop/db.json", "{}"), items_of("list/a.json", "[]"));
    assert_eq!((reason(empty), reason(none)), (Reason::NoItem, Reason::NoItem));
}

#[test]
fn records_within_records_know_what_is_around_them() {
    let body = r#"{"teams":[{"id":"blue","members":[{"name":"Ada"}]},{"id":"red"},{"id":"green","members":{"x":{"name":"Bo"}}}]}"#;
    let items = items_of("teams/a.json", body).expect("items");
    assert_eq!(keys(&items), ["FILE#a / META", "T#blue / ada", "T#green / bo"]);
    assert_eq!(items[1].origin.place.to_string(), "teams[0].members[0]");
    assert_eq!(items[2].origin.place.to_string(), "teams[2].members{0}");
}

#[test]
fn what_is_wrong_with_a_record_names_it() {
    for (pathname, body, reason, detail, offset) in [
        ("list/a.json", "7", Reason::Shape, "the plan looks for records in it", None),
        (
            "map/a.json",
            r#"{"records":null}"#,
            Reason::Shape,
            "`records`: the plan looks for records in it",
            None,
        ),
        ("map/a.json", "[]", Reason::Shape, "the plan looks for records under `records`", None),
        (
            "teams/a.json",
            r#"{"teams":[{},7]}"#,
            Reason::Shape,
            "`teams[1]`: the plan looks for records under `members`",
            None,
        ),
        ("list/a.json", r#"[{"id":1},{"id":""}]"#, Reason::Key, "`[1]`: the input of `PK` is missing", None),
        ("list/a.json", r#"[{"id":1,"n":[1e126]}]"#, Reason::Number, "`[0].n`: a number", Some(14)),
        (
            "shop/a.json",
            r#"{"products":[{"id":1,"ada@example.com":1e126}]}"#,
            Reason::Number,
            "`products[0]`: a number",
            Some(39),
        ),
        ("list/a.json", "[7]", Reason::Key, "`[0]`: the input of `PK`", None),
        (
            "list/a.json",
            r#"[{"id":1},{"id":2},{"id":1}]"#,
            Reason::DuplicateKey,
            "`[0]` and `[2]` have the same key",
            None,
        ),
        (
            "shop/a.json",
            r#"{"products":[{"id":1,"tag":"a"},{"id":2},{"id":1,"tag":"b"}]}"#,
            Reason::DuplicateKey,
            "`products[0]` and `products[2]` have the same key",
            None,
        ),
    ] {
        let quarantine = items_of(pathname, body).expect_err(body);
        assert_eq!((quarantine.reason, quarantine.offset), (reason, offset), "{body}: {quarantine}");
        assert!(quarantine.detail.contains(detail), "expected: {detail}\nactual:   {}", quarantine.detail);
    }
}

#[test]
fn a_record_may_be_as_deep_as_an_item_wherever_it_is() {
    let deep = |levels: usize| {
        format!(
            r#"{{"teams":[{{"id":1,"members":[{{"name":"a","d":{}{}}}]}}]}}"#,
            "[".repeat(levels),
            "]".repeat(levels)
        )
    };
    assert!(items_of("teams/a.json", &deep(31)).is_ok());
    assert_eq!(reason(items_of("teams/a.json", &deep(33))), Reason::Depth);
    assert_eq!(reason(items_of("teams/a.json", &deep(10_000))), Reason::Depth);
}

#[test]
fn many_records_in_a_row_take_no_room_in_the_skeleton() {
    let list: Vec<String> = (0..20_000).map(|id| format!(r#"{{"id":{id}}}"#)).collect();
    let body = format!("[{}]", list.join(","));
    assert_eq!(items_of("list/a.json", &body).expect("items").len(), 20_000);
    let skeleton = {
        let mapper = mapper(SHAPES);
        let document = mapper.decode(EntityId(0), body.as_bytes()).expect("a document");
        let items = items_of("list/a.json", &body).expect("items");
        serde_json::to_string(&mapper.skeleton(EntityId(0), &document, &items)).expect("JSON")
    };
    assert!(skeleton.len() < 100, "{skeleton}");
}

#[test]
fn documents_come_back_with_all_that_is_in_no_record() {
    let mapper = mapper(SHAPES);
    for (pathname, body) in [
        ("list/a.json", r#"[{"id":7,"n":1.0},{"id":"x"}]"#),
        ("list/a.json", r#"{"k":{"id":7},"l":{"id":8}}"#),
        (
            "map/a.json",
            r#"{"version":"3","at":1.50,"records":{"b":{"x":1},"a":[1],"c":{"draft":true,"n":1e400}}}"#,
        ),
        (
            "shop/db.json",
            r#"{"categories":[{"id":"c"}],"products":[{"id":"p"},{"id":"q","tag":"x"}],"next":9}"#,
        ),
        (
            "teams/a.json",
            r#"{"teams":[{"id":1,"members":[{"name":"a"},{"name":"b"}],"x":[null]},{"id":2}],"y":{}}"#,
        ),
    ] {
        assert_comes_back(&mapper, pathname, body);
    }
}

#[test]
fn a_group_is_the_text_of_its_template_and_each_item_has_its_own() {
    let body = r#"[{"email":"A@x","consent":true},{"email":"b@x"}]"#;
    let items = items_of("grouped/f.json", body).expect("items");
    let groups: Vec<_> = items.iter().map(|item| item.group.as_deref()).collect();
    assert_eq!(groups, [Some("a@x"), Some("a@x/f"), Some("b@x")]);
    assert_eq!(keys(&items), ["S#a@x / META", "C#a@x/f / META", "S#b@x / META"]);
    let hashes: Vec<_> = items.iter().filter_map(|item| item.item.get("hash")?.as_s()).collect();
    assert_eq!(hashes, [Digest::of("a@x").to_string(), Digest::of("b@x").to_string()]);
    assert_comes_back(&mapper(SHAPES), "grouped/f.json", body);
    assert_eq!(items_of("list/a.json", r#"[{"id":1}]"#).expect("items")[0].group, None);
}

#[test]
fn a_group_without_its_input_is_quarantined() {
    for email in ["null", "\"\""] {
        let quarantine = items_of("grouped/f.json", &format!(r#"[{{"email":{email}}}]"#)).expect_err(email);
        assert_eq!(quarantine.reason, Reason::Key);
        assert!(quarantine.detail.contains("`[0]`: the input of `group_by`"), "{quarantine}");
    }
    assert_eq!(reason(items_of("grouped/f.json", r#"[{"email":[]}]"#)), Reason::Template);
}

#[test]
fn the_stored_form_of_a_skeleton_does_not_change() {
    let stored = |pathname: &str, body: &str| {
        let mapper = mapper(SHAPES);
        let Rule::Entity(entity) = mapper.rule(&pathname.into()) else {
            panic!("no entity takes {pathname}")
        };
        let document = mapper.decode(entity, body.as_bytes()).expect("a document");
        let items = items_of(pathname, body).expect("items");
        serde_json::to_string(&mapper.skeleton(entity, &document, &items)).expect("JSON")
    };
    assert_eq!(
        stored("list/a.json", r#"[{"id":1},{"id":2},{"id":3}]"#),
        r#"{"list":[{"records":{"rule":0,"first":0,"step":1,"count":3}}]}"#
    );
    assert_eq!(
        stored("map/a.json", r#"{"version":"3","at":1.50,"records":{"b":{"x":1},"c":{"draft":true}}}"#),
        r#"{"object":{"at":{"text":"1.50"},"records":{"object":{"b":{"record":[0,0]},"c":{"text":"{\"draft\":true}"}}},"version":{"text":"\"3\""}}}"#
    );
}
