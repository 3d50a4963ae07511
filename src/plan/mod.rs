//! `migration-plan.md`: a Markdown document that a team reviews and that the program executes.
//!
//! [`document`] finds the fenced blocks and the check boxes, [`Plan`] is what the blocks say, checked and
//! with defaults. Nothing in here touches a store.

pub mod document;
mod types;

pub use types::*;
