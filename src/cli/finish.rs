//! `migrate cutover --to final`: the last step, from which there is no way back.

use std::fmt;
use std::path::PathBuf;

use indicatif::{HumanBytes, HumanCount};
use serde::Serialize;

use super::context::Context;
use super::cutover::{told, write_gates};
use super::output::Report;
use super::stores::Stores;
use crate::blob::Pathname;
use crate::cutover::finish::{Archive, Deletable, Deleted, Removed, SourceCopy, archive, check_place};
use crate::cutover::{Cutover, Flip, Standing};
use crate::error::{Error, ErrorKind, Exit, Result};
use crate::hook::HookRun;
use crate::protocol::phase::Phase;

/// What the audit log says once the control table is saved; the file follows.
const SAVED: &str = "the control table is saved in";

/// What only the step to `final` takes.
#[derive(Debug, Clone, clap::Args)]
#[command(next_help_heading = "To final")]
pub(super) struct FinishFlags {
    /// Also remove `_source` from every item: nothing of this program is left in the table
    #[arg(long)]
    strip: bool,

    /// Also delete the blobs that DynamoDB holds, after a copy of the snapshot was read back. Asks for the store's name
    #[arg(long)]
    delete_source: bool,

    /// The store's name, typed out: the confirmation of --delete-source where nobody can be asked. --yes is none
    #[arg(long, value_name = "STORE", requires = "delete_source")]
    confirm: Option<String>,

    /// Where the control table is saved, and with --delete-source the snapshot [default: .migrate/archive]
    #[arg(long, value_name = "DIR")]
    archive: Option<PathBuf>,
}

impl FinishFlags {
    /// They are for the step to final alone.
    pub(super) fn check(&self, target: Option<Phase>) -> Result<()> {
        let asked = self.strip || self.delete_source || self.archive.is_some();
        if asked && target != Some(Phase::Final) {
            return Err(Error::new(ErrorKind::Usage, "cut over")
                .message("--strip, --delete-source and --archive are for the step to final: --to final"));
        }
        Ok(())
    }
}

#[derive(Debug, Serialize)]
struct FinishReport<'a> {
    command: &'static str,
    dry_run: bool,
    /// None where this is phase final already.
    standing: Option<&'a Standing>,
    #[serde(skip_serializing_if = "Option::is_none")]
    flip: Option<Flip>,
    #[serde(skip_serializing_if = "Option::is_none")]
    hook: Option<HookRun>,
    #[serde(skip_serializing_if = "Option::is_none")]
    deletable: Option<&'a Deletable>,
    #[serde(skip_serializing_if = "Option::is_none")]
    archive: Option<Archive>,
    #[serde(skip_serializing_if = "Option::is_none")]
    snapshot: Option<PathBuf>,
    #[serde(skip_serializing_if = "Option::is_none")]
    deleted: Option<Deleted>,
    #[serde(skip_serializing_if = "Option::is_none")]
    removed: Option<Removed>,
    by_hand: Vec<String>,
    #[serde(skip)]
    strips: bool,
}

