//! `migrate emulate`: what its flags let in.

use reqwest::{Client, StatusCode};
use serde_json::Value;

use crate::support::Sandbox;

/// Posts to the API, with a bearer, and returns status, code and message.
async fn told(sandbox: &Sandbox, path: &str, bearer: &str) -> (StatusCode, String, String) {
    let url = format!("{}{path}", sandbox.variable("VERCEL_BLOB_API_URL"));
    let client = Client::builder().no_proxy().build().unwrap();
    let request =
        client.post(url).bearer_auth(bearer).header("x-vercel-blob-store-id", "emulator").body("{}");
    let reply = request.send().await.unwrap();
    let status = reply.status();
    let body: Value = serde_json::from_slice(&reply.bytes().await.unwrap()).unwrap();
    let text = |name: &str| body["error"][name].as_str().unwrap_or_default().to_owned();
    (status, text("code"), text("message"))
}

/// As [`told`], without the message.
async fn post(sandbox: &Sandbox, path: &str, bearer: &str) -> (StatusCode, String) {
    let (status, code, _) = told(sandbox, path, bearer).await;
    (status, code)
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
    let path = "/put-from-url?pathname=a&url=http%3A%2F%2F127.0.0.1%3A1%2Fa.png";
    for (arguments, code, said) in [
        (vec![], "not_allowed", "--allow-origin http://127.0.0.1:1"),
        (vec!["--allow-origin", "http://127.0.0.1:1"], "service_unavailable", "did not answer"),
    ] {
        let mut sandbox = Sandbox::new();
        let _stores = sandbox.emulate(&arguments);
        let token = sandbox.variable("BLOB_READ_WRITE_TOKEN");
        let (_, found, message) = told(&sandbox, path, &token).await;
        assert_eq!(found, code, "{arguments:?}");
        assert!(message.contains(said), "{message}");
    }
}
