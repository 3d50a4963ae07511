//! Which of two is newer: a blob that this migration did not write, or what DynamoDB holds under its pathname.
//!
//! Blob's times and DynamoDB's are of two clocks. They are compared only where the order of events does not say it,
//! and what is closer than [`CLOCKS_DIFFER_MAX`] is not told. Where to read next: [`super::foreign`].

use jiff::{SignedDuration, Timestamp};
use serde::Serialize;

use crate::blob::ListedBlob;
use crate::target::control::Anchor;

/// By how much the clocks of Blob and of a gateway may differ. Synchronised clocks differ by milliseconds; this allows
/// for one that is not.
pub const CLOCKS_DIFFER_MAX: SignedDuration = SignedDuration::from_secs(60);

/// Which of the two is newer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Newer {
    /// The blob, or DynamoDB never held anything.
    Blob,
    /// What DynamoDB holds, or its deletion.
    Dynamodb,
    /// Nobody can tell.
    Unclear,
}

/// Which of the two is newer, and how that is known, as a fragment that ends a sentence.
#[must_use]
pub fn newer(blob: &ListedBlob, anchor: Option<&Anchor>) -> (Newer, String) {
    let Some(anchor) = anchor else {
        return (Newer::Blob, "DynamoDB has never held anything there".to_owned());
    };
    match &anchor.head {
        Some(head) if anchor.behind.is_none() => {
            // Blob held this very version when the anchor was stored, and what is there now came after that. Both
            // times are of Blob's clock.
            let held = head.blob_uploaded_at.unwrap_or(head.uploaded_at);
            if blob.uploaded_at > held {
                (Newer::Blob, "Blob is newer: it held DynamoDB's version before".to_owned())
            } else {
                let why = format!(
                    "which is newer is unclear: Blob held DynamoDB's version since {held}, yet says that this is no later"
                );
                (Newer::Unclear, why)
            }
        }
        Some(head) => by_time(blob.uploaded_at, head.uploaded_at, "version"),
        None => match anchor.removed_at {
            Some(removed) => by_time(blob.uploaded_at, removed, "deletion"),
            None => (
                Newer::Unclear,
                "which is newer is unclear: DynamoDB does not say when it was deleted".to_owned(),
            ),
        },
    }
}

fn by_time(blob: Timestamp, dynamodb: Timestamp, what: &str) -> (Newer, String) {
    let later = blob.duration_since(dynamodb);
    let apart = SignedDuration::from_secs(later.abs().as_secs());
    if later.abs() <= CLOCKS_DIFFER_MAX {
        let most = CLOCKS_DIFFER_MAX;
        let why = format!(
            "which is newer is unclear: DynamoDB's {what} is {apart:#} apart from it, and clocks may differ by {most:#}"
        );
        (Newer::Unclear, why)
    } else if later.is_positive() {
        (Newer::Blob, format!("Blob is newer, by {apart:#} after DynamoDB's {what}"))
    } else {
        (Newer::Dynamodb, format!("DynamoDB is newer: its {what} came {apart:#} later"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::blob::ETag;
    use crate::digest::Digest;
    use crate::protocol::Rev;
    use crate::target::control::{AnchorState, Behind, BlobHead};

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(1_790_000_000 + second).unwrap()
    }

    fn blob(second: i64) -> ListedBlob {
        ListedBlob {
            pathname: "r/1.json".into(),
            size: 2,
            uploaded_at: at(second),
            etag: ETag::new("theirs"),
            url: String::new(),
            download_url: String::new(),
        }
    }

    fn tombstone(removed: Option<i64>) -> Anchor {
        Anchor { removed_at: removed.map(at), ..Anchor::tombstone("r/1.json".into(), Rev::new("1")) }
    }

    /// Written at `written`, by the gateway's clock, and mirrored at `mirrored`, by Blob's; not yet, where none.
    fn held(written: i64, mirrored: Option<i64>) -> Anchor {
        let head = BlobHead {
            etag: ETag::new("ours"),
            uploaded_at: at(written),
            size: 2,
            content_type: "application/json".to_owned(),
            cache_control: String::new(),
            sha256: Digest::of("{}"),
            md5: String::new(),
            blob_etag: ETag::new("ours"),
            blob_uploaded_at: mirrored.filter(|mirrored| *mirrored != written).map(at),
        };
        let behind = mirrored.is_none().then_some(Behind { etag: None, sha256: None });
        Anchor { state: AnchorState::Live, head: Some(head), behind, ..tombstone(None) }
    }

    #[track_caller]
    fn is(expected: Newer, blob: &ListedBlob, anchor: &Anchor) -> String {
        let (found, why) = newer(blob, Some(anchor));
        assert_eq!(found, expected, "{why}");
        why
    }

    #[test]
    fn what_blob_got_after_our_version_is_newer_whatever_the_other_clock_says() {
        assert_eq!(newer(&blob(0), None).0, Newer::Blob);
        is(Newer::Blob, &blob(11), &held(10, Some(10)));
        // The gateway's clock was an hour ahead, or behind.
        is(Newer::Blob, &blob(11), &held(3_600, Some(10)));
        is(Newer::Unclear, &blob(9), &held(-3_600, Some(10)));
        is(Newer::Unclear, &blob(10), &held(10, Some(10)));
    }

    #[test]
    fn what_was_not_mirrored_is_compared_by_time_with_a_margin() {
        is(Newer::Blob, &blob(61), &held(0, None));
        is(Newer::Unclear, &blob(60), &held(0, None));
        is(Newer::Unclear, &blob(0), &held(60, None));
        let why = is(Newer::Dynamodb, &blob(0), &held(90, None));
        assert_eq!(why, "DynamoDB is newer: its version came 1m 30s later");
    }

    #[test]
    fn a_deletion_has_a_time_or_nobody_can_tell() {
        is(Newer::Blob, &blob(61), &tombstone(Some(0)));
        is(Newer::Unclear, &blob(60), &tombstone(Some(0)));
        is(Newer::Dynamodb, &blob(0), &tombstone(Some(61)));
        is(Newer::Unclear, &blob(0), &tombstone(None));
    }
}
