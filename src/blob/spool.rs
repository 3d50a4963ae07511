//! Bodies that were received whole: short ones in memory, long ones in a temporary file.
//!
//! So memory does not grow with the length of a blob. The file has no name: it is gone with its owner,
//! whatever ends the process.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom, Write as _};
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use futures::{StreamExt as _, stream};
use md5::Digest as _;

use super::store::{Body, GetOptions};
use super::types::ETag;
use crate::digest::Digest;
use crate::error::{Error, ErrorKind, Result};
use crate::folder;

/// Bodies up to this many bytes are handled as a whole, in memory.
pub const MEMORY_BYTES_MAX: u64 = 4 * 1024 * 1024;
/// What to do about temporary files that find no room.
pub(crate) const HINT: &str =
    "make room there, or name another folder for temporary files in TMPDIR; then run the same command again";
/// How much of a long body is read at a time.
const CHUNK_BYTES: usize = 64 * 1024;

/// A body that was received whole. Clones share it.
#[derive(Debug, Clone)]
pub struct Spooled {
    place: Place,
    length: u64,
    sha256: Digest,
    /// Of what lies in a file; of what is in memory it is taken when it is asked for.
    md5: Option<[u8; 16]>,
}

#[derive(Debug, Clone)]
enum Place {
    Memory(Bytes),
    File(Arc<Mutex<File>>),
}

impl Spooled {
    /// Its length in bytes.
    #[must_use]
    pub const fn length(&self) -> u64 {
        self.length
    }

    /// The digest of its bytes.
    #[must_use]
    pub const fn sha256(&self) -> Digest {
        self.sha256
    }

    /// The MD5 of its bytes.
    #[must_use]
    pub fn md5(&self) -> [u8; 16] {
        let memory = || self.in_memory().map(AsRef::as_ref).unwrap_or_default();
        self.md5.unwrap_or_else(|| md5::Md5::digest(memory()).into())
    }

    /// The ETag of its bytes, as a store gives it to a blob that is put at once.
    #[must_use]
    pub fn etag(&self) -> ETag {
        ETag::new(&format!("\"{}\"", hex::encode(self.md5())))
    }

    /// Whether it is too long to be handled as a whole: more than [`MEMORY_BYTES_MAX`].
    #[must_use]
    pub const fn is_long(&self) -> bool {
        self.length > MEMORY_BYTES_MAX
    }

    /// Its bytes, where they are in memory.
    #[must_use]
    pub const fn in_memory(&self) -> Option<&Bytes> {
        match &self.place {
            Place::Memory(bytes) => Some(bytes),
            Place::File(_) => None,
        }
    }

    /// All of its bytes.
    ///
    /// # Errors
    /// Where the temporary file can't be read.
    pub fn bytes(&self) -> io::Result<Bytes> {
        if let Place::Memory(bytes) = &self.place {
            return Ok(bytes.clone());
        }
        let mut bytes = Vec::with_capacity(usize::try_from(self.length).unwrap_or_default());
        self.reader().read_to_end(&mut bytes)?;
        Ok(bytes.into())
    }

    /// All of it as a body on its way; as often as it is asked for.
    #[must_use]
    pub fn body(&self) -> Body {
        self.part(None)
    }

    /// The part of it that a range asks for: first and last byte, inclusive; an open end reads to the end.
    #[must_use]
    pub fn part(&self, range: Option<(u64, Option<u64>)>) -> Body {
        let options = GetOptions { range, ..GetOptions::default() };
        if let Some(bytes) = self.in_memory() {
            return options.part_of(bytes).into();
        }
        let part = options.bounds(self.length);
        let length = part.end - part.start;
        let reader = SpoolReader { body: self.clone(), position: part.start }.take(length);
        let chunks = stream::try_unfold(reader, |mut reader| async move {
            let mut chunk = vec![0; CHUNK_BYTES];
            let read = reader.read(&mut chunk).map_err(unwritten)?;
            chunk.truncate(read);
            Ok((read > 0).then(|| (Bytes::from(chunk), reader)))
        });
        Body::stream(Some(length), chunks.boxed())
    }

    /// Reads it from its beginning on, at its own pace: readers do not disturb each other.
    #[must_use]
    pub fn reader(&self) -> SpoolReader {
        SpoolReader { body: self.clone(), position: 0 }
    }
}

impl From<Bytes> for Spooled {
    fn from(bytes: Bytes) -> Self {
        Self {
            length: bytes.len() as u64,
            sha256: Digest::of(&bytes),
            md5: None,
            place: Place::Memory(bytes),
        }
    }
}

/// A place in a spooled body.
#[derive(Debug)]
pub struct SpoolReader {
    body: Spooled,
    position: u64,
}

impl Read for SpoolReader {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = match &self.body.place {
            Place::Memory(bytes) => {
                let from = usize::try_from(self.position).map_or(bytes.len(), |from| from.min(bytes.len()));
                (&bytes[from..]).read(buffer)?
            }
            Place::File(file) => {
                let mut file = file.lock().unwrap_or_else(PoisonError::into_inner);
                file.seek(SeekFrom::Start(self.position))?;
                file.read(buffer)?
            }
        };
        self.position += read as u64;
        Ok(read)
    }
}

