//! The JSON of a long blob, put together from its items.

use std::io;

use crate::blob::spool::unwritten;
use crate::converge::owner;
use crate::error::{Error, ErrorKind, Result};
use crate::mapping::{EntityId, Mapper, Piece, Pieces, Skeleton};
use crate::target::Table;
use crate::target::control::{Anchor, Control};
use crate::value::Item;

const OPERATION: &str = "put a blob together from its items";
/// How many records are read at a time.
const RECORDS: usize = 100;

/// Hands out the JSON of a blob, or its NDJSON, piece by piece: what its items have, in the places that `skeleton` says.
///
/// It says what the blob said: numbers are in DynamoDB's form, members in the order of their names. Memory
/// does not grow with its length.
///
/// # Errors
/// `Corrupt` where an item is missing, another blob's, or not what the plan makes of a record; what the store
/// reports; what `take` does, as a temporary file that can't be written.
pub async fn rebuild(
    control: &Control,
    (mapper, entity): (&Mapper, EntityId),
    anchor: &Anchor,
    skeleton: &Skeleton,
    mut take: impl FnMut(&[u8]) -> io::Result<()> + Send,
) -> Result<()> {
    let mut rebuilding = Rebuilding::new(control, (mapper, entity), anchor, skeleton);
    while let Some(bytes) = rebuilding.next().await? {
        take(&bytes).map_err(|error| unwritten(error).key(&anchor.pathname))?;
    }
    Ok(())
}

/// A body that is put together, some records at a time.
pub(crate) struct Rebuilding<'a> {
    control: &'a Control,
    mapper: &'a Mapper,
    entity: EntityId,
    anchor: &'a Anchor,
    pieces: Pieces<'a>,
}

impl<'a> Rebuilding<'a> {
    /// That of an anchor, from its beginning on.
    pub(crate) fn new(
        control: &'a Control,
        (mapper, entity): (&'a Mapper, EntityId),
        anchor: &'a Anchor,
        skeleton: &'a Skeleton,
    ) -> Self {
        Self { control, mapper, entity, anchor, pieces: mapper.pieces(entity, skeleton) }
    }

    /// The next bytes; none at the end.
    ///
    /// # Errors
    /// As [`rebuild`].
    pub(crate) async fn next(&mut self) -> Result<Option<Vec<u8>>> {
        let Self { control, mapper, entity, anchor, pieces } = self;
        let mut records = 0;
        let mut some = Vec::new();
        while records < RECORDS
            && let Some(piece) = pieces.next()
        {
            records += usize::from(matches!(piece, Piece::Record { .. }));
            some.push(piece);
        }
        if some.is_empty() {
            return Ok(None);
        }
        let heads = some.iter().filter_map(|piece| match piece {
            Piece::Record { item, .. } => Some(*item),
            Piece::Text(_) => None,
        });
        let mut found = items(control, anchor, heads).await?.into_iter();
        let mut text = String::new();
        for piece in &some {
            match piece {
                Piece::Text(more) => text.push_str(more),
                Piece::Record { rule, item } => {
                    let head = found.next().expect("invariant: an item for each record");
                    let count = mapper.part_count(*entity, *rule, &head);
                    let first = item.checked_sub(count).ok_or_else(|| incomplete(anchor))?;
                    let mut all = items(control, anchor, first..*item).await?;
                    all.push(head);
                    let record = mapper.record(*entity, *rule, &all.iter().collect::<Vec<_>>());
                    text.push_str(&record.ok_or_else(|| incomplete(anchor))?.to_string());
                }
            }
        }
        Ok(Some(text.into_bytes()))
    }
}

/// The items of an anchor with these numbers.
async fn items(
    control: &Control,
    anchor: &Anchor,
    numbers: impl Iterator<Item = usize>,
) -> Result<Vec<Item>> {
    let keys: Option<Vec<_>> = numbers.map(|number| anchor.items.get(number).cloned()).collect();
    let keys = keys.ok_or_else(|| incomplete(anchor))?;
    if keys.is_empty() {
        return Ok(Vec::new());
    }
    let found = control.store().get(Table::Data, &keys).await?;
    let ours =
        |item: Option<Item>| item.filter(|item| owner(item).as_deref() == Some(anchor.pathname.as_str()));
    found.into_iter().map(|item| ours(item).ok_or_else(|| incomplete(anchor))).collect()
}

fn incomplete(anchor: &Anchor) -> Error {
    Error::new(ErrorKind::Corrupt, OPERATION)
        .key(&anchor.pathname)
        .message("an item that holds a part of it is missing, or is not what was stored")
        .hint("`migrate validate --repair` stores it anew")
}
