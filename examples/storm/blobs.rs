//! The blobs of a storm: which keys there are, and what is written to them.
//!
//! A content is a number and the bytes that follow from it, so that a read tells which write it saw. Its ETag is known
//! beforehand: the MD5 of the bytes, or of the parts of a multipart upload. Every content is written once, but for the
//! few that a hot key returns to.

use std::collections::HashMap;
use std::fmt;
use std::sync::{Mutex, PoisonError};

use md5::{Digest as _, Md5};
use serde_json::{Value, json};

/// Records of a blob with many items: more than one transaction takes.
const RECORDS: std::ops::Range<u32> = 101..160;
/// How many contents each key returns to that does so.
const FORMER: u32 = 3;
/// Clients below this number write contents of their own; those that keys return to belong to none.
const NO_CLIENT: u32 = 0xfff;
/// What the names of keys begin with that hold nothing but former contents.
pub(crate) const SWINGS: &str = "r/swing-";
/// Bits of a content's number that count the contents of one client.
const SERIAL_BITS: u32 = 20;

/// The plan of the migration: a blob is an item, but for those that are many, and those that share one.
pub(crate) const PLAN: &str = r#"# A storm
```toml migrate
[source]
store = "storm"
plan = "enterprise"
background_share = 1.0
[target]
table = "storm"
partition_key = "PK"
sort_key = "SK"
[validation]
allow_empty = true
[gates.shadow-reads]
min_reads = 0
max_mismatches = 1000000000
[gates.rollback-drilled]
required = false
[[entity]]
name = "record"
blobs = "r/{id}.json"
[[entity.item]]
PK = "R#{{ id }}"
SK = "META"
[[entity]]
name = "list"
blobs = "many/{id}.json"
[[entity.item]]
each = "records[*]"
PK = "MANY#{{ id }}"
SK = "{{ record.name }}"
[[entity]]
name = "member"
blobs = "group/{name}/{member}.json"
[[entity.item]]
group_by = "{{ name }}"
PK = "GROUP#{{ group }}"
SK = "META"
```
"#;

/// What kind of blob a key names.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Kind {
    /// Few keys, written all the time; they return to former contents.
    Hot,
    /// The same, and nothing but former contents and nothing at all.
    Swing,
    /// Many keys, each written now and then.
    Cold,
    /// Copied and renamed from one to the other.
    Pair,
    /// One body, more items than a transaction takes.
    Many,
    /// Several blobs, one item.
    Member,
    /// Written by multipart uploads, too.
    Parts,
}

/// A pathname, by its place in the list of all keys.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Key(pub(crate) usize);

/// All keys.
#[derive(Debug)]
pub(crate) struct Keys {
    names: Vec<(String, Kind)>,
}

impl Keys {
    /// A few of each kind, and so many cold ones.
    pub(crate) fn new(cold: usize) -> Self {
        let mut names = Vec::new();
        let mut add = |kind, count, name: fn(usize) -> String| {
            names.extend((0..count).map(|number| (name(number), kind)));
        };
        add(Kind::Hot, 3, |number| format!("r/hot-{number}.json"));
        add(Kind::Swing, 8, |number| format!("{SWINGS}{number}.json"));
        add(Kind::Pair, 6, |number| format!("r/pair-{number}.json"));
        add(Kind::Many, 3, |number| format!("many/{number}.json"));
        add(Kind::Member, 6, |number| format!("group/{}/{}.json", number / 3, number % 3));
        add(Kind::Parts, 2, |number| format!("r/parts-{number}.json"));
        add(Kind::Cold, cold, |number| format!("r/cold-{number}.json"));
        Self { names }
    }

    pub(crate) fn all(&self) -> impl Iterator<Item = Key> + use<> {
        (0..self.names.len()).map(Key)
    }

    pub(crate) fn of(&self, kind: Kind) -> Vec<Key> {
        self.all().filter(|key| self.kind(*key) == kind).collect()
    }

    pub(crate) fn name(&self, key: Key) -> &str {
        &self.names[key.0].0
    }

    pub(crate) fn kind(&self, key: Key) -> Kind {
        self.names[key.0].1
    }

    pub(crate) fn named(&self, name: &str) -> Option<Key> {
        self.names.iter().position(|(known, _)| known == name).map(Key)
    }
}

/// A content, by its number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Content(pub(crate) u32);

impl Content {
    /// The content of this number that a client makes.
    pub(crate) const fn of_client(client: u32, serial: u32) -> Self {
        Self((client << SERIAL_BITS) | serial)
    }

