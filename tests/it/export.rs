//! The export: what is fetched and what is not, what survives an interruption, and what the file refuses.

use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use jiff::Timestamp;
use migrate::blob::client::Meter;
use migrate::blob::faults::{Fault, Faults, FaultyBlob, Operation};
use migrate::blob::memory::{MemoryBlob, MemoryConfig};
use migrate::blob::store::{Access, BlobStore as _, PutOptions};
use migrate::blob::{ETag, Pathname};
use migrate::clock::Clock;
use migrate::digest::Digest;
use migrate::event::{Event, Reporter, Silent};
use migrate::mapping::Mapper;
use migrate::plan::{PatternPlan, Plan, VercelPlan};
use migrate::snapshot::{Export, ExportOptions, ExportReport, Snapshot, Verdict};
use migrate::testing::JumpingClock;
use migrate::{Error, ErrorKind, Exit};
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
        let bytes =
            Snapshot::open(self.path()).unwrap().body(&name.into(), &head.blob.etag).await.unwrap()?;
        Some(String::from_utf8(bytes.to_vec()).unwrap())
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
async fn a_killed_export_goes_on_without_reading_twice() {
    let mut world = World::with_signups(10).await;
    world.options.concurrency = 1;
    world.skip_reads(4);
    let mut fifth = world.faults.pause(Operation::Get);
    let (export, snapshot) = (world.export(), world.writer());
    let run = tokio::spawn(async move { export.run(&snapshot, &CancellationToken::new()).await });
    fifth.arrived().await;
    run.abort();
    assert!(run.await.unwrap_err().is_cancelled());
    assert_eq!(Snapshot::open(world.path()).unwrap().manifest().await.unwrap(), None, "it is unfinished");

    let report = world.run().await.unwrap();
    assert!(report.resumed);
    assert_eq!(report.fetched, 6, "four were durable");
    assert_eq!(world.gets(), 11, "only the one that was under way is asked for again");
    assert_eq!(world.faults.calls(Operation::List), 1, "the listing was durable too");
    assert_eq!(report.manifest.unwrap().fetched, 10);
}

#[tokio::test]
async fn an_interrupted_export_keeps_what_was_under_way() {
    let mut world = World::with_signups(10).await;
    world.options.concurrency = 1;
    world.skip_reads(4);
    let mut paused = world.faults.pause(Operation::Get);
    let (export, snapshot, cancel) = (world.export(), world.writer(), CancellationToken::new());
    // The system's clock: this run waits for requests under way, and must not outrun them.
    let export = Export { clock: Arc::new(migrate::clock::SystemClock::new()), ..export };
    let token = cancel.clone();
    let run = tokio::spawn(async move { export.run(&snapshot, &token).await });
    paused.arrived().await;
    cancel.cancel();
    paused.release();
    let error = run.await.unwrap().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Interrupted);
    assert_eq!(world.gets(), 5, "nothing new was begun");

    let report = world.run().await.unwrap();
    assert_eq!(world.gets(), 10, "no body was read twice");
    assert_eq!(report.manifest.unwrap().fetched, 10);
}

#[tokio::test]
async fn a_listing_goes_on_where_it_was_cut() {
    let world = World::with_signups(2500).await;
    world.faults.fault(Operation::List, Fault::Slow(Duration::ZERO));
    world.faults.fault(Operation::List, Fault::Refused(ErrorKind::Suspended));
    assert_eq!(world.run().await.unwrap_err().kind(), ErrorKind::Suspended);
    let report = world.run().await.unwrap();
    assert_eq!(world.faults.calls(Operation::List), 4, "one page, a refusal, the other two pages");
    assert_eq!((report.listed, report.fetched, world.gets()), (2500, 2500, 2500));
}

#[tokio::test]
async fn an_old_unfinished_listing_is_made_anew() {
    let world = World::with_signups(3).await;
    world.faults.fault(Operation::Get, Fault::Refused(ErrorKind::Suspended));
    assert_eq!(world.run().await.unwrap_err().kind(), ErrorKind::Suspended);
    world.clock.advance(Duration::from_secs(25 * 3600));
    world.put(&signup(9), "new").await;
    let report = world.run().await.unwrap();
    assert!(!report.resumed);
    assert_eq!(report.listed, 4);
}

#[tokio::test]
async fn a_suspended_store_stops_the_export_and_what_was_saved_stays() {
    let mut world = World::with_signups(10).await;
    world.options.concurrency = 1;
    world.faults.suspend_after(Some(1 + 6));
    let error = world.run().await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Suspended);
    assert_eq!(world.gets(), 7, "it stops at the first refusal");
    world.faults.suspend_after(None);
    let report = world.run().await.unwrap();
    assert_eq!((report.fetched, report.failed), (4, 0));
    assert_eq!(report.manifest.unwrap().fetched, 10);
}

