//! One request and its repetitions.

use backon::{BackoffBuilder as _, ExponentialBuilder};
use bytes::{Bytes, BytesMut};
use http::header::{AUTHORIZATION, CONTENT_LENGTH, CONTENT_TYPE, HeaderMap, HeaderValue};
use http::{Method, StatusCode};
use serde::de::DeserializeOwned;
use std::time::Duration;
use url::Url;

use super::HttpBlob;
use super::meter::Class;
use super::refusal::{meaning, redact, transport};
use crate::blob::store::{Access, Body};
use crate::blob::wire::{API_VERSION, header};
use crate::error::{Error, ErrorKind, Result};
use crate::event::Event;

/// How often a request is repeated that failed without effect, over some ten seconds.
const RETRIES_MAX: usize = 5;
const RETRY_FIRST: Duration = Duration::from_millis(250);
/// How often a request is repeated that was refused as too fast.
const THROTTLED_MAX: u32 = 10;
/// A store that asks for a longer pause is not waited for.
const PAUSE_MAX: Duration = Duration::from_secs(120);
/// More than the longest listing: 1,000 blobs with the longest names, percent-encoded.
const REPLY_BYTES_MAX: usize = 64 << 20;
/// What is read of a content host's refusal.
const REFUSAL_BYTES_MAX: usize = 64 << 10;

/// A request.
pub(super) struct Call<'a> {
    pub(super) operation: &'static str,
    pub(super) key: &'a str,
    pub(super) method: Method,
    pub(super) url: Url,
    pub(super) headers: HeaderMap,
    pub(super) payload: Payload,
    pub(super) class: Class,
    /// Whether it can change the store.
    pub(super) write: bool,
    pub(super) to: To,
}

/// Who is asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum To {
    Api,
    /// A content host, which needs the token for private content only.
    Content,
    /// The API, by a URL that says who may.
    Signed,
}

pub(super) enum Payload {
    Empty,
    Json(Bytes),
    /// A stream, which can be sent once.
    Once {
        length: Option<u64>,
        body: Option<reqwest::Body>,
    },
}

impl From<Body> for Payload {
    fn from(body: Body) -> Self {
        let length = body.length();
        Self::Once { length, body: Some(reqwest::Body::wrap_stream(body.into_stream())) }
    }
}

impl Call<'_> {
    pub(super) fn error(&self, kind: ErrorKind) -> Error {
        let error = Error::new(kind, self.operation);
        if self.key.is_empty() { error } else { error.key(self.key) }
    }

    fn in_doubt(&self) -> ErrorKind {
        if self.write { ErrorKind::OutcomeUnknown } else { ErrorKind::NotApplied }
    }

    /// Scheme, host and port of where it goes.
    fn origin(&self) -> String {
        self.url.origin().ascii_serialization()
    }
}

impl HttpBlob {
    /// Sends a call to the API and reads the JSON of its reply.
    pub(super) async fn json<T: DeserializeOwned>(&self, mut call: Call<'_>) -> Result<T> {
        let reply = self.whole(&mut call).await?;
        serde_json::from_slice(&reply).map_err(|error| {
            // A write was answered with success, so it took effect; what it stored is not known.
            let kind = if call.write { ErrorKind::OutcomeUnknown } else { ErrorKind::Corrupt };
            call.error(kind).message("the reply is not the API's").source(error)
        })
    }

    /// Sends a call to the API and reads its reply to the end.
    pub(super) async fn whole(&self, call: &mut Call<'_>) -> Result<Bytes> {
        let id = self.request_id();
        let mut retries = Retries::new();
        loop {
            let attempt = retries.attempt;
            let done = match self.once(call, &id, attempt, |status| status.is_success()).await {
                Ok(response) => self.read(call, response).await,
                Err(error) => Err(error),
            };
            match done {
                Ok(reply) => return Ok(reply),
                Err(error) => self.before_retry(call, &mut retries, error).await?,
            }
        }
    }

    /// Sends a call and gives its reply to the caller unread, where its status is `accepted`.
    pub(super) async fn open(
        &self,
        call: &mut Call<'_>,
        accepted: fn(StatusCode) -> bool,
    ) -> Result<reqwest::Response> {
        let id = self.request_id();
        let mut retries = Retries::new();
        loop {
            match self.once(call, &id, retries.attempt, accepted).await {
                Ok(response) => return Ok(response),
                Err(error) => self.before_retry(call, &mut retries, error).await?,
            }
        }
    }

    async fn once(
        &self,
        call: &mut Call<'_>,
        id: &str,
        attempt: u32,
        accepted: fn(StatusCode) -> bool,
    ) -> Result<reqwest::Response> {
        self.pace.wait(call.class).await;
        self.meter.count(call.class)?;
        let request = self.request(call, id, attempt);
        let response = self.http.execute(request).await.map_err(|error| {
            let error = transport(call.operation, &call.origin(), error, call.write);
            if call.key.is_empty() { error } else { error.key(call.key) }
        })?;
        self.check_gateway(&response)?;
        if accepted(response.status()) {
            return Ok(response);
        }
        Err(self.refusal(call, response).await)
    }

