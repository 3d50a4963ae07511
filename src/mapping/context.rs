//! What templates and conditions see of a blob.

use std::collections::BTreeMap;
use std::sync::Arc;

use jiff::Timestamp;
use minijinja::Value;
use minijinja::value::{Enumerator, Object, ObjectExt as _, ObjectRepr};

use super::json::Json;
use crate::plan::input::{ExactNumber, invalid};
use crate::plan::iso8601;

/// Who looks at the values.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum View {
    /// A template: null and empty text are as if they were not there.
    Template,
    /// A condition, which may ask for them.
    Condition,
}

/// The variables of a blob's templates.
#[derive(Debug)]
pub(super) struct Context {
    pub(super) view: View,
    pub(super) body: Json,
    pub(super) pathname: Arc<str>,
    pub(super) uploaded_at: Timestamp,
    pub(super) captures: Vec<(Arc<str>, Arc<str>)>,
}

impl Object for Context {
    fn get_value(self: &Arc<Self>, key: &Value) -> Option<Value> {
        self.get_value_by_str(key.as_str()?)
    }

    fn get_value_by_str(self: &Arc<Self>, key: &str) -> Option<Value> {
        match key {
            "body" => value(&self.body, self.view),
            "pathname" => Some(Value::from(&self.pathname)),
            "uploadedAt" => Some(Value::from(iso8601(self.uploaded_at))),
            _ => {
                let capture = self.captures.iter().find(|(name, _)| &**name == key);
                capture.map(|(_, text)| Value::from(text))
            }
        }
    }
}

fn value(json: &Json, view: View) -> Option<Value> {
    Some(match json {
        Json::Null if view == View::Template => return None,
        Json::Null => Value::from(()),
        Json::Bool(truth) => Value::from(*truth),
        Json::Number(number) => {
            let value = ExactNumber::value(number.text());
            // The engine would compare it by its kind, not by its size.
            if view == View::Condition && !value.is_number() {
                invalid("a condition compares whole 64-bit numbers only").into()
            } else {
                value
            }
        }
        Json::String(text) if text.is_empty() && view == View::Template => return None,
        Json::String(text) => Value::from(text),
        Json::Array(list) => Value::from_object(List { list: Arc::clone(list), view }),
        Json::Object(members) => Value::from_object(Members { members: Arc::clone(members), view }),
    })
}

#[derive(Debug)]
struct List {
    list: Arc<Vec<Json>>,
    view: View,
}

impl Object for List {
    fn repr(self: &Arc<Self>) -> ObjectRepr {
        ObjectRepr::Seq
    }

    fn get_value(self: &Arc<Self>, key: &Value) -> Option<Value> {
        value(self.list.get(key.as_usize()?)?, self.view)
    }

    fn enumerate(self: &Arc<Self>) -> Enumerator {
        Enumerator::Seq(self.list.len())
    }
}

#[derive(Debug)]
struct Members {
    members: Arc<BTreeMap<String, Json>>,
    view: View,
}

impl Object for Members {
    fn get_value(self: &Arc<Self>, key: &Value) -> Option<Value> {
        self.get_value_by_str(key.as_str()?)
    }

    fn get_value_by_str(self: &Arc<Self>, key: &str) -> Option<Value> {
        value(self.members.get(key)?, self.view)
    }

    fn enumerate(self: &Arc<Self>) -> Enumerator {
        self.mapped_enumerator(|members| {
            Box::new(members.members.keys().map(|name| Value::from(name.as_str())))
        })
    }
}
