//! What somebody wrote to Blob past the gateway, settled by the commands that `migrate validate` prints.

use migrate::protocol::phase::Phase;
use reqwest::StatusCode;
use serde_json::{Value as Json, json};

use crate::finish::step;
use crate::gateway::{Client, Gateway, PLAN, no_drift, runtime, stage, until, windowed};
use crate::mode::control;
use crate::support::{Run, Sandbox};

/// What differs, of which there is one.
#[track_caller]
fn drift(sandbox: &Sandbox) -> Json {
    let report = sandbox.run(&windowed(&["validate", "--output", "json"])).expect(5).json();
    let drift = report["sweeps"][0]["drift"].as_array().unwrap().clone();
    assert_eq!(drift.len(), 1, "{report}");
    drift[0].clone()
}

/// Runs a command as it is printed.
fn paste(sandbox: &Sandbox, command: &Json, more: &[&str]) -> Run {
    let words: Vec<&str> = command.as_str().unwrap().split(' ').skip(1).collect();
    sandbox.run(&windowed(&[&words, more].concat()))
}

fn put(client: &Client, name: &str, body: &str) {
    let (status, text) = runtime().block_on(client.put(name, body.to_owned())).unwrap();
    assert_eq!(status, StatusCode::OK, "{text}");
}

#[test]
fn the_printed_commands_settle_what_was_written_past_the_gateway_and_lose_nothing() {
    let (sandbox, _stores) = stage(PLAN, &[]);
    let gateway = Gateway::start(&sandbox, &["--name", "blue"]);
    let client = gateway.client();
    let past = Client { url: sandbox.variable("VERCEL_BLOB_API_URL"), ..gateway.client() };
    put(&client, "r/1.json", r#"{"n": 1}"#);
    step(&runtime().block_on(control(&sandbox)), Phase::Cutover);
    runtime().block_on(until("the gateway answers from DynamoDB", async || {
        let answer = client.put("r/1.json", r#"{"n": 2}"#.to_owned()).await.unwrap();
        answer.0 == StatusCode::OK && sandbox.run(&windowed(&["validate"])).code == Some(0)
    }));

    put(&past, "r/1.json", r#"{"past": 1}"#);
    let shown = drift(&sandbox);
    assert_eq!((&shown["kind"], &shown["newer"]), (&json!("foreign"), &json!("blob")), "{shown}");
    let adopt = shown["settle"][0].as_str().unwrap();
    assert!(adopt.starts_with("migrate validate --adopt r/1.json@"), "{shown}");
    let text = sandbox.run(&windowed(&["validate"])).expect(5).stdout;
    for line in [format!("hint:   {adopt}"), "or:     migrate validate --discard r/1.json".to_owned()] {
        assert!(text.lines().any(|found| found.trim_start() == line), "{line} in\n{text}");
    }

    // The application writes after it was shown.
    put(&client, "r/1.json", r#"{"n": 3}"#);
    let late = paste(&sandbox, &shown["settle"][0], &[]);
    late.expect_error(1, &["r/1.json", "DynamoDB was written since it was shown", "migrate validate"]);
    let shown = drift(&sandbox);
    assert_eq!(shown["newer"], "unclear", "{shown}");
    let adopt = shown["settle"][1].as_str().unwrap().strip_suffix(" --overwrite-newer").unwrap();
    let refused = paste(&sandbox, &json!(adopt), &[]);
    refused.expect_error(2, &["r/1.json", "clocks may differ by 1m", "--discard", "--overwrite-newer"]);
    let told = paste(&sandbox, &shown["settle"][0], &["--output", "json"]).expect(0).json();
    let file = told["discarded"][0][1].as_str().unwrap();
    assert_eq!(std::fs::read_to_string(sandbox.path().join(file)).unwrap(), r#"{"past": 1}"#);
    no_drift(&sandbox);

    put(&past, "r/1.json", r#"{"past": 2}"#);
    let told = paste(&sandbox, &drift(&sandbox)["settle"][0], &["--output", "json"]).expect(0).json();
    let file = told["adopted"][0][1].as_str().unwrap();
    assert_eq!(std::fs::read_to_string(sandbox.path().join(file)).unwrap(), r#"{"n": 3}"#);
    no_drift(&sandbox);
    put(&past, "r/2.json", r#"{"past": 3}"#);
    let told = paste(&sandbox, &drift(&sandbox)["settle"][0], &["--output", "json"]).expect(0).json();
    assert_eq!(told["adopted"], json!([["r/2.json", null]]));
    no_drift(&sandbox);

    // What was done before a failure is told.
    put(&past, "r/3.json", r#"{"past": 4}"#);
    let twice = ["validate", "--discard", "r/3.json", "--discard", "r/2.json", "--output", "json"];
    let run = sandbox.run(&windowed(&twice)).expect(2);
    assert_eq!(run.json()["error"]["kind"], "usage");
    assert!(run.stderr.contains("discarded  r/3.json: its bytes are in"), "{run:?}");
    sandbox
        .run(&windowed(&["validate", "--adopt", "r/2.json"]))
        .expect_error(2, &["r/2.json", "PATHNAME@REV", "migrate validate"]);
}
