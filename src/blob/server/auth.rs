//! Who sent a request: the bearer of the store's token, or of a client token that it signed.

use std::sync::Arc;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use hmac::{Hmac, KeyInit as _, Mac as _};
use http::{HeaderMap, header};
use secrecy::ExposeSecret as _;
use serde::Deserialize;
use sha2::Sha256;
use subtle::ConstantTimeEq as _;

use super::Site;
use super::reply::Refusal;
use super::route::Query;
use crate::blob::types::Pathname;
use crate::blob::wire::{self, Code};

/// Who sent a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Caller {
    /// The bearer of the read-write token.
    Owner,
    /// The bearer of a client token, and what it permits.
    Client(Grant),
}

/// What a client token permits: one upload to one pathname, as its signer said. The token speaks for the
/// options too: the bearer can't choose to overwrite.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Grant {
    pub(super) pathname: String,
    valid_until: u64,
    pub(super) maximum_size_in_bytes: Option<u64>,
    pub(super) allowed_content_types: Option<Vec<String>>,
    pub(super) add_random_suffix: Option<bool>,
    pub(super) allow_overwrite: Option<bool>,
    pub(super) cache_control_max_age: Option<u64>,
    pub(super) if_match: Option<String>,
    on_upload_completed: Option<serde_json::Value>,
}

impl Caller {
    /// Refuses the bearer of a client token.
    pub(super) fn require_owner(&self) -> Result<(), Refusal> {
        match self {
            Self::Owner => Ok(()),
            Self::Client(_) => Err(Refusal::new(
                Code::ClientTokenNotAllowed,
                "This operation is not available when using a client token.",
            )),
        }
    }
}

impl Grant {
    /// Refuses another pathname than the token's.
    pub(super) fn check_pathname(&self, pathname: &Pathname) -> Result<(), Refusal> {
        if self.pathname == pathname.as_str() {
            return Ok(());
        }
        Err(Refusal::bad_request("\"pathname\" does not match the token payload"))
    }

    /// Refuses a media type that the token does not name, by itself or as `family/*`.
    pub(super) fn check_content_type(&self, content_type: &str) -> Result<(), Refusal> {
        let Some(allowed) = &self.allowed_content_types else { return Ok(()) };
        let essence = content_type.split(';').next().unwrap_or_default().trim();
        let matches = |pattern: &String| match pattern.strip_suffix('*') {
            Some(family) => essence.starts_with(family),
            None => pattern == essence,
        };
        if allowed.iter().any(matches) {
            return Ok(());
        }
        Err(Refusal::bad_request(format!("\"contentType\" {essence} is not allowed by the token")))
    }
}

/// Finds out who sent a request to the API, and whether they mean this store.
pub(super) fn identify(site: &Arc<Site>, headers: &HeaderMap, query: &Query) -> Result<Caller, Refusal> {
    if query.get("vercel-blob-signature").is_some() {
        return Err(Refusal::new(Code::NotAllowed, "signed URLs are not offered by this server"));
    }
    let token = bearer(headers).ok_or_else(Refusal::forbidden)?;
    let caller = if is_owner(site, token) { Caller::Owner } else { Caller::Client(grant(site, token)?) };
    let named = headers.get(wire::header::STORE_ID).and_then(|value| value.to_str().ok());
    match named {
        Some(id) if !id.is_empty() && !id.eq_ignore_ascii_case(&site.config.store_id) => {
            Err(Refusal::new(Code::StoreNotFound, "This store does not exist"))
        }
        _ => Ok(caller),
    }
}

/// Whether a request carries the store's own token.
pub(super) fn bears_owner_token(site: &Site, headers: &HeaderMap) -> bool {
    bearer(headers).is_some_and(|token| is_owner(site, token))
}

fn bearer(headers: &HeaderMap) -> Option<&str> {
    let value = headers.get(header::AUTHORIZATION)?.to_str().ok()?;
    let (scheme, token) = value.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then_some(token.trim())
}

fn is_owner(site: &Site, token: &str) -> bool {
    site.config.token.expose_secret().as_bytes().ct_eq(token.as_bytes()).into()
}

/// Reads a client token: `vercel_blob_client_{store}_` and base64 of a hexadecimal HMAC of the payload, a
/// dot, and the payload (base64 of JSON). The key is the whole read-write token.
fn grant(site: &Site, token: &str) -> Result<Grant, Refusal> {
    let signed = || -> Option<Grant> {
        let (_store, encoded) = token.strip_prefix("vercel_blob_client_")?.split_once('_')?;
        let text = String::from_utf8(BASE64_STANDARD.decode(encoded).ok()?).ok()?;
        let (mac, payload) = text.split_once('.')?;
        let key = site.config.token.expose_secret().as_bytes();
        let expected = Hmac::<Sha256>::new_from_slice(key).ok()?.chain_update(payload.as_bytes());
        expected.verify_slice(&hex::decode(mac).ok()?).ok()?;
        serde_json::from_slice(&BASE64_STANDARD.decode(payload).ok()?).ok()
    };
    let grant = signed().ok_or_else(Refusal::forbidden)?;
    let now = u64::try_from(site.clock.now().as_millisecond()).unwrap_or(0);
    if grant.valid_until <= now {
        return Err(Refusal::new(Code::Forbidden, "Token expired"));
    }
    if grant.on_upload_completed.is_some() {
        return Err(Refusal::new(Code::NotAllowed, "upload callbacks are not offered by this server"));
    }
    Ok(grant)
}
