//! The example data in the stores it is for: what the model says is held there is held there.

use std::collections::BTreeMap;
use std::sync::Arc;

use migrate::blob::memory::{MemoryBlob, MemoryConfig};
use migrate::blob::store::{BlobStore as _, PutOptions};
use migrate::clock::SystemClock;
use migrate::fixture;

#[tokio::test]
async fn the_store_takes_every_blob() {
    let store = MemoryBlob::new(MemoryConfig::default(), Arc::new(SystemClock::new()));
    for blob in fixture::blobs(1, 100) {
        let options =
            PutOptions { content_type: Some(blob.content_type.to_owned()), ..PutOptions::default() };
        let head = store.put(&blob.pathname, blob.body.clone().into(), &options).await.unwrap();
        assert_eq!(head.blob.pathname, blob.pathname);
    }
}

#[cfg(feature = "embedded")]
#[tokio::test]
async fn the_engine_takes_every_item_and_not_one_byte_more() {
    use migrate::mapping::{BlobFacts, Mapper, Rule, SOURCE_ATTRIBUTE};
    use migrate::target::dynamodb::{DynamoConfig, DynamoTarget};
    use migrate::target::embedded::{Engine, Location};
    use migrate::target::{Table, TargetStore as _};
    use migrate::value::{ITEM_BYTES_MAX, Value, item_bytes};

    let plan = migrate::plan::parse("migration-plan.md", fixture::PLAN, &[]).unwrap().plan;
    let engine = Engine::start(&Location::Memory, None).unwrap();
    let config = DynamoConfig::new(plan.target.clone(), Arc::new(SystemClock::new()));
    let target = DynamoTarget::connect(config.endpoint(engine.endpoint())).await.unwrap();
    target.provision(&plan.target, false, false).await.unwrap();

    let mapper = Mapper::with_key(&plan, Some(fixture::ENCRYPTION_KEY.into())).unwrap();
    let now = "2026-02-01T00:00:00Z".parse().unwrap();
    let mut written = BTreeMap::new();
    for blob in fixture::blobs(1, 50) {
        let Rule::Entity(entity) = mapper.rule(&blob.pathname) else { continue };
        let facts = BlobFacts { pathname: &blob.pathname, uploaded_at: now };
        for mut mapped in mapper.map(entity, facts, &blob.body, now).unwrap() {
            let source = BTreeMap::from([
                ("pathname".to_owned(), Value::s(blob.pathname.as_str())),
                ("rev".to_owned(), Value::s("0".repeat(32))),
            ]);
            mapped.item.insert(SOURCE_ATTRIBUTE.to_owned(), Value::M(source));
            written.insert(mapped.key, mapped.item);
        }
    }
    let (keys, items): (Vec<_>, Vec<_>) = written.into_iter().unzip();
    let created = target.insert(Table::Data, items.clone()).await.unwrap();
    assert!(created.iter().all(|created| *created));
    let stored = target.get(Table::Data, &keys).await.unwrap();
    assert_eq!(stored, items.iter().cloned().map(Some).collect::<Vec<_>>());

    let mut largest = items.into_iter().max_by_key(item_bytes).unwrap();
    assert_eq!(item_bytes(&largest), ITEM_BYTES_MAX);
    largest.insert("SK".to_owned(), Value::s("METADATAX"));
    assert!(target.insert(Table::Data, vec![largest]).await.is_err());
}
