//! The embedded engine, through the SDK.

use std::sync::Arc;

use futures::future::join_all;
use migrate::ErrorKind;
use migrate::clock::SystemClock;
use migrate::plan::TargetPlan;
use migrate::target::dynamodb::{DynamoConfig, DynamoTarget};
use migrate::target::embedded::{Engine, Location};
use migrate::target::store::{ProvisionResult, Provisioned, Query};
use migrate::target::{Condition, Outcome, Table, TargetStore as _, Write};
use migrate::testing::target_contract::{Subject, plan};
use migrate::value::{Item, Key, Value};
use tempfile::TempDir;

async fn connect(engine: &Engine, plan: &TargetPlan) -> DynamoTarget {
    let clock = Arc::new(SystemClock::new());
    DynamoTarget::connect(DynamoConfig::new(plan.clone(), clock).endpoint(engine.endpoint())).await.unwrap()
}

mod in_memory {
    use super::*;

    async fn make(check: &str) -> Subject {
        let plan = plan(check);
        let engine = Engine::start(&Location::Memory, None).unwrap();
        let store = Arc::new(connect(&engine, &plan).await);
        Subject { store, plan, guard: Box::new(engine) }
    }

    migrate::target_contract!(make);
}

mod in_a_file {
    use super::*;

    async fn make(check: &str) -> Subject {
        let plan = plan(check);
        let directory = TempDir::new().unwrap();
        let location = Location::File(directory.path().join("made for it/embedded.db"));
        let engine = Engine::start(&location, None).unwrap();
        let store = Arc::new(connect(&engine, &plan).await);
        Subject { store, plan, guard: Box::new((engine, directory)) }
    }

    migrate::target_contract!(make);
}

fn item(sort: &str, writer: &str) -> Item {
    [("PK", "p"), ("SK", sort), ("writer", writer)]
        .map(|(name, text)| (name.to_owned(), Value::s(text)))
        .into()
}

fn put(item: Item, condition: Condition) -> Vec<Write> {
    vec![Write::Put { table: Table::Data, item, condition }]
}

#[tokio::test]
async fn two_engines_share_a_file() {
    let directory = TempDir::new().unwrap();
    let location = Location::File(directory.path().join("shared.db"));
    let engines = [(); 2].map(|()| Engine::start(&location, None).unwrap());
    let plan = plan("shared");
    let targets = [connect(&engines[0], &plan).await, connect(&engines[1], &plan).await];
    targets[0].provision(&plan, false, false).await.unwrap();

    // Both insert their own items, and race for the same ones.
    let bulk = targets.iter().enumerate().map(|(writer, target)| {
        let items = (0..200).map(|n| item(&format!("{writer} {n}"), "bulk")).collect();
        async move { target.insert(Table::Data, items).await.unwrap() }
    });
    let races = (0..20).map(async |n| {
        let raced = targets.iter().zip(["first", "second"]).map(|(target, writer)| {
            let writes = put(item(&format!("race {n}"), writer), Condition::Absent);
            async move { target.transact(writer, writes).await.unwrap() }
        });
        join_all(raced).await
    });
    let (bulk, races) = futures::join!(join_all(bulk), join_all(races));
    assert!(bulk.into_iter().flatten().all(|created| created));
    for (n, outcomes) in races.into_iter().enumerate() {
        let applied = outcomes.iter().filter(|outcome| **outcome == Outcome::Applied).count();
        assert_eq!(applied, 1, "race {n}: {outcomes:?}");
    }
    for target in &targets {
        let mut query = Query::partition("p");
        let mut count = 0;
        loop {
            let page = target.query(Table::Data, &query).await.unwrap();
            count += page.items.len();
            query.after = page.next;
            if query.after.is_none() {
                break;
            }
        }
        assert_eq!(count, 420, "each engine sees what the other wrote");
    }
}

