//! `migrate validate`: compares both stores.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use clap::ValueEnum;
use indicatif::HumanCount;
use serde::Serialize;

use super::context::Context;
use super::flags::BudgetFlags;
use super::output::Report;
use super::stores::{Asked, Stores};
use crate::anchored::{Anchored, NO_ANCHOR, Replaces};
use crate::blob::Pathname;
use crate::converge::Converger;
use crate::dual_write::session::{Opening, Session};
use crate::error::{Error, ErrorKind, Exit, Result};
use crate::gate::indexes_complete;
use crate::protocol::Rev;
use crate::protocol::phase::{Authority, Epoch, Phase};
use crate::sweep::indexes::IndexReport;
use crate::sweep::{self, BackSweep, Drift, Level, Sweep, SweepReport};
use crate::target::control::{SessionKind, names};

/// Compare both stores, in both directions
///
/// Every blob with its anchor, every anchor with its blob, every item with its anchor. At the level
/// `content` (the default) the expected items are computed anew from the bodies and compared attribute by
/// attribute, the JSON is rebuilt from the items and compared with the blob's, and the retained bytes are
/// checked by SHA-256. What moves while it is looked at is judged again, and reported as `unverified` if
/// it never holds still.
///
/// A comparison can find nothing because it is blind. So what was compared must equal what was listed,
/// on both sides; an empty store fails; and a few equal pairs are spoilt in memory, which must be found.
///
/// Each full comparison is kept as evidence: two in a row that find nothing open the gate `drift-free`. After such a one
/// at the level `content`, the table's indexes are compared with it, which reads both once more (`indexes-complete`).
///
/// Once DynamoDB is the authority, items are held against what their anchors say, and Blob, which is the mirror
/// then, against the anchors. What Blob has that an anchor, a note or an intent names is an older version, and `--repair`
/// settles it. What Blob has that this migration did not write is `foreign`: nothing touches it but `--adopt` and
/// `--discard`. Beside each foreign blob stand which of the two stores has the newer version, and both commands. The first
/// command keeps the newer version; where that is unclear, the first command keeps what DynamoDB holds.
///
/// `--adopt PATHNAME@REV` takes the blob over into DynamoDB, if DynamoDB still has the version that was shown with that
/// rev (`none` where it never had one). It saves what DynamoDB held to a file under `.migrate/replaced/`. Where DynamoDB
/// is newer, or may be, it refuses without `--overwrite-newer`. `--discard PATHNAME` saves the blob's bytes to a file
/// under `.migrate/discarded/` and puts back what DynamoDB holds.
///
/// With `--output json`: {"command": "validate", "clean", "obstacles": [text], "sweeps": [{"began", "ended",
/// "level", "listed", "compared", "anchored", "anchors_compared", "items", "items_compared", "other_items",
/// "ignored", "accepted", "unmapped", "planted", "found", "drift": [{"kind", "pathname", "key", "source",
/// "target", "detail", "diff", "newer": "blob", "dynamodb" or "unclear" and "settle": [command] of what is foreign}],
/// "remaining": drift after a repair, or null, "bypassed": [{"pathname", "at"}] where
/// changes went past a gateway, "mirror": {"listed", "compared", "anchored", "anchors_compared"} of Blob where
/// DynamoDB is the authority}],
/// "indexes": [{"index", "expected", "entries", "half", "missing", "extra", "named"}] where they were compared,
/// "operations": {"simple", "advanced"} asked of Blob, "requests" sent to DynamoDB}.
///
/// With --adopt or --discard: {"command": "validate", "adopted": [[pathname, file or null]], "discarded": [[pathname,
/// file]]}. After a failure standard error has what was done before.
///
/// Exit codes: 0 nothing differs (any more); 1 DynamoDB was written since --adopt's version was shown; 2 nothing foreign
/// is where --adopt or --discard says, or --adopt would need --overwrite-newer; 3 the blob can't become items; 5 something
/// differs, or the comparison proves nothing; 6 a flip is under way, or Blob is the authority, where nothing is foreign.
#[derive(Debug, clap::Args)]
#[command(after_long_help = "Examples:
  migrate validate
  migrate validate --repair
  migrate validate --level inventory --output json
  migrate validate --discard signups/b.json
  migrate validate --adopt signups/a.json@0f343b0931126a20f133d67c2b018a3b")]
