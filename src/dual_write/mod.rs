//! Processes that write to both stores: their sessions.
//!
//! Every process that can write to a store opens a [`session::Session`] first and closes it last.

pub mod session;
