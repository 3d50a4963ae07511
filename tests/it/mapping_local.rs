//! Whatever the mapping accepts, Amazon's DynamoDB Local stores and gives back.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use migrate::blob::Pathname;
use migrate::clock::{Clock as _, SystemClock};
use migrate::mapping::{BlobFacts, MappedItem, Mapper, Rule, SOURCE_ATTRIBUTE, source_bytes};
use migrate::plan::Plan;
use migrate::target::dynamodb::{DynamoConfig, DynamoTarget};
use migrate::target::{Condition, Outcome, Table, TargetStore as _, Write};
use migrate::value::{ITEM_BYTES_MAX, Item, Key, Value, item_bytes};
use proptest::prelude::*;
use proptest::test_runner::{RngAlgorithm, TestCaseError, TestRng, TestRunner};

use crate::target_local::Local;

/// The same fields under every placement of them, and every policy.
const PLAN: &str = r#"
[source]
store = "local"
[target]
table = "whatever"
partition_key = "PK"
sort_key = "SK"
[[target.index]]
name = "GSI1"
partition_key = "gsi1pk"
sort_key = "gsi1sk"
[[entity]]
name = "plain"
blobs = "plain/{file}"
[[entity.item]]
PK = "{{ body.k | default(file) }}"
SK = "{{ body.s | default('M') }}"
gsi1pk = "{{ body.a }}"
gsi1sk = "{{ body.b }}"
[[entity]]
name = "marked"
blobs = "marked/{file}"
numbers = "text"
empty_strings = "omit"
too_large = "compress"
[[entity.item]]
PK = "{{ body.k | default(file) }}"
SK = "{{ body.s | default('M') }}"
gsi1pk = "{{ body.a }}"
gsi1sk = "{{ body.b }}"
[[entity]]
name = "nested"
blobs = "nested/{file}"
[[entity.item]]
each = "[*]"
body = "nested:record"
PK = "{{ record.k | default(file) }}"
SK = "{{ index }}"
[[entity]]
name = "split"
blobs = "split/{file}"
too_large = "split"
numbers = "text"
[[entity.item]]
body = "nested:record"
PK = "{{ body.k | default(file) }}"
SK = "{{ body.s | default('M') }}"
"#;

const ENTITIES: [&str; 4] = ["plain", "marked", "nested", "split"];

/// No new documents after this, on a machine of whatever speed.
const TIME_MAX: Duration = Duration::from_secs(30);
const DOCUMENTS: u32 = 400;

/// A document: its members as JSON, and how far from the limit the item of them is filled up.
#[derive(Debug, Clone)]
struct Document {
    members: BTreeMap<String, String>,
    fill: Option<isize>,
}

impl Document {
    fn json(&self, filled: usize, entity: &str) -> String {
        let mut members: Vec<String> = self.members.iter().map(|(name, json)| member(name, json)).collect();
        if self.fill.is_some() {
            members.push(member("filling", &format!("\"{}\"", "x".repeat(filled))));
        }
        let record = format!("{{{}}}", members.join(","));
        if entity == "nested" { format!("[{record}, {record}]") } else { record }
    }
}

fn member(name: &str, json: &str) -> String {
    format!("{}:{json}", quoted(name))
}

fn quoted(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}

fn number() -> impl Strategy<Value = String> {
    prop_oneof![
        3 => "-?(0|[1-9][0-9]{0,18})(\\.[0-9]{1,18})?([eE][+-]?[0-9]{1,2})?",
        2 => ("-?[1-9]", "[0-9]{34,39}", 0..=40usize).prop_map(|(first, mut digits, point)| {
            if point < digits.len() {
                digits.insert(point, '.');
            }
            let digits = if digits.starts_with('.') { format!("0{digits}") } else { digits };
            if digits.ends_with('.') { first } else { format!("{first}{digits}") }
        }),
        2 => ("-?[1-9](\\.[0-9]{1,36}[1-9])?", prop_oneof![-132..=-126i32, 122..=127i32])
            .prop_map(|(digits, exponent)| format!("{digits}e{exponent}")),
        1 => prop_oneof![
            Just("-0"), Just("0e9999"), Just("0.00000000000000000000000000000000000000000000000000"),
            Just("9.9999999999999999999999999999999999999e125"), Just("1e-130"), Just("1e-131"), Just("1e126"),
            Just("100000000000000000000000000000000000000000000000000"), Just("1.000000000000000000000000000000000000000000"),
        ].prop_map(str::to_owned),
    ]
}

