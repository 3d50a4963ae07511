//! What the application writes to DynamoDB itself, past the gateway, once DynamoDB is the authority.

use std::collections::BTreeSet;
use std::time::Duration;

use bytes::Bytes;
use migrate::ErrorKind;
use migrate::anchored::Anchored;
use migrate::anchored::{Changed, PickedUp};
use migrate::blob::{BlobStore as _, ETag, ListRequest};
use migrate::converge::{Converged, SOURCE, owner, source_rev};
use migrate::dual_write::gateway::DualWrite;
use migrate::protocol::converge::Purpose;
use migrate::protocol::phase::Phase;
use migrate::sweep::SweepReport;
use migrate::target::control::{Anchor, Hold, Mode};
use migrate::target::memory::Operation;
use migrate::target::{Condition, Table, TargetStore as _, Write};
use migrate::value::{Item, Key, Value};

use super::gateway::{Stage, calm, over, put, refused};
use super::reverse::{new, put_with, read, when};
use super::reverse_sweep::kinds;

const DIRECT: &str = r#"
[source]
store = "test"
[target]
table = "test"
partition_key = "PK"
sort_key = "SK"
ttl = "ttl"
deletion_protection = false
[[entity]]
name = "direct"
blobs = "d/{id}.json"
direct_writes = true
pathname = "d/{{ item.id }}.json"
[[entity.item]]
PK = "D#{{ body.id }}"
SK = "META"
kind = "{{ body.kind | default('plain') }}"
[[entity]]
name = "record"
blobs = "r/{id}.json"
[[entity.item]]
PK = "R#{{ id }}"
SK = "META"
"#;

/// Its pathname is not what the template would give.
const NAME: &str = "d/1-random.json";
const BODY: &str = r#"{"id": "1", "n": 1.0}"#;

fn key(id: &str) -> Key {
    Key::new(format!("D#{id}"), "META")
}

/// An item as an application would write it.
fn item(id: &str, attributes: &[(&str, Value)]) -> Item {
    let keys = [("PK", format!("D#{id}")), ("SK", "META".to_owned()), ("id", id.to_owned())];
    let keys = keys.map(|(name, text)| (name.to_owned(), Value::S(text)));
    let others = attributes.iter().map(|(name, value)| ((*name).to_owned(), value.clone()));
    keys.into_iter().chain(others).collect()
}

impl Stage {
    /// A blob with an item that the application may write, and DynamoDB as the authority.
    async fn direct() -> (Self, DualWrite) {
        Self::direct_with(DIRECT, BODY).await
    }

    async fn direct_with(plan: &str, body: &'static str) -> (Self, DualWrite) {
        let stage = Self::with(plan);
        let gateway = stage.gateway("g").await;
        stage.while_time_passes(put(&gateway, NAME, body)).await.unwrap();
        calm().await;
        stage.rig.begin_session().await;
        stage.flip(Phase::Cutover).await;
        (stage, gateway)
    }

    async fn pick_up(&self, changed: Changed) -> PickedUp {
        let anchored = Anchored::new(self.converger(), "");
        self.while_time_passes(Box::pin(anchored.pick_up("another", &changed))).await.unwrap()
    }

    /// Whoever begins anew waits a little before.
    async fn while_time_passes<T>(&self, work: impl Future<Output = T>) -> T {
        tokio::select! {
            done = work => done,
            () = async { loop { self.moments().await } } => unreachable!(),
        }
    }

    async fn swept(&self, repair: bool) -> SweepReport {
        Box::pin(self.while_time_passes(Box::pin(self.back_sweep(repair)))).await
    }

    async fn picked(&self, id: &str) -> PickedUp {
        self.pick_up(Changed::Item(key(id))).await
    }

    /// What DynamoDB's UpdateItem does: it leaves every other attribute as it is.
    async fn update(&self, id: &str, name: &str, value: Value) {
        let write = Write::Set {
            table: Table::Data,
            key: key(id),
            name: name.to_owned(),
            value: Some(value),
            condition: Condition::Present,
        };
        let token = migrate::target::control::names::token();
        self.rig.target.transact(&token, vec![write]).await.unwrap();
    }

