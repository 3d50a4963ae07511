//! The gateway while processes die, stores fail and requests land late: whatever it acknowledged is in both
//! stores in the end, and they are equal.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::num::NonZeroU64;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::Duration;

use migrate::ErrorKind;
use migrate::blob::faults::{Drops, Fault, Faults, Operation};
use migrate::clock::{Clock as _, SystemClock};
use migrate::protocol::phase::{Authority, Phase};
use migrate::target::control::{SessionRow, SessionState};
use migrate::target::embedded::{Engine, Location};
use migrate::testing::fault_proxy::{FaultProxy, WireFault};
use rand::{RngExt as _, SeedableRng as _};
use rand_chacha::ChaCha8Rng;
use reqwest::StatusCode;
use tokio::runtime::Runtime;
use tokio::sync::watch;
use tokio::task::JoinHandle;

use crate::gateway::{Client, Gateway, PLAN, no_drift, runtime, until, windowed};
use crate::local::{Source, Tables};
use crate::support::Sandbox;

/// What a writer knows of a blob: each state that it may be in. None is absence.
type Possible = BTreeSet<Option<String>>;

/// What all writers know, and what they saw.
#[derive(Default)]
struct Known {
    blobs: BTreeMap<String, Possible>,
    /// Answers other than success.
    refusals: Vec<String>,
    /// The longest that one write took.
    slowest: Duration,
}

/// Writers, each of blobs of its own, until they are told to stop.
struct Load {
    gateways: watch::Sender<Vec<Client>>,
    stop: Arc<AtomicBool>,
    acknowledged: Arc<AtomicU32>,
    writers: Vec<JoinHandle<Known>>,
}

impl Load {
    /// Starts them; where requests `land_late`, a state that a writer was not told of stays possible for good.
    fn start(runtime: &Runtime, writers: u32, seed: u64, land_late: bool) -> Self {
        let (gateways, seen) = watch::channel(Vec::new());
        let (stop, acknowledged) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU32::new(0)));
        let writers = (0..writers).map(|number| {
            let writer = Writer {
                number,
                gateways: seen.clone(),
                stop: stop.clone(),
                acknowledged: acknowledged.clone(),
                land_late,
            };
            runtime.spawn(writer.run(ChaCha8Rng::seed_from_u64(seed.wrapping_add(number.into()))))
        });
        let writers = writers.collect();
        Self { gateways, stop, acknowledged, writers }
    }

    /// Where they write from now on; nowhere while there is none.
    fn to(&self, gateways: &[&Gateway]) {
        self.gateways.send_replace(gateways.iter().map(|gateway| gateway.client()).collect());
    }

    /// Waits until so many more writes are acknowledged.
    async fn more(&self, count: u32) {
        let enough = self.acknowledged.load(Ordering::Relaxed) + count;
        until("writes are acknowledged", async || self.acknowledged.load(Ordering::Relaxed) >= enough).await;
    }

    async fn end(self) -> Known {
        self.stop.store(true, Ordering::Relaxed);
        drop(self.gateways);
        let mut all = Known::default();
        for writer in self.writers {
            let known = writer.await.unwrap();
            all.blobs.extend(known.blobs);
            all.refusals.extend(known.refusals);
            all.slowest = all.slowest.max(known.slowest);
        }
        all
    }
}

struct Writer {
    number: u32,
    gateways: watch::Receiver<Vec<Client>>,
    stop: Arc<AtomicBool>,
    acknowledged: Arc<AtomicU32>,
    land_late: bool,
}

