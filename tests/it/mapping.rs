//! From the example data to items under the shipped plan, and back.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::LazyLock;

use migrate::blob::Pathname;
use migrate::digest::Digest;
use migrate::fixture::{self, Expected, FixtureBlob};
use migrate::mapping::{
    BlobFacts, Document, EntityId, Json, MappedItem, Mapper, Quarantine, Rule, SOURCE_ATTRIBUTE, source_bytes,
};
use migrate::plan::{self, Duplicates, Plan};
use migrate::value::{Item, Value, item_bytes};
use proptest::prelude::*;

const NOW: &str = "2026-02-01T00:00:00Z";

fn plan() -> Plan {
    plan::parse("migration-plan.md", fixture::PLAN, &[]).unwrap().plan
}

fn with_key(plan: &Plan) -> Mapper {
    Mapper::with_key(plan, Some(fixture::ENCRYPTION_KEY.into())).unwrap()
}

fn mapper() -> &'static Mapper {
    static MAPPER: LazyLock<Mapper> = LazyLock::new(|| with_key(&plan()));
    &MAPPER
}

fn map(mapper: &Mapper, pathname: &Pathname, body: &[u8]) -> Result<Vec<MappedItem>, Quarantine> {
    let Rule::Entity(entity) = mapper.rule(pathname) else { panic!("no entity takes {pathname}") };
    let facts = BlobFacts { pathname, uploaded_at: NOW.parse().unwrap() };
    mapper.map(entity, facts, body, NOW.parse().unwrap())
}

fn outcome(mapper: &Mapper, blob: &FixtureBlob) -> Result<Expected, Quarantine> {
    Ok(match mapper.rule(&blob.pathname) {
        Rule::Entity(_) => Expected::Items(map(mapper, &blob.pathname, &blob.body)?.len()),
        Rule::Ignored { .. } => Expected::Ignored,
        Rule::Accepted { .. } => blob.expected,
        Rule::Unmatched => panic!("no rule takes {}", blob.pathname),
        Rule::Ambiguous(rules) => panic!("{} is taken by {rules:?}", blob.pathname),
    })
}

#[test]
fn each_blob_of_the_example_data_becomes_what_its_model_says() {
    let mapper = mapper();
    for blob in fixture::blobs(1, 500) {
        let accepted = matches!(mapper.rule(&blob.pathname), Rule::Accepted { .. });
        assert_eq!(accepted, matches!(blob.expected, Expected::Accepted(_)), "{}", blob.pathname);
        assert_eq!(outcome(mapper, &blob), Ok(blob.expected), "{}", blob.pathname);
    }
}

#[test]
fn without_the_accept_rules_each_accepted_blob_is_quarantined_for_its_reason() {
    let mut plan = plan();
    plan.accepted.clear();
    let mapper = &with_key(&plan);
    let mut reasons = BTreeSet::new();
    for blob in fixture::blobs(1, 0) {
        match blob.expected {
            Expected::Accepted(reason) => {
                let quarantine = map(mapper, &blob.pathname, &blob.body).expect_err(blob.pathname.as_str());
                assert_eq!(quarantine.reason, reason, "{}: {quarantine}", blob.pathname);
                reasons.insert(reason);
            }
            Expected::Items(_) | Expected::Ignored | Expected::Quarantined(_) => {}
        }
    }
    assert_eq!(reasons.len(), 10, "{reasons:?}");
}

#[test]
fn a_seed_gives_the_same_distinct_blobs_always() {
    let digest = |seed| {
        let mut all = Vec::new();
        for blob in fixture::blobs(seed, 300) {
            all.extend_from_slice(blob.pathname.as_str().as_bytes());
            all.extend_from_slice(&blob.body);
        }
        Digest::of(all)
    };
    assert_eq!(digest(1), digest(1));
    assert_ne!(digest(1), digest(2));
    let pathnames: Vec<Pathname> = fixture::blobs(1, 300).map(|blob| blob.pathname).collect();
    assert_eq!(pathnames.iter().collect::<BTreeSet<_>>().len(), pathnames.len());
    assert!(pathnames.iter().any(|pathname| pathname.as_str().encode_utf16().count() == 950));
    assert!(fixture::signups(1, 50, 1024).all(|blob| (1024..1200).contains(&blob.body.len())));
}

