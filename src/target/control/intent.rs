//! Intents: one row for each operation that is about to write to the authority, or may have.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::{Control, names, row};
use crate::blob::Pathname;
use crate::digest::Digest;
use crate::error::Result;
use crate::target::store::{Condition, Outcome, Table, Write};
use crate::value::{Item, Value};

/// The most pathnames of one intent: with the longest names it stays under an item's limit.
pub const INTENT_PATHNAMES_MAX: usize = 100;

/// An operation's word that it is about to write to these pathnames.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct IntentRow {
    /// Unique; also says in which partition the row lies. Its sort key is this, so it is no attribute.
    #[serde(skip)]
    pub id: String,
    /// The session under which the operation runs.
    pub session: String,
    /// New whenever the row is stored anew, so that a touched row is told from an untouched one.
    pub version: String,
    /// Whether the operation is still at it.
    #[serde(default, skip_serializing_if = "IntentState::is_open")]
    pub state: IntentState,
    /// When it was stored, for people.
    pub at: Timestamp,
    /// What may change, at most [`INTENT_PATHNAMES_MAX`].
    pub pathnames: Vec<Pathname>,
    /// The digest of the bytes that are to be stored, where they are known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sha256: Option<Digest>,
    /// Whether Blob may come to hold content under these pathnames that only Blob knows: copies, and multipart
    /// uploads.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub any_content: bool,
    /// Whether its write goes to DynamoDB: then nothing of it lands in Blob but under a note, and a condition.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub to_target: bool,
}

/// Whether the operation of an intent is still at it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum IntentState {
    /// It is, for as long as its session lives. An attribute says only what is not so: each one takes time, and
    /// every write waits for its intent.
    #[default]
    Open,
    /// It gave up; its write may still land.
    GaveUp,
}

impl IntentState {
    #[expect(clippy::trivially_copy_pass_by_ref, reason = "serde asks for it")]
    const fn is_open(&self) -> bool {
        matches!(self, Self::Open)
    }
}

impl IntentRow {
    /// A new one.
    #[must_use]
    pub fn new(
        session: &str,
        at: Timestamp,
        state: IntentState,
        pathnames: Vec<Pathname>,
        sha256: Option<Digest>,
    ) -> Self {
        let (id, version) = (names::token(), names::token());
        Self {
            id,
            session: session.to_owned(),
            version,
            state,
            at,
            pathnames,
            sha256,
            any_content: false,
            to_target: false,
        }
    }

    /// The intent that a row is.
    pub(super) fn decode(item: Item) -> Result<Self> {
        let id = row::key(&item).sort;
        Ok(Self { id, ..row::decode(item)? })
    }

    /// Whether a blob of this name and content may be what this operation itself stored in Blob.
    #[must_use]
    pub fn names(&self, pathname: &Pathname, sha256: Digest) -> bool {
        let may_be = self.any_content || self.sha256 == Some(sha256);
        !self.to_target && may_be && self.pathnames.contains(pathname)
    }

    /// The same with a new version.
    #[must_use]
    pub fn touched(&self, state: IntentState) -> Self {
        Self { version: names::token(), state, ..self.clone() }
    }
}

impl Control {
    /// Stores a new intent.
    ///
    /// # Errors
    /// What the store reports; after `OutcomeUnknown` it may be there, or come yet.
    pub async fn store_intent(&self, intent: &IntentRow) -> Result<()> {
        let item = row::encode(&names::intent(&intent.id), intent);
        self.put_row(item, Condition::Absent).await.map(drop)
    }

    /// Stores an intent anew, if it is still there with the version `seen`; says whether it was.
    ///
    /// # Errors
    /// What the store reports.
    pub async fn touch_intent(&self, intent: &IntentRow, seen: &str) -> Result<bool> {
        let item = row::encode(&names::intent(&intent.id), intent);
        self.put_row(item, Condition::equals(["version"], Value::s(seen))).await
    }

    /// Removes an intent, if it still has this version; says whether it is gone.
    ///
    /// # Errors
    /// What the store reports.
    pub async fn clear_intent(&self, intent: &IntentRow) -> Result<bool> {
        let write = Write::Delete {
            table: Table::Control,
            key: names::intent(&intent.id),
            condition: Condition::equals(["version"], Value::s(intent.version.as_str())),
        };
        Ok(match self.store.transact(&names::token(), vec![write]).await? {
            Outcome::Applied => true,
            Outcome::Refused(refusals) => refusals.first().is_none_or(|refusal| refusal.found.is_none()),
        })
    }

    /// All intents of one shard.
    ///
    /// # Errors
    /// `Corrupt`; what the store reports.
    pub async fn intents_of_shard(&self, shard: u8) -> Result<Vec<IntentRow>> {
        self.rows(&names::intent_partition(shard), "").await?.into_iter().map(IntentRow::decode).collect()
    }

    /// All intents, in no useful order.
    ///
    /// # Errors
    /// As [`Control::intents_of_shard`].
    pub async fn intents(&self) -> Result<Vec<IntentRow>> {
        let shards = (0..names::SHARDS).map(|shard| self.intents_of_shard(shard));
        Ok(futures::future::try_join_all(shards).await?.into_iter().flatten().collect())
    }
}
