//! The target under broken requests: what the caller learns, and what is stored.

use std::sync::Arc;

use migrate::clock::SystemClock;
use migrate::target::dynamodb::{DynamoConfig, DynamoTarget, Patience};
use migrate::target::embedded::{Engine, Location};
use migrate::target::store::{Query, Refusal};
use migrate::target::{Condition, Outcome, Table, TargetStore as _, Write};
use migrate::testing::fault_proxy::{FaultProxy, WireFault};
use migrate::testing::target_contract::plan;
use migrate::value::{Item, Key, Value};
use migrate::{Error, ErrorKind};

struct Bench {
    /// Through the proxy.
    target: DynamoTarget,
    /// Past it.
    direct: DynamoTarget,
    proxy: FaultProxy,
    _engine: Engine,
}

impl Bench {
    async fn new() -> Self {
        let engine = Engine::start(&Location::Memory, None).unwrap();
        let proxy = FaultProxy::start(&engine.endpoint()).await.unwrap();
        let plan = plan("faults");
        let connect = async |endpoint: String| {
            let config = DynamoConfig::new(plan.clone(), Arc::new(SystemClock::new())).endpoint(endpoint);
            let patience = Patience { attempts_max: 4, ..Patience::BULK };
            DynamoTarget::connect(config.patience(patience)).await.unwrap()
        };
        let target = connect(proxy.endpoint()).await;
        let direct = connect(engine.endpoint()).await;
        direct.provision(&plan, false, false).await.unwrap();
        Self { target, direct, proxy, _engine: engine }
    }

    fn fault(&self, operation: &str, times: usize, fault: &WireFault) {
        for _ in 0..times {
            self.proxy.fault(operation, fault.clone());
        }
    }

    async fn put(&self, rev: &str, condition: Condition) -> Result<Outcome, Error> {
        self.target.transact(rev, vec![put(item("s", rev), condition)]).await
    }

    async fn stored(&self, sort: &str) -> Option<Item> {
        assert_eq!(self.proxy.waiting(), [], "each fault was met");
        self.direct.get(Table::Data, &[Key::new("p", sort)]).await.unwrap().remove(0)
    }
}

fn item(sort: &str, rev: &str) -> Item {
    [("PK", "p"), ("SK", sort), ("rev", rev)].map(|(name, text)| (name.to_owned(), Value::s(text))).into()
}

fn put(item: Item, condition: Condition) -> Write {
    Write::Put { table: Table::Data, item, condition }
}

/// Found by the repetition of a write that had been applied: our own item.
fn refused_by(rev: &str) -> Outcome {
    Outcome::Refused(vec![Refusal { action: 0, found: Some(item("s", rev)) }])
}

fn passing() -> [WireFault; 4] {
    [
        WireFault::throttled(),
        WireFault::error(500, "InternalServerError", "try again"),
        WireFault::Answer(503, "<html>busy</html>".to_owned()),
        WireFault::ResetBefore,
    ]
}

#[tokio::test]
async fn passing_failures_are_not_seen() {
    let bench = Bench::new().await;
    for (round, fault) in passing().iter().enumerate() {
        let rev = round.to_string();
        bench.fault("PutItem", 2, fault);
        let outcome = bench.put(&rev, Condition::Always).await;
        if matches!(fault, WireFault::Answer(400, _)) {
            assert_eq!(outcome.unwrap(), Outcome::Applied, "{fault:?}");
        } else {
            // Without a condition, a repetition might overwrite what came in between.
            assert_eq!(outcome.expect_err("lost").kind(), ErrorKind::OutcomeUnknown, "{fault:?}");
            assert_eq!(bench.proxy.waiting().len(), 1);
            bench.put(&rev, Condition::Always).await.expect_err("the second fault");
        }
        bench.put(&rev, Condition::Always).await.unwrap();

        let next = format!("{round} next");
        bench.fault("PutItem", 2, fault);
        let outcome = bench.put(&next, Condition::equals(["rev"], Value::s(&rev))).await.unwrap();
        assert_eq!(outcome, Outcome::Applied, "{fault:?}");
        assert_eq!(bench.stored("s").await, Some(item("s", &next)));

        bench.fault("Query", 2, fault);
        let page = bench.target.query(Table::Data, &Query::partition("p")).await.unwrap();
        assert_eq!(page.items, [item("s", &next)], "{fault:?}");
    }
}

