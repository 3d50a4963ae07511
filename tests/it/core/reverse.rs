//! The gateway once DynamoDB is the authority: it answers from anchors, and Blob is the mirror.

use std::collections::BTreeSet;
use std::time::Duration;

use bytes::Bytes;
use migrate::blob::faults::{Fault as BlobFault, Operation as Blob};
use migrate::blob::store::{GetOptions, PutOptions};
use migrate::blob::{BlobStore as _, ETag, ListRequest, Pathname};
use migrate::dual_write::gateway::DualWrite;
use migrate::dual_write::replay::{Replay, ReplayReport};
use migrate::protocol::phase::Phase;
use migrate::sweep::Level;
use migrate::target::control::{AnchorState, Mode};
use migrate::target::memory::{Fault, Operation};
use migrate::{ErrorKind, Result};

use super::gateway::{A, B, NAME, Stage, calm, over, put, putting, refused};
use super::way_back::{LISTS, records};

pub(super) const C: &str = r#"{"v": "C"}"#;

impl Stage {
    /// Both stores with a blob, a gateway, and DynamoDB as the authority.
    pub(super) async fn flipped() -> (Self, DualWrite) {
        let stage = Self::new();
        let gateway = stage.gateway("g").await;
        put(&gateway, NAME, A).await.unwrap();
        stage.rig.begin_session().await;
        stage.flip(Phase::Cutover).await;
        (stage, gateway)
    }

    /// Changes the phase, and lets gateways see it.
    pub(super) async fn flip(&self, phase: Phase) {
        calm().await;
        let seen = self.rig.control.mode().await.unwrap().unwrap();
        let to = Mode { phase, epoch: seen.epoch.next(), ..seen.clone() };
        assert!(self.rig.control.flip(&seen, &to, None).await.unwrap());
        self.look().await;
    }

    /// What Blob holds.
    pub(super) async fn in_blob(&self, name: &str) -> Option<String> {
        let (_, bytes) = self.rig.blobs().await.remove(&Pathname::from(name))?;
        Some(String::from_utf8(bytes.to_vec()).unwrap())
    }

    /// Lets some moments pass, in which whoever waits looks again.
    pub(super) async fn moments(&self) {
        for _ in 0..10 {
            self.pass(Duration::from_millis(50)).await;
        }
    }

    /// A replay by another process, while time passes.
    pub(super) async fn replayed(&self, replay: &mut Replay) -> ReplayReport {
        tokio::select! {
            report = self.pass_of(replay) => report,
            () = async { loop { self.moments().await } } => unreachable!(),
        }
    }

    /// Waits for what is under way, and demands that both stores are equal and no intent is left.
    pub(super) async fn settled(&self) {
        self.settled_items().await;
        self.rig.check().await;
    }

    /// The same where the application wrote items as the plan would not.
    pub(super) async fn settled_items(&self) {
        self.moments().await;
        assert_eq!(self.intents().await, []);
        assert_eq!(self.rig.control.notes().await.unwrap(), []);
        for anchor in self.rig.anchors().await {
            assert_eq!(anchor.behind, None, "{}", anchor.pathname);
        }
    }
}

pub(super) async fn read(gateway: &DualWrite, name: &str) -> Option<String> {
    let content = gateway.get(&name.into(), &GetOptions::default()).await.unwrap()?;
    Some(String::from_utf8(content.body.collect(1 << 30).await.unwrap().to_vec()).unwrap())
}

async fn names(gateway: &DualWrite, request: &ListRequest) -> Vec<String> {
    let page = gateway.list(request).await.unwrap();
    page.blobs.iter().map(|blob| blob.pathname.to_string()).chain(page.folders).collect()
}

pub(super) fn when(etag: &ETag) -> PutOptions {
    PutOptions { if_match: Some(etag.clone()), ..over() }
}

pub(super) fn new() -> PutOptions {
    PutOptions::default()
}

pub(super) async fn put_with(
    gateway: &DualWrite,
    name: &str,
    body: &'static str,
    options: &PutOptions,
) -> Result<ETag> {
    gateway.put(&name.into(), Bytes::from(body).into(), options).await.map(|head| head.blob.etag)
}

