//! Writes that the store refuses after a while: sent with a URL that this client signs, which says until when.
//!
//! The store hands out a token with which its bearer signs URLs for itself (a delegation). The time of its issue, by the
//! store's own clock, and the monotonic time since its reply tell the store's time: never more than it is.

use std::sync::Arc;
use std::time::Duration;

use base64::Engine as _;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use hmac::{Hmac, KeyInit as _, Mac as _};
use http::{HeaderMap, Method};
use secrecy::{ExposeSecret as _, SecretString};
use serde::{Deserialize, Serialize};
use sha2::Sha256;
use tokio::sync::Mutex;

use super::HttpBlob;
use super::calls::{self, json};
use super::meter::Class;
use super::send::{Call, Payload, To};
use crate::blob::store::{Body, Deadline, PutOptions};
use crate::blob::types::{ETag, Head, Pathname};
use crate::blob::wire::{header, presigned};
use crate::error::{Error, ErrorKind, Result};

const ISSUE: &str = "ask for a signing token";
/// A new token is asked for when the one that is here is good for less than this, in milliseconds.
const LEFT_MS_MIN: u64 = 600_000;
/// A time in milliseconds since 1970 is greater than this, one in seconds is less.
const MILLISECONDS_MIN: u64 = 100_000_000_000;
/// For so long a store that refused to issue tokens is not asked again.
const REFUSED_FOR: Duration = Duration::from_secs(600);

/// What is known of the store's delegation.
#[derive(Default)]
pub(super) struct Delegations(Mutex<State>);

#[derive(Default)]
enum State {
    #[default]
    Unasked,
    Issued(Arc<Delegation>),
    /// The store issues none, or did not when it was asked at this moment.
    Refused(Duration),
}

/// A token with which URLs are signed, and the time of its issue.
struct Delegation {
    token: String,
    key: SecretString,
    valid_until: u64,
    /// The store's clock when it issued this, in milliseconds since 1970.
    issued: u64,
    /// This machine's monotonic clock when the reply was read.
    at: Duration,
}

