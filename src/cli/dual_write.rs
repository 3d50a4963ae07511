//! `migrate dual-write`: loads the mirror, and keeps it equal.

use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;

use http::HeaderValue;
use indicatif::HumanCount;
use secrecy::ExposeSecret as _;
use serde::Serialize;

use super::context::Context;
use super::flags::BudgetFlags;
use super::output::Report;
use super::serving::{self, DelegationFlags, TlsFlags};
use super::settings;
use super::stores::{Asked, Stores};
use super::validate::{write_coverage, write_drift};
use crate::blob::server::{ServerConfig, UrlForm};
use crate::blob::wire::header;
use crate::blob::{BlobStore, Fetcher, ListRequest};
use crate::converge::Converger;
use crate::dual_write::gateway::Parts;
use crate::dual_write::metrics::Metrics;
use crate::dual_write::once::{Once, OnceReport};
use crate::dual_write::serve::{Serve, ServeReport};
use crate::error::{Error, ErrorKind, Exit};
use crate::plan::Span;
use crate::protocol::phase::Authority;
use crate::sweep::Level;

/// Keep DynamoDB equal to Blob while the application writes
///
/// Serves a gateway on `--listen` that speaks Vercel's Blob API: point the application's VERCEL_BLOB_API_URL
/// at it. Each write to a blob that an entity of the plan maps is noted in the control table, passed on to
/// Blob, answered, and mirrored into DynamoDB; everything else passes untouched. An outage of DynamoDB stops
/// no write: it is caught up with afterwards. Beside it, every blob is loaded, then both stores are compared
/// every `--interval`, and what differs is settled. Writes whose outcome nobody saw are settled too, also those
/// of a gateway that died. It runs until Ctrl-C or SIGTERM: then no request is taken any more, and those that
/// run have ten seconds. Several gateways may run, each with a `--name` of its own. Where the plan says `mode =
/// "follow"` under [capture], there is no gateway, and sweeps alone find what changed.
///
/// The official client's `get()` asks Vercel's content hosts whatever that variable says. So that content comes
/// through the gateway too, let their names resolve to `--tls-listen`, with a certificate of `migrate gateway-cert`;
/// or let the application read the URLs that the gateway gives with `--url-form gateway`. The gateway issues
/// signed tokens and URLs of its own, and sends the callbacks of uploads: it says at the start which
/// BLOB_WEBHOOK_PUBLIC_KEY the application then needs.
///
/// With `--once` there is no gateway: it loads, sweeps until a sweep finds nothing, and stops. It may run at
/// any time and any number of times; a rerun writes only what changed. Bodies come from the snapshot where it
/// holds the version that the store has now, else from the store. Items that are not this program's are
/// never overwritten. Afterwards `migrate validate` proves the result and `migrate status` shows what is left.
///
/// With `--output json`, at the end: {"command": "dual-write", "gateway": {"written", "refused", "in_doubt": writes
/// whose outcome nobody was told, "unnoted", "kept", "passed"}, "compared": reads compared with DynamoDB in phase
/// shadow, {"compared", "mismatches", "stale", "moving", "errors", "dropped", "source_us", "target_us"} or null,
/// "canary": {"answered", "behind", "errors", "mismatches"} of its keys' reads or null, "backfill", "sweeps": how many,
/// "bypassed": changes past the gateway, "last_sweep" (as in `validate`), "replay": {"at_work", "in_doubt", "cleared"},
/// "intents_left": writes to be settled yet, or null where the control table could not be asked, "clean",
/// "operations", "requests"}.
/// With `--once`: {"command": "dual-write", "settled", "backfill": {"mapped", "written", "equal",
/// "ignored", "accepted", "quarantined": [pathname], "unmapped", "failed": [[pathname, why]]}, "sweeps": [as
/// in `validate`], "replay", "operations": {"simple", "advanced"} asked of Blob, "requests" sent to DynamoDB,
/// "next"}.
///
/// Exit codes: 0 both stores are equal, or the gateway was stopped in good order; 3 some pathnames failed or
/// can't be mapped, the first load was not finished, writes are left to be settled, or the control table was out of
/// reach at the end; 5 differences remain; 6 DynamoDB is the authority already, or another dual-write of this name
/// runs.
#[derive(Debug, clap::Args)]
#[command(after_long_help = "Examples:
  migrate dual-write --once --target embedded
  migrate dual-write --listen 127.0.0.1:8789 --name blue")]
