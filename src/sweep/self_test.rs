//! A comparison that finds nothing may be blind. So each sweep spoils a few equal pairs, in memory, and
//! must report exactly those, each as what was done to it.

use jiff::SignedDuration;

use super::compare::{Pair, Rules, compare};
use super::drift::{Drift, DriftKind};
use crate::blob::ETag;
use crate::protocol::Rev;
use crate::value::Value;

/// How many equal pairs are spoilt, in each way that applies to them.
pub(super) const PAIRS: usize = 4;

/// Spoils a pair that was found equal in every way that it offers; says how often that was done, and
/// how often the comparison said so.
pub(super) fn spoil(pair: &Pair, rules: Rules<'_>) -> (u64, u64) {
    judge(pair, |spoilt| compare(spoilt, rules))
}

/// The same, of any comparison.
fn judge(pair: &Pair, compare: impl Fn(&Pair) -> Vec<Drift>) -> (u64, u64) {
    let (mut planted, mut found) = (0, 0);
    for (spoilt, kind) in spoilt(pair) {
        planted += 1;
        let drift = compare(&spoilt);
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
        let first = pair.anchor.as_ref()?.items.first()?;
        // An expired item may be gone.
        pair.items.as_ref()?.get(first)?;
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

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use jiff::Timestamp;

    use super::*;
    use crate::blob::{ListedBlob, Pathname};
    use crate::digest::Digest;
    use crate::mapping::{Document, Json, MappedItem};
    use crate::plan::Duplicates;
    use crate::target::control::{Anchor, AnchorState, BlobHead};
    use crate::value::{Item, Key};

    const RULES: Rules<'static> = Rules { ttl: None, now: Timestamp::UNIX_EPOCH };

    /// A pair of equal sides, with one item and a retained body.
    fn equal() -> Pair {
        let (pathname, key) = (Pathname::from("r/1.json"), Key::new("R#1", "META"));
        let (etag, rev, at) = (ETag::new("1"), Rev::new("rev"), Timestamp::UNIX_EPOCH);
        let sha256 = Digest::of("{}");
        let item: Item = [("v".to_owned(), Value::s("1"))].into();
        let mut stored = item.clone();
        stored.insert(crate::converge::SOURCE.to_owned(), crate::converge::source_value(&pathname, &rev));
        let head = BlobHead {
            etag: etag.clone(),
            uploaded_at: at,
            size: 2,
            content_type: String::new(),
            cache_control: String::new(),
            sha256,
            md5: String::new(),
            blob_etag: etag.clone(),
            blob_uploaded_at: None,
        };
        let anchor = Anchor {
            state: AnchorState::Live,
            items_rev: Some(rev.clone()),
            items: vec![key.clone()].into(),
            head: Some(head),
            mapping: Some(sha256),
            ..Anchor::tombstone(pathname.clone(), rev)
        };
        let url = String::new;
        Pair {
            blob: Some(ListedBlob {
                pathname: pathname.clone(),
                size: 2,
                uploaded_at: at,
                etag,
                url: url(),
                download_url: url(),
            }),
            pathname,
            mapping: Some(sha256),
            anchor: Some(anchor),
            groups: None,
            items: Some(BTreeMap::from([(key.clone(), stored)])),
            document: Json::parse(b"{}", Duplicates::Quarantine).ok().map(Document::Json),
            expected: Some(Ok(vec![MappedItem::new(key, item)])),
            retained: Some(Ok(sha256)),
            not_rebuilt: None,
        }
    }

    #[test]
    fn the_comparison_finds_all_that_is_planted() {
        assert_eq!(compare(&equal(), RULES), []);
        assert_eq!(spoil(&equal(), RULES), (8, 8));
    }

    /// Hazard A11: each way of not looking leaves something planted that is not found.
    #[test]
    fn a_blind_comparison_does_not_pass() {
        type Blindfold = fn(&mut Pair);
        let blindfolds: [(&str, Blindfold); 6] = [
            ("no items", |pair| pair.items = None),
            ("nothing expected", |pair| pair.expected = None),
            ("no retained bytes", |pair| pair.retained = None),
            ("no source", |pair| pair.blob.clone_from(&equal().blob)),
            ("no anchor", |pair| pair.anchor.clone_from(&equal().anchor)),
            ("no revs", |pair| {
                if let Some(anchor) = &mut pair.anchor {
                    anchor.items_rev.clone_from(&equal().anchor.and_then(|anchor| anchor.items_rev));
                }
            }),
        ];
        for (name, blindfold) in blindfolds {
            let (planted, found) = judge(&equal(), |pair| {
                let mut pair = pair.clone();
                blindfold(&mut pair);
                compare(&pair, RULES)
            });
            assert!(planted == 8 && found < planted, "{name}: {found} of {planted}");
        }
        assert_eq!(judge(&equal(), |_| Vec::new()), (8, 0));
        // And one that cries wolf is not right by chance.
        let always = vec![equal().drift(DriftKind::Missing, "always")];
        assert!(judge(&equal(), |_| always.clone()).1 < 8);
    }
}
