//! One plan at a time: while DynamoDB is the authority, nobody writes under another plan than that of the cutover.

use crate::error::{Error, ErrorKind, Result};
use crate::plan::Writers;
use crate::protocol::phase::Authority;
use crate::target::control::{Control, Mode};

/// Refuses where the authority went to DynamoDB under a plan that says something else to its writers.
///
/// # Errors
/// `Usage`, with what differs.
pub(super) async fn check(control: &Control, mode: &Mode, writers: &Writers) -> Result<()> {
    let other = mode.writers.filter(|digest| *digest != writers.digest);
    let Some(digest) = other.filter(|_| mode.phase.authority() == Authority::Target) else { return Ok(()) };
    // The refusal stands where it can't be told in what they differ.
    let other = control.writers(&digest).await.ok().flatten();
    let differs = other.map(|other| writers.differences(&other)).filter(|keys| !keys.is_empty());
    let differs = differs.map_or_else(String::new, |keys| format!(": {keys}"));
    Err(Error::new(ErrorKind::Usage, "write under this plan")
        .message(format!(
            "it is another one than that of the cutover, and two plans at once would make two truths{differs}"
        ))
        .hint("run it under the plan of the cutover; or go back under that one (`migrate cutover --rollback`), change the plan, and cut over again"))
}
