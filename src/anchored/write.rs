//! Writes of blobs that DynamoDB holds.

use std::time::Duration;

use super::Anchored;
use crate::blob::store::PutOptions;
use crate::blob::{BlobStore as _, Body, ETag, Fetched, Head, Pathname, Spooled, media, rules, suffix};
use crate::converge::LONG_BODY_BYTES_MAX;
use crate::converge::author::{Beside, Demand, NewVersion, Over, Try};
use crate::digest::Digest;
use crate::error::{Error, ErrorKind, Result};
use crate::target::control::Anchor;

/// How many blobs of one delete are removed at a time.
pub(super) const CONCURRENCY: usize = 8;
/// How often a copy begins anew whose source changes.
const ATTEMPTS: u32 = 8;

impl Anchored {
    pub(super) async fn store(&self, pathname: &Pathname, body: Body, options: &PutOptions) -> Result<Head> {
        let asked = pathname;
        let pathname = suffix::named(asked, options.add_random_suffix);
        if !self.maps(&pathname) {
            let options = PutOptions { add_random_suffix: false, ..options.clone() };
            return self.blob().put(&pathname, body, &options).await;
        }
        // What Blob would refuse later, or is known to.
        self.check("put a blob", asked, options)?;
        let body = body.spool(LONG_BODY_BYTES_MAX).await?;
        rules::check_folder("put a blob", &pathname, body.length())?;
        let request = repetition(options, "put", &body.sha256());
        let demand = Demand { request: request.as_deref(), ..demand(options) };
        let new = version(&pathname, body, options);
        self.stored(&self.converger.author(&pathname, Some(&new), demand).await?)
    }

    pub(super) fn check(
        &self,
        operation: &'static str,
        pathname: &Pathname,
        options: &PutOptions,
    ) -> Result<()> {
        rules::check_write(operation, pathname, options, self.converger.fetcher.access)
    }

    pub(super) async fn remove(&self, pathname: &Pathname, if_match: Option<&ETag>) -> Result<()> {
        let demand = Demand { overwrite: true, if_match, ..Demand::default() };
        self.converger.author(pathname, None, demand).await.map(drop)
    }

    /// Copies; with `rename`, the source goes: in the same transaction where both are DynamoDB's.
    pub(super) async fn copied(
        &self,
        from: &Pathname,
        to: &Pathname,
        options: &PutOptions,
        rename: bool,
    ) -> Result<Head> {
        let operation = if rename { "rename a blob" } else { "copy a blob" };
        if rename && from == to {
            return Err(Error::new(ErrorKind::Usage, operation)
                .key(from)
                .message("the new pathname is the old one"));
        }
        if self.maps(to) {
            self.check(operation, to, options)?;
        }
        let to = suffix::named(to, options.add_random_suffix);
        let options = PutOptions { add_random_suffix: false, ..options.clone() };
        match (self.maps(from), self.maps(&to)) {
            (false, false) if rename => self.blob().rename(from, &to, &options).await,
            (false, false) => self.blob().copy(from, &to, &options).await,
            (true, true) => self.copied_within(operation, from, &to, &options, rename).await,
            (_, within) => {
                let (body, etag) = self.source(operation, from, options.if_match.as_ref()).await?;
                let unconditional = PutOptions { if_match: None, ..options.clone() };
                let head = if within {
                    let new = version(&to, body, &unconditional);
                    let request = repetition(&options, operation, from);
                    let demand = Demand { request: request.as_deref(), ..demand(&unconditional) };
                    self.stored(&self.converger.author(&to, Some(&new), demand).await?)?
                } else {
                    self.blob().put(&to, body.body(), &unconditional).await?
                };
                if rename {
                    self.delete(std::slice::from_ref(from), Some(&etag)).await?;
                }
                Ok(head)
            }
        }
    }

    async fn copied_within(
        &self,
        operation: &'static str,
        from: &Pathname,
        to: &Pathname,
        options: &PutOptions,
        rename: bool,
    ) -> Result<Head> {
        let request = repetition(options, operation, from);
        let request = request.as_deref();
        let demand = Demand { if_match: None, request, ..demand(options) };
        for _ in 0..ATTEMPTS {
            // A repeated rename finds its source gone, and its own write.
            if let Some(own) = self.own(to, request).await? {
                return self.stored(&own);
            }
            let (anchor, body) = self.content(from).await?.ok_or_else(|| absent(operation, from))?;
            if let Some(expected) = &options.if_match
                && !anchor.is_named(expected)
            {
                return Err(Error::new(ErrorKind::LostRace, operation)
                    .key(from)
                    .message(format!("the store does not hold {expected}")));
            }
            let Some(anchor) = self.control().with_keys(anchor).await? else { continue };
            let new = version(to, body, options);
            let beside = Beside { anchor: &anchor, remove: rename };
            if let Try::Stored(anchor) =
                self.converger.author_once(to, Some(&new), demand, Some(beside)).await?
            {
                return self.stored(&anchor);
            }
        }
        Err(Error::new(ErrorKind::Busy, operation).key(from).message("it keeps changing; try again"))
    }

