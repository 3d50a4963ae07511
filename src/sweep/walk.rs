//! The source, page by page, with both sides seen in the order that converge needs.

use std::collections::HashMap;
use std::sync::Arc;

use crate::blob::{BlobStore, ListRequest, ListedBlob, Pathname};
use crate::converge::Seen;
use crate::error::Result;
use crate::mapping::{Mapper, Rule};
use crate::target::control::{Anchor, Control};

/// How many blobs there are on a page; the service's own bound.
const PAGE: u32 = 1_000;

/// A walk through the source.
pub struct Walk {
    source: Arc<dyn BlobStore>,
    control: Control,
    mapper: Arc<Mapper>,
    request: ListRequest,
    over: bool,
}

impl std::fmt::Debug for Walk {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Walk").field("request", &self.request).finish_non_exhaustive()
    }
}

/// What a page of the source holds.
#[derive(Debug, Default)]
pub struct WalkPage {
    /// Blobs that an entity maps: anchor seen first, the source after it.
    pub mapped: Vec<Seen>,
    /// How many an ignore rule matches.
    pub ignored: u64,
    /// How many an accept rule matches.
    pub accepted: u64,
    /// Pathnames that no rule matches, or several, and which.
    pub unmapped: Vec<(Pathname, String)>,
}

impl Walk {
    /// A walk from the beginning.
    #[must_use]
    pub fn new(source: Arc<dyn BlobStore>, control: Control, mapper: Arc<Mapper>, prefix: &str) -> Self {
        let request = ListRequest { prefix: prefix.to_owned(), limit: Some(PAGE), ..ListRequest::default() };
        Self { source, control, mapper, request, over: false }
    }

    /// The next page; none after the last.
    ///
    /// A page is listed for its names, their anchors are read, and it is listed again: the second
    /// listing is the authority's word, seen after the mirror. Two list calls and no head for 1,000 blobs.
    ///
    /// # Errors
    /// What the stores report.
    pub async fn next(&mut self) -> Result<Option<WalkPage>> {
        if self.over {
            return Ok(None);
        }
        let first = self.source.list(&self.request).await?;
        let mut page = WalkPage::default();
        let mut names: Vec<Pathname> = Vec::new();
        for blob in first.blobs {
            match self.mapper.rule(&blob.pathname) {
                Rule::Entity(_) => names.push(blob.pathname),
                Rule::Ignored { .. } => page.ignored += 1,
                Rule::Accepted { .. } => page.accepted += 1,
                Rule::Unmatched => page.unmapped.push((blob.pathname, "no rule matches".to_owned())),
                Rule::Ambiguous(rules) => {
                    page.unmapped.push((blob.pathname, format!("several rules match: {}", rules.join(", "))));
                }
            }
        }
        if !names.is_empty() {
            page.mapped = self.look(names).await?;
        }
        self.over = first.cursor.is_none();
        self.request.cursor = first.cursor;
        Ok(Some(page))
    }

    async fn look(&self, names: Vec<Pathname>) -> Result<Vec<Seen>> {
        let anchors = self.control.anchors(&names).await?;
        let second = self.source.list(&self.request).await?;
        let mut listed: HashMap<Pathname, ListedBlob> =
            second.blobs.into_iter().map(|blob| (blob.pathname.clone(), blob)).collect();
        let mut seen = Vec::with_capacity(names.len());
        for (pathname, anchor) in names.into_iter().zip(anchors) {
            let blob = match listed.remove(&pathname) {
                Some(blob) => Some(blob),
                // Deleted since, or pushed off the page by new names before it.
                None => self.source.head(&pathname).await?.map(|head| head.blob),
            };
            let blob = blob.map(|blob| Anchor::as_known(anchor.as_ref(), blob));
            seen.push(Seen { pathname, anchor, blob });
        }
        // Names that are only on the second listing came into being since. The next sweep meets them.
        Ok(seen)
    }
}
