//! The file: how it is created, recognised, locked and opened; and what SQLite's errors mean.
//!
//! Nothing outside `snapshot` sees a connection.

use std::fs::{self, File, TryLockError};
use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use rusqlite::{Connection, ErrorCode, OpenFlags, OptionalExtension as _, TransactionBehavior};

use crate::error::{Error, ErrorKind, Result};
use crate::{folder, scratch};

/// "MgSn": tells `file` and us that this SQLite file is a snapshot.
const APPLICATION_ID: i32 = 0x4d67_536e;
/// The version of the tables below. A change of them is a new version.
const FORMAT: i32 = 1;
const MAGIC: &[u8; 16] = b"SQLite format 3\0";
/// How long a commit waits for a reader's short transaction, and the other way round.
const BUSY_WAIT: Duration = Duration::from_secs(10);

/// Times are RFC 3339 texts, so that a person can read them; `uploaded_at` has milliseconds.
const SCHEMA: &str = "
CREATE TABLE meta (name TEXT PRIMARY KEY, value TEXT NOT NULL) STRICT;

-- One attempt to hold the whole store. `listed` and `finished` are set when it got so far.
CREATE TABLE runs (
  id INTEGER PRIMARY KEY AUTOINCREMENT,
  prefix TEXT NOT NULL,
  started TEXT NOT NULL,
  listed TEXT,
  finished TEXT,
  simple_operations INTEGER NOT NULL DEFAULT 0,
  advanced_operations INTEGER NOT NULL DEFAULT 0,
  operations_at TEXT NOT NULL
) STRICT;

-- The pages of a run's listing that are durable, and where the next one begins.
CREATE TABLE pages (
  run INTEGER NOT NULL REFERENCES runs,
  number INTEGER NOT NULL,
  blobs INTEGER NOT NULL,
  next_cursor TEXT,
  PRIMARY KEY (run, number)
) STRICT;

-- One row for each pathname ever listed. The first group of columns is what was listed last, by which
-- run, and whether it was there then (state: listed or gone); the second is the body that is held, which
-- is the listed one where body_etag = etag.
CREATE TABLE blobs (
  id INTEGER PRIMARY KEY,
  pathname TEXT NOT NULL UNIQUE,
  etag TEXT NOT NULL,
  size INTEGER NOT NULL,
  uploaded_at TEXT NOT NULL,
  verdict TEXT NOT NULL,
  state TEXT NOT NULL,
  run INTEGER NOT NULL REFERENCES runs,

  body_etag TEXT,
  body_size INTEGER,
  body_sha256 TEXT,
  content_type TEXT,
  cache_control TEXT
) STRICT;

-- Bodies, each chunk compressed by itself with zstd.
CREATE TABLE chunks (
  blob INTEGER NOT NULL REFERENCES blobs,
  number INTEGER NOT NULL,
  data BLOB NOT NULL,
  PRIMARY KEY (blob, number)
) STRICT;

-- Bodies that the run could not get, and why. A body that is got later leaves this table.
CREATE TABLE failures (
  pathname TEXT PRIMARY KEY,
  run INTEGER NOT NULL REFERENCES runs,
  kind TEXT NOT NULL,
  message TEXT NOT NULL,
  at TEXT NOT NULL
) STRICT;

-- One row for each finished run.
CREATE TABLE manifests (
  run INTEGER PRIMARY KEY REFERENCES runs,
  prefix TEXT NOT NULL,
  started TEXT NOT NULL,
  finished TEXT NOT NULL,
  listed INTEGER NOT NULL,
  fetched INTEGER NOT NULL,
  ignored INTEGER NOT NULL,
  accepted INTEGER NOT NULL,
  unmatched INTEGER NOT NULL,
  ambiguous INTEGER NOT NULL,
  gone INTEGER NOT NULL,
  bytes INTEGER NOT NULL,
  digest TEXT NOT NULL
) STRICT;
";

/// A snapshot that is open: for reading, or as the one writer. Clones share it.
#[derive(Clone)]
pub struct Snapshot {
    shared: Arc<Shared>,
}

