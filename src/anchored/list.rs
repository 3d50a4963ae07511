//! Listings: what DynamoDB holds from its anchors, everything else from Blob, in one order.
//!
//! Anchors are spread over shards, each in the order of its names; those are merged with Blob's listing. A cursor
//! says where the page ended, and where Blob's listing goes on.

use std::collections::{BTreeSet, VecDeque};

use futures::future::try_join_all;

use super::Anchored;
use crate::blob::listing::{self, Cursor, LIMIT_MAX, folder_of};
use crate::blob::{ListPage, ListRequest, ListedBlob};
use crate::error::Result;
use crate::target::control::{Anchor, names};

/// How many anchors of a shard are read beyond its share of a page.
const SPARE: u32 = 16;
/// After every name in a folder, but for such as begin with this very character.
const LAST: char = '\u{10FFFF}';

/// One entry of a listing.
#[derive(Debug)]
enum Entry {
    Blob(ListedBlob),
    Folder(String),
}

impl Entry {
    fn name(&self) -> &str {
        match self {
            Self::Blob(blob) => blob.pathname.as_str(),
            Self::Folder(folder) => folder,
        }
    }
}

impl Anchored {
    pub(super) async fn page(&self, request: &ListRequest) -> Result<ListPage> {
        let (limit, cursor) = listing::read(request)?;
        let (after, blob) = cursor.map_or((None, None), |cursor| (Some(cursor.after), cursor.blob));
        let mut anchors = Shards::new(self, request, after.as_deref(), limit);
        let mut others = Others::new(self, request, after.clone(), blob);
        let mut page = ListPage::default();
        let mut last = after.unwrap_or_default();
        for _ in 0..limit {
            let (ours, theirs) = (anchors.peek().await?, others.peek().await?);
            let ours_first = match (ours, theirs) {
                (None, None) => return Ok(page),
                (Some(ours), Some(theirs)) => ours.name() <= theirs.name(),
                (ours, _) => ours.is_some(),
            };
            let taken = if ours_first { anchors.take() } else { others.take() };
            let Some(entry) = taken else { break };
            entry.name().clone_into(&mut last);
            match entry {
                Entry::Blob(blob) => page.blobs.push(blob),
                Entry::Folder(folder) => {
                    anchors.pass(&folder);
                    others.pass(&folder);
                    page.folders.push(folder);
                }
            }
        }
        if anchors.peek().await?.is_some() || others.peek().await?.is_some() {
            page.cursor = Some(Cursor::new(request, last, others.begin).encode());
        }
        Ok(page)
    }
}

/// The anchors, merged over their shards.
struct Shards<'a> {
    anchored: &'a Anchored,
    request: &'a ListRequest,
    share: u32,
    shards: Vec<Shard>,
    next: Option<Entry>,
}

/// One shard's anchors.
struct Shard {
    number: u8,
    /// The name after which to go on.
    after: Option<String>,
    read: VecDeque<Anchor>,
    over: bool,
}

impl<'a> Shards<'a> {
    fn new(anchored: &'a Anchored, request: &'a ListRequest, after: Option<&str>, limit: u32) -> Self {
        let after = after.map(|after| match folder_of(after, request) {
            Some(folder) => format!("{folder}{LAST}"),
            None => after.to_owned(),
        });
        let shard = |number| Shard { number, after: after.clone(), read: VecDeque::new(), over: false };
        let shards = (0..names::SHARDS).map(shard).collect();
        Self { anchored, request, share: limit / u32::from(names::SHARDS) + SPARE, shards, next: None }
    }

