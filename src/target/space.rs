//! A part of both tables as tables of their own: in each of them one partition, whose sort keys are partition and sort key
//! of what is in it.
//!
//! Drills run in one, beside the application's items. What is in it bears no `_source`, so nobody takes it for an item of
//! the migration, and no key of an index. So a scan is a query, and what a drill leaves is found by its partition.

use std::sync::Arc;

use async_trait::async_trait;

use super::store::{
    CONTROL_PARTITION_KEY, CONTROL_SORT_KEY, Condition, Outcome, Page, Provisioned, Query, Scan, Site, Table,
    TableFacts, TargetStore, Write,
};
use crate::converge::SOURCE;
use crate::error::Result;
use crate::plan::{IndexPlan, TargetPlan};
use crate::value::{Item, Key, Value};

/// What `_source` is called within.
const SOURCE_WITHIN: &str = "_drill";
/// Between the two parts of a sort key; no key of a drill has it.
const BETWEEN: char = '\u{1}';

/// The items and rows of one drill.
pub struct TargetSpace {
    store: Arc<dyn TargetStore>,
    partition: String,
    data_keys: (String, String),
}

impl TargetSpace {
    /// Those of the drill with this name.
    #[must_use]
    pub fn new(store: Arc<dyn TargetStore>, plan: &TargetPlan, name: &str) -> Self {
        let data_keys = (plan.partition_key.clone(), plan.sort_key.clone());
        Self { store, partition: format!("migrate-drill#{name}"), data_keys }
    }

    /// Removes everything that is in it, and says how many items and rows that were.
    ///
    /// # Errors
    /// What the store reports.
    pub async fn clear(&self) -> Result<u64> {
        let mut removed = 0;
        for table in [Table::Data, Table::Control] {
            loop {
                let query = Query { limit: Some(100), ..Query::partition(self.partition.as_str()) };
                let page = self.store.query(table, &query).await?;
                for item in &page.items {
                    let write =
                        Write::Delete { table, key: self.key_of(table, item), condition: Condition::Always };
                    self.store.transact(&super::control::names::token(), vec![write]).await?;
                    removed += 1;
                }
                if page.next.is_none() {
                    break;
                }
            }
        }
        Ok(removed)
    }

    fn names(&self, table: Table) -> (&str, &str) {
        match table {
            Table::Data => (&self.data_keys.0, &self.data_keys.1),
            Table::Control => (CONTROL_PARTITION_KEY, CONTROL_SORT_KEY),
        }
    }

    fn key_of(&self, table: Table, item: &Item) -> Key {
        let names = self.names(table);
        let text = |name: &str| item.get(name).and_then(Value::as_s).unwrap_or_default();
        Key::new(text(names.0), text(names.1))
    }

    fn inside(&self, key: &Key) -> Key {
        Key::new(self.partition.as_str(), format!("{}{BETWEEN}{}", key.partition, key.sort))
    }

    fn outside(key: &Key) -> Key {
        let (partition, sort) = key.sort.split_once(BETWEEN).unwrap_or((&key.sort, ""));
        Key::new(partition, sort)
    }

    fn item_inside(&self, table: Table, item: Item) -> Item {
        let key = self.inside(&self.key_of(table, &item));
        self.renamed(table, item, (SOURCE, SOURCE_WITHIN), key)
    }

    fn item_outside(&self, table: Table, item: Item) -> Item {
        let key = Self::outside(&self.key_of(table, &item));
        self.renamed(table, item, (SOURCE_WITHIN, SOURCE), key)
    }

    fn renamed(&self, table: Table, mut item: Item, (from, to): (&str, &str), key: Key) -> Item {
        let names = self.names(table);
        item.insert(names.0.to_owned(), Value::S(key.partition));
        item.insert(names.1.to_owned(), Value::S(key.sort));
        if let Some(value) = item.remove(from) {
            item.insert(to.to_owned(), value);
        }
        item
    }

    fn condition(condition: Condition) -> Condition {
        let within = |mut path: Vec<String>| {
            if let Some(first) = path.first_mut().filter(|first| *first == SOURCE) {
                SOURCE_WITHIN.clone_into(first);
            }
            path
        };
        let all = |conditions: Vec<Condition>| conditions.into_iter().map(Self::condition).collect();
        match condition {
            Condition::Equals { path, value } => Condition::Equals { path: within(path), value },
            Condition::Missing { path } => Condition::Missing { path: within(path) },
            Condition::Any(conditions) => Condition::Any(all(conditions)),
            Condition::All(conditions) => Condition::All(all(conditions)),
            same @ (Condition::Always | Condition::Absent | Condition::Present) => same,
        }
    }

