//! Writes: conditions, transactions, inserts.

use futures::future::join_all;

use super::*;
use crate::target::Refusal;

fn conditions() -> Vec<Condition> {
    let mine = || Condition::equals(["_source", "pathname"], Value::s("a.json"));
    let rev = || Condition::equals(["rev"], number("1.0"));
    let missing = |path: &[&str]| Condition::Missing { path: path.iter().map(ToString::to_string).collect() };
    vec![
        Condition::Always,
        Condition::Absent,
        Condition::Present,
        rev(),
        Condition::equals(["rev"], Value::s("1")),
        Condition::equals(["rev", "inner"], number("1")),
        mine(),
        Condition::equals(["_source"], Value::M([("pathname".to_owned(), Value::s("a.json"))].into())),
        Condition::equals(["list"], Value::L(vec![number("1"), Value::Null])),
        missing(&["rev"]),
        missing(&["_source", "rev"]),
        missing(&["nothing", "at", "all"]),
        Condition::Any(vec![]),
        Condition::All(vec![]),
        Condition::Any(vec![Condition::Absent, mine()]),
        Condition::All(vec![mine(), rev()]),
        Condition::All(vec![Condition::Absent, Condition::Always]),
        Condition::Any(vec![
            Condition::All(vec![Condition::Present, rev(), missing(&["gone"])]),
            Condition::Absent,
        ]),
    ]
}

/// Each condition holds of the same items as [`Condition::holds`] says, for each kind of write.
pub async fn conditions_mean_the_same(subject: &Subject) {
    let store = subject.provisioned().await;
    let source = |name: &str| Value::M([("pathname".to_owned(), Value::s(name))].into());
    let states = [
        None,
        Some(item("p", "s", &[])),
        Some(item("p", "s", &[("rev", number("1")), ("_source", source("a.json"))])),
        Some(item("p", "s", &[("rev", number("2")), ("_source", source("b.json"))])),
        Some(item(
            "p",
            "s",
            &[("_source", Value::s("a.json")), ("list", Value::L(vec![number("1"), Value::Null]))],
        )),
    ];
    let key = Key::new("p", "s");
    let written = item("p", "s", &[("written", Value::Bool(true))]);
    let mut round = 0;
    for before in &states {
        for condition in conditions() {
            let expected = if condition.holds(before.as_ref()) {
                Outcome::Applied
            } else {
                Outcome::Refused(vec![Refusal { action: 0, found: before.clone() }])
            };
            let table = Table::Data;
            let writes = [
                (put(written.clone(), condition.clone()), Some(written.clone())),
                (Write::Delete { table, key: key.clone(), condition: condition.clone() }, None),
                (Write::Check { table, key: key.clone(), condition: condition.clone() }, before.clone()),
            ];
            for (write, after) in writes {
                round += 1;
                let reset = match before {
                    Some(item) => put(item.clone(), Condition::Always),
                    None => Write::Delete { table, key: key.clone(), condition: Condition::Always },
                };
                store.transact("reset", vec![reset]).await.unwrap();
                let outcome = store.transact(&format!("round {round}"), vec![write.clone()]).await.unwrap();
                assert_eq!(outcome, expected, "{write:?} on {before:?}");
                let after = if outcome == Outcome::Applied { after } else { before.clone() };
                assert_eq!(stored(store, "p", "s").await, after, "{write:?} on {before:?}");
            }
        }
    }
}

