//! `migrate init`: a plan to begin with.

use std::fmt;
use std::fs::File;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use indicatif::{HumanBytes, HumanCount};
use serde::Serialize;

use super::context::Context;
use super::flags::BudgetFlags;
use super::output::{self, Report};
use crate::blob::client::{Limit, Operations};
use crate::blob::store::Access;
use crate::blob::{BlobStore, Fetcher};
use crate::error::{Error, ErrorKind, Exit, Result};
use crate::plan::{self, SourcePlan, TimingPlan, VercelPlan};
use crate::snapshot::budget::{self, PRICES};
use crate::survey::{Findings, Survey, proposal};

/// Look at a store, and write a plan to begin with
///
/// Lists the store once, sorts the names into families, says what reading a few bodies of each will cost,
/// and reads them. Then it writes the plan (`--plan`, migration-plan.md): an entity for each family, with
/// pattern, form, fields and a key, rules for what is no record, and an open check box, with the evidence,
/// for whatever it could not decide. It never overwrites a file, unless `--force` is given.
///
/// The proposal is complete in form: `migrate export` and `migrate check` run with it, and say what is
/// still wrong. Names of fields are in it, values are not.
///
/// Reads BLOB_READ_WRITE_TOKEN and the store. On a terminal it asks before it reads bodies, unless `--yes` is
/// given. Ends with 7 where that would pass `--max-operations`, or the Vercel plan's allowance.
///
/// With `--output json`: {"command": "init", "plan", "plan_hash", "questions", "listed", "pages", "families":
/// [{"name", "pattern", "captures", "blobs", "bytes", "shape"}], "assets", "operations": {"simple", "advanced"}}.
#[derive(Debug, clap::Args)]
#[command(after_long_help = "Examples:
  migrate init
  migrate init --plan draft.md --store shop --max-operations 500
  migrate init --private --vercel-plan hobby --yes")]
pub(crate) struct Init {
    /// What the plan calls the store [default: the id that the token names]
    #[arg(long, value_name = "NAME")]
    store: Option<String>,

    /// The table that the plan names [default: {store}-main]
    #[arg(long, value_name = "NAME")]
    table: Option<String>,

    /// Only blobs whose pathnames begin so
    #[arg(long, value_name = "PREFIX", default_value = "")]
    prefix: String,

    /// The store is a private one
    #[arg(long)]
    private: bool,

    /// The Vercel plan, which sets rates and allowance: hobby, pro or enterprise
    #[arg(long, value_name = "PLAN", default_value = "pro", value_parser = vercel_plan)]
    vercel_plan: VercelPlan,

    /// Overwrite the file
    #[arg(long)]
    force: bool,

    #[command(flatten)]
    budget: BudgetFlags,
}

fn vercel_plan(text: &str) -> Result<VercelPlan, String> {
    let plan = serde_json::from_value(text.into());
    plan.map_err(|_| "expected `hobby`, `pro` or `enterprise`".to_owned())
}

pub(crate) async fn run(args: &Init, context: &Context) -> anyhow::Result<Exit> {
    let file = &context.flags.plan;
    if file.exists() && !args.force {
        return Err(Error::new(ErrorKind::Usage, "write the plan")
            .key(file.display())
            .message("the file exists")
            .hint("name another one with --plan, or overwrite it with --force")
            .into());
    }
    let mut source = SourcePlan {
        store: args.store.clone().unwrap_or_else(|| "store".to_owned()),
        prefix: args.prefix.clone(),
        access: if args.private { Access::Private } else { Access::Public },
        plan: args.vercel_plan,
        background_share: 0.5,
        etags: Default::default(),
        url: None,
    };
    let client = context.client(&source)?;
    if args.store.is_none() {
        source.store = client.store_id().unwrap_or("store").to_owned();
    }
    let meter = client.meter();
    let allowed = budget::allowance(source.plan);
    let classes = allowed.unwrap_or(Operations { simple: u64::MAX, advanced: u64::MAX });
    meter.set_limit(Limit { classes, total: args.budget.max_operations.unwrap_or(u64::MAX) });
    let survey = Survey {
        fetcher: Fetcher {
            source: client as Arc<dyn BlobStore>,
            clock: Arc::clone(&context.clock),
            access: source.access,
            cdn_stale: TimingPlan::default().cdn_stale.0,
            etags: source.etags,
            body_bytes_max: crate::converge::BODY_BYTES_MAX,
        },
        source: source.clone(),
        events: Arc::clone(&context.events),
    };
    let mut findings = survey.list(&context.cancel).await?;
    if findings.families.is_empty() {
        return Err(Error::new(ErrorKind::Usage, "survey the store")
            .message("there are no records in it, so there is nothing to plan")
            .hint("`--prefix` and BLOB_READ_WRITE_TOKEN say which blobs are looked at")
            .into());
    }
    afford(args, context, &findings).await?;
    survey.look(&mut findings, &context.cancel).await?;
    let table = args.table.clone().unwrap_or_else(|| format!("{}-main", source.store));
    let subject = proposal::Subject { source: &source, table: &table };
    let text = proposal::markdown(&findings, &subject)?;
    let loaded = plan::parse(file, text.as_str(), &[])?;
    save(file, &text, args.force)?;
    context.output.report(&Proposed {
        command: "init",
        plan: file,
        plan_hash: loaded.hash.to_string(),
        questions: proposal::open_questions(&text),
        findings: &findings,
        operations: meter.operations(),
    })?;
    Ok(Exit::Done)
}