pub(crate) struct Validate {
    /// How deep to look
    #[arg(long, value_name = "LEVEL", default_value = "content")]
    level: LevelFlag,

    /// Converge what differs, and judge it again. Only items and blobs of this program are touched
    #[arg(long)]
    repair: bool,

    /// Compare this often in a row; stops at the first that finds something
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=10))]
    sweeps: u32,

    /// Take over into DynamoDB what Blob has under this pathname and this migration did not write. REV is the version in
    /// DynamoDB that it replaces, as `migrate validate` shows it; `none`: nothing
    #[arg(long, value_name = "PATHNAME@REV", conflicts_with_all = ["repair", "sweeps", "level"])]
    adopt: Vec<String>,

    /// Let --adopt replace a version in DynamoDB that is newer than the blob, or may be
    #[arg(long, requires = "adopt")]
    overwrite_newer: bool,

    /// Save what Blob has under this pathname and this migration did not write, then put back what DynamoDB holds
    #[arg(long, value_name = "PATHNAME", conflicts_with_all = ["repair", "sweeps", "level"])]
    discard: Vec<String>,

    #[command(flatten)]
    budget: BudgetFlags,
}

/// A foreign blob, and the version in DynamoDB that it replaces.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Adoption {
    pathname: Pathname,
    /// None: there is no anchor.
    rev: Option<Rev>,
}

impl Adoption {
    fn of(text: &str) -> Result<Self> {
        let is_rev = |rev: &str| rev.len() == 32 && rev.bytes().all(|byte| byte.is_ascii_hexdigit());
        let named = text.rsplit_once('@').filter(|(_, rev)| *rev == NO_ANCHOR || is_rev(rev));
        let Some((pathname, rev)) = named else {
            return Err(Error::new(ErrorKind::Usage, "validate --adopt")
                .key(text)
                .message("which version in DynamoDB it replaces is not said: PATHNAME@REV")
                .hint("`migrate validate` shows the command with it, beside each foreign blob"));
        };
        let rev = (rev != NO_ANCHOR).then(|| Rev::new(rev));
        Ok(Self { pathname: Pathname::from(pathname), rev })
    }
}

/// How long to wait before what moves is looked at again; grows with each look.
const PATIENCE: Duration = Duration::from_millis(100);

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum LevelFlag {
    /// Versions, revs and keys.
    Inventory,
    /// Every attribute, the JSON rebuilt from the items, and the retained bytes.
    Content,
}

impl From<LevelFlag> for Level {
    fn from(level: LevelFlag) -> Self {
        match level {
            LevelFlag::Inventory => Self::Inventory,
            LevelFlag::Content => Self::Content,
        }
    }
}

#[derive(Debug, Serialize)]
struct ValidateReport<'a> {
    command: &'static str,
    clean: bool,
    obstacles: Vec<String>,
    sweeps: &'a [SweepReport],
    #[serde(skip_serializing_if = "<[IndexReport]>::is_empty")]
    indexes: &'a [IndexReport],
    #[serde(flatten)]
    asked: Asked,
}

pub(crate) async fn run(args: &Validate, context: &Context) -> anyhow::Result<Exit> {
    let adoptions = args.adopt.iter().map(|text| Adoption::of(text)).collect::<Result<Vec<_>>>()?;
    let stores = Stores::open(context).await?;
    stores.bound(args.budget);
    stores.keep_export_evidence().await?;
    if stores.converger.control.mode().await?.is_some_and(|mode| mode.phase == Phase::Final) {
        return Err(Error::new(ErrorKind::WrongPhase, "validate")
            .message("in phase final nothing is mirrored any more: there is nothing to compare with")
            .into());
    }
    if !adoptions.is_empty() || !args.discard.is_empty() {
        return settle_foreign(args, &adoptions, context, &stores).await;
    }
    if args.repair {
        return repair(args, context, &stores).await;
    }
    let mode = stores.converger.control.mode().await?.ok_or_else(|| {
        Error::new(ErrorKind::WrongPhase, "validate")
            .message("nothing was migrated yet: there is nothing to compare with")
            .hint("run `migrate dual-write --once` first")
    })?;
    let under = Under { authority: mode.phase.authority(), epoch: mode.epoch, session: String::new() };
    let sweeps = sweep(args, context, &stores, &stores.converger, &under).await?;
    let indexes = indexes(args, context, &stores, &under, &sweeps).await?;
    finish(context, &stores, &sweeps, &indexes)
}

