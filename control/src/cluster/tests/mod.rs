//! Nodes with their leases, on time that only passes when nobody has anything to do, over a network that does what it is told.

mod bad_luck;
mod leases;

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, Weak};
use std::time::Duration;

use async_trait::async_trait;
use hearth_vmm_api::lease::Page;
use tokio::time::Instant;
use tokio_util::task::AbortOnDropHandle;

use super::leases::Leases;
use super::service::Grants;
use super::tenant::{Ask, Leased, Tenant};
use crate::lease::{Answer, BootTime, Clock, Deadline, NodeLease, Timing};
use crate::raft::Replica;
use crate::raft::tests::cluster::Cluster;
use crate::state::{Command, NodeId, NodeWanted};

/// Between two looks at what must hold.
const STEP: Duration = Duration::from_millis(50);

/// Of the time that is simulated: many elections, and leases after them.
const LONG: Duration = Duration::from_secs(300);

/// Several nodes with leases.
struct World {
    cluster: Arc<Cluster>,
    nodes: BTreeMap<u64, Node>,
    shared: Arc<Shared>,
}

#[derive(Default)]
struct Shared {
    leaders: Mutex<BTreeMap<NodeId, Arc<Leases>>>,
}

struct Node {
    dir: tempfile::TempDir,
    replica: Replica,
    lease: NodeLease,
    tenant: Arc<Tenant>,
    pods: Arc<Kept>,
    /// Pages of monitors, and the tenure that they were started in.
    monitors: Vec<(u64, Page)>,
    _leads: AbortOnDropHandle<()>,
    _holds: AbortOnDropHandle<()>,
}

/// What is asked of the pods.
#[derive(Default)]
struct Kept {
    signalled: AtomicUsize,
    ended: AtomicUsize,
}

#[async_trait]
impl Leased for Kept {
    fn look_again(&self) {
        self.signalled.fetch_add(1, Ordering::Relaxed);
    }
    async fn end(&self) {
        self.ended.fetch_add(1, Ordering::Relaxed);
    }
    fn may_start(&self) {}
}

/// A node's way to whoever leads.
struct Way {
    cluster: Weak<Cluster>,
    shared: Weak<Shared>,
    replica: Replica,
}

#[async_trait]
impl Ask for Way {
    async fn ask(&self) -> Result<Answer, String> {
        let lost = || "nothing gets through".to_owned();
        let own = self.replica.node();
        let leader = self.replica.standing().leader.ok_or_else(lost)?;
        let (cluster, shared) = (
            self.cluster.upgrade().ok_or_else(lost)?,
            self.shared.upgrade().ok_or_else(lost)?,
        );
        let passes = |from, to| cluster.passes(from, to).then_some(()).ok_or_else(lost);
        passes(own, leader)?;
        let leads = shared.leaders.lock().unwrap().get(&leader).cloned();
        let answer = leads.ok_or_else(lost)?.grant(own).await;
        passes(leader, own)?;
        Ok(answer)
    }
}

/// Time that begins when a test does.
fn clock() -> Clock {
    let began = Instant::now();
    Arc::new(move || BootTime(1).plus_ns(began.elapsed().as_nanos() as u64))
}

impl World {
    async fn of(count: u64) -> Self {
        let cluster = Arc::new(Cluster::of(count).await);
        let mut world = Self {
            cluster,
            nodes: BTreeMap::new(),
            shared: Arc::default(),
        };
        for n in 1..=count {
            let join = Command::Join {
                node: NodeId(n),
                at_ns: 0,
                is: Box::new(crate::state::NodeIs {
                    features: crate::state::FEATURES,
                    ..Default::default()
                }),
                wanted: NodeWanted::default(),
            };
            world
                .cluster
                .replica(n)
                .propose(join)
                .await
                .unwrap()
                .unwrap();
        }
        let clock = clock();
        for n in 1..=count {
            let dir = tempfile::tempdir().unwrap();
            let node = world.control(n, dir, Arc::clone(&clock));
            world.nodes.insert(n, node);
        }
        world
    }

    /// A control process on a node, which finds what is in `dir`.
    fn control(&self, n: u64, dir: tempfile::TempDir, clock: Clock) -> Node {
        let replica = self.cluster.replica(n);
        let lease = NodeLease::open(&dir.path().join("lease"), Arc::clone(&clock)).unwrap();
        let leases = Leases::new(replica.clone(), clock, Timing::STANDARD);
        let mut leaders = self.shared.leaders.lock().unwrap();
        leaders.insert(NodeId(n), Arc::clone(&leases));
        let pods = Arc::<Kept>::default();
        let way = Way {
            cluster: Arc::downgrade(&self.cluster),
            shared: Arc::downgrade(&self.shared),
            replica: replica.clone(),
        };
        let tenant = Tenant::new(
            replica.clone(),
            lease.clone(),
            Arc::new(way),
            Arc::<Kept>::clone(&pods),
            Timing::STANDARD,
        );
        Node {
            dir,
            replica,
            lease,
            pods,
            monitors: Vec::new(),
            _leads: AbortOnDropHandle::new(tokio::spawn(leases.run())),
            _holds: AbortOnDropHandle::new(tokio::spawn(Arc::clone(&tenant).run())),
            tenant,
        }
    }

    /// Control ends on a node, and another begins. Monitors don't notice.
    fn restart(&mut self, n: u64) {
        let node = self.nodes.remove(&n).unwrap();
        let lease = node.lease.clone();
        let clock: Clock = Arc::new(move || lease.now());
        let Node { dir, monitors, .. } = node;
        let mut node = self.control(n, dir, clock);
        node.monitors = monitors;
        self.nodes.insert(n, node);
    }

    fn node(&self, n: u64) -> &Node {
        &self.nodes[&n]
    }

    /// What a replica knows of a node: whether it is called in, and its tenure.
    fn known(&self, by: u64, n: u64) -> (bool, u64) {
        let state = self.node(by).replica.state();
        let node = &state.nodes[&NodeId(n)];
        (node.is_ready(), node.tenure)
    }

    /// Starts a pod on each node that may.
    fn start(&mut self) {
        let tenures: BTreeMap<u64, u64> = self
            .nodes
            .keys()
            .map(|n| (*n, self.known(*n, *n).1))
            .collect();
        for (n, node) in &mut self.nodes {
            if let Some(page) = node.lease.reader().unwrap() {
                node.monitors.push((tenures[n], Page::map(page).unwrap()));
            }
        }
    }

    /// Who is called out by anybody has nothing that could run, even if it has slept through its end.
    fn check(&self) {
        for by in self.nodes.keys() {
            for (n, node) in &self.nodes {
                let (ready, tenure) = self.known(*by, *n);
                if ready {
                    continue;
                }
                let now = node.lease.now().0;
                for (started, page) in &node.monitors {
                    let ended = *started > tenure || page.deadline_ns() <= now;
                    assert!(ended, "a pod on {n} runs, which {by} knows to be out");
                }
            }
        }
    }

    async fn pass(&mut self, time: Duration) {
        let until = Instant::now() + time;
        while Instant::now() < until {
            tokio::time::sleep(STEP).await;
            self.check();
        }
    }

    /// Time passes until something is so.
    async fn until(&mut self, is_so: impl Fn(&Self) -> bool) {
        let began = Instant::now();
        while !is_so(self) {
            assert!(began.elapsed() < LONG, "it does not come to that");
            self.pass(STEP).await;
        }
    }
}

impl Node {
    fn holds(&self) -> bool {
        self.lease.holds() && self.lease.deadline() != Deadline::Never
    }
}