#[tokio::test]
async fn a_lost_reply_shows_our_own_item() {
    let bench = Bench::new().await;
    bench.fault("PutItem", 1, &WireFault::ReplyLost);
    assert_eq!(bench.put("1", Condition::Absent).await.unwrap(), refused_by("1"));
    assert_eq!(bench.stored("s").await, Some(item("s", "1")));

    bench.fault("PutItem", 1, &WireFault::ReplyTruncated);
    // A reply to a put is two bytes, `{}`: half of it is not JSON.
    let outcome = bench.put("2", Condition::equals(["rev"], Value::s("1"))).await.unwrap();
    assert_eq!(outcome, refused_by("2"));
    assert_eq!(bench.stored("s").await, Some(item("s", "2")));

    bench.fault("DeleteItem", 1, &WireFault::ReplyLost);
    let condition = Condition::equals(["rev"], Value::s("2"));
    let delete = Write::Delete { table: Table::Data, key: Key::new("p", "s"), condition };
    let outcome = bench.target.transact("3", vec![delete]).await.unwrap();
    assert_eq!(outcome, Outcome::Refused(vec![Refusal { action: 0, found: None }]));
    assert_eq!(bench.stored("s").await, None);
}

/// A new row of the control table, as every write through a gateway stores one.
fn new_row(sort: &str) -> (Item, Write) {
    let row: Item =
        [("pk", "I#00"), ("sk", sort)].map(|(name, text)| (name.to_owned(), Value::s(text))).into();
    (row.clone(), Write::Put { table: Table::Control, item: row, condition: Condition::Absent })
}

#[tokio::test]
async fn a_new_control_row_survives_what_passes() {
    let bench = Bench::new().await;
    let stranger = WireFault::Answer(200, "<html>welcome</html>".to_owned());
    let lost = [WireFault::ReplyLost, WireFault::ReplyTruncated, stranger];
    for (round, fault) in passing().into_iter().chain(lost).enumerate() {
        let (row, write) = new_row(&round.to_string());
        bench.fault("PutItem", 1, &fault);
        let before = bench.proxy.calls("PutItem");
        match bench.target.transact("1", vec![write.clone()]).await.unwrap() {
            Outcome::Applied => assert_ne!(fault, WireFault::ReplyLost),
            // Its repetition found it.
            Outcome::Refused(refusals) => {
                assert!(matches!(fault, WireFault::ReplyLost | WireFault::ReplyTruncated), "{fault:?}");
                assert_eq!(refusals, [Refusal { action: 0, found: Some(row.clone()) }]);
            }
        }
        assert_eq!(bench.proxy.waiting(), []);
        assert!(bench.proxy.calls("PutItem") - before <= 3, "{fault:?}");
        let stored = bench.direct.get(Table::Control, &[Key::new("I#00", round.to_string())]).await.unwrap();
        assert_eq!(stored, [Some(row.clone())], "{fault:?}");

        let refused = bench.target.transact("2", vec![write]).await.unwrap();
        assert_eq!(refused, Outcome::Refused(vec![Refusal { action: 0, found: Some(row) }]), "{fault:?}");
    }
}

