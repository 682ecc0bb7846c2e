//! Clusters that have bad luck, and the mistakes that they are to bring to light.

use std::process::{Command, Output};

/// Seeds that are simulated at each test; `cargo xtask simulate` takes any number.
const SEEDS: u64 = 200;
/// A planted bug is found within so many seeds.
const SEEDS_FOR_A_BUG: u64 = 12;

fn simulate(arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_simulate"));
    let output = command.args(arguments).output();
    output.expect("the simulator is built with its tests")
}

fn said(output: &Output) -> String {
    let all = [output.stdout.as_slice(), output.stderr.as_slice()].concat();
    String::from_utf8_lossy(&all).into_owned()
}

#[test]
fn whatever_fails_nothing_acknowledged_is_lost_nothing_runs_twice_and_all_comes_to_rest() {
    let done = simulate(&["--seeds", &SEEDS.to_string()]);
    assert!(done.status.success(), "{}", said(&done));
    println!("{}", said(&done));
}

#[test]
fn the_same_seed_gives_the_same_history() {
    for seed in ["3", "7"] {
        let one = simulate(&["--one", "--seed", seed]);
        let other = simulate(&["--one", "--seed", seed]);
        assert!(said(&one).contains("trace="), "{}", said(&one));
        assert_eq!(one.stdout, other.stdout);
    }
}

fn is_found(bug: &str) {
    let mut seeds = 0..SEEDS_FOR_A_BUG;
    let found = seeds.find(|seed| {
        let done = simulate(&["--one", "--seed", &seed.to_string(), "--bug", bug]);
        !done.status.success()
    });
    assert!(found.is_some(), "{bug} is not found");
}

#[test]
fn a_commit_that_is_acknowledged_before_it_is_durable_is_found() {
    is_found("acknowledge-before-fsync");
}

#[test]
fn a_lease_that_nobody_waits_for_is_found() {
    is_found("skip-lease");
}

#[test]
fn a_disk_that_has_lost_what_was_acknowledged_and_is_believed_is_found() {
    is_found("trust-the-disk");
}
