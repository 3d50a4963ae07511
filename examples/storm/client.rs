//! A client of the Blob API that says of each call exactly what it was told: no repetition, no interpretation.

use std::time::Duration;

use migrate::blob::wire::{
    ErrorReply, HeadReply, ListReply, PartEntry, PartReply, PutReply, UploadReply, header,
};
use reqwest::{Client as Http, RequestBuilder, StatusCode};
use serde::de::DeserializeOwned;
use serde_json::json;

use crate::blobs::{Contents, Key, Keys, Kind, State, Told};
use crate::history::{Answer, Call, Refusal};

/// How long a client waits.
const PATIENCE: Duration = Duration::from_secs(8);
/// What a gateway says after the way back, while a request of the mirror may land that nobody saw answered.
pub(crate) const HELD_BACK: &str = "would undo this write if it landed after it";
/// What a gateway says where it has done nothing. It is held to it: such a call must have no effect.
const NOTHING_DONE: [&str; 5] = [
    "nothing was written",
    "writes are held; try again",
    "the gateway is not ready yet",
    "DynamoDB is the authority and can't be reached",
    HELD_BACK,
];

/// One for all clients: connections are shared.
#[derive(Clone)]
pub(crate) struct Client {
    http: Http,
    token: String,
}

/// What a client was told, and what of it can't be.
pub(crate) struct Outcome {
    pub(crate) answer: Answer,
    /// Bytes or an ETag that no client ever wrote.
    pub(crate) torn: Option<String>,
}

impl From<Answer> for Outcome {
    fn from(answer: Answer) -> Self {
        Self { answer, torn: None }
    }
}

/// Why there is no reply to a call.
enum Lack {
    /// It was never sent.
    Unsent(String),
    Silence(String),
    Refused {
        status: StatusCode,
        message: String,
    },
}

impl Client {
    pub(crate) fn new(token: &str) -> anyhow::Result<Self> {
        Ok(Self { http: Http::builder().no_proxy().build()?, token: token.to_owned() })
    }

    /// Makes a call about one key.
    pub(crate) async fn call(
        &self,
        base: &str,
        (key, call): (Key, Call),
        (keys, contents): (&Keys, &Contents),
    ) -> Outcome {
        let (name, kind) = (keys.name(key), keys.kind(key));
        match call {
            Call::Head | Call::Listed => self.head(base, name, contents).await,
            Call::Get => self.get(base, name, contents).await,
            Call::Put(content) => self.put(base, name, contents.make(kind, content), "1", None).await,
            Call::Create(content) => self.put(base, name, contents.make(kind, content), "0", None).await,
            Call::PutIf { expected, content } => {
                let etag = crate::blobs::etag(&crate::blobs::body(kind, expected));
                self.put(base, name, contents.make(kind, content), "1", Some(etag)).await
            }
            Call::Upload(content) => self.upload(base, name, contents.make(kind, content)).await,
            Call::Delete => self.delete(base, name, None).await,
            Call::DeleteIf(expected) => {
                let etag = crate::blobs::etag(&crate::blobs::body(kind, expected));
                self.delete(base, name, Some(etag)).await
            }
            Call::Copy { from, overwrite } => {
                let asked = [("pathname", name), ("fromUrl", keys.name(from))];
                self.copied(self.http.put(url(base, "/", &asked)), overwrite, contents).await
            }
            Call::Rename { from, overwrite } => {
                let asked = [("pathname", name), ("fromUrl", keys.name(from))];
                self.copied(self.http.post(url(base, "/rename", &asked)), overwrite, contents).await
            }
        }
    }

