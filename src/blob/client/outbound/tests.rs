use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;

use super::*;

fn outbound(allowed: &[&str]) -> Outbound {
    Outbound::new(&allowed.iter().map(ToString::to_string).collect::<Vec<_>>()).unwrap()
}

#[test]
fn only_allowed_origins_are_reached() {
    let allowed = ["https://app.example", "http://127.0.0.1:3000", "http://localhost:3000"];
    for url in ["http://127.0.0.1:3000/a", "http://localhost:3000/x", "https://app.example:443/a?b"] {
        outbound(&allowed).check(url).unwrap();
    }
    for (url, kind) in [
        ("http://127.0.0.1:3001/a", ErrorKind::Denied),
        ("http://127.0.0.2:3000/a", ErrorKind::Denied),
        ("http://[::1]:3000/a", ErrorKind::Denied),
        ("https://localhost/", ErrorKind::Denied),
        ("https://app.example:444/", ErrorKind::Denied),
        ("http://app.example/", ErrorKind::Denied),
        ("https://app.example.evil.example/", ErrorKind::Denied),
        ("http://localhost.evil.example/", ErrorKind::Denied),
        ("http://169.254.169.254/latest", ErrorKind::Denied),
        ("http://[::ffff:10.0.0.1]/", ErrorKind::Denied),
        ("https://other.example/", ErrorKind::Denied),
        ("http://127.0.0.1@evil.example/", ErrorKind::Usage),
        ("https://app.example/a\nb", ErrorKind::Usage),
        ("https://app.exam\tple/", ErrorKind::Usage),
        ("file:///etc/passwd", ErrorKind::Usage),
        ("/relative", ErrorKind::Usage),
    ] {
        assert_eq!(outbound(&allowed).check(url).unwrap_err().kind(), kind, "{url}");
    }
    for wrong in ["app.example", "https://app.example/path", "ftp://app.example"] {
        assert_eq!(Outbound::new(&[wrong.to_owned()]).unwrap_err().kind(), ErrorKind::Usage, "{wrong}");
    }
}

#[test]
fn a_refusal_says_how_the_origin_is_allowed() {
    let error = outbound(&[]).check("http://127.0.0.1:3000/api/upload?secret").unwrap_err();
    let text = error.to_string();
    assert!(text.contains("--allow-origin http://127.0.0.1:3000"), "{text}");
    assert!(!text.contains("secret"), "{text}");
}

#[test]
fn addresses_of_this_machine_and_of_private_networks_are_not_public() {
    for public in ["8.8.8.8", "100.63.255.255", "172.32.0.1", "2606:4700::1111", "::ffff:8.8.8.8"] {
        assert!(is_public(public.parse().unwrap()), "{public}");
    }
    for inside in [
        "0.0.0.0",
        "10.0.0.1",
        "100.64.0.1",
        "127.0.0.1",
        "127.9.9.9",
        "169.254.169.254",
        "172.16.0.1",
        "192.0.0.8",
        "192.168.1.1",
        "198.18.0.1",
        "224.0.0.1",
        "255.255.255.255",
        "::",
        "::1",
        "::127.0.0.1",
        "::ffff:127.0.0.1",
        "64:ff9b::7f00:1",
        "2001::1",
        "2001:db8::1",
        "2002:7f00:1::1",
        "fc00::1",
        "fd00::1",
        "fe80::1",
        "ff02::1",
    ] {
        assert!(!is_public(inside.parse().unwrap()), "{inside}");
    }
}

/// A resolver whose answers change: the first lookup gets the first ones.
struct Names {
    answers: Vec<Vec<IpAddr>>,
    asked: AtomicUsize,
}

impl Resolve for Names {
    fn resolve(&self, _name: Name) -> Resolving {
        let asked = self.asked.fetch_add(1, Ordering::Relaxed);
        let addresses = self.answers.get(asked).cloned().unwrap_or_default();
        let found = addresses.into_iter().map(|address| SocketAddr::new(address, 0));
        Box::pin(async move { Ok(Box::new(found) as _) })
    }
}

