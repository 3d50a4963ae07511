//! The export: one SQLite file that holds what was listed, and the bodies by pathname and ETag.
//!
//! [`Snapshot`] is the file, [`Export`] fills it, [`Manifest`] is what a finished export says of itself,
//! and [`budget`] knows what Blob operations cost. The file is a cache of bodies: `body(pathname, etag)`
//! saves a read where the ETag is the one that the store's `head` gives. It is never evidence of what the
//! store holds now, and nothing in here may treat it so.
//!
//! One process writes at a time (a lock file beside the snapshot); any number may read meanwhile, and see
//! whole commits only. Progress is what is durable: a run can be killed at any moment, and the next one
//! goes on from the bodies and the pages that were committed.

mod bodies;
pub mod budget;
mod export;
mod file;
mod manifest;
mod report;
mod rows;
mod run;
mod session;

pub use export::{Export, ExportOptions};
pub use file::Snapshot;
pub use manifest::Manifest;
pub use report::{ExportReport, FailedBody};
pub use rows::{HeldBody, SnapshotBlob, Verdict};

#[cfg(test)]
mod tests;
