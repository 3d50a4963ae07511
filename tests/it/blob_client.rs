//! The HTTP client against scripted replies: what it sends, what it believes, what it repeats, and to
//! whom it gives the token.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::Router;
use axum::body::Body as ReplyBody;
use axum::extract::Request;
use axum::response::Response;
use bytes::Bytes;
use http::HeaderMap;
use migrate::blob::client::{Config, HttpBlob, Limit, Operations, Rates};
use migrate::blob::fetch::Etags;
use migrate::blob::store::{Access, BlobStore as _, Body, GetOptions, PutOptions};
use migrate::blob::{ETag, Fetched, Fetcher, ListRequest, Pathname};
use migrate::clock::Clock;
use migrate::event::Silent;
use migrate::testing::JumpingClock;
use migrate::{Error, ErrorKind};
use serde_json::json;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;

const TOKEN: &str = "vercel_blob_rw_AbC_s3cr3t";

/// A request that came in.
#[derive(Debug, Clone)]
struct Seen {
    method: String,
    uri: String,
    headers: HeaderMap,
    body: Bytes,
}

impl Seen {
    fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).map(|value| value.to_str().unwrap())
    }
}

/// A server that gives prepared replies, one after the other.
#[derive(Clone)]
struct Script {
    origin: String,
    replies: Arc<Mutex<VecDeque<Response>>>,
    seen: Arc<Mutex<Vec<Seen>>>,
}

impl Script {
    async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let origin = format!("http://{}", listener.local_addr().unwrap());
        let script = Self { origin, replies: Arc::default(), seen: Arc::default() };
        let handler = script.clone();
        let router = Router::new().fallback(move |request: Request| {
            let script = handler.clone();
            async move { script.answer(request).await }
        });
        tokio::spawn(async move { axum::serve(listener, router).await.unwrap() });
        script
    }

    async fn answer(&self, request: Request) -> Response {
        let (parts, body) = request.into_parts();
        let body = axum::body::to_bytes(body, 1 << 20).await.unwrap();
        let (method, uri) = (parts.method.to_string(), parts.uri.to_string());
        self.seen.lock().unwrap().push(Seen { method, uri, headers: parts.headers, body });
        let reply = self.replies.lock().unwrap().pop_front();
        reply.unwrap_or_else(|| reply_with(599, &[], "no reply was prepared"))
    }

    fn reply(&self, status: u16, headers: &[(&str, &str)], body: impl Into<ReplyBody>) -> &Self {
        self.replies.lock().unwrap().push_back(reply_with(status, headers, body));
        self
    }

    fn refuse(&self, status: u16, code: &str, headers: &[(&str, &str)]) -> &Self {
        self.reply(status, headers, json!({"error": {"code": code, "message": "no"}}).to_string())
    }

    fn seen(&self) -> Vec<Seen> {
        self.seen.lock().unwrap().clone()
    }

    fn url(&self, name: &str) -> String {
        format!("{}/{name}", self.origin)
    }

    fn head_reply(&self, name: &str, etag: &str, size: usize) -> String {
        json!({
            "url": self.url(name), "downloadUrl": self.url(name), "pathname": name, "size": size,
            "uploadedAt": "2026-11-01T00:00:00.000Z", "etag": etag, "contentType": "application/json",
            "contentDisposition": "inline", "cacheControl": "public, max-age=60",
        })
        .to_string()
    }
}

fn reply_with(status: u16, headers: &[(&str, &str)], body: impl Into<ReplyBody>) -> Response {
    let mut reply = Response::builder().status(status);
    for (name, value) in headers {
        reply = reply.header(*name, *value);
    }
    reply.body(body.into()).unwrap()
}

fn clock() -> JumpingClock {
    JumpingClock::at("2026-11-01T00:00:00Z")
}

fn config(base: &str, access: Access, clock: &JumpingClock) -> Config {
    Config::new(base, TOKEN.into(), access, Arc::new(Silent), Arc::new(clock.clone()))
}

