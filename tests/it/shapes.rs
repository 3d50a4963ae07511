//! Every shape of data, under a plan of its own: what the model says becomes of it, does.

use std::collections::BTreeMap;

use migrate::fixture::{self, Expected};
use migrate::mapping::{BlobFacts, MappedItem, Mapper, Reason, Rule};
use migrate::plan;
use migrate::value::Item;

const NOW: &str = "2026-02-01T00:00:00Z";

fn mapper() -> Mapper {
    Mapper::new(&plan::parse("shapes.md", fixture::SHAPES_PLAN, &[]).unwrap().plan).unwrap()
}

/// The items of each blob that has any, by pathname; each blob is what its model says.
fn mapped(mapper: &Mapper) -> BTreeMap<String, Vec<MappedItem>> {
    let mut all = BTreeMap::new();
    for blob in fixture::shapes() {
        let pathname = blob.pathname.as_str();
        let outcome = match mapper.rule(&blob.pathname) {
            Rule::Ignored { .. } => Expected::Ignored,
            Rule::Accepted { .. } => Expected::Accepted(Reason::Shape),
            Rule::Entity(entity) => {
                let facts = BlobFacts { pathname: &blob.pathname, uploaded_at: NOW.parse().unwrap() };
                match mapper.map(entity, facts, &blob.body, NOW.parse().unwrap()) {
                    Err(quarantine) => Expected::Quarantined(quarantine.reason),
                    Ok(items) => {
                        let count = items.len();
                        assert!(
                            all.insert(pathname.to_owned(), items).is_none(),
                            "{pathname} is there twice"
                        );
                        Expected::Items(count)
                    }
                }
            }
            other => panic!("{pathname}: {other:?}"),
        };
        assert_eq!(outcome, blob.expected, "{pathname}");
    }
    all
}

#[test]
fn each_blob_becomes_what_its_model_says_and_shares_items_within_groups_only() {
    let all = mapped(&mapper());
    let (mut owners, mut shared) = (BTreeMap::new(), Vec::new());
    for (pathname, items) in &all {
        for item in items {
            if let Some((other, group)) = owners.insert(&item.key, (pathname, &item.group)) {
                assert!(group.is_some() && *group == item.group, "{} of {pathname} is {other}'s", item.key);
                shared.push(item.key.partition.as_str());
            }
        }
    }
    assert!(owners.len() > 280);
    shared.sort_unstable();
    assert_eq!(shared, ["EVENT#e1", "PROFILE#otter", "PROFILE#otter"]);
}

#[test]
fn each_document_comes_back() {
    let mapper = mapper();
    let all = mapped(&mapper);
    for blob in fixture::shapes() {
        let Some(mapped) = all.get(blob.pathname.as_str()) else { continue };
        let Rule::Entity(entity) = mapper.rule(&blob.pathname) else { unreachable!() };
        let document = mapper.decode(entity, &blob.body).unwrap();
        let skeleton = mapper.skeleton(entity, &document, mapped);
        let items: Vec<&Item> = mapped.iter().map(|mapped| &mapped.item).collect();
        let rebuilt = mapper.rebuild(entity, &items, &skeleton).unwrap();
        assert!(rebuilt.semantically_eq(&document), "{}: {rebuilt:?}", blob.pathname);
    }
}

#[cfg(feature = "embedded")]
#[tokio::test]
async fn the_engine_takes_every_item_and_gives_it_back() {
    use std::sync::Arc;

    use migrate::clock::SystemClock;
    use migrate::mapping::SOURCE_ATTRIBUTE;
    use migrate::target::dynamodb::{DynamoConfig, DynamoTarget};
    use migrate::target::embedded::{Engine, Location};
    use migrate::target::{Table, TargetStore as _};
    use migrate::value::{Key, Value};

    let plan = plan::parse("shapes.md", fixture::SHAPES_PLAN, &[]).unwrap().plan;
    let engine = Engine::start(&Location::Memory, None).unwrap();
    let config = DynamoConfig::new(plan.target.clone(), Arc::new(SystemClock::new()));
    let target = DynamoTarget::connect(config.endpoint(engine.endpoint())).await.unwrap();
    target.provision(&plan.target, false, false).await.unwrap();
    let mut all: BTreeMap<Key, Item> = BTreeMap::new();
    for (pathname, mapped) in mapped(&mapper()) {
        let source = BTreeMap::from([
            ("pathname".to_owned(), Value::s(pathname)),
            ("rev".to_owned(), Value::s("0".repeat(32))),
        ]);
        for mut mapped in mapped {
            mapped.item.insert(SOURCE_ATTRIBUTE.to_owned(), Value::M(source.clone()));
            all.insert(mapped.key, mapped.item);
        }
    }
    let (keys, items): (Vec<Key>, Vec<Item>) = all.into_iter().unzip();
    assert!(target.insert(Table::Data, items.clone()).await.unwrap().iter().all(|created| *created));
    let stored = target.get(Table::Data, &keys).await.unwrap();
    assert!(stored == items.into_iter().map(Some).collect::<Vec<_>>());
}

