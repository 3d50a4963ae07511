//! What an export tells when it is over.

use serde::{Deserialize, Serialize};

use super::budget::Estimate;
use super::manifest::Manifest;
use crate::blob::Pathname;
use crate::blob::client::Operations;
use crate::error::Exit;

/// How many names of a kind a report shows.
pub(super) const EXAMPLES_MAX: u32 = 20;

/// What an export did. Everything it counts is durable.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct ExportReport {
    /// The run's id; the same as before where an unfinished run was resumed.
    pub run: i64,
    /// Whether this went on with a run that was interrupted.
    pub resumed: bool,
    /// What was expected when the listing was complete.
    pub estimate: Estimate,
    /// The manifest; none where bodies are missing.
    pub manifest: Option<Manifest>,
    /// Blobs that were listed and are still there.
    pub listed: u64,
    /// Those that an entity takes.
    pub mapped: u64,
    /// Those that an ignore rule names.
    pub ignored: u64,
    /// Those that an accept rule names.
    pub accepted: u64,
    /// Those that no rule names.
    pub unmatched: u64,
    /// The first names among them.
    pub unmatched_names: Vec<Pathname>,
    /// Those that several rules name.
    pub ambiguous: u64,
    /// The first names among them.
    pub ambiguous_names: Vec<Pathname>,
    /// Those that were there before, or were listed, and are not there any more.
    pub gone: u64,
    /// Bodies that were fetched now.
    pub fetched: u64,
    /// Their length.
    pub fetched_bytes: u64,
    /// Bodies that could not be got.
    pub failed: u64,
    /// The first of them.
    pub failures: Vec<FailedBody>,
    /// The operations that were sent now, retries included.
    pub operations: Operations,
}

impl ExportReport {
    /// The exit code of a command that ends with this report.
    #[must_use]
    pub const fn exit(&self) -> Exit {
        if self.failed == 0 { Exit::Done } else { Exit::SomeKeysFailed }
    }
}

/// A body that could not be got, and why.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FailedBody {
    /// Whose body.
    pub pathname: Pathname,
    /// The kind of error.
    pub kind: String,
    /// What happened.
    pub message: String,
}
