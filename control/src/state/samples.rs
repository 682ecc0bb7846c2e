//! What tests begin with.

use super::*;

impl Container {
    /// One that was never started, of a tenant `acme`; its pod is [`Pod::sample`]'s of the same number.
    pub fn sample(number: u8) -> Self {
        let id = ContainerId::from_random([number; 32]);
        Self {
            id,
            tenant: "acme".parse().unwrap(),
            name: format!("name-{number}").parse().unwrap(),
            pod: id.into(),
            created_ns: 0,
            image: format!("sha256:{}", "ab".repeat(32)),
            image_name: "busybox".to_owned(),
            spec: ContainerSpec::default(),
            wanted: Wanted::default(),
            status: Status::default(),
            layer: None,
            version: 0,
        }
    }

    /// As if its node had told that it runs.
    pub fn running(mut self) -> Self {
        self.wanted.up = true;
        self.wanted.start += 1;
        self.status.phase = Phase::Running;
        self.status.run = Run {
            epoch: 1,
            number: 1,
            start: self.wanted.start,
        };
        self
    }
}

impl Pod {
    /// Of [`Container::sample`]'s container, on node 1.
    pub fn sample(number: u8) -> Self {
        let container = ContainerId::from_random([number; 32]);
        Self {
            id: container.into(),
            tenant: "acme".parse().unwrap(),
            containers: vec![container],
            address: Some([10, 88, 0, number + 1].into()),
            ports: Vec::new(),
            node: Some(NodeId(1)),
            epoch: 1,
            previous: None,
            pending: String::new(),
            version: 0,
        }
    }
}

impl Placed {
    /// A container in its pod.
    pub fn sample(number: u8) -> Self {
        Self {
            container: Container::sample(number).into(),
            pod: Pod::sample(number).into(),
        }
    }
}

impl Node {
    /// One that is there, as new nodes are.
    pub fn sample(number: u64) -> Self {
        Self {
            id: NodeId(number),
            joined_ns: 0,
            wanted: NodeWanted::default(),
            is: NodeIs::default(),
            health: Health::Ready,
            tenure: 0,
            version: 0,
        }
    }
}