impl Writer {
    async fn run(mut self, mut random: ChaCha8Rng) -> Known {
        let (mut known, clock) = (Known::default(), SystemClock::new());
        // What may land whenever it likes.
        let mut late: BTreeMap<String, Possible> = BTreeMap::new();
        let mut generations: HashMap<u32, u32> = HashMap::new();
        let mut written = 0;
        while !self.stop.load(Ordering::Relaxed) {
            let gateways = self.gateways.borrow_and_update().clone();
            if gateways.is_empty() {
                if self.gateways.changed().await.is_err() {
                    break;
                }
                continue;
            }
            written += 1;
            let slot = random.random_range(0..6);
            let generation = generations.entry(slot).or_default();
            let name = format!("r/{}-{slot}-{generation}.json", self.number);
            // Contents come back, so that states repeat.
            let state = (random.random_range(0..4) > 0).then(|| format!("{{\"v\":{}}}", written % 3));
            let client = &gateways[written % gateways.len()];
            let began = clock.monotonic();
            let reply = match &state {
                Some(body) => client.put(&name, body.clone()).await,
                None => client.delete(&name).await,
            };
            known.slowest = known.slowest.max(clock.monotonic() - began);
            let possible = known.blobs.entry(name.clone()).or_insert_with(|| BTreeSet::from([None]));
            match reply {
                Ok((StatusCode::OK, _)) => {
                    self.acknowledged.fetch_add(1, Ordering::Relaxed);
                    *possible = BTreeSet::from([state]);
                }
                refused => {
                    possible.insert(state.clone());
                    known.refusals.push(format!("{refused:?}"));
                    if self.land_late {
                        late.entry(name).or_default().insert(state);
                        // Some go on, so that what lands late meets other states.
                        *generation += u32::from(random.random_bool(0.5));
                    }
                }
            }
        }
        for (name, states) in late {
            known.blobs.entry(name).or_default().extend(states);
        }
        known
    }
}

/// Both stores in this process, and a place for commands.
struct Stage {
    source: Source,
    engine: Engine,
    sandbox: Sandbox,
    runtime: Runtime,
}

impl Stage {
    fn new() -> Self {
        let (source, engine) = (Source::empty(), Engine::start(&Location::Memory, None).unwrap());
        let mut sandbox = source.sandbox();
        sandbox.write("migration-plan.md", PLAN);
        sandbox.set("DYNAMODB_ENDPOINT", &engine.endpoint());
        sandbox.run(&["provision"]).expect(0);
        Self { source, engine, sandbox, runtime: runtime() }
    }

    fn tables(&self) -> Tables<'_> {
        self.source.tables(&self.engine.endpoint(), "test")
    }

    fn until_settled(&self, tables: &Tables<'_>) {
        let settled = until("every intent is settled", async || tables.intents_later().await.is_empty());
        self.runtime.block_on(settled);
    }

    /// Demands that each blob is in a state that its writer knows of, and that both stores are equal.
    fn nothing_is_lost(&self, known: &BTreeMap<String, Possible>) {
        for (name, possible) in known {
            let found = self.source.body(name);
            assert!(possible.contains(&found), "{name} is {found:?}, but was left as one of {possible:?}");
        }
        no_drift(&self.sandbox);
    }
}

/// Lets puts and deletes fail now and then and land a moment later, until it is stopped; returns how many
/// landed.
async fn land_late(faults: Faults, mut random: ChaCha8Rng, stop: Arc<AtomicBool>) -> usize {
    let (clock, mut landed) = (SystemClock::new(), 0);
    while !stop.load(Ordering::Relaxed) {
        // Half as long as the plan's `late_write_max` here.
        for _ in 0..20 {
            let operation = if random.random() { Operation::Put } else { Operation::Delete };
            faults.fault(operation, Fault::Held);
            clock.sleep(Duration::from_millis(50)).await;
        }
        faults.clear_faults();
        landed += faults.release_held().await;
    }
    faults.clear_faults();
    landed + faults.release_held().await
}

#[test]
fn a_gateway_that_is_killed_under_load_loses_nothing_that_it_acknowledged() {
    killed_under_load(50, Authority::Source);
}

/// The same once DynamoDB is the authority: then requests that land late land in the mirror.
#[test]
fn a_gateway_that_is_killed_after_the_flip_loses_nothing_that_it_acknowledged() {
    killed_under_load(10, Authority::Target);
}

