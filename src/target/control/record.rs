//! Evidence and sweeps: what gates are judged by.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::{Control, row};
use crate::blob::Pathname;
use crate::error::Result;
use crate::protocol::phase::Epoch;
use crate::target::store::Condition;
use crate::value::Key;

/// What was found out for a gate, when, under which plan and epoch.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Evidence {
    /// The gate's name.
    pub gate: String,
    /// When it was found out.
    pub at: Timestamp,
    /// Under which plan.
    pub plan_hash: String,
    /// In which epoch.
    pub epoch: Epoch,
    /// Whether it opens the gate.
    pub passed: bool,
    /// What was found, in one line.
    pub summary: String,
    /// What stands in the way, a line each; empty where it passed.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub obstacles: Vec<String>,
}

/// One full sweep.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SweepRow {
    /// Unique.
    pub id: String,
    /// When it began.
    pub began: Timestamp,
    /// When it ended.
    pub ended: Timestamp,
    /// Under which plan.
    pub plan_hash: String,
    /// In which epoch.
    pub epoch: Epoch,
    /// Whether it compared contents, not only versions and revs.
    pub content: bool,
    /// Blobs that an entity maps, as listed.
    pub listed: u64,
    /// How many of them were compared.
    pub compared: u64,
    /// Anchors that hold something, as queried.
    pub anchored: u64,
    /// Items that bear `_source`, as scanned.
    pub items: u64,
    /// Drift kind → count.
    pub drift: std::collections::BTreeMap<String, u64>,
    /// Pathnames quarantined.
    pub quarantined: u64,
    /// Pathnames that no rule, or more than one, matches.
    pub unmapped: u64,
    /// Planted perturbations.
    pub planted: u64,
    /// How many of them were found, each as what it was.
    pub found: u64,
    /// Whether it repaired what it found.
    pub repaired: bool,
    /// Changes that went past the gateways.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub bypassed: u64,
    /// The first of their pathnames.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub bypasses: Vec<Pathname>,
    /// Whether everything above is as it must be; see `sweep`.
    pub clean: bool,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde asks for it")]
const fn is_zero(count: &u64) -> bool {
    *count == 0
}

impl Control {
    /// Keeps evidence, in place of the gate's earlier one.
    ///
    /// # Errors
    /// What the store reports.
    pub async fn put_evidence(&self, evidence: &Evidence) -> Result<()> {
        let key = Key::new("E#", evidence.gate.as_str());
        self.put_row(row::encode(&key, evidence), Condition::Always).await.map(drop)
    }

    /// The newest evidence of each gate.
    ///
    /// # Errors
    /// `Corrupt`; what the store reports.
    pub async fn evidence(&self) -> Result<Vec<Evidence>> {
        self.rows("E#", "").await?.into_iter().map(row::decode).collect()
    }

    /// Keeps a finished sweep.
    ///
    /// # Errors
    /// What the store reports.
    pub async fn put_sweep(&self, sweep: &SweepRow) -> Result<()> {
        let key = Key::new("W#", format!("{:015}#{}", sweep.began.as_millisecond(), sweep.id));
        self.put_row(row::encode(&key, sweep), Condition::Absent).await.map(drop)
    }

    /// All sweeps, in the order in which they began.
    ///
    /// # Errors
    /// `Corrupt`; what the store reports.
    pub async fn sweeps(&self) -> Result<Vec<SweepRow>> {
        self.rows("W#", "").await?.into_iter().map(row::decode).collect()
    }
}
