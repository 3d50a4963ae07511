//! The target in memory.

use std::sync::Arc;

use migrate::target::memory::MemoryTarget;
use migrate::testing::target_contract::{Subject, plan};

async fn make(check: &str) -> Subject {
    let plan = plan(check);
    Subject::new(Arc::new(MemoryTarget::unprovisioned(plan.clone())), plan)
}

migrate::target_contract!(make);
