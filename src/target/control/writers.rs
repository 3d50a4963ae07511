//! What a plan says to its writers, kept under its digest: so that it can be told in what another one differs.

use serde::{Deserialize, Serialize};

use super::{Control, row};
use crate::digest::Digest;
use crate::error::Result;
use crate::plan::Writers;
use crate::target::store::{Condition, Table, Write};
use crate::value::Key;

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct WritersRow {
    /// [`Writers::text`].
    plan: String,
}

impl Control {
    /// What was kept under this digest; none where nothing was, or nothing that can be read.
    ///
    /// # Errors
    /// What the store reports.
    pub async fn writers(&self, digest: &Digest) -> Result<Option<Writers>> {
        let row = self.get_row(key(digest)).await?.map(row::decode::<WritersRow>).transpose()?;
        Ok(row.and_then(|row| Writers::from_text(&row.plan)))
    }
}

/// The write that keeps what a plan says to its writers.
pub(super) fn kept(writers: &Writers) -> Write {
    let item = row::encode(&key(&writers.digest), &WritersRow { plan: writers.text() });
    Write::Put { table: Table::Control, item, condition: Condition::Always }
}

fn key(digest: &Digest) -> Key {
    Key::new("P#", digest.to_string())
}
