//! Commands that are killed at random moments and run again end where an unkilled one does.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::{Duration, Instant};

use migrate::blob::{ETag, Pathname};
use migrate::digest::Digest;
use migrate::snapshot::{Snapshot, Verdict};
use migrate::target::control::SessionState;
use migrate::target::embedded::{Engine, Location};
use rand::{RngExt as _, SeedableRng as _};
use rand_chacha::ChaCha8Rng;

use crate::local::{Mirror, Source, Tables};
use crate::support::{Run, Sandbox};

const KILLS: u32 = 20;
/// The bodies that a killed export may have read in vain: those under way, and those not yet committed.
const UNSAVED_MAX: u64 = 32 + 16;

/// Kills commands at random moments of their lives.
struct Killer {
    random: ChaCha8Rng,
    /// How long an unkilled run takes.
    whole: Duration,
    kills: u32,
}

impl Killer {
    fn new(seed: u64, whole: Duration) -> Self {
        Self { random: ChaCha8Rng::seed_from_u64(seed), whole, kills: 0 }
    }

    fn is_done(&self) -> bool {
        self.kills == KILLS
    }

    /// Runs a command until it comes to its end, and kills it at random moments before; the number of kills.
    fn run(&mut self, sandbox: &Sandbox, arguments: &[&str]) -> (Run, u32) {
        let before = self.kills;
        while !self.is_done() {
            let life = self.whole.mul_f64(self.random.random());
            match sandbox.run_for(arguments, life) {
                Some(run) => return (run, self.kills - before),
                None => self.kills += 1,
            }
        }
        (sandbox.run(arguments), self.kills - before)
    }
}

/// Every blob of a finished snapshot, with the digest of its body, and the digest of all.
type Saved = (BTreeMap<Pathname, (ETag, Verdict, Option<Digest>)>, Digest);

fn saved(source: &Source, file: &Path) -> Saved {
    source.block_on(async {
        let snapshot = Snapshot::open(file).unwrap();
        let blobs = snapshot.blobs(None, u32::MAX).await.unwrap();
        let mut saved = BTreeMap::new();
        for blob in blobs {
            let etag = blob.version.etag;
            // Whether the bytes can still be read, and are those of the digest.
            let body = snapshot.body(&blob.pathname, &etag).await.unwrap();
            saved.insert(
                blob.pathname,
                (etag, blob.verdict, body.map(|body| Digest::of(body.bytes().unwrap()))),
            );
        }
        (saved, snapshot.manifest().await.unwrap().expect("the export is finished").digest)
    })
}

#[test]
fn an_export_that_is_killed_saves_what_an_unkilled_one_does() {
    let seed = rand::random();
    eprintln!("seed {seed}");
    let source = Source::with_signups(1_000);
    source.faults().set_latency(Duration::from_millis(20));
    let sandbox = source.sandbox();
    let began = Instant::now();
    sandbox.run(&["export", "--snapshot", "whole"]).expect(0);
    let mut killer = Killer::new(seed, began.elapsed());
    let expected = saved(&source, &sandbox.path().join("whole"));
    let mapped = source.mapped().count() as u64;
    assert_eq!(expected.0.values().filter(|(_, _, body)| body.is_some()).count() as u64, mapped);

    let (mut resumed, mut exports) = (0, 0);
    while !killer.is_done() {
        exports += 1;
        let name = format!("killed-{exports}");
        let read = source.reads();
        let (run, kills) = killer.run(&sandbox, &["export", "--snapshot", &name, "--output", "json"]);
        let report = run.expect(0).json();
        assert_eq!(saved(&source, &sandbox.path().join(&name)), expected, "after {kills} kills");
        let read = source.reads() - read;
        assert!(read <= mapped + u64::from(kills) * UNSAVED_MAX, "{read} reads, {kills} kills");
        resumed += u32::from(report["resumed"] == true);
    }
    assert!(resumed > 0, "no kill hit an export that had saved something");
}

