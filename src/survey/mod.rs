//! A look at a store that has no plan yet: what its names and bodies have in common, as a plan to begin with.
//!
//! [`Survey`] lists the store once ([`names`] sorts the pathnames into families), reads a few bodies of each
//! family ([`shape`] says what they hold), and [`proposal`] writes it down. It guesses, and says where: a
//! proposal is for people to correct, and `migrate check` is what proves it. Neither values nor, where
//! names are keys, names of a body are part of it.

pub mod names;
pub mod proposal;
pub mod shape;

use std::sync::Arc;

use serde::Serialize;
use tokio_util::sync::CancellationToken;

use self::names::{Asset, Family, Names};
use self::shape::Shape;
use crate::blob::spool::unwritten;
use crate::blob::{BlobStore, ListRequest};
use crate::blob::{Fetched, Fetcher};
use crate::error::{Error, ErrorKind, Result};
use crate::event::{Event, Events, Task};
use crate::plan::SourcePlan;

const OPERATION: &str = "survey the store";
/// The longest body that is read, in bytes.
const BODY_BYTES_MAX: u64 = 1024 * 1024;
/// How many bodies are read of all families together.
const BODIES_MAX: usize = 400;

/// A store, and how to look at it.
pub struct Survey {
    /// What reads bodies.
    pub fetcher: Fetcher,
    /// What the plan is to say of the store.
    pub source: SourcePlan,
    /// Hears of the progress.
    pub events: Events,
}

/// What was found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Findings {
    /// All blobs.
    pub listed: u64,
    /// How many pages the listing had.
    pub pages: u64,
    /// The families of records.
    pub families: Vec<Found>,
    /// What is no record.
    pub assets: Vec<Asset>,
}

/// A family, and what its bodies hold.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Found {
    /// The names.
    #[serde(flatten)]
    pub family: Family,
    /// The bodies.
    pub shape: Shape,
}

impl Findings {
    /// How many bodies are to be read, and their length.
    #[must_use]
    pub fn sample(&self) -> (u64, u64) {
        let samples = self.families.iter().flat_map(|found| &found.family.samples);
        samples.fold((0, 0), |(bodies, bytes), blob| (bodies + 1, bytes + blob.size))
    }
}

impl Survey {
    /// Lists the store, once.
    ///
    /// # Errors
    /// `Interrupted`; what the store reports.
    pub async fn list(&self, cancel: &CancellationToken) -> Result<Findings> {
        let store: &Arc<dyn BlobStore> = &self.fetcher.source;
        self.events.report(Event::Started { task: Task::List, total: None });
        let mut names = Names::default();
        let (mut listed, mut pages) = (0, 0);
        let mut request = ListRequest { prefix: self.source.prefix.clone(), ..ListRequest::default() };
        loop {
            let page = cancel.run_until_cancelled(store.list(&request)).await.unwrap_or_else(interrupted)?;
            pages += 1;
            listed += page.blobs.len() as u64;
            for blob in &page.blobs {
                names.add(blob);
            }
            self.events.report(Event::Advanced { task: Task::List, by: page.blobs.len() as u64 });
            match page.cursor {
                Some(cursor) => request.cursor = Some(cursor),
                None => break,
            }
        }
        self.events.report(Event::Finished { task: Task::List });
        let (mut families, assets) = names.finish();
        for family in &mut families {
            family.samples.retain(|blob| blob.size <= BODY_BYTES_MAX);
        }
        // Fewer of each, where there are very many families.
        let each = (BODIES_MAX / families.len().max(1)).max(1);
        let families = families.into_iter().map(|mut family| {
            family.samples.truncate(each);
            Found { family, shape: Shape::default() }
        });
        Ok(Findings { listed, pages, families: families.collect(), assets })
    }

    /// Reads the sample, and says what it holds.
    ///
    /// # Errors
    /// As [`Survey::list`].
    pub async fn look(&self, findings: &mut Findings, cancel: &CancellationToken) -> Result<()> {
        let total = Some(findings.sample().0);
        self.events.report(Event::Started { task: Task::Fetch, total });
        for found in &mut findings.families {
            for blob in &found.family.samples {
                let fetch = self.fetcher.fetch(&blob.pathname, &blob.etag, blob.size);
                match cancel.run_until_cancelled(fetch).await.unwrap_or_else(interrupted) {
                    Ok(Fetched::Body { body, .. }) => found.shape.see(&body.bytes().map_err(unwritten)?),
                    // What changes or goes meanwhile is one body less to look at.
                    Ok(Fetched::Changed(_) | Fetched::Gone) => {}
                    Err(error) if error.kind().is_of_one_key() => {
                        self.events.report(Event::Warning(format!("not looked at: {error}")));
                    }
                    Err(error) => return Err(error),
                }
                self.events.report(Event::Advanced { task: Task::Fetch, by: 1 });
            }
        }
        self.events.report(Event::Finished { task: Task::Fetch });
        Ok(())
    }
}

fn interrupted<T>() -> Result<T> {
    Err(Error::new(ErrorKind::Interrupted, OPERATION)
        .message("interrupted")
        .hint("nothing was written; run the same command again"))
}
