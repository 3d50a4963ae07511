//! Anchors: one row for each pathname, with a rev that never repeats.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::{Control, GroupRef, Keys, KeysRef, Member, names, row};
use crate::blob::{ETag, ListedBlob, Pathname, Version};
use crate::digest::Digest;
use crate::error::Result;
use crate::mapping::Quarantine;
use crate::protocol::Rev;
use crate::protocol::Rules;
use crate::protocol::converge::Mirror;
use crate::protocol::reverse::{Known, Seen};
use crate::target::store::{Condition, Query, Table, Write};
use crate::value::{Key, Value};

/// What the mirror holds of one pathname.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Anchor {
    /// The pathname, whole.
    pub pathname: Pathname,
    /// The revision of this row: new with every write.
    pub rev: Rev,
    /// Whether there is something, and what.
    #[serde(flatten)]
    pub state: AnchorState,
    /// The revision in `_source.rev` of its items: new only when items are written.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub items_rev: Option<Rev>,
    /// The keys of its items, in the order in which the plan makes them. In the row only where it holds
    /// them itself.
    #[serde(default, skip_serializing_if = "Keys::is_empty")]
    pub items: Keys,
    /// Where the keys lie that are too many for the row.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pages: Option<KeysRef>,
    /// The blob that it was made from; none for a tombstone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub head: Option<BlobHead>,
    /// The digest of the entity's rules under which it was mapped.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mapping: Option<Digest>,
    /// The retained body, or what it is rebuilt from, where it is retained.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub body: Option<BodyRef>,
    /// The groups that it is a member of.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub groups: Vec<GroupRef>,
    /// What Blob held when it was made equal last, where it is not equal to this yet: only while DynamoDB is the
    /// authority.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub behind: Option<Behind>,
    /// What its item was when this was written: only where the application may write it itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub item: Option<ItemSeen>,
    /// Whether it was taken over from what the application wrote to DynamoDB itself, so that no intent names it.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub adopted: bool,
    /// When it was removed, by the clock of the gateway that did; only while DynamoDB is the authority.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub removed_at: Option<Timestamp>,
    /// The digest of the request that wrote it, with the id that its client gave it, which a repetition has too: only while
    /// DynamoDB is the authority.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub request: Option<String>,
}

/// What Blob holds that is to be replaced.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Behind {
    /// The ETag of the blob; none where there was none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub etag: Option<ETag>,
    /// The digest of its content, where it is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sha256: Option<Digest>,
}

impl Behind {
    fn of(known: Known<ETag>, sha256: Option<Digest>) -> Option<Self> {
        match known {
            Known::Equal(_) => None,
            Known::Behind(etag) => {
                let sha256 = sha256.filter(|_| etag.is_some());
                Some(Self { etag, sha256 })
            }
        }
    }
}

/// An item as it was.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct ItemSeen {
    /// The digest of its attributes, `_source` aside.
    pub digest: Digest,
    /// When DynamoDB may delete it, in seconds since 1970.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires: Option<i64>,
}

/// Whether the mirror holds something.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "state", rename_all = "lowercase")]
pub enum AnchorState {
    /// Items of the version in `head`.
    Live,
    /// A change of many items that was begun and not finished.
    Pending,
    /// Nothing, and knowingly so.
    Tombstone,
    /// Nothing, since the version in `head` can't be mapped.
    Quarantined {
        /// Why.
        quarantine: Quarantine,
    },
}

/// The blob that an anchor was made from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BlobHead {
    /// The blob's ETag when the authority was Blob.
    pub etag: ETag,
    /// When it was stored.
    pub uploaded_at: Timestamp,
    /// Its length in bytes.
    pub size: u64,
    /// Its media type.
    pub content_type: String,
    /// Its caching rule.
    pub cache_control: String,
    /// The digest of its bytes.
    pub sha256: Digest,
    /// The MD5 of its bytes, in hexadecimal: the ETag that is answered once DynamoDB is the authority.
    pub md5: String,
    /// The ETag that Blob has for these bytes; while the anchor is behind, the one that it may get.
    pub blob_etag: ETag,
    /// When Blob says that they were stored, where that is not `uploaded_at`: they were mirrored there later.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub blob_uploaded_at: Option<Timestamp>,
}

/// Where a retained body lies.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BodyRef {
    /// The rev in the keys of its parts.
    pub rev: Rev,
    /// How many parts there are.
    pub parts: u32,
    /// What they hold.
    #[serde(default, skip_serializing_if = "BodyForm::is_default")]
    pub form: BodyForm,
}

/// What is retained of a body.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum BodyForm {
    /// Its bytes.
    #[default]
    Bytes,
    /// Its [`Skeleton`](crate::mapping::Skeleton): it is longer than [`RETAIN_MAX`](super::RETAIN_MAX), and is put
    /// together from it and the items.
    Skeleton,
}

impl BodyForm {
    fn is_default(&self) -> bool {
        *self == Self::default()
    }
}