#[test]
fn two_blobs_become_the_same_item_only_as_one_group() {
    let mapper = mapper();
    let mut owners: BTreeMap<_, (Pathname, Option<String>)> = BTreeMap::new();
    let mut shared = 0;
    for blob in fixture::blobs(1, 1000) {
        if let Rule::Entity(_) = mapper.rule(&blob.pathname) {
            for item in map(mapper, &blob.pathname, &blob.body).unwrap() {
                let owner = (blob.pathname.clone(), item.group.clone());
                if let Some((other, group)) = owners.insert(item.key.clone(), owner) {
                    assert!(group.is_some() && group == item.group, "{} is also of {other}", item.key);
                    shared += 1;
                }
            }
        }
    }
    assert!(shared > 0, "no address has two blobs");
}

#[test]
fn every_entity_of_the_model_has_its_items() {
    let mapper = mapper();
    let mut kinds = BTreeSet::new();
    for blob in fixture::blobs(1, 50) {
        if let Rule::Entity(_) = mapper.rule(&blob.pathname) {
            for item in map(mapper, &blob.pathname, &blob.body).unwrap() {
                assert_eq!(
                    item.omitted.is_empty(),
                    !blob.pathname.as_str().contains("-index-key_"),
                    "{}",
                    blob.pathname
                );
                kinds.insert(item.item["_entityType"].as_s().unwrap().to_owned());
            }
        }
    }
    let expected = [
        "Activity",
        "Agent",
        "AuditLog",
        "BiometricCredential",
        "Communication",
        "ConsentRecord",
        "ConsentSummary",
        "CookiePreference",
        "CostRecord",
        "Decision",
        "Device",
        "Signup",
        "Task",
        "Team",
        "UsageSummary",
        "User",
    ];
    assert_eq!(kinds.iter().map(String::as_str).collect::<Vec<_>>(), expected);
}

#[test]
fn the_owner_has_credentials_and_devices_in_both_forms() {
    let mapper = mapper();
    let keys = |blob: &FixtureBlob| -> Vec<String> {
        let items = map(mapper, &blob.pathname, &blob.body).unwrap();
        items.iter().map(|item| item.key.to_string()).collect()
    };
    let newest = fixture::blobs(1, 0).find(|blob| blob.pathname.as_str().starts_with("biometric-")).unwrap();
    assert_eq!(
        keys(&newest),
        ["USER#owner / BIOMETRIC#c1", "USER#owner / BIOMETRIC#c2", "USER#owner / DEVICE#f1"]
    );
    let legacy = fixture::legacy_owner();
    assert_eq!(keys(&legacy), ["USER#owner / BIOMETRIC#c1", "USER#owner / DEVICE#f1"]);
    let items = map(mapper, &legacy.pathname, &legacy.body).unwrap();
    assert_eq!(items[0].item["counter"], Value::n(7));
    let Rule::Entity(entity) = mapper.rule(&legacy.pathname) else { panic!("an entity") };
    let document = mapper.decode(entity, &legacy.body).unwrap();
    assert!(rebuild(mapper, entity, &document, &items).unwrap().semantically_eq(&document));
}

#[test]
fn an_index_without_its_input_is_left_out_and_counted() {
    let mapper = mapper();
    for blob in fixture::blobs(1, 0).filter(|blob| blob.pathname.as_str().contains("-index-key_")) {
        let items = map(mapper, &blob.pathname, &blob.body).unwrap();
        assert_eq!(items[0].omitted, ["GSI1"]);
        assert!(!items[0].item.contains_key("gsi1pk") && items[0].item.contains_key("gsi2pk"));
    }
}

fn rebuild(mapper: &Mapper, entity: EntityId, document: &Document, items: &[MappedItem]) -> Option<Document> {
    let skeleton = mapper.skeleton(entity, document, items);
    mapper.rebuild(entity, &items.iter().map(|item| &item.item).collect::<Vec<_>>(), &skeleton)
}

