//! One comparison: first a glance at the anchor, then, where that differs, looks at both sides until the key holds
//! still.

use std::time::Duration;

use super::{Answer, Gateway, Sample};
use crate::anchored::Anchored;
use crate::error::{Error, ErrorKind, Result};
use crate::protocol::shadow::{Compared, Look, Unverified, judge};
use crate::target::control::{Anchor, AnchorState, BodyForm};

/// How often a key is looked at before nobody can tell.
const LOOKS: u32 = 6;
/// The pause before the second look, doubled each time: three seconds in all.
const PAUSE: Duration = Duration::from_millis(100);
/// How long one look may take.
const LOOK_TIME_MAX: Duration = Duration::from_secs(5);

/// What DynamoDB would have answered.
enum Against {
    Equal,
    /// Something else: what.
    Differs(String),
    /// A change of it is half done.
    Unsettled,
    /// Nothing: Blob alone has what can't be mapped.
    LeftToBlob,
}

impl Gateway {
    /// Compares an answer, and counts what came of it.
    pub(super) async fn compare(&self, mut sample: Sample) {
        let began = self.clock().monotonic();
        let mut took = None;
        for left in (0..LOOKS).rev() {
            let first = left == LOOKS - 1;
            if !first {
                self.clock().sleep(PAUSE * 2u32.pow(LOOKS - 2 - left)).await;
            }
            let looked = tokio::select! {
                biased;
                looked = self.look(&mut sample, first) => looked,
                () = self.clock().sleep(LOOK_TIME_MAX) => Err(Error::new(ErrorKind::OutcomeUnknown, "compare a read")),
            };
            let took = *took.get_or_insert_with(|| self.clock().monotonic().saturating_sub(began));
            match looked {
                Ok(Some((look, what))) => {
                    if let Some(compared) = judge(look, left) {
                        return self.counted(&sample, compared, took, what);
                    }
                }
                Ok(None) => return,
                Err(error) => {
                    tracing::debug!(%error, pathname = %sample.pathname, "a read could not be compared");
                    self.count(sample.round, |reads| reads.errors += 1);
                    return self.metrics.compared("error");
                }
            }
        }
    }

    fn counted(&self, sample: &Sample, compared: Compared, took: Duration, what: String) {
        // What was read under another authority, or before the phase was left, says nothing of now.
        if self.door.compared() != Some(sample.round) {
            return;
        }
        let us = |duration: Duration| u64::try_from(duration.as_micros()).unwrap_or(u64::MAX);
        self.metrics.compared(match compared {
            Compared::Equal => "equal",
            Compared::Mismatch => "mismatch",
            Compared::Unverified(Unverified::Stale) => "stale",
            Compared::Unverified(Unverified::Moving) => "moving",
        });
        self.count(sample.round, |reads| match compared {
            Compared::Unverified(Unverified::Stale) => reads.stale += 1,
            Compared::Unverified(Unverified::Moving) => reads.moving += 1,
            Compared::Equal | Compared::Mismatch => {
                reads.compared += 1;
                reads.mismatches += u64::from(compared == Compared::Mismatch);
                reads.source_us = reads.source_us.saturating_add(us(sample.took));
                reads.target_us = reads.target_us.saturating_add(us(took));
            }
        });
        if let Compared::Equal | Compared::Mismatch = compared {
            self.metrics.compared_in(sample.took, took);
        }
        if compared == Compared::Mismatch {
            let now = self.clock().now();
            tracing::warn!(pathname = %sample.pathname, what, "DynamoDB would have answered something else");
            self.shadow.tally(|tally| tally.offended(sample.round, now, sample.pathname.clone(), what));
            // A key of the canary that Blob answered, since DynamoDB has another version: and it stays so.
            if let Some(step) = self.canaried(&sample.pathname) {
                self.mismatched(step, &sample.pathname);
            }
        }
    }

