//! What every [`BlobStore`] must do, one check each; [`blob_contract!`](crate::blob_contract) makes tests
//! of them for one implementation.
//!
//! The checks assume an empty store with the service's limits, whose content reads are fresh.
#![expect(clippy::unwrap_used, reason = "a test ends at the first surprise")]

use std::any::Any;
use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::StreamExt as _;
use futures::stream;

use crate::blob::store::{Access, BlobStore, Body, Deadline, GetOptions, Part, PutOptions, Upload};
use crate::blob::types::{ETag, Head, ListPage, ListRequest, Pathname};
use crate::error::{Error, ErrorKind, Result};

/// A store under test, and what must live as long as it does.
pub struct Subject {
    /// The store.
    pub store: Arc<dyn BlobStore>,
    /// Its access mode.
    pub access: Access,
    /// Dropped after the test: a server, say.
    pub guard: Box<dyn Any + Send>,
}

impl Subject {
    /// A store that needs nothing else.
    pub fn new(store: Arc<dyn BlobStore>, access: Access) -> Self {
        Self { store, access, guard: Box::new(()) }
    }

    async fn put(&self, name: &str, text: &str) -> Result<Head> {
        self.put_with(name, text, &overwrite()).await
    }

    async fn put_with(&self, name: &str, text: &str, options: &PutOptions) -> Result<Head> {
        self.store.put(&name.into(), bytes(text).into(), options).await
    }

    async fn head(&self, name: &str) -> Option<Head> {
        self.store.head(&name.into()).await.expect("a head")
    }

    async fn text(&self, name: &str) -> Option<String> {
        let content = self.store.get(&name.into(), &GetOptions::default()).await.expect("a read")?;
        let bytes = content.body.collect(1 << 20).await.expect("a body");
        Some(String::from_utf8(bytes.to_vec()).expect("text"))
    }

    async fn page(&self, request: &ListRequest) -> ListPage {
        self.store.list(request).await.expect("a page")
    }

    /// All pages of a listing, each of at most `limit` entries: blobs and folders.
    async fn list(&self, prefix: &str, folded: bool, limit: u32) -> (Vec<String>, Vec<String>) {
        let mut request =
            ListRequest { prefix: prefix.to_owned(), folded, limit: Some(limit), ..ListRequest::default() };
        let (mut blobs, mut folders) = (Vec::new(), Vec::new());
        for _ in 0..100 {
            let page = self.page(&request).await;
            assert!(page.blobs.len() + page.folders.len() <= limit as usize, "a page over its limit");
            blobs.extend(page.blobs.iter().map(|blob| blob.pathname.as_str().to_owned()));
            folders.extend(page.folders);
            match page.cursor {
                None => return (blobs, folders),
                Some(cursor) => request.cursor = Some(cursor),
            }
        }
        panic!("the listing does not end");
    }
}

fn bytes(text: &str) -> Bytes {
    Bytes::copy_from_slice(text.as_bytes())
}

fn overwrite() -> PutOptions {
    PutOptions { allow_overwrite: true, ..PutOptions::default() }
}

fn if_match(etag: &ETag) -> PutOptions {
    PutOptions { if_match: Some(etag.clone()), ..overwrite() }
}

fn kind<T: std::fmt::Debug>(result: Result<T>) -> ErrorKind {
    result.expect_err("a refusal").kind()
}

