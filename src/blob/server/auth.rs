//! Who sent a request: the bearer of the store's token, of an OIDC token, or of what the application signed.

use http::request::Parts;
use http::{HeaderMap, Method, header};
use secrecy::ExposeSecret as _;
use subtle::ConstantTimeEq as _;

use super::Site;
use super::grant::Grant;
use super::reply::Refusal;
use super::route::Query;
use super::signed::{self, Operation};
use crate::blob::store::Access;
use crate::blob::types::Pathname;
use crate::blob::wire::{self, Code};

/// Who sent a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Caller {
    /// The bearer of the read-write token, or of an OIDC token.
    Owner,
    /// The bearer of a client token or a signed URL, and what it permits.
    Client(Box<Grant>),
}

impl Caller {
    /// Refuses everybody else.
    pub(super) fn require_owner(&self) -> Result<(), Refusal> {
        match self {
            Self::Owner => Ok(()),
            Self::Client(grant) => Err(grant.not_the_owner()),
        }
    }
}

/// Finds out who sent a request to the API, and whether they mean this store. `operation` is what its URL can
/// be signed for, if anything.
pub(super) fn identify(
    site: &Site,
    headers: &HeaderMap,
    query: &Query,
    operation: Option<Operation>,
) -> Result<Caller, Refusal> {
    let caller = if query.get(signed::SIGNATURE).is_some() {
        let operation = operation.ok_or_else(Refusal::forbidden)?;
        let pathname = Pathname::new(query.require("pathname")?);
        Caller::Client(Box::new(signed::verify(site, query, operation, &pathname)?))
    } else {
        let token = bearer(headers).ok_or_else(Refusal::forbidden)?;
        match owner(site, token) {
            Some(Proof::Token) => Caller::Owner,
            Some(Proof::Oidc) if headers.contains_key(wire::header::STORE_ID) => Caller::Owner,
            Some(Proof::Oidc) => {
                let message = format!("an OIDC token needs `{}`", wire::header::STORE_ID);
                return Err(Refusal::new(Code::Forbidden, message));
            }
            None => Caller::Client(Box::new(Grant::of_client_token(site, token)?)),
        }
    };
    let named = headers.get(wire::header::STORE_ID).map(|value| value.to_str().unwrap_or("?"));
    match named {
        Some(id) if !id.is_empty() && !id.eq_ignore_ascii_case(&site.config.store_id) => {
            Err(Refusal::new(Code::StoreNotFound, "This store does not exist"))
        }
        _ => Ok(caller),
    }
}

/// Whether a request for content may be answered: a signed URL is verified, and a private store needs one, or
/// the owner's token.
pub(super) fn check_reader(
    site: &Site,
    parts: &Parts,
    query: &Query,
    pathname: &Pathname,
) -> Result<(), Refusal> {
    if query.get(signed::SIGNATURE).is_some() {
        let operation = if parts.method == Method::HEAD { Operation::Head } else { Operation::Get };
        return signed::verify(site, query, operation, pathname).map(drop);
    }
    let owned = || bearer(&parts.headers).is_some_and(|token| owner(site, token).is_some());
    if site.config.access == Access::Private && !owned() {
        return Err(Refusal::forbidden());
    }
    Ok(())
}

/// How an owner is known.
enum Proof {
    Token,
    Oidc,
}

fn owner(site: &Site, token: &str) -> Option<Proof> {
    if site.config.token.expose_secret().as_bytes().ct_eq(token.as_bytes()).into() {
        return Some(Proof::Token);
    }
    let oidc = site.config.oidc.as_ref()?;
    oidc.takes(token, site.clock.now()).then_some(Proof::Oidc)
}

fn bearer(headers: &HeaderMap) -> Option<&str> {
    let mut values = headers.get_all(header::AUTHORIZATION).iter();
    // Of two, nobody knows which one the sender meant.
    let (Some(value), None) = (values.next(), values.next()) else { return None };
    let value = value.to_str().ok()?;
    let (scheme, token) = value.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then_some(token.trim())
}
