//! The trait of a Blob store, and the bodies and options it takes.

use std::fmt;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use futures::stream::{BoxStream, StreamExt as _};

use super::types::{ETag, Head, ListPage, ListRequest, Pathname};
use crate::error::{Error, ErrorKind, Result};

/// A body on its way: a stream of chunks, with its length where that is known.
pub struct Body {
    length: Option<u64>,
    stream: BoxStream<'static, Result<Bytes>>,
}

impl Body {
    /// A body that arrives chunk by chunk; `length` in bytes where it is known.
    pub fn stream(length: Option<u64>, stream: BoxStream<'static, Result<Bytes>>) -> Self {
        Self { length, stream }
    }

    /// Its length in bytes, where that is known before it is read.
    #[must_use]
    pub const fn length(&self) -> Option<u64> {
        self.length
    }

    /// The chunks.
    #[must_use]
    pub fn into_stream(self) -> BoxStream<'static, Result<Bytes>> {
        self.stream
    }

    /// Reads all of it into memory.
    ///
    /// # Errors
    /// `Usage` when it is longer than `max` bytes; `NotApplied` when it ends before its length;
    /// what the stream itself reports.
    pub async fn collect(self, max: u64) -> Result<Bytes> {
        let too_long =
            || Error::new(ErrorKind::Usage, "read a body").message(format!("longer than {max} bytes"));
        if self.length.is_some_and(|length| length > max) {
            return Err(too_long());
        }
        let mut chunks = Vec::new();
        let mut length = 0u64;
        let mut stream = self.stream;
        while let Some(chunk) = stream.next().await {
            let chunk = chunk?;
            length += chunk.len() as u64;
            if length > max {
                return Err(too_long());
            }
            chunks.push(chunk);
        }
        if self.length.is_some_and(|expected| expected != length) {
            return Err(Error::new(ErrorKind::NotApplied, "read a body")
                .message(format!("ended after {length} bytes of {}", self.length.unwrap_or_default())));
        }
        Ok(if chunks.len() == 1 { chunks.swap_remove(0) } else { chunks.concat().into() })
    }
}

impl From<Bytes> for Body {
    fn from(bytes: Bytes) -> Self {
        Self { length: Some(bytes.len() as u64), stream: futures::stream::iter([Ok(bytes)]).boxed() }
    }
}

impl fmt::Debug for Body {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Body").field("length", &self.length).finish_non_exhaustive()
    }
}

/// How a blob is to be stored. Absent options are the store's defaults.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PutOptions {
    /// Public or private; must be the store's own.
    pub access: Option<Access>,
    /// Whether the store adds `-` and 30 random characters before the extension.
    pub add_random_suffix: bool,
    /// Whether an existing blob is replaced. Without it, an existing one is `AlreadyExists`.
    pub allow_overwrite: bool,
    /// The media type; inferred from the extension where absent.
    pub content_type: Option<String>,
    /// How long caches may keep it.
    pub cache_control_max_age: Option<Duration>,
    /// Only if this is what is stored now (for copy and rename: what the *source* holds now).
    /// Anything else, absence too, is `LostRace`.
    pub if_match: Option<ETag>,
    /// What the client calls this request; a repetition has the same. A store may use it to know its own work
    /// again.
    pub request: Option<String>,
    /// Refused as `LostRace` if the store gets it later than this.
    pub deadline: Option<Deadline>,
}

/// A moment of a store's own clock, in milliseconds since 1970. A write that carries one has no effect after it, whenever
/// it was sent: see [`BlobStore::deadline`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Deadline(pub u64);

/// Who may read a store's content.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Access {
    /// Everyone who knows the URL.
    #[default]
    Public,
    /// Bearers of the store's token.
    Private,
}

impl Access {
    /// Its name on the wire and in host names.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Public => "public",
            Self::Private => "private",
        }
    }
}

/// How content is to be read.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct GetOptions {
    /// Only these bytes, first and last inclusive; an open end reads to the end of the blob. Past the
    /// end of the blob there are none: the body is empty.
    pub range: Option<(u64, Option<u64>)>,
    /// Past every cache, where the store can: a public one can't, and reads as always.
    pub no_cache: bool,
}

impl GetOptions {
    /// Where the part begins and ends that its range asks for, in a body of so many bytes.
    #[must_use]
    pub fn bounds(&self, length: u64) -> std::ops::Range<u64> {
        let (first, last) = self.range.unwrap_or((0, None));
        let end = last.map_or(length, |last| last.saturating_add(1).min(length));
        first.min(end)..end
    }

