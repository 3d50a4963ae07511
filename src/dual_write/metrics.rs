//! What a gateway tells a monitor: `/metrics` in Prometheus' text form, `/healthz`, `/readyz`.
//!
//! Names and bodies of blobs are in none of it. Requests are counted where they come in and where they go
//! out, by [`Observed`] stores, so what the gateway adds is the difference of the two.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use async_trait::async_trait;
use axum::Router;
use axum::http::{StatusCode, header};
use axum::response::IntoResponse;
use axum::routing::get;
use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::{Registry, Unit};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use super::gateway::DualWrite;
use crate::blob::store::{Content, Deadline, GetOptions, Part, PutOptions, Upload};
use crate::blob::{BlobStore, Body, ETag, Head, ListPage, ListRequest, Pathname};
use crate::clock::Clock;
use crate::error::{Error, ErrorKind, Result};

/// The media type of the text (OpenMetrics 1.0).
const TEXT: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

type Labels<const N: usize> = [(&'static str, &'static str); N];
type Seconds = Family<Labels<2>, Histogram, fn() -> Histogram>;

/// What is counted. Clones share it.
#[derive(Clone)]
pub struct Metrics(Arc<Inner>);

struct Inner {
    registry: Registry,
    requests: Family<Labels<3>, Counter>,
    seconds: Seconds,
    lag: Histogram,
    bypasses: Counter,
    sweeps: Counter,
    drift: Gauge,
    in_doubt: Gauge,
    under_way: Gauge,
    reachable: Gauge,
    gaps: Counter,
    unnoted: Counter,
    kept: Counter,
    held_back: Counter,
    compared: Family<Labels<1>, Counter>,
    compared_seconds: Family<Labels<1>, Histogram, fn() -> Histogram>,
    canary: Family<Labels<1>, Counter>,
}

impl std::fmt::Debug for Metrics {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Metrics").finish_non_exhaustive()
    }
}

impl Default for Metrics {
    fn default() -> Self {
        let mut registry = Registry::with_prefix("migrate");
        let own = Inner {
            requests: Family::default(),
            // From half a millisecond to half a minute.
            seconds: Family::new_with_constructor(buckets),
            lag: buckets(),
            bypasses: Counter::default(),
            sweeps: Counter::default(),
            drift: Gauge::default(),
            in_doubt: Gauge::default(),
            under_way: Gauge::default(),
            reachable: Gauge::default(),
            gaps: Counter::default(),
            unnoted: Counter::default(),
            kept: Counter::default(),
            held_back: Counter::default(),
            compared: Family::default(),
            compared_seconds: Family::new_with_constructor(buckets),
            canary: Family::default(),
            registry: Registry::default(),
        };
        registry.register("requests", "Requests by side, operation and result", own.requests.clone());
        let words = "How long requests took, by side and operation";
        registry.register_with_unit("request", words, Unit::Seconds, own.seconds.clone());
        let words = "From the store's reply to a write until the mirror was equal";
        registry.register_with_unit("convergence_lag", words, Unit::Seconds, own.lag.clone());
        registry.register("bypasses", "Changes that sweeps found past the gateways", own.bypasses.clone());
        registry.register("sweeps", "Sweeps that came to their end", own.sweeps.clone());
        registry.register("drift", "Differences that the last sweep left", own.drift.clone());
        registry.register("intents_in_doubt", "Intents that the replay found in doubt", own.in_doubt.clone());
        registry.register("writes_under_way", "Writes that have an intent here", own.under_way.clone());
        let words = "Whether the control table can be reached";
        registry.register("control_reachable", words, own.reachable.clone());
        registry.register("gaps", "Sessions that could not note every write", own.gaps.clone());
        registry.register("writes_without_intent", "Writes that went on unnoted", own.unnoted.clone());
        registry.register("intents_kept", "Intents that were left to the replay", own.kept.clone());
        let words = "Writes not sent, since a request of the mirror without an answer could have undone them";
        registry.register("writes_held_back", words, own.held_back.clone());
        registry.register("shadow_reads", "Reads that were to be compared, by result", own.compared.clone());
        let words = "How long reads took that were compared, by store";
        registry.register_with_unit("shadow_read", words, Unit::Seconds, own.compared_seconds.clone());
        registry.register("canary_reads", "Reads of the canary's keys, by result", own.canary.clone());
        Self(Arc::new(Inner { registry, ..own }))
    }
}