/// The same where content is read from the base's origin.
fn with_content(config: Config) -> Config {
    Config { content_origin: Some(config.base.clone()), ..config }
}

fn client(script: &Script, access: Access) -> HttpBlob {
    HttpBlob::new(config(&script.origin, access, &clock())).unwrap()
}

fn fetcher(client: HttpBlob, access: Access, clock: &JumpingClock) -> Fetcher {
    Fetcher {
        source: Arc::new(client),
        clock: Arc::new(clock.clone()),
        access,
        cdn_stale: Duration::from_secs(60),
        etags: Etags::Md5,
        body_bytes_max: 1 << 20,
    }
}

fn name() -> Pathname {
    Pathname::new("a b/c.json")
}

#[track_caller]
fn assert_hides_token(error: &Error) {
    let mut text = format!("{error} {error:?} {:?} {:?}", error.detail(), error.advice());
    let mut cause = std::error::Error::source(error);
    while let Some(source) = cause {
        text.push_str(&format!("{source} {source:?}"));
        cause = source.source();
    }
    assert!(!text.contains("s3cr3t"), "{text}");
}

#[tokio::test]
async fn a_request_carries_what_the_service_needs() {
    let script = Script::start().await;
    script.reply(200, &[], script.head_reply("a b/c.json", "\"e\"", 1));
    let head = client(&script, Access::Public).head(&name()).await.unwrap().unwrap();
    assert_eq!(head.blob.etag.as_str(), "\"e\"");
    let seen = &script.seen()[0];
    assert_eq!(seen.uri, "/?url=a+b%2Fc.json");
    assert_eq!(seen.header("authorization"), Some(&*format!("Bearer {TOKEN}")));
    assert_eq!(seen.header("x-api-version"), Some("12"));
    assert_eq!(seen.header("x-vercel-blob-store-id"), Some("AbC"));
    assert_eq!(seen.header("x-api-blob-request-attempt"), Some("0"));
    assert!(seen.header("x-api-blob-request-id").unwrap().starts_with("AbC:1793491200000:"));
}

#[tokio::test]
async fn a_listing_is_read_page_by_page() {
    let script = Script::start().await;
    let blob = |name: &str| {
        json!({"url": script.url(name), "downloadUrl": script.url(name), "pathname": name, "size": 3,
               "uploadedAt": "2026-11-01T00:00:00.000Z", "etag": "W/\"weak\""})
    };
    let page = json!({"blobs": [blob("a")], "hasMore": true, "cursor": "next"});
    script.reply(200, &[], page.to_string());
    script.reply(200, &[], json!({"blobs": [], "hasMore": false}).to_string());
    let client = client(&script, Access::Public);
    let request = ListRequest { prefix: "p/".to_owned(), limit: Some(5), ..ListRequest::default() };
    let page = client.list(&request).await.unwrap();
    assert_eq!(page.blobs[0].etag, ETag::new("\"weak\""), "a weak mark is dropped");
    let last = client.list(&ListRequest { cursor: page.cursor, ..request }).await.unwrap();
    assert_eq!(last.cursor, None);
    assert_eq!(script.seen()[1].uri, "/?limit=5&prefix=p%2F&cursor=next");
    assert_eq!(client.operations(), Operations { simple: 0, advanced: 2 });
}

#[tokio::test]
async fn only_the_apis_own_word_says_that_a_blob_is_absent() {
    let script = Script::start().await;
    script.refuse(404, "not_found", &[]).reply(404, &[], "<html>no such page</html>");
    let client = client(&script, Access::Public);
    assert!(client.head(&name()).await.unwrap().is_none());
    let error = client.head(&name()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Corrupt);
    assert_eq!(script.seen().len(), 2, "and it is not asked again and again");
}

