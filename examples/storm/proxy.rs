//! A proxy before one store for one process: what is lost, late, slow or cut on the way is drawn here.
//!
//! The library's own [`migrate::testing::fault_proxy`] breaks chosen requests to DynamoDB. This one draws what happens to
//! each request of either store from the seed, and can deliver what its sender has given up: a request that has arrived
//! here goes on by itself, whatever becomes of the connection or the process it came from.

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use http::request::Parts;
use http::{Method, Request, Response, StatusCode, Uri, header};
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::{TokioExecutor, TokioIo};
use migrate::clock::Clock as _;
use tokio::net::TcpListener;
use tokio::sync::{oneshot, watch};
use tokio::task::JoinSet;
use tokio_util::task::TaskTracker;

use crate::log::Log;
use crate::weather::{Cut, Fate, Weather};

/// What keys of notes and of sessions begin with.
const NOTED: [&str; 2] = ["\"N#", "\"S#"];

/// Which store is behind a proxy.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Store {
    Blob,
    DynamoDb,
}

/// A running proxy. It stops when it is dropped.
pub(crate) struct Proxy {
    pub(crate) link: Arc<Link>,
    _serving: JoinSet<()>,
}

/// The way of one process to one store.
pub(crate) struct Link {
    /// Such as `blue → Blob`.
    name: String,
    store: Store,
    upstream: String,
    address: SocketAddr,
    weather: watch::Sender<Weather>,
    /// Draws the fate of the request of this number.
    seed: u64,
    count: AtomicU64,
    client: Client<HttpConnector, Full<Bytes>>,
    log: Arc<Log>,
    /// What is under way, also what nobody waits for.
    under_way: TaskTracker,
    stale: Mutex<Option<Stale>>,
    /// Who wants to know of the next note that names something.
    awaited: Mutex<Option<(String, oneshot::Sender<()>)>>,
}

/// A planted defect: reads of a blob are answered as they were for a while.
struct Stale {
    name: String,
    until: Duration,
    replies: Vec<(String, Response<Bytes>)>,
}

impl Proxy {
    /// Starts in front of `upstream`, a URL such as `http://127.0.0.1:8000`.
    pub(crate) async fn start(
        name: String,
        (store, upstream): (Store, &str),
        seed: u64,
        log: Arc<Log>,
    ) -> io::Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        let link = Arc::new(Link {
            name,
            store,
            upstream: upstream.trim_start_matches("http://").to_owned(),
            address: listener.local_addr()?,
            weather: watch::Sender::new(Weather::default()),
            seed,
            count: AtomicU64::new(0),
            client: Client::builder(TokioExecutor::new()).build_http(),
            log,
            under_way: TaskTracker::new(),
            stale: Mutex::default(),
            awaited: Mutex::default(),
        });
        let mut serving = JoinSet::new();
        serving.spawn(serve(listener, Arc::clone(&link)));
        Ok(Self { link, _serving: serving })
    }
}

async fn serve(listener: TcpListener, link: Arc<Link>) {
    let mut connections = JoinSet::new();
    while let Ok((stream, _)) = listener.accept().await {
        stream.set_nodelay(true).ok();
        let link = Arc::clone(&link);
        connections.spawn(async move {
            let service = service_fn(move |request| Arc::clone(&link).serve(request));
            // A broken connection is what this is for.
            let http = hyper::server::conn::http1::Builder::new();
            http.serve_connection(TokioIo::new(stream), service).await.ok();
        });
        while connections.try_join_next().is_some() {}
    }
}

impl Link {
    /// Its URL.
    pub(crate) fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    pub(crate) fn set(&self, change: impl FnOnce(&mut Weather)) {
        self.weather.send_modify(change);
    }

    /// Waits until nothing is under way any more.
    pub(crate) async fn quiet(&self) {
        self.under_way.close();
        self.under_way.wait().await;
        self.under_way.reopen();
    }

    /// Waits until a note is on its way to DynamoDB that names this.
    pub(crate) async fn names(&self, name: &str) {
        let (told, tells) = oneshot::channel();
        *self.awaited.lock().unwrap_or_else(PoisonError::into_inner) = Some((name.to_owned(), told));
        tells.await.ok();
    }

    fn tell(&self, body: &Bytes) {
        let mut awaited = self.awaited.lock().unwrap_or_else(PoisonError::into_inner);
        let says = |text: &str| body.windows(text.len()).any(|part| part == text.as_bytes());
        // A row of a note, in a transaction that looks at a session's row.
        if awaited.as_ref().is_some_and(|(name, _)| says(name) && NOTED.into_iter().all(says))
            && let Some((_, told)) = awaited.take()
        {
            // Who wanted to know may not wait any more.
            told.send(()).ok();
        }
    }