fn buckets() -> Histogram {
    Histogram::new(exponential_buckets(0.000_5, 2.0, 17))
}

impl Metrics {
    fn observe<T>(&self, side: &'static str, operation: &'static str, took: Duration, result: &Result<T>) {
        let result = result.as_ref().map_or_else(|error| error.kind().name(), |_| "ok");
        let labels = [("side", side), ("operation", operation), ("result", result)];
        self.0.requests.get_or_create(&labels).inc();
        let labels = [("side", side), ("operation", operation)];
        self.0.seconds.get_or_create(&labels).observe(took.as_secs_f64());
    }

    /// The mirror of a write became equal, so long after the store's reply.
    pub(super) fn converged(&self, lag: Duration) {
        self.0.lag.observe(lag.as_secs_f64());
    }

    /// A read was compared, or could not be.
    pub(super) fn compared(&self, result: &'static str) {
        self.0.compared.get_or_create(&[("result", result)]).inc();
    }

    /// A read of the canary was answered, or what it answered was wrong.
    pub(super) fn canaried(&self, result: &'static str) {
        self.0.canary.get_or_create(&[("result", result)]).inc();
    }

    /// How long both stores took for a read that was compared.
    pub(super) fn compared_in(&self, source: Duration, target: Duration) {
        for (store, took) in [("blob", source), ("dynamodb", target)] {
            self.0.compared_seconds.get_or_create(&[("store", store)]).observe(took.as_secs_f64());
        }
    }

    /// A session could not vouch for everything.
    pub(super) fn gap(&self) {
        self.0.gaps.inc();
    }

    /// A sweep came to its end.
    pub(super) fn swept(&self, bypasses: usize, drift: usize) {
        self.0.sweeps.inc();
        self.0.bypasses.inc_by(bypasses as u64);
        self.0.drift.set(i64::try_from(drift).unwrap_or(i64::MAX));
    }

    /// A pass of the replay came to its end.
    pub(super) fn replayed(&self, in_doubt: u64) {
        self.0.in_doubt.set(i64::try_from(in_doubt).unwrap_or(i64::MAX));
    }

    /// All of it, as text.
    #[must_use]
    pub fn text(&self, gateway: &DualWrite) -> String {
        let counts = gateway.counts();
        self.0.unnoted.inner().store(counts.unnoted, Ordering::Relaxed);
        self.0.kept.inner().store(counts.kept, Ordering::Relaxed);
        self.0.held_back.inner().store(counts.held_back, Ordering::Relaxed);
        self.0.under_way.set(i64::try_from(gateway.under_way()).unwrap_or(i64::MAX));
        self.0.reachable.set(i64::from(gateway.is_reachable()));
        let mut text = String::new();
        encode(&mut text, &self.0.registry).expect("invariant: text takes text");
        text
    }

