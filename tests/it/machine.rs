//! A state machine on the real stores: random puts, deletes, reads, sweeps, steps of the cutover there and back, and
//! crashes of the gateway, held against a map of what each key may hold.
//!
//! The seed is printed; `MACHINE_SEED=N cargo nextest run machine` plays one again.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use migrate::clock::{Clock as _, SystemClock};
use rand::{RngExt as _, SeedableRng as _};
use rand_chacha::ChaCha8Rng;
use reqwest::StatusCode;
use serde_json::Value as Json;

use crate::gateway::{Client, Gateway, PLAN, runtime, stage, until, windowed};
use crate::support::{Run, Running, Sandbox};

const KEYS: u32 = 5;
const ACTIONS: u32 = 150;
/// What no gate of these tests is to wait for.
pub(crate) const SHORT: &str = "[timing]\nno_foreign = \"0s\"\n[gates.shadow-reads]\nmin_reads = 0\n\
                     [gates.rollback-drilled]\nrequired = false\n[validation]";

/// What a key may hold: each of these. None is absence.
type Possible = BTreeSet<Option<String>>;

struct Machine {
    sandbox: Sandbox,
    _stores: Running,
    gateway: Option<Gateway>,
    client: Client,
    map: BTreeMap<String, Possible>,
    random: ChaCha8Rng,
    written: u32,
    /// How often each action was done.
    done: BTreeMap<&'static str, u32>,
    runtime: tokio::runtime::Runtime,
}

impl Machine {
    fn new(seed: u64) -> Self {
        let (sandbox, stores) = stage(&PLAN.replace("[validation]", SHORT), &[]);
        let gateway = Gateway::start(&sandbox, &["--name", "blue"]);
        let nothing = Possible::from([None]);
        let map = (0..KEYS).map(|key| (format!("r/{key}.json"), nothing.clone())).collect();
        let client = gateway.client();
        sandbox.run(&windowed(&["export"])).expect(0);
        Self {
            sandbox,
            _stores: stores,
            gateway: Some(gateway),
            client,
            map,
            random: ChaCha8Rng::seed_from_u64(seed),
            written: 0,
            done: BTreeMap::new(),
            runtime: runtime(),
        }
    }

    fn run(&self, command: &[&str]) -> Run {
        self.sandbox.run(&windowed(&[command, &["--output", "json"]].concat()))
    }

