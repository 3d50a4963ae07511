//! Both stores in memory, a small plan, and a check that the mirror is what the source holds.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, LazyLock};
use std::time::Duration;

use bytes::Bytes;
use jiff::Timestamp;
use migrate::backfill::{self, BackfillReport};
use migrate::blob::faults::{Faults, FaultyBlob};
use migrate::blob::memory::{MemoryBlob, MemoryConfig};
use migrate::blob::store::{Access, BlobStore as _, GetOptions, PutOptions};
use migrate::blob::{Fetcher, Head, ListRequest, ListedBlob, Pathname};
use migrate::clock::Clock;
use migrate::converge::{
    Converged, Converger, LONG_BODY_BYTES_MAX, LateWrites, NoBodies, Permit, SOURCE, owner, source_rev,
};
use migrate::event::{Events, Silent};
use migrate::mapping::{BlobFacts, Mapper, Rule};
use migrate::plan::Plan;
use migrate::protocol::converge::Purpose;
use migrate::sweep::{Level, Sweep, SweepReport};
use migrate::target::Condition;
use migrate::target::control::{
    Anchor, AnchorState, Control, Mode, RETAIN_MAX, SessionKind, SessionRow, SessionState, names,
};
use migrate::target::memory::MemoryTarget;
use migrate::target::store::{Table, TargetStore as _, Write};
use migrate::value::{Item, Key, Value};
use migrate::{Error, ErrorKind, Result};
use tempfile::TempDir;
use tokio_util::sync::CancellationToken;

pub(super) const PLAN: &str = r#"
[source]
store = "test"
[target]
table = "test"
partition_key = "PK"
sort_key = "SK"
ttl = "ttl"
deletion_protection = false
[[entity]]
name = "record"
blobs = "r/{id}.json"
[[entity.item]]
PK = "R#{{ body.key | default(id) }}"
SK = "META"
ttl = "{{ body.expires }}"
[[entity]]
name = "pair"
blobs = "p/{id}.json"
[[entity.item]]
PK = "P#{{ id }}"
SK = "A"
[[entity.item]]
when = "body.extra"
body = "none"
PK = "P#{{ id }}"
SK = "B#{{ body.extra }}"
[[ignore]]
blobs = "**/*.png"
reason = "assets"
[[accept]]
blobs = "r/broken-*.json"
reason = "known to be broken"
"#;

/// Compiled once: there are many rigs.
static MAPPER: LazyLock<Arc<Mapper>> =
    LazyLock::new(|| Arc::new(Mapper::new(&toml::from_str(PLAN).unwrap()).unwrap()));

/// Time passes only when somebody waits, and then at once.
#[derive(Debug, Clone)]
pub(super) struct Rush {
    start: Timestamp,
    elapsed_us: Arc<AtomicU64>,
}

impl Rush {
    pub(super) fn new() -> Self {
        Self { start: "2026-11-01T00:00:00Z".parse().unwrap(), elapsed_us: Arc::default() }
    }

    pub(super) fn advance(&self, by: Duration) {
        self.elapsed_us.fetch_add(u64::try_from(by.as_micros()).unwrap(), Ordering::SeqCst);
    }
}

#[async_trait::async_trait]
impl Clock for Rush {
    fn now(&self) -> Timestamp {
        self.start + self.monotonic()
    }

    fn monotonic(&self) -> Duration {
        Duration::from_micros(self.elapsed_us.load(Ordering::SeqCst))
    }

    async fn sleep(&self, duration: Duration) {
        self.advance(duration);
        tokio::task::yield_now().await;
    }
}

/// A permit that a test takes away.
#[derive(Debug, Default)]
pub(super) struct Switch(AtomicBool);

impl Switch {
    pub(super) fn refuse(&self) {
        self.0.store(true, Ordering::SeqCst);
    }
}

impl Permit for Switch {
    fn check(&self) -> Result<()> {
        if self.0.load(Ordering::SeqCst) {
            return Err(Error::new(ErrorKind::WrongPhase, "write").message("the session is over"));
        }
        Ok(())
    }

