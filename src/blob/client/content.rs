//! Reading content: always the bytes as they are stored, from where the store says they are.

use futures::StreamExt as _;
use http::header::{
    ACCEPT_ENCODING, CACHE_CONTROL, CONTENT_DISPOSITION, CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_RANGE,
    CONTENT_TYPE, ETAG, HeaderMap, HeaderName, HeaderValue, LAST_MODIFIED, RANGE,
};
use http::{Method, StatusCode};
use jiff::fmt::rfc2822;
use url::Url;

use super::HttpBlob;
use super::meter::Class;
use super::send::{Call, Payload, To};
use crate::blob::store::{Access, BlobStore as _, Body, Content, GetOptions};
use crate::blob::types::{ETag, Pathname};
use crate::error::{Error, ErrorKind, Result};

const OPERATION: &str = "read a blob";

impl HttpBlob {
    pub(super) async fn read_content(
        &self,
        pathname: &Pathname,
        options: &GetOptions,
    ) -> Result<Option<Content>> {
        let Some(mut url) = self.content_url(pathname).await? else { return Ok(None) };
        // A public store answers 400 to it; it has no way past its caches.
        if options.no_cache && self.access == Access::Private {
            url.query_pairs_mut().append_pair("cache", "0");
        }
        let mut headers = HeaderMap::new();
        // A CDN that compresses weakens the ETag and changes the length.
        headers.insert(ACCEPT_ENCODING, HeaderValue::from_static("identity"));
        if let Some((first, last)) = options.range {
            let last = last.map(|last| last.to_string()).unwrap_or_default();
            let range = HeaderValue::try_from(format!("bytes={first}-{last}"))
                .map_err(|error| Error::new(ErrorKind::Internal, OPERATION).source(error))?;
            headers.insert(RANGE, range);
        }
        let mut call = Call {
            operation: OPERATION,
            key: pathname.as_str(),
            method: Method::GET,
            url,
            headers,
            payload: Payload::Empty,
            class: Class::Simple,
            write: false,
            to: To::Content,
        };
        let response = self.open(&mut call, is_answer).await?;
        match response.status() {
            StatusCode::NOT_FOUND => Ok(None),
            StatusCode::RANGE_NOT_SATISFIABLE => self.behind_the_end(pathname).await,
            _ => self.content(pathname, response, options).await.map(Some),
        }
    }

    /// Where the content is. The first read of a client may have to ask; every listing and head tells.
    async fn content_url(&self, pathname: &Pathname) -> Result<Option<Url>> {
        if let Some(url) = self.origins.content(pathname)? {
            return Ok(Some(url));
        }
        if self.head(pathname).await?.is_none() {
            return Ok(None);
        }
        self.origins.content(pathname)?.map(Some).ok_or_else(|| {
            damaged(pathname, "the store's `url` of it does not name it, so its content can't be found")
        })
    }

    async fn content(
        &self,
        pathname: &Pathname,
        response: reqwest::Response,
        options: &GetOptions,
    ) -> Result<Content> {
        let headers = response.headers();
        if let Some(encoding) = text(headers, CONTENT_ENCODING).filter(|encoding| encoding != "identity") {
            return Err(damaged(pathname, format!("its content came encoded ({encoding}), though unasked")));
        }
        let etag = text(headers, ETAG).filter(|etag| !etag.is_empty());
        let etag = etag.ok_or_else(|| damaged(pathname, "its content came without an ETag"))?;
        let etag = ETag::new(&etag);
        let length = text(headers, CONTENT_LENGTH).and_then(|length| length.parse::<u64>().ok());
        let partial = response.status() == StatusCode::PARTIAL_CONTENT;
        if options.range.is_some() && !partial {
            return Err(damaged(pathname, "the whole of it came where a part was asked for"));
        }
        let size = if partial {
            let range = text(headers, CONTENT_RANGE).unwrap_or_default();
            range.rsplit_once('/').and_then(|(_, size)| size.parse().ok())
        } else {
            length
        };
        let (last_modified, content_type, content_disposition, cache_control) = (
            text(headers, LAST_MODIFIED).and_then(|date| http_date(&date)),
            text(headers, CONTENT_TYPE).unwrap_or_default(),
            text(headers, CONTENT_DISPOSITION).unwrap_or_default(),
            text(headers, CACHE_CONTROL).unwrap_or_default(),
        );
        let size = match size {
            Some(size) => size,
            None => self.size_of(pathname, &etag).await?,
        };
        let name = pathname.clone();
        let stream = response.bytes_stream().map(move |chunk| {
            chunk.map_err(|error| {
                Error::new(ErrorKind::NotApplied, OPERATION)
                    .key(&name)
                    .message("its content broke off")
                    .source(error.without_url())
            })
        });
        let length = if partial { length } else { Some(size) };
        Ok(Content {
            etag,
            size,
            last_modified,
            content_type,
            content_disposition,
            cache_control,
            body: Body::stream(length, stream.boxed()),
        })
    }

    /// The length of a version whose content came without one.
    async fn size_of(&self, pathname: &Pathname, etag: &ETag) -> Result<u64> {
        match self.head(pathname).await? {
            Some(head) if head.blob.etag == *etag => Ok(head.blob.size),
            _ => Err(Error::new(ErrorKind::NotApplied, OPERATION)
                .key(pathname)
                .message("it changed while it was read")),
        }
    }

    /// What a range behind the end of a blob holds: nothing.
    async fn behind_the_end(&self, pathname: &Pathname) -> Result<Option<Content>> {
        Ok(self.head(pathname).await?.map(|head| Content {
            etag: head.blob.etag,
            size: head.blob.size,
            last_modified: Some(head.blob.uploaded_at),
            content_type: head.content_type,
            content_disposition: head.content_disposition,
            cache_control: head.cache_control,
            body: Body::from(bytes::Bytes::new()),
        }))
    }
}

fn is_answer(status: StatusCode) -> bool {
    matches!(
        status,
        StatusCode::OK
            | StatusCode::PARTIAL_CONTENT
            | StatusCode::NOT_FOUND
            | StatusCode::RANGE_NOT_SATISFIABLE
    )
}

fn text(headers: &HeaderMap, name: HeaderName) -> Option<String> {
    Some(headers.get(name)?.to_str().ok()?.to_owned())
}

fn http_date(text: &str) -> Option<jiff::Timestamp> {
    rfc2822::DateTimeParser::new().parse_timestamp(text).ok()
}

fn damaged(pathname: &Pathname, message: impl std::fmt::Display) -> Error {
    Error::new(ErrorKind::Corrupt, OPERATION).key(pathname).message(message)
}