    async fn delete_item(&self, id: &str) {
        self.rig.remove(Table::Data, key(id)).await;
    }

    fn stored(&self, id: &str) -> Option<Item> {
        self.rig.items().remove(&key(id))
    }

    /// That both stores hold this, and that the item says whose it is.
    #[track_caller]
    fn holds(
        &self,
        name: &'static str,
        id: &'static str,
        body: Option<&'static str>,
    ) -> impl Future<Output = ()> {
        let caller = std::panic::Location::caller();
        async move {
            assert_eq!(self.in_blob(name).await.as_deref(), body, "{caller}: Blob");
            let anchor = self.rig.anchor(name).await.unwrap();
            assert_eq!(anchor.behind, None, "{caller}");
            assert_eq!(self.intents().await, [], "{caller}");
            let Some(body) = body else {
                assert_eq!(anchor.head, None, "{caller}");
                return;
            };
            assert_eq!(anchor.head.as_ref().unwrap().md5, hex_md5(body), "{caller}");
            let item = self.stored(id).unwrap();
            assert_eq!(owner(&item).as_deref(), Some(name), "{caller}");
            assert_eq!(source_rev(&item), anchor.items_rev.as_ref().map(|rev| rev.as_str()), "{caller}");
        }
    }
}

fn hex_md5(body: &str) -> String {
    ETag::of(body.as_bytes()).as_str().trim_matches('"').to_owned()
}

fn taken(picked: &PickedUp) -> &str {
    match picked {
        PickedUp::Taken { pathname, mirrored: true } => pathname.as_str(),
        other => panic!("{other:?}"),
    }
}

const UPDATED: &str = r#"{"id":"1","n":2}"#;

/// UpdateItem leaves `_source` behind. The next read sees the change, takes it over, and leaves Blob to others.
#[tokio::test]
async fn an_update_is_read_at_once_with_an_etag_and_a_time_of_its_own() {
    let (stage, gateway) = Stage::direct().await;
    assert_eq!(read(&gateway, NAME).await.as_deref(), Some(BODY), "byte by byte, as it was put");
    let before = gateway.head(&NAME.into()).await.unwrap().unwrap().blob;
    stage.update("1", "n", Value::n(2)).await;
    let head = gateway.head(&NAME.into()).await.unwrap().unwrap().blob;
    assert_eq!(head.etag, ETag::of(UPDATED.as_bytes()));
    assert_eq!(head.size, UPDATED.len() as u64);
    assert!(head.uploaded_at > before.uploaded_at);
    assert_eq!(read(&gateway, NAME).await.as_deref(), Some(UPDATED));
    let again = gateway.head(&NAME.into()).await.unwrap().unwrap().blob;
    assert_eq!(again, head, "it was taken over once");
    let listed = gateway.list(&ListRequest::default()).await.unwrap().blobs;
    assert_eq!(listed.iter().map(|blob| &blob.etag).collect::<Vec<_>>(), [&head.etag]);
    assert_eq!(stage.in_blob(NAME).await.as_deref(), Some(BODY));
    assert_eq!(taken(&stage.picked("1").await), NAME);
    stage.holds(NAME, "1", Some(UPDATED)).await;
    assert!(matches!(stage.picked("1").await, PickedUp::Equal));
}