fn text() -> impl Strategy<Value = String> {
    prop_oneof![
        2 => Just(String::new()),
        4 => ".{0,12}",
        1 => "\\PC{1,8}",
        1 => prop::collection::vec(any::<char>(), 1..6).prop_map(String::from_iter),
        1 => Just("\0 \u{feff}\u{fffd}\u{10ffff}\u{212a}e\u{301}".to_owned()),
    ]
}

fn name() -> impl Strategy<Value = String> {
    prop_oneof![
        12 => "[c-j]{1,6}",
        4 => "(é|e\u{301}|名|😀|\\.|:v|#n|/|~| ){1,5}",
        3 => text(),
        1 => (65_530..65_538usize).prop_map(|length| "n".repeat(length)),
    ]
}

fn value() -> impl Strategy<Value = String> {
    let leaf = prop_oneof![
        1 => Just("null".to_owned()),
        1 => any::<bool>().prop_map(|truth| truth.to_string()),
        3 => number(),
        3 => text().prop_map(|text| quoted(&text)),
    ];
    let tree = leaf.prop_recursive(4, 12, 3, |inner| {
        let members = prop::collection::btree_map("[a-d]|é|", inner.clone(), 0..3);
        prop_oneof![
            prop::collection::vec(inner, 0..3).prop_map(|list| format!("[{}]", list.join(","))),
            members.prop_map(|members| object(&members)),
        ]
    });
    // The item is a level, and so is an attribute around the record.
    let deep = (27..=33usize, any::<u64>(), number()).prop_map(|(levels, kinds, leaf)| {
        (0..levels).fold(leaf, |inner, level| {
            if kinds >> level & 1 == 0 { format!("[{inner}]") } else { format!("{{\"d\":{inner}}}") }
        })
    });
    prop_oneof![8 => tree, 1 => deep]
}

fn object(members: &BTreeMap<String, String>) -> String {
    let members: Vec<String> = members.iter().map(|(name, json)| member(name, json)).collect();
    format!("{{{}}}", members.join(","))
}

/// A key's input: usual, missing in every way, or near a limit in bytes.
fn key(bytes_max: usize) -> impl Strategy<Value = Option<String>> {
    let near = (bytes_max - 4..=bytes_max + 2, prop_oneof![Just("x"), Just("é"), Just("名"), Just("😀")]);
    let near = near.prop_map(|(bytes, letter)| {
        let text = letter.repeat(bytes / letter.len());
        let rest = "x".repeat(bytes - text.len());
        quoted(&(text + &rest))
    });
    prop_oneof![
        2 => Just(None),
        1 => Just(Some("null".to_owned())),
        1 => Just(Some("\"\"".to_owned())),
        1 => number().prop_map(Some),
        2 => text().prop_map(|text| Some(quoted(&text))),
        2 => near.prop_map(Some),
    ]
}

fn document() -> impl Strategy<Value = Document> {
    let keys = (key(2048), key(1024), key(2048), key(1024));
    let members = prop::collection::btree_map(name(), value(), 0..4);
    let fill = prop_oneof![5 => Just(None), 1 => (-3..=3isize).prop_map(Some)];
    (keys, members, fill).prop_map(|((k, s, a, b), mut members, fill)| {
        for (name, json) in [("k", k), ("s", s), ("a", a), ("b", b)] {
            members.remove(name);
            members.extend(json.map(|json| (name.to_owned(), json)));
        }
        Document { members, fill }
    })
}

struct World {
    runtime: tokio::runtime::Runtime,
    target: DynamoTarget,
    mapper: Mapper,
    /// How many documents of each entity were stored, and how many of those were filled up.
    stored: RefCell<BTreeMap<&'static str, (usize, usize)>>,
}

