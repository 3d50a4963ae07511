//! What nobody should send to a gateway: the process stays bounded, answers, and says it once. What single
//! requests meet is in `blob_bad_input`, of the same server.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::time::Duration;

use migrate::clock::{Clock as _, SystemClock};
use reqwest::StatusCode;

use crate::gateway::{Gateway, PLAN, no_drift, runtime, stage};

/// So many connections a gateway has at most.
const CONNECTIONS_MAX: usize = 1000;

#[test]
fn ten_thousand_idle_connections_keep_nobody_out() {
    const IDLE: usize = 10_000;
    let limit = rlimit::increase_nofile_limit(u64::MAX).unwrap();
    assert!(limit > IDLE as u64 + 500, "this test opens {IDLE} connections: raise the hard `ulimit -n`");
    let (mut sandbox, _stores) = stage(PLAN, &[]);
    sandbox.set("RUST_LOG", "warn");
    // As most systems start programs, and less.
    let gateway = Gateway::start_with_open_files(&sandbox, 256);
    let client = gateway.client();
    let address = client.url.trim_start_matches("http://").split('/').next().unwrap();
    let before = gateway.peak_mb();
    let mut idle = Vec::with_capacity(IDLE);
    for number in 0..IDLE {
        let mut stream = TcpStream::connect(address).unwrap();
        let sent: &[u8] = match number % 10 {
            0 => b"GET /api/blob HTTP/1.1\r\nhost: x\r\n\r\n",
            // Half a head is no request.
            1 => b"PUT /api/blob/?pathname=r/1.json HTTP/1.1\r\nhost: x\r\n",
            _ => b"",
        };
        // It may be closed already.
        stream.write_all(sent).ok();
        stream.set_nonblocking(true).unwrap();
        idle.push(stream);
    }
    let clock = SystemClock::new();
    let put = runtime().block_on(client.put("r/1.json", "{}".to_owned())).unwrap();
    let took = clock.monotonic();
    assert_eq!(put.0, StatusCode::OK, "{put:?}");
    assert!(took < Duration::from_secs(10), "it took {took:?}");
    let is_open = |stream: &mut TcpStream| loop {
        match stream.read(&mut [0; 1024]) {
            Ok(0) => return false,
            Ok(_) => {}
            Err(error) => return error.kind() == std::io::ErrorKind::WouldBlock,
        }
    };
    let open = idle.iter_mut().filter_map(|stream| is_open(stream).then_some(())).count();
    assert!(open <= CONNECTIONS_MAX, "{open} are open");
    let peak = gateway.peak_mb();
    eprintln!("{open} of {IDLE} are open; a put took {took:?}; {before} MB, then {peak} MB at most");
    assert!(peak < before + 64, "{before} MB before, {peak} MB at most");
    let run = gateway.stop();
    let said = run.stderr.matches("as many connections as may be").count();
    assert_eq!(said, 1, "{}", run.stderr);
    run.expect(0);
    no_drift(&sandbox);
}
