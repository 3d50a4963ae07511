//! The judgement of one pathname, pure: what was seen of both sides in, differences out.

use std::collections::{BTreeMap, BTreeSet};

use jiff::Timestamp;

use super::drift::{Drift, DriftKind};
use crate::blob::{ListedBlob, Pathname};
use crate::converge::{owner, owner_name, source_rev};
use crate::digest::Digest;
use crate::mapping::{Document, MappedItem, Quarantine, Reason};
use crate::protocol::Rev;
use crate::target::control::{Anchor, AnchorState, Group, GroupRef, Member};
use crate::value::{Item, Key, Value};

/// Everything that was seen of one pathname.
#[derive(Debug, Clone)]
pub struct Pair {
    /// Which.
    pub pathname: Pathname,
    /// The source, as far as an entity maps it.
    pub blob: Option<ListedBlob>,
    /// The digest of its entity's rules.
    pub mapping: Option<Digest>,
    /// The mirror.
    pub anchor: Option<Anchor>,
    /// The items under the anchor's keys and under the expected ones. None: not looked at.
    pub items: Option<BTreeMap<Key, Item>>,
    /// The groups of the anchor and of the expected items. None: not looked at.
    pub groups: Option<Groups>,
    /// The document that the blob holds. None: not looked at, or none.
    pub document: Option<Document>,
    /// What the blob maps to. None: not looked at.
    pub expected: Option<Result<Vec<MappedItem>, Quarantine>>,
    /// The digest of the retained bytes, or why they can't be read. None: not looked at, or none kept.
    pub retained: Option<Result<Digest, String>>,
    /// Why the blob's JSON can't be rebuilt from the items that were found. None: it can, or not tried.
    pub not_rebuilt: Option<String>,
}

/// What was seen of the groups that a blob is a member of, or should be.
#[derive(Debug, Clone, Default)]
pub struct Groups {
    /// Their rows, by the keys of their items.
    pub rows: BTreeMap<Key, Group>,
    /// Those that have a row for this member, as its anchor says it is one.
    pub member_of: BTreeSet<Key>,
}

/// What else the judgement depends on.
#[derive(Debug, Clone, Copy)]
pub struct Rules<'a> {
    /// The data table's TTL attribute.
    pub ttl: Option<&'a str>,
    /// Now, by the wall clock: an item whose TTL has passed may be present or absent.
    pub now: Timestamp,
}

/// Where the two sides of a pathname differ. Empty means equal, as far as was looked.
#[must_use]
pub fn compare(pair: &Pair, rules: Rules<'_>) -> Vec<Drift> {
    let live = pair.anchor.as_ref().filter(|anchor| anchor.state != AnchorState::Tombstone);
    match (&pair.blob, live) {
        (None, None) => Vec::new(),
        (None, Some(_)) => vec![pair.drift(DriftKind::Extra, "the source does not hold it (any more)")],
        (Some(_), None) => {
            held_by_others(pair).unwrap_or_else(|| vec![pair.drift(DriftKind::Missing, "nothing mirrors it")])
        }
        (Some(blob), Some(anchor)) => {
            let same = anchor.version().is_some_and(|mirrored| {
                mirrored.version == blob.version() && Some(mirrored.mapping) == pair.mapping
            });
            match &anchor.state {
                AnchorState::Pending => {
                    vec![pair.drift(DriftKind::Stale, "a change was begun and not finished")]
                }
                _ if !same => held_by_others(pair).unwrap_or_else(|| {
                    vec![pair.drift(DriftKind::Stale, &stale_because(pair, blob, anchor))]
                }),
                // Whether a TTL has passed depends on when it was mapped; all else maps as it did, unless
                // this program has learnt it since.
                AnchorState::Quarantined { quarantine }
                    if quarantine.reason != Reason::Ttl && matches!(pair.expected, Some(Ok(_))) =>
                {
                    vec![pair.drift(DriftKind::Stale, "it can be mapped by now")]
                }
                AnchorState::Quarantined { quarantine } => {
                    vec![pair.drift(DriftKind::Unmappable, &quarantine.to_string())]
                }
                AnchorState::Live | AnchorState::Tombstone => contents(pair, anchor, rules),
            }
        }
    }
}

/// The items that keep a blob from being mirrored, since somebody else has them; none where nobody does.
fn held_by_others(pair: &Pair) -> Option<Vec<Drift>> {
    let expected = pair.expected.iter().flatten().flatten();
    let found = pair.items.as_ref();
    let held: Vec<Drift> = expected
        .filter_map(|expected| {
            let holder = owner(found?.get(&expected.key)?);
            let shares =
                expected.group.is_some() && pair.winner(&expected.key).as_deref() == holder.as_deref();
            if holder.as_deref() == Some(pair.pathname.as_str()) || (shares && holder.is_some()) {
                return None;
            }
            let detail = format!("the item belongs to {}", owner_name(holder.as_deref()));
            Some(pair.item_drift(DriftKind::Collision, &expected.key, &detail))
        })
        .collect();
    (!held.is_empty()).then_some(held)
}

