//! Listings of the store in memory: pages, folders and cursors.

use std::collections::BTreeMap;
use std::ops::Bound;

use base64::Engine as _;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use serde::{Deserialize, Serialize};

use super::state::Stored;
use crate::blob::types::{ListPage, ListRequest, ListedBlob, Pathname};
use crate::error::{Error, ErrorKind, Result};

/// The most entries of a page (Vercel Blob documentation, 2026).
const LIMIT_MAX: u32 = 1000;

/// Where a page ended, and of which listing it was a page: a cursor is good for no other.
#[derive(Serialize, Deserialize)]
struct Cursor {
    after: String,
    prefix: String,
    folded: bool,
}

/// Lists one page; folders count towards the limit and each appears on one page only.
pub(super) fn page(
    blobs: &BTreeMap<Pathname, Stored>,
    request: &ListRequest,
    listed: impl Fn(&Pathname, &Stored) -> ListedBlob,
) -> Result<ListPage> {
    let refuse = |message: &str| Err(Error::new(ErrorKind::Usage, "list blobs").message(message));
    let limit = request.limit.unwrap_or(LIMIT_MAX);
    if limit == 0 || limit > LIMIT_MAX {
        return refuse("the limit must be between 1 and 1000");
    }
    let after = match &request.cursor {
        None => None,
        Some(text) => match decode(text) {
            Some(cursor) if cursor.prefix == request.prefix && cursor.folded == request.folded => {
                Some(cursor.after)
            }
            _ => return refuse("the cursor is not valid for this listing"),
        },
    };
    let mut found = ListPage::default();
    let mut from = match after {
        None => Bound::Included(request.prefix.clone()),
        Some(after) => past(after, request),
    };
    let mut last = String::new();
    for _ in 0..limit {
        let Some((name, stored)) = next(blobs, &from, &request.prefix) else { return Ok(found) };
        if let Some(folder) = folder_of(name.as_str(), request) {
            folder.clone_into(&mut last);
            found.folders.push(last.clone());
        } else {
            name.as_str().clone_into(&mut last);
            found.blobs.push(listed(name, stored));
        }
        from = past(last.clone(), request);
    }
    if next(blobs, &from, &request.prefix).is_some() {
        found.cursor = Some(encode(last, request));
    }
    Ok(found)
}

fn next<'a>(
    blobs: &'a BTreeMap<Pathname, Stored>,
    from: &Bound<String>,
    prefix: &str,
) -> Option<(&'a Pathname, &'a Stored)> {
    let from = from.as_ref().map(String::as_str);
    blobs
        .range::<str, _>((from, Bound::Unbounded))
        .next()
        .filter(|(name, _)| name.as_str().starts_with(prefix))
}

/// The folder that this name is folded into, with the prefix and its slash.
fn folder_of<'a>(name: &'a str, request: &ListRequest) -> Option<&'a str> {
    let rest = &name[request.prefix.len()..];
    let slash = rest.find('/').filter(|_| request.folded)?;
    Some(&name[..=request.prefix.len() + slash])
}

/// Where the listing goes on after this entry: after a folder, past all that it holds.
fn past(entry: String, request: &ListRequest) -> Bound<String> {
    match folder_of(&entry, request) {
        // `0` is the character after `/`.
        Some(folder) => Bound::Included(format!("{}0", &folder[..folder.len() - 1])),
        None => Bound::Excluded(entry),
    }
}

fn encode(after: String, request: &ListRequest) -> String {
    let cursor = Cursor { after, prefix: request.prefix.clone(), folded: request.folded };
    BASE64_URL_SAFE_NO_PAD.encode(serde_json::to_vec(&cursor).expect("invariant: text and a flag are JSON"))
}

fn decode(text: &str) -> Option<Cursor> {
    let cursor: Cursor = serde_json::from_slice(&BASE64_URL_SAFE_NO_PAD.decode(text).ok()?).ok()?;
    cursor.after.starts_with(&cursor.prefix).then_some(cursor)
}
