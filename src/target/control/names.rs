//! Keys of the control table's rows.

use rand::RngExt as _;

use super::Member;
use crate::blob::Pathname;
use crate::digest::Digest;
use crate::protocol::Rev;
use crate::value::Key;

/// Into how many partitions anchors and intents are spread. Part of the stored format.
pub const SHARDS: u8 = 16;
/// Names up to this many bytes are sort keys as they are (DynamoDB's limit is 1,024).
const NAME_BYTES_MAX: usize = 960;
/// What is kept of a longer name, before `~` and 64 digits of its digest.
const NAME_BYTES_KEPT: usize = 880;

/// The key of a pathname's anchor.
#[must_use]
pub fn anchor(pathname: &Pathname) -> Key {
    let digest = Digest::of(pathname.as_str());
    Key::new(anchor_partition(digest.as_bytes()[0] % SHARDS), name(pathname, digest))
}

/// The partition of one shard of the anchors.
#[must_use]
pub fn anchor_partition(shard: u8) -> String {
    format!("A#{shard:02}")
}

/// A key of a shard after which those anchors lie whose names come after this one.
#[must_use]
pub fn anchor_after(shard: u8, after: &str) -> Key {
    Key::new(anchor_partition(shard), name(&Pathname::from(after), Digest::of(after)))
}

/// What the names of the anchors begin with whose pathnames begin with `prefix`; others may, too.
#[must_use]
pub fn anchor_prefix(prefix: &str) -> &str {
    &prefix[..prefix.floor_char_boundary(NAME_BYTES_KEPT)]
}

/// The key of an operation's intent.
#[must_use]
pub fn intent(id: &str) -> Key {
    Key::new(intent_partition(Digest::of(id).as_bytes()[0] % SHARDS), id)
}

/// The partition of one shard of the intents.
#[must_use]
pub fn intent_partition(shard: u8) -> String {
    format!("I#{shard:02}")
}

/// The key of a note about a pathname.
#[must_use]
pub fn note(pathname: &Pathname, id: &str) -> Key {
    Key::new(note_partition(Digest::of(pathname.as_str()).as_bytes()[0] % SHARDS), id)
}

/// The partition of one shard of the notes: those of a pathname lie in that of its anchor's number.
#[must_use]
pub fn note_partition(shard: u8) -> String {
    format!("N#{shard:02}")
}

/// What the partitions of retained bodies begin with.
const BODIES: &str = "B#";

/// The partition of a pathname's retained body.
#[must_use]
pub fn body_partition(pathname: &Pathname) -> String {
    format!("{BODIES}{}", Digest::of(pathname.as_str()))
}

/// Whether a row is a part of a retained body.
#[must_use]
pub fn is_of_a_body(key: &Key) -> bool {
    key.partition.starts_with(BODIES)
}

/// The key of one part of a retained body.
#[must_use]
pub fn body(pathname: &Pathname, rev: &Rev, part: u32) -> Key {
    Key::new(body_partition(pathname), format!("{rev}#{part:05}"))
}

/// The key of one page of the keys of a pathname's items.
#[must_use]
pub fn keys(pathname: &Pathname, rev: &Rev, page: u32) -> Key {
    Key::new(format!("K#{}", Digest::of(pathname.as_str())), format!("{rev}#{page:05}"))
}

/// What the sort keys of a group's members begin with.
pub const MEMBERS: &str = "M#";

/// The key of a group's row; `group` is the key of its item.
#[must_use]
pub fn group(group: &Key) -> Key {
    Key::new(format!("G#{}", of_item(group)), "GROUP")
}

/// The key of the row that says whose an item is.
#[must_use]
pub fn owner(item: &Key) -> Key {
    Key::new(format!("O#{}", of_item(item)), "OWNER")
}

fn of_item(key: &Key) -> Digest {
    // Lengths divide the two parts, so that no two keys run together.
    Digest::of(format!("{}#{}{}", key.partition.len(), key.partition, key.sort))
}

/// The key of a member's row. In the order of these keys, members are in the order of their ranks.
#[must_use]
pub fn member(group: &Key, member: &Member) -> Key {
    let name = name(&member.pathname, Digest::of(member.pathname.as_str()));
    Key::new(self::group(group).partition, format!("{MEMBERS}{:.9}#{name}", member.uploaded_at))
}

fn name(pathname: &Pathname, digest: Digest) -> String {
    let text = pathname.as_str();
    if text.len() <= NAME_BYTES_MAX {
        return text.to_owned();
    }
    let kept = text.floor_char_boundary(NAME_BYTES_KEPT);
    format!("{}~{digest}", &text[..kept])
}

/// A new rev: 128 random bits, so it never repeats.
#[must_use]
pub fn new_rev() -> Rev {
    Rev::new(token())
}

/// A new random name of 32 hexadecimal digits, for ids and request tokens.
#[must_use]
pub fn token() -> String {
    hex::encode(rand::rng().random::<[u8; 16]>())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_names_stay_distinct_and_short() {
        let long = |last: &str| Pathname::new(format!("{}{last}", "é".repeat(500)));
        let (a, b) = (anchor(&long("a")), anchor(&long("b")));
        assert_ne!(a.sort, b.sort);
        assert!(a.sort.len() <= 1024, "{}", a.sort.len());
        assert!(a.sort.starts_with(&"é".repeat(440)));
    }

    #[test]
    fn the_layout_is_fixed() {
        // A change here is a change of the stored format.
        let key = anchor(&Pathname::from("signups/a.json"));
        assert_eq!((key.partition.as_str(), key.sort.as_str()), ("A#12", "signups/a.json"));
        let key = body(&Pathname::from("a"), &Rev::new("r"), 7);
        assert_eq!(key.partition, "B#ca978112ca1bbdcafac231b39a23dc4da786eff8147c4e72b9807785afee48bb");
        assert_eq!(key.sort, "r#00007");
        let key = intent("0123456789abcdef0123456789abcdef");
        assert_eq!((key.partition.as_str(), key.sort.as_str()), ("I#14", "0123456789abcdef0123456789abcdef"));
        let key = note(&Pathname::from("signups/a.json"), "0123");
        assert_eq!((key.partition.as_str(), key.sort.as_str()), ("N#12", "0123"));
    }
}
