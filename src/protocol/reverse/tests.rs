use super::*;

type Machine = Reverse<u32, u32>;

const fn seen(holds: bool, blob: Known<u32>) -> Seen<u32, u32> {
    Seen { rev: Some(7), holds, pending: false, blob }
}

const fn equal(blob: Option<u32>) -> Known<u32> {
    Known::Equal(blob)
}

const fn behind(blob: Option<u32>) -> Known<u32> {
    Known::Behind(blob)
}

fn looked(purpose: Purpose, attempts: u8, mirror: Option<u32>, seen: Seen<u32, u32>) -> Machine {
    let mut machine = Machine::new(Rules::SOUND, purpose, Some(attempts));
    look(&mut machine, mirror, seen);
    machine
}

fn look(machine: &mut Machine, mirror: Option<u32>, seen: Seen<u32, u32>) {
    assert_eq!(machine.next(), Next::ReadMirror);
    machine.mirror(mirror);
    assert_eq!(machine.next(), Next::ReadAuthority);
    machine.authority(seen);
}

/// From the note to the request.
fn send(machine: &mut Machine) {
    machine.noted(true);
    assert_eq!(machine.next(), Next::Permit);
    machine.permitted(Permission::Send);
    assert!(matches!(machine.next(), Next::Write { .. }));
}

#[test]
fn only_what_is_known_to_be_ours_is_touched() {
    let put = |expects| Next::Note { put: true, expects };
    let delete = |etag| Next::Note { put: false, expects: Some(etag) };
    for (mirror, anchor, next) in [
        (Some(1), seen(true, equal(Some(1))), Next::Done(Ending::Equal)),
        (Some(1), seen(true, behind(Some(1))), put(Some(1))),
        (None, seen(true, behind(None)), put(None)),
        // Somebody deleted it in Blob: the anchor is right.
        (None, seen(true, equal(Some(1))), put(None)),
        (Some(2), seen(true, behind(Some(1))), Next::Compare { etag: 2 }),
        (Some(2), seen(true, equal(Some(1))), Next::Compare { etag: 2 }),
        (None, seen(false, equal(None)), Next::Done(Ending::Equal)),
        (Some(1), seen(false, behind(Some(1))), delete(1)),
        (Some(1), seen(false, behind(None)), Next::Compare { etag: 1 }),
    ] {
        let machine = looked(Purpose::Reconcile, 3, mirror, anchor.clone());
        assert_eq!(machine.next(), next, "{mirror:?} {anchor:?}");
    }
    let machine = looked(Purpose::Reconcile, 3, Some(1), Seen::nothing());
    assert_eq!(machine.next(), Next::Compare { etag: 1 }, "created past the gateways");
    let machine = looked(Purpose::Reconcile, 3, None, Seen::nothing());
    assert_eq!(machine.next(), Next::Done(Ending::Equal));
}

#[test]
fn for_an_intent_an_equal_state_gets_a_new_rev() {
    for (mirror, anchor) in [(Some(1), seen(true, equal(Some(1)))), (None, seen(false, equal(None)))] {
        let machine = looked(Purpose::Intent, 3, mirror, anchor);
        assert_eq!(machine.next(), Next::Record { expected: Some(7), etag: mirror });
    }
}

#[test]
fn what_the_anchor_does_not_say_is_looked_at_once_more_before_it_is_recorded() {
    let deleted = looked(Purpose::Reconcile, 3, None, seen(false, behind(Some(1))));
    let mut same = looked(Purpose::Reconcile, 3, Some(2), seen(true, behind(Some(1))));
    same.compared(Content::Same);
    for (mut machine, mirror) in [(deleted, None), (same, Some(2))] {
        assert_eq!(machine.next(), Next::ReadMirror, "traces C4 and C5");
        let mut moved = machine.clone();
        machine.mirror(mirror);
        assert_eq!(machine.next(), Next::Record { expected: Some(7), etag: mirror });
        moved.mirror(Some(9));
        assert_eq!(moved.next(), Next::ReadMirror, "it begins anew");
        moved.mirror(Some(9));
        assert_eq!(moved.next(), Next::ReadAuthority);
    }
}

#[test]
fn a_request_is_noted_then_permitted_then_sent() {
    let mut machine = looked(Purpose::Intent, 3, Some(1), seen(true, behind(Some(1))));
    let note = Next::Note { put: true, expects: Some(1) };
    assert_eq!(machine.next(), note);
    let mut unstored = machine.clone();
    unstored.noted(false);
    assert_eq!(unstored.next(), Next::ReadMirror, "nothing is sent without its note");
    machine.noted(true);
    for (permission, next) in [
        (Permission::Send, Next::Write { put: true, expects: Some(1) }),
        (Permission::NoteAnew, note),
        (Permission::Over, Next::Done(Ending::GaveUp)),
    ] {
        let mut machine = machine.clone();
        machine.permitted(permission);
        assert_eq!(machine.next(), next, "{permission:?}");
    }
}

#[test]
fn what_was_put_counts_once_the_anchor_was_written_anew() {
    let mut machine = looked(Purpose::Intent, 2, Some(1), seen(true, behind(Some(1))));
    send(&mut machine);
    machine.written(Sent::Applied, Some(2));
    assert_eq!(machine.next(), Next::Record { expected: Some(7), etag: Some(2) });
    let mut moved_on = machine.clone();
    moved_on.recorded(Sent::Refused);
    assert_eq!(moved_on.next(), Next::ReadMirror, "trace B13");
    machine.recorded(Sent::Applied);
    assert_eq!(machine.next(), Next::Done(Ending::Written), "the anchor's transaction took the note along");
}

