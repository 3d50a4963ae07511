//! The gateway as a Blob store: what goes through the steps of a write, and what passes untouched.

use std::sync::Arc;

use async_trait::async_trait;
use futures::FutureExt as _;

use super::door::AtDoor;
use super::operation::{Operation, Right, Send, Stores};
use super::shadow::Answer;
use super::spool::receive;
use super::{DualWrite, Gateway};
use crate::anchored::{Anchored, for_blob};
use crate::blob::store::{Content, GetOptions, Part, PutOptions, Upload};
use crate::blob::suffix::{self, SUFFIX_CHARS};
use crate::blob::{BlobStore, Body, ETag, Head, ListPage, ListRequest, ListedBlob, Pathname, location};
use crate::error::{Error, ErrorKind, Result};
use crate::protocol::gateway::ReadFrom;
use crate::protocol::phase::Authority;
use crate::target::control::INTENT_PATHNAMES_MAX;

/// What the key of an upload begins with whose suffix the gateway made; the suffix follows, and the store's
/// own key. So any gateway can complete it.
const SUFFIXED: &str = "migrate-suffix-";

#[async_trait]
impl BlobStore for DualWrite {
    async fn head(&self, pathname: &Pathname) -> Result<Option<Head>> {
        let store = self.0.to_read(Some(pathname)).await?;
        if let Some(step) = self.0.canaried(pathname) {
            return Ok(self.0.canary_head(step, pathname).await?.map(|head| self.0.placed(head)));
        }
        let round = self.0.sampled(pathname);
        let began = self.0.clock().monotonic();
        let head = store.head(pathname).await?;
        if let Some(round) = round {
            let took = self.0.clock().monotonic().saturating_sub(began);
            self.0.offer(round, pathname, Answer::Head(head.clone()), took);
        }
        Ok(head.map(|head| self.0.placed(head)))
    }

    async fn list(&self, request: &ListRequest) -> Result<ListPage> {
        let mut page = self.0.to_read(None).await?.list(request).await?;
        page.blobs.iter_mut().for_each(|blob| self.0.place(blob));
        Ok(page)
    }

    async fn get(&self, pathname: &Pathname, options: &GetOptions) -> Result<Option<Content>> {
        let store = self.0.to_read(Some(pathname)).await?;
        if let Some(step) = self.0.canaried(pathname)
            && let Some(content) = self.0.canary_get(step, pathname, options).await
        {
            return Ok(content);
        }
        let round = if options.range.is_none() { self.0.sampled(pathname) } else { None };
        let began = self.0.clock().monotonic();
        let content = store.get(pathname, options).await?;
        let Some(round) = round else { return Ok(content) };
        let took = self.0.clock().monotonic().saturating_sub(began);
        Ok(self.0.watched(round, pathname, content, took))
    }

    async fn put(&self, pathname: &Pathname, body: Body, options: &PutOptions) -> Result<Head> {
        let (pathname, options) = unsuffixed(pathname, options);
        if !self.0.maps(&pathname) {
            self.0.counts.passed();
            let head = self.0.upstream.put(&pathname, body, &options).await?;
            return Ok(self.0.placed(head));
        }
        let spool = receive(body).await?;
        let (name, sent) = (pathname.clone(), spool.clone());
        let send: Send = Box::new(move |right: Right| {
            async move { right.store.put(&name, sent.body(), &options).await.map(Some) }.boxed()
        });
        self.0.write(vec![pathname], Stores::Body(spool), send).await
    }

    async fn copy(&self, from: &Pathname, to: &Pathname, options: &PutOptions) -> Result<Head> {
        let (to, options) = unsuffixed(to, options);
        let (source, target) = (from.clone(), to.clone());
        let send: Send = Box::new(move |right: Right| {
            async move { right.store.copy(&source, &target, &options).await.map(Some) }.boxed()
        });
        if !self.0.maps(&to) {
            // What is mapped is copied from where it is right.
            self.0.counts.passed();
            let store = self.0.to_read(Some(from)).await?;
            return Ok(self.0.placed(some(send(Right { store, authority: Authority::Source }).await?)?));
        }
        self.0.write(vec![to], Stores::Copy, send).await
    }

