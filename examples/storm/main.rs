//! A storm: the real program under faults, and a checker of what its clients saw.
//!
//! `scripts/storm --seed N --minutes M` builds and runs it. Two or more gateways (`migrate dual-write`) stand before the
//! emulator (`migrate emulate`), each with a proxy of its own before each store. Clients write and read through all of
//! them. In rounds, gateways are killed, frozen and cut off, requests are lost, held, delivered late or answered to
//! nobody, and an operator takes the cutover there and back, is killed in the middle of it, or is not alone. Every call of
//! every client is noted; in the end both stores are compared past the program, and each key's history is judged.
//!
//! Faults and calls follow from the seed, times are real: a run under the same seed is alike, not the same.
//!
//! What it can't see: clocks that stop with the machine (a suspended machine; SIGSTOP leaves the monotonic clock running);
//! content hosts over TLS; bodies that are streamed (more than 4 MiB); direct writes to DynamoDB; gateways under another
//! plan. The proxies hold no request for longer than `late_write_max`, since the protocol takes that for granted, but for
//! signed ones: these the store itself refuses after `mirror_late_max`.
//!
//! Read next: `rounds` (what happens), `faults` and `weather` (what is drawn), `proxy` (how it is done), `workload` and
//! `client` (the application), `history` and `checker` (what is judged), `ending`, `report`.
#![expect(clippy::print_stdout, clippy::print_stderr, reason = "a program that reports what it found")]

mod blobs;
mod checker;
mod client;
mod ending;
mod faults;
mod fleet;
mod history;
mod log;
mod operator;
mod plant;
mod process;
mod proxy;
mod report;
mod rounds;
mod stage;
mod weather;
mod workload;

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use clap::{Parser, ValueEnum};
use tokio::sync::watch;

use client::Client;
use fleet::Fleet;
use log::Log;
use operator::Operator;
use plant::Plant;
use report::{Findings, judge, scoreboard, told};
use rounds::Storm;
use stage::{Stage, Windows};
use workload::{Load, Shared};

/// So many findings are printed; all are in the folder that is kept.
const PRINTED: usize = 8;
/// The end of a storm takes about this long.
const ENDING: Duration = Duration::from_secs(40);
/// The time of a smoke test, of which its one round and the end take most.
const SMOKE: Duration = Duration::from_secs(60);
/// A storm that does not end by then is ended.
const OVERTIME: Duration = Duration::from_secs(240);

/// Run the program under faults, and judge what its clients saw
///
/// Exit codes: 0 nothing was found; 1 something was; 2 the storm could not be run to its end; 130 interrupted.
#[derive(Debug, Parser)]
struct Arguments {
    /// From which faults and calls follow
    #[arg(long, value_name = "N", default_value_t = 1)]
    seed: u64,

    /// How long the storm lasts; its end takes another minute or two
    #[arg(long, value_name = "M", default_value_t = 5.0)]
    minutes: f64,

    /// One short round, at most a minute with its end
    #[arg(long)]
    smoke: bool,

    /// Which DynamoDB: the engine of `migrate emulate`, or Amazon's DynamoDB Local
    #[arg(long, value_name = "WHICH", default_value = "embedded")]
    dynamodb: DynamoDb,

    /// How many gateways
    #[arg(long, value_name = "N", default_value_t = 2, value_parser = clap::value_parser!(u8).range(2..=4))]
    gateways: u8,

    /// Writes a second
    #[arg(long, value_name = "N", default_value_t = 45.0)]
    writes: f64,

    /// Reads a second
    #[arg(long, value_name = "N", default_value_t = 60.0)]
    reads: f64,

    /// Keys that are written now and then
    #[arg(long, value_name = "N", default_value_t = 120)]
    cold: usize,

    /// Another value of the plan, for every process; may be repeated
    #[arg(long = "set", value_name = "KEY=VALUE")]
    values: Vec<String>,

    /// Findings of this kind do not count; may be repeated
    #[arg(long, value_name = "KIND")]
    allow: Vec<String>,

    /// A defect that must be found
    #[arg(long, value_name = "DEFECT")]
    plant: Option<Plant>,

    /// Keep logs and findings in this folder, which must not be there yet [default: kept where something was found]
    #[arg(long, value_name = "DIR")]
    keep: Option<PathBuf>,

    /// The program
    #[arg(long, value_name = "FILE", env = "MIGRATE")]
    migrate: PathBuf,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum DynamoDb {
    Embedded,
    Local,
}

#[tokio::main]
async fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let time = if arguments.smoke { SMOKE } else { Duration::from_secs(60).mul_f64(arguments.minutes) };
    let storm = tokio::time::timeout(time + OVERTIME, storm(&arguments, time));
    let ended = tokio::select! {
        ended = storm => ended,
        _ = tokio::signal::ctrl_c() => {
            eprintln!("interrupted");
            return ExitCode::from(130);
        }
    };
    match ended {
        Ok(Ok(0)) => ExitCode::SUCCESS,
        Ok(Ok(_)) => ExitCode::FAILURE,
        Ok(Err(error)) => {
            eprintln!("error: {error:#}");
            ExitCode::from(2)
        }
        Err(_) => {
            eprintln!("error: the storm did not end within {OVERTIME:?} of its time");
            ExitCode::from(2)
        }
    }
}

