//! The document around the blocks: where the TOML is in it, and its check boxes.
//!
//! It changes nothing but single characters within check boxes: [`Document::with_ticks`] gives back every
//! other byte as it was.

use std::collections::BTreeMap;
use std::ops::Range;

use pulldown_cmark::{CodeBlockKind, Event, Options, Parser, Tag, TagEnd};

use super::near;
use crate::error::{Error, ErrorKind, Result};

/// The gates that a check box may name, in the order in which a migration meets them.
pub const GATES: [&str; 10] = [
    "table-ready",
    "export-complete",
    "mapping-total",
    "backfill-complete",
    "capture-continuous",
    "drift-free",
    "indexes-complete",
    "no-foreign",
    "shadow-reads",
    "rollback-drilled",
];

/// A Markdown document with a plan in it.
#[derive(Debug, Clone)]
pub struct Document {
    name: String,
    text: String,
    toml: String,
    boxes: Vec<CheckBox>,
}

/// A check box whose text names a gate, as in `` - [ ] both stores agree `gate: drift-free` ``.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CheckBox {
    /// The gate.
    pub gate: String,
    /// Whether it is ticked in the document.
    pub ticked: bool,
    /// The line it is on, from 1.
    pub line: usize,
    /// The byte between its brackets.
    offset: usize,
}

impl Document {
    /// Finds the blocks and the check boxes of a document; `name` is for messages.
    ///
    /// # Errors
    /// `Usage` where there is no block, where a block's info string is nearly `toml migrate`, or where a
    /// check box names a gate that does not exist; with the line.
    pub fn parse(name: impl Into<String>, text: impl Into<String>) -> Result<Self> {
        let mut document =
            Self { name: name.into(), text: text.into(), toml: String::new(), boxes: Vec::new() };
        let found = scan(&document.text);
        if let Some((offset, info)) = found.nearly.first() {
            let message = format!("a block `{info}`; did you mean `toml migrate`?");
            return Err(document.error(Some(*offset), message));
        }
        if found.blocks.is_empty() {
            let error = document.error(None, "it has no fenced block with the info string `toml migrate`");
            return Err(error.hint("a plan is a Markdown document; see migration-plan.md in the project"));
        }
        document.boxes = found.boxes;
        for check_box in &mut document.boxes {
            check_box.line = line_of(&document.text, check_box.offset);
        }
        for check_box in &document.boxes {
            if !GATES.contains(&check_box.gate.as_str()) {
                let near = near::suggest(&check_box.gate, GATES.into_iter());
                let message =
                    format!("a check box names the gate `{}`, which does not exist{near}", check_box.gate);
                return Err(document.error(Some(check_box.offset), message));
            }
        }
        document.toml = blank_but(&document.text, &found.blocks);
        Ok(document)
    }

    /// Its name in messages.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// All of it.
    #[must_use]
    pub fn text(&self) -> &str {
        &self.text
    }

    /// The blocks, each byte where it is in the document, and blanks around them.
    #[must_use]
    pub fn toml(&self) -> &str {
        &self.toml
    }

    /// The check boxes that name a gate, in order.
    #[must_use]
    pub fn boxes(&self) -> &[CheckBox] {
        &self.boxes
    }

    /// The document with the boxes of these gates ticked (true) or cleared (false). Boxes of other gates,
    /// boxes without one, and every byte outside the brackets stay as they are.
    #[must_use]
    pub fn with_ticks(&self, ticks: &BTreeMap<String, bool>) -> String {
        let mut text = String::with_capacity(self.text.len());
        let mut copied = 0;
        for check_box in &self.boxes {
            let Some(ticked) = ticks.get(&check_box.gate) else { continue };
            if *ticked != check_box.ticked {
                text.push_str(&self.text[copied..check_box.offset]);
                text.push(if *ticked { 'x' } else { ' ' });
                copied = check_box.offset + 1;
            }
        }
        text.push_str(&self.text[copied..]);
        text
    }

    /// A `Usage` error at a byte of the document: `migration-plan.md:12`.
    pub(super) fn error(&self, offset: Option<usize>, message: impl std::fmt::Display) -> Error {
        let error = Error::new(ErrorKind::Usage, "read the plan").message(message);
        match offset {
            Some(offset) => error.key(format_args!("{}:{}", self.name, line_of(&self.text, offset))),
            None => error.key(&self.name),
        }
    }
}

fn line_of(text: &str, offset: usize) -> usize {
    1 + text.bytes().take(offset).filter(|byte| *byte == b'\n').count()
}

#[derive(Default)]
struct Found {
    /// The text of the blocks, line by line.
    blocks: Vec<Range<usize>>,
    /// Blocks that are probably meant to be ours.
    nearly: Vec<(usize, String)>,
    boxes: Vec<CheckBox>,
}

