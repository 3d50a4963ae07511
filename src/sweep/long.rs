//! The judgement of a long body: its items a few at a time, and the document that is put together from them.

use std::collections::HashSet;
use std::sync::Arc;

use super::compare::{Pair, compare, item};
use super::drift::{Drift, DriftKind};
use super::run::Sweep;
use crate::blob::spool::{MEMORY_BYTES_MAX, Spool};
use crate::converge::{LongBody, off_thread, rebuild};
use crate::error::{Error, ErrorKind, Result};
use crate::mapping::{EntityId, Halt, MappedItem, Outline, Position};
use crate::target::Table;
use crate::target::control::{Anchor, AnchorState};
use crate::value::{Item, Key, Value};

/// How many items are compared at a time.
const ITEMS: usize = 100;
/// How many differences of one blob are listed; the others are counted.
const DRIFT_MAX: usize = 1_000;

/// What came of judging a pathname.
#[derive(Debug, Default)]
pub(super) struct Judged {
    /// Where the two sides differ.
    pub(super) drift: Vec<Drift>,
    /// Differences that were planted in memory, and those among them that were found.
    pub(super) planted: u64,
    pub(super) found: u64,
}

impl From<Vec<Drift>> for Judged {
    fn from(drift: Vec<Drift>) -> Self {
        Self { drift, ..Self::default() }
    }
}

impl Sweep<'_> {
    /// Judges a pathname with a long body, of which `pair` has what was seen but for items.
    pub(super) async fn judge_long(
        &self,
        mut pair: Pair,
        entity: EntityId,
        long: &Arc<LongBody>,
    ) -> Result<Judged> {
        // As for other bodies, a TTL that has passed since is no reason for a quarantine.
        let stored = pair.blob.as_ref().map_or_else(|| self.rules().now, |blob| blob.uploaded_at);
        let live = pair.anchor.clone().filter(|anchor| anchor.state == AnchorState::Live);
        match (long.scan(stored, (), |(), _, _| {}).await?, &live) {
            (Err(quarantine), _) => pair.expected = Some(Err(quarantine)),
            (Ok(_), None) => pair.expected = Some(Ok(Vec::new())),
            (Ok(_), Some(_)) => {}
        }
        let drift = compare(&pair, self.rules());
        let Some(anchor) = live.filter(|_| drift.is_empty()) else { return Ok(drift.into()) };
        let mut judged = self.items_of_long(&pair, &anchor, long, stored).await?;
        if judged.drift.is_empty()
            && let Some(reason) = self.not_rebuilt(&anchor, entity, long).await?
        {
            judged.drift.push(pair.drift(DriftKind::Different, &reason));
        }
        Ok(judged)
    }

    async fn items_of_long(
        &self,
        pair: &Pair,
        anchor: &Anchor,
        long: &LongBody,
        stored: jiff::Timestamp,
    ) -> Result<Judged> {
        let mut named: HashSet<&Key> = anchor.items.iter().collect();
        let mut judged = Judged::default();
        let mut more = 0;
        let mut records = long.records(stored, Position::default())?;
        loop {
            let mut expected: Vec<MappedItem> = Vec::new();
            while expected.len() < ITEMS
                && let Some((_, items)) = records.next_part().map_err(|halt| long.changed(halt))?
            {
                expected.extend(items);
            }
            if expected.is_empty() {
                break;
            }
            let keys: Vec<Key> = expected.iter().map(|mapped| mapped.key.clone()).collect();
            let found = self.converger.control.store().get(Table::Data, &keys).await?;
            if judged.planted == 0 {
                self.spoil(&mut judged, pair, anchor, &expected[0], found[0].as_ref());
            }
            for (mapped, found) in expected.iter().zip(&found) {
                let drift = match named.remove(&mapped.key) {
                    true => self.one_item(pair, anchor, mapped, found.as_ref()),
                    false => Some(pair.item_drift(
                        DriftKind::Different,
                        &mapped.key,
                        "its anchor does not name the item",
                    )),
                };
                match drift {
                    Some(drift) if judged.drift.len() < DRIFT_MAX => judged.drift.push(drift),
                    drift => more += usize::from(drift.is_some()),
                }
            }
        }
        for key in named {
            match judged.drift.len() {
                ..DRIFT_MAX => {
                    let detail = "the blob does not map to the item";
                    judged.drift.push(pair.item_drift(DriftKind::Different, key, detail));
                }
                _ => more += 1,
            }
        }
        if more > 0 {
            judged.drift.push(pair.drift(DriftKind::Different, &format!("{more} more of its items differ")));
        }
        Ok(judged)
    }

    fn one_item(
        &self,
        pair: &Pair,
        anchor: &Anchor,
        mapped: &MappedItem,
        found: Option<&Item>,
    ) -> Option<Drift> {
        item(pair, anchor.items_rev.as_ref(), &mapped.key, found, Some(&mapped.item), self.rules())
    }

    /// Plants a difference, in memory: a comparison that does not see it proves nothing.
    fn spoil(
        &self,
        judged: &mut Judged,
        pair: &Pair,
        anchor: &Anchor,
        mapped: &MappedItem,
        found: Option<&Item>,
    ) {
        let Some(mut spoilt) = found.cloned() else { return };
        spoilt.insert("planted".to_owned(), Value::Null);
        judged.planted += 1;
        judged.found += u64::from(self.one_item(pair, anchor, mapped, Some(&spoilt)).is_some());
    }

    /// Why what is put together from the items is not the blob's document. None where it is.
    async fn not_rebuilt(
        &self,
        anchor: &Anchor,
        entity: EntityId,
        long: &Arc<LongBody>,
    ) -> Result<Option<String>> {
        let (control, mapper) = (&self.converger.control, &self.converger.mapper);
        // What was written while DynamoDB was the authority has its bytes beside it, checked as they are read.
        match control.retained(anchor).await {
            Ok(Some(_)) => return Ok(None),
            Ok(None) => {}
            Err(error) if error.kind() == ErrorKind::Corrupt => {
                return Ok(Some(error.detail().unwrap_or_default().to_owned()));
            }
            Err(error) => return Err(error),
        }
        let mut spool = Spool::new(MEMORY_BYTES_MAX);
        let rebuilt = async {
            let Some(skeleton) = control.skeleton(anchor).await? else { return Ok(false) };
            rebuild(control, (mapper, entity), anchor, &skeleton, |piece| spool.push(piece)).await?;
            Ok::<_, Error>(true)
        };
        match rebuilt.await {
            Ok(true) => {}
            Ok(false) => return Ok(Some("nothing says how it is put together from its items".to_owned())),
            Err(error) if error.kind() == ErrorKind::Corrupt => {
                return Ok(Some(error.detail().unwrap_or_default().to_owned()));
            }
            Err(error) => return Err(error),
        }
        let (rebuilt, mapper, long) = (spool.finish(), Arc::clone(mapper), Arc::clone(long));
        let same = off_thread(move || {
            let same = match mapper.outline(entity, rebuilt.reader()) {
                Ok(Some(outline)) => {
                    Outline::same((long.outline(), long.body().reader()), (&outline, rebuilt.reader()))
                }
                Ok(None) | Err(Halt::Quarantine(_)) => Ok(false),
                Err(halt) => Err(halt),
            };
            same.map_err(|halt| long.changed(halt))
        });
        Ok((!same.await?).then(|| "the JSON rebuilt from the items is not the blob's".to_owned()))
    }
}
