//! What a server of ours asks of others: to hear of a finished upload, and for the image behind a URL.
//!
//! URLs come from clients, so it goes to the origins that were allowed and to nothing else, follows no redirect, and
//! sends no token. The name of an allowed origin must lead to public addresses, at each connection anew: whoever
//! controls the name's records can't lead requests to this machine or into its network.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::StreamExt as _;
use http::HeaderValue;
use http::header::{CONTENT_LENGTH, CONTENT_TYPE};
use reqwest::dns::{Name, Resolve, Resolving};
use url::{Host, Origin, Url};

use super::{CONNECT_TIMEOUT, SILENCE_TIMEOUT};
use crate::blob::store::Body;
use crate::error::{Error, ErrorKind, Result};

/// How long a callback may take to be answered.
const CALLBACK_TIMEOUT: Duration = Duration::from_secs(30);

/// A client for URLs that others name.
#[derive(Clone)]
pub struct Outbound {
    http: reqwest::Client,
    allowed: Vec<Origin>,
}

impl fmt::Debug for Outbound {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Outbound").field("allowed", &self.allowed).finish_non_exhaustive()
    }
}

impl Outbound {
    /// A client that reaches these origins, such as `https://app.example`. An origin whose host is an address, or
    /// `localhost`, allows that address to the names of the others too; else these must lead to public addresses.
    ///
    /// # Errors
    /// `Usage` for what is no origin.
    pub fn new(allowed: &[String]) -> Result<Self> {
        Self::resolving_by(Arc::new(SystemNames), allowed)
    }

    fn resolving_by(names: Arc<dyn Resolve>, allowed: &[String]) -> Result<Self> {
        let usage = |message: &str| Error::new(ErrorKind::Usage, "set up callbacks").message(message);
        let origin = |text: &String| match web_url(text).filter(|url| url.path() == "/") {
            Some(url) => Ok(url.origin()),
            None => Err(usage("not an origin").key(text).hint("origins look like `https://app.example`")),
        };
        let allowed: Vec<Origin> = allowed.iter().map(origin).collect::<Result<_>>()?;
        let here = [(Ipv4Addr::LOCALHOST, 0).into(), (Ipv6Addr::LOCALHOST, 0).into()];
        let addresses = allowed.iter().flat_map(named_addresses).collect();
        let http = reqwest::Client::builder()
            .no_proxy()
            .redirect(reqwest::redirect::Policy::none())
            .connect_timeout(CONNECT_TIMEOUT)
            .read_timeout(SILENCE_TIMEOUT)
            .dns_resolver(Arc::new(Checked { names, allowed: addresses }))
            .resolve_to_addrs("localhost", &here)
            .build()
            .map_err(|error| usage("the HTTP client can't be set up").source(error))?;
        Ok(Self { http, allowed })
    }

    /// The URL, where it may be reached.
    ///
    /// # Errors
    /// `Usage` for what is no HTTP URL, `Denied` for an origin that is not allowed.
    pub fn check(&self, url: &str) -> Result<Url> {
        let failed = |kind, message: &str| Error::new(kind, "reach a URL").message(message);
        let url = web_url(url).ok_or_else(|| failed(ErrorKind::Usage, "the text is no HTTP URL"))?;
        let origin = url.origin();
        if self.allowed.contains(&origin) {
            return Ok(url);
        }
        let origin = origin.ascii_serialization();
        let message =
            format!("this server reaches {origin} only if it was started with --allow-origin {origin}");
        Err(failed(ErrorKind::Denied, &message))
    }

