//! Notes on disk: SQLite's own temporary file, gone with its owner. So memory does not grow with the store.

use std::sync::{Mutex, PoisonError};

use rusqlite::Connection;

use crate::error::{Error, ErrorKind, Result};

/// Notes that one piece of work keeps for itself.
pub(crate) struct Scratch {
    operation: &'static str,
    connection: Mutex<Connection>,
}

impl Scratch {
    /// Empty notes with these tables. `operation` names them in errors.
    ///
    /// # Errors
    /// `Internal`, as every other call, where the temporary file can't be written.
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
    Error::new(ErrorKind::Internal, operation).source(error)
}
