//! Retained bodies: the bytes of a blob, compressed, in parts that fit an item.

use std::cell::RefCell;
use std::io::{BufReader, Read as _};
use std::ops::Range;

use bytes::Bytes;
use zstd::stream::raw::{Decoder, Operation as _};

use super::{Anchor, BodyForm, BodyRef, Control, corrupt, names};
use crate::blob::spool::{MEMORY_BYTES_MAX, Spool, unwritten};
use crate::blob::{Pathname, Spooled};
use crate::digest::Digest;
use crate::error::{Error, Result};
use crate::mapping::Skeleton;
use crate::protocol::Rev;
use crate::target::store::{CONTROL_PARTITION_KEY, CONTROL_SORT_KEY, Condition, Table, Write};
use crate::value::{Item, Key, Value};

/// Bodies up to this many bytes are retained; longer ones are rebuilt from their items.
pub const RETAIN_MAX: usize = 4 * 1024 * 1024;
/// The largest part in bytes; with its keys it stays well under an item's limit.
const PART_BYTES_MAX: usize = 300 * 1024;
/// The longest body that is unpacked in memory: as long a one is mapped as a whole.
const UNPACKED_BYTES_MAX: usize = 64 * 1024 * 1024;
/// How much of a long body is unpacked at a time.
const UNPACKED_CHUNK_BYTES: usize = 128 * 1024;
/// The longest skeleton that is read, unpacked, in bytes. It has the texts that no item has, and some 30 bytes
/// for each record.
const SKELETON_BYTES_MAX: u64 = 256 * 1024 * 1024;
/// zstd's own default level: JSON shrinks to a fifth at several hundred MB/s.
const LEVEL: i32 = 3;
/// What is packed with a context that is kept; that takes some hundred kilobytes for each thread.
const SMALL_BYTES_MAX: usize = 64 * 1024;

/// The rows that retain a body under `rev`, and the reference to them. None where it is too long.
#[must_use]
pub fn encode_body(pathname: &Pathname, rev: &Rev, bytes: &[u8]) -> Option<(BodyRef, Vec<Item>)> {
    if bytes.len() > RETAIN_MAX {
        return None;
    }
    Some(encode(pathname, rev, BodyForm::Bytes, bytes))
}

/// The rows that hold the skeleton of a longer body under `rev`, and the reference to them.
#[must_use]
pub fn encode_skeleton(pathname: &Pathname, rev: &Rev, skeleton: &Skeleton) -> (BodyRef, Vec<Item>) {
    let text = serde_json::to_vec(skeleton).expect("invariant: a skeleton can be written as JSON");
    encode(pathname, rev, BodyForm::Skeleton, &text)
}

/// The rows that retain a body of any length under `rev`, and the reference to them. They are all in memory,
/// compressed.
///
/// # Errors
/// `NotApplied` where a body in a temporary file can't be read.
pub fn encode_whole(pathname: &Pathname, rev: &Rev, body: &Spooled) -> Result<(BodyRef, Vec<Item>)> {
    if let Some(bytes) = body.in_memory() {
        return Ok(encode(pathname, rev, BodyForm::Bytes, bytes));
    }
    let packed = zstd::stream::encode_all(BufReader::new(body.reader()), LEVEL).map_err(unwritten)?;
    Ok(in_parts(pathname, rev, BodyForm::Bytes, &packed))
}

fn encode(pathname: &Pathname, rev: &Rev, form: BodyForm, bytes: &[u8]) -> (BodyRef, Vec<Item>) {
    let packed = pack(bytes).expect("invariant: compression into memory succeeds");
    in_parts(pathname, rev, form, &packed)
}

fn in_parts(pathname: &Pathname, rev: &Rev, form: BodyForm, packed: &[u8]) -> (BodyRef, Vec<Item>) {
    let rows: Vec<Item> = packed
        .chunks(PART_BYTES_MAX)
        .zip(0u32..)
        .map(|(part, number)| {
            let key = names::body(pathname, rev, number);
            Item::from([
                (CONTROL_PARTITION_KEY.to_owned(), Value::S(key.partition)),
                (CONTROL_SORT_KEY.to_owned(), Value::S(key.sort)),
                ("format".to_owned(), Value::n(1)),
                ("bytes".to_owned(), Value::B(Bytes::copy_from_slice(part))),
            ])
        })
        .collect();
    let parts = u32::try_from(rows.len()).expect("invariant: what is in memory, in parts of 300 KB");
    (BodyRef { rev: rev.clone(), parts, form }, rows)
}