/// What a sweep is made under.
struct Under {
    authority: Authority,
    epoch: Epoch,
    /// The session that repairs.
    session: String,
}

impl Under {
    fn of(session: &Session) -> Self {
        let mode = session.mode();
        Self { authority: mode.phase.authority(), epoch: mode.epoch, session: session.id() }
    }
}

#[derive(Debug, Serialize)]
struct ForeignReport<'a> {
    command: &'static str,
    adopted: Vec<(&'a Pathname, Option<String>)>,
    discarded: Vec<(&'a str, String)>,
}

impl ForeignReport<'_> {
    fn done(&self, text: &mut dyn fmt::Write) -> fmt::Result {
        for (pathname, file) in &self.adopted {
            write!(text, "adopted    {pathname}: DynamoDB holds what Blob has")?;
            match file {
                Some(file) => writeln!(text, ", what it held is in {file}")?,
                None => writeln!(text)?,
            }
        }
        for (pathname, file) in &self.discarded {
            writeln!(text, "discarded  {pathname}: its bytes are in {file}, Blob has what DynamoDB holds")?;
        }
        Ok(())
    }
}

impl Report for ForeignReport<'_> {
    fn human(&self, text: &mut dyn fmt::Write) -> fmt::Result {
        self.done(text)?;
        writeln!(text, "next       migrate validate")
    }
}

/// Takes over, or puts right, what this migration did not write; in the order in which it was named, until one
/// fails.
async fn settle_foreign(
    args: &Validate,
    adoptions: &[Adoption],
    context: &Context,
    stores: &Stores,
) -> anyhow::Result<Exit> {
    let session = session(context, stores, Some(Authority::Target)).await?;
    let converger = Converger { permit: session.permit(), ..stores.converger.clone() };
    let anchored = Anchored::new(converger, &stores.plan.plan.source.prefix);
    let mut report = ForeignReport { command: "validate", adopted: Vec::new(), discarded: Vec::new() };
    let settled = async {
        for Adoption { pathname, rev } in adoptions {
            let replaces = Replaces { rev: rev.as_ref(), newer: args.overwrite_newer };
            let file = anchored.adopt(pathname, replaces, &stores.directory.join("replaced")).await?;
            report.adopted.push((pathname, file.map(|file| file.display().to_string())));
        }
        for pathname in &args.discard {
            let directory = stores.directory.join("discarded");
            let file = anchored.discard(&Pathname::from(pathname.as_str()), &directory).await?;
            report.discarded.push((pathname.as_str(), file.display().to_string()));
        }
        Ok::<_, Error>(())
    };
    let settled = settled.await;
    session.close().await?;
    if let Err(error) = settled {
        // What was done before is told beside the failure: it names files.
        let mut done = String::new();
        report.done(&mut done)?;
        done.lines().for_each(|line| context.output.note(line));
        return Err(error.into());
    }
    context.output.report(&report)?;
    Ok(Exit::Done)
}

async fn session(context: &Context, stores: &Stores, authority: Option<Authority>) -> Result<Session> {
    let opening = Opening {
        kind: SessionKind::Repair,
        name: &stores.session_name("repair")?,
        plan_hash: &stores.plan_hash,
        plan: &stores.plan.plan,
        directory: &stores.directory,
        authority,
    };
    let control = stores.converger.control.clone();
    control.ensure_header(&stores.header).await?;
    Session::open(control, Arc::clone(&context.clock), opening).await
}

/// A comparison that is not kept as evidence.
pub(super) async fn look(context: &Context, stores: &Stores, level: Level) -> anyhow::Result<Exit> {
    let sweep = one(stores, &stores.converger, level, false);
    let mode = stores.converger.control.mode().await?;
    let report = match mode.map(|mode| mode.phase.authority()) {
        Some(Authority::Target) => {
            BackSweep { sweep, session: "" }.run(&context.events, &context.cancel).await?
        }
        _ => sweep.run(&context.events, &context.cancel).await?,
    };
    finish(context, stores, &[report], &[])
}

