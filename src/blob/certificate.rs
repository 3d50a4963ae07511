//! A private CA for the content hosts of one store, so that clients take a server of ours for them.
//!
//! The CA can do nothing else: its name constraints let it speak for the store's two hosts, for this machine
//! and for names that were asked for, and for no other. It makes texts; who keeps them where is the caller's.

use std::net::IpAddr;

use jiff::tz::TimeZone;
use jiff::{SignedDuration, Timestamp};
use rcgen::{
    BasicConstraints, CertificateParams, CidrSubnet, DistinguishedName, DnType, ExtendedKeyUsagePurpose,
    GeneralSubtree, IsCa, Issuer, KeyPair, KeyUsagePurpose, NameConstraints,
};

use url::Host;

use super::location;
use super::store::Access;
use crate::error::{Error, ErrorKind, Result};

/// How long CA and certificate are good for; the CA's key is gone, so it outlives no certificate. Some clients
/// take nothing longer (CA/Browser Forum, 398 days until 2026).
pub const DAYS: i64 = 397;
/// Clients' clocks may be slow.
const BACKDATED_DAYS: i64 = 1;

/// What the certificate is for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Names {
    /// The store, whose public and private content hosts it names.
    pub store_id: String,
    /// Further host names and addresses under which clients reach the server.
    pub more: Vec<String>,
}

/// What was made, as PEM.
#[derive(Clone)]
pub struct Certified {
    /// The CA that clients are told to trust.
    pub authority: String,
    /// The certificate that it signed.
    pub certificate: String,
    /// The private key of the certificate (PKCS#8).
    pub key: String,
}

impl std::fmt::Debug for Certified {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Certified").field("certificate", &self.certificate).finish_non_exhaustive()
    }
}

impl Names {
    /// The host names, the store's first.
    #[must_use]
    pub fn hosts(&self) -> Vec<String> {
        let of_store =
            [Access::Public, Access::Private].map(|access| location::canonical_host(&self.store_id, access));
        let here = ["localhost", "127.0.0.1", "::1"].map(ToOwned::to_owned);
        of_store.into_iter().chain(here).chain(self.more.iter().cloned()).collect()
    }

    /// Makes a CA and a certificate for these names. The CA's own key is dropped: nobody signs with it again.
    ///
    /// # Errors
    /// `Usage` where a name can't be in a certificate.
    pub fn certify(&self, now: Timestamp) -> Result<Certified> {
        let failed = |name: &str| {
            Error::new(ErrorKind::Usage, "make a certificate")
                .key(name)
                .message("not a host name or an address")
                .hint("names look like `blobs.internal` or `10.0.0.7`")
        };
        let hosts = self.hosts();
        let is_host = |name: &str| name.parse::<IpAddr>().is_ok() || Host::parse(name).is_ok();
        if let Some(wrong) = hosts.iter().find(|name| !is_host(name)) {
            return Err(failed(wrong));
        }
        let make = || -> Result<Certified, rcgen::Error> {
            let (ca_key, key) = (KeyPair::generate()?, KeyPair::generate()?);
            let ca = self.ca(now);
            let authority = ca.self_signed(&ca_key)?.pem();
            let certificate = self.leaf(now)?.signed_by(&key, &Issuer::new(ca, ca_key))?.pem();
            Ok(Certified { authority, certificate, key: key.serialize_pem() })
        };
        make().map_err(|error| failed(&hosts.join(", ")).source(error))
    }

    fn ca(&self, now: Timestamp) -> CertificateParams {
        let permitted_subtrees = self.hosts().into_iter().map(|host| match host.parse::<IpAddr>() {
            Ok(address) => GeneralSubtree::IpAddress(CidrSubnet::from_addr_prefix(
                address,
                if address.is_ipv4() { 32 } else { 128 },
            )),
            Err(_) => GeneralSubtree::DnsName(host),
        });
        let permitted_subtrees = permitted_subtrees.collect();
        let mut params = CertificateParams::default();
        valid_for(&mut params, now);
        params.distinguished_name.push(DnType::CommonName, format!("migrate, for {}", self.store_id));
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        params.name_constraints = Some(NameConstraints { permitted_subtrees, excluded_subtrees: Vec::new() });
        params
    }

