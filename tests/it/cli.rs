//! The command line: help, failures and their exit codes.

use std::net::TcpListener;

use migrate::fixture::PLAN;

use crate::support::{Run, Sandbox};

/// A URL at which nothing listens.
fn nobody() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    format!("http://{}", listener.local_addr().unwrap())
}

/// The error object of a failed command.
#[track_caller]
fn error(run: &Run) -> serde_json::Value {
    let object = run.json();
    assert_eq!(object.as_object().unwrap().keys().collect::<Vec<_>>(), ["error"]);
    object["error"].clone()
}

#[test]
fn help_teaches() {
    let sandbox = Sandbox::new();
    let run = sandbox.run(&["--help"]).expect(0);
    insta::assert_snapshot!(run.stdout);
    assert_eq!(run.stderr, "");
    for command in ["init", "provision", "export", "check", "emulate", "gateway-cert"] {
        let help = sandbox.run(&[command, "--help"]).expect(0).stdout;
        let (own, global) = help.split_once("Global options:").unwrap();
        let (_, examples) = global.split_once("Examples:").unwrap();
        insta::assert_snapshot!(format!("help_{command}"), format!("{own}Examples:{examples}"));
    }
}

#[test]
fn a_wrong_flag_is_a_usage_error() {
    let run = Sandbox::new().run(&["--no-such-flag"]).expect(2);
    assert_eq!(run.stdout, "");
    assert!(run.stderr.starts_with("error: unexpected argument '--no-such-flag' found"), "{}", run.stderr);
}

#[test]
fn a_wrong_flag_is_an_object_where_json_is_asked_for() {
    let run = Sandbox::new().run(&["export", "--output=json", "--target", "nonsense"]).expect(2);
    assert_eq!(run.stderr, "");
    let error = error(&run);
    assert_eq!((error["kind"].as_str(), error["exit"].as_u64()), (Some("usage"), Some(2)));
    let message = error["message"].as_str().unwrap();
    assert!(message.contains("expected `aws`") && !message.contains("--help"), "{error}");
    assert!(error["hint"].as_str().unwrap().contains("--help"), "{error}");
}

#[test]
fn the_readme_lists_every_exit_code() {
    let readme = include_str!("../../README.md");
    for exit in migrate::Exit::ALL {
        let row = format!("| {} | {} |", exit.code(), exit.meaning());
        assert!(readme.contains(&row), "README.md lacks `{row}`");
    }
}

#[test]
fn a_wrong_plan_names_line_and_key() {
    let sandbox = Sandbox::new();
    insta::assert_snapshot!("no_plan", sandbox.run(&["provision"]).expect(2).stderr);
    sandbox.write("migration-plan.md", &PLAN.replacen("partition_key", "partition_kee", 1));
    insta::assert_snapshot!("unknown_key", sandbox.run(&["provision"]).expect(2).stderr);
    let error = error(&sandbox.run(&["provision", "--output", "json"]).expect(2));
    assert_eq!(error["kind"], "usage");
}

#[test]
fn windows_are_overridden_only_on_this_machine() {
    let mut sandbox = Sandbox::with_plan();
    let arguments = ["provision", "--dry-run", "--target", "embedded", "--set", "timing.settle=20m"];
    let refused = sandbox.run(&arguments).expect(2);
    assert!(refused.stderr.contains("timing.settle"), "{}", refused.stderr);
    sandbox.set("MIGRATE_BLOB_URL", "http://127.0.0.1:9/api/blob");
    let allowed = sandbox.run(&arguments).expect(0);
    assert!(allowed.stderr.contains("plan: timing.settle = "), "{}", allowed.stderr);
}

#[test]
fn a_token_that_is_missing_or_wrong_is_said_and_never_shown() {
    let mut sandbox = Sandbox::with_plan();
    insta::assert_snapshot!("no_token", sandbox.run(&["export"]).expect(2).stderr);

    let _stores = sandbox.emulate(&[]);
    sandbox.set("BLOB_READ_WRITE_TOKEN", "vercel_blob_rw_emulator_Wr0ng");
    let run = sandbox.run(&["export", "--output", "json", "-vvv"]).expect(2);
    assert_eq!(error(&run)["kind"], "denied");
    assert!(!run.stdout.contains("Wr0ng") && !run.stderr.contains("Wr0ng"), "{run:?}");
}

#[test]
fn stores_that_nobody_serves_are_named() {
    let mut sandbox = Sandbox::with_plan();
    let (blob, dynamodb) = (nobody(), nobody());
    sandbox.set("BLOB_READ_WRITE_TOKEN", "vercel_blob_rw_emulator_local");
    sandbox.set("MIGRATE_BLOB_URL", &blob);
    sandbox.set("DYNAMODB_ENDPOINT", &dynamodb);
    for (command, url) in [("export", blob), ("provision", dynamodb)] {
        let run = sandbox.run(&[command]).expect(1);
        assert!(run.stderr.contains("error: ") && run.stderr.contains(&url), "{}", run.stderr);
        assert!(run.stderr.contains("hint: "), "{}", run.stderr);
    }
}