/// One attribute is set, and what others wrote to the item beside it stays.
pub async fn an_attribute_is_set_where_the_item_is_as_it_was_read(subject: &Subject) {
    let store = subject.provisioned().await;
    let list = Value::L(vec![Value::s("é"), Value::Null, Value::Bool(false)]);
    let map = Value::M([("n".to_owned(), "1.50".parse().map(Value::N).unwrap())].into());
    let sets = [
        ("list", list),
        ("map", map),
        ("bytes", Value::B(bytes::Bytes::from_static(b"\0\xff"))),
        ("set", Value::Ss(vec!["a".to_owned(), "b".to_owned()])),
    ];
    let read = item("p", "s", &sets);
    let many: Vec<(String, Value)> = (0..300).map(|n| (format!("a{n}"), Value::n(n))).collect();
    let many: Vec<(&str, Value)> = many.iter().map(|(name, value)| (name.as_str(), value.clone())).collect();
    let many = item("p", "many", &many);
    let set = |read: &Item, sort: &str, text: &str| Write::Set {
        table: Table::Data,
        key: Key::new("p", sort),
        name: "_source".to_owned(),
        value: Some(Value::s(text)),
        condition: Condition::as_read(Some(read)),
    };
    for (sort, read) in [("s", &read), ("many", &many)] {
        let refused = store.transact(&format!("absent {sort}"), vec![set(read, sort, "1")]).await.unwrap();
        assert_eq!(refused, Outcome::Refused(vec![Refusal { action: 0, found: None }]));
        let mut beside = read.clone();
        beside.insert("zz".to_owned(), Value::s("added meanwhile"));
        store_item(store, &beside).await;
        let applied = store.transact(&format!("set {sort}"), vec![set(read, sort, "2")]).await.unwrap();
        assert_eq!(applied, Outcome::Applied);
        beside.insert("_source".to_owned(), Value::s("2"));
        assert_eq!(stored(store, "p", sort).await, Some(beside.clone()));
        beside.insert(if sort == "s" { "map" } else { "a0" }.to_owned(), Value::n(7));
        store_item(store, &beside).await;
        let refused = store.transact(&format!("changed {sort}"), vec![set(read, sort, "3")]).await.unwrap();
        assert_eq!(refused, Outcome::Refused(vec![Refusal { action: 0, found: Some(beside) }]));
    }
}

/// A transaction is applied as a whole or not at all, and a refusal shows what blocked it.
pub async fn transactions_are_all_or_nothing(subject: &Subject) {
    let store = subject.provisioned().await;
    let taken = item("taken", "s", &[("n", Value::n(1))]);
    store_item(store, &taken).await;
    let anchor: Item = [("pk", "A#00"), ("sk", "name")].map(|(k, v)| (k.to_owned(), Value::s(v))).into();
    let writes = |condition: Condition| {
        vec![
            put(item("new", "s", &[]), Condition::Absent),
            put(item("taken", "s", &[]), condition.clone()),
            Write::Put { table: Table::Control, item: anchor.clone(), condition: Condition::Absent },
            Write::Check {
                table: Table::Control,
                key: Key::new("absent", "row"),
                condition: Condition::Absent,
            },
            Write::Check { table: Table::Data, key: Key::new("nobody", "s"), condition },
        ]
    };
    let refused = store.transact("first", writes(Condition::Present)).await.unwrap();
    assert_eq!(refused, Outcome::Refused(vec![Refusal { action: 4, found: None }]));
    let refused = store.transact("second", writes(Condition::equals(["n"], Value::n(2)))).await.unwrap();
    let found = Some(taken.clone());
    let refusals = vec![Refusal { action: 1, found }, Refusal { action: 4, found: None }];
    assert_eq!(refused, Outcome::Refused(refusals));
    assert_eq!(scan_all(store, 1).await, [taken]);
    assert_eq!(store.get(Table::Control, &[Key::new("A#00", "name")]).await.unwrap(), [None]);

    assert_eq!(store.transact("third", writes(Condition::Always)).await.unwrap(), Outcome::Applied);
    assert_eq!(stored(store, "taken", "s").await, Some(item("taken", "s", &[])));
    assert_eq!(store.get(Table::Control, &[Key::new("A#00", "name")]).await.unwrap(), [Some(anchor)]);
}

/// The same request with the same token is applied once, and answered alike.
pub async fn a_token_makes_repetition_harmless(subject: &Subject) {
    let store = subject.provisioned().await;
    let writes =
        || vec![put(item("a", "s", &[]), Condition::Absent), put(item("b", "s", &[]), Condition::Absent)];
    for attempt in ["first", "again"] {
        let outcome = store.transact("0123456789abcdef0123456789abcdef", writes()).await.unwrap();
        assert_eq!(outcome, Outcome::Applied, "{attempt}");
    }
    assert!(matches!(store.transact("another", writes()).await.unwrap(), Outcome::Refused(_)));
}