/// A server that answers every request with this status, on a connection of its own.
async fn serve(status: &'static str) -> (u16, Arc<AtomicUsize>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (port, requests) = (listener.local_addr().unwrap().port(), Arc::new(AtomicUsize::new(0)));
    let count = requests.clone();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            count.fetch_add(1, Ordering::Relaxed);
            let read = stream.read(&mut [0; 4096]).await.unwrap();
            assert!(read > 0);
            let reply = format!(
                "HTTP/1.1 {status}\r\nlocation: http://127.0.0.1:{port}/elsewhere\r\nconnection: close\r\n\
                 content-length: 0\r\n\r\n"
            );
            stream.write_all(reply.as_bytes()).await.unwrap();
        }
    });
    (port, requests)
}

/// Posts to `app.example`, which leads to these addresses, as often as there are answers.
async fn post(port: u16, answers: &[&[&str]], allowed: &[&str]) -> Vec<Result<u16>> {
    let answers: Vec<Vec<IpAddr>> =
        answers.iter().map(|found| found.iter().map(|address| address.parse().unwrap()).collect()).collect();
    let lookups = answers.len();
    let origin = format!("http://app.example:{port}");
    let allowed: Vec<_> = allowed.iter().map(ToString::to_string).chain([origin.clone()]).collect();
    let names = Arc::new(Names { answers, asked: AtomicUsize::new(0) });
    let outbound = Outbound::resolving_by(names, &allowed).unwrap();
    let mut replies = Vec::new();
    for _ in 0..lookups {
        let url = outbound.check(&origin).unwrap();
        replies.push(outbound.post_json(url, ("x-signature", "s"), Bytes::new()).await);
    }
    replies
}

#[tokio::test]
async fn a_name_that_leads_into_the_network_is_refused_before_it_is_connected_to() {
    let (port, requests) = serve("200 OK").await;
    for found in [&["127.0.0.1"][..], &["::1"], &["127.0.0.1", "10.0.0.1"], &["8.8.8.8", "127.0.0.1"]] {
        let error = post(port, &[found], &[]).await.remove(0).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Denied, "{found:?}: {error}");
        assert!(error.to_string().contains("--allow-origin http://"), "{error}");
    }
    let error = post(port, &[&["127.0.0.1", "10.0.0.1"]], &["http://127.0.0.1"]).await.remove(0).unwrap_err();
    assert!(error.to_string().contains("10.0.0.1"), "every address must be allowed: {error}");
    assert_eq!(requests.load(Ordering::Relaxed), 0);
}

#[tokio::test]
async fn a_name_is_looked_up_for_each_connection_and_the_connection_goes_to_what_was_found() {
    let (port, requests) = serve("200 OK").await;
    let replies = post(port, &[&["127.0.0.1"], &["127.0.0.2"], &["127.0.0.1"]], &["http://127.0.0.1"]).await;
    let kinds: Vec<_> = replies.into_iter().map(|reply| reply.map_err(|error| error.kind())).collect();
    assert_eq!(kinds, [Ok(200), Err(ErrorKind::Denied), Ok(200)]);
    assert_eq!(requests.load(Ordering::Relaxed), 2);
}

#[tokio::test]
async fn no_redirect_is_followed() {
    let (port, requests) = serve("307 Temporary Redirect").await;
    let replies = post(port, &[&["127.0.0.1"]], &["http://127.0.0.1", "http://localhost"]).await;
    assert_eq!(replies.into_iter().map(Result::unwrap).collect::<Vec<_>>(), [307]);
    let here = format!("http://127.0.0.1:{port}");
    let outbound = outbound(&[&here]);
    let error = outbound.get(outbound.check(&here).unwrap()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Usage);
    assert_eq!(requests.load(Ordering::Relaxed), 2);
}
