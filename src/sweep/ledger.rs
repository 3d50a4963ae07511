//! What a sweep has seen, on disk, so that memory does not grow with the store.

use rusqlite::{OptionalExtension as _, params};

use crate::blob::Pathname;
use crate::error::Result;
use crate::scratch::Scratch;
use crate::value::Key;

/// How many rows are read back at a time.
const PAGE: u32 = 500;

/// The rows of one sweep.
pub(super) struct Ledger {
    notes: Scratch,
}

/// What an anchor says of a key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Claim {
    /// Its pathname's anchor does not name it.
    None,
    /// Its pathname's anchor names it, under another rev.
    Other,
    /// Its pathname's anchor names it so.
    Same,
}

impl Ledger {
    pub(super) fn new() -> Result<Self> {
        let notes = Scratch::new(
            "keep the sweep's notes in a temporary file",
            "CREATE TABLE names (pathname TEXT PRIMARY KEY, listed INTEGER DEFAULT 0,
                                 anchored INTEGER DEFAULT 0, judged INTEGER DEFAULT 0) WITHOUT ROWID;
             CREATE TABLE claims (pk TEXT, sk TEXT, pathname TEXT, rev TEXT, met INTEGER DEFAULT 0,
                                  PRIMARY KEY (pk, sk, pathname)) WITHOUT ROWID;
             CREATE TABLE suspects (pathname TEXT PRIMARY KEY) WITHOUT ROWID;
             CREATE TABLE strays (pk TEXT, sk TEXT, PRIMARY KEY (pk, sk)) WITHOUT ROWID;",
        )?;
        Ok(Self { notes })
    }

    /// Pathnames were listed by the source.
    pub(super) fn listed<'a>(&self, pathnames: impl IntoIterator<Item = &'a Pathname>) -> Result<()> {
        self.note(
            pathnames,
            "INSERT INTO names (pathname, listed) VALUES (?, 1) ON CONFLICT DO UPDATE SET listed = 1",
        )
    }

    /// Pathnames have anchors that hold something.
    pub(super) fn anchored<'a>(&self, pathnames: impl IntoIterator<Item = &'a Pathname>) -> Result<()> {
        self.note(
            pathnames,
            "INSERT INTO names (pathname, anchored) VALUES (?, 1) ON CONFLICT DO UPDATE SET anchored = 1",
        )
    }

    /// A verdict on pathnames was reached.
    pub(super) fn judged<'a>(&self, pathnames: impl IntoIterator<Item = &'a Pathname>) -> Result<()> {
        self.note(pathnames, "UPDATE names SET judged = 1 WHERE pathname = ?")
    }

    /// No verdict on a pathname could be reached.
    pub(super) fn unjudged(&self, pathname: &Pathname) -> Result<()> {
        self.note([pathname], "UPDATE names SET judged = 0 WHERE pathname = ?")
    }

    fn note<'a>(&self, pathnames: impl IntoIterator<Item = &'a Pathname>, sql: &str) -> Result<()> {
        self.notes.all(pathnames, |connection, pathname| {
            connection.prepare_cached(sql)?.execute([pathname.as_str()]).map(drop)
        })
    }

    /// Listed, listed with a verdict, anchored, anchored with a verdict.
    pub(super) fn coverage(&self) -> Result<[u64; 4]> {
        self.notes.with(|connection| {
            connection.query_row(
                "SELECT count(*) FILTER (WHERE listed), count(*) FILTER (WHERE listed AND judged),
                        count(*) FILTER (WHERE anchored), count(*) FILTER (WHERE anchored AND judged)
                 FROM names",
                [],
                |row| Ok([row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?]),
            )
        })
    }

    /// Anchors name these keys, for this pathname and rev.
    pub(super) fn claims<'a>(
        &self,
        claims: impl IntoIterator<Item = (&'a Key, &'a Pathname, &'a str)>,
    ) -> Result<()> {
        self.notes.all(claims, |connection, (key, pathname, rev)| {
            let mut insert =
                connection.prepare_cached("INSERT OR REPLACE INTO claims VALUES (?, ?, ?, ?, 0)")?;
            insert.execute(params![key.partition, key.sort, pathname.as_str(), rev]).map(drop)
        })
    }

    /// An item of ours was met; says what its pathname's anchor said of its key.
    pub(super) fn met(&self, key: &Key, pathname: &str, rev: &str) -> Result<Claim> {
        self.notes.with(|connection| {
            let mut find = connection
                .prepare_cached("SELECT rev FROM claims WHERE pk = ? AND sk = ? AND pathname = ?")?;
            let at = params![key.partition, key.sort, pathname];
            let claimed: Option<String> = find.query_row(at, |row| row.get(0)).optional()?;
            Ok(match claimed {
                None => Claim::None,
                Some(claimed) if claimed != rev => Claim::Other,
                Some(_) => {
                    connection
                        .prepare_cached("UPDATE claims SET met = 1 WHERE pk = ? AND sk = ? AND pathname = ?")?
                        .execute(at)?;
                    Claim::Same
                }
            })
        })
    }

    /// Pathnames with anchors that the source did not list become suspects, and those whose anchors name
    /// items that were not met so.
    pub(super) fn suspect_the_rest(&self) -> Result<()> {
        self.notes.with(|connection| {
            connection.execute_batch(
                "INSERT OR IGNORE INTO suspects SELECT pathname FROM names WHERE anchored AND NOT listed;
                 INSERT OR IGNORE INTO suspects SELECT DISTINCT pathname FROM claims WHERE NOT met;",
            )
        })
    }

    /// These pathnames are to be judged singly.
    pub(super) fn suspect<'a>(&self, pathnames: impl IntoIterator<Item = &'a Pathname>) -> Result<()> {
        self.notes.all(pathnames, |connection, pathname| {
            let mut insert = connection.prepare_cached("INSERT OR IGNORE INTO suspects VALUES (?)")?;
            insert.execute([pathname.as_str()]).map(drop)
        })
    }

    /// This item is to be judged singly.
    pub(super) fn stray(&self, key: &Key) -> Result<()> {
        self.notes.with(|connection| {
            let mut insert = connection.prepare_cached("INSERT OR IGNORE INTO strays VALUES (?, ?)")?;
            insert.execute([&key.partition, &key.sort]).map(drop)
        })
    }

    pub(super) fn suspect_count(&self) -> Result<u64> {
        self.notes
            .with(|connection| connection.query_row("SELECT count(*) FROM suspects", [], |row| row.get(0)))
    }

    /// The next suspects after a pathname, in order.
    pub(super) fn suspects(&self, after: &str) -> Result<Vec<Pathname>> {
        self.notes.with(|connection| {
            let mut find = connection
                .prepare_cached("SELECT pathname FROM suspects WHERE pathname > ? ORDER BY 1 LIMIT ?")?;
            let rows = find.query_map(params![after, PAGE], |row| row.get::<_, String>(0))?;
            rows.map(|row| row.map(Pathname::new)).collect()
        })
    }

    /// The next strays after a key, in order.
    pub(super) fn strays(&self, after: &Key) -> Result<Vec<Key>> {
        self.notes.with(|connection| {
            let mut find = connection.prepare_cached(
                "SELECT pk, sk FROM strays WHERE (pk, sk) > (?, ?) ORDER BY pk, sk LIMIT ?",
            )?;
            let rows = find.query_map(params![after.partition, after.sort, PAGE], |row| {
                Ok(Key { partition: row.get(0)?, sort: row.get(1)? })
            })?;
            rows.collect()
        })
    }
}
