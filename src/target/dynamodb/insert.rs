//! Inserts: items where no item has their key, in batches of PartiQL statements.
//!
//! DynamoDB's other batch write has no conditions, so it is not used. Where the credentials do not permit
//! PartiQL, each item is a conditional put.

use std::ops::Range;
use std::sync::atomic::Ordering;

use aws_sdk_dynamodb::types::{BatchStatementRequest, BatchStatementResponse};
use futures::stream::{self, StreamExt as _, TryStreamExt as _};

use super::Shared;
use super::encode;
use super::failure::Call;
use super::pace::{Attempts, Repeat};
use crate::error::{Error, ErrorKind, Result};
use crate::target::store::{Condition, Outcome, Table};
use crate::value::{Item, Key, Value};

/// A batch takes at most this many statements (AWS, `BatchExecuteStatement`).
const STATEMENTS_MAX: usize = 25;
/// A statement is at most this long (AWS, `BatchStatementRequest`).
const STATEMENT_BYTES_MAX: usize = 8192;
/// The service and the engines refuse a request over 16 MB on the wire; smaller ones share the way better.
const BATCH_BYTES_MAX: usize = 4 << 20;

type Entry<'a> = (&'a Key, &'a Item);

/// What became of one statement.
enum Inserted {
    Created,
    Taken,
    /// Nothing yet: it is to be sent again.
    Again(Error),
}

impl Shared {
    pub(super) async fn insert(&self, table: Table, items: Vec<Item>) -> Result<Vec<bool>> {
        let keys = self.layout.check_insert(table, &items)?;
        let entries: Vec<Entry<'_>> = keys.iter().zip(&items).collect();
        let batches = cut(&items).into_iter().map(|range| self.insert_batch(table, &entries[range]));
        stream::iter(batches).buffered(self.pace.limit()).try_concat().await
    }

