//! The three steps of a multipart upload.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use axum::response::Response;
use percent_encoding::percent_decode_str;

use super::api;
use super::auth::Caller;
use super::options::ContentType;
use super::reply::{Refusal, ok};
use super::route::Call;
use crate::blob::store::{Part, Upload};
use crate::blob::types::Pathname;
use crate::blob::wire::{PartEntry, PartReply, UploadReply, header};

/// An upload of which nothing comes for so long is forgotten: a part that comes later is limited by itself.
const ABANDONED_AFTER: Duration = Duration::from_secs(24 * 60 * 60);

/// What came in, in bytes, for an upload that is limited.
#[derive(Default)]
pub(super) struct Received {
    parts: HashMap<u32, u64>,
    total: u64,
    /// When its last part began, by the monotonic clock.
    at: Duration,
}

impl Received {
    /// So much came of a part in one request; returns what counts in all. A part that is sent again counts as
    /// its longest sending: whichever of them is stored, no more is.
    fn count(&mut self, number: u32, came: u64) -> u64 {
        let part = self.parts.entry(number).or_default();
        if came > *part {
            self.total += came - *part;
            *part = came;
        }
        self.total
    }
}

pub(super) async fn step(call: &Call<'_>) -> Result<Response, Refusal> {
    let pathname = Pathname::new(call.query.require("pathname")?);
    match call.header(header::MPU_ACTION)? {
        Some("create") => create(call, &pathname).await,
        Some("upload") => upload_part(call, &pathname).await,
        Some("complete") => complete(call, &pathname).await,
        _ => Err(Refusal::bad_request("`x-mpu-action` must be create, upload or complete")),
    }
}

async fn create(call: &Call<'_>, pathname: &Pathname) -> Result<Response, Refusal> {
    let options = call.options(pathname, ContentType::OfTheBlob)?;
    let upload = call.site.store.create_multipart(pathname, &options).await?;
    if let Caller::Client(grant) = &call.caller
        && grant.maximum_size_in_bytes.is_some()
    {
        let now = call.site.clock.monotonic();
        let mut uploaded = call.site.uploaded.lock().unwrap_or_else(PoisonError::into_inner);
        uploaded.retain(|_, received| now.saturating_sub(held(received).at) < ABANDONED_AFTER);
        let received = Received { at: now, ..Received::default() };
        uploaded.insert(upload.upload_id.clone(), Arc::new(Mutex::new(received)));
    }
    Ok(ok(&UploadReply::from(upload)))
}

async fn upload_part(call: &Call<'_>, pathname: &Pathname) -> Result<Response, Refusal> {
    // The options hold since the creation; a grant is still checked against this request.
    call.options(pathname, ContentType::Settled)?;
    let upload = named_upload(call)?;
    let number = call.header(header::MPU_PART_NUMBER)?.and_then(|number| number.parse().ok());
    let number = number.ok_or_else(|| Refusal::bad_request("`x-mpu-part-number` must be a number from 1"))?;
    let received = uploaded(call, &upload).unwrap_or_default();
    held(&received).at = call.site.clock.monotonic();
    let mut sent = 0;
    let body = call.limited_body(move |came| {
        sent += came;
        held(&received).count(number, sent)
    })?;
    let part = call.site.store.upload_part(pathname, &upload, number, body).await?;
    Ok(ok(&PartReply { etag: part.etag.as_str().to_owned() }))
}

async fn complete(call: &Call<'_>, pathname: &Pathname) -> Result<Response, Refusal> {
    let options = call.options(pathname, ContentType::Settled)?;
    let upload = named_upload(call)?;
    let entries: Vec<PartEntry> = call.body.json(call.site.config.json_bytes_max).await?;
    let parts: Vec<Part> = entries.into_iter().map(Part::from).collect();
    let head = call.site.store.complete_multipart(pathname, &upload, &parts, &options).await?;
    call.site.uploaded.lock().unwrap_or_else(PoisonError::into_inner).remove(&upload.upload_id);
    Ok(api::uploaded(call, head))
}

fn named_upload(call: &Call<'_>) -> Result<Upload, Refusal> {
    let required = |name: &str| {
        let text = call.header(name)?.filter(|text| !text.is_empty());
        text.ok_or_else(|| Refusal::bad_request(format!("`{name}` is missing")))
    };
    let key = percent_decode_str(required(header::MPU_KEY)?).decode_utf8();
    let key = key.map_err(|_| Refusal::bad_request("`x-mpu-key` is not encoded UTF-8"))?;
    Ok(Upload { upload_id: required(header::MPU_UPLOAD_ID)?.to_owned(), key: key.into_owned() })
}

fn held(received: &Mutex<Received>) -> MutexGuard<'_, Received> {
    received.lock().unwrap_or_else(PoisonError::into_inner)
}

fn uploaded(call: &Call<'_>, upload: &Upload) -> Option<Arc<Mutex<Received>>> {
    let uploaded = call.site.uploaded.lock().unwrap_or_else(PoisonError::into_inner);
    uploaded.get(&upload.upload_id).cloned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_part_that_is_sent_again_counts_once() {
        let mut received = Received::default();
        for _ in 0..3 {
            received.count(1, 3);
            assert_eq!(received.count(1, 5), 5);
        }
        assert_eq!(received.count(2, 4), 9);
    }
}