    fn leaf(&self, now: Timestamp) -> Result<CertificateParams, rcgen::Error> {
        let hosts = self.hosts();
        let mut params = CertificateParams::new(hosts.clone())?;
        valid_for(&mut params, now);
        params.distinguished_name.push(DnType::CommonName, format!("migrate gateway of {}", self.store_id));
        params.use_authority_key_identifier_extension = true;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        Ok(params)
    }
}

fn valid_for(params: &mut CertificateParams, now: Timestamp) {
    let date = |days: i64| {
        let at = now.saturating_add(SignedDuration::from_hours(24 * days)).unwrap_or(Timestamp::MAX);
        let date = at.to_zoned(TimeZone::UTC).date();
        rcgen::date_time_ymd(date.year().into(), date.month().unsigned_abs(), date.day().unsigned_abs())
    };
    params.not_before = date(-BACKDATED_DAYS);
    params.not_after = date(DAYS);
    // Without it, `CertificateParams` would say that rcgen made it.
    params.distinguished_name = DistinguishedName::new();
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::time::Duration;

    use tokio_rustls::rustls::client::WebPkiServerVerifier;
    use tokio_rustls::rustls::crypto::aws_lc_rs;
    use tokio_rustls::rustls::pki_types::pem::PemObject as _;
    use tokio_rustls::rustls::pki_types::{CertificateDer, UnixTime};
    use tokio_rustls::rustls::{RootCertStore, client::danger::ServerCertVerifier as _};

    use super::*;

    fn names(store_id: &str) -> Names {
        Names { store_id: store_id.to_owned(), more: Vec::new() }
    }

    /// Whether who trusts only this CA takes this certificate for the host, so many days from the start.
    fn taken(authority: &str, certificate: &str, host: &str, day: i64) -> bool {
        let der = |pem: &str| CertificateDer::from_pem_slice(pem.as_bytes()).unwrap();
        let mut roots = RootCertStore::empty();
        roots.add(der(authority)).unwrap();
        let provider = Arc::new(aws_lc_rs::default_provider());
        let verifier =
            WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider).build().unwrap();
        let now = UnixTime::since_unix_epoch(Duration::from_secs(u64::try_from(86_400 * day).unwrap()));
        verifier.verify_server_cert(&der(certificate), &[], &host.try_into().unwrap(), &[], now).is_ok()
    }

    #[test]
    fn a_certificate_is_good_for_its_hosts_and_its_days() {
        let made = names("AbC").certify("1970-01-10T12:00:00Z".parse().unwrap()).unwrap();
        let (ca, certificate) = (made.authority.as_str(), made.certificate.as_str());
        for host in names("abc").hosts() {
            assert!(taken(ca, certificate, &host, 10), "{host}");
        }
        for host in ["other.public.blob.vercel-storage.com", "vercel.com", "127.0.0.2"] {
            assert!(!taken(ca, certificate, host, 10), "{host}");
        }
        let host = "abc.public.blob.vercel-storage.com";
        assert!(taken(ca, certificate, host, DAYS) && !taken(ca, certificate, host, DAYS + 10));
    }

    #[test]
    fn the_authority_can_speak_for_no_other_host() {
        let now = "1970-01-10T12:00:00Z".parse().unwrap();
        let (ca, key) = (names("abc").ca(now), KeyPair::generate().unwrap());
        let authority = ca.self_signed(&key).unwrap().pem();
        let issuer = Issuer::new(ca, key);
        let sign = |names: &Names| {
            names.leaf(now).unwrap().signed_by(&KeyPair::generate().unwrap(), &issuer).unwrap().pem()
        };
        let own = "abc.public.blob.vercel-storage.com";
        assert!(taken(&authority, &sign(&names("abc")), own, 10));
        let foreign = Names { store_id: "abc".to_owned(), more: vec!["vercel.com".to_owned()] };
        assert!(!taken(&authority, &sign(&foreign), "vercel.com", 10));
    }
}
