//! Programs that the storm runs: started in a cleared environment, killed with it, frozen and woken by signals.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Output, Stdio};
use std::time::Duration;

use anyhow::{Context as _, bail};
use migrate::clock::{Clock as _, SystemClock};
use tokio::process::{Child, Command};

/// How often a file is looked at for a line.
const POLL: Duration = Duration::from_millis(10);
/// How long a server may take to be there.
const START_MAX: Duration = Duration::from_secs(120);

/// A server. It is killed when it is dropped, also where it is frozen.
pub(crate) struct Process {
    child: Child,
    out: PathBuf,
    err: PathBuf,
}

impl Process {
    /// Starts a server, whose output goes to `NAME.out` and `NAME.err` in this folder.
    pub(crate) fn start(command: &mut Command, logs: &Path, name: &str) -> anyhow::Result<Self> {
        let (out, err) = (logs.join(format!("{name}.out")), logs.join(format!("{name}.err")));
        command.stdin(Stdio::null()).kill_on_drop(true);
        command.stdout(File::create(&out)?).stderr(File::create(&err)?);
        let child = command.spawn().with_context(|| format!("start {name}"))?;
        Ok(Self { child, out, err })
    }

    /// What follows `beginning` on the first line of stderr that begins so.
    pub(crate) async fn line(&mut self, beginning: &str) -> anyhow::Result<String> {
        let file = self.err.clone();
        self.find(&file, |line| line.strip_prefix(beginning).map(ToOwned::to_owned)).await
    }

    /// The first line of stdout.
    pub(crate) async fn first_line(&mut self) -> anyhow::Result<String> {
        let file = self.out.clone();
        self.find(&file, |line| Some(line.to_owned())).await
    }

    async fn find(&mut self, file: &Path, found: impl Fn(&str) -> Option<String>) -> anyhow::Result<String> {
        let clock = SystemClock::new();
        while clock.monotonic() < START_MAX {
            let text = std::fs::read_to_string(file)?;
            // A line is whole once it is followed by another one, or ended.
            let whole = text.rfind('\n').map_or("", |end| &text[..end]);
            if let Some(line) = whole.lines().find_map(&found) {
                return Ok(line);
            }
            if let Some(status) = self.child.try_wait()? {
                bail!("it ended with {status}: {}", std::fs::read_to_string(&self.err)?);
            }
            clock.sleep(POLL).await;
        }
        bail!("it said nothing for {START_MAX:?}: {}", std::fs::read_to_string(&self.err)?)
    }

    /// Whether it ended by itself, and how.
    pub(crate) fn ended(&mut self) -> Option<String> {
        let status = self.child.try_wait().ok().flatten()?;
        let text = std::fs::read_to_string(&self.err).unwrap_or_default();
        let last: Vec<&str> = text.lines().rev().take(5).collect();
        Some(format!("{status}: {}", last.into_iter().rev().collect::<Vec<_>>().join(" | ")))
    }

    /// Kills it: nothing of it runs afterwards.
    pub(crate) async fn kill(&mut self) -> anyhow::Result<()> {
        Ok(self.child.kill().await?)
    }

    /// Sends a signal, by its name without `SIG`.
    pub(crate) async fn signal(&self, signal: &str) -> anyhow::Result<()> {
        // A process that was not waited for keeps its number: no other one gets the signal.
        match self.child.id() {
            Some(id) => send(signal, id).await,
            None => Ok(()),
        }
    }

    /// Lets it end by itself, for as long as it takes.
    pub(crate) async fn end(mut self, patience: Duration) -> anyhow::Result<Option<i32>> {
        self.signal("TERM").await?;
        match tokio::time::timeout(patience, self.child.wait()).await {
            Ok(status) => Ok(status?.code()),
            Err(_) => Ok(None),
        }
    }
}

async fn send(signal: &str, id: u32) -> anyhow::Result<()> {
    let status = Command::new("kill").args(["-s", signal, &id.to_string()]).status().await?;
    if !status.success() {
        bail!("kill -s {signal} {id} ended with {status}");
    }
    Ok(())
}

/// Runs a command to its end; frozen once `begin` is over, for so long. Killed where nobody waits for it any more.
pub(crate) async fn interrupted(
    command: &mut Command,
    begin: impl Future<Output = ()>,
    time: Duration,
) -> anyhow::Result<Output> {
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
    let child = command.spawn()?;
    let id = child.id().context("it was just started")?;
    let ended = child.wait_with_output();
    tokio::pin!(ended);
    tokio::select! {
        output = &mut ended => return Ok(output?),
        () = begin => {}
    }
    // It is waited for only below: its number is its own.
    send("STOP", id).await?;
    SystemClock::new().sleep(time).await;
    send("CONT", id).await?;
    Ok(ended.await?)
}

/// Runs a command to its end; killed where that takes too long, or where nobody waits for it any more.
pub(crate) async fn output(command: &mut Command, patience: Duration) -> anyhow::Result<Option<Output>> {
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
    match tokio::time::timeout(patience, command.output()).await {
        Ok(output) => Ok(Some(output?)),
        Err(_) => Ok(None),
    }
}
