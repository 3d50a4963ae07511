//! Pathname patterns: what a rule says of the names it takes.

use std::sync::Arc;

use regex::Regex;

/// A compiled pathname pattern.
///
/// `{name}` captures at least one character within one segment; `*` matches within one segment, also
/// nothing; `**` matches across segments, and `**/` also no segment at all; a backslash takes the next
/// character as it is; everything else, case and Unicode form included, is matched as it is. A capture
/// takes as much as it can: in `{hash}_{stamp}.json` the last `_` divides.
#[derive(Debug, Clone)]
pub struct Pattern {
    source: String,
    regex: Regex,
    names: Vec<Arc<str>>,
}

impl Pattern {
    /// Compiles a pattern.
    ///
    /// # Errors
    /// In words, what is wrong with it.
    pub fn new(source: &str) -> Result<Self, String> {
        let (expression, names) = translate(source)?;
        let regex = Regex::new(&expression).map_err(|_| "it is too long".to_owned())?;
        Ok(Self { source: source.to_owned(), regex, names })
    }

    /// The pattern as the plan has it.
    #[must_use]
    pub fn source(&self) -> &str {
        &self.source
    }

    /// The regular expression that it is, for sets of patterns.
    #[must_use]
    pub fn expression(&self) -> &str {
        self.regex.as_str()
    }

    /// The names it captures.
    #[must_use]
    pub fn names(&self) -> &[Arc<str>] {
        &self.names
    }

    /// Whether a pathname matches.
    #[must_use]
    pub fn matches(&self, pathname: &str) -> bool {
        self.regex.is_match(pathname)
    }

    /// What a pathname has at the names, if it matches.
    #[must_use]
    pub fn captures(&self, pathname: &str) -> Option<Vec<(Arc<str>, Arc<str>)>> {
        let captures = self.regex.captures(pathname)?;
        let texts = captures.iter().skip(1).map(|text| text.map_or("", |text| text.as_str()));
        Some(self.names.iter().cloned().zip(texts.map(Arc::from)).collect())
    }
}

fn translate(source: &str) -> Result<(String, Vec<Arc<str>>), String> {
    if source.is_empty() {
        return Err("it is empty".to_owned());
    }
    let mut expression = String::from(r"(?s)\A");
    let mut names: Vec<Arc<str>> = Vec::new();
    let mut rest = source;
    while let Some(first) = rest.chars().next() {
        if let Some(after) = rest.strip_prefix("**/") {
            expression.push_str("(?:.*/)?");
            rest = after;
        } else if let Some(after) = rest.strip_prefix("**") {
            expression.push_str(".*");
            rest = after;
        } else if let Some(after) = rest.strip_prefix('*') {
            expression.push_str("[^/]*");
            rest = after;
        } else if let Some(after) = rest.strip_prefix('{') {
            let (name, after) = after.split_once('}').ok_or("`{` without `}`")?;
            if !is_name(name) {
                return Err(format!("`{{{name}}}`: a name is letters, digits and `_`, a letter first"));
            }
            if names.iter().any(|known| &**known == name) {
                return Err(format!("`{{{name}}}` stands in it twice"));
            }
            names.push(name.into());
            expression.push_str("([^/]+)");
            rest = after;
        } else if let Some(after) = rest.strip_prefix('\\') {
            let taken = after.chars().next().ok_or("a backslash at its end")?;
            expression.push_str(&regex::escape(taken.encode_utf8(&mut [0; 4])));
            rest = &after[taken.len_utf8()..];
        } else {
            if first == '}' {
                return Err("`}` without `{`".to_owned());
            }
            expression.push_str(&regex::escape(first.encode_utf8(&mut [0; 4])));
            rest = &rest[first.len_utf8()..];
        }
    }
    expression.push_str(r"\z");
    Ok((expression, names))
}

fn is_name(text: &str) -> bool {
    text.starts_with(|first: char| first.is_ascii_alphabetic())
        && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_')
}

#[cfg(test)]
mod tests {
    use super::*;

    fn captured(pattern: &str, pathname: &str) -> Option<Vec<String>> {
        let captures = Pattern::new(pattern).expect("a pattern").captures(pathname)?;
        Some(captures.into_iter().map(|(name, text)| format!("{name}={text}")).collect())
    }

    #[test]
    fn captures_stay_within_a_segment_and_the_last_separator_divides() {
        let pattern = "signups/{hash}_{stamp}.json";
        assert_eq!(
            captured(pattern, "signups/ada_example_com_1700000000000-x1.json"),
            Some(vec!["hash=ada_example_com".to_owned(), "stamp=1700000000000-x1".to_owned()])
        );
        for pathname in [
            "signups/a/b_1.json",
            "Signups/a_1.json",
            "/signups/a_1.json",
            "signups/a_1.json ",
            "signups/_1.json",
            "signups/a_1xjson",
        ] {
            assert_eq!(captured(pattern, pathname), None, "{pathname}");
        }
    }

    #[test]
    fn stars_match_within_and_across_segments() {
        let matches =
            |pattern: &str, pathname: &str| Pattern::new(pattern).expect("a pattern").matches(pathname);
        assert!(matches("**/*.png", "a.png") && matches("**/*.png", "x/y/a.png"));
        assert!(!matches("*.png", "x/a.png"));
        assert!(matches("logs/**", "logs/a/b\nc") && !matches("logs/**", "log/a"));
        assert!(matches(r"a\*b\{c\}", "a*b{c}") && !matches(r"a\*b\{c\}", "axb{c}"));
        assert!(matches("odd/{name}.json", "odd/a #?% \u{1f600}.json"));
    }

    #[test]
    fn a_wrong_pattern_says_what_is_wrong() {
        for (pattern, message) in [
            ("", "empty"),
            ("a/{b", "`{` without `}`"),
            ("a/b}", "`}` without `{`"),
            ("{1}", "a name is"),
            ("{a}/{a}", "twice"),
            ("a\\", "backslash"),
        ] {
            let error = Pattern::new(pattern).expect_err(pattern);
            assert!(error.contains(message), "{pattern}: {error}");
        }
    }
}
