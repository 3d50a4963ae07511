//! What every [`TargetStore`] must do, one check each; [`target_contract!`](crate::target_contract) makes
//! tests of them for one implementation.
//!
//! Each check begins without tables, under names that no other check uses.
#![expect(clippy::unwrap_used, reason = "a test ends at the first surprise")]

mod reads;
mod tables;
mod writes;

use std::any::Any;
use std::sync::Arc;

pub use reads::*;
pub use tables::*;
pub use writes::*;

use crate::error::{Error, ErrorKind};
use crate::plan::TargetPlan;
use crate::target::store::{Query, Scan};
use crate::target::{Condition, Outcome, Table, TargetStore, Write};
use crate::value::{Item, Key, Value};

/// A store under test, and what must live as long as it does.
pub struct Subject {
    /// The store. It has no tables yet.
    pub store: Arc<dyn TargetStore>,
    /// The plan it was made with.
    pub plan: TargetPlan,
    /// Dropped after the test: a server, say.
    pub guard: Box<dyn Any + Send + Sync>,
}

/// A plan with everything that a table can have.
///
/// # Panics
/// Never: it is a constant.
#[must_use]
pub fn plan(table: &str) -> TargetPlan {
    let text = format!(
        "table = '{table}'\nregion = 'eu-west-2'\npartition_key = 'PK'\nsort_key = 'SK'\nttl = 'ttl'\n\
         stream = 'NEW_AND_OLD_IMAGES'\n\
         [[index]]\nname = 'GSI1'\npartition_key = 'gsi1pk'\nsort_key = 'gsi1sk'\n\
         [[index]]\nname = 'GSI2'\npartition_key = 'gsi2pk'\nsort_key = 'gsi2sk'\n"
    );
    toml::from_str(&text).expect("invariant: a valid plan")
}

impl Subject {
    /// A store that needs nothing else.
    pub fn new(store: Arc<dyn TargetStore>, plan: TargetPlan) -> Self {
        Self { store, plan, guard: Box::new(()) }
    }

    async fn provisioned(&self) -> &dyn TargetStore {
        self.store.provision(&self.plan, false, false).await.expect("tables");
        &*self.store
    }
}

fn item(partition: &str, sort: &str, attributes: &[(&str, Value)]) -> Item {
    let mut item: Item = attributes.iter().map(|(name, value)| ((*name).to_owned(), value.clone())).collect();
    item.insert("PK".to_owned(), Value::s(partition));
    item.insert("SK".to_owned(), Value::s(sort));
    item
}

fn key_of(item: &Item) -> Key {
    Key::new(item["PK"].as_s().unwrap(), item["SK"].as_s().unwrap())
}

fn put(item: Item, condition: Condition) -> Write {
    Write::Put { table: Table::Data, item, condition }
}

async fn store_item(store: &dyn TargetStore, item: &Item) {
    let outcome = store.transact("store", vec![put(item.clone(), Condition::Always)]).await;
    assert_eq!(outcome.expect("an answer"), Outcome::Applied, "{}", key_of(item));
}

async fn stored(store: &dyn TargetStore, partition: &str, sort: &str) -> Option<Item> {
    store.get(Table::Data, &[Key::new(partition, sort)]).await.expect("a read").remove(0)
}

async fn scan_all(store: &dyn TargetStore, segments: u32) -> Vec<Item> {
    let mut items = Vec::new();
    for segment in 0..segments {
        let mut scan = Scan::share(segment, segments);
        loop {
            let page = store.scan(Table::Data, &scan).await.expect("a page");
            items.extend(page.items);
            scan.after = page.next;
            if scan.after.is_none() {
                break;
            }
        }
    }
    items
}

async fn query_all(store: &dyn TargetStore, table: Table, mut query: Query) -> Vec<Item> {
    let mut items = Vec::new();
    loop {
        let page = store.query(table, &query).await.expect("a page");
        if let Some(limit) = query.limit {
            assert!(page.items.len() <= limit as usize, "a page is longer than its limit");
        }
        items.extend(page.items);
        query.after = page.next;
        if query.after.is_none() {
            return items;
        }
    }
}

fn number(text: &str) -> Value {
    Value::N(text.parse().expect("a number"))
}

fn kind<T: std::fmt::Debug>(result: Result<T, Error>) -> ErrorKind {
    result.expect_err("an error").kind()
}

/// Makes a test of each check. `make` is an async function from the name of a check to a [`Subject`];
/// with `together`, all checks are one test, for a server that takes long to start: `make` is then
/// called with what `start` returned, too.
#[macro_export]
macro_rules! target_contract {
    ($make:path) => {
        $crate::target_contract!(@checks each $make);
    };
    (together $start:path, $make:path) => {
        $crate::target_contract!(@checks together $start, $make);
    };
    (@checks $($how:tt)*) => {
        $crate::target_contract!(@make [
            values_survive,
            numbers_are_decimals,
            many_keys_are_read_in_order,
            queries_are_sorted_by_bytes,
            scans_cover_everything_once,
            conditions_mean_the_same,
            an_attribute_is_set_where_the_item_is_as_it_was_read,
            transactions_are_all_or_nothing,
            a_token_makes_repetition_harmless,
            transactions_have_limits,
            one_of_many_writers_wins,
            inserts_create_only_what_is_absent,
            large_batches_are_cut,
            items_have_a_limit,
            keys_have_limits,
            indexes_are_read,
            provisioning_is_repeatable,
            other_keys_are_not_touched,
            a_scan_brings_only_what_it_asks_for,
            a_missing_table_is_named,
        ] $($how)*);
    };
    (@make [$($check:ident,)*] each $make:path) => {
        $(
            #[tokio::test]
            async fn $check() {
                $crate::testing::target_contract::$check(&$make(stringify!($check)).await).await;
            }
        )*
    };
    (@make [$($check:ident,)*] together $start:path, $make:path) => {
        #[tokio::test]
        async fn holds() {
            let server = $start().await;
            $(
                println!("check {}", stringify!($check));
                $crate::testing::target_contract::$check(&$make(&server, stringify!($check)).await).await;
            )*
        }
    };
}
