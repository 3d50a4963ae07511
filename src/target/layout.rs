//! The key attributes of both tables, and DynamoDB's limits, checked before anything is sent.
//!
//! Engines differ in what they let through, and an answer from the service costs a request. So every
//! implementation asks here first, and refuses the same things with the same words.

use std::collections::HashSet;

use super::store::{CONTROL_PARTITION_KEY, CONTROL_SORT_KEY, Condition, Table, Write};
use crate::error::{Error, ErrorKind, Result};
use crate::plan::{IndexPlan, TargetPlan};
use crate::value::{ITEM_BYTES_MAX, Item, Key, Value, item_bytes};

/// A transaction has at most this many actions (AWS, "Quotas in Amazon DynamoDB").
pub const ACTIONS_MAX: usize = 100;
/// The items of a transaction are at most this large together, in bytes (same page).
pub const TRANSACTION_BYTES_MAX: usize = 4 << 20;
/// A partition key value is at most this long, in UTF-8 bytes (same page).
pub const PARTITION_KEY_BYTES_MAX: usize = 2048;
/// A sort key value is at most this long, in UTF-8 bytes (same page).
pub const SORT_KEY_BYTES_MAX: usize = 1024;
/// A request token is at most this long (AWS, `TransactWriteItems`).
const TOKEN_BYTES_MAX: usize = 36;
/// So many comparisons stay below 4 KB of expression, and below 300 operators.
const CONDITION_TERMS_MAX: usize = 100;

/// Names of tables, keys and indexes, as the plan has them.
#[derive(Debug, Clone)]
pub(crate) struct Layout {
    plan: TargetPlan,
    control_table: String,
}

impl Layout {
    pub(crate) fn new(plan: TargetPlan) -> Self {
        Self { control_table: plan.control_table(), plan }
    }

    pub(crate) fn table_name(&self, table: Table) -> &str {
        match table {
            Table::Data => &self.plan.table,
            Table::Control => &self.control_table,
        }
    }

    /// The names of the partition key and the sort key.
    pub(crate) fn key_names(&self, table: Table) -> (&str, &str) {
        match table {
            Table::Data => (&self.plan.partition_key, &self.plan.sort_key),
            Table::Control => (CONTROL_PARTITION_KEY, CONTROL_SORT_KEY),
        }
    }

    pub(crate) fn indexes(&self, table: Table) -> &[IndexPlan] {
        match table {
            Table::Data => &self.plan.indexes,
            Table::Control => &[],
        }
    }

    /// The key of an item, out of its attributes.
    pub(crate) fn key_of(&self, table: Table, item: &Item) -> Result<Key> {
        let (partition, sort) = self.key_names(table);
        let part = |name: &str| match item.get(name) {
            Some(Value::S(text)) => Ok(text.clone()),
            Some(_) => Err(self.unfit(table, name).message("the key attribute is not a string")),
            None => Err(self.unfit(table, name).message("the item lacks the key attribute")),
        };
        Ok(Key { partition: part(partition)?, sort: part(sort)? })
    }

    pub(crate) fn check_key(&self, table: Table, key: &Key) -> Result<()> {
        let (partition, sort) = self.key_names(table);
        self.check_key_text(table, partition, &key.partition, PARTITION_KEY_BYTES_MAX)?;
        self.check_key_text(table, sort, &key.sort, SORT_KEY_BYTES_MAX)
    }

    /// Whether DynamoDB can hold this item: keys, index keys, size. Gives its key.
    pub(crate) fn check_item(&self, table: Table, item: &Item) -> Result<Key> {
        let key = self.key_of(table, item)?;
        self.check_key(table, &key)?;
        for index in self.indexes(table) {
            for (name, bytes_max) in
                [(&index.partition_key, PARTITION_KEY_BYTES_MAX), (&index.sort_key, SORT_KEY_BYTES_MAX)]
            {
                match item.get(name) {
                    None => {}
                    Some(Value::S(text)) => self.check_key_text(table, name, text, bytes_max)?,
                    Some(_) => {
                        return Err(self.unfit(table, name).message(format!(
                            "the key of index {} is not a string in the item {key}",
                            index.name
                        )));
                    }
                }
            }
        }
        let bytes = item_bytes(item);
        if bytes > ITEM_BYTES_MAX {
            return Err(Error::new(ErrorKind::Unrepresentable, "write item")
                .key(&key)
                .message(format!("it has {bytes} bytes, and DynamoDB stores at most {ITEM_BYTES_MAX}")));
        }
        Ok(key)
    }

