//! A change of authority while somebody can't be reached or dies: two gateways and an operator, each with a way of its own
//! to DynamoDB.

use std::collections::BTreeMap;
use std::time::Duration;

use migrate::clock::{Clock as _, SystemClock};
use migrate::testing::fault_proxy::{FaultProxy, WireFault};
use reqwest::StatusCode;
use tokio::runtime::Runtime;

use crate::gateway::{Client, Gateway, PLAN, no_drift, runtime, windowed};
use crate::machine::SHORT;
use crate::support::{Run, Running, Sandbox};

/// Both stores, an operator, and two gateways; each reaches DynamoDB through a proxy of its own.
struct Stage {
    runtime: Runtime,
    operator: (Sandbox, FaultProxy),
    blue: (Sandbox, FaultProxy),
    green: (Sandbox, FaultProxy),
    _stores: Running,
}

impl Stage {
    fn new() -> Self {
        let runtime = runtime();
        let mut first = Sandbox::new();
        let stores = first.emulate(&[]);
        let endpoint = first.variable("DYNAMODB_ENDPOINT");
        let plan = PLAN.replace("[validation]", SHORT);
        let place = |mut sandbox: Sandbox| {
            let proxy = runtime.block_on(FaultProxy::start(&endpoint)).unwrap();
            for name in ["DYNAMODB_ENDPOINT", "AWS_ENDPOINT_URL_DYNAMODB"] {
                sandbox.set(name, &proxy.endpoint());
            }
            sandbox.write("migration-plan.md", &plan);
            (sandbox, proxy)
        };
        let like = |sandbox: &Sandbox| {
            let mut other = Sandbox::new();
            for name in ["BLOB_READ_WRITE_TOKEN", "VERCEL_BLOB_API_URL"] {
                other.set(name, &sandbox.variable(name));
            }
            other
        };
        let (second, third) = (like(&first), like(&first));
        let stage = Self {
            operator: place(first),
            blue: place(second),
            green: place(third),
            runtime,
            _stores: stores,
        };
        stage.run(&["provision"], 0);
        stage
    }

    #[track_caller]
    fn run(&self, command: &[&str], code: i32) -> Run {
        self.operator.0.run(&windowed(command)).expect(code)
    }

    /// Both gateways, and everything that the cutover asks for.
    fn ready(&self) -> (Gateway, Gateway) {
        let start = |(sandbox, _): &(Sandbox, FaultProxy), name| Gateway::start(sandbox, &["--name", name]);
        let gateways = (start(&self.blue, "blue"), start(&self.green, "green"));
        for number in 0..10 {
            self.put(&gateways.0.client(), &format!("r/{number}.json"), "{}", StatusCode::OK);
        }
        self.run(&["export"], 0);
        self.run(&["cutover", "--to", "shadow", "--wait", "--yes"], 0);
        self.run(&["validate", "--sweeps", "2"], 0);
        self.run(&["cutover", "--to", "canary", "--yes"], 0);
        gateways
    }

    fn put(&self, client: &Client, name: &str, body: &str, expected: StatusCode) {
        let (status, text) = self.runtime.block_on(client.put(name, body.to_owned())).unwrap();
        assert_eq!(status, expected, "{name}: {text}");
    }

    fn get(&self, client: &Client, name: &str) -> (StatusCode, String) {
        let origin = client.url.strip_suffix("/api/blob").unwrap();
        let request = client.http.get(format!("{origin}/content/{name}"));
        self.runtime.block_on(client.send(request)).unwrap()
    }

    fn until(&self, what: &str, mut holds: impl FnMut() -> bool) {
        let clock = SystemClock::new();
        while !holds() {
            assert!(clock.monotonic() < Duration::from_secs(60), "{what}: not within a minute");
            self.runtime.block_on(clock.sleep(Duration::from_millis(50)));
        }
    }

