//! The service's cache at its worst: after a change it serves what was there before, for as long as it may.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;

use crate::blob::store::{BlobStore, Content, GetOptions};
use crate::blob::types::Pathname;
use crate::clock::Clock;
use crate::error::Result;

/// Longer blobs are never cached (Vercel Blob documentation, 2026).
const CACHED_BYTES_MAX: u64 = 512 << 20;

pub(super) struct Cached {
    content: Content,
    bytes: Bytes,
}

pub(super) struct Stale {
    clock: Arc<dyn Clock>,
    old: Mutex<HashMap<Pathname, VecDeque<(Duration, Cached)>>>,
}

impl Stale {
    pub(super) fn new(clock: Arc<dyn Clock>) -> Self {
        Self { clock, old: Mutex::default() }
    }

    /// The content that a change is about to replace; none where nothing is cached.
    pub(super) async fn before(inner: &dyn BlobStore, pathname: &Pathname) -> Result<Option<Cached>> {
        let Some(mut content) = inner.get(pathname, &GetOptions::default()).await? else { return Ok(None) };
        if content.size > CACHED_BYTES_MAX {
            return Ok(None);
        }
        let body = std::mem::replace(&mut content.body, Bytes::new().into());
        let bytes = body.collect(CACHED_BYTES_MAX).await?;
        Ok(Some(Cached { content, bytes }))
    }

    /// Serves it for so long from now on, after what is older still.
    pub(super) fn keep(&self, pathname: Pathname, cached: Cached, lasting: Duration) {
        let until = self.clock.monotonic() + lasting;
        let mut old = self.old.lock().unwrap_or_else(PoisonError::into_inner);
        old.entry(pathname).or_default().push_back((until, cached));
    }

    /// The oldest content that the cache may still serve.
    pub(super) fn serve(&self, pathname: &Pathname, options: &GetOptions) -> Option<Content> {
        let now = self.clock.monotonic();
        let mut old = self.old.lock().unwrap_or_else(PoisonError::into_inner);
        let kept = old.get_mut(pathname)?;
        while kept.pop_front_if(|(until, _)| *until <= now).is_some() {}
        let (_, cached) = kept.front()?;
        Some(Content {
            etag: cached.content.etag.clone(),
            size: cached.content.size,
            last_modified: cached.content.last_modified,
            content_type: cached.content.content_type.clone(),
            content_disposition: cached.content.content_disposition.clone(),
            cache_control: cached.content.cache_control.clone(),
            body: options.part_of(&cached.bytes).into(),
        })
    }
}
