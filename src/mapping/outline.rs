//! A long document without its records: where each of them lies in the body, so that they are read one at a
//! time.
//!
//! One pass finds everything that makes a document no document (not UTF-8, a name twice, too deep), as reading
//! it whole does. What is kept of it grows with the number of records, not with their length.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::io::{self, BufRead as _, BufReader, Read, Seek};
use std::sync::Arc;

use struson::reader::{JsonReader as _, JsonStreamReader, ValueType};

use super::json::{self, Json, Reading, Refusal};
use super::quarantine::{Quarantine, Reason};
use super::records::{Place, PlaceStep, compare};
use crate::converge::BODY_BYTES_MAX;
use crate::plan::records::RecordStep;

/// What of a document is in none of its records may be this long, in bytes: it is kept with the anchor.
pub(super) const REST_BYTES_MAX: usize = 8 * 1024 * 1024;

/// Why a long document can't be mapped record by record.
#[derive(Debug)]
pub enum Halt {
    /// It can't be mapped at all.
    Quarantine(Quarantine),
    /// The body can't be read.
    Io(io::Error),
}

impl From<Quarantine> for Halt {
    fn from(quarantine: Quarantine) -> Self {
        Self::Quarantine(quarantine)
    }
}

impl From<io::Error> for Halt {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

/// A part of a document that is read at once.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Unit {
    /// Where it is in the document: units side by side share all but the last step.
    around: Arc<[PlaceStep]>,
    last: PlaceStep,
    /// Which of the paths led to it.
    pub(super) path: usize,
    /// Where it begins in the body.
    pub(super) offset: u64,
    pub(super) length: u64,
}

impl Unit {
    /// Where it is in the document.
    pub(super) fn place(&self) -> Place {
        Place(self.steps().cloned().collect())
    }

    pub(super) fn is_at(&self, place: &Place) -> bool {
        self.steps().eq(&place.0)
    }

    pub(super) fn depth(&self) -> usize {
        self.around.len() + 1
    }

    fn steps(&self) -> impl Iterator<Item = &PlaceStep> {
        self.around.iter().chain([&self.last])
    }
}

/// What is around the units.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Rest {
    /// JSON text.
    Text(String),
    /// So many units in a row, in their order.
    Units(usize),
    /// A list; units in a row are one element.
    List(Vec<Rest>),
    /// An object.
    Object(BTreeMap<String, Rest>),
}

/// A document without its units.
#[derive(Debug)]
pub struct Outline {
    /// In the order of the document; members of an object in the order of their names.
    pub(super) units: Vec<Unit>,
    pub(super) rest: Rest,
}

impl Outline {
    /// Whether two bodies hold the same document, numbers compared as decimals, members without order.
    ///
    /// # Errors
    /// Where a body can't be read.
    pub fn same<A: Read + Seek, B: Read + Seek>(
        (one, body): (&Self, A),
        (other, other_body): (&Self, B),
    ) -> Result<bool, Halt> {
        if one.units.len() != other.units.len() || !same_rest(&one.rest, &other.rest) {
            return Ok(false);
        }
        let (mut body, mut other_body) = (Units::new(body), Units::new(other_body));
        for (a, b) in one.units.iter().zip(&other.units) {
            if !a.steps().eq(b.steps())
                || !body.read(a, u32::MAX)?.semantically_eq(&other_body.read(b, u32::MAX)?)
            {
                return Ok(false);
            }
        }
        Ok(true)
    }
}

fn same_rest(one: &Rest, other: &Rest) -> bool {
    let read = |text: &str| Json::read(text.as_bytes(), Reading::of_ours(u32::MAX)).ok();
    match (one, other) {
        (Rest::Text(a), Rest::Text(b)) => {
            a == b || matches!((read(a), read(b)), (Some(a), Some(b)) if a.semantically_eq(&b))
        }
        (Rest::List(a), Rest::List(b)) => a.len() == b.len() && a.iter().zip(b).all(|(a, b)| same_rest(a, b)),
        (Rest::Object(a), Rest::Object(b)) => {
            a.len() == b.len()
                && a.iter().zip(b).all(|((name, a), (other, b))| name == other && same_rest(a, b))
        }
        _ => one == other,
    }
}