    /// The state of each of these keys by a listing; none where there is no answer.
    pub(crate) async fn list(
        &self,
        base: &str,
        prefix: &str,
        (keys, contents): (&Keys, &Contents),
    ) -> Result<Vec<(Key, Result<State, String>)>, String> {
        let mut found: Vec<(Key, Result<State, String>)> =
            keys.all().filter(|key| keys.name(*key).starts_with(prefix)).map(|key| (key, Ok(None))).collect();
        let mut cursor: Option<String> = None;
        loop {
            let mut asked = vec![("prefix", prefix), ("limit", "100")];
            asked.extend(cursor.as_deref().map(|cursor| ("cursor", cursor)));
            let reply = self.json::<ListReply>(self.http.get(url(base, "", &asked))).await;
            let reply = reply.map_err(Lack::said)?;
            for blob in &reply.blobs {
                let Some(key) = keys.named(&blob.pathname) else {
                    return Err(format!("{} is listed, which nobody wrote", blob.pathname));
                };
                let told = match contents.of_etag(&blob.etag, Some(blob.size)) {
                    Told::Known(content) => Ok(Some(content)),
                    Told::Torn(why) => Err(why),
                };
                if let Some(entry) = found.iter_mut().find(|(known, _)| *known == key) {
                    entry.1 = told;
                }
            }
            match reply.cursor.filter(|_| reply.has_more) {
                Some(next) => cursor = Some(next),
                None => return Ok(found),
            }
        }
    }

    async fn head(&self, base: &str, name: &str, contents: &Contents) -> Outcome {
        match self.json::<HeadReply>(self.http.get(url(base, "", &[("url", name)]))).await {
            Ok(reply) => told(contents.of_etag(&reply.put.etag, Some(reply.size))),
            Err(lack) => lack.of_read(),
        }
    }

    async fn get(&self, base: &str, name: &str, contents: &Contents) -> Outcome {
        let origin = base.strip_suffix("/api/blob").unwrap_or(base);
        let request = self.http.get(format!("{origin}/content/{name}"));
        match self.send(request).await {
            Ok(bytes) => told(contents.of_bytes(&bytes)),
            Err(lack) => lack.of_read(),
        }
    }

    async fn put(
        &self,
        base: &str,
        name: &str,
        body: Vec<u8>,
        overwrite: &str,
        if_match: Option<String>,
    ) -> Outcome {
        let mut request = self.http.put(url(base, "/", &[("pathname", name)])).body(body);
        request = request.header(header::ALLOW_OVERWRITE, overwrite).header(header::ACCESS, "public");
        if let Some(etag) = if_match {
            request = request.header(header::IF_MATCH, etag);
        }
        match self.json::<PutReply>(request).await {
            Ok(_) => Answer::Done(None).into(),
            Err(lack) => lack.of_write().into(),
        }
    }

    async fn copied(&self, request: RequestBuilder, overwrite: bool, contents: &Contents) -> Outcome {
        let overwrite = if overwrite { "1" } else { "0" };
        let request = request.header(header::ALLOW_OVERWRITE, overwrite).header(header::ACCESS, "public");
        match self.json::<PutReply>(request.header(http::header::CONTENT_LENGTH, 0)).await {
            Ok(reply) => match contents.of_etag(&reply.etag, None) {
                Told::Known(content) => Answer::Done(Some(content)).into(),
                Told::Torn(why) => Outcome { answer: Answer::Unknown(why.clone()), torn: Some(why) },
            },
            Err(lack) => lack.of_write().into(),
        }
    }

    async fn delete(&self, base: &str, name: &str, if_match: Option<String>) -> Outcome {
        let mut request =
            self.http.post(format!("{base}/delete")).body(json!({ "urls": [name] }).to_string());
        if let Some(etag) = if_match {
            request = request.header(header::IF_MATCH, etag);
        }
        match self.send(request).await {
            Ok(_) => Answer::Done(None).into(),
            Err(lack) => lack.of_write().into(),
        }
    }

