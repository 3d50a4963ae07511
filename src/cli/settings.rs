//! What a command runs with: flags, then environment, then plan, resolved once into types.
//!
//! [`Environment::read`] is the only place of the program that reads environment variables (the AWS SDK
//! reads its own). Nothing in here opens a file or a connection.

use std::net::IpAddr;

use secrecy::SecretString;

use super::flags::{GlobalFlags, TargetChoice};
use crate::endpoint::Endpoint;
use crate::error::{Error, ErrorKind, Result};
use crate::plan::SourcePlan;

/// The base URL of the service itself.
pub(crate) const SERVICE_URL: &str = "https://vercel.com/api/blob";

/// The variables that name the endpoint of DynamoDB, the first one first. The last two are the AWS SDK's own, which would
/// log what it reads itself.
const DYNAMODB_ENDPOINTS: [&str; 3] = ["DYNAMODB_ENDPOINT", "AWS_ENDPOINT_URL_DYNAMODB", "AWS_ENDPOINT_URL"];

/// The variables that this program reads. An empty one counts as absent.
#[derive(Debug, Clone, Default)]
pub(crate) struct Environment {
    /// `BLOB_READ_WRITE_TOKEN`.
    pub(crate) blob_token: Option<SecretString>,
    /// `ENCRYPTION_KEY`: what encrypted blobs are opened with.
    pub(crate) encryption_key: Option<SecretString>,
    /// `MIGRATE_BLOB_URL`: the source's base URL for this program alone.
    pub(crate) migrate_blob_url: Option<Endpoint>,
    /// `VERCEL_BLOB_API_URL`: the official SDKs' variable for the same.
    pub(crate) vercel_blob_api_url: Option<Endpoint>,
    /// `DYNAMODB_TABLE_NAME`.
    pub(crate) table: Option<String>,
    /// The first of [`DYNAMODB_ENDPOINTS`] that is set, and its name.
    pub(crate) dynamodb_endpoint: Option<(Endpoint, &'static str)>,
    /// Who runs the program, for the audit log: `USER` at `HOSTNAME`, as far as they are known.
    pub(crate) operator: String,
    /// `RUST_LOG`.
    pub(crate) log: Option<String>,
}

impl Environment {
    /// Reads the process's environment.
    #[must_use]
    pub(crate) fn read() -> Self {
        Self::from_lookup(variable)
    }

    fn from_lookup(get: impl Fn(&str) -> Option<String>) -> Self {
        let url = |name: &str| get(name).map(Endpoint::from);
        Self {
            blob_token: get("BLOB_READ_WRITE_TOKEN").map(SecretString::from),
            encryption_key: get("ENCRYPTION_KEY").map(SecretString::from),
            migrate_blob_url: url("MIGRATE_BLOB_URL"),
            vercel_blob_api_url: url("VERCEL_BLOB_API_URL"),
            table: get("DYNAMODB_TABLE_NAME"),
            dynamodb_endpoint: DYNAMODB_ENDPOINTS.iter().find_map(|name| Some((url(name)?, *name))),
            operator: operator(get("USER").or_else(|| get("LOGNAME")), get("HOSTNAME")),
            log: get("RUST_LOG"),
        }
    }

    /// The token of the source store.
    ///
    /// # Errors
    /// `Usage` where it is not set.
    pub(crate) fn token(&self) -> Result<&SecretString> {
        self.blob_token.as_ref().ok_or_else(|| {
            Error::new(ErrorKind::Usage, "read the environment")
                .message("BLOB_READ_WRITE_TOKEN is not set")
                .hint("it is on the store's page of the Vercel dashboard, or run `vercel env pull`, then export it")
        })
    }
}

fn operator(user: Option<String>, host: Option<String>) -> String {
    let user = user.unwrap_or_else(|| "unknown".to_owned());
    host.map_or_else(|| user.clone(), |host| format!("{user}@{host}"))
}

#[expect(clippy::disallowed_methods, reason = "the one place that reads the environment")]
fn variable(name: &str) -> Option<String> {
    std::env::var(name).ok().filter(|value| !value.trim().is_empty())
}

/// A URL, and which setting it came from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct SourceUrl {
    /// The base URL, without a slash at its end.
    pub(crate) url: Endpoint,
    /// The flag, key or variable that says so.
    pub(crate) from: &'static str,
}