struct Shared {
    path: PathBuf,
    store: String,
    connection: Mutex<Connection>,
    /// Held as long as this writer lives; the system lets go of it when the process dies.
    lock: Option<File>,
}

impl Snapshot {
    /// Opens a snapshot for reading. A writer may be at work meanwhile; each call sees its last commit.
    ///
    /// # Errors
    /// `NotFound` where there is no file, `Usage` for a file that is no snapshot or of a newer version,
    /// `Corrupt` for one that is cut off or damaged. Each names the file.
    pub fn open(path: impl AsRef<Path>) -> Result<Self> {
        let path = path.as_ref();
        folder::check(path).map_err(|error| io_error("open snapshot", path, error))?;
        let bytes = match fs::metadata(path) {
            Ok(metadata) => metadata.len(),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                return Err(Error::new(ErrorKind::NotFound, "open snapshot")
                    .key(path.display())
                    .message("there is no such file")
                    .hint("run `migrate export` first, or name the file with --snapshot"));
            }
            Err(error) => return Err(io_error("open snapshot", path, error)),
        };
        if bytes == 0 {
            return Err(Error::new(ErrorKind::Corrupt, "open snapshot")
                .key(path.display())
                .message("the file is empty: the export that created it saved nothing")
                .hint("run `migrate export`"));
        }
        check_magic(path)?;
        let connection = connect(path)?;
        connection
            .pragma_update(None, "query_only", true)
            .map_err(|error| sqlite_error("open snapshot", path, error))?;
        if !recognise(&connection, path)? {
            return Err(Error::new(ErrorKind::Corrupt, "open snapshot")
                .key(path.display())
                .message("it holds nothing: the export that created it was stopped at once")
                .hint("run `migrate export`"));
        }
        let store = stored_name(&connection, path)?;
        Ok(Self::new(path, store, connection, None))
    }

    /// Copies what is committed into a new file, which is a snapshot too.
    ///
    /// # Errors
    /// `Usage` where the file can't be made, or is there; `Corrupt` for a damaged snapshot.
    pub fn copy_to(&self, target: &Path) -> Result<()> {
        let text = target.to_str().ok_or_else(|| {
            Error::new(ErrorKind::Usage, "copy snapshot")
                .key(target.display())
                .message("the path is not UTF-8")
        })?;
        let connection = connect(self.path())?;
        // Into an empty file, so that it is its owner's from the beginning.
        folder::create_new(target).map_err(|error| io_error("copy snapshot", target, error))?;
        let copied = connection.execute("VACUUM INTO ?1", [text]);
        copied.map(drop).map_err(|error| {
            // What was copied is no snapshot yet; if it can't be removed, it is refused as what it is.
            fs::remove_file(target).ok();
            sqlite_error("copy snapshot", target, error)
        })
    }

    /// Opens the snapshot of `store` for writing, and creates it (with its folder) where there is none.
    ///
    /// # Errors
    /// `Busy` while another writer has it; `Usage` for another store's snapshot; else as [`Self::open`].
    pub fn create_or_open(path: impl AsRef<Path>, store: &str) -> Result<Self> {
        let path = path.as_ref();
        if let Some(folder) = path.parent().filter(|folder| !folder.as_os_str().is_empty()) {
            folder::make(folder).map_err(|error| io_error("create folder", folder, error))?;
        }
        folder::check(path).map_err(|error| io_error("open snapshot", path, error))?;
        let lock = lock(path)?;
        if fs::metadata(path).is_ok_and(|metadata| metadata.len() > 0) {
            check_magic(path)?;
        }
        // SQLite makes the files beside it as this one is.
        folder::open_or_create(path).map_err(|error| io_error("create snapshot", path, error))?;
        let mut connection = connect(path)?;
        if !recognise(&connection, path)? {
            create(&mut connection, store).map_err(|error| sqlite_error("create snapshot", path, error))?;
        }
        let stored = stored_name(&connection, path)?;
        if stored != store {
            return Err(Error::new(ErrorKind::Usage, "open snapshot")
                .key(path.display())
                .message(format!("it belongs to the store `{stored}`, not to `{store}`"))
                .hint("name another file with --snapshot"));
        }
        // A commit is one write to the log, which survives a kill; the log is folded in on closing.
        connection
            .pragma_update(None, "journal_mode", "wal")
            .and_then(|()| connection.pragma_update(None, "synchronous", "normal"))
            .map_err(|error| sqlite_error("open snapshot", path, error))?;
        Ok(Self::new(path, stored, connection, Some(lock)))
    }

    fn new(path: &Path, store: String, connection: Connection, lock: Option<File>) -> Self {
        let connection = Mutex::new(connection);
        Self { shared: Arc::new(Shared { path: path.to_owned(), store, connection, lock }) }
    }

    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.shared.path
    }

    /// The store that it belongs to.
    #[must_use]
    pub fn store(&self) -> &str {
        &self.shared.store
    }

    /// Whether this is the writer.
    #[must_use]
    pub fn is_writer(&self) -> bool {
        self.shared.lock.is_some()
    }

    /// Runs `work` on the connection, off the async threads. It runs to its end even if the caller is
    /// dropped, so that a transaction is never left half done.
    pub(super) async fn with<T: Send + 'static>(
        &self,
        operation: &'static str,
        work: impl FnOnce(&mut Connection) -> rusqlite::Result<T> + Send + 'static,
    ) -> Result<T> {
        let shared = Arc::clone(&self.shared);
        let done = tokio::task::spawn_blocking(move || {
            // A panic inside a transaction rolled it back, so the connection behind the lock is sound.
            let mut connection = shared.connection.lock().unwrap_or_else(PoisonError::into_inner);
            work(&mut connection).map_err(|error| sqlite_error(operation, &shared.path, error))
        });
        done.await.map_err(|error| {
            Error::new(ErrorKind::Internal, operation).key(self.path().display()).source(error)
        })?
    }

    /// An error about this file's content.
    pub(super) fn damaged(&self, message: impl std::fmt::Display) -> Error {
        Error::new(ErrorKind::Corrupt, "read snapshot")
            .key(self.path().display())
            .message(message)
            .hint("move the file away and run `migrate export` again")
    }
}

