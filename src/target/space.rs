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
        Key::of(item, self.names(table))
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

    /// The same of what is stored. What an item's key must be is said by where it is.
    fn condition(&self, table: Table, condition: Condition) -> Condition {
        let names = self.names(table);
        let within = |mut path: Vec<String>| {
            if let Some(first) = path.first_mut().filter(|first| *first == SOURCE) {
                SOURCE_WITHIN.clone_into(first);
            }
            path
        };
        let all = |conditions: Vec<Condition>| {
            conditions.into_iter().map(|condition| self.condition(table, condition)).collect()
        };
        match condition {
            Condition::Equals { path, .. }
                if [names.0, names.1].map(|name| vec![name.to_owned()]).contains(&path) =>
            {
                Condition::Present
            }
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
                condition: self.condition(table, condition),
            },
            Write::Set { table, key, name, value, condition } => Write::Set {
                table,
                key: self.inside(&key),
                name: if name == SOURCE { SOURCE_WITHIN.to_owned() } else { name },
                value,
                condition: self.condition(table, condition),
            },
            Write::Delete { table, key, condition } => {
                Write::Delete { table, key: self.inside(&key), condition: self.condition(table, condition) }
            }
            Write::Check { table, key, condition } => {
                Write::Check { table, key: self.inside(&key), condition: self.condition(table, condition) }
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::converge::source_value;
    use crate::protocol::Rev;
    use crate::target::memory::MemoryTarget;

    fn put(item: Item, condition: Condition) -> Vec<Write> {
        vec![Write::Put { table: Table::Data, item, condition }]
    }

    #[tokio::test]
    async fn what_is_in_it_is_as_in_a_table_and_nobody_elses() {
        let plan: TargetPlan =
            toml::from_str("table = 't'\npartition_key = 'PK'\nsort_key = 'SK'").expect("a plan");
        let table: Arc<dyn TargetStore> = Arc::new(MemoryTarget::new(plan.clone()));
        let space = TargetSpace::new(Arc::clone(&table), &plan, "drill");
        let source = source_value(&"r/1.json".into(), &Rev::new("7"));
        let item: Item =
            [("PK", Value::s("R#1")), ("SK", Value::s("META")), (SOURCE, source), ("text", Value::s("one"))]
                .map(|(name, value)| (name.to_owned(), value))
                .into();
        let beside = Item::from([("PK".to_owned(), Value::s("R#1")), ("SK".to_owned(), Value::s("META"))]);
        table.transact("beside", put(beside.clone(), Condition::Absent)).await.unwrap();
        assert_eq!(
            space.transact("1", put(item.clone(), Condition::Absent)).await.unwrap(),
            Outcome::Applied
        );

        let key = Key::new("R#1", "META");
        assert_eq!(space.get(Table::Data, &[key]).await.unwrap(), [Some(item.clone())]);
        assert_eq!(space.query(Table::Data, &Query::partition("R#1")).await.unwrap().items.len(), 1);
        assert_eq!(space.query(Table::Data, &Query::partition("R#")).await.unwrap().items, []);
        assert_eq!(
            space.scan(Table::Data, &Scan::share(0, 1)).await.unwrap().items,
            std::slice::from_ref(&item)
        );
        // As it was read: its key is what it is in the space, and `_source` has another name in the table.
        let changed = Item::from_iter(item.clone().into_iter().chain([("text".to_owned(), Value::s("two"))]));
        let as_read = Condition::as_read(Some(&item));
        assert_eq!(
            space.transact("2", put(changed.clone(), as_read.clone())).await.unwrap(),
            Outcome::Applied
        );
        let Outcome::Refused(refusals) = space.transact("3", put(item, as_read)).await.unwrap() else {
            panic!("it has changed")
        };
        assert_eq!(refusals[0].found, Some(changed));

        let rows = table.scan(Table::Data, &Scan::share(0, 1)).await.unwrap().items;
        let bears_source = rows.iter().filter(|row| row.contains_key(SOURCE)).count();
        assert_eq!((rows.len(), bears_source), (2, 0), "nobody takes it for an item of the migration");
        assert_eq!(space.clear().await.unwrap(), 1);
        assert_eq!(table.scan(Table::Data, &Scan::share(0, 1)).await.unwrap().items, [beside]);
    }
}