#[tokio::test]
async fn a_file_outlives_its_engine() {
    let directory = TempDir::new().unwrap();
    let location = Location::File(directory.path().join("kept.db"));
    let plan = plan("kept");
    let engine = Engine::start(&location, None).unwrap();
    let target = connect(&engine, &plan).await;
    target.provision(&plan, false, false).await.unwrap();
    target.transact("1", put(item("s", "first"), Condition::Absent)).await.unwrap();
    engine.stop().unwrap();

    let engine = Engine::start(&location, None).unwrap();
    let target = connect(&engine, &plan).await;
    let found = target.get(Table::Data, &[Key::new("p", "s")]).await.unwrap();
    assert_eq!(found, [Some(item("s", "first"))]);
}

#[test]
fn what_cannot_be_opened_is_named() {
    let directory = TempDir::new().unwrap();
    let path = directory.path().join("notes.txt");
    std::fs::write(&path, "not a database, and long enough to be seen as none by its first page".repeat(20))
        .unwrap();
    let error = Engine::start(&Location::File(path.clone()), None).expect_err("not a database");
    assert_eq!(error.kind(), ErrorKind::Corrupt);
    assert!(error.to_string().contains("notes.txt"), "{error}");
    assert!(std::fs::read_to_string(path).unwrap().starts_with("not a database"), "it is left alone");

    let everywhere = "0.0.0.0:0".parse().unwrap();
    let error = Engine::start(&Location::Memory, Some(everywhere)).expect_err("not loopback");
    assert_eq!(error.kind(), ErrorKind::Usage);
    let engine = Engine::start(&Location::Memory, None).unwrap();
    let taken = engine.endpoint().trim_start_matches("http://").parse().unwrap();
    let error = Engine::start(&Location::Memory, Some(taken)).expect_err("the address is taken");
    assert_eq!(error.kind(), ErrorKind::Usage);
}

fn result<'a>(steps: &'a [Provisioned], what: &str) -> &'a ProvisionResult {
    let step = steps.iter().find(|step| step.what == what);
    &step.unwrap_or_else(|| panic!("no step {what} in {steps:?}")).result
}

#[tokio::test]
async fn provisioning_completes_what_is_there() {
    let engine = Engine::start(&Location::Memory, None).unwrap();
    let full = plan("grown");
    let mut partial = TargetPlan { ttl: None, stream: None, deletion_protection: false, ..full.clone() };
    partial.indexes.truncate(1);
    let target = connect(&engine, &full).await;
    target.provision(&partial, false, false).await.unwrap();

    let steps = target.provision(&full, true, false).await.unwrap();
    assert_eq!(*result(&steps, "table grown"), ProvisionResult::Present);
    assert_eq!(*result(&steps, "grown: index GSI1"), ProvisionResult::Present);
    for missing in ["index GSI2", "TTL on ttl", "stream NEW_AND_OLD_IMAGES", "deletion protection"] {
        assert_eq!(*result(&steps, &format!("grown: {missing}")), ProvisionResult::Created, "{missing}");
    }
    let recovery = result(&steps, "grown: point-in-time recovery");
    assert!(matches!(recovery, ProvisionResult::NotOffered(_)), "{recovery:?}");
    let facts = target.describe(Table::Data).await.unwrap().unwrap();
    assert_eq!(facts.stream.as_deref(), Some("NEW_AND_OLD_IMAGES"));
    assert_eq!((facts.indexes.len(), facts.deletion_protection), (2, Some(true)));
    let control = target.describe(Table::Control).await.unwrap().unwrap();
    assert_eq!((control.stream, control.deletion_protection), (None, Some(true)));

    let other = TargetPlan { ttl: Some("expires".to_owned()), ..full };
    let steps = target.provision(&other, true, false).await.unwrap();
    let ttl = result(&steps, "grown: TTL on expires");
    assert!(matches!(ttl, ProvisionResult::Differs(how) if how.contains("ttl")), "{ttl:?}");
    assert_eq!(target.describe(Table::Data).await.unwrap().unwrap().ttl.as_deref(), Some("ttl"));
}