pub(crate) struct DualWrite {
    /// Load and sweep once, then stop; no gateway
    #[arg(long, conflicts_with_all = ["tls_listen", "oidc_token", "oidc_keys", "allowed_origins"])]
    once: bool,

    /// Show what the run would read and what differs now; write nothing
    #[arg(long)]
    dry_run: bool,

    /// Where the gateway listens; port 0 takes a free one
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:8789", conflicts_with = "once")]
    listen: SocketAddr,

    /// The name of this gateway: letters, digits, `-`, `_` and `.`. No other process anywhere may have it; a
    /// restart under the same name ends what a killed one left open
    #[arg(long, value_name = "NAME", conflicts_with = "once", value_parser = name)]
    name: Option<String>,

    /// How long after a sweep the next one begins; the plan's `timing.sweep_interval` by default
    #[arg(long, value_name = "DURATION", conflicts_with = "once", value_parser = interval)]
    interval: Option<Span>,

    /// Where a monitor may ask for `/metrics` (Prometheus), `/healthz` and `/readyz`; port 0 takes a free one
    #[arg(long, value_name = "ADDR", conflicts_with = "once")]
    monitor: Option<SocketAddr>,

    /// The URLs of blobs in the gateway's answers: on Vercel's content hosts, or on the gateway itself; by
    /// default the latter only where Blob is on this machine
    #[arg(long, value_name = "FORM", conflicts_with = "once")]
    url_form: Option<Urls>,

    #[command(flatten)]
    budget: BudgetFlags,

    #[command(flatten)]
    delegation: DelegationFlags,

    #[command(flatten)]
    tls: TlsFlags,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Urls {
    Canonical,
    Gateway,
}

fn name(text: &str) -> Result<String, String> {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
    let fits = (1..=64).contains(&text.len()) && text.bytes().all(plain) && !text.starts_with('.');
    fits.then(|| text.to_owned())
        .ok_or_else(|| "a name is 1 to 64 letters, digits, `-`, `_` and `.`".to_owned())
}

/// Each sweep lists the whole store, which Vercel bills.
fn interval(text: &str) -> Result<Span, String> {
    let span = Span::try_from(text.to_owned())?;
    if span.0.is_zero() {
        Err("sweeps without a pause would list the store all the time; say `10m`".to_owned())
    } else {
        Ok(span)
    }
}

#[derive(Debug, Serialize)]
struct DualWriteReport<'a> {
    command: &'static str,
    settled: bool,
    #[serde(flatten)]
    once: &'a OnceReport,
    #[serde(flatten)]
    asked: Asked,
    next: &'static str,
}

pub(crate) async fn run(args: &DualWrite, context: &Context) -> anyhow::Result<Exit> {
    let stores = Stores::open(context).await?;
    stores.bound(args.budget);
    if args.dry_run {
        context.output.note("dry run: the stores are compared, nothing is written");
        return super::validate::look(context, &stores, Level::Inventory).await;
    }
    stores.keep_export_evidence().await?;
    if !args.once {
        return serve(args, context, &stores).await;
    }
    let once = Once {
        converger: &stores.converger,
        plan: &stores.plan.plan,
        plan_hash: &stores.plan_hash,
        header: &stores.header,
        level: stores.affordable_level(),
        name: &stores.session_name("dual-write")?,
        directory: &stores.directory,
    };
    let report = Box::pin(once.run(&context.events, &context.cancel)).await?;
    let settled = report.settled();
    let next = if settled { "migrate validate" } else { "settle what is listed, then run this again" };
    context.output.report(&DualWriteReport {
        command: "dual-write",
        settled,
        once: &report,
        asked: stores.asked(),
        next,
    })?;
    let remaining = report.sweeps.last().is_some_and(|sweep| !sweep.present_drift().is_empty());
    Ok(match (report.backfill.complete() && report.backfill.quarantined.is_empty(), settled, remaining) {
        (false, ..) => Exit::SomeKeysFailed,
        (true, true, _) => Exit::Done,
        (true, false, _) => Exit::DriftFound,
    })
}

