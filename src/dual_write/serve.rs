//! `dual-write` until it is stopped: the gateway, and beside it backfill, sweeps and replay.

use std::net::SocketAddr;
use std::path::Path;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use serde::Serialize;
use tokio_util::sync::CancellationToken;

use super::direct::Following;
use super::gateway::door::Ticket;
use super::gateway::{DualWrite, GatewayCounts, Parts};
use super::metrics::{Metrics, Observed};
use super::mirroring::Mirroring;
use super::once::backfill_evidence;
use super::replay::{Replay, ReplayReport};
use super::session::{Opening, Session};
use super::stopping::Stopping;
use crate::backfill::{self, BackfillReport};
use crate::blob::BlobStore;
use crate::blob::server::{Server, ServerConfig, TlsIdentity};
use crate::converge::Converger;
use crate::error::{Error, ErrorKind, Result};
use crate::event::{Event, Events};
use crate::legible::first_of;
use crate::plan::{CaptureMode, Plan};
use crate::protocol::canary::Counts;
use crate::protocol::phase::Authority;
use crate::sweep::{BackSweep, Bypass, Level, Sweep, SweepReport};
use crate::target::control::{Header, Reads, SessionKind, names};

/// How long running writes may take at the end.
const END_GRACE: Duration = Duration::from_secs(10);
/// Sweeps in a row that each settled something; then the next one waits for its time.
const SWEEPS_IN_A_ROW_MAX: usize = 5;
/// So many pathnames of what a sweep leaves are named.
const NAMED_MAX: usize = 3;
/// The pause after work that failed.
const FAILED_PAUSE: Duration = Duration::from_secs(10);

/// A dual write that runs until it is stopped.
#[derive(Clone)]
pub struct Serve<'a> {
    /// What the gateway is made of.
    pub parts: Parts,
    /// Both stores at the pace of background work, for backfill, sweeps and replay.
    pub converger: &'a Converger,
    /// The plan.
    pub plan: &'a Plan,
    /// Its hash.
    pub plan_hash: &'a str,
    /// Which stores they are.
    pub header: &'a Header,
    /// How deep sweeps look.
    pub level: Level,
    /// How long after a sweep the next one begins.
    pub interval: Duration,
    /// The name of the session.
    pub name: &'a str,
    /// Where lock files lie.
    pub directory: &'a Path,
    /// Where the gateway listens, and how it serves.
    pub listen: SocketAddr,
    /// How it serves.
    pub server: ServerConfig,
    /// Where it listens for TLS as well, and the certificate that it shows there.
    pub tls: Option<(SocketAddr, TlsIdentity)>,
    /// Where a monitor may ask, if anywhere.
    pub monitor: Option<SocketAddr>,
}

impl std::fmt::Debug for Serve<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Serve")
            .field("name", &self.name)
            .field("listen", &self.listen)
            .finish_non_exhaustive()
    }
}

/// What it did until it was stopped.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct ServeReport {
    /// The gateway; none without one.
    pub gateway: Option<GatewayCounts>,
    /// Reads that were compared since phase `shadow` was entered last; none where there were none.
    pub compared: Option<Reads>,
    /// What was read for the last canary's keys; none where there were none.
    pub canary: Option<Counts>,
    /// The store that was right last.
    pub authority: Option<Authority>,
    /// The first load; none where it was stopped before, and while DynamoDB is the authority.
    pub backfill: Option<BackfillReport>,
    /// How many sweeps came to their end.
    pub sweeps: u64,
    /// How many changes they found that went past the gateways.
    pub bypassed: u64,
    /// The last of them.
    pub last_sweep: Option<SweepReport>,
    /// What the replay found last, and how many intents it removed in all.
    pub replay: ReplayReport,
    /// Intents that are left: writes that are in doubt, or another gateway's; none where the control table
    /// could not be asked.
    pub intents_left: Option<usize>,
    /// Whether the session ended clean.
    pub clean: bool,
}

