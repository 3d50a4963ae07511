//! Phase `final`: no gateway serves any more, and what is left is removed, whatever stopped that before.

use std::time::Duration;

use migrate::protocol::phase::Phase;
use migrate::target::control::{Control, Mode};
use serde_json::{Value as Json, json};

use crate::gateway::{Gateway, PLAN, runtime, stage, windowed};
use crate::mode::control;
use crate::support::Sandbox;

/// The phase is that one, whatever the gates say.
pub(crate) fn step(control: &Control, phase: Phase) {
    runtime().block_on(async {
        let seen = control.mode().await.unwrap().unwrap();
        let to = seen.stepped(phase, None, seen.since, &seen.plan_hash);
        let to = Mode { plan_hash: seen.plan_hash.clone(), ..to };
        assert!(control.flip(&seen, &to, None).await.unwrap());
    });
}

fn finish(sandbox: &Sandbox, more: &[&str], code: i32) -> Json {
    let command = [&["cutover", "--to", "final", "--output", "json"], more].concat();
    sandbox.run(&windowed(&command)).expect(code).json()
}

#[test]
fn a_gateway_keeps_the_last_step_away_and_serves_no_more_after_it() {
    let (sandbox, _stores) = stage(PLAN, &[]);
    let gateway = Gateway::start(&sandbox, &["--name", "blue"]);
    let client = gateway.client();
    for number in 0..20 {
        let name = format!("r/{number}.json");
        let put = client.put(&name, format!(r#"{{"n": {number}}}"#));
        assert_eq!(runtime().block_on(put).unwrap().0, 200);
    }
    let control = runtime().block_on(control(&sandbox));
    step(&control, Phase::Cutover);
    // Nobody held the writes: one that meets the step may be told to come again.
    let late = || client.put("r/late.json", r#"{"n": "late"}"#.to_owned());
    assert!((0..10).any(|_| runtime().block_on(late()).unwrap().0 == 200));
    let swept = sandbox.run(&windowed(&["validate", "--output", "json"]));
    assert_eq!(swept.json()["clean"], true, "{}", swept.stdout);

    let refused = finish(&sandbox, &["--yes"], 6);
    assert!(refused["error"]["message"].as_str().unwrap().contains("blue (gateway)"), "{refused}");
    assert_eq!(runtime().block_on(control.mode()).unwrap().unwrap().phase, Phase::Cutover);

    // Somebody takes it all the same: the gateway ends by itself, in good order.
    step(&control, Phase::Final);
    let run = gateway.end();
    assert!(run.stderr.contains("phase final: nothing is served any more"), "{}", run.stderr);
    let again = sandbox.run(&windowed(&["dual-write", "--listen", "127.0.0.1:0"]));
    again.expect_error(6, &["in phase final nothing is mirrored any more"]);

    // Killed at any moment, it goes on where it was.
    for life in [2, 20, 40, 60, 80, 120] {
        let command = windowed(&["cutover", "--to", "final", "--strip", "--yes", "--output", "json"]);
        let killed = sandbox.run_for(&command, Duration::from_millis(life));
        assert!(killed.is_none_or(|run| run.code == Some(0)));
    }
    let done = finish(&sandbox, &["--strip", "--yes"], 0);
    assert!(done["archive"]["rows"].as_u64().unwrap() > 40, "{done}");
    let again = finish(&sandbox, &["--strip", "--yes"], 0);
    assert_eq!(again["removed"], json!({"anchors": 0, "rows": 0, "stripped": 0}), "{again}");
    assert_eq!(
        (&again["archive"]["found"], &again["archive"]["sha256"]),
        (&json!(true), &done["archive"]["sha256"])
    );
}
