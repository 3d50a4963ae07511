//! Owners: which pathname's anchor lists the key of an item that the application may write itself.
//!
//! An index, and no more: what counts is the anchor. It is written in the transaction of every anchor that comes to
//! list the key, and stays when the anchor lists it no more.

use serde::{Deserialize, Serialize};

use super::{Control, names, row};
use crate::blob::Pathname;
use crate::error::Result;
use crate::target::store::{Condition, Table, Write};
use crate::value::{Key, Value};

/// Whose an item is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Owner {
    /// The key of the item.
    pub key: Key,
    /// The pathname whose anchor lists it, or listed it last.
    pub pathname: Pathname,
}

impl Owner {
    /// The write that stores it, whatever was there.
    #[must_use]
    pub fn write(&self) -> Write {
        self.put(Condition::Always)
    }

    /// The write that stores it, if what is there is still this.
    #[must_use]
    pub fn write_after(&self, seen: Option<&Self>) -> Write {
        self.put(match seen {
            Some(seen) => Condition::equals(["pathname"], Value::s(seen.pathname.as_str())),
            None => Condition::Absent,
        })
    }

    fn put(&self, condition: Condition) -> Write {
        Write::Put { table: Table::Control, item: row::encode(&names::owner(&self.key), self), condition }
    }
}

impl Control {
    /// The owner of an item, as it was noted last.
    ///
    /// # Errors
    /// `Corrupt` for a row that this program did not write; what the store reports.
    pub async fn owner(&self, key: &Key) -> Result<Option<Owner>> {
        self.get_row(names::owner(key)).await?.map(row::decode).transpose()
    }
}