#[tokio::test]
async fn a_failed_read_is_repeated_under_one_id() {
    let script = Script::start().await;
    script.refuse(500, "internal_server_error", &[]).reply(502, &[], "<html>bad gateway</html>");
    script.reply(200, &[], script.head_reply("a b/c.json", "\"e\"", 1));
    let client = client(&script, Access::Public);
    assert!(client.head(&name()).await.unwrap().is_some());
    let seen = script.seen();
    let attempts: Vec<_> =
        seen.iter().map(|seen| seen.header("x-api-blob-request-attempt").unwrap()).collect();
    assert_eq!(attempts, ["0", "1", "2"]);
    let ids: Vec<_> = seen.iter().map(|seen| seen.header("x-api-blob-request-id").unwrap()).collect();
    assert!(ids.iter().all(|id| *id == ids[0]), "{ids:?}");
    assert_eq!(client.operations().simple, 3, "each attempt may be billed");
}

#[tokio::test]
async fn repetitions_end() {
    let script = Script::start().await;
    for _ in 0..100 {
        script.refuse(503, "service_unavailable", &[]);
    }
    let error = client(&script, Access::Public).head(&name()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotApplied);
    assert!(script.seen().len() < 10, "{} requests", script.seen().len());
}

#[tokio::test]
async fn an_unreachable_store_is_one_clear_error() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let base = format!("http://{}", listener.local_addr().unwrap());
    drop(listener);
    let client = HttpBlob::new(config(&base, Access::Public, &clock())).unwrap();
    let error = client.head(&name()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotApplied);
    assert!(error.to_string().contains(&format!("can't connect to {base}")), "{error}");
    assert_hides_token(&error);
}

#[tokio::test]
async fn a_throttled_client_waits_as_long_as_it_is_told() {
    let script = Script::start().await;
    script.refuse(429, "rate_limited", &[("retry-after", "7")]);
    script.reply(200, &[], script.head_reply("a b/c.json", "\"e\"", 1));
    let clock = clock();
    let client = HttpBlob::new(config(&script.origin, Access::Public, &clock)).unwrap();
    assert!(client.head(&name()).await.unwrap().is_some());
    assert!(clock.monotonic() >= Duration::from_secs(7), "{:?}", clock.monotonic());

    script.refuse(429, "rate_limited", &[("retry-after", "86400")]);
    let error = client.head(&name()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Throttled { retry_after: Some(Duration::from_secs(86_400)) });
}

#[tokio::test]
async fn requests_keep_to_their_share_of_the_rates() {
    let script = Script::start().await;
    for _ in 0..12 {
        script.refuse(404, "not_found", &[]);
    }
    let clock = clock();
    let rates = Some(Rates { simple: 2.0, advanced: 100.0 });
    let config = Config { rates, share: 0.5, ..config(&script.origin, Access::Public, &clock) };
    let client = HttpBlob::new(config).unwrap();
    for _ in 0..11 {
        client.head(&name()).await.unwrap();
    }
    let took = clock.monotonic().as_secs_f64();
    assert!((9.5..10.5).contains(&took), "11 requests at one a second took {took} s");
}

#[tokio::test]
async fn no_request_is_sent_beyond_the_limit() {
    let script = Script::start().await;
    script.refuse(404, "not_found", &[]);
    let client = client(&script, Access::Public);
    client.meter().set_limit(Limit { classes: Operations { simple: 1, advanced: 9 }, total: 9 });
    assert!(client.head(&name()).await.unwrap().is_none());
    assert_eq!(client.head(&name()).await.unwrap_err().kind(), ErrorKind::Budget);
    assert_eq!(script.seen().len(), 1);
}

#[tokio::test]
async fn refusals_have_their_kinds() {
    let script = Script::start().await;
    let client = client(&script, Access::Public);
    for (status, code, kind) in [
        (403, "forbidden", ErrorKind::Denied),
        (403, "store_suspended", ErrorKind::Suspended),
        (400, "store_suspended", ErrorKind::Suspended),
        (403, "store_not_found", ErrorKind::Denied),
        (400, "bad_request", ErrorKind::Usage),
    ] {
        script.refuse(status, code, &[]);
        let before = script.seen().len();
        let error = client.head(&name()).await.unwrap_err();
        assert_eq!((error.kind(), script.seen().len() - before), (kind, 1), "{code}");
    }
}

