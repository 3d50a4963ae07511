//! Content reads: what the service's content hosts answer.

use std::sync::Arc;

use axum::body::Body;
use axum::response::Response;
use http::request::Parts;
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, header};

use super::reply::Refusal;
use super::route::Query;
use super::{Site, auth};
use crate::blob::store::{Access, Content, GetOptions};
use crate::blob::types::{ETag, Pathname};
use crate::blob::{location, media};
use crate::error::Result;

/// First and last byte, inclusive; an open end is the blob's.
type Range = (u64, Option<u64>);

/// A single range, as it was asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Asked {
    From(Range),
    Last(u64),
}

pub(super) async fn read(
    site: &Arc<Site>,
    parts: &Parts,
    query: &Query,
    encoded: &str,
) -> Result<Response, Refusal> {
    if parts.method != Method::GET && parts.method != Method::HEAD {
        return Err(Refusal::bad_request("content can only be read"));
    }
    let private = site.config.access == Access::Private;
    let pathname = location::decode(encoded).ok_or_else(Refusal::not_found)?;
    auth::check_reader(site, parts, query, &pathname)?;
    let no_cache = query.get("cache") == Some("0");
    if no_cache && !private {
        return Err(Refusal::bad_request("only a private store can be read past its cache"));
    }
    let asked = asked_range(&parts.headers);
    let (content, asked) = fetch(site, &pathname, asked, no_cache).await?.ok_or_else(Refusal::not_found)?;
    let reply = Reply { site, parts, query, pathname, no_cache };
    Ok(reply.of(content, asked))
}

/// Reads the content, and says which range of it was read.
async fn fetch(
    site: &Site,
    pathname: &Pathname,
    asked: Option<Asked>,
    no_cache: bool,
) -> Result<Option<(Content, Option<Range>)>> {
    let get = async |range| site.store.get(pathname, &GetOptions { range, no_cache }).await;
    let (first, last) = match asked {
        None => return Ok(get(None).await?.map(|content| (content, None))),
        Some(Asked::From(range)) => range,
        Some(Asked::Last(count)) => {
            // Where the last bytes begin, only the blob's size tells.
            let Some(whole) = get(None).await? else { return Ok(None) };
            (whole.size.saturating_sub(count), None)
        }
    };
    let content = get(Some((first, last))).await?;
    Ok(content.map(|content| (content, Some((first, last)))))
}

struct Reply<'a> {
    site: &'a Site,
    parts: &'a Parts,
    query: &'a Query,
    pathname: Pathname,
    no_cache: bool,
}

impl Reply<'_> {
    fn of(&self, content: Content, read: Option<Range>) -> Response {
        if not_modified(&self.parts.headers, &content.etag) {
            return self.with_headers(StatusCode::NOT_MODIFIED, &content, None, Body::empty());
        }
        let (size, range) = (content.size, read.map(|range| bounds(range, content.size)));
        match range {
            None => self.with_body(StatusCode::OK, content, size, None),
            Some(None) => {
                let range = Some(format!("bytes */{size}"));
                self.with_headers(StatusCode::RANGE_NOT_SATISFIABLE, &content, range, Body::empty())
            }
            Some(Some((first, last))) => {
                let range = Some(format!("bytes {first}-{last}/{size}"));
                self.with_body(StatusCode::PARTIAL_CONTENT, content, last - first + 1, range)
            }
        }
    }

    fn with_body(
        &self,
        status: StatusCode,
        mut content: Content,
        length: u64,
        range: Option<String>,
    ) -> Response {
        let body = std::mem::replace(&mut content.body, bytes::Bytes::new().into());
        let body = match self.parts.method {
            Method::HEAD => Body::empty(),
            _ => Body::from_stream(body.into_stream()),
        };
        let mut response = self.with_headers(status, &content, range, body);
        response.headers_mut().insert(header::CONTENT_LENGTH, HeaderValue::from(length));
        response
    }

    fn with_headers(
        &self,
        status: StatusCode,
        content: &Content,
        range: Option<String>,
        body: Body,
    ) -> Response {
        let mut response = Response::new(body);
        *response.status_mut() = status;
        let headers = response.headers_mut();
        let disposition = match self.query.get("download") {
            Some("1") => media::attachment(&self.pathname),
            _ => content.content_disposition.clone(),
        };
        let cache_control = if self.no_cache { "no-store" } else { content.cache_control.as_str() };
        let modified = content
            .last_modified
            .and_then(|at| jiff::fmt::rfc2822::DateTimePrinter::new().timestamp_to_rfc9110_string(&at).ok());
        for (name, value) in [
            (header::ETAG, Some(self.etag(content))),
            (header::LAST_MODIFIED, modified),
            (header::CONTENT_TYPE, Some(content.content_type.clone())),
            (header::CONTENT_DISPOSITION, Some(disposition)),
            (header::CACHE_CONTROL, Some(cache_control.to_owned())),
            (header::CONTENT_RANGE, range),
            (header::ACCEPT_RANGES, Some("bytes".to_owned())),
            (header::CONTENT_SECURITY_POLICY, Some("default-src \"none\"".to_owned())),
            (header::X_FRAME_OPTIONS, Some("DENY".to_owned())),
            (header::X_CONTENT_TYPE_OPTIONS, Some("nosniff".to_owned())),
            (HeaderName::from_static("x-vercel-cache"), self.no_cache.then(|| "MISS".to_owned())),
        ] {
            // What another store says may not be a header value; the blob is served without it.
            if let Some(value) = value.and_then(|value| HeaderValue::try_from(value).ok()) {
                headers.insert(name, value);
            }
        }
        response
    }

    /// The service's cache weakens the ETag of what it compresses.
    fn etag(&self, content: &Content) -> String {
        let encodings = self.parts.headers.get(header::ACCEPT_ENCODING);
        let compressed = encodings
            .and_then(|value| value.to_str().ok())
            .is_some_and(|value| value.contains("gzip") || value.contains("br"));
        let weak = if self.site.config.weak_etags && compressed { "W/" } else { "" };
        format!("{weak}{}", content.etag.as_str())
    }
}