    /// One look, and what differs; none where there is nothing to compare. The first one is at the anchor alone.
    async fn look(&self, sample: &mut Sample, first: bool) -> Result<Option<(Look, String)>> {
        let pathname = sample.pathname.clone();
        let mut anchor = self.control().bare_anchor(&pathname).await?;
        let (mut still, mut current) = (false, true);
        if !first {
            let head = self.upstream.head(&pathname).await?;
            current = match &sample.answer {
                Answer::Head(_) => true,
                Answer::NoContent => head.is_none(),
                Answer::Content { etag, .. } => head.as_ref().is_some_and(|head| head.blob.etag == *etag),
            };
            if let Answer::Head(told) = &mut sample.answer {
                // What `head` says now is what DynamoDB must say now.
                *told = head;
            }
            let at_work =
                self.control().intents().await?.iter().any(|intent| intent.pathnames.contains(&pathname));
            // The intents were read before: a write that was over by then has a new rev by now.
            let now = self.control().bare_anchor(&pathname).await?;
            let rev = |anchor: &Option<Anchor>| anchor.as_ref().map(|anchor| anchor.rev.clone());
            still = !at_work && rev(&anchor) == rev(&now);
            anchor = now;
        }
        Ok(match self.against(&sample.answer, anchor.as_ref()).await? {
            Against::LeftToBlob => None,
            Against::Equal => Some((Look { equal: true, still, current }, String::new())),
            Against::Differs(what) => Some((Look { equal: false, still, current }, what)),
            Against::Unsettled => Some((Look { equal: false, still: false, current }, String::new())),
        })
    }

    async fn against(&self, answer: &Answer, anchor: Option<&Anchor>) -> Result<Against> {
        match anchor.map(|anchor| &anchor.state) {
            Some(AnchorState::Quarantined { .. }) => return Ok(Against::LeftToBlob),
            Some(AnchorState::Pending) => return Ok(Against::Unsettled),
            Some(AnchorState::Live | AnchorState::Tombstone) | None => {}
        }
        if let Some(what) = differs(answer, anchor) {
            return Ok(Against::Differs(what));
        }
        let (Answer::Content { sha256, .. }, Some(anchor)) = (answer, anchor) else {
            return Ok(Against::Equal);
        };
        let body = match Anchored::new(self.converger.clone(), &self.prefix).body_of(anchor).await {
            Ok(body) => body,
            // Its parts are replaced at the moment, or damaged: then it stays so.
            Err(error) if error.kind() == ErrorKind::Corrupt => {
                return Ok(Against::Differs(format!("its bytes can't be read: {error}")));
            }
            Err(error) => return Err(error),
        };
        let rebuilt = anchor.body.as_ref().is_some_and(|body| body.form == BodyForm::Skeleton);
        // What is put together from items is the same JSON in other bytes: the anchor knows those that were.
        let held = anchor.head.as_ref().filter(|_| rebuilt).map_or(body.sha256(), |head| head.sha256);
        Ok(if held == *sha256 { Against::Equal } else { Against::Differs("other bytes".to_owned()) })
    }
}

/// What an anchor says otherwise than the answer did, but for the bytes.
fn differs(answer: &Answer, anchor: Option<&Anchor>) -> Option<String> {
    let anchor = anchor.filter(|anchor| anchor.head.is_some());
    let (etag, size, content_type) = match answer {
        Answer::NoContent | Answer::Head(None) => {
            return anchor.map(|_| "DynamoDB has it, Blob has not".to_owned());
        }
        Answer::Head(Some(head)) => (&head.blob.etag, head.blob.size, &head.content_type),
        Answer::Content { etag, size, content_type, .. } => (etag, *size, content_type),
    };
    let Some((anchor, held)) = anchor.and_then(|anchor| Some((anchor, anchor.head.as_ref()?))) else {
        return Some("DynamoDB does not have it".to_owned());
    };
    if held.size != size {
        return Some(format!("{} bytes, not {size}", held.size));
    }
    if held.etag != *etag && held.blob_etag != *etag {
        return Some(format!("version {}, not {etag}", held.etag));
    }
    if held.content_type != *content_type {
        return Some(format!("content type {}, not {content_type}", held.content_type));
    }
    if let Answer::Head(Some(head)) = answer {
        let stored = Anchor::as_known(Some(anchor), head.blob.clone()).uploaded_at;
        if held.uploaded_at != stored {
            return Some(format!("stored at {}, not {stored}", held.uploaded_at));
        }
    }
    None
}
