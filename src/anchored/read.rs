//! Content for readers: a short body as a whole, a long one piece by piece, as fast as its reader takes it.
//!
//! A long body is held nowhere: it is unpacked, or put together from its items, once for each reader. No reader gets
//! bytes of two versions: what was retained is immutable, and what items have goes out only while the anchor still
//! stands. Whoever is replaced meanwhile, or damaged, breaks off.
//!
//! Readers are bounded, since each takes memory for as long as its client takes its time.

use std::collections::HashMap;
use std::future::poll_fn;
use std::ops::Range;
use std::sync::{Arc, LazyLock, Mutex, PoisonError};
use std::task::{Poll, ready};

use bytes::Bytes;
use futures::stream;
use futures::{FutureExt as _, StreamExt as _};
use sha2::Digest as _;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tracing::Instrument as _;

use super::{Anchored, Answers};
use crate::blob::pace::{Patience, STALL, STALL_CROWDED};
use crate::blob::spool::{MEMORY_BYTES_MAX, Spool, unwritten};
use crate::blob::store::{Content, GetOptions};
use crate::blob::{Body, Pathname, Spooled};
use crate::converge::Rebuilding;
use crate::digest::Digest;
use crate::error::{Error, ErrorKind, Result};
use crate::mapping::{EntityId, Rule, Skeleton};
use crate::protocol::Rev;
use crate::target::control::{Anchor, AnchorState, Control, Unpacking};

const OPERATION: &str = "read a body";
/// The most readers of long bodies at a time in a process. Each may hold a skeleton, keys, and a hundred records.
const LONG_READERS_MAX: usize = 64;
/// The most bytes of whole bodies that readers hold at a time in a process, in memory or in temporary files.
const WHOLE_KIB_MAX: u32 = 256 * 1024;
/// How much of a long body goes to its reader at a time: what even a slow one takes within its patience.
const CHUNK_BYTES: usize = 32 * 1024;
/// How many rebuilt bodies are remembered by length and digest.
const MEASURED_MAX: usize = 10_000;

static LONG_READERS: LazyLock<Arc<Semaphore>> = LazyLock::new(|| Arc::new(Semaphore::new(LONG_READERS_MAX)));
static WHOLE_KIB: LazyLock<Arc<Semaphore>> =
    LazyLock::new(|| Arc::new(Semaphore::new(WHOLE_KIB_MAX as usize)));
/// What bodies are that are put together from items, by the rev of their skeleton: their length is known only once
/// that was done.
static MEASURED: LazyLock<Mutex<HashMap<Rev, Measure>>> = LazyLock::new(Mutex::default);

/// The length and the digest of a body.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Measure {
    length: u64,
    sha256: Digest,
}

/// Room for a body that a reader holds as a whole.
pub(crate) struct Room {
    _room: OwnedSemaphorePermit,
}

impl Room {
    /// Room for so many bytes, for as long as the body of [`Room::around`] is read.
    ///
    /// # Errors
    /// `Busy` where readers hold as much as they may.
    pub(crate) fn of(bytes: u64) -> Result<Self> {
        let kib = u32::try_from(bytes.div_ceil(1024)).unwrap_or(u32::MAX).min(WHOLE_KIB_MAX);
        let room = WHOLE_KIB.clone().try_acquire_many_owned(kib);
        room.map(|room| Self { _room: room }).map_err(|_| crowded())
    }

    /// The body, which gives the room back once it was read.
    pub(crate) fn around(self, body: Body) -> Body {
        let length = body.length();
        let mut stream = body.into_stream();
        let kept = stream::poll_fn(move |context| {
            let _kept = &self;
            stream.poll_next_unpin(context)
        });
        Body::stream(length, kept.boxed())
    }
}

fn crowded() -> Error {
    Error::new(ErrorKind::Busy, OPERATION)
        .message("as many bodies are being read as may be at a time; try again")
}

/// A body as it goes to a reader: its length as a whole, and the part that was asked for.
type Read = (u64, Body);

impl Anchored {
    /// The content of what is mapped; none where nothing is.
    pub(super) async fn read(&self, pathname: &Pathname, options: &GetOptions) -> Result<Option<Content>> {
        let range = options.range;
        let content = self.content_by(pathname, |anchored, anchor, body| {
            async move {
                let options = GetOptions { range, ..GetOptions::default() };
                match body {
                    Some(body) => Ok(whole(&body, anchored.room(body.length())?, &options)),
                    None => anchored.body_for_reader(anchor, &options).await,
                }
            }
            .boxed()
        });
        let Some((anchor, (size, body))) = content.await? else { return Ok(None) };
        let Some(head) = self.head_of(&anchor) else { return Ok(None) };
        Ok(Some(Content {
            etag: head.blob.etag,
            size,
            last_modified: Some(head.blob.uploaded_at),
            content_type: head.content_type,
            content_disposition: head.content_disposition,
            cache_control: head.cache_control,
            body,
        }))
    }

    /// Room for a client's body: what this program reads itself is not bounded here.
    fn room(&self, bytes: u64) -> Result<Option<Room>> {
        (self.answers == Answers::Clients).then(|| Room::of(bytes)).transpose()
    }

