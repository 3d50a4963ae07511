//! Reading one version of a blob, past caches that still serve an older one.
//!
//! Content is accepted only where its ETag is the wanted one and its length is the version's. It is the
//! only way in which the program reads content that it will rely on.

use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::spool::Spooled;
use super::store::{Access, BlobStore, GetOptions};
use super::types::{ETag, Head, Pathname};
use crate::clock::Clock;
use crate::error::{Error, ErrorKind, Result};

const OPERATION: &str = "fetch a blob";
/// Beyond the stale window: for clocks and for a cache that began its window late.
const STALE_MARGIN: Duration = Duration::from_secs(15);
/// The pauses between reads of a stale body: doubled from the first to the longest.
const STALE_PAUSE_FIRST: Duration = Duration::from_millis(500);
const STALE_PAUSE_MAX: Duration = Duration::from_secs(8);
/// How often a body that breaks off, or comes damaged, is read again.
const DAMAGED_MAX: u32 = 2;

/// What a store's ETags are.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Etags {
    /// One of 32 hexadecimal digits is the MD5 of the content, which is checked. So an operator reports of
    /// the service.
    #[default]
    Md5,
    /// They say nothing of the content.
    Opaque,
}

impl Etags {
    /// Whether a plan needs not say it; what a plan does not say is no part of its hash.
    pub(crate) fn is_default(&self) -> bool {
        *self == Self::default()
    }
}

/// Reads versions of blobs from one store.
#[derive(Clone)]
pub struct Fetcher {
    /// Where from.
    pub source: Arc<dyn BlobStore>,
    /// What waits.
    pub clock: Arc<dyn Clock>,
    /// Private stores can be read past their caches; public ones are waited for.
    pub access: Access,
    /// How long a cache may serve an old body after an overwrite (`[timing] cdn_stale`).
    pub cdn_stale: Duration,
    /// Whether bodies are checked against their ETags.
    pub etags: Etags,
    /// The longest body that is read, in bytes; long ones are kept in temporary files.
    pub body_bytes_max: u64,
}

/// What was found under a name.
#[derive(Debug)]
pub enum Fetched {
    /// The content of the wanted version.
    Body {
        /// All of it.
        body: Spooled,
        /// Its media type.
        content_type: String,
        /// Its caching rule, as the content's reply says it.
        cache_control: String,
    },
    /// Another version is stored now.
    Changed(Box<Head>),
    /// Nothing is stored now.
    Gone,
}

/// What one read brought.
enum Read {
    Wanted(Fetched),
    /// Another version, or nothing.
    Other,
    /// The wanted version, broken off or with other bytes: it may come whole another time.
    Damaged(Error),
}

impl Fetcher {
    /// The content of the version with this ETag and length; or what is stored instead.
    ///
    /// While a cache serves an older body, it waits and reads again, for the stale window and a margin.
    /// Each time it looks the blob up, so a version that was replaced meanwhile is not waited for.
    ///
    /// # Errors
    /// `NotApplied` where caches go on serving an old body, or bodies break off again and again; `Corrupt`
    /// where the content with the wanted ETag has another length or, for an ETag that is an MD5, other
    /// bytes; `Unrepresentable` for a body that is too long; else what the store reports.
    pub async fn fetch(&self, pathname: &Pathname, etag: &ETag, size: u64) -> Result<Fetched> {
        if size > self.body_bytes_max {
            return Err(Error::new(ErrorKind::Unrepresentable, OPERATION)
                .key(pathname)
                .message(format!("its {size} bytes are more than {} can be held", self.body_bytes_max)));
        }
        let deadline = self.clock.monotonic() + self.cdn_stale + STALE_MARGIN;
        let mut pause = STALE_PAUSE_FIRST;
        let mut damaged = 0;
        loop {
            match self.read(pathname, etag, size).await? {
                Read::Wanted(fetched) => return Ok(fetched),
                Read::Other => {}
                Read::Damaged(error) if damaged == DAMAGED_MAX => return Err(error),
                Read::Damaged(_) => {
                    damaged += 1;
                    continue;
                }
            }
            match self.source.head(pathname).await? {
                None => return Ok(Fetched::Gone),
                Some(head) if head.blob.etag != *etag => return Ok(Fetched::Changed(Box::new(head))),
                Some(_) => {}
            }
            if self.clock.monotonic() >= deadline {
                return Err(Error::new(ErrorKind::NotApplied, OPERATION)
                    .key(pathname)
                    .message("the store's caches still serve another version of it")
                    .hint("run the same command again later; `[timing] cdn_stale` says how long to wait"));
            }
            self.clock.sleep(pause).await;
            pause = (pause * 2).min(STALE_PAUSE_MAX);
        }
    }

    async fn read(&self, pathname: &Pathname, etag: &ETag, size: u64) -> Result<Read> {
        let options = GetOptions { range: None, no_cache: self.access == Access::Private };
        let Some(content) = self.source.get(pathname, &options).await? else { return Ok(Read::Other) };
        if content.etag != *etag {
            return Ok(Read::Other);
        }
        let damaged = |message: String| {
            Ok(Read::Damaged(Error::new(ErrorKind::Corrupt, OPERATION).key(pathname).message(message)))
        };
        if content.size != size {
            return damaged(format!("its content has {} bytes, its listing says {size}", content.size));
        }
        let body = match content.body.spool(self.body_bytes_max).await {
            Ok(body) => body,
            Err(error) => return Ok(Read::Damaged(error)),
        };
        if body.length() != size {
            return damaged(format!("its content ended after {} bytes of {size}", body.length()));
        }
        if self.etags == Etags::Md5 && is_md5(etag) && body.etag() != *etag {
            return damaged(
                "its bytes are not the ones that its ETag was computed from; if this is so for each blob, \
                 the plan should say `source.etags = \"opaque\"`"
                    .to_owned(),
            );
        }
        Ok(Read::Wanted(Fetched::Body {
            body,
            content_type: content.content_type,
            cache_control: content.cache_control,
        }))
    }
}

/// Whether this ETag is the MD5 of its content, as that of a blob put at once is.
fn is_md5(etag: &ETag) -> bool {
    let digits = etag.as_str().trim_matches('"');
    digits.len() == 32 && digits.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
}

impl std::fmt::Debug for Fetcher {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Fetcher")
            .field("access", &self.access)
            .field("cdn_stale", &self.cdn_stale)
            .finish_non_exhaustive()
    }
}
