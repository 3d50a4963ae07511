//! `migrate cutover --drill`: the cutover and the way back, exercised by the very commands that do it, on data of its own.

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, bail, ensure};
use clap::ValueEnum;
use secrecy::ExposeSecret as _;
use serde::Serialize;
use serde_json::Value as Json;

use super::context::Context;
use super::flags::TargetChoice;
use super::output::Report;
use super::rehearsal::{Gateway, Record, Written};
use super::stores::Stores;
use crate::blob::space::{BlobSpace, DRILLS};
use crate::blob::store::PutOptions;
use crate::blob::{BlobStore, Fetched, Fetcher, ListRequest, Pathname};
use crate::cutover::Cutover;
use crate::error::{Error, ErrorKind, Exit};
use crate::gate::rollback_drilled;
use crate::plan::Plan;
use crate::protocol::phase::{Authority, Epoch, Phase};
use crate::target::control::{Control, SessionState};
use crate::target::space::TargetSpace;

/// The part of both stores that a drill works in. One at a time: what a killed one left, the next one removes.
const SPACE: &str = "drill";
/// How many blobs it begins with.
const BLOBS: usize = 40;
/// So many times its application writes and reads in a phase that nothing else happens in.
const WRITES: usize = 40;
/// So many of those reads must have been compared.
const READS: u64 = 20;

/// What a drill is held against.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum, Serialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Drill {
    /// Both stores, in a part of their own: `migrate-drill/` in Blob, one partition of each table.
    Stores,
    /// What the snapshot holds, by the plan's own rules, with both stores on this machine.
    Snapshot,
}

#[derive(Debug, Serialize)]
struct DrillReport {
    command: &'static str,
    drill: Drill,
    /// Writes of its application, none of which failed.
    writes: usize,
    /// How long writes were held by the flips there and back, in milliseconds.
    pauses_ms: [u64; 2],
    /// The slowest write, in milliseconds.
    slowest_ms: u64,
    seconds: f64,
    summary: String,
}

pub(super) async fn run(
    drill: Drill,
    context: &Context,
    stores: &Stores,
    flipping: &Cutover<'_>,
) -> anyhow::Result<Exit> {
    let began = context.clock.monotonic();
    let control = &stores.converger.control;
    let mode = control.mode().await?;
    let phase = mode.as_ref().map_or(Phase::Capture, |mode| mode.phase);
    if phase.authority() != Authority::Source {
        return Err(Error::new(ErrorKind::WrongPhase, "drill the way back")
            .message(format!("in phase {phase} it is too late for a drill: it is for before the cutover"))
            .into());
    }
    let epoch = mode.map_or(Epoch(1), |mode| mode.epoch);
    control.ensure_header(&stores.header).await?;
    let place = match drill {
        Drill::Stores => Place::beside(context, stores).await?,
        Drill::Snapshot => Place::apart(context, stores).await?,
    };
    let played = play(&place, context).await;
    let cleared = place.clear().await;
    if context.cancel.is_cancelled() {
        // What was broken off proves nothing, and takes nothing back.
        return Err(Error::new(ErrorKind::Interrupted, "drill the way back").message("interrupted").into());
    }
    let kept = match &played {
        Ok(played) => (played.in_words(drill), Vec::new()),
        Err(error) => ("the drill failed".to_owned(), vec![format!("{error:#}")]),
    };
    rollback_drilled::keep(control, kept.clone(), &stores.plan_hash, epoch, context.clock.now()).await?;
    flipping
        .keep_word(format!("drill: {}", [std::slice::from_ref(&kept.0), &kept.1].concat().join(": ")))
        .await?;
    let Played { written, pauses_ms } = played.map_err(|error| {
        Error::new(ErrorKind::GateClosed, "drill the way back")
            .message(format!("{error:#}"))
            .hint("the gate rollback-drilled stays closed; `migrate status --audit` keeps what happened")
    })?;
    cleared?;
    context.output.report(&DrillReport {
        command: "cutover",
        drill,
        writes: written.count,
        pauses_ms,
        slowest_ms: u64::try_from(written.slowest.as_millis()).unwrap_or(u64::MAX),
        seconds: (context.clock.monotonic() - began).as_secs_f64(),
        summary: kept.0,
    })?;
    Ok(Exit::Done)
}

/// What a drill came to.
struct Played {
    written: Written,
    pauses_ms: [u64; 2],
}

