//! `migrate demo`: a whole migration, on this machine, as a user would run it.
//!
//! The Blob server runs in this process; every step is this program again, started with the command line
//! that is shown. Nothing leaves the machine.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;

use anyhow::{Context as _, bail, ensure};
use serde::Serialize;

use super::context::Context;
use super::output::Report;
use super::rehearsal::{Gateway, Record};
use crate::blob::memory::{MemoryBlob, MemoryConfig};
use crate::blob::server::{Server, ServerConfig};
use crate::blob::store::{Access, PutOptions};
use crate::clock::Clock;
use crate::converge::source_value;
use crate::error::Exit;
use crate::fixture;
use crate::protocol::Rev;
use crate::target::dynamodb::{DynamoConfig, DynamoTarget};
use crate::target::embedded::{Engine, Location};
use crate::target::store::Scan;
use crate::target::{Condition, Table, TargetStore, Write};
use crate::value::{Item, Value};

/// The token of the demo's own Blob server.
const TOKEN: &str = "vercel_blob_rw_demo_onlyForTheDemo";
/// So many times the application writes and reads in a phase in which reads are compared.
const READS: usize = 40;
/// The seed of the example data.
const SEED: u64 = 2026;

/// Run a whole migration on this machine: example data, both stores, every step
///
/// Starts a Blob server with example data and an embedded DynamoDB, then runs the real commands one after
/// the other: provision, export, a gateway, the step to shadow, a step that is refused, a corruption that validate
/// finds and repairs, the canary, a drill, the cutover, the way back and a second cutover, all while an application reads and writes through
/// the gateway. Nothing leaves this machine; it takes about a minute.
///
/// With `--output json`: {"command": "demo", "blobs", "steps", "seconds", "kept"}.
#[derive(Debug, clap::Args)]
#[command(after_long_help = "Examples:
  migrate demo
  migrate demo --keep /tmp/look     leaves plan, snapshot, tables and blobs there to look around")]
pub(crate) struct Demo {
    /// Work in this folder and leave everything there
    #[arg(long, value_name = "DIR")]
    keep: Option<PathBuf>,

    /// How many sign-ups there are besides the hard cases
    #[arg(long, value_name = "N", default_value_t = 2_000)]
    signups: usize,
}

#[derive(Debug, Serialize)]
struct DemoReport {
    command: &'static str,
    blobs: usize,
    steps: usize,
    seconds: f64,
    kept: Option<PathBuf>,
}

pub(crate) async fn run(args: &Demo, context: &Context) -> anyhow::Result<Exit> {
    let began = context.clock.monotonic();
    let temporary = tempfile::tempdir().context("make a temporary folder")?;
    let directory = match &args.keep {
        Some(directory) => empty_directory(directory)?,
        None => temporary.path().to_owned(),
    };
    let plan = directory.join("migration-plan.md");
    std::fs::write(&plan, fixture::PLAN).with_context(|| format!("write {}", plan.display()))?;
    let (server, blobs) = serve(args, &directory, context).await?;
    let mut stage = Stage { directory, url: server.base_url(), context, steps: 0 };
    let played = play(&mut stage, blobs).await;
    server.shutdown().await;
    played?;

    let seconds = (context.clock.monotonic() - began).as_secs_f64();
    let kept = args.keep.clone().map(|_| stage.directory.clone());
    context.output.report(&DemoReport { command: "demo", blobs, steps: stage.steps, seconds, kept })?;
    Ok(Exit::Done)
}

