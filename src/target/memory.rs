//! The target in memory, for unit and property tests.
//!
//! It is stricter than the engines: it checks every limit of the service, cuts pages short, and ends a
//! full page with a continuation key even where nothing follows. Faults are scripted per operation.
//! It must never be lenient where DynamoDB is not.

mod faults;

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::ops::Bound;
use std::sync::{Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;

pub use faults::{Fault, Operation, Pause};
use faults::{Script, Step};

use super::layout::Layout;
use super::store::{
    IndexFacts, Outcome, Page, ProvisionResult, Provisioned, Query, Refusal, Scan, Site, Table, TableFacts,
    TargetStore, Write,
};
use crate::digest::Digest;
use crate::error::{Error, ErrorKind, Result};
use crate::plan::{IndexPlan, TargetPlan};
use crate::value::{Item, Key, Value, item_bytes};

/// A page of the service ends at 1 MB; here it ends much earlier, so that paging is exercised.
const PAGE_ITEMS_MAX: usize = 50;
const PAGE_BYTES_MAX: usize = 1 << 20;

/// Both tables in memory.
#[derive(Debug)]
pub struct MemoryTarget {
    layout: Layout,
    state: Mutex<State>,
    script: Script,
}

#[derive(Debug, Default)]
struct State {
    tables: BTreeMap<Table, Stored>,
    /// Tokens of applied transactions. The service forgets them after ten minutes.
    tokens: HashMap<String, Digest>,
    held: Vec<Request>,
    /// What reads of an index find instead of what it should hold.
    lagging: VecDeque<(String, Vec<Item>)>,
}

#[derive(Debug)]
struct Stored {
    facts: TableFacts,
    rows: BTreeMap<Key, Item>,
}

/// A write that may be applied later than it was sent.
#[derive(Debug, Clone)]
enum Request {
    Transact { token: String, keys: Vec<(Table, Key)>, writes: Vec<Write> },
    Insert { table: Table, keys: Vec<Key>, items: Vec<Item> },
}

impl MemoryTarget {
    /// Both tables, empty, as this plan has them.
    #[must_use]
    pub fn new(plan: TargetPlan) -> Self {
        let target = Self::unprovisioned(plan.clone());
        let mut state = target.lock();
        for table in [Table::Data, Table::Control] {
            let facts = facts(&target.layout, &plan, table, true);
            state.tables.insert(table, Stored { facts, rows: BTreeMap::new() });
        }
        drop(state);
        target
    }

    /// Has the next reads of an index find these instead of what it should hold, in turn; the last for good.
    pub fn lag(&self, index: &str, views: impl IntoIterator<Item = Vec<Item>>) {
        self.lock().lagging.extend(views.into_iter().map(|view| (index.to_owned(), view)));
    }

    /// No table at all: [`TargetStore::provision`] makes them.
    #[must_use]
    pub fn unprovisioned(plan: TargetPlan) -> Self {
        Self { layout: Layout::new(plan), state: Mutex::default(), script: Script::default() }
    }

    /// Lets the next call of this operation that is not yet spoken for meet this fault.
    pub fn fault(&self, operation: Operation, fault: Fault) {
        self.script.push(operation, Step::Fault(fault));
    }

    /// Lets so many next calls of this operation that are not yet spoken for meet nothing.
    pub fn spare(&self, operation: Operation, calls: usize) {
        (0..calls).for_each(|_| self.script.push(operation, Step::Spare));
    }

    /// Stops the next call of this operation before it has any effect, until the pause is released.
    #[must_use]
    pub fn pause(&self, operation: Operation) -> Pause {
        let (pause, step) = Pause::new();
        self.script.push(operation, step);
        pause
    }

    /// Forgets the faults and pauses that no call has met yet.
    pub fn clear_faults(&self) {
        self.script.clear();
    }

    /// Lets every call fail with this kind, having no effect, until this is called with none.
    pub fn outage(&self, kind: Option<ErrorKind>) {
        self.script.set_outage(kind);
    }

    /// Applies the writes that were held, in the order in which they were sent, if their conditions hold
    /// now. Says what became of each.
    pub fn release_held(&self) -> Vec<Result<Outcome>> {
        let mut state = self.lock();
        let held = std::mem::take(&mut state.held);
        held.into_iter()
            .map(|request| match request {
                Request::Transact { token, keys, writes } => state.transact(&token, &keys, writes),
                Request::Insert { table, keys, items } => {
                    state.insert(table, keys, items).map(|_| Outcome::Applied)
                }
            })
            .collect()
    }

    /// How often an operation was called.
    pub fn calls(&self, operation: Operation) -> u64 {
        self.script.calls(operation)
    }

    /// Forgets the tokens of applied transactions, as the service does after ten minutes.
    pub fn forget_tokens(&self) {
        self.lock().tokens.clear();
    }

    /// Everything a table holds, by key.
    ///
    /// # Panics
    /// Never; a missing table is empty.
    pub fn contents(&self, table: Table) -> BTreeMap<Key, Item> {
        self.lock().tables.get(&table).map(|stored| stored.rows.clone()).unwrap_or_default()
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Sends a write through the script of faults.
    async fn write<T>(
        &self,
        operation: Operation,
        request: Request,
        apply: impl FnOnce(&mut State, Request) -> Result<T> + Send,
    ) -> Result<T> {
        match self.script.next(operation).await? {
            None => apply(&mut self.lock(), request),
            Some(Fault::Refused(kind)) => Err(refused(kind, operation)),
            Some(Fault::AppliedThenLost) => {
                apply(&mut self.lock(), request)?;
                Err(unknown(operation).message("the reply was lost"))
            }
            Some(Fault::Held) => {
                self.lock().held.push(request);
                Err(unknown(operation).message("no reply in time"))
            }
        }
    }

    /// Sends a read through the script of faults.
    async fn read<T>(
        &self,
        operation: Operation,
        read: impl FnOnce(&mut State) -> Result<T> + Send,
    ) -> Result<T> {
        match self.script.next(operation).await? {
            None => read(&mut self.lock()),
            Some(Fault::Refused(kind)) => Err(refused(kind, operation)),
            Some(Fault::AppliedThenLost | Fault::Held) => {
                Err(refused(ErrorKind::NotApplied, operation).message("the reply was lost"))
            }
        }
    }
}

fn refused(kind: ErrorKind, operation: Operation) -> Error {
    Error::new(kind, operation.name())
}

fn unknown(operation: Operation) -> Error {
    Error::new(ErrorKind::OutcomeUnknown, operation.name())
}

impl State {
    fn rows(&self, table: Table) -> Result<&BTreeMap<Key, Item>> {
        self.tables.get(&table).map(|stored| &stored.rows).ok_or_else(|| missing(table))
    }

    fn rows_mut(&mut self, table: Table) -> Result<&mut BTreeMap<Key, Item>> {
        self.tables.get_mut(&table).map(|stored| &mut stored.rows).ok_or_else(|| missing(table))
    }

    fn transact(&mut self, token: &str, keys: &[(Table, Key)], writes: Vec<Write>) -> Result<Outcome> {
        // A single write is a plain conditional one, which has no token.
        let plain = matches!(writes[..], [Write::Put { .. } | Write::Delete { .. }]);
        let digest = (!plain).then(|| Digest::of(format!("{writes:?}")));
        if let (Some(digest), Some(applied)) = (digest, self.tokens.get(token)) {
            return if digest == *applied {
                Ok(Outcome::Applied)
            } else {
                Err(Error::new(ErrorKind::Internal, "write transaction")
                    .key(token)
                    .message("the token was used for another request"))
            };
        }
        let mut refusals = Vec::new();
        for (action, ((table, key), write)) in keys.iter().zip(&writes).enumerate() {
            let found = self.rows(*table)?.get(key);
            if !write.condition().holds(found) {
                refusals.push(Refusal { action, found: found.cloned() });
            } else if matches!(write, Write::Set { .. }) && found.is_none() {
                return Err(Error::new(ErrorKind::Internal, "write transaction")
                    .key(key)
                    .message("an attribute is set of an item that is not there"));
            }
        }
        if !refusals.is_empty() {
            return Ok(Outcome::Refused(refusals));
        }
        for ((table, key), write) in keys.iter().zip(writes) {
            let rows = self.rows_mut(*table)?;
            match write {
                Write::Put { item, .. } => {
                    rows.insert(key.clone(), item);
                }
                Write::Set { name, value, .. } => {
                    let Some(item) = rows.get_mut(key) else { continue };
                    match value {
                        Some(value) => item.insert(name, value),
                        None => item.remove(&name),
                    };
                }
                Write::Delete { .. } => {
                    rows.remove(key);
                }
                Write::Check { .. } => {}
            }
        }
        if let Some(digest) = digest {
            self.tokens.insert(token.to_owned(), digest);
        }
        Ok(Outcome::Applied)
    }

    fn insert(&mut self, table: Table, keys: Vec<Key>, items: Vec<Item>) -> Result<Vec<bool>> {
        let rows = self.rows_mut(table)?;
        let created = keys.into_iter().zip(items).map(|(key, item)| {
            let absent = !rows.contains_key(&key);
            if absent {
                rows.insert(key, item);
            }
            absent
        });
        Ok(created.collect())
    }

    /// The first of these rows, cut into a page.
    fn page<'rows>(rows: impl Iterator<Item = (&'rows Key, &'rows Item)>, limit: Option<u32>) -> Page {
        let limit = limit.and_then(|limit| usize::try_from(limit).ok()).unwrap_or(usize::MAX);
        let mut page = Page::default();
        let mut bytes = 0;
        for (key, item) in rows {
            page.items.push(item.clone());
            bytes += item_bytes(item);
            if page.items.len() >= limit.min(PAGE_ITEMS_MAX) || bytes >= PAGE_BYTES_MAX {
                page.next = Some(key.clone());
                break;
            }
        }
        page
    }
}

fn missing(table: Table) -> Error {
    Error::new(ErrorKind::NotFound, "use table")
        .key(format_args!("{table:?}"))
        .hint("run `migrate provision` first")
}

/// What the memory store says of a table that was made from this plan.
fn facts(layout: &Layout, plan: &TargetPlan, table: Table, with_stream: bool) -> TableFacts {
    let (partition, sort) = layout.key_names(table);
    let data = table == Table::Data;
    let indexes = layout.indexes(table);
    let index_keys = indexes.iter().flat_map(|index| [&index.partition_key, &index.sort_key]);
    let stream = plan.stream.filter(|_| data && with_stream);
    TableFacts {
        name: layout.table_name(table).to_owned(),
        arn: None,
        active: true,
        keys: (partition.to_owned(), Some(sort.to_owned())),
        indexes: indexes
            .iter()
            .map(|index| IndexFacts {
                name: index.name.clone(),
                partition_key: index.partition_key.clone(),
                sort_key: Some(index.sort_key.clone()),
                active: true,
                projects_all: true,
            })
            .collect(),
        attribute_types: [partition, sort]
            .into_iter()
            .chain(index_keys.map(String::as_str))
            .map(|name| (name.to_owned(), "S".to_owned()))
            .collect(),
        on_demand: true,
        ttl: plan.ttl.clone().filter(|_| data),
        stream: stream.map(|view| view.name().to_owned()),
        point_in_time_recovery: None,
        deletion_protection: Some(plan.deletion_protection),
    }
}

#[async_trait]
impl TargetStore for MemoryTarget {
    fn site(&self) -> Site {
        Site::Local
    }

    fn requests(&self) -> u64 {
        self.script.all_calls()
    }

    async fn get(&self, table: Table, keys: &[Key]) -> Result<Vec<Option<Item>>> {
        for key in keys {
            self.layout.check_key(table, key)?;
        }
        self.read(Operation::Get, |state| {
            let rows = state.rows(table)?;
            Ok(keys.iter().map(|key| rows.get(key).cloned()).collect())
        })
        .await
    }

    async fn query(&self, table: Table, query: &Query) -> Result<Page> {
        self.read(Operation::Query, |state| {
            let first = Key::new(&query.partition, &query.sort_prefix);
            let asked = |(key, _): &(&Key, &Item)| {
                key.partition == query.partition && key.sort.starts_with(&query.sort_prefix)
            };
            let rows = state.rows(table)?.range(first..).take_while(asked);
            let after = query.after.as_ref();
            Ok(if query.descending {
                let rows: Vec<_> = rows.filter(|(key, _)| after.is_none_or(|after| *key < after)).collect();
                State::page(rows.into_iter().rev(), query.limit)
            } else {
                State::page(rows.filter(|(key, _)| after.is_none_or(|after| *key > after)), query.limit)
            })
        })
        .await
    }

    async fn scan(&self, table: Table, scan: &Scan) -> Result<Page> {
        self.read(Operation::Scan, |state| {
            let from = scan.after.as_ref().map_or(Bound::Unbounded, Bound::Excluded);
            let rows = state.rows(table)?.range((from, Bound::Unbounded)).filter(|(key, _)| {
                let first = Digest::of(&key.partition).as_bytes()[0];
                u32::from(first) % scan.segments.max(1) == scan.segment
            });
            let mut page = State::page(rows, None);
            for item in page.items.iter_mut().filter(|_| !scan.only.is_empty()) {
                item.retain(|name, _| scan.only.contains(name));
            }
            Ok(page)
        })
        .await
    }

    async fn transact(&self, token: &str, writes: Vec<Write>) -> Result<Outcome> {
        let keys = self.layout.check_transaction(token, &writes)?;
        let request = Request::Transact { token: token.to_owned(), keys, writes };
        self.write(Operation::Transact, request, |state, request| match request {
            Request::Transact { token, keys, writes } => state.transact(&token, &keys, writes),
            Request::Insert { .. } => unreachable!("invariant: the request made above"),
        })
        .await
    }

    async fn insert(&self, table: Table, items: Vec<Item>) -> Result<Vec<bool>> {
        let keys = self.layout.check_insert(table, &items)?;
        let request = Request::Insert { table, keys, items };
        self.write(Operation::Insert, request, |state, request| match request {
            Request::Insert { table, keys, items } => state.insert(table, keys, items),
            Request::Transact { .. } => unreachable!("invariant: the request made above"),
        })
        .await
    }

    async fn read_index(
        &self,
        index: &IndexPlan,
        at: Option<(&str, &str)>,
        each: &mut (dyn FnMut(Item) + Send),
    ) -> Result<()> {
        let (partition, sort) = (&index.partition_key, &index.sort_key);
        let keys = self.layout.key_names(Table::Data);
        let names = [keys.0, keys.1, partition, sort];
        let found: Vec<Item> = self
            .read(Operation::ReadIndex, |state| {
                let stored = state.tables.get(&Table::Data).ok_or_else(|| missing(Table::Data))?;
                if stored.facts.indexes.iter().all(|facts| facts.name != index.name) {
                    return Err(Error::new(ErrorKind::NotFound, "read index")
                        .key(&index.name)
                        .message("no such index"));
                }
                let text = |item: &Item, name: &str| item.get(name).and_then(Value::as_s).map(str::to_owned);
                let asked = |item: &&Item| match (text(item, partition), text(item, sort)) {
                    (Some(partition), Some(sort)) => at.is_none_or(|at| at == (&*partition, &*sort)),
                    _ => false,
                };
                let keys = |item: &Item| {
                    let named = item.iter().filter(|(name, _)| names.contains(&name.as_str()));
                    named.map(|(name, value)| (name.clone(), value.clone())).collect()
                };
                let lagging = state.lagging.front().filter(|(name, _)| *name == index.name);
                let Some((_, view)) = lagging.cloned() else {
                    return Ok(stored.rows.values().filter(asked).map(keys).collect());
                };
                if state.lagging.len() > 1 {
                    state.lagging.pop_front();
                }
                Ok(view.iter().filter(asked).map(keys).collect())
            })
            .await?;
        found.into_iter().for_each(each);
        Ok(())
    }

    async fn describe(&self, table: Table) -> Result<Option<TableFacts>> {
        self.read(Operation::Describe, |state| {
            Ok(state.tables.get(&table).map(|stored| stored.facts.clone()))
        })
        .await
    }

    async fn provision(
        &self,
        plan: &TargetPlan,
        with_stream: bool,
        dry_run: bool,
    ) -> Result<Vec<Provisioned>> {
        self.read(Operation::Provision, |_| Ok(())).await?;
        let layout = Layout::new(plan.clone());
        let mut state = self.lock();
        let mut steps = Vec::new();
        for table in [Table::Data, Table::Control] {
            let planned = facts(&layout, plan, table, with_stream);
            let what = format!("table {}", planned.name);
            let result = match state.tables.get(&table) {
                None => ProvisionResult::Created,
                Some(stored) if stored.facts.keys != planned.keys => {
                    return Err(Error::new(ErrorKind::Usage, "provision table").key(&planned.name).message(
                        format!(
                            "its keys are {:?}, and the plan's are {:?}",
                            stored.facts.keys, planned.keys
                        ),
                    ));
                }
                Some(stored) if stored.facts.indexes != planned.indexes => {
                    ProvisionResult::Differs("the indexes are not the plan's".to_owned())
                }
                Some(_) => ProvisionResult::Present,
            };
            if result == ProvisionResult::Created && !dry_run {
                state.tables.insert(table, Stored { facts: planned, rows: BTreeMap::new() });
            }
            steps.push(Provisioned { what, result });
        }
        Ok(steps)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::target::Condition;
    use crate::value::Value;

    fn target() -> MemoryTarget {
        let plan = toml::from_str("table = 't'\npartition_key = 'PK'\nsort_key = 'SK'").expect("a plan");
        MemoryTarget::new(plan)
    }

    fn item(sort: &str, rev: &str) -> Item {
        [("PK", "p"), ("SK", sort), ("rev", rev)].map(|(name, text)| (name.to_owned(), Value::s(text))).into()
    }

    fn put(rev: &str, condition: Condition) -> Vec<Write> {
        vec![Write::Put { table: Table::Data, item: item("s", rev), condition }]
    }

    #[tokio::test]
    async fn a_lost_reply_leaves_the_write_behind() {
        let target = target();
        target.fault(Operation::Transact, Fault::AppliedThenLost);
        let error = target.transact("1", put("1", Condition::Absent)).await.expect_err("the reply is lost");
        assert_eq!(error.kind(), ErrorKind::OutcomeUnknown);
        let again = target.transact("1", put("1", Condition::Absent)).await.expect("an answer");
        let found = Some(item("s", "1"));
        assert_eq!(again, Outcome::Refused(vec![Refusal { action: 0, found }]));
    }

    #[tokio::test]
    async fn a_held_write_lands_late_and_only_where_its_condition_holds_then() {
        let target = target();
        let seen_first = || Condition::equals(["rev"], Value::s("1"));
        target.transact("1", put("1", Condition::Absent)).await.expect("applied");
        for _ in 0..2 {
            target.fault(Operation::Transact, Fault::Held);
        }
        target.transact("2", put("2", seen_first())).await.expect_err("held");
        target.transact("3", put("3", seen_first())).await.expect_err("held");
        assert_eq!(target.contents(Table::Data).into_values().collect::<Vec<_>>(), [item("s", "1")]);

        let landed = target.release_held();
        assert!(matches!(landed[..], [Ok(Outcome::Applied), Ok(Outcome::Refused(_))]), "{landed:?}");
        assert_eq!(target.contents(Table::Data).into_values().collect::<Vec<_>>(), [item("s", "2")]);
    }

    #[tokio::test]
    async fn a_paused_call_has_no_effect_until_released() {
        let target = std::sync::Arc::new(target());
        let mut pause = target.pause(Operation::Transact);
        let writer = tokio::spawn({
            let target = target.clone();
            async move { target.transact("1", put("1", Condition::Absent)).await }
        });
        pause.arrived().await;
        assert!(target.contents(Table::Data).is_empty());
        pause.release();
        assert_eq!(writer.await.expect("no panic").expect("an answer"), Outcome::Applied);
        assert_eq!(target.calls(Operation::Transact), 1);
    }
}
