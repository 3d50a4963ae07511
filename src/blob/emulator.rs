//! The Blob side of `migrate emulate`: a store in memory, its misfortunes, and the server before them.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;

use secrecy::{ExposeSecret as _, SecretString};

use super::faults::{Faults, FaultyBlob};
use super::memory::{MemoryBlob, MemoryConfig};
use super::server::{Server, ServerConfig};
use crate::clock::Clock;
use crate::error::Result;

/// What to emulate.
#[derive(Debug, Clone)]
pub struct EmulatorConfig {
    /// Where to listen; port 0 takes a free one.
    pub listen: SocketAddr,
    /// How the store is served; its id and access are the store's. The emulator sets its own faults.
    pub server: ServerConfig,
    /// The directory that keeps the store; without one it is gone with the process.
    pub data: Option<PathBuf>,
}

/// A running emulator of a Blob store.
#[derive(Debug)]
pub struct Emulator {
    store: MemoryBlob,
    faults: Faults,
    server: Server,
    token: SecretString,
}

impl Emulator {
    /// Loads the store and serves it; all misfortunes are off at first.
    ///
    /// # Errors
    /// As [`MemoryBlob::open`] and [`Server::bind`].
    pub async fn start(config: EmulatorConfig, clock: Arc<dyn Clock>) -> Result<Self> {
        let EmulatorConfig { listen, mut server, data } = config;
        let kind = MemoryConfig {
            store_id: server.store_id.clone(),
            access: server.access,
            ..MemoryConfig::default()
        };
        let store = match &data {
            Some(directory) => MemoryBlob::open(kind, clock.clone(), directory)?,
            None => MemoryBlob::new(kind, clock.clone()),
        };
        let faults = Faults::new(clock.clone());
        server.faults = Some(faults.clone());
        let token = server.token.clone();
        let served = Arc::new(FaultyBlob::new(Arc::new(store.clone()), faults.clone()));
        let server = Server::bind(listen, served, server, clock).await?;
        Ok(Self { store, faults, server, token })
    }

    /// The store behind the misfortunes, for seeding and looking.
    #[must_use]
    pub const fn store(&self) -> &MemoryBlob {
        &self.store
    }

    /// The misfortunes.
    #[must_use]
    pub const fn faults(&self) -> &Faults {
        &self.faults
    }

    /// The server.
    #[must_use]
    pub const fn server(&self) -> &Server {
        &self.server
    }

    /// The environment variables that clients need, with the token in the clear.
    #[must_use]
    pub fn environment(&self) -> [(&'static str, String); 2] {
        [
            ("VERCEL_BLOB_API_URL", self.server.base_url()),
            ("BLOB_READ_WRITE_TOKEN", self.token.expose_secret().to_owned()),
        ]
    }

    /// Answers what is in flight, then stops.
    pub async fn shutdown(self) {
        self.server.shutdown().await;
    }
}
