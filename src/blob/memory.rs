//! A Blob store in memory, stricter than the service.