    fn act(&mut self) -> &'static str {
        let action = match self.random.random_range(0..100) {
            0..40 => self.put(),
            40..52 => self.delete(),
            52..84 => self.read(),
            84..87 => self.crash(),
            87..90 => self.sweep(),
            _ => self.step(),
        };
        *self.done.entry(action).or_default() += 1;
        action
    }

    fn key(&mut self) -> String {
        format!("r/{}.json", self.random.random_range(0..KEYS))
    }

    /// After a write: what was acknowledged is there, what was refused is not, and of anything else nobody knows.
    fn wrote(&mut self, key: &str, state: Option<String>, answer: reqwest::Result<(StatusCode, String)>) {
        let possible = self.map.get_mut(key).unwrap();
        match answer {
            Ok((status, _)) if status.is_success() => *possible = Possible::from([state]),
            Ok((status, text)) => {
                assert!(status.is_server_error(), "{status}: {text}");
                possible.insert(state);
            }
            Err(_) => drop(possible.insert(state)),
        }
    }

    fn put(&mut self) -> &'static str {
        let key = self.key();
        self.written += 1;
        // Contents come back.
        let body = format!(r#"{{"n": {}}}"#, self.written % 7);
        let answer = self.runtime.block_on(self.client.put(&key, body.clone()));
        self.wrote(&key, Some(body), answer);
        if self.random.random_range(0..2) == 0 {
            self.look(&key);
        }
        "put"
    }

    fn delete(&mut self) -> &'static str {
        let key = self.key();
        let answer = self.runtime.block_on(self.client.delete(&key));
        self.wrote(&key, None, answer);
        "delete"
    }

    fn read(&mut self) -> &'static str {
        let key = self.key();
        self.look(&key);
        "read"
    }

    fn look(&self, key: &str) {
        let origin = self.client.url.strip_suffix("/api/blob").unwrap();
        let request = self.client.http.get(format!("{origin}/content/{key}"));
        let told = self.runtime.block_on(self.client.send(request)).unwrap();
        let state = match told {
            (StatusCode::OK, body) => Some(body),
            (StatusCode::NOT_FOUND, _) => None,
            (status, text) => panic!("{status}: {text}"),
        };
        let possible = &self.map[key];
        assert!(possible.contains(&state), "{key} was told as {state:?}, and may be {possible:?}");
    }

    /// Killed, with a write on its way, and started again under its name.
    fn crash(&mut self) -> &'static str {
        let key = self.key();
        self.written += 1;
        let body = format!(r#"{{"n": {}}}"#, self.written % 7);
        let (client, sent) = (self.client.clone(), body.clone());
        let name = key.clone();
        let writing = self.runtime.spawn(async move { client.put(&name, sent).await });
        let wait = Duration::from_micros(self.random.random_range(0..3_000));
        self.runtime.block_on(SystemClock::new().sleep(wait));
        drop(self.gateway.take());
        let answer = self.runtime.block_on(writing).unwrap();
        self.wrote(&key, Some(body), answer);
        let gateway = Gateway::start(&self.sandbox, &["--name", "blue"]);
        self.client = gateway.client();
        self.gateway = Some(gateway);
        "crash"
    }

    fn sweep(&mut self) -> &'static str {
        let code = self.run(&["validate", "--repair"]).code;
        assert!(matches!(code, Some(0 | 5)), "{code:?}");
        "sweep"
    }

    /// The next step, or the way back; it may be refused, and then nothing has changed.
    fn step(&mut self) -> &'static str {
        let before = self.phase();
        let back = match before.as_str() {
            "cutover" => true,
            "capture" => false,
            _ => self.random.random_range(0..8) == 0,
        };
        let step: &[&str] = if back { &["--rollback"] } else { &[] };
        // After a crash the gates wait for what may land late; sometimes nobody waits for them.
        for _ in 0..self.random.random_range(1..6) {
            let swept = self.run(&["validate", "--sweeps", "2"]).code;
            assert!(matches!(swept, Some(0 | 5)), "{swept:?}");
            let run = self.run(&[&["cutover", "--yes"], step].concat());
            let after = self.phase();
            match run.code {
                Some(0) => {
                    assert_ne!(before, after, "{}", run.stdout);
                    return match (before.as_str(), after.as_str()) {
                        ("cutover", _) => "authority back",
                        (_, "cutover") => "authority there",
                        _ => "step",
                    };
                }
                Some(4 | 6) => assert_eq!(before, after, "{}", run.stdout),
                _ => panic!("{run:?}"),
            }
            self.runtime.block_on(SystemClock::new().sleep(Duration::from_secs(1)));
        }
        "refused"
    }

    fn phase(&self) -> String {
        self.run(&["mode"]).expect(0).json()["phase"].as_str().unwrap().to_owned()
    }

    /// Everything comes to rest: both stores are equal, and hold what they may.
    fn rest(mut self) {
        // Whatever is in doubt is waited out and replayed; then two sweeps find nothing.
        let quiet = || -> bool {
            let clean = self.run(&["validate", "--repair"]).code == Some(0);
            let swept: Json = self.run(&["validate"]).json();
            clean && swept["clean"] == true
        };
        self.runtime.block_on(until("both stores are equal", async || quiet()));
        for number in 0..KEYS {
            let key = format!("r/{number}.json");
            let origin = self.client.url.strip_suffix("/api/blob").unwrap();
            let request = self.client.http.get(format!("{origin}/content/{key}"));
            let (status, body) = self.runtime.block_on(self.client.send(request)).unwrap();
            let state = (status == StatusCode::OK).then_some(body);
            assert!(self.map[&key].contains(&state), "{key}: {state:?}, and may be {:?}", self.map[&key]);
        }
        self.gateway.take().unwrap().stop();
    }
}

#[test]
fn whatever_happens_a_key_holds_what_it_may() {
    #[expect(clippy::disallowed_methods, reason = "a person plays a seed again")]
    let seed = std::env::var("MACHINE_SEED").map_or_else(|_| rand::random(), |seed| seed.parse().unwrap());
    println!("MACHINE_SEED={seed}");
    let mut machine = Machine::new(seed);
    for _ in 0..ACTIONS {
        machine.act();
    }
    println!("{:?}, in phase {} in the end", machine.done, machine.phase());
    machine.rest();
}