impl Serve<'_> {
    /// Serves until it is cancelled; then no request is taken any more, those that run are finished, and
    /// the session is ended.
    ///
    /// # Errors
    /// `Usage` for an address that can't be bound, tables of other stores, or a plan that is not that of the cutover;
    /// `Busy` and `WrongPhase` from the session.
    pub async fn run(&self, events: &Events, cancel: &CancellationToken) -> Result<ServeReport> {
        let Converger { control, .. } = self.converger;
        control.ensure_header(self.header).await?;
        let gateway = DualWrite::new(self.observed(), self.plan);
        let with_gateway = self.plan.capture.mode == CaptureMode::Gateway;
        let stop = cancel.child_token();
        if let Some(listen) = self.monitor {
            let bound = self.parts.metrics.serve(listen, gateway.clone(), stop.clone()).await?;
            events.report(Event::Note(format!("monitor on http://{bound}/metrics")));
        }
        let server = if with_gateway { Some(self.bind(&gateway, events).await?) } else { None };
        let opening = Opening {
            kind: if with_gateway { SessionKind::Gateway } else { SessionKind::Backfill },
            name: self.name,
            plan_hash: self.plan_hash,
            plan: self.plan,
            directory: self.directory,
            authority: None,
        };
        let session = Session::open(control.clone(), Arc::clone(self.converger.clock()), opening).await?;
        gateway.open(session).await?;
        if let Some(server) = &server {
            events.report(Event::Note(format!("gateway on {}", server.base_url())));
        }
        let watching = self.watch(&gateway, &stop);
        let replaying = tokio::spawn(replay_on(
            gateway.clone(),
            (self.converger.clone(), self.plan.source.prefix.clone()),
            (Replay::new(&self.plan.timing), self.parts.metrics.clone()),
            self.plan.timing.renew.0,
            stop.clone(),
        ));
        let following = Following {
            gateway: gateway.clone(),
            converger: self.parts.converger.clone(),
            prefix: self.plan.source.prefix.clone(),
            events: Arc::clone(events),
        };
        let following = tokio::spawn(following.run(stop.clone()));
        let comparing = self.keep_reads(&gateway, &stop);
        let mut report = ServeReport::default();
        self.beside(&gateway, &mut report, events, &stop).await;
        // Writes that are under way may wait for a hold to end, which the watch tells them.
        if let Some(server) = server {
            server.shutdown().await;
        }
        watching.end().await;
        report.replay = replaying.await.unwrap_or_default();
        comparing.await.ok();
        // The tables may be away: what is known is told all the same, and the next start ends the session.
        let ended = async {
            if let Err(error) = gateway.keep_reads(self.name, self.plan_hash).await {
                tracing::warn!(%error, "what was compared last is not kept");
            }
            gateway.close(END_GRACE).await?;
            report.clean = gateway.ended_clean();
            report.intents_left = Some(control.intents().await?.len());
            Ok(())
        };
        if let Err(error) = self.in_time("end the session", ended).await {
            events.report(Event::Warning(error.to_string()));
        }
        following.await.ok();
        if let Some(refused) = gateway.refused() {
            return Err(refused);
        }
        report.gateway = with_gateway.then(|| gateway.counts());
        report.canary = Some(gateway.canary()).filter(|counts| *counts != Counts::default());
        report.compared = Some(gateway.compared()).filter(|reads| *reads != Reads::default());
        Ok(report)
    }

    async fn in_time<T>(&self, what: &'static str, asked: impl Future<Output = Result<T>>) -> Result<T> {
        tokio::select! {
            biased;
            answer = asked => answer,
            () = self.converger.clock().sleep(END_GRACE + END_GRACE / 2) => {
                Err(Error::new(ErrorKind::OutcomeUnknown, what).message("no answer in time"))
            }
        }
    }

    /// The parts, with what goes to the store behind the gateway counted: for clients, and for the mirror.
    fn observed(&self) -> Parts {
        let mut parts = self.parts.clone();
        parts.converger.fetcher.source = self.counted(Arc::clone(&parts.upstream), "mirror");
        parts.upstream = self.counted(parts.upstream, "upstream");
        parts
    }

    fn counted(&self, store: Arc<dyn BlobStore>, side: &'static str) -> Arc<dyn BlobStore> {
        let (clock, metrics) = (Arc::clone(self.converger.clock()), self.parts.metrics.clone());
        Arc::new(Observed { store, clock, metrics, side })
    }

    async fn bind(&self, gateway: &DualWrite, events: &Events) -> Result<Server> {
        let clock = Arc::clone(self.converger.clock());
        let served = self.counted(Arc::new(gateway.clone()), "gateway");
        let server = Server::bind(self.listen, served, self.server.clone(), clock).await?;
        if let Some((listen, identity)) = &self.tls {
            let bound = server.listen_tls(*listen, identity).await?;
            events.report(Event::Note(format!("over TLS on {bound}")));
        }
        let key = server.webhook_public_key().replace('\n', "\\n");
        events.report(Event::Note(format!(
            "callbacks of uploads are signed for BLOB_WEBHOOK_PUBLIC_KEY={key}"
        )));
        Ok(server)
    }

    /// Keeps what is compared in the control table, in a task of its own.
    fn keep_reads(&self, gateway: &DualWrite, stop: &CancellationToken) -> tokio::task::JoinHandle<()> {
        let (gateway, pause, stop) = (gateway.clone(), self.plan.timing.renew.0, stop.clone());
        let (name, plan_hash) = (self.name.to_owned(), self.plan_hash.to_owned());
        tokio::spawn(async move { gateway.keep_reads_every(pause, (&name, &plan_hash), &stop).await })
    }

    /// Watches the mode in a task of its own: it must go on whatever else takes time.
    fn watch(&self, gateway: &DualWrite, stop: &CancellationToken) -> Watching {
        let (gateway, timing, stop) = (gateway.clone(), self.plan.timing.clone(), stop.clone());
        let end = CancellationToken::new();
        let until = end.clone();
        let task = tokio::spawn(async move {
            gateway.watch(&timing, &until).await;
            stop.cancel();
        });
        Watching { task, end }
    }

    /// Backfill, then sweeps, until it is stopped. What fails is told, and tried again.
    async fn beside(
        &self,
        gateway: &DualWrite,
        report: &mut ServeReport,
        events: &Events,
        stop: &CancellationToken,
    ) {
        let mut in_a_row = 0;
        loop {
            let Some(Ok(ticket)) = stop.run_until_cancelled(gateway.0.door.enter_to_work()).await else {
                return;
            };
            let pause = match self.work(&ticket, report, events, stop).await {
                Ok(settled) if settled && in_a_row < SWEEPS_IN_A_ROW_MAX => {
                    in_a_row += 1;
                    continue;
                }
                Ok(_) => self.interval,
                // A hold, or the end.
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                Err(error) => {
                    let hint = error.advice().map(|hint| format!(" ({hint})")).unwrap_or_default();
                    events.report(Event::Warning(format!("{error}; it is tried again{hint}")));
                    FAILED_PAUSE
                }
            };
            in_a_row = 0;
            drop(ticket);
            if stop.run_until_cancelled(self.converger.clock().sleep(pause)).await.is_none() {
                return;
            }
        }
    }

    /// The next piece of work; says whether another one is to follow at once.
    async fn work(
        &self,
        ticket: &Ticket,
        report: &mut ServeReport,
        events: &Events,
        stop: &CancellationToken,
    ) -> Result<bool> {
        let mut permit = ticket.session.permit();
        if ticket.authority == Authority::Source {
            permit = Arc::new(Stopping { permit, stop: stop.clone() });
        }
        let converger = Converger { permit, ..self.converger.clone() };
        report.authority = Some(ticket.authority);
        let first = report.backfill.is_none() && ticket.authority == Authority::Source;
        let mut work = pin!(async {
            if first {
                let loaded =
                    backfill::run(&converger, &self.plan.source.prefix, events, &ticket.pause).await?;
                let evidence = backfill_evidence(&loaded, &converger, self.plan_hash, ticket.epoch);
                converger.control.put_evidence(&evidence).await?;
                return Ok((Some(loaded), None));
            }
            let swept = self.sweep(&converger, ticket, events).await?;
            Ok::<_, crate::error::Error>((None, Some(swept)))
        });
        let done = tokio::select! {
            done = &mut work => done,
            () = stop.cancelled() => {
                ticket.pause.cancel();
                work.await
            }
        };
        let (loaded, swept) = done?;
        if let Some(loaded) = loaded {
            report.backfill = Some(loaded);
            return Ok(true);
        }
        let settled = swept.as_ref().is_some_and(|sweep| sweep.drift.len() > sweep.present_drift().len());
        if let Some(sweep) = swept {
            report.sweeps += 1;
            report.bypassed += sweep.bypassed.len() as u64;
            self.parts.metrics.swept(sweep.bypassed.len(), sweep.present_drift().len());
            events.report(Event::Note(told(report.sweeps, &sweep)));
            self.tell_bypasses(&sweep, events);
            report.last_sweep = Some(sweep);
        }
        Ok(settled)
    }

    fn tell_bypasses(&self, sweep: &SweepReport, events: &Events) {
        let now = self.converger.clock().now();
        for Bypass { pathname, at } in &sweep.bypassed {
            let what = match at {
                Some(at) => format!("written past the gateway {} s ago", now.duration_since(*at).as_secs()),
                None => "deleted past the gateway".to_owned(),
            };
            events.report(Event::Warning(format!("{pathname} was {what}")));
        }
    }

    async fn sweep(&self, converger: &Converger, ticket: &Ticket, events: &Events) -> Result<SweepReport> {
        let sweep = Sweep {
            converger,
            target: &self.plan.target,
            prefix: &self.plan.source.prefix,
            level: self.level,
            repair: true,
            allow_empty: self.plan.validation.allow_empty,
            patience: Duration::from_millis(100),
        };
        let session = &ticket.session.id();
        let report = match ticket.authority {
            Authority::Source => sweep.run(events, &ticket.pause).await?,
            Authority::Target => BackSweep { sweep, session }.run(events, &ticket.pause).await?,
        };
        let row = report.row(names::token(), self.plan_hash, ticket.epoch);
        converger.control.put_sweep(&row).await?;
        Ok(report)
    }
}