    async fn rename(&self, from: &Pathname, to: &Pathname, options: &PutOptions) -> Result<Head> {
        let (to, options) = unsuffixed(to, options);
        let (source, target) = (from.clone(), to.clone());
        let send: Send = Box::new(move |right: Right| {
            async move { right.store.rename(&source, &target, &options).await.map(Some) }.boxed()
        });
        self.0.write(vec![from.clone(), to], Stores::Move, send).await
    }

    async fn delete(&self, pathnames: &[Pathname], if_match: Option<&ETag>) -> Result<()> {
        let (mapped, others): (Vec<_>, Vec<_>) =
            pathnames.iter().cloned().partition(|pathname| self.0.maps(pathname));
        if !others.is_empty() || mapped.is_empty() {
            self.0.counts.passed();
            // A condition is for one blob: with several, the store says so.
            let all = if if_match.is_some() { pathnames } else { &others };
            self.0.upstream.delete(all, if_match).await?;
            if if_match.is_some() {
                return Ok(());
            }
        }
        for chunk in mapped.chunks(INTENT_PATHNAMES_MAX) {
            let (names, if_match) = (chunk.to_vec(), if_match.cloned());
            let send: Send = Box::new(move |right: Right| {
                async move { right.store.delete(&names, if_match.as_ref()).await.map(|()| None) }.boxed()
            });
            self.0.carry_out(Operation { pathnames: chunk.to_vec(), content: Stores::Nothing, send }).await?;
        }
        Ok(())
    }

    async fn create_multipart(&self, pathname: &Pathname, options: &PutOptions) -> Result<Upload> {
        let store = self.0.to_read(Some(pathname)).await?;
        if !takes_suffix(pathname, options) {
            return store.create_multipart(pathname, options).await;
        }
        let suffix = suffix::random();
        let options = PutOptions { add_random_suffix: false, ..options.clone() };
        let upload = store.create_multipart(&suffix::with(pathname, &suffix), &options).await?;
        Ok(Upload { key: format!("{SUFFIXED}{suffix}-{}", upload.key), ..upload })
    }

    async fn upload_part(
        &self,
        pathname: &Pathname,
        upload: &Upload,
        number: u32,
        body: Body,
    ) -> Result<Part> {
        let (pathname, upload, _) = upload_of(pathname, upload);
        let (upload, _) = for_blob(&upload, &PutOptions::default());
        self.0.upstream.upload_part(&pathname, &upload, number, body).await
    }

    async fn complete_multipart(
        &self,
        pathname: &Pathname,
        upload: &Upload,
        parts: &[Part],
        options: &PutOptions,
    ) -> Result<Head> {
        let (pathname, upload, suffixed) = upload_of(pathname, upload);
        let add_random_suffix = options.add_random_suffix && !suffixed;
        let options = PutOptions { add_random_suffix, ..options.clone() };
        let (name, parts) = (pathname.clone(), parts.to_vec());
        let send: Send = Box::new(move |right: Right| {
            async move {
                let (upload, options) = match right.authority {
                    Authority::Source => for_blob(&upload, &options),
                    Authority::Target => (upload, options),
                };
                right.store.complete_multipart(&name, &upload, &parts, &options).await.map(Some)
            }
            .boxed()
        });
        self.0.write(vec![pathname], Stores::Upload, send).await
    }
}

impl Gateway {
    /// A write that stores one blob.
    async fn write(self: &Arc<Self>, pathnames: Vec<Pathname>, content: Stores, send: Send) -> Result<Head> {
        let head = if pathnames.iter().any(|pathname| self.maps(pathname)) {
            self.carry_out(Operation { pathnames, content, send }).await?
        } else {
            self.counts.passed();
            send(Right { store: Arc::clone(&self.upstream), authority: Authority::Source }).await?
        };
        Ok(self.placed(some(head)?))
    }