/// Reads units of a body, one after the other.
#[derive(Debug)]
pub(super) struct Units<R> {
    body: BufReader<R>,
    position: u64,
}

impl<R: Read + Seek> Units<R> {
    pub(super) fn new(body: R) -> Self {
        Self { body: BufReader::with_capacity(64 * 1024, body), position: 0 }
    }

    /// One unit. It was read once, when the outline was made, so it is JSON.
    pub(super) fn read(&mut self, unit: &Unit, levels_max: u32) -> Result<Json, Halt> {
        self.body.seek_relative(unit.offset.wrapping_sub(self.position).cast_signed())?;
        let mut bytes = Vec::new();
        self.body.by_ref().take(unit.length).read_to_end(&mut bytes)?;
        self.position = unit.offset + bytes.len() as u64;
        Ok(Json::read(&bytes, Reading { offset: unit.offset, ..Reading::of_ours(levels_max) })?)
    }
}

/// The outline of a JSON document, its units under these paths: none of them is the beginning of another one.
/// None where `sealable` and it looks like an envelope.
pub(super) fn of_json(
    mut body: impl Read + Seek,
    paths: &[Vec<RecordStep>],
    reading: Reading,
    sealable: bool,
) -> Result<Option<Outline>, Halt> {
    if let Some(quarantine) = not_utf8(&mut body)? {
        return Err(quarantine.into());
    }
    body.rewind()?;
    let mut walk = Walk::new(paths, reading);
    let mut reader = json::reader(BufReader::with_capacity(64 * 1024, body), reading);
    let rest = walk.value(&mut reader, &walk.all(), 0).and_then(|rest| {
        reader.consume_trailing_whitespace()?;
        Ok(rest)
    });
    let rest = rest.map_err(|refusal| halted(refusal, reading))?;
    if sealable && matches!(&rest, Rest::Object(members) if members.contains_key("payload")) {
        return Ok(None);
    }
    walk.finish(rest).map(Some)
}

/// The same of NDJSON: the document is the list of its lines.
pub(super) fn of_lines(
    body: impl Read,
    paths: &[Vec<RecordStep>],
    reading: Reading,
) -> Result<Outline, Halt> {
    let mut walk = Walk::new(paths, reading);
    let live = walk.of_elements(&walk.all(), 0);
    let mut body = BufReader::with_capacity(64 * 1024, body);
    let (mut list, mut line, mut number) = (Vec::new(), Vec::new(), 0);
    loop {
        line.clear();
        body.by_ref().take(BODY_BYTES_MAX).read_until(b'\n', &mut line)?;
        if line.is_empty() {
            break;
        }
        if !line.trim_ascii().is_empty() {
            json::check_text(&line, walk.reading.offset)?;
            let mut reader = json::reader(&line[..], walk.reading);
            walk.place.0.push(PlaceStep::Element(number));
            let rest = walk.value(&mut reader, &live, 1).and_then(|rest| {
                reader.consume_trailing_whitespace()?;
                Ok(rest)
            });
            push(&mut list, rest.map_err(|refusal| halted(refusal, walk.reading))?);
            walk.place.0.pop();
            number += 1;
        }
        walk.reading.offset += line.len() as u64;
    }
    walk.finish(Rest::List(list))
}

fn halted(refusal: Refusal, reading: Reading) -> Halt {
    match refusal.into_io() {
        Ok(error) => Halt::Io(error),
        Err(refusal) => refusal.into_quarantine(reading).into(),
    }
}

/// Where a body stops being UTF-8.
fn not_utf8(body: &mut impl Read) -> io::Result<Option<Quarantine>> {
    let mut buffer = vec![0; 64 * 1024];
    let (mut kept, mut offset) = (0, 0);
    loop {
        let read = body.read(&mut buffer[kept..])?;
        let filled = kept + read;
        let checked = json::check_text(&buffer[..filled], offset);
        let valid = match std::str::from_utf8(&buffer[..filled]) {
            Ok(_) => filled,
            // A character that the next piece completes.
            Err(error) if error.error_len().is_none() && read > 0 => error.valid_up_to(),
            Err(_) => return Ok(checked.err()),
        };
        if offset == 0 && buffer[..filled].starts_with(json::BYTE_ORDER_MARK) {
            return Ok(checked.err());
        }
        if read == 0 {
            return Ok(None);
        }
        buffer.copy_within(valid..filled, 0);
        (kept, offset) = (filled - valid, offset + valid as u64);
    }
}

