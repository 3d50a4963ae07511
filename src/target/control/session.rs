//! Session rows: every process that can write to a store has one while it runs.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::{Control, row};
use crate::digest::Digest;
use crate::error::Result;
use crate::protocol::phase::Epoch;
use crate::target::store::Condition;
use crate::value::{Key, Value};

/// A process that can write to a store.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SessionRow {
    /// Unique; a session that ended is over for good.
    pub id: String,
    /// The name of its process: one at a time has it.
    pub name: String,
    /// What it does.
    pub kind: SessionKind,
    /// One more with every renewal.
    pub counter: u64,
    /// Whether it is open, or how it ended.
    pub state: SessionState,
    /// When it began, for people.
    pub began: Timestamp,
    /// When its row was last renewed, by the wall clock of its process: for people alone. Whether it lapsed is
    /// judged by who watches the counter.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub renewed: Option<Timestamp>,
    /// When it ended, for people and for the `settle` window.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ended: Option<Timestamp>,
    /// The hold that it acknowledged: from then on it accepts nothing, and nothing of it is in flight.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub acknowledged: Option<String>,
    /// From when on, until its end, it let writes through that it could not note.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gap: Option<Timestamp>,
    /// The epoch that it saw last: it acknowledged the flip into it, or began in it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub epoch: Option<Epoch>,
    /// The digest of what its plan says to its writers ([`crate::plan::Writers`]). A row without one, from an earlier
    /// program, counts as another plan's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub writers: Option<Digest>,
}

impl SessionRow {
    /// Whether it ended with something under way that no row names. In an epoch of DynamoDB's that it saw, whatever it
    /// sent has an intent, and what went to Blob a note; an operator sends nothing else.
    #[must_use]
    pub fn leaves_unnamed(&self, epoch: Epoch) -> bool {
        let noted = self.kind == SessionKind::Operator || self.epoch == Some(epoch);
        self.state == SessionState::Unclean && !(noted && self.gap.is_none())
    }
}

/// What a session's process does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum SessionKind {
    /// Serves an application.
    Gateway,
    /// Loads the mirror and sweeps it.
    Backfill,
    /// Repairs drift.
    Repair,
    /// Takes the way back from DynamoDB to Blob.
    Operator,
}

impl std::fmt::Display for SessionKind {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Gateway => "gateway",
            Self::Backfill => "backfill",
            Self::Repair => "repair",
            Self::Operator => "operator",
        })
    }
}

/// Whether a session is open, or how it ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum SessionState {
    /// It may write.
    Open,
    /// Its process said that it was done, with nothing in flight.
    Clean,
    /// Its process died, lost its lease or was stopped with something in flight.
    Unclean,
}

impl Control {
    /// All sessions, in no useful order.
    ///
    /// # Errors
    /// `Corrupt`; what the store reports.
    pub async fn sessions(&self) -> Result<Vec<SessionRow>> {
        self.rows("S#", "").await?.into_iter().map(row::decode).collect()
    }

    /// Stores a new session.
    ///
    /// # Errors
    /// What the store reports.
    pub async fn open_session(&self, session: &SessionRow) -> Result<bool> {
        self.put_row(row::encode(&session_key(&session.id), session), Condition::Absent).await
    }

    /// Stores a session anew, if it is still open with the counter `seen`; says whether it was.
    ///
    /// # Errors
    /// What the store reports.
    pub async fn update_session(&self, session: &SessionRow, seen: u64) -> Result<bool> {
        let condition = Condition::All(vec![
            Condition::equals(["counter"], Value::n(seen)),
            Condition::equals(["state"], Value::s(STATE_OPEN)),
        ]);
        self.put_row(row::encode(&session_key(&session.id), session), condition).await
    }
}

/// How [`SessionState::Open`] is stored.
pub(super) const STATE_OPEN: &str = "open";

pub(super) fn session_key(id: &str) -> Key {
    Key::new("S#", id)
}
