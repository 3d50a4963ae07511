//! Serves any [`super::BlobStore`] over the Vercel Blob HTTP API, so that the official SDKs can't tell
//! it from the service.
//!
//! On every listener, over TLS or not, are the API, under a base path, and the content of the blobs: by the
//! `Host` of the canonical content hosts, and under `/content/`. It owns what HTTP asks of a server (limits, tokens,
//! ranges, error bodies); what a write means is the store's. Every refusal is the API's JSON, since the
//! SDKs take anything else for an outage and try again for half an hour.
//!
//! [`route`] is where a request arrives.

mod api;
mod auth;
mod callback;
mod connection;
mod content;
mod grant;
mod head;
mod incoming;
mod keys;
mod multipart;
mod oidc;
mod options;
mod pace;
mod reply;
mod route;
mod signed;
mod tls;

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use http::HeaderMap;
use secrecy::SecretString;
use tokio::net::TcpListener;
use tokio::sync::{Notify, Semaphore};
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

pub use self::connection::afterwards;
use self::keys::Keys;
pub use self::oidc::{KeySet, Oidc};
pub use self::tls::TlsIdentity;
use super::client::outbound::Outbound;
use super::faults::Faults;
use super::location;
use super::store::{Access, BlobStore};
use super::types::ListedBlob;
use crate::clock::Clock;
use crate::error::{Error, ErrorKind, Result};

/// The path of content URLs of the local form.
const CONTENT_PATH: &str = "/content/";
/// How long the log is not told again that there are as many connections as may be.
const CROWD_PAUSE: Duration = Duration::from_secs(60);

/// The form of the URLs in replies.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum UrlForm {
    /// As the store says them: on the canonical content hosts. The official SDKs accept no other in `get()`
    /// (and the Python one in no call).
    Canonical,
    /// On this server, so that a plain fetch works.
    #[default]
    Local,
}

/// How a store is served.
#[derive(Debug, Clone)]
pub struct ServerConfig {
    /// The read-write token that gives access; it also signs client tokens.
    pub token: SecretString,
    /// The store's id; requests that name another are refused.
    pub store_id: String,
    /// The OIDC tokens that give access too.
    pub oidc: Option<Oidc>,
    /// The origins that callbacks go to, and that images are read from.
    pub allowed_origins: Vec<String>,
    /// How long to wait before a callback is sent again for the first time; each wait is twice the last.
    pub callback_pause: Duration,
    /// Who may read content.
    pub access: Access,
    /// The form of the URLs in replies.
    pub url_form: UrlForm,
    /// Where clients reach this server, without a trailing slash; the bound address by default.
    pub origin: Option<String>,
    /// Where the API is, without a trailing slash.
    pub base_path: String,
    /// The longest JSON body, in bytes.
    pub json_bytes_max: usize,
    /// The most connections at a time; idle ones are closed for others.
    pub connections_max: usize,
    /// How long a request's headers may take, and a connection may be idle.
    pub header_timeout: Duration,
    /// How long a client may send nothing of a body that it began, and take nothing of a reply. Of each second that
    /// it is waited for, a kilobyte pays; so a slow one is ended later than a silent one.
    pub stall_timeout: Duration,
    /// The same where there is no place left for others; there it takes 16 kilobytes.
    pub crowd_timeout: Duration,
    /// How long requests may take to finish when the server shuts down.
    pub shutdown_grace: Duration,
    /// Said in every reply.
    pub extra_headers: HeaderMap,
    /// Whether ETags of content are weakened where the client takes compressed replies, as the service's
    /// cache does. A weak ETag fails every condition.
    pub weak_etags: bool,
    /// Where given, connections end without a reply as its switches say.
    pub faults: Option<Faults>,
}

impl ServerConfig {
    /// The defaults for this token; the store id is the one in the token, else `local`.
    #[must_use]
    pub fn new(token: SecretString) -> Self {
        use secrecy::ExposeSecret as _;

        let store_id = location::store_id_of_token(token.expose_secret()).unwrap_or("local").to_owned();
        Self {
            token,
            store_id,
            oidc: None,
            allowed_origins: Vec::new(),
            callback_pause: callback::PAUSE,
            access: Access::Public,
            url_form: UrlForm::Local,
            origin: None,
            base_path: "/api/blob".to_owned(),
            json_bytes_max: 16 << 20,
            connections_max: 1000,
            header_timeout: Duration::from_secs(60),
            stall_timeout: super::pace::STALL,
            crowd_timeout: super::pace::STALL_CROWDED,
            shutdown_grace: Duration::from_secs(10),
            extra_headers: HeaderMap::new(),
            weak_etags: false,
            faults: None,
        }
    }
}

/// What every request needs.
struct Site {
    store: Arc<dyn BlobStore>,
    config: ServerConfig,
    origin: String,
    clock: Arc<dyn Clock>,
    /// One for each connection, of whatever listener.
    permits: Arc<Semaphore>,
    /// One for each body that is waited for: fewer than connections, so that there is always room for requests
    /// without one.
    uploads: Arc<Semaphore>,
    /// Told to all connections when there is no room for another one.
    crowded: Notify,
    /// When the log was last told so, by the monotonic clock.
    told_of_crowd: Mutex<Option<Duration>>,
    keys: Keys,
    outbound: Outbound,
    /// Connections, and callbacks on their way.
    tasks: TaskTracker,
    /// How many requests came that their clients gave no name.
    nameless: AtomicU64,
    /// Bytes that came in for uploads whose client token limits them.
    uploaded: Mutex<HashMap<String, Arc<Mutex<multipart::Received>>>>,
}

