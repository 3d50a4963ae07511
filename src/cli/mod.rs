//! The command line: one file per command, and what they share.
//!
//! To add the command `foo`:
//! 1. `src/cli/foo.rs`: `#[derive(Debug, clap::Args)] pub(crate) struct Foo`, whose doc comment is its
//!    help (what it reads and writes, what it prints, an example), and
//!    `pub(crate) async fn run(args: &Foo, context: &Context) -> anyhow::Result<Exit>`, which prints one
//!    [`output::Report`] through `context.output.report`.
//! 2. Here: `mod foo;`, a variant of `Command`, an arm of `Command::run`.
//! 3. `tests/it/cli.rs`: its help and its failures.
//!
//! [`settings`] is the only place that reads the environment, [`output`] the only one that writes to
//! stdout and stderr, [`interrupt`] the only one that hears signals. Errors of the library pass through
//! commands as they are: their kind decides the exit code.

#![expect(
    rustdoc::broken_intra_doc_links,
    reason = "the comments of commands are their help: brackets are lists and defaults"
)]

mod check;
mod context;
mod cutover;
#[cfg(feature = "embedded")]
mod demo;
mod drill;
mod dual_write;
mod emulate;
mod export;
mod finish;
mod flags;
mod gateway_cert;
mod init;
mod interrupt;
mod mode;
mod output;
mod progress;
mod provision;
mod rehearsal;
mod serving;
mod settings;
mod status;
mod stores;
mod validate;

use std::process::ExitCode;
use std::time::Duration;

use clap::error::ContextValue;
use clap::{CommandFactory as _, FromArgMatches as _, Parser, Subcommand};
use tracing_subscriber::EnvFilter;

use self::context::Context;
use self::flags::GlobalFlags;
use self::output::Output;
use self::settings::Environment;
use crate::endpoint::without_userinfo;
use crate::error::{Error, ErrorKind, Exit};
use crate::legible::legible;

/// Moves an application's data from Vercel Blob to DynamoDB while the application runs
///
/// Every command executes the plan, `migration-plan.md`: a page that your team reviews, whose
/// `toml migrate` blocks say which blobs become which items.
#[derive(Debug, Parser)]
#[command(name = "migrate", version, max_term_width = 110, propagate_version = false)]
struct Cli {
    #[command(flatten)]
    global: GlobalFlags,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Init(init::Init),
    Provision(provision::Provision),
    Export(export::Export),
    Check(check::Check),
    DualWrite(Box<dual_write::DualWrite>),
    Validate(validate::Validate),
    Cutover(cutover::Cutover),
    Status(status::Status),
    Mode(mode::Mode),
    #[cfg(feature = "embedded")]
    Demo(demo::Demo),
    Emulate(Box<emulate::Emulate>),
    GatewayCert(gateway_cert::GatewayCert),
}

impl Command {
    async fn run(&self, context: &Context) -> anyhow::Result<Exit> {
        match self {
            Self::Init(args) => init::run(args, context).await,
            Self::Provision(args) => provision::run(args, context).await,
            Self::Export(args) => export::run(args, context).await,
            Self::Check(args) => check::run(args, context).await,
            Self::DualWrite(args) => dual_write::run(args, context).await,
            Self::Validate(args) => validate::run(args, context).await,
            Self::Cutover(args) => cutover::run(args, context).await,
            Self::Status(args) => status::run(args, context).await,
            Self::Mode(args) => mode::run(args, context).await,
            #[cfg(feature = "embedded")]
            Self::Demo(args) => demo::run(args, context).await,
            Self::Emulate(args) => emulate::run(args, context).await,
            Self::GatewayCert(args) => gateway_cert::run(args, context),
        }
    }
}

/// Parses the command line, runs the command, and reports how it ended.
#[must_use]
pub fn main() -> ExitCode {
    let exit = match parse() {
        Ok(cli) => execute(cli),
        Err(error) => refuse(&error),
    };
    ExitCode::from(exit.code())
}

fn parse() -> Result<Cli, clap::Error> {
    let matches = Cli::command().after_help(exit_codes()).try_get_matches();
    matches.and_then(|matches| Cli::from_arg_matches(&matches)).map_err(presentable)
}

/// The same error as it may be shown: what it quotes of the command line is legible, and without passwords of URLs.
fn presentable(mut error: clap::Error) -> clap::Error {
    let quoted: Vec<_> = error.context().map(|(kind, value)| (kind, value.clone())).collect();
    for (kind, value) in quoted {
        if let ContextValue::String(text) = value {
            error.insert(kind, ContextValue::String(legible(&without_userinfo(&text)).into_owned()));
        }
    }
    error
}

/// The exit codes, for the end of `--help`.
fn exit_codes() -> String {
    let mut text = "Exit codes:".to_owned();
    for exit in Exit::ALL {
        text += &format!("\n  {:>3}  {}", exit.code(), exit.meaning());
    }
    text
}

/// Prints the help that was asked for, or why the command line is wrong.
fn refuse(error: &clap::Error) -> Exit {
    let wants_json = || {
        let arguments: Vec<_> = std::env::args_os().collect();
        arguments.iter().any(|argument| argument == "--output=json")
            || arguments.windows(2).any(|pair| pair[0] == "--output" && pair[1] == "json")
    };
    if error.use_stderr() && wants_json() {
        let text = error.render().to_string();
        let message = text.strip_prefix("error: ").unwrap_or(&text);
        let message = message.split("\n\nFor more information").next().unwrap_or(message).trim_end();
        let failure = Error::new(ErrorKind::Usage, "parse the command line")
            .message(message)
            .hint("`--help` after the name of the command says what it takes");
        return Output::json().failure(&failure.into());
    }
    match error.print() {
        Ok(()) if error.use_stderr() => Exit::Usage,
        Ok(()) => Exit::Done,
        Err(_) => Exit::Unexpected,
    }
}

fn execute(cli: Cli) -> Exit {
    let environment = Environment::read();
    let output = Output::new(&cli.global);
    log_to(&output, &cli.global, environment.log.as_deref());
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return output.failure(&anyhow::Error::from(error).context("start the runtime")),
    };
    let exit = runtime.block_on(async {
        let cancel = interrupt::listen(output.clone());
        let context = Context::new(cli.global, environment, output.clone(), cancel);
        match cli.command.run(&context).await {
            Ok(exit) => exit,
            Err(error) => output.failure(&error),
        }
    });
    // A thread that waits for an answer on stdin must not keep the process.
    runtime.shutdown_timeout(Duration::from_secs(1));
    exit
}

fn log_to(output: &Output, flags: &GlobalFlags, directives: Option<&str>) {
    let default = match (flags.quiet, flags.verbose) {
        (true, _) => "off",
        (false, 0) => "error",
        (false, 1) => "warn,migrate=info",
        (false, 2) => "warn,migrate=debug",
        (false, _) => "info,migrate=trace",
    };
    let filter = EnvFilter::try_new(directives.unwrap_or(default)).unwrap_or_else(|error| {
        output.warning(format_args!("RUST_LOG is not a log filter: {error}"));
        EnvFilter::new(default)
    });
    let writer = output.clone();
    let lines = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(move || writer.log_writer())
        .with_ansi(output.bars().is_some());
    if output.is_json() {
        lines.json().with_current_span(false).init();
    } else {
        lines.init();
    }
}
