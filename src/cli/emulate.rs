//! `migrate emulate`.

use std::collections::BTreeMap;
use std::fmt;
use std::net::SocketAddr;
use std::num::NonZeroU64;
use std::path::PathBuf;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use indicatif::HumanCount;
use secrecy::SecretString;
use serde::Serialize;

use super::context::Context;
use super::output::Report;
use super::serving::{self, DelegationFlags, TlsFlags};
use crate::blob::faults::{Drops, Faults, FaultyBlob, Rates};
use crate::blob::memory::{MemoryBlob, MemoryConfig};
use crate::blob::server::{Server, ServerConfig, UrlForm};
use crate::blob::store::{Access, PutOptions};
use crate::blob::{BlobStore, Body};
#[cfg(feature = "embedded")]
use crate::error::Error;
use crate::error::{ErrorKind, Exit, Result};
use crate::fixture;
use crate::legible::quoted;
use crate::plan::Span;
#[cfg(feature = "embedded")]
use crate::target::embedded::{Engine, Location};

/// The seed of the example data: the same everywhere, so that two stores with it are equal.
const SEED: u64 = 1;
/// The least length of a sign-up's body for measurements, in bytes.
const SIGNUP_BYTES: usize = 1_000;

/// Serve a Vercel Blob store and DynamoDB on this machine, for rehearsals and tests
///
/// The Blob store speaks Vercel's API: the official `@vercel/blob` works against it unchanged. DynamoDB
/// is an embedded engine, for any AWS SDK. Both are in memory unless `--data` names a directory.
///
/// Prints the environment variables that clients need, one `export NAME=value` a line, then serves until
/// Ctrl-C or SIGTERM. Reads neither plan nor environment.
///
/// Client tokens, signed URLs and the callbacks of uploads work as on Vercel. Images are stored as they are:
/// `putFromUrl` makes nothing smaller, `putImage` of a body is refused.
///
/// Content can be read over TLS too, under the names of Vercel's content hosts: `migrate gateway-cert --help`
/// says how an application gets there.
///
/// With `--output json`: {"command": "emulate", "variables": {NAME: value}, "blobs", "tls": address or null}.
#[derive(Debug, clap::Args)]
#[command(after_long_help = "Examples:
  migrate emulate --seed fuse:2000
  migrate emulate --blob-listen 127.0.0.1:3010 --dynamodb-listen 127.0.0.1:8000 --data .migrate/emulator
  migrate emulate --seed fuse:500 --rates hobby --stale-reads 60s")]
pub(crate) struct Emulate {
    /// Where the Blob store listens; port 0 takes a free one
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:0")]
    blob_listen: SocketAddr,

    /// Where DynamoDB listens, on loopback only; port 0 takes a free one
    #[cfg(feature = "embedded")]
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:0")]
    dynamodb_listen: SocketAddr,

    /// The read-write token that the Blob store takes
    #[arg(long, value_name = "TOKEN", default_value = "vercel_blob_rw_emulator_local")]
    token: String,

    /// Put example data into the Blob store: `fuse:N` for N sign-ups and every hard case, `signups:N` for
    /// N sign-ups of 1 KB each, `shapes` for records in every form
    #[arg(long, value_name = "NAME:N")]
    seed: Option<Seed>,

    /// Keep both stores in this directory, and go on with what is in it
    #[arg(long, value_name = "DIR")]
    data: Option<PathBuf>,

    /// Make the Blob store a private one
    #[arg(long)]
    private: bool,

    /// Give content URLs on Vercel's own host names, as the official client's `get()` demands
    #[arg(long)]
    canonical_urls: bool,

    #[command(flatten)]
    delegation: DelegationFlags,

    #[command(flatten)]
    tls: TlsFlags,

    #[command(flatten)]
    faults: FaultFlags,
}

/// What hurts about the service, on demand.
#[derive(Debug, clap::Args)]
#[command(next_help_heading = "Faults of the Blob store")]
struct FaultFlags {
    /// Serve the former content for this long after an overwrite or a delete, as Vercel's CDN may (60s)
    #[arg(long, value_name = "DURATION", value_parser = duration)]
    stale_reads: Option<Duration>,