impl SourceUrl {
    /// The source's base URL: the flag, the plan, this program's variable, the SDK's variable, the service.
    ///
    /// # Errors
    /// `Usage`, naming the setting, where it is not an HTTP URL.
    pub(crate) fn resolve(flags: &GlobalFlags, plan: &SourcePlan, environment: &Environment) -> Result<Self> {
        let candidates = [
            (flags.source_url.as_ref(), "--source-url"),
            (plan.url.as_ref(), "the plan's `source.url`"),
            (environment.migrate_blob_url.as_ref(), "MIGRATE_BLOB_URL"),
            (environment.vercel_blob_api_url.as_ref(), "VERCEL_BLOB_API_URL"),
        ];
        let named = candidates.into_iter().find_map(|(url, from)| Some((url?.clone(), from)));
        let (url, from) = named.unwrap_or_else(|| (SERVICE_URL.into(), "Vercel's own"));
        Ok(Self { url: http_url(&url, from)?, from })
    }
}

impl SourceUrl {
    /// Whether requests are paced at the rates of the Vercel plan. A store on this machine is nobody's
    /// allowance: its refusals alone set the pace.
    #[must_use]
    pub(crate) fn is_paced(&self) -> bool {
        !is_loopback(&self.url)
    }
}

/// Where the tables are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum TargetEndpoint {
    /// Where the AWS SDK finds the service.
    Aws,
    /// An endpoint that the environment names.
    Url(Endpoint),
    /// An engine in this process with this file.
    Embedded(std::path::PathBuf),
}

impl TargetEndpoint {
    /// Where the tables are: `--target`, then the endpoint of the environment, then AWS.
    ///
    /// # Errors
    /// `Usage` where the endpoint is not an HTTP URL.
    pub(crate) fn resolve(flags: &GlobalFlags, environment: &Environment) -> Result<Self> {
        match (&flags.target, &environment.dynamodb_endpoint) {
            (TargetChoice::Embedded(file), _) => Ok(Self::Embedded(file.clone())),
            (TargetChoice::Aws, None) => Ok(Self::Aws),
            (TargetChoice::Aws, Some((url, from))) => http_url(url, from).map(Self::Url),
        }
    }

    /// Whether it is on this machine.
    #[must_use]
    pub(crate) fn is_local(&self) -> bool {
        match self {
            Self::Aws => false,
            Self::Url(url) => is_loopback(url),
            Self::Embedded(_) => true,
        }
    }
}

/// The overrides of the plan, as `key=value`: `--set`, and the table that the environment names.
#[must_use]
pub(crate) fn overrides(flags: &GlobalFlags, environment: &Environment) -> Vec<String> {
    let mut overrides = flags.overrides.clone();
    let names_table = |set: &String| set.split('=').next().is_some_and(|key| key.trim() == "target.table");
    if let Some(table) = &environment.table
        && !overrides.iter().any(names_table)
    {
        let value = toml::Value::String(table.clone());
        overrides.push(format!("target.table={value}"));
    }
    overrides
}

/// The URL without slashes at its end.
fn http_url(text: &Endpoint, from: &str) -> Result<Endpoint> {
    let wrong = || Error::new(ErrorKind::Usage, "read").key(from);
    let parsed = url::Url::parse(text.expose());
    let url = parsed.map_err(|e| wrong().message(format!("`{text}` is not a URL")).source(e))?;
    if !matches!(url.scheme(), "http" | "https") || url.host_str().is_none() {
        return Err(wrong().message(format!("`{text}` is not an http or https URL")));
    }
    Ok(text.expose().trim_end_matches('/').into())
}

