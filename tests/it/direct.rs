//! An application that writes to DynamoDB itself, by the AWS SDK, beside the built gateway: the table's stream tells
//! of it, and Blob follows.

use std::sync::Arc;
use std::time::Duration;

use aws_sdk_dynamodb::Client;
use aws_sdk_dynamodb::config::{BehaviorVersion, Credentials, Region};
use aws_sdk_dynamodb::types::AttributeValue;
use migrate::clock::{Clock as _, SystemClock};
use migrate::plan::Plan;
use migrate::protocol::phase::Phase;
use migrate::target::control::{Control, Mode};
use migrate::target::dynamodb::{DynamoConfig, DynamoTarget};
use migrate::target::embedded::{Engine, Location};
use migrate::target::{Condition, Table, TargetStore as _, Write};
use migrate::testing::fault_proxy::{FaultProxy, WireFault};
use migrate::value::{Key, Value};

use crate::gateway::{Gateway, runtime, until};
use crate::local::Source;
use crate::support::Sandbox;
use crate::target_local::Local;

const PLAN: &str = r#"
[source]
store = "test"
[target]
table = "test"
partition_key = "PK"
sort_key = "SK"
ttl = "ttl"
stream = "NEW_AND_OLD_IMAGES"
[[entity]]
name = "note"
blobs = "notes/{id}.json"
direct_writes = true
pathname = "notes/{{ item.id }}.json"
[[entity.item]]
PK = "NOTE#{{ body.id }}"
SK = "META"
"#;

/// The application: it writes to both, and knows nothing of a migration.
struct Application {
    dynamodb: Client,
    http: reqwest::Client,
    gateway: String,
    token: String,
}

impl Application {
    fn new(endpoint: &str, gateway: &Gateway, sandbox: &Sandbox) -> Self {
        let config = aws_sdk_dynamodb::Config::builder()
            .behavior_version(BehaviorVersion::latest())
            .region(Region::new("us-east-1"))
            .credentials_provider(Credentials::new("application", "application", None, None, "test"))
            .endpoint_url(endpoint);
        Self {
            dynamodb: Client::from_conf(config.build()),
            http: reqwest::Client::builder().no_proxy().build().unwrap(),
            gateway: gateway.url.clone(),
            token: sandbox.variable("BLOB_READ_WRITE_TOKEN"),
        }
    }

    async fn put(&self, name: &str, body: &'static str) {
        let request = self.http.put(format!("{}/?pathname={name}", self.gateway)).body(body);
        let request = request.header("x-allow-overwrite", "1").header("x-vercel-blob-access", "public");
        let reply = request.bearer_auth(&self.token).send().await.unwrap();
        assert!(reply.status().is_success(), "{}", reply.text().await.unwrap());
    }

    /// What the gateway says that a blob holds.
    async fn get(&self, name: &str) -> Option<String> {
        let head = self.http.get(format!("{}/?url={name}", self.gateway)).bearer_auth(&self.token);
        let head = head.send().await.unwrap();
        if head.status() == reqwest::StatusCode::NOT_FOUND {
            return None;
        }
        let head: serde_json::Value = serde_json::from_str(&head.text().await.unwrap()).unwrap();
        let content = self.http.get(head["url"].as_str().unwrap()).bearer_auth(&self.token);
        Some(content.send().await.unwrap().text().await.unwrap())
    }

    async fn update(&self, id: &str, text: &str) {
        let update = self.dynamodb.update_item().table_name("test").key("PK", note(id)).key("SK", meta());
        let update = update.update_expression("SET #t = :t").expression_attribute_names("#t", "text");
        update.expression_attribute_values(":t", AttributeValue::S(text.to_owned())).send().await.unwrap();
    }

    async fn put_item(&self, id: &str, number: &str) {
        let put = self.dynamodb.put_item().table_name("test").item("PK", note(id)).item("SK", meta());
        let put = put.item("id", AttributeValue::S(id.to_owned()));
        put.item("n", AttributeValue::N(number.to_owned())).send().await.unwrap();
    }

    async fn delete_item(&self, id: &str) {
        let delete = self.dynamodb.delete_item().table_name("test").key("PK", note(id)).key("SK", meta());
        delete.send().await.unwrap();
    }
}

fn note(id: &str) -> AttributeValue {
    AttributeValue::S(format!("NOTE#{id}"))
}

