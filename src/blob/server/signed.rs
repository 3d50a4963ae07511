//! Delegation: tokens with which an application signs URLs itself, and the URLs that it signed.

use std::fmt;

use axum::response::Response;
use base64::Engine as _;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use serde::{Deserialize, Serialize};

use super::Site;
use super::grant::{self, Completion, Grant, Kind, check_valid_until};
use super::keys;
use super::reply::{Refusal, ok};
use super::route::{Call, Query};
use crate::blob::types::Pathname;

/// How long a delegation is good for, by default and at most (Vercel Blob documentation, 2026-05).
const VALID_MS_DEFAULT: u64 = 3600 * 1000;
const VALID_MS_MAX: u64 = 7 * 24 * 3600 * 1000;
const ANY_PATHNAME: &str = "*";

pub(super) const SIGNATURE: &str = "vercel-blob-signature";
const DELEGATION: &str = "vercel-blob-delegation";
const ADD_RANDOM_SUFFIX: &str = "vercel-blob-add-random-suffix";
const ALLOW_OVERWRITE: &str = "vercel-blob-allow-overwrite";
const ALLOWED_CONTENT_TYPES: &str = "vercel-blob-allowed-content-types";
const CACHE_CONTROL_MAX_AGE: &str = "vercel-blob-cache-control-max-age";
const CALLBACK_TOKEN_PAYLOAD: &str = "vercel-blob-callback-token-payload";
const CALLBACK_URL: &str = "vercel-blob-callback-url";
const IF_MATCH: &str = "vercel-blob-if-match";
const MAXIMUM_SIZE: &str = "vercel-blob-maximum-size-in-bytes";
const VALID_UNTIL: &str = "vercel-blob-valid-until";
/// What a signature covers besides operation and pathname.
const SIGNED: [&str; 9] = [
    ADD_RANDOM_SUFFIX,
    ALLOW_OVERWRITE,
    ALLOWED_CONTENT_TYPES,
    CACHE_CONTROL_MAX_AGE,
    CALLBACK_TOKEN_PAYLOAD,
    CALLBACK_URL,
    IF_MATCH,
    MAXIMUM_SIZE,
    VALID_UNTIL,
];

/// What a URL can be signed for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Operation {
    Get,
    Head,
    Put,
    Delete,
}

impl fmt::Display for Operation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Get => "get",
            Self::Head => "head",
            Self::Put => "put",
            Self::Delete => "delete",
        })
    }
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Asked {
    pathname: Option<String>,
    operations: Option<Vec<Operation>>,
    valid_until: Option<u64>,
    maximum_size_in_bytes: Option<u64>,
    allowed_content_types: Option<Vec<String>>,
}

/// What a delegation token says.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Delegation {
    store_id: String,
    owner_id: String,
    pathname: String,
    operations: Vec<Operation>,
    valid_until: u64,
    iat: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    maximum_size_in_bytes: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    allowed_content_types: Option<Vec<String>>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Issued {
    delegation_token: String,
    client_signing_token: String,
    valid_until: u64,
}

/// `POST /signed-token`.
pub(super) async fn issue(call: &Call<'_>) -> Result<Response, Refusal> {
    call.caller.require_owner()?;
    let asked: Asked = call.body.json(call.site.config.json_bytes_max).await?;
    let now = call.site.now_ms();
    let valid_until = asked.valid_until.unwrap_or(now + VALID_MS_DEFAULT);
    if valid_until <= now || valid_until > now + VALID_MS_MAX {
        return Err(Refusal::bad_request("`validUntil` must be in the future, at most 7 days from now"));
    }
    let texts = asked.pathname.iter().chain(asked.allowed_content_types.iter().flatten());
    grant::check_signed(texts.map(String::as_str))?;
    let operations = asked.operations.unwrap_or_else(|| vec![Operation::Get]);
    if operations.is_empty() {
        return Err(Refusal::bad_request("`operations` must not be empty"));
    }
    let store_id = call.site.config.store_id.clone();
    let delegation = Delegation {
        owner_id: store_id.clone(),
        store_id,
        pathname: asked.pathname.unwrap_or_else(|| ANY_PATHNAME.to_owned()),
        operations,
        valid_until,
        iat: now,
        maximum_size_in_bytes: asked.maximum_size_in_bytes,
        allowed_content_types: asked.allowed_content_types,
    };
    let keys = &call.site.keys;
    let payload = BASE64_URL_SAFE_NO_PAD.encode(ascii_json(&delegation));
    let delegation_token = format!("{payload}.{}", keys.delegation_mac(&payload));
    let client_signing_token = keys.client_signing_token(&delegation_token);
    Ok(ok(&Issued { delegation_token, client_signing_token, valid_until }))
}

