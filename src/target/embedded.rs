//! The embedded DynamoDB engine, served over HTTP on loopback.