    /// From now on reads of this blob are answered as the next one is.
    pub(crate) fn plant_stale(&self, name: &str, until: Duration) {
        let stale = Stale { name: name.to_owned(), until, replies: Vec::new() };
        *self.stale.lock().unwrap_or_else(PoisonError::into_inner) = Some(stale);
    }

    /// An error ends the connection without a reply.
    async fn serve(self: Arc<Self>, request: Request<Incoming>) -> io::Result<Response<Full<Bytes>>> {
        let (parts, body) = request.into_parts();
        let body = body.collect().await.map_err(io::Error::other)?.to_bytes();
        let (reply, replied) = oneshot::channel();
        let link = Arc::clone(&self);
        self.under_way.spawn(async move {
            // Whoever asked may be gone.
            reply.send(link.exchange(parts, body).await).ok();
        });
        let reply = replied.await.map_err(io::Error::other)??;
        Ok(reply.map(Full::new))
    }

    async fn exchange(self: &Arc<Self>, parts: Parts, body: Bytes) -> io::Result<Response<Bytes>> {
        let number = self.count.fetch_add(1, Ordering::Relaxed);
        let (asked, writes) = (self.asked(&parts, &body), self.writes(&parts));
        if writes && self.store == Store::DynamoDb {
            self.tell(&body);
        }
        let weather = self.weather.borrow().clone();
        if let Some(cut) = weather.cut {
            return self.cut_off(cut).await;
        }
        let heads = self.store == Store::Blob && parts.method == Method::GET && asked.contains("?url=");
        let signed = is_signed(&parts);
        let rates = if signed { weather.rates.of_signed() } else { weather.rates };
        let fate = rates.draw(self.seed, number, writes, heads);
        if fate != Fate::Passes {
            self.log.request(&self.name, &asked, fate, writes);
        }
        let half = weather.latency.draw(self.seed, number) / 2;
        self.log.clock.sleep(half).await;
        match fate {
            Fate::Passes => {}
            Fate::Lost => return Err(lost()),
            Fate::Failed => return Ok(failed()),
            Fate::Held(time) => self.log.clock.sleep(time).await,
            Fate::Late(time) => {
                // Its sender is told at once, and it is delivered all the same.
                let link = Arc::clone(self);
                self.under_way.spawn(async move {
                    link.log.clock.sleep(time).await;
                    link.forward(parts, body).await.ok();
                });
                return Err(lost());
            }
            Fate::ReplyLost => {
                self.forward(parts, body).await?;
                return Err(lost());
            }
            Fate::Slow(time) => {
                let reply = self.forward(parts, body).await;
                self.log.clock.sleep(time).await;
                return self.back(reply, half).await;
            }
        }
        if let Some(reply) = self.stale(&asked, None) {
            return Ok(reply);
        }
        let reply = self.forward(parts, body).await;
        let reply = self.back(reply, half).await?;
        Ok(self.stale(&asked, Some(&reply)).unwrap_or(reply))
    }

    /// Gives a reply back, unless the way was cut meanwhile.
    async fn back(&self, reply: io::Result<Response<Bytes>>, half: Duration) -> io::Result<Response<Bytes>> {
        self.log.clock.sleep(half).await;
        let cut = self.weather.borrow().cut;
        match cut {
            None => reply,
            Some(cut) => self.cut_off(cut).await,
        }
    }

    async fn cut_off(&self, cut: Cut) -> io::Result<Response<Bytes>> {
        if cut == Cut::Silent {
            let mut weather = self.weather.subscribe();
            weather.wait_for(|weather| weather.cut.is_none()).await.ok();
        }
        Err(lost())
    }

    async fn forward(&self, parts: Parts, body: Bytes) -> io::Result<Response<Bytes>> {
        let told = (self.store == Store::Blob && self.writes(&parts)).then(|| self.asked(&parts, &body));
        let signed = is_signed(&parts);
        let reply = self.client.request(self.request(parts, body)?).await.map_err(io::Error::other)?;
        let (mut parts, body) = reply.into_parts();
        let mut body = body.collect().await.map_err(io::Error::other)?.to_bytes();
        if let Some(asked) = told {
            self.log.landed(format!("{}: {asked} → {}", self.name, parts.status.as_u16()));
            if signed && parts.status == StatusCode::FORBIDDEN {
                self.log.count("refused after its deadline");
            }
        }
        if self.store == Store::Blob && is_json(&parts.headers) {
            // The store's URLs name the store: followed, they would lead past this proxy.
            let text = String::from_utf8_lossy(&body);
            body = text.replace(&format!("http://{}/", self.upstream), &format!("{}/", self.url())).into();
        }
        parts.headers.remove(header::TRANSFER_ENCODING);
        parts.headers.insert(header::CONTENT_LENGTH, body.len().into());
        Ok(Response::from_parts(parts, body))
    }