#[expect(clippy::print_stderr, reason = "the seed repeats a failure")]
fn killed_under_load(kills: u32, authority: Authority) {
    const WRITERS: u32 = 16;
    let seed = rand::random();
    eprintln!("seed {seed}");
    let mut random = ChaCha8Rng::seed_from_u64(seed);
    let stage = Stage::new();
    let Stage { source, sandbox, runtime, .. } = &stage;
    let tables = stage.tables();
    let after_flip = authority == Authority::Target;
    if after_flip {
        // The first start makes the mode item.
        Gateway::start(sandbox, &[]).stop();
        crate::gateway_sdk::flip(sandbox, "test", Phase::Cutover);
    }
    // Now and then a reply is lost, too.
    source.faults().set_drops(Some(Drops { every: NonZeroU64::new(29).unwrap(), applied: true }));
    let landing = Arc::new(AtomicBool::new(false));
    let late = runtime.spawn(land_late(
        source.faults().clone(),
        ChaCha8Rng::seed_from_u64(random.random()),
        landing.clone(),
    ));
    // An authority with conditions on its anchors takes no write late that it did not acknowledge.
    let load = Load::start(runtime, WRITERS, random.random(), !after_flip);
    let mut left = 0;
    for _ in 0..kills {
        let gateway = Gateway::start(sandbox, &[]);
        load.to(&[&gateway]);
        runtime.block_on(load.more(random.random_range(1..20)));
        drop(gateway);
        load.to(&[]);
        left += tables.intents().len();
    }
    assert!(left > kills as usize, "kills hit writes under way");
    let gateway = Gateway::start(sandbox, &["--interval", "1h"]);
    runtime.block_on(async {
        until("what the dead left is settled", async || tables.intents_later().await.is_empty()).await;
        // No sweep comes any more to find what lands late.
        load.to(&[&gateway]);
        load.more(300).await;
    });
    landing.store(true, Ordering::Relaxed);
    let landed = runtime.block_on(late).unwrap();
    assert!(landed > 0, "requests landed late");
    source.faults().set_drops(None);
    let known = runtime.block_on(load.end());
    stage.until_settled(&tables);
    let report = gateway.stop().expect(0).json();
    assert_eq!(report["clean"], true, "{report}");
    let unclean = tables.sessions().iter().filter(|row| row.state == SessionState::Unclean).count();
    assert_eq!(unclean, kills as usize);
    eprintln!("{} blobs, {landed} requests landed late, {left} intents of the dead", known.blobs.len());
    stage.nothing_is_lost(&known.blobs);
}

/// How long outages last: a few seconds, or as many as `OUTAGE_SECONDS` says.
fn outage_time() -> Duration {
    #[expect(clippy::disallowed_methods, reason = "for runs by hand; the program has its own settings")]
    let seconds = std::env::var("OUTAGE_SECONDS").ok().map(|text| text.parse().unwrap());
    Duration::from_secs(seconds.unwrap_or(3))
}

/// DynamoDB is out of order in one way for a while under load, and the gateway lives on, or is killed meanwhile.
/// Returns how long the slowest write took.
fn dynamodb_is_out_of_order(fault: &WireFault, killed: bool) -> Duration {
    const WRITERS: u32 = 4;
    let mut stage = Stage::new();
    let direct = stage.engine.endpoint();
    let proxy = stage.runtime.block_on(FaultProxy::start(&direct)).unwrap();
    stage.sandbox.set("DYNAMODB_ENDPOINT", &proxy.endpoint());
    let Stage { sandbox, runtime, .. } = &stage;
    let tables = stage.tables();
    let mut gateway = Gateway::start(sandbox, &[]);
    let load = Load::start(runtime, WRITERS, rand::random(), false);
    load.to(&[&gateway]);
    runtime.block_on(async {
        load.more(20).await;
        proxy.outage(Some(fault.clone()));
        let clock = SystemClock::new();
        clock.sleep(outage_time()).await;
        load.more(20).await;
    });
    if killed {
        // What it remembered of writes without notes is gone: a sweep finds them.
        load.to(&[]);
        drop(gateway);
        proxy.outage(None);
        gateway = Gateway::start(sandbox, &[]);
        load.to(&[&gateway]);
    } else {
        proxy.outage(None);
    }
    let gaps = async || {
        let unclean = |row: &&SessionRow| row.state == SessionState::Unclean;
        tables.sessions_later().await.iter().filter(unclean).count()
    };
    runtime.block_on(async {
        until("the gap is closed", async || gaps().await > 0).await;
        load.more(20).await;
    });
    let known = runtime.block_on(load.end());
    if killed {
        assert!(known.refusals.len() <= WRITERS as usize, "only those in flight: {:?}", known.refusals);
    } else {
        assert_eq!(known.refusals, [""; 0], "an outage of DynamoDB is invisible");
    }
    assert!(known.slowest < Duration::from_secs(6), "a write took {:?}", known.slowest);
    stage.until_settled(&tables);
    let run = gateway.stop();
    if !killed {
        assert!(run.stderr.contains("the control table can't be reached"), "{}", run.stderr);
        assert!(run.json()["gateway"]["unnoted"].as_u64() > Some(0), "{}", run.stdout);
    }
    run.expect(0);
    if killed {
        sandbox.run(&windowed(&["dual-write", "--once"])).expect(0);
    }
    stage.nothing_is_lost(&known.blobs);
    known.slowest
}