#[tokio::test]
async fn a_gateway_is_not_taken_for_the_store() {
    let script = Script::start().await;
    script.reply(200, &[("x-migrate-gateway", "1")], script.head_reply("a b/c.json", "\"e\"", 1));
    let error = client(&script, Access::Public).head(&name()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Usage);
    assert!(error.to_string().contains("gateway"), "{error}");
}

#[tokio::test]
async fn the_token_is_never_shown() {
    let script = Script::start().await;
    let echo = json!({"error": {"code": "forbidden", "message": format!("bad token {TOKEN}")}});
    script.reply(403, &[], echo.to_string());
    let config = config(&script.origin, Access::Public, &clock());
    assert!(!format!("{config:?}").contains("s3cr3t"));
    let client = HttpBlob::new(config).unwrap();
    assert!(!format!("{client:?}").contains("s3cr3t"));
    let error = client.head(&name()).await.unwrap_err();
    assert_hides_token(&error);
    assert!(error.to_string().contains("bad token [token]"), "{error}");
}

#[tokio::test]
async fn content_is_read_unencoded_from_where_the_store_says() {
    let (script, content) = (Script::start().await, Script::start().await);
    script.reply(200, &[], content.head_reply("a b/c.json", "\"e\"", 5));
    let headers = [("etag", "W/\"e\""), ("last-modified", "Sun, 01 Nov 2026 00:00:00 GMT")];
    content.reply(200, &headers, "hello");
    let client = client(&script, Access::Private);
    let read = client.get(&name(), &GetOptions::default()).await.unwrap().unwrap();
    assert_eq!((read.etag.as_str(), read.size), ("\"e\"", 5));
    assert_eq!(read.last_modified, Some("2026-11-01T00:00:00Z".parse().unwrap()));
    assert_eq!(read.body.collect(100).await.unwrap(), "hello");
    let seen = &content.seen()[0];
    assert_eq!(seen.uri, "/a%20b/c.json");
    assert_eq!(seen.header("accept-encoding"), Some("identity"));
    assert_eq!(seen.header("authorization"), None, "this origin is not the store's");
    assert_eq!(seen.header("x-api-blob-request-id"), None);
}

#[tokio::test]
async fn private_content_is_read_with_the_token_from_the_configured_origin() {
    let (script, content) = (Script::start().await, Script::start().await);
    content.reply(200, &[("etag", "\"e\"")], "hello").reply(200, &[("etag", "\"e\"")], "hello");
    let private = Config {
        content_origin: Some(content.origin.clone().into()),
        ..config(&script.origin, Access::Private, &clock())
    };
    let fresh = GetOptions { no_cache: true, range: None };
    let read = HttpBlob::new(private.clone()).unwrap().get(&name(), &fresh).await.unwrap().unwrap();
    assert_eq!(read.body.collect(100).await.unwrap(), "hello");
    let public = Config { access: Access::Public, ..private };
    HttpBlob::new(public).unwrap().get(&name(), &fresh).await.unwrap().unwrap();
    let seen = content.seen();
    assert_eq!(seen[0].header("authorization"), Some(&*format!("Bearer {TOKEN}")));
    assert_eq!(seen[0].uri, "/a%20b/c.json?cache=0");
    assert_eq!(seen[1].header("authorization"), None, "public content needs none");
    assert_eq!(seen[1].uri, "/a%20b/c.json", "a public store refuses cache=0");
    assert!(script.seen().is_empty());
}

