//! How bodies are read: lines, compressed ones, envelopes, bytes.

use std::io::Write as _;

use flate2::Compression;
use flate2::write::GzEncoder;
use secrecy::SecretString;

use super::*;
use crate::fixture::ENCRYPTION_KEY;

const DECODERS: &str = r#"
[source]
store = "test"
[target]
table = "test"
partition_key = "PK"
sort_key = "SK"
[[entity]]
name = "json"
blobs = "json/{file}"
[[entity.item]]
PK = "J#{{ file }}"
SK = "META"
[[entity]]
name = "lines"
blobs = "lines/{file}"
decode = "ndjson"
[[entity.item]]
each = "[*]"
PK = "L#{{ file }}"
SK = "{{ index }}"
[[entity]]
name = "auto"
blobs = "auto/{file}"
decode = "auto"
[[entity.item]]
PK = "A#{{ body.email }}"
SK = "META"
[[entity]]
name = "raw"
blobs = "raw/{file}"
decode = "raw"
[[entity.item]]
PK = "R#{{ file }}"
SK = "META"
body = "nested:bytes"
"#;

const SIGNUP: &[u8] = include_bytes!("../../../fixtures/envelope/signup.json");

fn keyed_mapper() -> Mapper {
    let plan: Plan = toml::from_str(DECODERS).expect("a plan");
    Mapper::with_key(&plan, Some(SecretString::from(ENCRYPTION_KEY))).expect("it compiles")
}

fn decoded(pathname: &str, body: &[u8]) -> Result<Vec<MappedItem>, Quarantine> {
    map_at(&mapper(DECODERS), pathname, body)
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
    encoder.write_all(bytes).expect("memory takes bytes");
    encoder.finish().expect("memory takes bytes")
}

#[test]
fn each_line_is_a_document() {
    let items = decoded("lines/a", b"{\"n\":1}\r\n\n  \n{\"n\":2}\n{\"n\":3}").expect("items");
    let keys: Vec<_> = items.iter().map(|item| item.key.to_string()).collect();
    assert_eq!(keys, ["L#a / 0", "L#a / 1", "L#a / 2"]);
    let mapper = mapper(DECODERS);
    let body = b"{\"n\":1}\n{\"n\":[1.50]}\n";
    let (document, rebuilt) = there_and_back(&mapper, "lines/a", body);
    assert!(rebuilt.expect("a document").semantically_eq(&document));
}

#[test]
fn a_torn_or_wrong_line_names_its_byte() {
    for (body, reason, offset) in [
        (&b"{\"n\":1}\n{\"n\":2}\n{\"n\":"[..], Reason::NotJson, 21),
        (b"{\"n\":1}\n{} {}\n", Reason::NotJson, 11),
        (b"{\"n\":1}\n{\"n\":\"\xff\"}", Reason::NotJson, 14),
        (b"{\"n\":1}\n\xef\xbb\xbf{}", Reason::NotJson, 8),
        (b"{\"n\":1}\n{\"a\":1,\"a\":2}", Reason::DuplicateName, 15),
        (b"{\"n\":1}\n\n{\"n\":1e126}", Reason::Number, 14),
    ] {
        let quarantine = decoded("lines/a", body).expect_err("it must be quarantined");
        assert_eq!((quarantine.reason, quarantine.offset), (reason, Some(offset)), "{quarantine}");
    }
    assert_eq!(reason(decoded("lines/a", b"\n \n")), Reason::NoItem);
}

#[test]
fn a_compressed_body_is_what_is_inside() {
    let body = br#"{"email":"a@x","list":[1,2]}"#;
    for pathname in ["json/a", "auto/a"] {
        let plain = decoded(pathname, body).expect("items");
        assert_eq!(decoded(pathname, &gzip(body)).expect("items"), plain);
        let twice = [gzip(&body[..7]), gzip(&body[7..])].concat();
        assert_eq!(decoded(pathname, &twice).expect("items"), plain, "members are one stream");
    }
    assert_eq!(decoded("lines/a", &gzip(b"{}\n{}\n")).expect("items").len(), 2);
}

