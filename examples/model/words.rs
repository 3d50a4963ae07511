//! How states and steps are called in a printed trace.

use std::fmt::{Display, Formatter, Result};

use migrate::protocol::converge::Mirror;

use crate::world::{Actor, Content, Seen, World};

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
pub(crate) fn beginning(world: &World) -> String {
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
