//! Where requests go, and where the token may go with them.

use std::sync::{Mutex, PoisonError};

use url::{Host, Url};

use crate::blob::location::{decode, encode, parse_host};
use crate::blob::types::Pathname;
use crate::endpoint::Endpoint;
use crate::error::{Error, ErrorKind, Result};

/// The API's base and the place of the content.
///
/// The token may go to the origin of the base, to the origin that is configured for content, and to the
/// service's canonical content hosts over HTTPS; to nothing else, whatever a reply says.
#[derive(Debug)]
pub(super) struct Origins {
    base: Url,
    content: Option<Url>,
    /// What precedes the pathname in the store's own `url`s, learned from its replies.
    learned: Mutex<Option<Url>>,
}

impl Origins {
    pub(super) fn new(base: &Endpoint, content: Option<&Endpoint>) -> Result<Self> {
        let base = http_url(base, "base")?;
        let content = content.map(|content| http_url(content, "content origin")).transpose()?;
        Ok(Self { base, content, learned: Mutex::new(None) })
    }

    pub(super) fn base(&self) -> &Url {
        &self.base
    }

    /// Whether the base is on this machine, where no proxy of the environment belongs in between.
    pub(super) fn is_loopback(&self) -> bool {
        match self.base.host() {
            Some(Host::Ipv4(address)) => address.is_loopback(),
            Some(Host::Ipv6(address)) => address.is_loopback(),
            Some(Host::Domain(name)) => name == "localhost",
            None => false,
        }
    }

    /// A URL of the API: the base, a route such as `/delete`, and a form-encoded query.
    pub(super) fn api(&self, route: &str, query: &[(&str, &str)]) -> Url {
        let mut url = self.base.clone();
        if !route.is_empty() {
            url.set_path(&format!("{}{route}", self.base.path().trim_end_matches('/')));
        }
        if !query.is_empty() {
            url.query_pairs_mut().extend_pairs(query);
        }
        url
    }

    /// Where the content of this name is read; none while the store has not said where its content is.
    ///
    /// # Errors
    /// `Usage` for a name that no URL can carry, such as one with a segment `..`.
    pub(super) fn content(&self, pathname: &Pathname) -> Result<Option<Url>> {
        let learned = self.learned.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let Some(mut url) = self.content.clone().or(learned) else { return Ok(None) };
        let path = format!("{}/{}", url.path().trim_end_matches('/'), encode(pathname));
        url.set_path(&path);
        if url.path() == path {
            Ok(Some(url))
        } else {
            Err(Error::new(ErrorKind::Usage, "read a blob")
                .key(pathname)
                .message("no URL can carry this name, so its content can't be read"))
        }
    }

    /// Takes the place of the content from a blob's `url`.
    pub(super) fn learn(&self, pathname: &Pathname, url: &str) {
        let prefix = Url::parse(url).ok().and_then(|url| {
            let segments = pathname.as_str().matches('/').count();
            let (at, _) = url.path().rmatch_indices('/').nth(segments)?;
            let (prefix, name) = url.path().split_at_checked(at)?;
            let names_it = decode(name.strip_prefix('/')?)? == *pathname;
            names_it.then(|| {
                let mut prefix_url = url.clone();
                prefix_url.set_path(prefix);
                prefix_url.set_query(None);
                prefix_url.set_fragment(None);
                prefix_url
            })
        });
        if let Some(prefix) = prefix.filter(|url| matches!(url.scheme(), "http" | "https")) {
            *self.learned.lock().unwrap_or_else(PoisonError::into_inner) = Some(prefix);
        }
    }

    /// Whether the token may be sent to this URL.
    pub(super) fn may_have_token(&self, url: &Url) -> bool {
        let canonical = url.scheme() == "https"
            && url.port().is_none()
            && url.host_str().is_some_and(|host| parse_host(host).is_some());
        canonical
            || url.origin() == self.base.origin()
            || self.content.as_ref().is_some_and(|content| url.origin() == content.origin())
    }
}

