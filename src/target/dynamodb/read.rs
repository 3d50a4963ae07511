//! Reads: batches of keys, queries, scans, counts. All consistent, but for an index, which cannot be.

use std::collections::HashMap;

use aws_sdk_dynamodb::types::KeysAndAttributes;
use futures::stream::{self, StreamExt as _, TryStreamExt as _};

use super::Shared;
use super::encode::{self, Attributes};
use super::expression::Expression;
use super::pace::Repeat;
use crate::error::{ErrorKind, Result};
use crate::plan::IndexPlan;
use crate::target::store::{Page, Query, Scan, Table};
use crate::value::{Item, Key, Value};

/// A batch of reads takes at most this many keys (AWS, `BatchGetItem`).
const KEYS_MAX: usize = 100;

impl Shared {
    pub(super) async fn get(&self, table: Table, keys: &[Key]) -> Result<Vec<Option<Item>>> {
        for key in keys {
            self.layout.check_key(table, key)?;
        }
        // A batch with the same key twice is refused.
        let mut distinct = keys.to_vec();
        distinct.sort_unstable();
        distinct.dedup();
        let batches: Vec<Vec<Key>> = distinct.chunks(KEYS_MAX).map(<[Key]>::to_vec).collect();
        let found: Vec<(Key, Item)> = stream::iter(batches)
            .map(|batch| self.get_batch(table, batch))
            .buffer_unordered(self.pace.limit())
            .try_concat()
            .await?;
        let found: HashMap<Key, Item> = found.into_iter().collect();
        Ok(keys.iter().map(|key| found.get(key).cloned()).collect())
    }

    async fn get_batch(&self, table: Table, mut wanted: Vec<Key>) -> Result<Vec<(Key, Item)>> {
        let name = self.layout.table_name(table);
        let names = self.layout.key_names(table);
        let call = self.call("get items", name, false);
        let mut attempts = self.attempts(Repeat::Guarded);
        let mut found = Vec::with_capacity(wanted.len());
        loop {
            let reply = attempts
                .run(|| async {
                    let keys = KeysAndAttributes::builder()
                        .set_keys(Some(wanted.iter().map(|key| encode::key(names, key)).collect()))
                        .consistent_read(true)
                        .build()
                        .map_err(|cause| call.error(ErrorKind::Internal).source(cause))?;
                    let request = self.client.batch_get_item().request_items(name, keys);
                    request.send().await.map_err(|error| call.convert(error))
                })
                .await?;
            for attributes in reply.responses.into_iter().flatten().flat_map(|(_, items)| items) {
                let item = encode::read_item(attributes)?;
                found.push((self.layout.key_of(table, &item)?, item));
            }
            let rest = reply.unprocessed_keys.into_iter().flatten().flat_map(|(_, rest)| rest.keys);
            let rest: Vec<Key> = rest.map(|key| encode::read_key(names, &key)).collect::<Result<_>>()?;
            if rest.is_empty() {
                return Ok(found);
            }
            let progress = rest.len() < wanted.len();
            let throttled = call.error(ErrorKind::Throttled { retry_after: None });
            attempts.wait_after_partial(progress, throttled.message("keys were left unprocessed")).await?;
            wanted = rest;
        }
    }

    pub(super) async fn query(&self, table: Table, query: &Query) -> Result<Page> {
        let name = self.layout.table_name(table);
        let names = self.layout.key_names(table);
        let call = self.call("query items", name, false);
        let mut expression = Expression::default();
        let partition = expression.name(names.0);
        let partition_value = expression.value(&Value::s(&query.partition));
        expression.text = format!("{partition} = {partition_value}");
        if !query.sort_prefix.is_empty() {
            let sort = expression.name(names.1);
            let prefix = expression.value(&Value::s(&query.sort_prefix));
            expression.text.push_str(&format!(" AND begins_with({sort}, {prefix})"));
        }
        let limit = query.limit.map(|limit| i32::try_from(limit).unwrap_or(i32::MAX));
        let text = expression.text.clone();
        let (placeholder_names, placeholder_values) = expression.into_parts();
        let reply = self
            .attempts(Repeat::Guarded)
            .run(|| async {
                self.client
                    .query()
                    .table_name(name)
                    .consistent_read(true)
                    .key_condition_expression(&text)
                    .set_expression_attribute_names(placeholder_names.clone())
                    .set_expression_attribute_values(placeholder_values.clone())
                    .set_exclusive_start_key(query.after.as_ref().map(|key| encode::key(names, key)))
                    .set_limit(limit)
                    .scan_index_forward(!query.descending)
                    .send()
                    .await
                    .map_err(|error| call.convert(error))
            })
            .await?;
        page(names, reply.items, reply.last_evaluated_key)
    }

