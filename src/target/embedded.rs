//! The embedded DynamoDB engine, served over HTTP on loopback.
//!
//! Owns one thread with its own runtime, because the engine runs SQLite within each request and would
//! stall the caller's. Clients reach it like any endpoint, through [`crate::target::dynamodb`].

use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::pin::pin;
use std::thread::JoinHandle;
use std::time::Duration;

use dynoxide::Database;
use tokio_util::sync::CancellationToken;

use crate::error::{Error, ErrorKind, Result};
use crate::folder;

/// Requests that are being served when the engine stops have this long to finish.
const GRACE: Duration = Duration::from_secs(1);

/// Where the engine keeps its data.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Location {
    /// In a file, which several processes may have open; each request waits up to 5 s for another's.
    File(PathBuf),
    /// In memory, until the engine stops.
    Memory,
}

/// A running engine. It stops when it is dropped.
#[derive(Debug)]
pub struct Engine {
    address: SocketAddr,
    running: Option<Running>,
}

#[derive(Debug)]
struct Running {
    stop: CancellationToken,
    thread: JoinHandle<Result<()>>,
}

impl Engine {
    /// Opens the data and serves it, on a free port of the loopback address unless told otherwise.
    ///
    /// Returns once requests are accepted. The directory of a file is made if it is missing. Blocks for
    /// some milliseconds, or until another process has brought the file up to date.
    ///
    /// # Errors
    /// `Usage` where the address is taken or not on loopback: anyone who reaches it may write.
    /// `Corrupt` where the file is not an engine's; `Internal` where the machine has no thread left.
    pub fn start(location: &Location, listen: Option<SocketAddr>) -> Result<Self> {
        let listen = listen.unwrap_or_else(|| SocketAddr::from((Ipv4Addr::LOCALHOST, 0)));
        if !listen.ip().is_loopback() {
            return Err(Error::new(ErrorKind::Usage, "start embedded DynamoDB")
                .key(listen)
                .message("it has no access control, so it listens on loopback only"));
        }
        let database = open(location)?;
        let listener = TcpListener::bind(listen)
            .and_then(|listener| listener.set_nonblocking(true).map(|()| listener))
            .map_err(|cause| failed(ErrorKind::Usage, "cannot listen").key(listen).source(cause))?;
        let address =
            listener.local_addr().map_err(|cause| failed(ErrorKind::Internal, "no address").source(cause))?;
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(|cause| failed(ErrorKind::Internal, "no runtime").source(cause))?;
        let stop = CancellationToken::new();
        let stopped = stop.clone();
        let thread = std::thread::Builder::new()
            .name("embedded-dynamodb".to_owned())
            .spawn(move || runtime.block_on(serve(listener, database, stopped)))
            .map_err(|cause| failed(ErrorKind::Internal, "no thread").source(cause))?;
        Ok(Self { address, running: Some(Running { stop, thread }) })
    }

    /// Its URL.
    #[must_use]
    pub fn endpoint(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Finishes requests that are being served, for at most a second, and closes the data.
    ///
    /// # Errors
    /// `Internal` where serving had failed.
    pub fn stop(mut self) -> Result<()> {
        self.finish()
    }

    fn finish(&mut self) -> Result<()> {
        let Some(Running { stop, thread }) = self.running.take() else { return Ok(()) };
        stop.cancel();
        thread.join().unwrap_or_else(|_| Err(failed(ErrorKind::Internal, "it panicked")))
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        // Who wants to know how it ended calls `stop`.
        self.finish().ok();
    }
}

async fn serve(listener: TcpListener, database: Database, stop: CancellationToken) -> Result<()> {
    let listener = tokio::net::TcpListener::from_std(listener)
        .map_err(|cause| failed(ErrorKind::Internal, "no listener").source(cause))?;
    let stopped = stop.clone().cancelled_owned();
    let mut serving = pin!(dynoxide::server::serve_with_shutdown(listener, database, stopped));
    let served = tokio::select! {
        served = &mut serving => served,
        // A client that is silent within a request would be waited for without end.
        () = stop.cancelled() => tokio::time::timeout(GRACE, serving).await.unwrap_or(Ok(())),
    };
    served.map_err(|cause| failed(ErrorKind::Internal, &cause))
}

fn open(location: &Location) -> Result<Database> {
    match location {
        Location::Memory => {
            Database::memory().map_err(|cause| failed(ErrorKind::Internal, "no memory").source(cause))
        }
        Location::File(path) => open_file(path),
    }
}

fn open_file(path: &Path) -> Result<Database> {
    let unusable = |kind, message: &str| failed(kind, message).key(path.display());
    if let Some(directory) = path.parent().filter(|directory| !directory.as_os_str().is_empty()) {
        folder::make(directory).map_err(|cause| {
            folder::failed(unusable(ErrorKind::Usage, "cannot make its directory"), path, cause)
        })?;
    }
    // SQLite makes the files beside it as this one is.
    folder::open_or_create(path)
        .map_err(|cause| folder::failed(unusable(ErrorKind::Usage, "cannot write it"), path, cause))?;
    let text = path.to_str().ok_or_else(|| unusable(ErrorKind::Usage, "its path is not UTF-8"))?;
    let database =
        Database::new(text).map_err(|cause| unusable(ErrorKind::Corrupt, "cannot open it").source(cause))?;
    // The engine's way to set `synchronous = NORMAL`: with its write-ahead log, what was applied survives
    // the end of the process, and only a power cut can take back the last moments.
    database
        .disable_bulk_loading()
        .map_err(|cause| unusable(ErrorKind::Corrupt, "cannot set it up").source(cause))?;
    Ok(database)
}

fn failed(kind: ErrorKind, message: &str) -> Error {
    Error::new(kind, "start embedded DynamoDB").message(message)
}
