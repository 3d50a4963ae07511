//! What goes wrong around the program: one clear error each, the documented exit code, and nothing lost.

use std::net::TcpListener;
use std::path::PathBuf;
use std::thread;
use std::time::Duration;

use migrate::ErrorKind;
use migrate::blob::faults::{Fault, Operation};
use migrate::fixture::PLAN;
use migrate::target::embedded::{Engine, Location};
use migrate::testing::fault_proxy::{FaultProxy, WireFault};

use crate::local::Source;
use crate::support::{Run, Sandbox};

const SIGNUPS: usize = 40;
const LOAD: [&str; 2] = ["dual-write", "--once"];

/// Both stores, and a directory whose commands reach them.
struct World {
    source: Source,
    engine: Engine,
    sandbox: Sandbox,
}

impl World {
    fn new() -> Self {
        Self::with_signups(SIGNUPS)
    }

    fn with_signups(signups: usize) -> Self {
        let source = Source::with_signups(signups);
        let engine = Engine::start(&Location::Memory, None).unwrap();
        let mut sandbox = source.sandbox();
        sandbox.set("DYNAMODB_ENDPOINT", &engine.endpoint());
        Self { source, engine, sandbox }
    }

    fn provisioned() -> Self {
        let world = Self::new();
        world.sandbox.run(&["provision"]).expect(0);
        world
    }

    /// Demands that all that was to be done can be done now.
    fn is_whole(&self) {
        self.sandbox.run(&["provision"]).expect(0);
        self.sandbox.run(&["export"]).expect(0);
        self.sandbox.run(&LOAD).expect(0);
        self.sandbox.run(&["validate"]).expect(0);
        let tables = self.source.tables(&self.engine.endpoint(), "fuse-main");
        assert_eq!(tables.items().len(), self.source.items());
    }

    fn export(&self) -> Run {
        self.sandbox.run(&["export", "--output", "json"])
    }

    fn snapshot(&self) -> PathBuf {
        self.sandbox.path().join(".migrate/fuse.snapshot")
    }
}

/// A URL at which nothing listens.
fn nobody() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    format!("http://{}", listener.local_addr().unwrap())
}

#[test]
fn a_wrong_plan_is_one_error() {
    let world = World::new();
    world.sandbox.write("migration-plan.md", &PLAN.replacen("table = ", "tabel = ", 1));
    for command in [&["provision"][..], &["export"], &LOAD, &["validate"], &["cutover"], &["status"]] {
        let run = world.sandbox.run(command);
        let run = run.expect(2);
        let error = "error: read the plan migration-plan.md:48: `target`: unknown key `tabel`; did you mean `table`?\n";
        assert_eq!((run.stdout.as_str(), run.stderr.as_str()), ("", error));
    }
    assert!(!world.snapshot().exists());
    world.sandbox.write("migration-plan.md", PLAN);
    world.is_whole();
}

#[test]
fn a_token_that_is_missing_or_wrong_is_one_error() {
    let mut world = World::provisioned();
    let token = world.sandbox.variable("BLOB_READ_WRITE_TOKEN");
    for command in [&["export"][..], &LOAD, &["validate", "--repair"]] {
        world.sandbox.set("BLOB_READ_WRITE_TOKEN", "vercel_blob_rw_local_Wr0ng");
        let run = world.sandbox.run(command).expect_error(2, &["list blobs", &world.source.url()]);
        assert!(!run.stderr.contains("Wr0ng"), "{}", run.stderr);
        world.sandbox.set("BLOB_READ_WRITE_TOKEN", "");
        world.sandbox.run(command).expect_error(2, &["BLOB_READ_WRITE_TOKEN"]);
    }
    world.sandbox.set("BLOB_READ_WRITE_TOKEN", &token);
    world.is_whole();
}

#[test]
fn an_endpoint_that_is_not_reached_is_named() {
    let world = World::provisioned();
    thread::scope(|scope| {
        for variable in ["VERCEL_BLOB_API_URL", "DYNAMODB_ENDPOINT"] {
            let mut sandbox = world.source.sandbox();
            sandbox.set("DYNAMODB_ENDPOINT", &world.engine.endpoint());
            let url = nobody();
            sandbox.set(variable, &url);
            scope.spawn(move || sandbox.run(&LOAD).expect_error(1, &[&url]));
        }
    });
    world.is_whole();
}

#[test]
fn a_permission_that_is_missing_is_named() {
    let mut world = World::new();
    let right = world.engine.endpoint();
    let proxy = world.source.block_on(FaultProxy::start(&right)).unwrap();
    let denied = |operation: &str| {
        let action = format!("not authorized to perform: dynamodb:{operation} on resource: fuse-main");
        proxy.fault(operation, WireFault::error(400, "AccessDeniedException", &action));
    };
    world.sandbox.set("DYNAMODB_ENDPOINT", &proxy.endpoint());
    denied("CreateTable");
    world.sandbox.run(&["provision"]).expect_error(2, &["fuse-main", "dynamodb:CreateTable", "--policy"]);
    world.sandbox.run(&["provision"]).expect(0);
    for (operation, command) in
        [("DescribeTable", &LOAD[..]), ("TransactWriteItems", &LOAD), ("Scan", &["validate"])]
    {
        for _ in 0..100 {
            denied(operation);
        }
        let action = format!("dynamodb:{operation}");
        world.sandbox.run(command).expect_error(2, &["fuse-main", &action, "--policy"]);
        // The others are for requests that were under way at the same time.
        proxy.clear();
    }
    world.sandbox.set("DYNAMODB_ENDPOINT", &right);
    world.is_whole();
}

