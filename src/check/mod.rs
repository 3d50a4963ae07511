//! What a snapshot would become under the plan: every blob is run through it, and nothing is written.
//!
//! [`Check`] accounts for each blob, [`explain`] shows one blob becoming its items step by step. Both read the
//! snapshot and the plan, and nothing else: no store is asked. What was seen is kept on disk, so that
//! memory does not grow with the store.

pub mod explain;
mod ledger;
pub mod price;
mod report;
mod run;

pub use report::{
    Blobs, CheckReport, Collision, EntityReport, HotKey, IndexReport, Quarantined, ReasonCount, SIZES,
    TwinKind, Twins,
};
pub use run::Check;