#[tokio::test]
async fn a_redirect_is_not_followed() {
    let (script, other) = (Script::start().await, Script::start().await);
    script.reply(307, &[("location", &other.origin)], "");
    let error = client(&script, Access::Private).head(&name()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Corrupt);
    assert!(other.seen().is_empty(), "{:?}", other.seen());
}

#[tokio::test]
async fn encoded_or_nameless_content_is_refused() {
    let script = Script::start().await;
    script.reply(200, &[("etag", "\"e\""), ("content-encoding", "gzip")], "hello").reply(200, &[], "hello");
    let config = with_content(config(&script.origin, Access::Public, &clock()));
    let client = HttpBlob::new(config).unwrap();
    for _ in 0..2 {
        let error = client.get(&name(), &GetOptions::default()).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Corrupt, "{error}");
    }
}

#[tokio::test]
async fn a_stale_body_is_waited_for_until_it_is_the_wanted_one() {
    let script = Script::start().await;
    let wanted = ETag::of(b"new");
    for _ in 0..3 {
        script.reply(200, &[("etag", ETag::of(b"old").as_str())], "old");
        script.reply(200, &[], script.head_reply("a b/c.json", wanted.as_str(), 3));
    }
    script.reply(200, &[("etag", &format!("W/{wanted}"))], "new");
    let clock = clock();
    let config = with_content(config(&script.origin, Access::Public, &clock));
    let fetcher = fetcher(HttpBlob::new(config).unwrap(), Access::Public, &clock);
    let Fetched::Body { body, .. } = fetcher.fetch(&name(), &wanted, 3).await.unwrap() else {
        panic!("no body");
    };
    assert_eq!(body.bytes().unwrap(), "new");
    assert!(clock.monotonic() > Duration::from_secs(3), "it waited between the reads");
}

#[tokio::test]
async fn a_cache_that_stays_stale_is_given_up() {
    let script = Script::start().await;
    let wanted = ETag::of(b"new");
    for _ in 0..100 {
        script.reply(200, &[("etag", ETag::of(b"old").as_str())], "old");
        script.reply(200, &[], script.head_reply("a b/c.json", wanted.as_str(), 3));
    }
    let clock = clock();
    let config = with_content(config(&script.origin, Access::Public, &clock));
    let fetcher = fetcher(HttpBlob::new(config).unwrap(), Access::Public, &clock);
    let error = fetcher.fetch(&name(), &wanted, 3).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotApplied);
    assert!(clock.monotonic() >= Duration::from_secs(60), "not before the stale window is over");
    assert!(script.seen().len() < 40, "{} requests", script.seen().len());
}

#[tokio::test]
async fn other_bytes_under_the_wanted_etag_are_refused() {
    let script = Script::start().await;
    let wanted = ETag::of(b"new");
    for _ in 0..10 {
        script.reply(200, &[("etag", wanted.as_str())], "nwe");
    }
    let clock = clock();
    let config = with_content(config(&script.origin, Access::Public, &clock));
    let fetcher = fetcher(HttpBlob::new(config).unwrap(), Access::Public, &clock);
    assert_eq!(fetcher.fetch(&name(), &wanted, 3).await.unwrap_err().kind(), ErrorKind::Corrupt);
    assert_eq!(fetcher.fetch(&name(), &wanted, 4).await.unwrap_err().kind(), ErrorKind::Corrupt);
    let trusting = Fetcher { etags: Etags::Opaque, ..fetcher };
    assert!(matches!(trusting.fetch(&name(), &wanted, 3).await, Ok(Fetched::Body { .. })));
}

/// Answers each connection with the next of these texts, as they are, and closes it.
async fn raw_server(replies: Vec<String>) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let origin = format!("http://{}", listener.local_addr().unwrap());
    tokio::spawn(async move {
        for reply in replies {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut request = [0; 4096];
            let _length = stream.read(&mut request).await.unwrap();
            stream.write_all(reply.as_bytes()).await.unwrap();
            stream.shutdown().await.unwrap();
        }
    });
    origin
}

