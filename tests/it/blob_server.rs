//! The Blob server: the contract over HTTP, and what a client other than the SDKs sees of it.

use std::num::NonZeroU64;
use std::sync::Arc;

use async_trait::async_trait;
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode};
use migrate::blob::client::{Config, HttpBlob};
use migrate::blob::emulator::{Emulator, EmulatorConfig};
use migrate::blob::faults::{Drops, Operation};
use migrate::blob::server::{Server, ServerConfig, UrlForm};
use migrate::blob::store::{Access, BlobStore, Content, GetOptions, Part, PutOptions, Upload};
use migrate::blob::{Body, ETag, Head, ListPage, ListRequest, Pathname};
use migrate::clock::SystemClock;
use migrate::event::Silent;
use migrate::testing::blob_contract::Subject;
use migrate::{Error, ErrorKind, Result};
use secrecy::SecretString;
use serde_json::Value;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

const TOKEN: &str = "vercel_blob_rw_SrV_secret";

async fn emulator(change: impl FnOnce(&mut ServerConfig)) -> Emulator {
    let mut server = ServerConfig::new(SecretString::from(TOKEN));
    change(&mut server);
    let config = EmulatorConfig { listen: ([127, 0, 0, 1], 0).into(), server, data: None };
    Emulator::start(config, Arc::new(SystemClock::new())).await.unwrap()
}

async fn over_http(access: Access, url_form: UrlForm) -> Subject {
    let emulator = emulator(|server| {
        server.access = access;
        server.url_form = url_form;
    })
    .await;
    let clock = Arc::new(SystemClock::new());
    let base = emulator.server().base_url();
    let mut config = Config::new(base, SecretString::from(TOKEN), access, Arc::new(Silent), clock);
    if url_form == UrlForm::Canonical {
        config.content_origin = Some(format!("{}/content", emulator.server().origin()).into());
    }
    let store = Arc::new(HttpBlob::new(config).unwrap());
    Subject { store, access, guard: Box::new(emulator) }
}

mod public_over_http {
    use super::*;

    async fn make() -> Subject {
        over_http(Access::Public, UrlForm::Local).await
    }

    migrate::blob_contract!(make);
}

mod private_over_http {
    use super::*;

    async fn make() -> Subject {
        over_http(Access::Private, UrlForm::Canonical).await
    }

    migrate::blob_contract!(make);
}

#[tokio::test]
async fn it_enforces_deadlines() {
    for access in [Access::Public, Access::Private] {
        let subject = over_http(access, UrlForm::Local).await;
        assert!(subject.store.deadline(std::time::Duration::ZERO).await.unwrap().is_some());
    }
}

/// A reply, read to its end.
struct Reply {
    status: StatusCode,
    headers: HeaderMap,
    body: bytes::Bytes,
}

impl Reply {
    fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).map(|value| value.to_str().unwrap())
    }

    /// The code of a refusal, which must be the API's JSON.
    fn code(&self) -> String {
        assert_eq!(self.header("content-type"), Some("application/json"));
        let json: Value = serde_json::from_slice(&self.body).unwrap();
        assert!(!json["error"]["message"].as_str().unwrap().is_empty());
        json["error"]["code"].as_str().unwrap().to_owned()
    }
}

async fn send(method: Method, url: String, headers: &[(&str, &str)], body: &str) -> Reply {
    let client = reqwest::Client::builder().no_proxy().build().unwrap();
    let mut request = client.request(method, url).body(body.to_owned());
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    let reply = request.send().await.unwrap();
    let (status, headers) = (reply.status(), reply.headers().clone());
    Reply { status, headers, body: reply.bytes().await.unwrap() }
}

async fn get(url: String, headers: &[(&str, &str)]) -> Reply {
    send(Method::GET, url, headers, "").await
}

fn bearer() -> (&'static str, String) {
    ("authorization", format!("Bearer {TOKEN}"))
}

async fn put(emulator: &Emulator, name: &str, text: &'static str) -> Head {
    let options = PutOptions { allow_overwrite: true, ..PutOptions::default() };
    let body = bytes::Bytes::from_static(text.as_bytes()).into();
    emulator.store().put(&name.into(), body, &options).await.unwrap()
}