#[tokio::test]
async fn every_operation_holds_in_dynamodb_and_reaches_blob() {
    let (stage, gateway) = Stage::flipped().await;
    let (one, two) = (Pathname::from(NAME), Pathname::from("r/2.json"));
    assert_eq!(read(&gateway, NAME).await.as_deref(), Some(A), "what was mirrored before");
    let stored = put(&gateway, NAME, B).await.unwrap();
    assert_eq!(stored.blob.etag, ETag::of(B.as_bytes()));
    assert_eq!(gateway.head(&one).await.unwrap().unwrap().blob, stored.blob);
    gateway.copy(&one, &"p/2.json".into(), &over()).await.unwrap();
    put(&gateway, "r/2.json", C).await.unwrap();
    gateway.rename(&two, &"r/3.json".into(), &over()).await.unwrap();
    assert_eq!(gateway.head(&two).await.unwrap(), None);
    let suffix = PutOptions { add_random_suffix: true, ..new() };
    let suffixed = gateway.put(&"r/5.json".into(), Bytes::from(C).into(), &suffix).await.unwrap();
    assert!(suffixed.blob.pathname.as_str().starts_with("r/5-"), "{suffixed:?}");
    put(&gateway, "r/7.json", C).await.unwrap();
    put(&gateway, "picture.png", "bytes").await.unwrap();
    gateway.delete(&["r/7.json".into(), "picture.png".into(), "r/absent.json".into()], None).await.unwrap();
    stage.settled().await;
    for (name, body) in [(NAME, B), ("p/2.json", B), ("r/3.json", C), (suffixed.blob.pathname.as_str(), C)] {
        assert_eq!(stage.in_blob(name).await.as_deref(), Some(body), "{name}");
        assert_eq!(read(&gateway, name).await.as_deref(), Some(body), "{name}");
    }
    assert_eq!(stage.rig.blobs().await.len(), 4);
}

/// A rename keeps the key of an item that both names map to, and one transaction moves it.
#[tokio::test]
async fn a_rename_is_one_transaction_even_where_the_item_stays() {
    let (stage, gateway) = Stage::flipped().await;
    put(&gateway, "r/2.json", B).await.unwrap();
    calm().await;
    let taken = gateway.copy(&"r/2.json".into(), &"r/3.json".into(), &over()).await;
    assert_eq!(refused(taken).kind(), ErrorKind::Unrepresentable, "its item is another blob's");
    gateway.rename(&"r/2.json".into(), &"r/3.json".into(), &over()).await.unwrap();
    stage.settled().await;
    assert_eq!(names(&gateway, &ListRequest::default()).await, [NAME, "r/3.json"]);
}

#[tokio::test]
async fn conditions_are_judged_by_dynamodb_so_one_of_many_wins() {
    let (stage, first) = Stage::flipped().await;
    let second = stage.gateway("g2").await;
    assert_eq!(put_with(&first, NAME, B, &new()).await.unwrap_err().kind(), ErrorKind::AlreadyExists);
    let etag = ETag::of(A.as_bytes());
    let (matches, create) = (when(&etag), new());
    let (one, other) =
        tokio::join!(put_with(&first, NAME, B, &matches), put_with(&second, NAME, C, &matches));
    assert!(one.is_ok() != other.is_ok(), "{one:?} {other:?}");
    let (one, other) =
        tokio::join!(put_with(&first, "r/9.json", A, &create), put_with(&second, "r/9.json", C, &create));
    let kinds: Vec<_> = [one, other].into_iter().filter_map(Result::err).map(|error| error.kind()).collect();
    assert_eq!(kinds, [ErrorKind::AlreadyExists]);
    let gone = first.delete(&[NAME.into()], Some(&etag)).await;
    assert_eq!(refused(gone).kind(), ErrorKind::LostRace);
    stage.settled().await;
}