#[test]
fn a_compressed_body_that_is_cut_off_damaged_or_a_bomb_is_quarantined() {
    let whole = gzip(&br#"{"email":"a@x"}"#.repeat(100));
    let mut damaged = whole.clone();
    *damaged.last_mut().expect("a byte") ^= 1;
    // Five gigabytes, it claims.
    let mut boasting = gzip(b"{}");
    let length = boasting.len();
    boasting[length - 4..].copy_from_slice(&[0, 0, 0, 0x40]);
    let bomb = gzip(&vec![b' '; 64 * 1024 * 1024 + 1]);
    for (name, body, detail) in [
        ("cut off", &whole[..whole.len() - 9], "cut off after"),
        ("only magic", &[0x1f, 0x8b], "cut off after 0 bytes"),
        ("checksum", &damaged, "damaged after"),
        ("rubbish", b"\x1f\x8b\xff\xff\xff\xff\xff\xff\xff\xff\xff", "damaged after 0 bytes"),
        ("boasting", &boasting, "damaged after 2 bytes"),
        ("bomb", &bomb, "larger than 67108864 bytes"),
        ("trailing", &[gzip(b"{}"), b"rubbish behind it".to_vec()].concat(), "damaged after 2 bytes"),
    ] {
        let quarantine = decoded("json/a", body).expect_err(name);
        assert_eq!(quarantine.reason, Reason::Gzip, "{name}");
        assert!(quarantine.detail.contains(detail), "{name}: {quarantine}");
    }
}

#[test]
fn an_envelope_is_opened_with_the_key_that_node_sealed_it_with() {
    let mapper = keyed_mapper();
    let items = map_at(&mapper, "auto/a", SIGNUP).expect("items");
    assert_eq!(items[0].key.partition, "A#Calm.Crane.Sealed@example.com");
    assert_eq!(items[0].item["consentToContact"], Value::Bool(true));
    assert!(!items[0].item.contains_key("storedAt"));
    assert_eq!(map_at(&mapper, "auto/a", SIGNUP).expect("items"), items, "the second time from the same key");
    let (document, rebuilt) = there_and_back(&mapper, "auto/a", SIGNUP);
    assert!(rebuilt.expect("a document").semantically_eq(&document));
    let plain = map_at(&mapper, "auto/a", br#"{"email":"a@x","version":1}"#).expect("items");
    assert_eq!(plain[0].key.partition, "A#a@x");
}

#[test]
fn an_envelope_that_cannot_be_opened_is_quarantined_and_says_why() {
    let mapper = keyed_mapper();
    let text = std::str::from_utf8(SIGNUP).expect("text");
    let other_version = text.replace("\"version\": 1", "\"version\": 2");
    let short = text.replacen("\"payload\": \"c4", "\"payload\": \"", 1);
    for (name, body, reason, detail) in [
        (
            "other key",
            include_str!("../../../fixtures/envelope/other-key.json"),
            Reason::Decrypt,
            "another key",
        ),
        (
            "flipped",
            include_str!("../../../fixtures/envelope/flipped-bit.json"),
            Reason::Decrypt,
            "another key",
        ),
        ("version", &other_version, Reason::Decrypt, "another version"),
        ("short salt", &short, Reason::Decrypt, "not salt, IV, tag"),
        (
            "not hex",
            r#"{"payload":"a:b:c:d","version":1,"storedAt":"x"}"#,
            Reason::Decrypt,
            "not salt, IV, tag",
        ),
        (
            "not JSON",
            include_str!("../../../fixtures/envelope/not-json.json"),
            Reason::NotJson,
            "within the envelope",
        ),
    ] {
        let quarantine = map_at(&mapper, "auto/a", body.as_bytes()).expect_err(name);
        assert_eq!(quarantine.reason, reason, "{name}: {quarantine}");
        assert!(quarantine.detail.contains(detail), "{name}: {quarantine}");
    }
    let without = decoded("auto/a", SIGNUP).expect_err("there is no key");
    assert_eq!(without.reason, Reason::Decrypt);
    assert!(without.detail.contains("no ENCRYPTION_KEY"), "{without}");
}

#[test]
fn blobs_that_are_always_encrypted_need_a_key_and_nothing_else() {
    let text = DECODERS.replace("decode = \"auto\"", "decode = \"fuse-envelope\"");
    let plan: Plan = toml::from_str(&text).expect("a plan");
    let error = Mapper::new(&plan).expect_err("there is no key");
    assert_eq!(error.kind(), ErrorKind::Usage);
    assert!(error.advice().expect("a hint").contains("ENCRYPTION_KEY"));
    let mapper = Mapper::with_key(&plan, Some(SecretString::from(ENCRYPTION_KEY))).expect("it compiles");
    assert!(map_at(&mapper, "auto/a", SIGNUP).is_ok());
    assert_eq!(reason(map_at(&mapper, "auto/a", br#"{"email":"a@x"}"#)), Reason::Shape);
}

#[test]
fn the_key_is_in_no_digest_and_never_shown() {
    let (with, without) = (keyed_mapper(), mapper(DECODERS));
    assert_eq!(with.digest(EntityId(2)), without.digest(EntityId(2)));
    map_at(&with, "auto/a", SIGNUP).expect("items");
    assert!(!format!("{with:?}").contains(ENCRYPTION_KEY));
}

#[test]
fn bytes_are_not_read() {
    for body in [&b"\x1f\x8b\xff"[..], b"", b"{", b"\0\x01"] {
        let items = decoded("raw/a", body).expect("items");
        assert_eq!(items[0].item["bytes"], Value::B(body.to_vec().into()));
        let (document, rebuilt) = there_and_back(&mapper(DECODERS), "raw/a", body);
        assert_eq!(rebuilt, Some(document));
    }
    assert_eq!(reason(decoded("raw/a", &[0; ITEM_BYTES_MAX])), Reason::ItemTooLarge);
}