impl std::fmt::Debug for Snapshot {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Snapshot")
            .field("path", &self.shared.path)
            .field("store", &self.shared.store)
            .finish_non_exhaustive()
    }
}

fn lock(path: &Path) -> Result<File> {
    let mut name = path.as_os_str().to_owned();
    name.push(".lock");
    let name = PathBuf::from(name);
    // The file stays: removing it would let two processes lock two files of one name.
    let file = folder::open_or_create(&name).map_err(|error| io_error("create lock file", &name, error))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => Err(Error::new(ErrorKind::Busy, "open snapshot")
            .key(path.display())
            .message("another process is exporting into it")),
        Err(TryLockError::Error(error)) => Err(io_error("lock", &name, error)),
    }
}

fn check_magic(path: &Path) -> Result<()> {
    let mut start = Vec::new();
    File::open(path)
        .and_then(|file| file.take(MAGIC.len() as u64).read_to_end(&mut start))
        .map_err(|error| io_error("open snapshot", path, error))?;
    if start == MAGIC { Ok(()) } else { Err(foreign(path, "the file is not a snapshot")) }
}

/// Readers too ask for write access (and get less on a read-only file): only so can they fold in and
/// remove the log that a killed writer left.
fn connect(path: &Path) -> Result<Connection> {
    folder::close(path).map_err(|error| io_error("open snapshot", path, error))?;
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    Connection::open_with_flags(path, flags)
        .and_then(|connection| {
            connection.busy_timeout(BUSY_WAIT)?;
            Ok(connection)
        })
        .map_err(|error| sqlite_error("open snapshot", path, error))
}

