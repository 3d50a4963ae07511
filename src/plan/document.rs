//! The document around the blocks.
