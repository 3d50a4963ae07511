//! A change of authority while two gateways are written through, on the machine's own clock.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use migrate::blob::{BlobStore as _, Fetcher, Pathname};
use migrate::clock::{Clock, SystemClock};
use migrate::converge::Converger;
use migrate::cutover::{Cutover, Flip};
use migrate::dual_write::gateway::{DualWrite, Parts};
use migrate::dual_write::metrics::Metrics;
use migrate::dual_write::session::{Opening, Session};
use migrate::gate::Gate;
use migrate::plan::Writers;
use migrate::protocol::phase::{Epoch, Phase};
use migrate::sweep::{BackSweep, Level, Sweep};
use migrate::target::control::{Evidence, Mode, SessionKind, SessionRow, SessionState, names};
use migrate::{ErrorKind, Result};
use tempfile::TempDir;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use super::gateway::over;
use super::harness::{PLAN, Rig, silent};

const HASH: &str = "plan";
/// Writers before each gateway.
const WRITERS: usize = 8;

/// Both stores in memory, and what runs before them.
struct Live {
    rig: Arc<Rig>,
    converger: Converger,
    clock: Arc<dyn Clock>,
    locks: TempDir,
    end: CancellationToken,
    /// Writes that were acknowledged.
    total: watch::Sender<usize>,
}

impl Drop for Live {
    fn drop(&mut self) {
        self.end.cancel();
    }
}

/// What a writer saw.
#[derive(Default)]
struct Seen {
    /// The last body that was acknowledged, and the names of failures.
    last: BTreeMap<String, String>,
    written: usize,
    failed: Vec<ErrorKind>,
    slowest: Duration,
}

impl Live {
    fn new() -> Self {
        let rig = Arc::new(Rig::with(&format!(
            "{PLAN}[timing]\nno_foreign = \"0s\"\n[gates.shadow-reads]\nmin_reads = 0\n"
        )));
        let clock: Arc<dyn Clock> = Arc::new(SystemClock::new());
        let fetcher = Fetcher { clock: Arc::clone(&clock), ..rig.converger.fetcher.clone() };
        let converger = Converger { fetcher, ..rig.converger.clone() };
        let locks = TempDir::new().unwrap();
        let end = CancellationToken::new();
        Self { rig, converger, clock, locks, end, total: watch::Sender::new(0) }
    }

    /// Waits until so many writes were acknowledged in all.
    async fn written(&self, count: usize) {
        self.total.subscribe().wait_for(|total| *total >= count).await.unwrap();
    }

    async fn gateway(&self, name: &str) -> DualWrite {
        let parts = Parts {
            upstream: self.rig.source.clone(),
            converger: self.converger.clone(),
            events: silent(),
            canonical: None,
            metrics: Metrics::default(),
        };
        let gateway = DualWrite::new(parts, &self.rig.plan);
        let opening = Opening {
            kind: SessionKind::Gateway,
            name,
            plan_hash: HASH,
            plan: &self.rig.plan,
            directory: self.locks.path(),
            authority: None,
        };
        let session = Session::open(self.rig.control.clone(), Arc::clone(&self.clock), opening);
        gateway.open(session.await.unwrap()).await.unwrap();
        let (watching, timing, end) = (gateway.clone(), self.rig.plan.timing.clone(), self.end.clone());
        tokio::spawn(async move { watching.watch(&timing, &end).await });
        gateway
    }

    /// Every gate of the step to `cutover` is open.
    async fn prove(&self) {
        let seen = self.rig.control.mode().await.unwrap().unwrap();
        let canary = Mode { phase: Phase::Canary, ..seen.clone() };
        assert!(self.rig.control.flip(&seen, &canary, None).await.unwrap());
        for gate in [Gate::ExportComplete, Gate::BackfillComplete, Gate::RollbackDrilled] {
            let evidence = Evidence {
                gate: gate.to_string(),
                at: self.clock.now(),
                plan_hash: HASH.to_owned(),
                epoch: Epoch(1),
                passed: true,
                summary: String::new(),
                obstacles: Vec::new(),
            };
            self.rig.control.put_evidence(&evidence).await.unwrap();
        }
        for _ in 0..2 {
            let report = self.sweep().run(&silent(), &CancellationToken::new()).await.unwrap();
            let row = report.row(names::token(), HASH, Epoch(1));
            self.rig.control.put_sweep(&row).await.unwrap();
        }
    }

    /// The same for the way back.
    async fn prove_back(&self) {
        let sweep = BackSweep { sweep: self.sweep(), session: "" };
        let report = sweep.run(&silent(), &CancellationToken::new()).await.unwrap();
        let row = report.row(names::token(), HASH, Epoch(2));
        self.rig.control.put_sweep(&row).await.unwrap();
    }

    fn sweep(&self) -> Sweep<'_> {
        Sweep {
            converger: &self.converger,
            target: &self.rig.plan.target,
            prefix: "",
            level: Level::Content,
            repair: false,
            allow_empty: false,
            patience: Duration::from_millis(10),
        }
    }

    /// Two gateways, and something that was written.
    async fn gateways(&self) -> [DualWrite; 2] {
        let gateways = [self.gateway("blue").await, self.gateway("green").await];
        gateways[0].put(&"r/first.json".into(), Bytes::from("{}").into(), &over()).await.unwrap();
        self.settled().await;
        gateways
    }

    /// Waits until no intent is left.
    async fn settled(&self) {
        while !self.rig.control.intents().await.unwrap().is_empty() {
            tokio::task::yield_now().await;
        }
    }

    async fn flip(&self, target: Phase) -> Result<Flip> {
        let cutover = Cutover {
            converger: &self.converger,
            events: silent(),
            plan: &self.rig.plan,
            plan_hash: HASH,
            who: "ada".to_owned(),
            name: "cutover".to_owned(),
            directory: self.rig.locks.path(),
        };
        cutover.flip(Some(target), false).await
    }
}

