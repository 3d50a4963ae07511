//! New rows of the control table, without the layers of the SDK: the intent of a write through the gateway is
//! one, and the write's client waits for it.
//!
//! The SDK takes half of the time of such a request to an engine on this machine, most of it for what is the same
//! each time. Endpoint, credentials, signature and connection are the SDK's here too. This module never decides what
//! a refusal means for a row: all but "applied", "too fast" and "nobody knows" is left to the SDK, which asks anew.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use aws_config::SdkConfig;
use aws_sdk_dynamodb::config::endpoint::{DefaultResolver, Params, ResolveEndpoint as _};
use aws_sdk_dynamodb::config::{Credentials, ProvideCredentials as _, SharedCredentialsProvider};
use aws_sigv4::http_request::{SignableBody, SignableRequest, SigningSettings, sign};
use aws_sigv4::sign::v4;
use aws_smithy_http_client::Connector;
use aws_smithy_http_client::proxy::ProxyConfig;
use aws_smithy_http_client::tls::Provider;
use aws_smithy_http_client::tls::rustls_provider::CryptoMode;
use aws_smithy_runtime_api::client::http::{HttpConnector as _, HttpConnectorSettings};
use aws_smithy_runtime_api::client::orchestrator::HttpRequest;
use aws_smithy_runtime_api::client::result::ConnectorError;
use aws_smithy_runtime_api::http::StatusCode;
use aws_smithy_types::body::SdkBody;
use aws_smithy_types::byte_stream::{AggregatedBytes, ByteStream};
use bytes::Bytes;
use serde::ser::{Error as _, SerializeMap as _};
use serde::{Deserialize, Serialize, Serializer};

use super::failure::{Call, Failure, never_connected};
use crate::clock::Clock;
use crate::error::ErrorKind;
use crate::value::{Item, Value};

/// The version of the API and the operation, as the SDK names them.
const TARGET: &str = "DynamoDB_20120810.PutItem";
/// That there is no row: its partition key is [`CONTROL_PARTITION_KEY`](crate::target::store::CONTROL_PARTITION_KEY).
const ABSENT: &str = "attribute_not_exists(pk)";
const JSON: &str = "application/x-amz-json-1.0";
/// The name that requests are signed for.
const SERVICE: &str = "dynamodb";
/// Credentials are asked for anew this long before they expire.
const BEFORE_EXPIRY: Duration = Duration::from_secs(60);

/// What became of a request.
pub(super) enum Sent {
    /// The row was not there, and is now.
    Applied,
    /// The endpoint wants a slower pace, or nobody knows whether the row was stored.
    Failed(Failure),
    /// It was not stored: the SDK is to say why, or to do better.
    AskTheSdk,
}

/// A client for one kind of request.
pub(super) struct Express {
    http: Connector,
    url: String,
    /// How long one request may take.
    attempt: Duration,
    region: String,
    provider: SharedCredentialsProvider,
    credentials: Mutex<Option<Credentials>>,
    /// An endpoint that does not take what is sent here is not asked again.
    refused: AtomicBool,
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct PutItem<'a> {
    table_name: &'a str,
    item: Typed<'a>,
    condition_expression: &'static str,
}

/// That a row was stored.
#[derive(Deserialize)]
struct Reply {}

#[derive(Deserialize, Default)]
struct Refusal {
    #[serde(rename = "__type", default)]
    code: String,
    #[serde(alias = "Message", default)]
    message: String,
}

/// An item as DynamoDB's JSON, where it is of what rows of the control table are made of.
struct Typed<'a>(&'a Item);

struct TypedValue<'a>(&'a Value);

impl Serialize for Typed<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(self.0.iter().map(|(name, value)| (name, TypedValue(value))))
    }
}

impl Serialize for TypedValue<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(Some(1))?;
        match self.0 {
            Value::S(text) => map.serialize_entry("S", text)?,
            Value::N(number) => map.serialize_entry("N", number.as_str())?,
            Value::Bool(truth) => map.serialize_entry("BOOL", truth)?,
            Value::Null => map.serialize_entry("NULL", &true)?,
            Value::L(list) => map.serialize_entry("L", &list.iter().map(TypedValue).collect::<Vec<_>>())?,
            Value::M(item) => map.serialize_entry("M", &Typed(item))?,
            Value::B(_) | Value::Ss(_) | Value::Ns(_) | Value::Bs(_) => {
                return Err(S::Error::custom("no part of such a row"));
            }
        }
        map.end()
    }
}

