//! The rows of blobs and bodies: what was listed, what is held, what failed.

use std::fmt;
use std::io::Read as _;
use std::str::FromStr;

use async_trait::async_trait;
use jiff::Timestamp;
use rusqlite::types::Type;
use rusqlite::{OptionalExtension as _, Row, Transaction, params};
use serde::{Deserialize, Serialize};

use super::file::Snapshot;
use crate::blob::spool::{MEMORY_BYTES_MAX, Spool, unwritten};
use crate::blob::{ETag, Pathname, Spooled, Version};
use crate::converge::{Bodies, SavedBody};
use crate::digest::Digest;
use crate::error::{Error, Result};
use crate::folder;
use crate::mapping::Rule;

/// The length of a chunk before compression.
const CHUNK_BYTES: usize = 1024 * 1024;
/// zstd's own default: records of a few KB compress well already, and fast.
const COMPRESSION_LEVEL: i32 = 3;

/// What the plan says of a blob, as far as an export cares.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Verdict {
    /// An entity takes it: its body is fetched.
    Mapped,
    /// An ignore rule names it: listed only.
    Ignored,
    /// An accept rule names it: listed only.
    Accepted,
    /// No rule names it: listed only, and reported.
    Unmatched,
    /// Several rules name it: listed only, and reported.
    Ambiguous,
}

impl Verdict {
    const ALL: [(Self, &'static str); 5] = [
        (Self::Mapped, "mapped"),
        (Self::Ignored, "ignored"),
        (Self::Accepted, "accepted"),
        (Self::Unmatched, "unmatched"),
        (Self::Ambiguous, "ambiguous"),
    ];

    pub(super) fn as_str(self) -> &'static str {
        Self::ALL.iter().find(|(verdict, _)| *verdict == self).map_or("", |(_, name)| name)
    }
}

impl From<Rule<'_>> for Verdict {
    fn from(rule: Rule<'_>) -> Self {
        match rule {
            Rule::Entity(_) => Self::Mapped,
            Rule::Ignored { .. } => Self::Ignored,
            Rule::Accepted { .. } => Self::Accepted,
            Rule::Unmatched => Self::Unmatched,
            Rule::Ambiguous(_) => Self::Ambiguous,
        }
    }
}

impl FromStr for Verdict {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let known = Self::ALL.iter().find(|(_, name)| *name == text);
        known.map(|(verdict, _)| *verdict).ok_or_else(|| format!("`{text}` is no verdict"))
    }
}

/// One blob of a snapshot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SnapshotBlob {
    /// Its name.
    pub pathname: Pathname,
    /// The version that was seen last.
    pub version: Version,
    /// Its length in bytes.
    pub size: u64,
    /// What the plan said of it when it was exported.
    pub verdict: Verdict,
    /// The body that is held, which may be of an older version.
    pub body: Option<HeldBody>,
}

impl SnapshotBlob {
    /// Whether the body that is held is the one of the version that was seen last.
    #[must_use]
    pub fn is_complete(&self) -> bool {
        self.body.as_ref().is_some_and(|body| body.etag == self.version.etag)
    }
}

/// What is known of a body that is held.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HeldBody {
    /// The ETag that it came with.
    pub etag: ETag,
    /// Its length in bytes.
    pub size: u64,
    /// Its digest.
    pub sha256: Digest,
    /// Its media type.
    pub content_type: String,
    /// Its caching rule.
    pub cache_control: String,
}

/// What came of one blob, to be recorded.
#[derive(Debug)]
pub(super) enum Outcome {
    /// Its body was read and verified.
    Body { version: Version, held: Box<HeldBody>, body: Spooled },
    /// It is not there any more.
    Gone,
    /// It could not be read.
    Failed(Error),
}

impl Snapshot {
    /// The body that was stored under this name with this ETag, verified against its digest; none where
    /// another version, or none, is held.
    ///
    /// # Errors
    /// `Corrupt` where the bytes in the file are not the ones that were written.
    pub async fn body(&self, pathname: &Pathname, etag: &ETag) -> Result<Option<Spooled>> {
        Ok(self.held_body(pathname, etag).await?.map(|(_, body)| body))
    }