    /// The part of a whole body that its range asks for.
    #[must_use]
    pub fn part_of(&self, body: &Bytes) -> Bytes {
        let part = self.bounds(body.len() as u64);
        let position =
            |at: u64| usize::try_from(at).expect("invariant: at most the length of bytes in memory");
        body.slice(position(part.start)..position(part.end))
    }
}

/// Content, and what the store says of it.
#[derive(Debug)]
pub struct Content {
    /// The version that these bytes belong to may be older than the store's present one: compare the ETag.
    pub etag: ETag,
    /// The length of the whole blob in bytes.
    pub size: u64,
    /// When it was stored, to the second, where the reply says so.
    pub last_modified: Option<jiff::Timestamp>,
    /// Its media type.
    pub content_type: String,
    /// Its disposition.
    pub content_disposition: String,
    /// Its caching rule.
    pub cache_control: String,
    /// The bytes, or the part that was asked for.
    pub body: Body,
}

/// A multipart upload that was begun.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Upload {
    /// Its id.
    pub upload_id: String,
    /// The store's own name for the object to be.
    pub key: String,
}

/// One uploaded part.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Part {
    /// Its number, from 1 to 10,000.
    pub number: u32,
    /// The ETag that the store gave it.
    pub etag: ETag,
}

/// A Blob store.
///
/// `head` and `list` are never cached: they tell the present state. Content may be cached: its ETag
/// says which version it is. Writes that return `Ok` are durable. A write that failed with
/// `OutcomeUnknown` may still take effect later.
#[async_trait]
pub trait BlobStore: Send + Sync + 'static {
    /// What is stored under a name; none where nothing is.
    async fn head(&self, pathname: &Pathname) -> Result<Option<Head>>;

    /// One page of names, in order. A listing is not a snapshot: blobs come and go while it runs.
    async fn list(&self, request: &ListRequest) -> Result<ListPage>;

    /// The content under a name; none where nothing is.
    async fn get(&self, pathname: &Pathname, options: &GetOptions) -> Result<Option<Content>>;

    /// Stores a blob and returns what is stored now (the pathname may have got a suffix).
    ///
    /// # Errors
    /// `AlreadyExists` without `allow_overwrite`; `LostRace` where `if_match` does not hold.
    async fn put(&self, pathname: &Pathname, body: Body, options: &PutOptions) -> Result<Head>;

    /// Copies a blob within the store. Media type and caching are not copied, but inferred anew.
    ///
    /// # Errors
    /// As `put`; `NotFound` where the source is absent.
    async fn copy(&self, from: &Pathname, to: &Pathname, options: &PutOptions) -> Result<Head>;

    /// Copies, then deletes the source. If the deletion fails, both remain.
    ///
    /// # Errors
    /// As `copy`.
    async fn rename(&self, from: &Pathname, to: &Pathname, options: &PutOptions) -> Result<Head>;

    /// Deletes blobs; absent ones count as deleted.
    ///
    /// # Errors
    /// `LostRace` where `if_match` (one pathname only) does not hold.
    async fn delete(&self, pathnames: &[Pathname], if_match: Option<&ETag>) -> Result<()>;

    /// The moment at most `within` from now by the store's own clock, for a put ([`PutOptions::deadline`]) or a deletion
    /// ([`BlobStore::delete_before`]) that the store is to refuse after it. None where the store can't do that.
    async fn deadline(&self, _within: Duration) -> Result<Option<Deadline>> {
        Ok(None)
    }

    /// Deletes a blob that is still this version, up to a moment that [`BlobStore::deadline`] told.
    ///
    /// # Errors
    /// `LostRace` where it is another version, or the moment is over.
    async fn delete_before(&self, pathname: &Pathname, _if_match: &ETag, _deadline: Deadline) -> Result<()> {
        Err(Error::new(ErrorKind::Internal, "delete a blob")
            .key(pathname)
            .message("this store has no deadlines"))
    }

    /// Begins a multipart upload; its options hold at completion.
    async fn create_multipart(&self, pathname: &Pathname, options: &PutOptions) -> Result<Upload>;

    /// Uploads one part; the same number again replaces it.
    async fn upload_part(
        &self,
        pathname: &Pathname,
        upload: &Upload,
        number: u32,
        body: Body,
    ) -> Result<Part>;

    /// Puts the parts together, in the order of their numbers, and stores the blob.
    ///
    /// # Errors
    /// As `put`; `NotFound` for an unknown upload, `Usage` for a part that was not uploaded.
    async fn complete_multipart(
        &self,
        pathname: &Pathname,
        upload: &Upload,
        parts: &[Part],
        options: &PutOptions,
    ) -> Result<Head>;
}
