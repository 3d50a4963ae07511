//! The keys with which the server signs: all of them follow from the read-write token, so that they are the
//! same after a restart, and in every server of the store.

use aws_lc_rs::encoding::{AsDer as _, PublicKeyX509Der};
use aws_lc_rs::signature::{Ed25519KeyPair, KeyPair as _};
use base64::Engine as _;
use base64::prelude::{BASE64_STANDARD, BASE64_URL_SAFE_NO_PAD};
use hmac::{Hmac, KeyInit as _, Mac as _};
use secrecy::{ExposeSecret as _, SecretString};
use sha2::Sha256;

/// What is derived from the token.
pub(super) struct Keys {
    delegation: Vec<u8>,
    webhook: Ed25519KeyPair,
}

impl Keys {
    pub(super) fn of(token: &SecretString) -> Self {
        let derived =
            |label: &str| mac(token.expose_secret().as_bytes(), label).finalize().into_bytes().to_vec();
        let webhook = Ed25519KeyPair::from_seed_unchecked(&derived("migrate: upload callbacks"))
            .expect("invariant: 32 bytes are a seed");
        Self { delegation: derived("migrate: delegation tokens"), webhook }
    }

    /// The MAC of the payload of a delegation token.
    pub(super) fn delegation_mac(&self, payload: &str) -> String {
        sign_url_safe(&self.delegation, payload)
    }

    /// Whether it is that MAC.
    pub(super) fn is_delegation_mac(&self, payload: &str, found: &str) -> bool {
        verify_url_safe(&self.delegation, payload, found)
    }

    /// The key with which the bearer of a delegation token signs URLs. A token has a dot, and a payload has
    /// none: no MAC of the one is ever one of the other.
    pub(super) fn client_signing_token(&self, delegation_token: &str) -> String {
        sign_url_safe(&self.delegation, delegation_token)
    }

    /// The signature of a callback to the application that signed a URL, in hexadecimal.
    pub(super) fn sign_callback(&self, body: &[u8]) -> String {
        hex::encode(self.webhook.sign(body))
    }

    /// The key that verifies those signatures: PEM, in one line, as the SDK takes it from
    /// `BLOB_WEBHOOK_PUBLIC_KEY`.
    pub(super) fn webhook_public_key(&self) -> String {
        let der: PublicKeyX509Der<'_> =
            self.webhook.public_key().as_der().expect("invariant: a key of this form can be written");
        let text = BASE64_STANDARD.encode(der.as_ref());
        format!("-----BEGIN PUBLIC KEY-----{text}-----END PUBLIC KEY-----")
    }
}

/// The MAC of a text, in hexadecimal.
pub(super) fn sign_hex(key: &[u8], text: &str) -> String {
    hex::encode(mac(key, text).finalize().into_bytes())
}

/// Whether it is the MAC of the text; takes the same time whatever is wrong.
pub(super) fn verify(key: &[u8], text: &str, found: &[u8]) -> bool {
    mac(key, text).verify_slice(found).is_ok()
}

/// As [`verify`], for base64url.
pub(super) fn verify_url_safe(key: &[u8], text: &str, found: &str) -> bool {
    BASE64_URL_SAFE_NO_PAD.decode(found).is_ok_and(|found| verify(key, text, &found))
}

fn sign_url_safe(key: &[u8], text: &str) -> String {
    BASE64_URL_SAFE_NO_PAD.encode(mac(key, text).finalize().into_bytes())
}

fn mac(key: &[u8], text: &str) -> Hmac<Sha256> {
    Hmac::new_from_slice(key).expect("invariant: a key may have any length").chain_update(text.as_bytes())
}
