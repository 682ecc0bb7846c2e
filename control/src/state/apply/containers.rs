//! What users want of containers.

use std::sync::Arc;

use super::{Changes, Result};
use crate::state::containers::spec_bytes;
use crate::state::{
    Container, ContainerId, ContainerName, NetworkMode, NewContainer, NodeId, Outcome, Phase, Pod,
    Refusal, Signal, State, Stop, What, ports,
};

/// Containers of one tenant, stopped ones included. The state is held in memory, and what a tenant sets must not fill it; nor may it take
/// more than a small part of the pods' addresses.
const MAX_CONTAINERS: u64 = 4096;
/// Bytes of their specs (words, variables, labels), for the same reason: 16 KiB for each, or one with as much as a request may have.
const MAX_SPEC_BYTES: u64 = 64 << 20;

impl State {
    pub(super) fn container(&self, id: &ContainerId) -> Result<&Arc<Container>> {
        self.containers
            .get(id)
            .ok_or_else(|| Refusal::NoSuchContainer(id.to_string()))
    }

    /// Changes one that is there, and tells what it has become.
    pub(super) fn change(
        &mut self,
        id: &ContainerId,
        change: impl FnOnce(&mut Container),
    ) -> Result<Arc<Container>> {
        let missing = || Refusal::NoSuchContainer(id.to_string());
        let mut guard = self
            .containers
            .change(id, self.revision)
            .ok_or_else(missing)?;
        change(&mut guard);
        drop(guard);
        self.container(id).cloned()
    }

    pub(super) fn name_is_free(
        &self,
        of: &ContainerId,
        tenant: &crate::state::Tenant,
        name: &ContainerName,
    ) -> Result<()> {
        let holder = self.containers.named(tenant, name);
        match holder.filter(|holder| holder.id != *of) {
            Some(holder) => Err(Refusal::NameInUse {
                name: name.to_string(),
                by: holder.id.to_string(),
            }),
            None => Ok(()),
        }
    }

    /// What the container counts, if there is room for it.
    fn check_room_for(&self, wanted: &Container) -> Result<u64> {
        let usage = self.containers.usage(&wanted.tenant);
        let too_many = |what: &str, limit: u64| Refusal::TooMany {
            what: what.to_owned(),
            limit: u32::try_from(limit).unwrap_or(u32::MAX),
        };
        if usage.containers >= MAX_CONTAINERS {
            return Err(too_many("containers", MAX_CONTAINERS));
        }
        let bytes = spec_bytes(wanted);
        if usage.bytes + bytes > MAX_SPEC_BYTES {
            return Err(too_many(
                "MiB of words, variables and labels of containers",
                MAX_SPEC_BYTES >> 20,
            ));
        }
        Ok(bytes)
    }

    pub(super) fn create(
        &mut self,
        wanted: &NewContainer,
        node: Option<NodeId>,
        pending: &str,
        changes: &mut Changes,
    ) -> Result {
        if self.containers.get(&wanted.id).is_some() {
            return Ok(Outcome::Unchanged);
        }
        self.name_is_free(&wanted.id, &wanted.tenant, &wanted.name)?;
        let container = Arc::new(wanted.made(changes.at_ns, self.revision));
        let bytes = self.check_room_for(&container)?;
        let image = (wanted.tenant.clone(), wanted.image.clone());
        if !self.images.contains_key(&image) {
            return Err(Refusal::NoSuchImage(wanted.image_name.clone()));
        }
        let address = match container.spec.network_mode {
            NetworkMode::None => None,
            NetworkMode::Default | NetworkMode::Bridge => {
                Some(self.pods.gaps().lowest().ok_or(Refusal::NoFreeAddress)?)
            }
        };
        // It may have gone since the scheduler looked.
        let node = node.filter(|node| self.nodes.contains_key(node));
        self.pods.insert(Pod {
            id: container.pod,
            tenant: container.tenant.clone(),
            containers: vec![container.id],
            address,
            ports: Vec::new(),
            node,
            epoch: u64::from(node.is_some()),
            previous: None,
            pending: pending.to_owned(),
            version: self.revision,
        });
        self.containers
            .insert_counted(Arc::clone(&container), bytes);
        changes.of(&container, What::Created);
        Ok(Outcome::Done)
    }

    pub(super) fn start(&mut self, id: &ContainerId, changes: &mut Changes) -> Result {
        let container = self.container(id)?;
        if container.is_up() {
            return Ok(Outcome::Unchanged);
        }
        self.begin(id, false, None, changes)
    }

