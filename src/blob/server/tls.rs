//! What the server shows to clients that come over TLS.

use std::fmt;
use std::sync::Arc;

use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;
use tokio_rustls::rustls::crypto::aws_lc_rs;
use tokio_rustls::rustls::pki_types::pem::PemObject as _;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};

use crate::error::{Error, ErrorKind, Result};

const OPERATION: &str = "load a TLS certificate";
const HINT: &str = "both must be PEM, and belong together; `migrate gateway-cert` makes such a pair";

/// A certificate with its chain, and its private key.
#[derive(Clone)]
pub struct TlsIdentity(Arc<ServerConfig>);

impl fmt::Debug for TlsIdentity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("TlsIdentity")
    }
}

impl TlsIdentity {
    /// Takes PEM texts: the certificate, followed by those that lead to its CA; and its key (PKCS#8, SEC1 or
    /// PKCS#1).
    ///
    /// # Errors
    /// `Usage` where they are not PEM, or do not belong together.
    pub fn from_pem(certificates: &[u8], key: &[u8]) -> Result<Self> {
        let failed = |message: &str| Error::new(ErrorKind::Usage, OPERATION).message(message);
        let chain = CertificateDer::pem_slice_iter(certificates)
            .collect::<Result<Vec<_>, _>>()
            .map_err(|error| failed("the certificate is not PEM").hint(HINT).source(error))?;
        if chain.is_empty() {
            return Err(
                failed("there is no certificate in it").hint("it must be PEM: -----BEGIN CERTIFICATE-----")
            );
        }
        let key = PrivateKeyDer::from_pem_slice(key)
            .map_err(|error| failed("there is no private key in it").hint(HINT).source(error))?;
        let mut config = ServerConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
            .with_safe_default_protocol_versions()
            .map_err(|error| Error::new(ErrorKind::Internal, OPERATION).source(error))?
            .with_no_client_auth()
            .with_single_cert(chain, key)
            .map_err(|error| failed("certificate and key can't be used together").hint(HINT).source(error))?;
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        Ok(Self(Arc::new(config)))
    }

    pub(super) fn acceptor(&self) -> TlsAcceptor {
        self.0.clone().into()
    }
}
