//! `migrate dual-write` as a gateway: the built program before stores in other processes.

use std::io::{BufRead as _, BufReader, Read as _};
use std::net::SocketAddr;
use std::process::{Child, Command, Stdio};
use std::thread::JoinHandle;
use std::time::Duration;

use migrate::clock::{Clock as _, SystemClock};
use migrate::target::embedded::{Engine, Location};
use migrate::value::Value;
use reqwest::StatusCode;
use serde_json::Value as Json;

use crate::local::Source;
use crate::support::{Run, Running, Sandbox};
use crate::target_local::Local;

pub(crate) const PLAN: &str = r#"# A plan
```toml migrate
[source]
store = "test"
[target]
table = "test"
partition_key = "PK"
sort_key = "SK"
[validation]
allow_empty = true
[[entity]]
name = "record"
blobs = "r/{id}.json"
[[entity.item]]
PK = "R#{{ id }}"
SK = "META"
[[ignore]]
blobs = "**/*.png"
reason = "pictures"
```
"#;

/// Every blob is mapped, as bytes.
pub(crate) const EVERYTHING: &str = r#"# A plan
```toml migrate
[source]
store = "test"
access = "ACCESS"
[target]
table = "test"
partition_key = "PK"
sort_key = "SK"
[[entity]]
name = "file"
blobs = "**"
decode = "raw"
too_large = "split"
[[entity.item]]
PK = "FILE#{{ pathname | sha256 }}"
SK = "META"
body = "nested:bytes"
[[accept]]
blobs = "multipart/*.bin"
reason = "large ones take long"
[[accept]]
blobs = "client/*.bin"
reason = "large ones take long"
```
"#;

/// Windows that tests can wait for.
const WINDOWS: [&str; 10] = [
    "--set",
    "timing.late_write_max=2s",
    "--set",
    "timing.settle=2s",
    "--set",
    "timing.renew=500ms",
    "--set",
    "timing.lease=5s",
    "--set",
    "timing.sweep_interval=5s",
];

/// A gateway that runs until it is stopped; killed when dropped.
pub(crate) struct Gateway {
    process: Child,
    pub(crate) url: String,
    token: String,
    told: Option<JoinHandle<String>>,
    /// Where it listens for TLS, if anywhere.
    pub(crate) tls: Option<SocketAddr>,
    /// Where a monitor may ask, if anywhere.
    pub(crate) monitor: Option<String>,
}

impl Gateway {
    /// Starts it on a free port, and returns once it takes writes.
    pub(crate) fn start(sandbox: &Sandbox, arguments: &[&str]) -> Self {
        Self::of(sandbox, sandbox.command(&Self::all(arguments)))
    }

    /// The same where so many open files are the soft limit.
    pub(crate) fn start_with_open_files(sandbox: &Sandbox, open_files: u32) -> Self {
        Self::start_by(sandbox, &format!("ulimit -Sn {open_files} && exec \"$0\" \"$@\""), &[])
    }

    /// The same by a script of the shell, which runs `"$0" "$@"`.
    pub(crate) fn start_by(sandbox: &Sandbox, script: &str, arguments: &[&str]) -> Self {
        let shell = ["-c", script, env!("CARGO_BIN_EXE_migrate")];
        Self::of(sandbox, sandbox.other("/bin/sh", &[&shell[..], &Self::all(arguments)].concat()))
    }

