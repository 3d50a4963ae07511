//! What every [`TargetStore`] must do, one check each; [`target_contract!`](crate::target_contract) makes
//! tests of them for one implementation.
//!
//! Each check begins without tables, under names that no other check uses.
#![expect(clippy::unwrap_used, reason = "a test ends at the first surprise")]

use std::any::Any;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use bytes::Bytes;
use futures::future::join_all;

use crate::error::{Error, ErrorKind};
use crate::plan::TargetPlan;
use crate::target::store::{ProvisionResult, Query, Scan};
use crate::target::{Condition, Outcome, Refusal, Table, TargetStore, Write};
use crate::value::{ITEM_BYTES_MAX, Item, Key, Value, item_bytes};

/// A store under test, and what must live as long as it does.
pub struct Subject {
    /// The store. It has no tables yet.
    pub store: Arc<dyn TargetStore>,
    /// The plan it was made with.
    pub plan: TargetPlan,
    /// Dropped after the test: a server, say.
    pub guard: Box<dyn Any + Send + Sync>,
}

/// A plan with everything that a table can have.
///
/// # Panics
/// Never: it is a constant.
#[must_use]
pub fn plan(table: &str) -> TargetPlan {
    let text = format!(
        "table = '{table}'\nregion = 'eu-west-2'\npartition_key = 'PK'\nsort_key = 'SK'\nttl = 'ttl'\n\
         stream = 'NEW_AND_OLD_IMAGES'\n\
         [[index]]\nname = 'GSI1'\npartition_key = 'gsi1pk'\nsort_key = 'gsi1sk'\n\
         [[index]]\nname = 'GSI2'\npartition_key = 'gsi2pk'\nsort_key = 'gsi2sk'\n"
    );
    toml::from_str(&text).expect("invariant: a valid plan")
}

impl Subject {
    /// A store that needs nothing else.
    pub fn new(store: Arc<dyn TargetStore>, plan: TargetPlan) -> Self {
        Self { store, plan, guard: Box::new(()) }
    }

    async fn provisioned(&self) -> &dyn TargetStore {
        self.store.provision(&self.plan, false, false).await.expect("tables");
        &*self.store
    }
}

fn item(partition: &str, sort: &str, attributes: &[(&str, Value)]) -> Item {
    let mut item: Item = attributes.iter().map(|(name, value)| ((*name).to_owned(), value.clone())).collect();
    item.insert("PK".to_owned(), Value::s(partition));
    item.insert("SK".to_owned(), Value::s(sort));
    item
}

fn key_of(item: &Item) -> Key {
    Key::new(item["PK"].as_s().unwrap(), item["SK"].as_s().unwrap())
}

fn put(item: Item, condition: Condition) -> Write {
    Write::Put { table: Table::Data, item, condition }
}

async fn store_item(store: &dyn TargetStore, item: &Item) {
    let outcome = store.transact("store", vec![put(item.clone(), Condition::Always)]).await;
    assert_eq!(outcome.expect("an answer"), Outcome::Applied, "{}", key_of(item));
}

async fn stored(store: &dyn TargetStore, partition: &str, sort: &str) -> Option<Item> {
    store.get(Table::Data, &[Key::new(partition, sort)]).await.expect("a read").remove(0)
}

async fn scan_all(store: &dyn TargetStore, segments: u32) -> Vec<Item> {
    let mut items = Vec::new();
    for segment in 0..segments {
        let mut scan = Scan { segment, segments, after: None };
        loop {
            let page = store.scan(Table::Data, &scan).await.expect("a page");
            items.extend(page.items);
            scan.after = page.next;
            if scan.after.is_none() {
                break;
            }
        }
    }
    items
}

async fn query_all(store: &dyn TargetStore, table: Table, mut query: Query) -> Vec<Item> {
    let mut items = Vec::new();
    loop {
        let page = store.query(table, &query).await.expect("a page");
        if let Some(limit) = query.limit {
            assert!(page.items.len() <= limit as usize, "a page is longer than its limit");
        }
        items.extend(page.items);
        query.after = page.next;
        if query.after.is_none() {
            return items;
        }
    }
}

fn number(text: &str) -> Value {
    Value::N(text.parse().expect("a number"))
}

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

