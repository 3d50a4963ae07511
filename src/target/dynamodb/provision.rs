//! Creates what is missing of both tables. It never changes or removes what is there.
//!
//! [`mod@steps`] compares a table with the plan, purely; the rest carries missing steps out, one by one,
//! and looks again after each. So a run that was interrupted is completed by the next.

mod steps;

use std::collections::BTreeSet;
use std::time::Duration;

use aws_sdk_dynamodb::error::SdkError;
use aws_sdk_dynamodb::operation::create_table::CreateTableError;
use aws_sdk_dynamodb::types::{
    AttributeDefinition, BillingMode, CreateGlobalSecondaryIndexAction, GlobalSecondaryIndex,
    GlobalSecondaryIndexUpdate, KeySchemaElement, KeyType, PointInTimeRecoverySpecification, Projection,
    ProjectionType, ScalarAttributeType, StreamSpecification, StreamViewType, TimeToLiveSpecification,
};

use steps::{Action, Planned, State, check_keys, steps};

use super::Shared;
use super::failure::Call;
use super::pace::Repeat;
use crate::error::{Error, ErrorKind, Result};
use crate::plan::{IndexPlan, StreamView, TargetPlan};
use crate::target::layout::Layout;
use crate::target::store::{ProvisionResult, Provisioned, Table, TableFacts};

/// A table is waited for this long; an index on a filled table can take hours, and a rerun goes on waiting.
const WAIT_MAX: Duration = Duration::from_secs(600);
const POLL: Duration = Duration::from_millis(500);

impl Shared {
    pub(super) async fn provision(
        &self,
        plan: &TargetPlan,
        with_stream: bool,
        dry_run: bool,
    ) -> Result<Vec<Provisioned>> {
        let layout = Layout::new(plan.clone());
        let mut report = Vec::new();
        for table in [Table::Data, Table::Control] {
            let planned = Planned::new(&layout, plan, table, self.site, with_stream);
            self.provision_table(&planned, dry_run, &mut report).await?;
        }
        Ok(report)
    }

    async fn provision_table(
        &self,
        planned: &Planned<'_>,
        dry_run: bool,
        report: &mut Vec<Provisioned>,
    ) -> Result<()> {
        let facts = self.describe(planned.name).await?;
        for step in steps(planned, facts.as_ref(), self.site)? {
            let result = match step.state {
                State::Present => ProvisionResult::Present,
                State::Differs(how) => ProvisionResult::Differs(how),
                State::NotOffered(why) => ProvisionResult::NotOffered(why.to_owned()),
                State::Missing(_) if dry_run => ProvisionResult::Created,
                State::Missing(action) => self.carry_out(planned, action).await?,
            };
            report.push(Provisioned { what: step.what, result });
        }
        if !dry_run {
            self.wait_until_active(planned).await?;
        }
        Ok(())
    }

    async fn carry_out(&self, planned: &Planned<'_>, action: Action<'_>) -> Result<ProvisionResult> {
        let call = self.call("provision table", planned.name, true);
        match action {
            Action::CreateTable => self.create_table(planned, &call).await?,
            Action::CreateIndex(index) => {
                // Made together with the table, where that was missing too.
                let facts = self.wait_until_active(planned).await?;
                if facts.indexes.iter().all(|found| found.name != index.name) {
                    self.create_index(planned, index, &call).await?;
                }
            }
            Action::EnableTtl(attribute) => self.enable_ttl(attribute, &call).await?,
            Action::EnableStream(view) => {
                let facts = self.wait_until_active(planned).await?;
                if facts.stream.is_none() {
                    self.enable_stream(view, &call).await?;
                }
            }
            Action::EnableProtection => {
                let facts = self.wait_until_active(planned).await?;
                match facts.deletion_protection {
                    Some(true) => {}
                    Some(false) => self.enable_protection(&call).await?,
                    None => return Ok(not_offered()),
                }
            }
            Action::EnableRecovery => {
                let facts = self.wait_until_active(planned).await?;
                match facts.point_in_time_recovery {
                    Some(true) => {}
                    Some(false) => self.enable_recovery(&call).await?,
                    None => return Ok(not_offered()),
                }
            }
        }
        Ok(ProvisionResult::Created)
    }

    /// Creates the table with all that can be created with it.
    async fn create_table(&self, planned: &Planned<'_>, call: &Call<'_>) -> Result<()> {
        let index_keys =
            planned.indexes.iter().flat_map(|index| [index.partition_key.as_str(), &index.sort_key]);
        let attributes: BTreeSet<&str> =
            [planned.keys.0, planned.keys.1].into_iter().chain(index_keys).collect();
        let attributes = attributes.into_iter().map(|name| definition(call, name)).collect::<Result<_>>()?;
        let indexes: Vec<GlobalSecondaryIndex> =
            planned.indexes.iter().map(|index| global_index(call, index)).collect::<Result<_>>()?;
        let stream = planned.stream.map(|view| stream(call, view)).transpose()?;
        let request = self
            .client
            .create_table()
            .table_name(planned.name)
            .set_attribute_definitions(Some(attributes))
            .set_key_schema(Some(key_schema(call, planned.keys.0, planned.keys.1)?))
            .set_global_secondary_indexes((!indexes.is_empty()).then_some(indexes))
            .billing_mode(BillingMode::PayPerRequest)
            .set_stream_specification(stream)
            .deletion_protection_enabled(planned.protection);
        self.attempts(Repeat::Guarded)
            .run(|| async {
                match request.clone().send().await {
                    Ok(_) => Ok(()),
                    // Another process, or an attempt whose reply was lost; its keys are checked when waiting.
                    Err(SdkError::ServiceError(error))
                        if matches!(error.err(), CreateTableError::ResourceInUseException(_)) =>
                    {
                        Ok(())
                    }
                    Err(error) => Err(call.convert(error)),
                }
            })
            .await?;
        self.wait_until_active(planned).await.map(|_| ())
    }