/// The steps, each with the exit code that it must have.
async fn play(stage: &mut Stage<'_>, blobs: usize) -> anyhow::Result<()> {
    stage.say(&format!("A Blob store with {blobs} blobs runs at {}. First, the tables:", stage.url));
    stage.step(&["provision"], Exit::Done).await?;
    stage.say("Every blob that the plan maps is read once, verified and kept in a snapshot.");
    stage.step(&["export", "--yes"], Exit::Done).await?;
    stage.say(
        "The application reads and writes through a gateway from now on. It runs beside what follows, loads the \
         mirror, and compares both stores. (A real plan asks for a day in which nobody writes past it, and for a \
         thousand compared reads; here it is a second, and twenty.)",
    );
    let gateway = stage.gateway().await?;
    stage.say("The first step: gateways go on reading from Blob, and compare what they read with DynamoDB.");
    stage.step(&["cutover", "--to", "shadow", "--yes"], Exit::Done).await?;
    stage.visit(&gateway, READS).await?;
    stage.say(
        "One clean comparison is not enough to read from DynamoDB: two in a row are. The cutover says so.",
    );
    stage.step(&["cutover"], Exit::GateClosed).await?;

    stage.say("Now somebody edits the table by hand: one item is changed, one deleted, one invented.");
    stage.corrupt().await?;
    stage.step(&["validate"], Exit::DriftFound).await?;
    stage.step(&["cutover"], Exit::GateClosed).await?;
    stage.say("A repair converges exactly those pathnames again; two clean comparisons prove that it held.");
    stage.step(&["validate", "--repair"], Exit::Done).await?;
    stage.step(&["validate", "--sweeps", "2"], Exit::Done).await?;

    stage.say(
        "A tenth of the keys is read from DynamoDB now, where it has the version that Blob has; as soon as enough \
         reads were compared.",
    );
    stage.under_load(&gateway, &["cutover", "--to", "canary", "--percent", "10", "--wait", "--yes"]).await?;
    stage.visit(&gateway, READS).await?;
    stage.step(&["validate", "--sweeps", "2"], Exit::Done).await?;
    stage.say(
        "The way back has to be known before it is needed: a drill goes there and back, on data of its own.",
    );
    stage.step(&["cutover", "--drill", "--yes"], Exit::Done).await?;
    stage.say("Every gate is open. The boxes of the plan are ticked, and the reads are flipped under load.");
    stage.step(&["status", "--write-plan"], Exit::Done).await?;
    stage.under_load(&gateway, &["cutover", "--yes"]).await?;
    stage.say("DynamoDB is the authority now, and a load from Blob is refused.");
    stage.step(&["dual-write", "--once"], Exit::WrongPhase).await?;
    stage.say("The way back asks for proof as well: evidence of the epoch before does not count.");
    stage.step(&["cutover", "--rollback"], Exit::GateClosed).await?;
    stage.step(&["validate"], Exit::Done).await?;
    stage.under_load(&gateway, &["cutover", "--rollback", "--yes"]).await?;
    stage.say("And once more: what was proven before a way back does not count after it.");
    stage.step(&["dual-write", "--once"], Exit::Done).await?;
    stage.visit(&gateway, READS).await?;
    stage.step(&["validate", "--sweeps", "2"], Exit::Done).await?;
    stage.under_load(&gateway, &["cutover", "--to", "canary", "--wait", "--yes"]).await?;
    stage.under_load(&gateway, &["cutover", "--to", "cutover", "--wait", "--yes"]).await?;
    stage.step(&["status", "--audit"], Exit::Done).await
}

struct Stage<'a> {
    directory: PathBuf,
    url: String,
    context: &'a Context,
    steps: usize,
}

