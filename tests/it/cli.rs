//! The command line: help, failures and their exit codes.

use crate::support::Sandbox;

#[test]
fn help_teaches() {
    let run = Sandbox::new().run(&["--help"]).expect(0);
    insta::assert_snapshot!(run.stdout);
    assert_eq!(run.stderr, "");
}

#[test]
fn a_wrong_flag_is_a_usage_error() {
    let run = Sandbox::new().run(&["--no-such-flag"]).expect(2);
    assert_eq!(run.stdout, "");
    assert!(run.stderr.starts_with("error: unexpected argument '--no-such-flag' found"), "{}", run.stderr);
}

#[test]
fn a_wrong_flag_is_an_object_where_json_is_asked_for() {
    let run = Sandbox::new().run(&["--output", "json", "--set", "nonsense"]).expect(2);
    assert_eq!(run.stderr, "");
    let error = &run.json()["error"];
    assert_eq!((error["kind"].as_str(), error["exit"].as_u64()), (Some("usage"), Some(2)));
    assert!(error["message"].as_str().unwrap().contains("expected KEY=VALUE"), "{error}");
}

#[test]
fn the_readme_lists_every_exit_code() {
    let readme = include_str!("../../README.md");
    for exit in migrate::Exit::ALL {
        let row = format!("| {} | {} |", exit.code(), exit.meaning());
        assert!(readme.contains(&row), "README.md lacks `{row}`");
    }
}
