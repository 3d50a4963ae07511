//! The gateway over TLS, and what others may do with what it signed: the official client decides.

use crate::canonical::Canonical;
use crate::gateway::{EVERYTHING, Gateway, no_drift, runtime, stage};

/// Runs a script of the official SDK before a gateway to a private store that listens for TLS as well.
fn over_tls(script: &str, preload: &str) {
    const TOKEN: &str = "vercel_blob_rw_SdK_secret_of_the_tests";
    let (sandbox, _stores) =
        stage(&EVERYTHING.replace("ACCESS", "private"), &["--private", "--token", TOKEN]);
    let runtime = runtime();
    let mut gateway = None;
    let canonical = runtime.block_on(Canonical::with("SdK", async |directory| {
        let file = |name| directory.join(name).to_str().unwrap().to_owned();
        let (cert, key) = (file("cert.pem"), file("key.pem"));
        let flags = ["--tls-listen", "127.0.0.1:0", "--tls-cert", &cert, "--tls-key", &key];
        let started = Gateway::start(&sandbox, &[&flags[..], &["--url-form", "canonical"]].concat());
        gateway.insert(started).tls.unwrap()
    }));
    let gateway = gateway.unwrap();
    let environment = [
        ("VERCEL_BLOB_API_URL", gateway.url.clone()),
        ("BLOB_READ_WRITE_TOKEN", TOKEN.to_owned()),
        ("BLOB_WEBHOOK_PUBLIC_KEY", sandbox.variable("BLOB_WEBHOOK_PUBLIC_KEY")),
        ("FAILED_CALLBACKS", "2".to_owned()),
        ("VERCEL_BLOB_RETRIES", "0".to_owned()),
        ("ACCESS", "private".to_owned()),
        ("STORE_ID", "SdK".to_owned()),
        ("HTTPS_PROXY", canonical.proxy()),
        ("NODE_EXTRA_CA_CERTS", canonical.ca().to_str().unwrap().to_owned()),
    ];
    runtime.block_on(crate::blob_sdk::node(script, preload, &environment));
    let run = gateway.stop().expect(0);
    assert!(run.stderr.contains("BLOB_WEBHOOK_PUBLIC_KEY="), "{}", run.stderr);
    no_drift(&sandbox);
}

/// Nothing is rewritten: content comes over TLS from the hosts in its URLs.
#[test]
fn the_official_sdk_reads_content_through_it() {
    over_tls("sdk.mjs", "./proxy.mjs");
}

#[test]
fn others_act_with_what_it_signed_for_them() {
    over_tls("delegation.mjs", "./canonical.mjs");
}