/// What `converge` compares: the blob's version and the rules that map it.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct MappedVersion {
    /// The blob's version.
    pub version: Version,
    /// The digest of its entity's rules.
    pub mapping: Digest,
}

impl Anchor {
    /// A tombstone.
    #[must_use]
    pub fn tombstone(pathname: Pathname, rev: Rev) -> Self {
        Self {
            pathname,
            rev,
            state: AnchorState::Tombstone,
            items_rev: None,
            items: Keys::default(),
            pages: None,
            head: None,
            mapping: None,
            body: None,
            groups: Vec::new(),
            behind: None,
            item: None,
            adopted: false,
            removed_at: None,
            request: None,
        }
    }

    /// The key of its row.
    #[must_use]
    pub fn key(&self) -> Key {
        names::anchor(&self.pathname)
    }

    /// Itself as a member of its groups, each with its group's key.
    pub fn memberships(&self) -> impl Iterator<Item = (Key, Member)> {
        self.groups.iter().map(|group| {
            let member = Member { uploaded_at: group.uploaded_at, pathname: self.pathname.clone() };
            (group.key.clone(), member)
        })
    }

    /// The version that it speaks of, where it is live or quarantined.
    #[must_use]
    pub fn version(&self) -> Option<MappedVersion> {
        let head = self.head.as_ref()?;
        let version = Version { etag: head.etag.clone(), uploaded_at: head.uploaded_at };
        Some(MappedVersion { version, mapping: self.mapping? })
    }

    /// Whether it was made from this version, by whatever rules.
    #[must_use]
    pub fn stands_for(&self, version: &Version) -> bool {
        let head = self.head.as_ref();
        head.is_some_and(|head| head.etag == version.etag && head.uploaded_at == version.uploaded_at)
    }

    /// The ETag that is answered where DynamoDB is the authority: the quoted MD5 of its bytes.
    #[must_use]
    pub fn etag(&self) -> Option<ETag> {
        self.head.as_ref().map(|head| ETag::new(&head.md5))
    }

    /// Whether an ETag names what it holds: the one that is answered, or Blob's own.
    #[must_use]
    pub fn is_named(&self, etag: &ETag) -> bool {
        let head = self.head.as_ref();
        self.etag().as_ref() == Some(etag) || head.is_some_and(|head| head.etag == *etag)
    }

    /// What Blob holds of it, as far as is known: the ETag of the blob that was there last.
    #[must_use]
    pub fn blob_etag(&self) -> Option<&ETag> {
        match &self.behind {
            Some(behind) => behind.etag.as_ref(),
            None => self.head.as_ref().map(|head| &head.blob_etag),
        }
    }

    /// A blob of Blob's with the time of its version. What was mirrored there was stored here before, and that
    /// time counts: it ranks the members of a group.
    #[must_use]
    pub fn as_known(anchor: Option<&Self>, mut blob: ListedBlob) -> ListedBlob {
        if let Some(head) = anchor.and_then(|anchor| anchor.head.as_ref())
            && head.blob_etag == blob.etag
            && head.blob_uploaded_at == Some(blob.uploaded_at)
        {
            blob.uploaded_at = head.uploaded_at;
        }
        blob
    }

    /// The content of what Blob held last, as far as is known.
    #[must_use]
    pub fn blob_sha256(&self) -> Option<Digest> {
        match &self.behind {
            Some(behind) => behind.sha256,
            None => self.head.as_ref().map(|head| head.sha256),
        }
    }

    /// What mirroring towards Blob needs to know of an anchor, or of its absence.
    #[must_use]
    pub fn reverse(anchor: Option<&Self>) -> Seen<ETag, Rev> {
        let Some(anchor) = anchor else { return Seen::nothing() };
        let last = anchor.blob_etag().cloned();
        Seen {
            rev: Some(anchor.rev.clone()),
            holds: anchor.head.is_some(),
            pending: anchor.state == AnchorState::Pending,
            blob: if anchor.behind.is_some() { Known::Behind(last) } else { Known::Equal(last) },
        }
    }

    /// What the anchor of the next version says of Blob, which holds what it held.
    #[must_use]
    pub fn replaced(anchor: Option<&Self>, holds: bool) -> Option<Behind> {
        let known = Self::reverse(anchor).replaced(holds);
        Behind::of(known, anchor.and_then(Self::blob_sha256))
    }

    /// What the final anchor says of Blob that takes the place of this pending one, whoever stores it.
    #[must_use]
    pub fn finished(&self) -> Option<Behind> {
        Behind::of(Self::reverse(Some(self)).finished(Rules::SOUND), self.blob_sha256())
    }

    /// What the protocol sees of an anchor, or of its absence.
    #[must_use]
    pub fn mirror(anchor: Option<&Self>) -> Mirror<MappedVersion, Rev> {
        let Some(anchor) = anchor else { return Mirror::Unknown };
        let rev = anchor.rev.clone();
        match (&anchor.state, anchor.version()) {
            (AnchorState::Tombstone, _) => Mirror::Tombstone { rev },
            (AnchorState::Live | AnchorState::Quarantined { .. }, Some(version)) => {
                Mirror::Settled { rev, version }
            }
            // A row without its version says nothing that could be equal to anything.
            (AnchorState::Pending | AnchorState::Live | AnchorState::Quarantined { .. }, _) => {
                Mirror::Pending { rev }
            }
        }
    }

