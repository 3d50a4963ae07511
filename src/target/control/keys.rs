//! Pages of item keys: where the keys of a blob's items lie that are too many for its anchor's row.

use std::sync::Arc;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::{Anchor, Control, corrupt, names, row};
use crate::blob::Pathname;
use crate::error::Result;
use crate::protocol::Rev;
use crate::value::{Item, Key};

/// Keys up to this many bytes together stay in the anchor's row, which DynamoDB bills and bounds as a whole.
const INLINE_BYTES_MAX: usize = 32 * 1024;
/// The largest page, in bytes of keys; with what a list of maps adds it stays well under an item's limit.
const PAGE_BYTES_MAX: usize = 200 * 1024;

/// The keys of a blob's items, in the order in which the plan makes them. Clones share them.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Keys(Arc<Vec<Key>>);

impl Keys {
    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl std::ops::Deref for Keys {
    type Target = [Key];

    fn deref(&self) -> &[Key] {
        &self.0
    }
}

impl From<Vec<Key>> for Keys {
    fn from(keys: Vec<Key>) -> Self {
        Self(Arc::new(keys))
    }
}

impl Serialize for Keys {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.0.as_slice().serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for Keys {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Vec::deserialize(deserializer).map(Self::from)
    }
}

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

/// The keys, page by page.
fn pages<'a>(keys: impl Iterator<Item = &'a Key>) -> impl Iterator<Item = Vec<&'a Key>> {
    let mut keys = keys.peekable();
    std::iter::from_fn(move || {
        let mut page = vec![keys.next()?];
        let mut room = PAGE_BYTES_MAX.saturating_sub(bytes(page[0]));
        while let Some(key) = keys.next_if(|key| bytes(key) <= room) {
            room -= bytes(key);
            page.push(key);
        }
        Some(page)
    })
}

impl KeysRef {
    /// The pages of these keys under `rev`. None where an anchor's own row can hold them.
    ///
    /// # Panics
    /// For more keys than memory holds.
    pub fn of<'a>(rev: &Rev, keys: impl Iterator<Item = &'a Key> + Clone) -> Option<Self> {
        if keys.clone().map(bytes).sum::<usize>() <= INLINE_BYTES_MAX {
            return None;
        }
        let pages =
            u32::try_from(pages(keys).count()).expect("invariant: keys in memory fit in so many pages");
        Some(Self { rev: rev.clone(), pages })
    }

    /// The rows of its pages, of the keys that it was made of.
    pub fn rows<'a>(
        &'a self,
        pathname: &'a Pathname,
        keys: impl Iterator<Item = &'a Key> + 'a,
    ) -> impl Iterator<Item = Item> + 'a {
        pages(keys).zip(0..).map(move |(page, number)| {
            let page = KeyPage { keys: page.into_iter().cloned().collect() };
            row::encode(&names::keys(pathname, &self.rev, number), &page)
        })
    }

    fn keys<'a>(&'a self, pathname: &'a Pathname) -> impl Iterator<Item = Key> + 'a {
        (0..self.pages).map(|number| names::keys(pathname, &self.rev, number))
    }
}

/// About what a key takes in a row: its texts, and the names and headers around them.
fn bytes(key: &Key) -> usize {
    key.partition.len() + key.sort.len() + 32
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
        let mut items = Vec::new();
        let complete = self
            .key_pages(anchor, |keys| {
                items.extend(keys);
                Ok(())
            })
            .await?;
        if complete && anchor.pages.is_some() {
            items.shrink_to_fit();
            anchor.items = items.into();
        }
        Ok(complete)
    }

    /// Hands out the keys of an anchor that lie in pages, page by page; says whether all pages are there, which
    /// they are unless the anchor was replaced meanwhile.
    ///
    /// # Errors
    /// What the store or `take` reports.
    pub async fn key_pages(
        &self,
        anchor: &Anchor,
        mut take: impl FnMut(Vec<Key>) -> Result<()> + Send,
    ) -> Result<bool> {
        for key in anchor.pages.iter().flat_map(|pages| pages.keys(&anchor.pathname)) {
            let Some(row) = self.get_row(key).await? else { return Ok(false) };
            let page: KeyPage = row::decode(row)?;
            take(page.keys)?;
        }
        Ok(true)
    }

    /// Stores the pages of keys, as [`Control::put_rows`].
    ///
    /// # Errors
    /// What the store reports.
    pub async fn put_keys(&self, pathname: &Pathname, pages: &KeysRef, keys: &[Key]) -> Result<()> {
        // One at a time: their rows take several times the memory of their keys.
        for row in pages.rows(pathname, keys.iter()) {
            self.put_rows(vec![row]).await?;
        }
        Ok(())
    }

    /// Removes the pages of keys that nothing names any more. What remains is harmless.
    ///
    /// # Errors
    /// What the store reports.
    pub async fn drop_keys(&self, pathname: &Pathname, keys: &KeysRef) -> Result<()> {
        self.drop_rows(keys.keys(pathname)).await
    }
}
