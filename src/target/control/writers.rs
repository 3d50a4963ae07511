//! What a plan says to its writers, kept under its digest: so that it can be told in what another one differs.

use serde::{Deserialize, Serialize};

use super::{Control, row};
use crate::digest::Digest;
use crate::error::{Error, ErrorKind, Result};
use crate::plan::Writers;
use crate::protocol::phase::Authority;
use crate::target::control::Mode;
use crate::target::store::{Condition, Table, Write};
use crate::value::Key;

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct WritersRow {
    /// [`Writers::text`].
    plan: String,
}

impl Control {
    /// Refuses where the authority went to DynamoDB under a plan that says something else to its writers.
    ///
    /// # Errors
    /// `Usage`, with what differs.
    pub async fn check_writers(&self, mode: &Mode, writers: &Writers) -> Result<()> {
        let Some(digest) = mode.writers.filter(|digest| *digest != writers.digest) else { return Ok(()) };
        if mode.phase.authority() == Authority::Source {
            return Ok(());
        }
        // The refusal stands where it can't be told in what they differ.
        let kept = self.get_row(key(&digest)).await.ok().flatten().map(row::decode::<WritersRow>);
        let other = kept.and_then(|row| Writers::from_text(&row.ok()?.plan));
        let differs = other.map(|other| writers.differences(&other)).filter(|keys| !keys.is_empty());
        let differs = differs.map_or_else(String::new, |keys| format!(": {keys}"));
        Err(Error::new(ErrorKind::Usage, "write under this plan")
            .message(format!(
                "it is another one than that of the cutover, and two plans at once would make two truths{differs}"
            ))
            .hint("run it under the plan of the cutover; or go back under that one (`migrate cutover --rollback`), change the plan, and cut over again"))
    }
}

/// The write that keeps what a plan says to its writers.
pub(super) fn kept(writers: &Writers) -> Write {
    let item = row::encode(&key(&writers.digest), &WritersRow { plan: writers.text() });
    Write::Put { table: Table::Control, item, condition: Condition::Always }
}

fn key(digest: &Digest) -> Key {
    Key::new("P#", digest.to_string())
}