#[tokio::test]
async fn one_body_that_fails_does_not_stop_the_others() {
    let world = World::with_signups(5).await;
    world.skip_reads(2);
    world.faults.fault(Operation::Get, Fault::Refused(ErrorKind::NotApplied));
    let report = world.run().await.unwrap();
    assert_eq!((report.fetched, report.failed, report.exit()), (4, 1, Exit::SomeKeysFailed));
    assert_eq!(report.failures[0].kind, "not-applied");
    assert_eq!(report.manifest, None, "a body is missing");

    let report = world.run().await.unwrap();
    assert_eq!((report.fetched, report.failed, report.exit()), (1, 0, Exit::Done));
    assert!(report.manifest.is_some());
}

#[tokio::test]
async fn a_store_that_fails_throughout_is_given_up() {
    let world = World::with_signups(200).await;
    for _ in 0..200 {
        world.faults.fault(Operation::Get, Fault::Refused(ErrorKind::NotApplied));
    }
    let error = world.run().await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotApplied);
    assert!(world.gets() < 150, "{} reads", world.gets());
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
async fn a_plan_that_changed_is_applied_to_what_was_listed() {
    let mut world = World::with_signups(4).await;
    world.options.concurrency = 1;
    world.faults.fault(Operation::Get, Fault::Refused(ErrorKind::Suspended));
    assert!(world.run().await.is_err());
    world.plan.accepted.push(PatternPlan { blobs: signup(2), reason: "test data".to_owned() });
    let report = world.run().await.unwrap();
    assert!(report.resumed);
    assert_eq!((report.mapped, report.accepted), (3, 1));
    assert_eq!(world.body(&signup(2)).await, None);
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

#[derive(Default)]
struct Notes(Mutex<Vec<String>>);

impl Reporter for Notes {
    fn report(&self, event: Event) {
        if let Event::Note(note) = event {
            self.0.lock().unwrap().push(note);
        }
    }
}

#[tokio::test]
async fn the_cost_is_said_before_a_body_is_read() {
    let mut world = World::with_signups(10).await;
    let estimate = world.export().estimate(None, &world.cancel).await.unwrap();
    assert_eq!((estimate.blobs, estimate.pages, estimate.bodies, estimate.held), (10, 1, 10, 0));
    assert_eq!((estimate.operations.simple, estimate.operations.advanced), (10, 1));
    assert!(!world.path().exists(), "an estimate leaves nothing behind");

    world.options.max_operations = Some(10);
    let notes = Arc::new(Notes::default());
    let export = Export { events: notes.clone(), ..world.export() };
    let error = export.run(&world.writer(), &world.cancel).await.unwrap_err();
    assert_eq!((error.kind(), world.gets()), (ErrorKind::Budget, 0));
    let said = notes.0.lock().unwrap().join("\n");
    assert!(said.contains("10 simple and 1 advanced operations"), "{said}");

    world.options.max_operations = Some(11);
    world.run().await.unwrap();
    let reader = Snapshot::open(world.path()).unwrap();
    let estimate = world.export().estimate(Some(&reader), &world.cancel).await.unwrap();
    assert_eq!((estimate.bodies, estimate.held), (0, 10));
}

#[tokio::test]
async fn a_hobby_store_is_never_driven_into_its_block() {
    let mut world = World::with_signups(10_001).await;
    world.plan.source.plan = VercelPlan::Hobby;
    let error = world.run().await.unwrap_err();
    assert_eq!((error.kind(), world.gets()), (ErrorKind::Budget, 0));
    world.plan.source.plan = VercelPlan::Pro;
    assert_eq!(world.run().await.unwrap().fetched, 10_001);
}

#[tokio::test]
async fn a_snapshot_has_one_writer_and_any_readers() {
    let world = World::with_signups(2).await;
    world.run().await.unwrap();
    let writer = world.writer();
    let error = Snapshot::create_or_open(world.path(), "demo").unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Busy);
    assert!(error.to_string().contains("demo.snapshot"), "{error}");
    let reader = Snapshot::open(world.path()).unwrap();
    world.put(&signup(5), "new").await;
    world.export().run(&writer, &world.cancel).await.unwrap();
    assert_eq!(reader.blobs(None, 10).await.unwrap().len(), 3, "a reader sees what was committed since");
    drop(writer);
    drop(reader);
    assert!(world.writer().is_writer());
}