    fn request(&self, mut parts: Parts, body: Bytes) -> io::Result<Request<Full<Bytes>>> {
        let path = parts.uri.path_and_query().map_or("/", |path| path.as_str());
        let uri: Uri = format!("http://{}{path}", self.upstream).parse().map_err(io::Error::other)?;
        parts.uri = uri;
        for name in [header::HOST, header::TRANSFER_ENCODING, header::CONNECTION] {
            parts.headers.remove(name);
        }
        parts.headers.insert(header::CONTENT_LENGTH, body.len().into());
        Ok(Request::from_parts(parts, Full::new(body)))
    }

    /// What a request asks for, in a few words.
    fn asked(&self, parts: &Parts, body: &Bytes) -> String {
        if self.store == Store::DynamoDb {
            return action(parts).to_owned();
        }
        let path = parts.uri.path_and_query().map_or("", |path| path.as_str());
        let path = path.replace("%2F", "/");
        if is_signed(parts) {
            // The rest is the signature, and what is the same of all.
            let (name, condition) = (argument(&path, "pathname"), argument(&path, "vercel-blob-if-match"));
            let condition = condition.map_or_else(|| " if nothing".to_owned(), |etag| format!(" if {etag}"));
            return format!("{} signed {}{condition}", parts.method, name.unwrap_or_default());
        }
        // A delete names its blobs in its body.
        let names = if path.ends_with("/delete") { String::from_utf8_lossy(body) } else { "".into() };
        let expected = parts.headers.get("x-if-match").and_then(|etag| etag.to_str().ok());
        let creates = parts.headers.get("x-allow-overwrite").is_some_and(|allowed| allowed == "0");
        let expected = match expected {
            Some(etag) => format!(" if {etag}"),
            None if creates => " if nothing".to_owned(),
            None => String::new(),
        };
        format!("{} {path}{names}{expected}", parts.method)
    }

    fn writes(&self, parts: &Parts) -> bool {
        match self.store {
            Store::Blob => parts.method != Method::GET && parts.method != Method::HEAD,
            Store::DynamoDb => {
                let action = action(parts);
                let verbs = ["Put", "Update", "Delete", "TransactWrite", "BatchExecute"];
                verbs.iter().any(|verb| action.starts_with(verb))
            }
        }
    }

    /// The reply of a read that is planted to be stale; `fresh` is what it would be.
    fn stale(&self, asked: &str, fresh: Option<&Response<Bytes>>) -> Option<Response<Bytes>> {
        let mut stale = self.stale.lock().unwrap_or_else(PoisonError::into_inner);
        let planted = stale.as_mut()?;
        if self.log.clock.monotonic() > planted.until {
            *stale = None;
            return None;
        }
        if !asked.starts_with("GET") || !asked.contains(&planted.name) {
            return None;
        }
        let known = planted.replies.iter().find(|(request, _)| request == asked);
        let known = known.map(|(_, reply)| reply.clone());
        if let (None, Some(fresh)) = (&known, fresh) {
            planted.replies.push((asked.to_owned(), fresh.clone()));
        }
        known
    }
}

/// Whether its own URL speaks for it, with an end that the store sees to.
fn is_signed(parts: &Parts) -> bool {
    parts.uri.query().is_some_and(|query| query.contains("vercel-blob-signature="))
}

fn argument(path: &str, name: &str) -> Option<String> {
    let (_, query) = path.split_once('?')?;
    let mut arguments = form_urlencoded::parse(query.as_bytes());
    arguments.find(|(key, _)| key == name).map(|(_, value)| value.into_owned())
}

/// What a request to DynamoDB does.
fn action(parts: &Parts) -> &str {
    let target = parts.headers.get("x-amz-target").and_then(|target| target.to_str().ok());
    target.and_then(|target| target.rsplit('.').next()).unwrap_or("?")
}

fn is_json(headers: &http::HeaderMap) -> bool {
    headers.get(header::CONTENT_TYPE).is_some_and(|kind| kind.as_bytes().starts_with(b"application/json"))
}

fn lost() -> io::Error {
    io::ErrorKind::ConnectionReset.into()
}

fn failed() -> Response<Bytes> {
    let body = r#"{"error":{"code":"internal_server_error","message":"planted"}}"#;
    let mut reply = Response::new(Bytes::from_static(body.as_bytes()));
    *reply.status_mut() = StatusCode::INTERNAL_SERVER_ERROR;
    reply.headers_mut().insert(header::CONTENT_TYPE, http::HeaderValue::from_static("application/json"));
    reply.headers_mut().insert(header::CONTENT_LENGTH, body.len().into());
    reply
}
