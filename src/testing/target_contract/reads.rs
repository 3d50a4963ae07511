//! Reads: values, numbers, batches, queries, scans, and what is said where there is no table.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;

use super::*;
use crate::target::store::Scan;

/// Every kind of value comes back as it was stored.
pub async fn values_survive(subject: &Subject) {
    let store = subject.provisioned().await;
    let nested: BTreeMap<String, Value> = [
        ("empty map".to_owned(), Value::M(BTreeMap::new())),
        ("ünïcödé 😀".to_owned(), Value::L(vec![Value::Null, Value::Bool(false), Value::s("")])),
        ("a.b[0]#:".to_owned(), number("-0.5")),
    ]
    .into();
    let whole = item(
        "p",
        "s",
        &[
            ("text", Value::s("line\nbreak \"quoted\" \u{0} 😀")),
            ("empty", Value::s("")),
            ("bytes", Value::B(Bytes::from_static(&[0, 255, 10]))),
            ("no bytes", Value::B(Bytes::new())),
            ("true", Value::Bool(true)),
            ("null", Value::Null),
            ("list", Value::L(vec![Value::M(nested.clone()), Value::L(vec![])])),
            ("map", Value::M(nested)),
            ("strings", Value::Ss(vec!["a".to_owned(), "b".to_owned()])),
            ("numbers", Value::Ns(vec!["1".parse().unwrap(), "2.5".parse().unwrap()])),
            ("binaries", Value::Bs(vec![Bytes::from_static(b"a"), Bytes::from_static(b"b")])),
            ("it's a \"name\"", Value::s("quotes")),
        ],
    );
    store_item(store, &whole).await;
    assert_eq!(stored(store, "p", "s").await.as_ref(), Some(&whole));

    let mut inserted = whole.clone();
    inserted.insert("SK".to_owned(), Value::s("inserted"));
    assert_eq!(store.insert(Table::Data, vec![inserted.clone()]).await.unwrap(), [true]);
    assert_eq!(stored(store, "p", "inserted").await, Some(inserted));
}

/// Numbers keep 38 digits and the whole range, and equal numbers are equal.
pub async fn numbers_are_decimals(subject: &Subject) {
    let store = subject.provisioned().await;
    for text in [
        "0",
        "-0.0",
        "1.50",
        "12345678901234567890123456789012345678",
        "0.00000012345678901234567890123456789012345678",
        "1e125",
        "-9.9999999999999999999999999999999999999e125",
        "1e-130",
        "-1e-130",
        "9007199254740993",
    ] {
        let whole = item("p", text, &[("n", number(text))]);
        store_item(store, &whole).await;
        assert_eq!(stored(store, "p", text).await, Some(whole), "{text}");
    }
    let equal = Condition::equals(["n"], number("15e-1"));
    let outcome = store.transact("equal", vec![put(item("p", "1.50", &[]), equal)]).await.unwrap();
    assert_eq!(outcome, Outcome::Applied, "1.50 is 15e-1");
}

/// A read of many keys has an answer for each, in their order; a key may be asked for twice.
pub async fn many_keys_are_read_in_order(subject: &Subject) {
    let store = subject.provisioned().await;
    let items: Vec<Item> = (0..230).map(|n| item("p", &format!("{n:03}"), &[("n", Value::n(n))])).collect();
    assert_eq!(store.insert(Table::Data, items.clone()).await.unwrap(), vec![true; 230]);

    let mut keys: Vec<Key> = items.iter().rev().map(key_of).collect();
    keys.insert(7, Key::new("p", "absent"));
    keys.push(keys[0].clone());
    let found = store.get(Table::Data, &keys).await.unwrap();
    assert_eq!(found.len(), 232);
    for (key, found) in keys.iter().zip(&found) {
        match found {
            Some(found) => assert_eq!(key_of(found), *key),
            None => assert_eq!(key.sort, "absent"),
        }
    }
    assert_eq!(store.get(Table::Data, &[]).await.unwrap(), []);
}