pub(super) async fn run(
    dry_run: bool,
    flags: &FinishFlags,
    context: &Context,
    stores: &Stores,
    finishing: &Cutover<'_>,
) -> anyhow::Result<Exit> {
    let mode = stores.converger.control.mode().await?;
    let begun = mode.as_ref().is_some_and(|mode| mode.phase == Phase::Final);
    let standing = if begun { None } else { Some(finishing.standing(Some(Phase::Final)).await?) };
    let mut report = FinishReport {
        command: "cutover",
        dry_run,
        standing: standing.as_ref(),
        flip: None,
        hook: None,
        deletable: None,
        archive: None,
        snapshot: None,
        deleted: None,
        removed: None,
        by_hand: Vec::new(),
        strips: flags.strip,
    };
    if standing.as_ref().is_some_and(|standing| standing.closed().next().is_some()) {
        context.output.report(&report)?;
        return Ok(Exit::GateClosed);
    }
    finishing.nobody_writes().await?;
    let directory = flags.archive.clone().unwrap_or_else(|| stores.directory.join("archive"));
    let control_file = directory.join("control.jsonl.zst");
    check_place(&control_file)?;
    let copy =
        if flags.delete_source { Some(copy(dry_run, &directory, stores, finishing).await?) } else { None };
    let deletable = match &copy {
        Some((copy, _)) => Some(copy.verify(finishing, &context.cancel).await?),
        None => None,
    };
    report.deletable = deletable.as_ref();
    if dry_run {
        report.by_hand = by_hand(flags, stores);
        context.output.report(&report)?;
        let kept = deletable.as_ref().is_some_and(|deletable| deletable.kept_count > 0);
        return Ok(if kept { Exit::SomeKeysFailed } else { Exit::Done });
    }
    confirm(flags, context, stores, deletable.as_ref()).await?;
    if !begun {
        let flip = finishing.flip(Some(Phase::Final), false).await?;
        if let Some(hook) = &stores.plan.plan.hook {
            report.hook = Some(told(hook, finishing, &flip, context).await);
        }
        report.flip = Some(flip);
    }
    finishing.finishing().await?;
    warn_of_a_lesser_archive(context, stores, &control_file).await?;
    let saved = archive(finishing, &control_file, &context.cancel).await?;
    if !saved.found {
        let (file, rows, sha256) = (saved.file.display(), saved.rows, saved.sha256);
        finishing.keep_word(format!("{SAVED} {file}: {rows} rows, SHA-256 {sha256}")).await?;
    }
    report.archive = Some(saved);
    if let Some((copy, file)) = &copy {
        let deleted = copy.delete(finishing, &context.cancel).await?;
        let what = format!("{} blobs are deleted, {} stay", deleted.blobs, deleted.kept_count);
        finishing.keep_word(format!("{what}; their bytes are in {}", file.display())).await?;
        (report.deleted, report.snapshot) = (Some(deleted), Some(file.clone()));
    }
    let (anchors, rows) = finishing.drop_bytes(&context.cancel).await?;
    let stripped = if flags.strip { Some(finishing.strip(&context.cancel).await?) } else { None };
    report.removed = Some(Removed { anchors, rows, stripped });
    report.by_hand = by_hand(flags, stores);
    context.output.report(&report)?;
    let failed = report.hook.as_ref().is_some_and(|hook| !hook.ok);
    let kept = report.deleted.as_ref().is_some_and(|deleted| deleted.kept_count > 0);
    Ok(if failed || kept { Exit::SomeKeysFailed } else { Exit::Done })
}

/// An archive that is made after something was removed holds less than the one that was made before.
async fn warn_of_a_lesser_archive(context: &Context, stores: &Stores, file: &std::path::Path) -> Result<()> {
    if file.exists() {
        return Ok(());
    }
    let log = stores.converger.control.audit().await?;
    if let Some(before) =
        log.iter().filter_map(|line| line.note.as_ref()).find(|note| note.starts_with(SAVED))
    {
        context.output.warning(format_args!("{before}; what was removed since is not in {}", file.display()));
    }
    Ok(())
}

/// The copy of the snapshot that allows blobs to be deleted, and its file. Blob must have been found to hold nothing else
/// not long ago.
async fn copy(
    dry_run: bool,
    directory: &std::path::Path,
    stores: &Stores,
    finishing: &Cutover<'_>,
) -> Result<(SourceCopy, PathBuf)> {
    let refused = |kind, message: String| Error::new(kind, "delete the blobs").message(message);
    let Some(snapshot) = stores.snapshot() else {
        return Err(refused(
            ErrorKind::Usage,
            "there is no snapshot, and the blobs would be nowhere else".to_owned(),
        )
        .hint("run `migrate export` first: it holds what Blob holds now"));
    };
    let Some(manifest) = stores.manifest().await? else {
        return Err(refused(ErrorKind::Usage, "the export is not finished".to_owned())
            .hint("run `migrate export` again: it resumes where it was stopped"));
    };
    if let Some(mode) = stores.converger.control.mode().await? {
        let gate = finishing.drift_free(&mode).await?;
        if !gate.open {
            return Err(refused(ErrorKind::GateClosed, format!("drift-free is closed: {}", gate.summary)).hint(
                "blobs are deleted right after a clean `migrate validate`: it can't be run in phase final any more. What \
                 is left of them is deleted by hand",
            ));
        }
    }
    if dry_run {
        return Ok((SourceCopy::original(snapshot)?, snapshot.path().to_owned()));
    }
    crate::folder::make(directory).map_err(|error| {
        let failed = refused(ErrorKind::Usage, format!("{} can't be made", directory.display()));
        crate::folder::failed(failed, directory, error)
    })?;
    // Named after what is in it: a later export has a file of its own, and never takes the place of this one.
    let digest = manifest.digest.to_string();
    let name = format!("{}-{}.snapshot", stores.plan.plan.source.store, digest.get(..12).unwrap_or(&digest));
    let file = directory.join(name);
    Ok((SourceCopy::make(snapshot, &file)?, file))
}

