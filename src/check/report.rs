//! What a check tells when it is over.

use serde::Serialize;

use super::price::Prices;
use crate::blob::Pathname;
use crate::error::Exit;
use crate::mapping::Reason;
use crate::value::Key;

/// The upper bounds of the classes of item sizes, in bytes. The last one is DynamoDB's limit.
pub const SIZES: [u64; 6] = [1024, 4 * 1024, 16 * 1024, 64 * 1024, 256 * 1024, 400 * 1024];

/// What a snapshot becomes under a plan.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct CheckReport {
    /// Whether the last export into the snapshot finished.
    pub snapshot_complete: bool,
    /// What becomes of the blobs.
    pub blobs: Blobs,
    /// The entities, in the order of the plan.
    pub entities: Vec<EntityReport>,
    /// Why blobs are quarantined, and how many.
    pub reasons: Vec<ReasonCount>,
    /// The first blobs of the quarantine, in the order of their names.
    pub quarantined: Vec<Quarantined>,
    /// The first names of mapped blobs whose body is not in the snapshot.
    pub unread_names: Vec<Pathname>,
    /// The first names that no rule takes.
    pub unmatched_names: Vec<Pathname>,
    /// The first names that several rules take.
    pub ambiguous_names: Vec<Pathname>,
    /// How many keys several blobs want, though they are no members of one group.
    pub collision_count: u64,
    /// The first of these keys.
    pub collisions: Vec<Collision>,
    /// Values of partition keys that take more writes than a partition does.
    pub hot_keys: Vec<HotKey>,
    /// How many sets of names or keys look the same and differ.
    pub twin_count: u64,
    /// The first of these.
    pub twins: Vec<Twins>,
    /// The units of the first load: the table's writes, which are transactions, and those of its indexes.
    /// The migration's own table is not among them.
    pub load_units: u64,
    /// What they cost, in US dollars.
    pub cost_usd: f64,
    /// What the cost was computed with.
    pub prices: Prices,
}

/// What becomes of the blobs. All but the first add up to the first.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Blobs {
    /// All blobs of the snapshot.
    pub listed: u64,
    /// Those that become items.
    pub written: u64,
    /// Those of groups in which others are newer.
    pub superseded: u64,
    /// Those that want a key which another blob wants too.
    pub colliding: u64,
    /// Those that can't become items.
    pub quarantined: u64,
    /// Those of entities whose body is not in the snapshot.
    pub unread: u64,
    /// Those that an ignore rule names.
    pub ignored: u64,
    /// Those that an accept rule names.
    pub accepted: u64,
    /// Those that no rule names.
    pub unmatched: u64,
    /// Those that several rules name.
    pub ambiguous: u64,
}

/// What becomes of an entity's blobs. Only items that are written are counted.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct EntityReport {
    /// Its name.
    pub name: String,
    /// Its blobs, whatever becomes of them.
    pub blobs: u64,
    /// Those of them that can't become items.
    pub quarantined: u64,
    /// Those of groups in which others are newer.
    pub superseded: u64,
    /// How many items there are.
    pub items: u64,
    /// Their length, `_source` included.
    pub bytes: u64,
    /// The length of the largest.
    pub bytes_max: u64,
    /// How many items are in each class of [`SIZES`].
    pub sizes: [u64; SIZES.len()],
    /// Write units of the table, outside of transactions.
    pub units: u64,
    /// The indexes that its items are in, or should be in.
    pub indexes: Vec<IndexReport>,
}

/// What of an entity is in an index.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct IndexReport {
    /// The index.
    pub name: String,
    /// How many items are in it.
    pub items: u64,
    /// How many the plan wants in it that lack an input of its key.
    pub omitted: u64,
    /// Its write units.
    pub units: u64,
}

/// How many blobs are quarantined for one reason.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ReasonCount {
    /// The reason.
    pub reason: Reason,
    /// How many.
    pub blobs: u64,
}

/// A blob that can't become items.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Quarantined {
    /// Its name.
    pub pathname: Pathname,
    /// The entity that takes it.
    pub entity: String,
    /// The kind of reason.
    pub reason: Reason,
    /// In words.
    pub detail: String,
    /// The byte of the body at which it was found.
    pub offset: Option<u64>,
}

/// A key that several blobs want.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Collision {
    /// The key.
    pub key: Key,
    /// How many blobs.
    pub blobs: u64,
    /// The first of them.
    pub pathnames: Vec<Pathname>,
}

/// A value of a partition key that takes more writes than a partition does.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct HotKey {
    /// The index, or none for the table.
    pub index: Option<String>,
    /// The attribute.
    pub attribute: String,
    /// Its value.
    pub value: String,
    /// How many items have it.
    pub items: u64,
    /// The units of their first load.
    pub units: u64,
    /// Their share of all units of the table, or of the index.
    pub share: f64,
    /// How many units a second it would get from a load at the rate that a new table takes.
    pub units_per_second: u64,
    /// How long a load takes at least, because a partition takes 1,000 units a second.
    pub load_seconds_min: u64,
}

/// Names or keys that differ only in their Unicode form.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Twins {
    /// Of what.
    pub kind: TwinKind,
    /// The names or keys, of which people see only one.
    pub names: Vec<String>,
}

/// What has a twin.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum TwinKind {
    /// Pathnames.
    Pathname,
    /// Keys of items.
    Key,
}

impl Blobs {
    /// Whether every blob has a rule and becomes what the rule says.
    #[must_use]
    pub const fn is_total(&self) -> bool {
        self.colliding == 0
            && self.quarantined == 0
            && self.unread == 0
            && self.unmatched == 0
            && self.ambiguous == 0
    }
}

impl CheckReport {
    /// The exit code of a command that ends with this report.
    #[must_use]
    pub const fn exit(&self) -> Exit {
        if self.blobs.is_total() { Exit::Done } else { Exit::SomeKeysFailed }
    }
}