impl Express {
    /// A client for the endpoint that the SDK would ask; none where that can't be told, or where it has no
    /// credentials.
    pub(super) async fn new(config: &SdkConfig, connect: Duration, attempt: Duration) -> Option<Self> {
        let params = Params::builder()
            .set_region(config.region().map(ToString::to_string))
            .set_endpoint(config.endpoint_url().map(str::to_owned))
            .set_use_fips(config.use_fips())
            .set_use_dual_stack(config.use_dual_stack())
            .build()
            .ok()?;
        let endpoint = DefaultResolver::new().resolve_endpoint(&params).await.ok()?;
        // As the SDK's default client has it.
        let mut http = Connector::builder().tls_provider(Provider::Rustls(CryptoMode::AwsLc));
        http.set_connector_settings(Some(HttpConnectorSettings::builder().connect_timeout(connect).build()));
        http.set_sleep_impl(config.sleep_impl());
        http.set_proxy_config(Some(ProxyConfig::from_env()));
        Some(Self {
            http: http.build(),
            url: endpoint.url().to_owned(),
            attempt,
            region: config.region()?.to_string(),
            provider: config.credentials_provider()?,
            credentials: Mutex::new(None),
            refused: AtomicBool::new(false),
        })
    }

    /// Stores a row of the control table where none is there.
    pub(super) async fn put_new(&self, call: &Call<'_>, clock: &dyn Clock, table: &str, item: &Item) -> Sent {
        if self.refused.load(Ordering::Relaxed) {
            return Sent::AskTheSdk;
        }
        let now = SystemTime::from(clock.now());
        let Some(request) = self.request(now, table, item).await else { return Sent::AskTheSdk };
        let lost = |message| Sent::Failed(call.error(ErrorKind::OutcomeUnknown).message(message).into());
        let (status, body) = match tokio::time::timeout(self.attempt, self.ask(request)).await {
            Ok(Ok(reply)) => reply,
            Ok(Err(error)) if never_connected(&error) || error.is_user() => return Sent::AskTheSdk,
            Ok(Err(_)) => return lost("the connection broke before the reply was complete"),
            Err(_) => return lost("no reply in time"),
        };
        if status.is_success() {
            // It says nothing, but it is DynamoDB that says so, and not whoever answers all that is asked.
            let readable = body.is_some_and(|body| serde_json::from_slice::<Reply>(&body).is_ok());
            return if readable { Sent::Applied } else { lost("a reply that cannot be read") };
        }
        let Refusal { code, message } = serde_json::from_slice(&body.unwrap_or_default()).unwrap_or_default();
        let code = code.rsplit('#').next().unwrap_or_default();
        let error = call.service_error(code, Some(&message), status.as_u16());
        match error.kind() {
            ErrorKind::Throttled { .. } | ErrorKind::OutcomeUnknown => Sent::Failed(error.into()),
            // The row that is there is needed, and the SDK is asked for it.
            ErrorKind::LostRace => Sent::AskTheSdk,
            _ => {
                self.refused.store(true, Ordering::Relaxed);
                tracing::debug!(%error, "the SDK stores new rows from now on");
                Sent::AskTheSdk
            }
        }
    }

    /// Status and body of the reply; no body where it broke off.
    async fn ask(&self, request: HttpRequest) -> Result<(StatusCode, Option<Bytes>), ConnectorError> {
        let response = self.http.call(request).await?;
        let status = response.status();
        // Read to its end, the connection serves again.
        let body = ByteStream::new(response.into_body()).collect().await;
        Ok((status, body.ok().map(AggregatedBytes::into_bytes)))
    }

    /// The signed request; none without credentials, and for a row that is not made of plain values.
    async fn request(&self, now: SystemTime, table: &str, item: &Item) -> Option<HttpRequest> {
        let identity = self.credentials(now).await?.into();
        let put = PutItem { table_name: table, item: Typed(item), condition_expression: ABSENT };
        let body = serde_json::to_vec(&put).ok()?;
        let headers = [("content-type", JSON), ("x-amz-target", TARGET)];
        let signable =
            SignableRequest::new("POST", &self.url, headers.into_iter(), SignableBody::Bytes(&body)).ok()?;
        let params = v4::SigningParams::builder()
            .identity(&identity)
            .region(&self.region)
            .name(SERVICE)
            .time(now)
            .settings(SigningSettings::default())
            .build()
            .ok()?;
        let (signature, _) = sign(signable, &params.into()).ok()?.into_parts();
        let mut request = HttpRequest::new(SdkBody::from(body));
        request.set_method("POST").ok()?;
        request.set_uri(self.url.as_str()).ok()?;
        for (name, value) in headers {
            request.headers_mut().insert(name, value);
        }
        for (name, value) in signature.headers() {
            request.headers_mut().insert(name.to_owned(), value.to_owned());
        }
        Some(request)
    }

