//! What an endpoint says of a table, as [`TableFacts`].

use aws_sdk_dynamodb::error::ProvideErrorMetadata as _;
use aws_sdk_dynamodb::types::{
    BillingMode, GlobalSecondaryIndexDescription, IndexStatus, KeySchemaElement, KeyType,
    PointInTimeRecoveryStatus, ProjectionType, TableDescription, TableStatus, TimeToLiveStatus,
};

use super::Shared;
use super::pace::Repeat;
use crate::error::{ErrorKind, Result};
use crate::target::store::{IndexFacts, TableFacts};

impl Shared {
    pub(super) async fn describe(&self, table: &str) -> Result<Option<TableFacts>> {
        let call = self.call("describe table", table, false);
        let described = self
            .attempts(Repeat::Guarded)
            .run(|| async {
                let request = self.client.describe_table().table_name(table);
                request.send().await.map_err(|error| call.convert(error))
            })
            .await;
        let description = match described {
            Ok(reply) => reply.table,
            Err(error) if error.kind() == ErrorKind::NotFound => None,
            Err(error) => return Err(error),
        };
        let Some(description) = description else { return Ok(None) };
        let mut facts = facts(description);
        facts.ttl = self.ttl_of(table).await?;
        facts.point_in_time_recovery = self.recovery_of(table).await?;
        Ok(Some(facts))
    }

    async fn ttl_of(&self, table: &str) -> Result<Option<String>> {
        let call = self.call("describe TTL", table, false);
        let reply = self
            .attempts(Repeat::Guarded)
            .run(|| async {
                let request = self.client.describe_time_to_live().table_name(table);
                request.send().await.map_err(|error| call.convert(error))
            })
            .await?;
        let on = [TimeToLiveStatus::Enabled, TimeToLiveStatus::Enabling];
        let ttl = reply.time_to_live_description;
        let ttl =
            ttl.filter(|ttl| ttl.time_to_live_status.as_ref().is_some_and(|status| on.contains(status)));
        Ok(ttl.and_then(|ttl| ttl.attribute_name))
    }

    /// Whether point-in-time recovery is on; none where the endpoint does not know it.
    async fn recovery_of(&self, table: &str) -> Result<Option<bool>> {
        let call = self.call("describe point-in-time recovery", table, false);
        self.attempts(Repeat::Guarded)
            .run(|| async {
                match self.client.describe_continuous_backups().table_name(table).send().await {
                    Ok(reply) => {
                        let recovery = reply
                            .continuous_backups_description
                            .and_then(|backups| backups.point_in_time_recovery_description);
                        let status = recovery.and_then(|recovery| recovery.point_in_time_recovery_status);
                        Ok(Some(status == Some(PointInTimeRecoveryStatus::Enabled)))
                    }
                    Err(error) if error.code() == Some("UnknownOperationException") => Ok(None),
                    Err(error) => Err(call.convert(error)),
                }
            })
            .await
    }
}

fn facts(table: TableDescription) -> TableFacts {
    let billing = table.billing_mode_summary.and_then(|summary| summary.billing_mode);
    let stream = table.stream_specification.filter(|stream| stream.stream_enabled);
    let types = table.attribute_definitions.unwrap_or_default().into_iter();
    let (partition_key, sort_key) = keys(table.key_schema.as_deref().unwrap_or_default());
    TableFacts {
        name: table.table_name.unwrap_or_default(),
        arn: table.table_arn,
        active: table.table_status == Some(TableStatus::Active),
        keys: (partition_key, sort_key),
        indexes: table.global_secondary_indexes.unwrap_or_default().into_iter().map(index_facts).collect(),
        attribute_types: types
            .map(|definition| (definition.attribute_name, definition.attribute_type.as_str().to_owned()))
            .collect(),
        on_demand: billing == Some(BillingMode::PayPerRequest),
        ttl: None,
        stream: stream.and_then(|stream| stream.stream_view_type).map(|view| view.as_str().to_owned()),
        point_in_time_recovery: None,
        deletion_protection: table.deletion_protection_enabled,
    }
}

fn index_facts(index: GlobalSecondaryIndexDescription) -> IndexFacts {
    let (partition_key, sort_key) = keys(index.key_schema.as_deref().unwrap_or_default());
    let projection = index.projection.and_then(|projection| projection.projection_type);
    IndexFacts {
        name: index.index_name.unwrap_or_default(),
        partition_key,
        sort_key,
        active: index.index_status == Some(IndexStatus::Active),
        projects_all: projection == Some(ProjectionType::All),
    }
}

/// The partition key and the sort key of a table or an index.
fn keys(schema: &[KeySchemaElement]) -> (String, Option<String>) {
    let named = |kind: &KeyType| {
        let element = schema.iter().find(|element| element.key_type == *kind);
        element.map(|element| element.attribute_name.clone())
    };
    (named(&KeyType::Hash).unwrap_or_default(), named(&KeyType::Range))
}