/// What is sent without the SDK is sent once more by it, and where that helps, by it alone from then on.
#[tokio::test]
async fn a_new_control_row_that_is_not_taken_is_left_to_the_sdk() {
    let bench = Bench::new().await;
    let denied = WireFault::error(400, "UnrecognizedClientException", "who is that?");
    bench.fault("PutItem", 1, &denied);
    assert_eq!(bench.target.transact("1", vec![new_row("1").1]).await.unwrap(), Outcome::Applied);
    assert_eq!(bench.proxy.calls("PutItem"), 2);

    bench.fault("PutItem", 1, &denied);
    let error = bench.target.transact("2", vec![new_row("2").1]).await.expect_err("it is refused");
    assert_eq!((error.kind(), bench.proxy.calls("PutItem")), (ErrorKind::Denied, 3));
}

#[tokio::test]
async fn a_lost_reply_to_a_transaction_is_answered_by_its_token() {
    let bench = Bench::new().await;
    for fault in [WireFault::ReplyLost, WireFault::ReplyTruncated, WireFault::ResetBefore] {
        let sort = format!("{fault:?}");
        bench.fault("TransactWriteItems", 1, &fault);
        let writes = [item(&sort, "1"), item(&format!("{sort} 2"), "1")];
        let writes = writes.into_iter().map(|item| put(item, Condition::Absent)).collect();
        let outcome = bench.target.transact(&sort, writes).await.unwrap();
        assert_eq!(outcome, Outcome::Applied, "{fault:?}");
        assert_eq!(bench.stored(&sort).await, Some(item(&sort, "1")));
    }
}

#[tokio::test]
async fn an_unknown_outcome_stays_unknown() {
    let bench = Bench::new().await;
    // Applied, then lost; then nothing but throttling: it must not look as if nothing was applied.
    bench.fault("PutItem", 1, &WireFault::ReplyLost);
    bench.fault("PutItem", 3, &WireFault::throttled());
    let error = bench.put("1", Condition::Absent).await.expect_err("four attempts");
    assert_eq!(error.kind(), ErrorKind::OutcomeUnknown, "{error}");
    assert_eq!(bench.stored("s").await, Some(item("s", "1")));

    bench.fault("PutItem", 1, &WireFault::ReplyLost);
    let error = bench.put("2", Condition::Always).await.expect_err("not repeated");
    assert_eq!(error.kind(), ErrorKind::OutcomeUnknown, "{error}");
    assert_eq!(bench.proxy.calls("PutItem"), 5);
    assert_eq!(bench.stored("s").await, Some(item("s", "2")));
}

#[tokio::test]
async fn patience_ends() {
    let bench = Bench::new().await;
    bench.fault("PutItem", 4, &WireFault::throttled());
    let error = bench.put("1", Condition::Absent).await.expect_err("four attempts");
    assert_eq!(error.kind(), ErrorKind::Throttled { retry_after: None }, "{error}");
    assert_eq!(bench.proxy.calls("PutItem"), 4);
    assert_eq!(bench.stored("s").await, None);
}

#[tokio::test]
async fn conflicts_are_tried_again() {
    let bench = Bench::new().await;
    let conflict = r#"{"__type":"com.amazonaws.dynamodb.v20120810#TransactionCanceledException",
        "Message":"Transaction cancelled","CancellationReasons":[
        {"Code":"TransactionConflict","Message":"ongoing"},{"Code":"None"}]}"#;
    bench.fault("TransactWriteItems", 2, &WireFault::Answer(400, conflict.to_owned()));
    let writes = [item("a", "1"), item("b", "1")].into_iter().map(|item| put(item, Condition::Absent));
    let outcome = bench.target.transact("1", writes.collect()).await.unwrap();
    assert_eq!(outcome, Outcome::Applied);

    let conflict = WireFault::error(400, "TransactionConflictException", "ongoing");
    bench.fault("PutItem", 2, &conflict);
    assert_eq!(bench.put("1", Condition::Absent).await.unwrap(), Outcome::Applied);
    assert_eq!(bench.stored("a").await, Some(item("a", "1")));
}

