//! The trait of a target store: the data table and the control table together.

use async_trait::async_trait;

use crate::error::{Error, ErrorKind, Result};
use crate::plan::{IndexPlan, TargetPlan};
use crate::value::{Item, Key, Value};

/// Which of the two tables.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Table {
    /// The application's table.
    Data,
    /// `{data table}-migration`, with the string keys `pk` and `sk`.
    Control,
}

/// The attribute of the control table that holds the partition key.
pub const CONTROL_PARTITION_KEY: &str = "pk";
/// The attribute of the control table that holds the sort key.
pub const CONTROL_SORT_KEY: &str = "sk";

/// How many attributes [`Condition::as_read`] compares: a condition has at most 300 operators and 4 KB (AWS,
/// "Service, account, and table quotas in Amazon DynamoDB").
pub const AS_READ_MAX: usize = 90;

/// What must hold of the stored item for a write to be applied.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Condition {
    /// Anything, absence too.
    Always,
    /// No item has this key.
    Absent,
    /// An item has this key.
    Present,
    /// The attribute at this path (names of nested maps) is present and equal.
    Equals {
        /// The attribute, then names inside maps.
        path: Vec<String>,
        /// What it must be.
        value: Value,
    },
    /// An item has this key, and nothing is at this path of it.
    Missing {
        /// The attribute, then names inside maps.
        path: Vec<String>,
    },
    /// At least one of these.
    Any(Vec<Condition>),
    /// All of these.
    All(Vec<Condition>),
}

impl Condition {
    /// That an attribute is present and equal. The path's parts are joined by nothing: `["_source", "rev"]`.
    pub fn equals<const N: usize>(path: [&str; N], value: Value) -> Self {
        Self::Equals { path: path.iter().map(ToString::to_string).collect(), value }
    }

    /// That an item is as it was read. An attribute that was added since is not seen; of more than
    /// [`AS_READ_MAX`] attributes, those with the first names are compared.
    #[must_use]
    pub fn as_read(item: Option<&Item>) -> Self {
        let Some(item) = item else { return Self::Absent };
        let equals = |(name, value): (&String, &Value)| Self::Equals {
            path: vec![name.clone()],
            value: value.clone(),
        };
        Self::All(item.iter().take(AS_READ_MAX).map(equals).collect())
    }

    /// Whether it holds of what is stored. This is the meaning that every implementation must have.
    #[must_use]
    pub fn holds(&self, stored: Option<&Item>) -> bool {
        match self {
            Self::Always => true,
            Self::Absent => stored.is_none(),
            Self::Present => stored.is_some(),
            Self::Equals { path, value } => stored.and_then(|item| at(item, path)) == Some(value),
            Self::Missing { path } => stored.is_some_and(|item| at(item, path).is_none()),
            Self::Any(conditions) => conditions.iter().any(|condition| condition.holds(stored)),
            Self::All(conditions) => conditions.iter().all(|condition| condition.holds(stored)),
        }
    }
}

/// The value at a path of names inside maps.
fn at<'a>(item: &'a Item, path: &[String]) -> Option<&'a Value> {
    let (first, rest) = path.split_first()?;
    rest.iter().try_fold(item.get(first)?, |value, name| value.as_m()?.get(name))
}

/// One action of a transaction.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Write {
    /// Stores an item (its key attributes are part of it), in place of what is there.
    Put {
        /// Where.
        table: Table,
        /// What.
        item: Item,
        /// If this holds.
        condition: Condition,
    },
    /// Sets one attribute of an item, or removes it, and leaves all others as they are.
    Set {
        /// Where.
        table: Table,
        /// Which.
        key: Key,
        /// The attribute's name; not a key's.
        name: String,
        /// What it is to be; none: it is removed.
        value: Option<Value>,
        /// If this holds, which must demand that the item is there: DynamoDB would make one of its key.
        condition: Condition,
    },
    /// Removes an item, if there is one.
    Delete {
        /// Where.
        table: Table,
        /// Which.
        key: Key,
        /// If this holds.
        condition: Condition,
    },
    /// Writes nothing, and refuses the transaction if the condition does not hold.
    Check {
        /// Where.
        table: Table,
        /// Which.
        key: Key,
        /// What must hold.
        condition: Condition,
    },
}