/// What the program wrote itself is told from what the application did: nothing comes of its own changes.
#[tokio::test]
async fn own_writes_are_nobodys_change() {
    let (stage, gateway) = Stage::direct().await;
    let writes = stage.rig.target.calls(Operation::Transact);
    read(&gateway, NAME).await;
    assert!(matches!(stage.picked("1").await, PickedUp::Equal));
    assert!(matches!(stage.pick_up(Changed::Blob(NAME.into())).await, PickedUp::Equal));
    assert_eq!(stage.rig.target.calls(Operation::Transact), writes);
    stage.while_time_passes(put(&gateway, NAME, r#"{"id": "1"}"#)).await.unwrap();
    stage.while_time_passes(put(&gateway, "d/3.json", r#"{"id": "3"}"#)).await.unwrap();
    stage.settled().await;
    assert!(matches!(stage.picked("1").await, PickedUp::Equal));
    assert!(matches!(stage.picked("3").await, PickedUp::Equal));
}

/// PutItem drops `_source`: whose the item is, the anchor says.
#[tokio::test]
async fn a_put_item_is_the_blobs_whose_anchor_lists_it() {
    let (stage, gateway) = Stage::direct().await;
    stage.rig.plant(item("1", &[("n", Value::n(2))])).await;
    assert_eq!(taken(&stage.picked("1").await), NAME, "not what the template would give");
    stage.holds(NAME, "1", Some(UPDATED)).await;
    assert_eq!(read(&gateway, NAME).await.as_deref(), Some(UPDATED));
    let written = item("1", &[("n", Value::n(2))]);
    let mut kept = stage.stored("1").unwrap();
    kept.remove(SOURCE);
    assert_eq!(kept, written, "the application's attributes are as it wrote them, `kind` too");
    // The same once more: only its `_source` is missing.
    stage.rig.plant(written.clone()).await;
    let before = stage.rig.anchor(NAME).await.unwrap();
    assert_eq!(taken(&stage.picked("1").await), NAME);
    stage.holds(NAME, "1", Some(UPDATED)).await;
    assert_eq!(stage.rig.anchor(NAME).await.unwrap().head, before.head, "the blob is what it was");
    // It names another blob, which has no say in it.
    let mut stolen = written;
    stolen.insert("n".to_owned(), Value::n(3));
    let source =
        [("pathname", "d/2.json"), ("rev", "0")].map(|(name, text)| (name.to_owned(), Value::s(text)));
    stolen.insert(SOURCE.to_owned(), Value::M(source.into()));
    stage.rig.plant(stolen).await;
    assert_eq!(taken(&stage.picked("1").await), NAME);
    stage.holds(NAME, "1", Some(r#"{"id":"1","n":3}"#)).await;
}

#[tokio::test]
async fn a_deleted_item_takes_its_blob_along() {
    let (stage, gateway) = Stage::direct().await;
    stage.delete_item("1").await;
    assert_eq!(read(&gateway, NAME).await, None);
    assert_eq!(gateway.head(&NAME.into()).await.unwrap(), None);
    assert!(gateway.list(&ListRequest::default()).await.unwrap().blobs.is_empty());
    assert_eq!(stage.in_blob(NAME).await.as_deref(), Some(BODY), "a reader leaves Blob to others");
    assert_eq!(taken(&stage.pick_up(Changed::Blob(NAME.into())).await), NAME);
    stage.holds(NAME, "1", None).await;
    // The pathname is free, and the key too.
    stage.while_time_passes(put_with(&gateway, NAME, BODY, &new())).await.unwrap();
    stage.settled().await;
    stage.delete_item("1").await;
    assert_eq!(taken(&stage.picked("1").await), NAME, "by its key");
    stage.holds(NAME, "1", None).await;
}

#[tokio::test]
async fn what_expired_stays_unless_the_plan_says_otherwise() {
    const EXPIRING: &str = r#"{"id":"1","ttl":1793491300}"#;
    let mirrored = DIRECT.replace("direct_writes = true", "direct_writes = true\nmirror_expiry = true");
    for (plan, stays) in [(DIRECT, true), (mirrored.as_str(), false)] {
        let (stage, gateway) = Stage::direct_with(plan, EXPIRING).await;
        stage.pass(Duration::from_secs(200)).await;
        assert_eq!(read(&gateway, NAME).await.as_deref(), Some(EXPIRING), "not deleted yet");
        stage.delete_item("1").await;
        assert_eq!(read(&gateway, NAME).await.as_deref(), stays.then_some(EXPIRING));
        stage.picked("1").await;
        assert_eq!(stage.in_blob(NAME).await.as_deref(), stays.then_some(EXPIRING));
        // It is written again.
        stage.while_time_passes(put_with(&gateway, NAME, BODY, &over())).await.unwrap();
        stage.settled().await;
        assert!(stage.stored("1").is_some());
    }
    // Deleted before its time.
    let (stage, gateway) = Stage::direct_with(DIRECT, EXPIRING).await;
    stage.delete_item("1").await;
    assert_eq!(read(&gateway, NAME).await, None);
}

#[tokio::test]
async fn a_new_item_becomes_the_blob_that_its_template_names() {
    let (stage, gateway) = Stage::direct().await;
    stage.rig.plant(item("2", &[("text", Value::s("é\"")), ("list", Value::L(vec![Value::Null]))])).await;
    assert_eq!(read(&gateway, "d/2.json").await, None, "nothing tells of it yet");
    assert_eq!(taken(&stage.picked("2").await), "d/2.json");
    const JSON: &str = r#"{"id":"2","list":[null],"text":"é\""}"#;
    stage.holds("d/2.json", "2", Some(JSON)).await;
    assert_eq!(read(&gateway, "d/2.json").await.as_deref(), Some(JSON));
    let listed = gateway.list(&ListRequest::default()).await.unwrap().blobs;
    assert_eq!(listed.len(), 2);
    // Again under the same key, after its end: the owner that is noted is nobody's any more.
    stage.delete_item("2").await;
    stage.picked("2").await;
    stage.rig.plant(item("2", &[])).await;
    assert_eq!(taken(&stage.picked("2").await), "d/2.json");
    stage.holds("d/2.json", "2", Some(r#"{"id":"2"}"#)).await;
    // A write through the gateway finds the new item that nobody told of yet.
    stage.rig.plant(item("4", &[])).await;
    let taken = stage
        .while_time_passes(put_with(&gateway, "d/4.json", r#"{"id": "4", "by": "gateway"}"#, &new()))
        .await;
    assert_eq!(refused(taken).kind(), ErrorKind::AlreadyExists);
    stage.while_time_passes(put(&gateway, "d/4.json", r#"{"id": "4", "by": "gateway"}"#)).await.unwrap();
    stage.settled_items().await;
    stage.holds("d/4.json", "4", Some(r#"{"id": "4", "by": "gateway"}"#)).await;
}

#[tokio::test]
async fn what_no_blob_can_hold_is_refused_and_said() {
    let (stage, gateway) = Stage::direct().await;
    let not_ours = async |id: &str| {
        let picked = stage.picked(id).await;
        let PickedUp::NotOurs(reasons) = picked else { panic!("{picked:?}") };
        reasons[0].1.to_string()
    };
    // New ones.
    let mut other = item("5", &[]);
    other.insert("id".to_owned(), Value::s("6"));
    stage.rig.plant(other).await;
    assert!(not_ours("5").await.contains("the plan makes the item D#6 / META"));
    let mut nameless = item("7", &[]);
    nameless.remove("id");
    stage.rig.plant(nameless).await;
    assert!(not_ours("7").await.contains("`pathname`"));
    stage.rig.plant(item("a/b", &[])).await;
    assert!(not_ours("a/b").await.contains("d/a/b.json"));
    // Its pathname is another item's.
    let (_, blob) = (put(&gateway, "d/9.json", r#"{"id": "8"}"#).await.unwrap(), "d/9.json");
    stage.settled_items().await;
    stage.rig.plant(item("9", &[])).await;
    let PickedUp::Refused(error) = stage.picked("9").await else { panic!() };
    assert!(error.to_string().contains(blob), "{error}");
    // A set, in an item that is a blob's.
    stage.update("1", "tags", Value::Ss(vec!["a".to_owned()])).await;
    let PickedUp::Refused(error) = stage.picked("1").await else { panic!() };
    assert!(error.to_string().contains("D#1 / META"), "{error}");
    assert_eq!(refused(gateway.head(&NAME.into()).await).kind(), ErrorKind::Unrepresentable);
    let etag = ETag::of(BODY.as_bytes());
    assert_eq!(
        refused(stage.while_time_passes(put_with(&gateway, NAME, BODY, &when(&etag))).await).kind(),
        ErrorKind::LostRace
    );
    assert_eq!(
        refused(stage.while_time_passes(put_with(&gateway, NAME, BODY, &new())).await).kind(),
        ErrorKind::AlreadyExists
    );
    stage.while_time_passes(put(&gateway, NAME, UPDATED)).await.expect("it may be overwritten");
    stage.moments().await;
    stage.holds(NAME, "1", Some(UPDATED)).await;
}

/// What the application wrote stays, be it a version of the blob or not, though the anchor is what was shown.
#[tokio::test]
async fn a_foreign_blob_is_adopted_over_no_item_that_the_application_wrote_since() {
    for value in [Value::s("theirs"), Value::Ss(vec!["theirs".to_owned()])] {
        let (stage, _gateway) = Stage::direct().await;
        let directory = tempfile::tempdir().unwrap();
        stage.rig.put(NAME, r#"{"id": "1", "n": 2}"#).await;
        let rev = stage.rev(NAME).await;
        stage.update("1", "note", value).await;
        let before = stage.rig.item("D#1", "META");
        let adopting = stage.adopt_over(NAME, rev.as_ref(), true, directory.path());
        let error = refused(stage.while_time_passes(Box::pin(adopting)).await);
        assert_eq!(error.kind(), ErrorKind::LostRace, "{error}");
        let [before, after] = [before, stage.rig.item("D#1", "META")].map(|item| {
            let mut item = item.unwrap();
            item.remove(SOURCE);
            item
        });
        assert_eq!(after, before);
    }
}

#[tokio::test]
async fn conditions_of_clients_are_judged_by_what_the_application_wrote() {
    let (stage, gateway) = Stage::direct().await;
    let etag = ETag::of(BODY.as_bytes());
    stage.update("1", "n", Value::n(2)).await;
    assert_eq!(
        refused(stage.while_time_passes(put_with(&gateway, NAME, BODY, &when(&etag))).await).kind(),
        ErrorKind::LostRace
    );
    let gone = stage.while_time_passes(gateway.delete(&[NAME.into()], Some(&etag))).await;
    assert_eq!(refused(gone).kind(), ErrorKind::LostRace);
    let copied = stage.while_time_passes(gateway.copy(&NAME.into(), &"r/1.json".into(), &when(&etag))).await;
    assert_eq!(refused(copied).kind(), ErrorKind::LostRace);
    stage.settled_items().await;
    stage.holds(NAME, "1", Some(UPDATED)).await;
    stage
        .while_time_passes(put_with(&gateway, NAME, r#"{"id":"1"}"#, &when(&ETag::of(UPDATED.as_bytes()))))
        .await
        .unwrap();
    stage.update("1", "n", Value::n(7)).await;
    stage.while_time_passes(gateway.copy(&NAME.into(), &"r/1.json".into(), &over())).await.unwrap();
    stage.update("1", "n", Value::n(8)).await;
    stage.while_time_passes(gateway.rename(&NAME.into(), &"d/renamed.json".into(), &over())).await.unwrap();
    stage.settled_items().await;
    assert_eq!(stage.in_blob("r/1.json").await.as_deref(), Some(r#"{"id":"1","n":7}"#));
    stage.holds("d/renamed.json", "1", Some(r#"{"id":"1","n":8}"#)).await;
    stage.update("1", "n", Value::n(9)).await;
    assert_eq!(taken(&stage.picked("1").await), "d/renamed.json", "the owner moved with it");
    stage.update("1", "n", Value::n(10)).await;
    stage.while_time_passes(gateway.delete(&["d/renamed.json".into()], None)).await.unwrap();
    stage.settled_items().await;
    assert_eq!(stage.stored("1"), None);
}

/// A write of the application between a gateway's look and its transaction is not lost: the transaction is refused.
#[tokio::test]
async fn a_direct_write_in_between_is_not_lost() {
    let changes: [fn(&Stage) -> futures::future::BoxFuture<'_, ()>; 3] = [
        |stage| Box::pin(stage.update("1", "n", Value::n(5))),
        |stage| Box::pin(stage.rig.plant(item("1", &[("n", Value::n(5))]))),
        |stage| Box::pin(stage.delete_item("1")),
    ];
    for (number, change) in changes.into_iter().enumerate() {
        // Between a look and taking over.
        let (stage, gateway) = Stage::direct().await;
        stage.update("1", "n", Value::n(2)).await;
        let mut slow = stage.rig.target.pause(Operation::Transact);
        let reading = tokio::spawn({
            let gateway = gateway.clone();
            async move { read(&gateway, NAME).await }
        });
        slow.arrived().await;
        change(&stage).await;
        slow.release();
        let expected = (number < 2).then_some(r#"{"id":"1","n":5}"#);
        let seen = stage.while_time_passes(reading).await.unwrap();
        assert_eq!(seen.as_deref(), expected, "change {number}");
        stage.picked("1").await;
        stage.holds(NAME, "1", expected).await;

        // Between a writer's look and its write, under the ETag that it knows.
        let (stage, _gateway) = Stage::direct().await;
        let anchored = Anchored::new(stage.converger(), "");
        let mut slow = stage.rig.target.pause(Operation::Transact);
        let writing = tokio::spawn({
            let etag = ETag::of(BODY.as_bytes());
            async move {
                anchored.put(&NAME.into(), Bytes::from(r#"{"id":"1","n":6}"#).into(), &when(&etag)).await
            }
        });
        slow.arrived().await;
        change(&stage).await;
        slow.release();
        let written = stage.while_time_passes(writing).await.unwrap();
        assert_eq!(refused(written).kind(), ErrorKind::LostRace, "change {number}");
        stage.picked("1").await;
        stage.holds(NAME, "1", expected).await;
    }
}

/// An attribute that is added while an item is taken over stays in it, and is taken over next.
#[tokio::test]
async fn what_is_added_in_between_stays() {
    let (stage, gateway) = Stage::direct().await;
    stage.update("1", "n", Value::n(2)).await;
    let mut slow = stage.rig.target.pause(Operation::Transact);
    let reading = tokio::spawn({
        let gateway = gateway.clone();
        async move { read(&gateway, NAME).await }
    });
    slow.arrived().await;
    stage.update("1", "z", Value::n(1)).await;
    slow.release();
    reading.await.unwrap();
    assert_eq!(read(&gateway, NAME).await.as_deref(), Some(r#"{"id":"1","n":2,"z":1}"#));
}

/// While a hold is set nobody may write: what the application wrote is read all the same.
#[tokio::test]
async fn under_a_hold_it_is_read_and_not_taken_over() {
    let (stage, gateway) = Stage::direct().await;
    let seen = stage.rig.control.mode().await.unwrap().unwrap();
    let hold = Hold { id: "h".to_owned(), target: Phase::Shadow, by: "ada".to_owned(), limit_ms: 2_000 };
    assert!(stage.rig.control.flip(&seen, &Mode { hold: Some(hold), ..seen.clone() }, None).await.unwrap());
    stage.look().await;
    stage.update("1", "n", Value::n(2)).await;
    let before = stage.rig.anchor(NAME).await;
    assert_eq!(read(&gateway, NAME).await.as_deref(), Some(UPDATED));
    let head = gateway.head(&NAME.into()).await.unwrap().unwrap();
    assert_eq!(head.blob.etag, ETag::of(UPDATED.as_bytes()));
    assert_eq!(stage.rig.anchor(NAME).await, before);
}

/// An outage of Blob leaves an intent, which brings Blob up to what the application wrote.
#[tokio::test]
async fn what_could_not_be_mirrored_keeps_its_intent() {
    let (stage, _gateway) = Stage::direct().await;
    stage.update("1", "n", Value::n(2)).await;
    stage.rig.faults.set_outage(Some(ErrorKind::NotApplied));
    let picked = stage.picked("1").await;
    assert!(matches!(picked, PickedUp::Taken { mirrored: false, .. }), "{picked:?}");
    assert_eq!(stage.intents().await.len(), 1);
    stage.rig.faults.set_outage(None);
    let mut replay = stage.replay();
    stage.replayed(&mut replay).await;
    assert_eq!(stage.in_blob(NAME).await.as_deref(), Some(UPDATED));
    stage.pass(stage.plan.timing.late_write_max.0).await;
    stage.replayed(&mut replay).await;
    stage.holds(NAME, "1", Some(UPDATED)).await;
}

/// While Blob is the authority, an item that was written directly is drift, as ever.
#[tokio::test]
async fn while_blob_is_the_authority_nothing_is_taken_over() {
    let stage = Stage::with(DIRECT);
    let gateway = stage.gateway("g").await;
    stage.while_time_passes(put(&gateway, NAME, BODY)).await.unwrap();
    calm().await;
    stage.update("1", "n", Value::n(2)).await;
    assert_eq!(read(&gateway, NAME).await.as_deref(), Some(BODY));
    let sweep = stage.rig.sweep(migrate::sweep::Level::Content, true).await;
    assert_eq!(sweep.drift.len(), 1, "{sweep:?}");
    stage.rig.check().await;
    let anchor: Anchor = stage.rig.anchor(NAME).await.unwrap();
    assert!(anchor.item.is_some() && !anchor.adopted);
}

/// A sweep holds items against their anchors, and makes the anchor follow what the application wrote.
#[tokio::test]
async fn a_converge_of_items_takes_over_and_overwrites_nothing() {
    let (stage, gateway) = Stage::direct().await;
    let items = Anchored::new(stage.converger(), "").of_items();
    for purpose in [Purpose::Repair, Purpose::Reconcile] {
        stage.update("1", "n", Value::n(2)).await;
        let written = stage.stored("1");
        let converged =
            stage.while_time_passes(Box::pin(items.converge(&NAME.into(), purpose))).await.unwrap();
        assert_eq!(converged, Converged::Written);
        assert_eq!(stage.stored("1").unwrap()["n"], written.unwrap()["n"]);
        assert_eq!(read(&gateway, NAME).await.as_deref(), Some(UPDATED));
        stage.delete_item("1").await;
        stage.while_time_passes(Box::pin(items.converge(&NAME.into(), purpose))).await.unwrap();
        assert_eq!(stage.stored("1"), None);
        assert_eq!(read(&gateway, NAME).await, None);
        stage.while_time_passes(put(&gateway, NAME, BODY)).await.unwrap();
        stage.settled_items().await;
    }
}

/// Without a stream, or while nobody follows it: a sweep finds what the application wrote, and takes it over.
#[tokio::test]
async fn a_sweep_takes_over_what_the_application_wrote() {
    let (stage, gateway) = Stage::direct().await;
    stage.while_time_passes(put(&gateway, "d/2.json", r#"{"id": "2"}"#)).await.unwrap();
    stage.settled().await;
    stage.update("1", "n", Value::n(2)).await;
    // What the plan sets otherwise is the application's too.
    stage.update("1", "kind", Value::s("special")).await;
    stage.delete_item("2").await;
    stage.rig.plant(item("3", &[("n", Value::n(3))])).await;
    // An item made of another one bears the other's name.
    let mut copied = stage.stored("1").unwrap();
    copied.extend(item("4", &[("n", Value::n(4))]));
    stage.rig.plant(copied).await;
    let found = stage.swept(false).await;
    let names: BTreeSet<_> = kinds(&found).into_iter().map(|(_, name)| name.to_owned()).collect();
    let expected = [NAME, "d/2.json", "d/3.json", "d/4.json"].map(str::to_owned);
    assert_eq!(names, BTreeSet::from(expected), "{found:?}");
    assert!(stage.stored("3").is_some() && stage.stored("4").is_some());

    let repaired = stage.swept(true).await;
    assert_eq!(repaired.present_drift(), []);
    let again = stage.swept(false).await;
    assert_eq!(again.obstacles(), Vec::<String>::new());
    for (name, body) in [
        (NAME, Some(r#"{"id":"1","n":2}"#)),
        ("d/2.json", None),
        ("d/3.json", Some(r#"{"id":"3","n":3}"#)),
        ("d/4.json", Some(r#"{"id":"4","n":4}"#)),
    ] {
        assert_eq!(stage.in_blob(name).await.as_deref(), body, "{name}");
        assert_eq!(read(&gateway, name).await.as_deref(), body, "{name}");
    }
    assert_eq!(stage.intents().await, []);
}
