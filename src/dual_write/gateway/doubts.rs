//! Requests of the mirror to Blob that may land yet, after the way back: while Blob is the authority, no write is sent
//! that would bring a blob back to what such a request expects. What decides is [`crate::protocol::note::may_send`].

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::operation::Stores;
use crate::blob::{ETag, Pathname};
use crate::converge::LateWrites;
use crate::error::{Error, ErrorKind, Result};
use crate::protocol::Rules;
use crate::protocol::note::{Brings, may_send};
use crate::protocol::phase::Epoch;
use crate::target::control::NoteRow;

/// What a gateway knows of them. They are read once in each epoch: none is added while Blob is the authority.
pub(super) struct Doubts {
    late: LateWrites,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// The epoch for which they were read.
    epoch: Option<Epoch>,
    /// When they were read, by the monotonic clock: from then on each can land for as long as its window is.
    read: Duration,
    notes: HashMap<Pathname, Vec<NoteRow>>,
}

impl Doubts {
    pub(super) fn new(late: LateWrites) -> Self {
        Self { late, state: Mutex::default() }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether they were read for this epoch.
    pub(super) fn are_known(&self, epoch: Epoch) -> bool {
        self.lock().epoch == Some(epoch)
    }

    /// They were read for this epoch, after its mode item was; `read` is from after that.
    pub(super) fn learn(&self, epoch: Epoch, rows: Vec<NoteRow>, read: Duration) {
        let mut notes: HashMap<Pathname, Vec<NoteRow>> = HashMap::new();
        for row in rows.into_iter().filter(|row| !row.answered) {
            notes.entry(row.pathname.clone()).or_default().push(row);
        }
        *self.lock() = State { epoch: Some(epoch), read, notes };
    }

    /// Refuses a write that would bring one of these blobs back to what a request expects.
    ///
    /// # Errors
    /// `Busy`, with the time until it is over.
    pub(super) fn check(&self, pathnames: &[Pathname], content: &Stores, now: Duration) -> Result<()> {
        let mut state = self.lock();
        if state.notes.is_empty() {
            return Ok(());
        }
        state.expire(self.late, now);
        for pathname in pathnames {
            let Some(rows) = state.notes.get(pathname) else { continue };
            let notes: Vec<_> = rows.iter().map(NoteRow::note).collect();
            let brings = match content {
                Stores::Body(body) => vec![Brings::Content(body.sha256())],
                Stores::Nothing => vec![Brings::Absence],
                Stores::Copy | Stores::Upload => vec![Brings::Unknown],
                // The one name, or the other.
                Stores::Move => vec![Brings::Absence, Brings::Unknown],
            };
            let has = |etag: &ETag, _: &_| match content {
                Stores::Body(body) => !etag.is_md5() || *etag == body.etag(),
                _ => true,
            };
            if !brings.iter().all(|brings| may_send(Rules::SOUND, brings, &notes, has)) {
                let windows = rows.iter().map(|row| self.late.window(row.ends));
                let left = windows.max().unwrap_or_default().saturating_sub(now.saturating_sub(state.read));
                return Err(Error::new(ErrorKind::Busy, "write through the gateway").key(pathname).message(format!(
                    "an earlier request to the store got no answer, and would undo this write if it landed after it; try again in {} s",
                    left.as_secs() + 1
                )));
            }
        }
        Ok(())
    }
}

impl State {
    /// Forgets those whose window is over.
    fn expire(&mut self, late: LateWrites, now: Duration) {
        let since = now.saturating_sub(self.read);
        self.notes.retain(|_, rows| {
            rows.retain(|row| since < late.window(row.ends));
            !rows.is_empty()
        });
    }
}
