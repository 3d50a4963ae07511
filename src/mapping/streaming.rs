//! Long documents, record by record: the same items as of the document as a whole, in the same order.
//!
//! That takes an entity whose templates look at nothing but the record and what is next to it. Its document
//! is read three times at most: for its [`Outline`], for everything that can be wrong with its items
//! ([`Mapper::scan`]), and for the items themselves ([`Records`]).

use std::collections::HashMap;
use std::io::{Read, Seek};
use std::ops::Range;

use jiff::Timestamp;

use super::document::Document;
use super::json::{Json, LEVELS_MAX, Reading};
use super::outline::{self, Halt, Outline, REST_BYTES_MAX, Units};
use super::quarantine::Quarantine;
use super::records::{self, Place};
use super::run::{Run, same_key};
use super::skeleton::{self, Held, Skeleton};
use super::{BlobFacts, Entity, EntityId, MappedItem, Mapper, Origin};
use crate::digest::Digest;
use crate::plan::compile::{CompiledEntity, CompiledItem};
use crate::plan::records::RecordStep;
use crate::plan::template::Templates;
use crate::plan::{BodyPlacement, Decode, Duplicates, EntityPlan};

/// How the long documents of an entity are read.
#[derive(Debug)]
pub(super) struct ByRecord {
    /// Where the parts lie that are read at once.
    paths: Vec<Vec<RecordStep>>,
    /// The rules with the same records, in the order of the plan.
    passes: Vec<Pass>,
}

#[derive(Debug)]
struct Pass {
    rules: Range<usize>,
    /// The path of its parts.
    path: usize,
    /// What leads from a part to its records.
    below: Vec<RecordStep>,
}

impl ByRecord {
    /// # Errors
    /// In words, why the documents of this entity have to be read as a whole.
    pub(super) fn new(
        plan: &EntityPlan,
        compiled: &CompiledEntity,
        templates: &Templates,
    ) -> Result<Self, &'static str> {
        if !matches!(plan.decode, Decode::Json | Decode::Ndjson | Decode::Auto) {
            return Err("its blobs are encrypted, or not read");
        }
        if plan.duplicates != Duplicates::Quarantine {
            return Err("the plan lets the last of two equal names count");
        }
        let mut wanted = Vec::new();
        for item in &compiled.items {
            if item.group_by.is_some() {
                return Err("its items belong to groups");
            }
            wanted.push(part(item, templates)?);
        }
        let mut paths: Vec<Vec<RecordStep>> = Vec::new();
        let mut shortest = wanted.clone();
        shortest.sort_by_key(|path| path.len());
        for path in shortest {
            if !paths.iter().any(|known| path.starts_with(known)) {
                paths.push(path.to_vec());
            }
        }
        if paths.iter().enumerate().any(|(at, path)| paths[..at].iter().any(|other| forks(path, other))) {
            return Err("one item's records are members of what another one takes for records");
        }
        let mut passes = Vec::new();
        let mut first = 0;
        for rules in compiled.items.chunk_by(|a, b| a.each == b.each) {
            let each = rules[0].each.steps();
            let known = paths.iter().enumerate().find(|(_, path)| each.starts_with(path));
            let (path, steps) = known.expect("invariant: each path begins with one of them");
            let below = each[steps.len()..].to_vec();
            passes.push(Pass { rules: first..first + rules.len(), path, below });
            first += rules.len();
        }
        Ok(Self { paths, passes })
    }
}

/// The path of what has to be read at once for an item.
fn part<'a>(item: &'a CompiledItem, templates: &Templates) -> Result<&'a [RecordStep], &'static str> {
    let steps = item.each.steps();
    if steps.is_empty() {
        return Err("one of its items is made of the whole document");
    }
    let all = item.attributes.iter().map(|(_, id)| *id).chain(item.when);
    let (mut body, mut parent) = (false, false);
    for id in all {
        let variables = templates.variables(id);
        body |= variables.iter().any(|name| name == "body");
        parent |= variables.iter().any(|name| name == "parent");
    }
    if body {
        return Err("its templates use `body`, the whole document");
    }
    if !parent {
        return Ok(steps);
    }
    let mut found = steps.iter().enumerate().rev().filter(|(_, step)| **step == RecordStep::Each);
    match found.nth(1) {
        Some((at, _)) => Ok(&steps[..=at]),
        None => Err("its templates use `parent`, which is the whole document"),
    }
}

