//! The application's blobs where DynamoDB is the authority: a Blob store that answers from anchors.
//!
//! What an entity of the plan maps is read from its anchor and its retained bytes, and written in one
//! transaction; everything else is Blob's, and passes. Afterwards [`Anchored::settle`] makes Blob equal, which
//! is the mirror here. Nothing in here writes what is mapped to Blob before DynamoDB holds it, but for one case:
//! a multipart upload, whose parts lie there.

mod direct;
mod foreign;
mod import;
mod list;
mod mirror;
mod newer;
pub(crate) mod read;
mod verdict;
mod write;

use std::sync::Arc;

use async_trait::async_trait;
use futures::FutureExt as _;
use futures::future::BoxFuture;
use futures::stream::{self, StreamExt as _};

pub use self::direct::{Changed, PickedUp};
pub use self::foreign::{NO_ANCHOR, Replaces, commands};
pub use self::import::for_blob;
pub use self::newer::{CLOCKS_DIFFER_MAX, Newer, newer};
pub use self::verdict::{Explained, Judged, Verdict};
use crate::blob::store::{Content, GetOptions, Part, PutOptions, Upload};
use crate::blob::{BlobStore, Body, ETag, Head, ListPage, ListRequest, ListedBlob, Pathname, Spooled, media};
use crate::converge::direct::Look;
use crate::converge::{Converger, Permit};
use crate::error::{Error, ErrorKind, Result};
use crate::mapping::Rule;
use crate::protocol::phase::Authority;
use crate::target::control::{Anchor, AnchorState, BodyForm, Control};

/// How often a body is looked for that is replaced while it is read.
const LOOKS: u32 = 5;

/// Who lets a reader write for a moment.
pub trait Entry: Send + Sync {
    /// The permit, which is given back when it is dropped; none where nobody may write now.
    fn enter(&self) -> Option<Arc<dyn Permit>>;
}

/// A Blob store over anchors. Clones are the same store.
#[derive(Clone)]
pub struct Anchored {
    /// Both stores. Its source is Blob.
    converger: Converger,
    prefix: String,
    answers: Answers,
    entry: Option<Arc<dyn Entry>>,
}

/// What is said of a version.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Answers {
    /// What clients are told: the MD5 of its bytes.
    Clients,
    /// What its anchor compares: Blob's own ETag, and bytes as they came.
    Anchors,
}

impl std::fmt::Debug for Anchored {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Anchored").field("prefix", &self.prefix).finish_non_exhaustive()
    }
}

impl Anchored {
    /// The store that these two make; only what begins with `prefix` is DynamoDB's.
    #[must_use]
    pub fn new(converger: Converger, prefix: &str) -> Self {
        let converger = Converger { authority: Authority::Target, ..converger };
        Self { converger, prefix: prefix.to_owned(), answers: Answers::Clients, entry: None }
    }

    /// The same for readers, who have no permit but what they are given for a moment.
    #[must_use]
    pub fn entered_by(self, entry: Arc<dyn Entry>) -> Self {
        Self { entry: Some(entry), ..self }
    }

    /// The same store with the ETags by which anchors are compared: as a source that items are held against.
    #[must_use]
    pub fn as_source(&self) -> Self {
        Self { answers: Answers::Anchors, ..self.clone() }
    }

    /// A converger that makes items equal to what their anchors say.
    #[must_use]
    pub fn of_items(&self) -> Converger {
        let mut converger = self.converger.clone();
        converger.fetcher.source = Arc::new(self.as_source());
        converger
    }

    fn etag(&self, anchor: &Anchor) -> Option<ETag> {
        match self.answers {
            Answers::Clients => anchor.etag(),
            Answers::Anchors => anchor.head.as_ref().map(|head| head.etag.clone()),
        }
    }

    /// What a listing says of an anchor; none where it holds nothing.
    fn listed(&self, anchor: &Anchor) -> Option<ListedBlob> {
        let head = anchor.head.as_ref()?;
        Some(ListedBlob {
            pathname: anchor.pathname.clone(),
            size: head.size,
            uploaded_at: head.uploaded_at,
            etag: self.etag(anchor)?,
            url: String::new(),
            download_url: String::new(),
        })
    }

