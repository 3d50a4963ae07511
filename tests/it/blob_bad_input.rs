//! What nobody should send to the Blob server, and what becomes of it: an answer, and no harm to others.

use std::io::Read as _;
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt as _;
use futures::stream::FuturesUnordered;
use migrate::blob::certificate::Names;
use migrate::blob::emulator::{Emulator, EmulatorConfig};
use migrate::blob::server::{ServerConfig, TlsIdentity};
use migrate::blob::store::{BlobStore as _, PutOptions};
use migrate::clock::{Clock as _, SystemClock};
use secrecy::SecretString;
use serde_json::Value;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

const TOKEN: &str = "vercel_blob_rw_BaD_secret";
const AUTHORIZATION: &str = "authorization: Bearer vercel_blob_rw_BaD_secret\r\n";

async fn emulator(change: impl FnOnce(&mut ServerConfig)) -> Emulator {
    let mut server = ServerConfig::new(SecretString::from(TOKEN));
    change(&mut server);
    let config = EmulatorConfig { listen: ([127, 0, 0, 1], 0).into(), server, data: None };
    Emulator::start(config, Arc::new(SystemClock::new())).await.unwrap()
}

async fn connect(emulator: &Emulator) -> TcpStream {
    TcpStream::connect(emulator.server().local_addr()).await.unwrap()
}

/// Sends these bytes, and reads until the server closes the connection.
async fn raw(emulator: &Emulator, request: &str) -> String {
    let mut stream = connect(emulator).await;
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut reply = Vec::new();
    stream.read_to_end(&mut reply).await.unwrap();
    String::from_utf8(reply).unwrap()
}

/// The code of a refusal.
#[track_caller]
fn code(reply: &str) -> String {
    let (_, body) = reply.split_once("\r\n\r\n").unwrap();
    let body: Value = serde_json::from_str(body).unwrap_or_else(|error| panic!("{error} in:\n{reply}"));
    body["error"]["code"].as_str().unwrap().to_owned()
}

#[tokio::test]
async fn what_can_be_read_in_two_ways_is_refused_and_the_connection_closed() {
    let emulator = emulator(|_| {}).await;
    let hidden = format!(
        "PUT /api/blob/?pathname=hidden HTTP/1.1\r\nhost: x\r\n{AUTHORIZATION}content-length: 1\r\n\r\nh"
    );
    let length = hidden.len();
    for (why, target, headers, body) in [
        (
            "two lengths",
            "/api/blob/?pathname=a",
            format!("host: x\r\ncontent-length: 1\r\ncontent-length: {length}\r\n"),
            "x",
        ),
        (
            "a length that is none",
            "/api/blob/?pathname=a",
            "host: x\r\ncontent-length: +1\r\n".to_owned(),
            "x",
        ),
        (
            "chunks that are not last",
            "/api/blob/?pathname=a",
            "host: x\r\ntransfer-encoding: chunked, identity\r\n".to_owned(),
            "",
        ),
        (
            "a space before the colon",
            "/api/blob/?pathname=a",
            "host: x\r\ntransfer-encoding : chunked\r\n".to_owned(),
            "0\r\n\r\n",
        ),
        (
            "a folded header",
            "/api/blob/?pathname=a",
            "host: x\r\nx-a: 1\r\n folded: 2\r\ncontent-length: 0\r\n".to_owned(),
            "",
        ),
        ("no host", "/api/blob/?pathname=a", "content-length: 0\r\n".to_owned(), ""),
        ("two hosts", "/api/blob/?pathname=a", "host: x\r\nhost: y\r\ncontent-length: 0\r\n".to_owned(), ""),
        (
            "another host in the URL",
            "http://y/api/blob/?pathname=a",
            "host: x\r\ncontent-length: 0\r\n".to_owned(),
            "",
        ),
    ] {
        let request = format!("PUT {target} HTTP/1.1\r\n{headers}{AUTHORIZATION}\r\n{body}{hidden}");
        let reply = raw(&emulator, &request).await;
        assert!(reply.starts_with("HTTP/1.1 400 ") && code(&reply) == "bad_request", "{why}: {reply}");
        assert_eq!(reply.matches("HTTP/1.1").count(), 1, "{why}: one answer, then the end: {reply}");
        assert!(emulator.store().is_empty(), "{why}");
    }
    // Chunks go before a length, and nothing is read after them.
    let lengths = [
        format!("content-length: {length}\r\ntransfer-encoding: chunked\r\n"),
        format!("transfer-encoding: chunked\r\ncontent-length: {length}\r\n"),
    ];
    for (number, headers) in lengths.iter().enumerate() {
        let request = format!(
            "PUT /api/blob/?pathname={number} HTTP/1.1\r\nhost: x\r\n{AUTHORIZATION}{headers}\r\n1\r\nx\r\n0\r\n\r\n{hidden}"
        );
        let reply = raw(&emulator, &request).await;
        assert!(reply.starts_with("HTTP/1.1 200 "), "{reply}");
        assert_eq!((reply.matches("HTTP/1.1").count(), emulator.store().len()), (1, number + 1), "{reply}");
    }
    let honest = format!(
        "PUT http://x/api/blob/?pathname=a HTTP/1.1\r\nhost: x\r\n{AUTHORIZATION}connection: close\r\n"
    );
    assert!(
        raw(&emulator, &format!("{honest}content-length: 1\r\n\r\nx")).await.starts_with("HTTP/1.1 200 ")
    );
    assert_eq!(emulator.store().len(), 3);
}

