//! What tenants may have, asked at creation.

use super::node::*;
use crate::controller::{Error, Quotas};
use crate::scheduler::{Band, Quota};
use crate::state::{Command, ContainerId, ContainerSpec, Stored, Telling, Tenant};

async fn asks(node: &Node, tenant: &str, spec: ContainerSpec) -> Result<ContainerId, String> {
    let tenant: Tenant = tenant.parse().unwrap();
    let created = node
        .controller
        .create(&tenant, None, IMAGE, "busybox", spec);
    created.await.map_err(|error| {
        assert!(matches!(error, Error::Quota(_)), "{error}");
        error.to_string()
    })
}

fn spec(memory_gib: u64, cpus: u64) -> ContainerSpec {
    ContainerSpec {
        memory_bytes: memory_gib << 30,
        nano_cpus: cpus * 1_000_000_000,
        ..ContainerSpec::default()
    }
}

fn of_priority(priority: &str) -> ContainerSpec {
    ContainerSpec {
        labels: [("hearth.priority".to_owned(), priority.to_owned())].into(),
        ..spec(1, 1)
    }
}

/// A node whose tenant `acme` has bounds.
async fn bounded(dir: &std::path::Path) -> Node {
    let node = node(dir).await;
    for tenant in ["acme", "other"] {
        let image = Command::AddImage {
            tenant: tenant.parse().unwrap(),
            at_ns: 0,
            image: IMAGE.into(),
            names: Vec::new(),
            repo_digest: None,
            telling: Telling::Load,
            stored: Stored::default(),
        };
        node.controller.propose(image).await.unwrap();
    }
    let quota = Quota {
        memory_bytes: Some(8 << 30),
        nano_cpus: Some(4_000_000_000),
        disk_bytes: Some(50 << 30),
        pods: Some(4),
        highest: Some(Band::Batch),
    };
    let of = [("acme".parse().unwrap(), quota)].into();
    node.controller.bounded(Quotas::new(of, 10 << 30));
    node
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_tenant_is_told_what_it_has_too_much_of_and_may_have_it_once_something_is_gone() {
    let dir = tempfile::tempdir().unwrap();
    let node = bounded(dir.path()).await;
    // What says nothing of its priority has the highest that it may.
    let batch = spec;
    let first = asks(&node, "acme", batch(6, 1)).await.unwrap();
    let labels = node
        .controller
        .state()
        .containers
        .get(&first)
        .map(|it| it.spec.labels.clone());
    assert_eq!(labels, Some(of_priority("batch").labels));
    let refused = asks(&node, "acme", batch(3, 1)).await.unwrap_err();
    let words = "memory quota exceeded: tenant acme has 6 GiB of at most 8 GiB, and this asks for 3 GiB more";
    assert!(refused.starts_with(words), "{refused}");
    let refused = asks(&node, "acme", batch(1, 4)).await.unwrap_err();
    assert!(
        refused.starts_with("processors quota exceeded"),
        "{refused}"
    );
    let large = ContainerSpec {
        storage_bytes: Some(41 << 30),
        ..batch(1, 1)
    };
    let refused = asks(&node, "acme", large).await.unwrap_err();
    assert!(
        refused.starts_with("disk space quota exceeded"),
        "{refused}"
    );
    for (unbounded, option) in [(batch(0, 1), "--memory"), (batch(1, 0), "--cpus")] {
        let refused = asks(&node, "acme", unbounded).await.unwrap_err();
        assert!(refused.contains(option), "{refused}");
    }
    let refused = asks(&node, "acme", of_priority("production"))
        .await
        .unwrap_err();
    assert!(refused.contains("whose highest is batch"), "{refused}");
    // Nobody else has less for it.
    for _ in 0..6 {
        asks(&node, "other", spec(0, 0)).await.unwrap();
    }
    assert!(
        asks(&node, "other", of_priority("monitoring"))
            .await
            .is_err()
    );
    node.controller.remove(&first, false).await.unwrap();
    asks(&node, "acme", batch(8, 4)).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_many_that_are_asked_for_at_once_no_more_come_than_may() {
    let dir = tempfile::tempdir().unwrap();
    let node = std::sync::Arc::new(bounded(dir.path()).await);
    let asked = (0..20).map(|_| {
        let node = std::sync::Arc::clone(&node);
        tokio::spawn(async move { asks(&node, "acme", of_priority("batch")).await.is_ok() })
    });
    let mut created = 0;
    for asked in asked.collect::<Vec<_>>() {
        created += usize::from(asked.await.unwrap());
    }
    assert_eq!(created, 4);
}
