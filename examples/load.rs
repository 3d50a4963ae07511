//! Load for a Blob store, for a gateway before it, or for DynamoDB, and how long its requests took:
//! `cargo run --release --example load -- put=http://127.0.0.1:8789/api/blob --connections 16 --count 10000`.
//!
//! Several targets take turns, request by request, so that what else the machine does meets all alike. It takes
//! little itself, so that it can share two cores with what it measures. It prints a line of JSON for each target,
//! and ends at the first request that is refused. `docs/measure-gateway` runs it.
#![expect(clippy::print_stdout, reason = "a program that reports what it measured")]

use std::str::FromStr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use aws_sdk_dynamodb::Client;
use aws_sdk_dynamodb::config::{BehaviorVersion, Config, Credentials, Region};
use aws_sdk_dynamodb::types::AttributeValue;
use bytes::Bytes;
use clap::{Parser, ValueEnum};
use http::request::Builder;
use http::{Method, Request, Uri, header};
use http_body_util::{BodyExt as _, Full};
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper_util::rt::TokioIo;
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use serde_json::{Value, json};
use tokio::net::TcpStream;
use tokio::task::JoinSet;

const BLOB_BYTES: usize = 1024;
/// About as many as an intent has.
const ROW_BYTES: usize = 300;
const PART_BYTES: usize = 8 << 20;

#[derive(Clone, Copy, PartialEq, ValueEnum)]
enum Operation {
    /// Puts blobs of 1 KB
    Put,
    /// Asks for their heads
    Head,
    /// Reads them
    Get,
    /// Puts rows of 300 bytes into a table of DynamoDB by the AWS SDK, each where there is none
    Row,
    /// One multipart upload of `--count` parts of 8 MiB
    Multipart,
}

/// What is asked, and the base URL: of the API, of the content, or of DynamoDB.
#[derive(Clone)]
struct Target {
    operation: Operation,
    url: Uri,
}

impl FromStr for Target {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> anyhow::Result<Self> {
        let (operation, url) = text.split_once('=').context("a target is OPERATION=URL")?;
        let operation = Operation::from_str(operation, true).map_err(anyhow::Error::msg)?;
        Ok(Self { operation, url: url.parse()? })
    }
}

#[derive(Parser)]
struct Arguments {
    /// `put`, `head`, `get`, `row` or `multipart`, `=`, and the base URL
    #[arg(required = true)]
    targets: Vec<Target>,
    /// What pathnames begin with; for an upload, its pathname
    #[arg(long, default_value = "r/")]
    prefix: String,
    /// The table of rows
    #[arg(long, default_value = "perf-migration")]
    table: String,
    /// So many pathnames, again and again; each request has its own by default
    #[arg(long)]
    names: Option<u32>,
    #[arg(long, default_value_t = 1)]
    connections: usize,
    /// Requests to each target
    #[arg(long)]
    count: u32,
    /// So many requests a second to each target; as many as go by default
    #[arg(long)]
    rate: Option<u32>,
    #[arg(long, env = "BLOB_READ_WRITE_TOKEN", hide_env_values = true, default_value = "")]
    token: String,
}

/// What all connections share.
struct Load {
    arguments: Arguments,
    began: Instant,
    next: AtomicU32,
    /// The multipart upload's headers, and what all its parts hold.
    upload: Vec<(&'static str, String)>,
    part: Bytes,
}

enum Connection {
    Http(SendRequest<Full<Bytes>>),
    Sdk(Client),
}

struct Sent {
    target: usize,
    number: u32,
    took: Duration,
    reply: Bytes,
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> anyhow::Result<()> {
    let arguments = Arguments::parse();
    let multipart = arguments.targets[0].operation == Operation::Multipart;
    let (began, next) = (Instant::now(), AtomicU32::new(0));
    let mut load = Load { arguments, began, next, upload: Vec::new(), part: Bytes::new() };
    if multipart {
        load.begin_upload().await?;
    }
    let load = Arc::new(load);
    let mut sent = load.run().await?;
    if multipart {
        load.complete_upload(&sent).await?;
    }
    let seconds = began.elapsed().as_secs_f64();
    sent.sort_unstable_by_key(|sent| sent.took);
    let per_second = f64::from(load.arguments.count) / seconds;
    for target in 0..load.arguments.targets.len() {
        let ms: Vec<f64> = sent
            .iter()
            .filter(|sent| sent.target == target)
            .map(|sent| sent.took.as_secs_f64() * 1e3)
            .collect();
        let rank = |hundredths: usize| ms.get(ms.len() * hundredths / 100).or(ms.last());
        let report = json!({
            "seconds": seconds, "per_second": per_second,
            "p50_ms": rank(50), "p99_ms": rank(99), "max_ms": rank(100),
        });
        println!("{report}");
    }
    Ok(())
}

impl Load {
    /// Sends all requests, over all connections.
    async fn run(self: &Arc<Self>) -> anyhow::Result<Vec<Sent>> {
        let mut connections = JoinSet::new();
        for _ in 0..self.arguments.connections {
            let load = Arc::clone(self);
            connections.spawn(async move { load.connection().await });
        }
        let mut all = Vec::new();
        while let Some(sent) = connections.join_next().await {
            all.extend(sent??);
        }
        Ok(all)
    }

