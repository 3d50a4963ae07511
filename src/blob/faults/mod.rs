//! What hurts about the service, on demand: stale content, throttling, suspension, latency, lost replies,
//! late writes.
//!
//! [`FaultyBlob`] wraps any store and does to its callers what its [`Faults`] say. The emulator's flags
//! and the tests turn the same switches. With all of them off it changes nothing.

mod rates;
mod script;
mod stale;

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use futures::FutureExt as _;

pub use self::rates::Rates;
pub use self::script::{Drops, Fault, Faults, Operation, Pause};
use self::stale::Stale;
use super::store::{BlobStore, Body, Content, Deadline, GetOptions, Part, PutOptions, Upload};
use super::types::{ETag, Head, ListPage, ListRequest, Pathname};
use crate::error::{Error, ErrorKind, Result};

/// The longest body that a request may carry here; it is read before the fault is looked up.
const BODY_BYTES_MAX: u64 = 1 << 30;

/// A store that does to its callers what its switches say.
#[derive(Clone)]
pub struct FaultyBlob {
    inner: Arc<dyn BlobStore>,
    faults: Faults,
}

impl std::fmt::Debug for FaultyBlob {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("FaultyBlob").finish_non_exhaustive()
    }
}

impl FaultyBlob {
    /// Wraps a store.
    #[must_use]
    pub fn new(inner: Arc<dyn BlobStore>, faults: Faults) -> Self {
        Self { inner, faults }
    }

    /// Its switches.
    #[must_use]
    pub const fn faults(&self) -> &Faults {
        &self.faults
    }

    async fn read<T>(
        &self,
        operation: Operation,
        cost: u32,
        request: impl Future<Output = Result<T>> + Send,
    ) -> Result<T> {
        match self.faults.next(operation, cost).await? {
            None | Some(Fault::Slow(_)) => request.await,
            Some(Fault::Refused(kind)) => Err(scripted(kind, operation, "refused")),
            Some(Fault::AppliedThenLost | Fault::Held) => {
                Err(scripted(ErrorKind::NotApplied, operation, "the reply was lost"))
            }
        }
    }

    async fn write<T: Send + 'static>(
        &self,
        operation: Operation,
        cost: u32,
        request: impl Future<Output = Result<T>> + Send + 'static,
    ) -> Result<T> {
        let unknown = || scripted(ErrorKind::OutcomeUnknown, operation, "the reply was lost");
        match self.faults.next(operation, cost).await? {
            None | Some(Fault::Slow(_)) => request.await,
            Some(Fault::Refused(kind)) => Err(scripted(kind, operation, "refused")),
            Some(Fault::AppliedThenLost) => {
                request.await?;
                Err(unknown())
            }
            Some(Fault::Held) => {
                self.faults.hold(request.map(|_reply_that_nobody_reads| ()).boxed());
                Err(unknown())
            }
        }
    }

    /// A change of these pathnames, after which the cache may go on serving what they held.
    fn change<T: Send + 'static>(
        &self,
        pathnames: Vec<Pathname>,
        request: impl Future<Output = Result<T>> + Send + 'static,
    ) -> impl Future<Output = Result<T>> + Send + 'static {
        let (inner, faults) = (self.inner.clone(), self.faults.clone());
        async move {
            let Some(lasting) = faults.stale_for() else { return request.await };
            let mut cached = Vec::new();
            for pathname in pathnames {
                if let Some(content) = Stale::before(inner.as_ref(), &pathname).await? {
                    cached.push((pathname, content));
                }
            }
            let reply = request.await?;
            for (pathname, content) in cached {
                faults.stale.keep(pathname, content, lasting);
            }
            Ok(reply)
        }
    }
}

#[async_trait]
impl BlobStore for FaultyBlob {
    async fn head(&self, pathname: &Pathname) -> Result<Option<Head>> {
        self.read(Operation::Head, 1, self.inner.head(pathname)).await
    }

    async fn list(&self, request: &ListRequest) -> Result<ListPage> {
        self.read(Operation::List, 1, self.inner.list(request)).await
    }

