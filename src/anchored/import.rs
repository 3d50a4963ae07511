//! Multipart uploads: their parts lie in Blob, which puts them together; then DynamoDB takes over what came of it.
//!
//! Until it did, Blob, which is the mirror, has what DynamoDB has not: the intent of the operation says so.

use super::Anchored;
use super::write::{demand, repetition};
use crate::blob::store::{Part, PutOptions, Upload};
use crate::blob::{ETag, Fetched, Head, Pathname};
use crate::converge::author::{Demand, NewVersion};
use crate::error::{Error, ErrorKind, Result};

/// What the key of an upload begins with whose conditions DynamoDB judges. They follow: 1 where something may
/// be overwritten, and the ETag that must be there, in hexadecimal. So any gateway can complete it.
const JUDGED: &str = "migrate-when-";

/// What was asked for when an upload was begun.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Begun {
    overwrite: bool,
    if_match: Option<ETag>,
}

/// What was asked for when an upload was begun here, and the upload as Blob knows it.
pub(super) fn begun(upload: &Upload) -> (Option<Begun>, Upload) {
    let parse = || {
        let (overwrite, rest) = upload.key.strip_prefix(JUDGED)?.split_once('-')?;
        let (etag, key) = rest.split_once('-')?;
        let etag = String::from_utf8(hex::decode(etag).ok()?).ok()?;
        let if_match = Some(etag).filter(|etag| !etag.is_empty()).map(|etag| ETag::new(&etag));
        Some((Begun { overwrite: overwrite == "1", if_match }, key.to_owned()))
    };
    match parse() {
        Some((begun, key)) => (Some(begun), Upload { upload_id: upload.upload_id.clone(), key }),
        None => (None, upload.clone()),
    }
}

/// An upload that is completed after the way back, as Blob knows it, with all that was asked for.
#[must_use]
pub fn for_blob(upload: &Upload, options: &PutOptions) -> (Upload, PutOptions) {
    let (begun, upload) = begun(upload);
    let Begun { overwrite, if_match } = begun.unwrap_or_default();
    let options = PutOptions {
        allow_overwrite: options.allow_overwrite || overwrite,
        if_match: options.if_match.clone().or(if_match),
        ..options.clone()
    };
    (upload, options)
}

impl Anchored {
    pub(super) async fn begin_import(&self, pathname: &Pathname, options: &PutOptions) -> Result<Upload> {
        if !self.maps(pathname) {
            return self.blob().create_multipart(pathname, options).await;
        }
        self.check("create a multipart upload", pathname, options)?;
        let upload = self.blob().create_multipart(pathname, &unconditional(options)).await?;
        let overwrite = u8::from(options.allow_overwrite);
        let etag = hex::encode(options.if_match.as_ref().map_or("", ETag::as_str));
        Ok(Upload { key: format!("{JUDGED}{overwrite}-{etag}-{}", upload.key), ..upload })
    }

    /// Completes an upload; one that was begun before the flip, too.
    pub(super) async fn import(
        &self,
        pathname: &Pathname,
        upload: &Upload,
        parts: &[Part],
        options: &PutOptions,
    ) -> Result<Head> {
        let (begun, upload) = begun(upload);
        if !self.maps(pathname) {
            return self.blob().complete_multipart(pathname, &upload, parts, options).await;
        }
        let etags = parts.iter().map(|part| part.etag.as_str()).collect::<Vec<_>>().join(",");
        let request = repetition(options, "complete", &format!("{} {etags}", upload.upload_id));
        let request = request.as_deref();
        if let Some(own) = self.own(pathname, request).await? {
            return self.stored(&own);
        }
        let asked = Demand { request, ..demand(options) };
        let demand = match &begun {
            Some(begun) => Demand {
                overwrite: asked.overwrite || begun.overwrite,
                if_match: asked.if_match.or(begun.if_match.as_ref()),
                ..asked
            },
            // Blob knows what was asked for then, and judges.
            None => Demand { overwrite: true, if_match: None, ..asked },
        };
        // Refused before there is anything to take back; decided once more by the transaction.
        demand.allows(pathname, self.control().bare_anchor(pathname).await?.as_ref())?;
        let passed = if begun.is_some() { unconditional(options) } else { options.clone() };
        let completed = self.blob().complete_multipart(pathname, &upload, parts, &passed).await?;
        let pathname = &completed.blob.pathname;
        let stored = self.blob().head(pathname).await?;
        // Blob has answered, so nothing of it can land any more: its intent need not be waited out.
        let changed = || {
            let error = Error::new(ErrorKind::NotApplied, "take over an upload").key(pathname);
            error.message("it changed in Blob before DynamoDB held it; upload it anew")
        };
        let head = stored.filter(|head| head.blob.etag == completed.blob.etag).ok_or_else(changed)?;
        let fetched = self.converger.fetcher.fetch(pathname, &head.blob.etag, head.blob.size).await?;
        let Fetched::Body { body, content_type, cache_control } = fetched else { return Err(changed()) };
        let new = NewVersion { body, content_type, cache_control, imported: Some(head.version()) };
        self.stored(&self.converger.author(pathname, Some(&new), demand).await?)
    }
}

/// The options of an upload as Blob gets them.
fn unconditional(options: &PutOptions) -> PutOptions {
    PutOptions { allow_overwrite: true, if_match: None, ..options.clone() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_asked_for_travels_in_the_key() {
        let upload = |key: &str| Upload { upload_id: "u".to_owned(), key: key.to_owned() };
        assert_eq!(begun(&upload("store/a-b")), (None, upload("store/a-b")));
        let asked = Begun { overwrite: true, if_match: Some(ETag::new("\"e-1\"")) };
        let key = format!("{JUDGED}1-{}-store/a-b", hex::encode("\"e-1\""));
        assert_eq!(begun(&upload(&key)), (Some(asked), upload("store/a-b")));
        assert_eq!(begun(&upload(&format!("{JUDGED}0--k"))), (Some(Begun::default()), upload("k")));
    }
}