fn scan(text: &str) -> Found {
    let mut found = Found::default();
    let mut in_block = false;
    // The box of each list item around the present place; an inner item has its own.
    let mut items: Vec<Option<(usize, bool)>> = Vec::new();
    for (event, range) in Parser::new_ext(text, Options::ENABLE_TASKLISTS).into_offset_iter() {
        match event {
            Event::Start(Tag::CodeBlock(CodeBlockKind::Fenced(info))) => {
                let words: Vec<&str> = info.split_whitespace().collect();
                in_block = words == ["toml", "migrate"];
                if in_block {
                    // An empty block is one too.
                    found.blocks.push(range.start..range.start);
                }
                if let ["toml", word] = words.as_slice()
                    && !in_block
                    && strsim::damerau_levenshtein(&word.to_lowercase(), "migrate") <= 2
                {
                    found.nearly.push((range.start, info.to_string()));
                }
            }
            Event::End(TagEnd::CodeBlock) => in_block = false,
            Event::Text(_) if in_block => found.blocks.push(range),
            Event::Start(Tag::Item) => items.push(None),
            Event::End(TagEnd::Item) => {
                items.pop();
            }
            Event::TaskListMarker(ticked) => {
                if let Some(item) = items.last_mut() {
                    *item = Some((range.start + 1, ticked));
                }
            }
            Event::Code(code) => {
                if let Some(Some((offset, ticked))) = items.last().copied()
                    && let Some(gate) = code.strip_prefix("gate:")
                {
                    let gate = gate.trim().to_owned();
                    found.boxes.push(CheckBox { gate, ticked, line: 0, offset });
                }
            }
            _ => {}
        }
    }
    found
}

/// A text as long as `text`, with its line ends and the given ranges, and spaces elsewhere: whatever is
/// found in it, is found at the same byte of the document.
fn blank_but(text: &str, ranges: &[Range<usize>]) -> String {
    let mut blank: Vec<u8> =
        text.bytes().map(|byte| if byte == b'\n' || byte == b'\r' { byte } else { b' ' }).collect();
    for range in ranges {
        blank[range.clone()].copy_from_slice(&text.as_bytes()[range.clone()]);
    }
    String::from_utf8(blank).expect("invariant: whole characters of a text, and ASCII")
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "# Plan é\r\n\r\n```toml migrate\r\na = 1\r\n```\n\n- [ ] one `gate: drift-free`\n  - [x] inner `gate: table-ready`, [ ] `x`\n- [X] no gate\n1. [x] two\n   lines `gate: drift-free` \n\n```toml\nb = 2\n```\n> ```toml migrate\n> c = \"ü\"\n> ```\n";

    fn document() -> Document {
        Document::parse("plan.md", TEXT).expect("a document")
    }

    #[test]
    fn blocks_keep_their_place() {
        let document = document();
        assert_eq!(document.toml().len(), TEXT.len());
        for block in ["a = 1", "c = \"ü\""] {
            assert_eq!(document.toml().find(block), TEXT.find(block), "{block}");
        }
        assert_eq!(document.toml().split_whitespace().collect::<Vec<_>>().join(" "), "a = 1 c = \"ü\"");
    }

    #[test]
    fn only_the_boxes_of_the_gates_change() {
        let document = document();
        let lines: Vec<_> =
            document.boxes().iter().map(|found| (found.gate.as_str(), found.ticked, found.line)).collect();
        assert_eq!(lines, [("drift-free", false, 7), ("table-ready", true, 8), ("drift-free", true, 10)]);
        let ticks = |list: &[(&str, bool)]| {
            document.with_ticks(&list.iter().map(|(gate, ticked)| ((*gate).to_owned(), *ticked)).collect())
        };
        assert_eq!(ticks(&[]), TEXT);
        assert_eq!(ticks(&[("drift-free", true)]), TEXT.replace("[ ] one", "[x] one"));
        assert_eq!(
            ticks(&[("drift-free", false), ("table-ready", false), ("no-foreign", true)]),
            TEXT.replace("[x] inner", "[ ] inner").replace("[x] two", "[ ] two")
        );
    }

    #[test]
    fn what_is_wrong_has_its_line() {
        for (text, message) in [
            ("# Plan\n", "plan.md: it has no fenced block"),
            ("\n```toml migrat\n```\n", "plan.md:2: a block `toml migrat`"),
            (
                "```toml migrate\n```\n\n- [ ] a `gate: drift-fre`\n",
                "plan.md:4: a check box names the gate `drift-fre`, which does not exist; did you mean `drift-free`?",
            ),
        ] {
            let error = Document::parse("plan.md", text).expect_err(text).to_string();
            assert!(error.contains(message), "{error}");
        }
    }
}
