//! What a check has seen, on disk, so that memory does not grow with the store.

use rusqlite::{Connection, Row, params};
use unicode_normalization::UnicodeNormalization as _;

use super::price::{self, PARTITION_UNITS_PER_SECOND, TABLE_UNITS_PER_SECOND, TRANSACTION_FACTOR};
use super::report::{Collision, EntityReport, HotKey, IndexReport, SIZES, TwinKind, Twins};
use crate::blob::Pathname;
use crate::error::Result;
use crate::mapping::{BlobFacts, EntityId, MappedItem, source_bytes};
use crate::plan::{IndexPlan, Plan};
use crate::scratch::Scratch;
use crate::value::{Key, Value, item_bytes};

/// How many collisions, hot keys and twins a report shows.
const EXAMPLES_MAX: u32 = 20;
/// How many blobs of one collision, and names of one set of twins, it shows.
const NAMES_MAX: u32 = 5;

/// Blobs are numbered in the order of their names; `at` is when they were stored, in milliseconds. So a group's
/// item is that of the member with the largest (at, blob). `value` is null in an index that lacks an input.
const TABLES: &str = "
CREATE TABLE blobs (number INTEGER PRIMARY KEY, pathname TEXT);
CREATE TABLE items (id INTEGER PRIMARY KEY, blob INTEGER, at INTEGER, entity INTEGER, pk TEXT, sk TEXT,
                    grouped INTEGER, bytes INTEGER, units INTEGER, lost INTEGER DEFAULT 0,
                    collides INTEGER DEFAULT 0);
CREATE TABLE entries (item INTEGER, place INTEGER, value TEXT, units INTEGER);
CREATE TABLE names (kind INTEGER, form TEXT, name TEXT, PRIMARY KEY (kind, form, name)) WITHOUT ROWID;
BEGIN;";

/// Which items are not written.
const JUDGE: &str = "
CREATE INDEX keys ON items (pk, sk, at, blob, grouped);
UPDATE items SET lost = 1 WHERE grouped AND EXISTS (
    SELECT 1 FROM items AS other WHERE other.pk = items.pk AND other.sk = items.sk
    AND (other.at, other.blob) > (items.at, items.blob));
CREATE TABLE collisions AS SELECT pk, sk, count(*) AS blobs FROM items
    GROUP BY pk, sk HAVING count(*) > 1 AND min(grouped) = 0;
UPDATE items SET lost = 0, collides = 1 WHERE (pk, sk) IN (SELECT pk, sk FROM collisions);
CREATE VIEW written AS SELECT * FROM items WHERE NOT lost AND NOT collides;
CREATE VIEW fates AS SELECT entity, max(collides) AS colliding, min(lost) AS superseded
    FROM items GROUP BY blob;";

/// The rows of one check.
pub(super) struct Ledger {
    notes: Scratch,
    indexes: Vec<IndexPlan>,
}

/// What the rows say together.
pub(super) struct Summary {
    pub(super) written: u64,
    pub(super) superseded: u64,
    pub(super) colliding: u64,
    pub(super) entities: Vec<EntityReport>,
    pub(super) collision_count: u64,
    pub(super) collisions: Vec<Collision>,
    pub(super) hot_keys: Vec<HotKey>,
    pub(super) twin_count: u64,
    pub(super) twins: Vec<Twins>,
    pub(super) load_units: u64,
}

impl Ledger {
    pub(super) fn new(plan: &Plan) -> Result<Self> {
        let notes = Scratch::new("keep the check's notes in a temporary file", TABLES)?;
        Ok(Self { notes, indexes: plan.target.indexes.clone() })
    }

    /// A pathname was listed.
    pub(super) fn name(&self, pathname: &Pathname) -> Result<()> {
        self.notes.with(|connection| note_form(connection, TwinKind::Pathname, pathname.as_str()))
    }

