//! What a finished export says of itself.

use jiff::Timestamp;
use rusqlite::{Connection, OptionalExtension as _, Row, params};
use serde::{Deserialize, Serialize};
use sha2::Digest as _;

use super::file::Snapshot;
use super::rows::parsed;
use super::run::{Run, Totals};
use crate::digest::Digest;
use crate::error::Result;

/// The manifest of a finished export: every mapped blob that was listed is held, verified.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Manifest {
    /// The run's id.
    pub run: i64,
    /// The prefix of the listed pathnames.
    pub prefix: String,
    /// When the run began.
    pub started: Timestamp,
    /// When the last body was durable.
    pub finished: Timestamp,
    /// All blobs that were listed and were not deleted meanwhile; the sum of the next five.
    pub listed: u64,
    /// Those whose bodies are held.
    pub fetched: u64,
    /// Those that an ignore rule names.
    pub ignored: u64,
    /// Those that an accept rule names.
    pub accepted: u64,
    /// Those that no rule names.
    pub unmatched: u64,
    /// Those that several rules name.
    pub ambiguous: u64,
    /// Those that were there before, or were listed, and are not there any more.
    pub gone: u64,
    /// The length of all bodies.
    pub bytes: u64,
    /// SHA-256 over pathname, ETag and SHA-256 of each body, in the order of the pathnames.
    pub digest: Digest,
}

impl Snapshot {
    /// The manifest of the last export; none while that one is unfinished.
    ///
    /// # Errors
    /// `Corrupt` for a damaged file.
    pub async fn manifest(&self) -> Result<Option<Manifest>> {
        self.with("read the manifest", |connection| {
            connection
                .query_row(
                    "SELECT run, prefix, started, finished, listed, fetched, ignored, accepted,
                            unmatched, ambiguous, gone, bytes, digest
                     FROM manifests WHERE run = (SELECT max(id) FROM runs)",
                    [],
                    manifest,
                )
                .optional()
        })
        .await
    }

    /// Computes and commits the manifest of a run that holds every body, and ends the run.
    pub(super) async fn finish(&self, run: &Run, totals: &Totals, now: Timestamp) -> Result<Manifest> {
        let (run, totals) = (run.clone(), totals.clone());
        self.with("finish the run", move |connection| {
            let transaction = connection.transaction()?;
            let manifest = Manifest {
                run: run.id,
                prefix: run.prefix,
                started: run.started,
                finished: now,
                listed: totals.listed,
                fetched: totals.held,
                ignored: totals.ignored,
                accepted: totals.accepted,
                unmatched: totals.unmatched,
                ambiguous: totals.ambiguous,
                gone: totals.gone,
                bytes: totals.held_bytes,
                digest: digest(&transaction, run.id)?,
            };
            insert(&transaction, &manifest)?;
            transaction.execute(
                "UPDATE runs SET finished = ?2 WHERE id = ?1",
                params![run.id, manifest.finished.to_string()],
            )?;
            transaction.commit()?;
            // Everything into the one file, so that it can be copied as it is.
            connection.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(()))?;
            Ok(manifest)
        })
        .await
    }
}

/// Each part is preceded by its length, so that no two lists of blobs have the same input.
fn digest(connection: &Connection, run: i64) -> rusqlite::Result<Digest> {
    let mut select = connection.prepare(
        "SELECT pathname, etag, body_sha256 FROM blobs
         WHERE run = ?1 AND state = 'listed' AND verdict = 'mapped' ORDER BY pathname",
    )?;
    let mut rows = select.query([run])?;
    let mut hasher = sha2::Sha256::new();
    while let Some(row) = rows.next()? {
        for column in 0..3 {
            let part = row.get_ref(column)?.as_str()?;
            hasher.update((part.len() as u64).to_be_bytes());
            hasher.update(part);
        }
    }
    Ok(Digest::from_bytes(hasher.finalize().into()))
}

fn insert(connection: &Connection, manifest: &Manifest) -> rusqlite::Result<()> {
    connection.execute(
        "INSERT INTO manifests (run, prefix, started, finished, listed, fetched, ignored, accepted,
           unmatched, ambiguous, gone, bytes, digest)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13)",
        params![
            manifest.run,
            manifest.prefix,
            manifest.started.to_string(),
            manifest.finished.to_string(),
            manifest.listed,
            manifest.fetched,
            manifest.ignored,
            manifest.accepted,
            manifest.unmatched,
            manifest.ambiguous,
            manifest.gone,
            manifest.bytes,
            manifest.digest.to_string(),
        ],
    )?;
    Ok(())
}

fn manifest(row: &Row<'_>) -> rusqlite::Result<Manifest> {
    Ok(Manifest {
        run: row.get(0)?,
        prefix: row.get(1)?,
        started: parsed(row, 2)?,
        finished: parsed(row, 3)?,
        listed: row.get(4)?,
        fetched: row.get(5)?,
        ignored: row.get(6)?,
        accepted: row.get(7)?,
        unmatched: row.get(8)?,
        ambiguous: row.get(9)?,
        gone: row.get(10)?,
        bytes: row.get(11)?,
        digest: parsed(row, 12)?,
    })
}
