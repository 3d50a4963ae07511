//! The canary through a gateway over both stores in memory: who answers what, and when it ends by itself.

use std::time::Duration;

use bytes::Bytes;
use migrate::ErrorKind;
use migrate::blob::BlobStore as _;
use migrate::blob::faults::Operation as Blob;
use migrate::blob::store::PutOptions;
use migrate::digest::Digest;
use migrate::dual_write::gateway::DualWrite;
use migrate::plan::{HookPlan, Span};
use migrate::protocol::canary::{Counts, Share};
use migrate::protocol::phase::Phase;
use migrate::target::TargetStore as _;
use migrate::target::memory::{Fault, Operation};

use super::gateway::{A, B, NAME, Stage, calm, put, putting};
use super::shadow::read;

impl Stage {
    async fn share(&self, percent: u8, prefixes: &[&str]) -> Share {
        calm().await;
        let share = Share { percent, prefixes: prefixes.iter().map(ToString::to_string).collect() };
        let seen = self.rig.control.mode().await.unwrap().unwrap();
        let to = seen.stepped(Phase::Canary, Some(&share), seen.since, "plan");
        assert!(self.rig.control.flip(&seen, &to, None).await.unwrap());
        self.look().await;
        share
    }

    /// A gateway whose keys are all read from DynamoDB, each body compared, and a blob.
    async fn canary() -> (Self, DualWrite) {
        let mut stage = Self::new();
        stage.plan.canary.sample = 100;
        let gateway = stage.gateway("g").await;
        put(&gateway, NAME, A).await.unwrap();
        stage.share(100, &[]).await;
        (stage, gateway)
    }

    async fn phase(&self) -> Phase {
        self.rig.control.mode().await.unwrap().unwrap().phase
    }

    /// Reads come from Blob again, by the gateway's own word.
    async fn turned_back(&self, gateway: &DualWrite, why: &str) {
        assert_eq!(self.phase().await, Phase::Shadow);
        let audit = self.rig.control.audit().await.unwrap().pop().unwrap();
        assert_eq!((audit.who.as_str(), audit.from, audit.to), ("gateway g", Phase::Canary, Phase::Shadow));
        assert_eq!(audit.evidence["canary"], why);
        let before = gateway.canary();
        assert!(gateway.head(&NAME.into()).await.unwrap().is_some());
        assert_eq!(gateway.canary(), before, "it is no canary any more");
    }
}

fn answered(count: u64) -> Counts {
    Counts { answered: count, ..Counts::default() }
}

#[tokio::test]
async fn the_share_is_answered_by_dynamodb_as_blob_would() {
    let stage = Stage::new();
    let gateway = stage.gateway("g").await;
    let names: Vec<String> = (0..40).map(|number| format!("r/{number}.json")).collect();
    for name in &names {
        put(&gateway, name, A).await.unwrap();
    }
    put(&gateway, "p/1.json", A).await.unwrap();
    let share = stage.share(50, &["r/"]).await;
    let held = names.iter().filter(|name| share.holds(name)).count() as u64;
    assert!((10..30).contains(&held), "{held}");
    let reads = stage.rig.faults.calls(Blob::Get);
    for name in &names {
        let head = gateway.head(&name.as_str().into()).await.unwrap();
        assert_eq!(head, stage.rig.source.head(&name.as_str().into()).await.unwrap());
        assert_eq!(read(&gateway, name).await.unwrap(), A);
    }
    read(&gateway, "p/1.json").await.unwrap();
    assert_eq!(gateway.canary(), answered(held * 2));
    calm().await;
    // A tenth of the answers is compared with Blob's content.
    assert_eq!(stage.rig.faults.calls(Blob::Get) - reads, 40 - held + 1 + held / 10);
    stage.look().await;
    assert_eq!(stage.phase().await, Phase::Canary);
}

#[tokio::test]
async fn the_etag_is_the_one_that_blob_takes() {
    let (stage, gateway) = Stage::canary().await;
    let head = gateway.head(&NAME.into()).await.unwrap().unwrap();
    let options =
        PutOptions { if_match: Some(head.blob.etag), allow_overwrite: true, ..PutOptions::default() };
    gateway.put(&NAME.into(), Bytes::from(B).into(), &options).await.unwrap();
    calm().await;
    assert_eq!(read(&gateway, NAME).await.unwrap(), B);
    gateway.delete(&[NAME.into()], None).await.unwrap();
    calm().await;
    assert!(gateway.head(&NAME.into()).await.unwrap().is_none() && read(&gateway, NAME).await.is_none());
    assert_eq!(gateway.canary(), answered(4));
    stage.look().await;
    assert_eq!(stage.phase().await, Phase::Canary);
}

#[tokio::test]
async fn what_dynamodb_does_not_have_yet_is_read_from_blob() {
    let (stage, gateway) = Stage::canary().await;
    let mut converge = stage.rig.faults.pause(Blob::Head);
    putting(&gateway, NAME, B).await.unwrap().unwrap();
    converge.arrived().await;
    assert_eq!(read(&gateway, NAME).await.unwrap(), B);
    assert_eq!(gateway.head(&NAME.into()).await.unwrap().unwrap().blob.size, B.len() as u64);
    converge.release();
    stage.judged().await;
    assert_eq!(gateway.canary(), Counts { behind: 2, ..Counts::default() });
    assert_eq!(stage.phase().await, Phase::Canary, "a lag is no mismatch");
}

