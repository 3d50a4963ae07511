//! `migrate provision`.

use std::fmt;

use serde::Serialize;

use super::context::Context;
use super::output::{self, Report};
use crate::error::Exit;
use crate::target::dynamodb::policy;
use crate::target::store::{ProvisionResult, Provisioned};

/// Create the data table and the control table, or check what is there
///
/// Reads the plan's `[target]`. Creates what is missing: the data table with its indexes, billed on
/// demand, TTL, stream, point-in-time recovery and deletion protection, and beside it the control table,
/// `{table}-migration`. Never changes what is there: a table with other keys is an error (exit 2), any
/// other difference is listed, and closes the gate `table-ready` (exit 4).
///
/// What an endpoint on this machine does not offer is listed as such. It gets no stream unless
/// `--with-stream` asks for it, because local engines become slow with one.
///
/// With `--output json`: {"command": "provision", "dry_run", "steps": [{"what", "result": "created" |
/// "present" | "not-offered" | "differs", "detail"}]}.
#[derive(Debug, clap::Args)]
#[command(after_long_help = "Examples:
  migrate provision --dry-run
  migrate provision --target embedded
  migrate provision --policy dual-write > policy.json")]
pub(crate) struct Provision {
    /// Say what would be created, and create nothing
    #[arg(long)]
    dry_run: bool,

    /// Create the plan's stream on an endpoint of this machine, too
    #[arg(long)]
    with_stream: bool,

    /// Print the least IAM policy that COMMAND needs (without it, an object of all), and do nothing else
    #[arg(long, value_name = "COMMAND", num_args = 0..=1, value_parser = policy_command)]
    policy: Option<Option<policy::Command>>,
}

pub(crate) async fn run(args: &Provision, context: &Context) -> anyhow::Result<Exit> {
    let plan = context.plan()?;
    if let Some(command) = args.policy {
        let direct = plan.entities.iter().any(|entity| entity.direct_writes);
        let document = |command| policy::policy(&plan.target, None, direct, command);
        let policies = match command {
            Some(command) => document(command),
            None => {
                policy::Command::ALL.into_iter().map(|command| (command.name(), document(command))).collect()
            }
        };
        context.output.report(&Policies(policies))?;
        return Ok(Exit::Done);
    }
    let target = context.target().await?;
    let work = target.provision(&plan.target, args.with_stream, args.dry_run);
    let steps = context.interruptible("provision", work).await?;
    let provisioning = Provisioning::new(&steps, args.dry_run);
    context.output.report(&provisioning)?;
    Ok(if provisioning.differs() { Exit::GateClosed } else { Exit::Done })
}

fn policy_command(text: &str) -> Result<policy::Command, String> {
    let names = policy::Command::ALL.map(policy::Command::name);
    policy::Command::ALL
        .into_iter()
        .find(|command| command.name() == text)
        .ok_or_else(|| format!("expected one of {}", names.join(", ")))
}

#[derive(Serialize)]
struct Provisioning<'a> {
    command: &'static str,
    dry_run: bool,
    steps: Vec<Step<'a>>,
}

#[derive(Serialize)]
struct Step<'a> {
    what: &'a str,
    result: &'static str,
    detail: Option<&'a str>,
}

impl<'a> Provisioning<'a> {
    fn new(steps: &'a [Provisioned], dry_run: bool) -> Self {
        let steps = steps
            .iter()
            .map(|step| {
                let (result, detail) = match &step.result {
                    ProvisionResult::Created => ("created", None),
                    ProvisionResult::Present => ("present", None),
                    ProvisionResult::NotOffered(why) => ("not-offered", Some(why.as_str())),
                    ProvisionResult::Differs(how) => ("differs", Some(how.as_str())),
                };
                Step { what: &step.what, result, detail }
            })
            .collect();
        Self { command: "provision", dry_run, steps }
    }

    fn differs(&self) -> bool {
        self.steps.iter().any(|step| step.result == "differs")
    }
}

impl Report for Provisioning<'_> {
    fn human(&self, text: &mut dyn fmt::Write) -> fmt::Result {
        let rows = self.steps.iter().map(|step| {
            let result = match step.result {
                "created" if self.dry_run => "would be created",
                "not-offered" => "not offered here",
                result => result,
            };
            [step.what.to_owned(), result.to_owned(), step.detail.unwrap_or_default().to_owned()]
        });
        text.write_str(&output::table(["what", "result", ""], rows))?;
        if self.differs() {
            text.write_str("\nWhat differs was left as it is. The gate `table-ready` stays closed until it is as planned.\n")?;
        }
        Ok(())
    }
}

/// IAM policies: the same JSON for people and for programs.
#[derive(Serialize)]
#[serde(transparent)]
struct Policies(serde_json::Value);

impl Report for Policies {
    fn human(&self, text: &mut dyn fmt::Write) -> fmt::Result {
        writeln!(text, "{:#}", self.0)
    }
}