/// After a full look that found nothing, whether each index returns what it must.
async fn indexes(
    args: &Validate,
    context: &Context,
    stores: &Stores,
    under: &Under,
    sweeps: &[SweepReport],
) -> Result<Vec<IndexReport>> {
    let clean = sweeps.last().is_some_and(|sweep| sweep.obstacles().is_empty());
    let full = matches!(args.level, LevelFlag::Content) && under.authority == Authority::Source;
    if !clean || !full {
        return Ok(Vec::new());
    }
    let (control, target) = (&stores.converger.control, &stores.plan.plan.target);
    let how = (context.clock.as_ref(), PATIENCE);
    let reports = sweep::indexes::check(control.store(), target, how, &context.cancel).await?;
    indexes_complete::keep(control, &reports, &stores.plan_hash, under.epoch, context.clock.now()).await?;
    Ok(reports)
}

fn finish(
    context: &Context,
    stores: &Stores,
    sweeps: &[SweepReport],
    indexes: &[IndexReport],
) -> anyhow::Result<Exit> {
    let last = sweeps.last();
    // A repair that settled everything leaves nothing that differs.
    let clean = last.is_some_and(|sweep| {
        sweep.obstacles().is_empty()
            || sweep.remaining.as_ref().is_some_and(Vec::is_empty)
                && sweep.complete()
                && sweep.self_test_passed()
    });
    let mut obstacles = last.map(SweepReport::obstacles).unwrap_or_default();
    obstacles.extend(indexes.iter().flat_map(IndexReport::obstacles));
    let clean = clean && indexes.iter().all(|report| report.obstacles().is_empty());
    context.output.report(&ValidateReport {
        command: "validate",
        clean,
        obstacles,
        sweeps,
        indexes,
        asked: stores.asked(),
    })?;
    Ok(if clean { Exit::Done } else { Exit::DriftFound })
}

/// Under a session: whoever can write has one.
async fn repair(args: &Validate, context: &Context, stores: &Stores) -> anyhow::Result<Exit> {
    let session = session(context, stores, None).await?;
    let converger = Converger { permit: session.permit(), ..stores.converger.clone() };
    let result = sweep(args, context, stores, &converger, &Under::of(&session)).await;
    match &result {
        // An interruption is heard between requests: nothing is in flight.
        Err(error) if error.kind() != ErrorKind::Interrupted => session.close_unclean().await?,
        _ => session.close().await?,
    }
    finish(context, stores, &result?, &[])
}

async fn sweep(
    args: &Validate,
    context: &Context,
    stores: &Stores,
    converger: &Converger,
    under: &Under,
) -> Result<Vec<SweepReport>> {
    let mut reports = Vec::new();
    for _ in 0..args.sweeps {
        let sweep = one(stores, converger, args.level.into(), args.repair);
        let report = match under.authority {
            Authority::Source => sweep.run(&context.events, &context.cancel).await?,
            Authority::Target => {
                BackSweep { sweep, session: &under.session }.run(&context.events, &context.cancel).await?
            }
        };
        converger.control.put_sweep(&report.row(names::token(), &stores.plan_hash, under.epoch)).await?;
        let clean = report.obstacles().is_empty();
        reports.push(report);
        if !clean {
            break;
        }
    }
    Ok(reports)
}

fn one<'a>(stores: &'a Stores, converger: &'a Converger, level: Level, repair: bool) -> Sweep<'a> {
    let plan = &stores.plan.plan;
    Sweep {
        converger,
        target: &plan.target,
        prefix: &plan.source.prefix,
        level,
        repair,
        allow_empty: plan.validation.allow_empty,
        patience: PATIENCE,
    }
}

