//! What a Blob store speaks of: pathnames, ETags, heads and listings.

use std::fmt;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::legible::legible;

/// The name of a blob in its store: any non-empty text, kept as it is (no Unicode normalisation).
///
/// Ordered by UTF-8 bytes, as the service lists them and as DynamoDB sorts.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Pathname(String);

impl Pathname {
    /// Takes a pathname as the store gave it.
    #[must_use]
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    /// The text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// For people: what is no visible text is escaped.
impl fmt::Display for Pathname {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&legible(&self.0))
    }
}

impl From<&str> for Pathname {
    fn from(text: &str) -> Self {
        Self::new(text)
    }
}

impl std::borrow::Borrow<str> for Pathname {
    fn borrow(&self) -> &str {
        &self.0
    }
}

/// A strong ETag with its quotes, such as `"9a0364b9e99bb480dd25e1f0284c8555"`.
///
/// A weak one (`W/"…"`, which a compressing CDN makes of a strong one) names the same content here:
/// the mark is dropped, so that ETags of `head`, `list`, `put` and content replies compare.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct ETag(String);

impl ETag {
    /// Takes an ETag as it came over the wire.
    #[must_use]
    pub fn new(text: &str) -> Self {
        let text = text.trim();
        let text = text.strip_prefix("W/").unwrap_or(text);
        if text.starts_with('"') { Self(text.to_owned()) } else { Self(format!("\"{text}\"")) }
    }

    /// Whether it has the form of an MD5, as that of a blob that was put in one piece.
    #[must_use]
    pub fn is_md5(&self) -> bool {
        let digits = self.0.trim_matches('"');
        digits.len() == 32 && digits.bytes().all(|byte| byte.is_ascii_hexdigit())
    }

    /// The ETag that the service gives to a blob of these bytes: their MD5, quoted.
    #[must_use]
    pub fn of(bytes: &[u8]) -> Self {
        use md5::Digest as _;
        Self(format!("\"{}\"", hex::encode(md5::Md5::digest(bytes))))
    }

    /// The text, with quotes.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// For people: what is no visible text is escaped.
impl fmt::Display for ETag {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&legible(&self.0))
    }
}

/// One version of a blob: what it holds, and when it was stored. Equal versions mean equal state.
///
/// The time tells a re-put of the same bytes (with another content type, say) from no put at all.
/// It never says which of two versions is the newer one.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Version {
    /// What it holds.
    pub etag: ETag,
    /// When it was stored, by the store's clock, in milliseconds.
    pub uploaded_at: Timestamp,
}

/// What a listing says of a blob.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ListedBlob {
    /// Its name.
    pub pathname: Pathname,
    /// Its length in bytes.
    pub size: u64,
    /// When it was stored.
    pub uploaded_at: Timestamp,
    /// What it holds.
    pub etag: ETag,
    /// Where its content is read.
    pub url: String,
    /// The same, as an attachment.
    pub download_url: String,
}

impl ListedBlob {
    /// The version that was listed.
    #[must_use]
    pub fn version(&self) -> Version {
        Version { etag: self.etag.clone(), uploaded_at: self.uploaded_at }
    }
}

/// What `head` says of a blob: the listing's fields and its headers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Head {
    /// What a listing says too.
    #[serde(flatten)]
    pub blob: ListedBlob,
    /// Its media type.
    pub content_type: String,
    /// `inline` or `attachment`, with a file name.
    pub content_disposition: String,
    /// Its caching rule, in the form `public, max-age=2592000`.
    pub cache_control: String,
}

impl Head {
    /// The version that is stored.
    #[must_use]
    pub fn version(&self) -> Version {
        self.blob.version()
    }
}

/// What to list.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ListRequest {
    /// Only names that begin so.
    pub prefix: String,
    /// Where the previous page ended.
    pub cursor: Option<String>,
    /// At most this many entries; the store's own bound is 1,000.
    pub limit: Option<u32>,
    /// Whether names with a further `/` after the prefix are folded into folders.
    pub folded: bool,
}

/// One page of a listing, in the order of the pathnames.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ListPage {
    /// The blobs of this page.
    pub blobs: Vec<ListedBlob>,
    /// The folders of this page (folded listings only), each ending in `/`.
    pub folders: Vec<String>,
    /// Where the next page begins; none on the last page.
    pub cursor: Option<String>,
}
