//! `dual-write --once`: the first load, then sweeps until nothing differs.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use serde::Serialize;
use tokio_util::sync::CancellationToken;

use super::mirroring::Mirroring;
use super::replay::{Replay, ReplayReport};
use super::session::{Opening, Session};
use super::stopping::Stopping;
use crate::backfill::{self, BackfillReport};
use crate::converge::Converger;
use crate::error::{ErrorKind, Result};
use crate::event::{Event, Events};
use crate::gate::Gate;
use crate::plan::Plan;
use crate::protocol::phase::{Authority, Epoch};
use crate::sweep::{Level, Sweep, SweepReport};
use crate::target::control::{Evidence, Header, SessionKind, names};

/// Sweeps that still find something after this many are told to the user instead.
const SWEEPS_MAX: usize = 5;

/// A backfill and the sweeps after it.
#[derive(Clone, Copy)]
pub struct Once<'a> {
    /// Both stores and the plan's entities. Its permit is replaced by the session's.
    pub converger: &'a Converger,
    /// The plan.
    pub plan: &'a Plan,
    /// Its hash.
    pub plan_hash: &'a str,
    /// Which stores they are.
    pub header: &'a Header,
    /// How deep the sweeps look.
    pub level: Level,
    /// The name of the session.
    pub name: &'a str,
    /// Where lock files lie.
    pub directory: &'a Path,
}

impl std::fmt::Debug for Once<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Once").field("name", &self.name).finish_non_exhaustive()
    }
}

/// What came of it.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct OnceReport {
    /// The first load.
    pub backfill: BackfillReport,
    /// The sweeps after it, the last one first clean or out of patience.
    pub sweeps: Vec<SweepReport>,
    /// What became of writes through gateways whose operations are not at work any more.
    pub replay: ReplayReport,
}

impl OnceReport {
    /// Whether the mirror was loaded completely and the last sweep found nothing.
    #[must_use]
    pub fn settled(&self) -> bool {
        self.backfill.complete() && self.sweeps.last().is_some_and(|sweep| sweep.obstacles().is_empty())
    }
}

impl Once<'_> {
    /// Opens a session, loads the mirror, sweeps until a sweep is clean, and keeps the evidence.
    ///
    /// # Errors
    /// `Usage` where the control table belongs to other stores; `Busy`, `WrongPhase` from the session;
    /// `Interrupted`; what the stores report. A rerun goes on from what is there.
    pub async fn run(&self, events: &Events, cancel: &CancellationToken) -> Result<OnceReport> {
        let control = &self.converger.control;
        control.ensure_header(self.header).await?;
        let opening = Opening {
            kind: SessionKind::Backfill,
            name: self.name,
            plan_hash: self.plan_hash,
            plan: self.plan,
            directory: self.directory,
            authority: Some(Authority::Source),
        };
        let session = Session::open(control.clone(), Arc::clone(self.converger.clock()), opening).await?;
        let epoch = session.mode().epoch;
        let permit = Arc::new(Stopping { permit: session.permit(), stop: cancel.clone() });
        let converger = Converger { permit, ..self.converger.clone() };
        let result = self.work(&converger, &session.id(), epoch, events, cancel).await;
        match &result {
            // An interruption is heard between requests: nothing is in flight. Where it cut a change short, the
            // session says so itself.
            Err(error) if error.kind() != ErrorKind::Interrupted => session.close_unclean().await?,
            _ => session.close().await?,
        }
        result
    }

    async fn work(
        &self,
        converger: &Converger,
        session: &str,
        epoch: Epoch,
        events: &Events,
        cancel: &CancellationToken,
    ) -> Result<OnceReport> {
        let prefix = &self.plan.source.prefix;
        let replay = {
            let mirroring = Mirroring::ToTarget(converger.clone());
            Replay::new(&self.plan.timing).pass(&mirroring, session, |_| false).await?
        };
        let backfill = backfill::run(converger, prefix, events, cancel).await?;
        let evidence = backfill_evidence(&backfill, converger, self.plan_hash, epoch);
        converger.control.put_evidence(&evidence).await?;
        let mut sweeps: Vec<SweepReport> = Vec::new();
        for round in 1..=SWEEPS_MAX {
            let sweep = Sweep {
                converger,
                target: &self.plan.target,
                prefix,
                level: self.level,
                repair: true,
                allow_empty: self.plan.validation.allow_empty,
                patience: Duration::from_millis(100),
            };
            let report = sweep.run(events, cancel).await?;
            let row = report.row(names::token(), self.plan_hash, epoch);
            converger.control.put_sweep(&row).await?;
            let (found, left) = (report.drift.len(), report.present_drift().len());
            let clean = report.obstacles().is_empty();
            sweeps.push(report);
            // What a repair can't settle, another sweep can't either.
            if clean || found == left {
                break;
            }
            events.report(Event::Note(format!(
                "sweep {round} settled {} of {found} differences",
                found - left
            )));
        }
        Ok(OnceReport { backfill, sweeps, replay })
    }
}

/// What a backfill proves.
pub(super) fn backfill_evidence(
    report: &BackfillReport,
    converger: &Converger,
    plan_hash: &str,
    epoch: Epoch,
) -> Evidence {
    let BackfillReport { mapped, written, equal, quarantined, failed, .. } = report;
    Evidence {
        gate: Gate::BackfillComplete.to_string(),
        at: converger.clock().now(),
        plan_hash: plan_hash.to_owned(),
        epoch,
        passed: report.complete(),
        summary: format!(
            "{mapped} blobs: {written} written, {equal} equal already, {} quarantined, {} failed",
            quarantined.len(),
            failed.len()
        ),
        obstacles: failed.iter().take(20).map(|(pathname, why)| format!("{pathname}: {why}")).collect(),
    }
}
