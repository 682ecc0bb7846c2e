//! Leases in a world of faults, and rule by rule.

mod world;

use proptest::prelude::*;

use self::world::{MS, Rules, S, World};
use super::{Answer, BootTime, DRIFT, Granter, Holder, KILL, Member, RequestId, Timing, Verdict};
use crate::state::NodeId;

const TIMING: Timing = Timing::STANDARD;
const SOUND: Rules = Rules {
    timing: TIMING,
    drift: DRIFT,
    kill: KILL.as_nanos() as u64,
    faults: true,
    unconfirmed: false,
    from_answer: false,
    grants_out: false,
    any_tenure: false,
};
/// Worlds that a rule is tried in, and how long each lasts.
const WORLDS: u64 = 200;
const AGE: u64 = 300 * S;

/// The first world in which a pod runs twice.
fn first_twice(rules: Rules) -> Option<(u64, String)> {
    (0..WORLDS).find_map(|seed| {
        let mut world = World::new(seed, rules);
        world.run(AGE);
        world.seen.twice.take().map(|what| (seed, what))
    })
}

#[test]
fn no_pod_runs_twice_whatever_fails() {
    let (mut out, mut admitted, mut lapsed, mut granted) = (0, 0, 0, 0);
    for seed in 0..WORLDS {
        let mut world = World::new(seed, SOUND);
        world.run(AGE);
        assert_eq!(world.seen.twice, None, "seed {seed}: {:?}", world.seen);
        out += world.seen.out;
        admitted += world.seen.admitted;
        lapsed += world.seen.lapsed;
        granted += world.seen.granted;
    }
    // Everything that it is about has happened, and often.
    let often = WORLDS;
    assert!(out > often && admitted > often / 2 && lapsed > often && granted > 20 * often);
}

#[test]
fn what_each_rule_is_for_is_found_where_it_is_broken() {
    let none = Timing {
        hold: (TIMING.hold + TIMING.out) / 2,
        out: (TIMING.hold + TIMING.out) / 2,
        ..TIMING
    };
    let broken = [
        (
            "no margin",
            Rules {
                timing: none,
                ..SOUND
            },
        ),
        ("clocks beyond their bound", Rules { drift: 20, ..SOUND }),
        (
            "late kills",
            Rules {
                kill: 3 * S,
                ..SOUND
            },
        ),
        (
            "unconfirmed",
            Rules {
                unconfirmed: true,
                ..SOUND
            },
        ),
        (
            "from the answer",
            Rules {
                from_answer: true,
                ..SOUND
            },
        ),
        (
            "granted to who is out",
            Rules {
                grants_out: true,
                ..SOUND
            },
        ),
        (
            "called out late",
            Rules {
                any_tenure: true,
                ..SOUND
            },
        ),
    ];
    for (rule, rules) in broken {
        assert!(first_twice(rules).is_some(), "{rule}: nobody noticed");
    }
}

#[test]
fn without_faults_no_lease_ends_though_leaders_change() {
    let rules = Rules {
        faults: false,
        ..SOUND
    };
    for seed in 0..20 {
        let mut world = World::new(seed, rules);
        for _ in 0..10 {
            world.elect_after(20 * S);
            world.run(40 * S);
        }
        let seen = &world.seen;
        assert_eq!((seen.out, seen.lapsed), (0, 0), "seed {seed}: {seen:?}");
        assert_eq!(seen.elected, 11, "seed {seed}");
    }
}

#[test]
fn a_leader_that_dies_is_out_in_time_for_its_pods_to_run_elsewhere_within_15_s() {
    let rules = Rules {
        faults: false,
        ..SOUND
    };
    for seed in 0..20 {
        let mut world = World::new(seed, rules);
        world.run(20 * S + seed * 100 * MS);
        world.crash(world.leader());
        world.elect_after(3 * S);
        world.run(13 * S);
        assert_eq!(world.seen.out, 1, "seed {seed}: {:?}", world.seen);
    }
}

#[test]
fn the_margin_is_what_the_bounds_need_and_no_less_would_do() {
    let kill = KILL.as_nanos() as u64;
    assert!(TIMING.is_safe(DRIFT, kill));
    assert!(!TIMING.is_safe(DRIFT / 20, kill));
    assert!(!TIMING.is_safe(DRIFT, 2 * kill));
    let without = Timing {
        hold: TIMING.out,
        ..TIMING
    };
    assert!(!without.is_safe(DRIFT, 0));
}

