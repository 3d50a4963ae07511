//! Bodies: the saved one, or the source's until it is the version that was seen.

use async_trait::async_trait;

use super::Converger;
use crate::blob::{ETag, Fetched, ListedBlob, Pathname, Spooled};
use crate::error::Result;

/// The largest body that is mapped as a whole: DynamoDB could not hold a larger record in one item by far,
/// and larger ones must not fill memory.
pub const BODY_BYTES_MAX: u64 = 64 * 1024 * 1024;
/// The largest body that is mapped record by record. Its keys and the places of its records are in memory,
/// some 300 bytes for each.
pub const LONG_BODY_BYTES_MAX: u64 = 1024 * 1024 * 1024;

/// A body that was fetched, with the headers that a listing lacks.
#[derive(Debug, Clone)]
pub struct SavedBody {
    /// The bytes.
    pub body: Spooled,
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
        Ok(match self.fetcher.fetch(&blob.pathname, &blob.etag, blob.size).await? {
            Fetched::Body { body, content_type, cache_control } => {
                Some(SavedBody { body, content_type, cache_control })
            }
            Fetched::Changed(_) | Fetched::Gone => None,
        })
    }
}
