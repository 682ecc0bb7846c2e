//! What the state says of nodes and pods, in the scheduler's terms.

use std::net::IpAddr;
use std::sync::Arc;

use crate::scheduler::{
    AskedFor, Availability, Band, Bounds, Node, Platform, Priority, Resources, Role, Wants, Wishes,
};
use crate::state::{self, ContainerSpec, Phase, Placed, Tenant};

/// The label that pods are spread over where nothing is said ([`crate::scheduler::default_spread`]).
const ZONE: &str = "zone";
/// What Hearth's nodes run: the images that it takes are for nothing else.
const PLATFORM: (&str, &str) = ("linux", "amd64");
/// The highest priority there is, below which nothing but less may be evicted: nobody evicts what has it.
const HIGHEST: u16 = 450;

/// A node without its images.
pub(super) fn node(node: &state::Node) -> Node {
    let (wanted, is) = (&node.wanted, &node.is);
    let mut labels = wanted.labels.clone();
    // Where its owner has given it no zone, what the node says of itself counts.
    if let Some(zone) = is.labels.get(ZONE) {
        labels
            .entry(ZONE.to_owned())
            .or_insert_with(|| zone.clone());
    }
    Node {
        id: node.id,
        name: wanted.name.clone(),
        hostname: is.hostname.clone(),
        role: match wanted.role {
            state::Role::Manager => Role::Manager,
            state::Role::Worker => Role::Worker,
        },
        labels,
        engine_labels: is.labels.clone(),
        platform: Platform {
            os: PLATFORM.0.to_owned(),
            arch: PLATFORM.1.to_owned(),
        },
        capacity: Resources {
            memory_bytes: is.memory_bytes,
            nano_cpus: is.cpus.saturating_mul(1_000_000_000),
            disk_bytes: is.disk_bytes,
        },
        availability: match wanted.availability {
            state::Availability::Active => Availability::Active,
            state::Availability::Pause => Availability::Pause,
            state::Availability::Drain => Availability::Drain,
        },
        alive: node.is_ready(),
        addresses: is
            .address
            .map(|address| -> IpAddr { address.ip() })
            .into_iter()
            .collect(),
        ..Node::default()
    }
}

/// What a container of a specification wants.
pub(super) fn wants_of(tenant: &Tenant, image: &str, spec: &ContainerSpec) -> Wants {
    // Labels that can't be followed are refused at creation; what was created before they meant anything has none.
    let wishes = Wishes::from_labels(&spec.labels).unwrap_or_default();
    let limit = |limit| Bounds {
        reservation: 0,
        limit,
    };
    let asked = AskedFor {
        memory: limit(spec.memory_bytes),
        processors: limit(spec.nano_cpus),
        disk: limit(spec.storage_bytes.unwrap_or(0)),
    };
    let counted = asked.counted(wishes.priority);
    Wants::new(tenant.clone(), Arc::from(image), wishes, counted)
}

/// What the containers of a pod want together; a pod has one at least.
fn wants_of_all(containers: &[Placed]) -> Option<Wants> {
    let mut all = containers
        .iter()
        .map(|it| wants_of(&it.tenant, &it.image, &it.spec));
    let mut wants = all.next()?;
    for more in all {
        wants.resources = wants.resources.plus(more.resources);
        wants.priority = wants.priority.max(more.priority);
        wants.constraints.extend(more.constraints);
    }
    wants.constraints.sort();
    wants.constraints.dedup();
    Some(wants)
}

/// It has ended, and nobody wants more of it.
fn is_over(containers: &[Placed]) -> bool {
    containers
        .iter()
        .all(|it| it.phase() == Phase::Exited && !it.wanted.up)
}

/// What a pod asks for that needs a node. One that has ended gets what is free; nobody goes for its sake.
pub(super) fn asks(containers: &[Placed]) -> Option<Wants> {
    let mut wants = wants_of_all(containers)?;
    if is_over(containers) {
        wants.priority = Band::BestEffort.floor();
    }
    Some(wants)
}

/// What is counted for a pod on the node that has it. One that has ended counts for its layer alone, and begins again where that is,
/// whether there is room or not: as on one machine. It is evicted for nobody, since that would give back nothing, and neither is one that
/// is to stay with its node.
pub(super) fn holds(containers: &[Placed]) -> Option<Wants> {
    let mut wants = wants_of_all(containers)?;
    let over = is_over(containers);
    if over {
        wants.resources = Resources {
            disk_bytes: wants.resources.disk_bytes,
            ..Resources::default()
        };
    }
    let stays = || containers.iter().any(|it| stays(&it.spec));
    if over || stays() {
        wants.priority = Priority::try_from(HIGHEST).unwrap_or(wants.priority);
    }
    Some(wants)
}

fn stays(spec: &ContainerSpec) -> bool {
    Wishes::from_labels(&spec.labels).is_ok_and(|wishes| wishes.stays)
}