impl Stage<'_> {
    fn say(&self, text: &str) {
        self.context.output.note(format_args!("\n# {text}"));
    }

    /// Runs one command as a user would, and checks how it ends.
    async fn step(&mut self, arguments: &[&str], expected: Exit) -> anyhow::Result<()> {
        self.context.interruptible("demo", std::future::ready(Ok(()))).await?;
        self.steps += 1;
        let shown = arguments.iter().filter(|argument| **argument != "--yes").copied().collect::<Vec<_>>();
        self.context.output.note(format_args!("\n$ migrate {}", shown.join(" ")));
        let mut command = self.command(arguments, self.color())?;
        // Nobody is asked: the terminal belongs to whoever watches.
        command.stdin(Stdio::null());
        // With JSON asked for, stdout carries the demo's one object: the steps are told on stderr.
        let quiet = self.context.output.is_json();
        let status = tokio::task::spawn_blocking(move || {
            if quiet {
                let output = command.output()?;
                std::io::copy(&mut output.stdout.as_slice(), &mut std::io::stderr())?;
                std::io::copy(&mut output.stderr.as_slice(), &mut std::io::stderr())?;
                return Ok(output.status);
            }
            command.status()
        });
        let status = status.await.context("wait for the step")?.context("start the step")?;
        let code = status.code();
        if code != Some(i32::from(expected.code())) {
            bail!(
                "`migrate {}` ended with {status}, not with exit code {}",
                arguments.join(" "),
                expected.code()
            );
        }
        if expected != Exit::Done {
            self.context.output.note(format_args!("(exit code {}: {})", expected.code(), expected.meaning()));
        }
        Ok(())
    }

    /// This program with the demo's settings.
    fn command(&self, arguments: &[&str], color: &str) -> anyhow::Result<Command> {
        let program = std::env::current_exe().context("find this program")?;
        let mut command = Command::new(program);
        command.args(arguments).args(["--target", "embedded", "--color", color]);
        command.args(["--set", "timing.no_foreign=1s", "--set", "gates.shadow-reads.min_reads=20"]);
        command.current_dir(&self.directory);
        command.env("MIGRATE_BLOB_URL", &self.url).env("BLOB_READ_WRITE_TOKEN", TOKEN);
        command.env("ENCRYPTION_KEY", fixture::ENCRYPTION_KEY);
        for name in ["DYNAMODB_TABLE_NAME", "DYNAMODB_ENDPOINT", "AWS_ENDPOINT_URL_DYNAMODB", "RUST_LOG"] {
            command.env_remove(name);
        }
        Ok(command)
    }

    /// Starts the gateway, which runs until it is dropped, and waits for its first comparison.
    async fn gateway(&mut self) -> anyhow::Result<Gateway> {
        self.steps += 1;
        let arguments = ["dual-write", "--listen", "127.0.0.1:0", "--name", "demo"];
        let output = self.context.output.clone();
        output.note(format_args!("\n$ migrate {} &", arguments.join(" ")));
        let command = self.command(&arguments, "never")?;
        let started = move || Gateway::start(command, |line| output.note(format_args!("{line}")));
        tokio::task::spawn_blocking(started).await.context("wait for the gateway")?
    }

    /// An application that writes and reads through the gateway for a while.
    async fn visit(&mut self, gateway: &Gateway, count: usize) -> anyhow::Result<()> {
        let application = gateway.application(TOKEN, count, record);
        let written = tokio::task::spawn_blocking(move || application.end()).await;
        let count = written.context("wait for the application")??.count;
        self.say(&format!("The application wrote {count} times, and read each again."));
        Ok(())
    }

    /// A step while an application writes through the gateway, every write of which must succeed.
    async fn under_load(&mut self, gateway: &Gateway, arguments: &[&str]) -> anyhow::Result<()> {
        let application = gateway.application(TOKEN, usize::MAX, record);
        let stepped = self.step(arguments, Exit::Done).await;
        let written = tokio::task::spawn_blocking(move || application.stop()).await;
        stepped?;
        let written = written.context("wait for the application")??;
        self.say(&format!(
            "Meanwhile the application wrote {} times through the gateway. No write failed; the slowest took {} ms.",
            written.count,
            written.slowest.as_millis()
        ));
        Ok(())
    }

    fn color(&self) -> &'static str {
        match self.context.flags.color {
            clap::ColorChoice::Auto => "auto",
            clap::ColorChoice::Always => "always",
            clap::ColorChoice::Never => "never",
        }
    }

    /// Changes one item, deletes another and invents a third, as somebody with the console would.
    async fn corrupt(&self) -> anyhow::Result<()> {
        let file = self.directory.join(".migrate/embedded.db");
        let engine =
            tokio::task::spawn_blocking(move || Engine::start(&Location::File(file), None)).await??;
        let plan = crate::plan::load(self.directory.join("migration-plan.md"), &[])?.plan.target;
        let config =
            DynamoConfig::new(plan.clone(), Arc::clone(&self.context.clock)).endpoint(engine.endpoint());
        let target = DynamoTarget::connect(config).await?;
        let page = target.scan(Table::Data, &Scan::share(0, 1)).await?;
        let mut signups = page.items.into_iter().filter(|item| text(item, "_entityType") == "Signup");
        let (Some(mut changed), Some(deleted)) = (signups.next(), signups.next()) else {
            bail!("the table holds no sign-ups");
        };
        changed.insert("fullName".to_owned(), Value::s("Edited By Hand"));
        let mut invented = changed.clone();
        invented.insert(plan.partition_key.clone(), Value::s("SIGNUP#invented"));
        invented.insert("_source".to_owned(), source_value(&"signups/invented.json".into(), &Rev::new("0")));
        let key = crate::value::Key::new(text(&deleted, &plan.partition_key), text(&deleted, &plan.sort_key));
        for (number, write) in (0..).zip([
            Write::Put { table: Table::Data, item: changed, condition: Condition::Always },
            Write::Put { table: Table::Data, item: invented, condition: Condition::Always },
            Write::Delete { table: Table::Data, key, condition: Condition::Always },
        ]) {
            target.transact(&format!("demo-{number}"), vec![write]).await?;
        }
        tokio::task::spawn_blocking(move || engine.stop()).await??;
        Ok(())
    }
}

