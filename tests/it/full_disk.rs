//! A local disk that is full: the program says so, names the folder, and goes on once there is room.

use std::fs;
use std::process::Command;

use migrate::target::embedded::{Engine, Location};
use reqwest::StatusCode;

use crate::gateway::{Gateway, runtime};
use crate::local::Source;
use crate::support::{Run, Sandbox};

const PLAN: &str = r#"```toml migrate
[source]
store = "local"
[target]
table = "test"
partition_key = "PK"
sort_key = "SK"
[[entity]]
name = "list"
blobs = "l/{id}.json"
[[entity.item]]
each = "[*]"
PK = "{{ id }}#{{ record.id }}"
SK = "META"
```
"#;

/// Runs `"$0" "$@"` where the folder `tiny` is a disk of a megabyte, of which no other process knows.
const ON_A_TINY_DISK: &str = r#"exec unshare --map-root-user --mount /bin/sh -c \
    'mount -t tmpfs -o size=1m tmpfs tiny && exec "$0" "$@"' "$0" "$@""#;

/// Records of 10 KB.
fn list(records: usize) -> String {
    let text = "x".repeat(10_000);
    let records: Vec<_> = (0..records).map(|n| format!(r#"{{"id": "{n}", "text": "{text}"}}"#)).collect();
    format!("[{}]", records.join(","))
}

/// A store with a long blob, and a folder for a tiny disk, where temporary files go.
fn world(source: &Source) -> (Sandbox, Engine) {
    let engine = Engine::start(&Location::Memory, None).unwrap();
    let mut sandbox = source.sandbox();
    sandbox.set("DYNAMODB_ENDPOINT", &engine.endpoint());
    sandbox.write("migration-plan.md", PLAN);
    fs::create_dir(sandbox.path().join("tiny")).unwrap();
    source.put("l/long.json", list(600));
    sandbox.run(&["provision"]).expect(0);
    (sandbox, engine)
}

fn by(sandbox: &Sandbox, script: &str, arguments: &[&str]) -> Command {
    sandbox.other("/bin/sh", &[&["-c", script, env!("CARGO_BIN_EXE_migrate")], arguments].concat())
}

#[test]
fn an_export_says_so_and_resumes_once_there_is_room() {
    let source = Source::empty();
    let (sandbox, _engine) = world(&source);
    // Bodies that do not shrink.
    for number in 0..40_u64 {
        let digests =
            (0..1_000).map(|part| migrate::digest::Digest::of(format!("{number} {part}")).to_string());
        source.put(&format!("l/{number}.json"), format!("[\"{}\"]", digests.collect::<String>()));
    }
    // The disk is there as long as the shell that made it.
    let twice = r#"exec unshare --map-root-user --mount /bin/sh -c '
        mount -t tmpfs -o size=1m tmpfs tiny
        "$0" "$@"
        echo "first: $?" >&2
        mount -o remount,size=64m tiny
        exec "$0" "$@"' "$0" "$@""#;
    let export = ["export", "--snapshot", "tiny/a.snapshot", "--output", "json"];
    let run = Run::of(&mut by(&sandbox, twice, &export)).expect(0);
    assert!(run.stderr.contains("first: 8"), "{}", run.stderr);
    let lines: Vec<serde_json::Value> =
        run.stdout.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let error = &lines[0]["error"];
    assert_eq!((&error["kind"], &error["exit"]), (&"no-space".into(), &8.into()), "{error}");
    assert!(error["message"].as_str().unwrap().contains("no space left in tiny"), "{error}");
    assert!(error["hint"].as_str().unwrap().contains("make room"), "{error}");
    assert_eq!(lines[1]["resumed"], true, "{}", lines[1]);
}

#[test]
fn a_comparison_says_so() {
    let source = Source::empty();
    let (mut sandbox, _engine) = world(&source);
    sandbox.run(&["dual-write", "--once"]).expect(0);
    sandbox.run(&["validate"]).expect(0);
    let tiny = sandbox.path().join("tiny").to_str().unwrap().to_owned();
    sandbox.set("TMPDIR", &tiny);
    let run = Run::of(&mut by(&sandbox, ON_A_TINY_DISK, &["validate"]));
    run.expect_error(8, &[&format!("no space left in {tiny}"), "TMPDIR"]);
}

#[test]
fn a_gateway_says_so_to_the_request_and_goes_on() {
    let source = Source::empty();
    let (mut sandbox, _engine) = world(&source);
    sandbox.set("TMPDIR", sandbox.path().join("tiny").to_str().unwrap().to_owned().as_str());
    let gateway = Gateway::start_by(&sandbox, ON_A_TINY_DISK, &["--name", "g"]);
    let client = gateway.client();
    runtime().block_on(async {
        for _ in 0..2 {
            let (status, reply) = client.put("l/another.json", list(600)).await.unwrap();
            assert_eq!(status, StatusCode::SERVICE_UNAVAILABLE, "{reply}");
            assert!(reply.contains("service_unavailable") && reply.contains("no space left;"), "{reply}");
            let (status, reply) = client.put("l/short.json", list(1)).await.unwrap();
            assert_eq!(status, StatusCode::OK, "{reply}");
        }
    });
    assert_eq!(source.body("l/another.json"), None);
    assert_eq!(source.body("l/short.json"), Some(list(1)));
    let run = gateway.stop();
    let tiny = sandbox.variable("TMPDIR");
    let told = run.stderr.lines().filter(|line| line.contains(&format!("no space left in {tiny}")));
    assert!(told.count() >= 3, "both requests, and the load of the long blob: {}", run.stderr);
}
