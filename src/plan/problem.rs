//! What is wrong with a plan, and at which key.

use std::fmt;

use crate::error::{Error, ErrorKind};

/// A step from the top of the plan to a value in it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// A key of a table.
    Key(String),
    /// An element of a list, from 0.
    Element(usize),
}

/// Something wrong with a plan.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// Where.
    pub path: Vec<Step>,
    /// What, as a lower-case fragment.
    pub message: String,
}

impl Problem {
    /// A problem at the top of the plan; [`Problem::within`] says where it is.
    pub fn new(message: impl Into<String>) -> Self {
        Self { path: Vec::new(), message: message.into() }
    }

    /// The same, one table further up.
    #[must_use]
    pub fn within(mut self, key: &str) -> Self {
        self.path.insert(0, Step::Key(key.to_owned()));
        self
    }

    /// The same, one list further up.
    #[must_use]
    pub fn element(mut self, index: usize) -> Self {
        self.path.insert(0, Step::Element(index));
        self
    }

    /// The key as the plan's author would name it: `entity[0].item[1].PK`.
    #[must_use]
    pub fn key(&self) -> String {
        let mut text = String::new();
        for step in &self.path {
            match step {
                Step::Key(key) if text.is_empty() => text.push_str(key),
                Step::Key(key) => {
                    text.push('.');
                    text.push_str(key);
                }
                Step::Element(index) => {
                    text.push_str(&format!("[{index}]"));
                }
            }
        }
        text
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.path.is_empty() {
            f.write_str(&self.message)
        } else {
            write!(f, "`{}`: {}", self.key(), self.message)
        }
    }
}

impl From<Problem> for Error {
    fn from(problem: Problem) -> Self {
        Self::new(ErrorKind::Usage, "read the plan").message(problem)
    }
}
