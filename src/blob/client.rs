//! The HTTP client of a Vercel Blob store.
