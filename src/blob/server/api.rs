//! The operations of the API, except multipart uploads.

use axum::response::Response;

use super::auth::Caller;
use super::callback;
use super::options::{ContentType, unreachable};
use super::reply::{Refusal, ok};
use super::route::Call;
use crate::blob::store::PutOptions;
use crate::blob::types::{Head, ListRequest, Pathname};
use crate::blob::wire::{DeleteRequest, HeadReply, ListReply, PutReply};

pub(super) async fn put(call: &Call<'_>) -> Result<Response, Refusal> {
    let pathname = Pathname::new(call.query.require("pathname")?);
    let options = call.options(&pathname, ContentType::OfTheBody)?;
    let mut total = 0;
    let body = call.limited_body(move |came| {
        total += came;
        total
    })?;
    let head = call.site.store.put(&pathname, body, &options).await?;
    Ok(uploaded(call, head))
}

/// An image behind a URL. The service would make it smaller, and keeps it as it is where that gains
/// nothing; this server always keeps it.
pub(super) async fn put_from_url(call: &Call<'_>) -> Result<Response, Refusal> {
    call.caller.require_owner()?;
    let pathname = Pathname::new(call.query.require("pathname")?);
    let options = call.options(&pathname, ContentType::OfTheBlob)?;
    let url = call.reachable(call.query.require("url")?)?;
    let (body, content_type) = call.site.outbound.get(url).await.map_err(unreachable)?;
    let content_type = content_type.filter(|content_type| content_type.starts_with("image/"));
    let Some(content_type) = content_type else {
        return Err(Refusal::bad_request("what is behind the URL is not an image"));
    };
    let options = PutOptions { content_type: Some(content_type), ..options };
    Ok(stored(call, call.site.store.put(&pathname, body, &options).await?))
}

pub(super) async fn copy(call: &Call<'_>) -> Result<Response, Refusal> {
    call.caller.require_owner()?;
    let (from, to) = from_and_to(call)?;
    let options = call.options(&to, ContentType::OfTheBlob)?;
    let head = call.site.store.copy(&from, &to, &options).await?;
    Ok(stored(call, head))
}

pub(super) async fn rename(call: &Call<'_>) -> Result<Response, Refusal> {
    call.caller.require_owner()?;
    let (from, to) = from_and_to(call)?;
    let options = call.options(&to, ContentType::OfTheBlob)?;
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

/// A delete by a signed URL.
pub(super) async fn delete_signed(call: &Call<'_>) -> Result<Response, Refusal> {
    let Caller::Client(grant) = &call.caller else {
        return Err(Refusal::bad_request("blobs are deleted by POST /delete"));
    };
    let pathname = Pathname::new(call.query.require("pathname")?);
    let if_match = grant.if_match()?;
    call.site.store.delete(&[pathname], if_match.as_ref()).await?;
    Ok(ok(&()))
}

/// The reply to an upload; the application is told where its grant asks for it.
pub(super) fn uploaded(call: &Call<'_>, mut head: Head) -> Response {
    call.site.place(&mut head.blob);
    callback::announce(call.site, &call.caller, &head);
    ok(&PutReply::from(&head))
}

/// The reply to another write.
fn stored(call: &Call<'_>, mut head: Head) -> Response {
    call.site.place(&mut head.blob);
    ok(&PutReply::from(&head))
}

fn from_and_to(call: &Call<'_>) -> Result<(Pathname, Pathname), Refusal> {
    Ok((call.target(call.query.require("fromUrl")?)?, Pathname::new(call.query.require("pathname")?)))
}