    fn all<'a>(arguments: &[&'a str]) -> Vec<&'a str> {
        let mut all = vec!["dual-write", "--listen", "127.0.0.1:0", "--output", "json"];
        all.extend(WINDOWS);
        all.extend(arguments);
        all
    }

    fn of(sandbox: &Sandbox, mut command: Command) -> Self {
        let mut process = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let mut stderr = BufReader::new(process.stderr.take().unwrap());
        let mut text = String::new();
        let (mut tls, mut monitor) = (None, None);
        let url = loop {
            let mut line = String::new();
            assert!(stderr.read_line(&mut line).unwrap() > 0, "it ended at once: {text}");
            text += &line;
            if let Some(address) = line.trim_end().strip_prefix("over TLS on ") {
                tls = Some(address.parse().unwrap());
            }
            if let Some(url) = line.trim_end().strip_prefix("monitor on ") {
                monitor = Some(url.trim_end_matches("/metrics").to_owned());
            }
            if let Some(url) = line.trim_end().strip_prefix("gateway on ") {
                break url.to_owned();
            }
        };
        // Whoever reads no more would stop the program at a full pipe.
        let told = std::thread::spawn(move || {
            stderr.read_to_string(&mut text).unwrap();
            text
        });
        Self {
            process,
            url,
            token: sandbox.variable("BLOB_READ_WRITE_TOKEN"),
            told: Some(told),
            tls,
            monitor,
        }
    }

    pub(crate) fn client(&self) -> Client {
        let http = reqwest::Client::builder().no_proxy().build().unwrap();
        Client { http, url: self.url.clone(), token: self.token.clone() }
    }

    /// The most memory that it had, in MB.
    pub(crate) fn peak_mb(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.process.id())).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
        line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() / 1024
    }

    /// Stops it in good order.
    pub(crate) fn stop(self) -> Run {
        let id = self.process.id().to_string();
        assert!(Command::new("kill").args(["-s", "TERM", &id]).status().unwrap().success());
        self.end()
    }

    /// Waits until it ends.
    pub(crate) fn end(mut self) -> Run {
        let mut stdout = String::new();
        self.process.stdout.take().unwrap().read_to_string(&mut stdout).unwrap();
        let code = self.process.wait().unwrap().code();
        Run { code, stdout, stderr: self.told.take().unwrap().join().unwrap() }
    }
}

impl Drop for Gateway {
    fn drop(&mut self) {
        self.process.kill().ok();
        self.process.wait().ok();
    }
}

/// A client of the Blob API that takes a gateway for what it is.
#[derive(Clone)]
pub(crate) struct Client {
    pub(crate) http: reqwest::Client,
    pub(crate) url: String,
    pub(crate) token: String,
}

impl Client {
    pub(crate) async fn put(&self, name: &str, body: String) -> reqwest::Result<(StatusCode, String)> {
        let request = self.http.put(format!("{}/?pathname={name}", self.url)).body(body);
        self.send(request.header("x-allow-overwrite", "1").header("x-vercel-blob-access", "public")).await
    }

    pub(crate) async fn delete(&self, name: &str) -> reqwest::Result<(StatusCode, String)> {
        let body = serde_json::json!({ "urls": [name] }).to_string();
        self.send(self.http.post(format!("{}/delete", self.url)).body(body)).await
    }

    pub(crate) async fn send(
        &self,
        request: reqwest::RequestBuilder,
    ) -> reqwest::Result<(StatusCode, String)> {
        let (status, _, text) = self.reply(request).await?;
        Ok((status, text))
    }

    /// The same with what `retry-after` says.
    pub(crate) async fn reply(
        &self,
        request: reqwest::RequestBuilder,
    ) -> reqwest::Result<(StatusCode, Option<String>, String)> {
        let reply = request.bearer_auth(&self.token).send().await?;
        let wait = reply.headers().get("retry-after").map(|wait| wait.to_str().unwrap().to_owned());
        Ok((reply.status(), wait, reply.text().await?))
    }
}

/// Waits until something is so.
pub(crate) async fn until(what: &str, mut holds: impl AsyncFnMut() -> bool) {
    let clock = SystemClock::new();
    while !holds().await {
        assert!(clock.monotonic() < Duration::from_secs(60), "{what}: not within a minute");
        clock.sleep(Duration::from_millis(100)).await;
    }
}

/// Both stores in another process, with tables.
pub(crate) fn stage(plan: &str, arguments: &[&str]) -> (Sandbox, Running) {
    let mut sandbox = Sandbox::new();
    sandbox.write("migration-plan.md", plan);
    let stores = sandbox.emulate(arguments);
    sandbox.run(&["provision"]).expect(0);
    (sandbox, stores)
}

/// A command with the windows of the tests: they are part of the plan's hash.
pub(crate) fn windowed<'a>(command: &[&'a str]) -> Vec<&'a str> {
    command.iter().copied().chain(WINDOWS).collect()
}

pub(crate) fn no_drift(sandbox: &Sandbox) -> Json {
    let report = sandbox.run(&windowed(&["validate", "--output", "json"])).expect(0).json();
    assert_eq!(report["sweeps"][0]["drift"], serde_json::json!([]), "{report}");
    report
}

