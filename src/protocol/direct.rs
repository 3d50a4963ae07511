//! Items that the application writes itself, where DynamoDB is the authority: from an anchor and its item to what
//! is to become of the anchor.
//!
//! Ownership is the anchor's: whatever the item says of itself, the anchor that lists its key is the blob's.

/// What an anchor that holds something says of its item.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Known<D> {
    /// The digest of the item when the anchor was written.
    pub digest: D,
    /// Whether that item's TTL has passed, so that DynamoDB may have deleted it.
    pub expired: bool,
}

/// The item as it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Found<D> {
    /// Its digest.
    pub digest: D,
    /// Whether its `_source` names the anchor's pathname and the rev of its items.
    pub ours: bool,
}

/// What is to be done.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Verdict {
    /// Nothing: the anchor says what is there.
    Equal,
    /// The item expired, and its blob stays as it is.
    Kept,
    /// The item is what it was, and lost its `_source`, which it gets back.
    Mark,
    /// The blob is what the item says now.
    Adopt,
    /// The blob is gone, as its item is.
    Remove,
}

/// Judges an item by its anchor; `known` is none where the anchor holds nothing, or there is none.
pub fn judge<D: Eq>(known: Option<&Known<D>>, found: Option<&Found<D>>, mirror_expiry: bool) -> Verdict {
    match (known, found) {
        (None, None) => Verdict::Equal,
        (None, Some(_)) => Verdict::Adopt,
        (Some(known), None) if known.expired && !mirror_expiry => Verdict::Kept,
        (Some(_), None) => Verdict::Remove,
        (Some(known), Some(found)) if known.digest != found.digest => Verdict::Adopt,
        (Some(_), Some(found)) if found.ours => Verdict::Equal,
        (Some(_), Some(_)) => Verdict::Mark,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_item_decides_and_the_anchor_says_whose_it_is() {
        let known = |expired| Some(Known { digest: 1, expired });
        let found = |digest, ours| Some(Found { digest, ours });
        for (known, found, mirror_expiry, verdict) in [
            (None, None, false, Verdict::Equal),
            (None, found(1, false), false, Verdict::Adopt),
            (known(false), found(1, true), false, Verdict::Equal),
            // PutItem with what was there.
            (known(false), found(1, false), false, Verdict::Mark),
            // UpdateItem leaves `_source`, PutItem drops it.
            (known(false), found(2, true), false, Verdict::Adopt),
            (known(false), found(2, false), false, Verdict::Adopt),
            // Past its TTL and still there, or there again.
            (known(true), found(1, true), false, Verdict::Equal),
            (known(true), found(2, false), false, Verdict::Adopt),
            // DeleteItem.
            (known(false), None, false, Verdict::Remove),
            (known(false), None, true, Verdict::Remove),
            (known(true), None, false, Verdict::Kept),
            (known(true), None, true, Verdict::Remove),
        ] {
            assert_eq!(
                judge(known.as_ref(), found.as_ref(), mirror_expiry),
                verdict,
                "{known:?} {found:?} {mirror_expiry}"
            );
        }
    }
}