/// What Blob holds, and no anchor says, is named by a note for as long as that is so.
#[test]
fn a_note_is_taken_back_only_where_it_names_nothing_that_is_there() {
    let noted = || {
        let mut machine = looked(Purpose::Intent, 4, Some(1), seen(true, behind(Some(1))));
        machine.noted(true);
        machine
    };
    let mut unsent = noted();
    unsent.stop(false);
    assert_eq!(unsent.next(), Next::Withdraw { names: false });

    let mut sent = noted();
    sent.permitted(Permission::Send);
    let mut under_way = sent.clone();
    under_way.stop(true);
    assert_eq!(under_way.next(), Next::Done(Ending::GaveUp), "its note stays: it may land");

    let mut refused = sent.clone();
    refused.written(Sent::Refused, None);
    look(&mut refused, Some(3), seen(true, equal(Some(3))));
    assert_eq!(refused.next(), Next::Record { expected: Some(7), etag: Some(3) });

    sent.written(Sent::Applied, Some(2));
    sent.recorded(Sent::Refused);
    let mut unrecorded = sent.clone();
    unrecorded.stop(false);
    assert_eq!(unrecorded.next(), Next::Withdraw { names: true }, "Blob holds what it left");
    unrecorded.withdrawn();
    assert_eq!(unrecorded.next(), Next::Done(Ending::GaveUp));

    // The next one expects what it left, and takes its place.
    look(&mut sent, Some(2), seen(true, behind(Some(1))));
    sent.compared(Content::Ours);
    assert_eq!(sent.next(), Next::Note { put: true, expects: Some(2) });
    sent.noted(true);
    sent.stop(false);
    assert_eq!(sent.next(), Next::Withdraw { names: true }, "though it was not sent itself");
}

#[test]
fn the_note_of_a_request_without_an_answer_is_nobodys_to_take_back() {
    let mut machine = looked(Purpose::Intent, 4, None, seen(true, behind(None)));
    send(&mut machine);
    machine.written(Sent::Unknown, None);
    // It was applied after all, and is recorded by this very operation.
    look(&mut machine, Some(1), seen(true, behind(None)));
    machine.compared(Content::Same);
    machine.mirror(Some(1));
    assert_eq!(machine.next(), Next::Record { expected: Some(7), etag: Some(1) });
    let mut stopped = machine.clone();
    stopped.stop(false);
    assert_eq!(stopped.next(), Next::Done(Ending::GaveUp), "trace C18");
    machine.recorded(Sent::Applied);
    assert_eq!(machine.next(), Next::Done(Ending::Equal));
}

#[test]
fn content_tells_whose_a_blob_is_that_the_anchor_does_not_name() {
    let compare = || looked(Purpose::Intent, 4, Some(2), seen(true, behind(Some(1))));
    let mut machine = compare();
    machine.compared(Content::Ours);
    assert_eq!(machine.next(), Next::Note { put: true, expects: Some(2) });
    let mut machine = compare();
    machine.compared(Content::Other);
    look(&mut machine, Some(2), seen(true, behind(Some(1))));
    machine.compared(Content::Other);
    assert_eq!(machine.next(), Next::Done(Ending::Foreign { etag: 2 }));
    // The same content where nothing should be: the late put of a version that was deleted.
    let mut machine = looked(Purpose::Intent, 4, Some(2), seen(false, behind(Some(1))));
    machine.compared(Content::Ours);
    assert_eq!(machine.next(), Next::Note { put: false, expects: Some(2) });
}

#[test]
fn foreign_is_only_what_is_so_twice_beside_the_same_anchor() {
    let mut machine = looked(Purpose::Intent, 4, Some(2), seen(true, behind(Some(1))));
    machine.compared(Content::Other);
    look(&mut machine, Some(2), Seen { rev: Some(8), ..seen(true, behind(Some(1))) });
    machine.compared(Content::Other);
    assert_eq!(machine.next(), Next::ReadMirror, "the anchor was written meanwhile");
}

#[test]
fn a_pending_anchor_is_brought_to_its_end_first() {
    let pending = Seen { pending: true, ..seen(false, behind(Some(1))) };
    let mut machine = looked(Purpose::Intent, 2, Some(1), pending.clone());
    assert_eq!(machine.next(), Next::Finish);
    machine.finished();
    assert_eq!(machine.next(), Next::ReadAuthority);
    machine.authority(Seen { rev: Some(8), pending: false, blob: pending.finished(Rules::SOUND), ..pending });
    assert_eq!(machine.next(), Next::Note { put: false, expects: Some(1) }, "V2: it is not foreign");
}

#[test]
fn the_next_version_says_what_blob_held_last() {
    for (now, holds, then) in [
        (equal(Some(1)), true, behind(Some(1))),
        (equal(Some(1)), false, behind(Some(1))),
        (behind(Some(1)), true, behind(Some(1))),
        (equal(None), true, behind(None)),
        (equal(None), false, equal(None)),
        (behind(None), false, behind(None)),
    ] {
        assert_eq!(seen(true, now).replaced(holds), then, "{now:?} {holds}");
    }
}

#[test]
fn looks_are_bounded() {
    let mut machine = looked(Purpose::Intent, 1, None, seen(true, behind(None)));
    send(&mut machine);
    machine.written(Sent::Refused, None);
    assert_eq!(machine.next(), Next::Withdraw { names: false });
    machine.withdrawn();
    assert_eq!(machine.next(), Next::Done(Ending::GaveUp));
}