#[tokio::test]
async fn heads_that_are_broken_or_endless_are_answered() {
    let emulator = emulator(|_| {}).await;
    let line = "GET /api/blob HTTP/1.1\r\nhost: x\r\n";
    for (request, status) in [
        ("nonsense\r\n\r\n".to_owned(), "400"),
        ("GET /api/blob HTTP/1.1\r\nhost: x\r\nno colon\r\n\r\n".to_owned(), "400"),
        (format!("{line}x-a: a\0b\r\n\r\n"), "400"),
        (format!("{line}{}\r\n", "x-a: 1\r\n".repeat(200)), "431"),
        (format!("{line}x-a: {}\r\n\r\n", "a".repeat(300 << 10)), "431"),
    ] {
        let mut stream = connect(&emulator).await;
        // It may be answered, and closed, before all of it is sent.
        stream.write_all(request.as_bytes()).await.ok();
        let mut reply = [0; 512];
        let length = stream.read(&mut reply).await.unwrap();
        let reply = std::str::from_utf8(&reply[..length]).unwrap();
        assert!(reply.starts_with(&format!("HTTP/1.1 {status} ")), "{request:.60}: {reply}");
        assert_eq!(code(reply), "bad_request", "{request:.60}");
    }
}

/// What a blob holds is never taken for a refusal, and a refusal after it is one.
#[tokio::test]
async fn a_blob_that_looks_like_a_refusal_is_served_as_it_is() {
    let emulator = emulator(|_| {}).await;
    let body = "HTTP/1.1 400 Bad Request\r\ncontent-length: 0\r\n\r\n";
    emulator.store().put(&"a".into(), bytes::Bytes::from(body).into(), &PutOptions::default()).await.unwrap();
    let request = "GET /content/a HTTP/1.1\r\nhost: x\r\n\r\nnonsense\r\n\r\n";
    let reply = raw(&emulator, request).await;
    let (_, served) = reply.split_once("\r\n\r\n").unwrap();
    let rest = served.strip_prefix(body).unwrap_or_else(|| panic!("{reply}"));
    assert!(rest.starts_with("HTTP/1.1 400 "), "{rest}");
}

#[tokio::test]
async fn names_bodies_and_tokens_that_nobody_can_have() {
    let emulator = emulator(|_| {}).await;
    let long = "a".repeat(951);
    for name in [long.as_str(), "a//b", "%2F%2Fa", "a/../b", ".", "a%00b", "a%0Ab", "%ff", "a%c3", ""] {
        let request = format!(
            "PUT /api/blob/?pathname={name} HTTP/1.1\r\nhost: x\r\n{AUTHORIZATION}connection: close\r\ncontent-length: 1\r\n\r\nx"
        );
        assert_eq!(code(&raw(&emulator, &request).await), "bad_request", "{name:.20}");
    }
    // Refused by what it says, before any of it comes.
    let request = format!(
        "PUT /api/blob/?pathname=a HTTP/1.1\r\nhost: x\r\n{AUTHORIZATION}connection: close\r\ncontent-length: 5000000000000\r\n\r\n"
    );
    let mut stream = connect(&emulator).await;
    stream.write_all(request.as_bytes()).await.unwrap();
    stream.shutdown().await.unwrap();
    let mut reply = String::new();
    stream.read_to_string(&mut reply).await.unwrap();
    assert_eq!(code(&reply), "bad_request");
    assert!(reply.contains("longer than"), "{reply}");

    let two = format!(
        "GET /api/blob HTTP/1.1\r\nhost: x\r\nauthorization: Bearer x\r\n{AUTHORIZATION}connection: close\r\n\r\n"
    );
    assert_eq!(code(&raw(&emulator, &two).await), "forbidden", "of two tokens, neither counts");
    assert!(emulator.store().is_empty());
}

