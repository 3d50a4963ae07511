//! Gates: what must be proven before a phase may change.
//!
//! A gate is judged from stored evidence, purely: [`judge`] takes [`Facts`] and says whether it is open,
//! why not, and what opens it. Evidence counts only under the same plan, in the same epoch, and while it
//! is fresh. A gate that can't be judged is closed.
//!
//! Nothing in here changes a store, except that evidence is kept ([`table_ready::check`]).

mod capture_continuous;
mod drift_free;
pub mod export_complete;
pub mod indexes_complete;
mod no_foreign;
pub mod rollback_drilled;
pub(crate) mod shadow_reads;
pub mod table_ready;
pub mod writers_stopped;

use std::collections::BTreeMap;
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use serde::Serialize;

use crate::digest::Digest;
use crate::error::Result;
use crate::plan::{CaptureMode, EntityPlan, Plan, Writers};
use crate::protocol::phase::{Epoch, Phase};
use crate::target::control::{Control, Evidence, IntentRow, SessionRow, SessionState, SweepRow};

/// The gates that are there so far.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Gate {
    /// The tables are as planned.
    TableReady,
    /// Every listed blob that a rule maps is in a snapshot, its body verified.
    ExportComplete,
    /// Every blob is mapped, ignored or accepted by a rule, and none is quarantined.
    MappingTotal,
    /// Every mapped pathname is applied or superseded.
    BackfillComplete,
    /// Every write since before those sweeps went through a gateway that noted it.
    CaptureContinuous,
    /// Full sweeps found nothing.
    DriftFree,
    /// Each index returns the items it must.
    IndexesComplete,
    /// Nobody writes past the gateways.
    NoForeign,
    /// Without gateways: the operator's word that nobody writes any more.
    WritersStopped,
    /// What is read is the same from both stores.
    ShadowReads,
    /// The way back was exercised.
    RollbackDrilled,
}

/// DynamoDB is compared: it must be loaded.
const TO_SHADOW: [Gate; 4] =
    [Gate::TableReady, Gate::ExportComplete, Gate::MappingTotal, Gate::BackfillComplete];
/// DynamoDB answers: it must be equal.
const TO_CANARY: [Gate; 6] = [
    Gate::TableReady,
    Gate::ExportComplete,
    Gate::MappingTotal,
    Gate::BackfillComplete,
    Gate::DriftFree,
    Gate::ShadowReads,
];

impl Gate {
    /// All of them, in the order in which they open.
    pub const ALL: [Self; 11] = [
        Self::TableReady,
        Self::ExportComplete,
        Self::MappingTotal,
        Self::BackfillComplete,
        Self::CaptureContinuous,
        Self::DriftFree,
        Self::IndexesComplete,
        Self::NoForeign,
        Self::WritersStopped,
        Self::ShadowReads,
        Self::RollbackDrilled,
    ];

    /// Its name in the plan, in evidence and in reports.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::TableReady => "table-ready",
            Self::ExportComplete => "export-complete",
            Self::MappingTotal => "mapping-total",
            Self::BackfillComplete => "backfill-complete",
            Self::CaptureContinuous => "capture-continuous",
            Self::DriftFree => "drift-free",
            Self::IndexesComplete => "indexes-complete",
            Self::NoForeign => "no-foreign",
            Self::WritersStopped => "writers-stopped",
            Self::ShadowReads => "shadow-reads",
            Self::RollbackDrilled => "rollback-drilled",
        }
    }

    /// What opens it.
    #[must_use]
    pub const fn opened_by(self) -> &'static str {
        match self {
            Self::TableReady => "migrate provision",
            Self::ExportComplete => "migrate export, then migrate dual-write --once",
            Self::MappingTotal => "correct the plan or the blobs it names, then migrate validate",
            Self::BackfillComplete => "migrate dual-write --once",
            Self::CaptureContinuous => {
                "migrate dual-write, running; then migrate validate, until two in a row are clean"
            }
            Self::IndexesComplete => {
                "migrate validate; an index that was just made may take a while to be filled"
            }
            Self::NoForeign => {
                "point every writer at a gateway, and let migrate dual-write run for `timing.no_foreign`"
            }
            Self::WritersStopped => {
                "stop whoever writes; migrate cutover --writers-stopped; `timing.settle` later migrate validate --sweeps 2"
            }
            Self::DriftFree => {
                "migrate validate (with --repair where it finds drift), until two in a row are clean"
            }
            Self::RollbackDrilled => "migrate cutover --drill",
            Self::ShadowReads => {
                "reads through a gateway in phase shadow; after a mismatch settle it, then migrate cutover --rollback \
                 and --to shadow count anew"
            }
        }
    }

    /// What was found out for it, under which plan, in which epoch and when. It opens where nothing stands in the way.
    pub(super) fn evidence(
        self,
        (plan_hash, epoch, at): (&str, Epoch, Timestamp),
        summary: String,
        obstacles: Vec<String>,
    ) -> Evidence {
        let (gate, plan_hash, passed) = (self.to_string(), plan_hash.to_owned(), obstacles.is_empty());
        Evidence { gate, at, plan_hash, epoch, passed, summary, obstacles }
    }

    /// The gates that a step to `phase` must pass, coming from `from`, where changes are captured so.
    #[must_use]
    pub fn required(from: Phase, phase: Phase, capture: CaptureMode) -> Vec<Self> {
        let forward = |gate: &Self| match gate {
            Self::CaptureContinuous | Self::NoForeign => capture == CaptureMode::Gateway,
            Self::WritersStopped => capture == CaptureMode::Follow,
            _ => true,
        };
        match (from, phase) {
            // The way back: DynamoDB must hold nothing that Blob does not.
            (Phase::Cutover, Phase::Shadow) => vec![Self::DriftFree],
            // The last look at what Blob has: nothing of it is only there.
            (Phase::Cutover, Phase::Final) => vec![Self::TableReady, Self::DriftFree],
            // Blob is right before and after, and is read more than before.
            (Phase::Shadow, Phase::Capture) | (Phase::Canary, Phase::Shadow) => Vec::new(),
            (Phase::Capture, Phase::Shadow) => TO_SHADOW.to_vec(),
            (Phase::Shadow | Phase::Canary, Phase::Canary) => TO_CANARY.to_vec(),
            _ => Self::ALL.into_iter().filter(forward).collect(),
        }
    }
}

