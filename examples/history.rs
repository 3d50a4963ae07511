//! Writes and reads through several gateways, and what their clients saw, checked.
//!
//! Each key has one writer, which writes versions of it one after the other, now through this gateway, now through that
//! one; every tenth is a deletion. Readers ask any gateway. Whatever happens meanwhile, a read must tell a version that is
//! not older than the last one that was acknowledged before the read began, and was begun before the read ended. In the
//! end each key must hold its last version. `docs/measure-cutover` runs it.

#![expect(clippy::print_stdout, reason = "a program that reports what it measured")]
#![expect(clippy::disallowed_methods, reason = "it measures by the machine's own clock")]

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use anyhow::{Context as _, bail};
use clap::Parser;
use futures::stream::{self, StreamExt as _};
use migrate::clock::{Clock as _, SystemClock};
use reqwest::{Client, StatusCode};
use serde_json::{Value, json};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

/// So many failures and violations are told.
const TOLD_MAX: usize = 5;
/// So many keys are read at a time in the end.
const LOOKS_AT_ONCE: usize = 64;
/// Every so many versions of a key it is deleted.
const DELETED: u64 = 10;

#[derive(Parser)]
struct Arguments {
    /// The gateways: the base URLs of their APIs
    #[arg(required = true)]
    gateways: Vec<String>,
    #[arg(long, default_value_t = 200)]
    writes: u32,
    #[arg(long, default_value_t = 500)]
    reads: u32,
    #[arg(long, default_value_t = 64)]
    keys: usize,
    /// So many of the keys get half of the writes; 0: all get the same
    #[arg(long, default_value_t = 0)]
    hot: usize,
    /// Until this file is there
    #[arg(long)]
    until: std::path::PathBuf,
    #[arg(long, env = "BLOB_READ_WRITE_TOKEN", hide_env_values = true)]
    token: String,
}

/// A version of a key, by the clock of this process: when its write began, and when it was acknowledged.
#[derive(Clone, Copy)]
struct Version {
    deleted: bool,
    began: Instant,
    acknowledged: Option<Instant>,
}

/// What all tasks share.
struct History {
    arguments: Arguments,
    http: Client,
    /// The versions of each key; version 0 is that there is nothing.
    keys: Vec<Mutex<Vec<Version>>>,
    /// The key that was written last.
    latest: AtomicUsize,
    found: Mutex<Found>,
    end: CancellationToken,
}

#[derive(Default)]
struct Found {
    /// When each write began, in milliseconds since 1970, and how long it took.
    writes: Vec<(u64, f64)>,
    reads_ms: Vec<f64>,
    failures: Vec<String>,
    violations: Vec<String>,
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let arguments = Arguments::parse();
    let nothing = Version { deleted: true, began: Instant::now(), acknowledged: Some(Instant::now()) };
    let keys = (0..arguments.keys).map(|_| Mutex::new(vec![nothing])).collect();
    let http = Client::builder().no_proxy().build()?;
    let end = CancellationToken::new();
    let history = Arc::new(History {
        arguments,
        http,
        keys,
        latest: AtomicUsize::new(0),
        found: Mutex::default(),
        end,
    });
    let mut tasks = JoinSet::new();
    for key in 0..history.keys.len() {
        let history = Arc::clone(&history);
        tasks.spawn(async move { history.write(key).await });
    }
    let readers = history.keys.len();
    for reader in 0..readers {
        let history = Arc::clone(&history);
        tasks.spawn(async move { history.read(reader, readers).await });
    }
    while !history.arguments.until.exists() {
        SystemClock::new().sleep(Duration::from_millis(50)).await;
    }
    history.end.cancel();
    while let Some(ended) = tasks.join_next().await {
        ended?;
    }
    let gateways = history.arguments.gateways.len();
    let all = (0..history.keys.len()).flat_map(|key| (0..gateways).map(move |gateway| (key, gateway)));
    let looks = stream::iter(all).map(|(key, gateway)| history.look(key, gateway));
    looks.buffer_unordered(LOOKS_AT_ONCE).collect::<()>().await;
    println!("{}", history.report());
    Ok(())
}

impl History {
    /// Writes a key again and again.
    async fn write(&self, key: usize) {
        let Arguments { hot, writes, .. } = self.arguments;
        let (first, after, writes) = match hot {
            0 => (0, self.keys.len(), writes),
            hot if key < hot => (0, hot, writes / 2),
            hot => (hot, self.keys.len(), writes / 2),
        };
        let [place, count] = [key - first, after - first].map(|number| u32::try_from(number).unwrap_or(1));
        let period = Duration::from_secs(1) * count / writes;
        let mut next = Instant::now() + period * place / count;
        for number in 1.. {
            let wait = tokio::time::sleep_until(next.into());
            if self.end.run_until_cancelled(wait).await.is_none() {
                return;
            }
            let deleted = number % DELETED == 0;
            let began = Instant::now();
            let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
            self.versions(key, |versions| versions.push(Version { deleted, began, acknowledged: None }));
            let written = self.send_write(key, number, deleted).await;
            let took = began.elapsed();
            match written {
                Ok(()) => {
                    let now = Instant::now();
                    self.versions(key, |versions| {
                        if let Some(last) = versions.last_mut() {
                            last.acknowledged = Some(now);
                        }
                    });
                    self.latest.store(key, Ordering::Relaxed);
                    let at = u64::try_from(since.as_millis()).unwrap_or(u64::MAX);
                    self.found(|found| found.writes.push((at, took.as_secs_f64() * 1e3)));
                }
                Err(error) => {
                    self.found(|found| found.failures.push(format!("write {number} of {key}: {error:#}")));
                }
            }
            // Behind its time, it goes on at once.
            next = (next + period).max(Instant::now());
        }
    }

