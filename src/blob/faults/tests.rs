use std::num::NonZeroU64;

use super::*;
use crate::blob::memory::{MemoryBlob, MemoryConfig};
use crate::blob::store::Access;
use crate::testing::ManualClock;
use std::time::Duration;

const SECOND: Duration = Duration::from_secs(1);

fn store(access: Access) -> (FaultyBlob, Faults, ManualClock) {
    let clock = ManualClock::at("2026-11-01T00:00:00Z");
    let config = MemoryConfig { access, ..MemoryConfig::default() };
    let memory = MemoryBlob::new(config, Arc::new(clock.clone()));
    let faults = Faults::new(Arc::new(clock.clone()));
    (FaultyBlob::new(Arc::new(memory), faults.clone()), faults, clock)
}

async fn put(store: &FaultyBlob, name: &str, text: &'static str) -> Result<Head> {
    let options = PutOptions { allow_overwrite: true, ..PutOptions::default() };
    store.put(&name.into(), bytes::Bytes::from_static(text.as_bytes()).into(), &options).await
}

async fn read(store: &FaultyBlob, name: &str, no_cache: bool) -> Option<(ETag, String)> {
    let content = store.get(&name.into(), &GetOptions { no_cache, range: None }).await.unwrap()?;
    let etag = content.etag.clone();
    let bytes = content.body.collect(100).await.unwrap();
    Some((etag, String::from_utf8(bytes.to_vec()).unwrap()))
}

#[tokio::test]
async fn content_stays_stale_while_metadata_is_fresh() {
    let (store, faults, clock) = store(Access::Private);
    faults.set_stale_reads(Some(60 * SECOND));
    let old = put(&store, "a", "old").await.unwrap().blob.etag;
    assert_eq!(
        read(&store, "a", false).await,
        Some((old.clone(), "old".to_owned())),
        "a first write is fresh"
    );

    let new = put(&store, "a", "new").await.unwrap().blob.etag;
    clock.advance(59 * SECOND);
    assert_eq!(store.head(&"a".into()).await.unwrap().unwrap().blob.etag, new);
    assert_eq!(read(&store, "a", false).await, Some((old, "old".to_owned())));
    assert_eq!(read(&store, "a", true).await, Some((new.clone(), "new".to_owned())), "past the cache");

    clock.advance(SECOND);
    assert_eq!(read(&store, "a", false).await, Some((new.clone(), "new".to_owned())));
    store.delete(&["a".into()], None).await.unwrap();
    assert_eq!(store.head(&"a".into()).await.unwrap(), None);
    assert_eq!(
        read(&store, "a", false).await,
        Some((new, "new".to_owned())),
        "a deleted blob is still served"
    );
    clock.advance(60 * SECOND);
    assert_eq!(read(&store, "a", false).await, None);
}

#[tokio::test]
async fn the_rates_are_those_of_the_plan() {
    let (store, faults, clock) = store(Access::Public);
    faults.set_rates(Some(Rates::HOBBY));
    for _ in 0..20 {
        store.head(&"a".into()).await.unwrap();
    }
    let refused = store.head(&"a".into()).await.unwrap_err().kind();
    assert_eq!(refused, ErrorKind::Throttled { retry_after: Some(SECOND / 20) });
    for _ in 0..15 {
        store.list(&ListRequest::default()).await.unwrap();
    }
    assert!(matches!(put(&store, "a", "x").await.unwrap_err().kind(), ErrorKind::Throttled { .. }));
    clock.advance(SECOND);
    let many: Vec<Pathname> = (0..15).map(|n| Pathname::new(n.to_string())).collect();
    store.delete(&many, None).await.unwrap();
    let refused = store.delete(&many[..1], None).await.unwrap_err();
    assert!(matches!(refused.kind(), ErrorKind::Throttled { .. }), "each blob of a delete counts");
}

#[tokio::test]
async fn a_store_is_suspended_after_its_allowance() {
    let (store, faults, _) = store(Access::Public);
    faults.suspend_after(Some(2));
    put(&store, "a", "x").await.unwrap();
    store.head(&"a".into()).await.unwrap();
    assert_eq!(store.head(&"a".into()).await.unwrap_err().kind(), ErrorKind::Suspended);
    assert_eq!(faults.calls(Operation::Head), 2);
    faults.suspend_after(None);
    assert!(store.head(&"a".into()).await.unwrap().is_some());
}

#[tokio::test]
async fn a_write_is_refused_or_lost_or_late() {
    let (store, faults, _) = store(Access::Public);
    faults.fault(Operation::Put, Fault::Refused(ErrorKind::NotApplied));
    assert_eq!(put(&store, "a", "1").await.unwrap_err().kind(), ErrorKind::NotApplied);
    assert_eq!(read(&store, "a", false).await, None);

    faults.fault(Operation::Put, Fault::AppliedThenLost);
    assert_eq!(put(&store, "a", "2").await.unwrap_err().kind(), ErrorKind::OutcomeUnknown);
    assert_eq!(read(&store, "a", false).await.unwrap().1, "2");

    faults.fault(Operation::Put, Fault::Held);
    assert_eq!(put(&store, "a", "3").await.unwrap_err().kind(), ErrorKind::OutcomeUnknown);
    put(&store, "a", "4").await.unwrap();
    faults.release_held().await;
    assert_eq!(read(&store, "a", false).await.unwrap().1, "3", "the late write lands over the newer one");
}

#[tokio::test]
async fn a_paused_call_has_no_effect_until_it_is_released() {
    let (store, faults, _) = store(Access::Public);
    let mut pause = faults.pause(Operation::Put);
    let writer = tokio::spawn({
        let store = store.clone();
        async move { put(&store, "a", "x").await }
    });
    pause.arrived().await;
    assert_eq!(read(&store, "a", false).await, None);
    pause.release();
    writer.await.unwrap().unwrap();
    assert_eq!(read(&store, "a", false).await.unwrap().1, "x");
}

#[tokio::test]
async fn every_so_many_requests_one_connection_is_dropped() {
    let (_, faults, _) = store(Access::Public);
    let drops = Drops { every: NonZeroU64::new(3).unwrap(), applied: true };
    faults.set_drops(Some(drops));
    let dropped: Vec<bool> = (0..6).map(|_| faults.next_drop().is_some()).collect();
    assert_eq!(dropped, [false, false, true, false, false, true]);
}
