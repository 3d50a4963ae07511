//! `migrate gateway-cert`: a private CA, so that an application takes a server of ours for the content hosts.

use std::fmt;
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

use secrecy::ExposeSecret as _;
use serde::Serialize;

use super::context::Context;
use super::output::Report;
use crate::blob::certificate::{DAYS, Names};
use crate::blob::location;
use crate::error::{Error, ErrorKind, Exit, Result};
use crate::folder;

const OPERATION: &str = "write a certificate";

/// Make a certificate for the content hosts of a store, and a private CA that signs it
///
/// The official clients read content from {store}.public.blob.vercel-storage.com (or .private.), wherever
/// VERCEL_BLOB_API_URL points. To have them read from a server of this program, the application must find it
/// under that name, and trust its certificate: this command makes one.
///
/// Writes three files into `--out`: ca.pem, which the application trusts; cert.pem and key.pem, which the
/// server shows (`migrate emulate --tls-cert --tls-key`). All are for their owner alone: where the application runs as
/// another user, copy ca.pem to a place that it can read. The CA can speak for no other host than those below,
/// and its own key is kept nowhere, so nobody can sign with it again. Files that are there are not
/// overwritten. The certificate is good for 397 days; for the next one, take another directory, and let the
/// application trust both CAs while you change.
///
/// The application gets there by DNS or /etc/hosts, where the server listens on port 443; or by HTTPS_PROXY,
/// a proxy that leads CONNECT for these hosts to the server (Python; Node 24 with NODE_USE_ENV_PROXY=1).
///
/// It trusts the certificate by NODE_EXTRA_CA_CERTS=ca.pem (Node), or by SSL_CERT_FILE (Python), a file with
/// ca.pem after the CAs that the application needs else.
///
/// Reads BLOB_READ_WRITE_TOKEN for the store's id, unless `--store` gives it.
///
/// With `--output json`: {"command": "gateway-cert", "hosts", "ca", "certificate", "key", "days"}.
#[derive(Debug, clap::Args)]
#[command(after_long_help = "Examples:
  migrate gateway-cert
  migrate gateway-cert --store abc123 --out tls --name blobs.internal
  migrate emulate --tls-listen 127.0.0.1:443 --tls-cert tls/cert.pem --tls-key tls/key.pem")]
pub(crate) struct GatewayCert {
    /// The store's id [default: the one that the token names]
    #[arg(long, value_name = "ID")]
    store: Option<String>,

    /// A further host name or address under which the server is reached; may be repeated
    #[arg(long = "name", value_name = "HOST")]
    names: Vec<String>,

    /// Where the files go; it is created
    #[arg(long, value_name = "DIR", default_value = ".migrate/tls")]
    out: PathBuf,
}

pub(crate) fn run(args: &GatewayCert, context: &Context) -> anyhow::Result<Exit> {
    let names = Names { store_id: args.store_id(context)?, more: args.names.clone() };
    let files = ["ca.pem", "cert.pem", "key.pem"].map(|name| args.out.join(name));
    if let Some(there) = files.iter().find(|file| file.exists()) {
        return Err(not_overwritten(there).into());
    }
    let made = names.certify(context.clock.now())?;
    let [ca, certificate, key] = files;
    folder::make(&args.out).map_err(|error| folder::failed(failed(&args.out), &args.out, error))?;
    create(&key, &made.key)?;
    create(&certificate, &made.certificate)?;
    create(&ca, &made.authority)?;
    let hosts = names.hosts();
    context.output.report(&Written { command: "gateway-cert", hosts, ca, certificate, key, days: DAYS })?;
    Ok(Exit::Done)
}

impl GatewayCert {
    fn store_id(&self, context: &Context) -> Result<String> {
        if let Some(id) = &self.store {
            return Ok(id.strip_prefix("store_").unwrap_or(id).to_owned());
        }
        let token = context.environment.token()?.expose_secret();
        location::store_id_of_token(token).map(ToOwned::to_owned).ok_or_else(|| {
            Error::new(ErrorKind::Usage, "read the environment")
                .message("BLOB_READ_WRITE_TOKEN names no store")
                .hint("give the store's id with `--store`")
        })
    }
}

fn failed(path: &Path) -> Error {
    Error::new(ErrorKind::Usage, OPERATION).key(path.display()).message("it can't be written")
}

fn not_overwritten(path: &Path) -> Error {
    Error::new(ErrorKind::Usage, OPERATION)
        .key(path.display())
        .message("it is there already, and is not overwritten")
        .hint("name another directory with `--out`")
}

fn create(path: &Path, text: &str) -> Result<()> {
    let written = folder::create_new(path).and_then(|mut file| file.write_all(text.as_bytes()));
    written.map_err(|error| match error.kind() {
        io::ErrorKind::AlreadyExists => not_overwritten(path),
        _ => folder::failed(failed(path), path, error),
    })
}

#[derive(Serialize)]
struct Written {
    command: &'static str,
    hosts: Vec<String>,
    ca: PathBuf,
    certificate: PathBuf,
    key: PathBuf,
    days: i64,
}

impl Report for Written {
    fn human(&self, text: &mut dyn fmt::Write) -> fmt::Result {
        let (ca, certificate, key) = (self.ca.display(), self.certificate.display(), self.key.display());
        writeln!(text, "A certificate for {} days, for these hosts:", self.days)?;
        for host in &self.hosts {
            writeln!(text, "  {host}")?;
        }
        writeln!(text, "The server shows it:")?;
        writeln!(text, "  --tls-cert {certificate} --tls-key {key}")?;
        writeln!(text, "The application trusts its CA:")?;
        writeln!(text, "  Node:   NODE_EXTRA_CA_CERTS={ca}")?;
        writeln!(text, "  Python: SSL_CERT_FILE, a file with {ca} after the CAs that it needs else")?;
        writeln!(
            text,
            "The application finds the server under the first two names: by DNS, /etc/hosts or a proxy."
        )
    }
}
