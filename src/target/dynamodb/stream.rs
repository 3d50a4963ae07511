//! The data table's stream: the keys of what is written to it.
//!
//! A record is told to say only that an item may have changed; what it is now is read from the table. So the order
//! of shards means nothing, and a record may be read twice. It must not pass one over: a place in a shard moves on
//! only with what was read there.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use aws_sdk_dynamodb::error::ProvideErrorMetadata as _;
use aws_sdk_dynamodbstreams::types::{Shard, ShardIteratorType};

use super::Shared;
use super::failure::{Call, Failure};
use super::pace::Repeat;
use crate::error::{Error, ErrorKind, Result};
use crate::target::store::{Changes, Table};
use crate::value::Key;

/// How often shards are looked for that are new.
const LOOK_FOR_SHARDS: Duration = Duration::from_secs(10);

/// The stream, and how far it was read.
pub(super) struct Stream {
    shared: Arc<Shared>,
    arn: String,
    open: Vec<Open>,
    /// Shards that are read, or were, or were over before this began.
    known: BTreeSet<String>,
    /// When shards were looked for last; none where they are to be looked for now.
    looked: Option<Duration>,
    /// What was read, and not told yet.
    read: BTreeSet<Key>,
}

/// A shard that is being read.
struct Open {
    id: String,
    /// Where to go on; none where that is not known any more.
    iterator: Option<String>,
    /// The last record that was read.
    last: Option<String>,
    ended: bool,
}

/// What a shard's iterator gave.
enum Page {
    Records {
        keys: Vec<Key>,
        last: Option<String>,
        next: Option<String>,
    },
    /// It is to be asked for again: from the beginning, where what it named is gone.
    Again {
        from_start: bool,
    },
}

impl Shared {
    /// The stream from now on; none where the table has none.
    pub(super) async fn stream(self: &Arc<Self>) -> Result<Option<Stream>> {
        let name = self.layout.table_name(Table::Data);
        let call = self.call("describe table", name, false);
        let described = self
            .attempts(Repeat::Guarded)
            .run(|| async {
                self.client
                    .describe_table()
                    .table_name(name)
                    .send()
                    .await
                    .map_err(|error| call.convert(error))
            })
            .await?;
        let table = described
            .table
            .filter(|table| table.stream_specification.as_ref().is_some_and(|stream| stream.stream_enabled));
        let Some(arn) = table.and_then(|table| table.latest_stream_arn) else { return Ok(None) };
        let mut stream = Stream {
            shared: Arc::clone(self),
            arn,
            open: Vec::new(),
            known: BTreeSet::new(),
            looked: Some(self.clock.monotonic()),
            read: BTreeSet::new(),
        };
        let shards = stream.shards().await?;
        let parents: BTreeSet<String> =
            shards.iter().filter_map(|shard| shard.parent_shard_id.clone()).collect();
        for id in shards.into_iter().filter_map(|shard| shard.shard_id) {
            // What a parent's children followed on is over.
            if !parents.contains(&id) {
                let iterator = stream.iterator(&id, ShardIteratorType::Latest, None).await?;
                stream.open.push(Open { id: id.clone(), iterator, last: None, ended: false });
            }
            stream.known.insert(id);
        }
        Ok(Some(stream))
    }
}