#[tokio::test]
async fn a_body_that_breaks_off_is_read_again() {
    let wanted = ETag::of(b"hello");
    let head = format!("HTTP/1.1 200 OK\r\netag: {wanted}\r\ncontent-length: 5\r\nconnection: close\r\n\r\n");
    let origin = raw_server(vec![format!("{head}he"), format!("{head}hello")]).await;
    let clock = clock();
    let config = with_content(config(&origin, Access::Public, &clock));
    let fetcher = fetcher(HttpBlob::new(config).unwrap(), Access::Public, &clock);
    let Fetched::Body { body, .. } = fetcher.fetch(&name(), &wanted, 5).await.unwrap() else {
        panic!("no body");
    };
    assert_eq!(body.bytes().unwrap(), "hello");
}

#[tokio::test]
async fn a_reply_that_breaks_off_is_asked_for_again() {
    let start = "HTTP/1.1 404 Not Found\r\nconnection: close\r\n";
    let body = r#"{"error":{"code":"not_found","message":"m"}}"#;
    let broken = "HTTP/1.1 200 OK\r\ncontent-length: 500\r\nconnection: close\r\n\r\n{\"url\":".to_owned();
    let whole = format!("{start}content-length: {}\r\n\r\n{body}", body.len());
    let origin = raw_server(vec![broken, String::new(), whole]).await;
    let client = HttpBlob::new(config(&origin, Access::Public, &clock())).unwrap();
    assert!(client.head(&name()).await.unwrap().is_none());
}

#[tokio::test]
async fn a_write_whose_outcome_is_unknown_is_not_repeated() {
    let script = Script::start().await;
    script.refuse(503, "service_unavailable", &[]);
    let client = client(&script, Access::Public);
    let body = Body::from(Bytes::from_static(b"hello"));
    let error = client.put(&name(), body, &PutOptions::default()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::OutcomeUnknown);
    assert_eq!(script.seen().len(), 1);

    script.reply(502, &[], "bad gateway");
    let error = client.delete(&[name()], None).await.unwrap_err();
    assert_eq!((error.kind(), script.seen().len()), (ErrorKind::OutcomeUnknown, 2));
}

