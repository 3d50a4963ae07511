//! A Blob store in memory, stricter than the service: what passes here passes there.
//!
//! It serves tests and the emulator. It refuses whatever the service is not known to accept (`//` and dot
//! segments in pathnames, small parts, foreign cursors, limits above the bound), its ETag is the MD5 of
//! the bytes, and `uploadedAt` is what the given clock shows, so two writes may have the same time.
//! Each write is atomic. Content is always fresh here; [`super::faults`] makes it stale, slow or refused.

mod disk;
mod listing;
mod multipart;
mod state;

use std::collections::{BTreeMap, HashMap};
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use jiff::Timestamp;

use self::state::{State, Stored};
use super::store::{Access, BlobStore, Body, Content, Deadline, GetOptions, Part, PutOptions, Upload};
use super::types::{ETag, Head, ListPage, ListRequest, Pathname};
use super::{rules, suffix};
use crate::clock::Clock;
use crate::error::{Error, ErrorKind, Result};

/// The most targets of one delete (Vercel's Python SDK 0.5.0).
const DELETE_MAX: usize = 1000;

/// What kind of store it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MemoryConfig {
    /// Its id, which appears in URLs (in lower case).
    pub store_id: String,
    /// Who may read it; also in URLs.
    pub access: Access,
    /// The longest blob, in bytes; memory bounds it, not the service (5 TB).
    pub blob_bytes_max: u64,
    /// The shortest part of a multipart upload except the last one, in bytes.
    pub part_bytes_min: u64,
}

impl Default for MemoryConfig {
    fn default() -> Self {
        Self {
            store_id: "memory".to_owned(),
            access: Access::Public,
            blob_bytes_max: 4 << 30,
            part_bytes_min: 5 << 20,
        }
    }
}

/// A Blob store in memory. Clones are the same store.
#[derive(Clone)]
pub struct MemoryBlob {
    state: Arc<Mutex<State>>,
    clock: Arc<dyn Clock>,
    config: MemoryConfig,
    on_disk: bool,
}

impl std::fmt::Debug for MemoryBlob {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("MemoryBlob").field("config", &self.config).finish_non_exhaustive()
    }
}

impl MemoryBlob {
    /// An empty store, gone with the process.
    #[must_use]
    pub fn new(config: MemoryConfig, clock: Arc<dyn Clock>) -> Self {
        Self::with(config, clock, None, BTreeMap::new())
    }

    /// The store that a directory holds; every write is there before it is answered, and survives a kill
    /// of the process. Reads the whole directory.
    ///
    /// # Errors
    /// `Usage` where the directory can't be used, `Busy` where another process uses it, `Corrupt` where a
    /// file in it is damaged.
    pub fn open(config: MemoryConfig, clock: Arc<dyn Clock>, directory: &Path) -> Result<Self> {
        let (disk, blobs) = disk::Disk::open(directory)?;
        Ok(Self::with(config, clock, Some(disk), blobs))
    }

    fn with(
        config: MemoryConfig,
        clock: Arc<dyn Clock>,
        disk: Option<disk::Disk>,
        blobs: BTreeMap<Pathname, Stored>,
    ) -> Self {
        let on_disk = disk.is_some();
        let state = State { config: config.clone(), blobs, uploads: HashMap::new(), disk };
        Self { state: Arc::new(Mutex::new(state)), clock, config, on_disk }
    }

    /// What kind of store it is.
    #[must_use]
    pub const fn config(&self) -> &MemoryConfig {
        &self.config
    }

    /// How many blobs it holds.
    #[must_use]
    pub fn len(&self) -> usize {
        self.lock().blobs.len()
    }

    /// Whether it holds none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Stores a blob as if it had been put at the given time; for fixtures.
    ///
    /// # Errors
    /// As [`BlobStore::put`].
    pub async fn put_at(
        &self,
        pathname: &Pathname,
        body: Bytes,
        options: &PutOptions,
        uploaded_at: Timestamp,
    ) -> Result<Head> {
        const OPERATION: &str = "put a blob";
        rules::check_write(OPERATION, pathname, options, self.config.access)?;
        let target = if options.add_random_suffix {
            suffix::with(pathname, &suffix::random())
        } else {
            pathname.clone()
        };
        let options = options.clone();
        let etag = ETag::of(&body);
        self.write(move |state| state.put(OPERATION, &target, body, etag, &options, uploaded_at)).await
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // A panic under the lock can't leave half a change: each one is a single insert or remove.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Runs a change to its end, even where the caller goes away: file and memory must not part.
    async fn write<T: Send + 'static>(
        &self,
        change: impl FnOnce(&mut State) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        if !self.on_disk {
            return change(&mut self.lock());
        }
        let store = self.clone();
        tokio::task::spawn_blocking(move || change(&mut store.lock()))
            .await
            .map_err(|error| Error::new(ErrorKind::OutcomeUnknown, "save a blob").source(error))?
    }
}

