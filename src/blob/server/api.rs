//! The operations of the API, except multipart uploads.

use axum::response::Response;

use super::reply::{Refusal, ok};
use super::route::Call;
use crate::blob::types::{Head, ListRequest, Pathname};
use crate::blob::wire::{DeleteRequest, HeadReply, ListReply, PutReply};

pub(super) async fn put(call: &Call<'_>) -> Result<Response, Refusal> {
    let pathname = Pathname::new(call.query.require("pathname")?);
    let options = call.options(&pathname)?;
    let body = call.limited_body(None)?;
    let head = call.site.store.put(&pathname, body, &options).await?;
    Ok(stored(call, head))
}

pub(super) async fn copy(call: &Call<'_>) -> Result<Response, Refusal> {
    call.caller.require_owner()?;
    let (from, to) = from_and_to(call)?;
    let options = call.options(&to)?;
    let head = call.site.store.copy(&from, &to, &options).await?;
    Ok(stored(call, head))
}

pub(super) async fn rename(call: &Call<'_>) -> Result<Response, Refusal> {
    call.caller.require_owner()?;
    let (from, to) = from_and_to(call)?;
    let options = call.options(&to)?;
    let head = call.site.store.rename(&from, &to, &options).await?;
    Ok(stored(call, head))
}

pub(super) async fn head(call: &Call<'_>) -> Result<Response, Refusal> {
    call.caller.require_owner()?;
    let pathname = call.target(call.query.require("url")?)?;
    let Some(mut head) = call.site.store.head(&pathname).await? else { return Err(Refusal::not_found()) };
    call.site.place(&mut head.blob);
    Ok(ok(&HeadReply::from(&head)))
}

pub(super) async fn list(call: &Call<'_>) -> Result<Response, Refusal> {
    call.caller.require_owner()?;
    let limit = call.query.get("limit").map(|limit| {
        limit.parse().map_err(|_| Refusal::bad_request("the limit must be a number between 1 and 1000"))
    });
    let folded = match call.query.get("mode") {
        None | Some("expanded") => false,
        Some("folded") => true,
        Some(_) => return Err(Refusal::bad_request("the mode must be \"expanded\" or \"folded\"")),
    };
    let request = ListRequest {
        prefix: call.query.get("prefix").unwrap_or_default().to_owned(),
        cursor: call.query.get("cursor").filter(|cursor| !cursor.is_empty()).map(ToOwned::to_owned),
        limit: limit.transpose()?,
        folded,
    };
    let mut page = call.site.store.list(&request).await?;
    for blob in &mut page.blobs {
        call.site.place(blob);
    }
    Ok(ok(&ListReply::new(page, folded)))
}

pub(super) async fn delete(call: &Call<'_>) -> Result<Response, Refusal> {
    call.caller.require_owner()?;
    let if_match = call.if_match()?;
    let request: DeleteRequest = call.body.json(call.site.config.json_bytes_max).await?;
    let pathnames = request.urls.iter().map(|url| call.target(url)).collect::<Result<Vec<_>, _>>()?;
    call.site.store.delete(&pathnames, if_match.as_ref()).await?;
    // An empty body would be an error to the SDK.
    Ok(ok(&()))
}

/// The reply to a write.
pub(super) fn stored(call: &Call<'_>, mut head: Head) -> Response {
    call.site.place(&mut head.blob);
    ok(&PutReply::from(&head))
}

fn from_and_to(call: &Call<'_>) -> Result<(Pathname, Pathname), Refusal> {
    Ok((call.target(call.query.require("fromUrl")?)?, Pathname::new(call.query.require("pathname")?)))
}