/// Says what reading the sample costs, and asks.
async fn afford(args: &Init, context: &Context, findings: &Findings) -> Result<()> {
    let (bodies, bytes) = findings.sample();
    #[expect(clippy::cast_precision_loss, reason = "an estimate for people")]
    let cost = bodies as f64 * PRICES.simple_per_million / 1e6
        + findings.pages as f64 * PRICES.advanced_per_million / 1e6
        + bytes as f64 * PRICES.transfer_per_gb / 1e9;
    let estimate = format!(
        "{} blobs listed in {} families; {} bodies to read ({}): {} simple and {} advanced operations, about ${cost:.4} \
         ({}, {})",
        HumanCount(findings.listed),
        findings.families.len(),
        HumanCount(bodies),
        HumanBytes(bytes),
        HumanCount(bodies),
        HumanCount(findings.pages),
        PRICES.source,
        PRICES.date,
    );
    context.output.note(&estimate);
    let needed = bodies + findings.pages;
    if let Some(max) = args.budget.max_operations.filter(|max| needed > *max) {
        return Err(Error::new(ErrorKind::Budget, "survey the store")
            .message(format!("it needs {needed} operations, and at most {max} are allowed")));
    }
    if context.flags.yes || !context.output.can_ask() {
        return Ok(());
    }
    let question = format!("Read {} bodies?", HumanCount(bodies));
    let answer = async { Ok(context.output.ask(&question).await) };
    match context.interruptible("survey the store", answer).await? {
        Some(false) => Err(Error::new(ErrorKind::Budget, "survey the store")
            .message("you answered no")
            .hint("no body was read, and nothing was written")),
        Some(true) | None => Ok(()),
    }
}

fn save(path: &Path, text: &str, force: bool) -> Result<()> {
    let mut options = File::options();
    // Somebody may have made the file meanwhile.
    options.write(true).create(force).truncate(force).create_new(!force);
    let written = options.open(path).and_then(|mut file| file.write_all(text.as_bytes()));
    written.map_err(|error| {
        let failed = Error::new(ErrorKind::Usage, "write the plan").key(path.display());
        crate::folder::failed(failed.message("can't be written"), path, error)
    })
}

#[derive(Serialize)]
struct Proposed<'a> {
    command: &'static str,
    plan: &'a PathBuf,
    plan_hash: String,
    questions: u64,
    #[serde(flatten)]
    findings: &'a Findings,
    operations: Operations,
}

impl Report for Proposed<'_> {
    fn human(&self, text: &mut dyn fmt::Write) -> fmt::Result {
        let rows = self.findings.families.iter().map(|found| {
            let [blobs, bodies] =
                [found.family.blobs, found.shape.bodies].map(|count| HumanCount(count).to_string());
            [found.family.name.clone(), blobs, bodies, found.family.pattern.clone()]
        });
        text.write_str(&output::table(["family", "blobs", "looked at", "pattern"], rows))?;
        for asset in &self.findings.assets {
            writeln!(
                text,
                "  and {} of .{}, which are no records",
                HumanCount(asset.blobs),
                asset.extension
            )?;
        }
        writeln!(
            text,
            "\nplan {}: a proposal, with {} open questions; answer them, then run `migrate export` and `migrate check`",
            self.plan.display(),
            self.questions
        )
    }
}
