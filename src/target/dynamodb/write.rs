//! Writes: transactions, and single conditional writes.

use std::collections::HashMap;

use super::Shared;
use super::encode::{self, Attributes};
use super::express::Sent;
use super::expression::Expression;
use super::failure::{Call, Failure};
use super::pace::Repeat;
use crate::error::{Error, ErrorKind, Result};
use crate::target::store::{Condition, Outcome, Refusal, Table, Write};
use crate::value::{Item, Key};
use aws_sdk_dynamodb::error::SdkError;
use aws_sdk_dynamodb::operation::delete_item::DeleteItemError;
use aws_sdk_dynamodb::operation::put_item::PutItemError;
use aws_sdk_dynamodb::operation::transact_write_items::TransactWriteItemsError;
use aws_sdk_dynamodb::types::{
    CancellationReason, ConditionCheck, Delete, Put, ReturnValuesOnConditionCheckFailure, TransactWriteItem,
    Update,
};

const ALL_OLD: ReturnValuesOnConditionCheckFailure = ReturnValuesOnConditionCheckFailure::AllOld;

impl Shared {
    pub(super) async fn transact(&self, token: &str, writes: Vec<Write>) -> Result<Outcome> {
        let keys = self.layout.check_transaction(token, &writes)?;
        match (&writes[..], &keys[..]) {
            ([Write::Put { table, item, condition }], [(_, key)]) => {
                self.put(*table, key, item, condition).await
            }
            ([Write::Delete { table, key, condition }], _) => self.delete(*table, key, condition).await,
            _ => self.transact_together(token, &writes).await,
        }
    }

    pub(super) async fn put(
        &self,
        table: Table,
        key: &Key,
        item: &Item,
        condition: &Condition,
    ) -> Result<Outcome> {
        let subject = self.subject(table, key);
        let call = self.call("write item", &subject, true);
        self.attempts(repeat_of(condition))
            .run(|| async {
                if let (Some(express), Table::Control, Condition::Absent) = (&self.express, table, condition)
                {
                    let table = self.layout.table_name(table);
                    match express.put_new(&call, &*self.clock, table, item).await {
                        Sent::Applied => return Ok(Outcome::Applied),
                        Sent::Failed(failure) => return Err(failure),
                        Sent::AskTheSdk => {}
                    }
                }
                let (text, names, values) = self.expression(table, condition);
                let request = self
                    .client
                    .put_item()
                    .table_name(self.layout.table_name(table))
                    .set_item(Some(encode::item(item)))
                    .set_condition_expression(text)
                    .set_expression_attribute_names(names)
                    .set_expression_attribute_values(values)
                    .return_values_on_condition_check_failure(ALL_OLD);
                // Boxed, here and below: it is 6 KB, and what holds it is moved for every write.
                match Box::pin(request.send()).await {
                    Ok(_) => Ok(Outcome::Applied),
                    Err(SdkError::ServiceError(error))
                        if error.err().is_conditional_check_failed_exception() =>
                    {
                        let PutItemError::ConditionalCheckFailedException(failed) = error.into_err() else {
                            unreachable!("invariant: matched above")
                        };
                        refused_one(failed.item)
                    }
                    Err(error) => Err(call.convert(error)),
                }
            })
            .await
    }

    async fn delete(&self, table: Table, key: &Key, condition: &Condition) -> Result<Outcome> {
        let subject = self.subject(table, key);
        let call = self.call("delete item", &subject, true);
        self.attempts(repeat_of(condition))
            .run(|| async {
                let (text, names, values) = self.expression(table, condition);
                let request = self
                    .client
                    .delete_item()
                    .table_name(self.layout.table_name(table))
                    .set_key(Some(encode::key(self.layout.key_names(table), key)))
                    .set_condition_expression(text)
                    .set_expression_attribute_names(names)
                    .set_expression_attribute_values(values)
                    .return_values_on_condition_check_failure(ALL_OLD);
                match Box::pin(request.send()).await {
                    Ok(_) => Ok(Outcome::Applied),
                    Err(SdkError::ServiceError(error))
                        if error.err().is_conditional_check_failed_exception() =>
                    {
                        let DeleteItemError::ConditionalCheckFailedException(failed) = error.into_err()
                        else {
                            unreachable!("invariant: matched above")
                        };
                        refused_one(failed.item)
                    }
                    Err(error) => Err(call.convert(error)),
                }
            })
            .await
    }

    async fn transact_together(&self, token: &str, writes: &[Write]) -> Result<Outcome> {
        let call = self.call("write transaction", token, true);
        // The token makes a repetition harmless.
        self.attempts(Repeat::Guarded)
            .run(|| async {
                let actions = writes.iter().map(|write| self.action(write)).collect::<Result<_>>()?;
                let request = self
                    .client
                    .transact_write_items()
                    .client_request_token(token)
                    .set_transact_items(Some(actions));
                match Box::pin(request.send()).await {
                    Ok(_) => Ok(Outcome::Applied),
                    Err(SdkError::ServiceError(error)) if error.err().is_transaction_canceled_exception() => {
                        let TransactWriteItemsError::TransactionCanceledException(canceled) =
                            error.into_err()
                        else {
                            unreachable!("invariant: matched above")
                        };
                        judge(&call, canceled.cancellation_reasons.unwrap_or_default())
                    }
                    Err(error) => Err(call.convert(error)),
                }
            })
            .await
    }