/// What was put is what head, list and content say, in every field.
pub async fn a_put_is_seen_everywhere(subject: Subject) {
    let put = subject.put("dir/a.txt", "hello").await.unwrap();
    assert_eq!(put.blob.pathname.as_str(), "dir/a.txt");
    assert_eq!(put.blob.etag, ETag::of(b"hello"));
    assert_eq!(put.blob.size, 5);
    assert_eq!(put.content_type, "text/plain");
    assert_eq!(put.content_disposition, "inline; filename=\"a.txt\"");
    assert_eq!(put.cache_control, "public, max-age=2592000");
    assert_eq!(subject.head("dir/a.txt").await.as_ref(), Some(&put));
    assert_eq!(subject.page(&ListRequest::default()).await.blobs, std::slice::from_ref(&put.blob));

    let content = subject.store.get(&"dir/a.txt".into(), &GetOptions::default()).await.unwrap().unwrap();
    assert_eq!((&content.etag, content.size), (&put.blob.etag, 5));
    assert_eq!(content.content_type, put.content_type);
    assert_eq!(content.content_disposition, put.content_disposition);
    assert_eq!(content.cache_control, put.cache_control);
    assert_eq!(content.last_modified.map(jiff::Timestamp::as_second), Some(put.blob.uploaded_at.as_second()));
    assert_eq!(content.body.collect(10).await.unwrap(), "hello");
}

/// What is absent reads as nothing, and its deletion succeeds.
pub async fn absence_is_no_error(subject: Subject) {
    assert_eq!(subject.head("absent").await, None);
    assert_eq!(subject.text("absent").await, None);
    assert_eq!(subject.page(&ListRequest::default()).await, ListPage::default());
    subject.store.delete(&["absent".into()], None).await.unwrap();
    subject.store.delete(&[], None).await.unwrap();
}

/// A taken name is refused, and what it names stays.
pub async fn a_taken_name_is_refused(subject: Subject) {
    subject.put("a", "first").await.unwrap();
    let refused = subject.put_with("a", "second", &PutOptions::default()).await;
    assert_eq!(kind(refused), ErrorKind::AlreadyExists);
    assert_eq!(subject.text("a").await.as_deref(), Some("first"));
    subject.put_with("a", "third", &overwrite()).await.unwrap();
    assert_eq!(subject.text("a").await.as_deref(), Some("third"));
}

/// A conditional put replaces exactly the version it names.
pub async fn a_condition_names_the_version_to_replace(subject: Subject) {
    let first = subject.put("a", "first").await.unwrap().blob.etag;
    let second = subject.put_with("a", "second", &if_match(&first)).await.unwrap().blob.etag;
    assert_eq!(kind(subject.put_with("a", "third", &if_match(&first)).await), ErrorKind::LostRace);
    assert_eq!(subject.text("a").await.as_deref(), Some("second"));
    let weak = ETag::new(&format!("W/{}", second.as_str()));
    subject.put_with("a", "fourth", &if_match(&weak)).await.expect("a weakened ETag names the same version");
    assert_eq!(kind(subject.put_with("absent", "x", &if_match(&first)).await), ErrorKind::LostRace);
    assert_eq!(subject.head("absent").await, None);
}

/// Of many writers with the same condition, one wins.
pub async fn one_of_many_conditional_writers_wins(subject: Subject) {
    let seen = subject.put("a", "start").await.unwrap().blob.etag;
    let options = if_match(&seen);
    let texts: Vec<String> = (0..8).map(|n| format!("writer {n}")).collect();
    let writes = texts.iter().map(|text| subject.put_with("a", text, &options));
    let results = futures::future::join_all(writes).await;
    let winners: Vec<usize> = (0..results.len()).filter(|n| results[*n].is_ok()).collect();
    assert_eq!(winners.len(), 1, "{results:?}");
    for lost in results.iter().filter_map(|result| result.as_ref().err()) {
        assert_eq!(lost.kind(), ErrorKind::LostRace);
    }
    assert_eq!(subject.text("a").await.as_ref(), Some(&texts[winners[0]]));
}

