//! Random histories of a few pathnames, against a map: whatever the order, whatever is lost or late.

use std::collections::BTreeMap;

use migrate::ErrorKind;
use migrate::converge::owner;
use migrate::protocol::converge::Purpose;
use migrate::sweep::Level;
use migrate::target::memory::{Fault, Operation};
use migrate::value::{Key, Value};
use proptest::prelude::*;

use super::groups::PLAN as GROUPS;
use super::harness::Rig;

const NAMES: [&str; 3] = ["r/1.json", "r/2.json", "r/3.json"];
/// Contents repeat, and the third one moves the item to another key.
const CONTENTS: [&str; 3] = [r#"{"v": "a"}"#, r#"{"v": "b"}"#, r#"{"v": "c", "key": "KEY"}"#];
/// Blobs that share items: two contents of one group, and one of another with a second item.
const MEMBERS: [&str; 3] = ["s/1.json", "s/2.json", "s/3.json"];
const OF_GROUPS: [&str; 3] = [
    r#"{"v": "a", "email": "x"}"#,
    r#"{"v": "b", "email": "x"}"#,
    r#"{"v": "c", "email": "y", "consent": true}"#,
];

#[derive(Debug, Clone)]
enum Step {
    /// The application changes a blob: one of the contents, or none.
    Change { name: usize, content: Option<usize> },
    /// Somebody reconciles, and a request of his meets this.
    Reconcile { name: usize, fault: Option<(Operation, Fault)> },
    /// Somebody loads everything, and a request of his meets this.
    Backfill { fault: Option<(Operation, Fault)> },
    /// What was held lands.
    Land,
}

fn content(text: &str, name: &str) -> String {
    text.replace("KEY", &format!("moved-{}", &name[2..3]))
}

fn fault() -> impl Strategy<Value = Option<(Operation, Fault)>> {
    let operation = prop_oneof![
        4 => Just(Operation::Transact),
        1 => Just(Operation::Insert),
        1 => Just(Operation::Get),
    ];
    let fault = prop_oneof![
        Just(Fault::Held),
        Just(Fault::AppliedThenLost),
        Just(Fault::Refused(ErrorKind::NotApplied)),
    ];
    prop::option::weighted(0.6, (operation, fault))
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let name = 0..NAMES.len();
    let step = prop_oneof![
        4 => (name.clone(), prop::option::weighted(0.7, 0..CONTENTS.len()))
            .prop_map(|(name, content)| Step::Change { name, content }),
        4 => (name, fault()).prop_map(|(name, fault)| Step::Reconcile { name, fault }),
        2 => fault().prop_map(|fault| Step::Backfill { fault }),
        1 => Just(Step::Land),
    ];
    prop::collection::vec(step, 1..24)
}

type Model = BTreeMap<&'static str, usize>;

/// Runs a history. With `mirrored`, each change is followed by its intent's converge.
async fn play(rig: &Rig, steps: &[Step], mirrored: bool) -> Model {
    play_with(rig, NAMES, CONTENTS, steps, mirrored).await
}

async fn play_with(
    rig: &Rig,
    names: [&'static str; 3],
    contents: [&str; 3],
    steps: &[Step],
    mirrored: bool,
) -> Model {
    let mut model = Model::new();
    for step in steps {
        let met = |fault: &Option<(Operation, Fault)>| {
            fault.iter().for_each(|(operation, fault)| rig.target.fault(*operation, *fault));
        };
        match step {
            Step::Change { name, content: Some(index) } => {
                rig.put(names[*name], content(contents[*index], names[*name])).await;
                model.insert(names[*name], *index);
            }
            Step::Change { name, content: None } => {
                rig.delete(names[*name]).await;
                model.remove(names[*name]);
            }
            Step::Reconcile { name, fault } => {
                met(fault);
                rig.converge(names[*name], Purpose::Reconcile).await.ok();
            }
            Step::Backfill { fault } => {
                met(fault);
                rig.try_backfill().await.ok();
            }
            Step::Land => drop(rig.target.release_held()),
        }
        rig.target.clear_faults();
        if let (Step::Change { name, .. }, true) = (step, mirrored) {
            rig.intent(names[*name]).await;
        }
    }
    rig.target.release_held();
    model
}

/// What the data table must hold: (key, `v`, owner).
fn expected(model: &Model) -> BTreeMap<Key, (String, String)> {
    let item = |(name, index): (&&str, &usize)| {
        let id = if *index == 2 { format!("moved-{}", &name[2..3]) } else { name[2..3].to_owned() };
        (Key::new(format!("R#{id}"), "META"), (["a", "b", "c"][*index].to_owned(), (*name).to_owned()))
    };
    model.iter().map(item).collect()
}

fn found(rig: &Rig) -> BTreeMap<Key, (String, String)> {
    let text = |item: &migrate::value::Item| item.get("v").and_then(Value::as_s).unwrap().to_owned();
    rig.items().into_iter().map(|(key, item)| (key, (text(&item), owner(&item).unwrap()))).collect()
}

fn block_on<T>(run: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(run)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, ..ProptestConfig::default() })]

    /// The claim of the protocol: where each change is followed by the converge of its intent, nothing
    /// that was lost, late or slow changes what the mirror holds in the end. No sweep is needed. Hazards
    /// A1, A4, A5, A7 and A15.
    #[test]
    fn a_mirrored_history_ends_equal(steps in steps()) {
        block_on(async {
            let rig = Rig::new();
            let model = play(&rig, &steps, true).await;
            prop_assert_eq!(found(&rig), expected(&model));
            rig.check().await;
            Ok(())
        })?;
    }

    /// Changes that nobody mirrors: one sweep that repairs makes the mirror equal, and the next is clean.
    /// Hazards A6 and A8.
    #[test]
    fn a_sweep_repairs_any_history(steps in steps()) {
        block_on(async {
            let rig = Rig::new();
            let model = play(&rig, &steps, false).await;
            let report = rig.sweep(Level::Content, true).await;
            prop_assert_eq!(report.remaining, Some(vec![]));
            prop_assert_eq!(found(&rig), expected(&model));
            rig.check().await;
            let report = rig.sweep(Level::Content, false).await;
            prop_assert!(report.drift.is_empty() && report.complete(), "{:?}", report);
            Ok(())
        })?;
    }

    /// The same two claims of blobs that share items.
    #[test]
    fn a_mirrored_history_of_groups_ends_equal(steps in steps()) {
        block_on(async {
            let rig = Rig::with(GROUPS);
            play_with(&rig, MEMBERS, OF_GROUPS, &steps, true).await;
            rig.check().await;
        });
    }

    #[test]
    fn a_sweep_repairs_any_history_of_groups(steps in steps()) {
        block_on(async {
            let rig = Rig::with(GROUPS);
            play_with(&rig, MEMBERS, OF_GROUPS, &steps, false).await;
            let report = rig.sweep(Level::Content, true).await;
            prop_assert_eq!(report.remaining, Some(vec![]));
            rig.check().await;
            let report = rig.sweep(Level::Content, false).await;
            prop_assert!(report.drift.is_empty() && report.complete(), "{:?}", report);
            Ok(())
        })?;
    }
}
