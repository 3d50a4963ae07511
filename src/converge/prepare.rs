//! From a decision to the one transaction that carries it out.

use md5::Digest as _;

use super::{Converger, SavedBody, new_rev, source_value};
use crate::blob::{ListedBlob, Pathname};
use crate::digest::Digest;
use crate::error::{Error, ErrorKind, Result};
use crate::mapping::{BlobFacts, EntityId, MappedItem};
use crate::protocol::Rev;
use crate::protocol::converge::Change;
use crate::target::control::{Anchor, AnchorState, BlobHead, BodyRef, MappedVersion, encode_body};
use crate::target::layout::{ACTIONS_MAX, TRANSACTION_BYTES_MAX};
use crate::target::{Condition, Table, Write};
use crate::value::{Item, Key, Value, item_bytes};

/// A change of one pathname, ready to be sent.
#[derive(Debug, Clone)]
pub(super) struct Prepared {
    /// The anchor to be, with its new rev.
    pub(super) anchor: Anchor,
    /// The rev that must still be there.
    pub(super) expected: Option<Rev>,
    /// Whether the anchor says that the blob can't be mapped.
    pub(super) quarantined: bool,
    /// Parts of the retained body, to be stored before the transaction.
    pub(super) body_rows: Vec<Item>,
    /// The body that nothing names once this is applied.
    pub(super) replaced_body: Option<BodyRef>,
    /// Items to store, `_source` included, in the order of the anchor's keys.
    puts: Vec<Item>,
    /// Items to remove.
    removals: Vec<Key>,
}

impl Prepared {
    /// The transaction: the anchor first, then items, then removals.
    pub(super) fn writes(&self) -> Vec<Write> {
        let ours = || Condition::equals(["_source", "pathname"], Value::s(self.anchor.pathname.as_str()));
        let condition = || Condition::Any(vec![Condition::Absent, ours()]);
        let mut writes = vec![self.anchor.write(self.expected.as_ref())];
        writes.extend(self.puts.iter().map(|item| Write::Put {
            table: Table::Data,
            item: item.clone(),
            condition: condition(),
        }));
        writes.extend(self.removals.iter().map(|key| Write::Delete {
            table: Table::Data,
            key: key.clone(),
            condition: condition(),
        }));
        writes
    }

    /// How many actions the transaction has.
    pub(super) fn actions(&self) -> usize {
        1 + self.puts.len() + self.removals.len()
    }

    /// About how many bytes the transaction has.
    pub(super) fn bytes(&self) -> usize {
        2_048 + self.puts.iter().map(item_bytes).sum::<usize>()
    }

    /// The keys of the data table that it writes.
    pub(super) fn keys(&self) -> impl Iterator<Item = &Key> {
        self.anchor.items.iter().chain(&self.removals)
    }

    /// The key of an item that it stores, by the action's place in the transaction.
    pub(super) fn put_key(&self, action: usize) -> Option<&Key> {
        self.anchor.items.get(action.checked_sub(1)?).filter(|_| action <= self.puts.len())
    }

    /// The body that was stored for this change, which nothing names if it is refused.
    pub(super) fn new_body(&self) -> Option<&BodyRef> {
        self.anchor.body.as_ref().filter(|_| !self.body_rows.is_empty())
    }
}

