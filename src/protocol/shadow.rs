//! Shadow reads: what was served from Blob, against what DynamoDB would have answered.
//!
//! Both sides change all the time, and content may come from a cache. So two answers that differ are looked at
//! again, until the key holds still: only then is it a mismatch.

/// What one look at both sides showed, after something was served from Blob.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Look {
    /// Whether DynamoDB would answer what was served.
    pub equal: bool,
    /// Whether nothing changed while it was looked: the anchor's rev was the same before and after Blob's head, no
    /// intent names the key, and no change of it is half done.
    pub still: bool,
    /// Whether what was served is what Blob holds now.
    pub current: bool,
}

/// What a comparison came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Compared {
    /// DynamoDB answers the same.
    Equal,
    /// It answers something else, or nothing.
    Mismatch,
    /// Nobody can tell.
    Unverified(Unverified),
}

/// Why nobody can tell.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Unverified {
    /// What was served is older than what Blob holds: a cache had it, or it was replaced since.
    Stale,
    /// The key never held still.
    Moving,
}

/// What to do after a look, with so many looks left; none: look again.
#[must_use]
pub const fn judge(look: Look, looks_left: u32) -> Option<Compared> {
    match look {
        Look { equal: true, .. } => Some(Compared::Equal),
        Look { still: false, .. } if looks_left > 0 => None,
        Look { still: false, .. } => Some(Compared::Unverified(Unverified::Moving)),
        Look { current: false, .. } => Some(Compared::Unverified(Unverified::Stale)),
        Look { .. } => Some(Compared::Mismatch),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_holds_still_and_is_current_is_a_mismatch() {
        let look = |equal, still, current| Look { equal, still, current };
        for (look, left, compared) in [
            (look(true, false, false), 3, Some(Compared::Equal)),
            (look(true, true, true), 0, Some(Compared::Equal)),
            (look(false, false, true), 3, None),
            (look(false, false, false), 1, None),
            (look(false, false, true), 0, Some(Compared::Unverified(Unverified::Moving))),
            (look(false, true, false), 3, Some(Compared::Unverified(Unverified::Stale))),
            (look(false, true, true), 3, Some(Compared::Mismatch)),
            (look(false, true, true), 0, Some(Compared::Mismatch)),
        ] {
            assert_eq!(judge(look, left), compared, "{look:?} {left}");
        }
    }
}
