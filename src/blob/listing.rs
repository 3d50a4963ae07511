//! What every listing that a store of ours makes has in common: bounds, folders and cursors.

use base64::Engine as _;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use serde::{Deserialize, Serialize};

use super::types::ListRequest;
use crate::error::{Error, ErrorKind, Result};

/// The most entries of a page (Vercel Blob documentation, 2026).
pub(crate) const LIMIT_MAX: u32 = 1000;

/// Where a page ended, and of which listing it was a page: a cursor is good for no other.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Cursor {
    /// The entry after which to go on.
    pub(crate) after: String,
    prefix: String,
    folded: bool,
    /// The cursor of another store's listing, where this one is merged with that: of the page on which the next entry
    /// may be.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) blob: Option<String>,
}

impl Cursor {
    pub(crate) fn new(request: &ListRequest, after: String, blob: Option<String>) -> Self {
        Self { after, prefix: request.prefix.clone(), folded: request.folded, blob }
    }

    /// As a client gets it.
    pub(crate) fn encode(&self) -> String {
        BASE64_URL_SAFE_NO_PAD.encode(serde_json::to_vec(self).expect("invariant: text and a flag are JSON"))
    }

    fn decode(text: &str) -> Option<Self> {
        let cursor: Self = serde_json::from_slice(&BASE64_URL_SAFE_NO_PAD.decode(text).ok()?).ok()?;
        cursor.after.starts_with(&cursor.prefix).then_some(cursor)
    }
}

/// How many entries a page may have, and where it begins.
///
/// # Errors
/// `Usage` for a limit out of bounds, and a cursor of another listing.
pub(crate) fn read(request: &ListRequest) -> Result<(u32, Option<Cursor>)> {
    let refuse = |message: &str| Err(Error::new(ErrorKind::Usage, "list blobs").message(message));
    let limit = request.limit.unwrap_or(LIMIT_MAX);
    if limit == 0 || limit > LIMIT_MAX {
        return refuse("the limit must be between 1 and 1000");
    }
    let Some(text) = &request.cursor else { return Ok((limit, None)) };
    match Cursor::decode(text) {
        Some(cursor) if cursor.prefix == request.prefix && cursor.folded == request.folded => {
            Ok((limit, Some(cursor)))
        }
        _ => refuse("the cursor is not valid for this listing"),
    }
}

/// The folder that a name is folded into, with the prefix and its slash.
pub(crate) fn folder_of<'a>(name: &'a str, request: &ListRequest) -> Option<&'a str> {
    let rest = name.get(request.prefix.len()..)?;
    let slash = rest.find('/').filter(|_| request.folded)?;
    Some(&name[..=request.prefix.len() + slash])
}
