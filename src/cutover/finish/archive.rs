//! The control table as a file: JSON lines in DynamoDB's own notation, compressed by zstd.
//!
//! The first line says what it is, the last one how many rows there are and their SHA-256, so that a file that is cut off
//! is known as such.

use std::fs::File;
use std::io::{BufRead as _, BufReader, Write as _};
use std::path::{Path, PathBuf};

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value as Json, json};
use sha2::Digest as _;
use tokio_util::sync::CancellationToken;

use super::super::Cutover;
use super::interrupted;
use crate::digest::Digest;
use crate::error::{Error, ErrorKind, Result};
use crate::event::{Event, Task};
use crate::folder;
use crate::target::store::{Scan, Table};
use crate::value::{Item, Value};

const OPERATION: &str = "archive the control table";
/// The version of the file. A change of it is a new version.
const FORMAT: u32 = 1;
/// zstd's own default level.
const LEVEL: i32 = 3;

/// A control table in a file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Archive {
    /// The file.
    pub file: PathBuf,
    /// How many rows it holds.
    pub rows: u64,
    /// The SHA-256 of its lines, but for the last.
    pub sha256: Digest,
    /// Whether it was there already.
    pub found: bool,
}

/// The last line.
#[derive(Serialize, Deserialize)]
struct End {
    rows: u64,
    sha256: Digest,
}

/// Makes sure that an archive can be written there, or is there and whole, and leaves nothing behind.
///
/// # Errors
/// `Usage` where it can't.
pub fn check_place(file: &Path) -> Result<()> {
    if file.exists() {
        return read_back(file).map(drop).map_err(|error| no_archive(file, error));
    }
    let folder = file.ancestors().skip(1).find(|folder| folder.exists()).unwrap_or(Path::new("."));
    let folder = if folder.as_os_str().is_empty() { Path::new(".") } else { folder };
    tempfile::NamedTempFile::new_in(folder).map(drop).map_err(|error| failed(file, error))
}

fn failed(file: &Path, error: std::io::Error) -> Error {
    let failed = Error::new(ErrorKind::Usage, OPERATION).key(file.display());
    let failed = failed.message("it can't be written or read").hint("name another folder with --archive");
    folder::failed(failed, file, error)
}

fn no_archive(file: &Path, error: std::io::Error) -> Error {
    failed(file, error).message("a file is there that is no whole archive of a control table")
}

/// Writes every row of the control table to a file and reads it back; one that is there and whole is kept.
///
/// # Errors
/// `Usage` where the file can't be written, or is something else; `Interrupted`; what the store reports. Then there is no
/// file, or the one of before.
pub async fn archive(cutover: &Cutover<'_>, file: &Path, cancel: &CancellationToken) -> Result<Archive> {
    let failed = |error: std::io::Error| failed(file, error);
    if file.exists() {
        let End { rows, sha256 } = read_back(file).map_err(|error| no_archive(file, error))?;
        return Ok(Archive { file: file.to_owned(), rows, sha256, found: true });
    }
    let directory = file.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    folder::make(directory).map_err(failed)?;
    let temporary = tempfile::NamedTempFile::new_in(directory).map_err(failed)?;
    let mut lines = Lines::new(temporary.as_file().try_clone().map_err(failed)?).map_err(failed)?;
    let table = format!("{}-migration", cutover.plan.target.table);
    let at = cutover.clock().now();
    lines.write(&json!({ "archive": table, "format": FORMAT, "at": at.to_string() })).map_err(failed)?;
    cutover.events.report(Event::Started { task: Task::Archive, total: None });
    let (mut scan, mut rows) = (Scan::share(0, 1), 0);
    loop {
        interrupted(cancel)?;
        let page = cutover.control().store().scan(Table::Control, &scan).await?;
        for item in &page.items {
            lines.write(&item_json(item)).map_err(failed)?;
        }
        rows += page.items.len() as u64;
        cutover.events.report(Event::Advanced { task: Task::Archive, by: page.items.len() as u64 });
        scan.after = page.next;
        if scan.after.is_none() {
            break;
        }
    }
    let sha256 = lines.finish(rows).map_err(failed)?;
    temporary.as_file().sync_all().map_err(failed)?;
    let kept = read_back(temporary.path()).map_err(failed)?;
    if (kept.rows, kept.sha256) != (rows, sha256) {
        return Err(
            failed(std::io::ErrorKind::InvalidData.into()).message("it was not kept as it was written")
        );
    }
    temporary.persist_noclobber(file).map_err(|error| failed(error.error))?;
    cutover.events.report(Event::Finished { task: Task::Archive });
    Ok(Archive { file: file.to_owned(), rows, sha256, found: false })
}