    /// Sends one request after the other, each on the connection to its target.
    async fn connection(&self) -> anyhow::Result<Vec<Sent>> {
        let Arguments { targets, count, rate, .. } = &self.arguments;
        let all = u32::try_from(targets.len())?;
        let mut connections = Vec::new();
        for target in targets {
            connections.push(match target.operation {
                Operation::Row => Connection::Sdk(sdk(&target.url)),
                _ => Connection::Http(connect(&target.url).await?),
            });
        }
        let mut replies = Vec::new();
        loop {
            let turn = self.next.fetch_add(1, Ordering::Relaxed);
            let (number, target) = (turn / all, (turn % all) as usize);
            if number >= *count {
                return Ok(replies);
            }
            if let Some(rate) = rate {
                let due = self.began + Duration::from_secs(1) * turn / (rate * all);
                tokio::time::sleep_until(due.into()).await;
            }
            let (sent, reply) = match &mut connections[target] {
                Connection::Http(connection) => {
                    let request = self.request(&targets[target], turn, number)?;
                    let sent = Instant::now();
                    (sent, send(connection, request).await?)
                }
                Connection::Sdk(client) => {
                    let sent = Instant::now();
                    self.put_row(client, number).await?;
                    (sent, Bytes::new())
                }
            };
            let took = sent.elapsed();
            let reply = if targets[target].operation == Operation::Multipart { reply } else { Bytes::new() };
            replies.push(Sent { target, number, took, reply });
        }
    }

    fn request(&self, target: &Target, turn: u32, number: u32) -> anyhow::Result<Request<Full<Bytes>>> {
        let Arguments { prefix, names, .. } = &self.arguments;
        let name = format!("{prefix}{}.json", names.map_or(turn, |names| number % names));
        let request = match target.operation {
            Operation::Put => {
                let options = [("x-vercel-blob-access", "public"), ("x-allow-overwrite", "1")];
                let request = self.builder(target, Method::PUT, &format!("/?pathname={}", encode(&name)));
                with(request, options).body(Full::from(text(number, BLOB_BYTES)))
            }
            Operation::Head => {
                self.builder(target, Method::GET, &format!("/?url={}", encode(&name))).body(Full::default())
            }
            Operation::Get => self.builder(target, Method::GET, &format!("/{name}")).body(Full::default()),
            Operation::Row => unreachable!("invariant: rows are put by the SDK"),
            Operation::Multipart => {
                let number = [("x-mpu-part-number", (number + 1).to_string())];
                with(self.step("upload"), number).body(Full::from(self.part.clone()))
            }
        };
        Ok(request?)
    }

    async fn put_row(&self, client: &Client, number: u32) -> anyhow::Result<()> {
        let text_of = |text: String| AttributeValue::S(text);
        let put = client
            .put_item()
            .table_name(&self.arguments.table)
            .item("pk", text_of("I#load".to_owned()))
            .item("sk", text_of(format!("{}-{number}", std::process::id())))
            .item("text", text_of(text(number, ROW_BYTES)))
            .condition_expression("attribute_not_exists(pk)");
        put.send().await?;
        Ok(())
    }

