//! `export-complete`: every listed blob that a rule maps is in a snapshot, its body verified.

use super::Gate;
use crate::error::Result;
use crate::mapping::{Mapper, Rule};
use crate::protocol::phase::Epoch;
use crate::snapshot::{Manifest, Snapshot};
use crate::target::control::{Control, Evidence};

/// How many blobs are read from the snapshot at a time.
const PAGE: u32 = 1_000;
/// How many obstacles are kept.
const NAMED: usize = 20;

/// Judges a snapshot by the present rules, which may map more than those of its export did, and keeps
/// what it finds as evidence. Nothing where no export was finished.
///
/// The evidence is as old as the export. The snapshot is a cache of bodies: this gate says that reading
/// the store out worked, not what the store holds now.
///
/// # Errors
/// `Corrupt` for a damaged snapshot; what the store reports.
pub async fn check(
    control: &Control,
    snapshot: &Snapshot,
    mapper: &Mapper,
    plan_hash: &str,
    epoch: Epoch,
) -> Result<Option<Evidence>> {
    let Some(manifest) = snapshot.manifest().await? else { return Ok(None) };
    let (mapped, missing) = missing(snapshot, mapper).await?;
    let Manifest { listed, finished, digest, .. } = manifest;
    let digest = digest.to_string();
    let summary = format!(
        "{} of {mapped} mapped blobs are in the snapshot, {listed} were listed, digest {}",
        mapped - missing.len() as u64,
        digest.get(..12).unwrap_or_default()
    );
    let obstacles = missing.into_iter().take(NAMED).collect();
    let evidence = Gate::ExportComplete.evidence((plan_hash, epoch, finished), summary, obstacles);
    control.put_evidence(&evidence).await?;
    Ok(Some(evidence))
}

/// How many blobs the rules map, and those of them whose body is not there.
async fn missing(snapshot: &Snapshot, mapper: &Mapper) -> Result<(u64, Vec<String>)> {
    let (mut mapped, mut missing) = (0, Vec::new());
    let mut after = None;
    loop {
        let page = snapshot.blobs(after.as_ref(), PAGE).await?;
        let Some(last) = page.last() else { return Ok((mapped, missing)) };
        after = Some(last.pathname.clone());
        for blob in page.iter().filter(|blob| matches!(mapper.rule(&blob.pathname), Rule::Entity(_))) {
            mapped += 1;
            if !blob.is_complete() {
                missing.push(format!("{}: its body is not in the snapshot", blob.pathname));
            }
        }
    }
}