fn http_url(text: &Endpoint, what: &str) -> Result<Url> {
    let refused = |message: &str| {
        Error::new(ErrorKind::Usage, "set up the blob client")
            .key(text)
            .message(format!("the {what} {message}"))
    };
    let url = Url::parse(text.expose()).map_err(|error| refused("is not a URL").source(error))?;
    if !matches!(url.scheme(), "http" | "https") || url.host_str().is_none_or(str::is_empty) {
        return Err(refused("is not an HTTP URL"));
    }
    if url.query().is_some()
        || url.fragment().is_some()
        || !url.username().is_empty()
        || url.password().is_some()
    {
        return Err(refused("must have no credentials, query or fragment"));
    }
    Ok(url)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn origins() -> Origins {
        Origins::new(&"http://127.0.0.1:3000/api/blob/".into(), Some(&"http://127.0.0.1:4000".into()))
            .unwrap()
    }

    #[test]
    fn the_token_goes_to_the_store_alone() {
        for allowed in [
            "http://127.0.0.1:3000/anything",
            "http://127.0.0.1:4000/a.json",
            "https://abc.public.blob.vercel-storage.com/a.json",
            "https://abc.private.blob.vercel-storage.com/a.json",
        ] {
            assert!(origins().may_have_token(&Url::parse(allowed).unwrap()), "{allowed}");
        }
        for refused in [
            "http://127.0.0.1:5000/",
            "https://127.0.0.1:3000/",
            "http://abc.public.blob.vercel-storage.com/a.json",
            "https://abc.public.blob.vercel-storage.com:8443/a.json",
            "https://public.blob.vercel-storage.com/a.json",
            "https://abc.public.blob.vercel-storage.com.evil.example/",
            "https://evilblob.vercel-storage.com/",
            "https://vercel-storage.com/",
        ] {
            assert!(!origins().may_have_token(&Url::parse(refused).unwrap()), "{refused}");
        }
    }

    #[test]
    fn routes_are_joined_to_the_base_with_one_slash() {
        let origins = origins();
        assert_eq!(origins.api("/delete", &[]).path(), "/api/blob/delete");
        let list = origins.api("", &[("prefix", "a b/ü&")]);
        assert_eq!(list.query(), Some("prefix=a+b%2F%C3%BC%26"));
    }

    #[test]
    fn content_is_where_the_store_says_it_is() {
        let origins = Origins::new(&"https://vercel.com/api/blob".into(), None).unwrap();
        let name = Pathname::new("a b/ü#?%.json");
        assert_eq!(origins.content(&name).unwrap(), None);
        origins.learn(
            &Pathname::new("x/it's.json"),
            "https://abc.public.blob.vercel-storage.com/x/it%27s.json?download=1",
        );
        assert_eq!(
            origins.content(&name).unwrap().unwrap().as_str(),
            "https://abc.public.blob.vercel-storage.com/a%20b/%C3%BC%23%3F%25.json"
        );
    }

    #[test]
    fn a_url_that_names_another_blob_teaches_nothing() {
        let origins = Origins::new(&"https://vercel.com/api/blob".into(), None).unwrap();
        for url in ["https://evil.example/b.json", "nonsense", "ftp://evil.example/a.json"] {
            origins.learn(&Pathname::new("a.json"), url);
        }
        assert_eq!(origins.content(&Pathname::new("a.json")).unwrap(), None);
    }

    #[test]
    fn a_name_that_a_url_would_change_is_refused() {
        for name in ["a/../b", "./a", ".."] {
            assert_eq!(
                origins().content(&Pathname::new(name)).unwrap_err().kind(),
                ErrorKind::Usage,
                "{name}"
            );
        }
        assert!(origins().content(&Pathname::new("/Users//a.json")).unwrap().is_some());
    }

    #[test]
    fn a_base_with_a_password_is_refused_without_showing_it() {
        let error = Origins::new(&"http://user:hunter2@localhost/".into(), None).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Usage);
        assert!(!format!("{error:?}").contains("hunter2"));
    }
}