impl Report for ValidateReport<'_> {
    fn human(&self, text: &mut dyn fmt::Write) -> fmt::Result {
        for sweep in self.sweeps {
            write_coverage(text, sweep)?;
            write_drift(text, &sweep.drift)?;
            for (pathname, why) in &sweep.unmapped {
                writeln!(text, "  unmapped    {pathname}: {why}")?;
            }
            if let Some(remaining) = &sweep.remaining {
                let settled = sweep.drift.len().saturating_sub(remaining.len());
                writeln!(text, "repaired   {settled} of {}", sweep.drift.len())?;
                if !remaining.is_empty() {
                    writeln!(text, "remaining")?;
                    write_drift(text, remaining)?;
                }
            }
        }
        if !self.indexes.is_empty() {
            writeln!(text, "indexes    {}", indexes_complete::in_words(self.indexes))?;
        }
        self.asked.write(text)?;
        if self.obstacles.is_empty() {
            return writeln!(text, "result     both stores are equal");
        }
        let result =
            if self.clean { "repaired; run `migrate validate` again to prove it" } else { "NOT equal" };
        writeln!(text, "result     {result}: {}", self.obstacles.join("; "))
    }
}

/// How much was compared, and whether the comparison can see.
pub(super) fn write_coverage(text: &mut dyn fmt::Write, sweep: &SweepReport) -> fmt::Result {
    let level = match sweep.level {
        Level::Inventory => "versions, revs and keys",
        Level::Content => "contents",
    };
    let seconds = sweep.ended.duration_since(sweep.began).as_secs_f64();
    writeln!(
        text,
        "compared   {level}: {} of {} blobs, {} of {} anchors, {} of {} items, in {seconds:.1} s",
        sweep.compared,
        sweep.listed,
        sweep.anchors_compared,
        sweep.anchored,
        sweep.items_compared,
        sweep.items
    )?;
    if let Some(mirror) = &sweep.mirror {
        writeln!(
            text,
            "           Blob as the mirror: {} of {} blobs, {} of {} anchors",
            mirror.compared, mirror.listed, mirror.anchors_compared, mirror.anchored
        )?;
    }
    writeln!(
        text,
        "           {} ignored, {} accepted, {} unmapped; {} items are the application's own",
        HumanCount(sweep.ignored),
        HumanCount(sweep.accepted),
        sweep.unmapped.len(),
        HumanCount(sweep.other_items)
    )?;
    writeln!(text, "self-test  {} of {} planted differences found", sweep.found, sweep.planted)
}

/// Each difference, with both versions, what differs, and what settles it.
pub(super) fn write_drift(text: &mut dyn fmt::Write, drift: &[Drift]) -> fmt::Result {
    for one in drift {
        writeln!(text, "  {:<11} {}: {}", one.kind.as_str(), one.pathname, one.detail)?;
        if let Some(key) = &one.key {
            writeln!(text, "              item    {key}")?;
        }
        if let Some(source) = &one.source {
            writeln!(text, "              source  {source}")?;
        }
        if let Some(target) = &one.target {
            writeln!(text, "              target  {target}")?;
        }
        for (command, label) in one.settle.iter().zip(["hint:", "or:"]) {
            writeln!(text, "              {label:<7} {command}")?;
        }
        for line in one.diff.iter().flat_map(|diff| diff.lines()).filter(|line| !line.starts_with("@@")) {
            writeln!(text, "              {line}")?;
        }
    }
    let mut kinds: Vec<_> = drift.iter().map(|one| one.kind).collect();
    kinds.sort_unstable();
    kinds.dedup();
    for kind in kinds {
        writeln!(text, "  to settle {kind}: {}", kind.remedy())?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_adoption_names_a_blob_and_the_version_that_it_replaces() {
        let rev = "0f343b0931126a20f133d67c2b018a3b";
        let of = |pathname: &str, rev: Option<&str>| Adoption {
            pathname: pathname.into(),
            rev: rev.map(Rev::new),
        };
        assert_eq!(Adoption::of(&format!("a@b.json@{rev}")).unwrap(), of("a@b.json", Some(rev)));
        assert_eq!(Adoption::of("a.json@none").unwrap(), of("a.json", None));
        for wrong in ["a.json", "a@b.json", "a.json@", &format!("a.json@{}", &rev[1..])] {
            let error = Adoption::of(wrong).unwrap_err();
            assert_eq!(error.subject(), Some(wrong));
        }
    }
}
