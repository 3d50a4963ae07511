//! What gateways found when they compared reads.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::{Control, row};
use crate::blob::Pathname;
use crate::error::Result;
use crate::protocol::phase::Epoch;
use crate::target::store::Condition;
use crate::value::Key;

/// What one gateway compared since the phase `shadow` was entered last. It is stored again and again.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReadsRow {
    /// Unique for each process and round.
    pub id: String,
    /// The gateway's name.
    pub name: String,
    /// Under which plan.
    pub plan_hash: String,
    /// In which epoch.
    pub epoch: Epoch,
    /// After which step: see [`Mode::round`](super::Mode::round).
    pub round: u64,
    /// When the first read was counted.
    pub began: Timestamp,
    /// When it was stored.
    pub at: Timestamp,
    /// What was counted.
    #[serde(flatten)]
    pub reads: Reads,
    /// The pathnames with the most mismatches.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub worst: Vec<Offender>,
}

/// Counts of reads that were to be compared.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reads {
    /// Those of which both answers are known: equal, or not.
    pub compared: u64,
    /// Those of them that were not equal.
    pub mismatches: u64,
    /// Those that were served from a cache with an older version, or replaced since.
    pub stale: u64,
    /// Those of keys that never held still.
    pub moving: u64,
    /// Those that DynamoDB, or the second look at Blob, did not answer.
    pub errors: u64,
    /// Those that were left out because too many were waiting.
    pub dropped: u64,
    /// How long Blob took for those that were compared, in microseconds, all together.
    pub source_us: u64,
    /// The same of DynamoDB.
    pub target_us: u64,
}

impl Reads {
    /// The sum of two counts.
    #[must_use]
    pub const fn and(self, other: Self) -> Self {
        Self {
            compared: self.compared + other.compared,
            mismatches: self.mismatches + other.mismatches,
            stale: self.stale + other.stale,
            moving: self.moving + other.moving,
            errors: self.errors + other.errors,
            dropped: self.dropped + other.dropped,
            source_us: self.source_us + other.source_us,
            target_us: self.target_us + other.target_us,
        }
    }
}

/// A pathname whose reads differed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Offender {
    /// Which one.
    pub pathname: Pathname,
    /// How many of its reads.
    pub mismatches: u64,
    /// What differed last.
    pub what: String,
}

impl Control {
    /// Keeps what a gateway compared, in place of what it kept before.
    ///
    /// # Errors
    /// What the store reports.
    pub async fn put_reads(&self, reads: &ReadsRow) -> Result<()> {
        let key = Key::new("C#", format!("{}{}", round_of(reads.epoch, reads.round), reads.id));
        self.put_row(row::encode(&key, reads), Condition::Always).await.map(drop)
    }

    /// What all gateways compared in a round.
    ///
    /// # Errors
    /// `Corrupt`; what the store reports.
    pub async fn reads(&self, epoch: Epoch, round: u64) -> Result<Vec<ReadsRow>> {
        self.rows("C#", &round_of(epoch, round)).await?.into_iter().map(row::decode).collect()
    }
}

fn round_of(epoch: Epoch, round: u64) -> String {
    format!("{:012}#{round:012}#", epoch.0)
}