#[tokio::test]
async fn a_client_that_stops_in_the_middle_is_not_waited_for() {
    let emulator = emulator(|server| {
        server.header_timeout = Duration::from_millis(100);
        server.stall_timeout = Duration::from_millis(100);
    })
    .await;
    let reply = raw(&emulator, "GET /api/blob HTTP/1.1\r\nhost: x\r\nx-a").await;
    assert_eq!(reply, "", "a head that never ends");
    let head = format!("PUT /api/blob/?pathname=a HTTP/1.1\r\nhost: x\r\n{AUTHORIZATION}");
    for body in ["content-length: 10\r\n\r\n123", "transfer-encoding: chunked\r\n\r\n5\r\n123"] {
        let reply = raw(&emulator, &format!("{head}{body}")).await;
        assert_eq!(code(&reply), "service_unavailable", "the SDK tries that again");
        assert!(reply.contains("stopped sending"), "{reply}");
    }
    assert!(emulator.store().is_empty());
}

#[tokio::test]
async fn a_client_that_reads_no_more_makes_room_for_others() {
    let emulator = emulator(|server| {
        server.connections_max = 1;
        server.stall_timeout = Duration::from_millis(100);
    })
    .await;
    let body = bytes::Bytes::from(vec![b'x'; 64 << 20]);
    emulator.store().put(&"large".into(), body.into(), &PutOptions::default()).await.unwrap();
    let mut stalled = connect(&emulator).await;
    stalled.write_all(b"GET /content/large HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();
    stalled.readable().await.unwrap();
    let next = raw(&emulator, "HEAD /content/large HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").await;
    assert!(next.starts_with("HTTP/1.1 200 "), "{next}");
}

/// Sends a part of a body, and returns the whole reply.
async fn stall(emulator: &Emulator) -> String {
    let head = format!("PUT /api/blob/?pathname=a HTTP/1.1\r\nhost: x\r\n{AUTHORIZATION}");
    raw(emulator, &format!("{head}content-length: 10\r\n\r\n123")).await
}

/// More stalled uploads than there may be connections: some are refused, the others leave room.
#[tokio::test]
async fn stalled_uploads_leave_room_for_requests_without_a_body() {
    let emulator = emulator(|server| {
        server.connections_max = 20;
        server.crowd_timeout = Duration::from_secs(3600);
    })
    .await;
    let mut stalled: FuturesUnordered<_> = (0..25).map(|_| stall(&emulator)).collect();
    for _ in 0..10 {
        let refused = stalled.next().await.unwrap();
        assert_eq!(code(&refused), "service_unavailable");
        assert!(refused.contains("as many uploads as it may"), "{refused}");
    }
    let asked = raw(&emulator, "GET /content/absent HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n");
    tokio::select! {
        reply = asked => assert_eq!(code(&reply), "not_found"),
        ended = stalled.next() => panic!("the others are waited for: {ended:?}"),
    }
}

#[tokio::test]
async fn stalled_uploads_make_room_for_others() {
    let emulator = emulator(|server| {
        server.connections_max = 20;
        server.crowd_timeout = Duration::from_millis(100);
    })
    .await;
    let mut stalled: FuturesUnordered<_> = (0..25).map(|_| stall(&emulator)).collect();
    for _ in 0..11 {
        let reply = tokio::time::timeout(Duration::from_secs(30), stalled.next()).await;
        let reply = reply.expect("long before their stall timeout").unwrap();
        assert_eq!(code(&reply), "service_unavailable");
    }
    // One that waits until the server asks for its body takes a place.
    let head = format!("PUT /api/blob/?pathname=a HTTP/1.1\r\nhost: x\r\n{AUTHORIZATION}");
    let ask = "expect: 100-continue\r\ncontent-length: 3\r\nconnection: close\r\n\r\n";
    let mut stream = connect(&emulator).await;
    stream.write_all(format!("{head}{ask}").as_bytes()).await.unwrap();
    let mut asked = [0; 12];
    stream.read_exact(&mut asked).await.unwrap();
    assert_eq!(&asked, b"HTTP/1.1 100");
    stream.write_all(b"123").await.unwrap();
    let mut reply = String::new();
    stream.read_to_string(&mut reply).await.unwrap();
    assert!(reply.contains("HTTP/1.1 200 "), "{reply}");
}

#[tokio::test]
async fn stalled_readers_make_room_for_others() {
    let emulator = emulator(|server| {
        server.connections_max = 20;
        server.crowd_timeout = Duration::from_millis(100);
    })
    .await;
    let body = bytes::Bytes::from(vec![b'x'; 64 << 20]);
    emulator.store().put(&"large".into(), body.into(), &PutOptions::default()).await.unwrap();
    let mut stalled = Vec::new();
    for _ in 0..25 {
        let mut stream = connect(&emulator).await;
        stream.write_all(b"GET /content/large HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();
        stalled.push(stream);
    }
    let asked = raw(&emulator, "GET /content/absent HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n");
    let reply = tokio::time::timeout(Duration::from_secs(30), asked).await.expect("before they time out");
    assert_eq!(code(&reply), "not_found");
}

#[tokio::test]
async fn idle_connections_make_room_for_others() {
    const MOST: usize = 20;
    let emulator = emulator(|server| server.connections_max = MOST).await;
    let mut idle = Vec::new();
    for number in 0..300 {
        let mut stream = connect(&emulator).await;
        if number % 2 == 0 {
            stream.write_all(b"GET /content/absent HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();
        }
        idle.push(stream.into_std().unwrap());
    }
    let reply = raw(&emulator, "GET /content/absent HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").await;
    assert_eq!(code(&reply), "not_found");
    let is_open = |stream: &mut std::net::TcpStream| loop {
        match stream.read(&mut [0; 1024]) {
            Ok(0) => return false,
            Ok(_) => {}
            Err(error) => return error.kind() == std::io::ErrorKind::WouldBlock,
        }
    };
    let open = idle.iter_mut().filter_map(|stream| is_open(stream).then_some(())).count();
    assert!(open <= MOST, "{open} are open");
}

/// Half a head is no request: it is not waited for while others need the room.
#[tokio::test(flavor = "multi_thread")]
async fn half_a_head_makes_room_for_others() {
    let emulator = emulator(|server| server.connections_max = 20).await;
    let mut half = Vec::new();
    for _ in 0..45 {
        let mut stream = connect(&emulator).await;
        stream.write_all(b"GET /content/abs").await.unwrap();
        half.push(stream);
    }
    let asked = raw(&emulator, "GET /content/absent HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n");
    let reply =
        tokio::time::timeout(Duration::from_secs(30), asked).await.expect("long before they time out");
    assert_eq!(code(&reply), "not_found");
}

/// The same where the client never says anything. By itself a handshake ends after ten seconds.
#[tokio::test(flavor = "multi_thread")]
async fn half_a_handshake_makes_room_for_others() {
    let emulator = emulator(|server| server.connections_max = 20).await;
    let made =
        Names { store_id: "bad".to_owned(), more: Vec::new() }.certify(SystemClock::new().now()).unwrap();
    let identity = TlsIdentity::from_pem(made.certificate.as_bytes(), made.key.as_bytes()).unwrap();
    let tls = emulator.server().listen_tls(([127, 0, 0, 1], 0).into(), &identity).await.unwrap();
    let mut silent = Vec::new();
    for _ in 0..45 {
        silent.push(TcpStream::connect(tls).await.unwrap());
    }
    let asked = raw(&emulator, "GET /content/absent HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n");
    let reply = tokio::time::timeout(Duration::from_secs(8), asked).await.expect("before they time out");
    assert_eq!(code(&reply), "not_found");
}
