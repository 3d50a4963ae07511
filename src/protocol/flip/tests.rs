use super::*;

const HOLD: u8 = 7;

const fn session(life: Life, acknowledged: Option<u8>) -> Seen<u8> {
    Seen { process: Process::Gateway, life, acknowledged, gap: false, same_plan: true }
}

fn says(leaving: Authority, seen: &Seen<u8>) -> Verdict {
    verdict(Rules::SOUND, leaving, &HOLD, seen)
}

/// A flip that has set its hold.
fn holding(leaving: Authority) -> Flip<u8> {
    let mut flip = Flip::new(Rules::SOUND, leaving, false, 2);
    flip.mode(None);
    flip.settled(Backlog::default());
    assert_eq!(flip.next(), Next::Hold);
    flip.held(Some(HOLD));
    flip
}

/// The same, acknowledged and drained.
fn drained(leaving: Authority, outcome: Drained) -> Flip<u8> {
    let mut flip = holding(leaving);
    flip.sessions(&[session(Life::Open, Some(HOLD))], false);
    assert_eq!(flip.next(), Next::Drain { clear: false });
    flip.drained(outcome);
    flip
}

#[test]
fn only_an_acknowledgement_of_this_hold_counts() {
    for leaving in [Authority::Source, Authority::Target] {
        assert_eq!(says(leaving, &session(Life::Open, Some(HOLD))), Verdict::Passed);
        assert_eq!(says(leaving, &session(Life::Open, Some(6))), Verdict::Awaited, "trace B9");
        assert_eq!(says(leaving, &session(Life::Open, None)), Verdict::Awaited);
        assert_eq!(says(leaving, &session(Life::Over, None)), Verdict::Passed);
        let sweeper = Seen { process: Process::Worker, ..session(Life::Open, None) };
        assert_eq!(says(leaving, &sweeper), Verdict::Awaited, "trace B12");
        let unnoted = Seen { gap: true, ..session(Life::Open, Some(HOLD)) };
        assert_eq!(says(leaving, &unnoted), Verdict::Awaited, "what no intent names can't be drained");
    }
}

#[test]
fn silence_counts_only_where_gateways_stop_by_themselves() {
    assert_eq!(says(Authority::Source, &session(Life::Silent, None)), Verdict::Awaited, "trace B4");
    assert_eq!(says(Authority::Target, &session(Life::Silent, None)), Verdict::Fence);
    let operator = Seen { process: Process::Operator, ..session(Life::Silent, None) };
    assert_eq!(says(Authority::Source, &operator), Verdict::Fence, "it never fails open");
    assert_eq!(says(Authority::Source, &session(Life::MayLand, None)), Verdict::Passed);
    assert_eq!(says(Authority::Target, &session(Life::MayLand, None)), Verdict::WaitFor, "trace B14");
}

#[test]
fn a_process_under_another_plan_is_in_the_way() {
    for leaving in [Authority::Source, Authority::Target] {
        let other = Seen { same_plan: false, ..session(Life::Open, Some(HOLD)) };
        assert_eq!(says(leaving, &other), Verdict::OtherPlan);
        assert_eq!(says(leaving, &Seen { life: Life::Over, ..other.clone() }), Verdict::Passed);
        let mut flip = holding(leaving);
        flip.sessions(&[other], false);
        assert_eq!(flip.next(), Next::Cancel(HOLD));
        flip.cancelled(Swapped::Applied);
        assert_eq!(flip.next(), Next::Done(Done::OtherPlan));
    }
    let silent = Seen { same_plan: false, ..session(Life::Silent, Some(HOLD)) };
    assert_eq!(says(Authority::Source, &silent), Verdict::OtherPlan, "it may go on");
    assert_eq!(says(Authority::Target, &silent), Verdict::Fence, "it has stopped");
}

#[test]
fn nothing_is_held_with_a_backlog() {
    for (left, next) in [
        (Backlog { intents: 200, ..Backlog::default() }, Next::Hold),
        (Backlog { intents: 201, ..Backlog::default() }, Next::Done(Done::TooManyIntents(201))),
        (Backlog { intents: 1, slow: 1, may_land: false }, Next::Done(Done::SlowRequests(1))),
        (Backlog { intents: 1, slow: 0, may_land: true }, Next::Hold),
    ] {
        let mut flip = Flip::<u8>::new(Rules::SOUND, Authority::Source, false, 1);
        flip.mode(None);
        assert_eq!(flip.next(), Next::Settle);
        flip.settled(left);
        assert_eq!(flip.next(), next, "{left:?}");
    }
}

