//! DynamoDB as the application's Blob store does what every Blob store must.

use migrate::anchored::Anchored;
use migrate::blob::memory::MemoryConfig;
use migrate::blob::store::Access;
use migrate::testing::blob_contract::Subject;

use super::harness::Rig;

/// Every blob is mapped, as bytes.
const EVERYTHING: &str = r#"
[source]
store = "test"
[target]
table = "test"
partition_key = "PK"
sort_key = "SK"
[[entity]]
name = "file"
blobs = "**"
decode = "raw"
too_large = "split"
[[entity.item]]
PK = "FILE#{{ pathname | sha256 }}"
SK = "META"
body = "nested:bytes"
"#;

/// With `prefix`, only what begins so is DynamoDB's, and everything else Blob's.
fn subject(prefix: &str) -> Subject {
    let rig = Rig::with(EVERYTHING);
    let store = Anchored::new(rig.converger.clone(), prefix);
    let access: Access = MemoryConfig::default().access;
    Subject { store: std::sync::Arc::new(store), access, guard: Box::new(()) }
}

mod all_in_dynamodb {
    use super::*;

    async fn make() -> Subject {
        subject("")
    }

    migrate::blob_contract!(make);
}

mod some_in_blob {
    use super::*;

    async fn make() -> Subject {
        subject("a")
    }

    migrate::blob_contract!(make);
}