    /// Posts JSON once, and returns the status of the reply.
    ///
    /// # Errors
    /// `OutcomeUnknown` without a reply; `Denied` where the URL's name leads to an address that is not allowed.
    pub async fn post_json(&self, url: Url, signature: (&'static str, &str), body: Bytes) -> Result<u16> {
        let (name, signature) = signature;
        let request = self.http.post(url.clone()).timeout(CALLBACK_TIMEOUT).body(body);
        let request = request.header(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        let reply = request.header(name, signature).send().await.map_err(|error| {
            let error = denied("call back", error).unwrap_or_else(|error| {
                let unknown = Error::new(ErrorKind::OutcomeUnknown, "call back");
                unknown.message("the application did not answer").source(error)
            });
            error.key(url.origin().ascii_serialization())
        })?;
        Ok(reply.status().as_u16())
    }

    /// Reads what is behind a URL, and its media type where that is told.
    ///
    /// # Errors
    /// `NotApplied` without a reply, `Usage` where the reply is not a success; `Denied` where the URL's name leads to
    /// an address that is not allowed.
    pub async fn get(&self, url: Url) -> Result<(Body, Option<String>)> {
        let failed = move |kind, message: &str| Error::new(kind, "read from a URL").message(message);
        let reply = self.http.get(url).send().await.map_err(|error| {
            denied("read from a URL", error)
                .unwrap_or_else(|error| failed(ErrorKind::NotApplied, "the URL did not answer").source(error))
        })?;
        if !reply.status().is_success() {
            let message = format!("the URL answered {}", reply.status());
            return Err(failed(ErrorKind::Usage, &message));
        }
        let header = |name| reply.headers().get(name).and_then(|value: &HeaderValue| value.to_str().ok());
        let content_type = header(CONTENT_TYPE).map(ToOwned::to_owned);
        let length = header(CONTENT_LENGTH).and_then(|length| length.parse().ok());
        let stream = reply.bytes_stream().map(move |chunk| {
            chunk.map_err(|error| {
                failed(ErrorKind::NotApplied, "the URL broke off").source(error.without_url())
            })
        });
        Ok((Body::stream(length, stream.boxed()), content_type))
    }
}

/// An HTTP URL without credentials. Control characters are refused: a parser of URLs leaves some of them out in
/// silence.
fn web_url(text: &str) -> Option<Url> {
    let url = Url::parse(text).ok().filter(|_| !text.contains(char::is_control))?;
    (matches!(url.scheme(), "http" | "https") && url.username().is_empty() && url.password().is_none())
        .then_some(url)
}

/// The addresses that an allowed origin names by itself, without a resolver.
fn named_addresses(origin: &Origin) -> Vec<IpAddr> {
    match origin {
        Origin::Tuple(_, Host::Ipv4(address), _) => vec![(*address).into()],
        Origin::Tuple(_, Host::Ipv6(address), _) => vec![(*address).into()],
        Origin::Tuple(_, Host::Domain(name), _) if name == "localhost" => {
            vec![Ipv4Addr::LOCALHOST.into(), Ipv6Addr::LOCALHOST.into()]
        }
        _ => Vec::new(),
    }
}

/// Asks the system what a name leads to.
struct SystemNames;

impl Resolve for SystemNames {
    fn resolve(&self, name: Name) -> Resolving {
        Box::pin(async move {
            let found: Vec<SocketAddr> = tokio::net::lookup_host((name.as_str(), 0)).await?.collect();
            Ok(Box::new(found.into_iter()) as _)
        })
    }
}

/// Hands a connection the addresses of a name only where every one of them may be reached.
struct Checked {
    names: Arc<dyn Resolve>,
    allowed: Vec<IpAddr>,
}

/// A name leads to an address that is neither public nor allowed.
#[derive(Debug, thiserror::Error)]
#[error(
    "{name} leads to {address}, which is not a public address: allow it with --allow-origin http://{host} too"
)]
struct Inside {
    name: String,
    address: IpAddr,
    host: Host,
}

impl Resolve for Checked {
    fn resolve(&self, name: Name) -> Resolving {
        let (text, allowed) = (name.as_str().to_owned(), self.allowed.clone());
        let resolving = self.names.resolve(name);
        Box::pin(async move {
            let found: Vec<SocketAddr> = resolving.await?.collect();
            let inside = |found: &&SocketAddr| !is_public(found.ip()) && !allowed.contains(&found.ip());
            if let Some(address) = found.iter().find(inside).map(SocketAddr::ip) {
                let host = match address {
                    IpAddr::V4(address) => Host::Ipv4(address),
                    IpAddr::V6(address) => Host::Ipv6(address),
                };
                return Err(Inside { name: text, address, host }.into());
            }
            Ok(Box::new(found.into_iter()) as _)
        })
    }
}

/// The refusal behind a failed request, where there is one; else the failure, without its URL.
fn denied(operation: &'static str, error: reqwest::Error) -> Result<Error, reqwest::Error> {
    let mut cause = std::error::Error::source(&error);
    while let Some(found) = cause {
        if let Some(inside) = found.downcast_ref::<Inside>() {
            return Ok(Error::new(ErrorKind::Denied, operation).message(inside));
        }
        cause = found.source();
    }
    Err(error.without_url())
}

/// Whether an address is one of the Internet: not this machine's, not of a private network, and not one in which
/// another is embedded (RFC 6890 and the registries of special addresses that it set up).
fn is_public(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(address) => {
            let special = match address.octets() {
                [0 | 240.., ..] | [192, 0, 0, _] | [198, 18 | 19, ..] => true,
                [100, second, ..] => (64..128).contains(&second),
                _ => false,
            };
            !(special
                || address.is_loopback()
                || address.is_private()
                || address.is_link_local()
                || address.is_multicast()
                || address.is_documentation())
        }
        IpAddr::V6(address) => match (address.to_ipv4_mapped(), address.segments()) {
            (Some(address), _) => is_public(address.into()),
            // Teredo, documentation, 6to4.
            (None, [0x2001, 0 | 0xdb8, ..] | [0x2002, ..]) => false,
            (None, [first, ..]) => first & 0xe000 == 0x2000,
        },
    }
}

#[cfg(test)]
mod tests;