#[tokio::test]
async fn what_was_left_unprocessed_is_sent_again() {
    let bench = Bench::new().await;
    let items: Vec<Item> = (0..20).map(|n| item(&format!("{n:02}"), "1")).collect();
    bench.fault("BatchExecuteStatement", 1, &WireFault::Unprocessed(7));
    bench.fault("BatchExecuteStatement", 1, &WireFault::Unprocessed(3));
    assert_eq!(bench.target.insert(Table::Data, items.clone()).await.unwrap(), [true; 20]);
    assert_eq!(bench.proxy.calls("BatchExecuteStatement"), 3);

    let keys: Vec<Key> = (0..20).map(|n| Key::new("p", format!("{n:02}"))).collect();
    bench.fault("BatchGetItem", 1, &WireFault::Unprocessed(12));
    bench.fault("BatchGetItem", 1, &WireFault::Unprocessed(11));
    let found = bench.target.get(Table::Data, &keys).await.unwrap();
    assert_eq!(found, items.into_iter().map(Some).collect::<Vec<_>>());

    bench.fault("BatchGetItem", 4, &WireFault::Unprocessed(20));
    let error = bench.target.get(Table::Data, &keys).await.expect_err("no progress");
    assert_eq!(error.kind(), ErrorKind::Throttled { retry_after: None });
}

#[tokio::test]
async fn a_lost_reply_to_an_insert_leaves_items_to_be_compared() {
    let bench = Bench::new().await;
    bench.fault("BatchExecuteStatement", 1, &WireFault::ReplyLost);
    let created = bench.target.insert(Table::Data, vec![item("s", "1")]).await.unwrap();
    assert_eq!(created, [false], "the item found is our own, which the caller compares");
    assert_eq!(bench.stored("s").await, Some(item("s", "1")));
}

#[tokio::test]
async fn without_partiql_items_are_put_one_by_one() {
    let bench = Bench::new().await;
    bench.direct.insert(Table::Data, vec![item("07", "taken")]).await.unwrap();
    let message = "User: x is not authorized to perform: dynamodb:PartiQLInsert on resource: y";
    let denied = WireFault::error(400, "AccessDeniedException", message);
    bench.fault("BatchExecuteStatement", 1, &denied);
    let items: Vec<Item> = (0..10).map(|n| item(&format!("{n:02}"), "1")).collect();
    let created = bench.target.insert(Table::Data, items.clone()).await.unwrap();
    assert_eq!(created, (0..10).map(|n| n != 7).collect::<Vec<_>>());
    assert_eq!(bench.stored("07").await, Some(item("07", "taken")));

    bench.target.insert(Table::Data, vec![item("more", "1")]).await.unwrap();
    assert_eq!(bench.proxy.calls("BatchExecuteStatement"), 1, "it is not asked again");

    bench.fault("PutItem", 1, &denied);
    let error = bench.put("1", Condition::Absent).await.expect_err("denied");
    assert_eq!(error.kind(), ErrorKind::Denied);
    assert!(error.advice().unwrap().contains("allow dynamodb:PartiQLInsert on faults"), "{error:?}");
}

#[tokio::test]
async fn an_endpoint_that_is_not_there_is_named() {
    let engine = Engine::start(&Location::Memory, None).unwrap();
    let endpoint = engine.endpoint();
    engine.stop().unwrap();
    let config = DynamoConfig::new(plan("nowhere"), Arc::new(SystemClock::new())).endpoint(endpoint.as_str());
    let target = DynamoTarget::connect(config.patience(Patience::INTERACTIVE)).await.unwrap();
    let error = target.transact("1", vec![put(item("s", "1"), Condition::Absent)]).await.expect_err("nobody");
    assert_eq!(error.kind(), ErrorKind::NotApplied, "{error:?}");
    assert!(error.to_string().contains(&endpoint), "{error}");
    assert!(error.advice().unwrap().contains(&endpoint), "{error:?}");
}
