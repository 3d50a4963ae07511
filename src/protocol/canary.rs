//! The canary: which reads DynamoDB answers while Blob is the authority.

use serde::{Deserialize, Serialize};

use crate::digest::Digest;

/// So many parts a whole has: a hundredth of a percent each.
const PARTS: u64 = 10_000;

/// The keys that are read from DynamoDB.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Share {
    /// So many of a hundred keys, from 1 to 100.
    pub percent: u8,
    /// Only keys that begin with one of these; all where there is none.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub prefixes: Vec<String>,
}

impl Share {
    /// Whether a pathname is in it. A key that is in a share is in every larger one, by every gateway.
    #[must_use]
    pub fn holds(&self, pathname: &str) -> bool {
        let named =
            self.prefixes.is_empty() || self.prefixes.iter().any(|prefix| pathname.starts_with(prefix));
        named && part_of(pathname) < u64::from(self.percent) * (PARTS / 100)
    }
}

impl std::fmt::Display for Share {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} %", self.percent)?;
        if !self.prefixes.is_empty() {
            write!(f, " of what begins with {}", self.prefixes.join(" or "))?;
        }
        Ok(())
    }
}

/// The part that a key falls into: its SHA-256, as a number, modulo [`PARTS`].
fn part_of(pathname: &str) -> u64 {
    let digest = Digest::of(pathname);
    digest.as_bytes().iter().fold(0, |rest, byte| (rest * 256 + u64::from(*byte)) % PARTS)
}

/// What DynamoDB holds of a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Held<V> {
    /// Nothing.
    Nothing,
    /// This version, whole.
    Version(V),
    /// What can't be answered with: a change is half done, or Blob alone has it.
    Unsettled,
}

/// Which store answers a read of the canary.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ServeFrom {
    /// DynamoDB.
    Target,
    /// Blob.
    Source,
}

/// DynamoDB answers where it holds the version that Blob names at the same time; so nobody is told anything older
/// than what Blob would have told.
#[must_use]
pub fn serve_from<V: PartialEq>(held: &Held<V>, head: Option<&V>) -> ServeFrom {
    match (held, head) {
        (Held::Nothing, None) => ServeFrom::Target,
        (Held::Version(held), Some(head)) if held == head => ServeFrom::Target,
        (Held::Nothing | Held::Version(_) | Held::Unsettled, _) => ServeFrom::Source,
    }
}

/// What a gateway counted of the canary since it has this share.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize)]
pub struct Counts {
    /// Reads that DynamoDB answered.
    pub answered: u64,
    /// Reads that Blob answered, since DynamoDB holds another version yet.
    pub behind: u64,
    /// Reads that Blob answered, since DynamoDB failed or was too slow.
    pub errors: u64,
    /// Answers that were not what Blob holds.
    pub mismatches: u64,
}

/// What a canary may cost.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Bounds {
    /// At most so many mismatches.
    pub mismatches: u64,
    /// At most so many of a hundred reads that fail.
    pub errors_percent: u64,
}

/// Why a canary ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum TurnBack {
    /// So many answers were wrong.
    Mismatches(u64),
    /// So many reads failed.
    Errors(u64),
}

/// From so many reads on, their rate of errors counts.
const READS_MIN: u64 = 20;

/// Whether reads are to come from Blob again, and why.
#[must_use]
pub const fn turn_back(counts: Counts, bounds: Bounds) -> Option<TurnBack> {
    if counts.mismatches > bounds.mismatches {
        return Some(TurnBack::Mismatches(counts.mismatches));
    }
    let reads = counts.answered + counts.behind + counts.errors;
    if reads >= READS_MIN && counts.errors * 100 > reads * bounds.errors_percent {
        return Some(TurnBack::Errors(counts.errors));
    }
    None
}

impl std::fmt::Display for TurnBack {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Mismatches(count) => write!(f, "{count} answers of DynamoDB were not what Blob holds"),
            Self::Errors(count) => write!(f, "{count} reads from DynamoDB failed or took too long"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn share(percent: u8, prefixes: &[&str]) -> Share {
        Share { percent, prefixes: prefixes.iter().map(ToString::to_string).collect() }
    }

    #[test]
    fn a_share_is_stable_and_only_grows() {
        // SHA-256 of `a` is ca97…48bb.
        assert_eq!(part_of("a"), 3499);
        for number in 0..2_000 {
            let name = format!("signups/{number}.json");
            let first = (1..=100).find(|percent| share(*percent, &[]).holds(&name)).expect("all of them");
            assert!((first..=100).all(|percent| share(percent, &[]).holds(&name)), "{name}");
        }
    }

    #[test]
    fn it_is_as_large_as_it_says() {
        for percent in [1, 10, 50, 90] {
            let held =
                (0..20_000).filter(|number| share(percent, &[]).holds(&format!("r/{number}.json"))).count();
            let expected = usize::from(percent) * 200;
            assert!(held.abs_diff(expected) < 300, "{percent} %: {held}");
        }
    }

    #[test]
    fn only_what_begins_as_asked_is_in_it() {
        assert!(share(100, &[]).holds("r/1.json"));
        assert!(share(100, &["p/", "r/"]).holds("r/1.json"));
        assert!(!share(100, &["p/"]).holds("r/1.json"));
    }

    #[test]
    fn dynamodb_answers_only_with_the_version_that_blob_names() {
        for (held, head, from) in [
            (Held::Nothing, None, ServeFrom::Target),
            (Held::Version(1), Some(1), ServeFrom::Target),
            (Held::Nothing, Some(1), ServeFrom::Source),
            (Held::Version(1), None, ServeFrom::Source),
            (Held::Version(1), Some(2), ServeFrom::Source),
            (Held::Unsettled, Some(1), ServeFrom::Source),
            (Held::Unsettled, None, ServeFrom::Source),
        ] {
            assert_eq!(serve_from(&held, head.as_ref()), from, "{held:?} {head:?}");
        }
    }

    #[test]
    fn it_turns_back_over_the_bounds_and_not_before() {
        let counts = |answered, behind, errors, mismatches| Counts { answered, behind, errors, mismatches };
        let bounds = Bounds { mismatches: 1, errors_percent: 10 };
        for (counts, why) in [
            (counts(0, 0, 0, 0), None),
            (counts(100, 0, 0, 1), None),
            (counts(1, 0, 0, 2), Some(TurnBack::Mismatches(2))),
            // A few reads tell nothing of a rate.
            (counts(0, 0, 19, 0), None),
            (counts(0, 0, 20, 0), Some(TurnBack::Errors(20))),
            (counts(18, 0, 2, 0), None),
            (counts(17, 0, 3, 0), Some(TurnBack::Errors(3))),
            // A lag is no error.
            (counts(0, 100, 0, 0), None),
            (counts(0, 27, 3, 0), None),
        ] {
            assert_eq!(turn_back(counts, bounds), why, "{counts:?}");
        }
    }
}
