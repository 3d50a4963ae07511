//! What needs a hand inside the file: a disk that is full.

use std::sync::Arc;

use bytes::Bytes;
use tokio_util::sync::CancellationToken;

use super::*;
use crate::ErrorKind;
use crate::blob::client::Meter;
use crate::blob::faults::{Faults, FaultyBlob, Operation};
use crate::blob::memory::{MemoryBlob, MemoryConfig};
use crate::blob::store::{BlobStore as _, PutOptions};
use crate::event::Silent;
use crate::mapping::Mapper;
use crate::plan::Plan;
use crate::testing::JumpingClock;

const PLAN: &str = r#"
[source]
store = "demo"
[target]
table = "demo"
partition_key = "PK"
sort_key = "SK"
[[entity]]
name = "record"
blobs = "{id}.json"
[[entity.item]]
PK = "RECORD#{{ id }}"
SK = "METADATA"
"#;

/// A bound on the pages of the file is what a full disk looks like from within.
async fn bound_pages(snapshot: &Snapshot, pages: u32) {
    snapshot
        .with("bound the file", move |connection| connection.pragma_update(None, "max_page_count", pages))
        .await
        .unwrap();
}

#[tokio::test]
async fn a_full_disk_stops_the_export_and_loses_nothing() {
    let clock = Arc::new(JumpingClock::at("2026-11-01T00:00:00Z"));
    let store = MemoryBlob::new(MemoryConfig::default(), clock.clone());
    for number in 0..100u32 {
        // Digests do not compress.
        let body: String =
            (0..200).map(|part| crate::digest::Digest::of(format!("{number} {part}")).to_string()).collect();
        let name = format!("{number:03}.json").as_str().into();
        store.put(&name, Bytes::from(body).into(), &PutOptions::default()).await.unwrap();
    }
    let faults = Faults::new(clock.clone());
    let plan: Plan = toml::from_str(PLAN).unwrap();
    let export = Export {
        source: Arc::new(FaultyBlob::new(Arc::new(store), faults.clone())),
        meter: Meter::default(),
        mapper: Arc::new(Mapper::new(&plan).unwrap()),
        paced: true,
        plan: Arc::new(plan),
        clock,
        events: Arc::new(Silent),
        options: ExportOptions { concurrency: 1, ..ExportOptions::default() },
    };
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("a.snapshot");
    let cancel = CancellationToken::new();

    let snapshot = Snapshot::create_or_open(&path, "demo").unwrap();
    bound_pages(&snapshot, 100).await;
    let error = export.run(&snapshot, &cancel).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NoSpace);
    let text = error.to_string();
    assert!(text.contains("no space left in") && text.contains("a.snapshot"), "{text}");
    drop(snapshot);

    let snapshot = Snapshot::create_or_open(&path, "demo").unwrap();
    let saved = snapshot.blobs(None, 1000).await.unwrap().iter().filter(|blob| blob.is_complete()).count();
    assert!((1..100).contains(&saved), "{saved} were saved before the disk was full");
    let read_before = faults.calls(Operation::Get);
    let report = export.run(&snapshot, &cancel).await.unwrap();
    assert_eq!(report.fetched, 100 - saved as u64);
    assert_eq!(
        faults.calls(Operation::Get) - read_before,
        report.fetched,
        "what was saved is not read again"
    );
    assert!(report.manifest.is_some());
}
