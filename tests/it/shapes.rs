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
#[test]
fn a_store_of_every_shape_migrates_and_only_what_cannot_be_held_is_left() {
    let mut sandbox = crate::support::Sandbox::new();
    sandbox.write("migration-plan.md", fixture::SHAPES_PLAN);
    let _stores = sandbox.emulate(&["--seed", "shapes"]);
    sandbox.run(&["provision"]).expect(0);
    sandbox.run(&["export"]).expect(0);
    sandbox.run(&["dual-write", "--once"]).expect(3);
    let validated = sandbox.run(&["validate"]).expect(5);
    let shapes = fixture::shapes();
    let left = shapes.iter().filter(|blob| matches!(blob.expected, Expected::Quarantined(_))).count();
    let result = validated.stdout.lines().last().unwrap();
    assert_eq!(
        result.split_whitespace().collect::<Vec<_>>().join(" "),
        format!("result NOT equal: {left} × unmappable")
    );
}
