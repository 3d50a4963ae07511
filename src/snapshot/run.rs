//! Runs and their pages: where an export is, derived from what is durable.
//!
//! A page of the listing and its place in the listing are committed together, so the listing goes on
//! behind the last page that is kept. What is still to be fetched is not kept anywhere: it is the mapped
//! blobs whose body is of another ETag than the listed one.

use jiff::Timestamp;
use rusqlite::{OptionalExtension as _, Transaction, params};

use super::file::Snapshot;
use super::report::FailedBody;
use super::rows::{Outcome, Verdict, parsed, record, version};
use crate::blob::client::Operations;
use crate::blob::{ETag, ListPage, Pathname, Version};
use crate::error::Result;

/// A run that is not finished.
#[derive(Debug, Clone)]
pub(super) struct Run {
    pub(super) id: i64,
    pub(super) prefix: String,
    pub(super) started: Timestamp,
    /// The listing's pages that are durable.
    pub(super) pages: u64,
    /// Whether the listing got to its end.
    pub(super) listed: bool,
    /// Where the next page begins.
    pub(super) cursor: Option<String>,
}

/// What a run listed and what it holds.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Totals {
    pub(super) listed: u64,
    pub(super) mapped: u64,
    pub(super) ignored: u64,
    pub(super) accepted: u64,
    pub(super) unmatched: u64,
    pub(super) ambiguous: u64,
    pub(super) gone: u64,
    /// Mapped blobs whose listed version is held, and their bytes.
    pub(super) held: u64,
    pub(super) held_bytes: u64,
    /// Mapped blobs whose listed version is not held, and their bytes.
    pub(super) missing: u64,
    pub(super) missing_bytes: u64,
}

/// Operations since the last commit, and when that is.
#[derive(Debug, Clone, Copy)]
pub(super) struct Spent {
    pub(super) operations: Operations,
    pub(super) at: Timestamp,
}

/// A body that a run still has to fetch.
#[derive(Debug, Clone)]
pub(super) struct Wanted {
    pub(super) pathname: Pathname,
    pub(super) version: Version,
    pub(super) size: u64,
}

impl Snapshot {
    /// The unfinished run of this prefix that began at `not_before` or later.
    pub(super) async fn unfinished(&self, prefix: &str, not_before: Timestamp) -> Result<Option<Run>> {
        let prefix = prefix.to_owned();
        self.with("look for an unfinished run", move |connection| {
            let last = connection
                .query_row(
                    "SELECT id, started, listed IS NOT NULL FROM runs
                     WHERE id = (SELECT max(id) FROM runs) AND finished IS NULL AND prefix = ?1",
                    [&prefix],
                    |row| Ok((row.get::<_, i64>(0)?, parsed::<Timestamp>(row, 1)?, row.get::<_, bool>(2)?)),
                )
                .optional()?;
            if let Some((id, started, listed)) = last.filter(|(_, started, _)| *started >= not_before) {
                let (pages, cursor) = connection
                    .query_row(
                        "SELECT number, next_cursor FROM pages WHERE run = ?1 ORDER BY number DESC LIMIT 1",
                        [id],
                        |row| Ok((row.get(0)?, row.get(1)?)),
                    )
                    .optional()?
                    .unwrap_or_default();
                return Ok(Some(Run { id, prefix, started, pages, listed, cursor }));
            }
            Ok(None)
        })
        .await
    }

    /// A new run.
    pub(super) async fn begin(&self, prefix: &str, now: Timestamp) -> Result<Run> {
        let prefix = prefix.to_owned();
        self.with("begin a run", move |connection| {
            connection.execute(
                "INSERT INTO runs (prefix, started, operations_at) VALUES (?1, ?2, ?2)",
                [&prefix, &now.to_string()],
            )?;
            let id = connection.last_insert_rowid();
            Ok(Run { id, prefix, started: now, pages: 0, listed: false, cursor: None })
        })
        .await
    }