    /// A content that this key returns to.
    pub(crate) const fn former(key: Key, number: u32) -> Self {
        // A key's place is far below the number of bits that are left.
        #[expect(clippy::cast_possible_truncation, reason = "there are a few hundred keys")]
        let key = key.0 as u32;
        Self((NO_CLIENT << SERIAL_BITS) | (key * FORMER + number % FORMER))
    }

    /// How many contents a key returns to.
    pub(crate) const FORMER: u32 = FORMER;
}

impl fmt::Display for Content {
    /// `c3.17`: the 17th of client 3; `f4`: one that a key returns to.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (client, serial) = (self.0 >> SERIAL_BITS, self.0 & ((1 << SERIAL_BITS) - 1));
        if client == NO_CLIENT { write!(f, "f{serial}") } else { write!(f, "c{client}.{serial}") }
    }
}

/// What a key may hold: a content, or nothing.
pub(crate) type State = Option<Content>;

/// A state for people.
pub(crate) fn said(state: State) -> String {
    state.map_or_else(|| "nothing".to_owned(), |content| content.to_string())
}

/// The bytes of a content.
pub(crate) fn body(kind: Kind, content: Content) -> Vec<u8> {
    let number = content.0;
    let value = match kind {
        Kind::Many => {
            let count = RECORDS.start + number % (RECORDS.end - RECORDS.start);
            let record = |index: u32| json!({ "name": format!("n{index:03}"), "of": number });
            json!({ "content": number, "records": (0..count).map(record).collect::<Vec<_>>() })
        }
        _ => json!({ "content": number, "fill": "x".repeat(40 + number as usize % 200) }),
    };
    value.to_string().into_bytes()
}

/// The quoted ETag of a content's bytes.
pub(crate) fn etag(bytes: &[u8]) -> String {
    format!("\"{}\"", hex::encode(Md5::digest(bytes)))
}

/// The contents that were made so far.
#[derive(Debug, Default)]
pub(crate) struct Contents(Mutex<Known>);

#[derive(Debug, Default)]
struct Known {
    by_etag: HashMap<String, (Content, usize)>,
}

/// What a reply told of a blob.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Told {
    /// This content.
    Known(Content),
    /// What no client made, in words.
    Torn(String),
}

impl Contents {
    /// Makes a content known; its bytes.
    pub(crate) fn make(&self, kind: Kind, content: Content) -> Vec<u8> {
        let bytes = body(kind, content);
        let md5 = Md5::digest(&bytes);
        let (whole, of_one_part) = (hex::encode(md5), format!("{}-1", hex::encode(Md5::digest(md5))));
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        for etag in [whole, of_one_part] {
            known.by_etag.insert(format!("\"{etag}\""), (content, bytes.len()));
        }
        bytes
    }

    /// The content of an ETag, which must have this length.
    pub(crate) fn of_etag(&self, etag: &str, size: Option<u64>) -> Told {
        let known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match known.by_etag.get(etag) {
            Some((content, length)) if size.is_none_or(|size| size == *length as u64) => {
                Told::Known(*content)
            }
            Some((content, length)) => {
                Told::Torn(format!("{content} has {length} bytes, and was told as {size:?}"))
            }
            None => Told::Torn(format!("no client made what has ETag {etag}")),
        }
    }

    /// The content of these bytes, all of which must be right.
    pub(crate) fn of_bytes(&self, bytes: &[u8]) -> Told {
        match self.of_etag(&etag(bytes), Some(bytes.len() as u64)) {
            Told::Known(content) => Told::Known(content),
            Told::Torn(_) => {
                let value: Option<Value> = serde_json::from_slice(bytes).ok();
                let number = value.as_ref().and_then(|value| value["content"].as_u64());
                Told::Torn(format!("{} bytes that no client made; content {number:?}", bytes.len()))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_content_is_known_by_its_etag_and_by_its_bytes() {
        let contents = Contents::default();
        for kind in [Kind::Hot, Kind::Many] {
            let content = Content::of_client(3, 17);
            let bytes = contents.make(kind, content);
            assert_eq!(contents.of_bytes(&bytes), Told::Known(content));
            assert_eq!(contents.of_etag(&etag(&bytes), Some(bytes.len() as u64)), Told::Known(content));
            assert!(matches!(contents.of_etag(&etag(&bytes), Some(1)), Told::Torn(_)));
            assert!(matches!(contents.of_bytes(&bytes[1..]), Told::Torn(_)));
        }
        assert_eq!(Content::of_client(3, 17).to_string(), "c3.17");
        assert_ne!(Content::former(Key(4), 2), Content::former(Key(5), 0));
    }

    #[test]
    fn a_blob_that_is_many_has_more_items_than_a_transaction_takes() {
        let value: Value = serde_json::from_slice(&body(Kind::Many, Content(7))).unwrap();
        assert!(value["records"].as_array().unwrap().len() > 100);
    }
}
