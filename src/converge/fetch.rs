//! Bodies: the saved one, or the source's until it is the version that was seen.

use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;

use super::Converger;
use crate::blob::store::{Access, GetOptions};
use crate::blob::{ETag, ListedBlob, Pathname};
use crate::error::{Error, ErrorKind, Result};

/// The largest body that is mapped: DynamoDB could not hold a larger record in one item by far, and
/// larger ones must not fill memory.
const BODY_BYTES_MAX: u64 = 64 * 1024 * 1024;
/// How often content is read again while a CDN may serve an old version.
const STALE_PAUSE: Duration = Duration::from_secs(2);

/// A body that was fetched, with the headers that a listing lacks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SavedBody {
    /// The bytes.
    pub bytes: Bytes,
    /// The blob's media type.
    pub content_type: String,
    /// The blob's caching rule.
    pub cache_control: String,
}

/// Bodies that were fetched before, by pathname and ETag. A cache: it never says what is current.
#[async_trait]
pub trait Bodies: Send + Sync {
    /// The body of this version, if it was kept.
    ///
    /// # Errors
    /// `Corrupt` where what was kept is damaged.
    async fn body(&self, pathname: &Pathname, etag: &ETag) -> Result<Option<SavedBody>>;
}

/// No saved bodies: each is fetched.
#[derive(Debug, Clone, Copy, Default)]
pub struct NoBodies;

#[async_trait]
impl Bodies for NoBodies {
    async fn body(&self, _pathname: &Pathname, _etag: &ETag) -> Result<Option<SavedBody>> {
        Ok(None)
    }
}

impl Converger {
    /// The body of a version: the saved one, else the source's. None where the source holds another
    /// version by now.
    pub(crate) async fn fetch(&self, blob: &ListedBlob) -> Result<Option<SavedBody>> {
        if let Some(saved) = self.bodies.body(&blob.pathname, &blob.etag).await? {
            return Ok(Some(saved));
        }
        let began = self.clock.monotonic();
        loop {
            let options = GetOptions { range: None, no_cache: self.access == Access::Private };
            let Some(content) = self.source.get(&blob.pathname, &options).await? else {
                // Content may be missing for a moment after a first write, or for good.
                return self.gone(blob).await;
            };
            if content.etag == blob.etag {
                let (content_type, cache_control) = (content.content_type, content.cache_control);
                let bytes = content.body.collect(BODY_BYTES_MAX).await?;
                return Ok(Some(SavedBody { bytes, content_type, cache_control }));
            }
            // Either a CDN serves the version before, or the source holds one that came after.
            let present = self.source.head(&blob.pathname).await?;
            if present.is_none_or(|present| present.blob.etag != blob.etag) {
                return Ok(None);
            }
            if self.clock.monotonic().saturating_sub(began) > self.cdn_stale + STALE_PAUSE {
                return Err(Error::new(ErrorKind::NotApplied, "read content")
                    .key(&blob.pathname)
                    .message(format!("still another version after {} s", self.cdn_stale.as_secs())));
            }
            self.clock.sleep(STALE_PAUSE).await;
        }
    }

    async fn gone(&self, blob: &ListedBlob) -> Result<Option<SavedBody>> {
        match self.source.head(&blob.pathname).await? {
            Some(present) if present.blob.etag == blob.etag => {
                Err(Error::new(ErrorKind::NotApplied, "read content")
                    .key(&blob.pathname)
                    .message("the store lists the blob and has no content for it"))
            }
            _ => Ok(None),
        }
    }
}
