//! The canonical content hosts on this machine: a server over TLS, and a proxy that leads their names to it.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use migrate::blob::certificate::Names;
use migrate::blob::server::{Server, TlsIdentity};
use migrate::clock::{Clock as _, SystemClock};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

/// What clients need to reach a server under the canonical hosts.
pub(crate) struct Canonical {
    directory: TempDir,
    proxy: SocketAddr,
}

impl Canonical {
    /// Lets a server listen for TLS, with a certificate of its own CA, and starts the proxy.
    pub(crate) async fn of(server: &Server, store_id: &str) -> Self {
        Self::with(store_id, async |directory| {
            let file = |name| std::fs::read(directory.join(name)).unwrap();
            let identity = TlsIdentity::from_pem(&file("cert.pem"), &file("key.pem")).unwrap();
            server.listen_tls(([127, 0, 0, 1], 0).into(), &identity).await.unwrap()
        })
        .await
    }

    /// Starts the proxy to what `listen` makes of the directory with `cert.pem` and `key.pem`.
    pub(crate) async fn with(store_id: &str, listen: impl AsyncFnOnce(&Path) -> SocketAddr) -> Self {
        let names = Names { store_id: store_id.to_owned(), more: Vec::new() };
        let made = names.certify(SystemClock::new().now()).unwrap();
        let directory = TempDir::new().unwrap();
        std::fs::write(directory.path().join("ca.pem"), &made.authority).unwrap();
        std::fs::write(directory.path().join("cert.pem"), &made.certificate).unwrap();
        std::fs::write(directory.path().join("key.pem"), &*made.key).unwrap();
        let tls = listen(directory.path()).await;
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let proxy = listener.local_addr().unwrap();
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                tokio::spawn(tunnel(client, tls));
            }
        });
        Self { directory, proxy }
    }

    /// The certificate of the CA.
    pub(crate) fn ca(&self) -> PathBuf {
        self.directory.path().join("ca.pem")
    }

    /// The proxy, for `HTTPS_PROXY`.
    pub(crate) fn proxy(&self) -> String {
        format!("http://{}", self.proxy)
    }
}

/// Answers `CONNECT` for a content host, then passes bytes on.
async fn tunnel(mut client: TcpStream, to: SocketAddr) {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(client.read_u8().await.unwrap());
    }
    let head = String::from_utf8(head).unwrap();
    let asked = head.strip_prefix("CONNECT ").and_then(|rest| rest.split(' ').next()).unwrap_or_default();
    if !asked.ends_with(".blob.vercel-storage.com:443") {
        client.write_all(b"HTTP/1.1 403 Forbidden\r\n\r\n").await.unwrap();
        return;
    }
    let mut server = TcpStream::connect(to).await.unwrap();
    client.write_all(b"HTTP/1.1 200 OK\r\n\r\n").await.unwrap();
    // Whoever goes first ends it.
    tokio::io::copy_bidirectional(&mut client, &mut server).await.ok();
}
