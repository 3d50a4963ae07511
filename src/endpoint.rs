//! URLs of services as settings name them. Whatever user name and password they have is never shown.

use std::borrow::Cow;
use std::convert::Infallible;
use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize, Serializer};

/// The URL of a service, or what was meant to be one. Shown, and serialized, without user name and password.
#[derive(Clone, PartialEq, Eq, Deserialize)]
#[serde(transparent)]
pub struct Endpoint(String);

impl Endpoint {
    /// All of it, for whoever connects. Never to be shown.
    #[must_use]
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl From<String> for Endpoint {
    fn from(text: String) -> Self {
        Self(text)
    }
}

impl From<&str> for Endpoint {
    fn from(text: &str) -> Self {
        Self(text.to_owned())
    }
}

impl FromStr for Endpoint {
    type Err = Infallible;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Ok(text.into())
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&cut(&self.0))
    }
}

impl fmt::Debug for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&*cut(&self.0), f)
    }
}

impl Serialize for Endpoint {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&cut(&self.0))
    }
}

/// A text of any kind; where a URL is in it, without what may be the URL's user name and password.
#[must_use]
pub fn without_userinfo(text: &str) -> Cow<'_, str> {
    if text.contains("://") { cut(text) } else { text.into() }
}

/// Nothing before the last `@` is trusted to be a host: a password may have characters that end an authority, and then
/// the text is no URL at all.
fn cut(text: &str) -> Cow<'_, str> {
    let Some(at) = text.rfind('@') else { return text.into() };
    let scheme = text[..at].find("://").map_or("", |colon| &text[..colon + 3]);
    format!("{scheme}{}", &text[at + 1..]).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn user_name_and_password_are_never_shown() {
        for (text, shown) in [
            ("http://127.0.0.1:8000", "http://127.0.0.1:8000"),
            ("https://vercel.com/api/blob", "https://vercel.com/api/blob"),
            ("http://user:hunter2@host:1/a", "http://host:1/a"),
            ("http://hunter2@host", "http://host"),
            ("http://user:hunter2/#?@@host", "http://host"),
            ("http://user:hunt er2@host", "http://host"),
            ("user:hunter2@host", "host"),
            ("http://user:hunter2@", "http://"),
        ] {
            let endpoint = Endpoint::from(text);
            assert_eq!(endpoint.to_string(), shown, "{text}");
            assert_eq!(endpoint.expose(), text);
            let json = serde_json::to_string(&endpoint).expect("it is text");
            assert!(!format!("{endpoint:?} {json}").contains("hunter2"), "{text}");
        }
        assert_eq!(without_userinfo("source.url=http://user:hunter2@host"), "source.url=http://host");
        assert_eq!(without_userinfo("ask ada@team.example"), "ask ada@team.example");
    }
}
