//! Commands into outcomes: the state machine itself. One function per command; each checks everything before it changes anything,
//! so that a refusal leaves the state as it was.

mod containers;
mod images;

use super::{Command, Event, Outcome, Refusal, State};

/// What a command came to.
#[derive(Debug, Clone, PartialEq)]
pub struct Applied {
    /// What the proposer is told.
    pub result: Result<Outcome, Refusal>,
    /// What everybody else is told, in order.
    pub events: Vec<Event>,
}

/// What every command gives.
type Result<T = Outcome, E = Refusal> = std::result::Result<T, E>;

impl State {
    /// Carry out a command. Deterministic: the same commands in the same order give the same state and events everywhere.
    pub fn apply(&mut self, command: &Command) -> Applied {
        self.revision += 1;
        let mut events = Vec::new();
        let result = self.carry_out(command, &mut events);
        for event in &mut events {
            event.revision = self.revision;
        }
        Applied { result, events }
    }

    fn carry_out(&mut self, command: &Command, events: &mut Vec<Event>) -> Result {
        match command {
            Command::Create(container) => self.create(container, events),
            Command::Start { id, by_policy, .. } => self.start(id, *by_policy),
            Command::Started { id, at_ns, pid } => self.started(id, *at_ns, *pid, events),
            Command::StartFailed {
                id,
                at_ns,
                error,
                code,
            } => self.start_failed(id, *at_ns, error, *code, events),
            Command::Exited { id, at_ns, exit } => self.exited(id, *at_ns, *exit, events),
            Command::OutOfMemory { id, at_ns, kills } => {
                self.out_of_memory(id, *at_ns, *kills, events)
            }
            Command::Signalled {
                id,
                at_ns,
                signal,
                stop,
            } => self.signalled(id, *at_ns, *signal, *stop, events),
            Command::Rename { id, at_ns, name } => self.rename(id, *at_ns, name, events),
            Command::Remove { id, at_ns } => self.remove(id, *at_ns, events),
            Command::AddImage {
                tenant,
                at_ns,
                image,
                names,
                repo_digest,
                action,
            } => self.add_image(
                tenant,
                *at_ns,
                image,
                images::Arrival {
                    names,
                    repo_digest: repo_digest.as_deref(),
                    action,
                },
                events,
            ),
            Command::Untag {
                tenant,
                at_ns,
                name,
            } => self.untag(tenant, *at_ns, name, events),
            Command::RemoveImage {
                tenant,
                at_ns,
                image,
                force,
            } => self.remove_image(tenant, *at_ns, image, *force, events),
            Command::Happened {
                id,
                at_ns,
                action,
                attributes,
            } => self.happened(id, *at_ns, action, attributes, events),
        }
    }
}

#[cfg(test)]
mod tests;