struct Lines {
    to: zstd::stream::write::Encoder<'static, File>,
    digest: sha2::Sha256,
}

impl Lines {
    fn new(file: File) -> std::io::Result<Self> {
        let mut to = zstd::stream::write::Encoder::new(file, LEVEL)?;
        to.include_checksum(true)?;
        Ok(Self { to, digest: sha2::Sha256::new() })
    }

    fn write(&mut self, line: &Json) -> std::io::Result<()> {
        let line = format!("{line}\n");
        self.digest.update(&line);
        self.to.write_all(line.as_bytes())
    }

    fn finish(mut self, rows: u64) -> std::io::Result<Digest> {
        let sha256 = Digest::from_bytes(self.digest.finalize().into());
        writeln!(self.to, "{}", serde_json::to_string(&End { rows, sha256 })?)?;
        self.to.finish()?;
        Ok(sha256)
    }
}

/// Reads an archive to its end, and holds it against what its last line says.
fn read_back(file: &Path) -> std::io::Result<End> {
    let broken = |what: &str| std::io::Error::new(std::io::ErrorKind::InvalidData, what.to_owned());
    folder::check(file)?;
    let mut reader = BufReader::new(zstd::stream::read::Decoder::new(File::open(file)?)?);
    let (mut digest, mut lines, mut last) = (sha2::Sha256::new(), 0_u64, String::new());
    loop {
        let mut line = String::new();
        if reader.read_line(&mut line)? == 0 {
            break;
        }
        if lines > 0 {
            digest.update(&last);
        }
        lines += 1;
        last = line;
    }
    let end: End = serde_json::from_str(&last).map_err(|_| broken("its end is missing"))?;
    // The first line is no row, and neither is the last.
    if end.rows + 2 != lines || end.sha256 != Digest::from_bytes(digest.finalize().into()) {
        return Err(broken("it is not what its last line says"));
    }
    Ok(end)
}

/// An item in the notation of DynamoDB's API.
fn item_json(item: &Item) -> Json {
    Json::Object(item.iter().map(|(name, value)| (name.clone(), value_json(value))).collect())
}

fn value_json(value: &Value) -> Json {
    let bytes = |bytes: &bytes::Bytes| Json::from(BASE64_STANDARD.encode(bytes));
    let (kind, json) = match value {
        Value::S(text) => ("S", text.as_str().into()),
        Value::N(number) => ("N", number.as_str().into()),
        Value::B(binary) => ("B", bytes(binary)),
        Value::Bool(truth) => ("BOOL", (*truth).into()),
        Value::Null => ("NULL", true.into()),
        Value::L(list) => ("L", list.iter().map(value_json).collect()),
        Value::M(map) => ("M", item_json(map)),
        Value::Ss(set) => ("SS", set.iter().map(|text| Json::from(text.as_str())).collect()),
        Value::Ns(set) => ("NS", set.iter().map(|number| Json::from(number.as_str())).collect()),
        Value::Bs(set) => ("BS", set.iter().map(bytes).collect()),
    };
    Json::Object(Map::from_iter([(kind.to_owned(), json)]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_archive_that_was_cut_off_or_changed_is_known_as_such() {
        let directory = tempfile::TempDir::new().unwrap();
        let file = directory.path().join("a.jsonl.zst");
        let write = |end_rows: u64| {
            let mut lines = Lines::new(folder::create(&file).unwrap()).unwrap();
            lines.write(&json!({ "archive": "t", "format": 1 })).unwrap();
            for n in 0..3 {
                let item =
                    Item::from([("pk".to_owned(), Value::n(n)), ("b".to_owned(), Value::B("x".into()))]);
                lines.write(&item_json(&item)).unwrap();
            }
            lines.finish(end_rows).unwrap();
        };
        write(3);
        assert_eq!(read_back(&file).unwrap().rows, 3);
        let whole = std::fs::read(&file).unwrap();
        let text = String::from_utf8(zstd::stream::decode_all(&whole[..]).unwrap()).unwrap();
        assert!(text.contains(r#"{"b":{"B":"eA=="},"pk":{"N":"2"}}"#), "{text}");
        for cut in [whole.len() - 1, whole.len() / 2, 1] {
            folder::create(&file).unwrap().write_all(&whole[..cut]).unwrap();
            assert!(read_back(&file).is_err(), "{cut}");
        }
        write(2);
        assert!(read_back(&file).is_err(), "a row too many");
    }
}