impl Played {
    fn in_words(&self, drill: Drill) -> String {
        let [there, back] = self.pauses_ms;
        let on = match drill {
            Drill::Stores => "against both stores",
            Drill::Snapshot => "with the snapshot, on this machine",
        };
        format!(
            "there and back {on}: {} writes, none failed, none lost; writes were held for {there} and {back} ms",
            self.written.count
        )
    }
}

/// There and back, with an application that writes all the time.
async fn play(place: &Place<'_>, context: &Context) -> anyhow::Result<Played> {
    if place.provisions {
        place.step(&["provision"]).await?;
    }
    place.step(&["export"]).await?;
    let gateway = place.gateway(context).await?;
    place.step(&["cutover", "--to", "shadow", "--yes"]).await?;
    let mut written = place.visit(&gateway).await?;
    clean(&place.step(&["validate", "--sweeps", "2"]).await?)?;
    let canary = ["cutover", "--to", "canary", "--percent", "50", "--wait", "--yes"];
    written.add(place.under_load(&gateway, &canary).await?.1);
    clean(&place.step(&["validate", "--sweeps", "2"]).await?)?;
    let (there, during) =
        place.under_load(&gateway, &["cutover", "--to", "cutover", "--wait", "--yes"]).await?;
    written.add(during);
    written.add(place.visit(&gateway).await?);
    clean(&place.step(&["validate"]).await?)?;
    let (back, during) = place.under_load(&gateway, &["cutover", "--rollback", "--yes"]).await?;
    written.add(during);
    written.add(place.visit(&gateway).await?);
    tokio::task::spawn_blocking(move || drop(gateway)).await.context("stop the gateway")?;
    place.step(&["dual-write", "--once"]).await?;
    clean(&place.step(&["validate"]).await?)?;
    place.check(&written).await?;
    let pause = |report: &Json| report["flip"]["pause_ms"].as_u64().unwrap_or_default();
    Ok(Played { written, pauses_ms: [pause(&there), pause(&back)] })
}

fn clean(report: &Json) -> anyhow::Result<()> {
    ensure!(report["clean"] == true, "the stores differ: {}", report["obstacles"]);
    Ok(())
}

/// Where a drill takes place.
struct Place<'a> {
    context: &'a Context,
    /// Of the commands: plan, snapshot and lock files.
    directory: tempfile::TempDir,
    /// What every command gets.
    arguments: Vec<String>,
    variables: Vec<(&'static str, Option<String>)>,
    token: String,
    /// Whether the tables are made first.
    provisions: bool,
    /// What its application writes, in turn.
    records: Arc<dyn Fn(usize) -> Record + Send + Sync>,
    /// Reads what Blob holds in the end.
    fetcher: Fetcher,
    space: Option<TargetSpace>,
    #[cfg(feature = "embedded")]
    server: Option<crate::blob::server::Server>,
}

impl<'a> Place<'a> {
    /// In a part of both stores.
    async fn beside(context: &'a Context, stores: &Stores) -> anyhow::Result<Self> {
        let plan = &stores.plan.plan;
        let store: Arc<dyn BlobStore> =
            Arc::new(BlobSpace::new(Arc::clone(stores.converger.source()), SPACE));
        let target = Arc::clone(stores.converger.control.store());
        let space = || TargetSpace::new(Arc::clone(&target), &plan.target, SPACE);
        nobody_else(&Control::new(Arc::new(space())), context, plan.timing.lease.0).await?;
        let directory = tempfile::tempdir().context("make a temporary folder")?;
        std::fs::write(directory.path().join("migration-plan.md"), plan_of(plan)?)
            .context("write the drill's plan")?;
        let mut arguments = vec!["--space".to_owned(), SPACE.to_owned()];
        arguments.extend(["--target".to_owned(), target_of(&context.flags.target)?]);
        if let Some(url) = &context.flags.source_url {
            arguments.extend(["--source-url".to_owned(), url.expose().to_owned()]);
        }
        let (access, url) = (plan.source.access, plan.source.url.clone());
        if let (None, Some(url)) = (&context.flags.source_url, url) {
            arguments.extend(["--source-url".to_owned(), url.expose().to_owned()]);
        }
        let place = Self {
            context,
            directory,
            arguments,
            variables: vec![("RUST_LOG", None)],
            token: context.environment.token()?.expose_secret().to_owned(),
            provisions: false,
            records: Arc::new(move |number| synthetic(number, access)),
            fetcher: Fetcher { source: Arc::clone(&store), ..stores.converger.fetcher.clone() },
            space: Some(space()),
            #[cfg(feature = "embedded")]
            server: None,
        };
        // What one that was killed left.
        place.clear().await?;
        let options = PutOptions { access: Some(access), allow_overwrite: true, ..PutOptions::default() };
        for number in 0..BLOBS {
            let Record { pathname, body, .. } = synthetic(number, access);
            store.put(&pathname.as_str().into(), body.into(), &options).await?;
        }
        Ok(place)
    }

