//! Whatever fails, no pod could run where it is given up, and everybody is in again once nothing fails any more.

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use super::*;

/// Histories that `cargo test` tries at least: half a second of work each on a slow machine.
const SEEDS: u64 = 10;
/// So many nodes at least have to be called out. Some histories are mere misfortune, and how many is a matter of elections that are drawn
/// anew each time: further ones are tried until there were enough.
const CALLED_OUT: u64 = 11;
/// At most.
const SEEDS_MAX: u64 = 40;
/// Strokes of bad luck in each.
const STROKES: usize = 30;

/// How many nodes were called out.
async fn bad_luck(seed: u64) -> u64 {
    let mut random = StdRng::seed_from_u64(seed);
    let mut world = World::of(3).await;
    let tenures = |world: &World| [1, 2, 3].map(|n| world.known(n, n).1);
    let before = tenures(&world);
    for _ in 0..STROKES {
        let node = random.random_range(1..=3);
        match random.random_range(0..6) {
            0 | 1 => world.cluster.cut(NodeId(node), true),
            2 | 3 => world.cluster.cut(NodeId(node), false),
            4 => world.restart(node),
            _ => {}
        }
        world.start();
        let time = random.random_range(0..6000);
        world.pass(Duration::from_millis(time)).await;
    }
    for n in 1..=3 {
        world.cluster.cut(NodeId(n), false);
    }
    let well = |world: &World| {
        let in_again = |n| world.known(1, n).0 && world.node(n).holds();
        (1..=3).all(in_again)
    };
    world.until(well).await;
    let after = tenures(&world);
    before.iter().zip(after).filter(|(a, b)| **a != *b).count() as u64
}

#[test]
fn whatever_fails_a_node_is_called_out_only_where_nothing_can_run_and_is_in_again_after() {
    let mut again = 0;
    for seed in 0..SEEDS_MAX {
        if seed >= SEEDS && again >= CALLED_OUT {
            break;
        }
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .start_paused(true)
            .build()
            .unwrap();
        again += runtime.block_on(bad_luck(seed));
    }
    assert!(again >= CALLED_OUT, "{again}");
}