/// Verifies the URL of a request, and says what it permits.
pub(super) fn verify(
    site: &Site,
    query: &Query,
    operation: Operation,
    pathname: &Pathname,
) -> Result<Grant, Refusal> {
    let values = SIGNED.iter().filter_map(|name| query.get(name));
    grant::check_signed(values.chain([pathname.as_str()]))?;
    let signed = || {
        let token = query.get(DELEGATION)?;
        let (payload, mac) = token.split_once('.')?;
        let key = site.keys.client_signing_token(token);
        let canonical = canonical(query, operation, pathname);
        // Both, whatever the first says.
        let genuine = site.keys.is_delegation_mac(payload, mac)
            & keys::verify_url_safe(key.as_bytes(), &canonical, query.get(SIGNATURE)?);
        let json = BASE64_URL_SAFE_NO_PAD.decode(payload).ok().filter(|_| genuine)?;
        serde_json::from_slice::<Delegation>(&json).ok()
    };
    let delegation = signed().ok_or_else(Refusal::forbidden)?;
    if !delegation.store_id.eq_ignore_ascii_case(&site.config.store_id)
        || !delegation.operations.contains(&operation)
    {
        return Err(Refusal::forbidden());
    }
    check_valid_until(site, delegation.valid_until)?;
    let present = |name: &str| query.get(name).filter(|value| !value.is_empty());
    let number = |name: &str| match present(name).map(str::parse::<u64>) {
        None => Ok(None),
        Some(Ok(number)) => Ok(Some(number)),
        Some(Err(_)) => Err(Refusal::bad_request(format!("`{name}` is not a number"))),
    };
    if let Some(valid_until) = number(VALID_UNTIL)? {
        check_valid_until(site, valid_until)?;
    }
    let types = present(ALLOWED_CONTENT_TYPES).map(|list| list.split(',').map(ToOwned::to_owned).collect());
    let sizes = [number(MAXIMUM_SIZE)?, delegation.maximum_size_in_bytes];
    let grant = Grant {
        kind: Kind::SignedUrl,
        pathname: Some(delegation.pathname).filter(|pathname| pathname != ANY_PATHNAME),
        maximum_size_in_bytes: sizes.into_iter().flatten().min(),
        allowed_content_types: [types, delegation.allowed_content_types].into_iter().flatten().collect(),
        add_random_suffix: present(ADD_RANDOM_SUFFIX) == Some("true"),
        allow_overwrite: present(ALLOW_OVERWRITE) == Some("true"),
        cache_control_max_age: number(CACHE_CONTROL_MAX_AGE)?,
        if_match: present(IF_MATCH).map(ToOwned::to_owned),
        completion: present(CALLBACK_URL).map(|url| Completion {
            callback_url: url.to_owned(),
            token_payload: present(CALLBACK_TOKEN_PAYLOAD).map(ToOwned::to_owned),
        }),
    };
    grant.check_pathname(pathname)?;
    Ok(grant)
}

/// The text that is signed. What is empty is not in it, so it must not count either. A value with a line break would
/// be several lines of it: [`verify`] refuses such values first.
fn canonical(query: &Query, operation: Operation, pathname: &Pathname) -> String {
    let present =
        |name: &&str| Some(format!("{name}={}", query.get(name).filter(|value| !value.is_empty())?));
    let mut lines: Vec<_> = SIGNED.iter().filter_map(present).collect();
    lines.extend([format!("operation={operation}"), format!("pathname={}", pathname.as_str())]);
    lines.sort();
    lines.join("\n")
}

/// JSON in ASCII alone: the SDK reads the payload as Latin-1.
fn ascii_json(value: &impl Serialize) -> String {
    let text = serde_json::to_string(value).expect("invariant: text and numbers are JSON");
    let mut ascii = String::with_capacity(text.len());
    for character in text.chars() {
        if character.is_ascii() {
            ascii.push(character);
        } else {
            let mut units = [0; 2];
            ascii.extend(character.encode_utf16(&mut units).iter().map(|unit| format!("\\u{unit:04x}")));
        }
    }
    ascii
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_payload_is_ascii_and_says_the_same() {
        let text = ascii_json(&["ü/日本 🦀\n"]);
        assert_eq!(text, r#"["\u00fc/\u65e5\u672c \ud83e\udd80\n"]"#);
        assert_eq!(serde_json::from_str::<Vec<String>>(&text).unwrap(), ["ü/日本 🦀\n"]);
    }
}
