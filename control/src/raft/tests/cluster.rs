//! What replicas promise together: on time that only passes when nobody has anything to do, over a network that does what it is told.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, Weak};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use super::{Notes, load};
use crate::raft::{Executor, Replica, ReplicaError, Start, Transport, TransportError, Work};
use crate::state::{NodeId, Outcome, Refusal};

/// Histories that `cargo test` tries: a second each on a slow machine.
const BAD_LUCK_SEEDS: u64 = 20;

/// Reads and writes at once, so that no time passes meanwhile.
struct Inline;

impl Executor for Inline {
    fn execute(&self, work: Work) {
        work();
    }
}

/// Carries requests between replicas of one process.
#[derive(Default)]
pub(crate) struct Network {
    replicas: Mutex<BTreeMap<NodeId, Replica>>,
    /// From whom to whom nothing gets through.
    cut: Mutex<BTreeSet<(NodeId, NodeId)>>,
    /// So many answers are lost on the way, those of openraft's own requests aside.
    lost_answers: Mutex<u32>,
    /// So many requests were asked.
    carried: AtomicU64,
}

/// A node's end of it.
struct End {
    network: Weak<Network>,
    node: NodeId,
}

#[async_trait]
impl Transport for End {
    async fn call(&self, to: NodeId, _: &str, request: Bytes) -> Result<Bytes, TransportError> {
        let lost = || TransportError("nothing gets through".into());
        let network = self.network.upgrade().ok_or_else(lost)?;
        network.carried.fetch_add(1, Ordering::Relaxed);
        let passes = |from, to| !network.cut.lock().unwrap().contains(&(from, to));
        let peer = network.replicas.lock().unwrap().get(&to).cloned();
        let peer = peer.filter(|_| passes(self.node, to)).ok_or_else(lost)?;
        let answer = peer.answer(self.node, &request).await;
        let is_proposal = matches!(
            crate::raft::peers::decode(&request),
            Ok(crate::raft::peers::Request::Propose(_))
        );
        if is_proposal {
            let mut left = network.lost_answers.lock().unwrap();
            if *left > 0 {
                *left -= 1;
                return Err(lost());
            }
        }
        Some(answer)
            .filter(|_| passes(to, self.node))
            .ok_or_else(lost)
    }
}

pub(crate) struct Cluster {
    network: Arc<Network>,
    dirs: BTreeMap<NodeId, tempfile::TempDir>,
}

impl Cluster {
    /// Nodes 1 to `count`, all with a vote; the first has founded it.
    pub(crate) async fn of(count: u64) -> Self {
        let mut cluster = Self {
            network: Arc::default(),
            dirs: BTreeMap::new(),
        };
        let first = cluster.add(1, true).await;
        first.led().await.unwrap();
        for n in 2..=count {
            cluster.add(n, false).await;
            first.admit(NodeId(n), n.to_string()).await.unwrap();
        }
        first
            .set_voters((1..=count).map(NodeId).collect())
            .await
            .unwrap();
        cluster
    }

    pub(crate) async fn add(&mut self, n: u64, founds: bool) -> Replica {
        self.dirs.insert(NodeId(n), tempfile::tempdir().unwrap());
        self.boot(n, founds).await
    }

    pub(crate) async fn boot(&self, n: u64, founds: bool) -> Replica {
        let dir = self.dirs[&NodeId(n)].path();
        let replica = Replica::start(
            start(dir, n, founds, &self.network),
            Arc::new(Notes::default()),
        )
        .await
        .unwrap();
        self.network
            .replicas
            .lock()
            .unwrap()
            .insert(NodeId(n), replica.clone());
        replica
    }

    /// The node's power fails.
    pub(crate) async fn kill(&self, node: NodeId) {
        let replica = self.network.replicas.lock().unwrap().remove(&node).unwrap();
        replica.close().await;
    }

    pub(crate) fn replica(&self, n: u64) -> Replica {
        self.network.replicas.lock().unwrap()[&NodeId(n)].clone()
    }

    pub(crate) fn all(&self) -> Vec<Replica> {
        self.network
            .replicas
            .lock()
            .unwrap()
            .values()
            .cloned()
            .collect()
    }

    pub(crate) async fn leader(&self) -> NodeId {
        let some = self.all().pop().unwrap();
        let led = some.leader.raft.wait(None);
        let up = |id| {
            self.network
                .replicas
                .lock()
                .unwrap()
                .contains_key(&NodeId(id))
        };
        let metrics = led.metrics(|m| m.current_leader.is_some_and(up), "a leader");
        NodeId(metrics.await.unwrap().current_leader.unwrap())
    }

    /// Cuts a node off from all others, in both directions, or joins it again.
    pub(crate) fn cut(&self, node: NodeId, off: bool) {
        let mut cut = self.network.cut.lock().unwrap();
        for &other in self.dirs.keys() {
            for link in [(node, other), (other, node)] {
                if off {
                    cut.insert(link);
                } else {
                    cut.remove(&link);
                }
            }
        }
    }

