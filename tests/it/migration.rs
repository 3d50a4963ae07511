//! A whole migration, as a user runs it, on each kind of DynamoDB there is to run it on.

use std::collections::BTreeMap;
use std::thread;
use std::time::Duration;

use migrate::blob::faults::{Fault, Operation};
use migrate::digest::Digest;
use migrate::target::embedded::{Engine, Location};
use migrate::value::{Item, Key, Value};
use serde_json::{Value as Json, json};

use crate::local::{Source, Tables};
use crate::support::Sandbox;
use crate::target_local::Local;

const SIGNUPS: usize = 60;
/// Whoever writes is stopped before the cutover; nothing lands late here.
const WITHOUT_GATEWAY: [&str; 6] =
    ["--set", "capture.mode=follow", "--set", "timing.late_write_max=0s", "--set", "timing.settle=0s"];

#[test]
fn a_migration_into_one_file() {
    let source = Source::with_signups(SIGNUPS);
    let sandbox = source.sandbox();
    // Beside the commands' own engines, as any process may be.
    let engine = Engine::start(&Location::File(sandbox.path().join(".migrate/embedded.db")), None).unwrap();
    let tables = source.tables(&engine.endpoint(), "fuse-main");
    Migration { source: &source, sandbox: &sandbox, tables, flags: vec!["--target", "embedded"] }.whole();
}

#[test]
fn a_migration_into_the_emulator() {
    let source = Source::with_signups(SIGNUPS);
    let mut sandbox = source.sandbox();
    let mut emulator = Sandbox::new();
    let _serving = emulator.emulate(&[]);
    let endpoint = emulator.variable("DYNAMODB_ENDPOINT");
    sandbox.set("DYNAMODB_ENDPOINT", &endpoint);
    let tables = source.tables(&endpoint, "fuse-main");
    Migration { source: &source, sandbox: &sandbox, tables, flags: Vec::new() }.whole();
}

#[test]
fn a_migration_into_amazons_dynamodb_local() {
    let source = Source::with_signups(SIGNUPS);
    let mut sandbox = source.sandbox();
    let local = source.block_on(Local::start());
    sandbox.set("AWS_ENDPOINT_URL_DYNAMODB", &local.endpoint());
    let tables = source.tables(&local.endpoint(), "fuse-main");
    Migration { source: &source, sandbox: &sandbox, tables, flags: Vec::new() }.whole();
}

struct Migration<'a> {
    source: &'a Source,
    sandbox: &'a Sandbox,
    tables: Tables<'a>,
    flags: Vec<&'static str>,
}

/// A sign-up of the example data: its blob, its address, its item.
struct Signup {
    pathname: String,
    body: Json,
    key: Key,
}