    /// A blob becomes items. Blobs come in the order of their names.
    pub(super) fn blob(&self, number: u64, facts: BlobFacts<'_>) -> Result<()> {
        self.notes.with(|connection| {
            connection
                .prepare_cached("INSERT INTO blobs VALUES (?, ?)")?
                .execute(params![number, facts.pathname.as_str()])?;
            Ok(())
        })
    }

    /// These are some of the items that a blob becomes.
    pub(super) fn items(
        &self,
        number: u64,
        facts: BlobFacts<'_>,
        entity: EntityId,
        items: &[MappedItem],
    ) -> Result<()> {
        let pathname = facts.pathname.as_str();
        self.notes.with(|connection| {
            for mapped in items {
                let bytes = (item_bytes(&mapped.item) + source_bytes(pathname)) as u64;
                let units = price::units(bytes);
                let key = &mapped.key;
                let grouped = mapped.group.is_some();
                let at = facts.uploaded_at.as_millisecond();
                connection
                    .prepare_cached(
                        "INSERT INTO items (blob, at, entity, pk, sk, grouped, bytes, units)
                         VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
                    )?
                    .execute(params![number, at, entity.0, key.partition, key.sort, grouped, bytes, units])?;
                let item = connection.last_insert_rowid();
                for (place, index) in self.indexes.iter().enumerate() {
                    let value = |name: &String| mapped.item.get(name).and_then(Value::as_s);
                    let both = value(&index.partition_key).filter(|_| value(&index.sort_key).is_some());
                    if both.is_some() || mapped.omitted.contains(&index.name) {
                        connection
                            .prepare_cached("INSERT INTO entries VALUES (?, ?, ?, ?)")?
                            .execute(params![item, place, both, units])?;
                    }
                }
                note_form(connection, TwinKind::Key, &key.to_string())?;
            }
            Ok(())
        })
    }

    /// What all rows say together. Entities are without what is not in here.
    pub(super) fn finish(&self, plan: &Plan) -> Result<Summary> {
        self.notes.with(|connection| {
            connection.execute_batch(JUDGE)?;
            let mut entities: Vec<EntityReport> =
                plan.entities.iter().map(|entity| empty(&entity.name)).collect();
            let (mut written, mut superseded, mut colliding) = (0, 0, 0);
            let mut fates = connection.prepare(
                "SELECT entity, count(*) FILTER (WHERE NOT colliding AND NOT superseded),
                        count(*) FILTER (WHERE NOT colliding AND superseded),
                        count(*) FILTER (WHERE colliding) FROM fates GROUP BY 1",
            )?;
            let mut rows = fates.query([])?;
            while let Some(row) = rows.next()? {
                let lost: u64 = row.get(2)?;
                entities[row.get::<_, usize>(0)?].superseded = lost;
                written += row.get::<_, u64>(1)?;
                superseded += lost;
                colliding += row.get::<_, u64>(3)?;
            }
            drop(rows);
            self.measure(connection, &mut entities)?;
            let load_units = entities.iter().map(|entity| {
                let indexes: u64 = entity.indexes.iter().map(|index| index.units).sum();
                entity.units * TRANSACTION_FACTOR + indexes
            });
            let (collision_count, collisions) = collisions(connection)?;
            let (twin_count, twins) = twins(connection)?;
            Ok(Summary {
                written,
                superseded,
                colliding,
                load_units: load_units.sum(),
                hot_keys: self.hot_keys(connection, plan, &entities)?,
                entities,
                collision_count,
                collisions,
                twin_count,
                twins,
            })
        })
    }