    /// Commits one page of a run's listing, and with the last page what is no longer there.
    pub(super) async fn save_page(
        &self,
        run: &mut Run,
        page: ListPage,
        verdicts: Vec<Verdict>,
        spent: Spent,
    ) -> Result<()> {
        let (id, number, cursor) = (run.id, run.pages + 1, page.cursor.clone());
        self.with("save a page", move |connection| {
            let transaction = connection.transaction()?;
            let mut upsert = transaction.prepare_cached(
                "INSERT INTO blobs (pathname, etag, size, uploaded_at, verdict, state, run)
                 VALUES (?1, ?2, ?3, ?4, ?5, 'listed', ?6)
                 ON CONFLICT (pathname) DO UPDATE SET etag = excluded.etag, size = excluded.size,
                   uploaded_at = excluded.uploaded_at, verdict = excluded.verdict, state = 'listed',
                   run = excluded.run",
            )?;
            for (blob, verdict) in page.blobs.iter().zip(verdicts) {
                upsert.execute(params![
                    blob.pathname.as_str(),
                    blob.etag.as_str(),
                    blob.size,
                    blob.uploaded_at.to_string(),
                    verdict.as_str(),
                    id,
                ])?;
            }
            drop(upsert);
            transaction.execute(
                "INSERT INTO pages (run, number, blobs, next_cursor) VALUES (?1, ?2, ?3, ?4)",
                params![id, number, page.blobs.len(), page.cursor],
            )?;
            charge(&transaction, id, spent)?;
            if page.cursor.is_none() {
                let now = spent.at.to_string();
                transaction.execute(
                    "UPDATE blobs SET state = 'gone', run = ?1 WHERE run <> ?1 AND state = 'listed'",
                    [id],
                )?;
                transaction.execute("UPDATE runs SET listed = ?2 WHERE id = ?1", params![id, now])?;
            }
            transaction.commit()
        })
        .await?;
        run.pages = number;
        run.listed = cursor.is_none();
        run.cursor = cursor;
        Ok(())
    }

    /// Asks `verdict` again for every blob of a run: the plan may have changed since it was listed.
    pub(super) async fn judge_again(
        &self,
        run: i64,
        verdict: impl Fn(&Pathname) -> Verdict + Send + 'static,
    ) -> Result<()> {
        self.with("apply the plan's rules", move |connection| {
            let transaction = connection.transaction()?;
            let mut changed = Vec::new();
            let mut select = transaction.prepare("SELECT id, pathname, verdict FROM blobs WHERE run = ?1")?;
            let mut rows = select.query([run])?;
            while let Some(row) = rows.next()? {
                let now = verdict(&Pathname::new(row.get::<_, String>(1)?));
                if parsed::<Verdict>(row, 2)? != now {
                    changed.push((row.get::<_, i64>(0)?, now));
                }
            }
            drop(rows);
            drop(select);
            for (id, verdict) in changed {
                transaction
                    .prepare_cached("UPDATE blobs SET verdict = ?2 WHERE id = ?1")?
                    .execute(params![id, verdict.as_str()])?;
            }
            transaction.commit()
        })
        .await
    }

    /// How many of these versions' bodies are held.
    pub(super) async fn held(&self, versions: Vec<(Pathname, ETag)>) -> Result<Vec<bool>> {
        self.with("look for missing bodies", move |connection| {
            let mut select =
                connection.prepare_cached("SELECT 1 FROM blobs WHERE pathname = ?1 AND body_etag = ?2")?;
            versions
                .iter()
                .map(|(pathname, etag)| select.exists([pathname.as_str(), etag.as_str()]))
                .collect()
        })
        .await
    }

    /// Forgets the failures of earlier attempts: each of those bodies is tried again.
    pub(super) async fn forget_failures(&self) -> Result<()> {
        self.with("forget failures", |connection| connection.execute("DELETE FROM failures", []).map(|_| ()))
            .await
    }

    /// The bodies that could not be got in the last attempt, the first `limit` by name, and their number.
    ///
    /// # Errors
    /// `Corrupt` for a damaged file.
    pub async fn failures(&self, limit: u32) -> Result<(Vec<FailedBody>, u64)> {
        self.with("read failures", move |connection| {
            let failures = connection
                .prepare("SELECT pathname, kind, message FROM failures ORDER BY pathname LIMIT ?1")?
                .query_map([limit], |row| {
                    Ok(FailedBody {
                        pathname: Pathname::new(row.get::<_, String>(0)?),
                        kind: row.get(1)?,
                        message: row.get(2)?,
                    })
                })?
                .collect::<rusqlite::Result<_>>()?;
            let count = connection.query_row("SELECT count(*) FROM failures", [], |row| row.get(0))?;
            Ok((failures, count))
        })
        .await
    }

