//! Replies: JSON, and refusals in the API's own form.

use std::time::Duration;

use axum::body::Body;
use axum::response::{IntoResponse, Response};
use http::{HeaderValue, StatusCode, header};
use serde::Serialize;

use crate::blob::wire::{Code, ErrorBody, ErrorReply};
use crate::error::{Error, ErrorKind};

/// A request that is not carried out, and what its sender is told.
#[derive(Debug)]
pub(super) struct Refusal {
    code: Code,
    message: String,
    retry_after: Option<Duration>,
}

impl Refusal {
    pub(super) fn new(code: Code, message: impl Into<String>) -> Self {
        Self { code, message: message.into(), retry_after: None }
    }

    pub(super) fn bad_request(message: impl Into<String>) -> Self {
        Self::new(Code::BadRequest, message)
    }

    /// Of another token, and of none.
    pub(super) fn forbidden() -> Self {
        Self::new(Code::Forbidden, "Access denied, please provide a valid token for this resource.")
    }

    pub(super) fn not_found() -> Self {
        Self::new(Code::NotFound, "The requested blob does not exist")
    }
}

impl From<Error> for Refusal {
    fn from(error: Error) -> Self {
        let code = Code::of(error.kind());
        // A full disk stays full until whoever runs the server acts.
        let is_full = error.kind() == ErrorKind::NoSpace;
        if is_full {
            tracing::error!(error = &error as &dyn std::error::Error, "a request failed");
        } else if code.status().is_server_error() {
            tracing::warn!(error = &error as &dyn std::error::Error, "a request failed");
        }
        let retry_after = match error.kind() {
            ErrorKind::Throttled { retry_after } => Some(retry_after.unwrap_or(Duration::from_secs(1))),
            _ => None,
        };
        let message = match error.detail() {
            // Its folder is nobody else's business.
            _ if is_full => "the server has no space left; try again later".to_owned(),
            Some(detail) => detail.to_owned(),
            None => error.to_string(),
        };
        Self { code, message, retry_after }
    }
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        let body =
            ErrorReply { error: ErrorBody { code: self.code.name().to_owned(), message: self.message } };
        let mut response = json(self.code.status(), &body);
        if let Some(wait) = self.retry_after {
            // Whole seconds, and never sooner than is of use.
            let seconds = wait.as_secs() + u64::from(wait.subsec_nanos() > 0);
            response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from(seconds.max(1)));
        }
        response
    }
}

/// A JSON reply, compact.
pub(super) fn json(status: StatusCode, value: &impl Serialize) -> Response {
    let text = serde_json::to_vec(value).expect("invariant: replies are made of text and numbers");
    let mut response = Response::new(Body::from(text));
    *response.status_mut() = status;
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response.headers_mut().insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

/// A JSON reply to a request that was carried out.
pub(super) fn ok(value: &impl Serialize) -> Response {
    json(StatusCode::OK, value)
}
