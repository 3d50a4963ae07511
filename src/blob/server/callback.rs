//! Telling the application that an upload of somebody else is complete.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use secrecy::ExposeSecret as _;
use url::Url;

use super::Site;
use super::auth::Caller;
use super::grant::Kind;
use super::keys;
use crate::blob::types::Head;
use crate::blob::wire::{PutReply, UploadCompleted, header};
use crate::error::{ErrorKind, Result};

/// How often a callback is sent again that was not answered with 200 (Vercel Blob documentation, 2026-03).
const RETRIES_MAX: u32 = 5;
/// The pause before the first retry; it doubles.
pub(super) const PAUSE: Duration = Duration::from_secs(1);

/// Sends the callback that the grant asks for, if any, in the background. The upload is done whatever becomes
/// of it.
pub(super) fn announce(site: &Arc<Site>, caller: &Caller, head: &Head) {
    let Caller::Client(grant) = caller else { return };
    let Some(completion) = &grant.completion else { return };
    let event = UploadCompleted::new(PutReply::from(head), completion.token_payload.clone());
    // Compact, and in the order of the fields: receivers verify over what JavaScript makes of it again.
    let body = serde_json::to_string(&event).expect("invariant: text is JSON");
    let signature = match grant.kind {
        Kind::ClientToken => keys::sign_hex(site.config.token.expose_secret().as_bytes(), &body),
        Kind::SignedUrl => site.keys.sign_callback(body.as_bytes()),
    };
    let url = match site.outbound.check(&completion.callback_url) {
        Ok(url) => url,
        // It was allowed when the upload began.
        Err(error) => return tracing::error!(%error, "a callback was not sent"),
    };
    let site = site.clone();
    site.tasks.clone().spawn(async move { send(&site, url, signature, body.into()).await });
}

async fn send(site: &Site, url: Url, signature: String, body: Bytes) {
    let attempt = async || -> Result<u16> {
        site.outbound.post_json(url.clone(), (header::CALLBACK_SIGNATURE, &signature), body.clone()).await
    };
    for retry in 0..=RETRIES_MAX {
        if retry > 0 {
            site.clock.sleep(site.config.callback_pause * 2u32.pow(retry - 1)).await;
        }
        match attempt().await {
            Ok(200) => return,
            Ok(status) => tracing::debug!(retry, status, "a callback was refused"),
            Err(error) if error.kind() == ErrorKind::Denied => {
                return tracing::warn!(%error, "a callback was not sent");
            }
            Err(error) => tracing::debug!(retry, %error, "a callback was not answered"),
        }
    }
    let to = url.origin().ascii_serialization();
    tracing::warn!(to, attempts = RETRIES_MAX + 1, "a callback was given up");
}