    async fn held_body(&self, pathname: &Pathname, etag: &ETag) -> Result<Option<(HeldBody, Spooled)>> {
        let (name, etag) = (pathname.as_str().to_owned(), etag.as_str().to_owned());
        let found = self
            .with("read a body", move |connection| {
                let facts = connection
                    .prepare_cached(
                        "SELECT body_etag, body_size, body_sha256, content_type, cache_control, id
                         FROM blobs WHERE pathname = ?1 AND body_etag = ?2",
                    )?
                    .query_row([&name, &etag], |row| Ok((held_body(row, 0)?, row.get::<_, i64>(5)?)))
                    .optional()?;
                let Some((Some(held), id)) = facts else { return Ok(None) };
                let mut chunks =
                    connection.prepare_cached("SELECT data FROM chunks WHERE blob = ?1 ORDER BY number")?;
                let mut rows = chunks.query([id])?;
                let mut spool = Spool::new(MEMORY_BYTES_MAX);
                while let Some(row) = rows.next()? {
                    let chunk = zstd::bulk::decompress(row.get_ref(0)?.as_blob()?, CHUNK_BYTES);
                    if let Err(error) = chunk.and_then(|chunk| spool.push(&chunk)) {
                        return Ok(Some((held, Err(error))));
                    }
                }
                Ok(Some((held, Ok(spool.finish()))))
            })
            .await?;
        let Some((held, body)) = found else { return Ok(None) };
        match body {
            Ok(body) if body.length() == held.size && body.sha256() == held.sha256 => Ok(Some((held, body))),
            Err(error) if folder::is_full(&error) => Err(unwritten(error)),
            Ok(_) => Err(self.damaged(format!("the body of {pathname} is not the one that was saved"))),
            Err(error) => {
                Err(self.damaged(format!("the body of {pathname} can't be unpacked")).source(error))
            }
        }
    }

    /// One blob by its name; none where it was never listed, or is gone.
    ///
    /// # Errors
    /// `Corrupt` for a damaged file.
    pub async fn blob(&self, pathname: &Pathname) -> Result<Option<SnapshotBlob>> {
        let name = pathname.as_str().to_owned();
        self.with("read a blob", move |connection| {
            connection
                .prepare_cached(
                    "SELECT pathname, etag, uploaded_at, size, verdict,
                            body_etag, body_size, body_sha256, content_type, cache_control
                     FROM blobs WHERE pathname = ?1 AND state = 'listed'",
                )?
                .query_row([name], blob)
                .optional()
        })
        .await
    }

    /// Up to `limit` blobs in the order of their pathnames, from the first one behind `after` on, without
    /// those that are gone. An empty page is the end.
    ///
    /// # Errors
    /// `Corrupt` for a damaged file.
    pub async fn blobs(&self, after: Option<&Pathname>, limit: u32) -> Result<Vec<SnapshotBlob>> {
        let after = after.map(|pathname| pathname.as_str().to_owned());
        self.with("read blobs", move |connection| {
            connection
                .prepare_cached(
                    "SELECT pathname, etag, uploaded_at, size, verdict,
                            body_etag, body_size, body_sha256, content_type, cache_control
                     FROM blobs WHERE (?1 IS NULL OR pathname > ?1) AND state = 'listed'
                     ORDER BY pathname LIMIT ?2",
                )?
                .query_map(params![after, limit], blob)?
                .collect()
        })
        .await
    }
}

#[async_trait]
impl Bodies for Snapshot {
    async fn body(&self, pathname: &Pathname, etag: &ETag) -> Result<Option<SavedBody>> {
        Ok(self.held_body(pathname, etag).await?.map(|(held, body)| SavedBody {
            body,
            content_type: held.content_type,
            cache_control: held.cache_control,
        }))
    }
}

fn blob(row: &Row<'_>) -> rusqlite::Result<SnapshotBlob> {
    Ok(SnapshotBlob {
        pathname: Pathname::new(row.get::<_, String>(0)?),
        version: version(row, 1)?,
        size: row.get(3)?,
        verdict: parsed(row, 4)?,
        body: held_body(row, 5)?,
    })
}

