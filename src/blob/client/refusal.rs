//! What a reply that is no success means.

use std::time::Duration;

use http::StatusCode;
use http::header::{HeaderMap, HeaderValue, RETRY_AFTER};
use secrecy::{ExposeSecret as _, SecretString};

use crate::blob::wire::{Code, ErrorReply};
use crate::error::{Error, ErrorKind};
use crate::legible::is_hidden;

/// The longest part of a message of the store that is passed on, in characters.
const MESSAGE_MAX: usize = 300;

/// The kind of error, and the words for it, that a refusal has. `write` is whether the request could
/// have changed the store.
///
/// The code of the body counts; where there is none that we know, the status does. A 404 without the
/// API's code does not say that a blob is absent: it says that this is not the Blob API.
///
/// Where the client only `forwards`, the store's words are its own: official clients look for some of them.
pub(super) fn meaning(
    status: StatusCode,
    headers: &HeaderMap,
    body: &[u8],
    write: bool,
    forwards: bool,
) -> (ErrorKind, String) {
    let retry_after = retry_after(headers);
    let Ok(ErrorReply { error }) = serde_json::from_slice(body) else {
        let kind = by_status(status, retry_after, write);
        return (kind, format!("the reply is {status} without the API's error object"));
    };
    let code = if error.code == "unknown_error" {
        Some(Code::InternalServerError)
    } else {
        Code::from_name(&error.code)
    };
    let kind = match code {
        Some(code) => code.kind(&error.message, retry_after, write),
        None => by_status(status, retry_after, write),
    };
    let message = plain(&error.message);
    let words = if forwards { message } else { format!("the store says {}: {message}", plain(&error.code)) };
    (kind, words)
}

/// What a status means where the body does not say.
fn by_status(status: StatusCode, retry_after: Option<Duration>, write: bool) -> ErrorKind {
    match status.as_u16() {
        401 | 403 => ErrorKind::Denied,
        409 | 412 => ErrorKind::LostRace,
        429 => ErrorKind::Throttled { retry_after },
        408 | 425 | 500..=599 if write => ErrorKind::OutcomeUnknown,
        408 | 425 | 500..=599 => ErrorKind::NotApplied,
        404 | 200..=399 => ErrorKind::Corrupt,
        _ => ErrorKind::Usage,
    }
}

/// `Retry-After` in seconds; its other form, a date, depends on the store's clock and is not used.
fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    headers.get(RETRY_AFTER)?.to_str().ok()?.trim().parse().ok().map(Duration::from_secs)
}

/// Text of a store on one line of bounded length.
fn plain(text: &str) -> String {
    text.chars().map(|c| if is_hidden(c) { ' ' } else { c }).take(MESSAGE_MAX).collect()
}

/// The error of a transport that failed. Before the connection stood, nothing was applied.
///
/// A body that its own sender broke off was never whole, so that nothing was applied either: the sender's
/// reason is passed on.
pub(super) fn transport(operation: &'static str, origin: &str, error: reqwest::Error, write: bool) -> Error {
    if let Some(own) = of_the_body(&error) {
        return Error::new(own.kind(), operation).message(own.detail().unwrap_or("the body broke off"));
    }
    let (kind, message) = if error.is_builder() {
        (ErrorKind::Usage, format!("no request can be made for {origin}"))
    } else if error.is_connect() {
        (ErrorKind::NotApplied, format!("can't connect to {origin}"))
    } else {
        let kind = if write { ErrorKind::OutcomeUnknown } else { ErrorKind::NotApplied };
        (kind, format!("the connection to {origin} failed"))
    };
    let failed = Error::new(kind, operation).message(message);
    let failed = if error.is_connect() {
        failed.hint(
            "is this the right URL, and is it up? Nothing was lost: run the same command again to resume",
        )
    } else {
        failed
    };
    // The URL would show a signature if there ever is one in it.
    failed.source(error.without_url())
}

/// Why the body that was to be sent broke off, if that is what happened.
fn of_the_body(error: &reqwest::Error) -> Option<&Error> {
    let first: &(dyn std::error::Error + 'static) = error;
    let own = std::iter::successors(Some(first), |error| error.source())
        .find_map(|error| error.downcast_ref::<Error>());
    own.filter(|own| matches!(own.kind(), ErrorKind::Usage | ErrorKind::NotApplied))
}

/// The header that carries the token; none for a token that no header can carry.
pub(super) fn bearer(token: &SecretString) -> Option<HeaderValue> {
    let token = token.expose_secret();
    if token.is_empty() || !token.bytes().all(|byte| byte.is_ascii_graphic()) {
        return None;
    }
    let mut value = HeaderValue::try_from(format!("Bearer {token}")).ok()?;
    value.set_sensitive(true);
    Some(value)
}

/// The text without the token, should a store ever echo it.
pub(super) fn redact(text: &str, token: &SecretString) -> String {
    text.replace(token.expose_secret(), "[token]")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kind(status: u16, body: &str, write: bool) -> ErrorKind {
        let mut headers = HeaderMap::new();
        headers.insert(RETRY_AFTER, HeaderValue::from_static("7"));
        meaning(StatusCode::from_u16(status).unwrap(), &headers, body.as_bytes(), write, false).0
    }

    fn code(code: &str) -> String {
        format!(r#"{{"error":{{"code":"{code}","message":"m"}}}}"#)
    }

    #[test]
    fn the_code_counts_before_the_status() {
        assert_eq!(kind(400, &code("store_suspended"), false), ErrorKind::Suspended);
        assert_eq!(kind(400, &code("not_found"), false), ErrorKind::NotFound);
        assert_eq!(
            kind(400, &code("rate_limited"), false),
            ErrorKind::Throttled { retry_after: Some(Duration::from_secs(7)) }
        );
        assert_eq!(kind(400, &code("unknown_error"), false), ErrorKind::NotApplied);
        assert_eq!(kind(400, &code("unknown_error"), true), ErrorKind::OutcomeUnknown);
    }

    #[test]
    fn a_body_that_is_not_the_apis_never_says_that_a_blob_is_absent() {
        assert_eq!(kind(404, "<html>not found</html>", false), ErrorKind::Corrupt);
        assert_eq!(kind(404, &code("something_new"), false), ErrorKind::Corrupt);
        assert_eq!(kind(502, "<html>bad gateway</html>", false), ErrorKind::NotApplied);
        assert_eq!(kind(502, "<html>bad gateway</html>", true), ErrorKind::OutcomeUnknown);
        assert_eq!(kind(403, "", false), ErrorKind::Denied);
        assert_eq!(kind(302, "", false), ErrorKind::Corrupt);
    }

    #[test]
    fn a_token_that_no_header_can_carry_is_refused() {
        for token in ["", "a b", "a\nb", "schlüssel"] {
            assert!(bearer(&SecretString::from(token)).is_none(), "{token:?}");
        }
        let header = bearer(&SecretString::from("vercel_blob_rw_abc_secret")).unwrap();
        assert!(!format!("{header:?}").contains("secret"));
    }
}