/// Small bodies are packed with a context that each thread keeps: to make one takes longer than to use it.
fn pack(bytes: &[u8]) -> std::io::Result<Vec<u8>> {
    thread_local! {
        static SMALL: RefCell<Option<zstd::bulk::Compressor<'static>>> = const { RefCell::new(None) };
    }
    if bytes.len() > SMALL_BYTES_MAX {
        return zstd::bulk::compress(bytes, LEVEL);
    }
    SMALL.with_borrow_mut(|kept| {
        let mut compressor = match kept.take() {
            Some(compressor) => compressor,
            None => zstd::bulk::Compressor::new(LEVEL)?,
        };
        let packed = compressor.compress(bytes);
        *kept = Some(compressor);
        packed
    })
}

impl Control {
    /// Stores parts of bodies and pages of keys, before the transactions that name them. Their keys are new, so a
    /// part that is there already is one of an earlier attempt of the same request.
    ///
    /// # Errors
    /// What the store reports; then none of them is named by anything.
    pub async fn put_rows(&self, rows: Vec<Item>) -> Result<()> {
        if !rows.is_empty() {
            self.store.insert(Table::Control, rows).await?;
        }
        Ok(())
    }

    /// Removes the parts of a body that nothing names any more. What remains is harmless.
    ///
    /// # Errors
    /// What the store reports.
    pub async fn drop_body(&self, pathname: &Pathname, body: &BodyRef) -> Result<()> {
        self.drop_rows((0..body.parts).map(|part| names::body(pathname, &body.rev, part))).await
    }

    pub(super) async fn drop_rows(&self, keys: impl Iterator<Item = Key>) -> Result<()> {
        for key in keys {
            let delete = Write::Delete { table: Table::Control, key, condition: Condition::Always };
            self.store.transact(&names::token(), vec![delete]).await?;
        }
        Ok(())
    }

    /// The retained bodies of these anchors, in their order, each checked against the anchor's SHA-256;
    /// none where its bytes are not retained.
    ///
    /// # Errors
    /// What the store reports. A missing or damaged part is `Err` inside, for that anchor alone.
    pub async fn bodies(&self, anchors: &[&Anchor]) -> Result<Vec<Option<Result<Vec<u8>>>>> {
        let keys: Vec<Key> = anchors
            .iter()
            .filter_map(|anchor| retained(anchor).map(|body| (anchor, body)))
            .flat_map(|(anchor, body)| {
                (0..body.parts).map(|part| names::body(&anchor.pathname, &body.rev, part))
            })
            .collect();
        let mut rows = self.store.get(Table::Control, &keys).await?.into_iter();
        Ok(anchors
            .iter()
            .map(|anchor| {
                let parts = retained(anchor)?.parts as usize;
                Some(unpack(anchor, &rows.by_ref().take(parts).collect::<Vec<_>>()))
            })
            .collect())
    }

    /// The retained bytes of an anchor, whatever their length, checked against its SHA-256; none where they are not
    /// retained.
    ///
    /// # Errors
    /// `Corrupt` where a part is missing or damaged, as where the anchor was replaced meanwhile; what the store
    /// reports.
    pub async fn retained(&self, anchor: &Anchor) -> Result<Option<Spooled>> {
        let (Some(body), Some(head)) = (retained(anchor), &anchor.head) else { return Ok(None) };
        if head.size <= MEMORY_BYTES_MAX {
            let bytes = self.bodies(&[anchor]).await?.pop().flatten().transpose()?;
            return Ok(bytes.map(|bytes| Bytes::from(bytes).into()));
        }
        let mut unpacking = Unpacking::new(self, anchor, body)?;
        let mut spool = Spool::new(MEMORY_BYTES_MAX);
        while let Some(bytes) = unpacking.next().await? {
            spool.push(&bytes).map_err(unwritten)?;
        }
        let spooled = spool.finish();
        if spooled.sha256() == head.sha256 { Ok(Some(spooled)) } else { Err(other_bytes(&anchor.key())) }
    }

    /// The same piece by piece, not checked; none where they are not retained.
    pub(crate) fn unpacking<'a>(&'a self, anchor: &'a Anchor) -> Result<Option<Unpacking<'a>>> {
        retained(anchor).map(|body| Unpacking::new(self, anchor, body)).transpose()
    }

