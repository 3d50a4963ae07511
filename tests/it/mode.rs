//! The mode item: `migrate mode`, the example that reads it from TypeScript, the hook, and waiting for a step.

use std::io::{BufRead as _, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;

use migrate::clock::{Clock as _, SystemClock};
use migrate::protocol::canary::Share;
use migrate::protocol::phase::Phase;
use migrate::target::control::{Control, Hold, Mode};
use migrate::target::dynamodb::{DynamoConfig, DynamoTarget};
use serde_json::{Value as Json, json};

use crate::gateway::{PLAN, runtime, stage};
use crate::support::Sandbox;

pub(crate) async fn control(sandbox: &Sandbox) -> Control {
    let plan = migrate::plan::parse("plan", PLAN, &[]).unwrap().plan.target;
    let config = DynamoConfig::new(plan, Arc::new(SystemClock::new()));
    let endpoint = sandbox.variable("DYNAMODB_ENDPOINT");
    Control::new(Arc::new(DynamoTarget::connect(config.endpoint(endpoint)).await.unwrap()))
}

fn flip(control: &Control, seen: &Mode, to: &Mode) {
    assert!(runtime().block_on(control.flip(seen, to, None)).unwrap());
}

/// The published example, compiled as an application would, reads what this program wrote.
#[test]
fn an_application_reads_the_mode_item_by_the_example() {
    let tests = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/node");
    let compiled = Command::new("node")
        .args(["node_modules/typescript/bin/tsc", "-p", "."])
        .current_dir(&tests)
        .output()
        .expect("node must be installed: see `.ci/setup`");
    assert!(compiled.status.success(), "{}", String::from_utf8_lossy(&compiled.stdout));
    let (sandbox, _stores) = stage(PLAN, &[]);
    let names: Vec<String> =
        (0..300).map(|number| format!("{}/日{number}.json", ["r", "s"][number % 2])).collect();
    let ask = || -> Json {
        let output = Command::new("node")
            .arg("mode.mjs")
            .current_dir(&tests)
            .env("DYNAMODB_ENDPOINT", sandbox.variable("DYNAMODB_ENDPOINT"))
            .env("CONTROL_TABLE", "test-migration")
            .env("NAMES", serde_json::to_string(&names).unwrap())
            .output()
            .unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        serde_json::from_slice(&output.stdout).unwrap()
    };
    let none = json!([]);
    let before = ask();
    assert_eq!((&before["mode"]["phase"], &before["fromDynamoDB"]), (&json!("capture"), &none), "{before}");
    assert_eq!(before["asked"], 1, "all of them ask once");

    let control = runtime().block_on(control(&sandbox));
    let now = SystemClock::new().now();
    let capture = runtime().block_on(control.ensure_mode(&Mode::begun(now, "hash"))).unwrap();
    let shadow = capture.stepped(Phase::Shadow, None, now, "hash");
    flip(&control, &capture, &shadow);
    assert_eq!(ask()["fromDynamoDB"], none);
    let mut seen = shadow;
    for share in
        [Share { percent: 30, prefixes: Vec::new() }, Share { percent: 60, prefixes: vec!["s/".to_owned()] }]
    {
        let canary = seen.stepped(Phase::Canary, Some(&share), now, "hash");
        flip(&control, &seen, &canary);
        let expected: Vec<&String> = names.iter().filter(|name| share.holds(name)).collect();
        assert!(!expected.is_empty() && expected.len() < names.len());
        assert_eq!(ask()["fromDynamoDB"], json!(expected), "{share}");
        seen = canary;
    }
    let cutover = seen.stepped(Phase::Cutover, None, now, "hash");
    flip(&control, &seen, &cutover);
    let after = ask();
    assert_eq!((&after["mode"]["epoch"], &after["fromDynamoDB"]), (&json!(2), &json!(names)), "{after}");
}

#[test]
fn the_mode_is_printed_and_watched() {
    let (sandbox, _stores) = stage(PLAN, &[]);
    let said = sandbox.run(&["mode"]).expect(0).stdout;
    assert_eq!(said, "mode       capture, epoch 1, not begun; reads come from Blob\n");

    let arguments = ["mode", "--watch", "--interval", "20ms", "--output", "json"];
    let mut watching = sandbox.command(&arguments).stdout(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(watching.stdout.take().unwrap()).lines();
    let mut next = || -> Json { serde_json::from_str(&lines.next().unwrap().unwrap()).unwrap() };
    assert_eq!(next()["since"], Json::Null);
    let control = runtime().block_on(control(&sandbox));
    let now = SystemClock::new().now();
    let capture = runtime().block_on(control.ensure_mode(&Mode::begun(now, "hash"))).unwrap();
    assert_eq!((&next()["phase"], &Json::Null), (&json!("capture"), &Json::Null));
    let hold =
        Hold { id: "h".to_owned(), target: Phase::Cutover, by: "ada@here".to_owned(), limit_ms: 2_000 };
    let held = Mode { hold: Some(hold), ..capture.clone() };
    flip(&control, &capture, &held);
    assert_eq!(next()["held"], "ada@here");
    let cutover = held.stepped(Phase::Cutover, None, now, "hash");
    flip(&control, &held, &cutover);
    let last = next();
    assert_eq!((&last["phase"], &last["epoch"], &last["held"]), (&json!("cutover"), &json!(2), &Json::Null));
    let id = watching.id().to_string();
    assert!(Command::new("kill").args(["-s", "INT", &id]).status().unwrap().success());
    assert_eq!(watching.wait().unwrap().code(), Some(0));

    sandbox.run(&["mode", "--watch", "--interval", "1ms"]).expect(2);
    sandbox.run(&["mode", "--interval", "5s"]).expect(2);
}

/// It may be started before DynamoDB can be reached, and is ended as ever.
#[test]
fn a_watch_waits_for_tables_that_are_out_of_reach() {
    let (sandbox, stores) = stage(PLAN, &[]);
    drop(stores);
    let again = "warning: get items test-migration: cannot connect to DynamoDB";
    let watching = sandbox.start_until(&["mode", "--watch"], again);
    assert_eq!(watching.signal("INT"), Some(0));
}

/// The hook is told of each step, and decides nothing: where it fails, the step stands and the exit code says so.
#[test]
fn the_hook_of_the_plan_is_told_of_each_flip() {
    let hook = "[hook]\ncommand = [\"sh\", \"told.sh\"]\ntimeout = \"20s\"\n[validation]";
    let (sandbox, _stores) = stage(&PLAN.replace("[validation]", hook), &[]);
    sandbox.write(
        "told.sh",
        "echo \"$MIGRATE_FROM $MIGRATE_PHASE $MIGRATE_EPOCH\" >> told; cat >> told; exit 3",
    );
    sandbox.run(&["export"]).expect(0);
    sandbox.run(&["dual-write", "--once"]).expect(0);
    assert!(!sandbox.path().join("told").exists());

    let run = sandbox.run(&["cutover", "--to", "shadow", "--yes"]).expect(3);
    assert!(run.stdout.contains("stepped    to shadow"), "{}", run.stdout);
    assert!(run.stdout.contains("FAILED     hook `sh told.sh` ended with exit code 3"), "{}", run.stdout);
    let told = std::fs::read_to_string(sandbox.path().join("told")).unwrap();
    let (words, mode) = told.split_once('\n').unwrap();
    assert_eq!(words, "capture shadow 1");
    let mode: Json = serde_json::from_str(mode).unwrap();
    assert_eq!(mode["phase"], "shadow");

    sandbox.write("told.sh", "true");
    let back = sandbox.run(&["cutover", "--rollback", "--yes", "--output", "json"]).expect(0).json();
    assert_eq!((&back["hook"]["ok"], &back["flip"]["to"]), (&json!(true), &json!("capture")));
    let lines = sandbox.run(&["status", "--audit=lines"]).expect(0).stdout;
    let steps: Vec<Json> = lines.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let named: Vec<_> =
        steps.iter().map(|line| (&line["from"], &line["to"], line["note"].is_null())).collect();
    let [capture, shadow] = [json!("capture"), json!("shadow")];
    let expected = [
        (&capture, &shadow, true),
        (&shadow, &shadow, false),
        (&shadow, &capture, true),
        (&capture, &capture, false),
    ];
    assert_eq!(named, expected, "{lines}");
    let audit = sandbox.run(&["status", "--audit"]).expect(0).stdout;
    assert!(audit.contains("ended with exit code 3") && audit.contains("ended with exit code 0"), "{audit}");

    let wrong = PLAN.replace("[validation]", "[hook]\ncommand = []\n[validation]");
    sandbox.write("migration-plan.md", &wrong);
    let refused = sandbox.run(&["status"]).expect(2).stderr;
    assert!(refused.contains("migration-plan.md:10: `hook.command`: it names no program"), "{refused}");
    sandbox.write("migration-plan.md", &PLAN.replace("[validation]", &hook.replace("20s", "0s")));
    let refused = sandbox.run(&["status"]).expect(2).stderr;
    assert!(refused.contains("`hook.timeout`: it must be longer than nothing"), "{refused}");
}

/// It may be started before anything is proven: it takes the step once it may.
#[test]
fn a_step_waits_until_its_gates_open() {
    let (sandbox, _stores) = stage(PLAN, &[]);
    sandbox.run(&["cutover", "--to", "shadow", "--yes"]).expect(4);
    sandbox.run(&["cutover", "--to", "shadow", "--wait"]).expect_error(2, &["not confirmed", "--yes"]);
    let wait = ["cutover", "--to", "shadow", "--wait", "--yes"];
    // Ctrl-C ends it, and nothing has changed.
    let given_up = sandbox.start_until(&wait, "waiting    export-complete: no evidence yet; ");
    assert_eq!(given_up.signal("INT"), Some(130));

    let waiting = sandbox.start_until(&wait, "waiting ");
    sandbox.run(&["export"]).expect(0);
    sandbox.run(&["dual-write", "--once"]).expect(0);
    assert_eq!(waiting.end(), Some(0));
    assert!(sandbox.run(&["mode"]).expect(0).stdout.contains("shadow"));
}
