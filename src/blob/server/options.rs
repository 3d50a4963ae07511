//! What the headers of a write ask for.

use std::time::Duration;

use futures::StreamExt as _;
use http::HeaderMap;
use url::Url;

use super::auth::Caller;
use super::grant::{Grant, Kind};
use super::reply::Refusal;
use super::route::Call;
use super::{CONTENT_PATH, Site};
use crate::blob::store::{Access, Body, PutOptions};
use crate::blob::types::{ETag, Pathname};
use crate::blob::wire::{Code, header};
use crate::blob::{location, media};
use crate::error::{Error, ErrorKind};

/// Longer names of requests are not kept; the official client's have some 60 bytes.
const REQUEST_ID_BYTES_MAX: usize = 200;

/// What the client calls this request, of which it may send several attempts.
pub(super) fn request_id(headers: &HeaderMap) -> Option<&str> {
    let id = headers.get(header::REQUEST_ID)?.to_str().ok()?;
    (1..=REQUEST_ID_BYTES_MAX).contains(&id.len()).then_some(id)
}

/// What tells the media type of an upload besides `x-content-type`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ContentType {
    /// The body is the blob: for a signed URL, its `Content-Type`; else the blob's name.
    OfTheBody,
    /// The blob's name.
    OfTheBlob,
    /// An earlier step.
    Settled,
}

impl Call<'_> {
    pub(super) fn header(&self, name: &str) -> Result<Option<&str>, Refusal> {
        let Some(value) = self.headers.get(name) else { return Ok(None) };
        match value.to_str() {
            Ok(text) => Ok(Some(text)),
            Err(_) => Err(Refusal::bad_request(format!("`{name}` is not plain text"))),
        }
    }

    fn flag(&self, name: &str) -> Result<bool, Refusal> {
        match self.header(name)? {
            None | Some("0") => Ok(false),
            Some("1") => Ok(true),
            Some(_) => Err(Refusal::bad_request(format!("`{name}` must be 0 or 1"))),
        }
    }

    /// The condition of a write.
    pub(super) fn if_match(&self) -> Result<Option<ETag>, Refusal> {
        self.header(header::IF_MATCH)?.map(strong_etag).transpose()
    }

    /// The options of a write; a grant's own where the caller has one.
    pub(super) fn options(&self, pathname: &Pathname, typed: ContentType) -> Result<PutOptions, Refusal> {
        let access = match self.header(header::ACCESS)? {
            None => None,
            Some("public") => Some(Access::Public),
            Some("private") => Some(Access::Private),
            Some(_) => return Err(Refusal::bad_request("the access must be \"public\" or \"private\"")),
        };
        let content_type = self.header(header::CONTENT_TYPE)?.map(ToOwned::to_owned);
        match &self.caller {
            Caller::Owner => Ok(PutOptions {
                access,
                content_type,
                add_random_suffix: self.flag(header::ADD_RANDOM_SUFFIX)?,
                allow_overwrite: self.flag(header::ALLOW_OVERWRITE)?,
                cache_control_max_age: self.header(header::CACHE_MAX_AGE)?.map(seconds).transpose()?,
                if_match: self.if_match()?,
                request: request_id(self.headers).map(str::to_owned),
                deadline: None,
            }),
            Caller::Client(grant) => self.granted(grant, pathname, access, content_type, typed),
        }
    }

    fn granted(
        &self,
        grant: &Grant,
        pathname: &Pathname,
        access: Option<Access>,
        content_type: Option<String>,
        typed: ContentType,
    ) -> Result<PutOptions, Refusal> {
        grant.check_pathname(pathname)?;
        if let Some(completion) = &grant.completion {
            self.reachable(&completion.callback_url)?;
        }
        // A signed URL is for any client, which says the type as HTTP has it.
        let content_type = match content_type {
            None if typed == ContentType::OfTheBody && grant.kind == Kind::SignedUrl => {
                self.header(http::header::CONTENT_TYPE.as_str())?.map(ToOwned::to_owned)
            }
            content_type => content_type,
        };
        match &content_type {
            Some(content_type) => grant.check_content_type(content_type)?,
            None if typed == ContentType::Settled => {}
            None => grant.check_content_type(&media::content_type_of(pathname))?,
        }
        Ok(PutOptions {
            access,
            content_type,
            add_random_suffix: grant.add_random_suffix,
            allow_overwrite: grant.allow_overwrite,
            cache_control_max_age: grant.cache_control_max_age.map(Duration::from_secs),
            if_match: grant.if_match()?,
            request: request_id(self.headers).map(str::to_owned),
            deadline: None,
        })
    }

    /// A URL that a client named, where this server may reach it.
    pub(super) fn reachable(&self, url: &str) -> Result<Url, Refusal> {
        self.site.outbound.check(url).map_err(unreachable)
    }

    /// The body for the store, cut off where a grant's limit is passed. `count` is told what comes in, and says
    /// how much that is in all for the same blob.
    pub(super) fn limited_body(
        &self,
        mut count: impl FnMut(u64) -> u64 + Send + 'static,
    ) -> Result<Body, Refusal> {
        let body = self.body.body();
        let Caller::Client(grant) = &self.caller else { return Ok(body) };
        let Some(max) = grant.maximum_size_in_bytes else { return Ok(body) };
        let length = body.length();
        let message = format!("the file length cannot be greater than {max} bytes");
        if length.is_some_and(|length| length > max) {
            return Err(Refusal::bad_request(message));
        }
        let counted = body.into_stream().map(move |chunk| {
            let chunk = chunk?;
            if count(chunk.len() as u64) > max {
                return Err(Error::new(ErrorKind::Usage, "receive a body").message(&message));
            }
            Ok(chunk)
        });
        Ok(Body::stream(length, counted.boxed()))
    }

    /// The blob that a URL or a pathname names.
    pub(super) fn target(&self, text: &str) -> Result<Pathname, Refusal> {
        target(self.site, text)
    }
}

