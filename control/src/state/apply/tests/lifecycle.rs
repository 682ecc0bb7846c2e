//! Starts, stops, restarts, policies and removals, as their users see them.

use super::world::{ONE, World, id};
use crate::state::*;

fn policy(restart: RestartPolicy) -> ContainerSpec {
    ContainerSpec {
        restart,
        ..Default::default()
    }
}

fn with_rm() -> ContainerSpec {
    ContainerSpec {
        auto_remove: true,
        ..Default::default()
    }
}

#[test]
fn a_stop_a_kill_and_a_restart_are_told_in_dockers_order() {
    let mut world = World::with(ContainerSpec::default());
    assert_eq!(world.start(), "(wanted)");
    assert_eq!(world.begins(), "started");
    assert_eq!(world.start(), "", "it is up");
    assert_eq!(world.stop(), "signalled 15");
    assert_eq!(world.ends(143), "died 143, stopped");
    assert_eq!(world.stop(), "", "it is down");
    assert_eq!(world.restart(), "(wanted)");
    assert_eq!(world.begins(), "started, restarted");
    assert_eq!(world.restart(), "(wanted), signalled 15");
    assert_eq!(world.ends(143), "died 143, stopped");
    assert_eq!(world.begins(), "started, restarted");
    let kill = Command::Stop {
        id: id(1),
        at_ns: 0,
        signal: Signal::KILL,
        timeout_s: None,
        tell: false,
    };
    assert_eq!(world.ok(kill.clone()), "signalled 9");
    assert_eq!(world.ends(137), "died 137");
    let refused = world.apply(kill).result;
    assert!(matches!(refused, Err(Refusal::NotRunning(_))));
}

#[test]
fn what_runs_stands_still_until_it_is_to_go_on_or_anything_else_is_asked_of_it() {
    let mut world = World::with(policy(RestartPolicy::Always));
    let pause = |paused| Command::Pause {
        id: id(1),
        at_ns: 0,
        paused,
    };
    let refused = |world: &mut World, paused| world.apply(pause(paused)).result.unwrap_err();
    assert!(matches!(refused(&mut world, true), Refusal::NotRunning(_)));
    world.start();
    assert!(matches!(refused(&mut world, true), Refusal::NotRunning(_)));
    world.begins();
    assert!(matches!(refused(&mut world, false), Refusal::NotPaused(_)));
    assert_eq!(world.ok(pause(true)), "(wanted)");
    assert!(matches!(refused(&mut world, true), Refusal::Paused(_)));
    let told = |world: &mut World, paused| {
        let run = world.it().status.run;
        let report = Report::Paused {
            id: id(1),
            run,
            paused,
        };
        world.told(ONE, report)
    };
    assert_eq!(told(&mut world, true), "paused");
    assert_eq!(told(&mut world, true), "");
    assert!(world.it().status.paused && world.it().is_up());
    assert_eq!(world.ok(pause(false)), "(wanted)");
    assert_eq!(told(&mut world, false), "unpaused");
    // Whatever ends it, or may, has it go on first.
    let signal = Command::Signalled {
        id: id(1),
        at_ns: 0,
        signal: Signal::HUP,
        end: false,
    };
    world.ok(pause(true));
    assert_eq!(world.ok(signal), "signalled 1");
    assert!(!world.it().wanted.paused);
    world.ok(pause(true));
    world.restart();
    assert!(!world.it().wanted.paused);
    assert_eq!(told(&mut world, true), "paused", "its node was faster");
    assert_eq!(world.ends(143), "died 143, stopped");
    assert!(!world.it().status.paused);
    assert_eq!(world.begins(), "started, restarted");
    world.ok(pause(true));
    world.stop();
    assert!(!world.it().wanted.paused);
    assert_eq!(world.ends(143), "died 143, stopped");
    // It ends by itself, or its machine does; the next run of its policy doesn't stand still.
    world.start();
    world.begins();
    world.ok(pause(true));
    told(&mut world, true);
    world.ends(137);
    world.begins();
    assert!(!world.it().wanted.paused && !world.it().status.paused);
}

#[test]
fn a_restart_of_what_is_down_stops_nothing_when_that_ends_by_itself() {
    for begun in [false, true] {
        let mut world = World::with(ContainerSpec::default());
        if begun {
            // It is about to be, and then isn't.
            world.start();
        }
        world.restart();
        if begun {
            assert_eq!(world.fails(128), "died 128");
            continue;
        }
        assert_eq!(world.begins(), "started, restarted");
        assert_eq!(world.it().wanted.stop, None);
        assert_eq!(world.ends(0), "died 0");
    }
}

