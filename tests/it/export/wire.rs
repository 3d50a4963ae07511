//! An export over the wire, while the store behaves and while it does not.

use std::net::SocketAddr;
use std::num::NonZeroU64;
use std::sync::Arc;

use bytes::Bytes;
use migrate::blob::Pathname;
use migrate::blob::client::{Config, HttpBlob, Rates};
use migrate::blob::emulator::{Emulator, EmulatorConfig};
use migrate::blob::faults::{self, Drops, Operation};
use migrate::blob::server::ServerConfig;
use migrate::blob::store::{Access, BlobStore as _, PutOptions};
use migrate::clock::SystemClock;
use migrate::event::Silent;
use migrate::mapping::Mapper;
use migrate::plan::Plan;
use migrate::snapshot::{Export, ExportOptions, Snapshot};
use tokio_util::sync::CancellationToken;

use super::PLAN;

const TOKEN: &str = "vercel_blob_rw_demo_s3cr3t";

async fn emulator(access: Access) -> Emulator {
    let server = ServerConfig { access, ..ServerConfig::new(TOKEN.into()) };
    let listen = SocketAddr::from(([127, 0, 0, 1], 0));
    let config = EmulatorConfig { listen, server, data: None };
    Emulator::start(config, Arc::new(SystemClock::new())).await.unwrap()
}

fn client(emulator: &Emulator, access: Access, rates: Option<Rates>) -> HttpBlob {
    let base = emulator.server().base_url();
    let clock = Arc::new(SystemClock::new());
    let config = Config::new(base, TOKEN.into(), access, Arc::new(Silent), clock);
    HttpBlob::new(Config { rates, ..config }).unwrap()
}

async fn seed(emulator: &Emulator, count: usize) {
    for number in 0..count {
        let name = Pathname::new(format!("signups/{number:04}.json"));
        let body = Bytes::from(format!("{{\"number\": {number}}}"));
        emulator.store().put(&name, body.into(), &PutOptions::default()).await.unwrap();
    }
}

fn export(source: HttpBlob) -> Export {
    let plan: Plan = toml::from_str(PLAN).unwrap();
    Export {
        paced: true,
        meter: source.meter(),
        source: Arc::new(source),
        mapper: Arc::new(Mapper::new(&plan).unwrap()),
        plan: Arc::new(plan),
        clock: Arc::new(SystemClock::new()),
        events: Arc::new(Silent),
        options: ExportOptions::default(),
    }
}

#[tokio::test]
async fn an_export_over_the_wire_counts_what_it_costs() {
    let emulator = emulator(Access::Public).await;
    seed(&emulator, 30).await;
    let directory = tempfile::tempdir().unwrap();
    let snapshot = Snapshot::create_or_open(directory.path().join("a"), "demo").unwrap();
    let report = export(client(&emulator, Access::Public, None))
        .run(&snapshot, &CancellationToken::new())
        .await
        .unwrap();
    assert_eq!((report.fetched, report.failed), (30, 0));
    assert_eq!((report.operations.simple, report.operations.advanced), (30, 1));
    assert_eq!(report.operations, report.estimate.operations, "the estimate was exact");
}

#[tokio::test]
async fn connections_that_end_without_a_reply_cost_repetitions_only() {
    let emulator = emulator(Access::Public).await;
    seed(&emulator, 60).await;
    emulator.faults().set_drops(Some(Drops { every: NonZeroU64::new(7).unwrap(), applied: false }));
    let directory = tempfile::tempdir().unwrap();
    let snapshot = Snapshot::create_or_open(directory.path().join("a"), "demo").unwrap();
    let report = export(client(&emulator, Access::Public, None))
        .run(&snapshot, &CancellationToken::new())
        .await
        .unwrap();
    assert_eq!((report.fetched, report.failed), (60, 0));
    assert!(report.operations.simple > 60, "some were asked for again");
}

#[tokio::test]
async fn a_paced_export_is_never_throttled() {
    let emulator = emulator(Access::Public).await;
    seed(&emulator, 100).await;
    emulator.faults().set_rates(Some(faults::Rates::ENTERPRISE));
    let directory = tempfile::tempdir().unwrap();
    let snapshot = Snapshot::create_or_open(directory.path().join("a"), "demo").unwrap();
    let rates = Some(Rates { simple: 150.0, advanced: 125.0 });
    let report = export(client(&emulator, Access::Public, rates))
        .run(&snapshot, &CancellationToken::new())
        .await
        .unwrap();
    assert_eq!(report.fetched, 100);
    assert_eq!(emulator.faults().calls(Operation::Get), 100, "no read was refused and repeated");
}

#[tokio::test]
async fn an_unpaced_export_waits_when_it_is_told_to() {
    let emulator = emulator(Access::Public).await;
    seed(&emulator, 60).await;
    emulator.faults().set_rates(Some(faults::Rates::new(40, 15)));
    let directory = tempfile::tempdir().unwrap();
    let snapshot = Snapshot::create_or_open(directory.path().join("a"), "demo").unwrap();
    let report = export(client(&emulator, Access::Public, None))
        .run(&snapshot, &CancellationToken::new())
        .await
        .unwrap();
    assert_eq!((report.fetched, report.failed), (60, 0));
    assert!(emulator.faults().calls(Operation::Get) > 60, "it was throttled");
}

#[tokio::test]
async fn an_export_that_goes_on_counts_each_operation_once() {
    let emulator = emulator(Access::Public).await;
    seed(&emulator, 20).await;
    let directory = tempfile::tempdir().unwrap();
    let snapshot = Snapshot::create_or_open(directory.path().join("a"), "demo").unwrap();
    emulator.faults().suspend_after(Some(1 + 5));
    let mut export = export(client(&emulator, Access::Public, None));
    export.options.concurrency = 1;
    export.run(&snapshot, &CancellationToken::new()).await.unwrap_err();
    emulator.faults().suspend_after(None);
    let report = export.run(&snapshot, &CancellationToken::new()).await.unwrap();
    assert_eq!((report.operations.simple, report.operations.advanced), (15, 0));
    assert_eq!(report.estimate.operations, report.operations);
    let earlier = report.estimate.earlier;
    assert_eq!((earlier.simple, earlier.advanced), (6, 1), "five reads and the one that was refused");
}