    pub(super) async fn scan(&self, table: Table, scan: &Scan) -> Result<Page> {
        let name = self.layout.table_name(table);
        let names = self.layout.key_names(table);
        let call = self.call("scan table", name, false);
        let number = |number: u32| {
            i32::try_from(number)
                .map_err(|cause| call.error(ErrorKind::Internal).message("too many segments").source(cause))
        };
        let (segment, segments) = (number(scan.segment)?, number(scan.segments)?);
        let only = Expression::only(&scan.only);
        let (only, placeholder_names) = only.map(|only| (only.text, only.names)).unzip();
        let reply = self
            .attempts(Repeat::Guarded)
            .run(|| async {
                self.client
                    .scan()
                    .table_name(name)
                    .consistent_read(true)
                    .segment(segment)
                    .total_segments(segments)
                    .set_exclusive_start_key(scan.after.as_ref().map(|key| encode::key(names, key)))
                    .set_projection_expression(only.clone())
                    .set_expression_attribute_names(placeholder_names.clone())
                    .send()
                    .await
                    .map_err(|error| call.convert(error))
            })
            .await?;
        page(names, reply.items, reply.last_evaluated_key)
    }

    pub(super) async fn read_index(
        &self,
        index: &IndexPlan,
        at: Option<(&str, &str)>,
        each: &mut (dyn FnMut(Item) + Send),
    ) -> Result<()> {
        let name = self.layout.table_name(Table::Data);
        let (partition, sort) = self.layout.key_names(Table::Data);
        let call = self.call("read index", &index.name, false);
        let keys = [partition, sort, &index.partition_key, &index.sort_key].map(str::to_owned);
        let mut expression = Expression::only(&keys).unwrap_or_default();
        let only = std::mem::take(&mut expression.text);
        let asked = at.map(|(partition, sort)| {
            let names = [&index.partition_key, &index.sort_key].map(|name| expression.name(name));
            let values = [partition, sort].map(|text| expression.value(&Value::s(text)));
            format!("{} = {} AND {} = {}", names[0], values[0], names[1], values[1])
        });
        let (names, values) = expression.into_parts();
        let mut after = None;
        loop {
            let mut attempts = self.attempts(Repeat::Guarded);
            let (items, last) = match &asked {
                None => {
                    let scan = self.client.scan().table_name(name).index_name(&index.name);
                    let scan =
                        scan.projection_expression(&only).set_expression_attribute_names(names.clone());
                    let scan = scan.set_exclusive_start_key(after);
                    let send = || async { scan.clone().send().await.map_err(|error| call.convert(error)) };
                    let reply = attempts.run(send).await?;
                    (reply.items, reply.last_evaluated_key)
                }
                Some(asked) => {
                    let query = self.client.query().table_name(name).index_name(&index.name);
                    let query = query.projection_expression(&only).key_condition_expression(asked);
                    let query = query.set_expression_attribute_names(names.clone());
                    let query = query.set_expression_attribute_values(values.clone());
                    let query = query.set_exclusive_start_key(after);
                    let send = || async { query.clone().send().await.map_err(|error| call.convert(error)) };
                    let reply = attempts.run(send).await?;
                    (reply.items, reply.last_evaluated_key)
                }
            };
            for item in items.into_iter().flatten() {
                each(encode::read_item(item)?);
            }
            after = last;
            if after.is_none() {
                return Ok(());
            }
        }
    }
}

fn page(names: (&str, &str), items: Option<Vec<Attributes>>, last: Option<Attributes>) -> Result<Page> {
    let items = items.into_iter().flatten().map(encode::read_item).collect::<Result<_>>()?;
    let next = last.map(|key| encode::read_key(names, &key)).transpose()?;
    Ok(Page { items, next })
}
