//! Bodies that are mapped record by record, since they are too long for memory.

use std::sync::Arc;

use bytes::Bytes;
use jiff::Timestamp;
use tokio::sync::{Semaphore, SemaphorePermit};

use super::fetch::BODY_BYTES_MAX;
use crate::blob::spool::{SpoolReader, unwritten};
use crate::blob::{Pathname, Spooled};
use crate::error::{Error, ErrorKind, Result};
use crate::mapping::{
    BlobFacts, EntityId, Halt, MappedItem, Mapper, Outline, Position, Quarantine, Records, Skeleton,
};

const OPERATION: &str = "map a long body";

/// One long body is worked on at a time in a process: each takes memory for its keys.
static TURN: Semaphore = Semaphore::const_new(1);

/// A body as it is mapped.
#[derive(Debug)]
pub enum Reading {
    /// As a whole.
    Whole(Bytes),
    /// Record by record.
    Long(Arc<LongBody>),
    /// Not at all.
    Quarantined(Quarantine),
}

/// A body that is mapped record by record.
#[derive(Debug)]
pub struct LongBody {
    mapper: Arc<Mapper>,
    entity: EntityId,
    pathname: Pathname,
    uploaded_at: Timestamp,
    body: Spooled,
    outline: Outline,
    _turn: Option<SemaphorePermit<'static>>,
}

impl Reading {
    /// Decides how a body is mapped, and makes the outline of a long one.
    ///
    /// # Errors
    /// `Unrepresentable` for a body that has to be read as a whole and is too long for that; `Internal` where
    /// its temporary file can't be read.
    pub async fn of(
        mapper: &Arc<Mapper>,
        entity: EntityId,
        (pathname, uploaded_at): (&Pathname, Timestamp),
        body: &Spooled,
    ) -> Result<Self> {
        // A shorter one may be in a file as well: whoever received it may have had many at once.
        if !body.is_long() {
            return body.bytes().map(Self::Whole).map_err(unwritten);
        }
        let turn = TURN.acquire().await.ok();
        let (pathname, body, mapper) = (pathname.clone(), body.clone(), Arc::clone(mapper));
        off_thread(move || {
            let outline = match mapper.outline(entity, body.reader()) {
                Ok(Some(outline)) => outline,
                Ok(None) => return whole(&mapper, entity, &pathname, &body),
                Err(Halt::Quarantine(quarantine)) => return Ok(Self::Quarantined(quarantine)),
                Err(Halt::Io(error)) => return Err(unwritten(error).key(pathname)),
            };
            let long = LongBody { mapper, entity, pathname, uploaded_at, body, outline, _turn: turn };
            Ok(Self::Long(Arc::new(long)))
        })
        .await
    }
}

fn whole(mapper: &Mapper, entity: EntityId, pathname: &Pathname, body: &Spooled) -> Result<Reading> {
    if body.length() <= BODY_BYTES_MAX {
        return body.bytes().map(Reading::Whole).map_err(unwritten);
    }
    let why = mapper.read_whole(entity).unwrap_or("it is compressed, or may be encrypted");
    Err(Error::new(ErrorKind::Unrepresentable, OPERATION)
        .key(pathname)
        .message(format!(
            "its {} bytes would have to be in memory at once, of at most {BODY_BYTES_MAX}: {why}",
            body.length()
        ))
        .hint("make its items of `record`, `index`, `key` and captures alone, or accept it"))
}

impl LongBody {
    fn facts(&self) -> BlobFacts<'_> {
        BlobFacts { pathname: &self.pathname, uploaded_at: self.uploaded_at }
    }

    /// Its outline.
    #[must_use]
    pub const fn outline(&self) -> &Outline {
        &self.outline
    }

    /// Its bytes.
    #[must_use]
    pub const fn body(&self) -> &Spooled {
        &self.body
    }

    /// Makes all of its items once; `take` gets them as they come. The quarantine, where it can't become items.
    ///
    /// # Errors
    /// `Internal` where its temporary file can't be read.
    pub async fn scan<T: Send + 'static>(
        self: &Arc<Self>,
        now: Timestamp,
        mut state: T,
        take: impl Fn(&mut T, Position, Vec<MappedItem>) + Send + 'static,
    ) -> Result<std::result::Result<(T, Skeleton), Quarantine>> {
        let long = Arc::clone(self);
        off_thread(move || {
            let body = || long.body.reader();
            let scanned =
                long.mapper.scan(long.entity, long.facts(), &long.outline, body, now, &mut |at, items| {
                    take(&mut state, at, items);
                });
            match scanned {
                Ok(skeleton) => Ok(Ok((state, skeleton))),
                Err(Halt::Quarantine(quarantine)) => Ok(Err(quarantine)),
                Err(Halt::Io(error)) => Err(unwritten(error).key(&long.pathname)),
            }
        })
        .await
    }

    /// Its items from a place on, of a body that [`LongBody::scan`] found to be in order.
    ///
    /// # Errors
    /// `Corrupt` where it is not.
    pub fn records(&self, now: Timestamp, from: Position) -> Result<Records<'_, SpoolReader>> {
        let document = (&self.outline, self.body.reader());
        self.mapper
            .records(self.entity, self.facts(), document, now, from)
            .map_err(|quarantine| self.changed(Halt::Quarantine(quarantine)))
    }

    /// The error where what was read before is read otherwise.
    #[must_use]
    pub fn changed(&self, halt: Halt) -> Error {
        match halt {
            Halt::Io(error) => unwritten(error).key(&self.pathname),
            Halt::Quarantine(quarantine) => {
                Error::new(ErrorKind::Corrupt, OPERATION).key(&self.pathname).message(quarantine)
            }
        }
    }
}

/// Work that keeps a processor busy for longer than other tasks should wait.
pub(crate) async fn off_thread<T: Send + 'static>(
    work: impl FnOnce() -> Result<T> + Send + 'static,
) -> Result<T> {
    tokio::task::spawn_blocking(work)
        .await
        .map_err(|error| Error::new(ErrorKind::Internal, OPERATION).source(error))?
}
