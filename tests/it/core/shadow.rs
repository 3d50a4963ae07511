//! Shadow reads through a gateway over both stores in memory: what counts as a mismatch, and what does not.

use std::time::Duration;

use bytes::Bytes;
use migrate::blob::faults::Operation as Blob;
use migrate::blob::store::GetOptions;
use migrate::blob::{BlobStore as _, Pathname};
use migrate::dual_write::gateway::DualWrite;
use migrate::protocol::phase::{Epoch, Phase};
use migrate::target::control::Reads;
use migrate::target::memory::Operation;
use migrate::{ErrorKind, target};

use super::gateway::{A, B, NAME, Stage, calm, over, put, putting};

const WHOLE: GetOptions = GetOptions { range: None, no_cache: false };

impl Stage {
    /// Takes a step, and lets gateways see it.
    pub(super) async fn step(&self, phase: Phase) {
        calm().await;
        let seen = self.rig.control.mode().await.unwrap().unwrap();
        let to = seen.stepped(phase, None, seen.since, "plan");
        assert!(self.rig.control.flip(&seen, &to, None).await.unwrap());
        self.look().await;
    }

    /// A gateway in phase `shadow`, and a blob that is mirrored.
    pub(super) async fn shadowed() -> (Self, DualWrite) {
        let stage = Self::new();
        let gateway = stage.gateway("g").await;
        put(&gateway, NAME, A).await.unwrap();
        stage.step(Phase::Shadow).await;
        (stage, gateway)
    }

    /// Other bytes in the place of those that DynamoDB has of a blob.
    pub(super) async fn damage(&self, name: &str, bytes: &[u8]) {
        let anchor = self.rig.control.anchor(&name.into()).await.unwrap().unwrap();
        let (_, rows) = target::control::encode_body(&anchor.pathname, &anchor.rev, bytes).unwrap();
        let rev = &anchor.body.as_ref().unwrap().rev;
        let key = target::control::names::body(&anchor.pathname, rev, 0);
        let mut row = rows[0].clone();
        row.insert("pk".to_owned(), migrate::value::Value::s(key.partition.as_str()));
        row.insert("sk".to_owned(), migrate::value::Value::s(key.sort.as_str()));
        let write = target::Write::Put {
            table: target::Table::Control,
            item: row,
            condition: target::Condition::Always,
        };
        target::TargetStore::transact(self.rig.target.as_ref(), "damage", vec![write]).await.unwrap();
    }

    /// Lets every comparison come to its end.
    pub(super) async fn judged(&self) {
        for _ in 0..70 {
            self.pass(Duration::from_millis(50)).await;
        }
    }
}

pub(super) async fn read(gateway: &DualWrite, name: &str) -> Option<Bytes> {
    let content = gateway.get(&name.into(), &WHOLE).await.unwrap()?;
    Some(content.body.collect(1 << 20).await.unwrap())
}

/// The counts, without the times.
pub(super) fn counts(gateway: &DualWrite) -> Reads {
    Reads { source_us: 0, target_us: 0, ..gateway.compared() }
}

#[tokio::test]
async fn what_is_equal_is_counted_and_kept_as_evidence() {
    let (stage, gateway) = Stage::shadowed().await;
    assert_eq!(read(&gateway, NAME).await.unwrap(), A);
    gateway.head(&NAME.into()).await.unwrap().unwrap();
    assert!(gateway.head(&"r/absent.json".into()).await.unwrap().is_none());
    assert!(read(&gateway, "r/absent.json").await.is_none());
    calm().await;
    assert_eq!(counts(&gateway), Reads { compared: 4, ..Reads::default() });
    // What is not mapped, or read in part, is not compared.
    put(&gateway, "picture.png", A).await.unwrap();
    read(&gateway, "picture.png").await.unwrap();
    gateway.get(&NAME.into(), &GetOptions { range: Some((0, Some(1))), no_cache: false }).await.unwrap();
    calm().await;
    assert_eq!(counts(&gateway).compared, 4);

    gateway.keep_reads("g", "plan").await.unwrap();
    let kept = stage.rig.control.reads(Epoch(1), 1).await.unwrap();
    assert_eq!((kept.len(), kept[0].name.as_str(), kept[0].reads.compared), (1, "g", 4));
    // The row is the process's own: it is replaced.
    gateway.head(&NAME.into()).await.unwrap();
    calm().await;
    gateway.keep_reads("g", "plan").await.unwrap();
    let kept = stage.rig.control.reads(Epoch(1), 1).await.unwrap();
    assert_eq!((kept.len(), kept[0].reads.compared), (1, 5));

    stage.step(Phase::Capture).await;
    gateway.head(&NAME.into()).await.unwrap();
    calm().await;
    assert_eq!(counts(&gateway).compared, 5, "nothing is compared in this phase");
    stage.step(Phase::Shadow).await;
    gateway.head(&NAME.into()).await.unwrap();
    calm().await;
    assert_eq!(counts(&gateway).compared, 1, "it counts anew");
    gateway.close(Duration::ZERO).await.unwrap();
}

