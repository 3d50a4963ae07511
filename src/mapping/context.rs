//! What templates and conditions see of a blob.

use std::collections::BTreeMap;
use std::sync::Arc;

use jiff::Timestamp;
use minijinja::Value;
use minijinja::value::{Enumerator, Object, ObjectExt as _, ObjectRepr};

use super::document::Document;
use super::json::Json;
use super::records::Record;
use crate::plan::compile::GROUP;
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

/// What is the same for all records of a blob.
#[derive(Debug)]
pub(super) struct BlobVariables {
    pub(super) body: Document,
    pub(super) pathname: Arc<str>,
    pub(super) uploaded_at: Timestamp,
    pub(super) captures: Vec<(Arc<str>, Arc<str>)>,
}

/// The variables of an item's templates.
#[derive(Debug)]
pub(super) struct Context {
    pub(super) view: View,
    pub(super) blob: Arc<BlobVariables>,
    pub(super) record: Option<Arc<Record>>,
    pub(super) group: Option<Arc<str>>,
}

impl Object for Context {
    fn get_value(self: &Arc<Self>, key: &Value) -> Option<Value> {
        self.get_value_by_str(key.as_str()?)
    }

    fn get_value_by_str(self: &Arc<Self>, key: &str) -> Option<Value> {
        let record = self.record.as_deref();
        match key {
            "body" => value(self.blob.body.json()?, self.view),
            "record" => value(record?.value.json()?, self.view),
            "index" => Some(Value::from(record?.index?)),
            "key" => Some(Value::from(record?.key.as_ref()?)),
            "parent" => value(record?.parent.as_ref()?, self.view),
            "pathname" => Some(Value::from(&self.blob.pathname)),
            "uploadedAt" => Some(Value::from(iso8601(self.blob.uploaded_at))),
            GROUP => Some(Value::from(self.group.as_ref()?)),
            _ => {
                let capture = self.blob.captures.iter().find(|(name, _)| &**name == key);
                capture.map(|(_, text)| Value::from(text))
            }
        }
    }
}

pub(super) fn value(json: &Json, view: View) -> Option<Value> {
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
