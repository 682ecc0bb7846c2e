//! What became of a request, and why it came to nothing.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use super::ledger::Ledger;
use super::{Availability, Constraint, Node, Request, Resource, node};
use crate::state::{NodeId, PodId};

/// What became of a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Decision {
    /// There is room.
    On(NodeId),
    /// There is once others have gone.
    Preempting {
        /// Where.
        node: NodeId,
        /// Who must go: as few and as low as possible.
        victims: Vec<PodId>,
    },
    /// It is pending, until something changes.
    Nowhere(Arc<Reasons>),
}

/// Why no node would do, for people.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Reasons {
    /// In the order in which a node is looked at.
    nodes: BTreeMap<Obstacle, Refusing>,
    /// The node that it is tied to, where it is: only that was looked at.
    pinned: Option<String>,
    /// There are no nodes at all.
    empty: bool,
}

/// The first thing that stands in the way of a pod on a node.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
enum Obstacle {
    Gone,
    Down,
    Drained,
    Paused,
    Constraint(Constraint),
    Device(String),
    Lacks(Resource),
}

/// Nodes with the same in the way.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Refusing {
    nodes: u32,
    /// Where a resource lacks: what was wanted, and the most that is free and who has it.
    wanted: u64,
    gap: u64,
    at: String,
}

impl Reasons {
    pub(super) fn find(ledger: &Ledger, request: &Request) -> Self {
        let mut reasons = Self {
            empty: ledger.slots.is_empty(),
            ..Self::default()
        };
        match request.pinned {
            Some(id) => match ledger.slot(id) {
                Some(slot) => {
                    let at = ledger.at(slot);
                    reasons.pinned = Some(called(&at.node));
                    reasons.look_at(ledger, slot, request);
                }
                None => {
                    reasons.pinned = Some(node::id(id));
                    reasons.nodes.entry(Obstacle::Gone).or_default().nodes = 1;
                }
            },
            // The order decides which of equal gaps is named.
            None => ledger
                .ring
                .iter()
                .for_each(|slot| reasons.look_at(ledger, *slot, request)),
        }
        reasons
    }

    fn look_at(&mut self, ledger: &Ledger, slot: u32, request: &Request) {
        let at = ledger.at(slot);
        let wants = &request.wants;
        let free = at.free();
        let Some(obstacle) = obstacle(&at.node, request, || free.lacks(&wants.resources)) else {
            return;
        };
        let lacking = match obstacle {
            Obstacle::Lacks(resource) => Some(resource),
            _ => None,
        };
        let refusing = self.nodes.entry(obstacle).or_default();
        refusing.nodes += 1;
        if let Some(resource) = lacking {
            refusing.wanted = wants.resources.of(resource);
            let gap = free.of(resource);
            if refusing.nodes == 1 || gap > refusing.gap {
                refusing.gap = gap;
                refusing.at = called(&at.node);
            }
        }
    }
}

fn obstacle(
    node: &Node,
    request: &Request,
    lacks: impl FnOnce() -> Option<Resource>,
) -> Option<Obstacle> {
    let wants = &request.wants;
    let availability = match node.availability {
        _ if !node.alive => Some(Obstacle::Down),
        Availability::Active => None,
        Availability::Drain => Some(Obstacle::Drained),
        Availability::Pause => Some(Obstacle::Paused),
    };
    availability
        .or_else(|| {
            let unmet = wants
                .constraints
                .iter()
                .find(|constraint| !constraint.is_met_by(node));
            unmet.cloned().map(Obstacle::Constraint)
        })
        .or_else(|| {
            wants
                .devices
                .difference(&node.devices)
                .next()
                .cloned()
                .map(Obstacle::Device)
        })
        .or_else(|| lacks().map(Obstacle::Lacks))
}

fn called(node: &Node) -> String {
    [&node.name, &node.hostname]
        .into_iter()
        .find(|name| !name.is_empty())
        .cloned()
        .unwrap_or_else(|| node::id(node.id))
}

/// `no suitable node (…)` is Swarm's, which people search for; what follows says what to do about it.
impl fmt::Display for Reasons {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("no suitable node")?;
        let swarms = self.in_swarms_words();
        if !swarms.is_empty() {
            write!(f, " ({})", swarms.join("; "))?;
        }
        if let Some(node) = &self.pinned {
            write!(f, ": the container is tied to node {node}")?;
            return match self.nodes.iter().next() {
                Some((obstacle, refusing)) => {
                    write!(f, ", which {}", obstacle.said(true, refusing))
                }
                None => Ok(()),
            };
        }
        for (index, (obstacle, refusing)) in self.nodes.iter().enumerate() {
            let one = refusing.nodes == 1;
            let lead = if index == 0 { ": " } else { ", " };
            let nodes = match (index, one) {
                (0, true) => " node",
                (0, false) => " nodes",
                _ => "",
            };
            write!(
                f,
                "{lead}{}{nodes} {}",
                refusing.nodes,
                obstacle.said(one, refusing)
            )?;
        }
        if self.empty {
            f.write_str(": the cluster has none")?;
        }
        Ok(())
    }
}

impl Reasons {
    /// As its pipeline explains itself: most nodes first.
    fn in_swarms_words(&self) -> Vec<String> {
        let mut groups = [0, 0, 0, 0];
        for (obstacle, refusing) in &self.nodes {
            let group = match obstacle {
                Obstacle::Gone | Obstacle::Down | Obstacle::Drained | Obstacle::Paused => 0,
                Obstacle::Lacks(_) => 1,
                Obstacle::Constraint(_) => 2,
                Obstacle::Device(_) => 3,
            };
            groups[group] += refusing.nodes;
        }
        let mut groups: Vec<(usize, u32)> = groups
            .into_iter()
            .enumerate()
            .filter(|(_, nodes)| *nodes > 0)
            .collect();
        groups.sort_by_key(|(_, nodes)| std::cmp::Reverse(*nodes));
        let said = |(group, nodes): (usize, u32)| {
            let nodes = if nodes == 1 {
                "1 node".to_owned()
            } else {
                format!("{nodes} nodes")
            };
            match group {
                0 => format!("{nodes} not available for new tasks"),
                1 => format!("insufficient resources on {nodes}"),
                2 => format!("scheduling constraints not satisfied on {nodes}"),
                _ => format!("devices missing on {nodes}"),
            }
        };
        groups.into_iter().map(said).collect()
    }
}

impl Obstacle {
    fn said(&self, one: bool, refusing: &Refusing) -> String {
        let verb = |singular: &'static str, plural| if one { singular } else { plural };
        match self {
            Self::Gone => verb(
                "is no longer in the cluster",
                "are no longer in the cluster",
            )
            .to_owned(),
            Self::Down => verb("is down", "are down").to_owned(),
            Self::Drained => verb("is drained", "are drained").to_owned(),
            Self::Paused => verb("is paused", "are paused").to_owned(),
            Self::Constraint(constraint) => {
                format!("{} match {constraint}", verb("doesn't", "don't"))
            }
            Self::Device(device) => format!("{} no {device}", verb("has", "have")),
            Self::Lacks(resource) => {
                let at = match one {
                    true => String::new(),
                    false => format!(" on {}", refusing.at),
                };
                format!(
                    "{} {} (it wants {}, the largest gap is {}{at})",
                    verb("lacks", "lack"),
                    resource.name(),
                    resource.shown(refusing.wanted),
                    resource.shown(refusing.gap),
                )
            }
        }
    }
}
