//! The model checker of the protocol: `cargo run --release --example model -- [--full] [NAME]`. With a name only what
//! is called so is explored.
//!
//! It drives the functions that production drives (`migrate::protocol`) through every interleaving of
//! two gateways, a sweeper, a backfill from a stale snapshot and a replayer of intents in doubt, over
//! two stores whose requests may be lost or land late, with crashes and with content that repeats; and
//! likewise through those of changes that take several transactions, of blobs that share an item, and of a
//! change of authority, forward and back, by one or two operators. With all rules it must find nothing; with
//! a rule taken out it must find the trace that the rule is there for. Exit code 1 if it is otherwise.
//!
//! Limits: one pathname, one item, a crash and a timeout; `head` is never stale; "wait" is an oracle (the
//! request landed or died); authority is the source. In `parts`, three items; in `groups`, two pathnames of
//! one group. Both are without intents: what they demand holds wherever the anchors say what the source
//! holds, and that they do so once no intent is left is what the first model shows.
//!
//! Read next: `world` (the state), `model` (which steps there are), `take` (what they do), `cases`
//! (what is explored), `known` (what must be found); `parts`, `groups` and `flips`, each a model of its own.
#![expect(clippy::print_stdout, clippy::print_stderr, reason = "a program that reports what it explored")]

mod cases;
mod flips;
mod groups;
mod known;
mod model;
mod parts;
#[cfg(test)]
mod schedules;
mod take;
mod words;
mod world;

use std::fmt::Debug;
use std::hash::Hash;
use std::process::ExitCode;
use std::thread::available_parallelism;
use std::time::Instant;

use stateright::{Checker, Path};

use cases::{DEFAULT, DEFAULT_STATES_MAX, FULL};
use flips::Flips;
use groups::Groups;
use known::{KNOWN, Known, Of};
use model::{Protocol, SETTLES};
use words::Told;

fn main() -> ExitCode {
    let mut full = false;
    let mut named = String::new();
    for argument in std::env::args().skip(1) {
        match argument.as_str() {
            "--full" => full = true,
            name if !name.starts_with('-') && named.is_empty() => name.clone_into(&mut named),
            _ => {
                eprintln!("error: unknown argument {argument:?}; usage: model [--full] [NAME]");
                return ExitCode::from(2);
            }
        }
    }
    let is_named = |name: &str| name.contains(&named);
    let begun = Instant::now();
    let mut sound = true;
    println!("with all rules: no violation, whatever the interleaving");
    let mut total = 0;
    for case in DEFAULT.iter().chain(FULL.iter().filter(|_| full)).filter(|case| is_named(case.name)) {
        let protocol = case.protocol();
        let configurations = protocol.beginnings.len();
        let (states, holds) = explore(case.name, configurations, &protocol, SETTLES);
        total += states;
        sound &= holds;
    }
    let all = groups::DEFAULT.iter().chain(groups::FULL.iter().filter(|_| full));
    for groups in all.filter(|groups| is_named(groups.name)) {
        let (states, holds) = explore(groups.name, groups.beginnings.len(), groups, groups::SETTLES);
        total += states;
        sound &= holds;
    }
    let all = flips::cases::DEFAULT.iter().chain(flips::cases::FULL.iter().filter(|_| full));
    for flips in all.filter(|flips| is_named(flips.name)) {
        let (states, holds) = explore(flips.name, 1, flips, flips.comes_to());
        total += states;
        sound &= holds;
    }
    if is_named(parts::NAME) {
        let (states, holds) = parts::check();
        total += states;
        sound &= holds;
    }
    println!("  {:42} {total:>11} states in {} s", "total", begun.elapsed().as_secs());
    if !full && total > DEFAULT_STATES_MAX {
        println!("  TOO MANY: at most {DEFAULT_STATES_MAX} states");
        sound = false;
    }
    let known = KNOWN.iter().chain(&flips::known::KNOWN).filter(|known| is_named(known.trace));
    let mut found = 0;
    for known in known {
        sound &= find(known);
        found += 1;
    }
    if sound {
        println!("as expected: {total} states without a violation, {found} known traces found");
        ExitCode::SUCCESS
    } else {
        println!("NOT as expected: see above");
        ExitCode::FAILURE
    }
}

/// Where the exploration of one model ends, breadth first, though there is more: a quarter of them led to new states, which
/// take 7 GB. One model of `--full` has more than a machine of 24 GB can hold.
const TRANSITIONS_MAX: usize = 100_000_000;

/// Explores a model; the number of states, and whether all was well.
fn explore<M>(name: &str, configurations: usize, model: &M, settles: &'static str) -> (usize, bool)
where
    M: Told + Clone + Send + Sync + 'static,
    M::State: Clone + Debug + Hash + PartialEq + Send + Sync,
    M::Action: Clone + Debug + PartialEq,
{
    let threads = available_parallelism().map_or(1, usize::from);
    let checker =
        model.clone().checker().threads(threads).target_state_count(TRANSITIONS_MAX).spawn_bfs().join();
    let states = checker.unique_state_count();
    let end = if checker.state_count() < TRANSITIONS_MAX { "" } else { "; the rest is left out" };
    println!(
        "  {name:42} {states:>11} states, {:>10} transitions, {configurations} configurations{end}",
        checker.state_count(),
    );
    let mut discoveries = checker.discoveries();
    // Were it never reached, the other properties would hold in vain.
    let reached = discoveries.remove(settles).is_some();
    if !reached {
        println!("  NEVER: {settles}");
    }
    for (property, path) in &discoveries {
        println!("  VIOLATION: {property}");
        print_trace(model, path);
    }
    (states, reached && discoveries.is_empty())
}

/// Looks for a known trace, and says whether the violation that it found is this one.
fn find(known: &Known) -> bool {
    println!("\nwithout {}:", known.without);
    let only = Some(known.property);
    match &known.of {
        Of::Pathname(case) => find_in(known, Protocol { only, ..case.protocol() }),
        Of::Group(groups) => find_in(known, Groups { only, ..*groups }),
        Of::Flip(flips) => find_in(known, Flips { only, ..*flips }),
    }
}

fn find_in<M>(known: &Known, model: M) -> bool
where
    M: Told + Clone + Send + Sync + 'static,
    M::State: Clone + Debug + Hash + PartialEq + Send + Sync,
    M::Action: Clone + Debug + PartialEq,
{
    // One thread, so that the shortest one is found, and the same one every time.
    let checker = model.clone().checker().threads(1).spawn_bfs().join();
    let Some(path) = checker.discovery(known.property) else {
        println!("  NOT FOUND: {} ({} states)", known.trace, checker.unique_state_count());
        return false;
    };
    println!("  {} ({} states looked at)", known.property, checker.unique_state_count());
    let lines = print_trace(&model, &path);
    match known.lacks(&lines) {
        None => {
            println!("  = trace {}: {}", known.trace, known.because);
            true
        }
        Some(step) => {
            println!("  NOT trace {}: it lacks, in this order, \"{step}\"", known.trace);
            false
        }
    }
}

fn print_trace<M: Told>(model: &M, path: &Path<M::State, M::Action>) -> Vec<String> {
    let (beginning, lines) = model.told(path);
    println!("    [{beginning}]");
    for line in &lines {
        println!("    {line}");
    }
    lines
}
