//! Notes: one row for each request of the mirror that changes Blob, while DynamoDB is the authority.
//!
//! A note is stored before its request is sent, and only while the session of its process is open: whoever has ended
//! the session and reads the notes afterwards has read all of them.

use std::collections::HashSet;
use std::sync::{Arc, Mutex, PoisonError};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use tokio::sync::oneshot;

use super::session::{STATE_OPEN, session_key};
use super::{Control, names, row};
use crate::blob::{ETag, Pathname};
use crate::digest::Digest;
use crate::error::{Error, ErrorKind, Result};
use crate::protocol::note::{Note, State};
use crate::target::layout::ACTIONS_MAX;
use crate::target::store::{Condition, Outcome, Table, Write};
use crate::value::{Item, Key, Value};

const STORE: &str = "note a request to Blob";
/// So many go into one transaction: each may take the place of another, and the session is checked besides.
const TOGETHER_MAX: usize = (ACTIONS_MAX - 1) / 2;

/// A request of the mirror that may change Blob.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NoteRow {
    /// Unique. Its sort key is this, so it is no attribute.
    #[serde(skip)]
    pub id: String,
    /// Of which blob.
    pub pathname: Pathname,
    /// The session under which it is sent.
    pub session: String,
    /// When it was noted, for people.
    pub at: Timestamp,
    /// What Blob must hold for it to be applied; none: nothing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expects: Option<Expected>,
    /// The digest of what it leaves; none: nothing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub leaves: Option<Digest>,
    /// Whether it was answered: it can't be applied any more, and only names what Blob may hold.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub answered: bool,
    /// Whether the store refuses it after `mirror_late_max`; else it may land until `late_write_max`.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub ends: bool,
}

/// A state of a blob that a request expects.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Expected {
    /// Its ETag.
    pub etag: ETag,
    /// The digest of its content, where it is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sha256: Option<Digest>,
}

impl NoteRow {
    /// The key of its row.
    #[must_use]
    pub fn key(&self) -> Key {
        names::note(&self.pathname, &self.id)
    }

    /// The note as the protocol judges it.
    #[must_use]
    pub fn note(&self) -> Note<ETag, Digest> {
        let expects = self.expects.clone().map(|Expected { etag, sha256 }| State { etag, content: sha256 });
        Note { expects, leaves: self.leaves, answered: self.answered }
    }

    /// The write that removes its row.
    #[must_use]
    pub fn removal(&self) -> Write {
        Write::Delete { table: Table::Control, key: self.key(), condition: Condition::Always }
    }

    fn write(&self, condition: Condition) -> Write {
        Write::Put { table: Table::Control, item: row::encode(&self.key(), self), condition }
    }

    pub(super) fn decode(item: Item) -> Result<Self> {
        let id = row::key(&item).sort;
        Ok(Self { id, ..row::decode(item)? })
    }
}

/// Notes that wait to be stored. Those of one session go together: each transaction checks its row, and two that do so
/// at once would be in each other's way.
#[derive(Default)]
pub(super) struct Noting {
    waiting: Mutex<Vec<Waiting>>,
    one: tokio::sync::Mutex<()>,
    at_work: Arc<Mutex<HashSet<String>>>,
}

/// Says, for as long as it is kept, that this process is at a request that it noted.
#[derive(Debug)]
pub struct AtWork {
    id: String,
    all: Arc<Mutex<HashSet<String>>>,
}

impl Drop for AtWork {
    fn drop(&mut self) {
        self.all.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.id);
    }
}

struct Waiting {
    note: NoteRow,
    in_place_of: Option<NoteRow>,
    stored: oneshot::Sender<Result<bool>>,
}

impl Control {
    /// Stores a new note, in place of another one, if its session is open; says whether it is.
    ///
    /// # Errors
    /// What the store reports; after `OutcomeUnknown` it may be there.
    pub async fn store_note(&self, note: &NoteRow, in_place_of: Option<&NoteRow>) -> Result<bool> {
        let (stored, answer) = oneshot::channel();
        let waiting = Waiting { note: note.clone(), in_place_of: in_place_of.cloned(), stored };
        self.noting.waiting.lock().unwrap_or_else(PoisonError::into_inner).push(waiting);
        let control = self.clone();
        // Whoever goes away leaves the notes of others.
        tokio::spawn(async move { control.store_waiting().await });
        let gone =
            || Error::new(ErrorKind::OutcomeUnknown, STORE).key(&note.pathname).message("it was given up");
        answer.await.map_err(|_| gone())?
    }

