//! What is written is for its owner alone, whatever the umask, and never written through a symbolic link.

use std::fs;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::Path;
use std::process::Command;
use std::thread;

use migrate::blob::faults::Operation;

use crate::gateway::{runtime, until};
use crate::local::Source;
use crate::support::{Run, Sandbox};

const LOAD: [&str; 4] = ["dual-write", "--once", "--target", "embedded"];

/// The program where the umask lets everybody do everything.
fn lax(sandbox: &Sandbox, arguments: &[&str]) -> Command {
    let shell = ["-c", "umask 0; exec \"$0\" \"$@\"", env!("CARGO_BIN_EXE_migrate")];
    sandbox.other("/bin/sh", &[&shell[..], arguments].concat())
}

/// What others may do to a folder and to all that is in it; the names of what is in it.
fn look(folder: &Path) -> (Vec<String>, Vec<String>) {
    let (mut open, mut names, mut pending) = (Vec::new(), Vec::new(), vec![folder.to_owned()]);
    while let Some(path) = pending.pop() {
        let mode = path.symlink_metadata().unwrap().permissions().mode();
        if mode & 0o077 != 0 {
            open.push(format!("{} {:o}", path.display(), mode & 0o777));
        }
        names.push(path.file_name().unwrap().to_str().unwrap().to_owned());
        if path.is_dir() {
            pending.extend(fs::read_dir(&path).unwrap().map(|entry| entry.unwrap().path()));
        }
    }
    (open, names)
}

#[track_caller]
fn is_closed(folder: &Path, holds: &[&str]) {
    let (open, names) = look(folder);
    assert_eq!(open, [""; 0]);
    for name in holds {
        assert!(names.iter().any(|found| found == name), "{name} in {names:?}");
    }
}

/// Waits until a file is there.
fn there(file: &Path) {
    runtime().block_on(until("a file is there", async || file.exists()));
}

#[test]
fn whatever_is_written_is_for_its_owner_alone() {
    let source = Source::with_signups(3);
    let sandbox = source.sandbox();
    let own = sandbox.path().join(".migrate");
    // Whoever makes the folder first.
    Run::of(&mut lax(&sandbox, &["gateway-cert"])).expect(0);
    is_closed(&own, &["tls", "key.pem", "cert.pem", "ca.pem"]);
    let elsewhere = sandbox.path().join("elsewhere");
    for (arguments, folder) in
        [(&["export"][..], &own), (&["export", "--snapshot", "elsewhere/a.snapshot"], &elsewhere)]
    {
        let mut read = source.faults().pause(Operation::Get);
        thread::scope(|scope| {
            let export = scope.spawn(|| Run::of(&mut lax(&sandbox, arguments)));
            source.block_on(read.arrived());
            let name = if *folder == own { "fuse" } else { "a" };
            let files = ["", ".lock", "-wal", "-shm"].map(|end| format!("{name}.snapshot{end}"));
            is_closed(folder, &files.each_ref().map(String::as_str));
            read.release();
            export.join().unwrap().expect(0);
        });
    }
    Run::of(&mut lax(&sandbox, &["provision", "--target", "embedded"])).expect(0);
    Run::of(&mut lax(&sandbox, &LOAD)).expect(0);
    is_closed(&own, &["instance", "embedded.db"]);
    let mut gateway =
        lax(&sandbox, &["dual-write", "--target", "embedded", "--listen", "127.0.0.1:0", "--name", "g"]);
    let mut gateway = gateway.spawn().unwrap();
    there(&own.join("session-g.lock"));
    is_closed(&own, &["embedded.db-wal", "embedded.db-shm"]);
    gateway.kill().unwrap();
    gateway.wait().unwrap();

    let stores = lax(&sandbox, &["emulate", "--data", "stores", "--seed", "fuse:1"])
        .stdout(std::process::Stdio::piped())
        .spawn();
    let mut stores = stores.unwrap();
    there(&sandbox.path().join("stores/dynamodb.db-shm"));
    is_closed(&sandbox.path().join("stores"), &["lock", "dynamodb.db-wal"]);
    stores.kill().unwrap();
    stores.wait().unwrap();
}

/// What an earlier version left open to others.
#[test]
fn what_was_open_to_others_is_closed() {
    let source = Source::with_signups(3);
    let sandbox = source.sandbox();
    let own = sandbox.path().join(".migrate");
    sandbox.run(&["export"]).expect(0);
    sandbox.run(&["provision", "--target", "embedded"]).expect(0);
    sandbox.run(&LOAD).expect(0);
    let mut pending = vec![own.clone()];
    while let Some(path) = pending.pop() {
        fs::set_permissions(&path, fs::Permissions::from_mode(if path.is_dir() { 0o755 } else { 0o644 }))
            .unwrap();
        if path.is_dir() {
            pending.extend(fs::read_dir(&path).unwrap().map(|entry| entry.unwrap().path()));
        }
    }
    sandbox.run(&["export"]).expect(0);
    sandbox.run(&LOAD).expect(0);
    let (open, _) = look(&own);
    assert_eq!(open, [format!("{} 644", own.join("instance").display())], "which is no secret");
}

#[test]
fn no_symbolic_link_is_followed() {
    let source = Source::with_signups(3);
    for (link, is_folder, command) in [
        (".migrate", true, &["gateway-cert"][..]),
        (".migrate", true, &["export"]),
        (".migrate/tls", true, &["gateway-cert"]),
        (".migrate/fuse.snapshot", false, &["export"]),
        (".migrate/fuse.snapshot", false, &["check"]),
        (".migrate/fuse.snapshot.lock", false, &["export"]),
        (".migrate/embedded.db", false, &["provision", "--target", "embedded"]),
        (".migrate/instance", false, &LOAD),
        ("stores/blobs/lock", false, &["emulate", "--data", "stores"]),
    ] {
        let sandbox = source.sandbox();
        if link.ends_with("instance") {
            sandbox.run(&["provision", "--target", "embedded"]).expect(0);
        }
        let (outside, link) = (sandbox.path().join("outside"), sandbox.path().join(link));
        fs::create_dir_all(link.parent().unwrap()).unwrap();
        if is_folder {
            fs::create_dir(&outside).unwrap();
        } else {
            fs::write(&outside, "kept").unwrap();
        }
        symlink(&outside, &link).unwrap();
        let name = link.strip_prefix(sandbox.path()).unwrap().to_str().unwrap();
        sandbox.run(command).expect_error(2, &["is a symbolic link", name]);
        if is_folder {
            assert_eq!(fs::read_dir(&outside).unwrap().count(), 0, "{name}");
        } else {
            assert_eq!(fs::read_to_string(&outside).unwrap(), "kept", "{name}");
        }
    }
}