    /// The write that stores it, if the anchor's rev is still `expected` (none: if there is no anchor).
    #[must_use]
    pub fn write(&self, expected: Option<&Rev>) -> Write {
        let condition =
            expected.map_or(Condition::Absent, |rev| Condition::equals(["rev"], Value::s(rev.as_str())));
        let item = match self.pages {
            Some(_) => row::encode(&self.key(), &Self { items: Keys::default(), ..self.clone() }),
            None => row::encode(&self.key(), self),
        };
        Write::Put { table: Table::Control, item, condition }
    }

    /// Whether an anchor's row, as a refused transaction found it, names the body and the pages of this one.
    #[must_use]
    pub fn names_as(&self, found: &crate::value::Item) -> bool {
        let rev = |name| found.get(name).and_then(|named| named.as_m()?.get("rev")?.as_s());
        rev("body") == self.body.as_ref().map(|body| body.rev.as_str())
            && rev("pages") == self.pages.as_ref().map(|pages| pages.rev.as_str())
    }

    /// The rev of an anchor's row, as a refused transaction found it.
    #[must_use]
    pub fn rev_of(item: &crate::value::Item) -> Option<Rev> {
        item.get("rev").and_then(Value::as_s).map(Rev::new)
    }
}

impl Control {
    /// The anchor of a pathname.
    ///
    /// # Errors
    /// `Corrupt` for a row that this program did not write; what the store reports.
    pub async fn anchor(&self, pathname: &Pathname) -> Result<Option<Anchor>> {
        let anchor = self.bare_anchor(pathname).await?;
        Ok(self.complete(vec![anchor]).await?.pop().flatten())
    }

    /// The rev of a pathname's anchor; none where it has none.
    ///
    /// # Errors
    /// As [`Control::anchor`].
    pub async fn rev(&self, pathname: &Pathname) -> Result<Option<Rev>> {
        Ok(self.bare_anchor(pathname).await?.map(|anchor| anchor.rev))
    }

    /// The row alone: keys that lie in pages are not in it.
    ///
    /// # Errors
    /// As [`Control::anchor`].
    pub async fn bare_anchor(&self, pathname: &Pathname) -> Result<Option<Anchor>> {
        self.get_row(names::anchor(pathname)).await?.map(row::decode).transpose()
    }

    /// The anchors of pathnames, in their order. Keys that lie in pages are not in them: see
    /// [`Control::with_keys`].
    ///
    /// # Errors
    /// As [`Control::anchor`].
    pub async fn anchors<'a>(
        &self,
        pathnames: impl IntoIterator<Item = &'a Pathname>,
    ) -> Result<Vec<Option<Anchor>>> {
        let keys: Vec<Key> = pathnames.into_iter().map(names::anchor).collect();
        if keys.is_empty() {
            return Ok(Vec::new());
        }
        let rows = self.store.get(Table::Control, &keys).await?;
        rows.into_iter().map(|row| row.map(row::decode).transpose()).collect()
    }

    /// An anchor with the keys of its items that lie in pages. Where it was replaced meanwhile, the one that is
    /// there now.
    ///
    /// # Errors
    /// As [`Control::anchor`].
    pub async fn with_keys(&self, anchor: Anchor) -> Result<Option<Anchor>> {
        Ok(self.complete(vec![Some(anchor)]).await?.pop().flatten())
    }

    /// One page of a shard's anchors, in the order of their names, and where the next one begins. Keys that
    /// lie in pages are not in them.
    ///
    /// # Errors
    /// As [`Control::anchor`].
    pub async fn anchors_of_shard(
        &self,
        shard: u8,
        after: Option<Key>,
    ) -> Result<(Vec<Anchor>, Option<Key>)> {
        let query = Query { after, ..Query::partition(names::anchor_partition(shard)) };
        self.anchor_page(&query).await
    }

    /// The same of those whose pathnames begin so, at most `limit` of them; some others may be among them.
    ///
    /// # Errors
    /// As [`Control::anchor`].
    pub async fn anchors_under(
        &self,
        shard: u8,
        prefix: &str,
        after: Option<Key>,
        limit: u32,
    ) -> Result<(Vec<Anchor>, Option<Key>)> {
        let query = Query {
            sort_prefix: names::anchor_prefix(prefix).to_owned(),
            after,
            limit: Some(limit),
            ..Query::partition(names::anchor_partition(shard))
        };
        self.anchor_page(&query).await
    }

    async fn anchor_page(&self, query: &Query) -> Result<(Vec<Anchor>, Option<Key>)> {
        let page = self.store.query(Table::Control, query).await?;
        let anchors = page.items.into_iter().map(row::decode).collect::<Result<_>>()?;
        Ok((anchors, page.next))
    }
}
