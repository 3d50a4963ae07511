//! Processes that write to both stores: their sessions, and the one that loads the mirror.
//!
//! Every process that can write to a store opens a [`session::Session`] first and closes it last.

pub mod direct;
pub mod gateway;
pub mod metrics;
pub mod mirroring;
pub mod once;
mod one_plan;
pub mod replay;
pub mod serve;
pub mod session;
mod stopping;
