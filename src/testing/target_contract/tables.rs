//! What tables hold and how they are made: sizes, keys, indexes, provisioning.

use super::*;
use crate::plan::IndexPlan;
use crate::target::store::ProvisionResult;
use crate::value::{ITEM_BYTES_MAX, item_bytes};

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

/// An index holds the items that have both of its keys, and tells the keys alone.
pub async fn indexes_are_read(subject: &Subject) {
    let store = subject.provisioned().await;
    let read = async |index: &IndexPlan, at| {
        let mut items = Vec::new();
        store.read_index(index, at, &mut |item| items.push(item)).await.map(|()| items)
    };
    let items = (0..30).map(|n| {
        let mut attributes = vec![("gsi1pk", Value::s("ALL"))];
        if n % 3 != 0 {
            attributes.push(("gsi1sk", Value::s(format!("{n}"))));
        }
        item("p", &format!("{n}"), &attributes)
    });
    store.insert(Table::Data, items.collect()).await.unwrap();
    let [first, second] = [&subject.plan.indexes[0], &subject.plan.indexes[1]];
    assert_eq!(read(first, None).await.unwrap().len(), 20);
    assert_eq!(read(second, None).await.unwrap(), []);
    let expected = item("p", "7", &[("gsi1pk", Value::s("ALL")), ("gsi1sk", Value::s("7"))]);
    assert_eq!(read(first, Some(("ALL", "7"))).await.unwrap(), [expected]);
    assert_eq!(read(first, Some(("ALL", "9"))).await.unwrap(), []);
    let unknown = IndexPlan { name: "GSI9".to_owned(), ..first.clone() };
    assert_eq!(kind(read(&unknown, None).await), ErrorKind::NotFound);
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
