//! Serves any [`super::BlobStore`] over the Vercel Blob HTTP API.
