//! Errors of the SDK, by what they mean to the caller. The only place that knows DynamoDB's error codes.

use std::error::Error as StdError;

use aws_sdk_dynamodb::error::{ProvideErrorMetadata, SdkError};

use crate::error::{Error, ErrorKind};

/// A message of the endpoint is cut here: some quote whole requests, signed headers included.
const MESSAGE_CHARS_MAX: usize = 300;

/// A failed attempt.
#[derive(Debug)]
pub(super) struct Failure {
    pub(super) error: Error,
    /// No connection could be made.
    pub(super) unreachable: bool,
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Self { error, unreachable: false }
    }
}

/// What a request was, for its errors.
#[derive(Debug, Clone, Copy)]
pub(super) struct Call<'a> {
    pub(super) operation: &'static str,
    /// A table's name, or a key.
    pub(super) subject: &'a str,
    /// A write whose reply is lost may have been applied.
    pub(super) writes: bool,
    pub(super) endpoint: &'a str,
}

impl Call<'_> {
    pub(super) fn error(&self, kind: ErrorKind) -> Error {
        Error::new(kind, self.operation).key(self.subject)
    }

    /// The kind of a failure after which nobody knows whether the request was carried out.
    const fn lost(&self) -> ErrorKind {
        if self.writes { ErrorKind::OutcomeUnknown } else { ErrorKind::NotApplied }
    }

    /// Converts a failure of the SDK by its meaning.
    pub(super) fn convert<E>(&self, error: SdkError<E>) -> Failure
    where
        E: ProvideErrorMetadata + StdError + Send + Sync + 'static,
    {
        let error = match error {
            SdkError::ServiceError(service) => {
                let status = service.raw().status().as_u16();
                let meta = service.err().meta();
                self.service_error(meta.code().unwrap_or_default(), meta.message(), status)
            }
            SdkError::ResponseError(response) => {
                let status = response.raw().status().as_u16();
                let kind = match status {
                    429 => ErrorKind::Throttled { retry_after: None },
                    400..=499 => ErrorKind::Internal,
                    // A server error, or a success whose body was cut off.
                    _ => self.lost(),
                };
                self.error(kind).message(format!("a reply with status {status} that cannot be read"))
            }
            SdkError::TimeoutError(_) => self.error(self.lost()).message("no reply in time"),
            SdkError::DispatchFailure(failure) => {
                if failure.as_connector_error().is_some_and(never_connected) {
                    let error = self.unreachable().source(SdkError::<E>::DispatchFailure(failure));
                    return Failure { error, unreachable: true };
                }
                if failure.as_connector_error().is_some_and(lacks_credentials) {
                    self.error(ErrorKind::Denied)
                        .message("no AWS credentials")
                        .hint("set AWS_PROFILE, or AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or log in")
                        .source(SdkError::<E>::DispatchFailure(failure))
                } else {
                    self.error(self.lost())
                        .message("the connection broke before the reply was complete")
                        .source(SdkError::<E>::DispatchFailure(failure))
                }
            }
            // The request was never sent.
            other => self.error(ErrorKind::Internal).message("the request could not be built").source(other),
        };
        error.into()
    }

    fn unreachable(&self) -> Error {
        let hint = if self.endpoint.starts_with("http") {
            format!("is {} the right endpoint, and is it running?", self.endpoint)
        } else {
            "is the network up, and is the region right?".to_owned()
        };
        self.error(ErrorKind::NotApplied)
            .message(format!("cannot connect to DynamoDB at {}", self.endpoint))
            .hint(hint)
    }

    /// An error that the endpoint reported, by its code.
    pub(super) fn service_error(&self, code: &str, message: Option<&str>, status: u16) -> Error {
        let message = readable(message.unwrap_or_default());
        let kind = self.kind_of(code, &message, status);
        let error = self.error(kind).message(match (code, message.as_str()) {
            ("", "") => format!("status {status}"),
            ("", message) => message.to_owned(),
            (code, "") => code.to_owned(),
            (code, message) => format!("{code}: {message}"),
        });
        match kind {
            ErrorKind::Denied => match missing_action(&message) {
                Some(action) => error.hint(format!(
                    "allow {action} on {}; `migrate provision --policy` prints what each command needs",
                    self.subject
                )),
                None => error,
            },
            ErrorKind::NotFound => error.hint("run `migrate provision` to create what is missing"),
            ErrorKind::Usage => error.hint("compare the plan's `[target]` with the table"),
            ErrorKind::NoSpace | ErrorKind::Internal if disk_fails(&message) => error.hint(
                "nothing was lost; free some space on the disk of the embedded tables, then run the same command again",
            ),
            _ => error,
        }
    }

    fn kind_of(&self, code: &str, message: &str, status: u16) -> ErrorKind {
        match code {
            // The embedded engine's, in SQLite's words.
            _ if message.contains(DISK_FULL) => ErrorKind::NoSpace,
            "ProvisionedThroughputExceededException"
            | "ProvisionedThroughputExceeded"
            | "ThrottlingException"
            | "ThrottlingError"
            | "Throttling"
            | "RequestLimitExceeded"
            | "LimitExceededException" => ErrorKind::Throttled { retry_after: None },
            "TransactionConflictException"
            | "TransactionConflict"
            | "ReplicatedWriteConflictException"
            | "ResourceInUseException" => ErrorKind::NotApplied,
            // An earlier attempt of this very request is still being carried out.
            "TransactionInProgressException" => self.lost(),
            "AccessDeniedException"
            | "AccessDenied"
            | "UnrecognizedClientException"
            | "InvalidClientTokenId"
            | "ExpiredTokenException"
            | "ExpiredToken"
            | "RequestExpired"
            | "InvalidSignatureException"
            | "IncompleteSignature"
            | "IncompleteSignatureException"
            | "MissingAuthenticationToken"
            | "MissingAuthenticationTokenException"
            | "OptInRequired"
            | "NotAuthorized" => ErrorKind::Denied,
            "ResourceNotFoundException" | "ResourceNotFound" | "TableNotFoundException" => {
                ErrorKind::NotFound
            }
            "ConditionalCheckFailedException" | "ConditionalCheckFailed" => ErrorKind::LostRace,
            "DuplicateItemException" | "DuplicateItem" => ErrorKind::AlreadyExists,
            "ItemCollectionSizeLimitExceededException" | "ItemCollectionSizeLimitExceeded" => {
                ErrorKind::Unrepresentable
            }
            "ValidationException" | "ValidationError" => {
                if message.contains("tem size") {
                    ErrorKind::Unrepresentable
                } else if message.contains("does not have the specified index") {
                    ErrorKind::NotFound
                } else if message.contains("does not match the schema") || message.contains("Missing the key")
                {
                    ErrorKind::Usage
                } else if self.writes {
                    // Some limit of an item that is not checked here: its pathname fails, the others go on.
                    ErrorKind::Unrepresentable
                } else {
                    ErrorKind::Internal
                }
            }
            // Only an engine on this machine says so: nothing was applied, and no repetition helps.
            "InternalServerError" if disk_fails(message) => ErrorKind::Internal,
            _ if status == 429 => ErrorKind::Throttled { retry_after: None },
            // A write may succeed behind an InternalServerError (AWS, "Error handling with DynamoDB").
            _ if status >= 500 || matches!(code, "InternalServerError" | "InternalFailure") => self.lost(),
            _ => ErrorKind::Internal,
        }
    }
}

