//! The Vercel Blob HTTP API as text: header names, JSON shapes, and the one table of error codes.
//!
//! The client and the server both speak through this module, in opposite directions. It does no I/O and
//! knows no store.

use std::time::Duration;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::store::{Part, Upload};
use super::types::{ETag, Head, ListPage, ListedBlob, Pathname};
use crate::error::{Error, ErrorKind, Result};

/// The API version that this crate speaks: the first whose replies carry ETags.
pub const API_VERSION: &str = "12";
/// Where the service's API is.
pub const API_BASE: &str = "https://vercel.com/api/blob";

/// Header names, as the official SDKs send them.
pub mod header {
    /// The version of the API that the client speaks.
    pub const API_VERSION: &str = "x-api-version";
    /// The store that the client means; must be the token's.
    pub const STORE_ID: &str = "x-vercel-blob-store-id";
    /// `{store}:{ms}:{hex}`, the same for all attempts of one request.
    pub const REQUEST_ID: &str = "x-api-blob-request-id";
    /// The number of this attempt, from 0.
    pub const REQUEST_ATTEMPT: &str = "x-api-blob-request-attempt";
    /// `public` or `private`.
    pub const ACCESS: &str = "x-vercel-blob-access";
    /// `1` asks for a random suffix.
    pub const ADD_RANDOM_SUFFIX: &str = "x-add-random-suffix";
    /// `1` replaces an existing blob.
    pub const ALLOW_OVERWRITE: &str = "x-allow-overwrite";
    /// The media type of the blob (`Content-Type` is ignored).
    pub const CONTENT_TYPE: &str = "x-content-type";
    /// How long caches may keep the blob, in seconds.
    pub const CACHE_MAX_AGE: &str = "x-cache-control-max-age";
    /// The strong ETag that must be stored now.
    pub const IF_MATCH: &str = "x-if-match";
    /// `create`, `upload` or `complete`.
    pub const MPU_ACTION: &str = "x-mpu-action";
    /// The id of a multipart upload.
    pub const MPU_UPLOAD_ID: &str = "x-mpu-upload-id";
    /// The key of a multipart upload, percent-encoded.
    pub const MPU_KEY: &str = "x-mpu-key";
    /// The number of a part, from 1.
    pub const MPU_PART_NUMBER: &str = "x-mpu-part-number";
    /// The signature of a callback.
    pub const CALLBACK_SIGNATURE: &str = "x-vercel-signature";
    /// Said by a gateway of ours in every reply, so that it is never taken for the store itself.
    pub const GATEWAY: &str = "x-migrate-gateway";
}

/// The parameters of URLs that their bearer signs.
pub mod presigned {
    use crate::blob::types::Pathname;

    /// What a delegation token names for any pathname.
    pub const ANY_PATHNAME: &str = "*";
    /// The signature of a URL.
    pub const SIGNATURE: &str = "vercel-blob-signature";
    /// The token whose bearer signed it.
    pub const DELEGATION: &str = "vercel-blob-delegation";
    /// Whether an existing blob is replaced: `true` or `false`.
    pub const ALLOW_OVERWRITE: &str = "vercel-blob-allow-overwrite";
    /// How long caches may keep the blob, in seconds.
    pub const CACHE_CONTROL_MAX_AGE: &str = "vercel-blob-cache-control-max-age";
    /// The strong ETag that must be stored now.
    pub const IF_MATCH: &str = "vercel-blob-if-match";
    /// Until when it is good, by the store's clock, in milliseconds since 1970.
    pub const VALID_UNTIL: &str = "vercel-blob-valid-until";

    /// The text that is signed, of an operation and its parameters.
    #[must_use]
    pub fn canonical(operation: &str, pathname: &Pathname, parameters: &[(&str, String)]) -> String {
        let mut lines: Vec<_> = parameters.iter().map(|(name, value)| format!("{name}={value}")).collect();
        lines.extend([format!("operation={operation}"), format!("pathname={pathname}")]);
        lines.sort();
        lines.join("\n")
    }
}

/// The reply to put, copy, rename and the completion of a multipart upload.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PutReply {
    /// Where the content is read.
    pub url: String,
    /// The same, as an attachment.
    pub download_url: String,
    /// The name, with its random suffix where one was asked for.
    pub pathname: String,
    /// The media type.
    pub content_type: String,
    /// `inline` or `attachment`, with a file name.
    pub content_disposition: String,
    /// The strong ETag.
    pub etag: String,
}