    fn write(&self, write: Write) -> Write {
        match write {
            Write::Put { table, item, condition } => Write::Put {
                table,
                item: self.item_inside(table, item),
                condition: Self::condition(condition),
            },
            Write::Set { table, key, name, value, condition } => Write::Set {
                table,
                key: self.inside(&key),
                name: if name == SOURCE { SOURCE_WITHIN.to_owned() } else { name },
                value,
                condition: Self::condition(condition),
            },
            Write::Delete { table, key, condition } => {
                Write::Delete { table, key: self.inside(&key), condition: Self::condition(condition) }
            }
            Write::Check { table, key, condition } => {
                Write::Check { table, key: self.inside(&key), condition: Self::condition(condition) }
            }
        }
    }

    async fn page(&self, table: Table, query: &Query) -> Result<Page> {
        let page = self.store.query(table, query).await?;
        let items = page.items.into_iter().map(|item| self.item_outside(table, item)).collect();
        Ok(Page { items, next: page.next.as_ref().map(Self::outside) })
    }
}

#[async_trait]
impl TargetStore for TargetSpace {
    fn site(&self) -> Site {
        self.store.site()
    }

    fn requests(&self) -> u64 {
        self.store.requests()
    }

    async fn get(&self, table: Table, keys: &[Key]) -> Result<Vec<Option<Item>>> {
        let keys: Vec<Key> = keys.iter().map(|key| self.inside(key)).collect();
        let found = self.store.get(table, &keys).await?;
        Ok(found.into_iter().map(|item| item.map(|item| self.item_outside(table, item))).collect())
    }

    async fn query(&self, table: Table, query: &Query) -> Result<Page> {
        let within = Query {
            partition: self.partition.clone(),
            sort_prefix: format!("{}{BETWEEN}{}", query.partition, query.sort_prefix),
            after: query.after.as_ref().map(|key| self.inside(key)),
            ..query.clone()
        };
        self.page(table, &within).await
    }

    /// All of it is in the first share.
    async fn scan(&self, table: Table, scan: &Scan) -> Result<Page> {
        if scan.segment > 0 {
            return Ok(Page::default());
        }
        let after = scan.after.as_ref().map(|key| self.inside(key));
        let mut page =
            self.page(table, &Query { after, ..Query::partition(self.partition.as_str()) }).await?;
        for item in page.items.iter_mut().filter(|_| !scan.only.is_empty()) {
            item.retain(|name, _| scan.only.contains(name));
        }
        Ok(page)
    }

    async fn transact(&self, token: &str, writes: Vec<Write>) -> Result<Outcome> {
        let tables: Vec<Table> = writes.iter().map(Write::table).collect();
        let within = writes.into_iter().map(|write| self.write(write)).collect();
        Ok(match self.store.transact(token, within).await? {
            Outcome::Applied => Outcome::Applied,
            Outcome::Refused(mut refusals) => {
                for refusal in &mut refusals {
                    let table = tables[refusal.action];
                    refusal.found = refusal.found.take().map(|item| self.item_outside(table, item));
                }
                Outcome::Refused(refusals)
            }
        })
    }

    async fn insert(&self, table: Table, items: Vec<Item>) -> Result<Vec<bool>> {
        let within = items.into_iter().map(|item| self.item_inside(table, item)).collect();
        self.store.insert(table, within).await
    }

    /// Nothing of a drill is in an index.
    async fn read_index(
        &self,
        _index: &IndexPlan,
        _at: Option<(&str, &str)>,
        _each: &mut (dyn FnMut(Item) + Send),
    ) -> Result<()> {
        Ok(())
    }

    async fn describe(&self, table: Table) -> Result<Option<TableFacts>> {
        self.store.describe(table).await
    }

    /// The tables are there: it only looks, whatever it is asked for.
    async fn provision(
        &self,
        plan: &TargetPlan,
        with_stream: bool,
        _dry_run: bool,
    ) -> Result<Vec<Provisioned>> {
        self.store.provision(plan, with_stream, true).await
    }
}
