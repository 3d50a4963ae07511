//! The integration tests: one binary, a module per feature.
#![expect(clippy::unwrap_used, reason = "a test ends at the first surprise")]

mod architecture;
#[cfg(feature = "embedded")]
mod bad_input;
mod blob_bad_input;
mod blob_client;
mod blob_memory;
mod blob_sdk;
mod blob_sdk_python;
mod blob_server;
mod blob_tls;
mod canonical;
#[cfg(feature = "embedded")]
mod check;
mod cli;
mod core;
#[cfg(feature = "embedded")]
mod direct;
#[cfg(feature = "embedded")]
mod drill;
mod emulate;
mod export;
#[cfg(feature = "embedded")]
mod finish;
mod fixture;
#[cfg(feature = "embedded")]
mod flip_faults;
#[cfg(feature = "embedded")]
mod foreign;
#[cfg(all(feature = "embedded", target_os = "linux"))]
mod full_disk;
#[cfg(feature = "embedded")]
mod gateway;
#[cfg(feature = "embedded")]
mod gateway_bad_input;
#[cfg(feature = "embedded")]
mod gateway_faults;
#[cfg(feature = "embedded")]
mod gateway_reads;
#[cfg(feature = "embedded")]
mod gateway_sdk;
#[cfg(feature = "embedded")]
mod init;
mod json_cases;
#[cfg(feature = "embedded")]
mod kill;
#[cfg(feature = "embedded")]
mod legible;
#[cfg(feature = "embedded")]
mod local;
#[cfg(feature = "embedded")]
mod machine;
mod mapping;
mod mapping_local;
#[cfg(feature = "embedded")]
mod migration;
#[cfg(feature = "embedded")]
mod mode;
#[cfg(all(feature = "embedded", unix))]
mod owner;
mod plan;
#[cfg(feature = "embedded")]
mod secrets;
mod shapes;
mod support;
#[cfg(feature = "embedded")]
mod target_embedded;
#[cfg(feature = "embedded")]
mod target_faults;
mod target_local;
mod target_memory;
#[cfg(feature = "embedded")]
mod terminal;
