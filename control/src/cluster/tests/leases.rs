//! What becomes of a node's lease.

use super::*;

async fn three() -> World {
    let mut world = World::of(3).await;
    world.until(|it| it.nodes.values().all(Node::holds)).await;
    world.start();
    world
}

#[tokio::test(start_paused = true)]
async fn a_lone_nodes_lease_has_no_end_until_a_second_node_is_taken_in() {
    let mut world = World::of(1).await;
    let endless = |it: &World| it.node(1).lease.deadline() == Deadline::Never;
    world.until(endless).await;
    assert_eq!(world.node(1).pods.signalled.load(Ordering::Relaxed), 0);
    let tenant = Arc::clone(&world.node(1).tenant);
    let admission = tenant.before_second_node().await.unwrap();
    assert!(world.node(1).holds(), "what runs goes on");
    assert_eq!(world.node(1).pods.signalled.load(Ordering::Relaxed), 1);
    world.pass(Duration::from_secs(30)).await;
    assert!(world.node(1).holds(), "it is extended");
    // Nobody came.
    admission.settled();
    world.until(endless).await;
    assert_eq!(world.node(1).pods.ended.load(Ordering::Relaxed), 0);
}

#[tokio::test(start_paused = true)]
async fn what_cannot_be_given_an_end_takes_no_second_node_in() {
    let world = World::of(1).await;
    let node = world.node(1);
    let silent = Tenant::new(
        node.replica.clone(),
        node.lease.clone(),
        Arc::new(Way {
            cluster: Weak::new(),
            shared: Weak::new(),
            replica: node.replica.clone(),
        }),
        Arc::<Kept>::default(),
        Timing::STANDARD,
    );
    let _ = node.lease.extend(Deadline::Never);
    let running = tokio::spawn(Arc::clone(&silent).run());
    assert!(silent.before_second_node().await.is_err());
    running.abort();
}

#[tokio::test(start_paused = true)]
async fn several_nodes_hold_their_leases_for_as_long_as_they_are_there() {
    let mut world = three().await;
    world.pass(Duration::from_secs(60)).await;
    for node in world.nodes.values() {
        assert!(node.holds());
        assert_eq!(node.pods.ended.load(Ordering::Relaxed), 0);
        assert!(node.replica.state().nodes.values().all(|it| it.is_ready()));
        assert_eq!(node.monitors[0].1.deadline_ns(), deadline(node));
    }
}

fn deadline(node: &Node) -> u64 {
    match node.lease.deadline() {
        Deadline::At(time) => time.0,
        Deadline::Never => u64::MAX,
    }
}

/// Cuts a node off until the others call it out; it is in again after that, with another lease.
async fn falls_out(mut world: World, off: u64, restarts: bool) {
    let other = 1 + off % 3;
    let (_, tenure) = world.known(off, off);
    world.cluster.cut(NodeId(off), true);
    let led = |it: &World| {
        let leader = it.node(other).replica.standing().leader;
        leader.is_some_and(|leader| leader != NodeId(off))
    };
    world.until(led).await;
    let began = Instant::now();
    world.until(|it| !it.known(other, off).0).await;
    // The lease, and what a tick and a majority take.
    let took = began.elapsed();
    assert!(took < Duration::from_millis(9_600), "{took:?}");
    assert!(!world.node(off).lease.holds());
    assert!(world.known(off, off).0, "it can't know");
    if restarts {
        world.restart(off);
    }
    world.pass(Duration::from_secs(5)).await;
    assert!(world.node(off).lease.reader().unwrap().is_none());
    world.cluster.cut(NodeId(off), false);
    world.until(|it| it.node(off).holds()).await;
    let (ready, again) = world.known(off, off);
    assert!(ready && again > tenure);
    assert_eq!(world.node(off).pods.ended.load(Ordering::Relaxed), 1);
    let slept = world.node(off).monitors[0].1.deadline_ns();
    world.pass(Duration::from_secs(20)).await;
    assert!(world.nodes.values().all(Node::holds));
    let still = world.node(off).monitors[0].1.deadline_ns();
    assert_eq!(slept, still, "whoever slept has the old page before it");
}

#[tokio::test(start_paused = true)]
async fn a_node_out_of_touch_is_called_out_after_its_pods_have_ended_and_comes_in_with_another_lease()
 {
    for restarts in [false, true] {
        let world = three().await;
        let leader = world.cluster.leader().await;
        falls_out(world, 1 + leader.0 % 3, restarts).await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_node_that_is_to_leave_is_granted_no_more_called_out_and_never_in_again() {
    let mut world = three().await;
    let leader = world.cluster.leader().await;
    let off = 1 + leader.0 % 3;
    let set = |world: &World, leaving: &[u64]| {
        let replica = world.node(leader.0).replica.clone();
        let from = replica.state().cluster.clone();
        let to = crate::state::Cluster {
            leaving: leaving.iter().copied().map(NodeId).collect(),
            ..from.clone()
        };
        let (from, to) = (Box::new(from), Box::new(to));
        async move {
            let command = Command::SetCluster { from, to };
            replica.propose(command).await.unwrap().unwrap();
        }
    };
    set(&world, &[off]).await;
    world.until(|it| !it.known(leader.0, off).0).await;
    assert!(!world.node(off).lease.holds(), "it has ended before");
    world.pass(Duration::from_secs(20)).await;
    assert!(!world.known(leader.0, off).0);
    assert!(!world.node(off).holds());
    // Its owner has thought better of it.
    set(&world, &[]).await;
    world.until(|it| it.node(off).holds()).await;
}

#[tokio::test(start_paused = true)]
async fn so_is_one_that_has_led() {
    for restarts in [false, true] {
        let world = three().await;
        let leader = world.cluster.leader().await;
        falls_out(world, leader.0, restarts).await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_change_of_leader_ends_nothing() {
    let mut world = three().await;
    for _ in 0..3 {
        let leader = world.cluster.leader().await;
        world.cluster.cut(leader, true);
        world.pass(Duration::from_secs(3)).await;
        world.cluster.cut(leader, false);
        world.pass(Duration::from_secs(10)).await;
    }
    for node in world.nodes.values() {
        assert!(node.holds());
        assert_eq!(node.pods.ended.load(Ordering::Relaxed), 0);
        assert!(node.replica.state().nodes.values().all(|it| it.is_ready()));
    }
}
