//! What a sweep found.

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde::Serialize;

use super::back::BlobCoverage;
use super::drift::{Drift, DriftKind};
use super::live::Bypass;
use super::run::Level;
use crate::blob::Pathname;
use crate::protocol::phase::Epoch;
use crate::target::control::SweepRow;

/// So many pathnames of changes past the gateways are kept.
const BYPASSES_MAX: usize = 10;

/// What a sweep found, and how much of the stores it covered.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct SweepReport {
    /// When it began.
    pub began: Timestamp,
    /// When it ended.
    pub ended: Timestamp,
    /// How deep it looked.
    pub level: Level,
    /// Blobs that an entity maps, as listed.
    pub listed: u64,
    /// How many of them were compared to a verdict.
    pub compared: u64,
    /// Anchors that hold something.
    pub anchored: u64,
    /// How many of them were compared to a verdict.
    pub anchors_compared: u64,
    /// Items that bear `_source`.
    pub items: u64,
    /// How many of them were compared to a verdict.
    pub items_compared: u64,
    /// Items without `_source`: the application's own.
    pub other_items: u64,
    /// Blobs matched by an ignore rule.
    pub ignored: u64,
    /// Blobs matched by an accept rule.
    pub accepted: u64,
    /// Equal blobs whose items all belong to newer blobs of the same groups.
    pub superseded: u64,
    /// Pathnames that no rule matches, or several, and which.
    pub unmapped: Vec<(Pathname, String)>,
    /// Perturbations that were planted.
    pub planted: u64,
    /// How many of them were found, each as what it was.
    pub found: u64,
    /// What differed when it was found.
    pub drift: Vec<Drift>,
    /// What still differs after the repair; none where there was no repair.
    pub remaining: Option<Vec<Drift>>,
    /// Changes that went past the gateways.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub bypassed: Vec<Bypass>,
    /// How much of Blob was compared with DynamoDB, where DynamoDB is the authority. All else is then about items
    /// and what their anchors say.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mirror: Option<BlobCoverage>,
    /// Whether an empty store may pass.
    pub allow_empty: bool,
}

impl SweepReport {
    /// What differs now.
    #[must_use]
    pub fn present_drift(&self) -> &[Drift] {
        self.remaining.as_deref().unwrap_or(&self.drift)
    }

    /// How often each kind of drift was found.
    #[must_use]
    pub fn counts(&self) -> BTreeMap<DriftKind, u64> {
        let mut counts = BTreeMap::new();
        for drift in &self.drift {
            *counts.entry(drift.kind).or_default() += 1;
        }
        counts
    }

    /// Whether everything that was listed, on either side, was compared.
    #[must_use]
    pub fn complete(&self) -> bool {
        self.mirror.is_none_or(BlobCoverage::complete)
            && self.listed == self.compared
            && self.anchored == self.anchors_compared
            && self.items == self.items_compared
    }

    /// Whether the self-test planted something and found all of it.
    #[must_use]
    pub const fn self_test_passed(&self) -> bool {
        self.planted == self.found && (self.planted > 0 || self.listed == 0)
    }

    /// Why it proves nothing or finds something, a line each; empty for a clean sweep.
    #[must_use]
    pub fn obstacles(&self) -> Vec<String> {
        let mut obstacles: Vec<String> =
            self.counts().iter().map(|(kind, count)| format!("{count} × {kind}")).collect();
        if self.listed == 0 && !self.allow_empty {
            obstacles.push("nothing was listed; a store that may be empty says so with `[validation] allow_empty = true`".to_owned());
        }
        if !self.complete() {
            let Self { listed, compared, anchored, anchors_compared, items, items_compared, .. } = self;
            obstacles.push(format!(
                "not everything was compared: blobs {compared} of {listed}, anchors {anchors_compared} of {anchored}, items {items_compared} of {items}"
            ));
            if let Some(BlobCoverage { listed, compared, anchored, anchors_compared }) = self.mirror {
                obstacles.push(format!(
                    "in Blob: {compared} of {listed} blobs, {anchors_compared} of {anchored} anchors"
                ));
            }
        }
        if !self.self_test_passed() {
            obstacles
                .push(format!("the self-test found {} of {} planted differences", self.found, self.planted));
        }
        obstacles
    }

    /// The row that is kept of it as evidence.
    #[must_use]
    pub fn row(&self, id: String, plan_hash: &str, epoch: Epoch) -> SweepRow {
        SweepRow {
            id,
            began: self.began,
            ended: self.ended,
            plan_hash: plan_hash.to_owned(),
            epoch,
            content: self.level == Level::Content,
            listed: self.listed,
            compared: self.compared,
            anchored: self.anchored,
            items: self.items,
            drift: self.counts().into_iter().map(|(kind, count)| (kind.to_string(), count)).collect(),
            quarantined: self.counts().get(&DriftKind::Unmappable).copied().unwrap_or_default(),
            unmapped: self.unmapped.len() as u64,
            planted: self.planted,
            found: self.found,
            repaired: self.remaining.is_some(),
            bypassed: self.bypassed.len() as u64,
            bypasses: self.bypassed.iter().take(BYPASSES_MAX).map(|one| one.pathname.clone()).collect(),
            clean: self.obstacles().is_empty(),
        }
    }
}