/// Writes through a gateway one after the other until it is stopped, or the gateway serves no writes any more.
fn writer(live: &Live, gateway: &DualWrite, number: usize, stop: &Arc<AtomicBool>) -> JoinHandle<Seen> {
    let (gateway, stop) = (gateway.clone(), Arc::clone(stop));
    let (clock, total) = (Arc::clone(&live.clock), live.total.clone());
    tokio::spawn(async move {
        let mut seen = Seen::default();
        for count in 0.. {
            if stop.load(Ordering::SeqCst) {
                break;
            }
            let name = format!("r/{number}-{}.json", count % 5);
            let body = format!(r#"{{"count": {count}}}"#);
            let began = Instant::now();
            let bytes = Bytes::from(body.clone());
            match gateway.put(&Pathname::from(name.as_str()), bytes.into(), &over()).await {
                Ok(_) => {
                    seen.last.insert(name, body);
                    seen.written += 1;
                }
                Err(error) => {
                    seen.failed.push(error.kind());
                    break;
                }
            }
            seen.slowest = seen.slowest.max(began.elapsed());
            total.send_modify(|total| *total += 1);
            clock.sleep(Duration::from_millis(10)).await;
        }
        seen
    })
}

/// Many writers, at work.
async fn load(live: &Live, gateways: &[DualWrite; 2]) -> (Vec<JoinHandle<Seen>>, Arc<AtomicBool>) {
    let stop = Arc::new(AtomicBool::new(false));
    let writers = (0..WRITERS * 2).map(|number| writer(live, &gateways[number % 2], number, &stop)).collect();
    let before = *live.total.borrow();
    live.written(before + 200).await;
    (writers, stop)
}

/// There and back, with writes going on all the time: each is answered with success, and both stores hold it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn writes_are_held_and_none_fails_or_is_lost() {
    let live = Live::new();
    let gateways = live.gateways().await;
    live.prove().await;
    for (target, epoch) in [(Phase::Cutover, 2), (Phase::Shadow, 3)] {
        let (writers, stop) = load(&live, &gateways).await;
        let flip = live.flip(target).await.unwrap();
        let before = *live.total.borrow();
        live.written(before + 200).await;
        stop.store(true, Ordering::SeqCst);
        let mode = live.rig.control.mode().await.unwrap().unwrap();
        assert_eq!((mode.phase, mode.epoch, mode.hold), (target, Epoch(epoch), None));
        let (mut written, mut slowest, mut last) = (0, Duration::ZERO, BTreeMap::new());
        for seen in futures::future::join_all(writers).await {
            let seen = seen.unwrap();
            assert_eq!(seen.failed, []);
            written += seen.written;
            slowest = slowest.max(seen.slowest);
            last.extend(seen.last);
        }
        live.settled().await;
        let blobs = live.rig.blobs().await;
        for (name, body) in last {
            let stored = &blobs[&Pathname::from(name.as_str())].1;
            assert_eq!(stored, body.as_bytes(), "{name}: an acknowledged write is lost");
        }
        live.rig.check().await;
        let audit = live.rig.control.audit().await.unwrap().pop().unwrap();
        println!(
            "to {target}: {written} writes, held for {} ms (audited: {} ms), the slowest took {slowest:?}",
            flip.pause_ms, audit.pause_ms
        );
        assert!(audit.pause_ms <= flip.pause_ms && flip.pause_ms < 1_000, "{flip:?} {audit:?}");
        assert!(slowest < Duration::from_secs(2), "{slowest:?}");
        live.prove_back().await;
    }
}

/// Who does not acknowledge is named; writes go on, and none fails.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_silent_gateway_costs_a_pause_and_no_write() {
    let live = Live::new();
    let gateways = live.gateways().await;
    live.prove().await;
    let (writers, stop) = load(&live, &gateways).await;
    let silent = SessionRow {
        id: "dead".to_owned(),
        name: "dead".to_owned(),
        kind: SessionKind::Gateway,
        counter: 1,
        state: SessionState::Open,
        began: live.clock.now(),
        ended: None,
        acknowledged: None,
        gap: None,
        renewed: None,
        epoch: None,
        writers: Some(Writers::of(&live.rig.plan).digest),
    };
    live.rig.control.open_session(&silent).await.unwrap();
    let refused = live.flip(Phase::Cutover).await.unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::WrongPhase);
    assert!(refused.to_string().contains("dead (gateway)"), "{refused}");
    assert!(!refused.to_string().contains("blue"), "{refused}");
    assert!(refused.advice().unwrap().contains("--without"), "{refused:?}");
    let before = *live.total.borrow();
    live.written(before + 200).await;
    stop.store(true, Ordering::SeqCst);
    for seen in futures::future::join_all(writers).await {
        let seen = seen.unwrap();
        assert_eq!(seen.failed, []);
        assert!(seen.slowest < Duration::from_secs(4), "{:?}", seen.slowest);
    }
    let mode = live.rig.control.mode().await.unwrap().unwrap();
    assert_eq!((mode.phase, mode.hold), (Phase::Canary, None));
}