    async fn body_for_reader(&self, anchor: &Anchor, options: &GetOptions) -> Result<Read> {
        let long = anchor.head.as_ref().filter(|head| head.size > MEMORY_BYTES_MAX);
        let Some(head) = long else {
            let size = anchor.head.as_ref().map_or(0, |head| head.size);
            let room = self.room(size)?;
            return Ok(whole(&self.body_of(anchor).await?, room, options));
        };
        let place = match self.answers {
            Answers::Clients => Some(LONG_READERS.clone().try_acquire_owned().map_err(|_| crowded())?),
            Answers::Anchors => None,
        };
        let retained = Measure { length: head.size, sha256: head.sha256 };
        let (source, measure) = match self.control().unpacking(anchor)? {
            Some(_) => (Source::Retained(anchor.clone()), retained),
            None => {
                let (source, rev) = self.to_rebuild(anchor).await?;
                let known = MEASURED.lock().unwrap_or_else(PoisonError::into_inner).get(&rev).copied();
                let measure = match known {
                    Some(measure) => measure,
                    None => self.measure(&source, rev).await?,
                };
                (source, measure)
            }
        };
        let range = options.bounds(measure.length);
        Ok((measure.length, self.streamed(source, measure, range, place)))
    }

    /// What the body of an anchor is put together from, and the rev that names it.
    async fn to_rebuild(&self, anchor: &Anchor) -> Result<(Source, Rev)> {
        let nothing = || {
            Error::new(ErrorKind::Unrepresentable, OPERATION)
                .key(&anchor.pathname)
                .message("DynamoDB has neither its bytes nor what they are rebuilt from")
        };
        let skeleton = self.control().skeleton(anchor).await?.ok_or_else(nothing)?;
        let Rule::Entity(entity) = self.converger.mapper.rule(&anchor.pathname) else {
            return Err(nothing());
        };
        let rev = anchor.body.as_ref().map(|body| body.rev.clone()).ok_or_else(nothing)?;
        let complete = self.control().with_keys(anchor.clone()).await?;
        let complete = complete.filter(|complete| holds_the_same(anchor, complete));
        let anchor = complete.ok_or_else(|| moved(anchor))?;
        Ok((Source::Items { anchor, entity, skeleton }, rev))
    }

    /// The body of an anchor whose bytes are not retained, put together as a whole.
    pub(super) async fn rebuilt(&self, anchor: &Anchor) -> Result<Spooled> {
        let (source, _) = self.to_rebuild(anchor).await?;
        let (mut pieces, mut spool) = (source.pieces(self)?, Spool::new(MEMORY_BYTES_MAX));
        while let Some(bytes) = pieces.next().await? {
            spool.push(&bytes).map_err(unwritten)?;
        }
        Ok(spool.finish())
    }

    /// Puts a body together for its length and digest alone.
    async fn measure(&self, source: &Source, rev: Rev) -> Result<Measure> {
        let (mut length, mut sha256) = (0, sha2::Sha256::default());
        let mut pieces = source.pieces(self)?;
        while let Some(bytes) = pieces.next().await? {
            length += bytes.len() as u64;
            sha256.update(&bytes);
        }
        let measure = Measure { length, sha256: Digest::from_bytes(sha256.finalize().into()) };
        let mut measured = MEASURED.lock().unwrap_or_else(PoisonError::into_inner);
        if measured.len() >= MEASURED_MAX {
            measured.clear();
        }
        measured.insert(rev, measure);
        Ok(measure)
    }

    /// The bytes of a range, read once they are asked for.
    fn streamed(
        &self,
        source: Source,
        measure: Measure,
        range: Range<u64>,
        place: Option<OwnedSemaphorePermit>,
    ) -> Body {
        let mut left = range.end - range.start;
        let length = left;
        let (to, mut from) = mpsc::channel(1);
        let sending =
            Sending { measure, range, at: 0, sha256: sha2::Sha256::default(), kept: Bytes::new(), to };
        let anchored = self.clone();
        let mut sending = Some(async move {
            sending.all(&anchored, &source).await;
            drop(place);
        });
        let chunks = stream::poll_fn(move |context| {
            if left == 0 {
                return Poll::Ready(None);
            }
            if let Some(sending) = sending.take() {
                tokio::spawn(sending.in_current_span());
            }
            let chunk = ready!(from.poll_recv(context));
            // Nothing says why no more comes: the reader took its time.
            let chunk = chunk.unwrap_or_else(|| Err(broken_off()));
            left = chunk.as_ref().map_or(0, |chunk: &Bytes| left.saturating_sub(chunk.len() as u64));
            Poll::Ready(Some(chunk))
        });
        Body::stream(Some(length), chunks.boxed())
    }
}

fn whole(body: &Spooled, room: Option<Room>, options: &GetOptions) -> Read {
    let part = body.part(options.range);
    let part = match room {
        Some(room) => room.around(part),
        None => part,
    };
    (body.length(), part)
}

/// Where the bytes of a long body come from.
enum Source {
    /// Its retained bytes.
    Retained(Anchor),
    /// Its items.
    Items { anchor: Anchor, entity: EntityId, skeleton: Skeleton },
}