#[test]
fn the_record_of_each_blob_comes_back_from_its_items() {
    let mapper = mapper();
    let mut rebuilt_count = 0;
    for blob in fixture::blobs(1, 200) {
        let Rule::Entity(entity) = mapper.rule(&blob.pathname) else { continue };
        let mut items = map(mapper, &blob.pathname, &blob.body).unwrap();
        for item in &mut items {
            item.item.insert(SOURCE_ATTRIBUTE.to_owned(), Value::M(BTreeMap::new()));
        }
        let document = mapper.decode(entity, &blob.body).unwrap();
        let rebuilt = rebuild(mapper, entity, &document, &items).unwrap();
        assert!(rebuilt.semantically_eq(&document), "{}: {rebuilt:?}", blob.pathname);
        rebuilt_count += 1;
    }
    assert!(rebuilt_count > 200);
}

/// DynamoDB's own notation, so that the files can be read beside its documentation.
fn notation(value: &Value) -> serde_json::Value {
    use serde_json::json;
    match value {
        Value::S(text) => json!({"S": text}),
        Value::N(number) => json!({"N": number.as_str()}),
        Value::Bool(truth) => json!({"BOOL": truth}),
        Value::Null => json!({"NULL": true}),
        Value::L(list) => json!({"L": list.iter().map(notation).collect::<Vec<_>>()}),
        Value::M(map) => json!({"M": notation_of_item(map)}),
        other => panic!("a mapping makes no {other:?}"),
    }
}

fn notation_of_item(item: &Item) -> serde_json::Value {
    item.iter().map(|(name, value)| (name.clone(), notation(value))).collect()
}

#[test]
fn the_items_of_chosen_blobs_are_as_in_the_golden_files() {
    let mapper = mapper();
    let mut settings = insta::Settings::clone_current();
    settings.set_snapshot_path("../../fixtures/mapping");
    settings.set_prepend_module_to_snapshot(false);
    settings.set_omit_expression(true);
    for (name, pathname, body) in [
        (
            "signup-oldest",
            "signups/Quiet_Otter_000001_example_com_1767600000000-a1.json",
            r#"{"email": "Quiet.Otter.000001@example.com", "fullName": "Quiet Otter", "signupDate": "2026-01-05T08:00:00.000Z"}"#,
        ),
        (
            "signup-with-consent",
            "signups/94cf48ed1dcd39a7_1767600000000-a2.json",
            r#"{"email": "amber.finch@example.com", "fullName": "Amber Finch", "signupDate": "2026-01-05T08:00:00.000Z", "mainInterest": "costs", "consentToContact": true, "policyVersion": "2026-01", "consentTimestamp": "2026-01-05T08:00:01.000Z"}"#,
        ),
        (
            "owner-credential",
            "biometric-credentials/owner-credential.json",
            r#"{"userId": "owner", "version": "3.0", "credentials": [{"credentialId": "c1", "counter": 7}], "authorizedDevices": [{"fingerprint": "f1", "trusted": true}]}"#,
        ),
        (
            "task",
            "teams/blue/tasks/k1.json",
            r#"{"title": "Example", "status": "open", "priority": "high", "createdAt": "2026-01-04T11:00:00+01:00", "estimate": 1.50, "done": false, "parent": null, "tags": ["a", ""]}"#,
        ),
        (
            "activity",
            "teams/blue/activities/v1.json",
            r#"{"timestamp": "2026-01-04T10:00:00.000Z", "count": 9007199254740993}"#,
        ),
    ] {
        let items = map(mapper, &pathname.into(), body.as_bytes()).unwrap();
        let text: Vec<_> = items.iter().map(|item| format!("{:#}", notation_of_item(&item.item))).collect();
        settings.bind(|| insta::assert_snapshot!(name, text.join("\n")));
    }
}

