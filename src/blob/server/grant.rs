//! What somebody other than the owner may do: the bearer of a client token or of a signed URL, and within
//! which limits.

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use secrecy::ExposeSecret as _;
use serde::Deserialize;

use super::Site;
use super::keys;
use super::reply::Refusal;
use crate::blob::types::Pathname;
use crate::blob::wire::Code;

/// Who signed a grant, and how.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// The application, with the read-write token.
    ClientToken,
    /// The application, with a delegation of this server.
    SignedUrl,
}

/// What a client token or a signed URL permits, as its signer said. It speaks for the options too: the
/// bearer can't choose to overwrite.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Grant {
    pub(super) kind: Kind,
    /// The one pathname; any where there is none.
    pub(super) pathname: Option<String>,
    pub(super) maximum_size_in_bytes: Option<u64>,
    /// Lists that a media type must all be in.
    pub(super) allowed_content_types: Vec<Vec<String>>,
    pub(super) add_random_suffix: bool,
    pub(super) allow_overwrite: bool,
    pub(super) cache_control_max_age: Option<u64>,
    pub(super) if_match: Option<String>,
    pub(super) completion: Option<Completion>,
}

/// Whom to tell once the upload is complete.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Completion {
    pub(super) callback_url: String,
    pub(super) token_payload: Option<String>,
}

/// The payload of a client token.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct ClientToken {
    pathname: String,
    valid_until: u64,
    maximum_size_in_bytes: Option<u64>,
    allowed_content_types: Option<Vec<String>>,
    add_random_suffix: Option<bool>,
    allow_overwrite: Option<bool>,
    cache_control_max_age: Option<u64>,
    if_match: Option<String>,
    on_upload_completed: Option<Completion>,
}

impl ClientToken {
    /// What it says in words, but for the application's own payload of the callback.
    fn texts(&self) -> impl Iterator<Item = &str> {
        let callback = self.on_upload_completed.as_ref().map(|completion| &completion.callback_url);
        let texts = [Some(&self.pathname), self.if_match.as_ref(), callback];
        let types = self.allowed_content_types.iter().flatten();
        texts.into_iter().flatten().chain(types).map(String::as_str)
    }
}

impl Grant {
    /// Reads a client token: `vercel_blob_client_{store}_` and base64 of a hexadecimal HMAC of the payload, a
    /// dot, and the payload (base64 of JSON). The key is the whole read-write token.
    pub(super) fn of_client_token(site: &Site, token: &str) -> Result<Self, Refusal> {
        let signed = || -> Option<ClientToken> {
            let (_store, encoded) = token.strip_prefix("vercel_blob_client_")?.split_once('_')?;
            let text = String::from_utf8(BASE64_STANDARD.decode(encoded).ok()?).ok()?;
            let (mac, payload) = text.split_once('.')?;
            let key = site.config.token.expose_secret().as_bytes();
            keys::verify(key, payload, &hex::decode(mac).ok()?)
                .then(|| serde_json::from_slice(&BASE64_STANDARD.decode(payload).ok()?).ok())?
        };
        let token = signed().ok_or_else(Refusal::forbidden)?;
        check_signed(token.texts())?;
        check_valid_until(site, token.valid_until)?;
        Ok(Self {
            kind: Kind::ClientToken,
            pathname: Some(token.pathname),
            maximum_size_in_bytes: token.maximum_size_in_bytes,
            allowed_content_types: token.allowed_content_types.into_iter().collect(),
            add_random_suffix: token.add_random_suffix.unwrap_or(false),
            allow_overwrite: token.allow_overwrite.unwrap_or(false),
            cache_control_max_age: token.cache_control_max_age,
            if_match: token.if_match,
            completion: token.on_upload_completed,
        })
    }

    /// Refuses another pathname than the grant's.
    pub(super) fn check_pathname(&self, pathname: &Pathname) -> Result<(), Refusal> {
        match &self.pathname {
            Some(granted) if granted != pathname.as_str() => {
                Err(Refusal::bad_request("\"pathname\" does not match the token payload"))
            }
            _ => Ok(()),
        }
    }

    /// Refuses a media type that the grant does not name, by itself or as `family/*`.
    pub(super) fn check_content_type(&self, content_type: &str) -> Result<(), Refusal> {
        let essence = content_type.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
        let matches = |pattern: &String| match pattern.strip_suffix('*') {
            Some(family) => essence.starts_with(family),
            None => *pattern == essence,
        };
        if self.allowed_content_types.iter().all(|allowed| allowed.iter().any(matches)) {
            return Ok(());
        }
        Err(Refusal::bad_request(format!("\"contentType\" {essence} is not allowed by the token")))
    }

    /// Why its bearer can't do what only the owner may.
    pub(super) fn not_the_owner(&self) -> Refusal {
        match self.kind {
            Kind::ClientToken => Refusal::new(
                Code::ClientTokenNotAllowed,
                "This operation is not available when using a client token.",
            ),
            Kind::SignedUrl => {
                Refusal::new(Code::Forbidden, "This operation is not available with a signed URL.")
            }
        }
    }
}

/// Refuses values with control characters. Signed URLs join their values by line breaks before they are signed, so a
/// value with a line break could pass for several values, and several for one.
pub(super) fn check_signed<'a>(mut values: impl Iterator<Item = &'a str>) -> Result<(), Refusal> {
    if values.any(|value| value.contains(char::is_control)) {
        return Err(Refusal::bad_request("a signed parameter must not have control characters"));
    }
    Ok(())
}

/// Refuses what was valid until then. The SDK knows the message.
pub(super) fn check_valid_until(site: &Site, valid_until: u64) -> Result<(), Refusal> {
    if valid_until <= site.now_ms() {
        return Err(Refusal::new(Code::Forbidden, "Token expired"));
    }
    Ok(())
}