#[tokio::test]
async fn every_refusal_is_the_apis_json() {
    let emulator = emulator(|_| {}).await;
    let (base, origin) = (emulator.server().base_url(), emulator.server().origin().to_owned());
    let (name, token) = bearer();
    let owner = (name, token.as_str());
    for (method, url, header, body, status, code) in [
        ("GET", base.clone(), ("authorization", "Bearer wrong"), "", 403, "forbidden"),
        ("GET", base.clone(), ("authorization", "Basic eDp5"), "", 403, "forbidden"),
        ("GET", base.clone(), ("x-nothing", "at all"), "", 403, "forbidden"),
        ("GET", format!("{base}?url=absent"), owner, "", 404, "not_found"),
        ("GET", format!("{base}?limit=many"), owner, "", 400, "bad_request"),
        ("GET", format!("{base}?mode=other"), owner, "", 400, "bad_request"),
        ("PATCH", base.clone(), owner, "", 400, "bad_request"),
        ("PUT", base.clone(), owner, "x", 400, "bad_request"),
        ("GET", format!("{base}/nothing"), owner, "", 400, "bad_request"),
        ("GET", format!("{origin}/"), owner, "", 400, "bad_request"),
        ("GET", format!("{origin}/api/blobs"), owner, "", 400, "bad_request"),
        ("POST", format!("{base}/delete"), owner, "no json", 400, "bad_request"),
        ("POST", format!("{base}/delete"), owner, "{\"urls\":[1]}", 400, "bad_request"),
        ("POST", format!("{base}/mpu?pathname=a"), owner, "", 400, "bad_request"),
        ("POST", format!("{base}/signed-token"), owner, "{\"operations\":[]}", 400, "bad_request"),
        ("POST", format!("{base}/put-optimized?pathname=a"), owner, "x", 403, "not_allowed"),
        ("POST", format!("{base}/put-from-url?pathname=a&url=x"), owner, "", 400, "bad_request"),
        (
            "POST",
            format!("{base}/put-from-url?pathname=a&url=http://10.0.0.1/"),
            owner,
            "",
            403,
            "not_allowed",
        ),
        ("PUT", format!("{base}?pathname=a&vercel-blob-signature=x"), owner, "x", 403, "forbidden"),
        ("DELETE", format!("{base}?pathname=a"), owner, "", 400, "bad_request"),
        ("GET", format!("{origin}/content/absent"), owner, "", 404, "not_found"),
        ("PUT", format!("{origin}/content/a"), owner, "x", 400, "bad_request"),
    ] {
        let reply = send(method.parse().unwrap(), url.clone(), &[header], body).await;
        assert_eq!((reply.status.as_u16(), reply.code().as_str()), (status, code), "{method} {url}");
    }
    assert!(emulator.store().is_empty());
}

#[tokio::test]
async fn a_long_body_without_the_token_is_refused_not_cut_off() {
    let emulator = emulator(|_| {}).await;
    let url = format!("{}/?pathname=a", emulator.server().base_url());
    let body = "x".repeat(20 << 20);
    let reply = send(Method::PUT, url, &[("authorization", "Bearer wrong")], &body).await;
    assert_eq!((reply.status.as_u16(), reply.code().as_str()), (403, "forbidden"));
}

#[tokio::test]
async fn public_content_needs_no_token() {
    let emulator = emulator(|_| {}).await;
    let head = put(&emulator, "dir/a b#c?.html", "<p>hello").await;
    let url = format!("{}/content/dir/a%20b%23c%3F.html", emulator.server().origin());
    let reply = get(url.clone(), &[]).await;
    assert_eq!((reply.status, &reply.body[..]), (StatusCode::OK, &b"<p>hello"[..]));
    for (name, value) in [
        ("etag", head.blob.etag.as_str()),
        ("content-length", "8"),
        ("content-type", "text/html"),
        ("content-disposition", "attachment; filename=\"a b#c?.html\""),
        ("cache-control", "public, max-age=2592000"),
        ("accept-ranges", "bytes"),
        ("content-security-policy", "default-src \"none\""),
        ("x-frame-options", "DENY"),
        ("x-content-type-options", "nosniff"),
    ] {
        assert_eq!(reply.header(name), Some(value), "{name}");
    }
    assert!(reply.header("last-modified").unwrap().ends_with(" GMT"));

    let head_reply = send(Method::HEAD, url.clone(), &[], "").await;
    assert_eq!((head_reply.header("content-length"), head_reply.body.len()), (Some("8"), 0));
    assert_eq!(get(format!("{url}?cache=0"), &[]).await.code(), "bad_request");
}

#[tokio::test]
async fn content_is_served_by_the_canonical_host_too() {
    let emulator = emulator(|_| {}).await;
    put(&emulator, "ü.txt", "hello").await;
    let url = format!("{}/%C3%BC.txt", emulator.server().origin());
    let canonical = ("host", "srv.public.blob.vercel-storage.com");
    assert_eq!(get(url.clone(), &[canonical]).await.body, "hello");
    for other in ["other.public.blob.vercel-storage.com", "srv.private.blob.vercel-storage.com"] {
        assert_eq!(get(url.clone(), &[("host", other)]).await.code(), "store_not_found");
    }
    let download = get(format!("{url}?download=1"), &[canonical]).await;
    let disposition = download.header("content-disposition").unwrap();
    assert_eq!(disposition, "attachment; filename=\"_.txt\"; filename*=UTF-8''%C3%BC%2Etxt");
}