    /// Counts what a run listed and what is held of it.
    pub(super) async fn totals(&self, run: i64) -> Result<Totals> {
        self.with("count blobs", move |connection| {
            let mut select = connection.prepare_cached(
                "SELECT verdict, state, body_etag IS etag, count(*), sum(size) FROM blobs
                 WHERE run = ?1 GROUP BY 1, 2, 3",
            )?;
            let mut rows = select.query([run])?;
            let mut totals = Totals::default();
            while let Some(row) = rows.next()? {
                let (held, count, bytes): (bool, u64, u64) = (row.get(2)?, row.get(3)?, row.get(4)?);
                if row.get_ref(1)?.as_str()? == "gone" {
                    totals.gone += count;
                    continue;
                }
                totals.listed += count;
                match parsed(row, 0)? {
                    Verdict::Ignored => totals.ignored += count,
                    Verdict::Accepted => totals.accepted += count,
                    Verdict::Unmatched => totals.unmatched += count,
                    Verdict::Ambiguous => totals.ambiguous += count,
                    Verdict::Mapped => {
                        totals.mapped += count;
                        let (blobs, size) = if held {
                            (&mut totals.held, &mut totals.held_bytes)
                        } else {
                            (&mut totals.missing, &mut totals.missing_bytes)
                        };
                        *blobs += count;
                        *size += bytes;
                    }
                }
            }
            Ok(totals)
        })
        .await
    }

    /// Up to `limit` bodies that a run has to fetch, in the order of their pathnames, behind `after`.
    pub(super) async fn wanted(&self, run: i64, after: Option<Pathname>, limit: u32) -> Result<Vec<Wanted>> {
        self.with("look for missing bodies", move |connection| {
            connection
                .prepare_cached(
                    "SELECT pathname, etag, uploaded_at, size FROM blobs
                     WHERE run = ?1 AND (?2 IS NULL OR pathname > ?2) AND verdict = 'mapped'
                       AND state = 'listed' AND body_etag IS NOT etag
                     ORDER BY pathname LIMIT ?3",
                )?
                .query_map(params![run, after.as_ref().map(Pathname::as_str), limit], |row| {
                    Ok(Wanted {
                        pathname: Pathname::new(row.get::<_, String>(0)?),
                        version: version(row, 1)?,
                        size: row.get(3)?,
                    })
                })?
                .collect()
        })
        .await
    }

    /// Pathnames of a run with this verdict, the first `limit` in order.
    pub(super) async fn judged(&self, run: i64, verdict: Verdict, limit: u32) -> Result<Vec<Pathname>> {
        self.with("read blobs", move |connection| {
            connection
                .prepare(
                    "SELECT pathname FROM blobs WHERE run = ?1 AND verdict = ?2 AND state = 'listed'
                     ORDER BY pathname LIMIT ?3",
                )?
                .query_map(params![run, verdict.as_str(), limit], |row| {
                    Ok(Pathname::new(row.get::<_, String>(0)?))
                })?
                .collect()
        })
        .await
    }

    /// Commits what came of some blobs.
    pub(super) async fn save(
        &self,
        run: i64,
        outcomes: Vec<(Pathname, Outcome)>,
        spent: Spent,
    ) -> Result<()> {
        self.with("save bodies", move |connection| {
            let transaction = connection.transaction()?;
            let now = spent.at.to_string();
            for (pathname, outcome) in &outcomes {
                record(&transaction, run, pathname, outcome, &now)?;
            }
            charge(&transaction, run, spent)?;
            transaction.commit()
        })
        .await
    }

    /// The operations of all runs that were at work at `since` or later.
    pub(super) async fn charged_since(&self, since: Timestamp) -> Result<Operations> {
        self.with("count operations", move |connection| {
            let mut sum = Operations::default();
            let mut select = connection
                .prepare("SELECT operations_at, simple_operations, advanced_operations FROM runs")?;
            let mut rows = select.query([])?;
            while let Some(row) = rows.next()? {
                if parsed::<Timestamp>(row, 0)? >= since {
                    sum.simple += row.get::<_, u64>(1)?;
                    sum.advanced += row.get::<_, u64>(2)?;
                }
            }
            Ok(sum)
        })
        .await
    }
}

/// Adds operations to a run's account.
fn charge(transaction: &Transaction<'_>, run: i64, spent: Spent) -> rusqlite::Result<()> {
    let Operations { simple, advanced } = spent.operations;
    transaction
        .prepare_cached(
            "UPDATE runs SET simple_operations = simple_operations + ?2,
               advanced_operations = advanced_operations + ?3, operations_at = ?4 WHERE id = ?1",
        )?
        .execute(params![run, simple, advanced, spent.at.to_string()])
        .map(|_| ())
}
