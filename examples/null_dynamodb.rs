//! A DynamoDB that does nothing, at once: `cargo run --release --example null_dynamodb -- 127.0.0.1:8000`.
//!
//! It shows what the gateway itself takes. Every write is answered with success and forgotten; only the rows that
//! a gateway needs to start and to go on (header, mode, sessions, evidence) are kept. No condition ever fails,
//! and no anchor is ever found, so every put looks like the first one of its pathname. `GET /` says how many
//! requests of each operation there were, and how many actions in them.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};

use axum::Router;
use axum::body::Bytes;
use axum::extract::State;
use axum::http::{HeaderMap, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::serve::ListenerExt as _;
use clap::Parser;
use serde_json::{Value, json};

/// Partitions that grow with the load: nothing of them is kept.
const FORGOTTEN: [&str; 5] = ["A#", "B#", "G#", "I#", "K#"];

#[derive(Parser)]
struct Arguments {
    /// Where it listens
    listen: SocketAddr,
}

#[derive(Default)]
struct Kept {
    rows: BTreeMap<(String, String), Value>,
    counts: BTreeMap<String, u64>,
}

type Shared = Arc<Mutex<Kept>>;

#[tokio::main]
async fn main() -> std::io::Result<()> {
    let Arguments { listen } = Arguments::parse();
    let router = Router::new().route("/", get(counts).post(answer)).with_state(Shared::default());
    let listener = tokio::net::TcpListener::bind(listen).await?.tap_io(|connection| {
        connection.set_nodelay(true).ok();
    });
    axum::serve(listener, router).await
}

async fn counts(State(kept): State<Shared>) -> String {
    json!(kept.lock().unwrap_or_else(PoisonError::into_inner).counts).to_string()
}

async fn answer(State(kept): State<Shared>, headers: HeaderMap, body: Bytes) -> Response {
    let target = headers.get("x-amz-target").and_then(|target| target.to_str().ok()).unwrap_or_default();
    let operation = target.rsplit('.').next().unwrap_or_default();
    let request = serde_json::from_slice(&body).unwrap_or(Value::Null);
    let answer = kept.lock().unwrap_or_else(PoisonError::into_inner).answer(operation, &request);
    ([(header::CONTENT_TYPE, "application/x-amz-json-1.0")], answer.to_string()).into_response()
}

impl Kept {
    fn answer(&mut self, operation: &str, request: &Value) -> Value {
        *self.counts.entry(operation.to_owned()).or_default() += 1;
        match operation {
            "DescribeTable" => json!({"Table": {
                "TableName": request["TableName"], "TableStatus": "ACTIVE",
                "AttributeDefinitions": [
                    {"AttributeName": "PK", "AttributeType": "S"}, {"AttributeName": "SK", "AttributeType": "S"}],
                "KeySchema": [
                    {"AttributeName": "PK", "KeyType": "HASH"}, {"AttributeName": "SK", "KeyType": "RANGE"}],
            }}),
            "PutItem" => {
                self.keep(&request["Item"]);
                json!({})
            }
            "TransactWriteItems" => {
                let actions = request["TransactItems"].as_array().map_or(&[][..], Vec::as_slice);
                *self.counts.entry("actions of transactions".to_owned()).or_default() += actions.len() as u64;
                for action in actions {
                    self.keep(&action["Put"]["Item"]);
                }
                json!({})
            }
            "BatchExecuteStatement" => {
                let count = request["Statements"].as_array().map_or(0, Vec::len);
                json!({"Responses": vec![json!({}); count]})
            }
            "BatchGetItem" => self.batch(request),
            "Query" => self.query(request),
            "Scan" => json!({"Items": [], "Count": 0, "ScannedCount": 0}),
            _ => json!({}),
        }
    }

    fn keep(&mut self, item: &Value) {
        let Some(key) =
            key(item).filter(|(partition, _)| !FORGOTTEN.iter().any(|of| partition.starts_with(of)))
        else {
            return;
        };
        self.rows.insert(key, item.clone());
    }

    fn batch(&self, request: &Value) -> Value {
        let mut responses = serde_json::Map::new();
        for (table, asked) in request["RequestItems"].as_object().into_iter().flatten() {
            let keys = asked["Keys"].as_array().into_iter().flatten();
            let found: Vec<&Value> = keys.filter_map(|item| self.rows.get(&key(item)?)).collect();
            responses.insert(table.clone(), json!(found));
        }
        json!({"Responses": responses, "UnprocessedKeys": {}})
    }

    fn query(&self, request: &Value) -> Value {
        let condition = request["KeyConditionExpression"].as_str().unwrap_or_default();
        let placeholder = condition
            .split_once(" = ")
            .map_or("", |(_, rest)| rest.split_once(' ').map_or(rest, |(placeholder, _)| placeholder));
        let partition = request["ExpressionAttributeValues"][placeholder]["S"].as_str().unwrap_or_default();
        let rows = self.rows.iter().filter(|((of, _), _)| of == partition);
        let rows: Vec<&Value> = rows.map(|(_, row)| row).collect();
        json!({"Items": rows, "Count": rows.len(), "ScannedCount": rows.len()})
    }
}

/// The key of a row of the control table; items of the data table have others.
fn key(item: &Value) -> Option<(String, String)> {
    let text = |name: &str| item[name]["S"].as_str().map(ToOwned::to_owned);
    Some((text("pk")?, text("sk")?))
}