impl From<&Head> for PutReply {
    fn from(head: &Head) -> Self {
        Self {
            url: head.blob.url.clone(),
            download_url: head.blob.download_url.clone(),
            pathname: head.blob.pathname.as_str().to_owned(),
            content_type: head.content_type.clone(),
            content_disposition: head.content_disposition.clone(),
            etag: head.blob.etag.as_str().to_owned(),
        }
    }
}

/// The reply to head.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct HeadReply {
    /// What a put replies too.
    #[serde(flatten)]
    pub put: PutReply,
    /// The length in bytes.
    pub size: u64,
    /// When it was stored; ISO 8601 with milliseconds.
    pub uploaded_at: String,
    /// The caching rule.
    pub cache_control: String,
}

impl From<&Head> for HeadReply {
    fn from(head: &Head) -> Self {
        Self {
            put: head.into(),
            size: head.blob.size,
            uploaded_at: time_text(head.blob.uploaded_at),
            cache_control: head.cache_control.clone(),
        }
    }
}

impl TryFrom<HeadReply> for Head {
    type Error = Error;

    fn try_from(reply: HeadReply) -> Result<Self> {
        let HeadReply { put, size, uploaded_at, cache_control } = reply;
        Ok(Self {
            blob: ListedBlob {
                uploaded_at: time(&put.pathname, &uploaded_at)?,
                pathname: Pathname::new(put.pathname),
                size,
                etag: ETag::new(&put.etag),
                url: put.url,
                download_url: put.download_url,
            },
            content_type: put.content_type,
            content_disposition: put.content_disposition,
            cache_control,
        })
    }
}

/// One blob of a listing.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ListedReply {
    /// Where the content is read.
    pub url: String,
    /// The same, as an attachment.
    pub download_url: String,
    /// The name.
    pub pathname: String,
    /// The length in bytes.
    pub size: u64,
    /// When it was stored; ISO 8601 with milliseconds.
    pub uploaded_at: String,
    /// The strong ETag.
    pub etag: String,
}

/// The reply to list.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ListReply {
    /// The blobs of this page.
    pub blobs: Vec<ListedReply>,
    /// Whether there is another page; then there is a cursor.
    pub has_more: bool,
    /// Where the next page begins.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cursor: Option<String>,
    /// The folders of this page, in a folded listing.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub folders: Option<Vec<String>>,
}

impl ListReply {
    /// The reply that says this page.
    #[must_use]
    pub fn new(page: ListPage, folded: bool) -> Self {
        let blobs = page.blobs.into_iter().map(|blob| ListedReply {
            url: blob.url,
            download_url: blob.download_url,
            pathname: blob.pathname.as_str().to_owned(),
            size: blob.size,
            uploaded_at: time_text(blob.uploaded_at),
            etag: blob.etag.as_str().to_owned(),
        });
        Self {
            blobs: blobs.collect(),
            has_more: page.cursor.is_some(),
            cursor: page.cursor,
            folders: folded.then_some(page.folders),
        }
    }
}

impl TryFrom<ListReply> for ListPage {
    type Error = Error;

    fn try_from(reply: ListReply) -> Result<Self> {
        let cursor = reply.cursor.filter(|cursor| !cursor.is_empty());
        if reply.has_more && cursor.is_none() {
            return Err(Error::new(ErrorKind::Corrupt, "list blobs")
                .message("the reply says that there is more, but not where"));
        }
        let blobs = reply.blobs.into_iter().map(|blob| {
            Ok(ListedBlob {
                uploaded_at: time(&blob.pathname, &blob.uploaded_at)?,
                pathname: Pathname::new(blob.pathname),
                size: blob.size,
                etag: ETag::new(&blob.etag),
                url: blob.url,
                download_url: blob.download_url,
            })
        });
        Ok(Self {
            blobs: blobs.collect::<Result<_>>()?,
            folders: reply.folders.unwrap_or_default(),
            cursor: cursor.filter(|_| reply.has_more),
        })
    }
}

/// The callback after an upload that the application let somebody else make.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct UploadCompleted {
    r#type: &'static str,
    payload: UploadPayload,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
struct UploadPayload {
    blob: PutReply,
    #[serde(skip_serializing_if = "Option::is_none")]
    token_payload: Option<String>,
}