/// Whether a URL's host is this machine.
#[must_use]
pub(crate) fn is_loopback(endpoint: &Endpoint) -> bool {
    let Ok(url) = url::Url::parse(endpoint.expose()) else { return false };
    match url.host() {
        Some(url::Host::Domain(name)) => name == "localhost",
        Some(url::Host::Ipv4(address)) => IpAddr::V4(address).is_loopback(),
        Some(url::Host::Ipv6(address)) => IpAddr::V6(address).is_loopback(),
        None => false,
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::*;

    #[derive(clap::Parser)]
    struct Flags {
        #[command(flatten)]
        global: GlobalFlags,
    }

    fn flags(arguments: &[&str]) -> GlobalFlags {
        Flags::parse_from(std::iter::once(&"migrate").chain(arguments)).global
    }

    fn environment(variables: &[(&str, &str)]) -> Environment {
        Environment::from_lookup(|name| {
            variables.iter().find(|(key, _)| *key == name).map(|(_, value)| (*value).to_owned())
        })
    }

    fn source(url: Option<&str>) -> SourcePlan {
        let url = url.map(|url| format!("url = \"{url}\"")).unwrap_or_default();
        toml::from_str(&format!("store = \"fuse\"\n{url}")).unwrap()
    }

    #[test]
    fn the_source_url_is_the_first_of_flag_plan_own_variable_sdk_variable_service() {
        let both = environment(&[("MIGRATE_BLOB_URL", "http://c"), ("VERCEL_BLOB_API_URL", "http://d")]);
        let sdk = environment(&[("VERCEL_BLOB_API_URL", "http://d/")]);
        let (with, without) = (source(Some("http://b")), source(None));
        for (arguments, plan, environment, expected) in [
            (&["--source-url", "http://a"][..], &with, &both, "http://a"),
            (&[], &with, &both, "http://b"),
            (&[], &without, &both, "http://c"),
            (&[], &without, &sdk, "http://d"),
            (&[], &without, &Environment::default(), SERVICE_URL),
        ] {
            let resolved = SourceUrl::resolve(&flags(arguments), plan, environment).unwrap();
            assert_eq!(resolved.url.expose(), expected);
        }
    }

    #[test]
    fn a_wrong_url_names_the_setting() {
        let wrong = environment(&[("MIGRATE_BLOB_URL", "localhost:3000")]);
        let error = SourceUrl::resolve(&flags(&[]), &source(None), &wrong).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Usage);
        assert!(error.to_string().contains("MIGRATE_BLOB_URL"), "{error}");
    }

    #[test]
    fn the_target_is_the_flag_then_the_endpoint_then_aws() {
        let local = environment(&[
            ("DYNAMODB_ENDPOINT", "http://127.0.0.1:8000"),
            ("AWS_ENDPOINT_URL_DYNAMODB", "http://elsewhere"),
        ]);
        let resolve = |arguments: &[&str], environment| {
            TargetEndpoint::resolve(&flags(arguments), environment).unwrap()
        };
        assert_eq!(resolve(&[], &local), TargetEndpoint::Url("http://127.0.0.1:8000".into()));
        assert_eq!(resolve(&["--target", "embedded:x"], &local), TargetEndpoint::Embedded("x".into()));
        assert_eq!(resolve(&[], &Environment::default()), TargetEndpoint::Aws);
    }

    #[test]
    fn the_environment_names_the_table_unless_a_flag_does() {
        let named = environment(&[("DYNAMODB_TABLE_NAME", "007")]);
        assert_eq!(overrides(&flags(&[]), &named), ["target.table=\"007\""]);
        let flagged = flags(&["--set", "target.table = mine"]);
        assert_eq!(overrides(&flagged, &named), ["target.table = mine"]);
    }

    #[test]
    fn only_loopback_and_embedded_are_local() {
        for (url, local) in [
            ("http://127.0.0.1:1", true),
            ("http://[::1]:9/api", true),
            ("http://localhost", true),
            ("http://127.0.0.1.example.com", false),
            (SERVICE_URL, false),
        ] {
            assert_eq!(is_loopback(&url.into()), local, "{url}");
            assert_eq!(TargetEndpoint::Url(url.into()).is_local(), local, "{url}");
        }
        assert!(TargetEndpoint::Embedded("x".into()).is_local());
        assert!(!TargetEndpoint::Aws.is_local());
    }

    #[test]
    fn the_token_is_never_shown() {
        let secret = environment(&[("BLOB_READ_WRITE_TOKEN", "vercel_blob_rw_store_secret")]);
        assert!(!format!("{secret:?}").contains("secret\""), "{secret:?}");
        assert_eq!(Environment::default().token().unwrap_err().kind(), ErrorKind::Usage);
        let key = environment(&[("ENCRYPTION_KEY", "sesame")]);
        assert!(key.encryption_key.is_some() && !format!("{key:?}").contains("sesame"));
    }
}
