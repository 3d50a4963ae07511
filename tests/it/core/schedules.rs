//! The shortest traces of what earlier drafts of the protocol got wrong, as schedules for the real one:
//! somebody slow looks, somebody quick changes the blob and mirrors it, then the slow one goes on, dies,
//! or its last request lands after all.

use std::sync::Arc;

use migrate::blob::faults::Operation as Blob;
use migrate::protocol::converge::Purpose;
use migrate::target::memory::{Fault, Operation};

use super::harness::Rig;

const NAME: &str = "r/1.json";
const A: &str = r#"{"v": "A"}"#;
const B: &str = r#"{"v": "B", "key": "b"}"#;

/// What the mirror holds before it begins.
#[derive(Debug, Clone, Copy)]
enum Before {
    /// No anchor at all.
    Unknown,
    /// A tombstone.
    Tombstone,
    /// The version before.
    Older,
    /// The very version that the source holds.
    Equal,
}

/// What the quick one does to the blob.
#[derive(Debug, Clone, Copy)]
enum Operator {
    Deletes,
    PutsAnother,
    PutsTheSame,
}

/// At which of its calls the slow one stops.
#[derive(Debug, Clone, Copy)]
enum Stop {
    Head,
    Body,
    Parts,
    Transaction,
}

const BEFORE: [Before; 4] = [Before::Unknown, Before::Tombstone, Before::Older, Before::Equal];
const OPERATORS: [Operator; 3] = [Operator::Deletes, Operator::PutsAnother, Operator::PutsTheSame];

/// The source holds A; the mirror what `before` says.
async fn prepare(before: Before) -> Arc<Rig> {
    let rig = Rig::new();
    match before {
        Before::Unknown => {
            rig.put(NAME, A).await;
        }
        Before::Tombstone => {
            rig.intent(NAME).await;
            rig.put(NAME, A).await;
        }
        Before::Older => {
            rig.put(NAME, B).await;
            rig.reconcile(NAME).await;
            rig.put(NAME, A).await;
        }
        Before::Equal => {
            rig.put(NAME, A).await;
            rig.reconcile(NAME).await;
        }
    }
    Arc::new(rig)
}

async fn operate(rig: &Rig, operator: Operator) {
    match operator {
        Operator::Deletes => rig.delete(NAME).await,
        Operator::PutsAnother => drop(rig.put(NAME, B).await),
        Operator::PutsTheSame => drop(rig.put(NAME, A).await),
    }
    rig.intent(NAME).await;
}

/// Traces A4, A5 and A8: the slow one has looked at both sides, in whichever order, when the blob is
/// changed and mirrored. Hazards A1, A4 and A5.
#[tokio::test]
async fn a_slow_converge_never_overwrites_what_came_after_its_look() {
    for before in BEFORE {
        for operator in OPERATORS {
            for stop in [Stop::Head, Stop::Body, Stop::Parts, Stop::Transaction] {
                // A repair writes always, so that it has every call.
                for purpose in [Purpose::Reconcile, Purpose::Intent, Purpose::Repair] {
                    slow(before, operator, stop, purpose).await;
                }
            }
        }
    }
}

enum Halt {
    Blob(migrate::blob::faults::Pause),
    Target(migrate::target::memory::Pause),
}

async fn slow(before: Before, operator: Operator, stop: Stop, purpose: Purpose) {
    let rig = prepare(before).await;
    let mut halt = match stop {
        Stop::Head => Halt::Blob(rig.faults.pause(Blob::Head)),
        Stop::Body => Halt::Blob(rig.faults.pause(Blob::Get)),
        Stop::Parts => Halt::Target(rig.target.pause(Operation::Insert)),
        Stop::Transaction => Halt::Target(rig.target.pause(Operation::Transact)),
    };
    let slow = tokio::spawn({
        let rig = rig.clone();
        async move { rig.converge(NAME, purpose).await }
    });
    // Where both sides are equal it may never come that far.
    let arrived = async {
        match &mut halt {
            Halt::Blob(pause) => pause.arrived().await,
            Halt::Target(pause) => pause.arrived().await,
        }
    };
    let mut slow = slow;
    tokio::select! {
        biased;
        () = arrived => {}
        done = &mut slow => {
            done.unwrap().unwrap();
            return;
        }
    }
    operate(&rig, operator).await;
    match halt {
        Halt::Blob(pause) => pause.release(),
        Halt::Target(pause) => pause.release(),
    }
    let ended = slow.await.unwrap();
    assert!(ended.is_ok(), "{before:?} {operator:?} {stop:?} {purpose:?}: {ended:?}");
    rig.check_after(format_args!("{before:?} {operator:?} {stop:?} {purpose:?}")).await;
}