#[test]
fn a_stop_during_the_boot_waits_for_what_the_node_says() {
    let mut world = World::with(ContainerSpec::default());
    world.start();
    assert_eq!(world.stop(), "signalled 15");
    assert_eq!(world.it().phase(), Phase::Starting, "it may be booting");
    assert!(world.remove(false).result.is_err());
    assert_eq!(world.begins(), "started");
    assert!(world.it().wanted.stop.is_some());
    assert_eq!(world.ends(143), "died 143, stopped");
    // Nothing of it had begun.
    world.start();
    world.stop();
    let start = world.it().wanted.start;
    let of = |start| Report::NotStarted { id: id(1), start };
    assert_eq!(world.told(ONE, of(start - 1)), "");
    assert_eq!(world.told(ONE, of(start)), "stopped");
    assert_eq!(world.it().phase(), Phase::Exited);
    assert_eq!(world.told(ONE, of(start)), "");
    // It begins all the same where the word and the start cross.
    world.start();
    assert_eq!(world.told(ONE, of(start)), "");
    assert_eq!(world.begins(), "started");
}

#[test]
fn a_stop_of_what_no_node_can_have_begun_is_over_at_once() {
    let mut world = World::with(ContainerSpec::default());
    world.assign(None, vec![]);
    world.released(ONE);
    world.start();
    assert_eq!(world.it().phase(), Phase::Starting);
    assert_eq!(world.stop(), "signalled 15, stopped");
    assert_eq!(world.it().phase(), Phase::Created);
}

#[test]
fn the_signal_that_ends_a_container_waits_for_its_boot_and_holds_its_policy_still() {
    let mut world = World::with(policy(RestartPolicy::Always));
    world.start();
    let signalled = |end| Command::Signalled {
        id: id(1),
        at_ns: 0,
        signal: Signal::TERM,
        end,
    };
    let applied = world.apply(signalled(true));
    assert_eq!(applied.result, Ok(Outcome::Unchanged), "its node sends it");
    let stop = world.it().wanted.stop.unwrap();
    assert_eq!((stop.signal, stop.timeout_s), (Signal::TERM, None));
    world.begins();
    assert_eq!(world.ends(143), "died 143");
    assert!(!world.it().wanted.up);
    // Of one that runs, it is sent by whoever has asked.
    world.start();
    world.begins();
    assert_eq!(
        world.apply(signalled(false)).result,
        Ok(Outcome::Done),
        "another signal"
    );
    assert!(world.it().wanted.up);
    assert_eq!(world.apply(signalled(true)).result, Ok(Outcome::Done));
    assert!(!world.it().wanted.up && world.it().is_up());
    world.ends(143);
    assert!(!world.it().awaits_restart());
    // What a restart ends begins again, whatever else ends it.
    world.start();
    world.begins();
    world.restart();
    world.ok(signalled(true));
    world.ends(143);
    assert_eq!(world.begins(), "started, restarted");
}

#[test]
fn a_policy_restarts_until_its_limit_and_a_start_by_a_user_counts_anew() {
    let limit = RestartPolicy::OnFailure { maximum_retries: 2 };
    let mut world = World::with(policy(limit));
    world.start();
    for restarts in 0..3 {
        world.begins();
        assert_eq!(world.it().status.restarts, restarts);
        world.ends(1);
        assert_eq!(world.it().awaits_restart(), restarts < 2);
        assert_eq!(world.it().status.short_runs, restarts + 1);
    }
    world.start();
    world.begins();
    assert_eq!(world.it().status.restarts, 0);
    world.at_ns += GOOD_RUN_NS;
    world.ends(1);
    assert_eq!(world.it().status.short_runs, 0, "it was a good run");
    world.begins();
    world.ends(0);
    assert!(!world.it().awaits_restart(), "it has not failed");
}

#[test]
fn a_start_that_fails_is_not_tried_again_but_a_restart_that_fails_is() {
    let mut world = World::with(policy(RestartPolicy::Always));
    world.start();
    assert_eq!(world.fails(127), "died 127");
    let it = world.it();
    assert_eq!((it.phase(), it.status.exit.code), (Phase::Exited, 127));
    assert_eq!(it.status.failure.as_ref().unwrap().message, "why");
    assert!(!it.awaits_restart());
    world.start();
    world.begins();
    world.ends(1);
    world.fails(128);
    assert!(world.it().awaits_restart());
}

#[test]
fn between_two_runs_it_counts_as_running_until_it_is_stopped() {
    let mut world = World::with(policy(RestartPolicy::Always));
    world.start();
    world.begins();
    world.ends(1);
    assert!(world.it().awaits_restart() && !world.it().is_up());
    let refused = world.remove(false).result;
    assert!(matches!(refused, Err(Refusal::Running(_))));
    assert_eq!(world.stop(), "stopped");
    assert!(!world.it().awaits_restart());
    assert_eq!(world.stop(), "");
}