#[tokio::test]
async fn the_finished_file_is_complete_by_itself() {
    let world = World::with_signups(2).await;
    world.run().await.unwrap();
    let copy = world.directory.path().join("copy.snapshot");
    std::fs::copy(world.path(), &copy).unwrap();
    let snapshot = Snapshot::open(&copy).unwrap();
    assert_eq!(snapshot.store(), "demo");
    let body = snapshot.body(&Pathname::new(signup(1)), &ETag::of(b"{\"number\": 1}")).await.unwrap();
    assert_eq!(body.unwrap(), "{\"number\": 1}");
    assert!(!world.path().with_extension("snapshot-wal").exists());
}

#[track_caller]
fn assert_refused(path: &std::path::Path, kind: ErrorKind, says: &str) {
    let before = std::fs::read(path).ok();
    for error in [Snapshot::open(path).unwrap_err(), Snapshot::create_or_open(path, "demo").unwrap_err()] {
        assert_eq!(error.kind(), kind, "{error}");
        let text = error.to_string();
        assert!(text.contains(says), "{text}");
        assert!(text.contains(path.to_str().unwrap()), "it names the file: {text}");
    }
    assert!(std::fs::read(path).ok() == before, "the file was changed");
}

#[tokio::test]
async fn files_that_are_no_snapshots_are_refused_and_left_alone() {
    let directory = TempDir::new().unwrap();
    let path = directory.path().join("notes.txt");
    std::fs::write(&path, "my notes, which are longer than a header of SQLite would be").unwrap();
    assert_refused(&path, ErrorKind::Usage, "not a snapshot");

    let path = directory.path().join("other.db");
    let other = rusqlite::Connection::open(&path).unwrap();
    other.execute_batch("CREATE TABLE mine (x)").unwrap();
    drop(other);
    assert_refused(&path, ErrorKind::Usage, "another program's");

    let path = directory.path().join("newer.snapshot");
    drop(Snapshot::create_or_open(&path, "demo").unwrap());
    let newer = rusqlite::Connection::open(&path).unwrap();
    newer.pragma_update(None, "user_version", 99).unwrap();
    drop(newer);
    assert_refused(&path, ErrorKind::Usage, "format 99");

    let error = Snapshot::open(directory.path().join("none")).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotFound);
    let error = Snapshot::create_or_open(directory.path(), "demo").unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Usage, "{error}");
}

#[tokio::test]
async fn another_stores_snapshot_is_refused() {
    let directory = TempDir::new().unwrap();
    let path = directory.path().join("a.snapshot");
    drop(Snapshot::create_or_open(&path, "first").unwrap());
    let error = Snapshot::create_or_open(&path, "second").unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Usage);
    assert!(error.to_string().contains("`first`"), "{error}");
}

#[tokio::test]
async fn a_file_that_was_cut_off_is_damaged() {
    let world = World::with_signups(2000).await;
    world.run().await.unwrap();
    let bytes = std::fs::read(world.path()).unwrap();
    let cut = world.directory.path().join("cut.snapshot");
    std::fs::write(&cut, &bytes[..bytes.len() / 2]).unwrap();
    assert_refused(&cut, ErrorKind::Corrupt, "damaged or cut off");
}

#[tokio::test]
async fn a_file_that_was_created_and_left_is_taken_over() {
    let world = World::with_signups(1).await;
    std::fs::create_dir_all(world.path().parent().unwrap()).unwrap();
    std::fs::write(world.path(), "").unwrap();
    let error = Snapshot::open(world.path()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Corrupt);
    assert_eq!(world.run().await.unwrap().fetched, 1);
}

#[tokio::test]
async fn a_body_that_changed_in_the_file_is_found() {
    let world = World::with_signups(1).await;
    world.run().await.unwrap();
    let etag = ETag::of(b"{\"number\": 0}");
    let name = Pathname::new(signup(0));
    for (tampering, says) in [
        (
            "UPDATE blobs SET body_sha256 = replace(body_sha256, substr(body_sha256, 1, 4), '0000')",
            "not the one",
        ),
        ("UPDATE chunks SET data = x'00'", "can't be unpacked"),
        ("UPDATE blobs SET body_sha256 = 'nonsense'", "can't be read"),
    ] {
        let file = rusqlite::Connection::open(world.path()).unwrap();
        file.execute_batch(tampering).unwrap();
        drop(file);
        let error = Snapshot::open(world.path()).unwrap().body(&name, &etag).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Corrupt);
        assert!(error.to_string().contains(says), "{error}");
    }
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
