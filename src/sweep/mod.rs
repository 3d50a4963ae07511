//! Lists both sides, finds where they differ, and repairs it.
//!
//! [`walk`] reads the source page by page together with the anchors; [`compare`] judges one pathname,
//! purely; [`Sweep`] drives a whole comparison in both directions, with coverage and a self-test.
//!
//! Where DynamoDB is the authority, [`BackSweep`] holds the items against their anchors, and Blob against them.
//!
//! A sweep never takes a moving key for equal or for drift: what differs is judged again, from anchor to
//! anchor, and is `Unverified` if it never holds still.

mod back;
pub mod compare;
pub mod drift;
pub mod indexes;
mod judge;
mod ledger;
mod live;
mod long;
mod repair;
mod report;
mod run;
mod self_test;
pub mod walk;

pub use back::{BackSweep, BlobCoverage};
pub use drift::{Drift, DriftKind};
pub use live::Bypass;
pub use report::SweepReport;
pub use run::{Level, Sweep};
