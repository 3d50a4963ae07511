//! What tests need of the library: contract suites that every implementation of a trait must pass, and
//! a clock that stands still until it is told to move.
//!
//! Always compiled, so that plain `cargo test` finds it; no other module may use it outside its tests.

pub mod blob_contract;
pub mod clock;
pub mod fault_proxy;
pub mod target_contract;

pub use clock::{JumpingClock, ManualClock};