#[tokio::test]
async fn private_content_needs_the_token() {
    let emulator = emulator(|server| server.access = Access::Private).await;
    put(&emulator, "a.txt", "secret").await;
    let url = format!("{}/content/a.txt", emulator.server().origin());
    assert_eq!(get(url.clone(), &[]).await.code(), "forbidden");
    assert_eq!(get(url.clone(), &[("authorization", "Bearer wrong")]).await.code(), "forbidden");
    let (name, token) = bearer();
    assert_eq!(get(url.clone(), &[(name, &token)]).await.body, "secret");
    let fresh = get(format!("{url}?cache=0"), &[(name, &token)]).await;
    assert_eq!(fresh.header("cache-control"), Some("no-store"));
    assert_eq!((fresh.header("x-vercel-cache"), &fresh.body[..]), (Some("MISS"), &b"secret"[..]));
}

#[tokio::test]
async fn ranges_and_conditions_of_content() {
    let emulator = emulator(|_| {}).await;
    let head = put(&emulator, "a.txt", "0123456789").await;
    put(&emulator, "empty.txt", "").await;
    let url = format!("{}/content/a.txt", emulator.server().origin());
    for (range, status, content_range, body) in [
        ("bytes=2-4", 206, Some("bytes 2-4/10"), "234"),
        ("bytes=8-", 206, Some("bytes 8-9/10"), "89"),
        ("bytes=-3", 206, Some("bytes 7-9/10"), "789"),
        ("bytes=10-", 416, Some("bytes */10"), ""),
        ("bytes=0-1,3-4", 200, None, "0123456789"),
    ] {
        let reply = get(url.clone(), &[("range", range)]).await;
        assert_eq!(reply.status.as_u16(), status, "{range}");
        assert_eq!((reply.header("content-range"), &reply.body[..]), (content_range, body.as_bytes()));
    }
    let empty = format!("{}/content/empty.txt", emulator.server().origin());
    assert_eq!(get(empty, &[("range", "bytes=-5")]).await.status.as_u16(), 416);

    let etag = head.blob.etag.as_str();
    for candidate in [etag.to_owned(), format!("W/{etag}"), format!("\"other\", {etag}"), "*".to_owned()] {
        let reply = get(url.clone(), &[("if-none-match", &candidate)]).await;
        assert_eq!((reply.status, reply.body.len()), (StatusCode::NOT_MODIFIED, 0), "{candidate}");
        assert_eq!(reply.header("etag"), Some(etag));
    }
    assert_eq!(get(url, &[("if-none-match", "\"other\"")]).await.status, StatusCode::OK);
}

#[tokio::test]
async fn the_urls_of_replies_have_the_configured_form() {
    let (name, token) = bearer();
    for (url_form, expected) in [
        (UrlForm::Canonical, "https://srv.public.blob.vercel-storage.com/a%20b.txt".to_owned()),
        (UrlForm::Local, "{origin}/content/a%20b.txt".to_owned()),
    ] {
        let emulator = emulator(|server| server.url_form = url_form).await;
        put(&emulator, "a b.txt", "hello").await;
        let expected = expected.replace("{origin}", emulator.server().origin());
        let base = emulator.server().base_url();
        let listed = get(base.clone(), &[(name, &token)]).await;
        let listed: Value = serde_json::from_slice(&listed.body).unwrap();
        assert_eq!(listed["blobs"][0]["url"], expected);
        assert_eq!(listed["blobs"][0]["downloadUrl"], format!("{expected}?download=1"));
        let query = form_urlencoded::Serializer::new(String::new()).append_pair("url", &expected).finish();
        let head = get(format!("{base}?{query}"), &[(name, &token)]).await;
        assert_eq!(serde_json::from_slice::<Value>(&head.body).unwrap()["url"], expected);
    }
}

#[tokio::test]
async fn a_dropped_reply_leaves_the_write_done_or_not() {
    for applied in [true, false] {
        let emulator = emulator(|_| {}).await;
        emulator.faults().set_drops(Some(Drops { every: NonZeroU64::MIN, applied }));
        let mut stream = TcpStream::connect(emulator.server().local_addr()).await.unwrap();
        let request = format!(
            "PUT /api/blob?pathname=a HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {TOKEN}\r\n\
             content-length: 1\r\n\r\nx"
        );
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut reply = Vec::new();
        stream.read_to_end(&mut reply).await.ok();
        assert_eq!(reply, b"", "not one byte of a reply");
        assert_eq!(emulator.store().len(), usize::from(applied));
    }
}

