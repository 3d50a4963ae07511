//! The model checker of the protocol: `cargo run --release --example model -- [--full]`.
//!
//! It drives the functions that production drives (`migrate::protocol`) through every interleaving of
//! two gateways, a sweeper, a backfill from a stale snapshot and a replayer of intents in doubt, over
//! two stores whose requests may be lost or land late, with crashes and with content that repeats. With
//! all rules it must find nothing; with a rule taken out it must find the trace that the rule is there
//! for. Exit code 1 if it is otherwise.
//!
//! Limits: one pathname, one item, a crash and a timeout; `head` is never stale; "wait" is an oracle (the
//! request landed or died); authority is the source.
//!
//! Read next: `world` (the state), `model` (which steps there are), `take` (what they do), `cases`
//! (what is explored), `known` (what must be found).
#![expect(clippy::print_stdout, clippy::print_stderr, reason = "a program that reports what it explored")]

mod cases;
mod known;
mod model;
mod parts;
#[cfg(test)]
mod schedules;
mod take;
mod words;
mod world;

use std::process::ExitCode;
use std::thread::available_parallelism;
use std::time::Instant;

use stateright::{Checker, Model, Path};

use cases::{Case, DEFAULT, DEFAULT_STATES_MAX, FULL};
use known::{KNOWN, Known};
use model::{Protocol, SETTLES, Step};
use world::World;

fn main() -> ExitCode {
    let mut full = false;
    for argument in std::env::args().skip(1) {
        if argument != "--full" {
            eprintln!("error: unknown argument {argument:?}; usage: model [--full]");
            return ExitCode::from(2);
        }
        full = true;
    }
    let begun = Instant::now();
    let mut sound = true;
    println!("with all rules: no violation, whatever the interleaving");
    let mut total = 0;
    for case in DEFAULT.iter().chain(FULL.iter().filter(|_| full)) {
        let (states, holds) = explore(*case);
        total += states;
        sound &= holds;
    }
    let (states, holds) = parts::check();
    total += states;
    sound &= holds;
    println!("  {:42} {total:>11} states in {} s", "total", begun.elapsed().as_secs());
    if !full && total > DEFAULT_STATES_MAX {
        println!("  TOO MANY: at most {DEFAULT_STATES_MAX} states");
        sound = false;
    }
    for known in &KNOWN {
        sound &= find(known);
    }
    if sound {
        println!("as expected: {total} states without a violation, {} known traces found", KNOWN.len());
        ExitCode::SUCCESS
    } else {
        println!("NOT as expected: see above");
        ExitCode::FAILURE
    }
}

/// Explores a case to the end; the number of states, and whether all was well.
fn explore(case: Case) -> (usize, bool) {
    let protocol = case.protocol();
    let configurations = protocol.beginnings.len();
    let threads = available_parallelism().map_or(1, usize::from);
    let checker = protocol.clone().checker().threads(threads).spawn_bfs().join();
    let states = checker.unique_state_count();
    println!(
        "  {:42} {states:>11} states, {:>10} transitions, {configurations} configurations",
        case.name,
        checker.state_count(),
    );
    let mut discoveries = checker.discoveries();
    // Were it never reached, the other properties would hold in vain.
    let settles = discoveries.remove(SETTLES).is_some();
    if !settles {
        println!("  NEVER: {SETTLES}");
    }
    for (property, path) in &discoveries {
        println!("  VIOLATION: {property}");
        print_trace(&protocol, path);
    }
    (states, settles && discoveries.is_empty())
}

/// Looks for a known trace, and says whether the violation that it found is this one.
fn find(known: &Known) -> bool {
    println!("\nwithout {}:", known.without);
    let protocol = Protocol { only: Some(known.property), ..known.case.protocol() };
    // One thread, so that the shortest one is found, and the same one every time.
    let checker = protocol.clone().checker().threads(1).spawn_bfs().join();
    let Some(path) = checker.discovery(known.property) else {
        println!("  NOT FOUND: {} ({} states)", known.trace, checker.unique_state_count());
        return false;
    };
    println!("  {} ({} states looked at)", known.property, checker.unique_state_count());
    let lines = print_trace(&protocol, &path);
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

fn print_trace(protocol: &Protocol, path: &Path<World, Step>) -> Vec<String> {
    let steps = path.clone().into_vec();
    let mut lines = Vec::new();
    if let Some((first, _)) = steps.first() {
        println!("    [{}]", words::beginning(first));
    }
    for (world, step) in steps {
        if let Some(step) = step {
            protocol.take(&mut world.clone(), step, &mut |line| lines.push(line.to_string()));
        }
    }
    for line in &lines {
        println!("    {line}");
    }
    lines
}