impl UploadCompleted {
    /// What was stored, and what the application put into the grant.
    #[must_use]
    pub fn new(blob: PutReply, token_payload: Option<String>) -> Self {
        Self { r#type: "blob.upload-completed", payload: UploadPayload { blob, token_payload } }
    }
}

/// The body of a delete.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeleteRequest {
    /// URLs or pathnames.
    pub urls: Vec<String>,
}

/// The reply to the creation of a multipart upload.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct UploadReply {
    /// Its id.
    pub upload_id: String,
    /// The store's own name for the object to be.
    pub key: String,
}

impl From<Upload> for UploadReply {
    fn from(Upload { upload_id, key }: Upload) -> Self {
        Self { upload_id, key }
    }
}

impl From<UploadReply> for Upload {
    fn from(UploadReply { upload_id, key }: UploadReply) -> Self {
        Self { upload_id, key }
    }
}

/// The reply to the upload of a part.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PartReply {
    /// Its ETag.
    pub etag: String,
}

/// One part in the body of a completion, which lists them in any order.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PartEntry {
    /// Its ETag.
    pub etag: String,
    /// Its number, from 1.
    pub part_number: u32,
}

impl From<&Part> for PartEntry {
    fn from(part: &Part) -> Self {
        Self { etag: part.etag.as_str().to_owned(), part_number: part.number }
    }
}

impl From<PartEntry> for Part {
    fn from(entry: PartEntry) -> Self {
        Self { number: entry.part_number, etag: ETag::new(&entry.etag) }
    }
}

/// The body of every refusal.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ErrorReply {
    /// What is wrong.
    pub error: ErrorBody,
}

/// What is wrong, in a refusal.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ErrorBody {
    /// One of the names of [`Code`].
    pub code: String,
    /// For people; the SDK also looks for certain texts in it.
    #[serde(default)]
    pub message: String,
}

/// What a put says of a name that is taken.
pub const EXISTS_MESSAGE: &str = "This blob already exists, use `allowOverwrite: true` if you want to overwrite \
     it. Or `addRandomSuffix: true` to generate a unique filename.";

/// What a write says that names the other access mode.
#[must_use]
pub fn access_message(asked: super::store::Access, store: super::store::Access) -> String {
    let (asked, store) = (asked.as_str(), store.as_str());
    format!("Cannot use {asked} access on a {store} store. The store is configured with {store} access.")
}

/// The codes of refusals.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Code {
    /// The request is not valid, or the name is taken.
    BadRequest,
    /// The token is missing, wrong, or lacks the permission.
    Forbidden,
    /// No such blob.
    NotFound,
    /// No such store.
    StoreNotFound,
    /// The store is suspended.
    StoreSuspended,
    /// A condition did not hold.
    PreconditionFailed,
    /// Too fast; `Retry-After` says how long to wait.
    RateLimited,
    /// Not with a client token.
    ClientTokenNotAllowed,
    /// Not here, not now.
    NotAllowed,
    /// Try again; the SDK does.
    ServiceUnavailable,
    /// The service failed; the SDK tries again.
    InternalServerError,
}

impl Code {
    const ALL: [Self; 11] = [
        Self::BadRequest,
        Self::Forbidden,
        Self::NotFound,
        Self::StoreNotFound,
        Self::StoreSuspended,
        Self::PreconditionFailed,
        Self::RateLimited,
        Self::ClientTokenNotAllowed,
        Self::NotAllowed,
        Self::ServiceUnavailable,
        Self::InternalServerError,
    ];

