//! The matrix of faults: each store call of each caller meets each fault; a run without faults follows,
//! and the end state must be right, also after what was held has landed.

use std::time::Duration;

use migrate::ErrorKind;
use migrate::blob::faults::{Fault as BlobFault, Operation as Blob};
use migrate::protocol::converge::Purpose;
use migrate::target::memory::{Fault, Operation};

use super::harness::Rig;

/// Who calls the stores.
#[derive(Debug, Clone, Copy)]
enum Caller {
    Creates,
    Updates,
    Removes,
    Quarantines,
    Renews,
    Backfills,
    Sweeps,
}

const CALLERS: [Caller; 7] = [
    Caller::Creates,
    Caller::Updates,
    Caller::Removes,
    Caller::Quarantines,
    Caller::Renews,
    Caller::Backfills,
    Caller::Sweeps,
];
/// No caller makes more calls of one operation here; later ones meet no fault.
const CALLS: usize = 3;

async fn prepare(caller: Caller) -> Rig {
    let rig = Rig::new();
    rig.put("p/1.json", r#"{"extra": "x", "v": "old"}"#).await;
    if !matches!(caller, Caller::Creates | Caller::Backfills) {
        rig.reconcile("p/1.json").await;
    }
    match caller {
        Caller::Creates | Caller::Renews => {}
        Caller::Updates => drop(rig.put("p/1.json", r#"{"extra": "y", "v": "new"}"#).await),
        Caller::Removes => rig.delete("p/1.json").await,
        Caller::Quarantines => drop(rig.put("p/1.json", "{").await),
        Caller::Backfills | Caller::Sweeps => {
            rig.put("p/2.json", "{}").await;
            rig.put("p/3.json", "{}").await;
        }
    }
    rig
}

/// Its work, with whatever result: a fault may be passed on, but never change what is true.
async fn work(rig: &Rig, caller: Caller) {
    match caller {
        Caller::Creates | Caller::Updates | Caller::Removes | Caller::Quarantines => {
            rig.converge("p/1.json", Purpose::Reconcile).await.ok();
        }
        Caller::Renews => {
            rig.converge("p/1.json", Purpose::Intent).await.ok();
        }
        Caller::Backfills => {
            rig.try_backfill().await.ok();
        }
        Caller::Sweeps => {
            let sweep = rig.sweeper(migrate::sweep::Level::Content, true);
            sweep.run(&super::harness::silent(), &tokio_util::sync::CancellationToken::new()).await.ok();
        }
    }
}

/// A run without faults, the late requests, and the check of all.
async fn finish(rig: &Rig, label: String) {
    assert!(rig.backfill().await.complete(), "{label}");
    rig.converge("p/1.json", Purpose::Reconcile).await.unwrap();
    rig.check_after(&label).await;
    rig.target.release_held();
    rig.check_after(format_args!("{label}, and what was held")).await;
}

#[tokio::test]
async fn every_call_of_the_target_may_be_refused_lost_or_late() {
    let faults = [
        Fault::Refused(ErrorKind::NotApplied),
        Fault::Refused(ErrorKind::Throttled { retry_after: None }),
        Fault::AppliedThenLost,
        Fault::Held,
    ];
    for caller in CALLERS {
        for operation in
            [Operation::Get, Operation::Insert, Operation::Transact, Operation::Scan, Operation::Query]
        {
            for fault in faults {
                for call in 0..CALLS {
                    let rig = prepare(caller).await;
                    (0..call).for_each(|_| drop(rig.target.pause(operation)));
                    rig.target.fault(operation, fault);
                    work(&rig, caller).await;
                    // What it did not come to call must not meet the fault later.
                    rig.target.clear_faults();
                    finish(&rig, format!("{caller:?} {operation:?} {fault:?} call {call}")).await;
                }
            }
        }
    }
}

#[tokio::test]
async fn every_call_of_the_source_may_be_refused_lost_or_slow() {
    let faults = [
        BlobFault::Refused(ErrorKind::NotApplied),
        BlobFault::Refused(ErrorKind::Throttled { retry_after: Some(Duration::from_secs(1)) }),
        BlobFault::AppliedThenLost,
        BlobFault::Slow(Duration::from_secs(90)),
    ];
    for caller in CALLERS {
        for operation in [Blob::Head, Blob::List, Blob::Get] {
            for fault in faults {
                for call in 0..CALLS {
                    let rig = prepare(caller).await;
                    (0..call).for_each(|_| rig.faults.fault(operation, BlobFault::Slow(Duration::ZERO)));
                    rig.faults.fault(operation, fault);
                    work(&rig, caller).await;
                    rig.faults.clear_faults();
                    finish(&rig, format!("{caller:?} {operation:?} {fault:?} call {call}")).await;
                }
            }
        }
    }
}
