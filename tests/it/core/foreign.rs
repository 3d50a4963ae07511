//! What Blob has that this migration did not write, once DynamoDB is the authority: which of the two is newer, what
//! settles it, and what is refused.

use std::path::Path;
use std::time::Duration;

use migrate::anchored::{Newer, Replaces};
use migrate::blob::faults::{Fault as BlobFault, Operation as Blob};
use migrate::blob::{BlobStore as _, ETag};
use migrate::protocol::Rev;
use migrate::sweep::{Drift, DriftKind};
use migrate::target::control::{Anchor, Behind, IntentRow, IntentState, names};
use migrate::target::store::TargetStore as _;
use migrate::{Error, ErrorKind, Result};

use super::gateway::{A, B, NAME, Stage, put, refused};
use super::reverse::{C, read};
use super::reverse_sweep::kinds;

const D: &str = r#"{"v": "D"}"#;
const MINUTES: Duration = Duration::from_secs(120);

impl Stage {
    pub(super) async fn rev(&self, name: &str) -> Option<Rev> {
        self.rig.anchor(name).await.map(|anchor| anchor.rev)
    }

    /// Adopts a blob over the anchor that is there; the bytes that were saved of what DynamoDB held.
    pub(super) async fn adopt(&self, name: &str, directory: &Path) -> Result<Option<Vec<u8>>> {
        let rev = self.rev(name).await;
        self.adopt_over(name, rev.as_ref(), false, directory).await
    }

    pub(super) async fn adopt_over(
        &self,
        name: &str,
        rev: Option<&Rev>,
        newer: bool,
        directory: &Path,
    ) -> Result<Option<Vec<u8>>> {
        let file = self.anchored().adopt(&name.into(), Replaces { rev, newer }, directory).await?;
        Ok(file.map(|file| std::fs::read(file).unwrap()))
    }

    /// The one thing that differs.
    async fn drift(&self) -> Drift {
        let mut report = self.back_sweep(false).await;
        assert_eq!(report.drift.len(), 1, "{report:?}");
        report.drift.remove(0)
    }

    /// Stores an anchor anew as a test needs it.
    async fn with_anchor(&self, name: &str, change: impl FnOnce(&mut Anchor)) {
        let seen = self.rig.anchor(name).await.unwrap();
        let mut anchor = Anchor { rev: names::new_rev(), ..seen.clone() };
        change(&mut anchor);
        self.rig.target.transact(anchor.rev.as_str(), vec![anchor.write(Some(&seen.rev))]).await.unwrap();
    }
}

/// Every request to Blob that writes fails from here on, until faults are cleared.
fn cut_off(stage: &Stage) {
    for _ in 0..64 {
        stage.rig.faults.fault(Blob::Put, BlobFault::Refused(ErrorKind::NotApplied));
        stage.rig.faults.fault(Blob::Delete, BlobFault::Refused(ErrorKind::NotApplied));
    }
}

#[track_caller]
fn says(error: &Error, kind: ErrorKind, parts: &[&str]) {
    let text = format!("{error}\nhint: {}", error.advice().unwrap_or_default());
    assert_eq!(error.kind(), kind, "{text}");
    for part in parts {
        assert!(text.contains(part), "{part} in {text}");
    }
}

/// Blob held what DynamoDB holds, then somebody wrote past the gateway: no clock is asked.
#[tokio::test]
async fn a_blob_that_replaced_our_version_is_newer_and_adopting_it_comes_first() {
    let (stage, gateway) = Stage::flipped().await;
    let directory = tempfile::tempdir().unwrap();
    // The gateway's clock is two minutes ahead of Blob's.
    stage.clock.advance(MINUTES);
    put(&gateway, NAME, B).await.unwrap();
    stage.moments().await;
    stage.rig.put(NAME, C).await;
    let drift = stage.drift().await;
    assert_eq!((drift.kind, drift.newer), (DriftKind::Foreign, Some(Newer::Blob)), "{drift:?}");
    let rev = stage.rev(NAME).await.unwrap();
    let adopt = format!("migrate validate --adopt {NAME}@{rev}");
    assert_eq!(drift.settle, [adopt, format!("migrate validate --discard {NAME}")]);
    assert_eq!(stage.adopt(NAME, directory.path()).await.unwrap().as_deref(), Some(B.as_bytes()));
    assert_eq!(read(&gateway, NAME).await.as_deref(), Some(C));
    stage.settled().await;

    stage.rig.put("p/new.json", C).await;
    let drift = stage.drift().await;
    assert_eq!(drift.newer, Some(Newer::Blob), "DynamoDB never held it: {drift:?}");
    assert_eq!(drift.settle[0], "migrate validate --adopt p/new.json@none");
    assert_eq!(stage.adopt("p/new.json", directory.path()).await.unwrap(), None);
    stage.settled().await;
}

