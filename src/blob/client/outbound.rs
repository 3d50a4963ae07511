//! What a server of ours asks of others: to hear of a finished upload, and for the image behind a URL.
//!
//! URLs come from clients, so it goes to this machine and to the origins that were allowed, follows no
//! redirect, and sends no token.

use std::fmt;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::time::Duration;

use bytes::Bytes;
use futures::StreamExt as _;
use http::HeaderValue;
use http::header::{CONTENT_LENGTH, CONTENT_TYPE};
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
    /// A client that reaches this machine and these origins, such as `https://app.example`.
    ///
    /// # Errors
    /// `Usage` for what is no origin.
    pub fn new(allowed: &[String]) -> Result<Self> {
        let usage = |message: &str| Error::new(ErrorKind::Usage, "set up callbacks").message(message);
        let origin = |text: &String| match web_url(text).filter(|url| url.path() == "/") {
            Some(url) => Ok(url.origin()),
            None => Err(usage("not an origin").key(text).hint("origins look like `https://app.example`")),
        };
        let allowed = allowed.iter().map(origin).collect::<Result<_>>()?;
        let here = [(Ipv4Addr::LOCALHOST, 0).into(), (Ipv6Addr::LOCALHOST, 0).into()];
        let http = reqwest::Client::builder()
            .no_proxy()
            .redirect(reqwest::redirect::Policy::none())
            .connect_timeout(CONNECT_TIMEOUT)
            .read_timeout(SILENCE_TIMEOUT)
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
        let failed = |kind, message| Err(Error::new(kind, "reach a URL").key(url).message(message));
        let Some(url) = web_url(url) else { return failed(ErrorKind::Usage, "it is no HTTP URL") };
        let here = match url.host() {
            Some(Host::Domain(name)) => name == "localhost",
            Some(Host::Ipv4(address)) => address.is_loopback(),
            Some(Host::Ipv6(address)) => address.is_loopback(),
            None => false,
        };
        if here || self.allowed.contains(&url.origin()) {
            return Ok(url);
        }
        failed(ErrorKind::Denied, "it is neither on this machine nor of an allowed origin")
    }

    /// Posts JSON once, and returns the status of the reply.
    ///
    /// # Errors
    /// `OutcomeUnknown` without a reply.
    pub async fn post_json(&self, url: Url, signature: (&'static str, &str), body: Bytes) -> Result<u16> {
        let (name, signature) = signature;
        let request = self.http.post(url.clone()).timeout(CALLBACK_TIMEOUT).body(body);
        let request = request.header(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        let reply = request.header(name, signature).send().await.map_err(|error| {
            Error::new(ErrorKind::OutcomeUnknown, "call back")
                .key(url.origin().ascii_serialization())
                .message("it did not answer")
                .source(error.without_url())
        })?;
        Ok(reply.status().as_u16())
    }

    /// Reads what is behind a URL, and its media type where that is told.
    ///
    /// # Errors
    /// `NotApplied` without a reply, `Usage` where the reply is not a success.
    pub async fn get(&self, url: Url) -> Result<(Body, Option<String>)> {
        let failed = move |kind, message: &str| Error::new(kind, "read from a URL").message(message);
        let reply = self.http.get(url).send().await.map_err(|error| {
            failed(ErrorKind::NotApplied, "the URL did not answer").source(error.without_url())
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

fn web_url(text: &str) -> Option<Url> {
    let url = Url::parse(text).ok()?;
    (matches!(url.scheme(), "http" | "https") && url.username().is_empty() && url.password().is_none())
        .then_some(url)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_this_machine_and_allowed_origins_are_reached() {
        let outbound = Outbound::new(&["https://app.example".to_owned()]).unwrap();
        for url in
            ["http://127.0.0.1:3000/a", "http://[::1]/", "https://localhost/x", "https://app.example:443/a?b"]
        {
            outbound.check(url).unwrap();
        }
        for (url, kind) in [
            ("https://app.example:444/", ErrorKind::Denied),
            ("http://app.example/", ErrorKind::Denied),
            ("https://app.example.evil.example/", ErrorKind::Denied),
            ("http://localhost.evil.example/", ErrorKind::Denied),
            ("http://169.254.169.254/latest", ErrorKind::Denied),
            ("http://[::ffff:10.0.0.1]/", ErrorKind::Denied),
            ("http://127.0.0.1@evil.example/", ErrorKind::Usage),
            ("file:///etc/passwd", ErrorKind::Usage),
            ("/relative", ErrorKind::Usage),
        ] {
            assert_eq!(outbound.check(url).unwrap_err().kind(), kind, "{url}");
        }
        for wrong in ["app.example", "https://app.example/path", "ftp://app.example"] {
            assert_eq!(Outbound::new(&[wrong.to_owned()]).unwrap_err().kind(), ErrorKind::Usage, "{wrong}");
        }
    }
}
