//! What the plan wants of a table, compared with what is there. Pure.

use crate::error::Result;
use crate::plan::{IndexPlan, StreamView, TargetPlan};
use crate::target::layout::Layout;
use crate::target::store::{Site, Table, TableFacts};

/// What is planned for one of the tables.
#[derive(Debug)]
pub(super) struct Planned<'a> {
    pub(super) name: &'a str,
    pub(super) keys: (&'a str, &'a str),
    pub(super) indexes: &'a [IndexPlan],
    pub(super) ttl: Option<&'a str>,
    pub(super) stream: Option<StreamView>,
    /// The plan has a stream, and this endpoint was not asked for it.
    pub(super) stream_waived: bool,
    pub(super) recovery: bool,
    pub(super) protection: bool,
}

/// One thing that the plan wants of a table.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Step<'a> {
    pub(super) what: String,
    pub(super) state: State<'a>,
}

#[derive(Debug, PartialEq, Eq)]
pub(super) enum State<'a> {
    Present,
    Differs(String),
    NotOffered(&'static str),
    Missing(Action<'a>),
}

/// What is to be done about a missing thing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Action<'a> {
    CreateTable,
    CreateIndex(&'a IndexPlan),
    EnableTtl(&'a str),
    EnableStream(StreamView),
    EnableProtection,
    EnableRecovery,
}

impl<'a> Planned<'a> {
    pub(super) fn new(
        layout: &'a Layout,
        plan: &'a TargetPlan,
        table: Table,
        site: Site,
        with_stream: bool,
    ) -> Self {
        let data = table == Table::Data;
        let stream = plan.stream.filter(|_| data);
        let stream_waived = site == Site::Local && !with_stream && stream.is_some();
        Self {
            name: layout.table_name(table),
            keys: layout.key_names(table),
            indexes: layout.indexes(table),
            ttl: plan.ttl.as_deref().filter(|_| data),
            stream: stream.filter(|_| !stream_waived),
            stream_waived,
            recovery: plan.point_in_time_recovery,
            protection: plan.deletion_protection,
        }
    }

    /// What this endpoint will say of the table once it is made.
    pub(super) fn created(&self, site: Site) -> TableFacts {
        TableFacts {
            name: self.name.to_owned(),
            active: true,
            keys: (self.keys.0.to_owned(), Some(self.keys.1.to_owned())),
            on_demand: true,
            point_in_time_recovery: (site == Site::Aws).then_some(false),
            deletion_protection: Some(false),
            ..TableFacts::default()
        }
    }
}

/// Compares a table with what is planned.
///
/// # Errors
/// `Usage` where its keys are others: no write of this program could be stored.
pub(super) fn steps<'a>(
    planned: &Planned<'a>,
    facts: Option<&TableFacts>,
    site: Site,
) -> Result<Vec<Step<'a>>> {
    let name = planned.name;
    let created;
    let (table_state, facts) = match facts {
        Some(facts) => (State::Present, facts),
        None => {
            created = planned.created(site);
            (State::Missing(Action::CreateTable), &created)
        }
    };
    check_keys(planned, facts)?;
    let mut steps = vec![Step { what: format!("table {name}"), state: table_state }];
    let mut step = |what: String, state: State<'a>| {
        steps.push(Step { what: format!("{name}: {what}"), state });
    };
    let billing = if facts.on_demand {
        State::Present
    } else {
        State::Differs("capacity is provisioned: writes beyond it are throttled".to_owned())
    };
    step("billing on demand".to_owned(), billing);
    for index in planned.indexes {
        step(format!("index {}", index.name), index_state(index, facts));
    }
    if let Some(ttl) = planned.ttl {
        let state = match &facts.ttl {
            None => State::Missing(Action::EnableTtl(ttl)),
            Some(found) if found == ttl => State::Present,
            Some(found) => State::Differs(format!("it is on {found}")),
        };
        step(format!("TTL on {ttl}"), state);
    }
    if let Some(view) = planned.stream {
        let state = match facts.stream.as_deref() {
            None => State::Missing(Action::EnableStream(view)),
            Some(found) if found == view.name() => State::Present,
            Some(found) => State::Differs(format!("its view is {found}")),
        };
        step(format!("stream {}", view.name()), state);
    }
    if planned.stream_waived {
        let why = "not asked for on a local endpoint, which it slows down; --with-stream asks for it";
        step("stream".to_owned(), State::NotOffered(why));
    }
    if planned.protection {
        let state = flag(facts.deletion_protection, Action::EnableProtection);
        step("deletion protection".to_owned(), state);
    }
    if planned.recovery {
        let state = flag(facts.point_in_time_recovery, Action::EnableRecovery);
        step("point-in-time recovery".to_owned(), state);
    }
    Ok(steps)
}

pub(super) fn flag(on: Option<bool>, enable: Action<'_>) -> State<'_> {
    match on {
        Some(true) => State::Present,
        Some(false) => State::Missing(enable),
        None => State::NotOffered("the endpoint does not have it"),
    }
}

pub(super) fn check_keys(planned: &Planned<'_>, facts: &TableFacts) -> Result<()> {
    facts.check_keys("provision table", planned.keys)
}

pub(super) fn index_state<'a>(index: &'a IndexPlan, facts: &TableFacts) -> State<'a> {
    let Some(found) = facts.indexes.iter().find(|found| found.name == index.name) else {
        return State::Missing(Action::CreateIndex(index));
    };
    let keys = (found.partition_key.as_str(), found.sort_key.as_deref());
    if keys != (&index.partition_key, Some(&index.sort_key)) {
        return State::Differs(format!("its keys are {} and {}", keys.0, keys.1.unwrap_or("none")));
    }
    for key in [&index.partition_key, &index.sort_key] {
        if let Some(kind) = facts.attribute_types.get(key).filter(|kind| *kind != "S") {
            return State::Differs(format!("its key {key} is of type {kind}"));
        }
    }
    if found.projects_all {
        State::Present
    } else {
        State::Differs("it does not project all attributes".to_owned())
    }
}