proptest! {
    #[test]
    fn what_is_called_safe_is_safe_in_true_time(hold in 1..60_000u64, out in 1..60_000u64, drift in 2..5000u64, kill in 0..5000u64) {
        let timing = Timing { hold: hold * MS, out: out * MS, ..TIMING };
        let d = drift as f64;
        let slow = hold as f64 / (1.0 - 1.0 / d) + kill as f64;
        let fast = out as f64 / (1.0 + 1.0 / d);
        prop_assume!((slow - fast).abs() > 1e-6);
        prop_assert_eq!(timing.is_safe(drift, kill * MS), slow < fast);
    }

    #[test]
    fn a_deadline_never_goes_back_and_never_lies_beyond_what_was_asked_for(steps in proptest::collection::vec((0..3 * S, any::<u8>(), 0..20u64), 1..100)) {
        let mut holder = Holder::new(TIMING, 7, BootTime(0));
        let (mut now, mut last_asked) = (BootTime(S), BootTime(0));
        for (span, what, number) in steps {
            now = now.plus_ns(span);
            let before = holder.deadline();
            let id = RequestId(7 + number);
            match what % 5 {
                0 | 1 => if holder.ask(now).is_some() {
                    last_asked = now;
                },
                2 | 3 => if let Some(deadline) = holder.answered(id, Answer::Granted, now) {
                    prop_assert!(deadline > now);
                    prop_assert_eq!(deadline, holder.deadline());
                },
                _ => holder.failed(id, now),
            }
            prop_assert!(holder.deadline() >= before);
            prop_assert!(holder.deadline() <= last_asked.plus_ns(TIMING.hold));
        }
    }
}

fn asked(holder: &mut Holder, now: u64) -> RequestId {
    holder.ask(BootTime(now)).expect("a request is due")
}

#[test]
fn a_deadline_counts_from_before_its_request_and_an_older_answer_does_not_shorten_it() {
    let mut holder = Holder::new(TIMING, 0, BootTime(0));
    let first = asked(&mut holder, S);
    assert_eq!(holder.ask(BootTime(2 * S)), None);
    let second = asked(&mut holder, 3 * S);
    let now = BootTime(4 * S);
    let deadline = BootTime(3 * S + TIMING.hold);
    assert_eq!(
        holder.answered(second, Answer::Granted, now),
        Some(deadline)
    );
    assert_eq!(holder.answered(first, Answer::Granted, now), None);
    assert_eq!(holder.answered(second, Answer::Granted, now), None);
    assert_eq!(holder.deadline(), deadline);
}

#[test]
fn what_has_failed_extends_nothing_later_and_is_tried_again_soon() {
    let mut holder = Holder::new(TIMING, 0, BootTime(0));
    let request = asked(&mut holder, S);
    holder.failed(request, BootTime(S));
    assert_eq!(holder.answered(request, Answer::Granted, BootTime(S)), None);
    assert_eq!(holder.asks_at(), Some(BootTime(S + TIMING.retry)));
    let request = asked(&mut holder, S + TIMING.retry);
    let answered = holder.answered(request, Answer::NotLeading, BootTime(2 * S));
    assert_eq!(answered, None);
    let answered = holder.answered(request, Answer::Granted, BootTime(2 * S));
    assert_eq!(answered, None);
}

#[test]
fn whoever_is_out_stays_out_with_what_it_was_still_to_be_granted() {
    let mut holder = Holder::new(TIMING, 0, BootTime(0));
    let first = asked(&mut holder, S);
    let second = asked(&mut holder, 3 * S);
    assert_eq!(holder.answered(second, Answer::Out, BootTime(4 * S)), None);
    assert_eq!(
        holder.answered(first, Answer::Granted, BootTime(4 * S)),
        None
    );
    assert!(holder.is_out());
    assert_eq!(
        (holder.ask(BootTime(99 * S)), holder.asks_at()),
        (None, None)
    );
}

