//! What holds while nobody asks for anything.

use std::time::Duration;

use tokio::time::Instant;

use super::cluster::Cluster;
use super::load;
use crate::state::{NodeId, Outcome};

/// Longer than until a leader rests and has told so.
const A_WHILE: Duration = Duration::from_secs(15);
/// Longer than a resting leader's signs are waited for.
const LONG: Duration = Duration::from_secs(120);

async fn at_rest(cluster: &Cluster) -> NodeId {
    tokio::time::sleep(A_WHILE).await;
    for replica in cluster.all() {
        assert!(replica.rests(), "{}", replica.node());
    }
    cluster.leader().await
}

#[tokio::test(start_paused = true)]
async fn a_leader_that_rests_says_little_and_stays() {
    let cluster = Cluster::of(3).await;
    cluster.replica(1).propose(load(1)).await.unwrap().unwrap();
    let busy = cluster.carried();
    tokio::time::sleep(Duration::from_secs(5)).await;
    let busy = cluster.carried() - busy;
    let leader = at_rest(&cluster).await;
    let standing = cluster.replica(leader.0).standing();
    let carried = cluster.carried();
    tokio::time::sleep(LONG).await;
    assert_eq!(cluster.replica(leader.0).standing(), standing);
    let carried = cluster.carried() - carried;
    let (at_rest, busy) = (carried * 5, busy * LONG.as_secs());
    assert!(at_rest * 5 < busy, "{at_rest} and {busy}");
    // It is there at once for whoever comes.
    let other = cluster.replica(1 + leader.0 % 3);
    let began = Instant::now();
    assert_eq!(other.propose(load(2)).await.unwrap(), Ok(Outcome::Done));
    assert!(began.elapsed() < Duration::from_millis(100));
    assert!(!cluster.replica(leader.0).rests());
    cluster.agrees().await;
}

#[tokio::test(start_paused = true)]
async fn a_question_to_the_voters_is_a_sign_and_saves_others() {
    let cluster = Cluster::of(3).await;
    let leader = at_rest(&cluster).await;
    let leader = cluster.replica(leader.0);
    let carried = cluster.carried();
    for _ in 0..60 {
        tokio::time::sleep(Duration::from_secs(2)).await;
        leader.confirm().await.unwrap();
    }
    assert!(leader.rests());
    let questions = 60 * 2;
    // All, voters or not, get one every ten seconds besides.
    let others = cluster.carried() - carried - questions;
    assert!(others <= 12 * 2, "{others}");
}

#[tokio::test(start_paused = true)]
async fn whoever_asks_finds_that_a_resting_leader_is_dead() {
    let cluster = Cluster::of(3).await;
    let leader = at_rest(&cluster).await;
    cluster.kill(leader).await;
    let began = Instant::now();
    let other = cluster.replica(1 + leader.0 % 3);
    assert_eq!(other.propose(load(1)).await.unwrap(), Ok(Outcome::Done));
    let took = began.elapsed();
    assert!(took < Duration::from_secs(2), "{took:?}");
}

#[tokio::test(start_paused = true)]
async fn a_node_without_a_vote_that_asks_has_the_voters_find_it() {
    let mut cluster = Cluster::of(3).await;
    let first = cluster.replica(cluster.leader().await.0);
    let worker = cluster.add(4, false).await;
    first.admit(NodeId(4), "4".into()).await.unwrap();
    worker.barrier().await.unwrap();
    let leader = at_rest(&cluster).await;
    cluster.kill(leader).await;
    let began = Instant::now();
    assert_eq!(worker.propose(load(1)).await.unwrap(), Ok(Outcome::Done));
    let took = began.elapsed();
    assert!(took < Duration::from_secs(2), "{took:?}");
}

#[tokio::test(start_paused = true)]
async fn nobody_need_ask_for_it_to_be_found() {
    let cluster = Cluster::of(3).await;
    let leader = at_rest(&cluster).await;
    cluster.kill(leader).await;
    let began = Instant::now();
    cluster.leader().await;
    let took = began.elapsed();
    assert!(took < 2 * crate::raft::rest::LEASE_AT_REST, "{took:?}");
}

#[tokio::test(start_paused = true)]
async fn a_voter_that_starts_while_the_leader_rests_leaves_it_its_place() {
    let cluster = Cluster::of(3).await;
    let leader = at_rest(&cluster).await;
    let standing = cluster.replica(leader.0).standing();
    let other = NodeId(1 + leader.0 % 3);
    cluster.kill(other).await;
    let again = cluster.boot(other.0, false).await;
    again.led().await.unwrap();
    tokio::time::sleep(LONG).await;
    assert_eq!(cluster.replica(leader.0).standing(), standing);
    assert!(again.rests());
}