    async fn create_index(&self, planned: &Planned<'_>, index: &IndexPlan, call: &Call<'_>) -> Result<()> {
        let create = CreateGlobalSecondaryIndexAction::builder()
            .index_name(&index.name)
            .set_key_schema(Some(key_schema(call, &index.partition_key, &index.sort_key)?))
            .projection(Projection::builder().projection_type(ProjectionType::All).build())
            .build()
            .map_err(|cause| call.error(ErrorKind::Internal).source(cause))?;
        let request = self
            .client
            .update_table()
            .table_name(planned.name)
            .attribute_definitions(definition(call, &index.partition_key)?)
            .attribute_definitions(definition(call, &index.sort_key)?)
            .global_secondary_index_updates(GlobalSecondaryIndexUpdate::builder().create(create).build());
        self.attempts(Repeat::Unguarded)
            .run(|| async { request.clone().send().await.map_err(|error| call.convert(error)) })
            .await?;
        self.wait_until_active(planned).await.map(|_| ())
    }

    async fn enable_ttl(&self, attribute: &str, call: &Call<'_>) -> Result<()> {
        let ttl = TimeToLiveSpecification::builder().enabled(true).attribute_name(attribute).build();
        let ttl = ttl.map_err(|cause| call.error(ErrorKind::Internal).source(cause))?;
        let request =
            self.client.update_time_to_live().table_name(call.subject).time_to_live_specification(ttl);
        self.attempts(Repeat::Unguarded)
            .run(|| async { request.clone().send().await.map_err(|error| call.convert(error)) })
            .await
            .map(|_| ())
    }

    async fn enable_stream(&self, view: StreamView, call: &Call<'_>) -> Result<()> {
        let request = self.client.update_table().table_name(call.subject);
        let request = request.stream_specification(stream(call, view)?);
        self.attempts(Repeat::Unguarded)
            .run(|| async { request.clone().send().await.map_err(|error| call.convert(error)) })
            .await
            .map(|_| ())
    }

    async fn enable_protection(&self, call: &Call<'_>) -> Result<()> {
        let request = self.client.update_table().table_name(call.subject).deletion_protection_enabled(true);
        self.attempts(Repeat::Guarded)
            .run(|| async { request.clone().send().await.map_err(|error| call.convert(error)) })
            .await
            .map(|_| ())
    }

    async fn enable_recovery(&self, call: &Call<'_>) -> Result<()> {
        let recovery =
            PointInTimeRecoverySpecification::builder().point_in_time_recovery_enabled(true).build();
        let recovery = recovery.map_err(|cause| call.error(ErrorKind::Internal).source(cause))?;
        let request = self.client.update_continuous_backups().table_name(call.subject);
        let request = request.point_in_time_recovery_specification(recovery);
        self.attempts(Repeat::Guarded)
            .run(|| async { request.clone().send().await.map_err(|error| call.convert(error)) })
            .await
            .map(|_| ())
    }

    /// Waits until the table and its indexes are ACTIVE.
    async fn wait_until_active(&self, planned: &Planned<'_>) -> Result<TableFacts> {
        let began = self.clock.monotonic();
        loop {
            let facts = self.describe(planned.name).await?;
            if let Some(facts) = facts.filter(|facts| facts.active) {
                check_keys(planned, &facts)?;
                if facts.indexes.iter().all(|index| index.active) {
                    return Ok(facts);
                }
            }
            if self.clock.monotonic().saturating_sub(began) > WAIT_MAX {
                return Err(Error::new(ErrorKind::NotApplied, "wait for table")
                    .key(planned.name)
                    .message(format!("it is not ACTIVE after {} s", WAIT_MAX.as_secs()))
                    .hint("DynamoDB goes on with it; run `migrate provision` again to wait further"));
            }
            self.clock.sleep(POLL).await;
        }
    }
}

fn not_offered() -> ProvisionResult {
    ProvisionResult::NotOffered("the endpoint does not have it".to_owned())
}

fn definition(call: &Call<'_>, name: &str) -> Result<AttributeDefinition> {
    AttributeDefinition::builder()
        .attribute_name(name)
        .attribute_type(ScalarAttributeType::S)
        .build()
        .map_err(|cause| call.error(ErrorKind::Internal).source(cause))
}

fn key_schema(call: &Call<'_>, partition: &str, sort: &str) -> Result<Vec<KeySchemaElement>> {
    [(partition, KeyType::Hash), (sort, KeyType::Range)]
        .into_iter()
        .map(|(name, kind)| {
            let element = KeySchemaElement::builder().attribute_name(name).key_type(kind).build();
            element.map_err(|cause| call.error(ErrorKind::Internal).source(cause))
        })
        .collect()
}

fn global_index(call: &Call<'_>, index: &IndexPlan) -> Result<GlobalSecondaryIndex> {
    GlobalSecondaryIndex::builder()
        .index_name(&index.name)
        .set_key_schema(Some(key_schema(call, &index.partition_key, &index.sort_key)?))
        .projection(Projection::builder().projection_type(ProjectionType::All).build())
        .build()
        .map_err(|cause| call.error(ErrorKind::Internal).source(cause))
}

fn stream(call: &Call<'_>, view: StreamView) -> Result<StreamSpecification> {
    StreamSpecification::builder()
        .stream_enabled(true)
        .stream_view_type(StreamViewType::from(view.name()))
        .build()
        .map_err(|cause| call.error(ErrorKind::Internal).source(cause))
}
