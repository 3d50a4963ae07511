//! Vercel Blob, three ways behind one trait.
//!
//! [`BlobStore`] says what a Blob store can do. [`client`] speaks to one over HTTP, [`memory`] is one,
//! and [`server`] serves any of them over the Vercel Blob HTTP API. So the emulator is
//! `server(MemoryBlob)`, and a gateway is `server(DualWrite(..))`. Client and server speak through [`wire`].
//!
//! Nothing in here knows of plans, of DynamoDB or of the protocol.

pub mod certificate;
pub mod client;
pub mod emulator;
pub mod faults;
pub mod fetch;
pub(crate) mod listing;
pub mod location;
pub mod media;
pub mod memory;
pub(crate) mod pace;
pub mod rules;
pub mod server;
pub mod space;
pub mod spool;
pub mod store;
pub mod suffix;
pub mod types;
pub mod wire;

pub use fetch::{Fetched, Fetcher};
pub use spool::Spooled;
pub use store::{BlobStore, Body};
pub use types::{ETag, Head, ListPage, ListRequest, ListedBlob, Pathname, Version};
