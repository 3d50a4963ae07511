//! Encrypted documents: FUSE's envelope, `{payload, version: 1, storedAt}`.
//!
//! `payload` is `salt:iv:tag:cipher` in hexadecimal: AES-256-GCM with an IV of 16 bytes, the key by
//! PBKDF2-HMAC-SHA512 from a secret. Neither the secret nor a derived key is ever shown or stored.

use std::collections::HashMap;
use std::fmt;
use std::num::NonZeroU32;
use std::sync::{Arc, Mutex, PoisonError};

use aes_gcm::aead::consts::U16;
use aes_gcm::aead::{Aead as _, KeyInit as _, Nonce};
use aes_gcm::{AesGcm, aes::Aes256};
use aws_lc_rs::pbkdf2;
use secrecy::{ExposeSecret as _, SecretBox, SecretString};

use super::json::Json;
use super::quarantine::{Quarantine, Reason};

type Cipher = AesGcm<Aes256, U16>;

/// How often the secret is hashed for each salt; it takes some hundredths of a second.
const ROUNDS: NonZeroU32 = NonZeroU32::new(100_000).expect("invariant: not zero");
const SALT_BYTES: usize = 64;
const IV_BYTES: usize = 16;
const TAG_BYTES: usize = 16;
/// How many derived keys are kept: a sweep opens each blob several times. About a megabyte.
const KEYS_MAX: usize = 8_192;

/// An envelope, not opened.
#[derive(Debug)]
pub(super) struct Envelope<'a> {
    payload: &'a str,
    version: &'a Json,
}

impl<'a> Envelope<'a> {
    /// A document that looks like an envelope.
    pub(super) fn of(json: &'a Json) -> Option<Self> {
        let Json::Object(members) = json else { return None };
        let known = |name: &String| ["payload", "version", "storedAt"].contains(&name.as_str());
        let (Json::String(payload), version) = (members.get("payload")?, members.get("version")?) else {
            return None;
        };
        let looks_like = members.keys().all(known) && payload.matches(':').count() == 3;
        looks_like.then_some(Self { payload, version })
    }

    /// Salt, IV, and the cipher text with its tag behind it.
    fn parts(&self) -> Option<(Vec<u8>, Vec<u8>, Vec<u8>)> {
        let parts: Vec<Vec<u8>> = self.payload.split(':').map(hex::decode).collect::<Result<_, _>>().ok()?;
        let [salt, iv, tag, mut cipher]: [Vec<u8>; 4] = parts.try_into().ok()?;
        let sized = salt.len() == SALT_BYTES && iv.len() == IV_BYTES && tag.len() == TAG_BYTES;
        cipher.extend_from_slice(&tag);
        sized.then_some((salt, iv, cipher))
    }
}

type DerivedKey = SecretBox<[u8; 32]>;

/// Opens envelopes with a secret, if there is one.
pub(super) struct Vault {
    secret: Option<SecretString>,
    keys: Mutex<HashMap<Vec<u8>, Arc<DerivedKey>>>,
}

impl fmt::Debug for Vault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Vault").field("has_secret", &self.secret.is_some()).finish_non_exhaustive()
    }
}

impl Vault {
    pub(super) fn new(secret: Option<SecretString>) -> Self {
        Self { secret, keys: Mutex::default() }
    }

    pub(super) fn has_secret(&self) -> bool {
        self.secret.is_some()
    }

    /// The text inside.
    pub(super) fn open(&self, envelope: &Envelope<'_>) -> Result<Vec<u8>, Quarantine> {
        let refused = |detail: &str| Quarantine::new(Reason::Decrypt, detail);
        if !matches!(envelope.version, Json::Number(number) if number.as_str() == "1") {
            return Err(refused("an encrypted envelope of another version than 1"));
        }
        let Some((salt, iv, cipher)) = envelope.parts() else {
            return Err(refused("an encrypted envelope that is not salt, IV, tag and text in hexadecimal"));
        };
        let Some(secret) = &self.secret else {
            return Err(refused("an encrypted envelope, and no ENCRYPTION_KEY to open it with"));
        };
        let key = self.key(secret, salt);
        let nonce = Nonce::<Cipher>::try_from(iv.as_slice()).expect("invariant: its length was checked");
        Cipher::new(key.expose_secret().into())
            .decrypt(&nonce, cipher.as_slice())
            .map_err(|_| refused("an encrypted envelope that was made with another key, or is damaged"))
    }

    fn key(&self, secret: &SecretString, salt: Vec<u8>) -> Arc<DerivedKey> {
        if let Some(key) = self.keys.lock().unwrap_or_else(PoisonError::into_inner).get(&salt) {
            return Arc::clone(key);
        }
        let mut key = Box::new([0; 32]);
        let text = secret.expose_secret().as_bytes();
        pbkdf2::derive(pbkdf2::PBKDF2_HMAC_SHA512, ROUNDS, &salt, text, key.as_mut());
        let key = Arc::new(DerivedKey::new(key));
        let mut keys = self.keys.lock().unwrap_or_else(PoisonError::into_inner);
        if keys.len() >= KEYS_MAX {
            keys.clear();
        }
        Arc::clone(keys.entry(salt).or_insert(key))
    }
}
