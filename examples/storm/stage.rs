//! Where a storm takes place: both stores, a folder and proxies for each process, and the windows of the plan.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, bail, ensure};
use migrate::clock::{Clock as _, SystemClock};
use serde_json::Value;
use tokio::process::Command;

use crate::blobs::PLAN;
use crate::log::Log;
use crate::process::Process;
use crate::proxy::{Proxy, Store};

/// Where DynamoDB Local is, seen from the top level of the repository.
const DYNAMODB_LOCAL: &str = "tests/dynamodb-local/node_modules/amplify-dynamodb-simulator/emulator";
const READY_MAX: Duration = Duration::from_secs(120);

/// Windows of the plan, short enough for many flips in a few minutes, and in proportion to each other.
#[derive(Debug, Clone)]
pub(crate) struct Windows {
    pub(crate) lease: Duration,
    pub(crate) renew: Duration,
    pub(crate) hold_limit: Duration,
    /// The protocol takes for granted that a request to Blob lands within this time, or never.
    pub(crate) late_write_max: Duration,
    /// Until when the store takes a signed request, by its own clock.
    pub(crate) mirror_late_max: Duration,
    /// The longest that a proxy holds a request: well below `late_write_max`, since the store takes time as well. Signed
    /// requests are held for up to twice that: longer than both windows.
    pub(crate) held_max: Duration,
    /// More values of the plan.
    pub(crate) more: Vec<String>,
}

impl Windows {
    pub(crate) fn new(smoke: bool, more: Vec<String>) -> Self {
        let ms = Duration::from_millis;
        let (lease, late) = if smoke { (2_000, 2_500) } else { (3_000, 5_000) };
        Self {
            lease: ms(lease),
            renew: ms(400),
            hold_limit: ms(2_000),
            late_write_max: ms(late),
            mirror_late_max: ms(late * 4 / 10),
            held_max: ms(late * 6 / 10),
            more,
        }
    }

    fn flags(&self) -> Vec<String> {
        let ms = |time: Duration| format!("{}ms", time.as_millis());
        let late = ms(self.late_write_max);
        let values = [
            ("lease", ms(self.lease)),
            ("renew", ms(self.renew)),
            ("hold_limit", ms(self.hold_limit)),
            ("late_write_max", late.clone()),
            ("mirror_late_max", ms(self.mirror_late_max)),
            ("settle", late),
            ("no_foreign", "0s".to_owned()),
        ];
        let values = values.map(|(name, value)| format!("timing.{name}={value}"));
        let all = values.into_iter().chain(self.more.iter().cloned());
        all.flat_map(|value| ["--set".to_owned(), value]).collect()
    }
}

/// Both stores, and the folder in which everything happens.
pub(crate) struct Stage {
    pub(crate) work: PathBuf,
    migrate: PathBuf,
    pub(crate) windows: Windows,
    /// The API of the Blob store itself.
    pub(crate) blob: String,
    dynamodb: String,
    pub(crate) token: String,
    /// What every process needs besides the places of the stores.
    variables: BTreeMap<String, String>,
    /// The stores; they end with the stage.
    servers: Vec<Process>,
}

/// A process's own folder, and its ways to the stores.
pub(crate) struct Actor {
    pub(crate) folder: PathBuf,
    pub(crate) name: String,
    migrate: PathBuf,
    variables: BTreeMap<String, String>,
    flags: Vec<String>,
}

impl Stage {
    /// Starts both stores on free ports.
    pub(crate) async fn start(
        work: &Path,
        migrate: &Path,
        windows: Windows,
        local: bool,
    ) -> anyhow::Result<Self> {
        let mut command = Command::new(migrate);
        command.args(["emulate", "--output", "json"]).env_clear().env("HOME", work).current_dir(work);
        let mut emulator = Process::start(&mut command, work, "emulator")?;
        let said: Value = serde_json::from_str(&emulator.first_line().await?)?;
        let mut variables = BTreeMap::new();
        for (name, value) in said["variables"].as_object().context("the emulator names no variables")? {
            variables.insert(name.clone(), value.as_str().unwrap_or_default().to_owned());
        }
        let mut servers = vec![emulator];
        let take = |variables: &mut BTreeMap<String, String>, name: &str| {
            variables.remove(name).with_context(|| format!("the emulator does not say {name}"))
        };
        variables.remove("AWS_ENDPOINT_URL_DYNAMODB");
        let blob = take(&mut variables, "VERCEL_BLOB_API_URL")?;
        let embedded = take(&mut variables, "DYNAMODB_ENDPOINT");
        let dynamodb = if local {
            let (server, url) = dynamodb_local(work).await?;
            servers.push(server);
            url
        } else {
            embedded?
        };
        let token = variables.get("BLOB_READ_WRITE_TOKEN").cloned().unwrap_or_default();
        let (work, migrate) = (work.to_owned(), migrate.to_owned());
        Ok(Self { work, migrate, windows, blob, dynamodb, token, variables, servers })
    }

