//! `migrate` moves an application's data from Vercel Blob to DynamoDB while the application runs, proves
//! at every step that nothing was lost, and can go back.
//!
//! The modules, in the order in which the data flows:
//!
//! - [`plan`]: `migration-plan.md`, which every command executes
//! - [`blob`]: Vercel Blob: the trait of a store, the HTTP client, the server, the in-memory store
//! - [`survey`]: a store that has no plan yet, as a proposal of one
//! - [`snapshot`]: the export: one SQLite file of bodies by ETag
//! - [`mapping`]: from a blob to its items, and back
//! - [`check`]: what a snapshot would become, without writing
//! - [`value`], [`target`]: DynamoDB's values; the two tables behind one trait
//! - [`protocol`]: the decisions, pure
//! - [`converge`]: the operation that makes the mirror of one pathname equal to its authority
//! - [`backfill`]: the bulk caller of converge
//! - [`anchored`]: the application's blobs where DynamoDB is the authority, and Blob as their mirror
//! - [`dual_write`]: sessions of the processes that write
//! - [`sweep`]: lists both sides, finds drift, repairs it
//! - [`gate`]: checks and their evidence
//! - [`cutover`]: phase, read mode, epoch
//! - [`hook`]: the command of the plan that is told of each flip
//! - [`cli`]: one file per command
//! - [`fixture`]: example data, for rehearsals and tests
//!
//! [`error`], [`event`], [`clock`], [`digest`] and [`endpoint`] are used by all of them.

pub mod anchored;
pub mod backfill;
pub mod blob;
pub mod check;
pub mod cli;
pub mod clock;
pub mod converge;
pub mod cutover;
pub mod digest;
pub mod dual_write;
pub mod endpoint;
pub mod error;
pub mod event;
pub mod fixture;
mod folder;
pub mod gate;
pub mod hook;
mod legible;
pub mod mapping;
pub mod plan;
pub mod protocol;
mod scratch;
pub mod snapshot;
pub mod survey;
pub mod sweep;
pub mod target;
#[doc(hidden)]
pub mod testing;
pub mod value;

pub use error::{Error, ErrorKind, Exit, Result};
