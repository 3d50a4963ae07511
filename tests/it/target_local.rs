//! The contract on Amazon's DynamoDB Local: one test, because the server takes seconds to start.

use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use migrate::clock::{Clock as _, SystemClock};
use migrate::target::dynamodb::{DynamoConfig, DynamoTarget};
use migrate::testing::target_contract::{Subject, plan};

const EMULATOR: &str = concat!(
    env!("CARGO_MANIFEST_DIR"),
    "/tests/dynamodb-local/node_modules/amplify-dynamodb-simulator/emulator"
);
const READY_MAX: Duration = Duration::from_secs(120);

/// A server of its own, in memory, which ends with the test however that ends.
pub(crate) struct Local {
    server: Child,
    port: u16,
}

impl Local {
    pub(crate) async fn start() -> Self {
        assert!(
            Path::new(EMULATOR).join("DynamoDBLocal.jar").exists(),
            "Amazon's DynamoDB Local is not installed: run `.ci/setup`"
        );
        // It cannot choose a free port itself.
        let port = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap().local_addr().unwrap().port();
        let server = Command::new("java")
            .args(["-Xmx768m", "-Djava.library.path=./DynamoDBLocal_lib", "-jar", "DynamoDBLocal.jar"])
            .args(["-inMemory", "-sharedDb", "-disableTelemetry", "-port", &port.to_string()])
            .current_dir(EMULATOR)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("java starts; if it is missing, run `.ci/setup`");
        let mut local = Self { server, port };
        let clock = SystemClock::new();
        while TcpStream::connect((Ipv4Addr::LOCALHOST, port)).is_err() {
            assert_eq!(local.server.try_wait().unwrap(), None, "DynamoDB Local ended at once");
            assert!(clock.monotonic() < READY_MAX, "DynamoDB Local is not ready after {READY_MAX:?}");
            clock.sleep(Duration::from_millis(50)).await;
        }
        local
    }

    pub(crate) fn endpoint(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }
}

impl Drop for Local {
    fn drop(&mut self) {
        self.server.kill().expect("the server is ours to end");
        self.server.wait().expect("the server has ended");
    }
}

async fn make(local: &Local, check: &str) -> Subject {
    let plan = plan(check);
    let config = DynamoConfig::new(plan.clone(), Arc::new(SystemClock::new()));
    let store = DynamoTarget::connect(config.endpoint(local.endpoint())).await.unwrap();
    Subject::new(Arc::new(store), plan)
}

migrate::target_contract!(together Local::start, make);
