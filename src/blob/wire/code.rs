//! The one table of refusals: kinds of errors, codes on the wire, and HTTP statuses.

use std::time::Duration;

use crate::blob::store::Access;
use crate::error::ErrorKind;

/// What a put says of a name that is taken.
pub const EXISTS_MESSAGE: &str = "This blob already exists, use `allowOverwrite: true` if you want to overwrite \
     it. Or `addRandomSuffix: true` to generate a unique filename.";

/// What a write says that names the other access mode.
#[must_use]
pub fn access_message(asked: Access, store: Access) -> String {
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
            ErrorKind::NotApplied | ErrorKind::Busy | ErrorKind::WrongPhase | ErrorKind::Interrupted => {
                Self::ServiceUnavailable
            }
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
}