    /// What is sent for a call. It takes a body that can be sent once.
    fn request(&self, call: &mut Call<'_>, id: &str, attempt: u32) -> reqwest::Request {
        let mut request = reqwest::Request::new(call.method.clone(), call.url.clone());
        let headers = request.headers_mut();
        headers.clone_from(&call.headers);
        if call.to != To::Content {
            headers.insert(header::API_VERSION, HeaderValue::from_static(API_VERSION));
            headers.insert(header::REQUEST_ID, printable(id));
            headers.insert(header::REQUEST_ATTEMPT, attempt.into());
            if let Some(store_id) = &self.store_id {
                headers.insert(header::STORE_ID, printable(store_id));
            }
        }
        let needs_token = match call.to {
            To::Api => true,
            To::Content => self.access == Access::Private,
            To::Signed => false,
        };
        if needs_token && self.origins.may_have_token(&call.url) {
            headers.insert(AUTHORIZATION, self.authorization.clone());
        }
        let body = match &mut call.payload {
            Payload::Empty => {
                if call.write {
                    headers.insert(CONTENT_LENGTH, 0.into());
                }
                None
            }
            Payload::Json(json) => {
                headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
                Some(json.clone().into())
            }
            Payload::Once { length, body } => {
                if let Some(length) = *length {
                    headers.insert(CONTENT_LENGTH, length.into());
                }
                Some(body.take().expect("invariant: a stream is sent once"))
            }
        };
        *request.body_mut() = body;
        request
    }

    /// A gateway of ours answers from DynamoDB: to take it for the store would compare that with itself.
    fn check_gateway(&self, response: &reqwest::Response) -> Result<()> {
        if !response.headers().contains_key(header::GATEWAY) {
            return Ok(());
        }
        Err(Error::new(ErrorKind::Usage, "ask the blob store")
            .key(self.origins.base())
            .message("this is a gateway of `migrate`, not the store itself")
            .hint("give the store's own URL by --source-url or MIGRATE_BLOB_URL"))
    }

    async fn refusal(&self, call: &Call<'_>, mut response: reqwest::Response) -> Error {
        let mut body = BytesMut::new();
        // A refusal that breaks off counts by its status.
        while let Ok(Some(chunk)) = response.chunk().await {
            body.extend_from_slice(&chunk);
            if body.len() > REFUSAL_BYTES_MAX {
                break;
            }
        }
        let (kind, message) =
            meaning(response.status(), response.headers(), &body, call.write, self.forwards);
        let error = call.error(kind).message(redact(&message, &self.token));
        match kind {
            ErrorKind::Corrupt => error.hint("check the source's base URL: this is not the Vercel Blob API"),
            ErrorKind::Denied => error.hint(format!(
                "check BLOB_READ_WRITE_TOKEN: it must be the read-write token of the store at {}",
                call.origin()
            )),
            _ => error,
        }
    }

    async fn read(&self, call: &Call<'_>, mut response: reqwest::Response) -> Result<Bytes> {
        let mut body = BytesMut::new();
        loop {
            match response.chunk().await {
                Ok(None) => break,
                Ok(Some(chunk)) if body.len() + chunk.len() <= REPLY_BYTES_MAX => {
                    body.extend_from_slice(&chunk);
                }
                Ok(Some(_)) => {
                    return Err(call
                        .error(ErrorKind::Corrupt)
                        .message(format!("the reply is longer than {REPLY_BYTES_MAX} bytes")));
                }
                Err(error) => {
                    return Err(call
                        .error(call.in_doubt())
                        .message("the reply broke off")
                        .source(error.without_url()));
                }
            }
        }
        Ok(body.freeze())
    }

    /// Waits until the call may be sent again, or gives the error back.
    async fn before_retry(&self, call: &Call<'_>, retries: &mut Retries, error: Error) -> Result<()> {
        let once = self.forwards || matches!(call.payload, Payload::Once { .. });
        if once || !error.kind().policy().retry {
            return Err(error);
        }
        let Some(wait) = retries.next(error.kind()) else { return Err(error) };
        if let ErrorKind::Throttled { retry_after } = error.kind() {
            let pause = retry_after.unwrap_or(wait);
            if pause > PAUSE_MAX {
                return Err(error);
            }
            self.events.report(Event::Note(format!(
                "the blob store asks for a slower pace; waiting {} s",
                pause.as_secs_f32().ceil()
            )));
            // All requests wait, not only this one.
            self.pace.pause(pause);
        } else {
            self.clock.sleep(wait).await;
        }
        Ok(())
    }

    /// `{store}:{ms}:{hex}`, the same for all attempts of a request.
    fn request_id(&self) -> String {
        let store = self.store_id.as_deref().unwrap_or_default();
        format!("{store}:{}:{:016x}", self.clock.now().as_millisecond(), rand::random::<u64>())
    }
}

/// A text of the token's and of digits as a header; [`HttpBlob::new`] refuses a token that can't be in one.
fn printable(text: &str) -> HeaderValue {
    HeaderValue::from_str(text).expect("invariant: a token that can be sent")
}

struct Retries {
    attempt: u32,
    throttled: u32,
    waits: backon::ExponentialBackoff,
}

impl Retries {
    fn new() -> Self {
        let waits = ExponentialBuilder::default()
            .with_min_delay(RETRY_FIRST)
            .with_max_times(RETRIES_MAX)
            .with_jitter()
            .build();
        Self { attempt: 0, throttled: 0, waits }
    }

    /// How long to wait before the next attempt; none when there were enough.
    fn next(&mut self, kind: ErrorKind) -> Option<Duration> {
        self.attempt += 1;
        if matches!(kind, ErrorKind::Throttled { .. }) {
            self.throttled += 1;
            return (self.throttled <= THROTTLED_MAX).then(|| Duration::from_secs(1) * self.throttled);
        }
        self.waits.next()
    }
}