    /// The store that tells what is under a name, or what there is where none is named.
    ///
    /// # Errors
    /// `Busy` and `WrongPhase` where this gateway can't say which one that is.
    async fn to_read(&self, pathname: Option<&Pathname>) -> Result<Arc<dyn BlobStore>> {
        if pathname.is_some_and(|pathname| !self.maps(pathname)) {
            return Ok(Arc::clone(&self.upstream));
        }
        let refused = |message| Error::new(ErrorKind::Busy, "read through the gateway").message(message);
        let from = match self.door.read_from() {
            ReadFrom::AskMode => {
                // While a hold is set, the flip may be committed at any moment (trace B6).
                if let Ok(Some(mode)) = self.within(self.control().mode()).await {
                    if self.learn_doubts(&mode).await.is_ok() {
                        self.door.saw(&mode);
                    }
                    self.door.read_beside(&mode)
                } else {
                    ReadFrom::Refuse
                }
            }
            from => from,
        };
        match from {
            ReadFrom::Authority(Authority::Source) => Ok(Arc::clone(&self.upstream)),
            ReadFrom::Authority(Authority::Target) => {
                let entry = Arc::new(AtDoor(Arc::clone(&self.door)));
                Ok(Arc::new(Anchored::new(self.converger.clone(), &self.prefix).entered_by(entry)))
            }
            ReadFrom::AskMode | ReadFrom::Refuse => {
                Err(refused("which store is right can't be told at the moment; try again"))
            }
        }
    }

    fn placed(&self, mut head: Head) -> Head {
        self.place(&mut head.blob);
        head
    }

    /// Says where a blob is, in the form that clients expect.
    fn place(&self, blob: &mut ListedBlob) {
        if let Some((store_id, access)) = &self.canonical {
            blob.url = location::canonical_url(store_id, *access, &blob.pathname);
            blob.download_url = location::download_url(&blob.url);
        }
    }
}

/// What a write stored.
fn some(head: Option<Head>) -> Result<Head> {
    head.ok_or_else(|| {
        Error::new(ErrorKind::Internal, "write through the gateway").message("nothing was stored")
    })
}

/// The name with its suffix, made here: upstream is asked for exactly this name.
fn unsuffixed(pathname: &Pathname, options: &PutOptions) -> (Pathname, PutOptions) {
    if !takes_suffix(pathname, options) {
        return (pathname.clone(), options.clone());
    }
    let options = PutOptions { add_random_suffix: false, ..options.clone() };
    (suffix::with(pathname, &suffix::random()), options)
}

/// Folders have no suffix: what becomes of the wish is the store's business.
fn takes_suffix(pathname: &Pathname, options: &PutOptions) -> bool {
    options.add_random_suffix && !pathname.as_str().ends_with('/')
}

/// The upload as upstream knows it, and whether a gateway made its suffix.
fn upload_of(pathname: &Pathname, upload: &Upload) -> (Pathname, Upload, bool) {
    let marked = upload.key.strip_prefix(SUFFIXED).and_then(|rest| rest.split_at_checked(SUFFIX_CHARS));
    match marked.and_then(|(suffix, rest)| Some((suffix, rest.strip_prefix('-')?))) {
        Some((suffix, key)) => {
            let upload = Upload { upload_id: upload.upload_id.clone(), key: key.to_owned() };
            (suffix::with(pathname, suffix), upload, true)
        }
        None => (pathname.clone(), upload.clone(), false),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_upload_with_a_suffix_is_told_from_others_by_its_key() {
        let suffix = suffix::random();
        let upload = |key: String| Upload { upload_id: "u".to_owned(), key };
        let name = Pathname::from("a/b.json");
        let (target, upstream, suffixed) =
            upload_of(&name, &upload(format!("{SUFFIXED}{suffix}-store/é-key")));
        assert_eq!(target, suffix::with(&name, &suffix));
        assert_eq!((upstream.key.as_str(), suffixed), ("store/é-key", true));
        for key in ["store/key".to_owned(), SUFFIXED.to_owned(), format!("{SUFFIXED}short-key")] {
            assert_eq!(upload_of(&name, &upload(key.clone())), (name.clone(), upload(key), false));
        }
    }
}
