//! The snapshot's file: who may open it, and which files are none.

use migrate::ErrorKind;
use migrate::blob::{ETag, Pathname};
use migrate::snapshot::Snapshot;
use tempfile::TempDir;

use super::{World, signup};

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
    assert_eq!(body.unwrap().bytes().unwrap(), "{\"number\": 1}");
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
