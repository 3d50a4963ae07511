//! Looks at one pathname, or one item, until it holds still.

use std::collections::{BTreeMap, BTreeSet};

use super::compare::{Groups, Pair, Rules, compare};
use super::drift::{Drift, DriftKind};
use super::long::Judged;
use super::run::{Level, Sweep};
use crate::blob::{ListedBlob, Pathname};
use crate::converge::{Reading, owner, source_rev};
use crate::digest::Digest;
use crate::error::{ErrorKind, Result};
use crate::mapping::{BlobFacts, EntityId, MappedItem, Rule};
use crate::protocol::Rev;
use crate::target::Table;
use crate::target::control::{Anchor, AnchorState, Group};
use crate::value::{Item, Key};

/// How often a moving key is looked at before it is `Unverified`.
const LOOKS: u32 = 5;

impl Sweep<'_> {
    /// Judges a pathname: anchor, source, groups, items, groups, anchor; again while one of them moves.
    pub(super) async fn judge(&self, pathname: &Pathname) -> Result<Judged> {
        let entity = match self.converger.mapper.rule(pathname) {
            Rule::Entity(entity) => Some(entity),
            _ => None,
        };
        let mut last = Pair::bare(pathname.clone(), None, None);
        for look in 0..LOOKS {
            if look > 0 {
                self.converger.clock().sleep(self.patience * look).await;
            }
            let anchor = match self.converger.control.anchor(pathname).await {
                Err(error) if error.kind() == ErrorKind::Corrupt => {
                    return Ok(vec![last.drift(DriftKind::Unverified, &error.to_string())].into());
                }
                anchor => anchor?,
            };
            let blob = match entity {
                Some(_) => {
                    let head = self.converger.source().head(pathname).await?;
                    head.map(|head| Anchor::as_known(anchor.as_ref(), head.blob))
                }
                None => None,
            };
            last = Pair::bare(pathname.clone(), anchor.clone(), blob.clone());
            let (judged, groups) = match self.look(pathname, entity, anchor, blob).await {
                Ok(Some(judged)) => judged,
                Ok(None) => continue,
                Err(error) if error.kind().is_of_one_key() => {
                    return Ok(vec![last.drift(DriftKind::Unverified, &error.to_string())].into());
                }
                Err(error) => return Err(error),
            };
            // Overtaken by another member meanwhile, an item is that one's.
            let moved = groups != self.converger.control.groups(groups.keys()).await?;
            let after = self.converger.control.rev(pathname).await?;
            if !moved && after.as_ref() == rev(last.anchor.as_ref()) {
                return Ok(judged);
            }
        }
        Ok(vec![last.drift(DriftKind::Unverified, "it did not hold still while it was judged")].into())
    }

    /// Compares everything of one pathname; with the groups that it is held against. None where the source holds
    /// another version by now.
    async fn look(
        &self,
        pathname: &Pathname,
        entity: Option<EntityId>,
        anchor: Option<Anchor>,
        blob: Option<ListedBlob>,
    ) -> Result<Option<(Judged, BTreeMap<Key, Group>)>> {
        let mut pair = Pair::bare(pathname.clone(), anchor, blob);
        pair.mapping = entity.map(|entity| self.converger.mapper.digest(entity));
        if let (Some(entity), Some(blob)) = (entity, &pair.blob) {
            let Some(body) = self.converger.fetch(blob).await? else { return Ok(None) };
            let blob = blob.clone();
            let name = (&blob.pathname, blob.uploaded_at);
            match Reading::of(&self.converger.mapper, entity, name, &body.body).await? {
                Reading::Whole(bytes) => self.expect(&mut pair, entity, &blob, &bytes),
                Reading::Quarantined(quarantine) => pair.expected = Some(Err(quarantine)),
                Reading::Long(long) => {
                    return Ok(Some((self.judge_long(pair, entity, &long).await?, BTreeMap::new())));
                }
            }
        }
        let mut pairs = [pair];
        self.load(&mut pairs).await?;
        let [pair] = pairs;
        let judged = compare(&pair, self.rules()).into();
        Ok(Some((judged, pair.groups.map(|groups| groups.rows).unwrap_or_default())))
    }

    /// Adds what a body holds and maps to.
    pub(super) fn expect(&self, pair: &mut Pair, entity: EntityId, blob: &ListedBlob, body: &[u8]) {
        let mapper = &self.converger.mapper;
        // What the application writes itself is not made of the blob: the blob is made of it.
        if self.converger.directly_written(&blob.pathname).is_some() {
            return;
        }
        let facts = BlobFacts { pathname: &blob.pathname, uploaded_at: blob.uploaded_at };
        pair.document = mapper.decode(entity, body).ok();
        // A TTL that has passed since is no reason for a quarantine now: the comparison allows for it.
        pair.expected = Some(mapper.map(entity, facts, body, blob.uploaded_at));
    }

    /// Reads the items of pairs, and at the content level their retained bodies.
    pub(super) async fn load(&self, pairs: &mut [Pair]) -> Result<()> {
        let wanted: BTreeSet<Key> = pairs.iter().flat_map(Pair::keys).collect();
        let keys: Vec<Key> = wanted.into_iter().collect();
        self.load_groups(pairs).await?;
        let items = self.converger.control.store().get(Table::Data, &keys).await?;
        let items: BTreeMap<Key, Item> =
            keys.into_iter().zip(items).filter_map(|(key, item)| Some((key, item?))).collect();
        for pair in pairs.iter_mut() {
            let found = pair.keys().filter_map(|key| Some((key.clone(), items.get(&key)?.clone()))).collect();
            pair.items = Some(found);
        }
        if self.level == Level::Content {
            self.load_bodies(pairs).await?;
        }
        Ok(())
    }

    /// Reads the groups of pairs.
    pub(super) async fn load_groups(&self, pairs: &mut [Pair]) -> Result<()> {
        let control = &self.converger.control;
        let keys: BTreeSet<Key> = pairs.iter().flat_map(Pair::group_keys).collect();
        let rows = control.groups(&keys).await?;
        let members: Vec<_> =
            pairs.iter().flat_map(|pair| pair.anchor.iter().flat_map(Anchor::memberships)).collect();
        let found: BTreeSet<(Pathname, Key)> = control
            .members(&members)
            .await?
            .into_iter()
            .map(|(group, member)| (member.pathname, group))
            .collect();
        for pair in pairs.iter_mut() {
            let keys: BTreeSet<Key> = pair.group_keys().collect();
            let is_member = |key: &&Key| found.contains(&(pair.pathname.clone(), (*key).clone()));
            pair.groups = Some(Groups {
                member_of: keys.iter().filter(is_member).cloned().collect(),
                rows: keys.iter().filter_map(|key| Some((key.clone(), rows.get(key)?.clone()))).collect(),
            });
        }
        Ok(())
    }

    async fn load_bodies(&self, pairs: &mut [Pair]) -> Result<()> {
        let anchors: Vec<Anchor> = pairs.iter().filter_map(|pair| pair.anchor.clone()).collect();
        let bodies = self.converger.control.bodies(&anchors.iter().collect::<Vec<_>>()).await?;
        let mut bodies = bodies.into_iter();
        for pair in pairs.iter_mut().filter(|pair| pair.anchor.is_some()) {
            pair.retained = bodies.next().flatten().map(|body| match body {
                Ok(bytes) => Ok(Digest::of(bytes)),
                Err(error) => Err(error.detail().unwrap_or_default().to_owned()),
            });
            pair.not_rebuilt = self.round_trip(pair);
        }
        Ok(())
    }

    /// The inverse of the mapping: why the JSON that is rebuilt from the items is not the blob's. None
    /// where it is, or where the plan keeps too little of it to try.
    fn round_trip(&self, pair: &Pair) -> Option<String> {
        let Rule::Entity(entity) = self.converger.mapper.rule(&pair.pathname) else { return None };
        let (document, expected) = (pair.document.as_ref()?, pair.expected.as_ref()?.as_ref().ok()?);
        // A group's item may be another blob's.
        let ours = |item: &&Item| owner(item).as_deref() == Some(pair.pathname.as_str());
        let found = |mapped: &MappedItem| pair.items.as_ref()?.get(&mapped.key).filter(ours);
        let items: Vec<&Item> = expected.iter().map(found).collect::<Option<_>>()?;
        let skeleton = self.converger.mapper.skeleton(entity, document, expected);
        let rebuilt = self.converger.mapper.rebuild(entity, &items, &skeleton)?;
        let same = document.semantically_eq(&rebuilt);
        (!same).then(|| "the JSON rebuilt from the items is not the blob's".to_owned())
    }

    /// Judges an item that no anchor seems to name: its anchor, the item, its anchor.
    pub(super) async fn judge_stray(&self, key: &Key) -> Result<Option<Drift>> {
        let mut last = Pathname::new("");
        for look in 0..LOOKS {
            if look > 0 {
                self.converger.clock().sleep(self.patience * look).await;
            }
            let Some(first) = self.item(key).await? else { return Ok(None) };
            // Without `_source` it is the application's, and nothing of ours.
            let Some(pathname) = owner(&first).map(Pathname::new) else { return Ok(None) };
            last.clone_from(&pathname);
            let before = self.converger.control.rev(&pathname).await?;
            let item = self.item(key).await?;
            let after = match self.converger.control.anchor(&pathname).await {
                Err(error) if error.kind() == ErrorKind::Corrupt => {
                    let drift =
                        Pair::bare(pathname, None, None).drift(DriftKind::Unverified, &error.to_string());
                    return Ok(Some(Drift { key: Some(key.clone()), ..drift }));
                }
                after => after?,
            };
            if item.as_ref() != Some(&first) || before.as_ref() != rev(after.as_ref()) {
                continue;
            }
            let group = self.converger.control.groups([key]).await?.remove(key);
            let rev = match (&after, &group) {
                (Some(anchor), _) if anchor.items.contains(key) => anchor.items_rev.as_ref(),
                (Some(anchor), Some(group)) if has(group, anchor) => group.items_rev.as_ref(),
                _ => None,
            };
            let live = after.as_ref().is_some_and(|anchor| anchor.state == AnchorState::Live);
            let named = live && rev.is_some() && rev.map(Rev::as_str) == source_rev(&first);
            let detail = match &after {
                None => "its blob has no anchor",
                Some(_) if rev.is_some() => "its rev is not the one that its anchor names",
                Some(_) => "its anchor does not name it",
            };
            let pair = Pair::bare(pathname, after, None);
            let drift = Drift { key: Some(key.clone()), ..pair.drift(DriftKind::Orphan, detail) };
            return Ok((!named).then_some(drift));
        }
        let bare = Pair::bare(last, None, None);
        let drift = bare.drift(DriftKind::Unverified, "the item did not hold still while it was judged");
        Ok(Some(Drift { key: Some(key.clone()), ..drift }))
    }

    async fn item(&self, key: &Key) -> Result<Option<Item>> {
        let store = self.converger.control.store();
        Ok(store.get(Table::Data, std::slice::from_ref(key)).await?.pop().flatten())
    }

    pub(super) fn rules(&self) -> Rules<'_> {
        Rules { ttl: self.target.ttl.as_deref(), now: self.converger.clock().now() }
    }
}