impl World {
    fn map(&self, pathname: &Pathname, body: &str) -> Option<Vec<MappedItem>> {
        let Rule::Entity(entity) = self.mapper.rule(pathname) else { panic!("{pathname} has no entity") };
        let now = "2026-02-01T00:00:00Z".parse().unwrap();
        let facts = BlobFacts { pathname, uploaded_at: now };
        self.mapper.map(entity, facts, body.as_bytes(), now).ok()
    }

    /// The body of a document, filled up until its largest item is so far from the limit.
    fn body(&self, document: &Document, pathname: &Pathname, entity: &str) -> String {
        let empty = document.json(0, entity);
        let Some(fill) = document.fill else { return empty };
        let Some(items) = self.map(pathname, &empty) else { return empty };
        let bytes = items.iter().map(|mapped| item_bytes(&mapped.item)).max().unwrap_or(0);
        let room = ITEM_BYTES_MAX.saturating_sub(bytes + source_bytes(pathname.as_str()));
        document.json(room.saturating_add_signed(fill), entity)
    }

    fn check(&self, document: &Document, entity: &'static str) -> Result<(), TestCaseError> {
        let pathname = Pathname::new(format!("{entity}/f"));
        let body = self.body(document, &pathname, entity);
        let Some(items) = self.map(&pathname, &body) else { return Ok(()) };
        let source = BTreeMap::from([
            ("pathname".to_owned(), Value::s(pathname.as_str())),
            ("rev".to_owned(), Value::s("0".repeat(32))),
        ]);
        let items = items.into_iter().map(|MappedItem { key, mut item, .. }| {
            item.insert(SOURCE_ATTRIBUTE.to_owned(), Value::M(source.clone()));
            (key, item)
        });
        let (keys, items): (Vec<Key>, Vec<Item>) = items.unzip();
        for item in &items {
            let put = Write::Put { table: Table::Data, item: item.clone(), condition: Condition::Always };
            let token = migrate::target::control::names::token();
            let outcome = self.runtime.block_on(self.target.transact(&token, vec![put]));
            prop_assert!(matches!(outcome, Ok(Outcome::Applied)), "{entity}: refused with {outcome:?}");
        }
        let stored = self.runtime.block_on(self.target.get(Table::Data, &keys)).unwrap();
        for (stored, item) in stored.iter().zip(&items) {
            prop_assert_eq!(stored.as_ref(), Some(item), "{} came back as another item", entity);
        }
        let mut counts = self.stored.borrow_mut();
        let (all, filled) = counts.entry(entity).or_default();
        *all += 1;
        *filled += usize::from(document.fill.is_some());
        Ok(())
    }
}

#[test]
fn dynamodb_local_stores_whatever_is_mapped_and_gives_it_back() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let plan: Plan = toml::from_str(PLAN).unwrap();
    let local = runtime.block_on(Local::start());
    let clock = Arc::new(SystemClock::new());
    let config = DynamoConfig::new(plan.target.clone(), Arc::clone(&clock) as _);
    let target = runtime.block_on(DynamoTarget::connect(config.endpoint(local.endpoint()))).unwrap();
    runtime.block_on(target.provision(&plan.target, false, false)).unwrap();
    let world = World { runtime, target, mapper: Mapper::new(&plan).unwrap(), stored: RefCell::default() };

    let seed: [u8; 32] = rand::random();
    eprintln!("seed {seed:?}");
    let config = ProptestConfig { failure_persistence: None, cases: DOCUMENTS, ..ProptestConfig::default() };
    let mut runner = TestRunner::new_with_rng(config, TestRng::from_seed(RngAlgorithm::ChaCha, &seed));
    let began = clock.monotonic();
    let checked = runner.run(&document(), |document| {
        if clock.monotonic() - began > TIME_MAX {
            return Ok(());
        }
        ENTITIES.into_iter().try_for_each(|entity| world.check(&document, entity))
    });
    checked.unwrap_or_else(|error| panic!("{error:.4000}"));
    let stored = world.stored.into_inner();
    eprintln!("{stored:?} after {:?}", clock.monotonic() - began);
    for entity in ENTITIES {
        let (all, filled) = stored.get(entity).copied().unwrap_or_default();
        assert!(all >= 20 && filled >= 1, "too few to prove anything: {stored:?}");
    }
}
