//! Who may write through a gateway, and when: holds, lapses, outages, and the end.

use std::time::Duration;

use jiff::SignedDuration;
use migrate::ErrorKind;
use migrate::blob::faults::{Fault as BlobFault, Operation as Blob};
use migrate::blob::{BlobStore as _, Pathname};
use migrate::dual_write::replay::ReplayReport;
use migrate::target::control::SessionState;
use migrate::target::memory::{Fault, Operation};

use super::gateway::{A, B, NAME, Stage, calm, put, putting, refused};

#[tokio::test]
async fn a_gateway_that_never_read_the_mode_serves_nothing_that_is_mapped() {
    let stage = Stage::new();
    let gateway = stage.closed_gateway();
    let write = refused(put(&gateway, NAME, A).await);
    let read = refused(gateway.head(&NAME.into()).await);
    assert_eq!([write.kind(), read.kind()], [ErrorKind::WrongPhase, ErrorKind::Busy]);
    put(&gateway, "picture.png", A).await.unwrap();
    assert!(gateway.head(&"picture.png".into()).await.unwrap().is_some());
}

/// Traces B5 and B8: a hold is acknowledged once nothing is in flight, and only its end opens the door.
#[tokio::test]
async fn a_hold_is_acknowledged_with_nothing_in_flight_and_ends_only_on_reading_so() {
    let stage = Stage::new();
    let gateway = stage.gateway("g").await;
    let mut sent = stage.rig.faults.pause(Blob::Put);
    let running = putting(&gateway, NAME, A);
    sent.arrived().await;
    stage.hold(Some("h1")).await;
    stage.look().await;
    assert_eq!(stage.acknowledged().await, None, "a write is in flight");
    let waiting = putting(&gateway, "r/2.json", B);
    calm().await;
    sent.release();
    running.await.unwrap().expect("what is in flight is finished and answered");
    calm().await;
    assert_eq!(stage.acknowledged().await.as_deref(), Some("h1"));
    stage.pass(Duration::from_secs(5)).await;
    assert!(!waiting.is_finished(), "it waits");
    assert!(gateway.head(&NAME.into()).await.unwrap().is_some(), "reads go on, by the mode that is read");
    stage.hold(None).await;
    stage.look().await;
    waiting.await.unwrap().expect("writes are held, not refused");
    calm().await;
    assert_eq!(stage.intents().await, []);
    stage.rig.check().await;

    // The same again: an acknowledgement is of one hold (trace B9).
    stage.hold(Some("h2")).await;
    stage.look().await;
    assert_eq!(stage.acknowledged().await.as_deref(), Some("h2"));
    let held = putting(&gateway, NAME, B);
    stage.pass(Duration::from_secs(10)).await;
    assert_eq!(refused(held.await.unwrap()).kind(), ErrorKind::Busy, "after ten seconds it is told so");
    // Trace B6: whoever can't read the mode while a hold is set does not know the authority.
    stage.rig.target.outage(Some(ErrorKind::NotApplied));
    assert_eq!(refused(gateway.head(&NAME.into()).await).kind(), ErrorKind::Busy);
}

/// An operator that was killed leaves its hold; writes must not wait for it for ever.
#[tokio::test]
async fn a_hold_that_nobody_ends_is_cancelled() {
    let stage = Stage::new();
    let gateway = stage.gateway("g").await;
    stage.hold(Some("h1")).await;
    stage.look().await;
    stage.pass(Duration::from_secs(31)).await;
    let waiting = putting(&gateway, NAME, A);
    stage.look().await;
    assert!(!waiting.is_finished(), "it may last twice its limit of 20 s");
    stage.pass(Duration::from_secs(9)).await;
    stage.look().await;
    waiting.await.unwrap().expect("the hold is cancelled");
    let mode = stage.rig.control.mode().await.unwrap().unwrap();
    assert_eq!((mode.hold, mode.epoch.0), (None, 1));
}

#[tokio::test]
async fn what_does_not_finish_in_time_is_left_in_doubt_before_a_hold_is_acknowledged() {
    let stage = Stage::new();
    let gateway = stage.gateway("g").await;
    let mut sent = stage.rig.faults.pause(Blob::Put);
    let running = putting(&gateway, NAME, A);
    sent.arrived().await;
    stage.hold(Some("h1")).await;
    stage.look().await;
    stage.pass(stage.plan.timing.hold_limit.0 / 2).await;
    assert_eq!(refused(running.await.unwrap()).kind(), ErrorKind::Busy);
    assert_eq!(stage.acknowledged().await.as_deref(), Some("h1"));
    assert_eq!(stage.intents().await.len(), 1, "whoever drains must find it");
    assert_eq!(gateway.counts().in_doubt, 1);
}

/// Traces B1 and B2: what was begun under a session that lapsed is never answered with success.
#[tokio::test]
async fn a_reply_that_comes_after_the_lease_is_not_passed_on() {
    let stage = Stage::new();
    let gateway = stage.closed_gateway();
    gateway.open(stage.session("g").await).await.unwrap();
    let mut sent = stage.rig.faults.pause(Blob::Put);
    let running = putting(&gateway, NAME, A);
    sent.arrived().await;
    stage.pass(Duration::from_secs(11)).await;
    sent.release();
    assert_eq!(refused(running.await.unwrap()).kind(), ErrorKind::Busy);
    calm().await;
    assert_eq!(stage.intents().await.len(), 1, "nor is its intent cleared");
}