    /// A start that a user asks for: another one than all before.
    fn begin(
        &mut self,
        id: &ContainerId,
        restart: bool,
        stop: Option<Stop>,
        changes: &mut Changes,
    ) -> Result {
        let container = self.container(id)?;
        if container.wanted.removed {
            return Err(Refusal::BeingRemoved(id.to_string()));
        }
        let pod = container.pod;
        let of_pod = self.pods.get(&pod).map(|pod| pod.ports.clone());
        let ports = match of_pod {
            // They are kept over a restart, and between the runs of a policy.
            Some(ports) if !ports.is_empty() => ports,
            _ => ports::assign(&self.pods, container)?,
        };
        let container = self.change(id, |container| {
            let wanted = &mut container.wanted;
            wanted.up = true;
            wanted.start += 1;
            wanted.restart = restart;
            wanted.stop = stop;
            wanted.paused = false;
        })?;
        if let Some(mut pod) = self.pods.change(&pod, self.revision) {
            pod.ports.clone_from(&ports);
            if pod.node.is_none() {
                // Whoever waits for the start is to hear what is found for it, not what was found before.
                pod.pending.clear();
            }
        }
        changes.of(&container, What::Wanted);
        Ok(Outcome::Starting {
            start: container.wanted.start,
            ports,
        })
    }

    pub(super) fn stop(
        &mut self,
        id: &ContainerId,
        signal: Signal,
        timeout_s: Option<u64>,
        tell: bool,
        changes: &mut Changes,
    ) -> Result {
        let container = self.container(id)?;
        let (up, waits) = (container.is_up(), container.awaits_restart());
        if !up && !waits {
            return match tell {
                true => Ok(Outcome::Unchanged),
                false => Err(Refusal::NotRunning(id.to_string())),
            };
        }
        let stop = Stop {
            signal,
            timeout_s,
            revision: self.revision,
            tell,
        };
        let container = self.change(id, |container| {
            container.wanted.up = false;
            container.wanted.paused = false;
            container.wanted.stop = up.then(|| match container.wanted.stop {
                // What is being killed stays so.
                Some(kill) if kill.signal == Signal::KILL => Stop {
                    tell: tell || kill.tell,
                    ..kill
                },
                _ => stop,
            });
        })?;
        let what = match (up, tell) {
            (true, _) => What::Signalled(signal),
            (false, true) => What::Stopped,
            (false, false) => What::Wanted,
        };
        changes.of(&container, what);
        if container.phase() == Phase::Starting && !self.may_run(&container) {
            self.call_off(id, changes)?;
        } else {
            self.settle(&container);
            self.go_if_over(&container, changes);
        }
        Ok(Outcome::Done)
    }

    /// Some node may run it, or be about to.
    fn may_run(&self, container: &Container) -> bool {
        let pod = self.pods.get(&container.pod);
        let holder = pod.and_then(|pod| pod.held());
        holder.is_some_and(|node| self.is_ready(node))
    }

    /// A start comes to nothing: it is to end, and nothing of it runs.
    pub(super) fn call_off(&mut self, id: &ContainerId, changes: &mut Changes) -> Result<()> {
        let mut tell = false;
        let container = self.change(id, |container| {
            tell = container.wanted.stop.take().is_some_and(|stop| stop.tell);
        })?;
        self.settle(&container);
        let what = if tell { What::Stopped } else { What::Wanted };
        changes.of(&container, what);
        self.go_if_over(&container, changes);
        Ok(())
    }

    /// One that is to go with its end goes, once that has come. One that has never run stays, as docker has it.
    pub(super) fn go_if_over(&mut self, container: &Container, changes: &mut Changes) {
        let over = !container.wanted.up && container.phase() == Phase::Exited;
        if over && (container.wanted.removed || container.spec.auto_remove) {
            self.take_away(&container.id, changes);
        }
    }

    pub(super) fn restart(
        &mut self,
        id: &ContainerId,
        signal: Signal,
        timeout_s: Option<u64>,
        changes: &mut Changes,
    ) -> Result {
        let container = self.container(id)?;
        let runs = container.status.phase == Phase::Running;
        let stop = container.is_up().then_some(Stop {
            signal,
            timeout_s,
            revision: self.revision,
            tell: true,
        });
        let outcome = self.begin(id, true, stop, changes)?;
        if runs {
            let container = self.container(id)?;
            changes.of(container, What::Signalled(signal));
        }
        Ok(outcome)
    }

