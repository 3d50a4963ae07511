//! The `migrate` command: parse, run, report, exit code.

fn main() {}
