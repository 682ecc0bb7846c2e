//! Which pods are to be given to another node, and why: decided from the state, apart from doing it.

use std::collections::HashMap;

use super::steward::{Decided, Placer};
use crate::scheduler::{Band, Wishes};
use crate::state::{
    Availability, Command, Container, ContainerId, Node, NodeId, Phase, Placed, Pod, PodId,
    RestartPolicy, State,
};

/// Commands of one round: what one entry of the log holds.
const PODS_PER_ROUND: usize = 256;
/// Why a pod is nowhere that had to go, until another node has been looked for.
const EVICTED: &str = "evicted for a pod of a higher priority";

/// On a container with this label and the value `never`, its pod stays with its node.
const FAILOVER: &str = "hearth.failover";

/// A pod that needs a node.
#[derive(Debug, Clone, PartialEq)]
pub struct Homeless {
    /// Which.
    pub pod: PodId,
    /// Its epoch.
    pub epoch: u64,
    /// The node that it leaves.
    pub from: Option<NodeId>,
    /// What is in it.
    pub containers: Vec<Placed>,
}

/// Whether a container may be started on another node when its own is lost, though it leaves there what it has written.
pub fn may_move(container: &Container) -> bool {
    let policy = matches!(
        container.spec.restart,
        RestartPolicy::Always | RestartPolicy::UnlessStopped
    );
    policy && container.spec.labels.get(FAILOVER).map(String::as_str) != Some("never")
}

/// Why a container stays with its node, whatever happens to that; None: it may be started on another.
pub fn tied(container: &Container) -> Option<&'static str> {
    if may_move(container) {
        return None;
    }
    match container.spec.labels.get(FAILOVER).map(String::as_str) {
        Some("never") => Some("its label hearth.failover is never"),
        _ => Some("its restart policy is neither always nor unless-stopped"),
    }
}

/// Nothing of it has run where it is: it leaves nothing behind.
fn is_fresh(pod: &Pod, container: &Container) -> bool {
    container.status.run.epoch < pod.epoch
}

/// The pods on a node that is down, or gives its pods away, which are to leave it. A pod moves as a whole or not at all.
fn leaving(state: &State, node: &Node) -> impl Iterator<Item = Homeless> {
    let down = !node.is_ready();
    state.pods.on(node.id).filter_map(move |pod| {
        let containers = state.in_pod(&pod.id);
        let wanted = containers.iter().any(|it| it.wanted.up);
        // Of a node that is down nobody knows what it had begun: what has no lease may run there, though it has told of no run.
        let is_fresh_there =
            |it: &Placed| !down && is_fresh(pod, it) && it.status.phase != Phase::Running;
        let may = containers
            .iter()
            .all(|it| may_move(it) || is_fresh_there(it));
        (wanted && may).then(|| Homeless {
            pod: pod.id,
            epoch: pod.epoch,
            from: pod.node,
            containers,
        })
    })
}

/// Every pod that needs a node, those that have one first. One that has none gets one though it isn't wanted: whoever starts it may attach
/// to it before.
pub fn homeless(state: &State) -> impl Iterator<Item = Homeless> {
    let away = state
        .nodes
        .values()
        .filter(|node| !node.is_ready() || node.wanted.availability == Availability::Drain)
        .flat_map(|node| leaving(state, node));
    let nowhere = state.pods.unassigned().map(|pod| Homeless {
        pod: pod.id,
        epoch: pod.epoch,
        from: None,
        containers: state.in_pod(&pod.id),
    });
    away.chain(nowhere)
}

/// What gives each of them a node, or says why it has none; those who are evicted for others go before these.
pub fn commands(
    state: &State,
    placer: &dyn Placer,
    at_ns: u64,
    mut random: impl FnMut() -> [u8; 32],
) -> Vec<Command> {
    let homeless: Vec<Homeless> = homeless(state).collect();
    if homeless.is_empty() {
        return Vec::new();
    }
    let decided = placer.pass(state, &homeless);
    let homeless: HashMap<PodId, &Homeless> = homeless.iter().map(|it| (it.pod, it)).collect();
    let mut commands = Vec::new();
    for Decided { pod, to, evicted } in decided {
        if commands.len() >= PODS_PER_ROUND {
            break;
        }
        let (Some(pod), Some(known)) = (homeless.get(&pod), state.pods.get(&pod)) else {
            continue;
        };
        let (node, pending) = match to {
            Ok(node) => (Some(node), String::new()),
            // As it is: of a node that is down, a pod that fits nowhere else waits for that.
            Err(why) => (pod.from, why),
        };
        if known.node == node && known.pending == pending {
            continue;
        }
        let victims = evicted.iter().filter_map(|id| state.pods.get(id));
        commands.extend(victims.map(|victim| evict(state, victim, at_ns, &mut random)));
        commands.push(Command::Assign {
            pod: pod.pod,
            at_ns,
            epoch: pod.epoch,
            node,
            pending,
            kept: kept(&pod.containers, &mut random),
        });
    }
    commands
}

