//! The Blob store in memory, and its directory.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use migrate::blob::memory::{MemoryBlob, MemoryConfig};
use migrate::blob::store::{Access, BlobStore as _, GetOptions, PutOptions};
use migrate::blob::{Body, Head};
use migrate::clock::SystemClock;
use migrate::testing::ManualClock;
use migrate::testing::blob_contract::Subject;
use migrate::{ErrorKind, Result};

fn config(access: Access) -> MemoryConfig {
    MemoryConfig { access, ..MemoryConfig::default() }
}

mod public {
    use super::*;

    async fn make() -> Subject {
        let store = MemoryBlob::new(config(Access::Public), Arc::new(SystemClock::new()));
        Subject::new(Arc::new(store), Access::Public)
    }

    migrate::blob_contract!(make);
}

/// A drill's part of a store is a store, but for the length of its names and a slash before them.
#[tokio::test]
async fn a_space_is_a_store_that_sees_nothing_beside_it() {
    use migrate::blob::space::BlobSpace;
    use migrate::testing::blob_contract::{
        a_condition_names_the_version_to_replace, absence_is_no_error, bodies_stream, copies, cursors,
        deletions, folders_are_folded_once, listings_are_ordered_and_paged, multipart_uploads, renames,
    };

    let make = async || {
        let store = MemoryBlob::new(config(Access::Public), Arc::new(SystemClock::new()));
        put(&store, "r/1.json", "beside").await;
        Subject::new(Arc::new(BlobSpace::new(Arc::new(store), "drill")), Access::Public)
    };
    absence_is_no_error(make().await).await;
    listings_are_ordered_and_paged(make().await).await;
    folders_are_folded_once(make().await).await;
    cursors(make().await).await;
    copies(make().await).await;
    renames(make().await).await;
    deletions(make().await).await;
    bodies_stream(make().await).await;
    multipart_uploads(make().await).await;
    a_condition_names_the_version_to_replace(make().await).await;
}

mod private_on_disk {
    use super::*;

    async fn make() -> Subject {
        let directory = tempfile::tempdir().unwrap();
        Subject {
            store: Arc::new(open(directory.path()).unwrap()),
            access: Access::Private,
            guard: Box::new(directory),
        }
    }

    migrate::blob_contract!(make);
}

fn open(directory: &Path) -> Result<MemoryBlob> {
    MemoryBlob::open(config(Access::Private), Arc::new(SystemClock::new()), directory)
}

async fn put(store: &MemoryBlob, name: &str, text: &'static str) -> Head {
    let options = PutOptions { allow_overwrite: true, ..PutOptions::default() };
    store.put(&name.into(), bytes::Bytes::from_static(text.as_bytes()).into(), &options).await.unwrap()
}

fn files(directory: &Path) -> Vec<PathBuf> {
    fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path()).collect()
}

#[tokio::test]
async fn a_directory_keeps_the_store_over_a_restart() {
    let directory = tempfile::tempdir().unwrap();
    let first = open(directory.path()).unwrap();
    let old = put(&first, "..a\\b/c d.json", "old").await;
    let new = put(&first, "..a\\b/c d.json", "new").await;
    assert_ne!(old.blob.etag, new.blob.etag);
    put(&first, "gone", "x").await;
    first.delete(&["gone".into()], None).await.unwrap();
    drop(first);

    let second = open(directory.path()).unwrap();
    assert_eq!(second.len(), 1);
    let name = new.blob.pathname.clone();
    assert_eq!(second.head(&name).await.unwrap(), Some(new));
    let content = second.get(&name, &GetOptions::default()).await.unwrap().unwrap();
    assert_eq!(content.body.collect(10).await.unwrap(), "new");
}

#[tokio::test]
async fn a_write_cut_off_by_a_kill_leaves_the_old_blob() {
    let directory = tempfile::tempdir().unwrap();
    let first = open(directory.path()).unwrap();
    let head = put(&first, "a", "old").await;
    drop(first);
    let file = files(directory.path()).into_iter().find(|path| path.extension().is_some()).unwrap();
    fs::write(file.with_extension("part"), "{\"format\":1,\"pa").unwrap();

    let second = open(directory.path()).unwrap();
    assert_eq!(second.head(&"a".into()).await.unwrap(), Some(head));
    assert!(files(directory.path()).iter().all(|path| path.extension().is_none_or(|e| e != "part")));
}

#[tokio::test]
async fn a_damaged_file_is_named_not_skipped() {
    let directory = tempfile::tempdir().unwrap();
    put(&open(directory.path()).unwrap(), "a", "some text").await;
    let file = files(directory.path()).into_iter().find(|path| path.extension().is_some()).unwrap();
    let whole = fs::read(&file).unwrap();
    fs::write(&file, &whole[..whole.len() - 3]).unwrap();
    let error = open(directory.path()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Corrupt);
    assert!(error.to_string().contains(file.to_str().unwrap()), "{error}");
}

#[tokio::test]
async fn one_process_at_a_time_uses_a_directory() {
    let directory = tempfile::tempdir().unwrap();
    let first = open(directory.path()).unwrap();
    assert_eq!(open(directory.path()).unwrap_err().kind(), ErrorKind::Busy);
    drop(first);
    open(directory.path()).unwrap();
}

#[tokio::test]
async fn the_clock_alone_says_when_a_blob_was_stored() {
    let clock = ManualClock::at("2026-11-01T00:00:00.123456Z");
    let store = MemoryBlob::new(config(Access::Public), Arc::new(clock));
    let times = [put(&store, "a", "1").await, put(&store, "a", "2").await, put(&store, "b", "1").await]
        .map(|head| head.blob.uploaded_at.to_string());
    assert_eq!(times, ["2026-11-01T00:00:00.123Z"; 3]);
}

#[tokio::test]
async fn a_body_over_the_limit_is_refused_before_it_is_stored() {
    let config = MemoryConfig { blob_bytes_max: 4, ..config(Access::Public) };
    let store = MemoryBlob::new(config, Arc::new(SystemClock::new()));
    let body = || Body::from(bytes::Bytes::from_static(b"12345"));
    let refused = store.put(&"a".into(), body(), &PutOptions::default()).await.unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::Usage);
    assert!(store.is_empty());
}

/// The form that object stores give to what was uploaded in parts: no MD5 of the bytes.
#[tokio::test]
async fn an_upload_in_parts_has_an_etag_of_its_own_form() {
    let store = MemoryBlob::new(config(Access::Public), Arc::new(SystemClock::new()));
    let (name, none) = ("a".into(), PutOptions::default());
    let upload = store.create_multipart(&name, &none).await.unwrap();
    let mut parts = Vec::new();
    for (number, length) in [(1, 5 << 20), (2, 3)] {
        let body = bytes::Bytes::from(vec![b'x'; length]);
        parts.push(store.upload_part(&name, &upload, number, body.into()).await.unwrap());
    }
    let head = store.complete_multipart(&name, &upload, &parts, &none).await.unwrap();
    assert!(head.blob.etag.as_str().ends_with("-2\""), "{}", head.blob.etag);
}