impl Delegation {
    /// The store's time, or a little less.
    fn now(&self, monotonic: Duration) -> u64 {
        let since = monotonic.saturating_sub(self.at).as_millis();
        self.issued.saturating_add(u64::try_from(since).unwrap_or(u64::MAX))
    }
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Asked {
    pathname: &'static str,
    operations: [&'static str; 2],
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Issued {
    delegation_token: String,
    client_signing_token: String,
}

/// What is read of the payload of a delegation token.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Payloaded {
    iat: u64,
    valid_until: u64,
}

impl HttpBlob {
    /// The moment `within` from now by the store's clock; none where it signs no URLs.
    pub(super) async fn moment(&self, within: Duration) -> Result<Option<Deadline>> {
        let Some(delegation) = self.delegation().await? else { return Ok(None) };
        let within = u64::try_from(within.as_millis()).unwrap_or(u64::MAX);
        Ok(Some(Deadline(delegation.now(self.clock.monotonic()).saturating_add(within))))
    }

    pub(super) async fn put_before(
        &self,
        pathname: &Pathname,
        body: Body,
        options: &PutOptions,
        deadline: Deadline,
    ) -> Result<Head> {
        let mut signed =
            vec![(presigned::ALLOW_OVERWRITE, truth(options.allow_overwrite || options.if_match.is_some()))];
        if let Some(max_age) = options.cache_control_max_age {
            signed.push((presigned::CACHE_CONTROL_MAX_AGE, max_age.as_secs().to_string()));
        }
        let mut headers = HeaderMap::new();
        calls::insert(&mut headers, header::ACCESS, options.access.unwrap_or(self.access).as_str())?;
        if let Some(content_type) = &options.content_type {
            // The first is the API's, the second what a signed URL's own limits are held against.
            calls::insert(&mut headers, header::CONTENT_TYPE, content_type)?;
            calls::insert(&mut headers, http::header::CONTENT_TYPE.as_str(), content_type)?;
        }
        let size = body.length();
        let call = self
            .signed("put a blob", pathname, Method::PUT, options.if_match.as_ref(), signed, deadline)
            .await?;
        let reply =
            self.ended(self.json(Call { headers, payload: body.into(), ..call }).await, deadline).await?;
        self.stored(reply, size, options).await
    }

    pub(super) async fn delete_signed(
        &self,
        pathname: &Pathname,
        if_match: &ETag,
        deadline: Deadline,
    ) -> Result<()> {
        let mut call = self
            .signed("delete a blob", pathname, Method::DELETE, Some(if_match), Vec::new(), deadline)
            .await?;
        // Sent once: what it came to is its caller's business.
        call.payload = Payload::Once { length: Some(0), body: Some(reqwest::Body::from("")) };
        call.class = Class::Delete(1);
        let reply = self.whole(&mut call).await;
        self.ended(reply, deadline).await.map(drop)
    }

    /// A refusal of what came too late is that of its condition.
    async fn ended<T>(&self, reply: Result<T>, deadline: Deadline) -> Result<T> {
        let error = match reply {
            Err(error) if error.kind() == ErrorKind::Denied => error,
            reply => return reply,
        };
        let over = match self.delegation().await? {
            Some(delegation) => delegation.now(self.clock.monotonic()) >= deadline.0,
            None => false,
        };
        Err(if over {
            Error::new(ErrorKind::LostRace, "write to the store")
                .message("it came after its deadline")
                .source(error)
        } else {
            error
        })
    }

    /// A call whose URL is signed, for what needs no other credentials.
    async fn signed<'a>(
        &self,
        operation: &'static str,
        pathname: &'a Pathname,
        method: Method,
        if_match: Option<&ETag>,
        mut parameters: Vec<(&'static str, String)>,
        deadline: Deadline,
    ) -> Result<Call<'a>> {
        let delegation = self.delegation().await?.ok_or_else(|| {
            Error::new(ErrorKind::Internal, operation).key(pathname).message("the store signs no URLs")
        })?;
        parameters.push((presigned::VALID_UNTIL, deadline.0.min(delegation.valid_until).to_string()));
        parameters.extend(if_match.map(|etag| (presigned::IF_MATCH, etag.to_string())));
        let word = if method == Method::DELETE { "delete" } else { "put" };
        let signature = sign(&delegation.key, &presigned::canonical(word, pathname, &parameters));
        let mut query = vec![("pathname", pathname.as_str())];
        query.extend(parameters.iter().map(|(name, value)| (*name, value.as_str())));
        query.push((presigned::DELEGATION, &delegation.token));
        query.push((presigned::SIGNATURE, &signature));
        Ok(Call { to: To::Signed, ..self.call(operation, pathname, method, "/", &query) })
    }

    /// The store's delegation; asked for anew in time.
    async fn delegation(&self) -> Result<Option<Arc<Delegation>>> {
        let mut state = self.delegations.0.lock().await;
        let now = self.clock.monotonic();
        match &*state {
            State::Issued(delegation) if delegation.now(now) + LEFT_MS_MIN < delegation.valid_until => {
                return Ok(Some(Arc::clone(delegation)));
            }
            State::Refused(at) if now.saturating_sub(*at) < REFUSED_FOR => return Ok(None),
            State::Unasked | State::Issued(_) | State::Refused(_) => {}
        }
        match self.ask().await {
            Ok(delegation) => {
                let delegation = Arc::new(delegation);
                *state = State::Issued(Arc::clone(&delegation));
                Ok(Some(delegation))
            }
            // What it answers, it will answer again.
            Err(error)
                if matches!(
                    error.kind(),
                    ErrorKind::Usage
                        | ErrorKind::Denied
                        | ErrorKind::NotFound
                        | ErrorKind::Corrupt
                        | ErrorKind::Unrepresentable
                ) =>
            {
                tracing::info!(%error, "the store signs no URLs: writes of the mirror have no end that it enforces");
                *state = State::Refused(now);
                Ok(None)
            }
            Err(error) => Err(error),
        }
    }

    async fn ask(&self) -> Result<Delegation> {
        let at = Pathname::new("");
        // It is good for an hour, by the store's own clock.
        let asked = Asked { pathname: presigned::ANY_PATHNAME, operations: ["put", "delete"] };
        let call = self.call(ISSUE, &at, Method::POST, "/signed-token", &[]);
        let call = Call { payload: Payload::Json(json(&asked)?), class: Class::Simple, write: false, ..call };
        let issued: Issued = self.json(call).await?;
        let read = || {
            let payload = issued.delegation_token.split('.').next()?;
            let payload = BASE64_URL_SAFE_NO_PAD.decode(payload).ok()?;
            serde_json::from_slice::<Payloaded>(&payload).ok()
        };
        let Payloaded { iat, valid_until } = read().ok_or_else(|| {
            Error::new(ErrorKind::Corrupt, ISSUE).message("the token does not say when it was issued")
        })?;
        Ok(Delegation {
            token: issued.delegation_token,
            key: issued.client_signing_token.into(),
            valid_until,
            issued: if iat < MILLISECONDS_MIN { iat * 1_000 } else { iat },
            at: self.clock.monotonic(),
        })
    }
}

fn truth(truth: bool) -> String {
    truth.to_string()
}

fn sign(key: &SecretString, text: &str) -> String {
    let mac = Hmac::<Sha256>::new_from_slice(key.expose_secret().as_bytes());
    let mac = mac.expect("invariant: a key may have any length").chain_update(text.as_bytes());
    BASE64_URL_SAFE_NO_PAD.encode(mac.finalize().into_bytes())
}