/// Traces A4 to A8: the slow one's transaction is under way when it dies, and lands after the quick one's
/// intent was converged. Hazards A5 and A7.
#[tokio::test]
async fn a_request_of_a_dead_process_that_lands_late_fails_on_the_rev() {
    for before in BEFORE {
        for operator in OPERATORS {
            let rig = prepare(before).await;
            rig.target.fault(Operation::Transact, Fault::Held);
            // It dies when it looks for the second time.
            drop(rig.target.pause(Operation::Get));
            let mut second_look = rig.target.pause(Operation::Get);
            let dying = tokio::spawn({
                let rig = rig.clone();
                async move { rig.converge(NAME, Purpose::Repair).await }
            });
            second_look.arrived().await;
            dying.abort();
            dying.await.unwrap_err();
            drop(second_look);

            operate(&rig, operator).await;
            let landed = rig.target.release_held();
            assert_eq!(landed.len(), 1);
            rig.check_after(format_args!("{before:?} {operator:?}: {landed:?}")).await;
        }
    }
}

/// The same without a death: who does not learn what became of its own request must make sure that it
/// can't land any more before it calls both sides equal. Hazard A7.
#[tokio::test]
async fn a_request_whose_outcome_nobody_knows_is_fenced_before_both_sides_count_as_equal() {
    for before in BEFORE {
        for purpose in [Purpose::Reconcile, Purpose::Repair] {
            let rig = prepare(before).await;
            // The source returns to what the mirror holds while the request is under way.
            let mirrored = rig.anchor(NAME).await.and_then(|anchor| anchor.head);
            rig.target.fault(Operation::Transact, Fault::Held);
            drop(rig.target.pause(Operation::Get));
            let mut second_look = rig.target.pause(Operation::Get);
            let unsure = tokio::spawn({
                let rig = rig.clone();
                async move { rig.converge(NAME, purpose).await }
            });
            let mut unsure = unsure;
            tokio::select! {
                biased;
                () = second_look.arrived() => {}
                done = &mut unsure => {
                    // Both sides were equal from the beginning.
                    done.unwrap().unwrap();
                    continue;
                }
            }
            if mirrored.is_none() {
                rig.delete(NAME).await;
            }
            second_look.release();
            unsure.await.unwrap().unwrap();
            rig.target.release_held();
            rig.check_after(format_args!("{before:?} {purpose:?}")).await;
        }
    }
}

/// The same for a transaction of many.
#[tokio::test]
async fn a_batch_whose_outcome_nobody_knows_is_fenced_too() {
    let rig = Arc::new(Rig::new());
    for number in 0..5 {
        rig.put(&format!("r/{number}.json"), "{}").await;
    }
    rig.target.fault(Operation::Transact, Fault::Held);
    drop(rig.target.pause(Operation::Get));
    let mut second_looks: Vec<_> = (0..5).map(|_| rig.target.pause(Operation::Get)).collect();
    let backfill = tokio::spawn({
        let rig = rig.clone();
        async move { rig.backfill().await }
    });
    for second_look in &mut second_looks {
        second_look.arrived().await;
    }
    for number in 0..5 {
        rig.delete(&format!("r/{number}.json")).await;
    }
    drop(second_looks);
    assert!(backfill.await.unwrap().complete());
    let landed = rig.target.release_held();
    rig.check_after(format_args!("{landed:?}")).await;
}

/// A backfill paused between its listings, after them, or before its transaction, while the application
/// writes and mirrors. Hazards A4, A5 and A9.
#[tokio::test]
async fn a_newer_live_write_survives_a_backfill_in_every_order() {
    for before in BEFORE {
        for operator in OPERATORS {
            for (operation, skipped) in
                [("list", 0), ("list", 1), ("anchors", 0), ("body", 0), ("transact", 0)]
            {
                let rig = prepare(before).await;
                rig.put("r/0.json", "{}").await;
                let mut halt = match operation {
                    "list" => {
                        (0..skipped).for_each(|_| drop(rig.faults.pause(Blob::List)));
                        Halt::Blob(rig.faults.pause(Blob::List))
                    }
                    "anchors" => Halt::Target(rig.target.pause(Operation::Get)),
                    "body" => {
                        // The first body is of the other blob.
                        drop(rig.faults.pause(Blob::Get));
                        Halt::Blob(rig.faults.pause(Blob::Get))
                    }
                    _ => Halt::Target(rig.target.pause(Operation::Transact)),
                };
                let backfill = tokio::spawn({
                    let rig = rig.clone();
                    async move { rig.backfill().await }
                });
                let mut backfill = backfill;
                let arrived = async {
                    match &mut halt {
                        Halt::Blob(pause) => pause.arrived().await,
                        Halt::Target(pause) => pause.arrived().await,
                    }
                };
                tokio::select! {
                    biased;
                    () = arrived => {}
                    done = &mut backfill => {
                        drop(done.unwrap());
                        continue;
                    }
                }
                operate(&rig, operator).await;
                match halt {
                    Halt::Blob(pause) => pause.release(),
                    Halt::Target(pause) => pause.release(),
                }
                let report = backfill.await.unwrap();
                assert!(report.complete(), "{report:?}");
                rig.check_after(format_args!("{before:?} {operator:?} {operation} {skipped}")).await;
            }
        }
    }
}
