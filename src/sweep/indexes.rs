//! Whether each index returns the items it must: all that have both of its keys, under these keys, and no others.
//!
//! An index follows its table a moment later, and cannot be read consistently. So what differs is asked for singly, of
//! table and index, until both say the same or patience is over.

use std::sync::Arc;
use std::time::Duration;

use rusqlite::params;
use serde::Serialize;
use tokio_util::sync::CancellationToken;

use super::run::interrupted;
use crate::clock::Clock;
use crate::converge::SOURCE;
use crate::error::Result;
use crate::plan::{IndexPlan, TargetPlan};
use crate::scratch::Scratch;
use crate::target::store::Scan;
use crate::target::{Table, TargetStore};
use crate::value::{Item, Key, Value};

/// How often an item is looked at whose index does not say what the table does.
const LOOKS: u32 = 6;
/// How many keys are named in a report.
const NAMED_MAX: usize = 5;
/// How many rows are read back at a time.
const PAGE: u32 = 500;

/// What was found of one index.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct IndexReport {
    /// Its name.
    pub index: String,
    /// Items of the table that have both of its keys.
    pub expected: u64,
    /// Entries of it.
    pub entries: u64,
    /// Items of this migration that have one of its keys only: no index has such an item.
    pub half: u64,
    /// Items that it does not return, or not as they are.
    pub missing: u64,
    /// Entries of items that are not there, or have other keys.
    pub extra: u64,
    /// The first keys of those.
    pub named: Vec<String>,
}

impl IndexReport {
    /// Why it is not complete, a line each.
    #[must_use]
    pub fn obstacles(&self) -> Vec<String> {
        let Self { index, half, missing, extra, named, .. } = self;
        let found = [
            (*missing, "items are not in it, or not as they are"),
            (*extra, "of its entries are of items that are not there"),
            (*half, "items have one of its keys only"),
        ];
        let named = if named.is_empty() { String::new() } else { format!(": {}", named.join("; ")) };
        let lines = found.iter().filter(|(count, _)| *count > 0);
        lines.map(|(count, what)| format!("{index}: {count} {what}{named}")).collect()
    }
}

/// Compares the data table with each of its indexes. Reads all of them once.
///
/// # Errors
/// `Interrupted`; what the store reports.
pub async fn check(
    store: &Arc<dyn TargetStore>,
    target: &TargetPlan,
    (clock, patience): (&dyn Clock, Duration),
    cancel: &CancellationToken,
) -> Result<Vec<IndexReport>> {
    if target.indexes.is_empty() {
        return Ok(Vec::new());
    }
    let notes = Notes::new()?;
    let mut reports: Vec<IndexReport> = target
        .indexes
        .iter()
        .map(|index| IndexReport { index: index.name.clone(), ..IndexReport::default() })
        .collect();
    let keys = target.indexes.iter().flat_map(|index| [index.partition_key.as_str(), &index.sort_key]);
    let mut only: Vec<String> = [&target.partition_key, &target.sort_key, SOURCE]
        .into_iter()
        .chain(keys)
        .map(str::to_owned)
        .collect();
    only.sort_unstable();
    only.dedup();
    let mut scan = Scan { only, ..Scan::share(0, 1) };
    loop {
        interrupted(cancel)?;
        let page = store.scan(Table::Data, &scan).await?;
        for (number, index) in target.indexes.iter().enumerate() {
            let mut whole = Vec::new();
            for item in &page.items {
                match entry(index, item) {
                    Entry::Whole(place) => whole.push((key(target, item), place)),
                    // What the application makes itself is its own business.
                    Entry::Half => reports[number].half += u64::from(item.contains_key(SOURCE)),
                    Entry::None => {}
                }
            }
            reports[number].expected += whole.len() as u64;
            notes.count(number, whole.iter().map(|(key, place)| (key, place)), 1)?;
        }
        scan.after = page.next;
        if scan.after.is_none() {
            break;
        }
    }
    for (number, index) in target.indexes.iter().enumerate() {
        interrupted(cancel)?;
        let report = &mut reports[number];
        let mut noted: Result<()> = Ok(());
        let mut each = |item: Item| {
            report.entries += 1;
            if let (Ok(()), Entry::Whole(entry)) = (&noted, entry(index, &item)) {
                noted = notes.count(number, [(&key(target, &item), &entry)], -1);
            }
        };
        store.read_index(index, None, &mut each).await?;
        noted?;
        let look = Look { store, target, index, clock, patience };
        let mut after = Key::new("", "");
        loop {
            let page = notes.odd(number, &after)?;
            let Some(last) = page.last() else { break };
            after = last.clone();
            for key in page {
                interrupted(cancel)?;
                look.at(&key, &notes.places(number, &key)?, report).await?;
            }
        }
    }
    Ok(reports)
}