    /// Its name on the wire.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::BadRequest => "bad_request",
            Self::Forbidden => "forbidden",
            Self::NotFound => "not_found",
            Self::StoreNotFound => "store_not_found",
            Self::StoreSuspended => "store_suspended",
            Self::PreconditionFailed => "precondition_failed",
            Self::RateLimited => "rate_limited",
            Self::ClientTokenNotAllowed => "client_token_not_allowed",
            Self::NotAllowed => "not_allowed",
            Self::ServiceUnavailable => "service_unavailable",
            Self::InternalServerError => "internal_server_error",
        }
    }

    /// The code of this name.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|code| code.name() == name)
    }

    /// The HTTP status that goes with it.
    #[must_use]
    pub const fn status(self) -> http::StatusCode {
        use http::StatusCode;
        match self {
            Self::BadRequest => StatusCode::BAD_REQUEST,
            Self::Forbidden
            | Self::StoreNotFound
            | Self::StoreSuspended
            | Self::ClientTokenNotAllowed
            | Self::NotAllowed => StatusCode::FORBIDDEN,
            Self::NotFound => StatusCode::NOT_FOUND,
            Self::PreconditionFailed => StatusCode::PRECONDITION_FAILED,
            Self::RateLimited => StatusCode::TOO_MANY_REQUESTS,
            Self::ServiceUnavailable => StatusCode::SERVICE_UNAVAILABLE,
            Self::InternalServerError => StatusCode::INTERNAL_SERVER_ERROR,
        }
    }

    /// The code that a server answers for an error of this kind.
    #[must_use]
    pub const fn of(kind: ErrorKind) -> Self {
        match kind {
            ErrorKind::Usage | ErrorKind::AlreadyExists | ErrorKind::Unrepresentable => Self::BadRequest,
            ErrorKind::LostRace => Self::PreconditionFailed,
            ErrorKind::NotFound => Self::NotFound,
            ErrorKind::Denied => Self::Forbidden,
            ErrorKind::Suspended => Self::StoreSuspended,
            ErrorKind::Throttled { .. } => Self::RateLimited,
            ErrorKind::NotApplied
            | ErrorKind::NoSpace
            | ErrorKind::Busy
            | ErrorKind::WrongPhase
            | ErrorKind::Interrupted => Self::ServiceUnavailable,
            ErrorKind::OutcomeUnknown
            | ErrorKind::Corrupt
            | ErrorKind::Budget
            | ErrorKind::GateClosed
            | ErrorKind::Internal => Self::InternalServerError,
        }
    }

    /// What a refusal with this code means to a client. `write` is whether the request could have
    /// changed the store: then a failed service leaves it unknown whether it did.
    #[must_use]
    pub fn kind(self, message: &str, retry_after: Option<Duration>, write: bool) -> ErrorKind {
        match self {
            Self::BadRequest if message.contains("already exists") => ErrorKind::AlreadyExists,
            Self::BadRequest | Self::NotAllowed => ErrorKind::Usage,
            Self::Forbidden | Self::StoreNotFound | Self::ClientTokenNotAllowed => ErrorKind::Denied,
            Self::NotFound => ErrorKind::NotFound,
            Self::StoreSuspended => ErrorKind::Suspended,
            Self::PreconditionFailed => ErrorKind::LostRace,
            Self::RateLimited => ErrorKind::Throttled { retry_after },
            Self::ServiceUnavailable | Self::InternalServerError if write => ErrorKind::OutcomeUnknown,
            Self::ServiceUnavailable | Self::InternalServerError => ErrorKind::NotApplied,
        }
    }
}

fn time_text(time: Timestamp) -> String {
    format!("{time:.3}")
}

fn time(pathname: &str, text: &str) -> Result<Timestamp> {
    text.parse().map_err(|error| {
        Error::new(ErrorKind::Corrupt, "read a reply")
            .key(pathname)
            .message("its `uploadedAt` is not a time")
            .source(error)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_code_has_its_own_name_and_comes_back_from_it() {
        for code in Code::ALL {
            assert_eq!(Code::from_name(code.name()), Some(code));
        }
        assert_eq!(Code::from_name("conflict"), None);
    }

    #[test]
    fn what_a_server_says_is_what_a_client_understands() {
        let wait = Some(Duration::from_secs(3));
        for kind in [
            ErrorKind::Usage,
            ErrorKind::LostRace,
            ErrorKind::NotFound,
            ErrorKind::Denied,
            ErrorKind::Suspended,
            ErrorKind::Throttled { retry_after: wait },
            ErrorKind::OutcomeUnknown,
        ] {
            assert_eq!(Code::of(kind).kind("", wait, true), kind);
        }
        assert_eq!(
            Code::of(ErrorKind::AlreadyExists).kind(EXISTS_MESSAGE, None, true),
            ErrorKind::AlreadyExists
        );
    }

    #[test]
    fn a_failed_service_leaves_only_writes_in_doubt() {
        assert_eq!(Code::ServiceUnavailable.kind("", None, true), ErrorKind::OutcomeUnknown);
        assert_eq!(Code::ServiceUnavailable.kind("", None, false), ErrorKind::NotApplied);
    }

    #[test]
    fn a_page_that_has_more_must_say_where() {
        let reply = ListReply { has_more: true, cursor: Some(String::new()), ..ListReply::default() };
        assert_eq!(ListPage::try_from(reply).unwrap_err().kind(), ErrorKind::Corrupt);
    }
}