    async fn peek(&mut self) -> Result<Option<&Entry>> {
        while self.next.is_none() {
            let Self { anchored, request, share, shards, .. } = self;
            try_join_all(shards.iter_mut().map(|shard| shard.fill(anchored, request, *share))).await?;
            let first = shards
                .iter_mut()
                .filter(|shard| !shard.read.is_empty())
                .min_by(|one, other| one.name().cmp(&other.name()));
            let Some(anchor) = first.and_then(|shard| shard.read.pop_front()) else { break };
            self.next = match folder_of(anchor.pathname.as_str(), request) {
                Some(folder) => Some(Entry::Folder(folder.to_owned())),
                None => anchored.listed(&anchor).map(Entry::Blob),
            };
        }
        Ok(self.next.as_ref())
    }

    fn take(&mut self) -> Option<Entry> {
        self.next.take()
    }

    /// Goes on after a folder.
    fn pass(&mut self, folder: &str) {
        self.next.take_if(|next| next.name().starts_with(folder));
        for shard in &mut self.shards {
            shard.read.retain(|anchor| !anchor.pathname.as_str().starts_with(folder));
            if shard.read.is_empty() && !shard.over {
                let past = format!("{folder}{LAST}");
                if shard.after.as_ref().is_none_or(|after| *after < past) {
                    shard.after = Some(past);
                }
            }
        }
    }
}

impl Shard {
    fn name(&self) -> Option<&str> {
        self.read.front().map(|anchor| anchor.pathname.as_str())
    }

    async fn fill(&mut self, anchored: &Anchored, request: &ListRequest, share: u32) -> Result<()> {
        while self.read.is_empty() && !self.over {
            let after = self.after.as_deref().map(|after| names::anchor_after(self.number, after));
            let (anchors, next) =
                anchored.control().anchors_under(self.number, &request.prefix, after, share).await?;
            self.over = next.is_none();
            self.after = next.map(|key| key.sort);
            self.read.extend(anchors.into_iter().filter(|anchor| {
                let name = &anchor.pathname;
                anchor.head.is_some() && name.as_str().starts_with(&request.prefix) && anchored.maps(name)
            }));
        }
        Ok(())
    }
}

/// What is Blob's, from its listing.
struct Others<'a> {
    anchored: &'a Anchored,
    request: &'a ListRequest,
    after: Option<String>,
    /// The cursor of the page that is being read.
    begin: Option<String>,
    /// The cursor of the one after it.
    next: Option<String>,
    read: VecDeque<Entry>,
    /// Whether the page was read.
    asked: bool,
}

impl<'a> Others<'a> {
    fn new(
        anchored: &'a Anchored,
        request: &'a ListRequest,
        after: Option<String>,
        blob: Option<String>,
    ) -> Self {
        Self { anchored, request, after, begin: blob, next: None, read: VecDeque::new(), asked: false }
    }

    async fn peek(&mut self) -> Result<Option<&Entry>> {
        while self.read.is_empty() {
            if self.asked {
                let Some(next) = self.next.take() else { return Ok(None) };
                self.begin = Some(next);
            }
            let request =
                ListRequest { cursor: self.begin.clone(), limit: Some(LIMIT_MAX), ..self.request.clone() };
            let page = self.anchored.blob().list(&request).await?;
            self.asked = true;
            self.next = page.cursor;
            let blobs = page.blobs.into_iter().filter(|blob| !self.anchored.maps(&blob.pathname));
            let mut entries: Vec<Entry> = blobs.map(Entry::Blob).collect();
            let folders: BTreeSet<String> = page.folders.into_iter().collect();
            entries.extend(folders.into_iter().map(Entry::Folder));
            entries.sort_by(|one, other| one.name().cmp(other.name()));
            let new = |entry: &Entry| self.after.as_deref().is_none_or(|after| entry.name() > after);
            self.read = entries.into_iter().filter(new).collect();
        }
        Ok(self.read.front())
    }

    fn take(&mut self) -> Option<Entry> {
        self.read.pop_front()
    }

    /// Goes on after a folder.
    fn pass(&mut self, folder: &str) {
        self.read.retain(|entry| entry.name() != folder);
        self.after = Some(folder.to_owned());
    }
}