    /// Says that this process is at the request of this note.
    #[must_use]
    pub fn at_work(&self, note: &NoteRow) -> AtWork {
        let all = Arc::clone(&self.noting.at_work);
        all.lock().unwrap_or_else(PoisonError::into_inner).insert(note.id.clone());
        AtWork { id: note.id.clone(), all }
    }

    /// Whether this process is at the request of this note.
    #[must_use]
    pub fn is_at_work(&self, note: &NoteRow) -> bool {
        self.noting.at_work.lock().unwrap_or_else(PoisonError::into_inner).contains(&note.id)
    }

    /// Stores what waits, of one session.
    async fn store_waiting(&self) {
        let _one = self.noting.one.lock().await;
        let together: Vec<Waiting> = {
            let mut waiting = self.noting.waiting.lock().unwrap_or_else(PoisonError::into_inner);
            let Some(session) = waiting.first().map(|first| first.note.session.clone()) else { return };
            let mut room = TOGETHER_MAX;
            waiting
                .extract_if(.., |one| {
                    let taken = room > 0 && one.note.session == session;
                    room -= usize::from(taken);
                    taken
                })
                .collect()
        };
        let result = self.store_together(&together).await;
        for Waiting { note, stored, .. } in together {
            let answer = match &result {
                Ok(open) => Ok(*open),
                Err(error) => {
                    Err(Error::new(error.kind(), STORE).key(&note.pathname).message(error.to_string()))
                }
            };
            // Whoever asked may have gone.
            stored.send(answer).ok();
        }
    }

    async fn store_together(&self, together: &[Waiting]) -> Result<bool> {
        let Some(first) = together.first() else { return Ok(true) };
        let condition = Condition::equals(["state"], Value::s(STATE_OPEN));
        let key = session_key(&first.note.session);
        let mut writes = vec![Write::Check { table: Table::Control, key, condition }];
        for Waiting { note, in_place_of, .. } in together {
            writes.push(note.write(Condition::Always));
            writes.extend(in_place_of.as_ref().map(NoteRow::removal));
        }
        Ok(self.store.transact(&names::token(), writes).await? == Outcome::Applied)
    }

    /// Says in a note that its request was answered, if the note is still there.
    ///
    /// # Errors
    /// What the store reports.
    pub async fn answer_note(&self, note: &NoteRow) -> Result<()> {
        let answered = NoteRow { answered: true, ..note.clone() };
        let write = answered.write(Condition::Present);
        self.store.transact(&names::token(), vec![write]).await.map(drop)
    }

    /// Removes a note; one that is gone already is no error.
    ///
    /// # Errors
    /// What the store reports.
    pub async fn remove_note(&self, note: &NoteRow) -> Result<()> {
        self.store.transact(&names::token(), vec![note.removal()]).await.map(drop)
    }

    /// The notes of one pathname.
    ///
    /// # Errors
    /// `Corrupt`; what the store reports.
    pub async fn notes_of(&self, pathname: &Pathname) -> Result<Vec<NoteRow>> {
        let mut notes = self.notes_under(&names::note(pathname, "").partition).await?;
        notes.retain(|note| note.pathname == *pathname);
        Ok(notes)
    }

    /// All notes, in no useful order.
    ///
    /// # Errors
    /// As [`Control::notes_of`].
    pub async fn notes(&self) -> Result<Vec<NoteRow>> {
        let partitions: Vec<String> = (0..names::SHARDS).map(names::note_partition).collect();
        let shards = partitions.iter().map(|partition| self.notes_under(partition));
        Ok(futures::future::try_join_all(shards).await?.into_iter().flatten().collect())
    }

    async fn notes_under(&self, partition: &str) -> Result<Vec<NoteRow>> {
        self.rows(partition, "").await?.into_iter().map(NoteRow::decode).collect()
    }
}
