//! Text of others as people can read it: what would move the cursor, or turn the direction of writing, is shown as an
//! escape such as `\u{202e}`.
//!
//! Names of blobs, keys and ETags show themselves so. Whatever else is printed goes through the printer, which escapes
//! all but line breaks.

use std::borrow::Cow;

/// Whether a letter is not shown as it is: control characters, among them DEL and those of ISO 8859-1 that some terminals
/// obey, line separators, and the marks that turn the direction of writing (Unicode 17, property `Bidi_Control`).
pub(crate) fn is_hidden(letter: char) -> bool {
    letter.is_control()
        || matches!(letter, '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

/// A name, in one line.
#[must_use]
pub(crate) fn legible(name: &str) -> Cow<'_, str> {
    escaped(name, is_hidden)
}

/// A text of any number of lines.
#[must_use]
pub(crate) fn legible_lines(text: &str) -> Cow<'_, str> {
    escaped(text, |letter| is_hidden(letter) && letter != '\n')
}

/// A name in ASCII alone, where eyes can't tell letters apart.
#[must_use]
pub(crate) fn unmistakable(name: &str) -> Cow<'_, str> {
    escaped(name, |letter| is_hidden(letter) || !letter.is_ascii())
}

fn escaped(text: &str, is_escaped: impl Fn(char) -> bool) -> Cow<'_, str> {
    if !text.contains(&is_escaped) {
        return text.into();
    }
    let mut shown = String::with_capacity(text.len() + 8);
    for letter in text.chars() {
        if is_escaped(letter) { shown.extend(letter.escape_unicode()) } else { shown.push(letter) }
    }
    shown.into()
}

/// The first of some names, and how many more there are.
#[must_use]
pub(crate) fn first_of(names: impl IntoIterator<Item = String>, most: usize) -> String {
    let mut names: Vec<String> = names.into_iter().collect();
    if let Some(more @ 1..) = names.len().checked_sub(most) {
        names.truncate(most);
        names.push(format!("{more} more"));
    }
    names.join(", ")
}

/// A value as a POSIX shell takes it; what is hidden in it is an escape, as bash and zsh take it.
#[must_use]
pub(crate) fn quoted(value: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "_-.:/@".contains(c);
    if !value.is_empty() && value.chars().all(plain) {
        return value.to_owned();
    }
    if !value.contains(is_hidden) {
        return format!("'{}'", value.replace('\'', "'\\''"));
    }
    let escaped = |letter: char| match letter {
        '\'' | '\\' => format!("\\{letter}"),
        letter if is_hidden(letter) => format!("\\u{:04x}", u32::from(letter)),
        letter => letter.to_string(),
    };
    format!("$'{}'", value.chars().map(escaped).collect::<String>())
}

/// JSON in one line that says the same, with nothing hidden in it: its texts have escapes of their own.
#[must_use]
pub(crate) fn legible_json(json: &str) -> Cow<'_, str> {
    if !json.contains(is_hidden) {
        return json.into();
    }
    let mut shown = String::with_capacity(json.len() + 8);
    for letter in json.chars() {
        if is_hidden(letter) && letter != '\n' {
            shown += &format!("\\u{:04x}", u32::from(letter));
        } else {
            shown.push(letter);
        }
    }
    shown.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_survive_a_shell() {
        assert_eq!(quoted("http://127.0.0.1:1/api/blob"), "http://127.0.0.1:1/api/blob");
        assert_eq!(quoted("a b$c"), "'a b$c'");
        assert_eq!(quoted("it's"), "'it'\\''s'");
        assert_eq!(quoted(""), "''");
        assert_eq!(quoted("it's\u{202e}\\\n"), r"$'it\'s\u202e\\\u000a'");
    }

    #[test]
    fn what_moves_the_cursor_or_turns_the_text_is_shown() {
        for (name, shown) in [
            ("signups/ü 日本 🦀.json", "signups/ü 日本 🦀.json"),
            ("a\nerror: b", r"a\u{a}error: b"),
            ("\u{1b}[2J\u{7f}\u{9b}31m\t\r", r"\u{1b}[2J\u{7f}\u{9b}31m\u{9}\u{d}"),
            ("\u{202e}nosj.\u{2066}\u{200f}\u{61c}\u{2028}", r"\u{202e}nosj.\u{2066}\u{200f}\u{61c}\u{2028}"),
        ] {
            assert_eq!(legible(name), shown);
            assert_eq!(legible(shown), shown, "once is enough");
        }
        assert_eq!(legible_lines("a\n\u{1b}b\n"), "a\n\\u{1b}b\n");
        assert_eq!(unmistakable("é\n"), r"\u{e9}\u{a}");
    }

    #[test]
    fn json_says_the_same() {
        let names = ["a\n\u{1b}", "\u{7f}\u{9b}\u{202e}\u{2069}", "ü🦀\\u202e"];
        let json = serde_json::to_string(&names).expect("it is text") + "\n";
        let shown = legible_json(&json);
        assert!(!shown.trim_end_matches('\n').contains(is_hidden), "{shown}");
        assert_eq!(serde_json::from_str::<Vec<String>>(&shown).expect("it is JSON"), names);
    }
}