/// A pod goes for one of a higher priority. Below production, that it may have to begin anew is what it has agreed to; what production
/// has written is kept.
fn evict(state: &State, victim: &Pod, at_ns: u64, random: impl FnMut() -> [u8; 32]) -> Command {
    let containers = state.in_pod(&victim.id);
    let produces = |it: &Placed| {
        let wishes = Wishes::from_labels(&it.spec.labels).unwrap_or_default();
        wishes.priority >= Band::Production.floor()
    };
    Command::Assign {
        pod: victim.id,
        at_ns,
        epoch: victim.epoch,
        node: None,
        pending: EVICTED.to_owned(),
        kept: match containers.iter().any(produces) {
            true => kept(&containers, random),
            false => Vec::new(),
        },
    }
}

/// Ids for the containers that keep what these leave behind; as many as there are containers.
fn kept(containers: &[Placed], mut random: impl FnMut() -> [u8; 32]) -> Vec<ContainerId> {
    containers
        .iter()
        .map(|_| ContainerId::from_random(random()))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::state::{Command, ContainerSpec, Health, NewContainer, NodeWanted};

    const ONE: NodeId = NodeId(1);

    /// A container that is to start on a node, and hasn't told of a run.
    fn starting(restart: RestartPolicy) -> State {
        let mut state = State::default();
        let id = ContainerId::from_random([1; 32]);
        let container = NewContainer {
            id,
            tenant: "owner".parse().unwrap(),
            name: "name".parse().unwrap(),
            image: "sha256:0".to_owned(),
            image_name: "image".to_owned(),
            spec: ContainerSpec {
                restart,
                ..Default::default()
            },
        };
        let image = Command::AddImage {
            tenant: container.tenant.clone(),
            at_ns: 0,
            image: container.image.clone(),
            names: vec![],
            repo_digest: None,
            telling: crate::state::Telling::Load,
            stored: crate::state::Stored::default(),
        };
        let join = Command::Join {
            node: ONE,
            at_ns: 0,
            is: Box::default(),
            wanted: NodeWanted::default(),
        };
        let create = Command::Create {
            container: Box::new(container),
            at_ns: 0,
            node: Some(ONE),
            pending: String::new(),
        };
        for command in [image, join, create, Command::Start { id, at_ns: 0 }] {
            state.apply(&command).result.unwrap();
        }
        state
    }

    fn node(state: &State) -> &Node {
        &state.nodes[&ONE]
    }

    #[test]
    fn what_has_no_lease_may_run_unheard_of_on_a_node_that_is_down_and_stays_there() {
        for (restart, moves) in [(RestartPolicy::No, false), (RestartPolicy::Always, true)] {
            let mut state = starting(restart);
            assert_eq!(homeless(&state).count(), 0);
            let down = Command::NodeHealth {
                at_ns: 0,
                node: ONE,
                health: Health::Down {
                    reason: String::new(),
                },
                tenure: node(&state).tenure,
                term: None,
            };
            state.apply(&down).result.unwrap();
            assert_eq!(homeless(&state).count(), usize::from(moves));
        }
    }

    #[test]
    fn what_has_not_run_yet_leaves_a_node_that_lets_go_of_it() {
        let mut state = starting(RestartPolicy::No);
        let drain = Command::UpdateNode {
            at_ns: 0,
            node: ONE,
            version: node(&state).version,
            wanted: NodeWanted {
                availability: Availability::Drain,
                ..Default::default()
            },
        };
        state.apply(&drain).result.unwrap();
        assert_eq!(homeless(&state).count(), 1);
    }
}
