//! `migrate emulate`: what its flags let in.

use reqwest::{Client, StatusCode};
use serde_json::Value;

use crate::support::Sandbox;

/// Posts to the API, with a bearer, and returns status and code.
async fn post(sandbox: &Sandbox, path: &str, bearer: &str) -> (StatusCode, String) {
    let url = format!("{}{path}", sandbox.variable("VERCEL_BLOB_API_URL"));
    let client = Client::builder().no_proxy().build().unwrap();
    let request =
        client.post(url).bearer_auth(bearer).header("x-vercel-blob-store-id", "emulator").body("{}");
    let reply = request.send().await.unwrap();
    let status = reply.status();
    let body: Value = serde_json::from_slice(&reply.bytes().await.unwrap()).unwrap();
    (status, body["error"]["code"].as_str().unwrap_or_default().to_owned())
}

#[tokio::test]
async fn it_takes_the_oidc_token_that_it_is_told_to() {
    let mut sandbox = Sandbox::new();
    let (_stores, serving) = sandbox.emulate_serving(&["--oidc-token", "h.c.s"]);
    assert_eq!(serving["tls"], Value::Null);
    assert_eq!(post(&sandbox, "/signed-token", "h.c.s").await.0, StatusCode::OK);
    assert_eq!(
        post(&sandbox, "/signed-token", "h.c.other").await,
        (StatusCode::FORBIDDEN, "forbidden".to_owned())
    );
    let key = sandbox.variable("BLOB_WEBHOOK_PUBLIC_KEY");
    assert!(key.starts_with("-----BEGIN PUBLIC KEY-----MCowBQYDK2VwAyEA"), "{key}");

    let mut again = Sandbox::new();
    let _again = again.emulate(&[]);
    assert_eq!(again.variable("BLOB_WEBHOOK_PUBLIC_KEY"), key, "keys follow from the token");
    assert_eq!(post(&again, "/signed-token", "h.c.s").await.0, StatusCode::FORBIDDEN);
}

#[tokio::test]
async fn it_goes_where_it_is_allowed_to() {
    let path = "/put-from-url?pathname=a&url=http%3A%2F%2F0.0.0.0%3A1%2Fa.png";
    for (arguments, code) in
        [(vec![], "not_allowed"), (vec!["--allow-origin", "http://0.0.0.0:1"], "service_unavailable")]
    {
        let mut sandbox = Sandbox::new();
        let _stores = sandbox.emulate(&arguments);
        let token = sandbox.variable("BLOB_READ_WRITE_TOKEN");
        assert_eq!(post(&sandbox, path, &token).await.1, code, "{arguments:?}");
    }
}
