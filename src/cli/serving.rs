//! What commands that serve a Blob store have in common: TLS, and who is let in besides the owner.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use secrecy::SecretString;

use super::context::Context;
use crate::blob::server::{KeySet, Oidc, TlsIdentity};
use crate::error::{Error, ErrorKind, Result};

/// The same Blob store over TLS.
#[derive(Debug, clap::Args)]
#[command(next_help_heading = "TLS")]
pub(crate) struct TlsFlags {
    /// Where the Blob store listens for TLS as well
    #[arg(long, value_name = "ADDR", requires_all = ["tls_cert", "tls_key"])]
    tls_listen: Option<SocketAddr>,

    /// The certificate to show, PEM, followed by those that lead to its CA
    #[arg(long, value_name = "FILE", requires = "tls_listen")]
    tls_cert: Option<PathBuf>,

    /// The key of the certificate, PEM
    #[arg(long, value_name = "FILE", requires = "tls_listen")]
    tls_key: Option<PathBuf>,
}

/// Who is let in besides the bearer of the read-write token, and where the server may go for clients.
#[derive(Debug, clap::Args)]
#[command(next_help_heading = "OIDC and callbacks")]
pub(crate) struct DelegationFlags {
    /// Take this OIDC token as the owner's; the official client wants one in the form of a JWT
    #[arg(long, value_name = "TOKEN")]
    oidc_token: Option<SecretString>,

    /// Take OIDC tokens that a key of this set has signed: a JSON Web Key Set, as the issuer publishes it
    #[arg(long, value_name = "FILE")]
    oidc_keys: Option<PathBuf>,

    /// The issuer that those tokens must name
    #[arg(long, value_name = "URL", requires = "oidc_keys")]
    oidc_issuer: Option<String>,

    /// The audience that those tokens must name
    #[arg(long, value_name = "NAME", requires = "oidc_keys")]
    oidc_audience: Option<String>,

    /// Send callbacks of uploads to this origin, and take images from it; may be repeated
    ///
    /// An upload whose callback goes to another origin is refused. An application on this machine needs it too:
    /// `--allow-origin http://localhost:3000`. A name must lead to public addresses, or to addresses that are allowed
    /// as origins themselves: `--allow-origin https://app.internal --allow-origin https://10.0.0.5`.
    #[arg(long = "allow-origin", value_name = "ORIGIN")]
    pub(crate) allowed_origins: Vec<String>,
}

impl TlsFlags {
    /// The certificate and where it is to be shown, if anywhere.
    ///
    /// # Errors
    /// `Usage` for files that are missing or no certificate.
    pub(crate) fn load(&self) -> Result<Option<(SocketAddr, TlsIdentity)>> {
        let (Some(listen), Some(certificate), Some(key)) = (self.tls_listen, &self.tls_cert, &self.tls_key)
        else {
            return Ok(None);
        };
        let hint = "`migrate gateway-cert` makes one";
        let read = |path| read(path, "load a TLS certificate", hint);
        let identity = TlsIdentity::from_pem(&read(certificate)?, &read(key)?)
            .map_err(|error| error.key(format_args!("{}, {}", certificate.display(), key.display())))?;
        Ok(Some((listen, identity)))
    }
}

impl DelegationFlags {
    /// The OIDC tokens to take, if any.
    ///
    /// # Errors
    /// `Usage` for a file that is missing or no key set.
    pub(crate) fn oidc(&self) -> Result<Option<Oidc>> {
        let keys = match &self.oidc_keys {
            None => None,
            Some(path) => {
                let hint = "save what the issuer has at /.well-known/jwks";
                let json = read(path, "load the keys of an OIDC issuer", hint)?;
                Some(KeySet::from_json(&json).map_err(|error| error.key(path.display()))?)
            }
        };
        let token = self.oidc_token.clone();
        let (issuer, audience) = (self.oidc_issuer.clone(), self.oidc_audience.clone());
        let any = token.is_some() || keys.is_some();
        Ok(any.then_some(Oidc { token, keys, issuer, audience }))
    }
}

/// Warns where tokens and blobs would cross a network in the clear.
pub(crate) fn warn_of_plain_text(listen: SocketAddr, context: &Context) {
    if !listen.ip().is_loopback() {
        context.output.warning(format_args!(
            "{listen} is reached from other machines, without TLS: token and blobs cross the network in the clear"
        ));
    }
}

/// Lets this process open as many files and connections as the system allows: the usual soft limit is below
/// what a server of `connections_max` connections needs, each of which may have another one behind it.
pub(crate) fn raise_open_files(connections_max: usize, context: &Context) {
    let needed = 2 * connections_max as u64 + 100;
    let allowed = rlimit::increase_nofile_limit(u64::MAX).unwrap_or(0);
    if allowed < needed {
        context.output.warning(format_args!(
            "this process may open {allowed} files, {needed} are needed where many connect: raise `ulimit -n`"
        ));
    }
}

fn read(path: &Path, operation: &'static str, hint: &str) -> Result<Vec<u8>> {
    std::fs::read(path).map_err(|error| {
        Error::new(ErrorKind::Usage, operation)
            .key(path.display())
            .message("the file can't be read")
            .hint(hint)
            .source(error)
    })
}