    async fn credentials(&self, now: SystemTime) -> Option<Credentials> {
        let known = self.credentials.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let lasts = |known: &Credentials| known.expiry().is_none_or(|expiry| expiry > now + BEFORE_EXPIRY);
        if let Some(known) = known.filter(lasts) {
            return Some(known);
        }
        let new = self.provider.provide_credentials().await.ok()?;
        *self.credentials.lock().unwrap_or_else(PoisonError::into_inner) = Some(new.clone());
        Some(new)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::AtomicU32;

    use aws_credential_types::credential_fn::provide_credentials_fn;
    use aws_sdk_dynamodb::config::Region;
    use serde_json::json;

    use super::*;

    fn config() -> SdkConfig {
        let credentials = Credentials::new("id", "secret", Some("token".to_owned()), None, "test");
        SdkConfig::builder()
            .region(Region::new("eu-west-2"))
            .credentials_provider(SharedCredentialsProvider::new(credentials))
            .build()
    }

    async fn express(config: &SdkConfig) -> Express {
        let time = Duration::from_secs(1);
        Express::new(config, time, time).await.expect("a client")
    }

    #[tokio::test]
    async fn all_that_is_signed_is_sent() {
        let express = express(&config()).await;
        assert_eq!(express.url, "https://dynamodb.eu-west-2.amazonaws.com");
        let item =
            Item::from([("pk".to_owned(), Value::s("a")), ("list".to_owned(), Value::L(vec![Value::n(1)]))]);
        let request = express.request(SystemTime::UNIX_EPOCH, "t", &item).await.expect("a request");
        let header = |name| request.headers().get(name).expect("it is sent").to_owned();
        let signed = "SignedHeaders=content-type;host;x-amz-date;x-amz-security-token;x-amz-target, ";
        assert!(header("authorization").contains(signed), "{}", header("authorization"));
        assert_eq!(header("x-amz-date"), "19700101T000000Z");
        assert_eq!(header("x-amz-security-token"), "token");
        assert_eq!((header("content-type"), header("x-amz-target")), (JSON.to_owned(), TARGET.to_owned()));
        let body: serde_json::Value =
            serde_json::from_slice(request.body().bytes().expect("bytes")).expect("JSON");
        let expected = json!({
            "TableName": "t",
            "Item": {"pk": {"S": "a"}, "list": {"L": [{"N": "1"}]}},
            "ConditionExpression": "attribute_not_exists(pk)",
        });
        assert_eq!(body, expected);
    }

    #[tokio::test]
    async fn a_row_of_another_kind_is_left_to_the_sdk() {
        let express = express(&config()).await;
        let item = Item::from([("bytes".to_owned(), Value::B(vec![0].into()))]);
        assert!(express.request(SystemTime::UNIX_EPOCH, "t", &item).await.is_none());
    }

    #[tokio::test]
    async fn credentials_are_asked_for_before_they_expire() {
        let (asked, expiry) = (Arc::new(AtomicU32::new(0)), SystemTime::UNIX_EPOCH + BEFORE_EXPIRY * 10);
        let counted = Arc::clone(&asked);
        let provider = provide_credentials_fn(move || {
            counted.fetch_add(1, Ordering::Relaxed);
            async move { Ok(Credentials::new("id", "secret", None, Some(expiry), "test")) }
        });
        let provider = SharedCredentialsProvider::new(provider);
        let express = express(&config().into_builder().credentials_provider(provider).build()).await;
        for (at, expected) in [(0, 1), (1, 1), (8, 1), (9, 2), (9, 3)] {
            express.credentials(SystemTime::UNIX_EPOCH + BEFORE_EXPIRY * at).await.expect("credentials");
            assert_eq!(asked.load(Ordering::Relaxed), expected, "after {at} minutes");
        }
    }
}
