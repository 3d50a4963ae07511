//! OIDC bearers: what `VERCEL_OIDC_TOKEN` holds in place of a read-write token.

use std::fmt;

use jiff::Timestamp;
use jsonwebtoken::jwk::{AlgorithmParameters, JwkSet};
use jsonwebtoken::{Algorithm, DecodingKey, Validation};
use secrecy::{ExposeSecret as _, SecretString};
use serde::Deserialize;
use subtle::ConstantTimeEq as _;

use crate::error::{Error, ErrorKind, Result};

/// By how much the issuer's clock may be ahead or behind, in seconds.
const LEEWAY_SECONDS: i64 = 60;

/// Which OIDC tokens are taken as the owner's.
#[derive(Clone, Default)]
pub struct Oidc {
    /// One that is taken as it is, for tests.
    pub token: Option<SecretString>,
    /// The keys of the issuer: JWTs that one of them signed (RS256) are taken while they are valid.
    pub keys: Option<KeySet>,
    /// The issuer (`iss`) that JWTs must name.
    pub issuer: Option<String>,
    /// The audience (`aud`) that JWTs must name.
    pub audience: Option<String>,
}

impl fmt::Debug for Oidc {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Oidc")
            .field("issuer", &self.issuer)
            .field("audience", &self.audience)
            .finish_non_exhaustive()
    }
}

/// The public keys of an issuer.
#[derive(Clone)]
pub struct KeySet(JwkSet);

impl KeySet {
    /// Takes a JSON Web Key Set, as the issuer publishes it.
    ///
    /// # Errors
    /// `Usage` where it is none, or has no RSA key.
    pub fn from_json(json: &[u8]) -> Result<Self> {
        let failed = |message: &str| {
            Error::new(ErrorKind::Usage, "load the keys of an OIDC issuer").message(message).hint(
                "it must be what the issuer has at /.well-known/jwks: {\"keys\": [{\"kty\": \"RSA\", …}]}",
            )
        };
        let set: JwkSet = serde_json::from_slice(json)
            .map_err(|error| failed("it is no JSON Web Key Set").source(error))?;
        if !set.keys.iter().any(|key| matches!(key.algorithm, AlgorithmParameters::RSA(_))) {
            return Err(failed("there is no RSA key in it"));
        }
        Ok(Self(set))
    }
}

/// The claims that are checked here, by the server's own clock.
#[derive(Deserialize)]
struct Claims {
    exp: i64,
    nbf: Option<i64>,
}

impl Oidc {
    /// Whether the token is one of the owner's.
    pub(super) fn takes(&self, token: &str, now: Timestamp) -> bool {
        let same = |known: &SecretString| known.expose_secret().as_bytes().ct_eq(token.as_bytes()).into();
        self.token.as_ref().is_some_and(same) || self.verify(token, now).is_some()
    }

    fn verify(&self, token: &str, now: Timestamp) -> Option<()> {
        let keys = &self.keys.as_ref()?.0;
        let key = match jsonwebtoken::decode_header(token).ok()?.kid {
            Some(id) => keys.find(&id)?,
            None if keys.keys.len() == 1 => &keys.keys[0],
            None => return None,
        };
        if !matches!(key.algorithm, AlgorithmParameters::RSA(_)) {
            return None;
        }
        // Whatever the token says of its algorithm: an RSA key verifies RS256.
        let mut validation = Validation::new(Algorithm::RS256);
        validation.validate_exp = false;
        validation.validate_aud = self.audience.is_some();
        let mut required = vec!["exp"];
        if let Some(audience) = &self.audience {
            validation.set_audience(&[audience]);
            required.push("aud");
        }
        if let Some(issuer) = &self.issuer {
            validation.set_issuer(&[issuer]);
            required.push("iss");
        }
        validation.set_required_spec_claims(&required);
        let key = DecodingKey::from_jwk(key).ok()?;
        let claims = jsonwebtoken::decode::<Claims>(token, &key, &validation).ok()?.claims;
        let now = now.as_second();
        let begun = claims.nbf.is_none_or(|begin| begin <= now.saturating_add(LEEWAY_SECONDS));
        (begun && claims.exp.saturating_add(LEEWAY_SECONDS) > now).then_some(())
    }
}
