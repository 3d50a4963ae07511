//! Where a document has its records: a path of names and `[*]`, in the notation of JSONPath (RFC 9535).

use std::sync::Arc;

/// The path of the records within a document: `[*]`, `records[*]`, `teams[*].members[*]`, `profile`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RecordPath {
    steps: Vec<RecordStep>,
}

/// A step of a [`RecordPath`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RecordStep {
    /// The member of this name.
    Name(Arc<str>),
    /// `[*]`: each element of a list, or each member of an object.
    Each,
}

impl RecordPath {
    /// Reads a path. A leading `$` or `$.` may be left out, as may the dot before the first name; a name that
    /// is not letters, digits and `_` is written `['so']`.
    ///
    /// # Errors
    /// In words, what is wrong with it.
    pub fn new(source: &str) -> Result<Self, String> {
        let mut steps = Vec::new();
        let mut rest = source.strip_prefix('$').unwrap_or(source);
        while !rest.is_empty() {
            let (step, after) = if let Some(after) = rest.strip_prefix("[*]") {
                (RecordStep::Each, after)
            } else if let Some(quoted) = rest.strip_prefix('[') {
                let (name, after) = quoted_name(quoted)?;
                (RecordStep::Name(name.into()), after)
            } else {
                let plain = match rest.strip_prefix('.') {
                    Some(plain) => plain,
                    None if steps.is_empty() && source == rest => rest,
                    None => return Err("a `.` or `[` is missing in it".to_owned()),
                };
                let end = plain.find(|letter| !is_name_letter(letter)).unwrap_or(plain.len());
                let (name, after) = plain.split_at(end);
                if name.is_empty() || name.starts_with(|first: char| first.is_ascii_digit()) {
                    return Err("a name is letters, digits and `_`, else it is written `['so']`".to_owned());
                }
                (RecordStep::Name(name.into()), after)
            };
            steps.push(step);
            rest = after;
        }
        if steps.is_empty() {
            return Err("it is empty; without `each` the document is the record".to_owned());
        }
        Ok(Self { steps })
    }

    /// Its steps; none where the document itself is the record.
    #[must_use]
    pub fn steps(&self) -> &[RecordStep] {
        &self.steps
    }
}

fn is_name_letter(letter: char) -> bool {
    letter.is_ascii_alphanumeric() || letter == '_' || !letter.is_ascii()
}

/// The name within `'…']` or `"…"]`, and what follows. A backslash takes the next character as it is.
fn quoted_name(text: &str) -> Result<(String, &str), String> {
    let wrong = || "`[` is followed by `*]`, or by a name in quotes and `]`".to_owned();
    let quote = text.chars().next().filter(|first| ['\'', '"'].contains(first)).ok_or_else(wrong)?;
    let mut name = String::new();
    let mut letters = text.char_indices().skip(1);
    while let Some((at, letter)) = letters.next() {
        if letter == quote {
            return text[at + 1..].strip_prefix(']').map(|rest| (name, rest)).ok_or_else(wrong);
        }
        name.push(if letter == '\\' { letters.next().ok_or_else(wrong)?.1 } else { letter });
    }
    Err(wrong())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn steps(source: &str) -> String {
        let path = RecordPath::new(source).expect(source);
        let words = path.steps().iter().map(|step| match step {
            RecordStep::Name(name) => name.to_string(),
            RecordStep::Each => "*".to_owned(),
        });
        words.collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn a_path_is_names_and_stars() {
        for (source, expected) in [
            ("[*]", "*"),
            ("$[*]", "*"),
            ("records[*]", "records *"),
            ("$.records[*]", "records *"),
            ("teams[*].members[*]", "teams * members *"),
            ("profile.größe", "profile größe"),
            (r#"['a b']["c'd"]['e\'f'][*]"#, "a b c'd e'f *"),
        ] {
            assert_eq!(steps(source), expected, "{source}");
        }
    }

    #[test]
    fn a_wrong_path_says_what_is_wrong() {
        for (source, message) in [
            ("", "it is empty"),
            ("$", "it is empty"),
            ("a-b[*]", "a `.` or `[` is missing"),
            ("[*]a", "a `.` or `[` is missing"),
            ("$a", "a `.` or `[` is missing"),
            ("a..b", "a name is letters"),
            ("a.", "a name is letters"),
            ("a[0]", "`[` is followed by"),
            ("a['b]", "`[` is followed by"),
            ("a['b'", "`[` is followed by"),
        ] {
            let error = RecordPath::new(source).expect_err(source);
            assert!(error.contains(message), "{source}: {error}");
        }
    }
}
