//! What a request may ask: stricter than the service is known to be, so that what passes here passes there.

use super::store::{Access, PutOptions};
use super::types::Pathname;
use super::wire::access_message;
use crate::error::{Error, ErrorKind, Result};

/// The longest pathname, in UTF-16 code units (Vercel Blob SDK 2.8.0).
const PATHNAME_UNITS_MAX: usize = 950;
/// The shortest time that caches may be told to keep a blob (Vercel Blob documentation, 2026).
const MAX_AGE_SECONDS_MIN: u64 = 60;

/// Checks a write to a store with this access, before anything of its body is read.
///
/// # Errors
/// `Usage` for what would be refused.
pub fn check_write(
    operation: &'static str,
    pathname: &Pathname,
    options: &PutOptions,
    store: Access,
) -> Result<()> {
    let refuse =
        |message: String| Err(Error::new(ErrorKind::Usage, operation).key(pathname).message(message));
    if let Some(fault) = fault_of(pathname.as_str()) {
        return refuse(format!("the pathname {fault}"));
    }
    if let Some(access) = options.access
        && access != store
    {
        return refuse(access_message(access, store));
    }
    if let Some(age) = options.cache_control_max_age
        && age.as_secs() < MAX_AGE_SECONDS_MIN
    {
        return refuse(format!("the cache-control max-age must be at least {MAX_AGE_SECONDS_MIN} seconds"));
    }
    if let Some(content_type) = &options.content_type
        && (content_type.is_empty() || http::HeaderValue::from_str(content_type).is_err())
    {
        return refuse("the content type is not a valid header value".to_owned());
    }
    if options.add_random_suffix && pathname.as_str().ends_with('/') {
        return refuse("a folder can't have a random suffix".to_owned());
    }
    Ok(())
}

fn fault_of(name: &str) -> Option<String> {
    let units = name.encode_utf16().count();
    if name.is_empty() {
        Some("is empty".to_owned())
    } else if units > PATHNAME_UNITS_MAX {
        Some(format!("is {units} characters long; the most is {PATHNAME_UNITS_MAX}"))
    } else if name.contains("//") {
        Some("contains `//`".to_owned())
    } else if name.split('/').any(|segment| matches!(segment, "." | "..")) {
        Some("has a `.` or `..` segment".to_owned())
    } else if name.chars().any(char::is_control) {
        Some("contains a control character".to_owned())
    } else {
        None
    }
}

/// Checks that a name that ends in `/`, which is a folder, gets no bytes.
///
/// # Errors
/// `Usage` where it does.
pub fn check_folder(operation: &'static str, pathname: &Pathname, length: u64) -> Result<()> {
    if pathname.as_str().ends_with('/') && length > 0 {
        return Err(Error::new(ErrorKind::Usage, operation)
            .key(pathname)
            .message("a pathname that ends in `/` is a folder and holds no bytes"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_no_client_could_read_back_are_refused() {
        let long = "🦀".repeat(476);
        for name in ["", "a//b", "//a", "a/../b", ".", "a\nb", long.as_str()] {
            assert!(fault_of(name).is_some(), "{name:?}");
        }
        let longest = "🦀".repeat(475);
        for name in ["a", "/a", "folder/", "a b#c?d%.json", "...", "..a/b", longest.as_str()] {
            assert_eq!(fault_of(name), None, "{name:?}");
        }
    }
}