impl Migration<'_> {
    fn whole(&self) {
        self.run(0, &["provision"]);
        self.export_beside_a_writer();
        self.load_is_rehearsed();
        self.load_meets_an_item_of_the_application();
        self.load_beside_a_writer();
        self.damage_is_found_and_repaired();
        self.the_way_back_is_drilled();
        self.reads_move_and_come_back();
        self.it_ends_for_good();
    }

    /// Runs a command; the one object that it prints.
    #[track_caller]
    fn run(&self, code: i32, command: &[&str]) -> Json {
        let arguments: Vec<&str> =
            command.iter().chain(&self.flags).chain(&WITHOUT_GATEWAY).copied().collect();
        let run = self.sandbox.run(&[&arguments[..], &["--output", "json"]].concat()).expect(code);
        // Whatever follows the object would be an error of this.
        run.json()
    }

    fn signup(&self, number: usize) -> Signup {
        let blob = &self.source.blobs[number];
        let body: Json = serde_json::from_slice(&blob.body).unwrap();
        let address = Digest::of(body["email"].as_str().unwrap().to_lowercase());
        let key = Key::new(format!("SIGNUP#{address}"), "METADATA");
        Signup { pathname: blob.pathname.to_string(), body, key }
    }

    /// The application changes a sign-up.
    fn rename(&self, number: usize, name: &str) {
        let Signup { pathname, mut body, .. } = self.signup(number);
        body["fullName"] = json!(name);
        self.source.put(&pathname, body.to_string());
    }

    fn item(&self, number: usize) -> Option<Item> {
        self.tables.items().remove(&self.signup(number).key)
    }

    fn name(&self, number: usize) -> String {
        self.item(number).unwrap()["fullName"].as_s().unwrap().to_owned()
    }

    fn export_beside_a_writer(&self) {
        let [mapped, ignored, accepted] = self.source.verdicts();
        let mut read = self.source.faults().pause(Operation::Get);
        let report = thread::scope(|scope| {
            let export = scope.spawn(|| self.run(0, &["export"]));
            self.source.block_on(read.arrived());
            self.rename(0, "Changed During The Export");
            read.release();
            export.join().unwrap()
        });
        for (what, count) in
            [("mapped", mapped), ("fetched", mapped), ("ignored", ignored), ("accepted", accepted)]
        {
            assert_eq!(report[what], count, "{what}");
        }
        // The changed one may be asked for twice; nothing that is ignored or accepted ever is.
        let reads = usize::try_from(self.source.reads()).unwrap();
        assert!((mapped..=mapped + 1).contains(&reads), "{reads} reads of {mapped} bodies");
        self.rename(1, "Changed After The Export");
    }

    fn load_is_rehearsed(&self) {
        let before = self.tables.rows();
        let report = self.run(5, &["dual-write", "--once", "--dry-run"]);
        let missing = report["sweeps"][0]["drift"].as_array().unwrap().len();
        assert_eq!(missing, self.source.verdicts()[0]);
        assert_eq!(self.tables.rows(), before, "a dry run wrote");
    }

    fn load_meets_an_item_of_the_application(&self) {
        let Signup { pathname, key, .. } = self.signup(2);
        let theirs = Item::from([
            ("PK".to_owned(), Value::s(key.partition.as_str())),
            ("SK".to_owned(), Value::s(key.sort.as_str())),
            ("fullName".to_owned(), Value::s("Nobody's To Overwrite")),
        ]);
        self.tables.put(theirs.clone());
        let report = self.run(3, &["dual-write", "--once"]);
        let failed = report["backfill"]["failed"].as_array().unwrap();
        assert_eq!(failed.len(), 1, "{failed:?}");
        assert_eq!(failed[0][0], pathname);
        assert!(failed[0][1].as_str().unwrap().contains("belongs to the application"), "{failed:?}");
        let drift = report["sweeps"][0]["drift"].as_array().unwrap();
        assert_eq!((drift.len(), &drift[0]["kind"]), (1, &json!("collision")), "{drift:?}");
        assert_eq!(self.item(2), Some(theirs));
        assert_eq!(self.run(5, &["validate", "--repair"])["clean"], false);
        assert_eq!(self.name(2), "Nobody's To Overwrite");
        self.tables.delete(key);
    }

    fn load_beside_a_writer(&self) {
        let [mapped, ignored, accepted] = self.source.verdicts();
        self.rename(3, "Changed Before The Load");
        // A page is listed for its names, the anchors are read, and the page is listed again.
        self.source.faults().fault(Operation::List, Fault::Slow(Duration::ZERO));
        let mut listing = self.source.faults().pause(Operation::List);
        let report = thread::scope(|scope| {
            let load = scope.spawn(|| self.run(0, &["dual-write", "--once"]));
            self.source.block_on(listing.arrived());
            self.rename(4, "Changed During The Load");
            listing.release();
            load.join().unwrap()
        });
        let backfill = &report["backfill"];
        for (what, count) in
            [("mapped", mapped), ("written", 3), ("ignored", ignored), ("accepted", accepted)]
        {
            assert_eq!(backfill[what], count, "{what}: {backfill}");
        }
        assert_eq!((&report["settled"], &backfill["quarantined"]), (&json!(true), &json!([])));
        assert_eq!(self.tables.items().len(), self.source.items());
        self.each_blob_is_accounted_for(report["sweeps"].as_array().unwrap().last().unwrap());
        assert_eq!(self.name(0), "Changed During The Export");
        assert_eq!(self.name(1), "Changed After The Export");
        assert_eq!(self.name(3), "Changed Before The Load");
        assert_eq!(self.name(4), "Changed During The Load");
        let again = self.run(0, &["dual-write", "--once"]);
        assert_eq!((&again["backfill"]["written"], &again["backfill"]["equal"]), (&json!(0), &json!(mapped)));
    }

    /// Written, superseded, ignored, accepted and quarantined are all that is listed. Whose items are in the
    /// table says how many were written.
    fn each_blob_is_accounted_for(&self, sweep: &Json) {
        let count = |name: &str| usize::try_from(sweep[name].as_u64().unwrap()).unwrap();
        let quarantined = sweep["drift"].as_array().unwrap().len();
        let written = self.tables.owners().len() + self.source.expired();
        let account = [written, count("superseded"), count("ignored"), count("accepted"), quarantined];
        assert_eq!(account.iter().sum::<usize>(), self.source.blobs.len(), "{account:?}");
        assert_eq!(quarantined, 0, "{account:?}");
    }

    fn damage_is_found_and_repaired(&self) {
        let step = self.run(0, &["cutover", "--yes"])["flip"].take();
        assert_eq!(
            (&step["to"], &step["epoch"], &step["pause_ms"]),
            (&json!("shadow"), &json!(1), &json!(0))
        );
        assert_eq!(self.run(6, &["cutover", "--to", "cutover", "--yes"])["error"]["kind"], "wrong-phase");
        let before = self.tables.mirror();
        let (mut changed, mut invented) = (self.item(5).unwrap(), self.item(6).unwrap());
        changed.insert("fullName".to_owned(), Value::s("Edited By Hand"));
        self.tables.put(changed);
        self.tables.delete(self.signup(7).key);
        invented.insert("PK".to_owned(), Value::s("SIGNUP#invented"));
        self.tables.put(invented);

        let found = self.run(5, &["validate"]);
        let mut drift: Vec<_> = found["sweeps"][0]["drift"].as_array().unwrap().iter().collect();
        drift.sort_by_key(|drift| drift["kind"].to_string());
        let named: Vec<_> = drift.iter().map(|one| (&one["kind"], &one["pathname"])).collect();
        let name = |number| json!(self.signup(number).pathname);
        let expected = [("different", name(5)), ("missing", name(7)), ("orphan", name(6))];
        let expected = expected.map(|(kind, pathname)| (json!(kind), pathname));
        assert_eq!(named, expected.each_ref().map(|(kind, pathname)| (kind, pathname)), "{drift:#?}");
        assert!(drift[0]["diff"].as_str().unwrap().contains("Edited By Hand"), "{:#}", drift[0]);

        assert_eq!(self.gates(self.run(4, &["cutover", "--yes"])), ["drift-free"]);
        assert_eq!(self.run(0, &["validate", "--repair"])["sweeps"][0]["remaining"], json!([]));
        assert!(self.tables.mirror() == before, "repaired, and yet not as it was");
        self.run(4, &["cutover", "--yes"]);
        self.run(0, &["validate", "--sweeps", "2"]);
    }

    /// The closed gates.
    fn gates(&self, cutover: Json) -> Vec<String> {
        let gates = cutover["standing"]["gates"].as_array().unwrap();
        let closed = gates.iter().filter(|gate| gate["open"] == false);
        closed.map(|gate| gate["gate"].as_str().unwrap().to_owned()).collect()
    }

    /// Beside the application's data, and nothing of it is left.
    fn the_way_back_is_drilled(&self) {
        let (blobs, mirror) = (self.source.names(), self.tables.mirror());
        let drilled = self.run(0, &["cutover", "--drill", "--yes"]);
        assert!(drilled["writes"].as_u64().unwrap() > 100, "{drilled}");
        assert_eq!(self.source.names(), blobs);
        assert!(self.tables.mirror() == mirror, "the drill touched what is not its own");
        assert!(
            !self.tables.rows().iter().any(|row| row.contains("migrate-drill#")),
            "rows of the drill are left"
        );
        let standing = self.run(0, &["cutover", "--to", "canary", "--dry-run"])["standing"].take();
        assert_eq!(standing["mode"]["phase"], "shadow", "it has a mode of its own");
    }

    fn reads_move_and_come_back(&self) {
        let before = self.tables.rows();
        assert_eq!(self.run(0, &["cutover", "--dry-run"])["ready"], true);
        assert_eq!(self.tables.rows(), before, "a dry run wrote");

        let canary = ["cutover", "--to", "canary", "--percent", "5", "--prefix", "signups/", "--yes"];
        let step = self.run(0, &canary)["flip"].take();
        assert_eq!(
            (&step["to"], &step["epoch"], &step["canary"]["percent"]),
            (&json!("canary"), &json!(1), &json!(5))
        );
        assert_eq!(self.run(0, &["status"])["canary"], json!({"percent": 5, "prefixes": ["signups/"]}));
        self.run(2, &["cutover", "--percent", "5", "--yes"]);
        let more = self.run(0, &["cutover", "--to", "canary", "--percent", "50", "--yes"])["flip"].take();
        assert_eq!(more["canary"], json!({"percent": 50, "prefixes": ["signups/"]}));
        let all = self.run(0, &["cutover", "--to", "canary", "--prefix", "", "--yes"])["flip"].take();
        assert_eq!(all["canary"], json!({"percent": 50, "prefixes": [""]}));

        assert_eq!(self.gates(self.run(4, &["cutover", "--yes"])), ["writers-stopped"]);
        // The word is taken, but those sweeps were before it.
        assert_eq!(self.gates(self.run(4, &["cutover", "--yes", "--writers-stopped"])), ["writers-stopped"]);
        self.run(0, &["validate", "--sweeps", "2"]);

        let flip = self.run(0, &["cutover", "--yes", "--who", "somebody"])["flip"].take();
        assert_eq!((&flip["to"], &flip["epoch"]), (&json!("cutover"), &json!(2)));
        let refused = self.run(6, &["dual-write", "--once"])["error"].take();
        assert_eq!(refused["kind"], "wrong-phase");
        assert_eq!(self.gates(self.run(4, &["cutover", "--rollback", "--yes"])), ["drift-free"]);
        self.run(0, &["validate"]);
        let flip = self.run(0, &["cutover", "--rollback", "--yes"])["flip"].take();
        assert_eq!((&flip["to"], &flip["epoch"]), (&json!("shadow"), &json!(3)));

        let status = self.run(0, &["status", "--audit"]);
        assert_eq!((&status["phase"], &status["authority"]), (&json!("shadow"), &json!("source")));
        let audit = status["audit"].as_array().unwrap();
        assert_eq!(audit.len(), 8, "{audit:#?}");
        assert!(audit[1]["note"].as_str().unwrap().starts_with("drill: there and back"), "{audit:#?}");
        assert_eq!(audit[5]["note"], "nobody writes to Blob any more");
        self.rename(8, "Changed After The Way Back");
        assert_eq!(self.run(0, &["dual-write", "--once"])["backfill"]["written"], 1);
        assert_eq!(self.name(8), "Changed After The Way Back");
    }

    /// The last step is taken by its name alone, ends what there is of this program, and deletes what was proven twice.
    fn it_ends_for_good(&self) {
        // Evidence starts anew after a way back.
        self.run(0, &["validate", "--sweeps", "2"]);
        self.run(0, &["cutover", "--yes"]);
        let closed = self.gates(self.run(4, &["cutover", "--yes", "--writers-stopped"]));
        assert_eq!(closed, ["writers-stopped"], "the way back was taken, which is more than a drill");
        self.run(0, &["validate", "--sweeps", "2"]);
        let drilled = self.run(0, &["cutover", "--drill", "snapshot"]);
        assert!(drilled["summary"].as_str().unwrap().contains("with the snapshot"), "{drilled}");
        let flip = self.run(0, &["cutover", "--yes"])["flip"].take();
        assert_eq!((&flip["to"], &flip["epoch"]), (&json!("cutover"), &json!(4)));

        assert!(
            self.run(2, &["cutover", "--yes"])["error"]["message"].as_str().unwrap().contains("by its name")
        );
        assert_eq!(self.gates(self.run(4, &["cutover", "--to", "final", "--yes"])), ["drift-free"]);
        self.run(0, &["validate"]);
        let before = self.tables.rows();
        let explained = self.run(0, &["cutover"]);
        assert_eq!((&explained["standing"]["target"], &explained["flip"]), (&json!("final"), &Json::Null));
        let not_confirmed = self.run(2, &["cutover", "--to", "final"]);
        assert!(not_confirmed["error"]["hint"].as_str().unwrap().contains("--yes"), "{not_confirmed}");
        self.run(2, &["cutover", "--to", "shadow", "--strip", "--yes"]);
        // The place of the archive is looked at before there is no way back.
        self.sandbox.write("taken", "not a folder");
        for more in [&[][..], &["--dry-run"]] {
            let taken = ["cutover", "--to", "final", "--yes", "--archive", "taken"];
            let refused = self.run(2, &[&taken[..], more].concat());
            assert!(refused["error"]["message"].as_str().unwrap().contains("taken"), "{refused}");
        }
        let all = ["cutover", "--to", "final", "--strip", "--delete-source"];
        // What was changed since the export is not in the snapshot as it is now.
        let stale = self.run(3, &[&all[..], &["--dry-run"]].concat())["deletable"].take();
        let mapped = u64::try_from(self.source.mapped().count()).unwrap();
        let changed = stale["kept_count"].as_u64().unwrap();
        assert!(changed > 0 && stale["blobs"].as_u64().unwrap() + changed >= mapped, "{stale}");
        assert!(stale["kept"][0][1].as_str().unwrap().contains("migrate export"), "{stale}");
        self.run(0, &["export"]);
        let fresh = self.run(0, &[&all[..], &["--dry-run"]].concat())["deletable"].take();
        assert_eq!(fresh["kept_count"], 0, "{fresh}");
        for confirm in [&["--confirm", "other"][..], &["--yes"]] {
            let refused = self.run(2, &[&all[..], confirm].concat());
            assert!(refused["error"]["hint"].as_str().unwrap().contains("`fuse`"), "{refused}");
        }
        assert_eq!(self.tables.rows(), before, "it was only looked at");

        let items = self.tables.items();
        let ended = self.run(0, &[&all[..], &["--confirm", "fuse"]].concat());
        assert_eq!((&ended["flip"]["to"], &ended["deleted"]["blobs"]), (&json!("final"), &fresh["blobs"]));
        let stripped: BTreeMap<Key, Item> = items
            .iter()
            .map(|(key, item)| (key.clone(), item.clone()))
            .map(|(key, mut item)| {
                item.remove("_source");
                (key, item)
            })
            .collect();
        let left = self.tables.items();
        let changed: Vec<_> =
            stripped.iter().filter(|(key, item)| left.get(key) != Some(item)).map(|(key, _)| key).collect();
        assert_eq!(changed, Vec::<&Key>::new(), "items are not what they were, but for their `_source`");
        assert!(left.values().all(|item| !item.contains_key("_source")));
        // Those that have expired are there until DynamoDB deletes them.
        assert!(ended["removed"]["stripped"].as_u64().unwrap() >= items.len() as u64, "{ended}");
        let rows = self.tables.rows();
        assert!(!rows.iter().any(|row| row.contains("\"B#")), "retained bytes are left");
        // What no entity maps stays: nobody else has it.
        let [_, ignored, accepted] = self.source.verdicts();
        assert_eq!(self.source.names().len(), ignored + accepted);
        let archive = self.sandbox.path().join(ended["archive"]["file"].as_str().unwrap());
        let archive = zstd::stream::decode_all(&std::fs::read(archive).unwrap()[..]).unwrap();
        let lines = archive.split(|byte| *byte == b'\n').filter(|line| !line.is_empty()).count();
        assert_eq!(ended["archive"]["rows"], lines - 2);

        // It can be run again, and nothing else can.
        let again = self.run(0, &[&all[..], &["--confirm", "fuse"]].concat());
        assert_eq!((&again["archive"]["found"], &again["deleted"]["blobs"]), (&json!(true), &json!(0)));
        assert_eq!(again["removed"], json!({"anchors": 0, "rows": 0, "stripped": 0}));
        for over in [&["dual-write", "--once"][..], &["validate"], &["cutover", "--rollback"], &["cutover"]] {
            assert_eq!(self.run(6, over)["error"]["kind"], "wrong-phase", "{over:?}");
        }
        let status = self.run(0, &["status", "--audit"]);
        assert_eq!((&status["phase"], &status["standing"]), (&json!("final"), &Json::Null));
        let audit = status["audit"].to_string();
        assert!(
            audit.contains("the control table is saved in") && audit.contains("blobs are deleted"),
            "{audit}"
        );
    }
}
