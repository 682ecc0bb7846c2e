//! A cluster on simulated time, network, disks and machines, with all bad luck drawn from a seed. What runs on it is the real thing:
//! replicas, controllers, keepers, leases and the steward, as `crate::node` puts them together, from raft's file to the agent's
//! interface. What is left out: the APIs, TLS and framing between nodes, images' bytes, and streams.
//!
//! All is one thread with tokio's paused time, which passes only when nobody has anything to do: a second of it takes some milliseconds.
//! turmoil gives each host a runtime of its own, which is dropped with it, and steps them a millisecond at a time. Here all hosts
//! share one, so that time goes from event to event, and messages, not packets, are what is lost and repeated; for that, whatever a dead process
//! reaches the world by stands still ([`life::Life`]).
//!
//! # The same seed gives the same history
//!
//! Time and randomness of our own code come from [`hooks`]. What remains is others': the order of `HashMap`s, openraft's election timeouts,
//! and which ready branch of a `select!` tokio takes first. All of these begin with `getrandom`, which the program `simulate` defines for itself.
//! tokio counts its runtimes into that, so each seed has a process of its own. So nothing needs `--cfg tokio_unstable`.
//!
//! # What must hold
//!
//! At all times: no container has two processes, on however many machines; each revision of the state is the same wherever it is applied;
//! a term has one leader. After each stretch of bad luck: everybody agrees, each container runs where and only where it is
//! to, of what is removed nothing is left, all that was acknowledged is so, and the registers' histories are linearizable. Then, with
//! nothing else wrong, the leader's power fails: writes go on, and its pods run elsewhere, in time.

pub mod agent;
mod chaos;
pub mod clients;
pub mod control;
pub mod disk;
pub mod history;
pub mod hooks;
pub mod host;
pub mod life;
pub mod machine;
pub mod network;
mod rest;
pub mod runtime;
pub mod truth;
pub mod world;

use std::path::Path;
use std::str::FromStr;
use std::time::Duration;

use crate::lease::Timing;
use hooks::one_in;
use world::World;

pub use chaos::{ELSEWHERE, WRITES_AGAIN};

/// Entries between snapshots, in half of all histories: few, since a history has some hundred.
const SNAPSHOT_AFTER: std::ops::Range<u64> = 20..200;
/// Entries that are kept behind them there.
const KEPT_BEHIND: std::ops::Range<u64> = 1..50;

/// Mistakes that a simulation must find.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Bug {
    /// What is acknowledged isn't durable yet.
    AcknowledgeBeforeFsync,
    /// A node is called out at once, and its pods started elsewhere, though its lease isn't over.
    SkipLease,
    /// Whatever redb finds on a disk is taken for what was acknowledged.
    TrustTheDisk,
}

/// What is simulated.
#[derive(Debug, Clone, Copy)]
pub struct Plan {
    /// All luck is drawn from this.
    pub seed: u64,
    /// With a mistake.
    pub bug: Option<Bug>,
    /// Everything that happens is printed.
    pub tells: bool,
}

/// What came of it.
#[derive(Debug, Clone)]
pub struct Report {
    /// What must not be, and has been; or what has not come to be in time.
    pub failure: Option<String>,
    /// The last things that happened, where it failed.
    pub last: Vec<String>,
    /// A number that is the same for the same history.
    pub trace: u64,
    /// Events.
    pub events: u64,
    /// Of simulated time.
    pub simulated: Duration,
    /// How many things clients have asked for, and got.
    pub asked: (u64, u64),
    /// From the leader's death to the next write.
    pub writes_again: Vec<Duration>,
    /// From a node's death until each of its pods that may move ran elsewhere.
    pub elsewhere: Vec<Duration>,
}

/// Simulates a seed, in a process that has done nothing before. `dir`: an empty directory, for what is a file in any case.
pub fn run(plan: Plan, dir: &Path, images: hearth_image::Store) -> std::io::Result<Report> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build()?;
    let mut report = runtime.block_on(simulate(plan, dir, images));
    if std::fs::read_dir("/proc/self/task")?.count() > 1 {
        // What it does, and when, isn't drawn from the seed.
        let words = "a thread has begun in a simulation";
        report.failure.get_or_insert(words.to_owned());
    }
    Ok(report)
}

async fn simulate(plan: Plan, dir: &Path, images: hearth_image::Store) -> Report {
    hooks::begin(plan.seed);
    match plan.bug {
        Some(Bug::AcknowledgeBeforeFsync) => hooks::plant_acknowledging_before_fsync(),
        Some(Bug::TrustTheDisk) => hooks::plant_trusting_the_disk(),
        Some(Bug::SkipLease) | None => {}
    }
    let timing = match plan.bug {
        Some(Bug::SkipLease) => Timing {
            out: Timing::STANDARD.renew + Timing::STANDARD.retry,
            ..Timing::STANDARD
        },
        _ => Timing::STANDARD,
    };
    let nodes = if one_in(4) { 5 } else { 3 };
    if one_in(2) {
        hooks::set_snapshots(hooks::pick(SNAPSHOT_AFTER), hooks::pick(KEPT_BEHIND));
    }
    let mut world = World::new(nodes, dir, &images, timing, plan.tells);
    let mut measured = chaos::Measured::default();
    let ran = chaos::run(&mut world, &mut measured).await;
    let failure = ran.err();
    let (trace, events) = world.truth.trace();
    Report {
        last: match failure {
            Some(_) => world.truth.last(),
            None => Vec::new(),
        },
        failure,
        trace,
        events,
        simulated: Duration::from_nanos(hooks::true_ns()),
        asked: world.clients.count(),
        writes_again: measured.writes_again,
        elsewhere: measured.elsewhere,
    }
}

/// A constant's.
fn parsed<T: FromStr>(text: &str) -> T
where
    T::Err: std::fmt::Debug,
{
    text.parse()
        .expect("it is a constant of the simulation's, and well formed")
}
