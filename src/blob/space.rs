//! A part of a Blob store as a store of its own: the blobs below one prefix, by the rest of their names.
//!
//! Drills run in one, beside the application's blobs.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;

use super::store::{Content, Deadline, GetOptions, Part, PutOptions, Upload};
use super::{BlobStore, Body, ETag, Head, ListPage, ListRequest, Pathname};
use crate::error::Result;

/// Below this prefix of a Blob store are the blobs of drills. No plan maps them.
pub const DRILLS: &str = "migrate-drill/";

/// The blobs of one drill.
pub struct BlobSpace {
    store: Arc<dyn BlobStore>,
    prefix: String,
}

impl BlobSpace {
    /// Those of the drill with this name.
    #[must_use]
    pub fn new(store: Arc<dyn BlobStore>, name: &str) -> Self {
        Self { store, prefix: format!("{DRILLS}{name}/") }
    }

    fn inside(&self, pathname: &Pathname) -> Pathname {
        Pathname::new(format!("{}{}", self.prefix, pathname.as_str()))
    }

    fn outside(&self, pathname: &Pathname) -> Pathname {
        Pathname::new(pathname.as_str().strip_prefix(&self.prefix).unwrap_or(pathname.as_str()))
    }

    fn head(&self, mut head: Head) -> Head {
        head.blob.pathname = self.outside(&head.blob.pathname);
        head
    }
}

#[async_trait]
impl BlobStore for BlobSpace {
    async fn head(&self, pathname: &Pathname) -> Result<Option<Head>> {
        Ok(self.store.head(&self.inside(pathname)).await?.map(|head| self.head(head)))
    }

    async fn list(&self, request: &ListRequest) -> Result<ListPage> {
        let prefix = format!("{}{}", self.prefix, request.prefix);
        let mut page = self.store.list(&ListRequest { prefix, ..request.clone() }).await?;
        for blob in &mut page.blobs {
            blob.pathname = self.outside(&blob.pathname);
        }
        for folder in &mut page.folders {
            *folder = folder.strip_prefix(&self.prefix).unwrap_or(folder).to_owned();
        }
        Ok(page)
    }

    async fn get(&self, pathname: &Pathname, options: &GetOptions) -> Result<Option<Content>> {
        self.store.get(&self.inside(pathname), options).await
    }

    async fn put(&self, pathname: &Pathname, body: Body, options: &PutOptions) -> Result<Head> {
        Ok(self.head(self.store.put(&self.inside(pathname), body, options).await?))
    }

    async fn copy(&self, from: &Pathname, to: &Pathname, options: &PutOptions) -> Result<Head> {
        Ok(self.head(self.store.copy(&self.inside(from), &self.inside(to), options).await?))
    }

    async fn rename(&self, from: &Pathname, to: &Pathname, options: &PutOptions) -> Result<Head> {
        Ok(self.head(self.store.rename(&self.inside(from), &self.inside(to), options).await?))
    }

    async fn delete(&self, pathnames: &[Pathname], if_match: Option<&ETag>) -> Result<()> {
        let inside: Vec<Pathname> = pathnames.iter().map(|pathname| self.inside(pathname)).collect();
        self.store.delete(&inside, if_match).await
    }

    async fn deadline(&self, within: Duration) -> Result<Option<Deadline>> {
        self.store.deadline(within).await
    }

    async fn delete_before(&self, pathname: &Pathname, if_match: &ETag, deadline: Deadline) -> Result<()> {
        self.store.delete_before(&self.inside(pathname), if_match, deadline).await
    }

    async fn create_multipart(&self, pathname: &Pathname, options: &PutOptions) -> Result<Upload> {
        self.store.create_multipart(&self.inside(pathname), options).await
    }

    async fn upload_part(
        &self,
        pathname: &Pathname,
        upload: &Upload,
        number: u32,
        body: Body,
    ) -> Result<Part> {
        self.store.upload_part(&self.inside(pathname), upload, number, body).await
    }

    async fn complete_multipart(
        &self,
        pathname: &Pathname,
        upload: &Upload,
        parts: &[Part],
        options: &PutOptions,
    ) -> Result<Head> {
        let stored = self.store.complete_multipart(&self.inside(pathname), upload, parts, options).await?;
        Ok(self.head(stored))
    }
}
