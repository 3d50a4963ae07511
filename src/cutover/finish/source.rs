//! Deleting the blobs, at the very end: only those whose bytes are in a copy of the snapshot that was read back, and that
//! DynamoDB has as well, each only if Blob still holds that version.

use std::path::Path;

use futures::stream::{self, StreamExt as _};
use serde::Serialize;
use tokio_util::sync::CancellationToken;

use super::super::Cutover;
use super::interrupted;
use crate::blob::{ListRequest, ListedBlob, Pathname};
use crate::error::{Error, ErrorKind, Result};
use crate::event::{Event, Task};
use crate::mapping::Rule;
use crate::snapshot::Snapshot;
use crate::target::control::{Anchor, AnchorState};

const OPERATION: &str = "delete the blobs";
/// How many blobs there are on a page; the service's own bound.
const PAGE: u32 = 1000;
const CONCURRENCY: usize = 8;
/// So many names of each kind are told.
const NAMED_MAX: usize = 10;

/// A copy of the snapshot, of which every body that counts is read.
#[derive(Debug)]
pub struct SourceCopy {
    snapshot: Snapshot,
}

/// What could be deleted, and what not.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Deletable {
    /// Blobs that can be deleted.
    pub blobs: u64,
    /// Their bytes together.
    pub bytes: u64,
    /// Blobs that an entity maps and that stay, with why: the first of them.
    pub kept: Vec<(Pathname, &'static str)>,
    /// How many stay.
    pub kept_count: u64,
}

/// What was deleted.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Deleted {
    /// Blobs that were deleted.
    pub blobs: u64,
    /// Blobs that an entity maps and that stay, with why: the first of them.
    pub kept: Vec<(Pathname, &'static str)>,
    /// How many stay.
    pub kept_count: u64,
}

impl SourceCopy {
    /// The snapshot itself, to see what a copy of it would allow.
    ///
    /// # Errors
    /// As [`Snapshot::open`].
    pub fn original(snapshot: &Snapshot) -> Result<Self> {
        Ok(Self { snapshot: Snapshot::open(snapshot.path())? })
    }

    /// Copies the snapshot to a file of its own, or takes the copy that is there.
    ///
    /// # Errors
    /// `Usage` where it can't be copied; `Corrupt` for a damaged one.
    pub fn make(snapshot: &Snapshot, file: &Path) -> Result<Self> {
        if !file.exists() {
            snapshot.copy_to(file)?;
        }
        let copy = Snapshot::open(file)?;
        if copy.store() != snapshot.store() {
            return Err(Error::new(ErrorKind::Usage, OPERATION)
                .key(file.display())
                .message(format!("it is a snapshot of `{}`, not of `{}`", copy.store(), snapshot.store()))
                .hint("name another file with --archive"));
        }
        Ok(Self { snapshot: copy })
    }

    /// Reads every body of the copy that Blob holds and DynamoDB has, and says what could be deleted.
    ///
    /// # Errors
    /// `Corrupt` for a damaged copy; `Interrupted`; what the stores report.
    pub async fn verify(&self, cutover: &Cutover<'_>, cancel: &CancellationToken) -> Result<Deletable> {
        let mut found = Deletable::default();
        let mut pages = Pages::new(cutover);
        while let Some(page) = pages.next().await? {
            interrupted(cancel)?;
            for (blob, anchor) in page {
                match self.verdict(&blob, anchor.as_ref(), true).await? {
                    None => {
                        found.blobs += 1;
                        found.bytes += blob.size;
                    }
                    Some(why) => {
                        found.kept_count += 1;
                        if found.kept.len() < NAMED_MAX {
                            found.kept.push((blob.pathname, why));
                        }
                    }
                }
            }
        }
        Ok(found)
    }