    /// How many requests were asked, so far.
    pub(crate) fn carried(&self) -> u64 {
        self.network.carried.load(Ordering::Relaxed)
    }

    /// Whether anything gets through.
    pub(crate) fn passes(&self, from: NodeId, to: NodeId) -> bool {
        !self.network.cut.lock().unwrap().contains(&(from, to))
    }

    /// Everybody comes to have the same.
    pub(crate) async fn agrees(&self) {
        let all = self.all();
        for replica in &all {
            replica.barrier().await.unwrap();
        }
        assert!(
            all.windows(2)
                .all(|pair| *pair[0].state() == *pair[1].state())
        );
    }
}

fn start(dir: &Path, n: u64, founds: bool, network: &Arc<Network>) -> Start {
    Start {
        storage: dir.into(),
        random: n,
        founds: founds.then(|| n.to_string()),
        executor: Arc::new(Inline),
        transport: Arc::new(End {
            network: Arc::downgrade(network),
            node: NodeId(n),
        }),
    }
}

fn has(replica: &Replica, n: u64) -> bool {
    replica
        .state()
        .images
        .keys()
        .any(|(_, image)| *image == format!("sha256:{n:064x}"))
}

#[tokio::test(start_paused = true)]
async fn a_command_may_be_given_to_any_node_and_is_applied_there_when_it_is_answered() {
    let cluster = Cluster::of(3).await;
    for n in 0..30 {
        let replica = cluster.replica(1 + n % 3);
        assert_eq!(replica.propose(load(n)).await.unwrap(), Ok(Outcome::Done));
        assert!(has(&replica, n));
    }
    cluster.agrees().await;
    assert_eq!(cluster.replica(1).state().images.size(), 30);
}

#[tokio::test(start_paused = true)]
async fn what_was_acknowledged_outlives_each_leader_and_a_change_of_leader_is_latency_only() {
    let cluster = Cluster::of(3).await;
    for n in 0..6 {
        let leader = cluster.leader().await;
        cluster.kill(leader).await;
        for replica in cluster.all() {
            let m = 10 * n + replica.node().0;
            assert_eq!(replica.propose(load(m)).await.unwrap(), Ok(Outcome::Done));
        }
        cluster.boot(leader.0, false).await;
        cluster.agrees().await;
        assert_eq!(cluster.replica(1).state().images.size() as u64, 2 * (n + 1));
    }
}

#[tokio::test(start_paused = true)]
async fn without_a_majority_commands_and_reads_are_refused_in_words_and_nothing_is_done() {
    let cluster = Cluster::of(3).await;
    cluster.replica(1).propose(load(1)).await.unwrap().unwrap();
    cluster.agrees().await;
    let left = cluster.leader().await;
    for node in [1, 2, 3]
        .map(NodeId)
        .into_iter()
        .filter(|node| *node != left)
    {
        cluster.cut(node, true);
    }
    let alone = cluster.replica(left.0);
    let refused = alone.propose(load(2)).await.unwrap_err();
    assert!(
        matches!(&refused, ReplicaError::Unavailable(why) if why.contains("unknown")),
        "{refused}"
    );
    assert!(alone.barrier().await.is_err());
    assert!(has(&alone, 1) && !has(&alone, 2));
    for node in [1, 2, 3].map(NodeId) {
        cluster.cut(node, false);
    }
    cluster.replica(2).propose(load(3)).await.unwrap().unwrap();
    cluster.agrees().await;
    assert!(has(&alone, 1) && has(&alone, 3));
}

#[tokio::test(start_paused = true)]
async fn a_command_whose_answer_is_lost_is_done_once() {
    let cluster = Cluster::of(3).await;
    let leader = cluster.leader().await;
    let follower = cluster
        .all()
        .into_iter()
        .find(|r| r.node() != leader)
        .unwrap();
    let before = follower.state().revision;
    *cluster.network.lost_answers.lock().unwrap() = 3;
    assert_eq!(follower.propose(load(1)).await.unwrap(), Ok(Outcome::Done));
    assert_eq!(*cluster.network.lost_answers.lock().unwrap(), 0);
    assert_eq!(follower.state().revision, before + 1);
    // A refusal is remembered like any other answer.
    *cluster.network.lost_answers.lock().unwrap() = 1;
    let untag = crate::state::Command::Untag {
        tenant: "owner".parse().unwrap(),
        at_ns: 0,
        name: "image:9".into(),
    };
    assert_eq!(
        follower.propose(untag).await.unwrap(),
        Err(Refusal::NoSuchImage("image:9".into()))
    );
    cluster.agrees().await;
}

