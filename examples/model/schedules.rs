//! The known traces as schedules. Each one, step by step, breaks the protocol without its rule. With all
//! rules, the same schedule as far as it goes, then every possible continuation, is harmless.

use migrate::protocol::Rules;
use migrate::protocol::converge::{Mirror, Purpose};
use stateright::{Checker, Model};

use crate::cases::Case;
use crate::model::{EQUAL, Flaw, Protocol, Step};
use crate::world::{Actor, Content, Rev, Seen, World};

use Step::{Begins, BlobLands, BlobTimesOut, Crashes, LateBlobLands, Looks, TargetLands};

const G1: Actor = Actor::Gateway(0);
const G2: Actor = Actor::Gateway(1);
const SW: Actor = Actor::Sweeper;
const A: Option<Content> = Some(Content::A);
const HOLDS_A: Seen = Mirror::Settled { rev: Rev::Present, version: Content::A };
/// The checker's reduction is off: a schedule may take any step that is possible.
const CASE: Case = Case { sweeper: Some(Purpose::Reconcile), reduced: false, ..Case::BASE };
const BARE: Rules = Rules { mirror_first: false, renew_on_intent: false, tombstones: false, ..Rules::SOUND };

fn protocol(case: Case, beginning: &World) -> Protocol {
    Protocol { only: Some(EQUAL), beginnings: vec![beginning.clone()], ..case.protocol() }
}

/// The state after a schedule; steps that are not possible are left out if they may be.
fn after(case: Case, beginning: &World, schedule: &[Step], all: bool) -> World {
    let protocol = protocol(case, beginning);
    schedule.iter().fold(beginning.clone(), |world, step| {
        let mut possible = Vec::new();
        protocol.actions(&world, &mut possible);
        if possible.contains(step) {
            return protocol.next_state(&world, *step).expect("every step leads somewhere");
        }
        assert!(!all, "{step:?} is not possible in {world:?}");
        world
    })
}

/// Plays the schedule with `broken` and demands the violation; then with all rules, and demands that
/// nothing that may follow is one.
fn replay(broken: Case, beginning: World, schedule: &[Step]) {
    let end = after(broken, &beginning, schedule, true);
    assert!(end.settled(), "an operation is under way: {end:?}");
    assert_ne!(end.target(), end.source, "the broken protocol holds: {end:?}");

    let sound = Case { rules: Rules::SOUND, flaw: Flaw::None, replayer: true, reduced: true, ..broken };
    let end = after(Case { reduced: false, ..sound }, &beginning, schedule, false);
    let onwards = protocol(sound, &end).checker().spawn_bfs().join();
    assert!(onwards.unique_state_count() > 1, "nothing follows {end:?}");
    onwards.assert_no_discovery(EQUAL);
}

fn deletes(anchor: Seen) -> World {
    CASE.beginning(&[None], &[], A, anchor)
}

#[test]
fn a1_an_intent_cleared_without_a_reply() {
    let schedule = [Begins(0), BlobTimesOut(0), Looks(G1), Looks(G1), TargetLands(G1), LateBlobLands(0)];
    replay(Case { flaw: Flaw::ClearsUnanswered, ..CASE }, deletes(HOLDS_A), &schedule);
}

#[test]
fn a1_a_dead_gateways_intent_cleared_without_waiting() {
    let rp = Actor::Replayer;
    let schedule = [Begins(0), Crashes(G1), Step::Replays(0), Looks(rp), TargetLands(rp), LateBlobLands(0)];
    replay(Case { flaw: Flaw::ClearsWithoutWait, ..CASE }, deletes(HOLDS_A), &schedule);
}

#[test]
fn a2_a_dirty_flag_per_pathname() {
    let schedule = [
        Begins(0),
        BlobLands(0),
        Looks(G1),
        Looks(G1),
        Begins(1),
        TargetLands(G1),
        BlobLands(1),
        Crashes(G2),
    ];
    let beginning = CASE.beginning(&[None], &[A], None, Mirror::Unknown);
    replay(Case { flaw: Flaw::IntentIsFlag, ..CASE }, beginning, &schedule);
}

#[test]
fn a3_a_nonce_per_pathname() {
    let schedule = [
        Begins(1),
        Begins(0),
        BlobLands(0),
        Looks(G1),
        Looks(G1),
        TargetLands(G1),
        BlobLands(1),
        Crashes(G2),
    ];
    let beginning = CASE.beginning(&[None], &[A], None, Mirror::Unknown);
    replay(Case { flaw: Flaw::IntentIsNonce, ..CASE }, beginning, &schedule);
}

const SOURCE_FIRST: [Step; 7] =
    [Begins(0), Looks(SW), BlobLands(0), Looks(G1), Looks(G1), Looks(SW), TargetLands(SW)];

#[test]
fn a4_etag_compare_and_set_source_first() {
    replay(
        Case { rules: BARE, flaw: Flaw::ComparesVersions, ..CASE },
        deletes(Mirror::Unknown),
        &SOURCE_FIRST,
    );
}

#[test]
fn a5_rev_compare_and_set_source_first() {
    replay(Case { rules: BARE, ..CASE }, deletes(Mirror::Unknown), &SOURCE_FIRST);
}

const TARGET_FIRST: [Step; 7] =
    [Begins(0), Looks(SW), Looks(SW), BlobLands(0), Looks(G1), Looks(G1), TargetLands(SW)];

#[test]
fn a6_target_first_without_a_renewed_rev() {
    let rules = Rules { renew_on_intent: false, ..Rules::SOUND };
    replay(Case { rules, ..CASE }, deletes(Mirror::Unknown), &TARGET_FIRST);
    let rules = Rules { renew_on_intent: false, tombstones: false, ..Rules::SOUND };
    replay(Case { rules, ..CASE }, deletes(Mirror::Unknown), &TARGET_FIRST);
}

#[test]
fn a7_a_renewed_rev_without_tombstones() {
    let rules = Rules { tombstones: false, ..Rules::SOUND };
    replay(Case { rules, ..CASE }, deletes(Mirror::Unknown), &TARGET_FIRST);
}

#[test]
fn a8_renewed_revs_and_tombstones_but_source_first() {
    let schedule = [
        Begins(0),
        Looks(SW),
        BlobLands(0),
        Looks(G1),
        Looks(G1),
        TargetLands(G1),
        Looks(SW),
        TargetLands(SW),
    ];
    let rules = Rules { mirror_first: false, ..Rules::SOUND };
    replay(Case { rules, ..CASE }, deletes(Mirror::Unknown), &schedule);
}