    /// What `head` says of an anchor; none where it holds nothing.
    fn head_of(&self, anchor: &Anchor) -> Option<Head> {
        let head = anchor.head.as_ref()?;
        Some(Head {
            blob: self.listed(anchor)?,
            content_disposition: media::content_disposition(&anchor.pathname, &head.content_type),
            content_type: head.content_type.clone(),
            cache_control: head.cache_control.clone(),
        })
    }

    /// Whether Blob alone has the content: it could not be mapped; or, for comparisons, it was too long to be
    /// retained.
    fn is_left_to_blob(&self, anchor: &Anchor) -> bool {
        let rebuilt = anchor.body.as_ref().is_some_and(|body| body.form == BodyForm::Skeleton);
        let equal = anchor.behind.is_none();
        matches!(anchor.state, AnchorState::Quarantined { .. })
            || (self.answers == Answers::Anchors && rebuilt && equal)
    }

    /// Both stores. Its source is Blob.
    #[must_use]
    pub const fn converger(&self) -> &Converger {
        &self.converger
    }

    fn control(&self) -> &Control {
        &self.converger.control
    }

    fn blob(&self) -> &Arc<dyn BlobStore> {
        self.converger.source()
    }

    /// Whether DynamoDB holds blobs of this name.
    fn maps(&self, pathname: &Pathname) -> bool {
        pathname.as_str().starts_with(&self.prefix)
            && matches!(self.converger.mapper.rule(pathname), Rule::Entity(_))
    }

    /// The anchor of what is there, the keys of its items aside; none where nothing is.
    async fn held(&self, pathname: &Pathname) -> Result<Option<Anchor>> {
        Ok(self.control().bare_anchor(pathname).await?.filter(|anchor| anchor.head.is_some()))
    }

    /// What is there now, what the application wrote to DynamoDB itself included: that is taken over, where this
    /// process may write. With its bytes where they were just rebuilt.
    async fn present(&self, pathname: &Pathname) -> Result<Option<(Anchor, Option<Spooled>)>> {
        let direct = match self.converger.mapper.rule(pathname) {
            Rule::Entity(entity)
                if self.answers == Answers::Clients && self.converger.mapper.is_direct(entity) =>
            {
                entity
            }
            _ => return Ok(self.held(pathname).await?.map(|anchor| (anchor, None))),
        };
        for _ in 0..LOOKS {
            let change = match self.converger.look(pathname, direct).await? {
                Look::Anchor { anchor, .. } => {
                    return Ok(anchor.filter(|anchor| anchor.head.is_some()).map(|anchor| (*anchor, None)));
                }
                Look::Changed(change) => change,
                Look::Unreadable { error, .. } => return Err(error),
                Look::NotOurs(_) => return Ok(None),
            };
            let now = || {
                let anchor = Some(change.anchor()).filter(|anchor| anchor.head.is_some());
                anchor.map(|anchor| (anchor.clone(), change.body.clone()))
            };
            let permit = match &self.entry {
                Some(entry) => entry.enter(),
                None => Some(Arc::clone(&self.converger.permit)),
            };
            // It is there, whoever may say so in the control table.
            let Some(permit) = permit else { return Ok(now()) };
            let converger = Converger { permit, ..self.converger.clone() };
            match converger.take_over(&change).await {
                Ok(true) => return Ok(now()),
                Err(error) if error.kind() == ErrorKind::WrongPhase => return Ok(now()),
                Err(error) if error.kind() != ErrorKind::OutcomeUnknown => return Err(error),
                Ok(false) | Err(_) => {}
            }
        }
        Err(changing(pathname))
    }

    /// What is there, with its bytes; none where nothing is. Replaced meanwhile, it is the later one.
    async fn content(&self, pathname: &Pathname) -> Result<Option<(Anchor, Spooled)>> {
        self.content_by(pathname, |anchored, anchor, body| {
            async move {
                match body {
                    Some(body) => Ok(body),
                    None => anchored.body_of(anchor).await,
                }
            }
            .boxed()
        })
        .await
    }

