//! Random suffixes of pathnames, as the service makes them.

use rand::distr::{Alphanumeric, SampleString as _};

use super::types::Pathname;

/// How many random characters there are.
pub const SUFFIX_CHARS: usize = 30;

/// New random characters.
#[must_use]
pub fn random() -> String {
    Alphanumeric.sample_string(&mut rand::rng(), SUFFIX_CHARS)
}

/// The name that a write stores under: with a random suffix, where that is asked for.
#[must_use]
pub fn named(pathname: &Pathname, add: bool) -> Pathname {
    if add { with(pathname, &random()) } else { pathname.clone() }
}

/// The name with `-` and the suffix before its extension.
#[must_use]
pub fn with(pathname: &Pathname, suffix: &str) -> Pathname {
    let name = pathname.as_str();
    let base = name.rfind('/').map_or(0, |slash| slash + 1);
    // A dot at the start of the last segment hides a file, it begins no extension.
    let dot = name[base..].rfind('.').filter(|dot| *dot > 0).map_or(name.len(), |dot| base + dot);
    Pathname::new(format!("{}-{suffix}{}", &name[..dot], &name[dot..]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_suffix_stands_before_the_extension() {
        for (name, start, end) in
            [("d.x/a.tar.gz", "d.x/a.tar-", ".gz"), ("d/.env", "d/.env-", ""), ("plain", "plain-", "")]
        {
            let suffixed = with(&name.into(), &random());
            let random = suffixed.as_str().strip_prefix(start).unwrap().strip_suffix(end).unwrap();
            assert!(random.len() == SUFFIX_CHARS && random.chars().all(|c| c.is_ascii_alphanumeric()));
        }
    }
}
