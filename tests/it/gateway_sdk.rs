//! The official SDKs, unchanged, through the gateway: before stores in other processes, over TLS and not. The
//! scripts are in `tests/node/` and `tests/python/`, and the same that the Blob server is tested with.

use std::sync::Arc;

use migrate::clock::SystemClock;
use migrate::plan::Plan;
use migrate::protocol::phase::Phase;
use migrate::target::control::{Control, Mode};
use migrate::target::dynamodb::{DynamoConfig, DynamoTarget};
use serde_json::Value;

use crate::blob_sdk::{app_origins, app_port};
use crate::canonical::Canonical;
use crate::gateway::{EVERYTHING, Gateway, no_drift, runtime};
use crate::support::{Running, Sandbox};
use crate::target_local::Local;

/// The store's id is the one that the scripts expect.
const TOKEN: &str = "vercel_blob_rw_SdK_secret_of_the_tests";
const PYTHON_TOKEN: &str = "vercel_blob_rw_PyThon_secret_of_the_tests";

/// A store of this access and tables in other processes: on DynamoDB Local where it is given.
fn stage(token: &str, access: &str, local: Option<&Local>) -> (Sandbox, Running) {
    let mut sandbox = Sandbox::new();
    sandbox.write("migration-plan.md", &EVERYTHING.replace("ACCESS", access));
    let flags: &[&str] = if access == "private" { &["--private"] } else { &[] };
    let stores = sandbox.emulate(&[&["--token", token], flags].concat());
    if let Some(local) = local {
        sandbox.set("DYNAMODB_ENDPOINT", &local.endpoint());
        // Several stages share a server.
        sandbox.set("DYNAMODB_TABLE_NAME", &format!("test-{access}"));
    }
    sandbox.run(&["provision"]).expect(0);
    (sandbox, stores)
}

/// What the scripts read from their environment.
fn environment(sandbox: &Sandbox, gateway: &Gateway, access: &str) -> Vec<(&'static str, String)> {
    vec![
        ("VERCEL_BLOB_API_URL", gateway.url.clone()),
        ("BLOB_READ_WRITE_TOKEN", sandbox.variable("BLOB_READ_WRITE_TOKEN")),
        ("VERCEL_BLOB_RETRIES", "0".to_owned()),
        ("ACCESS", access.to_owned()),
        ("STORE_ID", "SdK".to_owned()),
    ]
}

/// Makes DynamoDB the authority, or Blob again, as a flip with all gates open would.
pub(crate) fn flip(sandbox: &Sandbox, table: &str, phase: Phase) {
    let plan: Plan = toml::from_str(&format!(
        "[source]\nstore = \"test\"\n[target]\ntable = \"{table}\"\npartition_key = \"PK\"\nsort_key = \"SK\"\n[[ignore]]\nblobs = \"*\"\nreason = \"none\"\n",
    ))
    .unwrap();
    let config = DynamoConfig::new(plan.target, Arc::new(SystemClock::new()));
    let config = config.endpoint(sandbox.variable("DYNAMODB_ENDPOINT"));
    runtime().block_on(async {
        let control = Control::new(Arc::new(DynamoTarget::connect(config).await.unwrap()));
        let seen = control.mode().await.unwrap().unwrap();
        let to = Mode { phase, epoch: seen.epoch.next(), ..seen.clone() };
        assert!(control.flip(&seen, &to, None).await.unwrap());
    });
}

/// Stops it, and demands that everything the SDK wrote is in both stores.
fn all_is_mirrored(gateway: Gateway, sandbox: &Sandbox, written_min: u64, compared_min: u64) {
    let report = gateway.stop().expect(0).json();
    assert_eq!((&report["clean"], &report["intents_left"]), (&true.into(), &0.into()), "{report}");
    let count = |value: &Value| value.as_u64().unwrap();
    assert!(count(&report["gateway"]["written"]) > written_min, "{report}");
    let validated = no_drift(sandbox);
    assert!(count(&validated["sweeps"][0]["compared"]) > compared_min, "{validated}");
}

/// Runs a script of the official JavaScript SDK.
fn javascript(script: &str, access: &str, local: Option<&Local>, (written_min, compared_min): (u64, u64)) {
    let (sandbox, _stores) = stage(TOKEN, access, local);
    let gateway = Gateway::start(&sandbox, &["--url-form", "canonical"]);
    let environment = environment(&sandbox, &gateway, access);
    runtime().block_on(crate::blob_sdk::node(script, "./canonical.mjs", &environment));
    all_is_mirrored(gateway, &sandbox, written_min, compared_min);
}

/// The same once DynamoDB is the authority: what the SDK is told comes from there.
fn javascript_after_the_flip(script: &str, access: &str, local: Option<&Local>, least: (u64, u64)) {
    let (sandbox, _stores) = stage(TOKEN, access, local);
    // The first start makes the mode item.
    Gateway::start(&sandbox, &[]).stop();
    flip(
        &sandbox,
        &if local.is_some() { format!("test-{access}") } else { "test".to_owned() },
        Phase::Cutover,
    );
    let gateway = Gateway::start(&sandbox, &["--url-form", "canonical"]);
    let environment = environment(&sandbox, &gateway, access);
    runtime().block_on(crate::blob_sdk::node(script, "./canonical.mjs", &environment));
    all_is_mirrored(gateway, &sandbox, least.0, least.1);
}