fn meta() -> AttributeValue {
    AttributeValue::S("META".to_owned())
}

/// Waits until Blob holds this; says how long it took.
async fn until_in_blob(source: &Source, name: &str, body: Option<&str>) -> Duration {
    let clock = SystemClock::new();
    loop {
        let found = source.body_later(name).await;
        if found.as_deref() == body {
            return clock.monotonic();
        }
        let waited = clock.monotonic();
        assert!(waited < Duration::from_secs(30), "Blob holds {found:?}, not {body:?}");
        clock.sleep(Duration::from_millis(20)).await;
    }
}

/// Waits until the gateway saw the flip, and follows the stream.
async fn until_followed(source: &Source, application: &Application) {
    let clock = SystemClock::new();
    for attempt in 0.. {
        application.update("1", &format!("attempt {attempt}")).await;
        clock.sleep(Duration::from_millis(500)).await;
        if source.body_later(BLOB).await.is_some_and(|body| body.contains("attempt")) {
            return;
        }
        assert!(clock.monotonic() < Duration::from_secs(30), "nothing follows");
    }
}

async fn control(endpoint: &str) -> Control {
    let plan: Plan = toml::from_str(PLAN).unwrap();
    let config = DynamoConfig::new(plan.target, Arc::new(SystemClock::new())).endpoint(endpoint);
    Control::new(Arc::new(DynamoTarget::connect(config).await.unwrap()))
}

/// From now on DynamoDB is the authority.
async fn flip(control: &Control, phase: Phase) {
    let seen = control.mode().await.unwrap().unwrap();
    let to = Mode { phase, epoch: seen.epoch.next(), ..seen.clone() };
    assert!(control.flip(&seen, &to, None).await.unwrap());
}