#[cfg(feature = "embedded")]
mod whole {
    use std::collections::BTreeSet;

    use serde_json::json;

    use super::*;
    use crate::local::Source;
    use crate::support::Sandbox;
    use crate::target_local::Local;

    /// A whole migration by the real commands: each blob is accounted for, and only what can't be held is left.
    fn migrate_every_shape(sandbox: &Sandbox) {
        let run = |code: i32, command: &[&str]| {
            sandbox.run(&[command, &["--output", "json"]].concat()).expect(code).json()
        };
        let shapes = fixture::shapes();
        let count =
            |verdict: fn(&Expected) -> bool| shapes.iter().filter(|blob| verdict(&blob.expected)).count();
        let ignored = count(|expected| *expected == Expected::Ignored);
        let accepted = count(|expected| matches!(expected, Expected::Accepted(_)));
        let quarantined: BTreeSet<&str> = shapes
            .iter()
            .filter(|blob| matches!(blob.expected, Expected::Quarantined(_)))
            .map(|blob| blob.pathname.as_str())
            .collect();

        sandbox.run(&["provision"]).expect(0);
        sandbox.run(&["export"]).expect(0);
        let check = run(3, &["check"]);
        let load = run(3, &["dual-write", "--once"]);
        let backfill = &load["backfill"];
        let names = |list: &serde_json::Value| -> BTreeSet<String> {
            list.as_array().unwrap().iter().map(|name| name.as_str().unwrap().to_owned()).collect()
        };
        assert_eq!((&backfill["ignored"], &backfill["accepted"]), (&json!(ignored), &json!(accepted)));
        assert_eq!((&backfill["failed"], &backfill["unmapped"]), (&json!([]), &json!([])));
        assert!(names(&backfill["quarantined"]).iter().eq(&quarantined), "{backfill}");

        let validated = run(5, &["validate"]);
        let sweep = &validated["sweeps"][0];
        let drift = sweep["drift"].as_array().unwrap();
        assert!(drift.iter().all(|drift| drift["kind"] == "unmappable"), "{drift:?}");
        let left: BTreeSet<&str> = drift.iter().map(|drift| drift["pathname"].as_str().unwrap()).collect();
        assert_eq!((left, drift.len()), (quarantined.clone(), quarantined.len()));

        // Whose items are in the table says how many blobs were written.
        let tables = Source::empty();
        let written = tables.tables(&sandbox.variable("DYNAMODB_ENDPOINT"), "shapes").owners().len();
        let superseded = sweep["superseded"].as_u64().unwrap();
        let account = [written, superseded.try_into().unwrap(), ignored, accepted, quarantined.len()];
        assert_eq!(account.iter().sum::<usize>(), shapes.len(), "{account:?}");
        let said =
            ["written", "superseded", "ignored", "accepted", "quarantined"].map(|name| &check["blobs"][name]);
        assert_eq!(account.map(|blobs| json!(blobs)).each_ref(), said, "and `check` said so before");
        assert_eq!(check["blobs"]["listed"], shapes.len());
    }

    #[test]
    fn a_store_of_every_shape_migrates_and_only_what_cannot_be_held_is_left() {
        let mut sandbox = Sandbox::new();
        sandbox.write("migration-plan.md", fixture::SHAPES_PLAN);
        let _stores = sandbox.emulate(&["--seed", "shapes"]);
        migrate_every_shape(&sandbox);
        let validated = sandbox.run(&["validate"]).expect(5);
        let shapes = fixture::shapes();
        let left = shapes.iter().filter(|blob| matches!(blob.expected, Expected::Quarantined(_))).count();
        let result = validated.stdout.lines().last().unwrap();
        assert_eq!(
            result.split_whitespace().collect::<Vec<_>>().join(" "),
            format!("result NOT equal: {left} × unmappable")
        );
    }

    #[test]
    fn a_store_of_every_shape_migrates_into_amazons_dynamodb_local() {
        let mut sandbox = Sandbox::new();
        sandbox.write("migration-plan.md", fixture::SHAPES_PLAN);
        let _stores = sandbox.emulate(&["--seed", "shapes"]);
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let local = runtime.block_on(Local::start());
        sandbox.set("DYNAMODB_ENDPOINT", &local.endpoint());
        migrate_every_shape(&sandbox);
    }
}
