// Says which of the pathnames of stdin the example of docs/mode.md reads from DynamoDB, and how often it asked.
import { DynamoDBClient } from "@aws-sdk/client-dynamodb";
import { ModeReader } from "./node_modules/.cache/mode/mode.js";

const client = new DynamoDBClient({
  endpoint: process.env.DYNAMODB_ENDPOINT,
  region: "eu-west-2",
  credentials: { accessKeyId: "local", secretAccessKey: "local" },
});
let asked = 0;
client.middlewareStack.add((next) => (args) => ((asked += 1), next(args)), { step: "initialize" });
const reader = new ModeReader(client, process.env.CONTROL_TABLE, 60_000);
const names = JSON.parse(process.env.NAMES);
const from = await Promise.all(names.map((name) => reader.readsDynamoDB(name)));
const mode = await reader.mode();
console.log(JSON.stringify({ mode, fromDynamoDB: names.filter((_, at) => from[at]), asked }));