struct Walk<'a> {
    paths: &'a [Vec<RecordStep>],
    reading: Reading,
    place: Place,
    units: Vec<Unit>,
    rest_bytes: usize,
    /// The first place at which the document has another shape than the paths.
    shape: Option<Quarantine>,
}

impl<'a> Walk<'a> {
    fn new(paths: &'a [Vec<RecordStep>], reading: Reading) -> Self {
        let (place, units) = (Place::default(), Vec::new());
        Self { paths, reading, place, units, rest_bytes: 0, shape: None }
    }

    fn all(&self) -> Vec<usize> {
        (0..self.paths.len()).collect()
    }

    fn finish(mut self, rest: Rest) -> Result<Outline, Halt> {
        if let Some(quarantine) = self.shape {
            return Err(quarantine.into());
        }
        if self.rest_bytes > REST_BYTES_MAX {
            return Err(too_long_a_rest().into());
        }
        let in_order = |a: &Unit, b: &Unit| compare(a.steps(), b.steps());
        if !self.units.is_sorted_by(|a, b| in_order(a, b).is_le()) {
            self.units.sort_by(in_order);
        }
        self.units.shrink_to_fit();
        Ok(Outline { units: self.units, rest })
    }

    /// Those of `live` that go on with each element or member.
    fn of_elements(&self, live: &[usize], depth: usize) -> Vec<usize> {
        live.iter().copied().filter(|path| self.paths[*path][depth] == RecordStep::Each).collect()
    }

    /// Reads one value, at which the paths `live` have got `depth` steps far. The recursion is bounded by
    /// the steps of the paths.
    fn value<R: Read>(
        &mut self,
        reader: &mut JsonStreamReader<R>,
        live: &[usize],
        depth: usize,
    ) -> Result<Rest, Refusal> {
        if let Some(path) = live.iter().copied().find(|path| self.paths[*path].len() == depth) {
            // Asked for first, so that the space before a value is not part of it.
            reader.peek()?;
            let from = json::position(reader);
            json::value(reader, self.reading)?;
            let (offset, length) = (from + self.reading.offset, json::position(reader) - from);
            let (last, around) = self.place.0.split_last().expect("invariant: each path has a step");
            let around = match self.units.last() {
                Some(before) if *before.around == *around => Arc::clone(&before.around),
                _ => around.into(),
            };
            self.units.push(Unit { around, last: last.clone(), path, offset, length });
            return Ok(Rest::Units(1));
        }
        let kind = reader.peek()?;
        match kind {
            ValueType::Array if !live.is_empty() => self.list(reader, live, depth),
            ValueType::Object if !live.is_empty() => self.object(reader, live, depth),
            _ => {
                if let Some(path) = live.first() {
                    self.misses(*path, depth);
                }
                let mut text = String::new();
                self.text(reader, &mut text)?;
                Ok(Rest::Text(text))
            }
        }
    }

    fn list<R: Read>(
        &mut self,
        reader: &mut JsonStreamReader<R>,
        live: &[usize],
        depth: usize,
    ) -> Result<Rest, Refusal> {
        let live = match self.of_elements(live, depth) {
            within if within.len() == live.len() => within,
            _ => {
                self.misses(live[0], depth);
                Vec::new()
            }
        };
        reader.begin_array()?;
        let mut list = Vec::new();
        let mut number = 0;
        while reader.has_next()? {
            self.place.0.push(PlaceStep::Element(number));
            let rest = self.value(reader, &live, depth + 1)?;
            push(&mut list, rest);
            self.place.0.pop();
            number += 1;
        }
        reader.end_array()?;
        Ok(Rest::List(list))
    }