fn told(number: u64, sweep: &SweepReport) -> String {
    let (found, left) = (sweep.drift.len(), sweep.present_drift().len());
    match (found, sweep.obstacles().is_empty()) {
        (_, true) => format!("sweep {number}: {} blobs, no differences", sweep.compared),
        (0, false) => format!("sweep {number}: {}", sweep.obstacles().join("; ")),
        _ => format!("sweep {number}: {found} differences, {} settled{}", found - left, named(sweep)),
    }
}

/// The first of what a sweep leaves.
fn named(sweep: &SweepReport) -> String {
    let left = sweep.present_drift();
    let names = left.iter().map(|drift| format!("{} ({})", drift.pathname, drift.kind));
    if left.is_empty() { String::new() } else { format!("; left: {}", first_of(names, NAMED_MAX)) }
}

/// The watch in its task.
struct Watching {
    task: tokio::task::JoinHandle<()>,
    end: CancellationToken,
}

impl Watching {
    async fn end(self) {
        self.end.cancel();
        // A panic of the watch closed nothing: the next process finds an open session, and ends it.
        self.task.await.ok();
    }
}

/// Replays until it is stopped; returns what the last pass found, and how many intents were removed in all.
async fn replay_on(
    gateway: DualWrite,
    (converger, prefix): (Converger, String),
    (mut replay, metrics): (Replay, Metrics),
    pause: Duration,
    stop: CancellationToken,
) -> ReplayReport {
    let mut last = ReplayReport::default();
    loop {
        let Some(Ok(ticket)) = stop.run_until_cancelled(gateway.0.door.enter_to_work()).await else {
            return last;
        };
        let mirroring = Mirroring::from(ticket.authority, &converger, ticket.permit(), &prefix);
        let own = ticket.session.id();
        let pass = replay.pass(&mirroring, &own, |id| gateway.0.at_work.contains(id));
        // What it leaves half done keeps its intent.
        // Towards Blob each converge ends by itself when it is to leave, with what it sent brought to its end.
        let cut = match ticket.authority {
            Authority::Source => &ticket.pause,
            Authority::Target => &ticket.leave,
        };
        match cut.run_until_cancelled(stop.run_until_cancelled(pass)).await.flatten() {
            Some(Ok(report)) => {
                metrics.replayed(report.in_doubt);
                last = ReplayReport { cleared: last.cleared + report.cleared, ..report };
            }
            Some(Err(error)) => tracing::debug!(%error, "a replay failed"),
            None => {}
        }
        drop(ticket);
        if stop.run_until_cancelled(converger.clock().sleep(pause)).await.is_none() {
            return last;
        }
    }
}