/// The bounds of a range in a blob of this size; none where it holds no byte.
fn bounds((first, last): Range, size: u64) -> Option<(u64, u64)> {
    let end = size.checked_sub(1)?;
    let last = last.unwrap_or(end).min(end);
    (first <= last).then_some((first, last))
}

/// The one range of a request. Several, or what can't be read, are ignored, as HTTP allows; so is a range
/// whose condition (`If-Range`) this server would have to look up first.
fn asked_range(headers: &HeaderMap) -> Option<Asked> {
    if headers.contains_key(header::IF_RANGE) {
        return None;
    }
    let (first, last) = headers.get(header::RANGE)?.to_str().ok()?.strip_prefix("bytes=")?.split_once('-')?;
    let number = |text: &str| text.trim().parse::<u64>().ok();
    match (first.trim(), last.trim()) {
        ("", count) => number(count).map(Asked::Last),
        (first, "") => number(first).map(|first| Asked::From((first, None))),
        (first, last) => {
            let (first, last) = (number(first)?, number(last)?);
            (first <= last).then_some(Asked::From((first, Some(last))))
        }
    }
}

fn not_modified(headers: &HeaderMap, etag: &ETag) -> bool {
    headers
        .get_all(header::IF_NONE_MATCH)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .any(|candidate| candidate.trim() == "*" || ETag::new(candidate) == *etag)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn range(text: &'static str) -> Option<Asked> {
        let mut headers = HeaderMap::new();
        headers.insert(header::RANGE, HeaderValue::from_static(text));
        asked_range(&headers)
    }

    #[test]
    fn one_range_is_read() {
        assert_eq!(range("bytes=0-3"), Some(Asked::From((0, Some(3)))));
        assert_eq!(range("bytes=4-"), Some(Asked::From((4, None))));
        assert_eq!(range("bytes=-3"), Some(Asked::Last(3)));
    }

    #[test]
    fn a_range_ends_with_the_blob() {
        assert_eq!(bounds((0, Some(3)), 10), Some((0, 3)));
        assert_eq!(bounds((4, None), 10), Some((4, 9)));
        assert_eq!(bounds((8, Some(99)), 10), Some((8, 9)));
        assert_eq!(bounds((10, None), 10), None);
        assert_eq!(bounds((0, None), 0), None);
    }

    #[test]
    fn what_is_no_single_range_is_ignored() {
        for text in ["bytes=0-1,3-4", "bytes=5-2", "items=0-1", "bytes=-", "bytes=a-b"] {
            assert_eq!(range(text), None, "{text}");
        }
    }
}
