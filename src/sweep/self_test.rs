//! A comparison that finds nothing may be blind. So each sweep spoils a few equal pairs, in memory, and
//! must report exactly those, each as what was done to it.

use jiff::SignedDuration;

use super::compare::{Pair, Rules, compare};
use super::drift::DriftKind;
use crate::blob::ETag;
use crate::protocol::Rev;
use crate::value::Value;

/// How many equal pairs are spoilt, in each way that applies to them.
pub(super) const PAIRS: usize = 4;

/// Spoils a pair that was found equal in every way that it offers; says how often that was done, and
/// how often the comparison said so.
pub(super) fn spoil(pair: &Pair, rules: Rules<'_>) -> (u64, u64) {
    let (mut planted, mut found) = (0, 0);
    for (spoilt, kind) in spoilt(pair) {
        planted += 1;
        let drift = compare(&spoilt, rules);
        found += u64::from(!drift.is_empty() && drift.iter().all(|drift| drift.kind == kind));
    }
    (planted, found)
}

fn spoilt(pair: &Pair) -> Vec<(Pair, DriftKind)> {
    let mut all = Vec::new();
    let mut plant = |kind, change: &dyn Fn(&mut Pair) -> Option<()>| {
        let mut spoilt = pair.clone();
        if change(&mut spoilt).is_some() {
            all.push((spoilt, kind));
        }
    };
    plant(DriftKind::Missing, &|pair| {
        pair.anchor.take().filter(|_| pair.blob.is_some()).map(|_| pair.items = None)
    });
    plant(DriftKind::Extra, &|pair| pair.blob.take().map(drop));
    plant(DriftKind::Stale, &|pair| pair.blob.as_mut().map(|blob| blob.etag = ETag::new("planted")));
    plant(DriftKind::Stale, &|pair| {
        let blob = pair.blob.as_mut()?;
        blob.uploaded_at = blob.uploaded_at.checked_add(SignedDuration::from_millis(1)).ok()?;
        Some(())
    });
    plant(DriftKind::Missing, &|pair| {
        let first = pair.anchor.as_ref()?.items.first()?;
        pair.items.as_mut()?.remove(first)?;
        // Without its expectation a lost item is a lost item, whatever its TTL.
        pair.expected = None;
        Some(())
    });
    plant(DriftKind::Orphan, &|pair| {
        pair.anchor.as_ref()?.items.first()?;
        pair.items.as_ref()?;
        pair.anchor.as_mut()?.items_rev = Some(Rev::new("planted"));
        Some(())
    });
    plant(DriftKind::Different, &|pair| {
        pair.expected.as_ref()?;
        let first = pair.anchor.as_ref()?.items.first()?;
        pair.items.as_mut()?.get_mut(first)?.insert("planted".to_owned(), Value::Null);
        Some(())
    });
    plant(DriftKind::Different, &|pair| {
        let digest = pair.retained.as_mut()?.as_mut().ok()?;
        *digest = crate::digest::Digest::of("planted");
        Some(())
    });
    all
}