/// Whether the file is a snapshot of this format; false where it is empty.
fn recognise(connection: &Connection, path: &Path) -> Result<bool> {
    let read = || -> rusqlite::Result<(i32, i32, i64)> {
        Ok((
            connection.pragma_query_value(None, "application_id", |row| row.get(0))?,
            connection.pragma_query_value(None, "user_version", |row| row.get(0))?,
            connection.query_row("SELECT count(*) FROM sqlite_schema", [], |row| row.get(0))?,
        ))
    };
    match read().map_err(|error| sqlite_error("open snapshot", path, error))? {
        (0, 0, 0) => Ok(false),
        (APPLICATION_ID, FORMAT, _) => Ok(true),
        (APPLICATION_ID, newer, _) if newer > FORMAT => Err(Error::new(ErrorKind::Usage, "open snapshot")
            .key(path.display())
            .message(format!("it has format {newer}, this program knows formats up to {FORMAT}"))
            .hint("use the newer `migrate` that wrote it, or name another file with --snapshot")),
        _ => Err(foreign(path, "the file is another program's SQLite file, not a snapshot")),
    }
}

fn foreign(path: &Path, message: &str) -> Error {
    Error::new(ErrorKind::Usage, "open snapshot")
        .key(path.display())
        .message(message)
        .hint("name another file with --snapshot; this one was left as it is")
}

/// All or nothing: the marks of a snapshot become visible together with its tables.
fn create(connection: &mut Connection, store: &str) -> rusqlite::Result<()> {
    let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    transaction.execute_batch(SCHEMA)?;
    transaction.execute("INSERT INTO meta (name, value) VALUES ('store', ?1)", [store])?;
    transaction.pragma_update(None, "application_id", APPLICATION_ID)?;
    transaction.pragma_update(None, "user_version", FORMAT)?;
    transaction.commit()
}

fn stored_name(connection: &Connection, path: &Path) -> Result<String> {
    connection
        .query_row("SELECT value FROM meta WHERE name = 'store'", [], |row| row.get(0))
        .optional()
        .map_err(|error| sqlite_error("open snapshot", path, error))?
        .ok_or_else(|| {
            Error::new(ErrorKind::Corrupt, "open snapshot")
                .key(path.display())
                .message("it does not say which store it belongs to")
        })
}

fn io_error(operation: &'static str, path: &Path, error: std::io::Error) -> Error {
    let kind = match error.kind() {
        std::io::ErrorKind::PermissionDenied
        | std::io::ErrorKind::ReadOnlyFilesystem
        | std::io::ErrorKind::NotADirectory
        | std::io::ErrorKind::IsADirectory => ErrorKind::Usage,
        _ => ErrorKind::Internal,
    };
    folder::failed(Error::new(kind, operation).key(path.display()).message("can't be used"), path, error)
}

/// What an error of SQLite means, in one place.
fn sqlite_error(operation: &'static str, path: &Path, error: rusqlite::Error) -> Error {
    if scratch::is_full(&error) {
        let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty());
        let full = folder::no_space(operation, folder.unwrap_or(Path::new("."))).key(path.display());
        return full.source(error);
    }
    let (kind, message) = match error.sqlite_error_code() {
        Some(ErrorCode::DatabaseCorrupt) => (ErrorKind::Corrupt, "the file is damaged or cut off"),
        Some(ErrorCode::NotADatabase) => return foreign(path, "the file is not a snapshot").source(error),
        Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked) => {
            (ErrorKind::Busy, "another process keeps it locked")
        }
        Some(ErrorCode::ReadOnly | ErrorCode::PermissionDenied) => (ErrorKind::Usage, "it can't be written"),
        Some(ErrorCode::CannotOpen) => (ErrorKind::Usage, "it can't be opened"),
        None if unreadable(&error) => (ErrorKind::Corrupt, "a row can't be read"),
        Some(ErrorCode::SystemIoFailure) => (ErrorKind::NotApplied, "the disk failed to read or write it"),
        _ => (ErrorKind::Internal, "an unexpected failure of SQLite"),
    };
    let error = Error::new(kind, operation).key(path.display()).message(message).source(error);
    if kind == ErrorKind::Corrupt {
        error.hint("move the file away and run `migrate export` again")
    } else {
        error
    }
}

/// Whether a stored value is not what its column holds.
fn unreadable(error: &rusqlite::Error) -> bool {
    matches!(
        error,
        rusqlite::Error::FromSqlConversionFailure(..)
            | rusqlite::Error::InvalidColumnType(..)
            | rusqlite::Error::IntegralValueOutOfRange(..)
            | rusqlite::Error::Utf8Error(..)
    )
}