    /// What an earlier attempt of the same request stored.
    pub(super) async fn own(&self, pathname: &Pathname, request: Option<&str>) -> Result<Option<Anchor>> {
        let Some(request) = request else { return Ok(None) };
        Ok(self.held(pathname).await?.filter(|anchor| anchor.request.as_deref() == Some(request)))
    }

    /// The bytes to copy, and the ETag of what has them.
    async fn source(
        &self,
        operation: &'static str,
        from: &Pathname,
        if_match: Option<&ETag>,
    ) -> Result<(Spooled, ETag)> {
        let (body, etag) = if self.maps(from) {
            let (anchor, body) = self.content(from).await?.ok_or_else(|| absent(operation, from))?;
            let etag = anchor.etag().ok_or_else(|| absent(operation, from))?;
            (body, if_match.filter(|expected| anchor.is_named(expected)).cloned().unwrap_or(etag))
        } else {
            let head = self.blob().head(from).await?.ok_or_else(|| absent(operation, from))?;
            let fetched = self.converger.fetcher.fetch(from, &head.blob.etag, head.blob.size).await?;
            let Fetched::Body { body, .. } = fetched else {
                return Err(Error::new(ErrorKind::LostRace, operation).key(from).message("it changed"));
            };
            (body, head.blob.etag)
        };
        match if_match {
            Some(expected) if *expected != etag => Err(Error::new(ErrorKind::LostRace, operation)
                .key(from)
                .message(format!("the store holds {etag}, not {expected}"))),
            _ => Ok((body, etag)),
        }
    }

    pub(super) fn stored(&self, anchor: &Anchor) -> Result<Head> {
        self.head_of(anchor).ok_or_else(|| {
            Error::new(ErrorKind::Internal, "write to DynamoDB")
                .key(&anchor.pathname)
                .message("nothing was stored")
        })
    }
}

/// What a write asks for, but that it may be a repetition.
pub(super) fn demand(options: &PutOptions) -> Demand<'_> {
    Demand {
        overwrite: options.allow_overwrite,
        if_match: options.if_match.as_ref(),
        request: None,
        over: Over::Any,
    }
}

/// What tells a write from every other but its own repetitions: the id that its client gave it is the client's choice, so
/// operation, content and options belong to it.
pub(super) fn repetition(options: &PutOptions, operation: &str, content: &impl ToString) -> Option<String> {
    let id = options.request.as_ref()?;
    let PutOptions {
        add_random_suffix, allow_overwrite, content_type, cache_control_max_age, if_match, ..
    } = options;
    let conditions = (add_random_suffix, allow_overwrite, if_match);
    let kept = (content_type, cache_control_max_age);
    let said = serde_json::json!([id, operation, content.to_string(), conditions, kept]);
    Some(Digest::of(said.to_string()).to_string())
}

fn version(pathname: &Pathname, body: Spooled, options: &PutOptions) -> NewVersion {
    NewVersion {
        body,
        content_type: options.content_type.clone().unwrap_or_else(|| media::content_type_of(pathname)),
        cache_control: media::cache_control(options.cache_control_max_age),
        imported: None,
    }
}

/// How long caches may keep a blob, from the form in which `head` tells it.
pub(super) fn max_age(cache_control: &str) -> Option<Duration> {
    let seconds = cache_control.split(',').find_map(|part| part.trim().strip_prefix("max-age="))?;
    Some(Duration::from_secs(seconds.parse().ok()?))
}

fn absent(operation: &'static str, pathname: &Pathname) -> Error {
    Error::new(ErrorKind::NotFound, operation).key(pathname).message("no such blob")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_age_is_read_as_it_is_told() {
        for seconds in [60, 2_592_000] {
            let age = Duration::from_secs(seconds);
            assert_eq!(max_age(&media::cache_control(Some(age))), Some(age));
        }
        assert_eq!(max_age("no-store"), None);
    }
}