/// The bytes of a long body in their order.
enum Pieces<'a> {
    Retained(Unpacking<'a>),
    Items { rebuilding: Rebuilding<'a>, control: &'a Control, anchor: &'a Anchor },
}

impl Source {
    fn pieces<'a>(&'a self, anchored: &'a Anchored) -> Result<Pieces<'a>> {
        let control = anchored.control();
        Ok(match self {
            Self::Retained(anchor) => {
                Pieces::Retained(control.unpacking(anchor)?.ok_or_else(|| moved(anchor))?)
            }
            Self::Items { anchor, entity, skeleton } => {
                let mapper = (anchored.converger.mapper.as_ref(), *entity);
                let rebuilding = Rebuilding::new(control, mapper, anchor, skeleton);
                Pieces::Items { rebuilding, control, anchor }
            }
        })
    }
}

impl Pieces<'_> {
    /// The next bytes of this very version; none at the end.
    async fn next(&mut self) -> Result<Option<Bytes>> {
        match self {
            Self::Retained(unpacking) => unpacking.next().await,
            Self::Items { rebuilding, control, anchor } => {
                let Some(bytes) = rebuilding.next().await? else { return Ok(None) };
                // An item is written only after the anchor that it is written under: so these were none of a later one.
                let now = control.bare_anchor(&anchor.pathname).await?;
                match now.filter(|now| holds_the_same(anchor, now)) {
                    Some(_) => Ok(Some(bytes.into())),
                    None => Err(moved(anchor)),
                }
            }
        }
    }
}

/// Whether two anchors of a pathname have the same items and the same skeleton. What Blob holds of it, and the rev, may
/// differ: the mirror writes them.
fn holds_the_same(one: &Anchor, other: &Anchor) -> bool {
    let what = |anchor: &Anchor| (anchor.state.clone(), anchor.items_rev.clone(), anchor.body.clone());
    one.state == AnchorState::Live && what(one) == what(other)
}

fn moved(anchor: &Anchor) -> Error {
    Error::new(ErrorKind::Corrupt, OPERATION).key(&anchor.pathname).message("it is being changed")
}

fn broken_off() -> Error {
    Error::new(ErrorKind::NotApplied, OPERATION).message("its reader is too slow")
}

/// A range of a long body on its way to its reader.
struct Sending {
    measure: Measure,
    range: Range<u64>,
    /// How much of the body was there yet.
    at: u64,
    sha256: sha2::Sha256,
    /// What is sent once all that follows, or the digest, is known to be right.
    kept: Bytes,
    to: mpsc::Sender<Result<Bytes>>,
}

impl Sending {
    /// Sends it, or why it breaks off.
    async fn all(mut self, anchored: &Anchored, source: &Source) {
        let clock = Arc::clone(&anchored.converger.fetcher.clock);
        let mut patience = Patience::new(clock, LONG_READERS.clone(), STALL, STALL_CROWDED);
        if let Err(error) = self.pieces(anchored, source, &mut patience).await {
            tracing::warn!(error = &error as &dyn std::error::Error, "content breaks off");
            // Nobody may be there any more to hear of it.
            self.to.send(Err(error)).await.ok();
        }
    }

    async fn pieces(&mut self, anchored: &Anchored, source: &Source, patience: &mut Patience) -> Result<()> {
        let is_whole = self.range == (0..self.measure.length);
        let mut pieces = source.pieces(anchored)?;
        while let Some(bytes) = pieces.next().await? {
            if is_whole {
                self.sha256.update(&bytes);
            }
            let within =
                |at: u64| usize::try_from(at.saturating_sub(self.at)).unwrap_or(usize::MAX).min(bytes.len());
            let part = bytes.slice(within(self.range.start)..within(self.range.end));
            self.at += bytes.len() as u64;
            if !part.is_empty() {
                let before = std::mem::replace(&mut self.kept, part);
                if !self.send(before, patience).await {
                    return Ok(());
                }
            }
            if self.at >= self.range.end && !is_whole {
                break;
            }
        }
        let sha256 = Digest::from_bytes(self.sha256.clone().finalize().into());
        let is_right = !is_whole || (self.at == self.measure.length && sha256 == self.measure.sha256);
        if !is_right || self.at < self.range.end {
            let damaged =
                Error::new(ErrorKind::Corrupt, OPERATION).message("it is not the body that was stored");
            return Err(damaged.hint("`migrate validate --repair` stores it anew"));
        }
        let last = std::mem::take(&mut self.kept);
        self.send(last, patience).await;
        Ok(())
    }

    /// Whether the reader took it.
    async fn send(&self, mut bytes: Bytes, patience: &mut Patience) -> bool {
        while !bytes.is_empty() {
            let chunk = bytes.split_to(bytes.len().min(CHUNK_BYTES));
            let length = chunk.len();
            let is_sent = tokio::select! {
                biased;
                sent = self.to.send(Ok(chunk)) => sent.is_ok(),
                () = poll_fn(|context| patience.poll(context)) => false,
            };
            patience.moved(length);
            if !is_sent {
                return false;
            }
        }
        true
    }
}