/// What is held, from five columns; none where nothing is.
fn held_body(row: &Row<'_>, at: usize) -> rusqlite::Result<Option<HeldBody>> {
    let Some(etag) = row.get::<_, Option<String>>(at)? else { return Ok(None) };
    Ok(Some(HeldBody {
        etag: ETag::new(&etag),
        size: row.get(at + 1)?,
        sha256: parsed(row, at + 2)?,
        content_type: row.get(at + 3)?,
        cache_control: row.get(at + 4)?,
    }))
}

/// A version from two columns, ETag and time.
pub(super) fn version(row: &Row<'_>, at: usize) -> rusqlite::Result<Version> {
    let etag: String = row.get(at)?;
    Ok(Version { etag: ETag::new(&etag), uploaded_at: parsed::<Timestamp>(row, at + 1)? })
}

/// A value that is stored as text.
pub(super) fn parsed<T: FromStr>(row: &Row<'_>, at: usize) -> rusqlite::Result<T>
where
    T::Err: fmt::Display,
{
    let text: String = row.get(at)?;
    text.parse().map_err(|error: T::Err| {
        rusqlite::Error::FromSqlConversionFailure(at, Type::Text, error.to_string().into())
    })
}

/// Records what came of one blob of a run.
pub(super) fn record(
    transaction: &Transaction<'_>,
    run: i64,
    pathname: &Pathname,
    outcome: &Outcome,
    now: &str,
) -> rusqlite::Result<()> {
    let pathname = pathname.as_str();
    match outcome {
        Outcome::Body { version, held, body } => {
            save_body(transaction, pathname, version, held, body)?;
        }
        Outcome::Gone => {
            transaction
                .prepare_cached("UPDATE blobs SET state = 'gone' WHERE pathname = ?1")?
                .execute([pathname])?;
        }
        Outcome::Failed(error) => {
            transaction
                .prepare_cached(
                    "REPLACE INTO failures (pathname, run, kind, message, at) VALUES (?1, ?2, ?3, ?4, ?5)",
                )?
                .execute(params![pathname, run, error.kind().name(), error.to_string(), now])?;
            return Ok(());
        }
    }
    transaction.prepare_cached("DELETE FROM failures WHERE pathname = ?1")?.execute([pathname])?;
    Ok(())
}

fn save_body(
    transaction: &Transaction<'_>,
    pathname: &str,
    version: &Version,
    held: &HeldBody,
    body: &Spooled,
) -> rusqlite::Result<()> {
    let id: i64 = transaction
        .prepare_cached(
            "UPDATE blobs SET etag = ?2, uploaded_at = ?3, size = ?4, body_etag = ?5, body_size = ?4,
                    body_sha256 = ?6, content_type = ?7, cache_control = ?8
             WHERE pathname = ?1 RETURNING id",
        )?
        .query_row(
            params![
                pathname,
                version.etag.as_str(),
                version.uploaded_at.to_string(),
                held.size,
                held.etag.as_str(),
                held.sha256.to_string(),
                held.content_type,
                held.cache_control,
            ],
            |row| row.get(0),
        )?;
    transaction.prepare_cached("DELETE FROM chunks WHERE blob = ?1")?.execute([id])?;
    let mut insert =
        transaction.prepare_cached("INSERT INTO chunks (blob, number, data) VALUES (?1, ?2, ?3)")?;
    let unread = |error: std::io::Error| rusqlite::Error::ToSqlConversionFailure(error.into());
    let mut reader = body.reader();
    let mut chunk = Vec::new();
    for number in 0.. {
        chunk.clear();
        if reader.by_ref().take(CHUNK_BYTES as u64).read_to_end(&mut chunk).map_err(unread)? == 0 {
            break;
        }
        let packed = zstd::bulk::compress(&chunk, COMPRESSION_LEVEL).map_err(unread)?;
        insert.execute(params![id, number, packed])?;
    }
    Ok(())
}