    /// Deletes them, each only if Blob still holds the version that is in the copy.
    ///
    /// # Errors
    /// `Interrupted`; what the stores report. What was deleted until then stays so, and another run goes on.
    pub async fn delete(&self, cutover: &Cutover<'_>, cancel: &CancellationToken) -> Result<Deleted> {
        let mut done = Deleted::default();
        let keep = |done: &mut Deleted, pathname: Pathname, why| {
            done.kept_count += 1;
            if done.kept.len() < NAMED_MAX {
                done.kept.push((pathname, why));
            }
        };
        cutover.events.report(Event::Started { task: Task::Delete, total: None });
        let mut pages = Pages::new(cutover);
        while let Some(page) = pages.next().await? {
            let mut deletable = Vec::new();
            for (blob, anchor) in page {
                match self.verdict(&blob, anchor.as_ref(), false).await? {
                    None => deletable.push(blob),
                    Some(why) => keep(&mut done, blob.pathname, why),
                }
            }
            let source = cutover.converger.source();
            let mut deleting = stream::iter(deletable)
                .map(|blob: ListedBlob| async move {
                    interrupted(cancel)?;
                    let deleted = source.delete(std::slice::from_ref(&blob.pathname), Some(&blob.etag)).await;
                    Ok::<_, Error>((blob.pathname, deleted))
                })
                .buffer_unordered(CONCURRENCY);
            while let Some(deleted) = deleting.next().await {
                match deleted? {
                    (_, Ok(())) => done.blobs += 1,
                    (pathname, Err(error)) if error.kind() == ErrorKind::LostRace => {
                        keep(&mut done, pathname, "it was written meanwhile");
                    }
                    (_, Err(error)) => return Err(error),
                }
                cutover.events.report(Event::Advanced { task: Task::Delete, by: 1 });
            }
        }
        cutover.events.report(Event::Finished { task: Task::Delete });
        Ok(done)
    }

    /// Why a blob stays; none where it may go.
    async fn verdict(
        &self,
        blob: &ListedBlob,
        anchor: Option<&Anchor>,
        with_body: bool,
    ) -> Result<Option<&'static str>> {
        let live = anchor.filter(|anchor| anchor.state == AnchorState::Live);
        let Some(head) = live.and_then(|anchor| anchor.head.as_ref()) else {
            return Ok(Some("DynamoDB does not hold it"));
        };
        if head.blob_etag != blob.etag {
            return Ok(Some("Blob holds another version than DynamoDB"));
        }
        let sha256 = if with_body {
            self.snapshot.body(&blob.pathname, &blob.etag).await?.map(|body| body.sha256())
        } else {
            let held = self.snapshot.blob(&blob.pathname).await?.and_then(|held| held.body);
            held.filter(|held| held.etag == blob.etag).map(|held| held.sha256)
        };
        Ok(match sha256 {
            None => Some("the snapshot does not hold its present version: run `migrate export`"),
            Some(sha256) if sha256 != head.sha256 => Some("the snapshot holds other bytes than DynamoDB"),
            Some(_) => None,
        })
    }
}

/// The blobs that an entity maps, with their anchors, page by page.
struct Pages<'a> {
    cutover: &'a Cutover<'a>,
    request: Option<ListRequest>,
}

impl<'a> Pages<'a> {
    fn new(cutover: &'a Cutover<'a>) -> Self {
        let prefix = cutover.plan.source.prefix.clone();
        Self { cutover, request: Some(ListRequest { prefix, limit: Some(PAGE), ..ListRequest::default() }) }
    }

    async fn next(&mut self) -> Result<Option<Vec<(ListedBlob, Option<Anchor>)>>> {
        let Some(mut request) = self.request.take() else { return Ok(None) };
        let converger = self.cutover.converger;
        let page = converger.source().list(&request).await?;
        let maps = |blob: &ListedBlob| matches!(converger.mapper.rule(&blob.pathname), Rule::Entity(_));
        let blobs: Vec<ListedBlob> = page.blobs.into_iter().filter(maps).collect();
        let anchors = converger.control.anchors(blobs.iter().map(|blob| &blob.pathname)).await?;
        if page.cursor.is_some() {
            request.cursor = page.cursor;
            self.request = Some(request);
        }
        Ok(Some(blobs.into_iter().zip(anchors).collect()))
    }
}
