//! Histories with a known violation are found, correct ones pass, and what the search says is what trying everything
//! says.

use rand::{RngExt as _, SeedableRng as _};
use rand_chacha::ChaCha8Rng;

use super::*;

const A: State = Some(Content(1));
const B: State = Some(Content(2));

fn at(time: u64) -> Moment {
    Moment::from_millis(time)
}

fn read((invoked, returned): (u64, u64), state: State) -> Step {
    certain((invoked, returned), Expect::Is(state), None)
}

fn put((invoked, returned): (u64, u64), state: State) -> Step {
    certain((invoked, returned), Expect::Anything, Some(Write::To(state)))
}

fn certain((invoked, returned): (u64, u64), expect: Expect, write: Option<Write>) -> Step {
    Step { record: 0, expect, write, invoked: at(invoked), returned: Some(at(returned)), until: None }
}

fn open(invoked: u64, until: Option<u64>, write: Write) -> Step {
    let until = until.map(at);
    Step { until, returned: None, ..certain((invoked, 0), Expect::Anything, Some(write)) }
}

fn wrong_at(steps: &[Step], step: usize) -> BTreeSet<State> {
    match check(steps) {
        Verdict::Wrong { step: found, held } => {
            assert_eq!(found, step);
            held
        }
        verdict => panic!("{verdict:?}"),
    }
}

#[test]
fn what_clients_may_see_passes() {
    assert_eq!(check(&[]), Verdict::Sound);
    assert_eq!(check(&[read((0, 1), None), put((2, 3), A), read((4, 5), A)]), Verdict::Sound);
    // Reads during a write see it or do not.
    let during = [put((0, 1), A), put((2, 9), B), read((3, 4), A), read((5, 6), B), read((7, 8), B)];
    assert_eq!(check(&during), Verdict::Sound);
    // Two writes at a time, in either order.
    for state in [A, B] {
        assert_eq!(check(&[put((0, 5), A), put((1, 4), B), read((6, 7), state)]), Verdict::Sound);
    }
    // A, B, A.
    let back = [put((0, 1), A), put((2, 3), B), read((4, 5), B), put((6, 7), A), read((8, 9), A)];
    assert_eq!(check(&back), Verdict::Sound);
}

#[test]
fn a_lost_write_is_found() {
    let held = wrong_at(&[put((0, 1), A), put((2, 3), B), read((4, 5), A)], 2);
    assert_eq!(held, BTreeSet::from([B]));
    wrong_at(&[put((0, 1), A), read((2, 3), None)], 1);
    wrong_at(&[put((0, 1), A), put((2, 3), None), read((4, 5), A)], 2);
}

#[test]
fn a_read_that_goes_back_in_time_is_found() {
    // The second read sees less than the first, though both are during the write.
    wrong_at(&[put((0, 1), A), put((2, 9), B), read((3, 4), B), read((5, 6), A)], 3);
    // Through an open write, too.
    let steps = [put((0, 1), A), open(2, None, Write::To(B)), read((3, 4), B), read((5, 6), A)];
    wrong_at(&steps, 3);
}

#[test]
fn a_write_without_an_answer_may_happen_later_or_never_but_once() {
    let before = [put((0, 1), A), open(2, None, Write::To(B)), read((3, 4), A)];
    assert_eq!(check(&before), Verdict::Sound);
    let later = [&before[..], &[read((50, 51), B)]].concat();
    assert_eq!(check(&later), Verdict::Sound);
    // It can't undo what was written after it was seen.
    let twice = [&later[..], &[put((52, 53), A), read((54, 55), A), read((60, 61), B)]].concat();
    wrong_at(&twice, 6);
    // Before it was asked for, it can't have happened.
    wrong_at(&[read((0, 1), B), open(2, None, Write::To(B))], 0);
}

#[test]
fn a_write_without_an_answer_has_its_time() {
    let late = |until| [put((0, 1), A), open(2, until, Write::To(B)), read((9, 10), A), read((20, 21), B)];
    assert_eq!(check(&late(Some(15))), Verdict::Sound);
    wrong_at(&late(Some(8)), 3);
    // A read that ends its time may come only after it.
    let taken = [open(0, Some(5), Write::To(B)), read((1, 2), None), read((6, 7), B)];
    assert_eq!(check(&taken), Verdict::Sound);
}

#[test]
fn conditions_are_part_of_it() {
    let create = |times, state| certain(times, Expect::Is(None), Some(Write::To(state)));
    let exists = |times| certain(times, Expect::Not(None), None);
    assert_eq!(check(&[create((0, 5), A), exists((1, 6)), read((7, 8), A)]), Verdict::Sound);
    // Both were told that they created it.
    wrong_at(&[create((0, 5), A), create((1, 6), B)], 1);
    // Refused, though nothing was ever there.
    wrong_at(&[exists((0, 1)), create((2, 3), A)], 0);
    let swap = |times, from, to| certain(times, Expect::Is(from), Some(Write::To(to)));
    wrong_at(&[put((0, 1), A), swap((2, 6), A, B), swap((3, 5), A, None)], 1);
    // Refused, though what it asked for was there all the time.
    wrong_at(&[put((0, 1), A), certain((2, 3), Expect::Not(A), None)], 1);
    // An open step may be what another open step needs.
    let open_swap = Step { expect: Expect::Is(B), ..open(3, None, Write::To(None)) };
    let chain = [put((0, 1), A), open(2, None, Write::To(B)), open_swap, read((4, 5), None)];
    assert_eq!(check(&chain), Verdict::Sound);
}

