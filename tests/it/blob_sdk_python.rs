//! The official Python SDK, unchanged, against the Blob server. The script is in `tests/python/`.
//!
//! It takes URLs on the canonical content hosts alone, and reads content there, over TLS.

use std::path::Path;
use std::sync::Arc;

use migrate::blob::emulator::{Emulator, EmulatorConfig};
use migrate::blob::server::{ServerConfig, UrlForm};
use migrate::blob::store::Access;
use migrate::clock::SystemClock;
use secrecy::SecretString;

use crate::canonical::Canonical;

const TOKEN: &str = "vercel_blob_rw_PyThon_secret_of_the_tests";

async fn whole_surface(access: Access) {
    let mut server = ServerConfig::new(SecretString::from(TOKEN));
    server.url_form = UrlForm::Canonical;
    server.access = access;
    let config = EmulatorConfig { listen: ([127, 0, 0, 1], 0).into(), server, data: None };
    let emulator = Emulator::start(config, Arc::new(SystemClock::new())).await.unwrap();
    let canonical = Canonical::of(emulator.server(), "PyThon").await;
    let mut environment = emulator.environment().to_vec();
    environment.push(("ACCESS", access.as_str().to_owned()));
    python(&canonical, &environment).await;
    emulator.shutdown().await;
}

/// Runs the script to its end; its output is shown where it fails.
pub(crate) async fn python(canonical: &Canonical, environment: &[(&str, String)]) {
    let top = Path::new(env!("CARGO_MANIFEST_DIR"));
    let python = top.join(".venv/bin/python");
    assert!(python.exists(), "the SDK is not installed: run `.ci/setup`");
    let output = tokio::process::Command::new(python)
        .args(["-I", "-B", "sdk.py", "--quiet"])
        .current_dir(top.join("tests/python"))
        .env_clear()
        .envs(environment.iter().map(|(name, value)| (name, value)))
        .env("HTTPS_PROXY", canonical.proxy())
        .env("SSL_CERT_FILE", canonical.ca())
        .output()
        .await
        .unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && said.contains("\nOK"), "{}\n{said}", output.status);
}

#[tokio::test(flavor = "multi_thread")]
async fn its_whole_surface_on_a_public_store() {
    whole_surface(Access::Public).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn its_whole_surface_on_a_private_store() {
    whole_surface(Access::Private).await;
}
