//! What a store says of a blob's media where the writer did not: type, disposition and caching.

use std::time::Duration;

use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};

use super::types::Pathname;

/// How long caches keep a blob by default: 30 days (Vercel Blob documentation, 2026).
pub const MAX_AGE_DEFAULT: Duration = Duration::from_secs(2_592_000);

/// The media type that the extension of a name tells, else `application/octet-stream`.
#[must_use]
pub fn content_type_of(pathname: &Pathname) -> String {
    let name = if pathname.as_str().ends_with('/') { "" } else { file_name(pathname) };
    mime_guess::from_path(name).first_or_octet_stream().to_string()
}

/// `inline` for what browsers show safely, `attachment` for the rest, with the last segment as file name.
#[must_use]
pub fn content_disposition(pathname: &Pathname, content_type: &str) -> String {
    let kind = if shown_inline(content_type) { "inline" } else { "attachment" };
    with_file_name(kind, file_name(pathname))
}

/// The disposition that a download asks for.
#[must_use]
pub fn attachment(pathname: &Pathname) -> String {
    with_file_name("attachment", file_name(pathname))
}

/// The caching rule in the form in which `head` tells it.
#[must_use]
pub fn cache_control(max_age: Option<Duration>) -> String {
    format!("public, max-age={}", max_age.unwrap_or(MAX_AGE_DEFAULT).as_secs())
}

fn file_name(pathname: &Pathname) -> &str {
    let name = pathname.as_str();
    name.trim_end_matches('/').rsplit('/').next().unwrap_or(name)
}

fn shown_inline(content_type: &str) -> bool {
    let essence = content_type.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    matches!(essence.as_str(), "text/plain" | "text/xml" | "application/json" | "application/pdf")
        || ["image/", "audio/", "video/"].iter().any(|family| essence.starts_with(family))
}

fn with_file_name(kind: &str, name: &str) -> String {
    let quoted: String = name
        .chars()
        .map(|c| if c.is_ascii_graphic() || c == ' ' { c } else { '_' })
        .collect::<String>()
        .replace('\\', "\\\\")
        .replace('"', "\\\"");
    let mut text = format!("{kind}; filename=\"{quoted}\"");
    if !name.is_ascii() {
        text.push_str("; filename*=UTF-8''");
        text.extend(utf8_percent_encode(name, NON_ALPHANUMERIC));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn types_come_from_the_extension() {
        for (name, expected) in [
            ("a/b.txt", "text/plain"),
            ("a.json", "application/json"),
            ("photo.JPG", "image/jpeg"),
            ("no-extension", "application/octet-stream"),
            ("folder.json/", "application/octet-stream"),
            ("odd.zzz", "application/octet-stream"),
        ] {
            assert_eq!(content_type_of(&Pathname::new(name)), expected, "{name}");
        }
    }

    #[test]
    fn only_what_browsers_show_safely_is_inline() {
        let name = Pathname::new("dir/a \"b\".html");
        assert_eq!(content_disposition(&name, "text/html"), r#"attachment; filename="a \"b\".html""#);
        let name = Pathname::new("dir/naïve.txt");
        assert_eq!(
            content_disposition(&name, "text/plain; charset=utf-8"),
            "inline; filename=\"na_ve.txt\"; filename*=UTF-8''na%C3%AFve%2Etxt"
        );
    }
}
