//! The HTTP client of a Vercel Blob store; the only module that may use reqwest.
//!
//! [`HttpBlob`] speaks the wire contract of `@vercel/blob` (API version 12). It paces itself to the plan's
//! rates, repeats only what is safe to repeat, and gives the token to nobody but the store: `origin.rs`
//! says where it may go. It keeps nothing between calls but the place of the store's content. It never
//! reads the environment; reqwest reads the proxy variables, which count for remote stores only.

mod calls;
mod content;
mod meter;
mod origin;
pub mod outbound;
mod presigned;
mod refusal;
mod send;

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use secrecy::{ExposeSecret as _, SecretString};

use super::location::store_id_of_token;
use super::store::Access;
use crate::clock::Clock;
use crate::endpoint::Endpoint;
use crate::error::{Error, ErrorKind, Result};
use crate::event::Events;
use meter::Pace;
use origin::Origins;

pub use meter::{Limit, Meter, Operations, Rates};

/// How a store is reached.
#[derive(Clone)]
pub struct Config {
    /// The base URL of the API; the service's is [`super::wire::API_BASE`].
    pub base: Endpoint,
    /// The read-write token.
    pub token: SecretString,
    /// The store's access mode.
    pub access: Access,
    /// Where content is read instead of the canonical hosts: an emulator's or gateway's listener.
    pub content_origin: Option<Endpoint>,
    /// The store's rates; without them only its refusals set the pace.
    pub rates: Option<Rates>,
    /// The share of the rates that this client may take, above 0 and at most 1.
    pub share: f64,
    /// Whether it passes on what others ask: each request is sent once, at their pace, since they repeat
    /// it themselves, and a write is described by its reply alone.
    pub forwards: bool,
    /// Where notes about slow or failing stores go.
    pub events: Events,
    /// What waits.
    pub clock: Arc<dyn Clock>,
}

impl Config {
    /// A configuration without rates and without a content origin of its own.
    #[must_use]
    pub fn new(
        base: impl Into<Endpoint>,
        token: SecretString,
        access: Access,
        events: Events,
        clock: Arc<dyn Clock>,
    ) -> Self {
        Self {
            base: base.into(),
            token,
            access,
            content_origin: None,
            rates: None,
            share: 1.0,
            forwards: false,
            events,
            clock,
        }
    }
}

impl fmt::Debug for Config {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Config")
            .field("base", &self.base)
            .field("access", &self.access)
            .field("content_origin", &self.content_origin)
            .field("rates", &self.rates)
            .field("share", &self.share)
            .finish_non_exhaustive()
    }
}

/// A Vercel Blob store over HTTP.
pub struct HttpBlob {
    http: reqwest::Client,
    token: SecretString,
    authorization: reqwest::header::HeaderValue,
    store_id: Option<String>,
    access: Access,
    origins: Origins,
    delegations: presigned::Delegations,
    pace: Pace,
    forwards: bool,
    meter: Meter,
    events: Events,
    clock: Arc<dyn Clock>,
}

/// How long a connection may take to open, and how long it may be silent.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
const SILENCE_TIMEOUT: Duration = Duration::from_secs(60);

impl HttpBlob {
    /// A client. Nothing is sent before the first call.
    ///
    /// # Errors
    /// `Usage` for a base or content origin that is no HTTP URL, a token that can't be sent, or rates
    /// that are none.
    pub fn new(config: Config) -> Result<Self> {
        let usage = |message: &str| Error::new(ErrorKind::Usage, "set up the blob client").message(message);
        let origins = Origins::new(&config.base, config.content_origin.as_ref())?;
        let authorization = refusal::bearer(&config.token)
            .ok_or_else(|| usage("the token is empty, or has characters that no token has"))?;
        let share = config.share;
        if !(share > 0.0 && share <= 1.0) {
            return Err(usage("the share of the rates must be above 0 and at most 1"));
        }
        let mut http = reqwest::Client::builder()
            .redirect(reqwest::redirect::Policy::none())
            // What is sent anew is decided by `send.rs`, and by the callers of writes.
            .retry(reqwest::retry::never())
            .connect_timeout(CONNECT_TIMEOUT)
            .read_timeout(SILENCE_TIMEOUT);
        if origins.is_loopback() {
            http = http.no_proxy();
        }
        let http = http.build().map_err(|error| usage("the HTTP client can't be set up").source(error))?;
        Ok(Self {
            http,
            store_id: store_id_of_token(config.token.expose_secret()).map(str::to_owned),
            token: config.token,
            authorization,
            access: config.access,
            origins,
            delegations: presigned::Delegations::default(),
            pace: Pace::new(Arc::clone(&config.clock), config.rates, share)?,
            forwards: config.forwards,
            meter: Meter::default(),
            events: config.events,
            clock: config.clock,
        })
    }

    /// The store's id, where the token names one.
    #[must_use]
    pub fn store_id(&self) -> Option<&str> {
        self.store_id.as_deref()
    }

    /// The operations that were sent until now, retries included.
    #[must_use]
    pub fn operations(&self) -> Operations {
        self.meter.operations()
    }

    /// What counts this client's operations, and can stop it.
    #[must_use]
    pub fn meter(&self) -> Meter {
        self.meter.clone()
    }
}

impl fmt::Debug for HttpBlob {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HttpBlob")
            .field("base", &self.origins.base().as_str())
            .field("store_id", &self.store_id)
            .field("access", &self.access)
            .finish_non_exhaustive()
    }
}