/// Whether a `[*]` of one path takes what the other one calls by name.
fn forks(one: &[RecordStep], other: &[RecordStep]) -> bool {
    let differing = one.iter().zip(other).find(|(a, b)| a != b);
    differing.is_some_and(|(a, b)| *a == RecordStep::Each || *b == RecordStep::Each)
}

/// A place among the items of a long document.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Position {
    pass: usize,
    unit: usize,
}

/// The items of a long document, from a place in it on.
pub struct Records<'a, R> {
    entity: &'a Entity,
    by_record: &'a ByRecord,
    outline: &'a Outline,
    units: Units<R>,
    run: Run<'a>,
    next: Position,
}

impl<R> std::fmt::Debug for Records<'_, R> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Records").field("next", &self.next).finish_non_exhaustive()
    }
}

impl<R: Read + Seek> Records<'_, R> {
    /// The items of the next part of the document that has any, and where that part is.
    ///
    /// # Errors
    /// The quarantine of the document; where the body can't be read.
    pub fn next_part(&mut self) -> Result<Option<(Position, Vec<MappedItem>)>, Halt> {
        while let Some(pass) = self.by_record.passes.get(self.next.pass) {
            let Some(unit) = self.outline.units.get(self.next.unit) else {
                self.next = Position { pass: self.next.pass + 1, unit: 0 };
                continue;
            };
            let at = self.next;
            self.next.unit += 1;
            if unit.path != pass.path {
                continue;
            }
            let json = self.units.read(unit, self.entity.levels_max)?;
            let rules = &self.entity.items[pass.rules.clone()];
            records::below(&json, &unit.place(), &pass.below, &mut |record| self.run.record(rules, record))?;
            let items = self.run.take();
            if !items.is_empty() {
                return Ok(Some((at, items)));
            }
        }
        Ok(None)
    }
}

/// An item that has a record, and the unit that the record is in.
struct Kept {
    unit: u32,
    item: u32,
    rule: u32,
    /// Where the record is, if it is not the unit itself.
    below: Option<Box<Place>>,
}

impl Kept {
    fn held<'a>(&'a self, unit: &'a Place) -> Held<'a> {
        Held::of(self.below.as_deref().unwrap_or(unit), self.rule as usize, self.item as usize)
    }
}

/// A number of records, which fit in memory.
fn small(number: usize) -> u32 {
    u32::try_from(number).expect("invariant: a body of 1 GiB has fewer records than that")
}

