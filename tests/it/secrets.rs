//! What is never shown, whatever shows it: output, errors, JSON, the most verbose log.

use std::net::TcpListener;

use crate::support::{Run, Sandbox};

const PASSWORD: &str = "hunter2";

/// The URL with a user name and a password.
fn with_password(url: &str) -> String {
    url.replacen("://", &format!("://ada:{PASSWORD}@"), 1)
}

/// A URL at which nobody listens.
fn nobody() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    format!("http://{}", listener.local_addr().unwrap())
}

/// A migration against an emulator, which logs all there is.
fn world(variables: &[(&str, String)]) -> (Sandbox, crate::support::Running) {
    let mut sandbox = Sandbox::with_plan();
    let stores = sandbox.emulate(&[]);
    sandbox.set("RUST_LOG", "trace");
    for (name, value) in variables {
        sandbox.set(name, value);
    }
    (sandbox, stores)
}

/// Runs a command in both formats.
fn run(sandbox: &Sandbox, arguments: &[&str]) -> Run {
    run_in("human", sandbox, arguments);
    run_in("json", sandbox, arguments)
}

fn run_in(format: &str, sandbox: &Sandbox, arguments: &[&str]) -> Run {
    let run = sandbox.run(&[arguments, &["--output", format]].concat());
    for text in [&run.stdout, &run.stderr] {
        let shown = text.lines().find(|line| line.contains(PASSWORD));
        assert_eq!(shown, None, "{arguments:?}");
    }
    run
}

#[test]
fn the_password_in_an_endpoint_is_used_by_nobody_and_shown_nowhere() {
    for name in ["DYNAMODB_ENDPOINT", "AWS_ENDPOINT_URL_DYNAMODB", "AWS_ENDPOINT_URL"] {
        let (mut sandbox, _stores) = world(&[]);
        let there = sandbox.variable("DYNAMODB_ENDPOINT");
        for unset in ["DYNAMODB_ENDPOINT", "AWS_ENDPOINT_URL_DYNAMODB"] {
            sandbox.set(unset, "");
        }
        sandbox.set(name, &with_password(&there));
        run(&sandbox, &["provision"]).expect(0);
        run(&sandbox, &["status"]).expect(0);
        sandbox.set(name, &with_password("ftp://127.0.0.1:1"));
        let run = run(&sandbox, &["status"]).expect(2);
        assert!(run.stdout.contains(name), "{}", run.stdout);
    }
    let (mut sandbox, _stores) = world(&[]);
    sandbox.set("DYNAMODB_ENDPOINT", &with_password(&nobody()));
    run_in("human", &sandbox, &["status"]).expect(1);
}

#[test]
fn the_password_in_a_source_url_is_refused_and_shown_nowhere() {
    let (mut sandbox, _stores) = world(&[]);
    let there = with_password(&sandbox.variable("VERCEL_BLOB_API_URL"));
    let broken = format!("http://ada:{PASSWORD}/#?@127.0.0.1:1");
    let spaced = format!("http://ada:{PASSWORD} {PASSWORD}@127.0.0.1:1");
    let other = format!("ftp://ada:{PASSWORD}@127.0.0.1:1");
    let none = format!("ada:{PASSWORD}@127.0.0.1:1");
    for url in [&there, &broken, &spaced, &other, &none] {
        run(&sandbox, &["export", "--source-url", url]).expect(2);
        run(&sandbox, &["init", "--source-url", url, "--plan", "new.md"]).expect(2);
    }
    for url in [&there, &broken] {
        run(&sandbox, &["export", "--set", &format!("source.url={url}")]).expect(2);
        run(&sandbox, &["export", "--set", &format!("source..url={url}")]).expect(2);
        run(&sandbox, &["export", "--target", url]).expect(2);
        run(&sandbox, &["export", url]).expect(2);
        for name in ["MIGRATE_BLOB_URL", "VERCEL_BLOB_API_URL"] {
            let before = sandbox.variable("VERCEL_BLOB_API_URL");
            sandbox.set(name, url);
            run(&sandbox, &["export"]).expect(2);
            run(&sandbox, &["dual-write", "--once"]).expect(2);
            sandbox.set("MIGRATE_BLOB_URL", "");
            sandbox.set("VERCEL_BLOB_API_URL", &before);
        }
    }
}

/// Both stores are reached through it, and it is not there.
#[test]
fn the_password_of_a_proxy_is_shown_nowhere() {
    let proxy = with_password(&nobody());
    let names = ["HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "http_proxy", "https_proxy"];
    let (mut sandbox, _stores) = world(&names.map(|name| (name, proxy.clone())));
    sandbox.set("MIGRATE_BLOB_URL", "https://blob.invalid/api");
    sandbox.set("DYNAMODB_ENDPOINT", "https://dynamodb.invalid");
    run_in("human", &sandbox, &["export", "--yes"]).expect(1);
    run_in("json", &sandbox, &["provision"]).expect(1);
}