    #[cfg(not(feature = "embedded"))]
    #[expect(clippy::unused_async, reason = "as with the feature")]
    async fn apart(_context: &'a Context, _stores: &Stores) -> anyhow::Result<Self> {
        Err(Error::new(ErrorKind::Usage, "drill the way back")
            .message("this build of migrate has no embedded engine")
            .hint("`--drill stores` needs none")
            .into())
    }

    /// With what the snapshot holds, by the plan itself, all on this machine.
    #[cfg(feature = "embedded")]
    async fn apart(context: &'a Context, stores: &Stores) -> anyhow::Result<Self> {
        use crate::blob::memory::{MemoryBlob, MemoryConfig};
        use crate::blob::server::{Server, ServerConfig};
        use crate::clock::Clock;
        use bytes::Bytes;

        let Some(snapshot) = stores.snapshot() else {
            return Err(Error::new(ErrorKind::Usage, "drill the way back")
                .message("there is no snapshot to drill with")
                .hint("run `migrate export` first, or drill with `--drill stores`")
                .into());
        };
        let plan = &stores.plan.plan;
        let directory = tempfile::tempdir().context("make a temporary folder")?;
        std::fs::copy(&stores.plan.path, directory.path().join("migration-plan.md"))
            .context("copy the plan")?;
        let token = format!("vercel_blob_rw_{SPACE}_onlyForDrills");
        let clock: Arc<dyn Clock> = Arc::clone(&context.clock);
        let access = plan.source.access;
        let config = MemoryConfig { store_id: SPACE.to_owned(), access, ..MemoryConfig::default() };
        let store = MemoryBlob::open(config, Arc::clone(&clock), &directory.path().join("blobs"))?;
        let mapper = &stores.converger.mapper;
        let (mut after, mut records) = (None, Vec::new());
        loop {
            let page = snapshot.blobs(after.as_ref(), 500).await?;
            let Some(last) = page.last() else { break };
            after = Some(last.pathname.clone());
            for blob in page {
                let Some(held) = &blob.body else { continue };
                let Some(body) = snapshot.body(&blob.pathname, &held.etag).await? else { continue };
                let options = PutOptions {
                    access: Some(access),
                    content_type: Some(held.content_type.clone()),
                    ..PutOptions::default()
                };
                let entity = matches!(mapper.rule(&blob.pathname), crate::mapping::Rule::Entity(_));
                if let Some(bytes) =
                    body.in_memory().filter(|_| entity && held.size < 64 * 1024 && records.len() < BLOBS)
                {
                    records.push((
                        blob.pathname.as_str().to_owned(),
                        held.content_type.clone(),
                        bytes.clone(),
                    ));
                }
                store.put_at(&blob.pathname, body.bytes()?, &options, blob.version.uploaded_at).await?;
            }
        }
        if records.is_empty() {
            return Err(Error::new(ErrorKind::Usage, "drill the way back")
                .message(
                    "the snapshot holds no blob of an entity, of at most 64 KB, that could be written again",
                )
                .hint("`--drill stores` makes its own")
                .into());
        }
        let source: Arc<dyn BlobStore> = Arc::new(store);
        let address = (std::net::Ipv4Addr::LOCALHOST, 0).into();
        let config = ServerConfig { access, ..ServerConfig::new(token.clone().into()) };
        let server = Server::bind(address, Arc::clone(&source), config, clock).await?;
        let mut arguments = vec!["--target".to_owned(), "embedded".to_owned()];
        arguments.extend(["--source-url".to_owned(), server.base_url()]);
        let overrides = [
            "capture.mode=gateway",
            "timing.no_foreign=1s",
            "gates.rollback-drilled.required=false",
            &format!("gates.shadow-reads.min_reads={READS}"),
        ];
        let given = context.flags.overrides.iter().map(String::as_str);
        arguments.extend(given.chain(overrides).flat_map(|set| ["--set".to_owned(), set.to_owned()]));
        let removed = ["DYNAMODB_TABLE_NAME", "DYNAMODB_ENDPOINT", "AWS_ENDPOINT_URL_DYNAMODB", "RUST_LOG"];
        let mut variables: Vec<(&'static str, Option<String>)> = removed.map(|name| (name, None)).into();
        variables.push(("BLOB_READ_WRITE_TOKEN", Some(token.clone())));
        let records = Arc::new(move |number: usize| {
            let (pathname, content_type, body): &(String, String, Bytes) = &records[number % records.len()];
            let (pathname, content_type, body) = (pathname.clone(), content_type.clone(), body.clone());
            Record { pathname, content_type, access, body }
        });
        Ok(Self {
            context,
            directory,
            arguments,
            variables,
            token,
            provisions: true,
            records,
            fetcher: Fetcher { source, ..stores.converger.fetcher.clone() },
            space: None,
            server: Some(server),
        })
    }

    fn command(&self, arguments: &[&str]) -> anyhow::Result<Command> {
        let mut command = Command::new(std::env::current_exe().context("find this program")?);
        command.args(arguments).args(&self.arguments).args(["--color", "never"]);
        command.current_dir(self.directory.path());
        for (name, value) in &self.variables {
            match value {
                Some(value) => command.env(name, value),
                None => command.env_remove(name),
            };
        }
        Ok(command)
    }

    /// Runs one command as a user would; what it found.
    async fn step(&self, arguments: &[&str]) -> anyhow::Result<Json> {
        self.context.interruptible("drill the way back", std::future::ready(Ok(()))).await?;
        let shown = arguments.iter().filter(|argument| **argument != "--yes").copied().collect::<Vec<_>>();
        let shown = format!("migrate {}", shown.join(" "));
        self.context.output.note(format_args!("drill      {shown}"));
        let mut command =
            self.command(&[arguments, &["--drill-step", "--output", "json", "--quiet"]].concat())?;
        let output =
            tokio::task::spawn_blocking(move || command.output()).await.context("wait for the step")??;
        let told = String::from_utf8_lossy(&output.stdout).into_owned();
        let report: Json = serde_json::from_str(&told).unwrap_or_default();
        if output.status.success() {
            return Ok(report);
        }
        let why = match report["error"]["message"].as_str() {
            Some(message) => message.to_owned(),
            None => {
                closed(&report).unwrap_or_else(|| String::from_utf8_lossy(&output.stderr).trim().to_owned())
            }
        };
        bail!("`{shown}` ended with {}: {why}", output.status)
    }

    async fn gateway(&self, context: &Context) -> anyhow::Result<Gateway> {
        let arguments = ["dual-write", "--listen", "127.0.0.1:0", "--name", SPACE];
        context.output.note(format_args!("drill      migrate {} &", arguments[..3].join(" ")));
        let command = self.command(&arguments)?;
        tokio::task::spawn_blocking(move || Gateway::start(command, |_| {}))
            .await
            .context("wait for the gateway")?
    }

    fn record(&self) -> impl Fn(usize) -> Record + Send + use<> {
        let records = Arc::clone(&self.records);
        move |number| records(number)
    }

    /// The application writes and reads for a while.
    async fn visit(&self, gateway: &Gateway) -> anyhow::Result<Written> {
        let application = gateway.application(&self.token, WRITES, self.record());
        tokio::task::spawn_blocking(move || application.end()).await.context("wait for the application")?
    }

    /// The same while a step is taken.
    async fn under_load(&self, gateway: &Gateway, arguments: &[&str]) -> anyhow::Result<(Json, Written)> {
        let application = gateway.application(&self.token, usize::MAX, self.record());
        let stepped = self.step(arguments).await;
        let written = tokio::task::spawn_blocking(move || application.stop())
            .await
            .context("wait for the application")?;
        Ok((stepped?, written?))
    }

    /// What was written last is what Blob holds in the end.
    async fn check(&self, written: &Written) -> anyhow::Result<()> {
        for (name, body) in &written.last {
            let pathname = Pathname::from(name.as_str());
            let head = self.fetcher.source.head(&pathname).await?;
            let head = head.with_context(|| format!("{name} was written, and is not in Blob"))?;
            let fetched = self.fetcher.fetch(&pathname, &head.blob.etag, head.blob.size).await?;
            let Fetched::Body { body: found, .. } = fetched else {
                bail!("{name} changed, and nobody writes")
            };
            ensure!(found.bytes()? == *body, "Blob holds something else under {name} than was written last");
        }
        Ok(())
    }

    /// Removes what is left of it.
    async fn clear(&self) -> anyhow::Result<()> {
        #[cfg(feature = "embedded")]
        if self.server.is_some() {
            return Ok(());
        }
        let source = &self.fetcher.source;
        loop {
            let page = source.list(&ListRequest::default()).await?;
            let names: Vec<Pathname> = page.blobs.into_iter().map(|blob| blob.pathname).collect();
            if names.is_empty() {
                break;
            }
            source.delete(&names, None).await?;
        }
        if let Some(space) = &self.space {
            space.clear().await?;
        }
        Ok(())
    }
}

/// The gates that kept a step away.
fn closed(report: &Json) -> Option<String> {
    let gates = report["standing"]["gates"].as_array()?;
    let closed = gates.iter().filter(|gate| gate["open"] == false);
    Some(
        closed
            .map(|gate| format!("{} is closed: {}", gate["gate"], gate["summary"]))
            .collect::<Vec<_>>()
            .join("; "),
    )
}

/// Refuses where another drill is at work.
async fn nobody_else(control: &Control, context: &Context, lease: Duration) -> anyhow::Result<()> {
    let now = context.clock.now();
    let recent = |at: jiff::Timestamp| now.duration_since(at).unsigned_abs() < lease * 2;
    let sessions = control.sessions().await?;
    let running = sessions.iter().find(|session| {
        session.state == SessionState::Open && recent(session.renewed.unwrap_or(session.began))
    });
    match running {
        None => Ok(()),
        Some(session) => Err(Error::new(ErrorKind::Busy, "drill the way back")
            .message(format!("another drill is at work: {} ({})", session.name, session.kind))
            .hint("wait for it; if it was killed, wait until its lease is over")
            .into()),
    }
}

/// A blob that the drill's own plan maps; another one each time.
fn synthetic(number: usize, access: crate::blob::store::Access) -> Record {
    let body = format!(r#"{{"id": {}, "written": {number}, "text": "{}"}}"#, number % BLOBS, "x".repeat(200));
    Record {
        pathname: format!("r/{}.json", number % BLOBS),
        content_type: "application/json".to_owned(),
        access,
        body: body.into(),
    }
}

/// The table as its child processes find it, whose folder is another.
fn target_of(target: &TargetChoice) -> anyhow::Result<String> {
    Ok(match target {
        TargetChoice::Aws => "aws".to_owned(),
        TargetChoice::Embedded(file) => format!("embedded:{}", absolute(file)?.display()),
    })
}

fn absolute(file: &Path) -> anyhow::Result<PathBuf> {
    std::path::absolute(file).with_context(|| format!("find {}", file.display()))
}

/// The plan of a drill: the same stores, windows and table, one entity of its own.
fn plan_of(plan: &Plan) -> anyhow::Result<String> {
    let mut own: BTreeMap<&str, toml::Value> = BTreeMap::new();
    let source = crate::plan::SourcePlan { prefix: String::new(), url: None, ..plan.source.clone() };
    let no_foreign = crate::plan::Span(Duration::from_secs(1));
    let timing = crate::plan::TimingPlan { no_foreign, ..plan.timing.clone() };
    own.insert("source", toml::Value::try_from(source)?);
    own.insert("target", toml::Value::try_from(&plan.target)?);
    own.insert("timing", toml::Value::try_from(timing)?);
    let (partition, sort) = (&plan.target.partition_key, &plan.target.sort_key);
    let blocks = toml::to_string(&own)?;
    Ok(format!(
        "# A drill\n\nThe blobs below `{DRILLS}{SPACE}/` and one partition of each table.\n\n```toml migrate\n{blocks}\n\
         [gates.shadow-reads]\nmin_reads = {READS}\n\n[gates.rollback-drilled]\nrequired = false\n\n\
         [[entity]]\nname = \"record\"\nblobs = \"r/{{id}}.json\"\n[[entity.item]]\n\
         {partition} = \"R#{{{{ id }}}}\"\n{sort} = \"META\"\n```\n"
    ))
}

impl Report for DrillReport {
    fn human(&self, text: &mut dyn fmt::Write) -> fmt::Result {
        let [there, back] = self.pauses_ms;
        writeln!(text, "drilled    there and back in {:.0} s: everything ended as it had to", self.seconds)?;
        writeln!(
            text,
            "           {} writes, none failed, none lost; held for {there} ms and {back} ms, the slowest took {} ms",
            self.writes, self.slowest_ms
        )?;
        writeln!(text, "result     gate rollback-drilled is open")
    }
}