    fn builder(&self, target: &Target, method: Method, rest: &str) -> Builder {
        let host = target.url.authority().map_or("", |authority| authority.as_str());
        let uri = format!("{}{rest}", target.url.path().trim_end_matches('/'));
        let request = Request::builder().method(method).uri(uri).header(header::HOST, host);
        request.header(header::AUTHORIZATION, format!("Bearer {}", self.arguments.token))
    }

    /// A step of the multipart upload.
    fn step(&self, action: &str) -> Builder {
        let Arguments { targets, prefix, .. } = &self.arguments;
        let request = self.builder(&targets[0], Method::POST, &format!("/mpu?pathname={}", encode(prefix)));
        let options = [("x-vercel-blob-access", "public"), ("x-mpu-action", action)];
        let upload = self.upload.iter().map(|(name, value)| (*name, value));
        with(with(request, options), upload)
    }

    /// Sends what is no part of the load.
    async fn send_once(&self, request: Request<Full<Bytes>>) -> anyhow::Result<Bytes> {
        send(&mut connect(&self.arguments.targets[0].url).await?, request).await
    }

    async fn begin_upload(&mut self) -> anyhow::Result<()> {
        let reply = self.send_once(self.step("create").body(Full::default())?).await?;
        let reply: Value = serde_json::from_slice(&reply)?;
        let (id, key) = (reply["uploadId"].as_str(), reply["key"].as_str());
        let (id, key) = id.zip(key).context("the upload has no id or no key")?;
        self.upload = vec![("x-mpu-upload-id", id.to_owned()), ("x-mpu-key", encode(key))];
        self.part = text(0, PART_BYTES).into();
        Ok(())
    }

    async fn complete_upload(&self, sent: &[Sent]) -> anyhow::Result<()> {
        let part = |sent: &Sent| {
            let reply: Value = serde_json::from_slice(&sent.reply)?;
            anyhow::Ok(json!({"partNumber": sent.number + 1, "etag": reply["etag"]}))
        };
        let parts: Vec<Value> = sent.iter().map(part).collect::<Result<_, _>>()?;
        let body = Full::from(json!(parts).to_string());
        self.send_once(self.step("complete").body(body)?).await?;
        Ok(())
    }
}

async fn connect(url: &Uri) -> anyhow::Result<SendRequest<Full<Bytes>>> {
    let authority = url.authority().context("the URL names no host")?;
    let stream = TcpStream::connect(authority.as_str()).await?;
    stream.set_nodelay(true)?;
    let (sender, connection) = handshake(TokioIo::new(stream)).await?;
    tokio::spawn(connection);
    Ok(sender)
}

fn sdk(url: &Uri) -> Client {
    let config = Config::builder()
        .behavior_version(BehaviorVersion::latest())
        .endpoint_url(url.to_string())
        .region(Region::new("us-east-1"))
        .credentials_provider(Credentials::new("local", "local", None, None, "load"));
    Client::from_conf(config.build())
}

fn with<V: AsRef<str>>(request: Builder, headers: impl IntoIterator<Item = (&'static str, V)>) -> Builder {
    headers.into_iter().fold(request, |request, (name, value)| request.header(name, value.as_ref()))
}

fn encode(text: &str) -> String {
    utf8_percent_encode(text, NON_ALPHANUMERIC).to_string()
}

/// JSON of this many bytes that does not compress to nothing, and is different for each number.
fn text(number: u32, bytes: usize) -> String {
    let mut text = format!(r#"{{"number":{number},"text":""#);
    let mut digits = u64::from(number);
    while text.len() + 18 <= bytes {
        digits = digits.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        text.push_str(&format!("{digits:016x}"));
    }
    text.extend(std::iter::repeat_n('x', bytes - 2 - text.len()));
    text.push_str(r#""}"#);
    text
}

/// The body of the reply.
async fn send(
    connection: &mut SendRequest<Full<Bytes>>,
    request: Request<Full<Bytes>>,
) -> anyhow::Result<Bytes> {
    connection.ready().await?;
    let reply = connection.send_request(request).await?;
    let status = reply.status();
    let body = reply.into_body().collect().await?.to_bytes();
    ensure!(status.is_success(), "{status}: {}", String::from_utf8_lossy(&body));
    Ok(body)
}
