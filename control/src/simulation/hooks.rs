//! What the simulated code takes from its machine without being handed it: the wall clock and random bytes. Each thread has its own; on
//! a thread that simulates nothing, they are the machine's.

use std::cell::{Cell, RefCell};

use rand::rngs::StdRng;
use rand::{Rng, RngCore, SeedableRng};
use tokio::time::Instant;

/// When a simulation begins, nanoseconds since the Unix epoch: some day in 2026.
const EPOCH_NS: i64 = 1_790_000_000_000_000_000;

thread_local! {
    static LUCK: RefCell<Option<StdRng>> = const { RefCell::new(None) };
    static BEGAN: Cell<Option<Instant>> = const { Cell::new(None) };
    /// Wall clocks are wrong by so many nanoseconds. Who asks isn't known here: each time it is another's, where there are several.
    static WRONG_NS: RefCell<Vec<i64>> = const { RefCell::new(Vec::new()) };
    static SNAPSHOTS: Cell<Option<(u64, u64)>> = const { Cell::new(None) };
    static EARLY: Cell<bool> = const { Cell::new(false) };
    static TRUSTING: Cell<bool> = const { Cell::new(false) };
}

/// From here on this thread simulates; called within a runtime whose time is paused.
pub fn begin(seed: u64) {
    LUCK.set(Some(StdRng::seed_from_u64(seed)));
    BEGAN.set(Some(Instant::now()));
}

/// Whether this thread simulates.
pub fn simulates() -> bool {
    BEGAN.get().is_some()
}

/// A planted bug: commits are acknowledged before they are durable.
pub fn plant_acknowledging_before_fsync() {
    EARLY.set(true);
}

/// Whether this commit is such a one: every other is. See [`plant_acknowledging_before_fsync`].
pub fn acknowledges_before_fsync() -> bool {
    EARLY.get() && one_in(2)
}

/// A planted bug: what is on a disk is taken for what was acknowledged.
pub fn plant_trusting_the_disk() {
    TRUSTING.set(true);
}

/// See [`plant_trusting_the_disk`].
pub fn trusts_the_disk() -> bool {
    TRUSTING.get()
}

/// Wall clocks are set: by so many nanoseconds they are wrong from now on.
pub fn set_clocks_wrong_by(ns: Vec<i64>) {
    WRONG_NS.set(ns);
}

/// All wall clocks are what one of them is.
pub fn set_clocks_alike() {
    WRONG_NS.with_borrow_mut(|all| all.truncate(1));
}

/// Replicas that begin from now on make a snapshot after so many entries, and keep so many behind it.
pub fn set_snapshots(after: u64, kept: u64) {
    SNAPSHOTS.set(Some((after, kept)));
}

/// See [`set_snapshots`]. None: as always.
pub fn snapshots() -> Option<(u64, u64)> {
    SNAPSHOTS.get()
}

/// The wall clock's time, where this thread simulates.
pub fn now_ns() -> Option<u64> {
    let since = BEGAN.get()?.elapsed().as_nanos() as i64;
    let wrong = WRONG_NS.with_borrow(Vec::clone);
    let wrong = match wrong.len() {
        0 => 0,
        1 => wrong[0],
        many => wrong[pick(0..many as u64) as usize],
    };
    u64::try_from(EPOCH_NS + since + wrong).ok()
}

/// Nanoseconds of true time since the simulation began.
pub fn true_ns() -> u64 {
    BEGAN
        .get()
        .map_or(0, |began| began.elapsed().as_nanos() as u64)
}

/// Fills it from the seed, where this thread simulates.
pub fn fill(bytes: &mut [u8]) -> bool {
    LUCK.with_borrow_mut(|luck| luck.as_mut().map(|luck| luck.fill_bytes(bytes)))
        .is_some()
}

/// From the seed: a number of a range, which is not empty.
pub fn pick(range: std::ops::Range<u64>) -> u64 {
    LUCK.with_borrow_mut(|luck| match luck {
        Some(luck) => luck.random_range(range),
        None => range.start,
    })
}

/// From the seed: true once in so many times.
pub fn one_in(times: u64) -> bool {
    pick(0..times) == 0
}
