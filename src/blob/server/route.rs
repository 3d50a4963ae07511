//! Where a request arrives, and where it goes.
//!
//! Paths are matched by hand, since the SDKs send `//delete` where the base URL ends in a slash, and
//! pathnames in content paths must be decoded once, by us.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;

use axum::body::Body;
use axum::response::{IntoResponse as _, Response};
use futures::FutureExt as _;
use http::request::Parts;
use http::{HeaderMap, HeaderValue, Method, Request, StatusCode, Version, header};
use percent_encoding::percent_decode_str;
use tracing::Instrument as _;

use super::auth::Caller;
use super::incoming::Incoming;
use super::reply::Refusal;
use super::signed::{self, Operation};
use super::{CONTENT_PATH, Site, api, auth, content, multipart, options};
use crate::blob::location;
use crate::blob::wire::Code;

/// A request to the API whose sender is known.
pub(super) struct Call<'a> {
    pub(super) site: &'a Arc<Site>,
    pub(super) caller: Caller,
    pub(super) headers: &'a HeaderMap,
    pub(super) query: &'a Query,
    pub(super) body: &'a Incoming,
}

/// The query of a request, decoded.
pub(super) struct Query(Vec<(String, String)>);

impl Query {
    /// What can't be decoded is refused: replacement characters would name another blob.
    fn of(parts: &Parts) -> Result<Self, Refusal> {
        let query = parts.uri.query().unwrap_or_default();
        if percent_decode_str(query).decode_utf8().is_err() {
            return Err(Refusal::bad_request("the query is not encoded UTF-8"));
        }
        Ok(Self(form_urlencoded::parse(query.as_bytes()).into_owned().collect()))
    }

    pub(super) fn get(&self, name: &str) -> Option<&str> {
        self.0.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
    }

    pub(super) fn require(&self, name: &str) -> Result<&str, Refusal> {
        self.get(name).ok_or_else(|| Refusal::bad_request(format!("the query has no `{name}`")))
    }
}

/// Answers a request, whatever happens. What is logged meanwhile, also by what goes on after the answer, names it: by
/// the id that the client gave it, else by a number. Queries are not logged, since they may hold what gives access.
pub(super) async fn answer(site: &Arc<Site>, request: Request<Body>) -> Response {
    let span = named(site, &request);
    let began = site.clock.monotonic();
    let answering = async {
        let response = answer_whatever(site, request).await;
        let took = site.clock.monotonic().saturating_sub(began);
        tracing::info!(status = response.status().as_u16(), ms = took.as_secs_f64() * 1_000.0, "answered");
        response
    };
    answering.instrument(span).await
}

/// What names a request in the log. Where only errors are logged it is nothing: every read would pay for it.
fn named(site: &Site, request: &Request<Body>) -> tracing::Span {
    let given = || options::request_id(request.headers());
    let id = || given().map_or_else(|| site.next_request().to_string(), str::to_owned);
    tracing::warn_span!("request", id = id(), method = %request.method(), path = request.uri().path())
}

async fn answer_whatever(site: &Arc<Site>, request: Request<Body>) -> Response {
    let (parts, body) = request.into_parts();
    let incoming = Incoming::new(&parts.headers, body, site);
    if let Err(refusal) = check_host(&parts) {
        // What comes after it on the connection may be another request than it seems.
        let mut response = refusal.into_response();
        response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
        return response;
    }
    let routed = AssertUnwindSafe(route(site, &parts, &incoming)).catch_unwind().await;
    let mut response = match routed {
        Ok(Ok(response)) => response,
        Ok(Err(refusal)) => {
            incoming.drain(site.clock.as_ref()).await;
            refusal.into_response()
        }
        Err(_panic) => {
            let request = options::request_id(&parts.headers);
            tracing::error!(request, method = %parts.method, "a request met a defect of this program");
            Refusal::new(Code::InternalServerError, "the server failed").into_response()
        }
    };
    let headers = response.headers_mut();
    headers.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, HeaderValue::from_static("*"));
    headers.insert(header::ACCESS_CONTROL_EXPOSE_HEADERS, HeaderValue::from_static("*"));
    headers.extend(site.config.extra_headers.clone());
    response
}