/// Whether a group says that this anchor's blob has its item, and the anchor that it is a member.
pub(super) fn has(group: &Group, anchor: &Anchor) -> bool {
    anchor.memberships().any(|(key, member)| key == group.key && group.winner.as_ref() == Some(&member))
}

fn rev(anchor: Option<&Anchor>) -> Option<&Rev> {
    anchor.map(|anchor| &anchor.rev)
}

impl Pair {
    /// A pair of which only anchor and listing were seen.
    pub(super) fn bare(pathname: Pathname, anchor: Option<Anchor>, blob: Option<ListedBlob>) -> Self {
        Self {
            pathname,
            blob,
            mapping: None,
            anchor,
            items: None,
            groups: None,
            document: None,
            expected: None,
            retained: None,
            not_rebuilt: None,
        }
    }

    /// The keys of the items that matter to it.
    fn keys(&self) -> impl Iterator<Item = Key> {
        let named = self.anchor.iter().flat_map(|anchor| anchor.items.iter());
        let expected = self.expected.iter().flatten().flatten().map(|mapped| &mapped.key);
        let all: BTreeSet<Key> = named.chain(expected).cloned().chain(self.group_keys()).collect();
        all.into_iter()
    }

    /// The keys of the groups that matter to it.
    fn group_keys(&self) -> impl Iterator<Item = Key> {
        let named = self.anchor.iter().flat_map(|anchor| anchor.groups.iter().map(|group| &group.key));
        let expected = self.expected.iter().flatten().flatten().filter(|mapped| mapped.group.is_some());
        named.chain(expected.map(|mapped| &mapped.key)).cloned()
    }
}
