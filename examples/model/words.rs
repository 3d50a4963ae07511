//! How states and steps are called in a printed trace.

use std::fmt::{Display, Formatter, Result};

use migrate::protocol::converge::Mirror;
use stateright::{Model, Path};

use crate::model::{Protocol, Step};
use crate::world::{Actor, Content, Seen, World};

/// A model whose paths can be told.
pub(crate) trait Told: Model {
    /// What is there at first, and a line for each step.
    fn told(&self, path: &Path<Self::State, Self::Action>) -> (String, Vec<String>);
}

impl Told for Protocol {
    fn told(&self, path: &Path<World, Step>) -> (String, Vec<String>) {
        let steps = path.clone().into_vec();
        let beginning = steps.first().map_or_else(String::new, |(world, _)| beginning(world));
        let mut lines = Vec::new();
        for (world, step) in steps {
            if let Some(step) = step {
                self.take(&mut world.clone(), step, &mut |line| lines.push(line.to_string()));
            }
        }
        (beginning, lines)
    }
}

pub(crate) const fn name(actor: Actor) -> &'static str {
    match actor {
        Actor::Gateway(0) => "G1",
        Actor::Gateway(_) => "G2",
        Actor::Sweeper => "SW",
        Actor::Backfill => "BF",
        Actor::Replayer => "RP",
    }
}

pub(crate) const fn of_source(content: Option<Content>) -> &'static str {
    match content {
        None => "-",
        Some(Content::A) => "A",
        Some(Content::B) => "B",
    }
}

/// What a look saw.
pub(crate) enum Sight {
    Source(Option<Content>),
    Target(Seen),
}

impl Display for Sight {
    fn fmt(&self, f: &mut Formatter<'_>) -> Result {
        match self {
            Self::Source(content) => write!(f, "source {}", of_source(*content)),
            Self::Target(Mirror::Settled { version, .. }) => {
                write!(f, "target {}", of_source(Some(*version)))
            }
            Self::Target(_) => f.write_str("target -"),
        }
    }
}

/// The first line of a trace: who does what, and what is there.
fn beginning(world: &World) -> String {
    let script = |gateway| {
        let operations = world.operations.iter().filter(|operation| operation.gateway == gateway);
        let words: Vec<_> = operations.map(|operation| of_source(operation.leaves)).collect();
        if words.is_empty() { ".".to_owned() } else { words.join(",") }
    };
    let target = match &world.anchor {
        Mirror::Unknown => "-",
        Mirror::Settled { version, .. } => of_source(Some(*version)),
        Mirror::Pending { .. } | Mirror::Tombstone { .. } => "- (tombstone)",
    };
    format!("G1: {}  G2: {}  source={} target={target}", script(0), script(1), of_source(world.source))
}