/// One place of the tables after another, each new.
trait Places {
    /// Flags that name the next place.
    fn next(&mut self) -> Vec<String>;
    /// What is in it.
    fn look<T>(&self, source: &Source, look: impl FnOnce(&Tables<'_>) -> T) -> T;
}

/// Other tables of an engine that lives on while its clients are killed: their last requests may land late.
struct TablesOfOneEngine {
    engine: Engine,
    number: u32,
}

impl Places for TablesOfOneEngine {
    fn next(&mut self) -> Vec<String> {
        self.number += 1;
        vec!["--set".to_owned(), format!("target.table=fuse-{}", self.number)]
    }

    fn look<T>(&self, source: &Source, look: impl FnOnce(&Tables<'_>) -> T) -> T {
        look(&source.tables(&self.engine.endpoint(), &format!("fuse-{}", self.number)))
    }
}

/// Other files, whose engine is killed with the command.
struct Files<'a> {
    sandbox: &'a Sandbox,
    number: u32,
}

impl Places for Files<'_> {
    fn next(&mut self) -> Vec<String> {
        self.number += 1;
        vec!["--target".to_owned(), format!("embedded:{}.db", self.number)]
    }

    fn look<T>(&self, source: &Source, look: impl FnOnce(&Tables<'_>) -> T) -> T {
        let file = self.sandbox.path().join(format!("{}.db", self.number));
        let engine = Engine::start(&Location::File(file), None).unwrap();
        look(&source.tables(&engine.endpoint(), "fuse-main"))
    }
}

/// A command line on a place. Without shorter windows no sweep counts so soon after an unclean end.
fn on<'a>(place: &'a [String], command: &[&'a str]) -> Vec<&'a str> {
    let windows = ["--set", "timing.late_write_max=0s", "--set", "timing.settle=0s"];
    command.iter().copied().chain(windows).chain(place.iter().map(String::as_str)).collect()
}

/// Demands that a killed load ends where an unkilled one does, and that its gates can open.
fn loads_survive_kills(seed: u64, source: &Source, sandbox: &Sandbox, places: &mut impl Places) {
    sandbox.run(&["export"]).expect(0);
    let place = places.next();
    sandbox.run(&on(&place, &["provision"])).expect(0);
    let began = Instant::now();
    sandbox.run(&on(&place, &["dual-write", "--once"])).expect(0);
    let mut killer = Killer::new(seed, began.elapsed());
    let expected: Mirror = places.look(source, |tables| tables.mirror());
    assert_eq!(expected.items.len(), source.items());
    assert_eq!(expected.anchors.len(), source.mapped().count());

    let mut unclean = 0;
    while !killer.is_done() {
        let place = places.next();
        sandbox.run(&on(&place, &["provision"])).expect(0);
        let (load, kills) = killer.run(sandbox, &on(&place, &["dual-write", "--once"]));
        load.expect(0);
        let (mirror, sessions) = places.look(source, |tables| (tables.mirror(), tables.sessions()));
        assert!(mirror == expected, "after {kills} kills: {mirror:#?}\nnot: {expected:#?}");
        let count = |state| sessions.iter().filter(|session| session.state == state).count();
        assert_eq!(count(SessionState::Open), 0, "{sessions:#?}");
        // A kill between the end of its session and the end of its process left a clean one.
        assert!(count(SessionState::Clean) > 0 && sessions.len() <= kills as usize + 1, "{sessions:#?}");
        unclean += count(SessionState::Unclean);
        if killer.is_done() {
            sandbox.run(&on(&place, &["validate", "--sweeps", "2"])).expect(0);
            sandbox.run(&on(&place, &["cutover", "--dry-run"])).expect(0);
        }
    }
    assert!(unclean >= KILLS as usize / 4, "only {unclean} kills hit a session");
}

#[test]
fn a_load_that_is_killed_ends_where_an_unkilled_one_does() {
    let source = Source::with_signups(120);
    let engine = Engine::start(&Location::Memory, None).unwrap();
    let mut sandbox = source.sandbox();
    sandbox.set("DYNAMODB_ENDPOINT", &engine.endpoint());
    let seed = rand::random();
    eprintln!("seed {seed}");
    loads_survive_kills(seed, &source, &sandbox, &mut TablesOfOneEngine { engine, number: 0 });
}

#[test]
fn a_load_that_is_killed_with_its_engine_ends_where_an_unkilled_one_does() {
    let source = Source::with_signups(100);
    let sandbox = source.sandbox();
    let seed = rand::random();
    eprintln!("seed {seed}");
    loads_survive_kills(seed, &source, &sandbox, &mut Files { sandbox: &sandbox, number: 0 });
}