/// What the demo's application writes.
fn record(number: usize) -> Record {
    let body = format!(
        r#"{{"email": "demo{number}@example.com", "fullName": "Written During The Flip", "signupDate": "2026-01-01T00:00:00.000Z"}}"#
    );
    Record {
        pathname: format!("signups/{number:016x}_1767225600000-demo.json"),
        content_type: "application/json".to_owned(),
        access: Access::Public,
        body: body.into(),
    }
}

fn text(item: &Item, name: &str) -> String {
    item.get(name).and_then(Value::as_s).unwrap_or_default().to_owned()
}

fn empty_directory(directory: &Path) -> anyhow::Result<PathBuf> {
    crate::folder::make(directory).with_context(|| format!("make {}", directory.display()))?;
    let mut entries =
        std::fs::read_dir(directory).with_context(|| format!("read {}", directory.display()))?;
    ensure!(
        entries.next().is_none(),
        "{} is not empty: name a folder of its own with --keep",
        directory.display()
    );
    directory.canonicalize().with_context(|| format!("find {}", directory.display()))
}

/// A Blob server with the example data, on a port of its own.
async fn serve(args: &Demo, directory: &Path, context: &Context) -> anyhow::Result<(Server, usize)> {
    use secrecy::SecretString;

    let config = MemoryConfig { store_id: "demo".to_owned(), ..MemoryConfig::default() };
    let clock: Arc<dyn Clock> = Arc::clone(&context.clock);
    let store = match &args.keep {
        Some(_) => MemoryBlob::open(config, Arc::clone(&clock), &directory.join("blobs"))?,
        None => MemoryBlob::new(config, Arc::clone(&clock)),
    };
    let mut count = 0;
    for blob in fixture::blobs(SEED, args.signups) {
        let options =
            PutOptions { content_type: Some(blob.content_type.to_owned()), ..PutOptions::default() };
        store.put_at(&blob.pathname, blob.body, &options, clock.now()).await?;
        count += 1;
    }
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
    let config = ServerConfig::new(SecretString::from(TOKEN));
    Ok((Server::bind(address, Arc::new(store), config, clock).await?, count))
}

impl Report for DemoReport {
    fn human(&self, text: &mut dyn std::fmt::Write) -> std::fmt::Result {
        writeln!(
            text,
            "\nThat was a whole migration of {} blobs: {} steps in {:.0} s. Every command ended as it had to.",
            self.blobs, self.steps, self.seconds
        )?;
        let Some(kept) = &self.kept else {
            return writeln!(text, "To keep it and look around: migrate demo --keep DIR");
        };
        let kept = kept.display();
        writeln!(text, "Everything is in {kept}:")?;
        writeln!(text, "  migration-plan.md          the plan, with its boxes ticked")?;
        writeln!(
            text,
            "  .migrate/fuse.snapshot     the export: sqlite3 FILE 'SELECT pathname, etag FROM blobs LIMIT 5'"
        )?;
        writeln!(text, "  .migrate/embedded.db       both tables")?;
        writeln!(
            text,
            "  blobs/                     the Blob store: migrate emulate --data {kept}/blobs --token {TOKEN}"
        )
    }
}