#[async_trait]
impl BlobStore for MemoryBlob {
    async fn head(&self, pathname: &Pathname) -> Result<Option<Head>> {
        let state = self.lock();
        Ok(state.blobs.get(pathname).map(|stored| state.head(pathname, stored)))
    }

    async fn list(&self, request: &ListRequest) -> Result<ListPage> {
        let state = self.lock();
        listing::page(&state.blobs, request, |pathname, stored| state.listed(pathname, stored))
    }

    async fn get(&self, pathname: &Pathname, options: &GetOptions) -> Result<Option<Content>> {
        let state = self.lock();
        let Some(stored) = state.blobs.get(pathname) else { return Ok(None) };
        let head = state.head(pathname, stored);
        Ok(Some(Content {
            etag: head.blob.etag,
            size: head.blob.size,
            last_modified: Some(head.blob.uploaded_at),
            content_type: head.content_type,
            content_disposition: head.content_disposition,
            cache_control: head.cache_control,
            body: options.part_of(&stored.body).into(),
        }))
    }

    async fn put(&self, pathname: &Pathname, body: Body, options: &PutOptions) -> Result<Head> {
        rules::check_write("put a blob", pathname, options, self.config.access)?;
        let body = body.collect(self.config.blob_bytes_max).await?;
        self.put_at(pathname, body, options, self.clock.now()).await
    }

    async fn copy(&self, from: &Pathname, to: &Pathname, options: &PutOptions) -> Result<Head> {
        let (from, to, options, at) = (from.clone(), to.clone(), options.clone(), self.clock.now());
        self.write(move |state| state.copy("copy a blob", &from, &to, &options, at)).await
    }

    async fn rename(&self, from: &Pathname, to: &Pathname, options: &PutOptions) -> Result<Head> {
        const OPERATION: &str = "rename a blob";
        if from == to {
            return Err(Error::new(ErrorKind::Usage, OPERATION)
                .key(from)
                .message("the new pathname is the old one"));
        }
        let (from, to, options, at) = (from.clone(), to.clone(), options.clone(), self.clock.now());
        self.write(move |state| {
            let head = state.copy(OPERATION, &from, &to, &options, at)?;
            state.delete(&from)?;
            Ok(head)
        })
        .await
    }

    async fn delete(&self, pathnames: &[Pathname], if_match: Option<&ETag>) -> Result<()> {
        const OPERATION: &str = "delete blobs";
        let refuse = |message: &str| Err(Error::new(ErrorKind::Usage, OPERATION).message(message));
        if pathnames.len() > DELETE_MAX {
            return refuse("more than 1000 blobs in one delete");
        }
        if if_match.is_some() && pathnames.len() != 1 {
            return refuse("a condition needs exactly one blob");
        }
        let (pathnames, if_match) = (pathnames.to_vec(), if_match.cloned());
        self.write(move |state| {
            if let [pathname] = pathnames.as_slice() {
                state.check_match(OPERATION, pathname, if_match.as_ref())?;
            }
            pathnames.iter().try_for_each(|pathname| state.delete(pathname))
        })
        .await
    }

    async fn deadline(&self, within: Duration) -> Result<Option<Deadline>> {
        Ok(Some(state::deadline(self.clock.now(), within)))
    }

    async fn delete_before(&self, pathname: &Pathname, if_match: &ETag, deadline: Deadline) -> Result<()> {
        const OPERATION: &str = "delete a blob";
        let (pathname, if_match, at) = (pathname.clone(), if_match.clone(), self.clock.now());
        self.write(move |state| {
            state::check_deadline(OPERATION, &pathname, Some(deadline), at)?;
            state.check_match(OPERATION, &pathname, Some(&if_match))?;
            state.delete(&pathname)
        })
        .await
    }

    async fn create_multipart(&self, pathname: &Pathname, options: &PutOptions) -> Result<Upload> {
        rules::check_write("create a multipart upload", pathname, options, self.config.access)?;
        Ok(self.lock().create_multipart(pathname, options))
    }

    async fn upload_part(
        &self,
        pathname: &Pathname,
        upload: &Upload,
        number: u32,
        body: Body,
    ) -> Result<Part> {
        let body = body.collect(self.config.blob_bytes_max).await?;
        self.lock().upload_part(pathname, upload, number, body)
    }

    async fn complete_multipart(
        &self,
        pathname: &Pathname,
        upload: &Upload,
        parts: &[Part],
        options: &PutOptions,
    ) -> Result<Head> {
        rules::check_write("complete a multipart upload", pathname, options, self.config.access)?;
        let (pathname, upload, parts) = (pathname.clone(), upload.clone(), parts.to_vec());
        let (options, at) = (options.clone(), self.clock.now());
        self.write(move |state| state.complete_multipart(&pathname, &upload, &parts, &options, at)).await
    }
}