    /// A folder, and a proxy before each store.
    pub(crate) async fn actor(
        &self,
        name: &str,
        seed: u64,
        log: &Arc<Log>,
    ) -> anyhow::Result<(Actor, [Proxy; 2])> {
        let origin = self.blob.strip_suffix("/api/blob").context("the Blob store's URL ends in /api/blob")?;
        let blob = (Store::Blob, origin);
        let blob = Proxy::start(format!("{name} → Blob"), blob, seed ^ 0xb10b, Arc::clone(log)).await?;
        let dynamodb = (Store::DynamoDb, self.dynamodb.as_str());
        let dynamodb = Proxy::start(format!("{name} → DynamoDB"), dynamodb, seed, Arc::clone(log)).await?;
        let places = (format!("{}/api/blob", blob.link.url()), dynamodb.link.url());
        Ok((self.placed(name, places)?, [blob, dynamodb]))
    }

    /// A folder whose commands ask the stores themselves.
    pub(crate) fn bystander(&self, name: &str) -> anyhow::Result<Actor> {
        self.placed(name, (self.blob.clone(), self.dynamodb.clone()))
    }

    fn placed(&self, name: &str, (blob, dynamodb): (String, String)) -> anyhow::Result<Actor> {
        let folder = self.work.join(name);
        std::fs::create_dir(&folder)?;
        std::fs::write(folder.join("migration-plan.md"), PLAN)?;
        let mut variables = self.variables.clone();
        variables.insert("HOME".to_owned(), folder.display().to_string());
        variables.insert("VERCEL_BLOB_API_URL".to_owned(), blob);
        variables.insert("DYNAMODB_ENDPOINT".to_owned(), dynamodb);
        let (name, migrate, flags) = (name.to_owned(), self.migrate.clone(), self.windows.flags());
        Ok(Actor { folder, name, migrate, variables, flags })
    }

    /// Whether the stores still run.
    pub(crate) fn check(&mut self) -> anyhow::Result<()> {
        for server in &mut self.servers {
            if let Some(how) = server.ended() {
                bail!("a store ended by itself: {how}");
            }
        }
        Ok(())
    }
}

impl Actor {
    /// The program with arguments, under the plan and the windows of the storm.
    pub(crate) fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(&self.migrate);
        command.args(arguments).args(["--output", "json"]).args(&self.flags).current_dir(&self.folder);
        command.env_clear().envs(&self.variables);
        command
    }
}

/// Amazon's DynamoDB Local, in memory.
async fn dynamodb_local(work: &Path) -> anyhow::Result<(Process, String)> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join(DYNAMODB_LOCAL);
    ensure!(
        folder.join("DynamoDBLocal.jar").exists(),
        "Amazon's DynamoDB Local is not installed: run `.ci/setup`"
    );
    // It can't choose a free port itself.
    let port = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?.port();
    let mut command = Command::new("java");
    command
        .args(["-Xmx768m", "-Djava.library.path=./DynamoDBLocal_lib", "-jar", "DynamoDBLocal.jar"])
        .args(["-inMemory", "-sharedDb", "-disableTelemetry", "-port", &port.to_string()])
        .current_dir(folder);
    let mut server = Process::start(&mut command, work, "dynamodb-local")?;
    let clock = SystemClock::new();
    while TcpStream::connect((Ipv4Addr::LOCALHOST, port)).is_err() {
        if let Some(how) = server.ended() {
            bail!("DynamoDB Local ended at once: {how}");
        }
        ensure!(clock.monotonic() < READY_MAX, "DynamoDB Local is not ready after {READY_MAX:?}");
        clock.sleep(Duration::from_millis(50)).await;
    }
    Ok((server, format!("http://127.0.0.1:{port}")))
}
