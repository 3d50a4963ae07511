//! The three steps of a multipart upload.

use std::sync::atomic::AtomicU64;
use std::sync::{Arc, PoisonError};

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
        let mut uploaded = call.site.uploaded.lock().unwrap_or_else(PoisonError::into_inner);
        uploaded.insert(upload.upload_id.clone(), Arc::default());
    }
    Ok(ok(&UploadReply::from(upload)))
}

async fn upload_part(call: &Call<'_>, pathname: &Pathname) -> Result<Response, Refusal> {
    // The options hold since the creation; a grant is still checked against this request.
    call.options(pathname, ContentType::Settled)?;
    let upload = named_upload(call)?;
    let number = call.header(header::MPU_PART_NUMBER)?.and_then(|number| number.parse().ok());
    let number = number.ok_or_else(|| Refusal::bad_request("`x-mpu-part-number` must be a number from 1"))?;
    let body = call.limited_body(uploaded(call, &upload))?;
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

fn uploaded(call: &Call<'_>, upload: &Upload) -> Option<Arc<AtomicU64>> {
    let uploaded = call.site.uploaded.lock().unwrap_or_else(PoisonError::into_inner);
    uploaded.get(&upload.upload_id).cloned()
}