    /// The same with its bytes as `read` has them, of an anchor or of a body that was just rebuilt.
    async fn content_by<T>(
        &self,
        pathname: &Pathname,
        read: impl for<'a> Fn(&'a Self, &'a Anchor, Option<Spooled>) -> BoxFuture<'a, Result<T>> + Sync,
    ) -> Result<Option<(Anchor, T)>> {
        let mut damaged: Option<(Anchor, Error)> = None;
        for _ in 0..LOOKS {
            let Some((anchor, body)) = self.present(pathname).await? else { return Ok(None) };
            if let Some((before, error)) = damaged
                && before == anchor
            {
                return Err(error);
            }
            match read(self, &anchor, body).await {
                Ok(body) => return Ok(Some((anchor, body))),
                Err(error) if error.kind() == ErrorKind::Corrupt => damaged = Some((anchor, error)),
                Err(error) => return Err(error),
            }
        }
        Err(changing(pathname))
    }

    /// The bytes of an anchor: those that were retained, else the JSON that its items make.
    pub(crate) async fn body_of(&self, anchor: &Anchor) -> Result<Spooled> {
        if let Some(body) = self.control().retained(anchor).await? {
            return Ok(body);
        }
        self.rebuilt(anchor).await
    }
}

fn changing(pathname: &Pathname) -> Error {
    Error::new(ErrorKind::Busy, "read a body").key(pathname).message("it keeps changing; try again")
}

#[async_trait]
impl BlobStore for Anchored {
    async fn head(&self, pathname: &Pathname) -> Result<Option<Head>> {
        if !self.maps(pathname) {
            return self.blob().head(pathname).await;
        }
        match self.present(pathname).await? {
            Some((anchor, _)) if self.answers == Answers::Clients && self.is_left_to_blob(&anchor) => {
                self.blob().head(pathname).await
            }
            present => Ok(present.and_then(|(anchor, _)| self.head_of(&anchor))),
        }
    }

    async fn list(&self, request: &ListRequest) -> Result<ListPage> {
        self.page(request).await
    }

    async fn get(&self, pathname: &Pathname, options: &GetOptions) -> Result<Option<Content>> {
        if !self.maps(pathname) {
            return self.blob().get(pathname, options).await;
        }
        if self.held(pathname).await?.is_some_and(|anchor| self.is_left_to_blob(&anchor)) {
            return self.blob().get(pathname, options).await;
        }
        self.read(pathname, options).await
    }

    async fn put(&self, pathname: &Pathname, body: Body, options: &PutOptions) -> Result<Head> {
        self.store(pathname, body, options).await
    }

    async fn copy(&self, from: &Pathname, to: &Pathname, options: &PutOptions) -> Result<Head> {
        self.copied(from, to, options, false).await
    }

    async fn rename(&self, from: &Pathname, to: &Pathname, options: &PutOptions) -> Result<Head> {
        self.copied(from, to, options, true).await
    }

    async fn delete(&self, pathnames: &[Pathname], if_match: Option<&ETag>) -> Result<()> {
        if if_match.is_some() && pathnames.len() != 1 {
            return Err(Error::new(ErrorKind::Usage, "delete blobs")
                .message("a condition is for one blob, not for several"));
        }
        let (mapped, others): (Vec<_>, Vec<_>) =
            pathnames.iter().cloned().partition(|pathname| self.maps(pathname));
        if !others.is_empty() {
            self.blob().delete(&others, if_match).await?;
        }
        let mut removing = stream::iter(mapped)
            .map(|pathname: Pathname| async move { self.remove(&pathname, if_match).await })
            .buffer_unordered(write::CONCURRENCY);
        let mut first = Ok(());
        while let Some(removed) = removing.next().await {
            if first.is_ok() {
                first = removed;
            }
        }
        first
    }

    async fn create_multipart(&self, pathname: &Pathname, options: &PutOptions) -> Result<Upload> {
        self.begin_import(pathname, options).await
    }

    async fn upload_part(
        &self,
        pathname: &Pathname,
        upload: &Upload,
        number: u32,
        body: Body,
    ) -> Result<Part> {
        self.blob().upload_part(pathname, &import::begun(upload).1, number, body).await
    }

    async fn complete_multipart(
        &self,
        pathname: &Pathname,
        upload: &Upload,
        parts: &[Part],
        options: &PutOptions,
    ) -> Result<Head> {
        self.import(pathname, upload, parts, options).await
    }
}
