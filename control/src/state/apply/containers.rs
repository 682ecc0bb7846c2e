//! The life of containers.

use std::collections::BTreeMap;

use super::Result;
use crate::state::containers::spec_bytes;
use crate::state::{
    Action, Change, Container, ContainerId, ContainerName, Event, Exit, GOOD_RUN_NS, NetworkMode,
    Outcome, Phase, Refusal, Signal, State, ports,
};

/// Containers of one tenant, stopped ones included. The state is held in memory, and what a tenant sets must not fill it; nor may it take
/// more than a sixteenth of the pods' addresses.
const MAX_CONTAINERS: u64 = 4096;

/// Bytes of their specs (words, variables, labels), for the same reason: 16 KiB for each, or one with as much as a request may have.
const MAX_SPEC_BYTES: u64 = 64 << 20;

/// Nanoseconds in a second.
const SECOND_NS: u64 = 1_000_000_000;

impl State {
    fn container(&self, id: &ContainerId) -> Result<&Container> {
        self.containers
            .get(id)
            .ok_or_else(|| Refusal::NoSuchContainer(id.to_string()))
    }

    fn container_mut(&mut self, id: &ContainerId) -> Result<Change<'_>> {
        self.containers
            .change(id)
            .ok_or_else(|| Refusal::NoSuchContainer(id.to_string()))
    }

    fn name_is_free(&self, of: &Container, name: &ContainerName) -> Result<()> {
        let holder = self.containers.named(&of.tenant, name);
        match holder.filter(|holder| holder.id != of.id) {
            Some(holder) => Err(Refusal::NameInUse {
                name: name.to_string(),
                by: holder.id.to_string(),
            }),
            None => Ok(()),
        }
    }

    fn check_room_for(&self, wanted: &Container) -> Result<()> {
        let usage = self.containers.usage(&wanted.tenant);
        let too_many = |what: &str, limit: u64| Refusal::TooMany {
            what: what.to_owned(),
            limit: u32::try_from(limit).unwrap_or(u32::MAX),
        };
        if usage.containers >= MAX_CONTAINERS {
            return Err(too_many("containers", MAX_CONTAINERS));
        }
        if usage.bytes + spec_bytes(wanted) > MAX_SPEC_BYTES {
            return Err(too_many(
                "MiB of words, variables and labels of containers",
                MAX_SPEC_BYTES >> 20,
            ));
        }
        Ok(())
    }

    pub(super) fn create(&mut self, wanted: &Container, events: &mut Vec<Event>) -> Result {
        if self.containers.get(&wanted.id).is_some() {
            return Ok(Outcome::Unchanged);
        }
        self.name_is_free(wanted, &wanted.name)?;
        self.check_room_for(wanted)?;
        if !self
            .images
            .contains_key(&(wanted.tenant.clone(), wanted.image.clone()))
        {
            return Err(Refusal::NoSuchImage(wanted.image_name.clone()));
        }
        let mut container = wanted.clone();
        container.address = match container.spec.network_mode {
            NetworkMode::None => None,
            NetworkMode::Default | NetworkMode::Bridge => Some(
                self.containers
                    .gaps()
                    .lowest()
                    .ok_or(Refusal::NoFreeAddress)?,
            ),
        };
        container.status = super::super::Status::default();
        events.push(Event::of_container(
            &container,
            Action::Create,
            container.created_ns,
        ));
        self.containers.insert(container);
        Ok(Outcome::Done)
    }

    pub(super) fn start(&mut self, id: &ContainerId, by_policy: bool) -> Result {
        let container = self.container(id)?;
        // Between the policy's decision and this entry of the log a user may have started or stopped it.
        if container.is_up() || (by_policy && container.status.stopped_by_user) {
            return Ok(Outcome::Unchanged);
        }
        let ports = ports::assign(self, container)?;
        let mut container = self.container_mut(id)?;
        let status = &mut container.status;
        status.restarts = if by_policy {
            status.restarts.saturating_add(1)
        } else {
            0
        };
        if !by_policy {
            status.short_runs = 0;
        }
        status.phase = Phase::Starting;
        status.stopped_by_user = false;
        status.error.clear();
        status.exit.oom_killed = false;
        status.oom_kills = 0;
        status.ports.clone_from(&ports);
        Ok(Outcome::Starting { ports })
    }

    pub(super) fn started(
        &mut self,
        id: &ContainerId,
        at_ns: u64,
        pid: u32,
        events: &mut Vec<Event>,
    ) -> Result {
        let mut container = self.container_mut(id)?;
        if container.status.phase != Phase::Starting {
            return Ok(Outcome::Unchanged);
        }
        container.status.phase = Phase::Running;
        container.status.started_ns = at_ns;
        container.status.pid = pid;
        events.push(Event::of_container(&container, Action::Start, at_ns));
        Ok(Outcome::Done)
    }

    pub(super) fn start_failed(
        &mut self,
        id: &ContainerId,
        at_ns: u64,
        error: &str,
        code: u8,
        events: &mut Vec<Event>,
    ) -> Result {
        let mut container = self.container_mut(id)?;
        if container.status.phase != Phase::Starting {
            return Ok(Outcome::Unchanged);
        }
        error.clone_into(&mut container.status.error);
        end(
            &mut container,
            at_ns,
            Exit {
                code,
                oom_killed: false,
            },
            events,
        );
        Ok(Outcome::Done)
    }

    pub(super) fn exited(
        &mut self,
        id: &ContainerId,
        at_ns: u64,
        exit: Exit,
        events: &mut Vec<Event>,
    ) -> Result {
        let mut container = self.container_mut(id)?;
        if !container.is_up() {
            return Ok(Outcome::Unchanged);
        }
        // Where each was told as it happened, this is nothing new.
        if exit.oom_killed && !container.status.exit.oom_killed {
            events.push(Event::of_container(&container, Action::Oom, at_ns));
        }
        end(&mut container, at_ns, exit, events);
        Ok(Outcome::Done)
    }

    pub(super) fn out_of_memory(
        &mut self,
        id: &ContainerId,
        at_ns: u64,
        kills: u64,
        events: &mut Vec<Event>,
    ) -> Result {
        let mut container = self.container_mut(id)?;
        if !container.is_up() || kills <= container.status.oom_kills {
            return Ok(Outcome::Unchanged);
        }
        container.status.oom_kills = kills;
        container.status.exit.oom_killed = true;
        events.push(Event::of_container(&container, Action::Oom, at_ns));
        Ok(Outcome::Done)
    }

    pub(super) fn signalled(
        &mut self,
        id: &ContainerId,
        at_ns: u64,
        signal: Signal,
        stop: bool,
        events: &mut Vec<Event>,
    ) -> Result {
        let mut container = self.container_mut(id)?;
        if !container.is_up() {
            // While a restart policy waits for its next try there is nothing to signal, and after a stop nothing to start again.
            return match (container.awaits_restart(), stop) {
                (true, true) => {
                    container.status.stopped_by_user = true;
                    Ok(Outcome::Done)
                }
                (true, false) | (false, true) => Ok(Outcome::Unchanged),
                (false, false) => Err(Refusal::NotRunning(id.to_string())),
            };
        }
        container.status.stopped_by_user |= stop;
        events.push(Event::of_container(&container, Action::Kill, at_ns).with("signal", signal));
        Ok(Outcome::Done)
    }

    pub(super) fn happened(
        &self,
        id: &ContainerId,
        at_ns: u64,
        action: &Action,
        attributes: &BTreeMap<String, String>,
        events: &mut Vec<Event>,
    ) -> Result {
        let mut event = Event::of_container(self.container(id)?, action.clone(), at_ns);
        event.attributes.extend(attributes.clone());
        events.push(event);
        Ok(Outcome::Done)
    }

    pub(super) fn rename(
        &mut self,
        id: &ContainerId,
        at_ns: u64,
        name: &ContainerName,
        events: &mut Vec<Event>,
    ) -> Result {
        let container = self.container(id)?;
        if container.name == *name {
            return Ok(Outcome::Unchanged);
        }
        self.name_is_free(container, name)?;
        let mut container = self.container_mut(id)?;
        let old = std::mem::replace(&mut container.name, name.clone());
        events.push(
            Event::of_container(&container, Action::Rename, at_ns)
                .with("oldName", format!("/{old}")),
        );
        Ok(Outcome::Done)
    }

    pub(super) fn remove(
        &mut self,
        id: &ContainerId,
        at_ns: u64,
        events: &mut Vec<Event>,
    ) -> Result {
        let container = self.container(id)?;
        if container.is_up() {
            return Err(Refusal::Running(id.to_string()));
        }
        events.push(Event::of_container(container, Action::Destroy, at_ns));
        self.containers.remove(id);
        Ok(Outcome::Done)
    }
}

fn end(container: &mut Container, at_ns: u64, exit: Exit, events: &mut Vec<Event>) {
    let status = &mut container.status;
    let ran_ns = match status.phase {
        Phase::Running => at_ns.saturating_sub(status.started_ns),
        _ => 0,
    };
    status.short_runs = if ran_ns < GOOD_RUN_NS {
        status.short_runs.saturating_add(1)
    } else {
        0
    };
    status.phase = Phase::Exited;
    status.pid = 0;
    status.finished_ns = at_ns;
    // A microVM that was lost may have told before.
    status.exit = Exit {
        oom_killed: exit.oom_killed || status.oom_kills > 0,
        ..exit
    };
    status.ports.clear();
    events.push(
        Event::of_container(container, Action::Die, at_ns)
            .with("exitCode", exit.code)
            .with("execDuration", ran_ns / SECOND_NS),
    );
}