/// The gateway, and what runs beside it, until it is stopped.
async fn serve(args: &DualWrite, context: &Context, stores: &Stores) -> anyhow::Result<Exit> {
    let plan = &stores.plan.plan;
    if context.flags.drill_step {
        super::interrupt::with_parent(context.cancel.clone());
    }
    let tls = args.tls.load()?;
    serving::warn_of_plain_text(args.listen, context);
    let upstream = context.within(context.forwarder()? as Arc<dyn BlobStore>);
    let first = ListRequest { prefix: plan.source.prefix.clone(), limit: Some(1), ..ListRequest::default() };
    match upstream.list(&first).await {
        // A store that is out of reach comes back; a wrong token or URL does not become right.
        Err(error) if !matches!(error.kind(), ErrorKind::NotApplied | ErrorKind::Throttled { .. }) => {
            return Err(error.into());
        }
        Err(error) => context.output.warning(format_args!("{error}; the gateway starts all the same")),
        Ok(_) => {}
    }
    let fetcher = Fetcher { source: Arc::clone(&upstream), ..stores.converger.fetcher.clone() };
    let (server, on_gateway) = server(args, context)?;
    serving::raise_open_files(server.connections_max, context);
    let parts = Parts {
        upstream,
        converger: Converger { fetcher, ..stores.converger.clone() },
        events: Arc::clone(&context.events),
        canonical: (!on_gateway).then(|| (server.store_id.clone(), server.access)),
        metrics: Metrics::default(),
    };
    let serve = Serve {
        parts,
        converger: &stores.converger,
        plan,
        plan_hash: &stores.plan_hash,
        header: &stores.header,
        level: stores.affordable_level(),
        interval: args.interval.unwrap_or(plan.timing.sweep_interval).0,
        name: &args.name.clone().map_or_else(|| stores.session_name("gateway"), Ok)?,
        directory: &stores.directory,
        listen: args.listen,
        server,
        tls,
        monitor: args.monitor,
    };
    let report = Box::pin(serve.run(&context.events, &context.cancel)).await?;
    let loaded = report.backfill.is_some() || report.authority == Some(Authority::Target);
    let good = report.clean && report.intents_left == Some(0) && loaded;
    context.output.report(&ServedReport { command: "dual-write", served: &report, asked: stores.asked() })?;
    Ok(if good { Exit::Done } else { Exit::SomeKeysFailed })
}

/// How the gateway serves, and whether URLs are its own.
fn server(args: &DualWrite, context: &Context) -> Result<(ServerConfig, bool), Error> {
    let settings = context.settings()?;
    let on_gateway = match args.url_form {
        Some(form) => form == Urls::Gateway,
        None => settings::is_loopback(&settings.source.url),
    };
    let mut config = ServerConfig::new(context.environment.token()?.expose_secret().into());
    config.access = settings.plan.source.access;
    config.oidc = args.delegation.oidc()?;
    config.allowed_origins.clone_from(&args.delegation.allowed_origins);
    config.url_form = if on_gateway { UrlForm::Local } else { UrlForm::Canonical };
    let version = HeaderValue::from_static(env!("CARGO_PKG_VERSION"));
    config.extra_headers.insert(header::GATEWAY, version);
    Ok((config, on_gateway))
}

#[derive(Debug, Serialize)]
struct ServedReport<'a> {
    command: &'static str,
    #[serde(flatten)]
    served: &'a ServeReport,
    #[serde(flatten)]
    asked: Asked,
}

