//! Listings of the store in memory: pages, folders and cursors.

use std::collections::BTreeMap;
use std::ops::Bound;

use super::state::Stored;
use crate::blob::listing::{self, Cursor, folder_of};
use crate::blob::types::{ListPage, ListRequest, ListedBlob, Pathname};
use crate::error::Result;

/// Lists one page; folders count towards the limit and each appears on one page only.
pub(super) fn page(
    blobs: &BTreeMap<Pathname, Stored>,
    request: &ListRequest,
    listed: impl Fn(&Pathname, &Stored) -> ListedBlob,
) -> Result<ListPage> {
    let (limit, cursor) = listing::read(request)?;
    let mut found = ListPage::default();
    let mut from = match cursor {
        None => Bound::Included(request.prefix.clone()),
        Some(cursor) => past(cursor.after, request),
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
        found.cursor = Some(Cursor::new(request, last, None).encode());
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

/// Where the listing goes on after this entry: after a folder, past all that it holds.
fn past(entry: String, request: &ListRequest) -> Bound<String> {
    match folder_of(&entry, request) {
        // `0` is the character after `/`.
        Some(folder) => Bound::Included(format!("{}0", &folder[..folder.len() - 1])),
        None => Bound::Excluded(entry),
    }
}
