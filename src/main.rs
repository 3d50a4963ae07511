//! The `migrate` command: parse, run, report, exit code.

fn main() -> std::process::ExitCode {
    migrate::cli::main()
}