#[tokio::test]
async fn a_repeated_request_sees_its_own_write() {
    let (stage, gateway) = Stage::flipped().await;
    let etag = ETag::of(A.as_bytes());
    for options in [new(), when(&etag)] {
        let name = if options.if_match.is_some() { NAME } else { "r/2.json" };
        let request = Some(format!("store:1:{name}"));
        let options = PutOptions { request, ..options };
        let first = put_with(&gateway, name, C, &options).await.unwrap();
        let written = stage.rig.anchor(name).await;
        assert_eq!(put_with(&gateway, name, C, &options).await.unwrap(), first);
        calm().await;
        let now = stage.rig.anchor(name).await.unwrap();
        assert_eq!(now.head.unwrap().uploaded_at, written.unwrap().head.unwrap().uploaded_at, "one write");
        let other = PutOptions { request: Some("store:2:another".to_owned()), ..options };
        refused(put_with(&gateway, name, C, &other).await);
    }
    stage.settled().await;
}

/// An id is the client's choice: one that is used again for something else is no repetition.
#[tokio::test]
async fn an_id_that_is_used_again_for_something_else_is_another_request() {
    let (stage, gateway) = Stage::flipped().await;
    let named = |options: PutOptions| PutOptions { request: Some("always the same".to_owned()), ..options };
    put_with(&gateway, NAME, B, &named(over())).await.unwrap();
    put_with(&gateway, NAME, C, &named(over())).await.unwrap();
    assert_eq!(read(&gateway, NAME).await.as_deref(), Some(C), "other content");
    let other = named(PutOptions { content_type: Some("text/plain".to_owned()), ..over() });
    put_with(&gateway, NAME, C, &other).await.unwrap();
    let head = gateway.head(&NAME.into()).await.unwrap().unwrap();
    assert_eq!(head.content_type, "text/plain", "other options");
    let created = put_with(&gateway, NAME, C, &named(new())).await;
    assert_eq!(refused(created).kind(), ErrorKind::AlreadyExists, "another condition");
    put(&gateway, "r/from.json", A).await.unwrap();
    gateway.copy(&"r/from.json".into(), &NAME.into(), &named(over())).await.unwrap();
    assert_eq!(read(&gateway, NAME).await.as_deref(), Some(A), "another operation");
    gateway.copy(&"r/2.json".into(), &NAME.into(), &named(over())).await.unwrap_err();
    stage.settled().await;
}

#[tokio::test]
async fn what_can_not_become_items_is_refused_before_it_has_an_effect() {
    let (stage, gateway) = Stage::flipped().await;
    let error = refused(put(&gateway, NAME, "no json").await);
    assert_eq!(error.kind(), ErrorKind::Unrepresentable);
    assert_eq!(read(&gateway, NAME).await.as_deref(), Some(A));
    stage.settled().await;
    assert_eq!(stage.in_blob(NAME).await.as_deref(), Some(A));
}

/// Mapped names from anchors, the others from Blob, in one order, whatever the size of a page.
#[tokio::test]
async fn a_listing_merges_both_stores_in_order() {
    let (stage, gateway) = Stage::flipped().await;
    let mut all = BTreeSet::from([NAME.to_owned()]);
    for n in 0..40 {
        for name in [format!("r/{n:02}-é.json"), format!("x/{n}.png"), format!("r/sub/{n}.png")] {
            put(&gateway, &name, A).await.ok();
            all.insert(name);
        }
    }
    for name in [&"r/05-é.json", &"x/5.png"] {
        gateway.delete(&[(*name).into()], None).await.unwrap();
        all.remove(*name);
    }
    calm().await;
    // What only Blob holds of these names is not the application's state.
    stage.rig.put("r/ghost.json", B).await;
    for limit in [1, 3, 7, 1000] {
        for (prefix, folded) in
            [("", false), ("r/", false), ("r/0", false), ("", true), ("r/", true), ("x/1", true)]
        {
            let mut expected: Vec<String> = Vec::new();
            for name in all.iter().filter(|name| name.starts_with(prefix)) {
                let slash = name[prefix.len()..].find('/').filter(|_| folded);
                let entry = slash.map_or(name.as_str(), |at| &name[..=prefix.len() + at]).to_owned();
                if expected.last() != Some(&entry) {
                    expected.push(entry);
                }
            }
            let mut request = ListRequest {
                prefix: prefix.to_owned(),
                folded,
                limit: Some(limit),
                ..ListRequest::default()
            };
            let mut found = Vec::new();
            loop {
                let page = gateway.list(&request).await.unwrap();
                let mut entries: Vec<String> =
                    page.blobs.iter().map(|blob| blob.pathname.to_string()).collect();
                entries.extend(page.folders);
                assert!(entries.len() <= limit as usize);
                entries.sort_unstable();
                found.extend(entries);
                let Some(cursor) = page.cursor else { break };
                request.cursor = Some(cursor);
            }
            assert_eq!(found, expected, "{prefix:?} folded {folded} by {limit}");
        }
    }
}