#[test]
fn javascript_can_not_tell_dynamodb_from_a_public_store() {
    javascript_after_the_flip("sdk.mjs", "public", None, (60, 50));
}

#[test]
fn javascript_can_not_tell_dynamodb_from_a_private_store() {
    javascript_after_the_flip("sdk.mjs", "private", None, (60, 50));
}

/// One test, because the server takes seconds to start.
#[test]
fn its_first_major_version_can_not_tell_dynamodb_local_from_a_store() {
    let local = runtime().block_on(Local::start());
    javascript_after_the_flip("sdk1.mjs", "public", Some(&local), (16, 10));
}

#[test]
fn javascript_can_not_tell_it_from_a_public_store() {
    javascript("sdk.mjs", "public", None, (60, 50));
}

#[test]
fn javascript_can_not_tell_it_from_a_private_store() {
    javascript("sdk.mjs", "private", None, (60, 50));
}

#[test]
fn its_first_major_version_can_not_tell_it_from_a_store() {
    javascript("sdk1.mjs", "public", None, (16, 10));
}

/// One test, because the server takes seconds to start.
#[test]
fn javascript_can_not_tell_it_from_a_store_on_dynamodb_local() {
    let local = runtime().block_on(Local::start());
    javascript("sdk.mjs", "private", Some(&local), (60, 50));
    javascript("sdk1.mjs", "public", Some(&local), (16, 10));
}

/// A gateway that listens for TLS as well, with these flags, and what leads the content hosts to it.
fn over_tls(
    sandbox: &Sandbox,
    store_id: &str,
    runtime: &tokio::runtime::Runtime,
    more: &[&str],
) -> (Gateway, Canonical) {
    let mut gateway = None;
    let canonical = runtime.block_on(Canonical::with(store_id, async |directory| {
        let file = |name| directory.join(name).to_str().unwrap().to_owned();
        let (cert, key) = (file("cert.pem"), file("key.pem"));
        let flags = ["--tls-listen", "127.0.0.1:0", "--tls-cert", &cert, "--tls-key", &key];
        let started = Gateway::start(sandbox, &[&flags[..], &["--url-form", "canonical"], more].concat());
        gateway.insert(started).tls.unwrap()
    }));
    (gateway.unwrap(), canonical)
}

fn javascript_over_tls(script: &str, preload: &str) {
    let (sandbox, _stores) = stage(TOKEN, "private", None);
    let runtime = runtime();
    let port = app_port();
    let origins = app_origins(port);
    let allowed = origins.each_ref().map(|origin| ["--allow-origin", origin]).concat();
    let (gateway, canonical) = over_tls(&sandbox, "SdK", &runtime, &allowed);
    let mut environment = environment(&sandbox, &gateway, "private");
    environment.extend([
        ("BLOB_WEBHOOK_PUBLIC_KEY", sandbox.variable("BLOB_WEBHOOK_PUBLIC_KEY")),
        ("APP_PORT", port.to_string()),
        ("FAILED_CALLBACKS", "2".to_owned()),
        ("HTTPS_PROXY", canonical.proxy()),
        ("NODE_EXTRA_CA_CERTS", canonical.ca().to_str().unwrap().to_owned()),
    ]);
    runtime.block_on(crate::blob_sdk::node(script, preload, &environment));
    let run = gateway.stop().expect(0);
    assert!(run.stderr.contains("BLOB_WEBHOOK_PUBLIC_KEY="), "{}", run.stderr);
    no_drift(&sandbox);
}

/// Nothing is rewritten: content comes over TLS from the hosts in its URLs.
#[test]
fn javascript_reads_content_through_it() {
    javascript_over_tls("sdk.mjs", "./proxy.mjs");
}

#[test]
fn others_act_with_what_it_signed_for_them() {
    javascript_over_tls("delegation.mjs", "./canonical.mjs");
}

/// Its content comes over TLS, always.
fn python(access: &str, phase: Phase) {
    let (sandbox, _stores) = stage(PYTHON_TOKEN, access, None);
    if phase == Phase::Cutover {
        Gateway::start(&sandbox, &[]).stop();
        flip(&sandbox, "test", phase);
    }
    let runtime = runtime();
    let (gateway, canonical) = over_tls(&sandbox, "PyThon", &runtime, &[]);
    let environment = environment(&sandbox, &gateway, access);
    runtime.block_on(crate::blob_sdk_python::python(&canonical, &environment));
    all_is_mirrored(gateway, &sandbox, 20, 15);
}

#[test]
fn python_can_not_tell_it_from_a_public_store() {
    python("public", Phase::Capture);
}

#[test]
fn python_can_not_tell_dynamodb_from_a_store() {
    python("public", Phase::Cutover);
}

#[test]
fn python_can_not_tell_it_from_a_private_store() {
    python("private", Phase::Capture);
}
