//! A gateway of this program beside its other commands, and an application that writes through it: for the demo and for
//! drills.

use std::collections::BTreeMap;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::TcpStream;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail, ensure};
use bytes::Bytes;
use serde::Deserialize;

use crate::blob::store::Access;
use crate::blob::{Pathname, location};

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
        // Its stdin ends with this process.
        command.arg("--drill-step").stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::piped());
        let mut process = command.spawn().context("start the gateway")?;
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

    /// An application that writes the records of these numbers, and looks at each after it was written, until it is
    /// stopped; `most` times at most.
    pub(super) fn application(
        &self,
        token: &str,
        most: usize,
        record: impl Fn(usize) -> Record + Send + 'static,
    ) -> Application {
        let stop = Arc::new(AtomicBool::new(false));
        let until = Arc::clone(&stop);
        let client = Client { address: self.address.clone(), token: token.to_owned() };
        let writing = std::thread::spawn(move || {
            let mut written = Written::default();
            while !until.load(Ordering::SeqCst) && written.count < most {
                let record = record(written.count);
                let began = Instant::now();
                let stored = client.put(&record)?;
                written.slowest = written.slowest.max(began.elapsed());
                let seen = client.look(&record.pathname)?;
                ensure!(seen == stored, "{} was written as {stored}, and read as {seen}", record.pathname);
                written.last.insert(record.pathname, record.body);
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

/// What an application writes.
pub(super) struct Record {
    pub(super) pathname: String,
    pub(super) content_type: String,
    pub(super) access: Access,
    pub(super) body: Bytes,
}

/// What an application wrote.
#[derive(Debug, Default)]
pub(super) struct Written {
    pub(super) count: usize,
    pub(super) slowest: Duration,
    /// What is stored under each name.
    pub(super) last: BTreeMap<String, Bytes>,
}

impl Written {
    /// Adds what it wrote after that.
    pub(super) fn add(&mut self, later: Self) {
        self.count += later.count;
        self.slowest = self.slowest.max(later.slowest);
        self.last.extend(later.last);
    }
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

/// A client that knows nothing of gateways.
struct Client {
    address: String,
    token: String,
}

impl Client {
    /// One write as any client of Vercel Blob sends it; the ETag of what is stored.
    fn put(&self, record: &Record) -> anyhow::Result<String> {
        let Record { pathname, content_type, access, body } = record;
        let headers = format!(
            "x-vercel-blob-access: {}\r\nx-allow-overwrite: 1\r\nx-content-type: {content_type}\r\n\
             Content-Length: {}\r\n",
            access.as_str(),
            body.len()
        );
        let query = format!("?pathname={}", location::encode(&Pathname::from(pathname.as_str())));
        self.ask("PUT", &query, &headers, body)
            .with_context(|| format!("write {pathname} through the gateway"))
    }

    /// One look at what was written; its ETag.
    fn look(&self, pathname: &str) -> anyhow::Result<String> {
        let query = format!("?url={}", location::encode(&Pathname::from(pathname)));
        self.ask("GET", &query, "", b"").with_context(|| format!("read {pathname} through the gateway"))
    }

    fn ask(&self, method: &str, query: &str, headers: &str, body: &[u8]) -> anyhow::Result<String> {
        let (host, path) = self.address.split_once('/').unwrap_or((&self.address, ""));
        let path = if path.is_empty() { String::new() } else { format!("/{path}") };
        let head = format!(
            "{method} {path}/{query} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\nAuthorization: Bearer \
             {}\r\n{headers}\r\n",
            self.token
        );
        let mut stream = TcpStream::connect(host)?;
        stream.set_read_timeout(Some(WRITE_MAX))?;
        stream.write_all(&[head.as_bytes(), body].concat())?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        let (status, rest) = answer.split_once("\r\n").unwrap_or((&answer, ""));
        ensure!(status.starts_with("HTTP/1.1 200"), "it was answered with {status:?}");
        let (_, body) = rest.split_once("\r\n\r\n").unwrap_or_default();
        let told: Told = serde_json::from_str(body).context("read the answer")?;
        Ok(told.etag)
    }
}

/// What counts of an answer.
#[derive(Deserialize)]
struct Told {
    etag: String,
}