    /// What the body of an anchor is rebuilt from; none where its bytes are retained, or nothing is.
    ///
    /// # Errors
    /// `Corrupt` where a part is missing or damaged; what the store reports.
    pub async fn skeleton(&self, anchor: &Anchor) -> Result<Option<Skeleton>> {
        let body = anchor.body.as_ref().filter(|body| body.form == BodyForm::Skeleton);
        let Some(body) = body else { return Ok(None) };
        let keys: Vec<Key> =
            (0..body.parts).map(|part| names::body(&anchor.pathname, &body.rev, part)).collect();
        let packed = packed(anchor, &self.store.get(Table::Control, &keys).await?)?;
        let damaged = || corrupt(&anchor.key(), "what its body is rebuilt from can't be unpacked");
        let reader =
            zstd::stream::read::Decoder::new(&packed[..]).map_err(|error| damaged().source(error))?;
        let skeleton = serde_json::from_reader(BufReader::new(reader.take(SKELETON_BYTES_MAX)));
        skeleton.map(Some).map_err(|error| damaged().source(error))
    }
}

/// A retained body on its way. Memory does not grow with it, however well it was packed.
pub(crate) struct Unpacking<'a> {
    control: &'a Control,
    anchor: &'a Anchor,
    rev: &'a Rev,
    parts: Range<u32>,
    decoder: Decoder<'static>,
    /// The present part, and how much of it was read.
    packed: Vec<u8>,
    read: usize,
    has_more: bool,
    is_whole: bool,
}

impl<'a> Unpacking<'a> {
    fn new(control: &'a Control, anchor: &'a Anchor, body: &'a BodyRef) -> Result<Self> {
        let decoder = Decoder::new().map_err(|error| not_unpacked(&anchor.key()).source(error))?;
        let (rev, parts) = (&body.rev, 0..body.parts);
        Ok(Self {
            control,
            anchor,
            rev,
            parts,
            decoder,
            packed: Vec::new(),
            read: 0,
            has_more: false,
            is_whole: false,
        })
    }

    /// The next bytes; none at the end.
    ///
    /// # Errors
    /// `Corrupt` where a part is missing or damaged, as where the anchor was replaced meanwhile; what the store
    /// reports.
    pub(crate) async fn next(&mut self) -> Result<Option<Bytes>> {
        let damaged = || not_unpacked(&self.anchor.key());
        loop {
            // What fills the buffer may have left more behind in the decoder.
            while self.read < self.packed.len() || std::mem::take(&mut self.has_more) {
                let mut bytes = vec![0; UNPACKED_CHUNK_BYTES];
                let done = self.decoder.run_on_buffers(&self.packed[self.read..], &mut bytes);
                let done = done.map_err(|error| damaged().source(error))?;
                self.read += done.bytes_read;
                self.is_whole = done.remaining == 0;
                self.has_more = done.bytes_written == bytes.len() && !self.is_whole;
                if done.bytes_written > 0 {
                    bytes.truncate(done.bytes_written);
                    return Ok(Some(bytes.into()));
                }
            }
            let Some(number) = self.parts.next() else {
                return if self.is_whole { Ok(None) } else { Err(damaged()) };
            };
            let part = self.control.get_row(names::body(&self.anchor.pathname, self.rev, number)).await?;
            (self.packed, self.read) = (packed(self.anchor, &[part])?, 0);
        }
    }
}

fn not_unpacked(key: &Key) -> Error {
    corrupt(key, "its retained body can't be unpacked")
}

fn other_bytes(key: &Key) -> Error {
    corrupt(key, "its retained body is not the one that was stored (SHA-256)")
}

/// Where the bytes of an anchor's body lie.
fn retained(anchor: &Anchor) -> Option<&BodyRef> {
    anchor.body.as_ref().filter(|body| body.form == BodyForm::Bytes)
}

fn packed(anchor: &Anchor, rows: &[Option<Item>]) -> Result<Vec<u8>> {
    let key = anchor.key();
    let mut packed = Vec::new();
    for row in rows {
        let part = row.as_ref().and_then(|row| row.get("bytes")?.as_b());
        packed
            .extend_from_slice(part.ok_or_else(|| corrupt(&key, "a part of its retained body is missing"))?);
    }
    Ok(packed)
}

fn unpack(anchor: &Anchor, rows: &[Option<Item>]) -> Result<Vec<u8>> {
    let key = anchor.key();
    let packed = packed(anchor, rows)?;
    let size = anchor.head.as_ref().and_then(|head| usize::try_from(head.size).ok()).unwrap_or(0);
    let bytes = zstd::bulk::decompress(&packed, size.min(UNPACKED_BYTES_MAX))
        .map_err(|error| not_unpacked(&key).source(error))?;
    match &anchor.head {
        Some(head) if head.sha256 == Digest::of(&bytes) => Ok(bytes),
        _ => Err(other_bytes(&key)),
    }
}
