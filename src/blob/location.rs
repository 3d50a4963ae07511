//! Where content lies: the canonical hosts of the service, and the names in their URLs.

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, percent_decode_str, utf8_percent_encode};
use url::Url;

use super::store::Access;
use super::types::Pathname;

const DOMAIN: &str = "blob.vercel-storage.com";

/// What `encodeURIComponent` leaves alone, and the slash between segments.
const SEGMENTS: &AsciiSet = &NON_ALPHANUMERIC
    .remove(b'-')
    .remove(b'_')
    .remove(b'.')
    .remove(b'!')
    .remove(b'~')
    .remove(b'*')
    .remove(b'\'')
    .remove(b'(')
    .remove(b')')
    .remove(b'/');

/// The pathname as the path of a URL, without a leading slash.
#[must_use]
pub fn encode(pathname: &Pathname) -> String {
    utf8_percent_encode(pathname.as_str(), SEGMENTS).to_string()
}

/// The pathname of a URL's path (without its leading slash); none where it is not UTF-8.
#[must_use]
pub fn decode(path: &str) -> Option<Pathname> {
    Some(Pathname::new(percent_decode_str(path).decode_utf8().ok()?))
}

/// The host that serves the content of a store.
#[must_use]
pub fn canonical_host(store_id: &str, access: Access) -> String {
    format!("{}.{}.{DOMAIN}", store_id.to_ascii_lowercase(), access.as_str())
}

/// The URL of a blob on its canonical host.
#[must_use]
pub fn canonical_url(store_id: &str, access: Access, pathname: &Pathname) -> String {
    format!("https://{}/{}", canonical_host(store_id, access), encode(pathname))
}

/// The URL that makes a browser save the blob: the same with `?download=1`.
#[must_use]
pub fn download_url(url: &str) -> String {
    format!("{url}?download=1")
}

/// The store id and access of a canonical content host, such as `abc.public.blob.vercel-storage.com`.
#[must_use]
pub fn parse_host(host: &str) -> Option<(&str, Access)> {
    let (id, access) = host.strip_suffix(DOMAIN)?.strip_suffix('.')?.split_once('.')?;
    let access = match access {
        "public" => Access::Public,
        "private" => Access::Private,
        _ => return None,
    };
    (!id.is_empty()).then_some((id, access))
}

/// The pathname that a canonical URL of this store names; none for any other URL.
#[must_use]
pub fn parse_url(url: &Url, store_id: &str, access: Access) -> Option<Pathname> {
    let canonical = url.scheme() == "https"
        && url.port().is_none()
        && url.host_str() == Some(&canonical_host(store_id, access));
    if canonical { decode(url.path().strip_prefix('/')?) } else { None }
}

/// The store id in a read-write token `vercel_blob_rw_{storeId}_{secret}`; none in any other text.
#[must_use]
pub fn store_id_of_token(token: &str) -> Option<&str> {
    let (id, secret) = token.strip_prefix("vercel_blob_rw_")?.split_once('_')?;
    (!id.is_empty() && !secret.is_empty()).then_some(id)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_survives_the_way_through_its_url() {
        for name in ["a.txt", "a b/ü#?%20+&.json", "folder/", "日本/🦀.txt", "it's (1)*!~.png", "/a.txt"]
        {
            let pathname = Pathname::new(name);
            let url = Url::parse(&canonical_url("AbC", Access::Private, &pathname)).unwrap();
            assert_eq!(url.host_str(), Some("abc.private.blob.vercel-storage.com"));
            assert_eq!(parse_url(&url, "AbC", Access::Private), Some(pathname));
        }
    }

    #[test]
    fn urls_of_other_hosts_name_nothing_here() {
        for url in [
            "https://other.public.blob.vercel-storage.com/a",
            "https://abc.private.blob.vercel-storage.com/a",
            "http://abc.public.blob.vercel-storage.com/a",
            "https://abc.public.blob.vercel-storage.com:444/a",
            "https://abc.public.blob.vercel-storage.com.evil.example/a",
        ] {
            assert_eq!(parse_url(&Url::parse(url).unwrap(), "abc", Access::Public), None, "{url}");
        }
    }

    #[test]
    fn only_a_read_write_token_names_its_store() {
        assert_eq!(store_id_of_token("vercel_blob_rw_abc_s3cr_et"), Some("abc"));
        for token in ["vercel_blob_rw__secret", "vercel_blob_rw_abc", "vercel_blob_client_abc_x", "secret"] {
            assert_eq!(store_id_of_token(token), None, "{token}");
        }
    }
}