    pub(super) fn signalled(
        &mut self,
        id: &ContainerId,
        signal: Signal,
        end: bool,
        changes: &mut Changes,
    ) -> Result {
        let container = self.container(id)?;
        if !container.is_up() {
            // While a restart policy waits for its next try there is nothing to signal, and after a stop nothing to start again.
            return match (container.awaits_restart(), end) {
                (true, true) => {
                    self.stop(id, signal, None, false, changes)?;
                    Ok(Outcome::Unchanged)
                }
                (true, false) => Ok(Outcome::Unchanged),
                (false, _) => Err(Refusal::NotRunning(id.to_string())),
            };
        }
        if end && container.phase() == Phase::Starting {
            // It is for what boots, if anything does: only its node knows.
            self.stop(id, signal, None, false, changes)?;
            return Ok(Outcome::Unchanged);
        }
        // What ends may be to begin again: that start stands.
        let is_last = container.wanted.start == container.status.run.start;
        let (ends, goes_on) = (end && is_last, container.wanted.paused);
        let container = match ends || goes_on {
            // As docker: what stands still goes on, to hear it.
            true => self.change(id, |container| {
                container.wanted.up &= !ends;
                container.wanted.paused = false;
            })?,
            false => Arc::clone(container),
        };
        changes.of(&container, What::Signalled(signal));
        Ok(Outcome::Done)
    }

    pub(super) fn pause(
        &mut self,
        id: &ContainerId,
        paused: bool,
        changes: &mut Changes,
    ) -> Result {
        let container = self.container(id)?;
        if container.status.phase != Phase::Running {
            return Err(Refusal::NotRunning(id.to_string()));
        }
        if container.wanted.paused == paused {
            return Err(match paused {
                true => Refusal::Paused(id.to_string()),
                false => Refusal::NotPaused(id.to_string()),
            });
        }
        let container = self.change(id, |container| container.wanted.paused = paused)?;
        changes.of(&container, What::Wanted);
        Ok(Outcome::Done)
    }

    pub(super) fn rename(
        &mut self,
        id: &ContainerId,
        name: &ContainerName,
        changes: &mut Changes,
    ) -> Result {
        let container = self.container(id)?;
        if container.name == *name {
            return Ok(Outcome::Unchanged);
        }
        let from = container.name.clone();
        self.name_is_free(id, &container.tenant, name)?;
        let container = self.change(id, |container| container.name = name.clone())?;
        changes.of(&container, What::Renamed { from });
        Ok(Outcome::Done)
    }

    pub(super) fn remove(
        &mut self,
        id: &ContainerId,
        force: bool,
        changes: &mut Changes,
    ) -> Result {
        let container = self.container(id)?;
        let runs = container.status.phase == Phase::Running;
        if !force && (container.is_up() || container.awaits_restart()) {
            return Err(Refusal::Running(id.to_string()));
        }
        let node = self.pods.get(&container.pod).and_then(|pod| pod.node);
        let reachable = node.is_some_and(|node| self.is_ready(node));
        if runs && reachable {
            // It goes with its end.
            let revision = self.revision;
            let container = self.change(id, |container| {
                container.wanted.up = false;
                container.wanted.removed = true;
                container.wanted.stop = Some(Stop {
                    signal: Signal::KILL,
                    timeout_s: None,
                    revision,
                    tell: false,
                });
            })?;
            changes.of(&container, What::Signalled(Signal::KILL));
            return Ok(Outcome::Done);
        }
        self.take_away(id, changes);
        Ok(Outcome::Done)
    }

    /// It is gone, and its pod with it if that was the last in it.
    pub(super) fn take_away(&mut self, id: &ContainerId, changes: &mut Changes) {
        let Some(container) = self.containers.remove(id) else {
            return;
        };
        let mut empty = false;
        if let Some(mut pod) = self.pods.change(&container.pod, self.revision) {
            pod.containers.retain(|other| other != id);
            empty = pod.containers.is_empty();
        }
        if empty {
            self.pods.remove(&container.pod);
        }
        self.forget_bytes(&container.image);
        changes.of(&container, What::Removed);
    }

    /// Its pod holds no ports where nothing in it is wanted or runs any more.
    pub(super) fn settle(&mut self, container: &Container) {
        let needed = self
            .in_pod(&container.pod)
            .iter()
            .any(|placed| placed.wanted.up || placed.is_up());
        if !needed
            && let Some(mut pod) = self.pods.change(&container.pod, self.revision)
            && !pod.ports.is_empty()
        {
            pod.ports.clear();
        }
    }
}