#[test]
fn what_goes_with_its_end_goes_unless_it_is_restarted() {
    let mut world = World::with(with_rm());
    world.start();
    world.begins();
    world.restart();
    world.restart();
    assert_eq!(world.ends(143), "died 143, stopped");
    assert_eq!(world.begins(), "started, restarted");
    assert_eq!(world.ends(3), "died 3, removed");
    // A start that fails is an end too; one that is called off isn't, unless it has run before.
    let mut world = World::with(with_rm());
    world.start();
    assert_eq!(world.fails(127), "died 127, removed");
    for has_run in [false, true] {
        let mut world = World::with(with_rm());
        world.start();
        if has_run {
            world.begins();
            world.restart();
            world.ends(0);
        }
        world.stop();
        let called_off = Report::NotStarted {
            id: id(1),
            start: world.it().wanted.start,
        };
        let told = world.told(ONE, called_off);
        let expected = if has_run {
            "stopped, removed"
        } else {
            "stopped"
        };
        assert_eq!(told, expected);
    }
}

#[test]
fn what_is_removed_by_force_is_killed_and_nothing_brings_it_back() {
    let mut world = World::with(policy(RestartPolicy::Always));
    world.start();
    world.begins();
    assert!(matches!(
        world.remove(false).result,
        Err(Refusal::Running(_))
    ));
    world.remove(true).result.unwrap();
    let restart = Command::Restart {
        id: id(1),
        at_ns: 0,
        signal: Signal::TERM,
        timeout_s: Some(10),
    };
    let refused = world.apply(restart).result;
    assert!(matches!(refused, Err(Refusal::BeingRemoved(_))));
    world.stop();
    let stop = world.it().wanted.stop.unwrap();
    assert_eq!(stop.signal, Signal::KILL, "what is killed stays so");
    assert_eq!(world.ends(137), "died 137, stopped, removed");
    // Of what doesn't run, nothing is to be waited for.
    let mut world = World::with(ContainerSpec::default());
    world.start();
    world.remove(true).result.unwrap();
    assert!(world.state.containers.iter().next().is_none());
}

#[test]
fn each_want_of_memory_is_told_once_and_is_known_until_the_next_run() {
    let mut world = World::with(ContainerSpec::default());
    world.start();
    world.begins();
    let out_of_memory = |world: &mut World, kills| {
        let run = world.it().status.run;
        let told = world.told(
            ONE,
            Report::OutOfMemory {
                id: id(1),
                run,
                kills,
            },
        );
        (told, world.it().status.exit.oom_killed)
    };
    let killed = |world: &mut World| {
        let (run, id) = (world.it().status.run, id(1));
        let exit = Exit {
            code: 137,
            oom_killed: true,
        };
        world.told(ONE, Report::Exited { id, run, exit })
    };
    assert_eq!(out_of_memory(&mut world, 1), ("outofmemory".into(), true));
    assert_eq!(out_of_memory(&mut world, 1), (String::new(), true), "again");
    assert_eq!(out_of_memory(&mut world, 3), ("outofmemory".into(), true));
    assert_eq!(killed(&mut world), "died 137", "it was all told before");
    world.start();
    world.begins();
    assert!(
        !world.it().status.exit.oom_killed,
        "the next run has enough so far"
    );
    assert_eq!(
        killed(&mut world),
        "outofmemory, died 137",
        "nobody had told"
    );
    assert_eq!(
        out_of_memory(&mut world, 9),
        (String::new(), true),
        "it is down"
    );
}

#[test]
fn ports_are_kept_over_a_restart_and_given_back_with_the_end() {
    let port = PortRequest {
        container_port: 80,
        protocol: Protocol::Tcp,
        host_ip: None,
        host_port: 0,
        host_port_last: None,
    };
    let mut world = World::with(ContainerSpec {
        ports: vec![port],
        ..Default::default()
    });
    world.start();
    let ports = world.it().pod.ports.clone();
    assert_eq!(ports.len(), 1);
    world.begins();
    world.restart();
    world.ends(0);
    world.begins();
    assert_eq!(world.it().pod.ports, ports);
    world.stop();
    assert_eq!(world.it().pod.ports, ports, "it still runs");
    world.ends(0);
    assert!(world.it().pod.ports.is_empty());
    // What may be booting holds them too.
    world.start();
    world.stop();
    assert_eq!(world.it().pod.ports.len(), 1);
}