impl Stream {
    fn call(&self, operation: &'static str) -> Call<'_> {
        Call { operation, subject: self.arn.as_str(), writes: false, endpoint: self.shared.endpoint.as_str() }
    }

    async fn shards(&self) -> Result<Vec<Shard>> {
        let call = self.call("describe stream");
        let mut shards = Vec::new();
        let mut after = None;
        loop {
            let reply = self
                .shared
                .attempts(Repeat::Guarded)
                .run(|| async {
                    let request = self.shared.streams.describe_stream().stream_arn(&self.arn);
                    let request = request.set_exclusive_start_shard_id(after.clone());
                    request.send().await.map_err(|error| call.convert(error))
                })
                .await?;
            let Some(description) = reply.stream_description else { return Ok(shards) };
            shards.extend(description.shards.unwrap_or_default());
            after = description.last_evaluated_shard_id;
            if after.is_none() {
                return Ok(shards);
            }
        }
    }

    /// A place in a shard; none where the shard is gone.
    async fn iterator(
        &self,
        shard: &str,
        kind: ShardIteratorType,
        sequence_number: Option<&str>,
    ) -> Result<Option<String>> {
        let call = self.call("find a place in a stream");
        let found = self
            .shared
            .attempts(Repeat::Guarded)
            .run(|| async {
                let request = self.shared.streams.get_shard_iterator().stream_arn(&self.arn).shard_id(shard);
                let request = request.shard_iterator_type(kind.clone());
                let request = request.set_sequence_number(sequence_number.map(str::to_owned));
                request.send().await.map_err(|error| call.convert(error))
            })
            .await;
        match found {
            Ok(reply) => Ok(reply.shard_iterator),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Begins to read shards that are new, from their first record on.
    async fn look_for_shards(&mut self) -> Result<()> {
        let now = self.shared.clock.monotonic();
        if self.looked.is_some_and(|looked| now.saturating_sub(looked) < LOOK_FOR_SHARDS) {
            return Ok(());
        }
        let present: Vec<String> =
            self.shards().await?.into_iter().filter_map(|shard| shard.shard_id).collect();
        self.known.retain(|id| present.contains(id));
        for id in present {
            if self.known.insert(id.clone()) {
                self.open.push(Open { id, iterator: None, last: None, ended: false });
            }
        }
        self.looked = Some(now);
        Ok(())
    }

    /// Reads one page of a shard.
    async fn read(&mut self, number: usize) -> Result<()> {
        let Open { id, iterator, last, .. } = &self.open[number];
        let iterator = match iterator {
            Some(iterator) => Some(iterator.clone()),
            None => {
                let kind = match last {
                    Some(_) => ShardIteratorType::AfterSequenceNumber,
                    None => ShardIteratorType::TrimHorizon,
                };
                self.iterator(id, kind, last.as_deref()).await?
            }
        };
        let Some(iterator) = iterator else {
            self.open[number].ended = true;
            return Ok(());
        };
        let page = self.page(&iterator).await?;
        let shard = &mut self.open[number];
        match page {
            Page::Records { keys, last, next } => {
                self.read.extend(keys);
                shard.last = last.or(shard.last.take());
                shard.ended = next.is_none();
                shard.iterator = next;
            }
            Page::Again { from_start } => {
                shard.iterator = None;
                shard.last.take_if(|_| from_start);
            }
        }
        Ok(())
    }

    async fn page(&self, iterator: &str) -> Result<Page> {
        let call = self.call("read a stream");
        let names = self.shared.layout.key_names(Table::Data);
        self.shared
            .attempts(Repeat::Guarded)
            .run(|| async {
                let reply = match self.shared.streams.get_records().shard_iterator(iterator).send().await {
                    Ok(reply) => reply,
                    Err(error) => {
                        return match error.code() {
                            Some("ExpiredIteratorException") => Ok(Page::Again { from_start: false }),
                            Some("TrimmedDataAccessException") => Ok(Page::Again { from_start: true }),
                            _ => Err(call.convert(error)),
                        };
                    }
                };
                let mut last = None;
                let mut keys = Vec::new();
                for record in reply.records.into_iter().flatten().filter_map(|record| record.dynamodb) {
                    let text = |name: &str| record.keys.as_ref()?.get(name)?.as_s().ok().cloned();
                    let (Some(partition), Some(sort)) = (text(names.0), text(names.1)) else {
                        return Err(Failure::from(unreadable(&call)));
                    };
                    keys.push(Key { partition, sort });
                    last = record.sequence_number.or(last);
                }
                Ok(Page::Records { keys, last, next: reply.next_shard_iterator })
            })
            .await
    }
}

fn unreadable(call: &Call<'_>) -> Error {
    call.error(ErrorKind::Corrupt).message("a record without the table's key")
}

#[async_trait]
impl Changes for Stream {
    async fn next(&mut self) -> Result<Vec<Key>> {
        self.look_for_shards().await?;
        for number in 0..self.open.len() {
            match self.read(number).await {
                // Others read it too; its place is kept.
                Err(error) if matches!(error.kind(), ErrorKind::Throttled { .. }) => {}
                read => read?,
            }
        }
        if self.open.iter().any(|shard| shard.ended) {
            // Its children are there already.
            self.looked = None;
            self.open.retain(|shard| !shard.ended);
        }
        Ok(std::mem::take(&mut self.read).into_iter().collect())
    }
}