#[tokio::test]
async fn a_write_that_is_newer_or_may_be_is_not_overwritten_unasked() {
    for (apart, newer) in [(MINUTES, Newer::Dynamodb), (Duration::from_secs(30), Newer::Unclear)] {
        for removed in [false, true] {
            let (stage, gateway) = Stage::flipped().await;
            let directory = tempfile::tempdir().unwrap();
            stage.rig.put(NAME, C).await;
            stage.clock.advance(apart);
            if removed {
                gateway.delete(&[NAME.into()], None).await.unwrap();
            } else {
                put(&gateway, NAME, B).await.unwrap();
            }
            stage.moments().await;
            let drift = stage.drift().await;
            assert_eq!((drift.kind, drift.newer), (DriftKind::Foreign, Some(newer)), "{drift:?}");
            assert_eq!(drift.settle[0], format!("migrate validate --discard {NAME}"));
            assert!(drift.settle[1].ends_with("--overwrite-newer"), "{drift:?}");
            let error = refused(stage.adopt(NAME, directory.path()).await);
            says(&error, ErrorKind::Usage, &["newer", "`migrate validate --discard r/1.json` loses nothing"]);
            let held = read(&gateway, NAME).await;
            assert_eq!(held.as_deref(), (!removed).then_some(B));
            // Asked for, it replaces it, and what it replaces is saved.
            let rev = stage.rev(NAME).await;
            let saved = stage.adopt_over(NAME, rev.as_ref(), true, directory.path()).await.unwrap();
            assert_eq!(saved, held.map(String::into_bytes));
            assert_eq!(read(&gateway, NAME).await.as_deref(), Some(C));
            stage.settled().await;
        }
    }
}

/// Blob's clock is ahead of the gateway's: by its times the blob is newer than everything that is written since.
#[tokio::test]
async fn only_the_version_that_was_shown_is_replaced() {
    let (stage, gateway) = Stage::flipped().await;
    let directory = tempfile::tempdir().unwrap();
    stage.rig.clock.advance(MINUTES * 30);
    stage.rig.put(NAME, C).await;
    let shown = stage.rev(NAME).await;
    put(&gateway, NAME, B).await.unwrap();
    stage.moments().await;
    assert_eq!(stage.drift().await.newer, Some(Newer::Blob));
    for newer in [false, true] {
        let error = refused(stage.adopt_over(NAME, shown.as_ref(), newer, directory.path()).await);
        says(&error, ErrorKind::LostRace, &["DynamoDB was written since it was shown", "`migrate validate`"]);
        let error = refused(stage.adopt_over(NAME, None, newer, directory.path()).await);
        says(&error, ErrorKind::LostRace, &["not nothing"]);
    }
    assert_eq!(read(&gateway, NAME).await.as_deref(), Some(B));
    assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 0, "nothing was replaced");
}

/// Between the look and the write the application writes, and brings back what was shown: the same content, or nothing.
#[tokio::test]
async fn a_write_during_an_adoption_wins_even_if_it_brings_back_what_was_shown() {
    for name in [NAME, "p/new.json"] {
        let (stage, gateway) = Stage::flipped().await;
        let directory = tempfile::tempdir().unwrap();
        stage.rig.put(name, C).await;
        let before = read(&gateway, name).await;
        let adopting = stage.adopt(name, directory.path());
        let writing = async {
            // It is read twice to be judged, then to be taken over.
            for last in [false, false, true] {
                let mut reading = stage.rig.faults.pause(Blob::Get);
                reading.arrived().await;
                if last {
                    put(&gateway, name, B).await.unwrap();
                    match before {
                        Some(_) => drop(put(&gateway, name, A).await.unwrap()),
                        None => gateway.delete(&[name.into()], None).await.unwrap(),
                    }
                }
                reading.release();
            }
        };
        let (adopted, ()) = tokio::join!(adopting, writing);
        says(&refused(adopted), ErrorKind::LostRace, &[name, "DynamoDB was written", "`migrate validate`"]);
        assert_eq!(read(&gateway, name).await, before);
    }
}