impl Site {
    fn now_ms(&self) -> u64 {
        u64::try_from(self.clock.now().as_millisecond()).unwrap_or(0)
    }

    /// A number for a request that its client gave no name.
    fn next_request(&self) -> u64 {
        self.nameless.fetch_add(1, Ordering::Relaxed) + 1
    }

    /// Whether the log is to be told that there is no room: once in a while, however many come.
    fn is_to_tell_of_crowd(&self) -> bool {
        let now = self.clock.monotonic();
        let mut told = self.told_of_crowd.lock().unwrap_or_else(PoisonError::into_inner);
        let is_news = told.is_none_or(|at| now.saturating_sub(at) >= CROWD_PAUSE);
        if is_news {
            *told = Some(now);
        }
        is_news
    }

    /// Writes the URLs of a blob in the form that replies have here.
    fn place(&self, blob: &mut ListedBlob) {
        if self.config.url_form == UrlForm::Local {
            blob.url = format!("{}{CONTENT_PATH}{}", self.origin, location::encode(&blob.pathname));
            blob.download_url = location::download_url(&blob.url);
        }
    }
}

/// A running server. It stops when it is shut down or dropped.
#[derive(Debug)]
pub struct Server {
    local_addr: SocketAddr,
    stop: CancellationToken,
    site: Arc<Site>,
}

impl std::fmt::Debug for Site {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Site").field("config", &self.config).finish_non_exhaustive()
    }
}

impl Server {
    /// Binds the address (port 0 takes a free one) and serves the store.
    ///
    /// # Errors
    /// `Usage` where the address can't be bound, or an allowed origin is none.
    pub async fn bind(
        addr: SocketAddr,
        store: Arc<dyn BlobStore>,
        config: ServerConfig,
        clock: Arc<dyn Clock>,
    ) -> Result<Self> {
        let (listener, local_addr) = listen(addr).await?;
        let origin = config.origin.clone().unwrap_or_else(|| format!("http://{local_addr}"));
        let permits = Arc::new(Semaphore::new(config.connections_max));
        let uploads = Arc::new(Semaphore::new(config.connections_max - config.connections_max / 4));
        let site = Arc::new(Site {
            keys: Keys::of(&config.token),
            outbound: Outbound::new(&config.allowed_origins)?,
            tasks: TaskTracker::new(),
            nameless: AtomicU64::new(0),
            store,
            config,
            origin,
            clock,
            permits,
            uploads,
            crowded: Notify::new(),
            told_of_crowd: Mutex::default(),
            uploaded: Mutex::default(),
        });
        let server = Self { local_addr, stop: CancellationToken::new(), site };
        server.accept(listener, None);
        Ok(server)
    }

    /// Serves the same on another address over TLS, within the same limits, and returns what was bound.
    /// Clients that have the canonical content hosts resolved to it read content there.
    ///
    /// # Errors
    /// `Usage` where the address can't be bound.
    pub async fn listen_tls(&self, addr: SocketAddr, identity: &TlsIdentity) -> Result<SocketAddr> {
        let (listener, local_addr) = listen(addr).await?;
        self.accept(listener, Some(identity.acceptor()));
        Ok(local_addr)
    }

    fn accept(&self, listener: TcpListener, tls: Option<TlsAcceptor>) {
        let (site, stop) = (self.site.clone(), self.stop.clone());
        self.site.tasks.spawn(connection::accept(listener, tls, site, stop));
    }

    /// The bound address.
    #[must_use]
    pub const fn local_addr(&self) -> SocketAddr {
        self.local_addr
    }

    /// Where clients reach it, without a trailing slash.
    #[must_use]
    pub fn origin(&self) -> &str {
        &self.site.origin
    }

    /// The URL of the API: what clients have in `VERCEL_BLOB_API_URL`.
    #[must_use]
    pub fn base_url(&self) -> String {
        format!("{}{}", self.site.origin, self.site.config.base_path)
    }

    /// The key that verifies callbacks to applications that signed URLs: what they have in
    /// `BLOB_WEBHOOK_PUBLIC_KEY`.
    #[must_use]
    pub fn webhook_public_key(&self) -> String {
        self.site.keys.webhook_public_key()
    }

    /// Takes no more connections and waits until the requests in flight are answered and callbacks are
    /// sent, for as long as the configured grace.
    pub async fn shutdown(self) {
        self.stop.cancel();
        self.site.tasks.close();
        tokio::select! {
            () = self.site.tasks.wait() => {}
            () = self.site.clock.sleep(self.site.config.shutdown_grace) => {
                tracing::warn!(open = self.site.tasks.len(), "requests were still open when the server stopped");
            }
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

async fn listen(addr: SocketAddr) -> Result<(TcpListener, SocketAddr)> {
    let bound = async {
        let listener = TcpListener::bind(addr).await?;
        let local_addr = listener.local_addr()?;
        Ok((listener, local_addr))
    };
    bound.await.map_err(|error: std::io::Error| {
        let hint = match error.kind() {
            std::io::ErrorKind::AddrInUse => {
                "another process listens there: stop it, or choose another port; port 0 takes a free one"
            }
            std::io::ErrorKind::AddrNotAvailable => "no interface of this machine has that address",
            _ => "choose another address",
        };
        Error::new(ErrorKind::Usage, "listen for blob requests")
            .key(addr)
            .message("the address can't be used")
            .hint(hint)
            .source(error)
    })
}