#[tokio::test]
async fn extra_headers_and_cors_are_on_every_reply() {
    let gateway = HeaderName::from_static("x-migrate-gateway");
    let emulator = emulator(|server| {
        server.extra_headers.insert(gateway, HeaderValue::from_static("1"));
    })
    .await;
    let base = emulator.server().base_url();
    for method in [Method::GET, Method::OPTIONS] {
        let asked = ("access-control-request-headers", "authorization,x-api-version");
        let reply = send(method.clone(), base.clone(), &[asked], "").await;
        assert_eq!(reply.header("x-migrate-gateway"), Some("1"), "{method}");
        assert_eq!(reply.header("access-control-allow-origin"), Some("*"), "{method}");
        assert_eq!(reply.header("access-control-expose-headers"), Some("*"), "{method}");
        let allowed = (method == Method::OPTIONS).then_some(asked.1);
        assert_eq!(reply.header("access-control-allow-headers"), allowed);
    }
}

#[tokio::test]
async fn a_shutdown_answers_what_is_in_flight() {
    let emulator = emulator(|_| {}).await;
    let mut pause = emulator.faults().pause(Operation::Head);
    let (name, token) = bearer();
    put(&emulator, "a", "x").await;
    let url = format!("{}?url=a", emulator.server().base_url());
    let asked = tokio::spawn(async move { get(url, &[(name, &token)]).await.status });
    pause.arrived().await;
    let address = emulator.server().local_addr();
    let stopped = tokio::spawn(emulator.shutdown());
    pause.release();
    assert_eq!(asked.await.unwrap(), StatusCode::OK);
    stopped.await.unwrap();
    TcpStream::connect(address).await.expect_err("nobody listens any more");
}

#[tokio::test]
async fn a_taken_address_is_a_clear_error() {
    let first = emulator(|_| {}).await;
    let config = EmulatorConfig {
        listen: first.server().local_addr(),
        server: ServerConfig::new(SecretString::from(TOKEN)),
        data: None,
    };
    let error = Emulator::start(config, Arc::new(SystemClock::new())).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Usage);
    assert!(error.to_string().contains(&first.server().local_addr().to_string()), "{error}");
}

/// A store with a defect: it panics, or fails in a way that it must explain to nobody.
struct Defective;

#[async_trait]
impl BlobStore for Defective {
    async fn head(&self, _: &Pathname) -> Result<Option<Head>> {
        panic!("a defect")
    }
    async fn list(&self, _: &ListRequest) -> Result<ListPage> {
        let cause = std::io::Error::other("the cause");
        Err(Error::new(ErrorKind::Internal, "list blobs").message("failed").source(cause))
    }
    async fn get(&self, _: &Pathname, _: &GetOptions) -> Result<Option<Content>> {
        panic!("a defect")
    }
    async fn put(&self, _: &Pathname, _: Body, _: &PutOptions) -> Result<Head> {
        panic!("a defect")
    }
    async fn copy(&self, _: &Pathname, _: &Pathname, _: &PutOptions) -> Result<Head> {
        panic!("a defect")
    }
    async fn rename(&self, _: &Pathname, _: &Pathname, _: &PutOptions) -> Result<Head> {
        panic!("a defect")
    }
    async fn delete(&self, _: &[Pathname], _: Option<&ETag>) -> Result<()> {
        panic!("a defect")
    }
    async fn create_multipart(&self, _: &Pathname, _: &PutOptions) -> Result<Upload> {
        panic!("a defect")
    }
    async fn upload_part(&self, _: &Pathname, _: &Upload, _: u32, _: Body) -> Result<Part> {
        panic!("a defect")
    }
    async fn complete_multipart(&self, _: &Pathname, _: &Upload, _: &[Part], _: &PutOptions) -> Result<Head> {
        panic!("a defect")
    }
}

#[tokio::test]
async fn a_defect_of_the_store_is_answered_too() {
    let config = ServerConfig::new(SecretString::from(TOKEN));
    let clock = Arc::new(SystemClock::new());
    let server = Server::bind(([127, 0, 0, 1], 0).into(), Arc::new(Defective), config, clock).await.unwrap();
    let (name, token) = bearer();
    for query in ["", "?url=a"] {
        let reply = get(format!("{}{query}", server.base_url()), &[(name, &token)]).await;
        assert_eq!((reply.status.as_u16(), reply.code().as_str()), (500, "internal_server_error"));
        assert!(!String::from_utf8_lossy(&reply.body).contains("cause"));
    }
}
