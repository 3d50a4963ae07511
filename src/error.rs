//! The one error of the library, and the one policy that says what a kind of error means.
//!
//! Every failure is an [`Error`]: its [`ErrorKind`] tells the caller what it may do next, the rest tells
//! a person where it happened. [`ErrorKind::policy`] is the only place where a kind becomes a retry,
//! an exit code or a hint; code that wants one of these asks it there.

use std::borrow::Cow;
use std::time::Duration;

use crate::legible::legible;

/// The result of every fallible operation of this library.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What the caller may do about a failure.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ErrorKind {
    /// What was asked for is not valid: a flag, the plan, an environment variable, a request.
    Usage,
    /// Nothing was applied, and the same request may be sent again.
    NotApplied,
    /// The request may or may not have been applied: look before sending anything again.
    OutcomeUnknown,
    /// Nothing was applied: the store asks for a slower pace, and says how long to wait if it knows.
    Throttled {
        /// How long the store asks to wait, from its `Retry-After`.
        retry_after: Option<Duration>,
    },
    /// A condition did not hold: somebody else wrote first.
    LostRace,
    /// A create found that the name is taken.
    AlreadyExists,
    /// There is no such thing.
    NotFound,
    /// The store refuses these credentials, or they lack a permission.
    Denied,
    /// The store is suspended: every further request fails until its owner acts.
    Suspended,
    /// The data cannot be held by the target without changing it.
    Unrepresentable,
    /// What was read is not what was written: a file, a row or a reply is damaged or of another kind.
    Corrupt,
    /// No space is left on a local disk, for a temporary file say. Nothing that was saved is lost.
    NoSpace,
    /// Another process holds what this one needs.
    Busy,
    /// The phase, the epoch or an open session does not allow this.
    WrongPhase,
    /// The request budget does not allow this.
    Budget,
    /// A gate that the command needs is closed.
    GateClosed,
    /// Interrupted by the user; what was done so far is kept.
    Interrupted,
    /// A defect of this program, or something no other kind describes.
    Internal,
}

/// What a kind of error means to the program and to the user.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Policy {
    /// Whether sending the same request again is both safe and of use.
    pub retry: bool,
    /// The exit code of a command that ends with this error.
    pub exit: Exit,
    /// What to do next, where the error itself has no better advice.
    pub hint: Option<&'static str>,
}

/// The exit codes of the program, documented in the README and in `--help`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Exit {
    /// Done, nothing to report.
    Done = 0,
    /// An unexpected failure.
    Unexpected = 1,
    /// The command line, the plan or the environment is wrong.
    Usage = 2,
    /// Some keys failed; the others are done.
    SomeKeysFailed = 3,
    /// A gate is closed.
    GateClosed = 4,
    /// The two stores differ.
    DriftFound = 5,
    /// The phase or epoch does not allow this, or another process is in the way.
    WrongPhase = 6,
    /// The request budget was refused.
    BudgetRefused = 7,
    /// A local disk is full.
    NoSpace = 8,
    /// Interrupted; a rerun resumes.
    Interrupted = 130,
}

impl Exit {
    /// All of them, in the order of their codes.
    pub const ALL: [Self; 10] = [
        Self::Done,
        Self::Unexpected,
        Self::Usage,
        Self::SomeKeysFailed,
        Self::GateClosed,
        Self::DriftFound,
        Self::WrongPhase,
        Self::BudgetRefused,
        Self::NoSpace,
        Self::Interrupted,
    ];

    /// The number that the process ends with.
    #[must_use]
    pub const fn code(self) -> u8 {
        self as u8
    }

    /// What it means, as `--help` and the README say it.
    #[must_use]
    pub const fn meaning(self) -> &'static str {
        match self {
            Self::Done => "done, nothing to report",
            Self::Unexpected => "an unexpected failure; nothing that was saved is lost",
            Self::Usage => "the command line, the plan, the environment or the credentials are wrong",
            Self::SomeKeysFailed => "some keys, or the hook, failed; the rest is done",
            Self::GateClosed => "a gate is closed",
            Self::DriftFound => "the two stores differ",
            Self::WrongPhase => {
                "the phase or the epoch does not allow this, or another process is in the way"
            }
            Self::BudgetRefused => "the request budget does not allow this",
            Self::NoSpace => "no space is left on a local disk; nothing that was saved is lost",
            Self::Interrupted => "interrupted; a rerun resumes",
        }
    }
}

impl ErrorKind {
    /// The one policy: what this kind means for retrying, for the exit code and for the hint.
    #[must_use]
    pub const fn policy(self) -> Policy {
        let (retry, exit, hint) = match self {
            Self::Usage => (false, Exit::Usage, None),
            Self::NotApplied => {
                (true, Exit::Unexpected, Some("nothing was lost; run the same command again to resume"))
            }
            Self::OutcomeUnknown => (
                false,
                Exit::Unexpected,
                Some("run the same command again: it looks at what is stored before it writes"),
            ),
            Self::Throttled { .. } => (
                true,
                Exit::Unexpected,
                Some("the store asks for a slower pace; wait, then run the same command again"),
            ),
            Self::LostRace => {
                (false, Exit::Unexpected, Some("another writer was first; run the same command again"))
            }
            Self::AlreadyExists => (false, Exit::Unexpected, None),
            // What the plan or the command line names is not there.
            Self::NotFound => (false, Exit::Usage, None),
            Self::Denied => (
                false,
                Exit::Usage,
                Some(
                    "check the credentials and what they permit; `migrate provision --policy` prints what each command needs",
                ),
            ),
            Self::Suspended => (
                false,
                Exit::Unexpected,
                Some(
                    "the store is suspended (allowance or billing); what was saved stays, and the same command resumes once it is open again",
                ),
            ),
            Self::Unrepresentable => (false, Exit::SomeKeysFailed, None),
            Self::Corrupt => (false, Exit::Unexpected, None),
            Self::NoSpace => {
                (false, Exit::NoSpace, Some("make room there, then run the same command again to resume"))
            }
            Self::Busy => (false, Exit::WrongPhase, Some("wait for the other process, or stop it")),
            Self::WrongPhase => {
                (false, Exit::WrongPhase, Some("`migrate status` shows the phase and the next step"))
            }
            Self::Budget => (
                false,
                Exit::BudgetRefused,
                Some("raise the limit with --max-operations if the cost is acceptable"),
            ),
            Self::GateClosed => (false, Exit::GateClosed, None),
            Self::Interrupted => (false, Exit::Interrupted, Some("run the same command again to resume")),
            Self::Internal => (false, Exit::Unexpected, None),
        };
        Policy { retry, exit, hint }
    }