    async fn insert_batch(&self, table: Table, entries: &[Entry<'_>]) -> Result<Vec<bool>> {
        let call = self.call("insert items", self.layout.table_name(table), true);
        let statements: Vec<String> = entries.iter().map(|(_, item)| statement(call.subject, item)).collect();
        let too_long = statements.iter().any(|statement| statement.len() > STATEMENT_BYTES_MAX);
        let mut attempts = self.attempts(Repeat::Guarded);
        let mut created = vec![false; entries.len()];
        let mut pending: Vec<usize> = (0..entries.len()).collect();
        while !pending.is_empty() {
            if too_long || self.partiql_denied.load(Ordering::Relaxed) {
                for at in pending {
                    let (key, item) = entries[at];
                    created[at] = self.put(table, key, item, &Condition::Absent).await? == Outcome::Applied;
                }
                break;
            }
            let requests = || {
                let chosen = pending.iter().map(|at| (statements[*at].as_str(), entries[*at].1));
                chosen.map(|(text, item)| request(&call, text, item)).collect::<Result<Vec<_>>>()
            };
            let answers = match self.execute(&call, &mut attempts, requests).await {
                Err(error) if error.kind() == ErrorKind::Denied => {
                    self.partiql_denied.store(true, Ordering::Relaxed);
                    continue;
                }
                answers => answers?,
            };
            if answers.len() != pending.len() {
                return Err(call
                    .error(ErrorKind::OutcomeUnknown)
                    .message("an answer is missing in the reply"));
            }
            let mut again = Vec::new();
            let mut reason = None;
            for (at, answer) in pending.iter().zip(answers) {
                match judge(&call, answer)? {
                    Inserted::Created => created[*at] = true,
                    Inserted::Taken => {}
                    Inserted::Again(error) => {
                        again.push(*at);
                        reason = Some(error);
                    }
                }
            }
            if let Some(reason) = reason {
                if reason.kind() == ErrorKind::Denied {
                    self.partiql_denied.store(true, Ordering::Relaxed);
                } else {
                    attempts.wait_after_partial(again.len() < pending.len(), reason).await?;
                }
            }
            pending = again;
        }
        Ok(created)
    }

    async fn execute(
        &self,
        call: &Call<'_>,
        attempts: &mut Attempts<'_>,
        requests: impl Fn() -> Result<Vec<BatchStatementRequest>>,
    ) -> Result<Vec<BatchStatementResponse>> {
        let reply = attempts
            .run(|| async {
                let request = self.client.batch_execute_statement().set_statements(Some(requests()?));
                request.send().await.map_err(|error| call.convert(error))
            })
            .await?;
        Ok(reply.responses.unwrap_or_default())
    }
}

fn judge(call: &Call<'_>, answer: BatchStatementResponse) -> Result<Inserted> {
    let Some(error) = answer.error else { return Ok(Inserted::Created) };
    let code = error.code.as_ref().map_or("", |code| code.as_str());
    let error = call.service_error(code, error.message.as_deref(), 400);
    match error.kind() {
        // DynamoDB Local says that the condition failed: an insert has no other.
        ErrorKind::AlreadyExists | ErrorKind::LostRace => Ok(Inserted::Taken),
        ErrorKind::Denied | ErrorKind::OutcomeUnknown => Ok(Inserted::Again(error)),
        kind if kind.policy().retry => Ok(Inserted::Again(error)),
        _ => Err(error),
    }
}

/// Cuts items into batches, by count and by bytes on the wire.
fn cut(items: &[Item]) -> Vec<Range<usize>> {
    let mut batches = Vec::new();
    let (mut from, mut bytes) = (0, 0);
    for (at, item) in items.iter().enumerate() {
        let more = item.iter().map(|(name, value)| wire_bytes(name) + value_wire_bytes(value)).sum::<usize>();
        if at > from && (at - from == STATEMENTS_MAX || bytes + more > BATCH_BYTES_MAX) {
            batches.push(from..at);
            (from, bytes) = (at, 0);
        }
        bytes += more;
    }
    if from < items.len() {
        batches.push(from..items.len());
    }
    batches
}

/// About as many bytes as a value takes in JSON: text is escaped, bytes are base64.
fn value_wire_bytes(value: &Value) -> usize {
    const AROUND: usize = 10;
    AROUND
        + match value {
            Value::S(text) => wire_bytes(text),
            Value::N(number) => number.as_str().len(),
            Value::B(bytes) => bytes.len() / 3 * 4,
            Value::Bool(_) | Value::Null => 0,
            Value::L(list) => list.iter().map(value_wire_bytes).sum(),
            Value::M(map) => {
                map.iter().map(|(name, value)| wire_bytes(name) + AROUND + value_wire_bytes(value)).sum()
            }
            Value::Ss(set) => set.iter().map(|text| wire_bytes(text) + AROUND).sum(),
            Value::Ns(set) => set.iter().map(|number| number.as_str().len() + AROUND).sum(),
            Value::Bs(set) => set.iter().map(|bytes| bytes.len() / 3 * 4 + AROUND).sum(),
        }
}

fn wire_bytes(text: &str) -> usize {
    let escaped = text.bytes().map(|byte| match byte {
        0..=0x1F => 6,
        b'"' | b'\\' => 2,
        _ => 1,
    });
    escaped.sum()
}

/// `INSERT INTO "table" VALUE {'name': ?, …}`, its parameters in the order of the item's attributes.
fn statement(table: &str, item: &Item) -> String {
    let attributes: Vec<String> =
        item.keys().map(|name| format!("'{}': ?", name.replace('\'', "''"))).collect();
    format!("INSERT INTO \"{table}\" VALUE {{{}}}", attributes.join(", "))
}

fn request(call: &Call<'_>, statement: &str, item: &Item) -> Result<BatchStatementRequest> {
    BatchStatementRequest::builder()
        .statement(statement)
        .set_parameters(Some(item.values().map(encode::value).collect()))
        .build()
        .map_err(|cause| call.error(ErrorKind::Internal).source(cause))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn item(bytes: usize) -> Item {
        [("it's".to_owned(), Value::s("x".repeat(bytes)))].into()
    }

    #[test]
    fn batches_are_cut_by_count_and_by_bytes() {
        assert!(cut(&[]).is_empty());
        assert_eq!(cut(&vec![item(1); 60]), [0..25, 25..50, 50..60]);
        let large = BATCH_BYTES_MAX / 2 + 1;
        assert_eq!(cut(&[item(large), item(large), item(1)]), [0..1, 1..3]);
        assert_eq!(cut(&[item(BATCH_BYTES_MAX * 2), item(1)]), [0..1, 1..2]);
        let escaped = [("a".to_owned(), Value::s("\u{1}".repeat(BATCH_BYTES_MAX / 10)))].into();
        assert_eq!(cut(&[escaped, item(BATCH_BYTES_MAX / 2)]), [0..1, 1..2]);
    }

    #[test]
    fn names_are_quoted() {
        assert_eq!(statement("t", &item(1)), "INSERT INTO \"t\" VALUE {'it''s': ?}");
    }
}