impl std::fmt::Display for Gate {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.as_str())
    }
}

/// How a gate stands.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct GateState {
    /// Which gate.
    pub gate: Gate,
    /// Whether it is open.
    pub open: bool,
    /// What its evidence says, in one line.
    pub summary: String,
    /// What keeps it closed, a line each.
    pub obstacles: Vec<String>,
    /// What opens it.
    pub opened_by: &'static str,
    /// When its evidence was found.
    pub at: Option<Timestamp>,
}

impl GateState {
    fn open(gate: Gate, at: Timestamp, summary: String) -> Self {
        Self { gate, open: true, summary, obstacles: Vec::new(), opened_by: gate.opened_by(), at: Some(at) }
    }

    /// On the way back, closes `drift-free` where an entity has items that Blob could not hold: those that the
    /// application makes itself, and that no template of the plan names.
    pub fn close_for_one_way(&mut self, entities: &[EntityPlan]) {
        let one_way = entities.iter().filter(|entity| entity.direct_writes && entity.pathname.is_none());
        let names: Vec<&str> = one_way.map(|entity| entity.name.as_str()).collect();
        if self.gate == Gate::DriftFree && !names.is_empty() {
            *self = Self {
                opened_by: "give these entities a `pathname` in the plan, then migrate validate --repair",
                ..Self::closed(
                    self.gate,
                    self.at,
                    "items that the application makes itself have no name in Blob",
                    names
                        .iter()
                        .map(|name| format!("entity {name}: direct_writes without pathname"))
                        .collect(),
                )
            };
        }
    }

    fn closed(gate: Gate, at: Option<Timestamp>, summary: impl Into<String>, obstacles: Vec<String>) -> Self {
        let summary = summary.into();
        Self { gate, open: false, summary, obstacles, opened_by: gate.opened_by(), at }
    }
}

/// Everything that gates are judged by.
#[derive(Debug, Clone)]
pub struct Facts {
    /// Now, by the wall clock.
    pub now: Timestamp,
    /// The plan's hash.
    pub plan_hash: String,
    /// The present epoch.
    pub epoch: Epoch,
    /// How old evidence may be.
    pub evidence_age_max: Duration,
    /// How long after an unclean end of a session a sweep must begin to count.
    pub settle: Duration,
    /// The newest evidence of each gate.
    pub evidence: BTreeMap<String, Evidence>,
    /// All sweeps, in the order in which they began.
    pub sweeps: Vec<SweepRow>,
    /// All sessions.
    pub sessions: Vec<SessionRow>,
    /// All intents.
    pub intents: Vec<IntentRow>,
    /// For how long nobody may have written past the gateways.
    pub no_foreign: Duration,
    /// What the plan says to writers.
    pub writers: Digest,
}

impl Facts {
    /// Reads what is stored.
    ///
    /// # Errors
    /// What the store reports.
    pub async fn read(
        control: &Control,
        now: Timestamp,
        plan_hash: &str,
        epoch: Epoch,
        plan: &Plan,
    ) -> Result<Self> {
        let timing = &plan.timing;
        let evidence = control.evidence().await?;
        Ok(Self {
            now,
            plan_hash: plan_hash.to_owned(),
            epoch,
            evidence_age_max: timing.evidence_age_max.0,
            settle: timing.settle.0,
            evidence: evidence.into_iter().map(|evidence| (evidence.gate.clone(), evidence)).collect(),
            sweeps: control.sweeps().await?,
            // Before the sessions: an intent that is seen has a session that is seen.
            intents: control.intents().await?,
            sessions: control.sessions().await?,
            no_foreign: timing.no_foreign.0,
            writers: Writers::of(plan).digest,
        })
    }