    /// Whether this concerns one key, so that work on the others may go on.
    #[must_use]
    pub const fn is_of_one_key(self) -> bool {
        match self {
            Self::Usage
            | Self::NotApplied
            | Self::OutcomeUnknown
            | Self::Throttled { .. }
            | Self::LostRace
            | Self::AlreadyExists
            | Self::NotFound
            | Self::Unrepresentable
            | Self::Corrupt => true,
            Self::Denied
            | Self::Suspended
            | Self::NoSpace
            | Self::Busy
            | Self::WrongPhase
            | Self::Budget
            | Self::GateClosed
            | Self::Interrupted
            | Self::Internal => false,
        }
    }

    /// The name of this kind in `--output json`.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Usage => "usage",
            Self::NotApplied => "not-applied",
            Self::OutcomeUnknown => "outcome-unknown",
            Self::Throttled { .. } => "throttled",
            Self::LostRace => "lost-race",
            Self::AlreadyExists => "already-exists",
            Self::NotFound => "not-found",
            Self::Denied => "denied",
            Self::Suspended => "suspended",
            Self::Unrepresentable => "unrepresentable",
            Self::Corrupt => "corrupt",
            Self::NoSpace => "no-space",
            Self::Busy => "busy",
            Self::WrongPhase => "wrong-phase",
            Self::Budget => "budget",
            Self::GateClosed => "gate-closed",
            Self::Interrupted => "interrupted",
            Self::Internal => "internal",
        }
    }
}

type Source = Box<dyn std::error::Error + Send + Sync>;

/// A failure: what kind, while doing what, to which key, and why.
///
/// Displayed as a lower-case fragment, `operation key: message`; the causes follow by
/// [`std::error::Error::source`]. No secret and no body is ever part of it.
#[derive(Debug, thiserror::Error)]
#[error(transparent)]
pub struct Error(Box<Failure>);

#[derive(Debug, thiserror::Error)]
#[error("{}", self.describe())]
struct Failure {
    kind: ErrorKind,
    operation: Cow<'static, str>,
    key: Option<String>,
    message: Option<String>,
    hint: Option<String>,
    #[source]
    source: Option<Source>,
}

impl Error {
    /// An error of `kind` that happened during `operation` (a lower-case fragment such as `list blobs`).
    pub fn new(kind: ErrorKind, operation: impl Into<Cow<'static, str>>) -> Self {
        Self(Box::new(Failure {
            kind,
            operation: operation.into(),
            key: None,
            message: None,
            hint: None,
            source: None,
        }))
    }

    /// Names what it happened to: a pathname, a table, a file, `file:line`. What is no visible text is escaped.
    #[must_use]
    pub fn key(mut self, key: impl std::fmt::Display) -> Self {
        self.0.key = Some(legible(&key.to_string()).into_owned());
        self
    }

    /// Says in words what is wrong, as a lower-case fragment.
    #[must_use]
    pub fn message(mut self, message: impl std::fmt::Display) -> Self {
        self.0.message = Some(message.to_string());
        self
    }

    /// Says what to do next, better than the policy's general hint can.
    #[must_use]
    pub fn hint(mut self, hint: impl std::fmt::Display) -> Self {
        self.0.hint = Some(hint.to_string());
        self
    }

    /// Keeps the cause.
    #[must_use]
    pub fn source(mut self, source: impl Into<Source>) -> Self {
        self.0.source = Some(source.into());
        self
    }

    /// What the caller may do about it.
    #[must_use]
    pub fn kind(&self) -> ErrorKind {
        self.0.kind
    }

    /// The operation during which it happened.
    #[must_use]
    pub fn operation(&self) -> &str {
        &self.0.operation
    }

    /// What it happened to, where that is known.
    #[must_use]
    pub fn subject(&self) -> Option<&str> {
        self.0.key.as_deref()
    }

    /// The error's own message, without operation and key.
    #[must_use]
    pub fn detail(&self) -> Option<&str> {
        self.0.message.as_deref()
    }

    /// What to do next: the error's own advice, else the policy's.
    #[must_use]
    pub fn advice(&self) -> Option<&str> {
        self.0.hint.as_deref().or(self.0.kind.policy().hint)
    }
}

impl Failure {
    fn describe(&self) -> String {
        let mut text = self.operation.to_string();
        if let Some(key) = &self.key {
            text.push(' ');
            text.push_str(key);
        }
        if let Some(message) = &self.message {
            text.push_str(": ");
            text.push_str(message);
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_it_happened_to_is_named_in_one_line() {
        let error =
            Error::new(ErrorKind::NotFound, "read a table").key("a\nerror: b\u{202e}").message("absent");
        assert_eq!(error.to_string(), r"read a table a\u{a}error: b\u{202e}: absent");
    }
}