/// A request of the mirror lands late, when DynamoDB holds a newer version: its note names what Blob holds then.
#[tokio::test]
async fn what_a_note_names_is_not_adopted_and_a_repair_settles_it() {
    let (stage, gateway) = Stage::flipped().await;
    let directory = tempfile::tempdir().unwrap();
    stage.rig.faults.fault(Blob::Put, BlobFault::Held);
    cut_off(&stage);
    put(&gateway, NAME, B).await.unwrap();
    stage.moments().await;
    put(&gateway, NAME, C).await.unwrap();
    stage.moments().await;
    stage.rig.faults.release_held().await;
    assert_eq!(stage.in_blob(NAME).await.as_deref(), Some(B));
    let error = refused(stage.adopt(NAME, directory.path()).await);
    let parts =
        ["r/1.json", "an older version of ours", "a request of the mirror, noted at 2026-", "--repair"];
    says(&error, ErrorKind::Usage, &parts);
    let error = refused(stage.anchored().discard(&NAME.into(), directory.path()).await);
    says(&error, ErrorKind::Usage, &["a request of the mirror"]);
    assert_eq!(read(&gateway, NAME).await.as_deref(), Some(C));
    stage.rig.faults.clear_faults();
    for intent in stage.intents().await {
        assert!(stage.rig.control.clear_intent(&intent).await.unwrap());
    }
    let repaired = stage.back_sweep(true).await;
    assert_eq!(kinds(&repaired), [(DriftKind::Stale, NAME)]);
    assert_eq!(repaired.present_drift(), []);
    assert_eq!(stage.in_blob(NAME).await.as_deref(), Some(C));
}

/// Blob holds under another ETag what it held when both were equal last, as a store does whose ETags are no digests.
#[tokio::test]
async fn what_the_anchor_names_by_its_content_is_ours_whatever_its_etag() {
    let (stage, gateway) = Stage::flipped().await;
    let directory = tempfile::tempdir().unwrap();
    cut_off(&stage);
    put(&gateway, NAME, B).await.unwrap();
    stage.moments().await;
    stage
        .with_anchor(NAME, |anchor| {
            let sha256 = anchor.behind.as_ref().unwrap().sha256;
            assert!(sha256.is_some(), "{anchor:?}");
            anchor.behind = Some(Behind { etag: Some(ETag::new("elsewhere")), sha256 });
        })
        .await;
    stage.rig.faults.clear_faults();
    for intent in stage.intents().await {
        assert!(stage.rig.control.clear_intent(&intent).await.unwrap());
    }
    let error = refused(stage.adopt(NAME, directory.path()).await);
    says(&error, ErrorKind::Usage, &["its anchor names it as what Blob held before"]);
    let repaired = stage.back_sweep(true).await;
    assert_eq!(kinds(&repaired), [(DriftKind::Stale, NAME)]);
    assert_eq!(repaired.present_drift(), []);
    assert_eq!(stage.in_blob(NAME).await.as_deref(), Some(B));
    // What it does not name stays.
    stage.rig.put(NAME, D).await;
    assert_eq!(kinds(&stage.back_sweep(true).await), [(DriftKind::Foreign, NAME)]);
    assert_eq!(stage.in_blob(NAME).await.as_deref(), Some(D));
}

#[tokio::test]
async fn what_a_write_is_about_to_store_is_not_adopted() {
    let (stage, gateway) = Stage::flipped().await;
    let directory = tempfile::tempdir().unwrap();
    let head = stage.rig.put(NAME, C).await;
    let of = |name: &str, body: &str| IntentRow {
        to_target: true,
        ..IntentRow::new(
            "another",
            head.blob.uploaded_at,
            IntentState::GaveUp,
            vec![name.into()],
            Some(migrate::digest::Digest::of(body)),
        )
    };
    let control = &stage.rig.control;
    let naming = of(NAME, C);
    for intent in [&naming, &of(NAME, B), &of("r/2.json", C)] {
        control.store_intent(intent).await.unwrap();
    }
    let error = refused(stage.adopt(NAME, directory.path()).await);
    says(&error, ErrorKind::Usage, &["a write through a gateway, noted at 2026-11-01T00:00:00Z, names it"]);
    assert_eq!(read(&gateway, NAME).await.as_deref(), Some(A));
    assert!(control.clear_intent(&naming).await.unwrap());
    assert_eq!(stage.adopt(NAME, directory.path()).await.unwrap().as_deref(), Some(A.as_bytes()));
    assert_eq!(read(&gateway, NAME).await.as_deref(), Some(C));
}