/// A random suffix makes a new name each time, and the reply says which.
pub async fn a_random_suffix_makes_a_name_unique(subject: Subject) {
    let options = PutOptions { add_random_suffix: true, ..PutOptions::default() };
    let first = subject.put_with("dir/a.tar.gz", "1", &options).await.unwrap().blob;
    let second = subject.put_with("dir/a.tar.gz", "2", &options).await.unwrap().blob;
    for (blob, text) in [(&first, "1"), (&second, "2")] {
        let name = blob.pathname.as_str();
        let suffix = name.strip_prefix("dir/a.tar-").unwrap().strip_suffix(".gz").unwrap();
        assert!(suffix.len() == 30 && suffix.chars().all(|c| c.is_ascii_alphanumeric()), "{name}");
        assert_eq!(subject.text(name).await.as_deref(), Some(text));
    }
    assert_ne!(first.pathname, second.pathname);
    assert_eq!(subject.head("dir/a.tar.gz").await, None);
}

/// Names of any characters come back as they went in.
pub async fn odd_names_survive(subject: Subject) {
    let names = [
        "a b+c%20d.json",
        "query?x=1&y=2#fragment.txt",
        "quotes \"'`.txt",
        "ünïcode/日本/🦀.json",
        "decomposed-u\u{308}.json",
        "semi;colon:comma,at@.txt",
        "back\\slash.txt",
        "trailing.",
        "..dots../...",
        "/slash first.json",
    ];
    for name in names {
        let put = subject.put(name, name).await.unwrap();
        assert_eq!(put.blob.pathname.as_str(), name);
        assert_eq!(subject.head(name).await, Some(put), "{name}");
        assert_eq!(subject.text(name).await.as_deref(), Some(name));
    }
    let (listed, _) = subject.list("", false, 4).await;
    assert_eq!(listed.iter().map(String::as_str).collect::<BTreeSet<_>>(), BTreeSet::from(names));
}

/// Names that no client could read back are refused, and nothing is stored.
pub async fn impossible_names_are_refused(subject: Subject) {
    let long = "x".repeat(951);
    for name in ["", "a//b", "a/./b", "../a", "line\nbreak", long.as_str()] {
        assert_eq!(kind(subject.put(name, "x").await), ErrorKind::Usage, "{name:?}");
    }
    subject.put(&long[..950], "x").await.expect("the longest name");
    assert_eq!(subject.list("", false, 100).await.0, [&long[..950]]);
}

/// Empty blobs are blobs; a name ending in `/` is a folder and holds nothing.
pub async fn empty_blobs_and_folders(subject: Subject) {
    subject.put("empty.json", "").await.unwrap();
    assert_eq!(subject.text("empty.json").await.as_deref(), Some(""));
    let folder = subject.put("folder/", "").await.unwrap();
    assert_eq!((folder.blob.size, folder.blob.pathname.as_str()), (0, "folder/"));
    assert_eq!(kind(subject.put("full/", "x").await), ErrorKind::Usage);
    assert_eq!(subject.list("", false, 10).await.0, ["empty.json", "folder/"]);
}

/// Media type and caching are what the writer said.
pub async fn options_are_kept(subject: Subject) {
    let options = PutOptions {
        access: Some(subject.access),
        content_type: Some("application/vnd.example+json; charset=utf-8".to_owned()),
        cache_control_max_age: Some(Duration::from_secs(300)),
        ..overwrite()
    };
    let put = subject.put_with("a.txt", "x", &options).await.unwrap();
    assert_eq!(put.content_type, "application/vnd.example+json; charset=utf-8");
    assert_eq!(put.content_disposition, "attachment; filename=\"a.txt\"");
    assert_eq!(put.cache_control, "public, max-age=300");
    let again = subject.put("a.txt", "x").await.unwrap();
    assert_eq!((again.content_type.as_str(), &again.blob.etag), ("text/plain", &put.blob.etag));
    assert!(again.blob.uploaded_at >= put.blob.uploaded_at);

    let access = match subject.access {
        Access::Public => Access::Private,
        Access::Private => Access::Public,
    };
    let options = PutOptions { access: Some(access), ..overwrite() };
    assert_eq!(kind(subject.put_with("b", "x", &options).await), ErrorKind::Usage);
    let options = PutOptions { cache_control_max_age: Some(Duration::from_secs(59)), ..overwrite() };
    assert_eq!(kind(subject.put_with("b", "x", &options).await), ErrorKind::Usage);
    assert_eq!(subject.head("b").await, None);
}

