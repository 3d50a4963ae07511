//! What a blob holds.

use bytes::Bytes;

use super::json::Json;

/// What a blob holds, as its entity reads it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Document {
    /// A JSON document; of NDJSON, the list of its documents; of an envelope, the document inside.
    Json(Json),
    /// Bytes that are not read.
    Bytes(Bytes),
}

impl Document {
    /// Whether both say the same: see [`Json::semantically_eq`].
    #[must_use]
    pub fn semantically_eq(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Json(a), Self::Json(b)) => a.semantically_eq(b),
            _ => self == other,
        }
    }

    /// The JSON document, if it is one.
    #[must_use]
    pub fn json(&self) -> Option<&Json> {
        if let Self::Json(json) = self { Some(json) } else { None }
    }
}

impl From<Json> for Document {
    fn from(json: Json) -> Self {
        Self::Json(json)
    }
}