/// A transaction takes 100 actions on distinct keys; what is larger is refused whole.
pub async fn transactions_have_limits(subject: &Subject) {
    let store = subject.provisioned().await;
    let puts = |count: usize| -> Vec<Write> {
        (0..count).map(|n| put(item("p", &n.to_string(), &[]), Condition::Absent)).collect()
    };
    assert_eq!(kind(store.transact("none", vec![]).await), ErrorKind::Internal);
    assert_eq!(kind(store.transact("many", puts(101)).await), ErrorKind::Internal);
    let twice = vec![
        put(item("p", "0", &[]), Condition::Absent),
        Write::Delete { table: Table::Data, key: Key::new("p", "0"), condition: Condition::Always },
    ];
    assert_eq!(kind(store.transact("twice", twice).await), ErrorKind::Internal);
    let half = Value::s("x".repeat(300_000));
    let large = (0..15).map(|n| put(item("p", &n.to_string(), &[("x", half.clone())]), Condition::Absent));
    assert_eq!(kind(store.transact("large", large.collect()).await), ErrorKind::Internal);
    let mut unfit = puts(2);
    unfit.push(put(item("p", "", &[]), Condition::Absent));
    assert_eq!(kind(store.transact("unfit", unfit).await), ErrorKind::Unrepresentable);
    assert_eq!(scan_all(store, 1).await, []);

    assert_eq!(store.transact("full", puts(100)).await.unwrap(), Outcome::Applied);
    assert_eq!(scan_all(store, 1).await.len(), 100);
}

/// Of writers that all expect the same state, one wins, and the others see what it wrote.
pub async fn one_of_many_writers_wins(subject: &Subject) {
    subject.provisioned().await;
    for shared in [false, true] {
        let sort = format!("shared {shared}");
        let writers = (0..8).map(|writer| {
            let store = subject.store.clone();
            let mine = item("p", &sort, &[("writer", Value::n(writer))]);
            let mut writes = vec![put(mine, Condition::Absent)];
            if shared {
                writes.push(put(item("q", &format!("{writer}"), &[]), Condition::Always));
            }
            async move { store.transact(&format!("{writer}"), writes).await.expect("an answer") }
        });
        let outcomes = join_all(writers).await;
        let winner = stored(&*subject.store, "p", &sort).await;
        assert!(winner.is_some());
        let (applied, refused): (Vec<_>, Vec<_>) =
            outcomes.into_iter().partition(|outcome| *outcome == Outcome::Applied);
        assert_eq!(applied.len(), 1, "of eight writers");
        for outcome in refused {
            assert_eq!(outcome, Outcome::Refused(vec![Refusal { action: 0, found: winner.clone() }]));
        }
    }
}

/// An insert creates what is absent, says so for each, and overwrites nothing.
pub async fn inserts_create_only_what_is_absent(subject: &Subject) {
    let store = subject.provisioned().await;
    let first = |n: i32| item("p", &format!("{n:02}"), &[("by", Value::s("first"))]);
    let second = |n: i32| item("p", &format!("{n:02}"), &[("by", Value::s("second")), ("n", Value::n(n))]);
    let thirds = (0..60).filter(|n| n % 3 == 0);
    store.insert(Table::Data, thirds.map(first).collect()).await.unwrap();
    let created = store.insert(Table::Data, (0..60).map(second).collect()).await.unwrap();
    assert_eq!(created, (0..60).map(|n| n % 3 != 0).collect::<Vec<_>>());
    for n in 0..60 {
        let expected = if n % 3 == 0 { first(n) } else { second(n) };
        assert_eq!(stored(store, "p", &format!("{n:02}")).await, Some(expected));
    }
    assert_eq!(store.insert(Table::Data, vec![]).await.unwrap(), Vec::<bool>::new());
    assert_eq!(kind(store.insert(Table::Data, vec![first(90), second(90)]).await), ErrorKind::Internal);
    assert_eq!(stored(store, "p", "90").await, None);
}

/// Inserts and reads of more bytes than one request may hold are cut inside.
pub async fn large_batches_are_cut(subject: &Subject) {
    let store = subject.provisioned().await;
    // Escaped as JSON, each of the first ones' bytes is six; the others are more than a reply may hold.
    let filler = |n: i32| Value::s(if n < 8 { "\u{1}" } else { "x" }.repeat(390_000));
    let items: Vec<Item> = (0..50).map(|n| item("p", &format!("{n:02}"), &[("filler", filler(n))])).collect();
    assert_eq!(store.insert(Table::Data, items.clone()).await.unwrap(), vec![true; 50]);
    let keys: Vec<Key> = items.iter().map(key_of).collect();
    let found = store.get(Table::Data, &keys).await.unwrap();
    assert!(found.iter().zip(&items).all(|(found, item)| found.as_ref() == Some(item)));
    assert_eq!(query_all(store, Table::Data, Query::partition("p")).await.len(), 50);
}