    /// Answer 429 to what comes faster than this Vercel plan allows
    #[arg(long, value_name = "PLAN")]
    rates: Option<PlanRates>,

    /// Suspend the store after so many operations
    #[arg(long, value_name = "N")]
    suspend_after: Option<u64>,

    /// Take this much longer for every request
    #[arg(long, value_name = "DURATION", value_parser = duration)]
    latency: Option<Duration>,

    /// End the connection of every Nth request without a reply
    #[arg(long, value_name = "N")]
    drop_every: Option<NonZeroU64>,

    /// Let a request whose connection ends so take effect
    #[arg(long, requires = "drop_every")]
    drop_applied: bool,

    /// Weaken the ETags of compressed content, as Vercel's CDN does
    #[arg(long)]
    weak_etags: bool,
}

#[derive(Debug, Clone, Copy, clap::ValueEnum)]
enum PlanRates {
    Hobby,
    Pro,
    Enterprise,
}

/// `--seed NAME:N`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Seed {
    /// `fuse:N`: so many sign-ups, and every hard case.
    Fuse(usize),
    /// `signups:N`: so many sign-ups of 1 KB, for measurements.
    Signups(usize),
    /// `shapes`: records in every form, for the plan in `fixtures/shapes.md`.
    Shapes,
}

impl FromStr for Seed {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if text == "shapes" {
            return Ok(Self::Shapes);
        }
        let seed = text.split_once(':').and_then(|(name, number)| match (name, number.parse().ok()?) {
            ("fuse", signups) => Some(Self::Fuse(signups)),
            ("signups", count) => Some(Self::Signups(count)),
            _ => None,
        });
        seed.ok_or_else(|| "expected `fuse:N`, `signups:N` or `shapes`, such as `fuse:2000`".to_owned())
    }
}

fn duration(text: &str) -> Result<Duration, String> {
    Span::try_from(text.to_owned()).map(|span| span.0)
}

pub(crate) async fn run(args: &Emulate, context: &Context) -> anyhow::Result<Exit> {
    let config = ServerConfig::new(SecretString::from(args.token.clone()));
    let access = if args.private { Access::Private } else { Access::Public };
    let memory = MemoryConfig { store_id: config.store_id.clone(), access, ..MemoryConfig::default() };
    let clock = Arc::clone(&context.clock);
    let store = match &args.data {
        Some(directory) => MemoryBlob::open(memory, clock, &directory.join("blobs"))?,
        None => MemoryBlob::new(memory, clock),
    };
    if let Some(seed) = args.seed {
        context.interruptible("put example data", fill(&store, seed)).await?;
    }
    let faults = args.faults.switches(context);
    let config = ServerConfig {
        oidc: args.delegation.oidc()?,
        allowed_origins: args.delegation.allowed_origins.clone(),
        access,
        url_form: if args.canonical_urls { UrlForm::Canonical } else { UrlForm::Local },
        weak_etags: args.faults.weak_etags,
        faults: Some(faults.clone()),
        ..config
    };
    let blobs = store.len();
    let store = Arc::new(FaultyBlob::new(Arc::new(store), faults));
    let tls = args.tls.load()?;
    serving::warn_of_plain_text(args.blob_listen, context);
    serving::raise_open_files(config.connections_max, context);
    let server = Server::bind(args.blob_listen, store, config, Arc::clone(&context.clock)).await?;
    let tls = match tls {
        Some((listen, identity)) => Some(server.listen_tls(listen, &identity).await?),
        None => None,
    };
    let mut variables = BTreeMap::from([
        ("BLOB_READ_WRITE_TOKEN", args.token.clone()),
        ("BLOB_WEBHOOK_PUBLIC_KEY", server.webhook_public_key()),
        ("VERCEL_BLOB_API_URL", server.base_url()),
    ]);
    if args.seed.is_some() {
        variables.insert("ENCRYPTION_KEY", fixture::ENCRYPTION_KEY.to_owned());
    }
    #[cfg(feature = "embedded")]
    let (engine, variables) = {
        let engine = args.engine().await?;
        let mut variables = variables;
        variables.extend([
            ("DYNAMODB_ENDPOINT", engine.endpoint()),
            ("AWS_ENDPOINT_URL_DYNAMODB", engine.endpoint()),
            ("AWS_REGION", "us-east-1".to_owned()),
            ("AWS_ACCESS_KEY_ID", "local".to_owned()),
            ("AWS_SECRET_ACCESS_KEY", "local".to_owned()),
        ]);
        (engine, variables)
    };
    context.output.report(&Serving { command: "emulate", variables, blobs, tls })?;
    if let Some(tls) = tls {
        context.output.note(format_args!("over TLS on {tls}"));
    }
    context.output.note(format_args!("serving {} blobs; Ctrl-C stops", HumanCount(blobs as u64)));
    context.cancel.cancelled().await;
    server.shutdown().await;
    #[cfg(feature = "embedded")]
    tokio::task::spawn_blocking(|| engine.stop()).await??;
    Ok(Exit::Done)
}