/// A body may arrive in chunks of unknown total length; one that breaks off stores nothing.
pub async fn bodies_stream(subject: Subject) {
    let chunks = ["one ", "two ", "three"].map(|chunk| Ok(bytes(chunk)));
    let body = Body::stream(None, stream::iter(chunks).boxed());
    let put = subject.store.put(&"a".into(), body, &PutOptions::default()).await.unwrap();
    assert_eq!((put.blob.size, subject.text("a").await.as_deref()), (13, Some("one two three")));

    let broken = [Ok(bytes("half")), Err(Error::new(ErrorKind::NotApplied, "read a file"))];
    let body = Body::stream(Some(8), stream::iter(broken).boxed());
    subject.store.put(&"b".into(), body, &PutOptions::default()).await.expect_err("a broken body");
    assert_eq!(subject.head("b").await, None);
}

/// Ranges are inclusive, may be open, and hold nothing past the end.
pub async fn ranges(subject: Subject) {
    let put = subject.put("a", "0123456789").await.unwrap();
    for (range, expected) in [
        ((0, Some(3)), "0123"),
        ((4, Some(4)), "4"),
        ((7, None), "789"),
        ((8, Some(100)), "89"),
        ((10, None), ""),
    ] {
        let options = GetOptions { range: Some(range), ..GetOptions::default() };
        let content = subject.store.get(&"a".into(), &options).await.unwrap().unwrap();
        assert_eq!((content.size, &content.etag), (10, &put.blob.etag), "{range:?}");
        assert_eq!(content.body.collect(10).await.unwrap(), expected, "{range:?}");
    }
}

/// A read past the cache is a read; a public store has no way past it, and may be asked all the same.
pub async fn reads_past_the_cache(subject: Subject) {
    subject.put("a", "x").await.unwrap();
    let options = GetOptions { no_cache: true, ..GetOptions::default() };
    let content = subject.store.get(&"a".into(), &options).await.unwrap().unwrap();
    assert_eq!(content.body.collect(9).await.unwrap(), "x");
}

/// Listings come in the order of UTF-8 bytes, page by page, each name once.
pub async fn listings_are_ordered_and_paged(subject: Subject) {
    // UTF-16 would put the crab before the fullwidth letter; a locale would mix the cases.
    let sorted = ["B", "a", "a-", "a/b", "a/b/c", "a0", "z", "Ａ", "🦀"];
    for name in sorted.iter().rev() {
        subject.put(name, name).await.unwrap();
    }
    for limit in [1, 2, 3, 9, 1000] {
        assert_eq!(subject.list("", false, limit).await.0, sorted, "pages of {limit}");
    }
    assert_eq!(subject.list("a", false, 2).await.0, ["a", "a-", "a/b", "a/b/c", "a0"]);
    assert_eq!(subject.list("a/b/", false, 2).await.0, ["a/b/c"]);
    assert!(subject.list("nothing", false, 2).await.0.is_empty());
}

/// A folded listing names each folder once, on whatever page, and not what it holds.
pub async fn folders_are_folded_once(subject: Subject) {
    for name in ["a", "a/1", "a/2/x", "a/2/y", "b/1", "b/2", "c", "d/"] {
        subject.put(name, "").await.unwrap();
    }
    let names = |names: &[&str]| names.iter().map(ToString::to_string).collect::<Vec<_>>();
    for limit in [1, 2, 1000] {
        assert_eq!(subject.list("", true, limit).await, (names(&["a", "c"]), names(&["a/", "b/", "d/"])));
        assert_eq!(subject.list("a/", true, limit).await, (names(&["a/1"]), names(&["a/2/"])));
        assert_eq!(subject.list("d/", true, limit).await, (names(&["d/"]), names(&[])));
    }
}

