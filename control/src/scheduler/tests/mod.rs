//! What placement must keep to, whatever the cluster looks like.

mod properties;
mod reference;
mod rules;

use std::sync::Arc;

use super::{
    Availability, Band, Cluster, Label, Node, Priority, Request, Resources, Wants, Wishes, class,
    default_spread,
};
use crate::state::{NodeId, PodId};

const GIB: u64 = 1 << 30;

fn gib(memory: u64) -> Resources {
    Resources {
        memory_bytes: memory * GIB,
        nano_cpus: 100_000_000,
        disk_bytes: GIB / 8,
    }
}

/// A node of 16 GiB in a zone.
fn node(id: u64, zone: &str) -> Node {
    Node {
        id: NodeId(id),
        name: format!("hearth-{id}"),
        labels: [("zone".to_owned(), zone.to_owned())].into(),
        capacity: Resources {
            memory_bytes: 16 * GIB,
            nano_cpus: 16_000_000_000,
            disk_bytes: 64 * GIB,
        },
        alive: true,
        ..Node::default()
    }
}

fn pod(number: u64) -> PodId {
    let mut bytes = [0; 32];
    bytes[..8].copy_from_slice(&number.to_le_bytes());
    PodId::from_random(bytes)
}

fn wants(tenant: &str, service: &str, priority: &str, resources: Resources) -> Wants {
    let wishes = Wishes {
        priority: priority.parse().unwrap(),
        service: Some(service.into()),
        ..Wishes::default()
    };
    Wants::new(
        tenant.parse().unwrap(),
        "sha256:00".into(),
        wishes,
        resources,
    )
}

fn request(number: u64, wants: &Wants) -> Request {
    Request::new(pod(number), Arc::new(wants.clone()))
}

fn cluster(nodes: impl IntoIterator<Item = Node>) -> Cluster {
    let mut cluster = Cluster::default();
    nodes.into_iter().for_each(|node| cluster.set_node(node));
    cluster
}
