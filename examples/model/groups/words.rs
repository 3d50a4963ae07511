//! How the states and steps of groups are called in a printed trace.

use migrate::protocol::converge::{Mirror, Next};
use migrate::protocol::group::{self, Contest};

use super::Step;
use super::world::{ACTOR_NAMES, Member, NAMES, Request, Run, World};

fn of(member: Option<Member>) -> String {
    member.map_or_else(|| "-".to_owned(), |member| member.to_string())
}

fn all(members: &[Member]) -> String {
    if members.is_empty() {
        return "-".to_owned();
    }
    members.iter().map(Member::to_string).collect::<Vec<_>>().join(",")
}

/// The first line: what each gateway does, what is there, whose the item is.
pub(super) fn beginning(world: &World) -> String {
    let script = |blob: usize| {
        let edits = world.edits[blob].iter();
        let words: Vec<_> = edits.map(|time| of(time.map(|time| Member { time, blob }))).collect();
        if words.is_empty() { ".".to_owned() } else { words.join(",") }
    };
    format!("G1: {}  G2: {}  members={} item={}", script(0), script(1), all(&world.members), of(world.item))
}

/// A step.
pub(super) fn step(world: &World, step: Step, next: &World) -> String {
    match step {
        Step::Edit(blob) => {
            let name = ACTOR_NAMES[blob];
            match next.source[blob] {
                Some(time) => format!("{name}: puts {}", Member { time, blob }),
                None => format!("{name}: deletes {}", NAMES[blob]),
            }
        }
        Step::Sweeps(blob) => format!("SW: starts on {}", NAMES[blob]),
        Step::Goes(actor) => {
            let Some(run) = &world.runs[actor] else { return String::new() };
            let after = next.runs[actor].as_ref();
            let end = match after.map(|after| &after.sent) {
                None => ": equal".to_owned(),
                Some(None) => String::new(),
                Some(Some(Request { group: Some(group), .. })) => {
                    format!(": sends item {}", of(group.settlement.winner.member().copied()))
                }
                Some(Some(_)) => ": sends anchor".to_owned(),
            };
            format!("{}: {}{end}", ACTOR_NAMES[actor], looks(world, run, after))
        }
        Step::Lands(actor) => {
            let changed = (&world.anchors, &world.row) != (&next.anchors, &next.row);
            let end = if changed { lands(world, next) } else { "is refused".to_owned() };
            format!("{}: target write {end}", ACTOR_NAMES[actor])
        }
        Step::TimesOut(actor) => format!("{}: target request TIMES OUT", ACTOR_NAMES[actor]),
        Step::Crashes(actor) => format!("{}: CRASHES", ACTOR_NAMES[actor]),
        Step::LateLands(_) => {
            let changed = (&world.anchors, &world.row) != (&next.anchors, &next.row);
            let end = if changed { lands(world, next) } else { "is refused".to_owned() };
            format!("late target write {end}")
        }
    }
}

fn lands(world: &World, next: &World) -> String {
    if world.row == next.row { "lands".to_owned() } else { format!("lands, item {}", of(next.item)) }
}

/// What a run looks at; `after` is the run then.
fn looks(world: &World, run: &Run, after: Option<&Run>) -> String {
    let blob = run.blob;
    let group = || format!("sees group {}", of(world.row.as_ref().and_then(|row| row.winner)));
    let members = || format!("sees members {}", all(&world.members));
    let contest = match (&run.contest, run.machine.next()) {
        (_, Next::ReadMirror) => {
            return match world.anchors[blob].state {
                Mirror::Settled { version: time, .. } => format!("sees target {}", Member { time, blob }),
                Mirror::Pending { .. } => "sees target pending".to_owned(),
                Mirror::Tombstone { .. } | Mirror::Unknown => "sees target -".to_owned(),
            };
        }
        (_, Next::ReadAuthority) => {
            return format!("sees source {}", of(world.source[blob].map(|time| Member { time, blob })));
        }
        (Some(contest), _) => contest.next(),
        (None, Next::Write { .. } | Next::Part { .. }) => {
            let Some(after) = after else { return "gives up".to_owned() };
            return match after.contest.as_ref().map(Contest::next) {
                Some(group::Next::ReadRow) => members(),
                Some(_) => group(),
                None if after.sent.as_ref().is_some_and(|sent| sent.group.is_some()) => group(),
                None if after.large.is_some() => "begins a large change".to_owned(),
                None if after.sent.is_some() => "renews".to_owned(),
                None => "the body it saw is gone".to_owned(),
            };
        }
        (None, _) => return "goes on".to_owned(),
    };
    match contest {
        group::Next::ReadRow => group(),
        group::Next::ReadMembers => members(),
        group::Next::Restore(member) => format!("looks for {member} in its anchor"),
        group::Next::Fetch(member) => format!("looks for {member} in the source"),
        group::Next::Settled(_) => "is settled".to_owned(),
    }
}