#[test]
fn the_way_back_waits_for_writes_without_a_condition_before_it_holds() {
    let mut flip = Flip::new(Rules::SOUND, Authority::Target, false, 3);
    flip.mode(None);
    flip.settled(Backlog { may_land: true, ..Backlog::default() });
    assert_eq!(flip.next(), Next::Wait);
    flip.waited();
    flip.settled(Backlog::default());
    flip.held(Some(HOLD));
    // Somebody dies under the hold.
    flip.sessions(&[session(Life::Silent, None)], false);
    assert_eq!(flip.next(), Next::Fence(HOLD));
    flip.fenced();
    flip.sessions(&[session(Life::MayLand, None)], false);
    assert_eq!(flip.next(), Next::Cancel(HOLD), "writes flow while it waits");
    flip.cancelled(Swapped::Applied);
    assert_eq!(flip.next(), Next::Wait);
    flip.waited();
    flip.settled(Backlog::default());
    flip.held(Some(8));
    flip.sessions(&[session(Life::Open, Some(8))], false);
    let mut none_left = flip.clone();
    assert_eq!(flip.next(), Next::CountIntents);
    none_left.counted(0);
    assert_eq!(none_left.next(), Next::Drain { clear: false }, "the operator makes Blob equal");
    flip.counted(1);
    flip.cancelled(Swapped::Applied);
    assert_eq!(flip.next(), Next::Done(Done::MayLand), "not for ever");
}

#[test]
fn a_doubtful_condition_is_waited_for_with_writes_flowing() {
    let mut flip = Flip::new(Rules::SOUND, Authority::Target, false, 2);
    flip.mode(None);
    flip.settled(Backlog { intents: BEHIND_MAX, ..Backlog::default() });
    for hold in [HOLD, 8] {
        flip.held(Some(hold));
        flip.sessions(&[session(Life::Open, Some(hold))], false);
        flip.counted(0);
        flip.drained(Drained::Doubtful(1));
        assert_eq!(flip.next(), Next::Cancel(hold));
        flip.cancelled(Swapped::Applied);
        if hold == HOLD {
            assert_eq!(flip.next(), Next::Wait);
            flip.waited();
            flip.settled(Backlog::default());
        }
    }
    assert_eq!(flip.next(), Next::Done(Done::Doubtful(1)), "not for ever");

    let mut flip = Flip::<u8>::new(Rules::SOUND, Authority::Target, false, 2);
    flip.mode(None);
    flip.settled(Backlog { intents: BEHIND_MAX + 1, ..Backlog::default() });
    assert_eq!(flip.next(), Next::Done(Done::TooManyIntents(BEHIND_MAX + 1)));
}

#[test]
fn it_waits_for_acknowledgements_only_so_long() {
    let mut flip = holding(Authority::Source);
    let late = [session(Life::Open, Some(HOLD)), session(Life::Open, None)];
    flip.sessions(&late, false);
    assert_eq!(flip.next(), Next::LookAtSessions(HOLD));
    flip.sessions(&late, true);
    assert_eq!(flip.next(), Next::Cancel(HOLD));
    flip.cancelled(Swapped::Refused);
    assert_eq!(flip.next(), Next::Done(Done::Unacknowledged));
}

#[test]
fn somebody_elses_hold_is_cancelled_only_where_the_operator_says_so() {
    let mut flip = Flip::new(Rules::SOUND, Authority::Source, false, 1);
    flip.mode(Some(3));
    assert_eq!(flip.next(), Next::Done(Done::Held(3)));
    let mut flip = Flip::new(Rules::SOUND, Authority::Source, true, 1);
    flip.mode(Some(3));
    assert_eq!(flip.next(), Next::Cancel(3));
    let mut raced = flip.clone();
    flip.cancelled(Swapped::Applied);
    assert_eq!(flip.next(), Next::Settle);
    raced.cancelled(Swapped::Refused);
    assert_eq!(raced.next(), Next::Done(Done::Raced));
}

#[test]
fn it_commits_once_drained_and_judged() {
    let mut flip = drained(Authority::Source, Drained::All);
    assert_eq!(flip.next(), Next::Judge);
    let mut closed = flip.clone();
    flip.judged(true);
    assert_eq!(flip.next(), Next::Commit { hold: Some(HOLD) });
    flip.committed(Swapped::Applied);
    assert_eq!(flip.next(), Next::Done(Done::Committed));
    closed.judged(false);
    assert_eq!(closed.next(), Next::Cancel(HOLD));
    closed.cancelled(Swapped::Applied);
    assert_eq!(closed.next(), Next::Done(Done::GateClosed));

    let mut left = drained(Authority::Source, Drained::Left(2));
    assert_eq!(left.next(), Next::Cancel(HOLD));
    left.cancelled(Swapped::Applied);
    assert_eq!(left.next(), Next::Done(Done::NotDrained(2)));
}

#[test]
fn a_commit_without_a_reply_is_resolved_by_its_cancellation() {
    let table = [
        (Swapped::Applied, Next::Done(Done::Raced)),
        (Swapped::Refused, Next::LookForCommit),
        (Swapped::Unknown, Next::Done(Done::Unknown)),
    ];
    for (outcome, next) in table {
        let mut flip = drained(Authority::Source, Drained::All);
        flip.judged(true);
        flip.committed(Swapped::Unknown);
        assert_eq!(flip.next(), Next::Cancel(HOLD));
        flip.cancelled(outcome);
        assert_eq!(flip.next(), next, "{outcome:?}");
    }
}

#[test]
fn whoever_gives_up_cancels_its_hold() {
    let mut flip = holding(Authority::Source);
    flip.abandon();
    assert_eq!(flip.next(), Next::Cancel(HOLD));
    let mut flip = Flip::<u8>::new(Rules::SOUND, Authority::Source, false, 1);
    flip.abandon();
    assert_eq!(flip.next(), Next::Done(Done::Raced));
}