const NODE: Member = Member {
    node: NodeId(5),
    tenure: 1,
};
const GRANTED: Verdict = Verdict::Answer(Answer::Granted);

/// A granter of which nobody is away, for a while.
fn ticked(granter: &mut Granter, from: u64, to: u64) {
    for now in (from..=to).step_by(TIMING.retry as usize) {
        granter.tick(BootTime(now));
    }
    granter.tick(BootTime(to));
}

#[test]
fn a_grant_needs_a_majority_that_was_asked_after_the_request() {
    let mut granter = Granter::elected(TIMING, BootTime(S));
    let (early, arrived, now) = (BootTime(S), BootTime(S + 1), BootTime(S + 9));
    granter.confirmed(early, now);
    assert_eq!(granter.request(NODE, arrived, now), Verdict::Unconfirmed);
    granter.confirmed(arrived, now);
    assert_eq!(granter.request(NODE, arrived, now), GRANTED);
}

#[test]
fn nobody_is_out_before_a_whole_lease_has_passed_under_this_leader_nor_before_a_majority_was_asked_again()
 {
    let mut granter = Granter::elected(TIMING, BootTime(S));
    let due = S + TIMING.out;
    assert!(granter.overdue([NODE], BootTime(S)).is_empty());
    assert_eq!(granter.first_due([NODE], BootTime(S)), Some(BootTime(due)));
    ticked(&mut granter, S, due);
    granter.confirmed(BootTime(due), BootTime(due));
    assert!(granter.overdue([NODE], BootTime(due + 1)).is_empty());
    granter.confirmed(BootTime(due + 1), BootTime(due + 2));
    assert_eq!(granter.overdue([NODE], BootTime(due + 2)), [NODE]);
}

#[test]
fn a_node_that_joins_an_old_leader_has_a_whole_lease_to_ask_for_one() {
    let mut granter = Granter::elected(TIMING, BootTime(S));
    let now = BootTime(99 * S);
    ticked(&mut granter, S, now.0);
    granter.confirmed(now, now);
    assert!(granter.overdue([NODE], now).is_empty());
    assert_eq!(
        granter.first_due([NODE], now),
        Some(now.plus_ns(TIMING.out))
    );
}

#[test]
fn whoever_is_found_overdue_is_granted_nothing_until_it_is_called_in() {
    let mut granter = Granter::elected(TIMING, BootTime(S));
    let now = S + TIMING.out + 2;
    assert!(granter.overdue([NODE], BootTime(S)).is_empty());
    ticked(&mut granter, S, now);
    granter.confirmed(BootTime(now), BootTime(now));
    assert_eq!(granter.overdue([NODE], BootTime(now)), [NODE]);
    let answer = granter.request(NODE, BootTime(now), BootTime(now));
    assert_eq!(answer, Verdict::Answer(Answer::Out));
    let again = Member { tenure: 2, ..NODE };
    let late = now + TIMING.out;
    ticked(&mut granter, now, late);
    granter.confirmed(BootTime(late), BootTime(late));
    // It counts from when it was seen to be in.
    assert!(granter.overdue([again], BootTime(late)).is_empty());
    let answer = granter.request(again, BootTime(late), BootTime(late));
    assert_eq!(answer, GRANTED);
    assert!(granter.overdue([NODE], BootTime(late)).is_empty());
}

#[test]
fn a_leader_that_slept_neither_calls_out_nor_grants_before_it_is_confirmed_and_has_listened_for_a_lease()
 {
    let mut granter = Granter::elected(TIMING, BootTime(S));
    granter.confirmed(BootTime(S), BootTime(S));
    assert_eq!(granter.request(NODE, BootTime(S), BootTime(S)), GRANTED);
    let woken = BootTime(100 * S);
    // Asked before it slept, answered after.
    granter.confirmed(BootTime(S + 1), woken);
    assert_eq!(
        granter.request(NODE, BootTime(S + 1), woken),
        Verdict::Unconfirmed
    );
    granter.confirmed(woken, woken);
    assert!(granter.overdue([NODE], woken).is_empty());
    assert_eq!(
        granter.first_due([NODE], woken),
        Some(woken.plus_ns(TIMING.out))
    );
    assert_eq!(granter.request(NODE, woken, woken), GRANTED);
}