#[test]
fn a_table_with_other_keys_is_left_alone() {
    let world = World::new();
    let other = PLAN.replacen("partition_key = \"PK\"", "partition_key = \"OTHER\"", 1);
    world.sandbox.write("other.md", &other.replace("\nPK = ", "\nOTHER = "));
    world.sandbox.run(&["provision", "--plan", "other.md"]).expect(0);
    for command in [&["provision"][..], &LOAD] {
        world.sandbox.run(command).expect_error(2, &["fuse-main", "OTHER"]);
    }
    assert_eq!(world.source.reads(), 0);
    world.sandbox.run(&["provision", "--plan", "other.md"]).expect(0);
}

#[test]
fn a_snapshot_that_is_cut_off_or_foreign_is_named_and_left_alone() {
    let world = World::provisioned();
    world.sandbox.run(&["export"]).expect(0);
    let whole = std::fs::read(world.snapshot()).unwrap();
    for (bytes, code) in [(&whole[..whole.len() / 2], 1), (&whole[..10], 2), (b"somebody's diary", 2)] {
        std::fs::write(world.snapshot(), bytes).unwrap();
        for command in [&["export"][..], &LOAD] {
            world.sandbox.run(command).expect_error(code, &[".migrate/fuse.snapshot"]);
            assert_eq!(std::fs::read(world.snapshot()).unwrap(), bytes);
        }
    }
    // As the hints say.
    std::fs::rename(world.snapshot(), world.sandbox.path().join("away")).unwrap();
    world.is_whole();
}

#[test]
fn a_second_process_is_told_of_the_first() {
    let world = World::provisioned();
    for (operation, command, name) in
        [(Operation::Get, &["export"][..], ".migrate/fuse.snapshot"), (Operation::List, &LOAD, "session-")]
    {
        let mut paused = world.source.faults().pause(operation);
        thread::scope(|scope| {
            let first = scope.spawn(|| world.sandbox.run(command));
            world.source.block_on(paused.arrived());
            world.sandbox.run(command).expect_error(6, &[name]);
            paused.release();
            first.join().unwrap().expect(0);
        });
    }
    world.is_whole();
}

#[test]
fn a_file_that_cannot_grow_stops_the_export_and_the_load() {
    let world = World::with_signups(300);
    world.sandbox.run(&["provision", "--target", "embedded"]).expect(0);
    // The limit is of each file, in blocks of 512 or of 1,024 bytes. To ignore the signal makes it an error.
    let limited = |blocks: u32, arguments: &[&str]| {
        let script = format!("trap '' XFSZ; ulimit -f {blocks}; exec \"$0\" \"$@\"");
        let shell = ["-c", &script, env!("CARGO_BIN_EXE_migrate")];
        Run::of(&mut world.sandbox.other("/bin/sh", &[&shell[..], arguments].concat()))
    };
    limited(1_000, &["export"]).expect_error(1, &[".migrate/fuse.snapshot", "run the same command again"]);
    let rest = world.export().expect(0).json();
    let (fetched, mapped) = (rest["fetched"].as_u64().unwrap(), rest["mapped"].as_u64().unwrap());
    assert!(rest["resumed"] == true && fetched > 0 && fetched < mapped, "{fetched} of {mapped}");

    let load = [&LOAD[..], &["--target", "embedded"]].concat();
    limited(1_024, &load).expect_error(1, &["disk", "embedded tables"]);
    world.sandbox.run(&load).expect(0);
    world.sandbox.run(&["validate", "--target", "embedded"]).expect(0);
}

#[test]
fn a_store_that_is_suspended_in_mid_run_is_resumed() {
    let world = World::provisioned();
    world.source.faults().suspend_after(Some(30));
    world.sandbox.run(&["export"]).expect_error(1, &["suspended", "resumes"]);
    world.source.faults().suspend_after(Some(1));
    world.sandbox.run(&LOAD).expect_error(1, &["suspended", "resumes"]);
    world.source.faults().suspend_after(None);
    let rest = world.export().expect(0).json();
    let (fetched, mapped) = (rest["fetched"].as_u64().unwrap(), rest["mapped"].as_u64().unwrap());
    assert!(rest["resumed"] == true && fetched > 0 && fetched < mapped, "{fetched} of {mapped}");
    world.is_whole();
}

#[test]
fn a_store_that_asks_for_a_slower_pace_is_obeyed() {
    let world = World::provisioned();
    let throttled = Fault::Refused(ErrorKind::Throttled { retry_after: Some(Duration::ZERO) });
    for operation in [Operation::List, Operation::Get, Operation::Get, Operation::Get] {
        world.source.faults().fault(operation, throttled);
    }
    let report = world.export().expect(0).json();
    assert_eq!((report["failed"].as_u64(), &report["fetched"]), (Some(0), &report["mapped"]));
    assert_eq!(world.source.reads(), report["mapped"].as_u64().unwrap() + 3, "each one was asked for again");
    world.source.faults().fault(Operation::List, throttled);
    world.is_whole();
}
