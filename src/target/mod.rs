//! The target: two DynamoDB tables, reached through one small trait.
//!
//! [`TargetStore`] says what DynamoDB can really do that this program needs: consistent reads, and
//! conditional writes in transactions. [`dynamodb`] implements it with the AWS SDK, [`memory`] in memory.
//! [`layout`] holds the limits that all of them check. [`control`] lays the control table's rows out on top of it, the same for every implementation.
//!
//! Nothing in here decides *what* to write: that is `protocol` and `mapping`.

pub mod control;
pub mod dynamodb;
#[cfg(feature = "embedded")]
pub mod embedded;
pub mod layout;
pub mod memory;
pub mod space;
pub mod store;

pub use store::{Condition, Outcome, Page, Refusal, Table, TargetStore, Write};
