//! The flags that every command takes. What they resolve to is in [`super::settings`].

use std::path::PathBuf;
use std::str::FromStr;

use clap::{ArgAction, ColorChoice, ValueEnum};

use crate::endpoint::Endpoint;

/// The flags that every command takes.
#[derive(Debug, Clone, clap::Args)]
#[command(next_help_heading = "Global options")]
pub(crate) struct GlobalFlags {
    /// The plan that the command executes
    #[arg(long, global = true, value_name = "FILE", default_value = "migration-plan.md")]
    pub(crate) plan: PathBuf,

    /// Override a value of the plan, such as `target.table=rehearsal`; may be repeated
    ///
    /// An override is part of the plan's hash, so evidence gathered under it counts only under it.
    /// `timing` and `gates` can be overridden only where source and target are both on this machine.
    #[arg(long = "set", global = true, value_name = "KEY=VALUE", action = ArgAction::Append)]
    pub(crate) overrides: Vec<String>,

    /// The snapshot file [default: .migrate/{store}.snapshot]
    #[arg(long, global = true, value_name = "FILE")]
    pub(crate) snapshot: Option<PathBuf>,

    /// Base URL of the Vercel Blob API [default: the plan's, MIGRATE_BLOB_URL, VERCEL_BLOB_API_URL, Vercel's]
    #[arg(long, global = true, value_name = "URL")]
    pub(crate) source_url: Option<Endpoint>,

    /// Where the tables are: `aws`, or `embedded[:FILE]` for an engine in this process
    ///
    /// `aws` is the service, or what DYNAMODB_ENDPOINT names. `embedded` keeps both tables in one file
    /// [default: .migrate/embedded.db], to rehearse a migration without touching AWS.
    #[arg(long, global = true, value_name = "WHERE", default_value = "aws")]
    pub(crate) target: TargetChoice,

    /// What stdout carries: tables for people, or one JSON object
    #[arg(long, global = true, value_name = "FORMAT", default_value = "human")]
    pub(crate) output: Format,

    /// When to use colours; NO_COLOR turns them off, too
    #[arg(long, global = true, value_name = "WHEN", default_value = "auto")]
    pub(crate) color: ColorChoice,

    /// Work in a drill's own part of both stores
    #[arg(long, global = true, value_name = "NAME", hide = true)]
    pub(crate) space: Option<String>,

    /// One of the steps of a drill or a demo: nobody is told of flips, and a gateway ends when its stdin does
    #[arg(long, global = true, hide = true)]
    pub(crate) drill_step: bool,

    /// Answer every question with yes
    #[arg(long, short = 'y', global = true)]
    pub(crate) yes: bool,

    /// Log what happens to stderr; twice for more (RUST_LOG chooses exactly)
    ///
    /// With `--output json` each line of the log is an object. What a request led to, also after its answer, names the
    /// request by the id that its client gave it.
    #[arg(long, short = 'v', global = true, action = ArgAction::Count)]
    pub(crate) verbose: u8,

    /// No progress and no notes on stderr, only errors
    #[arg(long, short = 'q', global = true, conflicts_with = "verbose")]
    pub(crate) quiet: bool,
}

/// What stdout carries.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Format {
    /// Tables and sentences.
    Human,
    /// One JSON object.
    Json,
}

/// `--target`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum TargetChoice {
    /// The service, or the endpoint that the environment names.
    Aws,
    /// An engine in this process, which keeps both tables in this file.
    Embedded(PathBuf),
}

impl FromStr for TargetChoice {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match (text, text.strip_prefix("embedded:")) {
            ("aws", _) => Ok(Self::Aws),
            ("embedded", _) => Ok(Self::Embedded(".migrate/embedded.db".into())),
            (_, Some(file)) if !file.is_empty() => Ok(Self::Embedded(file.into())),
            _ => Err("expected `aws`, `embedded` or `embedded:FILE`".to_owned()),
        }
    }
}

/// The bound on what a command may spend at the source.
#[derive(Debug, Clone, Copy, Default, clap::Args)]
pub(crate) struct BudgetFlags {
    /// Refuse to start (exit 7) if more Blob operations than this are expected
    #[arg(long, value_name = "N")]
    pub(crate) max_operations: Option<u64>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn target_choices() {
        assert_eq!("aws".parse(), Ok(TargetChoice::Aws));
        assert_eq!("embedded:a:b.db".parse(), Ok(TargetChoice::Embedded("a:b.db".into())));
        assert_eq!("embedded".parse(), Ok(TargetChoice::Embedded(".migrate/embedded.db".into())));
        for wrong in ["", "embedded:", "local", "AWS"] {
            wrong.parse::<TargetChoice>().unwrap_err();
        }
    }
}