/// A gateway before the stores at an endpoint, with one note, and DynamoDB as the authority.
fn serving(source: &Source, endpoint: &str, provision: &[&str]) -> (Sandbox, Gateway, Application) {
    let mut sandbox = source.sandbox();
    sandbox.write("migration-plan.md", &format!("# A plan\n```toml migrate{PLAN}```\n"));
    sandbox.set("DYNAMODB_ENDPOINT", endpoint);
    sandbox.run(provision).expect(0);
    let gateway = Gateway::start(&sandbox, &["--set", "capture.mirror=strict"]);
    let application = Application::new(endpoint, &gateway, &sandbox);
    source.block_on(async {
        application.put("notes/1-random.json", r#"{"id": "1", "text": "by the gateway"}"#).await;
        flip(&control(endpoint).await, Phase::Cutover).await;
    });
    (sandbox, gateway, application)
}

const BLOB: &str = "notes/1-random.json";

fn direct_writes_reach_blob(endpoint: &str) {
    let source = Source::empty();
    let (_sandbox, gateway, application) = serving(&source, endpoint, &["provision", "--with-stream"]);
    let mut lags = source.block_on(async {
        until_followed(&source, &application).await;
        let mut lags = Vec::new();
        for round in 0..5 {
            let updated = format!(r#"{{"id":"1","text":"by DynamoDB {round}"}}"#);
            application.update("1", &format!("by DynamoDB {round}")).await;
            // Whoever asks the gateway sees it at once; every second time nobody asks.
            if round % 2 == 0 {
                assert_eq!(application.get(BLOB).await.as_deref(), Some(updated.as_str()));
            }
            lags.push(until_in_blob(&source, BLOB, Some(&updated)).await);
            let id = format!("new-{round}");
            application.put_item(&id, "1.50").await;
            let (name, json) = (format!("notes/{id}.json"), format!(r#"{{"id":"{id}","n":1.5}}"#));
            lags.push(until_in_blob(&source, &name, Some(&json)).await);
            assert_eq!(application.get(&name).await, Some(json));
            application.delete_item(&id).await;
            lags.push(until_in_blob(&source, &name, None).await);
            assert_eq!(application.get(&name).await, None);
        }
        application.put_item("1", "2").await;
        lags.push(until_in_blob(&source, BLOB, Some(r#"{"id":"1","n":2}"#)).await);
        lags
    });
    lags.sort_unstable();
    assert!(lags[lags.len() / 2] < Duration::from_secs(2), "{lags:?}");
    // Where a sweep met what the stream told, one of the two may have left its intent to the replay.
    let tables = source.tables(endpoint, "test");
    source.block_on(until("no intent is left", async || tables.intents_later().await.is_empty()));
    let report = gateway.stop().expect(0).json();
    assert_eq!((&report["clean"], &report["intents_left"]), (&true.into(), &0.into()), "{report}");
}

#[test]
fn on_the_embedded_engine_direct_writes_reach_blob() {
    let engine = Engine::start(&Location::Memory, None).unwrap();
    direct_writes_reach_blob(&engine.endpoint());
}

#[test]
fn on_dynamodb_local_direct_writes_reach_blob() {
    let local = runtime().block_on(Local::start());
    direct_writes_reach_blob(&local.endpoint());
}

/// Readers see it all the same, and the operator is told what the table lacks.
#[test]
fn without_a_stream_they_are_read_and_the_operator_is_told() {
    let engine = Engine::start(&Location::Memory, None).unwrap();
    let source = Source::empty();
    let (_sandbox, gateway, application) = serving(&source, &engine.endpoint(), &["provision"]);
    source.block_on(async {
        let clock = SystemClock::new();
        application.update("1", "by DynamoDB").await;
        // From when it saw the flip; until then a sweep may have taken it back.
        while application.get(BLOB).await.as_deref() != Some(r#"{"id":"1","text":"by DynamoDB"}"#) {
            assert!(clock.monotonic() < Duration::from_secs(30), "it is not read");
            clock.sleep(Duration::from_millis(100)).await;
            application.update("1", "by DynamoDB").await;
        }
        clock.sleep(Duration::from_secs(1)).await;
    });
    let run = gateway.stop();
    assert!(run.stderr.contains("the table has no stream"), "{}", run.stderr);
}

/// Nothing is passed over where a place in the stream expires, its beginning is gone, or a request breaks.
#[tokio::test]
async fn a_stream_is_read_on_whatever_happens_to_its_places() {
    let engine = Engine::start(&Location::Memory, None).unwrap();
    let proxy = FaultProxy::start(&engine.endpoint()).await.unwrap();
    let plan: Plan = toml::from_str(PLAN).unwrap();
    let config =
        DynamoConfig::new(plan.target.clone(), Arc::new(SystemClock::new())).endpoint(proxy.endpoint());
    let target = DynamoTarget::connect(config).await.unwrap();
    target.provision(&plan.target, false, false).await.unwrap();
    assert!(target.changes().await.unwrap().is_none(), "without a stream there is nothing to follow");
    target.provision(&plan.target, true, false).await.unwrap();
    let write = async |sort: &str| {
        let item = [("PK", "p"), ("SK", sort)].map(|(name, text)| (name.to_owned(), Value::s(text))).into();
        let write = Write::Put { table: Table::Data, item, condition: Condition::Always };
        target.transact(sort, vec![write]).await.unwrap();
    };
    write("before").await;
    let mut changes = target.changes().await.unwrap().unwrap();
    assert_eq!(changes.next().await.unwrap(), [], "what was written before is the business of sweeps");
    let faults = [
        None,
        Some(WireFault::error(400, "ExpiredIteratorException", "it expired")),
        Some(WireFault::error(400, "ExpiredIteratorException", "it expired again")),
        Some(WireFault::ReplyLost),
        Some(WireFault::throttled()),
        Some(WireFault::error(400, "TrimmedDataAccessException", "it is gone")),
    ];
    for (round, fault) in faults.into_iter().enumerate() {
        let sort = format!("round {round}");
        write(&sort).await;
        write(&sort).await;
        if let Some(fault) = fault {
            proxy.fault("GetRecords", fault);
        }
        let mut told = changes.next().await.unwrap();
        told.extend(changes.next().await.unwrap());
        let count = told.iter().filter(|key| key.sort == sort).count();
        assert_eq!(count, 1, "round {round}: {told:?}");
        let others = told.len() - count;
        assert_eq!(others > 0, round == 5, "from the beginning only where a place is gone: {told:?}");
    }
    // A first place that expires before anything was read there.
    let mut changes = target.changes().await.unwrap().unwrap();
    write("first").await;
    proxy.fault("GetRecords", WireFault::error(400, "ExpiredIteratorException", "it expired"));
    assert_eq!(changes.next().await.unwrap(), []);
    assert!(changes.next().await.unwrap().contains(&Key::new("p", "first")));
}
