//! From settings to a client: endpoint, region, credentials, timeouts.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use aws_config::environment::{EnvironmentVariableCredentialsProvider, EnvironmentVariableRegionProvider};
use aws_config::meta::credentials::CredentialsProviderChain;
use aws_config::meta::region::ProvideRegion as _;
use aws_config::{BehaviorVersion, Region};
use aws_sdk_dynamodb::Client;
use aws_sdk_dynamodb::config::retry::RetryConfig;
use aws_sdk_dynamodb::config::timeout::TimeoutConfig;
use aws_sdk_dynamodb::config::{Credentials, StalledStreamProtectionConfig};
use url::{Host, Url};

use super::express::Express;
use super::pace::{Pace, Patience};
use super::{DynamoTarget, Shared};
use crate::clock::Clock;
use crate::endpoint::Endpoint;
use crate::error::{Error, ErrorKind, Result};
use crate::plan::TargetPlan;
use crate::target::layout::Layout;
use crate::target::store::Site;

const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);
/// One attempt over a network.
const ATTEMPT_TIMEOUT: Duration = Duration::from_secs(10);
/// One attempt on this machine, which may be busy, but loses nothing. The embedded engine waits 5 s for
/// another process before it answers.
const LOCAL_ATTEMPT_TIMEOUT: Duration = Duration::from_secs(60);
/// DynamoDB Local takes only letters and digits in an access key id.
const DUMMY_CREDENTIAL: &str = "migrate0local";
const DUMMY_REGION: &str = "us-east-1";

/// Which tables, where.
#[derive(Clone)]
pub struct DynamoConfig {
    /// Names of the tables, their keys and indexes, and the region.
    pub plan: TargetPlan,
    /// The endpoint's URL, where it is not the service's.
    pub endpoint: Option<Endpoint>,
    /// How long requests are tried.
    pub patience: Patience,
    /// Waits between attempts go through it.
    pub clock: Arc<dyn Clock>,
}

impl DynamoConfig {
    /// The service itself, with patience for bulk work.
    pub fn new(plan: TargetPlan, clock: Arc<dyn Clock>) -> Self {
        Self { plan, endpoint: None, patience: Patience::BULK, clock }
    }

    /// Another endpoint, such as `http://127.0.0.1:8000`.
    #[must_use]
    pub fn endpoint(self, url: impl Into<Endpoint>) -> Self {
        Self { endpoint: Some(url.into()), ..self }
    }

    /// Other patience.
    #[must_use]
    pub fn patience(self, patience: Patience) -> Self {
        Self { patience, ..self }
    }
}

impl std::fmt::Debug for DynamoConfig {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("DynamoConfig")
            .field("table", &self.plan.table)
            .field("endpoint", &self.endpoint)
            .finish_non_exhaustive()
    }
}

impl DynamoTarget {
    /// A client for these tables. Sends nothing yet.
    ///
    /// Credentials come from AWS's default chain. A loopback endpoint takes those in the environment, or
    /// dummies: nothing else of the user's is signed with for it, and no network is asked.
    ///
    /// # Errors
    /// `Usage` where the endpoint is not a URL, or no region is known.
    pub async fn connect(config: DynamoConfig) -> Result<Self> {
        let DynamoConfig { plan, endpoint, patience, clock } = config;
        let site = match &endpoint {
            Some(url) => site_of(url)?,
            None => Site::Aws,
        };
        let attempt = if site == Site::Local { LOCAL_ATTEMPT_TIMEOUT } else { ATTEMPT_TIMEOUT };
        let timeouts = TimeoutConfig::builder()
            .connect_timeout(CONNECT_TIMEOUT)
            .operation_attempt_timeout(attempt)
            .build();
        let mut loader = aws_config::defaults(BehaviorVersion::latest())
            .retry_config(RetryConfig::disabled())
            // Bodies are whole, in memory, and each attempt has its time.
            .stalled_stream_protection(StalledStreamProtectionConfig::disabled())
            .timeout_config(timeouts);
        // DynamoDB takes no user name and password: nobody behind this gets them to log.
        if let Some(url) = &endpoint {
            loader = loader.endpoint_url(url.to_string());
        }
        // The environment, then the plan; only then what the machine is configured for, since the plan is
        // what was reviewed.
        let environment = EnvironmentVariableRegionProvider::new().region().await;
        let planned = plan.region.clone().or_else(|| local(site, DUMMY_REGION)).map(Region::new);
        if let Some(region) = environment.or(planned) {
            loader = loader.region(region);
        }
        if site == Site::Local {
            let dummy = Credentials::new(DUMMY_CREDENTIAL, DUMMY_CREDENTIAL, None, None, "loopback");
            let environment = EnvironmentVariableCredentialsProvider::new();
            loader = loader.credentials_provider(
                CredentialsProviderChain::first_try("environment", environment).or_else("dummy", dummy),
            );
        }
        let config = loader.load().await;
        let Some(region) = config.region() else {
            return Err(Error::new(ErrorKind::Usage, "connect to DynamoDB")
                .message("no AWS region is known")
                .hint("set `region` under `[target]` in the plan, or AWS_REGION"));
        };
        let endpoint = endpoint.map_or_else(|| region.to_string(), |endpoint| endpoint.to_string());
        let client = Client::new(&config);
        let express = Express::new(&config, CONNECT_TIMEOUT, attempt).await.map(Arc::new);
        Ok(Self(Arc::new(Shared {
            client,
            express,
            streams: aws_sdk_dynamodbstreams::Client::new(&config),
            layout: Layout::new(plan),
            clock,
            site,
            endpoint,
            patience,
            pace: Pace::new(),
            partiql_denied: AtomicBool::new(false),
        })))
    }
}

fn local(site: Site, value: &str) -> Option<String> {
    (site == Site::Local).then(|| value.to_owned())
}

/// Where an endpoint is: [`Site::Local`] for a loopback address, whatever listens there.
fn site_of(endpoint: &Endpoint) -> Result<Site> {
    let invalid = |message: String| {
        Error::new(ErrorKind::Usage, "connect to DynamoDB")
            .key(endpoint)
            .message(message)
            .hint("an endpoint is a URL such as `http://127.0.0.1:8000`")
    };
    let url = Url::parse(endpoint.expose()).map_err(|cause| invalid("not a URL".to_owned()).source(cause))?;
    if !matches!(url.scheme(), "http" | "https") {
        return Err(invalid(format!("`{}` is neither http nor https", url.scheme())));
    }
    let loopback = match url.host() {
        Some(Host::Domain(name)) => name == "localhost" || name.ends_with(".localhost"),
        Some(Host::Ipv4(address)) => address.is_loopback(),
        Some(Host::Ipv6(address)) => address.is_loopback(),
        None => return Err(invalid("no host".to_owned())),
    };
    Ok(if loopback { Site::Local } else { Site::Aws })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_loopback_is_local() {
        for (endpoint, expected) in [
            ("http://127.0.0.1:8000", Some(Site::Local)),
            ("http://127.9.9.9", Some(Site::Local)),
            ("http://localhost:8000", Some(Site::Local)),
            ("http://[::1]:8000", Some(Site::Local)),
            ("http://localhost.example.com", Some(Site::Aws)),
            ("http://10.0.0.1:8000", Some(Site::Aws)),
            ("https://dynamodb.eu-west-2.amazonaws.com", Some(Site::Aws)),
            ("127.0.0.1:8000", None),
            ("localhost:8000", None),
        ] {
            assert_eq!(site_of(&endpoint.into()).ok(), expected, "{endpoint}");
        }
    }
}
