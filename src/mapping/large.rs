//! Records that make an item too large: compressed in one attribute, or over several items.

use std::io::Read as _;

use bytes::Bytes;

use super::document::Document;
use super::item::{BuiltItem, ItemRule, Layout, PartItem, source_bytes, table_key};
use super::json::{Json, Reading};
use super::marks::{BODY, ENCODING, PART, PARTS};
use super::quarantine::{Quarantine, Reason};
use crate::converge::BODY_BYTES_MAX;
use crate::plan::{Duplicates, TooLarge};
use crate::value::{ITEM_BYTES_MAX, Item, Value, item_bytes};

/// zstd's own default level, as for retained bodies. Another level, or another zstd, makes other bytes of the
/// same record: then `MAPPING_VERSION` in `src/plan/hash.rs` counts on.
const LEVEL: i32 = 3;

/// What is behind the sort key of a part; the number has five digits.
const SUFFIX: &str = "#part-";

const JSON: &str = "json";
const BYTES: &str = "bytes";
const ZSTD_JSON: &str = "json+zstd";
const ZSTD_BYTES: &str = "bytes+zstd";

/// Packs the record of an item that is too large. `item` has its attributes without the record's own, but for
/// the TTL.
pub(super) fn pack(
    policy: TooLarge,
    layout: &Layout,
    mut item: Item,
    omitted: Vec<String>,
    record: &Document,
    pathname: &str,
) -> Result<BuiltItem, Quarantine> {
    let (bytes, is_json) = match record {
        Document::Json(json) => (json.to_string().into_bytes(), true),
        Document::Bytes(bytes) => (bytes.to_vec(), false),
    };
    let mut parts = Vec::new();
    if policy == TooLarge::Compress {
        let packed =
            zstd::bulk::compress(&bytes, LEVEL).expect("invariant: compression into memory succeeds");
        item.insert(BODY.to_owned(), Value::B(packed.into()));
        item.insert(ENCODING.to_owned(), Value::s(if is_json { ZSTD_JSON } else { ZSTD_BYTES }));
    } else {
        parts = split(layout, &item, &bytes, is_json, pathname)?;
        item.insert(PARTS.to_owned(), Value::n(parts.len() as u64));
        item.insert(ENCODING.to_owned(), Value::s(if is_json { JSON } else { BYTES }));
    }
    let size = item_bytes(&item) + source_bytes(pathname);
    if size > ITEM_BYTES_MAX {
        let how = if policy == TooLarge::Compress { "compressed" } else { "without its record" };
        let detail = format!("{size} bytes {how}, of at most {ITEM_BYTES_MAX}");
        return Err(Quarantine::new(Reason::ItemTooLarge, detail));
    }
    let key = table_key(layout, &item)?;
    Ok(BuiltItem { key, item, omitted, parts })
}

/// The parts of a record, each as large as an item may be.
fn split(
    layout: &Layout,
    head: &Item,
    bytes: &[u8],
    is_json: bool,
    pathname: &str,
) -> Result<Vec<PartItem>, Quarantine> {
    let copied = |name: &String| head.get(name).map(|value| (name.clone(), value.clone()));
    let sort = head.get(&layout.sort_key).and_then(Value::as_s).unwrap_or_default();
    let empty = |number: usize| {
        let mut item = Item::new();
        item.extend(copied(&layout.partition_key));
        item.extend(layout.ttl.as_ref().and_then(copied));
        item.insert(layout.sort_key.clone(), Value::S(format!("{sort}{SUFFIX}{number:05}")));
        item.insert(PART.to_owned(), Value::n(number as u64));
        item
    };
    let room =
        ITEM_BYTES_MAX.saturating_sub(item_bytes(&empty(99_999)) + BODY.len() + source_bytes(pathname));
    let mut parts = Vec::new();
    let mut rest = bytes;
    while !rest.is_empty() {
        let mut length = room.min(rest.len());
        // Whole characters: the bytes that continue one begin with the bits 10.
        while is_json && length < rest.len() && rest[length] & 0xc0 == 0x80 {
            length -= 1;
        }
        if length == 0 {
            let detail = format!("its keys leave no room in an item of {ITEM_BYTES_MAX} bytes");
            return Err(Quarantine::new(Reason::ItemTooLarge, detail));
        }
        let (part, after) = rest.split_at(length);
        let body = match std::str::from_utf8(part) {
            Ok(text) if is_json => Value::s(text),
            _ => Value::B(Bytes::copy_from_slice(part)),
        };
        let mut item = empty(parts.len() + 1);
        item.insert(BODY.to_owned(), body);
        parts.push(PartItem { key: table_key(layout, &item)?, item });
        rest = after;
    }
    Ok(parts)
}

/// The record of a packed item; none where it is not complete. None at all where the item is not packed.
pub(super) fn unpack(
    rule: &ItemRule,
    items: &[&Item],
    at: usize,
    levels_max: u32,
) -> Option<Option<Document>> {
    let item: &Item = items.get(at)?;
    if rule.policies.too_large == TooLarge::Quarantine {
        return None;
    }
    let encoding = item.get(ENCODING)?;
    Some(unpacked(item, encoding.as_s()?, items, at, levels_max))
}

/// How many items before this one have parts of its record.
pub(super) fn part_count(rule: &ItemRule, item: &Item) -> usize {
    let count = || usize::try_from(item.get(PARTS)?.as_n()?.as_i64()?).ok();
    if rule.policies.too_large == TooLarge::Quarantine { 0 } else { count().unwrap_or(0) }
}

fn unpacked(item: &Item, encoding: &str, items: &[&Item], at: usize, levels_max: u32) -> Option<Document> {
    let bytes = match encoding {
        ZSTD_JSON | ZSTD_BYTES => {
            let mut bytes = Vec::new();
            let packed = item.get(BODY)?.as_b()?;
            let decoder = zstd::stream::read::Decoder::new(packed.as_ref()).ok()?;
            // A number's text and names can be longer in our JSON than in the blob's, but not by much.
            decoder.take(2 * BODY_BYTES_MAX).read_to_end(&mut bytes).ok()?;
            bytes
        }
        JSON | BYTES => {
            let count = usize::try_from(item.get(PARTS)?.as_n()?.as_i64()?).ok()?;
            let parts = items.get(at.checked_sub(count)?..at)?;
            let mut bytes = Vec::new();
            for (part, number) in parts.iter().zip(1i64..) {
                if part.get(PART)?.as_n()?.as_i64()? != number {
                    return None;
                }
                match part.get(BODY)? {
                    Value::S(text) => bytes.extend_from_slice(text.as_bytes()),
                    Value::B(part) => bytes.extend_from_slice(part),
                    _ => return None,
                }
            }
            bytes
        }
        _ => return None,
    };
    if matches!(encoding, BYTES | ZSTD_BYTES) {
        return Some(Document::Bytes(bytes.into()));
    }
    let reading = Reading { duplicates: Duplicates::Quarantine, levels_max, offset: 0 };
    Json::read(&bytes, reading).ok().map(Document::Json)
}