/// Why a transaction was refused, for one of its actions.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// The action, counted from 0.
    pub action: usize,
    /// What is stored under its key.
    pub found: Option<Item>,
}

/// What became of a transaction.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// All of it is stored.
    Applied,
    /// None of it is stored by this request: the conditions of these actions did not hold. An earlier
    /// attempt of the same request may have been applied and its reply lost, so compare `found` with
    /// what was to be written.
    Refused(Vec<Refusal>),
}

/// A page of items, and where the next one begins.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Page {
    /// The items.
    pub items: Vec<Item>,
    /// The key after which the next page begins; none on the last page. A page may be empty and not be the last.
    pub next: Option<Key>,
}

/// Rows of one partition, in the order of their sort keys or against it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Query {
    /// The partition.
    pub partition: String,
    /// Only sort keys that begin so; empty for all.
    pub sort_prefix: String,
    /// The key after which to go on.
    pub after: Option<Key>,
    /// At most this many items in the page.
    pub limit: Option<u32>,
    /// From the last sort key to the first.
    pub descending: bool,
}

impl Query {
    /// A whole partition.
    pub fn partition(partition: impl Into<String>) -> Self {
        Self {
            partition: partition.into(),
            sort_prefix: String::new(),
            after: None,
            limit: None,
            descending: false,
        }
    }
}

/// A share of a table, for scans in parallel.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Scan {
    /// This share, from 0.
    pub segment: u32,
    /// How many shares there are.
    pub segments: u32,
    /// The key after which to go on.
    pub after: Option<Key>,
    /// Only these attributes of each item; none for all of them.
    pub only: Vec<String>,
}

impl Scan {
    /// All of a share, each item with all of its attributes.
    #[must_use]
    pub const fn share(segment: u32, segments: u32) -> Self {
        Self { segment, segments, after: None, only: Vec::new() }
    }
}

/// What an endpoint says of a table, as far as the plan speaks of it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TableFacts {
    /// Its name.
    pub name: String,
    /// Its ARN, from which account and region are read.
    pub arn: Option<String>,
    /// Whether it is ACTIVE.
    pub active: bool,
    /// Names of the partition key and the sort key.
    pub keys: (String, Option<String>),
    /// Index name → (partition key, sort key, whether it is ACTIVE and projects ALL).
    pub indexes: Vec<IndexFacts>,
    /// Attribute name → `S`, `N` or `B`.
    pub attribute_types: std::collections::BTreeMap<String, String>,
    /// Whether it is billed on demand.
    pub on_demand: bool,
    /// The TTL attribute, if TTL is on.
    pub ttl: Option<String>,
    /// The stream's view type, if the stream is on.
    pub stream: Option<String>,
    /// Whether point-in-time recovery is on; none where the endpoint does not offer it.
    pub point_in_time_recovery: Option<bool>,
    /// Whether deletion protection is on; none where the endpoint does not offer it.
    pub deletion_protection: Option<bool>,
}

impl TableFacts {
    /// Demands that its keys are these, partition key and sort key, and strings.
    ///
    /// # Errors
    /// `Usage` during `operation` where they are not: no item of this program could be stored.
    pub fn check_keys(&self, operation: &'static str, (partition, sort): (&str, &str)) -> Result<()> {
        let error = || {
            Error::new(ErrorKind::Usage, operation)
                .key(&self.name)
                .hint("nothing was changed; name another table in the plan, or correct its keys there")
        };
        let found = (self.keys.0.as_str(), self.keys.1.as_deref());
        if found != (partition, Some(sort)) {
            return Err(error().message(format!(
                "its keys are {} and {}, and the plan's are {partition} and {sort}",
                found.0,
                found.1.unwrap_or("none"),
            )));
        }
        for key in [partition, sort] {
            if let Some(kind) = self.attribute_types.get(key).filter(|kind| *kind != "S") {
                return Err(error().message(format!("its key {key} is of type {kind}, not a string")));
            }
        }
        Ok(())
    }
}