/// A query gives one partition in the order of UTF-8 bytes, page by page, by prefix too.
pub async fn queries_are_sorted_by_bytes(subject: &Subject) {
    let store = subject.provisioned().await;
    // UTF-16 would put U+10000 before U+FFFD.
    let mut sorts = ["B", "a", "ab", "abc", "b", "é", "\u{FFFD}", "\u{10000}", "😀"];
    let items = sorts.iter().flat_map(|sort| [item("p", sort, &[]), item("other", sort, &[])]).collect();
    store.insert(Table::Data, items).await.unwrap();
    sorts.sort_unstable_by_key(|sort| sort.as_bytes());

    for limit in [None, Some(1), Some(4)] {
        let query = Query { limit, ..Query::partition("p") };
        let items = query_all(store, Table::Data, query).await;
        let found: Vec<&str> = items.iter().map(|item| item["SK"].as_s().unwrap()).collect();
        assert_eq!(found, sorts, "limit {limit:?}");
        let query = Query { limit, descending: true, ..Query::partition("p") };
        let mut items = query_all(store, Table::Data, query).await;
        items.reverse();
        let found: Vec<&str> = items.iter().map(|item| item["SK"].as_s().unwrap()).collect();
        assert_eq!(found, sorts, "descending, limit {limit:?}");
    }
    let prefixed = Query { sort_prefix: "ab".to_owned(), limit: Some(1), ..Query::partition("p") };
    assert_eq!(query_all(store, Table::Data, prefixed).await.len(), 2);
    let after = Query { after: Some(Key::new("p", "b")), ..Query::partition("p") };
    assert_eq!(query_all(store, Table::Data, after).await.len(), 4);
    assert_eq!(query_all(store, Table::Data, Query::partition("nobody")).await, []);

    let row: Item = [("pk", "A#00"), ("sk", "name")].map(|(k, v)| (k.to_owned(), Value::s(v))).into();
    store.insert(Table::Control, vec![row.clone()]).await.unwrap();
    assert_eq!(query_all(store, Table::Control, Query::partition("A#00")).await, [row]);
}

/// The segments of a scan hold every item once, over any number of pages.
pub async fn scans_cover_everything_once(subject: &Subject) {
    let store = subject.provisioned().await;
    let filler = Value::s("x".repeat(20_000));
    let items: Vec<Item> =
        (0..120).map(|n| item(&format!("p{n}"), "s", &[("filler", filler.clone())])).collect();
    store.insert(Table::Data, items.clone()).await.unwrap();
    let expected: BTreeSet<Key> = items.iter().map(key_of).collect();
    for segments in [1, 4] {
        let found = scan_all(store, segments).await;
        assert_eq!(found.len(), 120, "{segments} segments");
        assert_eq!(found.iter().map(key_of).collect::<BTreeSet<_>>(), expected, "{segments} segments");
    }
}

/// A scan that asks for some attributes gets those, as far as an item has them, and no others.
pub async fn a_scan_brings_only_what_it_asks_for(subject: &Subject) {
    let store = subject.provisioned().await;
    let rows = vec![
        item("p", "a", &[("name", Value::s("n")), ("other", Value::s("o"))]),
        item("p", "b", &[("other", Value::s("o"))]),
    ];
    store.insert(Table::Data, rows).await.unwrap();
    // `name` is a word that DynamoDB reserves.
    let only = ["PK", "SK", "name"].map(str::to_owned).to_vec();
    let page = store.scan(Table::Data, &Scan { only, ..Scan::share(0, 1) }).await.unwrap();
    let found: BTreeSet<String> = page.items.iter().map(|item| format!("{item:?}")).collect();
    let expected = [item("p", "a", &[("name", Value::s("n"))]), item("p", "b", &[])];
    assert_eq!(found, expected.iter().map(|item| format!("{item:?}")).collect());
}

/// Without a table, every operation says so, and what to do.
pub async fn a_missing_table_is_named(subject: &Subject) {
    let store = &*subject.store;
    let table = Table::Data;
    let scan = Scan::share(0, 1);
    let pair = vec![put(item("p", "s", &[]), Condition::Always), put(item("p", "t", &[]), Condition::Always)];
    let errors = [
        store.get(table, &[Key::new("p", "s")]).await.expect_err("no table"),
        store.query(table, &Query::partition("p")).await.expect_err("no table"),
        store.scan(table, &scan).await.expect_err("no table"),
        store.insert(table, vec![item("p", "s", &[])]).await.expect_err("no table"),
        store.transact("one", pair[..1].to_vec()).await.expect_err("no table"),
        store.transact("two", pair).await.expect_err("no table"),
        store.read_index(&subject.plan.indexes[0], None, &mut |_| {}).await.expect_err("no table"),
    ];
    for error in errors {
        assert_eq!(error.kind(), ErrorKind::NotFound, "{error}");
        assert!(error.advice().is_some_and(|advice| advice.contains("migrate provision")), "{error}");
    }
}
