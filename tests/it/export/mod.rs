//! The export: what is fetched and what is not.

mod cost;
mod file;
mod interrupted;
mod wire;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use jiff::Timestamp;
use migrate::blob::Pathname;
use migrate::blob::client::Meter;
use migrate::blob::faults::{Fault, Faults, FaultyBlob, Operation};
use migrate::blob::memory::{MemoryBlob, MemoryConfig};
use migrate::blob::store::{Access, BlobStore as _, PutOptions};
use migrate::clock::Clock;
use migrate::digest::Digest;
use migrate::event::Silent;
use migrate::mapping::Mapper;
use migrate::plan::Plan;
use migrate::snapshot::{Export, ExportOptions, ExportReport, Snapshot, Verdict};
use migrate::testing::JumpingClock;
use migrate::{Error, Exit};
use tempfile::TempDir;
use tokio_util::sync::CancellationToken;

const PLAN: &str = r#"
[source]
store = "demo"
[target]
table = "demo"
partition_key = "PK"
sort_key = "SK"
[[entity]]
name = "signup"
blobs = "signups/{id}.json"
[[entity.item]]
PK = "SIGNUP#{{ id }}"
SK = "METADATA"
[[ignore]]
blobs = "**/*.png"
reason = "assets"
[[accept]]
blobs = "signups/broken-*.json"
reason = "test data"
"#;

/// A store with switches, a plan, and the place of a snapshot.
struct World {
    store: MemoryBlob,
    faults: Faults,
    clock: JumpingClock,
    plan: Plan,
    options: ExportOptions,
    cancel: CancellationToken,
    directory: TempDir,
}

impl World {
    fn new() -> Self {
        Self::with_access(Access::Public)
    }

    fn with_access(access: Access) -> Self {
        let clock = JumpingClock::at("2026-11-01T00:00:00Z");
        let config = MemoryConfig { access, ..MemoryConfig::default() };
        let mut plan: Plan = toml::from_str(PLAN).unwrap();
        plan.source.access = access;
        Self {
            store: MemoryBlob::new(config, Arc::new(clock.clone())),
            faults: Faults::new(Arc::new(clock.clone())),
            clock,
            plan,
            options: ExportOptions::default(),
            cancel: CancellationToken::new(),
            directory: TempDir::new().unwrap(),
        }
    }

    async fn with_signups(count: usize) -> Self {
        let world = Self::new();
        for number in 0..count {
            world.put(&signup(number), &format!("{{\"number\": {number}}}")).await;
        }
        world
    }

    async fn put(&self, name: &str, text: &str) {
        put(&self.store, name, text).await;
    }

    async fn delete(&self, name: &str) {
        self.store.delete(&[name.into()], None).await.unwrap();
    }

    fn path(&self) -> PathBuf {
        self.directory.path().join("folder/demo.snapshot")
    }

    fn writer(&self) -> Snapshot {
        Snapshot::create_or_open(self.path(), "demo").unwrap()
    }

    fn export(&self) -> Export {
        Export {
            paced: true,
            source: Arc::new(FaultyBlob::new(Arc::new(self.store.clone()), self.faults.clone())),
            meter: Meter::default(),
            mapper: Arc::new(Mapper::new(&self.plan).unwrap()),
            plan: Arc::new(self.plan.clone()),
            clock: Arc::new(self.clock.clone()),
            events: Arc::new(Silent),
            options: self.options,
        }
    }

    async fn run(&self) -> Result<ExportReport, Error> {
        self.export().run(&self.writer(), &self.cancel).await
    }

    fn gets(&self) -> u64 {
        self.faults.calls(Operation::Get)
    }

    /// Lets this many reads through unharmed, so that the next fault meets a later one.
    fn skip_reads(&self, count: usize) {
        for _ in 0..count {
            self.faults.fault(Operation::Get, Fault::Slow(Duration::ZERO));
        }
    }

    async fn body(&self, name: &str) -> Option<String> {
        let head = self.store.head(&name.into()).await.unwrap()?;
        let body = Snapshot::open(self.path()).unwrap().body(&name.into(), &head.blob.etag).await.unwrap()?;
        Some(String::from_utf8(body.bytes().unwrap().to_vec()).unwrap())
    }
}

async fn put(store: &MemoryBlob, name: &str, text: &str) {
    let options = PutOptions { allow_overwrite: true, ..PutOptions::default() };
    let body = Bytes::copy_from_slice(text.as_bytes());
    store.put(&name.into(), body.into(), &options).await.unwrap();
}

fn signup(number: usize) -> String {
    format!("signups/{number:05}.json")
}

#[tokio::test]
async fn all_is_listed_and_what_a_rule_maps_is_fetched() {
    let world = World::with_signups(3).await;
    for name in ["logo.png", "signups/broken-1.json", "readme.txt"] {
        world.put(name, "x").await;
    }
    let report = world.run().await.unwrap();
    assert_eq!(world.gets(), 3, "nothing else is read");
    assert_eq!((report.listed, report.fetched, report.mapped), (6, 3, 3));
    assert_eq!((report.ignored, report.accepted, report.unmatched), (1, 1, 1));
    assert_eq!(report.unmatched_names, [Pathname::new("readme.txt")]);
    assert_eq!(report.exit(), Exit::Done);
    assert_eq!(world.body(&signup(1)).await.as_deref(), Some("{\"number\": 1}"));

    let snapshot = Snapshot::open(world.path()).unwrap();
    assert_eq!(snapshot.manifest().await.unwrap(), report.manifest);
    let manifest = report.manifest.unwrap();
    assert_eq!((manifest.listed, manifest.fetched, manifest.ignored), (6, 3, 1));
    let blobs = snapshot.blobs(None, 100).await.unwrap();
    let names: Vec<_> = blobs.iter().map(|blob| blob.pathname.as_str()).collect();
    assert_eq!(names[..3], ["logo.png", "readme.txt", "signups/00000.json"], "in the order of the names");
    assert_eq!((blobs[0].verdict, blobs[0].body.is_none()), (Verdict::Ignored, true));
    let held = blobs[2].body.as_ref().unwrap();
    assert_eq!(held.sha256, Digest::of("{\"number\": 0}"));
    assert_eq!(held.content_type, "application/json");
    assert!(held.cache_control.contains("max-age"), "{}", held.cache_control);
    let rest = snapshot.blobs(Some(&blobs[2].pathname), 2).await.unwrap();
    assert_eq!(rest, blobs[3..5]);
}