pub(crate) fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap()
}

/// What a monitor reads: requests on both sides, the lag, and whether the gateway takes writes.
#[test]
fn a_monitor_is_told_what_it_does_and_whether_it_can() {
    let (sandbox, stores) = stage(PLAN, &[]);
    let gateway = Gateway::start(&sandbox, &["--monitor", "127.0.0.1:0"]);
    let (client, monitor) = (gateway.client(), gateway.monitor.clone().unwrap());
    runtime().block_on(async {
        let ask = async |path: &str| {
            let reply = client.http.get(format!("{monitor}{path}")).send().await.unwrap();
            (reply.status(), reply.text().await.unwrap())
        };
        for number in 0..5 {
            let (status, text) = client.put(&format!("r/{number}.json"), "{}".to_owned()).await.unwrap();
            assert_eq!(status, StatusCode::OK, "{text}");
        }
        let wrong = Client { token: "wrong".to_owned(), ..gateway.client() };
        assert_eq!(wrong.put("r/secret.json", "{}".to_owned()).await.unwrap().0, StatusCode::FORBIDDEN);
        let has = async |line: &str| ask("/metrics").await.1.lines().any(|found| found == line);
        let put = |side| format!(r#"migrate_requests_total{{side="{side}",operation="put",result="ok"}} 5"#);
        until("five puts are counted on both sides", async || {
            has(&put("gateway")).await && has(&put("upstream")).await
        })
        .await;
        until("all are mirrored", async || has("migrate_convergence_lag_seconds_count 5").await).await;
        until("a sweep is counted", async || !has("migrate_sweeps_total 0").await).await;
        assert!(has("migrate_control_reachable 1").await && has("migrate_bypasses_total 0").await);
        let text = ask("/metrics").await.1;
        assert!(
            !text.contains("r/0") && !text.contains(&gateway.token) && text.ends_with("# EOF\n"),
            "{text}"
        );
        assert_eq!(ask("/healthz").await, (StatusCode::OK, "ok\n".to_owned()));
        assert_eq!(ask("/readyz").await, (StatusCode::OK, "ready\n".to_owned()));
        // An outage of both stores: it is there, it would take writes, and it says what it can't reach.
        drop(stores);
        until("the outage is told", async || has("migrate_control_reachable 0").await).await;
        assert_eq!(ask("/readyz").await.0, StatusCode::OK);
    });
}

/// A client's report of a failed request is found in the log by the id that the official SDKs send, with what went on
/// after the answer; nothing that gives access, and nothing of a body, is in it.
#[test]
fn its_log_names_the_request_that_each_line_is_about() {
    let (sandbox, _stores) = stage(PLAN, &[]);
    let gateway = Gateway::start(&sandbox, &["-vv"]);
    let client = gateway.client();
    let put = |id: &str| {
        let request = client.http.put(format!("{}/?pathname=r/1.json&note=in-the-query", client.url));
        let request = request.header("x-api-blob-request-id", id).header("x-allow-overwrite", "1");
        client.send(request.body(r#"{"said": "in confidence"}"#))
    };
    runtime().block_on(async {
        assert_eq!(put("test:1:abc").await.unwrap().0, StatusCode::OK);
        // One that would break lines, and is as long as no client's.
        assert_eq!(put(&"x".repeat(5_000)).await.unwrap().0, StatusCode::OK);
        let wrong = Client { token: "vercel_blob_rw_test_guessed".to_owned(), ..gateway.client() };
        assert_eq!(wrong.put("r/2.json", "{}".to_owned()).await.unwrap().0, StatusCode::FORBIDDEN);
    });
    let run = gateway.stop();
    let lines: Vec<Json> = run.stderr.lines().filter_map(|line| serde_json::from_str(line).ok()).collect();
    let of = |id: &str| -> Vec<&Json> {
        let spans = |line: &&Json| line["spans"].as_array().is_some_and(|spans| spans[0]["id"] == id);
        lines.iter().filter(spans).collect()
    };
    let said = |lines: &[&Json], word: &str| -> usize {
        lines
            .iter()
            .filter(|line| line["fields"]["message"].as_str().is_some_and(|text| text.contains(word)))
            .count()
    };
    let named = of("test:1:abc");
    assert_eq!((said(&named, "answered"), said(&named, "mirrored")), (1, 1), "{}", run.stderr);
    let answered = named.iter().find(|line| line["fields"]["message"] == "answered").unwrap();
    assert_eq!(
        (&answered["fields"]["status"], &answered["spans"][0]["method"]),
        (&200.into(), &"PUT".into())
    );
    let refused = of("2");
    assert_eq!(refused.len(), 1, "{}", run.stderr);
    assert_eq!(refused[0]["fields"]["status"], 403);
    for secret in ["in confidence", "in-the-query", "guessed", &client.token, "xxx"] {
        assert!(!run.stderr.contains(secret), "{secret}: {}", run.stderr);
    }
}

/// It would load nothing and mirror nothing: it must not look as if all were well.
#[test]
fn a_gateway_with_a_wrong_token_does_not_start() {
    let (mut sandbox, _stores) = stage(PLAN, &[]);
    sandbox.set("BLOB_READ_WRITE_TOKEN", "vercel_blob_rw_test_wrong");
    let run = sandbox.run(&["dual-write", "--listen", "127.0.0.1:0"]);
    run.expect_error(2, &["BLOB_READ_WRITE_TOKEN"]);
}

#[test]
fn it_tells_who_it_is_and_serves_nobody_without_the_token() {
    let (sandbox, _stores) = stage(PLAN, &[]);
    let gateway = Gateway::start(&sandbox, &["--name", "blue"]);
    let client = gateway.client();
    runtime().block_on(async {
        let url = format!("{}/?pathname=r/1.json", client.url);
        for token in [None, Some("vercel_blob_rw_other_secret")] {
            let mut request = client.http.put(&url).body("{}");
            if let Some(token) = token {
                request = request.bearer_auth(token);
            }
            let reply = request.send().await.unwrap();
            assert_eq!(reply.status(), StatusCode::FORBIDDEN);
            assert!(reply.headers().contains_key("x-migrate-gateway"));
            let body: Json = serde_json::from_str(&reply.text().await.unwrap()).unwrap();
            assert_eq!(body["error"]["code"], "forbidden");
        }
    });
    // To compare DynamoDB with a gateway would be to compare it with itself.
    let refused = sandbox.run(&["validate", "--source-url", &gateway.url]);
    refused.expect_error(2, &["this is a gateway of `migrate`", &gateway.url]);
    let taken = gateway.url.trim_start_matches("http://").trim_end_matches("/api/blob");
    sandbox
        .run(&["dual-write", "--listen", taken])
        .expect_error(2, &[taken, "another process listens there"]);
    let twice = sandbox.run(&windowed(&["dual-write", "--listen", "127.0.0.1:0", "--name", "blue"]));
    twice.expect_error(6, &["another `blue` is running on this machine"]);
    let other = Gateway::start(&sandbox, &["--name", "green"]);
    // 3 where it was stopped before its first load was finished.
    let code = other.stop().code;
    assert!(matches!(code, Some(0 | 3)), "{code:?}");
    let flip = sandbox.run(&windowed(&["status", "--output", "json"])).expect(0).json();
    assert_eq!(flip["standing"]["open_sessions"][0]["kind"], "gateway", "{flip}");
    gateway.stop().expect(0);
}

/// Amazon's DynamoDB Local instead of the embedded engine.
#[test]
fn on_dynamodb_local_every_write_is_mirrored() {
    let runtime = runtime();
    let local = runtime.block_on(Local::start());
    let source = Source::empty();
    let mut sandbox = source.sandbox();
    sandbox.write("migration-plan.md", PLAN);
    sandbox.set("DYNAMODB_ENDPOINT", &local.endpoint());
    sandbox.run(&["provision"]).expect(0);
    let gateway = Gateway::start(&sandbox, &["--set", "capture.mirror=strict"]);
    let client = gateway.client();
    let tables = source.tables(&local.endpoint(), "test");
    runtime.block_on(async {
        for number in 0..20 {
            let (status, text) =
                client.put(&format!("r/{number}.json"), format!("{{\"n\":{number}}}")).await.unwrap();
            assert_eq!(status, StatusCode::OK, "{text}");
        }
        client.delete("r/0.json").await.unwrap();
    });
    assert_eq!(tables.items().len(), 19, "with a strict mirror an answer means that both have it");
    gateway.stop().expect(0);
    let validate = windowed(&["validate", "--set", "capture.mirror=strict"]);
    sandbox.run(&validate).expect(0);
}

#[test]
fn sweeps_find_what_went_past_the_gateway() {
    let (source, engine) = (Source::empty(), Engine::start(&Location::Memory, None).unwrap());
    let mut sandbox = source.sandbox();
    sandbox.write("migration-plan.md", PLAN);
    sandbox.set("DYNAMODB_ENDPOINT", &engine.endpoint());
    sandbox.run(&["provision"]).expect(0);
    source.put("r/before.json", "{}");
    let tables = source.tables(&engine.endpoint(), "test");
    let gateway = Gateway::start(&sandbox, &["--interval", "200ms"]);
    let items = async || tables.count_later().await;
    let runtime = runtime();
    runtime.block_on(until("what was there is loaded", async || items().await == 1));
    // Beyond the difference that clocks may have.
    let clock = SystemClock::new();
    runtime.block_on(clock.sleep(Duration::from_millis(2_500)));
    source.put("r/past.json", "{}");
    runtime.block_on(until("what went past is found", async || items().await == 2));
    let client = gateway.client();
    runtime.block_on(client.put("r/through.json", "{}".to_owned())).unwrap();
    let run = gateway.stop().expect(0);
    let report = run.json();
    assert_eq!(report["backfill"]["written"], 1, "{report}");
    assert_eq!(report["bypassed"], 1, "{report}\n{}", run.stderr);
    assert!(run.stderr.contains("warning: r/past.json was written past the gateway"), "{}", run.stderr);
}

#[test]
fn tables_that_nobody_made_are_named_with_what_makes_them() {
    let (source, engine) = (Source::empty(), Engine::start(&Location::Memory, None).unwrap());
    let mut sandbox = source.sandbox();
    sandbox.write("migration-plan.md", PLAN);
    sandbox.set("DYNAMODB_ENDPOINT", &engine.endpoint());
    let commands: [&[&str]; 4] =
        [&["dual-write", "--listen", "127.0.0.1:0"], &["dual-write", "--once"], &["validate"], &["status"]];
    for command in commands {
        sandbox.run(command).expect_error(2, &["test", "migrate provision"]);
    }
}

#[test]
fn without_a_gateway_sweeps_alone_follow() {
    let (source, engine) = (Source::empty(), Engine::start(&Location::Memory, None).unwrap());
    let mut sandbox = source.sandbox();
    sandbox
        .write("migration-plan.md", &format!("{PLAN}\n```toml migrate\n[capture]\nmode = \"follow\"\n```\n"));
    sandbox.set("DYNAMODB_ENDPOINT", &engine.endpoint());
    sandbox.run(&["provision"]).expect(0);
    source.put("r/1.json", "{}");
    let following = sandbox.start_until(&windowed(&["dual-write", "--interval", "200ms"]), "sweep 1: ");
    let tables = source.tables(&engine.endpoint(), "test");
    source.put("r/2.json", "{}");
    runtime().block_on(until("a sweep finds it", async || tables.count_later().await == 2));
    assert_eq!(following.signal("TERM"), Some(0));
}

#[test]
fn what_a_sweep_can_not_settle_is_named() {
    let (source, engine) = (Source::empty(), Engine::start(&Location::Memory, None).unwrap());
    let mut sandbox = source.sandbox();
    sandbox.write("migration-plan.md", PLAN);
    sandbox.set("DYNAMODB_ENDPOINT", &engine.endpoint());
    sandbox.run(&["provision"]).expect(0);
    let tables = source.tables(&engine.endpoint(), "test");
    let theirs = [("PK", Value::s("R#theirs")), ("SK", Value::s("META"))];
    tables.put(theirs.map(|(name, value)| (name.to_owned(), value)).into());
    source.put("r/theirs.json", "{}");
    let gateway = Gateway::start(&sandbox, &["--interval", "200ms"]);
    runtime().block_on(until("two sweeps end", async || tables.sweeps_later().await > 1));
    let run = gateway.stop();
    assert!(run.stderr.contains("; left: r/theirs.json (collision)"), "{}", run.stderr);
}
