//! Notes on disk: SQLite's own temporary file, gone with its owner. So memory does not grow with the store.

use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use rusqlite::{Connection, ErrorCode};

use crate::blob::spool;
use crate::error::{Error, ErrorKind, Result};
use crate::folder;

/// Notes that one piece of work keeps for itself.
pub(crate) struct Scratch {
    operation: &'static str,
    connection: Mutex<Connection>,
}

impl Scratch {
    /// Empty notes with these tables. `operation` names them in errors.
    ///
    /// # Errors
    /// `NoSpace` where the disk is full, `Internal` where the temporary file can't be written else; so every other call.
    pub(crate) fn new(operation: &'static str, tables: &str) -> Result<Self> {
        // An empty name is a temporary database on disk.
        let open = || {
            let connection = Connection::open("")?;
            connection.execute_batch("PRAGMA synchronous = off; PRAGMA journal_mode = off;")?;
            connection.execute_batch(tables)?;
            Ok(connection)
        };
        let connection = open().map_err(|error| failed(operation, error))?;
        Ok(Self { operation, connection: Mutex::new(connection) })
    }

    /// Reads or writes.
    pub(crate) fn with<T>(&self, run: impl FnOnce(&Connection) -> rusqlite::Result<T>) -> Result<T> {
        let connection = self.connection.lock().unwrap_or_else(PoisonError::into_inner);
        run(&connection).map_err(|error| failed(self.operation, error))
    }

    /// Many changes at once.
    pub(crate) fn all<T>(
        &self,
        rows: impl IntoIterator<Item = T>,
        mut run: impl FnMut(&Connection, T) -> rusqlite::Result<()>,
    ) -> Result<()> {
        self.with(|connection| {
            connection.execute_batch("BEGIN")?;
            for row in rows {
                run(connection, row)?;
            }
            connection.execute_batch("COMMIT")
        })
    }
}

fn failed(operation: &'static str, error: rusqlite::Error) -> Error {
    if is_full(&error) {
        return folder::no_space(operation, &folder()).hint(spool::HINT).source(error);
    }
    Error::new(ErrorKind::Internal, operation).source(error)
}

/// Where SQLite keeps its temporary files: where TMPDIR leads, else not where others do.
fn folder() -> PathBuf {
    let (named, other) = (std::env::temp_dir(), Path::new("/var/tmp"));
    if named == Path::new("/tmp") && other.is_dir() { other.to_owned() } else { named }
}

/// Whether an error of SQLite is that of a full disk: also where it can't make the index of its log.
pub(crate) fn is_full(error: &rusqlite::Error) -> bool {
    error.sqlite_error().is_some_and(|error| {
        error.code == ErrorCode::DiskFull || error.extended_code == rusqlite::ffi::SQLITE_IOERR_SHMSIZE
    })
}

#[cfg(test)]
mod tests {
    use rusqlite::ffi;

    use super::*;

    #[test]
    fn a_full_disk_is_told_from_other_failures() {
        for (code, kind) in [
            (ffi::SQLITE_FULL, ErrorKind::NoSpace),
            (ffi::SQLITE_IOERR_SHMSIZE, ErrorKind::NoSpace),
            (ffi::SQLITE_IOERR_WRITE, ErrorKind::Internal),
        ] {
            let error = failed("compare", rusqlite::Error::SqliteFailure(ffi::Error::new(code), None));
            assert_eq!(error.kind(), kind, "{error}");
            let named = error.to_string().contains(&format!("no space left in {}", folder().display()));
            assert_eq!(named, kind == ErrorKind::NoSpace, "{error}");
        }
    }
}
