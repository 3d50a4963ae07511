//! Steps from phase to phase: which there are, and those that leave the authority as it is.

use std::collections::BTreeMap;
use std::time::Duration;

use migrate::ErrorKind;
use migrate::protocol::canary::Share;
use migrate::protocol::phase::{Epoch, Phase};
use migrate::target::control::{Hold, Mode, SessionKind, SessionRow, SessionState};
use migrate::target::memory::Operation;

use super::cutover::{closed, cutover, flips, mode, ready, row, sweep};
use super::harness::Rig;

#[tokio::test]
async fn only_the_steps_that_there_are_can_be_taken() {
    let steps = BTreeMap::from([
        (Phase::Capture, vec![Phase::Shadow]),
        (Phase::Shadow, vec![Phase::Canary, Phase::Capture]),
        (Phase::Canary, vec![Phase::Canary, Phase::Cutover, Phase::Shadow]),
        (Phase::Cutover, vec![Phase::Shadow, Phase::Final]),
    ]);
    let phases = [Phase::Capture, Phase::Shadow, Phase::Canary, Phase::Cutover, Phase::Final];
    for from in phases {
        for to in phases {
            let rig = Rig::new();
            rig.control.ensure_mode(&mode(&rig, from, 1)).await.unwrap();
            let standing = cutover(&rig, &rig.plan, "ada").standing(Some(to)).await;
            let allowed = steps.get(&from).is_some_and(|steps| steps.contains(&to));
            assert_eq!(standing.is_ok(), allowed, "{from} to {to}");
            if let Err(error) = standing {
                assert_eq!(error.kind(), ErrorKind::WrongPhase);
            }
        }
    }
}

/// Both ways through the phases in which Blob is the authority: no hold, no new epoch, an audit row each.
#[tokio::test]
async fn steps_that_leave_the_authority_hold_nothing_and_keep_the_evidence() {
    let rig = ready().await;
    let seen = rig.control.mode().await.unwrap().unwrap();
    rig.control.flip(&seen, &mode(&rig, Phase::Capture, 1), None).await.unwrap();
    let session = SessionRow { kind: SessionKind::Gateway, ..row(&rig, SessionState::Open) };
    rig.control.open_session(&session).await.unwrap();
    let share = Share { percent: 25, prefixes: vec!["r/".to_owned()] };
    let ada = cutover(&rig, &rig.plan, "ada");
    for (to, step, round) in [
        (Phase::Shadow, 1, 1),
        (Phase::Canary, 2, 1),
        (Phase::Canary, 3, 1),
        (Phase::Shadow, 4, 4),
        (Phase::Capture, 5, 4),
        (Phase::Shadow, 6, 6),
    ] {
        let before = rig.control.mode().await.unwrap().unwrap();
        let done = match step {
            3 => ada.canary(&share, false).await.unwrap(),
            _ => ada.flip(Some(to), false).await.unwrap(),
        };
        assert_eq!((done.from, done.to, done.epoch, done.pause_ms), (before.phase, to, Epoch(1), 0));
        let after = rig.control.mode().await.unwrap().unwrap();
        assert_eq!((after.phase, after.epoch, after.step, after.round), (to, Epoch(1), step, round));
        let percent = after.canary.as_ref().map(|share| share.percent);
        assert_eq!(percent, (to == Phase::Canary).then_some(if step == 3 { 25 } else { 10 }));
        let audit = flips(&rig).await;
        let last = audit.last().unwrap();
        assert_eq!((audit.len() as u64, last.from, last.to), (step, before.phase, to));
        rig.clock.advance(Duration::from_secs(1));
    }
    let log = flips(&rig).await;
    assert_eq!(log[2].evidence["share"], "25 % of what begins with r/");
    assert_eq!((log[0].evidence.len(), log[3].evidence.len()), (4, 0), "{log:?}");
}

#[tokio::test]
async fn a_step_is_refused_while_a_gate_is_closed_or_somebody_holds_the_mode() {
    let rig = ready().await;
    let ada = cutover(&rig, &rig.plan, "ada");
    let seen = rig.control.mode().await.unwrap().unwrap();
    rig.delete("r/1.json").await;
    assert!(!sweep(&rig, Epoch(1)).await.clean);
    let share = Share { percent: 50, prefixes: Vec::new() };
    assert_eq!(closed(ada.canary(&share, false).await), "closed: drift-free");
    // The way back asks for nothing.
    let hold = Hold { id: "h".to_owned(), target: Phase::Cutover, by: "bob".to_owned(), limit_ms: 1 };
    let held = Mode { hold: Some(hold), ..seen.clone() };
    assert!(rig.control.flip(&seen, &held, None).await.unwrap());
    let refused = ada.flip(Some(Phase::Shadow), false).await.unwrap_err();
    assert_eq!(
        (refused.kind(), refused.detail()),
        (ErrorKind::WrongPhase, Some("bob holds the mode for a flip to cutover"))
    );
    ada.flip(Some(Phase::Shadow), true).await.unwrap();
    assert_eq!(rig.control.mode().await.unwrap().unwrap().phase, Phase::Shadow);
}

/// The mode that an operator saw may be there again: the step tells them apart.
#[tokio::test]
async fn of_two_operators_that_saw_the_same_mode_one_takes_a_step() {
    let rig = ready().await;
    let (ada, bob) = (cutover(&rig, &rig.plan, "ada"), cutover(&rig, &rig.plan, "bob"));
    let mut pause = rig.target.pause(Operation::Transact);
    let there_and_back = async {
        pause.arrived().await;
        rig.clock.advance(Duration::from_secs(1));
        bob.flip(Some(Phase::Shadow), false).await.unwrap();
        bob.canary(&Share { percent: 10, prefixes: Vec::new() }, false).await.unwrap();
        pause.release();
    };
    let (late, ()) = futures::join!(ada.flip(Some(Phase::Shadow), false), there_and_back);
    assert_eq!(late.unwrap_err().kind(), ErrorKind::WrongPhase);
    let mode = rig.control.mode().await.unwrap().unwrap();
    assert_eq!((mode.phase, mode.step), (Phase::Canary, 2));
}