fn stale_because(pair: &Pair, blob: &ListedBlob, anchor: &Anchor) -> String {
    let mirrored = anchor.version();
    match mirrored {
        Some(mirrored) if mirrored.version == blob.version() && Some(mirrored.mapping) != pair.mapping => {
            "it was mapped under other rules".to_owned()
        }
        Some(mirrored) if mirrored.version.etag == blob.etag => "it was stored again since".to_owned(),
        _ => "the mirror holds another version".to_owned(),
    }
}

fn contents(pair: &Pair, anchor: &Anchor, rules: Rules<'_>) -> Vec<Drift> {
    let mut drift = Vec::new();
    let named: BTreeSet<&Key> =
        anchor.items.iter().chain(anchor.groups.iter().map(|group| &group.key)).collect();
    let expected: BTreeMap<&Key, &MappedItem> =
        pair.expected.iter().flatten().flatten().map(|mapped| (&mapped.key, mapped)).collect();
    if let Some(items) = &pair.items {
        for key in anchor.items.iter() {
            let expected = expected.get(key).map(|mapped| &mapped.item);
            drift.extend(item(pair, anchor.items_rev.as_ref(), key, items.get(key), expected, rules));
        }
        for key in expected.keys().filter(|key| !named.contains(*key)) {
            drift.push(pair.item_drift(DriftKind::Different, key, "its anchor does not name the item"));
        }
    }
    drift.extend(anchor.groups.iter().filter_map(|group| {
        let expected = expected.get(&group.key).map(|mapped| &mapped.item);
        shared(pair, group, expected, rules)
    }));
    match &pair.expected {
        Some(Err(quarantine)) => {
            drift.push(
                pair.drift(DriftKind::Different, &format!("mirrored, but it can't be mapped: {quarantine}")),
            );
        }
        Some(Ok(_)) => {
            for key in named.into_iter().filter(|key| !expected.contains_key(key)) {
                drift.push(pair.item_drift(DriftKind::Different, key, "the blob does not map to the item"));
            }
        }
        None => {}
    }
    let sha256 = anchor.head.as_ref().map(|head| head.sha256);
    match &pair.retained {
        Some(Ok(digest)) if Some(*digest) != sha256 => {
            drift.push(pair.drift(DriftKind::Different, "the retained bytes are not the blob's"));
        }
        Some(Err(reason)) => drift.push(pair.drift(DriftKind::Different, reason)),
        Some(Ok(_)) | None => {}
    }
    if let Some(reason) = &pair.not_rebuilt
        && drift.is_empty()
    {
        drift.push(pair.drift(DriftKind::Different, reason));
    }
    drift
}

/// The item of a group that the blob is a member of: the highest member's, which may be another one.
fn shared(pair: &Pair, member: &GroupRef, expected: Option<&Item>, rules: Rules<'_>) -> Option<Drift> {
    let groups = pair.groups.as_ref()?;
    let key = &member.key;
    let ours = Member { uploaded_at: member.uploaded_at, pathname: pair.pathname.clone() };
    let winner = groups.rows.get(key).and_then(|group| group.winner.as_ref());
    match winner {
        None => {
            Some(pair.item_drift(DriftKind::Missing, key, "its group has no row, or nobody has its item"))
        }
        Some(winner) if *winner < ours => {
            let detail = format!("`{}`, which is older, has the group's item", winner.pathname);
            Some(pair.item_drift(DriftKind::Different, key, &detail))
        }
        Some(_) if !groups.member_of.contains(key) => {
            Some(pair.item_drift(DriftKind::Missing, key, "its group does not know it as a member"))
        }
        Some(winner) if *winner == ours => {
            let rev = groups.rows.get(key).and_then(|group| group.items_rev.as_ref());
            let found = pair.items.as_ref()?.get(key);
            if let Some(holder) = found.and_then(owner).filter(|holder| holder != pair.pathname.as_str()) {
                let detail = format!("the group's item is of `{holder}`");
                return Some(pair.item_drift(DriftKind::Different, key, &detail));
            }
            item(pair, rev, key, found, expected, rules)
        }
        Some(winner) if winner.pathname == ours.pathname => {
            Some(pair.item_drift(DriftKind::Stale, key, "its group knows another version of it"))
        }
        Some(_) => None,
    }
}

/// One item that the anchor names, and the rev that it must bear.
pub(super) fn item(
    pair: &Pair,
    rev: Option<&Rev>,
    key: &Key,
    found: Option<&Item>,
    expected: Option<&Item>,
    rules: Rules<'_>,
) -> Option<Drift> {
    let Some(found) = found else {
        let expired = expected.is_some_and(|item| expired(item, rules));
        return (!expired)
            .then(|| pair.item_drift(DriftKind::Missing, key, "its anchor names it, it is not there"));
    };
    match owner(found) {
        Some(holder) if holder == pair.pathname.as_str() => {}
        Some(holder) => {
            let detail = format!("the item belongs to {}", owner_name(Some(&holder)));
            return Some(pair.item_drift(DriftKind::Collision, key, &detail));
        }
        None => {
            return Some(pair.item_drift(
                DriftKind::Collision,
                key,
                "the item has no `_source`: it is the application's",
            ));
        }
    }
    if source_rev(found) != rev.map(Rev::as_str) {
        return Some(pair.item_drift(DriftKind::Orphan, key, "its rev is not the one that its anchor names"));
    }
    let diff = difference(expected?, found)?;
    let mut drift = pair.item_drift(DriftKind::Different, key, "attributes differ");
    drift.diff = Some(diff);
    Some(drift)
}