    fn action(&self, write: &Write) -> Result<TransactWriteItem> {
        let invalid = |cause| Error::new(ErrorKind::Internal, "build transaction").source(cause);
        let action = TransactWriteItem::builder();
        let action = match write {
            Write::Put { table, item, condition } => {
                let (text, names, values) = self.expression(*table, condition);
                let put = Put::builder()
                    .table_name(self.layout.table_name(*table))
                    .set_item(Some(encode::item(item)))
                    .set_condition_expression(text)
                    .set_expression_attribute_names(names)
                    .set_expression_attribute_values(values)
                    .return_values_on_condition_check_failure(ALL_OLD);
                action.put(put.build().map_err(invalid)?)
            }
            Write::Set { table, key, name, value, condition } => {
                let key_names = self.layout.key_names(*table);
                let mut expression = Expression::of(condition, key_names.0).unwrap_or_default();
                let condition = Some(expression.text.clone()).filter(|text| !text.is_empty());
                let set = match value {
                    Some(value) => format!("SET {} = {}", expression.name(name), expression.value(value)),
                    None => format!("REMOVE {}", expression.name(name)),
                };
                let (names, values) = expression.into_parts();
                let update = Update::builder()
                    .table_name(self.layout.table_name(*table))
                    .set_key(Some(encode::key(key_names, key)))
                    .update_expression(set)
                    .set_condition_expression(condition)
                    .set_expression_attribute_names(names)
                    .set_expression_attribute_values(values)
                    .return_values_on_condition_check_failure(ALL_OLD);
                action.update(update.build().map_err(invalid)?)
            }
            Write::Delete { table, key, condition } => {
                let (text, names, values) = self.expression(*table, condition);
                let delete = Delete::builder()
                    .table_name(self.layout.table_name(*table))
                    .set_key(Some(encode::key(self.layout.key_names(*table), key)))
                    .set_condition_expression(text)
                    .set_expression_attribute_names(names)
                    .set_expression_attribute_values(values)
                    .return_values_on_condition_check_failure(ALL_OLD);
                action.delete(delete.build().map_err(invalid)?)
            }
            Write::Check { table, key, condition } => {
                let key_names = self.layout.key_names(*table);
                let expression = Expression::required(condition, key_names.0);
                let check = ConditionCheck::builder()
                    .table_name(self.layout.table_name(*table))
                    .set_key(Some(encode::key(key_names, key)))
                    .condition_expression(&expression.text)
                    .return_values_on_condition_check_failure(ALL_OLD);
                let (names, values) = expression.into_parts();
                let check =
                    check.set_expression_attribute_names(names).set_expression_attribute_values(values);
                action.condition_check(check.build().map_err(invalid)?)
            }
        };
        Ok(action.build())
    }

    fn expression(
        &self,
        table: Table,
        condition: &Condition,
    ) -> (Option<String>, Option<HashMap<String, String>>, Option<Attributes>) {
        match Expression::of(condition, self.layout.key_names(table).0) {
            None => (None, None, None),
            Some(expression) => {
                let text = expression.text.clone();
                let (names, values) = expression.into_parts();
                (Some(text), names, values)
            }
        }
    }

    fn subject(&self, table: Table, key: &Key) -> String {
        format!("{}: {key}", self.layout.table_name(table))
    }
}

/// Whether a lost write with this condition may be sent again.
fn repeat_of(condition: &Condition) -> Repeat {
    if *condition == Condition::Always { Repeat::Unguarded } else { Repeat::Guarded }
}

fn refused_one(found: Option<Attributes>) -> Result<Outcome, Failure> {
    let found = found.map(encode::read_item).transpose()?;
    Ok(Outcome::Refused(vec![Refusal { action: 0, found }]))
}

/// What a cancelled transaction means: refused where conditions failed, else the error that lasts longest.
fn judge(call: &Call<'_>, reasons: Vec<CancellationReason>) -> Result<Outcome, Failure> {
    let mut refusals = Vec::new();
    let mut errors = Vec::new();
    for (action, reason) in reasons.into_iter().enumerate() {
        match reason.code.as_deref().unwrap_or("None") {
            "None" => {}
            "ConditionalCheckFailed" => {
                let found = reason.item.filter(|item| !item.is_empty()).map(encode::read_item).transpose()?;
                refusals.push(Refusal { action, found });
            }
            code => errors.push(call.service_error(code, reason.message.as_deref(), 400)),
        }
    }
    if !refusals.is_empty() {
        return Ok(Outcome::Refused(refusals));
    }
    let lasting = errors.iter().position(|error| !error.kind().policy().retry).unwrap_or(0);
    let error = errors.into_iter().nth(lasting);
    Err(error
        .unwrap_or_else(|| call.error(ErrorKind::NotApplied).message("cancelled without a reason"))
        .into())
}