#[tokio::test(start_paused = true)]
async fn a_node_that_comes_late_gets_a_snapshot_and_then_a_vote() {
    let mut cluster = Cluster::of(1).await;
    let first = cluster.replica(1);
    let count = crate::raft::ENTRIES_PER_SNAPSHOT + 10;
    for n in 0..count {
        first.propose(load(n % 100)).await.unwrap().unwrap();
    }
    let late = cluster.add(2, false).await;
    first.admit(NodeId(2), "2".into()).await.unwrap();
    late.barrier().await.unwrap();
    assert_eq!(*late.state(), *first.state());
    first.set_voters([1, 2].map(NodeId).into()).await.unwrap();
    late.propose(load(1000)).await.unwrap().unwrap();
    cluster.agrees().await;
    first.set_voters([NodeId(1)].into()).await.unwrap();
    first.expel(NodeId(2)).await.unwrap();
    cluster.kill(NodeId(2)).await;
    first.propose(load(1001)).await.unwrap().unwrap();
}

#[tokio::test(start_paused = true)]
async fn nonsense_from_a_peer_and_what_speaks_for_another_is_refused() {
    let cluster = Cluster::of(3).await;
    let leader = cluster.leader().await;
    let replica = cluster.replica(leader.0);
    let other = NodeId(1 + leader.0 % 3);
    let refused = |answer: Bytes| {
        matches!(
            crate::raft::peers::decode(&answer),
            Ok(crate::raft::peers::Reply::Refused(_))
        )
    };
    for nonsense in [&b""[..], b"\xff", b"\xa1", &[0x9b; 100]] {
        assert!(refused(replica.answer(other, nonsense).await));
    }
    let forged = crate::raft::peers::Request::Propose(crate::raft::Batch {
        proposer: leader,
        number: (u64::MAX, 1),
        commands: vec![load(666)],
    });
    let forged = crate::state::encoding::encode(&forged).unwrap();
    assert!(refused(replica.answer(other, &forged).await));
    replica.propose(load(1)).await.unwrap().unwrap();
    assert!(!has(&replica, 666));
}

/// Proposals under way, and which were acknowledged.
#[derive(Default)]
struct Clients {
    tasks: tokio::task::JoinSet<Option<u64>>,
    next: u64,
    acknowledged: BTreeSet<u64>,
}

impl Clients {
    fn propose(&mut self, replica: Replica) {
        let n = self.next;
        self.next += 1;
        self.tasks.spawn(async move {
            let answer = replica.propose(load(n)).await;
            answer
                .is_ok_and(|verdict| verdict == Ok(Outcome::Done))
                .then_some(n)
        });
    }

    fn collect(&mut self) {
        while let Some(done) = self.tasks.try_join_next() {
            self.acknowledged.extend(done.unwrap());
        }
    }
}

/// Kills, cuts off, revives, joins again and loses answers, as `seed` says, while clients propose everywhere.
/// Returns how many were acknowledged.
async fn bad_luck(seed: u64) -> usize {
    let mut random = StdRng::seed_from_u64(seed);
    let cluster = Cluster::of(3).await;
    let mut clients = Clients::default();
    for _ in 0..150 {
        let node = NodeId(random.random_range(1..=3));
        let lives = cluster.network.replicas.lock().unwrap().contains_key(&node);
        match random.random_range(0..10) {
            0 if lives && cluster.all().len() > 1 => cluster.kill(node).await,
            0 | 1 if !lives => drop(cluster.boot(node.0, false).await),
            2 => cluster.cut(node, random.random()),
            3 => *cluster.network.lost_answers.lock().unwrap() += 1,
            4 => {
                // One way only.
                let other = NodeId(1 + node.0 % 3);
                let mut cut = cluster.network.cut.lock().unwrap();
                if !cut.remove(&(node, other)) {
                    cut.insert((node, other));
                }
            }
            5 => tokio::time::sleep(Duration::from_millis(random.random_range(1..5000))).await,
            _ if lives => clients.propose(cluster.replica(node.0)),
            _ => {}
        }
        tokio::time::sleep(Duration::from_millis(random.random_range(0..50))).await;
        clients.collect();
    }
    cluster.network.cut.lock().unwrap().clear();
    *cluster.network.lost_answers.lock().unwrap() = 0;
    for n in 1..=3 {
        if !cluster
            .network
            .replicas
            .lock()
            .unwrap()
            .contains_key(&NodeId(n))
        {
            cluster.boot(n, false).await;
        }
    }
    while let Some(done) = clients.tasks.join_next().await {
        clients.acknowledged.extend(done.unwrap());
    }
    cluster.agrees().await;
    let replica = cluster.replica(1);
    for n in &clients.acknowledged {
        assert!(
            has(&replica, *n),
            "seed {seed}: {n} was acknowledged, and is lost"
        );
    }
    let state = replica.state();
    assert_eq!(
        state.revision,
        state.images.size() as u64,
        "seed {seed}: one was done twice"
    );
    clients.acknowledged.len()
}

#[test]
fn whatever_fails_what_was_acknowledged_is_there_and_nothing_was_done_twice() {
    let acknowledged = (0..BAD_LUCK_SEEDS).map(|seed| {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .start_paused(true)
            .build()
            .unwrap();
        runtime.block_on(bad_luck(seed))
    });
    let acknowledged: usize = acknowledged.sum();
    // Some histories are mere misfortune; together they show something.
    assert!(acknowledged as u64 > 10 * BAD_LUCK_SEEDS, "{acknowledged}");
}