#[tokio::test]
async fn a_throttled_write_without_a_stream_is_repeated() {
    let script = Script::start().await;
    script.refuse(429, "rate_limited", &[]).reply(200, &[], "null");
    let etag = ETag::new("\"e\"");
    client(&script, Access::Public).delete(&[name()], Some(&etag)).await.unwrap();
    let seen = &script.seen()[1];
    assert_eq!((seen.method.as_str(), seen.uri.as_str()), ("POST", "/delete"));
    assert_eq!(seen.header("x-if-match"), Some("\"e\""));
    assert_eq!(seen.body, r#"{"urls":["a b/c.json"]}"#);
}

#[tokio::test]
async fn a_put_says_all_of_its_options() {
    let script = Script::start().await;
    let reply = script.head_reply("a b/c.json", "\"e\"", 5);
    script.reply(200, &[], reply.clone()).reply(200, &[], reply);
    let options = PutOptions {
        content_type: Some("text/x".to_owned()),
        cache_control_max_age: Some(Duration::from_secs(90)),
        if_match: Some(ETag::new("old")),
        ..PutOptions::default()
    };
    let body = Body::from(Bytes::from_static(b"hello"));
    let head = client(&script, Access::Private).put(&name(), body, &options).await.unwrap();
    assert_eq!(head.blob.uploaded_at, "2026-11-01T00:00:00Z".parse().unwrap(), "as the store says");
    let seen = &script.seen()[0];
    assert_eq!((seen.method.as_str(), seen.uri.as_str()), ("PUT", "/?pathname=a+b%2Fc.json"));
    for (name, value) in [
        ("x-vercel-blob-access", "private"),
        ("x-add-random-suffix", "0"),
        ("x-allow-overwrite", "1"),
        ("x-content-type", "text/x"),
        ("x-cache-control-max-age", "90"),
        ("x-if-match", "\"old\""),
        ("content-length", "5"),
    ] {
        assert_eq!(seen.header(name), Some(value), "{name}");
    }
    assert_eq!(seen.body, "hello");
}

#[tokio::test]
async fn a_taken_name_and_a_lost_race_are_told_apart() {
    let script = Script::start().await;
    let exists = json!({"error": {"code": "bad_request", "message": migrate::blob::wire::EXISTS_MESSAGE}});
    script.reply(400, &[], exists.to_string()).refuse(412, "precondition_failed", &[]);
    let client = client(&script, Access::Public);
    for kind in [ErrorKind::AlreadyExists, ErrorKind::LostRace] {
        let body = Body::from(Bytes::from_static(b"hello"));
        let error = client.put(&name(), body, &PutOptions::default()).await.unwrap_err();
        assert_eq!(error.kind(), kind);
    }
}

#[test]
fn a_client_that_could_not_work_is_not_made() {
    let base = "http://127.0.0.1:1";
    let good = config(base, Access::Public, &clock());
    for bad in [
        Config { token: String::new().into(), ..good.clone() },
        Config { token: "two words".into(), ..good.clone() },
        Config { base: "ftp://x".into(), ..good.clone() },
        Config { base: "nonsense".into(), ..good.clone() },
        Config { share: 0.0, ..good.clone() },
        Config { share: 1.5, ..good.clone() },
        Config { rates: Some(Rates { simple: 0.0, advanced: 1.0 }), ..good.clone() },
    ] {
        assert_eq!(HttpBlob::new(bad.clone()).unwrap_err().kind(), ErrorKind::Usage, "{bad:?}");
    }
    assert_eq!(HttpBlob::new(good).unwrap().store_id(), Some("AbC"));
}

/// What others ask is passed on at once, and they decide whether to ask again.
#[tokio::test]
async fn a_client_that_forwards_sends_once_and_looks_nothing_up() {
    let script = Script::start().await;
    let config = Config { forwards: true, ..config(&script.origin, Access::Public, &clock()) };
    let client = HttpBlob::new(config).unwrap();
    script.refuse(429, "rate_limited", &[("retry-after", "1")]);
    let error = client.delete(&[name()], None).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Throttled { retry_after: Some(Duration::from_secs(1)) });
    script.refuse(503, "service_unavailable", &[]);
    assert_eq!(client.head(&name()).await.unwrap_err().kind(), ErrorKind::NotApplied);
    script.reply(200, &[], script.head_reply("a b/c.json", "\"e\"", 1));
    let head = client.put(&name(), Bytes::from("1").into(), &PutOptions::default()).await.unwrap();
    assert_eq!((head.blob.etag.as_str(), head.blob.size), ("\"e\"", 1));
    assert_eq!(script.seen().len(), 3);
}

#[tokio::test]
async fn a_body_that_its_sender_broke_off_fails_for_the_senders_reason() {
    let script = Script::start().await;
    // What is wrong on this side (the last one) says nothing of the request.
    let (usage, broken, other) = (ErrorKind::Usage, ErrorKind::NotApplied, ErrorKind::OutcomeUnknown);
    for (kind, expected) in [(usage, usage), (broken, broken), (ErrorKind::Internal, other)] {
        let reason = Error::new(kind, "receive a body").message("longer than 10 bytes");
        let chunks = [Ok(Bytes::from("12345")), Err(reason)];
        let body = Body::stream(None, Box::pin(futures::stream::iter(chunks)));
        let client = client(&script, Access::Public);
        let error = client.put(&name(), body, &PutOptions::default()).await.unwrap_err();
        assert_eq!(error.kind(), expected);
        assert!(kind == ErrorKind::Internal || error.detail() == Some("longer than 10 bytes"), "{error:?}");
    }
}