#[tokio::test]
async fn a_write_past_the_gateway_is_kept_and_never_overwritten() {
    let (stage, gateway) = Stage::flipped().await;
    stage.rig.put(NAME, C).await;
    put(&gateway, NAME, B).await.unwrap();
    stage.rig.put("r/2.json", C).await;
    put(&gateway, "r/2.json", r#"{"v": "2"}"#).await.unwrap();
    gateway.delete(&["r/2.json".into()], None).await.unwrap();
    stage.moments().await;
    assert_eq!(read(&gateway, NAME).await.as_deref(), Some(B), "DynamoDB is right");
    assert_eq!(stage.in_blob(NAME).await.as_deref(), Some(C), "and what is not ours is kept");
    assert_eq!(stage.in_blob("r/2.json").await.as_deref(), Some(C));
    assert!(stage.rig.anchor(NAME).await.unwrap().behind.is_some(), "it says that Blob is not equal");
}

#[tokio::test]
async fn an_outage_of_blob_holds_nobody_up_and_is_caught_up_with() {
    let (stage, gateway) = Stage::flipped().await;
    stage.rig.faults.set_outage(Some(ErrorKind::NotApplied));
    put(&gateway, NAME, B).await.unwrap();
    gateway.delete(&["r/2.json".into()], None).await.unwrap();
    assert_eq!(read(&gateway, NAME).await.as_deref(), Some(B));
    stage.moments().await;
    assert_eq!(stage.intents().await.len(), 2);
    stage.rig.faults.set_outage(None);
    let mut replay = stage.replay();
    stage.replayed(&mut replay).await;
    assert_eq!(stage.in_blob(NAME).await.as_deref(), Some(B));
    stage.pass(stage.plan.timing.late_write_max.0).await;
    assert_eq!(stage.replayed(&mut replay).await.cleared, 2);
    stage.settled().await;
}

#[tokio::test]
async fn without_dynamodb_it_fails_closed() {
    let (stage, gateway) = Stage::flipped().await;
    stage.rig.target.outage(Some(ErrorKind::NotApplied));
    let writing = putting(&gateway, NAME, B);
    stage.pass(Duration::from_secs(2)).await;
    stage.pass(Duration::from_secs(12)).await;
    assert_eq!(writing.await.unwrap().unwrap_err().kind(), ErrorKind::Busy);
    let reading = gateway.head(&NAME.into()).await;
    assert_eq!(refused(reading).kind(), ErrorKind::Busy);
    assert_eq!(stage.in_blob(NAME).await.as_deref(), Some(A), "nothing went to Blob");
    put(&gateway, "picture.png", "bytes").await.expect("what is Blob's goes on");
}

/// Trace B13: a slow mirror put of an older version must not undo a newer one of the same content as before.
#[tokio::test]
async fn a_slow_mirror_put_is_looked_at_again() {
    let (stage, first) = Stage::flipped().await;
    let second = stage.gateway("g2").await;
    let mut slow = stage.rig.faults.pause(Blob::Put);
    put(&first, NAME, B).await.unwrap();
    slow.arrived().await;
    // The content that Blob holds: the other gateway's mirror is equal at once.
    put(&second, NAME, A).await.unwrap();
    calm().await;
    assert_eq!(stage.in_blob(NAME).await.as_deref(), Some(A));
    slow.release();
    stage.moments().await;
    stage.settled().await;
    assert_eq!(stage.in_blob(NAME).await.as_deref(), Some(A));
}

/// Trace B14: it lands after all, since Blob holds again what it expects. Its note is there until it can't land any more,
/// and whoever replays that repairs it.
#[tokio::test]
async fn a_late_mirror_put_is_repaired_by_its_note() {
    let (stage, first) = Stage::flipped().await;
    let second = stage.gateway("g2").await;
    stage.rig.faults.fault(Blob::Put, BlobFault::Held);
    put(&first, NAME, B).await.unwrap();
    stage.moments().await;
    put(&second, NAME, A).await.unwrap();
    stage.moments().await;
    assert_eq!(stage.intents().await, [], "the writes themselves are over");
    let left = stage.rig.control.notes().await.unwrap();
    assert_eq!(left.len(), 1, "the put that got no answer: {left:?}");
    assert_eq!(left[0].expects.as_ref().unwrap().etag, ETag::of(A.as_bytes()));
    assert_eq!(stage.in_blob(NAME).await.as_deref(), Some(A));
    stage.rig.faults.release_held().await;
    assert_eq!(stage.in_blob(NAME).await.as_deref(), Some(B), "it landed");
    let mut replay = stage.replay();
    stage.replayed(&mut replay).await;
    assert_eq!(stage.in_blob(NAME).await.as_deref(), Some(A));
    assert_eq!(stage.rig.control.notes().await.unwrap(), left, "its window is not over");
    stage.pass(stage.plan.timing.mirror_late_max.0).await;
    stage.replayed(&mut replay).await;
    assert_eq!(stage.rig.control.notes().await.unwrap(), []);
    stage.settled().await;
}

/// Whoever mirrors puts what the anchor says then, which may be another's write. Landing late, it is known as ours,
/// whose intents are gone by then.
#[tokio::test]
async fn what_was_put_for_another_write_is_known_as_ours_when_it_lands_late() {
    let (stage, first) = Stage::flipped().await;
    let second = stage.gateway("g2").await;
    let mut putting = stage.rig.faults.pause(Blob::Put);
    put(&first, NAME, B).await.unwrap();
    putting.arrived().await;
    let mut looking = stage.rig.faults.pause(Blob::Head);
    put(&second, NAME, C).await.unwrap();
    looking.arrived().await;
    // The first one's put is answered; the anchor says C by then, and the first one puts that: it lands late.
    stage.rig.faults.fault(Blob::Put, BlobFault::Held);
    putting.release();
    stage.moments().await;
    looking.release();
    stage.moments().await;
    put(&second, NAME, B).await.unwrap();
    stage.moments().await;
    assert_eq!(stage.in_blob(NAME).await.as_deref(), Some(B));
    stage.rig.faults.release_held().await;
    assert_eq!(stage.in_blob(NAME).await.as_deref(), Some(C), "it landed");
    let mut replay = stage.replay();
    stage.replayed(&mut replay).await;
    stage.pass(stage.plan.timing.late_write_max.0).await;
    stage.replayed(&mut replay).await;
    assert_eq!(stage.in_blob(NAME).await.as_deref(), Some(B));
    stage.settled().await;
}

/// A mirror put whose reply was lost is known again: its content is what the anchor, or an open intent, says.
#[tokio::test]
async fn a_mirror_put_without_an_answer_is_known_again() {
    let (stage, gateway) = Stage::flipped().await;
    stage.rig.faults.fault(Blob::Put, BlobFault::AppliedThenLost);
    put(&gateway, NAME, B).await.unwrap();
    stage.moments().await;
    assert_eq!(stage.in_blob(NAME).await.as_deref(), Some(B));
    put(&gateway, NAME, C).await.unwrap();
    stage.moments().await;
    assert_eq!(stage.in_blob(NAME).await.as_deref(), Some(C));
    let mut replay = stage.replay();
    stage.replayed(&mut replay).await;
    stage.pass(stage.plan.timing.late_write_max.0).await;
    stage.replayed(&mut replay).await;
    stage.settled().await;
}

#[tokio::test]
async fn an_upload_in_parts_is_taken_over_from_blob() {
    let (stage, gateway) = Stage::flipped().await;
    let upload_of = async |name: &'static str, options: PutOptions, body: &'static str| {
        let name = Pathname::from(name);
        let upload = gateway.create_multipart(&name, &options).await?;
        let part = gateway.upload_part(&name, &upload, 1, Bytes::from(body).into()).await?;
        gateway.complete_multipart(&name, &upload, &[part], &new()).await
    };
    let head = upload_of("r/2.json", new(), C).await.unwrap();
    assert_eq!(head.blob.etag, ETag::of(C.as_bytes()), "the MD5 of its bytes, whatever Blob calls it");
    assert_eq!(read(&gateway, "r/2.json").await.as_deref(), Some(C));
    assert_eq!(refused(upload_of(NAME, new(), C).await).kind(), ErrorKind::AlreadyExists);
    upload_of(NAME, over(), C).await.unwrap();
    // Unmappable: the mirror has it by then, and gets back what DynamoDB holds.
    assert_eq!(refused(upload_of(NAME, over(), "no json").await).kind(), ErrorKind::Unrepresentable);
    stage.moments().await;
    assert_eq!(stage.in_blob(NAME).await.as_deref(), Some(C));
    stage.settled().await;
}

/// The way back: what was written meanwhile is no drift, and keeps its time.
#[tokio::test]
async fn after_the_way_back_blob_holds_everything_and_nothing_differs() {
    let (stage, gateway) = Stage::flipped().await;
    put(&gateway, NAME, B).await.unwrap();
    stage.pass(Duration::from_secs(3)).await;
    put(&gateway, "r/2.json", C).await.unwrap();
    gateway.delete(&["r/3.json".into()], None).await.unwrap();
    calm().await;
    let before = gateway.head(&NAME.into()).await.unwrap().unwrap();
    stage.flip(Phase::Shadow).await;
    stage.rig.check().await;
    let report = stage.rig.sweep(Level::Content, false).await;
    assert_eq!(report.obstacles(), Vec::<String>::new());
    assert_eq!(read(&gateway, NAME).await.as_deref(), Some(B));
    assert_eq!(gateway.head(&NAME.into()).await.unwrap().unwrap().blob.etag, before.blob.etag);
    put(&gateway, NAME, A).await.unwrap();
    stage.settled().await;
}

/// A large write holds from its pending anchor on: cut short anywhere, it is finished by whoever comes next.
#[tokio::test]
async fn a_large_write_that_is_cut_short_is_finished_later() {
    let plan = super::harness::PLAN.to_owned() + LISTS;
    let body = |n: u32| -> &'static str { Box::leak(records(n).into_boxed_str()) };
    for cut in 1..=5 {
        let stage = Stage::with(&plan);
        let gateway = stage.gateway("g").await;
        put(&gateway, "l/1.json", body(0)).await.unwrap();
        stage.rig.begin_session().await;
        stage.flip(Phase::Cutover).await;
        // The intent is stored; what comes after it fails from here on.
        stage.rig.target.spare(Operation::Transact, cut);
        for _ in 0..40 {
            stage.rig.target.fault(Operation::Transact, Fault::Refused(ErrorKind::NotApplied));
        }
        let written = put(&gateway, "l/1.json", body(100)).await.is_ok();
        stage.moments().await;
        let pending = stage.rig.anchor("l/1.json").await.unwrap().state == AnchorState::Pending;
        stage.rig.target.clear_faults();
        let expected = if written { body(100) } else { body(0) };
        assert!(written == pending || cut >= 5, "cut {cut}: written {written}, pending {pending}");
        assert_eq!(
            read(&gateway, "l/1.json").await.as_deref(),
            Some(expected),
            "cut {cut}: it holds at once"
        );
        let mut replay = stage.replay();
        let session = stage.intents().await.first().map(|intent| intent.session.clone()).unwrap_or_default();
        stage.pass_as(&session, &mut replay).await;
        stage.pass(stage.plan.timing.late_write_max.0).await;
        stage.pass_as(&session, &mut replay).await;
        assert_eq!(stage.in_blob("l/1.json").await.as_deref(), Some(expected), "cut {cut}");
        stage.settled().await;
    }
}
