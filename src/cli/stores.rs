//! Both stores, opened together: what dual-write, validate, cutover and status work with.

use std::collections::BTreeMap;
use std::fmt;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use indicatif::HumanCount;
use serde::Serialize;

use super::context::Context;
use super::flags::BudgetFlags;
use crate::blob::client::{Limit, Meter, Operations};
use crate::blob::{BlobStore, Fetcher};
use crate::converge::LateWrites;
use crate::converge::{Bodies, Converger, LONG_BODY_BYTES_MAX, NoBodies, Permit};
use crate::error::{Error, ErrorKind, Result};
use crate::folder;
use crate::gate::export_complete;
use crate::plan::{LoadedPlan, TargetPlan, VercelPlan};
use crate::protocol::phase::Epoch;
use crate::snapshot::{Manifest, Snapshot, budget};
use crate::sweep::Level;
use crate::target::control::{Control, Header, names};
use crate::target::{Table, TargetStore};

/// Both stores, the plan, and the snapshot if there is one.
pub(crate) struct Stores {
    /// The plan, its hash, its document.
    pub(crate) plan: LoadedPlan,
    /// The plan's hash, as evidence bears it.
    pub(crate) plan_hash: String,
    /// Both stores, without the right to write: a session gives that.
    pub(crate) converger: Converger,
    /// Which stores they are.
    pub(crate) header: Header,
    /// Where the snapshot and the lock files lie.
    pub(crate) directory: PathBuf,
    /// Counts what is asked of the source.
    pub(crate) meter: Meter,
    snapshot: Option<Arc<Snapshot>>,
}

/// What a command cost at both stores.
#[derive(Debug, Clone, Copy, Serialize)]
pub(crate) struct Asked {
    /// Of the source, by class.
    operations: Operations,
    /// Sent to DynamoDB, repetitions included.
    requests: u64,
}

impl Asked {
    /// One line for people.
    pub(crate) fn write(self, text: &mut dyn fmt::Write) -> fmt::Result {
        let Operations { simple, advanced } = self.operations;
        let [simple, advanced, requests] = [simple, advanced, self.requests].map(HumanCount);
        writeln!(
            text,
            "asked      of Blob: {simple} simple and {advanced} advanced operations; of DynamoDB: {requests} requests"
        )
    }
}

/// No right to write.
struct ReadOnly;

impl Permit for ReadOnly {
    fn check(&self) -> Result<()> {
        Err(Error::new(ErrorKind::Internal, "write").message("this command has no session"))
    }
}

impl Stores {
    /// Opens what the flags, the environment and the plan name.
    ///
    /// # Errors
    /// `Usage` for the plan or the environment, where the data table has other keys, and where the control
    /// table belongs to other stores;
    /// `NotFound` before `migrate provision`; `Corrupt` for a
    /// damaged snapshot; what the stores report.
    pub(crate) async fn open(context: &Context) -> Result<Self> {
        let settings = context.settings()?;
        let mapper = context.mapper()?;
        let source = context.source()?;
        let meter = source.meter();
        let store = source.store_id().unwrap_or(&settings.plan.source.store).to_owned();
        let target = context.target().await?;
        let header = header(target.as_ref(), &settings.plan.target, store).await?;
        let control = Control::new(target);
        control.check_header(&header).await?;
        let snapshot = if settings.snapshot.exists() { Some(Arc::new(context.snapshot()?)) } else { None };
        let bodies: Arc<dyn Bodies> = match &snapshot {
            Some(snapshot) => Arc::clone(snapshot) as _,
            None => Arc::new(NoBodies),
        };
        let parent = settings.snapshot.parent().filter(|parent| !parent.as_os_str().is_empty());
        Ok(Self {
            plan: settings.loaded.clone(),
            plan_hash: settings.loaded.hash.to_string(),
            converger: Converger {
                late: LateWrites::of(&settings.plan.timing),
                fetcher: Fetcher {
                    source: context.within(source as Arc<dyn BlobStore>),
                    clock: Arc::clone(&context.clock),
                    access: settings.plan.source.access,
                    cdn_stale: settings.plan.timing.cdn_stale.0,
                    etags: settings.plan.source.etags,
                    body_bytes_max: LONG_BODY_BYTES_MAX,
                },
                control,
                mapper,
                bodies,
                permit: Arc::new(ReadOnly),
                authority: crate::protocol::phase::Authority::Source,
            },
            header,
            meter,
            directory: parent.unwrap_or(Path::new(".")).to_owned(),
            snapshot,
        })
    }

    /// Refuses to ask more of the source than this.
    pub(crate) fn bound(&self, budget: BudgetFlags) {
        let classes = allowance_of(self.plan.plan.source.plan);
        self.meter.set_limit(Limit { classes, total: budget.max_operations.unwrap_or(u64::MAX) });
    }

