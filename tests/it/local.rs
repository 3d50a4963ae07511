//! A Blob store in this process, and looks at the tables, for commands that run in another one.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use bytes::Bytes;
use migrate::blob::emulator::{Emulator, EmulatorConfig};
use migrate::blob::faults::{Faults, Operation};
use migrate::blob::server::ServerConfig;
use migrate::blob::store::{GetOptions, PutOptions};
use migrate::blob::{BlobStore as _, ListRequest, Pathname};
use migrate::clock::SystemClock;
use migrate::converge::{SOURCE, owner};
use migrate::fixture::{self, Expected, FixtureBlob};
use migrate::plan::TargetPlan;
use migrate::protocol::Rev;
use migrate::target::control::{Anchor, AnchorState, Control, IntentRow, SessionRow, names};
use migrate::target::dynamodb::{DynamoConfig, DynamoTarget};

use migrate::target::store::{CONTROL_PARTITION_KEY, Scan};
use migrate::target::{Condition, Table, TargetStore as _, Write};
use migrate::value::{Item, Key, Value};
use tokio::runtime::Runtime;

use crate::support::Sandbox;

/// Example data that has expired: DynamoDB deletes its items when it likes, so they are left out here.
const EXPIRED: [&str; 3] = ["communications/m1.json", "costs/c1.json", "teams/blue/activities/v1.json"];
const TOKEN: &str = "vercel_blob_rw_local_onlyForTests";

/// A Blob store with example data, served in the background.
pub(crate) struct Source {
    runtime: Runtime,
    emulator: Emulator,
    /// What it was filled with.
    pub(crate) blobs: Vec<FixtureBlob>,
}

impl Source {
    /// So many sign-ups, and every hard case.
    pub(crate) fn with_signups(signups: usize) -> Self {
        Self::with(fixture::blobs(1, signups).collect())
    }

    /// No blobs at all.
    pub(crate) fn empty() -> Self {
        Self::with(Vec::new())
    }

    fn with(blobs: Vec<FixtureBlob>) -> Self {
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        let config = EmulatorConfig {
            listen: ([127, 0, 0, 1], 0).into(),
            server: ServerConfig::new(TOKEN.into()),
            data: None,
        };
        let emulator = runtime.block_on(Emulator::start(config, Arc::new(SystemClock::new()))).unwrap();
        let source = Self { runtime, emulator, blobs };
        for blob in &source.blobs {
            source.put_as(blob.pathname.as_str(), blob.body.clone(), blob.content_type);
        }
        source
    }

    /// A directory with the plan, whose commands use this store.
    pub(crate) fn sandbox(&self) -> Sandbox {
        let mut sandbox = Sandbox::with_plan();
        sandbox.set("ENCRYPTION_KEY", fixture::ENCRYPTION_KEY);
        for (name, value) in self.emulator.environment() {
            sandbox.set(name, &value);
        }
        sandbox
    }

    /// Scheme and port, as errors name them.
    pub(crate) fn url(&self) -> String {
        self.emulator.server().origin().to_owned()
    }

    pub(crate) fn faults(&self) -> &Faults {
        self.emulator.faults()
    }

    /// How many bodies were asked for so far.
    pub(crate) fn reads(&self) -> u64 {
        self.faults().calls(Operation::Get)
    }

    /// Stores a blob, past every fault, over what is there.
    pub(crate) fn put(&self, pathname: &str, body: impl Into<Bytes>) {
        self.put_as(pathname, body.into(), "application/json");
    }

    fn put_as(&self, pathname: &str, body: Bytes, content_type: &str) {
        let content_type = Some(content_type.to_owned());
        let options = PutOptions { allow_overwrite: true, content_type, ..PutOptions::default() };
        let pathname = Pathname::new(pathname);
        self.block_on(self.emulator.store().put(&pathname, body.into(), &options)).unwrap();
    }

    /// What a blob holds; none where there is none.
    pub(crate) fn body(&self, pathname: &str) -> Option<String> {
        self.block_on(self.body_later(pathname))
    }