fn kind<T: std::fmt::Debug>(result: Result<T, Error>) -> ErrorKind {
    result.expect_err("an error").kind()
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

/// Items whose size is exactly the largest one, made of different kinds of values.
fn largest_items() -> Vec<Item> {
    let fillers: [(&str, Vec<(&str, Value)>); 5] = [
        ("text", vec![]),
        ("unicode", vec![("é", Value::s("é😀".repeat(1000)))]),
        (
            "numbers",
            vec![
                ("list", Value::L((0..2000).map(|n| Value::n(n * 1001)).collect())),
                ("short", number("-1")),
                ("long", number("12345678901234567890123456789012345678")),
                ("small", number("-1.5e-130")),
                ("round", number("1e125")),
            ],
        ),
        (
            "nested",
            vec![(
                "map",
                (0..20).fold(Value::Null, |inner, n| {
                    Value::M([(format!("level{n}"), inner), ("list".to_owned(), Value::L(vec![]))].into())
                }),
            )],
        ),
        ("bytes", vec![("b", Value::B(vec![255; 1000].into())), ("t", Value::Bool(true))]),
    ];
    fillers
        .into_iter()
        .map(|(name, attributes)| fill(item("largest", name, &attributes), ITEM_BYTES_MAX))
        .collect()
}

/// Fills an item up to a size.
fn fill(mut item: Item, bytes: usize) -> Item {
    item.insert("filler".to_owned(), Value::s(""));
    let rest = bytes - item_bytes(&item);
    item.insert("filler".to_owned(), Value::s("x".repeat(rest)));
    item
}

/// An item of 409,600 bytes is stored, and one of a byte more is refused before it is sent.
pub async fn items_have_a_limit(subject: &Subject) {
    let store = subject.provisioned().await;
    for largest in largest_items() {
        assert_eq!(item_bytes(&largest), ITEM_BYTES_MAX);
        store_item(store, &largest).await;
        let key = key_of(&largest);
        assert_eq!(stored(store, &key.partition, &key.sort).await, Some(largest));
    }
    let larger = fill(item("larger", "s", &[]), ITEM_BYTES_MAX + 1);
    let write = put(larger.clone(), Condition::Always);
    assert_eq!(kind(store.transact("larger", vec![write]).await), ErrorKind::Unrepresentable);
    assert_eq!(kind(store.insert(Table::Data, vec![larger]).await), ErrorKind::Unrepresentable);
    assert_eq!(stored(store, "larger", "s").await, None);
}

/// Keys are strings of 1 to 2,048 and 1 to 1,024 bytes; those of an index too, where they are present.
pub async fn keys_have_limits(subject: &Subject) {
    let store = subject.provisioned().await;
    let (partition, sort) = ("é".repeat(1024), "s".repeat(1024));
    let index_keys = [("gsi1pk", Value::s(&partition)), ("gsi1sk", Value::s(&sort))];
    let largest = item(&partition, &sort, &index_keys);
    store_item(store, &largest).await;
    assert_eq!(stored(store, &partition, &sort).await, Some(largest));

    let long = "x".repeat(2049);
    let mut unfit =
        vec![item(&long, "s", &[]), item("p", &long[..1025], &[]), item("", "s", &[]), item("p", "", &[])];
    for value in [Value::s(""), Value::n(1), Value::Null, Value::s(&long[..1025])] {
        unfit.push(item("p", "s", &[("gsi1pk", Value::s("x")), ("gsi1sk", value)]));
    }
    for item in unfit {
        let write = put(item.clone(), Condition::Always);
        assert_eq!(kind(store.transact("unfit", vec![write]).await), ErrorKind::Unrepresentable);
        assert_eq!(kind(store.insert(Table::Data, vec![item]).await), ErrorKind::Unrepresentable);
    }
    assert_eq!(kind(store.get(Table::Data, &[Key::new("p", "")]).await), ErrorKind::Unrepresentable);
    assert_eq!(scan_all(store, 1).await.len(), 1);
}

/// An index counts the items that have both of its keys.
pub async fn indexes_are_counted(subject: &Subject) {
    let store = subject.provisioned().await;
    let items = (0..30).map(|n| {
        let mut attributes = vec![("gsi1pk", Value::s("ALL"))];
        if n % 3 != 0 {
            attributes.push(("gsi1sk", Value::s(format!("{n}"))));
        }
        item("p", &format!("{n}"), &attributes)
    });
    store.insert(Table::Data, items.collect()).await.unwrap();
    assert_eq!(store.count_index("GSI1").await.unwrap(), 20);
    assert_eq!(store.count_index("GSI2").await.unwrap(), 0);
    assert_eq!(kind(store.count_index("GSI9").await), ErrorKind::NotFound);
}

/// Provisioning creates both tables once, says so, and finds everything in place the next time.
pub async fn provisioning_is_repeatable(subject: &Subject) {
    let (store, plan) = (&subject.store, &subject.plan);
    let created = |steps: &[crate::target::store::Provisioned]| -> Vec<String> {
        let created = steps.iter().filter(|step| step.result == ProvisionResult::Created);
        created.map(|step| step.what.clone()).collect()
    };
    assert_eq!(store.describe(Table::Data).await.unwrap(), None);
    let dry = store.provision(plan, false, true).await.unwrap();
    assert_eq!(store.describe(Table::Data).await.unwrap(), None, "a dry run creates nothing");

    let first = store.provision(plan, false, false).await.unwrap();
    assert_eq!(created(&first), created(&dry), "a dry run says what would be done");
    let tables = [format!("table {}", plan.table), format!("table {}", plan.control_table())];
    assert!(tables.iter().all(|table| created(&first).contains(table)), "{first:?}");

    let again = store.provision(plan, false, false).await.unwrap();
    assert_eq!(created(&again), Vec::<String>::new());
    let differs = again.iter().find(|step| matches!(step.result, ProvisionResult::Differs(_)));
    assert_eq!(differs, None);

    let data = store.describe(Table::Data).await.unwrap().expect("a table");
    assert_eq!(data.name, plan.table);
    assert_eq!(data.keys, ("PK".to_owned(), Some("SK".to_owned())));
    assert!(data.active && data.on_demand, "{data:?}");
    assert_eq!(data.ttl.as_deref(), Some("ttl"));
    assert_eq!(data.indexes.len(), 2);
    for index in &data.indexes {
        assert!(index.active && index.projects_all, "{index:?}");
    }
    let control = store.describe(Table::Control).await.unwrap().expect("a table");
    assert_eq!(control.keys, ("pk".to_owned(), Some("sk".to_owned())));
    assert_eq!((control.ttl, control.stream, control.indexes.len()), (None, None, 0));
}

/// A table with other keys is an error, and stays as it is.
pub async fn other_keys_are_not_touched(subject: &Subject) {
    let store = subject.provisioned().await;
    let kept = item("p", "s", &[]);
    store_item(store, &kept).await;
    let before = store.describe(Table::Data).await.unwrap();
    let other = TargetPlan { partition_key: "id".to_owned(), ..subject.plan.clone() };
    let error = store.provision(&other, false, false).await.expect_err("other keys");
    assert_eq!(error.kind(), ErrorKind::Usage);
    let text = error.to_string();
    assert!(text.contains("id") && text.contains("PK"), "{text}");
    assert_eq!(store.describe(Table::Data).await.unwrap(), before);
    assert_eq!(stored(store, "p", "s").await, Some(kept));
}

/// Without a table, every operation says so, and what to do.
pub async fn a_missing_table_is_named(subject: &Subject) {
    let store = &*subject.store;
    let table = Table::Data;
    let scan = Scan { segment: 0, segments: 1, after: None };
    let pair = vec![put(item("p", "s", &[]), Condition::Always), put(item("p", "t", &[]), Condition::Always)];
    let errors = [
        store.get(table, &[Key::new("p", "s")]).await.expect_err("no table"),
        store.query(table, &Query::partition("p")).await.expect_err("no table"),
        store.scan(table, &scan).await.expect_err("no table"),
        store.insert(table, vec![item("p", "s", &[])]).await.expect_err("no table"),
        store.transact("one", pair[..1].to_vec()).await.expect_err("no table"),
        store.transact("two", pair).await.expect_err("no table"),
        store.count_index("GSI1").await.expect_err("no table"),
    ];
    for error in errors {
        assert_eq!(error.kind(), ErrorKind::NotFound, "{error}");
        assert!(error.advice().is_some_and(|advice| advice.contains("migrate provision")), "{error}");
    }
}

/// Makes a test of each check. `make` is an async function from the name of a check to a [`Subject`];
/// with `together`, all checks are one test, for a server that takes long to start: `make` is then
/// called with what `start` returned, too.
#[macro_export]
macro_rules! target_contract {
    ($make:path) => {
        $crate::target_contract!(@checks each $make);
    };
    (together $start:path, $make:path) => {
        $crate::target_contract!(@checks together $start, $make);
    };
    (@checks $($how:tt)*) => {
        $crate::target_contract!(@make [
            values_survive,
            numbers_are_decimals,
            many_keys_are_read_in_order,
            queries_are_sorted_by_bytes,
            scans_cover_everything_once,
            conditions_mean_the_same,
            transactions_are_all_or_nothing,
            a_token_makes_repetition_harmless,
            transactions_have_limits,
            one_of_many_writers_wins,
            inserts_create_only_what_is_absent,
            large_batches_are_cut,
            items_have_a_limit,
            keys_have_limits,
            indexes_are_counted,
            provisioning_is_repeatable,
            other_keys_are_not_touched,
            a_missing_table_is_named,
        ] $($how)*);
    };
    (@make [$($check:ident,)*] each $make:path) => {
        $(
            #[tokio::test]
            async fn $check() {
                $crate::testing::target_contract::$check(&$make(stringify!($check)).await).await;
            }
        )*
    };
    (@make [$($check:ident,)*] together $start:path, $make:path) => {
        #[tokio::test]
        async fn holds() {
            let server = $start().await;
            $(
                println!("check {}", stringify!($check));
                $crate::testing::target_contract::$check(&$make(&server, stringify!($check)).await).await;
            )*
        }
    };
}