    async fn get(&self, pathname: &Pathname, options: &GetOptions) -> Result<Option<Content>> {
        let cached = if options.no_cache { None } else { self.faults.stale.serve(pathname, options) };
        // What the cache answers is no operation of the store.
        let cost = u32::from(cached.is_none());
        let request = async {
            match cached {
                Some(content) => Ok(Some(content)),
                None => self.inner.get(pathname, options).await,
            }
        };
        self.read(Operation::Get, cost, request).await
    }

    async fn put(&self, pathname: &Pathname, body: Body, options: &PutOptions) -> Result<Head> {
        let body = body.collect(BODY_BYTES_MAX).await?;
        let (inner, at, options) = (self.inner.clone(), pathname.clone(), options.clone());
        let request = async move { inner.put(&at, body.into(), &options).await };
        self.write(Operation::Put, 1, self.change(vec![pathname.clone()], request)).await
    }

    async fn copy(&self, from: &Pathname, to: &Pathname, options: &PutOptions) -> Result<Head> {
        let changed = vec![to.clone()];
        let (inner, from, to, options) = (self.inner.clone(), from.clone(), to.clone(), options.clone());
        let request = async move { inner.copy(&from, &to, &options).await };
        self.write(Operation::Copy, 1, self.change(changed, request)).await
    }

    async fn rename(&self, from: &Pathname, to: &Pathname, options: &PutOptions) -> Result<Head> {
        let changed = vec![from.clone(), to.clone()];
        let (inner, from, to, options) = (self.inner.clone(), from.clone(), to.clone(), options.clone());
        let request = async move { inner.rename(&from, &to, &options).await };
        // A copy and a delete.
        self.write(Operation::Rename, 2, self.change(changed, request)).await
    }

    async fn delete(&self, pathnames: &[Pathname], if_match: Option<&ETag>) -> Result<()> {
        let (inner, targets, if_match) = (self.inner.clone(), pathnames.to_vec(), if_match.cloned());
        let request = async move { inner.delete(&targets, if_match.as_ref()).await };
        let cost = u32::try_from(pathnames.len()).unwrap_or(u32::MAX);
        self.write(Operation::Delete, cost, self.change(pathnames.to_vec(), request)).await
    }

    async fn deadline(&self, within: Duration) -> Result<Option<Deadline>> {
        self.inner.deadline(within).await
    }

    async fn delete_before(&self, pathname: &Pathname, if_match: &ETag, deadline: Deadline) -> Result<()> {
        let (inner, target, if_match) = (self.inner.clone(), pathname.clone(), if_match.clone());
        let request = async move { inner.delete_before(&target, &if_match, deadline).await };
        self.write(Operation::Delete, 1, self.change(vec![pathname.clone()], request)).await
    }

    async fn create_multipart(&self, pathname: &Pathname, options: &PutOptions) -> Result<Upload> {
        let (inner, pathname, options) = (self.inner.clone(), pathname.clone(), options.clone());
        let request = async move { inner.create_multipart(&pathname, &options).await };
        self.write(Operation::CreateMultipart, 1, request).await
    }

    async fn upload_part(
        &self,
        pathname: &Pathname,
        upload: &Upload,
        number: u32,
        body: Body,
    ) -> Result<Part> {
        let body = body.collect(BODY_BYTES_MAX).await?;
        let (inner, pathname, upload) = (self.inner.clone(), pathname.clone(), upload.clone());
        let request = async move { inner.upload_part(&pathname, &upload, number, body.into()).await };
        self.write(Operation::UploadPart, 1, request).await
    }

    async fn complete_multipart(
        &self,
        pathname: &Pathname,
        upload: &Upload,
        parts: &[Part],
        options: &PutOptions,
    ) -> Result<Head> {
        let changed = vec![pathname.clone()];
        let (inner, pathname, upload) = (self.inner.clone(), pathname.clone(), upload.clone());
        let (parts, options) = (parts.to_vec(), options.clone());
        let request = async move { inner.complete_multipart(&pathname, &upload, &parts, &options).await };
        self.write(Operation::CompleteMultipart, 1, self.change(changed, request)).await
    }
}

fn scripted(kind: ErrorKind, operation: Operation, message: &str) -> Error {
    Error::new(kind, operation.name()).message(message)
}

#[cfg(test)]
mod tests;