    fn measure(&self, connection: &Connection, entities: &mut [EntityReport]) -> rusqlite::Result<()> {
        let mut items = connection
            .prepare("SELECT entity, count(*), sum(bytes), max(bytes), sum(units) FROM written GROUP BY 1")?;
        let mut rows = items.query([])?;
        while let Some(row) = rows.next()? {
            let entity = &mut entities[row.get::<_, usize>(0)?];
            entity.items = row.get(1)?;
            entity.bytes = row.get(2)?;
            entity.bytes_max = row.get(3)?;
            entity.units = row.get(4)?;
        }
        for (class, bound) in SIZES.into_iter().enumerate() {
            let above = class.checked_sub(1).map_or(0, |below| SIZES[below]);
            let mut sizes = connection.prepare_cached(
                "SELECT entity, count(*) FROM written WHERE bytes > ? AND bytes <= ? GROUP BY 1",
            )?;
            let mut rows = sizes.query([above, bound])?;
            while let Some(row) = rows.next()? {
                entities[row.get::<_, usize>(0)?].sizes[class] = row.get(1)?;
            }
        }
        let mut entries = connection.prepare(
            "SELECT entity, place, count(value), count(*) - count(value),
                    coalesce(sum(entries.units) FILTER (WHERE value IS NOT NULL), 0)
             FROM entries JOIN written ON written.id = item GROUP BY 1, 2 ORDER BY 1, 2",
        )?;
        let mut rows = entries.query([])?;
        while let Some(row) = rows.next()? {
            let name = self.indexes[row.get::<_, usize>(1)?].name.clone();
            let index = IndexReport { name, items: row.get(2)?, omitted: row.get(3)?, units: row.get(4)? };
            entities[row.get::<_, usize>(0)?].indexes.push(index);
        }
        Ok(())
    }

    /// The values of partition keys to which a load at the rate of a new table would write faster than a
    /// partition takes.
    fn hot_keys(
        &self,
        connection: &Connection,
        plan: &Plan,
        entities: &[EntityReport],
    ) -> rusqlite::Result<Vec<HotKey>> {
        let table_units: u64 = entities.iter().map(|entity| entity.units * TRANSACTION_FACTOR).sum();
        let mut hot = Vec::new();
        let mut keep = |index: Option<&IndexPlan>, all: u64, row: &Row<'_>| -> rusqlite::Result<()> {
            let (value, items, units): (String, u64, u64) = (row.get(0)?, row.get(1)?, row.get(2)?);
            let per_second = units.saturating_mul(TABLE_UNITS_PER_SECOND) / table_units.max(1);
            if units <= PARTITION_UNITS_PER_SECOND || per_second <= PARTITION_UNITS_PER_SECOND {
                return Ok(());
            }
            let attribute = index.map_or(&plan.target.partition_key, |index| &index.partition_key);
            hot.push(HotKey {
                index: index.map(|index| index.name.clone()),
                attribute: attribute.clone(),
                value,
                items,
                units,
                share: share(units, all),
                units_per_second: per_second,
                load_seconds_min: units.div_ceil(PARTITION_UNITS_PER_SECOND),
            });
            Ok(())
        };
        let mut keys = connection.prepare(
            "SELECT pk, count(*), sum(units) * ?1 FROM written GROUP BY pk HAVING sum(units) * ?1 > ?2
             ORDER BY 3 DESC, 1 LIMIT ?3",
        )?;
        let mut rows = keys.query(params![TRANSACTION_FACTOR, PARTITION_UNITS_PER_SECOND, EXAMPLES_MAX])?;
        while let Some(row) = rows.next()? {
            keep(None, table_units, row)?;
        }
        for (place, index) in self.indexes.iter().enumerate() {
            let in_index = entities.iter().flat_map(|entity| &entity.indexes);
            let all = in_index.filter(|report| report.name == index.name).map(|report| report.units).sum();
            let mut values = connection.prepare_cached(
                "SELECT value, count(*), sum(entries.units) FROM entries JOIN written ON written.id = item
                 WHERE place = ? AND value IS NOT NULL GROUP BY value HAVING sum(entries.units) > ?
                 ORDER BY 3 DESC, 1 LIMIT ?",
            )?;
            let mut rows = values.query(params![place, PARTITION_UNITS_PER_SECOND, EXAMPLES_MAX])?;
            while let Some(row) = rows.next()? {
                keep(Some(index), all, row)?;
            }
        }
        Ok(hot)
    }
}