    /// Whether this is a transaction that DynamoDB accepts. Gives the key of each action.
    pub(crate) fn check_transaction(&self, token: &str, writes: &[Write]) -> Result<Vec<(Table, Key)>> {
        let defect = |message: String| {
            Err(Error::new(ErrorKind::Internal, "write transaction").key(token).message(message))
        };
        if writes.is_empty() || writes.len() > ACTIONS_MAX {
            return defect(format!("{} actions, and DynamoDB takes 1 to {ACTIONS_MAX}", writes.len()));
        }
        if token.is_empty() || token.len() > TOKEN_BYTES_MAX {
            return defect(format!("the request token has {} bytes, not 1 to 36", token.len()));
        }
        let mut keys = Vec::with_capacity(writes.len());
        let mut seen = HashSet::with_capacity(writes.len());
        let mut bytes = 0;
        for write in writes {
            let (table, key) = match write {
                Write::Put { table, item, .. } => {
                    bytes += item_bytes(item);
                    (*table, self.check_item(*table, item)?)
                }
                Write::Delete { table, key, .. }
                | Write::Check { table, key, .. }
                | Write::Set { table, key, .. } => {
                    self.check_key(*table, key)?;
                    (*table, key.clone())
                }
            };
            if !condition_fits(write.condition()) {
                return defect(format!(
                    "the condition on {key} has an empty path, or over {CONDITION_TERMS_MAX} terms"
                ));
            }
            if !seen.insert((table, key.clone())) {
                return defect(format!("two actions on {key}"));
            }
            keys.push((table, key));
        }
        if bytes > TRANSACTION_BYTES_MAX {
            return defect(format!("{bytes} bytes, and DynamoDB takes at most {TRANSACTION_BYTES_MAX}"));
        }
        Ok(keys)
    }

    /// Whether these items can be inserted together. Gives their keys.
    pub(crate) fn check_insert(&self, table: Table, items: &[Item]) -> Result<Vec<Key>> {
        let mut seen = HashSet::with_capacity(items.len());
        let mut keys = Vec::with_capacity(items.len());
        for item in items {
            let key = self.check_item(table, item)?;
            if !seen.insert(key.clone()) {
                return Err(Error::new(ErrorKind::Internal, "insert items")
                    .key(&key)
                    .message("the key is there twice"));
            }
            keys.push(key);
        }
        Ok(keys)
    }

    fn check_key_text(&self, table: Table, name: &str, text: &str, bytes_max: usize) -> Result<()> {
        if text.is_empty() {
            return Err(self.unfit(table, name).message("a key cannot be an empty string"));
        }
        if text.len() > bytes_max {
            return Err(self
                .unfit(table, name)
                .message(format!("a key of {} bytes, and DynamoDB takes at most {bytes_max}", text.len())));
        }
        Ok(())
    }

    fn unfit(&self, table: Table, attribute: &str) -> Error {
        Error::new(ErrorKind::Unrepresentable, "write item")
            .key(format_args!("{}: {attribute}", self.table_name(table)))
    }
}

impl Write {
    /// Where it is done.
    pub(crate) const fn table(&self) -> Table {
        match self {
            Self::Put { table, .. }
            | Self::Set { table, .. }
            | Self::Delete { table, .. }
            | Self::Check { table, .. } => *table,
        }
    }

    /// What must hold for this action.
    #[must_use]
    pub const fn condition(&self) -> &Condition {
        match self {
            Self::Put { condition, .. }
            | Self::Set { condition, .. }
            | Self::Delete { condition, .. }
            | Self::Check { condition, .. } => condition,
        }
    }
}

fn condition_fits(condition: &Condition) -> bool {
    fn terms(condition: &Condition) -> Option<usize> {
        match condition {
            Condition::Always | Condition::Absent | Condition::Present => Some(1),
            Condition::Equals { path, .. } | Condition::Missing { path } => (!path.is_empty()).then_some(1),
            Condition::Any(conditions) | Condition::All(conditions) => conditions.iter().map(terms).sum(),
        }
    }
    terms(condition).is_some_and(|terms| terms <= CONDITION_TERMS_MAX)
}