#[tokio::test]
async fn an_outage_of_the_tables_stops_no_write_and_loses_none() {
    let stage = Stage::new();
    let gateway = stage.gateway("g").await;
    put(&gateway, "r/0.json", A).await.unwrap();
    calm().await;
    stage.rig.target.outage(Some(ErrorKind::NotApplied));
    put(&gateway, "r/1.json", A).await.unwrap();
    // Longer than the lease: the session is over, the writes go on.
    for second in 0..20 {
        put(&gateway, "r/2.json", if second % 2 == 0 { A } else { B }).await.unwrap();
        stage.pass(Duration::from_secs(1)).await;
    }
    gateway.delete(&["r/0.json".into()], None).await.unwrap();
    // An unanswered one, which lands after the outage.
    stage.rig.faults.fault(Blob::Put, BlobFault::Held);
    refused(put(&gateway, "r/3.json", A).await);
    calm().await;
    stage.rig.target.outage(None);
    stage.look().await;

    let mut sessions = stage.rig.control.sessions().await.unwrap();
    sessions.sort_by_key(|session| session.began);
    let states: Vec<_> = sessions.iter().map(|session| (session.state, session.gap.is_some())).collect();
    assert_eq!(states, [(SessionState::Unclean, true), (SessionState::Open, false)]);
    assert_eq!(sessions[0].gap, Some(sessions[0].began), "the first write without a note was at once");
    let noted: Vec<_> = stage.intents().await.into_iter().flat_map(|intent| intent.pathnames).collect();
    assert_eq!(noted, ["r/0.json", "r/1.json", "r/2.json", "r/3.json"].map(Pathname::from));

    put(&gateway, "r/4.json", A).await.unwrap();
    calm().await;
    let mut replay = stage.replay();
    stage.pass_of(&mut replay).await;
    stage.rig.check().await;
    stage.rig.faults.release_held().await;
    stage.pass(stage.plan.timing.late_write_max.0).await;
    assert_eq!(stage.pass_of(&mut replay).await, ReplayReport { cleared: 1, ..ReplayReport::default() });
    stage.rig.check().await;
    gateway.close(Duration::ZERO).await.unwrap();
}

/// The table does not even refuse: a client waits for it once, not with every write.
#[tokio::test]
async fn a_control_table_that_is_silent_is_waited_for_once() {
    let stage = Stage::new();
    // Without a watch, which would find that the table answers.
    let gateway = stage.closed_gateway();
    gateway.open(stage.session("g").await).await.unwrap();
    let silent = stage.rig.target.pause(Operation::Transact);
    let first = putting(&gateway, NAME, A);
    calm().await;
    assert!(!first.is_finished());
    stage.clock.advance(Duration::from_secs(2));
    first.await.unwrap().unwrap();
    put(&gateway, "r/2.json", A).await.unwrap();
    assert_eq!(gateway.counts().unnoted, 2);
    drop(silent);
}

#[tokio::test]
async fn a_session_ends_as_what_it_was() {
    // A write that is under way at the end and finishes, one that does not, one that nothing notes.
    for (ending, clean, left) in [("finished", true, 0), ("stuck", true, 1), ("unnoted", false, 0)] {
        let stage = Stage::new();
        let gateway = stage.gateway("g").await;
        let mut sent = stage.rig.faults.pause(Blob::Put);
        if ending == "unnoted" {
            stage.rig.target.fault(Operation::Transact, Fault::Refused(ErrorKind::NotApplied));
        }
        let running = putting(&gateway, NAME, A);
        sent.arrived().await;
        let closing = tokio::spawn({
            let gateway = gateway.clone();
            async move { gateway.close(Duration::from_secs(5)).await }
        });
        calm().await;
        if ending == "stuck" {
            stage.pass(Duration::from_secs(5)).await;
        }
        sent.release();
        closing.await.unwrap().unwrap();
        assert_eq!(running.await.unwrap().is_ok(), ending != "stuck", "{ending}");
        assert_eq!(stage.intents().await.len(), left, "{ending}");
        assert_eq!(gateway.ended_clean(), clean, "{ending}");
        let after = putting(&gateway, NAME, B);
        stage.pass(Duration::from_secs(10)).await;
        let refused = refused(after.await.unwrap());
        assert_eq!(refused.kind(), ErrorKind::Busy, "{ending}: nothing passes any more");
    }
}

/// Nothing that keeps writes safe reads the wall clock.
#[tokio::test]
async fn a_wall_clock_that_is_set_ends_no_session_and_clears_nothing_early_or_never() {
    for minutes in [30, -30] {
        let stage = Stage::new();
        let gateway = stage.gateway("g").await;
        stage.rig.faults.fault(Blob::Put, BlobFault::Held);
        refused(put(&gateway, NAME, A).await);
        calm().await;
        let mut replay = stage.replay();
        assert_eq!(stage.pass_of(&mut replay).await.in_doubt, 1);
        stage.clock.set_wall(SignedDuration::from_mins(minutes));
        stage.look().await;
        assert_eq!(gateway.not_ready(), None);
        put(&gateway, "r/2.json", B).await.unwrap();
        calm().await;
        assert_eq!(stage.pass_of(&mut replay).await.cleared, 0, "{minutes} minutes: it may land yet");
        stage.rig.faults.release_held().await;
        for _ in 0..stage.plan.timing.late_write_max.0.as_secs() {
            stage.pass(Duration::from_secs(1)).await;
        }
        assert_eq!(stage.pass_of(&mut replay).await.cleared, 1, "{minutes} minutes: it can land no more");
        assert_eq!(stage.intents().await, []);
        gateway.close(Duration::ZERO).await.unwrap();
        assert!(gateway.ended_clean(), "{minutes} minutes");
        stage.rig.check().await;
    }
}
