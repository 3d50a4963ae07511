//! The official JavaScript SDK, unchanged, against the Blob server. The scripts are in `tests/node/`.

use std::num::NonZeroU64;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::rsa::KeySize;
use aws_lc_rs::signature::{KeyPair as _, RSA_PKCS1_SHA256, RsaKeyPair};
use base64::Engine as _;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use migrate::ErrorKind;
use migrate::blob::emulator::{Emulator, EmulatorConfig};
use migrate::blob::faults::{Drops, Fault, Operation, Rates};
use migrate::blob::server::{KeySet, Oidc, ServerConfig, UrlForm};
use migrate::blob::store::Access;
use migrate::clock::{Clock as _, SystemClock};
use secrecy::SecretString;
use serde_json::{Value, json};

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
pub(crate) async fn node(script: &str, preload: &str, environment: &[(&str, String)]) {
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
        .env_remove("BLOB_READ_WRITE_TOKEN")
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

/// A port for the application that a script runs. The server must be told of it before the script begins, so it is
/// below those that the system hands out, and differs from process to process.
pub(crate) fn app_port() -> u16 {
    let first = 20_000 + u16::try_from(std::process::id() % 10_000).unwrap();
    let is_free = |port: &u16| std::net::TcpListener::bind(("127.0.0.1", *port)).is_ok();
    (first..).find(is_free).expect("a free port")
}

/// The origins of the application at that port.
pub(crate) fn app_origins(port: u16) -> [String; 2] {
    ["127.0.0.1", "localhost"].map(|host| format!("http://{host}:{port}"))
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
async fn what_an_application_lets_others_do() {
    let port = app_port();
    let emulator = emulator(|server| {
        server.access = Access::Private;
        server.callback_pause = Duration::from_millis(1);
        server.allowed_origins = app_origins(port).to_vec();
    })
    .await;
    let mut environment = surface_environment(&emulator, Access::Private);
    environment.push(("APP_PORT", port.to_string()));
    environment.push(("BLOB_WEBHOOK_PUBLIC_KEY", emulator.server().webhook_public_key()));
    node("delegation.mjs", "./canonical.mjs", &environment).await;
    emulator.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn its_oidc_tokens() {
    let (issuer, other) = (Issuer::new("first"), Issuer::new("first"));
    let now = SystemClock::new().now().as_second();
    let good =
        json!({"iss": "https://oidc.example", "aud": ["team", "more"], "exp": now + 600, "sub": "app"});
    let but = |name: &str, value: Value| {
        let mut claims = good.clone();
        claims[name] = value;
        claims
    };
    let wrong = json!({
        "signed by another": other.sign("RS256", &good),
        "of another algorithm": issuer.sign("HS256", &good),
        "of none": issuer.sign("none", &good),
        "expired": issuer.sign("RS256", &but("exp", json!(now - 600))),
        "not yet": issuer.sign("RS256", &but("nbf", json!(now + 600))),
        "without an end": issuer.sign("RS256", &but("exp", Value::Null)),
        "of another issuer": issuer.sign("RS256", &but("iss", json!("https://other.example"))),
        "without an issuer": issuer.sign("RS256", &but("iss", Value::Null)),
        "for others": issuer.sign("RS256", &but("aud", json!(["others"]))),
        "no JWT": "nonsense",
    });
    let keys = KeySet::from_json(issuer.keys().to_string().as_bytes()).unwrap();
    // The SDK takes nothing from its environment that is no JWT.
    let known = other.sign("RS256", &but("sub", json!("known")));
    let oidc = Oidc {
        token: Some(SecretString::from(known.clone())),
        keys: Some(keys),
        issuer: Some("https://oidc.example".to_owned()),
        audience: Some("team".to_owned()),
    };
    for token in [issuer.sign("RS256", &good), known] {
        let emulator = emulator(|server| {
            server.access = Access::Private;
            server.oidc = Some(oidc.clone());
        })
        .await;
        let environment = [
            ("VERCEL_BLOB_API_URL", emulator.server().base_url()),
            ("VERCEL_BLOB_RETRIES", "0".to_owned()),
            ("VERCEL_OIDC_TOKEN", token),
            ("BLOB_STORE_ID", "store_SdK".to_owned()),
            ("WRONG_TOKENS", wrong.to_string()),
        ];
        node("oidc.mjs", "./canonical.mjs", &environment).await;
    }
}

/// An issuer of OIDC tokens, with a key of its own.
struct Issuer {
    id: &'static str,
    key: RsaKeyPair,
}

impl Issuer {
    fn new(id: &'static str) -> Self {
        Self { id, key: RsaKeyPair::generate(KeySize::Rsa2048).unwrap() }
    }

    /// Its public key, as it publishes it.
    fn keys(&self) -> Value {
        let number = |bytes: &[u8]| BASE64_URL_SAFE_NO_PAD.encode(bytes);
        let public = self.key.public_key();
        let (n, e) = (public.modulus(), public.exponent());
        let (n, e) =
            (number(n.big_endian_without_leading_zero()), number(e.big_endian_without_leading_zero()));
        json!({"keys": [{"kty": "RSA", "use": "sig", "alg": "RS256", "kid": self.id, "n": n, "e": e}]})
    }

    /// A JWT, always signed as RS256 is, whatever it says.
    fn sign(&self, algorithm: &str, claims: &Value) -> String {
        let part = |value: &Value| BASE64_URL_SAFE_NO_PAD.encode(value.to_string());
        let header = json!({"alg": algorithm, "typ": "JWT", "kid": self.id});
        let text = format!("{}.{}", part(&header), part(claims));
        let mut signature = vec![0; self.key.public_modulus_len()];
        self.key.sign(&RSA_PKCS1_SHA256, &SystemRandom::new(), text.as_bytes(), &mut signature).unwrap();
        format!("{text}.{}", BASE64_URL_SAFE_NO_PAD.encode(signature))
    }
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
