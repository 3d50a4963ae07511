//! The target in memory, for unit and property tests.
