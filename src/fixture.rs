//! Example data: a seeded generator of a store as FUSE's is, with the hard cases beside it.
//!
//! The same seed gives the same bytes, always. Every blob comes with what must become of it under the
//! plan that the project ships ([`PLAN`]), so that tests compare with a model and not with themselves.
//! Nobody's data is in here: the people are animals, their addresses are under `example.com`.

mod hard;
mod shapes;

use bytes::Bytes;
use rand::seq::IndexedRandom as _;
use rand::{RngExt as _, SeedableRng as _};
use rand_chacha::ChaCha8Rng;
use serde_json::{Map, Value, json};

use crate::blob::Pathname;
use crate::digest::Digest;
use crate::mapping::Reason;

pub use hard::legacy_owner;
pub use shapes::{SHAPES_PLAN, shapes};

/// The plan that the example data is for: FUSE's, as the project ships it.
pub const PLAN: &str = include_str!("../migration-plan.md");

/// What the encrypted blobs of the example data are encrypted with: the secret in `fixtures/envelope/make.mjs`.
pub const ENCRYPTION_KEY: &str = "the key of the example data, which protects nothing";

/// When the first sign-up of the example data came: 2026-01-05T08:00:00Z, in milliseconds.
const FIRST_SIGNUP_MS: i64 = 1_767_600_000_000;

/// The content type of JSON blobs.
const JSON: &str = "application/json";

/// A blob of the example data.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FixtureBlob {
    /// Its name, unique among the blobs of one seed.
    pub pathname: Pathname,
    /// Its media type.
    pub content_type: &'static str,
    /// Its bytes.
    pub body: Bytes,
    /// What must become of it under the plan that it is for.
    pub expected: Expected,
}

/// So many items have two of the blobs of [`blobs`] in common: the sign-up and the consent summary of one
/// address.
pub const SHARED_ITEMS: usize = 2;

/// What must become of a blob under the plan that it is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Expected {
    /// It becomes this many items.
    Items(usize),
    /// It is ignored.
    Ignored,
    /// It is accepted. Without the plan's accept rules it is quarantined for this reason.
    Accepted(Reason),
    /// It is quarantined for this reason.
    Quarantined(Reason),
}

/// The example data of a seed: so many sign-ups in the four generations of plain JSON, and then a few
/// assets and every hard case, the encrypted generation among them. Sign-ups are made as they are asked for.
pub fn blobs(seed: u64, signups: usize) -> impl Iterator<Item = FixtureBlob> {
    self::signups(seed, signups, 0).chain(assets()).chain(hard::cases())
}

/// Sign-ups alone, in four generations, each of at least `body_bytes_min` bytes.
pub fn signups(seed: u64, count: usize, body_bytes_min: usize) -> impl Iterator<Item = FixtureBlob> {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    (0..count).map(move |number| signup(&mut rng, number, body_bytes_min))
}

const ADJECTIVES: [&str; 12] = [
    "quiet", "amber", "brisk", "calm", "dusty", "eager", "frosty", "gentle", "hazel", "ivory", "jolly",
    "keen",
];
const ANIMALS: [&str; 12] = [
    "otter", "badger", "crane", "dingo", "ermine", "finch", "gecko", "heron", "ibis", "jackal", "koala",
    "lynx",
];
const INTERESTS: [&str; 5] = ["agents", "costs", "compliance", "integration", "just looking — «ünïcode» ✓"];

fn signup(rng: &mut ChaCha8Rng, number: usize, body_bytes_min: usize) -> FixtureBlob {
    let mut pick = |words: &[&'static str]| words.choose(rng).copied().unwrap_or_default();
    let (adjective, animal, interest) = (pick(&ADJECTIVES), pick(&ANIMALS), pick(&INTERESTS));
    let email = format!("{}.{animal}.{number:06}@example.com", capital(adjective));
    let generation = rng.random_range(1..=4);
    let milliseconds =
        FIRST_SIGNUP_MS + i64::try_from(number).unwrap_or_default() * 61_000 + rng.random_range(0..60_000);
    let suffix: u64 = rng.random();
    let time = crate::plan::iso8601(jiff::Timestamp::from_millisecond(milliseconds).unwrap_or_default());
    let mut record = Map::new();
    record.insert("email".to_owned(), json!(email));
    record.insert("fullName".to_owned(), json!(format!("{} {}", capital(adjective), capital(animal))));
    record.insert("signupDate".to_owned(), json!(time));
    if generation >= 3 {
        record.insert("mainInterest".to_owned(), json!(interest));
    }
    let consents = generation >= 4;
    if consents {
        record.insert("consentToContact".to_owned(), json!(rng.random_range(0..4) != 0));
        record.insert("policyVersion".to_owned(), json!("2026-01"));
        record.insert("consentTimestamp".to_owned(), json!(time));
    }
    let mut body = pretty(&record);
    if body.len() < body_bytes_min {
        let padding = body_bytes_min - body.len();
        record.insert("referrer".to_owned(), json!("https://example.com/".to_owned() + &"x".repeat(padding)));
        body = pretty(&record);
    }
    // The first generation has the address in the name, the others 16 digits of its hash.
    let stem = if generation == 1 {
        email.chars().map(|letter| if letter.is_ascii_alphanumeric() { letter } else { '_' }).collect()
    } else {
        Digest::of(email.to_lowercase()).to_string()[..16].to_owned()
    };
    FixtureBlob {
        pathname: Pathname::new(format!("signups/{stem}_{milliseconds}-{suffix:016x}.json")),
        content_type: JSON,
        body: body.into(),
        expected: Expected::Items(if consents { 3 } else { 1 }),
    }
}

fn capital(word: &str) -> String {
    let mut letters = word.chars();
    letters.next().map(|first| first.to_ascii_uppercase()).into_iter().chain(letters).collect()
}

/// Two spaces, as the application writes it.
fn pretty(record: &Map<String, Value>) -> String {
    format!("{:#}", Value::Object(record.clone()))
}

fn assets() -> impl Iterator<Item = FixtureBlob> {
    // The signature of a PNG and the head of its first chunk: nobody reads on.
    let image = Bytes::from_static(b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR");
    ["logo.png", "products/7/front.png", "products/7/hintere ansicht.png"].into_iter().map(move |name| {
        FixtureBlob {
            pathname: Pathname::new(format!("assets/{name}")),
            content_type: "image/png",
            body: image.clone(),
            expected: Expected::Ignored,
        }
    })
}
