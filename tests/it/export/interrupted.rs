//! Runs that are killed, interrupted, refused or half failed, and the runs after them.

use std::sync::Arc;
use std::time::Duration;

use migrate::blob::faults::{Fault, Operation};
use migrate::clock::SystemClock;
use migrate::plan::PatternPlan;
use migrate::snapshot::{Export, Snapshot};
use migrate::{ErrorKind, Exit};
use tokio_util::sync::CancellationToken;

use super::{World, signup};

#[tokio::test]
async fn a_killed_export_goes_on_without_reading_twice() {
    let mut world = World::with_signups(10).await;
    world.options.concurrency = 1;
    world.skip_reads(4);
    let mut fifth = world.faults.pause(Operation::Get);
    let (export, snapshot) = (world.export(), world.writer());
    let run = tokio::spawn(async move { export.run(&snapshot, &CancellationToken::new()).await });
    fifth.arrived().await;
    run.abort();
    assert!(run.await.unwrap_err().is_cancelled());
    // A kill would end the thread that writes, too; here it holds the file until it is done.
    while Snapshot::create_or_open(world.path(), "demo").is_err_and(|error| error.kind() == ErrorKind::Busy) {
        tokio::task::yield_now().await;
    }
    assert_eq!(Snapshot::open(world.path()).unwrap().manifest().await.unwrap(), None, "it is unfinished");

    let report = world.run().await.unwrap();
    assert!(report.resumed);
    assert_eq!(report.fetched, 6, "four were durable");
    assert_eq!(world.gets(), 11, "only the one that was under way is asked for again");
    assert_eq!(world.faults.calls(Operation::List), 1, "the listing was durable too");
    assert_eq!(report.manifest.unwrap().fetched, 10);
}

#[tokio::test]
async fn an_interrupted_export_keeps_what_was_under_way() {
    let mut world = World::with_signups(10).await;
    world.options.concurrency = 1;
    world.skip_reads(4);
    let mut paused = world.faults.pause(Operation::Get);
    let (export, snapshot, cancel) = (world.export(), world.writer(), CancellationToken::new());
    // The system's clock: this run waits for requests under way, and must not outrun them.
    let export = Export { clock: Arc::new(SystemClock::new()), ..export };
    let token = cancel.clone();
    let run = tokio::spawn(async move { export.run(&snapshot, &token).await });
    paused.arrived().await;
    cancel.cancel();
    paused.release();
    let error = run.await.unwrap().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Interrupted);
    assert_eq!(world.gets(), 5, "nothing new was begun");

    let report = world.run().await.unwrap();
    assert_eq!(world.gets(), 10, "no body was read twice");
    assert_eq!(report.manifest.unwrap().fetched, 10);
}

#[tokio::test]
async fn a_listing_goes_on_where_it_was_cut() {
    let world = World::with_signups(2500).await;
    world.faults.fault(Operation::List, Fault::Slow(Duration::ZERO));
    world.faults.fault(Operation::List, Fault::Refused(ErrorKind::Suspended));
    assert_eq!(world.run().await.unwrap_err().kind(), ErrorKind::Suspended);
    let report = world.run().await.unwrap();
    assert_eq!(world.faults.calls(Operation::List), 4, "one page, a refusal, the other two pages");
    assert_eq!((report.listed, report.fetched, world.gets()), (2500, 2500, 2500));
}

#[tokio::test]
async fn an_old_unfinished_listing_is_made_anew() {
    let world = World::with_signups(3).await;
    world.faults.fault(Operation::Get, Fault::Refused(ErrorKind::Suspended));
    assert_eq!(world.run().await.unwrap_err().kind(), ErrorKind::Suspended);
    world.clock.advance(Duration::from_secs(25 * 3600));
    world.put(&signup(9), "new").await;
    let report = world.run().await.unwrap();
    assert!(!report.resumed);
    assert_eq!(report.listed, 4);
}

#[tokio::test]
async fn a_suspended_store_stops_the_export_and_what_was_saved_stays() {
    let mut world = World::with_signups(10).await;
    world.options.concurrency = 1;
    world.faults.suspend_after(Some(1 + 6));
    let error = world.run().await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Suspended);
    assert_eq!(world.gets(), 7, "it stops at the first refusal");
    world.faults.suspend_after(None);
    let report = world.run().await.unwrap();
    assert_eq!((report.fetched, report.failed), (4, 0));
    assert_eq!(report.manifest.unwrap().fetched, 10);
}

#[tokio::test]
async fn one_body_that_fails_does_not_stop_the_others() {
    let world = World::with_signups(5).await;
    world.skip_reads(2);
    world.faults.fault(Operation::Get, Fault::Refused(ErrorKind::NotApplied));
    let report = world.run().await.unwrap();
    assert_eq!((report.fetched, report.failed, report.exit()), (4, 1, Exit::SomeKeysFailed));
    assert_eq!(report.failures[0].kind, "not-applied");
    assert_eq!(report.manifest, None, "a body is missing");

    let report = world.run().await.unwrap();
    assert_eq!((report.fetched, report.failed, report.exit()), (1, 0, Exit::Done));
    assert!(report.manifest.is_some());
}

#[tokio::test]
async fn a_store_that_fails_throughout_is_given_up() {
    let world = World::with_signups(200).await;
    for _ in 0..200 {
        world.faults.fault(Operation::Get, Fault::Refused(ErrorKind::NotApplied));
    }
    let error = world.run().await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotApplied);
    assert!(world.gets() < 150, "{} reads", world.gets());
}

#[tokio::test]
async fn a_plan_that_changed_is_applied_to_what_was_listed() {
    let mut world = World::with_signups(4).await;
    world.options.concurrency = 1;
    world.faults.fault(Operation::Get, Fault::Refused(ErrorKind::Suspended));
    assert!(world.run().await.is_err());
    world.plan.accepted.push(PatternPlan { blobs: signup(2), reason: "test data".to_owned() });
    let report = world.run().await.unwrap();
    assert!(report.resumed);
    assert_eq!((report.mapped, report.accepted), (3, 1));
    assert_eq!(world.body(&signup(2)).await, None);
}