/// Looks at single items.
struct Look<'a> {
    store: &'a Arc<dyn TargetStore>,
    target: &'a TargetPlan,
    index: &'a IndexPlan,
    clock: &'a dyn Clock,
    patience: Duration,
}

impl Look<'_> {
    /// Looks at an item in the table and in the index, where one of them has it at these places, until both say the
    /// same.
    async fn at(&self, key: &Key, seen: &[Place], report: &mut IndexReport) -> Result<()> {
        let (mut missing, mut extra) = (false, false);
        for look in 1..=LOOKS {
            let item = self.store.get(Table::Data, std::slice::from_ref(key)).await?.pop().flatten();
            let held = item.as_ref().and_then(|item| match entry(self.index, item) {
                Entry::Whole(place) => Some(place),
                Entry::Half | Entry::None => None,
            });
            missing = match &held {
                Some(place) => !self.is_in_the_index(key, place).await?,
                None => false,
            };
            extra = false;
            for place in seen.iter().filter(|place| held.as_ref() != Some(place)) {
                extra |= self.is_in_the_index(key, place).await?;
            }
            if !missing && !extra {
                return Ok(());
            }
            if look < LOOKS {
                self.clock.sleep(self.patience * look).await;
            }
        }
        report.missing += u64::from(missing);
        report.extra += u64::from(extra);
        if report.named.len() < NAMED_MAX {
            report.named.push(key.to_string());
        }
        Ok(())
    }

    async fn is_in_the_index(&self, wanted: &Key, (partition, sort): &Place) -> Result<bool> {
        let mut found = false;
        let mut each = |item: Item| found |= key(self.target, &item) == *wanted;
        self.store.read_index(self.index, Some((partition, sort)), &mut each).await?;
        Ok(found)
    }
}

/// The keys of an item in an index.
type Place = (String, String);

/// How an item stands to an index.
enum Entry {
    Whole(Place),
    Half,
    None,
}

fn entry(index: &IndexPlan, item: &Item) -> Entry {
    let text = |name: &str| item.get(name).and_then(Value::as_s).map(str::to_owned);
    match (text(&index.partition_key), text(&index.sort_key)) {
        (Some(partition), Some(sort)) => Entry::Whole((partition, sort)),
        (None, None) => Entry::None,
        (Some(_), None) | (None, Some(_)) => Entry::Half,
    }
}

fn key(target: &TargetPlan, item: &Item) -> Key {
    Key::of(item, (&target.partition_key, &target.sort_key))
}

/// What table and index hold, on disk: one more for the table, one less for the index.
struct Notes(Scratch);