    /// Serves `/metrics`, `/healthz` (the process runs) and `/readyz` (it takes writes) until it is cancelled;
    /// returns what was bound.
    ///
    /// # Errors
    /// `Usage` where the address can't be bound.
    pub async fn serve(
        &self,
        listen: SocketAddr,
        gateway: DualWrite,
        stop: CancellationToken,
    ) -> Result<SocketAddr> {
        let failed = |error: std::io::Error| {
            Error::new(ErrorKind::Usage, "listen for a monitor").key(listen).source(error)
        };
        let listener = TcpListener::bind(listen).await.map_err(failed)?;
        let bound = listener.local_addr().map_err(failed)?;
        let (metrics, asked) = (self.clone(), gateway.clone());
        let ready = move || {
            let state = match gateway.not_ready() {
                None => (StatusCode::OK, "ready\n".to_owned()),
                Some(why) => (StatusCode::SERVICE_UNAVAILABLE, format!("{why}\n")),
            };
            std::future::ready(state)
        };
        let text = move || {
            let text = ([(header::CONTENT_TYPE, TEXT)], metrics.text(&asked));
            std::future::ready(text.into_response())
        };
        let router = Router::new()
            .route("/metrics", get(text))
            .route("/healthz", get(|| std::future::ready("ok\n")))
            .route("/readyz", get(ready));
        tokio::spawn(async move {
            let served = axum::serve(listener, router).with_graceful_shutdown(stop.cancelled_owned());
            if let Err(error) = served.await {
                tracing::warn!(%error, "the monitor is not served any more");
            }
        });
        Ok(bound)
    }
}

/// A store whose requests are counted.
pub(super) struct Observed {
    pub(super) store: Arc<dyn BlobStore>,
    pub(super) clock: Arc<dyn Clock>,
    pub(super) metrics: Metrics,
    /// Where the store stands: before the gateway, or behind it.
    pub(super) side: &'static str,
}

impl Observed {
    async fn of<T: Send>(
        &self,
        operation: &'static str,
        request: impl Future<Output = Result<T>> + Send,
    ) -> Result<T> {
        let began = self.clock.monotonic();
        let result = request.await;
        let took = self.clock.monotonic().saturating_sub(began);
        self.metrics.observe(self.side, operation, took, &result);
        result
    }
}

#[async_trait]
impl BlobStore for Observed {
    async fn head(&self, pathname: &Pathname) -> Result<Option<Head>> {
        self.of("head", self.store.head(pathname)).await
    }

    async fn list(&self, request: &ListRequest) -> Result<ListPage> {
        self.of("list", self.store.list(request)).await
    }

    async fn get(&self, pathname: &Pathname, options: &GetOptions) -> Result<Option<Content>> {
        self.of("get", self.store.get(pathname, options)).await
    }

    async fn put(&self, pathname: &Pathname, body: Body, options: &PutOptions) -> Result<Head> {
        self.of("put", self.store.put(pathname, body, options)).await
    }

    async fn copy(&self, from: &Pathname, to: &Pathname, options: &PutOptions) -> Result<Head> {
        self.of("copy", self.store.copy(from, to, options)).await
    }

    async fn rename(&self, from: &Pathname, to: &Pathname, options: &PutOptions) -> Result<Head> {
        self.of("rename", self.store.rename(from, to, options)).await
    }

    async fn delete(&self, pathnames: &[Pathname], if_match: Option<&ETag>) -> Result<()> {
        self.of("delete", self.store.delete(pathnames, if_match)).await
    }

    async fn deadline(&self, within: Duration) -> Result<Option<Deadline>> {
        self.store.deadline(within).await
    }

    async fn delete_before(&self, pathname: &Pathname, if_match: &ETag, deadline: Deadline) -> Result<()> {
        self.of("delete", self.store.delete_before(pathname, if_match, deadline)).await
    }

    async fn create_multipart(&self, pathname: &Pathname, options: &PutOptions) -> Result<Upload> {
        self.of("create-multipart", self.store.create_multipart(pathname, options)).await
    }

    async fn upload_part(
        &self,
        pathname: &Pathname,
        upload: &Upload,
        number: u32,
        body: Body,
    ) -> Result<Part> {
        self.of("upload-part", self.store.upload_part(pathname, upload, number, body)).await
    }

    async fn complete_multipart(
        &self,
        pathname: &Pathname,
        upload: &Upload,
        parts: &[Part],
        options: &PutOptions,
    ) -> Result<Head> {
        self.of("complete-multipart", self.store.complete_multipart(pathname, upload, parts, options)).await
    }
}