/// A listing goes on after blobs that were deleted meanwhile; a foreign cursor is refused.
pub async fn cursors(subject: Subject) {
    for name in ["a", "b", "c"] {
        subject.put(name, "").await.unwrap();
    }
    let first = subject.page(&ListRequest { limit: Some(2), ..ListRequest::default() }).await;
    subject.store.delete(&["b".into(), "c".into()], None).await.unwrap();
    subject.put("d", "").await.unwrap();
    let rest = subject.page(&ListRequest { cursor: first.cursor, ..ListRequest::default() }).await;
    assert_eq!(rest.blobs.iter().map(|blob| blob.pathname.as_str()).collect::<Vec<_>>(), ["d"]);
    assert_eq!(rest.cursor, None);

    let request = ListRequest { cursor: Some("nonsense".to_owned()), ..ListRequest::default() };
    assert_eq!(kind(subject.store.list(&request).await), ErrorKind::Usage);
}

/// A copy has the bytes of its source and the media type of its own name; conditions name the source.
pub async fn copies(subject: Subject) {
    let options = PutOptions { content_type: Some("text/csv".to_owned()), ..overwrite() };
    let source = subject.put_with("a.json", "{}", &options).await.unwrap();
    let (from, to) = (Pathname::new("a.json"), Pathname::new("dir/b.txt"));
    let copy = subject.store.copy(&from, &to, &PutOptions::default()).await.unwrap();
    assert_eq!(
        (copy.blob.etag.clone(), copy.content_type.as_str()),
        (source.blob.etag.clone(), "text/plain")
    );
    assert_eq!(subject.text("dir/b.txt").await.as_deref(), Some("{}"));
    assert_eq!(subject.head("a.json").await, Some(source.clone()));

    let again = subject.store.copy(&from, &to, &PutOptions::default()).await;
    assert_eq!(kind(again), ErrorKind::AlreadyExists);
    let absent = subject.store.copy(&"absent".into(), &to, &overwrite()).await;
    assert_eq!(kind(absent), ErrorKind::NotFound);
    subject.put("dir/b.txt", "changed").await.unwrap();
    subject.store.copy(&from, &to, &if_match(&source.blob.etag)).await.expect("the source is what it was");
    let stale = subject.store.copy(&from, &to, &if_match(&ETag::of(b"other"))).await;
    assert_eq!(kind(stale), ErrorKind::LostRace);
}

/// A rename is a copy whose source is gone after it, and only after it.
pub async fn renames(subject: Subject) {
    let source = subject.put("a", "x").await.unwrap();
    let (from, to) = (Pathname::new("a"), Pathname::new("b"));
    subject.put("b", "taken").await.unwrap();
    let taken = subject.store.rename(&from, &to, &PutOptions::default()).await;
    assert_eq!(kind(taken), ErrorKind::AlreadyExists);
    let stale = subject.store.rename(&from, &to, &if_match(&ETag::of(b"other"))).await;
    assert_eq!(kind(stale), ErrorKind::LostRace);
    assert_eq!(subject.head("a").await, Some(source.clone()));
    let renamed = subject.store.rename(&from, &to, &if_match(&source.blob.etag)).await.unwrap();
    assert_eq!((renamed.blob.pathname, renamed.blob.etag), (to.clone(), source.blob.etag));
    assert_eq!((subject.head("a").await, subject.text("b").await.as_deref()), (None, Some("x")));
    assert_eq!(kind(subject.store.rename(&from, &to, &overwrite()).await), ErrorKind::NotFound);
}

