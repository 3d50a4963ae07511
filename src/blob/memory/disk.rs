//! The store's optional directory: one file a blob, its metadata in the first line, its bytes after it.
//!
//! A file is written beside its place and renamed into it, so a kill leaves the old blob or the new one.
//! (A power failure may lose the latest: nothing is forced to the disk.) A file's name is the SHA-256 of
//! its pathname, so no pathname reaches out of the directory. Unfinished multipart uploads aren't kept.

use std::collections::BTreeMap;
use std::fs::{self, File, TryLockError};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use super::state::{Meta, Stored};
use crate::blob::types::Pathname;
use crate::digest::Digest;
use crate::error::{Error, ErrorKind, Result};
use crate::folder;

const FORMAT: u32 = 1;
const EXTENSION: &str = "blob";
const EXTENSION_UNFINISHED: &str = "part";

/// The first line of a file.
#[derive(Serialize, Deserialize)]
struct Header {
    format: u32,
    pathname: Pathname,
    size: u64,
    meta: Meta,
}

/// A directory that this process alone writes to.
#[derive(Debug)]
pub(super) struct Disk {
    directory: PathBuf,
    /// Held open: its lock keeps other processes out.
    _lock: File,
}

impl Disk {
    /// Takes the directory, creating it if needed, and reads what it holds.
    pub(super) fn open(directory: &Path) -> Result<(Self, BTreeMap<Pathname, Stored>)> {
        let failed = |error: io::Error| {
            let failed = Error::new(ErrorKind::Usage, "open the data directory");
            folder::failed(failed.key(directory.display()), directory, error)
        };
        folder::make(directory).map_err(failed)?;
        let lock = folder::open_or_create(&directory.join("lock")).map_err(failed)?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                return Err(Error::new(ErrorKind::Busy, "open the data directory")
                    .key(directory.display())
                    .message("another process uses it"));
            }
            Err(TryLockError::Error(error)) => return Err(failed(error)),
        }
        let mut blobs = BTreeMap::new();
        for entry in fs::read_dir(directory).map_err(failed)? {
            let path = entry.map_err(failed)?.path();
            match path.extension().and_then(|extension| extension.to_str()) {
                Some(EXTENSION) => {
                    let (pathname, stored) = read(&path)?;
                    blobs.insert(pathname, stored);
                }
                // Left by a kill in the middle of a write that nobody was told of.
                Some(EXTENSION_UNFINISHED) => fs::remove_file(&path).map_err(failed)?,
                _ => {}
            }
        }
        Ok((Self { directory: directory.to_owned(), _lock: lock }, blobs))
    }

    /// Writes a blob, in place of the one that was there.
    pub(super) fn write(&self, pathname: &Pathname, stored: &Stored) -> Result<()> {
        let path = self.path(pathname);
        let unfinished = path.with_extension(EXTENSION_UNFINISHED);
        let header = Header {
            format: FORMAT,
            pathname: pathname.clone(),
            size: stored.body.len() as u64,
            meta: stored.meta.clone(),
        };
        let write = || -> io::Result<()> {
            let mut file = folder::create(&unfinished)?;
            let mut line = serde_json::to_vec(&header)?;
            line.push(b'\n');
            file.write_all(&line)?;
            file.write_all(&stored.body)?;
            fs::rename(&unfinished, &path)
        };
        write().map_err(|error| not_saved(pathname, &self.directory, error))
    }

    /// Removes a blob.
    pub(super) fn remove(&self, pathname: &Pathname) -> Result<()> {
        fs::remove_file(self.path(pathname)).map_err(|error| not_saved(pathname, &self.directory, error))
    }

    fn path(&self, pathname: &Pathname) -> PathBuf {
        self.directory.join(Digest::of(pathname.as_str()).to_string()).with_extension(EXTENSION)
    }
}

fn not_saved(pathname: &Pathname, directory: &Path, error: io::Error) -> Error {
    let failed = Error::new(ErrorKind::NotApplied, "save a blob").key(pathname);
    folder::failed(failed.message("its file can't be written"), directory, error)
}

fn read(path: &Path) -> Result<(Pathname, Stored)> {
    let damaged = |why: &str| {
        Error::new(ErrorKind::Corrupt, "load a blob")
            .key(path.display())
            .message(why)
            .hint("move the file away to start without this blob")
    };
    let bytes = Bytes::from(fs::read(path).map_err(|error| damaged("it can't be read").source(error))?);
    let end = bytes.iter().position(|byte| *byte == b'\n').ok_or_else(|| damaged("it has no first line"))?;
    let header: Header = serde_json::from_slice(&bytes[..end])
        .map_err(|error| damaged("its first line is not a blob's").source(error))?;
    let body = bytes.slice(end + 1..);
    if header.format != FORMAT {
        return Err(damaged("it was written by another version of this program"));
    }
    if header.size != body.len() as u64 {
        return Err(damaged("it is cut short, or longer than it was"));
    }
    let name = Digest::of(header.pathname.as_str()).to_string();
    if path.file_stem().and_then(|stem| stem.to_str()) != Some(name.as_str()) {
        return Err(damaged("its name is not that of the pathname in it"));
    }
    Ok((header.pathname, Stored { meta: header.meta, body }))
}