    fn phase(&self) -> String {
        let mode = self.run(&["mode", "--output", "json"], 0).json();
        format!("{} {}", mode["phase"].as_str().unwrap(), mode["epoch"])
    }

    /// Two clean sweeps, however long what may land late is waited for.
    fn proven(&self) {
        let sweeps = windowed(&["validate", "--sweeps", "2"]);
        self.until("both stores are equal", || self.operator.0.run(&sweeps).code == Some(0));
    }
}

/// A gateway that reaches Blob and not the tables: before the cutover it goes on, and keeps the flip away by its name;
/// after it, it refuses, since others may have been let write.
#[test]
fn a_gateway_that_is_cut_off_from_the_tables_goes_on_before_the_cutover_and_refuses_after_it() {
    let stage = Stage::new();
    let (blue, green) = stage.ready();
    stage.proven();
    stage.green.1.outage(Some(WireFault::ResetBefore));
    stage.put(&green.client(), "r/cut.json", r#"{"cut": "off"}"#, StatusCode::OK);
    // A sweep of blue may find first what green could not note: then it is proven anew.
    let flip = windowed(&["cutover", "--to", "cutover", "--yes"]);
    let mut refused = stage.operator.0.run(&flip);
    stage.until("the gates are open", || {
        refused.code != Some(4) || {
            stage.proven();
            refused = stage.operator.0.run(&flip);
            false
        }
    });
    let refused = refused.expect(6);
    assert!(
        refused.stderr.contains("green (gateway)") && !refused.stderr.contains("blue"),
        "{}",
        refused.stderr
    );
    assert_eq!(stage.phase(), "canary 1");
    stage.put(&blue.client(), "r/1.json", r#"{"after": "the refusal"}"#, StatusCode::OK);
    stage.put(&green.client(), "r/2.json", r#"{"after": "the refusal"}"#, StatusCode::OK);

    stage.green.1.outage(None);
    stage.until("green caught up", || {
        stage.proven();
        stage.operator.0.run(&windowed(&["cutover", "--to", "cutover", "--yes"])).code == Some(0)
    });
    stage.put(&green.client(), "r/3.json", r#"{"by": "green"}"#, StatusCode::OK);
    assert_eq!(stage.get(&blue.client(), "r/3.json").1, r#"{"by": "green"}"#);
    assert_eq!(
        stage.get(&green.client(), "r/cut.json").1,
        r#"{"cut": "off"}"#,
        "what it wrote while cut off"
    );

    stage.green.1.outage(Some(WireFault::ResetBefore));
    stage.put(&green.client(), "r/3.json", "{}", StatusCode::SERVICE_UNAVAILABLE);
    stage.until("it does not answer any more", || {
        stage.get(&green.client(), "r/3.json").0 == StatusCode::SERVICE_UNAVAILABLE
    });
    assert_eq!(stage.get(&blue.client(), "r/3.json").1, r#"{"by": "green"}"#, "the other one goes on");
    stage.put(&blue.client(), "r/3.json", r#"{"by": "blue"}"#, StatusCode::OK);
    stage.green.1.outage(None);
    stage.until("it answers again, and tells the present", || {
        stage.get(&green.client(), "r/3.json") == (StatusCode::OK, r#"{"by": "blue"}"#.to_owned())
    });
    blue.stop();
    green.stop();
    stage.until("both stores are equal", || stage.operator.0.run(&windowed(&["validate"])).code == Some(0));
}

/// Nobody reaches the tables for ten seconds in the middle of the flip: it is flipped, or it is not, and no write that was
/// acknowledged is lost. A rerun ends it.
#[test]
fn the_tables_are_out_of_reach_in_the_middle_of_a_flip() {
    let stage = Stage::new();
    let (blue, green) = stage.ready();
    stage.proven();
    let clients = [blue.client(), green.client()];
    // Green can't acknowledge, so that the hold is there when nobody can end it.
    stage.green.1.outage(Some(WireFault::Silence));
    let flip = windowed(&["cutover", "--to", "cutover", "--yes"]);
    let mut flipping = stage.operator.0.command(&flip).spawn().unwrap();
    stage.until("the flip is on its way", || flipping_is_held(&stage));
    for (_, proxy) in [&stage.operator, &stage.blue, &stage.green] {
        proxy.outage(Some(WireFault::ResetBefore));
    }
    let clock = SystemClock::new();
    let began = clock.monotonic();
    let mut acknowledged = BTreeMap::new();
    while clock.monotonic().saturating_sub(began) < Duration::from_secs(10) {
        for (number, client) in clients.iter().enumerate() {
            let name = format!("r/{number}.json");
            let body = format!(r#"{{"at": {}}}"#, clock.monotonic().as_millis());
            let put = stage.runtime.block_on(client.put(&name, body.clone()));
            if put.is_ok_and(|(status, _)| status == StatusCode::OK) {
                acknowledged.insert(name, body);
            }
        }
    }
    for (_, proxy) in [&stage.operator, &stage.blue, &stage.green] {
        proxy.outage(None);
    }
    flipping.wait().unwrap();
    // Whatever came of it: there is one phase, and a rerun gets there.
    let phase = stage.phase();
    assert!(phase == "canary 1" || phase == "cutover 2", "{phase}");
    stage.until("the cutover is done", || {
        stage.phase() == "cutover 2" || {
            stage.proven();
            stage.operator.0.run(&windowed(&["cutover", "--to", "cutover", "--yes", "--cancel-hold"]));
            stage.phase() == "cutover 2"
        }
    });
    for (name, body) in &acknowledged {
        for client in &clients {
            stage.until("the gateways answer", || stage.get(client, name).0 == StatusCode::OK);
            assert_eq!(stage.get(client, name).1, *body, "{name}");
        }
    }
    blue.stop();
    green.stop();
    no_drift(&stage.operator.0);
}

fn flipping_is_held(stage: &Stage) -> bool {
    // Asked past the operator's own way.
    let mode = stage.blue.0.run(&windowed(&["mode", "--output", "json"]));
    mode.code == Some(0) && mode.json().get("held").is_some()
}

/// A gateway dies while it holds writes: nobody takes its silence for consent. Its clients were told nothing, and what it
/// had acknowledged is kept.
#[test]
fn a_gateway_that_is_killed_while_it_holds_writes() {
    let stage = Stage::new();
    let (blue, green) = stage.ready();
    stage.proven();
    // Green can't say that it has acknowledged: so the hold lasts, and blue holds writes.
    stage.green.1.outage(Some(WireFault::Silence));
    let flip = windowed(&["cutover", "--to", "cutover", "--yes"]);
    let mut flipping = stage.operator.0.command(&flip).spawn().unwrap();
    stage.until("writes are held", || flipping_is_held(&stage));
    let client = blue.client();
    let held = stage.runtime.spawn({
        let client = client.clone();
        async move { client.put("r/held.json", r#"{"held": true}"#.to_owned()).await }
    });
    drop(blue);
    let told = stage.runtime.block_on(held).unwrap();
    assert!(told.is_err(), "a write that was held was acknowledged by nobody: {told:?}");
    let code = flipping.wait().unwrap().code();
    assert_eq!((code, stage.phase().as_str()), (Some(6), "canary 1"));
    stage.green.1.outage(None);
    stage.put(&green.client(), "r/1.json", r#"{"after": "it"}"#, StatusCode::OK);
    // Started again under its name, which ends its session.
    let blue = Gateway::start(&stage.blue.0, &["--name", "blue"]);
    stage.until("the cutover is done", || {
        stage.proven();
        stage.operator.0.run(&windowed(&["cutover", "--to", "cutover", "--yes"])).code == Some(0)
    });
    assert_eq!(stage.get(&blue.client(), "r/1.json").1, r#"{"after": "it"}"#);
    blue.stop();
    green.stop();
    no_drift(&stage.operator.0);
}