    fn session(&self) -> String {
        SESSION.to_owned()
    }
}

/// The session of what works without one of its own.
const SESSION: &str = "rig";

pub(super) struct Rig {
    pub(super) clock: Rush,
    pub(super) faults: Faults,
    pub(super) source: Arc<FaultyBlob>,
    pub(super) target: Arc<MemoryTarget>,
    pub(super) control: Control,
    pub(super) plan: Plan,
    pub(super) permit: Arc<Switch>,
    pub(super) converger: Converger,
    /// Where sessions have their locks.
    pub(super) locks: TempDir,
}

impl Rig {
    pub(super) fn new() -> Self {
        Self::with(PLAN)
    }

    pub(super) fn with(text: &str) -> Self {
        let plan: Plan = toml::from_str(text).unwrap();
        let mapper = if text == PLAN { MAPPER.clone() } else { Arc::new(Mapper::new(&plan).unwrap()) };
        let clock = Rush::new();
        let shared: Arc<dyn Clock> = Arc::new(clock.clone());
        let blob = MemoryBlob::new(MemoryConfig::default(), shared.clone());
        let faults = Faults::new(shared.clone());
        let source = Arc::new(FaultyBlob::new(Arc::new(blob), faults.clone()));
        let target = Arc::new(MemoryTarget::new(plan.target.clone()));
        let control = Control::new(target.clone());
        let permit = Arc::new(Switch::default());
        let converger = Converger {
            fetcher: Fetcher {
                source: source.clone(),
                clock: shared,
                access: Access::Public,
                cdn_stale: plan.timing.cdn_stale.0,
                etags: plan.source.etags,
                body_bytes_max: LONG_BODY_BYTES_MAX,
            },
            control: control.clone(),
            mapper,
            bodies: Arc::new(NoBodies),
            permit: permit.clone(),
            authority: migrate::protocol::phase::Authority::Source,
            late: LateWrites::of(&plan.timing),
        };
        let locks = TempDir::new().unwrap();
        Self { clock, faults, source, target, control, plan, permit, converger, locks }
    }

    /// The same stores under other rules.
    pub(super) fn remapped(&self, plan: &str) -> Converger {
        let plan: Plan = toml::from_str(plan).unwrap();
        Converger { mapper: Arc::new(Mapper::new(&plan).unwrap()), ..self.converger.clone() }
    }

    /// Stores a blob a millisecond later than the one before.
    pub(super) async fn put(&self, name: &str, body: impl Into<Bytes>) -> Head {
        self.clock.advance(Duration::from_millis(1));
        let options = PutOptions { allow_overwrite: true, ..PutOptions::default() };
        self.source.put(&name.into(), body.into().into(), &options).await.unwrap()
    }

    pub(super) async fn delete(&self, name: &str) {
        self.clock.advance(Duration::from_millis(1));
        self.source.delete(&[name.into()], None).await.unwrap();
    }

    pub(super) async fn converge(&self, name: &str, purpose: Purpose) -> Result<Converged> {
        self.converger.converge(&name.into(), purpose).await
    }

    pub(super) async fn reconcile(&self, name: &str) -> Converged {
        self.converge(name, Purpose::Reconcile).await.unwrap()
    }

    pub(super) async fn intent(&self, name: &str) -> Converged {
        self.converge(name, Purpose::Intent).await.unwrap()
    }

    pub(super) async fn try_backfill(&self) -> Result<BackfillReport> {
        backfill::run(&self.converger, "", &silent(), &CancellationToken::new()).await
    }

    pub(super) async fn backfill(&self) -> BackfillReport {
        self.try_backfill().await.unwrap()
    }