    /// The same for those who wait.
    pub(crate) async fn body_later(&self, pathname: &str) -> Option<String> {
        let content = self.emulator.store().get(&pathname.into(), &GetOptions::default()).await.unwrap()?;
        let bytes = content.body.collect(u64::MAX).await.unwrap();
        Some(String::from_utf8(bytes.to_vec()).unwrap())
    }

    /// What it holds.
    pub(crate) fn names(&self) -> Vec<Pathname> {
        let list = async {
            let (mut names, mut request) = (Vec::new(), ListRequest::default());
            loop {
                let page = self.emulator.store().list(&request).await.unwrap();
                names.extend(page.blobs.into_iter().map(|blob| blob.pathname));
                request.cursor = page.cursor;
                if request.cursor.is_none() {
                    return names;
                }
            }
        };
        self.block_on(list)
    }

    pub(crate) fn block_on<T>(&self, work: impl Future<Output = T>) -> T {
        self.runtime.block_on(work)
    }

    /// The tables at an endpoint.
    pub(crate) fn tables(&self, endpoint: &str, table: &str) -> Tables<'_> {
        let plan = TargetPlan { table: table.to_owned(), ..plan() };
        let config = DynamoConfig::new(plan, Arc::new(SystemClock::new())).endpoint(endpoint);
        let target = self.block_on(DynamoTarget::connect(config)).unwrap();
        Tables { source: self, control: Control::new(Arc::new(target.clone())), target }
    }

    /// Blobs that must become items.
    pub(crate) fn mapped(&self) -> impl Iterator<Item = &FixtureBlob> {
        self.blobs.iter().filter(|blob| matches!(blob.expected, Expected::Items(_)))
    }

    /// How many items must come of all blobs.
    pub(crate) fn items(&self) -> usize {
        let lasting = self.blobs.iter().filter(|blob| !EXPIRED.contains(&blob.pathname.as_str()));
        let all: usize =
            lasting.map(|blob| if let Expected::Items(items) = blob.expected { items } else { 0 }).sum();
        all - fixture::SHARED_ITEMS
    }

    /// How many of the blobs have expired: they are mapped, and their items may be gone.
    pub(crate) fn expired(&self) -> usize {
        self.blobs.iter().filter(|blob| EXPIRED.contains(&blob.pathname.as_str())).count()
    }

    /// How many blobs are mapped, ignored and accepted.
    pub(crate) fn verdicts(&self) -> [usize; 3] {
        let count =
            |verdict: fn(&Expected) -> bool| self.blobs.iter().filter(|blob| verdict(&blob.expected)).count();
        [
            count(|expected| matches!(expected, Expected::Items(_))),
            count(|expected| *expected == Expected::Ignored),
            count(|expected| matches!(expected, Expected::Accepted(_))),
        ]
    }
}

fn plan() -> TargetPlan {
    let directory = Sandbox::with_plan();
    migrate::plan::load(directory.path().join("migration-plan.md"), &[]).unwrap().plan.target
}

/// Both tables, looked at and changed past the program.
pub(crate) struct Tables<'a> {
    source: &'a Source,
    target: DynamoTarget,
    control: Control,
}

/// What the mirror says, without what is random.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Mirror {
    pub(crate) items: BTreeMap<Key, Item>,
    pub(crate) anchors: BTreeMap<Pathname, Anchor>,
    pub(crate) bodies: BTreeMap<Pathname, Option<Vec<u8>>>,
}

