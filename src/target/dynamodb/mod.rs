//! The target in DynamoDB, through the AWS SDK: the only place that uses it.
//!
//! New rows of the control table go past its layers ([`express`]), since a write through the gateway waits for one.
//! Owns the requests, their pace and their repetition. The SDK's own retries are off, so that one policy
//! holds everywhere: [`pace`] repeats what is safe to repeat, bounded in count and time; [`failure`] says
//! what an error means. It must never decide what to write, and never hide that an outcome is unknown.

mod connect;
mod encode;
mod express;
mod expression;
mod failure;
mod insert;
mod pace;
pub mod policy;
mod provision;
mod read;
mod schema;
mod stream;
mod write;

use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use async_trait::async_trait;
use aws_sdk_dynamodb::Client;

pub use connect::DynamoConfig;
use express::Express;
use failure::Call;
pub use pace::Patience;
use pace::{Attempts, Pace, Repeat};

use super::layout::Layout;
use super::store::{
    Changes, Outcome, Page, Provisioned, Query, Scan, Site, Table, TableFacts, TargetStore, Write,
};
use crate::clock::Clock;
use crate::error::Result;
use crate::plan::{IndexPlan, TargetPlan};
use crate::value::{Item, Key};

/// Both tables in DynamoDB, or in an engine that speaks its API.
#[derive(Clone)]
pub struct DynamoTarget(Arc<Shared>);

struct Shared {
    client: Client,
    express: Option<Arc<Express>>,
    streams: aws_sdk_dynamodbstreams::Client,
    layout: Layout,
    clock: Arc<dyn Clock>,
    site: Site,
    /// What messages call the endpoint: its URL, or the region.
    endpoint: String,
    patience: Patience,
    pace: Pace,
    /// The credentials do not permit PartiQL inserts, so items are put one by one.
    partiql_denied: AtomicBool,
}

impl std::fmt::Debug for DynamoTarget {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("DynamoTarget").field("endpoint", &self.0.endpoint).finish_non_exhaustive()
    }
}

impl DynamoTarget {
    /// What messages call the endpoint: its URL, or the region.
    #[must_use]
    pub fn endpoint(&self) -> &str {
        &self.0.endpoint
    }

    /// The same tables with other patience: bulk work and a user's request may share the pace.
    #[must_use]
    pub fn with_patience(&self, patience: Patience) -> Self {
        let shared = &*self.0;
        Self(Arc::new(Shared {
            client: shared.client.clone(),
            express: shared.express.clone(),
            streams: shared.streams.clone(),
            layout: shared.layout.clone(),
            clock: shared.clock.clone(),
            site: shared.site,
            endpoint: shared.endpoint.clone(),
            patience,
            pace: shared.pace.clone(),
            partiql_denied: AtomicBool::new(false),
        }))
    }
}

impl Shared {
    fn call<'a>(&'a self, operation: &'static str, subject: &'a str, writes: bool) -> Call<'a> {
        Call { operation, subject, writes, endpoint: &self.endpoint }
    }

    fn attempts(&self, repeat: Repeat) -> Attempts<'_> {
        Attempts::new(&self.pace, &*self.clock, self.patience, repeat)
    }
}

#[async_trait]
impl TargetStore for DynamoTarget {
    fn site(&self) -> Site {
        self.0.site
    }

    fn requests(&self) -> u64 {
        self.0.pace.requests()
    }

    async fn get(&self, table: Table, keys: &[Key]) -> Result<Vec<Option<Item>>> {
        self.0.get(table, keys).await
    }

    async fn query(&self, table: Table, query: &Query) -> Result<Page> {
        self.0.query(table, query).await
    }

    async fn scan(&self, table: Table, scan: &Scan) -> Result<Page> {
        self.0.scan(table, scan).await
    }

    async fn transact(&self, token: &str, writes: Vec<Write>) -> Result<Outcome> {
        self.0.transact(token, writes).await
    }

    async fn insert(&self, table: Table, items: Vec<Item>) -> Result<Vec<bool>> {
        self.0.insert(table, items).await
    }

    async fn read_index(
        &self,
        index: &IndexPlan,
        at: Option<(&str, &str)>,
        each: &mut (dyn FnMut(Item) + Send),
    ) -> Result<()> {
        self.0.read_index(index, at, each).await
    }

    async fn changes(&self) -> Result<Option<Box<dyn Changes>>> {
        Ok(self.0.stream().await?.map(|stream| Box::new(stream) as Box<dyn Changes>))
    }

    async fn describe(&self, table: Table) -> Result<Option<TableFacts>> {
        self.0.describe(self.0.layout.table_name(table)).await
    }

    async fn provision(
        &self,
        plan: &TargetPlan,
        with_stream: bool,
        dry_run: bool,
    ) -> Result<Vec<Provisioned>> {
        self.0.provision(plan, with_stream, dry_run).await
    }
}