impl Emulate {
    #[cfg(feature = "embedded")]
    async fn engine(&self) -> Result<Engine> {
        let listen = self.dynamodb_listen;
        let location = match &self.data {
            Some(directory) => Location::File(directory.join("dynamodb.db")),
            None => Location::Memory,
        };
        tokio::task::spawn_blocking(move || Engine::start(&location, Some(listen)))
            .await
            .map_err(|error| Error::new(ErrorKind::Internal, "start embedded DynamoDB").source(error))?
    }
}

impl FaultFlags {
    fn switches(&self, context: &Context) -> Faults {
        let faults = Faults::new(Arc::clone(&context.clock));
        faults.set_stale_reads(self.stale_reads);
        faults.set_rates(self.rates.map(|plan| match plan {
            PlanRates::Hobby => Rates::HOBBY,
            PlanRates::Pro => Rates::PRO,
            PlanRates::Enterprise => Rates::ENTERPRISE,
        }));
        faults.suspend_after(self.suspend_after);
        faults.set_latency(self.latency.unwrap_or_default());
        faults.set_drops(self.drop_every.map(|every| Drops { every, applied: self.drop_applied }));
        faults
    }
}

/// Puts what is missing of the example data.
async fn fill(store: &MemoryBlob, seed: Seed) -> Result<()> {
    let blobs: Box<dyn Iterator<Item = fixture::FixtureBlob> + Send> = match seed {
        Seed::Fuse(signups) => Box::new(fixture::blobs(SEED, signups)),
        Seed::Signups(count) => Box::new(fixture::signups(SEED, count, SIGNUP_BYTES)),
        Seed::Shapes => Box::new(fixture::shapes().into_iter()),
    };
    for blob in blobs {
        let options =
            PutOptions { content_type: Some(blob.content_type.to_owned()), ..PutOptions::default() };
        match store.put(&blob.pathname, Body::from(blob.body), &options).await {
            Err(error) if error.kind() == ErrorKind::AlreadyExists => {}
            put => drop(put?),
        }
    }
    Ok(())
}

#[derive(Serialize)]
struct Serving {
    command: &'static str,
    variables: BTreeMap<&'static str, String>,
    blobs: usize,
    tls: Option<SocketAddr>,
}

impl Report for Serving {
    fn human(&self, text: &mut dyn fmt::Write) -> fmt::Result {
        for (name, value) in &self.variables {
            writeln!(text, "export {name}={}", quoted(value))?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn seeds() {
        assert_eq!("fuse:20".parse(), Ok(Seed::Fuse(20)));
        assert_eq!("signups:7".parse(), Ok(Seed::Signups(7)));
        assert_eq!("shapes".parse(), Ok(Seed::Shapes));
        for wrong in ["fuse", "fuse:", "fuse:x", "other:3"] {
            wrong.parse::<Seed>().unwrap_err();
        }
    }
}
