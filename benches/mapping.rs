//! How fast blobs become items, on one core: `cargo bench --bench mapping`.
//!
//! The bound: 100,000 sign-ups of 1 KB at 50,000 blobs a second or more.

use std::hint::black_box;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use jiff::Timestamp;
use migrate::blob::Pathname;
use migrate::fixture::{self, FixtureBlob};
use migrate::mapping::{BlobFacts, MappedItem, Mapper, Rule};
use migrate::plan;
use migrate::value::Item;

const SIGNUPS: usize = 100_000;
const SIGNUP_BYTES: usize = 1_024;
const RECORDS: usize = 10_000;

const LIST: &str = r#"
[source]
store = "bench"
[target]
table = "bench"
partition_key = "PK"
sort_key = "SK"
[[entity]]
name = "user"
blobs = "users.json"
[[entity.item]]
each = "users[*]"
PK = "USER#{{ record.email | lower | sha256 }}"
SK = "{{ index }}"
"#;

fn map(mapper: &Mapper, pathname: &Pathname, body: &[u8], now: Timestamp) -> Vec<MappedItem> {
    let Rule::Entity(entity) = mapper.rule(pathname) else { panic!("no entity takes {pathname}") };
    let facts = BlobFacts { pathname, uploaded_at: now };
    mapper.map(entity, facts, body, now).expect("it can be mapped")
}

fn signups(criterion: &mut Criterion) {
    let plan = plan::parse("migration-plan.md", fixture::PLAN, &[]).expect("a plan").plan;
    let mapper = Mapper::new(&plan).expect("it compiles");
    let blobs: Vec<FixtureBlob> = fixture::signups(1, SIGNUPS, SIGNUP_BYTES).collect();
    let now = "2026-02-01T00:00:00Z".parse().expect("a time");
    let mut group = criterion.benchmark_group("mapping");
    group.throughput(Throughput::Elements(SIGNUPS as u64)).sample_size(10);
    group.bench_function("sign-ups of 1 KB", |bencher| {
        bencher.iter(|| {
            for blob in &blobs {
                black_box(map(&mapper, &blob.pathname, &blob.body, now));
            }
        });
    });
    group.finish();
}

fn records(criterion: &mut Criterion) {
    let plan = toml::from_str(LIST).expect("a plan");
    let mapper = Mapper::new(&plan).expect("it compiles");
    let bodies: Vec<String> = fixture::signups(1, RECORDS, SIGNUP_BYTES)
        .map(|blob| String::from_utf8(blob.body.to_vec()).expect("JSON"))
        .collect();
    let body = format!("{{\"users\": [{}]}}", bodies.join(","));
    let pathname = Pathname::from("users.json");
    let Rule::Entity(entity) = mapper.rule(&pathname) else { panic!("no entity takes {pathname}") };
    let now = "2026-02-01T00:00:00Z".parse().expect("a time");
    let mapped = map(&mapper, &pathname, body.as_bytes(), now);
    let document = mapper.decode(entity, body.as_bytes()).expect("a document");
    let items: Vec<&Item> = mapped.iter().map(|mapped| &mapped.item).collect();

    let mut group = criterion.benchmark_group("records of one blob");
    group.throughput(Throughput::Elements(RECORDS as u64)).sample_size(10);
    group.bench_function("map", |bencher| {
        bencher.iter(|| black_box(map(&mapper, &pathname, body.as_bytes(), now)));
    });
    group.bench_function("rebuild", |bencher| {
        bencher.iter(|| {
            let skeleton = mapper.skeleton(entity, &document, &mapped);
            black_box(mapper.rebuild(entity, &items, &skeleton))
        });
    });
    group.finish();
}

criterion_group!(benches, signups, records);
criterion_main!(benches);