#[test]
fn dynamodb_that_refuses_is_invisible_and_loses_nothing() {
    for fault in [WireFault::ResetBefore, WireFault::error(500, "InternalServerError", "out of order")] {
        eprintln!("the slowest write took {:?}", dynamodb_is_out_of_order(&fault, false));
    }
}

#[test]
fn dynamodb_that_never_answers_is_invisible_and_loses_nothing() {
    eprintln!("the slowest write took {:?}", dynamodb_is_out_of_order(&WireFault::Silence, false));
}

#[test]
fn dynamodb_that_throttles_is_invisible_and_loses_nothing() {
    eprintln!("the slowest write took {:?}", dynamodb_is_out_of_order(&WireFault::throttled(), false));
}

#[test]
fn a_gateway_that_is_killed_while_dynamodb_is_away_loses_nothing() {
    eprintln!("the slowest write took {:?}", dynamodb_is_out_of_order(&WireFault::Silence, true));
}

#[test]
fn a_gateway_that_is_stopped_while_dynamodb_is_away_says_what_it_did() {
    for fault in [WireFault::ResetBefore, WireFault::Silence] {
        let mut stage = Stage::new();
        let proxy = stage.runtime.block_on(FaultProxy::start(&stage.engine.endpoint())).unwrap();
        stage.sandbox.set("DYNAMODB_ENDPOINT", &proxy.endpoint());
        let gateway = Gateway::start(&stage.sandbox, &[]);
        let client = gateway.client();
        let tables = stage.tables();
        let loaded = until("a sweep is done", async || tables.sweeps_later().await > 0);
        stage.runtime.block_on(loaded);
        proxy.outage(Some(fault.clone()));
        let put = stage.runtime.block_on(client.put("r/1.json", "{}".to_owned())).unwrap();
        assert_eq!(put.0, StatusCode::OK, "{put:?}");
        let clock = SystemClock::new();
        let run = gateway.stop().expect(3);
        let took = clock.monotonic();
        assert!(took < Duration::from_secs(28), "whoever stops services waits half a minute: {took:?}");
        let report = run.json();
        assert_eq!((&report["gateway"]["written"], &report["clean"]), (&1.into(), &false.into()), "{report}");
        assert_eq!(report["intents_left"], serde_json::Value::Null, "{report}");
        assert!(!run.stderr.contains("error: "), "{}", run.stderr);
        // The next start ends the session, and finds what was written.
        proxy.outage(None);
        Gateway::start(&stage.sandbox, &[]).stop();
        stage.sandbox.run(&windowed(&["dual-write", "--once"])).expect(0);
        assert!(tables.sessions().iter().all(|row| row.state != SessionState::Open));
        stage.nothing_is_lost(&BTreeMap::from([(
            "r/1.json".to_owned(),
            BTreeSet::from([Some("{}".to_owned())]),
        )]));
    }
}