impl Report for ServedReport<'_> {
    fn human(&self, text: &mut dyn fmt::Write) -> fmt::Result {
        let ServeReport {
            gateway,
            compared,
            canary,
            authority,
            backfill,
            sweeps,
            bypassed,
            replay,
            intents_left,
            clean,
            ..
        } = self.served;
        if let Some(counts) = gateway {
            let [written, refused, in_doubt, unnoted] =
                [counts.written, counts.refused, counts.in_doubt, counts.unnoted].map(HumanCount);
            writeln!(
                text,
                "gateway    {written} writes, {refused} refused, {in_doubt} without an outcome, {unnoted} without notes"
            )?;
        }
        if let Some(reads) = compared {
            let [compared, mismatches] = [reads.compared, reads.mismatches].map(HumanCount);
            writeln!(
                text,
                "compared   {compared} reads, {mismatches} of which DynamoDB would have answered otherwise"
            )?;
        }
        if let Some(canary) = canary {
            let [answered, behind, errors, mismatches] =
                [canary.answered, canary.behind, canary.errors, canary.mismatches].map(HumanCount);
            writeln!(
                text,
                "canary     {answered} reads answered by DynamoDB, {mismatches} wrong; {behind} behind, {errors} failed"
            )?;
        }
        match backfill {
            Some(loaded) => writeln!(text, "backfill   {} blobs", HumanCount(loaded.mapped))?,
            None if *authority == Some(Authority::Target) => {
                writeln!(text, "authority  DynamoDB: Blob is the mirror")?;
            }
            None => writeln!(text, "backfill   not finished: the next `migrate dual-write` goes on with it")?,
        }
        let past = HumanCount(*bypassed);
        writeln!(text, "sweeps     {}; {past} changes went past the gateway", HumanCount(*sweeps))?;
        writeln!(text, "replay     {} intents removed", HumanCount(replay.cleared))?;
        match intents_left {
            Some(0) => {}
            Some(left) => {
                writeln!(text, "unsettled  {left} writes: the next `migrate dual-write` settles them")?;
            }
            None => writeln!(text, "unsettled  unknown: the control table can't be reached")?,
        }
        let ended =
            if *clean { "clean" } else { "unclean: sweeps count only after the plan's `timing.settle`" };
        writeln!(text, "session    ended {ended}")?;
        self.asked.write(text)
    }
}

impl Report for DualWriteReport<'_> {
    fn human(&self, text: &mut dyn fmt::Write) -> fmt::Result {
        let backfill = &self.once.backfill;
        writeln!(
            text,
            "backfill   {} blobs: {} written, {} equal already; {} ignored, {} accepted",
            HumanCount(backfill.mapped),
            HumanCount(backfill.written),
            HumanCount(backfill.equal),
            HumanCount(backfill.ignored),
            HumanCount(backfill.accepted)
        )?;
        for (pathname, why) in &backfill.failed {
            writeln!(text, "  failed       {pathname}: {why}")?;
        }
        for pathname in &backfill.quarantined {
            writeln!(text, "  quarantined  {pathname}")?;
        }
        for (pathname, why) in &backfill.unmapped {
            writeln!(text, "  unmapped     {pathname}: {why}")?;
        }
        for (number, sweep) in (1..).zip(&self.once.sweeps) {
            let found = sweep.drift.len();
            let left = sweep.present_drift().len();
            writeln!(text, "sweep {number}    {found} differences, {} settled", found - left)?;
        }
        let replay = self.once.replay;
        if replay.in_doubt + replay.cleared > 0 {
            writeln!(
                text,
                "in doubt   {} writes through gateways, {} settled",
                replay.in_doubt, replay.cleared
            )?;
        }
        if let Some(sweep) = self.once.sweeps.last() {
            write_coverage(text, sweep)?;
            write_drift(text, sweep.present_drift())?;
        }
        self.asked.write(text)?;
        writeln!(text, "next       {}", self.next)
    }
}