/// Refuses requests that a proxy before this server may have sent to another host: with none or several names of
/// it. (Of a length and chunks, hyper takes the chunks, and closes the connection.)
fn check_host(parts: &Parts) -> Result<(), Refusal> {
    let headers = &parts.headers;
    let mut hosts = headers.get_all(header::HOST).iter();
    let host = match (hosts.next(), hosts.next()) {
        (Some(host), None) => host.as_bytes(),
        (None, None) if parts.version == Version::HTTP_10 => return Ok(()),
        _ => return Err(Refusal::bad_request("a request names one host")),
    };
    match parts.uri.authority() {
        Some(authority) if !authority.as_str().as_bytes().eq_ignore_ascii_case(host) => {
            Err(Refusal::bad_request("the request's URL and its `host` name different hosts"))
        }
        _ => Ok(()),
    }
}

async fn route(site: &Arc<Site>, parts: &Parts, body: &Incoming) -> Result<Response, Refusal> {
    if parts.method == Method::OPTIONS {
        return Ok(preflight(&parts.headers));
    }
    let path = parts.uri.path();
    let query = Query::of(parts)?;
    let host = parts.headers.get(header::HOST).and_then(|host| host.to_str().ok()).unwrap_or_default();
    let host = host.rsplit_once(':').map_or(host, |(name, _port)| name).to_ascii_lowercase();
    if let Some((store_id, access)) = location::parse_host(&host) {
        if access != site.config.access || !store_id.eq_ignore_ascii_case(&site.config.store_id) {
            return Err(Refusal::new(Code::StoreNotFound, "This store does not exist"));
        }
        return content::read(site, parts, &query, path.strip_prefix('/').unwrap_or(path)).await;
    }
    if let Some(encoded) = path.strip_prefix(CONTENT_PATH) {
        return content::read(site, parts, &query, encoded).await;
    }
    match path.strip_prefix(site.config.base_path.as_str()) {
        Some(rest) if rest.is_empty() || rest.starts_with('/') => {
            let operation = rest.trim_start_matches('/');
            let signed = match (parts.method.as_str(), operation) {
                ("PUT", "") | ("POST", "mpu") => Some(Operation::Put),
                ("DELETE", "") => Some(Operation::Delete),
                _ => None,
            };
            let caller = auth::identify(site, &parts.headers, &query, signed)?;
            let call = Call { site, caller, headers: &parts.headers, query: &query, body };
            call_api(&call, &parts.method, operation).await
        }
        // Not `not_found`: to a client that would say that there is no such blob.
        _ => Err(no_route(&parts.method, path)),
    }
}

async fn call_api(call: &Call<'_>, method: &Method, operation: &str) -> Result<Response, Refusal> {
    match (method.as_str(), operation) {
        ("PUT", "") if call.query.get("fromUrl").is_some() => api::copy(call).await,
        ("PUT", "") => api::put(call).await,
        ("GET", "") if call.query.get("url").is_some() => api::head(call).await,
        ("GET", "") => api::list(call).await,
        ("POST", "rename") => api::rename(call).await,
        ("POST", "delete") => api::delete(call).await,
        ("POST", "mpu") => multipart::step(call).await,
        ("DELETE", "") => api::delete_signed(call).await,
        ("POST", "signed-token") => signed::issue(call).await,
        ("POST", "put-from-url") => api::put_from_url(call).await,
        ("POST", "put-optimized") => Err(Refusal::new(
            Code::NotAllowed,
            "images are not optimised by this server: store them as they are, with put()",
        )),
        _ => Err(no_route(method, operation)),
    }
}

fn no_route(method: &Method, path: &str) -> Refusal {
    Refusal::bad_request(format!("there is no {method} {path} in this API"))
}

/// Browsers ask before they upload.
fn preflight(headers: &HeaderMap) -> Response {
    let mut response = StatusCode::NO_CONTENT.into_response();
    let asked = headers.get(header::ACCESS_CONTROL_REQUEST_HEADERS).cloned();
    let reply = response.headers_mut();
    reply.insert(
        header::ACCESS_CONTROL_ALLOW_METHODS,
        HeaderValue::from_static("GET, HEAD, PUT, POST, DELETE, OPTIONS"),
    );
    reply.insert(header::ACCESS_CONTROL_ALLOW_HEADERS, asked.unwrap_or(HeaderValue::from_static("*")));
    reply.insert(header::ACCESS_CONTROL_MAX_AGE, HeaderValue::from_static("86400"));
    response
}