impl Mapper {
    /// Why the long documents of an entity have to be read as a whole; none where they need not.
    #[must_use]
    pub fn read_whole(&self, entity: EntityId) -> Option<&'static str> {
        self.entities[entity.0].by_record.as_ref().err().copied()
    }

    /// The outline of a long document. None where it has to be read as a whole: its entity demands it, or it
    /// is compressed, or may be encrypted.
    ///
    /// # Errors
    /// The quarantine, where it is no document of this entity; where the body can't be read.
    pub fn outline(&self, entity: EntityId, mut body: impl Read + Seek) -> Result<Option<Outline>, Halt> {
        let entity = &self.entities[entity.0];
        let Ok(by_record) = &entity.by_record else { return Ok(None) };
        let mut first = Vec::new();
        body.by_ref().take(2).read_to_end(&mut first)?;
        body.rewind()?;
        if super::decode::is_gzip(&first) {
            return Ok(None);
        }
        let reading = Reading { levels_max: entity.levels_max, ..Reading::of_ours(LEVELS_MAX) };
        match entity.decode {
            Decode::Ndjson => outline::of_lines(body, &by_record.paths, reading).map(Some),
            decode => outline::of_json(body, &by_record.paths, reading, decode == Decode::Auto),
        }
    }

    /// The items of a long document, from `from` on. As [`Mapper::map`] gives them, but for what only shows
    /// when all are there: see [`Mapper::scan`].
    ///
    /// # Errors
    /// The quarantine, where the pathname is not of this entity.
    ///
    /// # Panics
    /// Where the outline is not of this entity.
    pub fn records<'a, R: Read + Seek>(
        &'a self,
        entity: EntityId,
        blob: BlobFacts<'a>,
        (outline, body): (&'a Outline, R),
        now: Timestamp,
        from: Position,
    ) -> Result<Records<'a, R>, Quarantine> {
        let entity = &self.entities[entity.0];
        let by_record = entity.by_record.as_ref().expect("invariant: it has an outline");
        // No template of such an entity asks for the document.
        let run = Run::new(self, entity, blob, &Document::Json(Json::Null), now)?;
        Ok(Records { entity, by_record, outline, units: Units::new(body), run, next: from })
    }

    /// Makes all items of a long document once, hands them out, and says how the document is put together
    /// from them.
    ///
    /// # Errors
    /// As [`Mapper::map`]; where the body can't be read.
    pub fn scan<R: Read + Seek>(
        &self,
        id: EntityId,
        blob: BlobFacts<'_>,
        outline: &Outline,
        body: impl Fn() -> R,
        now: Timestamp,
        take: &mut dyn FnMut(Position, Vec<MappedItem>),
    ) -> Result<Skeleton, Halt> {
        let entity = &self.entities[id.0];
        let mut records = self.records(id, blob, (outline, body()), now, Position::default())?;
        let mut seen: HashMap<[u8; 16], usize> = HashMap::new();
        let mut kept = Vec::new();
        let mut count = 0;
        while let Some((at, items)) = records.next_part()? {
            for mapped in &items {
                if let Some(first) = seen.insert(digest(mapped), count) {
                    let first = self.origin(id, blob, (outline, body()), now, first)?;
                    return Err(same_key(&first, &mapped.origin).into());
                }
                if mapped.origin.part.is_none()
                    && entity.items[mapped.origin.rule].body != BodyPlacement::None
                {
                    let Origin { rule, place, .. } = &mapped.origin;
                    let below = (!outline.units[at.unit].is_at(place)).then(|| Box::new(place.clone()));
                    let [unit, item, rule] = [at.unit, count, *rule].map(small);
                    kept.push(Kept { unit, item, rule, below });
                }
                count += 1;
            }
            take(at, items);
        }
        if count == 0 {
            return Err(records.run.no_item().into());
        }
        drop(seen);
        kept.sort_by_key(|kept| kept.unit);
        self.skeleton_around(entity, outline, &kept, body())
    }

    /// What the item with this number was made of.
    fn origin<R: Read + Seek>(
        &self,
        entity: EntityId,
        blob: BlobFacts<'_>,
        document: (&Outline, R),
        now: Timestamp,
        mut number: usize,
    ) -> Result<Origin, Halt> {
        let mut records = self.records(entity, blob, document, now, Position::default())?;
        while let Some((_, mut items)) = records.next_part()? {
            if number < items.len() {
                return Ok(items.swap_remove(number).origin);
            }
            number -= items.len();
        }
        unreachable!("invariant: the same document gives the same items")
    }

    fn skeleton_around(
        &self,
        entity: &Entity,
        outline: &Outline,
        kept: &[Kept],
        body: impl Read + Seek,
    ) -> Result<Skeleton, Halt> {
        let mut units = Units::new(body);
        let mut kept = kept.chunk_by(|a, b| a.unit == b.unit).peekable();
        let (mut number, mut bytes) = (0, 0);
        let part = skeleton::around(&outline.rest, &mut || {
            let unit = &outline.units[number];
            let of_unit = kept.next_if(|kept| kept[0].unit as usize == number).unwrap_or_default();
            number += 1;
            let here = unit.place();
            let mut held: Vec<Held<'_>> = of_unit.iter().map(|kept| kept.held(&here)).collect();
            held.sort_by(Held::order);
            let part = match held.first() {
                Some(first) if *first.place == here => first.part(),
                _ => skeleton::empty(&units.read(unit, entity.levels_max)?, &held, unit.depth()),
            };
            bytes += part.text_bytes();
            if bytes > REST_BYTES_MAX {
                return Err(outline::too_long_a_rest().into());
            }
            Ok(part)
        })?;
        Ok(Skeleton(part))
    }
}

/// What tells the keys of two items apart: a part of a digest, since the keys themselves are kept elsewhere.
fn digest(mapped: &MappedItem) -> [u8; 16] {
    let text = format!("{}#{}{}", mapped.key.partition.len(), mapped.key.partition, mapped.key.sort);
    let mut short = [0; 16];
    short.copy_from_slice(&Digest::of(text).as_bytes()[..16]);
    short
}

impl Outline {
    /// How many parts of the document are read one at a time.
    #[must_use]
    pub const fn part_count(&self) -> usize {
        self.units.len()
    }
}