    /// What was asked of both stores so far.
    pub(crate) fn asked(&self) -> Asked {
        let requests = self.converger.control.store().requests();
        Asked { operations: self.meter.operations(), requests }
    }

    /// The present epoch; none before the first command that writes.
    ///
    /// # Errors
    /// What the store reports.
    pub(crate) async fn epoch(&self) -> Result<Option<Epoch>> {
        Ok(self.converger.control.mode().await?.map(|mode| mode.epoch))
    }

    /// What the finished export says of itself, if there is one.
    ///
    /// # Errors
    /// `Corrupt` for a damaged snapshot.
    pub(crate) async fn manifest(&self) -> Result<Option<Manifest>> {
        match &self.snapshot {
            Some(snapshot) => snapshot.manifest().await,
            None => Ok(None),
        }
    }

    /// Judges the snapshot by the present plan and keeps that as evidence: the export itself opens only
    /// the source.
    ///
    /// # Errors
    /// `Corrupt` for a damaged snapshot; what the store reports.
    pub(crate) async fn keep_export_evidence(&self) -> Result<()> {
        let Some(snapshot) = &self.snapshot else { return Ok(()) };
        let epoch = self.epoch().await?.unwrap_or(Epoch(1));
        let Converger { control, mapper, .. } = &self.converger;
        export_complete::check(control, snapshot, mapper, &self.plan_hash, epoch).await.map(drop)
    }

    /// The snapshot, if there is one.
    pub(crate) fn snapshot(&self) -> Option<&Snapshot> {
        self.snapshot.as_deref()
    }

    /// How deep sweeps look that run again and again: contents only where the bodies are at hand, since
    /// each read of the source costs an operation.
    pub(crate) fn affordable_level(&self) -> Level {
        if self.snapshot.is_some() { Level::Content } else { Level::Inventory }
    }

    /// A name for a session that only this folder on this machine has: whoever holds its lock knows that
    /// earlier sessions of this name are dead.
    ///
    /// # Errors
    /// `Usage` where the folder can't be written.
    pub(crate) fn session_name(&self, kind: &str) -> Result<String> {
        let path = self.directory.join("instance");
        let failed = |error: std::io::Error| {
            folder::failed(
                Error::new(ErrorKind::Usage, "name this instance").key(path.display()),
                &path,
                error,
            )
        };
        folder::make(&self.directory).map_err(failed)?;
        match folder::create_new(&path) {
            Ok(mut file) => file.write_all(&names::token().as_bytes()[..8]).map_err(failed)?,
            Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => {}
            Err(error) => return Err(failed(error)),
        }
        let instance = folder::read_to_string(&path).map_err(failed)?;
        Ok(format!("{kind}-{}", instance.trim()))
    }

    /// Ticks the plan's check boxes; says how many changed. The file is replaced as a whole.
    ///
    /// # Errors
    /// `Usage` where it can't be written.
    pub(crate) fn write_ticks(&self, ticks: &BTreeMap<String, bool>) -> Result<usize> {
        let path = &self.plan.path;
        let failed = |error: std::io::Error| {
            folder::failed(Error::new(ErrorKind::Usage, "write the plan").key(path.display()), path, error)
        };
        let before = std::fs::read_to_string(path).map_err(failed)?;
        let after = self.plan.document.with_ticks(ticks);
        let changed = before.lines().zip(after.lines()).filter(|(before, after)| before != after).count();
        if changed > 0 {
            let directory = path.parent().filter(|parent| !parent.as_os_str().is_empty());
            let mut file =
                tempfile::NamedTempFile::new_in(directory.unwrap_or(Path::new("."))).map_err(failed)?;
            file.write_all(after.as_bytes()).map_err(failed)?;
            file.as_file().sync_all().map_err(failed)?;
            file.persist(path).map_err(|error| failed(error.error))?;
        }
        Ok(changed)
    }
}

fn allowance_of(plan: VercelPlan) -> Operations {
    budget::allowance(plan).unwrap_or(Operations { simple: u64::MAX, advanced: u64::MAX })
}

/// Which stores these are: the token names the one, the data table's ARN the other.
async fn header(target: &dyn TargetStore, plan: &TargetPlan, store: String) -> Result<Header> {
    let facts = target.describe(Table::Data).await?.ok_or_else(|| {
        Error::new(ErrorKind::NotFound, "open the data table")
            .key(&plan.table)
            .message("it does not exist")
            .hint("run `migrate provision` first")
    })?;
    facts.check_keys("open the data table", (&plan.partition_key, &plan.sort_key))?;
    // arn:aws:dynamodb:eu-west-2:123456789012:table/fuse-main
    let arn: Vec<&str> = facts.arn.as_deref().unwrap_or_default().split(':').collect();
    let part = |at: usize| arn.get(at).filter(|part| !part.is_empty()).map(|part| (*part).to_owned());
    Ok(Header { table: facts.name, account: part(4), region: part(3), store, shards: names::SHARDS })
}
