//! From the bytes of a blob to its document.

use std::borrow::Cow;
use std::io::Read as _;
use std::sync::Arc;

use bytes::Bytes;
use flate2::read::MultiGzDecoder;

use super::document::Document;
use super::envelope::{Envelope, Vault};
use super::json::{Json, Reading};
use super::quarantine::{Quarantine, Reason};
use crate::converge::BODY_BYTES_MAX;
use crate::plan::Decode;

/// What a gzip file begins with (RFC 1952).
const GZIP_MAGIC: [u8; 2] = [0x1f, 0x8b];

/// The document that a body holds. Offsets are those of the body; of a compressed or encrypted one, of what is
/// inside.
pub(super) fn decode(
    decode: Decode,
    reading: Reading,
    vault: &Vault,
    body: &[u8],
) -> Result<Document, Quarantine> {
    if decode == Decode::Raw {
        return Ok(Document::Bytes(Bytes::copy_from_slice(body)));
    }
    let body = if is_gzip(body) { Cow::Owned(inflate(body)?) } else { Cow::Borrowed(body) };
    let json = match decode {
        Decode::Json | Decode::Raw => Json::read(&body, reading)?,
        Decode::Ndjson => lines(&body, reading)?,
        Decode::Auto | Decode::FuseEnvelope => {
            let json = Json::read(&body, reading)?;
            match Envelope::of(&json) {
                Some(envelope) => inside(&vault.open(&envelope)?, reading)?,
                None if decode == Decode::Auto => json,
                None => return Err(Quarantine::new(Reason::Shape, "it is not an encrypted envelope")),
            }
        }
    };
    Ok(Document::Json(json))
}

/// Whether a body that begins so is compressed.
pub(super) fn is_gzip(body: &[u8]) -> bool {
    body.starts_with(&GZIP_MAGIC)
}

fn inflate(body: &[u8]) -> Result<Vec<u8>, Quarantine> {
    let mut inflated = Vec::new();
    // The length that the file itself claims is not looked at.
    let read = MultiGzDecoder::new(body).take(BODY_BYTES_MAX + 1).read_to_end(&mut inflated);
    let detail = match read {
        Ok(bytes) if bytes as u64 <= BODY_BYTES_MAX => return Ok(inflated),
        Ok(_) => format!("compressed, and larger than {BODY_BYTES_MAX} bytes"),
        Err(error) if error.kind() == std::io::ErrorKind::UnexpectedEof => {
            format!("compressed, and cut off after {} bytes of what is inside", inflated.len())
        }
        Err(_) => format!("compressed, and damaged after {} bytes of what is inside", inflated.len()),
    };
    Err(Quarantine::new(Reason::Gzip, detail))
}

/// The list of the documents, one on each line that is not blank.
fn lines(body: &[u8], reading: Reading) -> Result<Json, Quarantine> {
    let mut list = Vec::new();
    let mut offset = 0;
    for line in body.split_inclusive(|byte| *byte == b'\n') {
        if !line.trim_ascii().is_empty() {
            list.push(Json::read(line, Reading { offset, ..reading })?);
        }
        offset += line.len() as u64;
    }
    Ok(Json::Array(Arc::new(list)))
}

fn inside(text: &[u8], reading: Reading) -> Result<Json, Quarantine> {
    Json::read(text, reading).map_err(|quarantine| Quarantine {
        detail: format!("within the envelope: {}", quarantine.detail),
        ..quarantine
    })
}
