//! The demo's gateway, and an application that writes through it.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::TcpStream;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail, ensure};

use super::TOKEN;

/// How long a write may take before the demo gives up.
const WRITE_MAX: Duration = Duration::from_secs(20);

/// `migrate dual-write` beside the steps. It is stopped when it is dropped.
pub(super) struct Gateway {
    process: Child,
    /// Host, port and path.
    address: String,
    /// Reads what it says to the end, so that it never waits for somebody to read it.
    told: Option<JoinHandle<()>>,
}

impl Gateway {
    /// Starts it, passes on what it says to `say`, and waits until its first sweep is over.
    pub(super) fn start(mut command: Command, say: impl Fn(&str)) -> anyhow::Result<Self> {
        let mut process =
            command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().context("start the gateway")?;
        let mut lines = BufReader::new(process.stderr.take().context("hear the gateway")?);
        let mut address = None;
        loop {
            let mut line = String::new();
            if lines.read_line(&mut line).context("hear the gateway")? == 0 {
                let ended = process.wait().context("wait for the gateway")?;
                bail!("the gateway ended at once: {ended}");
            }
            let line = line.trim_end();
            // Its key for callbacks is of no use here.
            if !line.contains("BLOB_WEBHOOK_PUBLIC_KEY") {
                say(line);
            }
            if let Some(url) = line.strip_prefix("gateway on http://") {
                address = Some(url.trim_end_matches('/').to_owned());
            }
            if line.starts_with("sweep 1:") {
                break;
            }
        }
        let told = std::thread::spawn(move || {
            std::io::copy(&mut lines, &mut std::io::sink()).ok();
        });
        let address = address.context("the gateway did not say where it listens")?;
        Ok(Self { process, address, told: Some(told) })
    }

    /// An application that writes one record after the other, and reads each again, until it is stopped; `most` times
    /// at most.
    pub(super) fn application(&self, most: usize) -> Application {
        let stop = Arc::new(AtomicBool::new(false));
        let (address, until) = (self.address.clone(), Arc::clone(&stop));
        let writing = std::thread::spawn(move || {
            let mut written = Written::default();
            while !until.load(Ordering::SeqCst) && written.count < most {
                let began = Instant::now();
                put(&address, written.count)?;
                written.slowest = written.slowest.max(began.elapsed());
                look(&address, written.count)?;
                written.count += 1;
            }
            Ok(written)
        });
        Application { stop, writing }
    }
}

impl Drop for Gateway {
    fn drop(&mut self) {
        // In good order: it says in its session that nothing is in flight. Where that can't be asked for, its
        // session stays open, and whoever comes next ends it.
        let asked = Command::new("kill").args(["-TERM", &self.process.id().to_string()]).status();
        if !asked.is_ok_and(|status| status.success()) {
            self.process.kill().ok();
        }
        self.process.wait().ok();
        if let Some(told) = self.told.take() {
            told.join().ok();
        }
    }
}

/// What an application wrote.
#[derive(Debug, Default)]
pub(super) struct Written {
    pub(super) count: usize,
    pub(super) slowest: Duration,
}

/// An application at work.
pub(super) struct Application {
    stop: Arc<AtomicBool>,
    writing: JoinHandle<anyhow::Result<Written>>,
}

impl Application {
    /// Stops it; what it wrote, if every write was answered with success.
    pub(super) fn stop(self) -> anyhow::Result<Written> {
        self.stop.store(true, Ordering::SeqCst);
        self.end()
    }

    /// The same once it wrote as often as it was to.
    pub(super) fn end(self) -> anyhow::Result<Written> {
        match self.writing.join() {
            Ok(written) => written,
            Err(_) => bail!("the application broke off"),
        }
    }
}

/// One write as any client of Vercel Blob sends it.
fn put(address: &str, number: usize) -> anyhow::Result<()> {
    let body = format!(
        r#"{{"email": "demo{number}@example.com", "fullName": "Written During The Flip", "signupDate": "2026-01-01T00:00:00.000Z"}}"#
    );
    let headers = format!(
        "x-vercel-blob-access: public\r\nx-allow-overwrite: 1\r\nx-content-type: application/json\r\n\
         Content-Length: {}\r\n",
        body.len()
    );
    ask(address, "PUT", &format!("?pathname={}", name(number)), &headers, &body)
        .context("write through the gateway")
}

/// One look at what was written.
fn look(address: &str, number: usize) -> anyhow::Result<()> {
    ask(address, "GET", &format!("?url={}", name(number)), "", "").context("read through the gateway")
}

fn name(number: usize) -> String {
    format!("signups/{number:016x}_1767225600000-demo.json")
}

fn ask(address: &str, method: &str, query: &str, headers: &str, body: &str) -> anyhow::Result<()> {
    let (host, path) = address.split_once('/').unwrap_or((address, ""));
    let path = if path.is_empty() { String::new() } else { format!("/{path}") };
    let head = format!(
        "{method} {path}/{query} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\nAuthorization: Bearer {TOKEN}\r\n\
         {headers}\r\n"
    );
    let mut stream = TcpStream::connect(host)?;
    stream.set_read_timeout(Some(WRITE_MAX))?;
    stream.write_all(format!("{head}{body}").as_bytes())?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    let status = answer.lines().next().unwrap_or_default();
    ensure!(status.starts_with("HTTP/1.1 200"), "it was answered with {status:?}");
    Ok(())
}
