//! Phases `shadow` and `canary` as a user takes them: the built program, before stores in another process.

use std::time::{Duration, Instant};

use reqwest::StatusCode;
use serde_json::{Value as Json, json};

use crate::gateway::{Client, Gateway, PLAN, runtime, stage, until, windowed};
use crate::support::Sandbox;

/// Few reads are enough here, and each answer of the canary is compared.
const BOUNDS: [&str; 4] = ["--set", "gates.shadow-reads.min_reads=20", "--set", "canary.sample=100"];

fn run(sandbox: &Sandbox, code: i32, command: &[&str]) -> Json {
    let command = [command, &BOUNDS, &["--output", "json"]].concat();
    sandbox.run(&windowed(&command)).expect(code).json()
}

/// The closed gates of the next step.
fn closed(status: &Json) -> Vec<String> {
    let gates = status["standing"]["gates"].as_array().unwrap().iter();
    gates.filter(|gate| gate["open"] == false).map(|gate| gate["gate"].as_str().unwrap().to_owned()).collect()
}

impl Client {
    /// `head` and the content, as the official client asks for them.
    async fn read(&self, name: &str) -> String {
        let (status, head) = self.send(self.http.get(format!("{}?url={name}", self.url))).await.unwrap();
        assert_eq!(status, StatusCode::OK, "{head}");
        let head: Json = serde_json::from_str(&head).unwrap();
        let content = self.send(self.http.get(head["url"].as_str().unwrap())).await.unwrap();
        assert_eq!(content.0, StatusCode::OK);
        content.1
    }
}

#[test]
fn reads_are_compared_then_shared_and_a_wrong_canary_ends_by_itself() {
    let (sandbox, _stores) = stage(PLAN, &[]);
    let gateway =
        Gateway::start(&sandbox, &[&BOUNDS[..], &["--name", "blue", "--monitor", "127.0.0.1:0"]].concat());
    let client = gateway.client();
    let runtime = runtime();
    let name = |number: usize| format!("r/{number}.json");
    runtime.block_on(async {
        for number in 0..10 {
            let body = format!(r#"{{"number": {number}}}"#);
            assert_eq!(client.put(&name(number), body).await.unwrap().0, StatusCode::OK);
        }
        // The gateway loads, and sweeps.
        run(&sandbox, 0, &["export"]);
        until("the first gates open", async || closed(&run(&sandbox, 0, &["status"])).is_empty()).await;
    });
    let step = run(&sandbox, 0, &["cutover", "--yes"])["flip"].take();
    assert_eq!((&step["to"], &step["epoch"]), (&json!("shadow"), &json!(1)));
    run(&sandbox, 0, &["validate", "--sweeps", "2"]);
    assert_eq!(closed(&run(&sandbox, 4, &["cutover", "--yes"])), ["shadow-reads"]);

    runtime.block_on(async {
        for number in 0..10 {
            assert_eq!(client.read(&name(number)).await, format!(r#"{{"number": {number}}}"#));
        }
        until("the reads are kept", async || closed(&run(&sandbox, 0, &["status"])).is_empty()).await;
    });
    let canary = ["cutover", "--to", "canary", "--percent", "100", "--yes"];
    assert_eq!(run(&sandbox, 0, &canary)["flip"]["canary"]["percent"], 100);

    runtime.block_on(async {
        let monitor = gateway.monitor.clone().unwrap();
        let metrics = async || {
            client.http.get(format!("{monitor}/metrics")).send().await.unwrap().text().await.unwrap()
        };
        until("DynamoDB answers", async || {
            assert_eq!(client.read(&name(1)).await, r#"{"number": 1}"#);
            metrics().await.contains(r#"migrate_canary_reads_total{result="dynamodb"}"#)
        })
        .await;
        // Reads that came before the gateway had seen the step were compared, too.
        let text = metrics().await;
        let equal =
            text.lines().find_map(|line| line.strip_prefix(r#"migrate_shadow_reads_total{result="equal"} "#));
        assert!(equal.unwrap().parse::<u64>().unwrap() >= 20, "{text}");
        assert!(!text.contains(r#"result="mismatch""#), "{text}");

        // Past the gateway: until a sweep mirrors it, DynamoDB has what was there before.
        let store = Client { url: sandbox.variable("VERCEL_BLOB_API_URL"), ..client.clone() };
        let began = Instant::now();
        assert_eq!(
            store.put(&name(1), r#"{"number": "another"}"#.to_owned()).await.unwrap().0,
            StatusCode::OK
        );
        assert_eq!(client.read(&name(1)).await, r#"{"number": "another"}"#, "Blob's word counts");
        let phase = async || run(&sandbox, 0, &["status"])["phase"].clone();
        until("the canary ends, or a sweep was faster", async || {
            phase().await == "shadow" || began.elapsed() > Duration::from_secs(8)
        })
        .await;
        println!("the canary ended itself within {:?} of the mismatch", began.elapsed());
    });
    let status = run(&sandbox, 0, &["status", "--audit"]);
    let last = status["audit"].as_array().unwrap().last().unwrap();
    assert_eq!((&last["who"], &last["to"]), (&json!("gateway blue"), &json!("shadow")), "{status:#}");
    let report = gateway.stop().json();
    assert_eq!(report["gateway"]["written"], 10, "{report}");
    // Whether `head` and the content were both read before it ended is a matter of moments.
    assert!((1..=2).contains(&report["canary"]["mismatches"].as_u64().unwrap()), "{report}");
    assert_eq!(report["canary"]["errors"], 0, "{report}");
}