impl Grant {
    /// The condition that its signer set.
    pub(super) fn if_match(&self) -> Result<Option<ETag>, Refusal> {
        self.if_match.as_deref().map(strong_etag).transpose()
    }
}

/// What a client is told of a URL that this server does not reach.
pub(super) fn unreachable(error: Error) -> Refusal {
    match (error.kind(), error.detail()) {
        (ErrorKind::Denied, Some(message)) => Refusal::new(Code::NotAllowed, message),
        _ => error.into(),
    }
}

/// A weak ETag, which the service's cache makes of a strong one, fails every condition there; so here.
fn strong_etag(text: &str) -> Result<ETag, Refusal> {
    if text.len() >= 2 && text.starts_with('"') && text.ends_with('"') {
        return Ok(ETag::new(text));
    }
    Err(Refusal::new(Code::PreconditionFailed, format!("{text} is not a strong ETag with its quotes")))
}

fn seconds(text: &str) -> Result<Duration, Refusal> {
    let seconds = text.parse().map_err(|_| Refusal::bad_request("the max-age is not a number of seconds"))?;
    Ok(Duration::from_secs(seconds))
}

fn target(site: &Site, text: &str) -> Result<Pathname, Refusal> {
    if !text.starts_with("https://") && !text.starts_with("http://") {
        return Ok(Pathname::new(text));
    }
    let local = || {
        let encoded = text.strip_prefix(site.origin.as_str())?.strip_prefix(CONTENT_PATH)?;
        location::decode(encoded.split(['?', '#']).next()?)
    };
    let canonical =
        || location::parse_url(&Url::parse(text).ok()?, &site.config.store_id, site.config.access);
    canonical().or_else(local).ok_or_else(|| Refusal::bad_request("the URL is not one of this store"))
}
