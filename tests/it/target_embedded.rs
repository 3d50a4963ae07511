//! The embedded engine, through the SDK.

use std::sync::Arc;

use migrate::clock::SystemClock;
use migrate::plan::TargetPlan;
use migrate::target::dynamodb::{DynamoConfig, DynamoTarget};
use migrate::target::embedded::{Engine, Location};
use migrate::testing::target_contract::{Subject, plan};
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