impl Converger {
    /// The change as a transaction. None where the body that it needs is gone from the source.
    pub(super) async fn prepare(
        &self,
        pathname: &Pathname,
        entity: Option<EntityId>,
        seen: Option<&Anchor>,
        blob: Option<&ListedBlob>,
        change: &Change<MappedVersion>,
    ) -> Result<Option<Prepared>> {
        let rev = new_rev();
        let expected = seen.map(|anchor| anchor.rev.clone());
        let prepared = match (change, seen, entity, blob) {
            (Change::Renew, Some(seen), _, _) => Prepared {
                anchor: Anchor { rev, ..seen.clone() },
                expected,
                quarantined: matches!(seen.state, AnchorState::Quarantined { .. }),
                body_rows: Vec::new(),
                replaced_body: None,
                puts: Vec::new(),
                removals: Vec::new(),
            },
            (Change::Tombstone, ..) => Prepared {
                anchor: Anchor::tombstone(pathname.clone(), rev),
                expected,
                quarantined: false,
                body_rows: Vec::new(),
                replaced_body: seen.and_then(|anchor| anchor.body.clone()),
                puts: Vec::new(),
                removals: seen.map(|anchor| anchor.items.clone()).unwrap_or_default(),
            },
            (Change::Hold(version), _, Some(entity), Some(blob)) => {
                let Some(body) = self.fetch(blob).await? else { return Ok(None) };
                self.hold(rev, entity, seen, blob, version, &body)
            }
            (Change::Renew | Change::Hold(_) | Change::Forget, ..) => {
                unreachable!(
                    "invariant: the sound rules renew an anchor that is there, hold a blob that is there, and forget nothing"
                )
            }
        };
        let (actions, bytes) = (prepared.actions(), prepared.bytes());
        if actions > ACTIONS_MAX || bytes > TRANSACTION_BYTES_MAX {
            return Err(Error::new(ErrorKind::Unrepresentable, "converge").key(pathname).message(format!(
                "it needs a transaction of {actions} actions and {bytes} bytes, DynamoDB takes {ACTIONS_MAX} and {TRANSACTION_BYTES_MAX}",
            )));
        }
        Ok(Some(prepared))
    }

    fn hold(
        &self,
        rev: Rev,
        entity: EntityId,
        seen: Option<&Anchor>,
        blob: &ListedBlob,
        version: &MappedVersion,
        body: &SavedBody,
    ) -> Prepared {
        let facts = BlobFacts { pathname: &blob.pathname, uploaded_at: blob.uploaded_at };
        let (state, mapped) = match self.mapper.map(entity, facts, &body.bytes, self.clock().now()) {
            Ok(items) => (AnchorState::Live, items),
            Err(quarantine) => (AnchorState::Quarantined { quarantine }, Vec::new()),
        };
        let quarantined = matches!(state, AnchorState::Quarantined { .. });
        // What can't be mapped stays in Blob and is served from there.
        let retained = if quarantined { None } else { encode_body(&blob.pathname, &rev, &body.bytes) };
        let (body_ref, body_rows) = retained.map_or((None, Vec::new()), |(body, rows)| (Some(body), rows));
        let keys: Vec<Key> = mapped.iter().map(|mapped| mapped.key.clone()).collect();
        let removals = seen
            .map(|anchor| anchor.items.iter().filter(|key| !keys.contains(key)).cloned().collect())
            .unwrap_or_default();
        let source = source_value(&blob.pathname, &rev);
        let puts = mapped.into_iter().map(|MappedItem { mut item, .. }| {
            item.insert(super::SOURCE.to_owned(), source.clone());
            item
        });
        Prepared {
            puts: puts.collect(),
            removals,
            expected: seen.map(|anchor| anchor.rev.clone()),
            quarantined,
            body_rows,
            replaced_body: seen.and_then(|anchor| anchor.body.clone()),
            anchor: Anchor {
                pathname: blob.pathname.clone(),
                items_rev: (!quarantined).then(|| rev.clone()),
                rev,
                state,
                items: keys,
                head: Some(BlobHead {
                    etag: blob.etag.clone(),
                    uploaded_at: blob.uploaded_at,
                    size: body.bytes.len() as u64,
                    content_type: body.content_type.clone(),
                    cache_control: body.cache_control.clone(),
                    sha256: Digest::of(&body.bytes),
                    md5: hex::encode(md5::Md5::digest(&body.bytes)),
                    blob_etag: blob.etag.clone(),
                }),
                mapping: Some(version.mapping),
                body: body_ref,
                groups: Vec::new(),
            },
        }
    }
}