    /// In one part: only the last step has an effect.
    async fn upload(&self, base: &str, name: &str, body: Vec<u8>) -> Outcome {
        let step = |action: &str| {
            let request = self.http.post(url(base, "/mpu", &[("pathname", name)]));
            let request = request.header(header::MPU_ACTION, action).header(header::ACCESS, "public");
            request.header(header::ALLOW_OVERWRITE, "1")
        };
        let nothing = |lack: Lack| Outcome::from(Answer::Nothing(lack.said()));
        let create = step("create").header(http::header::CONTENT_LENGTH, 0);
        let upload = match self.json::<UploadReply>(create).await {
            Ok(upload) => upload,
            Err(lack) => return nothing(lack),
        };
        let of = |request: RequestBuilder| {
            let key = percent_encoding::utf8_percent_encode(&upload.key, percent_encoding::NON_ALPHANUMERIC);
            request.header(header::MPU_UPLOAD_ID, &upload.upload_id).header(header::MPU_KEY, key.to_string())
        };
        let part = of(step("upload")).header(header::MPU_PART_NUMBER, "1").body(body);
        let part = match self.json::<PartReply>(part).await {
            Ok(part) => part,
            Err(lack) => return nothing(lack),
        };
        let parts = [PartEntry { etag: part.etag, part_number: 1 }];
        match self.json::<PutReply>(of(step("complete")).body(json!(parts).to_string())).await {
            Ok(_) => Answer::Done(None).into(),
            Err(lack) => lack.of_write().into(),
        }
    }

    async fn json<T: DeserializeOwned>(&self, request: RequestBuilder) -> Result<T, Lack> {
        let bytes = self.send(request).await?;
        serde_json::from_slice(&bytes).map_err(|error| Lack::Silence(format!("the reply is torn: {error}")))
    }

    async fn send(&self, request: RequestBuilder) -> Result<Vec<u8>, Lack> {
        let request = request.bearer_auth(&self.token).header(header::API_VERSION, "12").timeout(PATIENCE);
        let reply = request.send().await.map_err(Lack::of)?;
        let status = reply.status();
        let bytes = reply.bytes().await.map_err(Lack::of)?;
        if status.is_success() {
            return Ok(bytes.to_vec());
        }
        let message = serde_json::from_slice::<ErrorReply>(&bytes).map(|reply| reply.error.message);
        let message = message.unwrap_or_else(|_| String::from_utf8_lossy(&bytes).into_owned());
        Err(Lack::Refused { status, message })
    }
}

fn url(base: &str, route: &str, query: &[(&str, &str)]) -> String {
    let query = form_urlencoded::Serializer::new(String::new()).extend_pairs(query).finish();
    format!("{base}{route}?{query}")
}

fn told(told: Told) -> Outcome {
    match told {
        Told::Known(content) => Answer::Told(Some(content)).into(),
        Told::Torn(why) => Outcome { answer: Answer::Failed(why.clone()), torn: Some(why) },
    }
}

impl Lack {
    fn of(error: reqwest::Error) -> Self {
        if error.is_connect() {
            return Self::Unsent("no connection".to_owned());
        }
        let why = if error.is_timeout() { "timed out" } else { "the connection broke" };
        Self::Silence(why.to_owned())
    }

    fn said(self) -> String {
        match self {
            Self::Unsent(why) | Self::Silence(why) => why,
            Self::Refused { status, message } => format!("{} {message}", status.as_u16()),
        }
    }

    fn of_read(self) -> Outcome {
        match self {
            Self::Refused { status: StatusCode::NOT_FOUND, .. } => Answer::Told(None).into(),
            lack => Answer::Failed(lack.said()).into(),
        }
    }

    fn of_write(self) -> Answer {
        let Self::Refused { status, message } = &self else {
            return match self {
                Self::Unsent(why) => Answer::Nothing(why),
                lack => Answer::Silence(lack.said()),
            };
        };
        match *status {
            StatusCode::PRECONDITION_FAILED => Answer::Refused(Refusal::Mismatch),
            StatusCode::NOT_FOUND => Answer::Refused(Refusal::Missing),
            StatusCode::BAD_REQUEST if message.contains("already exists") => Answer::Refused(Refusal::Exists),
            StatusCode::SERVICE_UNAVAILABLE if NOTHING_DONE.iter().any(|known| message.contains(known)) => {
                Answer::Nothing(self.said())
            }
            _ => Answer::Unknown(self.said()),
        }
    }
}

/// What a key may be asked for besides put, delete and read.
pub(crate) const fn takes_conditions(kind: Kind) -> bool {
    // A multipart upload's ETag is not that of its bytes, so a condition may fail though the content is the same.
    !matches!(kind, Kind::Parts)
}