impl Seek for SpoolReader {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        let position = match to {
            SeekFrom::Start(at) => Some(at),
            SeekFrom::End(by) => self.body.length.checked_add_signed(by),
            SeekFrom::Current(by) => self.position.checked_add_signed(by),
        };
        self.position =
            position.ok_or_else(|| io::Error::new(io::ErrorKind::InvalidInput, "before the beginning"))?;
        Ok(self.position)
    }
}

/// A body on its way into memory or, beyond a length, into a temporary file.
#[derive(Debug)]
pub struct Spool {
    memory_bytes_max: u64,
    memory: Vec<u8>,
    file: Option<(File, md5::Md5)>,
    length: u64,
    sha256: sha2::Sha256,
}

impl Spool {
    /// An empty one that moves to a file beyond `memory_bytes_max` bytes.
    #[must_use]
    pub fn new(memory_bytes_max: u64) -> Self {
        Self { memory_bytes_max, memory: Vec::new(), file: None, length: 0, sha256: sha2::Sha256::default() }
    }

    /// Adds some bytes.
    ///
    /// # Errors
    /// Where the temporary file can't be made or written, as on a full disk.
    pub fn push(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.length += bytes.len() as u64;
        self.sha256.update(bytes);
        if let Some((file, md5)) = &mut self.file {
            md5.update(bytes);
            return file.write_all(bytes);
        }
        if self.length <= self.memory_bytes_max {
            self.memory.extend_from_slice(bytes);
            return Ok(());
        }
        let (mut file, mut md5) = (tempfile::tempfile()?, md5::Md5::default());
        for bytes in [&*std::mem::take(&mut self.memory), bytes] {
            md5.update(bytes);
            file.write_all(bytes)?;
        }
        self.file = Some((file, md5));
        Ok(())
    }

    /// All of it is there.
    #[must_use]
    pub fn finish(self) -> Spooled {
        let (place, md5) = match self.file {
            Some((file, md5)) => (Place::File(Arc::new(Mutex::new(file))), Some(md5.finalize().into())),
            None => (Place::Memory(self.memory.into()), None),
        };
        let sha256 = Digest::from_bytes(self.sha256.finalize().into());
        Spooled { place, length: self.length, sha256, md5 }
    }
}

/// Writing adds bytes.
impl io::Write for Spool {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.push(bytes)?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Body {
    /// Reads all of it, into memory or, where it is longer than [`MEMORY_BYTES_MAX`], into a temporary file.
    ///
    /// # Errors
    /// As [`Body::collect`]; `NoSpace` or `NotApplied` where the temporary file can't be written.
    pub async fn spool(self, max: u64) -> Result<Spooled> {
        if self.length().is_some_and(|length| length <= MEMORY_BYTES_MAX) {
            return Ok(self.collect(max).await?.into());
        }
        let expected = self.length();
        let mut spool = Spool::new(MEMORY_BYTES_MAX);
        let mut stream = self.into_stream();
        while let Some(chunk) = stream.next().await {
            let chunk = chunk?;
            if spool.length + chunk.len() as u64 > max {
                return Err(
                    Error::new(ErrorKind::Usage, "read a body").message(format!("longer than {max} bytes"))
                );
            }
            spool.push(&chunk).map_err(unwritten)?;
        }
        match expected {
            Some(expected) if expected != spool.length => {
                Err(Error::new(ErrorKind::NotApplied, "read a body")
                    .message(format!("ended after {} bytes of {expected}", spool.length)))
            }
            _ => Ok(spool.finish()),
        }
    }
}

/// The error where a temporary file can't be written or read.
pub(crate) fn unwritten(error: io::Error) -> Error {
    const OPERATION: &str = "keep a long body in a temporary file";
    if folder::is_full(&error) {
        return folder::no_space(OPERATION, &std::env::temp_dir()).hint(HINT).source(error);
    }
    Error::new(ErrorKind::NotApplied, OPERATION).message(error).hint(HINT)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_body_is_read_from_its_file_as_it_came() {
        let bytes: Vec<u8> = (0..200_000u32).flat_map(u32::to_le_bytes).collect();
        let mut spool = Spool::new(1000);
        for chunk in bytes.chunks(777) {
            spool.push(chunk).expect("a temporary file");
        }
        let body = spool.finish();
        assert!(body.in_memory().is_none());
        assert_eq!((body.length(), body.sha256()), (bytes.len() as u64, Digest::of(&bytes)));
        assert_eq!(body.etag(), ETag::of(&bytes));
        assert_eq!(body.bytes().expect("it can be read"), bytes);
        // Two readers, each at its own place.
        let (mut first, mut second) = (body.reader(), body.reader());
        second.seek(SeekFrom::Start(400)).expect("a place in it");
        let (mut a, mut b) = ([0; 4], [0; 4]);
        first.read_exact(&mut a).and_then(|()| second.read_exact(&mut b)).expect("bytes");
        assert_eq!((a, b), (0u32.to_le_bytes(), 100u32.to_le_bytes()));
    }
}