/// One way in which Blob is out of order, and what clients are told of it: the status, and `retry-after`.
struct Disorder {
    begin: fn(&Faults, &FaultProxy),
    told: (u16, Option<&'static str>),
}

/// Blob is out of order under load, time and again, behind two gateways; one of them is killed each
/// time.
fn blob_is_out_of_order(disorders: &[Disorder]) {
    const WRITERS: u32 = 8;
    let mut stage = Stage::new();
    let proxy = stage.runtime.block_on(FaultProxy::start(&stage.source.url())).unwrap();
    let direct = stage.sandbox.variable("VERCEL_BLOB_API_URL");
    let through = direct.replace(&stage.source.url(), &proxy.endpoint());
    stage.sandbox.set("VERCEL_BLOB_API_URL", &through);
    let Stage { source, sandbox, runtime, .. } = &stage;
    let (tables, clock) = (stage.tables(), SystemClock::new());
    let blue = Gateway::start(sandbox, &["--name", "blue"]);
    let mut green = Gateway::start(sandbox, &["--name", "green"]);
    let load = Load::start(runtime, WRITERS, rand::random(), true);
    load.to(&[&blue, &green]);
    let mut known = BTreeMap::new();
    for (number, disorder) in disorders.iter().enumerate() {
        runtime.block_on(load.more(40));
        (disorder.begin)(source.faults(), &proxy);
        let name = format!("r/told-{number}.json");
        let (status, wait, text) = runtime.block_on(async {
            let client = blue.client();
            let request = client.http.put(format!("{}/?pathname={name}", client.url)).body("{}");
            client.reply(request.header("x-vercel-blob-access", "public")).await.unwrap()
        });
        assert_eq!((status.as_u16(), wait.as_deref()), disorder.told, "{number}: {text}");
        let body: serde_json::Value = serde_json::from_str(&text).unwrap();
        assert!(body["error"]["code"].is_string(), "{number}: {body}");
        known.insert(name, BTreeSet::from([None, Some("{}".to_owned())]));
        runtime.block_on(clock.sleep(Duration::from_millis(300)));
        load.to(&[&blue]);
        drop(green);
        source.faults().set_outage(None);
        source.faults().clear_faults();
        proxy.outage(None);
        runtime.block_on(source.faults().release_held());
        green = Gateway::start(sandbox, &["--name", "green"]);
        load.to(&[&blue, &green]);
    }
    runtime.block_on(load.more(40));
    let seen = runtime.block_on(load.end());
    assert!(seen.refusals.len() > disorders.len(), "writers met it as well");
    known.extend(seen.blobs);
    stage.until_settled(&tables);
    for gateway in [blue, green] {
        assert_eq!(gateway.stop().expect(0).json()["clean"], true);
    }
    sandbox.run(&windowed(&["dual-write", "--once"])).expect(0);
    stage.nothing_is_lost(&known);
}

#[test]
fn two_gateways_before_a_blob_store_that_refuses_lose_nothing() {
    const THROTTLED: ErrorKind = ErrorKind::Throttled { retry_after: Some(Duration::from_secs(7)) };
    blob_is_out_of_order(&[
        Disorder { begin: |faults, _| faults.set_outage(Some(ErrorKind::NotApplied)), told: (500, None) },
        Disorder { begin: |faults, _| faults.set_outage(Some(THROTTLED)), told: (429, Some("7")) },
        Disorder {
            begin: |_, proxy| {
                proxy.outage(Some(WireFault::Answer(502, "<html>bad gateway</html>".to_owned())));
            },
            told: (500, None),
        },
        Disorder { begin: |_, proxy| proxy.outage(Some(WireFault::ResetBefore)), told: (500, None) },
    ]);
}

#[test]
fn two_gateways_before_a_blob_store_that_applies_and_fails_lose_nothing() {
    fn many(faults: &Faults, fault: Fault) {
        for _ in 0..20 {
            faults.fault(Operation::Put, fault);
            faults.fault(Operation::Delete, fault);
        }
    }
    blob_is_out_of_order(&[
        Disorder { begin: |_, proxy| proxy.outage(Some(WireFault::ReplyLost)), told: (500, None) },
        Disorder { begin: |_, proxy| proxy.outage(Some(WireFault::ReplyTruncated)), told: (500, None) },
        Disorder { begin: |faults, _| many(faults, Fault::AppliedThenLost), told: (500, None) },
        Disorder { begin: |faults, _| many(faults, Fault::Held), told: (500, None) },
    ]);
}