/// Many deletes at once; a condition holds for one.
pub async fn deletions(subject: Subject) {
    for name in ["a", "b", "c d?.json"] {
        subject.put(name, name).await.unwrap();
    }
    subject.store.delete(&["b".into(), "c d?.json".into(), "absent".into()], None).await.unwrap();
    assert_eq!(subject.list("", false, 10).await.0, ["a"]);
    let stale = subject.store.delete(&["a".into()], Some(&ETag::of(b"other"))).await;
    assert_eq!(kind(stale), ErrorKind::LostRace);
    assert_eq!(subject.text("a").await.as_deref(), Some("a"));
    subject.store.delete(&["a".into()], Some(&ETag::of(b"a"))).await.unwrap();
    assert_eq!(subject.head("a").await, None);
}

/// Where a store has deadlines: a write that it gets after its deadline has no effect, whenever it was sent; one in time is
/// like any other.
pub async fn deadlines(subject: Subject) {
    let store = &subject.store;
    let Some(soon) = store.deadline(Duration::from_secs(3_600)).await.unwrap() else { return };
    let late = Deadline(soon.0 - 3_600_000 - 60_000);
    let before = |deadline, options: PutOptions| PutOptions { deadline: Some(deadline), ..options };
    let name = Pathname::from("r/é 1.json");
    let put = async |text, options: PutOptions| store.put(&name, bytes(text).into(), &options).await;
    let kept = PutOptions {
        content_type: Some("text/x-kept".to_owned()),
        cache_control_max_age: Some(Duration::from_secs(120)),
        ..PutOptions::default()
    };
    let first = put("first", before(soon, kept.clone())).await.unwrap();
    assert_eq!(first.content_type, "text/x-kept");
    assert_eq!(first.cache_control, "public, max-age=120");
    assert_eq!(store.head(&name).await.unwrap(), Some(first.clone()));
    assert_eq!(kind(put("again", before(soon, kept)).await), ErrorKind::AlreadyExists);
    let etag = first.blob.etag;
    assert_eq!(kind(put("late", before(late, if_match(&etag))).await), ErrorKind::LostRace);
    assert_eq!(kind(store.delete_before(&name, &etag, late).await), ErrorKind::LostRace);
    assert_eq!(subject.text(name.as_str()).await.as_deref(), Some("first"), "what came late has no effect");
    let second = put("second", before(soon, if_match(&etag))).await.unwrap().blob.etag;
    assert_eq!(kind(put("third", before(soon, if_match(&etag))).await), ErrorKind::LostRace);
    assert_eq!(kind(store.delete_before(&name, &etag, soon).await), ErrorKind::LostRace);
    assert_eq!(subject.text(name.as_str()).await.as_deref(), Some("second"));
    store.delete_before(&name, &second, soon).await.unwrap();
    assert_eq!(store.head(&name).await.unwrap(), None);
    assert_eq!(kind(put("new", before(late, PutOptions::default())).await), ErrorKind::LostRace);
    assert_eq!(store.head(&name).await.unwrap(), None);
}

async fn part(subject: &Subject, upload: &Upload, number: u32, body: Bytes) -> Part {
    subject.store.upload_part(&"big.bin".into(), upload, number, body.into()).await.unwrap()
}