#[test]
fn a_copy_without_an_answer_may_have_brought_anything_but_only_one_thing() {
    let copied = [put((0, 1), A), open(2, None, Write::Copied), read((3, 4), B)];
    assert_eq!(check(&copied), Verdict::Sound);
    assert_eq!(check(&[&copied[..], &[read((5, 6), B)]].concat()), Verdict::Sound);
    wrong_at(&[&copied[..], &[read((5, 6), A)]].concat(), 3);
    wrong_at(&[open(0, None, Write::Copied), read((1, 2), B), read((3, 4), None)], 2);
}

#[test]
fn long_histories_take_no_time() {
    let mut steps = Vec::new();
    for number in 0..20_000_u64 {
        let (time, content) = (number * 10, Some(Content(u32::try_from(number % 7).unwrap())));
        steps.push(put((time, time + 25), content));
        if number % 5 == 0 {
            steps.push(open(time, None, Write::To(content)));
        }
    }
    steps.push(read((300_000, 300_001), Some(Content(6))));
    let begun = std::time::Instant::now();
    assert_ne!(check(&steps), Verdict::TooHard);
    assert!(begun.elapsed().as_secs() < 10, "{:?}", begun.elapsed());
}

#[test]
fn the_search_says_what_trying_everything_says() {
    let mut verdicts = [0, 0];
    for seed in 0..6_000 {
        let steps = drawn(&mut ChaCha8Rng::seed_from_u64(seed));
        let sound = explained(&steps, &mut vec![false; steps.len()], (None, at(0)));
        verdicts[usize::from(sound)] += 1;
        let passes = check(&steps) == Verdict::Sound;
        // What a copy brought is not remembered by what it was not: so a little more passes than should.
        let copies = steps.iter().any(|step| step.write == Some(Write::Copied));
        assert!(passes == sound || copies && passes, "seed {seed}: {steps:#?}");
    }
    assert!(verdicts.iter().all(|count| *count > 1_000), "{verdicts:?}");
}

/// A few steps at a time, of which each has a fair chance to be explained.
fn drawn(random: &mut ChaCha8Rng) -> Vec<Step> {
    let state = |random: &mut ChaCha8Rng| [None, A, B][random.random_range(0..3)];
    let count = random.random_range(2..8);
    let step = |index: u64, random: &mut ChaCha8Rng| {
        let invoked = index * 4 + random.random_range(0..6);
        let returned = invoked + random.random_range(1..12);
        let expect = match random.random_range(0..4) {
            0 => Expect::Is(state(random)),
            1 => Expect::Not(state(random)),
            _ => Expect::Anything,
        };
        match random.random_range(0..10) {
            0..4 => read((invoked, returned), state(random)),
            4 => certain((invoked, returned), Expect::Not(state(random)), None),
            5..8 => certain((invoked, returned), expect, Some(Write::To(state(random)))),
            _ => {
                let until = random.random_bool(0.6).then(|| returned + random.random_range(0..12));
                let expect = if matches!(expect, Expect::Not(_)) { Expect::Anything } else { expect };
                let copies = random.random_bool(0.3);
                let write = if copies { Write::Copied } else { Write::To(state(random)) };
                Step { expect, ..open(invoked, until, write) }
            }
        }
    };
    (0..count).map(|index| step(index, random)).collect()
}

/// Whether the answered steps that are left, and some of the open ones, can be put in order; `latest` is when the latest
/// of those that are in order already began.
fn explained(steps: &[Step], taken: &mut Vec<bool>, (held, latest): (State, Moment)) -> bool {
    if steps.iter().zip(&*taken).all(|(step, taken)| *taken || step.returned.is_none()) {
        return true;
    }
    for index in 0..steps.len() {
        let step = steps[index];
        let waits = (0..steps.len())
            .any(|other| !taken[other] && steps[other].returned.is_some_and(|end| end < step.invoked));
        let over = step.until.is_some_and(|until| until < latest);
        if taken[index] || waits || over || !Held::Just(held).meets(step.expect) {
            continue;
        }
        let after = match step.write {
            None => vec![held],
            Some(Write::To(state)) => vec![state],
            // One that is read, or one that is not.
            Some(Write::Copied) => vec![A, B, Some(Content(3))],
        };
        taken[index] = true;
        let latest = latest.max(step.invoked);
        let rest = after.into_iter().any(|after| explained(steps, taken, (after, latest)));
        taken[index] = false;
        if rest {
            return true;
        }
    }
    false
}