impl Tables<'_> {
    /// All of the data table.
    pub(crate) fn items(&self) -> BTreeMap<Key, Item> {
        let text = |item: &Item, name: &str| item[name].as_s().unwrap().to_owned();
        let keyed = |item| (Key::new(text(&item, "PK"), text(&item, "SK")), item);
        self.scan(Table::Data).into_iter().map(keyed).collect()
    }

    /// The blobs that have an item, but for example data that has expired.
    pub(crate) fn owners(&self) -> BTreeSet<String> {
        self.items().values().filter_map(owner).collect()
    }

    /// What the mirror says; each item must be named by its anchor.
    pub(crate) fn mirror(&self) -> Mirror {
        let (mut anchors, mut bodies, mut revs) = (BTreeMap::new(), BTreeMap::new(), BTreeMap::new());
        for mut anchor in self.anchors() {
            let body = self.source.block_on(self.control.bodies(&[&anchor])).unwrap().pop().flatten();
            bodies.insert(anchor.pathname.clone(), body.map(Result::unwrap));
            if let Some(rev) = &anchor.items_rev {
                revs.insert(anchor.pathname.to_string(), rev.to_string());
            }
            let same = Rev::new("some");
            anchor.rev = same.clone();
            anchor.items_rev = anchor.items_rev.map(|_| same.clone());
            anchor.body = anchor.body.map(|body| migrate::target::control::BodyRef { rev: same, ..body });
            anchors.insert(anchor.pathname.clone(), anchor);
        }
        let mut items = self.items();
        let groups = self.source.block_on(self.control.groups(items.keys())).unwrap();
        for (key, item) in &mut items {
            let Some(Value::M(source)) = item.get_mut(SOURCE) else { continue };
            let rev = source.remove("rev").unwrap();
            let owner = source["pathname"].as_s().unwrap();
            let named = match groups.get(key).and_then(|group| group.items_rev.as_ref()) {
                Some(rev) => Some(rev.as_str()),
                None => revs.get(owner).map(String::as_str),
            };
            assert_eq!(rev.as_s(), named, "{key} is not its anchor's, nor its group's");
        }
        Mirror { items, anchors, bodies }
    }

    fn anchors(&self) -> Vec<Anchor> {
        let mut all = Vec::new();
        for shard in 0..names::SHARDS {
            let mut after = None;
            loop {
                let page = self.control.anchors_of_shard(shard, after);
                let (anchors, next) = self.source.block_on(page).unwrap();
                all.extend(anchors);
                after = next;
                if after.is_none() {
                    break;
                }
            }
        }
        assert!(all.iter().all(|anchor| anchor.state != AnchorState::Pending), "a change is half done");
        all
    }

    pub(crate) fn sessions(&self) -> Vec<SessionRow> {
        self.source.block_on(self.sessions_later())
    }

    /// The same for those who wait.
    pub(crate) async fn sessions_later(&self) -> Vec<SessionRow> {
        self.control.sessions().await.unwrap()
    }

    pub(crate) fn intents(&self) -> Vec<IntentRow> {
        self.source.block_on(self.intents_later())
    }

    /// The same for those who wait.
    pub(crate) async fn intents_later(&self) -> Vec<IntentRow> {
        self.control.intents().await.unwrap()
    }

    /// How many sweeps came to their end, for those who wait.
    pub(crate) async fn sweeps_later(&self) -> usize {
        self.control.sweeps().await.unwrap().len()
    }

    /// How many rows the data table has, for those who wait.
    pub(crate) async fn count_later(&self) -> usize {
        let scan = Scan::share(0, 1);
        self.target.scan(Table::Data, &scan).await.unwrap().items.len()
    }

    /// All of both tables, as text, but for the evidence that gates keep.
    pub(crate) fn rows(&self) -> BTreeSet<String> {
        let both = [Table::Data, Table::Control].into_iter().flat_map(|table| self.scan(table));
        both.filter(|row| row.get(CONTROL_PARTITION_KEY) != Some(&Value::s("E#")))
            .map(|row| format!("{row:?}"))
            .collect()
    }

    fn scan(&self, table: Table) -> Vec<Item> {
        let mut rows = Vec::new();
        let mut after = None;
        loop {
            let scan = Scan { after, ..Scan::share(0, 1) };
            let page = self.source.block_on(self.target.scan(table, &scan)).unwrap();
            rows.extend(page.items);
            after = page.next;
            if after.is_none() {
                break;
            }
        }
        rows.retain(|row| owner(row).is_none_or(|owner| !EXPIRED.contains(&owner.as_str())));
        rows
    }

    /// Stores an item, whatever is there.
    pub(crate) fn put(&self, item: Item) {
        self.write(Write::Put { table: Table::Data, item, condition: Condition::Always });
    }

    pub(crate) fn delete(&self, key: Key) {
        self.write(Write::Delete { table: Table::Data, key, condition: Condition::Always });
    }

    fn write(&self, write: Write) {
        self.source.block_on(self.target.transact(&names::token(), vec![write])).unwrap();
    }
}