/// Parts in any order become one blob in the order of their numbers; the last one sent counts.
pub async fn multipart_uploads(subject: Subject) {
    let name = Pathname::new("big.bin");
    let options = PutOptions { content_type: Some("image/x-big".to_owned()), ..PutOptions::default() };
    let upload = subject.store.create_multipart(&name, &options).await.unwrap();
    let whole = Bytes::from(vec![b'x'; 5 << 20]);
    let last = part(&subject, &upload, 7, bytes("the end")).await;
    let replaced = part(&subject, &upload, 2, bytes("to be replaced")).await;
    let first = part(&subject, &upload, 2, whole.clone()).await;
    assert_eq!(subject.head("big.bin").await, None, "not there before its completion");

    let complete = async |parts: &[Part]| {
        subject.store.complete_multipart(&name, &upload, parts, &PutOptions::default()).await
    };
    assert_eq!(kind(complete(&[]).await), ErrorKind::Usage);
    assert_eq!(kind(complete(&[replaced, last.clone()]).await), ErrorKind::Usage);
    let never_sent = Part { number: 3, etag: last.etag.clone() };
    assert_eq!(kind(complete(&[first.clone(), never_sent]).await), ErrorKind::Usage);
    assert_eq!(kind(complete(&[first.clone(), first.clone()]).await), ErrorKind::Usage);

    let head = complete(&[last, first]).await.unwrap();
    assert_eq!((head.blob.size, head.content_type.as_str()), ((5 << 20) + 7, "image/x-big"));
    assert_eq!(subject.head("big.bin").await.map(|found| found.blob.etag), Some(head.blob.etag));
    let options = GetOptions { range: Some(((5 << 20) - 1, None)), ..GetOptions::default() };
    let content = subject.store.get(&name, &options).await.unwrap().unwrap();
    assert_eq!(content.body.collect(100).await.unwrap(), "xthe end");
    let again = subject.store.complete_multipart(&name, &upload, &[], &overwrite()).await;
    assert_eq!(kind(again), ErrorKind::NotFound, "an upload completes once");
}

/// Small parts, foreign uploads and taken names are refused.
pub async fn multipart_refusals(subject: Subject) {
    let name = Pathname::new("big.bin");
    let none = PutOptions::default();
    let upload = subject.store.create_multipart(&name, &none).await.unwrap();
    let small = part(&subject, &upload, 1, bytes("small")).await;
    let last = part(&subject, &upload, 2, bytes("last")).await;
    let both = subject.store.complete_multipart(&name, &upload, &[small.clone(), last], &none).await;
    assert_eq!(kind(both), ErrorKind::Usage, "only the last part may be small");

    let zero = subject.store.upload_part(&name, &upload, 0, bytes("x").into()).await;
    assert_eq!(kind(zero), ErrorKind::Usage);
    let foreign = Upload { upload_id: "foreign".to_owned(), ..upload.clone() };
    let lost = subject.store.upload_part(&name, &foreign, 1, bytes("x").into()).await;
    assert_eq!(kind(lost), ErrorKind::NotFound);

    subject.put("big.bin", "taken").await.unwrap();
    let parts = [small];
    let taken = subject.store.complete_multipart(&name, &upload, &parts, &none).await;
    assert_eq!(kind(taken), ErrorKind::AlreadyExists);
    let stale = if_match(&ETag::of(b"other"));
    let lost = subject.store.complete_multipart(&name, &upload, &parts, &stale).await;
    assert_eq!(kind(lost), ErrorKind::LostRace);
    let options = if_match(&ETag::of(b"taken"));
    subject.store.complete_multipart(&name, &upload, &parts, &options).await.unwrap();
    assert_eq!(subject.text("big.bin").await.as_deref(), Some("small"));
}

/// Makes a test of every check: `blob_contract!(make)`, where `make` is an async function that returns a
/// [`Subject`] with an empty store.
#[macro_export]
macro_rules! blob_contract {
    ($make:path) => {
        $crate::blob_contract!(@ $make:
            a_put_is_seen_everywhere, absence_is_no_error, a_taken_name_is_refused,
            a_condition_names_the_version_to_replace, one_of_many_conditional_writers_wins,
            a_random_suffix_makes_a_name_unique, odd_names_survive, impossible_names_are_refused,
            empty_blobs_and_folders, options_are_kept, bodies_stream, ranges, reads_past_the_cache,
            listings_are_ordered_and_paged, folders_are_folded_once, cursors, copies, renames, deletions, deadlines,
            multipart_uploads, multipart_refusals,
        );
    };
    (@ $make:path: $($check:ident),+ $(,)?) => {
        $(
            #[tokio::test]
            async fn $check() {
                $crate::testing::blob_contract::$check($make().await).await;
            }
        )+
    };
}