fn empty(name: &str) -> EntityReport {
    EntityReport {
        name: name.to_owned(),
        blobs: 0,
        quarantined: 0,
        superseded: 0,
        items: 0,
        bytes: 0,
        bytes_max: 0,
        sizes: [0; SIZES.len()],
        units: 0,
        indexes: Vec::new(),
    }
}

#[expect(clippy::cast_precision_loss, reason = "a share for people")]
fn share(part: u64, all: u64) -> f64 {
    part as f64 / all.max(1) as f64
}

/// The ASCII characters that another one composes to: U+037E, U+212A and U+1FEF do, in this order.
const COMPOSED_ASCII: [char; 3] = [';', 'K', '`'];

/// Keeps a name by its composed form. Most names are ASCII, and are composed: of those, only such as another
/// name can compose to are kept.
fn note_form(connection: &Connection, kind: TwinKind, name: &str) -> rusqlite::Result<()> {
    if name.is_ascii() && !name.contains(COMPOSED_ASCII) {
        return Ok(());
    }
    let form: String = name.nfc().collect();
    let mut insert = connection.prepare_cached("INSERT OR IGNORE INTO names VALUES (?, ?, ?)")?;
    insert.execute(params![kind as u8, form, name]).map(drop)
}

fn collisions(connection: &Connection) -> rusqlite::Result<(u64, Vec<Collision>)> {
    let count = connection.query_row("SELECT count(*) FROM collisions", [], |row| row.get(0))?;
    let mut keys = connection.prepare("SELECT pk, sk, blobs FROM collisions ORDER BY pk, sk LIMIT ?")?;
    let keys = keys.query_map([EXAMPLES_MAX], |row| {
        Ok((Key { partition: row.get(0)?, sort: row.get(1)? }, row.get(2)?))
    })?;
    let mut names = connection.prepare(
        "SELECT pathname FROM items JOIN blobs ON number = blob WHERE pk = ? AND sk = ? ORDER BY blob LIMIT ?",
    )?;
    let mut collisions = Vec::new();
    for row in keys {
        let (key, blobs) = row?;
        let found = names.query_map(params![key.partition, key.sort, NAMES_MAX], |row| {
            row.get::<_, String>(0).map(Pathname::new)
        })?;
        let pathnames = found.collect::<rusqlite::Result<_>>()?;
        collisions.push(Collision { key, blobs, pathnames });
    }
    Ok((count, collisions))
}

fn twins(connection: &Connection) -> rusqlite::Result<(u64, Vec<Twins>)> {
    let sets = "SELECT kind, form FROM names GROUP BY kind, form HAVING count(*) > 1";
    let count = connection.query_row(&format!("SELECT count(*) FROM ({sets})"), [], |row| row.get(0))?;
    let mut forms = connection.prepare(&format!("{sets} ORDER BY kind, form LIMIT ?"))?;
    let forms =
        forms.query_map([EXAMPLES_MAX], |row| Ok((row.get::<_, u8>(0)?, row.get::<_, String>(1)?)))?;
    let mut names =
        connection.prepare("SELECT name FROM names WHERE kind = ? AND form = ? ORDER BY name LIMIT ?")?;
    let mut twins = Vec::new();
    for row in forms {
        let (number, form) = row?;
        let kind = if number == TwinKind::Pathname as u8 { TwinKind::Pathname } else { TwinKind::Key };
        let found = names.query_map(params![number, form, NAMES_MAX], |row| row.get(0))?;
        twins.push(Twins { kind, names: found.collect::<rusqlite::Result<_>>()? });
    }
    Ok((count, twins))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_compose_to_ascii_by_these_characters_alone() {
        let others = ('\u{80}'..=char::MAX)
            .filter(|letter| std::iter::once(*letter).nfc().all(|composed| composed.is_ascii()));
        let composed: Vec<char> = others.flat_map(|letter| std::iter::once(letter).nfc()).collect();
        assert_eq!(composed, [';', '`', 'K']);
        assert!(composed.iter().all(|letter| COMPOSED_ASCII.contains(letter)));
    }
}
