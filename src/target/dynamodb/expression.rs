//! Conditions as expressions, with placeholders for every name and value.

use std::collections::HashMap;

use super::encode::{self, Attributes};
use crate::target::Condition;
use crate::value::Value;

/// A condition expression and what its placeholders stand for.
#[derive(Debug, Default)]
pub(super) struct Expression {
    pub(super) text: String,
    pub(super) names: HashMap<String, String>,
    pub(super) values: Attributes,
}

impl Expression {
    /// The expression of a condition; none where it always holds.
    pub(super) fn of(condition: &Condition, partition_key: &str) -> Option<Self> {
        let mut expression = Self::default();
        match expression.build(condition, partition_key) {
            Built::True => None,
            Built::Text(text) => Some(Self { text, ..expression }),
            Built::False => Some(Self::constant(partition_key, "AND")),
        }
    }

    /// The expression of a condition, where the API demands one.
    pub(super) fn required(condition: &Condition, partition_key: &str) -> Self {
        Self::of(condition, partition_key).unwrap_or_else(|| Self::constant(partition_key, "OR"))
    }

    /// The expression that asks for some attributes; none where all are wanted.
    pub(super) fn only(attributes: &[String]) -> Option<Self> {
        let mut expression = Self::default();
        let names: Vec<String> = attributes.iter().map(|name| expression.name(name)).collect();
        (!names.is_empty()).then(|| Self { text: names.join(", "), ..expression })
    }

    /// One that always holds (`OR`), or never (`AND`).
    fn constant(partition_key: &str, operator: &str) -> Self {
        let mut expression = Self::default();
        let key = expression.name(partition_key);
        expression.text = format!("attribute_exists({key}) {operator} attribute_not_exists({key})");
        expression
    }

    fn build(&mut self, condition: &Condition, partition_key: &str) -> Built {
        match condition {
            Condition::Always => Built::True,
            Condition::Absent => Built::Text(format!("attribute_not_exists({})", self.name(partition_key))),
            Condition::Present => Built::Text(format!("attribute_exists({})", self.name(partition_key))),
            Condition::Equals { path, value } => {
                let path = self.path(path);
                Built::Text(format!("{path} = {}", self.value(value)))
            }
            Condition::Missing { path } => {
                let key = self.name(partition_key);
                let path = self.path(path);
                Built::Text(format!("(attribute_exists({key}) AND attribute_not_exists({path}))"))
            }
            Condition::Any(conditions) => self.join(conditions, partition_key, " OR ", &Built::True),
            Condition::All(conditions) => self.join(conditions, partition_key, " AND ", &Built::False),
        }
    }

    /// Joins conditions; one that is `decisive` decides, and its opposite changes nothing.
    fn join(
        &mut self,
        conditions: &[Condition],
        partition_key: &str,
        operator: &str,
        decisive: &Built,
    ) -> Built {
        let mut texts = Vec::new();
        for condition in conditions {
            match self.build(condition, partition_key) {
                Built::Text(text) => texts.push(text),
                constant if constant == *decisive => return constant,
                _ => {}
            }
        }
        match texts.len() {
            0 if *decisive == Built::True => Built::False,
            0 => Built::True,
            1 => Built::Text(texts.remove(0)),
            _ => Built::Text(format!("({})", texts.join(operator))),
        }
    }

    fn path(&mut self, path: &[String]) -> String {
        path.iter().map(|name| self.name(name)).collect::<Vec<_>>().join(".")
    }

    /// The placeholder of a name; the same one for the same name.
    pub(super) fn name(&mut self, name: &str) -> String {
        if let Some((placeholder, _)) = self.names.iter().find(|(_, known)| *known == name) {
            return placeholder.clone();
        }
        let placeholder = format!("#n{}", self.names.len());
        self.names.insert(placeholder.clone(), name.to_owned());
        placeholder
    }

    pub(super) fn value(&mut self, value: &Value) -> String {
        let placeholder = format!(":v{}", self.values.len());
        self.values.insert(placeholder.clone(), encode::value(value));
        placeholder
    }

    pub(super) fn into_parts(self) -> (Option<HashMap<String, String>>, Option<Attributes>) {
        let names = (!self.names.is_empty()).then_some(self.names);
        // An empty map of values is refused by DynamoDB.
        let values = (!self.values.is_empty()).then_some(self.values);
        (names, values)
    }
}

#[derive(Debug, PartialEq, Eq)]
enum Built {
    True,
    False,
    Text(String),
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(condition: &Condition) -> Option<String> {
        Expression::of(condition, "PK").map(|expression| {
            // Names in place of their placeholders, to be read.
            expression.names.iter().fold(expression.text, |text, (key, name)| text.replace(key, name))
        })
    }

    #[test]
    fn a_condition_that_always_holds_is_no_expression() {
        assert_eq!(text(&Condition::Always), None);
        assert_eq!(text(&Condition::All(vec![])), None);
        assert_eq!(text(&Condition::Any(vec![Condition::Absent, Condition::Always])), None);
        let never = text(&Condition::Any(vec![]));
        assert_eq!(never.as_deref(), Some("attribute_exists(PK) AND attribute_not_exists(PK)"));
    }

    #[test]
    fn conditions_nest() {
        let mine = Condition::equals(["_source", "pathname"], Value::s("a"));
        let condition = Condition::All(vec![
            Condition::Always,
            Condition::Any(vec![Condition::Absent, mine]),
            Condition::Missing { path: vec!["gone".to_owned()] },
        ]);
        assert_eq!(
            text(&condition).as_deref(),
            Some(
                "((attribute_not_exists(PK) OR _source.pathname = :v0) AND \
                 (attribute_exists(PK) AND attribute_not_exists(gone)))"
            )
        );
    }
}