#[tokio::test]
async fn a_second_export_fetches_only_what_changed() {
    let world = World::with_signups(5).await;
    let first = world.run().await.unwrap().manifest.unwrap();
    let again = world.run().await.unwrap();
    assert_eq!((again.fetched, world.gets()), (0, 5));
    assert_eq!(again.manifest.unwrap().digest, first.digest, "the same blobs have the same digest");

    world.put(&signup(1), "changed").await;
    world.put(&signup(7), "new").await;
    world.delete(&signup(2)).await;
    let report = world.run().await.unwrap();
    assert_eq!((report.fetched, report.gone, report.listed), (2, 1, 5));
    assert_eq!(world.gets(), 7);
    assert_ne!(report.manifest.unwrap().digest, first.digest);
    assert_eq!(world.body(&signup(1)).await.as_deref(), Some("changed"));
    let blobs = Snapshot::open(world.path()).unwrap().blobs(None, 100).await.unwrap();
    assert!(blobs.iter().all(|blob| blob.pathname.as_str() != signup(2)), "what is gone is not shown");
}

#[tokio::test]
async fn stale_content_is_waited_for_in_public_stores_and_passed_by_in_private_ones() {
    for access in [Access::Public, Access::Private] {
        let world = World::with_access(access);
        world.faults.set_stale_reads(Some(Duration::from_secs(60)));
        let faulty = world.export().source;
        let options = PutOptions { allow_overwrite: true, ..PutOptions::default() };
        for text in ["old", "new"] {
            let body = Bytes::copy_from_slice(text.as_bytes());
            faulty.put(&Pathname::new(signup(1)), body.into(), &options).await.unwrap();
        }
        let began = world.clock.monotonic();
        world.run().await.unwrap();
        assert_eq!(world.body(&signup(1)).await.as_deref(), Some("new"), "{access:?}");
        let waited = world.clock.monotonic() - began;
        match access {
            Access::Public => assert!(waited >= Duration::from_secs(60), "{waited:?}"),
            Access::Private => assert_eq!(waited, Duration::ZERO),
        }
    }
}

#[tokio::test]
async fn blobs_that_move_while_they_are_exported() {
    let mut world = World::with_signups(3).await;
    world.options.concurrency = 1;
    let mut paused = world.faults.pause(Operation::Get);
    let (export, snapshot) = (world.export(), world.writer());
    let run = tokio::spawn(async move { export.run(&snapshot, &CancellationToken::new()).await });
    paused.arrived().await;
    world.put(&signup(0), "changed and longer than before").await;
    world.delete(&signup(1)).await;
    paused.release();
    let report = run.await.unwrap().unwrap();
    assert_eq!((report.listed, report.fetched, report.gone, report.failed), (2, 2, 1, 0));
    assert!(report.manifest.is_some());
    assert_eq!(world.body(&signup(0)).await.as_deref(), Some("changed and longer than before"));
    let again = world.run().await.unwrap();
    assert_eq!((again.fetched, again.gone), (0, 0), "nothing is fetched again, and gone is told once");
}

#[tokio::test]
async fn large_bodies_are_kept_in_chunks() {
    let world = World::new();
    let text: String = (0..400_000).map(|number| format!("{number} ")).collect();
    assert!(text.len() > 2 << 20);
    world.put(&signup(1), &text).await;
    world.put(&signup(2), "").await;
    let report = world.run().await.unwrap();
    assert_eq!(report.fetched_bytes, text.len() as u64);
    assert!(world.body(&signup(1)).await.unwrap() == text, "the body came back changed");
    assert_eq!(world.body(&signup(2)).await.as_deref(), Some(""));
}

#[tokio::test]
async fn a_body_that_is_too_long_is_a_failure_of_that_body() {
    let mut world = World::with_signups(2).await;
    world.put(&signup(5), &"x".repeat(5000)).await;
    world.options.body_bytes_max = 4096;
    let report = world.run().await.unwrap();
    assert_eq!((report.fetched, report.failed), (2, 1));
    assert!(report.failures[0].message.contains("5000"), "{}", report.failures[0].message);
}

#[tokio::test]
async fn an_empty_store_is_exported_too() {
    let report = World::new().run().await.unwrap();
    assert_eq!(report.manifest.unwrap().listed, 0);
}

#[tokio::test]
async fn times_are_kept_to_the_millisecond() {
    let world = World::new();
    let at: Timestamp = "2026-10-31T12:00:00.123Z".parse().unwrap();
    let body = Bytes::from_static(b"{}");
    world.store.put_at(&Pathname::new(signup(1)), body, &PutOptions::default(), at).await.unwrap();
    world.run().await.unwrap();
    let blobs = Snapshot::open(world.path()).unwrap().blobs(None, 10).await.unwrap();
    assert_eq!(blobs[0].version.uploaded_at, at);
    assert!(blobs[0].is_complete());
}