/// Runs it, and returns how much was found that counts.
async fn storm(arguments: &Arguments, time: Duration) -> anyhow::Result<usize> {
    let temporary = tempfile::Builder::new().prefix("storm-").tempdir()?;
    let work = match &arguments.keep {
        Some(folder) => {
            std::fs::create_dir(folder).with_context(|| format!("make {}", folder.display()))?;
            folder.canonicalize()?
        }
        None => temporary.path().to_owned(),
    };
    let migrate = arguments.migrate.canonicalize().context("the program is not there: set MIGRATE")?;
    let log = Arc::new(Log::new(&work.join("log"))?);
    let findings = Arc::new(Findings::new(&arguments.allow));
    let windows = Windows::new(arguments.smoke, arguments.values.clone());
    println!(
        "storm      seed {}, {:.0} s, {} gateways, DynamoDB {:?}; late_write_max {:?}, mirror_late_max {:?}; requests held \
         for {:?} at most, signed ones twice as long",
        arguments.seed,
        time.as_secs_f64(),
        arguments.gateways,
        arguments.dynamodb,
        windows.late_write_max,
        windows.mirror_late_max,
        windows.held_max
    );
    let (mut stage, storm) = begin(arguments, (&work, &migrate), windows, &log, &findings).await?;
    if !storm.fleet.skews() {
        println!("clocks     not skewed: libfaketime is not installed");
    }
    println!("began      after {:.0} s: {} keys", log.now().as_secs_f64(), storm.shared.keys.all().count());
    let clients = workload::start(&storm.shared);
    let last = time.saturating_sub(ENDING);
    for number in 0.. {
        if number > 0 && log.now() >= last {
            break;
        }
        if let Some(plant) = arguments.plant {
            storm.plant(plant, &stage.blob).await?;
        }
        let line = storm.round(number).await?;
        println!("round {number:<4} {line}");
        stage.check()?;
    }
    storm.end(&stage.blob, clients).await?;
    println!("ended      after {:.0} s", log.now().as_secs_f64());
    let records = storm.shared.history.lock().clone();
    let judged = judge(&records, &storm.fleet, &storm.shared.keys, &findings);
    println!("judged     the histories of {judged} keys, {} calls", records.len());
    let mut texts: Vec<String> = Vec::new();
    for finding in findings.all() {
        texts.push(told(&finding, arguments.seed, &records, &storm.shared.keys, &log));
    }
    std::fs::write(work.join("findings"), texts.join("\n"))?;
    for text in texts.iter().take(PRINTED) {
        println!("\n{text}");
    }
    let tally =
        std::mem::take(&mut *storm.operator.tally.lock().unwrap_or_else(std::sync::PoisonError::into_inner));
    print!("{}", scoreboard(&records, &tally, &log, &findings));
    if !texts.is_empty() && arguments.keep.is_none() {
        println!("kept       {}", temporary.keep().display());
    }
    let result = if findings.count() == 0 { "nothing was found" } else { "FOUND, see above" };
    println!("result     seed {}: {result}", arguments.seed);
    Ok(findings.count())
}

/// Starts both stores, the operator and all gateways.
async fn begin(
    arguments: &Arguments,
    (work, migrate): (&Path, &Path),
    windows: Windows,
    log: &Arc<Log>,
    findings: &Arc<Findings>,
) -> anyhow::Result<(Stage, Storm)> {
    let local = arguments.dynamodb == DynamoDb::Local;
    let stage = Stage::start(work, migrate, windows.clone(), local).await?;
    let seed = arguments.seed;
    let operator = Operator::new(&stage, seed, log).await?;
    let fleet = Arc::new(Fleet::new(&stage, usize::from(arguments.gateways), seed, log).await?);
    let export = operator.run(&["export"]).await?;
    anyhow::ensure!(export.done(), "export: {}", export.error);
    fleet.mend(None).await?;
    let shared = Shared {
        seed,
        keys: blobs::Keys::new(arguments.cold),
        contents: blobs::Contents::default(),
        history: history::History::default(),
        client: Client::new(&stage.token)?,
        fleet: Arc::clone(&fleet),
        log: Arc::clone(log),
        findings: Arc::clone(findings),
        rates: (arguments.writes, arguments.reads),
        load: watch::Sender::new(Load::Full),
        lie: std::sync::atomic::AtomicU64::new(0),
    };
    let storm = Storm {
        seed,
        windows,
        shared: Arc::new(shared),
        fleet,
        operator,
        log: Arc::clone(log),
        findings: Arc::clone(findings),
    };
    Ok((stage, storm))
}