#[test]
fn colours_only_where_they_are_asked_for() {
    let mut sandbox = Sandbox::new();
    assert!(!sandbox.run(&["provision"]).stderr.contains('\x1b'), "not a terminal");
    assert!(sandbox.run(&["provision", "--color", "always"]).stderr.contains('\x1b'));
    sandbox.set("CLICOLOR_FORCE", "1");
    assert!(sandbox.run(&["provision"]).stderr.contains('\x1b'));
    sandbox.set("NO_COLOR", "1");
    assert!(!sandbox.run(&["provision"]).stderr.contains('\x1b'));
}

#[test]
fn provision_creates_then_checks() {
    let mut sandbox = Sandbox::with_plan();
    let _stores = sandbox.emulate(&[]);
    let results = |run: Run| {
        let steps = run.expect(0).json()["steps"].as_array().unwrap().clone();
        steps.into_iter().map(|step| step["result"].as_str().unwrap().to_owned()).collect::<Vec<_>>()
    };
    let dry = results(sandbox.run(&["provision", "--dry-run", "--output", "json"]));
    assert!(dry.contains(&"created".to_owned()));
    let created = results(sandbox.run(&["provision", "--output", "json"]));
    assert_eq!(created, dry, "the dry run foretold it, and created nothing");
    let checked = results(sandbox.run(&["provision", "--output", "json"]));
    assert!(!checked.contains(&"created".to_owned()), "{checked:?}");

    sandbox.write(
        "other.md",
        &PLAN
            .replacen("partition_key = \"PK\"", "partition_key = \"OTHER\"", 1)
            .replace("\nPK = ", "\nOTHER = "),
    );
    let other = sandbox.run(&["provision", "--plan", "other.md"]).expect(2);
    assert!(other.stderr.contains("OTHER"), "{}", other.stderr);
}

#[test]
fn provision_prints_policies() {
    let sandbox = Sandbox::with_plan();
    let all = sandbox.run(&["provision", "--policy"]).expect(0).json();
    let one = sandbox.run(&["provision", "--policy", "status"]).expect(0).json();
    assert_eq!(all["status"], one);
    assert_eq!(one["Version"], "2012-10-17");
    sandbox.run(&["provision", "--policy", "nonsense"]).expect(2);
}

#[test]
fn export_saves_everything_and_then_only_what_changed() {
    let mut sandbox = Sandbox::with_plan();
    let _stores = sandbox.emulate(&["--seed", "fuse:40"]);
    let refused = sandbox.run(&["export", "--max-operations", "10", "--output", "json"]).expect(7);
    assert_eq!(error(&refused)["kind"], "budget");

    let first = sandbox.run(&["export", "--output", "json"]).expect(0).json();
    assert_eq!(first["fetched"], first["mapped"]);
    assert!(first["manifest"]["digest"].is_string());
    let again = sandbox.run(&["export", "--output", "json"]).expect(0).json();
    assert_eq!((again["fetched"].as_u64(), &again["mapped"]), (Some(0), &first["mapped"]));
    assert_eq!(again["manifest"]["digest"], first["manifest"]["digest"]);

    let file = sandbox.path().join(".migrate/fuse.snapshot");
    let held = migrate::snapshot::Snapshot::create_or_open(&file, "fuse").unwrap();
    let busy = sandbox.run(&["export", "--output", "json"]).expect(6);
    assert_eq!(error(&busy)["kind"], "busy");
    drop(held);
    std::fs::write(&file, "this is no snapshot").unwrap();
    let foreign = sandbox.run(&["export"]).expect(2);
    assert!(foreign.stderr.contains("fuse.snapshot"), "{}", foreign.stderr);
}

#[test]
fn an_interrupted_export_is_resumed() {
    let mut sandbox = Sandbox::with_plan();
    let stores = sandbox.emulate(&["--seed", "fuse:150", "--latency", "500ms"]);
    let export = sandbox.start_until(&["export"], "fetch: ");
    assert_eq!(export.signal("INT"), Some(130));
    let rest = sandbox.run(&["export", "--output", "json"]).expect(0).json();
    let (fetched, mapped) = (rest["fetched"].as_u64().unwrap(), rest["mapped"].as_u64().unwrap());
    assert!(rest["resumed"] == true && fetched > 0 && fetched < mapped, "{fetched} of {mapped}");
    assert_eq!(stores.signal("TERM"), Some(0));
}