    pub(super) fn sweeper(&self, level: Level, repair: bool) -> Sweep<'_> {
        Sweep {
            converger: &self.converger,
            target: &self.plan.target,
            prefix: "",
            level,
            repair,
            allow_empty: false,
            patience: Duration::from_millis(1),
        }
    }

    pub(super) async fn sweep(&self, level: Level, repair: bool) -> SweepReport {
        run(self.sweeper(level, repair)).await
    }

    pub(super) async fn anchor(&self, name: &str) -> Option<Anchor> {
        self.control.anchor(&name.into()).await.unwrap()
    }

    pub(super) fn items(&self) -> BTreeMap<Key, Item> {
        self.target.contents(Table::Data)
    }

    pub(super) fn item(&self, partition: &str, sort: &str) -> Option<Item> {
        self.items().remove(&Key::new(partition, sort))
    }

    /// The mode item of a migration that begins: what every command that writes stores first.
    pub(super) async fn begin(&self) {
        self.control.ensure_mode(&Mode::begun(self.clock.now(), "plan")).await.unwrap();
    }

    /// Stores the row of the rig's own session: what goes to Blob is noted under it.
    pub(super) async fn begin_session(&self) {
        let row = SessionRow {
            id: SESSION.to_owned(),
            name: SESSION.to_owned(),
            kind: SessionKind::Repair,
            counter: 0,
            state: SessionState::Open,
            began: self.clock.now(),
            ended: None,
            acknowledged: None,
            gap: None,
            renewed: None,
            epoch: None,
            writers: None,
        };
        self.control.open_session(&row).await.unwrap();
    }

    /// Stores an item past the protocol, as another writer would.
    pub(super) async fn plant(&self, item: Item) {
        let write = Write::Put { table: Table::Data, item, condition: Condition::Always };
        self.target.transact(&names::token(), vec![write]).await.unwrap();
    }

    pub(super) async fn remove(&self, table: Table, key: Key) {
        let write = Write::Delete { table, key, condition: Condition::Always };
        self.target.transact(&names::token(), vec![write]).await.unwrap();
    }

    /// Parts of retained bodies.
    pub(super) fn parts(&self) -> BTreeMap<Key, Item> {
        let mut rows = self.target.contents(Table::Control);
        rows.retain(|key, _| key.partition.starts_with("B#"));
        rows
    }

    /// All blobs, and their bytes, past every fault of the source but its outages.
    pub(super) async fn blobs(&self) -> BTreeMap<Pathname, (ListedBlob, Bytes)> {
        let mut all = BTreeMap::new();
        let mut request = ListRequest::default();
        loop {
            let page = self.source.list(&request).await.unwrap();
            for blob in page.blobs {
                let content = self.source.get(&blob.pathname, &GetOptions::default()).await.unwrap().unwrap();
                let bytes = content.body.collect(u64::MAX).await.unwrap();
                all.insert(blob.pathname.clone(), (blob, bytes));
            }
            if page.cursor.is_none() {
                return all;
            }
            request.cursor = page.cursor;
        }
    }

    /// Every anchor that holds something.
    pub(super) async fn anchors(&self) -> Vec<Anchor> {
        let mut all = Vec::new();
        for shard in 0..names::SHARDS {
            let mut after = None;
            loop {
                let (anchors, next) = self.control.anchors_of_shard(shard, after).await.unwrap();
                all.extend(anchors.into_iter().filter(|anchor| anchor.state != AnchorState::Tombstone));
                after = next;
                if after.is_none() {
                    break;
                }
            }
        }
        all
    }

    /// Demands that the mirror is exactly what the source holds: items, anchors and retained bytes.
    #[track_caller]
    pub(super) fn check(&self) -> impl Future<Output = ()> {
        let caller = std::panic::Location::caller();
        async move { self.check_after(caller).await }
    }

    /// The same, after something that a failure must name.
    pub(super) async fn check_after(&self, what: impl std::fmt::Display) {
        let defects = self.defects().await;
        assert!(defects.is_empty(), "after {what}:\n{}", defects.join("\n"));
    }

    async fn defects(&self) -> Vec<String> {
        let mut defects = Vec::new();
        let mut expected = BTreeMap::new();
        let mut mapped = BTreeSet::new();
        let mut shared: BTreeMap<Key, ((Timestamp, String), Item)> = BTreeMap::new();
        let mapper = &self.converger.mapper;
        for (name, (blob, bytes)) in self.blobs().await {
            let Rule::Entity(entity) = mapper.rule(&name) else { continue };
            // What was mirrored to Blob has the time at which DynamoDB took it.
            let seen = self.control.anchor(&name).await.unwrap();
            let blob = Anchor::as_known(seen.as_ref(), blob);
            let facts = BlobFacts { pathname: &name, uploaded_at: blob.uploaded_at };
            let items = mapper.map(entity, facts, &bytes, blob.uploaded_at);
            let Some(anchor) = seen else {
                defects.push(format!("{name}: no anchor"));
                continue;
            };
            if anchor.version().map(|mapped| mapped.version) != Some(blob.version()) {
                defects.push(format!("{name}: the anchor is of another version: {anchor:?}"));
            }
            match (&anchor.state, &items) {
                (AnchorState::Live, Ok(_)) if bytes.len() <= RETAIN_MAX => {
                    let retained = self.control.bodies(&[&anchor]).await.unwrap().pop().flatten();
                    if !matches!(&retained, Some(Ok(retained)) if *retained == bytes) {
                        defects.push(format!("{name}: the retained body is {retained:?}"));
                    }
                }
                (AnchorState::Live, Ok(_)) | (AnchorState::Quarantined { .. }, Err(_)) => {}
                (state, _) => defects.push(format!("{name}: {state:?}, but it maps to {items:?}")),
            }
            let rev = anchor.items_rev.as_ref().map(ToString::to_string);
            for item in items.into_iter().flatten() {
                if item.group.is_some() {
                    let rank = (blob.uploaded_at, name.to_string());
                    let holder = shared.entry(item.key).or_insert_with(|| (rank.clone(), item.item.clone()));
                    if holder.0 <= rank {
                        *holder = (rank, item.item);
                    }
                } else {
                    expected.insert(item.key, (name.to_string(), rev.clone(), item.item));
                }
            }
            mapped.insert(name);
        }
        for (key, ((_, name), item)) in shared {
            let group = self.control.groups([&key]).await.unwrap().remove(&key);
            let rev = group.and_then(|group| group.items_rev).map(|rev| rev.to_string());
            expected.insert(key, (name, rev, item));
        }
        let found: BTreeMap<_, _> = self.items().into_iter().filter_map(ours).collect();
        if expected != found {
            defects.push(format!("expected items {expected:#?}\nfound {found:#?}"));
        }
        for anchor in self.anchors().await {
            if !mapped.contains(&anchor.pathname) {
                defects.push(format!("{}: an anchor without a blob", anchor.pathname));
            }
        }
        defects
    }
}

type Owned = (String, Option<String>, Item);

/// An item of ours, as (owner, rev, the rest).
fn ours((key, mut item): (Key, Item)) -> Option<(Key, Owned)> {
    let owner = owner(&item)?;
    let rev = source_rev(&item).map(str::to_owned);
    item.remove(SOURCE);
    Some((key, (owner, rev, item)))
}

pub(super) fn silent() -> Events {
    Arc::new(Silent)
}

pub(super) async fn run(sweep: Sweep<'_>) -> SweepReport {
    sweep.run(&silent(), &CancellationToken::new()).await.unwrap()
}

/// An item of the application, without `_source`.
pub(super) fn foreign(partition: &str, sort: &str) -> Item {
    [("PK", partition), ("SK", sort), ("owner", "the application")]
        .map(|(name, text)| (name.to_owned(), Value::s(text)))
        .into()
}

/// An item that says it is of this pathname and rev.
pub(super) fn owned(partition: &str, sort: &str, pathname: &str, rev: &str) -> Item {
    let mut item = foreign(partition, sort);
    let source = [("pathname", pathname), ("rev", rev)].map(|(name, text)| (name.to_owned(), Value::s(text)));
    item.insert(SOURCE.to_owned(), Value::M(source.into()));
    item
}