/// SQLite's words for a disk that is full.
const DISK_FULL: &str = "database or disk is full";

/// Whether SQLite's words for a disk that is full, or can't be written, are in a message.
fn disk_fails(message: &str) -> bool {
    message.contains(DISK_FULL) || message.contains("disk I/O error")
}

/// Whether the connection was never made, so that nothing was sent.
pub(super) fn never_connected(error: &aws_sdk_dynamodb::error::ConnectorError) -> bool {
    chain(error).any(|cause| {
        cause
            .downcast_ref::<hyper_util::client::legacy::Error>()
            .is_some_and(hyper_util::client::legacy::Error::is_connect)
            || cause
                .downcast_ref::<std::io::Error>()
                .is_some_and(|error| error.kind() == std::io::ErrorKind::ConnectionRefused)
    })
}

/// Whether no provider of credentials had any; its errors are known by their words alone.
fn lacks_credentials(error: &aws_sdk_dynamodb::error::ConnectorError) -> bool {
    chain(error).any(|cause| cause.to_string().to_lowercase().contains("credentials"))
}

fn chain<'a>(error: &'a (dyn StdError + 'static)) -> impl Iterator<Item = &'a (dyn StdError + 'static)> {
    std::iter::successors(Some(error), |error| (*error).source())
}

/// The first line of a message, cut to a readable length.
fn readable(message: &str) -> String {
    message.lines().next().unwrap_or_default().chars().take(MESSAGE_CHARS_MAX).collect()
}

/// The IAM action that a denial names: `… is not authorized to perform: dynamodb:PutItem on resource: …`.
fn missing_action(message: &str) -> Option<&str> {
    let (_, rest) = message.split_once("to perform: ")?;
    rest.split_whitespace().next()
}

#[cfg(test)]
mod tests {
    use super::*;

    const CALL: Call<'static> =
        Call { operation: "write item", subject: "fuse-main", writes: true, endpoint: "eu-west-2" };

    #[test]
    fn codes_become_kinds_by_meaning() {
        let throttled = ErrorKind::Throttled { retry_after: None };
        for (code, message, status, expected) in [
            ("ThrottlingException", "", 400, throttled),
            ("TransactionConflictException", "", 400, ErrorKind::NotApplied),
            ("TransactionInProgressException", "", 400, ErrorKind::OutcomeUnknown),
            ("InternalServerError", "", 500, ErrorKind::OutcomeUnknown),
            ("", "<html>", 503, ErrorKind::OutcomeUnknown),
            ("ExpiredTokenException", "", 400, ErrorKind::Denied),
            ("ResourceNotFoundException", "", 400, ErrorKind::NotFound),
            ("ValidationException", "Item size has exceeded", 400, ErrorKind::Unrepresentable),
            (
                "ValidationException",
                "The provided key element does not match the schema",
                400,
                ErrorKind::Usage,
            ),
            ("ValidationException", "One or more parameter values", 400, ErrorKind::Unrepresentable),
            ("Whatever", "", 400, ErrorKind::Internal),
        ] {
            let error = CALL.service_error(code, Some(message), status);
            assert_eq!(error.kind(), expected, "{code} {message}");
        }
        let read = Call { writes: false, ..CALL };
        assert_eq!(read.service_error("InternalServerError", None, 500).kind(), ErrorKind::NotApplied);
        let odd = read.service_error("ValidationException", Some("One or more parameter values"), 400);
        assert_eq!(odd.kind(), ErrorKind::Internal);
    }

    #[test]
    fn a_denial_names_the_missing_action() {
        let message = "User: arn:aws:iam::1:user/x is not authorized to perform: dynamodb:PartiQLInsert on \
                       resource: arn:aws:dynamodb:eu-west-2:1:table/fuse-main because no policy allows it";
        let error = CALL.service_error("AccessDeniedException", Some(message), 400);
        assert_eq!(error.kind(), ErrorKind::Denied);
        let advice = error.advice().unwrap_or_default();
        assert!(advice.starts_with("allow dynamodb:PartiQLInsert on fuse-main;"), "{advice}");
    }

    #[test]
    fn a_quoted_request_is_cut_off() {
        let message =
            "The signature does not match.\n\nThe Canonical String was\nx-amz-security-token:SECRET";
        let error = CALL.service_error("InvalidSignatureException", Some(message), 403);
        assert!(!error.to_string().contains("SECRET"), "{error}");
    }

    #[test]
    fn a_full_disk_is_not_tried_again() {
        for words in ["backend: I/O error: disk I/O error", "backend: I/O error: database or disk is full"] {
            let error = CALL.service_error("InternalServerError", Some(words), 500);
            assert!(!error.kind().policy().retry && error.advice().unwrap().contains("disk"), "{error}");
            assert_eq!(error.kind() == ErrorKind::NoSpace, words.contains("full"), "{error}");
        }
        let busy = CALL.service_error("InternalServerError", Some("try again"), 500);
        assert_ne!(busy.kind(), ErrorKind::Internal);
    }
}