#[tokio::test]
async fn what_dynamodb_holds_otherwise_is_a_mismatch_once_the_key_holds_still() {
    let (stage, gateway) = Stage::shadowed().await;
    // Past the gateway: DynamoDB would answer what was there before.
    stage.rig.put(NAME, B).await;
    stage.rig.put("r/2.json", A).await;
    assert_eq!(read(&gateway, NAME).await.unwrap(), B, "the client has Blob's answer");
    gateway.head(&NAME.into()).await.unwrap();
    gateway.head(&"r/2.json".into()).await.unwrap();
    calm().await;
    assert_eq!(counts(&gateway), Reads::default(), "it is looked at again first");
    stage.judged().await;
    assert_eq!(counts(&gateway), Reads { compared: 3, mismatches: 3, ..Reads::default() });
    gateway.keep_reads("g", "plan").await.unwrap();
    let worst = stage.rig.control.reads(Epoch(1), 1).await.unwrap().remove(0).worst;
    assert_eq!((worst[0].pathname.as_str(), worst[0].mismatches), (NAME, 2), "{worst:?}");
    assert_eq!(
        (worst[1].pathname.as_str(), worst[1].what.as_str()),
        ("r/2.json", "DynamoDB does not have it")
    );
}

/// The bytes count, not what the anchor says of them.
#[tokio::test]
async fn a_damaged_body_is_a_mismatch() {
    let (stage, gateway) = Stage::shadowed().await;
    stage.damage(NAME, b"{}").await;
    gateway.head(&NAME.into()).await.unwrap();
    read(&gateway, NAME).await.unwrap();
    stage.judged().await;
    assert_eq!(counts(&gateway), Reads { compared: 2, mismatches: 1, ..Reads::default() });
}

#[tokio::test]
async fn a_write_under_way_is_waited_for() {
    let (stage, gateway) = Stage::shadowed().await;
    // Blob has it, DynamoDB follows: the converge of the put is held up at its first look.
    let mut converge = stage.rig.faults.pause(Blob::Head);
    putting(&gateway, NAME, B).await.unwrap().unwrap();
    converge.arrived().await;
    assert_eq!(read(&gateway, NAME).await.unwrap(), B);
    calm().await;
    stage.pass(Duration::from_millis(150)).await;
    assert_eq!(counts(&gateway), Reads::default(), "its intent says that it is under way");
    converge.release();
    stage.judged().await;
    assert_eq!(counts(&gateway), Reads { compared: 1, ..Reads::default() });
}

#[tokio::test]
async fn a_stale_body_is_no_mismatch() {
    let (stage, gateway) = Stage::shadowed().await;
    stage.rig.faults.set_stale_reads(Some(Duration::from_secs(60)));
    put(&gateway, NAME, B).await.unwrap();
    calm().await;
    assert_eq!(read(&gateway, NAME).await.unwrap(), A, "the cache serves what was there before");
    stage.judged().await;
    assert_eq!(counts(&gateway), Reads { stale: 1, ..Reads::default() });
}

#[tokio::test]
async fn a_candidate_that_fails_reaches_no_client() {
    let (stage, gateway) = Stage::shadowed().await;
    stage.rig.target.outage(Some(ErrorKind::NotApplied));
    assert_eq!(read(&gateway, NAME).await.unwrap(), A);
    gateway.head(&NAME.into()).await.unwrap().unwrap();
    calm().await;
    assert_eq!(counts(&gateway), Reads { errors: 2, ..Reads::default() });
    stage.rig.target.outage(None);
}

#[tokio::test]
async fn a_candidate_that_hangs_holds_nobody_up_and_too_many_are_left_out() {
    let (stage, gateway) = Stage::shadowed().await;
    let hung: Vec<_> = (0..8).map(|_| stage.rig.target.pause(Operation::Get)).collect();
    for _ in 0..300 {
        gateway.head(&Pathname::from(NAME)).await.unwrap().unwrap();
    }
    calm().await;
    assert_eq!(counts(&gateway), Reads { dropped: 44, ..Reads::default() });
    hung.into_iter().for_each(|pause| pause.release());
    stage.judged().await;
    assert_eq!(counts(&gateway), Reads { compared: 256, dropped: 44, ..Reads::default() });
}

#[tokio::test]
async fn a_share_of_the_reads_is_compared() {
    let mut stage = Stage::new();
    stage.plan.gates.shadow_reads.sample = 10;
    let gateway = stage.gateway("g").await;
    gateway.put(&NAME.into(), Bytes::from(A).into(), &over()).await.unwrap();
    stage.step(Phase::Shadow).await;
    for _ in 0..100 {
        gateway.head(&NAME.into()).await.unwrap();
    }
    calm().await;
    assert_eq!(counts(&gateway).compared, 10);
}
