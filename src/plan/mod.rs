//! `migration-plan.md`: a Markdown document that a team reviews and that the program executes.
//!
//! [`document`] finds the fenced blocks and the check boxes, [`Plan`] is what the blocks say, checked and
//! with defaults. Nothing in here touches a store.

mod check;
pub mod compile;
pub mod document;
mod entity;
mod filters;
mod hash;
pub mod input;
mod load;
mod near;
mod overrides;
pub mod pattern;
mod problem;
pub mod records;
mod simple;
pub mod template;
mod types;
mod writers;

pub use check::check;
pub use document::{CheckBox, Document, GATES};
pub use entity::*;
pub use filters::{FILTERS, iso8601};
pub use hash::{PlanHash, mapping_digest};
pub use load::{LoadedPlan, load, parse};
pub use overrides::Override;
pub use problem::{Problem, Step};
pub use types::*;
pub use writers::Writers;
