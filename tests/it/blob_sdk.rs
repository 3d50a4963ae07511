//! The official JavaScript SDK, unchanged, against the Blob server. The scripts are in `tests/node/`.

use std::num::NonZeroU64;
use std::path::Path;
use std::sync::Arc;

use migrate::ErrorKind;
use migrate::blob::emulator::{Emulator, EmulatorConfig};
use migrate::blob::faults::{Drops, Fault, Operation, Rates};
use migrate::blob::server::{ServerConfig, UrlForm};
use migrate::blob::store::Access;
use migrate::clock::SystemClock;
use secrecy::SecretString;

use crate::canonical::Canonical;

const TOKEN: &str = "vercel_blob_rw_SdK_secret_of_the_tests";

async fn emulator(change: impl FnOnce(&mut ServerConfig)) -> Emulator {
    let mut server = ServerConfig::new(SecretString::from(TOKEN));
    server.url_form = UrlForm::Canonical;
    change(&mut server);
    let config = EmulatorConfig { listen: ([127, 0, 0, 1], 0).into(), server, data: None };
    Emulator::start(config, Arc::new(SystemClock::new())).await.unwrap()
}

/// Runs a script to its end; its output is shown where it fails. `preload` decides how it gets to the content
/// hosts.
async fn node(script: &str, preload: &str, environment: &[(&str, String)]) {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/node");
    assert!(
        directory.join("node_modules/@vercel/blob").is_dir(),
        "the SDK is not installed: run `.ci/setup`, or `npm ci` in tests/node"
    );
    let output = tokio::process::Command::new("node")
        .args(["--import", preload, script])
        .current_dir(directory)
        .env_remove("NODE_OPTIONS")
        .env_remove("VERCEL_OIDC_TOKEN")
        .envs(environment.iter().map(|(name, value)| (name, value)))
        .output()
        .await
        .expect("node must be installed: see `.ci/setup`");
    assert!(
        output.status.success(),
        "{script} ended with {}\n{}{}",
        output.status,
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr),
    );
}

async fn whole_surface(script: &str, access: Access) {
    let emulator = emulator(|server| server.access = access).await;
    node(script, "./canonical.mjs", &surface_environment(&emulator, access)).await;
    emulator.shutdown().await;
}

fn surface_environment(emulator: &Emulator, access: Access) -> Vec<(&'static str, String)> {
    let mut environment = emulator.environment().to_vec();
    environment.push(("VERCEL_BLOB_RETRIES", "0".to_owned()));
    environment.push(("ACCESS", access.as_str().to_owned()));
    environment.push(("STORE_ID", "SdK".to_owned()));
    environment
}

#[tokio::test(flavor = "multi_thread")]
async fn its_whole_surface_on_a_public_store() {
    whole_surface("sdk.mjs", Access::Public).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn its_whole_surface_on_a_private_store() {
    whole_surface("sdk.mjs", Access::Private).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn its_first_major_version_on_a_public_store() {
    whole_surface("sdk1.mjs", Access::Public).await;
}

/// As an application would: nothing is rewritten, content comes over TLS from the hosts in its URLs.
#[tokio::test(flavor = "multi_thread")]
async fn its_whole_surface_over_tls() {
    let emulator = emulator(|server| server.access = Access::Private).await;
    let canonical = Canonical::of(emulator.server(), "SdK").await;
    let mut environment = surface_environment(&emulator, Access::Private);
    environment.push(("HTTPS_PROXY", canonical.proxy()));
    environment.push(("NODE_EXTRA_CA_CERTS", canonical.ca().to_str().unwrap().to_owned()));
    node("sdk.mjs", "./proxy.mjs", &environment).await;
    emulator.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn its_error_classes() {
    let healthy = emulator(|_| {}).await;
    let suspended = emulator(|_| {}).await;
    suspended.faults().suspend_after(Some(0));
    let throttled = emulator(|_| {}).await;
    throttled.faults().set_rates(Some(Rates::HOBBY));
    let unavailable = emulator(|_| {}).await;
    unavailable.faults().fault(Operation::Put, Fault::Refused(ErrorKind::NotApplied));
    unavailable.faults().fault(Operation::Put, Fault::AppliedThenLost);
    let dropping = emulator(|_| {}).await;
    dropping.faults().set_drops(Some(Drops { every: NonZeroU64::new(2).unwrap(), applied: false }));
    let weak = emulator(|server| server.weak_etags = true).await;

    let mut environment = healthy.environment().to_vec();
    for (name, emulator) in [
        ("HEALTHY_URL", &healthy),
        ("SUSPENDED_URL", &suspended),
        ("THROTTLED_URL", &throttled),
        ("UNAVAILABLE_URL", &unavailable),
        ("DROPPING_URL", &dropping),
        ("WEAK_URL", &weak),
    ] {
        environment.push((name, emulator.server().base_url()));
    }
    node("errors.mjs", "./canonical.mjs", &environment).await;
}
