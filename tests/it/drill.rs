//! `migrate cutover --drill`: what it leaves, and what it can't prove.

use std::time::Duration;

use migrate::protocol::phase::Phase;
use migrate::target::control::Mode;

use crate::gateway::{PLAN, runtime, stage, windowed};
use crate::mode::control;

/// A drill that was killed leaves its gateway to end by itself, and the next one removes the rest.
#[test]
fn a_drill_that_was_killed_is_in_nobodys_way() {
    let (sandbox, _stores) = stage(PLAN, &[]);
    let drill = windowed(&["cutover", "--drill", "--yes", "--output", "json"]);
    assert!(sandbox.run_for(&drill, Duration::from_millis(2_500)).is_none(), "it was to be killed");
    // What is left is nobody's: the application's own comparison does not see it.
    sandbox.run(&windowed(&["export"])).expect(0);
    sandbox.run(&windowed(&["dual-write", "--once"])).expect(0);
    let compared = sandbox.run(&windowed(&["validate", "--output", "json"])).expect(0).json();
    assert_eq!(compared["sweeps"][0]["listed"], 0, "{compared}");

    let mut code = None;
    for _ in 0..40 {
        let run = sandbox.run(&drill);
        code = run.code;
        // Until the gateway of the other one has ended.
        if code != Some(6) {
            run.expect(0);
            break;
        }
    }
    assert_eq!(code, Some(0));
    let listed = sandbox.run(&["export", "--dry-run", "--output", "json"]).expect(0).stdout;
    assert!(!listed.contains("migrate-drill"), "{listed}");
    let status = sandbox.run(&windowed(&["status", "--audit"])).expect(0).stdout;
    assert!(status.contains("drill: there and back"), "{status}");
}

/// Ctrl-C proves nothing, and takes nothing back; its blobs, items and rows are removed all the same.
#[test]
fn a_drill_that_is_interrupted_cleans_up_and_says_nothing_of_its_gate() {
    let (sandbox, _stores) = stage(PLAN, &[]);
    let running =
        sandbox.start_until(&windowed(&["cutover", "--drill", "--yes"]), "drill      migrate validate");
    assert_eq!(running.signal("INT"), Some(130));
    let audit = sandbox.run(&windowed(&["status", "--audit=lines"])).expect(0).stdout;
    assert!(!audit.contains("drill"), "{audit}");
    sandbox.run(&windowed(&["cutover", "--drill", "--yes"])).expect(0);
}

/// What went wrong is evidence too, and keeps the gate closed; after the cutover it is too late.
#[test]
fn a_drill_that_fails_keeps_its_gate_closed() {
    let (mut sandbox, _stores) = stage(PLAN, &[]);
    sandbox.run(&windowed(&["dual-write", "--once"])).expect(0);
    // Its commands can't be run: the token that they inherit is refused.
    let token = sandbox.variable("BLOB_READ_WRITE_TOKEN");
    sandbox.set("BLOB_READ_WRITE_TOKEN", "vercel_blob_rw_emulator_wrong");
    let failed = sandbox.run(&windowed(&["cutover", "--drill", "--yes"]));
    failed.expect_error(2, &["BLOB_READ_WRITE_TOKEN"]);
    sandbox.set("BLOB_READ_WRITE_TOKEN", &token);
    sandbox.run(&windowed(&["cutover", "--drill", "snapshot"])).expect_error(2, &["there is no snapshot"]);
    // Its own clean-up is no excuse: without a temporary folder nothing is proven.
    sandbox.set("TMPDIR", "/nowhere");
    let failed = sandbox.run(&windowed(&["cutover", "--drill", "--yes"]));
    assert_ne!(failed.code, Some(0), "{}", failed.stdout);
    sandbox.set("TMPDIR", "/tmp");

    runtime().block_on(async {
        let control = control(&sandbox).await;
        let seen = control.mode().await.unwrap().unwrap();
        let to = Mode { epoch: seen.epoch.next(), ..seen.stepped(Phase::Cutover, None, seen.since, "hash") };
        assert!(control.flip(&seen, &to, None).await.unwrap());
    });
    sandbox.run(&windowed(&["cutover", "--drill", "--yes"])).expect_error(6, &["too late for a drill"]);
}