/// Asks whoever is there. To delete blobs, the store's name has to be typed.
async fn confirm(
    flags: &FinishFlags,
    context: &Context,
    stores: &Stores,
    deletable: Option<&Deletable>,
) -> Result<()> {
    let Some(deletable) = deletable else {
        let sure = "There is no way back from final. Save the control table, drop the retained bytes?";
        return super::cutover::confirm(context, sure).await;
    };
    let store = &stores.plan.plan.source.store;
    let question = format!(
        "There is no way back. To delete {} blobs ({}) for good, type the name of their store:",
        HumanCount(deletable.blobs),
        HumanBytes(deletable.bytes)
    );
    let typed = match &flags.confirm {
        Some(typed) => Some(typed.clone()),
        None => context.output.ask_for(&question).await,
    };
    if typed.as_ref() == Some(store) {
        return Ok(());
    }
    let refused = "not confirmed; nothing was deleted, and the phase is what it was";
    Err(Error::new(ErrorKind::Usage, "cut over").message(refused).hint(format!(
        "to delete blobs the name of their store is typed out, `{store}`, or given by --confirm"
    )))
}

/// What this program leaves for people to remove.
fn by_hand(flags: &FinishFlags, stores: &Stores) -> Vec<String> {
    let table = &stores.plan.plan.target.table;
    let mut lines = vec![
        "the gateways, their certificates, and VERCEL_BLOB_API_URL in the application".to_owned(),
        format!("the control table, {table}-migration, once its deletion protection is off"),
    ];
    if !flags.strip {
        lines.push("`_source` in the items: the same command with --strip".to_owned());
    }
    if flags.delete_source {
        lines.push("in Blob: what no entity of the plan maps, and what is named above as kept".to_owned());
    } else {
        lines.push("the blobs: the same command with --delete-source, or the store itself".to_owned());
    }
    lines.push(format!(
        "{}: snapshot, archive and lock files, once nobody will ask for them",
        stores.directory.display()
    ));
    lines
}

fn write_kept(text: &mut dyn fmt::Write, kept: &[(Pathname, &str)], count: u64) -> fmt::Result {
    for (pathname, why) in kept {
        writeln!(text, "  kept     {pathname}: {why}")?;
    }
    match count.saturating_sub(kept.len() as u64) {
        0 => Ok(()),
        more => writeln!(text, "  kept     {} more", HumanCount(more)),
    }
}

impl Report for FinishReport<'_> {
    fn human(&self, text: &mut dyn fmt::Write) -> fmt::Result {
        if let Some(standing) = self.standing {
            writeln!(text, "step       cutover → final")?;
            write_gates(text, &standing.gates)?;
            for session in &standing.open_sessions {
                writeln!(text, "running    {} ({}): to be stopped first", session.name, session.kind)?;
            }
            let closed = standing.closed().count();
            if closed > 0 {
                let all = standing.gates.len();
                return writeln!(
                    text,
                    "result     refused: {closed} of {all} gates closed; nothing was changed"
                );
            }
        }
        if self.dry_run {
            if self.standing.is_some() {
                writeln!(text, "would      commit phase final: no way back, and no gateway serves any more")?;
            }
            writeln!(text, "would      save the control table, read it back, and drop the retained bytes")?;
            if self.strips {
                writeln!(text, "would      remove `_source` from every item")?;
            }
        }
        if let Some(deletable) = self.deletable {
            let (count, bytes) = (HumanCount(deletable.blobs), HumanBytes(deletable.bytes));
            let verb = if self.dry_run { "would      delete" } else { "deletable " };
            writeln!(text, "{verb} {count} blobs, {bytes}: in the snapshot, read back, and in DynamoDB")?;
            if self.deleted.is_none() {
                write_kept(text, &deletable.kept, deletable.kept_count)?;
            }
        }
        if let Some(flip) = &self.flip {
            writeln!(text, "stepped    to final, epoch {}: nothing is mirrored any more", flip.epoch)?;
        }
        if let Some(hook) = &self.hook {
            writeln!(text, "{:<10} {hook}", if hook.ok { "told" } else { "FAILED" })?;
        }
        if let Some(Archive { file, rows, sha256, found }) = &self.archive {
            let how = if *found { "was there already, and is whole" } else { "written and read back" };
            writeln!(text, "archive    {}: {} rows, {how}", file.display(), HumanCount(*rows))?;
            writeln!(text, "           SHA-256 of its lines {sha256}")?;
        }
        if let Some(deleted) = &self.deleted {
            writeln!(text, "deleted    {} blobs", HumanCount(deleted.blobs))?;
            write_kept(text, &deleted.kept, deleted.kept_count)?;
        }
        if let Some(file) = &self.snapshot {
            writeln!(text, "           their bytes are in {}", file.display())?;
        }
        if let Some(Removed { anchors, rows, stripped }) = self.removed {
            let (anchors, rows) = (HumanCount(anchors), HumanCount(rows));
            writeln!(text, "dropped    the retained bytes of {anchors} blobs, {rows} rows")?;
            if let Some(stripped) = stripped {
                writeln!(text, "stripped   {} items", HumanCount(stripped))?;
            }
        }
        for line in &self.by_hand {
            writeln!(text, "by hand    {line}")?;
        }
        Ok(())
    }
}