#[tokio::test]
async fn a_key_that_stays_behind_ends_it() {
    let (stage, gateway) = Stage::canary().await;
    stage.rig.put(NAME, B).await;
    assert_eq!(read(&gateway, NAME).await.unwrap(), B);
    for _ in 0..45 {
        stage.pass(Duration::from_millis(100)).await;
    }
    stage.turned_back(&gateway, "1 answers of DynamoDB were not what Blob holds").await;
}

/// What is damaged in DynamoDB is not answered; and that it stays so ends the canary.
#[tokio::test]
async fn bytes_that_their_own_digest_refuses_are_not_answered() {
    let (stage, gateway) = Stage::canary().await;
    stage.damage(NAME, br#"{"v": "C"}"#).await;
    assert_eq!(read(&gateway, NAME).await.unwrap(), A);
    assert_eq!(gateway.canary(), Counts { errors: 1, ..Counts::default() });
    for _ in 0..10 {
        stage.pass(Duration::from_millis(500)).await;
    }
    stage.turned_back(&gateway, "1 answers of DynamoDB were not what Blob holds").await;
}

#[tokio::test]
async fn wrong_bytes_end_it() {
    let (stage, gateway) = Stage::canary().await;
    let wrong = br#"{"v": "C"}"#;
    stage.damage(NAME, wrong).await;
    // As if something else had been mapped under that version.
    let mut anchor = stage.rig.control.anchor(&NAME.into()).await.unwrap().unwrap();
    anchor.head.as_mut().unwrap().sha256 = Digest::of(wrong);
    let write = anchor.write(Some(&anchor.rev));
    stage.rig.target.transact("plant", vec![write]).await.unwrap();
    assert_eq!(read(&gateway, NAME).await.unwrap(), &wrong[..]);
    calm().await;
    stage.look().await;
    stage.turned_back(&gateway, "1 answers of DynamoDB were not what Blob holds").await;
    assert_eq!(read(&gateway, NAME).await.unwrap(), A);
}

#[tokio::test]
async fn too_many_failures_end_it_and_no_client_sees_one() {
    let (stage, gateway) = Stage::canary().await;
    for _ in 0..20 {
        stage.rig.target.fault(Operation::Get, Fault::Refused(ErrorKind::NotApplied));
        assert!(gateway.head(&NAME.into()).await.unwrap().is_some());
    }
    assert_eq!(gateway.canary(), Counts { errors: 20, ..Counts::default() });
    stage.look().await;
    stage.turned_back(&gateway, "20 reads from DynamoDB failed or took too long").await;
}

/// Whoever makes a flip tells the plan's hook, gateways too.
#[tokio::test]
async fn a_gateway_that_ends_a_canary_tells_the_hook() {
    let mut stage = Stage::new();
    let directory = tempfile::TempDir::new().unwrap();
    let file = directory.path().join("told");
    let script = format!("cat > {}", file.display());
    let command = ["sh", "-c", &script].map(str::to_owned).to_vec();
    stage.plan.hook = Some(HookPlan { command, timeout: Span(Duration::from_secs(60)) });
    let gateway = stage.gateway("g").await;
    put(&gateway, NAME, A).await.unwrap();
    stage.share(100, &[]).await;
    for _ in 0..20 {
        stage.rig.target.fault(Operation::Get, Fault::Refused(ErrorKind::NotApplied));
        gateway.head(&NAME.into()).await.unwrap();
    }
    stage.look().await;
    assert_eq!(stage.phase().await, Phase::Shadow);
    gateway.close(Duration::ZERO).await.unwrap();
    let audit = stage.rig.control.audit().await.unwrap().pop().unwrap();
    assert_eq!(audit.who, "gateway g");
    assert!(audit.note.as_ref().unwrap().starts_with("hook `sh -c cat > "), "{audit:?}");
}

#[tokio::test]
async fn a_dynamodb_that_hangs_is_waited_for_a_second() {
    let (stage, gateway) = Stage::canary().await;
    let hung = stage.rig.target.pause(Operation::Get);
    let reading = tokio::spawn({
        let gateway = gateway.clone();
        async move { read(&gateway, NAME).await }
    });
    stage.pass(Duration::from_secs(1)).await;
    assert_eq!(reading.await.unwrap().unwrap(), A);
    assert_eq!(gateway.canary(), Counts { errors: 1, ..Counts::default() });
    hung.release();
}

#[tokio::test]
async fn under_a_hold_and_while_the_mode_can_not_be_read_blob_answers() {
    let (stage, gateway) = Stage::canary().await;
    stage.hold(Some("h")).await;
    stage.look().await;
    assert_eq!(read(&gateway, NAME).await.unwrap(), A);
    stage.hold(None).await;
    stage.look().await;
    stage.rig.target.outage(Some(ErrorKind::NotApplied));
    stage.look().await;
    assert_eq!(read(&gateway, NAME).await.unwrap(), A);
    stage.rig.target.outage(None);
    assert_eq!(gateway.canary(), Counts::default());
}
