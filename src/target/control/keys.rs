//! Pages of item keys: where the keys of a blob's items lie that are too many for its anchor's row.

use serde::{Deserialize, Serialize};

use super::{Anchor, Control, corrupt, names, row};
use crate::blob::Pathname;
use crate::error::Result;
use crate::protocol::Rev;
use crate::target::store::Table;
use crate::value::{Item, Key};

/// Keys up to this many bytes together stay in the anchor's row, which DynamoDB bills and bounds as a whole.
const INLINE_BYTES_MAX: usize = 32 * 1024;
/// The largest page, in bytes of keys; with what a list of maps adds it stays well under an item's limit.
const PAGE_BYTES_MAX: usize = 200 * 1024;

/// Where the keys of an anchor's items lie.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeysRef {
    /// The rev in the keys of its pages.
    pub rev: Rev,
    /// How many pages there are.
    pub pages: u32,
}

#[derive(Debug, Serialize, Deserialize)]
struct KeyPage {
    keys: Vec<Key>,
}

/// The rows that hold these keys under `rev`, and the reference to them. None where an anchor's own row
/// can hold them.
#[must_use]
pub fn encode_keys(pathname: &Pathname, rev: &Rev, keys: &[Key]) -> Option<(KeysRef, Vec<Item>)> {
    if keys.iter().map(bytes).sum::<usize>() <= INLINE_BYTES_MAX {
        return None;
    }
    let mut rows = Vec::new();
    let mut rest = keys;
    let mut number = 0;
    while !rest.is_empty() {
        let mut room = PAGE_BYTES_MAX;
        let fitting = rest.iter().take_while(|key| {
            let fits = bytes(key) <= room;
            room = room.saturating_sub(bytes(key));
            fits
        });
        let (page, after) = rest.split_at(fitting.count());
        rows.push(row::encode(&names::keys(pathname, rev, number), &KeyPage { keys: page.to_vec() }));
        (rest, number) = (after, number + 1);
    }
    Some((KeysRef { rev: rev.clone(), pages: number }, rows))
}

/// About what a key takes in a row: its texts, and the names and headers around them.
fn bytes(key: &Key) -> usize {
    key.partition.len() + key.sort.len() + 32
}

impl KeysRef {
    fn keys<'a>(&'a self, pathname: &'a Pathname) -> impl Iterator<Item = Key> + 'a {
        (0..self.pages).map(|number| names::keys(pathname, &self.rev, number))
    }
}

impl Control {
    /// Reads the pages that anchors name. One whose pages were replaced meanwhile is read anew.
    pub(super) async fn complete(&self, mut anchors: Vec<Option<Anchor>>) -> Result<Vec<Option<Anchor>>> {
        for anchor in anchors.iter_mut() {
            while let Some(seen) = anchor
                && !self.fill(seen).await?
            {
                let again = self.bare_anchor(&seen.pathname).await?;
                if again.as_ref() == Some(seen) {
                    return Err(corrupt(&seen.key(), "a page of its items' keys is missing"));
                }
                *anchor = again;
            }
        }
        Ok(anchors)
    }

    /// Adds the keys that lie in pages; says whether all pages are there.
    async fn fill(&self, anchor: &mut Anchor) -> Result<bool> {
        let Some(pages) = &anchor.pages else { return Ok(true) };
        let keys: Vec<Key> = pages.keys(&anchor.pathname).collect();
        let mut items = Vec::new();
        for row in self.store.get(Table::Control, &keys).await? {
            let Some(row) = row else { return Ok(false) };
            let page: KeyPage = row::decode(row)?;
            items.extend(page.keys);
        }
        anchor.items = items;
        Ok(true)
    }

    /// Removes the pages of keys that nothing names any more. What remains is harmless.
    ///
    /// # Errors
    /// What the store reports.
    pub async fn drop_keys(&self, pathname: &Pathname, keys: &KeysRef) -> Result<()> {
        self.drop_rows(keys.keys(pathname)).await
    }
}
