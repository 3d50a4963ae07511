//! The Blob server over TLS, and the certificates for it.

use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use reqwest::{Certificate, Client};

use crate::support::Sandbox;

const HOST: &str = "emulator.public.blob.vercel-storage.com";

/// A client that trusts one CA, and finds the content host at this address.
fn client(ca: &Path, at: SocketAddr) -> Client {
    let ca = Certificate::from_pem(&std::fs::read(ca).unwrap()).unwrap();
    Client::builder().no_proxy().tls_certs_only([ca]).resolve(HOST, at).build().unwrap()
}

#[tokio::test]
async fn an_emulator_serves_content_under_its_canonical_host() {
    let mut sandbox = Sandbox::new();
    sandbox.run(&["gateway-cert", "--store", "emulator", "--out", "tls"]).expect(0);
    let arguments = [
        "--tls-listen",
        "127.0.0.1:0",
        "--tls-cert",
        "tls/cert.pem",
        "--tls-key",
        "tls/key.pem",
        "--canonical-urls",
    ];
    let (_stores, serving) = sandbox.emulate_serving(&arguments);
    let tls: SocketAddr = serving["tls"].as_str().unwrap().parse().unwrap();
    let client = client(&sandbox.path().join("tls/ca.pem"), tls);
    // The API is there too, under another name that the certificate has.
    let api = format!("https://127.0.0.1:{}/api/blob", tls.port());
    let token = sandbox.variable("BLOB_READ_WRITE_TOKEN");
    let put = client.put(format!("{api}/?pathname=a%20b.txt")).bearer_auth(token).body("hello").send().await;
    let put: serde_json::Value = serde_json::from_slice(&put.unwrap().bytes().await.unwrap()).unwrap();
    assert_eq!(put["url"], format!("https://{HOST}/a%20b.txt"));
    let url = format!("https://{HOST}:{}/a%20b.txt", tls.port());
    assert_eq!(client.get(&url).send().await.unwrap().bytes().await.unwrap(), "hello");

    // Who does not trust the CA gets nothing, nor does who speaks no TLS.
    let stranger = Client::builder().no_proxy().resolve(HOST, tls).build().unwrap();
    assert!(stranger.get(&url).send().await.unwrap_err().is_connect());
    client.get(url.replace("https", "http")).send().await.unwrap_err();
    // A failed handshake harms nobody else.
    assert_eq!(client.get(&url).send().await.unwrap().status(), 200);
}

#[test]
fn a_certificate_is_made_once_and_its_key_is_for_its_owner() {
    let mut sandbox = Sandbox::new();
    sandbox.run(&["gateway-cert"]).expect_error(2, &["BLOB_READ_WRITE_TOKEN"]);
    sandbox.set("BLOB_READ_WRITE_TOKEN", "vercel_blob_rw_AbC_secret");
    let made =
        sandbox.run(&["gateway-cert", "--name", "blobs.internal", "--output", "json"]).expect(0).json();
    let hosts = made["hosts"].as_array().unwrap();
    assert_eq!(hosts[0], "abc.public.blob.vercel-storage.com");
    assert_eq!(hosts[1], "abc.private.blob.vercel-storage.com");
    assert!(hosts.contains(&"blobs.internal".into()), "{made}");
    let directory = sandbox.path().join(".migrate/tls");
    let mode = |name: &str| std::fs::metadata(directory.join(name)).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode("key.pem"), 0o600);
    let mut names: Vec<_> =
        std::fs::read_dir(&directory).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    names.sort();
    assert_eq!(names, ["ca.pem", "cert.pem", "key.pem"], "the key of the CA is not kept");

    let key = std::fs::read(directory.join("key.pem")).unwrap();
    sandbox.run(&["gateway-cert"]).expect_error(2, &[".migrate/tls/ca.pem", "not overwritten"]);
    for gone in ["ca.pem", "cert.pem"] {
        std::fs::remove_file(directory.join(gone)).unwrap();
    }
    sandbox.run(&["gateway-cert"]).expect_error(2, &["key.pem", "not overwritten"]);
    assert_eq!(std::fs::read(directory.join("key.pem")).unwrap(), key);

    let human = sandbox.run(&["gateway-cert", "--out", "other"]).expect(0).stdout;
    for said in ["NODE_EXTRA_CA_CERTS=other/ca.pem", "SSL_CERT_FILE", "--tls-key other/key.pem"] {
        assert!(human.contains(said), "{human}");
    }
    sandbox
        .run(&["gateway-cert", "--out", "bad", "--name", "no host name"])
        .expect_error(2, &["no host name"]);
}

#[test]
fn what_is_no_certificate_is_a_usage_error() {
    let sandbox = Sandbox::new();
    for out in ["one", "two"] {
        sandbox.run(&["gateway-cert", "--store", "emulator", "--out", out]).expect(0);
    }
    sandbox.write("text", "no certificate");
    for (certificate, key, said) in [
        ("absent", "one/key.pem", "can't be read"),
        ("text", "one/key.pem", "no certificate"),
        ("one/cert.pem", "text", "no private key"),
        ("one/cert.pem", "two/key.pem", "together"),
    ] {
        let arguments =
            ["emulate", "--tls-listen", "127.0.0.1:0", "--tls-cert", certificate, "--tls-key", key];
        sandbox.run(&arguments).expect_error(2, &[said]);
    }
    sandbox.run(&["emulate", "--tls-listen", "127.0.0.1:0"]).expect(2);
}

#[test]
fn a_listener_that_others_reach_without_tls_is_warned_of() {
    let sandbox = Sandbox::new();
    let arguments = ["emulate", "--blob-listen", "0.0.0.0:0"];
    let listening = sandbox.start_until(&arguments, "warning: 0.0.0.0:0 is reached from other machines");
    assert_eq!(listening.signal("TERM"), Some(0));
}

#[test]
fn wrong_keys_and_origins_are_usage_errors() {
    let sandbox = Sandbox::new();
    sandbox.write("keys", "{\"keys\": []}");
    for (flag, value, said) in [
        ("--oidc-keys", "absent", "can't be read"),
        ("--oidc-keys", "keys", "no RSA key"),
        ("--allow-origin", "app.example", "not an origin"),
    ] {
        sandbox.run(&["emulate", flag, value]).expect_error(2, &[value, said]);
    }
}
