//! The control table: the migration's own state, the same rows on every [`TargetStore`].
//!
//! | partition / sort | row |
//! |---|---|
//! | `HEADER` / `HEADER` | [`Header`]: which stores this table belongs to |
//! | `MODE` / `MODE` | [`Mode`]: phase, epoch, hold |
//! | `A#ss` / name | [`Anchor`] of a pathname |
//! | `B#h` / `rev#n` | a part of a retained body |
//! | `K#h` / `rev#n` | a page of item keys, where they are too many for the anchor |
//! | `G#k` / `GROUP` | [`Group`]: several blobs, one item; `k` is the SHA-256 of the item's key |
//! | `G#k` / `M#`time#name | [`Member`] of a group, in the order of rank |
//! | `O#k` / `OWNER` | [`Owner`]: whose an item is that the application may write itself |
//! | `S#` / id | [`SessionRow`] |
//! | `P#` / digest | what the plan of a cutover says to its writers ([`Writers`](crate::plan::Writers)) |
//! | `I#ss` / id | [`IntentRow`], one for each operation of a gateway; `ss` is of the id |
//! | `N#ss` / id | [`NoteRow`], one for each request of the mirror that may change Blob |
//! | `E#` / gate | [`Evidence`], the newest of each gate |
//! | `W#` / time#id | [`SweepRow`] |
//! | `C#` / epoch#round#id | [`ReadsRow`]: what a gateway compared, one for each process and round |
//! | `L#` / epoch | [`Audit`]: one for each change of authority; with the time, one for each other step |
//!
//! `h` is the SHA-256 of the pathname, `ss` its first byte mod 16, the name is the pathname or, above
//! 960 bytes, its beginning and `h` ([`names`]). Every row has `format = 1`.
//!
//! This module stores and reads rows. It decides nothing about them.

mod anchor;
mod body;
mod group;
mod intent;
mod keys;
mod mode;
pub mod names;
mod note;
mod owner;
mod reads;
mod record;
mod row;
mod session;
#[cfg(test)]
mod tests;
mod writers;

use std::sync::Arc;

pub use anchor::{Anchor, AnchorState, Behind, BlobHead, BodyForm, BodyRef, ItemSeen, MappedVersion};
pub(crate) use body::Unpacking;
pub use body::{RETAIN_MAX, encode_body, encode_skeleton, encode_whole};
pub use group::{Group, GroupRef, Member};
pub use intent::{INTENT_PATHNAMES_MAX, IntentRow, IntentState};
pub use keys::{Keys, KeysRef};
pub use mode::{Audit, Header, Hold, Mode};
pub use note::{AtWork, Expected, NoteRow};
pub use owner::Owner;
pub use reads::{Offender, Reads, ReadsRow};
pub use record::{Evidence, SweepRow};
pub use session::{SessionKind, SessionRow, SessionState};

use super::store::{Outcome, Query, Table, TargetStore};
use crate::error::{Error, ErrorKind, Result};
use crate::value::{Item, Key};

/// The control table of one migration.
#[derive(Clone)]
pub struct Control {
    store: Arc<dyn TargetStore>,
    noting: Arc<note::Noting>,
}

impl std::fmt::Debug for Control {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Control").finish_non_exhaustive()
    }
}

impl Control {
    /// The control table beside a data table.
    #[must_use]
    pub fn new(store: Arc<dyn TargetStore>) -> Self {
        Self { store, noting: Arc::default() }
    }

    /// The store that holds both tables.
    #[must_use]
    pub fn store(&self) -> &Arc<dyn TargetStore> {
        &self.store
    }

    async fn get_row(&self, key: Key) -> Result<Option<Item>> {
        Ok(self.store.get(Table::Control, &[key]).await?.pop().flatten())
    }

    /// The rows under these keys that are there.
    async fn get_rows(&self, keys: &[Key]) -> Result<impl Iterator<Item = Item> + use<>> {
        let rows = if keys.is_empty() { Vec::new() } else { self.store.get(Table::Control, keys).await? };
        Ok(rows.into_iter().flatten())
    }

    /// All rows of a partition whose sort keys begin so, in order.
    async fn rows(&self, partition: &str, sort_prefix: &str) -> Result<Vec<Item>> {
        let mut query = Query::partition(partition);
        sort_prefix.clone_into(&mut query.sort_prefix);
        let mut rows = Vec::new();
        loop {
            let page = self.store.query(Table::Control, &query).await?;
            rows.extend(page.items);
            if page.next.is_none() {
                return Ok(rows);
            }
            query.after = page.next;
        }
    }

    /// Stores one row if its condition holds; says whether it did. A row whose write was applied and
    /// whose reply was lost counts as stored.
    async fn put_row(&self, item: Item, condition: super::Condition) -> Result<bool> {
        let token = names::token();
        let write = super::Write::Put { table: Table::Control, item: item.clone(), condition };
        match self.store.transact(&token, vec![write]).await? {
            Outcome::Applied => Ok(true),
            Outcome::Refused(refusals) => {
                Ok(refusals.first().is_some_and(|refusal| refusal.found.as_ref() == Some(&item)))
            }
        }
    }
}

fn corrupt(key: &Key, message: impl std::fmt::Display) -> Error {
    Error::new(ErrorKind::Corrupt, "read a row of the control table").key(key).message(message)
}
