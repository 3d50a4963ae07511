//! Finds the records of a document.

use std::cmp::Ordering;
use std::fmt;
use std::sync::Arc;

use super::document::Document;
use super::json::Json;
use super::quarantine::{Quarantine, Reason};
use crate::plan::records::RecordStep;

/// Where in its document a record is. Shown as `teams[3].members[0]`; a member that `[*]` found in an object
/// is shown by its place in the order of the names, `records{7}`, since such names may be somebody's data.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Place(pub(super) Vec<PlaceStep>);

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum PlaceStep {
    /// The member that the plan names.
    Name(Arc<str>),
    /// A member that `[*]` found, and its place in the order of the names.
    Member(Arc<str>, usize),
    /// An element of a list.
    Element(usize),
}

impl Place {
    /// Whether it is the document itself.
    #[must_use]
    pub fn is_root(&self) -> bool {
        self.0.is_empty()
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.is_root() {
            return f.write_str("the document");
        }
        for (at, step) in self.0.iter().enumerate() {
            match step {
                PlaceStep::Name(name) if at == 0 => f.write_str(name)?,
                PlaceStep::Name(name) => write!(f, ".{name}")?,
                PlaceStep::Member(_, at) => write!(f, "{{{at}}}")?,
                PlaceStep::Element(at) => write!(f, "[{at}]")?,
            }
        }
        Ok(())
    }
}

/// A record, and what templates may ask of where it is.
#[derive(Debug)]
pub(super) struct Record {
    pub(super) value: Document,
    pub(super) place: Place,
    /// Its place in its list.
    pub(super) index: Option<usize>,
    /// Its name in its object.
    pub(super) key: Option<Arc<str>>,
    /// What the `[*]` before found, or the document.
    pub(super) parent: Option<Json>,
}

/// The order of places: elements as they stand, members by their names; what is around others first.
pub(super) fn compare<'a>(
    mut a: impl Iterator<Item = &'a PlaceStep>,
    mut b: impl Iterator<Item = &'a PlaceStep>,
) -> Ordering {
    loop {
        match (a.next(), b.next()) {
            (Some(a), Some(b)) => match compare_steps(a, b) {
                Ordering::Equal => {}
                order => return order,
            },
            (a, b) => return a.is_some().cmp(&b.is_some()),
        }
    }
}

pub(super) fn compare_steps(a: &PlaceStep, b: &PlaceStep) -> Ordering {
    match (a, b) {
        (PlaceStep::Element(a), PlaceStep::Element(b)) => a.cmp(b),
        _ => a.name().cmp(&b.name()),
    }
}

impl PlaceStep {
    pub(super) fn name(&self) -> Option<&str> {
        match self {
            Self::Name(name) | Self::Member(name, _) => Some(name),
            Self::Element(_) => None,
        }
    }
}

type Take<'a> = &'a mut dyn FnMut(Record) -> Result<(), Quarantine>;

/// Takes each record of a document, in order; members of an object in the order of their names.
pub(super) fn each(document: &Json, steps: &[RecordStep], take: Take<'_>) -> Result<(), Quarantine> {
    let around = Around { index: None, key: None, parent: None, owner: document };
    walk(document, steps, &around, &mut Place::default(), take)
}

/// The same of a part of a document, `place` in it, that only `steps` are left of.
pub(super) fn below(
    part: &Json,
    place: &Place,
    steps: &[RecordStep],
    take: Take<'_>,
) -> Result<(), Quarantine> {
    let found = place.0.iter().rev().find(|step| !matches!(step, PlaceStep::Name(_)));
    let around = match found {
        Some(PlaceStep::Element(at)) => Around { index: Some(*at), key: None, parent: None, owner: part },
        Some(step) => Around { index: None, key: step.name(), parent: None, owner: part },
        None => Around { index: None, key: None, parent: None, owner: part },
    };
    walk(part, steps, &around, &mut place.clone(), take)
}

struct Around<'a> {
    index: Option<usize>,
    key: Option<&'a str>,
    parent: Option<&'a Json>,
    owner: &'a Json,
}

/// The recursion is bounded by the steps of the path.
fn walk(
    json: &Json,
    steps: &[RecordStep],
    around: &Around<'_>,
    place: &mut Place,
    take: Take<'_>,
) -> Result<(), Quarantine> {
    match (steps.split_first(), json) {
        (None, _) => take(Record {
            value: json.clone().into(),
            place: place.clone(),
            index: around.index,
            key: around.key.map(Arc::from),
            parent: around.parent.cloned(),
        }),
        (Some((RecordStep::Name(name), rest)), Json::Object(members)) => {
            let Some(json) = members.get(&**name) else { return Ok(()) };
            place.0.push(PlaceStep::Name(Arc::clone(name)));
            walk(json, rest, around, place, take)?;
            place.0.pop();
            Ok(())
        }
        (Some((RecordStep::Each, rest)), Json::Array(list)) => {
            for (index, json) in list.iter().enumerate() {
                place.0.push(PlaceStep::Element(index));
                let around =
                    Around { index: Some(index), key: None, parent: Some(around.owner), owner: json };
                walk(json, rest, &around, place, take)?;
                place.0.pop();
            }
            Ok(())
        }
        (Some((RecordStep::Each, rest)), Json::Object(members)) => {
            for (at, (name, json)) in members.iter().enumerate() {
                place.0.push(PlaceStep::Member(name.as_str().into(), at));
                let around = Around { index: None, key: Some(name), parent: Some(around.owner), owner: json };
                walk(json, rest, &around, place, take)?;
                place.0.pop();
            }
            Ok(())
        }
        (Some((step, _)), _) => Err(misses(step, place)),
    }
}

/// A step that does not fit what is in its place.
pub(super) fn misses(step: &RecordStep, place: &Place) -> Quarantine {
    let detail = match step {
        RecordStep::Each => {
            "the plan looks for records in it, and it is neither a list nor an object".to_owned()
        }
        RecordStep::Name(name) => {
            format!("the plan looks for records under `{name}`, and it is not an object")
        }
    };
    Quarantine::new(Reason::Shape, detail).of_record(place)
}