fn expired(item: &Item, rules: Rules<'_>) -> bool {
    let seconds = rules.ttl.and_then(|ttl| item.get(ttl)?.as_n()?.as_i64());
    seconds.is_some_and(|seconds| seconds <= rules.now.as_second())
}

/// The lines in which two items differ, `_source` aside; none where they are equal, numbers compared as
/// decimals.
fn difference(expected: &Item, found: &Item) -> Option<String> {
    let found: Item = found
        .iter()
        .filter(|(name, _)| *name != crate::converge::SOURCE)
        .map(|(n, v)| (n.clone(), v.clone()))
        .collect();
    if *expected == found {
        return None;
    }
    let (expected, found) = (lines(expected), lines(&found));
    let diff = similar::TextDiff::from_lines(&expected, &found);
    Some(diff.unified_diff().context_radius(0).to_string())
}

/// An item, one attribute a line.
fn lines(item: &Item) -> String {
    use std::fmt::Write as _;
    item.iter().fold(String::new(), |mut text, (name, value)| {
        write!(text, "{name} = ")
            .and_then(|()| write_value(&mut text, value))
            .expect("invariant: strings take text");
        text.push('\n');
        text
    })
}

fn write_value(text: &mut String, value: &Value) -> std::fmt::Result {
    use std::fmt::Write as _;
    match value {
        Value::S(s) => write!(text, "{s:?}"),
        Value::N(number) => write!(text, "{number}"),
        Value::B(bytes) => write!(text, "<{} bytes, {:?}>", bytes.len(), Digest::of(bytes)),
        Value::Bool(truth) => write!(text, "{truth}"),
        Value::Null => text.write_str("null"),
        Value::L(list) => write_list(text, '[', ']', list.iter(), write_value),
        Value::M(map) => write_list(text, '{', '}', map.iter(), |text, (name, value)| {
            write!(text, "{name:?}: ")?;
            write_value(text, value)
        }),
        Value::Ss(set) => write!(text, "{set:?}"),
        Value::Ns(set) => write_list(text, '<', '>', set.iter(), |text, number| write!(text, "{number}")),
        Value::Bs(set) => write!(text, "<{} byte strings>", set.len()),
    }
}

fn write_list<T>(
    text: &mut String,
    open: char,
    close: char,
    values: impl Iterator<Item = T>,
    mut one: impl FnMut(&mut String, T) -> std::fmt::Result,
) -> std::fmt::Result {
    text.push(open);
    for (at, value) in values.enumerate() {
        if at > 0 {
            text.push_str(", ");
        }
        one(text, value)?;
    }
    text.push(close);
    Ok(())
}

impl Pair {
    /// Whether it has only items of groups, and newer blobs have all of them.
    #[must_use]
    pub fn is_superseded(&self) -> bool {
        let Some(anchor) = &self.anchor else { return false };
        let has = |group: &GroupRef| self.winner(&group.key).as_deref() == Some(self.pathname.as_str());
        let shared_only = anchor.items.is_empty() && anchor.pages.is_none();
        shared_only && !anchor.groups.is_empty() && !anchor.groups.iter().any(has)
    }

    /// Who has the item of a group.
    fn winner(&self, key: &Key) -> Option<String> {
        let winner = self.groups.as_ref()?.rows.get(key)?.winner.as_ref()?;
        Some(winner.pathname.as_str().to_owned())
    }

    /// A difference of the whole pathname.
    #[must_use]
    pub fn drift(&self, kind: DriftKind, detail: &str) -> Drift {
        let blob = self.blob.as_ref();
        let target = self.anchor.as_ref().map(|anchor| match (&anchor.state, &anchor.head) {
            (AnchorState::Tombstone, _) => format!("tombstone, rev {}", anchor.rev),
            (_, Some(head)) => format!("{} of {}, rev {}", head.etag, head.uploaded_at, anchor.rev),
            (_, None) => format!("rev {}", anchor.rev),
        });
        Drift {
            kind,
            pathname: self.pathname.clone(),
            key: None,
            source: blob.map(|blob| format!("{} of {}", blob.etag, blob.uploaded_at)),
            target,
            detail: detail.to_owned(),
            diff: None,
            newer: None,
            settle: Vec::new(),
        }
    }

    pub(super) fn item_drift(&self, kind: DriftKind, key: &Key, detail: &str) -> Drift {
        Drift { key: Some(key.clone()), ..self.drift(kind, detail) }
    }
}