/// The limits, measured here in their own way.
fn assert_within_limits(pathname: &Pathname, mapped: &MappedItem) {
    fn levels(value: &Value) -> usize {
        match value {
            Value::L(list) => 1 + list.iter().map(levels).max().unwrap_or(0),
            Value::M(map) => {
                assert!(map.keys().all(|name| !name.is_empty()));
                1 + map.values().map(levels).max().unwrap_or(0)
            }
            _ => 0,
        }
    }
    let item = &mapped.item;
    assert!(item_bytes(item) + source_bytes(pathname.as_str()) <= 409_600);
    for (name, bytes_max) in
        [("PK", 2048), ("SK", 1024), ("gsi1pk", 2048), ("gsi1sk", 1024), ("gsi2pk", 2048), ("gsi2sk", 1024)]
    {
        match item.get(name) {
            Some(Value::S(text)) => assert!((1..=bytes_max).contains(&text.len()), "{name}"),
            Some(other) => panic!("{name} is {other:?}"),
            None => assert!(name.starts_with("gsi"), "{name} is missing"),
        }
    }
    for index in ["gsi1", "gsi2"] {
        assert_eq!(item.contains_key(&format!("{index}pk")), item.contains_key(&format!("{index}sk")));
    }
    for (name, value) in item {
        assert!(!name.is_empty() && levels(value) <= 32);
    }
    assert!(matches!(item.get("ttl"), None | Some(Value::N(_) | Value::Null)));
    assert_eq!(Some(mapped.key.partition.as_str()), item["PK"].as_s());
}

fn json_text() -> impl Strategy<Value = String> {
    let text = prop_oneof![
        Just(String::new()),
        ".{0,12}",
        Just("2026-01-05T08:00:00.000Z".to_owned()),
        "x{1000,1100}"
    ];
    let leaf = prop_oneof![
        Just("null".to_owned()),
        any::<bool>().prop_map(|truth| truth.to_string()),
        "-?(0|[1-9][0-9]{0,40})(\\.[0-9]{1,40})?([eE][+-]?[0-9]{1,4})?",
        text.prop_map(|text| serde_json::Value::from(text).to_string()),
    ];
    let name = prop_oneof![
        Just("email"),
        Just("signupDate"),
        Just("consentToContact"),
        Just("consentTimestamp"),
        Just("ttl"),
        Just("status"),
        Just("PK"),
        Just("gsi1pk"),
        Just(""),
        Just("a"),
        Just("é"),
        Just("_source"),
    ];
    leaf.prop_recursive(6, 48, 6, move |inner| {
        prop_oneof![
            1 => prop::collection::vec(inner.clone(), 0..6).prop_map(|list| format!("[{}]", list.join(","))),
            3 => prop::collection::vec((name.clone(), inner), 0..6).prop_map(|members| {
                let members: Vec<_> = members.into_iter().map(|(name, json)| format!("\"{name}\":{json}")).collect();
                format!("{{{}}}", members.join(","))
            }),
        ]
    })
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, cases: 512, ..ProptestConfig::default() })]

    #[test]
    fn arbitrary_bytes_have_one_outcome_and_no_panic(body in prop::collection::vec(any::<u8>(), 0..200)) {
        let pathname = Pathname::from("signups/a_1.json");
        let mapper = mapper();
        prop_assert_eq!(map(mapper, &pathname, &body), map(mapper, &pathname, &body));
    }

    #[test]
    fn arbitrary_json_becomes_items_within_limits_or_is_quarantined(
        fields in prop::collection::vec(json_text(), 1..4),
        email in prop::option::weighted(0.8, "[a-z]{0,6}@example.com"),
        pathname in prop_oneof![Just("signups/a_1.json"), Just("teams/t/tasks/k.json"), Just("costs/c.json")],
    ) {
        let mut members: Vec<_> = fields.iter().enumerate().map(|(at, json)| format!("\"f{at}\":{json}")).collect();
        members.extend(email.map(|email| format!("\"email\":\"{email}\"")));
        for body in [format!("{{{}}}", members.join(",")), fields[0].clone()] {
            let mapper = mapper();
            let pathname = Pathname::from(pathname);
            let mapped = map(mapper, &pathname, body.as_bytes());
            prop_assert_eq!(&mapped, &map(mapper, &pathname, body.as_bytes()));
            let Ok(items) = mapped else { continue };
            for item in &items {
                assert_within_limits(&pathname, item);
            }
            let Rule::Entity(entity) = mapper.rule(&pathname) else { unreachable!() };
            let document = Document::Json(Json::parse(body.as_bytes(), Duplicates::Quarantine).unwrap());
            let rebuilt = rebuild(mapper, entity, &document, &items).unwrap();
            prop_assert!(rebuilt.semantically_eq(&document));
        }
    }
}