/// What an endpoint says of a global secondary index.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct IndexFacts {
    /// Its name.
    pub name: String,
    /// Its partition key.
    pub partition_key: String,
    /// Its sort key.
    pub sort_key: Option<String>,
    /// Whether it is ACTIVE.
    pub active: bool,
    /// Whether it projects all attributes.
    pub projects_all: bool,
}

/// Where a target store is, which decides what may be waived and shortened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Site {
    /// The service itself.
    Aws,
    /// An endpoint on this machine, or the embedded engine.
    Local,
}

/// What is written to the data table, as its stream tells it.
///
/// Each change is told at least once, for as long as this is asked more often than the stream forgets (24 hours).
#[async_trait]
pub trait Changes: Send {
    /// The keys of items that were written or removed since, each once; none where nothing was. It waits for nothing.
    async fn next(&mut self) -> Result<Vec<Key>>;
}

/// The data table and the control table.
///
/// Every read is consistent. A write that returned `Applied` is durable. A write that failed with
/// `OutcomeUnknown` may still take effect later; its condition is what then stops it. Throttling,
/// transaction conflicts and passing failures are retried inside, bounded in count and time.
#[async_trait]
pub trait TargetStore: Send + Sync + 'static {
    /// Where it is.
    fn site(&self) -> Site;

    /// How many requests were sent so far, repetitions included.
    fn requests(&self) -> u64;

    /// What is stored under these keys, in their order. Any number of keys; each is in the answer.
    async fn get(&self, table: Table, keys: &[Key]) -> Result<Vec<Option<Item>>>;

    /// One page of a partition, in the order of the sort keys (by UTF-8 bytes).
    async fn query(&self, table: Table, query: &Query) -> Result<Page>;

    /// One page of a share of a table, in no useful order.
    async fn scan(&self, table: Table, scan: &Scan) -> Result<Page>;

    /// Applies all of these actions, or none. At most 100, on distinct keys, 4 MB together.
    ///
    /// `token` makes a repetition of the same request harmless for ten minutes; derive it from the rev.
    /// A single action is sent as a plain conditional write, which costs half.
    async fn transact(&self, token: &str, writes: Vec<Write>) -> Result<Outcome>;

    /// Creates items where no item has their key, in batches; says for each, in order, whether it was
    /// created. Batches are cut inside, any number of items. Not a transaction: each stands for itself.
    async fn insert(&self, table: Table, items: Vec<Item>) -> Result<Vec<bool>>;

    /// What an index of the data table holds: all of it, or what has this partition key and this sort key in it. Each
    /// item comes with its keys in the table and in the index, and with nothing else. An index follows the table a moment
    /// later, and a read of it costs as if whole items were read.
    async fn read_index(
        &self,
        index: &IndexPlan,
        at: Option<(&str, &str)>,
        each: &mut (dyn FnMut(Item) + Send),
    ) -> Result<()>;

    /// What is written to the data table from now on; none where it has no stream.
    async fn changes(&self) -> Result<Option<Box<dyn Changes>>> {
        Ok(None)
    }

    /// What the endpoint says of a table; none where it does not exist.
    async fn describe(&self, table: Table) -> Result<Option<TableFacts>>;

    /// Creates what is missing of both tables, never changes what is there, and says what it did,
    /// one line each. `with_stream` asks for the plan's stream on a local endpoint too.
    ///
    /// # Errors
    /// `WrongPhase` never; `Usage` where a table exists with other keys.
    async fn provision(
        &self,
        plan: &TargetPlan,
        with_stream: bool,
        dry_run: bool,
    ) -> Result<Vec<Provisioned>>;
}

/// One step of provisioning.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Provisioned {
    /// What it is about, such as `table fuse-main` or `fuse-main: TTL on ttl`.
    pub what: String,
    /// What became of it.
    pub result: ProvisionResult,
}

/// What became of a step of provisioning.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ProvisionResult {
    /// It was missing and is there now (or would be, in a dry run).
    Created,
    /// It was there, as planned.
    Present,
    /// The endpoint does not offer it.
    NotOffered(String),
    /// It is there, but otherwise than planned; nothing was changed.
    Differs(String),
}