    async fn send_write(&self, key: usize, number: u64, deleted: bool) -> anyhow::Result<()> {
        let Arguments { gateways, token, .. } = &self.arguments;
        let gateway = &gateways[usize::try_from(number).unwrap_or(0) % gateways.len()];
        let request = if deleted {
            let body = json!({ "urls": [name(key)] }).to_string();
            self.http.post(format!("{gateway}/delete")).body(body)
        } else {
            let body = json!({ "key": key, "number": number }).to_string();
            let request = self.http.put(format!("{gateway}/?pathname={}", name(key))).body(body);
            request.header("x-allow-overwrite", "1").header("x-vercel-blob-access", "public")
        };
        let reply = request.bearer_auth(token).send().await?;
        let status = reply.status();
        let text = reply.text().await?;
        if !status.is_success() {
            bail!("{status}: {text}");
        }
        Ok(())
    }

    /// Reads keys again and again.
    async fn read(&self, reader: usize, readers: usize) {
        let readers = u32::try_from(readers).unwrap_or(1);
        let period = Duration::from_secs(1) * readers / self.arguments.reads;
        let mut next = Instant::now() + period * u32::try_from(reader).unwrap_or(0) / readers;
        for turn in 0.. {
            let wait = tokio::time::sleep_until(next.into());
            if self.end.run_until_cancelled(wait).await.is_none() {
                return;
            }
            // Half of them where a read is most likely to come too early.
            let latest = self.latest.load(Ordering::Relaxed);
            let key = if turn % 2 == 0 { latest } else { (reader + turn * 7) % self.keys.len() };
            self.look(key, turn / 2).await;
            next = (next + period).max(Instant::now());
        }
    }

    /// Reads a key, and holds what was told against what may be told.
    async fn look(&self, key: usize, gateway: usize) {
        let gateways = &self.arguments.gateways;
        let began = Instant::now();
        let told = self.number(&gateways[gateway % gateways.len()], key).await;
        let ended = Instant::now();
        let told = match told {
            Ok(told) => told,
            Err(error) => {
                return self.found(|found| found.failures.push(format!("read of {key}: {error:#}")));
            }
        };
        let versions = self.versions(key, |versions| versions.clone());
        let before = |version: &Version| version.acknowledged.is_some_and(|at| at < began);
        let oldest = versions.iter().rposition(before).unwrap_or(0);
        let allowed = versions.iter().enumerate().skip(oldest).filter(|(_, version)| version.began < ended);
        let mut numbers = allowed.map(|(number, version)| if version.deleted { 0 } else { number as u64 });
        let lawful = numbers.any(|number| number == told);
        self.found(|found| {
            found.reads_ms.push((ended - began).as_secs_f64() * 1e3);
            if !lawful {
                let newest = versions.len() - 1;
                found.violations.push(format!("{}: told {told}, of {oldest} to {newest}", name(key)));
            }
        });
    }

    /// The version that a gateway tells; 0 where there is nothing.
    async fn number(&self, gateway: &str, key: usize) -> anyhow::Result<u64> {
        let origin = gateway.strip_suffix("/api/blob").context("a gateway's URL ends in /api/blob")?;
        let reply = self.http.get(format!("{origin}/content/{}", name(key))).send().await?;
        let status = reply.status();
        if status == StatusCode::NOT_FOUND {
            return Ok(0);
        }
        let text = reply.text().await?;
        if !status.is_success() {
            bail!("{status}: {text}");
        }
        let body: Value = serde_json::from_str(&text)?;
        body["number"].as_u64().with_context(|| format!("it told {text}"))
    }

    fn versions<T>(&self, key: usize, change: impl FnOnce(&mut Vec<Version>) -> T) -> T {
        change(&mut self.keys[key].lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn found<T>(&self, change: impl FnOnce(&mut Found) -> T) -> T {
        change(&mut self.found.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn report(&self) -> Value {
        self.found(|found| {
            let mut writes: Vec<f64> = found.writes.iter().map(|(_, ms)| *ms).collect();
            let told = |all: &[String]| json!({ "count": all.len(), "first": all.iter().take(TOLD_MAX).collect::<Vec<_>>() });
            json!({
                "writes": ranks(&mut writes), "reads": ranks(&mut found.reads_ms),
                "failures": told(&found.failures), "violations": told(&found.violations),
                "write_log": found.writes,
            })
        })
    }
}

fn name(key: usize) -> String {
    format!("r/{key}.json")
}

fn ranks(ms: &mut [f64]) -> Value {
    ms.sort_unstable_by(f64::total_cmp);
    let rank = |hundredths: usize| ms.get(ms.len() * hundredths / 100).or(ms.last());
    json!({ "count": ms.len(), "p50_ms": rank(50), "p99_ms": rank(99), "max_ms": rank(100) })
}
