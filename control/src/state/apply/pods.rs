//! Where pods are.

use super::{Changes, Result};
use crate::state::{
    Container, ContainerId, ContainerName, Exit, NetworkMode, NodeId, Outcome, Phase, Pod, PodId,
    Refusal, RestartPolicy, State, Status, Wanted, What,
};

/// docker's code for a process that SIGKILL has ended, which is what the loss of its machine comes to.
const LOST: Exit = Exit {
    code: 137,
    oom_killed: false,
};

impl State {
    pub(super) fn assign(
        &mut self,
        id: &PodId,
        epoch: u64,
        node: Option<NodeId>,
        pending: &str,
        kept: &[ContainerId],
        changes: &mut Changes,
    ) -> Result {
        let pod = self.pods.get(id).ok_or(Refusal::OutOfSequence)?;
        if pod.epoch != epoch || node.is_some_and(|node| !self.nodes.contains_key(&node)) {
            return Err(Refusal::OutOfSequence);
        }
        let had = pod.node;
        if had == node {
            if pod.pending == pending {
                return Ok(Outcome::Unchanged);
            }
            let containers = pod.containers.clone();
            if let Some(mut pod) = self.pods.change(id, self.revision) {
                pending.clone_into(&mut pod.pending);
            }
            // Whoever waits for its start wants to know.
            for id in containers {
                if let Some(container) = self.containers.get(&id) {
                    changes.of(container, What::Wanted);
                }
            }
            return Ok(Outcome::Done);
        }
        let containers = pod.containers.clone();
        if let Some(node) = had {
            for (container, kept) in containers.iter().zip(kept) {
                self.keep_layer(container, *kept, node, changes);
            }
        }
        if node.is_none() {
            // It goes for another's sake, not its own: that it is to begin again is no matter of its policy.
            for id in &containers {
                self.change(id, |container| {
                    let runs = container.status.phase == Phase::Running;
                    let wanted = &mut container.wanted;
                    wanted.start +=
                        u64::from(wanted.up && runs && wanted.start == container.status.run.start);
                })?;
            }
        }
        self.let_go(id, changes)?;
        if let Some(mut pod) = self.pods.change(id, self.revision) {
            pod.node = node;
            pending.clone_into(&mut pod.pending);
            pod.epoch += u64::from(node.is_some());
        }
        for id in containers {
            // Some go with their end.
            if self.containers.get(&id).is_some() {
                // What it had written stays where it was.
                let container = self.change(&id, |container| container.layer = None)?;
                changes.of(&container, What::Moved);
            }
        }
        Ok(Outcome::Done)
    }

    /// The node that has a pod is to have it no more. Where it still may run something, it has to say first that it has let go.
    pub(super) fn let_go(&mut self, id: &PodId, changes: &mut Changes) -> Result<(), Refusal> {
        let Some(pod) = self.pods.get(id) else {
            return Ok(());
        };
        let Some(holder) = pod.held() else {
            return Ok(());
        };
        let fenced = !self.is_ready(holder);
        let containers = pod.containers.clone();
        if let Some(mut pod) = self.pods.change(id, self.revision) {
            pod.previous = (!fenced).then_some(holder);
        }
        if fenced {
            for id in containers {
                self.lose(&id, changes)?;
            }
        }
        Ok(())
    }

    /// As [`Self::lose`], for all of a pod's; tells `what` of those that are still there.
    pub(super) fn lose_all(
        &mut self,
        containers: &[ContainerId],
        what: What,
        changes: &mut Changes,
    ) -> Result<(), Refusal> {
        for id in containers {
            self.lose(id, changes)?;
            if let Some(container) = self.containers.get(id) {
                changes.of(container, what.clone());
            }
        }
        Ok(())
    }

    /// What ran has ended with its node, and what booted there to be ended will never run.
    fn lose(&mut self, id: &ContainerId, changes: &mut Changes) -> Result<(), Refusal> {
        let container = self.container(id)?;
        match container.phase() {
            Phase::Running => self.end(id, container.status.run, LOST, None, changes),
            Phase::Starting if !container.wanted.up => self.call_off(id, changes),
            _ => Ok(()),
        }
    }

    /// What a container has written on the node that it leaves stays there, as a container of its own that doesn't run.
    fn keep_layer(
        &mut self,
        of: &ContainerId,
        as_id: ContainerId,
        node: NodeId,
        changes: &mut Changes,
    ) {
        let Ok(container) = self.container(of) else {
            return;
        };
        let Some(epoch) = self.pods.get(&container.pod).map(|pod| pod.epoch) else {
            return;
        };
        let has_written = container.status.run.epoch == epoch || container.layer.is_some();
        if !has_written || self.containers.get(&as_id).is_some() {
            return;
        }
        let mut spec = container.spec.clone();
        spec.restart = RestartPolicy::No;
        spec.auto_remove = false;
        spec.ports.clear();
        spec.publish_all = false;
        let status = Status {
            phase: Phase::Exited,
            pid: 0,
            run: Default::default(),
            exit: match container.status.phase {
                Phase::Running => LOST,
                _ => container.status.exit,
            },
            finished_ns: match container.status.phase {
                Phase::Running => changes.at_ns,
                _ => container.status.finished_ns,
            },
            ..container.status.clone()
        };
        let kept = Container {
            id: as_id,
            name: self.name_for_kept(container, node),
            pod: as_id.into(),
            layer: Some(container.layer_in(epoch)),
            spec,
            status,
            wanted: Wanted::default(),
            version: self.revision,
            ..Container::clone(container)
        };
        let pod = Pod {
            id: kept.pod,
            tenant: kept.tenant.clone(),
            containers: vec![as_id],
            address: match kept.spec.network_mode {
                NetworkMode::None => None,
                // Where none is free it has none: it is kept to be read.
                NetworkMode::Default | NetworkMode::Bridge => self.pods.gaps().lowest(),
            },
            ports: Vec::new(),
            node: Some(node),
            epoch: 1,
            previous: None,
            pending: String::new(),
            version: self.revision,
        };
        self.pods.insert(pod);
        self.containers.insert(kept);
        if let Some(kept) = self.containers.get(&as_id) {
            changes.of(kept, What::Created);
        }
    }

    /// `NAME.NODE`, or the first that is free of `NAME.NODE.2` and so on.
    fn name_for_kept(&self, container: &Container, node: NodeId) -> ContainerName {
        let host = self.nodes.get(&node).map(|node| node.is.hostname.as_str());
        let host = host
            .filter(|host| !host.is_empty())
            .map_or_else(|| node.to_string(), str::to_owned);
        let names = (1u64..).map(|n| match n {
            1 => format!("{}.{host}", container.name),
            n => format!("{}.{host}.{n}", container.name),
        });
        let free = |name: &ContainerName| self.containers.named(&container.tenant, name).is_none();
        let whole = names
            .take(FEW)
            .filter_map(|name| name.parse().ok())
            .find(|name| free(name));
        // A name as long as one can be has no room for more.
        let numbered = || (self.revision..).map(|at| format!("{}.{at}", container.id));
        whole
            .or_else(|| {
                numbered()
                    .filter_map(|name| name.parse().ok())
                    .find(|name| free(name))
            })
            .expect("64 digits, a dot and a number are a name, and a tenant has fewer than there are numbers")
    }
}

/// Layers of one container that are kept from one node, under names that tell which.
const FEW: usize = 100;