    fn object<R: Read>(
        &mut self,
        reader: &mut JsonStreamReader<R>,
        live: &[usize],
        depth: usize,
    ) -> Result<Rest, Refusal> {
        let each = self.of_elements(live, depth);
        let first = self.units.len();
        reader.begin_object()?;
        let mut members = BTreeMap::new();
        while reader.has_next()? {
            let offset = json::position(reader);
            let name = reader.next_name_owned()?;
            let (step, live) = if each.is_empty() {
                let of_name =
                    |path: &usize| matches!(&self.paths[*path][depth], RecordStep::Name(of) if **of == *name);
                let live: Vec<usize> = live.iter().copied().filter(of_name).collect();
                (PlaceStep::Name(name.as_str().into()), live)
            } else {
                (PlaceStep::Member(name.as_str().into(), 0), each.clone())
            };
            self.place.0.push(step);
            let rest = self.value(reader, &live, depth + 1)?;
            self.place.0.pop();
            match members.entry(name) {
                Entry::Occupied(_) => return Err(Refusal::DuplicateName(offset)),
                Entry::Vacant(entry) => drop(entry.insert(rest)),
            }
        }
        reader.end_object()?;
        self.number_members(first, depth, &members);
        Ok(Rest::Object(members))
    }

    /// Members are numbered in the order of their names, which is known once all are read.
    fn number_members(&mut self, first: usize, depth: usize, members: &BTreeMap<String, Rest>) {
        let step = self.units.get(first).and_then(|unit| unit.steps().nth(depth));
        if !matches!(step, Some(PlaceStep::Member(..))) {
            return;
        }
        let names: Vec<&str> = members.keys().map(String::as_str).collect();
        let number = |step: &mut PlaceStep| {
            if let PlaceStep::Member(name, at) = step {
                *at = names.binary_search(&&**name).unwrap_or_default();
            }
        };
        let mut numbered: Option<[Arc<[PlaceStep]>; 2]> = None;
        for unit in &mut self.units[first..] {
            if depth == unit.around.len() {
                number(&mut unit.last);
                continue;
            }
            unit.around = match &numbered {
                Some([before, after]) if Arc::ptr_eq(before, &unit.around) => Arc::clone(after),
                _ => {
                    let mut around = unit.around.to_vec();
                    number(&mut around[depth]);
                    let after: Arc<[PlaceStep]> = around.into();
                    numbered = Some([Arc::clone(&unit.around), Arc::clone(&after)]);
                    after
                }
            };
        }
    }

    /// A value without units, as text. Its members are not sorted: their order means nothing.
    fn text<R: Read>(&mut self, reader: &mut JsonStreamReader<R>, text: &mut String) -> Result<(), Refusal> {
        match reader.peek()? {
            ValueType::Array => {
                reader.begin_array()?;
                self.keep(text, "[");
                let mut more = "";
                while reader.has_next()? {
                    self.keep(text, std::mem::replace(&mut more, ","));
                    self.text(reader, text)?;
                }
                reader.end_array()?;
                self.keep(text, "]");
            }
            ValueType::Object => {
                reader.begin_object()?;
                self.keep(text, "{");
                let mut names = std::collections::BTreeSet::new();
                let mut more = "";
                while reader.has_next()? {
                    let offset = json::position(reader);
                    let name = reader.next_name_owned()?;
                    self.keep(text, std::mem::replace(&mut more, ","));
                    self.keep(text, &json::quoted(&name));
                    self.keep(text, ":");
                    self.text(reader, text)?;
                    if !names.insert(name) {
                        return Err(Refusal::DuplicateName(offset));
                    }
                }
                reader.end_object()?;
                self.keep(text, "}");
            }
            _ => {
                let scalar = json::value(reader, self.reading)?;
                self.keep(text, &scalar.to_string());
            }
        }
        Ok(())
    }

    /// What is too long is read to its end all the same: it may be no document at all.
    fn keep(&mut self, text: &mut String, more: &str) {
        self.rest_bytes += more.len();
        if self.rest_bytes <= REST_BYTES_MAX {
            text.push_str(more);
        }
    }

    fn misses(&mut self, path: usize, depth: usize) {
        let step = &self.paths[path][depth];
        self.shape.get_or_insert_with(|| super::records::misses(step, &self.place));
    }
}

/// Adds an element; units in a row become one.
fn push(list: &mut Vec<Rest>, rest: Rest) {
    match (list.last_mut(), rest) {
        (Some(Rest::Units(count)), Rest::Units(more)) => *count += more,
        (_, rest) => list.push(rest),
    }
}

pub(super) fn too_long_a_rest() -> Quarantine {
    let detail = format!(
        "more than {REST_BYTES_MAX} bytes of it are in no item, so that it could not be put together again"
    );
    Quarantine::new(Reason::Remainder, detail)
}
