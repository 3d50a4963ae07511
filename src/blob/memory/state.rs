//! What the store holds, and its operations; each runs to its end under the store's lock.

use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use bytes::Bytes;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::disk::Disk;
use super::{MemoryConfig, multipart};
use crate::blob::location::{canonical_url, download_url};
use crate::blob::store::{Deadline, PutOptions};
use crate::blob::types::{ETag, Head, ListedBlob, Pathname};
use crate::blob::{media, rules, suffix, wire};
use crate::error::{Error, ErrorKind, Result};

/// What is known of a stored blob besides its bytes; also the first line of its file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Meta {
    pub(super) etag: ETag,
    pub(super) uploaded_at: Timestamp,
    pub(super) content_type: String,
    pub(super) cache_control: String,
}

/// A stored blob.
#[derive(Debug, Clone)]
pub(super) struct Stored {
    pub(super) meta: Meta,
    pub(super) body: Bytes,
}

/// All that the store holds.
#[derive(Debug)]
pub(super) struct State {
    pub(super) config: MemoryConfig,
    pub(super) blobs: BTreeMap<Pathname, Stored>,
    pub(super) uploads: HashMap<String, multipart::Upload>,
    pub(super) disk: Option<Disk>,
}

impl State {
    pub(super) fn listed(&self, pathname: &Pathname, stored: &Stored) -> ListedBlob {
        let url = canonical_url(&self.config.store_id, self.config.access, pathname);
        ListedBlob {
            pathname: pathname.clone(),
            size: stored.body.len() as u64,
            uploaded_at: stored.meta.uploaded_at,
            etag: stored.meta.etag.clone(),
            download_url: download_url(&url),
            url,
        }
    }

    pub(super) fn head(&self, pathname: &Pathname, stored: &Stored) -> Head {
        Head {
            blob: self.listed(pathname, stored),
            content_type: stored.meta.content_type.clone(),
            content_disposition: media::content_disposition(pathname, &stored.meta.content_type),
            cache_control: stored.meta.cache_control.clone(),
        }
    }

    /// Stores a blob under its final name, if the options allow it.
    pub(super) fn put(
        &mut self,
        operation: &'static str,
        pathname: &Pathname,
        body: Bytes,
        etag: ETag,
        options: &PutOptions,
        at: Timestamp,
    ) -> Result<Head> {
        rules::check_folder(operation, pathname, body.len() as u64)?;
        check_deadline(operation, pathname, options.deadline, at)?;
        if self.blobs.contains_key(pathname) && !options.allow_overwrite {
            return Err(Error::new(ErrorKind::AlreadyExists, operation)
                .key(pathname)
                .message(wire::EXISTS_MESSAGE));
        }
        self.check_match(operation, pathname, options.if_match.as_ref())?;
        let content_type = options.content_type.clone().unwrap_or_else(|| media::content_type_of(pathname));
        let cache_control = media::cache_control(options.cache_control_max_age);
        let meta = Meta { etag, uploaded_at: to_milliseconds(at), content_type, cache_control };
        let stored = Stored { meta, body };
        // On disk first: what a reply promises must be there after a kill.
        if let Some(disk) = &self.disk {
            disk.write(pathname, &stored)?;
        }
        let head = self.head(pathname, &stored);
        self.blobs.insert(pathname.clone(), stored);
        Ok(head)
    }

    /// Copies a blob; `if_match` speaks of the source.
    pub(super) fn copy(
        &mut self,
        operation: &'static str,
        from: &Pathname,
        to: &Pathname,
        options: &PutOptions,
        at: Timestamp,
    ) -> Result<Head> {
        rules::check_write(operation, to, options, self.config.access)?;
        let Some(source) = self.blobs.get(from) else {
            return Err(Error::new(ErrorKind::NotFound, operation).key(from).message("no such blob"));
        };
        let (body, etag) = (source.body.clone(), ETag::of(&source.body));
        self.check_match(operation, from, options.if_match.as_ref())?;
        let to = suffix::named(to, options.add_random_suffix);
        let options = PutOptions { if_match: None, ..options.clone() };
        self.put(operation, &to, body, etag, &options, at)
    }

    /// Deletes one blob, if it is there.
    pub(super) fn delete(&mut self, pathname: &Pathname) -> Result<()> {
        if self.blobs.contains_key(pathname) {
            if let Some(disk) = &self.disk {
                disk.remove(pathname)?;
            }
            self.blobs.remove(pathname);
        }
        Ok(())
    }

    /// Refuses unless `if_match` is what is stored now.
    pub(super) fn check_match(
        &self,
        operation: &'static str,
        pathname: &Pathname,
        if_match: Option<&ETag>,
    ) -> Result<()> {
        let Some(expected) = if_match else { return Ok(()) };
        let stored = self.blobs.get(pathname).map(|stored| &stored.meta.etag);
        if stored == Some(expected) {
            return Ok(());
        }
        let found = stored.map_or_else(|| "no blob".to_owned(), ToString::to_string);
        Err(Error::new(ErrorKind::LostRace, operation)
            .key(pathname)
            .message(format!("the store holds {found}, not {expected}")))
    }
}

/// The moment `within` from now.
pub(super) fn deadline(now: Timestamp, within: Duration) -> Deadline {
    let now = u64::try_from(now.as_millisecond()).unwrap_or_default();
    Deadline(now + u64::try_from(within.as_millis()).unwrap_or(u64::MAX / 2))
}

/// Refuses what comes after its deadline.
pub(super) fn check_deadline(
    operation: &'static str,
    pathname: &Pathname,
    until: Option<Deadline>,
    now: Timestamp,
) -> Result<()> {
    if until.is_none_or(|until| deadline(now, Duration::ZERO) <= until) {
        return Ok(());
    }
    Err(Error::new(ErrorKind::LostRace, operation).key(pathname).message("it came after its deadline"))
}

fn to_milliseconds(at: Timestamp) -> Timestamp {
    Timestamp::from_millisecond(at.as_millisecond()).expect("invariant: fewer digits of a valid time")
}