impl Notes {
    fn new() -> Result<Self> {
        let notes = Scratch::new(
            "keep notes of the indexes in a temporary file",
            "CREATE TABLE entries (number INTEGER, pk TEXT, sk TEXT, partition TEXT, sort TEXT, balance INTEGER,
                                   UNIQUE (number, pk, sk, partition, sort));",
        )?;
        Ok(Self(notes))
    }

    fn count<'a>(
        &self,
        number: usize,
        entries: impl IntoIterator<Item = (&'a Key, &'a Place)>,
        by: i64,
    ) -> Result<()> {
        self.0.all(entries, |connection, (key, (partition, sort))| {
            let mut count = connection.prepare_cached(
                "INSERT INTO entries VALUES (?, ?, ?, ?, ?, ?)
                 ON CONFLICT DO UPDATE SET balance = balance + excluded.balance",
            )?;
            count.execute(params![number, key.partition, key.sort, partition, sort, by]).map(drop)
        })
    }

    /// The next items after a key that only one of them has, at some place.
    fn odd(&self, number: usize, after: &Key) -> Result<Vec<Key>> {
        self.0.with(|connection| {
            let mut find = connection.prepare_cached(
                "SELECT DISTINCT pk, sk FROM entries
                 WHERE number = ? AND balance <> 0 AND (pk, sk) > (?, ?) ORDER BY pk, sk LIMIT ?",
            )?;
            let rows = find.query_map(params![number, after.partition, after.sort, PAGE], |row| {
                Ok(Key { partition: row.get(0)?, sort: row.get(1)? })
            })?;
            rows.collect()
        })
    }

    /// Where they have an item.
    fn places(&self, number: usize, key: &Key) -> Result<Vec<Place>> {
        self.0.with(|connection| {
            let mut find = connection.prepare_cached(
                "SELECT partition, sort FROM entries WHERE number = ? AND pk = ? AND sk = ?",
            )?;
            let rows = find
                .query_map(params![number, key.partition, key.sort], |row| Ok((row.get(0)?, row.get(1)?)))?;
            rows.collect()
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::SystemClock;
    use crate::target::memory::MemoryTarget;

    fn plan() -> TargetPlan {
        let text = "table = 't'\npartition_key = 'PK'\nsort_key = 'SK'\n[[index]]\nname = 'GSI1'\n\
                    partition_key = 'g'\nsort_key = 'h'\n[[index]]\nname = 'GSI2'\npartition_key = 'i'\nsort_key = 'j'";
        toml::from_str(text).expect("a plan")
    }

    fn item(attributes: &[(&str, &str)]) -> Item {
        attributes.iter().map(|(name, text)| ((*name).to_owned(), Value::s(*text))).collect()
    }

    async fn checked(items: &[Item], index: Vec<Vec<Item>>) -> Vec<IndexReport> {
        let table = MemoryTarget::new(plan());
        table.insert(Table::Data, items.to_vec()).await.unwrap();
        table.lag("GSI1", index);
        let store: Arc<dyn TargetStore> = Arc::new(table);
        let clock = SystemClock::new();
        let how = (&clock as &dyn Clock, Duration::from_millis(1));
        check(&store, &plan(), how, &CancellationToken::new()).await.unwrap()
    }

    fn row(sort: &str, place: (&str, &str)) -> Item {
        item(&[("PK", "p"), ("SK", sort), ("g", place.0), ("h", place.1)])
    }

    #[tokio::test]
    async fn an_index_is_complete_when_it_holds_the_keys_that_the_table_has() {
        let both = [row("1", ("a", "1")), row("2", ("a", "2"))];
        let other = [
            item(&[("PK", "p"), ("SK", "3")]),
            item(&[("PK", "p"), ("SK", "4"), ("i", "half"), (SOURCE, "")]),
            item(&[("PK", "p"), ("SK", "5"), ("i", "half")]),
        ];
        let all = [&both[..], &other[..]].concat();
        let reports = checked(&all, Vec::new()).await;
        let [first, second] = &reports[..] else { panic!("two indexes") };
        assert_eq!((first.expected, first.entries, first.obstacles()), (2, 2, Vec::new()));
        // GSI2 is planned, and the table has no item for it but a half one.
        assert_eq!(second.obstacles(), ["GSI2: 1 items have one of its keys only"]);

        // One that is behind is no fault, one that stays so is.
        let behind = vec![both[..1].to_vec(), both[..1].to_vec(), both.to_vec()];
        assert_eq!(checked(&all, behind).await[0].obstacles(), [""; 0]);
        let found = checked(&all, vec![both[..1].to_vec()]).await;
        assert_eq!(found[0].obstacles(), ["GSI1: 1 items are not in it, or not as they are: p / 2"]);
        let stale = [row("1", ("a", "1")), row("2", ("a", "9"))];
        let found = checked(&all, vec![stale.to_vec()]).await;
        assert_eq!((found[0].missing, found[0].extra), (1, 1), "{found:?}");
        let gone = [&both[..], &[row("7", ("a", "7"))]].concat();
        let found = checked(&all, vec![gone]).await;
        assert_eq!(found[0].obstacles(), ["GSI1: 1 of its entries are of items that are not there: p / 7"]);
    }
}