    /// Why evidence of this plan, epoch and time does not count; none where it does.
    fn refusal(&self, plan_hash: &str, epoch: Epoch, at: Timestamp) -> Option<String> {
        if plan_hash != self.plan_hash {
            let (then, now) = (short(plan_hash), short(&self.plan_hash));
            return Some(format!("its evidence was made under another plan ({then}, now {now})"));
        }
        if epoch != self.epoch {
            return Some(format!("its evidence was made in epoch {epoch}, now it is {}", self.epoch));
        }
        let age = self.now.duration_since(at);
        if age > SignedDuration::try_from(self.evidence_age_max).unwrap_or(SignedDuration::MAX) {
            let hours = self.evidence_age_max.as_secs_f64() / 3600.0;
            return Some(format!(
                "its evidence is {:.1} h old, more than {hours:.1} h",
                age.as_secs_f64() / 3600.0
            ));
        }
        None
    }

    fn sweep_refusal(&self, sweep: &SweepRow) -> Option<String> {
        self.refusal(&sweep.plan_hash, sweep.epoch, sweep.ended)
    }
}

/// The moment from which on a sweep counts after this one.
fn settle_after(at: Timestamp, settle: SignedDuration) -> Timestamp {
    at.checked_add(settle).unwrap_or(Timestamp::MAX)
}

fn short(hash: &str) -> &str {
    hash.get(..12).unwrap_or(hash)
}

/// Whether a gate is open, for a step from one phase to another.
#[must_use]
pub fn judge(gate: Gate, (from, to): (Phase, Phase), facts: &Facts) -> GateState {
    match gate {
        Gate::TableReady
        | Gate::ExportComplete
        | Gate::BackfillComplete
        | Gate::IndexesComplete
        | Gate::RollbackDrilled
        | Gate::ShadowReads => from_evidence(gate, facts),
        Gate::MappingTotal => mapping_total(facts),
        Gate::CaptureContinuous => capture_continuous::judge(facts),
        Gate::NoForeign => no_foreign::judge(facts),
        Gate::WritersStopped => writers_stopped::judge(facts),
        // Nothing but the application writes after a cutover: one look at everything tells.
        Gate::DriftFree if from == Phase::Cutover => GateState {
            opened_by: "migrate validate, with --repair where it finds drift, until one is clean",
            ..if to == Phase::Final {
                drift_free::judge(facts, 1, |row| row.state == SessionState::Unclean)
            } else {
                // What the others left has rows, and is made equal under the hold.
                drift_free::judge(facts, 1, |row| row.leaves_unnamed(facts.epoch))
            }
        },
        Gate::DriftFree => drift_free::judge(facts, 2, |row| row.state == SessionState::Unclean),
    }
}

fn from_evidence(gate: Gate, facts: &Facts) -> GateState {
    let Some(evidence) = facts.evidence.get(gate.as_str()) else {
        return GateState::closed(gate, None, "no evidence yet", Vec::new());
    };
    if let Some(refusal) = facts.refusal(&evidence.plan_hash, evidence.epoch, evidence.at) {
        return GateState::closed(gate, Some(evidence.at), refusal, Vec::new());
    }
    if evidence.passed {
        GateState::open(gate, evidence.at, evidence.summary.clone())
    } else {
        GateState::closed(gate, Some(evidence.at), evidence.summary.clone(), evidence.obstacles.clone())
    }
}

fn mapping_total(facts: &Facts) -> GateState {
    let gate = Gate::MappingTotal;
    let Some(sweep) = facts.sweeps.last() else {
        let none = GateState::closed(gate, None, "no sweep yet", Vec::new());
        return GateState { opened_by: "migrate dual-write --once", ..none };
    };
    let at = sweep.ended;
    if let Some(refusal) = facts.sweep_refusal(sweep) {
        let stale = GateState::closed(gate, Some(at), refusal, Vec::new());
        return GateState { opened_by: "migrate dual-write --once, or migrate validate", ..stale };
    }
    let mut obstacles = Vec::new();
    if sweep.unmapped > 0 {
        obstacles.push(format!("{} blobs are matched by no rule, or by several", sweep.unmapped));
    }
    if sweep.quarantined > 0 {
        obstacles
            .push(format!("{} blobs are quarantined and not listed under [[accept]]", sweep.quarantined));
    }
    if obstacles.is_empty() {
        GateState::open(gate, at, format!("each of {} blobs has its rule, none is quarantined", sweep.listed))
    } else {
        GateState::closed(gate, Some(at), "not every blob has its place", obstacles)
    }
}
